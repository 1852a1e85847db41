"""Sweeps as tables: grouping, the exact text of small examples, marks, pages."""

import csv
import io
import math
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote

import pytest
import yaml

from deephash.errors import FileError
from deephash.report.figures.sweep import heat_map, sweep_figure
from deephash.report.pages.sweep import write_sweeps
from deephash.report.paired_results import (
    NotCompared,
    Pair,
    PairedResults,
    pair_notes,
    pair_tables,
    reference_by_column,
)
from deephash.report.published import parse_tables, published, published_tables
from deephash.report.results import Layout, Sweep, SweepRun, filter_runs, make_sections
from deephash.report.tables import section_latex, section_markdown, sections_csv
from tests.paths import ROOT

SHARED = ROOT.parent / "shared" / "spec" / "published.yaml"
UNLABELLED = SHARED.with_name("published_unsupervised.yaml")

BETA = Layout(
    rows=("method.loss.scale",),
    row_label="β",
    digits=3,
    published="relahash_table2",
    figure={"x": "method.loss.scale", "scale": "log"},
)


def make_report(value, print_="a" * 64, on="query", ties="expected", seed=0):
    return {
        "seed": seed,
        "nbit": 16,
        "metrics": {
            "map": value,
            "queries": 10,
            "database": 90,
            "conventions": {
                "metric": "mAP@all",
                "ties": ties,
                "denominator": "hits",
                "empty": "zero",
            },
        },
        "protocol": {"dataset": "cifar10", "protocol": "59k", "fingerprint": print_},
        "selection": {"select_on": on, "epochs": 30, "stopped_early": False},
        "training": {"batch_size": 16, "seconds": 60.0},
        "environment": {"torch": "2.15", "gpu": None},
    }


def job(scale=5, nbit=16, seed=0, value=None, dataset="cifar10", **more):
    """A run; finished if it has a value."""
    settings = {key: more.pop(key) for key in ("print_", "on", "ties") if key in more}
    name = more.pop("run", f"{dataset}/relahash/{nbit}bit/seed{seed},scale={scale}")
    values = {
        "dataset": dataset,
        "dataset.protocol": "59k",
        "method": "relahash",
        "model.nbit": nbit,
        "seed": seed,
        "method.loss.scale": scale,
        **more.pop("values", {}),
    }
    if value is not None:
        more |= {"report": make_report(value, seed=seed, **settings), "state": "finished"}
    return SweepRun(name, values, **more)


def section(*jobs, layout=BETA):
    (section_,) = make_sections([Sweep("table2", jobs, layout)])
    return section_


def cells(text):
    return [line for line in text.splitlines() if line.startswith("| ")][1:]


SMALL = (
    job(5, 16, 0, 0.8), job(5, 16, 1, 0.81), job(10, 16, 0, 0.79), job(10, 16, 1, state="running",
    progress="3/40"), job(5, 32, 0, state="failed"), job(5, 32, 1), job(10, 32, 0, 0.83),
    job(10, 32, 1, 0.83),
)  # fmt: skip


WHOLE = (job(5, 16, 0, 0.8), job(5, 16, 1, 0.81), job(10, 16, 0, 0.7), job(10, 16, 1, 0.8))


def test_best_and_second_best_are_bold_and_italic_or_underlined():
    text = section_markdown(section(*WHOLE))
    assert cells(text) == [
        "| 5 | **0.805** ± 0.007 q | 0.805 | 0.000 |",
        "| 10 | _0.750_ ± 0.071 q | 0.798 | −0.048 |",
    ]
    assert "- Best of a column bold, second best italics." in text
    text = section_latex(section(*WHOLE), "A title")
    assert r"5 & \textbf{0.805} $\pm$ 0.007" in text and r"10 & \underline{0.750}" in text
    assert r"\caption{A title: cifar10, 59k}" in text and "second best underlined" in text


def test_cells_with_fewer_seeds_are_marked_and_not_ranked():
    """0.9 of one seed is no better than means of two."""
    text = section_markdown(section(*WHOLE, job(25, 16, 0, 0.9)))
    assert cells(text)[2].startswith("| 25 | 0.900 q (1 of 2 seeds) |")
    assert cells(text)[0].startswith("| 5 | **0.805**")
    assert "Cells with fewer seeds than others say so, and are not ranked." in text


def test_values_set_by_a_rule_for_some_rows_are_noted():
    jobs = [
        job("a", 16, 0, 0.8, values={"batch": 16, "beta": 5}, run="1"),
        job("a", 32, 0, 0.8, values={"batch": 16, "beta": 7}, run="2"),
        job("b", 16, 0, 0.8, values={"batch": 16, "beta": None}, run="3"),
    ]
    assert "epochs 30; batch size 16; batch 16; beta 5, 7 for a." in section_markdown(
        section(*jobs)
    )


