"""Decoded pixels kept on disk, so that a dataset is decoded once and memory-mapped ever after.

An entry, `pixels-<key>/`, is whole or not there: it is built in `pixels-<name>.part/`, under a lock
that other processes wait for, and renamed when it is finished (`entries`, `building`).

Pixels are compared with their checksums before they are used. All of an entry up to `AT_ONCE` bytes
are when it is opened, and what has changed is decoded again; of a larger one each block is when a
row of it is first read.
"""

import contextlib
import logging
import os
import shutil
import time
import uuid
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from deephash.data.image_cache.builder import JOURNAL, Decode, build, cannot_write, note
from deephash.data.image_cache.entries import (
    BLOCK,
    INDEX,
    PIXELS,
    Broken,
    Content,
    Fault,
    Index,
    damages_of,
    open_entry,
    read_index,
    rows_of,
)
from deephash.data.lazy_arrays import Lazy
from deephash.errors import DataError
from deephash.utils import program
from deephash.utils.files import expand_path
from deephash.utils.locks import Lock

AT_ONCE = 1 << 30  # bytes of pixels up to which an entry is checked when it is opened

log = logging.getLogger("deephash")

STALE = 7 * 24 * 3600  # seconds after which a part that nobody goes on with is removed


def default_folder() -> Path:
    """The cache folder: the environment's DEEPHASH_CACHE, or ~/.cache/deephash."""
    return Path(os.environ.get("DEEPHASH_CACHE") or Path.home() / ".cache" / "deephash")


def entries(folder: str | Path | None = None) -> list[Path]:
    """The entries of a cache folder, None for `default_folder()`, whole or not."""
    return sorted(path for path in folder_of(folder).glob("pixels-*") if not path.suffix)


def cached(
    content: Content,
    decode: Decode,
    strict: bool = True,
    folder: str | Path | None = None,
    workers: int | None = None,
) -> tuple[np.ndarray | Lazy, Sequence[Fault]]:
    """The pixels of files, from the cache when they were decoded before.

    Of several processes that want the same entry one builds it and the others wait; where files
    cannot be locked each builds its own and one of them stays. What an interrupted process has
    finished is used by the next. An entry of which something is missing is built anew.

    Args:
        content: what the entry holds.
        decode: makes pixels of a file.
        strict: raise at the first file that cannot be decoded, rather than note it as a fault. An
            entry that is there already may have faults all the same.
        folder: where entries lie; None for `default_folder()`.
        workers: decoding threads; None for one per core, at most 16.

    Returns:
        The array, (n, 3, S, S) uint8, memory-mapped copy-on-write, or if it is large, `Checked`;
        and the files that could not be read, whose rows are zero.

    Raises:
        Unreadable: a file cannot be decoded, and `strict`.
        DataError: the folder cannot be used, or its disk is too small.
    """
    root = folder_of(folder)
    entry = root / content.entry
    found = _opened(entry)
    if found is not None:
        _tidy(entry, root / content.part)
    else:
        with _alone(root / content.part) as part:
            # Another process may have built it meanwhile.
            found = _opened(entry, logging.DEBUG)
            if found is None:
                _sweep(root)
                _reuse(entry, part)
                build(part, content, decode, strict, workers)
                _move(part, entry)
                found = _opened(entry)
    if found is None:
        raise DataError(f"the cache entry {entry} was written, yet cannot be read back")
    return found


def reopen(entry: Path) -> None:
    """Take an entry back: who wants it next decodes its broken blocks again, and no others.

    Raises:
        Broken: there is no entry, or its index is not whole.
        DataError: the folder cannot be written.
    """
    index = read_index(entry)
    with _alone(entry.parent / index.part) as part:
        _reuse(entry, part)


def folder_of(folder: str | Path | None) -> Path:
    """The cache folder: `folder`, None for `default_folder()`."""
    return default_folder() if folder is None else expand_path(folder)


