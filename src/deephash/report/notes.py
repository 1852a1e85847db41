"""Notes below the table of a section, and the table of the settings of its runs."""

from collections.abc import Iterable, Sequence
from typing import Any

from deephash.report.published import published
from deephash.report.results import (
    NO_LABELS,
    ON_QUERIES,
    SECTION_KEYS,
    SEED,
    Section,
    SweepRun,
    numeric_reports,
)
from deephash.report.values import (
    Report,
    describe_difference,
    footnote_mark,
    measurement_key,
    metric_name,
    seeds_text,
    unlabelled_note,
)
from deephash.utils.formatting import typed
from deephash.utils.nested import get_nested

UNKNOWN = "no published numbers"

Note = tuple[str, str]
"""A mark, or an empty text, and its sentence."""


def conditions_table(section: Section) -> tuple[list[str], list[list[str]]]:
    """Return head and lines of a table with the settings of the runs of each row.

    Both are empty if no configuration is known. Different values of one row are separated by
    commas.
    """
    names = dict.fromkeys(name for run in section.runs for name in run.conditions)
    if not names:
        return [], []
    head, lines = [section.row_label], []
    if section.kinds:
        head.append("kind")
    for row in section.rows:
        line = [section.row_name(row)]
        if section.kinds:
            line.append(section.kinds[row])
        line += [_condition(section.runs_of(row), name) for name in names]
        lines.append(line)
    return [*head, *names], lines


def _condition(runs: Sequence[SweepRun], name: str) -> str:
    values = [run.conditions.get(name) for run in runs]
    return ", ".join(dict.fromkeys(str(value) for value in values if value is not None)) or "-"


def section_notes(section: Section) -> list[Note]:
    """Return the notes below a table: explanations of its marks, and sentences without a mark."""
    cells = section.cells.values()
    reports = [report for cell in cells for report in cell.included]
    notes = [("", _measurement_note(section, reports))] if reports else []
    marks = {mark for cell in cells for mark in cell.marks}
    first: dict[Any, Report] = {}
    for report in section.reports:
        first.setdefault(measurement_key(report), report)
    for index, report in enumerate(first[key] for key in section.measurement_keys):
        if index and (mark := footnote_mark(index)) in marks:
            other = describe_difference(report, first[section.measurement_keys[0]])
            notes.append(
                (
                    mark,
                    "evaluated under another convention, and not ranked: "
                    f"{other}; in brackets, the values of most runs",
                )
            )
    if any(len(cell.included) < len(numeric_reports(cell.runs)) for cell in cells):
        notes.append(
            (
                "",
                "Seeds that were evaluated differently from the rest of their cell are "
                "left out of its mean.",
            )
        )
    if any(map(unlabelled_note, section.reports)):
        notes.append(
            (
                "",
                f"{NO_LABELS}: images without labels; all other metrics are in the "
                "reports of these runs.",
            )
        )
    if any(cell.state and cell.included for cell in cells):
        notes.append(("", "Cells with fewer seeds than others say so, and are not ranked."))
    if ON_QUERIES in marks:
        text = (
            "the epoch was selected on the query set, as in the papers: these numbers are maxima "
            "over several evaluations on the queries"
        )
        notes.append((ON_QUERIES, text))
    lines = [
        *_baseline_notes(section),
        *_settings_note(section, reports),
        *_published_notes(section, reports),
    ]
    return [*notes, *(("", line) for line in lines)]


def _measurement_note(section: Section, reports: Sequence[Report]) -> str:
    """Describe metric, conventions, data and seeds of the numbers."""
    main = section.measurement_keys[0]
    report = next((it for it in reports if measurement_key(it) == main), reports[0])
    ours = get_nested(report, "metrics", "conventions") or {}
    named = [f"{key} {ours[key]}" for key in ("ties", "denominator", "empty") if ours.get(key)]
    seeds = sorted(
        {typed(it.get("seed")) for it in reports},
        key=lambda seed: (int(seed), "") if seed.isdecimal() else (0, seed),
    )
    return (
        f"{metric_name(report)} ({', '.join(named)}), fingerprint "
        f"{str(get_nested(report, 'protocol', 'fingerprint') or '?')[:16]}; "
        f"{seeds_text(seeds, 'mean ± sd (n − 1)')}."
    )


def _baseline_notes(section: Section) -> list[str]:
    """Describe the baseline rows, and list the rows that are not better."""
    notes = []
    for baseline in section.baseline_rows:
        below = [
            f"{section.row_name(row)} at {section.column_name(column)}"
            for (row, column), cell in section.cells.items()
            if column in baseline.values
            and baseline.shares_features(cell)
            and cell.mean <= baseline.values[column][0]
        ]
        notes.append(
            f"{baseline.label}: principal components of the same features under random rotations,"
            f" mean ± sd (n − 1) over {baseline.draws} rotations; no training, and not ranked. "
            + (
                f"Not above it: {', '.join(below)}."
                if below
                else "All rows on the same frozen features are above it."
            )
        )
    return notes


