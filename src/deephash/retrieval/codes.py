"""From real values to bits, to packed bytes, to Hamming distances; also with undecided bits.

``N`` codes, ``A`` and ``B`` two sets of them, ``K`` bits, ``W`` machine words per code.
"""

import logging
import math
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Union

import numpy as np
import numpy.typing as npt

from deephash.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor

Array = npt.NDArray[Any]
ArrayLike = Union["Tensor", Array]  # numpy codes do not wait for the import of torch
Counts = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

log = logging.getLogger(__name__)

_ONES_IN_BYTE = np.array([byte.bit_count() for byte in range(256)], dtype=np.uint8)  # (256,)
_BLOCK = 1 << 22  # distances worked on at once
_UNDECIDED = {"query": 0b0011, "database": 0b0101}  # half of it differs from 1111, 0000 and another


def as_array(values: ArrayLike) -> Array:
    """The values as a numpy array, wherever they lived; half precision is widened."""
    torch = sys.modules.get("torch")  # where it is not loaded, nothing is a tensor
    if torch is None or not isinstance(values, torch.Tensor):
        return np.asarray(values)
    tensor = values.detach().cpu()
    if tensor.dtype in (torch.bfloat16, torch.float16):
        tensor = tensor.float()
    array: Array = tensor.numpy()
    return array


def binarize(z: ArrayLike) -> npt.NDArray[np.bool_]:
    """The bits of real-valued codes: ``z >= 0``, so that zero is a one, never a third value.

    Args:
        z: (N, K) signed numbers.

    Returns:
        (N, K) bool.

    Raises:
        DataError: if the codes are no matrix, hold NaN, or are of a kind without a sign.
    """
    return signed_codes(z) >= 0


def undecided(z: ArrayLike, threshold: float) -> npt.NDArray[np.bool_]:
    """Which entries of real-valued codes are too small to be a bit: ``|z| < threshold``.

    Args:
        z: (N, K) signed numbers.
        threshold: At least 0, which leaves none undecided.

    Returns:
        (N, K) bool.

    Raises:
        DataError: if ``binarize`` would refuse the codes, or ``check_threshold`` the threshold.
    """
    bound = check_threshold(threshold)
    values = signed_codes(z)
    return (values < bound) & (values > -bound)  # the smallest int8 has no absolute value


def check_threshold(threshold: float) -> float:
    """The threshold of undecided bits, once it is known to be one.

    Raises:
        DataError: if it is no finite number of at least 0.
    """
    number = isinstance(threshold, (int, float, np.integer, np.floating))
    if not number or isinstance(threshold, bool) or not 0 <= threshold < math.inf:
        raise DataError(f"ternary={threshold!r} must be a number of at least 0, or None for bits")
    return float(threshold)


def signed_codes(z: ArrayLike) -> Array:
    """Codes of which every entry has a sign, (N, K)."""
    values = as_array(z)
    if values.ndim != 2 or values.shape[1] == 0:
        raise DataError(f"codes must be a matrix (N, K) with K >= 1, not of shape {values.shape}")
    if values.dtype.kind not in "fi":
        raise DataError(
            f"codes must be signed numbers, not {values.dtype}: z >= 0 are the bits. Bits as 0 and "
            "1: codes > 0. Packed bytes: nbit=K, or unpack(codes, K)"
        )
    if np.isnan(values).any():
        broken = np.flatnonzero(np.isnan(values).any(axis=1))
        raise DataError(
            f"{len(broken)} of {len(values)} codes hold NaN, the first is row {broken[0]} (from 0):"
            " NaN has no sign. Look for NaN in the images or features that were encoded, and in"
            " the weights of the network"
        )
    if values.size and values.min() >= 0:
        if values.max() == 1 and ((values == 0) | (values == 1)).all() and values.min() == 0:
            raise DataError(
                "codes hold nothing but 0 and 1, and z >= 0 would make ones of all: if they are "
                "bits, give them as bool (codes > 0)"
            )
        log.warning("no code holds a negative value: all bits are ones, since z >= 0")
    return values


