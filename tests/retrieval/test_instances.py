"""Retrieval by lists: loops straight from the definitions, enumerated ties, shifted domains."""

import json
from itertools import permutations, product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from deephash.errors import DataError
from deephash.retrieval import (
    NAMED,
    TIES,
    Convention,
    Engine,
    GradedHistograms,
    GroundTruth,
    Histograms,
    IndexLists,
    InstanceRanking,
    Ranking,
    binarize,
    evaluate_instances,
    gldv2,
    hamming,
    map_under,
    pack,
    precision_at,
    recentre,
    revisited,
    trapezoid_precision,
)
from deephash.retrieval.instances import LANDMARKS

RIGHT, WRONG, JUNK = 1, 0, -1
KINDS = st.sampled_from([RIGHT, WRONG, JUNK])


def places_of(order):
    """Places of what is right once junk is gone, from 0."""
    return [place for place, kind in enumerate(k for k in order if k != JUNK) if kind == RIGHT]


def trapezoids(order):
    """AP of one order, by a loop; None if nothing is right."""
    places = places_of(order)
    total = 0.0
    for j, place in enumerate(places):
        before = 1.0 if place == 0 else j / place
        total += (before + (j + 1) / (place + 1)) / 2
    return total / len(places) if places else None


def precision(order, k):
    """P@min(k, last), by a loop; None if nothing is right."""
    places = [place + 1 for place in places_of(order)]
    if not places:
        return None
    until = min(k, max(places))
    return sum(place <= until for place in places) / until


def landmark(order, denominator, top=100):
    """AP@100 of one order, by a loop."""
    hits, total, listed = 0, 0.0, order.count(RIGHT)
    for rank, kind in enumerate(order[:top], start=1):
        if kind == RIGHT:
            hits += 1
            total += hits / rank
    by = {"gld-official": min(listed, top), "gld-fire": listed}[denominator]
    return total / by if by else 0.0


def orders(distance, kinds):
    """Every order that sorts by distance, ties in all ways; each as likely."""
    groups = [
        [k for d, k in zip(distance, kinds, strict=True) if d == value]
        for value in sorted(set(distance))
    ]
    for parts in product(*(list(permutations(group)) for group in groups)):
        yield [kind for part in parts for kind in part]


def lists(kinds, wanted):
    return [n for n, kind in enumerate(kinds) if kind == wanted]


def truth_of(*rows):
    """One setup, a row of kinds for each query."""
    right, junk = ([lists(row, kind) for row in rows] for kind in (RIGHT, JUNK))
    return GroundTruth.of(len(rows[0]), {"all": right}, {"all": junk})


def ranked(distance, kinds, engine="auto"):
    """The ranking of one query of zeros: an item at distance d has its first d bits set."""
    nbit = max(*distance, 1)
    database = np.arange(nbit)[None] < np.array(distance)[:, None]
    query = np.zeros((1, nbit), dtype=bool)
    return InstanceRanking(pack(query), pack(database), truth_of(kinds), nbit, engine=engine)


CASES = [
    ([0, 0, 1, 1, 1, 1, 1], [1, -1, 1, 1, 0, -1, 0]),
    ([3, 1, 0, 2, 2, 1], [1, 0, 1, 1, 0, 0]),
    ([2, 2, 2, 2, 2, 2, 2], [0, 1, 0, -1, 1, 0, 1]),
    ([0, 1, 2, 3], [0, 1, -1, 1]),
    ([1, 1, 1, 4, 4, 4], [0, -1, 0, 1, 1, 0]),
    ([1, 1, 1, 4, 4, 4], [0, 1, 0, 0, -1, 0]),
    ([0, 0, 0, 0, 0], [1, 1, 1, 1, 1]),
    ([0, 0, 0, 5], [-1, -1, -1, 1]),
    ([6, 6], [1, -1]),
]


def test_three_places_by_hand():
    """Places 0, 2, 5: (1 + 1)/2 + (1/2 + 2/3)/2 + (2/5 + 3/6)/2 = 1 + 7/12 + 9/20 = 61/30.

    AP is a third of it. The last place is the sixth: P@1 = 1, P@5 = 2/5, P@10 = P@6 = 3/6.
    """
    ranking = ranked(range(8), [1, 0, 1, 0, 0, 1, 0, 0])
    result = revisited(ranking, "stable")
    assert result.map == pytest.approx(61 / 90)
    assert result.precision_at == pytest.approx({1: 1, 5: 2 / 5, 10: 3 / 6})
    assert (result.queries_counted, result.queries_skipped) == (1, 0)