def test_markdown_of_a_small_example():
    """0.80 and 0.81: mean 0.805, sd sqrt(2 * 0.005²) = 0.0071; published 0.805 and 0.7978."""
    assert section_markdown(section(*SMALL)).splitlines() == [
        "### cifar10, 59k",
        "",
        "| β | 16 bits | published | Δ | 32 bits | published | Δ |",
        "|---|---|---|---|---|---|---|",
        "| 5 | 0.805 ± 0.007 q | 0.805 | 0.000 | — failed, waiting | 0.822 |  |",
        "| 10 | 0.790 q (1 of 2 seeds) | 0.798 | −0.008 | 0.830 ± 0.000 q | 0.820 | +0.010 |",
        "",
        "- mAP@all (ties expected, denominator hits, empty zero), fingerprint aaaaaaaaaaaaaaaa; "
        "mean ± sd (n − 1) over seeds 0, 1.",
        "- Cells with fewer seeds than others say so, and are not ranked.",
        "- q: the epoch was selected on the query set, as in the papers: these numbers are maxima "
        "over several evaluations on the queries",
        "- These runs: epochs 30; batch size 16.",
        "- Published: RelaHash (Minh et al., IEEE Access 2023), Table 2 (mAP@all; protocol 59k; "
        "backbone: AlexNet, pretrained; stopping: once the best mAP on the queries has not risen "
        "for 6 epochs, often after 12 to 25; margin: 0.5; batch size: 16). Δ: ours minus "
        "published.",
    ]


def test_latex_of_a_small_example():
    lines = [line.strip() for line in section_latex(section(*SMALL)).splitlines()]
    assert lines[:11] == [
        r"\begin{table}",
        r"\centering",
        r"\caption{cifar10, 59k}",
        r"\label{tab:table2-cifar10-59k}",
        r"\begin{tabular}{llrrlrr}",
        r"\toprule",
        r"$\beta$ & 16 bits & published & $\Delta$ & 32 bits & published & $\Delta$ \\",
        r"\midrule",
        r"5 & 0.805 $\pm$ 0.007\textsuperscript{q} & 0.805 & 0.000 & --- failed, waiting"
        r" & 0.822 &  \\",
        r"10 & 0.790\textsuperscript{q} (1 of 2 seeds) & 0.798 & $-$0.008 & "
        r"0.830 $\pm$ 0.000\textsuperscript{q} & 0.820 & +0.010 \\",
        r"\bottomrule",
    ]
    assert lines[-1] == r"\end{table}"


def test_latex_escapes_what_is_syntax():
    text = section_latex(
        section(job("a_b&c%#$", 16, 0, 0.5), layout=Layout(("method.loss.scale",)))
    )
    assert r"a\_b\&c\%\#\$ & 0.5000\textsuperscript{q} \\" in text


def test_csv_has_a_line_for_each_cell_in_full_precision():
    lines = list(csv.DictReader(io.StringIO(sections_csv([section(*SMALL)]))))
    assert len(lines) == 4
    first, missing = lines[0], lines[2]
    assert float(first["mean"]) == pytest.approx(0.805)
    assert float(first["sd"]) == pytest.approx(math.sqrt(0.00005))
    cell_ = {key: first[key] for key in ("row_key", "row", "column", "seeds", "published", "rank",
                                        "marks", "selection", "states")}  # fmt: skip
    assert cell_ == {"row_key": "method.loss.scale", "row": "5", "column": "16", "seeds": "2",
                    "published": "0.805", "rank": "", "marks": "q", "selection": "query",
                    "states": "2 finished"}  # fmt: skip
    assert first["fingerprint"] == "a" * 64 and first["convention"].startswith("mAP@all ties=")
    assert (missing["column"], missing["mean"], missing["states"]) == (
        "32",
        "",
        "1 failed; 1 waiting",
    )


def test_a_running_cell_shows_its_progress():
    text = section_markdown(
        section(job(5, 16, 0, state="running", progress="3/40"), job(10, 16, 0, 0.5))
    )
    assert cells(text)[0].startswith("| 5 | — running 3/40 |")


def test_ties_share_a_rank_and_one_row_has_none():
    layout = Layout(("method.loss.scale",), digits=3)
    jobs = [
        job(scale, 16, 0, value)
        for scale, value in ((5, 0.5), (10, 0.50004), (25, 0.4), (50, 0.4), (80, 0.3))
    ]
    ranks = [entry.rank for entry in section(*jobs, layout=layout).cells.values()]
    assert ranks == [1, 1, 2, 2, 0]
    assert [cell.rank for cell in section(jobs[0], layout=layout).cells.values()] == [0]