def pack(bits: ArrayLike) -> npt.NDArray[np.uint8]:
    """Eight bits to a byte, the first bit highest; the last byte is filled up with zeros.

    Args:
        bits: (N, K) bool.

    Returns:
        (N, ceil(K / 8)) uint8.

    Raises:
        DataError: if the bits are no matrix of bool.
    """
    return np.packbits(bit_matrix(bits, "bits"), axis=1)


def pack_ternary(bits: ArrayLike, mask: ArrayLike, side: str) -> npt.NDArray[np.uint8]:
    """Four bits for each entry, so that Hamming distances are four times the ternary ones.

    An undecided entry, 0 beside +1 and -1, makes 1/2 (K - <a, b>) the distance: half a bit against
    anything, another undecided one included. With 1111 for a one and 0000 for a zero, undecided is
    0011 on one side and 0101 on the other: each is two bits from 1111, from 0000, and from the
    other. No codes have twice the ternary distances: of those between +1, 0 and +1, 0, three would
    be odd, but their sum is even, as each code is in two.

    >>> asked = pack_ternary(np.array([[True, False]]), np.array([[False, True]]), "query")
    >>> held = pack_ternary(np.array([[False, False]]), np.array([[False, True]]), "database")
    >>> hamming(asked, held) / 4
    array([[1.5]])

    Args:
        bits: (N, K) bool.
        mask: (N, K) bool, which are undecided; their bits do not matter.
        side: ``query`` or ``database``; only codes of different sides can be compared.

    Returns:
        (N, ceil(4 K / 8)) uint8, packed codes of 4 K bits.

    Raises:
        DataError: if bits and mask are no bool matrices of one shape, or the side is unknown.
    """
    ones, open_bits = bit_matrix(bits, "bits"), bit_matrix(mask, "mask")
    if ones.shape != open_bits.shape:
        raise DataError(f"bits are {ones.shape}, but their mask is {open_bits.shape}")
    if side not in _UNDECIDED:
        raise DataError(f"side={side!r} is unknown; allowed: {', '.join(_UNDECIDED)}")
    size, nbit = ones.shape
    fours = np.zeros((size, nbit + nbit % 2), dtype=np.uint8)
    fours[:, :nbit] = ones * np.uint8(0b1111)
    fours[:, :nbit][open_bits] = _UNDECIDED[side]
    return fours[:, ::2] << np.uint8(4) | fours[:, 1::2]


def unpack(packed: ArrayLike, nbit: int) -> npt.NDArray[np.bool_]:
    """The bits that were packed.

    Args:
        packed: (N, ceil(K / 8)) uint8.
        nbit: K.

    Returns:
        (N, K) bool.

    Raises:
        DataError: if the bytes cannot be packed codes of ``nbit`` bits.
    """
    return np.unpackbits(checked(packed, nbit, "packed"), axis=1, count=nbit).astype(np.bool_)


