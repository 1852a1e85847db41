"""What the cells of a section say: mean and deviation, rank, marks, the published number beside.

Also what stands beside the cells: kinds of methods, reference rows, conditions of the runs.
"""

import math
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from deephash.report.grid import PLACE, SEED, Cell, Job, Key, Section
from deephash.report.pages.base import shown
from deephash.report.published import beside, key_of, numbers_of, published
from deephash.report.rows import Found, is_number, mark_of, note_of, unlike
from deephash.report.table import measured
from deephash.utils.formatting import typed
from deephash.utils.nested import get_nested

ON_QUERIES = "q"
"""The mark of numbers whose epoch was selected on the queries."""

UNKNOWN = "no published numbers"

NO_LABELS = "without mAP"
"""What a cell says of finished runs on images without labels."""

UNKNOWN_KIND = "unknown"
"""The kind of a method whose reports do not say it: they are of an earlier version."""

IDENTITY = "identity"
"""The backbone of data that are features."""

REFERENCES = {"pca_rr": "PCA + random rotation"}
"""What reference rows are called, by the method in the reports."""


@dataclass(frozen=True)
class Entry:
    """A cell as every format of the table shows it."""

    told: tuple[Found, ...]  # the runs it is the mean of: measured in one way
    mean: float  # mAP, nan if no run has finished
    sd: float  # n - 1; nan of fewer than two
    marks: tuple[str, ...]
    rank: int  # 1 the best of its column, 2 the second, 0 neither
    published: float | None
    state: str  # what is missing, in words; "" if nothing is
    also: float = math.nan  # the mean mAP at the further R of the layout
    also_sd: float = math.nan  # n - 1; nan of fewer than two

    @property
    def difference(self) -> float | None:
        """To the published number."""
        known = self.published is not None and math.isfinite(self.mean)
        return self.mean - self.published if known and self.published is not None else None


@dataclass(frozen=True)
class Reference:
    """A row of a baseline that needs no training, measured on the features of the runs."""

    name: str
    backbone: str  # as the conditions of the runs name it
    values: Mapping[Any, tuple[float, float]]  # by column: mean and sd (n - 1) over the draws
    draws: int  # the smallest number of draws of a column

    @property
    def label(self) -> str:
        """The name of the row."""
        return f"{self.name} (reference)"


def entries(section: Section) -> dict[tuple[Key, Any], Entry]:
    """All cells of a section by row and column."""
    ways, numbers = section.ways, beside(section)
    told = {at: _told(cell, ways) for at, cell in section.cells.items()}
    most = max(map(len, told.values()), default=0)
    states = {at: _state(section.cells[at], len(runs), most) for at, runs in told.items()}
    whole = {at: runs for at, runs in told.items() if _plain(runs, ways) and not states[at]}
    ranks = _ranks(section, whole)
    return {
        at: Entry(
            told=runs,
            mean=_mean(runs),
            sd=statistics.stdev(_values(runs)) if len(runs) > 1 else math.nan,
            marks=_marks(runs, ways),
            rank=ranks.get(at, 0),
            published=numbers.get(at),
            state=states[at],
            **_further(section, runs),
        )
        for at, runs in told.items()
    }


def further_metric(section: Section) -> str | None:
    """The name of the mAP that stands beside the main one; None if the layout has none."""
    return None if section.layout.also is None else f"mAP@{section.layout.also}"


def at_cut(run: Found, top: str | int) -> Any:
    """The mAP of a run at an R, None if its report does not hold it.

    Args:
        run: its report.
        top: R, or ``"all"`` for the whole database.

    Example:
        >>> metrics = {"map": 0.5, "map_at": {"90": 0.25}, "database": 90}
        >>> run = {"metrics": {**metrics, "conventions": {"top": 10}}}
        >>> at_cut(run, "all"), at_cut(run, 10)
        (0.25, 0.5)
    """
    size = get_nested(run, "metrics", "database")
    cut = size if top == "all" else top
    main = get_nested(run, "metrics", "conventions", "top")
    if cut is not None and cut == (size if main is None else main):
        return get_nested(run, "metrics", "map")
    return get_nested(run, "metrics", "map_at", str(cut))


def _further(section: Section, runs: Sequence[Found]) -> dict[str, float]:
    """The mean and deviation of the mAP at the further R, for an entry."""
    if section.layout.also is None or not runs:
        return {}
    values = [at_cut(run, section.layout.also) for run in runs]
    if not all(map(is_number, values)):
        return {}
    return dict(zip(("also", "also_sd"), _mean_and_sd(values), strict=True))


