"""Images that lists name, one list a role, in the format of HashNet or as one split file."""

import hashlib
import itertools
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
from scipy.sparse import csr_array, vstack

from deephash.data.catalogue import Catalogue, ImageSet
from deephash.data.decoding import Decoder, Square
from deephash.data.sources.file_finder import WAYS, find_files
from deephash.data.sources.list_parser import Naming, Rows, content, read_list
from deephash.data.splits.split_file import Header, read_split
from deephash.errors import DataError
from deephash.utils import program
from deephash.utils.bounds import Count, CountOrZero, Name, Pixels, Place
from deephash.utils.files import expand_path

log = logging.getLogger(__name__)

SHOWN = 5  # missing images that an error names
MANY = 10_000  # classes that class indices may make, however few the images are


def how_to_prepare() -> str:
    """Return how a split file is made."""
    command = f"{program.command('data')} prepare"
    return f"`{command}` with the same words makes it, from lists, an archive or a table"


class Lists:
    """Images and labels as three lists name them: for training, as queries, in the database.

    A list is a text file `NAME`, or `NAME.xz`. The rows are the images of the database's list in
    its order, then those that only the queries' list names, then those of the training list alone;
    each file is decoded once, to size x size. Labels may be all zero. The id of an image is its
    path in the list, less what `strip_prefix` cuts off, or what `identity` finds in the path: the
    lists of one split have one fingerprint, wherever they were written.

    A split file holds all lists in one, and its images, ids and roles are as they are in it.

    Lists of paths alone, without labels on any line, are of images without labels. Beside labelled
    lists only the training list may have none: its images have the labels of the other lists.

    Args:
        root: the folder of the images.
        lists: the folder of the lists, or a split file; None for `root`.
        train: file name of the training list; None where nothing trains.
        queries: of the queries' list.
        database: of the database's list; None where there is none.
        split: of a split file, which is read instead of the lists when it is there.
        class_names: one for each label of a line, in order; a number to number so many; None to
            number as many as the lists have; 0 or an empty list where lines are paths alone.
        strip_prefix: a regular expression; what it matches at the beginning of a path is cut off.
        identity: a regular expression, searched in the path as it is written; its first group is
            the id of the image. `([^/]+)$` knows images by file names. None: the path, cut.
        find: where files lie. `path`, at their paths, cut, below `root`; `id`, anywhere below it,
            known by `identity`, or without one by file names; `auto`, at their paths, else there
            with leading folders left out one by one, else as `id` says.
        size: side of the stored squares, in pixels.
        fit: `squash`, both sides become `size`; or `crop`, the shorter one does and the middle
            square is kept.
        origin: where lists and images come from, for the error that tells that they are missing.
        cache: folder for decoded pixels; None for the default one.
        on_error: `raise`, or `skip` to leave missing and unreadable files out.
        workers: decoding threads; None for one per core, at most 16.
        cached: decode once into the cache; or whenever an image is asked for, and keep nothing.

    Raises:
        DataError: on `load` and `read`, a list is missing, a line is malformed (told by file and
            number), an image stands twice in a list, two lists disagree on labels, or a split file
            has changed since it was written, or was made from other lists than those beside it; on
            `load`, an image is missing or unreadable, or it is ambiguous which file is meant.

    Example:
        >>> from PIL import Image
        >>> Path("images").mkdir()
        >>> for name in ("a.png", "b.png", "c.png"):
        ...     Image.new("RGB", (40, 30)).save(f"images/{name}")
        >>> lines = ["a.png 1 0", "b.png 0 1"]
        >>> for name in ("train.txt", "database.txt"):
        ...     _ = Path("images", name).write_text(chr(10).join(lines))
        >>> _ = Path("images/test.txt").write_text("c.png 1 0")
        >>> Lists("images", cached=False).load().ids
        ('a.png', 'b.png', 'c.png')
    """

    def __init__(
        self,
        root: Place,
        lists: Place | None = None,
        train: Name | None = "train.txt",
        queries: Name = "test.txt",
        database: Name | None = "database.txt",
        split: Name | None = None,
        class_names: Sequence[str] | CountOrZero | None = None,
        strip_prefix: str | None = None,
        identity: str | None = None,
        find: Literal["auto", "path", "id"] = "auto",
        size: Pixels = 256,
        fit: Literal["crop", "squash"] = "squash",
        origin: str = "",
        cache: Place | None = None,
        on_error: Literal["raise", "skip"] = "raise",
        workers: Count | None = None,
        cached: bool = True,
    ):
        if find not in WAYS:
            raise DataError(f"dataset.source.find={find} is unknown: {', '.join(WAYS)}")
        if isinstance(class_names, int):
            if class_names < 0:
                raise DataError(f"dataset.source.class_names={class_names} must be at least 0")
            class_names = [str(index) for index in range(class_names)]
        self.root = expand_path(root)
        self.lists = self.root if lists is None else expand_path(lists)
        named = {"database": database, "queries": queries, "train": train}  # the rows' order
        self.names = {role: name for role, name in named.items() if name is not None}
        self.split = split
        self.class_names = None if class_names is None else tuple(class_names)
        self.naming = Naming(strip_prefix, identity)
        self.find = find
        self.origin = origin
        self.decoder = Decoder(Square(size, fit), cache, on_error, workers, cached)

    def missing(self) -> str | None:
        """Say what is not there, as far as that is known without opening a file; None: nothing."""
        if self.split_file() is None:
            absent = [name for name in self.names.values() if self.list_file(name) is None]
            if absent:
                return f"there is no {', no '.join(absent)} and no split file in {self.lists}"
        return None if self.root.is_dir() else f"the image folder {self.root} does not exist"

    def load(self, catalogue: Catalogue | None = None) -> ImageSet:
        named = self.read() if catalogue is None else catalogue
        places = named.places or named.ids
        files = find_files(self.root, named.ids, places, self.find, self.naming.identity)
        missing = [name for name, file in zip(places, files, strict=True) if file is None]
        if missing and (self.decoder.on_error == "raise" or len(missing) == len(named)):
            raise self._missing_images(missing, len(named))
        if missing:
            log.warning(
                "left out %d missing of %d images below %s, the first is %s",
                len(missing),
                len(named),
                self.root,
                missing[0],
            )
        there = [file for file in files if file is not None]
        kept = named.keep(np.array([file is not None for file in files]))
        found = tuple(file.id for file in there)
        kept = replace(kept, places=None if found == kept.ids else found)
        return self.decoder.images(self.root, there, kept)

    def catalogue(self) -> Catalogue:
        """What the lists say; no image is looked for."""
        return self.read()

    def read(self) -> Catalogue:
        """What the lists say; no image is looked for."""
        packed = self.split_file()
        if packed is not None:
            return self._of_split(packed)
        files = {role: self.list_file(name) for role, name in self.names.items()}
        absent = [self.names[role] for role, file in files.items() if file is None]
        if absent:
            raise self._missing_lists(absent)
        there = {role: file for role, file in files.items() if file is not None}
        count = None if self.class_names is None else len(self.class_names)
        found = {role: read_list(file, count, self.naming) for role, file in there.items()}
        return merged(found, there, self.class_names)

    def list_file(self, name: str) -> Path | None:
        """The file of a list, None if there is none."""
        plain = self.lists / expand_path(name)
        return next((file for file in (plain, Path(f"{plain}.xz")) if file.is_file()), None)

    def split_file(self) -> Path | None:
        """The split file that is read instead of the lists; None if there is none."""
        if self.lists.is_file():
            return self.lists
        packed = None if self.split is None else self.lists / expand_path(self.split)
        return packed if packed is not None and packed.is_file() else None

    def _of_split(self, file: Path) -> Catalogue:
        catalogue, header = read_split(file)
        check_lists(file, header)
        classes, names = catalogue.classes, self.class_names
        numbered = tuple(str(index) for index in range(len(classes)))
        if names is None or names == numbered:
            return catalogue
        if len(names) != len(classes) or classes not in (numbered, names):
            raise DataError(
                f"{file} has other classes ({_first(classes)}) than dataset.source.class_names "
                f"({_first(names)}): set it to null"
            )
        return replace(catalogue, classes=names)

    def _missing_lists(self, absent: Sequence[str]) -> DataError:
        return DataError(
            f"no {', '.join(absent)} in {self.lists}, nor packed as .txt.xz\n"
            + self._layout()
            + "Then dataset.root=FOLDER is that of the images, dataset.lists=FOLDER that of the "
            "lists if it is another."
            + (
                f"\nNor is {self.lists / self.split} there:\n{how_to_prepare()}"
                if self.split
                else ""
            )
        )

    def _missing_images(self, missing: Sequence[str], count: int) -> DataError:
        more = [f"and {len(missing) - SHOWN} more"] if len(missing) > SHOWN else []
        ways = "Set dataset.root=FOLDER to the folder in which these paths begin.\n"
        if self.find == "path":
            ways += "If files lie elsewhere below it, dataset.source.find=auto looks for them.\n"
        else:
            known = "names" if self.naming.identity is None else "ids"
            ways = (
                f"They were looked for by their {known} too, anywhere below it. "
                "Set dataset.root=FOLDER to a folder that holds them.\n"
            )
            if self.naming.identity is None:
                ways += (
                    "If files have other names, dataset.source.identity=REGEX knows them by a part "
                    "of them.\n"
                )
        return DataError(
            f"{len(missing)} of {count} images that the lists name are not below {self.root}:\n"
            + "".join(f"  {name}\n" for name in [*missing[:SHOWN], *more])
            + (self._layout() if len(missing) == count else "")
            + ways
            + "To leave missing images out: dataset.source.on_error=skip dataset.expected=null"
        )

    def _layout(self) -> str:
        lines = [
            f"{self.lists}/{{{','.join(self.names.values())}}}  lines such as: path 0 1 0 ...",
            f"{self.root}/<path>  the images",
            *self.origin.splitlines(),
        ]
        return "".join(f"  {line}\n" for line in lines)


