"""Count distances with Triton: XOR, popcount and histogram in one kernel.

Requires triton. ``Q`` queries, ``n`` items, ``V`` distances, ``W`` words of 32 bits per
code, ``M`` words of 64 bits per row of labels.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

MOST_BITS = 1022  # 2 V counters and one for padding, in at most 2,048
_TILE = 2048  # items per step of a program
_PROGRAMS = 1 << 13  # the least number of programs, if there are as many tiles
_MOST = 1 << 30  # the most items per program: its counters have 32 bits


def count(
    query: Tensor, query_marks: Tensor, codes: Tensor, marks: Tensor, single: bool, totals: Tensor
) -> None:
    """Add to the counts of each query.

    Args:
        query: (W, Q) int32.
        query_marks: (M, Q) int64.
        codes: (W, n) int32.
        marks: (M, n) int64.
        single: whether marks are classes, -1 for none; else words of labels.
        totals: (Q, 2 V) int64, items that are not relevant at each distance, then relevant ones.
    """
    queries, items = query.shape[1], codes.shape[1]
    tiles = triton.cdiv(items, _TILE)
    programs = min(tiles, triton.cdiv(_PROGRAMS, queries))  # for each query
    programs = max(programs, triton.cdiv(items, _MOST))
    with torch.cuda.device_of(totals):  # type: ignore[no-untyped-call]
        _count[(queries, programs)](
            query, query_marks, codes, marks, totals, queries, items, triton.cdiv(tiles, programs),
            words=codes.shape[0], mark_words=marks.shape[0], single=single,
            values=totals.shape[1] // 2, bins=triton.next_power_of_2(totals.shape[1] + 1),
            tile=_TILE, num_warps=8,
        )  # fmt: skip


@triton.jit  # type: ignore[untyped-decorator]
def _count(  # type: ignore[no-untyped-def]
    query, query_marks, codes, marks, totals, queries, items, tiles,
    words: tl.constexpr, mark_words: tl.constexpr, single: tl.constexpr, values: tl.constexpr,
    bins: tl.constexpr, tile: tl.constexpr,
):  # fmt: skip
    """Count ``tiles`` tiles of items for one query; counters stay in registers until the end."""
    query_index = tl.program_id(0).to(tl.int64)
    first = tl.program_id(1).to(tl.int64) * tiles * tile
    counters = tl.zeros([bins], tl.int32)
    for step in range(tiles):
        item = first + step * tile + tl.arange(0, tile)
        inside = item < items
        key = tl.zeros([tile], tl.int32)
        for w in tl.static_range(words):
            word = tl.load(codes + w * items + item, mask=inside, other=0)
            key += _ones(word ^ tl.load(query + w * queries + query_index))
        near = tl.zeros([tile], tl.int1)
        for m in tl.static_range(mark_words):
            mark = tl.load(marks + m * items + item, mask=inside, other=0)
            wanted = tl.load(query_marks + m * queries + query_index)
            shares = (mark == wanted) & (wanted >= 0) if single else (mark & wanted) != 0
            near = near | shares
        key = tl.where(near, key + values, key)
        counters += tl.histogram(tl.where(inside, key, bins - 1), bins)
    counter = tl.arange(0, bins)
    used = (counter < 2 * values) & (counters > 0)
    tl.atomic_add(totals + query_index * 2 * values + counter, counters.to(tl.int64), mask=used)


@triton.jit
def _ones(word):  # type: ignore[no-untyped-def]
    """Return the number of ones in each word of 32 bits; LLVM recognises it as a popcount."""
    word = word.to(tl.uint32, bitcast=True)
    word = word - ((word >> 1) & 0x55555555)
    word = (word & 0x33333333) + ((word >> 2) & 0x33333333)
    word = (word + (word >> 4)) & 0x0F0F0F0F
    return ((word * 0x01010101) >> 24).to(tl.int32)
