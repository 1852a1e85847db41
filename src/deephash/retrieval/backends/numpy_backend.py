"""Count distances with numpy: XOR, popcount and histogram, one query at a time.

``n`` items of a part of the database, ``K`` bits, ``V`` counted values.
"""

import sys

import numpy as np
import numpy.typing as npt

from deephash.retrieval.codes import Array, Counts, popcount
from deephash.retrieval.packed_codes import PackedCodes

PART = 1 << 15  # items counted at once: they fit into the cache, and torch uses one thread


class NumpyCounter:
    """Count items and relevant items at each distance from each query.

    Queries with equal labels follow each other, so that their relevant items are computed once.

    Args:
        query: the queries.
        nbit: K.
    """

    def __init__(self, query: PackedCodes, nbit: int) -> None:
        self.query, self.values = query, nbit + 1
        self.order = np.lexsort(query.marks)
        self.totals = np.zeros((len(query), 2 * self.values), dtype=np.int64)  # not relevant first

    def add(self, part: PackedCodes) -> None:
        """Count the items of a part of the database."""
        marks, words = self.query.marks, [np.ascontiguousarray(word) for word in part.words]
        differ, key = np.empty_like(words[0]), np.empty(len(part), distance_type(2 * self.values))
        relevant, last = np.zeros_like(key), -1
        for query in self.order:
            if last < 0 or (marks[:, query] != marks[:, last]).any():
                relevant = shares_label(self.query, query, part) * key.dtype.type(self.values)
            last = query
            base = relevant
            for word, query_word in zip(words, self.query.words[:, query], strict=True):
                np.bitwise_xor(word, query_word, out=differ)
                base = np.add(popcount(differ), base, out=key)
            self.totals[query] += _value_counts(key, 2 * self.values)

    def counts(self) -> tuple[Counts, Counts]:
        """Return items, and relevant items, at each distance: (Q, K + 1) each."""
        other, relevant = np.split(self.totals, 2, axis=1)
        return other + relevant, relevant.copy()


def distance_type(values: int) -> type[np.uint8] | type[np.uint16]:
    """Return the smallest integer type with at least ``values`` values."""
    return np.uint8 if values <= 256 else np.uint16


def shares_label(queries: PackedCodes, query: int, database: PackedCodes) -> npt.NDArray[np.bool_]:
    """Return whether each item shares a label with one query: (n,) bool."""
    query_marks = queries.marks[:, query]
    if queries.single:
        same: npt.NDArray[np.bool_] = (database.marks[0] == query_marks[0]) & (query_marks[0] >= 0)
        return same
    shared = np.zeros(len(database), dtype=np.bool_)
    for query_mark, marks in zip(query_marks, database.marks, strict=True):
        if query_mark:
            shared |= (marks & query_mark) != 0
    return shared


def _value_counts(key: Array, values: int) -> Counts:
    """Count each value, (V,); with torch if it is loaded, which takes 0.6 of numpy's time."""
    torch = sys.modules.get("torch")
    if torch is None or (key.dtype != np.uint8 and values > 1 << 15):
        return np.bincount(key, minlength=values)
    if key.dtype != np.uint8:
        key = key.view(np.int16)
    counts: Counts = torch.bincount(torch.from_numpy(key), minlength=values).numpy()
    return counts
