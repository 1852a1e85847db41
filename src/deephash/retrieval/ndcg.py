"""Graded relevance for several labels: ACG, DCG, NDCG and weighted mAP.

With s_i the labels that the i-th item shares with the query,

    ACG@k  = 1/k sum over i <= k of s_i
    DCG@k  = sum over i <= k of gain(s_i) / log2(1 + i); NDCG@k, divided by that of the best order
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
from deephash.retrieval.checks import check_choice
from deephash.retrieval.codes import Array, Floats
from deephash.retrieval.distance_counts import Histograms
from deephash.retrieval.ranking import Ranking
from deephash.retrieval.ties import Groups, bounded_mean, checked_cuts, mean, ratio

GAINS = ("exponential", "shared", "jaccard")

_BLOCK = 1 << 18  # items counted at once
_MOST_SHARED = 1000  # 2 to the power of more overflows


@dataclass(frozen=True)
class GradedHistograms:
    """Numbers of items and sums of gains at each distance 0..K, in memory O(Q (K + L)).

    Created by :meth:`of`. With ``ordered`` the groups are not the distances, but the first places
    one by one, and all later ones together.

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
    ordered: int | None = None  # number of first places in the order of the database

    @property
    def queries(self) -> int:
        """Q."""
        return self.counts.queries

    @property
    def size(self) -> int:
        """N, as of :class:`Histograms`."""
        return self.counts.size

    @classmethod
    def of(cls, ranking: Ranking, gain: str = "exponential", ordered: int | None = None) -> Self:
        """Count items, relevant items and gains for each query of a ranking.

        Args:
            ranking: with multi-hot labels; with one class per item every gain is 0 or 1.
            gain: of an item that shares s labels, in DCG. ``exponential``: 2^s - 1; ``shared``: s;
                ``jaccard``: s, divided by the number of labels that query or item has.
            ordered: number of first places, at least the largest cut, in which ties are broken by
                the order of the database. Takes memory O(Q ``ordered``).

        Raises:
            DataError: if the gain is unknown or overflows, or ``ordered`` is more than the
                database has.
        """
        check_choice("gain", gain, GAINS)
        if ordered is not None:
            checked_cuts([ordered], int(ranking.sizes.min()))
        query_labels, item_labels = ranking.label_counts()
        if gain == "exponential" and min(query_labels.max(), item_labels.max()) > _MOST_SHARED:
            raise DataError(
                f"gain=exponential is too large for items that share more than {_MOST_SHARED} "
                "labels; try gain=shared"
            )
        width = ranking.nbit + 1 if ordered is None else ordered + 1
        counted = np.empty((3, ranking.queries, width), dtype=np.int64)
        gained_QG = np.empty((ranking.queries, width))
        levels = []
        step = _BLOCK if ordered is None else ranking.size  # an order needs all items at once
        parts = [
            (ranking.part(start, start + step), item_labels[start : start + step])
            for start in range(0, ranking.size, step)
        ]
        for query, labels in enumerate(query_labels):
            grades = _Grades(int(labels), int(item_labels.max()), gain)
            table = np.zeros(len(grades.shared) * width, dtype=np.int64)
            for part, labels_of_items in parts:
                ranked = part.candidates(query)
                distance = part.distances(query)[ranked]
                group = distance if ordered is None else _places(distance, ordered)
                key = grades.of(part.shared(query)[ranked], labels_of_items[ranked]) * width + group
                table += np.bincount(key, minlength=len(table))
            joint = table.reshape(-1, width)  # items of each grade in each group
            counted[:, query] = (
                joint.sum(axis=0),
                (grades.shared > 0) @ joint,
                grades.shared @ joint,
            )
            gained_QG[query] = grades.gain @ joint
            levels.append(_descending_gains(grades.gain, joint.sum(axis=1)))
        items_QG, relevant_QG, shared_QG = counted
        excluded = ranking.size - ranking.sizes
        hist = Histograms(items_QG, relevant_QG, ranking.labelled, excluded)
        gains, items = map(_padded, zip(*levels, strict=True))
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
            leaves them out. A query with relevant items, but none among the first k, counts as 0.

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
    # given which places are relevant, none gains more than the mean relevant item of its group
    most_Q = ratio(graded.shared, graded.counts.relevant).max(axis=1)
    return {
        cut: bounded_mean(groups.by_hits(groups.at(cut))[counted], most_Q[counted])
        for cut in _cuts(graded, cuts)
    }


class _Grades:
    """Grades of items for one query, by their shared labels and, for Jaccard, all their labels."""

    shared: Array  # (grades,)
    gain: Floats  # (grades,)

    def __init__(self, query_labels: int, most_labels: int, gain: str) -> None:
        self._sizes = most_labels + 1 if gain == "jaccard" else 1
        grade = np.arange((min(query_labels, most_labels) + 1) * self._sizes)
        self.shared = grade // self._sizes
        if gain == "jaccard":
            self.gain = ratio(self.shared, query_labels + grade % self._sizes - self.shared)
        else:
            self.gain = self.shared.astype(np.float64)
            if gain == "exponential":
                self.gain = np.exp2(self.gain) - 1

    def of(self, shared: Array, labels: Array) -> npt.NDArray[np.int64]:
        """Return the grade of each item, given its numbers of shared labels and of all labels."""
        grade = shared.astype(np.int64)
        return grade if self._sizes == 1 else grade * self._sizes + labels


def _places(distance: Array, ordered: int) -> npt.NDArray[np.int64]:
    """Return the rank of each item from 0, ties in their order; ``ordered`` for all later ones."""
    place = np.full(len(distance), ordered, dtype=np.int64)
    place[np.argsort(distance, kind="stable")[:ordered]] = np.arange(ordered)
    return place


def _descending_gains(gain: Floats, items: Array) -> tuple[Floats, Array]:
    """Return the positive gains that occur, in descending order, and their numbers of items."""
    order = np.argsort(-gain, kind="stable")
    order = order[(gain[order] > 0) & (items[order] > 0)]
    return gain[order], items[order]


def _padded(rows: Sequence[Any]) -> Array:
    """Return rows of different lengths as a matrix, padded with zeros."""
    padded = np.zeros((len(rows), max(map(len, rows))))
    for row, values in zip(padded, rows, strict=True):
        row[: len(values)] = values
    return padded


def _dcg(graded: GradedHistograms, cuts: Sequence[int]) -> dict[int, tuple[Floats, Floats]]:
    """Return the DCG of each query (Q,) at each cut, and that of the best order."""
    tops = _cuts(graded, cuts)
    discount = 1 / np.log2(np.arange(2, max(tops, default=0) + 2))
    discounts = np.concatenate([[0.0], discount.cumsum()])  # sums over the first ranks

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
    """Return which queries count in the mean, (Q,)."""
    check_choice("empty", empty, ("zero", "skip_no_relevant"))
    counted: npt.NDArray[np.bool_] = (graded.counts.relevant.sum(axis=1) > 0) | (empty == "zero")
    return counted


def _cuts(graded: GradedHistograms, cuts: Sequence[int]) -> list[int]:
    tops = checked_cuts(cuts, graded.size)
    if graded.ordered is not None and max(tops, default=0) > graded.ordered:
        raise DataError(
            f"a cut of {max(tops)} needs more places than the first ordered={graded.ordered}"
        )
    return tops
