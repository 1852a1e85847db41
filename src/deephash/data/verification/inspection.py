"""Check lists or a split file without opening an image: counts, errors and warnings."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from deephash.data.sources.file_finder import find_files
from deephash.data.sources.list_parser import ListRows
from deephash.data.sources.lists import (
    MANY,
    Lists,
    count_classes,
    list_sha1,
    merge_lists,
    prepare_hint,
)
from deephash.data.sources.text_files import decode_text
from deephash.data.splits.base import NO_ROWS, Split
from deephash.data.splits.protocols import fingerprint as split_fingerprint
from deephash.data.verification.findings import (
    SHOWN,
    Finding,
    RoleList,
    check_list,
    check_pair,
    check_text,
    count_shared,
    find_label_conflicts,
    parse_valid_lines,
)
from deephash.data.verification.role_facts import RoleFacts, align_columns, role_facts
from deephash.errors import DataError
from deephash.utils.files import read_packed

LEVELS = ("error", "warning", "note")
PAIRS = (("train", "queries"), ("queries", "database"), ("train", "database"))


@dataclass(frozen=True)
class Inspection:
    """The result of `inspect_lists`."""

    source: str  # the folder of the lists, or the split file
    root: str
    identity: str | None
    lists: tuple[RoleFacts, ...]
    overlaps: dict[str, dict[str, int]]  # images that two roles share, by id, path and file name
    num_images: int
    num_missing: int | None  # image files; None if they were not looked for
    fingerprint: str | None  # of the roles as listed; None without queries or database
    findings: tuple[Finding, ...]  # errors first

    def as_dict(self) -> dict[str, Any]:
        """Return the values for JSON."""
        result = asdict(self)
        for values, facts in zip(result["lists"], self.lists, strict=True):
            values |= {"mean_labels": facts.mean_labels, "unlabelled": facts.unlabelled}
        return result

    def lines(self) -> list[str]:
        """Return the counts to print in a terminal, without the findings."""
        header = (
            "", "rows", "classes", "labels per image", "images per class", "changes", "digest"
        )  # fmt: skip
        lines = [self.source, *align_columns(header, map(_row, self.lists))]
        lines += [f"{facts.file}  sha1 {facts.sha1}" for facts in self.lists]
        if self.overlaps:
            rows = (
                (pair.replace("_", " and "), *(f"{count:,}" for count in counts.values()))
                for pair, counts in self.overlaps.items()
            )
            lines += align_columns(("shared by", "id", "path", "file name"), rows)
        images = f"{self.num_images:,} images"
        if self.num_missing is not None:
            images += f", {self.num_images - self.num_missing:,} of them below {self.root}"
        lines.append(images)
        if self.fingerprint is not None:
            lines.append(f"fingerprint {self.fingerprint}")
        return lines


def _row(facts: RoleFacts) -> tuple[str, ...]:
    numbers, counts = list(facts.labels_per_image), facts.class_counts
    return (
        facts.role,
        f"{facts.rows:,}",
        f"{facts.num_classes:,}",
        f"{facts.mean_labels:.3f} ({numbers[0]} to {numbers[-1]})" if numbers else "",
        f"{min(counts):,} to {max(counts):,}" if counts else "",
        f"{facts.class_changes:,}",
        facts.digest,
    )


def inspect_lists(source: Lists, files: bool = True) -> Inspection:
    """Check lists or a split file without opening an image, and collect all findings.

    Args:
        source: the lists and the folder of the images.
        files: whether to look for the image files.
    """
    findings: list[Finding] = []
    packed = source.split_file()
    if packed is None:
        parts = list(_parts_of_lists(source, findings))
        names = _class_names(source, parts, findings)
    else:
        parts, names = _parts_of_split(source, packed, findings)
    lists = [
        role_facts(part.role, part.file.name, list_sha1(part.file), part.rows, len(names))
        for part in parts
    ]
    for part, facts in zip(parts, lists, strict=True):
        findings += check_list(part, facts, names)
    findings += find_label_conflicts(parts)
    by_role = {part.role: part for part in parts}
    overlaps = {}
    for pair in PAIRS:
        if by_role.keys() >= set(pair):
            first, second = (by_role[role] for role in pair)
            overlaps["_".join(pair)] = counts = count_shared(first, second)
            findings += check_pair(first, second, counts)
    fingerprint = _fingerprint(parts, names, findings)
    places = {
        name: place
        for part in reversed(parts)  # the first list with an image gives its path
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
        fingerprint=fingerprint,
        findings=tuple(sorted(findings, key=lambda finding: LEVELS.index(finding.level))),
    )


def identify(
    inspection: Inspection, known: Mapping[str, Mapping[str, str]]
) -> dict[str, list[str]]:
    """Return, by role, the names of the known lists that are equal to the inspected ones.

    Args:
        inspection: of the lists.
        known: name -> role -> `RoleFacts.digest`, or its first part, which identifies the images
            and their labels, but not their order.

    Raises:
        DataError: a digest is no text; without quotes, `5064364568e9` is a number in YAML.
    """
    matches: dict[str, list[str]] = {}
    for facts in inspection.lists:
        for name, digests in known.items():
            digest = digests.get(facts.role, "")
            if not isinstance(digest, str):
                raise DataError(
                    f"dataset.known.{name}.{facts.role} was read as the number {digest}: write the "
                    "digest in quotes"
                )
            content, _, order = digest.partition("-")
            if content == facts.content:
                reordered = order not in ("", facts.order)
                match = f"{name} (in another order)" if reordered else name
                matches.setdefault(facts.role, []).append(match)
    return matches


def _parts_of_lists(source: Lists, findings: list[Finding]) -> Iterator[RoleList]:
    """Yield the lists that can be read."""
    for role, name in source.names.items():
        file = source.list_file(name)
        if file is None:
            advice = "Set dataset.lists=FOLDER to the folder of the lists"
            if source.split:
                advice += f"; or {source.split}: {prepare_hint()}"
            if role == "database":
                advice += ", or dataset.source.database=null"
            what = f"no {name} in {source.lists}, nor packed as {name}.xz"
            findings.append(Finding("error", what, 1, (), advice))
            continue
        try:
            data = read_packed(file, "list")
            text = decode_text(file, data, "list")
        except DataError as error:
            findings.append(Finding("error", str(error), 1))
            continue
        findings += check_text(file, data)
        count = 0 if source.class_names == () else None
        rows = parse_valid_lines(file, text, source.naming, findings, count)
        yield RoleList(role, file, rows)


def _class_names(
    source: Lists, parts: Sequence[RoleList], findings: list[Finding]
) -> tuple[str, ...]:
    """Return the names of the classes, and check that their number is that of the lists."""
    if source.class_names is not None:
        count = len(source.class_names)
        for part in parts:
            width = part.rows.labels.shape[1]
            if part.rows.ids and (width > count or (not part.rows.indexed and width != count)):
                what = (
                    f"{part.file} has {width:,} classes, and dataset.source.class_names {count:,}"
                )
                advice = "These are other lists, or set dataset.source.class_names=null"
                findings.append(Finding("error", what, 1, (), advice))
        return source.class_names
    try:
        rows = {part.role: part.rows for part in parts}
        count = count_classes(rows, {part.role: part.file for part in parts}) if parts else 0
    except DataError as error:
        findings.append(Finding("error", str(error), 1))
        count = min(MANY, max(part.rows.labels.shape[1] for part in parts))
    return tuple(str(index) for index in range(count))


def _parts_of_split(
    source: Lists, packed: Path, findings: list[Finding]
) -> tuple[list[RoleList], tuple[str, ...]]:
    """Return the roles of a split file, and the names of its classes."""
    if packed != source.lists:
        beside = [name for name in source.names.values() if source.list_file(name)]
        if beside:
            what = f"{packed} is read, and not the lists beside it"
            advice = "Set dataset.source.split=null to check the lists"
            findings.append(Finding("note", what, len(beside), tuple(beside), advice))
    try:
        catalogue = source.read()
    except DataError as error:
        findings.append(Finding("error", str(error), 1))
        return [], ()
    places, parts = catalogue.places or catalogue.ids, []
    for role, indices in (catalogue.lists or {}).items():
        rows = ListRows(
            ids=[catalogue.ids[row] for row in indices],
            places=[places[row] for row in indices],
            labels=catalogue.labels[indices],
            indexed=False,
            lines=list(range(1, len(indices) + 1)),
        )
        parts.append(RoleList(role, packed, rows))
    return parts, catalogue.classes


def _fingerprint(
    parts: Sequence[RoleList], names: tuple[str, ...], findings: Sequence[Finding]
) -> str | None:
    """Return the fingerprint of the roles as listed, if they can be read."""
    roles = {part.role for part in parts}
    if (
        any(finding.level == "error" for finding in findings)
        or not {"queries", "database"} <= roles
    ):
        return None
    rows = {part.role: part.rows for part in parts}
    catalogue = merge_lists(rows, {part.role: part.file for part in parts}, names)
    assert catalogue.lists is not None
    train, database, queries = (
        catalogue.lists.get(role, NO_ROWS) for role in ("train", "database", "queries")
    )
    return split_fingerprint(catalogue, Split(train, database, queries))


def _missing(source: Lists, places: Mapping[str, str], findings: list[Finding]) -> int | None:
    """Count the images without a file; None if files are ambiguous."""
    ids, named = tuple(places), tuple(places.values())
    try:
        files = find_files(source.root, ids, named, source.find, source.naming.identity)
    except DataError as error:
        findings.append(Finding("error", str(error), 1))
        return None
    missing = [place for place, file in zip(named, files, strict=True) if file is None]
    if missing:
        share = 100 * len(missing) / len(ids)
        strict = source.decoder.on_error == "raise"
        advice = "Set dataset.root=FOLDER to the folder of the images"
        if strict:
            advice += (
                ", or leave these out with\ndataset.source.on_error=skip dataset.expected=null"
            )
        what = (
            f"{len(missing):,} of {len(ids):,} images ({share:.1f} %) are not below {source.root}"
        )
        level = "error" if strict else "warning"
        findings.append(Finding(level, what, len(missing), tuple(missing[:SHOWN]), advice))
    return len(missing)
