"""``-m +search=...`` as a command: killed, resumed, continued, and refused."""

import re
import signal
import time

import pytest

from tests.commands import run, start

pytest.importorskip("optuna")

SPACE = """
trials: 3
batch: 1
params:
  optimizer.lr: {low: 1.0e-4, high: 1.0e-2, log: true}
  method.loss.quantization: [0.0, 0.1, 1.0]
"""
LINE = ("-m", "+search=mine.yaml", "method=csq", "model.nbit=8", "backbone.width=4",
        "trainer.epochs=2", "trainer.eval_every=1", "logger=quiet",
        "hydra.launcher.jobs=1")  # fmt: skip


def finished(cwd):
    return {file.parent.name: file.stat().st_mtime_ns
            for file in (cwd / "outputs" / "digits").rglob("report.json")}  # fmt: skip


def best(output):
    """The closing table."""
    table = output.partition("the best by")[2].partition("\n\n")[0]
    return re.findall(r"^trial .*", table, re.MULTILINE)


def test_killed_it_resumes_and_comes_to_the_same(tmp_path):
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    for cwd in (straight, killed):
        cwd.mkdir()
        (cwd / "mine.yaml").write_text(SPACE)
    whole = run(straight, *LINE)
    assert len(best(whole)) == len(finished(straight)) == 3
    search = start(killed, *LINE)
    until = time.monotonic() + 120
    while not finished(killed) or len(list((killed / "outputs/digits").rglob("config.yaml"))) < 2:
        assert search.poll() is None and time.monotonic() < until, search.printed()
        time.sleep(0.02)
    search.send(signal.SIGKILL)
    search.wait(20)
    before = finished(killed)
    output = run(killed, *LINE)
    assert best(output) == best(whole)
    assert "trials finished already" in output
    after = finished(killed)
    assert {name: after[name] for name in before} == before
    assert after.keys() == finished(straight).keys()
    more = run(killed, *LINE, "search.trials=4")
    assert "3 of 4 trials finished already" in more and len(finished(killed)) == 4
    assert "4 runs: 4 finished" in run(killed, "sweep=mine", script="report")
    refused = run(killed, *LINE, "optimizer.lr=0.1", code=2)
    assert "has a range in the search" in refused
    assert "it needs -m" in run(killed, *LINE[1:], code=2)
