"""The field's datasets in miniature, laid out on disk as their archives are.

Images are small JPEGs that show their labels, each as a stripe of a colour of its own, so that a
network can learn them. Every function returns what a reader must find.
"""

import atexit
import colorsys
import csv
import functools
import inspect
import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from scipy.io import savemat

from deephash.data.archives.class_names import MIRFLICKR38, NUSWIDE21, NUSWIDE81, VOC

WNIDS = ("n01514668", "n01537544", "n01560419", "n01629819", "n01632458", "n01664065")
COCO80 = (
    "person bicycle car motorcycle airplane bus train truck boat traffic_light fire_hydrant "
    "stop_sign parking_meter bench bird cat dog horse sheep cow elephant bear zebra giraffe "
    "backpack umbrella handbag tie suitcase frisbee skis snowboard sports_ball kite baseball_bat "
    "baseball_glove skateboard surfboard tennis_racket bottle wine_glass cup fork knife spoon bowl "
    "banana apple sandwich orange broccoli carrot hot_dog pizza donut cake chair couch "
    "potted_plant bed dining_table toilet tv laptop mouse remote keyboard cell_phone microwave "
    "oven toaster sink refrigerator book clock vase scissors teddy_bear hair_drier toothbrush"
)
COCO80 = tuple(name.replace("_", " ") for name in COCO80.split())
GAPS = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)  # official category numbers run to 90 without these


class Made(NamedTuple):
    """What a miniature holds, in the order in which its reader must give it."""

    ids: list[str]
    places: list[str]
    labels: np.ndarray  # (n, C) bool


def drawn_once(make: Callable[..., Made]) -> Callable[..., Made]:
    """Draw each miniature once in a process, and copy its files for further calls."""
    kept: dict[str, tuple[Made, str]] = {}

    @functools.wraps(make)
    def copied(root: Path, *arguments: Any, **options: Any) -> Made:
        given = inspect.signature(make).bind(root, *arguments, **options)
        given.apply_defaults()
        key = repr(list(given.arguments.items())[1:])  # all but the root
        if key not in kept:
            folder = tempfile.mkdtemp()
            atexit.register(shutil.rmtree, folder, ignore_errors=True)
            kept[key] = make(Path(folder), *arguments, **options), folder
        made, folder = kept[key]
        shutil.copytree(folder, root, copy_function=shutil.copyfile, dirs_exist_ok=True)
        return Made(list(made.ids), list(made.places), made.labels.copy())

    return copied


