"""The report of a sweep: its tables, its figures and a page."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from markupsafe import Markup

from deephash.report import pairs
from deephash.report.cells import Entry, Reference, conditions, further_metric
from deephash.report.figures import canvas
from deephash.report.figures.canvas import Drawing
from deephash.report.figures.trends import trend
from deephash.report.formats import (
    Table,
    all_notes,
    csv_of,
    further_of,
    latex,
    line_of,
    markdown,
    signed,
    spread_of,
    value_of,
)
from deephash.report.grid import Job, Section, Sweep
from deephash.report.pages.base import Rows, render, rows_of, shown
from deephash.report.pairs import Pairs
from deephash.report.published import published
from deephash.report.rows import Found, is_number
from deephash.report.table import measured
from deephash.utils.files import make_folder, make_subfolder, write_text
from deephash.utils.formatting import clock
from deephash.utils.nested import get_nested

STATES = ("finished", "running", "failed", "damaged", "interrupted", "waiting")

Compared = Mapping[int, Pairs]
"""By the place of a section among the sections."""


@dataclass(frozen=True)
class Box:
    """A cell on the page."""

    value: str
    spread: str
    rank: int
    marks: str
    state: str
    beside: tuple[str, ...]  # lines below the number

    @classmethod
    def of(cls, entry: Entry | None, section: Section) -> "Box":
        """The cell as it is shown; empty where the grid has none."""
        digits = section.layout.digits
        if entry is None:
            return cls("", "", 0, "", "", ())
        lines = []
        if further := further_of(entry, digits):
            lines.append(f"{further_metric(section)} {further}")
        if entry.published is not None:
            theirs = published(section.layout.published, section.place[0])
            column = "published" if theirs is None else theirs.column
            line = f"{column} {entry.published:.{digits}f}"
            if entry.difference is not None:
                line += f", Δ {signed(entry.difference, digits)}"
            lines.append(line)
        value, spread = value_of(entry, digits)
        marks = " ".join(entry.marks)
        return cls(value, spread, entry.rank, marks, entry.state, tuple(lines))

    @classmethod
    def of_reference(cls, reference: Reference, column: Any, digits: int) -> "Box":
        """The cell of a reference row."""
        mean, sd = reference.values.get(column, (math.nan, math.nan))
        if not math.isfinite(mean):
            return cls("", "", 0, "", "", ())
        return cls(f"{mean:.{digits}f}", spread_of(sd, digits), 0, "", "", ())


def write_sweeps(
    folder: Path, sweeps: Sequence[Sweep], parts: Sequence[Section], compared: Compared
) -> dict[str, Path]:
    """Writes ``report.html``, ``table.md``, ``.tex``, ``.csv`` and the figures of sweeps.

    Args:
        folder: where to write.
        sweeps: what was asked for.
        parts: their sections.
        compared: paired differences of some of the sections.

    Returns:
        the files by their names below the folder.
    """
    drawn, figures = _figures(folder / "figures", parts)
    tex = [latex(part, title_of([one for one in sweeps if one.name in part.sweeps]))
           for part in parts]  # fmt: skip
    texts = {
        "table.md": tables_of(sweeps, parts, compared),
        "table.tex": "\n\n".join(["% needs \\usepackage{booktabs}", *tex]) + "\n",
        "table.csv": csv_of(parts),
        "report.html": render("sweep.html.j2", _page(sweeps, parts, compared, drawn)),
    }
    for name, text in texts.items():
        write_text(folder / name, text)
    return {name: folder / name for name in texts} | figures


def _figures(
    folder: Path, parts: Sequence[Section]
) -> tuple[dict[int, tuple[Drawing, Markup]], dict[str, Path]]:
    """The figure of each section as it stands on the page, and the files of all."""
    drawn: dict[int, tuple[Drawing, Markup]] = {}
    files: dict[str, Path] = {}
    make_folder(folder.parent)
    make_subfolder(folder)
    with canvas.style():
        for place, section in enumerate(parts):
            one = trend(section)
            if one is None:
                continue
            if f"figures/{one.name}.svg" in files:
                one = replace(one, name=f"{one.name}-{place + 1}")
            one = canvas.readable(one)
            svg, png = canvas.save(one.figure, folder, one.name)
            files |= {f"figures/{path.name}": path for path in (svg, png)}
            plot = canvas.inline(svg.read_text(encoding="utf-8"), f"plot{place}", one.title)
            drawn[place] = one, Markup(plot)
    return drawn, files


def tables_of(sweeps: Sequence[Sweep], parts: Sequence[Section], compared: Compared) -> str:
    """All tables, as Markdown."""
    lines = [f"## {title_of(sweeps)}", "", progress_of(sweeps)]
    lines += [sweep.source for sweep in sweeps if sweep.source]
    for place, section in enumerate(parts):
        lines += ["", markdown(section)]
        if (found := compared.get(place)) is None:
            continue
        for title, head, rows in pairs.tables(section, found):
            lines += [
                "",
                f"Paired differences, {title}:",
                "",
                line_of(head),
                "|---" * len(head) + "|",
            ]
            lines += map(line_of, rows)
        if told := pairs.said(section, found):
            lines += ["", *(f"- {one}" for one in told)]
    return "\n".join(lines) + "\n"


def title_of(sweeps: Sequence[Sweep]) -> str:
    """What the sweeps are called."""
    return " + ".join(sweep.title or sweep.name for sweep in sweeps)


def progress_of(sweeps: Sequence[Sweep]) -> str:
    """How many runs are how far, in a line."""
    states = counts(sweeps)
    total = sum(states.values())
    told = [f"{states[state]} {state}" for state in STATES if states[state]]
    runs = "1 run" if total == 1 else f"{total} runs"
    return f"{runs}: {', '.join(told)}." if total else "There are no runs."


def counts(sweeps: Sequence[Sweep]) -> Counter[str]:
    """How many runs are in each state; a run that several sweeps share counts once."""
    return Counter(map(state_of, _jobs(sweeps)))


def state_of(job: Job) -> str:
    """Finished means that there is a report."""
    if job.report is not None:
        return "finished"
    return job.state if job.state != "finished" else "waiting"


def damaged_jobs(sweeps: Sequence[Sweep]) -> list[Job]:
    """The runs that have finished and whose report cannot be read."""
    return [job for job in _jobs(sweeps) if state_of(job) == "damaged"]


def _jobs(sweeps: Sequence[Sweep]) -> list[Job]:
    return list({job.run: job for sweep in sweeps for job in sweep.jobs}.values())


def _page(
    sweeps: Sequence[Sweep],
    parts: Sequence[Section],
    compared: Compared,
    drawn: Mapping[int, Any],
) -> dict[str, Any]:
    states, jobs = counts(sweeps), _jobs(sweeps)
    reports = [job.report for job in jobs if job.report is not None]
    seconds = [get_nested(report, "training", "seconds") for report in reports]
    spent = sum(value for value in seconds if is_number(value))
    return {
        "title": title_of(sweeps),
        "sources": list(dict.fromkeys(sweep.source for sweep in sweeps if sweep.source)),
        "commands": list(dict.fromkeys(sweep.command for sweep in sweeps if sweep.command)),
        "finished": states["finished"],
        "total": len(jobs),
        "states": [(state, str(states[state])) for state in STATES[1:] if states[state]],
        "spent": clock(spent) if spent else None,
        "sections": [
            _section(section, drawn.get(place), compared.get(place))
            for place, section in enumerate(parts)
        ],
        "failures": [(job.run, job.error or "no account of it was left")
                     for job in jobs if state_of(job) in ("failed", "damaged")],
        "ways": _ways(reports),
        "environment": _merged([get_nested(report, "environment") or {} for report in reports]),
    }  # fmt: skip


def _section(section: Section, drawn: Any, compared: Pairs | None) -> dict[str, Any]:
    table, digits = Table.of(section), section.layout.digits
    rows = [
        (section.name_of(row), table.kinds.get(row, ""),
         [Box.of(table.cells.get((row, column)), section) for column in section.columns])
        for row in section.rows
    ]  # fmt: skip
    rows += [
        (one.label, "shallow",
         [Box.of_reference(one, column, digits) for column in section.columns])
        for one in table.references
    ]  # fmt: skip
    return {
        "title": section.title,
        "plots": [] if drawn is None else [drawn],
        "label": section.row_label,
        "kinds": bool(table.kinds),
        "heads": [section.head_of(column) for column in section.columns],
        "rows": rows,
        "conditions": conditions(section),
        "notes": all_notes(section, table.cells, "bold", "underlined"),
        "pairs": [] if compared is None else pairs.tables(section, compared),
        "said": [] if compared is None else pairs.said(section, compared),
    }


def _ways(reports: Sequence[Found]) -> list[tuple[str, Rows]]:
    """The protocol and the conventions of each way in which runs were measured.

    Of a second way on the same protocol only what differs from the first.
    """
    ways: dict[Any, Found] = {}
    for report in reports:
        ways.setdefault(measured(report), report)
    told: list[tuple[str, Rows]] = []
    first: dict[str, Rows] = {}
    for one in ways.values():
        protocol = dict(get_nested(one, "protocol") or {})
        protocol.pop("skipped", None)
        rows = rows_of(protocol) + rows_of(get_nested(one, "metrics", "conventions") or {})
        title = f"{protocol.get('dataset')}, {protocol.get('protocol')}"
        if title in first:
            told.append((f"{title}: other runs", [row for row in rows if row not in first[title]]))
        else:
            first[title] = rows
            told.append((title, rows))
    return told


def _merged(environments: Sequence[Mapping[str, Any]]) -> Rows:
    """Of each fact all values that occur, the most frequent first."""
    keys = dict.fromkeys(key for one in environments for key in one)
    return [
        (key.replace("_", " "),
         "; ".join(value for value, _ in Counter(shown(one.get(key)) for one in environments)
                   .most_common()))
        for key in keys
    ]  # fmt: skip
