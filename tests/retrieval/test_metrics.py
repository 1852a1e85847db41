from fractions import Fraction
from itertools import permutations, product

import numpy as np
import pytest

from deephash.errors import DataError
from deephash.retrieval import (
    DENOMINATORS,
    EMPTY,
    TIES,
    Convention,
    Histograms,
    MapResult,
    Ranking,
    average_precision,
    histograms,
    mean_average_precision,
    pack,
    pr_curve_by_radius,
    precision_at,
    precision_within_radius,
    recall_at,
)
from deephash.retrieval.ties import reciprocals


def counted(distance, relevance, nbit=None):
    """The histograms of one query."""
    bins = max(distance) + 1 if nbit is None else nbit + 1
    items = np.bincount(distance, minlength=bins)
    relevant = np.bincount(np.array(distance)[np.array(relevance) > 0], minlength=bins)
    return Histograms(items[None], relevant[None])


def ranked(distance, relevance, nbit=None):
    """The ranking of one query of zeros: an item at distance d has its first d bits set."""
    nbit = max(*distance, 1) if nbit is None else nbit
    database = np.arange(nbit)[None] < np.array(distance)[:, None]
    query = np.zeros((1, nbit), dtype=bool)
    return Ranking(pack(query), pack(database), np.array([1]), np.array(relevance), nbit)


def by_definition(relevance, top, denominator):
    """AP@R of one order, by a loop."""
    hits, total = 0, 0.0
    for rank, relevant in enumerate(relevance[:top], start=1):
        if relevant:
            hits += 1
            total += hits / rank
    everything = sum(relevance)
    by = {"hits": hits, "min": min(top, everything), "total": everything, "R": top}[denominator]
    return total / by if by else 0.0


def orders(distance, relevance):
    """The relevance of every order that sorts by distance, ties in all ways; each as likely."""
    groups = [
        [r for d, r in zip(distance, relevance, strict=True) if d == value]
        for value in sorted(set(distance))
    ]
    for parts in product(*(list(permutations(group)) for group in groups)):
        yield [r for part in parts for r in part]


CASES = [
    ([0, 0, 1, 1, 1, 1, 1, 1], [1, 0, 1, 1, 0, 0, 0, 1]),
    ([3, 1, 0, 2, 2, 1], [1, 0, 1, 1, 0, 0]),
    ([2, 2, 2, 2, 2, 2, 2], [0, 1, 0, 0, 1, 0, 1]),
    ([0, 1, 2, 3], [0, 1, 1, 0]),
    ([1, 1, 1, 4, 4, 4], [0, 0, 0, 1, 1, 0]),
    ([0, 0, 0, 5], [0, 0, 0, 1]),
    ([0, 2, 2, 3, 3, 3], [0, 0, 0, 0, 0, 0]),
    ([0, 0, 2, 2, 2], [1, 1, 1, 1, 1]),
    ([6], [1]),
    ([6], [0]),
]


@pytest.mark.parametrize(
    ("denominator", "value"),
    [("hits", 239 / 360), ("min", 53 / 140), ("total", 53 / 140), ("R", 53 / 175)],
)
def test_the_cut_inside_a_tie_by_hand(denominator, value):
    """Relevance 1, 0 at distance 0, then 1, 1, 0, 0, 0, 1, 0 at distance 1; R = 5, T = 4.

    Slots 1 and 2: the relevant one is first or second, so 1/2 (1 + 1/2) = 3/4.
    Slots 3, 4, 5 take 3 of 7 items, 3 of them relevant: N = 2, A = 1, r/n = 3/7, and each slot
    above is relevant with probability (3 - 1)/(7 - 1) = 1/3. So
    3/7 (2/3 + (2 + 1/3)/4 + (2 + 2/3)/5) = 3/7 * 107/60 = 107/140, together 212/140 = 53/35.
    Divided by min(5, 4) = T = 4: 53/140 = 0.378571; by R = 5: 53/175 = 0.302857.

    By hits, x of the three slots are relevant with C(3, x) C(4, 3 - x) / 35 = 4, 18, 12, 1 over 35:
    x = 0: 3/4, over 1.
    x = 1: 3/4 + 1/3 (2/3 + 2/4 + 2/5) = 3/4 + 47/90 = 229/180, over 2: 229/360.
    x = 2: 3/4 + 2/3 (2/3 + 2.5/4 + 3/5) = 3/4 + 227/180 = 362/180, over 3: 362/540.
    x = 3: 3/4 + 2/3 + 3/4 + 4/5 = 534/180, over 4: 534/720.
    (4 * 0.75 + 18 * 229/360 + 12 * 362/540 + 534/720) / 35 = 0.663888... = 239/360.
    """
    hist = counted([0, 0] + [1] * 7, [1, 0, 1, 1, 0, 0, 0, 1, 0])
    result = average_precision(hist, Convention(top=5, denominator=denominator))
    assert result == pytest.approx([value], abs=1e-14)


