"""Packed codes with their labels, in the forms that the backends compare.

``n`` items, ``K`` bits, ``C`` classes, ``W`` machine words per code. The *marks* of an item are its
labels in comparable form: its class index if no item has several labels, else ``M`` machine words
with one bit per class.
"""

from functools import cached_property
from typing import Self

import numpy as np
import numpy.typing as npt

from deephash.errors import DataError
from deephash.retrieval.codes import Array, ArrayLike, Counts, as_array, as_words


class PackedCodes:
    """Codes and labels of the queries or of the database.

    Args:
        codes: (n, ceil(K / 8)) uint8, packed.
        labels: (n,) class indices, or (n, C) bool.
        single: whether no query and no item of the database has several labels.
    """

    def __init__(self, codes: npt.NDArray[np.uint8], labels: Array, single: bool) -> None:
        self.codes, self.labels, self.single = codes, labels, single

    def __len__(self) -> int:
        return len(self.codes)

    @cached_property
    def words(self) -> Array:
        """The codes as unsigned machine words, (W, n)."""
        return as_words(self.codes)

    @cached_property
    def marks(self) -> Array:
        """(1, n) int64 class indices, -1 for none, if ``single``; else (M, n) unsigned."""
        return class_marks(self.labels) if self.single else label_marks(self.labels)

    def take(self, items: slice | Counts) -> Self:
        """Return a selection of the items, or all of them in another order."""
        return type(self)(self.codes[items], self.labels[items], self.single)

    def label_counts(self) -> Counts:
        """Return the number of labels of each item, (n,)."""
        if self.labels.ndim == 1:
            return np.ones(len(self), dtype=np.int64)
        counts: Counts = self.labels.sum(axis=1, dtype=np.int64)
        return counts

    def wide(self) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
        """Return words (W, n) and marks (M, n) of 64 bits; no class is the largest number."""
        marks = self.marks.view(np.uint64) if self.single else label_marks(self.labels, 8)
        return as_words(self.codes, 8), marks


def packed_pair(
    query_codes: npt.NDArray[np.uint8],
    database_codes: npt.NDArray[np.uint8],
    query_labels: ArrayLike,
    database_labels: ArrayLike,
) -> tuple[PackedCodes, PackedCodes]:
    """Return queries and database, after checking their labels.

    Raises:
        DataError: if the labels are malformed or contradict the codes or each other.
    """
    query = label_array(query_labels, len(query_codes), "query_labels")
    database = label_array(database_labels, len(database_codes), "database_labels")
    if query.ndim != database.ndim:
        raise DataError("query_labels and database_labels must both be multi-hot or both not")
    if query.ndim == 2 and query.shape[1] != database.shape[1]:
        raise DataError(
            f"query_labels have {query.shape[1]} classes, database_labels {database.shape[1]}"
        )
    single = all(x.ndim == 1 or x.sum(axis=1).max() <= 1 for x in (query, database))
    return PackedCodes(query_codes, query, single), PackedCodes(database_codes, database, single)


def label_array(labels: ArrayLike, size: int, name: str) -> Array:
    """Return labels as class indices (size,) or multi-hot rows (size, C) bool, after checking them.

    Raises:
        DataError: if they are neither.
    """
    values = as_array(labels)
    if values.ndim not in (1, 2) or len(values) != size:
        raise DataError(
            f"{name} must be ({size}, C) multi-hot or ({size},) class indices, one for each code, "
            f"not of shape {values.shape}"
        )
    if values.dtype.kind not in "fiub":
        raise DataError(f"{name} must be numbers, not {values.dtype}")
    if values.dtype.kind == "f" and np.isnan(values).any():
        raise DataError(f"{name} contain NaN")
    if values.ndim == 1:
        if values.dtype.kind not in "iu":
            raise DataError(
                f"{name} of one dimension are class indices: integers, not {values.dtype}"
            )
        if size and values.max() > np.iinfo(np.int64).max:
            raise DataError(f"{name} contain the class {values.max()}: at most 2^63 - 1")
        if size and values.min() < 0:
            raise DataError(f"{name} contain the class {values.min()}: classes count from 0")
        return values
    if values.shape[1] == 0:
        raise DataError(f"{name} have no classes")
    if values.dtype.kind == "b":
        return values
    hot: Array = values == 1
    invalid = ~hot & (values != 0)
    if invalid.any():
        raise DataError(
            f"{name} of two dimensions are multi-hot: 0 or 1, but contain {values[invalid][0]}"
        )
    return hot


def class_marks(labels: Array) -> Array:
    """Return the class index of each item, -1 for none: (1, n) int64."""
    if labels.ndim == 2:
        labels = np.where(labels.any(axis=1), labels.argmax(axis=1), -1)
    return labels[None].astype(np.int64, copy=False)


def label_marks(labels: Array, word: int | None = None) -> Array:
    """Return labels with one bit per class, in words of ``word`` bytes, None for the fewest."""
    return as_words(np.packbits(labels, axis=1), word)
