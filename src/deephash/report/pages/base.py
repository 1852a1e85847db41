"""Shared parts of all pages: templates, tables of values, and the files of figures."""

import re
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined, Template
from markupsafe import Markup

from deephash.report.figures import style
from deephash.utils.files import make_folder, make_subfolder
from deephash.utils.formatting import number
from deephash.utils.nested import get_nested

Rows = list[tuple[str, str]]

TitledTable = tuple[str, list[str], list[list[str]]]
"""Title, head and rows."""

MIN_CONTENTS = 3
"""Pages with fewer headings have no list of contents."""

MAIN_CUTOFFS = (1, 10, 100, 1000)
"""Cut-offs N that are always shown; the others are folded."""


def render(template: str, values: Mapping[str, Any], package: str = "deephash.report") -> str:
    """Return a page from a template; all text in ``values`` is escaped.

    Args:
        template: file name, in ``package`` or in this one.
        values: of its variables.
        package: with templates that extend those of this one.
    """
    return _with_contents(compiled(template, package).render(values))


@cache
def compiled(template: str, package: str) -> Template:
    """Return a template; compiling it takes longer than rendering a page."""

    def source(name: str) -> str:
        for folder in (files(package), files("deephash.report")):
            if (file := folder.joinpath(name)).is_file():
                return file.read_text(encoding="utf-8")
        raise FileNotFoundError(name)

    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=FunctionLoader(source),
    )
    return environment.get_template(template)


def _with_contents(page: str) -> str:
    """Add links to the headings of a page after its header."""
    headings = re.findall(r'<h2 id="([\w-]+)">(.*?)</h2>', page, flags=re.DOTALL)
    if len(headings) < MIN_CONTENTS:
        return page
    links = "".join(f'<a href="#{place}">{title}</a>\n' for place, title in headings)
    contents = f'<nav class="contents" aria-label="Contents">\n{links}</nav>'
    return page.replace("</header>", f"</header>\n{contents}", 1)


def save_figures(
    drawings: Sequence[style.Drawing], folder: Path
) -> list[tuple[style.Drawing, Path, Markup]]:
    """Write figures as SVG and PNG files, within :func:`style.style`.

    Returns:
        Each figure, its PNG file, and its element on a page.
    """
    make_folder(folder.parent)
    make_subfolder(folder)
    saved = []
    for index, drawing in enumerate(map(style.with_readable_text, drawings)):
        svg, png = style.save_figure(drawing.figure, folder, drawing.name)
        element = style.inline(svg.read_text(encoding="utf-8"), f"plot{index}", drawing.title)
        saved.append((drawing, png, Markup(element)))
    return saved


def header_chips(report: Mapping[str, Any]) -> Rows:
    """Return names and values to show below the headline."""
    protocol = report.get("protocol") or {}
    named = {
        "method": report.get("method"),
        "kind": report.get("kind"),
        "bits": report.get("nbit"),
        "dataset": protocol.get("dataset"),
        "protocol": protocol.get("protocol"),
        "seed": report.get("seed"),
    }
    return [(name, str(value)) for name, value in named.items() if value is not None]


def cutoff_table(metrics: Mapping[str, Any]) -> tuple[TitledTable, TitledTable]:
    """Return the metrics by cut-off N, a column for each: the main cut-offs, and all of them."""
    columns = {
        "P@N": metrics.get("precision_at"),
        "recall@N": metrics.get("recall_at"),
        "hit rate@N": metrics.get("hit_rate_at"),
        "mAP@N": metrics.get("map_at"),
        "ACG@N": get_nested(metrics, "graded", "acg_at"),
        "NDCG@N": get_nested(metrics, "graded", "ndcg_at"),
        "wMAP@N": get_nested(metrics, "graded", "wmap_at"),
    }
    columns = {
        name: values
        for name, values in columns.items()
        if values and any(value is not None for value in values.values())
    }
    cutoffs = sorted(
        {str(cutoff) for values in columns.values() for cutoff in values},
        key=lambda cutoff: (int(cutoff), "") if cutoff.isdecimal() else (0, cutoff),
    )
    rows = {
        cutoff: [f"{int(cutoff):,}" if cutoff.isdecimal() else cutoff]
        + [number(values.get(cutoff)) for values in columns.values()]
        for cutoff in cutoffs
    }
    main = {*map(str, MAIN_CUTOFFS), str(get_nested(metrics, "conventions", "top"))}
    shown = [row for cutoff, row in rows.items() if cutoff in main] or list(rows.values())
    title = "By the number N of images returned"
    if gain := get_nested(metrics, "graded", "gain"):
        title += f"; gain of NDCG: {gain}"
    head = ["N", *columns]
    every = list(rows.values()) if len(shown) < len(rows) else []
    return (title, head, shown), (f"All {len(rows)} cut-offs", head, every)


def value_rows(values: Mapping[str, Any] | None, prefix: str = "") -> Rows:
    """Return a nested mapping as rows of a table.

    >>> value_rows({"num_train": 5000, "overlaps": {"train_query": 0}})
    [('num train', '5,000'), ('overlaps: train query', '0')]
    """
    rows: Rows = []
    for name, value in (values or {}).items():
        title = prefix + str(name).replace("_", " ")
        if isinstance(value, Mapping):
            rows += value_rows(value, f"{title}: ")
        else:
            rows.append((title, format_value(value)))
    return rows


def format_value(value: Any) -> str:
    """Return a value as text.

    >>> format_value(True), format_value(60000), format_value(0.68412), format_value([5, 3])
    ('yes', '60,000', '0.6841', '5, 3')
    """
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return "-"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        if 0 < abs(value) < 0.001:
            return f"{value:.3g}"
        return number(value) if abs(value) < 10 else f"{value:,.1f}"
    if isinstance(value, list | tuple):
        if not value:
            return "-"
        if len(value) > 12 and all(isinstance(item, int | float) for item in value):
            low, high = format_value(min(value)), format_value(max(value))
            return f"{len(value)} values from {low} to {high}"
        return ", ".join(map(format_value, value))
    return str(value)