def test_results_under_other_conditions_are_marked_noted_and_not_ranked():
    jobs = [job(5, 16, 0, 0.5, on="last"), job(10, 16, 0, 0.4, on="last"),
            job(25, 16, 0, 0.9, print_="", on="last"),
            job(50, 16, 0, 0.8, ties="stable", on="val")]  # fmt: skip
    text = section_markdown(section(*jobs, layout=Layout(("method.loss.scale",), digits=2)))
    assert cells(text) == [
        "| 5 | **0.50** |",
        "| 10 | _0.40_ |",
        r"| 25 | 0.90 \* |",
        "| 50 | 0.80 † |",
    ]
    assert "fingerprint ? (aaaaaaaa)" in text and "ties stable (expected)" in text
    assert "selected on the query set" not in text


def test_runs_of_other_data_have_a_table_of_their_own():
    """Whose fingerprint is unknown, or is yet to come, stands in the one of most runs."""
    jobs = [
        job(5, 16, 0, 0.9, print_="b" * 64),
        job(10, 16, 0, 0.5),
        job(25, 16, 0, 0.4),
        job(50, 16),
        job(80, 16, state="running"),
        job(5, 16, 1, 0.7),
    ]
    first, other = make_sections([Sweep("s", tuple(jobs), Layout(("method.loss.scale",)))])
    assert (first.title, other.title) == (
        "cifar10, 59k, data aaaaaaaa",
        "cifar10, 59k, data bbbbbbbb",
    )
    assert first.rows == ((5,), (10,), (25,), (50,), (80,)) and other.rows == ((5,),)
    assert first.cells[(5,), 16].mean == 0.7 and other.cells[(5,), 16].mean == 0.9
    assert "\\*" not in section_markdown(first) + section_markdown(other)
    (alone,) = make_sections([Sweep("s", tuple(jobs[1:]), BETA)])
    assert alone.title == "cifar10, 59k"


def test_the_most_common_way_has_no_mark_even_if_it_comes_last():
    jobs = [job(5, 16, 0, 0.5, ties="worst"), job(10, 16, 0, 0.4), job(25, 16, 0, 0.3)]
    result = section(*jobs, layout=Layout(("method.loss.scale",)))
    assert [entry.marks for entry in result.cells.values()] == [("*", "q"), ("q",), ("q",)]


def test_seeds_that_were_measured_otherwise_are_left_out_of_the_mean():
    result = section(job(5, 16, 0, 0.5), job(5, 16, 1, 0.9, ties="worst"), job(10, 16, 0, 0.4))
    entry = result.cells[(5,), 16]
    assert (entry.mean, entry.state, entry.marks) == (0.5, "1 of 2 seeds", ("q",))
    assert "left out of its mean" in section_markdown(result)


METHODS = Layout(
    rows=("method",),
    digits=2,
    published="sdc_table1",
    also_published=("sdc_rerun", "fire_unsupervised"),
    also="all",
)


def method(name, nbit=16, seed=0, value=None, kind=None, maps=(), whole=None, **more):
    """A run of a method; ``maps``: of the draws of the reference, ``whole``: its mAP@all."""
    run = job(
        nbit=nbit,
        seed=seed,
        value=value,
        run=f"{name}/{nbit}/{seed}",
        on="last",
        values={"method": name, "method.loss.scale": None},
        **more,
    )
    if run.report is not None:
        reference = {"method": "pca_rr", "draws": len(maps), "maps": list(maps)} if maps else None
        run.report.update(nbit=nbit, reference=reference)
        run.report.update({} if kind is None else {"kind": kind})
        run.report["metrics"]["conventions"] |= {"metric": "mAP@1000", "top": 10}
        run.report["metrics"]["map_at"] = {} if whole is None else {"90": whole}
    return run


FAMILY = (
    method("csq", 16, 0, 0.8, "supervised", (0.3, 0.5), 0.6),
    method("csq", 16, 1, 0.9, "supervised", (0.31, 0.5), 0.7),
    method("itq", 16, 0, 0.4, "shallow", (0.3, 0.5), 0.2),
    method("itq", 16, 1, 0.4, "shallow", (0.31, 0.5), 0.2),
    method("sdc_simclr", 64, 0, 0.6, "unsupervised", (), 0.5),
)


