"""Page of a finished run: its results, its training, and the conditions of both."""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from deephash.report.figures import style
from deephash.report.figures.evaluation import Retrieved
from deephash.report.figures.run import Axes, Point, line_plot, range_plot
from deephash.report.pages.base import (
    Rows,
    cutoff_table,
    header_chips,
    render,
    value_rows,
)
from deephash.report.pages.gallery import read_gallery, write_gallery
from deephash.report.pages.links import file_links, page_links
from deephash.report.reading import read_log, read_optional, read_report
from deephash.report.reference_comparison import AGREEMENT, measures, not_beaten
from deephash.report.values import is_number, metric_name, unlabelled_metrics, unlabelled_note
from deephash.utils.files import write_text
from deephash.utils.formatting import clock, number
from deephash.utils.nested import get_nested
from deephash.utils.run_paths import RunPaths

LEAST_RANGE = 0.02
"""Smallest range of an axis of mAP over the epochs."""

NOT_TERMS = frozenset(
    {
        "time",
        "where",
        "step",
        "epoch",
        "lr",
        "images_per_second",
        "images_seen",
        "data_share",
        "grad_norm",
    }
)
"""Keys of a line of the log that are not terms of the loss."""

Figure = tuple[str, str, Markup]
"""Title, caption and SVG."""

CHOICES = (
    (
        "query",
        "Best on the queries",
        "map_best_on_query",
        "epoch_best_on_query",
        "The highest value on the very queries it is reported on. Many papers print this. It is "
        "optimistic, and more so the more often the queries were evaluated.",
    ),
    (
        "val",
        "Chosen on validation",
        "map_at_val_epoch",
        "epoch_at_val",
        "The value on the queries at the epoch that was best on the validation images: an "
        "unbiased estimate for new queries.",
    ),
    (
        "agreement",
        "Chosen by agreement",
        "map_at_agreement_epoch",
        "epoch_at_agreement",
        "The value on the queries at the epoch whose codes preserve most of the neighbours that "
        "validation images have by features. No labels were used to choose it.",
    ),
    (
        "last",
        "Last epoch",
        "map_last",
        "epoch_last",
        "The value at the end of training. No epoch was chosen, so there is no selection bias.",
    ),
)
"""``select_on``, title, keys of value and epoch, and meaning."""


def write_html(folder: Path) -> Path:
    """Write ``report.html`` beside a run's ``report.json`` and return its path.

    The page is self-contained: it loads no files and runs no scripts; its links are relative.
    Values that the report does not contain are left out.
    """
    folder = Path(folder)
    path = folder / "report.html"
    write_text(path, render("run.html.j2", page_values(folder)))
    return path


def write_nearest(folder: Path, gallery: Sequence[Retrieved]) -> None:
    """Write ``nearest.json``, the images that ``report.html`` shows for a run without labels.

    Args:
        folder: of the run.
        gallery: queries with their nearest images; nothing is written if there are none.
    """
    write_gallery(RunPaths(folder).nearest_file, gallery)


