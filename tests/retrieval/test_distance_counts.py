import numpy as np
import pytest
import torch

from deephash.errors import DataError
from deephash.retrieval import Histograms, Ranking, histograms, pack


def naive(query, database, query_labels, database_labels):
    """Counts by two loops and the definition."""
    nbit = query.shape[1]
    items = np.zeros((len(query), nbit + 1), dtype=int)
    relevant = np.zeros_like(items)
    for q in range(len(query)):
        for n in range(len(database)):
            distance = int((query[q] != database[n]).sum())
            items[q, distance] += 1
            relevant[q, distance] += bool((query_labels[q] * database_labels[n]).sum() > 0)
    return items, relevant


def bits(seed, size, nbit):
    return np.random.default_rng(seed).random((size, nbit)) < 0.5


def multi_hot(seed, size, classes, share=0.3):
    return (np.random.default_rng(seed).random((size, classes)) < share).astype(np.float32)


def test_by_hand():
    """Query 00, class 1. Items 00 (1), 01 (0), 10 (1), 11 (1): distances 0, 1, 1, 2.

    Counted by distance: 1, 2, 1; the relevant ones: 1, 1, 1.
    """
    database = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], dtype=bool)
    hist = histograms(
        pack(np.zeros((1, 2), bool)), pack(database), np.array([1]), np.array([1, 0, 1, 1]), 2
    )
    assert hist.items.tolist() == [[1, 2, 1]]
    assert hist.relevant.tolist() == [[1, 1, 1]]
    assert (hist.queries, hist.size, hist.nbit) == (1, 4, 2)
    assert hist.items.dtype == hist.relevant.dtype == np.int64


@pytest.mark.parametrize("nbit", [1, 5, 8, 12, 16, 30, 64, 70, 128, 260])
@pytest.mark.parametrize("classes", [1, 3, 8, 21, 65, 130])
def test_multi_label_by_definition(nbit, classes):
    query, database = bits(1, 6, nbit), bits(2, 40, nbit)
    query_labels, database_labels = (
        multi_hot(3, 6, classes, 2 / classes),
        multi_hot(4, 40, classes, 2 / classes),
    )
    hist = histograms(pack(query), pack(database), query_labels, database_labels, nbit)
    items, relevant = naive(query, database, query_labels, database_labels)
    np.testing.assert_array_equal(hist.items, items)
    np.testing.assert_array_equal(hist.relevant, relevant)
    np.testing.assert_array_equal(hist.labelled, query_labels.any(axis=1))


@pytest.mark.parametrize("nbit", [1, 12, 64, 70, 260])
def test_single_label_by_definition_in_every_form(nbit):
    """Class 9 occurs only in queries, class 0 only in the database."""
    query, database = bits(1, 6, nbit), bits(2, 40, nbit)
    rng = np.random.default_rng(5)
    query_labels, database_labels = rng.integers(1, 10, 6), rng.integers(0, 9, 40)
    hot = np.eye(10)
    items, relevant = naive(query, database, hot[query_labels], hot[database_labels])
    forms = [
        (query_labels, database_labels),
        (torch.from_numpy(query_labels), database_labels.astype(np.uint8)),
        (hot[query_labels], hot[database_labels]),
        (hot[query_labels].astype(bool), torch.from_numpy(hot[database_labels]).int()),
        (torch.from_numpy(hot[query_labels]).bfloat16(), hot[database_labels].astype(np.float16)),
    ]
    for form in forms:
        hist = histograms(pack(query), torch.from_numpy(pack(database)), *form, nbit)
        np.testing.assert_array_equal(hist.items, items)
        np.testing.assert_array_equal(hist.relevant, relevant)


def test_no_label_is_shared_with_no_label():
    """Two items without any label have nothing in common; the query is marked as unlabelled."""
    codes = pack(bits(0, 2, 4))
    labels = np.array([[0, 0], [1, 0]])
    hist = histograms(codes, codes, labels, labels, 4)
    assert hist.relevant.sum(axis=1).tolist() == [0, 1]
    assert hist.labelled.tolist() == [False, True]


def test_inputs_stay_as_they_were():
    given = [pack(bits(0, 4, 12)), pack(bits(1, 9, 12)), multi_hot(2, 4, 3), multi_hot(3, 9, 3)]
    before = [array.copy() for array in given]
    Ranking(*given, 12).shuffled(0).positions(0)
    histograms(*given, 12)
    for array, copy in zip(given, before, strict=True):
        np.testing.assert_array_equal(array, copy)


def test_same_labels_on_both_sides_stay_right():
    """The tensor handed in twice: an edit in place on one side would show on the other."""
    labels = torch.from_numpy(multi_hot(0, 7, 3))
    codes = bits(0, 7, 9)
    hist = histograms(pack(codes), pack(codes), labels, labels, 9)
    np.testing.assert_array_equal(
        hist.relevant, naive(codes, codes, labels.numpy(), labels.numpy())[1]
    )


