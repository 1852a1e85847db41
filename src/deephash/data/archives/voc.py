"""PASCAL VOC 2012: the images of the classification task that have labels."""

from pathlib import Path

import numpy as np

from deephash.data.archives.files import below, chosen, folder_of, lines_of
from deephash.data.archives.names import VOC
from deephash.data.catalogue import Catalogue
from deephash.errors import DataError
from deephash.utils.bounds import Place

SIGNS = {"1": True, "0": False, "-1": False}


class Voc:
    """VOC 2012, training and validation part together: 11,540 images, 20 classes by alphabet.

    `ImageSets/Main/<class>_trainval.txt`, or `<class>_train.txt` and `<class>_val.txt`, say of each
    image 1, -1, or 0 where only objects that are difficult to see are of the class. A 0 is no
    label: so are the official counts of images (VOC 2012 development kit, Table 1), such as 4,087
    for person, and the lists of DeepHash-pytorch.

    Ids are the names of the files in `JPEGImages/`. Rows are sorted by them.

    Args:
        root: the folder `VOC2012`, or one that holds it or `VOCdevkit/VOC2012`.

    Raises:
        DataError: on `read`, a file of a class is missing, a line is malformed, or two classes
            speak of different images.
    """

    def __init__(self, root: Place):
        self.root = root

    def read(self) -> Catalogue:
        root = folder_of(self.root)
        usual = [f"{base}ImageSets/Main" for base in ("VOCdevkit/VOC2012/", "VOC2012/", "")]
        sets = chosen(root, None, None, usual, "image sets of VOC 2012")
        signs = [_signs(sets, name) for name in VOC]
        names = sorted(signs[0])
        for name, said in zip(VOC, signs, strict=True):
            if said.keys() != signs[0].keys():
                other = sorted(said.keys() ^ signs[0].keys())[0]
                raise DataError(
                    f"{VOC[0]} and {name} speak of different images in {sets}, first of "
                    f"{other}: unpack VOCtrainval_11-May-2012.tar again"
                )
        images = below(root, sets.parent.parent / "JPEGImages")
        ids = tuple(f"{name}.jpg" for name in names)
        return Catalogue(
            ids=ids,
            labels=np.array([[said[name] for said in signs] for name in names]),
            classes=VOC,
            places=tuple(f"{images}{name}" for name in ids),
        )


def _signs(sets: Path, name: str) -> dict[str, bool]:
    """Whether each image shows a class, by the image's name."""
    files = [sets / f"{name}_trainval.txt"]
    if not files[0].is_file():
        files = [sets / f"{name}_{part}.txt" for part in ("train", "val")]
    said: dict[str, bool] = {}
    for file in files:
        for number, line in enumerate(lines_of(file), 1):
            image, *sign = line.split()
            if len(sign) != 1 or sign[0] not in SIGNS:
                raise DataError(
                    f"{file}, line {number}: {line[:80]!r}; expected an image and -1, 0 or 1"
                )
            if image in said:
                raise DataError(f"{file}, line {number}: {image} was named before")
            said[image] = SIGNS[sign[0]]
    return said
