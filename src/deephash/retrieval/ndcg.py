"""Graded relevance for several labels: ACG, DCG, NDCG and weighted mAP.

With s_i the labels that the i-th item shares with the query,

    ACG@k  = 1/k sum over i <= k of s_i
    DCG@k  = sum over i <= k of gain(s_i) / log2(1 + i), and NDCG@k its part of the best order's
    wMAP@k = the mean of ACG@i over those i <= k whose item is relevant

Each is the exact mean over all orders of the tied items, computed from sums by distance; or, with
``ordered``, the value for the order of the database. Järvelin & Kekäläinen, TOIS 2002;
the mean over ties: McSherry & Najork, ECIR 2008.

``Q`` queries, ``N`` database items, ``G`` groups of tied items, ``L`` levels of gain.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from deephash.errors import DataError
from deephash.retrieval.codes import Array, Floats
from deephash.retrieval.distance_counts import Histograms
from deephash.retrieval.ranking import Ranking
from deephash.retrieval.ties import Groups, bounded_mean, checked_cuts, mean, ratio

GAINS = ("exponential", "shared", "jaccard")

_BLOCK = 1 << 18  # items counted at once
_MOST_SHARED = 1000  # 2 to the power of more is no number any longer


@dataclass(frozen=True)
class GradedHistograms:
    """For each query, items and gains at each distance 0..K, in memory O(Q (K + L)).

    Made by :meth:`of`. With ``ordered`` the groups are not the distances, but each of the first
    places, and then all later ones together.

    Example:
        >>> codes = np.array([[0b00], [0b01], [0b11]], np.uint8) << 6
        >>> labels = np.array([[1, 1], [1, 1], [1, 0]])
        >>> ranking = Ranking(codes[:1], codes[1:], labels[:1], labels[1:], nbit=2)
        >>> graded = GradedHistograms.of(ranking, gain="shared")
        >>> graded.shared.tolist()  # labels in common at distance 0, 1 and 2
        [[0, 2, 1]]
    """

    counts: Histograms  # items and relevant items, (Q, G)
    shared: npt.NDArray[np.int64]  # (Q, G) sum of the labels shared
    gained: Floats  # (Q, G) sum of their gains
    level_gain: Floats  # (Q, L) gains above 0, falling; 0 where a query has fewer
    level_items: npt.NDArray[np.int64]  # (Q, L) items of the database with each
    gain: str = "exponential"
    ordered: int | None = None  # so many first places are in the database's order; None: none

    @property
    def queries(self) -> int:
        """Q."""
        return self.counts.queries

    @property
    def size(self) -> int:
        """As of :class:`Histograms`."""
        return self.counts.size

    @classmethod
    def of(cls, ranking: Ranking, gain: str = "exponential", ordered: int | None = None) -> Self:
        """Count items, relevant items and gains for each query of a ranking.

        Args:
            ranking: with multi-hot labels; with one class per item every gain is 0 or 1.
            gain: of an item that shares s labels, in DCG. ``exponential``: 2^s - 1; ``shared``: s;
                ``jaccard``: s, divided by the number of labels that query or item has.
            ordered: break ties by the order of the database, for so many first places: the largest
                cut that is needed. Takes memory O(Q ``ordered``).

        Raises:
            DataError: if the gain is unknown, or too large for a number, or more places are to be
                ordered than there are.
        """
        if gain not in GAINS:
            raise DataError(f"gain={gain!r} is unknown; allowed: {', '.join(GAINS)}")
        if ordered is not None:
            checked_cuts([ordered], int(ranking.sizes.min()))
        asked_Q, held_N = ranking.label_counts()
        if gain == "exponential" and min(asked_Q.max(), held_N.max()) > _MOST_SHARED:
            raise DataError(
                f"gain=exponential is too large for items that share more than {_MOST_SHARED} "
                "labels; try gain=shared"
            )
        width = ranking.nbit + 1 if ordered is None else ordered + 1
        counted = np.empty((3, ranking.queries, width), dtype=np.int64)
        gained_QG = np.empty((ranking.queries, width))
        levels = []
        step = _BLOCK if ordered is None else ranking.size  # an order is one of all items
        parts = [
            (ranking.part(start, start + step), held_N[start : start + step])
            for start in range(0, ranking.size, step)
        ]
        for query, asked in enumerate(asked_Q):
            grades = _Grades(int(asked), int(held_N.max()), gain)
            table = np.zeros(len(grades.shared) * width, dtype=np.int64)
            for part, held in parts:
                ranked = part.candidates(query)
                distance = part.distances(query)[ranked]
                group = distance if ordered is None else _places(distance, ordered)
                key = grades.of(part.shared(query)[ranked], held[ranked]) * width
                key += group
                table += np.bincount(key, minlength=len(table))
            joint = table.reshape(-1, width)  # items of each grade in each group
            counted[:, query] = (
                joint.sum(axis=0),
                (grades.shared > 0) @ joint,
                grades.shared @ joint,
            )
            gained_QG[query] = grades.gain @ joint
            levels.append(_falling(grades.gain, joint.sum(axis=1)))
        items_QG, relevant_QG, shared_QG = counted
        excluded = ranking.size - ranking.sizes
        hist = Histograms(items_QG, relevant_QG, ranking.labelled, excluded)
        gains, items = (_padded([level[side] for level in levels]) for side in (0, 1))
        return cls(hist, shared_QG, gained_QG, gains, items.astype(np.int64), gain, ordered)


def acg_at(graded: GradedHistograms, cuts: Sequence[int]) -> dict[int, float]:
    """Compute the mean number of labels that the first k items share with the query, for each k.

    The mean over all queries.

    Args:
        graded: of the queries, see :meth:`GradedHistograms.of`.
        cuts: the k.

    Raises:
        DataError: if a cut is less than 1, or more than the database or the ordered places have.

    Example:
        >>> codes = np.array([[0b00], [0b01], [0b11]], np.uint8) << 6
        >>> labels = np.array([[1, 1], [1, 1], [1, 0]])
        >>> ranking = Ranking(codes[:1], codes[1:], labels[:1], labels[1:], nbit=2)
        >>> acg_at(GradedHistograms.of(ranking), [1, 2])
        {1: 2.0, 2: 1.5}
    """
    items = graded.counts.items
    starts, each = items.cumsum(axis=1) - items, ratio(graded.shared, items)
    most_Q = each.max(axis=1)
    return {
        cut: bounded_mean((each * np.clip(cut - starts, 0, items)).sum(axis=1) / cut, most_Q)
        for cut in _cuts(graded, cuts)
    }


def dcg_at(graded: GradedHistograms, cuts: Sequence[int]) -> dict[int, float]:
    """Compute DCG@k, the gains of the first k items discounted by the logarithm of their rank.

    The mean over all queries.

    Args:
        graded: of the queries, see :meth:`GradedHistograms.of`.
        cuts: the k.

    Raises:
        DataError: if a cut is less than 1, or more than the database or the ordered places have.

    Example:
        >>> codes = np.array([[0b00], [0b01], [0b11]], np.uint8) << 6
        >>> labels = np.array([[1, 1], [1, 1], [1, 0]])
        >>> ranking = Ranking(codes[:1], codes[1:], labels[:1], labels[1:], nbit=2)
        >>> dcg_at(GradedHistograms.of(ranking), [1])  # 2^2 - 1
        {1: 3.0}
    """
    return {cut: mean(dcg_Q) for cut, (dcg_Q, _) in _dcg(graded, cuts).items()}


def ndcg_at(graded: GradedHistograms, cuts: Sequence[int], empty: str = "zero") -> dict[int, float]:
    """Compute DCG@k divided by the DCG@k of the best order of the whole database, for each k.

    Args:
        graded: of the queries, see :meth:`GradedHistograms.of`.
        cuts: the k.
        empty: queries without relevant items, whose best DCG is 0: ``zero`` counts them as 0,
            ``skip_no_relevant`` leaves them out.

    Raises:
        DataError: if a cut is less than 1, or more than the database or the ordered places have; or
            ``empty`` is neither.

    Example:
        >>> codes = np.array([[0b00], [0b01], [0b11]], np.uint8) << 6
        >>> labels = np.array([[1, 1], [1, 1], [1, 0]])
        >>> ranking = Ranking(codes[:1], codes[1:], labels[:1], labels[1:], nbit=2)
        >>> ndcg_at(GradedHistograms.of(ranking), [1, 2])
        {1: 1.0, 2: 1.0}
    """
    counted = _counted(graded, empty)
    return {
        cut: bounded_mean(ratio(dcg_Q, best_Q)[counted])
        for cut, (dcg_Q, best_Q) in _dcg(graded, cuts).items()
    }


def wmap_at(graded: GradedHistograms, cuts: Sequence[int], empty: str = "zero") -> dict[int, float]:
    """Compute the mean of ACG at the ranks of the relevant items among the first k, for each k.

    Divided by the number of those items, like ``hits``; with one label per item it is that mAP@k.

    Args:
        graded: of the queries, see :meth:`GradedHistograms.of`.
        cuts: the k.
        empty: queries without relevant items: ``zero`` counts them as 0, ``skip_no_relevant``
            leaves them out. A query that has some, but none among the first k, counts as 0.

    Raises:
        DataError: if a cut is less than 1, or more than the database or the ordered places have; or
            ``empty`` is neither.

    Example:
        >>> codes = np.array([[0b00], [0b01], [0b11]], np.uint8) << 6
        >>> labels = np.array([[1, 1], [1, 1], [1, 0]])
        >>> ranking = Ranking(codes[:1], codes[1:], labels[:1], labels[1:], nbit=2)
        >>> wmap_at(GradedHistograms.of(ranking), [2])  # (2 + 3 / 2) / 2
        {2: 1.75}
    """
    counted = _counted(graded, empty)
    groups = Groups(graded.counts.items, graded.counts.relevant, graded.shared)
    # given which places are relevant, none is worth more than its group's relevant items on average
    most_Q = ratio(graded.shared, graded.counts.relevant).max(axis=1)
    return {
        cut: bounded_mean(groups.by_hits(groups.at(cut))[counted], most_Q[counted])
        for cut in _cuts(graded, cuts)
    }


class _Grades:
    """The kinds of items that one query can meet, by what they share and, for Jaccard, hold."""

    shared: Array  # (grades,)
    gain: Floats  # (grades,)

    def __init__(self, asked: int, held: int, gain: str) -> None:
        self._sizes = held + 1 if gain == "jaccard" else 1
        grade = np.arange((min(asked, held) + 1) * self._sizes)
        self.shared = grade // self._sizes
        if gain == "jaccard":
            self.gain = ratio(self.shared, asked + grade % self._sizes - self.shared)
        else:
            self.gain = self.shared.astype(np.float64)
            if gain == "exponential":
                self.gain = np.exp2(self.gain) - 1

    def of(self, shared: Array, held: Array) -> npt.NDArray[np.int64]:
        """The grade of each item, from the labels it shares and has."""
        grade = shared.astype(np.int64)
        return grade if self._sizes == 1 else grade * self._sizes + held


def _places(distance: Array, ordered: int) -> npt.NDArray[np.int64]:
    """The rank of each item, from 0, equals in their order; ``ordered`` for all later ones."""
    place = np.full(len(distance), ordered, dtype=np.int64)
    place[np.argsort(distance, kind="stable")[:ordered]] = np.arange(ordered)
    return place


def _falling(gain: Floats, items: Array) -> tuple[Floats, Array]:
    """The gains above 0 that occur, from the highest, and how often each does."""
    order = np.argsort(-gain, kind="stable")
    order = order[(gain[order] > 0) & (items[order] > 0)]
    return gain[order], items[order]


def _padded(rows: list[Any]) -> Array:
    """Rows of different lengths, filled up with zeros."""
    padded = np.zeros((len(rows), max(map(len, rows))))
    for row, values in zip(padded, rows, strict=True):
        row[: len(values)] = values
    return padded


def _dcg(graded: GradedHistograms, cuts: Sequence[int]) -> dict[int, tuple[Floats, Floats]]:
    """DCG of each query (Q,) at each cut, and that of the best order."""
    tops = _cuts(graded, cuts)
    discount = 1 / np.log2(np.arange(2, max(tops, default=0) + 2))
    discounts = np.concatenate([[0.0], discount.cumsum()])  # of the first so many ranks

    def at(cut: int, items: Array, gain: Floats) -> Floats:
        ends = items.cumsum(axis=1)
        slots = discounts[np.minimum(ends, cut)] - discounts[np.minimum(ends - items, cut)]
        gains: Floats = (gain * slots).sum(axis=1)
        return gains

    mean_gain = ratio(graded.gained, graded.counts.items)
    return {
        cut: (
            at(cut, graded.counts.items, mean_gain),
            at(cut, graded.level_items, graded.level_gain),
        )
        for cut in tops
    }


def _counted(graded: GradedHistograms, empty: str) -> npt.NDArray[np.bool_]:
    if empty not in ("zero", "skip_no_relevant"):
        raise DataError(f"empty={empty!r} is unknown; allowed: zero, skip_no_relevant")
    counted: npt.NDArray[np.bool_] = (graded.counts.relevant.sum(axis=1) > 0) | (empty == "zero")
    return counted


def _cuts(graded: GradedHistograms, cuts: Sequence[int]) -> list[int]:
    tops = checked_cuts(cuts, graded.size)
    if graded.ordered is not None and max(tops, default=0) > graded.ordered:
        raise DataError(
            f"a cut of {max(tops)} needs more places than the ordered={graded.ordered} first ones"
        )
    return tops
