"""Retrieval by class: average precision of each class, and which classes its queries return."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from deephash.errors import DataError
from deephash.retrieval.codes import Counts
from deephash.retrieval.ranking import Ranking

Floats = npt.NDArray[np.float64]


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
    query_labels: npt.ArrayLike,
    database_labels: npt.ArrayLike,
    depth: int = 100,
    most_queries: int = 2000,
) -> ByClass:
    """Group results by the class of the query.

    Args:
        ranking: of Q queries and N items.
        precision: (Q,) average precision, nan for queries that do not count.
        query_labels: (Q, C) multi-hot.
        database_labels: (N, C) multi-hot.
        depth: number of first items whose classes are counted; of those at the last distance, the
            expectation over their order.
        most_queries: of more queries, evenly spaced ones are used for ``returned``.

    Raises:
        DataError: If the shapes do not match.

    Example:
        >>> codes = np.array([[0b00], [0b01], [0b11]], np.uint8) << 6
        >>> labels = np.eye(2, dtype=bool)[[0, 1, 1]]
        >>> ranking = Ranking(codes[:1], codes, labels[:1], labels, nbit=2)
        >>> by_class(ranking, [1.0], labels[:1], labels, depth=2).returned[0]
        array([0.5, 0.5])
    """
    query, items = np.asarray(query_labels, bool), np.asarray(database_labels, bool)
    scores = np.asarray(precision, float)
    shapes = (ranking.queries, ranking.size)
    if (len(query), len(items)) != shapes or len(scores) != shapes[0] or query.ndim != 2:
        raise DataError(
            f"labels {query.shape} and {items.shape} and precision {scores.shape} do not belong to "
            f"{shapes[0]} queries and {shapes[1]} items"
        )
    classes = query.shape[1]
    means, queries = class_means(scores, query)
    depth = min(depth, ranking.size)
    rows = np.arange(ranking.queries)
    if len(rows) > most_queries:
        rows = np.linspace(0, len(rows) - 1, most_queries).round().astype(int)
    sums, totals = np.zeros((classes, classes)), np.zeros(classes)
    for row in rows[query[rows].any(axis=1)]:
        own, relevant = np.flatnonzero(query[row]), ranking.relevant(row)
        weights = _first(ranking, row, depth)
        near = np.flatnonzero(weights)
        wrong = near[~relevant[near]]
        sums[own] += weights[wrong] @ items[wrong]
        sums[own, own] += weights[near] @ items[np.ix_(near, own)]
        totals[own] += 1
    with np.errstate(invalid="ignore"):
        returned = sums / (totals * depth)[:, None]
    return ByClass(means, queries, returned, depth, len(rows))


def class_means(precision: npt.ArrayLike, labels: npt.ArrayLike) -> tuple[Floats, Counts]:
    """Return the mean average precision of the queries of each class, and their number.

    Args:
        precision: (Q,) average precision, nan for queries that do not count.
        labels: (Q, C) multi-hot; a query with several labels counts in each.

    Returns:
        The means, (C,), nan without queries that count; the numbers of these queries, (C,).

    Example:
        >>> class_means([1.0, 0.5, np.nan], np.eye(2, dtype=bool)[[0, 0, 1]])
        (array([0.75,  nan]), array([2, 0]))
    """
    scores = np.asarray(precision, float)
    counted = np.isfinite(scores)
    members = np.asarray(labels, bool)[counted]
    numbers = members.sum(axis=0)
    with np.errstate(invalid="ignore"):
        return members.T @ scores[counted] / numbers, numbers


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
