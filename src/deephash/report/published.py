"""Published numbers to compare results with, and the conditions they were measured under."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from deephash.errors import FileError
from deephash.utils.files import Kind, expect, finite

TRUST = {
    "primary": "",
    "secondary": "quoted by another source, not read in the original",
    "rerun": "re-run by a third party",
}
"""Descriptions of the values of ``verified``."""

SHORT_TRUST = {"primary": "published", "secondary": "quoted", "rerun": "re-run"}
"""The same as titles of columns."""

TABLE_KINDS: dict[str, Kind] = {
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
"""Keys of ``published.yaml``."""


@dataclass(frozen=True)
class Published:
    """The numbers of one source for one dataset."""

    source: str
    metric: str
    protocol: str | None  # the equivalent protocol of deephash; None: unknown
    conditions: Mapping[str, Any]
    values: Mapping[Any, Mapping[int, float]]  # by row and number of bits
    verified: str = "primary"  # a key of TRUST
    notes: Mapping[Any, str] = field(default_factory=dict)  # by row
    curves: Mapping[Any, Mapping[int, Mapping[int, float]]] = field(default_factory=dict)
    """mAP by epoch, by row and number of bits."""

    def describe(self) -> str:
        """Return how the numbers are known and the conditions they were measured under."""
        parts = [TRUST[self.verified]] if TRUST[self.verified] else []
        parts.append(self.metric)
        if self.protocol is not None:
            parts.append(f"protocol {self.protocol}")
        return "; ".join([*parts, *(f"{key}: {value}" for key, value in self.conditions.items())])

    @property
    def column(self) -> str:
        """Title of the column of these numbers."""
        return SHORT_TRUST[self.verified]


@cache
def published_tables() -> Mapping[str, Any]:
    """Return the content of ``published.yaml``."""
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
    expect(published, TABLE_KINDS, path, what)
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
    """Return the numbers of a table for a dataset; None if there are none."""
    table = published_tables().get(name) if name is not None else None
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
