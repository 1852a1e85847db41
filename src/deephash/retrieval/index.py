"""Exact search by Hamming distance: the nearest codes, or all within a radius, and their ids.

``N`` codes of ``K`` bits, ``Q`` queries, ``M`` results, ``W`` machine words per code.

>>> index = Index(nbit=4)
>>> index.add(np.array([[1.0, -1, 1, 1], [-1, 1, -1, -1], [1, -1, 1, -1]]), ids=["a", "b", "c"])
>>> distances, ids = index.search(np.array([[0.3, -1.2, 0.0, 0.7]]), k=2)
>>> distances.tolist(), ids.tolist()
([[0, 1]], [['a', 'c']])

**The file of an index.** Little endian; a header of 64 bytes, the codes, the ids:

=============  =====  ============================================================================
from byte      bytes
=============  =====  ============================================================================
0              8      ``DEEPHIDX``
8              4      version of the format, unsigned: 1
12             4      K, unsigned
16             8      N, unsigned
24             4      kind of the ids, unsigned: 0 running numbers from 0, 1 integers, 2 text
28             4      w, the bytes of one id, unsigned: 0 for kind 0, 8 for 1, the longest's for 2
32             4      CRC-32 of everything behind the header, unsigned
36             24     zeros
60             4      CRC-32 of the 60 bytes before it, unsigned
64             N * B  the codes, B = ceil(K / 8): bit 0 is the highest of the first byte, and what
                      the last byte has to spare is 0
next 64th      N * w  the ids: signed integers of 8 bytes; or text in UTF-8, filled up with zeros
=============  =====  ============================================================================

Zeros fill the gap between codes and ids, which is there even if no ids follow.
"""

import logging
import os
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from deephash.errors import DataError, FileError
from deephash.retrieval.codes import (
    Array,
    ArrayLike,
    as_array,
    as_words,
    binarize,
    checked,
    pack,
    popcount,
    whole,
)
from deephash.retrieval.codes_file import read_database
from deephash.utils.extras import import_extra
from deephash.utils.files import write_atomic

Ids = ArrayLike | Sequence[int] | Sequence[str]
log = logging.getLogger(__name__)

_MAGIC, _VERSION = b"DEEPHIDX", 1
_HEADER = struct.Struct("<8sIIQIII24x")
_CHECK = struct.Struct("<I")
_CODES = _HEADER.size + _CHECK.size  # where they begin: 64
_ALIGN = 64
_RUNNING, _NUMBERS, _TEXT = range(3)
_PIECE = 1 << 20  # bytes written at once

_TOGETHER = 16  # queries whose distances are looked through at once,
_CHUNK = 1 << 15  # and of how many codes: what is made of them stays in the cache
_FEW = 1 << 12  # codes that give a first bound
_SLACK = 1 << 12  # answers gathered, beyond those that are needed, before they are cut down
_HELD = 1 << 21  # answers held at most


class Within(NamedTuple):
    """The items within a radius: those of query q are ``offsets[q]`` to ``offsets[q + 1]``.

    Example:
        >>> index = Index(nbit=8)
        >>> index.add(np.array([[0], [1], [255]], dtype=np.uint8))
        >>> within = index.range(np.array([[0]], dtype=np.uint8), radius=1)
        >>> within.offsets.tolist(), within.distances.tolist(), within.ids.tolist()
        ([0, 2], [0, 1], [0, 1])
    """

    offsets: npt.NDArray[np.int64]  # (Q + 1,)
    distances: npt.NDArray[np.int16]  # (M,)
    ids: Array  # (M,) int64 or text


