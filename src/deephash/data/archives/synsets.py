"""The classes of ILSVRC 2012's validation images, from any of their label files."""

import csv
import re
from collections.abc import Sequence
from pathlib import Path

from deephash.data.archives.files import read_lines
from deephash.errors import DataError

FILES = (
    "LOC_val_solution.csv",
    "imagenet_2012_validation_synset_labels.txt",
    "synset_labels.txt",
    "ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt",
    "data/ILSVRC2012_validation_ground_truth.txt",
    "ILSVRC2012_validation_ground_truth.txt",
    "val.txt",
)
"""Usual names of label files, in the order of the search."""

WNID = re.compile(r"n\d{8}")
HEADER = "ImageId,PredictionString"


def validation_classes(file: Path) -> dict[str, str]:
    """Return the WordNet id of each validation image in a file, by file name without extension.

    The format is recognised by the content of the lines:

    - `ImageId,PredictionString`, Kaggle's: an image and boxes, each after its id;
    - an id, for the images 1, 2, ... in order;
    - a number, likewise: the authors' file, with `meta.mat` beside it for the ids;
    - an image and an id;
    - an image and a number from 0: Caffe's, with `synsets.txt` beside it for the ids.

    Raises:
        DataError: the file, or the one beside it, cannot be read or is malformed.
    """
    lines = read_lines(file)
    if lines[0] == HEADER:
        return _solution(file, lines)
    width = len(lines[0].split())
    rows = []
    for number, line in enumerate(lines, 1):
        pieces = line.split()
        if len(pieces) != width or width > 2:
            raise DataError(
                f"{file}, line {number}: {line[:80]!r}; expected a class, or an image and a class"
            )
        rows.append(pieces)
    names = [f"ILSVRC2012_val_{number:08d}" for number in range(1, len(rows) + 1)]
    if width == 2:
        names = [Path(name).stem for name, _ in rows]
    wnid_of: dict[str, str] | None = None
    if rows[0][-1].isdecimal():
        wnid_of = _meta(file.parent / "meta.mat") if width == 1 else _synsets(file)
    result = {}
    for number, (name, pieces) in enumerate(zip(names, rows, strict=True), 1):
        wnid = pieces[-1] if wnid_of is None else wnid_of.get(pieces[-1])
        if wnid is None or not WNID.fullmatch(wnid):
            raise DataError(f"{file}, line {number}: {pieces[-1]!r} is no class of ILSVRC 2012")
        result[name] = wnid
    return result


def _solution(file: Path, lines: Sequence[str]) -> dict[str, str]:
    """Read Kaggle's file, in which the first id among the boxes is that of the image."""
    result = {}
    for number, row in enumerate(csv.reader(lines[1:]), 2):
        boxes = row[1].split() if len(row) == 2 else []
        if not boxes or not WNID.fullmatch(boxes[0]):
            raise DataError(f"{file}, line {number}: expected IMAGE,n01234567 X Y X Y ...")
        result[row[0]] = boxes[0]
    return result


def _meta(file: Path) -> dict[str, str]:
    """Return the WordNet ids of the authors' numbers."""
    from scipy.io import loadmat

    if not file.is_file():
        raise DataError(
            f"the classes of the validation images are numbers, and {file} with their ids does not "
            "exist: copy it from the folder data of ILSVRC2012_devkit_t12"
        )
    try:
        synsets = loadmat(file, squeeze_me=True)["synsets"]
        pairs = zip(synsets["ILSVRC2012_ID"], synsets["WNID"], strict=True)
        return {str(number): str(wnid) for number, wnid in pairs}
    except Exception as error:  # scipy raises many types for a damaged file
        raise DataError(f"cannot read {file} as the devkit's table of classes: {error}") from error


def _synsets(file: Path) -> dict[str, str]:
    """Return the WordNet ids of Caffe's numbers."""
    beside = file.parent / "synsets.txt"
    if not beside.is_file():
        raise DataError(
            f"the classes in {file} are numbers, and {beside} with their ids does not exist: copy "
            "Caffe's synsets.txt there, or use another label file"
        )
    return {str(number): line for number, line in enumerate(read_lines(beside))}
