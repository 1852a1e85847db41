"""Whether a dataset is in order: its lists, its files, its split, and if asked every image."""

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from deephash.config import build, schema
from deephash.data.catalogue import Catalogue, ImageSet
from deephash.data.datamodule import check_facts, check_finite
from deephash.data.decoding import FRAMED, frame_count
from deephash.data.image_cache import cache
from deephash.data.image_cache.entries import Broken, read_index, verify_entry
from deephash.data.input_loader import prefetch
from deephash.data.sources.lists import Lists
from deephash.data.splits.base import ROLES, Split
from deephash.data.splits.protocols import Facts
from deephash.data.verification.data_warnings import doubts, doubts_of_split
from deephash.data.verification.findings import Finding
from deephash.data.verification.inspection import identify, inspect
from deephash.errors import DataError
from deephash.runs.common import keep_json
from deephash.runs.describe_data import divided
from deephash.utils.files import expand_path
from deephash.utils.progress import bar

BLOCK = 256  # images that are read at once
SHOWN = 5  # examples of a finding
DARK = 16  # of 255; what 12 bits in 16 come to


def verify(cfg: schema.Data) -> None:
    """Tells what is wrong with a dataset, how much of it, and examples.

    Args:
        cfg: the checked page of ``data.py``. Of ``images``, true opens every image, compares it
            with the others and the cache with its checksums; false does not even look for their
            files.

    Raises:
        DataError: something is wrong, after all of it was told.
    """
    source = build.source(cfg)
    told: dict[str, Any] = {}
    findings: list[Finding] = []
    catalogue: Catalogue | None = None
    if isinstance(source, Lists):
        inspection = inspect(source, files=cfg.images is not False)
        findings += inspection.findings
        told["lists"] = inspection.as_dict()
        print("\n".join(inspection.lines()))
        for role, names in identify(inspection, cfg.dataset.known or {}).items():
            print(f"{role}: as in {', '.join(names)}")
        if not _wrong(findings):
            catalogue = source.read()
    if not _wrong(findings) and (cfg.images or catalogue is None):
        stored = _stored(cfg, source) if cfg.images else []  # before loading mends it
        catalogue, found = _loaded(cfg)
        findings += [*found, *stored]
    if catalogue is not None:
        findings += doubts(catalogue)
        split, facts, found = _divided(cfg, catalogue)
        findings += found
        if facts is not None:
            told["facts"] = facts.as_dict()
            print(f"fingerprint under protocol {facts.protocol}: {facts.fingerprint}")
        if split is not None and isinstance(catalogue, ImageSet):
            findings += _finite(catalogue, split)
        if isinstance(catalogue, ImageSet) and (cfg.images or catalogue.pictures):
            findings += _looked_at(catalogue, split, compare=bool(cfg.images))
        if cfg.images and isinstance(catalogue, ImageSet):
            findings += _of_frames(catalogue, source)
    for finding in findings:
        print("\n".join(finding.lines()))
    if cfg.out is not None:
        told["findings"] = [one.as_dict() for one in findings]
        keep_json(expand_path(cfg.out), told)
    if wrong := _wrong(findings):
        raise DataError(f"{len(wrong)} findings are errors: {cfg.dataset.name} is not in order")
    print("in order")


def _wrong(findings: Sequence[Finding]) -> list[Finding]:
    return [one for one in findings if one.level == "error"]


def _loaded(cfg: schema.Data) -> tuple[ImageSet | None, list[Finding]]:
    """The images, decoded; those that cannot be read are told and left out."""
    node = dict(cfg.dataset.source)
    if "on_error" in node:
        node |= {"on_error": "skip"}
    if "cached" in node:
        node |= {"cached": True}
    try:
        reading = cfg.with_values(dataset=cfg.dataset.with_values(source=node).plain)
        images = build.source(reading).load()
    except DataError as error:
        return None, [Finding("error", str(error), 1)]
    if not images.skipped:
        return images, []
    advice = "Mend them, or leave them out: dataset.source.on_error=skip dataset.expected=null"
    examples, count = images.skipped[:SHOWN], len(images.skipped)
    level = "warning" if cfg.dataset.source.get("on_error") == "skip" else "error"
    return images, [Finding(level, f"{count:,} images are unreadable", count, examples, advice)]


def _divided(
    cfg: schema.Data, images: Catalogue
) -> tuple[Split | None, Facts | None, list[Finding]]:
    """The split of the protocol, and what is wrong with it."""
    findings: list[Finding] = []
    try:
        split, facts = divided(cfg, images)
    except DataError as error:
        return None, None, [Finding("error", str(error), 1)]
    try:
        check_facts(facts, (cfg.dataset.expected or {}).get(facts.protocol) or {})
    except DataError as error:
        findings.append(Finding("error", str(error), 1))
    findings += doubts_of_split(split)
    for role in ("train", "queries", "database"):
        rows = getattr(split, role)
        counts = images.labels[rows].sum(axis=0)
        empty = [name for name, count in zip(images.classes, counts, strict=True) if not count]
        if empty and len(rows) and len(empty) < len(images.classes):
            what = f"{len(empty)} classes have no image in {role}"
            findings.append(Finding("warning", what, len(empty), tuple(empty[:SHOWN])))
    return split, facts, findings


