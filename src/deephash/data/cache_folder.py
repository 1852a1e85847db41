"""The folder of decoded images and stored features, and what its entries have in common.

An entry is a folder `pixels-<key>` or `features-<key>`. A folder that ends in `.part` is not
finished; a file that ends in `.lock` belongs to the process that works on the entry beside it.
"""

import contextlib
import mmap
import os
import shutil
import sys
import time
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from deephash.utils.files import expand_path, make_folder
from deephash.utils.locks import Lock

STALE_SECONDS = 7 * 24 * 3600  # after which an unfinished entry is removed

_NORESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000 if sys.platform == "linux" else 0)


def cache_folder(folder: str | Path | None = None) -> Path:
    """Return the cache folder.

    Args:
        folder: as configured; None for the environment variable ``DEEPHASH_CACHE``, or
            ``~/.cache/deephash`` if it is not set.
    """
    if folder is not None:
        return expand_path(folder)
    return Path(os.environ.get("DEEPHASH_CACHE") or Path.home() / ".cache" / "deephash")


def lock_path(entry: Path) -> Path:
    """Return the path of the lock file of an entry or its unfinished part."""
    return entry.with_suffix(".lock")


@contextlib.contextmanager
def locked(folder: Path, purpose: str) -> Iterator[Path]:
    """Wait until no other process writes an entry or part, and lock it inside the context.

    Yields the folder to write. Where files cannot be locked it has a unique name, and is removed at
    the end. Other processes print `purpose` while they wait.
    """
    make_folder(folder.parent)
    with Lock.wait(lock_path(folder), purpose) as lock:
        own_folder = folder if lock.exclusive else _unique_part(folder)
        try:
            yield own_folder
        finally:
            if own_folder != folder:
                shutil.rmtree(own_folder, ignore_errors=True)


def _unique_part(entry: Path) -> Path:
    return entry.with_name(f"{entry.stem}-{uuid.uuid4().hex[:8]}.part")


def remove_entry(entry: Path) -> None:
    """Remove an entry, if it exists. No other process sees it partly removed."""
    part = _unique_part(entry)
    with contextlib.suppress(FileNotFoundError):
        entry.replace(part)
    shutil.rmtree(part, ignore_errors=True)


def remove_stale(parts: Iterable[Path]) -> None:
    """Remove unfinished entries that no process has continued for ``STALE_SECONDS``."""
    for part in parts:
        with contextlib.suppress(OSError):  # removed by another process, or owned by another user
            changed = max(path.stat().st_mtime for path in (part, *part.rglob("*")))
            if time.time() - changed > STALE_SECONDS and (lock := Lock.acquire(lock_path(part))):
                with lock:
                    shutil.rmtree(part)


def map_private(file: BinaryIO, size: int) -> mmap.mmap:
    """Map `size` bytes of a file copy-on-write: writing to the map never changes the file.

    Without ``MAP_NORESERVE`` a file larger than the memory could not be mapped.
    """
    return mmap.mmap(
        file.fileno(), size, mmap.MAP_PRIVATE | _NORESERVE, mmap.PROT_READ | mmap.PROT_WRITE
    )
