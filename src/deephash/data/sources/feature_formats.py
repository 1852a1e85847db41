"""Files of features: what the field's formats hold, and how ours are written."""

import errno
import io
import json
import math
import os
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
    write_json,
)
from deephash.utils.torch_files import Unread, described, is_module, read_pickle, read_torch

ARRAY, NOTES = "features.npy", "features.json"
"""The files of a folder of features, beside its split file."""

PART = "features.part"
"""The folder inside of it in which they are written."""

REMARKS = "remarks"
"""The key of notes by which features are not compared."""

TEXT_SECONDS = 30.0
"""Seconds that texts of an HDF5 file may take to read, beside one for each MiB of the file."""

FLUSH, FLUSH_SECONDS = 16, 15.0
"""Blocks or seconds after which what was written is safe from a kill."""

NAMES = {
    "features": (
        "features", "codes", "embeddings", "descriptors", "x", "X", "feature", "feats", "embedding",
    ),
    "labels": ("labels", "label", "targets", "y", "Y", "target"),
    "ids": ("ids", "id", "names", "paths"),
}  # fmt: skip
"""What the arrays of a file may be called."""

WANTED = frozenset(name for names in NAMES.values() for name in names)


class CannotWrite(DataError):
    """Features cannot be written to a folder, or its disk is too small."""


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
                return _checked(file, read(file))
            except DataError:
                raise
            except Exception as error:  # a dozen kinds, by format
                raise DataError(f"cannot read the features {file}: {error}") from error
    raise DataError(
        f"no features {name} in {root}: looked for {ARRAY} with a split file, and for "
        f"{name} with one of the endings {' '.join(READERS)}.\n"
        "  Set dataset.root=FOLDER, and dataset.source.train=, queries= and database= to names "
        "of files without their endings"
    )


def npy(file: Path) -> np.ndarray:
    """The array of a file, memory-mapped copy-on-write.

    Raises:
        FileError: it is missing, damaged or no array.
    """
    return np.asarray(map_array(file, "features"))


def _read_npy(file: Path) -> Any:
    return _beside(file, _array_of(file))


def _array_of(file: Path) -> Any:
    """The array of a file, memory-mapped; what is in it, where that was pickled."""
    with file.open("rb") as opened:
        version = np.lib.format.read_magic(opened)
        header = {(1, 0): np.lib.format.read_array_header_1_0,
                  (2, 0): np.lib.format.read_array_header_2_0}.get(version)  # fmt: skip
        if header is not None and header(opened)[2].hasobject:
            return _unpickled(read_pickle(opened, file))
    return npy(file)


def _unpickled(array: Any) -> Any:
    """What an array of one object holds, which is how NumPy saves a dict; others as they are."""
    return array.item() if isinstance(array, np.ndarray) and not array.shape else array


def _beside(file: Path, found: Any, read: Callable[[Path], Any] | None = None) -> Any:
    """A bare array as features, with labels and ids of `NAME_labels` and `NAME_ids` beside it."""
    if not isinstance(found, np.ndarray | torch.Tensor):
        return found
    arrays = {"features": found}
    for name in ("labels", "ids"):
        one = file.with_name(f"{file.stem}_{name}{file.suffix}")
        if one.is_file():
            arrays[name] = (read or _array_of)(one)
    return arrays


def _read_npz(file: Path) -> Mapping[str, Any]:
    found: dict[str, Any] = {}
    with zipfile.ZipFile(file) as archive, np.load(file, allow_pickle=False) as arrays:
        unpacked = sum(one.file_size for one in archive.infolist()
                       if one.filename.removesuffix(".npy") in WANTED)  # fmt: skip
        if unpacked > SMALL_UNPACKED + MOST_RATIO * file.stat().st_size:
            raise _unreadable(file, "the file", f"packed to less than 1 / {MOST_RATIO} of its size")
        for name in arrays.files:
            if name not in WANTED:  # of no use, and so it may be anything
                found[name] = None
                continue
            try:
                found[name] = arrays[name]
            except ValueError:  # it holds objects: text of any length, or lists
                with archive.open(f"{name}.npy") as opened:
                    np.lib.format.read_magic(opened)
                    np.lib.format.read_array_header_1_0(opened)
                    found[name] = read_pickle(io.BytesIO(opened.read()), file)
    return found


def _read_safetensors(file: Path) -> Mapping[str, Any]:
    safe_open = _imported("safetensors", file).safe_open
    with safe_open(str(file), framework="torch") as arrays:
        return {name: arrays.get_tensor(name) if name in WANTED else None
                for name in arrays.keys()}  # noqa: SIM118  # fmt: skip


def _read_hdf5(file: Path) -> Mapping[str, Any]:
    h5py = _imported("h5py", file)
    opened = h5py.File(file, "r")  # stays open: rows are read later
    found = dict(opened)
    for name in WANTED & set(found):
        kind = h5py.check_string_dtype(getattr(found[name], "dtype", np.dtype(np.void)))
        if kind is not None and kind.length is None:
            found[name] = _texts_of_hdf5(file, name)
    return found


