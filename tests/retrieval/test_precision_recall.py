from fractions import Fraction
from itertools import pairwise, permutations, product
from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from deephash.errors import DataError
from deephash.retrieval import (
    DENOMINATORS,
    Convention,
    Histograms,
    Ranking,
    average_precision,
    average_precision_within_radius,
    hit_rate_at,
    mean_average_precision,
    mean_average_precisions,
    pack,
    pr_curve_by_radius,
    pr_curve_by_rank,
    precision_at,
    recall_at,
    recall_within_radius,
)

often = settings(max_examples=40, deadline=None, derandomize=True, database=None)

CASES = [
    ([0, 0, 1, 1, 1, 1, 1], [1, 0, 1, 1, 0, 0, 0]),
    ([2, 2, 2, 2, 2, 2], [0, 1, 0, 0, 1, 0]),
    ([0, 1, 2, 3], [0, 1, 1, 0]),
    ([1, 1, 1, 4, 4, 4], [0, 0, 0, 1, 1, 0]),
    ([0, 0, 0, 5], [0, 0, 0, 1]),
    ([0, 2, 2, 3, 3], [0, 0, 0, 0, 0]),
    ([0, 0, 2, 2], [1, 1, 1, 1]),
    ([3], [1]),
    ([3], [0]),
]


def counted(distance, relevance, nbit=5):
    """The histograms of queries: (Q, N) distances and relevance, or one query's."""
    distance, relevance = np.atleast_2d(distance), np.atleast_2d(relevance)
    items = [np.bincount(row, minlength=nbit + 1) for row in distance]
    relevant = [
        np.bincount(row[hot > 0], minlength=nbit + 1)
        for row, hot in zip(distance, relevance, strict=True)
    ]
    return Histograms(np.array(items), np.array(relevant))


def orders(distance, relevance):
    """The relevance of every order that sorts by distance, ties in all ways; each as likely."""
    groups = [
        [r for d, r in zip(distance, relevance, strict=True) if d == value]
        for value in sorted(set(distance))
    ]
    for parts in product(*(list(permutations(group)) for group in groups)):
        yield [r for part in parts for r in part]


def scored(relevance, top, total, denominator):
    """AP@top of one order, by a loop."""
    hits, value = 0, 0.0
    for rank, relevant in enumerate(relevance[:top], start=1):
        if relevant:
            hits += 1
            value += hits / rank
    by = {"hits": hits, "min": min(top, total), "total": total, "R": top}[denominator]
    return value / by if by else 0.0


@st.composite
def met(draw, queries=3, items=9, nbit=4):
    """Distances and relevance of some queries to a database."""
    shape = draw(st.integers(1, queries)), draw(st.integers(1, items))
    return (
        draw(arrays(np.int64, shape, elements=st.integers(0, nbit))),
        draw(arrays(np.int64, shape, elements=st.integers(0, 1))),
    )


@pytest.mark.parametrize(("distance", "relevance"), CASES)
def test_hit_rate_is_the_mean_over_all_orders(distance, relevance):
    every = np.array(list(orders(distance, relevance)))
    cuts = range(1, len(distance) + 1)
    for ties, mean in (("expected", np.mean), ("best", np.max), ("worst", np.min)):
        result = hit_rate_at(counted(distance, relevance), cuts, ties)
        expected = {cut: float(mean(every[:, :cut].any(axis=1))) for cut in cuts}
        assert result == pytest.approx(expected, abs=1e-14)


@pytest.mark.parametrize(
    ("items", "relevant", "cut"), [(2000, 30, 70), (2000, 700, 3), (2000, 1, 1999), (2000, 0, 5)]
)
def test_hit_rate_in_a_large_tie_is_hypergeometric(items, relevant, cut):
    missed = Fraction(comb(items - relevant, cut), comb(items, cut))
    hist = Histograms(np.array([[0, items]]), np.array([[0, relevant]]))
    assert hit_rate_at(hist, [cut])[cut] == pytest.approx(float(1 - missed), rel=1e-12, abs=1e-15)


def test_hit_rate_stops_multiplying_once_a_hit_is_certain():
    hist = Histograms(np.array([[10**9]]), np.array([[5 * 10**8]]))
    assert hit_rate_at(hist, [10**8]) == {10**8: 1.0}


def test_hit_rate_counts_queries_without_relevant_items():
    """The first finds one of two at once with probability 1/2; the second never finds any."""
    assert hit_rate_at(counted([[0, 0], [0, 1]], [[1, 0], [0, 0]]), [1, 2]) == {1: 0.25, 2: 0.5}


