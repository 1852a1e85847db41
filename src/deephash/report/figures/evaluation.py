"""Figures of one evaluated run, or of several in comparison.

Each function takes groups of runs and returns a drawing, or None if the reports do not contain its
numbers. A method has the same colour, marker and dashes in all figures. Equation and figure numbers
are those of the RelaHash paper, Minh et al., IEEE Access 2023.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from deephash.report.figures.plots import (
    SIZES,
    Keys,
    Line,
    bar_panels,
    bits_of,
    draw_line,
    finish,
    frame,
    line_panels,
    log_axis,
    over_bits,
    panel_grid,
    sample_line,
)
from deephash.report.figures.style import BLUE, VERMILION, Drawing, halo, sheet, wrapped
from deephash.report.run_groups import RunGroup
from deephash.report.values import Floats, as_floats, metric_name
from deephash.utils.nested import get_nested

Array = npt.NDArray[Any]

UNIT = {"xlim": (-0.01, 1.02), "ylim": (-0.01, 1.03)}

EMPTY, NONEMPTY = "an empty ball counts 0", "non-empty balls only"
"""Conventions of precision within a radius."""

CONVENTIONS = ("ties", "denominator", "empty", "own")

TIES = "Ties: the mean over all orders of the images at the same distance."


@dataclass(frozen=True)
class Retrieved:
    """A query and its nearest images."""

    query: Array  # (H, W, 3) uint8
    title: str
    images: list[Array]  # (H, W, 3) uint8, nearest first
    right: list[bool] | None  # relevant to the query; None where there are no labels
    captions: list[str]
    names: list[str] = field(default_factory=list)  # ids of the query and of the images


@dataclass(frozen=True)
class Plane:
    """Projection of codes to two dimensions."""

    points: Array  # (N, 2)
    classes: Array  # (N,) int, -1 for none
    names: list[str]  # of the classes; may be empty
    what: str  # how they were projected, as a caption


@dataclass(frozen=True)
class CodeSnapshot:
    """Continuous codes of two or three bits at one epoch of training."""

    epoch: int
    z: Array  # (n, K)
    classes: Array  # (n,)
    centers: Array | None  # (C, K)


def figures_of(rows: Sequence[RunGroup]) -> list[Drawing]:
    """Return all figures that can be drawn from the numbers of some runs."""
    draws = (
        draw_map_over_bits,
        draw_precision_within_radius_2,
        *((draw_precision_recall,) if len(rows) == 1 else (draw_pr_by_rank, draw_pr_by_radius)),
        draw_precision_at,
        draw_recall_at,
        draw_distances,
        draw_pair_distances,
        draw_separability,
        draw_quantization,
        draw_orthogonality,
        draw_bits,
    )
    return [drawing for draw in draws if (drawing := draw(rows)) is not None]


def draw_map_over_bits(rows: Sequence[RunGroup]) -> Drawing | None:
    """Draw mAP over the number of bits (Fig. 5), or bars if there is only one."""
    metric = metric_name(rows[0].runs[0])
    conventions = get_nested(rows[0].runs[0], "metrics", "conventions") or {}
    named = ", ".join(f"{key} {value}" for key in CONVENTIONS if (value := conventions.get(key)))
    caption = f"{metric} of the queries ({named})." if named else f"{metric} of the queries."
    if len(bits_of(rows)) == 1:
        return _several(rows, "map", metric, caption, {metric: ("metrics", "map")})
    figure, panels = sheet(size=(6.4, 4.2))
    handles = over_bits(panels[0, 0], rows, ("metrics", "map"))
    panels[0, 0].set_ylabel(metric)
    title = f"{metric} over bits"
    if not handles:
        return None
    return finish(figure, "map_over_bits", title, caption, rows, handles, with_sd=True)


def draw_precision_within_radius_2(rows: Sequence[RunGroup]) -> Drawing | None:
    """Draw precision within Hamming radius 2 over the number of bits, or bars if there is only one.

    Both conventions for empty balls are shown.
    """
    name, title = "precision_within_radius_2", "Precision within Hamming radius 2"
    ball = ("metrics", "precision_within_radius_2")
    caption = "Precision among the images at most 2 bits away, the mean over the queries. "
    if len(bits_of(rows)) == 1:
        caption += (
            "Left, a query with an empty ball counts as 0; right, only the queries whose ball "
            "contains an image, which may be few."
        )
        kinds = {EMPTY: "mean_zero", NONEMPTY: "mean_nonempty"}
        columns = {
            f"precision within radius 2, {kind}": (*ball, key) for kind, key in kinds.items()
        }
        drawn = _several(rows, name, title, caption, columns)
        if drawn is not None:
            reach = max(panel.get_xlim()[1] for panel in drawn.figure.axes)
            for panel in drawn.figure.axes:
                panel.set_xlim(0, reach)
        return drawn
    figure, panels = sheet(size=(6.4, 4.2))
    handles = over_bits(panels[0, 0], rows, (*ball, "mean_zero"), linestyle="-")
    hollow = {"linestyle": (0, (4, 2)), "markerfacecolor": "white", "linewidth": 1.1}
    over_bits(panels[0, 0], rows, (*ball, "mean_nonempty"), **hollow)
    panels[0, 0].set_ylabel("precision within radius 2")
    caption += (
        "Solid, filled: a query with an empty ball counts as 0. Dashed, hollow: only the queries "
        "whose ball contains an image, which may be few."
    )
    if not handles:
        return None
    handles |= {EMPTY: sample_line(), NONEMPTY: sample_line(**hollow)}
    return finish(figure, name, title, caption, rows, handles, with_sd=True)


RADIUS_CAPTION = (
    "By radius: all images within each Hamming radius r are returned. Macro: mean over the "
    "queries, where precision is 0 for a query with an empty ball and recall is over the queries "
    "that have relevant images. Micro: the balls of all queries pooled."
)
RANK_CAPTION = (
    "By rank: the first k images are returned, for growing k; precision is the mean over all "
    f"queries, recall over the queries that have relevant images. {TIES}"
)


def _pr_lines() -> tuple[Callable[[RunGroup], Line], dict[str, Callable[[RunGroup], Line]]]:
    """Return the curve by rank, and those by radius, of a group."""
    path = ("metrics", "pr_curve")
    by_radius: dict[str, Callable[[RunGroup], Line]] = {
        kind: partial(_line, path=path, x=f"recall_{kind}", y=f"precision_{kind}")
        for kind in ("macro", "micro")
    }
    by_rank = partial(_line, path=("metrics", "pr_curve_by_rank"), x="recall", y="precision")
    return by_rank, by_radius


def draw_precision_recall(rows: Sequence[RunGroup]) -> Drawing | None:
    """Draw precision over recall of one run, by rank (Fig. 6a) and by Hamming radius."""
    (row,) = rows
    by_rank, by_radius = _pr_lines()
    lines = {"by rank": by_rank(row)}
    lines |= {f"by radius, {kind}": of(row) for kind, of in by_radius.items()}
    figure, panels = sheet(size=SIZES[1])
    panel = panels[0, 0]
    panel.set(**UNIT)
    handles = {
        label: draw_line(panel, replace(row, index=place, label=label), line)
        for place, (label, line) in enumerate(lines.items())
        if len(line[0])
    }
    if not handles:
        return None
    rank = row.mean_list("metrics", "pr_curve_by_rank", "rank")
    if len(rank) == len(lines["by rank"][0]):
        _point_out(panel, lines["by rank"], "k", rank, (1, 10, 100, 1000, 10000))
    caption = f"{RANK_CAPTION} {RADIUS_CAPTION}"
    radius = row.mean_list("metrics", "pr_curve", "radius")
    empty = row.mean_list("metrics", "pr_curve", "empty_fraction")
    if len(radius) == len(empty) and 2 in radius:
        caption += f" Empty balls at r = 2: {empty[radius == 2][0]:.1%}."
    if len(radius) == len(lines["by radius, macro"][0]):
        _point_out(panel, lines["by radius, macro"], "r", radius, (2,))
    frame(panels, [(0, 0)], "recall", "precision")
    return finish(figure, "precision_recall", "Precision and recall", caption, rows, handles)


def draw_pr_by_radius(rows: Sequence[RunGroup]) -> Drawing | None:
    """Draw precision over recall of several runs for growing Hamming radius, macro and micro."""
    drawn = line_panels(rows, _pr_lines()[1], "recall", "precision", UNIT)
    title = "Precision and recall by radius"
    return drawn and finish(drawn[0], "pr_by_radius", title, RADIUS_CAPTION, rows, drawn[1])


def draw_pr_by_rank(rows: Sequence[RunGroup]) -> Drawing | None:
    """Draw precision over recall of several runs for a growing number of images (Fig. 6a)."""
    drawn = line_panels(rows, {"": _pr_lines()[0]}, "recall", "precision", UNIT)
    title = "Precision and recall by rank"
    return drawn and finish(drawn[0], "pr_by_rank", title, RANK_CAPTION, rows, drawn[1])


def draw_precision_at(rows: Sequence[RunGroup]) -> Drawing | None:
    """Draw the precision of the first N (Fig. 6b)."""
    caption = (
        "P@N: the share of the first N images that is relevant, the mean over all queries. " + TIES
    )
    return _at(rows, "precision_at", "Precision at N", caption, "precision@N")


def draw_recall_at(rows: Sequence[RunGroup]) -> Drawing | None:
    """Draw the recall of the first N."""
    caption = (
        "Recall@N: the share of a query's relevant images that is among the first N, the mean over "
        f"the queries that have any. {TIES}"
    )
    return _at(rows, "recall_at", "Recall at N", caption, "recall@N")


def draw_quantization(rows: Sequence[RunGroup]) -> Drawing | None:
    """Draw the quantisation error in three forms (Fig. 10)."""
    path = ("metrics", "codes", "quantization")
    columns = {
        "mean ‖z − h‖  (Eq. 19)": (*path, "l2"),
        "mean ‖z − h‖²  (Eq. 20)": (*path, "squared_l2"),
        "mean angle, degrees  (Eq. 21)": (*path, "degrees"),
    }
    caption = (
        "Distance between the outputs z of the encoder for the database and their bits "
        "h = sgn(z). Not divided by the number of bits; zero vectors have no angle and are left "
        "out of its mean."
    )
    return _several(rows, "quantization", "Quantisation error", caption, columns)


def draw_orthogonality(rows: Sequence[RunGroup]) -> Drawing | None:
    """Draw the deviation of the class centres from orthogonality (Fig. 11)."""
    columns = {"‖HHᵀ/K − I‖  (Eq. 22)": ("metrics", "codes", "orthogonality", "value")}
    caption = (
        "Frobenius norm; row c of H is the sign of the mean code of the database images of class c."
        " 0 if the centres of the C classes are orthogonal; random ones have about "
        "√(C (C − 1) / K) with K bits."
    )
    return _several(rows, "orthogonality", "Orthogonality of the class centres", caption, columns)


def draw_separability(rows: Sequence[RunGroup]) -> Drawing | None:
    """Draw the difference between mean distances of dissimilar and similar images (Fig. 12)."""
    columns = {"bits  (Eq. 23)": ("metrics", "codes", "separability", "value")}
    caption = (
        "Mean Hamming distance of the pairs of database images that share no label, less that of "
        "the pairs that do; means over pairs, not over classes."
    )
    return _several(rows, "separability", "Separability", caption, columns)


def draw_distances(rows: Sequence[RunGroup]) -> Drawing | None:
    """Draw histograms of the distances within and between classes (Fig. 13)."""
    shown = [row for row in rows if all(len(one) for one in _histograms(row))]
    if not shown:
        return None
    shown.sort(key=lambda row: (row.nbit, row.index))
    most = panel_grid(max(sum(row.nbit == nbit for row in shown) for nbit in bits_of(shown)))[1]
    down, across = panel_grid(len(shown), min(len(shown), most * (4 // most)))
    places = [divmod(place, across) for place in range(len(shown))]
    size = SIZES[1] if len(shown) == 1 else (3.2, 2.1)
    figure, panels = sheet(down, across, size)
    peaks: dict[int, float] = {}
    for row in shown:
        reach = [float(np.nanmax(one, initial=0)) for one in _histograms(row)]
        peaks[row.nbit] = max(peaks.get(row.nbit, 0), *reach)
    handles, before = {}, -1
    for row, place in zip(shown, places, strict=True):
        panel, word = panels[place], "" if len(shown) > 1 else "separability "
        handles = _distances(panel, row, peaks[row.nbit] or 1, word)
        panel.tick_params(labelleft=place[1] == 0 or row.nbit != before)
        before = row.nbit
        if len(shown) > 1:
            panel.set_title(wrapped(f"{row.label}, {row.nbit} bits"), fontsize=9)
    frame(panels, places, "Hamming distance", "share of pairs")
    title, caption = "Distances within and between classes", _pairs(shown)
    if len(peaks) > 1:
        caption += " All runs with the same number of bits share the vertical scale."
    return finish(figure, "distances", title, caption, rows, handles)


def draw_pair_distances(rows: Sequence[RunGroup]) -> Drawing | None:
    """Draw the distances of all pairs, for codes that were evaluated without labels."""

    def of(*path: str) -> Callable[[RunGroup], Line]:
        def line(row: RunGroup) -> Line:
            share = row.mean_list("metrics", *path, "share")
            distance = row.mean_list("metrics", *path, "distance")
            if len(distance) != len(share):
                distance = np.arange(float(len(share)))
            return distance, share, np.full(len(share), np.nan)

        return line

    kinds = {"in the database": of("codes", "distances"), "query to database": of("distances")}
    drawn = line_panels(rows, kinds, "Hamming distance", "share of pairs")
    if drawn is None:
        return None
    caption = (
        "Hamming distances without regard to labels: of pairs of database images, and of each query"
        " to each database image. The shares of a line sum to 1."
    )
    title = "Distances of all pairs"
    return finish(drawn[0], "pair_distances", title, caption, rows, drawn[1])


def draw_bits(rows: Sequence[RunGroup]) -> Drawing | None:
    """Draw the share of ones in each bit."""
    path = ("metrics", "codes", "bits", "ones")
    shown = [row for row in rows if len(row.mean_list(*path))]
    if not shown:
        return None
    title = "Balance of the bits"
    caption = (
        "The share of ones in each bit over the database. A balanced bit is at ½; one at 0 or 1 is "
        "dead, the same for all images."
    )
    if len(rows) == 1:
        figure, panels = sheet(size=SIZES[1])
        handles = _bits(panels[0, 0], rows[0].mean_list(*path))
        return finish(figure, "bits", title, caption, rows, handles)

    def ordered(row: RunGroup) -> Line:
        each = [as_floats(get_nested(run, *path)) for run in row.runs if get_nested(run, *path)]
        share = np.mean([np.sort(one) for one in each if len(one) == len(each[0])], axis=0)
        return np.arange(1.0, len(share) + 1), share, np.full(len(share), np.nan)

    drawn = line_panels(shown, {"": ordered}, "bits in order of their share", "share of ones")
    for panel in drawn[0].axes if drawn else ():
        panel.locator_params(axis="x", integer=True)
    caption += " The bits of each run are sorted by their share."
    return drawn and finish(drawn[0], "bits", title, caption, rows, drawn[1])


def _line(row: RunGroup, path: Keys, x: str, y: str) -> Line:
    xs, ys = row.mean_list(*path, x), row.mean_list(*path, y)
    size = min(len(xs), len(ys))
    return xs[:size], ys[:size], np.full(size, np.nan)


def _at(
    rows: Sequence[RunGroup], name: str, title: str, caption: str, label: str
) -> Drawing | None:
    drawn = line_panels(rows, {"": lambda row: row.by_cutoff("metrics", name)}, "N", label)
    if drawn is None:
        return None
    cuts = [cut for row in rows for cut in row.by_cutoff("metrics", name)[0]]
    for panel in drawn[0].axes:
        if panel.get_visible():
            log_axis(panel, min(cuts), max(cuts))
            panel.set_ylim(bottom=0)
    return finish(drawn[0], name, title, caption, rows, drawn[1], with_sd=True)


def _several(
    rows: Sequence[RunGroup], name: str, title: str, caption: str, columns: Mapping[str, Keys]
) -> Drawing | None:
    """Draw bars; None for a single group, which needs no figure."""
    figure = bar_panels(rows, columns) if len(rows) > 1 else None
    if figure is None:
        return None
    return finish(figure, name, title, caption, rows, with_sd=True)


def _point_out(panel: Any, line: Line, letter: str, over: Floats, some: Sequence[int]) -> None:
    """Annotate some values on a line, interpolated if needed, unless the last one is close."""
    last = np.array([-1.0, -1.0])
    for value in some:
        if not len(over) or not over[0] <= value <= over[-1]:  # nan is neither
            continue
        point = np.array([np.interp(value, over, axis) for axis in line[:2]])
        if not np.isfinite(point).all() or np.abs(point - last).max() < 0.1:
            continue
        last, side = point, -1 if point[0] > 0.85 else 1
        panel.plot(*point, "o", color="#222222", markersize=5, zorder=4)
        panel.annotate(
            f"{letter} = {value:,g}",
            point,
            (5 * side, 6 if letter == "k" and side > 0 else -12),
            textcoords="offset points",
            ha="left" if side > 0 else "right",
            fontsize=8.5,
            path_effects=halo(),
        )


def _histograms(row: RunGroup) -> tuple[Floats, Floats]:
    path = ("metrics", "codes", "histograms")
    return row.mean_list(*path, "intra"), row.mean_list(*path, "inter")


def _distances(panel: Any, row: RunGroup, peak: float, word: str) -> dict[str, Any]:
    """Draw both histograms, and an arrow from the mean of one to the mean of the other."""
    handles, means = {}, []
    for kind, share, colour, dash in zip(
        ("intra", "inter"), _histograms(row), (BLUE, VERMILION), ("-", "--"), strict=True
    ):
        edges = np.arange(len(share) + 1) - 0.5
        panel.stairs(share, edges, fill=True, color=colour, alpha=0.35)
        name = "share a label (intra)" if kind == "intra" else "share none (inter)"
        handles[name] = panel.stairs(share, edges, color=colour, linestyle=dash, linewidth=1.2)
        exact = row.mean_sd("metrics", "codes", "separability", kind)[0]
        means.append(exact if np.isfinite(exact) else float(share @ np.arange(len(share))))
    height = 1.1 * peak
    arrow = {"arrowstyle": "-|>", "shrinkA": 0, "shrinkB": 0, "color": "#222222", "linewidth": 1.2}
    panel.annotate("", (means[1], height), (means[0], height), arrowprops=arrow)
    text = word + f"{means[1] - means[0]:.2f}".replace("-", "−")
    middle = (sum(means) / 2, height)
    panel.annotate(text, middle, (0, 5), textcoords="offset points", ha="center", fontsize=9)
    panel.locator_params(axis="x", integer=True)
    panel.set_ylim(0, 1.3 * peak)
    panel.set_xlim(-0.5, len(share) - 0.5)
    return handles


def _pairs(rows: Sequence[RunGroup]) -> str:
    """Return the caption of the histograms, which may be of a sample of the pairs."""
    caption = (
        "Hamming distances of pairs of database images; the bars of each colour sum to 1. The "
        "arrow goes from the mean of the pairs that share a label to the mean of those that share "
        "none: the separability, in bits (Eq. 23)."
    )
    seeds = {
        get_nested(run, "metrics", "codes", "histograms", "seed")
        for row in rows
        for run in row.runs
    } - {None}
    if not seeds:
        return caption
    seed = f" (seed {seeds.pop()})" if len(seeds) == 1 else ""
    return f"{caption} The histograms are of a sample of the pairs{seed}."


def _bits(panel: Any, share: Floats) -> dict[str, Any]:
    """Draw a bar for each bit, with dead bits highlighted."""
    dead = (share == 0) | (share == 1)
    places = np.arange(1, len(share) + 1)
    handles = {"alive": panel.bar(places[~dead], share[~dead], width=0.8, color=BLUE)}
    if dead.any():
        look = {"color": VERMILION, "hatch": "///", "edgecolor": "white"}
        handles["dead"] = panel.bar(places[dead], np.maximum(share[dead], 0.01), width=0.8, **look)
    panel.axhline(0.5, color="#555555", linestyle="--", linewidth=1)
    panel.set(ylim=(0, 1.02), xlim=(0, len(share) + 1), xlabel="bit", ylabel="share of ones")
    panel.locator_params(axis="x", integer=True)
    panel.grid(axis="x", visible=False)
    return handles