_TEXTS = """
import json, sys, h5py
with h5py.File(sys.argv[1], "r") as file:
    texts = file[sys.argv[2]].asstr()[...]
json.dump([texts.shape, texts.ravel().tolist()], sys.stdout)
"""


def _texts_of_hdf5(file: Path, name: str) -> np.ndarray:
    """Read texts of variable length in a process of their own, with a limit of time.

    In a damaged file the library follows their addresses in a circle, and nothing ends that.
    """
    limit = TEXT_SECONDS + file.stat().st_size / 2**20
    try:
        done = subprocess.run(
            [sys.executable, "-c", _TEXTS, str(file), name],
            capture_output=True, text=True, timeout=limit, stdin=subprocess.DEVNULL,
        )  # fmt: skip
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
                f"{file} is of MATLAB's version 7.3, which turns arrays over. Save it with "
                "save(..., '-v7')"
            )
    shapes = {name: shape for name, shape, _ in whosmat(file)}
    limit = SMALL_UNPACKED + MOST_RATIO * file.stat().st_size
    if 8 * sum(math.prod(shapes[name]) for name in WANTED & set(shapes)) > limit:
        raise DataError(f"{file} unpacks to more than {limit:,} bytes. Save it as .npy")
    found = dict.fromkeys(shapes) | loadmat(file, variable_names=sorted(WANTED))
    found = {name: value for name, value in found.items() if not name.startswith("__")}
    for name in NAMES["labels"]:  # numbers of MATLAB are doubles
        one = found.get(name)
        if isinstance(one, np.ndarray) and one.dtype.kind == "f" and (one == np.rint(one)).all():
            found[name] = one.astype(np.int64)
    return found


def _read_torch(file: Path) -> Any:
    return _beside(file, read_torch(file), read_torch)


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


def _checked(file: Path, found: Any) -> dict[str, Any]:
    """The arrays of a file under our names, known to fit each other."""
    if isinstance(found, tuple | list) and 2 <= len(found) <= 3 and np.ndim(found[0]) == 2:
        found = dict(zip(NAMES, found, strict=False))  # (features, labels) or (..., ids)
    if is_module(found):
        raise DataError(
            f"{file} holds a network, {described(found)}, and no features. "
            f"{program.command('data')} encode makes features of images; a network's weights are"
            " given as backbone.weights=FILE"
        )
    if not isinstance(found, Mapping):
        what = described(found) if isinstance(found, Unread) else f"a {type(found).__name__}"
        raise DataError(
            f"{file} holds {what}, not a dict of arrays. Save "
            "{'features': an (n, D) array, 'labels': an (n,) array}"
        )
    known: dict[str, Any] = {}
    for ours, theirs in NAMES.items():
        name = next((one for one in theirs if one in found), None)
        known[ours] = None if name is None else _as_array(file, name, found[name])
    features = known["features"]
    if features is None or not hasattr(features, "dtype"):  # a group of HDF5 has none
        if found and all(isinstance(one, torch.Tensor) for one in found.values()):
            raise DataError(
                f"{file} looks like a state dict of {len(found)} tensors, and has no features: "
                f"{', '.join(map(str, list(found)[:3]))} ... A network's weights are given as "
                "backbone.weights=FILE"
            )
        raise DataError(
            f"{file} has no features: its arrays are {', '.join(map(str, found)) or 'none'}, and "
            f"they should be called {' or '.join(NAMES['features'][:2])}, labels, ids"
        )
    if len(features.shape) != 2 or np.dtype(features.dtype).kind not in "fiub":
        raise DataError(
            f"the features of {file} must be (n, D) floats, or integers or bools, not "
            f"{features.shape} {features.dtype}"
        )
    for name in ("labels", "ids"):
        if known[name] is not None:
            known[name] = _column(np.asarray(known[name]), len(features))
            if len(known[name]) != len(features):
                turned = features.shape[1] == len(known[name])
                raise DataError(
                    f"{file} has {len(features)} features and {len(known[name])} {name}"
                    + ". They look turned over: save the features as (n, D), one row an image"
                    * turned
                )
    if known["ids"] is not None:
        known["ids"] = [
            one.decode() if isinstance(one, bytes) else str(one) for one in known["ids"].tolist()
        ]
    return known | {"file": file}


def _column(array: np.ndarray, count: int) -> np.ndarray:
    """Numbers or text in a column or a row, (n, 1) or (1, n), as (n,); other arrays as they are.

    A column of 0 and 1 may be the labels of one class, (n, C) with C = 1: those of -1, 0 or 1 alone
    are not told apart, and are class indices as well.
    """
    if array.ndim == 2 and 1 in array.shape and array.size == count:
        return array.reshape(count)
    return array


