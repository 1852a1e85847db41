import math
from xml.etree import ElementTree

import pytest

from deephash.report.figures.svg import MOST_POINTS, compact, svg_lines, svg_span, thin, ticks


def parse(drawing):
    return ElementTree.fromstring(drawing)


def test_ticks_by_hand():
    assert ticks([0.12, 0.97]) == [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert ticks([0, 20000]) == [0, 5000, 10000, 15000, 20000]


@pytest.mark.parametrize("values", [[], [0.0], [3.0, 3.0], [-2e-9, 1e-9], [1e9, 1e12], [-5, 7]])
def test_ticks_cover_the_values_in_even_steps(values):
    found = ticks(values)
    assert 2 <= len(found) <= 8
    assert found == sorted(set(found))
    slack = 1e-6 * (found[-1] - found[0])
    assert all(found[0] - slack <= value <= found[-1] + slack for value in values)


def test_a_chart_is_well_formed_and_stays_inside_its_frame():
    series = {"a<b & c": [(x, math.sin(x)) for x in range(50)], "d": [(0, 1), (49, -1)]}
    root = parse(svg_lines(series, "x", "y", marks={"chosen": 10}))
    width, height = (float(size) for size in root.get("viewBox").split()[2:])
    for circle in root.iter("circle"):
        assert 0 <= float(circle.get("cx")) <= width
        assert 0 <= float(circle.get("cy")) <= height
        assert circle.find("title").text
    said = [text.text for text in root.iter("text")]
    assert {"a<b & c", "d", "x", "y", "chosen"} <= set(said)


def test_a_line_breaks_where_a_value_is_not_finite():
    points = [(0, 1.0), (1, 2.0), (2, math.nan), (3, math.inf), (4, 1.0), (5, 2.0)]
    root = parse(svg_lines({"loss": points}, "step", "loss"))
    assert len(list(root.iter("polyline"))) == 2
    assert len(list(root.iter("circle"))) == 4
    assert "nan" not in ElementTree.tostring(root, encoding="unicode")


@pytest.mark.parametrize("series", [{}, {"a": []}, {"a": [(3, 0.5)]}, {"a": [(0, math.nan)]}])
def test_little_to_draw_is_no_error(series):
    parse(svg_lines(series, "x", "y"))


def test_a_long_line_is_thinned_and_keeps_its_ends():
    points = [(float(x), 0.0) for x in range(10_001)]
    few = thin(points)
    assert len(few) == MOST_POINTS
    assert (few[0], few[-1]) == (points[0], points[-1])


@pytest.mark.parametrize("low,high", [(0.6, 0.8), (0.5, 0.5)])
def test_a_span_names_all_its_values(low, high):
    values = {"worst": low, "expected": (low + high) / 2, "best": high}
    root = parse(svg_span(values, "worst", "best"))
    said = " ".join(text.text for text in root.iter("text"))
    assert all(f"{name} {value:.4f}" in said for name, value in values.items())


def test_compact_by_hand():
    assert [compact(value) for value in (0.0002, 1e-5)] == ["2e-4", "1e-5"]
