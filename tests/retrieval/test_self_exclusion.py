"""Queries that are in the database, against the definition: each alone, its own item deleted."""

import importlib.util
import json
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deephash.errors import DataError
from deephash.retrieval import (
    DENOMINATORS,
    EMPTY,
    GAINS,
    TIES,
    Convention,
    Engine,
    GradedHistograms,
    Histograms,
    Ranking,
    acg_at,
    average_precision,
    counted_precision,
    dcg_at,
    evaluate_codes,
    hit_rate_at,
    map_under,
    mean_average_precision,
    ndcg,
    ndcg_at,
    pack,
    pr_curve_by_radius,
    pr_curve_by_rank,
    precision_at,
    rank_codes,
    recall_at,
    wmap_at,
)

NUMBA = importlib.util.find_spec("numba") is not None
ENGINES = [Engine("numpy"), Engine("torch", device="cpu")]
ENGINES += [Engine("numba", threads=1), Engine("numba", threads=3)] if NUMBA else []
EACH = pytest.mark.parametrize("engine", ENGINES, ids=lambda e: f"{e.name}{e.threads or ''}")
KINDS = ("classes", "one_hot", "multi_hot")
often = settings(max_examples=25, deadline=None)


def labels_of(random, size, kind):
    if kind == "classes":
        return random.integers(0, 3, size)
    if kind == "multi_hot":
        return random.random((size, 5)) < 0.25
    return np.eye(4, dtype=bool)[random.integers(0, 4, size)] & (random.random((size, 1)) < 0.8)


def drawn(seed, kind="multi_hot", queries=8, size=30, nbit=9, inside=0.7, strange=0.2):
    """Real codes of queries, most of which are items of the database; (z, z, labels, labels, own).

    Values are quarters from -2 to 2 without 0. Some queries differ from their own item in code and
    labels.
    """
    random = np.random.default_rng(seed)
    z = random.integers(1, 9, (queries + size, nbit)) / 4 * random.choice([-1, 1], nbit)
    z *= random.choice([-1, 1], z.shape, p=[0.3, 0.7])  # near each other, so that balls are filled
    labels = labels_of(random, queries + size, kind)
    query, database = (z[:queries], labels[:queries]), (z[queries:], labels[queries:])
    own = np.where(random.random(queries) < inside, random.integers(0, size, queries), -1)
    for there, here in zip(database, query, strict=True):
        same = (own >= 0) & (random.random(queries) >= strange)
        here[same] = there[own[same]]
    return query[0], database[0], query[1], database[1], own


def ranked(query, database, query_labels, database_labels, own, engine="auto"):
    return rank_codes(
        query >= 0, database >= 0, query_labels, database_labels, own=own, engine=engine
    )


def alone(query, database, query_labels, database_labels, own, order=None):
    """One comparison for each query, the database without its own item; first in another order."""
    order = np.arange(len(database)) if order is None else order
    for q, place in enumerate(own):
        left = order[order != place]
        yield query[[q]], database[left], query_labels[[q]], database_labels[left]


def rankings(*given_, order=None):
    for query, database, query_labels, database_labels in alone(*given_, order=order):
        yield rank_codes(query >= 0, database >= 0, query_labels, database_labels, engine="numpy")


def mean(values):
    return float(np.mean(values)) if len(values) else 0.0


def test_by_hand():
    """Items at 0, 1, 1, 2 from the query, of which the first is the query itself; 3 are relevant.

    What is left is + at place 0 or 1 in either order, then +. The orders + - + and - + + are worth
    (1 + 2/3) / 2 = 5/6 and (1/2 + 2/3) / 2 = 7/12. With itself, the query has + + - + and + - + +.
    """
    database = np.array([[1, 1, 1], [1, 1, 0], [1, 0, 1], [1, 0, 0]], dtype=bool)
    codes, labels = (pack(database[:1]), pack(database)), np.array([1, 0, 1, 1])
    ranking = Ranking(*codes, np.array([1]), labels, 3, own=np.array([0]))
    assert ranking.counts[0].tolist() == [[0, 2, 1, 0]]
    assert ranking.counts[1].tolist() == [[0, 1, 1, 0]]
    assert ranking.positions(0).tolist() == [1, 2] and ranking.relevant(0).tolist() == [0, 0, 1, 1]
    value = {ties: average_precision(ranking, Convention(ties=ties))[0] for ties in TIES[:2]}
    assert value == pytest.approx({"expected": (5 / 6 + 7 / 12) / 2, "stable": 7 / 12})
    plain = Ranking(*codes, np.array([1]), labels, 3)
    assert average_precision(plain, Convention())[0] == pytest.approx(
        ((1 + 1 + 3 / 4) / 3 + (1 + 2 / 3 + 3 / 4) / 3) / 2
    )