def test_relevant_first_is_no_bound_for_hits_under_a_cut():
    """Distances 3, 1, 0, 2, 2, 1, relevance 1, 0, 1, 1, 0, 0, R = 4.

    Always +, -, - and then one of the two at distance 2. Relevant first: + - - +, hits at 1 and 4,
    (1 + 2/4) / 2 = 0.75. Relevant last: + - - -, one hit of one, 1. The mean is 0.875.
    """
    hist = counted([3, 1, 0, 2, 2, 1], [1, 0, 1, 1, 0, 0])
    value = {
        ties: average_precision(hist, Convention(top=4, ties=ties)).item()
        for ties in ("best", "worst", "expected")
    }
    assert value == pytest.approx({"best": 0.75, "worst": 1.0, "expected": 0.875})


def test_hits_are_not_monotone():
    """+ - + scores (1 + 2/3) / 2 = 5/6, while + - - scores 1: more found, and worse."""
    more, less = counted([0, 1, 2], [1, 0, 1]), counted([0, 1, 2], [1, 0, 0])
    assert average_precision(more, Convention()) == pytest.approx([5 / 6])
    assert average_precision(less, Convention()) == pytest.approx([1.0])


@pytest.mark.parametrize("denominator", DENOMINATORS)
@pytest.mark.parametrize(("distance", "relevance"), CASES)
def test_expected_is_the_mean_over_all_orders(distance, relevance, denominator):
    hist = counted(distance, relevance)
    every = list(orders(distance, relevance))
    for top in range(1, len(distance) + 1):
        scores = [by_definition(order, top, denominator) for order in every]
        result = average_precision(hist, Convention(top=top, denominator=denominator))
        assert result == pytest.approx([np.mean(scores)], abs=1e-13)


@pytest.mark.parametrize("denominator", ["min", "total", "R"])
@pytest.mark.parametrize(("distance", "relevance"), CASES)
def test_best_and_worst_bound_all_orders(distance, relevance, denominator):
    hist = counted(distance, relevance)
    every = list(orders(distance, relevance))
    for top in range(1, len(distance) + 1):
        scores = [by_definition(order, top, denominator) for order in every]
        for ties, bound in (("best", max(scores)), ("worst", min(scores))):
            convention = Convention(top=top, ties=ties, denominator=denominator)
            assert average_precision(hist, convention) == pytest.approx([bound], abs=1e-13)


@pytest.mark.parametrize("denominator", DENOMINATORS)
@pytest.mark.parametrize(("distance", "relevance"), CASES)
def test_every_fixed_order_by_definition(distance, relevance, denominator):
    """Best, worst and stable are one order each; a loop scores it."""
    places = range(len(distance))
    order = {
        "best": sorted(places, key=lambda n: (distance[n], -relevance[n])),
        "worst": sorted(places, key=lambda n: (distance[n], relevance[n])),
        "stable": sorted(places, key=lambda n: (distance[n], n)),
    }
    ranking = ranked(distance, relevance)
    for ties, top in product(order, range(1, len(distance) + 1)):
        expected = by_definition([relevance[n] for n in order[ties]], top, denominator)
        convention = Convention(top=top, ties=ties, denominator=denominator)
        assert average_precision(ranking, convention) == pytest.approx([expected], abs=1e-13)


def test_shuffled_is_the_stable_order_of_a_shuffled_database():
    rng = np.random.default_rng(3)
    distance, relevance = rng.integers(0, 3, 30), rng.integers(0, 2, 30)
    order = rng.permutation(30)
    ranking = ranked(distance, relevance)
    there = average_precision(ranking.reordered(order), Convention(ties="stable"))
    moved = ranked(distance[order], relevance[order])
    assert there == average_precision(moved, Convention(ties="stable"))

    def of(seed):
        return average_precision(ranking, Convention(ties="shuffled", seed=seed)).item()

    assert of(1) == of(1)
    assert len({of(seed) for seed in range(20)}) > 10
    expected = average_precision(ranking, Convention()).item()
    assert np.mean([of(seed) for seed in range(300)]) == pytest.approx(expected, abs=0.02)


