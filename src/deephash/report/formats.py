"""A section's table as Markdown, LaTeX and CSV."""

import csv
import io
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from deephash.report.cells import Entry, entries, notes
from deephash.report.grid import Key, Section
from deephash.report.rows import dig
from deephash.words import typed

NONE = "—"

Entries = Mapping[tuple[Key, Any], Entry]

CSV_COLUMNS = (
    "sweeps", "dataset", "protocol", "settings", "row_key", "row", "column_key", "column", "seeds",
    "jobs", "mean", "sd", "published", "difference", "rank", "marks", "fingerprint", "convention",
    "selection", "states",
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


def markdown(section: Section) -> str:
    """A heading, the table and what is to be said of it."""
    cells = entries(section)
    head = [section.row_label]
    for column, beside in _columns(section, cells):
        head += [section.head_of(column), *["published", "Δ"] * beside]
    lines = [f"### {section.title}", "", line_of(map(_md, head)), "|---" * len(head) + "|"]
    for row in section.rows:
        told = [_md(section.name_of(row))]
        for column, beside in _columns(section, cells):
            entry = cells.get((row, column))
            told.append(_md_cell(entry, section.layout.digits))
            told += _beside(entry, section.layout.digits) * beside
        lines.append(line_of(told))
    said = [f"- {_md(mark)}: {_md(text)}" if mark else f"- {_md(text)}"
            for mark, text in all_notes(section, cells, "bold", "italics")]  # fmt: skip
    return "\n".join([*lines, "", *said])


def latex(section: Section, title: str = "") -> str:
    """A ``table`` for the package booktabs; ``title`` is of its sweeps."""
    cells = entries(section)
    columns = _columns(section, cells)
    spec = "l" + "".join("lrr" if beside else "l" for _, beside in columns)
    head = [_tex(section.row_label)]
    for column, beside in columns:
        head += [_tex(section.head_of(column)), *["published", r"$\Delta$"] * beside]
    body = []
    for row in section.rows:
        told = [_tex(section.name_of(row))]
        for column, beside in columns:
            entry = cells.get((row, column))
            told.append(_tex_cell(entry, section.layout.digits))
            told += [_tex(text) for text in _beside(entry, section.layout.digits)] * beside
        body.append(told)
    label = re.sub(r"[^A-Za-z0-9]+", "-", "-".join([*section.sweeps, section.title])).strip("-")
    said = [(rf"\textsuperscript{{{_tex(mark)}}} " if mark else "") + _tex(text)
            for mark, text in all_notes(section, cells, "bold", "underlined")]  # fmt: skip
    return "\n".join(
        [
            r"\begin{table}",
            r"  \centering",
            rf"  \caption{{{_tex(': '.join(filter(None, (title, section.title))))}}}",
            rf"  \label{{tab:{label}}}",
            rf"  \begin{{tabular}}{{{spec}}}",
            r"    \toprule",
            rf"    {' & '.join(head)} \\",
            r"    \midrule",
            *(rf"    {' & '.join(told)} \\" for told in body),
            r"    \bottomrule",
            r"  \end{tabular}",
            *(rf"  \par\footnotesize {line}" for line in said),
            r"\end{table}",
        ]
    )


def csv_of(sections: Sequence[Section]) -> str:
    """All cells of all sections, a line each; mAP in full precision."""
    text = io.StringIO()
    table = csv.DictWriter(text, CSV_COLUMNS, lineterminator="\n")
    table.writeheader()
    for section in sections:
        for (row, column), entry in entries(section).items():
            table.writerow(_csv_line(section, row, column, entry))
    return text.getvalue()


def rows_of_section(section: Section) -> tuple[list[str], list[tuple[str, list[Entry | None]]]]:
    """For a page: the heads of the columns, and each row's name and cells."""
    cells = entries(section)
    heads = [section.head_of(column) for column in section.columns]
    rows = [(section.name_of(row), [cells.get((row, column)) for column in section.columns])
            for row in section.rows]  # fmt: skip
    return heads, rows


def all_notes(section: Section, cells: Entries, best: str, second: str) -> list[tuple[str, str]]:
    """The notes of a section, the first one on how the ranks look, if there are any."""
    ranks = [("", f"Best of a column {best}, second best {second}.")]
    return ranks * any(entry.rank for entry in cells.values()) + notes(section, cells.values())


def value_of(entry: Entry, digits: int) -> tuple[str, str]:
    """The mean, and what follows it: the deviation, if there is one.

    Both are empty if no run has finished.
    """
    if not math.isfinite(entry.mean):
        return "", ""
    spread = f" ± {entry.sd:.{digits}f}" if math.isfinite(entry.sd) else ""
    return f"{entry.mean:.{digits}f}", spread


def signed(value: float, digits: int) -> str:
    """A difference with its sign.

    >>> signed(-0.0123, 3), signed(0.2, 2), signed(-0.0001, 2)
    ('−0.012', '+0.20', '0.00')
    """
    text = f"{value:+.{digits}f}"
    return text.replace("-", "−") if float(text) else text[1:]


def _columns(section: Section, cells: Entries) -> list[tuple[Any, bool]]:
    """The columns, and whether any published number stands beside."""
    known = {column for (_, column), entry in cells.items() if entry.published is not None}
    return [(column, column in known) for column in section.columns]


def _beside(entry: Entry | None, digits: int) -> list[str]:
    """The published number and the difference to it."""
    if entry is None or entry.published is None:
        return ["", ""]
    difference = "" if entry.difference is None else signed(entry.difference, digits)
    return [f"{entry.published:.{digits}f}", difference]


def _md_cell(entry: Entry | None, digits: int) -> str:
    if entry is None:
        return ""
    value, spread = value_of(entry, digits)
    if not value:
        return f"{NONE} {entry.state}"
    value = {0: value, 1: f"**{value}**", 2: f"_{value}_"}[entry.rank] + spread
    marks = " ".join(map(_md, entry.marks))
    return " ".join(filter(None, (value, marks, entry.state and f"({entry.state})")))


def _tex_cell(entry: Entry | None, digits: int) -> str:
    if entry is None:
        return ""
    value, spread = value_of(entry, digits)
    if not value:
        return _tex(f"{NONE} {entry.state}")
    value = {0: value, 1: rf"\textbf{{{value}}}", 2: rf"\underline{{{value}}}"}[entry.rank]
    marks = ",".join(map(_tex, entry.marks))
    marks = rf"\textsuperscript{{{marks}}}" if marks else ""
    return value + _tex(spread) + marks + (_tex(f" ({entry.state})") if entry.state else "")


def _csv_line(section: Section, row: Key, column: Any, entry: Entry) -> dict[str, Any]:
    cell, runs = section.cells[row, column], entry.told
    prints = [str(dig(run, "protocol", "fingerprint") or "") for run in runs]
    told = [dig(run, "metrics", "conventions") or {} for run in runs]
    named = [
        " ".join(
            [str(one.get("metric")), *(f"{key}={one[key]}" for key in ("ties", "denominator",
             "empty", "ternary") if one.get(key) is not None)]
        )
        for one in told
    ]  # fmt: skip
    on = [str(dig(run, "selection", "select_on") or "") for run in runs]
    states = [job.state if job.report is None else "finished" for job in cell.jobs]
    line = {
        "sweeps": "+".join(section.sweeps),
        "dataset": section.place[0],
        "protocol": section.place[1],
        "settings": " ".join(section.settings),
        "row_key": " ".join(section.keys),
        "row": section.name_of(row),
        "column_key": section.layout.columns,
        "column": typed(column),
        "seeds": len(runs),
        "jobs": len(cell.jobs),
        "mean": entry.mean if runs else None,
        "sd": entry.sd if len(runs) > 1 else None,
        "published": entry.published,
        "difference": entry.difference,
        "rank": entry.rank or None,
        "marks": " ".join(entry.marks),
    }
    several = {"fingerprint": prints, "convention": named, "selection": on, "states": states}
    return line | {name: " ".join(dict.fromkeys(texts)) if name != "states" else
                   "; ".join(f"{texts.count(one)} {one}" for one in dict.fromkeys(texts))
                   for name, texts in several.items()}  # fmt: skip


def line_of(cells: Iterable[str]) -> str:
    """A line of a table in Markdown."""
    return "| " + " | ".join(cells) + " |"


def _md(text: str) -> str:
    """Text in a table of Markdown: what would be syntax is escaped."""
    return re.sub(r"([\\`*_|<>])", r"\\\1", text)


def _tex(text: str) -> str:
    return "".join(LATEX.get(letter, letter) for letter in text)
