"""Pages and figures of evaluations: of one run, or of several in comparison."""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from deephash.errors import DataError
from deephash.report.figures.evaluation import (
    CodeSnapshot,
    Plane,
    Retrieved,
    figures_of,
)
from deephash.report.figures.images import codes_over_training, on_plane, retrieved
from deephash.report.figures.plots import NOTE
from deephash.report.figures.style import Drawing, style
from deephash.report.pages.base import (
    TitledTable,
    cutoff_table,
    format_value,
    header_chips,
    render,
    save_figures,
    value_rows,
)
from deephash.report.pages.gallery import gallery_values
from deephash.report.pages.links import file_links, page_links
from deephash.report.run_groups import RunGroup, first_runs, group_seeds, mark_differences
from deephash.report.tables import format_sd
from deephash.report.values import (
    Report,
    is_number,
    metric_name,
    unlabelled_note,
    unlabelled_sentence,
)
from deephash.utils.files import remove, write_json, write_text
from deephash.utils.formatting import number
from deephash.utils.nested import get_nested

NAMES = (
    "map",
    "map_over_bits",
    "precision_recall",
    "pr_by_rank",
    "pr_by_radius",
    "precision_at",
    "recall_at",
    "precision_within_radius_2",
    "distances",
    "pair_distances",
    "separability",
    "quantization",
    "orthogonality",
    "bits",
    "retrieved",
    "tsne",
    "codes_over_training",
)
"""Names of all figures; those that an evaluation does not make are removed."""

HEADLINES = {
    "P@H≤2": ("precision_within_radius_2", "mean_zero"),
    "non-empty": ("precision_within_radius_2", "mean_nonempty"),
    "empty": ("precision_within_radius_2", "empty_fraction"),
    "quantisation (Eq. 19)": ("codes", "quantization", "l2"),
    "angle° (Eq. 21)": ("codes", "quantization", "degrees"),
    "orthogonality (Eq. 22)": ("codes", "orthogonality", "value"),
    "separability (Eq. 23)": ("codes", "separability", "value"),
    "bit entropy": ("codes", "bits", "entropy"),
}
"""Columns of a comparison beside mAP."""

CURVES = ("pr_curve", "pr_curve_by_rank")

MATRIX_CLASSES = 20
"""With more classes there is no matrix of classes."""

LEAST_SHARE = 0.0005
"""Smallest share of another class that is listed: 0.1 % when rounded."""


def write_evaluation(
    folder: Path,
    report: Report,
    *,
    gallery: Mapping[str, Sequence[Retrieved]] | None = None,
    plane: Plane | None = None,
    snapshots: Sequence[CodeSnapshot] = (),
) -> list[Path]:
    """Write ``evaluation.html`` and ``figures/*.svg``, ``*.png`` of one evaluated run.

    The page is self-contained: it loads no files and runs no scripts; its links are relative.
    Metrics that were not computed are left out.

    Args:
        folder: of the run.
        report: as in ``evaluation.json``.
        gallery: queries with their nearest images, by kind; the first kind is also a figure.
        plane: codes in two dimensions.
        snapshots: codes of two or three bits at several epochs of training.

    Returns:
        The PNG files of the figures.
    """
    folder, gallery = Path(folder), gallery or {}
    with style():
        drawings = figures_of(group_seeds([report]))
        nearest = retrieved(next(iter(gallery.values()), ()))
        of_codes = (nearest, on_plane(plane), codes_over_training(snapshots))
        drawings += [drawing for drawing in of_codes if drawing is not None]
        files, plots = _write_figures(drawings, folder / "figures")
    run = Path(str(report.get("run") or folder))
    values = _evaluation_values(report) | {
        "pages": [
            link
            for link in page_links(folder, run, str(report.get("name") or ""))
            if link[0] != "evaluation"
        ],
        "files": file_links(folder, run),
        "nearest": gallery_values(gallery),
        # The nearest images are shown as a gallery.
        "plots": [plot for plot in plots if plot[0].name != "retrieved"],
    }
    write_text(folder / "evaluation.html", render("evaluation.html.j2", values))
    return files


