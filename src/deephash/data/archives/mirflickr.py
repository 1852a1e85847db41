"""MIRFlickr-25k with the annotations of version 0.80."""

import re
from pathlib import Path
from typing import Literal

import numpy as np

from deephash.data.archives.files import (
    KEY,
    below,
    chosen,
    folder_of,
    image_names,
    lines_of,
    multi_hot,
)
from deephash.data.archives.names import MIRFLICKR24, MIRFLICKR38
from deephash.data.catalogue import Catalogue
from deephash.errors import DataError
from deephash.utils.bounds import Place
from deephash.utils.files import expand_path

NAME = re.compile(r"im([1-9]\d*)\.jpg")


class MirFlickr:
    """MIRFlickr-25k: `im1.jpg` to `im25000.jpg`, and a text file of image numbers for each label.

    The images lie in `mirflickr/`, `images/` or `root` itself, the annotations in
    `mirflickr25k_annotations_v080/`, `annotations/` or `root`. Columns are the file names by
    alphabet: 38, or the 24 that do not end in `_r1`. Images without a label are kept.

    Ids are file names, rows the images that are there or have a label, by number.

    Args:
        root: the folder of the images and of the annotations.
        columns: 24 or 38.
        annotations: folder of the annotation files, relative to `root` or absolute; None to look
            for it.
        images: folder of the images; likewise.

    Raises:
        DataError: `columns` is another number; on `read`, a folder or an annotation file is
            missing, or a line is no number of an image.
    """

    def __init__(
        self,
        root: Place,
        columns: Literal[24, 38] = 24,
        annotations: Place | None = None,
        images: Place | None = None,
    ):
        if columns not in (24, 38):
            raise DataError(f"{KEY}.columns={columns} is unknown: 24, or 38 with those of _r1")
        self.classes = MIRFLICKR24 if columns == 24 else MIRFLICKR38
        self.root = root
        self.annotations = annotations
        self.images = images

    def read(self) -> Catalogue:
        root = folder_of(self.root)
        first = f"{self.classes[0]}.txt"
        usual = ["mirflickr25k_annotations_v080", "annotations", "mirflickr25k_annotations", "."]
        given = None if self.annotations is None else Path(self.annotations) / first
        files = [f"{folder}/{first}" for folder in usual]
        folder = chosen(root, given, "annotations", files, "annotations of MIRFlickr-25k").parent
        numbers = {name: _numbers(folder / f"{name}.txt") for name in self.classes}
        place, there = self._images(root)
        known = np.unique(np.concatenate([there, *numbers.values()]))
        rows = [np.searchsorted(known, numbers[name]) for name in self.classes]
        columns = np.repeat(np.arange(len(rows)), [len(some) for some in rows])
        ids = tuple(f"im{number}.jpg" for number in known)
        return Catalogue(
            ids=ids,
            labels=multi_hot(np.concatenate(rows), columns, (len(ids), len(self.classes))),
            classes=self.classes,
            places=tuple(f"{place}{name}" for name in ids),
        )

    def _images(self, root: Path) -> tuple[str, np.ndarray]:
        """Where the images lie, relative to root, and their numbers."""
        usual = ["mirflickr", "images", "mirflickr25k", "."]
        for name in usual if self.images is None else [self.images]:
            folder = root / expand_path(name)
            if not folder.is_dir():
                continue
            found = [NAME.fullmatch(one) for one in image_names(folder)]
            numbers = np.array([int(match[1]) for match in found if match], np.int64)
            if len(numbers):
                return below(root, folder), numbers
        raise DataError(
            f"no im1.jpg, im2.jpg ... in {self.images or ', '.join(usual)} below {root}: unpack "
            f"mirflickr25k.zip there, or set dataset.root=FOLDER or {KEY}.images=FOLDER"
        )


def _numbers(file: Path) -> np.ndarray:
    """The numbers of the images that have a label."""
    found = []
    for number, line in enumerate(lines_of(file), 1):
        if not line.isdecimal() or int(line) < 1:
            raise DataError(f"{file}, line {number}: {line[:80]!r} is no number of an image")
        found.append(int(line))
    return np.array(found, np.int64)
