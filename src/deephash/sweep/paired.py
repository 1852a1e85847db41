"""Paired differences between the rows of a section, computed from the codes of its runs."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from deephash import retrieval
from deephash.errors import DataError, FileError
from deephash.report.paired_results import (
    NotCompared,
    Pair,
    PairedResults,
    reference_by_column,
)
from deephash.report.results import SEED, Cell, Section
from deephash.report.values import Report, measurement_key


class NotComparableError(Exception):
    """Two cells, or the codes of a run, cannot be compared; the message is the reason."""


@dataclass(frozen=True)
class QueryPrecision:
    """Average precision of each query of a run."""

    ids: npt.NDArray[Any]  # (Q,)
    precision: npt.NDArray[np.float64]  # (Q,), nan for queries that do not count


def paired_differences(
    section: Section, compare: str, outputs: Path, draws: int, seed: int
) -> PairedResults:
    """Compare each row with the reference of its column, over the seeds that both have.

    Args:
        section: of the runs.
        compare: ``best``, or the name of a row.
        outputs: the folder that contains the run folders.
        draws: number of bootstrap draws.
        seed: of the bootstrap.
    """
    cache: dict[str, QueryPrecision] = {}  # each run is ranked once
    pairs, not_compared = [], []
    for column, reference in reference_by_column(section, compare).items():
        for row in section.rows:
            cell = section.cells.get((row, column))
            if row == reference or cell is None or not cell.included:
                continue
            try:
                ours, theirs = _match(cell, section.cells[reference, column], outputs, cache)
            except NotComparableError as error:
                not_compared.append(NotCompared(column, row, reference, str(error)))
                continue
            difference = retrieval.paired_difference(ours, theirs, draws, seed)
            pairs.append(Pair(column, row, reference, *difference))
    return PairedResults(tuple(pairs), tuple(not_compared), compare == "best", draws)


def _match(
    cell: Cell, reference: Cell, outputs: Path, cache: dict[str, QueryPrecision]
) -> list[npt.NDArray[np.float64]]:
    """Return the average precisions of two cells, (S, Q) each, for the same seeds and queries."""
    if measurement_key(cell.included[0]) != measurement_key(reference.included[0]):
        raise NotComparableError("they were evaluated on other data, or under another convention")
    sides = []
    for side in (cell, reference):
        included = set(map(id, side.included))
        sides.append({it.values.get(SEED): it for it in side.runs if id(it.report) in included})
    seeds = [seed for seed in sides[0] if seed in sides[1]]
    if not seeds:
        raise NotComparableError("no seed has finished in both")
    matched: list[list[QueryPrecision]] = [[], []]
    for runs, precisions in zip(sides, matched, strict=True):
        for run in (runs[seed] for seed in seeds):
            assert run.report is not None  # it is included
            if run.name not in cache:
                cache[run.name] = query_precision(outputs / run.name, run.report)
            precisions.append(cache[run.name])
    first = matched[0][0].ids
    if any(not np.array_equal(it.ids, first) for side in matched for it in side):
        raise NotComparableError("the queries are not the same")
    both = np.array([[it.precision for it in side] for side in matched])  # (2, S, Q)
    counted = np.isfinite(both).all(axis=(0, 1))
    if not counted.any():
        raise NotComparableError("no query counts in all of the runs")
    return list(both[:, :, counted])


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
    return QueryPrecision(codes.query.ids, precision)


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
