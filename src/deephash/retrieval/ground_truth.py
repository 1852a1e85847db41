"""Ground truth as lists of relevant items for each query, instead of labels.

``Q`` queries, ``N`` database items, ``L`` listed items of all queries together.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, Self

import numpy as np

from deephash.errors import DataError
from deephash.retrieval.codes import ArrayLike, Counts, as_array, whole

_NONE = np.zeros(0, dtype=np.int64)


@dataclass(frozen=True, eq=False)
class IndexLists:
    """One list of database indices for each query, ``lists[q]``, stored in one array.

    Args:
        starts: (Q + 1,) int64, the start of each list in ``indices``, and the end of the last one.
        indices: (L,) int64, ascending within each list.

    Raises:
        DataError: if starts and indices do not fit each other, or a list does not ascend.

    Example:
        >>> lists = IndexLists.of([[7, 2, 7], [], [0]])
        >>> len(lists), lists[0].tolist(), lists[1].tolist()
        (3, [2, 7], [])
    """

    starts: Counts  # (Q + 1,) where each list begins, and where the last one ends
    indices: Counts  # (L,) ascending within each list

    def __post_init__(self) -> None:
        for name in ("starts", "indices"):
            values = getattr(self, name)
            if values.ndim != 1 or values.dtype != np.int64:
                raise DataError(f"{name} must be int64 (n,), not {values.dtype} {values.shape}")
        starts = self.starts
        ends = len(starts) and starts[0] == 0 and starts[-1] == len(self.indices)
        if not ends or (np.diff(starts) < 0).any():
            raise DataError(
                f"starts must ascend from 0 to {len(self.indices)}, the number of indices"
            )
        if ((np.diff(self.indices) <= 0) & (np.diff(self.owners) == 0)).any():
            raise DataError("each list must ascend, without repetition; IndexLists.of sees to it")

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, query: int) -> Counts:
        return self.indices[self.starts[query] : self.starts[query + 1]]

    @cached_property
    def owners(self) -> Counts:
        """Whose each index is: (L,)."""
        return np.repeat(np.arange(len(self)), np.diff(self.starts))

    @classmethod
    def of(cls, lists: Iterable[ArrayLike | Iterable[int]]) -> Self:
        """Make it of one list per query, in any order; repeated indices count once.

        Raises:
            DataError: if a list contains anything but integers.

        Example:
            >>> IndexLists.of([[7, 2, 7], [], [0]])[0]
            array([2, 7])
        """
        given = [_whole_numbers(one, query) for query, one in enumerate(lists)]
        owners = np.repeat(np.arange(len(given)), [len(one) for one in given])
        return cls._gathered(len(given), owners, np.concatenate([_NONE, *given]))

    def mapped(self, place: Counts) -> Self:
        """Return the lists after moving each item n to ``place[n]``; items at -1 are removed.

        Args:
            place: (N,) int64.
        """
        moved = place[self.indices]
        return self._gathered(len(self), self.owners[moved >= 0], moved[moved >= 0])

    @classmethod
    def _gathered(cls, queries: int, owners: Counts, indices: Counts) -> Self:
        order = np.lexsort((indices, owners))
        owners, indices = owners[order], indices[order]
        first = np.ones(len(indices), dtype=np.bool_)
        first[1:] = (np.diff(indices) != 0) | (np.diff(owners) != 0)
        counts = np.bincount(owners[first], minlength=queries)
        return cls(np.concatenate([[0], counts.cumsum()]).astype(np.int64), indices[first])


class Setup(NamedTuple):
    """The items that are relevant to each query, and those that are ignored (junk).

    Example:
        >>> setup = Setup(relevant=IndexLists.of([[1, 3]]), junk=IndexLists.of([[0]]))
        >>> setup.junk[0].tolist()
        [0]
    """

    relevant: IndexLists
    junk: IndexLists


@dataclass(frozen=True, eq=False)
class Truth:
    """The relevant items of each query in a database, in one or several setups.

    Args:
        size: N.
        setups: by name.

    Raises:
        DataError: if there is no setup or no query, setups have different queries, an index is
            not one of the database, or an item is both relevant and junk to a query.

    Example:
        >>> relevant = {"easy": [[1]], "hard": [[1, 3]]}
        >>> truth = Truth.of(size=4, relevant=relevant, junk={"easy": [[3]]})
        >>> truth.queries, list(truth.setups)
        (1, ['easy', 'hard'])
    """

    size: int  # N
    setups: Mapping[str, Setup]

    def __post_init__(self) -> None:
        if not whole(self.size, least=1):
            raise DataError(f"size={self.size!r} must be a whole number of at least 1")
        if not self.setups:
            raise DataError("there is no setup")
        for name, setup in self.setups.items():
            for kind, lists in setup._asdict().items():
                if len(lists) != self.queries:
                    raise DataError(f"{name}: {len(lists)} lists of {kind}, not {self.queries}")
                outside = (lists.indices < 0) | (lists.indices >= self.size)
                if outside.any():
                    at = outside.argmax()
                    raise DataError(
                        f"{name}: query {lists.owners[at]} lists the {kind} index "
                        f"{lists.indices[at]}, but the database has {self.size} items"
                    )
            relevant, junk = (lists.owners * self.size + lists.indices for lists in setup)
            both = np.intersect1d(relevant, junk)
            if len(both):
                query, item = divmod(int(both[0]), self.size)
                raise DataError(
                    f"{name}: {len(both)} items are both relevant and junk; the first is {item}, "
                    f"to query {query}"
                )
        if self.queries == 0:
            raise DataError("there are no queries")

    @property
    def queries(self) -> int:
        """Q."""
        return len(next(iter(self.setups.values())).relevant)

    def mapped(self, place: Counts, size: int) -> Self:
        """Return it for a database of ``size`` items with n at ``place[n]``; -1 removes it."""
        return type(self)(
            size,
            {
                name: Setup(*(lists.mapped(place) for lists in setup))
                for name, setup in self.setups.items()
            },
        )

    @classmethod
    def of(
        cls,
        size: int,
        relevant: Mapping[str, Iterable[ArrayLike | Iterable[int]]],
        junk: Mapping[str, Iterable[ArrayLike | Iterable[int]]] | None = None,
    ) -> Self:
        """Make it of one list per query, for each setup by name.

        Args:
            size: N.
            relevant: setup -> Q lists of indices; repeated indices count once.
            junk: setup -> Q lists of indices; other setups have none.

        Raises:
            DataError: if the lists are malformed or contradict each other, or junk is given for a
                setup that does not exist.
        """
        junk = junk or {}
        if strange := junk.keys() - relevant.keys():
            raise DataError(f"junk of {', '.join(sorted(strange))}, of which nothing is relevant")
        setups = {}
        for name, lists in relevant.items():
            found = IndexLists.of(lists)
            setups[name] = Setup(found, IndexLists.of(junk.get(name, [()] * len(found))))
        return cls(size, setups)


def _whole_numbers(values: Any, query: int) -> Counts:
    try:
        found = as_array(values)
    except ValueError:  # rows of several lengths
        found = np.empty((), dtype=object)
    if found.size == 0:
        return _NONE
    if found.ndim != 1 or found.dtype.kind not in "iu":
        raise DataError(f"the list of query {query} must be whole numbers, (n,), not {values!r}")
    return found.astype(np.int64)
