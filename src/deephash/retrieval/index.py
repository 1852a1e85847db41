"""Exact search by Hamming distance: the nearest codes, or all within a radius, and their ids.

``N`` codes of ``K`` bits, ``Q`` queries, ``M`` results, ``W`` machine words per code.

>>> index = Index(nbit=4)
>>> index.add(np.array([[1.0, -1, 1, 1], [-1, 1, -1, -1], [1, -1, 1, -1]]), ids=["a", "b", "c"])
>>> distances, ids = index.search(np.array([[0.3, -1.2, 0.0, 0.7]]), k=2)
>>> distances.tolist(), ids.tolist()
([[0, 1]], [['a', 'c']])

**File format.** Little endian; a header of 64 bytes, the codes, the ids:

=============  =====  ============================================================================
from byte      bytes
=============  =====  ============================================================================
0              8      ``DEEPHIDX``
8              4      version of the format, unsigned: 1
12             4      K, unsigned
16             8      N, unsigned
24             4      kind of the ids, unsigned: 0 running numbers from 0, 1 integers, 2 text
28             4      w, bytes per id, unsigned: 0 for kind 0, 8 for 1, those of the longest for 2
32             4      CRC-32 of everything behind the header, unsigned
36             24     zeros
60             4      CRC-32 of the 60 bytes before it, unsigned
64             N * B  the codes, B = ceil(K / 8): bit 0 is the highest of the first byte; unused
                      bits of the last byte are 0
next 64th      N * w  the ids: signed integers of 8 bytes; or text in UTF-8, padded with zeros
=============  =====  ============================================================================

The gap between codes and ids is filled with zeros, and exists even if no ids follow.
"""

import logging
import os
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from deephash.errors import DataError, FileError
from deephash.retrieval.backends import Engine
from deephash.retrieval.checks import check_integer
from deephash.retrieval.codes import (
    Array,
    ArrayLike,
    as_array,
    as_packed,
    check_packed,
)
from deephash.retrieval.codes_file import read_database
from deephash.retrieval.nearest import Nearest, count_within, find
from deephash.utils.extras import import_extra
from deephash.utils.files import write_atomic

Ids = ArrayLike | Sequence[int] | Sequence[str]
log = logging.getLogger(__name__)

_MAGIC, _VERSION = b"DEEPHIDX", 1
_HEADER = np.dtype(
    "S8, <u4, <u4, <u8, <u4, <u4, <u4, V24, <u4"  # magic, version, K, N, kind, w, CRC, zeros, CRC
)
_RUNNING, _NUMBERS, _TEXT = range(3)
_BLOCK = 1 << 20  # bytes written at once


