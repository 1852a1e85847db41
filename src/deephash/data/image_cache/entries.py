"""Files of a cache entry: the pixels, an index that describes them, and checksums of blocks."""

import hashlib
import json
import os
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from deephash.data.cache_folder import map_private
from deephash.data.prefetch import prefetch
from deephash.errors import DataError, FileError
from deephash.utils.files import Kind, expect, read_json
from deephash.utils.progress import bar

ENTRY_VERSION = 2  # increase it when the meaning of a stored entry changes
PIXELS, INDEX = "pixels.npy", "index.json"  # the files of an entry
HEADER_BYTES = 128  # of the pixel file
BLOCK_ROWS = 64  # images that share a checksum and are decoded by one thread
MAX_INDEX_BYTES = 4 << 30  # that of ImageNet has 100 MB

BLOCK_KINDS: dict[str, Kind] = {"number": int, "crc32": int, "sources": str, "faults": [list]}

INDEX_KINDS: dict[str, Kind] = {
    "format": int, "shape": [int], "root": str, "part": str, "blocks": [dict], "rows": [str],
}  # fmt: skip


class UnreadableFile(NamedTuple):
    """A file that could not be decoded; its row is zero."""

    row: int
    place: str
    cause: str


class Block(NamedTuple):
    """Checksum of `BLOCK_ROWS` rows, or fewer at the end. The fields are the keys of the index."""

    number: int  # rows start at number * BLOCK_ROWS
    crc32: int  # of the pixels
    sources: str  # digest of the places, sizes and modification times of the files
    faults: Sequence[UnreadableFile]

    @classmethod
    def from_json(cls, values: Mapping[str, Any], file: Path) -> "Block":
        """Create a block from JSON values; raise FileError if one is missing or of a wrong type."""
        expect(values, BLOCK_KINDS, file, "block of the cache")
        faults = values["faults"]
        if not all(len(fault) == 3 and type(fault[0]) is int for fault in faults):
            raise FileError(file, "faults must be rows, places and causes", "block of the cache")
        parsed = [UnreadableFile(*fault) for fault in faults]
        return cls(values["number"], values["crc32"], values["sources"], parsed)


