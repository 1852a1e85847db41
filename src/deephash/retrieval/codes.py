"""Binarize real-valued codes, pack bits, and compute Hamming distances; also of ternary codes.

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
from deephash.retrieval.checks import check_choice, check_integer

if TYPE_CHECKING:
    from torch import Tensor

Array = npt.NDArray[Any]
ArrayLike = Union["Tensor", Array]  # torch is not imported for numpy codes
Counts = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

log = logging.getLogger(__name__)

_ONES_IN_BYTE = np.array([byte.bit_count() for byte in range(256)], dtype=np.uint8)  # (256,)
_BLOCK = 1 << 22  # distances computed at once
_UNDECIDED = {"query": 0b0011, "database": 0b0101}  # 2 bits from 1111, 0000, each other


def as_array(values: ArrayLike) -> Array:
    """Return the values as a numpy array; tensors are copied to the CPU, half precision is widened.

    Example:
        >>> as_array(np.arange(3))
        array([0, 1, 2])
    """
    torch = sys.modules.get("torch")  # if not loaded, no value is a tensor
    if torch is None or not isinstance(values, torch.Tensor):
        return np.asarray(values)
    tensor = values.detach().cpu()
    if tensor.dtype in (torch.bfloat16, torch.float16):
        tensor = tensor.float()
    array: Array = tensor.numpy()
    return array


def binarize(z: ArrayLike) -> npt.NDArray[np.bool_]:
    """Return the bits of real-valued codes, ``z >= 0``: an exact zero is a one.

    Args:
        z: (N, K) signed numbers.

    Returns:
        (N, K) bool.

    Raises:
        DataError: if the codes are no matrix, contain NaN, or have a type without a sign.

    Example:
        >>> binarize(np.array([[0.5, -1.5, 0.0]]))
        array([[ True, False,  True]])
    """
    return signed_codes(z) >= 0


def undecided(z: ArrayLike, threshold: float) -> npt.NDArray[np.bool_]:
    """Return which entries of real-valued codes are too small to be a bit: ``|z| < threshold``.

    Args:
        z: (N, K) signed numbers.
        threshold: at least 0; with 0 all are bits.

    Returns:
        (N, K) bool.

    Raises:
        DataError: as ``binarize`` and ``check_threshold``.

    Example:
        >>> undecided(np.array([[0.4, -0.6]]), threshold=0.5)
        array([[ True, False]])
    """
    bound = check_threshold(threshold)
    values = signed_codes(z)
    return (values < bound) & (values > -bound)  # the smallest int8 has no absolute value


def check_threshold(threshold: float) -> float:
    """Return a threshold of undecided bits, after checking it.

    Raises:
        DataError: if it is no finite number of at least 0.

    Example:
        >>> check_threshold(1)
        1.0
    """
    number = isinstance(threshold, (int, float, np.integer, np.floating))
    if not number or isinstance(threshold, bool) or not 0 <= threshold < math.inf:
        raise DataError(f"ternary={threshold!r} must be a number of at least 0, or None for bits")
    return float(threshold)


def signed_codes(z: ArrayLike) -> Array:
    """Return codes (N, K) as an array, after checking that every entry has a sign.

    Raises:
        DataError: as ``binarize``.
    """
    values = as_array(z)
    if values.ndim != 2 or values.shape[1] == 0:
        raise DataError(f"codes must be a matrix (N, K) with K >= 1, not of shape {values.shape}")
    if values.dtype.kind not in "fi":
        raise DataError(
            f"codes must be signed numbers, not {values.dtype}: z >= 0 are the bits. Bits as 0 and "
            "1: codes > 0. Packed bytes: nbit=K, or unpack(codes, K)"
        )
    if np.isnan(values).any():
        rows = np.flatnonzero(np.isnan(values).any(axis=1))
        raise DataError(
            f"{len(rows)} of {len(values)} codes contain NaN, the first is row {rows[0]} (from 0):"
            " NaN has no sign. Look for NaN in the images or features that were encoded, and in"
            " the weights of the network"
        )
    if values.size and values.min() >= 0:
        if values.max() == 1 and ((values == 0) | (values == 1)).all() and values.min() == 0:
            raise DataError(
                "codes contain nothing but 0 and 1, and z >= 0 would make ones of all: if they "
                "are bits, give them as bool (codes > 0)"
            )
        log.warning("no code contains a negative value: all bits are ones, since z >= 0")
    return values


def recentre(database: ArrayLike, query: ArrayLike) -> tuple[Array, Array]:
    """Subtract the mean code of the database from both sides, which corrects a domain shift.

    A hash layer that ends in batch normalisation splits each bit at the mean code of its training
    data; in another domain most items are on one side of it. Hoe et al., OrthoHash,
    NeurIPS 2021, supplement D.5, correct this with the scale 1, the shift 0, and for the running
    mean that of the target database's codes before the normalisation. That gives the same bits: if
    z = g (x - m) / s + b, its mean over the database is g (mean x - m) / s + b, so

        z - mean z = g (x - mean x) / s,

    with the sign of x - mean x where g > 0, as s > 0. Where g < 0 the bit is inverted on both sides
    and no distance changes. Where g = 0 the two differ: z is a constant, while the corrected layer
    would make the bit useful again.

    Args:
        database: (N, K) real-valued codes.
        query: (Q, K) real-valued codes of the same layer.

    Returns:
        (N, K) and (Q, K), copies.

    Raises:
        DataError: if codes are not real-valued matrices of one K, the database is empty, or a mean
            is not finite.

    Example:
        >>> database, query = recentre(np.array([[3.0, 0.0], [1.0, 4.0]]), np.array([[2.5, 1.0]]))
        >>> database.tolist(), query.tolist()
        ([[1.0, -2.0], [-1.0, 2.0]], [[0.5, -1.0]])
    """
    items, queries = as_array(database), as_array(query)
    for values, name in ((items, "database"), (queries, "query")):
        if values.ndim != 2 or values.dtype.kind != "f":
            raise DataError(
                f"only real-valued codes (n, K) can be centred; those of the {name} are "
                f"{values.dtype} {values.shape}"
            )
    if items.shape[1] != queries.shape[1] or len(items) == 0:
        raise DataError(f"the database is {items.shape}, the queries are {queries.shape}")
    mean_K = items.mean(axis=0, dtype=np.float64)
    if not np.isfinite(mean_K).all():
        raise DataError(f"{(~np.isfinite(mean_K)).sum()} entries of the mean code are not finite")
    return items - mean_K.astype(items.dtype), queries - mean_K.astype(queries.dtype)


def pack(bits: ArrayLike) -> npt.NDArray[np.uint8]:
    """Pack eight bits into a byte, the first bit highest; zeros fill the last byte.

    Args:
        bits: (N, K) bool.

    Returns:
        (N, ceil(K / 8)) uint8.

    Raises:
        DataError: if the bits are no matrix of bool.

    Example:
        >>> pack(np.array([[True, False, False, False, False, False, False, True, True]]))
        array([[129, 128]], dtype=uint8)
    """
    return np.packbits(bit_matrix(bits, "bits"), axis=1)


def pack_ternary(bits: ArrayLike, mask: ArrayLike, side: str) -> npt.NDArray[np.uint8]:
    """Pack ternary codes with four bits for each entry; Hamming distances are four times theirs.

    With undecided entries as 0 beside +1 and -1, the ternary distance is 1/2 (K - <a, b>): an
    undecided entry is half a bit away from everything, also from another undecided one (DPN-T, Fan
    et al., IJCAI 2020). A one is 1111, a zero 0000, and undecided 0011 on one side and 0101 on the
    other: each of these is two bits from 1111, from 0000, and from the other. Codes with twice the
    ternary distances do not exist: of the distances between +1, 0 and +1, 0 three would be odd, but
    their sum is even, because each code is in two of them.

    Args:
        bits: (N, K) bool.
        mask: (N, K) bool, which are undecided; their bits do not matter.
        side: ``query`` or ``database``; only codes of different sides can be compared.

    Returns:
        (N, ceil(4 K / 8)) uint8, packed codes of 4 K bits.

    Raises:
        DataError: if bits and mask are no bool matrices of one shape, or the side is unknown.

    Example:
        >>> mask = np.array([[False, True]])
        >>> query = pack_ternary(np.array([[True, False]]), mask, "query")
        >>> database = pack_ternary(np.array([[False, False]]), mask, "database")
        >>> hamming(query, database) / 4
        array([[1.5]])
    """
    ones, undecided_bits = bit_matrix(bits, "bits"), bit_matrix(mask, "mask")
    if ones.shape != undecided_bits.shape:
        raise DataError(f"bits are {ones.shape}, but their mask is {undecided_bits.shape}")
    check_choice("side", side, _UNDECIDED)
    size, nbit = ones.shape
    fours = np.zeros((size, nbit + nbit % 2), dtype=np.uint8)
    fours[:, :nbit] = ones * np.uint8(0b1111)
    fours[:, :nbit][undecided_bits] = _UNDECIDED[side]
    return fours[:, ::2] << np.uint8(4) | fours[:, 1::2]


def bit_text(code: npt.NDArray[np.uint8], nbit: int) -> str:
    """Return one packed code as text of 0 and 1.

    >>> bit_text(np.array([200], dtype=np.uint8), 6)
    '110010'
    """
    return (np.unpackbits(code, count=nbit) + ord("0")).tobytes().decode("ascii")


def unpack(packed: ArrayLike, nbit: int) -> npt.NDArray[np.bool_]:
    """Unpack bits, the inverse of ``pack``.

    Args:
        packed: (N, ceil(K / 8)) uint8.
        nbit: K.

    Returns:
        (N, K) bool.

    Raises:
        DataError: if the bytes cannot be packed codes of ``nbit`` bits.

    Example:
        >>> unpack(np.array([[0b10100000]], dtype=np.uint8), nbit=3)
        array([[ True, False,  True]])
    """
    return np.unpackbits(check_packed(packed, nbit, "packed"), axis=1, count=nbit).astype(np.bool_)


def hamming(a_packed: ArrayLike, b_packed: ArrayLike) -> npt.NDArray[np.int16]:
    """Count the bits in which each code of one set differs from each code of another.

    Args:
        a_packed: (A, ceil(K / 8)) uint8.
        b_packed: (B, ceil(K / 8)) uint8.

    Returns:
        (A, B) int16.

    Raises:
        DataError: if either is no matrix of packed bytes, or their widths differ.

    Example:
        >>> codes = pack(np.array([[True, True], [True, False], [False, False]]))
        >>> hamming(codes[:1], codes)
        array([[0, 1, 2]], dtype=int16)
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


