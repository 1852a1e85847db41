"""Readers of feature files in common formats, and the writer of ours."""

import io
import json
import math
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.sparse import issparse

from deephash.errors import DataError, FileError, os_advice, os_reason
from deephash.utils import program
from deephash.utils.extras import import_extra
from deephash.utils.files import (
    MOST_RATIO,
    SMALL_UNPACKED,
    expect,
    map_array,
    read_json,
    reserve,
    write_json,
)
from deephash.utils.torch_files import Unread, described, is_module, read_pickle, read_torch

ARRAY, NOTES = "features.npy", "features.json"
"""The files of a folder of features, beside its split file."""

PART = "features.part"
"""The subfolder for incomplete files."""

REMARKS = "remarks"
"""The key of notes that are not compared."""

TEXT_SECONDS = 30.0
"""Time limit for reading texts of an HDF5 file, plus one second for each MiB of the file."""

FLUSH, FLUSH_SECONDS = 16, 15.0
"""Blocks or seconds after which written blocks are flushed, so that they survive a kill."""

NAMES = {
    "features": (
        "features", "codes", "embeddings", "descriptors", "x", "X", "feature", "feats", "embedding",
    ),
    "labels": ("labels", "label", "targets", "y", "Y", "target"),
    "ids": ("ids", "id", "names", "paths"),
}  # fmt: skip
"""The accepted names of arrays."""

WANTED = frozenset(name for names in NAMES.values() for name in names)


class CannotWrite(DataError):
    """Features cannot be written to a folder, or its disk is too small."""


def read_features(root: Path, name: str) -> dict[str, Any]:
    """Read the features, labels and ids of a file (None if it has none), and return its path too.

    Args:
        root: the folder of the file.
        name: its name without the extension, which sets the format.

    Raises:
        DataError: there is no such file, it cannot be read, or its arrays do not fit each other.
    """
    for ending, read in READERS.items():
        file = root / f"{name}{ending}"
        if file.is_file():
            try:
                return _checked(file, read(file))
            except DataError:
                raise
            except Exception as error:  # of many types, depending on the format
                raise DataError(f"cannot read the features {file}: {error}") from error
    raise DataError(
        f"no features {name} in {root}: looked for {ARRAY} with a split file, and for "
        f"{name} with one of the extensions {' '.join(READERS)}.\n"
        "  Set dataset.root=FOLDER, and dataset.source.train=, queries= and database= to file "
        "names without extension"
    )


def map_features(file: Path) -> np.ndarray:
    """Return the array of a file, memory-mapped copy-on-write.

    Raises:
        FileError: it is missing, damaged or no array.
    """
    return np.asarray(map_array(file, "features"))


def _read_npy(file: Path) -> Any:
    return _with_labels(file, _array_of(file))


def _array_of(file: Path) -> Any:
    """Return the array of a file, memory-mapped, or its pickled content."""
    with file.open("rb") as opened:
        version = np.lib.format.read_magic(opened)
        header = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }.get(version)
        if header is not None and header(opened)[2].hasobject:
            array = read_pickle(opened, file)
            # NumPy saves a dict as an array of one object.
            return array.item() if isinstance(array, np.ndarray) and not array.shape else array
    return map_features(file)


def _with_labels(file: Path, content: Any, read: Callable[[Path], Any] | None = None) -> Any:
    """Return a single array with the labels and ids of `NAME_labels` and `NAME_ids` beside it."""
    if not isinstance(content, np.ndarray | torch.Tensor):
        return content
    arrays = {"features": content}
    for name in ("labels", "ids"):
        beside = file.with_name(f"{file.stem}_{name}{file.suffix}")
        if beside.is_file():
            arrays[name] = (read or _array_of)(beside)
    return arrays


def _read_npz(file: Path) -> Mapping[str, Any]:
    result: dict[str, Any] = {}
    with zipfile.ZipFile(file) as archive, np.load(file, allow_pickle=False) as arrays:
        unpacked = sum(
            member.file_size
            for member in archive.infolist()
            if member.filename.removesuffix(".npy") in WANTED
        )
        if unpacked > SMALL_UNPACKED + MOST_RATIO * file.stat().st_size:
            raise _unreadable(file, "the file", f"packed to less than 1 / {MOST_RATIO} of its size")
        for name in arrays.files:
            if name not in WANTED:  # not used, so it may be anything
                result[name] = None
                continue
            try:
                result[name] = arrays[name]
            except ValueError:  # an array of objects: text of any length, or lists
                with archive.open(f"{name}.npy") as opened:
                    np.lib.format.read_magic(opened)
                    np.lib.format.read_array_header_1_0(opened)
                    result[name] = read_pickle(io.BytesIO(opened.read()), file)
    return result


