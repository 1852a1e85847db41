"""Continuous codes of some images over the course of training, for figures."""

import contextlib
import logging
from pathlib import Path
from typing import Any

import numpy as np

from deephash.errors import FileError
from deephash.training.evaluation import Codes, encode_images
from deephash.utils.files import make_subfolder, read_arrays, remove, write_arrays

log = logging.getLogger("deephash")

FOLDER = "snapshots"
"""Subfolder of a run folder, with files such as ``epoch0003.npz``."""


class Snapshots:
    """Save the codes of the same database images and the class centers at several epochs.

    Args:
        run: the run folder.
        count: images, evenly spaced over the database; 0 saves nothing.
        autocast: returns the context of the forward pass.
    """

    def __init__(self, run: Path, count: int, autocast: Any) -> None:
        self.folder = run / FOLDER
        self.count = count
        self.autocast = autocast

    def take(self, epoch: int, method: Any, data: Any, codes: Codes | None = None) -> None:
        """Save ``epochNNNN.npz``, or do nothing if ``count`` is 0.

        Args:
            epoch: whole epochs trained.
            method: with ``encoder`` and ``centers()``.
            data: with ``split``, ``images``, ``labels(ids)`` and ``eval_batches(ids)``.
            codes: of the whole database; None: the images are encoded here.
        """
        if not self.count:
            return
        ids = spaced(np.sort(data.split.database), self.count)
        if codes is None:
            codes = encode_images(method.encoder, data, self.autocast, ids)
        centers = method.centers()
        arrays = {
            "epoch": np.array(epoch),
            "z": codes.of(ids).numpy(),  # (n, K) float32
            "labels": data.labels(ids).cpu().numpy().astype(bool),  # (n, C)
            "ids": np.array([data.images.ids[row] for row in ids]),  # (n,) str
        }
        if centers is not None:
            arrays["centers"] = centers.detach().float().cpu().numpy()  # (C, K)
        write_arrays(make_subfolder(self.folder) / f"epoch{epoch:04d}.npz", arrays)

    def remove_after(self, epoch: int) -> None:
        """Remove snapshots of later epochs, which a resumed run takes again."""
        if self.folder.is_symlink():
            make_subfolder(self.folder)  # raises the error
        for file in _files(self.folder):
            if _epoch(file) > epoch:
                remove(file)
        with contextlib.suppress(OSError):  # not empty, or not there
            self.folder.rmdir()


def spaced(rows: np.ndarray, count: int) -> np.ndarray:
    """Return ``count`` of the rows, evenly spaced from the first on; all if there are fewer."""
    count = min(count, len(rows))
    return rows[np.arange(count) * len(rows) // max(count, 1)]


def read_snapshots(run: Path, skip: bool = False) -> list[dict[str, Any]]:
    """Read the snapshots of a run folder, sorted by epoch.

    Args:
        run: the folder.
        skip: leave out damaged ones, with a warning.

    Returns:
        Of each, ``epoch``, ``z`` (n, K) float32, ``labels`` (n, C) bool, ``ids`` (n,) and
        ``centers`` (C, K) float32, None for a method without.

    Raises:
        FileError: one is damaged, unless ``skip``.
    """
    snapshots = []
    for file in _files(run / FOLDER):
        try:
            snapshots.append(_read(file))
        except FileError as error:
            if not skip:
                raise
            log.warning("%s\n  It is left out.", error)
    return snapshots


def _read(file: Path) -> dict[str, Any]:
    arrays = {"centers": None} | read_arrays(
        file, "snapshot", ("epoch", "z", "labels", "ids"), ("centers",)
    )
    epoch, z, labels, centers = (arrays[name] for name in ("epoch", "z", "labels", "centers"))
    fits = (
        epoch.shape == ()
        and epoch.dtype.kind in "iu"
        and z.ndim == 2
        and z.dtype.kind == "f"
        and labels.ndim == 2
        and labels.dtype == np.bool_
        and arrays["ids"].shape == z.shape[:1] == labels.shape[:1]
        and (centers is None or (centers.dtype.kind == "f" and centers.shape[1:] == z.shape[1:]))
    )
    if not fits:
        shapes = ", ".join(
            f"{name} {getattr(array, 'shape', '-')}" for name, array in arrays.items()
        )
        raise FileError(file, f"its arrays do not fit each other: {shapes}", "snapshot")
    return arrays | {"epoch": int(epoch)}


def _files(folder: Path) -> list[Path]:
    """Return the files sorted by epoch, as a number since it may have more than four digits."""
    files = [file for file in folder.glob("epoch*.npz") if file.stem[5:].isdigit()]
    return sorted(files, key=_epoch)


def _epoch(file: Path) -> int:
    return int(file.stem[5:])
