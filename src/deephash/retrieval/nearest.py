"""Find the nearest codes: scan all, and keep what is nearer than a bound for each query.

``N`` codes of ``K`` bits, ``Q`` queries in groups of ``G``, ``M`` results, ``W`` machine words per
code. Both backends compute the same distances and reduce what they keep with the same function.
"""

import itertools
from collections.abc import Iterator

import numpy as np

from deephash.retrieval.backends import load_search
from deephash.retrieval.backends.threads import thread_map
from deephash.retrieval.codes import Array, Counts, as_words, popcount

_QUERIES = 16  # queries whose distances are scanned at once
_CHUNK = 1 << 15  # codes scanned at once; their distances fit into the cache
_SAMPLE = 1 << 12  # codes that give a first bound
_SLACK = 1 << 12  # results collected beyond the required ones before they are reduced
_MOST_RESULTS = 1 << 21  # results in memory at once

_COMPILED_QUERIES = 64  # queries compared at once by compiled code
_RANGE = 1 << 18  # the least number of codes for a thread
_TURNS = 4  # tasks per thread
_TILES = 4  # tiles whose results fit into the buffer of a task


def find(
    codes: Array, removed: Counts, queries: Array, nbit: int, radius: int, k: int | None,
    name: str, threads: int,
) -> Iterator["Nearest"]:  # fmt: skip
    """Yield the nearest codes of groups of queries, in the order of the queries.

    Args:
        codes: (N, ceil(K / 8)) uint8.
        removed: rows of ``codes`` to skip, ascending.
        queries: (Q, ceil(K / 8)) uint8.
        nbit: K.
        radius: the largest distance.
        k: number of nearest codes; None for all within the radius.
        name: of the backend, ``numpy`` or ``numba``.
        threads: number of threads; numpy uses one.
    """
    per_query = 1 if k is None else 2 * k
    step = max(1, _MOST_RESULTS // (_QUERIES * per_query + _SLACK)) * _QUERIES
    for start in range(0, len(queries), step):
        some = queries[start : start + step]
        if name == "numba":
            yield from _find_compiled(codes, removed, some, nbit, radius, k, threads)
        else:
            yield from _find_numpy(codes, removed, some, nbit, radius, k)


def _find_numpy(
    codes: Array, removed: Counts, queries: Array, nbit: int, radius: int, k: int | None
) -> list["Nearest"]:
    """Scan parts of the codes, each for all groups of queries."""
    groups = [queries[start : start + _QUERIES] for start in range(0, len(queries), _QUERIES)]
    results = [Nearest(len(group), nbit, radius, k) for group in groups]
    query_words = [as_words(group) for group in groups]
    for start in range(0, len(codes), _CHUNK):
        stop = min(start + _CHUNK, len(codes))
        words = as_words(codes[start:stop])  # (W, n)
        distance = _distances_buffer(min(_QUERIES, len(queries)), stop - start, nbit)
        for group, nearest in zip(query_words, results, strict=True):
            part = distance[: group.shape[1]]
            _distances(words, group, _between(removed, start, stop), part)
            nearest.add(part, start)
    return results


def _find_compiled(
    codes: Array, removed: Counts, queries: Array, nbit: int, radius: int, k: int | None,
    threads: int,
) -> list["Nearest"]:  # fmt: skip
    """Scan ranges of the codes for groups of queries, in threads."""
    size = max(1, min(_COMPILED_QUERIES, (1 << 16) // (nbit + 1)))
    groups = [queries[start : start + size] for start in range(0, len(queries), size)]
    wanted = -(-_TURNS * threads // len(groups)) if threads > 1 else 1
    ranges = max(1, min(wanted, len(codes) // _RANGE))
    if k is not None:  # each range of each group may hold twice its results
        ranges = max(1, min(ranges, 4 * _MOST_RESULTS // (2 * k * len(queries))))
    ends = np.linspace(0, len(codes), ranges + 1).astype(int).tolist()
    tasks = list(itertools.product(groups, itertools.pairwise(ends)))

    def run(task: tuple[Array, tuple[int, int]]) -> Nearest:
        nearest = Nearest(len(task[0]), nbit, radius, k)
        _scan(codes, removed, task[0], *task[1], nearest)
        return nearest

    done = thread_map(run, tasks, threads if len(tasks) > 1 else 1)
    results = []
    for first in range(0, len(done), ranges):
        nearest = done[first]
        for other in done[first + 1 : first + ranges]:
            nearest.parts += other.parts
        results.append(nearest)
    return results


def _scan(
    codes: Array, removed: Counts, queries: Array, start: int, stop: int, nearest: "Nearest"
) -> None:
    """Scan a range of the codes for one group of queries with compiled code."""
    compiled = load_search()
    if nearest.k is not None:
        end = min(stop, start + max(_SAMPLE, 2 * nearest.k))
        distance = _distances_buffer(len(queries), end - start, nearest.base - 1)
        words = as_words(codes[start:end])
        _distances(words, as_words(queries), _between(removed, start, end), distance)
        nearest.tighten(distance)
    bound = nearest.bound[:, 0].astype(np.int64)
    near = np.zeros(len(queries), dtype=np.int64)
    counts = np.zeros((len(queries), nearest.base), dtype=np.int64)
    k = len(codes) + 1 if nearest.k is None else nearest.k
    query_words = compiled.query_words(queries)
    keys = np.empty(_TILES * len(queries) * compiled.TILE, dtype=np.uint32)
    places = np.empty(len(keys), dtype=np.int64)
    while start < stop:
        words, end = compiled.code_words(codes, start, stop)
        at = 0
        while at < end - start:
            at, count = compiled.collect(
                words, at, query_words, k, bound, near, counts, removed, start, keys, places
            )
            if count:
                nearest.extend(keys[:count], places[:count].copy())
        start = end


def count_within(
    codes: Array, removed: Counts, queries: Array, radius: Counts, nbit: int, name: str,
    threads: int,
) -> Counts:  # fmt: skip
    """Return how many codes are within a radius of each query, (Q,).

    Args:
        codes: (N, ceil(K / 8)) uint8.
        removed: rows of ``codes`` that do not count, ascending.
        queries: (Q, ceil(K / 8)) uint8.
        radius: (Q,) largest distances.
        nbit: K.
        name: of the backend, ``numpy`` or ``numba``.
        threads: number of threads; numpy uses one.
    """

    def count(part: tuple[int, int]) -> Counts:
        start, stop = part
        result = np.zeros(len(queries), dtype=np.int64)
        if name == "numba":
            compiled = load_search()
            query_words = compiled.query_words(queries)
            while start < stop:
                words, start = compiled.code_words(codes, start, stop)
                compiled.add_near(words, query_words, radius, result)
            return result
        words = as_words(codes[start:stop])
        for first in range(0, len(queries), _QUERIES):
            rows = slice(first, first + _QUERIES)
            distance = _distances_buffer(len(queries[rows]), stop - start, nbit)
            _distances(words, as_words(queries[rows]), removed[:0], distance)
            result[rows] = (distance <= radius[rows, None]).sum(axis=1)
        return result

    if not len(queries):
        return np.zeros(0, dtype=np.int64)
    step = _RANGE if name == "numba" else _CHUNK
    parts = [(start, min(start + step, len(codes))) for start in range(0, len(codes), step)]
    counts = sum(thread_map(count, parts, threads if name == "numba" else 1))
    if len(removed):
        none = removed[:0]
        counts = counts - count_within(codes[removed], none, queries, radius, nbit, "numpy", 1)
    return np.zeros(len(queries), dtype=np.int64) + counts


def _between(removed: Counts, start: int, stop: int) -> Counts:
    """Return the removed rows of a part, counted from its start."""
    first, last = np.searchsorted(removed, (start, stop))
    return removed[first:last] - start


def _distances_buffer(queries: int, size: int, nbit: int) -> Array:
    """Return an array for distances (G, n), wide enough for a bound of K + 1."""
    return np.empty((queries, size), dtype=np.uint8 if nbit < 255 else np.uint16)


def _distances(words: Array, query_words: Array, removed: Counts, distance: Array) -> None:
    """Compute the distances (G, n) of codes (W, n) from queries (W, G); removed ones are far."""
    differ = np.empty(words.shape[1], dtype=words.dtype)
    for query, row in zip(query_words.T, distance, strict=True):
        row[:] = popcount(np.bitwise_xor(words[0], query[0], out=differ))
        for word, query_word in zip(words[1:], query[1:], strict=True):
            row += popcount(np.bitwise_xor(word, query_word, out=differ))
    distance[:, removed] = np.iinfo(distance.dtype).max


class Nearest:
    """Collect the items within a radius of G queries, or the k nearest of these.

    Once a query has k items, only items nearer than the last of them are added.
    """

    bound: Array  # (G, 1) distances must be less than it

    def __init__(self, queries: int, nbit: int, radius: int, k: int | None) -> None:
        self.queries, self.k = queries, k
        wide = np.uint8 if nbit < 255 else np.uint16
        self.bound = np.full((queries, 1), radius + 1, dtype=wide)
        self.base = nbit + 1
        short = queries * self.base <= 1 << 16  # for a radix sort, in linear time
        self.kind = np.uint16 if short else np.uint32
        self.count, self.full = 0, queries * k if k else None
        self.parts: list[tuple[Array, Array]] = []  # query * base + distance, and place

    def add(self, distance: Array, start: int) -> None:
        """Add the next codes, whose distances are (G, n)."""
        size = distance.shape[1]
        if not self.parts:
            self.tighten(distance)
        at = (distance < self.bound).ravel().nonzero()[0]
        if not at.size:
            return
        query = at // size
        self.extend(query * self.base + distance.take(at), at - query * size + start)

    def tighten(self, distance: Array) -> None:
        """Take a first bound from the distances (G, n) of some items."""
        if self.k is None or self.k > distance.shape[1]:
            return
        sample = distance[:, : max(_SAMPLE, 2 * self.k)]
        kth = np.partition(sample, self.k - 1, axis=1)[:, self.k - 1 : self.k]
        kth = np.minimum(kth, self.base - 1) + 1  # those that were removed are farther
        self.bound = np.minimum(self.bound, kth, dtype=self.bound.dtype)

    def extend(self, key: Array, place: Array) -> None:
        """Add items by their key, query * (K + 1) + distance; of a query in ascending order."""
        self.parts.append((key.astype(self.kind), place))
        self.count += len(key)
        if self.full is not None and self.count >= self.full:
            self._reduce()

    def results(self) -> tuple[Array, Array, Array]:
        """Return queries, distances and places, sorted by query, distance and place."""
        self._reduce()
        key, place = self.parts[0]
        query = key // self.base
        return query, (key - query * self.base).astype(np.int16), place

    def _reduce(self) -> None:
        """Sort the items, and keep the k nearest."""
        none = np.empty(0, dtype=self.kind), np.empty(0, dtype=np.int64)
        key, place = (np.concatenate(side) for side in zip(none, *self.parts, strict=True))
        order = np.argsort(key, kind="stable")
        key = key[order]
        if self.k is not None:
            first = np.searchsorted(key, np.arange(self.queries) * self.base)
            last = first + self.k - 1
            keep = np.arange(len(key)) - first[key // self.base] < self.k
            stop = np.append(first[1:], len(key))
            for q in np.flatnonzero(last < stop):
                self.bound[q] = key[last[q]] % self.base
            order, key = order[keep], key[keep]
        self.parts = [(key, place[order])]
        self.count = len(key)
        self.full = None if self.k is None else 2 * self.queries * self.k + _SLACK
