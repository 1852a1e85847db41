"""What a dataset can be read as and seldom means: said once, before anything is trained on it."""

import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Sequence

from deephash.data.catalogue import Catalogue
from deephash.data.sources.folder_walk import passed_over_in_words
from deephash.data.splits.base import Split
from deephash.data.verification.findings import SHOWN, Finding

SEPARATORS = "|;,+/"
MANY = 20  # classes from which on too many of them are suspicious


def doubts(images: Catalogue) -> list[Finding]:
    """What was passed over, and what is suspicious of classes and labels.

    Args:
        images: of a dataset, before any split.

    Example:
        >>> for doubt in doubts(catalogue): print(doubt.what)  # doctest: +SKIP
    """
    found = []
    if images.passed_over:
        what = f"passed over: {passed_over_in_words(images.passed_over)}"
        found.append(Finding("note", what, sum(images.passed_over.values())))
    found += [Finding("warning", remark, 1) for remark in images.remarks]
    if not images.labelled and getattr(images, "truth", None) is None:
        what = f"none of the {len(images):,} images has a label"
        advice = "Only methods whose loss reads no labels train on them, and there is no mAP"
        found.append(Finding("note", what, len(images), (), advice))
    return [*found, *_of_classes(images.classes), *_of_counts(images)]


def doubts_of_split(split: Split) -> Iterator[Finding]:
    """What is suspicious of roles.

    Args:
        split: of a dataset.
    """
    queries, database = len(split.queries), len(split.database)
    if queries > database > 0:
        what = f"there are more queries ({queries:,}) than images to search ({database:,})"
        advice = "If the lists of queries and database are exchanged, exchange their names"
        yield Finding("warning", what, 1, (), advice)


def _of_classes(names: Sequence[str]) -> Iterator[Finding]:
    """Class names that seem to be one, or several in one."""
    alike: dict[str, list[str]] = defaultdict(list)
    for name in names:
        alike[_plain(name)].append(name)
    pairs = [same for same in alike.values() if len(same) > 1]
    if pairs:
        yield Finding(
            "warning",
            f"{len(pairs):,} classes have a name in several spellings, and each is a class",
            len(pairs),
            tuple(" = ".join(map(repr, same)) for same in pairs[:SHOWN]),
            "Write it in one way if they are one class",
        )
    known = set(names)
    for separator in SEPARATORS:
        made = [
            name
            for name in names
            if separator in name.strip(separator)
            and any(part.strip() in known for part in name.split(separator))
        ]
        if made:
            yield Finding(
                "warning",
                f"{len(made):,} classes seem to be several labels set apart by {separator!r}",
                len(made),
                tuple(map(repr, made[:SHOWN])),
                "In a table, if an image may have several labels: "
                f"""'dataset.catalog.separator="{separator}"' dataset.protocol=quota""",
            )


def _of_counts(images: Catalogue) -> Iterator[Finding]:
    """Numbers of classes and images that do not go together."""
    classes, count = len(images.classes), len(images)
    labelled = int((images.label_counts > 0).sum())
    if classes >= MANY and not images.multilabel and 2 * classes > labelled > 0:
        yield Finding(
            "warning",
            f"there are {classes:,} classes of {count:,} images: most classes have one image",
            classes,
            images.classes[:SHOWN],
            "If these are names of files or numbers of images, the labels stand elsewhere",
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


def _plain(name: str) -> str:
    """A name without what people do not see: case, blanks, forms of letters, a zero fraction."""
    name = " ".join(unicodedata.normalize("NFKC", name).casefold().replace("_", " ").split())
    number, point, rest = name.partition(".")
    is_whole = point and number.lstrip("-").isdecimal() and not rest.strip("0")
    return (number.lstrip("0") or "0") if is_whole or (number.isdecimal() and not point) else name
