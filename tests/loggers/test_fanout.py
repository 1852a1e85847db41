import logging

import pytest

from deephash.loggers import Jsonl, Logger, Loggers


class Keeps(Logger):
    def __init__(self):
        self.heard = []

    def scalars(self, where, values, step, epoch):
        self.heard.append((where, dict(values), step, epoch))

    def close(self, failed=False):
        self.heard.append(failed)


class Raises(Logger):
    def __init__(self):
        self.asked = 0

    def scalars(self, where, values, step, epoch):
        self.asked += 1
        raise OSError("the server is gone")


def test_all_loggers_receive_events_and_a_failing_one_is_removed_once(caplog):
    first, broken, last = Keeps(), Raises(), Keeps()
    loggers = Loggers([first, broken, last])
    with caplog.at_level(logging.WARNING):
        for step in (1, 2, 3):
            loggers.tick()
            loggers.scalars("train", {"loss": 1.0}, step, epoch=1)
    loggers.close(failed=True)
    assert broken.asked == 1
    assert [record.getMessage() for record in caplog.records] == [
        "Raises is dropped for the rest of the run: OSError('the server is gone')"
    ]
    expected = [("train", {"loss": 1.0}, step, 1) for step in (1, 2, 3)]
    assert first.heard == last.heard == [*expected, True]


def test_an_artifact_reaches_loggers_that_accept_it():
    class Wants(Logger):
        def artifact(self, name, kind, paths):
            self.heard = name, kind, paths

    wants = Wants()
    Loggers([Logger(), wants]).artifact("sweep", "report", {})
    assert wants.heard == ("sweep", "report", {})


def test_the_record_itself_may_not_fail(tmp_path):
    record = Jsonl(tmp_path / "log.jsonl")
    record.close()
    with pytest.raises(ValueError, match="closed file"):
        Loggers([record]).scalars("train", {"loss": 1.0}, step=1, epoch=1)
