"""Average precision of each query of a finished run, computed from its codes."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from deephash import retrieval
from deephash.errors import DataError, FileError
from deephash.report.values import Report


class NotComparableError(Exception):
    """Two cells, or the codes of a run, cannot be compared; the message is the reason."""


@dataclass(frozen=True)
class QueryPrecision:
    """Average precision of each query of a run."""

    ids: npt.NDArray[Any]  # (Q,)
    precision: npt.NDArray[np.float64]  # (Q,), nan for queries that do not count
    labels: npt.NDArray[Any]  # (Q, C) bool, or (Q,) class indices

    def by_class(self) -> list[tuple[int, int, float]]:
        """Return class, number of its queries and their mAP; classes without queries are left out.

        A query with several labels belongs to each of their classes.
        """
        means, counts = retrieval.class_means(self.precision, self.labels)
        return [(c, int(counts[c]), float(means[c])) for c in np.flatnonzero(counts).tolist()]


def query_precision(run: Path, report: Report) -> QueryPrecision:
    """Compute the average precision of each query of a finished run, as its report did.

    Args:
        run: its folder.
        report: as in ``report.json``.

    Raises:
        NotComparableError: If its codes are missing, or are not those of the report.
    """
    try:
        codes = retrieval.StoredCodes.read(run / "codes.npz")
    except FileError as error:
        raise NotComparableError(f"{run.name}: {error.reason} (codes.npz)") from error
    conventions = report["metrics"]["conventions"]
    if codes.fingerprint != report["protocol"]["fingerprint"]:
        raise NotComparableError("codes.npz of a run is of other data than its report")
    try:
        precision = retrieval.counted_precision(
            _ranking(codes, conventions), _convention(codes, conventions)
        )
    except DataError as error:
        raise NotComparableError(f"codes.npz and report.json of {run.name}: {error}") from error
    counted = precision[np.isfinite(precision)]
    mean = float(counted.mean()) if len(counted) else 0.0
    if not math.isclose(mean, report["metrics"]["map"], rel_tol=0, abs_tol=1e-9):
        raise NotComparableError("codes.npz of a run does not reproduce the mAP of its report")
    assert codes.query.labels is not None  # otherwise there is no ranking
    return QueryPrecision(codes.query.ids, precision, codes.query.labels)


def map_interval(
    runs: Sequence[QueryPrecision], draws: int = 2000, seed: int = 0
) -> tuple[float, float, int] | None:
    """Return the ends of the 95 % interval of the mean mAP of runs, and its number of queries.

    It is a bootstrap over runs and queries, with the queries that count in all of the runs; None
    for fewer than two of these, or if the runs have different queries.

    Args:
        runs: with different seeds.
        draws: number of resamples.
        seed: of the resamples.
    """
    if not runs or any(not np.array_equal(run.ids, runs[0].ids) for run in runs):
        return None
    precision = np.array([run.precision for run in runs])  # (S, Q)
    counted = precision[:, np.isfinite(precision).all(axis=0)]
    if counted.shape[1] < 2:
        return None
    _, low, high, _, queries = retrieval.paired_difference(counted, 0 * counted, draws, seed)
    return low, high, queries


def _ranking(stored: retrieval.StoredCodes, conventions: Mapping[str, Any]) -> retrieval.Ranking:
    """Return the ranking that the conventions of a report define."""
    nbit, labels, codes = stored.nbit, [], []
    for name, side in (("query", stored.query), ("database", stored.database)):
        if side.labels is None:
            raise NotComparableError(
                "codes.npz of a run has no labels: the images have none, or relevance is given by "
                "lists"
            )
        labels.append(side.labels)
        if conventions.get("ternary") is None:
            codes.append(side.codes)
            continue
        if side.undecided is None:
            raise NotComparableError(
                "codes.npz of a run does not contain the mask of undecided bits"
            )
        bits, mask = retrieval.unpack(side.codes, nbit), retrieval.unpack(side.undecided, nbit)
        codes.append(retrieval.pack_ternary(bits, mask, name))
    if conventions.get("ternary") is not None:
        nbit *= 4
    own = None
    if conventions.get("own") is not None:
        place = {name: row for row, name in enumerate(stored.database.ids.tolist())}
        own = np.array([place.get(name, -1) for name in stored.query.ids.tolist()])
    return retrieval.Ranking(codes[0], codes[1], labels[0], labels[1], nbit, own=own)


def _convention(
    stored: retrieval.StoredCodes, conventions: Mapping[str, Any]
) -> retrieval.Convention:
    """Return the conventions of a report."""
    size = len(stored.database.codes) - (conventions.get("own") is not None)
    missing = [
        key for key in ("top", "ties", "denominator", "empty") if conventions.get(key) is None
    ]
    if missing:
        raise NotComparableError(f"the report of a run does not contain {', '.join(missing)}")
    whole = conventions["top"] >= size
    return retrieval.Convention(
        top=None if whole else conventions["top"],
        ties=conventions["ties"],
        denominator=conventions["denominator"],
        empty=conventions["empty"],
        seed=conventions.get("seed") or 0,
    )
