"""What the readers share: where archives put their files, and what stands in them."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike
from scipy.sparse import csr_array

from deephash.data.image_formats import ARCHIVED
from deephash.errors import DataError
from deephash.utils.files import expand_path, read_text

LARGEST = 1 << 30
"""Bytes of a text file of an archive."""

KEY = "dataset.catalog"
"""Where the configuration holds a reader, for errors that tell what to type."""


def folder_of(root: str | Path) -> Path:
    """The root of a dataset.

    Raises:
        DataError: it is no folder.
    """
    root = expand_path(root)
    if not root.is_dir():
        raise DataError(f"the folder {root} does not exist: set dataset.root=FOLDER")
    return root


def chosen(
    root: Path, given: str | Path | None, key: str | None, usual: Sequence[str], what: str
) -> Path:
    """A file or folder below root: the one given, or the first of the usual ones that exists.

    Args:
        root: of the dataset.
        given: relative to root, or absolute; None to look in the usual places.
        key: the reader's option that gives it; None if it has none.
        usual: paths relative to root.
        what: what is looked for, in words.

    Raises:
        DataError: it is not there.
    """
    names = usual if given is None else [str(expand_path(given))]
    for name in names:
        if (root / name).exists():
            return root / name
    looked = "".join(f"  {root / name}\n" for name in names)
    option = f", or {KEY}.{key}=PATH" if key else ""
    raise DataError(
        f"no {what}; looked for\n{looked}Set dataset.root=FOLDER to the folder that holds it"
        f"{option}"
    )


def below(root: Path, folder: Path) -> str:
    """Where the images of a folder lie, relative to root: empty, or with a slash at the end.

    Raises:
        DataError: the folder does not lie below root.
    """
    if not folder.is_relative_to(root):
        raise DataError(
            f"the images in {folder} do not lie below dataset.root={root}: set dataset.root to a "
            "folder above them, and give the files of labels by an absolute path"
        )
    path = folder.relative_to(root).as_posix()
    return "" if path == "." else f"{path}/"


def lines_of(file: Path) -> list[str]:
    """The lines of a text file, without ends and blanks around them; the last may be unended.

    Raises:
        DataError: it cannot be read, or is empty.
    """
    text = read_text(file, limit=LARGEST)
    lines = [line.strip() for line in text.split("\n")]
    while lines and not lines[-1]:
        lines.pop()
    if not lines:
        raise DataError(f"{file} is empty")
    return lines


def image_names(folder: Path) -> list[str]:
    """Sorted file names of the images right in a folder."""
    with os.scandir(folder) as entries:
        return sorted(
            entry.name
            for entry in entries
            if entry.name.lower().endswith(ARCHIVED) and not entry.name.startswith(".")
        )


def some(names: Sequence[str], shown: int = 5) -> str:
    """The first few of many names, for a message."""
    more = f", and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more


def multi_hot(rows: ArrayLike, columns: ArrayLike, shape: tuple[int, int]) -> csr_array:
    """Labels (n, C) bool, true at each (row, column); a pair may be named more than once."""
    pairs = np.asarray(rows, np.int64), np.asarray(columns, np.int64)
    return csr_array((np.ones(len(pairs[0]), bool), pairs), shape=shape)