def test_kinds_references_and_a_further_R_stand_beside():
    """The draws of the reference: 0.3, 0.5, of seed 1 the same with rounding; mean 0.4."""
    made = section(*FAMILY, layout=METHODS)
    text = section_markdown(made)
    assert text.splitlines()[2:9] == [
        "| method | kind | 16 bits | mAP@all | quoted | Δ | 64 bits | mAP@all | quoted | Δ |",
        "|---|---|---|---|---|---|---|---|---|---|",
        "| csq | supervised | **0.85** ± 0.07 | 0.65 ± 0.07 |  |  |  |  |  |  |",
        "| itq | shallow | _0.40_ ± 0.00 | 0.20 ± 0.00 | 0.47 | −0.07 |  |  |  |  |",
        r"| sdc\_simclr | unsupervised |  |  |  |  | 0.60 (1 of 2 seeds) | 0.50 | 0.66 | −0.06 |",
        "| PCA + random rotation (reference) | shallow | 0.40 ± 0.14 |  |  |  |  |  |  |  |",
        "",
    ]
    assert "over 2 rotations; no training, and not ranked. Not above it: itq at 16 bits." in text
    assert "Published: SDC" in text and "quotes it (quoted by another source, not read" in text
    assert "itq: the rotation behind the published number does not minimise" in text
    assert "Also published: sdc\\_simclr 64 bits 0.6646 (weight decay 5e-4)." in text
    assert "run again, seed 42 (re-run by a third party; mAP@1000;" in text
    assert "fire" not in text.lower()  # it has no numbers of this dataset
    lines = [line.strip() for line in section_latex(made).splitlines()]
    assert r"\begin{tabular}{llllrrllrr}" in lines
    last = r"PCA + random rotation (reference) & shallow & 0.40 $\pm$ 0.14" + " & " * 7 + r" \\"
    assert last in lines
    read = list(csv.DictReader(io.StringIO(sections_csv([made]))))
    assert [row["kind"] for row in read] == ["supervised", "shallow", "unsupervised", "shallow"]
    assert read[1]["verified"] == "secondary" and read[0]["verified"] == ""
    assert (read[0]["also"], float(read[0]["also_mean"])) == ("mAP@all", pytest.approx(0.65))
    assert float(read[3]["mean"]) == pytest.approx(0.40) and read[3]["seeds"] == "2"


def test_kinds_missing_in_all_reports_have_no_column_and_in_some_are_unknown():
    old = [method("csq", value=0.8), method("itq", value=0.7)]
    assert "| method | 16 bits |" in section_markdown(section(*old, layout=METHODS))
    jobs = [*old, method("lsh", value=0.6, kind="shallow"), method("sh")]
    text = section_markdown(section(*jobs, layout=METHODS))
    assert [line.split(" | ")[1] for line in cells(text)] == ["unknown", "unknown", "shallow", ""]
    alike = [method("itq", seed=seed, value=0.5, kind="shallow") for seed in (0, 1)]
    alike = [
        replace(run, values=run.values | {"iterations": seed}) for seed, run in enumerate(alike)
    ]
    rows = Layout(("iterations",), digits=2)
    assert "kind" not in section_markdown(section(*alike, layout=rows))


def test_references_of_several_backbones_are_several_and_equal_draws_count_once():
    jobs = [
        method("itq", value=0.5, maps=(0.3, 0.5)),
        method("sh", seed=1, value=0.5, maps=(0.31, 0.5)),
        replace(method("lsh", value=0.5, maps=(0.1, 0.3)), conditions={"backbone": "vgg16"}),
        method("pcah", value=0.5, maps=(0.8, 0.9), ties="worst"),
    ]
    jobs[:2] = [replace(run, conditions={"backbone": "tiny"}) for run in jobs[:2]]
    first, second = section(*jobs, layout=METHODS).baseline_rows
    assert (first.label, first.values[16][0], first.draws) == (
        "PCA + random rotation, tiny (reference)",
        0.4,
        2,
    )
    assert (second.name, second.values[16][0]) == ("PCA + random rotation, vgg16", 0.2)


def test_only_rows_on_the_same_frozen_features_are_compared_with_a_reference():
    frozen = {"backbone": "vgg16", "frozen": "yes"}
    jobs = [
        replace(method("itq", value=0.5, maps=(0.3, 0.5)), conditions=frozen),
        replace(method("csq", value=0.1), conditions={**frozen, "frozen": "no"}),
        replace(method("dpn", value=0.1), conditions={"backbone": "alexnet"}),
    ]
    made = section(*jobs, layout=METHODS)
    assert "All rows on the same frozen features are above it." in section_markdown(made)
    below = replace(method("sdc", value=0.2), conditions=frozen)
    made = section(*jobs, below, layout=METHODS)
    assert "Not above it: sdc at 16 bits." in section_markdown(made)


def test_the_conditions_of_each_row_stand_below():
    jobs = [
        replace(method("itq", value=0.5, kind="shallow"), conditions={"frozen": "yes"}),
        replace(method("sdc", seed=0, value=0.5), conditions={"frozen": "yes", "views": "8"}),
        replace(method("sdc", seed=1), conditions={"frozen": "no"}),
    ]
    text = section_markdown(section(*jobs, layout=METHODS))
    assert text.splitlines()[-6:] == [
        "Conditions of the runs:",
        "",
        "| method | kind | frozen | views |",
        "|---|---|---|---|",
        "| itq | shallow | yes | - |",
        "| sdc | unknown | yes, no | 8 |",
    ]
    assert "Conditions" not in section_markdown(section(*FAMILY, layout=METHODS))