def _first(classes: Sequence[str]) -> str:
    """How many classes there are, and the first."""
    return f"{len(classes)}, from {classes[0]} on" if classes else "none"


def merged(
    found: Mapping[str, Rows], files: Mapping[str, Path], class_names: Sequence[str] | None
) -> Catalogue:
    """The images of several lists, each once, in the order of the lists.

    Raises:
        DataError: the lists differ in their number of labels, or in the labels of an image; only
            some of them have labels; or class indices make more classes than there can be.
    """
    count = class_count(found, files) if class_names is None else len(class_names)
    rows_of: dict[str, int] = {}
    places: list[str] = []
    labels = csr_array((0, count), dtype=bool)
    lists: dict[str, np.ndarray] = {}
    for role, rows in found.items():
        parts = (rows.labels.data, rows.labels.indices, rows.labels.indptr)
        given = csr_array(parts, shape=(len(rows.ids), count))
        before = len(rows_of)
        at = np.array([rows_of.setdefault(name, len(rows_of)) for name in rows.ids])
        new = at >= before
        differ = np.diff(csr_array(labels[at[~new]] != given[~new]).indptr) > 0
        if differ.any() and not rows.bare:
            first = rows.places[np.flatnonzero(~new)[differ][0]]
            raise DataError(
                f"{files[role]} gives {int(differ.sum())} images other labels than the lists "
                f"before it ({', '.join(files[other].name for other in lists)}); the first is "
                f"{first}"
            )
        places += itertools.compress(rows.places, new)
        labels = vstack([labels, given[new]], format="csr")
        lists[role] = at
    ids = tuple(rows_of)
    return Catalogue(
        labels=labels,
        ids=ids,
        classes=tuple(class_names or map(str, range(count))),
        lists=lists,
        places=None if tuple(places) == ids else tuple(places),
    )


