"""What a source hands over: decoded pixels, labels and the names of the images."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from deephash.errors import DataError


@dataclass(frozen=True, eq=False)
class ImageSet:
    """All images of a dataset, before any split: n images of one size, C classes.

    A row keeps its place for good: every split, label and code refers to images by row number.
    The ids outlive the rows; they are what a fingerprint is made of.

    Raises:
        DataError: the parts do not fit each other, or two images share an id.
    """

    pixels: np.ndarray  # (n, 3, H, W) uint8, in memory or memory-mapped
    labels: np.ndarray  # (n, C) bool, multi-hot
    ids: tuple[str, ...]  # n stable names: a relative path, or train/000123
    classes: tuple[str, ...]  # C names
    skipped: tuple[str, ...] = ()  # ids of unreadable files that were left out
    official_query: np.ndarray | None = (
        None  # (n,) bool, the official test part; None: there is none
    )
    lists: Mapping[str, np.ndarray] | None = (
        None  # role -> the rows its list names, in its order; None: the set came without lists
    )

    def __post_init__(self) -> None:
        count = len(self.ids)
        if self.pixels.dtype != np.uint8 or self.pixels.ndim != 4 or self.pixels.shape[1] != 3:
            raise DataError(
                "pixels must be (n, 3, H, W) uint8; "
                f"these are {self.pixels.shape} {self.pixels.dtype}"
            )
        if len(self.pixels) != count:
            raise DataError(f"{len(self.pixels)} images have {count} ids")
        if self.labels.dtype != np.bool_ or self.labels.shape != (count, len(self.classes)):
            raise DataError(
                f"labels must be ({count}, {len(self.classes)}) bool, one row an image and one "
                f"column a class; these are {self.labels.shape} {self.labels.dtype}"
            )
        if len(set(self.ids)) != count:
            twice = sorted(self.ids)
            name = next(a for a, b in itertools.pairwise(twice) if a == b)
            raise DataError(f"two images have the same id: {name}")
        official = self.official_query
        if official is not None and (official.dtype != np.bool_ or official.shape != (count,)):
            raise DataError(
                f"official_query must be ({count},) bool; it is {official.shape} {official.dtype}"
            )

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def multilabel(self) -> bool:
        """Whether any image has a number of labels other than one."""
        return bool((self.labels.sum(axis=1) != 1).any())


def only(images: ImageSet, wanted: Sequence[int | str]) -> ImageSet:
    """The images of some classes, as if there were no others.

    The classes are numbered in the order given; the images keep their order. Pixels that lie
    together are a view of the set's, others a copy. Of files that were left out nobody knows the
    class: all of them stay on the list.

    Args:
        images: single-label.
        wanted: indices or names of at least two classes.

    Raises:
        DataError: there is no such class, or it is named twice; or images have several labels.
    """
    if images.multilabel:
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
    kept = np.any(images.labels[:, columns], axis=1)
    rows = np.flatnonzero(kept)
    together = len(rows) > 0 and rows[-1] - rows[0] + 1 == len(rows)
    taken = slice(rows[0], rows[-1] + 1) if together else rows
    official = images.official_query
    return ImageSet(
        pixels=images.pixels[taken],
        labels=images.labels[rows][:, columns],
        ids=tuple(images.ids[row] for row in rows),
        classes=tuple(names),
        skipped=images.skipped,
        official_query=None if official is None else official[rows],
        lists=None if images.lists is None else renumbered(images.lists, kept),
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


def one_hot(classes: np.ndarray, count: int) -> np.ndarray:
    """Class indices (n,) as rows of labels: (n, count) bool."""
    return classes[:, None] == np.arange(count)
