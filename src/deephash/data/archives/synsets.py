"""The classes of ILSVRC 2012's validation images, from whichever file of labels there is."""

import csv
import re
from collections.abc import Sequence
from pathlib import Path

from deephash.data.archives.files import lines_of
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
"""Names by which these files are known, in the order in which they are looked for."""

WNID = re.compile(r"n\d{8}")
HEADER = "ImageId,PredictionString"


def validation_classes(file: Path) -> dict[str, str]:
    """The WordNet id of each validation image that a file knows, by file name without ending.

    The file is known by its content:

    - `ImageId,PredictionString`, Kaggle's: an image and boxes, each with its id before it;
    - an id a line, for the images 1, 2, ... in order;
    - a number a line, likewise: the authors' own, which `meta.mat` beside it translates;
    - an image and an id a line;
    - an image and a number a line: Caffe's, which `synsets.txt` beside it translates, from 0.

    Raises:
        DataError: the file, or the one beside it, cannot be read or is malformed.
    """
    lines = lines_of(file)
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
    given = [pieces[-1] for pieces in rows]
    return dict(zip(names, _translated(file, given, counted=width == 1), strict=True))


def _translated(file: Path, given: Sequence[str], counted: bool) -> list[str]:
    """WordNet ids, from ids or numbers; counted: a line is an image's class and nothing else."""
    numbers: dict[str, str] | None = None
    if given[0].isdecimal():
        numbers = _meta(file.parent / "meta.mat") if counted else _synsets(file)
    found = []
    for number, one in enumerate(given, 1):
        wnid = one if numbers is None else numbers.get(one)
        if wnid is None or not WNID.fullmatch(wnid):
            raise DataError(f"{file}, line {number}: {one!r} is no class of ILSVRC 2012")
        found.append(wnid)
    return found


def _solution(file: Path, lines: Sequence[str]) -> dict[str, str]:
    """Kaggle's file: the first id among the boxes is the image's."""
    found = {}
    for number, row in enumerate(csv.reader(lines[1:]), 2):
        boxes = row[1].split() if len(row) == 2 else []
        if not boxes or not WNID.fullmatch(boxes[0]):
            raise DataError(f"{file}, line {number}: expected IMAGE,n01234567 X Y X Y ...")
        found[row[0]] = boxes[0]
    return found


def _meta(file: Path) -> dict[str, str]:
    """From the authors' numbers to WordNet ids."""
    from scipy.io import loadmat

    if not file.is_file():
        raise DataError(
            f"the numbers of the validation images are translated by {file}, which is not there: "
            "copy it from the folder data of ILSVRC2012_devkit_t12"
        )
    try:
        synsets = loadmat(file, squeeze_me=True)["synsets"]
        pairs = zip(synsets["ILSVRC2012_ID"], synsets["WNID"], strict=True)
        return {str(number): str(wnid) for number, wnid in pairs}
    except Exception as error:  # scipy raises a dozen kinds for a damaged file
        raise DataError(f"cannot read {file} as the devkit's table of classes: {error}") from error


def _synsets(file: Path) -> dict[str, str]:
    """From Caffe's numbers to WordNet ids."""
    beside = file.parent / "synsets.txt"
    if not beside.is_file():
        raise DataError(
            f"{file} gives classes by number, and {beside} is not there to translate them: copy "
            "Caffe's synsets.txt there, or take another file of labels"
        )
    return {str(number): line for number, line in enumerate(lines_of(beside))}
