"""What a source hands over: names, labels and lists of images, and their pixels or features."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Self, TypeVar

import numpy as np
from scipy.sparse import csr_array

from deephash.data.lazy_arrays import take
from deephash.errors import DataError
from deephash.utils.ground_truth import GroundTruth


@dataclass(frozen=True, eq=False, kw_only=True)
class Catalogue:
    """Ids, labels and places of n images, before any of them is opened; C classes.

    Images without any labels have no classes: `classes` is empty, and `labels` is (n, 0).

    Splits, labels and codes refer to images by row number. Fingerprints are made of the ids, which
    do not depend on the rows. Labels may be given dense, and are stored sparse: landmarks have
    81,313 classes.

    Raises:
        DataError: the parts do not fit each other, or two images share an id.

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
    official_query: np.ndarray | None = (
        None  # (n,) bool, the official test part; None: there is none
    )
    lists: Mapping[str, np.ndarray] | None = (
        None  # role -> the rows its list names, in its order; None: the set came without lists
    )
    places: tuple[str, ...] | None = None  # n paths of files below the root; None: the ids
    official_validation: np.ndarray | None = None  # (n,) bool, the official validation part
    parts: tuple[str, ...] = ()  # folders of the official parts, which a protocol must not merge
    passed_over: Mapping[str, int] = field(default_factory=dict)  # ending or reason -> files
    remarks: tuple[str, ...] = ()  # what the source warns of, a sentence each

    def __post_init__(self) -> None:
        count = len(self.ids)
        if self.labels.dtype != np.bool_ or self.labels.shape != (count, len(self.classes)):
            raise DataError(
                f"labels must be ({count}, {len(self.classes)}) bool, one row an image and one "
                f"column a class; these are {self.labels.shape} {self.labels.dtype}"
            )
        labels = csr_array(self.labels)
        labels.eliminate_zeros()
        labels.sort_indices()
        object.__setattr__(self, "labels", labels)
        if len(set(self.ids)) != count:
            twice = sorted(self.ids)
            name = next(a for a, b in itertools.pairwise(twice) if a == b)
            raise DataError(f"two images have the same id: {name}")
        if self.places is not None and len(self.places) != count:
            raise DataError(f"{len(self.places)} places for {count} images")
        official = self.official_query
        if official is not None and (official.dtype != np.bool_ or official.shape != (count,)):
            raise DataError(
                f"official_query must be ({count},) bool; it is {official.shape} {official.dtype}"
            )
        held = self.official_validation
        if held is not None and (held.dtype != np.bool_ or held.shape != (count,)):
            raise DataError(
                f"official_validation must be ({count},) bool; it is {held.shape} {held.dtype}"
            )

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def labelled(self) -> bool:
        """Whether there are classes, so that images may have labels."""
        return bool(self.classes)

    @property
    def label_counts(self) -> np.ndarray:
        """How many labels each image has: (n,)."""
        return np.diff(self.labels.indptr)

    @property
    def multilabel(self) -> bool:
        """Whether any image has several labels."""
        return bool((self.label_counts > 1).any())

    @property
    def class_indices(self) -> np.ndarray:
        """The class of each image, (n,), -1 for none; of sets that are not multi-label."""
        found = np.full(len(self), -1)
        found[self.label_counts == 1] = self.labels.indices
        return found

    def keep(self, kept: np.ndarray) -> Self:
        """The images for which `kept`, (n,) bool, is true; the ids of the others are skipped."""
        if kept.all():
            return self
        official, held = self.official_query, self.official_validation
        left_out = tuple(name for name, keep in zip(self.ids, kept, strict=True) if not keep)
        return replace(
            self,
            ids=tuple(itertools.compress(self.ids, kept)),
            labels=self.labels[np.flatnonzero(kept)],
            skipped=self.skipped + left_out,
            official_query=None if official is None else official[kept],
            official_validation=None if held is None else held[kept],
            lists=None if self.lists is None else renumbered(self.lists, kept),
            places=None if self.places is None else tuple(itertools.compress(self.places, kept)),
        )


