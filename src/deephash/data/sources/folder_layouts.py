"""Recognise folders of classes, official parts and images without labels."""

import os
from collections import Counter
from collections.abc import Iterator, Sequence

from deephash.data.catalogue import first_few
from deephash.data.decoding import File
from deephash.data.sources.folder_walk import OUTSIDE, Walk
from deephash.errors import DataError

ROLE_OF_PART = {
    "train": "train",
    "training": "train",
    "test": "test",
    "testing": "test",
    "val": "val",
    "valid": "val",
    "validation": "val",
}
"""Folder names of official parts, in lower case."""

SEARCHED = frozenset(("query", "queries", "gallery", "database"))
PICTURES = frozenset(("images", "image", "imgs", "img", "jpegimages", "photos", "pictures"))
ANNOTATIONS = frozenset(
    ("labels", "label", "annotations", "annotation", "annots", "masks", "mask", "bboxes")
)
TABLE = "write a table of paths and labels (dataset=csv) or lists (dataset=lists), see docs/data.md"
AS_CLASSES = "If these are classes: dataset.source.parts=classes"
WITHOUT = "If the images have no labels: dataset.source.labels=false"


def unlabelled_folders(
    walk: Walk, names: Sequence[str], labels: bool | None, parts: str | None
) -> list[str] | None:
    """Return the folders whose images have no labels; None if folders are classes.

    Without classes is a root that contains images and no folder, or whose official parts do.

    Args:
        walk: of the root, whose folders were listed.
        names: of the folders in it.
        labels: `dataset.source.labels`; if False, no image has a label.
        parts: `dataset.source.parts`.

    Returns:
        Paths below the root: the official parts with the training part first; or the root, as an
        empty path.

    Raises:
        DataError: official parts cannot be distinguished from other folders.
    """
    if labels:
        return None
    if not names:
        return [""] if walk.passed_over[OUTSIDE] or labels is False else None
    folders = None if parts == "classes" else _part_folders(walk, names)
    if labels is False:
        return folders or [""]
    if folders is None:
        return None
    for name in folders:
        inside = Walk(walk.root, walk.endings)
        if inside.folders(name) or not inside.passed_over[OUTSIDE]:
            return None
    return folders


def official_parts(walk: Walk, names: Sequence[str]) -> dict[str, list[str]] | None:
    """Return the class folders of each official part, training first; None if there are no parts.

    Args:
        walk: of the root.
        names: of the folders in it.

    Raises:
        DataError: official parts cannot be distinguished from classes, or have no classes.
    """
    folders = _part_folders(walk, names)
    if folders is None:
        return None
    parts = {folder: walk.folders(folder) for folder in folders}
    for part, classes in parts.items():
        if not classes:
            raise DataError(
                f"{walk.root / part} has no folder for each class, as {part}/<class>/*.jpg: sort "
                f"the images into such folders, or {TABLE}. {WITHOUT}"
            )
    training, *rest = parts
    for part in rest:
        if unlike := sorted(set(parts[part]) ^ set(parts[training])):
            raise DataError(
                f"{training} and {part} below {walk.root} must have the same class folders; only "
                f"one of them has {first_few(unlike)}"
            )
    if len(parts[training]) < 2:
        raise DataError(f"{walk.root / training} must have one folder per class, at least two")
    return parts


def _part_folders(walk: Walk, names: Sequence[str]) -> list[str] | None:
    """Return the folders of the official parts, training first; None if there are no parts.

    Raises:
        DataError: it is unclear what the folders are.
    """
    kinds = Counter(ROLE_OF_PART.get(name.lower(), "other") for name in names)
    others = [name for name in names if name.lower() not in ROLE_OF_PART]
    searched = [name for name in names if name.lower() in SEARCHED]
    pictures = [name for name in names if name.lower() in PICTURES]
    annotations = [name for name in names if name.lower() in ANNOTATIONS]
    if pictures and annotations:
        raise DataError(
            f"{walk.root} has {', '.join(pictures)} and {', '.join(annotations)}: these look "
            f"like images and their annotations, not like classes. For such data {TABLE}. "
            + AS_CLASSES
        )
    if searched and set(others) <= {*searched} and (kinds["train"] or len(searched) > 1):
        raise DataError(
            f"{walk.root} has {', '.join(names)}: these look like roles, not like classes. "
            f"To keep them {TABLE}. {AS_CLASSES}"
        )
    if not kinds["train"] or not (kinds["test"] or kinds["val"]):
        return None
    twice = [role for role in ("train", "test", "val") if kinds[role] > 1]
    if others or twice:
        raise DataError(
            f"{walk.root} has {', '.join(names)}: some of them look like official parts "
            "(train, test, val; each once) and some like classes. Move the other folders away. "
            + AS_CLASSES
        )
    order = ["train", "test", "val"]
    return sorted(names, key=lambda name: order.index(ROLE_OF_PART[name.lower()]))


def check_classes(walk: Walk, names: Sequence[str]) -> None:
    """Raise a DataError if a root has fewer than two class folders.

    Args:
        walk: of the root.
        names: of the folders in it.
    """
    if len(names) >= 2:
        return
    existing = f"only {names[0]!r}" if names else "none"
    message = f"{walk.root} must have one folder per class, at least two; it has {existing}"
    if loose := walk.passed_over[OUTSIDE]:
        message += (
            f", and {loose:,} images beside it. Sort them into a folder for each class, or {TABLE}"
        )
    if names:
        inside = Walk(walk.root, walk.endings).folders(names[0])
        if len(inside) >= 2:
            message += f". Are these the classes: dataset.root={walk.root / names[0]}"
    raise DataError(f"{message}. {WITHOUT}" if names or walk.passed_over[OUTSIDE] else message)


def warn_of_layout(walk: Walk, folders: Sequence[str], files: Sequence[File]) -> Iterator[str]:
    """Yield warnings about unusual class folders.

    Args:
        walk: that has read them.
        folders: of the classes, as paths below the root.
        files: of all classes.
    """
    if loose := walk.passed_over[OUTSIDE]:
        yield (
            f"{loose:,} images are beside the class folders and belong to no class: move them into "
            f"a folder of {walk.root}, or away"
        )
    yield from warn_of_broken_links(walk)
    inner: dict[str, set[str]] = {folder: set() for folder in folders}
    direct = Counter[str]()
    depth = folders[0].count("/") + 1
    for file in files:
        pieces = file.id.split("/")
        folder = "/".join(pieces[:depth])
        if len(pieces) == depth + 1:
            direct[folder] += 1
        elif folder in inner:
            inner[folder].add(pieces[depth])
    nested = [folder for folder in folders if not direct[folder] and len(inner[folder]) > 1]
    if len(nested) == len(folders):
        first = nested[0]
        examples = ", ".join(sorted(inner[first])[:3])
        yield (
            f"all images lie two folders deep, such as in {first}/{{{examples}}}, and each of the "
            f"{len(folders)} outer folders is one class. If the inner ones are the classes, "
            f"dataset.root={os.path.join(walk.root, first)} reads those of one folder; or move "
            "them up"
        )


def warn_of_broken_links(walk: Walk) -> Iterator[str]:
    """Yield a warning if there are broken links."""
    if walk.broken:
        yield f"broken links: {first_few(walk.broken)}"