@often
@given(
    st.integers(0, 10**6),
    st.sampled_from(KINDS),
    st.sampled_from([1, 3, 9, 70]),
    st.sampled_from(EMPTY),
)
def test_precision_is_that_of_a_database_without_it(seed, kind, nbit, empty):
    """All policies of ties, denominators, cuts, and rules for what counts."""
    given_ = drawn(seed, kind, queries=5, size=13, nbit=nbit)
    engine = ENGINES[seed % len(ENGINES)]
    tops = [(None, False), (None, True), (1, False), (5, False), (12, False)]
    for ties in TIES:
        order = np.random.default_rng(seed).permutation(13) if ties == "shuffled" else None
        ranking, every = ranked(*given_, engine), list(rankings(*given_, order=order))
        fields = [
            {"top": top, "drop_last": last, "denominator": denominator, "empty": empty}
            for (top, last), denominator in product(tops, DENOMINATORS)
            if (ties, empty) != ("expected", "skip_retrieved_none") or (top is None and not last)
        ]
        results = map_under(
            ranking, [Convention(ties=ties, seed=seed, **options) for options in fields]
        )
        single = "stable" if ties == "shuffled" else ties
        conventions = [Convention(ties=single, **options) for options in fields]
        wanted = zip(*(map_under(single_query, conventions) for single_query in every), strict=True)
        for option, result, each in zip(fields, results, wanted, strict=True):
            counted = [value.value for value in each if value.queries_counted]
            assert result.value == pytest.approx(mean(counted), abs=1e-13), (ties, option)
            for field in result._fields[1:]:
                assert getattr(result, field) == sum(getattr(value, field) for value in each)


@EACH
@pytest.mark.parametrize("kind", KINDS)
def test_counts_and_places(engine, kind):
    given_ = drawn(3, kind, queries=30, size=200, nbit=12)
    ranking, every = ranked(*given_, engine), list(rankings(*given_))
    for side in (0, 1):
        wanted = np.concatenate([single.counts[side] for single in every])
        np.testing.assert_array_equal(ranking.counts[side], wanted)
    assert ranking.sizes.tolist() == [single.size for single in every]
    assert {199, 200} == set(ranking.sizes.tolist()) and ranking.size == 200
    for top in (None, 1, 7, 198, 199, 200):
        wanted = [
            single.each(np.copy, None if top is None else min(top, single.size))[0].tolist()
            for single in every
        ]
        assert [places.tolist() for places in ranking.each(np.copy, top)] == wanted
    for query, single_ranking in enumerate(every):
        for radius in (None, 0, 3, 12):
            assert (ranking.positions(query, radius) == single_ranking.positions(0, radius)).all()


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_seen_of_each_item(kind):
    """The query's own has nothing in common with it, and is no candidate; all others are."""
    given_ = drawn(8, kind, strange=0)
    own, ranking, plain = given_[-1], ranked(*given_), ranked(*given_[:-1], None)
    for query, place in enumerate(own):
        others = np.arange(30) != place
        assert (np.arange(30)[ranking.candidates(query)] == np.flatnonzero(others)).all()
        assert (ranking.relevant(query) == plain.relevant(query) & others).all()
        assert (ranking.shared(query) == plain.shared(query) * others).all()
        assert (ranking.distances(query) == plain.distances(query)).all()
    assert sum(plain.relevant(q).sum() - ranking.relevant(q).sum() for q in range(8)) > 2


@pytest.mark.parametrize("counted", [False, True])
def test_part_and_order_take_the_places_along(counted):
    query, database, query_labels, database_labels, own = given_ = drawn(5, queries=20, size=60)
    ranking, order = ranked(*given_), np.random.default_rng(1).permutation(60)
    if counted:
        assert ranking.counts
    inside = (own >= 20) & (own < 45)
    there = ranked(
        query, database[20:45], query_labels, database_labels[20:45], np.where(inside, own - 20, -1)
    )
    place = np.argsort(order)
    moved = ranked(
        query,
        database[order],
        query_labels,
        database_labels[order],
        np.where(own < 0, -1, place[own]),
    )
    again = ranking.reordered(order)
    for result, expected in (
        (ranking.part(20, 45), there),
        (again, moved),
        (again.part(20, 45), moved.part(20, 45)),
        (ranking.part(0, 60), ranking),
    ):
        for name in ("starts", "indices"):
            lists = getattr(result.excluded, name), getattr(expected.excluded, name)
            assert lists[0].tolist() == lists[1].tolist()
        assert all((a == b).all() for a, b in zip(result.counts, expected.counts, strict=True))
        for engine in ("numpy", "numba") if NUMBA else ("numpy",):
            result.engine = expected.engine = Engine(engine)
            places = [places_.tolist() for places_ in result.each(np.copy)]
            assert places == [places_.tolist() for places_ in expected.each(np.copy)]
    np.testing.assert_array_equal(again.counts[0], ranking.counts[0])


