"""Compare two methods on the same queries: the mean difference and its bootstrap interval.

``S`` seeds, ``Q`` queries.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from deephash.errors import DataError
from deephash.retrieval.codes import whole
from deephash.retrieval.conventions import Convention
from deephash.retrieval.metrics import average_precision
from deephash.retrieval.ranking import Ranking

Floats = npt.NDArray[np.float64]

LEVEL = 0.95
"""Of the interval."""

_PART = 2_000_000  # numbers that are resampled at once


class PairedDifference(NamedTuple):
    """The mean of a - b over seeds and queries, with its bootstrap interval.

    Example:
        >>> PairedDifference(mean=0.02, low=0.01, high=0.03, seeds=3, queries=1000).certain
        True
    """

    mean: float
    low: float  # its 95 % percentile interval
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
        draws: of the bootstrap.
        seed: of the bootstrap: the same seed gives the same interval.

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
        raise DataError(f"a and b must be (seeds, queries) alike, not {a.shape} and {b.shape}")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise DataError("a and b must be finite: leave out queries that do not count")
    if not whole(draws, least=1):
        raise DataError(f"draws={draws!r} must be a whole number of at least 1")
    difference_SQ = a - b
    least, most = difference_SQ.min(), difference_SQ.max()
    means = _resampled(difference_SQ, draws, np.random.default_rng(seed)).clip(least, most)
    low, high = np.quantile(means, ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
    mean = float(difference_SQ.mean().clip(least, most))
    return PairedDifference(mean, float(low), float(high), *a.shape)


def _resampled(difference_SQ: Floats, draws: int, random: np.random.Generator) -> Floats:
    """The means of so many resamples: (draws,)."""
    seeds, queries = difference_SQ.shape
    means, part = [], max(1, _PART // queries)
    for start in range(0, draws, part):
        many = min(part, draws - start)
        drawn = random.integers(seeds, size=(many, seeds))
        share = (drawn[:, :, None] == np.arange(seeds)).mean(axis=1)  # (many, S)
        by_query = share @ difference_SQ if seeds > 1 else difference_SQ.repeat(many, axis=0)
        picked = random.integers(queries, size=(many, queries))
        means.append(np.take_along_axis(by_query, picked, axis=1).mean(axis=1))
    return np.concatenate(means)


def counted_precision(ranking: Ranking, convention: Convention) -> Floats:
    """Compute AP@R of each query, and nan for those that the convention leaves out of the mean.

    The mean of the others is the mAP.

    Args:
        ranking: of the queries.
        convention: the definition of AP, and the queries that count.

    Returns:
        (Q,) float64.

    Example:
        >>> codes = np.array([[0b00], [0b01], [0b11]], np.uint8) << 6
        >>> ranking = Ranking(codes[:2], codes[1:], np.array([5, 7]), np.array([5, 2]), nbit=2)
        >>> counted_precision(ranking, Convention(empty="skip_no_relevant"))
        array([ 1., nan])
    """
    precision_Q = average_precision(ranking, convention)
    counted_Q = {
        "zero": np.ones(ranking.queries, dtype=np.bool_),
        "skip_retrieved_none": precision_Q > 0,  # one hit is enough to be worth something
        "skip_no_relevant": ranking.counts[1].sum(axis=1) > 0,
        "skip_unlabelled": ranking.labelled,
    }[convention.empty]
    return np.where(counted_Q, precision_Q, np.nan)
