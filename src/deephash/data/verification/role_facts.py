"""What one list says, counted; and digests by which two people can compare a list alone."""

import hashlib
import itertools
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from deephash.data.sources.list_parser import Rows

DIGITS = 12  # of a digest


@dataclass(frozen=True)
class RoleFacts:
    """The images of one role, as its list names them; C classes."""

    role: str
    file: str
    sha1: str  # of the list's text unpacked, or of the split file's
    rows: int
    num_classes: int
    labels_per_image: dict[int, int]  # number of labels -> images
    class_counts: tuple[int, ...]  # C
    class_changes: int  # rows with other labels than the row before
    content: str  # digest of ids and labels, in whatever order
    order: str  # digest of the same in the list's order

    @property
    def mean_labels(self) -> float:
        """Labels of an image, on average."""
        return sum(self.class_counts) / max(self.rows, 1)

    @property
    def unlabelled(self) -> int:
        """Images without a label."""
        return self.labels_per_image.get(0, 0)

    @property
    def digest(self) -> str:
        """Both digests, as `identify` takes them."""
        return f"{self.content}-{self.order}"


def role_facts(role: str, file: str, sha1: str, rows: Rows, num_classes: int) -> RoleFacts:
    """Count one list; labels of classes from `num_classes` on are left out of the classes."""
    indices = rows.labels.indices
    counts = np.bincount(indices[indices < num_classes], minlength=num_classes)
    keys = label_keys(rows)
    said = [f"{name}\t{key}" for name, key in zip(rows.ids, keys, strict=True)]
    return RoleFacts(
        role=role,
        file=file,
        sha1=sha1,
        rows=len(rows.ids),
        num_classes=num_classes,
        labels_per_image=dict(sorted(Counter(np.diff(rows.labels.indptr).tolist()).items())),
        class_counts=tuple(counts.tolist()),
        class_changes=sum(one != other for one, other in itertools.pairwise(keys)),
        content=_digest(sorted(said)),
        order=_digest(said),
    )


def label_keys(rows: Rows) -> list[str]:
    """The class indices of each image as text, ascending: `0 3 17`."""
    indices = rows.labels.indices.tolist()
    bounds = itertools.pairwise(rows.labels.indptr.tolist())
    return [" ".join(map(str, sorted(indices[start:end]))) for start, end in bounds]


def _digest(lines: Iterable[str]) -> str:
    text = "".join(f"{line}\n" for line in lines)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:DIGITS]


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Rows of text under a head, the columns aligned to the left."""
    lines = [head, *rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    ]
