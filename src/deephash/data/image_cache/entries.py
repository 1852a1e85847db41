"""What the cache holds on the disk: an entry is pixels, an index that explains them, checksums."""

import contextlib
import hashlib
import json
import mmap
import os
import struct
import sys
import zlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from deephash.errors import DataError, FileError
from deephash.utils.files import Kind, expect, read_json
from deephash.utils.progress import bar

FORMAT = 2  # raise it when the meaning of a stored entry changes

PIXELS, INDEX = "pixels.npy", "index.json"
"""The files of an entry."""

START = 128  # bytes before the pixels in their file

BLOCK = 64  # images under one checksum, decoded by one thread at a time

NORESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000 if sys.platform == "linux" else 0)
"""Without it a file larger than the memory cannot be mapped for copy-on-write."""


class Fault(NamedTuple):
    """A file that could not be read; its row is zero."""

    row: int
    place: str
    cause: str


BLOCK_KINDS: dict[str, Kind] = {"number": int, "crc32": int, "sources": str, "faults": [list]}

INDEX_KINDS: dict[str, Kind] = {
    "format": int, "shape": [int], "root": str, "part": str, "blocks": [dict], "rows": [str],
}  # fmt: skip

LARGEST = 4 << 30
"""Bytes of an index; ImageNet's has 100 MB."""


class Block(NamedTuple):
    """What is known of `BLOCK` rows, or fewer at the end."""

    number: int  # they begin at row number * BLOCK
    crc32: int  # of their pixels
    sources: str  # digest of the places, sizes and times of change of their files
    faults: Sequence[Fault]

    def as_json(self) -> dict[str, Any]:
        return self._asdict()

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "Block":
        """From what `as_json` gave and JSON kept.

        Raises:
            FileError: something of it is missing or of another kind.
            ValueError: its faults are none.
        """
        expect(values, BLOCK_KINDS, Path(INDEX), "block of the cache")
        known = {key: values[key] for key in cls._fields}
        if not all(len(fault) == 3 and type(fault[0]) is int for fault in values["faults"]):
            raise ValueError("faults are not rows, places and causes")
        return cls(**{**known, "faults": [Fault(*fault) for fault in values["faults"]]})


@dataclass(frozen=True)
class Content:
    """What an entry holds, and all that its pixels depend on.

    Args:
        root: the folder of the files. Where else the same files lie does not matter.
        files: n of (place below the root, size in bytes, time of change in ns), row by row.
        rule: how files become pixels, as JSON holds it.
        size: side of the squares, in pixels.
    """

    root: Path
    files: Sequence[tuple[str, int, int]]
    rule: Mapping[str, object]
    size: int

    @property
    def shape(self) -> tuple[int, ...]:
        """(n, 3, size, size), of uint8."""
        return (len(self.files), 3, self.size, self.size)

    @property
    def nbytes(self) -> int:
        """Bytes of the pixels."""
        return int(np.prod(self.shape, dtype=np.int64))

    @cached_property
    def entry(self) -> str:
        """Name of the entry, by all that the pixels depend on."""
        return f"pixels-{_digest([FORMAT, self.shape, self.rule, self.files])}"

    @cached_property
    def part(self) -> str:
        """Name of the folder in which the entry is built.

        By the root and the places of the files: when a file has changed since a first attempt,
        the blocks without it are used all the same.
        """
        places = [place for place, *_ in self.files]
        return f"pixels-{_digest([FORMAT, self.shape, self.rule, str(self.root), places])}.part"

    def sources(self, number: int) -> str:
        """Digest of the files of a block."""
        return _digest(self.files[number * BLOCK : (number + 1) * BLOCK])

    def index(self, blocks: Sequence[Block]) -> dict[str, Any]:
        """The index of an entry of these blocks."""
        return {
            "format": FORMAT,
            "shape": self.shape,
            "root": str(self.root),
            "rule": self.rule,
            "part": self.part,
            "blocks": [block.as_json() for block in blocks],
            "rows": [place for place, *_ in self.files],
        }


class Index(NamedTuple):
    """The index of an entry, as far as it is needed again."""

    shape: tuple[int, ...]
    root: str  # the folder of the files when they were decoded
    part: str
    blocks: list[Block]
    rows: list[str]

    @property
    def faults(self) -> list[Fault]:
        return [fault for block in self.blocks for fault in block.faults]


class Damage(NamedTuple):
    """A block whose pixels are not what they were."""

    block: int
    places: Sequence[str]  # of its images


class Broken(DataError):
    """An entry that is none: a file is missing, cut short, or of another format."""


