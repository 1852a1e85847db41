"""A section's table as Markdown, LaTeX and CSV."""

import csv
import io
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from deephash.report.cells import (
    Entry,
    Reference,
    conditions,
    entries,
    further_metric,
    kinds,
    notes,
    reference_rows,
)
from deephash.report.grid import Key, Section
from deephash.report.published import published
from deephash.utils.formatting import typed
from deephash.utils.nested import get_nested

NONE = "—"

Entries = Mapping[tuple[Key, Any], Entry]

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


def markdown(section: Section) -> str:
    """A heading, the table and what is to be said of it."""
    table = Table.of(section)
    head = table.head()
    lines = [f"### {section.title}", "", line_of(map(_md, head)), "|---" * len(head) + "|"]
    lines += [line_of([*names, *cells]) for names, cells in table.lines(_md_cell, _md)]
    said = [f"- {_md(mark)}: {_md(text)}" if mark else f"- {_md(text)}"
            for mark, text in all_notes(section, table.cells, "bold", "italics")]  # fmt: skip
    names, rows = conditions(section)
    under = [] if not names else [
        "", "Conditions of the runs:", "", line_of(map(_md, names)), "|---" * len(names) + "|",
        *(line_of(map(_md, row)) for row in rows),
    ]  # fmt: skip
    return "\n".join([*lines, "", *said, *under])