@dataclass(frozen=True)
class Content:
    """Files of an entry and everything that their pixels depend on.

    Args:
        root: the folder of the files. It is not part of the key: moved files have the same entry.
        files: n of (place below the root, size in bytes, modification time in ns), row by row.
        rule: JSON values that describe how files are decoded.
        size: side of the squares in pixels.
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
        """Size of the pixels in bytes."""
        return int(np.prod(self.shape, dtype=np.int64))

    @cached_property
    def entry(self) -> str:
        """Name of the entry, derived from everything that the pixels depend on."""
        return f"pixels-{_digest([ENTRY_VERSION, self.shape, self.rule, self.files])}"

    @cached_property
    def part(self) -> str:
        """Name of the folder in which the entry is built.

        It depends on root and places, but not on modification times: if a file changes after an
        interrupted build, the blocks without that file are reused.
        """
        places = [place for place, *_ in self.files]
        key = _digest([ENTRY_VERSION, self.shape, self.rule, str(self.root), places])
        return f"pixels-{key}.part"

    def sources(self, number: int) -> str:
        """Return a digest of the files of a block."""
        return _digest(self.files[number * BLOCK_ROWS : (number + 1) * BLOCK_ROWS])

    def index(self, blocks: Sequence[Block]) -> dict[str, Any]:
        """Return the JSON values of the index of an entry."""
        return {
            "format": ENTRY_VERSION,
            "shape": self.shape,
            "root": str(self.root),
            "rule": self.rule,
            "part": self.part,
            "blocks": [block._asdict() for block in blocks],
            "rows": [place for place, *_ in self.files],
        }


class EntryIndex(NamedTuple):
    """The index of an entry."""

    shape: tuple[int, ...]
    root: str  # the folder of the files when they were decoded
    part: str
    blocks: list[Block]
    rows: list[str]  # places of the files

    @property
    def faults(self) -> list[UnreadableFile]:
        return [fault for block in self.blocks for fault in block.faults]


class DamagedBlock(NamedTuple):
    """A block whose pixels do not match its checksum."""

    number: int
    places: Sequence[str]  # of its images


class Broken(DataError):
    """An incomplete entry: a file is missing, truncated, or of another format."""


def read_index(entry: Path) -> EntryIndex:
    """Read the index of an entry.

    Raises:
        Broken: it is missing or incomplete.
        DataError: it cannot be read.
    """
    file, kind = entry / INDEX, "index of the cache"
    try:
        values = read_json(file, kind, limit=MAX_INDEX_BYTES, values=None, lenient=True)
        expect(values, INDEX_KINDS, file, kind)
        blocks = [Block.from_json(block, file) for block in values["blocks"]]
    except FileError as error:
        if not file.exists():
            raise Broken(f"{entry} has no {INDEX}") from error
        if isinstance(error.__cause__, OSError) or not file.is_file():
            raise DataError(f"cannot read the cache entry {entry}: {error}") from error
        raise Broken(f"{file} is incomplete: {error.reason}") from error
    shape, count = tuple(values["shape"]), len(values["rows"])
    if not (
        values["format"] == ENTRY_VERSION
        and len(shape) == 4
        and shape[:2] == (count, 3)
        and all(0 < side < 1 << 24 for side in shape[2:])
        and [block.number for block in blocks] == list(block_numbers(count))
    ):
        raise Broken(f"{file} does not describe an entry of {count} images")
    return EntryIndex(shape, values["root"], values["part"], blocks, values["rows"])


def open_entry(entry: Path) -> tuple[np.ndarray, EntryIndex]:
    """Open an entry without comparing its checksums.

    Returns:
        The pixels, (n, 3, S, S) uint8, memory-mapped copy-on-write; and the index.

    Raises:
        Broken: a file is missing or truncated.
        DataError: a file cannot be read or mapped.
    """
    index = read_index(entry)
    size = row_offset(index.shape[0], index.shape)
    try:
        with (entry / PIXELS).open("rb") as file:
            matches = file.read(HEADER_BYTES) == header(index.shape)
            if not matches or os.fstat(file.fileno()).st_size != size:
                raise Broken(f"{entry / PIXELS} is truncated or not of shape {index.shape}")
            mapped = map_private(file, size)
    except FileNotFoundError as error:
        raise Broken(f"{entry} has no {PIXELS}") from error
    except OSError as error:
        raise DataError(f"cannot read the cache entry {entry}: {error}") from error
    return np.ndarray(index.shape, np.uint8, mapped, HEADER_BYTES), index


def verify_entry(
    entry: Path, index: EntryIndex | None = None, workers: int | None = None
) -> list[DamagedBlock]:
    """Compare an entry with its checksums and return its damaged blocks, in order.

    `image_cache.cache.reopen` lets them be decoded again. Without its index, the entry is opened
    first; see `open_entry` for what that raises.
    """
    index = index or open_entry(entry)[1]
    shape = index.shape
    damaged = []
    with (
        (entry / PIXELS).open("rb") as file,
        bar(f"checking {entry}", len(index.rows)) as progress,
    ):
        intact = prefetch(
            lambda block: is_intact(block, file.fileno(), shape), index.blocks, workers
        )
        for block, good in zip(index.blocks, intact, strict=True):
            rows = block_rows(block.number, len(index.rows))
            if not good:
                damaged.append(DamagedBlock(block.number, index.rows[rows.start : rows.stop]))
            progress.advance(len(rows))
    return damaged


def block_numbers(count: int) -> range:
    """Return the numbers of the blocks of `count` images."""
    return range(-(-count // BLOCK_ROWS))


def block_rows(number: int, count: int) -> range:
    """Return the rows of a block, of `count` rows in all."""
    return range(number * BLOCK_ROWS, min((number + 1) * BLOCK_ROWS, count))


def header(shape: tuple[int, ...]) -> bytes:
    """Return the header of the pixel file in numpy's format 1.0, padded to `HEADER_BYTES`."""
    text = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {tuple(shape)}, }}"
    length = HEADER_BYTES - 10
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", length) + f"{text:{length - 1}}\n".encode()


def row_offset(row: int, shape: tuple[int, ...]) -> int:
    """Return the offset of a row in the pixel file."""
    return HEADER_BYTES + row * int(np.prod(shape[1:], dtype=np.int64))


def is_intact(block: Block, descriptor: int, shape: tuple[int, ...]) -> bool:
    """Return whether a block of an open pixel file matches its checksum."""
    rows = block_rows(block.number, shape[0])
    start, end = row_offset(rows.start, shape), row_offset(rows.stop, shape)
    try:
        return zlib.crc32(os.pread(descriptor, end - start, start)) == block.crc32
    except OSError:  # the disk cannot read it
        return False


def _digest(values: object) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:32]
