"""Helpers of the readers: locations and lines of the files of an archive."""

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
"""Limit on the bytes of a text file."""

KEY = "dataset.catalog"
"""The configuration key of a reader, for error messages."""


def check_root(root: str | Path) -> Path:
    """Return the root of a dataset.

    Raises:
        DataError: it is no folder.
    """
    root = expand_path(root)
    if not root.is_dir():
        raise DataError(f"the folder {root} does not exist: set dataset.root=FOLDER")
    return root


def find_path(
    root: Path, given: str | Path | None, key: str | None, usual: Sequence[str], what: str
) -> Path:
    """Return a file or folder below root: the one given, or the first usual one that exists.

    Args:
        root: of the dataset.
        given: relative to root, or absolute; None to look in the usual places.
        key: the reader's option for it; None if it has none.
        usual: paths relative to root.
        what: a description of it, for the message.

    Raises:
        DataError: it does not exist.
    """
    names = usual if given is None else [str(expand_path(given))]
    for name in names:
        if (root / name).exists():
            return root / name
    tried = "".join(f"  {root / name}\n" for name in names)
    option = f", or {KEY}.{key}=PATH" if key else ""
    raise DataError(
        f"no {what}; looked for\n{tried}Set dataset.root=FOLDER to the folder that contains it"
        f"{option}"
    )


def path_prefix(root: Path, folder: Path) -> str:
    """Return the path of a folder relative to root: empty, or with a slash at the end.

    Raises:
        DataError: the folder is not below root.
    """
    if not folder.is_relative_to(root):
        raise DataError(
            f"the images in {folder} are not below dataset.root={root}: set dataset.root to a "
            "folder above them, and give the label files by an absolute path"
        )
    path = folder.relative_to(root).as_posix()
    return "" if path == "." else f"{path}/"


def read_lines(file: Path) -> list[str]:
    """Return the lines of a text file, without line ends and surrounding blanks.

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
    """Return the sorted file names of the images directly in a folder."""
    with os.scandir(folder) as entries:
        return sorted(
            entry.name
            for entry in entries
            if entry.name.lower().endswith(ARCHIVED) and not entry.name.startswith(".")
        )


def multi_hot(rows: ArrayLike, columns: ArrayLike, shape: tuple[int, int]) -> csr_array:
    """Return labels (n, C) bool, true at each (row, column); pairs may be repeated."""
    pairs = np.asarray(rows, np.int64), np.asarray(columns, np.int64)
    return csr_array((np.ones(len(pairs[0]), bool), pairs), shape=shape)
