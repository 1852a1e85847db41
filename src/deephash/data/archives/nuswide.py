"""NUS-WIDE: label files, image list, and images with the names of any archive."""

import logging
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Literal

import numpy as np
from scipy.sparse import csr_array

from deephash.data.archives.class_names import NUSWIDE21, NUSWIDE81
from deephash.data.archives.files import (
    KEY,
    LARGEST,
    check_root,
    find_path,
    multi_hot,
    path_prefix,
    read_lines,
)
from deephash.data.catalogue import Catalogue
from deephash.data.image_formats import ARCHIVED
from deephash.errors import DataError
from deephash.utils.bounds import Place
from deephash.utils.files import read_bytes

log = logging.getLogger(__name__)


@dataclass(eq=False)
class NusWide:
    r"""NUS-WIDE with its 21 most frequent concepts or all 81.

    `ImageList/Imagelist.txt` names 269,648 images, such as `actor\0001_2124494179.jpg`, and
    `Groundtruth/AllLabels/Labels_<concept>.txt` has a line of 0 or 1 for each. (`TrainTestLabels`
    has another order.) The images are in `images/` or `Flickr/`, in folders or not, and are
    identified by their Flickr id, which is the second part of their names in all archives:
    `0001_2124494179.jpg` in the authors' and in that of DeepHash-pytorch's lists,
    `42368_249918118_7f1a328add_m.jpg` in HashNet's.

    The columns of 21 are ordered by decreasing frequency (otherwise a warning is logged), those of
    81 alphabetically. Images without any of the concepts are left out: 195,834 remain for 21.

    Ids are Flickr ids, rows are in the order of the list. A few ids are twice in the published
    list, in two folders and with different labels. They stay two rows, and the second id ends in
    `-2`.

    Args:
        root: the folder of all these.
        concepts: 21 or 81.
        unlabelled: `drop` or `keep` images without any of the concepts.
        labels: folder of the label files, relative to `root` or absolute; None to look in the
            usual places.
        image_list: file of the image list; likewise.
        images: folder of the images; likewise.

    Raises:
        DataError: `concepts` or `unlabelled` is another value; on `read`, a file is missing or
            malformed, or a label file has another length than the list.
    """

    root: Place
    concepts: Literal[21, 81] = 21
    unlabelled: Literal["drop", "keep"] = "drop"
    labels: Place | None = None
    image_list: Place | None = None
    images: Place | None = None

    def __post_init__(self) -> None:
        if self.concepts not in (21, 81):
            raise DataError(f"{KEY}.concepts={self.concepts} is unknown: 21 or 81")
        if self.unlabelled not in ("drop", "keep"):
            raise DataError(f"{KEY}.unlabelled={self.unlabelled} is unknown: drop or keep")
        self.classes = NUSWIDE21 if self.concepts == 21 else NUSWIDE81

    def read(self) -> Catalogue:
        root = check_root(self.root)
        usual = ["ImageList/Imagelist.txt", "ImageList/ImageList.txt", "Imagelist.txt"]
        file = find_path(root, self.image_list, "image_list", usual, "image list of NUS-WIDE")
        listed = [_parsed(file, number, line) for number, line in enumerate(read_lines(file), 1)]
        labels = self._labels(root, file, len(listed))
        if self.classes is NUSWIDE21:
            _warn_of_order(labels)
        usual = ["images", "Flickr", "image", "Images"]
        folder = find_path(root, self.images, "images", usual, "folder of the images of NUS-WIDE")
        prefix = path_prefix(root, folder)
        paths = _paths_by_flickr_id(folder)
        nested = any("/" in path for path in chain.from_iterable(paths.values()))
        rows = np.arange(len(listed))
        if self.unlabelled == "drop":
            rows = np.flatnonzero(np.diff(labels.indptr))
            log.info(
                "left out %d of %d images of NUS-WIDE, which have none of the %d concepts",
                len(listed) - len(rows),
                len(listed),
                len(self.classes),
            )
        ids = _unique_ids(flickr_id for _, flickr_id in listed)
        return Catalogue(
            ids=tuple(ids[row] for row in rows),
            labels=labels[rows],
            classes=self.classes,
            places=tuple(
                prefix + _best_match(path, paths.get(flickr_id, ()), nested)
                for path, flickr_id in (listed[row] for row in rows)
            ),
        )

    def _labels(self, root: Path, listing: Path, count: int) -> csr_array:
        """Read the labels of all images of the list: (count, C) bool."""
        first = f"Labels_{self.classes[0]}.txt"
        usual = [f"Groundtruth/AllLabels/{first}", f"AllLabels/{first}"]
        given = None if self.labels is None else Path(self.labels) / first
        try:
            folder = find_path(root, given, "labels", usual, "label files of NUS-WIDE").parent
        except DataError as error:
            if any((root / base / "TrainTestLabels").is_dir() for base in ("Groundtruth", ".")):
                raise DataError(
                    f"{error}\nTrainTestLabels, which exists, has another order of images: unpack "
                    "AllLabels of Groundtruth.zip too"
                ) from None
            raise
        rows, columns = [], []
        for column, concept in enumerate(self.classes):
            file = folder / f"Labels_{concept}.txt"
            signs = _signs(file)
            if len(signs) != count:
                raise DataError(
                    f"{file} has {len(signs)} lines and {listing} names {count} images: take both "
                    "from the authors' archives, Groundtruth.zip and ImageList.zip"
                )
            shown = np.flatnonzero(signs)
            rows.append(shown)
            columns.append(np.full(len(shown), column))
        shape = (count, len(self.classes))
        return multi_hot(np.concatenate(rows), np.concatenate(columns), shape)