def test_junk_moves_what_is_behind_it():
    """Without the junk at places 0, 2 and 7, the places 1, 4, 6 are 0, 2, 4."""
    ranking = ranked(range(8), [-1, 1, -1, 0, 1, 0, 1, -1])
    assert ranking.positions(0).tolist() == [0, 2, 4]
    by_hand = (1 + (1 / 2 + 2 / 3) / 2 + (2 / 4 + 3 / 5) / 2) / 3
    for ties in TIES:
        assert revisited(ranking, ties).map == pytest.approx(by_hand)


def test_nothing_before_the_first_is_worth_half_of_it():
    """One right item: at the top (1 + 1)/2, at place 3 (0/3 + 1/4)/2."""
    assert revisited(ranked([0, 1], [1, 0])).map == pytest.approx(1)
    assert revisited(ranked([0, 1, 2, 3], [0, 0, 0, 1])).map == pytest.approx(1 / 8)


def test_a_tie_of_three_by_hand():
    """Two of three are right: places 0 1, 0 2, 1 2, values 1, 19/24, 5/12; best, mean and worst."""
    ranking = ranked([1, 1, 1], [0, 1, 1])
    results = {
        ties: revisited(ranking, ties).map for ties in ("best", "expected", "worst", "stable")
    }
    assert results == pytest.approx(
        {"best": 1, "expected": 53 / 72, "worst": 5 / 12, "stable": 5 / 12}
    )


@pytest.mark.parametrize(("distance", "kinds"), CASES)
def test_expected_best_and_worst_of_all_orders(distance, kinds):
    cuts = range(1, len(distance) + 3)
    ranking, every = ranked(distance, kinds), list(orders(distance, kinds))
    for ties, over in (("expected", np.mean), ("best", max), ("worst", min)):
        result = revisited(ranking, ties, cuts=cuts)
        assert result.map == pytest.approx(over([trapezoids(o) for o in every]), abs=1e-13)
        for k in cuts:
            by_hand = over([precision(order, k) for order in every])
            assert result.precision_at[k] == pytest.approx(by_hand, abs=1e-13), (ties, k)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 3), KINDS), min_size=1, max_size=6))
def test_expected_is_the_mean_over_all_orders(items):
    distance, kinds = zip(*items, strict=True)
    every = list(orders(distance, kinds))
    result = revisited(ranked(distance, kinds), cuts=(1, 2, 4, 9))
    if RIGHT not in kinds:
        assert (result.map, result.queries_skipped) == (0, 1)
        return
    assert result.map == pytest.approx(np.mean([trapezoids(order) for order in every]), abs=1e-12)
    for k, value in result.precision_at.items():
        assert value == pytest.approx(np.mean([precision(o, k) for o in every]), abs=1e-12)


@st.composite
def comparisons(draw):
    """Codes of few bits, so that most are tied, and kinds of each pair."""
    queries, size = draw(st.integers(1, 4)), draw(st.integers(1, 25))
    nbit = draw(st.sampled_from([1, 3, 9]))
    random = np.random.default_rng(draw(st.integers(0, 99)))
    kinds = random.choice([RIGHT, WRONG, JUNK], (queries, size), p=[0.3, 0.4, 0.3])
    return random.random((queries, nbit)) < 0.5, random.random((size, nbit)) < 0.5, kinds


def stable_orders(query, database, kinds, shuffle=None):
    """The kinds in the order of each query, by Python's sort."""
    shuffle = range(len(database)) if shuffle is None else shuffle
    for bits, row in zip(query, kinds, strict=True):
        order = sorted(shuffle, key=lambda n: (bits != database[n]).sum())
        yield [int(row[n]) for n in order]


@settings(deadline=None, max_examples=60)
@given(comparisons(), st.integers(0, 3))
def test_orders_by_definition(comparison, seed):
    query, database, kinds = comparison
    ranking = InstanceRanking(pack(query), pack(database), truth_of(*kinds), query.shape[1])
    shuffle = np.random.default_rng(seed).permutation(len(database))
    for ties, order in (("stable", None), ("shuffled", shuffle)):
        every = list(stable_orders(query, database, kinds, order))
        result = revisited(ranking, ties, seed, (1, 5))
        counted = [trapezoids(order_) for order_ in every if trapezoids(order_) is not None]
        assert result.map == pytest.approx(np.mean(counted) if counted else 0)
        assert result.queries_skipped == len(every) - len(counted)
        for k, value in result.precision_at.items():
            judged = [precision(order_, k) for order_ in every if precision(order_, k) is not None]
            assert value == pytest.approx(np.mean(judged) if judged else 0)