class Within(NamedTuple):
    """All items within a radius; those of query q are at ``offsets[q]`` to ``offsets[q + 1]``.

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

    _compared: ClassVar[int] = 0  # pairs that this process has compared in all searches

    def __init__(self, nbit: int) -> None:
        self.nbit = check_integer("nbit", nbit, 1)
        self._size = 0
        self._codes: Array = np.empty((0, -(-self.nbit // 8)), np.uint8)  # N rows, and spare ones
        check_packed(self._codes, nbit, "codes")
        self._ids: Array | None = None  # likewise, int64 or UTF-8; None: running numbers
        self._runs: list[Array] | None = []  # all ids in sorted runs; None: not sorted yet
        self._removed = np.empty(0, dtype=np.int64)  # rows that are not searched, ascending
        self._read_ids: Callable[[npt.NDArray[np.int64]], Array] | None = None  # instead of _ids

    @classmethod
    def over(
        cls,
        codes: npt.NDArray[np.uint8],
        nbit: int,
        read_ids: Callable[[npt.NDArray[np.int64]], Array],
        removed: npt.NDArray[np.int64] | None = None,
    ) -> Self:
        """Make an index that searches codes where they are, such as in a memory-mapped file.

        Nothing is copied until ``add`` is called.

        Args:
            codes: (N, ceil(K / 8)) uint8, packed; not changed while the index is used.
            nbit: K.
            read_ids: returns the ids of rows of ``codes``, for an array of any shape.
            removed: rows that are not searched, ascending and unique.

        Raises:
            DataError: if the codes do not fit ``nbit``.

        Example:
            >>> names = np.array(["a", "b", "c"])
            >>> codes = np.array([[0], [1], [3]], dtype=np.uint8)
            >>> index = Index.over(codes, 8, names.__getitem__, removed=np.array([1]))
            >>> index.search(codes[1:2], k=2)[1].tolist()
            [['a', 'c']]
        """
        index = cls(nbit)
        if codes.dtype != np.uint8 or codes.shape[1:] != index._codes.shape[1:]:
            raise DataError(f"codes of {nbit} bits cannot be {codes.dtype} {codes.shape}")
        index._codes = codes.view()
        index._codes.flags.writeable = False
        index._size, index._read_ids = len(codes), read_ids
        if removed is not None:
            index._removed = removed
        return index

    def __len__(self) -> int:
        return self._size - len(self._removed)

    def __repr__(self) -> str:
        return f"Index(nbit={self.nbit}, {len(self):,} codes)"

    @property
    def codes(self) -> npt.NDArray[np.uint8]:
        """The packed codes in the order of addition, (N, ceil(K / 8)) uint8, read-only."""
        view = self._codes[: self._size]
        if len(self._removed):
            view = view[self._rows()]
        view.flags.writeable = False
        return view

    @property
    def ids(self) -> Array:
        """The ids in the order of addition, (N,) int64 or text."""
        return self._ids_at(self._rows())

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
        packed = as_packed(codes, self.nbit, "codes")
        if self._read_ids is not None:
            self._copy_ids()
        size, total = self._size, self._size + len(packed)
        if ids is None and self._ids is None:
            self._codes = _append(self._codes, size, packed)
            self._size = total
            return
        new = np.arange(size, total) if ids is None else _encode_ids(ids)
        if len(new) != len(packed):
            raise DataError(f"there are {len(packed)} codes, but {len(new)} ids")
        if not len(new):
            return
        known, runs = self._ids, self._runs
        if known is None:
            known = np.arange(size) if size else new[:0]
            runs = None
        if known.dtype.kind != new.dtype.kind:
            kinds = {"i": "numbers", "S": "text"}
            raise DataError(
                f"the ids of this index are {kinds[known.dtype.kind]}, "
                f"but those to be added are {kinds[new.dtype.kind]}"
            )
        if runs is None:
            runs = [np.sort(known[:size])]
        runs = _add_run(runs, new)
        known, codes = _append(known, size, new), _append(self._codes, size, packed)
        self._codes, self._ids, self._runs, self._size = codes, known, runs, total

    def search(
        self, queries: ArrayLike, k: int, engine: Engine | str = "auto"
    ) -> tuple[npt.NDArray[np.int16], Array]:
        """Find the k nearest codes of each query, nearest first.

        Equal distances are in the order of addition.

        Args:
            queries: (Q, ceil(K / 8)) uint8, or (Q, K) bool or signed numbers.
            k: number of codes, from 1 to N.
            engine: ``numpy``, ``numba`` (on all cores; an extra), or ``auto``: numba once there is
                much to compare. The results are the same.

        Returns:
            distances (Q, k) int16 and ids (Q, k). Other memory does not grow with Q * N.

        Raises:
            DataError: if the queries are malformed, or the index has fewer than ``k`` codes.
        """
        packed = as_packed(queries, self.nbit, "queries")
        k = check_integer("k", k, 1)
        if k > len(self):
            raise DataError(f"k={k} is more than the {len(self)} codes of the index")
        total, first = len(packed), 0
        distance_Qk = np.empty((total, k), dtype=np.int16)
        place_Qk = np.empty((total, k), dtype=np.int64)
        for nearest in self._find(packed, self.nbit, k, engine):
            rows = slice(first, first + nearest.queries)
            _, distance, place = nearest.results()
            distance_Qk[rows] = distance.reshape(-1, k)
            place_Qk[rows] = place.reshape(-1, k)
            first = rows.stop
        return distance_Qk, self._ids_at(place_Qk)

    def range(self, queries: ArrayLike, radius: int, engine: Engine | str = "auto") -> Within:
        """Find all codes at most ``radius`` bits from each query, in the order of ``search``.

        Args:
            queries: (Q, ceil(K / 8)) uint8, or (Q, K) bool or signed numbers.
            radius: at least 0.
            engine: as of ``search``.

        Returns:
            the offsets of the queries' results, and the distances and ids of all results.

        Raises:
            DataError: if the queries are malformed, or the radius is no integer of at least 0.

        Example:
            >>> index = Index(nbit=8)
            >>> index.add(np.array([[0], [1], [3], [255]], dtype=np.uint8))
            >>> queries = np.array([[1], [255]], dtype=np.uint8)
            >>> offsets, distances, ids = index.range(queries, radius=1)
            >>> offsets.tolist(), distances.tolist(), ids.tolist()
            ([0, 3, 4], [0, 1, 1, 0], [1, 0, 2, 3])
        """
        packed = as_packed(queries, self.nbit, "queries")
        radius = min(check_integer("radius", radius, 0), self.nbit)
        count_Q = [np.zeros(1, dtype=np.int64)]
        distance_M = [np.empty(0, dtype=np.int16)]
        place_M = [np.empty(0, dtype=np.int64)]
        for nearest in self._find(packed, radius, None, engine):
            query, distance, place = nearest.results()
            count_Q.append(np.bincount(query, minlength=nearest.queries))
            distance_M.append(distance)
            place_M.append(place)
        offsets = np.cumsum(np.concatenate(count_Q))
        return Within(offsets, np.concatenate(distance_M), self._ids_at(np.concatenate(place_M)))

    def count(
        self, queries: ArrayLike, radius: ArrayLike, engine: Engine | str = "auto"
    ) -> npt.NDArray[np.int64]:
        """Count the codes within a radius of each query.

        Args:
            queries: (Q, ceil(K / 8)) uint8, or (Q, K) bool or signed numbers.
            radius: (Q,) integers of at least 0.
            engine: as of ``search``.

        Returns:
            the counts, (Q,).

        Raises:
            DataError: if the queries or their radii are malformed.

        Example:
            >>> index = Index(nbit=8)
            >>> index.add(np.array([[0], [1], [3], [255]], dtype=np.uint8))
            >>> index.count(np.array([[1], [255]], dtype=np.uint8), radius=np.array([1, 0]))
            array([3, 1])
        """
        packed = as_packed(queries, self.nbit, "queries")
        radii = as_array(radius)
        if radii.shape != (len(packed),) or radii.dtype.kind not in "iu":
            raise DataError(f"radius must be ({len(packed)},) integers, one for each query")
        if len(radii) and radii.min() < 0:
            raise DataError(f"radius must be at least 0, not {radii.min()}")
        Index._compared += len(packed) * self._size
        chosen, radii = Engine.of(engine), np.minimum(radii, self.nbit).astype(np.int64)
        name = chosen.on_cpu(Index._compared)
        codes = self._codes[: self._size]
        return count_within(codes, self._removed, packed, radii, self.nbit, name, chosen.workers)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the index to one file, atomically, in the format above.

        Raises:
            DataError: if the file cannot be written.

        Example:
            >>> index = Index(nbit=8)
            >>> index.add(np.array([[0], [1]], dtype=np.uint8))
            >>> index.save("codes.index")
            >>> Index.load("codes.index")
            Index(nbit=8, 2 codes)
        """
        if self._read_ids is not None:
            self._copy_ids()
        codes, ids = self.codes, self._ids
        if ids is None:
            kind, width, ids = _RUNNING, 0, np.empty(0, dtype=np.int64)
        elif ids.dtype.kind == "i":
            kind, width, ids = _NUMBERS, 8, ids[: self._size].astype("<i8", copy=False)
        else:
            kind, width, ids = _TEXT, ids.itemsize, ids[: self._size]
        gap = np.zeros(-codes.size % _HEADER.itemsize, dtype=np.uint8)

        def write(temporary: Path) -> None:
            with temporary.open("wb") as file:
                file.write(bytes(_HEADER.itemsize))
                checksum = 0
                for array in (codes, gap, ids):
                    flat = array.reshape(-1).view(np.uint8)
                    for start in range(0, flat.size, _BLOCK):
                        block = flat[start : start + _BLOCK].data
                        checksum = zlib.crc32(block, checksum)
                        file.write(block)
                values = (_MAGIC, _VERSION, self.nbit, self._size, kind, width, checksum, b"", 0)
                header = np.array(values, dtype=_HEADER)
                header["f8"] = zlib.crc32(header.tobytes()[:-4])
                file.seek(0)
                file.write(header.tobytes())

        try:
            write_atomic(Path(path), write)
        except OSError as error:
            raise DataError(f"{path} cannot be written: {error.strerror or error}") from error

    @classmethod
    def load(cls, path: str | os.PathLike[str], mmap: bool = True) -> Self:
        """Open the file of an index.

        Args:
            path: a file written by ``save``.
            mmap: whether codes and ids stay in the file until they are searched, so that an
                index of any size opens at once; the first ``add`` copies them. Only header and
                length are checked; ``mmap=False`` reads the file and checks every byte.

        Raises:
            DataError: if the file is missing, no index, of a later version, or damaged.
        """
        path = Path(path)
        try:
            length = path.stat().st_size
            with path.open("rb") as file:
                nbit, size, kind, width, checksum = _read_header(file.read(_HEADER.itemsize), path)
                index = cls(nbit)
                codes = size * index._codes.shape[1]
                ids = codes + -codes % _HEADER.itemsize
                expected = _HEADER.itemsize + ids + size * width
                if length != expected:
                    problem = "cut off" if length < expected else "longer than it was"
                    raise DataError(
                        f"{path} is damaged: it is {problem}, {length} bytes and not the {expected}"
                        f" of {size} codes of {nbit} bits with their ids"
                    )
                if not mmap or length == _HEADER.itemsize:  # an empty map is impossible
                    body: Array = np.fromfile(file, dtype=np.uint8)
                else:
                    body = np.asarray(np.memmap(path, np.uint8, "r", offset=_HEADER.itemsize))
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
        if not mmap and zlib.crc32(body.data) != checksum:
            raise DataError(f"{path} is damaged: its codes or ids were changed")
        body.flags.writeable = False
        index._codes = body[:codes].reshape(size, index._codes.shape[1])
        if not mmap:
            check_packed(index._codes, nbit, f"{path}: its codes array")
        if kind != _RUNNING:
            index._ids = body[ids:].view("<i8" if kind == _NUMBERS else f"S{width}")
            index._runs = None
            if kind == _TEXT and not mmap:
                _decode(index._ids, f"{path} is damaged: the id")
        index._size = size
        return index

    @classmethod
    def from_run(cls, folder: str | os.PathLike[str]) -> Self:
        """Make an index of the database of a run, or of a ``codes.npz`` that another program wrote.

        Undecided bits of a ternary run are replaced by the signs of their values.

        Args:
            folder: of the run; or the file, with ``nbit``, ``database_codes``, packed, and
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

        The bytes are the same. If K is no multiple of 8, its ``d`` is the next multiple, with zeros
        in the additional bits, which change no distance; a warning is logged. Its results are
        places in the order of addition: ``index.ids[places]``.

        Raises:
            DataError: if faiss is not installed.
        """
        faiss = _faiss()
        bits = 8 * self._codes.shape[1]
        if bits != self.nbit:
            log.warning("FAISS has no codes of %d bits: zeros pad them to %d", self.nbit, bits)
        flat = faiss.IndexBinaryFlat(bits)
        flat.add(np.ascontiguousarray(self.codes))
        return flat

    @classmethod
    def from_faiss(cls, flat: Any, nbit: int | None = None, ids: Ids | None = None) -> Self:
        """Make an index of the codes of a ``faiss.IndexBinaryFlat``, in its order.

        Args:
            flat: the index.
            nbit: K, if less than its ``d``, which is a multiple of 8.
            ids: as of ``add``; FAISS stores none.

        Raises:
            DataError: if it is another kind of index, bits beyond ``nbit`` are set, or faiss is not
                installed.
        """
        faiss = _faiss()
        if not isinstance(flat, faiss.IndexBinaryFlat):
            raise DataError(f"only an IndexBinaryFlat can be converted, not {type(flat).__name__}")
        index = cls(flat.d if nbit is None else nbit)
        codes = faiss.vector_to_array(flat.xb).reshape(flat.ntotal, flat.code_size)
        index.add(codes, ids)
        return index

    def _rows(self) -> npt.NDArray[np.int64]:
        """Return the rows that are searched."""
        rows = np.arange(self._size)
        return np.delete(rows, self._removed) if len(self._removed) else rows

    def _copy_ids(self) -> None:
        """Copy the ids, and drop removed rows, so that the index can be changed."""
        codes, ids = self.codes, self.ids
        self._codes, self._size = codes, len(codes)
        self._ids, self._runs = _encode_ids(ids), None
        self._removed, self._read_ids = self._removed[:0], None

    def _find(
        self, queries: Array, radius: int, k: int | None, engine: Engine | str
    ) -> Iterator[Nearest]:
        """Yield the codes within a radius of groups of queries, or the k nearest of these."""
        Index._compared += len(queries) * self._size
        chosen = Engine.of(engine)
        name = chosen.on_cpu(Index._compared)
        codes = self._codes[: self._size]
        yield from find(codes, self._removed, queries, self.nbit, radius, k, name, chosen.workers)

    def _ids_at(self, place: npt.NDArray[np.int64]) -> Array:
        """Return the ids at places of any shape."""
        if self._read_ids is not None:
            return self._read_ids(place)
        if self._ids is None:
            return place
        ids = self._ids[place]
        if ids.dtype.kind != "S":
            return ids.astype(np.int64)
        return _decode(
            ids, "the file of this index is damaged (see Index.load, mmap=False): the id"
        )


