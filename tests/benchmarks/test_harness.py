"""The parts that all benchmarks share."""

import json

import pytest


@pytest.fixture(scope="module")
def harness(script):
    return script("harness")


def test_calls_are_timed_after_the_warm_up(harness, monkeypatch):
    clock = iter([0.0, 9.0, 10.0, 12.0, 20.0, 21.0, 30.0, 34.0])
    monkeypatch.setattr(harness.time, "perf_counter", lambda: next(clock))
    results = iter("abcd")
    assert harness.time_calls(lambda: next(results), repeats=3, warm_up=1) == (2.0, "d")


def test_contenders_alternate_and_failures_are_left_out(harness, capsys):
    order = []

    def measure(series):
        order.append(series.name)
        return {"failed": "too slow"} if order.count("b") > 1 else {"wall": len(order)}

    a, b = harness.Series("a"), harness.Series("b")
    harness.alternate([a, b], measure, rounds=2, warm_up=1, label="case")
    assert order == ["a", "b", "a", "b", "a"]
    assert a.values("wall") == [3]
    assert a.failed == b.failed == "too slow"
    assert "case, round 1: b: too slow" in capsys.readouterr().err


def test_the_order_is_reversed_in_every_second_round(harness):
    order = []
    pair = [harness.Series("a"), harness.Series("b")]
    harness.alternate(pair, lambda series: order.append(series.name) or {}, rounds=2, swap=True)
    assert order == ["b", "a", "a", "b"]


def test_times_are_scaled_and_ratios_are_medians_of_rounds(harness):
    rounds = [{"wall": 1, "train": {"images": 8, "wall": 2}},
              {"wall": 3, "train": {"images": 9, "wall": 3}}]  # fmt: skip
    series = harness.Series("a", rounds=rounds, scale=10)
    assert series.times("wall") == [10, 30]
    assert series.median("wall") == 2
    assert series.rates("wall", "train") == [4, 3]
    assert harness.median_ratio([10, 30, 40], [5, 3, 1]) == "10"
    assert harness.median_ratio([1], None) == harness.median_ratio([], []) == "–"


def test_numbers_and_tables(harness):
    assert [harness.figure(value) for value in (0.12345, 12.345, 12345.6)] == [
        "0.123", "12.3", "12,346",
    ]  # fmt: skip
    assert [harness.duration(value) for value in (9, 600, 9000)] == ["9 s", "10 min", "2.5 h"]
    rows = [["a", "bb"], ["ccc", 1]]
    assert harness.table(rows) == "| a | bb |\n| --- | --- |\n| ccc | 1 |"
    assert harness.table(rows, markdown=False) == "a    bb\nccc  1"


def test_a_report_is_printed_saved_and_recorded(harness, tmp_path, capsys):
    page, file = tmp_path / "page.md", tmp_path / "values.json"
    page.write_text("before\n<!-- speed: begin -->\nold\n<!-- speed: end -->\nafter\n")
    arguments = ["--record", str(page), "--json", str(file), "--rounds", "2"]
    options = harness.parser("Title.\n\nMore.", rounds=5, json=None).parse_args(arguments)
    assert options.rounds == 2
    report = harness.Report("folder/speed.py", arguments, options)
    report.add("a table", "")
    report.save(values=[1])
    report.close()
    text = page.read_text()
    assert "a table\n" in capsys.readouterr().out
    assert text.startswith("before\n<!-- speed: begin -->\n\n")
    assert text.endswith("\n\na table\n\n<!-- speed: end -->\nafter\n")
    assert "python benchmarks/speed.py --record" in text
    assert json.loads(file.read_text())["values"] == [1]
    page.write_text("no lines")
    with pytest.raises(SystemExit, match="has no lines <!-- speed: begin -->"):
        report.close()


def test_a_configuration_is_a_copy(harness):
    harness.configuration("dataset=digits")["trainer"]["epochs"] = -1
    assert harness.configuration("dataset=digits")["trainer"]["epochs"] > 0
