"""What is to be said of lists or a split file before an image is opened: counts, and faults."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from deephash.data.sources.file_finder import find_files
from deephash.data.sources.list_parser import Rows, content, decoded
from deephash.data.sources.lists import MANY, Lists, class_count, how_to_prepare, merged, sha1
from deephash.data.splits.base import Split
from deephash.data.splits.protocols import fingerprint
from deephash.data.verification.findings import (
    SHOWN,
    Finding,
    Part,
    conflicts,
    hygiene,
    of_one,
    of_two,
    scanned,
    shared,
)
from deephash.data.verification.role_facts import RoleFacts, role_facts, table
from deephash.errors import DataError

LEVELS = ("error", "warning", "note")
PAIRS = (("train", "queries"), ("queries", "database"), ("train", "database"))


@dataclass(frozen=True)
class Inspection:
    """What `inspect` found."""

    source: str  # the folder of the lists, or the split file
    root: str
    identity: str | None
    lists: tuple[RoleFacts, ...]
    overlaps: dict[str, dict[str, int]]  # images that two roles share: by id, path and file name
    num_images: int
    num_missing: int | None  # of their files; None if none was looked for
    fingerprint: str | None  # of the roles as they are listed; None without queries or database
    findings: tuple[Finding, ...]  # errors first

    def as_dict(self) -> dict[str, Any]:
        """All of it as JSON holds it."""
        held = asdict(self)
        for values, one in zip(held["lists"], self.lists, strict=True):
            values |= {"mean_labels": one.mean_labels, "unlabelled": one.unlabelled}
        return held

    def lines(self) -> list[str]:
        """The counts as a terminal shows them; findings have their own lines."""
        head = ("", "rows", "classes", "labels an image", "images a class", "changes", "digest")
        told = [self.source, *table(head, map(_row, self.lists))]
        told += [f"{one.file}  sha1 {one.sha1}" for one in self.lists]
        if self.overlaps:
            rows = (
                (pair.replace("_", " and "), *(f"{count:,}" for count in counts.values()))
                for pair, counts in self.overlaps.items()
            )
            told += table(("shared by", "id", "path", "file name"), rows)
        images = f"{self.num_images:,} images"
        if self.num_missing is not None:
            images += f", {self.num_images - self.num_missing:,} of them below {self.root}"
        told.append(images)
        if self.fingerprint is not None:
            told.append(f"fingerprint {self.fingerprint}")
        return told


def _row(one: RoleFacts) -> tuple[str, ...]:
    numbers, counts = list(one.labels_per_image), one.class_counts
    return (
        one.role,
        f"{one.rows:,}",
        f"{one.num_classes:,}",
        f"{one.mean_labels:.3f} ({numbers[0]} to {numbers[-1]})" if numbers else "",
        f"{min(counts):,} to {max(counts):,}" if counts else "",
        f"{one.class_changes:,}",
        one.digest,
    )


def inspect(source: Lists, files: bool = True) -> Inspection:
    """All that can be said of lists or a split file without opening an image, faults collected.

    Args:
        source: where the lists and the images are.
        files: whether to look for the images' files.
    """
    findings: list[Finding] = []
    packed = source.split_file()
    if packed is None:
        parts = list(_parts_of_lists(source, findings))
        names = _class_names(source, parts, findings)
    else:
        parts, names = _parts_of_split(source, packed, findings)
    lists = [
        role_facts(part.role, part.file.name, sha1(part.file), part.rows, len(names))
        for part in parts
    ]
    for part, facts in zip(parts, lists, strict=True):
        findings += of_one(part, facts, names)
    findings += conflicts(parts)
    by_role = {part.role: part for part in parts}
    overlaps = {}
    for pair in PAIRS:
        if by_role.keys() >= set(pair):
            one, other = (by_role[role] for role in pair)
            overlaps["_".join(pair)] = counts = shared(one, other)
            findings += of_two(one, other, counts)
    printed = _fingerprint(parts, names, findings)
    places = {
        name: place
        for part in reversed(parts)  # the first list that names an image says where it lies
        for name, place in zip(part.rows.ids, part.rows.places, strict=True)
    }
    identity = source.naming.identity
    return Inspection(
        source=str(packed or source.lists),
        root=str(source.root),
        identity=None if identity is None else identity.pattern,
        lists=tuple(lists),
        overlaps=overlaps,
        num_images=len(places),
        num_missing=_missing(source, places, findings) if files and places else None,
        fingerprint=printed,
        findings=tuple(sorted(findings, key=lambda one: LEVELS.index(one.level))),
    )


def identify(
    inspection: Inspection, known: Mapping[str, Mapping[str, str]]
) -> dict[str, list[str]]:
    """The names of known lists that the inspected ones are, by role; roles of none are left out.

    Args:
        inspection: of the lists.
        known: name -> role -> `RoleFacts.digest`, or its first part alone, which tells the images
            and their labels, but not their order.

    Raises:
        DataError: a digest is no text; without quotes, `5064364568e9` is a number to YAML.
    """
    found: dict[str, list[str]] = {}
    for one in inspection.lists:
        for name, digests in known.items():
            digest = digests.get(one.role, "")
            if not isinstance(digest, str):
                raise DataError(
                    f"dataset.known.{name}.{one.role} was read as the number {digest}: write the "
                    "digest in quotes"
                )
            told, _, order = digest.partition("-")
            if told == one.content:
                moved = order not in ("", one.order)
                said = f"{name} (in another order)" if moved else name
                found.setdefault(one.role, []).append(said)
    return found


def _parts_of_lists(source: Lists, findings: list[Finding]) -> Iterator[Part]:
    """What can be read of the lists."""
    for role, name in source.names.items():
        file = source.list_file(name)
        if file is None:
            advice = "Set dataset.lists=FOLDER to the folder of the lists"
            if source.split:
                advice += f"; or {source.split}: {how_to_prepare()}"
            if role == "database":
                advice += ", or dataset.source.database=null"
            what = f"no {name} in {source.lists}, nor packed as {name}.xz"
            findings.append(Finding("error", what, 1, (), advice))
            continue
        try:
            data = content(file)
            text = decoded(file, data)
        except DataError as error:
            findings.append(Finding("error", str(error), 1))
            continue
        findings += hygiene(file, data)
        none = 0 if source.class_names == () else None
        yield Part(role, file, scanned(file, text, source.naming, findings, none))


def _class_names(source: Lists, parts: Sequence[Part], findings: list[Finding]) -> tuple[str, ...]:
    """The names of the classes, C; their number should be that of the lists."""
    if source.class_names is not None:
        count = len(source.class_names)
        for part in parts:
            width = part.rows.labels.shape[1]
            if part.rows.ids and (width > count or (not part.rows.indexed and width != count)):
                what = (
                    f"{part.file} has {width:,} classes, and dataset.source.class_names {count:,}"
                )
                advice = "These are other lists, or dataset.source.class_names=null"
                findings.append(Finding("error", what, 1, (), advice))
        return source.class_names
    try:
        rows = {part.role: part.rows for part in parts}
        count = class_count(rows, {part.role: part.file for part in parts}) if parts else 0
    except DataError as error:
        findings.append(Finding("error", str(error), 1))
        count = min(MANY, max(part.rows.labels.shape[1] for part in parts))
    return tuple(str(index) for index in range(count))


def _parts_of_split(
    source: Lists, packed: Path, findings: list[Finding]
) -> tuple[list[Part], tuple[str, ...]]:
    """The roles of a split file, and the names of its classes."""
    if packed != source.lists:
        beside = [name for name in source.names.values() if source.list_file(name)]
        if beside:
            what = f"{packed} is read, and not the lists beside it"
            advice = "Set dataset.source.split=null to look at the lists"
            findings.append(Finding("note", what, len(beside), tuple(beside), advice))
    try:
        catalogue = source.read()
    except DataError as error:
        findings.append(Finding("error", str(error), 1))
        return [], ()
    places, parts = catalogue.places or catalogue.ids, []
    for role, at in (catalogue.lists or {}).items():
        ids = [catalogue.ids[row] for row in at]
        named = [places[row] for row in at]
        lines = list(range(1, len(at) + 1))
        parts.append(Part(role, packed, Rows(ids, named, catalogue.labels[at], False, lines)))
    return parts, catalogue.classes


def _fingerprint(
    parts: Sequence[Part], names: tuple[str, ...], findings: Sequence[Finding]
) -> str | None:
    """The fingerprint of the roles as they are listed, if they can be read."""
    roles = {part.role for part in parts}
    if any(one.level == "error" for one in findings) or not {"queries", "database"} <= roles:
        return None
    rows = {part.role: part.rows for part in parts}
    catalogue = merged(rows, {part.role: part.file for part in parts}, names)
    assert catalogue.lists is not None
    none = np.zeros(0, np.int64)
    train, database, queries = (
        catalogue.lists.get(role, none) for role in ("train", "database", "queries")
    )
    return fingerprint(catalogue, Split(train, database, queries, none))


def _missing(source: Lists, places: Mapping[str, str], findings: list[Finding]) -> int | None:
    """How many images have no file; None if it cannot be told."""
    ids, named = tuple(places), tuple(places.values())
    try:
        files = find_files(source.root, ids, named, source.find, source.naming.identity)
    except DataError as error:
        findings.append(Finding("error", str(error), 1))
        return None
    gone = [place for place, file in zip(named, files, strict=True) if file is None]
    if gone:
        share = 100 * len(gone) / len(ids)
        strict = source.decoder.on_error == "raise"
        advice = "Set dataset.root=FOLDER to the folder of the images"
        if strict:
            advice += (
                ", or leave these out with\ndataset.source.on_error=skip dataset.expected=null"
            )
        what = f"{len(gone):,} of {len(ids):,} images ({share:.1f} %) are not below {source.root}"
        level = "error" if strict else "warning"
        findings.append(Finding(level, what, len(gone), tuple(gone[:SHOWN]), advice))
    return len(gone)