def test_the_order_of_a_ranking_by_definition():
    rng = np.random.default_rng(4)
    query, database = rng.random((12, 6)) < 0.5, rng.random((40, 6)) < 0.5
    query_labels, database_labels = rng.random((12, 5)) < 0.2, rng.random((40, 5)) < 0.2
    ranking = Ranking(pack(query), pack(database), query_labels, database_labels, 6)
    cuts = [1, 2, 7, 40]
    rows = []
    for bits, labels in zip(query, query_labels, strict=True):
        order = sorted(range(40), key=lambda n: ((bits != database[n]).sum(), n))
        rows.append([bool((labels & database_labels[n]).any()) for n in order])
    rows = np.array(rows)
    with_relevant = rows[rows.any(axis=1)]
    assert 0 < len(with_relevant) < 12
    assert precision_at(ranking, cuts, "stable") == pytest.approx(
        {cut: rows[:, :cut].mean() for cut in cuts}
    )
    assert recall_at(ranking, cuts, "stable") == pytest.approx(
        {
            cut: np.mean(with_relevant[:, :cut].sum(axis=1) / with_relevant.sum(axis=1))
            for cut in cuts
        }
    )
    assert hit_rate_at(ranking, cuts, "stable") == pytest.approx(
        {cut: rows[:, :cut].any(axis=1).mean() for cut in cuts}
    )
    hist = Histograms.of(ranking)
    assert hist.without_relevant == 12 - len(with_relevant)
    for metric, ties in product((precision_at, recall_at, hit_rate_at), ("expected", "worst")):
        assert metric(ranking, cuts, ties) == metric(hist, cuts, ties)


def test_curve_by_rank_by_hand():
    """Distances 0, 1, 1, 1, relevant the first and one of the three; and a query with nothing.

    Expected hits 1, 4/3, 5/3, 2. Precision 1, 2/3, 5/9, 1/2, halved by the second query; recall
    1/2, 2/3, 5/6, 1 of the first.
    """
    curve = pr_curve_by_rank(counted([[0, 1, 1, 1], [0, 0, 2, 2]], [[1, 0, 0, 1], [0, 0, 0, 0]]))
    assert curve.rank.tolist() == [1, 2, 3, 4]
    np.testing.assert_allclose(curve.precision, [1 / 2, 1 / 3, 5 / 18, 1 / 4], rtol=1e-14)
    np.testing.assert_allclose(curve.recall, [1 / 2, 2 / 3, 5 / 6, 1], rtol=1e-14)


@often
@given(met(), st.sampled_from(["expected", "best", "worst"]))
def test_curve_by_rank_is_precision_and_recall_at_every_rank(seen, ties):
    hist = counted(*seen)
    curve, ranks = pr_curve_by_rank(hist, ties=ties), range(1, hist.size + 1)
    assert curve.precision == pytest.approx(list(precision_at(hist, ranks, ties).values()))
    assert curve.recall == pytest.approx(list(recall_at(hist, ranks, ties).values()))
    at_cuts = pr_curve_by_rank(hist, [hist.size, 1], ties)
    assert at_cuts.precision.tolist() == [curve.precision[-1], curve.precision[0]]
    assert at_cuts.recall.tolist() == [curve.recall[-1], curve.recall[0]]


def test_curve_by_rank_of_many_queries_keeps_its_digits():
    rng = np.random.default_rng(0)
    items = rng.multinomial(10**7, np.full(65, 1 / 65), size=300)
    hist = Histograms(items, rng.binomial(items, 1e-4))
    ranks = [1, 999, 12_345, 9_999_999, 10**7]
    curve = pr_curve_by_rank(hist, ranks)
    by_cut = precision_at(hist, ranks), recall_at(hist, ranks)
    np.testing.assert_allclose(curve.precision, list(by_cut[0].values()), rtol=1e-11)
    np.testing.assert_allclose(curve.recall, list(by_cut[1].values()), rtol=1e-11)


@often
@given(met())
def test_what_grows_with_the_cut_and_lies_between_its_bounds(seen):
    hist = counted(*seen)
    ranks = range(1, hist.size + 1)
    for metric in (recall_at, hit_rate_at):
        worst, expected, best = (
            list(metric(hist, ranks, ties).values()) for ties in ("worst", "expected", "best")
        )
        for curve in (worst, expected, best):
            assert all(a <= b + 1e-12 for a, b in pairwise(curve))
        rows = zip(worst, expected, best, strict=True)
        assert all(a <= b + 1e-12 and b <= c + 1e-12 for a, b, c in rows)
    answerable = hist.without_relevant < hist.queries
    assert recall_at(hist, [hist.size])[hist.size] == pytest.approx(float(answerable))


