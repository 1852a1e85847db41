"""Locate the image files that a list refers to."""

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from deephash.data.decoding import File
from deephash.data.image_formats import ARCHIVED, IMAGES, special_file
from deephash.data.sources.folder_walk import is_folder, is_ignored
from deephash.errors import DataError

WAYS = ("auto", "path", "id")

Names = tuple[frozenset[str], tuple[str, ...]]  # of files, and of folders, sorted


class Tree:
    """The names below a folder; each folder is read at most once, and files are not accessed."""

    def __init__(self, root: Path):
        self.root = os.fspath(root)
        self._read: dict[str, Names] = {}

    def names(self, folder: str) -> frozenset[str]:
        """Return the names of the files in a folder; none if it does not exist."""
        if folder not in self._read:
            self._read[folder] = self._list(folder)
        return self._read[folder][0]

    def walk(self) -> Iterator[str]:
        """Yield the paths of all files, in the same order on each machine.

        Links to folders are followed; a folder with several paths is entered by the first of them.
        Names with a leading dot and system folders are ignored.
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
            prefix = folder and f"{folder}/"
            yield from (prefix + name for name in sorted(files) if name[0] != ".")
            pending += [prefix + name for name in reversed(folders) if not is_ignored(name)]

    def file(self, place: str) -> File | None:
        """Return a file with its size and modification time; None if it cannot be read."""
        try:
            stat = os.stat(os.path.join(self.root, place))
        except OSError:
            return None
        if special_file(stat.st_mode):
            return None
        return File(place, stat.st_size, stat.st_mtime_ns)

    def _list(self, folder: str) -> Names:
        files: list[str] = []
        folders: list[str] = []
        try:
            with os.scandir(os.path.join(self.root, folder)) as entries:
                for entry in entries:
                    (folders if is_folder(entry) else files).append(entry.name)
        except (OSError, ValueError):  # ValueError: a name with a null byte
            return frozenset(), ()
        return frozenset(files), tuple(sorted(folders))


def find_files(
    root: Path,
    ids: Sequence[str],
    places: Sequence[str],
    find: str,
    identity: re.Pattern[str] | None,
) -> list[File | None]:
    """Return the file of each of n images below `root`, None if there is none.

    Args:
        root: the folder of the images.
        ids: n ids.
        places: n paths, as in the lists.
        find: `path`, at its place; `id`, anywhere, by its id; or `auto`, at its place, then there
            with leading folders of the place left out one by one, then by its id. A place without
            the extension of an image also matches the only image of that name.
        identity: its first group in the path of a file is the file's id; None to identify files by
            name.

    Raises:
        DataError: two files have the same id, or two images have the same file.
    """
    tree = Tree(root)
    paths: list[str | None] = [None] * len(places)
    if find != "id":
        candidates: dict[str, list[str]] = {}
        for row, place in enumerate(places):
            folder, _, name = place.rpartition("/")
            if folder not in candidates:
                candidates[folder] = _candidate_folders(folder, shorten=find == "auto")
            for candidate in candidates[folder]:
                if match := _matching_name(tree.names(candidate), name):
                    paths[row] = f"{candidate}/{match}" if candidate else match
                    break
    if find != "path":
        rows = [row for row, path in enumerate(paths) if path is None]
        wanted = [(ids[row], places[row]) for row in rows]
        for row, path in zip(rows, _find_by_id(tree, wanted, find, identity), strict=True):
            paths[row] = path
    owner: dict[str, int] = {}
    for row, path in enumerate(paths):
        if path is not None and owner.setdefault(path, row) != row:
            raise DataError(
                f"{places[owner[path]]} and {places[row]} both match {path} below {root}: "
                "set dataset.root to the folder in which these paths begin"
            )
    return [None if path is None else tree.file(path) for path in paths]


def _matching_name(names: frozenset[str], name: str) -> str | None:
    """Return the file with a name, or the only image with that name and an extension."""
    if name in names:
        return name
    if name.lower().endswith(IMAGES) or not name:
        return None
    extensions = [*IMAGES, *map(str.upper, IMAGES)]
    matches = [name + extension for extension in extensions if name + extension in names]
    return matches[0] if len(matches) == 1 else None


def _candidate_folders(folder: str, shorten: bool) -> list[str]:
    """Return a folder below the root, and with `shorten` the same without its first parts."""
    parts = [part for part in folder.split("/") if part not in ("", ".")]
    up = len(parts) - parts[::-1].index("..") if ".." in parts else 0
    if shorten:
        return ["/".join(parts[start:]) for start in range(up, len(parts) + 1)]
    return [] if up or folder.startswith("/") else ["/".join(parts)]


def _find_by_id(
    tree: Tree,
    wanted: Sequence[tuple[str, str]],
    find: str,
    identity: re.Pattern[str] | None,
) -> list[str | None]:
    """Return the path of each image, given by id and place, anywhere below the root."""
    if not wanted:
        return []
    keys = [place.rpartition("/")[2] if identity is None else name for name, place in wanted]
    first: dict[str, str] = {}
    second: dict[str, str] = {}
    for key, (_, place) in zip(keys, wanted, strict=True):
        if first.setdefault(key, place) != place:
            second[key] = place
    extensions = tuple({*ARCHIVED, *(os.path.splitext(place)[1].lower() for _, place in wanted)})
    paths: dict[str, str] = {}
    for place in tree.walk():
        if identity is None:
            key = place.rpartition("/")[2]
        elif place.lower().endswith(extensions) and (match := identity.search(place)):
            key = match[1]
        else:
            continue
        if key not in first:
            continue
        if key in second:
            raise DataError(
                f"dataset.source.find={find} cannot distinguish {first[key]} and {second[key]}, "
                f"which both match {place} below {tree.root}: set dataset.root to the folder in "
                "which these paths begin"
            )
        if paths.setdefault(key, place) != place:
            raise DataError(
                f"dataset.source.find={find} finds two {key} below {tree.root}: {paths[key]} and "
                f"{place}. Remove one, or set dataset.root to a folder with one of them"
            )
    return [paths.get(key) for key in keys]
