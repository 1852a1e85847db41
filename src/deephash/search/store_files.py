"""Files of a code store: columns, the log of commits, and the lookup of ids.

Everything is little endian. A store is a folder:

===================  ==========================================================================
file                 contents
===================  ==========================================================================
``store.json``       name and version of the format, K, the encoder, the number ``G`` of the
                     current generation, and a CRC-32 of these values
``codes-G.bin``      the packed codes, ceil(K / 8) bytes per row
``items-G.bin``      24 bytes per row: the end of its text in the next file (unsigned, 8 bytes),
                     the hash of its id (unsigned, 8), the bytes of its id (unsigned, 4), and the
                     number of its label (signed, 4; -1: none)
``texts-G.bin``      the id and then the signature of each row, without separators, in UTF-8
``commits-G.log``    the log of commits, see below
``writer.lock``      exists while a process may write
===================  ==========================================================================

Rows are only appended. Compaction writes a new generation and replaces ``store.json``.

A commit is a record of 64 bytes, followed by its payload. What lies behind the lengths of the last
commit does not belong to the store.

=========  =====  ================================================================================
from byte  bytes
=========  =====  ================================================================================
0          4      ``DHCR``
4          4      bytes of the payload
8          8      number of the commit, from 0
16         8      rows after it
24         8      bytes of ``texts`` after it
32         4      rows that it removes
36         12     CRC-32 of each of ``codes``, ``items`` and ``texts`` from the start to the
                  lengths after this commit
48         8      zeros
56         4      CRC-32 of the payload
60         4      CRC-32 of the 60 bytes before it
=========  =====  ================================================================================

The payload consists of the removed rows (8 bytes each, ascending) and a JSON list of the labels
that are new; it is empty if there are neither. Numbers are unsigned.

The hash of an id of n bytes starts as ``n * A + B``; each 8 bytes ``w`` of it, the last padded with
zeros, give ``x = (hash ^ w) * A``, ``x ^= x >> 29``, ``x *= C``, ``hash = x ^ (x >> 32)``, with
A = 0x9E3779B97F4A7C15, B = 0xD1B54A32D192ED03, C = 0xBF58476D1CE4E5B9.
"""

import contextlib
import json
import mmap
import os
import stat
import struct
import threading
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from deephash.errors import DataError, FileError
from deephash.retrieval.codes import Array
from deephash.utils.files import writing

Places = npt.NDArray[np.int64]
Label = str | tuple[str, ...] | None
"""One label, several, or none."""

VERSION = 1
COLUMNS = ("codes", "items", "texts")
ITEM = np.dtype([("end", "<u8"), ("hash", "<u8"), ("id_bytes", "<u4"), ("label", "<i4")])
WHAT = "code store"
REBUILD = "Remove the folder {}, and repeat the command: the codes are computed again."

_RECORD = struct.Struct("<4sIQQQI3I8xII")
_MAGIC = b"DHCR"
_SECTOR = 512  # a disk writes as many bytes or none of them
_BLOCK = 1 << 22  # bytes read or written at once
_LOWER = np.uint64((1 << 32) - 1)
_A, _B, _C = (np.uint64(x) for x in (0x9E3779B97F4A7C15, 0xD1B54A32D192ED03, 0xBF58476D1CE4E5B9))


class Commit(NamedTuple):
    """What a record of the log says."""

    number: int
    rows: int
    text_bytes: int
    removed: Places
    labels: list[Label]  # new ones
    checksums: tuple[int, int, int]  # of COLUMNS
    end: int  # offset behind the record


