"""Queries against a database: who is how far, who is relevant, and in which order they come.

``Q`` queries, ``N`` database items, ``K`` bits, ``C`` classes. Nothing here is ever (Q, N): a query
is asked one at a time.
"""

import copy
from typing import Self

import numpy as np
import numpy.typing as npt

from deephash.errors import DataError
from deephash.retrieval.codes import (
    Array,
    ArrayLike,
    as_array,
    as_words,
    checked,
    differing,
    popcount,
)


class Ranking:
    """The database as each query sees it, nearest first; of equals, the lower index first.

    An item is relevant to a query if they share at least one label. Labels are multi-hot rows of
    zeros and ones, or one class index per item; both sides alike.

    Args:
        query_codes: (Q, ceil(K / 8)) uint8, packed.
        database_codes: (N, ceil(K / 8)) uint8, packed.
        query_labels: (Q, C) multi-hot, or (Q,) class indices.
        database_labels: (N, C) multi-hot, or (N,) class indices.
        nbit: K.

    Raises:
        DataError: if codes or labels are malformed, contradict each other, or a side is empty.
    """

    queries: int  # Q
    size: int  # N
    nbit: int  # K
    labelled: npt.NDArray[np.bool_]  # (Q,) whether the query has any label at all

    def __init__(
        self,
        query_codes: ArrayLike,
        database_codes: ArrayLike,
        query_labels: ArrayLike,
        database_labels: ArrayLike,
        nbit: int,
    ) -> None:
        query = checked(query_codes, nbit, "query_codes")
        database = checked(database_codes, nbit, "database_codes")
        self.queries, self.size, self.nbit = len(query), len(database), int(nbit)
        if self.queries == 0:
            raise DataError("there are no queries")
        if self.size == 0:
            raise DataError("the database is empty")
        self._query_words = as_words(query)  # (W, Q)
        self._database_words = as_words(database)  # (W, N)
        asked = label_array(query_labels, self.queries, "query_labels")
        held = label_array(database_labels, self.size, "database_labels")
        if asked.ndim != held.ndim:
            raise DataError("query_labels and database_labels must both be multi-hot or both not")
        if asked.ndim == 2 and asked.shape[1] != held.shape[1]:
            raise DataError(
                f"query_labels know {asked.shape[1]} classes, database_labels {held.shape[1]}"
            )
        self.labelled = np.ones(self.queries, dtype=np.bool_)  # a class index is a label
        if asked.ndim == 2:
            self.labelled = np.asarray(asked.any(axis=1))
        self.single = all(x.ndim == 1 or x.sum(axis=1).max() <= 1 for x in (asked, held))
        mark = class_marks if self.single else label_marks
        self._query_marks = mark(asked)  # (1, Q) classes, or (W, Q) words with a bit per class
        self._database_marks = mark(held)  # (1, N) or (W, N), likewise

    def distances(self, query: int) -> Array:
        """How far each item is from one query: (N,) uint8, or uint16 if K > 255."""
        wide = np.uint8 if self.nbit <= 255 else np.uint16
        return differing(self._query_words[:, query], self._database_words, wide)

    def relevant(self, query: int) -> npt.NDArray[np.bool_]:
        """Which items share a label with one query: (N,) bool."""
        asked = self._query_marks[:, query]
        if self.single:
            return (self._database_marks[0] == asked[0]) & (asked[0] >= 0)
        shared_N = np.zeros(self.size, dtype=np.bool_)
        for mine, theirs in zip(asked, self._database_marks, strict=True):
            if mine:
                shared_N |= (theirs & mine) != 0
        return shared_N

    def shared(self, query: int) -> npt.NDArray[np.uint16]:
        """How many labels each item has in common with one query: (N,) uint16."""
        if self.single:
            return self.relevant(query).astype(np.uint16)
        shared_N = np.zeros(self.size, dtype=np.uint16)
        for mine, theirs in zip(self._query_marks[:, query], self._database_marks, strict=True):
            if mine:
                shared_N += popcount(theirs & mine)
        return shared_N

    def label_counts(self) -> tuple[Array, Array]:
        """How many labels each query (Q,) and each item (N,) has."""
        if self.single:
            asked, held = self._query_marks[0] >= 0, self._database_marks[0] >= 0
            return asked.astype(np.int64), held.astype(np.int64)
        asked, held = popcount(self._query_marks), popcount(self._database_marks)
        return asked.sum(axis=0, dtype=np.int64), held.sum(axis=0, dtype=np.int64)

    def positions(self, query: int) -> npt.NDArray[np.int64]:
        """The places, from 0 and ascending, that a query's relevant items take: (T,) int64."""
        order_N = np.argsort(self.distances(query), kind="stable")  # a radix sort: linear in N
        return np.flatnonzero(self.relevant(query)[order_N]).astype(np.int64, copy=False)

    def part(self, start: int, stop: int) -> Self:
        """The same queries against the items from ``start`` up to ``stop`` only."""
        other = copy.copy(self)
        other._database_words = self._database_words[:, start:stop]
        other._database_marks = self._database_marks[:, start:stop]
        other.size = other._database_words.shape[1]
        return other

    def reordered(self, order: npt.NDArray[np.int64]) -> Self:
        """The same queries against the database in another order, (N,) indices."""
        other = copy.copy(self)
        other._database_words = self._database_words.take(order, axis=1)
        other._database_marks = self._database_marks.take(order, axis=1)
        return other

    def shuffled(self, seed: int) -> Self:
        """The same queries against the database in a random order, which settles the ties."""
        return self.reordered(np.random.default_rng(seed).permutation(self.size))

    def by_class(self) -> tuple[Self, Array, Array]:
        """The database sorted by its one class, and where each query's class lies in it.

        Returns:
            The ranking, and for each query (Q,) the first relevant index and the one past the last.
        """
        assert self.single
        order_N = np.argsort(self._database_marks[0], kind="stable")
        held, asked = self._database_marks[0, order_N], self._query_marks[0]
        start_Q, stop_Q = np.searchsorted(held, asked), np.searchsorted(held, asked, side="right")
        return self.reordered(order_N), start_Q, np.where(asked >= 0, stop_Q, start_Q)


def label_array(labels: ArrayLike, size: int, name: str) -> Array:
    """Class indices (size,) int64, or multi-hot rows (size, C) bool."""
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
        if values.min() < 0:
            raise DataError(f"{name} hold the class {values.min()}: classes count from 0")
        return values.astype(np.int64)
    if values.shape[1] == 0:
        raise DataError(f"{name} have no classes")
    if values.dtype.kind == "b":
        return values
    hot = values == 1
    if not (hot | (values == 0)).all():
        odd = values[~(hot | (values == 0))][0]
        raise DataError(f"{name} of two dimensions are multi-hot: 0 or 1, but {odd} is among them")
    return hot


def class_marks(labels: Array) -> Array:
    """(1, size) int64: the one class of each item, -1 for none."""
    if labels.ndim == 2:
        labels = np.where(labels.any(axis=1), labels.argmax(axis=1), -1)
    return labels[None]


def label_marks(labels: Array) -> Array:
    """(W, size) unsigned: a bit for each class."""
    return as_words(np.packbits(labels, axis=1))
