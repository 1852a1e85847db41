"""The mean of rank-based sums over all orders within groups of tied items.

Closed forms from the counts of the groups: McSherry & Najork, ECIR 2008; He et al., CVPR 2018. The
cut inside a group is derived in :func:`_segment` and :meth:`Groups.by_hits`.

``Q`` queries, ``G`` groups of tied items, nearest first.
"""

import math
from collections.abc import Iterable
from dataclasses import replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from deephash.errors import DataError
from deephash.retrieval.backends import compiled_sums
from deephash.retrieval.checks import is_integer
from deephash.retrieval.codes import Array, Floats
from deephash.retrieval.distance_counts import Histograms
from deephash.retrieval.ranking import Ranking

_NEVER = 1e-25  # a probability too small to change a sum near 1
_BLOCK = 1 << 15  # probabilities worked on at once
_EXACT = 256  # up to H_256 from a table; from there on four terms are exact
_HARMONIC = np.concatenate([[0.0], (1 / np.arange(1, _EXACT + 1)).cumsum()])


class Cut(NamedTuple):
    """The end of the first R places of each query: after ``full`` groups and ``kept`` slots."""

    full: Array  # (Q,) groups that lie completely before the cut
    before: Array  # (Q,) N: items in them
    hits_before: Array  # (Q,) A: relevant ones among these
    items: Array  # (Q,) n: items of the group that is cut
    relevant: Array  # (Q,) r: relevant ones among these
    kept: Array  # (Q,) t: slots of it before the cut, fewer than n; 0 if no group is cut


