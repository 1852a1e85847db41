"""Find the image files of class folders, and count the files that are ignored."""

import contextlib
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from deephash.data.decoding import File
from deephash.data.image_formats import conversion_hint, special_file
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
"""Folders of operating systems and network disks, in lower case, without those with a dot."""

INDEX = ".deephash"
"""Ending of folders that hold an index of the images in the folder beside them."""

SYSTEM_FILES = frozenset(("thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r"))

HIDDEN, BROKEN, AGAIN, SPECIAL, OUTSIDE = (
    "hidden files",
    "broken links",
    "links to folders read already",
    "pipes, sockets and devices",
    "images in no class folder",
)
"""The reasons for ignoring files, other than their extensions."""


def is_ignored(name: str) -> bool:
    """Return whether a folder of this name is hidden, a system folder, or an index of images.

    Example:
        >>> is_ignored("@eaDir"), is_ignored(".git"), is_ignored("cat"), is_ignored("cat.deephash")
        (True, True, False, True)
    """
    return name.startswith(".") or name.endswith(INDEX) or name.lower() in SYSTEM_FOLDERS


class Walk:
    """The image files of several folders below one root.

    Links are followed. A folder with several links is read once: at its own path if that is in one
    of the folders, otherwise through the first link. Hidden and system folders and files, and files
    with other extensions, are ignored and counted.

    Args:
        root: the folder above all that are read, absolute or relative.
        endings: extensions of the images, in lower case.

    Attributes:
        passed_over: the number of ignored files, by extension or reason.
        broken: paths of broken links.

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
        """Return the sorted names of the folders that may contain images.

        Files beside them, and ignored folders, are counted.

        Args:
            below: path of their parent folder below the root; empty for the root itself.

        Raises:
            DataError: the folder cannot be read.
        """
        names = []
        for entry in self._scan(below):
            if is_folder(entry):
                if is_ignored(entry.name):
                    self._ignore_folder(entry)
                else:
                    names.append(entry.name)
            elif _is_broken(entry):
                self._note_broken(entry)
            elif self._is_image(entry):
                self.passed_over[OUTSIDE] += 1
            else:
                self._ignore_file(entry)
        return sorted(names)

    def files(self, folders: Sequence[str]) -> dict[str, list[File]]:
        """Return the images in and below each folder, sorted by path.

        Args:
            folders: paths below the root; empty for the root itself.

        Raises:
            DataError: a folder cannot be read, or two are the same.
        """
        self._enter_ancestors()
        folder_of: dict[tuple[int, int], str] = {}
        for folder in folders:
            key = self._key(folder)
            if key in folder_of:
                raise DataError(
                    f"the folders {folder_of[key]} and {folder} below {self.root} are the same, by "
                    "a link: remove one of them"
                )
            folder_of[key] = folder
            self._entered.add(key)
        result: dict[str, list[File]] = {folder: [] for folder in folders}
        for folder in folders:
            result[folder] += self._read(folder, folder)
        while self._links:  # after all folders that have a path of their own
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
                result[folder] += self._read(folder, path)
        return {folder: sorted(files) for folder, files in result.items()}

    def _read(self, owner: str, start: str) -> list[File]:
        """Return the images in and below a folder; links to folders are read later."""
        result: list[File] = []
        pending = [start]
        while pending:
            folder = pending.pop()
            for entry in self._scan(folder):
                path = f"{folder}/{entry.name}" if folder else entry.name
                if is_folder(entry):
                    if is_ignored(entry.name):
                        self._ignore_folder(entry)
                    elif entry.is_symlink():
                        self._links.append((owner, path))
                    else:
                        key = self._key(path)
                        if key not in self._entered:  # a bind mount may be circular
                            self._entered.add(key)
                            pending.append(path)
                elif not self._is_image(entry):
                    if _is_broken(entry) and not entry.name.startswith("."):
                        self._note_broken(entry)
                    else:
                        self._ignore_file(entry)
                else:
                    # A broken link is listed, and fails like any unreadable file.
                    status = entry.stat(follow_symlinks=not _is_broken(entry))
                    if special_file(status.st_mode):
                        self.passed_over[SPECIAL] += 1
                    else:
                        result.append(File(path, status.st_size, status.st_mtime_ns))
        return result

    def _is_image(self, entry: os.DirEntry[str]) -> bool:
        return not entry.name.startswith(".") and entry.name.lower().endswith(self.endings)

    def _note_broken(self, entry: os.DirEntry[str]) -> None:
        self.passed_over[BROKEN] += 1
        self.broken.append(os.path.relpath(entry.path, self.root))

    def _ignore_file(self, entry: os.DirEntry[str]) -> None:
        name = entry.name.lower()
        if name.startswith("."):
            self.passed_over[HIDDEN] += 1
        elif name in SYSTEM_FILES:
            self.passed_over[entry.name] += 1
        else:
            self.passed_over[os.path.splitext(name)[1] or "no ending"] += 1

    def _ignore_folder(self, entry: os.DirEntry[str]) -> None:
        self.passed_over[f"{entry.name}/"] += _file_count(entry.path)

    def _scan(self, folder: str) -> list[os.DirEntry[str]]:
        with _reading(self.root / folder), os.scandir(self.root / folder) as entries:
            return list(entries)

    def _key(self, folder: str) -> tuple[int, int]:
        with _reading(self.root / folder):
            status = os.stat(self.root / folder)
        return status.st_dev, status.st_ino

    def _enter_ancestors(self) -> None:
        """Prevent links to the root or above it, through which everything would be read again."""
        for folder in (self.root.resolve(), *self.root.resolve().parents):
            with contextlib.suppress(OSError):
                status = os.stat(folder)
                self._entered.add((status.st_dev, status.st_ino))


@contextlib.contextmanager
def _reading(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise DataError(f"cannot read the folder {folder}: {reason}") from error


def describe_passed_over(passed_over: Mapping[str, int]) -> str:
    """Return the ignored files, the most frequent first, and how to make them readable.

    Example:
        >>> describe_passed_over({".txt": 2, ".psd": 3})
        '3 .psd (convert them to JPEG or PNG), 2 .txt'
    """
    parts = []
    for name, count in sorted(passed_over.items(), key=lambda item: (-item[1], item[0])):
        hint = conversion_hint(name)
        parts.append(f"{count:,} {name} ({hint})" if hint else f"{count:,} {name}")
    return ", ".join(parts)


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Return whether an entry is a folder, or a link to one."""
    try:
        return entry.is_dir()
    except OSError:  # such as a link to itself
        return False


def _is_broken(entry: os.DirEntry[str]) -> bool:
    return entry.is_symlink() and not os.path.exists(entry.path)


def _file_count(folder: str) -> int:
    """Count the files in and below a folder; at least 1, for the folder itself."""
    return max(1, sum(len(files) for _, _, files in os.walk(folder)))
