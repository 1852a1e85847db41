"""Features as data: descriptors that some backbone made before, with labels and roles."""

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
from deephash.data.sources.feature_formats import ARRAY, READERS, npy, read_features
from deephash.data.splits.split_file import ENDING, read_split
from deephash.errors import DataError
from deephash.utils import program
from deephash.utils.bounds import Count, CountOrZero, Name, Place
from deephash.utils.files import expand_path
from deephash.utils.ground_truth import find_rows

log = logging.getLogger("deephash")

SAMPLE = 256
"""Rows whose norms are compared between files."""

MOST_CLASSES = 10_000_000
"""Classes beyond which a label is a fault: each has a name, and a column."""


class Features:
    """Features of images in files, (n, D) numbers, with labels and ids; `backbone=identity`.

    Two layouts of `root` are read. A folder that `data.py encode` wrote: `features.npy`, and a
    split file with ids, labels and roles. Or one file a role, whose name is given without its
    ending: `.npz`, `.safetensors`, `.h5` or `.hdf5`, `.mat`, `.pt` or `.pth` or `.txt` or `.pkl` (a
    dict that torch saved, as FIRe's descriptors are, or a pickled one), which hold arrays called
    features (or codes, embeddings, descriptors), labels and, if there are any, ids; or a bare array
    in `.npy`, `.pt` or `.pkl` with `NAME_labels` and `NAME_ids` beside it. No file is run as code.

    Features may be floats, integers or bools of any size; they become float32, float16 where all
    are. Labels are class indices (n,), -1 for none, names of classes (n,), or multi-hot rows
    (n, C); a file without labels has none, and if no file has, there are no classes. Images with
    the same id in several files are one image; without ids all are different.

    Args:
        root: the folder of the files.
        train: name of the training file, without its ending; None: nothing trains.
        queries: of the queries' file.
        database: of the database's file.
        num_classes: of class indices; None for as many as the largest needs.
        first_class: the lowest class index, 1 where classes are counted from one.
        truth: file of the ground truth, relative to `root` or absolute, of sets in which lists say
            what a query should find; None where labels do. Files without ids are then in the order
            of a revisited set's lists.

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
        """Say what is not there, as far as that is known without opening a file; None: nothing."""
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
        found = {role: read_features(self.root, name) for role, name in self.names.items()}
        if self.truth is None:
            return _joined(found, self.num_classes, self.first_class)
        truth = read_ground_truth(self.truth, found["database"]["ids"] or ())
        for role, ids in (("database", truth.database_ids), ("queries", truth.query_ids)):
            if found[role]["ids"] is None:
                _name(found[role], ids, self.truth)
        images = _joined(found, self.num_classes, self.first_class, truth=True)
        asked = find_rows(truth.query_ids, images.ids, f"queries of {self.truth}")
        lists = dict(images.lists or {}) | {"queries": asked}
        truth = truth.for_database([images.ids[row] for row in lists["database"]])
        return replace(images, truth=truth, lists=lists)

    def _load_folder(self) -> ImageSet:
        files = sorted(self.root.glob(f"*{ENDING}"))
        if len(files) != 1:
            raise DataError(
                f"{self.root} must hold one split file, *{ENDING}, beside {ARRAY}; it has "
                f"{len(files)}. {program.command('data')} encode writes both"
            )
        catalogue, _ = read_split(files[0])
        array = npy(self.root / ARRAY)
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


def _name(found: dict[str, Any], ids: Sequence[str], truth: Path) -> None:
    """Names features by the ground truth, whose order they are in."""
    if len(found["features"]) != len(ids):
        raise DataError(
            f"{found['file']} has {len(found['features'])} features without ids, and {truth} names "
            f"{len(ids)}: add ids to the file"
        )
    found["ids"] = list(ids)


def _joined(
    found: Mapping[str, dict[str, Any]],
    num_classes: int | None,
    first_class: int,
    truth: bool = False,
) -> ImageSet:
    """The files of all roles as one set; an image that two of them hold is one row."""
    widths = {one["features"].shape[1] for one in found.values()}
    if len(widths) > 1:
        shapes = {role: tuple(one["features"].shape) for role, one in found.items()}
        turned = len({shape[0] for shape in shapes.values()}) == 1
        raise DataError(
            f"the features of the roles have several widths: {sorted(widths)}\n  "
            + ", ".join(f"{role} {shape}" for role, shape in shapes.items())
            + "\n  They must be (n, D), a row an image"
            + ": these look turned over, save array.T" * turned
        )
    _compare_norms(found)
    names = _named(found)
    labels = _labels(found, num_classes, first_class, truth)
    told = csr_array(vstack([labels[role] for role in found]))  # of all files under each other
    counts, first = np.diff(told.indptr), 0
    rows_of: dict[str, int] = {}
    where = np.zeros(0, np.int64)  # in which row of these the labels of an image are told
    parts, origins, lists = [], [], {}
    for role, one in found.items():
        ids = one["ids"] or [f"{role}/{row:07d}" for row in range(len(one["features"]))]
        known = len(rows_of)
        rows = np.array([rows_of.setdefault(name, len(rows_of)) for name in ids], np.int64)
        if len(np.unique(rows)) < len(rows):
            raise DataError(f"{one['file']} holds {len(rows) - len(np.unique(rows))} ids twice")
        here = first + np.arange(len(rows))
        old = rows < known
        before, now = where[rows[old]], here[old]
        both = (counts[before] > 0) & (counts[now] > 0)
        differ = np.diff((told[before[both]] != told[now[both]]).indptr) > 0
        if differ.any():
            raise DataError(
                f"{one['file']} gives {int(differ.sum())} images other labels than the files "
                f"before it; the first is {np.array(ids)[old][both][differ][0]}"
            )
        where[rows[old]] = np.where(counts[before] > 0, before, now)
        where = np.concatenate([where, here[~old]])
        fresh = np.flatnonzero(~old)
        if len(fresh):
            parts.append(one["features"][fresh] if old.any() else one["features"])
            origins.append((one["file"], fresh if old.any() else None))
        lists[role] = rows
        first += len(rows)
    return ImageSet(
        inputs=Stacked(parts, origins),
        labels=told[where],
        ids=tuple(rows_of),
        classes=names or tuple(str(index) for index in range(told.shape[1])),
        lists=lists,
    )


def _compare_norms(found: Mapping[str, dict[str, Any]]) -> None:
    """Warn where the rows of some files have norm 1 and those of others have not."""
    unit = {}
    for one in found.values():
        rows = np.asarray(one["features"][:SAMPLE], np.float64)
        with np.errstate(over="ignore"):
            norms = np.linalg.norm(rows, axis=1)
        if len(rows) and np.isfinite(norms).all():
            unit[str(one["file"])] = bool(np.allclose(norms, 1, atol=1e-2))
    if len(set(unit.values())) > 1:
        log.warning(
            "the features of %s are normalised (every row has norm 1), and those of %s are not",
            ", ".join(name for name, one in unit.items() if one),
            ", ".join(name for name, one in unit.items() if not one),
        )


def _named(found: Mapping[str, dict[str, Any]]) -> tuple[str, ...]:
    """The names of classes, ascending, where labels are names; these become class indices.

    Raises:
        DataError: some files have names, and others numbers.
    """
    given = [one for one in found.values() if one["labels"] is not None]
    named = [one for one in given if one["labels"].dtype.kind in "SU"]
    if not named:
        return ()
    if len(named) < len(given):
        other = next(one for one in given if one["labels"].dtype.kind not in "SU")
        raise DataError(
            f"the labels of {named[0]['file']} are names and those of {other['file']} are "
            f"{other['labels'].dtype}: give names or numbers in all files"
        )
    for one in named:
        if one["labels"].dtype.kind == "S":
            one["labels"] = np.char.decode(one["labels"], "utf-8", "replace")
    names = np.unique(np.concatenate([one["labels"].ravel() for one in named]))
    names = names[names != ""]  # no name, no label
    for one in named:
        place = np.searchsorted(names, one["labels"])
        one["labels"] = np.where(one["labels"] == "", -1, place)
    if names.size and all(name.lstrip("-").isdigit() for name in names.tolist()):
        raise DataError(
            f"the labels of {named[0]['file']} are numbers as text, such as {str(names[0])!r}: "
            "save labels.astype('int64'), or names"
        )
    return tuple(names.tolist())


def _labels(
    found: Mapping[str, dict[str, Any]],
    num_classes: int | None,
    first_class: int,
    truth: bool = False,
) -> dict[str, csr_array]:
    """Labels of each role as rows of one width."""
    given = {role: one["labels"] for role, one in found.items() if one["labels"] is not None}
    indices, width = {}, num_classes or 0
    for role, one in given.items():
        file = found[role]["file"]
        if one.ndim == 2:
            width = max(width, one.shape[1])
        elif one.ndim == 1 and one.dtype.kind in "iub":
            if one.dtype.kind == "b":
                one = one.astype(np.int64)
            if one.size and int(one.max()) > MOST_CLASSES:
                row = int(one.argmax())
                raise DataError(
                    f"the labels name {int(one.max()) - first_class + 1} classes: row {row} of "
                    f"{file} has the class {int(one.max())}. Class indices count the classes; of "
                    "other numbers make indices with np.unique(labels, return_inverse=True)"
                )
            below = one[(one >= 0) & (one < first_class)]
            if len(below):
                raise DataError(
                    f"{file} has the class {below[0]} and dataset.source.first_class={first_class}"
                )
            indices[role] = np.where(one < 0, -1, one.astype(np.int64) - first_class)
            width = max(width, int(indices[role].max(initial=-1)) + 1)
        else:
            whole = one.dtype.kind == "f" and bool((one == np.rint(one)).all())
            raise DataError(
                f"the labels of {file} must be class indices (n,) or multi-hot rows (n, C), not "
                f"{one.shape} {one.dtype}" + ": save labels.astype('int64')" * whole
            )
    items = sum(len(one["features"]) for one in found.values())
    if (num_classes or 0) > MOST_CLASSES:
        raise DataError(
            f"dataset.source.num_classes={num_classes} is beyond {MOST_CLASSES:,} classes"
        )
    if width > (num_classes or max(items, 2)):
        raise DataError(
            f"the labels name {width} classes and dataset.source.num_classes={num_classes}: set it "
            f"to the number of classes, at least {width}"
        )
    if indices and not first_class and min(_lowest(one) for one in indices.values()) == 1:
        log.warning(
            "no image has the class 0: if classes are counted from one, set "
            "dataset.source.first_class=1"
        )
    if truth or given:
        width = max(width, 1)  # where lists say what is relevant: a class that no image has
    rows = {}
    for role, one in found.items():
        dense = given.get(role)
        if role in indices:
            rows[role] = _sparse(indices[role], width)
        elif dense is None:
            rows[role] = _sparse(np.full(len(one["features"]), -1), width)
        elif dense.shape[1] != width or not np.isin(dense, (0, 1)).all():
            raise DataError(
                f"the labels of {one['file']} must be {width} columns of 0 and 1; they are "
                f"{dense.shape}"
            )
        else:
            rows[role] = csr_array(dense.astype(bool))
    return rows


def _lowest(indices: np.ndarray) -> int:
    """The lowest class index, 0 where there is none."""
    return int(indices[indices >= 0].min(initial=np.iinfo(np.int64).max)) if len(indices) else 0


def _sparse(indices: np.ndarray, width: int) -> csr_array:
    """Rows of labels from class indices, -1 for none."""
    starts = np.concatenate([[0], np.cumsum(indices >= 0)])
    known = indices[indices >= 0]
    return csr_array((np.ones(len(known), bool), known, starts), shape=(len(indices), width))