def test_without_ties_all_policies_agree():
    distance, relevance = list(range(9)), [0, 1, 1, 0, 0, 1, 0, 0, 1]
    ranking = ranked(distance, relevance)
    for top, denominator in product((None, 1, 4, 9), DENOMINATORS):
        scores = [
            average_precision(ranking, Convention(top, ties, denominator)).item() for ties in TIES
        ]
        assert scores == pytest.approx([scores[0]] * len(TIES), abs=1e-14)


def test_without_a_cut_hits_min_and_total_are_one():
    rng = np.random.default_rng(0)
    hist = counted(rng.integers(0, 6, 50), rng.integers(0, 2, 50))
    hits, least, total, whole = (
        average_precision(hist, Convention(denominator=name)).item() for name in DENOMINATORS
    )
    assert hits == pytest.approx(least) == pytest.approx(total)
    assert whole == pytest.approx(total * hist.relevant.sum() / 50)


def test_one_large_tie_keeps_its_digits():
    """All of 40,000 items tied, half of them relevant, R = 20,000, against the plain sum.

    Slot j is relevant with probability 1/2, each slot above with p = 19999/39999, so
    E[S] = 1/2 sum_j (1 + (j - 1) p) / j.
    """
    hist = Histograms(np.array([[0, 40_000]]), np.array([[0, 20_000]]))
    p = 19_999 / 39_999
    expected = 0.5 * sum((1 + (j - 1) * p) / j for j in range(1, 20_001)) / 20_000
    result = average_precision(hist, Convention(top=20_000, denominator="R"))
    assert result == pytest.approx([expected], rel=1e-12)
    by_hits = average_precision(hist, Convention(top=20_000)).item()
    assert by_hits == pytest.approx(2 * expected, rel=1e-4)


EMPTY_QUERIES = Histograms(
    items=np.array([[1, 3], [1, 3], [1, 3], [1, 3]]),
    relevant=np.array([[1, 0], [0, 3], [0, 0], [0, 0]]),
    labelled=np.array([True, True, True, False]),
)


@pytest.mark.parametrize(
    ("empty", "value", "queries"),
    [
        ("zero", 1 / 4, 4),
        ("skip_retrieved_none", 1.0, 1),
        ("skip_no_relevant", 1 / 2, 2),
        ("skip_unlabelled", 1 / 3, 3),
    ],
)
def test_empty_queries_by_hand(empty, value, queries):
    """R = 1: the first finds its item (AP 1), the second has some, but later; two have none.

    The last has no label either. So the mean is 1 over 4, 1, 2 or 3 queries.
    """
    result = mean_average_precision(EMPTY_QUERIES, Convention(top=1, ties="best", empty=empty))
    assert result == MapResult(pytest.approx(value), queries, 2, 3)


def test_no_query_counted_is_zero():
    hist = counted([0, 1], [0, 0])
    result = mean_average_precision(hist, Convention(empty="skip_no_relevant"))
    assert result == MapResult(0.0, 0, 1, 1)


def test_empty_queries_are_counted_alike_by_ranking_and_histograms():
    rng = np.random.default_rng(0)
    given = (
        pack(rng.random((20, 10)) < 0.5),
        pack(rng.random((30, 10)) < 0.5),
        rng.random((20, 6)) < 0.15,
        rng.random((30, 6)) < 0.15,
        10,
    )
    ranking, hist = Ranking(*given), histograms(*given)
    for empty, ties in product(EMPTY, ("best", "worst")):
        convention = Convention(top=4, ties=ties, empty=empty)
        assert mean_average_precision(ranking, convention) == mean_average_precision(
            hist, convention
        )
    stable = mean_average_precision(ranking, Convention(ties="stable", empty="skip_unlabelled"))
    expected = mean_average_precision(hist, Convention(empty="skip_unlabelled"))
    assert stable[1:] == expected[1:]
    assert stable.queries_counted < 20


