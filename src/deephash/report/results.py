"""Results of sweeps: which runs form a table, a row and a cell, and the statistics of each cell."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from deephash.report.published import Published, published
from deephash.report.values import (
    Report,
    footnote_mark,
    is_number,
    mean_and_sd,
    measurement_key,
    unlabelled_note,
)
from deephash.utils.formatting import all_typed, typed
from deephash.utils.nested import get_nested

BITS, SEED = "model.nbit", "seed"
SECTION_KEYS = ("dataset", "dataset.protocol")
"""Axes of which a section has one value."""

SWEEP_KEY = "sweep"
"""Key of rows that only the name of their sweep distinguishes."""

ON_QUERIES = "q"
"""Mark of numbers whose epoch was selected on the queries."""

NO_LABELS = "without mAP"
"""State of finished runs on images without labels."""

UNKNOWN_KIND = "unknown"
"""Kind of a method whose reports do not contain it, since they are of an earlier version."""

IDENTITY = "identity"
"""Backbone of datasets of features."""

BASELINES = {"pca_rr": "PCA + random rotation"}
"""Names of baseline rows by the method in the reports."""

Key = tuple[Any, ...]
"""Values of the axes of a row."""

Position = tuple[Key, Any]
"""Row and column of a cell."""


@dataclass(frozen=True)
class SweepRun:
    """One run of a sweep, finished or not."""

    name: str  # its folder below the outputs
    values: Mapping[str, Any]  # of the axes of the grid, by key
    settings: tuple[str, ...] = ()  # further overrides of the user
    fixed: tuple[str, ...] = ()  # further overrides of the sweep
    report: Report | None = None  # of a finished run
    state: str = "waiting"
    progress: str = ""  # epochs of a running run, such as "3/40"
    error: str = ""  # first line of the error of a failed run
    conditions: Mapping[str, Any] = field(default_factory=dict)
    """Settings to print, by column title: backbone, frozen, weight decay, ..."""

    @property
    def backbone(self) -> str:
        """Name of the backbone; empty if it is unknown."""
        return str(self.conditions.get("backbone", ""))

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the data; empty if it is unknown."""
        return str(get_nested(self.report, "protocol", "fingerprint") or "")


@dataclass(frozen=True)
class Layout:
    """Arrangement of the runs of a sweep in a table."""

    rows: tuple[str, ...] = ()  # keys; empty: all that vary beside columns and seed
    columns: str = BITS
    row_label: str | None = None
    digits: int = 4
    published: str | None = None  # table of published numbers to compare with
    also_published: tuple[str, ...] = ()  # further published tables, quoted below
    also: str | int | None = None  # a second R of mAP@R: a number, or "all"
    figure: Mapping[str, Any] = field(default_factory=dict)  # x: a key, scale: linear or log


@dataclass(frozen=True)
class Sweep:
    """The runs of one sweep."""

    name: str
    runs: tuple[SweepRun, ...]
    layout: Layout = Layout()
    title: str = ""
    source: str = ""
    command: str = ""


@dataclass(frozen=True)
class Cell:
    """Runs of one row and column, one for each seed, with their statistics."""

    runs: tuple[SweepRun, ...]
    included: tuple[Report, ...]  # reports in the mean; all have the same measurement key
    mean: float  # mAP; nan if no run is included
    sd: float  # n - 1; nan for fewer than two
    extra_mean: float  # mAP at the second R of the layout
    extra_sd: float
    marks: tuple[str, ...]
    rank: int  # 1 for the best of a column, 2 for the second best, else 0
    published: float | None
    state: str  # which runs are missing; empty if none is

    @property
    def difference(self) -> float | None:
        """Difference to the published number."""
        if self.published is None or not math.isfinite(self.mean):
            return None
        return self.mean - self.published


