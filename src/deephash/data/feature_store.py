"""Features of a frozen backbone on disk, so that the runs of a sweep encode their images once.

An entry is a folder ``features-<key>/`` in the cache folder, written by
``feature_formats.write_features``. The key covers everything that the features depend on: the
images, the steps of their pipeline, the backbone with its weights, the versions of the packages
that compute them, and the settings of the computation. It names the model of a GPU, but neither
the model of a processor nor the number of threads: features are reproducible to the last bit only
as far as the device is.
"""

import contextlib
import hashlib
import itertools
import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deephash.data.cache_folder import locked, map_private, remove_stale
from deephash.data.sources.feature_formats import (
    ARRAY,
    NOTES,
    CannotWrite,
    is_written,
    write_features,
)
from deephash.errors import FileError, WriteError
from deephash.utils.files import map_array
from deephash.utils.progress import bar

FEATURES_VERSION = 1
"""Increase it when the meaning of an entry changes, or when code of this package changes features:
the package's version is part of the key, but does not change with each commit."""

MIN_SECONDS = 10.0  # of estimated computing time from which on features are stored

log = logging.getLogger("deephash")

Blocks = Callable[[int], Iterator[Tensor]]
"""Function from a start row to the features (b, D) of that row and all later ones."""


@dataclass(frozen=True)
class FeatureTable:
    """Features of images, one row per image and view.

    Args:
        rows: (m, D) float32, on the device or memory-mapped on the CPU.
        places: (n,) int64 on the CPU, the row of each image, -1 for images without features.
        computed: number of rows that were computed now and not read from the store.
    """

    rows: Tensor
    places: Tensor
    computed: int = 0


@dataclass(frozen=True)
class FeatureStore:
    """Store of features in a cache folder.

    Args:
        folder: created on demand.
        encoder: JSON values of all that features depend on beside images and pipeline:
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
        """Read features from their entry, or compute them, and store them if that takes long.

        If several processes need the same entry, one computes it and the others wait. Blocks that
        an interrupted process has finished are used by the next. If the folder cannot be written,
        the features are computed and not stored, with a warning.

        Args:
            content: JSON values that identify the images and their pipeline.
            count: m.
            width: D.
            blocks: computes features.
            device: where features are that are not stored.
            always: store the features even if computing takes less than ``MIN_SECONDS``.
            remarks: information for a reader of the entry, such as the name of the dataset; not
                part of its key.

        Returns:
            (m, D) float32, memory-mapped on the CPU or in memory on the device, and the number of
            rows that were computed.

        Raises:
            DataError: a feature that is to be stored is not finite.
            WriteError: `always`, and the folder cannot be written.
        """
        notes = {"format": FEATURES_VERSION, **self.encoder, **content}
        key = hashlib.sha256(json.dumps([notes, (count, width)], sort_keys=True).encode())
        entry = self.folder / f"features-{key.hexdigest()[:32]}"

        def read() -> Tensor | None:
            if not is_written(entry, count, width, "float32", notes):
                return None
            try:
                return torch.from_numpy(read_features_private(entry / ARRAY))
            except FileError as error:
                log.warning("%s: the features are computed again", error)
                return None

        rows = read()
        if rows is not None:
            return rows, 0
        computed_blocks = blocks(0)
        try:
            if not entry.is_dir() and not always:
                first_blocks, seconds = _estimate_seconds(computed_blocks, count)
                computed_blocks = itertools.chain(first_blocks, computed_blocks)
                if seconds < MIN_SECONDS:
                    return compute_in_memory(computed_blocks, count, width, device)
            purpose = f"which encodes the same images into {self.folder}"
            with locked(entry, purpose) as folder:
                if (rows := read()) is not None:
                    return rows, 0
                remove_stale(_unfinished(self.folder))
                computed = 0

                def counted(start: int) -> Iterator[np.ndarray]:
                    nonlocal computed
                    part = blocks(start) if start else computed_blocks
                    for block in _with_progress(part, count, start):
                        computed += len(block)
                        yield block.cpu().numpy()

                write_features(folder, count, width, "float32", notes, counted, remarks)
                if folder != entry:
                    with contextlib.suppress(OSError):  # another process was first
                        folder.replace(entry)
                rows = read()
            if rows is None:
                raise WriteError(entry, "it was written, but cannot be read back")
            return rows, computed
        except (CannotWrite, WriteError) as error:
            if always:
                raise
            log.warning("the features of the frozen backbone are not kept: %s", error)
            return compute_in_memory(blocks(0), count, width, device)


def feature_entries(folder: Path) -> list[Path]:
    """Return the folders of all entries, finished or not, sorted."""
    return sorted(path for path in folder.glob("features-*") if not path.suffix and path.is_dir())


def _unfinished(folder: Path) -> list[Path]:
    started = [path for path in feature_entries(folder) if not (path / NOTES).exists()]
    return [*started, *folder.glob("features-*.part")]


def compute_in_memory(
    blocks: Iterator[Tensor], count: int, width: int, device: torch.device | str
) -> tuple[Tensor, int]:
    """Gather computed blocks: (count, width) float32 on a device, and the count."""
    rows = torch.empty(count, width, device=device)
    start = 0
    for block in _with_progress(blocks, count):
        rows[start : start + len(block)] = block
        start += len(block)
    return rows, count


def _with_progress(blocks: Iterator[Tensor], count: int, start: int = 0) -> Iterator[Tensor]:
    """Show a progress bar while blocks are computed."""
    task = f"computing features of {count:,} images with the frozen backbone"
    with bar(task, count, start) as progress:
        for block in blocks:
            yield block
            progress.advance(len(block))


def _estimate_seconds(blocks: Iterator[Tensor], count: int) -> tuple[list[Tensor], float]:
    """Compute up to two blocks; estimate from the second how many seconds all rows take.

    The first block includes the warm-up. The estimate is 0 if the two blocks are all rows.
    """
    first_blocks: list[Tensor] = []
    seconds = 0.0
    for _ in range(2):
        started = time.perf_counter()
        block = next(blocks, None)
        if block is None:
            break
        if block.is_cuda:
            torch.cuda.synchronize(block.device)
        first_blocks.append(block)
        seconds = (time.perf_counter() - started) * count / max(1, len(block))
    if sum(map(len, first_blocks)) >= count:
        seconds = 0.0
    return first_blocks, seconds


def read_features_private(file: Path) -> np.ndarray:
    """Map an array of a file copy-on-write; raise FileError if that is not possible."""
    array = map_array(file, "features", "r")
    try:
        with file.open("rb") as opened:
            mapped = map_private(opened, array.offset + array.nbytes)
    except (OSError, ValueError) as error:
        raise FileError(file, str(error), "features") from error
    return np.ndarray(array.shape, array.dtype, mapped, array.offset)


def digest_of_texts(texts: Sequence[str]) -> str:
    """Return a digest of texts in their order: 32 hex digits."""
    joined = "\0".join(texts).encode("utf-8", "surrogateescape")
    return hashlib.sha256(joined).hexdigest()[:32]


def digest_of_rows(inputs: np.ndarray, rows: np.ndarray) -> str:
    """Return a digest of rows of an array: 32 hex digits."""
    digest = hashlib.sha256(f"{inputs.dtype} {inputs.shape[1:]}".encode())
    for start in range(0, len(rows), 4096):
        digest.update(np.ascontiguousarray(inputs[rows[start : start + 4096]]).data)
    return digest.hexdigest()[:32]
