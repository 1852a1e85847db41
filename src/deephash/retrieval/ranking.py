"""Rank a database for each query by Hamming distance.

``Q`` queries, ``N`` database items, ``K`` bits, ``C`` classes. No array of (Q, N) is made.
"""

import copy
from collections.abc import Callable
from functools import cached_property
from typing import Self, TypeVar

import numpy as np
import numpy.typing as npt

from deephash.errors import DataError
from deephash.retrieval.backends import Engine, load_compiled
from deephash.retrieval.backends.numpy_backend import distance_type, shares_label
from deephash.retrieval.backends.threads import shared_out
from deephash.retrieval.codes import Array, ArrayLike, Counts, checked, differing, popcount
from deephash.retrieval.packed_codes import sides

Made = TypeVar("Made")


class Ranking:
    """The database ranked for each query, nearest first; of equal distances, the lower index first.

    An item is relevant to a query if they share at least one label. Labels are multi-hot rows of
    zeros and ones, or one class index per item; the same on both sides. Codes may be memory-mapped.

    Args:
        query_codes: (Q, ceil(K / 8)) uint8, packed.
        database_codes: (N, ceil(K / 8)) uint8, packed.
        query_labels: (Q, C) multi-hot, or (Q,) class indices.
        database_labels: (N, C) multi-hot, or (N,) class indices.
        nbit: K.
        engine: the backend; all return the same numbers.

    Raises:
        DataError: if codes or labels are malformed, contradict each other, or a side is empty.

    Example:
        >>> codes = np.array([[0b00], [0b11], [0b01]], np.uint8) << 6
        >>> ranking = Ranking(codes[:1], codes, np.array([5]), np.array([5, 5, 2]), nbit=2)
        >>> ranking.distances(0).tolist(), ranking.positions(0).tolist()  # relevant: first and last
        ([0, 2, 1], [0, 2])
    """

    def __init__(
        self,
        query_codes: ArrayLike,
        database_codes: ArrayLike,
        query_labels: ArrayLike,
        database_labels: ArrayLike,
        nbit: int,
        engine: Engine | str = "auto",
    ) -> None:
        query = checked(query_codes, nbit, "query_codes")
        database = checked(database_codes, nbit, "database_codes")
        if len(query) == 0:
            raise DataError("there are no queries")
        if len(database) == 0:
            raise DataError("the database is empty")
        self.nbit, self.engine = int(nbit), Engine.of(engine).near(query_codes)
        self._asked, self._held = sides(query, database, query_labels, database_labels)

    @property
    def queries(self) -> int:
        """Q."""
        return len(self._asked)

    @property
    def size(self) -> int:
        """N."""
        return len(self._held)

    @property
    def sizes(self) -> Counts:
        """How many of them are ranked for each query: (Q,), here N for all."""
        return np.full(self.queries, self.size, dtype=np.int64)

    @property
    def single(self) -> bool:
        """Whether no query and no item has several labels."""
        return self._asked.single

    @cached_property
    def labelled(self) -> npt.NDArray[np.bool_]:
        """(Q,) whether the query has any label at all."""
        return self._asked.label_counts() > 0

    @property
    def counts(self) -> tuple[Counts, Counts]:
        """Items, and relevant items, at each distance 0..K from each query: (Q, K + 1) each."""
        return self._counted

    @cached_property
    def _counted(self) -> tuple[Counts, Counts]:
        """The same of the whole database: one pass over it, in memory O(Q K)."""
        counting = self.engine.counting(self.queries * self.size)
        counter = counting.begin(self._asked, self.nbit)
        for start in range(0, self.size, counting.part):
            counter.add(self._held.take(slice(start, start + counting.part)))
        return counter.counts()

    def each(self, function: Callable[[Counts], Made], top: int | None = None) -> list[Made]:
        """Apply a function to the places of each query's relevant items.

        Args:
            function: of (T,) places, counted from 0, ascending.
            top: leave out places from this one on; None for none.

        Returns:
            one result for each query.
        """
        most = self.size if top is None else top
        radius_Q = (self.counts[0].cumsum(axis=1) < most).sum(axis=1)  # of the first so many
        radius_Q = np.minimum(radius_Q, self.nbit)
        numba = self.engine.on_cpu(self.queries * self.size) == "numba"
        compiled = self._compiled(radius_Q) if numba else None

        def made(query: int) -> Made:
            found = compiled(query) if compiled else self.positions(query, radius_Q[query])
            return function(found[: np.searchsorted(found, most)])

        return shared_out(made, range(self.queries), self.engine.workers)

    def _compiled(self, radius_Q: Counts) -> Callable[[int], Counts]:
        """A function like ``positions``, within a radius for each query."""
        compiled = load_compiled()
        find: Callable[[int], Counts] = compiled.positions(
            self._asked, self._held, *self._counted, radius_Q
        )
        return find

    def distances(self, query: int) -> Array:
        """Return the distance of each item from one query: (N,) uint8, or uint16 if K > 255."""
        dtype = distance_type(self.nbit + 1)
        return differing(self._asked.words[:, query], self._held.words, dtype)

    def distances_of_pairs(self, queries: Array, items: Array) -> Array:
        """Return the distances of pairs of a query and an item.

        Args:
            queries: (P,) indices.
            items: (P,) indices.

        Returns:
            (P,) uint8, or uint16 if K > 255.
        """
        dtype = distance_type(self.nbit + 1)
        return differing(self._asked.words[:, queries], self._held.words[:, items], dtype)

    def relevant(self, query: int) -> npt.NDArray[np.bool_]:
        """Tell which items share a label with one query: (N,) bool."""
        return shares_label(self._asked, query, self._held)

    def shared(self, query: int) -> npt.NDArray[np.uint16]:
        """Count the labels that each item shares with one query: (N,) uint16."""
        if self.single:
            return self.relevant(query).astype(np.uint16)
        shared_N = np.zeros(self.size, dtype=np.uint16)
        for mine, theirs in zip(self._asked.marks[:, query], self._held.marks, strict=True):
            if mine:
                shared_N += popcount(theirs & mine)
        return shared_N

    def candidates(self, query: int) -> slice | npt.NDArray[np.bool_]:
        """Which items are ranked for one query, as an index of what is (N,): here all."""
        return slice(None)

    def label_counts(self) -> tuple[Counts, Counts]:
        """Count the labels of each query, (Q,), and of each item, (N,)."""
        return self._asked.label_counts(), self._held.label_counts()

    def positions(self, query: int, radius: int | None = None) -> Counts:
        """Return the places of a query's relevant items, from 0 and ascending: (T,) int64.

        Args:
            query: its index.
            radius: leave out items that are farther, which have the last places; None for none.
        """
        ranked = self.candidates(query)
        distance_N, relevant_N = self.distances(query)[ranked], self.relevant(query)[ranked]
        if radius is not None and radius < self.nbit:
            near = np.flatnonzero(distance_N <= radius)
            distance_N, relevant_N = distance_N[near], relevant_N[near]
        order_N = np.argsort(distance_N, kind="stable")  # a radix sort: linear in N
        return np.flatnonzero(relevant_N[order_N]).astype(np.int64, copy=False)

    def part(self, start: int, stop: int) -> Self:
        """Return the ranking of the items from ``start`` up to ``stop`` only."""
        return self._taken(slice(start, stop))

    def reordered(self, order: Counts) -> Self:
        """Return the ranking of the database in another order, (N,) indices."""
        return self._taken(order)

    def shuffled(self, seed: int) -> Self:
        """Return the ranking of the database in a random order, which breaks the ties."""
        return self.reordered(np.random.default_rng(seed).permutation(self.size))

    def _taken(self, which: slice | Counts) -> Self:
        """The same queries against some of the items, or all in another order."""
        other = copy.copy(self)
        other._held = self._held.take(which)
        if other.size != self.size:  # an order of all changes no count
            for name in ("counts", "_counted"):
                other.__dict__.pop(name, None)
        return other
