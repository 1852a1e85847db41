"""Agreement of codes with features, on a sample of the items that fits into memory."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from deephash import retrieval
from deephash.retrieval.ranking import own_indices

QUERIES = 1000
"""Limit on the queries that are compared."""

MOST_BYTES = 1 << 30
"""Limit on the features of database items that are kept; beyond it, a sample is used."""

TOP = 10
"""Number of nearest items of the recall."""

SEED = 0
"""Seed of the samples."""


class FeatureAgreement:
    """Keep features of queries and database items while they are encoded, and measure codes.

    Pass an object to ``encode`` as a tap. It keeps at most `QUERIES` queries and `MOST_BYTES` of
    the database, both drawn with `SEED`, as float32 on the CPU.

    Args:
        queries: (Q,) rows of the images.
        database: (N,) rows of the images.
        own: (Q,) index of each query in the database, -1 for none; None: no query is in it.
        width: D.
    """

    def __init__(
        self, queries: np.ndarray, database: np.ndarray, own: np.ndarray | None, width: int
    ) -> None:
        rng = np.random.default_rng(SEED)
        self.queries = _sample(len(queries), QUERIES, rng)
        most = max(TOP + 1, MOST_BYTES // (np.dtype(np.float32).itemsize * width))
        self.database = _sample(len(database), most, rng)
        self.sampled = len(self.database) < len(database)
        self.own = None
        if own is not None:
            place = np.full(len(database), -1)
            place[self.database] = np.arange(len(self.database))
            chosen = own_indices(own, len(queries), len(database))[self.queries]
            self.own = np.where(chosen < 0, -1, place[chosen])
        self._query_rows, self._database_rows = queries[self.queries], database[self.database]
        self._wanted = np.unique(np.concatenate([self._query_rows, self._database_rows]))
        self._parts: list[Tensor] = []
        self._neighbours: retrieval.FeatureNeighbours | None = None

    def __call__(self, ids: np.ndarray, features: Tensor) -> None:
        """Keep the sampled rows of a batch.

        Args:
            ids: (b,) rows of its images; ascending over all batches.
            features: (b, D).
        """
        inside = torch.from_numpy(np.isin(ids, self._wanted, assume_unique=True))
        kept = features[inside.to(features.device)]
        self._parts.append(kept.float().cpu())

    @property
    def complete(self) -> bool:
        """Whether all features were kept, so that codes can be measured without the tap."""
        return self._neighbours is not None or sum(map(len, self._parts)) == len(self._wanted)

    def measure(
        self,
        query_codes: Any,
        database_codes: Any,
        ternary: float | None = None,
        engine: retrieval.Engine | str = "auto",
    ) -> dict[str, Any]:
        """Compare codes with the features.

        Args:
            query_codes: (Q, K) real-valued codes of all queries.
            database_codes: (N, K) of the whole database.
            ternary: entries with ``|z|`` below it are undecided; None for bits.
            engine: the backend that counts distances.

        Returns:
            ``spearman`` and ``recall_at_10``, the numbers of queries, items and pairs behind them,
            the seed of the pairs (None: all), and whether queries or database are a sample.
        """
        if self._neighbours is None:
            features = torch.cat(self._parts)
            query, database = (
                features[torch.from_numpy(np.searchsorted(self._wanted, rows))]
                for rows in (self._query_rows, self._database_rows)
            )
            self._parts = []
            self._neighbours = retrieval.FeatureNeighbours(
                query, database, self.own, TOP, seed=SEED
            )
        sampled_queries = len(self.queries) < len(query_codes)
        ranking = retrieval.rank_codes(
            query_codes[self.queries],
            database_codes[self.database],
            None,
            None,
            ternary=ternary,
            own=self.own,
            engine=engine,
        )
        result = self._neighbours.agreement(ranking)
        return {
            "spearman": result.spearman,
            f"recall_at_{TOP}": result.recall,
            "queries": result.queries,
            "database": result.database,
            "pairs": result.pairs,
            "seed": result.seed,
            "sampled": {"queries": sampled_queries, "database": self.sampled},
        }


def constant_features(encoder: Any, data: Any) -> bool:
    """Return whether training leaves features unchanged: a frozen backbone, or data of features."""
    return data.width is not None or bool(getattr(encoder.backbone, "frozen", False))


def _sample(count: int, most: int, rng: np.random.Generator) -> np.ndarray:
    """Draw at most ``most`` of the indices 0 to count - 1, ascending."""
    if count <= most:
        return np.arange(count)
    return np.sort(rng.choice(count, most, replace=False))
