"""Whether folders are classes: layouts that look alike and mean something else."""

import os
from collections import Counter
from collections.abc import Iterator, Sequence

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
"""Names of folders, in lower case, that are official parts of a dataset."""

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
    """The folders whose images have no labels; None where folders are classes.

    Without classes is a root that holds images and no folder, and one whose official parts do.

    Args:
        walk: of the root, whose folders were listed.
        names: of the folders in it.
        labels: `dataset.source.labels`: False, no image has a label, whatever folders there are.
        parts: `dataset.source.parts`.

    Returns:
        paths below the root, the official parts with the training part first; or the root alone, as
        an empty path.

    Raises:
        DataError: there are parts that cannot be distinguished from other folders.
    """
    if labels:
        return None
    if not names:
        return [""] if walk.passed_over[OUTSIDE] or labels is False else None
    by_role = None if parts == "classes" else _by_role(walk, names)
    if labels is False:
        return [""] if by_role is None else [by_role[role] for role in by_role_order(by_role)]
    if by_role is None:
        return None
    flat = []
    for name in by_role.values():
        inside = Walk(walk.root, walk.endings)
        flat.append(not inside.folders(name) and inside.passed_over[OUTSIDE] > 0)
    return [by_role[role] for role in by_role_order(by_role)] if all(flat) else None


def official_parts(walk: Walk, names: Sequence[str]) -> dict[str, list[str]] | None:
    """The class folders of each official part, training first; None where folders are classes.

    Args:
        walk: of the root.
        names: of the folders in it.

    Raises:
        DataError: there are parts that cannot be told from classes, or have none.
    """
    by_role = _by_role(walk, names)
    if by_role is None:
        return None
    parts = {by_role[role]: walk.folders(by_role[role]) for role in by_role_order(by_role)}
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
                f"{training} and {part} below {walk.root} must hold the same class folders; only "
                f"one of them has {', '.join(unlike[:5])}"
                + (f" and {len(unlike) - 5} more" if len(unlike) > 5 else "")
            )
    if len(parts[training]) < 2:
        raise DataError(f"{walk.root / training} must hold one folder per class, at least two")
    return parts


def _by_role(walk: Walk, names: Sequence[str]) -> dict[str, str] | None:
    """The folder of each official part; None where the folders are no parts.

    Raises:
        DataError: it is unclear what they are.
    """
    kinds = Counter(ROLE_OF_PART.get(name.lower(), "other") for name in names)
    others = [name for name in names if name.lower() not in ROLE_OF_PART]
    searched = [name for name in names if name.lower() in SEARCHED]
    pictures = [name for name in names if name.lower() in PICTURES]
    annotations = [name for name in names if name.lower() in ANNOTATIONS]
    if pictures and annotations:
        raise DataError(
            f"{walk.root} holds {', '.join(pictures)} and {', '.join(annotations)}: these look "
            f"like images and their annotations, and not like classes. For such data {TABLE}. "
            + AS_CLASSES
        )
    if searched and set(others) <= {*searched} and (kinds["train"] or len(searched) > 1):
        raise DataError(
            f"{walk.root} holds {', '.join(names)}: these look like roles, and not like classes. "
            f"To keep them {TABLE}. {AS_CLASSES}"
        )
    if not kinds["train"] or not (kinds["test"] or kinds["val"]):
        return None
    twice = [role for role in ("train", "test", "val") if kinds[role] > 1]
    if others or twice:
        raise DataError(
            f"{walk.root} holds {', '.join(names)}: some of them look like official parts "
            "(train, test, val; each once) and some like classes. Move away what is no part. "
            + AS_CLASSES
        )
    return {ROLE_OF_PART[name.lower()]: name for name in names}


def by_role_order(by_role: dict[str, str]) -> list[str]:
    """The roles that are there, training first."""
    return [role for role in ("train", "test", "val") if role in by_role]


def check_classes(walk: Walk, names: Sequence[str]) -> None:
    """Refuse a root that has fewer than two class folders, with what it seems to hold instead.

    Args:
        walk: of the root.
        names: of the folders in it.

    Raises:
        DataError: it has fewer than two.
    """
    if len(names) >= 2:
        return
    found = f"only {names[0]!r}" if names else "none"
    message = f"{walk.root} must hold one folder per class, at least two; it has {found}"
    if loose := walk.passed_over[OUTSIDE]:
        message += (
            f", and {loose:,} images beside. Sort them into a folder for each class, or {TABLE}"
        )
    if names:
        inside = Walk(walk.root, walk.endings).folders(names[0])
        if len(inside) >= 2:
            message += f". Are these the classes: dataset.root={walk.root / names[0]}"
    raise DataError(f"{message}. {WITHOUT}" if names or walk.passed_over[OUTSIDE] else message)


def remarks(walk: Walk, folders: Sequence[str], files: Sequence[File]) -> Iterator[str]:
    """What is unusual about class folders that are read all the same.

    Args:
        walk: that has read them.
        folders: of the classes, as paths below the root.
        files: of all of them.
    """
    if loose := walk.passed_over[OUTSIDE]:
        yield (
            f"{loose:,} images lie beside the class folders and belong to no class: move them into "
            f"a folder of {walk.root}, or away"
        )
    yield from broken_links(walk)
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
        some = ", ".join(sorted(inner[first])[:3])
        yield (
            f"all images lie two folders deep, such as in {first}/{{{some}}}, and each of the "
            f"{len(folders)} outer folders is one class. If the inner ones are the classes, "
            f"dataset.root={os.path.join(walk.root, first)} reads those of one folder; or move "
            "them up"
        )


def broken_links(walk: Walk) -> Iterator[str]:
    """A sentence on links that lead nowhere, if there are any."""
    if walk.broken:
        more = f" and {len(walk.broken) - 5} more" if len(walk.broken) > 5 else ""
        yield f"links that lead nowhere: {', '.join(walk.broken[:5])}{more}"
