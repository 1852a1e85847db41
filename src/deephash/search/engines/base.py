"""The contract of search engines, and the recall of their results."""

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from deephash.errors import DataError
from deephash.retrieval.checks import check_integer
from deephash.retrieval.codes import Array, ArrayLike, as_packed
from deephash.search.store_files import encode_texts

Distances = npt.NDArray[np.int16]


class SearchEngine(ABC):
    """Codes with ids, and a search for the nearest ones.

    Ids are texts. What ``add`` and ``remove`` change, later searches of this object see; other
    processes see it after ``save``. As a context manager, an engine is closed at the end.

    Args:
        nbit: K.
        folder: for files of the engine; what was saved there is opened again. Engines on a server
            derive the name of their table from it.

    Example:
        >>> from deephash.search.engines.exact import ExactEngine
        >>> with ExactEngine(8, Path("photos.codes")) as engine:
        ...     engine.add(np.array([[0], [1], [7]], dtype=np.uint8), ["a", "b", "c"])
        ...     distances, ids = engine.search(np.array([[3]], dtype=np.uint8), k=2)
        >>> distances.tolist(), ids.tolist()
        ([[1, 1]], [['b', 'c']])
    """

    name: ClassVar[str]
    """The name of its file in ``conf/engine``, and of its folder."""

    def __init__(self, nbit: int, folder: Path) -> None:
        self.nbit = check_integer("nbit", nbit, 1)
        self.folder = folder

    @classmethod  # noqa: B027 - an engine may need nothing
    def require(cls, options: Mapping[str, Any]) -> None:
        """Check that an engine can be opened, before codes are computed for it.

        Args:
            options: of the constructor; those that are missing have their defaults.

        Raises:
            ConfigError: a package is not installed, or an option is invalid.
            DataError: a server does not answer.
        """

    @property
    def exact(self) -> bool:
        """Whether a search always finds the nearest codes."""
        return False

    @property
    def location(self) -> str:
        """The server and table, or file, that has the items; without passwords."""
        return str(self.folder)

    @abstractmethod
    def add(self, codes: ArrayLike, ids: Sequence[str]) -> None:
        """Add items; an item of the same id is replaced.

        Args:
            codes: (n, ceil(K / 8)) uint8, or (n, K) bool or signed numbers.
            ids: (n,) different texts that are not empty.

        Raises:
            DataError: codes or ids are malformed.
        """

    @abstractmethod
    def search(self, codes: ArrayLike, k: int) -> tuple[Distances, Array]:
        """Find the k nearest codes of each query, nearest first.

        Equal distances are in any order.

        Args:
            codes: (Q, ceil(K / 8)) uint8, or (Q, K) bool or signed numbers.
            k: number of results, from 1; at most ``count()`` are returned.

        Returns:
            distances (Q, k) int16 and ids (Q, k) object. Where an approximate engine finds fewer,
            the rest are -1 and None.

        Raises:
            DataError: the queries are malformed.
        """

    @abstractmethod
    def remove(self, ids: Sequence[str]) -> int:
        """Remove items; ids that do not exist are ignored.

        Returns:
            The number of removed items.
        """

    @abstractmethod
    def count(self) -> int:
        """Return the number of items."""

    @abstractmethod
    def save(self) -> None:
        """Make all changes permanent, and build or extend what speeds up the search."""

    @abstractmethod
    def close(self) -> None:
        """Close files and connections; changes since ``save`` may be lost."""

    def clear(self) -> None:
        """Remove all items.

        Raises:
            NotImplementedError: the engine cannot.
        """
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    def _queries(self, codes: ArrayLike, k: int) -> tuple[npt.NDArray[np.uint8], int]:
        """Return packed queries, and the number of results of each."""
        return as_packed(codes, self.nbit, "queries"), min(check_integer("k", k, 1), self.count())


def check_items(
    codes: ArrayLike, ids: Sequence[str], nbit: int
) -> tuple[npt.NDArray[np.uint8], list[str]]:
    """Return items as packed codes and a list of ids.

    Raises:
        DataError: they are malformed, or an id is repeated.
    """
    packed, names = as_packed(codes, nbit, "codes"), list(ids)
    if len(packed) != len(names):
        raise DataError(f"there are {len(packed)} codes, but {len(names)} ids")
    encode_texts(names)  # refuses what is no text, and empty ones
    if len(set(names)) < len(names):
        raise DataError(f"ids must be unique, but {len(names) - len(set(names))} are repeated")
    return packed, names


def empty_results(queries: int, k: int) -> tuple[Distances, Array]:
    """Return results without any item."""
    return np.full((queries, k), -1, dtype=np.int16), np.full((queries, k), None, dtype=object)


def tie_aware_recall(distances: Array, exact: Array) -> float:
    """Return the part of the k nearest items that an approximate search returns.

    A result counts if it is not farther than the k-th nearest item. Which of several equally near
    items are returned makes no difference; recall that compares ids counts them as errors.

    Args:
        distances: of the results (Q, k); -1 where there is none.
        exact: distances of the nearest items (Q, k), ascending.

    Returns:
        From 0 to 1; 1 without queries or items.

    Example:
        >>> tie_aware_recall(np.array([[0, 2, 3], [1, 1, -1]]), np.array([[0, 1, 2], [1, 1, 1]]))
        0.6666666666666666
    """
    if distances.shape != exact.shape:
        raise DataError(
            f"results {distances.shape} and exact results {exact.shape} differ in shape"
        )
    if not distances.size:
        return 1.0
    return float(((distances >= 0) & (distances <= exact[:, -1:])).mean())


def probed_lists(lists: int, probes: int | None) -> int:
    """Return how many of the lists of an inverted file are searched.

    Args:
        lists: their number.
        probes: the option of the engine; None for the square root of ``lists``, at least 8.
    """
    return min(lists, max(8, math.isqrt(lists)) if probes is None else probes)


def table_name(folder: Path) -> str:
    """Return the name of the table or collection of a folder of an index.

    Example:
        >>> table_name(Path("/photos.deephash/5e1f.pgvector"))
        'deephash_f93428b4fa49'
    """
    digest = hashlib.sha256(str(folder.absolute()).encode("utf-8", "surrogateescape")).hexdigest()
    return f"deephash_{digest[:12]}"
