"""Codes in, numbers out, together with the conventions they were measured under."""

from dataclasses import replace
from typing import Any

import numpy as np

from deephash.errors import DataError
from deephash.retrieval.codes import (
    ArrayLike,
    as_array,
    binarize,
    check_threshold,
    pack,
    pack_ternary,
    undecided,
)
from deephash.retrieval.conventions import Convention
from deephash.retrieval.curves import pr_curve_by_radius, precision_at, precision_within_radius
from deephash.retrieval.histograms import Histograms
from deephash.retrieval.metrics import mean_average_precision
from deephash.retrieval.ranking import Ranking

PRECISION_AT = tuple(range(100, 1001, 100))  # as the HashNet family plots it


def evaluate_codes(
    query: ArrayLike,
    database: ArrayLike,
    query_labels: ArrayLike,
    database_labels: ArrayLike,
    convention: Convention | None = None,
    *,
    full: bool = True,
    ternary: float | None = None,
) -> dict[str, Any]:
    """Measure how well codes retrieve, as a dictionary that json can write.

    Args:
        query: (Q, K) real-valued codes, or bool bits.
        database: (N, K) real-valued codes, or bool bits.
        query_labels: (Q, C) multi-hot, or (Q,) class indices.
        database_labels: (N, C) multi-hot, or (N,) class indices.
        convention: Which mAP; mAP@all with expected ties if not said.
        full: Whether to measure all; without, only ``map`` and ``map_min``, which is cheap.
        ternary: Entries with ``|z|`` below it are neither bit, and the distance is
            1/2 (K - <a, b>) over +1, 0, -1: DPN-T, Fan et al., IJCAI 2020. None: bits.

    Returns:
        ``map`` under the convention and ``map_min`` with the denominator ``min``; if full, also
        ``ties`` (mAP under each policy, None where the convention forbids it),
        ``precision_within_radius_2``, ``precision_at`` (by N, as text; those N that the database
        has), ``pr_curve`` by radius in bits, the numbers of queries, items and bits, and
        ``conventions``.

    Raises:
        DataError: if codes or labels are malformed or contradict each other, a side is empty, R is
            more than the database holds, or ``ternary`` meets bits or is no number of at least 0.
    """
    convention = Convention() if convention is None else convention
    ternary = None if ternary is None else check_threshold(ternary)
    query_bits, database_bits = _bits(query, ternary), _bits(database, ternary)
    packed = pack(query_bits), pack(database_bits)
    if query_bits.shape[1] != database_bits.shape[1]:
        raise DataError(
            f"queries have {query_bits.shape[1]} bits, the database {database_bits.shape[1]}"
        )
    nbit = query_bits.shape[1]
    if ternary is not None:
        packed = (
            pack_ternary(query_bits, undecided(query, ternary), "query"),
            pack_ternary(database_bits, undecided(database, ternary), "database"),
        )
    ranking = Ranking(*packed, query_labels, database_labels, nbit if ternary is None else 4 * nbit)
    top = convention.cut(ranking.size)
    hist = Histograms.of(ranking)
    if ternary is not None:  # every entry differs in 0, 2 or 4 of its four bits
        hist = Histograms(hist.items[:, ::2], hist.relevant[:, ::2], hist.labelled)
    step = 1 if ternary is None else 0.5  # from one distance of the histograms to the next

    def measure(one: Convention) -> Any:
        ordered = one.ties in ("stable", "shuffled")
        return mean_average_precision(ranking if ordered else hist, one)

    result = measure(convention)
    map_min = measure(replace(convention, denominator="min"))
    report = {"map": result.value, "map_min": map_min.value}
    if not full:
        return report

    def under(ties: str) -> float | None:
        if ties == convention.ties:
            return result.value
        cut = convention.top is not None
        if ties == "expected" and cut and convention.empty == "skip_retrieved_none":
            return None  # which queries count would depend on the order
        return measure(replace(convention, ties=ties)).value

    curve = pr_curve_by_radius(hist)
    return report | {
        "ties": {ties: under(ties) for ties in ("expected", "stable", "best", "worst")},
        "precision_within_radius_2": precision_within_radius(hist, round(2 / step))._asdict(),
        "precision_at": {
            str(cut): value
            for cut, value in precision_at(
                hist, [cut for cut in PRECISION_AT if cut <= hist.size]
            ).items()
        },
        "pr_curve": {
            "radius": [step * distance for distance in range(hist.nbit + 1)],
            "precision_macro": curve.precision_macro.tolist(),
            "recall_macro": curve.recall_macro.tolist(),
            "precision_micro": curve.precision_micro.tolist(),
            "recall_micro": curve.recall_micro.tolist(),
            "empty_fraction": curve.empty_fraction.tolist(),
        },
        "queries": hist.queries,
        "database": hist.size,
        "nbit": nbit,
        "queries_counted": result.queries_counted,
        "queries_without_relevant": result.queries_without_relevant,
        "queries_without_hits": result.queries_without_hits,
        "conventions": {
            "metric": convention.name,
            "top": top,
            "ties": convention.ties,
            "seed": convention.seed,
            "denominator": convention.denominator,
            "empty": convention.empty,
            "bit": "z >= 0" + ("" if ternary is None else f", undecided if |z| < {ternary}"),
            "ternary": ternary,
            "stable_order": "database order",
            "relevance": "at least one shared label",
        },
    }


def _bits(codes: ArrayLike, ternary: float | None) -> np.ndarray:
    values = as_array(codes)
    if ternary is not None and values.dtype == np.bool_:
        raise DataError(f"ternary={ternary} needs real-valued codes: bits are decided")
    return values if values.dtype == np.bool_ else binarize(values)
