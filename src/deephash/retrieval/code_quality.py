"""Code quality: quantization error, separation of classes, and use of the bits.

The measures of the RelaHash paper (Minh et al., IEEE Access 2023), Eqs. 19 to 23, and others that
detect collapsed codes. All of them describe one set of codes; in the paper it is the database.

``N`` items, ``K`` bits, ``C`` classes, ``G`` groups of items with exactly the same labels, ``W``
machine words per code or label row. Two items are similar if they share at least one label, as in
:class:`Ranking`; an item without labels is similar to none.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from deephash.errors import DataError
from deephash.retrieval.backends import Engine
from deephash.retrieval.checks import check_choice, check_integer
from deephash.retrieval.codes import (
    Array,
    ArrayLike,
    Counts,
    Floats,
    as_words,
    bit_matrix,
    differing,
    pack,
    signed_codes,
)
from deephash.retrieval.packed_codes import class_marks, label_array, label_marks
from deephash.retrieval.ranking import Ranking
from deephash.retrieval.ties import bounded, bounded_mean

_BLOCK = 1 << 18  # entries or pairs processed at once
_DRAWN = 1 << 20  # pairs drawn at once
_QUERIES = 1 << 12  # items compared with all others at once


class UndefinedError(DataError):
    """A measure is not defined for these codes, although they are valid.

    Example:
        >>> one_class = np.array([0, 0])
        >>> separability(np.array([[True], [False]]), one_class)
        Traceback (most recent call last):
        deephash.retrieval.code_quality.UndefinedError: ...
    """


class QuantizationError(NamedTuple):
    """The distance of real-valued codes from their bits, in the three forms of the RelaHash paper.

    Example:
        >>> quantization_error(np.array([[1.0, -1.0]])).l2
        0.0
    """

    l2: float  # Eq. 19: the mean distance
    squared_l2: float  # Eq. 20: the mean squared distance
    degrees: float | None  # Eq. 21: the mean angle; None if all codes are zero vectors
    zero_codes: int  # zero vectors, which have no angle and are left out of its mean


class Orthogonality(NamedTuple):
    """The distance of the class centers from being orthogonal, and the number of classes.

    Example:
        >>> orthogonality(np.array([[True, True], [True, False]]), np.array([0, 1]))
        Orthogonality(value=0.0, classes=2, empty_classes=0)
    """

    value: float
    classes: int  # C, those that have items
    empty_classes: int  # left out


class Separability(NamedTuple):
    """The difference of the mean distances of dissimilar and of similar items, in bits.

    Example:
        >>> bits = np.array([[True, True], [True, True], [False, True], [False, False]])
        >>> labels = np.array([0, 0, 1, 1])
        >>> separability(bits, labels).inter_pairs
        4
    """

    value: float  # inter - intra
    inter: float  # the mean distance of dissimilar items
    intra: float  # of similar ones
    inter_pairs: int  # unordered pairs of dissimilar items
    intra_pairs: int  # of similar ones
    classes_left_out: int  # by macro: without a pair of either kind; by micro none


class DistanceHistograms(NamedTuple):
    """The share of pairs at each distance 0..K, of similar and of dissimilar pairs.

    Example:
        >>> bits = np.array([[True, True], [True, True], [False, True], [False, False]])
        >>> labels = np.array([0, 0, 1, 1])
        >>> distances = distance_histograms(bits, labels)
        >>> distances.intra.tolist(), distances.inter.tolist(), distances.separability
        ([0.5, 0.5, 0.0], [0.0, 0.5, 0.5], 1.0)
    """

    intra: Floats  # (K + 1,) sums to 1
    inter: Floats  # (K + 1,) sums to 1
    intra_pairs: int  # counted
    inter_pairs: int  # counted
    seed: int | None  # of the sample; None: all pairs are counted

    @property
    def exact(self) -> bool:
        """Whether every pair was counted."""
        return self.seed is None

    @property
    def separability(self) -> float:
        """The difference of their means, Eq. 23: exact if the histograms are."""
        return float((self.inter - self.intra) @ np.arange(len(self.intra)))


class PairDistances(NamedTuple):
    """Hamming distances of pairs of items, independent of their labels.

    Example:
        >>> pair_distances(np.array([[True, True], [False, False]])).share.tolist()
        [0.0, 0.0, 1.0]
    """

    share: Floats  # (K + 1,) the share of pairs at each distance 0..K; sums to 1
    mean: float  # in bits, over all pairs, also where the shares are of a sample
    pairs: int  # unordered pairs behind the shares
    seed: int | None  # of the sample; None: all pairs are counted


class BitStatistics(NamedTuple):
    """Statistics of the bits of a set of codes.

    Example:
        >>> bit_statistics(np.array([[True, True], [False, True]])).dead_bits
        1
    """

    balance: float  # the mean share of ones: 1/2 if there are as many zeros
    imbalance: float  # the mean over bits of |p - 1/2|: 0 if each is balanced, 1/2 if all are dead
    entropy: float  # in bits, the mean over bits: at most 1
    dead_bits: int  # bits that never change
    distinct_codes: int
    ones: Floats  # (K,) p, the share of ones in each bit
    entropies: Floats  # (K,) of each bit


def quantization_error(z: ArrayLike) -> QuantizationError:
    """Compute the distance between codes z and their bits h = sgn(z); RelaHash, Eqs. 19 to 21.

    Eq. 19 is the mean over items of ||z - h||, Eq. 20 of its square, Eq. 21 of the angle between z
    and h (the mean of the angles, not the angle of the mean cosine). None is divided by K; sgn(0) =
    1. z is the input of the sign: with the paper's head, the output of batch normalisation.

    Args:
        z: (N, K) signed numbers.

    Returns:
        the three errors: the first two in units of z, the last in degrees.

    Raises:
        DataError: as ``binarize``, or if a code is infinite, or there are none.

    Example:
        >>> error = quantization_error(np.array([[1.0, -1.0], [4.0, -5.0]]))  # the second: 3 and 4
        >>> error.l2, error.squared_l2, round(error.degrees, 3)
        (2.5, 12.5, 3.17)
    """
    values = signed_codes(z)
    size, nbit = values.shape
    _check_size(size, 1)
    l2 = squared = degrees = 0.0
    zeros = 0
    step = max(1, _BLOCK // nbit)
    for start in range(0, size, step):
        length = np.abs(values[start : start + step].astype(np.float64))
        largest = length.max(axis=1, keepdims=True)
        if np.isinf(largest).any():
            raise UndefinedError(
                "codes contain infinite values, which are infinitely far from any bits"
            )
        error = np.square(length - 1).sum(axis=1)
        l2 += float(np.sqrt(error).sum())
        squared += float(error.sum())
        length = length[largest[:, 0] > 0] / largest[largest[:, 0] > 0]
        zeros += len(largest) - len(length)
        # components along the vector of ones and orthogonal to it
        along = length.mean(axis=1, keepdims=True)
        across = np.linalg.norm(length - along, axis=1)
        degrees += float(np.degrees(np.arctan2(across, math.sqrt(nbit) * along[:, 0])).sum())
    angle = degrees / (size - zeros) if zeros < size else None
    return QuantizationError(l2 / size, squared / size, angle, zeros)


def orthogonality(bits: ArrayLike, labels: ArrayLike) -> Orthogonality:
    """Compute how far class centers are from orthogonal: ||H H^T / K - I||_F; RelaHash, Eq. 22.

    Row c of H, (C, K) of +1 and -1, is the sign of the mean code of the items with label c, and
    +1 where that is 0. The value is 0 if the centers are orthogonal, at least sqrt(C^2 / K - C),
    and about sqrt(C (C - 1) / K) for random centers.

    The paper's phrase, "correlation between any two bits", suggests H^T H, (K, K), instead. The
    difference is a constant: ||H^T H / K - I||^2 = ||H H^T / K - I||^2 + K - C. For the correlation
    of bits over items, see :func:`bit_correlation`.

    Args:
        bits: (N, K) bool.
        labels: (N, C) multi-hot, or (N,) class indices.

    Returns:
        the value, the number of classes it is computed from, and of those without an item; of class
        indices these are the ones below the largest.

    Raises:
        DataError: if bits or labels are malformed or contradict each other, or no item has a label.

    Example:
        >>> bits = np.array([[True, True], [True, True], [True, False]])
        >>> orthogonality(bits, np.array([0, 0, 1])).value
        0.0
    """
    ones = bit_matrix(bits, "bits")
    groups = _grouped(labels, len(ones), least=1)
    sizes_C, ones_CK = groups.by_class(groups.sizes, groups.ones(ones))
    present_C = sizes_C > 0
    classes, nbit = int(present_C.sum()), ones.shape[1]
    if classes == 0:
        raise UndefinedError("no item has a label: there are no class centers")
    centers_CK = np.where(2 * ones_CK[present_C] >= sizes_C[present_C, None], 1.0, -1.0)
    gram_KK = (centers_CK.T @ centers_CK).astype(np.int64)  # its norm is that of H H^T
    square = (int(np.square(gram_KK).sum()) - classes * nbit**2) / nbit**2
    return Orthogonality(math.sqrt(square), classes, groups.classes - classes)


def bit_correlation(bits: ArrayLike) -> float:
    """Compute the correlation of the bits over all items: ||H^T H / N - I||_F, 0 if there is none.

    H is (N, K), of +1 and -1, and not centred: two bits that never change are fully correlated.

    Args:
        bits: (N, K) bool.

    Returns:
        the norm, at most sqrt(K (K - 1)).

    Raises:
        DataError: if bits are malformed, or there are none.

    Example:
        >>> round(bit_correlation(np.array([[True, True], [False, False]])), 4)  # sqrt(2)
        1.4142
    """
    ones = bit_matrix(bits, "bits")
    size, nbit = ones.shape
    _check_size(size, 1)
    gram_KK = np.zeros((nbit, nbit))
    step = max(1, _BLOCK // nbit)
    for start in range(0, size, step):  # whole numbers below 2^24 are exact
        signs = np.where(ones[start : start + step], np.float32(1), np.float32(-1))
        gram_KK += signs.T @ signs
    np.fill_diagonal(gram_KK, 0)
    return float(np.linalg.norm(gram_KK / size))


def separability(bits: ArrayLike, labels: ArrayLike, average: str = "micro") -> Separability:
    """Compute the mean distance of dissimilar items minus that of similar ones; RelaHash, Eq. 23.

    It is computed for all unordered pairs of different items from counts of bits: of n items, m of
    which have a bit set, m (n - m) pairs differ in it. K / 2 for codes that are one Hadamard row
    per class.

    Args:
        bits: (N, K) bool.
        labels: (N, C) multi-hot, or (N,) class indices.
        average: ``micro``: every pair counts once. ``macro``: every class counts the same, with the
            mean distance between its items and that between its items and those
            dissimilar to them; classes without a pair of either kind are left out. With several
            labels a pair then counts for each class it belongs to.

    Returns:
        the difference and the two means, in bits, and the numbers of pairs.

    Raises:
        DataError: if bits or labels are malformed or contradict each other, ``average`` is unknown,
            or there is no pair of either kind.

    Example:
        >>> bits = np.array([[True, True], [True, True], [False, True], [False, False]])
        >>> labels = np.array([0, 0, 1, 1])
        >>> result = separability(bits, labels)
        >>> result.value, result.inter, result.intra
        (1.0, 1.5, 0.5)
    """
    check_choice("average", average, ("micro", "macro"))
    values = bit_matrix(bits, "bits")
    size = len(values)
    groups = _grouped(labels, size, least=2)
    sizes_G, ones_GK = groups.sizes, groups.ones(values)
    near_G, near_GK = groups.similar(sizes_G, ones_GK)
    total_K = ones_GK.sum(axis=0)

    pairs = size * (size - 1) // 2
    intra_pairs = int(sizes_G @ near_G - sizes_G[groups.labelled].sum()) // 2
    _check_both_kinds(intra_pairs, pairs - intra_pairs)
    if average == "micro":
        apart = int((ones_GK * (near_G[:, None] - near_GK)).sum())
        intra = apart / intra_pairs
        inter = (int((total_K * (size - total_K)).sum()) - apart) / (pairs - intra_pairs)
        return Separability(inter - intra, inter, intra, pairs - intra_pairs, intra_pairs, 0)

    far_G, far_GK = size - near_G, total_K - near_GK
    apart_G = (ones_GK * (far_G[:, None] - far_GK) + (sizes_G[:, None] - ones_GK) * far_GK).sum(1)
    sizes_C, ones_CK = groups.by_class(sizes_G, ones_GK)
    far_C, apart_C = groups.by_class(sizes_G * far_G, apart_G[:, None])
    intra_C = (ones_CK * (sizes_C[:, None] - ones_CK)).sum(axis=1)
    within_C = sizes_C * (sizes_C - 1) // 2
    both_C = (within_C > 0) & (far_C > 0)  # not empty: pairs of both kinds exist
    intra = float((intra_C[both_C] / within_C[both_C]).mean())
    inter = float((apart_C[both_C, 0] / far_C[both_C]).mean())
    left_out = groups.classes - int(both_C.sum())
    return Separability(inter - intra, inter, intra, pairs - intra_pairs, intra_pairs, left_out)


def distance_histograms(
    bits: ArrayLike,
    labels: ArrayLike,
    *,
    exact_up_to: int = 200_000,
    sample: int = 10_000_000,
    seed: int = 0,
    engine: Engine | str = "auto",
) -> DistanceHistograms:
    """Count the distances between similar and between dissimilar items; RelaHash, Fig. 13.

    All unordered pairs of different items are counted, in time O(N^2) and memory O(N K). Of more
    than ``exact_up_to`` items, a sample with replacement: ``sample`` pairs, uniformly drawn, of
    which the dissimilar ones count, and the similar ones as well if items have several
    labels; if they have one, ``sample`` similar pairs are drawn separately, as there may be few.

    Args:
        bits: (N, K) bool.
        labels: (N, C) multi-hot, or (N,) class indices.
        exact_up_to: the largest number of items of which all pairs are counted.
        sample: number of pairs to draw if there are more items.
        seed: of the sample.
        engine: the backend that counts all pairs.

    Returns:
        both histograms, each with the sum 1, the numbers of their pairs, and the seed if sampled.

    Raises:
        DataError: if bits or labels are malformed or contradict each other, an option is no integer
            in range, or there is no pair of either kind, or none in the sample.

    Example:
        >>> bits = np.array([[True, True], [True, True], [False, True], [False, False]])
        >>> labels = np.array([0, 0, 1, 1])
        >>> distance_histograms(bits, labels).intra.tolist()
        [0.5, 0.5, 0.0]
    """
    _check_sampling(exact_up_to, sample, seed)
    values = bit_matrix(bits, "bits")
    size, nbit = values.shape
    groups = _grouped(labels, size, least=2)
    sizes_G = groups.sizes
    exact = size <= exact_up_to
    if groups.marks is None:
        intra_pairs = int((sizes_G * (sizes_G - 1))[groups.labelled].sum()) // 2
        _check_both_kinds(intra_pairs, size * (size - 1) // 2 - intra_pairs)
    if exact:
        intra, inter = _every_pair(values, label_array(labels, size, "labels"), engine)
    else:
        words = _packed_words(values).take(groups.order, axis=1)
        intra, inter = _drawn_pairs(words, groups, nbit, sample, np.random.default_rng(seed))
    intra_pairs, inter_pairs = int(intra.sum()), int(inter.sum())
    _check_both_kinds(intra_pairs, inter_pairs, "" if exact else f" among {sample} drawn")
    return DistanceHistograms(
        intra / intra_pairs, inter / inter_pairs, intra_pairs, inter_pairs, None if exact else seed
    )


def pair_distances(
    bits: ArrayLike,
    *,
    exact_up_to: int = 200_000,
    sample: int = 10_000_000,
    seed: int = 0,
    engine: Engine | str = "auto",
) -> PairDistances:
    """Count the pairs of different items at each Hamming distance; no labels are needed.

    All unordered pairs are counted, in time O(N^2) and memory O(N K); of more than ``exact_up_to``
    items, ``sample`` pairs drawn with replacement. The mean is exact in both cases: of n items, m
    of which have a bit set, m (n - m) pairs differ in it.

    Args:
        bits: (N, K) bool.
        exact_up_to: the largest number of items of which all pairs are counted.
        sample: number of pairs to draw if there are more items.
        seed: of the sample.
        engine: the backend that counts all pairs.

    Returns:
        the shares by distance, their mean in bits, the number of pairs, and the seed if sampled.

    Raises:
        DataError: if bits are malformed, there are fewer than two items, or an option is no integer
            in range.

    Example:
        >>> distances = pair_distances(np.array([[True, True], [True, False], [False, False]]))
        >>> distances.share.round(4).tolist(), round(distances.mean, 4), distances.pairs
        ([0.0, 0.6667, 0.3333], 1.3333, 3)
    """
    _check_sampling(exact_up_to, sample, seed)
    values = bit_matrix(bits, "bits")
    size, nbit = values.shape
    _check_size(size, 2)
    ones_K = np.count_nonzero(values, axis=0).astype(np.int64)
    mean = int((ones_K * (size - ones_K)).sum()) / (size * (size - 1) // 2)
    exact = size <= exact_up_to
    if exact:
        _, counts = _every_pair(values, np.zeros((size, 1), np.bool_), engine)
    else:
        words, rng = _packed_words(values), np.random.default_rng(seed)
        counts = np.zeros(nbit + 1, dtype=np.int64)
        for start in range(0, sample, _DRAWN):
            a, b = _draw_two(rng, np.full(min(_DRAWN, sample - start), size))
            counts += _tally(words[:, a], words[:, b], nbit)
    pairs = int(counts.sum())
    return PairDistances(counts / pairs, mean, pairs, None if exact else seed)


def bit_statistics(bits: ArrayLike) -> BitStatistics:
    """Compute the balance and the entropy of the bits, and the number of different codes.

    With p the share of the items whose bit is set, the entropy of a bit is
    -p log2(p) - (1 - p) log2(1 - p), and it is dead if p is 0 or 1.

    Args:
        bits: (N, K) bool.

    Returns:
        the statistics; entropies are in bits.

    Raises:
        DataError: if bits are malformed, or there are none.

    Example:
        >>> statistics = bit_statistics(np.array([[True, True], [False, True]]))
        >>> statistics.balance, statistics.entropy, statistics.distinct_codes
        (0.75, 0.5, 2)
    """
    values = bit_matrix(bits, "bits")
    _check_size(len(values), 1)
    ones_K = np.count_nonzero(values, axis=0) / len(values)
    entropy_K = np.zeros_like(ones_K)
    alive = (ones_K > 0) & (ones_K < 1)
    for part in (ones_K[alive], 1 - ones_K[alive]):
        entropy_K[alive] -= part * np.log2(part)
    return BitStatistics(
        balance=float(ones_K.mean()),
        imbalance=float(np.abs(ones_K - 0.5).mean()),
        entropy=bounded_mean(entropy_K),
        dead_bits=int((~alive).sum()),
        distinct_codes=len(_runs(_packed_words(values))[1]) - 1,
        ones=ones_K,
        entropies=bounded(entropy_K),
    )


@dataclass(frozen=True)
class _Groups:
    """Items in groups with exactly the same labels, which are alike in all relations by labels.

    If items have one label, a group is a class.
    """

    order: Counts  # (N,) the items, group by group
    bounds: Counts  # (G + 1,) start of each group, and the end
    labelled: npt.NDArray[np.bool_]  # (G,) whether the items have a label, so that they are similar
    classes: int  # C, empty ones included
    hot: npt.NDArray[np.bool_] | None  # (G, C) the labels; None: one label each
    marks: Array | None  # (W, G) the labels in words; None: one label each

    @property
    def sizes(self) -> Counts:
        """The number of items of each group, (G,)."""
        return np.diff(self.bounds)

    def of_items(self) -> Counts:
        """Return the group of each sorted item, (N,)."""
        return np.repeat(np.arange(len(self.labelled)), self.sizes)

    def ones(self, bits: npt.NDArray[np.bool_]) -> Counts:
        """Return how many items of each group have each bit set, (G, K); bits are (N, K)."""
        group_N = np.empty(len(self.order), dtype=np.int64)
        group_N[self.order] = self.of_items()
        count = len(self.labelled)
        counts = [np.bincount(group_N[bits[:, k]], minlength=count) for k in range(bits.shape[1])]
        return np.stack(counts, axis=1).astype(np.int64, copy=False)

    def by_class(self, sizes: Counts, counts: Counts) -> tuple[Counts, Counts]:
        """Sum (G,) and (G, K) over the groups of each class: (C,) and (C, K).

        If items have one label, only classes that have items are returned.
        """
        if self.hot is None:
            return sizes[self.labelled], counts[self.labelled]
        hot_CG = self.hot.T.astype(np.float64)
        return (hot_CG @ sizes).astype(np.int64), (hot_CG @ counts).astype(np.int64)

    def similar(self, sizes: Counts, counts: Counts) -> tuple[Counts, Counts]:
        """Sum (G,) and (G, K) over the groups similar to each group: (G,) and (G, K)."""
        if self.hot is None:
            return sizes * self.labelled, counts * self.labelled[:, None]
        exact = np.dtype("f4" if sizes.sum() < 1 << 24 else "f8")  # for whole numbers
        hot_GC, size = self.hot.astype(np.float32), len(sizes)
        both: Array = np.concatenate([sizes[:, None], counts], axis=1).astype(exact)
        near = np.empty(both.shape, dtype=np.int64)
        step = max(1, 16 * _BLOCK // size)
        for start in range(0, size, step):
            share: Array = (hot_GC[start : start + step] @ hot_GC.T > 0).astype(exact)
            near[start : start + step] = share @ both
        return near[:, 0], near[:, 1:]


def _grouped(labels: ArrayLike, size: int, least: int) -> _Groups:
    """Group ``size`` items by their labels.

    Raises:
        DataError: if there are fewer than ``least`` items, or the labels are malformed.
    """
    _check_size(size, least)
    values = label_array(labels, size, "labels")
    single = values.ndim == 1 or values.sum(axis=1).max() <= 1
    marks = class_marks(values) if single else label_marks(values)
    order, bounds = _runs(marks)
    first = order[bounds[:-1]]
    return _Groups(
        order=order,
        bounds=bounds,
        labelled=np.asarray(marks[0, first] >= 0 if single else values[first].any(axis=1)),
        classes=values.shape[1] if values.ndim == 2 else int(values.max()) + 1,
        hot=None if single else values[first],
        marks=None if single else marks.take(first, axis=1),
    )


def _runs(words: Array) -> tuple[Counts, Counts]:
    """Return the order of sorted columns of (W, N), and the starts of equal ones with the end."""
    order = np.lexsort(words)
    columns = words.take(order, axis=1)
    starts = np.flatnonzero((columns[:, 1:] != columns[:, :-1]).any(axis=0)) + 1
    return order, np.concatenate([[0], starts, [len(order)]])


def _packed_words(bits: npt.NDArray[np.bool_]) -> Array:
    """Return bits (N, K) as words (W, N)."""
    return as_words(np.packbits(bits, axis=1))


def _every_pair(
    bits: npt.NDArray[np.bool_], labels: Array, engine: Engine | str
) -> tuple[Counts, Counts]:
    """Count similar and dissimilar pairs at each distance, (K + 1,) each.

    Blocks of items are compared with themselves, which counts each pair twice and each item with
    itself, and with all later items.
    """
    codes, (size, nbit) = pack(bits), bits.shape
    within, across = np.zeros((2, 2, nbit + 1), dtype=np.int64)
    for start in range(0, size, _QUERIES):
        block, later = slice(start, start + _QUERIES), slice(start + _QUERIES, size)
        for others, totals in ((block, within), (later, across)):
            if len(codes[others]):
                ranking = Ranking(
                    codes[block], codes[others], labels[block], labels[others], nbit, engine
                )
                totals += [counts.sum(axis=0) for counts in ranking.counts]
    labelled = size if labels.ndim == 1 else int(labels.any(axis=1).sum())
    within[:, 0] -= size, labelled
    every, near = within // 2 + across
    return near, every - near


def _drawn_pairs(
    words: Array, groups: _Groups, nbit: int, sample: int, rng: np.random.Generator
) -> tuple[Counts, Counts]:
    """Count pairs drawn with replacement, as :func:`_every_pair`."""
    intra, inter = np.zeros((2, nbit + 1), dtype=np.int64)
    group_N, size, sizes = groups.of_items(), words.shape[1], groups.sizes
    weight = np.cumsum(sizes * (sizes - 1) * groups.labelled)  # similar pairs, if one label each
    for start in range(0, sample, _DRAWN):
        draws = min(_DRAWN, sample - start)
        a, b = _draw_two(rng, np.full(draws, size))
        group_a, group_b = group_N[a], group_N[b]
        if groups.marks is None:
            shared = (group_a == group_b) & groups.labelled[group_a]
        else:
            shared = ((groups.marks[:, group_a] & groups.marks[:, group_b]) != 0).any(axis=0)
            intra += _tally(words[:, a[shared]], words[:, b[shared]], nbit)
        inter += _tally(words[:, a[~shared]], words[:, b[~shared]], nbit)
        if groups.marks is None:
            group = np.searchsorted(weight, rng.integers(weight[-1], size=draws), side="right")
            a, b = groups.bounds[group] + _draw_two(rng, sizes[group])
            intra += _tally(words[:, a], words[:, b], nbit)
    return intra, inter


def _draw_two(rng: np.random.Generator, size: Counts) -> Counts:
    """Draw two different numbers below each size: (2, n)."""
    a, b = rng.integers(size), rng.integers(size - 1)
    return np.stack([a, b + (b >= a)])


def _tally(a: Array, b: Array, nbit: int) -> Counts:
    """Count pairs of codes (W, n) by distance: (K + 1,)."""
    return np.bincount(differing(a, b, np.uint16), minlength=nbit + 1)


def _check_size(size: int, least: int) -> None:
    if size < least:
        raise UndefinedError(
            "there are no codes" if size == 0 else f"{size} code makes no pair: at least {least}"
        )


def _check_both_kinds(intra_pairs: int, inter_pairs: int, where: str = "") -> None:
    if intra_pairs == 0:
        raise UndefinedError(f"no two items share a label{where}: there is no intra-class distance")
    if inter_pairs == 0:
        raise UndefinedError(f"all items share a label{where}: there is no inter-class distance")


def _check_sampling(exact_up_to: int, sample: int, seed: int) -> None:
    check_integer("exact_up_to", exact_up_to, 0)
    check_integer("sample", sample, 1)
    check_integer("seed", seed, 0)
