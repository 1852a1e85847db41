"""Tables, pages and figures in which some runs, or all, were measured without labels."""

import json

import numpy as np
import pytest

from deephash import retrieval
from deephash.report import write_comparison
from deephash.report.figures.evaluation import draw_pair_distances, figures_of
from deephash.report.notes import section_notes
from deephash.report.pages.run import map_choices, metric_rows, selection_gap
from deephash.report.pages.sweep import all_markdown
from deephash.report.results import Sweep, SweepRun, make_sections
from deephash.report.run_groups import group_seeds
from deephash.report.tables import reports_markdown
from deephash.report.values import unlabelled_sentence


def report(labels, seed=0, method="dpsh"):
    random = np.random.default_rng(seed)
    z = random.normal(size=(6, 8)), random.normal(size=(20, 8))
    labels_ = tuple(random.integers(0, 2, len(codes)) for codes in z) if labels else (None, None)
    return {
        "run": f"birds/{method}/8bit/seed{seed}", "name": f"birds/{method}/8bit/seed{seed}",
        "method": method, "nbit": 8, "seed": seed, "checkpoint": "best.pt",
        "protocol": {"dataset": "birds", "protocol": "drawn",
                     "fingerprint": ("a" if labels else "b") * 64},
        "metrics": json.loads(json.dumps(retrieval.evaluate_codes(*z, *labels_))),
    }  # fmt: skip


BARE = [report(False, 0), report(False, 1)]
MIXED = [report(True, 0, "csq"), *BARE]


def test_a_markdown_table_has_a_dash_and_a_note():
    text = reports_markdown(BARE)
    assert "| dpsh | — |" in text and text.endswith("— images without labels: there is no mAP")
    text = reports_markdown([{**report_, "protocol": MIXED[0]["protocol"]} for report_ in MIXED])
    assert "| dpsh | — \\*|" in text or "| dpsh | — |" in text
    assert f"| csq | {MIXED[0]['metrics']['map']:.4f} |" in text
    assert "—" not in reports_markdown(MIXED[:1])


@pytest.mark.parametrize(
    ("runs", "sentence"), [(BARE, "These runs were"), (MIXED, "Runs with a dash for mAP were")]
)
def test_a_comparison_notes_missing_labels(tmp_path, runs, sentence):
    assert unlabelled_sentence(runs).startswith(sentence)
    write_comparison(tmp_path, runs)
    page = (tmp_path / "comparison.html").read_text()
    assert sentence in page and ">nan<" not in page
    assert (tmp_path / "figures" / "pair_distances.svg").is_file()
    json.loads((tmp_path / "comparison.json").read_text(), parse_constant=lambda word: 1 / 0)


def test_labelled_runs_are_as_before(tmp_path):
    write_comparison(tmp_path, MIXED[:1])
    assert "without labels" not in (tmp_path / "comparison.html").read_text()
    assert not (tmp_path / "figures" / "pair_distances.svg").exists()
    assert unlabelled_sentence(MIXED[:1]) == ""


def test_figures_need_a_number():
    names = {figure.name for figure in figures_of(group_seeds(BARE))}
    assert {"pair_distances", "bits"} <= names
    assert names.isdisjoint({"map", "distances", "separability", "pr_by_rank", "precision_at"})
    assert draw_pair_distances(group_seeds(MIXED[:1])) is None


def test_a_page_of_a_run_has_no_card_of_a_map():
    nothing = {"map_last": None, "map_best_on_query": None, "map_at_val_epoch": None}
    assert map_choices(nothing) == [] and selection_gap(nothing) == ""
    rows = dict(metric_rows(BARE[0]["metrics"])[0])
    assert "map" not in rows and "note" not in rows and "recall at" not in rows
    assert rows["distances: mean nearest"] != "-"


def test_a_sweep_has_a_dash_with_the_reason():
    jobs = tuple(
        SweepRun(row["run"],
                 {"dataset": "birds", "dataset.protocol": "drawn", "method": row["method"],
                  "model.nbit": 8, "seed": row["seed"]}, report=row, state="finished")
        for row in MIXED
    )  # fmt: skip
    parts = make_sections([Sweep("few", jobs)])
    cells = parts[0].cells
    states = {row[0]: entry.state for (row, _), entry in cells.items()}
    assert states["dpsh"] == "2 without mAP"
    assert any("images without labels" in text for _, text in section_notes(parts[0]))
    assert "| — 2 without mAP |" in all_markdown([Sweep("few", jobs)], parts, {})
