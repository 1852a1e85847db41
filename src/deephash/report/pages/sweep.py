"""Report of sweeps: tables, figures and a page."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from markupsafe import Markup

from deephash.report.answer import answer_sentences
from deephash.report.figures.style import Drawing, style
from deephash.report.figures.sweep import heat_map, sweep_figure
from deephash.report.notes import conditions_table
from deephash.report.pages.base import Rows, format_value, render, save_figures, value_rows
from deephash.report.pages.links import INDEX, PAGE, address
from deephash.report.paired_results import PairedResults, pair_notes, pair_tables
from deephash.report.results import SEED, Cell, Section, Sweep, SweepRun
from deephash.report.tables import (
    SectionTable,
    markdown_table,
    section_latex,
    section_markdown,
    sections_csv,
)
from deephash.report.values import Report, is_number, measurement_key
from deephash.utils.files import write_text
from deephash.utils.formatting import clock, typed
from deephash.utils.nested import get_nested

STATES = ("finished", "running", "failed", "damaged", "interrupted", "waiting")

Compared = Mapping[int, PairedResults]
"""Paired differences by index of the section."""


def write_sweeps(
    folder: Path,
    sweeps: Sequence[Sweep],
    sections: Sequence[Section],
    compared: Compared,
    outputs: Path | None = None,
) -> dict[str, Path]:
    """Write ``report.html``, ``table.md``, ``.tex``, ``.csv`` and the figures of sweeps.

    Args:
        folder: of the files to write.
        sweeps: to report.
        sections: of the sweeps.
        compared: paired differences of some sections.
        outputs: folder that contains the runs, to which the page links; None for no links.

    Returns:
        The files by their names below the folder.
    """
    plots, figures = _write_figures(folder / "figures", sections)
    tex = [
        section_latex(section, joint_title([it for it in sweeps if it.name in section.sweeps]))
        for section in sections
    ]
    values = _page_values(sweeps, sections, compared, plots) | {"pages": []}
    values["links"] = {}
    if outputs is not None:
        values["pages"] = [("all runs", address(outputs / INDEX, folder))]
        for run in _distinct_runs(sweeps):
            if run.report is not None and (outputs / run.name / PAGE).is_file():
                values["links"][run.name] = address(outputs / run.name / PAGE, folder)
    values["files"] = [(name, name) for name in ("table.csv", "table.md", "table.tex")]
    texts = {
        "table.md": all_markdown(sweeps, sections, compared),
        "table.tex": "\n\n".join(["% needs \\usepackage{booktabs}", *tex]) + "\n",
        "table.csv": sections_csv(sections),
        "report.html": render("sweep.html.j2", values),
    }
    for name, text in texts.items():
        write_text(folder / name, text)
    return {name: folder / name for name in texts} | figures


def _write_figures(
    folder: Path, sections: Sequence[Section]
) -> tuple[dict[int, list[tuple[Drawing, Markup]]], dict[str, Path]]:
    """Return the figures by index of their section, and the files of all figures."""
    with style():
        drawings: list[tuple[int, Drawing]] = []
        for index, section in enumerate(sections):
            for drawing in (sweep_figure(section), heat_map(section)):
                if drawing is None:
                    continue
                if any(drawing.name == other.name for _, other in drawings):
                    drawing = replace(drawing, name=f"{drawing.name}-{index + 1}")
                drawings.append((index, drawing))
        saved = save_figures([drawing for _, drawing in drawings], folder)
    files = {
        f"figures/{it.name}": it for _, png, _ in saved for it in (png.with_suffix(".svg"), png)
    }
    plots: dict[int, list[tuple[Drawing, Markup]]] = {}
    for (index, _), (drawing, _, element) in zip(drawings, saved, strict=True):
        plots.setdefault(index, []).append((drawing, element))
    return plots, files


def all_markdown(sweeps: Sequence[Sweep], sections: Sequence[Section], compared: Compared) -> str:
    """Return all tables as Markdown."""
    lines = [f"## {joint_title(sweeps)}", "", _progress_line(sweeps)]
    lines += [sweep.source for sweep in sweeps if sweep.source]
    for index, section in enumerate(sections):
        results = compared.get(index)
        lines += ["", *answer_sentences(section, results)]
        lines += ["", section_markdown(section)]
        if results is None:
            continue
        for title, head, rows in pair_tables(section, results):
            lines += ["", f"Paired differences, {title}:", "", *markdown_table(head, rows)]
        if notes := pair_notes(section, results):
            lines += ["", *(f"- {note}" for note in notes)]
    return "\n".join(lines) + "\n"


def joint_title(sweeps: Sequence[Sweep]) -> str:
    """Return the titles of sweeps in one line."""
    return " + ".join(sweep.title or sweep.name for sweep in sweeps)


def _progress_line(sweeps: Sequence[Sweep]) -> str:
    states = count_states(sweeps)
    total = sum(states.values())
    if not total:
        return "There are no runs."
    counts = [f"{states[state]} {state}" for state in STATES if states[state]]
    return f"{'1 run' if total == 1 else f'{total} runs'}: {', '.join(counts)}."


def count_states(sweeps: Sequence[Sweep]) -> Counter[str]:
    """Return the number of runs in each state; a run that several sweeps share counts once."""
    return Counter(map(_state, _distinct_runs(sweeps)))


def _state(run: SweepRun) -> str:
    """Return the state of a run, which is finished if and only if it has a report."""
    if run.report is not None:
        return "finished"
    return run.state if run.state != "finished" else "waiting"


def damaged_runs(sweeps: Sequence[Sweep]) -> list[SweepRun]:
    """Return the finished runs whose report cannot be read."""
    return [run for run in _distinct_runs(sweeps) if _state(run) == "damaged"]


def _distinct_runs(sweeps: Sequence[Sweep]) -> list[SweepRun]:
    return list({run.name: run for sweep in sweeps for run in sweep.runs}.values())


def _page_values(
    sweeps: Sequence[Sweep],
    sections: Sequence[Section],
    compared: Compared,
    plots: Mapping[int, Sequence[tuple[Drawing, Markup]]],
) -> dict[str, Any]:
    states, runs = count_states(sweeps), _distinct_runs(sweeps)
    reports = [run.report for run in runs if run.report is not None]
    notes = [SectionTable(section).notes("bold", "underlined") for section in sections]
    repeated = Counter(note for of_section in notes for note in dict.fromkeys(of_section))
    seconds = sum(filter(is_number, (get_nested(it, "training", "seconds") for it in reports)))
    return {
        "title": joint_title(sweeps),
        "sources": list(dict.fromkeys(sweep.source for sweep in sweeps if sweep.source)),
        "commands": list(dict.fromkeys(sweep.command for sweep in sweeps if sweep.command)),
        "finished": states["finished"],
        "total": len(runs),
        "states": [(state, str(states[state])) for state in STATES[1:] if states[state]],
        "spent": clock(seconds) if seconds else None,
        "sections": [
            _section_values(section, plots.get(index, ()), compared.get(index))
            | {"notes": [note for note in notes[index] if repeated[note] == 1]}
            for index, section in enumerate(sections)
        ],
        "notes": [note for note, count in repeated.items() if count > 1],
        "failures": [
            (run.name, run.error or "no error message was saved")
            for run in runs
            if _state(run) in ("failed", "damaged")
        ],
        "ways": _measurements(reports),
        "environment": _merge([get_nested(report, "environment") or {} for report in reports]),
    }


def _section_values(
    section: Section, plots: Sequence[tuple[Drawing, Markup]], results: PairedResults | None
) -> dict[str, Any]:
    table = SectionTable(section)
    cells = [
        [section.cells.get((row, column)) for column in section.columns] for row in section.rows
    ]
    return {
        "title": section.title,
        "answer": answer_sentences(section, results),
        "plots": list(plots),
        "label": section.row_label,
        "kinds": bool(section.kinds),
        "heads": [section.column_name(column) for column in section.columns],
        # Baseline rows, which have no runs, are last.
        "rows": [
            (names, list(zip(texts, runs, strict=True)))
            for (names, texts), runs in zip(
                table.rows,
                [[*map(_runs, row)] for row in cells]
                + [[[]] * len(section.columns)] * (len(table.rows) - len(cells)),
                strict=True,
            )
        ],
        "extra_metric": section.extra_metric,
        "published_label": table.published_label,
        "conditions": conditions_table(section),
        "pairs": [] if results is None else pair_tables(section, results),
        "pair_notes": [] if results is None else pair_notes(section, results),
    }


def _runs(cell: Cell | None) -> list[tuple[str, str]]:
    """Return name and seed of the finished runs of a cell."""
    runs = [] if cell is None else [run for run in cell.runs if run.report is not None]
    return [(run.name, typed(run.values.get(SEED))) for run in runs]


def _measurements(reports: Sequence[Report]) -> list[tuple[str, Rows]]:
    """Return protocol and conventions of each measurement key.

    Of a further key with the same protocol, only what differs from the first is listed.
    """
    first: dict[str, Rows] = {}
    tables: list[tuple[str, Rows]] = []
    distinct: dict[tuple[str, str], Report] = {}
    for report in reports:
        distinct.setdefault(measurement_key(report), report)
    for report in distinct.values():
        protocol = dict(get_nested(report, "protocol") or {})
        protocol.pop("skipped", None)
        rows = value_rows(protocol) + value_rows(get_nested(report, "metrics", "conventions"))
        title = f"{protocol.get('dataset')}, {protocol.get('protocol')}"
        if title in first:
            rows = [row for row in rows if row not in first[title]]
            tables.append((f"{title}: other runs", rows))
        else:
            first[title] = rows
            tables.append((title, rows))
    return tables


def _merge(environments: Sequence[Mapping[str, Any]]) -> Rows:
    """Return all values of each key, the most frequent first."""
    rows = []
    for key in dict.fromkeys(key for environment in environments for key in environment):
        values = Counter(format_value(environment.get(key)) for environment in environments)
        text = "; ".join(value for value, _ in values.most_common())
        rows.append((key.replace("_", " "), text))
    return rows