@often
@given(st.integers(0, 10**6), st.sampled_from(KINDS), st.sampled_from(TIES[:2] + TIES[3:]))
def test_curves_are_those_of_a_database_without_it(seed, kind, ties):
    given_ = drawn(seed, kind, queries=6, size=12, nbit=5)
    ranking, every = ranked(*given_), list(rankings(*given_))
    fewest = min(single.size for single in every)
    cuts, with_relevant = (
        range(1, fewest + 1),
        [single for single in every if single.counts[1].any()],
    )
    for metric, over in ((precision_at, every), (recall_at, with_relevant), (hit_rate_at, every)):
        wanted = {cut: mean([metric(single, [cut], ties)[cut] for single in over]) for cut in cuts}
        assert metric(ranking, cuts, ties) == pytest.approx(wanted, abs=1e-13)
    hist, hists = Histograms.of(ranking), [Histograms.of(single) for single in every]
    radius, radii = pr_curve_by_radius(hist), [pr_curve_by_radius(counts) for counts in hists]
    near = [curve for curve, counts in zip(radii, hists, strict=True) if counts.relevant.any()]
    items, relevant = (
        np.concatenate(side).sum(axis=0).cumsum()
        for side in zip(*((counts.items, counts.relevant) for counts in hists), strict=True)
    )
    wanted = {
        "precision_macro": np.mean([curve.precision_macro for curve in radii], axis=0),
        "recall_macro": np.mean([curve.recall_macro for curve in near], axis=0)
        if near
        else [0] * 6,
        "precision_micro": relevant / np.maximum(items, 1),
        "recall_micro": relevant / max(1, relevant[-1]),
        "empty_fraction": np.mean([curve.empty_fraction for curve in radii], axis=0),
    }
    for name, values in radius._asdict().items():
        np.testing.assert_allclose(values, wanted[name], atol=1e-13, err_msg=name)
    if ties == "stable":
        return
    by_rank, ranks = pr_curve_by_rank(hist, ties=ties), list(cuts)
    assert by_rank.rank.tolist() == ranks
    each = [pr_curve_by_rank(counts, ranks, ties) for counts in hists]
    np.testing.assert_allclose(
        by_rank.precision, np.mean([curve.precision for curve in each], axis=0)
    )
    recalls = [
        curve.recall for curve, counts in zip(each, hists, strict=True) if counts.relevant.any()
    ]
    wanted = np.mean(recalls, axis=0) if recalls else np.zeros(fewest)
    np.testing.assert_allclose(by_rank.recall, wanted, atol=1e-13)


@often
@given(st.integers(0, 10**6), st.sampled_from(KINDS[1:]), st.sampled_from(GAINS), st.booleans())
def test_graded_is_that_of_a_database_without_it(seed, kind, gain, ordered):
    given_ = drawn(seed, kind, queries=5, size=12, nbit=4)
    ranking, every = ranked(*given_), list(rankings(*given_))
    cuts = [1, 3, min(single.size for single in every)]
    places = cuts[-1] if ordered else None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ndcg, "_BLOCK", 5)  # own places lie in several parts
        graded = GradedHistograms.of(ranking, gain, places)
    each = [GradedHistograms.of(single, gain, places) for single in every]
    assert graded.size == cuts[-1]
    for metric in (acg_at, dcg_at, ndcg_at, wmap_at):
        wanted = {cut: mean([metric(single, [cut])[cut] for single in each]) for cut in cuts}
        assert metric(graded, cuts) == pytest.approx(wanted, abs=1e-12)