class Generation:
    """The open files of one generation.

    Args:
        folder: of the store.
        number: of the generation.
        mode: ``r``, ``r+`` to write, or ``w`` to create the files, empty.

    Raises:
        FileNotFoundError: a file is missing.
        FileError: a file is not a regular file.
    """

    def __init__(self, folder: Path, number: int, mode: str) -> None:
        self.folder, self.number = folder, number
        flags = {"r": os.O_RDONLY, "r+": os.O_RDWR, "w": os.O_RDWR | os.O_CREAT | os.O_TRUNC}[mode]
        self.lookup = Lookup()
        self._descriptors: dict[str, int] = {}
        self._maps: dict[str, Array] = {}
        try:
            for name in (*COLUMNS, "commits"):
                path = self.path(name)
                descriptor = os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)
                self._descriptors[name] = descriptor
                if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                    raise FileError(path, "it is not a regular file", WHAT)
        except BaseException:
            self.close()
            raise

    def path(self, name: str) -> Path:
        """Return the path of one of the files."""
        return self.folder / file_name(name, self.number)

    def size(self, name: str) -> int:
        """Return the bytes of a file."""
        return os.fstat(self._descriptors[name]).st_size

    def read(self, name: str, start: int, stop: int | None = None) -> bytes:
        """Return the bytes of a file from one offset to another, or to its end."""
        stop = self.size(name) if stop is None else stop
        parts = []
        while start < stop:
            part = os.pread(self._descriptors[name], min(_BLOCK, stop - start), start)
            if not part:
                break
            parts.append(part)
            start += len(part)
        return b"".join(parts)

    def map(self, name: str, size: int) -> Array:
        """Return the first ``size`` bytes of a file, memory-mapped, (size,) uint8.

        Raises:
            FileError: the file is shorter.
        """
        known = self._maps.get(name)
        if known is not None and len(known) == size:
            return known
        if size == 0:
            return np.empty(0, dtype=np.uint8)
        self.check_length(name, size)
        pages = mmap.mmap(self._descriptors[name], size, access=mmap.ACCESS_READ)
        self._maps[name] = np.frombuffer(pages, dtype=np.uint8)
        return self._maps[name]

    def check_length(self, name: str, size: int) -> None:
        """Raise ``FileError`` if a file is shorter than ``size`` bytes."""
        length = self.size(name)
        if length < size:
            reason = f"it is cut off after byte {length:,}, its commits end at byte {size:,}"
            raise damaged(self.path(name), reason)

    def write(self, name: str, offset: int, data: bytes) -> None:
        """Write bytes at an offset."""
        view = memoryview(data)
        with writing(self.path(name)):
            while view:
                written = os.pwrite(self._descriptors[name], view[:_BLOCK], offset)
                view, offset = view[written:], offset + written

    def sync(self, name: str) -> None:
        """Wait until a file is on the disk."""
        with writing(self.path(name)):
            os.fsync(self._descriptors[name])

    def truncate(self, name: str, size: int) -> None:
        """Remove what lies behind the first ``size`` bytes of a file."""
        with writing(self.path(name)):
            if self.size(name) > size:
                os.ftruncate(self._descriptors[name], size)

    def remove(self) -> None:
        """Remove the files."""
        self.close()
        for name in (*COLUMNS, "commits"):
            with contextlib.suppress(OSError):
                self.path(name).unlink()

    def close(self) -> None:
        """Close the files; arrays that are mapped stay valid."""
        for descriptor in self._descriptors.values():
            with contextlib.suppress(OSError):
                os.close(descriptor)
        self._descriptors, self._maps = {}, {}

    def __del__(self) -> None:
        self.close()


def file_name(name: str, generation: int) -> str:
    """Return the name of a file of a generation.

    >>> file_name("codes", 3), file_name("commits", 3)
    ('codes-3.bin', 'commits-3.log')
    """
    return f"{name}-{generation}.{'log' if name == 'commits' else 'bin'}"


def damaged(path: Path, reason: str) -> FileError:
    """Return an error about a damaged file, with advice."""
    return FileError(path, f"it is damaged: {reason}", WHAT, REBUILD.format(path.parent))