def picture(path: Path, labels: np.ndarray, size: int = 32, seed: int = 0) -> None:
    """A JPEG of coloured stripes, one a label, in random order on gray noise."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(90, 130, (size, size, 3))
    shown = rng.permutation(np.flatnonzero(labels))
    for stripe, label in enumerate(shown):
        colour = colorsys.hsv_to_rgb((0.618034 * label) % 1, 0.9, 0.6 if label % 2 else 1.0)
        columns = slice(stripe * size // len(shown), (stripe + 1) * size // len(shown))
        pixels[:, columns] += (np.array(colour) * 235).astype(int) - 110
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path, "JPEG", quality=90)


def multi(count: int, frequencies: np.ndarray, empty: float = 0.0, seed: int = 0) -> np.ndarray:
    """Random labels (count, C) bool, about as frequent as given; a part of the rows is empty.

    The columns are as frequent as given in relation to each other, too: their counts are in the
    same order.
    """
    rng = np.random.default_rng(seed)
    labels = rng.random((count, len(frequencies))) < frequencies
    none = ~labels.any(axis=1)
    labels[none, rng.choice(len(frequencies), none.sum(), p=frequencies / frequencies.sum())] = True
    labels[rng.permutation(count)[: round(empty * count)]] = False
    by_count = np.argsort(labels.sum(axis=0), kind="stable")
    ordered = np.empty_like(labels)
    ordered[:, np.argsort(frequencies, kind="stable")] = labels[:, by_count]
    return ordered


def falling(classes: int, first: float, last: float) -> np.ndarray:
    """Frequencies that fall from class to class."""
    return np.geomspace(first, last, classes)


@drawn_once
def make_ilsvrc(
    root: Path,
    wnids: tuple[str, ...] = WNIDS,
    train: int = 12,
    validation: int = 4,
    layout: str = "folders",
    others: tuple[str, ...] = ("n13044778",),
    size: int = 32,
) -> Made:
    """ILSVRC 2012: some classes asked for, and others that are there too.

    Args:
        root: made if it is not there.
        wnids: the classes in the returned labels.
        train: training images of each class.
        validation: validation images of each class.
        layout: `folders`, val/<wnid>/; `kaggle`, its tree and LOC_val_solution.csv; or a flat val/
            with `devkit`, `synsets` (a WordNet id a line), `names` (a name and an id a line) or
            `caffe` (a name and a number a line).
        others: further classes.
        size: of the images.
    """
    base = root / "ILSVRC/Data/CLS-LOC" if layout == "kaggle" else root
    every = sorted([*wnids, *others])
    wanted = sorted(wnids)
    train_pairs, validation_pairs = [], []
    for wnid in every:
        for number in range(train):
            place = base / "train" / wnid / f"{wnid}_{number * 37 + 5}.JPEG"
            picture(place, one_hot(every, wnid), size, number)
            train_pairs.append((wnid, place))
    drawn = np.random.default_rng(1).permutation(np.repeat(every, validation)).tolist()
    for number, wnid in enumerate(drawn, 1):
        folder = base / "val" / (wnid if layout == "folders" else "")
        place = folder / f"ILSVRC2012_val_{number:08d}.JPEG"
        picture(place, one_hot(every, wnid), size, 1000 + number)
        validation_pairs.append((wnid, place))
    _validation_labels(root, layout, every, drawn)
    rows = [
        (wnid, place)
        for part in (train_pairs, validation_pairs)
        for wnid, place in sorted(part, key=lambda row: (row[0], row[1].name))
        if wnid in wanted
    ]
    return Made(
        [place.name for _, place in rows],
        [place.relative_to(root).as_posix() for _, place in rows],
        np.array([one_hot(wanted, wnid) for wnid, _ in rows]),
    )


def _validation_labels(root: Path, layout: str, every: list[str], drawn: list[str]) -> None:
    names = [f"ILSVRC2012_val_{number:08d}" for number in range(1, len(drawn) + 1)]
    if layout == "kaggle":
        boxes = [f"{wnid} 1 2 30 40 {wnid} 5 6 7 8 " for wnid in drawn]
        rows = [f"{name},{box}" for name, box in zip(names, boxes, strict=True)]
        _write(root / "LOC_val_solution.csv", ["ImageId,PredictionString", *reversed(rows)])
    elif layout == "devkit":
        order = np.random.default_rng(2).permutation(every).tolist()  # the authors' own numbers
        table = np.array(
            [(number, wnid, f"words of {wnid}") for number, wnid in enumerate(order, 1)],
            dtype=[("ILSVRC2012_ID", object), ("WNID", object), ("words", object)],
        )
        folder = root / "ILSVRC2012_devkit_t12" / "data"
        folder.mkdir(parents=True)
        savemat(folder / "meta.mat", {"synsets": table[:, None]})
        truth = [str(order.index(wnid) + 1) for wnid in drawn]
        _write(folder / "ILSVRC2012_validation_ground_truth.txt", truth)
    elif layout == "synsets":
        _write(root / "imagenet_2012_validation_synset_labels.txt", drawn)
    elif layout == "names":
        rows = [f"{name}.JPEG {wnid}" for name, wnid in zip(names, drawn, strict=True)]
        _write(root / "val" / "val.txt", rows)
    elif layout == "caffe":
        rows = [f"{name}.JPEG {every.index(wnid)}" for name, wnid in zip(names, drawn, strict=True)]
        _write(root / "val.txt", rows)
        _write(root / "synsets.txt", every)


@drawn_once
def make_nuswide(
    root: Path,
    count: int = 240,
    world: str = "bucket",
    concepts: int = 21,
    twice: int = 0,
    size: int = 32,
) -> Made:
    """NUS-WIDE: all 81 label files, a list, and images; a tenth has none of the 21 concepts.

    Args:
        root: made if it is not there.
        count: lines of the list.
        world: names of the images: `bucket`, images/0001_ID.jpg; `running`, HashNet's
            images/1_ID_SECRET_m.jpg; or `flickr`, the authors' Flickr/<folder>/0001_ID.jpg.
        concepts: 21 or 81, the concepts in the returned labels.
        twice: how many ids stand in the list a second time, in another folder.
        size: of the images.
    """
    rng = np.random.default_rng(3)
    labels = np.zeros((count, 81), bool)
    frequent = [NUSWIDE81.index(name) for name in NUSWIDE21]
    labels[:, frequent] = multi(count, falling(21, 0.38, 0.12), 0.1)
    rare = np.setdiff1d(np.arange(81), frequent)
    labels[np.arange(len(rare)) % count, rare] = True
    flickr_ids = (rng.permutation(count) * 9973 + 262727880).tolist()
    flickr_ids[count - twice :] = flickr_ids[:twice]
    folders = sorted(rng.choice(["actor", "zoo", "beach", "sky"], count).tolist())
    for row in range(count - twice, count):
        folders[row] = "zz_again"
    named = enumerate(zip(folders, flickr_ids, strict=True))
    listed = [f"{folder}\\{row % 70:04d}_{name}.jpg" for row, (folder, name) in named]
    _write(root / "ImageList" / "Imagelist.txt", listed, end="\r\n")
    for column, concept in enumerate(NUSWIDE81):
        signs = labels[:, column].astype(int).astype(str).tolist()
        _write(root / "Groundtruth" / "AllLabels" / f"Labels_{concept}.txt", signs)
        half = signs[: count // 2]
        _write(root / "Groundtruth" / "TrainTestLabels" / f"Labels_{concept}_Train.txt", half)
    ids, places = [], []
    for row, (line, flickr_id) in enumerate(zip(listed, flickr_ids, strict=True)):
        folder, name = line.split("\\")
        first = flickr_ids.index(flickr_id)
        place = {
            "bucket": f"images/{name}",
            "running": f"images/{first}_{flickr_id}_{flickr_id % 65521:x}_m.jpg",
            "flickr": f"Flickr/{folder}/{name}",
        }[world]
        picture(root / place, labels[row, frequent], size, row)
        places.append(place)
        ids.append(str(flickr_id) if first == row else f"{flickr_id}-2")
    chosen = labels[:, frequent] if concepts == 21 else labels
    rows = np.flatnonzero(chosen.any(axis=1))
    return Made([ids[row] for row in rows], [places[row] for row in rows], chosen[rows])


@drawn_once
def make_coco(
    root: Path, train: int = 120, validation: int = 60, layout: str = "parts", size: int = 32
) -> Made:
    """COCO 2014: both annotation files; a tenth of the images has no object.

    Args:
        root: made if it is not there.
        train: images of the training part.
        validation: images of the validation part.
        layout: `parts`, train2014/ and val2014/; `images`, both below images/; or `flat`.
        size: of the images.
    """
    by_name = sorted(COCO80)
    numbers = [number for number in range(1, 91) if number not in GAPS]
    categories = [
        {"supercategory": "thing", "id": number, "name": name}
        for number, name in zip(numbers, COCO80, strict=True)
    ]
    rows = []
    for part, count, seed in (("train2014", train, 4), ("val2014", validation, 5)):
        labels = multi(count, falling(80, 0.3, 0.01), 0.1, seed)  # columns as the official numbers
        image_ids = np.random.default_rng(seed).choice(500_000, count, replace=False).tolist()
        images, annotations, result = [], [], []
        for row, image_id in enumerate(image_ids):
            name = f"COCO_{part}_{image_id:012d}.jpg"
            images.append({"license": 1, "file_name": name, "id": image_id, "height": size})
            for column in np.repeat(np.flatnonzero(labels[row]), 1 + row % 2):
                crowd = row % 7 == 0
                outline = {"counts": [1, 2], "size": [2, 2]} if crowd else [[1.5, 2.5, 3.25, 4.0]]
                annotations.append(
                    {
                        "segmentation": outline,
                        "area": 12.75,
                        "iscrowd": int(crowd),
                        "image_id": image_id,
                        "bbox": [1.0, 2.0, 3.0, 4.0],
                        "category_id": numbers[column],
                        "id": len(annotations),
                    }
                )
            place = {"parts": part, "images": f"images/{part}", "flat": "images"}[layout]
            place = f"{place}/{name}"
            shown = np.array([labels[row, COCO80.index(name)] for name in by_name])
            picture(root / place, shown, size, row)
            if shown.any():
                result.append((name, place, shown))
        file = root / "annotations" / f"instances_{part}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        content = {
            "info": {"year": 2014},
            "images": images,
            "licenses": [{"url": "", "id": 1, "name": "By"}],
            "annotations": annotations,
            "categories": categories,
        }
        file.write_text(json.dumps(content))
        rows += sorted(result, key=lambda row: row[0])
    ids, places, shown = zip(*rows, strict=True)
    return Made(list(ids), list(places), np.array(shown))


@drawn_once
def make_mirflickr(
    root: Path, count: int = 200, columns: int = 24, layout: str = "archive", size: int = 32
) -> Made:
    """MIRFlickr-25k: all annotation files, and images of which a fiftieth has no label.

    Args:
        root: made if it is not there.
        count: images.
        columns: 24 or 38, the concepts in the returned labels.
        layout: `archive`, folders as they unpack; `flat`, all in root; or `images`, images/ and
            annotations/.
        size: of the images.
    """
    images, notes = {
        "archive": ("mirflickr/", "mirflickr25k_annotations_v080"),
        "flat": ("", "."),
        "images": ("images/", "annotations"),
    }[layout]
    labels = multi(count, falling(38, 0.42, 0.05), 0.02, 6)
    base = [MIRFLICKR38.index(name.removesuffix("_r1")) for name in MIRFLICKR38]
    for column, name in enumerate(MIRFLICKR38):
        if name.endswith("_r1"):
            labels[:, column] &= labels[:, base[column]]
    for column, name in enumerate(MIRFLICKR38):
        numbers = [str(row + 1) for row in np.flatnonzero(labels[:, column])] or ["1"]
        labels[int(numbers[0]) - 1, column] = True
        _write(root / notes / f"{name}.txt", numbers, end="\r\n")
    _write(root / notes / "README.txt", ["MIRFLICKR annotations v0.80"])
    ids = [f"im{number}.jpg" for number in range(1, count + 1)]
    for row, name in enumerate(ids):
        picture(root / f"{images}{name}", labels[row], size, row)
    if columns == 24:
        labels = labels[:, [not name.endswith("_r1") for name in MIRFLICKR38]]
    return Made(ids, [f"{images}{name}" for name in ids], labels)


@drawn_once
def make_voc(root: Path, count: int = 150, layout: str = "devkit", size: int = 32) -> Made:
    """VOC 2012: image sets of 20 classes, with objects that are difficult.

    Args:
        root: made if it is not there.
        count: images of both parts together.
        layout: `devkit`, VOCdevkit/VOC2012/; `folder`, root is VOC2012; or `parts`, as devkit, with
            files of train and val alone.
        size: of the images.
    """
    base = "" if layout == "folder" else "VOCdevkit/VOC2012/"
    labels = multi(count, falling(20, 0.35, 0.04), 0.0, 7)
    names = [f"{2008 + row % 5}_{row * 7:06d}" for row in range(count)]
    difficult = (np.random.default_rng(8).random(labels.shape) < 0.05) & ~labels
    train = np.arange(count) % 2 == 0
    for column, name in enumerate(VOC):
        signs = np.where(labels[:, column], 1, np.where(difficult[:, column], 0, -1))
        lines = np.array([f"{name} {sign:2d}" for name, sign in zip(names, signs, strict=True)])
        parts = {"train": train, "val": ~train, "trainval": train | True}
        for part, rows in parts.items():
            if part != "trainval" or layout != "parts":
                file = root / base / "ImageSets" / "Main" / f"{name}_{part}.txt"
                _write(file, lines[rows].tolist())
    for row, name in enumerate(names):
        picture(root / base / "JPEGImages" / f"{name}.jpg", labels[row], size, row)
    order = np.argsort(names)
    ids = [f"{names[row]}.jpg" for row in order]
    return Made(ids, [f"{base}JPEGImages/{name}" for name in ids], labels[order])


@drawn_once
def make_csv(
    root: Path,
    count: int = 90,
    classes: tuple[str, ...] = ("cat", "dog", "owl"),
    style: str = "label",
    delimiter: str = ",",
    roles: bool = True,
    size: int = 32,
) -> Made:
    """A table `images.csv` beside a folder of images.

    Args:
        root: made if it is not there.
        count: images.
        classes: names.
        style: `label`, a column `label` of one name; `labels`, a column `label` of several set
            apart by blanks; or `columns`, one of 0 and 1 for each class.
        delimiter: between cells.
        roles: whether there is a column `role`: one of seven images is a query, two are for
            training and in the database, the others only in the database.
        size: of the images.
    """
    labels = np.eye(len(classes), dtype=bool)[np.arange(count) % len(classes)]
    if style != "label":
        labels = multi(count, falling(len(classes), 0.6, 0.3), 0.0, 9)
    ids = [f"photos/{row % 3}/{row:04d} x.jpg" for row in range(count)]
    root.mkdir(parents=True, exist_ok=True)
    with (root / "images.csv").open("w", newline="") as file:
        writer = csv.writer(file, delimiter=delimiter)
        header = list(classes) if style == "columns" else ["label"]
        writer.writerow(["path", *header, *["role"] * roles])
        for row, name in enumerate(ids):
            shown = [name for name, there in zip(classes, labels[row], strict=True) if there]
            cells = labels[row].astype(int).tolist() if style == "columns" else [" ".join(shown)]
            role = "query" if row % 7 == 0 else "train+database" if row % 7 < 3 else "database"
            writer.writerow([name, *cells, *[role] * roles])
            picture(root / name, labels[row], size, row)
    return Made(ids, ids, labels)


def one_hot(classes: list[str], name: str) -> np.ndarray:
    return np.array([other == name for other in classes])


def _write(file: Path, lines: list[str], end: str = "\n") -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(f"{line}{end}" for line in lines), newline="")
