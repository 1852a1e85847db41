"""Runs that were measured again, as figures and pages: one run, or several side by side."""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from deephash.errors import DataError
from deephash.report.figures import canvas
from deephash.report.figures.canvas import Drawing
from deephash.report.figures.evaluation import Plane, Retrieved, Snapshot, figures_of
from deephash.report.figures.images import codes_over_training, on_plane, retrieved
from deephash.report.figures.panels import NOTE
from deephash.report.pages.base import chips, render, rows_of, shown
from deephash.report.rows import (
    Found,
    Row,
    differences,
    is_number,
    note_of,
    rows_of_runs,
    ways_of,
    without_labels,
)
from deephash.utils.files import make_folder, make_subfolder, remove, write_json, write_text
from deephash.utils.formatting import number
from deephash.utils.nested import get_nested

NAMES = (
    "map",
    "map_over_bits",
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
"""Of all figures there can be: what an earlier evaluation left of them is swept away."""

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
"""The columns of a comparison beside mAP."""

CURVES = ("pr_curve", "pr_curve_by_rank")

Table = tuple[str, list[str], list[list[str]]]
"""A title, a head and rows."""


def write_evaluation(
    folder: Path,
    found: Found,
    *,
    gallery: Sequence[Retrieved] = (),
    plane: Plane | None = None,
    snapshots: Sequence[Snapshot] = (),
) -> list[Path]:
    """Write ``evaluation.html`` and ``figures/*.svg``, ``*.png`` of one run that was measured.

    The page stands alone: it loads nothing, runs no script, and can be sent to somebody. What was
    not measured is left out of it.

    Args:
        folder: of the run.
        found: as in ``evaluation.json``.
        gallery: queries with their nearest images.
        plane: codes in two dimensions.
        snapshots: of codes of two or three bits, as training went on.

    Returns:
        The figures' PNG files.
    """
    folder = Path(folder)
    with canvas.style():
        pictures = (retrieved(gallery), on_plane(plane), codes_over_training(snapshots))
        drawings = figures_of(rows_of_runs([found]))
        drawings += [drawing for drawing in pictures if drawing is not None]
        paths, plots = _write(drawings, folder / "figures")
    page = render("evaluation.html.j2", _page_of_one(found) | {"plots": plots})
    write_text(folder / "evaluation.html", page)
    return paths


def write_comparison(
    folder: Path, found: Sequence[Found], damaged: Mapping[str, str] | None = None
) -> list[Path]:
    """Write several runs side by side: ``comparison.html``, its numbers and its figures.

    The numbers are in ``comparison.json``. Runs that differ in nothing but the seed are one line,
    their mean and deviation (n - 1); runs that were measured on other data than the first, or
    under another convention, are marked wherever they stand.

    Args:
        folder: where to write.
        found: as in the ``evaluation.json`` of each run.
        damaged: runs that could not be read, and why; the page and the numbers name them.

    Returns:
        The figures' PNG files.

    Raises:
        DataError: if there is no run.
    """
    if not found:
        raise DataError("there are no runs to compare")
    folder, rows = Path(folder), rows_of_runs(found)
    with canvas.style():
        paths, plots = _write(figures_of(rows), folder / "figures")
    numbers, lost = _numbers(rows), dict(damaged or {})
    write_json(folder / "comparison.json", numbers | ({"damaged": lost} if lost else {}))
    more = {"plots": plots, "damaged": list(lost.items())}
    page = render("comparison.html.j2", _page_of_several(rows) | more)
    write_text(folder / "comparison.html", page)
    return paths


def _write(
    drawings: Sequence[Drawing], folder: Path
) -> tuple[list[Path], list[tuple[Drawing, Markup]]]:
    """The files of the figures, and the figures as they stand on the page."""
    make_folder(folder.parent)
    make_subfolder(folder)
    paths, plots = [], []
    for one in map(canvas.readable, drawings):
        svg, png = canvas.save(one.figure, folder, one.name)
        drawn = canvas.inline(svg.read_text(encoding="utf-8"), one.name, one.title)
        paths.append(png)
        plots.append((one, Markup(drawn)))
    for name in set(NAMES) - {one.name for one in drawings}:
        for kind in ("svg", "png"):
            remove(folder / f"{name}.{kind}")
    return paths, plots


def _page_of_one(found: Found) -> dict[str, Any]:
    metrics, protocol = found.get("metrics") or {}, found.get("protocol") or {}
    conventions = metrics.get("conventions") or {}
    tables = {
        "Retrieval": rows_of(_plain(metrics, {"codes", "graded", "agreement"})),
        "Agreement with features": rows_of(metrics.get("agreement") or {}),
        "Codes of the database": rows_of(_plain(metrics.get("codes") or {})),
        "Conventions": rows_of(conventions),
        "Protocol": rows_of(protocol),
        "Environment": rows_of(found.get("environment") or {}),
    }
    return {
        "title": str(found.get("name") or found.get("run") or "evaluation"),
        "metric": str(conventions.get("metric") or "mAP"),
        "map": number(metrics.get("map")),
        "note": note_of(found),
        "chips": chips(found, protocol),
        "fingerprint": str(protocol.get("fingerprint") or ""),
        "checkpoint": found.get("checkpoint"),
        "run": found.get("run"),
        "tables": [(title, rows) for title, rows in tables.items() if rows],
        "grids": [one for one in (_cuts(metrics), *_lists(metrics)) if one[2]],
    }


def _page_of_several(rows: Sequence[Row]) -> dict[str, Any]:
    ways = ways_of(rows)
    runs = [run for row in rows for run in row.runs]
    return {
        "title": f"{len(runs)} runs" if len(runs) > 1 else "1 run",
        "metric": _metric(rows),
        "common": rows[0].common,
        "note": f"{NOTE}; their numbers do not compare" if len(ways) > 1 else "",
        "without_labels": without_labels(runs),
        "notes": list(differences(rows).items()),
        "rows": _headlines(rows),
        "runs": _runs(rows),
        "all": _all_numbers(rows),
        "ways": [
            (
                f"Measured as {mark}" if mark else "Measured on, and how",
                rows_of(get_nested(run, "protocol") or {})
                + rows_of(get_nested(run, "metrics", "conventions") or {}),
            )
            for mark, run in ways.items()
        ],
    }


def _metric(rows: Sequence[Row]) -> str:
    return str(get_nested(rows[0].runs[0], "metrics", "conventions", "metric") or "mAP")


def _headlines(rows: Sequence[Row]) -> Table:
    """A row for each row, and what a paper's tables would hold of it."""
    columns = {_metric(rows): ("map",), **HEADLINES}
    columns = {
        name: path
        for name, path in columns.items()
        if any(math.isfinite(row.value("metrics", *path)[0]) for row in rows)
    }
    clipped = any(row.label != row.name for row in rows)
    lines = []
    for row in rows:
        values = [_said(row, path) for path in columns.values()]
        if row.mark:
            values = [f"{value} {row.mark}" if value != "-" else value for value in values]
        short = [row.label if row.label != row.name else ""] if clipped else []
        lines.append([row.name, *short, str(row.nbit), str(len(row.runs)), *values])
    title = "Mean ± sd (n − 1) over the seeds"
    short = ["in the figures"] if clipped else []
    return title, ["method", *short, "bits", "runs", *columns], lines


def _runs(rows: Sequence[Row]) -> Table:
    """A row for each run, with all that says which one it is."""
    lines = [
        [
            str(run.get("name") or run.get("run") or ""),
            row.label,
            str(row.nbit),
            shown(run.get("seed")),
            number(get_nested(run, "metrics", "map")) + (f" {row.mark}" if row.mark else ""),
            shown(get_nested(run, "metrics", "queries")),
            shown(get_nested(run, "metrics", "database")),
            shown(run.get("checkpoint")),
            str(get_nested(run, "protocol", "fingerprint") or "-")[:12],
        ]
        for row in rows
        for run in row.runs
    ]
    head = ["run", "in the figures", "bits", "seed", _metric(rows), "queries", "database"]
    return "Runs", [*head, "checkpoint", "fingerprint"], lines


def _all_numbers(rows: Sequence[Row]) -> Table:
    """A row for each number, a column for each row."""
    paths = dict.fromkeys(path for row in rows for run in row.runs for path in _paths(run))
    lines = [
        [": ".join(path).replace("_", " "), *(_said(row, path) for row in rows)] for path in paths
    ]
    return "All numbers", ["", *(f"{row.name}, {row.nbit} bits" for row in rows)], lines


def _numbers(rows: Sequence[Row]) -> dict[str, Any]:
    """What ``comparison.json`` holds: the means of the rows and the numbers of each run."""
    told = []
    for row in rows:
        paths = dict.fromkeys(path for run in row.runs for path in _paths(run))
        means = {}
        for path in paths:
            mean, deviation = row.value("metrics", *path)
            means[".".join(path)] = {
                "mean": mean,
                "sd": deviation if math.isfinite(deviation) else None,
            }
        told.append(
            {
                "name": row.name,
                "label": row.label,
                "mark": row.mark,
                "nbit": row.nbit,
                "seeds": [run.get("seed") for run in row.runs],
                "fingerprint": get_nested(row.runs[0], "protocol", "fingerprint"),
                "conventions": get_nested(row.runs[0], "metrics", "conventions"),
                "metrics": means,
                "runs": [
                    {
                        **{key: run.get(key) for key in ("name", "run", "seed", "checkpoint")},
                        "metrics": {
                            ".".join(path): get_nested(run, "metrics", *path)
                            for path in _paths(run)
                        },
                    }
                    for run in row.runs
                ],
            }
        )
    return {"schema": 1, "rows": told}


def _paths(run: Found) -> Iterable[tuple[str, ...]]:
    """The places of all numbers in the metrics of a run, but those in lists."""

    def walk(values: Mapping[str, Any], path: tuple[str, ...]) -> Iterable[tuple[str, ...]]:
        for name, value in values.items():
            if isinstance(value, Mapping):
                yield from walk(value, (*path, str(name)))
            elif is_number(value):
                yield (*path, str(name))

    metrics = get_nested(run, "metrics") or {}
    return walk({key: value for key, value in metrics.items() if key != "conventions"}, ())


def _said(row: Row, path: tuple[str, ...]) -> str:
    """A number with its deviation, as many digits as a table needs."""
    mean, deviation = row.value("metrics", *path)
    if not math.isfinite(mean):
        return "-"
    if all(isinstance(get_nested(run, "metrics", *path), int) for run in row.runs):
        text = f"{mean:,.0f}" if mean == round(mean) else f"{mean:,.1f}"
    else:
        text = number(mean) if abs(mean) < 10 else f"{mean:,.2f}"
    if not math.isfinite(deviation) or deviation == 0:
        return text
    return f"{text} ± {deviation:.4f}" if abs(mean) < 10 else f"{text} ± {deviation:.2f}"


def _plain(values: Mapping[str, Any], but: Iterable[str] = ()) -> dict[str, Any]:
    """What makes rows of a table: no lists, nothing by N, no conventions.

    Where nothing was measured with labels, what needs them is left out.
    """
    kept: dict[str, Any] = {}
    for name, value in values.items():
        if name == "note" or (value is None and "note" in values):
            continue
        if name in but or name == "conventions" or name.endswith("_at") or isinstance(value, list):
            continue
        if isinstance(value, Mapping):
            value = {key: one for key, one in value.items() if not isinstance(one, list)}
            if not value or name in CURVES:
                continue
        kept[name] = value
    return kept


def _cuts(metrics: Mapping[str, Any]) -> Table:
    """All that is told by N, side by side."""
    columns = {
        "P@N": metrics.get("precision_at"),
        "recall@N": metrics.get("recall_at"),
        "hit rate@N": metrics.get("hit_rate_at"),
        "mAP@N": metrics.get("map_at"),
        "ACG@N": get_nested(metrics, "graded", "acg_at"),
        "NDCG@N": get_nested(metrics, "graded", "ndcg_at"),
        "wMAP@N": get_nested(metrics, "graded", "wmap_at"),
    }
    columns = {
        name: values
        for name, values in columns.items()
        if values and any(value is not None for value in values.values())
    }
    cuts = sorted({str(cut) for values in columns.values() for cut in values}, key=_as_cut)
    gain = get_nested(metrics, "graded", "gain")
    title = "By the number N of images returned" + (f"; gain of NDCG: {gain}" if gain else "")
    lines = [
        [f"{int(cut):,}" if cut.isdecimal() else cut]
        + [number(values.get(cut)) for values in columns.values()]
        for cut in cuts
    ]
    return title, ["N", *columns], lines


def _as_cut(cut: str) -> tuple[int, str]:
    return (int(cut), "") if cut.isdecimal() else (0, cut)


def _lists(metrics: Mapping[str, Any]) -> list[Table]:
    """The numbers behind the curves and the histograms."""
    ones = get_nested(metrics, "codes", "bits", "ones")
    histograms = get_nested(metrics, "codes", "histograms") or {}
    length = max(len(histograms.get(kind) or []) for kind in ("intra", "inter"))
    by_distance = {"distance": list(range(length)), **histograms}
    pairs = get_nested(metrics, "codes", "distances", "share") or []
    by_bit = {"bit": list(range(1, len(ones or []) + 1)), "share of ones": ones}
    return [
        _columns("By Hamming radius", metrics.get("pr_curve") or {}),
        _columns("By rank", metrics.get("pr_curve_by_rank") or {}),
        _columns("Pairs of database images by distance", by_distance),
        _columns(
            "All pairs of database images by distance",
            {"distance": list(range(len(pairs))), "share": pairs},
        ),
        _columns("Queries and database images by distance", metrics.get("distances") or {}),
        _columns("Bits", by_bit),
    ]


def _columns(title: str, lists: Mapping[str, Any]) -> Table:
    columns = {
        name: values for name, values in lists.items() if values and isinstance(values, list)
    }
    lines = zip(*columns.values(), strict=False)
    head = [name.replace("_", " ") for name in columns]
    return title, head, [[shown(value) for value in line] for line in lines]
