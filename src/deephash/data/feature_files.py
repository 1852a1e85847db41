"""Files of features: what the field's formats hold, and how ours are written."""

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from deephash.errors import DataError
from deephash.extras import import_extra
from deephash.files import write_json

ARRAY, NOTES = "features.npy", "features.json"
"""The files of a folder of features, beside its split file."""

FLUSH = 16  # blocks after which what was written is safe from a kill

NAMES = {
    "features": ("features", "codes", "embeddings", "descriptors", "x", "X"),
    "labels": ("labels", "label", "targets", "y", "Y"),
    "ids": ("ids", "id", "names", "paths"),
}
"""What the arrays of a file may be called."""


def read_features(root: Path, name: str) -> dict[str, Any]:
    """The features, labels and ids of a file, None where it has none, and the `file` itself.

    Args:
        root: the folder of the file.
        name: its name without the ending, which says what it is.

    Raises:
        DataError: there is no such file, it cannot be read, or its arrays do not fit each other.
    """
    for ending, read in READERS.items():
        file = root / f"{name}{ending}"
        if file.is_file():
            try:
                found = read(file)
            except DataError:
                raise
            except Exception as error:  # a dozen kinds, by format
                raise DataError(f"cannot read the features {file}: {error}") from error
            return _checked(file, found)
    raise DataError(
        f"no features {name} in {root}: looked for {ARRAY} with a split file, and for "
        f"{name} with one of the endings {' '.join(READERS)}.\n"
        "  Set dataset.root=FOLDER, and dataset.source.train=, queries= and database= to names "
        "of files without their endings"
    )


def npy(file: Path) -> np.ndarray:
    """The array of a file, memory-mapped copy-on-write."""
    return np.load(file, mmap_mode="c", allow_pickle=False)


def _read_npy(file: Path) -> dict[str, Any]:
    beside = {name: file.with_name(f"{file.stem}_{name}.npy") for name in ("labels", "ids")}
    found: dict[str, Any] = {"features": npy(file)}
    return found | {name: np.load(one) for name, one in beside.items() if one.is_file()}


def _read_npz(file: Path) -> Mapping[str, Any]:
    with file.open("rb") as opened, np.load(opened, allow_pickle=False) as arrays:
        return dict(arrays)


def _read_safetensors(file: Path) -> Mapping[str, Any]:
    safe_open = _imported("safetensors", file).safe_open
    with safe_open(str(file), framework="numpy") as arrays:
        return {name: arrays.get_tensor(name) for name in arrays.keys()}  # noqa: SIM118


def _read_hdf5(file: Path) -> Mapping[str, Any]:
    opened = _imported("h5py", file).File(file, "r")  # stays open: rows are read later
    return dict(opened)


def _read_torch(file: Path) -> Mapping[str, Any]:
    import torch
    from numpy._core.multiarray import _reconstruct  # what numpy's arrays of ids are saved by

    kinds = (np.dtypes.StrDType, np.dtypes.Int64DType, np.dtypes.Float32DType)
    with torch.serialization.safe_globals([_reconstruct, np.ndarray, np.dtype, *kinds]):
        try:
            found = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
        except RuntimeError:  # a file of before torch 1.6 cannot be mapped
            found = torch.load(file, map_location="cpu", weights_only=True)
    if not isinstance(found, Mapping):
        raise DataError(f"{file} holds a {type(found).__name__}, not a dict of arrays")
    return {
        name: value.float().numpy() if isinstance(value, torch.Tensor) and value.is_floating_point()
        else np.asarray(value)
        for name, value in found.items()
    }  # fmt: skip


READERS: dict[str, Callable[[Path], Mapping[str, Any]]] = {
    ".npy": _read_npy,
    ".npz": _read_npz,
    ".safetensors": _read_safetensors,
    ".h5": _read_hdf5,
    ".hdf5": _read_hdf5,
    ".pt": _read_torch,
    ".pth": _read_torch,
    ".txt": _read_torch,
}


