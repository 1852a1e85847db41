"""Features of a frozen backbone on disk: the runs of a sweep encode their images once.

An entry is a folder ``features-<key>/`` beside the decoded images, written by
``feature_files.write_features``. The key is made of all that the features depend on: the images,
the steps of their pipeline, the backbone with its weights, the packages whose code makes them, and
how it is computed. Features are reproducible to the last bit as far as the device is: the key names
the model of a GPU, but no model of a processor, and no number of threads.
"""

import contextlib
import hashlib
import itertools
import json
import logging
import mmap
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deephash.data.image_cache.entries import NORESERVE
from deephash.data.sources.feature_formats import (
    ARRAY,
    NOTES,
    CannotWrite,
    is_written,
    write_features,
)
from deephash.errors import FileError, WriteError
from deephash.utils.files import map_array
from deephash.utils.locks import Lock
from deephash.utils.progress import bar

FORMAT = 1
"""Raise it when the meaning of a stored entry changes, or when code of this package changes
features: its version is part of the key, and does not change with each commit."""

SECONDS = 10.0
"""Work of an estimated shorter time is done anew by each run, and leaves no files."""

STALE = 7 * 24 * 3600  # seconds after which a part that no command goes on with is removed

log = logging.getLogger("deephash")

Blocks = Callable[[int], Iterator[Tensor]]
"""From the row to begin with to features (b, D) of that row and those after it."""


@dataclass(frozen=True)
class Table:
    """Features of images, one row an image.

    Args:
        rows: (m, D) float32 on the device; or on the CPU, memory-mapped.
        places: the row of each image that may be asked for, -1 for the others: int64 on the CPU.
        computed: rows that were computed now; the others were in the store.
    """

    rows: Tensor
    places: Tensor
    computed: int = 0


@dataclass(frozen=True)
class FeatureStore:
    """The folder that entries lie in, and what makes the features.

    Args:
        folder: made if it is not there.
        encoder: all that features depend on beside images and pipeline, as JSON holds it:
            configuration and weights of the backbone, precision.

    Example:
        >>> import tempfile
        >>> folder = tempfile.TemporaryDirectory()
        >>> encoder = {"backbone": "resnet50", "weights": "0123456789ab"}
        >>> store = FeatureStore(Path(folder.name), encoder)
        >>> def blocks(start):
        ...     yield torch.zeros(6 - start, 2)
        >>> rows, computed = store.load({"pipeline": []}, 6, 2, blocks, always=True)
        >>> rows.shape, computed
        (torch.Size([6, 2]), 6)
        >>> store.load({"pipeline": []}, 6, 2, blocks)[1]
        0
        >>> folder.cleanup()
    """

    folder: Path
    encoder: Mapping[str, Any]

    def load(
        self,
        content: Mapping[str, Any],
        count: int,
        width: int,
        blocks: Blocks,
        device: torch.device | str = "cpu",
        always: bool = False,
        remarks: Mapping[str, Any] | None = None,
    ) -> tuple[Tensor, int]:
        """Read features from their entry, or compute them and keep them if that takes long.

        Of several processes that want the same entry one computes it and the others wait. What an
        interrupted process has finished is used by the next. If the folder cannot be written, the
        features are computed and not kept, with a warning.

        Args:
            content: what the features are of: the images and their pipeline, as JSON holds it.
            count: m.
            width: D.
            blocks: computes features.
            device: where features are that are not kept.
            always: whether an entry is written even if computing takes less than `SECONDS`.
            remarks: for a reader of the entry, such as the name of the dataset; no part of its key.

        Returns:
            (m, D) float32, memory-mapped on the CPU or in memory on the device, and how many rows
            were computed.

        Raises:
            DataError: a feature that is to be kept is not finite.
            WriteError: `always`, and the folder cannot be written.
        """
        notes = {"format": FORMAT, **self.encoder, **content}
        entry = Entry(self.folder, notes, (count, width), remarks)
        rows = entry.opened()
        if rows is not None:
            return rows, 0
        coming = blocks(0)
        begun: Sequence[Tensor] = ()
        try:
            if not entry.is_begun and not always:
                begun, seconds = probe(coming, count)
                if seconds < SECONDS:
                    return in_memory(itertools.chain(begun, coming), count, width, device)
            first = itertools.chain(begun, coming)
            return entry.build(lambda start: blocks(start) if start else first)
        except (CannotWrite, WriteError) as error:
            if always:
                raise
            log.warning("the features of the frozen backbone are not kept: %s", error)
            return in_memory(blocks(0), count, width, device)


