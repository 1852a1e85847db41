import math
from xml.etree import ElementTree

import pytest

from deephash.report.figures.run import MOST_POINTS, Axes, line_plot, range_plot, thin


def parse(drawing):
    return ElementTree.fromstring(drawing)


def texts(root):
    return [text.text for text in root.iter("text")]


def hover_texts(root):
    return [title.text for use in root.iter("use") for title in use.iter("title")]


def test_a_chart_is_well_formed_and_stays_inside_its_frame():
    series = {"a<b & c": [(x, math.sin(x)) for x in range(50)], "d": [(0, 1), (49, -1)]}
    root = parse(line_plot("one", [Axes("y", series)], "x", {"chosen": 10}))
    width, height = (float(size) for size in root.get("viewBox").split()[2:])
    for use in root.iter("use"):
        assert 0 <= float(use.get("x")) <= width
        assert 0 <= float(use.get("y")) <= height
    assert {"a<b & c", "d", "x", "y", "chosen"} <= set(texts(root))
    assert root.get("aria-label") == "y over x: a<b & c, d"


def test_every_point_has_its_value_on_hover():
    points = [(0, 0.123456), (1, 2.0, "a <text> of its own"), (2, math.nan), (3, 1)]
    root = parse(line_plot("one", [Axes("loss", {"loss": points, "lr": [(1, 7)]})], "step"))
    assert hover_texts(root) == [
        "loss: 0.1235 at step 0", "a <text> of its own", "loss: 1 at step 3", "lr: 7 at step 1",
    ]  # fmt: skip
    long = parse(line_plot("one", [Axes("loss", {"loss": [(x, x) for x in range(1000)]})], "step"))
    assert len(hover_texts(long)) == MOST_POINTS


def test_panels_share_the_axis_and_have_a_legend_only_for_several_lines():
    panels = [Axes("mAP", {"val": [(1, 0.5)]}), Axes("loss", {"a": [(0, 1)], "b": [(2, 1)]})]
    root = parse(line_plot("one", panels, "epoch", {"selected: 1": 1.0}))
    assert root.get("aria-label") == "mAP over epoch: val; loss over epoch: a, b"
    shown = texts(root)
    assert shown.count("epoch") == 1 and shown.count("selected: 1") == 1
    assert {"a", "b", "mAP", "loss"} <= set(shown) and "val" not in shown


def test_a_line_breaks_where_a_value_is_not_finite():
    points = [(0, 1.0), (1, 2.0), (2, math.nan), (3, math.inf), (4, 1.0), (5, 2.0)]
    root = parse(line_plot("one", [Axes("loss", {"loss": points})], "step"))
    lines = [path.get("d") for path in root.iter("path") if path.get("d").count("M") == 2]
    assert [line.count("L") for line in lines] == [2]
    assert len(hover_texts(root)) == 4
    assert "nan" not in ElementTree.tostring(root, encoding="unicode")


@pytest.mark.parametrize("series", [{}, {"a": []}, {"a": [(3, 0.5)]}, {"a": [(0, math.nan)]}])
def test_little_to_draw_is_no_error(series):
    parse(line_plot("one", [Axes("y", series, (0.0, 1.0))], "x"))


def test_the_axis_covers_its_range():
    root = parse(line_plot("one", [Axes("y", {"a": [(0, 0.5), (1, 0.6)]}, (0.0, 1.0))], "x"))
    assert {"0.0", "1.0"} <= set(texts(root))


def test_a_long_line_is_thinned_and_keeps_its_ends():
    points = [(float(x), 0.0) for x in range(10_001)]
    few = thin(points)
    assert len(few) == MOST_POINTS
    assert (few[0], few[-1]) == (points[0], points[-1])


@pytest.mark.parametrize(("low", "high"), [(0.6, 0.8), (0.5, 0.5)])
def test_a_range_names_all_its_values(low, high):
    values = {"worst": low, "expected": (low + high) / 2, "best": high}
    root = parse(range_plot("one", values, "worst", "best"))
    shown = " ".join(texts(root))
    assert all(f"{name} {value:.4f}" in shown for name, value in values.items())