def _encode_ids(ids: Ids) -> Array:
    """Return ids as they are stored: (N,) int64, or UTF-8 of one width."""
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
        raise DataError("an id ends in a zero character, which cannot be stored")
    if values.dtype.kind == "U":
        try:
            return np.char.encode(values, "utf-8")
        except UnicodeEncodeError as error:
            raise DataError(f"an id is no text: {error}") from error
    if values.dtype.kind == "u" and len(values) and values.max() > np.iinfo(np.int64).max:
        raise DataError(f"the id {values.max()} is too large for a signed integer of 64 bits")
    numbers: Array = values.astype(np.int64)
    return numbers


def _add_run(runs: list[Array], new: Array) -> list[Array]:
    """Return sorted runs of ids with new ones, each run at least twice as long as the next.

    Raises:
        DataError: if an id is repeated.
    """
    run = np.sort(new)
    repeated = run[1:][run[1:] == run[:-1]]
    for known in runs:
        if len(known):
            at = np.minimum(np.searchsorted(known, run), len(known) - 1)
            repeated = np.concatenate([repeated, run[known[at] == run]])
    if len(repeated):
        name = repeated[0].decode() if repeated.dtype.kind == "S" else int(repeated[0])
        raise DataError(f"ids must be unique, but {len(repeated)} exist already, such as {name!r}")
    runs = list(runs)
    while runs and len(runs[-1]) < 2 * len(run):
        run = np.sort(np.concatenate([runs.pop(), run]), kind="stable")
    return [*runs, run]


