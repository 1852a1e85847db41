"""Continuous codes of some images over training, to be looked at: how a method moves them."""

import contextlib
import logging
from pathlib import Path
from typing import Any

import numpy as np

from deephash.errors import FileError
from deephash.training.evaluation import Codes, encode
from deephash.utils.files import make_subfolder, read_arrays, remove, write_arrays

log = logging.getLogger("deephash")

FOLDER = "snapshots"
"""Where they lie in a run folder, as ``epoch0003.npz``."""


class Snapshots:
    """Saves the codes of the same database images again and again, and the class centers.

    Args:
        run: the run folder.
        count: images; evenly spaced over the rows of the database, all if there are fewer. None
            are saved when it is 0.
        autocast: makes the context of the forward pass.
    """

    def __init__(self, run: Path, count: int, autocast: Any) -> None:
        self.folder = run / FOLDER
        self.count = count
        self.autocast = autocast

    def take(self, epoch: int, method: Any, data: Any, codes: Codes | None = None) -> None:
        """Saves ``epochNNNN.npz``, or does nothing when no images were asked for.

        Args:
            epoch: whole epochs trained.
            method: with ``encoder`` and ``centers()``.
            data: with ``split``, ``images``, ``labels(ids)`` and ``eval_batches(ids)``.
            codes: of the whole database, where they are known; else some are encoded here.
        """
        if not self.count:
            return
        ids = spaced(np.sort(data.split.database), self.count)
        if codes is None:
            codes = encode(method.encoder, data, self.autocast, ids)
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

    def forget_after(self, epoch: int) -> None:
        """Removes those of later epochs, which a run that goes on from here takes again."""
        if self.folder.is_symlink():
            make_subfolder(self.folder)  # which refuses it
        for file in _files(self.folder):
            if _epoch(file) > epoch:
                remove(file)
        with contextlib.suppress(OSError):  # none left, or there never was one
            self.folder.rmdir()


def spaced(rows: np.ndarray, count: int) -> np.ndarray:
    """So many of the rows, evenly spaced from the first on; all if there are fewer."""
    count = min(count, len(rows))
    return rows[np.arange(count) * len(rows) // max(count, 1)]


def read_snapshots(run: Path, skip: bool = False) -> list[dict[str, Any]]:
    """The snapshots in a run folder, in the order of their epochs; none where there are none.

    Args:
        run: its folder.
        skip: leave damaged ones out, with a warning.

    Returns:
        of each, ``epoch``, ``z`` (n, K) float32, ``labels`` (n, C) bool, ``ids`` (n,) and
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
    found = {"centers": None} | read_arrays(
        file, "snapshot", ("epoch", "z", "labels", "ids"), ("centers",)
    )
    epoch, z, labels, centers = (found[name] for name in ("epoch", "z", "labels", "centers"))
    fits = (
        epoch.shape == ()
        and epoch.dtype.kind in "iu"
        and z.ndim == 2
        and z.dtype.kind == "f"
        and labels.ndim == 2
        and labels.dtype == np.bool_
        and found["ids"].shape == z.shape[:1] == labels.shape[:1]
        and (centers is None or (centers.dtype.kind == "f" and centers.shape[1:] == z.shape[1:]))
    )
    if not fits:
        shapes = ", ".join(f"{name} {getattr(one, 'shape', '-')}" for name, one in found.items())
        raise FileError(file, f"its arrays do not fit each other: {shapes}", "snapshot")
    return found | {"epoch": int(epoch)}


def _files(folder: Path) -> list[Path]:
    """Epoch by epoch: by number, since beyond 9,999 it has five digits."""
    found = [file for file in folder.glob("epoch*.npz") if file.stem[5:].isdigit()]
    return sorted(found, key=_epoch)


def _epoch(file: Path) -> int:
    return int(file.stem[5:])