def test_a_published_number_of_several_keys_has_their_whole_name():
    def run_with(decay):
        values = {"optimizer.weight_decay": decay}
        run = method("sdc", 64, value=0.5)
        return replace(run, name=str(decay), values={**run.values, **values})

    layout = Layout(("method", "optimizer.weight_decay"), published="sdc_rerun_variants")
    made = section(run_with(1e-5), run_with(5e-4), layout=layout)
    assert [entry.published for entry in made.cells.values()] == [0.5976, None]


def test_settings_and_protocols_make_sections_and_note_the_differences():
    jobs = [
        job(5, 16, 0, 0.8),
        job(5, 16, 0, 0.3, run="small", settings=("trainer.epochs=2",)),
        job(5, 16, 0, 0.4, run="other", values={"dataset.protocol": "54k"}),
    ]
    plain, small, other = make_sections([Sweep("s", tuple(jobs), BETA)])
    assert [part.title for part in (plain, small, other)] == [
        "cifar10, 59k",
        "cifar10, 59k, trainer.epochs=2",
        "cifar10, 54k",
    ]
    assert "another setting" not in section_markdown(plain)
    assert "of another setting than the published ones, in settings (trainer.epochs=2)" in (
        section_markdown(small).replace("\\_", "_")
    )
    assert "protocol (54k, there 59k)" in section_markdown(other)


def test_missing_published_numbers_are_noted():
    assert "There are no published numbers for digits." in section_markdown(
        section(job(5, 16, 0, 0.8, dataset="digits"))
    )
    none = section(job(7, 16, 0, 0.8))
    assert "no published numbers for these rows" in section_markdown(none)
    assert "| β | 16 bits |\n" in section_markdown(none)


def test_without_a_layout_rows_are_what_varies():
    jobs = [job(scale, nbit, seed, values={"trainer.batch_size": size, "margin": 1})
            for scale in (5, 10) for nbit in (16, 32) for seed in (0, 1)
            for size in (8, 16)]  # fmt: skip
    jobs = [replace(run, name=str(at)) for at, run in enumerate(jobs)]
    result = section(*jobs, layout=Layout())
    assert result.keys == ("method.loss.scale", "trainer.batch_size")
    assert [result.row_name(row) for row in result.rows][:2] == [
        "scale=5 batch_size=8",
        "scale=5 batch_size=16",
    ]
    assert all(len(cell.runs) == 2 for cell in result.cells.values())
    (alone,) = make_sections([Sweep("s", (job(),), Layout())])
    assert alone.keys == ("method",) and alone.row_name(alone.rows[0]) == "relahash"


def test_an_axis_beside_the_layout_makes_rows_and_has_nothing_published():
    jobs = [job(5, 16, 0, 0.8, run=str(size), values={"batch": size}) for size in (8, 16)]
    result = section(*jobs)
    assert result.keys == ("method.loss.scale", "batch") and result.row_label == "scale, batch"
    assert [entry.published for entry in result.cells.values()] == [None, None]


def test_what_row_and_column_decide_makes_no_rows():
    """Table 1 has a batch size for each method, and a scale for each number of bits."""
    layout = Layout(("method",), published="relahash_table1")
    jobs = [
        job(scale, nbit, 0, 0.8, values={"method": method, "trainer.batch_size": size})
        for method, size, scales in (("csq", 256, (None, None)), ("relahash", 16, (100, 80)))
        for nbit, scale in zip((16, 32), scales, strict=True)
    ]
    jobs = [replace(run, name=str(at)) for at, run in enumerate(jobs)]
    result = section(*jobs, layout=layout)
    assert result.keys == ("method",) and result.rows == (("csq",), ("relahash",))
    assert [entry.published for entry in result.cells.values()] == [0.794, 0.803, 0.82, 0.835]


def test_joined_sweeps_share_a_table_and_count_a_run_once():
    first = Sweep("a", (job(5, 16, 0, 0.5), job(25, 16, 0, 0.4)), BETA)
    other = Sweep("b", (job(5, 16, 0, 0.5), job(10, 16, 0, 0.3)), BETA)
    (result,) = make_sections([first, other])
    assert result.sweeps == ("a", "b") and result.rows == ((5,), (10,), (25,))
    assert [len(cell.runs) for cell in result.cells.values()] == [1, 1, 1]


def test_joined_sweeps_with_two_runs_of_one_seed_keep_their_rows():
    """Runs with early stopping and with 100 epochs have no common mean."""
    first = Sweep("a", (job(5, 16, 0, 0.5, fixed=("trainer=early_stop",)),), BETA)
    other = Sweep("b", (job(5, 16, 0, 0.4, run="long"), job(10, 16, 0, 0.3, run="l2")), BETA)
    (result,) = make_sections([first, other])
    assert cells(section_markdown(result)) == [
        "| scale=5 a | **0.500** q |",
        "| scale=5 b | _0.400_ q |",
        "| scale=10 b | 0.300 q |",
    ]
    assert "a sets trainer=early\\_stop" in section_markdown(result)


