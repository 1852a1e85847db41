"""Errors, warnings and notes about lists: about a single list, and about two lists together."""

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from deephash.data.sources.list_parser import ListRows, Naming, find_repeated, parse_list
from deephash.data.verification.role_facts import RoleFacts, label_keys

SHOWN = 5  # examples of a finding

UNLABELLED = {
    "train": "They do not train",
    "queries": "Nothing is relevant to them; evaluation.empty sets whether they count",
    "database": "They are relevant to no query",
}


@dataclass(frozen=True)
class Finding:
    """A remark about a dataset; an error prevents its use as it is."""

    level: str  # error, warning or note
    what: str
    count: int
    examples: tuple[str, ...] = ()  # the first few
    advice: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return the values for JSON."""
        return asdict(self)

    def lines(self) -> list[str]:
        """Return the lines to print in a terminal."""
        first, *rest = self.what.splitlines()
        lines = [f"{self.level}: {first}", *(f"  {line}" for line in rest)]
        lines += [f"    {example}" for example in self.examples]
        if self.examples and self.count > len(self.examples):
            lines.append(f"    and {self.count - len(self.examples):,} more")
        return lines + [f"  {line}" for line in self.advice.splitlines()]


class RoleList(NamedTuple):
    """A role, the file of its list, and the parsed list."""

    role: str
    file: Path
    rows: ListRows


def parse_valid_lines(
    file: Path, text: str, naming: Naming, findings: list[Finding], count: int | None = None
) -> ListRows:
    """Parse the well-formed lines of a list, and report the others; `count` as in `parse_list`."""
    faults: list[str] = []
    rows = parse_list(text, count, naming, lambda line, what: faults.append(f"line {line}: {what}"))
    if faults:
        what = f"{file}: {len(faults):,} of {len(rows.ids) + len(faults):,} lines are malformed"
        findings.append(Finding("error", what, len(faults), tuple(faults[:SHOWN])))
    elif not rows.ids:
        findings.append(Finding("error", f"the list {file} is empty", 1))
    return rows


def check_text(file: Path, data: bytes) -> list[Finding]:
    """Report unusual whitespace and line ends, which are accepted."""
    ends, returns = data.count(b"\r\n"), data.count(b"\r")
    counts = {
        "lines end in CR LF": ends,
        "carriage returns inside lines": returns - ends,
        "tabs": data.count(b"\t"),
        "double blanks": len(re.findall(rb"  +", data)),
        "blanks at the ends of lines": len(re.findall(rb"(?m)^ | \r?$", data)),
        "byte order mark": int(data.startswith(b"\xef\xbb\xbf")),
        "no end of the last line": int(bool(data) and not data.endswith(b"\n")),
    }
    unusual = [f"{what} ({count:,})" for what, count in counts.items() if count]
    if not unusual:
        return []
    what = f"{file} has an unusual text format, which is accepted"
    return [Finding("note", what, len(unusual), tuple(unusual))]


def check_list(part: RoleList, facts: RoleFacts, names: Sequence[str]) -> Iterator[Finding]:
    """Report repetitions, missing labels and empty classes of one list."""
    role, file, rows = part
    if repeated := find_repeated(rows.ids):
        yield Finding(
            "error",
            f"{file} names {len(repeated):,} images twice",
            len(repeated),
            tuple(
                f"lines {rows.lines[first]} and {rows.lines[again]}: {rows.places[again]}"
                for first, again in repeated[:SHOWN]
            ),
            "Remove the second of these lines",
        )
    same_file_name = [
        (rows.places[first], rows.places[again])
        for first, again in find_repeated([_file_name(place) for place in rows.places])
        if rows.ids[first] != rows.ids[again]
    ]
    if same_file_name:
        yield Finding(
            "note",
            f"{file} has {len(same_file_name):,} file names that other images in it have too",
            len(same_file_name),
            tuple(f"{first} and {again}" for first, again in same_file_name[:SHOWN]),
        )
    if rows.bare:
        yield Finding("note", f"{role}: {file} has paths only, no labels", facts.rows)
        return
    if facts.unlabelled:
        bare = np.flatnonzero(np.diff(rows.labels.indptr) == 0)[:SHOWN]
        yield Finding(
            "warning",
            f"{role}: {facts.unlabelled:,} of {facts.rows:,} images have no label",
            facts.unlabelled,
            tuple(rows.places[row] for row in bare),
            UNLABELLED[role],
        )
    empty = [name for name, count in zip(names, facts.class_counts, strict=True) if not count]
    if empty and rows.ids:
        what = f"{role}: {len(empty):,} of {len(names):,} classes have no image"
        yield Finding("warning", what, len(empty), tuple(empty[:SHOWN]))


def find_label_conflicts(parts: Sequence[RoleList]) -> list[Finding]:
    """Report images whose labels differ between two lists."""
    seen: dict[str, tuple[RoleList, str]] = {}
    conflicts = []
    for part in parts:
        if part.rows.bare:
            continue
        for row, labels in enumerate(label_keys(part.rows)):
            before, expected = seen.setdefault(part.rows.ids[row], (part, labels))
            if expected != labels and before is not part:
                both = f"{before.role} [{expected}], {part.role} [{labels}]"
                conflicts.append(f"{part.rows.places[row]}: {both}")
    if not conflicts:
        return []
    what = f"{len(conflicts):,} images have other labels in another list"
    advice = "These lists do not belong together: take all of them from one download"
    return [Finding("error", what, len(conflicts), tuple(conflicts[:SHOWN]), advice)]


def count_shared(first: RoleList, second: RoleList) -> dict[str, int]:
    """Count the images that two lists share."""
    a, b = first.rows, second.rows
    return {
        "id": len(set(a.ids) & set(b.ids)),
        "path": len(set(a.places) & set(b.places)),
        "file_name": len(set(map(_file_name, a.places)) & set(map(_file_name, b.places))),
    }


def check_pair(first: RoleList, second: RoleList, shared: Mapping[str, int]) -> Iterator[Finding]:
    """Report images that are in two lists, or that should be and are not."""
    known, rows = set(first.rows.ids), second.rows
    in_both = (p for name, p in zip(rows.ids, rows.places, strict=True) if name in known)
    examples = tuple(itertools.islice(in_both, SHOWN))
    count, size = shared["id"], len(known)
    if second.role == "queries" and count:
        advice = "A query must be new to the trained model: remove it from one of the lists"
        yield Finding("error", f"{count:,} queries are in train", count, examples, advice)
    elif first.role == "queries" and count:
        advice = (
            "Set dataset.protocols.<protocol>.queries_in_database:\n"
            "keep, each finds itself; exclude_self, each is removed from its own ranking; remove, "
            "all are removed"
        )
        what = f"{count:,} of {size:,} queries are in the database"
        yield Finding("warning", what, count, examples, advice)
    elif first.role == "train" and second.role == "database" and count < size:
        what = f"{size - count:,} of {size:,} training images are not in the database"
        yield Finding("note", what, size - count)
    if shared["file_name"] > count:
        more = shared["file_name"] - count
        yield Finding(
            "warning" if "queries" in (first.role, second.role) else "note",
            f"{more:,} file names are in {first.role} and {second.role}, of images with other ids",
            more,
            (),
            "If they are the same images, identify images by file name: "
            """'dataset.source.identity="([^/]+)$"'""",
        )


def _file_name(place: str) -> str:
    return place.rpartition("/")[2]
