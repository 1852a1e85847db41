"""Whoever counts, the numbers are the same whole numbers, those of the definition."""

import importlib.util
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deephash.errors import DataError
from deephash.retrieval import (
    Convention,
    Engine,
    Histograms,
    Ranking,
    evaluate_codes,
    hamming,
    histograms,
    mean_average_precision,
    pack,
)
from deephash.retrieval.engines import dense, packed

NUMBA = importlib.util.find_spec("numba") is not None
ENGINES = [Engine("numpy"), Engine("torch", device="cpu")]
ENGINES += [Engine("numba", threads=1), Engine("numba", threads=3)] if NUMBA else []
EACH = pytest.mark.parametrize("engine", ENGINES, ids=lambda e: f"{e.name}{e.threads or ''}")
KINDS = ("classes", "one_hot", "multi_hot")


def drawn(seed, queries, size, nbit, classes, kind, ones=0.4):
    rng = np.random.default_rng(seed)
    codes = [pack(rng.random((n, nbit)) < ones) for n in (queries, size)]
    if kind == "classes":
        return *codes, *(rng.integers(0, classes, n) for n in (queries, size))
    if kind == "multi_hot":
        return *codes, *(rng.random((n, classes)) < 0.15 for n in (queries, size))
    labels = [np.zeros((n, classes), dtype=bool) for n in (queries, size)]
    for hot in labels:  # some have none
        some = np.flatnonzero(rng.random(len(hot)) < 0.7)
        hot[some, rng.integers(0, classes, len(some))] = True
    return *codes, *labels


def by_definition(query, database, asked, held, nbit):
    distance = hamming(query, database)
    if asked.ndim == 1:
        relevant = asked[:, None] == held[None]
    else:
        relevant = asked.astype(int) @ held.T.astype(int) > 0
    items, hits = (np.zeros((len(query), nbit + 1), dtype=np.int64) for _ in range(2))
    for q, row in enumerate(distance):
        for d, shares in zip(row, relevant[q], strict=True):
            items[q, d] += 1
            hits[q, d] += shares
    order = [sorted(range(len(row)), key=lambda i, row=row: (row[i], i)) for row in distance]
    places = [[k for k, i in enumerate(seen) if relevant[q, i]] for q, seen in enumerate(order)]
    return items, hits, places


@EACH
@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    queries=st.integers(1, 9),
    size=st.one_of(st.integers(1, 40), st.integers(500, 1100)),
    nbit=st.sampled_from([1, 2, 7, 8, 9, 31, 48, 64, 65, 127, 128, 129, 200, 255, 256, 300]),
    classes=st.sampled_from([1, 3, 64, 65, 130]),
    kind=st.sampled_from(KINDS),
)
def test_counts_and_places_are_those_of_the_definition(
    engine, seed, queries, size, nbit, classes, kind
):
    given_ = drawn(seed, queries, size, nbit, classes, kind)
    items, hits, places = by_definition(*given_, nbit)
    ranking = Ranking(*given_, nbit, engine)
    np.testing.assert_array_equal(ranking.counts[0], items)
    np.testing.assert_array_equal(ranking.counts[1], hits)
    assert [found.tolist() for found in ranking.each(np.copy)] == places
    top = 1 + seed % size
    cut = [[place for place in row if place < top] for row in places]
    assert [found.tolist() for found in ranking.each(np.copy, top)] == cut


@EACH
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("nbit", [12, 64, 130])
def test_databases_of_several_parts(engine, kind, nbit, monkeypatch):
    """Parts, and blocks within, end where they like."""
    given_ = drawn(5, 4, 4 * packed.PART + 4321, nbit, 70, kind)
    monkeypatch.setattr(dense, "PART", 100_000)
    counts = Ranking(*given_, nbit, engine).counts
    distance = hamming(*given_[:2])
    asked, held = (x if x.ndim == 2 else np.eye(70, dtype=bool)[x] for x in given_[2:])
    for q in range(4):
        relevant = (held & asked[q]).any(axis=1)
        np.testing.assert_array_equal(counts[0][q], np.bincount(distance[q], minlength=nbit + 1))
        np.testing.assert_array_equal(
            counts[1][q], np.bincount(distance[q][relevant], minlength=nbit + 1)
        )


@EACH
def test_all_at_one_distance_and_nothing_relevant(engine):
    zeros = np.zeros((3000, 2), dtype=np.uint8)
    one = Ranking(zeros[:1], zeros, np.array([1]), np.zeros(3000, dtype=int), 16, engine)
    assert one.counts[0].tolist() == [[3000] + [0] * 16]
    assert one.counts[1].sum() == 0
    assert mean_average_precision(one, Convention(ties="stable")).value == 0
    same = Ranking(zeros[:1], zeros, np.array([1]), np.ones(3000, dtype=int), 16, engine)
    assert same.counts[1][0, 0] == 3000
    assert same.each(len, 7) == [7]


