"""Metrics from counts, compiled by numba; equal to those of numpy to the last bit.

Each function repeats the operations of its counterpart in :mod:`deephash.retrieval.ties` or
:mod:`deephash.retrieval.precision_recall` in the same order. Logarithms and exponentials are left
to numpy between two compiled loops, because the functions of the compiler may round differently.
Requires numba. ``Q`` queries, ``G`` groups of tied items, ``R`` rows, ``X`` hits.
"""

from typing import Any, NamedTuple

import numpy as np

from deephash.retrieval.backends.numba_backend import jitted
from deephash.retrieval.codes import Counts, Floats


class BallSums(NamedTuple):
    """Sums over queries of values within radius 0..K: (K + 1,) each."""

    precision: Floats
    recall: Floats  # of queries with relevant items
    items: Counts
    relevant: Counts
    empty: Counts  # queries without an item within the radius
    answerable: int  # queries with relevant items


def running_sums(
    starts: Counts, hits_before: Counts, items: Counts, relevant: Counts, harmonic: Floats
) -> Floats:
    """Return ``Groups.sums`` if every gain is 1.

    Args:
        starts: (Q, G) items before each group.
        hits_before: (Q, G + 1) relevant items before each group, and in all.
        items: (Q, G).
        relevant: (Q, G).
        harmonic: the table of ``ties.reciprocals``.

    Returns:
        (Q, G + 1).
    """
    last = len(harmonic) - 1
    logarithm = _beyond(starts, items, last)
    np.log1p(logarithm, out=logarithm)
    sums: Floats = _running(starts, hits_before, items, relevant, harmonic, logarithm)
    return sums


@jitted
def _beyond(starts: Counts, items: Counts, last: int) -> Floats:
    """Return the relative growth from start to end of each group, from ``last`` on: (Q, G)."""
    growth = np.zeros(starts.shape)
    for query in range(starts.shape[0]):
        for group in range(starts.shape[1]):
            start = starts[query, group]
            stop = start + items[query, group]
            if stop > last:
                first = max(start, last)
                growth[query, group] = np.float64(stop - first) * (1.0 / first)
    return growth


@jitted
def _running(
    starts: Counts, hits_before: Counts, items: Counts, relevant: Counts, harmonic: Floats,
    logarithm: Floats,
) -> Floats:  # fmt: skip
    queries, groups = starts.shape
    last = len(harmonic) - 1
    sums = np.zeros((queries, groups + 1))
    for query in range(queries):
        for group in range(groups):
            before, count = starts[query, group], items[query, group]
            stop = before + count
            low = min(stop, last)
            h = harmonic[low] - harmonic[min(before, low)]
            if stop > last:
                u, v = 1.0 / max(before, last), 1.0 / stop
                h += (logarithm[query, group] + 0.5 * (v - u) + _series(v)) - _series(u)
            hits = relevant[query, group]
            part = _segment(before, hits_before[query, group], count, hits, hits > 0, count, h)
            sums[query, group + 1] = part if group == 0 else sums[query, group] + part
    return sums


@jitted
def _series(inverse: float) -> float:
    square = inverse * inverse
    return square * (square * (1 / 120 - square / 252) - 1 / 12)


@jitted
def _segment(
    before: int, reached: int, items: int, relevant: int, gains: bool, kept: int, h: float
) -> float:
    """Return ``ties._segment``, given its sum of reciprocals."""
    w = np.float64(gains)
    share = np.float64(relevant) / np.float64(max(items, 1))
    others = np.float64(relevant - 1) / np.float64(max(items - 1, 1))
    inner = w * others * (np.float64(kept) - np.float64(before + 1) * h)
    return share * ((np.float64(reached) + w) * h + inner)


def mixed_by_hits(
    cut: tuple[Counts, ...], least: Counts, most: Counts, h: Floats, sums: Floats, reached: Counts
) -> Floats:
    """Return ``Groups.by_hits`` for groups that are cut and mixed: (R,).

    Args:
        cut: the fields of ``ties.Cut``, (R,) each.
        least: (R,) the fewest hits whose probability is not negligible.
        most: (R,) the most.
        h: (R,) sums of reciprocals of the kept places.
        sums: (R,) ``Groups.sums`` before the cut group.
        reached: (R,) relevant items before it.
    """
    width = int((most - least).max()) + 1
    odds, hits = _odds(cut[3], cut[4], cut[5], least, most, width)
    np.log(odds, out=odds)
    _subtract_largest(odds)
    np.exp(odds, out=odds)
    _clear_repeated(odds, hits)
    total = odds.sum(axis=1)
    value: Floats = _weighted(odds, total, hits, cut[1], cut[2], cut[5], h, sums, reached)
    gained: Floats = value.sum(axis=1)
    return gained