def check_packed(packed: ArrayLike, nbit: int, name: str) -> npt.NDArray[np.uint8]:
    """Return packed codes as an array, after checking that they are codes of ``nbit`` bits.

    Args:
        packed: (N, ceil(K / 8)) uint8.
        nbit: K.
        name: of the codes, for the message.

    Returns:
        (N, ceil(K / 8)) uint8.

    Raises:
        DataError: if dtype, shape or width do not fit, or a bit beyond the last one is set.
    """
    check_integer("nbit", nbit, 1)
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


def as_packed(codes: ArrayLike, nbit: int, name: str) -> npt.NDArray[np.uint8]:
    """Return codes in any of three forms as packed bytes, after checking them.

    Args:
        codes: packed bytes, uint8 (N, ceil(K / 8)); bits, bool (N, K); or real values (N, K).
        nbit: K.
        name: of the codes, for the message.

    Returns:
        (N, ceil(K / 8)) uint8; packed bytes are not copied.

    Raises:
        DataError: as ``binarize`` and ``check_packed``, or if they have another number of bits.

    Example:
        >>> as_packed(np.array([[0.5, -1.5, 0.0]]), 3, "codes")
        array([[160]], dtype=uint8)
    """
    values = as_array(codes)
    if values.dtype != np.uint8:
        values = values if values.dtype == np.bool_ else binarize(values)
        if values.ndim == 2 and values.shape[1] != nbit:
            raise DataError(f"{name} have {values.shape[1]} bits, the index has {nbit}")
        values = pack(values)
    return check_packed(values, nbit, name)


