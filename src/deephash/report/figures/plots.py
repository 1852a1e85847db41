"""Line and bar plots of groups of runs, with a panel for each number of bits."""

import math
from collections.abc import Callable, Mapping, Sequence
from textwrap import wrap
from typing import TYPE_CHECKING, Any

import numpy as np

from deephash.report.figures.style import GREY, Drawing, Look, legend, sheet, wrapped
from deephash.report.run_groups import RunGroup, mark_differences
from deephash.report.values import Floats
from deephash.utils.nested import get_nested

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Line = tuple[Floats, Floats, Floats]
"""x, y, and the standard deviation of y over seeds, nan for a single seed."""

Keys = tuple[str, ...]

SIZES = {1: (4.8, 3.5), 2: (4.7, 3.5), 3: (3.8, 3.2), 4: (3.2, 2.9)}
"""Size of a panel in inches, by the number of panels in a row."""

FEW = 24
"""Longest line with a marker on every point; longer ones have markers at even distances."""

NOTE = "evaluated on other data, or under another convention, than the runs without a mark"

LETTERS = 17
"""Characters of a note in an inch."""


def line_panels(
    rows: Sequence[RunGroup],
    kinds: Mapping[str, Callable[[RunGroup], Line]],
    x_label: str,
    y_label: str,
    limits: Mapping[str, Any] | None = None,
) -> tuple["Figure", dict[str, Any]] | None:
    """Draw a line for each group, with a panel for each number of bits and each kind of line.

    Returns:
        The figure and an artist for each label; None if no group has a point.
    """
    drawn = [(row, kind, of(row)) for kind, of in kinds.items() for row in rows]
    drawn = [(row, kind, line) for row, kind, line in drawn if len(line[0]) and len(line[1])]
    cells = list(dict.fromkeys((kind, row.nbit) for row, kind, _ in drawn))
    if not cells:
        return None
    cells.sort(key=lambda cell: (list(kinds).index(cell[0]), cell[1]))
    across = len({nbit for _, nbit in cells}) if len(kinds) > 1 else 0
    down, across = panel_grid(len(cells), len(cells) if across == 1 else across)
    figure, panels = sheet(
        down, across, SIZES[min(across, 4)], sharey=True, sharex=True if limits else "col"
    )
    panels[0, 0].set(**limits or {})
    places = {cell: divmod(place, across) for place, cell in enumerate(cells)}
    handles: dict[str, Any] = {}
    for row, kind, line in drawn:
        artist = draw_line(panels[places[kind, row.nbit]], row, line)
        handles.setdefault(row.label, artist)
    for (kind, nbit), place in places.items():
        values = (f"{nbit} bits" if len(rows) > 1 and nbit else "", kind)
        panels[place].set_title(", ".join(filter(None, values)))
    frame(panels, list(places.values()), x_label, y_label)
    return figure, handles


def draw_line(panel: Any, row: RunGroup, line: Line) -> Any:
    """Draw the line of a group, with its deviation as a band."""
    look = Look.of(row.index)
    x, y, deviation = line
    spread = np.isfinite(y).all() and len(x) > FEW
    (artist,) = panel.plot(
        x,
        y,
        color=look.colour,
        linestyle=look.dash,
        marker=look.marker,
        markevery=(0.02 * (row.index % 5), 0.12) if spread else 1,
        label=row.label,
    )
    if np.isfinite(deviation).any():
        band = {"color": look.colour, "alpha": 0.15, "linewidth": 0}
        panel.fill_between(x, y - deviation, y + deviation, **band)
    return artist


def over_bits(panel: Any, rows: Sequence[RunGroup], path: Keys, **style: Any) -> dict[str, Any]:
    """Draw a line for each label over the numbers of bits, which are evenly spaced."""
    every = bits_of(rows)
    handles: dict[str, Any] = {}
    for name in dict.fromkeys(row.label for row in rows):
        some = sorted((row for row in rows if row.label == name), key=lambda row: row.nbit)
        values = [(every.index(row.nbit), *row.mean_sd(*path)) for row in some]
        x, y, deviation = np.array(values, dtype=float).T
        if not np.isfinite(y).any():
            continue
        handles[name] = draw_points(panel, some[0], (x, y, deviation), **style)
    panel.set_xticks(range(len(every)), [str(nbit) for nbit in every])
    panel.set_xlabel("bits")
    return handles