@jitted
def _odds(
    items: Counts, relevant: Counts, kept: Counts, least: Counts, most: Counts, width: int
) -> tuple[Floats, Counts]:
    """Return ratios of neighbouring probabilities, 1 at the end, and the hits: (R, X) each."""
    odds = np.ones((len(items), width))
    hits = np.empty((len(items), width), np.int64)
    for i in range(len(items)):
        n, r, t = items[i], relevant[i], kept[i]
        hits[i, 0] = min(least[i], most[i])
        for j in range(1, width):
            now = hits[i, j - 1]
            hits[i, j] = min(least[i] + j, most[i])
            if hits[i, j] > now:
                over = (now + 1) * max(1, n - r - t + now + 1)
                odds[i, j] = np.float64((r - now) * (t - now)) / np.float64(over)
    return odds, hits


@jitted
def _subtract_largest(values: Floats) -> None:
    """Replace each row by its running sums, minus the largest of them."""
    for row in values:
        largest = row[0]
        for j in range(1, len(row)):
            row[j] = row[j - 1] + row[j]
            largest = max(largest, row[j])
        for j in range(len(row)):
            row[j] -= largest


@jitted
def _clear_repeated(weight: Floats, hits: Counts) -> None:
    """Set the weight of hits that are repeated to pad a row to 0."""
    for i in range(weight.shape[0]):
        for j in range(1, weight.shape[1]):
            if hits[i, j] == hits[i, j - 1]:
                weight[i, j] = 0.0


@jitted
def _weighted(
    weight: Floats, total: Floats, hits: Counts, before: Counts, hits_before: Counts, kept: Counts,
    h: Floats, sums: Floats, reached: Counts,
) -> Floats:  # fmt: skip
    for i in range(weight.shape[0]):
        for j in range(weight.shape[1]):
            x = hits[i, j]
            part = _segment(before[i], reached[i], kept[i], x, True, kept[i], h[i])
            of = hits_before[i] + x
            value = (sums[i] + part) / np.float64(of) if of > 0 else 0.0
            weight[i, j] = weight[i, j] / total[i] * value
    return weight


@jitted
def hits_at(
    ends: Counts, hits_before: Counts, items: Counts, relevant: Counts, tops: Counts
) -> Floats:
    """Return ``Groups.hits`` for several cuts: (cuts, Q)."""
    queries, groups = ends.shape
    hits = np.empty((len(tops), queries))
    for query in range(queries):
        for i in range(len(tops)):
            top, full = tops[i], 0
            while full < groups and ends[query, full] <= top:
                full += 1
            hits[i, query] = np.float64(hits_before[query, full])
            if full < groups:
                count = items[query, full]
                kept = np.float64(top - (ends[query, full] - count))
                hits[i, query] += kept * (np.float64(relevant[query, full]) / np.float64(count))
    return hits


def ball_sums(items: Counts, relevant: Counts) -> BallSums:
    """Return the sums of ``pr_curve_by_radius`` over queries."""
    return BallSums(*_ball_sums(items, relevant))


@jitted
def _ball_sums(items: Counts, relevant: Counts) -> tuple[Any, ...]:
    queries, values = items.shape
    precision, recall = np.zeros(values), np.zeros(values)
    all_items, all_hits = np.zeros(values, np.int64), np.zeros(values, np.int64)
    empty, answerable = np.zeros(values, np.int64), 0
    for query in range(queries):
        total = relevant[query].sum()
        answerable += total > 0
        count, hits = np.int64(0), np.int64(0)
        for k in range(values):
            count += items[query, k]
            hits += relevant[query, k]
            all_items[k] += count
            all_hits[k] += hits
            if count > 0:
                precision[k] += np.float64(hits) / np.float64(count)
            else:
                empty[k] += 1
            if total > 0:
                recall[k] += np.float64(hits) / np.float64(total)
    return precision, recall, all_items, all_hits, empty, answerable
