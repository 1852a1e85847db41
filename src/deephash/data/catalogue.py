"""The output of a data source: ids, labels and lists of images, and their pixels or features."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Self, TypeVar

import numpy as np
from scipy.sparse import csr_array

from deephash.data.lazy_arrays import select_rows
from deephash.errors import DataError
from deephash.utils.ground_truth import GroundTruth

BLANKS = " \t\r\f\v"
"""The characters that separate a path from its labels in lists."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Catalogue:
    """Ids, labels and paths of n images, before any of them is opened; C classes.

    Images without any labels have no classes: `classes` is empty, and `labels` is (n, 0).

    Splits, labels and codes refer to images by row number. Fingerprints use the ids, which do not
    depend on the rows. Labels may be passed dense, and are stored sparse: landmarks have 81,313
    classes.

    Raises:
        DataError: the fields do not fit each other, or two images share an id.

    Example:
        >>> labels = np.array([[True, False], [True, True]])
        >>> catalogue = Catalogue(ids=("a.jpg", "b.jpg"), labels=labels, classes=("cat", "dog"))
        >>> len(catalogue), catalogue.multilabel
        (2, True)
    """

    ids: tuple[str, ...]  # n stable names: a relative path, a file name, or train/000123
    labels: csr_array  # (n, C) bool, multi-hot
    classes: tuple[str, ...]  # C names
    skipped: tuple[str, ...] = ()  # ids of unreadable files that were left out
    official_query: np.ndarray | None = None  # (n,) bool, the official test part
    lists: Mapping[str, np.ndarray] | None = None  # role -> the rows of its list, in order
    places: tuple[str, ...] | None = None  # n file paths below the root; None if they are the ids
    official_validation: np.ndarray | None = None  # (n,) bool, the official validation part
    parts: tuple[str, ...] = ()  # folders of the official parts, which a protocol must not merge
    passed_over: Mapping[str, int] = field(default_factory=dict)  # extension or reason -> files
    remarks: tuple[str, ...] = ()  # warnings of the source, a sentence each

    def __post_init__(self) -> None:
        count = len(self.ids)
        if self.labels.dtype != np.bool_ or self.labels.shape != (count, len(self.classes)):
            raise DataError(
                f"labels must be ({count}, {len(self.classes)}) bool, one row per image and one "
                f"column per class; these are {self.labels.shape} {self.labels.dtype}"
            )
        labels = csr_array(self.labels)
        labels.eliminate_zeros()
        labels.sort_indices()
        object.__setattr__(self, "labels", labels)
        if len(set(self.ids)) != count:
            name = next(a for a, b in itertools.pairwise(sorted(self.ids)) if a == b)
            raise DataError(f"two images have the same id: {name}")
        if self.places is not None and len(self.places) != count:
            raise DataError(f"{len(self.places)} places for {count} images")
        for name in ("official_query", "official_validation"):
            part = getattr(self, name)
            if part is not None and (part.dtype != np.bool_ or part.shape != (count,)):
                raise DataError(f"{name} must be ({count},) bool; it is {part.shape} {part.dtype}")

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def labelled(self) -> bool:
        """Whether there are classes, so that images may have labels."""
        return bool(self.classes)

    @property
    def label_counts(self) -> np.ndarray:
        """The number of labels of each image: (n,)."""
        return np.diff(self.labels.indptr)

    @property
    def multilabel(self) -> bool:
        """Whether any image has several labels."""
        return bool((self.label_counts > 1).any())

    @property
    def class_indices(self) -> np.ndarray:
        """The class of each image of a single-label dataset, (n,); -1 for none."""
        indices = np.full(len(self), -1)
        indices[self.label_counts == 1] = self.labels.indices
        return indices

    def keep(self, kept: np.ndarray) -> Self:
        """Return the images where `kept`, (n,) bool, is true; the other ids become `skipped`."""
        if kept.all():
            return self
        left_out = tuple(itertools.compress(self.ids, ~kept))
        return replace(self, **self._subset(kept), skipped=self.skipped + left_out)

    def _subset(self, kept: np.ndarray) -> dict[str, Any]:
        """Return the fields with one value per image, for the images that are kept."""
        values: dict[str, Any] = {
            "ids": tuple(itertools.compress(self.ids, kept)),
            "labels": self.labels[np.flatnonzero(kept)],
        }
        if self.places is not None:
            values["places"] = tuple(itertools.compress(self.places, kept))
        for name in ("official_query", "official_validation"):
            if getattr(self, name) is not None:
                values[name] = getattr(self, name)[kept]
        if self.lists is not None:
            place = np.cumsum(kept) - 1
            values["lists"] = {role: place[rows[kept[rows]]] for role, rows in self.lists.items()}
        return values