def latex(section: Section, title: str = "") -> str:
    """A ``table`` for the package booktabs; ``title`` is of its sweeps."""
    table = Table.of(section)
    body = [[*names, *cells] for names, cells in table.lines(_tex_cell, _tex)]
    label = re.sub(r"[^A-Za-z0-9]+", "-", "-".join([*section.sweeps, section.title])).strip("-")
    said = [(rf"\textsuperscript{{{_tex(mark)}}} " if mark else "") + _tex(text)
            for mark, text in all_notes(section, table.cells, "bold", "underlined")]  # fmt: skip
    return "\n".join(
        [
            r"\begin{table}",
            r"  \centering",
            rf"  \caption{{{_tex(': '.join(filter(None, (title, section.title))))}}}",
            rf"  \label{{tab:{label}}}",
            rf"  \begin{{tabular}}{{{table.spec()}}}",
            r"    \toprule",
            rf"    {' & '.join(map(_tex, table.head()))} \\",
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
        for reference in reference_rows(section):
            for column, value in reference.values.items():
                table.writerow(_csv_reference(section, reference, column, value))
    return text.getvalue()


@dataclass(frozen=True)
class Table:
    """What all formats of a section's table have in common.

    A column has up to four parts: the mAP, the mAP at a further R, the published number and the
    difference to it. Reference rows stand last.
    """

    section: Section
    cells: Entries
    columns: tuple[tuple[Any, bool, bool], ...]  # with a further R, with published numbers
    kinds: Mapping[Key, str]  # by row; empty: no such column
    references: tuple[Reference, ...]

    @classmethod
    def of(cls, section: Section) -> "Table":
        """The table of a section."""
        cells = entries(section)
        also = {column for (_, column), one in cells.items() if math.isfinite(one.also)}
        known = {column for (_, column), one in cells.items() if one.published is not None}
        columns = tuple((column, column in also, column in known) for column in section.columns)
        return cls(section, cells, columns, kinds(section), tuple(reference_rows(section)))

    def head(self) -> list[str]:
        """The heads of all columns."""
        theirs = published(self.section.layout.published, self.section.place[0])
        head = [self.section.row_label, *["kind"] * bool(self.kinds)]
        for column, also, beside in self.columns:
            head += [self.section.head_of(column), *[str(further_metric(self.section))] * also]
            head += [theirs.column if theirs is not None else "published", "Δ"] * beside
        return head

    def spec(self) -> str:
        """How LaTeX aligns the columns."""
        names = "l" * (1 + bool(self.kinds))
        return names + "".join("l" + "l" * also + "rr" * beside for _, also, beside in self.columns)

    def lines(
        self, cell: Callable[[Entry | None, int], str], escape: Callable[[str], str]
    ) -> Iterable[tuple[list[str], list[str]]]:
        """The names and the cells of each row, as a format writes them.

        Args:
            cell: writes the mAP of an entry with so many digits.
            escape: escapes text of a name or a number.
        """
        digits = self.section.layout.digits
        for row in self.section.rows:
            names = [self.section.name_of(row), *[self.kinds.get(row, "")] * bool(self.kinds)]
            texts = []
            for column, also, beside in self.columns:
                entry = self.cells.get((row, column))
                texts.append(cell(entry, digits))
                texts += [escape(further_of(entry, digits))] * also
                texts += [escape(text) for text in _beside(entry, digits)] * beside
            yield [escape(name) for name in names], texts
        for one in self.references:
            names, texts = [one.label, *["shallow"] * bool(self.kinds)], []
            for column, also, beside in self.columns:
                mean, sd = one.values.get(column, (math.nan, math.nan))
                texts.append(escape(number_of(mean, sd, digits)))
                texts += [""] * (also + 2 * beside)
            yield [escape(name) for name in names], texts


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
    return f"{entry.mean:.{digits}f}", spread_of(entry.sd, digits)


def spread_of(sd: float, digits: int) -> str:
    """A deviation as it follows a mean; empty if there is none."""
    return f" ± {sd:.{digits}f}" if math.isfinite(sd) else ""


def number_of(mean: float, sd: float, digits: int) -> str:
    """A mean and its deviation; empty if there is no mean."""
    return f"{mean:.{digits}f}{spread_of(sd, digits)}" if math.isfinite(mean) else ""


def further_of(entry: Entry | None, digits: int) -> str:
    """The mAP of an entry at the further R; empty if there is none."""
    return "" if entry is None else number_of(entry.also, entry.also_sd, digits)


def signed(value: float, digits: int) -> str:
    """A difference with its sign.

    >>> signed(-0.0123, 3), signed(0.2, 2), signed(-0.0001, 2)
    ('−0.012', '+0.20', '0.00')
    """
    text = f"{value:+.{digits}f}"
    return text.replace("-", "−") if float(text) else text[1:]


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
    theirs = published(section.layout.published, section.place[0])
    prints = [str(get_nested(run, "protocol", "fingerprint") or "") for run in runs]
    told = [get_nested(run, "metrics", "conventions") or {} for run in runs]
    named = [
        " ".join(
            [str(one.get("metric")), *(f"{key}={one[key]}" for key in ("ties", "denominator",
             "empty", "ternary") if one.get(key) is not None)]
        )
        for one in told
    ]  # fmt: skip
    on = [str(get_nested(run, "selection", "select_on") or "") for run in runs]
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
        "kind": ", ".join(dict.fromkeys(str(one.get("kind") or "unknown") for one in runs)),
        "also": further_metric(section),
        "also_mean": entry.also if math.isfinite(entry.also) else None,
        "also_sd": entry.also_sd if math.isfinite(entry.also_sd) else None,
        "verified": None if theirs is None or entry.published is None else theirs.verified,
    }
    several = {"fingerprint": prints, "convention": named, "selection": on, "states": states}
    return line | {name: " ".join(dict.fromkeys(texts)) if name != "states" else
                   "; ".join(f"{texts.count(one)} {one}" for one in dict.fromkeys(texts))
                   for name, texts in several.items()}  # fmt: skip


def _csv_reference(
    section: Section, reference: Reference, column: Any, value: tuple[float, float]
) -> dict[str, Any]:
    """A cell of a reference row; its ``seeds`` are the draws."""
    mean, sd = value
    return {
        "sweeps": "+".join(section.sweeps),
        "dataset": section.place[0],
        "protocol": section.place[1],
        "settings": " ".join(section.settings),
        "row": reference.label,
        "column_key": section.layout.columns,
        "column": typed(column),
        "seeds": reference.draws,
        "mean": mean,
        "sd": sd if math.isfinite(sd) else None,
        "kind": "shallow",
    }


def line_of(cells: Iterable[str]) -> str:
    """A line of a table in Markdown."""
    return "| " + " | ".join(cells) + " |"


def _md(text: str) -> str:
    """Text in a table of Markdown: what would be syntax is escaped."""
    return re.sub(r"([\\`*_|<>])", r"\\\1", text)


def _tex(text: str) -> str:
    return "".join(LATEX.get(letter, letter) for letter in text)
