"""Tables of results as Markdown, LaTeX and CSV."""

import csv
import io
import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from deephash.report.notes import Note, conditions_table, section_notes
from deephash.report.results import BaselineRow, Cell, Key, Section
from deephash.report.values import (
    Report,
    mean_and_sd,
    measurement_key,
    metric_name,
    run_label,
    seeds_text,
)
from deephash.utils.formatting import number, typed
from deephash.utils.nested import get_nested

DASH = "—"

CSV_COLUMNS = (
    "sweeps", "dataset", "protocol", "settings", "row_key", "row", "column_key", "column", "seeds",
    "jobs", "mean", "sd", "published", "difference", "rank", "marks", "fingerprint", "convention",
    "selection", "states", "kind", "also", "also_mean", "also_sd", "verified",
)  # fmt: skip

LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}",
    "α": r"$\alpha$", "β": r"$\beta$", "γ": r"$\gamma$", "λ": r"$\lambda$", "η": r"$\eta$",
    "σ": r"$\sigma$", "Δ": r"$\Delta$", "±": r"$\pm$", "−": "$-$", "—": "---", "–": "--",
    "†": r"$\dagger$", "‡": r"$\ddagger$", "§": r"\S{}", "¶": r"\P{}", "×": r"$\times$",
    "…": r"\ldots{}",
}  # fmt: skip


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Return the lines of a Markdown table; its cells are not escaped."""
    lines = [f"| {' | '.join(cells)} |" for cells in (head, *rows)]
    return [lines[0], "|---" * len(head) + "|", *lines[1:]]


def format_sd(sd: float, digits: int) -> str:
    """Return a standard deviation as it follows a mean; empty if there is none."""
    return f" ± {sd:.{digits}f}" if math.isfinite(sd) else ""


def format_difference(value: float, digits: int) -> str:
    """Return a difference with its sign.

    >>> format_difference(-0.0123, 3), format_difference(0.2, 2), format_difference(-0.0001, 2)
    ('−0.012', '+0.20', '0.00')
    """
    text = f"{value:+.{digits}f}"
    return text.replace("-", "−") if float(text) else text[1:]


def reports_markdown(reports: Sequence[Report], names: Mapping[str, str] | None = None) -> str:
    """Return the mAP of runs, mean and standard deviation over seeds, as Markdown tables.

    There is a table for each dataset and protocol, with a row for each method and setting and a
    column for each number of bits. Cells whose runs were evaluated under another convention, or on
    other data, than the first of the table are marked.

    Args:
        reports: as in ``report.json``.
        names: of rows, by run; by default what distinguishes the run's name.
    """
    tables: dict[tuple[str, str], list[Report]] = defaultdict(list)
    for report in reports:
        tables[report["protocol"]["dataset"], report["protocol"]["protocol"]].append(report)
    rows = {report["run"]: run_label(report["run"]) for report in reports} | dict(names or {})
    return "\n\n".join(_reports_table(group, rows) for group in tables.values())


def _reports_table(reports: Sequence[Report], names: Mapping[str, str]) -> str:
    first, protocol = reports[0], reports[0]["protocol"]
    bits = sorted({report["nbit"] for report in reports})
    cells: dict[str, dict[int, list[Report]]] = defaultdict(lambda: defaultdict(list))
    for report in reports:
        cells[names[report["run"]]][report["nbit"]].append(report)
    rows = [
        [name, *(_reports_cell(by_bits.get(nbit, []), first) for nbit in bits)]
        for name, by_bits in cells.items()
    ]
    seeds = [str(seed) for seed in sorted({report["seed"] for report in reports})]
    lines = [
        f"{metric_name(first)}, {protocol['dataset']}, protocol {protocol['protocol']},"
        f" fingerprint {protocol['fingerprint'][:16]}; {seeds_text(seeds)}",
        "",
        *markdown_table(["method", *(f"{nbit} bits" for nbit in bits)], rows),
    ]
    text = "\n".join(lines[4:])
    if "*" in text:
        lines += ["", "\\* evaluated under another convention, or on other data"]
    if DASH in text:
        lines += ["", f"{DASH} images without labels: there is no mAP"]
    return "\n".join(lines)


def _reports_cell(reports: Sequence[Report], first: Report) -> str:
    if not reports:
        return ""
    mean, sd = mean_and_sd(report["metrics"]["map"] for report in reports)
    if not math.isfinite(mean):
        return DASH
    mark = any(measurement_key(report) != measurement_key(first) for report in reports)
    return number(mean) + format_sd(sd, 4) + (" \\*" if mark else "")


@dataclass(frozen=True)
class CellText:
    """A cell of a section's table as formatted numbers; all are empty where there is none."""

    value: str = ""
    sd: str = ""
    rank: int = 0
    marks: tuple[str, ...] = ()
    state: str = ""
    extra: str = ""  # mAP at the second R
    published: str = ""
    difference: str = ""

    @classmethod
    def of(cls, cell: Cell | None, digits: int) -> "CellText":
        """Format a cell; None stands for a cell that the grid does not have."""
        if cell is None:
            return cls()
        known, difference = cell.published is not None, cell.difference
        return cls(
            *_format_mean(cell.mean, cell.sd, digits),
            cell.rank,
            cell.marks,
            cell.state,
            "".join(_format_mean(cell.extra_mean, cell.extra_sd, digits)),
            f"{cell.published:.{digits}f}" if known else "",
            "" if difference is None else format_difference(difference, digits),
        )


