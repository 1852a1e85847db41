"""Counting with numpy: XOR, popcount, counters, one query at a time.

``n`` items of a part of the database, ``K`` bits, ``V`` values that are counted.
"""

import numpy as np
import numpy.typing as npt
import torch

from deephash.retrieval.codes import Array, Counts, differing
from deephash.retrieval.sides import Side

PART = 1 << 15  # items looked at together: they stay in the cache, and torch counts them alone


def add_counts(asked: Side, held: Side, items: Counts, relevant: Counts) -> None:
    """Adds to the items and relevant items at each distance, (Q, K + 1) each."""
    if asked.single:
        _add_by_class(asked, held, items, relevant)
    else:
        _add_by_labels(asked, held, items, relevant)


def _add_by_class(asked: Side, held: Side, items: Counts, relevant: Counts) -> None:
    """What is relevant lies in one piece once the items are sorted by class."""
    values = items.shape[1]
    order = np.argsort(held.marks[0], kind="stable")
    words, marks, classes = held.words.take(order, axis=1), held.marks[0, order], asked.marks[0]
    start_Q = np.searchsorted(marks, classes)
    stop_Q = np.where(classes >= 0, np.searchsorted(marks, classes, side="right"), start_Q)
    for query, (start, stop) in enumerate(zip(start_Q, stop_Q, strict=True)):
        distance = differing(asked.words[:, query], words, distance_type(values))
        items[query] += _counted(distance, values)
        relevant[query] += np.bincount(distance[start:stop], minlength=values)


def _add_by_labels(asked: Side, held: Side, items: Counts, relevant: Counts) -> None:
    """Relevant items are counted apart, behind the others."""
    values = items.shape[1]
    dtype = distance_type(2 * values)
    for query in range(len(asked)):
        key = differing(asked.words[:, query], held.words, dtype)
        key += shares_label(asked, query, held) * dtype(values)
        counts = _counted(key, 2 * values).reshape(2, values)
        items[query] += counts.sum(axis=0)
        relevant[query] += counts[1]


def distance_type(values: int) -> type[np.uint8] | type[np.uint16]:
    """The smallest type that holds so many values."""
    return np.uint8 if values <= 256 else np.uint16


def shares_label(asked: Side, query: int, held: Side) -> npt.NDArray[np.bool_]:
    """Which items share a label with one query: (n,) bool."""
    mine = asked.marks[:, query]
    if asked.single:
        return (held.marks[0] == mine[0]) & (mine[0] >= 0)
    shared = np.zeros(len(held), dtype=np.bool_)
    for word, theirs in zip(mine, held.marks, strict=True):
        if word:
            shared |= (theirs & word) != 0
    return shared


def _counted(key: Array, values: int) -> Counts:
    """How often each value comes, (V,); of bytes by torch, which is faster than numpy."""
    if key.dtype != np.uint8:
        return np.bincount(key, minlength=values)
    return torch.bincount(torch.from_numpy(key), minlength=values).numpy()