@dataclass(frozen=True)
class BaselineRow:
    """Results of a baseline without training on the features of the runs."""

    name: str
    backbone: str
    values: Mapping[Any, tuple[float, float]]  # mean and sd (n - 1) over the draws, by column
    draws: int  # the smallest number of draws of a column

    @property
    def label(self) -> str:
        """Name of the row."""
        return f"{self.name} (reference)"

    def shares_features(self, cell: Cell) -> bool:
        """Return whether all finished runs of a cell use the same frozen features."""
        return all(
            run.backbone == self.backbone
            and (
                bool(run.report.get("reference"))
                or run.conditions.get("frozen") == "yes"
                or self.backbone == IDENTITY
            )
            for run in cell.runs
            if run.report is not None
        )


@dataclass(frozen=True)
class Section:
    """One table: runs with the same dataset, protocol, further settings and data fingerprint.

    Runs with different fingerprints were evaluated on different images and never share a table.
    Unfinished runs, and those without a fingerprint, belong to the most frequent one.
    """

    sweeps: tuple[str, ...]
    layout: Layout
    place: Key  # dataset and protocol
    settings: tuple[str, ...]
    keys: tuple[str, ...]  # of the rows
    rows: tuple[Key, ...]
    columns: tuple[Any, ...]
    grid: Mapping[Position, tuple[SweepRun, ...]]
    fixed: Mapping[str, tuple[str, ...]]  # overrides of all these runs, by sweep
    fingerprint: str | None = None  # if runs of this place have several

    @property
    def runs(self) -> list[SweepRun]:
        """All runs, by cell."""
        return [run for runs in self.grid.values() for run in runs]

    @property
    def reports(self) -> list[Report]:
        """The reports of the finished runs."""
        return [run.report for run in self.runs if run.report is not None]

    def runs_of(self, row: Key) -> list[SweepRun]:
        """Return all runs of a row."""
        return [run for (key, _), runs in self.grid.items() if key == row for run in runs]

    @property
    def title(self) -> str:
        """Dataset, protocol, and whatever else distinguishes this section."""
        parts = [*(str(value) for value in self.place if value is not None), *self.settings]
        if self.fingerprint is not None:
            parts.append(f"data {self.fingerprint[:8]}")
        return ", ".join(parts)

    def row_name(self, row: Key) -> str:
        """Return the name of a row: its values, with their keys if there are several."""
        return " ".join(
            typed(value)
            if key in ("method", SWEEP_KEY) or len(self.keys) == 1
            else f"{short_key(key)}={typed(value)}"
            for key, value in zip(self.keys, row, strict=True)
        )

    def column_name(self, column: Any) -> str:
        """Return the title of a column."""
        key = self.layout.columns
        return f"{typed(column)} bits" if key == BITS else f"{short_key(key)} {typed(column)}"

    @property
    def row_label(self) -> str:
        """Title of the column of row names."""
        label = self.layout.row_label
        if label is not None and len(self.keys) == len(self.layout.rows):
            return label
        return ", ".join(map(short_key, self.keys))

    @property
    def extra_metric(self) -> str | None:
        """Name of the mAP at the second R; None if the layout has none."""
        return None if self.layout.also is None else f"mAP@{self.layout.also}"

    @property
    def published(self) -> Published | None:
        """Published numbers to compare with; None if there are none."""
        return published(self.layout.published, self.place[0])

    def published_key(self, row: Key) -> Any:
        """Return the key of a row in ``published.yaml``: its value, or its name if it has several.

        Args:
            row: of this section.
        """
        return row[0] if len(self.keys) == 1 else self.row_name(row)

    def published_numbers(self, table: Published | None) -> dict[Position, float]:
        """Return the numbers of a published table that belong to cells of this section."""
        if table is None or self.layout.columns != BITS:
            return {}
        return {
            (row, column): table.values[self.published_key(row)][column]
            for row, column in self.grid
            if column in table.values.get(self.published_key(row), {})
        }

    @cached_property
    def measurement_keys(self) -> list[tuple[str, str]]:
        """Measurement keys of the finished runs, the most frequent first."""
        return [key for key, _ in Counter(map(measurement_key, self.reports)).most_common()]

    @cached_property
    def cells(self) -> dict[Position, Cell]:
        """All cells by row and column."""
        numbers = self.published_numbers(self.published)
        included = {at: self._included(runs) for at, runs in self.grid.items()}
        most = max(map(len, included.values()), default=0)
        states = {at: _state(self.grid[at], len(reports), most) for at, reports in included.items()}
        ranks = self._ranks(
            {
                at: reports
                for at, reports in included.items()
                if reports and self._key_index(reports) == 0 and not states[at]
            }
        )
        cells = {}
        for at, reports in included.items():
            extra = [self._extra_map(report) for report in reports]
            cells[at] = Cell(
                self.grid[at],
                reports,
                *mean_and_sd(_maps(reports)),
                *mean_and_sd(extra if all(map(is_number, extra)) else ()),
                self._marks(reports),
                ranks.get(at, 0),
                numbers.get(at),
                states[at],
            )
        return cells

    def _included(self, runs: Iterable[SweepRun]) -> tuple[Report, ...]:
        """Return the reports with the measurement key that is the most frequent of the section."""
        reports = numeric_reports(runs)
        if not reports:
            return ()
        key = min(map(measurement_key, reports), key=self.measurement_keys.index)
        return tuple(report for report in reports if measurement_key(report) == key)

    def _key_index(self, reports: Sequence[Report]) -> int:
        return self.measurement_keys.index(measurement_key(reports[0]))

    def _ranks(self, included: Mapping[Position, Sequence[Report]]) -> dict[Position, int]:
        """Return the best and second best of each column; equal printed numbers share a rank."""
        ranks: dict[Position, int] = {}
        for column in self.columns:
            rounded = {
                at: round(mean_and_sd(_maps(reports))[0], self.layout.digits)
                for at, reports in included.items()
                if at[1] == column
            }
            if len(rounded) > 1:
                best = sorted(set(rounded.values()), reverse=True)[:2]
                ranks |= {at: best.index(it) + 1 for at, it in rounded.items() if it in best}
        return ranks

    def _marks(self, reports: Sequence[Report]) -> tuple[str, ...]:
        if not reports:
            return ()
        marks = [footnote_mark(self._key_index(reports))]
        if any(
            get_nested(report, "selection", "select_on") == "query"
            and get_nested(report, "selection", "epochs") != 0  # else nothing was selected
            for report in reports
        ):
            marks.append(ON_QUERIES)
        return tuple(filter(None, marks))

    def _extra_map(self, report: Report) -> Any:
        return None if self.layout.also is None else map_at(report, self.layout.also)

    @cached_property
    def kinds(self) -> dict[Key, str]:
        """Kind of the method of each row: supervised, unsupervised or shallow.

        Empty if no report contains it, or if all rows are of one method and one kind.
        """
        kinds: dict[Key, dict[str, None]] = {row: {} for row in self.rows}
        for row in self.rows:
            reports = [run.report for run in self.runs_of(row) if run.report is not None]
            kinds[row] = dict.fromkeys(str(it.get("kind") or "") for it in reports)
        known = {kind for of_row in kinds.values() for kind in of_row} - {""}
        if not known or ("method" not in self.keys and len(known) == 1):
            return {}
        return {
            row: ", ".join(kind or UNKNOWN_KIND for kind in of_row) for row, of_row in kinds.items()
        }

    @cached_property
    def baseline_rows(self) -> list[BaselineRow]:
        """Baselines in the reports of the runs, one for each method and backbone.

        Runs with the same data, backbone and number of bits have the same draws up to rounding, so
        the first are used. Runs with another measurement key than most are ignored.
        """
        draws: dict[tuple[str, str], dict[Any, dict[Any, list[float]]]] = {}
        for (_, column), runs in self.grid.items():
            for run in runs:
                report = run.report or {}
                maps = list(filter(is_number, get_nested(report, "reference", "maps") or ()))
                if not maps or measurement_key(report) != self.measurement_keys[0]:
                    continue
                method = str(get_nested(report, "reference", "method"))
                columns = draws.setdefault((method, run.backbone), {})
                columns.setdefault(column, {}).setdefault(
                    (run.fingerprint, report.get("nbit")), maps
                )
        backbones = Counter(method for method, _ in draws)
        rows = []
        for (method, backbone), columns in draws.items():
            name = BASELINES.get(method, method)
            if backbones[method] > 1:
                name += f", {backbone}"
            # A column with several datasets or numbers of bits has no single baseline.
            unique = {
                column: next(iter(by_data.values()))
                for column, by_data in columns.items()
                if len(by_data) == 1
            }
            values = {column: mean_and_sd(maps) for column, maps in unique.items()}
            if values:
                rows.append(BaselineRow(name, backbone, values, min(map(len, unique.values()))))
        return rows