def _format_mean(mean: float, sd: float, digits: int) -> tuple[str, str]:
    """Return mean and deviation as text, both empty if there is no mean."""
    return (f"{mean:.{digits}f}", format_sd(sd, digits)) if math.isfinite(mean) else ("", "")


@dataclass(frozen=True)
class SectionTable:
    """The table of a section, independent of its format; baseline rows are last.

    A column has up to four parts: mAP, mAP at a second R, published number, and difference to it.
    """

    section: Section
    rows: list[tuple[list[str], list[CellText]]] = field(init=False)  # names and cells

    def __post_init__(self) -> None:
        section, digits = self.section, self.section.layout.digits
        rows = []
        for row in section.rows:
            names = [section.row_name(row)]
            if section.kinds:
                names.append(section.kinds[row])
            cells = [section.cells.get((row, column)) for column in section.columns]
            rows.append((names, [CellText.of(cell, digits) for cell in cells]))
        for baseline in section.baseline_rows:
            names = [baseline.label, "shallow"] if section.kinds else [baseline.label]
            values = [baseline.values.get(it, (math.nan, math.nan)) for it in section.columns]
            rows.append((names, [CellText(*_format_mean(*value, digits)) for value in values]))
        object.__setattr__(self, "rows", rows)

    @cached_property
    def parts(self) -> list[tuple[bool, bool]]:
        """For each column, whether it has mAP at a second R, and published numbers."""
        columns = zip(*(cells for _, cells in self.rows), strict=True)
        return [
            (any(cell.extra for cell in cells), any(cell.published for cell in cells))
            for cells in map(list, columns)
        ]

    @property
    def published_label(self) -> str:
        """Title of the columns of published numbers."""
        table = self.section.published
        return "published" if table is None else table.column

    @property
    def head(self) -> list[str]:
        """Titles of all columns."""
        head = [self.section.row_label]
        if self.section.kinds:
            head.append("kind")
        for column, (extra, published) in zip(self.section.columns, self.parts, strict=True):
            head.append(self.section.column_name(column))
            if extra:
                head.append(str(self.section.extra_metric))
            if published:
                head += [self.published_label, "Δ"]
        return head

    @property
    def alignment(self) -> str:
        """Column types of LaTeX."""
        text = "ll" if self.section.kinds else "l"
        for extra, published in self.parts:
            text += ("ll" if extra else "l") + ("rr" if published else "")
        return text

    def lines(
        self, format_cell: Callable[[CellText], str], escape: Callable[[str], str]
    ) -> Iterable[list[str]]:
        """Return the texts of each row.

        Args:
            format_cell: formats the mAP of a cell.
            escape: escapes names and all other numbers.
        """
        for names, cells in self.rows:
            line = list(map(escape, names))
            for cell, (extra, published) in zip(cells, self.parts, strict=True):
                line.append(format_cell(cell))
                if extra:
                    line.append(escape(cell.extra))
                if published:
                    line += [escape(cell.published), escape(cell.difference)]
            yield line

    def notes(self, best: str, second: str) -> list[Note]:
        """Return the notes below the table, first how the two best of a column are printed."""
        notes = section_notes(self.section)
        if any(cell.rank for cell in self.section.cells.values()):
            notes.insert(0, ("", f"Best of a column {best}, second best {second}."))
        return notes


def section_markdown(section: Section) -> str:
    """Return heading, table and notes of a section."""
    table = SectionTable(section)
    lines = [f"### {section.title}", ""]
    lines += markdown_table([*map(_md, table.head)], table.lines(_md_cell, _md))
    lines.append("")
    lines += [
        f"- {_md(mark)}: {_md(text)}" if mark else f"- {_md(text)}"
        for mark, text in table.notes("bold", "italics")
    ]
    head, rows = conditions_table(section)
    if head:
        lines += ["", "Conditions of the runs:", ""]
        lines += markdown_table([*map(_md, head)], ([*map(_md, row)] for row in rows))
    return "\n".join(lines)