@often
@given(met(), st.sampled_from(DENOMINATORS), st.sampled_from(["expected", "best", "worst"]))
def test_several_cuts_at_once_are_each_alone(seen, denominator, ties):
    hist = counted(*seen)
    tops = [None, *range(1, hist.size + 1)]
    convention = Convention(1, ties, denominator, "skip_no_relevant")
    result = mean_average_precisions(hist, convention, tops)
    assert list(result) == tops
    for top in tops:
        alone = Convention(top, ties, denominator, "skip_no_relevant")
        assert result[top] == mean_average_precision(hist, alone)
    assert result[None] == result[hist.size]


@often
@given(met(queries=1, items=6), st.sampled_from(DENOMINATORS))
def test_average_precision_is_the_mean_over_all_orders(seen, denominator):
    hist = counted(*seen)
    every = list(orders(*(row[0].tolist() for row in seen)))
    tops = range(1, hist.size + 1)
    result = mean_average_precisions(hist, Convention(denominator=denominator), tops)
    total = hist.relevant.sum()
    for top in tops:
        expected = np.mean([scored(order, top, total, denominator) for order in every])
        assert result[top].value == pytest.approx(expected, abs=1e-13)


@pytest.mark.parametrize(
    ("items", "relevant", "cut"),
    [(9, 4, 5), (2000, 30, 70), (5000, 2400, 3000), (60_000, 6000, 20_000), (60_000, 59_990, 7)],
)
def test_hits_of_one_large_tie(items, relevant, cut):
    """One group, cut after t slots that hold x hits, and h = 1 + 1/2 + ... + 1/t.

    Given x the sum is x/t (h + (x - 1)/(t - 1) (t - h)), which over x is linear in x, save that
    nothing found is 0. So with P(x > 0), the hit rate, and E[x] = t r/n,
    E[AP] = (P h + (E[x] - P) (t - h)/(t - 1)) / t.
    """
    hist = Histograms(np.array([[0, items]]), np.array([[0, relevant]]))
    h, hit = sum(1 / j for j in range(1, cut + 1)), hit_rate_at(hist, [cut])[cut]
    expected = (h * hit + (cut * relevant / items - hit) * (cut - h) / (cut - 1)) / cut
    assert average_precision(hist, Convention(cut)).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("ties", ["stable", "shuffled"])
def test_several_cuts_of_a_ranking(ties):
    rng = np.random.default_rng(1)
    codes = pack(rng.random((9, 8)) < 0.5), pack(rng.random((50, 8)) < 0.5)
    ranking = Ranking(*codes, rng.integers(0, 3, 9), rng.integers(0, 4, 50), 8)
    for denominator, empty in product(DENOMINATORS, ("zero", "skip_retrieved_none")):
        convention = Convention(None, ties, denominator, empty, seed=3, drop_last=True)
        metrics_at = mean_average_precisions(ranking, convention, [1, 20, None])
        for top, result in metrics_at.items():
            alone = Convention(top, ties, denominator, empty, 3, drop_last=top is None)
            assert result == mean_average_precision(ranking, alone)
    with pytest.raises(DataError, match="give the Ranking"):
        mean_average_precisions(Histograms.of(ranking), Convention(ties=ties), [1])


def test_cuts_that_cannot_be_are_refused_together():
    hist = counted([0, 1, 1], [1, 0, 1])
    assert mean_average_precisions(hist, Convention(), []) == {}
    with pytest.raises(DataError, match="mAP@4 needs more than the 3 items"):
        mean_average_precisions(hist, Convention(), [1, 4])
    with pytest.raises(DataError, match="top=0"):
        mean_average_precisions(hist, Convention(), [0])
    with pytest.raises(DataError, match="depends on the order of ties"):
        mean_average_precisions(hist, Convention(empty="skip_retrieved_none"), [2])


def test_average_precision_within_a_ball_by_hand():
    """Radius 1. The first ball holds + at 0, then + and - tied: (1 + 1)/2 or (1 + 2/3)/2.

    That is 11/12 on average. The second holds one item, irrelevant: 0. The third is empty.
    """
    hist = counted(
        [[0, 1, 1, 2], [1, 2, 2, 2], [2, 2, 2, 2]], [[1, 1, 0, 1], [0, 1, 1, 1], [1] * 4]
    )
    result = average_precision_within_radius(hist, 1)
    assert result == pytest.approx((11 / 36, 11 / 24, 1 / 3))
    assert recall_within_radius(hist, 1) == pytest.approx((2 / 3 + 0 + 0) / 3)
    assert average_precision_within_radius(hist, 0) == pytest.approx((1 / 3, 1.0, 2 / 3))
    assert average_precision_within_radius(counted([2], [1]), 1) == (0.0, 0.0, 1.0)