def numeric_reports(runs: Iterable[SweepRun]) -> list[Report]:
    """Return the reports that contain a mAP."""
    return [
        run.report
        for run in runs
        if run.report is not None and is_number(get_nested(run.report, "metrics", "map"))
    ]


def map_at(report: Report, top: str | int) -> Any:
    """Return the mAP@R of a run, or None if its report does not contain it.

    Args:
        report: of the run.
        top: R, or ``"all"`` for the whole database.

    Example:
        >>> metrics = {"map": 0.5, "map_at": {"90": 0.25}, "database": 90}
        >>> report = {"metrics": {**metrics, "conventions": {"top": 10}}}
        >>> map_at(report, "all"), map_at(report, 10)
        (0.25, 0.5)
    """
    size = get_nested(report, "metrics", "database")
    cutoff = size if top == "all" else top
    main = get_nested(report, "metrics", "conventions", "top")
    if cutoff is not None and cutoff == (size if main is None else main):
        return get_nested(report, "metrics", "map")
    return get_nested(report, "metrics", "map_at", str(cutoff))


def _maps(reports: Iterable[Report]) -> list[float]:
    return [float(report["metrics"]["map"]) for report in reports]


def _state(runs: Sequence[SweepRun], included: int, most: int) -> str:
    """Return which runs of a cell are missing: unfinished seeds, or seeds that other cells have."""
    if included:
        total = max(most, len(runs))
        if included == total:
            return ""
        states = Counter(run.state for run in runs)
        lost = [f", {states[state]} {state}" for state in ("failed", "damaged") if states[state]]
        return f"{included} of {total} seeds{''.join(lost)}"
    states = Counter(
        NO_LABELS
        if run.report is not None and unlabelled_note(run.report)
        else f"{run.state} {run.progress}".strip()
        for run in runs
    )
    return ", ".join(f"{count} {state}" if count > 1 else state for state, count in states.items())


