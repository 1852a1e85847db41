import json
import math

import pytest

from deephash.loggers import Jsonl


def read(path):
    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    return [json.loads(line, parse_constant=refuse) for line in path.read_text().splitlines()]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run" / "log.jsonl"


def test_a_line_is_written_at_once(path):
    record = Jsonl(path)
    record.scalars("train", {"loss": 0.5, "lr": 1e-3}, step=10, epoch=1)
    (line,) = read(path)
    assert line.pop("time").endswith("+00:00")
    assert line == {"where": "train", "step": 10, "epoch": 1, "loss": 0.5, "lr": 1e-3}
    record.close()


def test_what_is_not_finite_stays_valid_json(path):
    record = Jsonl(path)
    record.scalars("train", {"a": math.nan, "b": math.inf, "c": -math.inf}, step=1, epoch=1)
    record.close()
    (line,) = read(path)
    assert (line["a"], line["b"], line["c"]) == ("nan", "inf", "-inf")
    assert math.isnan(float(line["a"]))


def test_a_value_cannot_take_the_name_of_a_column(path):
    record = Jsonl(path)
    with pytest.raises(ValueError, match="'step'"):
        record.scalars("train", {"step": 1.0}, step=1, epoch=1)
    record.close()


def test_a_torn_last_line_is_cut_on_opening(path):
    record = Jsonl(path)
    record.scalars("train", {"loss": 1.0}, step=1, epoch=1)
    record.close()
    with path.open("a") as file:
        file.write('{"where": "train", "st')
    record = Jsonl(path)
    record.scalars("train", {"loss": 2.0}, step=2, epoch=1)
    record.close()
    assert [line["step"] for line in read(path)] == [1, 2]


def test_a_resumed_run_logs_nothing_twice(path):
    record = Jsonl(path)
    for step in range(1, 7):
        record.scalars("train", {"loss": float(step)}, step, epoch=1)
    record.close()
    with path.open("a") as file:
        file.write("{torn\n{")
    record = Jsonl(path)
    record.truncate_after(4)
    for step in range(5, 9):
        record.scalars("train", {"loss": float(step)}, step, epoch=2)
    record.close()
    assert [line["step"] for line in read(path)] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert [entry.name for entry in path.parent.iterdir()] == ["log.jsonl"]


def test_truncating_an_empty_record_and_closing_twice(path):
    record = Jsonl(path)
    record.truncate_after(0)
    record.close()
    record.close(failed=True)
    assert path.read_text() == ""