def kinds(section: Section) -> dict[Key, str]:
    """Whether the method of each row is supervised, unsupervised or shallow, as its reports say.

    Empty if no report says it, or the rows are of one method and one kind: then the table has no
    such column.
    """
    several: dict[Key, dict[str, None]] = {row: {} for row in section.rows}
    for (row, _), cell in section.cells.items():
        several[row] |= dict.fromkeys(str(one.get("kind") or "") for one in cell.reports)
    known = {kind for some in several.values() for kind in some} - {""}
    if not known or ("method" not in section.keys and len(known) == 1):
        return {}
    return {row: ", ".join(kind or UNKNOWN_KIND for kind in some) for row, some in several.items()}


def reference_rows(section: Section) -> list[Reference]:
    """The baselines that the reports of a section hold, one for each method and backbone.

    Runs on the same data with the same backbone and number of bits have the same draws, up to
    rounding: those of the first are used.
    Runs that were measured under another convention than most are left out.
    """
    way = section.ways[0] if section.ways else None
    draws: dict[tuple[str, str], dict[Any, dict[Any, list[float]]]] = {}
    for (_, column), cell in section.cells.items():
        for job in cell.jobs:
            report = job.report or {}
            maps = list(filter(is_number, get_nested(report, "reference", "maps") or ()))
            if not maps or measured(report) != way:
                continue
            of = (str(get_nested(report, "reference", "method")), _backbone_of(job))
            same_draws = (get_nested(report, "protocol", "fingerprint"), report.get("nbit"))
            draws.setdefault(of, {}).setdefault(column, {}).setdefault(same_draws, maps)
    backbones = Counter(name for name, _ in draws)
    rows = []
    for (name, backbone), columns in draws.items():
        called = REFERENCES.get(name, name) + f", {backbone}" * (backbones[name] > 1)
        # A column of several data or numbers of bits has no one reference.
        single = {column: next(iter(some.values())) for column, some in columns.items()
                  if len(some) == 1}  # fmt: skip
        values = {column: _mean_and_sd(maps) for column, maps in single.items()}
        if values:
            fewest = min(map(len, single.values()))
            rows.append(Reference(called, backbone, values, fewest))
    return rows


def _backbone_of(job: Job) -> str:
    """The name of the backbone of a run; empty if it is not known."""
    return str(job.conditions.get("backbone", ""))


def _on_features_of(cell: Cell, reference: Reference) -> bool:
    """Whether the runs of a cell hash the frozen features that a reference was measured on."""
    return all(
        _backbone_of(job) == reference.backbone
        and (
            bool((job.report or {}).get("reference"))
            or job.conditions.get("frozen") == shown(True)
            or reference.backbone == IDENTITY
        )
        for job in cell.jobs
        if job.report is not None
    )


def _mean_and_sd(values: Sequence[float]) -> tuple[float, float]:
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else math.nan


def conditions(section: Section) -> tuple[list[str], list[list[str]]]:
    """Under what the runs of each row ran: the head of a table and a line for each row.

    Both are empty if no configuration is known. Values that differ among the runs of a row stand
    beside each other.
    """
    jobs = {row: [job for (one, _), cell in section.cells.items() if one == row
                  for job in cell.jobs] for row in section.rows}  # fmt: skip
    names = dict.fromkeys(name for some in jobs.values() for job in some for name in job.conditions)
    if not names:
        return [], []
    known = kinds(section)
    head = [section.row_label, *["kind"] * bool(known), *names]
    lines = [
        [
            section.name_of(row),
            *[known.get(row, "")] * bool(known),
            *(_values_of(some, name) for name in names),
        ]
        for row, some in jobs.items()
    ]
    return head, lines


def _values_of(jobs: Sequence[Job], name: str) -> str:
    """The values that jobs have of a condition, each once; a dash where none has any."""
    values = dict.fromkeys(
        str(job.conditions[name]) for job in jobs if job.conditions.get(name) is not None
    )
    return ", ".join(values) or "-"


def notes(section: Section, cells: Iterable[Entry]) -> list[tuple[str, str]]:
    """What stands under the table: marks with what they mean, and all else without a mark."""
    cells = list(cells)
    told = [run for entry in cells for run in entry.told]
    said = [("", _measured(section, told))] if told else []
    used = {mark for entry in cells for mark in entry.marks}
    first: dict[Any, Found] = {}
    for run in section.reports:
        first.setdefault(measured(run), run)
    for place, way in enumerate(section.ways):
        if place and mark_of(place) in used:
            other = unlike(first[way], first[section.ways[0]])
            said.append((mark_of(place), "measured under another convention, and not ranked: "
                         f"{other}; in brackets, of most runs"))  # fmt: skip
    if any(len(entry.told) < len(_numbers(cell))
           for entry, cell in zip(cells, section.cells.values(), strict=True)):  # fmt: skip
        said.append(("", "Seeds of one cell that were measured otherwise than the rest of it are "
                     "left out of its mean."))  # fmt: skip
    if any(note_of(run) for run in section.reports):
        said.append(("", f"{NO_LABELS}: images without labels; what could be measured is in the "
                     "reports of these runs."))  # fmt: skip
    if any(entry.state and entry.told for entry in cells):
        said.append(("", "Cells of fewer seeds than others say so, and are not ranked."))
    if ON_QUERIES in used:
        said.append((ON_QUERIES, "the epoch was selected on the query set, as the papers do: "
                     "these numbers are the highest of several looks at the queries"))  # fmt: skip
    lines = [*_below_references(section), *_ours(section, told), *_theirs(section, cells)]
    return [*said, *(("", line) for line in lines)]


