"""Sweeps as grids: which runs make one table, one row, one cell. Pure: runs in, sections out."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from deephash.report.rows import Found, is_number
from deephash.report.table import measured
from deephash.utils.formatting import all_typed, typed
from deephash.utils.nested import get_nested

BITS, SEED = "model.nbit", "seed"
PLACE = ("dataset", "dataset.protocol")
"""What a section has one value of; runs of others are other tables."""

Key = tuple[Any, ...]
"""The values that a row, or a column, stands for."""


@dataclass(frozen=True)
class Job:
    """One run of a sweep, finished or not."""

    run: str  # its name: the folder below the outputs
    values: Mapping[str, Any]  # of the axes of the grid, by their keys
    settings: tuple[str, ...] = ()  # what the user changed beside them
    fixed: tuple[str, ...] = ()  # what the sweep itself sets beside them
    report: Found | None = None  # once it has finished
    state: str = "waiting"
    progress: str = ""  # "3/40" epochs, of one that runs
    error: str = ""  # the first line of its account of a failure
    conditions: Mapping[str, Any] = field(default_factory=dict)
    """Under what it ran, by the name of a column: backbone, frozen, weight decay, ..."""


@dataclass(frozen=True)
class Layout:
    """How the runs of a sweep stand in its table."""

    rows: tuple[str, ...] = ()  # keys; none: all that vary beside the columns and the seed
    columns: str = BITS
    row_label: str | None = None
    digits: int = 4
    published: str | None = None  # the table of numbers to stand beside
    also_published: tuple[str, ...] = ()  # further tables of numbers, quoted below the table
    also: str | int | None = None  # a further R whose mAP stands beside: a number, or all
    figure: Mapping[str, Any] = field(default_factory=dict)  # x: a key, scale: linear or log


@dataclass(frozen=True)
class Sweep:
    """What was asked for in one command."""

    name: str
    jobs: tuple[Job, ...]
    layout: Layout = Layout()
    title: str = ""
    source: str = ""
    command: str = ""


@dataclass(frozen=True)
class Cell:
    """The runs of one row and column, one for each seed."""

    jobs: tuple[Job, ...]

    @property
    def reports(self) -> list[Found]:
        """Of the runs that have finished."""
        return [job.report for job in self.jobs if job.report is not None]


@dataclass(frozen=True)
class Section:
    """One table: runs of one dataset, protocol, choice of settings, and fingerprint of data.

    Runs with different fingerprints were measured on different images, so they never share a table.
    Those that have not finished, or whose report has none, stand where most of the others do.
    """

    sweeps: tuple[str, ...]
    layout: Layout
    place: Key  # dataset, protocol
    settings: tuple[str, ...]
    keys: tuple[str, ...]  # of the rows
    rows: tuple[Key, ...]
    columns: tuple[Any, ...]
    cells: Mapping[tuple[Key, Any], Cell]
    fixed: Mapping[str, tuple[str, ...]]  # by sweep, what it sets for all of these runs
    fingerprint: str | None = None  # of its data, where runs of one place were measured on several

    @property
    def jobs(self) -> list[Job]:
        return [job for cell in self.cells.values() for job in cell.jobs]

    @property
    def reports(self) -> list[Found]:
        return [report for cell in self.cells.values() for report in cell.reports]

    @property
    def title(self) -> str:
        """The dataset and what else sets the section apart, in a line."""
        data = [] if self.fingerprint is None else [f"data {self.fingerprint[:8]}"]
        return ", ".join([*(str(value) for value in self.place if value is not None),
                          *self.settings, *data])  # fmt: skip

    def name_of(self, row: Key) -> str:
        """A row in words: the values alone where the head of the table says of what."""
        plain = ("method", SWEEP)
        return " ".join(
            typed(value) if key in plain or len(self.keys) == 1 else f"{end(key)}={typed(value)}"
            for key, value in zip(self.keys, row, strict=True)
        )

    def head_of(self, column: Any) -> str:
        """A column in words."""
        key = self.layout.columns
        return f"{typed(column)} bits" if key == BITS else f"{end(key)} {typed(column)}"

    @property
    def row_label(self) -> str:
        """What the rows are values of."""
        known = self.layout.row_label
        if known is not None and len(self.keys) == len(self.layout.rows):
            return known
        return ", ".join(end(key) for key in self.keys)

    @property
    def ways(self) -> list[Any]:
        """The ways in which its runs were measured, the most common first."""
        return [way for way, _ in Counter(map(measured, self.reports)).most_common()]


SWEEP = "sweep"
"""The key of a row that only the name of its sweep sets apart."""


def sections(sweeps: Sequence[Sweep]) -> list[Section]:
    """The tables of sweeps, in order. Those with the same rows and columns are joined."""
    groups: dict[Any, list[Sweep]] = {}
    for sweep in sweeps:
        rows = sweep.layout.rows or _varying(sweep.jobs, {SEED, *PLACE, sweep.layout.columns})
        groups.setdefault((rows or ("method",), sweep.layout.columns), []).append(sweep)
    return [part for (rows, _), some in groups.items() for part in _parts(rows, some)]


def chosen(jobs: Iterable[Job], only: Mapping[str, Any]) -> tuple[Job, ...]:
    """The jobs that have these values, or one of several, as the command line writes them."""
    wanted = {key: set(all_typed(value)) for key, value in only.items()}
    return tuple(
        job
        for job in jobs
        if all(typed(job.values.get(key)) in some for key, some in wanted.items())
    )


def _parts(rows: tuple[str, ...], sweeps: Sequence[Sweep]) -> Iterable[Section]:
    parts: dict[Any, dict[str, tuple[Sweep, Job]]] = {}
    for sweep in sweeps:
        for job in sweep.jobs:
            place = tuple(plain(job.values.get(key)) for key in PLACE)
            part = parts.setdefault((place, tuple(sorted(job.settings))), {})
            part.setdefault(job.run, (sweep, job))  # a run that two sweeps share counts once
    for (place, settings), found in parts.items():
        by_data = _by_fingerprint(list(found.values()))
        for fingerprint, some in by_data.items():
            apart = fingerprint if len(by_data) > 1 else None
            yield _section(rows, place, settings, some, apart)


def _by_fingerprint(
    found: Sequence[tuple[Sweep, Job]],
) -> dict[str, list[tuple[Sweep, Job]]]:
    """Runs by the data that they were measured on, the most common first."""
    prints = [fingerprint_of(job) for _, job in found]
    known = [name for name, _ in Counter(filter(None, prints)).most_common()] or [""]
    parts: dict[str, list[tuple[Sweep, Job]]] = {name: [] for name in known}
    for fingerprint, one in zip(prints, found, strict=True):
        parts[fingerprint or known[0]].append(one)
    return parts


def fingerprint_of(job: Job) -> str:
    """The fingerprint of the data of a finished run; empty if nothing says it."""
    return str(get_nested(job.report or {}, "protocol", "fingerprint") or "")


def _section(
    rows: tuple[str, ...],
    place: Key,
    settings: tuple[str, ...],
    found: Sequence[tuple[Sweep, Job]],
    fingerprint: str | None = None,
) -> Section:
    layout = found[0][0].layout
    keys, cells = rows, _cells(rows, layout.columns, found)
    apart = _apart(cells.values())
    if apart:
        keys += apart
        cells = _cells(keys, layout.columns, found)
    if any(_twice(jobs) for jobs in cells.values()):
        keys += (SWEEP,)
        cells = _cells(keys, layout.columns, found)
    names = dict.fromkeys(sweep.name for sweep, _ in found)
    fixed = {name: [set(job.fixed) for sweep, job in found if sweep.name == name] for name in names}
    return Section(
        sweeps=tuple(names),
        layout=layout,
        place=place,
        settings=settings,
        keys=keys,
        rows=tuple(_in_order(row for row, _ in cells)),
        columns=tuple(_in_order(column for _, column in cells)),
        cells={at: Cell(tuple(jobs)) for at, jobs in cells.items()},
        fixed={name: tuple(sorted(set.intersection(*sets))) for name, sets in fixed.items()},
        fingerprint=fingerprint,
    )


def _cells(
    keys: Sequence[str], columns: str, found: Iterable[tuple[Sweep, Job]]
) -> dict[tuple[Key, Any], list[Job]]:
    cells: dict[tuple[Key, Any], list[Job]] = {}
    for sweep, job in found:
        values = {**job.values, SWEEP: sweep.name}
        row = tuple(plain(values.get(key)) for key in keys)
        cells.setdefault((row, plain(job.values.get(columns))), []).append(job)
    return cells


def _twice(jobs: Sequence[Job]) -> bool:
    """Whether a seed has two runs, which then are of two sweeps with other settings."""
    seeds = [job.values.get(SEED) for job in jobs]
    return len(set(seeds)) < len(seeds)


def _apart(cells: Iterable[Sequence[Job]]) -> tuple[str, ...]:
    """The keys that set runs of one cell and seed apart: axes beside those of the table.

    A key whose value the row and the column decide, such as a batch size for each method, is none.
    """
    alike: dict[Any, list[Job]] = {}
    for at, jobs in enumerate(cells):
        for job in jobs:
            alike.setdefault((at, job.values.get(SEED)), []).append(job)
    return tuple(dict.fromkeys(key for jobs in alike.values() for key in _varying(jobs, ())))


def _varying(jobs: Sequence[Job], known: Iterable[str]) -> tuple[str, ...]:
    """The keys beside the known ones of which the jobs have several values."""
    keys = dict.fromkeys(key for job in jobs for key in job.values)
    return tuple(
        key
        for key in keys
        if key not in known and len({plain(job.values.get(key)) for job in jobs}) > 1
    )


def _in_order(values: Iterable[Any]) -> list[Any]:
    """Each once: numbers ascending, all else in the order in which it comes."""
    once = list(dict.fromkeys(values))
    numbers = [
        value[0] if isinstance(value, tuple) and len(value) == 1 else value for value in once
    ]
    if all(is_number(value) for value in numbers):
        once.sort()
    return once


def plain(value: Any) -> Any:
    """A value that can be a key: lists and mappings as text."""
    return str(value) if isinstance(value, list | dict) else value


def end(key: str) -> str:
    """The last word of a key."""
    return key.rpartition(".")[2]