def page_values(folder: Path) -> dict[str, Any]:
    """Return the values of the template, from the files of a run folder."""
    report, log = read_report(folder / "report.json"), read_log(folder / "log.jsonl")
    metrics, selection, protocol = (
        report.get(name) or {} for name in ("metrics", "selection", "protocol")
    )
    unlabelled = "note" in metrics
    title, value = metric_name(report), metrics.get("map")
    if unlabelled and metrics.get("agreement"):
        title = dict(AGREEMENT)["recall_at_10"]
        value = metrics["agreement"].get("recall_at_10")
    selected = {name: value for name, value in selection.items() if value is not None}
    retrieval_rows, folded = metric_rows(metrics)
    cutoffs, every_cutoff = cutoff_table(metrics)
    overrides = read_optional(folder / "overrides.txt").splitlines()
    name = str(report.get("run") or folder.name)
    training = _training_rows(report.get("training") or {})
    tables = {
        "Retrieval": retrieval_rows,
        "Agreement with features": value_rows(metrics.get("agreement")),
        "Conventions": value_rows(metrics.get("conventions")),
        "Selection": value_rows(selected) if unlabelled else [],
        "Protocol": value_rows(protocol),
        "Codebook": value_rows(report.get("codebook")),
        "Plugins": value_rows(report.get("plugins")),
    }
    with style.style():
        curves, retrieval = _training_figures(log, selection), _retrieval_figures(metrics)
    return {
        "title": name,
        "command": shlex.join(["deephash", "train", *overrides]) if overrides else "",
        "pages": [link for link in page_links(folder, folder, name) if link[0] != "run"],
        "files": file_links(folder, folder),
        "metric": title,
        "value": number(value),
        "note": unlabelled_note(report),
        "codes": unlabelled_metrics(metrics) if unlabelled else "",
        "chips": header_chips(report),
        "fingerprint": str(protocol.get("fingerprint", "")),
        "choices": map_choices(selection),
        "gap": selection_gap(selection),
        "curves": curves,
        "training": [("Time and work", training)] if training else [],
        "retrieval": retrieval,
        "reference": _reference_table(report),
        "not_beaten": not_beaten(report),
        "nearest": read_gallery(RunPaths(folder).nearest_file) if unlabelled else [],
        "cutoffs": cutoffs,
        "every_cutoff": every_cutoff,
        "tables": [(title, rows) for title, rows in tables.items() if rows],
        "folded": [("Statistics of the codes", folded)] if folded else [],
        "config": read_optional(folder / "config.yaml"),
        "environment": value_rows(report.get("environment")),
        "git": value_rows(report.get("git")),
        "made_by": f"deephash {report.get('deephash', '')}".strip(),
        "checkpoint": report.get("checkpoint"),
    }


