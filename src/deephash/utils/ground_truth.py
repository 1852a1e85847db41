"""Ground truth as lists of relevant items for each query, instead of labels.

``Q`` queries, ``N`` database items, ``L`` listed items of all queries together.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from deephash.errors import DataError

Indices = npt.NDArray[np.int64]

SHOWN = 5
"""Examples in an error message."""

_EMPTY = np.zeros(0, dtype=np.int64)


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

    starts: Indices
    indices: Indices

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
            raise DataError("each list must ascend, without repetition; use IndexLists.of")

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, query: int) -> Indices:
        return self.indices[self.starts[query] : self.starts[query + 1]]

    @cached_property
    def owners(self) -> Indices:
        """The query of each index: (L,)."""
        return np.repeat(np.arange(len(self)), np.diff(self.starts))

    @classmethod
    def of(cls, lists: Iterable[Any]) -> Self:
        """Build from one sequence of integers per query, in any order; repetitions count once.

        Raises:
            DataError: if a list contains anything but integers.

        Example:
            >>> IndexLists.of([[7, 2, 7], [], [0]])[0]
            array([2, 7])
        """
        arrays = [_whole_numbers(values, query) for query, values in enumerate(lists)]
        owners = np.repeat(np.arange(len(arrays)), [len(values) for values in arrays])
        return cls._gathered(len(arrays), owners, np.concatenate([_EMPTY, *arrays]))

    def mapped(self, place: Indices) -> Self:
        """Return the lists after moving each item n to ``place[n]``; items at -1 are removed.

        Args:
            place: (N,) int64.
        """
        moved = place[self.indices]
        return self._gathered(len(self), self.owners[moved >= 0], moved[moved >= 0])

    @classmethod
    def _gathered(cls, queries: int, owners: Indices, indices: Indices) -> Self:
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
class GroundTruth:
    """The relevant items of each query in a database, in one or several setups.

    Args:
        size: N.
        setups: by name.
        query_ids: Q ids of the queries; empty if they have none.
        database_ids: N ids of the database items; empty if they have none.
        protocol: how the dataset is evaluated, ``revisited`` or ``gldv2``.
        boxes: (Q, 4) float64, x1, y1, x2, y2 of the region of each query image.
        ignored: the number of queries that the file marks as ignored.

    Raises:
        DataError: if there is no setup or no query, setups have different queries, an index is
            not one of the database, or an item is both relevant and junk to a query.

    Example:
        >>> relevant = {"easy": [[1]], "hard": [[1, 3]]}
        >>> truth = GroundTruth.of(size=4, relevant=relevant, junk={"easy": [[3]]})
        >>> truth.num_queries, list(truth.setups)
        (1, ['easy', 'hard'])
    """

    size: int
    setups: Mapping[str, Setup]
    query_ids: tuple[str, ...] = ()
    database_ids: tuple[str, ...] = ()
    protocol: str = ""
    boxes: npt.NDArray[np.float64] | None = None
    ignored: int = 0

    def __post_init__(self) -> None:
        is_number = isinstance(self.size, int | np.integer) and not isinstance(self.size, bool)
        if not is_number or self.size < 1:
            raise DataError(f"size={self.size!r} must be a whole number of at least 1")
        if not self.setups:
            raise DataError("there is no setup")
        for name, setup in self.setups.items():
            for kind, lists in setup._asdict().items():
                if len(lists) != self.num_queries:
                    raise DataError(f"{name}: {len(lists)} lists of {kind}, not {self.num_queries}")
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
        if self.num_queries == 0:
            raise DataError("there are no queries")

    @property
    def num_queries(self) -> int:
        """Q."""
        return len(next(iter(self.setups.values())).relevant)

    @classmethod
    def of(
        cls,
        size: int,
        relevant: Mapping[str, Iterable[Any]],
        junk: Mapping[str, Iterable[Any]] | None = None,
        **described: Any,
    ) -> Self:
        """Build from one list of indices per query, for each setup by name.

        Args:
            size: N.
            relevant: setup -> Q lists of indices; repeated indices count once.
            junk: setup -> Q lists of indices; other setups have none.
            **described: the other fields.

        Raises:
            DataError: if the lists are malformed or contradict each other, or junk is given for a
                setup that does not exist.
        """
        junk = junk or {}
        if strange := junk.keys() - relevant.keys():
            raise DataError(
                f"junk is given for {', '.join(sorted(strange))}, a setup without relevant items"
            )
        setups = {}
        for name, lists in relevant.items():
            items = IndexLists.of(lists)
            setups[name] = Setup(items, IndexLists.of(junk.get(name, [()] * len(items))))
        return cls(size, setups, **described)

    def mapped(self, place: Indices, size: int) -> Self:
        """Return it for a database of ``size`` items with n at ``place[n]``; -1 removes it."""
        setups = {
            name: Setup(*(lists.mapped(place) for lists in setup))
            for name, setup in self.setups.items()
        }
        return replace(self, size=size, setups=setups, database_ids=())

    def for_database(self, ids: Sequence[str]) -> Self:
        """Return it for a database with the same ids in another order, or with additional ones.

        Raises:
            DataError: if an id of the ground truth is missing, or one is in the database twice.
        """
        place = find_rows(self.database_ids, ids, "images of the ground truth")
        return replace(self.mapped(place, len(ids)), database_ids=tuple(ids))


def find_rows(ids: Iterable[str], known: Sequence[str], what: str) -> Indices:
    """Return the position of each id in a sequence of ids, (n,) int64.

    Args:
        ids: n ids to look up.
        known: the ids to search, each once.
        what: what the ids refer to, for the error message.

    Raises:
        DataError: if ids are missing (with their number and examples), or one is known twice.
    """
    rows = {name: row for row, name in enumerate(known)}
    if len(rows) != len(known):
        twice = next(name for row, name in enumerate(known) if rows[name] != row)
        raise DataError(f"{len(known) - len(rows)} ids are repeated, the first is {twice}")
    ids = list(ids)
    unknown = [name for name in ids if name not in rows]
    if unknown:
        examples = ", ".join(unknown[:SHOWN])
        if len(unknown) > SHOWN:
            examples += ", ..."
        raise DataError(
            f"{len(unknown)} of {len(ids)} {what} are not among the {len(rows)} known ids: "
            f"{examples}. Ids are written without folder and ending; were some images left out?"
        )
    return np.array([rows[name] for name in ids], dtype=np.int64)


def _whole_numbers(values: Any, query: int) -> Indices:
    if hasattr(values, "detach"):  # a tensor
        values = values.detach().cpu().numpy()
    try:
        numbers = np.asarray(values)
    except ValueError:  # rows of several lengths
        numbers = np.empty((), dtype=object)
    if numbers.size == 0:
        return _EMPTY
    if numbers.ndim != 1 or numbers.dtype.kind not in "iu":
        raise DataError(f"the list of query {query} must be whole numbers, (n,), not {values!r}")
    return numbers.astype(np.int64)
