"""Decoded pixels kept on disk, so that a dataset is decoded once and memory-mapped ever after.

An entry, `pixels-<key>/`, is whole or not there: it is built in `pixels-<name>.part/`, under a lock
that other processes wait for, and renamed when it is finished (`entries`, `building`).
"""

import contextlib
import os
import shutil
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from deephash.data.building import JOURNAL, Decode, build, cannot_write, note
from deephash.data.entries import INDEX, Broken, Content, Fault, open_entry, read_index
from deephash.errors import DataError
from deephash.files import place
from deephash.locks import Lock

STALE = 7 * 24 * 3600  # seconds after which a part that nobody goes on with is removed


def default_folder() -> Path:
    """The cache folder: the environment's DEEPHASH_CACHE, or ~/.cache/deephash."""
    return Path(os.environ.get("DEEPHASH_CACHE") or Path.home() / ".cache" / "deephash")


def entries(folder: str | Path | None = None) -> list[Path]:
    """The entries of a cache folder, None for `default_folder()`, whole or not."""
    return sorted(path for path in _root(folder).glob("pixels-*") if not path.suffix)


def cached(
    content: Content,
    decode: Decode,
    strict: bool = True,
    folder: str | Path | None = None,
    workers: int | None = None,
) -> tuple[np.ndarray, Sequence[Fault]]:
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
        The array, (n, 3, S, S) uint8, memory-mapped copy-on-write; and the files that could not be
        read, whose rows are zero.

    Raises:
        Unreadable: a file cannot be decoded, and `strict`.
        DataError: the folder cannot be used, or its disk is too small.
    """
    root = _root(folder)
    entry = root / content.entry
    found = _opened(entry)
    if found is None:
        with _alone(root / content.part) as part:
            found = _opened(entry)  # another process may have built it meanwhile
            if found is None:
                _sweep(root)
                _discard(entry)
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
        try:
            shutil.rmtree(part, ignore_errors=True)
            note(entry, index.blocks)
            os.replace(entry, part)
            (part / INDEX).unlink()
        except OSError as error:
            raise cannot_write(entry.parent, error) from error


def _root(folder: str | Path | None) -> Path:
    return default_folder() if folder is None else place(folder)


def _opened(entry: Path) -> tuple[np.ndarray, Sequence[Fault]] | None:
    """An entry, or None where there is none or something of it is missing."""
    try:
        pixels, index = open_entry(entry)
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