def draw_points(panel: Any, row: RunGroup, line: Line, **style: Any) -> Any:
    """Draw the points of a group and a line through them, with the deviation as bars."""
    x, y, deviation = line
    look = Look.of(row.index)
    settings = {"color": look.colour, "marker": look.marker, "linestyle": look.dash}
    reach = deviation if np.isfinite(deviation).any() else None
    drawn = panel.errorbar(
        x, y, reach, capsize=2.5, elinewidth=1, label=row.label, **settings | style
    )
    return drawn.lines[0]


def sample_line(**style: Any) -> Any:
    """Return a grey line with its marker, to explain the style of a line in a legend."""
    from matplotlib.lines import Line2D

    return Line2D([], [], **{"color": GREY, "marker": "o", "linestyle": "-"} | style)


def log_axis(panel: Any, low: float, high: float) -> None:
    """Make the x axis logarithmic, with plain numbers as labels."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    panel.set_xscale("log")
    subs = (1.0, 2.0, 5.0) if high < 100 * low else (1.0,)
    panel.xaxis.set_major_locator(LogLocator(subs=subs))
    panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    panel.xaxis.set_minor_formatter(NullFormatter())


def log2_axis(panel: Any, values: Sequence[float]) -> None:
    """Make the x axis logarithmic to the base of 2, with ticks at as many values as fit.

    Args:
        panel: of the axis.
        values: ascending and positive.
    """
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    room = math.log2(values[-1] / values[0]) / 16
    ticks = [values[0]]
    for value in values[1:]:
        if math.log2(value / ticks[-1]) >= room:
            ticks.append(value)
    panel.set_xscale("log", base=2)
    panel.xaxis.set_major_locator(FixedLocator(ticks))
    panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    panel.xaxis.set_minor_locator(NullLocator())


def bar_panels(rows: Sequence[RunGroup], columns: Mapping[str, Keys]) -> "Figure | None":
    """Lying bars: a row of panels for each number of bits, a column for each of some numbers.

    The columns are named by the keys. Each panel has its own scale.
    """
    values = [
        row for row in rows if any(math.isfinite(row.mean_sd(*p)[0]) for p in columns.values())
    ]
    if not values:
        return None
    every, across = bits_of(values), len(columns)
    many = [sum(row.nbit == nbit for row in values) for nbit in every]
    wide = (1.9 if across == 1 else 0) + SIZES[min(across, 4)][0]
    tall = (0.25 + 0.6 * len(every) + 0.27 * sum(many)) / len(every)
    ratios = {"height_ratios": many}
    figure, panels = sheet(len(every), across, (wide, tall), gridspec_kw=ratios)
    for down, nbit in enumerate(every):
        for place, (name, path) in enumerate(columns.items()):
            panel = panels[down, place]
            draw_bars(panel, [row for row in values if row.nbit == nbit], path)
            if down == len(every) - 1:
                panel.set_xlabel(name)
            if len(every) > 1:
                panel.set_title(f"{nbit} bits")
            if place:
                panel.set_yticklabels([])
    return figure


def draw_bars(panel: Any, rows: Sequence[RunGroup], path: Keys) -> None:
    """Draw a bar for each row, the first on top, with its value and deviation."""
    values = np.array([row.mean_sd(*path) for row in rows])
    places = np.arange(len(rows))
    panel.barh(
        places,
        np.nan_to_num(values[:, 0]),
        height=0.72,
        xerr=values[:, 1],
        color=[Look.of(row.index).colour for row in rows],
        error_kw={"elinewidth": 1, "capsize": 2.5, "ecolor": "#222222"},
    )
    for place, (mean, deviation) in zip(places, values, strict=True):
        end = max(0.0, np.nansum([mean, deviation]))
        text = significant_digits(mean, 3) + (
            f" ± {significant_digits(deviation, 2)}" if math.isfinite(deviation) else ""
        )
        panel.annotate(
            text if math.isfinite(mean) else "–",
            (end, place),
            (4, 0),
            textcoords="offset points",
            va="center",
            fontsize=8.5,
        )
    panel.set_yticks(places, [wrapped(row.label) for row in rows])
    panel.set_ylim(len(rows) - 0.4, -0.6)
    panel.grid(axis="y", visible=False)
    panel.tick_params(axis="y", length=0)
    panel.margins(x=0.35)
    low = min(0.0, np.nanmin(values[:, 0], initial=0.0))
    panel.set_xlim(left=1.2 * low)


def significant_digits(value: float, many: int) -> str:
    """Return a number with so many significant digits, including zeros.

    >>> [significant_digits(*it) for it in ((18.0, 3), (104.6, 3), (0.5, 2), (-0.004, 2))]
    ['18.0', '105', '0.50', '−0.0040']
    """
    return f"{value:#.{many}g}".rstrip(".").replace("-", "−")


def finish(
    figure: "Figure",
    name: str,
    title: str,
    caption: str,
    rows: Sequence[RunGroup],
    handles: Mapping[str, Any] | None = None,
    with_sd: bool = False,
) -> Drawing:
    """Add legend, note on runs that do not compare, and caption to a figure.

    Args:
        figure: with all its panels drawn.
        name: of its files.
        title: on a page.
        caption: description of its content.
        rows: groups of runs in the figure.
        handles: artists of the legend, by label; a single one has no legend.
        with_sd: whether the figure shows the deviation over seeds.
    """
    if handles and len(handles) > 1:
        legend(figure, list(handles.values()), list(handles))
    if notes := mark_differences(rows):
        width, height = figure.get_size_inches()
        note = [f"{mark}  {text}" for mark, text in notes.items()]
        note[-1] += "; in brackets, the values of the runs without a mark"
        lines = [line for one in note for line in wrap(one, int(LETTERS * width))]
        figure.set_size_inches(width, height + 0.13 * (len(lines) - 1))
        figure.supxlabel("\n".join(lines), fontsize=8, x=0.01, ha="left")
    return Drawing(name, title, f"{caption} {_sample_sizes(rows, with_sd)}".strip(), figure)


def _sample_sizes(rows: Sequence[RunGroup], with_sd: bool) -> str:
    """Return the sentences on queries, images and seeds that every caption contains."""
    sizes = {
        (get_nested(run, "metrics", "queries"), get_nested(run, "metrics", "database"))
        for row in rows
        for run in row.runs
    }
    sentences = []
    if len(sizes) > 1:
        sentences.append("Queries and images in the database: in the table of the runs.")
    elif None not in (size := sizes.pop()):
        sentences.append(f"{size[0]:,} queries, {size[1]:,} images in the database.")
    seeds = [len(row.runs) for row in rows]
    if max(seeds) > 1:
        many = f"{min(seeds)} to {max(seeds)}" if min(seeds) < max(seeds) else str(max(seeds))
        sentences.append(f"Means over {many} seeds" + (", ± sd (n − 1)." if with_sd else "."))
    if rows[0].common and len(rows) > 1:
        sentences.append(f"All runs: {rows[0].common}.")
    return " ".join(sentences)


def frame(panels: Any, places: Sequence[tuple[int, int]], x_label: str, y_label: str) -> None:
    """Label the outer axes of the panels that are used, and hide the others."""
    for place in np.ndindex(panels.shape):
        panel, below = panels[place], (place[0] + 1, place[1])
        panel.set_visible(place in places)
        if below not in places:
            panel.set_xlabel(x_label)
            panel.xaxis.set_tick_params(labelbottom=True)
        if place[1] == 0:
            panel.set_ylabel(y_label)


def panel_grid(count: int, across: int = 0) -> tuple[int, int]:
    """Return rows and columns for a number of panels: up to four in a row, else even rows.

    >>> panel_grid(1), panel_grid(4), panel_grid(5), panel_grid(8), panel_grid(6, across=2)
    ((1, 1), (1, 4), (2, 3), (2, 4), (3, 2))
    """
    across = across or -(-count // -(-count // 4))
    return -(-count // across), across


def bits_of(rows: Sequence[RunGroup]) -> list[int]:
    """Return the numbers of bits of the groups in ascending order."""
    return sorted({row.nbit for row in rows})
