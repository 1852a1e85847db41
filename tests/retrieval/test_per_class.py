"""Results by class, compared with plain loops over all orders of ties."""

import tracemalloc
from itertools import permutations

import numpy as np
import pytest
from scipy.sparse import coo_array, csr_array

from deephash.errors import DataError
from deephash.retrieval import (
    Convention,
    Ranking,
    by_class,
    class_means,
    counted_precision,
    pack,
)


def ranking_of(bits, items, query, database, **options):
    return Ranking(pack(bits), pack(items), query, database, bits.shape[1], **options)


def naive_returned(bits, items, query, database, depth, own):
    """Mean shares by enumeration: the first items under each order of equal distances."""
    classes = query.shape[1]
    sums, totals = np.zeros((classes, classes)), np.zeros(classes)
    for at, (code, labels) in enumerate(zip(bits, query, strict=True)):
        distance = (code != items).sum(axis=1)
        ranked = [item for item in range(len(items)) if own is None or item != own[at]]
        orders = list(permutations(ranked))
        orders = [o for o in orders if all(np.diff(distance[list(o)]) >= 0)]
        for label in np.flatnonzero(labels):
            totals[label] += 1
            for order in orders:
                for item in order[:depth]:
                    relevant = (database[item] & labels).any()
                    for other in np.flatnonzero(database[item]):
                        if other == label or not relevant:
                            sums[label, other] += 1 / len(orders) / depth
    with np.errstate(invalid="ignore"):
        return sums / totals[:, None]


@pytest.mark.parametrize("own", [None, [0, -1, 2]])
@pytest.mark.parametrize("multilabel", [False, True])
def test_shares_are_those_of_all_orders(own, multilabel):
    random = np.random.default_rng(3)
    bits, items = random.random((3, 3)) < 0.5, random.random((6, 3)) < 0.5
    if multilabel:
        query, database = random.random((3, 4)) < 0.4, random.random((6, 4)) < 0.4
    else:
        query, database = (np.eye(4, dtype=bool)[random.integers(0, 3, n)] for n in (3, 6))
    indices = None if own is None else np.array(own)
    ranking = ranking_of(bits, items, query, database, own=indices)
    precision = counted_precision(ranking, Convention())
    result = by_class(ranking, precision, query, database, depth=3)
    expected = naive_returned(bits, items, query, database, 3, own)
    np.testing.assert_allclose(result.returned, expected)
    means = [precision[row].mean() if row.any() else np.nan for row in query.T]
    np.testing.assert_allclose(result.precision, means)
    assert result.queries.tolist() == query.sum(axis=0).tolist() and result.compared == 3


def test_of_many_queries_some_are_compared_and_all_are_counted():
    labels = np.eye(2, dtype=bool)[[0, 1] * 5]
    bits = np.zeros((10, 2), bool)
    result = by_class(ranking_of(bits, bits, labels, labels), np.ones(10), labels, labels, 4, 5)
    assert result.compared == 5 and result.queries.tolist() == [5, 5]
    np.testing.assert_allclose(result.returned, 0.5)


def test_labels_of_other_images_are_refused():
    labels, bits = np.eye(2, dtype=bool), np.zeros((2, 2), bool)
    with pytest.raises(DataError, match="do not belong to 2 queries and 2 items"):
        by_class(ranking_of(bits, bits, labels, labels), [1.0], labels, labels)


def test_dense_and_sparse_labels_and_class_indices_give_the_same():
    random = np.random.default_rng(5)
    bits, items = random.random((9, 4)) < 0.5, random.random((40, 4)) < 0.5
    query, database = random.integers(0, 4, 9), np.append(random.integers(0, 4, 39), 5)
    eye = np.eye(6, dtype=bool)
    ranking = ranking_of(bits, items, query, database)
    precision = counted_precision(ranking, Convention())
    results = [
        by_class(ranking, precision, *labels, depth=7)
        for labels in (
            (query, database),
            (eye[query], eye[database]),
            (csr_array(eye[query]), coo_array(eye[database])),
        )
    ]
    for result in results:
        assert result.returned.shape == (6, 6)
        for name in ("precision", "queries", "returned"):
            np.testing.assert_array_equal(getattr(result, name), getattr(results[0], name))


def test_sparse_labels_are_not_made_dense():
    count, classes = 100_000, 300
    labels = np.arange(count) % classes
    hot = csr_array((np.ones(count, bool), labels, np.arange(count + 1)), (count, classes))
    bits = (labels[:, None] >> np.arange(8)) % 2 == 1
    ranking = ranking_of(bits[:4], bits, labels[:4], labels)
    tracemalloc.start()
    try:
        result = by_class(ranking, np.ones(4), hot[:4], hot)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert result.queries.sum() == 4
    assert peak < count * classes / 2  # bytes of dense labels


def test_means_of_very_many_classes():
    means, counts = class_means(np.ones(100_000), np.arange(100_000))  # dense: 10 GB
    assert means.tolist() == counts.tolist() == [1] * 100_000


@pytest.mark.parametrize("labels", [[-1, 0], [0.5, 1.0], [[[1]]]])
def test_what_is_neither_rows_nor_indices_is_refused(labels):
    with pytest.raises(DataError, match="neither multi-hot rows nor class indices from 0"):
        class_means(np.ones(len(labels)), labels)
