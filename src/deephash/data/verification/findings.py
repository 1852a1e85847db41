"""What is wrong with lists, or worth to know of them: of one, and of two together."""

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from deephash.data.sources.list_parser import Naming, Rows, parse, repeated
from deephash.data.verification.role_facts import RoleFacts, label_keys

SHOWN = 5  # examples of a finding

UNLABELLED = {
    "train": "They do not train",
    "queries": "Nothing is relevant to them; evaluation.empty says whether they count",
    "database": "They are relevant to no query",
}


@dataclass(frozen=True)
class Finding:
    """Something to know of a dataset; an error keeps it from being used as it is."""

    level: str  # error, warning or note
    what: str
    count: int
    examples: tuple[str, ...] = ()  # the first few
    advice: str = ""

    def as_dict(self) -> dict[str, Any]:
        """The finding as JSON holds it."""
        return asdict(self)

    def lines(self) -> list[str]:
        """The finding as a terminal shows it."""
        first, *rest = self.what.splitlines()
        more = self.count - len(self.examples)
        return [
            f"{self.level}: {first}",
            *(f"  {line}" for line in rest),
            *(f"    {one}" for one in self.examples),
            *[f"    and {more:,} more"] * bool(self.examples and more > 0),
            *(f"  {line}" for line in self.advice.splitlines()),
        ]


class Part(NamedTuple):
    """One role, and the list that says it."""

    role: str
    file: Path
    rows: Rows


def scanned(
    file: Path, text: str, naming: Naming, findings: list[Finding], count: int | None = None
) -> Rows:
    """The sound lines of a list; `count` as of `parse`."""
    faults: list[str] = []
    rows = parse(text, count, naming, lambda line, what: faults.append(f"line {line}: {what}"))
    if faults:
        what = f"{file}: {len(faults):,} of {len(rows.ids) + len(faults):,} lines are malformed"
        findings.append(Finding("error", what, len(faults), tuple(faults[:SHOWN])))
    elif not rows.ids:
        findings.append(Finding("error", f"the list {file} is empty", 1))
    return rows


def hygiene(file: Path, data: bytes) -> list[Finding]:
    """What is unusual about the text of a list, although it is read."""
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
    found = [f"{what} ({count:,})" for what, count in counts.items() if count]
    if not found:
        return []
    what = f"{file} is unusual text, and is read all the same"
    return [Finding("note", what, len(found), tuple(found))]


def of_one(part: Part, facts: RoleFacts, names: Sequence[str]) -> Iterator[Finding]:
    """What is to be said of one list."""
    role, file, rows = part
    if twice := repeated(rows.ids):
        yield Finding(
            "error",
            f"{file} names {len(twice):,} images twice",
            len(twice),
            tuple(
                f"lines {rows.lines[first]} and {rows.lines[again]}: {rows.places[again]}"
                for first, again in twice[:SHOWN]
            ),
            "Remove the second of these lines",
        )
    files = repeated([_file_name(place) for place in rows.places])
    other = [pair for pair in files if rows.ids[pair[0]] != rows.ids[pair[1]]]
    if other:
        yield Finding(
            "note",
            f"{file} has {len(other):,} file names that other images in it have too",
            len(other),
            tuple(f"{rows.places[a]} and {rows.places[b]}" for a, b in other[:SHOWN]),
        )
    if rows.bare:
        what = f"{role}: {file} holds paths alone, no labels"
        yield Finding("note", what, facts.rows)
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


def conflicts(parts: Sequence[Part]) -> list[Finding]:
    """Images to which two lists give other labels."""
    seen: dict[str, tuple[Part, str]] = {}
    differ = []
    for part in parts:
        if part.rows.bare:
            continue
        for row, key in enumerate(label_keys(part.rows)):
            before, other = seen.setdefault(part.rows.ids[row], (part, key))
            if other != key and before is not part:
                said = f"{before.role} [{other}], {part.role} [{key}]"
                differ.append(f"{part.rows.places[row]}: {said}")
    if not differ:
        return []
    what = f"{len(differ):,} images have other labels in another list"
    advice = "These lists do not belong together: take all of one download"
    return [Finding("error", what, len(differ), tuple(differ[:SHOWN]), advice)]


def shared(one: Part, other: Part) -> dict[str, int]:
    """How many images two lists share."""
    a, b = one.rows, other.rows
    return {
        "id": len(set(a.ids) & set(b.ids)),
        "path": len(set(a.places) & set(b.places)),
        "file_name": len(set(map(_file_name, a.places)) & set(map(_file_name, b.places))),
    }


def of_two(one: Part, other: Part, shared: Mapping[str, int]) -> Iterator[Finding]:
    """What is to be said of two lists."""
    known = set(one.rows.ids)
    of_both = ((i, p) for i, p in zip(other.rows.ids, other.rows.places, strict=True) if i in known)
    examples = tuple(place for _, place in itertools.islice(of_both, SHOWN))
    count, size = shared["id"], len(known)
    if other.role == "queries" and count:
        advice = "A query must be new to what trains: take it out of one of the lists"
        yield Finding("error", f"{count:,} queries are in train", count, examples, advice)
    elif one.role == "queries" and count:
        advice = (
            "dataset.protocols.<protocol>.queries_in_database says what becomes of them:\n"
            "keep, each finds itself; exclude_self, each is hidden from itself; remove, all are "
            "taken out"
        )
        what = f"{count:,} of {size:,} queries are in the database"
        yield Finding("warning", what, count, examples, advice)
    elif one.role == "train" and other.role == "database" and count < size:
        what = f"{size - count:,} of {size:,} training images are not in the database"
        yield Finding("note", what, size - count)
    if shared["file_name"] > count:
        more = shared["file_name"] - count
        yield Finding(
            "warning" if "queries" in (one.role, other.role) else "note",
            f"{more:,} file names are in {one.role} and {other.role}, of images with other ids",
            more,
            (),
            "If they are the same images, know images by file names: "
            """'dataset.source.identity="([^/]+)$"'""",
        )


def _file_name(place: str) -> str:
    return place.rpartition("/")[2]
