"""How much of what is found is relevant, and how much of what is relevant is found.

Precision, recall and hit rate at a rank, which ties touch, and within a Hamming ball, which they
cannot. What a rank is worth is by default the mean over all orders of the tied items.

``Q`` queries, ``N`` database items, ``K`` bits, ``G`` groups of tied items.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from deephash.errors import DataError
from deephash.retrieval.codes import Array
from deephash.retrieval.conventions import ORDERED, TIES
from deephash.retrieval.engines import numba_sums
from deephash.retrieval.histograms import Histograms
from deephash.retrieval.metrics import WithinRadius, checked_radius, over_balls
from deephash.retrieval.ranking import Ranking
from deephash.retrieval.ties import (
    Floats,
    Groups,
    bounded,
    bounded_mean,
    checked_cuts,
    groups_of,
    mean,
    ratio,
    settled,
)


class PrecisionRecall(NamedTuple):
    """Precision and recall of the Hamming balls of radius 0..K; no tie can touch them.

    Macro: the mean over queries, an empty ball having precision 0, and recall over the queries that
    have relevant items. Micro: all balls poured together.
    """

    precision_macro: Floats  # (K + 1,)
    recall_macro: Floats  # (K + 1,)
    precision_micro: Floats  # (K + 1,)
    recall_micro: Floats  # (K + 1,)
    empty_fraction: Floats  # (K + 1,) queries whose ball holds nothing


class PrecisionRecallByRank(NamedTuple):
    """Precision and recall of the first so many items.

    The mean over all queries, and over those that have relevant items.
    """

    rank: npt.NDArray[np.int64]  # (ranks,)
    precision: Floats  # (ranks,)
    recall: Floats  # (ranks,)


def precision_at(
    measured: Histograms | Ranking, cuts: Sequence[int], ties: str = "expected"
) -> dict[int, float]:
    """The part of the first N items that is relevant, meaned over all queries, for each N.

    Args:
        measured: What the queries met.
        cuts: The N.
        ties: ``expected``, ``best``, ``worst``, or of a ranking ``stable``.

    Returns:
        N -> P@N.

    Raises:
        DataError: if an N is less than 1 or more than the database holds, or ties are not allowed.
    """
    hits, _ = _found(measured, cuts, ties)
    return {cut: bounded_mean(hits_Q / cut) for cut, hits_Q in hits.items()}


def recall_at(
    measured: Histograms | Ranking, cuts: Sequence[int], ties: str = "expected"
) -> dict[int, float]:
    """The part of the relevant items that is among the first N, for each N.

    The mean over queries that have relevant items; 0 if none has. How many have none is
    ``Histograms.without_relevant``.

    Args:
        measured: What the queries met.
        cuts: The N.
        ties: ``expected``, ``best``, ``worst``, or of a ranking ``stable``.

    Returns:
        N -> recall@N.

    Raises:
        DataError: if an N is less than 1 or more than the database holds, or ties are not allowed.
    """
    hits, total_Q = _found(measured, cuts, ties)
    some = total_Q > 0
    return {cut: bounded_mean(hits_Q[some] / total_Q[some]) for cut, hits_Q in hits.items()}


def hit_rate_at(
    measured: Histograms | Ranking, cuts: Sequence[int], ties: str = "expected"
) -> dict[int, float]:
    """How probable it is that the first N items hold a relevant one, meaned over all queries.

    A query without relevant items has 0. Some code calls this recall@N.

    >>> one_of_four_all_tied = Histograms(np.array([[4]]), np.array([[1]]))
    >>> hit_rate_at(one_of_four_all_tied, [1, 3])
    {1: 0.25, 3: 0.75}

    Args:
        measured: What the queries met.
        cuts: The N.
        ties: ``expected``, ``best``, ``worst``, or of a ranking ``stable``.

    Returns:
        N -> the hit rate.

    Raises:
        DataError: if an N is less than 1 or more than the database holds, or ties are not allowed.
    """
    if ties == "stable" and isinstance(measured, Ranking):
        hits, _ = _found(measured, cuts, ties)
        return {cut: mean(hits_Q > 0) for cut, hits_Q in hits.items()}
    groups = _groups(measured, ties)
    return {
        cut: bounded_mean(groups.hit(groups.at(cut)))
        for cut in checked_cuts(cuts, int(groups.ends[:, -1].min()))
    }


def precision_within_radius(hist: Histograms, radius: int = 2) -> WithinRadius:
    """The part of the items at most ``radius`` bits away that is relevant.

    Args:
        hist: What the queries met.
        radius: Of the ball; one of K or more holds the whole database.

    Returns:
        The mean with empty balls as 0, the mean without them, and how many there are.

    Raises:
        DataError: if the radius is no whole number of at least 0.
    """
    ball = checked_radius(radius) + 1
    items_Q = hist.items[:, :ball].sum(axis=1)
    return over_balls(ratio(hist.relevant[:, :ball].sum(axis=1), items_Q), items_Q)


def recall_within_radius(hist: Histograms, radius: int = 2) -> float:
    """The part of the relevant items that is at most ``radius`` bits away.

    The mean over queries that have relevant items; 0 if none has.

    Args:
        hist: What the queries met.
        radius: Of the ball; one of K or more holds the whole database.

    Raises:
        DataError: if the radius is no whole number of at least 0.
    """
    hits_Q = hist.relevant[:, : checked_radius(radius) + 1].sum(axis=1)
    total_Q = hist.relevant.sum(axis=1)
    return mean(hits_Q[total_Q > 0] / total_Q[total_Q > 0])


def pr_curve_by_radius(hist: Histograms) -> PrecisionRecall:
    """Precision and recall as the Hamming ball grows from radius 0 to K."""
    compiled = numba_sums()
    if compiled and hist.items.dtype == hist.relevant.dtype == np.int64:
        sums = compiled.ball_sums(hist.items, hist.relevant)
        return PrecisionRecall(
            precision_macro=sums.precision / hist.queries,
            recall_macro=sums.recall / max(1, sums.some),
            precision_micro=ratio(sums.relevant, sums.items),
            recall_micro=ratio(sums.relevant, sums.relevant[-1]),
            empty_fraction=sums.empty / hist.queries,
        )
    items_QK, hits_QK = hist.items.cumsum(axis=1), hist.relevant.cumsum(axis=1)
    some = hits_QK[:, -1] > 0
    recall_QK = ratio(hits_QK[some], hits_QK[some, -1:])
    items_K, hits_K = items_QK.sum(axis=0), hits_QK.sum(axis=0)
    return PrecisionRecall(
        precision_macro=ratio(hits_QK, items_QK).mean(axis=0),
        recall_macro=recall_QK.mean(axis=0) if some.any() else np.zeros(hist.nbit + 1),
        precision_micro=ratio(hits_K, items_K),
        recall_micro=ratio(hits_K, hits_K[-1]),
        empty_fraction=(items_QK == 0).mean(axis=0),
    )


def pr_curve_by_rank(
    hist: Histograms, ranks: Sequence[int] | None = None, ties: str = "expected"
) -> PrecisionRecallByRank:
    """Precision and recall as the list of retrieved items grows.

    Args:
        hist: What the queries met.
        ranks: Its lengths; None for all, 1..N.
        ties: ``expected``, ``best`` or ``worst``.

    Raises:
        DataError: if a rank is less than 1 or more than the database holds, or ties are not
            allowed.
    """
    groups = _groups(hist, ties)
    every = range(1, hist.size + 1)
    rank = np.array(every if ranks is None else checked_cuts(ranks, hist.size), dtype=np.int64)
    slope, total_Q = ratio(groups.relevant, groups.items), groups.found[:, -1]
    some = total_Q > 0
    hits = _risen(groups.starts, groups.ends, slope, rank)
    recall = _risen(groups.starts[some], groups.ends[some], slope[some] / total_Q[some, None], rank)
    return PrecisionRecallByRank(
        rank, bounded(hits / hist.queries / rank), bounded(recall / max(1, some.sum()))
    )


def _risen(start: Array, end: Array, slope: Floats, place: Array) -> Floats:
    """The sum of lines (Q, G) that rise by ``slope`` a place from start to end, at each place.

    The sum is itself made of straight pieces between the places where a line starts or ends.
    """
    at, which = np.unique(np.concatenate([[0], start.ravel(), end.ravel()]), return_inverse=True)
    bend = np.bincount(which[1:], np.concatenate([slope.ravel(), -slope.ravel()]), len(at))
    rise = bend.cumsum()[:-1] * np.diff(at)
    return np.interp(place, at, np.concatenate([[0.0], rise.cumsum()]))


def _groups(measured: Histograms | Ranking, ties: str) -> Groups:
    if ties in ORDERED or ties not in TIES:
        raise DataError(
            f"ties={ties!r}: histograms can tell expected, best and worst; a Ranking, where it is "
            "taken, also stable, after Ranking.shuffled if you like"
        )
    hist = Histograms.of(measured) if isinstance(measured, Ranking) else measured
    return groups_of(settled(hist, ties))


def _found(
    measured: Histograms | Ranking, cuts: Sequence[int], ties: str
) -> tuple[dict[int, Array], Array]:
    """The relevant items of each query (Q,) among the first of each cut, and among all."""
    if ties != "stable" or not isinstance(measured, Ranking):
        groups = _groups(measured, ties)
        total_Q = groups.found[:, -1]
        tops = checked_cuts(cuts, int(groups.ends[:, -1].min()))
        return dict(zip(tops, groups.hits_at(tops), strict=True)), total_Q
    tops = checked_cuts(cuts, int(measured.sizes.min()))
    farthest = max(tops, default=0)
    hits = np.array(measured.each(lambda place: np.searchsorted(place, tops), farthest)).T
    return dict(zip(tops, hits, strict=True)), measured.counts[1].sum(axis=1)
