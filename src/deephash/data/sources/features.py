"""Datasets of precomputed features, with labels and roles."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse import csr_array, vstack

from deephash.data.catalogue import ImageSet
from deephash.data.ground_truth import read_ground_truth
from deephash.data.lazy_arrays import Stacked
from deephash.data.sources.feature_formats import ARRAY, READERS, map_features, read_features
from deephash.data.splits.split_file import ENDING, read_split
from deephash.errors import DataError
from deephash.utils import program
from deephash.utils.bounds import Count, CountOrZero, Name, Place
from deephash.utils.files import expand_path
from deephash.utils.ground_truth import find_rows

log = logging.getLogger("deephash")

SAMPLE = 256
"""Number of rows whose norms are compared between files."""

MOST_CLASSES = 10_000_000
"""Limit on the number of classes, since each needs a name and a column."""


class Features:
    """Features of images in files, (n, D) numbers, with labels and ids; for `backbone=identity`.

    `root` has one of two layouts. A folder written by `deephash data encode`: `features.npy`, and a
    split file with ids, labels and roles. Or one file per role: `.npz`, `.safetensors`, `.h5`,
    `.hdf5`, `.mat`, `.pt` or `.pth` or `.txt` or `.pkl` (a dict saved by torch, such as FIRe's
    descriptors, or a pickled one) with arrays called features (or codes, embeddings, descriptors),
    labels and optionally ids; or a single array in `.npy`, `.pt` or `.pkl` with `NAME_labels` and
    `NAME_ids` beside it. No file is run as code.

    Features may be floats, integers or bools of any size; they become float32, or float16 if all
    are. Labels are class indices (n,), -1 for none, class names (n,), or multi-hot rows (n, C). If
    no file has labels, there are no classes. Images with the same id in several files are one
    image; without ids all are different.

    Args:
        root: the folder of the files.
        train: name of the training file, without its extension; None for a dataset without one.
        queries: name of the file of the queries.
        database: name of the file of the database.
        num_classes: for class indices; None for one more than the largest.
        first_class: the lowest class index, 1 if classes are counted from one.
        truth: file of the ground truth, relative to `root` or absolute, for datasets in which lists
            and not labels define what is relevant. Files without ids must be in the order of the
            lists of a revisited dataset.

    Raises:
        DataError: on `load`, a file is missing, unreadable, or its arrays do not fit each other.

    Example:
        >>> Path("features").mkdir()
        >>> for name, count in (("train", 4), ("test", 2), ("database", 6)):
        ...     features = np.random.default_rng(count).normal(size=(count, 8))
        ...     np.savez(f"features/{name}.npz", features=features, labels=np.arange(count) % 2)
        >>> images = Features("features").load()
        >>> images.inputs.shape, len(images.lists["queries"])
        ((12, 8), 2)
    """

    def __init__(
        self,
        root: Place,
        train: Name | None = "train",
        queries: Name = "test",
        database: Name = "database",
        num_classes: Count | None = None,
        first_class: CountOrZero = 0,
        truth: Place | None = None,
    ):
        self.root = expand_path(root)
        named = {"database": database, "queries": queries, "train": train}
        self.names = {role: name for role, name in named.items() if name is not None}
        self.truth = None if truth is None else self.root / expand_path(truth)
        self.num_classes = num_classes
        self.first_class = first_class

    def missing(self) -> str | None:
        """Return what is missing, as far as that is known without opening a file."""
        if (self.root / ARRAY).is_file():
            return None
        absent = [
            name
            for name in self.names.values()
            if not any((self.root / f"{name}{ending}").exists() for ending in READERS)
        ]
        return f"there are no features {', '.join(absent)} in {self.root}" if absent else None

    def load(self) -> ImageSet:
        if (self.root / ARRAY).is_file():
            return self._load_folder()
        files = {role: read_features(self.root, name) for role, name in self.names.items()}
        if self.truth is None:
            return _merge(files, self.num_classes, self.first_class)
        truth = read_ground_truth(self.truth, files["database"]["ids"] or ())
        for role, ids in (("database", truth.database_ids), ("queries", truth.query_ids)):
            if files[role]["ids"] is None:
                _set_ids(files[role], ids, self.truth)
        images = _merge(files, self.num_classes, self.first_class, truth=True)
        queries = find_rows(truth.query_ids, images.ids, f"queries of {self.truth}")
        lists = dict(images.lists or {}) | {"queries": queries}
        truth = truth.for_database([images.ids[row] for row in lists["database"]])
        return replace(images, truth=truth, lists=lists)

    def _load_folder(self) -> ImageSet:
        files = sorted(self.root.glob(f"*{ENDING}"))
        if len(files) != 1:
            raise DataError(
                f"{self.root} must have one split file, *{ENDING}, beside {ARRAY}; it has "
                f"{len(files)}. {program.command('data')} encode writes both"
            )
        catalogue, _ = read_split(files[0])
        array = map_features(self.root / ARRAY)
        if array.ndim != 2 or array.dtype.kind != "f":
            raise DataError(
                f"{self.root / ARRAY} must be (n, D) floats, not {array.shape} {array.dtype}: "
                f"write it again with {program.command('data')} encode"
            )
        if array.shape[0] != len(catalogue):
            raise DataError(
                f"{self.root / ARRAY} has {array.shape[0]} rows and {files[0].name} names "
                f"{len(catalogue)} images: write them again with {program.command('data')} encode"
            )
        return ImageSet.of(catalogue, array)


def _set_ids(arrays: dict[str, Any], ids: Sequence[str], truth: Path) -> None:
    """Set the ids of features, which are in the order of the ground truth."""
    if len(arrays["features"]) != len(ids):
        raise DataError(
            f"{arrays['file']} has {len(arrays['features'])} features without ids, and {truth} "
            f"names {len(ids)}: add ids to the file"
        )
    arrays["ids"] = list(ids)


def _merge(
    files: Mapping[str, dict[str, Any]],
    num_classes: int | None,
    first_class: int,
    truth: bool = False,
) -> ImageSet:
    """Merge the files of all roles; an image that is in two of them is one row."""
    widths = {arrays["features"].shape[1] for arrays in files.values()}
    if len(widths) > 1:
        shapes = {role: tuple(arrays["features"].shape) for role, arrays in files.items()}
        message = f"the features of the roles have several widths: {sorted(widths)}\n  "
        message += ", ".join(f"{role} {shape}" for role, shape in shapes.items())
        message += "\n  They must be (n, D), one row per image"
        if len({shape[0] for shape in shapes.values()}) == 1:
            message += ": these seem to be transposed, save array.T"
        raise DataError(message)
    _compare_norms(files)
    names = _encode_names(files)
    labels_by_role = _labels(files, num_classes, first_class, truth)
    labels = csr_array(vstack([labels_by_role[role] for role in files]))  # of all files
    counts, first = np.diff(labels.indptr), 0
    row_of: dict[str, int] = {}
    label_row = np.zeros(0, np.int64)  # image -> its row of `labels`
    parts, origins, lists = [], [], {}
    for role, arrays in files.items():
        file, features = arrays["file"], arrays["features"]
        ids = arrays["ids"] or [f"{role}/{row:07d}" for row in range(len(features))]
        known = len(row_of)
        rows = np.array([row_of.setdefault(name, len(row_of)) for name in ids], np.int64)
        if repeated := len(rows) - len(np.unique(rows)):
            raise DataError(f"{file} has {repeated} ids twice")
        here = first + np.arange(len(rows))
        old = rows < known
        before, now = label_row[rows[old]], here[old]
        both = (counts[before] > 0) & (counts[now] > 0)
        differ = np.diff((labels[before[both]] != labels[now[both]]).indptr) > 0
        if differ.any():
            raise DataError(
                f"{file} gives {int(differ.sum())} images other labels than the files before it; "
                f"the first is {np.array(ids)[old][both][differ][0]}"
            )
        label_row[rows[old]] = np.where(counts[before] > 0, before, now)
        label_row = np.concatenate([label_row, here[~old]])
        new = np.flatnonzero(~old)
        if len(new):
            parts.append(features[new] if old.any() else features)
            origins.append((file, new if old.any() else None))
        lists[role] = rows
        first += len(rows)
    return ImageSet(
        inputs=Stacked(parts, origins),
        labels=labels[label_row],
        ids=tuple(row_of),
        classes=names or tuple(map(str, range(labels.shape[1]))),
        lists=lists,
    )


def _compare_norms(files: Mapping[str, dict[str, Any]]) -> None:
    """Warn if the rows of some files have norm 1 and those of others do not."""
    unit = {}
    for arrays in files.values():
        rows = np.asarray(arrays["features"][:SAMPLE], np.float64)
        with np.errstate(over="ignore"):
            norms = np.linalg.norm(rows, axis=1)
        if len(rows) and np.isfinite(norms).all():
            unit[str(arrays["file"])] = bool(np.allclose(norms, 1, atol=1e-2))
    if len(set(unit.values())) > 1:
        log.warning(
            "the features of %s are normalised (every row has norm 1), and those of %s are not",
            ", ".join(name for name, is_unit in unit.items() if is_unit),
            ", ".join(name for name, is_unit in unit.items() if not is_unit),
        )


def _encode_names(files: Mapping[str, dict[str, Any]]) -> tuple[str, ...]:
    """Replace labels that are class names by class indices, and return the sorted names.

    Raises:
        DataError: some files have names, and others numbers.
    """
    labelled = [arrays for arrays in files.values() if arrays["labels"] is not None]
    named = [arrays for arrays in labelled if arrays["labels"].dtype.kind in "SU"]
    if not named:
        return ()
    if len(named) < len(labelled):
        other = next(arrays for arrays in labelled if arrays["labels"].dtype.kind not in "SU")
        raise DataError(
            f"the labels of {named[0]['file']} are names and those of {other['file']} are "
            f"{other['labels'].dtype}: use names or numbers in all files"
        )
    for arrays in named:
        if arrays["labels"].dtype.kind == "S":
            arrays["labels"] = np.char.decode(arrays["labels"], "utf-8", "replace")
    names = np.unique(np.concatenate([arrays["labels"].ravel() for arrays in named]))
    names = names[names != ""]  # an empty name is no label
    for arrays in named:
        columns = np.searchsorted(names, arrays["labels"])
        arrays["labels"] = np.where(arrays["labels"] == "", -1, columns)
    if names.size and all(name.lstrip("-").isdigit() for name in names.tolist()):
        raise DataError(
            f"the labels of {named[0]['file']} are numbers as text, such as {str(names[0])!r}: "
            "save labels.astype('int64'), or names"
        )
    return tuple(names.tolist())


def _labels(
    files: Mapping[str, dict[str, Any]],
    num_classes: int | None,
    first_class: int,
    truth: bool = False,
) -> dict[str, csr_array]:
    """Return the labels of each role as rows of the same width."""
    given = {role: arrays["labels"] for role, arrays in files.items()}
    indices, width = {}, num_classes or 0
    for role, labels in given.items():
        if labels is None:
            continue
        file = files[role]["file"]
        if labels.ndim == 2:
            width = max(width, labels.shape[1])
        elif labels.ndim == 1 and labels.dtype.kind in "iub":
            if labels.dtype.kind == "b":
                labels = labels.astype(np.int64)
            if labels.size and int(labels.max()) > MOST_CLASSES:
                raise DataError(
                    f"the labels imply {int(labels.max()) - first_class + 1} classes: row "
                    f"{int(labels.argmax())} of {file} has the class {int(labels.max())}. Class "
                    "indices count the classes; convert other numbers with "
                    "np.unique(labels, return_inverse=True)"
                )
            below = labels[(labels >= 0) & (labels < first_class)]
            if len(below):
                raise DataError(
                    f"{file} has the class {below[0]} and dataset.source.first_class={first_class}"
                )
            indices[role] = np.where(labels < 0, -1, labels.astype(np.int64) - first_class)
            width = max(width, int(indices[role].max(initial=-1)) + 1)
        else:
            message = (
                f"the labels of {file} must be class indices (n,) or multi-hot rows (n, C), not "
                f"{labels.shape} {labels.dtype}"
            )
            if labels.dtype.kind == "f" and (labels == np.rint(labels)).all():
                message += ": save labels.astype('int64')"
            raise DataError(message)
    items = sum(len(arrays["features"]) for arrays in files.values())
    if (num_classes or 0) > MOST_CLASSES:
        raise DataError(
            f"dataset.source.num_classes={num_classes} is more than {MOST_CLASSES:,} classes"
        )
    if width > (num_classes or max(items, 2)):
        raise DataError(
            f"the labels imply {width} classes and dataset.source.num_classes={num_classes}: set "
            f"it to the number of classes, at least {width}"
        )
    if indices and not first_class and min(map(_lowest, indices.values())) == 1:
        log.warning(
            "no image has the class 0: if classes are counted from one, set "
            "dataset.source.first_class=1"
        )
    if truth or any(labels is not None for labels in given.values()):
        width = max(width, 1)  # with a ground truth: a class without images
    rows = {}
    for role, dense in given.items():
        if role in indices:
            rows[role] = _sparse(indices[role], width)
        elif dense is None:
            rows[role] = _sparse(np.full(len(files[role]["features"]), -1), width)
        elif dense.shape[1] != width or not np.isin(dense, (0, 1)).all():
            raise DataError(
                f"the labels of {files[role]['file']} must be {width} columns of 0 and 1; they are "
                f"{dense.shape}"
            )
        else:
            rows[role] = csr_array(dense.astype(bool))
    return rows


def _lowest(indices: np.ndarray) -> int:
    """Return the lowest class index, 0 if there is none."""
    return int(indices[indices >= 0].min(initial=np.iinfo(np.int64).max)) if len(indices) else 0


def _sparse(indices: np.ndarray, width: int) -> csr_array:
    """Return the labels of class indices, -1 for none."""
    starts = np.concatenate([[0], np.cumsum(indices >= 0)])
    known = indices[indices >= 0]
    return csr_array((np.ones(len(known), bool), known, starts), shape=(len(indices), width))
