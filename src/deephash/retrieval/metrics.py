"""Average precision of a ranking by Hamming distance.

A Hamming distance has K + 1 values, so most items are tied with others, and their order, which is
arbitrary, changes mAP by points. The default is therefore the exact mean over all orders
of the tied items, in closed form; :mod:`deephash.retrieval.ties` derives it.

``Q`` queries, ``R`` cut-off.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from deephash.retrieval.checks import check_choice, check_integer
from deephash.retrieval.codes import Array, Floats
from deephash.retrieval.conventions import DENOMINATORS, Convention, needs_ranking
from deephash.retrieval.distance_counts import Histograms
from deephash.retrieval.ranking import Ranking
from deephash.retrieval.ties import (
    Groups,
    as_histograms,
    as_ranking,
    bounded,
    bounded_mean,
    groups_of,
    mean,
    ratio,
)


class MapResult(NamedTuple):
    """A mean average precision, and the numbers of queries behind it.

    Example:
        >>> hist = Histograms(np.array([[1, 2, 1]]), np.array([[0, 0, 0]]))
        >>> mean_average_precision(hist, Convention(empty="skip_no_relevant")).queries_counted
        0
    """

    value: float  # 0 if no query is counted
    queries_counted: int
    queries_without_relevant: int  # in the whole database
    queries_without_hits: int  # among the first R; with expected ties, whatever their order


class WithinRadius(NamedTuple):
    """A mean over queries of a value within a radius, for both treatments of an empty ball.

    Example:
        >>> hist = Histograms(np.array([[1, 2], [0, 3]]), np.array([[1, 1], [0, 1]]))
        >>> average_precision_within_radius(hist, radius=0).empty_fraction
        0.5
    """

    mean_zero: float  # an empty ball is worth 0
    mean_nonempty: float  # an empty ball is left out; 0 if all are empty
    empty_fraction: float


def average_precision(measured: Histograms | Ranking, convention: Convention) -> Floats:
    """Compute AP@R of each query; 0 for queries without hits.

    Args:
        measured: distance histograms, or a ranking. For the ties ``stable`` and ``shuffled`` it
            must be a ranking.
        convention: the definition of AP.

    Returns:
        (Q,) float64.

    Raises:
        DataError: if R is more than the database has, or histograms are given for ties by order.

    Example:
        >>> two_hits_one_miss_all_tied = Histograms(np.array([[3]]), np.array([[2]]))
        >>> average_precision(two_hits_one_miss_all_tied, Convention()).round(4)  # 1, 5/6, 7/12
        array([0.8056])
    """
    (scores,) = _score(measured, [convention])
    return bounded(scores.precision_Q)  # type: ignore[no-any-return]


def counted_precision(measured: Histograms | Ranking, convention: Convention) -> Floats:
    """Compute AP@R of each query, and nan for those that the convention leaves out of the mean.

    The mean of the others is the mAP.

    Args:
        measured: as of :func:`average_precision`.
        convention: the definition of AP, and the queries that count.

    Returns:
        (Q,) float64.

    Example:
        >>> hist = Histograms(np.array([[1, 1], [1, 1]]), np.array([[1, 0], [0, 0]]))
        >>> counted_precision(hist, Convention(empty="skip_no_relevant"))
        array([ 1., nan])
    """
    (scores,) = _score(measured, [convention])
    counted_Q = _counted(scores, measured, convention)
    return np.where(counted_Q, bounded(scores.precision_Q), np.nan)


def mean_average_precision(measured: Histograms | Ranking, convention: Convention) -> MapResult:
    """Compute the mean of AP@R over the queries that the convention counts.

    Args:
        measured: as of :func:`average_precision`.
        convention: the definition of mAP.

    Returns:
        the mean, and the numbers of queries behind it.

    Raises:
        DataError: if R is more than the database has, or histograms are given for ties by order.

    Example:
        >>> hist = Histograms(np.array([[1, 2, 1]]), np.array([[1, 1, 0]]))
        >>> round(mean_average_precision(hist, Convention()).value, 4)  # 1 or (1 + 2/3) / 2
        0.9167
    """
    (result,) = map_under(measured, [convention])
    return result


def mean_average_precisions(
    measured: Histograms | Ranking, convention: Convention, tops: Sequence[int | None]
) -> dict[int | None, MapResult]:
    """Compute one mAP for each of several R, at little more than the cost of one.

    Args:
        measured: as of :func:`average_precision`.
        convention: the definition of mAP; its own ``top`` is ignored.
        tops: the R, None for all; ``drop_last`` applies to None only.

    Returns:
        R -> the mean, and the numbers of queries behind it.

    Raises:
        DataError: if an R is no integer of at least 1, more than the database has, or forbidden by
            the convention; or histograms are given for ties by order.

    Example:
        >>> hist = Histograms(np.array([[1, 3]]), np.array([[0, 3]]))
        >>> result = mean_average_precisions(hist, Convention(denominator="min"), [1, 2, None])
        >>> {top: round(each.value, 4) for top, each in result.items()}
        {1: 0.0, 2: 0.25, None: 0.6389}
    """
    conventions = [
        replace(convention, top=top, drop_last=convention.drop_last and top is None) for top in tops
    ]
    return dict(zip(tops, map_under(measured, conventions), strict=True))


def map_under(measured: Histograms | Ranking, conventions: Sequence[Convention]) -> list[MapResult]:
    """Compute one mAP for each of several conventions.

    Conventions with the same order of ties share its cost.

    Args:
        measured: as of :func:`average_precision`.
        conventions: any number.

    Returns:
        one result for each convention, in their order.

    Raises:
        DataError: if R is more than the database has, or histograms are given for ties by order.

    Example:
        >>> hist = Histograms(np.array([[1, 2, 1]]), np.array([[1, 1, 0]]))
        >>> results = map_under(hist, [Convention(ties="best"), Convention(ties="worst")])
        >>> [round(result.value, 4) for result in results]
        [1.0, 0.8333]
    """
    orders: dict[tuple[str, int], list[int]] = {}
    for index, convention in enumerate(conventions):
        seed = convention.seed if convention.ties == "shuffled" else 0
        orders.setdefault((convention.ties, seed), []).append(index)
    results: dict[int, MapResult] = {}
    for indices in orders.values():
        scores = _score(measured, [conventions[index] for index in indices])
        for index, score in zip(indices, scores, strict=True):
            counted_Q = _counted(score, measured, conventions[index])
            results[index] = MapResult(
                value=bounded_mean(score.precision_Q[counted_Q]),
                queries_counted=int(counted_Q.sum()),
                queries_without_relevant=int((score.total_Q == 0).sum()),
                queries_without_hits=int((score.hits_Q == 0).sum()),
            )
    return [results[index] for index in range(len(conventions))]


def average_precision_within_radius(
    hist: Histograms, radius: int = 2, denominator: str = "hits"
) -> WithinRadius:
    """Compute the average precision over the items at most ``radius`` bits away.

    The mean over all orders of ties. A query that has items, but no relevant one, within the radius
    counts as 0 in both means.

    Args:
        hist: distance histograms of the queries.
        radius: in bits; K or more includes the whole database.
        denominator: as of a :class:`Convention`; R is the number of items within the radius.

    Returns:
        the mean with 0 for queries without items, the mean without these queries, and their share.

    Raises:
        DataError: if the radius is no integer of at least 0, or the denominator unknown.

    Example:
        >>> hist = Histograms(np.array([[1, 2, 1]]), np.array([[1, 1, 0]]))
        >>> round(average_precision_within_radius(hist, radius=1).mean_zero, 4)
        0.9167
    """
    ball = check_integer("radius", radius, 0) + 1
    check_choice("denominator", denominator, DENOMINATORS)
    groups = Groups(hist.items[:, :ball], hist.relevant[:, :ball])
    items_Q, total_Q = groups.ends[:, -1], hist.relevant.sum(axis=1)
    by = _denominators(groups.hits_before[:, -1], total_Q, items_Q)
    return over_balls(ratio(groups.sums[:, -1], by[denominator]), items_Q)


def over_balls(value_Q: Floats, items_Q: Array) -> WithinRadius:
    """Average values (Q,), 0 for queries without items, with and without these queries."""
    filled = items_Q > 0
    return WithinRadius(bounded_mean(value_Q), bounded_mean(value_Q[filled]), mean(~filled))


class _Scores(NamedTuple):
    precision_Q: Floats  # AP@R
    total_Q: Array  # T, relevant items in the database
    hits_Q: Array  # c_R; with expected ties, the most that an order can give


def _score(measured: Histograms | Ranking, conventions: Sequence[Convention]) -> list[_Scores]:
    """Score the queries under conventions with one order of ties."""
    ties, seed = conventions[0].ties, conventions[0].seed
    if needs_ranking(ties):
        return _score_order(as_ranking(measured, ties, seed), conventions)
    return _score_groups(as_histograms(measured, ties), conventions)


def _score_order(ranking: Ranking, conventions: Sequence[Convention]) -> list[_Scores]:
    """Apply the definition to the one order of the ranking."""
    tops = [_cuts(convention, ranking.sizes) for convention in conventions]
    cuts, row = np.unique(tops), np.arange(ranking.queries)  # (R,), (Q,)

    def score(position: Array) -> tuple[list[float], Array]:
        parts = np.arange(1, len(position) + 1) / (position + 1)
        hits = np.searchsorted(position, cuts)
        return [float(parts[:count].sum()) for count in hits], hits

    scores = ranking.each(score, int(cuts[-1]))
    sums, hits = (np.array(part) for part in zip(*scores, strict=True))  # (Q, R)
    total_Q = ranking.counts[1].sum(axis=1)
    results = []
    for top_Q, convention in zip(tops, conventions, strict=True):
        at = row, np.searchsorted(cuts, top_Q)
        by = _denominators(hits[at], total_Q, top_Q)[convention.denominator]
        results.append(_Scores(ratio(sums[at], by), total_Q, hits[at]))
    return results


def _score_groups(hist: Histograms, conventions: Sequence[Convention]) -> list[_Scores]:
    """Compute the mean over all orders within the groups of a histogram."""
    tops = [_cuts(convention, hist.sizes) for convention in conventions]
    groups = groups_of(hist)
    total_Q = groups.hits_before[:, -1]
    results = []
    for top_Q, convention in zip(tops, conventions, strict=True):
        cut = groups.at(top_Q)
        most_Q = cut.hits_before + np.minimum(cut.relevant, cut.kept)
        if convention.denominator == "hits":
            precision_Q = groups.by_hits(cut)
        else:
            by = _denominators(most_Q, total_Q, top_Q)[convention.denominator]
            precision_Q = ratio(groups.summed(cut), by)
        results.append(_Scores(precision_Q, total_Q, most_Q))
    return results


def _cuts(convention: Convention, sizes: Array) -> Array:
    """Return R of each query, (Q,), given the number of items that are ranked for it."""
    fewest = int(sizes.min())
    top = convention.cut(fewest)
    return top + (sizes - fewest) if convention.top is None else np.full_like(sizes, top)


def _counted(scores: _Scores, measured: Histograms | Ranking, convention: Convention) -> Array:
    """Return which queries count in the mean, (Q,) bool."""
    every = np.ones(measured.queries, dtype=np.bool_)
    return {
        "zero": every,
        "skip_retrieved_none": scores.hits_Q > 0,
        "skip_no_relevant": scores.total_Q > 0,
        "skip_unlabelled": every if measured.labelled is None else measured.labelled,
    }[convention.empty]


def _denominators(hits_Q: Array, total_Q: Array, top_Q: Array) -> dict[str, Array]:
    return {
        "hits": hits_Q,
        "min": np.minimum(total_Q, top_Q),
        "total": total_Q,
        "R": top_Q,
    }
