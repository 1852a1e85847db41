"""Paired differences: a naive loop, properties, and AP that means the mAP."""

import numpy as np
import pytest

from deephash.errors import DataError
from deephash.retrieval import (
    Convention,
    Ranking,
    binarize,
    counted_precision,
    mean_average_precision,
    pack,
    paired_difference,
)


def two(seeds=3, queries=40, seed=0):
    random = np.random.default_rng(seed)
    return random.random((seeds, queries)), random.random((seeds, queries))


def naive(a, b, draws, seed):
    """Each draw: some seeds, some queries, the mean over all pairs of the two."""
    random, (seeds, queries) = np.random.default_rng(seed), a.shape
    rows = random.integers(seeds, size=(draws, seeds))
    columns = random.integers(queries, size=(draws, queries))
    means = [
        sum(a[s, q] - b[s, q] for s in rows[draw] for q in columns[draw]) / (seeds * queries)
        for draw in range(draws)
    ]
    return np.quantile(means, [0.025, 0.975])


@pytest.mark.parametrize("seeds", [1, 3])
def test_it_is_the_naive_loop(seeds):
    a, b = two(seeds, 12)
    result = paired_difference(a, b, draws=120, seed=7)
    assert result.mean == pytest.approx((a - b).mean())
    assert [result.low, result.high] == pytest.approx(naive(a, b, 120, 7))
    assert (result.seeds, result.queries) == (seeds, 12)


def test_many_queries_are_resampled_in_parts(monkeypatch):
    """The parts are drawn one after the other, so only their statistics stay."""
    a, b = two(4, 200)
    whole = paired_difference(a, b, draws=4000)
    monkeypatch.setattr("deephash.retrieval.bootstrap._BLOCK", 200 * 7)
    parts = paired_difference(a, b, draws=4000)
    assert parts.low == pytest.approx(whole.low, abs=0.005) and parts.low != whole.low
    assert parts.high == pytest.approx(whole.high, abs=0.005)


def test_the_same_on_both_sides_differs_by_exactly_nothing():
    a, _ = two()
    result = paired_difference(a, a)
    assert (result.mean, result.low, result.high) == (0, 0, 0)
    assert not result.certain


def test_the_sides_can_be_swapped():
    a, b = two()
    forward, backward = paired_difference(a, b), paired_difference(b, a)
    assert (forward.mean, forward.low, forward.high) == pytest.approx(
        (-backward.mean, -backward.high, -backward.low)
    )


def test_the_same_seed_gives_the_same_interval_and_another_another():
    a, b = two()
    assert paired_difference(a, b, seed=3) == paired_difference(a, b, seed=3)
    assert paired_difference(a, b, seed=3).low != paired_difference(a, b, seed=4).low


def test_shared_variation_does_not_widen_the_interval():
    """Queries are easy or hard for both: the difference of 0.02 is certain all the same."""
    random = np.random.default_rng(0)
    hardness = random.random((1, 200))
    noise = 0.01 * random.standard_normal((3, 200))
    result = paired_difference(hardness + 0.02 + noise, np.repeat(hardness, 3, axis=0))
    assert result.certain and result.low > 0.015


def test_the_interval_holds_a_known_difference_about_as_often_as_it_says():
    """Effects of seeds, of queries and of both; many enough of each for the percentiles."""
    random, holds, times = np.random.default_rng(1), 0, 150
    for _ in range(times):
        seeds = 0.1 * random.standard_normal((15, 1))
        queries = 0.2 * random.standard_normal((1, 40))
        noise = 0.1 * random.standard_normal((15, 40))
        a = 0.3 + seeds + queries + noise
        result = paired_difference(a, np.zeros_like(a), draws=400)
        holds += result.low <= 0.3 <= result.high
    assert 0.87 <= holds / times <= 0.995


def test_seeds_that_differ_widen_the_interval():
    """Resampling queries alone would be certain of what two seeds deny."""
    a = np.array([[0.5] * 50, [0.1] * 50])
    b = np.full((2, 50), 0.3)
    assert not paired_difference(a, b).certain
    assert paired_difference(a[:1], b[:1]).certain


@pytest.mark.parametrize(
    ("a", "b", "draws", "message"),
    [
        (np.ones(3), np.ones(3), 10, "must both be"),
        (np.ones((1, 3)), np.ones((2, 3)), 10, "must both be"),
        (np.ones((1, 0)), np.ones((1, 0)), 10, "must both be"),
        (np.array([[np.nan]]), np.ones((1, 1)), 10, "finite"),
        (np.ones((1, 3)), np.ones((1, 3)), 0, "draws"),
    ],
)
def test_what_is_no_pair_is_refused(a, b, draws, message):
    with pytest.raises(DataError, match=message):
        paired_difference(a, b, draws)


@pytest.mark.parametrize("ties", ["expected", "stable", "best", "worst", "shuffled"])
@pytest.mark.parametrize("top", [None, 5])
@pytest.mark.parametrize(
    "empty", ["zero", "skip_retrieved_none", "skip_no_relevant", "skip_unlabelled"]
)
@pytest.mark.parametrize("denominator", ["hits", "R"])
def test_the_mean_of_the_queries_that_count_is_the_map(ties, top, empty, denominator):
    if (ties, empty) == ("expected", "skip_retrieved_none") and top is not None:
        pytest.skip("no convention")
    random = np.random.default_rng(0)
    codes = [pack(binarize(random.standard_normal((many, 6)))) for many in (30, 25)]
    labels = [random.random((many, 5)) < 0.15 for many in (30, 25)]
    labels[1][:, 4] = False  # nobody has it in the database
    ranking = Ranking(*codes, *labels, 6)
    convention = Convention(top, ties, denominator, empty)
    result, expected = (
        counted_precision(ranking, convention),
        mean_average_precision(ranking, convention),
    )
    counted = np.isfinite(result)
    assert counted.sum() == expected.queries_counted
    assert result[counted].mean() == expected.value
    assert empty == "zero" or 0 < counted.sum() < 30
