"""Published numbers, to stand beside ours with what they were measured under."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import yaml

from deephash.report.grid import BITS, Section


@dataclass(frozen=True)
class Published:
    """The numbers of one source for one dataset."""

    source: str
    metric: str
    protocol: str | None  # the one of ours that is the source's; None: the source does not say
    conditions: Mapping[str, Any]
    values: Mapping[Any, Mapping[int, float]]  # by row and number of bits

    def told(self) -> str:
        """What they were measured under, in a line."""
        given = [self.metric, *[f"protocol {self.protocol}"] * (self.protocol is not None)]
        return "; ".join([*given, *(f"{key}: {value}" for key, value in self.conditions.items())])


@cache
def tables() -> Mapping[str, Any]:
    """All there are, as ``published.yaml`` has them."""
    text = files("deephash.report").joinpath("published.yaml").read_text(encoding="utf-8")
    published: Mapping[str, Any] = yaml.safe_load(text)
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
    )


def beside(section: Section) -> dict[tuple[Any, Any], float]:
    """For each cell of a section that has one, its published number.

    There is none where more than the key of the published rows sets rows apart.
    """
    found = published(section.layout.published, section.place[0])
    if found is None or len(section.keys) != 1 or section.layout.columns != BITS:
        return {}
    return {
        (row, column): found.values[row[0]][column]
        for row, column in section.cells
        if column in found.values.get(row[0], {})
    }