class Checked(Lazy):
    """The pixels of a large entry. A block is compared with its checksum when it is first read.

    Args:
        entry: its folder.
        pixels: (n, 3, S, S) uint8, memory-mapped.
        index: of the entry.
    """

    def __init__(self, entry: Path, pixels: np.ndarray, index: Index):
        self.entry = entry
        self.pixels = pixels
        self.shape = pixels.shape
        self.dtype = pixels.dtype
        self._blocks = {block.number: block.crc32 for block in index.blocks}
        self._sound = np.zeros(len(index.blocks), bool)

    def read(self, rows: np.ndarray) -> np.ndarray:
        """Rows by number, in the order given.

        Raises:
            DataError: a block of them has changed.
        """
        numbers = np.unique(rows // BLOCK)
        for number in numbers[~self._sound[numbers]]:
            whole = rows_of(int(number), len(self))
            if zlib.crc32(self.pixels[whole.start : whole.stop].data) != self._blocks[number]:
                raise DataError(
                    f"{self.entry / PIXELS} is damaged: the pixels of images {whole.start} to "
                    f"{whole.stop - 1} are not what they were\n"
                    f"  Type {program.command('data')} verify dataset=NAME images=true, which"
                    f" strikes them out, so that they are decoded again; or delete {self.entry}"
                )
            self._sound[number] = True
        pixels: np.ndarray = self.pixels[rows]
        return pixels


def _opened(
    entry: Path, level: int = logging.WARNING
) -> tuple[np.ndarray | Lazy, Sequence[Fault]] | None:
    """An entry, or None where there is none, or something of it is missing or has changed."""
    try:
        pixels, index = open_entry(entry)
        if pixels.nbytes > AT_ONCE:
            return Checked(entry, pixels, index), index.faults
        if damages := damages_of(entry, index):
            count = sum(len(damage.places) for damage in damages)
            log.log(
                level,
                "%s is damaged: %d images have changed there, such as %s; they are decoded again",
                entry / PIXELS,
                count,
                damages[0].places[0],
            )
            return None
    except Broken:
        return None
    return pixels, index.faults


@contextlib.contextmanager
def _alone(part: Path) -> Iterator[Path]:
    """Waits until no other process builds in this part.

    Yields the part; where files cannot be locked one of one's own, which is removed afterwards.
    """
    why = f"which decodes the same images into {part.parent}"
    try:
        part.parent.mkdir(parents=True, exist_ok=True)
        lock = Lock.wait(_lock_of(part), why)
    except OSError as error:
        raise cannot_write(part.parent, error) from error
    own = _beside(part)
    with lock:
        try:
            yield part if lock.exclusive else own
        finally:
            shutil.rmtree(own, ignore_errors=True)  # gone if it has become the entry


def _lock_of(part: Path) -> Path:
    return part.with_suffix(".lock")


def _beside(part: Path) -> Path:
    """A part of the same name that nobody else uses."""
    return part.with_name(f"{part.stem}-{uuid.uuid4().hex[:8]}{part.suffix}")


def _sweep(root: Path) -> None:
    """Remove parts that nobody has gone on with for long."""
    for part in root.glob("pixels-*.part"):
        with contextlib.suppress(OSError):  # somebody else's, or gone by now
            changed = max(path.stat().st_mtime for path in (part, *part.iterdir()))
            if time.time() - changed > STALE and (lock := Lock.acquire(_lock_of(part))):
                with lock:
                    shutil.rmtree(part)


def _tidy(entry: Path, part: Path) -> None:
    """Remove what a process that was killed at the very end has left beside a whole entry."""
    if (entry / JOURNAL).exists() or _lock_of(part).exists():
        with contextlib.suppress(OSError):  # read by somebody who may not write
            if (lock := Lock.acquire(_lock_of(part))) is not None:
                with lock:
                    (entry / JOURNAL).unlink(missing_ok=True)


def _reuse(entry: Path, part: Path) -> None:
    """Make an entry a part again if its index is whole; remove any other, and do nothing if none.

    The blocks that have not changed are used by the next build.
    """
    try:
        index = read_index(entry)
        os.stat(entry / PIXELS)
    except (Broken, FileNotFoundError):
        _discard(entry)
        return
    try:
        shutil.rmtree(part, ignore_errors=True)
        note(entry, index.blocks)
        os.replace(entry, part)
        (part / INDEX).unlink()
    except OSError as error:
        raise cannot_write(entry.parent, error) from error


def _discard(entry: Path) -> None:
    """Remove what is no whole entry; nobody sees it half removed."""
    aside = _beside(entry.with_suffix(".part"))
    try:
        os.replace(entry, aside)
    except FileNotFoundError:
        return
    except OSError as error:
        raise cannot_write(entry.parent, error) from error
    shutil.rmtree(aside, ignore_errors=True)


def _move(part: Path, entry: Path) -> None:
    """Put a whole part in its place, unless another process has put one there."""
    try:
        os.replace(part, entry)  # refused where a folder with files is
    except OSError as error:
        if _opened(entry) is None:
            raise cannot_write(entry.parent, error) from error
        shutil.rmtree(part, ignore_errors=True)
    with contextlib.suppress(OSError):
        (entry / JOURNAL).unlink()