def as_words(packed: npt.NDArray[np.uint8], word: int | None = None) -> Array:
    """Arrange packed codes as wide words, word by word: (W, N). A view if a code is one word.

    Args:
        packed: (N, bytes) uint8.
        word: bytes of a word; None: 1, 2, 4 or 8, the smallest that gives the fewest words.

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
    """Count the ones in each unsigned word, of any shape (NumPy 1 has no such function)."""
    if hasattr(np, "bitwise_count"):
        return np.bitwise_count(words)
    ones = _ONES_IN_BYTE[np.ascontiguousarray(words).view(np.uint8)]
    counts: npt.NDArray[np.uint8] = ones.reshape(*words.shape, words.itemsize).sum(
        axis=-1, dtype=np.uint8
    )
    return counts


def differing(a: Iterable[Any], b: Iterable[Any], dtype: npt.DTypeLike) -> Array:
    """Count the bits in which codes differ.

    Args:
        a: words (W, ...), from ``as_words``.
        b: as many, broadcast against them.
        dtype: of the result, wide enough for all bits.
    """
    first, *rest = (popcount(x ^ y) for x, y in zip(a, b, strict=True))
    total: Array = first.astype(dtype, copy=False)
    for more in rest:
        np.add(total, more, out=total)
    return total


def bit_matrix(bits: ArrayLike, name: str) -> npt.NDArray[np.bool_]:
    """Return bits (N, K) bool as an array, after checking them.

    Raises:
        DataError: if they are no matrix of bool.
    """
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