def map_choices(selection: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the numbers that a run can be quoted with, and what each of them means.

    The list is empty if no mAP was computed.
    """
    if "map_last" in selection and selection["map_last"] is None:
        return []
    return [
        {
            "name": name,
            "value": number(selection[value]),
            "epoch": selection.get(epoch),
            "meaning": meaning,
            "reported": selection.get("select_on") == key,
        }
        for key, name, value, epoch, meaning in CHOICES
        if value in selection
    ]


def selection_gap(selection: Mapping[str, Any]) -> str:
    """Return a sentence on the gain from choosing the epoch on the queries; else empty."""
    best = selection.get("map_best_on_query")
    other, epoch = selection.get("map_at_val_epoch"), "the epoch chosen on validation"
    if other is None and selection.get("select_on") == "agreement":
        other, epoch = selection.get("map_at_agreement_epoch"), "the epoch chosen by agreement"
    if other is None:
        other, epoch = selection.get("map_last"), "the last epoch"
    if best is None or other is None:
        return ""
    text = f"Choosing on the queries is worth {best - other:+.4f} over {epoch}."
    if best == other:
        text = f"Choosing on the queries gives no more than {epoch}."
    every, epochs = selection.get("eval_every"), selection.get("epochs")
    if every and epochs:
        often = "every epoch" if every == 1 else f"every {every} epochs"
        if every >= epochs:
            often = "once, at the end"
        text += f" The run of {epochs} epochs was evaluated {often}"
        text += ", and stopped early." if selection.get("stopped_early") else "."
    return text


def _training_figures(
    log: Sequence[Mapping[str, Any]], selection: Mapping[str, Any]
) -> list[Figure]:
    """Return a figure of mAP, agreement, losses and learning rate over the epochs of training."""
    train = [line for line in log if line["where"] == "train"]
    terms = list(dict.fromkeys(key for line in train for key in line if key not in NOT_TERMS))
    if (
        len(terms) == 2
        and "loss" in terms
        and all(line.get(terms[0]) == line.get(terms[1]) for line in train)
    ):
        terms.remove("loss")  # the only term is the loss
    titles = {"query": "queries", "val": "validation"}
    evaluations = dict.fromkeys(line["where"] for line in log if "map" in line)
    steps = _steps_of_epoch(log)
    maps = {
        titles.get(where, where): _points([it for it in log if it["where"] == where], "map", steps)
        for where in evaluations
    }
    validation = [line for line in log if line["where"] == "val"]
    agreement = {"validation": _points(validation, "agreement", steps)}
    losses = {name: _points(train, name, steps) for name in terms}
    rates = {"learning rate": _points(train, "lr", steps)}
    panels = [
        Axes("mAP", maps, _padding([point[1] for line in maps.values() for point in line])),
        Axes("recall of the 10 nearest", agreement),
        Axes("loss", losses),
        Axes("learning rate", rates, (0.0,)),
    ]
    panels = [panel for panel in panels if any(panel.series.values())]
    if not panels:
        return []
    selected = selection.get("selected_epoch")
    marks = {} if selected is None else {f"selected: {selected}": float(selected)}
    caption = {
        "mAP": "mAP: each point is an evaluation.",
        "recall of the 10 nearest": "Agreement with features: the share of the 10 nearest by "
        "features that is among the 10 nearest by codes.",
        "loss": "Losses: means over the steps since the previous point, with their weights.",
    }
    parts = [caption[panel.y_label] for panel in panels if panel.y_label in caption]
    if marks:
        parts.append("The vertical line marks the epoch that is reported.")
    svg = line_plot("training", panels, "epoch", marks)
    return [("Over the epochs", " ".join(parts), Markup(svg))]


def _padding(values: Sequence[float]) -> tuple[float, ...]:
    """Return ends of an axis of mAP, so that no difference below `LEAST_RANGE` fills it."""
    finite = [value for value in values if is_number(value)]
    if not finite or max(finite) - min(finite) >= LEAST_RANGE:
        return ()
    middle = (max(finite) + min(finite)) / 2
    return max(0.0, middle - LEAST_RANGE / 2), min(1.0, middle + LEAST_RANGE / 2)


def _steps_of_epoch(log: Sequence[Mapping[str, Any]]) -> float:
    """Return the steps of an epoch, from the last evaluation if there is one."""
    lines = [line for line in log if line["epoch"] > 0 and line["step"] > 0]
    ends = [line for line in lines if line["where"] != "train"] or lines
    return ends[-1]["step"] / ends[-1]["epoch"] if ends else 1.0


def _retrieval_figures(metrics: Mapping[str, Any]) -> list[Figure]:
    """Return precision over recall, the effect of ties, and without labels statistics of codes."""
    figures = []
    curve = metrics.get("pr_curve") or {}
    columns = [curve.get(name) or [] for name in ("recall_macro", "precision_macro", "radius")]
    points: list[Point] = [
        (x, y, f"radius {radius}: precision {number(y)}, recall {number(x)}")
        for x, y, radius in zip(*columns, strict=False)
        if x is not None and y is not None
    ]
    if points:
        panel = Axes("precision", {"precision": points}, (0.0, 1.0))
        svg = line_plot("pr", [panel], "recall")
        caption = (
            "One point for each Hamming radius: all images within it are returned. Means over "
            "the queries; precision is 0 for a query with no image within the radius."
        )
        figures.append(("Precision and recall by radius", caption, svg))
    ties = {
        name: float(value)
        for name, value in (metrics.get("ties") or {}).items()
        if is_number(value)
    }
    if {"worst", "best"} <= ties.keys():
        caption = (
            "Images at the same Hamming distance have no defined order. This is the mAP for the "
            "worst and the best order, on average over all orders, and for the stable order."
        )
        figures.append(("Effect of ties", caption, range_plot("ties", ties, "worst", "best")))
    if "note" in metrics:
        figures += _code_figures(metrics)
    return [(title, caption, Markup(svg)) for title, caption, svg in figures]


def _code_figures(metrics: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Return distances and the balance of bits, for runs without labels."""
    figures = []
    pairs = get_nested(metrics, "codes", "distances", "share") or []
    queries = metrics.get("distances") or {}
    shares: dict[str, list[Point]] = {
        "pairs of the database": [(float(at), share) for at, share in enumerate(pairs)],
        "queries to database": list(
            zip(queries.get("distance") or [], queries.get("share") or [], strict=False)
        ),
    }
    shares = {name: points for name, points in shares.items() if points}
    if shares:
        caption = "The share of pairs at each Hamming distance, whatever their content."
        panel = Axes("share of pairs", shares, (0.0,))
        svg = line_plot("distances", [panel], "Hamming distance")
        figures.append(("Distances", caption, svg))
    ones = get_nested(metrics, "codes", "bits", "ones") or []
    if ones:
        points: list[Point] = [(float(bit), share) for bit, share in enumerate(ones, 1)]
        svg = line_plot("bits", [Axes("share of ones", {"ones": points}, (0.0, 1.0))], "bit")
        caption = "A balanced bit is at 1/2; one at 0 or 1 is dead, the same for all images."
        figures.append(("Balance of the bits", caption, svg))
    return figures


def _reference_table(report: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the run beside PCA with random rotations of the same features.

    Returns:
        ``head`` and ``rows`` of a table, and ``skipped``, the reason why there is none; None if the
        report does not contain a reference.
    """
    reference = report.get("reference") or {}
    if not reference:
        return None
    if reference.get("skipped"):
        return {"skipped": reference["skipped"], "head": [], "rows": []}
    columns = [measure for measure in measures(report) if measure.mean is not None]
    name = f"{report.get('method', 'this run')}, {report.get('nbit', '-')} bits"
    baseline = f"PCA + random rotation, mean ± sd of {reference.get('draws') or 'some'}"
    return {
        "skipped": "",
        "head": ["", *(measure.title for measure in columns)],
        "rows": [
            [name, *(number(measure.own) for measure in columns)],
            [baseline, *(measure.text for measure in columns)],
        ],
    }


def metric_rows(metrics: Mapping[str, Any]) -> tuple[Rows, Rows]:
    """Return the metrics that have neither a figure nor a table of their own.

    For runs without labels, metrics that need labels are left out.

    Returns:
        Measures of retrieval, and statistics of the codes.
    """
    drawn = {"ties", "pr_curve", "pr_curve_by_rank", "conventions", "agreement", "graded"}
    drawn |= {name for name in metrics if name.endswith("_at")}
    if "note" in metrics:
        drawn |= {"note", *(name for name, value in metrics.items() if value is None)}
    kept = {name: value for name, value in metrics.items() if name not in drawn}
    codes = kept.pop("codes", None)
    return value_rows(kept), value_rows(codes)


def _training_rows(training: Mapping[str, Any]) -> Rows:
    """Return facts about training, with long times also as h:mm:ss and shares in percent."""
    rows = []
    for name, value in value_rows(training):
        seconds = training.get(name)
        if name == "seconds" and isinstance(seconds, int | float) and seconds >= 60:
            value = f"{value} ({clock(seconds)})"
        if name == "data share" and training["data_share"] is not None:
            name, value = "waiting for data", f"{training['data_share']:.1%}"
        if name == "cached views":
            if training["cached_views"] is None:
                continue
            value = f"{value} fixed views of each image under each random pipeline, encoded once"
        rows.append((name, value))
    return rows


def _points(log: Sequence[Mapping[str, Any]], name: str, steps: float) -> list[Point]:
    """Return the values of one key over epochs of so many steps; nan and inf are text in JSON."""
    return [(line["step"] / steps, float(line[name])) for line in log if name in line]
