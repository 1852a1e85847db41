"""MIRFlickr-25k with the annotations of version 0.80."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from deephash.data.archives.class_names import MIRFLICKR24, MIRFLICKR38
from deephash.data.archives.files import (
    KEY,
    check_root,
    find_path,
    image_names,
    multi_hot,
    path_prefix,
    read_lines,
)
from deephash.data.catalogue import Catalogue
from deephash.errors import DataError
from deephash.utils.bounds import Place
from deephash.utils.files import expand_path

NAME = re.compile(r"im([1-9]\d*)\.jpg")


@dataclass(eq=False)
class MirFlickr:
    """MIRFlickr-25k: `im1.jpg` to `im25000.jpg`, and a text file of image numbers for each label.

    The images are in `mirflickr/`, `images/` or `root` itself, the annotations in
    `mirflickr25k_annotations_v080/`, `annotations/` or `root`. Columns are the file names in
    alphabetical order: 38, or the 24 that do not end in `_r1`. Images without a label are kept.

    Ids are file names; rows are the images that exist or have a label, by number.

    Args:
        root: the folder of the images and of the annotations.
        columns: 24 or 38.
        annotations: folder of the annotation files, relative to `root` or absolute; None to look
            in the usual places.
        images: folder of the images; likewise.

    Raises:
        DataError: `columns` is another number; on `read`, a folder or an annotation file is
            missing, or a line is no number of an image.
    """

    root: Place
    columns: Literal[24, 38] = 24
    annotations: Place | None = None
    images: Place | None = None

    def __post_init__(self) -> None:
        if self.columns not in (24, 38):
            raise DataError(f"{KEY}.columns={self.columns} is unknown: 24, or 38 with those of _r1")
        self.classes = MIRFLICKR24 if self.columns == 24 else MIRFLICKR38

    def read(self) -> Catalogue:
        root = check_root(self.root)
        first = f"{self.classes[0]}.txt"
        usual = ["mirflickr25k_annotations_v080", "annotations", "mirflickr25k_annotations", "."]
        given = None if self.annotations is None else Path(self.annotations) / first
        files = [f"{folder}/{first}" for folder in usual]
        folder = find_path(root, given, "annotations", files, "annotations of MIRFlickr-25k").parent
        numbers = {name: _numbers(folder / f"{name}.txt") for name in self.classes}
        prefix, existing = self._images(root)
        images = np.unique(np.concatenate([existing, *numbers.values()]))
        rows = [np.searchsorted(images, numbers[name]) for name in self.classes]
        columns = np.repeat(np.arange(len(rows)), [len(indices) for indices in rows])
        ids = tuple(f"im{number}.jpg" for number in images)
        return Catalogue(
            ids=ids,
            labels=multi_hot(np.concatenate(rows), columns, (len(ids), len(self.classes))),
            classes=self.classes,
            places=tuple(f"{prefix}{name}" for name in ids),
        )

    def _images(self, root: Path) -> tuple[str, np.ndarray]:
        """Return the folder of the images, relative to root, and their numbers."""
        usual = ["mirflickr", "images", "mirflickr25k", "."]
        for name in usual if self.images is None else [self.images]:
            folder = root / expand_path(name)
            if not folder.is_dir():
                continue
            matches = map(NAME.fullmatch, image_names(folder))
            numbers = np.array([int(match[1]) for match in matches if match], np.int64)
            if len(numbers):
                return path_prefix(root, folder), numbers
        raise DataError(
            f"no im1.jpg, im2.jpg ... in {self.images or ', '.join(usual)} below {root}: unpack "
            f"mirflickr25k.zip there, or set dataset.root=FOLDER or {KEY}.images=FOLDER"
        )


def _numbers(file: Path) -> np.ndarray:
    """Return the numbers of the images that have a label."""
    numbers = []
    for number, line in enumerate(read_lines(file), 1):
        if not line.isdecimal() or int(line) < 1:
            raise DataError(f"{file}, line {number}: {line[:80]!r} is not the number of an image")
        numbers.append(int(line))
    return np.array(numbers, np.int64)
