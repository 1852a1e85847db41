"""What a ranking by Hamming distance is worth: average precision.

A Hamming distance takes K + 1 values, so most items are tied with others, and the order within a
tie, which is an accident, moves mAP by points. The default is therefore the exact mean over all
orders of the tied items, in closed form; :mod:`deephash.retrieval.ties` derives it.

``Q`` queries, ``R`` cut-off.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from deephash.errors import DataError
from deephash.retrieval.codes import Array, whole
from deephash.retrieval.conventions import DENOMINATORS, ORDERED, Convention
from deephash.retrieval.histograms import Histograms
from deephash.retrieval.ranking import Ranking
from deephash.retrieval.ties import (
    Floats,
    Groups,
    bounded,
    bounded_mean,
    groups_of,
    mean,
    ratio,
    settled,
)


class MapResult(NamedTuple):
    """A mean average precision, and how many queries it is silent about."""

    value: float  # 0 if no query is counted
    queries_counted: int
    queries_without_relevant: int  # in the whole database
    queries_without_hits: int  # among the first R; with expected ties, whatever their order


class WithinRadius(NamedTuple):
    """A mean over Hamming balls, under both conventions for balls without an item."""

    mean_zero: float  # an empty ball is worth 0
    mean_nonempty: float  # an empty ball is left out; 0 if all are empty
    empty_fraction: float


def average_precision(measured: Histograms | Ranking, convention: Convention) -> Floats:
    """AP@R of each query, 0 for those that find nothing.

    >>> two_hits_one_miss_all_tied = Histograms(np.array([[3]]), np.array([[2]]))
    >>> average_precision(two_hits_one_miss_all_tied, Convention()).round(4)  # 1, 5/6, 7/12
    array([0.8056])

    Args:
        measured: What the queries met. For the ties ``stable`` and ``shuffled`` it must be a
            ranking.
        convention: Which AP.

    Returns:
        (Q,) float64.

    Raises:
        DataError: if R is more than the database holds, or the order is asked of histograms.
    """
    (judged,) = _judge(measured, [convention])
    return bounded(judged.precision_Q)  # type: ignore[no-any-return]


def mean_average_precision(measured: Histograms | Ranking, convention: Convention) -> MapResult:
    """The mean of AP@R over the queries that the convention counts.

    Args:
        measured: What the queries met. For the ties ``stable`` and ``shuffled`` it must be a
            ranking.
        convention: Which mAP.

    Returns:
        The mean, and the numbers of queries behind it.

    Raises:
        DataError: if R is more than the database holds, or the order is asked of histograms.
    """
    (result,) = map_under(measured, [convention])
    return result


def mean_average_precisions(
    measured: Histograms | Ranking, convention: Convention, tops: Sequence[int | None]
) -> dict[int | None, MapResult]:
    """One mAP for each of several R, at little more than the price of one.

    >>> found_late = Histograms(np.array([[1, 3]]), np.array([[0, 3]]))
    >>> result = mean_average_precisions(found_late, Convention(denominator="min"), [1, 2, None])
    >>> {top: round(one.value, 4) for top, one in result.items()}
    {1: 0.0, 2: 0.25, None: 0.6389}

    Args:
        measured: What the queries met. For the ties ``stable`` and ``shuffled`` it must be a
            ranking.
        convention: Which mAP; its own ``top`` does not matter.
        tops: The R, None for all; ``drop_last`` touches no other.

    Returns:
        R -> the mean, and the numbers of queries behind it.

    Raises:
        DataError: if an R is no whole number of at least 1, more than the database holds, or
            forbidden by the convention, or the order is asked of histograms.
    """
    conventions = [
        replace(convention, top=top, drop_last=convention.drop_last and top is None) for top in tops
    ]
    return dict(zip(tops, map_under(measured, conventions), strict=True))


def map_under(measured: Histograms | Ranking, conventions: Sequence[Convention]) -> list[MapResult]:
    """One mAP for each of several conventions; those of one order of ties share its price.

    Args:
        measured: What the queries met. For the ties ``stable`` and ``shuffled`` it must be a
            ranking.
        conventions: Any.

    Raises:
        DataError: if an R is more than the database holds, or the order is asked of histograms.
    """
    orders: dict[tuple[str, int], list[int]] = {}
    for place, one in enumerate(conventions):
        orders.setdefault((one.ties, one.seed if one.ties == "shuffled" else 0), []).append(place)
    results: dict[int, MapResult] = {}
    for places in orders.values():
        alike = [conventions[place] for place in places]
        for place, judged in zip(places, _judge(measured, alike), strict=True):
            results[place] = _meaned(judged, measured, conventions[place])
    return [results[place] for place in range(len(conventions))]


def average_precision_within_radius(
    hist: Histograms, radius: int = 2, denominator: str = "hits"
) -> WithinRadius:
    """Average precision over the items at most ``radius`` bits away: the cut comes with the ball.

    The mean over all orders of ties. A ball that holds items but no relevant one is worth 0 in both
    means.

    Args:
        hist: What the queries met.
        radius: Of the ball; one of K or more holds the whole database.
        denominator: As of a :class:`Convention`; R is the number of items in the ball.

    Returns:
        The mean with empty balls as 0, the mean without them, and how many there are.

    Raises:
        DataError: if the radius is no whole number of at least 0, or the denominator unknown.
    """
    ball = checked_radius(radius) + 1
    if denominator not in DENOMINATORS:
        allowed = ", ".join(DENOMINATORS)
        raise DataError(f"denominator={denominator!r} is unknown; allowed: {allowed}")
    groups = Groups(hist.items[:, :ball], hist.relevant[:, :ball])
    items_Q, total_Q = groups.ends[:, -1], hist.relevant.sum(axis=1)
    by = _denominators(groups.found[:, -1], total_Q, items_Q)
    return over_balls(ratio(groups.sums[:, -1], by[denominator]), items_Q)


def over_balls(value_Q: Floats, items_Q: Array) -> WithinRadius:
    """The means of what balls are worth, with those that hold no item and without.

    Args:
        value_Q: 0 for an empty ball.
        items_Q: How many items each holds.
    """
    filled = items_Q > 0
    return WithinRadius(bounded_mean(value_Q), bounded_mean(value_Q[filled]), mean(~filled))


def checked_radius(radius: int) -> int:
    """The radius, once it is known to be one.

    Raises:
        DataError: if it is no whole number of at least 0.
    """
    if not whole(radius, least=0):
        raise DataError(f"radius={radius!r} must be a whole number of at least 0")
    return int(radius)


class _Judged(NamedTuple):
    precision_Q: Floats  # AP@R
    total_Q: Array  # T, relevant items in the database
    hits_Q: Array  # c_R; with expected ties, the most that an order can give


def _judge(measured: Histograms | Ranking, conventions: Sequence[Convention]) -> list[_Judged]:
    """Conventions of one order of ties."""
    ties = conventions[0].ties
    if ties not in ORDERED:
        hist = Histograms.of(measured) if isinstance(measured, Ranking) else measured
        return _judge_groups(settled(hist, ties), conventions)
    if not isinstance(measured, Ranking):
        raise DataError(
            f"ties={ties} needs the order of the database, which histograms forget: "
            "give the Ranking"
        )
    if ties == "shuffled":
        measured = measured.shuffled(conventions[0].seed)
    return _judge_order(measured, conventions)


def _judge_order(ranking: Ranking, conventions: Sequence[Convention]) -> list[_Judged]:
    """The definition itself, on the one order that the ranking has."""
    tops = [_cuts(convention, ranking.sizes) for convention in conventions]
    every, row = np.unique(tops), np.arange(ranking.queries)  # (R,), (Q,)

    def judge(position: Array) -> tuple[list[float], Array]:
        parts = np.arange(1, len(position) + 1) / (position + 1)
        found = np.searchsorted(position, every)
        return [float(parts[:hits].sum()) for hits in found], found

    judged = ranking.each(judge, int(every[-1]))
    sums, hits = (np.array(part) for part in zip(*judged, strict=True))  # (Q, R)
    total_Q = ranking.counts[1].sum(axis=1)
    results = []
    for top_Q, convention in zip(tops, conventions, strict=True):
        at = row, np.searchsorted(every, top_Q)
        by = _denominators(hits[at], total_Q, top_Q)[convention.denominator]
        results.append(_Judged(ratio(sums[at], by), total_Q, hits[at]))
    return results


def _judge_groups(hist: Histograms, conventions: Sequence[Convention]) -> list[_Judged]:
    """The mean over all orders within the groups of a histogram."""
    tops = [_cuts(convention, hist.sizes) for convention in conventions]
    groups = groups_of(hist)
    total_Q = groups.found[:, -1]
    judged = []
    for top_Q, convention in zip(tops, conventions, strict=True):
        cut = groups.at(top_Q)
        most_Q = cut.found + np.minimum(cut.relevant, cut.kept)
        if convention.denominator == "hits":
            precision_Q = groups.by_hits(cut)
        else:
            by = _denominators(most_Q, total_Q, top_Q)[convention.denominator]
            precision_Q = ratio(groups.summed(cut), by)
        judged.append(_Judged(precision_Q, total_Q, most_Q))
    return judged


def _cuts(convention: Convention, sizes: Array) -> Array:
    """R of each query, (Q,), for which so many items are ranked."""
    fewest = int(sizes.min())
    top = convention.cut(fewest)
    return top + (sizes - fewest) if convention.top is None else np.full_like(sizes, top)


def _meaned(judged: _Judged, measured: Histograms | Ranking, convention: Convention) -> MapResult:
    labelled = measured.labelled
    counted_Q = {
        "zero": np.ones(measured.queries, dtype=np.bool_),
        "skip_retrieved_none": judged.hits_Q > 0,
        "skip_no_relevant": judged.total_Q > 0,
        "skip_unlabelled": np.ones(measured.queries, np.bool_) if labelled is None else labelled,
    }[convention.empty]
    return MapResult(
        value=bounded_mean(judged.precision_Q[counted_Q]),
        queries_counted=int(counted_Q.sum()),
        queries_without_relevant=int((judged.total_Q == 0).sum()),
        queries_without_hits=int((judged.hits_Q == 0).sum()),
    )


def _denominators(hits_Q: Array, total_Q: Array, top_Q: Array) -> dict[str, Array]:
    return {
        "hits": hits_Q,
        "min": np.minimum(total_Q, top_Q),
        "total": total_Q,
        "R": top_Q,
    }