def test_positions_are_the_stable_order():
    """Distances 1, 0, 1, 0, 2 rank the items 1, 3, 0, 2, 4; relevant 0, 3 sit at 2 and 1."""
    database = np.array([[0, 1], [0, 0], [1, 0], [0, 0], [1, 1]], dtype=bool)
    labels = np.array([7, 1, 1, 7, 1])
    ranking = Ranking(pack(np.zeros((1, 2), bool)), pack(database), np.array([7]), labels, 2)
    assert ranking.distances(0).tolist() == [1, 0, 1, 0, 2]
    assert ranking.relevant(0).tolist() == [True, False, False, True, False]
    assert ranking.positions(0).tolist() == [1, 2]


def test_shuffling_follows_the_seed_and_keeps_what_does_not_depend_on_order():
    codes, database = pack(bits(0, 1, 3)), pack(bits(1, 50, 3))
    ranking = Ranking(codes, database, multi_hot(2, 1, 4, 0.6), multi_hot(3, 50, 4), 3)
    first, again, other = ranking.shuffled(1), ranking.shuffled(1), ranking.shuffled(2)
    assert first.positions(0).tolist() == again.positions(0).tolist()
    assert first.positions(0).tolist() != other.positions(0).tolist()
    for shuffled in (first, other):
        np.testing.assert_array_equal(Histograms.of(shuffled).items, Histograms.of(ranking).items)
        np.testing.assert_array_equal(
            Histograms.of(shuffled).relevant, Histograms.of(ranking).relevant
        )


GOOD = {
    "query_codes": np.zeros((2, 2), np.uint8),
    "database_codes": np.zeros((3, 2), np.uint8),
    "query_labels": np.array([[1, 0], [0, 1]]),
    "database_labels": np.array([[1, 0], [0, 1], [1, 1]]),
    "nbit": 16,
}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"query_codes": np.zeros((2, 2))}, "query_codes must be packed codes"),
        ({"database_codes": np.zeros(3, np.uint8)}, "database_codes must be packed codes"),
        ({"nbit": 17}, "query_codes has 2 bytes per code, but 17 bits are packed in 3"),
        ({"nbit": 8}, "packed in 1"),
        ({"database_codes": np.zeros((3, 3), np.uint8)}, "database_codes has 3 bytes"),
        ({"nbit": 12, "query_codes": np.full((2, 2), 255, np.uint8)}, "beyond bit 12"),
        (
            {"database_codes": np.zeros((0, 2), np.uint8), "database_labels": np.zeros((0, 2))},
            "the database is empty",
        ),
        (
            {"query_codes": np.zeros((0, 2), np.uint8), "query_labels": np.zeros((0, 2))},
            "no queries",
        ),
        ({"query_labels": np.zeros((3, 2))}, r"query_labels must be \(2, C\)"),
        ({"query_labels": np.zeros((2, 2, 2))}, r"query_labels must be \(2, C\)"),
        ({"query_labels": np.zeros((2, 3))}, "have 3 classes, database_labels 2"),
        ({"query_labels": np.zeros((2, 0))}, "no classes"),
        ({"query_labels": np.array([0, 1])}, "both be multi-hot"),
        ({"query_labels": np.array([[1, np.nan], [0, 1]])}, "query_labels contain NaN"),
        ({"database_labels": np.array([[1, -1], [0, 1], [1, 1]])}, "0 or 1, but contain -1"),
        ({"database_labels": torch.full((3, 2), 0.5)}, "0 or 1, but contain 0.5"),
        ({"query_labels": np.array([0.0, 1.0])}, "integers, not float64"),
        ({"query_labels": np.array([True, False])}, "integers, not bool"),
        ({"query_labels": np.array([-1, 0])}, "the class -1"),
        ({"query_labels": np.array([["a", "b"], ["c", "d"]])}, "must be numbers"),
    ],
)
def test_what_cannot_be_measured_is_refused(change, says):
    with pytest.raises(DataError, match=says):
        histograms(**(GOOD | change))


@pytest.mark.parametrize(
    ("items", "relevant", "labelled", "says"),
    [
        ([1, 2], [1, 2], None, r"must be \(Q, K \+ 1\)"),
        ([[1, 2]], [[1, 2, 0]], None, r"must be \(Q, K \+ 1\)"),
        ([[1.0]], [[1.0]], None, "counts"),
        ([[1, 2]], [[2, 0]], None, "0 <= relevant <= items"),
        ([[1, 2]], [[-1, 0]], None, "0 <= relevant <= items"),
        ([[1, 2], [1, 1]], [[0, 0], [0, 0]], None, "same database"),
        ([[0, 0]], [[0, 0]], None, "must not be empty"),
        ([[1, 2]], [[1, 0]], [True, True], "labelled"),
    ],
)
def test_counts_that_contradict_each_other_are_refused(items, relevant, labelled, says):
    with pytest.raises(DataError, match=says):
        Histograms(
            np.array(items),
            np.array(relevant),
            None if labelled is None else np.array(labelled),
        )