def class_count(found: Mapping[str, Rows], files: Mapping[str, Path]) -> int:
    """The number of classes that lists have in common.

    Raises:
        DataError: they differ, or class indices make more classes than there can be: more than
            there are images, and more than 10,000; or the queries or the database have no labels,
            and another list has.
    """
    bare = [role for role, rows in found.items() if rows.bare]
    widths = {role: rows.labels.shape[1] for role, rows in found.items() if not rows.bare}
    if not widths:
        return 0
    if without := [role for role in bare if role != "train"]:
        labelled = next(iter(widths))
        raise DataError(
            f"{files[without[0]]} holds paths alone, and {files[labelled]} has labels. Give "
            "labels in both lists, or in neither"
        )
    told = {role: width for role, width in widths.items() if not found[role].indexed}
    count: int = max((told or widths).values())
    for role, width in widths.items():
        if width > count or (role in told and width != count):
            raise DataError(
                f"the lists differ in their number of labels: {files[role]} has {width}, another "
                f"{count}"
            )
    images = sum(len(rows.ids) for rows in found.values())
    if not told and count > max(images, MANY):
        role = max(widths, key=widths.__getitem__)
        line = found[role].lines[int(found[role].labels.indices.argmax())]
        raise DataError(
            f"{files[role]}, line {line}: the class index {count - 1} makes {count} classes of "
            f"{images} images. Number classes from 0 on without gaps; or if there are so many, say "
            f"so: dataset.source.class_names={count}"
        )
    return count


def check_lists(file: Path, header: Header) -> None:
    """Compare a split file with the lists beside it from which it was made, if they are there.

    Raises:
        DataError: it was made from others.
    """
    for name, digest in header.lists.items():
        plain = file.parent / name
        for beside in (plain, Path(f"{plain}.xz")):
            if beside.is_file() and sha1(beside) != digest:
                raise DataError(
                    f"{file} was made from other lists: {beside} has changed since. Run "
                    f"`{program.command('data')} prepare dataset={header.dataset} ...` again, or"
                    " remove the one that is wrong"
                )


def sha1(file: Path) -> str:
    """sha1 of the text of a list, unpacked: 40 hex digits."""
    return hashlib.sha1(content(file), usedforsecurity=False).hexdigest()