def _parsed(file: Path, number: int, line: str) -> tuple[str, str]:
    r"""Return path and Flickr id of a line such as `actor\0001_2124494179.jpg`."""
    path = line.replace("\\", "/")
    flickr_id = _flickr_id(path.rpartition("/")[2])
    if flickr_id is None:
        raise DataError(
            f"{file}, line {number}: {line[:80]!r}; expected FOLDER\\NUMBER_FLICKRID.jpg"
        )
    return path, flickr_id


def _flickr_id(name: str) -> str | None:
    """Return the second part of a file name, without leading zeros, if it is a number."""
    parts = name.partition(".")[0].split("_")
    if len(parts) < 2 or not parts[1].isdecimal():
        return None
    return parts[1].lstrip("0") or "0"


def _unique_ids(flickr_ids: Iterable[str]) -> list[str]:
    """Append `-2` to the id of the second image with the same one, `-3` to the third."""
    times: Counter[str] = Counter()
    unique = []
    for name in flickr_ids:
        times[name] += 1
        unique.append(name if times[name] == 1 else f"{name}-{times[name]}")
    return unique


def _signs(file: Path) -> np.ndarray:
    """Return the lines of a label file: (n,) bool."""
    data = read_bytes(file, "label file", LARGEST).strip()
    signs = np.frombuffer(data.translate(None, b"\r\t "), np.uint8)  # sign, end, sign, end ... sign
    ended = bool(data) and (signs[1::2] == ord("\n")).all()
    if ended and np.isin(signs[::2], (ord("0"), ord("1"))).all():
        return np.asarray(signs[::2] == ord("1"))
    lines = [line.strip() for line in data.decode(errors="replace").split("\n")]
    for number, line in enumerate(lines, 1):
        if line not in ("0", "1"):
            raise DataError(f"{file}, line {number}: {line[:80]!r} is no label, 0 or 1")
    return np.asarray(np.array(lines) == "1")


def _warn_of_order(labels: csr_array) -> None:
    """Warn if a concept is more frequent than the previous one."""
    counts = labels.sum(axis=0)
    for column in np.flatnonzero(np.diff(counts) > 0):
        log.warning(
            "the columns of NUS-WIDE's 21 concepts should be ordered by frequency, and %s (%d) "
            "is before %s (%d): these are not the authors' 269,648 images",
            NUSWIDE21[column],
            counts[column],
            NUSWIDE21[column + 1],
            counts[column + 1],
        )


def _paths_by_flickr_id(root: Path) -> dict[str, list[str]]:
    """Return the sorted paths of the images below a folder, by Flickr id."""
    paths: dict[str, list[str]] = {}
    for folder, folders, files in os.walk(root):
        folders.sort()
        base = Path(folder).relative_to(root).as_posix()
        for name in sorted(files):
            flickr_id = _flickr_id(name)
            if flickr_id is not None and name.lower().endswith(ARCHIVED):
                paths.setdefault(flickr_id, []).append(name if base == "." else f"{base}/{name}")
    return paths


def _best_match(listed: str, paths: Sequence[str], nested: bool) -> str:
    """Return the file with the listed path, or the listed name, or the first of the paths.

    A missing image is expected at its listed path, without the folder if no image is in a folder.
    """
    name = listed.rpartition("/")[2]
    for wanted in (listed, name):
        for path in paths:
            if path == wanted or path.endswith(f"/{wanted}"):
                return path
    if paths:
        return paths[0]
    return listed if nested else name