def _below_references(section: Section) -> list[str]:
    """What the reference rows are, and which rows are not above them."""
    notes = []
    for one in reference_rows(section):
        below = [
            f"{section.name_of(row)} at {section.head_of(column)}"
            for (row, column), entry in entries(section).items()
            if column in one.values
            and _on_features_of(section.cells[row, column], one)
            and entry.mean <= one.values[column][0]
        ]
        notes.append(
            f"{one.label}: principal components of the same features under random rotations,"
            f" mean ± sd (n − 1) over {one.draws} rotations; no training, and not ranked. "
            + (
                f"Not above it: {', '.join(below)}."
                if below
                else "All rows on the same frozen features are above it."
            )
        )
    return notes


def _told(cell: Cell, ways: Sequence[Any]) -> tuple[Found, ...]:
    """The runs of a cell that were measured in the way that is most common in its section."""
    runs = _numbers(cell)
    if not runs:
        return ()
    way = min(map(measured, runs), key=ways.index)
    return tuple(run for run in runs if measured(run) == way)


def _numbers(cell: Cell) -> list[Found]:
    """The reports of a cell that have a number."""
    return [run for run in cell.reports if is_number(get_nested(run, "metrics", "map"))]


def _values(runs: Sequence[Found]) -> list[float]:
    return [float(run["metrics"]["map"]) for run in runs]


def _mean(runs: Sequence[Found]) -> float:
    return statistics.fmean(_values(runs)) if runs else math.nan


def _plain(runs: Sequence[Found], ways: Sequence[Any]) -> bool:
    return bool(runs) and measured(runs[0]) == ways[0]


def _ranks(section: Section, told: dict[tuple[Key, Any], tuple[Found, ...]]) -> dict[Any, int]:
    """The best and the second best of each column; what looks the same shares a rank."""
    ranks: dict[Any, int] = {}
    for column in section.columns:
        shown = {
            at: round(_mean(runs), section.layout.digits)
            for at, runs in told.items()
            if at[1] == column
        }
        falling = sorted(set(shown.values()), reverse=True)
        if len(shown) > 1:
            ranks |= {at: falling.index(value) + 1 for at, value in shown.items()}
    return {at: rank for at, rank in ranks.items() if rank <= 2}


def _marks(runs: Sequence[Found], ways: Sequence[Any]) -> tuple[str, ...]:
    marks = [mark_of(ways.index(measured(runs[0])))] if runs else []
    marks += [ON_QUERIES] * any(
        get_nested(run, "selection", "select_on") == "query"
        and get_nested(run, "selection", "epochs") != 0
        for run in runs  # without epochs there is nothing to select
    )
    return tuple(filter(None, marks))


def _state(cell: Cell, told: int, most: int) -> str:
    """What a cell lacks: seeds that are to come, or that other cells have."""
    if told:
        many = max(most, len(cell.jobs))
        lost = "".join(
            f", {count} {state}"
            for state in ("failed", "damaged")
            if (count := sum(job.state == state for job in cell.jobs))
        )
        return "" if told == many else f"{told} of {many} seeds{lost}"
    states = Counter(
        NO_LABELS if job.report is not None and note_of(job.report)
        else f"{job.state} {job.progress}".strip()
        for job in cell.jobs
    )  # fmt: skip
    return ", ".join(f"{many} {state}" if many > 1 else state for state, many in states.items())


def _measured(section: Section, told: Sequence[Found]) -> str:
    """What the numbers are."""
    plain = next((one for one in told if measured(one) == section.ways[0]), told[0])
    ours = get_nested(plain, "metrics", "conventions") or {}
    seeds = ", ".join(sorted({typed(one.get("seed")) for one in told}, key=_as_number))
    named = [f"{key} {ours[key]}" for key in ("ties", "denominator", "empty") if ours.get(key)]
    return (
        f"{ours.get('metric') or 'mAP'} ({', '.join(named)}), fingerprint "
        f"{str(get_nested(plain, 'protocol', 'fingerprint') or '?')[:16]}; "
        f"mean ± sd (n − 1) over seeds {seeds}."
    )