def test_sweeps_of_other_layouts_follow_each_other():
    margin = Layout(rows=("margin",))
    parts = make_sections([Sweep("a", (job(),), BETA), Sweep("b", (job(run="m"),), margin)])
    assert [part.sweeps for part in parts] == [("a",), ("b",)]


def test_only_compares_as_the_command_line_writes():
    jobs = [job(5), job(10), job(0.5)]
    assert [
        run.values["method.loss.scale"]
        for run in filter_runs(jobs, {"method.loss.scale": 10, "dataset": "cifar10"})
    ] == [10]
    assert len(filter_runs(jobs, {"seed": 0})) == 3 and filter_runs(jobs, {"seed": 1}) == ()
    assert len(filter_runs(jobs, {"seed": [0, 1]})) == 3 and filter_runs(jobs, {"seed": []}) == ()


def test_the_figure_is_over_the_axis_of_the_layout():
    figure = sweep_figure(section(*SMALL)).figure
    (panel,) = figure.axes
    assert panel.get_xscale() == "log" and panel.get_xlabel() == "β"
    ours = [
        line.get_xydata().tolist()
        for line in panel.lines
        if line.get_alpha() is None and line.get_marker() in ("o", "s")
    ]
    assert ours == [[[5, pytest.approx(0.805)], [10, 0.79]], [[10, 0.83]]]
    pale = [
        line.get_xydata().tolist()
        for line in panel.lines
        if line.get_alpha() == 0.5 and line.get_marker() in ("o", "s")
    ]
    assert pale == [[[5, 0.805], [10, 0.7978]], [[5, 0.8216], [10, 0.8201]]]


@pytest.mark.parametrize(
    "more", [{"settings": ("trainer.epochs=2",)}, {"values": {"dataset.protocol": "54k"}}]
)
def test_published_numbers_of_another_setting_are_not_drawn(more):
    jobs = [job(5, 16, 0, 0.3, **more), job(10, 16, 0, 0.4, run="ten", **more)]
    (made,) = make_sections([Sweep("s", tuple(jobs), BETA)])
    (panel,) = sweep_figure(made).figure.axes
    assert not [line for line in panel.lines if line.get_alpha() == 0.5]
    assert "published" not in sweep_figure(made).caption and "0.805" in section_markdown(made)


@pytest.mark.parametrize(
    ("layout", "label", "scale"),
    [
        (Layout(("method.loss.scale",), figure={"x": "model.nbit"}), "bits", "linear"),
        (Layout(("method.loss.scale",)), "bits", "linear"),
        (Layout(("method.loss.scale",), figure={"x": "method.loss.scale"}), "scale", "linear"),
    ],
)
def test_the_figure_of_other_layouts(layout, label, scale):
    (panel,) = sweep_figure(section(*SMALL, layout=layout)).figure.axes
    assert (panel.get_xlabel(), panel.get_xscale()) == (label, scale)


def test_a_value_of_zero_keeps_the_axis_linear_and_one_point_makes_no_figure():
    layout = replace(BETA, published=None)
    zero = section(job(0, 16, 0, 0.5), job(1, 16, 0, 0.6), layout=layout)
    assert sweep_figure(zero).figure.axes[0].get_xscale() == "linear"
    assert sweep_figure(section(job(5, 16, 0, 0.5), layout=layout)) is None
    assert sweep_figure(section(job(5), job(10), layout=layout)) is None


def test_the_row_to_compare_with_is_the_best_or_a_named_one():
    result = section(*SMALL)
    assert reference_by_column(result, "best") == {}  # no column has all its seeds
    assert reference_by_column(result, "10") == {16: (10,), 32: (10,)}
    assert reference_by_column(result, "5") == {16: (5,)}
    result = section(*WHOLE)
    assert reference_by_column(result, "best") == {16: (5,)}


def test_paired_differences_are_given_in_points_with_an_explanation():
    result = section(*SMALL)
    pair = Pair(16, (10,), (5,), -0.015, -0.03, -0.001, 1, 1000)
    refused = tuple(NotCompared(at, (10,), (5,), "no seed") for at in (16, 32))
    pairs = PairedResults((pair, replace(pair, low=-0.03, high=0.01)), refused, True, 2000)
    ((title, _, lines),) = pair_tables(result, pairs)
    assert title == "16 bits" and lines == [
        ["10", "5", "−1.50", "−3.00 to −0.10", "1", "1,000", "yes"],
        ["10", "5", "−1.50", "−3.00 to +1.00", "1", "1,000", "no"],
    ]
    text = " ".join(pair_notes(result, pairs))
    for words in ("one seed only queries", "These are 2 intervals, not", "chance favours"):
        assert words in text
    assert "Not compared, because no seed: 16 bits, 10 with 5; 32 bits, 10 with 5." in text


