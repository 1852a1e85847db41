"""Collections of images to encode: a folder, a list, a CSV file, an archive or one file.

A collection states the id, the signature and the label of each image without opening it, and then
reads images one after the other. Signatures are compared to find what is new or was changed.
"""

import contextlib
import os
import re
import tarfile
import zipfile
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Literal, NamedTuple, Self

from deephash.config.validate import check_value
from deephash.data.archives.csvfile import LABELS, PATHS, URL, guess_column, read_table
from deephash.data.catalogue import BLANKS, is_below_root
from deephash.data.image_formats import IMAGES, supported_formats
from deephash.data.sources.folder_walk import (
    HIDDEN,
    SYSTEM_FILES,
    Walk,
    describe_passed_over,
    is_ignored,
)
from deephash.data.sources.list_parser import with_slashes
from deephash.data.sources.text_files import decode_text
from deephash.errors import DataError, raise_first
from deephash.search.store_files import Label
from deephash.utils.files import expand_path, read_packed

Labels = Literal["auto", "folders", "none"]
"""Where labels come from: of a list or CSV file, of the folder of each image, or from nowhere."""

ZIP = (".zip",)
TAR = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
TABLES = (".csv", ".tsv")
LISTS = (".txt", ".lst", ".list", ".txt.xz")

MEMBER_BYTES = 1 << 29
"""Limit on the size of an image in an archive."""

REPEATED = "repeated lines"
OUTSIDE = "members outside of the archive"
CHANGED = "the archive was changed meanwhile"

_TABLE_OPTIONS = {"file": "images=FILE", "path": "path_column="}
_EXTENSIONS = "|".join(re.escape(extension) for extension in sorted(IMAGES, reverse=True))
_LINE = re.compile(f"(?i)(.*?(?:{_EXTENSIONS}))[{BLANKS}]+(.+)")


class Item(NamedTuple):
    """An image of a collection.

    Attributes:
        id: its name: a path below the folder, as written in the list, or in the archive.
        signature: changes if the image changes: size and modification time, or a checksum; empty
            for an image that does not exist.
        label: one, several, or None.
    """

    id: str
    signature: str
    label: Label = None

    @property
    def size(self) -> int:
        """The bytes of the image file, from the signature; 0 if it does not exist."""
        return int(self.signature.partition(":")[0] or 0)


def label_names(label: Label) -> tuple[str, ...]:
    """Return a label as a tuple of names; empty for none.

    >>> label_names("cat"), label_names(None)
    (('cat',), ())
    """
    if label is None:
        return ()
    return (label,) if isinstance(label, str) else label


def label_text(label: Label) -> str:
    """Return a label as text; empty for none.

    >>> label_text(("sky", "sea")), label_text(None)
    ('sky, sea', '')
    """
    return ", ".join(label_names(label))


class Read(NamedTuple):
    """An image that was read from a collection, or the cause why it could not be."""

    item: Item
    path: Path
    content: bytes | None = None  # None: to be read from `path`
    cause: str | None = None


class Collection(ABC):
    """Images with ids, of which none is opened yet.

    Args:
        path: the folder or file, absolute.
        items: the images, with unique ids.
        passed_over: the number of ignored files, by extension or reason.
        root: folder of the relative ids; None if the images are no files of their own.
    """

    def __init__(
        self,
        path: Path,
        items: Sequence[Item],
        passed_over: Mapping[str, int],
        root: Path | None = None,
    ) -> None:
        self.path = path
        self.items = tuple(items)
        self.passed_over = dict(passed_over)
        self.root = root

    @abstractmethod
    def read(self, items: Sequence[Item]) -> Iterator[Read]:
        """Yield images, each once; those of an archive in the order of the archive."""

    def file(self, name: str) -> Path | None:
        """Return the file of the image with an id; None in an archive."""
        return None if self.root is None else self.root / expand_path(name)

    def with_items(self, items: Sequence[Item]) -> Self:
        """Return the same collection with other items."""
        return type(self)(self.path, items, self.passed_over, self.root)

    def __len__(self) -> int:
        return len(self.items)


class Files(Collection):
    """Images that are files below a folder, or anywhere."""

    def read(self, items: Sequence[Item]) -> Iterator[Read]:
        for item in items:
            path = self.file(item.id)
            assert path is not None
            cause = "it is a URL: download the image" if URL.match(item.id) else None
            yield Read(item, path, cause=cause)


class ZipArchive(Collection):
    """Images in a zip file, which is not unpacked."""

    def read(self, items: Sequence[Item]) -> Iterator[Read]:
        with _archive(self.path), zipfile.ZipFile(self.path) as archive:
            members = {_member(member.filename): member for member in archive.infolist()}
            there = [item for item in items if item.id in members]
            for item in sorted(there, key=lambda item: members[item.id].header_offset):
                member, path = members[item.id], self.path / item.id
                if member.file_size > MEMBER_BYTES:
                    yield Read(item, path, cause=_too_large(member.file_size))
                    continue
                try:
                    yield Read(item, path, archive.read(member))
                except Exception as error:  # encrypted, damaged, of an unknown compression
                    yield Read(item, path, cause=f"{type(error).__name__}: {error}")
        for item in set(items).difference(there):
            yield Read(item, self.path / item.id, cause=CHANGED)


