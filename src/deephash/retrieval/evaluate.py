"""Evaluate codes: metrics, with the conventions that they are computed under."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from deephash.errors import DataError
from deephash.retrieval.backends import Engine
from deephash.retrieval.checks import check_choice
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
    recentre,
    undecided,
    unpack,
)
from deephash.retrieval.conventions import Convention
from deephash.retrieval.distance_counts import Histograms
from deephash.retrieval.instances import LANDMARKS, LANDMARKS_TOP, InstanceRanking, gldv2
from deephash.retrieval.metrics import average_precision_within_radius, map_under
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
from deephash.retrieval.revisited import CUTS as REVISITED_CUTS
from deephash.retrieval.revisited import revisited
from deephash.utils.ground_truth import GroundTruth

PROTOCOLS = ("revisited", "gldv2")

CUTS = (1, 5, 10, 50, *range(100, 1001, 100))  # N of P@N and the like; HashNet's plots: from 100
_RANKS = 200  # places of the precision-recall curve by rank
_BOUNDS = ("expected", "stable", "best", "worst")  # policies of ties in a full report

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
"""Keys of a full report beside mAP that need labels."""


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

    The result has ``map`` under the convention and ``map_min`` with the denominator ``min``. If
    full, it also has

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
        A dictionary with ``map``, ``map_min`` and, if full, the values above.

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
    report: dict[str, Any] = {"map": None, "map_min": None}
    if query_labels is not None:
        conventions = {"map": convention, "map_min": replace(convention, denominator="min")}
        if full:
            conventions = _further_conventions(convention, tops) | conventions
        results = dict(
            zip(conventions, map_under(ranking, list(conventions.values())), strict=True)
        )
        values = {name: result.value for name, result in results.items()}
        report = {name: values[name] for name in report}
    if not full:
        return report
    hist = Histograms.of(ranking)
    if ternary is not None:  # every entry differs in 0, 2 or 4 of its four bits
        hist = replace(hist, items=hist.items[:, ::2], relevant=hist.relevant[:, ::2])
    step = 1 if ternary is None else 0.5  # bits from one distance to the next
    relevance = "at least one shared label"
    if query_labels is None:
        top = convention.cut(int(ranking.sizes.max()))
        relevance = "unknown: there are no labels"
        report |= _without_labels(hist, tops, step)
    else:
        top = convention.cut(hist.size)
        cuts = sorted(cut for cut in {*CUTS, *tops} if cut <= hist.size)
        report |= {
            "map_at": {str(R): values[str(R)] for R in tops},
            "ties": {name: values.get(name) for name in _BOUNDS},
        }
        report |= _curves(hist, cuts, step)
        if not ranking.single:
            report["graded"] = _graded(ranking, cuts)
        report |= {
            name: getattr(results["map"], name)
            for name in ("queries_counted", "queries_without_relevant", "queries_without_hits")
        }
    report["codes"] = describe_codes(database, database_labels, nbit=nbit, engine=engine)
    if own is not None:
        report["queries_in_database"] = int((ranking.sizes < ranking.size).sum())
    return report | _summary(
        ranking,
        ranking.nbit if ternary is None else ranking.nbit // 4,
        {
            "metric": convention.name,
            "top": top,
            "ties": convention.ties,
            "seed": convention.seed if convention.ties == "shuffled" else None,
            "denominator": convention.denominator,
            "empty": convention.empty,
            "bit": "z >= 0" if ternary is None else f"z >= 0, undecided if |z| < {ternary}",
            "ternary": ternary,
            "relevance": relevance,
            "curves": "expected ties",  # all metrics but mAP
            "family": convention.family,
            "own": None if own is None else "excluded",
        },
    )


def evaluate_instances(
    query: ArrayLike,
    database: ArrayLike,
    truth: GroundTruth,
    protocol: str,
    *,
    ties: str = "expected",
    seed: int = 0,
    centred: bool = False,
    full: bool = True,
    nbit: int | None = None,
    engine: Engine | str = "auto",
) -> dict[str, Any]:
    """Evaluate codes on instance retrieval; the result is a dictionary that json can write.

    Args:
        query: codes of the queries, as of :func:`evaluate_codes`.
        database: codes of the database.
        truth: of these queries and this database.
        protocol: ``revisited``, see :func:`revisited`; or ``gldv2``, see :func:`gldv2`.
        ties: as of a :class:`Convention`.
        seed: of ``shuffled``.
        centred: subtract the mean code of the database before the bits are taken, see
            :func:`recentre`.
        full: whether to compute mAP under the other policies of ties too, of which ``stable`` takes
            several times as long as ``expected``.
        nbit: K of packed codes; None: the codes are not packed.
        engine: the backend; all return the same numbers.

    Returns:
        ``setups``, by name: of ``revisited`` ``map``, ``precision_at`` (mP@k, by k as text),
        ``queries_counted`` and ``queries_skipped``; of ``gldv2`` ``map`` by ``gld-official`` and
        ``gld-fire``, ``queries_counted`` and ``queries_without_relevant``. If full, also ``ties``:
        the same ``map`` under each policy. In addition the numbers of queries, items and bits, and
        ``conventions``. All are fractions, not percent.

    Raises:
        DataError: if codes are malformed, do not fit the truth, or cannot be centred; or if the
            protocol or the policy of ties is unknown.

    Example:
        >>> query = np.array([[1.0, 1.0]])
        >>> database = np.array([[1.0, 1.0], [1.0, -1.0], [-1.0, -1.0]])
        >>> truth = GroundTruth.of(size=3, relevant={"hard": [[1]]}, junk={"hard": [[0]]})
        >>> report = evaluate_instances(query, database, truth, "revisited")
        >>> report["setups"]["hard"]["map"]
        1.0
    """
    check_choice("protocol", protocol, PROTOCOLS)
    backend = Engine.of(engine).for_device_of(query)
    if centred:
        if nbit is not None:
            raise DataError("packed codes cannot be centred: give real-valued ones")
        database, query = recentre(database, query)
    query_codes, database_codes, nbit = _packed_sides(query, database, nbit)
    ranking = InstanceRanking(
        query_codes, database_codes, truth, nbit, next(iter(truth.setups)), backend
    )
    measure = _revisited if protocol == "revisited" else _gldv2
    setups = {}
    for name in truth.setups:
        under = ranking.under(name)
        policies = dict.fromkeys((ties, *_BOUNDS) if full else (ties,))
        results = {policy: measure(under, policy, seed) for policy in policies}
        setups[name] = dict(results[ties])
        if full:
            setups[name]["ties"] = {policy: results[policy]["map"] for policy in _BOUNDS}
    conventions: dict[str, Any] = {
        "protocol": protocol,
        "ties": ties,
        "seed": seed if ties == "shuffled" else None,
        "bit": "z >= mean z of the database" if centred else "z >= 0",
        "centred": centred,
        "relevance": "lists of the ground truth",
    }
    if protocol == "revisited":
        conventions |= {
            "metric": "mAP@all by trapezoids",
            "junk": "taken out of the ranking",
            "empty": "skip_no_relevant",
            "precision_at": "of the first min(k, place of the last relevant item)",
        }
    else:
        conventions |= {
            "metric": f"mAP@{min(LANDMARKS_TOP, ranking.size)}",
            "denominator": {name: Convention.named(name).denominator for name in LANDMARKS},
            "empty": Convention.named(LANDMARKS[0]).empty,
        }
    return {"setups": setups} | _summary(ranking, nbit, conventions)


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
        query: codes of the queries, as of :func:`evaluate_codes`.
        database: codes of the database.
        query_labels: (Q, C) multi-hot, or (Q,) class indices; None if there are no labels.
        database_labels: (N, C) multi-hot, or (N,) class indices; None if there are no labels.
            Then nothing is relevant to any query.
        ternary: entries with ``|z|`` below it are undecided. The codes then have 4 K bits, and
            distances are four times those of :func:`evaluate_codes`. None: bits.
        nbit: K of packed codes; None: the codes are not packed.
        own: (Q,) index of each query in the database, as of :class:`Ranking`.
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
    if (query_labels is None) != (database_labels is None):
        raise DataError("only one side has labels: give those of both, or None for both")
    query_codes, database_codes, wide = _packed_sides(query, database, nbit, ternary)
    if query_labels is None or database_labels is None:
        query_labels, database_labels = (
            np.zeros((len(codes), 1), dtype=np.bool_) for codes in (query_codes, database_codes)
        )
    backend = Engine.of(engine).for_device_of(query)
    return Ranking(
        query_codes, database_codes, query_labels, database_labels, wide, backend, own=own
    )


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
    backend, values = Engine.of(engine).for_device_of(codes), as_array(codes)
    bits = _bits(values, nbit)
    statistics = bit_statistics(bits)._asdict()
    del statistics["entropies"]  # follow from ``ones``
    report: dict[str, Any] = {"quantization": None}
    if nbit is None and values.dtype != np.bool_:
        report["quantization"] = _or_none(lambda: quantization_error(values))
    if labels is None:
        report |= dict.fromkeys(("orthogonality", "separability", "histograms"))
        report["distances"] = _or_none(lambda: pair_distances(bits, engine=backend))
    else:
        label_array(labels, len(bits), "labels")
        report["orthogonality"] = _or_none(lambda: orthogonality(bits, labels))
        report["separability"] = _or_none(lambda: separability(bits, labels))
        report["histograms"] = _or_none(lambda: distance_histograms(bits, labels, engine=backend))
    return report | {
        "bit_correlation": bit_correlation(bits),
        "bits": statistics | {"ones": statistics["ones"].tolist()},
    }


def _summary(ranking: Ranking, nbit: int, conventions: dict[str, Any]) -> dict[str, Any]:
    """Return what every full report contains about its data and its conventions."""
    return {
        "queries": ranking.queries,
        "database": ranking.size,
        "nbit": nbit,
        "conventions": conventions | {"stable_order": "database order"},
    }


def _further_conventions(convention: Convention, tops: Sequence[int]) -> dict[str, Convention]:
    """Return the conventions of a full report with other R, and with other ties."""
    conventions = {str(R): replace(convention, top=R, drop_last=False) for R in tops}
    cut = convention.top is not None or convention.drop_last
    random = cut and convention.empty == "skip_retrieved_none"  # which queries count, if expected
    for ties in _BOUNDS:
        if ties != "expected" or not random:
            conventions[ties] = replace(convention, ties=ties)
    return conventions


def _without_labels(hist: Histograms, tops: Sequence[int], step: float) -> dict[str, Any]:
    """Return the metrics of a full report without labels: None for those that need labels."""
    counts, distance = hist.items, step * np.arange(hist.nbit + 1)
    share = counts.sum(axis=0) / counts.sum()
    near = counts[:, distance <= 2].sum(axis=1)
    nearest = distance[(counts > 0).argmax(axis=1)]
    return {
        "map_at": {str(R): None for R in tops},
        "ties": dict.fromkeys(_BOUNDS),
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
    }


def _curves(hist: Histograms, cuts: Sequence[int], step: float) -> dict[str, Any]:
    """Return all metrics of histograms but mAP; ``step`` bits from one distance to the next."""
    radius = round(2 / step)
    by_radius = pr_curve_by_radius(hist)
    ranks = np.unique(np.geomspace(1, hist.size, _RANKS).round().astype(int)).tolist()
    by_rank = pr_curve_by_rank(hist, ranks)
    return {
        "precision_within_radius_2": precision_within_radius(hist, radius)._asdict(),
        "map_within_radius_2": average_precision_within_radius(hist, radius)._asdict(),
        "recall_within_radius_2": recall_within_radius(hist, radius),
        "precision_at": _text_keys(precision_at(hist, cuts)),
        "recall_at": _text_keys(recall_at(hist, cuts)),
        "hit_rate_at": _text_keys(hit_rate_at(hist, cuts)),
        "pr_curve": {"radius": [step * distance for distance in range(hist.nbit + 1)]}
        | _plain(by_radius),
        "pr_curve_by_rank": _plain(by_rank),
    }


def _graded(ranking: Ranking, cuts: Sequence[int]) -> dict[str, Any]:
    graded = GradedHistograms.of(ranking)
    return {
        "gain": graded.gain,
        "acg_at": _text_keys(acg_at(graded, cuts)),
        "ndcg_at": _text_keys(ndcg_at(graded, cuts)),
        "wmap_at": _text_keys(wmap_at(graded, cuts)),
    }


def _revisited(ranking: InstanceRanking, ties: str, seed: int) -> dict[str, Any]:
    result = revisited(ranking, ties, seed, REVISITED_CUTS)
    return result._asdict() | {"precision_at": _text_keys(result.precision_at)}


def _gldv2(ranking: InstanceRanking, ties: str, seed: int) -> dict[str, Any]:
    results = gldv2(ranking, ties, seed)
    any_result = results[LANDMARKS[0]]  # the counts are the same for both
    return {
        "map": {name: result.value for name, result in results.items()},
        "queries_counted": any_result.queries_counted,
        "queries_without_relevant": any_result.queries_without_relevant,
    }


def _text_keys(values: dict[int, float]) -> dict[str, float]:
    return {str(cut): value for cut, value in values.items()}


def _plain(result: Any) -> dict[str, Any]:
    """Return a named tuple as a dictionary of values that json can write."""
    return {
        name: value.tolist() if isinstance(value, np.ndarray) else value
        for name, value in result._asdict().items()
    }


def _or_none(measure: Callable[[], Any]) -> dict[str, Any] | None:
    """Return a measure as a dictionary, None if it is not defined for the codes."""
    try:
        return _plain(measure())
    except UndefinedError:
        return None


def _packed_sides(
    query: ArrayLike, database: ArrayLike, nbit: int | None, ternary: float | None = None
) -> tuple[Array, Array, int]:
    """Return packed codes of both sides and their number of bits: K, or 4 K of ternary codes."""
    sides = {"query": as_array(query), "database": as_array(database)}
    decided = nbit is not None or any(values.dtype == np.bool_ for values in sides.values())
    if ternary is not None and decided:
        raise DataError(f"ternary={ternary} needs real-valued codes: bits are decided")
    if nbit is not None:
        return sides["query"], sides["database"], nbit  # checked by Ranking
    bits = {side: _bits(values, None) for side, values in sides.items()}
    widths = [values.shape[1] for values in bits.values()]
    if widths[0] != widths[1]:
        raise DataError(f"queries have {widths[0]} bits, the database {widths[1]}")
    if ternary is None:
        return pack(bits["query"]), pack(bits["database"]), widths[0]
    packed = [
        pack_ternary(bits[side], undecided(values, ternary), side) for side, values in sides.items()
    ]
    return packed[0], packed[1], 4 * widths[0]


def _bits(codes: Array, nbit: int | None) -> Array:
    if nbit is not None:
        return unpack(codes, nbit)
    return bit_matrix(codes, "codes") if codes.dtype == np.bool_ else binarize(codes)
