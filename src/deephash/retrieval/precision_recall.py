"""Precision, recall and hit rate at a rank, and within a Hamming radius.

Values at a rank depend on the order of tied items; the default is the mean over all orders. Values
within a radius do not.

``Q`` queries, ``N`` database items, ``K`` bits, ``G`` groups of tied items.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from deephash.errors import DataError
from deephash.retrieval.backends import compiled_sums
from deephash.retrieval.checks import check_integer
from deephash.retrieval.codes import Array, Floats
from deephash.retrieval.conventions import TIES, needs_ranking
from deephash.retrieval.distance_counts import Histograms
from deephash.retrieval.metrics import WithinRadius, over_balls
from deephash.retrieval.ranking import Ranking
from deephash.retrieval.ties import (
    Groups,
    as_histograms,
    bounded,
    bounded_mean,
    checked_cuts,
    groups_of,
    mean,
    ratio,
)


class PrecisionRecall(NamedTuple):
    """Precision and recall within Hamming radius 0..K; independent of the order of ties.

    Macro: the mean over queries; precision is 0 if no item is within the radius, and recall is
    averaged over the queries that have relevant items. Micro: items of all queries together.

    Example:
        >>> hist = Histograms(np.array([[1, 2, 1]]), np.array([[1, 1, 0]]))
        >>> curve = pr_curve_by_radius(hist)
        >>> curve.precision_macro.round(4).tolist(), curve.recall_macro.tolist()
        ([1.0, 0.6667, 0.5], [0.5, 1.0, 1.0])
    """

    precision_macro: Floats  # (K + 1,)
    recall_macro: Floats  # (K + 1,)
    precision_micro: Floats  # (K + 1,)
    recall_micro: Floats  # (K + 1,)
    empty_fraction: Floats  # (K + 1,) share of queries without an item within the radius


class PrecisionRecallByRank(NamedTuple):
    """Precision and recall among the first items of the ranking, by their number.

    Precision is the mean over all queries, recall that over the queries that have relevant items.

    Example:
        >>> hist = Histograms(np.array([[1, 2, 1]]), np.array([[1, 1, 0]]))
        >>> curve = pr_curve_by_rank(hist)
        >>> curve.rank.tolist(), curve.precision.round(4).tolist(), curve.recall.tolist()
        ([1, 2, 3, 4], [1.0, 0.75, 0.6667, 0.5], [0.5, 0.75, 1.0, 1.0])
    """

    rank: npt.NDArray[np.int64]  # (ranks,)
    precision: Floats  # (ranks,)
    recall: Floats  # (ranks,)


def precision_at(
    measured: Histograms | Ranking, cuts: Sequence[int], ties: str = "expected"
) -> dict[int, float]:
    """Compute the share of relevant items among the first N, averaged over all queries, for each N.

    Args:
        measured: distance histograms, or a ranking.
        cuts: the N.
        ties: ``expected``, ``best``, ``worst``, or for a ranking ``stable``.

    Returns:
        N -> P@N.

    Raises:
        DataError: if an N is less than 1 or more than the database has, or ties are not allowed.

    Example:
        >>> hist = Histograms(np.array([[1, 2, 1]]), np.array([[1, 1, 0]]))
        >>> precision_at(hist, [1, 2, 4])  # the second item is relevant in half of the orders
        {1: 1.0, 2: 0.75, 4: 0.5}
    """
    hits, _ = _hits(measured, cuts, ties)
    return {cut: bounded_mean(hits_Q / cut) for cut, hits_Q in hits.items()}


def recall_at(
    measured: Histograms | Ranking, cuts: Sequence[int], ties: str = "expected"
) -> dict[int, float]:
    """Compute the share of the relevant items that are among the first N, for each N.

    The mean over queries that have relevant items; 0 if none has. ``Histograms.without_relevant``
    counts the others.

    Args:
        measured: distance histograms, or a ranking.
        cuts: the N.
        ties: ``expected``, ``best``, ``worst``, or for a ranking ``stable``.

    Returns:
        N -> recall@N.

    Raises:
        DataError: if an N is less than 1 or more than the database has, or ties are not allowed.

    Example:
        >>> hist = Histograms(np.array([[1, 2, 1]]), np.array([[1, 1, 0]]))
        >>> recall_at(hist, [1, 2], ties="best")
        {1: 0.5, 2: 1.0}
    """
    hits, total_Q = _hits(measured, cuts, ties)
    valid = total_Q > 0
    return {cut: bounded_mean(hits_Q[valid] / total_Q[valid]) for cut, hits_Q in hits.items()}


def hit_rate_at(
    measured: Histograms | Ranking, cuts: Sequence[int], ties: str = "expected"
) -> dict[int, float]:
    """Compute the probability that a relevant item is among the first N, for each N.

    The mean over all queries; 0 for a query without relevant items. Some code calls this recall@N.

    Args:
        measured: distance histograms, or a ranking.
        cuts: the N.
        ties: ``expected``, ``best``, ``worst``, or for a ranking ``stable``.

    Returns:
        N -> the hit rate.

    Raises:
        DataError: if an N is less than 1 or more than the database has, or ties are not allowed.

    Example:
        >>> one_of_four_all_tied = Histograms(np.array([[4]]), np.array([[1]]))
        >>> hit_rate_at(one_of_four_all_tied, [1, 3])
        {1: 0.25, 3: 0.75}
    """
    if ties == "stable" and isinstance(measured, Ranking):
        hits, _ = _hits(measured, cuts, ties)
        return {cut: mean(hits_Q > 0) for cut, hits_Q in hits.items()}
    groups = _groups(measured, ties)
    return {
        cut: bounded_mean(groups.hit(groups.at(cut)))
        for cut in checked_cuts(cuts, int(groups.ends[:, -1].min()))
    }


def precision_within_radius(hist: Histograms, radius: int = 2) -> WithinRadius:
    """Compute the share of relevant items among those at most ``radius`` bits away.

    Args:
        hist: distance histograms of the queries.
        radius: in bits; K or more includes the whole database.

    Returns:
        the mean with 0 for queries without such items, the mean without these queries, and their
        share.

    Raises:
        DataError: if the radius is no integer of at least 0.

    Example:
        >>> hist = Histograms(np.array([[1, 2], [0, 3]]), np.array([[1, 1], [0, 1]]))
        >>> precision_within_radius(hist, radius=0)
        WithinRadius(mean_zero=0.5, mean_nonempty=1.0, empty_fraction=0.5)
    """
    ball = check_integer("radius", radius, 0) + 1
    items_Q = hist.items[:, :ball].sum(axis=1)
    return over_balls(ratio(hist.relevant[:, :ball].sum(axis=1), items_Q), items_Q)


def recall_within_radius(hist: Histograms, radius: int = 2) -> float:
    """Compute the share of the relevant items that are at most ``radius`` bits away.

    The mean over queries that have relevant items; 0 if none has.

    Args:
        hist: distance histograms of the queries.
        radius: in bits; K or more includes the whole database.

    Raises:
        DataError: if the radius is no integer of at least 0.

    Example:
        >>> hist = Histograms(np.array([[1, 2, 1]]), np.array([[1, 1, 0]]))
        >>> recall_within_radius(hist, radius=0)
        0.5
    """
    hits_Q = hist.relevant[:, : check_integer("radius", radius, 0) + 1].sum(axis=1)
    total_Q = hist.relevant.sum(axis=1)
    return mean(hits_Q[total_Q > 0] / total_Q[total_Q > 0])


def pr_curve_by_radius(hist: Histograms) -> PrecisionRecall:
    """Compute precision and recall within Hamming radius 0 to K.

    Args:
        hist: distance histograms of the queries.

    Example:
        >>> hist = Histograms(np.array([[1, 2, 1]]), np.array([[1, 1, 0]]))
        >>> pr_curve_by_radius(hist).recall_micro.tolist()
        [0.5, 1.0, 1.0]
    """
    compiled = compiled_sums()
    if compiled and hist.items.dtype == hist.relevant.dtype == np.int64:
        sums = compiled.ball_sums(hist.items, hist.relevant)
        return PrecisionRecall(
            precision_macro=sums.precision / hist.queries,
            recall_macro=sums.recall / max(1, sums.answerable),
            precision_micro=ratio(sums.relevant, sums.items),
            recall_micro=ratio(sums.relevant, sums.relevant[-1]),
            empty_fraction=sums.empty / hist.queries,
        )
    items_QK, hits_QK = hist.items.cumsum(axis=1), hist.relevant.cumsum(axis=1)
    answerable = hits_QK[:, -1] > 0
    recall_QK = ratio(hits_QK[answerable], hits_QK[answerable, -1:])
    items_K, hits_K = items_QK.sum(axis=0), hits_QK.sum(axis=0)
    return PrecisionRecall(
        precision_macro=ratio(hits_QK, items_QK).mean(axis=0),
        recall_macro=recall_QK.mean(axis=0) if answerable.any() else np.zeros(hist.nbit + 1),
        precision_micro=ratio(hits_K, items_K),
        recall_micro=ratio(hits_K, hits_K[-1]),
        empty_fraction=(items_QK == 0).mean(axis=0),
    )


def pr_curve_by_rank(
    hist: Histograms, ranks: Sequence[int] | None = None, ties: str = "expected"
) -> PrecisionRecallByRank:
    """Compute precision and recall among the first items of the ranking, by their number.

    Args:
        hist: distance histograms of the queries.
        ranks: numbers of items; None for all, 1..N.
        ties: ``expected``, ``best`` or ``worst``.

    Raises:
        DataError: if a rank is less than 1 or more than the database has, or ties are not
            allowed.

    Example:
        >>> hist = Histograms(np.array([[1, 2, 1]]), np.array([[1, 1, 0]]))
        >>> pr_curve_by_rank(hist, ranks=[2, 4]).precision.tolist()
        [0.75, 0.5]
    """
    groups = _groups(hist, ties)
    if ranks is None:
        rank = np.arange(1, hist.size + 1)
    else:
        rank = np.array(checked_cuts(ranks, hist.size), dtype=np.int64)
    slope, total_Q = ratio(groups.relevant, groups.items), groups.hits_before[:, -1]
    valid = total_Q > 0
    hits = _sum_of_ramps(groups.starts, groups.ends, slope, rank)
    recall = _sum_of_ramps(
        groups.starts[valid], groups.ends[valid], slope[valid] / total_Q[valid, None], rank
    )
    return PrecisionRecallByRank(
        rank, bounded(hits / hist.queries / rank), bounded(recall / max(1, valid.sum()))
    )


def _sum_of_ramps(start: Array, end: Array, slope: Floats, place: Array) -> Floats:
    """Return the sum of ramps (Q, G) that rise by ``slope`` per place from start to end, by place.

    The sum is linear between the places where a ramp starts or ends.
    """
    at, which = np.unique(np.concatenate([[0], start.ravel(), end.ravel()]), return_inverse=True)
    bend = np.bincount(which[1:], np.concatenate([slope.ravel(), -slope.ravel()]), len(at))
    rise = bend.cumsum()[:-1] * np.diff(at)
    total: Floats = np.interp(place, at, np.concatenate([[0.0], rise.cumsum()]))
    return total


def _groups(measured: Histograms | Ranking, ties: str) -> Groups:
    if needs_ranking(ties) or ties not in TIES:
        raise DataError(
            f"ties={ties!r} is not available: histograms allow expected, best and worst; where a "
            "Ranking is accepted, also stable, for which Ranking.shuffled gives another order"
        )
    return groups_of(as_histograms(measured, ties))


def _hits(
    measured: Histograms | Ranking, cuts: Sequence[int], ties: str
) -> tuple[dict[int, Array], Array]:
    """Return the number of relevant items of each query (Q,) at each cut, and in all."""
    if ties != "stable" or not isinstance(measured, Ranking):
        groups = _groups(measured, ties)
        total_Q = groups.hits_before[:, -1]
        tops = checked_cuts(cuts, int(groups.ends[:, -1].min()))
        return dict(zip(tops, groups.hits_at(tops), strict=True)), total_Q
    tops = checked_cuts(cuts, int(measured.sizes.min()))
    farthest = max(tops, default=0)
    hits = np.array(measured.each(lambda place: np.searchsorted(place, tops), farthest)).T
    return dict(zip(tops, hits, strict=True)), measured.counts[1].sum(axis=1)