class TarArchive(Collection):
    """Images in a tar file, packed or not, which is not unpacked."""

    def read(self, items: Sequence[Item]) -> Iterator[Read]:
        missing = {item.id: item for item in items}
        if not missing:
            return
        with _archive(self.path), tarfile.open(self.path) as archive:
            for member in archive:
                item = missing.get(_member(member.name))
                if item is None or item.signature != _tar_signature(member):
                    continue
                del missing[item.id]
                path = self.path / item.id
                if member.size > MEMBER_BYTES:
                    yield Read(item, path, cause=_too_large(member.size))
                else:
                    file = archive.extractfile(member)
                    assert file is not None  # only regular members are items
                    yield Read(item, path, file.read())
                if not missing:  # the rest of a packed archive takes time
                    return
        for item in missing.values():
            yield Read(item, self.path / item.id, cause=CHANGED)


def open_collection(
    images: str | os.PathLike[str],
    *,
    labels: Labels = "auto",
    root: str | os.PathLike[str] | None = None,
    path_column: str | None = None,
    label_column: str | None = None,
    key: str = "images",
) -> Collection:
    """Find the images of a folder, a list, a CSV file, an archive or a single file.

    Nothing but lists and the directories of archives is read. Hidden and system files and files
    with other extensions are ignored and counted. A missing file of a list is an item, which fails
    when it is read.

    Args:
        images: a folder, searched recursively; a text file with a path on each line, and a label
            behind it or not; a CSV or TSV file with a header; a zip or tar archive; or an image.
        labels: ``auto`` for those of a list or CSV file, none otherwise; ``folders`` for the name
            of the folder that contains an image; ``none``.
        root: folder of the relative paths in a list or CSV file; None for the folder of that file.
        path_column: column of the paths in a CSV file; None for the first with a usual name.
        label_column: likewise of the labels; None if there is none with a usual name.
        key: name of the option in messages.

    Raises:
        ConfigError: there are no such labels.
        DataError: there are no images, or a list or archive cannot be read.

    Example:
        >>> from PIL import Image
        >>> Path("photos/cats").mkdir(parents=True)
        >>> Image.new("L", (8, 8)).save("photos/cats/tom.png")
        >>> [(item.id, item.label) for item in open_collection("photos", labels="folders").items]
        [('cats/tom.png', 'cats')]
    """
    check_labels(labels)
    path = absolute(images)
    name = path.name.lower()
    if not path.exists():
        hint = "Give a folder, a list, a CSV file, a zip or tar archive, or an image."
        raise DataError(f"{key}={images}  does not exist. {hint}")
    listed = path.is_file() and name.endswith((*TABLES, *LISTS))
    if not listed and (root is not None or path_column is not None or label_column is not None):
        option = "root" if root is not None else "path_column" if path_column else "label_column"
        raise DataError(
            f"{option}  is for lists and CSV files, and {key}={images} is neither: leave it out"
        )
    below = path.parent if root is None else absolute(root)
    if path.is_dir():
        result = _folder(path)
    elif name.endswith(TABLES):
        result = _table(path, below, path_column, label_column)
    elif name.endswith(LISTS):
        result = _list(path, below)
    elif name.endswith(ZIP):
        result = _zip(path)
    elif name.endswith(TAR):
        result = _tar(path)
    elif name.endswith(supported_formats().endings):
        result = Files(path, [Item(path.name, _signature(path))], {}, path.parent)
    else:
        known = ", ".join((*TABLES, *LISTS, *ZIP, *TAR))
        raise DataError(
            f"{key}={images}  is neither a folder, nor a list or archive ({known}), nor an image of"
            " a known format. Give it the ending of its format."
        )
    if not len(result):
        ignored = describe_passed_over(result.passed_over)
        more = f" Ignored: {ignored}." if ignored else ""
        raise DataError(f"{key}={images}  holds no images.{more}")
    return _with_labels(result, labels)


def check_labels(labels: str) -> None:
    """Raise ConfigError if labels come from none of ``Labels``."""
    faults = check_value(labels, Labels, "labels")
    raise_first((fault.key, fault.message, fault.hint) for fault in faults)


def absolute(path: str | os.PathLike[str]) -> Path:
    """Return an absolute path without ``..``; links are not followed."""
    return Path(os.path.normpath(expand_path(os.fspath(path)).absolute()))


def _with_labels(collection: Collection, labels: Labels) -> Collection:
    """Return the collection with labels of another kind."""
    if labels == "auto":
        return collection
    folders = [PurePosixPath(item.id).parent.name or None for item in collection.items]
    if len(folders) == 1 and collection.file(collection.items[0].id) == collection.path:
        folders = [collection.path.parent.name]  # of a single image
    names: list[str | None] = folders if labels == "folders" else [None] * len(folders)
    return collection.with_items(
        [item._replace(label=name) for item, name in zip(collection.items, names, strict=True)]
    )