class Index:
    """Packed codes and their ids, for exact search. Equal distances are in the order of addition.

    Codes are packed bytes, uint8 (N, ceil(K / 8)), made by ``pack``; or bits, bool (N, K); or
    real values (N, K), whose bits are ``z >= 0``. The index keeps copies.

    Args:
        nbit: K.

    Raises:
        DataError: if ``nbit`` is no integer from 1 to 32767.

    Example:
        >>> index = Index(nbit=2)
        >>> index.add(np.array([[1.0, 1.0], [1.0, -1.0]]), ids=["a", "b"])
        >>> distances, ids = index.search(np.array([[-1.0, -1.0]]), k=1)
        >>> distances.tolist(), ids.tolist()
        ([[1]], [['b']])
    """

    def __init__(self, nbit: int) -> None:
        checked(np.empty((0, -(-_whole(nbit, "nbit", 1) // 8)), np.uint8), nbit, "codes")
        self.nbit = int(nbit)
        self._size = 0
        self._codes: Array = np.empty((0, -(-self.nbit // 8)), dtype=np.uint8)  # N and room
        self._ids: Array | None = None  # N and room, int64 or UTF-8; None: running numbers
        self._runs: list[Array] | None = []  # all ids in sorted pieces; None: not sorted yet

    def __len__(self) -> int:
        return self._size

    def __repr__(self) -> str:
        return f"Index(nbit={self.nbit}, {self._size:,} codes)"

    @property
    def codes(self) -> npt.NDArray[np.uint8]:
        """The packed codes in the order of addition, (N, ceil(K / 8)) uint8, not to be written."""
        view = self._codes[: self._size]
        view.flags.writeable = False
        return view

    @property
    def ids(self) -> Array:
        """The ids in the order of addition, (N,) int64 or text."""
        return self._name(np.arange(self._size))

    def add(self, codes: ArrayLike, ids: Ids | None = None) -> None:
        """Append codes.

        Args:
            codes: (N, ceil(K / 8)) uint8, or (N, K) bool or signed numbers.
            ids: (N,) integers or strings, all of one kind in an index; None for the running number
                of each code, counted from 0 over all that were added.

        Raises:
            DataError: if codes or ids are malformed or of another kind than those before, an id is
                repeated, or the numbers of both differ. The index is then unchanged.
        """
        packed = self._packed(codes, "codes")
        size, total = self._size, self._size + len(packed)
        if ids is None and self._ids is None:
            self._codes = _appended(self._codes, size, packed)
            self._size = total
            return
        new = np.arange(size, total) if ids is None else _stored(ids)
        if len(new) != len(packed):
            raise DataError(f"there are {len(packed)} codes, but {len(new)} ids")
        if not len(new):
            return
        held, runs = self._ids, self._runs
        if held is None:
            held = np.arange(size) if size else new[:0]
            runs = None
        if held.dtype.kind != new.dtype.kind:
            kinds = {"i": "numbers", "S": "text"}
            raise DataError(
                f"the ids of this index are {kinds[held.dtype.kind]}, "
                f"but those to be added are {kinds[new.dtype.kind]}"
            )
        if runs is None:
            runs = [np.sort(held[:size])]
        runs = _with(runs, new)
        held, codes = _appended(held, size, new), _appended(self._codes, size, packed)
        self._codes, self._ids, self._runs, self._size = codes, held, runs, total

    def search(self, queries: ArrayLike, k: int) -> tuple[npt.NDArray[np.int16], Array]:
        """Find the k nearest codes of each query, nearest first.

        Equal distances are in the order of addition.

        Args:
            queries: (Q, ceil(K / 8)) uint8, or (Q, K) bool or signed numbers.
            k: number of codes, from 1 to N.

        Returns:
            distances (Q, k) int16 and ids (Q, k). Other memory does not grow with Q * N.

        Raises:
            DataError: if the queries are malformed, or the index has fewer than ``k`` codes.
        """
        asked = as_words(self._packed(queries, "queries"))  # (W, Q)
        k = _whole(k, "k", 1)
        if k > self._size:
            raise DataError(f"k={k} nearest were asked for, but the index holds {self._size} codes")
        total = asked.shape[1]
        distance_Qk = np.empty((total, k), dtype=np.int16)
        place_Qk = np.empty((total, k), dtype=np.int64)
        step = max(1, _HELD // (2 * _TOGETHER * k + _SLACK)) * _TOGETHER
        for start in range(0, total, step):
            found = self._find(asked[:, start : start + step], self.nbit, k)
            at = start
            for nearest in found:
                stop = at + nearest.queries
                _, distance, place = nearest.answer()
                distance_Qk[at:stop] = distance.reshape(-1, k)
                place_Qk[at:stop] = place.reshape(-1, k)
                at = stop
        return distance_Qk, self._name(place_Qk)

    def range(self, queries: ArrayLike, radius: int) -> Within:
        """Find all codes at most ``radius`` bits from each query, in the order of ``search``.

        Args:
            queries: (Q, ceil(K / 8)) uint8, or (Q, K) bool or signed numbers.
            radius: at least 0.

        Returns:
            the offsets of the queries' results, and the distances and ids of all results.

        Raises:
            DataError: if the queries are malformed, or the radius is no such number.

        Example:
            >>> index = Index(nbit=8)
            >>> index.add(np.array([[0], [1], [3], [255]], dtype=np.uint8))
            >>> queries = np.array([[1], [255]], dtype=np.uint8)
            >>> offsets, distances, ids = index.range(queries, radius=1)
            >>> offsets.tolist(), distances.tolist(), ids.tolist()
            ([0, 3, 4], [0, 1, 1, 0], [1, 0, 2, 3])
        """
        asked = as_words(self._packed(queries, "queries"))  # (W, Q)
        radius = min(_whole(radius, "radius", 0), self.nbit)
        count_Q = [np.zeros(1, dtype=np.int64)]
        distance_M = [np.empty(0, dtype=np.int16)]
        place_M = [np.empty(0, dtype=np.int64)]
        for nearest in self._find(asked, radius, None):
            query, distance, place = nearest.answer()
            count_Q.append(np.bincount(query, minlength=nearest.queries))
            distance_M.append(distance)
            place_M.append(place)
        offsets = np.cumsum(np.concatenate(count_Q))
        return Within(offsets, np.concatenate(distance_M), self._name(np.concatenate(place_M)))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the index to one file, atomically; the docstring of the module has the format.

        Raises:
            DataError: if the file cannot be written.

        Example:
            >>> index = Index(nbit=8)
            >>> index.add(np.array([[0], [1]], dtype=np.uint8))
            >>> index.save("codes.index")
            >>> Index.load("codes.index")
            Index(nbit=8, 2 codes)
        """
        codes, ids = self.codes, self._ids
        if ids is None:
            kind, width, ids = _RUNNING, 0, np.empty(0, dtype=np.int64)
        elif ids.dtype.kind == "i":
            kind, width, ids = _NUMBERS, 8, ids[: self._size].astype("<i8", copy=False)
        else:
            kind, width, ids = _TEXT, ids.itemsize, ids[: self._size]
        gap = np.zeros(-codes.size % _ALIGN, dtype=np.uint8)

        def write(beside: Path) -> None:
            with beside.open("wb") as file:
                file.write(bytes(_CODES))
                check = 0
                for array in (codes, gap, ids):
                    flat = array.reshape(-1).view(np.uint8)
                    for start in range(0, flat.size, _PIECE):
                        piece = flat[start : start + _PIECE].data
                        check = zlib.crc32(piece, check)
                        file.write(piece)
                file.seek(0)
                fields = (_MAGIC, _VERSION, self.nbit, self._size, kind, width, check)
                header = _HEADER.pack(*fields)
                file.write(header + _CHECK.pack(zlib.crc32(header)))

        try:
            write_atomic(Path(path), write)
        except OSError as error:
            raise DataError(f"{path} cannot be written: {error.strerror or error}") from error

    @classmethod
    def load(cls, path: str | os.PathLike[str], mmap: bool = True) -> Self:
        """Open the file of an index.

        Args:
            path: of a file that ``save`` wrote.
            mmap: whether codes and ids stay in the file until they are searched, so that an
                index of any size opens at once; the first ``add`` copies them. Header and length
                are checked; with ``mmap=False``, which reads the file, every byte is.

        Raises:
            DataError: if the file is missing, no index, of a later version, or damaged.
        """
        path = Path(path)
        try:
            length = path.stat().st_size
            with path.open("rb") as file:
                header = file.read(_CODES)
                nbit, size, kind, width, check = _opened(header, path)
                index = cls(nbit)
                codes = size * index._codes.shape[1]
                ids = _CODES + codes + -codes % _ALIGN
                whole = ids + size * width
                if length != whole:
                    how = "cut off" if length < whole else "longer than it was"
                    raise DataError(
                        f"{path} is damaged: it is {how}, {length} bytes and not the {whole} of "
                        f"{size} codes of {nbit} bits with their ids"
                    )
                if not mmap:
                    body: Array = np.fromfile(file, dtype=np.uint8)
                    if zlib.crc32(body.data) != check:
                        raise DataError(f"{path} is damaged: its codes or ids were changed")
                elif length > _CODES:
                    body = np.asarray(np.memmap(path, dtype=np.uint8, mode="r", offset=_CODES))
                else:
                    body = np.empty(0, dtype=np.uint8)
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
        body.flags.writeable = False
        index._codes = body[:codes].reshape(size, index._codes.shape[1])
        if not mmap:
            checked(index._codes, nbit, f"{path}: its codes array")
        if kind != _RUNNING:
            raw = body[ids - _CODES : whole - _CODES]
            if kind == _TEXT and not mmap:
                _check_text(raw.view(f"S{width}"), path)
            index._ids = raw.view("<i8" if kind == _NUMBERS else f"S{width}")
            index._runs = None
        index._size = size
        return index

    @classmethod
    def from_run(cls, folder: str | os.PathLike[str]) -> Self:
        """Make an index of the database of a run, or of a ``codes.npz`` that another program wrote.

        Undecided bits of a ternary run are the signs of their values here.

        Args:
            folder: of the run, or the file: ``nbit``, ``database_codes``, packed, and
                ``database_ids``.

        Raises:
            DataError: if the file is missing or damaged, or its arrays do not fit each other.
        """
        path = Path(folder)
        path = path / "codes.npz" if path.is_dir() else path
        nbit, codes, ids = read_database(path)
        index = cls(nbit)
        try:
            index.add(codes, ids)
        except DataError as error:
            raise FileError(path, str(error), "codes") from error
        return index

    def to_faiss(self) -> Any:
        """Return the codes as a ``faiss.IndexBinaryFlat``: ``pip install faiss-cpu``.

        The bytes are the same. FAISS counts whole bytes: if K is no multiple of 8, its ``d`` is the
        next multiple, with zeros in the additional bits, which change no distance; a warning is
        logged. Its results are places in the order of addition: ``index.ids[places]``.

        Raises:
            DataError: if faiss is not installed.
        """
        faiss = _faiss()
        bits = 8 * self._codes.shape[1]
        if bits != self.nbit:
            log.warning("FAISS has no codes of %d bits: zeros fill them up to %d", self.nbit, bits)
        flat = faiss.IndexBinaryFlat(bits)
        flat.add(np.ascontiguousarray(self.codes))
        return flat

    @classmethod
    def from_faiss(cls, flat: Any, nbit: int | None = None, ids: Ids | None = None) -> Self:
        """Make an index of the codes of a ``faiss.IndexBinaryFlat``, in its order.

        Args:
            flat: the index.
            nbit: K, if fewer than its ``d``, which is a multiple of 8.
            ids: as of ``add``; FAISS stores none.

        Raises:
            DataError: if it is another kind of index, bits beyond ``nbit`` are set, or faiss is not
                installed.
        """
        faiss = _faiss()
        if not isinstance(flat, faiss.IndexBinaryFlat):
            raise DataError(f"only an IndexBinaryFlat can be taken over, not {type(flat).__name__}")
        index = cls(flat.d if nbit is None else nbit)
        codes = faiss.vector_to_array(flat.xb).reshape(flat.ntotal, flat.code_size)
        index.add(codes, ids)
        return index

    def _packed(self, codes: ArrayLike, name: str) -> npt.NDArray[np.uint8]:
        """(N, ceil(K / 8)) uint8, whichever of the three forms the codes have."""
        values = as_array(codes)
        if values.dtype != np.uint8:
            values = values if values.dtype == np.bool_ else binarize(values)
            if values.ndim == 2 and values.shape[1] != self.nbit:
                raise DataError(f"{name} have {values.shape[1]} bits, the index has {self.nbit}")
            values = pack(values)
        return checked(values, self.nbit, name)

    def _find(self, asked: Array, radius: int, k: int | None) -> list["_Nearest"]:
        """The nearest of all codes to the queries (W, Q), ``_TOGETHER`` by ``_TOGETHER``."""
        total = asked.shape[1]
        groups = [asked[:, at : at + _TOGETHER] for at in range(0, total, _TOGETHER)]
        found = [_Nearest(group.shape[1], self.nbit, radius, k) for group in groups]
        wide = np.uint8 if self.nbit < 255 else np.uint16  # K + 1 is a bound
        for start in range(0, self._size if total else 0, _CHUNK):
            words = _words(self._codes[start : min(start + _CHUNK, self._size)])  # (W, n)
            differ = np.empty(words.shape[1], dtype=words.dtype)
            distance = np.empty((_TOGETHER, words.shape[1]), dtype=wide)
            for group, nearest in zip(groups, found, strict=True):
                for query, row in zip(group.T, distance, strict=False):
                    row[:] = popcount(np.bitwise_xor(words[0], query[0], out=differ))
                    for theirs, mine in zip(words[1:], query[1:], strict=True):
                        row += popcount(np.bitwise_xor(theirs, mine, out=differ))
                nearest.offer(distance[: group.shape[1]], start)
        return found

    def _name(self, place: npt.NDArray[np.int64]) -> Array:
        """The ids at places of any shape."""
        if self._ids is None:
            return place
        ids = self._ids[place]
        if ids.dtype.kind != "S":
            return ids.astype(np.int64)
        try:
            return np.char.decode(ids, "utf-8")
        except UnicodeDecodeError as error:  # opened by mmap, so that nothing was checked
            raise DataError(
                f"an id of the index is not UTF-8, {error.object[:40]!r}: its file is damaged, "
                "which Index.load(path, mmap=False) checks"
            ) from error


class _Nearest:
    """What a few queries, G, have found so far: all within a radius, or of these the k nearest.

    Once a query has found k, what comes later must be nearer than the last of them to matter.
    """

    bound: Array  # (G, 1) what a distance must be less than

    def __init__(self, queries: int, nbit: int, radius: int, k: int | None) -> None:
        self.queries, self.k = queries, k
        wide = np.uint8 if nbit < 255 else np.uint16
        self.bound = np.full((queries, 1), radius + 1, dtype=wide)
        self.base = nbit + 1
        short = queries * self.base <= 1 << 16  # sorted by radix then, in linear time
        self.kind = np.uint16 if short else np.uint32
        self.held, self.full = 0, queries * k if k else None
        self.pieces: list[tuple[Array, Array]] = []  # query * base + distance, and place

    def offer(self, distance: Array, start: int) -> None:
        """Takes what matters of the next codes, whose distances are (G, n)."""
        size = distance.shape[1]
        if start == 0 and self.k is not None and self.k <= size:  # so that little passes at first
            few = distance[:, : max(_FEW, 2 * self.k)]
            kth = np.partition(few, self.k - 1, axis=1)[:, self.k - 1 : self.k]
            self.bound = np.minimum(self.bound, kth + 1, dtype=self.bound.dtype)
        at = (distance < self.bound).ravel().nonzero()[0]
        if not at.size:
            return
        query = at // size
        key = (query * self.base + distance.take(at)).astype(self.kind)
        self.pieces.append((key, at - query * size + start))
        self.held += at.size
        if self.full is not None and self.held >= self.full:
            self._cut()

    def answer(self) -> tuple[Array, Array, Array]:
        """Queries, distances and places: by query, then the nearest first, then by place."""
        self._cut()
        key, place = self.pieces[0]
        query = key // self.base
        return query, (key - query * self.base).astype(np.int16), place

    def _cut(self) -> None:
        none = np.empty(0, dtype=self.kind), np.empty(0, dtype=np.int64)
        key, place = (np.concatenate(side) for side in zip(none, *self.pieces, strict=True))
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
        self.pieces = [(key, place[order])]
        self.held = len(key)
        self.full = None if self.k is None else 2 * self.queries * self.k + _SLACK


def _words(packed: Array) -> Array:
    """The words of ``as_words``, (W, n), without a copy where the bytes of a code are one word."""
    width = packed.shape[1]
    return packed.view(f"u{width}").T if width in (1, 2, 4, 8) else as_words(packed)


def _whole(value: Any, name: str, least: int) -> int:
    if not whole(value, least):
        raise DataError(f"{name} must be a whole number of at least {least}, not {value!r}")
    return int(value)


def _stored(ids: Ids) -> Array:
    """Ids as they are kept: (N,) int64, or UTF-8 of one width."""
    values: Any
    if isinstance(ids, Sequence):  # numpy would make text of numbers among strings
        kinds = {isinstance(name, str) for name in ids}
        if len(kinds) > 1 or isinstance(ids, str):
            raise DataError("ids must be a sequence of integers or of strings, not a mixture")
        values = np.array(ids) if ids else np.empty(0, dtype=np.int64)
        ends = kinds == {True} and any(str(name).endswith("\0") for name in ids)
    else:
        values, ends = as_array(ids), False
    if values.ndim != 1 or values.dtype.kind not in "iuU":
        raise DataError(
            f"ids must be (N,) integers or strings, not {values.dtype} of shape {values.shape}"
        )
    if ends:
        raise DataError("an id ends in a zero character, which would be lost")
    if values.dtype.kind == "U":
        try:
            return np.char.encode(values, "utf-8")
        except UnicodeEncodeError as error:
            raise DataError(f"an id is no text: {error}") from error
    if values.dtype.kind == "u" and len(values) and values.max() > np.iinfo(np.int64).max:
        raise DataError(f"the id {values.max()} is too large for a signed integer of 64 bits")
    whole_numbers: Array = values.astype(np.int64)
    return whole_numbers


def _with(runs: list[Array], new: Array) -> list[Array]:
    """Sorted pieces and one more, none of whose ids may be there; each piece twice the next."""
    run = np.sort(new)
    twice = run[1:][run[1:] == run[:-1]]
    for known in runs:
        if len(known):
            at = np.minimum(np.searchsorted(known, run), len(known) - 1)
            twice = np.concatenate([twice, run[known[at] == run]])
    if len(twice):
        name = twice[0].decode() if twice.dtype.kind == "S" else int(twice[0])
        raise DataError(f"ids must be unique, but {len(twice)} are there already, such as {name!r}")
    runs = list(runs)
    while runs and len(runs[-1]) < 2 * len(run):
        run = np.sort(np.concatenate([runs.pop(), run]), kind="stable")
    return [*runs, run]


def _appended(held: Array, size: int, new: Array) -> Array:
    """An array of which the first ``size`` rows are held, with room, and new ones behind them."""
    total = size + len(new)
    dtype = np.promote_types(held.dtype, new.dtype)
    if total > len(held) or dtype != held.dtype or not held.flags.writeable:
        grown = np.empty((max(total, 2 * size), *held.shape[1:]), dtype=dtype)
        grown[:size] = held[:size]
        held = grown
    held[size:total] = new
    return held


def _opened(header: bytes, path: Path) -> tuple[int, int, int, int, int]:
    """K, N, kind and width of the ids, and the checksum, from a header that is sound."""
    if header[: len(_MAGIC)] != _MAGIC:
        raise DataError(f"{path} is no index: it begins with {header[: len(_MAGIC)]!r}")
    if len(header) < _CODES:
        raise DataError(f"{path} is damaged: cut off in its header, after {len(header)} bytes")
    _, version, nbit, size, kind, width, check = _HEADER.unpack_from(header)
    if version > _VERSION:
        raise DataError(f"{path} is an index of version {version}; this deephash reads {_VERSION}")
    if _CHECK.unpack_from(header, _HEADER.size)[0] != zlib.crc32(header[: _HEADER.size]):
        raise DataError(f"{path} is damaged: its header was changed")
    widths = {_RUNNING: width == 0, _NUMBERS: width == 8, _TEXT: width > 0}
    if not widths.get(kind, False) or not 0 < nbit <= np.iinfo(np.int16).max:
        raise DataError(f"{path} is no index: K={nbit}, ids of kind {kind} in {width} bytes")
    return nbit, size, kind, width, check


def _check_text(ids: Array, path: Path) -> None:
    """Refuse ids that are not UTF-8, or end in a zero that is no filling."""
    try:
        np.char.decode(ids, "utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is damaged: the id {error.object[:40]!r} is not UTF-8") from error


def _faiss() -> Any:
    return import_extra("faiss", "the exchange with FAISS", "search with this Index", DataError)
