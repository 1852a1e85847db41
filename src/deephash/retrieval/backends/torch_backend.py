"""Count distances with torch on the device of the codes: CUDA, another accelerator, or the CPU.

Codes and counts stay on the device during a pass, and the counts are integers throughout.
``q`` queries at once, ``n`` items at once, ``K`` bits, ``V`` = K + 1 distances, ``W`` words per
code, ``M`` words per row of labels.
"""

import importlib
import importlib.util
import logging
from abc import ABC, abstractmethod
from functools import cache, partial
from types import ModuleType

import numpy as np
import torch
from torch import Tensor

from deephash.errors import DataError
from deephash.retrieval.codes import Array, Counts, as_words
from deephash.retrieval.packed_codes import PackedCodes

PART = 1 << 20  # items on the device at once
_PAIRS = {"cuda": 1 << 24, "cpu": 1 << 18}  # pairs processed at once, up to 20 bytes each
_COUNTERS = 1 << 25  # counters used at once
_EXACT = 2048  # integers up to it are exact in half precision
log = logging.getLogger(__name__)
_failed: dict[torch.device, str] = {}  # why Triton is not used on a device; empty if it is


class DeviceCounter(ABC):
    """Count on a device.

    Args:
        query: the queries.
        nbit: K.
        device: the device.
    """

    def __init__(self, query: PackedCodes, nbit: int, device: torch.device) -> None:
        self.nbit, self.device, self.single = nbit, device, query.single
        self.codes, self.marks = self.code_tensor(query), self.mark_tensor(query)
        self.totals = torch.zeros(
            len(query), 2 * (nbit + 1), dtype=torch.int64, device=device
        )  # (Q, 2 V) items that are not relevant at each distance, then the relevant ones

    @abstractmethod
    def add(self, part: PackedCodes) -> None:
        """Count the items of a part of the database."""

    def counts(self) -> tuple[Counts, Counts]:
        """Return items, and relevant items, at each distance: (Q, V) each."""
        other, relevant = np.split(self.totals.cpu().numpy(), 2, axis=1)
        return other + relevant, relevant.copy()

    def code_tensor(self, packed: PackedCodes) -> Tensor:
        """Return the codes in the form of this counter; here (W, n) int32."""
        return self.tensor(as_words(packed.codes, 4).view(np.int32))

    def mark_tensor(self, packed: PackedCodes) -> Tensor:
        """Return marks (M, n) int64: the class, -1 for none, or words of labels."""
        return self.tensor(packed.wide()[1].view(np.int64))

    def tensor(self, values: Array) -> Tensor:
        """Return a copy on the device."""
        return torch.tensor(np.ascontiguousarray(values), device=self.device)


