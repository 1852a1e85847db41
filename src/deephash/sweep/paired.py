"""Paired differences between the rows of a section, from the codes of its runs."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from deephash import retrieval
from deephash.errors import DataError, FileError
from deephash.report.cells import Entry, entries
from deephash.report.grid import SEED, Job, Key, Section
from deephash.report.pairs import Pair, Pairs, Refused, references
from deephash.report.table import measured


class NotComparableError(Exception):
    """Why two cells, or the codes of a run, cannot be compared; in words."""


@dataclass(frozen=True)
class Judged:
    """The queries of a run, and what each is worth."""

    ids: npt.NDArray[Any]  # (Q,)
    precision: npt.NDArray[np.float64]  # (Q,) AP, nan of queries that do not count


def paired(section: Section, compare: str, outputs: Path, draws: int, seed: int) -> Pairs:
    """Each row against the reference of its column, over the seeds that both have.

    Args:
        section: of the runs.
        compare: ``best``, or the name of a row.
        outputs: the folder that holds the run folders.
        draws: of the bootstrap.
        seed: of the bootstrap.
    """
    cells = entries(section)
    judged: dict[str, Judged] = {}  # each run is ranked once
    pairs, refused = [], []
    for column, reference in references(section, cells, compare).items():
        for row in section.rows:
            entry = cells.get((row, column))
            if row == reference or entry is None or not entry.told:
                continue
            ours, theirs = (_runs(section, cells, (one, column)) for one in (row, reference))
            try:
                a, b = _matched(ours, theirs, outputs, judged)
            except NotComparableError as error:
                refused.append(Refused(column, row, reference, str(error)))
                continue
            found = retrieval.paired_difference(a, b, draws, seed)
            pairs.append(Pair(column, row, reference, *found))
    return Pairs(tuple(pairs), tuple(refused), compare == "best", draws)


def _runs(section: Section, cells: Mapping[Any, Entry], at: tuple[Key, Any]) -> dict[Any, Job]:
    """The finished runs that a cell is the mean of, by seed."""
    told = {id(report) for report in cells[at].told}
    return {job.values.get(SEED): job for job in section.cells[at].jobs if id(job.report) in told}


def _matched(
    ours: Mapping[Any, Job], theirs: Mapping[Any, Job], outputs: Path, judged: dict[str, Judged]
) -> list[npt.NDArray[np.float64]]:
    """What each query is worth in the runs of two cells, (S, Q) each, seeds and queries alike."""
    ways = [measured(_report(next(iter(jobs.values())))) for jobs in (ours, theirs)]
    if ways[0] != ways[1]:
        raise NotComparableError("they were measured on other data, or under another convention")
    seeds = [seed for seed in ours if seed in theirs]
    if not seeds:
        raise NotComparableError("no seed has finished in both")
    sides = []
    for jobs in (ours, theirs):
        for job in (jobs[seed] for seed in seeds):
            if job.run not in judged:
                judged[job.run] = judge(outputs / job.run, _report(job))
        sides.append([judged[jobs[seed].run] for seed in seeds])
    first = sides[0][0].ids
    if any(not np.array_equal(one.ids, first) for side in sides for one in side):
        raise NotComparableError("the queries are not the same")
    both = np.array([[one.precision for one in side] for side in sides])  # (2, S, Q)
    counted = np.isfinite(both).all(axis=(0, 1))
    if not counted.any():
        raise NotComparableError("no query counts in all of the runs")
    return list(both[:, :, counted])


def judge(run: Path, report: Mapping[str, Any]) -> Judged:
    """The average precision of each query of a finished run, as its report measured it.

    Args:
        run: its folder.
        report: as in ``report.json``.

    Raises:
        NotComparableError: if its codes are gone, or are not those of the report.
    """
    try:
        codes = retrieval.StoredCodes.read(run / "codes.npz")
    except FileError as error:
        raise NotComparableError(f"{run.name}: {error.reason} (codes.npz)") from error
    told = report["metrics"]["conventions"]
    if codes.fingerprint != report["protocol"]["fingerprint"]:
        raise NotComparableError("codes.npz of a run is of other data than its report")
    try:
        precision = retrieval.counted_precision(_ranking(codes, told), _convention(codes, told))
    except DataError as error:
        raise NotComparableError(f"codes.npz and report.json of {run.name}: {error}") from error
    counted = precision[np.isfinite(precision)]
    found = float(counted.mean()) if len(counted) else 0.0
    if not math.isclose(found, report["metrics"]["map"], rel_tol=0, abs_tol=1e-9):
        raise NotComparableError("codes.npz of a run is not what its report measured")
    return Judged(codes.query.ids, precision)


def _ranking(stored: retrieval.StoredCodes, told: Mapping[str, Any]) -> retrieval.Ranking:
    nbit, labels, codes = stored.nbit, [], []
    for name, side in (("query", stored.query), ("database", stored.database)):
        if side.labels is None:
            raise NotComparableError(
                "codes.npz of a run has no labels: the images have none, or lists say what is "
                "relevant"
            )
        labels.append(side.labels)
        if told.get("ternary") is None:
            codes.append(side.codes)
            continue
        if side.undecided is None:
            raise NotComparableError("codes.npz of a run does not say which bits are undecided")
        bits, mask = retrieval.unpack(side.codes, nbit), retrieval.unpack(side.undecided, nbit)
        codes.append(retrieval.pack_ternary(bits, mask, name))
    if told.get("ternary") is not None:
        nbit *= 4
    own = None
    if told.get("own") is not None:
        place = {name: row for row, name in enumerate(stored.database.ids.tolist())}
        own = np.array([place.get(name, -1) for name in stored.query.ids.tolist()])
    return retrieval.Ranking(codes[0], codes[1], labels[0], labels[1], nbit, own=own)


def _convention(stored: retrieval.StoredCodes, told: Mapping[str, Any]) -> retrieval.Convention:
    held = len(stored.database.codes) - (told.get("own") is not None)
    missing = [key for key in ("top", "ties", "denominator", "empty") if told.get(key) is None]
    if missing:
        raise NotComparableError(f"the report of a run does not say its {', '.join(missing)}")
    whole = told["top"] >= held
    return retrieval.Convention(
        top=None if whole else told["top"],
        ties=told["ties"],
        denominator=told["denominator"],
        empty=told["empty"],
        seed=told.get("seed") or 0,
    )


def _report(job: Job) -> Mapping[str, Any]:
    assert job.report is not None  # promised by _runs
    return job.report