def _as_number(text: str) -> tuple[int, str]:
    return (int(text), "") if text.isdecimal() else (0, text)


def _ours(section: Section, told: Sequence[Found]) -> list[str]:
    """Under which settings the runs ran."""
    if not told:
        return []
    facts = {
        "epochs": {get_nested(run, "selection", "epochs") for run in told},
        "batch size": {get_nested(run, "training", "batch_size") for run in told},
    }
    said = [
        f"{name} {', '.join(map(str, sorted(values - {None})))}"
        for name, values in facts.items()
        if values - {None}
    ]
    early = sum(bool(get_nested(run, "selection", "stopped_early")) for run in told)
    said += [f"{early} of {len(told)} runs stopped early"] * bool(early)
    said += _ruled(section)
    for name, fixed in section.fixed.items():
        if fixed:
            said.append(f"{name} sets {' '.join(fixed)}" if len(section.fixed) > 1
                        else f"the sweep sets {' '.join(fixed)}")  # fmt: skip
    if section.settings:
        said.append(f"changed on the command line: {' '.join(section.settings)}")
    return [f"These runs: {'; '.join(said)}."] if said else []


def _ruled(section: Section) -> list[str]:
    """What was set beside the axes of the table: one value, or some for some of the rows."""
    table = (*PLACE, SEED, "method", section.layout.columns, *section.keys)
    said = []
    for key in dict.fromkeys(key for job in section.jobs for key in job.values):
        if key in table:
            continue
        of: dict[tuple[str, ...], list[str]] = {}
        for row in section.rows:
            jobs = [job for (one, _), cell in section.cells.items() if one == row
                    for job in cell.jobs if job.values.get(key) is not None]  # fmt: skip
            values = tuple(dict.fromkeys(typed(job.values[key]) for job in jobs))
            of.setdefault(values, []).append(section.name_of(row))
        only, key = next(iter(of), ()), key.lstrip("+~")
        if len(of) == 1 and len(only) == 1:
            said.append(f"{key} {only[0]}")
        else:
            said += [f"{key} {', '.join(values)} for {', '.join(rows)}"
                     for values, rows in of.items() if values]  # fmt: skip
    return said


def elsewhere(section: Section) -> list[str]:
    """In what the runs were set otherwise than the published ones; empty where nothing is known."""
    dataset, protocol = section.place
    found, other = published(section.layout.published, dataset), []
    if found is not None and section.settings:
        other.append(f"settings ({' '.join(section.settings)})")
    if found is not None and found.protocol not in (None, protocol):
        other.append(f"protocol ({protocol}, there {found.protocol})")
    return other


def _theirs(section: Section, cells: Sequence[Entry]) -> list[str]:
    """What the published numbers are, and whether the difference to them means anything."""
    dataset = section.place[0]
    found = published(section.layout.published, dataset)
    if found is None:
        of = f" for {dataset}" if section.layout.published is not None else ""
        return [f"There are {UNKNOWN}{of}."]
    if all(entry.published is None for entry in cells):
        none = f"There are {UNKNOWN} for these rows and columns in {found.source}."
        return [none, *_quoted(section)]
    shown = dict.fromkeys(row for row, column in numbers_of(section, found))
    notes_of = [
        f"{section.name_of(row)}: {found.notes[key_of(section, row)]}"
        for row in shown
        if key_of(section, row) in found.notes
    ]
    said = [f"Published: {found.source} ({found.told()}). Δ: ours less theirs."]
    metrics = {
        get_nested(run, "metrics", "conventions", "metric") for one in cells for run in one.told
    }
    other = elsewhere(section)
    if metrics - {None, found.metric}:
        ours = ", ".join(sorted(map(str, metrics - {None, found.metric})))
        other.append(f"metric ({ours}, there {found.metric})")
    if other:
        said.append(
            f"These runs are of another setting than the published ones, in {' and '.join(other)}:"
            " Δ does not tell how well the published numbers are reproduced."
        )
    said += [f"Of the published numbers: {'; '.join(notes_of)}."] * bool(notes_of)
    return [*said, *_quoted(section)]


def _quoted(section: Section) -> list[str]:
    """The numbers of further published tables for rows and columns of the section."""
    notes = []
    for name in section.layout.also_published:
        table = published(name, section.place[0])
        if table is None or not (numbers := numbers_of(section, table)):
            continue
        values = "; ".join(
            f"{section.name_of(row)} {section.head_of(column)} {value}"
            + (f" ({note})" if (note := table.notes.get(key_of(section, row))) else "")
            for (row, column), value in numbers.items()
        )
        notes.append(f"Also published: {values}. {table.source} ({table.told()}).")
    return notes
