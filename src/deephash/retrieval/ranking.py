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
from deephash.retrieval.backends.threads import thread_map
from deephash.retrieval.codes import (
    Array,
    ArrayLike,
    Counts,
    as_array,
    check_packed,
    differing,
    popcount,
)
from deephash.retrieval.packed_codes import packed_pair
from deephash.utils.ground_truth import IndexLists

Result = TypeVar("Result")


class Ranking:
    """The database ranked for each query, nearest first; of equal distances, the lower index first.

    An item is relevant to a query if they share at least one label. Labels are multi-hot rows of
    zeros and ones, or one class index per item; the same on both sides. Codes may be memory-mapped.

    Queries may be in the database themselves, as in HashNet's lists of COCO. With ``own``, each is
    removed from its own ranking, and stays in those of all other queries. It is not checked that
    the two are equal: a ternary code is half a bit away from itself for each undecided entry.

    Args:
        query_codes: (Q, ceil(K / 8)) uint8, packed.
        database_codes: (N, ceil(K / 8)) uint8, packed.
        query_labels: (Q, C) multi-hot, or (Q,) class indices.
        database_labels: (N, C) multi-hot, or (N,) class indices.
        nbit: K.
        engine: the backend; all return the same numbers.
        own: (Q,) index of each query in the database, from 0, -1 if it is not in it. None: nothing
            is removed.

    Raises:
        DataError: if codes or labels are malformed, contradict each other, or a side is empty; or
            if ``own`` is not one index or -1 for each query, or a query is the only item.

    Example:
        >>> codes = np.array([[0b00], [0b11], [0b01]], np.uint8) << 6
        >>> ranking = Ranking(codes[:1], codes, np.array([5]), np.array([5, 5, 2]), nbit=2)
        >>> ranking.distances(0).tolist(), ranking.positions(0).tolist()  # relevant: first and last
        ([0, 2, 1], [0, 2])
        >>> labels = np.array([5, 5, 2])
        >>> ranking = Ranking(codes, codes, labels, labels, nbit=2, own=np.array([0, 1, -1]))
        >>> ranking.sizes.tolist(), ranking.positions(0).tolist()
        ([2, 2, 3], [1])
    """

    def __init__(
        self,
        query_codes: ArrayLike,
        database_codes: ArrayLike,
        query_labels: ArrayLike,
        database_labels: ArrayLike,
        nbit: int,
        engine: Engine | str = "auto",
        *,
        own: ArrayLike | None = None,
    ) -> None:
        query = check_packed(query_codes, nbit, "query_codes")
        database = check_packed(database_codes, nbit, "database_codes")
        if len(query) == 0:
            raise DataError("there are no queries")
        if len(database) == 0:
            raise DataError("the database is empty")
        self.nbit, self.engine = int(nbit), Engine.of(engine).for_device_of(query_codes)
        self._query, self._database = packed_pair(query, database, query_labels, database_labels)
        indices = np.full(self.queries, -1)
        if own is not None:
            indices = own_indices(own, self.queries, self.size)
        inside = indices >= 0
        self.excluded = IndexLists(np.append(0, inside.cumsum(dtype=np.int64)), indices[inside])

    @property
    def queries(self) -> int:
        """Q."""
        return len(self._query)

    @property
    def size(self) -> int:
        """N."""
        return len(self._database)

    @property
    def sizes(self) -> Counts:
        """The number of items ranked for each query, (Q,): N without its excluded items."""
        sizes: Counts = self.size - np.diff(self.excluded.starts)
        return sizes

    @property
    def single(self) -> bool:
        """Whether no query and no item has several labels."""
        return self._query.single

    @cached_property
    def labelled(self) -> npt.NDArray[np.bool_]:
        """Whether each query has a label, (Q,)."""
        return self._query.label_counts() > 0

    @cached_property
    def counts(self) -> tuple[Counts, Counts]:
        """Ranked items, and relevant ones, at each distance 0..K from each query, (Q, K + 1)."""
        return self._ranked_counts()

    def _ranked_counts(self) -> tuple[Counts, Counts]:
        pairs = self.excluded.owners, self.excluded.indices
        if not len(pairs[0]):
            return self._all_counts
        query, item = self._query.take(pairs[0]).labels, self._database.take(pairs[1]).labels
        both = np.equal if query.ndim == 1 else np.logical_and
        relevant = np.logical_or.reduce(both(query, item).reshape(len(query), -1), axis=1)
        at = pairs[0], self._distances_of(self.excluded)
        items_QK, relevant_QK = (counts.copy() for counts in self._all_counts)
        np.subtract.at(items_QK, at, 1)
        np.subtract.at(relevant_QK, at, relevant)
        return items_QK, relevant_QK

    @cached_property
    def _all_counts(self) -> tuple[Counts, Counts]:
        """The counts of the whole database: one pass over it, in memory O(Q K)."""
        counting = self.engine.counting(self.queries * self.size)
        counter = counting.begin(self._query, self.nbit)
        for start in range(0, self.size, counting.part):
            counter.add(self._database.take(slice(start, start + counting.part)))
        return counter.counts()

    def _distances_of(self, lists: IndexLists) -> Counts:
        """Return the distance of each listed item from its query, (L,)."""
        query, item = self._query.take(lists.owners), self._database.take(lists.indices)
        return differing(query.words, item.words, np.int64)

    def each(self, function: Callable[[Counts], Result], top: int | None = None) -> list[Result]:
        """Apply a function to the places of each query's relevant items.

        Args:
            function: of (T,) places, counted from 0, ascending.
            top: leave out places from this one on; None for none.

        Returns:
            one result for each query.
        """
        most = self.size if top is None else top
        radius_Q = (self.counts[0].cumsum(axis=1) < most).sum(axis=1)  # of the first ``most``
        radius_Q = np.minimum(radius_Q, self.nbit)
        numba = self.engine.on_cpu(self.queries * self.size) == "numba"
        compiled = self._compiled_positions(radius_Q) if numba else None

        def apply(query: int) -> Result:
            places = compiled(query) if compiled else self.positions(query, radius_Q[query])
            return function(places[: np.searchsorted(places, most)])

        return thread_map(apply, range(self.queries), self.engine.workers)

    def _compiled_positions(self, radius_Q: Counts) -> Callable[[int], Counts]:
        """Return a function like ``positions``, within a radius for each query."""
        items_QK, relevant_QK = self._all_counts
        positions: Callable[[int], Counts] = load_compiled().positions(
            self._query, self._database, items_QK, relevant_QK, radius_Q
        )
        if not len(self.excluded.indices):
            return positions
        query_words, words = self._query.words, self._database.words
        dtype = distance_type(self.nbit + 1)

        def ranked_positions(query: int) -> Counts:
            """Move up what is behind an excluded item: compiled code ranks all items."""
            places, excluded = positions(query), self.excluded[query]
            if not len(excluded):
                return places
            distance = differing(query_words[:, query], words[:, : excluded[-1] + 1], dtype)
            gaps = np.sort(
                [
                    items_QK[query, : distance[item]].sum()
                    + np.count_nonzero(distance[:item] == distance[item])
                    for item in excluded
                ]
            )
            places = places[~np.isin(places, gaps)]
            moved: Counts = places - np.searchsorted(gaps, places)
            return moved

        return ranked_positions

    def distances(self, query: int) -> Array:
        """Return the distance of each item from one query: (N,) uint8, or uint16 if K > 255."""
        dtype = distance_type(self.nbit + 1)
        return differing(self._query.words[:, query], self._database.words, dtype)

    def distances_of_pairs(self, queries: Array, items: Array) -> Array:
        """Return the distances of pairs of a query and an item.

        Args:
            queries: (P,) indices.
            items: (P,) indices.

        Returns:
            (P,) uint8, or uint16 if K > 255.
        """
        dtype = distance_type(self.nbit + 1)
        return differing(self._query.words[:, queries], self._database.words[:, items], dtype)

    def relevant(self, query: int) -> npt.NDArray[np.bool_]:
        """Return whether each item is ranked for a query and shares a label with it: (N,) bool."""
        relevant_N = shares_label(self._query, query, self._database)
        relevant_N[self.excluded[query]] = False
        return relevant_N

    def shared(self, query: int) -> npt.NDArray[np.uint16]:
        """Count the labels that each item shares with one query, 0 if excluded: (N,) uint16."""
        if self.single:
            return self.relevant(query).astype(np.uint16)
        shared_N = np.zeros(self.size, dtype=np.uint16)
        for query_mark, marks in zip(
            self._query.marks[:, query], self._database.marks, strict=True
        ):
            if query_mark:
                shared_N += popcount(marks & query_mark)
        shared_N[self.excluded[query]] = 0
        return shared_N

    def candidates(self, query: int) -> slice | npt.NDArray[np.bool_]:
        """Return which items are ranked for one query, as an index into (N,)."""
        excluded = self.excluded[query]
        if not len(excluded):
            return slice(None)
        ranked_N = np.ones(self.size, dtype=np.bool_)
        ranked_N[excluded] = False
        return ranked_N

    def label_counts(self) -> tuple[Counts, Counts]:
        """Count the labels of each query, (Q,), and of each item, (N,)."""
        return self._query.label_counts(), self._database.label_counts()

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

    def _taken(self, items: slice | Counts) -> Self:
        """Return the same queries against a selection of the items, or all in another order."""
        other = copy.copy(self)
        other._database = self._database.take(items)
        if other.size != self.size:  # an order of all changes no count
            for name in ("counts", "_all_counts"):
                other.__dict__.pop(name, None)
        if len(self.excluded.indices):
            other.excluded = self.excluded.mapped(self._new_places(items, other.size))
        return other

    def _new_places(self, items: slice | Counts, size: int) -> Counts:
        """Return the new index of each item, -1 for those not taken: (N,)."""
        place = np.full(self.size, -1, dtype=np.int64)
        place[items] = np.arange(size)
        return place


def own_indices(own: ArrayLike, queries: int, size: int) -> Counts:
    """Return the index of each query in the database, -1 for none, after checking them: (Q,).

    Raises:
        DataError: as of :class:`Ranking`.
    """
    indices = as_array(own)
    if indices.shape != (queries,) or indices.dtype.kind not in "iu":
        raise DataError(
            f"own must be whole numbers ({queries},), an index in the database or -1 for each "
            f"query, not {indices.dtype} {indices.shape}"
        )
    outside = np.flatnonzero((indices < -1) | (indices >= size))
    if len(outside):
        raise DataError(
            f"own gives query {outside[0]} the index {indices[outside[0]]}, but the database has "
            f"the indices 0 to {size - 1}; -1 is for queries that are not in it"
        )
    if size == 1 and (indices >= 0).any():
        raise DataError(
            f"the database is empty without query {(indices >= 0).argmax()}, its only item"
        )
    return indices.astype(np.int64)