def read_index(entry: Path) -> Index:
    """The index of an entry.

    Raises:
        Broken: it is missing, or not whole.
        DataError: it cannot be read.
    """
    try:
        values = read_json(
            entry / INDEX, "index of the cache", limit=LARGEST, values=None, lenient=True
        )
        expect(values, INDEX_KINDS, entry / INDEX, "index of the cache")
        blocks = [Block.of(one) for one in values["blocks"]]
        index = Index(
            tuple(values["shape"]), values["root"], values["part"], blocks, values["rows"]
        )
        known = values["format"] == FORMAT
    except FileError as error:
        if not (entry / INDEX).exists():
            raise Broken(f"{entry} has no {INDEX}") from error
        if isinstance(error.__cause__, OSError) or not (entry / INDEX).is_file():
            raise DataError(f"cannot read the cache entry {entry}: {error}") from error
        raise Broken(f"{entry / INDEX} is not whole: {error.reason}") from error
    except ValueError as error:
        raise Broken(f"{entry / INDEX} is not whole: {error}") from error
    count, sides = len(index.rows), index.shape[2:]
    fits = (
        index.shape[:2] == (count, 3)
        and len(sides) == 2
        and all(0 < side < 1 << 24 for side in sides)
        and [block.number for block in blocks] == list(numbers(count))
    )
    if not known or not fits:
        raise Broken(f"{entry / INDEX} does not fit an entry of {count} images")
    return index


def open_entry(entry: Path) -> tuple[np.ndarray, Index]:
    """The pixels of an entry and its index, checked as far as that is quick.

    Returns:
        The array, (n, 3, S, S) uint8, memory-mapped copy-on-write: writing to it never reaches the
        file. And the index.

    Raises:
        Broken: a file is missing or cut short.
        DataError: a file cannot be read or mapped.
    """
    index = read_index(entry)
    try:
        with (entry / PIXELS).open("rb") as file:
            size = place_of(index.shape[0], index.shape)
            if file.read(START) != header(index.shape) or os.fstat(file.fileno()).st_size != size:
                raise Broken(f"{entry / PIXELS} is no array of shape {index.shape}, or cut short")
            private = mmap.MAP_PRIVATE | NORESERVE
            access = mmap.PROT_READ | mmap.PROT_WRITE
            mapped = mmap.mmap(file.fileno(), size, flags=private, prot=access)
    except FileNotFoundError as error:
        raise Broken(f"{entry} has no {PIXELS}") from error
    except OSError as error:
        raise DataError(f"cannot read the cache entry {entry}: {error}") from error
    return np.ndarray(index.shape, np.uint8, mapped, START), index


def verify_entry(entry: Path, workers: int | None = None) -> list[Damage]:
    """Reads a whole entry and compares it with its checksums.

    Args:
        entry: its folder.
        workers: reading threads; None for `threads()`.

    Returns:
        The broken blocks, in order; `image_cache.cache.reopen` decodes them again.

    Raises:
        Broken: there is no entry, or a file is missing or cut short.
        DataError: a file cannot be read.
    """
    return damages_of(entry, open_entry(entry)[1], workers)


def damages_of(entry: Path, index: Index, workers: int | None = None) -> list[Damage]:
    """The blocks of an open entry whose pixels are not what their checksums say, in order.

    Args:
        entry: its folder.
        index: of the entry.
        workers: reading threads; None for `threads()`.

    Raises:
        OSError: the file cannot be opened.
    """
    damages = []
    with (
        (entry / PIXELS).open("rb") as file,
        bar(f"checking {entry}", len(index.rows)) as shown,
        pooled(workers) as pool,
    ):
        found = pool.map(lambda block: is_sound(block, file.fileno(), index.shape), index.blocks)
        for block, sound in zip(index.blocks, found, strict=True):
            rows = rows_of(block.number, len(index.rows))
            if not sound:
                damages.append(Damage(block.number, index.rows[rows.start : rows.stop]))
            shown.advance(len(rows))
    return damages


def numbers(count: int) -> range:
    """The blocks of so many images."""
    return range(-(-count // BLOCK))


def rows_of(number: int, count: int) -> range:
    """The rows of a block, of `count` in all."""
    return range(number * BLOCK, min((number + 1) * BLOCK, count))


def header(shape: tuple[int, ...]) -> bytes:
    """What stands before the pixels in their file: `START` bytes, of numpy's format 1.0."""
    text = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {tuple(shape)}, }}"
    length = START - 10
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", length) + f"{text:{length - 1}}\n".encode()


def place_of(row: int, shape: tuple[int, ...]) -> int:
    """Where in the file a row begins."""
    return START + row * int(np.prod(shape[1:], dtype=np.int64))


def is_sound(block: Block, file: int, shape: tuple[int, ...]) -> bool:
    """Whether a block lies in an open file, given by its descriptor, as its checksum says."""
    rows = rows_of(block.number, shape[0])
    begin, end = place_of(rows.start, shape), place_of(rows.stop, shape)
    try:
        return zlib.crc32(os.pread(file, end - begin, begin)) == block.crc32
    except OSError:  # the disk does not give it
        return False


@contextlib.contextmanager
def pooled(workers: int | None = None) -> Iterator[ThreadPoolExecutor]:
    """Threads, `threads()` for None, that begin nothing more once the block is left."""
    pool = ThreadPoolExecutor(workers or threads())
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def threads() -> int:
    """How many threads work where nothing else was said: one per usable core, at most 16."""
    affinity = getattr(os, "sched_getaffinity", None)
    return min(16, len(affinity(0)) if affinity else os.cpu_count() or 1)


def _digest(values: object) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:32]
