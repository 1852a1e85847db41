"""The files of ``sweeps/``: a grid, and what its report is to look like."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from deephash.config.faults import Fault, raise_faults
from deephash.errors import ConfigError, FileError
from deephash.utils.files import Kind, expand_path, expect, read_yaml
from deephash.utils.formatting import all_typed

BASE = ("dataset", "dataset.protocol", "method", "model.nbit", "seed")
"""What every table asks of a run."""

REPORT = {"rows", "row_label", "columns", "digits", "published", "also"}
"""What a file of ``sweeps/`` may say of its table."""

KINDS: dict[str, Kind] = {
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
"""What a file of ``sweeps/`` holds."""


@dataclass(frozen=True)
class Sheet:
    """A file of ``sweeps/``; without one, what is typed is the whole grid."""

    name: str | None = None
    title: str | None = None  # of the report
    source: str | None = None  # of the published table or figure
    params: Mapping[str, Any] = field(default_factory=dict)  # key: value or values
    where: Sequence[Mapping[str, Any]] = ()  # values that hang on those of other axes
    report: Mapping[str, Any] = field(default_factory=dict)  # rows, columns, figure, published

    @classmethod
    def read(cls, folder: Path, name: str) -> "Sheet":
        """Reads a sweep, one of a folder by its name or any by its path, ``mine.yaml``.

        Raises:
            ConfigError: there is none of this name, or its file is not one.
        """
        own = name.endswith(".yaml")
        file = expand_path(name) if own else folder / f"{name}.yaml"
        if not file.is_file():
            raise ConfigError(
                f"sweep  there is no {name!r}.\n       There are {_all(folder)}.\n"
                "       A file of your own is chosen by its path: +sweep=FOLDER/mine.yaml"
            )
        try:
            found = read_yaml(file, "sweep", None)
        except FileError as error:
            raise ConfigError(f"{file} is not readable: {error.reason}") from error
        known = [each.name for each in fields(cls)][1:]
        if not isinstance(found, dict) or set(found) - set(known):
            keys = sorted(map(str, set(found) - set(known))) if isinstance(found, dict) else found
            raise ConfigError(f"{file} has no use for {keys}; it takes {', '.join(known)}.")
        try:
            expect(found, KINDS, file, "sweep")
            for number, rule in enumerate(found.get("where") or ()):
                rules = {f"where[{number}]": rule}
                wanted: dict[str, Kind] = {f"{key}.{side}?": dict for key in rules
                                           for side in ("if", "then")}  # fmt: skip
                expect(rules, wanted, file, "sweep")
        except FileError as error:
            raise ConfigError(f"{file} is no sweep: {error.reason}") from error
        found = _without_nulls(found)
        if "where" in found:
            found["where"] = [_without_nulls(rule) for rule in found["where"]]
        if "report" in found:
            found["report"] = _without_nulls(found["report"])
            if "figure" in found["report"]:
                found["report"]["figure"] = _without_nulls(found["report"]["figure"])
        sheet = cls(file.stem, **found)
        sheet.check(file)
        return sheet

    def check(self, file: Path) -> None:
        """Refuses names in rules and report that mean nothing.

        Raises:
            ConfigError: all of them.
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
        for key in sorted(set(report) - REPORT | set(figure) - {"x", "scale"}):
            takes = f"It takes {', '.join(sorted(REPORT))}, and figure: {{x: ..., scale: ...}}."
            yield Fault("report", f"has no use for {key}.", takes)
        for key in [it for one in (report.get("rows"), report.get("columns"), figure.get("x"))
                    if one is not None for it in all_typed(one)]:  # fmt: skip
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
    """Leave out keys that are written without a value."""
    return {key: value for key, value in mapping.items() if value is not None}


def _all(folder: Path) -> str:
    return ", ".join(sorted(file.stem for file in folder.glob("*.yaml"))) or "none"
