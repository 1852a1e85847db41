"""Errors that a user can fix: what is wrong, where, and what to do instead."""

import errno
import os
from collections.abc import Iterable


class DeephashError(Exception):
    """Base of all errors that are shown to the user without a traceback."""


class ConfigError(DeephashError):
    """The configuration names something that does not exist, or values that cannot work."""


def raise_first(faults: Iterable[tuple[str, str, str]], prefix: str = "") -> None:
    """Raise a ConfigError for the first fault of the options of a class.

    Args:
        faults: key, message and hint, as returned by ``refused`` of the class.
        prefix: of the key.

    Raises:
        ConfigError: there is a fault.
    """
    for key, what, instead in faults:
        raise ConfigError(f"{prefix}{key}  {what} {instead}")


class DataError(DeephashError):
    """Images, labels or a split are missing, unreadable or contradict each other."""


class TrainingError(DeephashError):
    """Training cannot continue, such as a loss that is not finite, or a foreign checkpoint."""


class CheckpointError(TrainingError):
    """A checkpoint is missing, damaged, or does not match the objects to restore."""


class BusyError(TrainingError):
    """Another process is training the same run, or changing the same store."""


class ExportError(DeephashError):
    """An encoder cannot be exported, or the exported one gives other codes."""


class FileError(DataError):
    """A file cannot be read, or has unexpected content.

    Args:
        path: of the file.
        reason: what is wrong with it, a clause such as ``it is cut off``.
        what: kind of the file, such as ``split file``.
        advice: what to do about it, a sentence; empty if nothing is known.
    """

    def __init__(self, path: object, reason: str, what: str = "file", advice: str = "") -> None:
        super().__init__(path, reason, what, advice)
        self.path, self.reason, self.what, self.advice = path, reason, what, advice

    def __str__(self) -> str:
        message = f"cannot read the {self.what} {self.path}: {self.reason}"
        return f"{message}\n  {self.advice}" if self.advice else message


class WriteError(DeephashError, OSError):
    """A file or folder cannot be written. An ``OSError`` with advice.

    Args:
        path: of the file or folder.
        reason: the error of the system, or a clause such as ``it is a symbolic link``.
        advice: what to do about it, a sentence; None for that of the error.
    """

    def __init__(self, path: object, reason: OSError | str, advice: str | None = None) -> None:
        number = reason.errno if isinstance(reason, OSError) else None
        super().__init__(number, reason if isinstance(reason, str) else os_reason(reason))
        self.filename = os.fspath(path) if isinstance(path, str | os.PathLike) else str(path)
        self.reason = str(self.args[1])
        self.advice = os_advice(number) if advice is None else advice

    def __str__(self) -> str:
        message = f"cannot write {self.filename}: {self.reason}"
        return f"{message}\n  {self.advice}" if self.advice else message


def os_reason(error: OSError) -> str:
    """Return the meaning of an operating system error, as a clause.

    Example:
        >>> os_reason(OSError(errno.ENOSPC, "No space left on device"))
        'the disk is full (No space left on device)'
    """
    if isinstance(error, WriteError):
        return error.reason
    known = _REASONS.get(error.errno or 0)
    if known is None:
        return error.strerror or str(error) or type(error).__name__
    system = error.strerror or os.strerror(error.errno or 0)
    return known if system.lower() == known else f"{known} ({system})"


def os_advice(number: int | None) -> str:
    """Return advice for an operating system error, by its number; may be empty."""
    return _ADVICE.get(number or 0, "")


def from_os_error(error: OSError) -> DeephashError:
    """Convert an operating system error to a DeephashError with a readable message.

    Example:
        >>> print(from_os_error(OSError(errno.ENOTDIR, "Not a directory", "a/b")))
        a/b: a file stands where a folder should be (Not a directory)
          Remove or rename that file, or choose another place.
    """
    if isinstance(error, DeephashError):
        return error
    where = [
        os.fsdecode(name)
        for name in (error.filename, error.filename2)
        if isinstance(name, str | bytes)
    ]
    if where:
        place = " -> ".join(where)
    elif error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO):
        place = "a file, or where the output of this command goes, cannot be written"
    else:
        place = type(error).__name__
    advice = os_advice(error.errno)
    return DeephashError(f"{place}: {os_reason(error)}" + (f"\n  {advice}" if advice else ""))


_REASONS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the file would be larger than this process or filesystem allows",
    errno.EROFS: "the filesystem is read-only",
    errno.EACCES: "permission denied",
    errno.EPERM: "permission denied",
    errno.ENOTDIR: "a file stands where a folder should be",
    errno.EEXIST: "a file stands where a folder should be",
    errno.EISDIR: "a folder stands where a file should be",
    errno.ENOENT: "there is no such file or folder",
    errno.ELOOP: "it is a symbolic link, or there is a circle of them",
    errno.ENAMETOOLONG: "the name is too long for this filesystem",
    errno.EIO: "the disk reports an input/output error",
    errno.ESTALE: "the network mount has lost the file",
    errno.EMFILE: "too many files are open",
    errno.ENFILE: "too many files are open",
}

_ROOM = "Free some space there or choose another place, then repeat the command."
_PLACE = "Choose a place that can be written: paths.outputs=FOLDER (evaluate: out=FOLDER)."

_ADVICE = {
    errno.ENOSPC: _ROOM,
    errno.EDQUOT: _ROOM,
    errno.EFBIG: "Raise the limit (ulimit -f) or choose another place, then repeat the command.",
    errno.EROFS: _PLACE,
    errno.EACCES: "Change its permissions, or choose another place.",
    errno.EPERM: "Change its permissions, or choose another place.",
    errno.ENOTDIR: "Remove or rename that file, or choose another place.",
    errno.EEXIST: "Remove or rename that file, or choose another place.",
    errno.EISDIR: "Remove or rename that folder, or choose another place.",
    errno.ENOENT: "If a folder was removed or renamed meanwhile, repeat the command.",
    errno.ELOOP: "Replace the link with what it should point to.",
    errno.ENAMETOOLONG: "Choose shorter names.",
    errno.EIO: "Look at the disk (dmesg) before anything else is written to it.",
    errno.ESTALE: "Mount it again, then repeat the command.",
    errno.EMFILE: "Raise the limit: ulimit -n 4096",
    errno.ENFILE: "Close other programs, then repeat the command.",
}