def _read_safetensors(file: Path) -> Mapping[str, Any]:
    safe_open = _imported("safetensors", file).safe_open
    with safe_open(str(file), framework="torch") as arrays:
        names = list(arrays.keys())
        return {name: arrays.get_tensor(name) if name in WANTED else None for name in names}


def _read_hdf5(file: Path) -> Mapping[str, Any]:
    h5py = _imported("h5py", file)
    arrays = dict(h5py.File(file, "r"))  # stays open: rows are read later
    for name in WANTED & set(arrays):
        kind = h5py.check_string_dtype(getattr(arrays[name], "dtype", np.dtype(np.void)))
        if kind is not None and kind.length is None:
            arrays[name] = _texts_of_hdf5(file, name)
    return arrays


_TEXTS = """
import json, sys, h5py
with h5py.File(sys.argv[1], "r") as file:
    texts = file[sys.argv[2]].asstr()[...]
json.dump([texts.shape, texts.ravel().tolist()], sys.stdout)
"""


def _texts_of_hdf5(file: Path, name: str) -> np.ndarray:
    """Read texts of variable length in a subprocess with a time limit.

    In a damaged file the library may follow their addresses in an infinite loop.
    """
    limit = TEXT_SECONDS + file.stat().st_size / 2**20
    try:
        done = subprocess.run(
            [sys.executable, "-c", _TEXTS, str(file), name],
            capture_output=True,
            text=True,
            timeout=limit,
            stdin=subprocess.DEVNULL,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise DataError(
            f"{file} is damaged: its {name} could not be read within {limit:.0f} seconds"
        ) from None
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["the reader was killed"])[-1]
        raise DataError(f"{file} is damaged: its {name} cannot be read: {reason}")
    shape, texts = json.loads(done.stdout)
    return np.array(texts, dtype=str).reshape(shape)


def _read_mat(file: Path) -> Mapping[str, Any]:
    from scipy.io import loadmat, whosmat

    with file.open("rb") as opened:
        if b"MATLAB 7.3" in opened.read(128) or opened.seek(0) or opened.read(4) == b"\x89HDF":
            raise DataError(
                f"{file} has MATLAB's format 7.3, which transposes arrays. Save it with "
                "save(..., '-v7')"
            )
    shapes = {name: shape for name, shape, _ in whosmat(file)}
    limit = SMALL_UNPACKED + MOST_RATIO * file.stat().st_size
    if 8 * sum(math.prod(shapes[name]) for name in WANTED & set(shapes)) > limit:
        raise DataError(f"{file} unpacks to more than {limit:,} bytes. Save it as .npy")
    loaded = dict.fromkeys(shapes) | loadmat(file, variable_names=sorted(WANTED))
    arrays: dict[str, Any] = {
        name: value for name, value in loaded.items() if not name.startswith("__")
    }
    for name in NAMES["labels"]:  # numbers of MATLAB are doubles
        labels: Any = arrays.get(name)
        is_float = getattr(labels, "dtype", np.dtype(object)).kind == "f"
        if is_float and (labels == np.rint(labels)).all():
            arrays[name] = labels.astype(np.int64)
    return arrays


def _read_torch(file: Path) -> Any:
    return _with_labels(file, read_torch(file), read_torch)


READERS: dict[str, Callable[[Path], Any]] = {
    ".npy": _read_npy,
    ".npz": _read_npz,
    ".safetensors": _read_safetensors,
    ".h5": _read_hdf5,
    ".hdf5": _read_hdf5,
    ".pt": _read_torch,
    ".pth": _read_torch,
    ".pkl": _read_torch,
    ".pickle": _read_torch,
    ".mat": _read_mat,
    ".txt": _read_torch,
}


def _imported(package: str, file: Path) -> Any:
    return import_extra(package, str(file), "write the arrays to an .npz file", DataError)


