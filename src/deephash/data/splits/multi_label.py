"""Split protocols that draw the roles of images with several labels, or none.

The single-label protocols, and that of lists, are in `protocols`.
"""

from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal

import numpy as np

from deephash.data.catalogue import Catalogue
from deephash.data.splits.base import (
    Split,
    add_validation,
    check_counts,
    check_database,
    check_option,
    draw_by_quota,
    refuse_known_queries,
    refuse_parts,
    refuse_unlabelled,
)
from deephash.errors import DataError
from deephash.utils.bounds import Count, CountOrZero, NumpySeed


@dataclass(eq=False)
class Quota:
    """A number of training images and queries for each class of a multi-label set: NUS-WIDE-21.

    All images are visited in one random order, and the labels of an image by increasing column. The
    image becomes a training image of the first class that has too few of them, or a query of the
    first class that has too few queries, whichever comes first; for one class, training is tried
    first. It counts for that class alone, so there are `train` times C training images and
    `queries` times C queries, and every class has at least so many. All images but the queries are
    the database. All roles are in the order of the visit.

    The lists of DeepHash-pytorch for NUS-WIDE-21 were drawn in this way, with 500 and 100; their
    seed is unknown. Validation items are also drawn by a quota, with a separate generator, from
    the database images that do not train, or from train if there are none.

    Args:
        train: training images per class.
        queries: queries per class.
        train_in_database: whether the training images are in the database.
        validation: validation items per class.
        seed: of the split, independent of the seed of training.

    Raises:
        DataError: a class has too few images.

    Example:
        >>> from deephash.data import Digits
        >>> images = Digits().load()
        >>> split = Quota(train=50, queries=10).split(images)
        >>> len(split.train), len(split.queries)
        (500, 100)
    """

    train: Count
    queries: Count
    train_in_database: bool = True
    validation: CountOrZero = 0
    seed: NumpySeed = 0

    def __post_init__(self) -> None:
        check_counts(train=self.train, queries=self.queries, validation=self.validation)

    def split(self, images: Catalogue) -> Split:
        refuse_unlabelled(images, "Quota")
        rng = np.random.RandomState(self.seed)
        columns, bounds = images.labels.indices.tolist(), images.labels.indptr.tolist()
        wanted = {
            "train": [self.train] * len(images.classes),
            "queries": [self.queries] * len(images.classes),
        }
        roles: dict[str, list[int]] = {"train": [], "queries": [], "database": []}
        for row in rng.permutation(len(images)).tolist():
            role = _take(columns[bounds[row] : bounds[row + 1]], wanted)
            if role is not None:
                roles[role].append(row)
            if role is None or (role == "train" and self.train_in_database):
                roles["database"].append(row)
        for role, left in wanted.items():
            if any(left):
                raise self._too_few(images, role, left)
        if not roles["database"]:
            raise DataError(
                "the quotas leave no image to search: lower dataset.protocols.<protocol>.train, or "
                "set dataset.protocols.<protocol>.train_in_database=true"
            )
        train, queries, database = (np.array(rows, np.int64) for rows in roles.values())
        split = Split(train, database, queries)
        if self.validation:
            split = add_validation(
                split, self.seed, partial(draw_by_quota, images, self.validation)
            )
        refuse_known_queries(split)
        return split

    def _too_few(self, images: Catalogue, role: str, left: list[int]) -> DataError:
        index = max(range(len(left)), key=left.__getitem__)
        quota = getattr(self, role)
        has = int((images.labels.indices == index).sum())
        return DataError(
            f"class {images.classes[index]!r} with {has} images gives only "
            f"{quota - left[index]} of {quota} {role}, since an image counts for one class and one "
            f"role: lower dataset.protocols.<protocol>.{role}"
        )