def hamming(a_packed: ArrayLike, b_packed: ArrayLike) -> npt.NDArray[np.int16]:
    """The number of bits in which each code of one set differs from each of another.

    Args:
        a_packed: (A, ceil(K / 8)) uint8.
        b_packed: (B, ceil(K / 8)) uint8.

    Returns:
        (A, B) int16.

    Raises:
        DataError: if either is no matrix of packed bytes, or their widths differ.
    """
    a, b = _bytes(a_packed, "a_packed"), _bytes(b_packed, "b_packed")
    if a.shape[1] != b.shape[1]:
        raise DataError(f"codes of {a.shape[1]} bytes cannot be compared with {b.shape[1]} bytes")
    if 8 * a.shape[1] > np.iinfo(np.int16).max:
        raise DataError(f"codes of {a.shape[1]} bytes are too long for distances of 16 bits")
    a_words, b_words = as_words(a), as_words(b)
    distance_AB = np.zeros((len(a), len(b)), dtype=np.int16)
    step = max(1, _BLOCK // max(1, len(b)))
    for start in range(0, len(a), step):
        block = distance_AB[start : start + step]
        for a_word, b_word in zip(a_words[:, start : start + step], b_words, strict=True):
            block += popcount(a_word[:, None] ^ b_word[None, :])
    return distance_AB


def checked(packed: ArrayLike, nbit: int, name: str) -> npt.NDArray[np.uint8]:
    """The packed codes as an array, once they are known to be codes of ``nbit`` bits.

    Args:
        packed: (N, ceil(K / 8)) uint8.
        nbit: K.
        name: What the codes are called in a complaint.

    Returns:
        (N, ceil(K / 8)) uint8.

    Raises:
        DataError: if dtype, shape or width do not fit, or a bit beyond the last one is set.
    """
    if not whole(nbit, least=1):
        raise DataError(f"nbit must be a whole number of at least 1, not {nbit!r}")
    if nbit > np.iinfo(np.int16).max:
        raise DataError(f"nbit={nbit} is too long for distances of 16 bits")
    values, width = _bytes(packed, name), -(-nbit // 8)
    if values.shape[1] != width:
        raise DataError(
            f"{name} has {values.shape[1]} bytes per code, but {nbit} bits are packed in {width}"
        )
    spare = 8 * width - nbit
    if spare and (values[:, -1] & ((1 << spare) - 1)).any():
        raise DataError(f"{name} has bits set beyond bit {nbit}: were longer codes packed?")
    return values


def as_words(packed: npt.NDArray[np.uint8], word: int | None = None) -> Array:
    """Packed codes as few wide words as hold them, each word of all codes side by side.

    A view, where the bytes of a code are one word.

    Args:
        packed: (N, bytes) uint8.
        word: bytes of a word; None: 1, 2, 4 or 8, the fewest that do.

    Returns:
        (W, N) unsigned integers.
    """
    size, width = packed.shape
    if word is None:
        word = next((w for w in (1, 2, 4) if width <= w), 8)
    if width == word and packed.flags.c_contiguous:
        return packed.view(f"u{word}").T
    padded = np.zeros((size, -(-width // word) * word), dtype=np.uint8)
    padded[:, :width] = packed
    return np.ascontiguousarray(padded.view(f"u{word}").T)


def popcount(words: Array) -> npt.NDArray[np.uint8]:
    """The number of ones in each unsigned word, of any shape (NumPy 1 has no such function)."""
    if hasattr(np, "bitwise_count"):
        return np.bitwise_count(words)
    ones = _ONES_IN_BYTE[np.ascontiguousarray(words).view(np.uint8)]
    return ones.reshape(*words.shape, words.itemsize).sum(axis=-1, dtype=np.uint8)


def whole(value: object, least: int) -> bool:
    """Whether a value is a whole number, and no less."""
    number = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    return number and int(value) >= least  # type: ignore[call-overload]


def differing(a: Iterable[Any], b: Iterable[Any], dtype: npt.DTypeLike) -> Array:
    """In how many bits codes differ, word by word: (W, ...) against (W, ...), broadcast.

    Args:
        a: Words, as ``as_words`` makes them.
        b: As many.
        dtype: Of the numbers, wide enough for all bits.
    """
    first, *rest = (popcount(x ^ y) for x, y in zip(a, b, strict=True))
    total: Array = first.astype(dtype, copy=False)
    for more in rest:
        np.add(total, more, out=total)
    return total


def bit_matrix(bits: ArrayLike, name: str) -> npt.NDArray[np.bool_]:
    """Bits, (N, K) bool, once they are known to be that."""
    values = as_array(bits)
    if values.ndim != 2 or values.shape[1] == 0 or values.dtype != np.bool_:
        raise DataError(
            f"{name} must be a bool matrix (N, K) with K >= 1, not {values.dtype} {values.shape}; "
            "binarize makes bits of real values"
        )
    return values


def _bytes(packed: ArrayLike, name: str) -> npt.NDArray[np.uint8]:
    values = as_array(packed)
    if values.ndim != 2 or values.shape[1] == 0 or values.dtype != np.uint8:
        raise DataError(
            f"{name} must be packed codes, uint8 (N, bytes), not {values.dtype} {values.shape}"
        )
    return values