def _checked(file: Path, content: Any) -> dict[str, Any]:
    """Return the arrays of a file under our names, after checking that they fit each other."""
    if isinstance(content, tuple | list) and 2 <= len(content) <= 3 and np.ndim(content[0]) == 2:
        content = dict(zip(NAMES, content, strict=False))  # (features, labels) or (..., ids)
    if is_module(content):
        raise DataError(
            f"{file} contains a network, {described(content)}, and no features. "
            f"{program.command('data')} encode makes features of images; for the weights of a "
            "network use backbone.weights=FILE"
        )
    if not isinstance(content, Mapping):
        what = described(content) if isinstance(content, Unread) else f"a {type(content).__name__}"
        raise DataError(
            f"{file} contains {what}, not a dict of arrays. Save "
            "{'features': an (n, D) array, 'labels': an (n,) array}"
        )
    arrays: dict[str, Any] = {}
    for key, names in NAMES.items():
        name = next((name for name in names if name in content), None)
        arrays[key] = None if name is None else _as_array(file, name, content[name])
    features = arrays["features"]
    if features is None or not hasattr(features, "dtype"):  # a group of HDF5 has none
        if content and all(isinstance(value, torch.Tensor) for value in content.values()):
            raise DataError(
                f"{file} looks like a state dict of {len(content)} tensors, and has no features: "
                f"{', '.join(map(str, list(content)[:3]))} ... For the weights of a network use "
                "backbone.weights=FILE"
            )
        raise DataError(
            f"{file} has no features: its arrays are {', '.join(map(str, content)) or 'none'}, and "
            f"they should be called {' or '.join(NAMES['features'][:2])}, labels, ids"
        )
    if len(features.shape) != 2 or np.dtype(features.dtype).kind not in "fiub":
        raise DataError(
            f"the features of {file} must be (n, D) floats, or integers or bools, not "
            f"{features.shape} {features.dtype}"
        )
    for name in ("labels", "ids"):
        if arrays[name] is None:
            continue
        arrays[name] = _column(np.asarray(arrays[name]), len(features))
        if len(arrays[name]) != len(features):
            message = f"{file} has {len(features)} features and {len(arrays[name])} {name}"
            if features.shape[1] == len(arrays[name]):
                message += ". They seem to be transposed: save the features as (n, D)"
            raise DataError(message)
    if arrays["ids"] is not None:
        arrays["ids"] = [
            name.decode() if isinstance(name, bytes) else str(name)
            for name in arrays["ids"].tolist()
        ]
    return arrays | {"file": file}


def _column(array: np.ndarray, count: int) -> np.ndarray:
    """Flatten a column or a row, (n, 1) or (1, n), to (n,).

    A column of 0 and 1 could also be the multi-hot labels of one class; it is read as class
    indices.
    """
    if array.ndim == 2 and 1 in array.shape and array.size == count:
        return array.reshape(count)
    return array


def _as_array(file: Path, name: str, value: Any) -> Any:
    """Return a value as an array, or as a dataset of HDF5.

    Raises:
        DataError: it is no array of numbers or text.
    """
    if isinstance(value, torch.Tensor):
        value = value.detach()
        if value.dtype.is_floating_point:
            return value.float().numpy()
        return _as_array(file, name, value.numpy())
    if isinstance(value, list | tuple):
        return _of_list(file, name, list(value))
    if isinstance(value, np.ndarray) and value.dtype == object:
        if value.ndim == 1 or (value.ndim == 2 and 1 in value.shape):
            return _of_list(file, name, value.ravel().tolist())
        raise _unreadable(file, name, f"{described(value)}, not an array of numbers")
    if issparse(value):
        if name not in NAMES["labels"]:
            raise _unreadable(file, name, "a sparse matrix: save it dense, as (n, D)")
        return value.toarray()
    if isinstance(value, Unread | Mapping | set | str | bytes) and not hasattr(value, "dtype"):
        raise _unreadable(file, name, f"{described(value)}: save an array of numbers")
    return value


def _of_list(file: Path, name: str, items: list[Any]) -> np.ndarray:
    """Return a list with a number, a text or a row for each image as one array."""
    rows = [
        _as_array(file, name, item) if isinstance(item, torch.Tensor | list | tuple) else item
        for item in items
    ]
    wrong = [row for row in rows if isinstance(row, Unread | Mapping | None)]
    shapes = {np.shape(row) for row in rows if not isinstance(row, Unread | Mapping | None)}
    if wrong or len(shapes) > 1:
        what = described(wrong[0]) if len(shapes) < 2 else f"rows of {len(shapes)} shapes"
        advice = "save one array, one row per image (np.stack, or np.concatenate of batches)"
        raise _unreadable(file, name, f"a list with {what}: {advice}")
    array = np.array(rows)
    if array.dtype.kind in "OVmM":
        raise _unreadable(file, name, f"a list of {type(items[0]).__name__}, not of numbers")
    return array


def _unreadable(file: Path, name: str, what: str) -> DataError:
    return DataError(f"cannot read the features {file}: {name} is {what}")


