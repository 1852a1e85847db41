"""What a rank-based sum is worth on average, when the order within groups of tied items is chance.

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
from deephash.retrieval.backends import numba_sums
from deephash.retrieval.codes import Array, Floats, whole
from deephash.retrieval.distance_counts import Histograms

_NEVER = 1e-25  # a probability that no longer shows beside 1
_BLOCK = 1 << 15  # probabilities worked on at once
_EXACT = 256  # up to H_256 from a table; from there on four terms are exact
_HARMONIC = np.concatenate([[0.0], (1 / np.arange(1, _EXACT + 1)).cumsum()])


class Cut(NamedTuple):
    """Where the first R places end, for each query: after ``full`` groups and ``kept`` slots."""

    full: Array  # (Q,) groups that lie before the cut as a whole
    before: Array  # (Q,) N: items in them
    found: Array  # (Q,) A: relevant ones among these
    items: Array  # (Q,) n: items of the group that is cut
    relevant: Array  # (Q,) r: relevant ones among these
    kept: Array  # (Q,) t: slots of it before the cut, fewer than n; 0 if no group is cut


class Groups:
    """Groups of tied items, each order within a group as likely as any other.

    Args:
        items: (Q, G) counts.
        relevant: (Q, G) counts.
        gained: (Q, G), what the relevant items of a group are worth together, in place of 1 each.
    """

    def __init__(self, items: Array, relevant: Array, gained: Array | None = None) -> None:
        self.items = items.astype(np.int64, copy=False)
        self.relevant = relevant.astype(np.int64, copy=False)
        self.gained = self.relevant if gained is None else gained
        self.ends = self.items.cumsum(axis=1)  # (Q, G)
        self.starts = self.ends - self.items  # (Q, G)
        self.found = _running(self.relevant)  # (Q, G + 1) up to each group, and to the end
        self.reached = self.found if gained is None else _running(gained)  # (Q, G + 1)
        self.compiled = numba_sums() if gained is None else None

    @cached_property
    def sums(self) -> Floats:
        """(Q, G + 1): the sum over relevant items of what was gained up to each, by its rank.

        As it stands before each group, and at the end.
        """
        if self.compiled:
            return self.compiled.running_sums(  # type: ignore[no-any-return]
                self.starts, self.found, self.items, self.relevant, _HARMONIC
            )
        sums: Floats = _running(
            _segment(
                self.starts, self.reached[:, :-1], self.items, self.relevant,
                ratio(self.gained, self.relevant), self.items,
            )
        )  # fmt: skip
        return sums

    def at(self, top: int | Array) -> Cut:
        """Where the first ``top`` places end, of all queries alike or of each (Q,)."""
        full = (self.ends <= np.reshape(top, (-1, 1))).sum(axis=1)
        row, group = np.arange(len(full)), np.minimum(full, self.items.shape[1] - 1)
        none_is_cut = full == self.items.shape[1]
        return Cut(
            full,
            before=self.starts[row, group],
            found=self.found[row, full],
            items=self.items[row, group],
            relevant=self.relevant[row, group],
            kept=np.where(none_is_cut, 0, top - self.starts[row, group]),
        )

    def summed(self, cut: Cut) -> Floats:
        """The expected sum at a cut: of r_k c_k / k, if nothing else is gained. (Q,)."""
        row = np.arange(len(cut.full))
        sums: Floats = self.sums[row, cut.full] + _segment(
            cut.before, self.reached[row, cut.full], cut.items, cut.relevant,
            self._worth(cut), cut.kept,
        )  # fmt: skip
        return sums

    def by_hits(self, cut: Cut) -> Floats:
        """The expectation of that sum over the relevant items before the cut, (Q,).

        Where the cut group is mixed, both are random: how many hits x its kept slots hold is
        hypergeometric. Given x their order is again uniform, so the slots are a group of ``kept``
        items, x of them relevant, and the denominator is found + x.
        """
        pure = cut.relevant == cut.items
        value_Q = ratio(self.summed(cut), cut.found + np.where(pure, cut.kept, 0))
        worth_Q = self._worth(cut)
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
                    h[:, 0], self.sums[rows, cut.full[rows]], reached[:, 0],
                )  # fmt: skip
                continue
            x, weight = _hypergeometric(part)  # (rows, X)
            total = self.sums[rows, cut.full[rows]][:, None] + _segment(
                part.before, reached, part.kept, x, worth_Q[rows, None], part.kept
            )
            value_Q[rows] = (weight * ratio(total, part.found + x)).sum(axis=1)
        return value_Q

    def hits(self, cut: Cut) -> Floats:
        """The expected relevant items before a cut, (Q,)."""
        return cut.found + cut.kept * ratio(cut.relevant, cut.items)

    def hits_at(self, tops: list[int]) -> list[Floats]:
        """The same for several cuts, each of all queries alike."""
        if self.compiled and tops:
            cuts = np.array(tops, dtype=np.int64)
            return list(
                self.compiled.hits_at(self.ends, self.found, self.items, self.relevant, cuts)
            )
        return [self.hits(self.at(top)) for top in tops]

    def hit(self, cut: Cut) -> Floats:
        """The probability that there is any, (Q,).

        Those kept miss all relevant ones with probability C(n - r, t) / C(n, t), which is the
        product of (n - r - i) / (n - i) over i < t, or the same with r and t exchanged.
        """
        few, many = np.minimum(cut.relevant, cut.kept), np.maximum(cut.relevant, cut.kept)
        missed_Q = (cut.found == 0).astype(np.float64)
        for i in range(int(few.max())):
            open_Q = (i < few) & (missed_Q > _NEVER)
            if not open_Q.any():
                break
            missed_Q[open_Q] *= (1 - many / (cut.items - i).clip(1))[open_Q]
        precision: Floats = 1 - missed_Q
        return precision

    def _worth(self, cut: Cut) -> Floats:
        """What a relevant item of the cut group gains, on average: (Q,)."""
        row, group = np.arange(len(cut.full)), np.minimum(cut.full, self.items.shape[1] - 1)
        return ratio(self.gained[row, group], cut.relevant)


def _hypergeometric(cut: Cut) -> tuple[Array, Floats]:
    """The hits x that the kept slots of cut groups can hold, and how probable: (rows, X) each.

    All that are not too improbable to show. Neighbouring probabilities have a simple ratio, whose
    logarithms add up without overflow. Rows with fewer x end in probabilities of 0.

    Args:
        cut: Fields of (rows, 1).
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
    """The fewest and the most hits that are not too improbable to show."""
    few, n, r, t = np.minimum(cut.relevant, cut.kept), cut.items, cut.relevant, cut.kept
    mean_hits, far = r * t / n, _far(few)
    least = np.maximum(np.maximum(0, t - n + r), np.floor(mean_hits - far).astype(np.int64))
    return least, np.minimum(few, np.ceil(mean_hits + far).astype(np.int64))