def _class_values(classes: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return the table of classes, the lowest mAP first, and the matrix of returned classes."""
    rows = [row for row in (classes or {}).get("classes") or [] if row.get("map") is not None]
    if not rows or classes is None:
        return None
    names = [row["name"] for row in rows]
    table = []
    for row in sorted(rows, key=lambda row: float(row["map"])):
        others = [it for it in (row.get("others") or {}).items() if it[1] >= LEAST_SHARE][:3]
        table.append(
            {
                "name": row["name"],
                "queries": format_value(row["queries"]),
                "map": number(row["map"]),
                "share": float(row["map"]),
                "own": "-" if row["own"] is None else f"{row['own']:.1%}",
                "others": ", ".join(f"{name} {share:.1%}" for name, share in others) or "-",
            }
        )
    matrix = []
    if 1 < len(names) <= MATRIX_CLASSES:
        for row in rows:
            if row["own"] is None:  # none of its queries was compared
                continue
            shares = {**(row.get("others") or {}), row["name"]: row["own"]}
            matrix.append((row["name"], [float(shares.get(name, 0.0)) for name in names]))
    compared = classes.get("compared")
    return {
        "depth": classes.get("depth"),
        "compared": format_value(compared),
        "table": table,
        "names": names,
        "matrix": matrix,
    }


def write_comparison(
    folder: Path, reports: Sequence[Report], damaged: Mapping[str, str] | None = None
) -> list[Path]:
    """Write ``comparison.html`` of several runs, with its numbers and its figures.

    The numbers are in ``comparison.json``. Runs that differ only in the seed are summarised by mean
    and standard deviation (n - 1). Runs that were evaluated on other data than the first, or under
    another convention, are marked.

    Args:
        folder: of the files to write.
        reports: as in the ``evaluation.json`` of each run.
        damaged: runs that could not be read, with the reason.

    Returns:
        The PNG files of the figures.

    Raises:
        DataError: If there are no runs.
    """
    if not reports:
        raise DataError("there are no runs to compare")
    folder, groups, damaged = Path(folder), group_seeds(reports), dict(damaged or {})
    with style():
        files, plots = _write_figures(figures_of(groups), folder / "figures")
    numbers = {"schema": 1, "rows": [_group_numbers(group) for group in groups]}
    write_json(folder / "comparison.json", numbers | ({"damaged": damaged} if damaged else {}))
    more = {"plots": plots, "damaged": list(damaged.items())}
    page = render("comparison.html.j2", _comparison_values(groups) | more)
    write_text(folder / "comparison.html", page)
    return files


def _write_figures(
    drawings: Sequence[Drawing], folder: Path
) -> tuple[list[Path], list[tuple[Drawing, Markup]]]:
    """Write figures, and remove those of an earlier evaluation."""
    saved = save_figures(drawings, folder)
    for name in set(NAMES) - {drawing.name for drawing in drawings}:
        for suffix in ("svg", "png"):
            remove(folder / f"{name}.{suffix}")
    return [png for _, png, _ in saved], [(drawing, element) for drawing, _, element in saved]


def _evaluation_values(report: Report) -> dict[str, Any]:
    metrics, protocol = report.get("metrics") or {}, report.get("protocol") or {}
    cutoffs, every_cutoff = cutoff_table(metrics)
    tables = {
        "Retrieval": value_rows(_single_values(metrics, {"codes", "graded", "agreement"})),
        "Agreement with features": value_rows(metrics.get("agreement")),
        "Codes of the database": value_rows(_single_values(metrics.get("codes") or {})),
        "Conventions": value_rows(metrics.get("conventions")),
        "Protocol": value_rows(protocol),
        "Environment": value_rows(report.get("environment")),
    }
    return {
        "title": str(report.get("name") or report.get("run") or "evaluation"),
        "metric": metric_name(report),
        "map": number(metrics.get("map")),
        "note": unlabelled_note(report),
        "chips": header_chips(report),
        "settings": str(report.get("full_name") or ""),
        "fingerprint": str(protocol.get("fingerprint") or ""),
        "checkpoint": report.get("checkpoint"),
        "tables": [(title, rows) for title, rows in tables.items() if rows],
        "classes": _class_values(report.get("classes")),
        "cutoffs": cutoffs,
        "every_cutoff": every_cutoff,
        "grids": [table for table in _list_tables(metrics) if table[2]],
    }


def _comparison_values(groups: Sequence[RunGroup]) -> dict[str, Any]:
    measured = first_runs(groups)
    runs = [run for group in groups for run in group.runs]
    return {
        "title": f"{len(runs)} runs" if len(runs) > 1 else "1 run",
        "metric": metric_name(groups[0].runs[0]),
        "common": groups[0].common,
        "note": f"{NOTE}; their numbers do not compare" if len(measured) > 1 else "",
        "without_labels": unlabelled_sentence(runs),
        "notes": list(mark_differences(groups).items()),
        "rows": _headline_table(groups),
        "runs": _run_table(groups),
        "all": _number_table(groups),
        "ways": [
            (
                f"Measured as {mark}" if mark else "Measured on, and how",
                value_rows(get_nested(run, "protocol"))
                + value_rows(get_nested(run, "metrics", "conventions")),
            )
            for mark, run in measured.items()
        ],
    }


def _headline_table(groups: Sequence[RunGroup]) -> TitledTable:
    """Return a row for each group with the numbers that papers print."""
    columns = {
        name: keys
        for name, keys in {metric_name(groups[0].runs[0]): ("map",), **HEADLINES}.items()
        if any(math.isfinite(group.mean_sd("metrics", *keys)[0]) for group in groups)
    }
    with_labels = any(group.label != group.name for group in groups)
    lines = []
    for group in groups:
        line = [group.name]
        if with_labels:
            line.append(group.label if group.label != group.name else "")
        line += [str(group.nbit), str(len(group.runs))]
        for value in (_format_group(group, keys) for keys in columns.values()):
            line.append(f"{value} {group.mark}" if group.mark and value != "-" else value)
        lines.append(line)
    head = ["method", "in the figures"] if with_labels else ["method"]
    return "Mean ± sd (n − 1) over the seeds", [*head, "bits", "runs", *columns], lines


def _run_table(groups: Sequence[RunGroup]) -> TitledTable:
    """Return a row for each run with everything that identifies it."""
    lines = [
        [
            str(run.get("name") or run.get("run") or ""),
            group.label,
            str(group.nbit),
            format_value(run.get("seed")),
            f"{number(get_nested(run, 'metrics', 'map'))} {group.mark}".strip(),
            format_value(get_nested(run, "metrics", "queries")),
            format_value(get_nested(run, "metrics", "database")),
            format_value(run.get("checkpoint")),
            str(get_nested(run, "protocol", "fingerprint") or "-")[:12],
        ]
        for group in groups
        for run in group.runs
    ]
    head = ["run", "in the figures", "bits", "seed", metric_name(groups[0].runs[0]), "queries",
            "database", "checkpoint", "fingerprint"]  # fmt: skip
    return "Runs", head, lines


def _number_table(groups: Sequence[RunGroup]) -> TitledTable:
    """Return a row for each number and a column for each group."""
    paths = dict.fromkeys(keys for group in groups for keys in _number_paths(group.runs))
    lines = [
        [": ".join(keys).replace("_", " "), *(_format_group(group, keys) for group in groups)]
        for keys in paths
    ]
    return "All numbers", ["", *(f"{group.name}, {group.nbit} bits" for group in groups)], lines


def _group_numbers(group: RunGroup) -> dict[str, Any]:
    """Return the entry of a group in ``comparison.json``: its means, and all its runs."""
    means = {}
    for keys in _number_paths(group.runs):
        mean, sd = group.mean_sd("metrics", *keys)
        means[".".join(keys)] = {"mean": mean, "sd": sd if math.isfinite(sd) else None}
    return {
        "name": group.name,
        "label": group.label,
        "mark": group.mark,
        "nbit": group.nbit,
        "seeds": [run.get("seed") for run in group.runs],
        "fingerprint": get_nested(group.runs[0], "protocol", "fingerprint"),
        "conventions": get_nested(group.runs[0], "metrics", "conventions"),
        "metrics": means,
        "runs": [
            {
                **{key: run.get(key) for key in ("name", "run", "seed", "checkpoint")},
                "metrics": {
                    ".".join(keys): get_nested(run, "metrics", *keys)
                    for keys in _number_paths([run])
                },
            }
            for run in group.runs
        ],
    }


def _number_paths(runs: Iterable[Report]) -> dict[tuple[str, ...], None]:
    """Return the keys of all numbers in the metrics of runs, except those in lists."""
    paths: dict[tuple[str, ...], None] = {}

    def walk(values: Mapping[str, Any], keys: tuple[str, ...]) -> None:
        for name, value in values.items():
            if isinstance(value, Mapping):
                walk(value, (*keys, str(name)))
            elif is_number(value):
                paths[(*keys, str(name))] = None

    for run in runs:
        metrics = get_nested(run, "metrics") or {}
        walk({key: value for key, value in metrics.items() if key != "conventions"}, ())
    return paths


def _format_group(group: RunGroup, keys: tuple[str, ...]) -> str:
    """Return a number with its deviation."""
    mean, sd = group.mean_sd("metrics", *keys)
    if not math.isfinite(mean):
        return "-"
    if all(isinstance(get_nested(run, "metrics", *keys), int) for run in group.runs):
        text = f"{mean:,.0f}" if mean == round(mean) else f"{mean:,.1f}"
    else:
        text = number(mean) if abs(mean) < 10 else f"{mean:,.2f}"
    return text + (format_sd(sd, 4 if abs(mean) < 10 else 2) if sd else "")


def _single_values(values: Mapping[str, Any], without: Iterable[str] = ()) -> dict[str, Any]:
    """Return the values that fit a table: no lists, no values by cutoff, no conventions.

    For runs without labels, metrics that need labels are left out.
    """
    kept: dict[str, Any] = {}
    for name, value in values.items():
        if (
            name in (*without, "note", "conventions", *CURVES)
            or name.endswith("_at")
            or isinstance(value, list)
            or (value is None and "note" in values)
        ):
            continue
        if isinstance(value, Mapping):
            value = {key: item for key, item in value.items() if not isinstance(item, list)}
            if not value:
                continue
        kept[name] = value
    return kept


def _list_tables(metrics: Mapping[str, Any]) -> list[TitledTable]:
    """Return the numbers behind the curves and the histograms."""
    ones = get_nested(metrics, "codes", "bits", "ones")
    histograms = get_nested(metrics, "codes", "histograms") or {}
    length = max(len(histograms.get(kind) or []) for kind in ("intra", "inter"))
    share = get_nested(metrics, "codes", "distances", "share") or []
    lists = {
        "By Hamming radius": metrics.get("pr_curve") or {},
        "By rank": metrics.get("pr_curve_by_rank") or {},
        "Pairs of database images by distance": {"distance": list(range(length)), **histograms},
        "All pairs of database images by distance": {
            "distance": list(range(len(share))),
            "share": share,
        },
        "Queries and database images by distance": metrics.get("distances") or {},
        "Bits": {"bit": list(range(1, len(ones or []) + 1)), "share of ones": ones},
    }
    tables = []
    for title, named in lists.items():
        columns = {name: it for name, it in named.items() if it and isinstance(it, list)}
        lines = [[*map(format_value, line)] for line in zip(*columns.values(), strict=False)]
        tables.append((title, [name.replace("_", " ") for name in columns], lines))
    return tables
