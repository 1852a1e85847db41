"""Distance histograms: the number of items, and of relevant items, at each distance.

Distances have K + 1 values only, so two rows of counts per query contain everything but the order
of tied items. They are computed in one pass over the database, and so are all metrics that do not
depend on that order.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from deephash.errors import DataError
from deephash.retrieval.backends import Engine
from deephash.retrieval.codes import ArrayLike
from deephash.retrieval.ranking import Ranking


@dataclass(frozen=True)
class Histograms:
    """For each query, the items and the relevant items at each distance 0..K.

    Args:
        items: (Q, K + 1) integers.
        relevant: (Q, K + 1) integers.
        labelled: (Q,) bool, whether the query has a label; None: all.
        excluded: (Q,) number of items that are not ranked for it; None: none.

    Raises:
        DataError: if the counts contradict each other.

    Example:
        >>> hist = Histograms(items=np.array([[1, 2, 1]]), relevant=np.array([[1, 1, 0]]))
        >>> hist.queries, hist.nbit, hist.size
        (1, 2, 4)
    """

    items: npt.NDArray[np.int64]  # (Q, K + 1)
    relevant: npt.NDArray[np.int64]  # (Q, K + 1)
    labelled: npt.NDArray[np.bool_] | None = None  # (Q,)
    excluded: npt.NDArray[np.int64] | None = None  # (Q,)

    def __post_init__(self) -> None:
        items, relevant = self.items, self.relevant
        if items.ndim != 2 or 0 in items.shape or items.shape != relevant.shape:
            raise DataError(f"histograms must be (Q, K + 1), not {items.shape}, {relevant.shape}")
        if items.dtype.kind not in "iu" or relevant.dtype.kind not in "iu":
            raise DataError(f"histograms must be counts, not {items.dtype} and {relevant.dtype}")
        if (relevant < 0).any() or (relevant > items).any():
            raise DataError("histograms must have 0 <= relevant <= items")
        for name in ("labelled", "excluded"):
            values = getattr(self, name)
            if values is not None and values.shape != (len(items),):
                raise DataError(f"{name} must be ({len(items)},), not {values.shape}")
        totals = self.sizes if self.excluded is None else self.sizes + self.excluded
        if self.size == 0 or (totals != totals[0]).any():
            raise DataError(
                "every query must be compared with the same database, which must not be empty"
            )

    @property
    def queries(self) -> int:
        """Q."""
        return len(self.items)

    @property
    def nbit(self) -> int:
        """K."""
        return int(self.items.shape[1]) - 1

    @property
    def sizes(self) -> npt.NDArray[np.int64]:
        """The number of items compared with each query, (Q,)."""
        sizes: npt.NDArray[np.int64] = self.items.sum(axis=1, dtype=np.int64)
        return sizes

    @property
    def size(self) -> int:
        """N, the items of the database; the fewest of any query if some are excluded."""
        return int(self.sizes.min())

    @property
    def without_relevant(self) -> int:
        """The number of queries without a relevant item in the database."""
        return int((self.relevant.sum(axis=1) == 0).sum())

    @classmethod
    def of(cls, ranking: Ranking) -> Self:
        """Count items and relevant items by distance, for each query of a ranking."""
        return cls(*ranking.counts, ranking.labelled, ranking.size - ranking.sizes)


def histograms(
    query_codes: ArrayLike,
    database_codes: ArrayLike,
    query_labels: ArrayLike,
    database_labels: ArrayLike,
    nbit: int,
    engine: Engine | str = "auto",
) -> Histograms:
    """Count, for each query, items and relevant items by distance, in memory O(Q K + N).

    Args:
        query_codes: (Q, ceil(K / 8)) uint8, packed.
        database_codes: (N, ceil(K / 8)) uint8, packed.
        query_labels: (Q, C) multi-hot, or (Q,) class indices.
        database_labels: (N, C) multi-hot, or (N,) class indices.
        nbit: K.
        engine: the backend; all return the same numbers.

    Returns:
        the counts; items are relevant if they share at least one label with the query.

    Raises:
        DataError: if codes or labels are malformed, contradict each other, or a side is empty.

    Example:
        >>> codes = np.array([[0b00], [0b01], [0b11]], np.uint8) << 6
        >>> hist = histograms(codes[:1], codes, np.array([5]), np.array([5, 5, 2]), nbit=2)
        >>> hist.items.tolist(), hist.relevant.tolist()
        ([[1, 1, 1]], [[1, 1, 0]])
    """
    return Histograms.of(
        Ranking(query_codes, database_codes, query_labels, database_labels, nbit, engine)
    )
