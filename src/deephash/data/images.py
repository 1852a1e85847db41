"""What a source hands over: decoded pixels, labels and the names of the images."""

import itertools
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


def one_hot(classes: np.ndarray, count: int) -> np.ndarray:
    """Class indices (n,) as rows of labels: (n, count) bool."""
    return classes[:, None] == np.arange(count)
