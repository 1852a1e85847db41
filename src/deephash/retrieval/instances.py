"""Instance retrieval: lists instead of labels say which items are relevant to a query.

Some items may be junk to a query: neither relevant nor not, they are removed from its ranking.

``Q`` queries, ``N`` database items, ``K`` bits.
"""

import copy
from collections.abc import Callable
from functools import cached_property
from typing import Self

import numpy as np
import numpy.typing as npt

from deephash.errors import DataError
from deephash.retrieval.backends import Engine
from deephash.retrieval.codes import ArrayLike, Counts, checked, hamming
from deephash.retrieval.conventions import Convention
from deephash.retrieval.metrics import MapResult, map_under
from deephash.retrieval.ranking import Ranking
from deephash.utils.ground_truth import GroundTruth, IndexLists, Setup

LANDMARKS = ("gld-official", "gld-fire")
"""The conventions of Google Landmarks v2."""

LANDMARKS_TOP = 100


class InstanceRanking(Ranking):
    """The database ranked for each query, with lists of relevant items and of junk.

    Junk is removed from the order. In ``counts`` it is behind all others, at a distance of K + 1
    that no item has, which makes no difference to relevant items. So all metrics of a ranking
    or its histograms ignore junk; except for cuts beyond the remaining items, since junk
    is still part of ``size``.

    Args:
        query_codes: (Q, ceil(K / 8)) uint8, packed.
        database_codes: (N, ceil(K / 8)) uint8, packed; may be memory-mapped.
        truth: of these queries and this database.
        nbit: K.
        setup: of the truth; None: the only one it has.
        engine: the backend; all return the same numbers.

    Raises:
        DataError: if codes are malformed, a side is empty or has another size than the truth, or
            there is no such setup.

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
        near = Engine.of(engine).near(query_codes)
        query = checked(query_codes, nbit, "query_codes")
        database = checked(database_codes, nbit, "database_codes")
        ones, zeros = np.ones(len(query), np.int64), np.zeros(len(database), np.int64)
        super().__init__(query, database, ones, zeros, nbit, near)  # no label in common
        if (self.queries, self.size) != (truth.num_queries, truth.size):
            raise DataError(
                f"the ground truth is of {truth.num_queries} queries and {truth.size} items, the "
                f"codes are of {self.queries} and {self.size}"
            )
        self.truth, self.setup = truth, _known(setup, truth)

    def under(self, setup: str) -> Self:
        """Return the ranking for another setup; distances are not counted again.

        Raises:
            DataError: if there is no such setup.
        """
        other = copy.copy(self)
        other.setup = _known(setup, self.truth)
        other.__dict__["_counted"] = self._counted
        other.__dict__.pop("counts", None)
        return other

    @property
    def _lists(self) -> Setup:
        return self.truth.setups[self.setup]

    @cached_property
    def counts(self) -> tuple[Counts, Counts]:
        """Items, and relevant items, at each distance: (Q, K + 1) each, or (Q, K + 2) with junk."""
        items, (relevant, junk) = self._counted[0], map(self._listed, self._lists)
        if not junk.any():
            return items, relevant
        behind = junk.sum(axis=1, keepdims=True)
        items = np.concatenate([items - junk, behind], axis=1)
        return items, np.concatenate([relevant, np.zeros_like(behind)], axis=1)

    def _listed(self, lists: IndexLists) -> Counts:
        """How many items of a query's list are at each distance: (Q, K + 1)."""
        counts = np.zeros((self.queries, self.nbit + 1), dtype=np.int64)
        for query, row in enumerate(counts):
            asked, held = self._asked.codes[query : query + 1], self._held.codes[lists[query]]
            row += np.bincount(hamming(asked, held)[0], minlength=len(row))
        return counts

    def relevant(self, query: int) -> npt.NDArray[np.bool_]:
        """Tell which items are relevant to one query: (N,) bool."""
        relevant_N = np.zeros(self.size, dtype=np.bool_)
        relevant_N[self._lists.relevant[query]] = True
        return relevant_N

    def shared(self, query: int) -> npt.NDArray[np.uint16]:
        """Refuse: lists do not say how many labels two items share.

        Raises:
            DataError: always.
        """
        raise DataError("graded metrics need labels: lists only say whether an item is relevant")

    def candidates(self, query: int) -> slice | npt.NDArray[np.bool_]:
        """Return which items are not junk to one query, as an index into (N,)."""
        junk = self._lists.junk[query]
        if len(junk) == 0:
            return slice(None)
        ranked_N = np.ones(self.size, dtype=np.bool_)
        ranked_N[junk] = False
        return ranked_N

    def _compiled(self, radius_Q: Counts) -> Callable[[int], Counts]:
        """Compiled code knows labels only."""
        return lambda query: self.positions(query, radius_Q[query])

    def _taken(self, which: slice | Counts) -> Self:
        other = super()._taken(which)
        place = np.full(self.size, -1, dtype=np.int64)
        place[which] = np.arange(other.size)
        other.truth = self.truth.mapped(place, other.size)
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


def _known(setup: str | None, truth: GroundTruth) -> str:
    if setup is None and len(truth.setups) == 1:
        return next(iter(truth.setups))
    if setup is None or setup not in truth.setups:
        raise DataError(f"setup={setup!r} is unknown; this truth has: {', '.join(truth.setups)}")
    return setup