def _append(rows: Array, size: int, new: Array) -> Array:
    """Return an array with new rows behind its first ``size`` ones, and spare rows."""
    total = size + len(new)
    dtype = np.promote_types(rows.dtype, new.dtype)
    if total > len(rows) or dtype != rows.dtype or not rows.flags.writeable:
        grown = np.empty((max(total, 2 * size), *rows.shape[1:]), dtype=dtype)
        grown[:size] = rows[:size]
        rows = grown
    rows[size:total] = new
    return rows


def _read_header(data: bytes, path: Path) -> tuple[int, int, int, int, int]:
    """Return K, N, kind and width of the ids, and the checksum, after checking the header."""
    if data[: len(_MAGIC)] != _MAGIC:
        raise DataError(f"{path} is no index: it begins with {data[: len(_MAGIC)]!r}")
    if len(data) < _HEADER.itemsize:
        raise DataError(f"{path} is damaged: cut off in its header, after {len(data)} bytes")
    _, version, nbit, size, kind, width, checksum, _, own_checksum = np.frombuffer(
        data, _HEADER
    ).tolist()[0]
    if version > _VERSION:
        raise DataError(f"{path} is an index of version {version}; this deephash reads {_VERSION}")
    if own_checksum != zlib.crc32(data[:-4]):
        raise DataError(f"{path} is damaged: its header was changed")
    widths = {_RUNNING: width == 0, _NUMBERS: width == 8, _TEXT: width > 0}
    if not widths.get(kind, False) or not 0 < nbit <= np.iinfo(np.int16).max:
        raise DataError(f"{path} is no index: K={nbit}, ids of kind {kind} in {width} bytes")
    return nbit, size, kind, width, checksum


def _decode(ids: Array, message: str) -> Array:
    """Return ids as text.

    Raises:
        DataError: if one is not UTF-8.
    """
    try:
        return np.char.decode(ids, "utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{message} {error.object[:40]!r} is not UTF-8") from error


def _faiss() -> Any:
    return import_extra("faiss", "the exchange with FAISS", "search with this Index", DataError)