@settings(deadline=None, max_examples=60)
@given(comparisons(), st.integers(1, 30))
def test_landmarks_by_definition(comparison, top):
    query, database, kinds = comparison
    kinds = np.abs(kinds)  # there is no junk
    ranking = InstanceRanking(pack(query), pack(database), truth_of(*kinds), query.shape[1])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("deephash.retrieval.instances.LANDMARKS_TOP", top)
        values = {name: result.value for name, result in gldv2(ranking, "stable").items()}
    every = list(stable_orders(query, database, kinds))
    assert values == pytest.approx(
        {name: np.mean([landmark(order, name, top) for order in every]) for name in LANDMARKS}
    )


@pytest.mark.parametrize("top", [1, 2, 3, 5])
@pytest.mark.parametrize(("distance", "kinds"), CASES)
def test_landmarks_over_all_orders(distance, kinds, top, monkeypatch):
    monkeypatch.setattr("deephash.retrieval.instances.LANDMARKS_TOP", top)
    kinds = [abs(kind) for kind in kinds]
    every = list(orders(distance, kinds))
    for ties, over in (("expected", np.mean), ("best", max), ("worst", min)):
        result = gldv2(ranked(distance, kinds), ties)
        for name in LANDMARKS:
            by_hand = over([landmark(order, name, top) for order in every])
            assert result[name].value == pytest.approx(by_hand, abs=1e-13)


def test_more_listed_than_judged():
    """150 listed, all of them first: 100 of min(150, 100), or of 150. A cut of 100 is no tie."""
    ranking = ranked([0] * 150 + [1] * 50, [1] * 150 + [0] * 50)
    result = gldv2(ranking)
    assert result["gld-official"].value == pytest.approx(1)
    assert result["gld-fire"].value == pytest.approx(100 / 150)
    assert {NAMED[name]["top"] for name in LANDMARKS} == {100}


def test_an_item_listed_twice_scores_once():
    truth = GroundTruth.of(4, {"all": [[2, 2, 0, 2]]})
    assert truth.setups["all"].relevant[0].tolist() == [0, 2]
    ranking = InstanceRanking(pack(np.zeros((1, 8), bool)), pack(np.zeros((4, 8), bool)), truth, 8)
    assert gldv2(ranking, "best")["gld-fire"].value == 1


def test_queries_without_anything_right_are_skipped_by_one_and_counted_by_the_other():
    """The second query finds itself, then what is right and another in either order.

    By trapezoids 1/4 or 1/6, on average 5/24; for landmarks 1/2 or 1/3, on average 5/12.
    """
    rows = [[0, 0, 0], [1, 0, 0], [-1, -1, -1]]
    codes = pack(np.array([[0, 0], [0, 1], [1, 1]], bool))
    ranking = InstanceRanking(codes, codes, truth_of(*rows), 2)
    result = revisited(ranking)
    assert result[2:] == (1, 2) and result.map == pytest.approx(5 / 24)
    average = trapezoid_precision(ranking)
    assert np.isnan(average).tolist() == [True, False, True] and average[1] == result.map
    assert np.isnan(trapezoid_precision(ranking, "stable")).tolist() == [True, False, True]
    counted = gldv2(ranking)["gld-official"]
    assert (counted.queries_counted, counted.queries_without_relevant) == (3, 2)
    assert counted.value == pytest.approx(5 / 12 / 3)


def test_all_that_is_right_is_all_there_is():
    """The others are junk: whatever the distances, the ranking is + + +."""
    ranking = ranked([5, 3, 3, 0, 1], [1, 1, 1, -1, -1])
    assert revisited(ranking, cuts=(1, 100)) == (1, {1: 1, 100: 1}, 1, 0)


def test_one_large_tie_keeps_its_digits():
    """All of 40,000 tied behind one other, half of them right; against the plain sums."""
    hist = Histograms(np.array([[1, 40_000]]), np.array([[0, 20_000]]))
    p, slots = 19_999 / 39_999, np.arange(40_000)
    plain = (slots * p / (slots + 1) + (slots * p + 1) / (slots + 2)).sum() / 4
    assert revisited(hist).map == pytest.approx(plain / 20_000, rel=1e-12)


