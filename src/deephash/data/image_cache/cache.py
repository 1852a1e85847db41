"""Decoded pixels on disk, memory-mapped, so that a dataset is decoded once.

An entry `pixels-<key>/` is either complete or absent: it is built in a folder `pixels-<name>.part/`
under a lock, and renamed when it is finished.

Pixels are compared with their checksums before they are used. Entries of up to `VERIFY_BYTES` are
verified when they are opened, and damaged blocks are decoded again; the blocks of larger ones are
verified when they are first read.
"""

import contextlib
import logging
import shutil
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from deephash.data.cache_folder import (
    cache_folder,
    lock_path,
    locked,
    remove_entry,
    remove_stale,
)
from deephash.data.image_cache.builder import JOURNAL, Decode, build, cannot_write, write_journal
from deephash.data.image_cache.entries import (
    BLOCK_ROWS,
    INDEX,
    PIXELS,
    Broken,
    Content,
    EntryIndex,
    UnreadableFile,
    block_rows,
    open_entry,
    read_index,
    verify_entry,
)
from deephash.data.lazy_arrays import LazyArray
from deephash.errors import DataError
from deephash.utils import program
from deephash.utils.locks import Lock

VERIFY_BYTES = 1 << 30  # of the pixels of an entry that is verified when it is opened

log = logging.getLogger("deephash")


def pixel_entries(folder: str | Path | None = None) -> list[Path]:
    """Return the entries of a cache folder, complete or not; None for the default folder."""
    return sorted(path for path in cache_folder(folder).glob("pixels-*") if not path.suffix)


def load_pixels(
    content: Content,
    decode: Decode,
    strict: bool = True,
    folder: str | Path | None = None,
    workers: int | None = None,
) -> tuple[np.ndarray | LazyArray, Sequence[UnreadableFile]]:
    """Return the decoded pixels of files, from the cache if they were decoded before.

    If several processes need the same entry, one builds it and the others wait; where files cannot
    be locked, each builds its own and one of them is kept. Blocks that an interrupted process has
    finished are used by the next. An incomplete entry is built again.

    Args:
        content: of the entry.
        decode: decodes a file.
        strict: raise at the first file that cannot be decoded, instead of recording it. An existing
            entry may have unreadable files in any case.
        folder: the cache folder; None for the default one.
        workers: number of decoding threads; None for one per core, at most 16.

    Returns:
        The pixels, (n, 3, S, S) uint8: memory-mapped copy-on-write, or `VerifiedPixels` if they are
        large. And the files that could not be decoded, whose rows are zero.

    Raises:
        Unreadable: a file cannot be decoded, and `strict`.
        DataError: the folder cannot be used, or its disk is too small.
    """
    root = cache_folder(folder)
    entry, part = root / content.entry, root / content.part
    opened = _open(entry)
    if opened is not None:
        _remove_leftovers(entry, part)
        return opened
    with _locked(part) as own_part:
        opened = _open(entry, logging.DEBUG)  # another process may have built it meanwhile
        if opened is None:
            remove_stale(root.glob("pixels-*.part"))
            _make_part(entry, own_part)
            build(own_part, content, decode, strict, workers)
            _make_entry(own_part, entry)
            opened = _open(entry)
    if opened is None:
        raise DataError(f"the cache entry {entry} was written, but cannot be read back")
    return opened


def reopen(entry: Path) -> None:
    """Turn an entry into an unfinished one, so that its damaged blocks are decoded on next use.

    Raises:
        Broken: there is no entry, or its index is incomplete.
        DataError: the folder cannot be written.
    """
    with _locked(entry.parent / read_index(entry).part) as part:
        _make_part(entry, part)


class VerifiedPixels(LazyArray):
    """Pixels of a large entry; each block is compared with its checksum when it is first read.

    Args:
        entry: its folder.
        pixels: (n, 3, S, S) uint8, memory-mapped.
        index: of the entry.
    """

    def __init__(self, entry: Path, pixels: np.ndarray, index: EntryIndex):
        self.entry = entry
        self.pixels = pixels
        self.shape = pixels.shape
        self.dtype = pixels.dtype
        self._checksums = [block.crc32 for block in index.blocks]
        self._verified = np.zeros(len(index.blocks), bool)

    def read(self, rows: np.ndarray) -> np.ndarray:
        """Return rows by number, in the order given.

        Raises:
            DataError: a block of them is damaged.
        """
        numbers = np.unique(rows // BLOCK_ROWS)
        for number in numbers[~self._verified[numbers]].tolist():
            block = block_rows(number, len(self))
            if zlib.crc32(self.pixels[block.start : block.stop].data) != self._checksums[number]:
                raise DataError(
                    f"{self.entry / PIXELS} is damaged: the pixels of images {block.start} to "
                    f"{block.stop - 1} do not match their checksum\n"
                    f"  Type {program.command('data')} verify dataset=NAME images=true, after which"
                    f" they are decoded again; or delete {self.entry}"
                )
            self._verified[number] = True
        pixels: np.ndarray = self.pixels[rows]
        return pixels


def _open(
    entry: Path, level: int = logging.WARNING
) -> tuple[np.ndarray | LazyArray, Sequence[UnreadableFile]] | None:
    """Open an entry; return None if it is absent, incomplete or damaged, which is logged."""
    try:
        pixels, index = open_entry(entry)
        if pixels.nbytes > VERIFY_BYTES:
            return VerifiedPixels(entry, pixels, index), index.faults
        damaged = verify_entry(entry, index)
    except Broken:
        return None
    if not damaged:
        return pixels, index.faults
    log.log(
        level,
        "%s is damaged: %d images have changed, such as %s; they are decoded again",
        entry / PIXELS,
        sum(len(block.places) for block in damaged),
        damaged[0].places[0],
    )
    return None


@contextlib.contextmanager
def _locked(part: Path) -> Iterator[Path]:
    """Wait until no other process builds in a part; convert OSError to DataError."""
    try:
        with locked(part, f"which decodes the same images into {part.parent}") as own_part:
            yield own_part
    except OSError as error:
        raise cannot_write(part.parent, error) from error


def _remove_leftovers(entry: Path, part: Path) -> None:
    """Remove the journal and lock file of a process that was killed after the last rename."""
    if (entry / JOURNAL).exists() or lock_path(part).exists():
        with contextlib.suppress(OSError):  # the user may only read
            if (lock := Lock.acquire(lock_path(part))) is not None:
                with lock:
                    (entry / JOURNAL).unlink(missing_ok=True)


def _make_part(entry: Path, part: Path) -> None:
    """Turn an entry, if it exists, into a part whose intact blocks the next build reuses.

    An entry without a complete index is removed.
    """
    try:
        index = read_index(entry)
        (entry / PIXELS).stat()
    except (Broken, FileNotFoundError):
        remove_entry(entry)
        return
    shutil.rmtree(part, ignore_errors=True)
    write_journal(entry, index.blocks)
    entry.replace(part)
    (part / INDEX).unlink()


def _make_entry(part: Path, entry: Path) -> None:
    """Rename a finished part to its entry, unless another process has done so."""
    try:
        part.replace(entry)  # fails if a folder with files is there
    except OSError:
        if _open(entry) is None:
            raise
        shutil.rmtree(part, ignore_errors=True)
    with contextlib.suppress(OSError):
        (entry / JOURNAL).unlink()
