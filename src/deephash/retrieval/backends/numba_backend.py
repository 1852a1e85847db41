"""Count distances with numba: XOR, popcount, and one counter for two queries at once.

``Q`` queries, ``n`` items of a part of the database, ``K`` bits, ``V`` = K + 1 distances, ``W``
words per code, ``M`` words per row of labels.
"""

import math
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
import numpy.typing as npt
from numba.extending import intrinsic

from deephash.retrieval.backends.threads import thread_map
from deephash.retrieval.codes import Array, Counts, as_words
from deephash.retrieval.packed_codes import PackedCodes, label_marks

_LANES, _WIDTH = 4, 16  # keys per word of 64 bits, and bits per key
_KEYS = 1 << _WIDTH  # possible keys
_ROW = 64  # words of keys computed before they are used
_STEP = _LANES * _ROW  # items per row
PART = _KEYS - _STEP  # items counted at once: their number fits into a counter
_TURNS = 8  # tasks per thread
_BLOCK = 1024  # items whose distances are computed before they are used
_u64, _u16, _u32 = np.uint64, np.uint16, np.uint32
_ALL = _u32(2**32 - 1)


def _one_instruction(typing: Any, word: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return builder.ctpop(values[0])

    return word(word), generate


_popcount: Any = intrinsic(_one_instruction)


class NumbaCounter:
    """Count items and relevant items at each distance from each query.

    Queries are sorted by labels, and two neighbours are counted together: a table has a counter for
    each pair of distances (V, V), and its sums along one axis are the counts of one query. There is
    one table for items relevant to neither, and others for items relevant to both, to the first,
    and to the second; the table of an item is computed once for all neighbours with equal labels.
    If the codes are too long for keys of 16 bits, only queries with equal labels are counted
    together, and still longer codes one query at a time.

    Args:
        query: the queries.
        nbit: K.
        threads: number of threads.
    """

    def __init__(self, query: PackedCodes, nbit: int, threads: int) -> None:
        self.threads, self.single = threads, query.single
        words, marks = as_words(query.codes, 8), _marks(query)
        if self.single:  # so that a query without a class differs from an item without
            marks[0, (marks == _ALL).all(axis=0)] -= 1
        self.words, self.marks = words, marks
        self.items = np.zeros((len(query), nbit + 1), dtype=np.int64)
        self.relevant = np.zeros_like(self.items)
        squares, order = (nbit + 1) ** 2, np.lexsort(marks)
        if 2 * squares > _KEYS:
            self.count, self.pairs = _singles, order[:, None].repeat(2, axis=1)
        else:
            self.count = _pairs
            self.pairs = _neighbours(marks, order, any_labels=4 * squares <= _KEYS)

    def add(self, part: PackedCodes) -> None:
        """Count the items of a part of the database, at most ``PART``."""
        spare = -len(part) % _STEP  # padding: codes of zeros, without labels
        words = np.pad(as_words(part.codes, 8), ((0, 0), (0, spare)))
        in_rows = _aligned((len(words), words.shape[1] // _STEP, _LANES, _ROW))
        in_rows[:] = words.reshape(len(words), -1, _ROW, _LANES).swapaxes(2, 3)
        words = in_rows.reshape(words.shape)
        marks = _marks(part)
        none = _ALL if self.single else _u32(0)
        query_marks, marks = _without_zeros(self.marks, marks, single=self.single)
        marks = np.pad(marks, ((0, 0), (0, spare)), constant_values=none)

        turn = -(-len(self.pairs) // (_TURNS * self.threads))  # pairs per task

        def count(first: int) -> None:
            pairs = self.pairs[first : first + turn]
            self.count(
                pairs, self.words, query_marks, words, marks, self.single, spare, self.items,
                self.relevant,
            )  # fmt: skip

        thread_map(count, range(0, len(self.pairs), turn), self.threads)

    def counts(self) -> tuple[Counts, Counts]:
        """Return items, and relevant items, at each distance: (Q, K + 1) each."""
        return self.items, self.relevant


def _marks(packed: PackedCodes) -> Array:
    """Return (M, n) words of 32 bits: labels, or both halves of the class, all ones for none."""
    if not packed.single:
        return label_marks(packed.labels, 4)
    return np.ascontiguousarray(packed.marks[0].view(np.uint32).reshape(-1, 2).T)


def _without_zeros(query_marks: Array, marks: Array, single: bool) -> tuple[Array, Array]:
    """Drop the words that are 0 on both sides, such as the upper half of most classes."""
    used = np.logical_or(query_marks.any(axis=1), marks.any(axis=1))
    used[0] = True
    if single and (query_marks[0] == _ALL).any():  # the upper half tells this class from none
        used[:] = True
    return query_marks[used], marks[used]


def _aligned(shape: tuple[int, ...]) -> npt.NDArray[np.uint64]:
    """Return an array aligned to a cache line, so that no vector lies in two."""
    size = math.prod(shape)
    memory = np.empty(size + 8, np.uint64)
    first = -memory.ctypes.data // 8 % 8
    return memory[first : first + size].reshape(shape)


def _neighbours(marks: Array, order: Counts, any_labels: bool) -> Counts:
    """Return pairs of queries (P, 2); a query without a partner is paired with itself.

    Args:
        marks: (M, Q).
        order: (Q,) in which queries with equal labels are neighbours.
        any_labels: whether queries with different labels may be paired.
    """
    if any_labels:
        return np.append(order, order[-1:])[: len(order) + len(order) % 2].reshape(-1, 2)
    marks = marks[:, order]
    alike = (marks[:, 1:] == marks[:, :-1]).all(axis=0)
    pairs, query, last = [], 0, len(order) - 1
    while query <= last:
        other = query + 1 if query < last and alike[query] else query
        pairs.append((query, other))
        query = other + 1
    ordered: Counts = order[np.array(pairs)]
    return ordered


def jitted(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function on its first call; its machine code is kept on disk."""
    result: Callable[..., Any] = numba.njit(nogil=True, cache=True, error_model="numpy")(function)
    return result


@jitted
def _pairs(
    pairs: Counts, query: Array, query_marks: Array, words: Array, marks: Array, single: bool,
    spare: int, items: Counts, relevant: Counts,
) -> None:  # fmt: skip
    """Count for pairs of queries; the last ``spare`` items are padding."""
    values, rows = items.shape[1], words.shape[1] // _LANES
    size = values * values
    tables = np.zeros((4, values, values), np.uint16)  # relevant to none, a, b, both; or none, both
    counters = tables.reshape(4 * size)
    row, table = np.empty(_ROW, np.uint64), np.empty(words.shape[1], np.uint16)
    keys, bases = row.view(np.uint16), table.view(np.uint64)
    first_of, second_of = np.empty((4, values), np.int64), np.empty((4, values), np.uint32)
    before = -1
    for pair in range(len(pairs)):
        a, b = pairs[pair]
        alike, current = _equal(query_marks, a, b), False
        if before >= 0:
            c, d = pairs[before]
            current = _equal(query_marks, a, c) and _equal(query_marks, b, d)
        if not current:
            second = _u16(0 if alike else 2 * size)
            _tables(table, a, b, query_marks, marks, single, _u16(size), second)
        before = pair
        for start in range(0, rows, _ROW):
            first, stop = start * _LANES, (start + _ROW) * _LANES
            base, part = bases[start : start + _ROW], words[0, first:stop]
            _add_two(base, row, part, query[0, a], query[0, b], values)
            for w in range(1, words.shape[0]):
                _add_two(row, row, words[w, first:stop], query[w, a], query[w, b], values)
            for key in keys:
                counters[key] += _u16(1)
        used = 2 if alike else 4
        second_of[:] = 0
        for t in range(used):
            for i in range(values):
                total, line, sums = _u32(0), tables[t, i], second_of[t]
                for j in range(values):
                    count = _u32(line[j])
                    total = _u32(total + count)
                    sums[j] += count
                    line[j] = 0
                first_of[t, i] = total
        for i in range(values):
            for t in range(used):
                items[a, i] += first_of[t, i]
                relevant[a, i] += first_of[t, i] if t % 2 else 0
                if a != b:
                    items[b, i] += second_of[t, i]
                    relevant[b, i] += second_of[t, i] if t >= used // 2 else 0
        _remove_padding(a, spare, query, items)
        if a != b:
            _remove_padding(b, spare, query, items)


@jitted
def _singles(
    pairs: Counts, query: Array, query_marks: Array, words: Array, marks: Array, single: bool,
    spare: int, items: Counts, relevant: Counts,
) -> None:  # fmt: skip
    """Count for one query at a time, as ``_pairs``; each lane has a table if they fit."""
    values, rows = items.shape[1], words.shape[1] // _LANES
    apart = 2 * values if 2 * values * _LANES <= _KEYS else 0
    counters = np.zeros(2 * values + apart * (_LANES - 1), np.uint16)
    row, table = np.empty(_ROW, np.uint64), np.empty(words.shape[1], np.uint16)
    keys, bases = row.view(np.uint16), table.view(np.uint64)
    lanes = _u64(0)
    for lane in range(_LANES):
        lanes |= _u64(lane * apart) << _u64(lane * _WIDTH)
    before = -1
    for pair in range(len(pairs)):
        a = pairs[pair, 0]
        if before < 0 or not _equal(query_marks, a, pairs[before, 0]):
            _tables(table, a, a, query_marks, marks, single, _u16(values), _u16(0))
            bases += lanes
        before = pair
        for start in range(0, rows, _ROW):
            first, stop = start * _LANES, (start + _ROW) * _LANES
            _add_one(bases[start : start + _ROW], row, words[0, first:stop], query[0, a])
            for w in range(1, words.shape[0]):
                _add_one(row, row, words[w, first:stop], query[w, a])
            for key in keys:
                counters[key] += _u16(1)
        for first in range(0, len(counters), 2 * values):
            for i in range(values):
                near = np.int64(counters[first + values + i])
                items[a, i] += near + np.int64(counters[first + i])
                relevant[a, i] += near
        counters[:] = 0
        _remove_padding(a, spare, query, items)


@jitted
def _equal(marks: Array, a: int, b: int) -> bool:
    """Return whether two queries have equal labels."""
    equal = True
    for m in range(marks.shape[0]):
        equal = equal and marks[m, a] == marks[m, b]
    return equal


@jitted
def _tables(
    table: Array, a: int, b: int, query_marks: Array, marks: Array, single: bool,
    first: Any, second: Any,
) -> None:  # fmt: skip
    """Find the start of the table of each item.

    It is ``first`` for items relevant to ``a``, ``second`` to ``b``, their sum to both, else 0.
    """
    bits_a, bits_b = np.empty(_STEP, np.uint32), np.empty(_STEP, np.uint32)
    for start in range(0, len(table), _STEP):
        for m in range(marks.shape[0]):
            part = marks[m, start : start + _STEP]
            mark_a, mark_b = query_marks[m, a], query_marks[m, b]
            for j in range(_STEP):
                of_a = part[j] ^ mark_a if single else part[j] & mark_a
                of_b = part[j] ^ mark_b if single else part[j] & mark_b
                bits_a[j] = of_a if m == 0 else bits_a[j] | of_a
                bits_b[j] = of_b if m == 0 else bits_b[j] | of_b
        starts = table[start : start + _STEP]
        for j in range(_STEP):
            to_a = first if (bits_a[j] != 0) != single else _u16(0)
            to_b = second if (bits_b[j] != 0) != single else _u16(0)
            starts[j] = _u16(to_a + to_b)


@jitted
def _add_two(base: Array, row: Array, words: Array, a: Any, b: Any, values: int) -> None:
    """Add V times the distance from ``a``, plus that from ``b``, to the keys of a row."""
    factor = _u64(_u32(values))
    for j in range(_ROW):
        bits = base[j]
        for lane in range(_LANES):
            word = words[lane * _ROW + j]
            far = (_popcount(word ^ a) & _u64(255)) * factor + _popcount(word ^ b)
            bits += far << _u64(lane * _WIDTH)
        row[j] = bits


@jitted
def _add_one(base: Array, row: Array, words: Array, a: Any) -> None:
    """Add the distance from ``a`` to the keys of a row."""
    for j in range(_ROW):
        bits = base[j]
        for lane in range(_LANES):
            bits += _popcount(words[lane * _ROW + j] ^ a) << _u64(lane * _WIDTH)
        row[j] = bits


@jitted
def _remove_padding(query: int, spare: int, words: Array, items: Counts) -> None:
    """Subtract the counts of the padding: codes of zeros without labels."""
    distance = np.int64(0)
    for w in range(words.shape[0]):
        distance += np.int64(_popcount(words[w, query]))
    items[query, distance] -= spare


def positions(
    queries: PackedCodes, database: PackedCodes, items: Counts, relevant: Counts, radius: Counts
) -> Callable[[int], Counts]:
    """Return a function of a query that finds the places of its relevant items, ties in order.

    Args:
        queries: the queries.
        database: the whole database.
        items: (Q, K + 1) items at each distance.
        relevant: (Q, K + 1) relevant ones among them.
        radius: (Q,) the largest distance.
    """
    query_words, query_marks = queries.wide()
    if queries.single:  # so that a query without a class differs from an item without
        query_marks = np.where(query_marks == _u64(2**64 - 1), _u64(2**64 - 2), query_marks)
    words, marks = database.wide()
    place, rank = items.cumsum(axis=1) - items, relevant.cumsum(axis=1)
    total = rank[np.arange(len(queries)), radius]
    rank -= relevant

    def positions_of(query: int) -> Counts:
        result = np.empty(total[query] + 1, dtype=np.int64)  # the last entry for all other items
        _place(
            query, query_words, query_marks, words, marks, database.single, radius[query],
            place[query].copy(), rank[query].copy(), result,
        )  # fmt: skip
        return result[:-1]

    return positions_of


@jitted
def _place(
    query: int, query_words: Array, query_marks: Array, words: Array, marks: Array, single: bool,
    radius: int, place: Counts, rank: Counts, result: Counts,
) -> None:  # fmt: skip
    """Sort by counting: ``place`` and ``rank`` are the next ones at each distance."""
    distances, shared = np.empty(_BLOCK, np.uint64), np.empty(_BLOCK, np.uint64)
    other = len(result) - 1
    for start in range(0, words.shape[1], _BLOCK):
        size = min(_BLOCK, words.shape[1] - start)
        distances[:] = 0
        shared[:] = 0
        for w in range(words.shape[0]):
            query_word, part = query_words[w, query], words[w, start : start + size]
            for j in range(size):
                distances[j] += _popcount(part[j] ^ query_word)
        for m in range(marks.shape[0]):
            query_mark, part = query_marks[m, query], marks[m, start : start + size]
            for j in range(size):
                shared[j] |= _u64(part[j] == query_mark) if single else part[j] & query_mark
        for j in range(size):
            distance = distances[j]
            if distance <= radius:
                shares = shared[j] != 0
                result[rank[distance] if shares else other] = place[distance]
                rank[distance] += shares
                place[distance] += 1
