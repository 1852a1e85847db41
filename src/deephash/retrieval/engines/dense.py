"""Counting with torch: distances as a product of matrices, made for CUDA.

``q`` queries at once, ``n`` items at once, ``K`` bits, ``V`` = K + 1 distances.
"""

import numpy as np
import torch
from torch import Tensor

from deephash.retrieval.codes import Counts
from deephash.retrieval.sides import Side

PART = 1 << 20  # items on the device at once
_PAIRS = {"cuda": 1 << 24, "cpu": 1 << 20}  # pairs worked on at once, 20 bytes each
_COUNTERS = 1 << 25  # used at once
_EXACT = 2048  # whole numbers up to it are exact in half precision


def add_counts(
    asked: Side, held: Side, items: Counts, relevant: Counts, device: torch.device
) -> None:
    """Adds to the items and relevant items at each distance, (Q, K + 1) each."""
    values = items.shape[1]
    nbit = values - 1
    signs, marks = _signs(held, nbit, device), _marks(held, device)
    pairs = _PAIRS.get(device.type, _PAIRS["cpu"])
    step = max(1, min(pairs // len(held), _COUNTERS // (2 * values)))
    for start in range(0, len(asked), step):
        some = slice(start, start + step)
        block = asked.take(some)
        key = (nbit - _signs(block, nbit, device) @ signs.T).int() >> 1  # (q, n)
        key += values * _share_label(block, marks, device).int()
        key += 2 * values * torch.arange(len(block), device=device, dtype=torch.int32)[:, None]
        counts = torch.bincount(key.flatten(), minlength=2 * values * len(block))
        far, near = counts.view(len(block), 2, values).cpu().numpy().transpose(1, 0, 2)
        items[some] += far + near
        relevant[some] += near


def _signs(side: Side, nbit: int, device: torch.device) -> Tensor:
    """(n, K) of +1 and -1, in the fastest format whose products are exact."""
    half = device.type == "cuda" and 2 * nbit <= _EXACT
    packed = torch.tensor(side.codes, device=device)
    shift = torch.arange(7, -1, -1, device=device, dtype=torch.uint8)
    bits = (packed[:, :, None] >> shift & 1).flatten(1)[:, :nbit]
    return bits.to(torch.float16 if half else torch.float32).mul_(2).sub_(1)


def _marks(side: Side, device: torch.device) -> Tensor:
    """(M, n) int64: the class, or words of labels."""
    return torch.tensor(side.wide()[1].view(np.int64), device=device)


def _share_label(asked: Side, held: Tensor, device: torch.device) -> Tensor:
    """(q, n) bool."""
    wanted = _marks(asked, device)
    if asked.single:
        return (wanted[0, :, None] == held[0]) & (wanted[0, :, None] >= 0)
    shared = torch.zeros(len(asked), held.shape[1], dtype=torch.bool, device=device)
    for mine, theirs in zip(wanted, held, strict=True):
        shared |= (mine[:, None] & theirs) != 0
    return shared
