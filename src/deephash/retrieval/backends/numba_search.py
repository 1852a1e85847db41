"""Find near codes with numba: XOR, popcount and a comparison with a bound.

``n`` items, ``G`` queries, ``W`` words per code.
"""

from typing import Any

import numpy as np

from deephash.retrieval.backends.numba_backend import _popcount, jitted
from deephash.retrieval.codes import Array, Counts

TILE = 1024  # items compared with all queries before the next ones: they fit into the L1 cache
_COPIED = 1 << 16  # items whose words are copied at once
_FEW = 4  # queries for which several words per code are not transposed


def code_words(codes: Array, start: int, stop: int, most: int = _COPIED) -> tuple[Array, int]:
    """Return the words (n * W,) of the codes from ``start``, and where they end.

    Nothing is copied if a code is 4 bytes or a multiple of 8; else ``most`` codes are returned.
    """
    width = codes.shape[1]
    if width % 8 == 0 or width == 4:
        words = codes[start:stop].reshape(-1).view("<u4" if width == 4 else "<u8")
    else:
        stop = min(stop, start + most)
        padded = np.zeros((stop - start, width + -width % 8), dtype=np.uint8)
        padded[:, :width] = codes[start:stop]
        words = padded.reshape(-1).view("<u8")
    words.flags.writeable = False  # one type for all
    return words, stop


def query_words(codes: Array) -> Array:
    """Return the words (G, W) of queries, of the type that ``code_words`` gives."""
    words, _ = code_words(np.ascontiguousarray(codes), 0, len(codes), most=len(codes))
    return words.reshape(len(codes), -1)


@jitted
def collect(
    words: Array, start: int, queries: Array, k: int, bound: Counts, near: Counts, counts: Counts,
    removed: Counts, first: int, keys: Array, places: Counts,
) -> tuple[int, int]:  # fmt: skip
    """Collect the items that are nearer to a query than its bound, in tiles of ``TILE`` items.

    Once k items are nearer, the bound is lowered to the distance of the last of them: items at
    this distance that follow are not among the k nearest, since ties are in order.

    Args:
        words: (n * W,).
        start: the first item to compare.
        queries: (G, W).
        k: number of nearest items; more than there are items for all below the bound.
        bound: (G,) distances must be less; updated.
        near: (G,) collected items below the bound; updated.
        counts: (G, K + 1) collected items at each distance; updated.
        removed: places of items to skip, ascending.
        first: place of item 0.
        keys: receives query * base + distance of each collected item.
        places: receives their places; ``G * TILE`` entries or more.

    Returns:
        the item to go on with, n at the end or less if ``keys`` may overflow; and the number
        collected. Those of a query are in the order of their places.
    """
    group, wide, base = len(queries), queries.shape[1], counts.shape[1]
    size, count = len(words) // wide, 0
    transposed = wide > 1 and group >= _FEW
    tile = np.empty((wide if transposed else 1, TILE), words.dtype)
    distance = np.empty(TILE, words.dtype)
    while start < size and count + group * TILE <= len(keys):
        items = min(TILE, size - start)
        part = words[start * wide : (start + items) * wide]
        if transposed:
            for j in range(items):
                for w in range(wide):
                    tile[w, j] = part[j * wide + w]
        for g in range(group):
            limit = words.dtype.type(bound[g])
            if wide == 1:
                hit = _compare(part, queries[g, 0], limit)
            elif transposed:
                hit = _compare_tile(tile, items, queries[g], limit, distance)
            else:
                hit = _compare_rows(part, items, queries[g], limit, distance)
            if not hit:
                continue
            if wide == 1:
                query = queries[g, 0]
                for j in range(items):
                    distance[j] = _popcount(part[j] ^ query)
            for j in range(items):
                if distance[j] < limit:
                    place = first + start + j
                    if len(removed) and _contains(removed, place):
                        continue
                    far = np.int64(distance[j])
                    keys[count] = g * base + far
                    places[count] = place
                    count += 1
                    counts[g, far] += 1
                    near[g] += 1
                    if near[g] >= k:
                        while near[g] >= k:
                            bound[g] -= 1
                            near[g] -= counts[g, bound[g]]
                        limit = words.dtype.type(bound[g])
        start += items
    return start, count


@jitted
def add_near(words: Array, queries: Array, radius: Counts, counts: Counts) -> None:
    """Add to ``counts`` (G,) how many items (n * W,) are within a radius (G,) of queries (G, W)."""
    wide = queries.shape[1]
    size = len(words) // wide
    for start in range(0, size, TILE):
        stop = min(size, start + TILE)
        for g in range(len(queries)):
            limit, near = words.dtype.type(radius[g]), words.dtype.type(0)
            if wide == 1:
                query = queries[g, 0]
                for j in range(start, stop):
                    near += words.dtype.type(_popcount(words[j] ^ query) <= limit)
            else:
                for j in range(start, stop):
                    distance = words.dtype.type(0)
                    for w in range(wide):
                        distance += _popcount(words[j * wide + w] ^ queries[g, w])
                    near += words.dtype.type(distance <= limit)
            counts[g] += near


@jitted
def _compare(words: Array, query: Any, limit: Any) -> Any:
    """Return whether any code of one word is nearer than a limit.

    A difference below 0 has its highest bit set; this takes two thirds of the time of a minimum.
    """
    signs = words.dtype.type(0)
    for j in range(len(words)):
        signs |= words.dtype.type(_popcount(words[j] ^ query) - limit)
    return signs > words.dtype.type(1 << 31)


@jitted
def _compare_tile(tile: Array, items: int, query: Array, limit: Any, distance: Array) -> Any:
    """Compute the distances of a tile (W, n); return whether any is less than a limit."""
    wide, signs = len(query), tile.dtype.type(0)
    first, second = tile[0], tile[1]
    a, b = query[0], query[1]
    for j in range(items):
        distance[j] = _popcount(first[j] ^ a) + _popcount(second[j] ^ b)
    for w in range(2, wide - 1, 2):
        first, second = tile[w], tile[w + 1]
        a, b = query[w], query[w + 1]
        for j in range(items):
            distance[j] += _popcount(first[j] ^ a) + _popcount(second[j] ^ b)
    if wide % 2:
        first, a = tile[wide - 1], query[wide - 1]
        for j in range(items):
            distance[j] += _popcount(first[j] ^ a)
    for j in range(items):
        signs |= distance[j] - limit
    return signs > tile.dtype.type(1 << 31)


@jitted
def _compare_rows(words: Array, items: int, query: Array, limit: Any, distance: Array) -> Any:
    """As ``_compare_tile`` for words (n * W,)."""
    wide, signs = len(query), words.dtype.type(0)
    for j in range(items):
        total = words.dtype.type(0)
        for w in range(wide):
            total += _popcount(words[j * wide + w] ^ query[w])
        distance[j] = total
        signs |= total - limit
    return signs > words.dtype.type(1 << 31)


@jitted
def _contains(rows: Counts, row: int) -> Any:
    """Return whether ascending rows contain a row."""
    at = np.searchsorted(rows, row)
    return at < len(rows) and rows[at] == row