def labelled(nbit=10, queries=9, size=200, engine="auto"):
    """The same comparison by labels and by lists."""
    random = np.random.default_rng(2)
    query, database = (random.random((n, nbit)) < 0.5 for n in (queries, size))
    query_labels, database_labels = random.integers(0, 4, queries), random.integers(0, 3, size)
    truth = GroundTruth.of(
        size, {"all": [np.flatnonzero(database_labels == label) for label in query_labels]}
    )
    codes = pack(query), pack(database)
    by_lists = InstanceRanking(*codes, truth, nbit, engine=engine)
    return Ranking(*codes, query_labels, database_labels, nbit), by_lists


@pytest.mark.parametrize("engine", ["numpy", "numba", "torch"])
def test_lists_of_labels_are_labels(engine):
    if engine == "numba":
        pytest.importorskip("numba")
    by_labels, by_lists = labelled(engine=engine)
    for by_label, by_list in zip(by_labels.counts, by_lists.counts, strict=True):
        assert (by_label == by_list).all()
    conventions = [
        Convention(top, ties, empty="skip_no_relevant") for ties in TIES for top in (None, 7, 100)
    ]
    assert map_under(by_labels, conventions) == map_under(by_lists, conventions)
    for query in range(by_lists.queries):
        assert (by_labels.relevant(query) == by_lists.relevant(query)).all()
    assert precision_at(Histograms.of(by_labels), [3]) == precision_at(Histograms.of(by_lists), [3])


def test_part_and_order_take_the_lists_along():
    by_labels, by_lists = labelled()
    order = np.random.default_rng(0).permutation(200)
    for make in (lambda r: r.part(30, 90), lambda r: r.reordered(order)):
        by_label, by_list = make(by_labels), make(by_lists)
        assert (by_label.counts[0] == by_list.counts[0]).all()
        assert (by_label.counts[1] == by_list.counts[1]).all()
        for query in range(by_list.queries):
            assert (by_label.positions(query) == by_list.positions(query)).all()


def test_setups_share_what_was_counted(monkeypatch):
    truth = GroundTruth.of(3, {"easy": [[0]], "hard": [[2]]}, {"easy": [[2]], "hard": [[0]]})
    query, database = pack(np.zeros((1, 4), bool)), pack(np.tri(3, 4, dtype=bool))
    ranking = InstanceRanking(query, database, truth, 4, "easy")
    assert revisited(ranking).map == 1
    monkeypatch.setattr(Ranking, "distances", None)
    monkeypatch.setattr("deephash.retrieval.backends.numpy_backend.NumpyCounter", None)
    assert revisited(ranking.under("hard")).map == 1 / 4
    assert revisited(ranking).map == 1
    items, relevant = ranking.under("hard").counts
    assert items.tolist() == [[0, 0, 1, 1, 0, 1]] and relevant.tolist() == [[0, 0, 0, 1, 0, 0]]


def test_a_report_counts_once_for_all_setups(monkeypatch):
    counting, pairs = Engine.counting, []
    monkeypatch.setattr(Engine, "counting", lambda *of: pairs.append(of) or counting(*of))
    assert len(a_report()[-1]["setups"]) == 2
    assert len(pairs) == 1


def test_a_setup_must_be_known():
    truth = GroundTruth.of(1, {"easy": [[0]], "hard": [[]]})
    code = pack(np.zeros((1, 4), bool))
    with pytest.raises(DataError, match="has: easy, hard"):
        InstanceRanking(code, code, truth, 4)
    with pytest.raises(DataError, match="'medium' is unknown"):
        InstanceRanking(code, code, truth, 4, "easy").under("medium")


def test_lists_know_no_grades():
    _, by_lists = labelled()
    with pytest.raises(DataError, match="graded metrics need labels"):
        GradedHistograms.of(by_lists)


