"""Evaluate codes on instance retrieval: metrics, and the conventions they are computed under."""

from typing import Any

import numpy as np

from deephash.errors import DataError
from deephash.retrieval.backends import Engine
from deephash.retrieval.codes import Array, ArrayLike, as_array, binarize, bit_matrix, pack
from deephash.retrieval.conventions import Convention
from deephash.retrieval.instances import LANDMARKS, LANDMARKS_TOP, InstanceRanking, gldv2
from deephash.retrieval.revisited import CUTS, revisited
from deephash.utils.ground_truth import GroundTruth

PROTOCOLS = ("revisited", "gldv2")
_BOUNDS = ("expected", "stable", "best", "worst")


def recentre(database: ArrayLike, query: ArrayLike) -> tuple[Array, Array]:
    """Subtract the mean code of the database from both sides: a remedy for a domain shift.

    A hash layer that ends in batch normalisation splits each bit at the mean of the codes that it
    was trained on; in another domain most items are on one side of it. Hoe et al., OrthoHash,
    NeurIPS 2021, supplement D.5, correct this with the scale 1, the shift 0, and for the running
    mean that of the target database's codes before the normalisation. That gives the same bits: if
    z = g (x - m) / s + b, its mean over the database is g (mean x - m) / s + b, so

        z - mean z = g (x - mean x) / s,

    with the sign of x - mean x where g > 0, as s > 0. Where g < 0 the bit is inverted on both sides
    and no distance changes. Where g = 0 the two differ: z is a constant, while the corrected layer
    would make the bit useful again.

    Args:
        database: (N, K) real-valued codes.
        query: (Q, K) real-valued codes of the same layer.

    Returns:
        (N, K) and (Q, K), copies.

    Raises:
        DataError: if codes are not real-valued matrices of one K, the database is empty, or a mean
            is not finite.

    Example:
        >>> database, query = recentre(np.array([[3.0, 0.0], [1.0, 4.0]]), np.array([[2.5, 1.0]]))
        >>> database.tolist(), query.tolist()
        ([[1.0, -2.0], [-1.0, 2.0]], [[0.5, -1.0]])
    """
    held, asked = as_array(database), as_array(query)
    for values, name in ((held, "database"), (asked, "query")):
        if values.ndim != 2 or values.dtype.kind != "f":
            raise DataError(
                f"only real-valued codes (n, K) can be centred; those of the {name} are "
                f"{values.dtype} {values.shape}"
            )
    if held.shape[1] != asked.shape[1] or len(held) == 0:
        raise DataError(f"the database is {held.shape}, the queries are {asked.shape}")
    mean_K = held.mean(axis=0, dtype=np.float64)
    if not np.isfinite(mean_K).all():
        raise DataError(f"{(~np.isfinite(mean_K)).sum()} entries of the mean code are not finite")
    return held - mean_K.astype(held.dtype), asked - mean_K.astype(asked.dtype)


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
        query: (Q, K) real-valued codes, or bool bits; or with ``nbit`` packed, (Q, ceil(K / 8)).
        database: (N, K) real-valued codes, or bool bits; or with ``nbit`` packed.
        truth: of these queries and this database.
        protocol: ``revisited``, see :func:`revisited`; or ``gldv2``, see :func:`gldv2`.
        ties: as of a :class:`Convention`.
        seed: of ``shuffled``.
        centred: subtract the mean code of the database before the bits are taken, see
            :func:`recentre`.
        full: whether to compute mAP under the other policies of ties too, of which ``stable`` takes
            several times as long as ``expected``.
        nbit: K of packed codes, uint8, the first bit highest; None: the codes are not packed.
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
    if protocol not in PROTOCOLS:
        raise DataError(f"protocol={protocol!r} is unknown; allowed: {', '.join(PROTOCOLS)}")
    near = Engine.of(engine).near(query)
    if centred:
        if nbit is not None:
            raise DataError("packed codes cannot be centred: give real-valued ones")
        database, query = recentre(database, query)
    asked, wide = _packed(query, nbit)
    held, other = _packed(database, nbit)
    if wide != other:
        raise DataError(f"queries have {wide} bits, the database {other}")
    ranking = InstanceRanking(asked, held, truth, wide, next(iter(truth.setups)), near)
    measure = _revisited if protocol == "revisited" else _gldv2
    setups = {}
    for name in truth.setups:
        there = ranking.under(name)
        policies = dict.fromkeys((ties, *_BOUNDS) if full else (ties,))
        found = {policy: measure(there, policy, seed) for policy in policies}
        setups[name] = dict(found[ties])
        if full:
            setups[name]["ties"] = {policy: found[policy]["map"] for policy in _BOUNDS}
    return {
        "setups": setups,
        "queries": ranking.queries,
        "database": ranking.size,
        "nbit": wide,
        "conventions": {
            "protocol": protocol,
            "ties": ties,
            "seed": seed if ties == "shuffled" else None,
            "bit": "z >= mean z of the database" if centred else "z >= 0",
            "centred": centred,
            "stable_order": "database order",
            "relevance": "lists of the ground truth",
        }
        | _protocol(protocol, ranking.size),
    }


def _protocol(protocol: str, size: int) -> dict[str, Any]:
    if protocol == "revisited":
        return {
            "metric": "mAP@all by trapezoids",
            "junk": "taken out of the ranking",
            "empty": "skip_no_relevant",
            "precision_at": "of the first min(k, place of the last relevant item)",
        }
    return {
        "metric": f"mAP@{min(LANDMARKS_TOP, size)}",
        "denominator": {name: Convention.named(name).denominator for name in LANDMARKS},
        "empty": Convention.named(LANDMARKS[0]).empty,
    }


def _revisited(ranking: InstanceRanking, ties: str, seed: int) -> dict[str, Any]:
    found = revisited(ranking, ties, seed, CUTS)
    return found._asdict() | {"precision_at": {str(k): v for k, v in found.precision_at.items()}}


def _gldv2(ranking: InstanceRanking, ties: str, seed: int) -> dict[str, Any]:
    found = gldv2(ranking, ties, seed)
    some = found[LANDMARKS[0]]
    return {
        "map": {name: result.value for name, result in found.items()},
        "queries_counted": some.queries_counted,
        "queries_without_relevant": some.queries_without_relevant,
    }


def _packed(codes: ArrayLike, nbit: int | None) -> tuple[Array, int]:
    values = as_array(codes)
    if nbit is not None:
        return values, nbit
    bits = bit_matrix(values, "codes") if values.dtype == np.bool_ else binarize(values)
    return pack(bits), bits.shape[1]