def test_average_precision_of_many_queries_by_definition():
    """Multi-label, 20 queries, in database order: a loop over queries and a stable sort."""
    rng = np.random.default_rng(1)
    query, database = rng.random((20, 11)) < 0.5, rng.random((60, 11)) < 0.5
    query_labels, database_labels = rng.random((20, 5)) < 0.3, rng.random((60, 5)) < 0.3
    ranking = Ranking(pack(query), pack(database), query_labels, database_labels, 11)
    for top, denominator in product((None, 7), DENOMINATORS):
        expected = []
        for bits, labels in zip(query, query_labels, strict=True):
            order = sorted(range(60), key=lambda n: ((bits != database[n]).sum(), n))
            relevance = [bool((labels & database_labels[n]).any()) for n in order]
            expected.append(by_definition(relevance, top or 60, denominator))
        result = average_precision(ranking, Convention(top, "stable", denominator))
        np.testing.assert_allclose(result, expected, atol=1e-13)


def test_precision_and_recall_at_by_hand():
    """Distances 0, 1, 1, 1, relevant the first and one of the three.

    At 2 the expected hits are 1 + 1/3: precision 2/3, and recall (4/3) / 2 = 2/3. Best 2, worst 1.
    """
    hist = counted([0, 1, 1, 1], [1, 0, 0, 1])
    assert precision_at(hist, [1, 2, 4]) == pytest.approx({1: 1.0, 2: 2 / 3, 4: 1 / 2})
    assert recall_at(hist, [1, 2, 4]) == pytest.approx({1: 1 / 2, 2: 2 / 3, 4: 1.0})
    assert precision_at(hist, [2], ties="best") == {2: 1.0}
    assert precision_at(hist, [2], ties="worst") == {2: 0.5}
    assert recall_at(hist, [2], ties="worst") == {2: 0.5}


def test_precision_and_recall_at_are_means_over_all_orders():
    for distance, relevance in CASES[:-1]:
        every = np.array(list(orders(distance, relevance)))
        hist = counted(distance, relevance)
        for top in range(1, len(distance) + 1):
            hits = every[:, :top].sum(axis=1).mean()
            assert precision_at(hist, [top])[top] == pytest.approx(hits / top)
            if any(relevance):
                assert recall_at(hist, [top])[top] == pytest.approx(hits / sum(relevance))


def test_recall_leaves_out_queries_without_relevant_items():
    """Four queries, the last two without relevant items: recall@1 is (1 + 0) / 2."""
    assert recall_at(EMPTY_QUERIES, [1]) == {1: 0.5}
    assert precision_at(EMPTY_QUERIES, [1]) == {1: 0.25}
    assert recall_at(counted([0, 1], [0, 0]), [1]) == {1: 0.0}


BALLS = Histograms(
    items=np.array([[1, 1, 2], [0, 2, 2], [0, 0, 4]]),
    relevant=np.array([[1, 0, 1], [0, 1, 0], [0, 0, 0]]),
)


def test_precision_within_radius_by_hand():
    """Radius 1: balls of 2, 2, 0 items with 1, 1, 0 hits: (1/2 + 1/2) over 3, or over 2."""
    result = precision_within_radius(BALLS, 1)
    assert result == pytest.approx((1 / 3, 1 / 2, 1 / 3))
    assert precision_within_radius(BALLS, 0) == pytest.approx((1 / 3, 1.0, 2 / 3))
    whole = pytest.approx(((2 / 4 + 1 / 4 + 0) / 3, (2 / 4 + 1 / 4 + 0) / 3, 0.0))
    assert precision_within_radius(BALLS) == whole
    assert precision_within_radius(BALLS, 99) == whole


def test_all_balls_empty():
    assert precision_within_radius(counted([3, 3], [1, 1]), 2) == (0.0, 0.0, 1.0)


def test_precision_recall_curve_by_hand():
    """Balls of radius 0, 1, 2 hold 1, 2, 4 / 0, 2, 4 / 0, 0, 4 items; hits 1, 1, 2 / 0, 1, 1 / 0.

    Macro precision: (1 + 0 + 0)/3, (1/2 + 1/2 + 0)/3, (2/4 + 1/4 + 0)/3. Macro recall over the
    two queries with relevant items: (1/2 + 0)/2, (1/2 + 1)/2, 1.
    Micro precision 1/1, 2/4, 3/12; micro recall 1/3, 2/3, 1. Empty balls: 2, 1, 0 of 3.
    """
    curve = pr_curve_by_radius(BALLS)
    np.testing.assert_allclose(curve.precision_macro, [1 / 3, 1 / 3, 1 / 4])
    np.testing.assert_allclose(curve.recall_macro, [1 / 4, 3 / 4, 1])
    np.testing.assert_allclose(curve.precision_micro, [1, 1 / 2, 1 / 4])
    np.testing.assert_allclose(curve.recall_micro, [1 / 3, 2 / 3, 1])
    np.testing.assert_allclose(curve.empty_fraction, [2 / 3, 1 / 3, 0])