def _as_array(file: Path, name: str, value: Any) -> Any:
    """The value of one name as an array; datasets of HDF5 as they are.

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
    """A list with a number, a text or a row for each image as one array."""
    rows = [
        _as_array(file, name, one) if isinstance(one, torch.Tensor | list | tuple) else one
        for one in items
    ]
    unread = next((one for one in rows if isinstance(one, Unread | Mapping | None)), 0)
    shapes = {np.shape(one) for one in rows if not isinstance(one, Unread | Mapping | None)}
    if isinstance(unread, Unread | Mapping | None) or len(shapes) > 1:
        what = described(unread) if len(shapes) < 2 else f"rows of {len(shapes)} shapes"
        way = "save one array, a row an image (np.stack, or np.concatenate of batches)"
        raise _unreadable(file, name, f"a list with {what}: {way}")
    found = np.array(rows)
    if found.dtype.kind in "OVmM":
        raise _unreadable(file, name, f"a list of {type(items[0]).__name__}, not of numbers")
    return found


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
        remarks: written beside the notes; features with other remarks are the same ones.

    Raises:
        CannotWrite: the folder cannot be written, or its disk is too small.
        DataError: a feature is not finite.
    """
    part = folder / PART
    array_file, done_file = part / ARRAY, part / NOTES
    complete = _complete(notes, count, width, dtype)
    told = {**complete, **({REMARKS: dict(remarks)} if remarks else {})}
    if is_written(folder, count, width, dtype, notes):
        shutil.rmtree(part, ignore_errors=True)  # left by a kill
        return
    try:
        part.mkdir(parents=True, exist_ok=True)
        for left in folder.glob(".*.tmp"):  # of a write that was killed
            left.unlink(missing_ok=True)
        before = _noted(done_file) if _is_array(array_file, (count, width), dtype) else {}
        done = before.get("done", 0) if _compared(before.get("notes")) == _as_json(complete) else 0
        done = done if 0 <= done <= count else 0
        if not done:
            needed = count * width * np.dtype(dtype).itemsize
            free = shutil.disk_usage(part).free
            if free < needed:
                raise CannotWrite(
                    f"{folder} has {free / 1e9:.1f} GB free and the features need "
                    f"{needed / 1e9:.1f} GB: give out=FOLDER on a larger disk, or dtype=float16"
                )
            array = np.lib.format.open_memmap(array_file, "w+", np.dtype(dtype), (count, width))
            _reserve(array_file)
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
                write_json(done_file, {"done": done, "notes": told})
                flushed = time.monotonic()
        del array
        (folder / NOTES).unlink(
            missing_ok=True
        )  # a kill from here on leaves an array without notes
        array_file.replace(folder / ARRAY)
        write_json(folder / NOTES, told)
        shutil.rmtree(part)
    except OSError as error:
        advice = os_advice(error.errno)
        raise CannotWrite(
            f"cannot write features to {folder}: {os_reason(error)}"
            + f"\n  {advice}" * bool(advice)
        ) from error


def is_written(folder: Path, count: int, width: int, dtype: str, notes: Mapping[str, Any]) -> bool:
    """Whether a folder holds all features that a call of `write_features` would write."""
    whole = _as_json(_complete(notes, count, width, dtype))
    return (folder / ARRAY).is_file() and _compared(_noted(folder / NOTES)) == whole


def _complete(notes: Mapping[str, Any], count: int, width: int, dtype: str) -> dict[str, Any]:
    return {**notes, "shape": [count, width], "dtype": dtype}


def _reserve(file: Path) -> None:
    """Take the space of a file on the disk, so that a full disk is an error and no fatal signal."""
    with file.open("r+b") as opened:
        try:
            os.posix_fallocate(opened.fileno(), 0, file.stat().st_size)
        except (AttributeError, OSError) as error:  # not on macOS, and not on every filesystem
            if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise


def _check_written(block: np.ndarray, written: np.ndarray, start: int) -> None:
    """Refuse features that are not finite, or not in the type of the file."""
    bad = np.flatnonzero(~np.isfinite(written).all(axis=1))
    if not len(bad):
        return
    if np.isfinite(block[bad]).all():
        largest = np.abs(block[bad]).max()
        raise DataError(
            f"the features of image {start + bad[0]} reach {largest:.3g}, more than"
            f" {written.dtype} holds ({np.finfo(written.dtype).max:.5g}): give dtype=float32"
        )
    raise DataError(
        f"the backbone makes NaN or infinite features of image {start + bad[0]} (counting from 0): "
        "try trainer.precision=fp32, and check its weights and dataset.transforms"
    )


def _is_array(file: Path, shape: tuple[int, int], dtype: str) -> bool:
    """Whether a file is an array of this shape and type."""
    try:
        array = map_array(file)
    except FileError:
        return False
    same: bool = array.shape == shape and array.dtype == np.dtype(dtype)
    return same


def _noted(file: Path) -> dict[str, Any]:
    """What a file of notes holds, nothing if it is not there or torn."""
    try:
        notes = read_json(file, "notes")
        expect(notes, {"done?": int}, file)
    except FileError:
        return {}
    return dict(notes)


def _compared(notes: Any) -> Any:
    """Notes as they are compared: without remarks."""
    if not isinstance(notes, dict):
        return notes
    return {key: value for key, value in notes.items() if key != REMARKS}


def _as_json(notes: Mapping[str, Any]) -> Any:
    return json.loads(json.dumps(notes))
