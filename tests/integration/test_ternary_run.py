"""A whole run with undecided bits, and its folder measured with and without them."""

import json

import numpy as np
import pytest
import yaml

from deephash.retrieval import Histograms, Ranking, mean_average_precision, pack_ternary, unpack
from deephash.retrieval.metrics import Convention
from tests.commands import run


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    cwd = tmp_path_factory.mktemp("ternary")
    run(cwd, "trainer.epochs=1", "logger=quiet", "evaluation.ternary=0.5")
    (report,) = cwd.glob("outputs/**/report.json")
    return cwd, report.parent


def measured(ran, *arguments):
    line = (f'run="{ran[1]}"', "figures=false", *arguments)
    output = run(ran[0], *line, script="evaluate.py")
    return output, json.loads((ran[1] / "evaluation.json").read_text())["metrics"]


def test_training_reports_and_saves_undecided_bits(ran):
    _, folder = ran
    report = json.loads((folder / "report.json").read_text())
    metrics = report["metrics"]
    assert metrics["conventions"]["ternary"] == 0.5
    assert metrics["pr_curve"]["radius"][:3] == [0, 0.5, 1]
    assert metrics["map"] == report["selection"]["map_best_on_query"]
    with np.load(folder / "codes.npz") as codes:
        assert codes["query_codes"].shape == codes["query_undecided"].shape == (200, 4)
        sides = [
            pack_ternary(unpack(codes[f"{s}_codes"], 32), unpack(codes[f"{s}_undecided"], 32), s)
            for s in ("query", "database")
        ]
        ranking = Ranking(*sides, codes["query_labels"], codes["database_labels"], 4 * 32)
    again = mean_average_precision(Histograms.of(ranking), Convention()).value
    assert again == pytest.approx(metrics["map"], abs=1e-12)


def test_evaluation_is_compared_with_training_under_the_same_bits_only(ran):
    trained = json.loads((ran[1] / "report.json").read_text())["metrics"]
    output, same = measured(ran)  # null: as the run had it
    assert same == trained
    assert "ternary 0.5" in output and "the same" in output
    output, bits = measured(ran, "evaluation.ternary=0")
    assert bits["conventions"]["ternary"] == 0 and bits["map"] != trained["map"]
    assert "training reported" not in output


def test_a_run_from_before_undecided_bits_is_still_compared(tmp_path):
    run(tmp_path, "trainer.epochs=1", "logger=quiet")
    (file,) = tmp_path.glob("outputs/**/report.json")
    with np.load(file.parent / "codes.npz") as codes:
        assert not {"query_undecided", "database_undecided"} & set(codes)
    report, page = json.loads(file.read_text()), file.parent / "config.yaml"
    assert report["metrics"]["conventions"].pop("ternary") is None
    file.write_text(json.dumps(report))
    config = yaml.safe_load(page.read_text())
    assert config["evaluation"].pop("ternary") is None
    page.write_text(yaml.safe_dump(config))
    output, _ = measured((tmp_path, file.parent))
    assert "training reported" in output and "the same" in output
    output, metrics = measured((tmp_path, file.parent), "evaluation.ternary=1")
    assert "ternary 1.0" in output and "training reported" not in output
    assert metrics["conventions"]["ternary"] == 1


def test_a_bad_threshold_is_refused_before_anything_is_written(tmp_path):
    output = run(tmp_path, "logger=quiet", "evaluation.ternary=nan", code=2)
    assert "evaluation.ternary  is nan." in output
    assert not list(tmp_path.glob("outputs/**/config.yaml"))