def _finite(images: ImageSet, split: Split) -> list[Finding]:
    """Features that are NaN or infinite, of images with a role."""
    try:
        check_finite(images, {role: getattr(split, role) for role in ROLES})
    except DataError as error:
        return [Finding("error", str(error), 1)]
    return []


def _looked_at(images: ImageSet, split: Split | None, compare: bool) -> list[Finding]:
    """What is suspicious of pixels: hardly any levels, or the same under several names.

    Args:
        images: all of them.
        split: their roles, if they could be given.
        compare: also look for images that are the same.
    """
    same: dict[bytes, list[int]] = defaultdict(list)
    flat: list[int] = []
    dark: list[int] = []
    blocks = np.split(np.arange(len(images)), range(BLOCK, len(images), BLOCK))

    def looked(rows: np.ndarray) -> list[tuple[int, bytes, bool, bool]]:
        found = []
        for row, one in zip(rows.tolist(), images.inputs[rows], strict=True):
            digest = hashlib.blake2b(one.tobytes(), digest_size=16).digest() if compare else b""
            is_flat = images.pictures and _is_flat(one)
            is_dark = images.pictures and int(one.max()) <= DARK
            found.append((row, digest, is_flat, is_dark))
        return found

    with bar(f"looking at {len(images):,} images", len(images)) as progress:
        for found in prefetch(looked, blocks):
            for row, digest, is_flat, is_dark in found:
                same[digest].append(row)
                if is_flat:
                    flat.append(row)
                elif is_dark:
                    dark.append(row)
            progress.advance(len(found))
    findings = []
    for rows, what, advice in (
        (flat, "images have at most two levels of gray or color", "They show nothing, or a mask"),
        (dark, f"images are nearly black: no value is above {DARK} of 255",
         "If 12 bits or fewer stand in files of 16, scale them to 65,535"),
    ):  # fmt: skip
        if rows:
            some = tuple(images.ids[row] for row in rows[:SHOWN])
            findings.append(Finding("warning", f"{len(rows):,} {what}", len(rows), some, advice))
    return findings + (_alike(same, images, split) if compare else [])


def _is_flat(pixels: np.ndarray) -> bool:
    """Whether an image, (3, H, W), has at most two different values."""
    values = pixels.reshape(-1)
    low, high = values.min(), values.max()
    return bool(((values == low) | (values == high)).all())


def _of_frames(images: ImageSet, source: Any) -> list[Finding]:
    """Files of several frames, of which only the first is read."""
    if not hasattr(source, "decoder"):
        return []
    places = images.places or images.ids
    rows = [row for row, one in enumerate(places) if one.lower().endswith(FRAMED)]
    several = [row for row in rows if frame_count(Path(source.root) / places[row]) > 1]
    if not several:
        return []
    what = f"{len(several):,} files hold several frames or pages, and only the first is read"
    return [Finding("note", what, len(several), tuple(places[row] for row in several[:SHOWN]))]


def _alike(same: Mapping[bytes, list[int]], images: ImageSet, split: Split | None) -> list[Finding]:
    """Images with the same pixels under several names; a query among them is a leak."""
    groups = [rows for rows in same.values() if len(rows) > 1]
    if not groups:
        return []
    findings = [_told("images look the same, pixel by pixel", groups, images)]
    labels = images.labels
    differ = [
        rows
        for rows in groups
        if len({labels.indices[labels.indptr[row] : labels.indptr[row + 1]].tobytes()
                for row in rows}) > 1
    ]  # fmt: skip
    if differ:
        findings.append(_told("of these have different labels", differ, images))
    if split is not None:
        asked, known = (
            set(split.queries.tolist()),
            {*split.train.tolist(), *split.database.tolist()},
        )
        leaks = [
            rows for rows in groups if asked & {*rows} and any(row in known - asked for row in rows)
        ]
        if leaks:
            findings.append(_told("of these are queries and in train or database", leaks, images))
    return findings


def _told(what: str, groups: Sequence[Sequence[int]], images: Catalogue) -> Finding:
    count = sum(map(len, groups))
    examples = tuple(" = ".join(images.ids[row] for row in rows[:3]) for rows in groups[:SHOWN])
    return Finding("warning", f"{count:,} {what}", len(groups), examples)


def _stored(cfg: schema.Data, source: Any) -> list[Finding]:
    """Blocks of the cache that are not what they were; they are decoded again."""
    findings: list[Finding] = []
    if not hasattr(source, "root"):
        return findings
    for entry in cache.pixel_entries(cfg.paths.cache):
        try:
            ours = read_index(entry).root == str(Path(source.root).absolute())
        except Broken:  # nobody will read it, either
            continue
        if not ours:
            continue
        if damages := verify_entry(entry):
            cache.reopen(entry)
            places = [place for damage in damages for place in damage.places]
            what = f"{len(places):,} images had changed in the cache {entry}"
            advice = "They were struck out, and will be decoded again"
            findings.append(Finding("error", what, len(places), tuple(places[:SHOWN]), advice))
    return findings