def section_latex(section: Section, title: str = "") -> str:
    """Return a ``table`` for the package booktabs; ``title`` is that of its sweeps."""
    table = SectionTable(section)
    label = re.sub(r"[^A-Za-z0-9]+", "-", "-".join([*section.sweeps, section.title])).strip("-")
    notes = [
        (rf"\textsuperscript{{{_tex(mark)}}} " if mark else "") + _tex(text)
        for mark, text in table.notes("bold", "underlined")
    ]
    return "\n".join(
        [
            r"\begin{table}",
            r"  \centering",
            rf"  \caption{{{_tex(': '.join(filter(None, (title, section.title))))}}}",
            rf"  \label{{tab:{label}}}",
            rf"  \begin{{tabular}}{{{table.alignment}}}",
            r"    \toprule",
            rf"    {' & '.join(map(_tex, table.head))} \\",
            r"    \midrule",
            *(rf"    {' & '.join(line)} \\" for line in table.lines(_tex_cell, _tex)),
            r"    \bottomrule",
            r"  \end{tabular}",
            *(rf"  \par\footnotesize {note}" for note in notes),
            r"\end{table}",
        ]
    )


def _md_cell(cell: CellText) -> str:
    if not cell.value:
        return f"{DASH} {cell.state}" if cell.state else ""
    value = {0: cell.value, 1: f"**{cell.value}**", 2: f"_{cell.value}_"}[cell.rank] + cell.sd
    state = f"({cell.state})" if cell.state else ""
    return " ".join(filter(None, (value, *map(_md, cell.marks), state)))


def _tex_cell(cell: CellText) -> str:
    if not cell.value:
        return _tex(f"{DASH} {cell.state}") if cell.state else ""
    value = {0: "{}", 1: r"\textbf{{{}}}", 2: r"\underline{{{}}}"}[cell.rank].format(cell.value)
    value += _tex(cell.sd)
    if cell.marks:
        value += rf"\textsuperscript{{{','.join(map(_tex, cell.marks))}}}"
    return value + (_tex(f" ({cell.state})") if cell.state else "")


def _md(text: str) -> str:
    """Escape the syntax of Markdown."""
    return re.sub(r"([\\`*_|<>])", r"\\\1", text)


def _tex(text: str) -> str:
    return "".join(LATEX.get(letter, letter) for letter in text)


def sections_csv(sections: Sequence[Section]) -> str:
    """Return all cells of all sections, one in a line, with mAP in full precision."""
    text = io.StringIO()
    writer = csv.DictWriter(text, CSV_COLUMNS, lineterminator="\n")
    writer.writeheader()
    for section in sections:
        for (row, column), cell in section.cells.items():
            writer.writerow(_csv_common(section, column) | _csv_cell(section, row, cell))
        for baseline in section.baseline_rows:
            for column, value in baseline.values.items():
                writer.writerow(_csv_common(section, column) | _csv_baseline(baseline, *value))
    return text.getvalue()


def _csv_common(section: Section, column: Any) -> dict[str, Any]:
    return {
        "sweeps": "+".join(section.sweeps),
        "dataset": section.place[0],
        "protocol": section.place[1],
        "settings": " ".join(section.settings),
        "column_key": section.layout.columns,
        "column": typed(column),
    }


def _csv_cell(section: Section, row: Key, cell: Cell) -> dict[str, Any]:
    reports, table = cell.included, section.published
    states = ["finished" if run.report is not None else run.state for run in cell.runs]
    return {
        "row_key": " ".join(section.keys),
        "row": section.row_name(row),
        "seeds": len(reports),
        "jobs": len(cell.runs),
        "mean": _finite(cell.mean),
        "sd": _finite(cell.sd),
        "published": cell.published,
        "difference": cell.difference,
        "rank": cell.rank or None,
        "marks": " ".join(cell.marks),
        "fingerprint": _distinct(get_nested(it, "protocol", "fingerprint") for it in reports),
        "convention": _distinct(map(_convention, reports)),
        "selection": _distinct(get_nested(it, "selection", "select_on") for it in reports),
        "states": "; ".join(f"{states.count(it)} {it}" for it in dict.fromkeys(states)),
        "kind": ", ".join(dict.fromkeys(str(it.get("kind") or "unknown") for it in reports)),
        "also": section.extra_metric,
        "also_mean": _finite(cell.extra_mean),
        "also_sd": _finite(cell.extra_sd),
        "verified": None if table is None or cell.published is None else table.verified,
    }


def _convention(report: Report) -> str:
    conventions = get_nested(report, "metrics", "conventions") or {}
    options = [
        f"{key}={conventions[key]}"
        for key in ("ties", "denominator", "empty", "ternary")
        if conventions.get(key) is not None
    ]
    return " ".join([str(conventions.get("metric")), *options])


def _csv_baseline(baseline: BaselineRow, mean: float, sd: float) -> dict[str, Any]:
    """Return a cell of a baseline row, whose ``seeds`` are its draws."""
    return {
        "row": baseline.label,
        "seeds": baseline.draws,
        "mean": mean,
        "sd": _finite(sd),
        "kind": "shallow",
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _distinct(texts: Iterable[Any]) -> str:
    return " ".join(dict.fromkeys(str(text or "") for text in texts))