def sync_folder(folder: Path) -> None:
    """Wait until the names of files in a folder are on the disk."""
    with writing(folder), contextlib.suppress(OSError):  # some filesystems refuse
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def encode_commit(
    number: int,
    rows: int,
    text_bytes: int,
    removed: Places,
    labels: Sequence[Label],
    checksums: tuple[int, int, int],
) -> bytes:
    """Return a record of the log; see the module for the format."""
    payload = removed.astype("<u8").tobytes()
    if labels:
        payload += json.dumps(labels, ensure_ascii=False).encode("utf-8")
    fields = (_MAGIC, len(payload), number, rows, text_bytes, len(removed), *checksums)
    record = _RECORD.pack(*fields, zlib.crc32(payload), 0)[:-4]
    return record + struct.pack("<I", zlib.crc32(record)) + payload


def decode_commits(data: bytes, start: int, path: Path, last: Commit | None) -> Iterator[Commit]:
    """Yield the commits of a part of the log, up to a record that was not written to its end.

    Args:
        data: the log from byte ``start`` on, which is the beginning of a record.
        start: offset of the data.
        path: of the log.
        last: the commit before; None at the beginning of the log.

    Raises:
        FileError: a record was changed after it was written.
    """
    at = 0
    while len(data) - at >= _RECORD.size:
        where = f"the record at byte {start + at:,}"
        fields = _RECORD.unpack_from(data, at)
        magic, size, number, rows, text_bytes, count = fields[:6]
        checksums, payload_sum, own_sum = fields[6:9], fields[9], fields[10]
        behind = at + _RECORD.size
        if zlib.crc32(data[at : behind - 4]) != own_sum or magic != _MAGIC:
            if _unwritten(data, at, start):
                return
            raise damaged(path, f"{where} was changed")
        payload = data[behind : behind + size]
        if len(payload) < size:
            return
        if zlib.crc32(payload) != payload_sum:
            if behind + size == len(data) and _unwritten(data, at, start):
                return
            raise damaged(path, f"{where} was changed")
        whole = 8 * count <= size
        removed = np.frombuffer(payload[: 8 * count if whole else 0], "<i8").astype(np.int64)
        bounds = np.concatenate([[-1], removed, [rows]])  # ascending, if all are rows
        expected = 0 if last is None else last.number + 1
        before = (0, 0) if last is None else (last.rows, last.text_bytes)
        shrinks = rows < before[0] or text_bytes < before[1]
        if number != expected or shrinks or not whole or (np.diff(bounds) <= 0).any():
            raise damaged(path, f"{where} does not follow from the one before it")
        labels = _decode_labels(payload[8 * count :], path, where)
        end = start + behind + size
        last = Commit(number, rows, text_bytes, removed, labels, checksums, end)
        yield last
        at = behind + size


def _decode_labels(text: bytes, path: Path, where: str) -> list[Label]:
    if not text:
        return []
    try:
        values = json.loads(text)
        labels = [tuple(value) if isinstance(value, list) else value for value in values]
        for label in labels:
            "".join(label)  # text, or texts
    except (ValueError, TypeError, RecursionError) as error:
        raise damaged(path, f"{where} holds no labels") from error
    return labels


def _unwritten(data: bytes, at: int, start: int) -> bool:
    """Return whether a sector of the rest of the log holds only zeros, as after a power failure."""
    while at < len(data):
        end = at + _SECTOR - (start + at) % _SECTOR
        if not any(data[at:end]):
            return True
        at = end
    return False