@dataclass(eq=False)
class Drawn:
    """A total number of queries and training images, drawn from all images: COCO, MIRFlickr.

    This is also the protocol of images without labels.

    All images are put in one random order. The first `queries` of them are the queries, the rest
    are the database, and the first `train` of the rest the training images. All roles are in that
    order. Classes are ignored: a rare one may have no query.

    With 5,000 queries and 10,000 training images, COCO's 122,218 give the database of 117,218 that
    OrthoHash and SDC describe, or one of 107,218 with `train_in_database=false`. (HashNet's
    112,218 hold the queries and not the training images: only its lists give that.) MIRFlickr's
    25,000 are split 2,000, 5,000 and 23,000, or with `train_in_database=false` 1,000, 4,000 and
    20,000; VOC 2012's 11,540 in the latter way 1,000, 4,000 and 6,540.

    Validation items are drawn by a separate generator, from the same images as those of
    `deephash.data.splits.PerClass`.

    Args:
        queries: total number of queries.
        train: total number of training images; None for all that are not queries.
        train_in_database: whether the training images are in the database.
        unlabelled: `keep` to draw images without a label like any other (nothing is relevant to
            such a query); or `drop` to give them no role.
        validation: total number of validation items.
        seed: of the split, independent of the seed of training.

    Raises:
        DataError: there are too few images.

    Example:
        >>> from deephash.data import Digits
        >>> images = Digits().load()
        >>> split = Drawn(queries=100, train=500).split(images)
        >>> len(split.train), len(split.queries), len(split.database)
        (500, 100, 1697)
    """

    validation_unit: ClassVar[str] = "in all"
    """The unit of its number of validation images."""

    queries: Count
    train: Count | None
    train_in_database: bool = True
    unlabelled: Literal["keep", "drop"] = "keep"
    validation: CountOrZero = 0
    seed: NumpySeed = 0

    def __post_init__(self) -> None:
        check_counts(queries=self.queries, train=self.train, validation=self.validation)
        check_database(self.train, self.train_in_database)
        check_option("unlabelled", self.unlabelled, "keep", "drop")

    def split(self, images: Catalogue) -> Split:
        refuse_parts(images)
        rows = np.arange(len(images))
        if self.unlabelled == "drop" and not images.labelled:
            raise DataError(
                "dataset.protocols.<protocol>.unlabelled=drop leaves no image: none has a label. "
                "Set it to keep"
            )
        if self.unlabelled == "drop":
            rows = np.flatnonzero(images.label_counts)
        apart = 0 if self.train_in_database else 1
        needed = self.queries + (self.train or 1) + apart  # the database must not be empty
        if len(rows) < needed:
            wanted = f"{self.queries} queries"
            if self.train:
                wanted += f" + {self.train} training images"
            if apart or not self.train:
                wanted += " + at least 1 to search"
            key = "queries" if self.queries >= (self.train or 0) else "train"
            most = len(rows) - (needed - getattr(self, key))
            value = f"={min(most, max(1, len(rows) // 10))}, for example" if most > 0 else ""
            raise DataError(
                f"{len(rows)} images can be drawn and the protocol needs {needed} ({wanted}): "
                f"lower dataset.protocols.<protocol>.{key}{value}"
            )
        order = np.random.RandomState(self.seed).permutation(rows)
        rest = order[self.queries :]
        train = rest[: self.train]
        database = rest[len(train) * apart :]
        split = Split(train, database, order[: self.queries])
        if self.validation:
            split = add_validation(split, self.seed, self._validate)
        refuse_known_queries(split)
        return split

    def _validate(self, rows: np.ndarray, rng: np.random.RandomState) -> np.ndarray:
        if len(rows) < self.validation:
            raise DataError(
                f"{len(rows)} images can be validation items and "
                f"dataset.protocols.<protocol>.validation={self.validation}: lower it"
            )
        return rng.permutation(rows)[: self.validation]


def _take(columns: list[int], wanted: dict[str, list[int]]) -> str | None:
    """Return the role of an image with these classes, and reduce its quota."""
    for column in columns:
        for role, left in wanted.items():
            if left[column]:
                left[column] -= 1
                return role
    return None