def _far(draws: Any) -> Any:
    """How far from their mean the hits of so many draws never are.

    Hoeffding, JASA 1963: without replacement too, the hits of t draws are further than a from their
    mean with probability at most 2 exp(-2 a^2 / t). Draws and relevant items can be exchanged.
    """
    return np.sqrt(-math.log(_NEVER) * draws / 2)


def _segment(before: Any, reached: Any, items: Any, relevant: Any, worth: Any, kept: Any) -> Any:
    """What the first ``kept`` slots of a tie group give to the sum of r_k c_k / k, on average.

    With N items before the group, A of them relevant, and r of its n items relevant: slot j holds a
    relevant item with probability r / n, and given that, each of the j - 1 slots above it with
    probability (r - 1) / (n - 1). So its part is r/n (A + 1 + (j - 1)(r - 1)/(n - 1)) / (N + j).
    Summed over j = 1..t, with h = 1/(N + 1) + ... + 1/(N + t):

        r/n ((A + 1) h + (r - 1)/(n - 1) (t - (N + 1) h))

    If relevant items are worth w each, on average and whatever their slot, instead of 1: w for both
    1, and for A what was ``reached`` before the group.
    """
    h = reciprocals(before, kept)
    share = relevant / np.maximum(items, 1)
    others = (relevant - 1) / np.maximum(items - 1, 1)
    return share * ((reached + worth) * h + worth * others * (kept - (before + 1) * h))


