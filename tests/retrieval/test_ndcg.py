from itertools import permutations, product
from math import log2

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from deephash.errors import DataError
from deephash.retrieval import (
    GAINS,
    Convention,
    GradedHistograms,
    Histograms,
    Ranking,
    acg_at,
    dcg_at,
    mean_average_precision,
    ndcg,
    ndcg_at,
    pack,
    precision_at,
    wmap_at,
)

often = settings(max_examples=25, deadline=None, derandomize=True, database=None)


def ranked(distance, query_labels, database_labels, nbit=4):
    """One query of zeros: an item at distance d has its first d bits set."""
    database = np.arange(nbit)[None] < np.array(distance)[:, None]
    query = np.zeros((1, nbit), dtype=bool)
    return Ranking(
        pack(query), pack(database), np.array([query_labels]), np.array(database_labels), nbit
    )


def orders(distance):
    """Every order of items that sorts by distance, ties in all ways; each as likely."""
    groups = [[n for n, d in enumerate(distance) if d == value] for value in sorted(set(distance))]
    for parts in product(*(list(permutations(group)) for group in groups)):
        yield [n for part in parts for n in part]


def gain_of(query_labels, labels, gain):
    shared = sum(a and b for a, b in zip(query_labels, labels, strict=True))
    either = sum(bool(a or b) for a, b in zip(query_labels, labels, strict=True))
    if gain == "jaccard":
        return shared / either if either else 0.0
    return shared if gain == "shared" else 2.0**shared - 1


def naive(query_labels, database_labels, order, cut, gain):
    """ACG, DCG, NDCG and wMAP of one order, by loops."""
    shared = [int(gain_of(query_labels, database_labels[n], "shared")) for n in order]
    gains = [gain_of(query_labels, database_labels[n], gain) for n in order]
    ideal = sorted(gains, reverse=True)
    dcg, best = (
        sum(value / log2(1 + rank) for rank, value in enumerate(row[:cut], start=1))
        for row in (gains, ideal)
    )
    weighted = [sum(shared[:rank]) / rank for rank in range(1, cut + 1) if shared[rank - 1] > 0]
    return (
        sum(shared[:cut]) / cut,
        dcg,
        dcg / best if best else 0.0,
        sum(weighted) / len(weighted) if weighted else 0.0,
    )


METRICS = (acg_at, dcg_at, ndcg_at, wmap_at)


def measured(hist, cut):
    return [metric(hist, [cut])[cut] for metric in METRICS]


def test_by_hand():
    """The nearest item shares 1 label; of two at distance 1 one shares 2 and one none. k = 2.

    ACG: (1 + (2 + 0)/2) / 2 = 1. DCG: 1 + (3 + 0)/2 / log2(3); the best order gives
    3 + 1/log2(3). wMAP: the second place has ACG (1 + 2)/2, so the mean of 1 and 3/2, or it is
    irrelevant and the mean is 1: 9/8 on average.
    """
    hist = GradedHistograms.of(ranked([0, 1, 1], [1, 1, 0], [[1, 0, 1], [1, 1, 0], [0, 0, 1]]))
    dcg = 1 + 1.5 / log2(3)
    assert measured(hist, 2) == pytest.approx([1, dcg, dcg / (3 + 1 / log2(3)), 9 / 8])
    assert hist.counts.relevant.tolist() == [[1, 1, 0, 0, 0]]
    assert hist.shared.tolist() == [[1, 2, 0, 0, 0]]
    assert hist.gained.tolist() == [[1, 3, 0, 0, 0]]
    assert (hist.level_gain.tolist(), hist.level_items.tolist()) == ([[3, 1]], [[1, 1]])


def test_jaccard_by_hand():
    """Query of two labels; items that share 1 of 3 in all, 2 of 2, and 1 of 2: 1/3, 1, 1/2."""
    ranking = ranked([0, 1, 1], [1, 1, 0], [[1, 0, 1], [1, 1, 0], [0, 1, 0]])
    hist = GradedHistograms.of(ranking, "jaccard")
    dcg = 1 / 3 + 0.75 / log2(3) + 0.75 / 2
    assert dcg_at(hist, [3]) == pytest.approx({3: dcg})
    best = 1 + 0.5 / log2(3) + 1 / 6
    assert ndcg_at(hist, [3]) == pytest.approx({3: dcg / best})
    assert hist.level_gain[0] == pytest.approx([1, 1 / 2, 1 / 3])