def make_sections(sweeps: Sequence[Sweep]) -> list[Section]:
    """Return the tables of sweeps in order. Sweeps with the same rows and columns are joined."""
    groups: dict[Any, list[Sweep]] = {}
    for sweep in sweeps:
        layout = sweep.layout
        rows = layout.rows or _varying(sweep.runs, {SEED, *SECTION_KEYS, layout.columns})
        groups.setdefault((rows or ("method",), layout.columns), []).append(sweep)
    return [part for (rows, _), group in groups.items() for part in _split(rows, group)]


def filter_runs(runs: Iterable[SweepRun], only: Mapping[str, Any]) -> tuple[SweepRun, ...]:
    """Return the runs whose axes have the given values, as typed on the command line."""
    wanted = {key: set(all_typed(value)) for key, value in only.items()}
    return tuple(
        run
        for run in runs
        if all(typed(run.values.get(key)) in values for key, values in wanted.items())
    )


def _split(rows: tuple[str, ...], sweeps: Sequence[Sweep]) -> Iterable[Section]:
    """Split sweeps by dataset, protocol, settings, and fingerprint of the data."""
    parts: dict[Any, dict[str, tuple[Sweep, SweepRun]]] = {}
    for sweep in sweeps:
        for run in sweep.runs:
            place = tuple(_hashable(run.values.get(key)) for key in SECTION_KEYS)
            part = parts.setdefault((place, tuple(sorted(run.settings))), {})
            part.setdefault(run.name, (sweep, run))  # a run that two sweeps share counts once
    for (place, settings), members in parts.items():
        prints = Counter(run.fingerprint for _, run in members.values() if run.fingerprint)
        known = [fingerprint for fingerprint, _ in prints.most_common()] or [""]
        by_data: dict[str, list[tuple[Sweep, SweepRun]]] = {name: [] for name in known}
        for sweep, run in members.values():
            by_data[run.fingerprint or known[0]].append((sweep, run))
        for fingerprint, group in by_data.items():
            yield _section(rows, place, settings, group, fingerprint if len(known) > 1 else None)


