"""Published numbers, to stand beside ours with what they were measured under."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from deephash.errors import FileError
from deephash.report.grid import BITS, Key, Section
from deephash.utils.files import Kind, expect, finite

TRUST = {
    "primary": "",
    "secondary": "quoted by somebody else, not read in the source itself",
    "rerun": "re-run by a third party",
}
"""How a number is known, by ``verified``, as tables and pages print it."""

SHORT_TRUST = {"primary": "published", "secondary": "quoted", "rerun": "re-run"}
"""The same in a word, for the head of a column."""

KINDS: dict[str, Kind] = {
    "*.source": str,
    "*.verified": str,
    "*.metric.*": str,
    "*.protocols?": dict,
    "*.conditions?": dict,
    "*.values.*.*.*": finite,
    "*.notes?": dict,
    "*.notes.*.*?": str,
    "*.curves?": dict,
    "*.curves.*.*.*.*?": finite,
}
"""What ``published.yaml`` holds."""


@dataclass(frozen=True)
class Published:
    """The numbers of one source for one dataset."""

    source: str
    metric: str
    protocol: str | None  # the one of ours that is the source's; None: the source does not say
    conditions: Mapping[str, Any]
    values: Mapping[Any, Mapping[int, float]]  # by row and number of bits
    verified: str = "primary"  # a key of TRUST
    notes: Mapping[Any, str] = field(default_factory=dict)  # by row
    curves: Mapping[Any, Mapping[int, Mapping[int, float]]] = field(default_factory=dict)
    """mAP by epoch, by row and number of bits."""

    def told(self) -> str:
        """How the numbers are known and what they were measured under, in a line."""
        given = [
            *filter(None, [TRUST[self.verified]]),
            self.metric,
            *[f"protocol {self.protocol}"] * (self.protocol is not None),
        ]
        return "; ".join([*given, *(f"{key}: {value}" for key, value in self.conditions.items())])

    @property
    def column(self) -> str:
        """The head of the column in which the numbers stand."""
        return SHORT_TRUST[self.verified]


@cache
def tables() -> Mapping[str, Any]:
    """All there are, as ``published.yaml`` has them."""
    path = files("deephash.report").joinpath("published.yaml")
    return parse_tables(path.read_text(encoding="utf-8"), Path(str(path)))


def parse_tables(text: str, path: Path) -> Mapping[str, Any]:
    """Parse and validate a file of published numbers.

    Args:
        text: content of the file, YAML.
        path: of the file, for messages.

    Returns:
        The tables by name.

    Raises:
        FileError: a table lacks a key or holds a value of another kind, or its ``verified`` is not
            in ``TRUST``: a number that was only recalled (``memory``) is never printed.

    Example:
        >>> parse_tables("a: {source: A, verified: memory, metric: {}, values: {}}", Path("p.yaml"))
        Traceback (most recent call last):
        deephash.errors.FileError: cannot read the published numbers p.yaml: a.verified is memory...
    """
    published: Mapping[str, Any] = yaml.safe_load(text)
    what = "published numbers"
    expect(published, KINDS, path, what)
    for name, table in published.items():
        if table["verified"] not in TRUST:
            raise FileError(
                path,
                f"{name}.verified is {table['verified']}",
                what,
                f"Write one of {', '.join(TRUST)}; leave out numbers whose source was not read.",
            )
        if set(table["metric"]) != set(table["values"]):
            raise FileError(path, f"{name}.metric and {name}.values have other datasets", what)
    return published


def published(name: str | None, dataset: Any) -> Published | None:
    """A table's numbers for a dataset; None if there are none."""
    table = tables().get(name) if name is not None else None
    if table is None or dataset not in table["values"]:
        return None
    conditions = {
        key: value.get(dataset) if isinstance(value, Mapping) else value
        for key, value in table.get("conditions", {}).items()
    }
    return Published(
        table["source"],
        table["metric"][dataset],
        table.get("protocols", {}).get(dataset),
        {key: value for key, value in conditions.items() if value is not None},
        table["values"][dataset],
        table["verified"],
        table.get("notes", {}).get(dataset, {}),
        table.get("curves", {}).get(dataset, {}),
    )


def beside(section: Section) -> dict[tuple[Any, Any], float]:
    """For each cell of a section that has one, its published number."""
    found = published(section.layout.published, section.place[0])
    return {} if found is None else numbers_of(section, found)


def numbers_of(section: Section, table: Published) -> dict[tuple[Any, Any], float]:
    """The numbers of a published table that belong to cells of a section."""
    if section.layout.columns != BITS:
        return {}
    return {
        (row, column): table.values[key_of(section, row)][column]
        for row, column in section.cells
        if column in table.values.get(key_of(section, row), {})
    }


def key_of(section: Section, row: Key) -> Any:
    """What a row of a section is called in ``published.yaml``.

    The value of its key; where several keys set rows apart, its whole name.
    """
    return row[0] if len(section.keys) == 1 else section.name_of(row)
