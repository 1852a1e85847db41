"""Evaluate codes: metrics, and the conventions that they are computed under."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from deephash.errors import DataError
from deephash.retrieval.backends import Engine
from deephash.retrieval.code_quality import (
    UndefinedError,
    bit_correlation,
    bit_statistics,
    distance_histograms,
    orthogonality,
    pair_distances,
    quantization_error,
    separability,
)
from deephash.retrieval.codes import (
    Array,
    ArrayLike,
    as_array,
    binarize,
    bit_matrix,
    check_threshold,
    pack,
    pack_ternary,
    undecided,
    unpack,
)
from deephash.retrieval.conventions import Convention
from deephash.retrieval.distance_counts import Histograms
from deephash.retrieval.metrics import (
    average_precision_within_radius,
    map_under,
)
from deephash.retrieval.ndcg import GradedHistograms, acg_at, ndcg_at, wmap_at
from deephash.retrieval.packed_codes import label_array
from deephash.retrieval.precision_recall import (
    hit_rate_at,
    pr_curve_by_radius,
    pr_curve_by_rank,
    precision_at,
    precision_within_radius,
    recall_at,
    recall_within_radius,
)
from deephash.retrieval.ranking import Ranking
from deephash.retrieval.self_exclusion import LeaveOneOutRanking

CUTS = (1, 5, 10, 50, *range(100, 1001, 100))  # N of P@N and the like; HashNet's plots: from 100
_RANKS = 200  # places of the precision-recall curve by rank

NO_LABELS = "The images have no labels: mAP and everything else that needs labels was not measured."
"""The sentence of a report without labels."""

_NEED_LABELS = (
    "map_within_radius_2",
    "recall_within_radius_2",
    "precision_at",
    "recall_at",
    "hit_rate_at",
    "pr_curve",
    "pr_curve_by_rank",
    "queries_counted",
    "queries_without_relevant",
    "queries_without_hits",
)
"""What a full report holds beside mAP and cannot tell without labels."""


def evaluate_codes(
    query: ArrayLike,
    database: ArrayLike,
    query_labels: ArrayLike | None,
    database_labels: ArrayLike | None,
    convention: Convention | None = None,
    *,
    full: bool = True,
    ternary: float | None = None,
    tops: Sequence[int] = (),
    nbit: int | None = None,
    own: ArrayLike | None = None,
    engine: Engine | str = "auto",
) -> dict[str, Any]:
    """Evaluate retrieval with codes; the result is a dictionary that json can write.

    Without labels the report has the same keys. Values that need labels are None, ``note`` says so,
    and ``distances`` describes the distances between queries and database.

    Args:
        query: (Q, K) real-valued codes, or bool bits; or with ``nbit`` packed, (Q, ceil(K / 8)).
        database: (N, K) real-valued codes, or bool bits; or with ``nbit`` packed.
        query_labels: (Q, C) multi-hot, or (Q,) class indices; None if there are no labels.
        database_labels: (N, C) multi-hot, or (N,) class indices; None if there are no labels.
        convention: the definition of mAP; None: mAP@all with expected ties.
        full: whether to compute everything, which compares all pairs of the database (of up to
            200,000 items: some 0.5 ns a pair and thread); without, only ``map`` and ``map_min``.
        ternary: entries with ``|z|`` below it are undecided, and the distance is
            1/2 (K - <a, b>) over +1, 0, -1: DPN-T, Fan et al., IJCAI 2020. None: bits.
        tops: additional R for ``map_at``, and N for all metrics at several N.
        nbit: K of packed codes, uint8, the first bit highest; None: the codes are not packed.
        own: (Q,) index of each query in the database, from 0, -1 if it is not in it: it is removed
            from its own ranking. None: a query may retrieve itself.
        engine: the backend; all return the same numbers.

    Returns:
        ``map`` under the convention and ``map_min`` with the denominator ``min``. If full, also

        - ``map_at`` (by R, as text), and ``ties``: mAP under each policy, None where the convention
          forbids it;
        - ``precision_at``, ``recall_at`` and ``hit_rate_at`` (by N, as text; those N that the
          database has), with expected ties;
        - ``precision_within_radius_2``, ``map_within_radius_2``, ``recall_within_radius_2``;
        - ``pr_curve`` by radius in bits, and ``pr_curve_by_rank``;
        - ``graded``, if items have several labels: ``acg_at``, ``ndcg_at`` and ``wmap_at``;
        - ``codes``, :func:`describe_codes` of the database;
        - the numbers of queries, items and bits, and ``conventions``; with ``own`` also
          ``queries_in_database``;
        - without labels ``note``, and ``distances``: the share of pairs of a query and an item at
          each distance, their mean, the mean distance of the nearest item, and the mean number of
          items within radius 2.

    Raises:
        DataError: if codes or labels are malformed or contradict each other, only one side has
            labels, a side is empty, an R is more than the database has, ``ternary`` is used with
            bits or is no number of at least 0, or ``own`` is not one index or -1 for each query.

    Example:
        >>> z = np.array([[1.0, -1.0], [-1.0, -1.0], [-1.0, 1.0]])
        >>> report = evaluate_codes(z[:1], z[1:], np.array([5]), np.array([5, 2]))
        >>> report["map"], report["nbit"], report["conventions"]["metric"]
        (1.0, 2, 'mAP@all')
        >>> report = evaluate_codes(z[:1], z[1:], None, None)
        >>> report["map"], report["distances"]["mean"], report["codes"]["bits"]["balance"]
        (None, 1.5, 0.25)
    """
    convention = Convention() if convention is None else convention
    ternary = None if ternary is None else check_threshold(ternary)
    ranking = rank_codes(
        query,
        database,
        query_labels,
        database_labels,
        ternary=ternary,
        nbit=nbit,
        own=own,
        engine=engine,
    )
    if query_labels is None:
        found: dict[str, Any] = {"map": None, "map_min": None}
        if full:
            found |= _without_labels(ranking, convention, tops, ternary, own is not None)
            found["codes"] = describe_codes(database, None, nbit=nbit, engine=engine)
        return found
    asked = _asked(convention, tops) if full else {}
    asked |= {"map": convention, "map_min": replace(convention, denominator="min")}
    results = dict(zip(asked, map_under(ranking, list(asked.values())), strict=True))
    value = {name: result.value for name, result in results.items()}
    report: dict[str, Any] = {name: value[name] for name in ("map", "map_min")}
    if not full:
        return report
    report |= {
        "map_at": {str(R): value[str(R)] for R in tops},
        "ties": {name: value.get(name) for name in ("expected", "stable", "best", "worst")},
    }
    hist = Histograms.of(ranking)
    if ternary is not None:  # every entry differs in 0, 2 or 4 of its four bits
        hist = replace(hist, items=hist.items[:, ::2], relevant=hist.relevant[:, ::2])
    cuts = sorted(cut for cut in {*CUTS, *tops} if cut <= hist.size)
    report |= _curves(hist, cuts, 1 if ternary is None else 0.5)
    if not ranking.single:
        report["graded"] = _graded(ranking, cuts)
    report["codes"] = describe_codes(database, database_labels, nbit=nbit, engine=engine)
    counted = results["map"]
    if own is not None:
        report["queries_in_database"] = int((ranking.sizes < ranking.size).sum())
    return report | {
        "queries": ranking.queries,
        "database": ranking.size,
        "nbit": ranking.nbit if ternary is None else ranking.nbit // 4,
        "queries_counted": counted.queries_counted,
        "queries_without_relevant": counted.queries_without_relevant,
        "queries_without_hits": counted.queries_without_hits,
        "conventions": _conventions(convention, convention.cut(hist.size), ternary)
        | {"own": None if own is None else "excluded"},
    }


def _asked(convention: Convention, tops: Sequence[int]) -> dict[str, Convention]:
    """What a full report measures beside the convention itself: other R, and other ties."""
    asked = {str(R): replace(convention, top=R, drop_last=False) for R in tops}
    cut = convention.top is not None or convention.drop_last
    random = cut and convention.empty == "skip_retrieved_none"  # which queries count, if expected
    for ties in ("expected", "stable", "best", "worst"):
        if ties != "expected" or not random:
            asked[ties] = replace(convention, ties=ties)
    return asked


def rank_codes(
    query: ArrayLike,
    database: ArrayLike,
    query_labels: ArrayLike | None,
    database_labels: ArrayLike | None,
    *,
    ternary: float | None = None,
    nbit: int | None = None,
    own: ArrayLike | None = None,
    engine: Engine | str = "auto",
) -> Ranking:
    """Rank a database of codes for each query.

    Args:
        query: (Q, K) real-valued codes, or bool bits; or with ``nbit`` packed, (Q, ceil(K / 8)).
        database: (N, K) real-valued codes, or bool bits; or with ``nbit`` packed.
        query_labels: (Q, C) multi-hot, or (Q,) class indices; None if there are no labels.
        database_labels: (N, C) multi-hot, or (N,) class indices; None if there are no labels.
            Then nothing is relevant to any query.
        ternary: entries with ``|z|`` below it are undecided. The codes then have 4 K bits, and
            distances are four times those of :func:`evaluate_codes`. None: bits.
        nbit: K of packed codes; None: the codes are not packed.
        own: (Q,) index of each query in the database, -1 if it is not in it: it is removed from its
            own ranking. None: nothing is removed.
        engine: the backend.

    Raises:
        DataError: if codes or labels are malformed or contradict each other, a side is empty,
            ``ternary`` is used with bits or is no number of at least 0, or ``own`` is not one index
            or -1 for each query.

    Example:
        >>> z = np.array([[1.0, -1.0], [-1.0, -1.0], [-1.0, 1.0]])
        >>> ranking = rank_codes(z[:1], z[1:], np.array([5]), np.array([5, 2]))
        >>> ranking.distances(0).tolist(), ranking.positions(0).tolist()
        ([1, 2], [0])
    """
    bits = _bits(query, ternary, nbit), _bits(database, ternary, nbit)
    wide = bits[0].shape[1]
    if wide != bits[1].shape[1]:
        raise DataError(f"queries have {wide} bits, the database {bits[1].shape[1]}")
    if ternary is None:
        asked, held = (pack(one) for one in bits)
    else:
        asked, held = _undecided(bits, (query, database), ternary)
        wide *= 4
    if (query_labels is None) != (database_labels is None):
        raise DataError("only one side has labels: give those of both, or None for both")
    if query_labels is None or database_labels is None:
        query_labels, database_labels = (
            np.zeros((len(one), 1), dtype=np.bool_) for one in (asked, held)
        )
    near = Engine.of(engine).near(query)
    if own is not None:
        return LeaveOneOutRanking(asked, held, query_labels, database_labels, wide, own, near)
    return Ranking(asked, held, query_labels, database_labels, wide, near)


def describe_codes(
    codes: ArrayLike,
    labels: ArrayLike | None,
    *,
    nbit: int | None = None,
    engine: Engine | str = "auto",
) -> dict[str, Any]:
    """Compute the quality of codes by themselves; the result is a dictionary that json can write.

    Args:
        codes: (N, K) real-valued codes, or bool bits; in the papers those of the database. Or with
            ``nbit`` packed, (N, ceil(K / 8)).
        labels: (N, C) multi-hot, or (N,) class indices; None if there are no labels.
        nbit: K of packed codes; None: the codes are not packed.
        engine: the backend that counts all pairs.

    Returns:
        ``quantization`` (RelaHash, Eqs. 19 to 21), ``orthogonality`` (Eq. 22), ``separability``
        (Eq. 23), ``histograms`` of distances, ``bit_correlation`` and ``bits``; None for values
        that are not defined: quantization of bits or of infinite values, separability of a single
        class, all that need labels if there are none. Without labels also ``distances``, of all
        pairs.

    Raises:
        DataError: if codes or labels are malformed or contradict each other.

    Example:
        >>> z = np.array([[1.0, 1.0], [1.0, 1.0], [-1.0, -1.0]])
        >>> report = describe_codes(z, np.array([0, 0, 1]))
        >>> report["separability"]["value"], report["bits"]["distinct_codes"]
        (2.0, 2)
    """
    near, values = Engine.of(engine).near(codes), as_array(codes)
    real, bits = nbit is None and values.dtype != np.bool_, _bits(values, None, nbit)
    statistics = bit_statistics(bits)._asdict()
    del statistics["entropies"]  # those of ones
    found: dict[str, Any] = {
        "quantization": _if_any(lambda: quantization_error(values)) if real else None
    }
    if labels is None:
        found |= dict.fromkeys(("orthogonality", "separability", "histograms"))
        found["distances"] = _if_any(lambda: pair_distances(bits, engine=near))
    else:
        label_array(labels, len(bits), "labels")
        found["orthogonality"] = _if_any(lambda: orthogonality(bits, labels))
        found["separability"] = _if_any(lambda: separability(bits, labels))
        found["histograms"] = _if_any(lambda: distance_histograms(bits, labels, engine=near))
    return found | {
        "bit_correlation": bit_correlation(bits),
        "bits": statistics | {"ones": statistics["ones"].tolist()},
    }


def _without_labels(
    ranking: Ranking,
    convention: Convention,
    tops: Sequence[int],
    ternary: float | None,
    own: bool,
) -> dict[str, Any]:
    """A full report where no image has a label: the same keys, None for what needs labels."""
    counts, step = ranking.counts[0], 1.0
    if ternary is not None:  # every entry differs in 0, 2 or 4 of its four bits
        counts, step = counts[:, ::2], 0.5
    distance = step * np.arange(counts.shape[1])
    sizes, share = ranking.sizes, counts.sum(axis=0) / counts.sum()
    near = counts[:, distance <= 2].sum(axis=1)
    nearest = distance[(counts > 0).argmax(axis=1)]
    top = convention.cut(int(sizes.max()))
    report: dict[str, Any] = {
        "map_at": {str(R): None for R in tops},
        "ties": dict.fromkeys(("expected", "stable", "best", "worst")),
        "precision_within_radius_2": {
            "mean_zero": None,
            "mean_nonempty": None,
            "empty_fraction": float((near == 0).mean()),
        },
        **dict.fromkeys(_NEED_LABELS),
        "note": NO_LABELS,
        "distances": {
            "distance": distance.tolist(),
            "share": share.tolist(),
            "mean": float(share @ distance),
            "mean_nearest": float(nearest.mean()),
            "mean_within_radius_2": float(near.mean()),
        },
        "queries": ranking.queries,
        "database": ranking.size,
        "nbit": ranking.nbit if ternary is None else ranking.nbit // 4,
        "conventions": _conventions(convention, top, ternary)
        | {"own": "excluded" if own else None, "relevance": "unknown: there are no labels"},
    }
    if own:
        report["queries_in_database"] = int((sizes < ranking.size).sum())
    return report


def _if_any(measure: Callable[[], Any]) -> dict[str, Any] | None:
    """What is measured, None if there is nothing to measure it on."""
    try:
        found = measure()._asdict()
    except UndefinedError:
        return None
    return {
        name: value.tolist() if isinstance(value, np.ndarray) else value
        for name, value in found.items()
    }


def _curves(hist: Histograms, cuts: Sequence[int], step: float) -> dict[str, Any]:
    """All that the histograms tell but mAP; ``step`` bits from one distance to the next."""
    ball = round(2 / step)
    radius = pr_curve_by_radius(hist)
    ranks = np.unique(np.geomspace(1, hist.size, _RANKS).round().astype(int)).tolist()
    rank = pr_curve_by_rank(hist, ranks)
    return {
        "precision_within_radius_2": precision_within_radius(hist, ball)._asdict(),
        "map_within_radius_2": average_precision_within_radius(hist, ball)._asdict(),
        "recall_within_radius_2": recall_within_radius(hist, ball),
        "precision_at": _named(precision_at(hist, cuts)),
        "recall_at": _named(recall_at(hist, cuts)),
        "hit_rate_at": _named(hit_rate_at(hist, cuts)),
        "pr_curve": {"radius": [step * distance for distance in range(hist.nbit + 1)]}
        | {name: values.tolist() for name, values in radius._asdict().items()},
        "pr_curve_by_rank": {name: values.tolist() for name, values in rank._asdict().items()},
    }


def _graded(ranking: Ranking, cuts: Sequence[int]) -> dict[str, Any]:
    graded = GradedHistograms.of(ranking)
    return {
        "gain": graded.gain,
        "acg_at": _named(acg_at(graded, cuts)),
        "ndcg_at": _named(ndcg_at(graded, cuts)),
        "wmap_at": _named(wmap_at(graded, cuts)),
    }


def _named(values: dict[int, float]) -> dict[str, float]:
    return {str(cut): value for cut, value in values.items()}


def _conventions(convention: Convention, top: int, ternary: float | None) -> dict[str, Any]:
    return {
        "metric": convention.name,
        "top": top,
        "ties": convention.ties,
        "seed": convention.seed if convention.ties == "shuffled" else None,
        "denominator": convention.denominator,
        "empty": convention.empty,
        "bit": "z >= 0" + ("" if ternary is None else f", undecided if |z| < {ternary}"),
        "ternary": ternary,
        "stable_order": "database order",
        "relevance": "at least one shared label",
        "curves": "expected ties",  # of all but mAP, whatever its own
        "family": convention.family,
    }


def _bits(codes: ArrayLike, ternary: float | None, nbit: int | None) -> Array:
    values = as_array(codes)
    if ternary is not None and (values.dtype == np.bool_ or nbit is not None):
        raise DataError(f"ternary={ternary} needs real-valued codes: bits are decided")
    if nbit is not None:
        return unpack(values, nbit)
    return bit_matrix(values, "codes") if values.dtype == np.bool_ else binarize(values)


def _undecided(bits: Sequence[Array], z: Sequence[ArrayLike], ternary: float) -> list[Array]:
    """Queries and database packed with four bits for each entry."""
    return [
        pack_ternary(one, undecided(values, ternary), side)
        for one, values, side in zip(bits, z, ("query", "database"), strict=True)
    ]