def reciprocals(before: Any, count: Any) -> Floats:
    """1/(N + 1) + ... + 1/(N + t), to the last digits, for any N ``before`` and t ``count``.

    A difference of two harmonic numbers, H_n = ln n + gamma + 1/(2 n) - 1/(12 n^2) + ... (Euler and
    Maclaurin), taken term by term, so that nothing cancels; the first ones from a table.
    """
    start, stop = np.broadcast_arrays(before, np.add(before, count))
    low = np.minimum(stop, _EXACT)
    found: Floats = _HARMONIC[low] - _HARMONIC[np.minimum(start, low)]
    far = stop > _EXACT
    a, b = np.maximum(start[far], _EXACT), stop[far]
    one, other = 1 / a, 1 / b
    rest = np.log1p((b - a) * one) + 0.5 * (other - one) + _series(other) - _series(one)
    found[far] += rest
    return found


def _series(inverse: Floats) -> Floats:
    """-1/(12 n^2) + 1/(120 n^4) - 1/(252 n^6), of 1/n."""
    square = np.square(inverse)
    return square * (square * (1 / 120 - square / 252) - 1 / 12)


def groups_of(hist: Histograms) -> Groups:
    """The groups of a histogram, kept with it."""
    kept = vars(hist)
    if "groups" not in kept:
        kept["groups"] = Groups(hist.items, hist.relevant)
    return kept["groups"]  # type: ignore[no-any-return]


def settled(hist: Histograms, ties: str) -> Histograms:
    """The groups within which the order is left to chance: all for ``expected``, else pure ones."""
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
    """The cuts, once each is known to lie within the database.

    Raises:
        DataError: if one is less than 1 or more than ``size``.
    """
    found = []
    for cut in cuts:
        if not whole(cut, least=1) or cut > size:
            raise DataError(f"a cut of {cut!r} is not within 1..{size}, the database's items")
        found.append(int(cut))
    return found


def ratio(part: Any, divisor: Any) -> Floats:
    """Element by element, 0 where the divisor is 0."""
    some = np.asarray(divisor) > 0
    return np.where(some, part / np.where(some, divisor, 1), 0.0)


def bounded(values: Any, most: Any = 1.0) -> Any:
    """Clip values to [0, most], where mathematics says they lie and rounding may not leave them.

    No value within the range changes, not even in its last bit; nan stays nan.

    >>> bounded(np.array([-1e-17, 0.3, 1.0000000000000002])).tolist()
    [0.0, 0.3, 1.0]

    Args:
        values: of any shape.
        most: the largest possible value, broadcast against them.
    """
    return np.clip(values, 0.0, most) + 0.0  # -0.0 becomes 0.0


def mean(values: Array) -> float:
    """The mean, 0 of nothing."""
    return float(values.mean()) if len(values) else 0.0


def bounded_mean(values: Array, most: Any = 1.0) -> float:
    """Return the mean, which lies in [0, most] as each of the values does, up to rounding.

    Clipping the mean, and not the values, leaves every mean within the range as it is.

    Args:
        values: (Q,).
        most: the largest possible value, or (Q,) that of each.
    """
    return float(bounded(mean(values), mean(np.broadcast_to(most, values.shape))))


def _running(values: Array) -> Any:
    """(Q, G + 1): the sums before each group, and of all."""
    sums = np.zeros((len(values), values.shape[1] + 1), dtype=values.dtype)
    np.cumsum(values, axis=1, out=sums[:, 1:])
    return sums
