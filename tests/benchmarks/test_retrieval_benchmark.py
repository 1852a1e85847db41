"""The retrieval benchmark, on small sizes: its contenders compute the same results."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from deephash.retrieval import pack


@pytest.fixture(scope="module")
def bench(script):
    return script("retrieval")


def contenders(bench, ties):
    """The contenders with a rule for ties, as far as their packages are installed."""
    return {
        name: contender
        for name, contender in bench.CONTENDERS.items()
        if contender.ties == ties and bench.installed(name)
    }


def map_of(contender, load):
    return contender.run(contender.prepare(load), 1)["map"]


def small(bench, work, seed=0):
    return bench.draw(replace(work, queries=40, database=600, top=work.top and 50), seed)


@pytest.mark.parametrize("top", [None, 10])
def test_without_ties_all_agree(bench, top):
    staircase = np.arange(64) < np.arange(64)[:, None]  # item j is at distance j, or 64 - j
    queries = np.stack([np.zeros(64, dtype=bool), np.ones(64, dtype=bool)])
    labels = np.random.default_rng(0).integers(0, 3, 64)
    load = bench.Load(pack(queries), pack(staircase), np.array([0, 1]), labels, 64, top)
    values = [
        map_of(contender, load)
        for ties in ("any", "stable", "expected")
        for contender in contenders(bench, ties).values()
    ]
    assert len(values) >= 4
    assert values == pytest.approx([values[0]] * len(values), abs=1e-12)


@pytest.mark.parametrize("name", ["W1", "W2", "W3"])
def test_with_ties_those_of_one_rule_agree(bench, name):
    load = small(bench, getattr(bench, name))
    for ties in ("stable", "expected"):
        values = [map_of(contender, load) for contender in contenders(bench, ties).values()]
        assert values == pytest.approx([values[0]] * len(values), abs=1e-12)


@pytest.mark.parametrize("name", ["W1", "W3"])
def test_with_ties_the_field_lies_between_the_bounds(bench, name):
    load = replace(small(bench, getattr(bench, name)), top=None)
    bounds = bench.bounds(load, 1)
    assert bounds["worst"] < map_of(bench.CONTENDERS["field"], load) < bounds["best"]


def test_the_limit_sums_the_distances(bench):
    pytest.importorskip("numba")
    for nbit in (16, 128):
        load = small(bench, replace(bench.W1, nbit=nbit))
        query, database = (
            np.unpackbits(codes, axis=1) for codes in (load.query_codes, load.database_codes)
        )
        mean = (query[:, None] != database).sum(axis=2).mean()
        result = bench.all_pairs(bench.as_u64(load), 1)
        assert result["distance"] == pytest.approx(mean)


def test_data_are_what_is_promised(bench):
    load = bench.draw(replace(bench.W3, queries=10, database=20_000), 0)
    share = load.database_labels.mean(axis=0)
    assert load.database_labels.sum(axis=1).mean() == pytest.approx(2.39, abs=0.03)
    assert share.argmax() == 0
    assert share[0] > 5 * share[-1]
    more = bench.draw(replace(bench.W3, queries=20, database=20_000), 0)
    np.testing.assert_array_equal(load.database_codes, more.database_codes)
    balanced = bench.draw(replace(bench.W1, queries=10, database=1_000), 0)
    assert (np.bincount(balanced.database_labels) == 100).all()


def test_a_run_prints_tables_and_saves_what_it_measured(bench, in_process, tmp_path, capsys):
    file = tmp_path / "measured.json"
    sizes = ["--queries", "12", "--database", "500", "--rounds", "2"]
    chosen = ["--work", "W1", "threads", "--contenders", "field", "numpy", "numpy-stable"]
    assert bench.main([*chosen, *sizes, "--json", str(file), "--markdown"]) == 0
    printed = capsys.readouterr().out
    assert "### W1: 12 queries × 500 items, 64 bits, R = all, 10 classes" in printed
    assert "At most 12 queries." in printed
    assert "| field |" in printed
    assert "expected: numpy: at most 0 apart" in printed
    first = json.loads(file.read_text())["cases"][0]
    assert [entry["name"] for entry in first["entries"]] == ["field", "numpy", "numpy-stable"]
    assert all(len(entry["rounds"]) == 2 for entry in first["entries"])


def test_queries_beyond_the_memory_are_left_out_with_a_note(bench, in_process, capsys):
    sizes = ["--queries", "100", "--database", "500", "--rounds", "1", "--memory", "0.2"]
    assert bench.main(["--work", "W1", "--contenders", "field", *sizes]) == 0
    printed = capsys.readouterr().out
    assert "field*: 33 queries; the times are scaled to 100, the peak is not" in printed


@pytest.mark.parametrize(
    ("by", "message"), [(1e-9, "expected: numpy, torch: at most 1e-09"), (1, "torch")]
)
def test_contenders_that_disagree_are_reported(bench, in_process, monkeypatch, capsys, by, message):
    torch_engine = bench.CONTENDERS["torch"]

    def wrong(load, threads):
        right = torch_engine.run(load, threads)
        return right | {"map": right["map"] + by}

    monkeypatch.setitem(bench.CONTENDERS, "torch", replace(torch_engine, run=wrong))
    sizes = ["--queries", "12", "--database", "500", "--rounds", "1"]
    assert bench.main(["--work", "W1", "--contenders", "numpy", "torch", *sizes]) == 1
    assert f"DISAGREES: {message}" in capsys.readouterr().out


@pytest.mark.slow
def test_in_processes_of_their_own(bench, capsys):
    sizes = ["--queries", "12", "--database", "500", "--rounds", "1"]
    assert bench.main(["--work", "W3", "--contenders", "numpy", *sizes]) == 0
    assert "numpy: at most 0 apart" in capsys.readouterr().out
    request = {"contender": "numpy", "threads": 1, "queries": 1, "nbit": 64, "top": None}
    assert "No such file" in bench.run(request, Path("nowhere"))["failed"]
