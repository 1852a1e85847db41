"""The image files of class folders, and what was passed over on the way to them."""

import contextlib
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from deephash.data.decoding import File
from deephash.data.image_formats import advice, special_file
from deephash.errors import DataError

SYSTEM_FOLDERS = frozenset(
    (
        "@eadir",
        "@tmp",
        "@recycle",
        "@recently-snapshot",
        "#recycle",
        "#snapshot",
        "__macosx",
        "__pycache__",
        "$recycle.bin",
        "recycler",
        "system volume information",
        "lost+found",
        "network trash folder",
        "temporary items",
    )
)
"""Folders of operating systems and network disks, in lower case; those with a dot are others."""

SYSTEM_FILES = frozenset(("thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r"))

HIDDEN, BROKEN, AGAIN, SPECIAL, OUTSIDE = (
    "hidden files",
    "broken links",
    "links to folders read already",
    "pipes, sockets and devices",
    "images in no class folder",
)
"""What files are counted as that are passed over for another reason than their ending."""


def passes_over(name: str) -> bool:
    """Whether a folder of this name is hidden, or an operating system's own.

    Example:
        >>> passes_over("@eaDir"), passes_over(".git"), passes_over("cat")
        (True, True, False)
    """
    return name.startswith(".") or name.lower() in SYSTEM_FOLDERS