def flat(report, path=()):
    """Every number of a report by its path."""
    if isinstance(report, dict):
        pairs = report.items()
    elif isinstance(report, list):
        pairs = enumerate(report)
    else:
        return {path: report}
    return {key: value for at, child in pairs for key, value in flat(child, (*path, at)).items()}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("engine", "ternary", "inside"),
    [*((engine, None, 0.6) for engine in ENGINES), (ENGINES[0], None, 1), (ENGINES[-1], 0.6, 1)],
)
def test_the_full_report(engine, ternary, inside, kind):
    """Every number is the mean over single queries, without those for which it is undefined.

    Two are not means over queries and have their own test: precision and recall of all balls
    pooled. If some queries rank one item more, curves by rank have other cuts: tested elsewhere.
    """
    given_ = drawn(11, kind, queries=9, size=61, nbit=8, inside=inside)
    convention = Convention(top=20, empty="skip_no_relevant", denominator="hits")
    fields = {"convention": convention, "ternary": ternary, "tops": (5, 60)}
    report = evaluate_codes(*given_[:-1], **fields, own=given_[-1], engine=engine)
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    every = [evaluate_codes(*arguments, **fields, engine="numpy") for arguments in alone(*given_)]
    assert report["queries_in_database"] == (given_[-1] >= 0).sum()
    assert (report["queries"], report["database"], report["nbit"]) == (9, 61, 8)
    assert report["conventions"] == every[0]["conventions"] | {"own": "excluded"}
    for name in ("queries_counted", "queries_without_relevant", "queries_without_hits"):
        assert report[name] == sum(single[name] for single in every)
    assert report["pr_curve"]["radius"] == every[0]["pr_curve"]["radius"]
    assert report["pr_curve"]["recall_micro"][-1] == 1
    assert report["pr_curve_by_rank"]["rank"][-1] == 60
    assert ("graded" in report) == (kind == "multi_hot")
    assert report["codes"] == evaluate_codes(*given_[:-1], **fields)["codes"]
    counted_queries = [not single["queries_without_relevant"] for single in every]
    assert sum(counted_queries) == report["queries_counted"] > 4
    apart = {"codes", "conventions"} | ({"pr_curve_by_rank"} if inside < 1 else set())
    numbers = [flat(single) for single in every]
    for path, value in flat(report).items():
        if path[0] in apart or path[1:2] in (("precision_micro",), ("recall_micro",)):
            continue
        counted = [True] * 9
        if path[-1] == "mean_nonempty":
            counted = [single[path[0]]["empty_fraction"] == 0 for single in every]
        elif path[0] in ("map", "map_min", "map_at", "ties") or "recall" in str(path):
            counted = counted_queries
        if isinstance(value, float):
            each = [single[path] for single, counts in zip(numbers, counted, strict=True) if counts]
            assert value == pytest.approx(mean(each), abs=1e-12), path


def test_a_ternary_query_is_not_at_distance_zero_from_itself():
    """Three entries, two undecided: a code is 1 from itself. The other item is at 0 + 1/2 + 1/2.

    It is relevant, so that the plain tie of two is worth (1 + 1/2) / 2 less than the other alone.
    """
    z = np.array([[2.0, 0.1, 0.1], [2.0, 0.1, 0.1], [-2.0, 2.0, 2.0]])
    labels, own = np.array([1, 1, 1]), np.array([1])
    report = evaluate_codes(z[:1], z[:2], labels[:1], labels[:2], ternary=0.5, own=own)
    assert report["pr_curve"]["radius"] == [0, 0.5, 1, 1.5, 2, 2.5, 3]
    assert report["pr_curve"]["empty_fraction"] == [1, 1, 0, 0, 0, 0, 0]
    assert report["map"] == report["ties"]["worst"] == 1
    bare = rank_codes(z[:1], z, labels[:1], labels, ternary=0.5, own=own)
    assert bare.counts[0].tolist() == [[0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0]]


def test_no_query_in_the_database_is_the_plain_report():
    given_ = drawn(2, inside=0)
    report = evaluate_codes(*given_[:-1], own=given_[-1])
    assert report.pop("queries_in_database") == 0
    assert report["conventions"].pop("own") == "excluded"
    plain = evaluate_codes(*given_[:-1])
    assert "queries_in_database" not in plain and plain["conventions"].pop("own") is None
    assert report == plain


def test_a_short_report_leaves_it_out_too():
    given_ = drawn(4)
    plain = evaluate_codes(*given_[:-1], full=False)
    short = evaluate_codes(*given_[:-1], own=torch.from_numpy(given_[-1]), full=False)
    full = evaluate_codes(*given_[:-1], own=given_[-1])
    assert short == {name: full[name] for name in plain} and short["map"] < plain["map"]


def test_packed_codes_and_shuffled_ties():
    given_ = drawn(6)
    convention = Convention(ties="shuffled", seed=5, top=9)
    codes = [pack(z >= 0) for z in given_[:2]]
    report = evaluate_codes(*given_[:-1], convention, own=given_[-1])
    assert evaluate_codes(*codes, *given_[2:-1], convention, own=given_[-1], nbit=9) == report | {
        "codes": report["codes"] | {"quantization": None}
    }
    order = np.random.default_rng(5).permutation(30)
    every = rankings(*given_, order=order)
    one_by_one = [
        average_precision(single, Convention(ties="stable", top=9))[0] for single in every
    ]
    assert report["map"] == pytest.approx(np.mean(one_by_one))


