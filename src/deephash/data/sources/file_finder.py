"""Where below a folder the images lie that lists name."""

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from deephash.data.decoding import File
from deephash.data.image_formats import ARCHIVED, IMAGES, special_file
from deephash.data.sources.folder_walk import passes_over
from deephash.errors import DataError

WAYS = ("auto", "path", "id")

Listing = tuple[frozenset[str], tuple[str, ...]]  # names of files, and of folders, sorted
NOTHING: Listing = (frozenset(), ())


class Tree:
    """The names below a folder. Each folder is read at most once, and no file is asked for."""

    def __init__(self, root: Path):
        self.root = os.fspath(root)
        self._read: dict[str, Listing] = {}

    def names(self, folder: str) -> frozenset[str]:
        """The names of the files in a folder, given by its path; none if there is no folder."""
        if folder not in self._read:
            self._read[folder] = self._list(folder)
        return self._read[folder][0]

    def walk(self) -> Iterator[str]:
        """The paths of all files, in one order wherever they lie.

        Links to folders are followed; a folder with several paths is entered by the first of them.
        Names with a leading dot are passed over, and so are folders of operating systems and
        network disks.
        """
        pending, entered = [""], set()
        while pending:
            folder = pending.pop()
            try:
                known = os.stat(os.path.join(self.root, folder))
            except OSError:
                continue
            if (known.st_dev, known.st_ino) in entered:
                continue
            entered.add((known.st_dev, known.st_ino))
            files, folders = self._read.get(folder) or self._list(folder)
            beginning = folder and f"{folder}/"
            yield from (beginning + name for name in sorted(files) if name[0] != ".")
            pending += [beginning + name for name in reversed(folders) if not passes_over(name)]

    def file(self, place: str) -> File | None:
        """A file with its size and time of change; None if there is none that can be read."""
        try:
            stat = os.stat(os.path.join(self.root, place))
        except OSError:
            return None
        if special_file(stat.st_mode):
            return None
        return File(place, stat.st_size, stat.st_mtime_ns)

    def _list(self, folder: str) -> Listing:
        files: list[str] = []
        folders: list[str] = []
        try:
            with os.scandir(os.path.join(self.root, folder)) as entries:
                for entry in entries:
                    (folders if _is_folder(entry) else files).append(entry.name)
        except (OSError, ValueError):  # ValueError: a name with a null byte
            return NOTHING
        return frozenset(files), tuple(sorted(folders))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False  # as a link that leads to itself


def find_files(
    root: Path,
    ids: Sequence[str],
    places: Sequence[str],
    find: str,
    identity: re.Pattern[str] | None,
) -> list[File | None]:
    """The file of each of n images below `root`, None where there is none.

    Args:
        root: the folder of the images.
        ids: n.
        places: n paths, as the lists write them.
        find: `path`, at its place; `id`, anywhere, known by its id; or `auto`, at its place, else
            there with leading folders of the place left out one by one, else by its id. A place
            that has not the ending of an image is also that of the only image so called.
        identity: the first group of what it finds in a file's path is the file's id; None to know
            files by their names.

    Raises:
        DataError: a file that is looked for by its id is there twice, or is that of two images.
    """
    tree = Tree(root)
    found: list[str | None] = [None] * len(places)
    if find != "id":
        homes: dict[str, list[str]] = {}
        for row, place in enumerate(places):
            folder, _, name = place.rpartition("/")
            if folder not in homes:
                homes[folder] = _homes(folder, cut=find == "auto")
            for home in homes[folder]:
                if actual := _named(tree.names(home), name):
                    found[row] = f"{home}/{actual}" if home else actual
                    break
    if find != "path":
        rows = [row for row, where in enumerate(found) if where is None]
        named = [(ids[row], places[row]) for row in rows]
        for row, where in zip(rows, _by_id(tree, named, find, identity), strict=True):
            found[row] = where
    owner: dict[str, int] = {}
    for row, where in enumerate(found):
        if where is not None and owner.setdefault(where, row) != row:
            raise DataError(
                f"{places[owner[where]]} and {places[row]} are both found as {where} below {root}: "
                "set dataset.root to the folder in which these paths begin"
            )
    return [None if where is None else tree.file(where) for where in found]


def _named(names: frozenset[str], name: str) -> str | None:
    """The file of a name, or of a name without its ending if one image has it; None for none."""
    if name in names:
        return name
    if name.lower().endswith(IMAGES) or not name:
        return None
    endings = [form for one in IMAGES for form in (one, one.upper())]
    ended = [name + ending for ending in endings if name + ending in names]
    return ended[0] if len(ended) == 1 else None


def _homes(folder: str, cut: bool) -> list[str]:
    """A folder below the root, and with `cut` the same without its first parts, down to none."""
    parts = [part for part in folder.split("/") if part not in ("", ".")]
    up = len(parts) - parts[::-1].index("..") if ".." in parts else 0
    if cut:
        return ["/".join(parts[start:]) for start in range(up, len(parts) + 1)]
    return [] if up or folder.startswith("/") else ["/".join(parts)]


def _by_id(
    tree: Tree,
    named: Sequence[tuple[str, str]],
    find: str,
    identity: re.Pattern[str] | None,
) -> list[str | None]:
    """The path of the file of each image, given by id and place, wherever below the root."""
    if not named:
        return []
    keys = [place.rpartition("/")[2] if identity is None else name for name, place in named]
    first: dict[str, str] = {}
    second: dict[str, str] = {}
    for key, (_, place) in zip(keys, named, strict=True):
        if first.setdefault(key, place) != place:
            second[key] = place
    endings = tuple({*ARCHIVED, *(os.path.splitext(place)[1].lower() for _, place in named)})
    found: dict[str, str] = {}
    for place in tree.walk():
        if identity is None:
            key = place.rpartition("/")[2]
        elif place.lower().endswith(endings) and (match := identity.search(place)):
            key = match[1]
        else:
            continue
        if key not in first:
            continue
        if key in second:
            raise DataError(
                f"dataset.source.find={find} cannot tell {first[key]} from {second[key]}, and "
                f"{place} below {tree.root} can be only one of them: set dataset.root to the "
                "folder in which these paths begin"
            )
        if found.setdefault(key, place) != place:
            raise DataError(
                f"dataset.source.find={find} finds two {key} below {tree.root}: {found[key]} and "
                f"{place}. Remove one, or set dataset.root to a folder with one of them"
            )
    return [found.get(key) for key in keys]
