"""Instance retrieval: lists instead of labels say which items are relevant to a query.

Some items may be junk to a query: neither relevant nor not, they are removed from its ranking.

``Q`` queries, ``N`` database items, ``K`` bits.
"""

import copy
from collections.abc import Callable
from typing import Self

import numpy as np
import numpy.typing as npt

from deephash.errors import DataError
from deephash.retrieval.backends import Engine
from deephash.retrieval.codes import ArrayLike, Counts, check_packed
from deephash.retrieval.conventions import Convention
from deephash.retrieval.metrics import MapResult, map_under
from deephash.retrieval.ranking import Ranking
from deephash.utils.ground_truth import GroundTruth, Setup

LANDMARKS = ("gld-official", "gld-fire")
"""The conventions of Google Landmarks v2."""

LANDMARKS_TOP = 100


class InstanceRanking(Ranking):
    """The database ranked for each query, with lists of relevant items and of junk.

    Junk is excluded from the order. In ``counts`` it is behind all others, at a distance of K + 1
    that no item has, which makes no difference to relevant items. So all metrics of a ranking
    or its histograms ignore junk; except for cuts beyond the remaining items, since junk
    is still part of ``size`` and ``sizes``.

    Args:
        query_codes: (Q, ceil(K / 8)) uint8, packed.
        database_codes: (N, ceil(K / 8)) uint8, packed; may be memory-mapped.
        truth: of these queries and this database.
        nbit: K.
        setup: of the truth; None: the only one it has.
        engine: the backend; all return the same numbers.

    Raises:
        DataError: if codes are malformed, a side is empty or has another size than the ground
            truth, or there is no such setup.

    Example:
        >>> codes = np.array([[0b00], [0b00], [0b01], [0b11]], np.uint8) << 6
        >>> truth = GroundTruth.of(size=3, relevant={"hard": [[1]]}, junk={"hard": [[0]]})
        >>> ranking = InstanceRanking(codes[:1], codes[1:], truth, nbit=2)
        >>> ranking.positions(0).tolist()  # the first of those left
        [0]
    """

    def __init__(
        self,
        query_codes: ArrayLike,
        database_codes: ArrayLike,
        truth: GroundTruth,
        nbit: int,
        setup: str | None = None,
        engine: Engine | str = "auto",
    ) -> None:
        engine = Engine.of(engine).for_device_of(query_codes)
        query = check_packed(query_codes, nbit, "query_codes")
        database = check_packed(database_codes, nbit, "database_codes")
        ones, zeros = np.ones(len(query), np.int64), np.zeros(len(database), np.int64)
        super().__init__(query, database, ones, zeros, nbit, engine)  # no label in common
        if (self.queries, self.size) != (truth.num_queries, truth.size):
            raise DataError(
                f"the ground truth is of {truth.num_queries} queries and {truth.size} items, the "
                f"codes are of {self.queries} and {self.size}"
            )
        self.truth = truth
        self._choose(setup)

    def under(self, setup: str) -> Self:
        """Return the ranking for another setup; distances are not counted again.

        Raises:
            DataError: if there is no such setup.
        """
        other = copy.copy(self)
        other._choose(setup)
        other.__dict__["_all_counts"] = self._all_counts
        other.__dict__.pop("counts", None)
        return other

    def _choose(self, setup: str | None) -> None:
        setups = self.truth.setups
        if setup is None and len(setups) == 1:
            (setup,) = setups
        if setup is None or setup not in setups:
            raise DataError(
                f"setup={setup!r} is unknown; this ground truth has: {', '.join(setups)}"
            )
        self.setup, self.excluded = setup, setups[setup].junk

    @property
    def _lists(self) -> Setup:
        return self.truth.setups[self.setup]

    @property
    def sizes(self) -> Counts:
        """N for each query, (Q,): junk is ranked last."""
        return np.full(self.queries, self.size, dtype=np.int64)

    def _ranked_counts(self) -> tuple[Counts, Counts]:
        items_QK, _ = super()._ranked_counts()
        relevant_QK = np.zeros_like(items_QK)
        lists = self._lists.relevant
        np.add.at(relevant_QK, (lists.owners, self._distances_of(lists)), 1)
        if not len(self.excluded.indices):
            return items_QK, relevant_QK
        junk_Q = np.diff(self.excluded.starts)[:, None]
        last = np.zeros_like(junk_Q)
        return np.hstack([items_QK, junk_Q]), np.hstack([relevant_QK, last])

    def relevant(self, query: int) -> npt.NDArray[np.bool_]:
        """Return whether each item is relevant to one query: (N,) bool."""
        relevant_N = np.zeros(self.size, dtype=np.bool_)
        relevant_N[self._lists.relevant[query]] = True
        return relevant_N

    def shared(self, query: int) -> npt.NDArray[np.uint16]:
        """Refuse: lists do not say how many labels two items share.

        Raises:
            DataError: always.
        """
        raise DataError("graded metrics need labels: lists only say whether an item is relevant")

    def _compiled_positions(self, radius_Q: Counts) -> Callable[[int], Counts]:
        """Return ``positions`` within a radius for each query: compiled code compares labels."""
        return lambda query: self.positions(query, radius_Q[query])

    def _taken(self, items: slice | Counts) -> Self:
        other = super()._taken(items)
        other.truth = self.truth.mapped(self._new_places(items, other.size), other.size)
        other._choose(self.setup)
        return other


def gldv2(ranking: InstanceRanking, ties: str = "expected", seed: int = 0) -> dict[str, MapResult]:
    """Compute mAP@100 of Google Landmarks v2 (Weyand et al., CVPR 2020), in both versions in use.

    With T items listed for a query, the sum of the precisions at the relevant places among the
    first 100 is divided by min(T, 100) in ``gld-official``, and by T in ``gld-fire``. Both are
    constants of the query, so ``expected`` is exact and ``best`` and ``worst`` are true bounds.
    All queries count. A database of fewer than 100 items is ranked as a whole.

    Args:
        ranking: of the database.
        ties: ``expected``, ``stable``, ``shuffled``, ``best`` or ``worst``; as of a
            :class:`Convention`.
        seed: of ``shuffled``.

    Returns:
        ``gld-official`` and ``gld-fire`` -> the mean, and the numbers of queries behind it.

    Raises:
        DataError: if there is no such policy of ties.

    Example:
        >>> codes = np.array([[0b00], [0b00], [0b01], [0b11]], np.uint8) << 6
        >>> truth = GroundTruth.of(size=3, relevant={"hard": [[1]]}, junk={"hard": [[0]]})
        >>> ranking = InstanceRanking(codes[:1], codes[1:], truth, nbit=2)
        >>> gldv2(ranking)["gld-official"].value
        1.0
    """
    top = min(LANDMARKS_TOP, ranking.size)
    conventions = [Convention.named(name, ties=ties, seed=seed, top=top) for name in LANDMARKS]
    return dict(zip(LANDMARKS, map_under(ranking, conventions), strict=True))
