"""The figure of a section: mAP over an axis of the grid, published numbers pale beside."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from deephash.report.cells import ON_QUERIES, elsewhere, entries
from deephash.report.figures.canvas import Drawing, sheet
from deephash.report.figures.panels import by_doublings, draw_points, finish, sample
from deephash.report.grid import BITS, Key, Section, end
from deephash.report.published import published
from deephash.report.rows import Row, is_number
from deephash.utils.formatting import typed
from deephash.utils.nested import get_nested

PALER = {"linestyle": (0, (4, 2)), "markerfacecolor": "white", "alpha": 0.5, "linewidth": 1.1}
"""What is published: in the colour of ours, dashed and hollow."""

LONGEST = 120
"""Letters of a file's name."""


@dataclass(frozen=True)
class Point:
    """A cell of the section as a point of the figure."""

    row: Row  # without runs if none has finished
    x: Any
    published: float | None


def trend(section: Section) -> Drawing | None:
    """The mAP over the axis that the layout names, a line for each of the others' values.

    Without a named one it is over the bits, or over the rows if there is one number of bits. None
    if there is nothing to draw a line through: fewer than two values on the axis, or no run that
    has finished.
    """
    key = section.layout.figure.get("x") or _axis(section)
    if key != section.layout.columns and key not in section.keys:
        return None
    values, points = _values(section, key), _points(section, key)
    rows = [point.row for point in points if point.row.runs]
    if len(values) < 2 or not rows:
        return None
    numeric = key != BITS and all(is_number(value) for value in values)
    spot = {value: float(value) if numeric else float(at) for at, value in enumerate(values)}
    figure, panels = sheet(size=(6.4, 4.2))
    panel, handles = panels[0, 0], {}
    for label in dict.fromkeys(point.row.label for point in points):
        some = sorted((point for point in points if point.row.label == label),
                      key=lambda point: spot[point.x])  # fmt: skip
        ours = [(spot[point.x], *point.row.value("metrics", "map")) for point in some
                if point.row.runs]  # fmt: skip
        theirs = [(spot[point.x], point.published, math.nan) for point in some
                  if point.published is not None]  # fmt: skip
        if ours:
            handles[label] = draw_points(panel, some[0].row, _line(ours))
        if theirs:
            draw_points(panel, some[0].row, _line(theirs), **PALER)
    if any(point.published is not None for point in points):
        handles["published"] = sample(**PALER)
    _axis_of(panel, section, key, values, numeric)
    metric = str(get_nested(rows[0].runs[0], "metrics", "conventions", "metric") or "mAP")
    panel.set_ylabel(metric)
    name = re.sub(r"[^A-Za-z0-9]+", "-", "-".join(["+".join(section.sweeps), section.title]))
    name = name[:LONGEST].strip("-")
    title = f"{metric} over {_named(section, key)}, {section.title}"
    return finish(figure, name, title, _caption(section, points), rows, handles, spread=True)


def _axis(section: Section) -> str:
    return BITS if section.layout.columns == BITS and len(section.columns) > 1 else section.keys[0]


def _values(section: Section, key: str) -> list[Any]:
    """All values of an axis, in order."""
    if key == section.layout.columns:
        return list(section.columns)
    at = section.keys.index(key)
    return list(dict.fromkeys(row[at] for row in section.rows))


def _points(section: Section, key: str) -> list[Point]:
    """The cells; those of one line have one label, and one place among the lines."""
    across, places = key == section.layout.columns, dict[str, int]()
    points = []
    for (row, column), entry in entries(section).items():
        label = section.name_of(row) if across else _others(section, row, column, key)
        mark = next((mark for mark in entry.marks if mark != ON_QUERIES), "")
        label = " ".join(filter(None, (label, mark)))
        place = places.setdefault(label, len(places))
        nbit = column if section.layout.columns == BITS else 0
        x = column if across else row[section.keys.index(key)]
        theirs = None if elsewhere(section) else entry.published  # of another setting: table alone
        points.append(Point(Row(label, label, place, nbit, mark, entry.told), x, theirs))
    return points


def _others(section: Section, row: Key, column: Any, key: str) -> str:
    """A line of the figure in words: the column, and what else the rows are values of."""
    others = [
        f"{end(one)}={typed(value)}"
        for one, value in zip(section.keys, row, strict=True)
        if one != key
    ]
    return " ".join([*others, section.head_of(column)])


def _line(points: Sequence[tuple[float, float, float]]) -> Any:
    return tuple(np.array(points, dtype=float).T)


def _axis_of(panel: Any, section: Section, key: str, values: list[Any], numeric: bool) -> None:
    panel.set_xlabel(_named(section, key))
    if not numeric:
        panel.set_xticks(range(len(values)), [typed(value) for value in values])
    elif section.layout.figure.get("scale") == "log" and min(values) > 0:
        by_doublings(panel, values)


def _named(section: Section, key: str) -> str:
    if key == BITS:
        return "bits"
    label = section.layout.row_label
    return label if label is not None and section.layout.rows == (key,) else end(key)


def _caption(section: Section, points: Sequence[Point]) -> str:
    found = published(section.layout.published, section.place[0])
    if found is None or all(point.published is None for point in points):
        return ""
    return f"Dashed and hollow: published, {found.source}."
