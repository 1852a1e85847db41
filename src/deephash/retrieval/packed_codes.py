"""One side of a comparison: the queries, or the database; packed codes, and what they show.

``n`` items of one side, ``K`` bits, ``C`` classes, ``W`` machine words per code, ``M`` per row of
labels.
"""

from functools import cached_property
from typing import Self

import numpy as np
import numpy.typing as npt

from deephash.errors import DataError
from deephash.retrieval.codes import Array, ArrayLike, as_array, as_words


class Side:
    """Codes and labels, and both as machine words, which are made when first asked for.

    Args:
        codes: (n, ceil(K / 8)) uint8, packed.
        labels: (n,) class indices, or (n, C) bool.
        single: whether no item of either side has several labels.
    """

    def __init__(self, codes: npt.NDArray[np.uint8], labels: Array, single: bool) -> None:
        self.codes, self.labels, self.single = codes, labels, single

    def __len__(self) -> int:
        return len(self.codes)

    @cached_property
    def words(self) -> Array:
        """(W, n) unsigned."""
        return as_words(self.codes)

    @cached_property
    def marks(self) -> Array:
        """(1, n) int64, the one class of each item, -1 for none; else (M, n) words of labels."""
        return class_marks(self.labels) if self.single else label_marks(self.labels)

    def take(self, which: slice | npt.NDArray[np.int64]) -> Self:
        """Some of the items, or all in another order."""
        return type(self)(self.codes[which], self.labels[which], self.single)

    def label_counts(self) -> npt.NDArray[np.int64]:
        """How many labels each item has: (n,)."""
        if self.labels.ndim == 1:
            return np.ones(len(self), dtype=np.int64)
        counts: npt.NDArray[np.int64] = self.labels.sum(axis=1, dtype=np.int64)
        return counts

    def wide(self) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
        """Words (W, n) and marks (M, n), all of 64 bits; no class is then the largest number."""
        if self.single:
            return as_words(self.codes, 8), self.marks.view(np.uint64)
        return as_words(self.codes, 8), label_marks(self.labels, 8)


def sides(
    query_codes: npt.NDArray[np.uint8],
    database_codes: npt.NDArray[np.uint8],
    query_labels: ArrayLike,
    database_labels: ArrayLike,
) -> tuple[Side, Side]:
    """Queries and database, once their labels are known to belong together.

    Raises:
        DataError: if the labels are malformed or contradict the codes or each other.
    """
    asked = label_array(query_labels, len(query_codes), "query_labels")
    held = label_array(database_labels, len(database_codes), "database_labels")
    if asked.ndim != held.ndim:
        raise DataError("query_labels and database_labels must both be multi-hot or both not")
    if asked.ndim == 2 and asked.shape[1] != held.shape[1]:
        raise DataError(
            f"query_labels know {asked.shape[1]} classes, database_labels {held.shape[1]}"
        )
    single = all(x.ndim == 1 or x.sum(axis=1).max() <= 1 for x in (asked, held))
    return Side(query_codes, asked, single), Side(database_codes, held, single)


def label_array(labels: ArrayLike, size: int, name: str) -> Array:
    """Class indices (size,), whole numbers, or multi-hot rows (size, C) bool."""
    values = as_array(labels)
    if values.ndim not in (1, 2) or len(values) != size:
        raise DataError(
            f"{name} must be ({size}, C) multi-hot or ({size},) class indices, one for each code, "
            f"not of shape {values.shape}"
        )
    if values.dtype.kind not in "fiub":
        raise DataError(f"{name} must be numbers, not {values.dtype}")
    if values.dtype.kind == "f" and np.isnan(values).any():
        raise DataError(f"{name} hold NaN")
    if values.ndim == 1:
        if values.dtype.kind not in "iu":
            raise DataError(
                f"{name} of one dimension are class indices: integers, not {values.dtype}"
            )
        if size and values.max() > np.iinfo(np.int64).max:
            raise DataError(f"{name} hold the class {values.max()}: at most 2^63 - 1")
        if size and values.min() < 0:
            raise DataError(f"{name} hold the class {values.min()}: classes count from 0")
        return values
    if values.shape[1] == 0:
        raise DataError(f"{name} have no classes")
    if values.dtype.kind == "b":
        return values
    hot: Array = values == 1
    if not (hot | (values == 0)).all():
        odd = values[~(hot | (values == 0))][0]
        raise DataError(f"{name} of two dimensions are multi-hot: 0 or 1, but {odd} is among them")
    return hot


def class_marks(labels: Array) -> Array:
    """(1, size) int64: the one class of each item, -1 for none."""
    if labels.ndim == 2:
        labels = np.where(labels.any(axis=1), labels.argmax(axis=1), -1)
    return labels[None].astype(np.int64, copy=False)


def label_marks(labels: Array, word: int | None = None) -> Array:
    """(M, size) unsigned: a bit for each class; words of so many bytes, None: as few as hold it."""
    return as_words(np.packbits(labels, axis=1), word)
