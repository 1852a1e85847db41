"""MS-COCO 2014: the images of both parts that show an object."""

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from deephash.data.archives.files import check_root, find_path, multi_hot, path_prefix
from deephash.data.catalogue import Catalogue
from deephash.errors import DataError
from deephash.utils.bounds import Place
from deephash.utils.files import expand_path, read_bytes

log = logging.getLogger(__name__)

LARGEST = 2 << 30
"""Limit on the bytes of an annotation file; that of the training images has 450 MB."""

PARTS = ("train2014", "val2014")


class Instances(NamedTuple):
    """The content of one annotation file."""

    names: dict[int, str]  # file names by image id
    shown: set[tuple[int, int]]  # pairs of an image id and a category id
    categories: dict[int, str]  # names by category id


@dataclass(eq=False)
class Coco:
    """MS-COCO 2014, training and validation part together, with the 80 categories of objects.

    `annotations/instances_train2014.json` and `..._val2014.json` name the images, which are in
    `train2014/` and `val2014/`, in `images/train2014/` and `images/val2014/`, or together in
    `images/`. Columns are the categories in alphabetical order, as in the lists of HashNet, not by
    official number. A category counts once per image, crowds count like single objects. Images
    without any object are left out; 122,218 of 123,287 remain.

    Ids are file names. Rows are the training part, then the validation part, sorted by name.

    Args:
        root: the folder of the annotations and of the images.
        annotations: folder of the two JSON files, relative to `root` or absolute; None to look in
            the usual places.
        images: folder of the images, or of the folders `train2014` and `val2014`; likewise.

    Raises:
        DataError: on `read`, a file is missing or contains no instances, or the two files differ
            in their categories.
    """

    root: Place
    annotations: Place | None = None
    images: Place | None = None

    def read(self) -> Catalogue:
        root = check_root(self.root)
        files = [f"instances_{part}.json" for part in PARTS]
        usual = [f"{folder}{files[0]}" for folder in ("annotations/", "")]
        given = None if self.annotations is None else Path(self.annotations) / files[0]
        folder = find_path(root, given, "annotations", usual, "annotation file of COCO 2014").parent
        instances = {
            part: read_instances(folder / file) for part, file in zip(PARTS, files, strict=True)
        }
        categories, others = (instances[part].categories for part in PARTS)
        if categories != others:
            differ = sorted(set(categories.items()) ^ set(others.items()))
            raise DataError(
                f"{files[0]} and {files[1]} in {folder} differ in their categories, first in "
                f"{differ[0]}: take both from annotations_trainval2014.zip"
            )
        by_name = sorted(categories, key=categories.__getitem__)
        columns = {category: column for column, category in enumerate(by_name)}
        ids: list[str] = []
        places: list[str] = []
        rows: list[int] = []
        shown: list[int] = []
        for part, (names, pairs, _) in instances.items():
            prefix = self._images(root, part)
            labelled = sorted({image for image, _ in pairs}, key=names.__getitem__)
            row_of = {image: row for row, image in enumerate(labelled, len(ids))}
            ids += [names[image] for image in labelled]
            places += [f"{prefix}{names[image]}" for image in labelled]
            rows += [row_of[image] for image, _ in pairs]
            shown += [columns[category] for _, category in pairs]
        total = sum(len(part.names) for part in instances.values())
        log.info("left out %d of %d images of COCO without an object", total - len(ids), total)
        return Catalogue(
            ids=tuple(ids),
            labels=multi_hot(rows, shown, (len(ids), len(columns))),
            classes=tuple(categories[category] for category in by_name),
            places=tuple(places),
        )

    def _images(self, root: Path, part: str) -> str:
        """Return the folder of the images of a part, relative to root."""
        usual = [part, f"images/{part}", "images"]
        given = None
        if self.images is not None:
            given = expand_path(self.images)
            given = given / part if (root / given / part).is_dir() else given
        what = f"folder of the images of {part}"
        return path_prefix(root, find_path(root, given, "images", usual, what))


def read_instances(file: Path) -> Instances:
    """Read the images, objects and categories of one annotation file.

    Outlines and boxes are dropped while parsing.

    Raises:
        DataError: the file is missing, is no JSON, or contains no objects.
    """
    data = read_bytes(file, "annotation file", LARGEST)
    log.info("reading %s, %.0f MB", file, len(data) / 1e6)
    try:
        read = json.loads(data, object_hook=_slim)
        names = dict(read["images"])
        shown = {(image, category) for image, category in read["annotations"]}
        categories = dict(read["categories"])
        if not all(isinstance(name, str) for name in [*names.values(), *categories.values()]):
            raise ValueError("a name is no text")
    except (ValueError, KeyError, TypeError, RecursionError, MemoryError) as error:
        raise DataError(
            f"{file} is no annotation file of COCO's objects ({type(error).__name__}: {error}): "
            "use the complete instances_*.json of annotations_trainval2014.zip"
        ) from error
    for image, category in shown:
        if image not in names or category not in categories:
            raise DataError(
                f"{file} has an object of category {category} in image {image}, but does not list "
                + ("the category" if image in names else "the image")
            )
    return Instances(names, shown, categories)


def _slim(parsed: dict[str, Any]) -> Any:
    """Reduce a JSON object to a pair, or drop it; keep the outermost object."""
    if "category_id" in parsed:
        return parsed["image_id"], parsed["category_id"]
    if "file_name" in parsed:
        return parsed["id"], parsed["file_name"]
    if "supercategory" in parsed:
        return parsed["id"], parsed["name"]
    return parsed if "annotations" in parsed else None
