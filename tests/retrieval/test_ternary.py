"""Codes with undecided bits, against the definition: 1/2 (K - <a, b>) over +1, 0, -1."""

import json
from itertools import permutations, product

import numpy as np
import pytest
import torch

from deephash import retrieval
from deephash.errors import DataError
from deephash.retrieval import (
    Convention,
    binarize,
    evaluate_codes,
    hamming,
    pack,
    pack_ternary,
    undecided,
    unpack,
)
from deephash.training.evaluation import Codes, Evaluation

NBITS = [1, 2, 3, 7, 8, 12, 16, 33, 63, 64, 65, 130]


def draw(seed, size, nbit):
    """Real values on a grid of quarters, so that thresholds are met exactly; no zeros."""
    rng = np.random.default_rng(seed)
    return (rng.integers(1, 9, (size, nbit)) / 4 * rng.choice([-1, 1], (size, nbit))).astype("f4")


def distances(query, database, threshold):
    """(Q, N) by a loop over both and the definition."""

    def entry(z):
        return 0 if abs(z) < threshold else 1 if z >= 0 else -1

    result = np.empty((len(query), len(database)))
    for q, a in enumerate(query):
        for n, b in enumerate(database):
            product = sum(entry(x) * entry(y) for x, y in zip(a, b, strict=True))
            result[q, n] = (len(a) - product) / 2
    return result


def precision_of(order, top):
    """AP@top of one order, over the hits."""
    hits, total = 0, 0.0
    for rank, relevant in enumerate(order[:top], start=1):
        if relevant:
            hits += 1
            total += hits / rank
    return total / hits if hits else 0.0


def orders(distance, relevance):
    """The relevance of every order that sorts by distance."""
    groups = [
        [r for d, r in zip(distance, relevance, strict=True) if d == value]
        for value in sorted(set(distance))
    ]
    for parts in product(*(permutations(group) for group in groups)):
        yield [r for part in parts for r in part]


def packed(query, database, threshold):
    return [
        pack_ternary(binarize(z), undecided(z, threshold), side)
        for z, side in ((query, "query"), (database, "database"))
    ]


# codes


def test_packed_by_hand():
    """+1, -1, undecided: 1111 0000 0011 on one side, 1111 0000 0101 on the other, filled up."""
    bits, mask = np.array([[True, False, True]]), np.array([[False, False, True]])
    assert pack_ternary(bits, mask, "query").tolist() == [[0b11110000, 0b00110000]]
    assert pack_ternary(bits, mask, "database").tolist() == [[0b11110000, 0b01010000]]


def test_nine_pairs():
    """Equal signs cost nothing, unlike ones a bit, an undecided one half a bit against anything."""
    z = np.array([[2.0], [0.5], [-2.0]])
    assert (hamming(*packed(z, z, 1)) / 4).tolist() == [[0, 0.5, 1], [0.5, 0.5, 0.5], [1, 0.5, 0]]


@pytest.mark.parametrize("nbit", NBITS)
@pytest.mark.parametrize("threshold", [0, 0.25, 0.75, 1.5, 9])
def test_distances_by_definition(nbit, threshold):
    query, database = draw(nbit, 4, nbit), draw(nbit + 1, 15, nbit)
    result = hamming(*packed(query, database, threshold)) / 4
    np.testing.assert_array_equal(result, distances(query, database, threshold))


def test_the_threshold_itself_is_decided():
    z = np.array([[-1.5, -1.0, -0.99, -0.0, 0.0, 0.99, 1.0, 1.5]])
    assert undecided(z, 1).tolist() == [[False, False, True, True, True, True, False, False]]
    assert undecided(torch.from_numpy(z).bfloat16(), 1.0)[0, 3:5].all()
    assert not undecided(z, 0).any()


def test_the_smallest_integer_is_decided():
    assert undecided(np.array([[-128, 127, 0]], dtype=np.int8), 1).tolist() == [[0, 0, 1]]


def test_inputs_stay_as_they_were():
    z = draw(0, 3, 9)
    bits, mask = binarize(z), undecided(z, 1)
    copies = z.copy(), bits.copy(), mask.copy()
    pack_ternary(bits, mask, "query")
    for now, before in zip((z, bits, mask), copies, strict=True):
        np.testing.assert_array_equal(now, before)


# numbers