def test_the_page_holds_all_of_it_and_stands_alone(tmp_path, read_page):
    failed = replace(SMALL[4], error="CUDA <out> of memory")
    jobs = (*SMALL[:4], failed, *SMALL[5:])
    sweep = Sweep("table2", jobs, BETA, "β & more", "a paper", "python train.py -m +sweep=x")
    files = write_sweeps(tmp_path, [sweep], make_sections([sweep]), {})
    assert {"report.html", "table.md", "table.tex", "table.csv"} < set(files)
    assert sum(name.startswith("figures/") for name in files) == 2
    assert all(path.is_file() for path in files.values())
    page = read_page(files["report.html"])
    for words in ("β & more", "5 of 8", "1 running", "1 failed", "CUDA <out> of memory", "5:00",
                  "python train.py -m +sweep=x", "published 0.8", "— failed, waiting", "a paper",
                  failed.name, "1 of 2 seeds"):  # fmt: skip
        assert words in page.text, words
    tags = {tag for tag, _ in page.seen}
    assert "Conditions of the runs" not in page.text
    assert "script" not in tags and "link" not in tags and "img" not in tags
    assert "8 runs: 5 finished, 1 running, 1 failed, 1 waiting." in files["table.md"].read_text()
    assert len(page.drawings()) == 1


def test_the_page_has_kinds_references_conditions_and_a_further_R(tmp_path, read_page):
    jobs = tuple(replace(run, conditions={"weight decay": "0.0005"}) for run in FAMILY)
    sweep = Sweep("family", jobs, METHODS)
    files = write_sweeps(tmp_path, [sweep], make_sections([sweep]), {})
    page = read_page(files["report.html"])
    for words in ("kind", "supervised", "PCA + random rotation (reference)", "0.40 ± 0.14",
                  "Conditions of the runs", "weight decay", "mAP@all 0.65 ± 0.07",
                  "quoted 0.47, Δ −0.07"):  # fmt: skip
        assert words in page.text, words


def test_a_page_without_a_finished_run_has_a_note(tmp_path, read_page):
    sweep = Sweep("table2", (job(5), job(10)), BETA)
    files = write_sweeps(tmp_path, [sweep], make_sections([sweep]), {})
    assert "No run has finished yet" in read_page(files["report.html"]).text
    assert not any(name.startswith("figures/") for name in files)


def test_published_numbers_worked_from_the_paper():
    known = published_tables()
    assert known["relahash_table1"]["values"]["imagenet100"]["csq"] == {
        16: 0.586, 32: 0.666, 64: 0.693, 128: 0.7
    }  # fmt: skip
    assert known["relahash_table2"]["values"]["cifar10"][80][64] == 0.8385
    assert known["relahash_table2"]["values"]["imagenet100"][500][16] == 0.6304
    assert known["relahash_fig9"]["values"]["cifar10"][16][64] == 0.84301
    assert len(known["relahash_table2"]["values"]["cifar10"]) == 10
    assert all({"source", "metric", "values"} <= set(table) for table in known.values())
    assert all(set(table["metric"]) == set(table["values"]) for table in known.values())


@pytest.mark.skipif(not SHARED.is_file(), reason="the collection is not at hand")
def test_published_numbers_are_those_of_the_collection():
    known, theirs = published_tables(), yaml.safe_load(SHARED.read_text())
    for table, name in (("relahash_table1", str.lower), ("relahash_table2", _beta)):
        listed: dict = {}
        for row, sets in theirs[table]["values"].items():
            for dataset in ("cifar10", "imagenet100", "nuswide21"):
                if dataset in sets:
                    listed.setdefault(dataset, {})[name(row)] = sets[dataset]
        assert known[table]["values"] == listed
    for ours, kind in (("cosine", "orthocos"), ("angle", "orthoarc")):
        margins = theirs["orthohash_suppmat_table2_margin"][kind]
        assert known[f"orthohash_margin_{ours}"]["values"] == {
            dataset: {row: dict(zip((64, 128), two, strict=True)) for row, two in rows.items()}
            for dataset, rows in margins.items()
        }
    books = theirs["orthohash_suppmat_table4_targets"]["values"]
    assert known["orthohash_codebook"]["values"] == {
        dataset: {ours: books[name][dataset] for ours, name in
                  (("hadamard", "hadamard"), ("max_hamming", "maxhd"), ("bernoulli", "bernoulli"))}
        for dataset in ("imagenet100", "nuswide21", "coco")
    }  # fmt: skip
    best = theirs["relahash_colab"]["best_on_multiples_of_10"]
    assert known["relahash_fig7"]["values"] == {"cifar10": {0.5: {64: best}}}
    assert known["relahash_fig9"]["values"] == {"cifar10": {16: {64: best}}}


