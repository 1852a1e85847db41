"""Small charts as inline SVG: no script, no library, colours from the page's style sheet."""

import math
from collections.abc import Mapping, Sequence
from html import escape

Point = tuple[float, float] | tuple[float, float, str]
"""x, y, and optionally what to say on hover."""

WIDTH, HEIGHT = 560.0, 300.0
LEFT, RIGHT, TOP, BOTTOM = 66.0, 16.0, 34.0, 44.0
COLOURS = 6
MOST_POINTS = 240


def svg_lines(
    series: Mapping[str, Sequence[Point]],
    x_label: str,
    y_label: str,
    marks: Mapping[str, float] | None = None,
    y_range: tuple[float, float] | None = None,
) -> str:
    """Lines over a common x axis, with ticks, a legend and the values on hover.

    A line breaks where a value is not finite, and a long one is thinned out evenly, ends kept.
    Colours are the classes ``s0``, ``s1``, ... in the order of the series.

    Args:
        series: The points of each line, in order of x.
        x_label: What x is.
        y_label: What y is.
        marks: Named values of x, each shown as a vertical line.
        y_range: What the y axis at least covers.
    """
    marks = marks or {}
    drawn = {name: thin(points) for name, points in series.items()}
    finite = [p for points in drawn.values() for p in points if is_finite(p)]
    xs = [p[0] for p in finite] + list(marks.values())
    ys = [p[1] for p in finite] + list(y_range or ())
    x_ticks, y_ticks = ticks(xs), ticks(ys)
    x_low, x_high = bounds(xs, x_ticks, tight=True)
    y_low, y_high = bounds(ys, y_ticks)

    def across(x: float) -> float:
        return LEFT + (x - x_low) / (x_high - x_low) * (WIDTH - LEFT - RIGHT)

    def down(y: float) -> float:
        return HEIGHT - BOTTOM - (y - y_low) / (y_high - y_low) * (HEIGHT - TOP - BOTTOM)

    floor = HEIGHT - BOTTOM
    out = [opening(WIDTH, HEIGHT, f"{y_label} over {x_label}: {', '.join(series)}")]
    for y in y_ticks:
        out.append(line("grid", LEFT, down(y), WIDTH - RIGHT, down(y)))
        out.append(text(LEFT - 8, down(y) + 4, tick_text(y, y_ticks), "tick end"))
    for x in x_ticks:
        if x_low <= x <= x_high:
            out.append(line("axis", across(x), floor, across(x), floor + 4))
            out.append(text(across(x), floor + 17, tick_text(x, x_ticks), "tick middle"))
    out.append(line("axis", LEFT, floor, WIDTH - RIGHT, floor))
    out.append(text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 8, x_label, "label middle"))
    upright = f'transform="rotate(-90 14 {(TOP + floor) / 2:.1f})"'
    out.append(text(14, (TOP + floor) / 2, y_label, "label middle", upright))
    for name, x in marks.items():
        out.append(line("mark", across(x), TOP, across(x), floor))
        side = "end" if across(x) > WIDTH / 2 else "start"
        shift = -5 if side == "end" else 5
        out.append(text(across(x) + shift, floor - 7, name, f"label {side}"))
    for place, (name, points) in enumerate(drawn.items()):
        colour = f"s{place % COLOURS}"
        for run in runs(points):
            path = " ".join(f"{across(p[0]):.1f},{down(p[1]):.1f}" for p in run)
            out.append(f'<polyline class="line {colour}" points="{path}"/>')
        for p in filter(is_finite, points):
            said = p[2] if len(p) == 3 else f"{name}: {brief(p[1])} at {x_label} {brief(p[0])}"
            few = "dot" if len(points) <= 40 else "dot faint"
            out.append(
                f'<circle class="{few} {colour}" cx="{across(p[0]):.1f}" cy="{down(p[1]):.1f}"'
                f' r="4"><title>{escape(said)}</title></circle>'
            )
    out += legend(list(series))
    return "".join([*out, "</svg>"])


