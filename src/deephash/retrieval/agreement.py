"""Agreement of codes with the features that they were computed from; labels are not used.

``Q`` queries, ``N`` database items, ``D`` numbers of a feature, ``P`` pairs of a query and an item,
``n`` nearest items. No array of (Q, N) is made.
"""

from typing import Any, NamedTuple

import numpy as np

from deephash.errors import DataError
from deephash.retrieval.backends import Engine
from deephash.retrieval.checks import check_integer
from deephash.retrieval.codes import Array, ArrayLike, Counts, Floats, as_array
from deephash.retrieval.evaluate import rank_codes
from deephash.retrieval.ranking import Ranking, own_indices
from deephash.retrieval.ties import bounded_mean

PAIRS = 100_000
"""The largest number of pairs for the rank correlation."""

_ITEMS, _QUERIES = 1 << 13, 1 << 8  # compared at once


class Agreement(NamedTuple):
    """The agreement of Hamming distances with the cosine similarities of features.

    Example:
        >>> features = np.array([[-3.0, 4.0], [-4.0, 3.0], [4.0, 3.0]])
        >>> feature_agreement(features[:1], features[1:], features[:1], features[1:]).spearman
        1.0
    """

    spearman: float | None  # of cosine and -distance, over pairs; None if one of them is constant
    recall: float  # share of the n nearest by features that is among the n nearest by codes
    top: int  # n
    queries: int  # Q
    database: int  # N
    pairs: int  # P, pairs behind the rank correlation
    seed: int | None  # of their sample; None: these are all pairs