@often
@given(met(queries=1, items=6), st.integers(0, 5), st.sampled_from(DENOMINATORS))
def test_average_precision_within_a_ball_is_the_mean_over_all_orders(seen, radius, denominator):
    distance, relevance = (row[0].tolist() for row in seen)
    inside = sum(value <= radius for value in distance)
    scores = [
        scored(order, inside, sum(relevance), denominator) for order in orders(distance, relevance)
    ]
    result = average_precision_within_radius(counted(*seen), radius, denominator)
    assert result.mean_zero == pytest.approx(np.mean(scores), abs=1e-13)
    assert result.mean_nonempty == pytest.approx(np.mean(scores), abs=1e-13)
    assert result.empty_fraction == (inside == 0)


@often
@given(met())
def test_balls_against_their_curve_and_the_whole_database(seen):
    hist = counted(*seen)
    curve = pr_curve_by_radius(hist)
    for radius in range(hist.nbit + 1):
        assert recall_within_radius(hist, radius) == pytest.approx(curve.recall_macro[radius])
    whole = average_precision_within_radius(hist, 99)
    assert whole.mean_zero == pytest.approx(average_precision(hist, Convention()).mean())
    assert whole.empty_fraction == 0


def test_one_query_and_one_item():
    hit, miss = counted([3], [1]), counted([3], [0])
    assert hit_rate_at(hit, [1]) == precision_at(hit, [1]) == recall_at(hit, [1]) == {1: 1.0}
    assert hit_rate_at(miss, [1]) == precision_at(miss, [1]) == recall_at(miss, [1]) == {1: 0.0}
    assert pr_curve_by_rank(miss).recall.tolist() == [0]
    assert recall_within_radius(miss, 5) == 0


def test_histograms_of_small_numbers_do_not_wrap():
    wide = counted([[0, 1, 1, 4], [2, 2, 2, 2]], [[0, 1, 0, 1], [0, 0, 1, 1]])
    small = Histograms(wide.items.astype(np.uint8), wide.relevant.astype(np.uint8))
    for ties in ("expected", "best", "worst"):
        convention = Convention(ties=ties)
        assert mean_average_precisions(small, convention, [1, 3]) == mean_average_precisions(
            wide, convention, [1, 3]
        )
        assert hit_rate_at(small, [1, 2], ties) == hit_rate_at(wide, [1, 2], ties)


def test_histograms_stay_as_they_were():
    hist = counted([[0, 1, 1, 4], [2, 2, 2, 2]], [[0, 1, 0, 1], [0, 0, 1, 1]])
    before = hist.items.copy(), hist.relevant.copy()
    mean_average_precisions(hist, Convention(), [1, 2, None])
    for ties in ("expected", "best", "worst"):
        hit_rate_at(hist, [1, 2], ties), pr_curve_by_rank(hist, ties=ties)
    average_precision_within_radius(hist), recall_within_radius(hist)
    np.testing.assert_array_equal(hist.items, before[0])
    np.testing.assert_array_equal(hist.relevant, before[1])


@pytest.mark.parametrize("cut", [0, 4, 1.0, True])
def test_cuts_outside_the_database_are_refused(cut):
    hist = counted([0, 1, 1], [1, 0, 1])
    for metric in (hit_rate_at, pr_curve_by_rank):
        with pytest.raises(DataError, match=r"not within 1\.\.3"):
            metric(hist, [cut])


@pytest.mark.parametrize("ties", ["stable", "shuffled", "luck"])
def test_histograms_cannot_tell_an_order(ties):
    hist = counted([0, 1, 1], [1, 0, 1])
    for metric in (precision_at, recall_at, hit_rate_at, pr_curve_by_rank):
        with pytest.raises(DataError, match="expected, best and worst"):
            metric(hist, [1], ties=ties)


def test_balls_need_a_radius_and_a_denominator():
    hist = counted([0, 1, 1], [1, 0, 1])
    for metric in (average_precision_within_radius, recall_within_radius):
        with pytest.raises(DataError, match="radius=-1"):
            metric(hist, -1)
    with pytest.raises(DataError, match="denominator='n'"):
        average_precision_within_radius(hist, 2, "n")


def test_hit_rate_of_small_and_large_ties_side_by_side():
    """What is counted for one query must not trouble another: warnings are errors."""
    items, relevant = np.array([[2, 398], [400, 0]]), np.array([[1, 0], [100, 0]])
    result = hit_rate_at(Histograms(items, relevant), [50])[50]
    missed = Fraction(comb(300, 50), comb(400, 50))
    assert result == pytest.approx((1 + float(1 - missed)) / 2, rel=1e-12)