def _folder(path: Path) -> Collection:
    walk = Walk(path, supported_formats().endings)
    files = walk.files([""])[""]
    items = tuple(Item(file.id, f"{file.size}:{file.mtime}") for file in files)
    return Files(path, items, walk.passed_over, path)


def _table(path: Path, root: Path, column: str | None, label_column: str | None) -> Collection:
    table = read_table(path, column, options=_TABLE_OPTIONS)
    place = table.header.index(column or guess_column(table.header, PATHS) or "")
    labels = label_column or guess_column(table.header, LABELS)
    if labels is not None and labels not in table.header:
        known = ", ".join(table.header)
        raise DataError(f"label_column={labels}  is no column of {path}: {known}")
    at = None if labels is None else table.header.index(labels)
    rows: Iterator[tuple[str, Label]] = (
        (cells[place], None if at is None else cells[at]) for cells in table.rows
    )
    return _listed(path, root, rows)


def _list(path: Path, root: Path) -> Collection:
    text = decode_text(path, read_packed(path, "list"), "list")
    lines = (line.strip(BLANKS) for line in text.splitlines())
    return _listed(path, root, (_split(line) for line in lines if line and line[0] != "#"))


def _split(line: str) -> tuple[str, Label]:
    """Return the path on a line of a list, and its label.

    >>> _split("a b.jpg"), _split("a b.jpg tabby cat"), _split("a.jpg 0 1 1")
    (('a b.jpg', None), ('a b.jpg', 'tabby cat'), ('a.jpg', ('1', '2')))
    """
    if "\t" in line:
        path, _, label = line.partition("\t")
    elif not line.lower().endswith(IMAGES) and (match := _LINE.fullmatch(line)):
        path, label = match[1], match[2]
    else:
        return line, None
    signs = label.split()
    if len(signs) > 1 and {"0", "1"}.issuperset(signs):  # a column for each class
        several = tuple(str(at) for at, sign in enumerate(signs) if sign == "1")
        return path.strip(BLANKS), several or None
    return path.strip(BLANKS), label.strip(BLANKS)


def _listed(path: Path, root: Path, rows: Iterator[tuple[str, Label]]) -> Collection:
    items: dict[str, Item] = {}
    repeated = 0
    for name, label in rows:
        place = with_slashes(name.strip()).removeprefix("./")
        if not place:
            continue
        if place in items:
            repeated += 1
            continue
        signature = "" if URL.match(place) else _signature(root / expand_path(place))
        label = label.strip() if isinstance(label, str) else label
        items[place] = Item(place, signature, label or None)
    return Files(path, list(items.values()), {REPEATED: repeated} if repeated else {}, root)


def _signature(path: Path) -> str:
    """Return size and modification time of a file; empty if it does not exist."""
    try:
        status = path.stat()
    except (OSError, ValueError):
        return ""
    return f"{status.st_size}:{status.st_mtime_ns}"


def _zip(path: Path) -> Collection:
    with _archive(path), zipfile.ZipFile(path) as archive:
        members = [
            (member.filename, f"{member.file_size}:{member.CRC:08x}")
            for member in archive.infolist()
            if not member.is_dir()
        ]
    return ZipArchive(path, *_members(members))


def _tar(path: Path) -> Collection:
    with _archive(path), tarfile.open(path) as archive:
        members = [(member.name, _tar_signature(member)) for member in archive if member.isfile()]
    return TarArchive(path, *_members(members))


def _tar_signature(member: tarfile.TarInfo) -> str:
    return f"{member.size}:{int(member.mtime * 1e9)}:{member.offset_data}"


def _members(members: Sequence[tuple[str, str]]) -> tuple[list[Item], Mapping[str, int]]:
    """Return the images among the members of an archive, and the number of the others.

    Of several members with one name, the last is used, as when the archive is unpacked.
    """
    endings = supported_formats().endings
    passed_over: Counter[str] = Counter()
    items: dict[str, Item] = {}
    for given, signature in members:
        name = _member(given)
        *folders, last = name.split("/")
        if not is_below_root(name):
            passed_over[OUTSIDE] += 1
        elif any(map(is_ignored, folders)) or last.startswith("."):
            passed_over[HIDDEN] += 1
        elif last.lower() in SYSTEM_FILES:
            passed_over[last] += 1
        elif not last.lower().endswith(endings):
            passed_over[os.path.splitext(last.lower())[1] or "no ending"] += 1
        else:
            items[name] = Item(name, signature)
    return sorted(items.values(), key=lambda item: item.id), passed_over


def _member(name: str) -> str:
    return name.replace("\\", "/").removeprefix("./")


def _too_large(size: int) -> str:
    return f"it has {size:,} bytes unpacked, and at most {MEMBER_BYTES:,} are read"


@contextlib.contextmanager
def _archive(path: Path) -> Iterator[None]:
    """Convert all errors of an archive into ``DataError``."""
    try:
        yield
    except DataError:
        raise
    except Exception as error:  # of zlib, lzma, struct, zipfile and tarfile
        reason = str(error) or type(error).__name__
        raise DataError(f"the archive {path} cannot be read: {reason}") from error
