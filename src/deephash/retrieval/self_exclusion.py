"""Queries that are in the database themselves: each is removed from its own ranking.

HashNet's lists of COCO are an example: the database contains all 5,000 queries. The item of a query
remains in the rankings of all other queries.

``Q`` queries, ``N`` database items, ``K`` bits.
"""

from collections.abc import Callable
from functools import cached_property
from typing import Self

import numpy as np
import numpy.typing as npt

from deephash.errors import DataError
from deephash.retrieval.backends import Engine
from deephash.retrieval.backends.numpy_backend import distance_type
from deephash.retrieval.codes import Array, ArrayLike, Counts, as_array, differing
from deephash.retrieval.ranking import Ranking


class LeaveOneOutRanking(Ranking):
    """The database ranked for each query, without the item that is the query itself.

    That item is not checked: it may differ from its query in code and labels. A ternary code
    is half a bit away from itself for each entry that is undecided.

    Args:
        query_codes: (Q, ceil(K / 8)) uint8, packed.
        database_codes: (N, ceil(K / 8)) uint8, packed; may be memory-mapped.
        query_labels: (Q, C) multi-hot, or (Q,) class indices.
        database_labels: (N, C) multi-hot, or (N,) class indices.
        nbit: K.
        own: (Q,) index of each query in the database, from 0; -1 if it is not in it.
        engine: the backend; all return the same numbers.

    Raises:
        DataError: as of a :class:`Ranking`; or if ``own`` is not one index or -1 for each query, or
            a query is the only item.

    Example:
        >>> codes, labels = np.array([[0], [1], [3]], np.uint8), np.array([5, 5, 6])
        >>> ranking = LeaveOneOutRanking(codes, codes, labels, labels, 8, own=np.array([0, 1, -1]))
        >>> ranking.sizes.tolist(), [ranking.positions(query).tolist() for query in range(3)]
        ([2, 2, 3], [[0], [0], [0]])
    """

    def __init__(
        self,
        query_codes: ArrayLike,
        database_codes: ArrayLike,
        query_labels: ArrayLike,
        database_labels: ArrayLike,
        nbit: int,
        own: ArrayLike,
        engine: Engine | str = "auto",
    ) -> None:
        super().__init__(query_codes, database_codes, query_labels, database_labels, nbit, engine)
        self.own = own_places(own, self.queries, self.size)

    @property
    def sizes(self) -> Counts:
        """How many items are ranked for each query: (Q,), N or N - 1."""
        return self.size - (self.own >= 0)

    @cached_property
    def counts(self) -> tuple[Counts, Counts]:
        """Items, and relevant items, at each distance 0..K from each query: (Q, K + 1) each."""
        inside = np.flatnonzero(self.own >= 0)
        distance, relevant = (found[inside] for found in self._selves)
        items_QK, relevant_QK = (counted.copy() for counted in self._counted)
        items_QK[inside, distance] -= 1
        relevant_QK[inside, distance] -= relevant
        return items_QK, relevant_QK

    @cached_property
    def _selves(self) -> tuple[Counts, npt.NDArray[np.bool_]]:
        """How far each query's own item is, and whether it is relevant: (Q,); of -1 anything."""
        asked, held = self._asked, self._held.take(self.own)
        both = np.equal if asked.labels.ndim == 1 else np.logical_and
        shared = both(asked.labels, held.labels).reshape(self.queries, -1)
        return differing(asked.words, held.words, np.int64), np.logical_or.reduce(shared, axis=1)

    def relevant(self, query: int) -> npt.NDArray[np.bool_]:
        """Which items share a label with one query, its own not among them: (N,) bool."""
        return self._ranked(query, super().relevant(query))

    def shared(self, query: int) -> npt.NDArray[np.uint16]:
        """How many labels each item has in common with one query, its own 0: (N,) uint16."""
        return self._ranked(query, super().shared(query))

    def candidates(self, query: int) -> slice | npt.NDArray[np.bool_]:
        """Which items are ranked for one query, as an index of what is (N,): all but its own."""
        if self.own[query] < 0:
            return super().candidates(query)
        return self._ranked(query, np.ones(self.size, dtype=np.bool_))

    def _ranked(self, query: int, values_N: Array) -> Array:
        if self.own[query] >= 0:
            values_N[self.own[query]] = 0
        return values_N

    def _compiled(self, radius_Q: Counts) -> Callable[[int], Counts]:
        """Compiled code knows of no item to leave out: what is behind it moves up."""
        find, items_QK = super()._compiled(radius_Q), self._counted[0]
        asked, held, distance_Q = self._asked.words, self._held.words, self._selves[0]
        dtype = distance_type(self.nbit + 1)

        def without(query: int) -> Counts:
            found, own, distance = find(query), self.own[query], distance_Q[query]
            if own < 0:
                return found
            tied = differing(asked[:, query], held[:, :own], dtype) == distance
            place = items_QK[query, :distance].sum() + np.count_nonzero(tied)
            found = found[found != place]
            places: Counts = found - (found > place)
            return places

        return without

    def _taken(self, which: slice | Counts) -> Self:
        other = super()._taken(which)
        place = np.full(self.size, -1, dtype=np.int64)
        place[which] = np.arange(other.size)
        other.own = np.where(self.own < 0, -1, place[self.own])
        return other


def own_places(own: ArrayLike, queries: int, size: int) -> Counts:
    """Return the index of each query in the database, -1 for none, after checking them: (Q,).

    Raises:
        DataError: see `LeaveOneOutRanking`.
    """
    places = as_array(own)
    if places.shape != (queries,) or places.dtype.kind not in "iu":
        raise DataError(
            f"own must be whole numbers ({queries},), a place in the database or -1 for each "
            f"query, not {places.dtype} {places.shape}"
        )
    outside = np.flatnonzero((places < -1) | (places >= size))
    if len(outside):
        raise DataError(
            f"own puts query {outside[0]} at {places[outside[0]]}, but the database has the places "
            f"0 to {size - 1}; -1 is for queries that are not in it"
        )
    if size == 1 and (places >= 0).any():
        raise DataError(
            f"the database is empty without query {(places >= 0).argmax()}, its only item"
        )
    return places.astype(np.int64)
