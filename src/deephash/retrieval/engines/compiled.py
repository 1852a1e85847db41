"""Counting with numba: XOR, popcount, and counters that do not wait for each other.

``Q`` queries, ``n`` items of a part of the database, ``K`` bits, ``W`` words per code, ``M`` per
row of labels. Importing it needs numba.
"""

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
import numpy.typing as npt
from numba.extending import intrinsic

from deephash.retrieval.codes import Array, Counts
from deephash.retrieval.engines.threads import shared_out
from deephash.retrieval.sides import Side

PART = 1 << 16  # items looked at together: codes and labels stay in the cache
_ROW = 64  # words of a buffer
_BLOCK = 1024  # items whose distances are noted before they are used
_TURN = 16  # queries that a thread takes at once
_u64 = np.uint64


def _one_instruction(typing: Any, word: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return builder.ctpop(values[0])

    return word(word), generate


_popcount: Any = intrinsic(_one_instruction)


def _counter(lanes: int) -> Callable[..., None]:
    """Counts with so many distances to a word of 64 bits.

    The distance fills the lower bits of its lane, whether the item is relevant the highest one.
    Each lane has counters of its own, so that of two equal distances in a row the second does not
    wait for the first. Wide lanes are counted in less room: relevant items behind the others.
    """
    width = 64 // lanes
    high, packed = width - 1, lanes == 8
    mask, below = (1 << width) - 1, (1 << (width - 1)) - 1

    @numba.njit(nogil=True, cache=True, error_model="numpy")  # type: ignore[untyped-decorator]
    def count(
        first: int, last: int, asked: Array, asked_marks: Array, words: Array, marks: Array,
        single: bool, items: Counts, relevant: Counts,
    ) -> None:  # fmt: skip
        values, size = items.shape[1], words.shape[1]
        behind = 128 if packed else values
        table = np.zeros((lanes, 2 * behind), np.uint32)
        row = np.empty(_ROW, np.uint64)
        blocks = size // (lanes * _ROW)
        for query in range(first, last):
            table[:] = 0
            for block in range(blocks):
                start = block * lanes * _ROW
                row[:] = 0
                for w in range(words.shape[0]):
                    mine, theirs = asked[w, query], words[w, start : start + lanes * _ROW]
                    for j in range(_ROW):
                        bits = _u64(0)
                        for lane in range(lanes):
                            differ = _popcount(theirs[lane * _ROW + j] ^ mine)
                            bits |= differ << _u64(lane * width)
                        row[j] += bits
                for m in range(marks.shape[0]):
                    wanted, held = asked_marks[m, query], marks[m, start : start + lanes * _ROW]
                    for j in range(_ROW):
                        bits = _u64(0)
                        for lane in range(lanes):
                            mark = held[lane * _ROW + j]
                            shares = mark == wanted if single else (mark & wanted) != 0
                            bits |= _u64(shares) << _u64(lane * width + high)
                        row[j] |= bits
                for j in range(_ROW):
                    for lane in range(lanes):
                        at = (row[j] >> _u64(lane * width)) & _u64(mask)
                        if not packed:
                            at = (at & _u64(below)) + (at >> _u64(high)) * _u64(values)
                        table[lane, at] += np.uint32(1)
            for lane in range(lanes):
                for distance in range(values):
                    near = table[lane, behind + distance]
                    items[query, distance] += np.int64(table[lane, distance]) + near
                    relevant[query, distance] += near
            for i in range(blocks * lanes * _ROW, size):
                distance, shares = _judged(i, query, asked, asked_marks, words, marks, single)
                items[query, distance] += 1
                relevant[query, distance] += shares

    return count


@numba.njit(nogil=True, cache=True, error_model="numpy")  # type: ignore[untyped-decorator]
def _judged(
    i: int, query: int, asked: Array, asked_marks: Array, words: Array, marks: Array, single: bool
) -> tuple[int, bool]:
    """The distance of one item from one query, and whether it is relevant."""
    distance: Any = 0
    shares = False
    for w in range(words.shape[0]):
        distance += np.int64(_popcount(words[w, i] ^ asked[w, query]))
    for m in range(marks.shape[0]):
        if single:
            shares |= marks[m, i] == asked_marks[m, query]
        else:
            shares |= (marks[m, i] & asked_marks[m, query]) != 0
    return distance, shares


_narrow, _wide = _counter(8), _counter(4)


def add_counts(asked: Side, held: Side, items: Counts, relevant: Counts, threads: int) -> None:
    """Adds to the items and relevant items at each distance, (Q, K + 1) each."""
    count = _narrow if items.shape[1] <= 128 else _wide
    words, marks = _known(asked), held.wide()

    def turn(first: int) -> None:
        last = min(first + _TURN, len(asked))
        count(first, last, *words, *marks, asked.single, items, relevant)

    shared_out(turn, range(0, len(asked), _TURN), threads)


def positions(
    asked: Side, held: Side, items: Counts, relevant: Counts, radius: Counts
) -> Callable[[int], Counts]:
    """Makes a function: query -> the places that its relevant items take, of equals as they lie.

    Args:
        asked: the queries.
        held: the whole database.
        items: (Q, K + 1) at each distance, and
        relevant: the relevant ones among them.
        radius: (Q,) how far an item may be.
    """
    words, marks = _known(asked), held.wide()
    place, rank = items.cumsum(axis=1) - items, relevant.cumsum(axis=1)
    total = rank[np.arange(len(asked)), radius]
    rank -= relevant

    def of(query: int) -> Counts:
        found = np.empty(total[query] + 1, dtype=np.int64)  # one place for what is not relevant
        state = place[query].copy(), rank[query].copy()
        _place(query, *words, *marks, held.single, radius[query], *state, found)
        return found[:-1]

    return of


@numba.njit(nogil=True, cache=True, error_model="numpy")  # type: ignore[untyped-decorator]
def _place(
    query: int, asked: Array, asked_marks: Array, words: Array, marks: Array, single: bool,
    radius: int, place: Counts, rank: Counts, found: Counts,
) -> None:  # fmt: skip
    """Counting sort: ``place`` and ``rank`` say where the next item of each distance goes."""
    distances, shared = np.empty(_BLOCK, np.uint64), np.empty(_BLOCK, np.uint64)
    nowhere = len(found) - 1
    for start in range(0, words.shape[1], _BLOCK):
        size = min(_BLOCK, words.shape[1] - start)
        distances[:] = 0
        shared[:] = 0
        for w in range(words.shape[0]):
            mine, theirs = asked[w, query], words[w, start : start + size]
            for j in range(size):
                distances[j] += _popcount(theirs[j] ^ mine)
        for m in range(marks.shape[0]):
            wanted, held = asked_marks[m, query], marks[m, start : start + size]
            for j in range(size):
                shared[j] |= _u64(held[j] == wanted) if single else held[j] & wanted
        for j in range(size):
            distance = distances[j]
            if distance <= radius:
                shares = shared[j] != 0
                found[rank[distance] if shares else nowhere] = place[distance]
                rank[distance] += shares
                place[distance] += 1


def _known(asked: Side) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
    """Queries as words; one without a class is made unlike an item without."""
    words, marks = asked.wide()
    if asked.single:
        marks = np.where(marks == _u64(-1 & 2**64 - 1), _u64(-2 & 2**64 - 1), marks)
    return words, marks
