"""Counts of one list, and digests that identify it."""

import hashlib
import itertools
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from deephash.data.sources.list_parser import ListRows

DIGITS = 12  # of a digest


@dataclass(frozen=True)
class RoleFacts:
    """Counts of the images of one role in its list; C classes."""

    role: str
    file: str
    sha1: str  # of the list's unpacked text, or of the split file's
    rows: int
    num_classes: int
    labels_per_image: dict[int, int]  # number of labels -> images
    class_counts: tuple[int, ...]  # C
    class_changes: int  # rows whose labels differ from the previous row
    content: str  # digest of ids and labels, independent of their order
    order: str  # digest of the same in the list's order

    @property
    def mean_labels(self) -> float:
        """The mean number of labels per image."""
        return sum(self.class_counts) / max(self.rows, 1)

    @property
    def unlabelled(self) -> int:
        """The number of images without a label."""
        return self.labels_per_image.get(0, 0)

    @property
    def digest(self) -> str:
        """Both digests, as used by `identify`."""
        return f"{self.content}-{self.order}"


def role_facts(role: str, file: str, sha1: str, rows: ListRows, num_classes: int) -> RoleFacts:
    """Count one list; labels of classes from `num_classes` on are not counted as classes."""
    indices = rows.labels.indices
    counts = np.bincount(indices[indices < num_classes], minlength=num_classes)
    keys = label_keys(rows)
    lines = [f"{name}\t{key}" for name, key in zip(rows.ids, keys, strict=True)]
    return RoleFacts(
        role=role,
        file=file,
        sha1=sha1,
        rows=len(rows.ids),
        num_classes=num_classes,
        labels_per_image=dict(sorted(Counter(np.diff(rows.labels.indptr).tolist()).items())),
        class_counts=tuple(counts.tolist()),
        class_changes=sum(key != following for key, following in itertools.pairwise(keys)),
        content=_digest(sorted(lines)),
        order=_digest(lines),
    )


def label_keys(rows: ListRows) -> list[str]:
    """Return the class indices of each image as text, ascending: `0 3 17`."""
    indices = rows.labels.indices.tolist()
    bounds = itertools.pairwise(rows.labels.indptr.tolist())
    return [" ".join(map(str, sorted(indices[start:end]))) for start, end in bounds]


def _digest(lines: Iterable[str]) -> str:
    text = "".join(f"{line}\n" for line in lines)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:DIGITS]


def align_columns(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Return header and rows as lines with left-aligned columns."""
    lines = [header, *rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    ]