class Walk:
    """The image files of several folders below one root.

    Links are followed. A folder that several links lead to is read once: at its own place if that
    lies in one of the folders, else by the first link. Hidden and system folders and files are
    passed over, and so are files with other endings; all of them are counted.

    Args:
        root: folder above all that are read; absolute or not.
        endings: of the images, in lower case.

    Attributes:
        passed_over: how many files were passed over, by ending or reason.
        broken: paths of links that lead nowhere.

    Example:
        >>> walk = Walk(Path("birds"), (".jpg", ".png"))  # doctest: +SKIP
        >>> walk.files(["jay", "owl"])  # doctest: +SKIP
    """

    def __init__(self, root: Path, endings: Sequence[str]):
        self.root = root
        self.endings = tuple(endings)
        self.passed_over: Counter[str] = Counter()
        self.broken: list[str] = []
        self._entered: set[tuple[int, int]] = set()
        self._links: list[tuple[str, str]] = []  # folder read, path of a link to a folder

    def folders(self, below: str = "") -> list[str]:
        """The sorted names of folders below the root that may hold images.

        Files beside them, and folders that are passed over, are counted.

        Args:
            below: path of a folder below the root; empty for the root itself.

        Raises:
            DataError: the folder cannot be read.
        """
        found = []
        for entry in self._scan(below):
            if _is_folder(entry):
                if passes_over(entry.name):
                    self._pass_folder(entry)
                else:
                    found.append(entry.name)
            elif _is_dangling(entry):
                self._note_broken(entry)
            elif self._is_image(entry):
                self.passed_over[OUTSIDE] += 1
            else:
                self._pass_file(entry)
        return sorted(found)

    def files(self, folders: Sequence[str]) -> dict[str, list[File]]:
        """The images in and below each folder, sorted by path.

        Args:
            folders: paths below the root; empty for the root itself.

        Raises:
            DataError: a folder cannot be read, or two are one and the same.
        """
        self._enter_ancestors()
        own: dict[tuple[int, int], str] = {}
        for folder in folders:
            key = self._key(folder)
            if key in own:
                raise DataError(
                    f"the folders {own[key]} and {folder} below {self.root} are one and the same, "
                    "by a link: remove one of them"
                )
            own[key] = folder
            self._entered.add(key)
        found: dict[str, list[File]] = {folder: [] for folder in folders}
        for folder in folders:
            found[folder] += self._read(folder, folder)
        while self._links:  # read when all that lies at its own place is known
            links, self._links = sorted(self._links), []
            for folder, path in links:
                try:
                    key = self._key(path)
                except DataError:
                    self.broken.append(path)
                    self.passed_over[BROKEN] += 1
                    continue
                if key in self._entered:
                    self.passed_over[AGAIN] += 1
                    continue
                self._entered.add(key)
                found[folder] += self._read(folder, path)
        return {folder: sorted(files) for folder, files in found.items()}

    def _read(self, owner: str, start: str) -> list[File]:
        """The images in and below a folder; links to folders are kept for later."""
        found: list[File] = []
        pending = [start]
        while pending:
            folder = pending.pop()
            for entry in self._scan(folder):
                path = f"{folder}/{entry.name}" if folder else entry.name
                if _is_folder(entry):
                    if passes_over(entry.name):
                        self._pass_folder(entry)
                    elif entry.is_symlink():
                        self._links.append((owner, path))
                    else:
                        key = self._key(path)
                        if key not in self._entered:  # a bind mount may lead in a circle
                            self._entered.add(key)
                            pending.append(path)
                elif not self._is_image(entry):
                    if _is_dangling(entry) and not entry.name.startswith("."):
                        self._note_broken(entry)
                    else:
                        self._pass_file(entry)
                else:
                    # A link that leads nowhere is listed, and fails like any unreadable file.
                    known = entry.stat(follow_symlinks=not _is_dangling(entry))
                    if special_file(known.st_mode):
                        self.passed_over[SPECIAL] += 1
                    else:
                        found.append(File(path, known.st_size, known.st_mtime_ns))
        return found

    def _is_image(self, entry: os.DirEntry[str]) -> bool:
        return not entry.name.startswith(".") and entry.name.lower().endswith(self.endings)

    def _note_broken(self, entry: os.DirEntry[str]) -> None:
        self.passed_over[BROKEN] += 1
        self.broken.append(os.path.relpath(entry.path, self.root))

    def _pass_file(self, entry: os.DirEntry[str]) -> None:
        name = entry.name.lower()
        if name.startswith("."):
            self.passed_over[HIDDEN] += 1
        elif name in SYSTEM_FILES:
            self.passed_over[entry.name] += 1
        else:
            self.passed_over[os.path.splitext(name)[1] or "no ending"] += 1

    def _pass_folder(self, entry: os.DirEntry[str]) -> None:
        self.passed_over[f"{entry.name}/"] += _file_count(entry.path)

    def _scan(self, folder: str) -> list[os.DirEntry[str]]:
        try:
            with os.scandir(self.root / folder) as entries:
                return list(entries)
        except OSError as error:
            reason = error.strerror or error
            raise DataError(f"cannot read the folder {self.root / folder}: {reason}") from error

    def _key(self, folder: str) -> tuple[int, int]:
        try:
            known = os.stat(self.root / folder)
        except OSError as error:
            reason = error.strerror or error
            raise DataError(f"cannot read the folder {self.root / folder}: {reason}") from error
        return known.st_dev, known.st_ino

    def _enter_ancestors(self) -> None:
        """Keep links from leading to the root or above it: everything would be read again."""
        for folder in (self.root.resolve(), *self.root.resolve().parents):
            with contextlib.suppress(OSError):
                known = os.stat(folder)
                self._entered.add((known.st_dev, known.st_ino))


def passed_over_in_words(passed_over: Mapping[str, int]) -> str:
    """What was passed over, the most frequent first; with what would make it readable.

    Example:
        >>> passed_over_in_words({".txt": 2, ".psd": 3})
        '3 .psd (convert them to JPEG or PNG), 2 .txt'
    """
    told = []
    for name, count in sorted(passed_over.items(), key=lambda one: (-one[1], one[0])):
        way = advice(name)
        told.append(f"{count:,} {name}" + (f" ({way})" if way else ""))
    return ", ".join(told)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # as a link that leads to itself
        return False


def _is_dangling(entry: os.DirEntry[str]) -> bool:
    return entry.is_symlink() and not os.path.exists(entry.path)


def _file_count(folder: str) -> int:
    """How many files lie in and below a folder; at least 1, for the folder itself."""
    return max(1, sum(len(files) for _, _, files in os.walk(folder)))
