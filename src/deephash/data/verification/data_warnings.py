"""Warnings about datasets that can be read, but probably not as intended."""

import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Sequence

from deephash.data.catalogue import Catalogue
from deephash.data.sources.folder_walk import describe_passed_over
from deephash.data.splits.base import Split
from deephash.data.verification.findings import SHOWN, Finding

SEPARATORS = "|;,+/"
MANY = 20  # classes; with fewer, few images per class are no sign of a mistake


def warn_of_images(images: Catalogue) -> list[Finding]:
    """Report ignored files, and suspicious classes and labels.

    Args:
        images: of a dataset, before any split.

    Example:
        >>> for finding in warn_of_images(catalogue): print(finding.what)  # doctest: +SKIP
    """
    findings = []
    if images.passed_over:
        what = f"ignored: {describe_passed_over(images.passed_over)}"
        findings.append(Finding("note", what, sum(images.passed_over.values())))
    findings += [Finding("warning", remark, 1) for remark in images.remarks]
    if not images.labelled and getattr(images, "truth", None) is None:
        what = f"none of the {len(images):,} images has a label"
        advice = "Only methods whose loss reads no labels train on them, and there is no mAP"
        findings.append(Finding("note", what, len(images), (), advice))
    return [*findings, *_of_class_names(images.classes), *_of_counts(images)]


def warn_of_split(split: Split) -> Iterator[Finding]:
    """Report suspicious sizes of roles."""
    queries, database = len(split.queries), len(split.database)
    if queries > database > 0:
        what = f"there are more queries ({queries:,}) than images to search ({database:,})"
        advice = "If the lists of queries and database are exchanged, exchange their names"
        yield Finding("warning", what, 1, (), advice)


def _of_class_names(names: Sequence[str]) -> Iterator[Finding]:
    """Report class names that differ in spelling only, or that combine several names."""
    spellings: dict[str, list[str]] = defaultdict(list)
    for name in names:
        spellings[_normalised(name)].append(name)
    repeated = [same for same in spellings.values() if len(same) > 1]
    if repeated:
        yield Finding(
            "warning",
            f"{len(repeated):,} classes have a name in several spellings, and each is a class",
            len(repeated),
            tuple(" = ".join(map(repr, same)) for same in repeated[:SHOWN]),
            "Use one spelling if they are one class",
        )
    known = set(names)
    for separator in SEPARATORS:
        combined = [
            name
            for name in names
            if separator in name.strip(separator)
            and any(part.strip() in known for part in name.split(separator))
        ]
        if combined:
            yield Finding(
                "warning",
                f"{len(combined):,} classes seem to be several labels separated by {separator!r}",
                len(combined),
                tuple(map(repr, combined[:SHOWN])),
                "In a table, if an image may have several labels: "
                f"""'dataset.catalog.separator="{separator}"' dataset.protocol=quota""",
            )


def _of_counts(images: Catalogue) -> Iterator[Finding]:
    """Report implausible numbers of classes and images."""
    classes, count = len(images.classes), len(images)
    labelled = int((images.label_counts > 0).sum())
    if classes >= MANY and not images.multilabel and 2 * classes > labelled > 0:
        yield Finding(
            "warning",
            f"there are {classes:,} classes of {count:,} images: most classes have one image",
            classes,
            images.classes[:SHOWN],
            "If these are file names or image numbers, the labels are elsewhere",
        )
    used = images.labels.sum(axis=0)
    if classes > 2 and images.classes[0] == "0" and not used[0] and used[1:].all():
        yield Finding(
            "warning",
            "class 0 has no image: the labels seem to be counted from 1",
            1,
            (),
            "Count them from 0, or there is one class too many",
        )


def _normalised(name: str) -> str:
    """Remove case, repeated blanks, variants of characters and a zero fraction from a name."""
    name = " ".join(unicodedata.normalize("NFKC", name).casefold().replace("_", " ").split())
    number, point, rest = name.partition(".")
    is_whole = point and number.lstrip("-").isdecimal() and not rest.strip("0")
    return (number.lstrip("0") or "0") if is_whole or (number.isdecimal() and not point) else name
