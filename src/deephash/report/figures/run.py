"""Figures of the page of a run: curves over training, and the range of mAP over orders of ties."""

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from deephash.report.figures.style import GREY, PALE, Look, inline, sheet, write_svg

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Point = tuple[float, float] | tuple[float, float, str]
"""x, y, and optionally a text to show on hover."""

MOST_POINTS = 240
MOST_MARKERS = 40
"""Longer lines show their markers on hover only."""


@dataclass(frozen=True)
class Axes:
    """Lines of one panel over the common x axis of a figure."""

    y_label: str
    series: Mapping[str, Sequence[Point]]  # points of each line, in order of x
    y_range: Sequence[float] = ()  # values that the y axis includes


def line_plot(
    name: str,
    panels: Sequence[Axes],
    x_label: str,
    marks: Mapping[str, float] | None = None,
) -> str:
    """Return panels of lines over one x axis as SVG, with legends and the values on hover.

    A line breaks where a value is not finite, and a long line is thinned evenly.

    Args:
        name: of the figure, unique on its page.
        panels: from top to bottom.
        x_label: title of the x axis.
        marks: named values of x, each shown as a vertical line; the first panel has their names.
    """
    height = 2.9 if len(panels) == 1 else 1.75
    figure, axes = sheet(len(panels), 1, (4.8, height), sharex=True)
    hover: dict[str, list[str]] = {}
    for row, content in enumerate(panels):
        _draw(axes[row, 0], content, x_label, f"panel{row}", hover)
        for label, at in (marks or {}).items():
            axes[row, 0].axvline(at, color="#222222", linestyle=(0, (3, 4)), linewidth=1)
            left = at < sum(axes[row, 0].get_xlim()) / 2
            if row == 0:
                axes[0, 0].annotate(
                    label,
                    (at, 0.02),
                    (5 if left else -5, 0),
                    ha="left" if left else "right",
                    xycoords=("data", "axes fraction"),
                    textcoords="offset points",
                )
    axes[-1, 0].set_xlabel(x_label)
    title = "; ".join(f"{it.y_label} over {x_label}: {', '.join(it.series)}" for it in panels)
    return _svg(figure, name, title, hover)


def _draw(panel: Any, content: Axes, x_label: str, name: str, hover: dict[str, list[str]]) -> None:
    """Draw the lines of one panel, and add the texts of their markers to ``hover``."""
    series = content.series
    for index, (label, points) in enumerate(series.items()):
        points = thin(points)
        look, group = Look.of(index), f"{name}-points{index}"
        if len(points) > MOST_MARKERS:
            group += "-hover"
        x, y = np.array([point[:2] for point in points], dtype=float).reshape(-1, 2).T
        y = np.where(np.isfinite(x) & np.isfinite(y), y, math.nan)
        panel.plot(x, y, color=look.colour, linestyle=look.dash, label=label)
        panel.plot(x, y, look.marker, color=look.colour, gid=group)
        hover[group] = [
            point[2] if len(point) == 3 else f"{label}: {point[1]:.4g} at {x_label} {point[0]:.4g}"
            for point, value in zip(points, y, strict=True)
            if math.isfinite(value)
        ]
    if content.y_range:
        panel.update_datalim(
            [(panel.dataLim.x0, y) for y in content.y_range if series], updatex=False
        )
        panel.autoscale_view()
    if all(float(point[0]).is_integer() for points in series.values() for point in points):
        panel.locator_params(axis="x", integer=True)
    panel.set_ylabel(content.y_label)
    if len(series) > 1:
        panel.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, borderaxespad=0.2)


def range_plot(name: str, values: Mapping[str, float], low: str, high: str) -> str:
    """Return a bar from the value called ``low`` to that called ``high`` as SVG.

    All values are named; those between the two are ticks on the bar.
    """
    figure, panels = sheet(size=(4.8, 1.1))
    panel, (start, end) = panels[0, 0], (values[low], values[high])
    panel.barh(0, end - start, 0.5, start, color=PALE, edgecolor=GREY)
    inner = sorted((value, label) for label, value in values.items() if label not in (low, high))
    labels = [(start, low, -1.0), (end, high, -1.0)]
    for index, (value, label) in enumerate(inner):
        panel.vlines(value, -0.5, 0.5, color=Look.of(index).colour, linewidth=3)
        labels.append((value, label, 0.7 + 0.7 * (index % 2)))  # neighbours at two heights
    for value, label, height in labels:
        place = (value - start) / (end - start) if end > start else 0.5
        align = "left" if place < 0.25 else "right" if place > 0.75 else "center"
        panel.text(value, height, f"{label} {value:.4f}", ha=align, va="center")
    panel.set_ylim(-1.4, 1.8)
    panel.set_axis_off()
    return _svg(figure, name, ", ".join(f"{label} {it:.4f}" for label, it in values.items()), {})


def thin(points: Sequence[Point]) -> Sequence[Point]:
    """Return at most ``MOST_POINTS`` of the points, evenly spaced, with the first and the last."""
    if len(points) <= MOST_POINTS:
        return points
    return [points[round(at)] for at in np.linspace(0, len(points) - 1, MOST_POINTS)]


def _svg(figure: "Figure", name: str, title: str, hover: Mapping[str, Sequence[str]]) -> str:
    import matplotlib

    file = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none"}):  # text of the page: small, and searchable
        write_svg(figure, file)
    return inline(file.getvalue(), name, title, hover)