def test_precision_recall_curve_without_anything_relevant():
    curve = pr_curve_by_radius(counted([1, 2], [0, 0]))
    for values in (curve.precision_macro, curve.recall_macro, curve.recall_micro):
        assert values.tolist() == [0, 0, 0]
    assert curve.precision_micro.tolist() == [0, 0, 0]


def test_histograms_stay_as_they_were():
    before = BALLS.items.copy(), BALLS.relevant.copy()
    for ties in ("expected", "best", "worst"):
        mean_average_precision(BALLS, Convention(top=3, ties=ties))
    pr_curve_by_radius(BALLS), precision_at(BALLS, [1]), precision_within_radius(BALLS)
    np.testing.assert_array_equal(BALLS.items, before[0])
    np.testing.assert_array_equal(BALLS.relevant, before[1])


def test_convention_names_itself():
    assert Convention().name == "mAP@all"
    assert Convention(top=1000).name == "mAP@1000"
    assert Convention(top=1000).cut(1000) == 1000
    assert Convention().cut(7) == 7


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"ties": "luck"}, "ties='luck' is unknown; allowed: expected, stable, shuffled, best"),
        ({"denominator": "n"}, "denominator='n' is unknown; allowed: hits, min, total, R"),
        ({"empty": "drop"}, "empty='drop' is unknown; allowed: zero, skip_retrieved_none"),
        ({"top": 0}, "top=0"),
        ({"top": -1}, "top=-1"),
        ({"top": 10.0}, "top=10.0"),
        ({"top": True}, "top=True"),
        ({"seed": -1}, "seed=-1"),
        ({"seed": "0"}, "seed='0'"),
        ({"top": 5, "empty": "skip_retrieved_none"}, "depends on the order of ties"),
    ],
)
def test_conventions_that_mean_nothing_are_refused(fields, says):
    with pytest.raises(DataError, match=says):
        Convention(**fields)


@pytest.mark.parametrize("ties", ["best", "worst", "stable", "shuffled"])
def test_skipping_what_found_nothing_is_allowed_where_the_order_is_fixed(ties):
    assert Convention(top=5, ties=ties, empty="skip_retrieved_none").top == 5


@pytest.mark.parametrize("ties", TIES)
def test_a_cut_beyond_the_database_is_refused(ties):
    ranking = ranked([0, 1, 1], [1, 0, 1])
    with pytest.raises(DataError, match="mAP@4 needs more than the 3 items"):
        average_precision(ranking, Convention(top=4, ties=ties))


@pytest.mark.parametrize("ties", ["stable", "shuffled"])
def test_histograms_cannot_tell_an_order(ties):
    with pytest.raises(DataError, match="give the Ranking"):
        average_precision(BALLS, Convention(ties=ties))
    with pytest.raises(DataError, match="expected, best and worst"):
        precision_at(BALLS, [1], ties=ties)


@pytest.mark.parametrize("cut", [0, 5, 1.0, True])
def test_cuts_outside_the_database_are_refused(cut):
    with pytest.raises(DataError, match=r"not within 1\.\.4"):
        precision_at(BALLS, [cut])
    with pytest.raises(DataError, match=r"not within 1\.\.4"):
        recall_at(BALLS, [cut])


@pytest.mark.parametrize("radius", [-1, 2.0])
def test_a_ball_needs_a_radius(radius):
    with pytest.raises(DataError, match="radius="):
        precision_within_radius(BALLS, radius)


@pytest.mark.parametrize("before", [0, 1, 3, 100, 254, 255, 256, 257, 1000, 10**7])
@pytest.mark.parametrize("count", [0, 1, 2, 3, 300])
def test_sums_of_reciprocals_keep_their_digits(before, count):
    """A difference of two large harmonic numbers, of which little is left."""
    exact = sum((Fraction(1, before + j) for j in range(1, count + 1)), Fraction(0))
    result = reciprocals(np.array([before]), np.array([count]))
    assert result == pytest.approx([float(exact)], rel=2e-13, abs=0)