def test_the_whole_by_hand():
    """Threshold 1: the query is + 0; the items are + +, - 0, 0 0, + -, their distances 0 or 1 or
    1/2 plus 1/2: 1/2, 3/2, 1, 1/2. The relevant ones are at 1/2 (one of two) and at 3/2, rank 4.

    AP is 1/2 (1 + 1/2) / 2 + 1/2 (1/2 + 1/2) / 2 = 5/8.
    Radii 0, 1/2, 1, 3/2, 2 hold 0, 2, 3, 4, 4 items, of them 0, 1, 1, 2, 2 relevant.
    """
    query = np.array([[2.0, -0.5]])
    database = np.array([[3.0, 1.0], [-3.0, 0.2], [0.1, -0.1], [2.0, -2.0]])
    report = evaluate_codes(query, database, np.array([5]), np.array([5, 5, 1, 1]), ternary=1)
    assert report["map"] == pytest.approx(5 / 8, abs=1e-14)
    assert report["ties"]["stable"] == pytest.approx((1 + 1 / 2) / 2)
    assert report["ties"]["worst"] == pytest.approx((1 / 2 + 1 / 2) / 2)
    curve = report["pr_curve"]
    assert curve["radius"] == [0, 0.5, 1, 1.5, 2]
    assert curve["precision_macro"] == pytest.approx([0, 1 / 2, 1 / 3, 1 / 2, 1 / 2])
    assert curve["recall_micro"] == [0, 0.5, 0.5, 1, 1]
    assert curve["empty_fraction"] == [1, 0, 0, 0, 0]
    assert report["nbit"] == 2


@pytest.mark.parametrize("nbit", [1, 3, 8, 70])
@pytest.mark.parametrize("threshold", [0, 0.75, 1.5, 9])
@pytest.mark.parametrize("top", [None, 4])
def test_map_by_definition(nbit, threshold, top):
    """Seven items, all 5,040 orders at most; two classes, and a query without a relevant item."""
    query, database = draw(nbit, 5, nbit), draw(nbit + 9, 7, nbit)
    query_labels, database_labels = np.array([0, 1, 0, 1, 2]), np.array([0, 1, 1, 0, 1, 0, 0])
    expected, stable = [], []
    for distance, label in zip(distances(query, database, threshold), query_labels, strict=True):
        relevance = (database_labels == label).tolist()
        every = [precision_of(order, top) for order in orders(distance.tolist(), relevance)]
        expected.append(np.mean(every))
        stable.append(
            precision_of([relevance[n] for n in np.argsort(distance, kind="stable")], top)
        )
    report = evaluate_codes(
        query, database, query_labels, database_labels, Convention(top=top), ternary=threshold
    )
    assert report["map"] == pytest.approx(np.mean(expected), abs=1e-12)
    assert report["ties"]["expected"] == report["map"]
    assert report["ties"]["stable"] == pytest.approx(np.mean(stable), abs=1e-12)
    for ties, value in report["ties"].items():
        again = evaluate_codes(
            query,
            database,
            query_labels,
            database_labels,
            Convention(top=top, ties=ties),
            full=False,
            ternary=threshold,
        )
        assert again["map"] == value


@pytest.mark.parametrize("nbit", [3, 16, 70])
def test_radii_are_in_bits(nbit):
    """Multi-label, counted by loops; a radius of 2 is two bits, not two of the steps inside."""
    rng = np.random.default_rng(nbit)
    query, database = draw(1, 6, nbit), draw(2, 60, nbit)
    database[:12] = query.repeat(2, axis=0)  # something is near
    database[:12, 0] *= -1
    query_labels, database_labels = (rng.random((n, 4)) < 0.4 for n in (6, 60))
    distance = distances(query, database, 0.5)
    shared = (query_labels[:, None] & database_labels[None]).any(axis=2)
    report = evaluate_codes(query, database, query_labels, database_labels, ternary=0.5)

    def ball(radius):
        inside = distance <= radius
        return inside.sum(axis=1), (inside & shared).sum(axis=1)

    items, hits = ball(2)
    within = report["precision_within_radius_2"]
    assert within["mean_zero"] == pytest.approx(np.mean(hits / np.maximum(items, 1)))
    assert within["empty_fraction"] == np.mean(items == 0)
    curve = report["pr_curve"]
    assert curve["radius"] == [half / 2 for half in range(2 * nbit + 1)]
    assert {len(values) for values in curve.values()} == {2 * nbit + 1}
    for at, radius in enumerate(curve["radius"]):
        items, hits = ball(radius)
        micro = hits.sum() / items.sum() if items.sum() else 0
        assert curve["precision_micro"][at] == pytest.approx(micro)
        assert curve["precision_macro"][at] == pytest.approx(np.mean(hits / np.maximum(items, 1)))
        assert curve["empty_fraction"][at] == np.mean(items == 0)


def labelled(nbit=12):
    rng = np.random.default_rng(3)
    labels = [(rng.random((n, 5)) < 0.3).astype(np.float32) for n in (9, 140)]
    return draw(3, 9, nbit), draw(4, 140, nbit), *labels


@pytest.mark.parametrize("nbit", [12, 64, 70])
@pytest.mark.parametrize("top", [None, 30])
def test_threshold_zero_leaves_bits(nbit, top):
    given, convention = labelled(nbit), Convention(top=top)
    bits, none = evaluate_codes(*given, convention), evaluate_codes(*given, convention, ternary=0)
    assert none["map"] == pytest.approx(bits["map"], abs=1e-12)
    assert none["ties"] == pytest.approx(bits["ties"], abs=1e-12)
    for key in ("precision_within_radius_2", "precision_at"):
        assert none[key] == pytest.approx(bits[key], abs=1e-12)
    for key, values in bits["pr_curve"].items():
        assert none["pr_curve"][key][::2] == pytest.approx(values, abs=1e-12)
    assert bits["pr_curve"]["radius"] == list(range(nbit + 1))


