"""Retrieval by class: average precision of each class, and which classes its queries return."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Union

import numpy as np
import numpy.typing as npt

from deephash.errors import DataError
from deephash.retrieval.codes import Counts
from deephash.retrieval.ranking import Ranking

if TYPE_CHECKING:
    from scipy.sparse import csr_array, sparray

Floats = npt.NDArray[np.float64]
Labels = Union[npt.ArrayLike, "sparray"]
"""Multi-hot rows (n, C), dense or sparse, or class indices (n,)."""


@dataclass(frozen=True)
class ByClass:
    """Results of the queries of each of C classes; a query with several labels counts in each.

    Example:
        >>> ByClass(np.array([1.0]), np.array([3]), np.array([[0.9]]), 100, 3).precision
        array([1.])
    """

    precision: Floats  # (C,) mean average precision; nan without queries that count
    queries: Counts  # (C,) queries of the class that count
    returned: Floats
    """(C, C) mean share of the first ``depth`` items that are of each class; nan without queries.

    Beside its own class, a row has the irrelevant items only.
    """
    depth: int
    compared: int  # queries of which ``returned`` is the mean


def by_class(
    ranking: Ranking,
    precision: npt.ArrayLike,
    query_labels: Labels,
    database_labels: Labels,
    depth: int = 100,
    most_queries: int = 2000,
) -> ByClass:
    """Group results by the class of the query.

    Labels are not made dense, so the memory is that of the results and of a few arrays (N,).

    Args:
        ranking: of Q queries and N items.
        precision: (Q,) average precision, nan for queries that do not count.
        query_labels: (Q, C) multi-hot, dense or sparse, or (Q,) class indices.
        database_labels: (N, C) or (N,), likewise.
        depth: number of first items whose classes are counted; of those at the last distance, the
            expectation over their order.
        most_queries: of more queries, evenly spaced ones are used for ``returned``.

    Raises:
        DataError: If the shapes do not match, or class indices are no integers from 0.

    Example:
        >>> codes = np.array([[0b00], [0b01], [0b11]], np.uint8) << 6
        >>> labels = np.eye(2, dtype=bool)[[0, 1, 1]]
        >>> ranking = Ranking(codes[:1], codes, labels[:1], labels, nbit=2)
        >>> by_class(ranking, [1.0], labels[:1], labels, depth=2).returned[0]
        array([0.5, 0.5])
    """
    query, items = sparse_labels(query_labels), sparse_labels(database_labels)
    scores = np.asarray(precision, float)
    classes = query.shape[1]
    if np.ndim(query_labels) == 1 and np.ndim(database_labels) == 1:
        classes = max(classes, items.shape[1])
        for labels in (query, items):
            labels.resize(labels.shape[0], classes)
    shapes = (ranking.queries, ranking.size)
    fits = (query.shape[0], items.shape[0]) == shapes and query.shape[1] == items.shape[1]
    if not fits or len(scores) != shapes[0]:
        raise DataError(
            f"labels {query.shape} and {items.shape} and precision {scores.shape} do not belong to "
            f"{shapes[0]} queries and {shapes[1]} items"
        )
    means, queries = class_means(scores, query)
    depth = min(depth, ranking.size)
    rows = np.arange(ranking.queries)
    if len(rows) > most_queries:
        rows = np.linspace(0, len(rows) - 1, most_queries).round().astype(int)
    sums, totals = np.zeros((classes, classes)), np.zeros(classes)
    for row in rows[np.diff(query.indptr)[rows] > 0]:
        own = query.indices[query.indptr[row] : query.indptr[row + 1]]
        weights = _first(ranking, row, depth)
        near = np.flatnonzero(weights)
        wrong = near[~ranking.relevant(row)[near]]
        sums[own] += items[wrong].T @ weights[wrong]
        sums[own, own] += (items[near].T @ weights[near])[own]
        totals[own] += 1
    with np.errstate(invalid="ignore"):
        returned = sums / (totals * depth)[:, None]
    return ByClass(means, queries, returned, depth, len(rows))


def class_means(precision: npt.ArrayLike, labels: Labels) -> tuple[Floats, Counts]:
    """Return the mean average precision of the queries of each class, and their number.

    Args:
        precision: (Q,) average precision, nan for queries that do not count.
        labels: (Q, C) multi-hot, dense or sparse, or (Q,) class indices; a query with several
            labels counts in each.

    Returns:
        The means, (C,), nan without queries that count; the numbers of these queries, (C,).

    Raises:
        DataError: If class indices are no integers from 0.

    Example:
        >>> class_means([1.0, 0.5, np.nan], np.eye(2, dtype=bool)[[0, 0, 1]])
        (array([0.75,  nan]), array([2, 0]))
        >>> class_means([1.0, 0.5, 0.0], [0, 0, 2])[1]
        array([2, 0, 1])
    """
    scores = np.asarray(precision, float)
    counted = np.isfinite(scores)
    members = sparse_labels(labels).T[:, np.flatnonzero(counted)]
    numbers = np.asarray(members.sum(axis=1, dtype=np.int64))
    with np.errstate(invalid="ignore"):
        return members @ scores[counted] / numbers, numbers


def sparse_labels(labels: Labels) -> "csr_array":
    """Return labels as sparse multi-hot rows, (n, C) bool; the argument stays as it is.

    Raises:
        DataError: If they are neither multi-hot rows nor class indices.
    """
    from scipy.sparse import csr_array, issparse  # late: slow to import

    if issparse(labels):
        rows = csr_array(labels, dtype=bool, copy=True)
        rows.sum_duplicates()
        rows.eliminate_zeros()
        return rows
    values: Any = np.asarray(labels)
    if values.ndim == 2:
        return csr_array(values.astype(bool, copy=False))
    if values.ndim != 1 or values.dtype.kind not in "iu" or (len(values) and values.min() < 0):
        raise DataError(
            f"labels {values.shape} {values.dtype} are neither multi-hot rows nor class indices"
            " from 0"
        )
    count = len(values)
    hot = np.ones(count, bool), values, np.arange(count + 1)
    return csr_array(hot, shape=(count, int(values.max(initial=-1)) + 1))


def _first(ranking: Ranking, query: int, depth: int) -> Floats:
    """Return the probability of each item to be among the first: (N,)."""
    distance, candidate = ranking.distances(query), np.zeros(ranking.size, bool)
    candidate[ranking.candidates(query)] = True
    counts = ranking.counts[0][query]
    before = np.cumsum(counts)
    last = int(np.searchsorted(before, depth))
    if last >= len(counts):  # fewer candidates than depth
        return candidate.astype(float)
    weights = (candidate & (distance < last)).astype(float)
    share = (depth - (before[last] - counts[last])) / counts[last]
    weights[candidate & (distance == last)] = share
    return weights
