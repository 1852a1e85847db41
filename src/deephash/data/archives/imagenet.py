"""ImageNet's ILSVRC 2012 as its archives unpack, and as Kaggle packs it."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from deephash.data.archives.files import KEY, below, chosen, folder_of, image_names, some
from deephash.data.archives.synsets import FILES, WNID, validation_classes
from deephash.data.catalogue import Catalogue, one_hot
from deephash.errors import DataError
from deephash.utils.bounds import Place

BASES = ("", "ILSVRC/Data/CLS-LOC", "Data/CLS-LOC", "CLS-LOC", "ILSVRC", "ILSVRC2012")
VALIDATION = ("val", "validation")


class ILSVRC:
    """Some classes of ILSVRC 2012; its validation part is the official test part.

    Below `root`, or below its `ILSVRC/Data/CLS-LOC` as Kaggle has it, lie `train/<wnid>/*.JPEG` and
    either `val/<wnid>/*.JPEG` or all validation images together in `val/`. The latter need a file
    of labels: the devkit's `ILSVRC2012_validation_ground_truth.txt` with its `meta.mat`, Kaggle's
    `LOC_val_solution.csv`, TensorFlow's `imagenet_2012_validation_synset_labels.txt`, or a
    `val.txt` of names and classes (see `validation_classes`).

    Ids are file names, which are unique in ILSVRC and the same in every list. Rows are sorted by
    part, class and name, classes by WordNet id.

    Args:
        root: the folder of either layout.
        wnids: WordNet ids of the classes, in any order.
        labels: file of the validation labels, relative to `root` or absolute; None to look for one.

    Raises:
        DataError: on `read`, a part, a class or the labels are missing, or a class has no image.
    """

    def __init__(self, root: Place, wnids: Sequence[str], labels: Place | None = None):
        if wrong := [wnid for wnid in wnids if not WNID.fullmatch(wnid)]:
            raise DataError(
                f"{KEY}.wnids: {some(wrong)} should be like n01440764, an n and eight digits"
            )
        if len(wnids) < 2 or len(set(wnids)) != len(wnids):
            raise DataError(f"{KEY}.wnids must name at least two classes, each once")
        self.root = root
        self.wnids = sorted(wnids)
        self.labels = labels

    def read(self) -> Catalogue:
        root = folder_of(self.root)
        train, validation = self._parts(root)
        taught = self._folders(train)
        if any(WNID.fullmatch(path.name) for path in validation.iterdir()):
            asked = self._folders(validation)
        else:
            asked = self._flat(root, validation)
        first, last = below(root, train), below(root, validation)
        places = [first + place for place, _ in taught] + [last + place for place, _ in asked]
        return Catalogue(
            ids=tuple(place.rpartition("/")[2] for place in places),
            labels=one_hot(np.array([index for _, index in taught + asked]), len(self.wnids)),
            classes=tuple(self.wnids),
            official_query=np.arange(len(places)) >= len(taught),
            places=tuple(places),
        )

    def _parts(self, root: Path) -> tuple[Path, Path]:
        """The folders of the training and of the validation part."""
        for base in BASES:
            for name in VALIDATION:
                if (root / base / "train").is_dir() and (root / base / name).is_dir():
                    return root / base / "train", root / base / name
        if (root / "image").is_dir() or (root / "val_image").is_dir():
            raise DataError(
                f"{root} holds image/ and val_image/, the folders of HashNet, whose validation "
                "images are not told apart by class: give its lists with dataset.lists=FOLDER and "
                "read them with deephash.data.sources.Lists; or point dataset.root to ILSVRC 2012"
            )
        raise DataError(
            f"{root} holds no ILSVRC 2012; looked for\n"
            f"  {root}/train/<wnid>/*.JPEG  and  {root}/val/\n"
            f"  {root}/ILSVRC/Data/CLS-LOC/train/<wnid>/*.JPEG  and  .../val/\n"
            "Set dataset.root=FOLDER to the folder that holds both parts"
        )

    def _folders(self, part: Path) -> list[tuple[str, int]]:
        """Path below the part and class index of each image, class folder after class folder."""
        missing = [wnid for wnid in self.wnids if not (part / wnid).is_dir()]
        if missing:
            raise DataError(
                f"{len(missing)} of {len(self.wnids)} class folders are not in {part}: "
                f"{some(missing)}. Expected {part / missing[0]}/*.JPEG: unpack the archives of "
                f"these classes there, or leave them out of {KEY}.wnids"
            )
        found = []
        for index, wnid in enumerate(self.wnids):
            names = image_names(part / wnid)
            if not names:
                raise DataError(
                    f"the class folder {part / wnid} holds no image; expected {wnid}_*.JPEG in "
                    "train, ILSVRC2012_val_*.JPEG in val"
                )
            found += [(f"{wnid}/{name}", index) for name in names]
        return found

    def _flat(self, root: Path, part: Path) -> list[tuple[str, int]]:
        """Name and class index of each image of these classes, sorted by class, then by name."""
        names = image_names(part)
        if not names:
            raise DataError(
                f"{part} holds neither class folders such as {self.wnids[0]}/ nor images such as "
                "ILSVRC2012_val_00000001.JPEG: unpack ILSVRC2012_img_val.tar there"
            )
        file = self._labels(root, part)
        classes = validation_classes(file)
        index_of = {wnid: index for index, wnid in enumerate(self.wnids)}
        found = []
        for name in names:
            wnid = classes.get(name.rpartition(".")[0])
            if wnid is None:
                raise DataError(
                    f"{part / name} has no label in {file}, which knows {len(classes)} images: "
                    f"give the complete file with {KEY}.labels=FILE"
                )
            if wnid in index_of:
                found.append((name, index_of[wnid]))
        empty = sorted(index_of.keys() - {self.wnids[index] for _, index in found})
        if empty:
            raise DataError(
                f"{len(empty)} of {len(self.wnids)} classes have no image in {part}, by the labels "
                f"of {file}: {some(empty)}"
            )
        return sorted(found, key=lambda one: one[1])

    def _labels(self, root: Path, part: Path) -> Path:
        """The file of the validation labels: the one given, or one in the part or above it."""
        if self.labels is not None:
            return chosen(root, self.labels, "labels", (), "labels of the validation images")
        folders = [one for one in (part, *part.parents) if one.is_relative_to(root)]
        for folder in folders:
            for name in FILES:
                if (folder / name).is_file():
                    return folder / name
        raise DataError(
            f"the images in {part} are not in class folders, and no file tells their classes; "
            f"looked in {', '.join(map(str, folders))} for\n"
            + "".join(f"  {name}\n" for name in FILES)
            + f"Put one there, or set {KEY}.labels=FILE"
        )
