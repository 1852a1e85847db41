"""Paired differences between the rows of a section, computed from the codes of its runs."""

from pathlib import Path

import numpy as np
import numpy.typing as npt

from deephash import retrieval
from deephash.report.paired_results import (
    NotCompared,
    Pair,
    PairedResults,
    reference_by_column,
)
from deephash.report.results import SEED, Cell, Section
from deephash.report.values import measurement_key
from deephash.runs.query_precision import NotComparableError, QueryPrecision, query_precision


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