@pytest.mark.skipif(not UNLABELLED.is_file(), reason="the collection is not at hand")
def test_published_numbers_without_labels_are_those_of_the_collection():
    """All of its numbers with their reliability, without those from memory."""
    known, theirs = published_tables(), yaml.safe_load(UNLABELLED.read_text())

    def numbers(tables):
        return sorted(
            (table["verified"], dataset.removesuffix("_II"), nbit, value)
            for table in tables
            for dataset, rows in table["values"].items()
            for row in rows.values()
            for nbit, value in row.items()
        )

    first = list(known).index("sdc_table1")
    ours = [known[name] for name in list(known)[first:]]
    ours_of_kl = [("rerun", "cifar10", 64, 0.6459)]  # a condition there
    listed = [
        table for table in theirs.values() if "values" in table and table["verified"] != "memory"
    ]
    assert numbers(ours) == sorted(numbers(listed) + ours_of_kl)

    def curves(tables):
        return sorted(list(epochs.values()) for table in tables
                      for rows in table.get("curves", {}).values()
                      for row in rows.values() for epochs in row.values())  # fmt: skip

    assert curves(ours) == sorted(theirs["sdc_repository_rerun_curves"]["curves"].values())


def test_no_published_number_is_recalled():
    assert {table["verified"] for table in published_tables().values()} == {
        "primary",
        "secondary",
        "rerun",
    }
    whole = "a: {source: A, verified: %s, metric: {d: m}, values: {%s: {csq: {16: %s}}}}"
    assert parse_tables(whole % ("rerun", "d", 0.5), Path("p.yaml"))
    for wrong, message in (
        (("memory", "d", 0.5), "a.verified is memory.*leave out numbers whose source was not read"),
        (("primary", "e", 0.5), "a.metric and a.values have other datasets"),
        (("primary", "d", "high"), "a.values.d.csq.16 is a text"),
    ):
        with pytest.raises(FileError, match=f"(?s){message}"):
            parse_tables(whole % wrong, Path("p.yaml"))
    with pytest.raises(FileError, match=r"has no a\.verified"):
        parse_tables("a: {source: A, metric: {d: m}, values: {d: {}}}", Path("p.yaml"))


def test_how_a_published_number_is_known_is_part_of_what_is_printed():
    assert published("sdc_table1", "cifar10").describe().startswith("quoted by another source")
    assert published("sdc_rerun", "cifar10").describe().startswith("re-run by a third party")
    assert published("sdc_contrastive", "cifar10").describe().startswith("mAP@1000; protocol 59k")


def _beta(name):
    return int(name.removeprefix("beta_"))


def test_two_axes_have_a_heat_map():
    layout = Layout(("method.loss.scale", "batch"))
    jobs = [
        job(scale, 16, 0, 0.5 + scale / 100 + size / 1000, run=f"{scale}{size}",
            values={"batch": size})
        for scale in (5, 10) for size in (8, 16, 32)
    ]  # fmt: skip
    drawing = heat_map(section(*jobs[:-1], layout=layout))
    (panel,) = drawing.figure.axes
    shown = [text.get_text() for text in panel.texts]
    assert shown == ["0.558", "0.566", "0.582", "0.608", "0.616"]  # the last has not finished
    assert (panel.get_xlabel(), panel.get_ylabel()) == ("batch", "scale")
    assert heat_map(section(*SMALL)) is None  # bits are not a second axis
    by_scale = Layout(("batch",), columns="method.loss.scale")
    assert len(heat_map(section(*jobs, layout=by_scale)).figure.axes[0].texts) == 6


def test_bars_of_several_lines_are_side_by_side_and_data_stay():
    (panel,) = sweep_figure(section(*SMALL)).figure.axes
    lines = [line for line in panel.lines if line.get_marker() in ("o", "s")]
    shifts = {line.get_transform().transform((5, 0.8))[0] for line in lines}
    assert len(shifts) == 2
    low, high = panel.get_ylim()
    assert low < 0.79 and 0.83 < high < 0.9


def test_cells_link_to_their_runs_and_repeated_notes_are_on_the_page_once(tmp_path, read_page):
    runs = [
        job(scale, 16, seed, 0.8, dataset=dataset)
        for dataset in ("cifar10", "digits") for scale in (5, 10) for seed in (0, 1)
    ]  # fmt: skip
    for run in runs[:-1]:
        (tmp_path / run.name).mkdir(parents=True)
        (tmp_path / run.name / "report.html").touch()
    sweep, folder = Sweep("s", tuple(runs), BETA), tmp_path / "sweeps" / "s"
    write_sweeps(folder, [sweep], make_sections([sweep]), {}, tmp_path)
    page = read_page(folder / "report.html")
    targets = [a["href"] for tag, a in page.seen if tag == "a" and "seed" in a.get("href", "")]
    assert len(targets) == len(runs) - 1
    for target in targets:
        assert (folder / unquote(target)).is_file()
    assert page.text.count("the epoch was selected on the query set") == 1