class Groups:
    """Groups of tied items; all orders within a group are equally likely.

    Args:
        items: (Q, G) counts.
        relevant: (Q, G) counts.
        gained: (Q, G), the total gain of the relevant items of a group; None: 1 each.
    """

    def __init__(self, items: Array, relevant: Array, gained: Array | None = None) -> None:
        self.items = items.astype(np.int64, copy=False)
        self.relevant = relevant.astype(np.int64, copy=False)
        self.gained = self.relevant if gained is None else gained
        self.ends = self.items.cumsum(axis=1)  # (Q, G)
        self.starts = self.ends - self.items  # (Q, G)
        self.hits_before = _running(self.relevant)  # (Q, G + 1) up to each group, and to the end
        self.reached = self.hits_before if gained is None else _running(gained)  # (Q, G + 1)
        self.compiled = compiled_sums() if gained is None else None

    @cached_property
    def sums(self) -> Floats:
        """The sums of (gain up to a relevant item) / rank before each group: (Q, G + 1)."""
        if self.compiled:
            return self.compiled.running_sums(  # type: ignore[no-any-return]
                self.starts, self.hits_before, self.items, self.relevant, _HARMONIC
            )
        sums: Floats = _running(
            _segment(
                self.starts,
                self.reached[:, :-1],
                self.items,
                self.relevant,
                ratio(self.gained, self.relevant),
                self.items,
            )
        )
        return sums

    def at(self, top: int | Array) -> Cut:
        """Return the end of the first ``top`` places, one number for all queries or (Q,)."""
        full = (self.ends <= np.reshape(top, (-1, 1))).sum(axis=1)
        row, group = np.arange(len(full)), np.minimum(full, self.items.shape[1] - 1)
        none_is_cut = full == self.items.shape[1]
        return Cut(
            full,
            before=self.starts[row, group],
            hits_before=self.hits_before[row, full],
            items=self.items[row, group],
            relevant=self.relevant[row, group],
            kept=np.where(none_is_cut, 0, top - self.starts[row, group]),
        )

    def summed(self, cut: Cut) -> Floats:
        """Return the expected sum at a cut, (Q,): of r_k c_k / k, if every gain is 1."""
        row = np.arange(len(cut.full))
        sums: Floats = self.sums[row, cut.full] + _segment(
            cut.before, self.reached[row, cut.full], cut.items, cut.relevant,
            self._mean_gain(cut), cut.kept,
        )  # fmt: skip
        return sums

    def by_hits(self, cut: Cut) -> Floats:
        """Return the expectation of that sum divided by the relevant items before the cut, (Q,).

        Where the cut group is mixed, both are random: the number of hits x in its kept slots is
        hypergeometric. Given x their order is again uniform, so the slots are a group of ``kept``
        items, x of them relevant, and the denominator is hits_before + x.
        """
        pure = cut.relevant == cut.items
        value_Q = ratio(self.summed(cut), cut.hits_before + np.where(pure, cut.kept, 0))
        gain_Q = self._mean_gain(cut)
        mixed = np.flatnonzero((cut.kept > 0) & (cut.relevant > 0) & ~pure)
        widest = 2 * int(_far(np.minimum(cut.relevant, cut.kept).max())) + 1
        step = max(1, _BLOCK // widest)
        for rows in (mixed[start : start + step] for start in range(0, len(mixed), step)):
            part = Cut(*(field[rows, None] for field in cut))  # (rows, 1)
            reached = self.reached[rows, cut.full[rows]][:, None]
            if self.compiled:
                h = reciprocals(part.before, part.kept)
                value_Q[rows] = self.compiled.mixed_by_hits(
                    tuple(field[rows] for field in cut),
                    *(bound[:, 0] for bound in _probable(part)),
                    h[:, 0],
                    self.sums[rows, cut.full[rows]],
                    reached[:, 0],
                )
                continue
            x, weight = _hypergeometric(part)  # (rows, X)
            total = self.sums[rows, cut.full[rows]][:, None] + _segment(
                part.before, reached, part.kept, x, gain_Q[rows, None], part.kept
            )
            value_Q[rows] = (weight * ratio(total, part.hits_before + x)).sum(axis=1)
        return value_Q

    def hits(self, cut: Cut) -> Floats:
        """Return the expected number of relevant items before a cut, (Q,)."""
        return cut.hits_before + cut.kept * ratio(cut.relevant, cut.items)

    def hits_at(self, tops: list[int]) -> list[Floats]:
        """Return ``hits`` for several cuts, each the same for all queries."""
        if self.compiled and tops:
            cuts = np.array(tops, dtype=np.int64)
            return list(
                self.compiled.hits_at(self.ends, self.hits_before, self.items, self.relevant, cuts)
            )
        return [self.hits(self.at(top)) for top in tops]

    def hit(self, cut: Cut) -> Floats:
        """Return the probability of at least one relevant item before a cut, (Q,).

        The kept slots contain none with probability C(n - r, t) / C(n, t), which is the
        product of (n - r - i) / (n - i) over i < t, or the same with r and t exchanged.
        """
        few, many = np.minimum(cut.relevant, cut.kept), np.maximum(cut.relevant, cut.kept)
        missed_Q = (cut.hits_before == 0).astype(np.float64)
        for i in range(int(few.max())):
            open_Q = (i < few) & (missed_Q > _NEVER)
            if not open_Q.any():
                break
            missed_Q[open_Q] *= (1 - many / (cut.items - i).clip(1))[open_Q]
        precision: Floats = 1 - missed_Q
        return precision

    def _mean_gain(self, cut: Cut) -> Floats:
        """Return the mean gain of a relevant item of the cut group, (Q,)."""
        row, group = np.arange(len(cut.full)), np.minimum(cut.full, self.items.shape[1] - 1)
        return ratio(self.gained[row, group], cut.relevant)


def _hypergeometric(cut: Cut) -> tuple[Array, Floats]:
    """Return possible numbers x of hits in the kept slots, and their probabilities: (rows, X).

    Negligible ones are omitted. Neighbouring probabilities have a simple ratio, whose
    logarithms add up without overflow. Rows with fewer x end in probabilities of 0.

    Args:
        cut: fields of (rows, 1).
    """
    n, r, t = cut.items, cut.relevant, cut.kept
    least, most = _probable(cut)
    x = np.minimum(least + np.arange(int((most - least).max()) + 1), most)
    now, goes_on = x[:, :-1], x[:, 1:] > x[:, :-1]
    odds = (r - now) * (t - now) / ((now + 1) * np.maximum(1, n - r - t + now + 1))
    log_weight = np.zeros(x.shape)
    np.log(odds, out=log_weight[:, 1:], where=goes_on)
    log_weight = log_weight.cumsum(axis=1)
    weight = np.exp(log_weight - log_weight.max(axis=1, keepdims=True))
    weight[:, 1:] *= goes_on
    return x, weight / weight.sum(axis=1, keepdims=True)


def _probable(cut: Cut) -> tuple[Array, Array]:
    """Return the fewest and the most hits whose probability is not negligible."""
    few, n, r, t = np.minimum(cut.relevant, cut.kept), cut.items, cut.relevant, cut.kept
    mean_hits, far = r * t / n, _far(few)
    least = np.maximum(np.maximum(0, t - n + r), np.floor(mean_hits - far).astype(np.int64))
    return least, np.minimum(few, np.ceil(mean_hits + far).astype(np.int64))


def _far(draws: Any) -> Any:
    """Return a distance from their mean that the hits of so many draws never exceed.

    Hoeffding, JASA 1963: without replacement too, the hits of t draws are further than a from their
    mean with probability at most 2 exp(-2 a^2 / t). Draws and relevant items can be exchanged.
    """
    return np.sqrt(-math.log(_NEVER) * draws / 2)


def _segment(before: Any, reached: Any, items: Any, relevant: Any, gain: Any, kept: Any) -> Any:
    """Return the expected part of the first ``kept`` slots of a tie group in the sum r_k c_k / k.

    With N items before the group, A of them relevant, and r of its n items relevant: slot j holds a
    relevant item with probability r / n, and given that, each of the j - 1 slots above it with
    probability (r - 1) / (n - 1). So its part is r/n (A + 1 + (j - 1)(r - 1)/(n - 1)) / (N + j).
    Summed over j = 1..t, with h = 1/(N + 1) + ... + 1/(N + t):

        r/n ((A + 1) h + (r - 1)/(n - 1) (t - (N + 1) h))

    If relevant items gain w each on average, independent of their slot, instead of 1: w replaces
    both 1, and the gain ``reached`` before the group replaces A.
    """
    h = reciprocals(before, kept)
    share = relevant / np.maximum(items, 1)
    others = (relevant - 1) / np.maximum(items - 1, 1)
    return share * ((reached + gain) * h + gain * others * (kept - (before + 1) * h))


def reciprocals(before: Any, count: Any) -> Floats:
    """Return 1/(N + 1) + ... + 1/(N + t), to the last digits, for N ``before`` and t ``count``.

    A difference of two harmonic numbers, H_n = ln n + gamma + 1/(2 n) - 1/(12 n^2) + ... (Euler and
    Maclaurin), taken term by term, so that nothing cancels; the first ones from a table.
    """
    start, stop = np.broadcast_arrays(before, np.add(before, count))
    low = np.minimum(stop, _EXACT)
    sums: Floats = _HARMONIC[low] - _HARMONIC[np.minimum(start, low)]
    far = stop > _EXACT
    a, b = np.maximum(start[far], _EXACT), stop[far]
    u, v = 1 / a, 1 / b
    sums[far] += np.log1p((b - a) * u) + 0.5 * (v - u) + _series(v) - _series(u)
    return sums


def _series(inverse: Floats) -> Floats:
    """Return -1/(12 n^2) + 1/(120 n^4) - 1/(252 n^6), given 1/n."""
    square = np.square(inverse)
    return square * (square * (1 / 120 - square / 252) - 1 / 12)


def groups_of(hist: Histograms) -> Groups:
    """Return the groups of a histogram, which are cached in it."""
    cache = vars(hist)
    if "groups" not in cache:
        cache["groups"] = Groups(hist.items, hist.relevant)
    return cache["groups"]  # type: ignore[no-any-return]


def as_ranking(measured: Histograms | Ranking, ties: str, seed: int = 0) -> Ranking:
    """Return the ranking in the order of ``stable`` or ``shuffled``.

    Raises:
        DataError: if only histograms are given.
    """
    if not isinstance(measured, Ranking):
        raise DataError(
            f"ties={ties} needs the order of the database, which histograms do not contain: "
            "give the Ranking"
        )
    return measured.shuffled(seed) if ties == "shuffled" else measured


def as_histograms(measured: Histograms | Ranking, ties: str) -> Histograms:
    """Return histograms whose groups are in random order: ``expected``, or ``best``, ``worst``.

    For the last two, relevant and other items at the same distance are separate groups.
    """
    hist = Histograms.of(measured) if isinstance(measured, Ranking) else measured
    if ties == "expected":
        return hist
    other_QK = hist.items - hist.relevant
    halves = [(hist.relevant, hist.relevant), (other_QK, np.zeros_like(other_QK))]
    if ties == "worst":
        halves.reverse()
    items, relevant = (
        np.stack(pair, axis=2).reshape(hist.queries, -1) for pair in zip(*halves, strict=True)
    )
    return replace(hist, items=items, relevant=relevant)


def checked_cuts(cuts: Iterable[int], size: int) -> list[int]:
    """Return the cuts, after checking that each is within the database.

    Raises:
        DataError: if one is less than 1 or more than ``size``.
    """
    cuts = list(cuts)
    for cut in cuts:
        if not is_integer(cut, least=1) or cut > size:
            raise DataError(f"a cut of {cut!r} is not within 1..{size}, the database's items")
    return [int(cut) for cut in cuts]


def ratio(part: Any, divisor: Any) -> Floats:
    """Divide element by element; 0 where the divisor is 0."""
    valid = np.asarray(divisor) > 0
    return np.where(valid, part / np.where(valid, divisor, 1), 0.0)


def bounded(values: Any, most: Any = 1.0) -> Any:
    """Clip values to [0, most], which they may leave by rounding errors only.

    No value within the range changes, not even in its last bit; nan stays nan.

    >>> bounded(np.array([-1e-17, 0.3, 1.0000000000000002])).tolist()
    [0.0, 0.3, 1.0]

    Args:
        values: of any shape.
        most: the largest possible value, broadcast against them.
    """
    return np.clip(values, 0.0, most) + 0.0  # -0.0 becomes 0.0


def mean(values: Array) -> float:
    """Return the mean, 0 if there are no values."""
    return float(values.mean()) if len(values) else 0.0


def bounded_mean(values: Array, most: Any = 1.0) -> float:
    """Return the mean of values in [0, most], clipped to their range.

    Clipping the mean, and not the values, leaves every mean within the range as it is.

    Args:
        values: (Q,).
        most: the largest possible value, or (Q,) that of each.
    """
    return float(bounded(mean(values), mean(np.broadcast_to(most, values.shape))))


def _running(values: Array) -> Any:
    """Return the sums before each group, and of all groups: (Q, G + 1)."""
    sums = np.zeros((len(values), values.shape[1] + 1), dtype=values.dtype)
    np.cumsum(values, axis=1, out=sums[:, 1:])
    return sums
