"""Figure of a section: mAP over an axis of the grid, with published numbers for comparison."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from deephash.report.figures.plots import (
    draw_points,
    finish,
    frame,
    log2_axis,
    panel_grid,
    sample_line,
)
from deephash.report.figures.style import Drawing, sheet
from deephash.report.notes import setting_differences
from deephash.report.results import BITS, ON_QUERIES, Key, Section, short_key
from deephash.report.run_groups import RunGroup
from deephash.report.values import is_number, metric_name
from deephash.utils.formatting import typed

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PUBLISHED = {
    "linestyle": (0, (4, 2)),
    "markerfacecolor": "white",
    "alpha": 0.5,
    "linewidth": 1.1,
}
"""Style of published numbers: the colour of ours, dashed and hollow."""

LONGEST_NAME = 120
"""Longest name of a file, without its suffix."""

DODGE, MOST_DODGE = 4.0, 24.0
"""Distance of two lines at the same x, and of the first and the last, in points."""


@dataclass(frozen=True)
class CellPoint:
    """A cell of the section as a point of the figure."""

    group: RunGroup  # without runs if none has finished
    x: Any
    published: float | None


def sweep_figure(section: Section) -> Drawing | None:
    """Draw mAP over the axis that the layout names, with a line for each value of the other axes.

    By default it is over the bits, or over the rows if there is one number of bits. Returns None if
    the axis has fewer than two values, or no run has finished.
    """
    axis = figure_axis(section)
    if axis is None:
        return None
    key, values, x_label = axis
    points = cell_points(section, key)
    groups = [point.group for point in points if point.group.runs]
    if len(values) < 2 or not groups:
        return None
    numeric = key != BITS and all(map(is_number, values))
    place = {value: float(value) if numeric else float(at) for at, value in enumerate(values)}
    figure, panels = sheet(size=(5.4, 3.9))
    panel, handles = panels[0, 0], {}
    labels = list(dict.fromkeys(point.group.label for point in points))
    for index, label in enumerate(labels):
        shift = _shifted(figure, panel, index - (len(labels) - 1) / 2, len(labels))
        line = sorted(
            (point for point in points if point.group.label == label),
            key=lambda point: place[point.x],
        )
        group = line[0].group
        ours = [(place[it.x], *it.group.mean_sd("metrics", "map")) for it in line if it.group.runs]
        theirs = [(place[it.x], it.published, math.nan) for it in line if it.published is not None]
        if ours:
            handles[label] = draw_points(panel, group, _columns(ours), transform=shift)
        if theirs:
            draw_points(panel, group, _columns(theirs), transform=shift, **PUBLISHED)
        for x, mean, sd in (*ours, *theirs):  # matplotlib ignores the values of shifted lines
            spread = 0.0 if math.isnan(sd) else sd
            panel.update_datalim([(x, mean - spread), (x, mean + spread)])
    panel.autoscale_view()
    caption = ""
    if any(point.published is not None for point in points):
        handles["published"] = sample_line(**PUBLISHED)
        assert section.published is not None  # it has the numbers
        caption = f"Dashed and hollow: published, {section.published.source}."
    metric = metric_name(groups[0].runs[0])
    panel.set(xlabel=x_label, ylabel=metric)
    if not numeric:
        panel.set_xticks(range(len(values)), [typed(value) for value in values])
    elif section.layout.figure.get("scale") == "log" and min(values) > 0:
        log2_axis(panel, values)
    title = f"{metric} over {x_label}, {section.title}"
    return finish(figure, _file_name(section), title, caption, groups, handles, with_sd=True)


def _shifted(figure: "Figure", panel: Any, place: float, count: int) -> Any:
    """Return the coordinates of a line, moved sideways so that its bars cover no others.

    The data keep their values, also on a logarithmic axis.
    """
    from matplotlib.transforms import ScaledTranslation

    step = min(DODGE, MOST_DODGE / max(1, count - 1)) / 72
    return panel.transData + ScaledTranslation(place * step, 0, figure.dpi_scale_trans)


def heat_map(section: Section) -> Drawing | None:
    """Draw mAP over two axes as a heat map, with a panel for each column of a table with two keys.

    Returns None unless the section has two axes with several values each.
    """
    if len(section.keys) == 2:
        firsts, seconds = (list(dict.fromkeys(row[at] for row in section.rows)) for at in (0, 1))
        names = (short_key(section.keys[0]), short_key(section.keys[1]))
        panels = {
            section.column_name(column): {
                row: cell.mean
                for (row, at), cell in section.cells.items()
                if at == column and math.isfinite(cell.mean)
            }
            for column in section.columns
        }
    elif len(section.keys) == 1 and section.layout.columns != BITS:
        firsts, seconds = [row[0] for row in section.rows], list(section.columns)
        names = (section.row_label, short_key(section.layout.columns))
        values = {
            (row[0], column): cell.mean
            for (row, column), cell in section.cells.items()
            if math.isfinite(cell.mean)
        }
        panels = {"": values}
    else:
        return None
    panels = {title: cells for title, cells in panels.items() if len(cells) > 1}
    if min(len(firsts), len(seconds)) < 2 or not panels:
        return None
    size = (1.5 + 0.62 * len(seconds), 1.1 + 0.36 * len(firsts))
    down, across = panel_grid(len(panels))
    figure, axes = sheet(down, across, size)
    every = [value for cells in panels.values() for value in cells.values()]
    for place, (title, cells) in enumerate(panels.items()):
        panel = axes[divmod(place, across)]
        grid = np.array([[cells.get((a, b), math.nan) for b in seconds] for a in firsts])
        panel.imshow(grid, cmap="Blues", vmin=_floor(every), vmax=max(every), aspect="auto")
        highest = np.nanmax(grid)
        for (row, column), value in np.ndenumerate(grid):
            if math.isfinite(value):
                dark = value > (_floor(every) + max(every)) / 2
                panel.text(column, row, f"{value:.3f}", ha="center", va="center", fontsize=8.5,
                           color="white" if dark else "#222222",
                           fontweight="bold" if value == highest else "normal")  # fmt: skip
        panel.set_xticks(range(len(seconds)), [typed(value) for value in seconds])
        panel.set_yticks(range(len(firsts)), [typed(value) for value in firsts])
        panel.set_title(title)
        panel.grid(False)
    places = [divmod(place, across) for place in range(len(panels))]
    frame(axes, places, names[1], names[0])
    metric = metric_name(section.reports[0])
    title = f"{metric} over {names[0]} and {names[1]}, {section.title}"
    caption = "Means over the seeds; bold: the highest of a panel. Empty: no finished run."
    return Drawing(f"{_file_name(section)}-heat", title, caption, figure)


def _floor(values: Sequence[float]) -> float:
    """Return the value of the palest colour, which is also that of equal values."""
    low, high = min(values), max(values)
    return low - 0.15 * (high - low) if high > low else low - 1


def _file_name(section: Section) -> str:
    name = re.sub(r"[^A-Za-z0-9]+", "-", "-".join(["+".join(section.sweeps), section.title]))
    return name[:LONGEST_NAME].strip("-")


def figure_axis(section: Section) -> tuple[str, list[Any], str] | None:
    """Return key, values and title of the x axis of a section; None if it has no such key."""
    by_bits = section.layout.columns == BITS and len(section.columns) > 1
    key = section.layout.figure.get("x") or (BITS if by_bits else section.keys[0])
    if key == section.layout.columns:
        return key, list(section.columns), _axis_label(section, key)
    if key not in section.keys:
        return None
    index = section.keys.index(key)
    values = list(dict.fromkeys(row[index] for row in section.rows))
    return key, values, _axis_label(section, key)


def cell_points(section: Section, key: str) -> list[CellPoint]:
    """Return the cells; those of one line have the same label, and the same index."""
    over_columns, indices = key == section.layout.columns, dict[str, int]()
    comparable = not setting_differences(section)  # else published numbers are in the table only
    points = []
    for (row, column), cell in section.cells.items():
        label = _row_label(section, row) if over_columns else _other_axes(section, row, column, key)
        mark = next((mark for mark in cell.marks if mark != ON_QUERIES), "")
        label = f"{label} {mark}".strip()
        index = indices.setdefault(label, len(indices))
        nbit = column if section.layout.columns == BITS else 0
        group = RunGroup(label, label, index, nbit, mark, cell.included)
        x = column if over_columns else row[section.keys.index(key)]
        points.append(CellPoint(group, x, cell.published if comparable else None))
    return points


def _row_label(section: Section, row: Key) -> str:
    """Return the label of the line of a row; a number has its key."""
    name = section.row_name(row)
    return f"{section.row_label} = {name}" if len(row) == 1 and is_number(row[0]) else name


def _other_axes(section: Section, row: Key, column: Any, key: str) -> str:
    """Return the label of a line: the values of all axes but one."""
    others = [
        f"{short_key(other)}={typed(value)}"
        for other, value in zip(section.keys, row, strict=True)
        if other != key
    ]
    return " ".join([*others, section.column_name(column)])


def _columns(points: Sequence[tuple[float, float, float]]) -> Any:
    return tuple(np.array(points, dtype=float).T)


def _axis_label(section: Section, key: str) -> str:
    if key == BITS:
        return "bits"
    label = section.layout.row_label
    return label if label is not None and section.layout.rows == (key,) else short_key(key)