class Texts:
    """The ids and signatures of rows, read from mapped files.

    Args:
        items: (N,) of dtype ``ITEM``.
        texts: (bytes,) uint8.
        path: of the texts, for messages.
    """

    def __init__(self, items: Array, texts: Array, path: Path) -> None:
        self._items, self._path = items, path
        self._texts: memoryview = texts.data

    def __len__(self) -> int:
        return len(self._items)

    def spans(self, rows: Places) -> tuple[Places, Places, Places]:
        """Return the start of the id, its end, and the end of the signature of rows.

        Raises:
            FileError: they are not in order.
        """
        end = self._items["end"][rows].astype(np.int64)
        start = np.where(rows > 0, self._items["end"][np.maximum(rows - 1, 0)], 0).astype(np.int64)
        middle = start + self._items["id_bytes"][rows]
        if (start > middle).any() or (middle > end).any() or (end > len(self._texts)).any():
            raise damaged(self._path, "its length does not fit the items")
        return start, middle, end

    def ids(self, rows: Places) -> list[str]:
        """Return the ids of rows."""
        start, middle, _ = self.spans(rows)
        return self._decoded(start, middle)

    def signatures(self, rows: Places) -> list[str]:
        """Return the signatures of rows."""
        _, middle, end = self.spans(rows)
        return self._decoded(middle, end)

    def have(self, rows: Places, encoded: "Encoded", positions: Places) -> npt.NDArray[np.bool_]:
        """Return whether the id of each row is that of a position of encoded ids, (n,) bool."""
        equal: npt.NDArray[np.bool_] = self._items["hash"][rows] == encoded.hash[positions]
        equal &= self._items["id_bytes"][rows] == encoded.length[positions]
        alike = np.flatnonzero(equal)
        start, middle, _ = self.spans(rows[alike])
        pairs = zip(start.tolist(), middle.tolist(), positions[alike].tolist(), strict=True)
        equal[alike] = [self._texts[a:b] == encoded.id_bytes(place) for a, b, place in pairs]
        return equal

    def _decoded(self, start: Places, stop: Places) -> list[str]:
        texts = self._texts
        try:
            return [
                str(texts[a:b], "utf-8", "surrogateescape")
                for a, b in zip(start.tolist(), stop.tolist(), strict=True)
            ]
        except UnicodeDecodeError as error:
            raise damaged(self._path, "a text is not UTF-8") from error


class Encoded(NamedTuple):
    """Ids and signatures as they are stored."""

    blob: bytes
    start: Places  # of each id
    length: Places  # of each id
    end: Places  # of each signature
    hash: npt.NDArray[np.uint64]

    def id_bytes(self, index: int) -> bytes:
        """Return the encoded id of an item."""
        start = int(self.start[index])
        return self.blob[start : start + int(self.length[index])]


def encode_texts(ids: Sequence[str], signatures: Sequence[str] | None = None) -> Encoded:
    """Encode ids and signatures.

    Raises:
        DataError: an id is empty, or is no text that can be encoded.
    """
    none = [""] * len(ids)
    given = none if signatures is None else signatures
    both: list[str] = [text for pair in zip(ids, given, strict=True) for text in pair]
    try:
        joined = "".join(both)
    except TypeError:
        wrong = next(text for text in both if not isinstance(text, str))
        raise DataError(f"ids and signatures must be text, not {wrong!r}") from None
    if joined.isascii():
        blob = joined.encode("ascii")
        sizes = np.fromiter(map(len, both), dtype=np.int64, count=len(both))
    else:
        parts = [_encode(text) for text in both]
        blob = b"".join(parts)
        sizes = np.fromiter(map(len, parts), dtype=np.int64, count=len(parts))
    length = sizes[::2].copy()
    if (length == 0).any():
        raise DataError("an id must not be empty")
    if "\0" in joined:
        raise DataError("ids and signatures must not contain a zero character")
    ends = np.cumsum(sizes)
    start = ends[::2] - length
    return Encoded(blob, start, length, ends[1::2].copy(), hashes(blob, start, length))


def _encode(text: str) -> bytes:
    """Encode text; bytes of file names that are not UTF-8 are kept."""
    try:
        data = text.encode("utf-8", "surrogateescape")
        if text.isprintable() or data.decode("utf-8", "surrogateescape") == text:
            return data
    except UnicodeEncodeError:
        pass
    raise DataError(f"{text!r} is no text: it holds half a surrogate pair")


def hashes(blob: bytes, start: Places, length: Places) -> npt.NDArray[np.uint64]:
    """Return the hashes of parts of a text; see the module for the function."""
    padded = np.frombuffer(blob + bytes(8), dtype=np.uint8)
    words = np.ndarray(len(padded) - 7, "<u8", padded, strides=(1,))
    used = np.array([(1 << 8 * n) - 1 for n in range(9)], dtype=np.uint64)
    result = length.astype(np.uint64) * _A + _B
    active, at = np.arange(len(length)), 0
    while len(active):
        word = words[start[active] + at] & used[np.minimum(length[active] - at, 8)]
        x = (result[active] ^ word) * _A
        x ^= x >> np.uint64(29)
        x *= _C
        result[active] = x ^ (x >> np.uint64(32))
        at += 8
        active = active[length[active] > at]
    return result


