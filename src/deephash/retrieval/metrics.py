"""What a ranking by Hamming distance is worth: average precision, precision, recall.

A Hamming distance takes K + 1 values, so most items are tied with others, and the order within a
tie, which is an accident, moves mAP by points. The default is therefore the exact mean over all
orders of the tied items, in closed form: McSherry & Najork, ECIR 2008; He et al., CVPR 2018. The
cut inside a tie is derived in :func:`_segment` and :func:`_mixture`.

``Q`` queries, ``N`` database items, ``R`` cut-off, ``G`` groups of tied items.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from deephash.errors import DataError
from deephash.retrieval.codes import Array
from deephash.retrieval.histograms import Histograms
from deephash.retrieval.ranking import Ranking

Floats = npt.NDArray[np.float64]

TIES = ("expected", "stable", "shuffled", "best", "worst")
DENOMINATORS = ("hits", "min", "total", "R")
EMPTY = ("zero", "skip_retrieved_none", "skip_no_relevant", "skip_unlabelled")
_ORDERED = ("stable", "shuffled")  # the policies that need the ranking itself


@dataclass(frozen=True)
class Convention:
    """Which of the numbers called mAP is meant.

    With r_k whether the k-th item is relevant and c_k the relevant items up to it,
    AP@R = sum over k <= R of r_k c_k / k, divided by what ``denominator`` names.

    Args:
        top: R, how many of the nearest items are judged; None for all.
        ties: The order of equally distant items. ``expected``: the mean over all orders.
            ``stable``: as in the database. ``shuffled``: as in the database, shuffled once with
            ``seed``. ``best``, ``worst``: relevant items first, or last; for the denominator
            ``hits`` under a cut these are not the true bounds.
        denominator: ``hits``: the relevant items among the first R, as HashNet's code and its heirs
            have it. ``min``: the smaller of R and the relevant items in the database, T. ``total``:
            T. ``R``: R. Without a cut the first three are one.
        empty: Queries left out of the mean. ``zero``: none. ``skip_retrieved_none``: those without
            a relevant item among the first R. ``skip_no_relevant``: those without one in the
            database. ``skip_unlabelled``: those without a label. All others count, with AP 0 if
            nothing is found.
        seed: Of ``shuffled``.

    Raises:
        DataError: if a value is not allowed, or if ``expected`` meets a cut and
            ``skip_retrieved_none``: which queries count would then depend on the order.
    """

    top: int | None = None
    ties: str = "expected"
    denominator: str = "hits"
    empty: str = "zero"
    seed: int = 0

    def __post_init__(self) -> None:
        for name, allowed in (("ties", TIES), ("denominator", DENOMINATORS), ("empty", EMPTY)):
            if getattr(self, name) not in allowed:
                raise DataError(
                    f"{name}={getattr(self, name)!r} is unknown; allowed: {', '.join(allowed)}"
                )
        if self.top is not None and not _whole(self.top, least=1):
            raise DataError(
                f"top={self.top!r} must be a whole number of at least 1, or None for all"
            )
        if not _whole(self.seed, least=0):
            raise DataError(f"seed={self.seed!r} must be a whole number of at least 0")
        if (self.ties, self.empty) == ("expected", "skip_retrieved_none") and self.top is not None:
            raise DataError(
                "empty=skip_retrieved_none with ties=expected and a cut: whether a query finds "
                "anything depends on the order of ties. Use ties=stable, or another empty"
            )

    @property
    def name(self) -> str:
        """``mAP@all``, or for instance ``mAP@1000``."""
        return f"mAP@{'all' if self.top is None else self.top}"

    def cut(self, size: int) -> int:
        """R for a database of ``size`` items.

        Raises:
            DataError: if ``top`` is more than there are.
        """
        if self.top is not None and self.top > size:
            raise DataError(f"{self.name} asks for more than the {size} items of the database")
        return size if self.top is None else self.top


class MapResult(NamedTuple):
    """A mean average precision, and how many queries it is silent about."""

    value: float  # 0 if no query is counted
    queries_counted: int
    queries_without_relevant: int  # in the whole database
    queries_without_hits: int  # among the first R; with expected ties, whatever their order


class WithinRadius(NamedTuple):
    """Precision within a Hamming ball, under both conventions for balls without an item."""

    mean_zero: float  # an empty ball has precision 0
    mean_nonempty: float  # an empty ball is left out; 0 if all are empty
    empty_fraction: float


@dataclass(frozen=True)
class PrecisionRecall:
    """Precision and recall of the Hamming balls of radius 0..K; no tie can touch them.

    Macro: the mean over queries, an empty ball having precision 0, and recall over the queries that
    have relevant items. Micro: all balls poured together.
    """

    precision_macro: Floats  # (K + 1,)
    recall_macro: Floats  # (K + 1,)
    precision_micro: Floats  # (K + 1,)
    recall_micro: Floats  # (K + 1,)
    empty_fraction: Floats  # (K + 1,) queries whose ball holds nothing


def average_precision(measured: Histograms | Ranking, convention: Convention) -> Floats:
    """AP@R of each query, 0 for those that find nothing.

    >>> two_hits_one_miss_all_tied = Histograms(np.array([[3]]), np.array([[2]]))
    >>> average_precision(two_hits_one_miss_all_tied, Convention()).round(4)  # 1, 5/6, 7/12
    array([0.8056])

    Args:
        measured: What the queries met. For the ties ``stable`` and ``shuffled`` it must be a
            ranking.
        convention: Which AP.

    Returns:
        (Q,) float64.

    Raises:
        DataError: if R is more than the database holds, or the order is asked of histograms.
    """
    return _judge(measured, convention).precision_Q


def mean_average_precision(measured: Histograms | Ranking, convention: Convention) -> MapResult:
    """The mean of AP@R over the queries that the convention counts.

    Args:
        measured: What the queries met. For the ties ``stable`` and ``shuffled`` it must be a
            ranking.
        convention: Which mAP.

    Returns:
        The mean, and the numbers of queries behind it.

    Raises:
        DataError: if R is more than the database holds, or the order is asked of histograms.
    """
    judged = _judge(measured, convention)
    labelled = measured.labelled
    counted_Q = {
        "zero": np.ones(measured.queries, dtype=np.bool_),
        "skip_retrieved_none": judged.hits_Q > 0,
        "skip_no_relevant": judged.total_Q > 0,
        "skip_unlabelled": np.ones(measured.queries, np.bool_) if labelled is None else labelled,
    }[convention.empty]
    return MapResult(
        value=_mean(judged.precision_Q[counted_Q]),
        queries_counted=int(counted_Q.sum()),
        queries_without_relevant=int((judged.total_Q == 0).sum()),
        queries_without_hits=int((judged.hits_Q == 0).sum()),
    )


def precision_at(hist: Histograms, cuts: Sequence[int], ties: str = "expected") -> dict[int, float]:
    """The part of the first N items that is relevant, meaned over all queries, for each N.

    Args:
        hist: What the queries met.
        cuts: The N.
        ties: ``expected``, ``best`` or ``worst``.

    Returns:
        N -> P@N.

    Raises:
        DataError: if an N is less than 1 or more than the database holds, or ties are not allowed.
    """
    return {cut: _mean(hits_Q / cut) for cut, hits_Q in _hits_at(hist, cuts, ties).items()}


def recall_at(hist: Histograms, cuts: Sequence[int], ties: str = "expected") -> dict[int, float]:
    """The part of the relevant items that is among the first N, for each N.

    The mean over queries that have relevant items; 0 if none has.

    Args:
        hist: What the queries met.
        cuts: The N.
        ties: ``expected``, ``best`` or ``worst``.

    Returns:
        N -> recall@N.

    Raises:
        DataError: if an N is less than 1 or more than the database holds, or ties are not allowed.
    """
    total_Q = hist.relevant.sum(axis=1)
    some = total_Q > 0
    return {
        cut: _mean(hits_Q[some] / total_Q[some])
        for cut, hits_Q in _hits_at(hist, cuts, ties).items()
    }


def precision_within_radius(hist: Histograms, radius: int = 2) -> WithinRadius:
    """The part of the items at most ``radius`` bits away that is relevant.

    Args:
        hist: What the queries met.
        radius: Of the ball; one of K or more holds the whole database.

    Returns:
        The mean with empty balls as 0, the mean without them, and how many there are.

    Raises:
        DataError: if the radius is no whole number of at least 0.
    """
    if not _whole(radius, least=0):
        raise DataError(f"radius={radius!r} must be a whole number of at least 0")
    items_Q = hist.items[:, : radius + 1].sum(axis=1)
    hits_Q = hist.relevant[:, : radius + 1].sum(axis=1)
    filled = items_Q > 0
    return WithinRadius(
        mean_zero=_mean(_ratio(hits_Q, items_Q)),
        mean_nonempty=_mean(hits_Q[filled] / items_Q[filled]),
        empty_fraction=_mean(~filled),
    )


def pr_curve_by_radius(hist: Histograms) -> PrecisionRecall:
    """Precision and recall as the Hamming ball grows from radius 0 to K."""
    items_QK, hits_QK = hist.items.cumsum(axis=1), hist.relevant.cumsum(axis=1)
    some = hits_QK[:, -1] > 0
    recall_QK = _ratio(hits_QK[some], hits_QK[some, -1:])
    items_K, hits_K = items_QK.sum(axis=0), hits_QK.sum(axis=0)
    return PrecisionRecall(
        precision_macro=_ratio(hits_QK, items_QK).mean(axis=0),
        recall_macro=recall_QK.mean(axis=0) if some.any() else np.zeros(hist.nbit + 1),
        precision_micro=_ratio(hits_K, items_K),
        recall_micro=_ratio(hits_K, hits_K[-1]),
        empty_fraction=(items_QK == 0).mean(axis=0),
    )


class _Judged(NamedTuple):
    precision_Q: Floats  # AP@R
    total_Q: Array  # T, relevant items in the database
    hits_Q: Array  # c_R; with expected ties, the most that an order can give


def _judge(measured: Histograms | Ranking, convention: Convention) -> _Judged:
    if convention.ties not in _ORDERED:
        hist = Histograms.of(measured) if isinstance(measured, Ranking) else measured
        return _judge_groups(_settled(hist, convention.ties), convention)
    if not isinstance(measured, Ranking):
        raise DataError(
            f"ties={convention.ties} needs the order of the database, which histograms forget: "
            "give the Ranking"
        )
    if convention.ties == "shuffled":
        measured = measured.shuffled(convention.seed)
    return _judge_order(measured, convention)


def _judge_order(ranking: Ranking, convention: Convention) -> _Judged:
    """The definition itself, on the one order that the ranking has."""
    top = convention.cut(ranking.size)
    sum_Q = np.empty(ranking.queries)
    total_Q = np.empty(ranking.queries, dtype=np.int64)
    hits_Q = np.empty_like(total_Q)
    for query in range(ranking.queries):
        position = ranking.positions(query)
        found = position[position < top]
        total_Q[query], hits_Q[query] = len(position), len(found)
        sum_Q[query] = (np.arange(1, len(found) + 1) / (found + 1)).sum()
    return _Judged(_divided(sum_Q, hits_Q, total_Q, top, convention.denominator), total_Q, hits_Q)


def _judge_groups(hist: Histograms, convention: Convention) -> _Judged:
    """The mean over all orders within the groups of a histogram."""
    top = convention.cut(hist.size)
    harmonic = _harmonic(hist.size)
    items, relevant = hist.items, hist.relevant  # (Q, G)
    before = items.cumsum(axis=1) - items  # N: items in nearer groups
    found = relevant.cumsum(axis=1) - relevant  # A: relevant ones among them
    kept = np.clip(top - before, 0, items)  # t: slots of the group above the cut
    parts_QG = _segment(before, found, items, relevant, kept, harmonic)
    total_Q = relevant.sum(axis=1)
    most_Q = np.minimum(relevant, kept).sum(axis=1)  # c_R, or in a mixed cut group its maximum
    precision_Q = _divided(parts_QG.sum(axis=1), most_Q, total_Q, top, convention.denominator)
    if convention.denominator == "hits":
        mixed_QG = (kept > 0) & (kept < items) & (relevant > 0) & (relevant < items)
        for query, group in np.argwhere(mixed_QG):  # at most one group of each query is cut
            at = (query, group)
            precision_Q[query] = _mixture(
                float(parts_QG[query, :group].sum()),
                int(before[at]), int(found[at]), int(items[at]), int(relevant[at]), int(kept[at]),
                harmonic,
            )  # fmt: skip
    return _Judged(precision_Q, total_Q, most_Q)


def _segment(
    before: Any, found: Any, items: Any, relevant: Any, kept: Any, harmonic: Floats
) -> Any:
    """What the first ``kept`` slots of a tie group give to sum r_k c_k / k, on average.

    With N items before the group, A of them relevant, and r of its n items relevant: slot j holds a
    relevant item with probability r / n, and given that, each of the j - 1 slots above it with
    probability (r - 1) / (n - 1). So its part is r/n (A + 1 + (j - 1)(r - 1)/(n - 1)) / (N + j).
    Summed over j = 1..t, with h = 1/(N + 1) + ... + 1/(N + t):

        r/n ((A + 1) h + (r - 1)/(n - 1) (t - (N + 1) h))
    """
    h = harmonic[before + kept] - harmonic[before]
    share = relevant / np.maximum(items, 1)
    others = (relevant - 1) / np.maximum(items - 1, 1)
    return share * ((found + 1) * h + others * (kept - (before + 1) * h))


def _mixture(
    nearer: float,
    before: int,
    found: int,
    items: int,
    relevant: int,
    kept: int,
    harmonic: Floats,
) -> float:
    """E[AP@R] over hits, the cut leaving ``kept`` of the slots of a group of mixed relevance.

    How many hits x those slots hold is hypergeometric; given x their order is again uniform, so the
    slots are a group of ``kept`` items, x of them relevant, and the denominator is found + x.
    Neighbouring probabilities have a simple ratio, whose logarithms add up without overflow.
    """
    x = np.arange(max(0, kept - items + relevant), min(relevant, kept) + 1)
    now = x[:-1]
    ratio = (relevant - now) * (kept - now) / ((now + 1) * (items - relevant - kept + now + 1))
    log_weight = np.concatenate([[0.0], np.log(ratio).cumsum()])
    weight = np.exp(log_weight - log_weight.max())
    total = nearer + _segment(before, found, kept, x, kept, harmonic)
    return float((weight * _ratio(total, found + x)).sum() / weight.sum())


def _settled(hist: Histograms, ties: str) -> Histograms:
    """The groups within which the order is left to chance: all for ``expected``, else pure ones."""
    if ties == "expected":
        return hist
    other_QK = hist.items - hist.relevant
    halves = [(hist.relevant, hist.relevant), (other_QK, np.zeros_like(other_QK))]
    if ties == "worst":
        halves.reverse()
    items, relevant = (
        np.stack(pair, axis=2).reshape(hist.queries, -1) for pair in zip(*halves, strict=True)
    )
    return Histograms(items, relevant, hist.labelled)


def _hits_at(hist: Histograms, cuts: Sequence[int], ties: str) -> dict[int, Floats]:
    """The expected relevant items of each query (Q,) among the first of each cut."""
    if ties in _ORDERED or ties not in TIES:
        raise DataError(f"ties={ties!r}: histograms can tell expected, best and worst")
    settled = _settled(hist, ties)
    before = settled.items.cumsum(axis=1) - settled.items
    share = _ratio(settled.relevant, settled.items)
    hits = {}
    for cut in cuts:
        if not _whole(cut, least=1) or cut > hist.size:
            raise DataError(f"a cut of {cut!r} is not within 1..{hist.size}, the database's items")
        hits[int(cut)] = (np.clip(cut - before, 0, settled.items) * share).sum(axis=1)
    return hits


def _divided(sum_Q: Floats, hits_Q: Array, total_Q: Array, top: int, denominator: str) -> Floats:
    by = {
        "hits": hits_Q,
        "min": np.minimum(total_Q, top),
        "total": total_Q,
        "R": np.full_like(total_Q, top),
    }
    return _ratio(sum_Q, by[denominator])


def _harmonic(size: int) -> Floats:
    """H_0..H_size, (size + 1,)."""
    return np.concatenate([[0.0], (1 / np.arange(1, size + 1)).cumsum()])


def _ratio(part: Any, whole: Any) -> Floats:
    """Element by element, 0 where the whole is 0."""
    return np.where(whole > 0, part / np.maximum(whole, 1), 0.0)


def _mean(values: Array) -> float:
    return float(values.mean()) if len(values) else 0.0


def _whole(value: object, least: int) -> bool:
    whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    return whole and int(value) >= least  # type: ignore[call-overload]
