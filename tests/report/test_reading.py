"""What run folders and sweeps hold, checked when it is read."""

import json

import pytest

from deephash.errors import FileError
from deephash.report.reading import TABLE, log_entry, read_log, read_report, read_sweep_file

GOOD = {
    "run": "digits/csq/8bit/seed0",
    "nbit": 8,
    "seed": 0,
    "metrics": {
        "map": 0.5,
        "pr_curve": {"radius": [0], "precision_macro": [0.1]},
        "precision_at": {"1": 0.5},
        "conventions": {"metric": "mAP@all", "top": None},
    },
    "protocol": {"dataset": "digits", "protocol": "half", "fingerprint": "f"},
    "selection": {"epoch_last": 3},
    "training": {"seconds": 2.0},
    "codebook": None,
}


def put(values, key, value):
    """A copy with another value at a dotted key; without it for `...`."""
    copy = json.loads(json.dumps(values))
    *path, last = key.split(".")
    node = copy
    for name in path:
        node = node[name]
    node[last] = value
    if value is ...:
        del node[last]
    return copy


def reason(read, path, values, *more):
    path.write_text(json.dumps(values))
    with pytest.raises(FileError) as caught:
        read(path, *more)
    return caught.value.reason


def test_a_report_comes_back(tmp_path):
    (tmp_path / "report.json").write_text(json.dumps(GOOD))
    assert read_report(tmp_path / "report.json", TABLE) == GOOD


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("run", 1, "run is a whole number, not a text"),
        ("nbit", "8", "nbit is a text, not a whole number"),
        ("seed", 10**15, None),
        ("metrics", [], "metrics is a list, not a mapping"),
        ("metrics.map", "high", "metrics.map is a text, not a number or null"),
        ("metrics.pr_curve", [], "metrics.pr_curve is a list, not a mapping"),
        ("metrics.pr_curve.precision_macro", ["a"], "metrics.pr_curve.precision_macro is a list"),
        ("metrics.precision_at", [1], "metrics.precision_at is a list, not a mapping"),
        ("metrics.precision_at.1", {}, "metrics.precision_at.1 is a mapping, not a number"),
        ("metrics.conventions", "x", "metrics.conventions is a text, not a mapping"),
        ("metrics.conventions.top", "x", "metrics.conventions.top is a text, not a whole number"),
        ("protocol.fingerprint", 5, "protocol.fingerprint is a whole number, not a text"),
        ("protocol.fingerprint", ..., "it has no protocol.fingerprint"),
        ("metrics.map", ..., "it has no metrics.map"),
        ("protocol", None, "protocol is nothing, not a mapping"),
        ("training.seconds", float("inf"), "training.seconds is inf, not a number"),
        ("selection.epoch_last", "2", "selection.epoch_last is a text, not a whole number"),
    ],
)
def test_kinds_of_a_report(tmp_path, key, value, expected):
    file = tmp_path / "report.json"
    if expected is None:
        file.write_text(json.dumps(put(GOOD, key, value)))
        read_report(file, TABLE)
    else:
        assert reason(read_report, file, put(GOOD, key, value), TABLE).startswith(expected)


def test_lines_of_a_log(tmp_path):
    lines = ['{"where": "train", "step": 2, "epoch": 1, "loss": "nan", "odd": [1], "far": NaN}',
             "[" * 5000, "{", '{"where": "train", "step": "x", "epoch": 1}', "5", "",
             '{"where": "query", "step": 1, "epoch": 1, "map": 0.5}']  # fmt: skip
    (tmp_path / "log.jsonl").write_text("\n".join(lines))
    assert read_log(tmp_path / "log.jsonl") == [
        {"where": "query", "step": 1, "epoch": 1, "map": 0.5},
        {"where": "train", "step": 2, "epoch": 1, "loss": "nan"},
    ]
    assert read_log(tmp_path / "gone") == []
    assert log_entry('{"epoch": 1e999}', {"epoch": int}) is None


MANIFEST = {"jobs": [{"run": "a/b", "values": {"seed": 0}}], "report": {"digits": 3}}


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([], "it holds a list, not a mapping"),
        ({}, "it has no jobs"),
        ({"jobs": {}}, "jobs is a mapping, not a list"),
        ({"jobs": [{}]}, "jobs[0]: it has no run"),
        ({"jobs": [{"run": 1, "values": {}}]}, "jobs[0]: run is a whole number, not a text"),
        ({"jobs": [{"run": "a", "values": {"seed": []}}]}, "jobs[0]: values.seed is a list"),
        (MANIFEST | {"report": {"digits": 99}}, "report.digits is not a number of digits"),
        (MANIFEST | {"report": {"figure": 1}}, "report.figure is a whole number"),
        (MANIFEST | {"title": {}}, "title is a mapping, not a text or null"),
    ],
)
def test_kinds_of_a_sweep(tmp_path, values, expected):
    assert reason(read_sweep_file, tmp_path / "sweep.json", values).startswith(expected)


def test_a_value_of_a_log_is_a_number_or_stands_for_one():
    line = '{"time": "t", "where": "train", "step": 1, "epoch": 1, "a": "nan", "b": "é", "c": 2}'
    entry = log_entry(line)
    assert entry == {"time": "t", "where": "train", "step": 1, "epoch": 1, "a": "nan", "c": 2}