def test_codes_must_be_those_of_the_truth():
    code = pack(np.zeros((2, 4), bool))
    with pytest.raises(DataError, match="1 queries and 2 items, the codes are of 2 and 2"):
        InstanceRanking(code, code, GroundTruth.of(2, {"all": [[0]]}), 4)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: GroundTruth.of(3, {"all": [[0], [1, 3]]}), "query 1 lists the relevant index 3"),
        (
            lambda: GroundTruth.of(3, {"all": [[0]]}, {"all": [[-1]]}),
            "query 0 lists the junk index -1",
        ),
        (
            lambda: GroundTruth.of(3, {"all": [[0], [1, 2]]}, {"all": [[1], [0, 2]]}),
            "1 items are both relevant and junk; the first is 2, to query 1",
        ),
        (lambda: GroundTruth.of(3, {"all": [[0]]}, {"all": [[], []]}), "2 lists of junk, not 1"),
        (
            lambda: GroundTruth.of(3, {"easy": [[0]], "hard": []}),
            "hard: 0 lists of relevant, not 1",
        ),
        (lambda: GroundTruth.of(3, {"all": [[0]]}, {"none": [[]]}), "junk is given for none"),
        (lambda: GroundTruth.of(3, {"all": []}), "no queries"),
        (lambda: GroundTruth.of(3, {}), "no setup"),
        (lambda: GroundTruth.of(0, {"all": [[]]}), "size=0"),
        (lambda: IndexLists.of([[0], [0.5]]), "query 1 must be whole numbers"),
        (lambda: IndexLists.of([[True]]), "query 0 must be whole numbers"),
        (lambda: IndexLists.of([[[1], [2, 3]]]), "query 0 must be whole numbers"),
        (lambda: IndexLists(np.array([0, 2]), np.array([1, 1])), "must ascend, without"),
        (lambda: IndexLists(np.array([0, 1]), np.array([1, 2])), "ascend from 0 to 2"),
        (lambda: IndexLists(np.array([0, 2, 1, 2]), np.array([1, 2])), "ascend from 0 to 2"),
        (lambda: IndexLists(np.array([0, 1]), np.array([1.0])), "indices must be int64"),
    ],
)
def test_malformed_truths(make, words):
    with pytest.raises(DataError, match=words):
        make()


def test_malformed_questions():
    ranking, hist = ranked([0], [1]), Histograms(np.array([[1]]), np.array([[1]]))
    for given_, words in (
        ({"ties": "random"}, "ties='random' is unknown"),
        ({"seed": -1}, "seed=-1"),
        ({"cuts": (0,)}, "cut=0"),
    ):
        with pytest.raises(DataError, match=words):
            revisited(ranking, **given_)
    with pytest.raises(DataError, match="needs the order"):
        revisited(hist, "stable")
    assert revisited(hist).map == 1


def shifted(scale):
    """Codes of another domain from a hash layer with batch norm: unchanged, and recentred."""
    torch.manual_seed(0)
    queries, database, nbit = 12, 300, 24
    linear, norm = nn.Linear(16, nbit, dtype=torch.float64), nn.BatchNorm1d(nbit).double().eval()
    with torch.no_grad():
        norm.weight.copy_(scale(torch.rand(nbit)))
        norm.bias.normal_()
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.1, 4)
        before = linear(torch.randn(queries + database, 16, dtype=torch.float64) + 1.5)
        own = norm(before)
        norm.weight.fill_(1)
        norm.bias.zero_()
        norm.running_mean.copy_(before[queries:].mean(dim=0))
        remedied = norm(before)
    return (own[:queries], own[queries:]), (remedied[:queries], remedied[queries:])


def test_recentring_is_the_remedy_of_batch_normalisation():
    (query, database), remedied = shifted(lambda uniform: uniform + 0.1)
    assert (binarize(database).mean(axis=0) > 0.95).any()  # there is something to mend
    centered = recentre(database, query)
    for bits, wanted in zip(centered, remedied[::-1], strict=True):
        assert (binarize(bits) == binarize(wanted)).all()
    assert np.abs(binarize(centered[0]).mean(axis=0) - 0.5).max() < 0.15


def test_a_negative_scale_inverts_bits_and_no_distance():
    (query, database), remedied = shifted(lambda uniform: uniform - 0.5)
    database, query = (pack(binarize(z)) for z in recentre(database, query))
    remedied_query, remedied_database = (pack(binarize(z)) for z in remedied)
    assert (remedied_database != database).any()
    assert (hamming(query, database) == hamming(remedied_query, remedied_database)).all()


def test_a_scale_of_zero_stays_dead():
    (query, database), remedied = shifted(torch.zeros_like)
    database, query = recentre(database, query)
    assert np.abs(database).max() < 1e-12 and np.abs(query).max() < 1e-12
    assert 0 < binarize(remedied[1]).mean() < 1


