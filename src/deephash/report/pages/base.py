"""What all pages have in common: how they are made, and how they say what a value is."""

from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined

from deephash.utils.formatting import number

Rows = list[tuple[str, str]]


def render(template: str, values: Mapping[str, Any]) -> str:
    """A page from a template of this folder; all text in ``values`` is escaped."""
    folder = files("deephash.report")
    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=FunctionLoader(lambda name: folder.joinpath(name).read_text(encoding="utf-8")),
    )
    return environment.get_template(template).render(values)


def chips(report: Mapping[str, Any], protocol: Mapping[str, Any]) -> Rows:
    """The few words under the headline."""
    named = {
        "method": report.get("method"),
        "kind": report.get("kind"),
        "bits": report.get("nbit"),
        "dataset": protocol.get("dataset"),
        "protocol": protocol.get("protocol"),
        "seed": report.get("seed"),
        "fingerprint": str(protocol.get("fingerprint") or "")[:12] or None,
    }
    return [(name, str(value)) for name, value in named.items() if value is not None]


def rows_of(values: Mapping[str, Any], prefix: str = "") -> Rows:
    """A nested mapping as rows of a table.

    >>> rows_of({"num_train": 5000, "overlaps": {"train_query": 0}})
    [('num train', '5,000'), ('overlaps: train query', '0')]
    """
    rows: Rows = []
    for name, value in values.items():
        title = prefix + str(name).replace("_", " ")
        if isinstance(value, Mapping):
            rows += rows_of(value, f"{title}: ")
        else:
            rows.append((title, shown(value)))
    return rows


def shown(value: Any) -> str:
    """A value for a reader.

    >>> shown(True), shown(None), shown(60000), shown(0.68412), shown([5, 3, 4])
    ('yes', '-', '60,000', '0.6841', '5, 3, 4')
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
        if len(value) > 12 and all(isinstance(item, int | float) for item in value):
            return f"{len(value)} values from {shown(min(value))} to {shown(max(value))}"
        return ", ".join(shown(item) for item in value)
    return str(value)