def write_features(
    folder: Path,
    count: int,
    width: int,
    dtype: str,
    notes: Mapping[str, Any],
    features: Callable[[int], Iterator[np.ndarray]],
    remarks: Mapping[str, Any] | None = None,
) -> None:
    """Write features of images, row by row, to `features.npy`, with notes in `features.json`.

    They are written to a subfolder, `features.part`; a later call with the same notes continues an
    interrupted one. When complete, they are renamed, and further calls with the same notes do
    nothing.

    Args:
        folder: created if it does not exist.
        count: n, images.
        width: D.
        dtype: `float16` or `float32`.
        notes: identify the features.
        features: given the first row, yields blocks (b, D) of that row and the following ones.
        remarks: saved with the notes, but not compared.

    Raises:
        CannotWrite: the folder cannot be written, or its disk is too small.
        DataError: a feature is not finite.
    """
    part = folder / PART
    array_file, done_file = part / ARRAY, part / NOTES
    complete = _complete(notes, count, width, dtype)
    saved = complete | ({REMARKS: dict(remarks)} if remarks else {})
    if is_written(folder, count, width, dtype, notes):
        shutil.rmtree(part, ignore_errors=True)  # left by an interrupted call
        return
    try:
        part.mkdir(parents=True, exist_ok=True)
        for left in folder.glob(".*.tmp"):  # left by an interrupted write
            left.unlink(missing_ok=True)
        before = _read_notes(done_file) if _is_array(array_file, (count, width), dtype) else {}
        done = before.get("done", 0) if _compared(before.get("notes")) == _as_json(complete) else 0
        done = done if 0 <= done <= count else 0
        if not done:
            needed = count * width * np.dtype(dtype).itemsize
            free = shutil.disk_usage(part).free
            if free < needed:
                raise CannotWrite(
                    f"{folder} has {free / 1e9:.1f} GB free and the features need "
                    f"{needed / 1e9:.1f} GB: set out=FOLDER on a larger disk, or dtype=float16"
                )
            array = np.lib.format.open_memmap(array_file, "w+", np.dtype(dtype), (count, width))
            with array_file.open("r+b") as opened:
                reserve(opened.fileno(), array_file.stat().st_size)
        else:
            array = map_array(array_file, "features", "r+")
        flushed = time.monotonic()
        for number, block in enumerate(features(done), 1):
            with np.errstate(over="ignore"):
                array[done : done + len(block)] = block
            _check_written(block, array[done : done + len(block)], done)
            done += len(block)
            late = time.monotonic() - flushed > FLUSH_SECONDS
            if number % FLUSH == 0 or late or done == count:
                array.flush()
                write_json(done_file, {"done": done, "notes": saved})
                flushed = time.monotonic()
        del array
        # A kill from here on leaves an array without notes.
        (folder / NOTES).unlink(missing_ok=True)
        array_file.replace(folder / ARRAY)
        write_json(folder / NOTES, saved)
        shutil.rmtree(part)
    except OSError as error:
        message = f"cannot write features to {folder}: {os_reason(error)}"
        if advice := os_advice(error.errno):
            message += f"\n  {advice}"
        raise CannotWrite(message) from error


def is_written(folder: Path, count: int, width: int, dtype: str, notes: Mapping[str, Any]) -> bool:
    """Return whether a folder has all features that `write_features` would write."""
    whole = _as_json(_complete(notes, count, width, dtype))
    return (folder / ARRAY).is_file() and _compared(_read_notes(folder / NOTES)) == whole


def _complete(notes: Mapping[str, Any], count: int, width: int, dtype: str) -> dict[str, Any]:
    return {**notes, "shape": [count, width], "dtype": dtype}


def _check_written(block: np.ndarray, written: np.ndarray, start: int) -> None:
    """Raise a DataError if features are not finite, or not in the data type of the file."""
    bad = np.flatnonzero(~np.isfinite(written).all(axis=1))
    if not len(bad):
        return
    if np.isfinite(block[bad]).all():
        largest = np.abs(block[bad]).max()
        raise DataError(
            f"the features of image {start + bad[0]} reach {largest:.3g}, more than"
            f" the limit of {written.dtype} ({np.finfo(written.dtype).max:.5g}): set dtype=float32"
        )
    raise DataError(
        f"the backbone returns NaN or infinite features for image {start + bad[0]} (from 0): "
        "try trainer.precision=fp32, and check its weights and dataset.transforms"
    )


def _is_array(file: Path, shape: tuple[int, int], dtype: str) -> bool:
    """Return whether a file is an array of this shape and type."""
    try:
        array = map_array(file)
    except FileError:
        return False
    same: bool = array.shape == shape and array.dtype == np.dtype(dtype)
    return same


def _read_notes(file: Path) -> dict[str, Any]:
    """Return the content of a file of notes; empty if it does not exist or is truncated."""
    try:
        notes = read_json(file, "notes")
        expect(notes, {"done?": int}, file)
    except FileError:
        return {}
    return dict(notes)


def _compared(notes: Any) -> Any:
    """Return notes without remarks, for comparison."""
    if not isinstance(notes, dict):
        return notes
    return {key: value for key, value in notes.items() if key != REMARKS}


def _as_json(notes: Mapping[str, Any]) -> Any:
    return json.loads(json.dumps(notes))