@dataclass(frozen=True, eq=False, kw_only=True)
class ImageSet(Catalogue):
    """All images of a dataset, before any split: n inputs of one size.

    Raises:
        DataError: the parts do not fit each other.

    Example:
        >>> features, labels = np.zeros((2, 16), np.float32), np.eye(2, dtype=bool)
        >>> images = ImageSet(ids=("a", "b"), labels=labels, classes=("x", "y"), inputs=features)
        >>> images.pictures  # features, not pixels
        False
    """

    inputs: Any  # (n, 3, H, W) uint8 pixels, or (n, D) float features; in memory or memory-mapped
    truth: GroundTruth | None = None  # what queries should find, where lists and not labels say it
    stamp: str | None = None  # of the files that the inputs are made of, and how; None: not known

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
            raise DataError(f"{shape[0]} images have {len(self)} ids")

    @property
    def pictures(self) -> bool:
        """Whether the inputs are pixels."""
        return len(self.inputs.shape) == 4

    @classmethod
    def of(cls, catalogue: Catalogue, inputs: Any, stamp: str | None = None) -> "ImageSet":
        """The images of a catalogue with what the network sees of them, row by row."""
        known = {one.name: getattr(catalogue, one.name) for one in fields(Catalogue)}
        return cls(inputs=inputs, stamp=stamp, **known)


C = TypeVar("C", bound=Catalogue)


def only(images: C, wanted: Sequence[int | str]) -> C:
    """The images of some classes, as if there were no others.

    The classes are numbered in the order given; the images keep their order. Inputs that lie
    together are a view of the set's, others a copy. Of files that were left out nobody knows the
    class: all of them stay on the list.

    Args:
        images: single-label.
        wanted: indices or names of at least two classes.

    Raises:
        DataError: there is no such class, or it is named twice; or images have several labels.
    """
    if not images.labelled:
        raise DataError(
            "dataset.classes selects images by their labels, and these have none: set "
            "dataset.classes=null"
        )
    if (images.label_counts != 1).any():
        raise DataError(
            "dataset.classes needs images with one label each, and some here have several or none:"
            " set dataset.classes=null"
        )
    columns = [_class_index(images.classes, one) for one in wanted]
    names = [images.classes[column] for column in columns]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise DataError(f"dataset.classes names {', '.join(twice)} twice: leave one of them out")
    if len(names) < 2:
        raise DataError(f"dataset.classes={list(wanted)} must name at least two classes")
    kept = np.isin(images.labels.indices, columns)
    rows = np.flatnonzero(kept)
    official, held = images.official_query, images.official_validation
    inputs = {"inputs": take(images.inputs, rows)} if isinstance(images, ImageSet) else {}
    return replace(
        images,
        **inputs,
        labels=images.labels[rows][:, columns],
        ids=tuple(images.ids[row] for row in rows),
        classes=tuple(names),
        official_query=None if official is None else official[rows],
        official_validation=None if held is None else held[rows],
        lists=None if images.lists is None else renumbered(images.lists, kept),
        places=None if images.places is None else tuple(itertools.compress(images.places, kept)),
    )


def renumbered(lists: Mapping[str, np.ndarray], kept: np.ndarray) -> dict[str, np.ndarray]:
    """Lists of rows once only some rows are kept, (n,) bool: without the others, counted anew."""
    place = np.cumsum(kept) - 1
    return {role: place[rows[kept[rows]]] for role, rows in lists.items()}


def _class_index(classes: Sequence[str], wanted: int | str) -> int:
    """The column of a class given by index or name."""
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
    shown = ", ".join([*classes[:10], *["..."] * (len(classes) > 10)])
    raise DataError(
        f"dataset.classes: there is no class {wanted!r}. Give indices from 0 to"
        f" {len(classes) - 1}, or names: {shown}"
    )


def no_labels(count: int) -> csr_array:
    """Labels of images that have none: (count, 0) bool."""
    return csr_array((count, 0), dtype=bool)


def one_hot(classes: np.ndarray, count: int) -> csr_array:
    """Class indices (n,) as rows of labels: (n, count) bool."""
    rows = np.arange(len(classes) + 1)
    return csr_array((np.ones(len(classes), bool), classes, rows), shape=(len(classes), count))
