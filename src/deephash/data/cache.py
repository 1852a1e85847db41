"""Decoded pixels kept on disk, so that a dataset is decoded once and memory-mapped ever after."""

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from deephash.errors import DataError

Notes = list[list[str]]
"""What a build has to say besides its pixels: rows of text."""

FORMAT = 1  # raise it when the meaning of a stored entry changes


def default_folder() -> Path:
    """The cache folder: the environment's DEEPHASH_CACHE, or ~/.cache/deephash."""
    return Path(os.environ.get("DEEPHASH_CACHE") or Path.home() / ".cache" / "deephash")


def cached(
    parts: object,
    shape: tuple[int, ...],
    build: Callable[[np.ndarray], Notes],
    folder: str | Path | None = None,
) -> tuple[np.ndarray, Notes]:
    """The uint8 array that `build` fills, from the cache when it was built before.

    An entry is a folder, `pixels-<key>/` with `pixels.npy` and `notes.json`. It is written under a
    name of its own and renamed when it is whole: a reader never sees half an entry. Of several
    processes that want the same one, one builds it and the others wait. An entry that cannot be
    read, or has another shape, is built anew.

    Args:
        parts: everything the content depends on, as JSON holds it; the key is its sha256.
        shape: shape of the array.
        build: fills the zeroed array it is given in place and returns its notes. What it raises
            is passed on, and nothing is kept.
        folder: where entries lie; None for `default_folder()`.

    Returns:
        The array, memory-mapped copy-on-write (writing to it never reaches the file), and the
        notes.

    Raises:
        DataError: the folder cannot be written, or its disk is too small.
    """
    root = Path(folder).expanduser() if folder is not None else default_folder()
    text = json.dumps([FORMAT, list(shape), parts], sort_keys=True)
    entry = root / f"pixels-{hashlib.sha256(text.encode()).hexdigest()[:32]}"
    found = _read(entry, shape)
    if found is None:
        with _alone(entry):
            found = _read(entry, shape)  # another process may have built it meanwhile
            if found is None:
                _write(entry, shape, build)
                found = _read(entry, shape)
    if found is None:
        raise DataError(f"the cache entry {entry} was written, yet cannot be read back")
    return found


@contextlib.contextmanager
def _alone(entry: Path) -> Iterator[None]:
    """Waits until no other process builds this entry; where files cannot be locked, does not."""
    file = entry.with_suffix(".lock")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        lock = file.open("w")
    except OSError:  # _write tells what is wrong with the folder
        yield
        return
    with lock:
        with contextlib.suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            yield
        finally:
            file.unlink(missing_ok=True)


def _read(entry: Path, shape: tuple[int, ...]) -> tuple[np.ndarray, Notes] | None:
    """The entry, or None where there is none or it is broken."""
    try:
        notes = json.loads((entry / "notes.json").read_text(encoding="utf-8"))
        array = np.load(entry / "pixels.npy", mmap_mode="c", allow_pickle=False)
    except (OSError, ValueError, EOFError):  # missing, or cut short
        return None
    if array.shape != shape or array.dtype != np.uint8:
        return None
    return array, notes


def _write(entry: Path, shape: tuple[int, ...], build: Callable[[np.ndarray], Notes]) -> None:
    """Build the entry beside its place, then move it there."""
    needed = int(np.prod(shape, dtype=np.int64))
    try:
        entry.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(entry.parent).free
        # A full disk would kill the process in the middle of a write to mapped memory.
        if free < needed + (1 << 20):
            raise DataError(
                f"the cache folder {entry.parent} has {free / 1e9:.1f} GB free and the decoded "
                f"images need {needed / 1e9:.1f} GB: set paths.cache, or the environment "
                "variable DEEPHASH_CACHE, to a folder on a larger disk"
            )
        fresh = Path(tempfile.mkdtemp(prefix="building-", dir=entry.parent))
    except OSError as error:
        raise DataError(
            f"cannot write to the cache folder {entry.parent} ({error}): set "
            "paths.cache, or the environment variable DEEPHASH_CACHE, to one that can be "
            "written"
        ) from error
    try:
        array = np.lib.format.open_memmap(
            fresh / "pixels.npy", mode="w+", dtype=np.uint8, shape=shape
        )
        notes = build(array)
        array.flush()
        del array
        (fresh / "notes.json").write_text(json.dumps(notes), encoding="utf-8")
        _move(fresh, entry, shape)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)  # gone already if it was moved


def _move(fresh: Path, entry: Path, shape: tuple[int, ...]) -> None:
    """Put a whole entry in its place, unless another process has put a good one there."""
    while True:
        try:
            os.replace(fresh, entry)  # refused where a folder with files is
            return
        except OSError:
            if _read(entry, shape) is not None or not entry.exists():
                return
        aside = Path(tempfile.mkdtemp(prefix="broken-", dir=entry.parent))
        try:
            os.replace(entry, aside)
        except FileNotFoundError:  # another process was faster
            pass
        finally:
            shutil.rmtree(aside, ignore_errors=True)