def _settings_note(section: Section, reports: Sequence[Report]) -> list[str]:
    """Describe the settings of the runs, in one sentence."""
    if not reports:
        return []
    parts = []
    for name, keys in (
        ("epochs", ("selection", "epochs")),
        ("batch size", ("training", "batch_size")),
    ):
        if values := {get_nested(report, *keys) for report in reports} - {None}:
            parts.append(f"{name} {', '.join(map(str, sorted(values)))}")
    if early := sum(bool(get_nested(it, "selection", "stopped_early")) for it in reports):
        parts.append(f"{early} of {len(reports)} runs stopped early")
    parts += _rule_settings(section)
    for name, fixed in section.fixed.items():
        if fixed:
            who = name if len(section.fixed) > 1 else "the sweep"
            parts.append(f"{who} sets {' '.join(fixed)}")
    if section.settings:
        parts.append(f"changed on the command line: {' '.join(section.settings)}")
    return [f"These runs: {'; '.join(parts)}."] if parts else []


def _rule_settings(section: Section) -> list[str]:
    """Describe axes that are not in the table: one value, or the values of some rows."""
    in_table = (*SECTION_KEYS, SEED, "method", section.layout.columns, *section.keys)
    parts = []
    for key in dict.fromkeys(key for run in section.runs for key in run.values):
        if key in in_table:
            continue
        rows_by_values: dict[tuple[str, ...], list[str]] = {}
        for row in section.rows:
            values = [run.values.get(key) for run in section.runs_of(row)]
            distinct = dict.fromkeys(typed(value) for value in values if value is not None)
            rows_by_values.setdefault(tuple(distinct), []).append(section.row_name(row))
        only, key = next(iter(rows_by_values), ()), key.lstrip("+~")
        if len(rows_by_values) == 1 and len(only) == 1:
            parts.append(f"{key} {only[0]}")
        else:
            parts += [
                f"{key} {', '.join(values)} for {', '.join(rows)}"
                for values, rows in rows_by_values.items()
                if values
            ]
    return parts


def setting_differences(section: Section) -> list[str]:
    """Return how settings and protocol differ from those of the published numbers, if known."""
    table, protocol, differences = section.published, section.place[1], []
    if table is not None and section.settings:
        differences.append(f"settings ({' '.join(section.settings)})")
    if table is not None and table.protocol not in (None, protocol):
        differences.append(f"protocol ({protocol}, there {table.protocol})")
    return differences


def _published_notes(section: Section, reports: Iterable[Report]) -> list[str]:
    """Describe the published numbers, and whether the differences to them are meaningful."""
    table, dataset = section.published, section.place[0]
    if table is None:
        where = f" for {dataset}" if section.layout.published is not None else ""
        return [f"There are {UNKNOWN}{where}."]
    numbers = section.published_numbers(table)
    if not numbers:
        none = f"There are {UNKNOWN} for these rows and columns in {table.source}."
        return [none, *_further_published(section)]
    lines = [f"Published: {table.source} ({table.describe()}). Δ: ours minus published."]
    metrics = {get_nested(it, "metrics", "conventions", "metric") for it in reports}
    differences = setting_differences(section)
    if other := sorted(map(str, metrics - {None, table.metric})):
        differences.append(f"metric ({', '.join(other)}, there {table.metric})")
    if differences:
        lines.append(
            "These runs are of another setting than the published ones, in "
            f"{' and '.join(differences)}: Δ does not measure how well the published numbers are "
            "reproduced."
        )
    keys = {row: section.published_key(row) for row, _ in numbers}
    notes = [
        f"{section.row_name(row)}: {table.notes[key]}"
        for row, key in keys.items()
        if key in table.notes
    ]
    if notes:
        lines.append(f"Of the published numbers: {'; '.join(notes)}.")
    return [*lines, *_further_published(section)]


def _further_published(section: Section) -> list[str]:
    """Quote further published tables for the rows and columns of a section."""
    notes = []
    for name in section.layout.also_published:
        table = published(name, section.place[0])
        if table is None or not (numbers := section.published_numbers(table)):
            continue
        values = "; ".join(
            f"{section.row_name(row)} {section.column_name(column)} {value}"
            + (f" ({note})" if (note := table.notes.get(section.published_key(row))) else "")
            for (row, column), value in numbers.items()
        )
        notes.append(f"Also published: {values}. {table.source} ({table.describe()}).")
    return notes