def test_precision_of_each_query_for_comparisons():
    given_ = drawn(9, "one_hot")
    convention = Convention(empty="skip_no_relevant", ties="stable")
    each = np.concatenate([counted_precision(single, convention) for single in rankings(*given_)])
    np.testing.assert_allclose(counted_precision(ranked(*given_), convention), each)
    assert np.isnan(each).any()


def test_the_last_rank_of_queries_with_different_sizes():
    """Two queries of a database of three, the first in it: 2 and 3 items are ranked.

    Of all of them 1 and 2 are relevant: P@2 is 1/2 and 1, and divided by R, 2 and 3, mAP@all is
    (1/2 + 2/3) / 2 in the best order. Without the last, R is 1 and 2.
    """
    codes, labels = pack(np.zeros((5, 4), bool)), np.array([7, 7, 7, 7, 0])
    own = np.array([0, -1])
    ranking = Ranking(codes[:2], codes[2:], labels[:2], labels[2:], 4, own=own)
    assert precision_at(ranking, [2], "best")[2] == (1 / 2 + 1) / 2
    best = {"ties": "best", "denominator": "R"}
    assert mean_average_precision(ranking, Convention(**best)).value == pytest.approx(7 / 12)
    dropped = mean_average_precision(ranking, Convention(**best, drop_last=True))
    assert dropped.value == 1
    with pytest.raises(DataError, match="more than the 2 items"):
        mean_average_precision(ranking, Convention(top=3))
    with pytest.raises(DataError, match="more than the 2 items"):
        evaluate_codes(
            codes[:2] > 0, codes[2:] > 0, labels[:2], labels[2:], Convention(top=3), own=own
        )
    for metric, ties in product((precision_at, recall_at, hit_rate_at), ("expected", "stable")):
        for order in ([0, 1], [1, 0]):
            ranking_ = Ranking(codes[:2], codes[2:], labels[:2], labels[2:], 4, own=own[order])
            with pytest.raises(DataError, match=r"within 1\.\.2"):
                metric(ranking_, [3], ties)
    with pytest.raises(DataError, match=r"within 1\.\.2"):
        GradedHistograms.of(ranking, ordered=3)


def test_each_is_left_to_the_others():
    """Two alike find each other, and a third that both see."""
    codes = pack(np.array([[0, 0], [0, 0], [0, 1]], bool))
    ranking = Ranking(
        codes[:2], codes, np.array([1, 1]), np.array([1, 1, 0]), 2, own=np.array([0, 1])
    )
    assert ranking.counts[0].tolist() == [[1, 1, 0]] * 2
    assert mean_average_precision(ranking, Convention()).value == 1


@pytest.mark.parametrize(
    ("own", "words"),
    [
        ([0], r"own must be whole numbers \(2,\).*int64 \(1,\)"),
        ([[0, 1]], r"\(1, 2\)"),
        ([0.0, 1.0], "not float64"),
        ([True, False], "not bool"),
        ([0, 3], "gives query 1 the index 3, but the database has the indices 0 to 2"),
        ([-2, 0], "query 0 the index -2"),
    ],
)
def test_places_that_are_none(own, words):
    codes = np.zeros((3, 8), bool)
    labels = np.zeros(3, int)
    for function in (rank_codes, evaluate_codes):
        with pytest.raises(DataError, match=words):
            function(codes[:2], codes, labels[:2], labels, own=np.array(own))


def test_nothing_is_left_to_search():
    codes, labels = np.zeros((2, 8), bool), np.zeros(2, int)
    with pytest.raises(DataError, match="empty without query 1"):
        rank_codes(codes, codes[:1], labels, labels[:1], own=np.array([-1, 0]))
    assert rank_codes(codes, codes[:1], labels, labels[:1], own=np.array([-1, -1])).size == 1


def test_histograms_that_exclude_add_up():
    items, relevant, out = np.array([[1, 2], [1, 1]]), np.zeros((2, 2), int), np.array([0, 1])
    assert Histograms(items, relevant, excluded=out).sizes.tolist() == [3, 2]
    assert Histograms(items, relevant, excluded=out).size == 2
    for wrong, words in (
        (np.array([1, 0]), "the same database"),
        (out[:1], r"excluded must be \(2,\)"),
    ):
        with pytest.raises(DataError, match=words):
            Histograms(items, relevant, excluded=wrong)