@st.composite
def scenes(draw, items=6, classes=3):
    size = draw(st.integers(1, items))
    return (
        draw(st.lists(st.integers(0, 2), min_size=size, max_size=size)),
        draw(arrays(np.int64, classes, elements=st.integers(0, 1))),
        draw(arrays(np.int64, (size, classes), elements=st.integers(0, 1))),
    )


@often
@given(scenes(), st.sampled_from(GAINS))
def test_expected_is_the_mean_over_all_orders(scene, gain):
    distance, query_labels, database_labels = scene
    hist = GradedHistograms.of(ranked(*scene), gain)
    every = list(orders(distance))
    for cut in range(1, len(distance) + 1):
        scores = [naive(query_labels, database_labels, order, cut, gain) for order in every]
        assert measured(hist, cut) == pytest.approx(np.mean(scores, axis=0), abs=1e-12)


@often
@given(scenes(items=12), st.sampled_from(GAINS))
def test_ordered_places_by_definition(scene, gain):
    distance, query_labels, database_labels = scene
    order = sorted(range(len(distance)), key=lambda n: (distance[n], n))
    for places in {1, (1 + len(distance)) // 2, len(distance)}:
        hist = GradedHistograms.of(ranked(*scene), gain, ordered=places)
        for cut in range(1, places + 1):
            expected = naive(query_labels, database_labels, order, cut, gain)
            assert measured(hist, cut) == pytest.approx(expected, abs=1e-12)


def scene_of_many(seed=0, queries=15, items=70, nbit=9, classes=12, share=0.2):
    rng = np.random.default_rng(seed)
    return (
        rng.random((queries, nbit)) < 0.5,
        rng.random((items, nbit)) < 0.5,
        rng.random((queries, classes)) < share,
        rng.random((items, classes)) < share,
    )


def ranking_of(query, database, query_labels, database_labels):
    return Ranking(pack(query), pack(database), query_labels, database_labels, query.shape[1])


@pytest.mark.parametrize("gain", GAINS)
@pytest.mark.parametrize("classes", [12, 70])
def test_many_queries_by_definition(gain, classes):
    query, database, query_labels, database_labels = scene = scene_of_many(
        classes=classes, share=2 / classes
    )
    hist = GradedHistograms.of(ranking_of(*scene), gain)
    ordered = GradedHistograms.of(ranking_of(*scene), gain, ordered=20)
    sums, scores = np.zeros((2, 15, 10)), []
    for q in range(15):
        distance = (query[q] != database).sum(axis=1)
        for n in range(70):
            sums[0, q, distance[n]] += gain_of(query_labels[q], database_labels[n], "shared")
            sums[1, q, distance[n]] += gain_of(query_labels[q], database_labels[n], gain)
        order = sorted(range(70), key=lambda n: (distance[n], n))
        scores.append(naive(query_labels[q], database_labels, order, 20, gain))
    np.testing.assert_array_equal(hist.shared, sums[0])
    np.testing.assert_allclose(hist.gained, sums[1], rtol=1e-13)
    assert measured(ordered, 20) == pytest.approx(np.mean(scores, axis=0), abs=1e-12)
    shared = query_labels @ database_labels.T.astype(int)
    shared = shared.any(axis=1)
    assert 0 < shared.sum() < 15
    for metric, column in ((ndcg_at, 2), (wmap_at, 3)):
        skipped = metric(ordered, [20], empty="skip_no_relevant")[20]
        assert skipped == pytest.approx(np.array(scores)[shared, column].mean())


def test_the_counts_are_those_of_the_plain_histograms():
    ranking = ranking_of(*scene_of_many())
    plain, hist = Histograms.of(ranking), GradedHistograms.of(ranking).counts
    np.testing.assert_array_equal(hist.items, plain.items)
    np.testing.assert_array_equal(hist.relevant, plain.relevant)
    np.testing.assert_array_equal(hist.labelled, plain.labelled)


@pytest.mark.parametrize("gain", GAINS)
def test_one_label_each_makes_them_precision_and_average_precision(gain):
    rng = np.random.default_rng(2)
    codes = pack(rng.random((8, 6)) < 0.5), pack(rng.random((40, 6)) < 0.5)
    ranking = Ranking(*codes, rng.integers(0, 4, 8), rng.integers(0, 3, 40), 6)
    plain, hist = Histograms.of(ranking), GradedHistograms.of(ranking, gain)
    cuts = [1, 5, 17, 40]
    assert acg_at(hist, cuts) == pytest.approx(precision_at(plain, cuts))
    assert wmap_at(hist, cuts) == pytest.approx(
        {cut: mean_average_precision(plain, Convention(top=cut)).value for cut in cuts}
    )


@pytest.mark.parametrize("gain", GAINS)
def test_counting_in_blocks_changes_nothing(gain, monkeypatch):
    ranking = ranking_of(*scene_of_many())
    whole = GradedHistograms.of(ranking, gain)
    monkeypatch.setattr(ndcg, "_BLOCK", 7)
    parts = GradedHistograms.of(ranking, gain)
    for name in ("shared", "gained", "level_gain", "level_items"):
        np.testing.assert_array_equal(getattr(whole, name), getattr(parts, name))
    np.testing.assert_array_equal(whole.counts.items, parts.counts.items)
    ordered = GradedHistograms.of(ranking, gain, ordered=30)  # an order is never one of a block
    monkeypatch.undo()
    assert ndcg_at(ordered, [30]) == ndcg_at(GradedHistograms.of(ranking, gain, 30), [30])


def test_nothing_is_relevant():
    hist = GradedHistograms.of(ranked([0, 1, 1], [0, 0], [[1, 0], [0, 1], [0, 0]]))
    assert measured(hist, 2) == [0, 0, 0, 0]
    for metric in (ndcg_at, wmap_at):
        assert metric(hist, [2], empty="skip_no_relevant") == {2: 0.0}
    assert hist.counts.without_relevant == 1


def test_one_item_and_all_tied():
    assert measured(GradedHistograms.of(ranked([3], [1, 1], [[1, 1]])), 1) == [2, 3, 1, 2]
    tied = GradedHistograms.of(ranked([2] * 4, [1, 1], [[1, 1]] * 4))
    assert ndcg_at(tied, [1, 4]) == pytest.approx({1: 1, 4: 1})
    assert wmap_at(tied, [3]) == pytest.approx({3: 2})


def test_inputs_stay_as_they_were():
    scene = scene_of_many()
    before = [array.copy() for array in scene]
    hist = GradedHistograms.of(ranking_of(*scene))
    counts = hist.counts.items.copy(), hist.shared.copy()
    measured(hist, 5)
    for array, copy in zip(scene, before, strict=True):
        np.testing.assert_array_equal(array, copy)
    np.testing.assert_array_equal(hist.counts.items, counts[0])
    np.testing.assert_array_equal(hist.shared, counts[1])


def test_what_cannot_be_measured_is_refused():
    ranking = ranked([0, 1, 1], [1, 0], [[1, 0], [0, 1], [1, 1]])
    with pytest.raises(DataError, match="gain='cubic' is unknown; allowed: exponential"):
        GradedHistograms.of(ranking, "cubic")
    with pytest.raises(DataError, match=r"a cut of 4 is not within 1\.\.3"):
        GradedHistograms.of(ranking, ordered=4)
    hist = GradedHistograms.of(ranking)
    for metric, cut in product(METRICS, (0, 4, 1.5)):
        with pytest.raises(DataError, match=r"not within 1\.\.3"):
            metric(hist, [cut])
    ordered = GradedHistograms.of(ranking, ordered=2)
    for metric in METRICS:
        with pytest.raises(
            DataError, match="a cut of 3 needs more places than the first ordered=2"
        ):
            metric(ordered, [3])
    for metric in (ndcg_at, wmap_at):
        with pytest.raises(DataError, match="empty='drop' is unknown"):
            metric(hist, [1], empty="drop")


def test_gains_too_large_for_a_number_are_refused():
    ranking = ranked([0], [1] * 1001, [[1] * 1001])
    with pytest.raises(DataError, match="try gain=shared"):
        GradedHistograms.of(ranking)
    assert acg_at(GradedHistograms.of(ranking, "shared"), [1]) == {1: 1001}