@dataclass(frozen=True, eq=False, kw_only=True)
class ImageSet(Catalogue):
    """All images of a dataset, before any split: n inputs of one size.

    Raises:
        DataError: the fields do not fit each other.

    Example:
        >>> features, labels = np.zeros((2, 16), np.float32), np.eye(2, dtype=bool)
        >>> images = ImageSet(ids=("a", "b"), labels=labels, classes=("x", "y"), inputs=features)
        >>> images.pictures  # features, not pixels
        False
    """

    inputs: Any  # (n, 3, H, W) uint8 pixels, or (n, D) float features; may be memory-mapped
    truth: GroundTruth | None = None  # what is relevant to each query, if labels do not define it
    stamp: str | None = None  # digest of the files and of how the inputs were made from them

    def __post_init__(self) -> None:
        super().__post_init__()
        shape, dtype = self.inputs.shape, self.inputs.dtype
        pixels = dtype == np.uint8 and len(shape) == 4 and shape[1] == 3
        if not pixels and not (dtype in (np.float16, np.float32) and len(shape) == 2):
            raise DataError(
                "inputs must be (n, 3, H, W) uint8 pixels or (n, D) float16 or float32 features; "
                f"these are {shape} {dtype}"
            )
        if shape[0] != len(self):
            raise DataError(f"there are {shape[0]} inputs and {len(self)} ids")

    @property
    def pictures(self) -> bool:
        """Whether the inputs are pixels."""
        return len(self.inputs.shape) == 4

    def _subset(self, kept: np.ndarray) -> dict[str, Any]:
        return super()._subset(kept) | {"inputs": select_rows(self.inputs, np.flatnonzero(kept))}

    @classmethod
    def of(cls, catalogue: Catalogue, inputs: Any, stamp: str | None = None) -> "ImageSet":
        """Combine a catalogue with the inputs of the network, row by row."""
        values = {item.name: getattr(catalogue, item.name) for item in fields(Catalogue)}
        return cls(inputs=inputs, stamp=stamp, **values)


C = TypeVar("C", bound=Catalogue)


def select_classes(images: C, wanted: Sequence[int | str]) -> C:
    """Return the images of some classes, as if there were no others.

    The classes are numbered in the order given; the images keep their order. Contiguous inputs
    are a view, others a copy. All skipped files stay listed, since their class is unknown.

    Args:
        images: single-label.
        wanted: indices or names of at least two classes.

    Raises:
        DataError: a class does not exist or is repeated; or images have several labels or none.
    """
    if not images.labelled:
        raise DataError(
            "dataset.classes selects images by their labels, and these have none: set "
            "dataset.classes=null"
        )
    if (images.label_counts != 1).any():
        raise DataError(
            "dataset.classes needs images with one label each, and some have several or none: set "
            "dataset.classes=null"
        )
    columns = [_class_index(images.classes, name) for name in wanted]
    names = [images.classes[column] for column in columns]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise DataError(f"dataset.classes names {', '.join(twice)} twice: remove the repetition")
    if len(names) < 2:
        raise DataError(f"dataset.classes={list(wanted)} must name at least two classes")
    values = images._subset(np.isin(images.labels.indices, columns))
    values["labels"] = values["labels"][:, columns]
    return replace(images, **values, classes=tuple(names))


def _class_index(classes: Sequence[str], wanted: int | str) -> int:
    """Return the column of a class given by index or name."""
    if wanted in classes:
        return classes.index(str(wanted))
    if str(wanted) in classes and classes.index(str(wanted)) != wanted:
        raise DataError(
            f"dataset.classes: {wanted} is a number, and the name of class"
            f" {classes.index(str(wanted))}. Write names of digits in quotes:"
            f""" 'dataset.classes=["{wanted}",...]'"""
        )
    if isinstance(wanted, int) and 0 <= wanted < len(classes):
        return wanted
    raise DataError(
        f"dataset.classes: there is no class {wanted!r}. Give indices from 0 to"
        f" {len(classes) - 1}, or names: {first_few(classes, 10)}"
    )


def first_few(names: Sequence[str], shown: int = 5) -> str:
    """Return the first names of a sequence and the number of the others, for a message.

    >>> first_few(["a", "b", "c"], shown=2)
    'a, b and 1 more'
    """
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more


def is_below_root(place: str) -> bool:
    """Return whether a path stays below the folder that it starts from."""
    return place != "" and not place.startswith("/") and ".." not in place.split("/")


def no_labels(count: int) -> csr_array:
    """Return the labels of images without any: (count, 0) bool."""
    return csr_array((count, 0), dtype=bool)


def one_hot(classes: np.ndarray, count: int) -> csr_array:
    """Return the labels (n, count) bool of class indices (n,)."""
    rows = np.arange(len(classes) + 1)
    return csr_array((np.ones(len(classes), bool), classes, rows), shape=(len(classes), count))
