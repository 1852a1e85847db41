"""ImageNet's ILSVRC 2012, as unpacked from its archives or from Kaggle."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from deephash.data.archives.files import KEY, check_root, find_path, image_names, path_prefix
from deephash.data.archives.synsets import FILES, WNID, validation_classes
from deephash.data.catalogue import Catalogue, first_few, one_hot
from deephash.errors import DataError
from deephash.utils.bounds import Place

BASES = ("", "ILSVRC/Data/CLS-LOC", "Data/CLS-LOC", "CLS-LOC", "ILSVRC", "ILSVRC2012")
VALIDATION = ("val", "validation")


@dataclass(eq=False)
class ILSVRC:
    """Some classes of ILSVRC 2012; its validation part is the official test part.

    Below `root`, or its `ILSVRC/Data/CLS-LOC` from Kaggle, are `train/<wnid>/*.JPEG` and either
    `val/<wnid>/*.JPEG` or all validation images together in `val/`. The latter need a label file:
    the devkit's `ILSVRC2012_validation_ground_truth.txt` with its `meta.mat`, Kaggle's
    `LOC_val_solution.csv`, TensorFlow's `imagenet_2012_validation_synset_labels.txt`, or a
    `val.txt` of names and classes (see `validation_classes`).

    Ids are file names, which are unique in ILSVRC and the same in every list. Rows are sorted by
    part, class and name, classes by WordNet id.

    Args:
        root: the folder of either layout.
        wnids: WordNet ids of the classes, in any order.
        labels: file of the validation labels, relative to `root` or absolute; None to search.

    Raises:
        DataError: on `read`, a part, a class or the labels are missing, or a class has no image.
    """

    root: Place
    wnids: Sequence[str]
    labels: Place | None = None

    def __post_init__(self) -> None:
        if wrong := [wnid for wnid in self.wnids if not WNID.fullmatch(wnid)]:
            raise DataError(
                f"{KEY}.wnids: {first_few(wrong)} should be like n01440764, an n and eight digits"
            )
        if len(self.wnids) < 2 or len(set(self.wnids)) != len(self.wnids):
            raise DataError(f"{KEY}.wnids must name at least two classes, each once")
        self.wnids = sorted(self.wnids)

    def read(self) -> Catalogue:
        root = check_root(self.root)
        train_folder, test_folder = self._parts(root)
        train = self._images_in_folders(train_folder)
        if any(WNID.fullmatch(path.name) for path in test_folder.iterdir()):
            test = self._images_in_folders(test_folder)
        else:
            test = self._flat_images(root, test_folder)
        places = [path_prefix(root, train_folder) + place for place, _ in train]
        places += [path_prefix(root, test_folder) + place for place, _ in test]
        return Catalogue(
            ids=tuple(place.rpartition("/")[2] for place in places),
            labels=one_hot(np.array([index for _, index in train + test]), len(self.wnids)),
            classes=tuple(self.wnids),
            official_query=np.arange(len(places)) >= len(train),
            places=tuple(places),
        )

    def _parts(self, root: Path) -> tuple[Path, Path]:
        """Return the folders of the training and of the validation part."""
        for base in BASES:
            for name in VALIDATION:
                if (root / base / "train").is_dir() and (root / base / name).is_dir():
                    return root / base / "train", root / base / name
        if (root / "image").is_dir() or (root / "val_image").is_dir():
            raise DataError(
                f"{root} has image/ and val_image/, the folders of HashNet, whose validation "
                "images have no class folders: set dataset.lists=FOLDER to its lists and "
                "read them with deephash.data.sources.Lists; or set dataset.root to ILSVRC 2012"
            )
        raise DataError(
            f"{root} has no ILSVRC 2012; looked for\n"
            f"  {root}/train/<wnid>/*.JPEG  and  {root}/val/\n"
            f"  {root}/ILSVRC/Data/CLS-LOC/train/<wnid>/*.JPEG  and  .../val/\n"
            "Set dataset.root=FOLDER to the folder that contains both parts"
        )

    def _images_in_folders(self, part: Path) -> list[tuple[str, int]]:
        """Return the path below the part and the class index of each image, sorted by class."""
        missing = [wnid for wnid in self.wnids if not (part / wnid).is_dir()]
        if missing:
            raise DataError(
                f"{len(missing)} of {len(self.wnids)} class folders are not in {part}: "
                f"{first_few(missing)}. Expected {part / missing[0]}/*.JPEG: unpack the archives "
                f"of these classes there, or leave them out of {KEY}.wnids"
            )
        images = []
        for index, wnid in enumerate(self.wnids):
            names = image_names(part / wnid)
            if not names:
                raise DataError(
                    f"the class folder {part / wnid} has no image; expected {wnid}_*.JPEG in "
                    "train, ILSVRC2012_val_*.JPEG in val"
                )
            images += [(f"{wnid}/{name}", index) for name in names]
        return images

    def _flat_images(self, root: Path, part: Path) -> list[tuple[str, int]]:
        """Return the name and the class index of each image, sorted by class, then by name."""
        names = image_names(part)
        if not names:
            raise DataError(
                f"{part} has neither class folders such as {self.wnids[0]}/ nor images such as "
                "ILSVRC2012_val_00000001.JPEG: unpack ILSVRC2012_img_val.tar there"
            )
        file = self._labels(root, part)
        classes = validation_classes(file)
        index_of = {wnid: index for index, wnid in enumerate(self.wnids)}
        images = []
        for name in names:
            wnid = classes.get(name.rpartition(".")[0])
            if wnid is None:
                raise DataError(
                    f"{part / name} has no label in {file}, which has {len(classes)} images: "
                    f"set the complete file with {KEY}.labels=FILE"
                )
            if wnid in index_of:
                images.append((name, index_of[wnid]))
        empty = sorted(index_of.keys() - {self.wnids[index] for _, index in images})
        if empty:
            raise DataError(
                f"{len(empty)} of {len(self.wnids)} classes have no image in {part}, by the labels "
                f"of {file}: {first_few(empty)}"
            )
        return sorted(images, key=lambda image: image[1])

    def _labels(self, root: Path, part: Path) -> Path:
        """Return the file of the validation labels: as given, or in the part or above it."""
        if self.labels is not None:
            return find_path(root, self.labels, "labels", (), "labels of the validation images")
        folders = [path for path in (part, *part.parents) if path.is_relative_to(root)]
        for folder in folders:
            for name in FILES:
                if (folder / name).is_file():
                    return folder / name
        raise DataError(
            f"the images in {part} are not in class folders, and there is no label file; "
            f"looked in {', '.join(map(str, folders))} for\n"
            + "".join(f"  {name}\n" for name in FILES)
            + f"Put one there, or set {KEY}.labels=FILE"
        )
