"""Verify a dataset: its lists, files and split, and optionally every image."""

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
from deephash.data.prefetch import prefetch
from deephash.data.sources.lists import Lists
from deephash.data.splits.base import ROLES, Split
from deephash.data.splits.protocols import Facts
from deephash.data.verification.data_warnings import warn_of_images, warn_of_split
from deephash.data.verification.findings import Finding
from deephash.data.verification.inspection import identify, inspect_lists
from deephash.errors import DataError
from deephash.runs.describe_data import divide
from deephash.utils.files import expand_path, write_json
from deephash.utils.progress import bar

BLOCK = 256  # images that are read at a time
SHOWN = 5  # examples of a finding
DARK = 16  # of 255; the largest value of 12-bit data in 16-bit files


def verify(cfg: schema.Data) -> None:
    """Print the faults of a dataset with counts and examples.

    Args:
        cfg: the checked configuration of ``data``. With ``images=true`` every image is opened and
            compared with the others, and the cache with its checksums; with ``images=false`` files
            are not looked up.

    Raises:
        DataError: there are errors; all findings were printed before.
    """
    source = build.source(cfg)
    result: dict[str, Any] = {}
    findings: list[Finding] = []
    catalogue: Catalogue | None = None
    if isinstance(source, Lists):
        inspection = inspect_lists(source, files=cfg.images is not False)
        findings += inspection.findings
        result["lists"] = inspection.as_dict()
        print("\n".join(inspection.lines()))
        for role, names in identify(inspection, cfg.dataset.known or {}).items():
            print(f"{role}: as in {', '.join(names)}")
        if not _errors(findings):
            catalogue = source.read()
    if not _errors(findings) and (cfg.images or catalogue is None):
        damaged = _check_cache(cfg, source) if cfg.images else []  # before loading repairs it
        catalogue, unreadable = _load(cfg)
        findings += [*unreadable, *damaged]
    if catalogue is not None:
        findings += warn_of_images(catalogue)
        split, facts, faults = _check_split(cfg, catalogue)
        findings += faults
        if facts is not None:
            result["facts"] = facts.as_dict()
            print(f"fingerprint under protocol {facts.protocol}: {facts.fingerprint}")
        if split is not None and isinstance(catalogue, ImageSet):
            findings += _check_features(catalogue, split)
        if isinstance(catalogue, ImageSet) and (cfg.images or catalogue.pictures):
            findings += _check_pixels(catalogue, split, compare=bool(cfg.images))
        if cfg.images and isinstance(catalogue, ImageSet):
            findings += _check_frames(catalogue, source)
    for finding in findings:
        print("\n".join(finding.lines()))
    if cfg.out is not None:
        result["findings"] = [finding.as_dict() for finding in findings]
        write_json(expand_path(cfg.out), result)
    if errors := _errors(findings):
        raise DataError(f"{len(errors)} findings are errors: {cfg.dataset.name} is not in order")
    print("in order")


def _errors(findings: Sequence[Finding]) -> list[Finding]:
    return [finding for finding in findings if finding.level == "error"]


def _load(cfg: schema.Data) -> tuple[ImageSet | None, list[Finding]]:
    """Decode the images; leave out unreadable ones and report them."""
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


def _check_split(
    cfg: schema.Data, images: Catalogue
) -> tuple[Split | None, Facts | None, list[Finding]]:
    """Return the split of the protocol and its facts, with the findings about them."""
    findings: list[Finding] = []
    try:
        split, facts = divide(cfg, images)
    except DataError as error:
        return None, None, [Finding("error", str(error), 1)]
    try:
        check_facts(facts, (cfg.dataset.expected or {}).get(facts.protocol) or {})
    except DataError as error:
        findings.append(Finding("error", str(error), 1))
    findings += warn_of_split(split)
    for role in ("train", "queries", "database"):
        rows = getattr(split, role)
        counts = images.labels[rows].sum(axis=0)
        empty = [name for name, count in zip(images.classes, counts, strict=True) if not count]
        if empty and len(rows) and len(empty) < len(images.classes):
            fault = f"{len(empty)} classes have no image in {role}"
            findings.append(Finding("warning", fault, len(empty), tuple(empty[:SHOWN])))
    return split, facts, findings


def _check_features(images: ImageSet, split: Split) -> list[Finding]:
    """Find NaN or infinite features of images with a role."""
    try:
        check_finite(images, {role: getattr(split, role) for role in ROLES})
    except DataError as error:
        return [Finding("error", str(error), 1)]
    return []