def _section(
    keys: tuple[str, ...],
    place: Key,
    settings: tuple[str, ...],
    members: Sequence[tuple[Sweep, SweepRun]],
    fingerprint: str | None,
) -> Section:
    layout = members[0][0].layout
    grid = _grid(keys, layout.columns, members)
    if extra := _further_keys(grid.values()):
        keys += extra
        grid = _grid(keys, layout.columns, members)
    if any(len({run.values.get(SEED) for run in runs}) < len(runs) for runs in grid.values()):
        keys += (SWEEP_KEY,)  # a seed has two runs, of sweeps with other settings
        grid = _grid(keys, layout.columns, members)
    fixed: dict[str, set[str]] = {}
    for sweep, run in members:
        fixed[sweep.name] = fixed.get(sweep.name, set(run.fixed)) & set(run.fixed)
    return Section(
        sweeps=tuple(fixed),
        layout=layout,
        place=place,
        settings=settings,
        keys=keys,
        rows=tuple(_sorted_numbers(row for row, _ in grid)),
        columns=tuple(_sorted_numbers(column for _, column in grid)),
        grid={at: tuple(runs) for at, runs in grid.items()},
        fixed={name: tuple(sorted(overrides)) for name, overrides in fixed.items()},
        fingerprint=fingerprint,
    )


def _grid(
    keys: Sequence[str], columns: str, members: Iterable[tuple[Sweep, SweepRun]]
) -> dict[Position, list[SweepRun]]:
    grid: dict[Position, list[SweepRun]] = {}
    for sweep, run in members:
        values = {**run.values, SWEEP_KEY: sweep.name}
        row = tuple(_hashable(values.get(key)) for key in keys)
        grid.setdefault((row, _hashable(run.values.get(columns))), []).append(run)
    return grid


def _further_keys(cells: Iterable[Sequence[SweepRun]]) -> tuple[str, ...]:
    """Return the axes that distinguish runs of one cell and seed.

    A key that row and column determine, such as a batch size for each method, is not one of them.
    """
    groups: dict[Any, list[SweepRun]] = {}
    for index, runs in enumerate(cells):
        for run in runs:
            groups.setdefault((index, run.values.get(SEED)), []).append(run)
    return tuple(dict.fromkeys(key for runs in groups.values() for key in _varying(runs, ())))


def _varying(runs: Sequence[SweepRun], ignored: Iterable[str]) -> tuple[str, ...]:
    """Return the keys, other than the ignored ones, of which the runs have several values."""
    return tuple(
        key
        for key in dict.fromkeys(key for run in runs for key in run.values)
        if key not in ignored and len({_hashable(run.values.get(key)) for run in runs}) > 1
    )


def _sorted_numbers(values: Iterable[Any]) -> list[Any]:
    """Return the distinct values: numbers in ascending order, others in order of appearance."""
    distinct = list(dict.fromkeys(values))
    if all(is_number(it[0] if isinstance(it, tuple) and len(it) == 1 else it) for it in distinct):
        distinct.sort()
    return distinct


def _hashable(value: Any) -> Any:
    return str(value) if isinstance(value, list | dict) else value


def short_key(key: str) -> str:
    """Return the last part of a key."""
    return key.rpartition(".")[2]
