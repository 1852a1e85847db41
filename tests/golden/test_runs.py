"""Run folders of an earlier version are evaluated, reported and resumed.

``runs/`` holds a finished run and one that was interrupted after two epochs of three, and the
``sweep.json`` that both belong to. They stay as that version wrote them.
"""

import json
import shutil

import pytest
from hydra import compose

from deephash import runs
from deephash.config import checks, resolve, schema
from deephash.sweep import report_sweep
from tests.golden import make
from tests.golden.compare import EXACT, VALUES, check_map, check_terms

pytestmark = pytest.mark.usefixtures("composable")


FINISHED, INTERRUPTED = VALUES["frozen"]["finished"], VALUES["frozen"]["interrupted"]


@pytest.fixture
def outputs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(make.RUNS, tmp_path / "outputs")
    return tmp_path / "outputs"


def of_page(page, *line):
    return resolve.resolve(compose(page, overrides=list(line)))


def test_a_finished_run_is_evaluated(outputs):
    line = [f'run="{outputs / FINISHED["run"]}"', "figures=false", "device=cpu"]
    with make.one_thread():
        result = runs.evaluate(checks.parse_page(schema.Evaluate, of_page("evaluate", *line)))
    check_map(result["metrics"]["map"], FINISHED["map"])
    before = json.loads((outputs / FINISHED["run"] / "report.json").read_text())
    assert result["protocol"] == before["protocol"]
    assert set(before["metrics"]) <= set(result["metrics"])
    if EXACT:
        assert {key: result["metrics"][key] for key in before["metrics"]} == before["metrics"]


def test_a_finished_run_is_skipped(outputs, capsys):
    report, _ = make.train(outputs, make.FINISHED)
    assert "finished already" in capsys.readouterr().out
    assert float(report["metrics"]["map"]).hex() == FINISHED["map"]


def test_an_interrupted_run_is_resumed(outputs, capsys):
    report, folder = make.train(outputs, make.INTERRUPTED)
    assert "resumed after epoch 2" in capsys.readouterr().out
    assert report["run"] == INTERRUPTED["run"]
    check_terms(make.losses_of(folder), INTERRUPTED["terms"])
    check_map(report["metrics"]["map"], INTERRUPTED["map"])


def test_their_sweep_is_reported(outputs, capsys):
    line = ["sweep=frozen", f"paths.outputs={outputs}", "compare=null"]
    result = report_sweep.report_sweeps(checks.parse_page(schema.Report, of_page("report", *line)))
    assert result["runs"] == {"finished": 1, "interrupted": 1}
    printed = capsys.readouterr().out
    assert f"{float.fromhex(FINISHED['map']):.4f}"[1:] in printed, printed
