"""Compare two methods on the same queries: the mean difference and its bootstrap interval.

``S`` seeds, ``Q`` queries.
"""

from typing import NamedTuple

import numpy as np

from deephash.errors import DataError
from deephash.retrieval.checks import check_integer
from deephash.retrieval.codes import Floats

LEVEL = 0.95
"""The confidence level of the interval."""

_BLOCK = 2_000_000  # values resampled at once


class PairedDifference(NamedTuple):
    """The mean of a - b over seeds and queries, with its bootstrap interval.

    Example:
        >>> PairedDifference(mean=0.02, low=0.01, high=0.03, seeds=3, queries=1000).certain
        True
    """

    mean: float
    low: float  # bounds of the 95 % percentile interval
    high: float
    seeds: int
    queries: int

    @property
    def certain(self) -> bool:
        """Whether the interval excludes 0."""
        return self.low > 0 or self.high < 0


def paired_difference(a: Floats, b: Floats, draws: int = 2000, seed: int = 0) -> PairedDifference:
    """Compute the mean difference of two methods, with a 95 % interval.

    This is a crossed bootstrap: seeds and queries are two samples, and both are resampled, with
    replacement and independently; each draw is the mean over all pairs of the two. With one seed
    only queries are resampled, and the interval is about these two encoders, not about the methods.

    Args:
        a: (S, Q), a value of each query under each seed, for example its average precision.
        b: (S, Q), the same of the other method; rows are the same seeds, columns the same queries.
        draws: number of resamples.
        seed: of the resamples; the same seed gives the same interval.

    Raises:
        DataError: if the two have no common shape (S, Q), are empty or not finite, or ``draws`` is
            no integer of at least 1.

    Example:
        >>> a = np.array([[0.75, 0.5, 0.25]])
        >>> paired_difference(a, a - 0.25)
        PairedDifference(mean=0.25, low=0.25, high=0.25, seeds=1, queries=3)
    """
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if a.ndim != 2 or a.shape != b.shape or a.size == 0:
        raise DataError(f"a and b must both be (seeds, queries), not {a.shape} and {b.shape}")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise DataError("a and b must be finite: leave out queries that do not count")
    check_integer("draws", draws, 1)
    difference_SQ = a - b
    least, most = difference_SQ.min(), difference_SQ.max()
    means = _resample_means(difference_SQ, draws, np.random.default_rng(seed)).clip(least, most)
    low, high = np.quantile(means, ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
    mean = float(difference_SQ.mean().clip(least, most))
    return PairedDifference(mean, float(low), float(high), *a.shape)


def _resample_means(difference_SQ: Floats, draws: int, random: np.random.Generator) -> Floats:
    """Return the means of ``draws`` resamples: (draws,)."""
    seeds, queries = difference_SQ.shape
    means, block = [], max(1, _BLOCK // queries)
    for start in range(0, draws, block):
        count = min(block, draws - start)
        drawn = random.integers(seeds, size=(count, seeds))
        share = (drawn[:, :, None] == np.arange(seeds)).mean(axis=1)  # (count, S)
        by_query = share @ difference_SQ if seeds > 1 else difference_SQ.repeat(count, axis=0)
        picked = random.integers(queries, size=(count, queries))
        means.append(np.take_along_axis(by_query, picked, axis=1).mean(axis=1))
    return np.concatenate(means)
