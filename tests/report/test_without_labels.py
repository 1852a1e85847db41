"""Tables, pages and figures in which some runs, or all, were measured without labels."""

import json

import numpy as np
import pytest

from deephash import retrieval
from deephash.report import write_comparison
from deephash.report.cells import entries, notes
from deephash.report.figures.evaluation import figures_of, pair_distances
from deephash.report.grid import Job, Sweep, sections
from deephash.report.pages.run import choices, gap, metric_rows
from deephash.report.pages.sweep import tables_of
from deephash.report.rows import rows_of_runs, without_labels
from deephash.report.table import markdown


def report(labels, seed=0, method="dpsh"):
    random = np.random.default_rng(seed)
    z = random.normal(size=(6, 8)), random.normal(size=(20, 8))
    told = tuple(random.integers(0, 2, len(one)) for one in z) if labels else (None, None)
    return {
        "run": f"birds/{method}/8bit/seed{seed}", "name": f"birds/{method}/8bit/seed{seed}",
        "method": method, "nbit": 8, "seed": seed, "checkpoint": "best.pt",
        "protocol": {"dataset": "birds", "protocol": "drawn",
                     "fingerprint": ("a" if labels else "b") * 64},
        "metrics": json.loads(json.dumps(retrieval.evaluate_codes(*z, *told))),
    }  # fmt: skip


BARE = [report(False, 0), report(False, 1)]
MIXED = [report(True, 0, "csq"), *BARE]


def test_a_markdown_table_has_a_dash_and_a_note():
    told = markdown(BARE)
    assert "| dpsh | — |" in told and told.endswith("— images without labels: there is no mAP")
    told = markdown([{**one, "protocol": MIXED[0]["protocol"]} for one in MIXED])
    assert "| dpsh | — \\*|" in told or "| dpsh | — |" in told
    assert f"| csq | {MIXED[0]['metrics']['map']:.4f} |" in told
    assert "—" not in markdown(MIXED[:1])


@pytest.mark.parametrize(
    ("runs", "sentence"), [(BARE, "These runs were"), (MIXED, "Runs with a dash for mAP were")]
)
def test_a_comparison_says_so(tmp_path, runs, sentence):
    assert without_labels(runs).startswith(sentence)
    write_comparison(tmp_path, runs)
    page = (tmp_path / "comparison.html").read_text()
    assert sentence in page and ">nan<" not in page
    assert (tmp_path / "figures" / "pair_distances.svg").is_file()
    json.loads((tmp_path / "comparison.json").read_text(), parse_constant=lambda word: 1 / 0)


def test_labelled_runs_are_as_before(tmp_path):
    write_comparison(tmp_path, MIXED[:1])
    assert "without labels" not in (tmp_path / "comparison.html").read_text()
    assert not (tmp_path / "figures" / "pair_distances.svg").exists()
    assert without_labels(MIXED[:1]) == ""


def test_figures_need_a_number():
    names = {one.name for one in figures_of(rows_of_runs(BARE))}
    assert {"pair_distances", "bits"} <= names
    assert names.isdisjoint({"map", "distances", "separability", "pr_by_rank", "precision_at"})
    assert pair_distances(rows_of_runs(MIXED[:1])) is None


def test_a_page_of_a_run_has_no_card_of_a_map():
    nothing = {"map_last": None, "map_best_on_query": None, "map_at_val_epoch": None}
    assert choices(nothing) == [] and gap(nothing) == ""
    rows = dict(metric_rows(BARE[0]["metrics"]))
    assert "map" not in rows and "note" not in rows and "recall at" not in rows
    assert rows["distances: mean nearest"] != "-"


def test_a_sweep_has_a_dash_with_the_reason():
    jobs = tuple(
        Job(one["run"], {"dataset": "birds", "dataset.protocol": "drawn", "method": one["method"],
                         "model.nbit": 8, "seed": one["seed"]}, report=one, state="finished")
        for one in MIXED
    )  # fmt: skip
    parts = sections([Sweep("few", jobs)])
    cells = entries(parts[0])
    states = {row[0]: entry.state for (row, _), entry in cells.items()}
    assert states["dpsh"] == "2 without mAP"
    assert any("images without labels" in text for _, text in notes(parts[0], cells.values()))
    assert "| — 2 without mAP |" in tables_of([Sweep("few", jobs)], parts, {})