def svg_span(values: Mapping[str, float], low: str, high: str) -> str:
    """A bar from the value named ``low`` to the one named ``high``, the others as ticks on it."""
    width, height, left, right, middle = 560.0, 96.0, 40.0, 40.0, 48.0
    bottom, top = values[low], values[high]
    room = (top - bottom) or 1.0

    def across(value: float) -> float:
        return left + (value - bottom) / room * (width - left - right)

    said = ", ".join(f"{name} {value:.4f}" for name, value in values.items())
    out = [opening(width, height, said)]
    length = max(across(top) - left, 2)
    out.append(
        f'<rect class="span" x="{left}" y="{middle - 7}" width="{length:.1f}" height="14" rx="7">'
        f"<title>{escape(said)}</title></rect>"
    )
    out.append(text(left, middle + 27, f"{low} {bottom:.4f}", "label start"))
    out.append(text(width - right, middle + 27, f"{high} {top:.4f}", "label end"))
    inside = sorted((v, name) for name, v in values.items() if name not in (low, high))
    for place, (value, name) in enumerate(inside):
        x = across(value)
        out.append(line(f"pin s{place}", x, middle - 11, x, middle + 11))
        side = "start" if x < width / 4 else "end" if x > width * 3 / 4 else "middle"
        y = middle - 18 - 15 * (place % 2)  # neighbours stand at two heights
        out.append(text(x, y, f"{name} {value:.4f}", f"label {side}"))
    return "".join([*out, "</svg>"])


def ticks(values: Sequence[float], about: int = 5) -> list[float]:
    """Round numbers that cover the values, some five of them.

    >>> ticks([0.12, 0.97])
    [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    """
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    if high - low <= 1e-12 * max(abs(low), abs(high)):  # one value: stand it in the middle
        spread = abs(low) / 2 or 0.5
        low, high = low - spread, high + spread
    raw = (high - low) / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = power * next(unit for unit in (1, 2, 5, 10) if unit * power >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [float(f"{place * step:.12g}") for place in range(first, last + 1)]


def bounds(
    values: Sequence[float], marks: Sequence[float], tight: bool = False
) -> tuple[float, float]:
    """Where an axis begins and ends: at its outer ticks, or if ``tight`` at the values."""
    if tight and values and max(values) > min(values):
        return min(values), max(values)
    return marks[0], marks[-1]


def thin(points: Sequence[Point]) -> list[Point]:
    """At most ``MOST_POINTS`` of the points, evenly spread, the first and the last among them."""
    if len(points) <= MOST_POINTS:
        return list(points)
    stride = (len(points) - 1) / (MOST_POINTS - 1)
    return [points[round(place * stride)] for place in range(MOST_POINTS)]


def runs(points: Sequence[Point]) -> list[list[Point]]:
    """The stretches of points between those that are not finite."""
    found: list[list[Point]] = [[]]
    for point in points:
        if is_finite(point):
            found[-1].append(point)
        else:
            found.append([])
    return [run for run in found if run]


def is_finite(point: Point) -> bool:
    """Whether a point can be drawn."""
    return math.isfinite(point[0]) and math.isfinite(point[1])


def brief(value: float) -> str:
    """A number in up to four significant digits, whole ones in full.

    >>> brief(1234567.0), brief(0.123456), brief(0.0001)
    ('1234567', '0.1235', '0.0001')
    """
    return str(int(value)) if float(value).is_integer() else f"{value:.4g}"


def tick_text(value: float, all_ticks: Sequence[float]) -> str:
    """A tick's number, with a k for thousands where the axis is long."""
    if max(map(abs, all_ticks)) >= 10_000:
        return f"{brief(value / 1000)}k" if value else "0"
    if 0 < max(map(abs, all_ticks)) < 0.01:
        return "0" if value == 0 else compact(value)
    return brief(value)


def compact(value: float) -> str:
    """A small number with its power of ten.

    >>> compact(0.0002), compact(1.5e-05)
    ('2e-4', '1.5e-5')
    """
    front, power = f"{value:.3e}".split("e")
    return f"{float(front):g}e{int(power)}"


def opening(width: float, height: float, label: str) -> str:
    """The opening tag, which says to a screen reader what is drawn."""
    return (
        f'<svg class="chart" viewBox="0 0 {width:.0f} {height:.0f}" role="img"'
        f' aria-label="{escape(label)}">'
    )


def line(kind: str, x1: float, y1: float, x2: float, y2: float) -> str:
    """A straight line of the class ``kind``."""
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def text(x: float, y: float, said: str, kind: str, more: str = "") -> str:
    """Text of the classes ``kind``."""
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" {more}>{escape(said)}</text>'


def legend(names: Sequence[str]) -> list[str]:
    """The names of the series in a row above the chart; a sole one needs only its axis."""
    out: list[str] = []
    x = LEFT
    for place, name in enumerate(names if len(names) > 1 else []):
        out.append(line(f"line s{place % COLOURS}", x, 14, x + 16, 14))
        out.append(text(x + 21, 18, name, "label start"))
        x += 21 + 6.8 * len(name) + 16
    return out
