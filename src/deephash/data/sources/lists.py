"""Images named by lists, one list per role in the format of HashNet, or by a split file."""

import hashlib
import itertools
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
from scipy.sparse import csr_array, vstack

from deephash.data.catalogue import Catalogue, ImageSet, first_few
from deephash.data.decoding import Decoder, Square
from deephash.data.sources.file_finder import WAYS, find_files
from deephash.data.sources.list_parser import ListRows, Naming, read_list
from deephash.data.splits.split_file import Header, read_split
from deephash.errors import DataError
from deephash.utils import program
from deephash.utils.bounds import Count, CountOrZero, Name, Pixels, Place
from deephash.utils.files import expand_path, read_packed

log = logging.getLogger(__name__)

SHOWN = 5  # missing images in an error message
MANY = 10_000  # classes that class indices may imply, for any number of images


def prepare_hint() -> str:
    """Return how to make a split file."""
    command = f"{program.command('data')} prepare"
    return f"`{command}` with the same options makes it, from lists, an archive or a table"


class Lists:
    """Images and labels of three lists: training images, queries and database.

    A list is a text file `NAME`, or `NAME.xz`. The rows are the images of the database list in
    its order, then those that are only in the query list, then those that are only in the training
    list; each file is decoded once, to size x size. Labels may be all zero. The id of an image is
    its path in the list without `strip_prefix`, or the match of `identity`, so that the lists of
    one split have the same fingerprint wherever they were written.

    A split file replaces all lists, and defines images, ids and roles.

    Lists of paths only, without labels on any line, contain images without labels. Beside labelled
    lists only the training list may have none: its images have the labels of the other lists.

    Args:
        root: the folder of the images.
        lists: the folder of the lists, or a split file; None for `root`.
        train: file name of the training list; None for a dataset without one.
        queries: file name of the query list.
        database: file name of the database list; None for a dataset without one.
        split: file name of a split file, which replaces the lists if it exists.
        class_names: one for each label of a line, in order; or their number; None to take the
            number from the lists; 0 or an empty list if lines are paths only.
        strip_prefix: a regular expression; its match at the beginning of a path is removed.
        identity: a regular expression, searched in the original path; its first group is the id of
            the image. `([^/]+)$` identifies images by file name. None: the path without prefix.
        find: where to look for files. `path`: at their paths below `root`. `id`: anywhere below
            it, by `identity`, or without one by file name. `auto`: at their paths, then there
            with leading folders left out one by one, then as with `id`.
        size: side of the stored squares, in pixels.
        fit: `squash`, both sides become `size`; or `crop`, the shorter one does and the middle
            square is kept.
        origin: where to get lists and images, for the error message if they are missing.
        cache: folder for decoded pixels; None for the default one.
        on_error: `raise`, or `skip` to leave missing and unreadable files out.
        workers: decoding threads; None for one per core, at most 16.
        cached: decode once into the cache; or on each access, without a cache.

    Raises:
        DataError: on `load` and `read`, a list is missing, a line is malformed (with file and
            number), an image is twice in a list, two lists disagree on labels, a split file was
            changed after it was written, or was made from other lists than those beside it; on
            `load`, an image is missing or unreadable, or several files match.

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
        named = {"database": database, "queries": queries, "train": train}  # the order of the rows
        self.names = {role: name for role, name in named.items() if name is not None}
        self.split = split
        self.class_names = None if class_names is None else tuple(class_names)
        self.naming = Naming(strip_prefix, identity)
        self.find = find
        self.origin = origin
        self.decoder = Decoder(Square(size, fit), cache, on_error, workers, cached)

    def missing(self) -> str | None:
        """Return what is missing, as far as that is known without opening a file."""
        if self.split_file() is None:
            absent = [name for name in self.names.values() if self.list_file(name) is None]
            if absent:
                return f"there is no {', no '.join(absent)} and no split file in {self.lists}"
        return None if self.root.is_dir() else f"the image folder {self.root} does not exist"

    def load(self, catalogue: Catalogue | None = None) -> ImageSet:
        listed = self.read() if catalogue is None else catalogue
        places = listed.places or listed.ids
        files = find_files(self.root, listed.ids, places, self.find, self.naming.identity)
        missing = [place for place, file in zip(places, files, strict=True) if file is None]
        if missing and (self.decoder.on_error == "raise" or len(missing) == len(listed)):
            raise self._missing_images(missing, len(listed))
        if missing:
            log.warning(
                "left out %d missing of %d images below %s, the first is %s",
                len(missing),
                len(listed),
                self.root,
                missing[0],
            )
        existing = [file for file in files if file is not None]
        kept = listed.keep(np.array([file is not None for file in files]))
        places = tuple(file.id for file in existing)
        kept = replace(kept, places=None if places == kept.ids else places)
        return self.decoder.images(self.root, existing, kept)

    def catalogue(self) -> Catalogue:
        """Read the lists; images are not looked for."""
        return self.read()

    def read(self) -> Catalogue:
        """Read the lists; images are not looked for."""
        packed = self.split_file()
        if packed is not None:
            return self._of_split(packed)
        files: dict[str, Path] = {}
        absent = []
        for role, name in self.names.items():
            if file := self.list_file(name):
                files[role] = file
            else:
                absent.append(name)
        if absent:
            raise self._missing_lists(absent)
        count = None if self.class_names is None else len(self.class_names)
        lists = {role: read_list(file, count, self.naming) for role, file in files.items()}
        return merge_lists(lists, files, self.class_names)

    def list_file(self, name: str) -> Path | None:
        """Return the file of a list, packed or not; None if there is none."""
        plain = self.lists / expand_path(name)
        return next((file for file in (plain, Path(f"{plain}.xz")) if file.is_file()), None)

    def split_file(self) -> Path | None:
        """Return the split file that replaces the lists; None if there is none."""
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
                f"{file} has other classes ({first_few(classes, 1) or 'none'}) than "
                f"dataset.source.class_names ({first_few(names, 1)}): set it to null"
            )
        return replace(catalogue, classes=names)

    def _missing_lists(self, absent: Sequence[str]) -> DataError:
        message = (
            f"no {', '.join(absent)} in {self.lists}, nor packed as .txt.xz\n{self._layout()}"
            "Set dataset.root=FOLDER to that of the images, dataset.lists=FOLDER to that of the "
            "lists if it is another."
        )
        if self.split:
            message += f"\n{self.lists / self.split} does not exist either:\n{prepare_hint()}"
        return DataError(message)

    def _missing_images(self, missing: Sequence[str], count: int) -> DataError:
        message = f"{len(missing)} of {count} listed images are not below {self.root}:\n"
        message += "".join(f"  {name}\n" for name in missing[:SHOWN])
        if len(missing) > SHOWN:
            message += f"  and {len(missing) - SHOWN} more\n"
        if len(missing) == count:
            message += self._layout()
        if self.find == "path":
            message += (
                "Set dataset.root=FOLDER to the folder in which these paths begin.\n"
                "To look for files anywhere below it, set dataset.source.find=auto.\n"
            )
        else:
            key = "names" if self.naming.identity is None else "ids"
            message += (
                f"They were also looked for by their {key}, anywhere below it. "
                "Set dataset.root=FOLDER to a folder that contains them.\n"
            )
            if self.naming.identity is None:
                message += (
                    "If files have other names, dataset.source.identity=REGEX identifies them by a "
                    "part of the name.\n"
                )
        return DataError(
            message
            + "To leave missing images out: dataset.source.on_error=skip dataset.expected=null"
        )

    def _layout(self) -> str:
        lines = [
            f"{self.lists}/{{{','.join(self.names.values())}}}  lines such as: path 0 1 0 ...",
            f"{self.root}/<path>  the images",
            *self.origin.splitlines(),
        ]
        return "".join(f"  {line}\n" for line in lines)


def merge_lists(
    lists: Mapping[str, ListRows], files: Mapping[str, Path], class_names: Sequence[str] | None
) -> Catalogue:
    """Return the images of several lists, each once, in the order of the lists.

    Raises:
        DataError: the lists differ in their number of labels, or in the labels of an image; only
            some of them have labels; or class indices imply too many classes.
    """
    count = count_classes(lists, files) if class_names is None else len(class_names)
    rows_of: dict[str, int] = {}
    places: list[str] = []
    labels = csr_array((0, count), dtype=bool)
    rows_by_role: dict[str, np.ndarray] = {}
    for role, rows in lists.items():
        parts = (rows.labels.data, rows.labels.indices, rows.labels.indptr)
        new_labels = csr_array(parts, shape=(len(rows.ids), count))
        before = len(rows_of)
        at = np.array([rows_of.setdefault(name, len(rows_of)) for name in rows.ids])
        new = at >= before
        differ = np.diff(csr_array(labels[at[~new]] != new_labels[~new]).indptr) > 0
        if differ.any() and not rows.bare:
            first = rows.places[np.flatnonzero(~new)[differ][0]]
            earlier = ", ".join(files[other].name for other in rows_by_role)
            raise DataError(
                f"{files[role]} gives {int(differ.sum())} images other labels than the lists "
                f"before it ({earlier}); the first is {first}"
            )
        places += itertools.compress(rows.places, new)
        labels = vstack([labels, new_labels[new]], format="csr")
        rows_by_role[role] = at
    ids = tuple(rows_of)
    return Catalogue(
        labels=labels,
        ids=ids,
        classes=tuple(class_names or map(str, range(count))),
        lists=rows_by_role,
        places=None if tuple(places) == ids else tuple(places),
    )


def count_classes(lists: Mapping[str, ListRows], files: Mapping[str, Path]) -> int:
    """Return the number of classes that lists have in common.

    Raises:
        DataError: they differ; or class indices imply more classes than there are images, and
            more than 10,000; or the queries or the database have no labels, and another list has.
    """
    bare = [role for role, rows in lists.items() if rows.bare]
    widths = {role: rows.labels.shape[1] for role, rows in lists.items() if not rows.bare}
    if not widths:
        return 0
    if without := [role for role in bare if role != "train"]:
        labelled = next(iter(widths))
        raise DataError(
            f"{files[without[0]]} has paths only, and {files[labelled]} has labels. Give "
            "labels in both lists, or in neither"
        )
    columns = {role: width for role, width in widths.items() if not lists[role].indexed}
    count: int = max((columns or widths).values())
    for role, width in widths.items():
        if width > count or (role in columns and width != count):
            raise DataError(
                f"the lists differ in their number of labels: {files[role]} has {width}, another "
                f"{count}"
            )
    images = sum(len(rows.ids) for rows in lists.values())
    if not columns and count > max(images, MANY):
        role = max(widths, key=widths.__getitem__)
        line = lists[role].lines[int(lists[role].labels.indices.argmax())]
        raise DataError(
            f"{files[role]}, line {line}: the class index {count - 1} implies {count} classes of "
            f"{images} images. Number classes from 0 on without gaps; or if there are so many, set "
            f"dataset.source.class_names={count}"
        )
    return count


def check_lists(file: Path, header: Header) -> None:
    """Raise a DataError if a split file was made from other lists than those beside it."""
    for name, digest in header.lists.items():
        plain = file.parent / name
        for beside in (plain, Path(f"{plain}.xz")):
            if beside.is_file() and list_sha1(beside) != digest:
                raise DataError(
                    f"{file} was made from other lists: {beside} has changed since. Run "
                    f"`{program.command('data')} prepare dataset={header.dataset} ...` again, or"
                    " remove the wrong one"
                )


def list_sha1(file: Path) -> str:
    """Return the sha1 of the unpacked text of a list: 40 hex digits."""
    return hashlib.sha1(read_packed(file, "list"), usedforsecurity=False).hexdigest()