@pytest.mark.parametrize(
    ("database", "query", "words"),
    [
        (np.ones((2, 3), np.float32), np.ones((1, 2), np.float32), r"\(2, 3\), the queries"),
        (np.ones((0, 3), np.float32), np.ones((1, 3), np.float32), r"\(0, 3\), the queries"),
        (np.ones((2, 3), bool), np.ones((1, 3), bool), "of the database are bool"),
        (np.ones((2, 3)), np.ones(3), "of the query are float64"),
        (np.array([[1.0, np.nan]]), np.ones((1, 2)), "1 entries of the mean"),
    ],
)
def test_what_cannot_be_centred(database, query, words):
    with pytest.raises(DataError, match=words):
        recentre(database, query)


def a_report(protocol="revisited", **given_):
    random = np.random.default_rng(0)
    query, database = random.standard_normal((5, 8)) + 1, random.standard_normal((60, 8)) + 1
    easy = [[0, 4], [7], [], [3], [9]]
    hard = [[1], [], [], [20, 30], [2]]
    truth = GroundTruth.of(
        60, {"easy": easy, "hard": hard}, {"easy": [*map(sorted, hard)], "hard": easy}
    )
    return query, database, truth, evaluate_instances(query, database, truth, protocol, **given_)


@pytest.mark.parametrize("protocol", ["revisited", "gldv2"])
@pytest.mark.parametrize("ties", TIES)
def test_the_report_holds_what_the_metrics_say(protocol, ties):
    query, database, truth, report = a_report(protocol, ties=ties, seed=4)
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    assert (report["queries"], report["database"], report["nbit"]) == (5, 60, 8)
    assert report["conventions"]["seed"] == (4 if ties == "shuffled" else None)
    codes = pack(binarize(query)), pack(binarize(database))
    for name, values in report["setups"].items():
        ranking = InstanceRanking(*codes, truth, 8, name)
        if protocol == "revisited":
            own = revisited(ranking, ties, 4)
            assert values["map"] == own.map
            assert values["precision_at"] == {str(k): v for k, v in own.precision_at.items()}
            assert (values["queries_counted"], values["queries_skipped"]) == own[2:]
            assert values["ties"]["worst"] <= values["ties"]["expected"] <= values["ties"]["best"]
            assert values["ties"] == {t: revisited(ranking, t).map for t in values["ties"]}
        else:
            own = gldv2(ranking, ties, 4)
            assert values["map"] == {name: result.value for name, result in own.items()}
            assert set(values["ties"]) == {"expected", "stable", "best", "worst"}
    assert [setup["queries_counted"] for setup in report["setups"].values()] == (
        [4, 3] if protocol == "revisited" else [5, 5]
    )


def test_the_report_contains_its_conventions():
    conventions = a_report()[-1]["conventions"]
    assert (conventions["protocol"], conventions["ties"]) == ("revisited", "expected")
    assert conventions["bit"] == "z >= 0" and not conventions["centred"]
    landmarks = a_report("gldv2", centred=True, full=False)[-1]
    assert landmarks["conventions"]["denominator"] == {"gld-official": "min", "gld-fire": "total"}
    assert landmarks["conventions"]["metric"] == "mAP@60"
    assert landmarks["conventions"]["bit"] == "z >= mean z of the database"
    assert "ties" not in landmarks["setups"]["easy"]


def test_codes_come_real_as_bits_or_packed():
    query, database, truth, report = a_report()
    bits = binarize(query), binarize(database)
    assert evaluate_instances(*bits, truth, "revisited") == report
    packed = pack(bits[0]), pack(bits[1])
    assert evaluate_instances(*packed, truth, "revisited", nbit=8) == report
    tensors = torch.from_numpy(query), torch.from_numpy(database)
    assert evaluate_instances(*tensors, truth, "revisited") == report


def test_a_centred_report_is_that_of_centred_codes():
    query, database, truth, report = a_report(centred=True)
    database, query = recentre(database, query)
    plain = evaluate_instances(query, database, truth, "revisited")
    assert plain["setups"] == report["setups"] != a_report()[-1]["setups"]


@pytest.mark.parametrize(
    ("given_", "words"),
    [
        ({"protocol": "oxford"}, "protocol='oxford' is unknown; allowed: revisited, gldv2"),
        ({"ties": "random"}, "ties='random' is unknown"),
        ({"protocol": "gldv2", "ties": "random"}, "ties='random' is unknown"),
        ({"nbit": 8, "centred": True}, "packed codes cannot be centred"),
    ],
)
def test_malformed_reports(given_, words):
    with pytest.raises(DataError, match=words):
        a_report(**given_)
    query, database, truth, _ = a_report()
    with pytest.raises(DataError, match="queries have 7 bits, the database 8"):
        evaluate_instances(query[:, :7], database, truth, "revisited")