class FeatureNeighbours:
    """The nearest items of each query by the cosine similarity of features.

    They are computed once, and can be compared with codes any number of times. The similarity to a
    zero vector is 0. Products are computed in the data type of the features, at least float32, in
    blocks of the database. If many items have the n-th largest similarity to a query, each of
    them takes at least 4 bytes.

    Args:
        query: (Q, D) features.
        database: (N, D) features; may be memory-mapped.
        own: (Q,) index of each query in the database, -1 if it is not in it: it is not compared
            with itself. None: none of them is in it.
        top: n; fewer where the database has fewer items.
        pairs: P, pairs of a query and an item for the rank correlation, drawn without replacement;
            all pairs if there are not more.
        seed: of the pairs.

    Raises:
        DataError: if features are malformed or not finite, a side is empty, ``own`` is not one
            index or -1 for each query, or ``top`` or ``pairs`` is less than 1.

    Example:
        >>> features = np.array([[3.0, 4.0], [4.0, 3.0], [-4.0, 3.0]])
        >>> neighbours = FeatureNeighbours(features, features, own=np.arange(3), top=1)
        >>> ranking = rank_codes(features, features, None, None, own=np.arange(3))
        >>> neighbours.agreement(ranking).recall  # 1/2 for the last, whose others are tied by codes
        0.8333333333333334
    """

    def __init__(
        self,
        query: ArrayLike,
        database: ArrayLike,
        own: ArrayLike | None = None,
        top: int = 10,
        pairs: int = PAIRS,
        seed: int = 0,
    ) -> None:
        check_integer("top", top, 1)
        check_integer("pairs", pairs, 1)
        if query.ndim != 2 or database.ndim != 2 or query.shape[1] != database.shape[1]:
            raise DataError(
                "features must be (Q, D) and (N, D), not of the shapes "
                f"{tuple(query.shape)} and {tuple(database.shape)}"
            )
        if len(query) == 0 or len(database) == 0:
            raise DataError("there are no queries, or no database, to compare by features")
        self.queries, self.size, self.top = len(query), len(database), top
        self._own = None if own is None else own_indices(own, self.queries, self.size)
        self._pair_queries, self._pair_items, self.seed = self._pairs(pairs, seed)
        self._ranks = _ranks(self._compare(_unit(query, "query"), database))  # of cosines, (P,)

    @property
    def sizes(self) -> Counts:
        """The number of items compared with each query, (Q,): N or N - 1."""
        sizes = np.full(self.queries, self.size, dtype=np.int64)
        return sizes if self._own is None else sizes - (self._own >= 0)

    def agreement(self, ranking: Ranking) -> Agreement:
        """Compare with a ranking by codes of the same queries and items, in the same order.

        Args:
            ranking: of ``rank_codes``; its labels are not read.

        Returns:
            the agreement; the recall is the expectation over all orders of tied items, by features
            and by codes.

        Raises:
            DataError: if the ranking has other numbers of queries or items.
        """
        if ranking.size != self.size or not np.array_equal(ranking.sizes, self.sizes):
            raise DataError(
                f"features of {self.queries} queries and {self.size} items were compared, but the "
                f"codes are of {ranking.queries} and {ranking.size}, or exclude other items"
            )
        row, nearest = np.arange(self.queries), np.minimum(self.top, self.sizes)
        counts_QK = ranking.counts[0]
        reached_QK = counts_QK.cumsum(axis=1)
        radius_Q = (reached_QK < nearest[:, None]).sum(axis=1)  # distance of the n-th nearest
        tied_Q = counts_QK[row, radius_Q]
        share_Q = (nearest - (reached_QK[row, radius_Q] - tied_Q)) / tied_Q
        distance = ranking.distances_of_pairs(self._rows, self._items)
        radius = radius_Q[self._rows]
        near = np.where(distance == radius, share_Q[self._rows], distance < radius)
        recall_Q = np.bincount(self._rows, self._weights * near, self.queries) / nearest
        far = ranking.distances_of_pairs(self._pair_queries, self._pair_items)
        return Agreement(
            _correlation(self._ranks, -_ranks_of_counts(far)),
            bounded_mean(recall_Q),
            self.top,
            self.queries,
            self.size,
            len(self._pair_items),
            self.seed,
        )

    def _pairs(self, most: int, seed: int) -> tuple[Counts, Counts, int | None]:
        """Return queries and items of pairs, both (P,), and the seed if they are a sample."""
        total = self.queries * self.size
        if total <= most:
            flat, drawn = np.arange(total), None
        else:
            flat, drawn = np.random.default_rng(seed).choice(total, most, replace=False), seed
        query, item = np.divmod(flat, self.size)
        if self._own is not None:
            other = self._own[query] != item
            query, item = query[other], item[other]
        order = np.argsort(item, kind="stable")
        return query[order], item[order], drawn

    def _compare(self, query: Array, database: ArrayLike) -> Array:
        """Find the nearest items in one pass over the database; return the cosines of pairs."""
        best_Qn = np.full((self.queries, self.top), -np.inf, dtype=query.dtype)
        parts: list[tuple[Array, Array, Array]] = []  # queries, items, cosines
        cosines_P = np.zeros(len(self._pair_items), dtype=query.dtype)
        for start in range(0, self.size, _ITEMS):
            items = _unit(database[start : start + _ITEMS], "database").astype(
                query.dtype, copy=False
            )
            bounds = np.searchsorted(self._pair_items, (start, start + len(items)))
            pairs = slice(*bounds)
            for first in range(0, self.queries, _QUERIES):
                rows = slice(first, first + _QUERIES)
                cosines = query[rows] @ items.T  # (rows, items)
                inside = np.flatnonzero(self._pair_queries[pairs] // _QUERIES * _QUERIES == first)
                inside += pairs.start
                cosines_P[inside] = cosines[
                    self._pair_queries[inside] - first, self._pair_items[inside] - start
                ]
                self._exclude_own(cosines, first, start)
                both = np.concatenate([best_Qn[rows], cosines], axis=1)
                best_Qn[rows] = np.partition(both, -self.top, axis=1)[:, -self.top :]
                least = best_Qn[rows].min(axis=1)[:, None]
                row, item = np.nonzero((cosines >= least) & (cosines > -np.inf))
                queries = (row + first).astype(np.int32)
                parts.append((queries, (item + start).astype(np.int32), cosines[row, item]))
        least_Q = best_Qn.min(axis=1)
        near = [cosines >= least_Q[rows] for rows, _, cosines in parts]
        self._rows, self._items, cosine = (
            np.concatenate([values[mask] for values, mask in zip(column, near, strict=True)])
            for column in zip(*parts, strict=True)
        )
        self._weights = self._chances(cosine, least_Q)
        return cosines_P

    def _exclude_own(self, cosines: Array, first: int, start: int) -> None:
        """Exclude the queries of a block from their own neighbours."""
        if self._own is None:
            return
        place = self._own[first : first + len(cosines)] - start
        row = np.flatnonzero((place >= 0) & (place < cosines.shape[1]))
        cosines[row, place[row]] = -np.inf

    def _chances(self, cosine: Array, least_Q: Array) -> Floats:
        """Return the probability that each kept item is among the n nearest of its query."""
        tied = cosine == least_Q[self._rows]
        tied_Q = np.bincount(self._rows[tied], minlength=self.queries)
        above_Q = np.bincount(self._rows[~tied], minlength=self.queries)
        left_Q = np.minimum(self.top, self.sizes) - above_Q
        share_Q: Floats = left_Q / np.maximum(tied_Q, 1)
        weights: Floats = np.where(tied, share_Q[self._rows], 1.0)
        return weights


def feature_agreement(
    query_features: ArrayLike,
    database_features: ArrayLike,
    query_codes: ArrayLike,
    database_codes: ArrayLike,
    *,
    nbit: int | None = None,
    own: ArrayLike | None = None,
    top: int = 10,
    pairs: int = PAIRS,
    seed: int = 0,
    engine: Engine | str = "auto",
) -> Agreement:
    """Compute the agreement of Hamming distances with cosine similarities of features.

    Args:
        query_features: (Q, D).
        database_features: (N, D).
        query_codes: (Q, K) real-valued codes, or bool bits; or with ``nbit`` packed.
        database_codes: (N, K) likewise.
        nbit: K of packed codes; None: the codes are not packed.
        own: (Q,) index of each query in the database, as of :class:`FeatureNeighbours`.
        top: n, the number of nearest items.
        pairs: P, pairs for the rank correlation.
        seed: of the pairs.
        engine: the backend that counts distances.

    Raises:
        DataError: if features, codes or ``own`` are malformed, or contradict each other.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> features = rng.normal(size=(500, 8))
        >>> bits = features @ rng.normal(size=(8, 64)) >= 0  # random hyperplanes
        >>> result = feature_agreement(features[:50], features[50:], bits[:50], bits[50:])
        >>> round(result.spearman, 2), round(result.recall, 2), result.pairs
        (0.9, 0.6, 22500)
    """
    ranking = rank_codes(query_codes, database_codes, None, None, nbit=nbit, own=own, engine=engine)
    neighbours = FeatureNeighbours(query_features, database_features, own, top, pairs, seed)
    return neighbours.agreement(ranking)


def _unit(features: ArrayLike, name: str) -> Array:
    """Return features scaled to length 1, zero vectors as they are.

    Raises:
        DataError: if they are no numbers, or not finite.
    """
    values = as_array(features)
    if values.dtype.kind not in "fiu":
        raise DataError(f"{name} features must be numbers, not {values.dtype}")
    kind: Any = np.float64 if values.dtype == np.float64 else np.float32
    values = values.astype(kind)
    largest = np.abs(values).max(axis=1, keepdims=True, initial=0)
    if not np.isfinite(largest).all():
        raise DataError(f"{name} features contain NaN or infinite values")
    values /= np.where(largest > 0, largest, 1)  # squares do not overflow
    length = np.sqrt(np.einsum("nd,nd->n", values, values))[:, None]
    values /= np.where(length > 0, length, 1)
    return values


def _ranks(values: Array) -> Floats:
    """Return average ranks, minus their mean."""
    from scipy.stats import rankdata  # slow to import

    ranks: Floats = np.asarray(rankdata(values), dtype=np.float64)
    ranks -= ranks.mean()
    return ranks


def _ranks_of_counts(values: Array) -> Floats:
    """Return ``_ranks`` of small whole numbers, without sorting them."""
    counts = np.bincount(values)
    ranks: Floats = (counts.cumsum() - (counts - 1) / 2)[values]
    ranks -= ranks.mean()
    return ranks


def _correlation(x: Floats, y: Floats) -> float | None:
    """Return the correlation of centred values; None if one side is constant."""
    scale = float(np.sqrt((x @ x) * (y @ y)))
    return min(1.0, max(-1.0, float(x @ y) / scale)) if scale > 0 else None
