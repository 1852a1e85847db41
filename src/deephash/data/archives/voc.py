"""PASCAL VOC 2012: the images of the classification task that have labels."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from deephash.data.archives.class_names import VOC
from deephash.data.archives.files import check_root, find_path, path_prefix, read_lines
from deephash.data.catalogue import Catalogue
from deephash.errors import DataError
from deephash.utils.bounds import Place

SIGNS = {"1": True, "0": False, "-1": False}


@dataclass(eq=False)
class Voc:
    """VOC 2012, training and validation part together: 11,540 images, 20 classes.

    `ImageSets/Main/<class>_trainval.txt`, or `<class>_train.txt` and `<class>_val.txt`, give 1 or
    -1 for each image, or 0 if all objects of the class are difficult to see. A 0 is no label, as
    in the official counts of images (VOC 2012 development kit, Table 1), such as 4,087 for person,
    and in the lists of DeepHash-pytorch.

    Ids are the names of the files in `JPEGImages/`. Rows are sorted by them, classes by name.

    Args:
        root: the folder `VOC2012`, or one that contains it or `VOCdevkit/VOC2012`.

    Raises:
        DataError: on `read`, a file of a class is missing, a line is malformed, or two classes
            have different images.
    """

    root: Place

    def read(self) -> Catalogue:
        root = check_root(self.root)
        usual = [f"{base}ImageSets/Main" for base in ("VOCdevkit/VOC2012/", "VOC2012/", "")]
        sets = find_path(root, None, None, usual, "image sets of VOC 2012")
        signs = [_signs(sets, name) for name in VOC]
        names = sorted(signs[0])
        for name, of_class in zip(VOC, signs, strict=True):
            if differ := sorted(of_class.keys() ^ signs[0].keys()):
                raise DataError(
                    f"{VOC[0]} and {name} have different images in {sets}, the first is "
                    f"{differ[0]}: unpack VOCtrainval_11-May-2012.tar again"
                )
        images = path_prefix(root, sets.parent.parent / "JPEGImages")
        ids = tuple(f"{name}.jpg" for name in names)
        return Catalogue(
            ids=ids,
            labels=np.array([[of_class[name] for of_class in signs] for name in names]),
            classes=VOC,
            places=tuple(f"{images}{name}" for name in ids),
        )


def _signs(sets: Path, name: str) -> dict[str, bool]:
    """Return whether each image has a class, by the name of the image."""
    files = [sets / f"{name}_trainval.txt"]
    if not files[0].is_file():
        files = [sets / f"{name}_{part}.txt" for part in ("train", "val")]
    signs: dict[str, bool] = {}
    for file in files:
        for number, line in enumerate(read_lines(file), 1):
            image, *sign = line.split()
            if len(sign) != 1 or sign[0] not in SIGNS:
                raise DataError(
                    f"{file}, line {number}: {line[:80]!r}; expected an image and -1, 0 or 1"
                )
            if image in signs:
                raise DataError(f"{file}, line {number}: {image} is repeated")
            signs[image] = SIGNS[sign[0]]
    return signs