@EACH
def test_unlabelled_queries_do_not_match_unlabelled_items(engine):
    none = np.zeros((1, 3), dtype=bool)
    held = np.zeros((700, 3), dtype=bool)
    held[::2, 1] = True
    codes = np.zeros((700, 1), dtype=np.uint8)
    ranking = Ranking(codes[:1], codes, none, held, 8, engine)
    assert ranking.counts[1].sum() == 0
    assert ranking.each(len) == [0]


@EACH
def test_metrics_and_reports_are_the_same_to_the_bit(engine):
    given_ = drawn(8, 20, 900, 24, 6, "multi_hot")
    for ties in ("expected", "stable", "shuffled", "best", "worst"):
        convention = Convention(top=100, ties=ties, seed=4)
        found = mean_average_precision(Ranking(*given_, 24, engine), convention)
        assert found == mean_average_precision(Ranking(*given_, 24, "numpy"), convention)
    rng = np.random.default_rng(0)
    z, labels = rng.normal(size=(200, 24)), rng.integers(0, 5, 200)
    sides = (z[:50], z[50:], labels[:50], labels[50:])
    assert evaluate_codes(*sides, engine=engine) == evaluate_codes(*sides, engine="numpy")


@EACH
def test_inputs_stay_as_they_are(engine):
    given_ = drawn(9, 5, 800, 40, 9, "one_hot")
    for array in given_:
        array.flags.writeable = False
    copies = [array.copy() for array in given_]
    ranking = Ranking(*given_, 40, engine)
    ranking.each(len, 30)
    Histograms.of(ranking.shuffled(1))
    for array, copy in zip(given_, copies, strict=True):
        np.testing.assert_array_equal(array, copy)


@EACH
def test_tensors_memory_maps_and_slices_are_taken(engine, tmp_path):
    query, database, asked, held = drawn(10, 5, 801, 64, 9, "classes")
    plain = histograms(query, database, asked, held, 64, engine)
    np.save(tmp_path / "codes.npy", database)
    mapped = np.load(tmp_path / "codes.npy", mmap_mode="r")
    wide = np.zeros((801, 16), dtype=np.uint8)
    wide[:, 4:12] = database
    for codes in (mapped, wide[:, 4:12], torch.from_numpy(database)):
        found = histograms(query, codes, asked, torch.from_numpy(held), 64, engine)
        np.testing.assert_array_equal(found.relevant, plain.relevant)


def test_what_is_chosen(monkeypatch):
    many = 10**9
    assert Engine().chosen(1000) == "numpy"
    assert Engine(device="cpu").chosen(many) == ("numba" if NUMBA else "numpy")
    assert Engine(device="cuda:1").chosen(1) == "torch"
    assert Engine("torch").on_cpu(1000) == "numpy"
    assert Engine("numpy").chosen(many) == "numpy"
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert Engine().chosen(many) == "numpy"
    with pytest.raises(DataError, match="pip install"):
        Engine("numba")


def test_codes_on_a_gpu_are_counted_there():
    there = SimpleNamespace(device="cuda:1")
    assert Engine().near(there).chosen(1) == "torch"
    assert Engine().near(torch.zeros(2)).chosen(1) == Engine().near([]).chosen(1) == "numpy"
    assert Engine("numpy").near(there).chosen(1) == "numpy"
    assert Engine(device="cpu").near(there).chosen(1) == "numpy"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("nbit", [12, 64, 130, 1030])
def test_cuda_counts_the_same(nbit, kind):
    given_ = drawn(5, 300, 200_000, nbit, 70, kind)
    for found, expected in zip(
        Ranking(*given_, nbit, Engine("torch", device="cuda")).counts,
        Ranking(*given_, nbit, "numpy").counts,
        strict=True,
    ):
        np.testing.assert_array_equal(found, expected)


def test_errors():
    with pytest.raises(DataError, match="engine='gpu' is unknown; allowed: auto, numpy"):
        Engine("gpu")
    with pytest.raises(DataError, match="threads=0"):
        Engine(threads=0)
    with pytest.raises(DataError, match="device='gpu' is unknown: try cpu or cuda"):
        Engine(device="gpu")
    given_ = drawn(1, 2, 3, 8, 2, "classes")
    with pytest.raises(DataError, match="engine='fast'"):
        histograms(*given_, 8, "fast")


@pytest.mark.skipif(not NUMBA, reason="numba is not installed")
def test_a_numba_that_does_not_load_is_told_once_and_replaced():
    """As when numpy is newer than it allows."""
    told = subprocess.run(
        [
            sys.executable, "-c",
            "import sys; sys.modules['numba.extending'] = None\n"
            "from deephash.retrieval import Engine, histograms\n"
            "import numpy as np\n"
            "print(Engine().chosen(10**9), Engine().chosen(10**9))\n"
            "codes, labels = np.zeros((1, 1), np.uint8), np.array([0])\n"
            "histograms(codes, codes, labels, labels, 8, 'numba')\n",
        ],
        capture_output=True, text=True,
    )  # fmt: skip
    assert told.stdout.strip() == "numpy numpy"
    assert told.stderr.count("numpy counts instead") == 1
    assert "try engine=auto" in told.stderr