class Entry:
    """One entry of the store.

    Args:
        root: the folder of all entries.
        notes: all that the features depend on.
        shape: (m, D).
        remarks: written beside the notes, and no part of the key.
    """

    def __init__(
        self,
        root: Path,
        notes: Mapping[str, Any],
        shape: tuple[int, int],
        remarks: Mapping[str, Any] | None = None,
    ) -> None:
        text = json.dumps([notes, shape], sort_keys=True)
        self.root = root
        self.notes = notes
        self.shape = shape
        self.remarks = remarks
        self.folder = root / f"features-{hashlib.sha256(text.encode()).hexdigest()[:32]}"

    @property
    def is_begun(self) -> bool:
        """Whether a process has begun to write it."""
        return self.folder.is_dir()

    def opened(self) -> Tensor | None:
        """Map its rows into memory; None if it is not whole."""
        if not is_written(self.folder, *self.shape, "float32", self.notes):
            return None
        try:
            return torch.from_numpy(map_private(self.folder / ARRAY))
        except FileError as error:
            log.warning("%s: the features are computed again", error)
            return None

    def build(self, blocks: Blocks) -> tuple[Tensor, int]:
        """Write it, unless another process does so first.

        Returns:
            Its rows, and how many of them were computed now.

        Raises:
            DataError: a feature is not finite.
            CannotWrite: its files cannot be written.
            WriteError: the folder of all entries cannot be written.
        """
        try:
            self.root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise WriteError(self.root, error) from error
        purpose = f"which encodes the same images into {self.root}"
        with Lock.wait(self.folder.with_suffix(".lock"), purpose) as lock:
            if (rows := self.opened()) is not None:
                return rows, 0
            sweep(self.root)
            folder = self.folder
            if not lock.exclusive:
                folder = folder.with_name(f"{folder.name}-{uuid.uuid4().hex[:8]}.part")
            computed = 0

            def counted(start: int) -> Iterator[np.ndarray]:
                nonlocal computed
                for block in shown(blocks(start), self.shape[0], start):
                    computed += len(block)
                    yield block.cpu().numpy()

            try:
                write_features(folder, *self.shape, "float32", self.notes, counted, self.remarks)
                if folder != self.folder:
                    with contextlib.suppress(OSError):  # another process may have been first
                        folder.replace(self.folder)
            finally:
                if folder != self.folder:
                    shutil.rmtree(folder, ignore_errors=True)
            rows = self.opened()
        if rows is None:
            raise WriteError(self.folder, "it was written, and cannot be read back")
        return rows, computed


def entries(folder: Path) -> list[Path]:
    """Return the folders of all entries, whole or not, sorted."""
    return sorted(path for path in folder.glob("features-*") if not path.suffix and path.is_dir())


def sweep(folder: Path) -> None:
    """Remove what interrupted commands have begun, and no command went on with for long."""
    parts = [path for path in entries(folder) if not (path / NOTES).exists()]
    for path in (*parts, *folder.glob("features-*.part")):
        with contextlib.suppress(OSError):  # removed by another process meanwhile
            changed = max(one.stat().st_mtime for one in (path, *path.rglob("*")))
            lock = None
            if time.time() - changed > STALE:
                lock = Lock.acquire(path.with_suffix(".lock"))
            if lock is not None:
                with lock:
                    shutil.rmtree(path)


def in_memory(
    blocks: Iterator[Tensor], count: int, width: int, device: torch.device | str
) -> tuple[Tensor, int]:
    """Gather computed blocks: (count, width) float32 on a device, and the count."""
    rows = torch.empty(count, width, device=device)
    start = 0
    for block in shown(blocks, count):
        rows[start : start + len(block)] = block
        start += len(block)
    return rows, count


def shown(blocks: Iterator[Tensor], count: int, start: int = 0) -> Iterator[Tensor]:
    """Show a progress bar while blocks are computed."""
    what = f"computing features of {count:,} images with the frozen backbone"
    with bar(what, count, start) as progress:
        for block in blocks:
            yield block
            progress.advance(len(block))


def probe(blocks: Iterator[Tensor], count: int) -> tuple[list[Tensor], float]:
    """Compute up to two blocks; estimate from the second how many seconds all rows take."""
    begun: list[Tensor] = []
    seconds = 0.0
    for _ in range(2):
        began = time.perf_counter()
        block = next(blocks, None)
        if block is None:
            break
        if block.is_cuda:
            torch.cuda.synchronize(block.device)
        begun.append(block)
        seconds = (time.perf_counter() - began) * count / max(1, len(block))
    done = sum(len(block) for block in begun) >= count
    return begun, 0.0 if done else seconds


def map_private(file: Path) -> np.ndarray:
    """Map an array of a file; what is written to it stays in memory. It may exceed the memory.

    Raises:
        FileError: the file is missing, or no array.
    """
    array = map_array(file, "features", "r")
    try:
        with file.open("rb") as opened:
            access = mmap.PROT_READ | mmap.PROT_WRITE
            flags = mmap.MAP_PRIVATE | NORESERVE
            mapped = mmap.mmap(opened.fileno(), array.offset + array.nbytes, flags, access)
    except (OSError, ValueError) as error:
        raise FileError(file, str(error), "features") from error
    return np.ndarray(array.shape, array.dtype, mapped, array.offset)


def digest_of(names: Sequence[str]) -> str:
    """Return a digest of a list of texts in their order: 32 hex digits."""
    text = "\0".join(names).encode("utf-8", "surrogateescape")
    return hashlib.sha256(text).hexdigest()[:32]


def digest_of_rows(inputs: np.ndarray, rows: np.ndarray) -> str:
    """Return a digest of some rows of an array: 32 hex digits."""
    digest = hashlib.sha256(f"{inputs.dtype} {inputs.shape[1:]}".encode())
    for start in range(0, len(rows), 4096):
        digest.update(np.ascontiguousarray(inputs[rows[start : start + 4096]]).data)
    return digest.hexdigest()[:32]
