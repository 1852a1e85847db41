"""The metrics of Revisited Oxford and Paris: Radenovic et al., CVPR 2018.

Average precision by trapezoids, and precision up to the last relevant item. Junk must be removed
from the ranking, as an :class:`InstanceRanking` does.

``Q`` queries, ``G`` groups of tied items, ``T`` relevant items of a query.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from deephash.retrieval.checks import check_choice, check_integer
from deephash.retrieval.codes import Counts, Floats
from deephash.retrieval.conventions import TIES, needs_ranking
from deephash.retrieval.distance_counts import Histograms
from deephash.retrieval.ranking import Ranking
from deephash.retrieval.ties import (
    Groups,
    as_histograms,
    as_ranking,
    bounded,
    bounded_mean,
    ratio,
    reciprocals,
)

CUTS = (1, 5, 10)


class RevisitedResult(NamedTuple):
    """The means over the queries that have relevant items; 0 if there are none.

    Example:
        >>> revisited(Histograms(np.array([[3], [3]]), np.array([[3], [0]]))).queries_skipped
        1
    """

    map: float
    precision_at: dict[int, float]  # mP@k
    queries_counted: int
    queries_skipped: int  # those without relevant items


def revisited(
    measured: Histograms | Ranking,
    ties: str = "expected",
    seed: int = 0,
    cuts: Sequence[int] = CUTS,
) -> RevisitedResult:
    """Compute mAP by trapezoids and mP@k of one setup.

    Args:
        measured: distance histograms, or a ranking. For the ties ``stable`` and ``shuffled`` it
            must be a ranking.
        ties: ``expected``, exact; ``stable``, ``shuffled``; ``best`` and ``worst``, true bounds.
        seed: of ``shuffled``.
        cuts: the k. Those beyond the last relevant item are reduced to its place.

    Raises:
        DataError: if there is no such policy of ties, a k is no integer of at least 1, or
            histograms are given for ties by order.

    Example:
        >>> three_tied_two_of_them_relevant = Histograms(np.array([[3]]), np.array([[2]]))
        >>> result = revisited(three_tied_two_of_them_relevant, cuts=[1])  # + + -, + - +, - + +
        >>> round(result.map, 4), round(result.precision_at[1], 4)  # 1, 19/24, 5/12; and 1, 1, 0
        (0.7361, 0.6667)
    """
    scores = _score(measured, ties, seed, cuts)
    counted_Q = ~np.isnan(scores[0])
    average, *precise = (bounded_mean(values[counted_Q]) for values in scores)
    return RevisitedResult(
        map=average,
        precision_at=dict(zip(cuts, precise, strict=True)),
        queries_counted=int(counted_Q.sum()),
        queries_skipped=int((~counted_Q).sum()),
    )


def trapezoid_precision(
    measured: Histograms | Ranking, ties: str = "expected", seed: int = 0
) -> Floats:
    """Compute the average precision of each query by trapezoids; nan if nothing is relevant to it.

    The j-th relevant item (from 0), at the place p (from 0), contributes the mean of the
    precision before it and at it, (j / p + (j + 1) / (p + 1)) / 2, where j / p is 1 at the top.
    AP is the sum of the contributions, divided by T.

    Args:
        measured: distance histograms, or a ranking.
        ties: as of :func:`revisited`.
        seed: of ``shuffled``.

    Returns:
        (Q,) float64.

    Raises:
        DataError: as :func:`revisited`.

    Example:
        >>> trapezoid_precision(Histograms(np.array([[1, 1]]), np.array([[0, 1]])))  # second of two
        array([0.25])
    """
    return bounded(_score(measured, ties, seed, ())[0])  # type: ignore[no-any-return]


def _score(measured: Histograms | Ranking, ties: str, seed: int, cuts: Sequence[int]) -> Floats:
    """Return AP and the precision at each k, (1 + number of k, Q); nan where T = 0."""
    check_choice("ties", ties, TIES)
    check_integer("seed", seed, 0)
    for k in cuts:
        check_integer("cut", k, 1)
    if needs_ranking(ties):
        ranking = as_ranking(measured, ties, seed)
        return np.array(ranking.each(lambda place: _score_order(place, cuts))).T
    hist = as_histograms(measured, ties)
    return np.where(hist.relevant.sum(axis=1) > 0, _score_groups(hist, cuts), np.nan)


def _score_order(place: Counts, cuts: Sequence[int]) -> list[float]:
    """Return AP and the precision at each k, for the places (T,) of the relevant items."""
    if len(place) == 0:
        return [math.nan] * (1 + len(cuts))
    j = np.arange(len(place))
    before = np.where(place == 0, 1.0, j / np.maximum(place, 1))
    scores = [float((before + (j + 1) / (place + 1)).mean() / 2)]
    for k in cuts:
        until = min(k, int(place[-1]) + 1)
        scores.append(float(np.searchsorted(place, until) / until))
    return scores


def _score_groups(hist: Histograms, cuts: Sequence[int]) -> Floats:
    """Return the mean over all orders within the groups of a histogram: (1 + number of k, Q)."""
    groups = Groups(hist.items, hist.relevant)
    average_Q = ratio(groups.sums[:, -1] + _before(groups), 2 * groups.hits_before[:, -1])
    return np.stack([average_Q, *(_until_last(groups, k) for k in cuts)])


def _before(groups: Groups) -> Floats:
    """Return the expected sum over the relevant items of the precision just before each, (Q,).

    With N items before a group, A of them relevant, and r of its n items relevant: slot i, from 0,
    holds a relevant item with probability r / n, and given that, each of the i slots above it with
    probability (r - 1) / (n - 1). The precision before it is then (A + i (r - 1)/(n - 1)) / (N + i)
    on average, and by definition 1 if N + i = 0. With h = 1/N + ... + 1/(N + n - 1), a group gives

        r/n (A h + (r - 1)/(n - 1) (n - N h)),  and r/n (1 + (n - 1) (r - 1)/(n - 1)) = r^2/n

    if it is the first one, where N = A = 0.
    """
    N, A, n, r = groups.starts, groups.hits_before[:, :-1], groups.items, groups.relevant
    h = reciprocals(np.maximum(N - 1, 0), n)
    others = (r - 1) / np.maximum(n - 1, 1)
    later = A * h + others * (n - N * h)
    precision: Floats = (ratio(r, n) * np.where(N == 0, r, later)).sum(axis=1)
    return precision


def _until_last(groups: Groups, k: int) -> Floats:
    """Return the expected precision of the first min(k, L) items, L the last relevant place, (Q,).

    It is c_k / k if k <= L, with c_k relevant items among the first k; and T / L otherwise, where
    c_k = T. So E = E[c_k] / k + T sum over L < k of P(L) (1 / L - 1 / k). L lies in the last group
    with a relevant item: behind the N items before it, at slot x (from 1) of its n, which is the
    last of its r relevant ones with probability C(x - 1, r - 1) / C(n, r).
    """
    hits_Q = groups.hits(groups.at(k)) / k
    last_Q = groups.relevant.shape[1] - 1 - (groups.relevant > 0)[:, ::-1].argmax(axis=1)
    for query, last in enumerate(last_Q):
        N, n, r = (
            int(field[query, last]) for field in (groups.starts, groups.items, groups.relevant)
        )
        total = int(groups.hits_before[query, -1])
        for x in range(r, min(n, k - N) + 1 if r else 0):
            chance = math.comb(x - 1, r - 1) / math.comb(n, r)
            hits_Q[query] += total * chance * (1 / (N + x) - 1 / k)
    return hits_Q
