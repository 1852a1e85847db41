"""Files of ``sweeps/``: a grid, and the layout of its report."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from deephash.config.faults import Fault, raise_faults
from deephash.errors import ConfigError, FileError
from deephash.utils.files import Kind, expand_path, expect, read_yaml
from deephash.utils.formatting import all_typed

BASE = ("dataset", "dataset.protocol", "method", "model.nbit", "seed")
"""Keys that every table needs of a run."""

REPORT_KEYS = {"rows", "row_label", "columns", "digits", "published", "also"}
"""Keys of ``report`` in a file of ``sweeps/``."""

SPEC_KINDS: dict[str, Kind] = {
    "title?": str,
    "source?": str,
    "params?": dict,
    "where?": [dict],
    "report?": dict,
    "report.rows?": (str, [str]),
    "report.columns?": str,
    "report.row_label?": str,
    "report.digits?": int,
    "report.published?": (str, [str]),
    "report.also?": (str, int),
    "report.figure?": dict,
    "report.figure.*?": str,
}
"""Keys of a file of ``sweeps/``."""


@dataclass(frozen=True)
class SweepSpec:
    """A file of ``sweeps/``; empty if the command line is the whole grid."""

    name: str | None = None
    title: str | None = None  # of the report
    source: str | None = None  # of the published table or figure
    params: Mapping[str, Any] = field(default_factory=dict)  # key: value or values
    where: Sequence[Mapping[str, Any]] = ()  # values that depend on other axes
    report: Mapping[str, Any] = field(default_factory=dict)  # rows, columns, figure, published

    @classmethod
    def read(cls, folder: Path, name: str) -> "SweepSpec":
        """Read a sweep of a folder by its name, or any file by its path, ``mine.yaml``.

        Raises:
            ConfigError: If it does not exist, or is damaged.
        """
        own = name.endswith(".yaml")
        file = expand_path(name) if own else folder / f"{name}.yaml"
        if not file.is_file():
            raise ConfigError(
                f"sweep  there is no {name!r}.\n       There are {_sweep_names(folder)}.\n"
                "       A file of your own is chosen by its path: +sweep=FOLDER/mine.yaml"
            )
        try:
            content = read_yaml(file, "sweep", None)
        except FileError as error:
            raise ConfigError(f"{file} is not readable: {error.reason}") from error
        known = [item.name for item in fields(cls)][1:]
        if not isinstance(content, dict) or set(content) - set(known):
            keys = (
                sorted(map(str, set(content) - set(known)))
                if isinstance(content, dict)
                else content
            )
            raise ConfigError(f"{file} has no use for {keys}; it takes {', '.join(known)}.")
        try:
            expect(content, SPEC_KINDS, file, "sweep")
            for number, rule in enumerate(content.get("where") or ()):
                rules = {f"where[{number}]": rule}
                wanted: dict[str, Kind] = {
                    f"{key}.{side}?": dict for key in rules for side in ("if", "then")
                }
                expect(rules, wanted, file, "sweep")
        except FileError as error:
            raise ConfigError(f"{file} is no sweep: {error.reason}") from error
        content = _without_nulls(content)
        if "where" in content:
            content["where"] = [_without_nulls(rule) for rule in content["where"]]
        if "report" in content:
            content["report"] = _without_nulls(content["report"])
            if "figure" in content["report"]:
                content["report"]["figure"] = _without_nulls(content["report"]["figure"])
        spec = cls(file.stem, **content)
        spec.check(file)
        return spec

    def check(self, file: Path) -> None:
        """Check that rules and report name axes and values that exist.

        Raises:
            ConfigError: With all that do not.
        """
        raise_faults([*self._rule_faults(), *self._report_faults()], [str(file)])

    def _rule_faults(self) -> Iterator[Fault]:
        for key, wanted in (pair for rule in self.where for pair in rule.get("if", {}).items()):
            there = all_typed(self.params.get(key, []))
            if missing := [value for value in all_typed(wanted) if value not in there]:
                axis = f"{key}: {', '.join(there)}" if there else ", ".join(self.params)
                never = f"{key} is never {' or '.join(missing)}."
                yield Fault("where", never, f"The grid has {axis}.")

    def _report_faults(self) -> Iterator[Fault]:
        # imported here, since numpy and templates come with it
        from deephash.report.published import published_tables

        report, known = dict(self.report), set(self.params) | set(BASE)
        figure = dict(report.pop("figure", {}))
        for key in sorted(set(report) - REPORT_KEYS | set(figure) - {"x", "scale"}):
            takes = (
                f"It takes {', '.join(sorted(REPORT_KEYS))}, and figure: {{x: ..., scale: ...}}."
            )
            yield Fault("report", f"has no use for {key}.", takes)
        named = (report.get("rows"), report.get("columns"), figure.get("x"))
        for key in (key for value in named if value is not None for key in all_typed(value)):
            if key not in known:
                axes = f"There are {', '.join(sorted(known))}."
                yield Fault("report", f"{key} is no axis.", axes)
        if (scale := figure.get("scale", "linear")) not in ("linear", "log"):
            yield Fault("report", f"there is no scale {scale}.", "Write linear or log.")
        names = report.get("published") or []
        for name in [names] if isinstance(names, str) else names:
            if name not in published_tables():
                there = f"There are {', '.join(published_tables())}."
                yield Fault("report", f"nothing is published as {name}.", there)
        also = report.get("also", "all")
        if also != "all" and not (type(also) is int and also > 0):
            takes = "It is an R of evaluation.tops: a whole number of at least 1, or all."
            yield Fault("report", f"also is {also!r}.", takes)


def _without_nulls(mapping: Mapping[str, Any]) -> dict[str, Any]:
    """Return a mapping without its null values."""
    return {key: value for key, value in mapping.items() if value is not None}


def _sweep_names(folder: Path) -> str:
    return ", ".join(sorted(file.stem for file in folder.glob("*.yaml"))) or "none"