def _check_pixels(images: ImageSet, split: Split | None, compare: bool) -> list[Finding]:
    """Find images without content, and equal images with several names.

    Args:
        images: all of them.
        split: None if it could not be made.
        compare: also look for equal images.
    """
    same: dict[bytes, list[int]] = defaultdict(list)
    flat: list[int] = []
    dark: list[int] = []
    blocks = np.split(np.arange(len(images)), range(BLOCK, len(images), BLOCK))

    def describe(rows: np.ndarray) -> list[tuple[int, bytes, bool, bool]]:
        result = []
        for row, pixels in zip(rows.tolist(), images.inputs[rows], strict=True):
            digest = hashlib.blake2b(pixels.tobytes(), digest_size=16).digest() if compare else b""
            is_flat = images.pictures and _is_flat(pixels)
            is_dark = images.pictures and int(pixels.max()) <= DARK
            result.append((row, digest, is_flat, is_dark))
        return result

    with bar(f"looking at {len(images):,} images", len(images)) as progress:
        for block in prefetch(describe, blocks):
            for row, digest, is_flat, is_dark in block:
                same[digest].append(row)
                if is_flat:
                    flat.append(row)
                elif is_dark:
                    dark.append(row)
            progress.advance(len(block))
    findings = []
    black = f"images are nearly black: no value is above {DARK} of 255"
    scale = "If 12 bits or fewer are stored in 16-bit files, scale them to 65,535"
    for rows, fault, advice in (
        (flat, "images have at most two levels of gray or color", "They are blank, or a mask"),
        (dark, black, scale),
    ):
        if rows:
            examples = tuple(images.ids[row] for row in rows[:SHOWN])
            message = f"{len(rows):,} {fault}"
            findings.append(Finding("warning", message, len(rows), examples, advice))
    if compare:
        findings += _check_duplicates(same, images, split)
    return findings


def _is_flat(pixels: np.ndarray) -> bool:
    """Return whether an image (3, H, W) has at most two different values."""
    values = pixels.reshape(-1)
    low, high = values.min(), values.max()
    return bool(((values == low) | (values == high)).all())


def _check_frames(images: ImageSet, source: Any) -> list[Finding]:
    """Find files of several frames, of which only the first is read."""
    if not hasattr(source, "decoder"):
        return []
    places = images.places or images.ids
    rows = [row for row, path in enumerate(places) if path.lower().endswith(FRAMED)]
    several = [row for row in rows if frame_count(Path(source.root) / places[row]) > 1]
    if not several:
        return []
    message = f"{len(several):,} files hold several frames or pages, and only the first is read"
    return [Finding("note", message, len(several), tuple(places[row] for row in several[:SHOWN]))]


def _check_duplicates(
    same: Mapping[bytes, list[int]], images: ImageSet, split: Split | None
) -> list[Finding]:
    """Find images with equal pixels and several names; a query among them is a leak."""

    def finding(fault: str, groups: Sequence[Sequence[int]]) -> Finding:
        count = sum(map(len, groups))
        examples = tuple(" = ".join(images.ids[row] for row in rows[:3]) for rows in groups[:SHOWN])
        return Finding("warning", f"{count:,} {fault}", len(groups), examples)

    def labels_of(row: int) -> bytes:
        labels = images.labels
        label_ids: np.ndarray = labels.indices[labels.indptr[row] : labels.indptr[row + 1]]
        return label_ids.tobytes()

    groups = [rows for rows in same.values() if len(rows) > 1]
    if not groups:
        return []
    findings = [finding("images look the same, pixel by pixel", groups)]
    if differ := [rows for rows in groups if len(set(map(labels_of, rows))) > 1]:
        findings.append(finding("of these have different labels", differ))
    if split is not None:
        queries = set(split.queries.tolist())
        others = {*split.train.tolist(), *split.database.tolist()} - queries
        if leaks := [rows for rows in groups if queries & {*rows} and others & {*rows}]:
            findings.append(finding("of these are queries and in train or database", leaks))
    return findings


def _check_cache(cfg: schema.Data, source: Any) -> list[Finding]:
    """Find damaged blocks of the cache, and mark them to be decoded again."""
    findings: list[Finding] = []
    if not hasattr(source, "root"):
        return findings
    for entry in cache.pixel_entries(cfg.paths.cache):
        try:
            ours = read_index(entry).root == str(Path(source.root).absolute())
        except Broken:  # it is not read by training either
            continue
        if ours and (damages := verify_entry(entry)):
            cache.reopen(entry)
            places = [place for damage in damages for place in damage.places]
            message = f"{len(places):,} images had changed in the cache {entry}"
            advice = "They were struck out, and will be decoded again"
            findings.append(Finding("error", message, len(places), tuple(places[:SHOWN]), advice))
    return findings
