"""Counting with numpy: XOR, popcount, counters, one query at a time.

``n`` items of a part of the database, ``K`` bits, ``V`` values that are counted.
"""

import sys

import numpy as np
import numpy.typing as npt

from deephash.retrieval.codes import Array, Counts, popcount
from deephash.retrieval.packed_codes import Side

PART = 1 << 15  # items looked at together: they stay in the cache, and torch counts them alone


class Counter:
    """Items and relevant items at each distance from each query.

    Queries with equal labels follow each other, so that what is relevant to them is computed once.

    Args:
        query: the queries.
        nbit: K.
    """

    def __init__(self, query: Side, nbit: int) -> None:
        self.query, self.values = query, nbit + 1
        self.order = np.lexsort(query.marks)
        self.found = np.zeros((len(query), 2 * self.values), dtype=np.int64)  # not relevant first

    def add(self, part: Side) -> None:
        """Count the items of a part of the database."""
        marks, words = self.query.marks, [np.ascontiguousarray(word) for word in part.words]
        differ, key = np.empty_like(words[0]), np.empty(len(part), distance_type(2 * self.values))
        relevant, last = np.zeros_like(key), -1
        for query in self.order:
            if last < 0 or (marks[:, query] != marks[:, last]).any():
                relevant = shares_label(self.query, query, part) * key.dtype.type(self.values)
            last = query
            base = relevant
            for word, mine in zip(words, self.query.words[:, query], strict=True):
                np.bitwise_xor(word, mine, out=differ)
                base = np.add(popcount(differ), base, out=key)
            self.found[query] += _counted(key, 2 * self.values)

    def counts(self) -> tuple[Counts, Counts]:
        """(Q, K + 1) each."""
        other, relevant = np.split(self.found, 2, axis=1)
        return other + relevant, relevant.copy()


def distance_type(values: int) -> type[np.uint8] | type[np.uint16]:
    """The smallest type that holds so many values."""
    return np.uint8 if values <= 256 else np.uint16


def shares_label(query_side: Side, query: int, database: Side) -> npt.NDArray[np.bool_]:
    """Which items share a label with one query: (n,) bool."""
    mine = query_side.marks[:, query]
    if query_side.single:
        same: npt.NDArray[np.bool_] = (database.marks[0] == mine[0]) & (mine[0] >= 0)
        return same
    shared = np.zeros(len(database), dtype=np.bool_)
    for word, theirs in zip(mine, database.marks, strict=True):
        if word:
            shared |= (theirs & word) != 0
    return shared


def _counted(key: Array, values: int) -> Counts:
    """Count each value, (V,); by torch if it is loaded, which takes 0.6 of numpy's time."""
    torch = sys.modules.get("torch")
    if torch is None or (key.dtype != np.uint8 and values > 1 << 15):
        return np.bincount(key, minlength=values)
    if key.dtype != np.uint8:
        key = key.view(np.int16)
    counts: Counts = torch.bincount(torch.from_numpy(key), minlength=values).numpy()
    return counts