class Lookup:
    """Find rows by the hash of their id.

    Threads may share it. It consists of sorted runs, each at least twice as long as the next. Their
    numbers have the upper half of the hash and the row as lower half: plain numbers are sorted
    several times as fast as pairs.
    """

    def __init__(self) -> None:
        self._runs: list[npt.NDArray[np.uint64]] = []
        self._rows = 0
        self._mutex = threading.Lock()

    def extend(self, hash_: npt.NDArray[np.uint64]) -> None:
        """Add the rows that follow those it has.

        Args:
            hash_: (N,) of all rows.
        """
        with self._mutex:
            if len(hash_) <= self._rows:
                return
            if len(hash_) > _LOWER:
                raise DataError(f"a {WHAT} holds at most {int(_LOWER):,} rows")
            rows = np.arange(self._rows, len(hash_), dtype=np.uint64)
            run, runs = (hash_[self._rows :] & ~_LOWER) | rows, list(self._runs)
            while runs and len(runs[-1]) < 2 * len(run):
                run = np.concatenate([runs.pop(), run])
            run.sort()
            self._runs, self._rows = [*runs, run], len(hash_)

    def candidates(self, hash_: npt.NDArray[np.uint64]) -> tuple[Places, Places]:
        """Return pairs of a position in ``hash_`` and a row whose hash may be equal: (n,) each."""
        positions, rows = [np.empty(0, dtype=np.int64)], [np.empty(0, dtype=np.int64)]
        order = np.argsort(hash_)  # in order, a search is several times as fast
        upper = (hash_ & ~_LOWER)[order]
        for run in self._runs:
            first = np.searchsorted(run, upper)
            exists = (run[np.minimum(first, len(run) - 1)] & ~_LOWER) == upper
            place, first = order[exists], first[exists]
            count = np.searchsorted(run, upper[exists] | _LOWER, "right") - first
            position = np.repeat(place, count)
            at = np.arange(len(position)) - np.repeat(np.cumsum(count) - count - first, count)
            positions.append(position)
            rows.append((run[at] & _LOWER).astype(np.int64))
        return np.concatenate(positions), np.concatenate(rows)


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return the values of ``store.json``.

    Raises:
        FileError: it is missing, damaged, or of a later version.
    """
    from deephash.utils.files import expect, read_json

    path = folder / MANIFEST
    values: dict[str, Any] = read_json(path, WHAT, limit=1 << 20)
    if values.get("format") != FORMAT:
        raise FileError(path, f"it is no {WHAT}: its format is {values.get('format')!r}", WHAT)
    expect(values, {"version": int}, path, WHAT)
    if values["version"] > VERSION:
        reason = f"it is of version {values['version']}, and this deephash reads {VERSION}"
        raise FileError(path, reason, WHAT, "Update deephash, or use another folder.")
    kinds = {"nbit": int, "encoder": dict, "generation": int, "crc32": int}
    expect(values, kinds, path, WHAT, REBUILD.format(folder))
    if values["crc32"] != _manifest_checksum(values):
        raise damaged(path, "its values were changed")
    return values


MANIFEST, FORMAT = "store.json", "deephash code store"


def manifest(nbit: int, encoder: dict[str, Any], generation: int) -> dict[str, Any]:
    """Return the values of ``store.json``."""
    values = {
        "format": FORMAT,
        "version": VERSION,
        "nbit": nbit,
        "encoder": encoder,
        "generation": generation,
    }
    return {**values, "crc32": _manifest_checksum(values)}


def _manifest_checksum(values: dict[str, Any]) -> int:
    kept = {key: value for key, value in values.items() if key != "crc32"}
    return zlib.crc32(json.dumps(kept, sort_keys=True).encode())
