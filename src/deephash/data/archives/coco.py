"""MS-COCO 2014: the images of both parts that show an object."""

import json
import logging
from pathlib import Path
from typing import Any, NamedTuple

from deephash.data.archives.files import below, chosen, folder_of, multi_hot
from deephash.data.catalogue import Catalogue
from deephash.errors import DataError
from deephash.utils.bounds import Place
from deephash.utils.files import expand_path, read_bytes

log = logging.getLogger(__name__)

LARGEST = 2 << 30
"""Bytes of an annotation file; that of the training images has 450 MB."""

PARTS = ("train2014", "val2014")


class Instances(NamedTuple):
    """What one annotation file says."""

    names: dict[int, str]  # file names by image id
    shown: set[tuple[int, int]]  # pairs of an image id and a category id
    categories: dict[int, str]  # names by category id


class Coco:
    """MS-COCO 2014, training and validation part together, with the 80 categories of objects.

    `annotations/instances_train2014.json` and `..._val2014.json` name the images, which lie in
    `train2014/` and `val2014/`, in `images/train2014/` and `images/val2014/`, or all together in
    `images/`. Columns are the categories by alphabet, as in the lists of HashNet, not by their
    official number. A category counts once for an image, crowds count like single objects. Images
    without any object are left out; 122,218 of 123,287 remain.

    Ids are file names. Rows are the training part, then the validation part, sorted by name.

    Args:
        root: the folder of the annotations and of the images.
        annotations: folder of the two JSON files, relative to `root` or absolute; None to look for
            it.
        images: folder of the images, or of the folders `train2014` and `val2014`; likewise.

    Raises:
        DataError: on `read`, a file is missing or is no file of instances, or the two files differ
            in their categories.
    """

    def __init__(
        self,
        root: Place,
        annotations: Place | None = None,
        images: Place | None = None,
    ):
        self.root = root
        self.annotations = annotations
        self.images = images

    def read(self) -> Catalogue:
        root = folder_of(self.root)
        files = [f"instances_{part}.json" for part in PARTS]
        usual = [f"{folder}{files[0]}" for folder in ("annotations/", "")]
        given = None if self.annotations is None else Path(self.annotations) / files[0]
        folder = chosen(root, given, "annotations", usual, "annotation file of COCO 2014").parent
        found = {
            part: read_instances(folder / file) for part, file in zip(PARTS, files, strict=True)
        }
        first, last = (found[part].categories for part in PARTS)
        if first != last:
            differ = sorted(set(first.items()) ^ set(last.items()))
            raise DataError(
                f"{files[0]} and {files[1]} in {folder} differ in their categories, first in "
                f"{differ[0]}: take both from annotations_trainval2014.zip"
            )
        by_name = sorted(first, key=first.__getitem__)
        columns = {category: column for column, category in enumerate(by_name)}
        ids: list[str] = []
        places: list[str] = []
        rows: list[int] = []
        shown: list[int] = []
        for part, (names, pairs, _) in found.items():
            place = self._images(root, part)
            labelled = sorted({image for image, _ in pairs}, key=names.__getitem__)
            row_of = {image: row for row, image in enumerate(labelled, len(ids))}
            ids += [names[image] for image in labelled]
            places += [f"{place}{names[image]}" for image in labelled]
            rows += [row_of[image] for image, _ in pairs]
            shown += [columns[category] for _, category in pairs]
        total = sum(len(one.names) for one in found.values())
        log.info("left out %d of %d images of COCO without an object", total - len(ids), total)
        return Catalogue(
            ids=tuple(ids),
            labels=multi_hot(rows, shown, (len(ids), len(columns))),
            classes=tuple(first[category] for category in by_name),
            places=tuple(places),
        )

    def _images(self, root: Path, part: str) -> str:
        """Where the images of a part lie, relative to root."""
        usual = [part, f"images/{part}", "images"]
        given = None
        if self.images is not None:
            given = expand_path(self.images)
            given = given / part if (root / given / part).is_dir() else given
        what = f"folder of the images of {part}"
        return below(root, chosen(root, given, "images", usual, what))


def read_instances(file: Path) -> Instances:
    """The images, objects and categories of one annotation file.

    Outlines and boxes are dropped as soon as they are parsed.

    Raises:
        DataError: the file is missing, is no JSON, or holds no objects.
    """
    data = read_bytes(file, "annotation file", LARGEST)
    log.info("reading %s, %.0f MB", file, len(data) / 1e6)
    try:
        read = json.loads(data, object_hook=_slim)
        names = dict(read["images"])
        shown = {(image, category) for image, category in read["annotations"]}
        categories = dict(read["categories"])
        texts = [*names.values(), *categories.values()]
        if not all(isinstance(one, str) for one in texts):
            raise ValueError("a name is no text")
    except (ValueError, KeyError, TypeError, RecursionError, MemoryError) as error:
        raise DataError(
            f"{file} is no annotation file of COCO's objects ({type(error).__name__}: {error}): "
            "take instances_*.json of annotations_trainval2014.zip, whole"
        ) from error
    for image, category in shown:
        if image not in names or category not in categories:
            raise DataError(
                f"{file} has an object of category {category} in image {image}, of which it does "
                "not know " + ("the category" if image in names else "the image")
            )
    return Instances(names, shown, categories)


def _slim(parsed: dict[str, Any]) -> Any:
    """What is kept of an object of the JSON: pairs; and the outermost object itself."""
    if "category_id" in parsed:
        return parsed["image_id"], parsed["category_id"]
    if "file_name" in parsed:
        return parsed["id"], parsed["file_name"]
    if "supercategory" in parsed:
        return parsed["id"], parsed["name"]
    return parsed if "annotations" in parsed else None