class Blocks(DeviceCounter):
    """Count blocks of queries by items; subclasses compute the distances."""

    @abstractmethod
    def distances(self, query: Tensor, codes: Tensor) -> Tensor:
        """Return distances (q, n) int32 of slices of ``code_tensor``."""

    def add(self, part: PackedCodes) -> None:
        """Count the items of a part of the database."""
        values, codes, marks = self.nbit + 1, self.code_tensor(part), self.mark_tensor(part)
        pairs = _PAIRS.get(self.device.type, _PAIRS["cpu"])
        step = max(1, min(pairs // len(part), _COUNTERS // (2 * values)))
        for start in range(0, len(self.totals), step):
            queries = slice(start, start + step)
            key = self.distances(self.codes[:, queries], codes)
            key += values * self.share_label(self.marks[:, queries], marks)
            row = torch.arange(len(key), device=self.device, dtype=torch.int32)
            key += 2 * values * row[:, None]
            counts = torch.bincount(key.flatten(), minlength=2 * values * len(key))
            self.totals[queries] += counts.view(len(key), 2 * values)

    def share_label(self, query: Tensor, marks: Tensor) -> Tensor:
        """Return whether each item is relevant, (q, n) bool."""
        if self.single:
            return (query[0, :, None] == marks[0]) & (query[0, :, None] >= 0)
        shared = torch.zeros(query.shape[1], marks.shape[1], dtype=torch.bool, device=self.device)
        for query_mark, mark in zip(query, marks, strict=True):
            shared |= (query_mark[:, None] & mark) != 0
        return shared


class Bits(Blocks):
    """Compute distances by XOR and popcount of words of 32 bits."""

    def distances(self, query: Tensor, codes: Tensor) -> Tensor:
        """Return distances (q, n) int32."""
        total, *others = (ones(a[:, None] ^ b) for a, b in zip(query, codes, strict=True))
        for count in others:
            total += count
        return total


class Matmul(Blocks):
    """Compute distances by a product of matrices of +1 and -1."""

    def code_tensor(self, packed: PackedCodes) -> Tensor:
        """Return codes (K, n) of +1 and -1, in the fastest format whose products are exact."""
        half = self.device.type == "cuda" and 2 * self.nbit <= _EXACT
        codes = self.tensor(packed.codes)
        shift = torch.arange(7, -1, -1, device=self.device, dtype=torch.uint8)
        bits = (codes[:, :, None] >> shift & 1).flatten(1)[:, : self.nbit]
        return bits.to(torch.float16 if half else torch.float32).mul_(2).sub_(1).T

    def distances(self, query: Tensor, codes: Tensor) -> Tensor:
        """Return distances (q, n) int32."""
        return (self.nbit - query.T @ codes).int() >> 1


def ones(words: Tensor) -> Tensor:
    """Replace each word (int32, any shape) by the number of its ones; return the same tensor.

    Sums of neighbouring bits, pairs and halves of bytes; a product adds the bytes.
    """
    words -= (words >> 1).bitwise_and_(0x55555555)
    pairs = (words >> 2).bitwise_and_(0x33333333)
    words.bitwise_and_(0x33333333).add_(pairs)
    words.add_(words >> 4).bitwise_and_(0x0F0F0F0F)
    return words.mul_(0x01010101).bitwise_right_shift_(24)


class Triton(Bits):
    """Compute distances and counts by one Triton kernel; as ``Bits`` if the first launch fails.

    Args:
        query: the queries.
        nbit: K.
        device: the device.
        required: raise if the first launch fails.
    """

    def __init__(self, query: PackedCodes, nbit: int, device: torch.device, required: bool) -> None:
        super().__init__(query, nbit, device)
        self.required = required

    def add(self, part: PackedCodes) -> None:
        """Count the items of a part of the database."""
        failed = _failed.get(self.device, "")
        if not failed or self.required:
            failed = self.launch(self.code_tensor(part), self.mark_tensor(part))
        if failed:
            super().add(part)

    def launch(self, codes: Tensor, marks: Tensor) -> str:
        """Launch the kernel; return why it failed, or an empty string.

        Each kind of labels and length of codes is compiled at its first launch.
        """
        kernels = load_kernels()
        assert kernels is not None
        count = partial(
            kernels.count, self.codes, self.marks, codes, marks, self.single, self.totals
        )
        try:
            count()
            if self.device.type == "cuda" and self.device not in _failed:
                torch.cuda.synchronize(self.device)  # errors of the first launch are raised here
            _failed[self.device] = ""
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # of Triton, its C compiler or the driver
            cause = f"{type(error).__name__}: {error}".strip().splitlines()[0]
            if self.required:
                raise DataError(f"kernel=triton: {cause}; try kernel=auto") from error
            _failed[self.device] = cause
            log.warning("Triton cannot be used on %s, torch counts instead: %s", self.device, cause)
        return _failed[self.device]


def counter(query: PackedCodes, nbit: int, device: torch.device, kernel: str) -> DeviceCounter:
    """Return the counter of a kernel, one of ``KERNELS``, on a device.

    Raises:
        DataError: if ``triton`` is requested and cannot be used.
    """
    name, reason = (kernel, "requested") if kernel != "auto" else chosen_kernel(device, nbit)
    log.debug("kernel=%s counts %d bits on %s: %s", name, nbit, device, reason)
    if name == "triton":
        kernels = load_kernels()
        if kernels is None or nbit > kernels.MOST_BITS:
            limit = "" if kernels is None else f", and of at most {kernels.MOST_BITS} bits"
            raise DataError(
                f"kernel=triton needs a triton that can be imported{limit}; try kernel=auto"
            )
        return Triton(query, nbit, device, required=kernel == "triton")
    return (Bits if name == "bits" else Matmul)(query, nbit, device)


def chosen_kernel(device: torch.device, nbit: int) -> tuple[str, str]:
    """Return the kernel for a device and K bits, and the reason."""
    if device.type == "cpu":
        return "bits", "triton needs a GPU"
    if device.type != "cuda":
        return "matmul", f"a product of matrices works on {device.type} too"
    kernels = load_kernels()
    if kernels is None:
        return "bits", "triton cannot be imported"
    if nbit > kernels.MOST_BITS:
        return "bits", f"triton counts at most {kernels.MOST_BITS} bits"
    if _failed.get(device):
        return "bits", f"triton failed: {_failed[device]}"
    return "triton", "one pass without intermediate results in memory"


@cache
def load_kernels() -> ModuleType | None:
    """Return the module of Triton kernels, None if it cannot be imported."""
    if importlib.util.find_spec("triton") is None:
        return None
    try:
        return importlib.import_module("deephash.retrieval.backends.triton_kernel")
    except (ImportError, RuntimeError) as error:
        log.warning("triton is installed but cannot be used, torch counts instead: %s", error)
        return None