def _imported(package: str, file: Path) -> Any:
    return import_extra(package, str(file), "write the arrays to an .npz file", DataError)


def _checked(file: Path, found: Mapping[str, Any]) -> dict[str, Any]:
    """The arrays of a file under our names, known to fit each other."""
    known: dict[str, Any] = {}
    for ours, theirs in NAMES.items():
        name = next((one for one in theirs if one in found), None)
        known[ours] = None if name is None else found[name]
    features = known["features"]
    if features is None or not hasattr(features, "dtype"):  # a group of HDF5 has none
        raise DataError(
            f"{file} has no features: its arrays are {', '.join(found) or 'none'}, and they should "
            f"be called {' or '.join(NAMES['features'][:2])}, labels, ids"
        )
    if len(features.shape) != 2 or np.dtype(features.dtype).kind != "f":
        raise DataError(
            f"the features of {file} must be (n, D) floats, not {features.shape} {features.dtype}"
        )
    for name in ("labels", "ids"):
        if known[name] is not None:
            known[name] = np.asarray(known[name])
            if len(known[name]) != len(features):
                raise DataError(
                    f"{file} has {len(features)} features and {len(known[name])} {name}"
                )
    if known["ids"] is not None:
        known["ids"] = [
            one.decode() if isinstance(one, bytes) else str(one) for one in known["ids"].tolist()
        ]
    return known | {"file": file}


def write_features(
    folder: Path,
    count: int,
    width: int,
    dtype: str,
    notes: Mapping[str, Any],
    features: Callable[[int], Iterator[np.ndarray]],
) -> None:
    """Features of images, row by row: `features.npy`, and `features.json` beside it.

    They grow in a folder of their own, `features.part`, and a later call with the same notes goes
    on where this one was stopped. Then they take their place by a rename, and a call with the same
    notes leaves them there.

    Args:
        folder: where; made if it is not there.
        count: n, images.
        width: D.
        dtype: `float16` or `float32`.
        notes: what made them; other notes, other features.
        features: from the row to begin with to blocks (b, D) of that row and those after it.

    Raises:
        DataError: the folder cannot be written, or its disk is too small.
    """
    part = folder / "features.part"
    array_file, done_file = part / ARRAY, part / NOTES
    told = {**notes, "shape": [count, width], "dtype": dtype}
    if (folder / ARRAY).is_file() and _noted(folder / NOTES) == _as_json(told):
        return
    try:
        part.mkdir(parents=True, exist_ok=True)
        before = _noted(done_file) if array_file.is_file() else {}
        done = before["done"] if before.get("notes") == _as_json(told) else 0
        if not done:
            needed = count * width * np.dtype(dtype).itemsize
            free = shutil.disk_usage(part).free
            if free < needed:
                raise DataError(
                    f"{folder} has {free / 1e9:.1f} GB free and the features need "
                    f"{needed / 1e9:.1f} GB: give out=FOLDER on a larger disk, or dtype=float16"
                )
            array = np.lib.format.open_memmap(array_file, "w+", np.dtype(dtype), (count, width))
        else:
            array = np.load(array_file, mmap_mode="r+", allow_pickle=False)
        for number, block in enumerate(features(done), 1):
            array[done : done + len(block)] = block
            done += len(block)
            if number % FLUSH == 0 or done == count:
                array.flush()
                write_json(done_file, {"done": done, "notes": told})
        del array
        (folder / NOTES).unlink(
            missing_ok=True
        )  # a kill from here on leaves an array without notes
        array_file.replace(folder / ARRAY)
        write_json(folder / NOTES, told)
        shutil.rmtree(part)
    except OSError as error:
        raise DataError(f"cannot write features to {folder}: {error}") from error


def _noted(file: Path) -> dict[str, Any]:
    """What a file of notes holds, nothing if it is not there or torn."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _as_json(notes: Mapping[str, Any]) -> Any:
    return json.loads(json.dumps(notes))