def test_all_undecided_are_all_tied_at_half_the_bits():
    """Nothing but the shares of the labels is left: the same as codes that are all alike."""
    query, database, *labels = labelled()
    report = evaluate_codes(query, database, *labels, ternary=100)
    alike = evaluate_codes(np.ones((9, 12)), np.ones((140, 12)), *labels)
    assert report["map"] == pytest.approx(alike["map"], abs=1e-12)
    assert report["ties"] == pytest.approx(alike["ties"], abs=1e-12)
    curve = report["pr_curve"]
    assert curve["empty_fraction"] == [float(radius < 6) for radius in curve["radius"]]


def test_conventions_tell():
    given = labelled()
    bits, three = evaluate_codes(*given), evaluate_codes(*given, ternary=1)
    assert (bits["conventions"]["ternary"], bits["conventions"]["bit"]) == (None, "z >= 0")
    changed = {"ternary": 1.0, "bit": "z >= 0, undecided if |z| < 1.0"}
    assert three["conventions"] == bits["conventions"] | changed
    assert (three["nbit"], three["conventions"]["metric"]) == (12, "mAP@all")
    assert three["map"] != bits["map"]
    assert evaluate_codes(*given, ternary=np.float32(1)) == three
    assert json.loads(json.dumps(three, allow_nan=False)) == three


@pytest.mark.parametrize("threshold", [-1, -1e-9, float("nan"), float("inf"), True, "1"])
def test_what_is_no_threshold_is_refused(threshold):
    with pytest.raises(DataError, match="at least 0"):
        evaluate_codes(*labelled(), ternary=threshold)
    with pytest.raises(DataError, match="at least 0"):
        Evaluation(Convention(), None, threshold)


def test_bits_are_never_undecided():
    query, database, *labels = labelled()
    for pair in ((binarize(query), database), (query, torch.from_numpy(binarize(database)))):
        with pytest.raises(DataError, match="needs real-valued codes"):
            evaluate_codes(*pair, *labels, ternary=1)
        evaluate_codes(*pair, *labels)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda b: pack_ternary(b, b, "left"), "allowed: query, database"),
        (lambda b: pack_ternary(b, b[:, 1:], "query"), r"their mask is \(2, 2\)"),
        (lambda b: pack_ternary(b, b * 1.0, "query"), "mask must be a bool matrix"),
        (lambda b: pack_ternary(b[0], b[0], "query"), "bits must be a bool matrix"),
        (lambda b: undecided(b, 1), "signed numbers"),
        (lambda b: undecided(b / np.float32(0), 1), "contain NaN"),
    ],
)
@pytest.mark.filterwarnings("ignore:invalid value")
def test_what_cannot_be_ternary_is_refused(call, says):
    with pytest.raises(DataError, match=says):
        call(np.zeros((2, 3), bool))


# from an encoder


class Data:
    """Ten items and their codes; the last three are the queries."""

    truth = None

    def __init__(self, labels):
        self.all = labels

    class split:
        own = None
        queries, database, validation = np.arange(7, 10), np.arange(7), np.array([], int)

    def labels(self, ids):
        return self.all[ids]

    def eval_batches(self, ids):
        yield type("Batch", (), {"flat": lambda _: torch.from_numpy(ids)})()


class Encoder(torch.nn.Module):
    def __init__(self, z):
        super().__init__()
        self.z = z

    def encode(self, images):
        return self.z[images]


def test_evaluation_is_ternary():
    z, labels = torch.from_numpy(draw(8, 10, 6)), torch.eye(3)[torch.arange(10) % 3]
    data, split = Data(labels), Data.split
    three = Evaluation(Convention(), lambda: torch.autocast("cpu", enabled=False), 1)
    result = three(Encoder(z), data)
    codes = Codes(np.arange(10), z, 1.0)
    given = (z[7:], z[:7], labels[7:], labels[:7])
    assert (result.query, result.val) == (evaluate_codes(*given, ternary=1)["map"], None)
    full = three.measure(codes, data, split.queries, split.database, full=True)
    assert full == retrieval.evaluate_codes(*given, ternary=1.0)
    bits = Evaluation(Convention(), lambda: torch.autocast("cpu", enabled=False))
    assert bits(Encoder(z), data).query == evaluate_codes(*given)["map"] != result.query


def test_saved_masks_reproduce_the_codes():
    """What codes.npz holds is enough to measure."""
    query, database = draw(1, 4, 11), draw(2, 9, 11)
    halves = []
    for z, side in ((query, "query"), (database, "database")):
        bits, mask = (unpack(pack(x), 11) for x in (binarize(z), undecided(z, 0.75)))
        halves.append(pack_ternary(bits, mask, side))
    np.testing.assert_array_equal(hamming(*halves) / 4, distances(query, database, 0.75))
