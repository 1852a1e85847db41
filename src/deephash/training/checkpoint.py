"""Save and load checkpoints with a checksum over every byte.

A checkpoint is the zip archive of ``torch.save`` with a comment that holds the CRC-32 of all bytes
before it, so that other programs can read it. Checkpoints of earlier versions have no comment; they
are checked by the CRC-32 of each member of the archive.
"""

import os
import re
import zipfile
import zlib
from pathlib import Path
from typing import Any, BinaryIO, cast

import torch

from deephash.errors import CheckpointError, TrainingError
from deephash.utils import program
from deephash.utils.files import write_atomic
from deephash.utils.run_paths import RunPaths

END = 22
"""Bytes at the end of a zip archive without a comment; the last two are the comment's length."""

COMMENT = "deephash crc32 {:08x}"

COMMENTED = re.compile(rb"deephash crc32 ([0-9a-f]{8})")

LENGTH = len(COMMENT.format(0))

PIECE = 1 << 22
"""Bytes per read."""


def save(path: Path, state: dict[str, Any]) -> None:
    """Save tensors and plain values, atomically.

    Args:
        path: the file.
        state: tensors and plain values, for ``torch.load(weights_only=True)``.

    Raises:
        WriteError: the file cannot be written; an existing file is unchanged.

    Example:
        >>> save(Path("a.pt"), {"epoch": 3})
        >>> load_state(Path("a.pt"))
        {'epoch': 3}
    """

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            archive = _Archive(file)
            try:
                torch.save(state, cast(BinaryIO, archive))
            except RuntimeError as error:  # torch closes the archive after an interrupted write
                raise error.__context__ or error from None
            archive.finish()

    write_atomic(path, write)


def require(path: Path) -> None:
    """Raise CheckpointError if there is no such file."""
    if not path.is_file():
        raise CheckpointError(f"there is no checkpoint {path}")


def load_state(path: Path) -> dict[str, Any]:
    """Load a checkpoint; a file cannot run code.

    Raises:
        CheckpointError: the file is missing, damaged or no checkpoint; the message says how the
            run can be continued.
    """
    try:
        sound = is_sound(path)
        if sound and _is_packed(path):
            raise ValueError("it is compressed, and checkpoints are not")
        state = torch.load(path, map_location="cpu", weights_only=True) if sound else None
    except FileNotFoundError:
        raise CheckpointError(f"there is no checkpoint {path}") from None
    except Exception as error:  # torch raises various classes for such files
        raise CheckpointError(
            f"{path} cannot be read as a checkpoint: {error}\n  {_advice(path)}"
        ) from error
    if not sound:
        raise CheckpointError(
            f"{path} is damaged: its bytes do not fit its checksum, so it cannot be read as a"
            f" checkpoint\n  {_advice(path)}"
        )
    if not isinstance(state, dict):
        raise CheckpointError(
            f"{path} is no checkpoint of a run: it holds a {type(state).__name__}"
        )
    return state


def is_sound(path: Path) -> bool:
    """Compare every byte of a checkpoint with its checksum.

    Returns:
        False if any byte was changed, lost or added.

    Raises:
        OSError: the file cannot be read.
        zipfile.BadZipFile: it is no archive.
    """
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - LENGTH))
        comment = COMMENTED.fullmatch(file.read())
        if comment is not None:
            return _crc(file, size - LENGTH) == int(comment[1], 16)
        file.seek(max(0, size - END))
        end = file.read()
        if zipfile.is_zipfile(file) and not (end.startswith(b"PK\5\6") and end.endswith(b"\0\0")):
            return False  # a damaged or truncated comment
        with zipfile.ZipFile(file) as archive:
            try:
                return archive.testzip() is None
            except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError):
                return False


def _is_packed(path: Path) -> bool:
    """Return whether a member is compressed, in which case a small file could fill the memory."""
    with zipfile.ZipFile(path) as archive:
        return any(item.compress_type != zipfile.ZIP_STORED for item in archive.infolist())


class _Archive:
    """File-like object for ``torch.save`` that computes the checksum and appends the comment."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._end = b""  # the last bytes, which the comment changes
        self._crc = 0

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        if len(view) >= END:
            self._pass(self._end)
            self._pass(view[:-END])
            self._end = bytes(view[-END:])
        else:
            rest = self._end + bytes(view)
            self._pass(rest[:-END])
            self._end = rest[-END:]
        return len(view)

    def flush(self) -> None:
        self._file.flush()

    def finish(self) -> None:
        """Append the comment with the checksum.

        Raises:
            TrainingError: torch has not written a zip archive without a comment.
        """
        if not (self._end.startswith(b"PK\5\6") and self._end.endswith(b"\0\0")):
            raise TrainingError("this version of torch writes checkpoints in an unknown format")
        self._pass(self._end[:-2] + LENGTH.to_bytes(2, "little"))
        self._file.write(COMMENT.format(self._crc).encode())

    def _pass(self, data: bytes | memoryview) -> None:
        self._crc = zlib.crc32(data, self._crc)
        self._file.write(data)


def _crc(file: BinaryIO, size: int) -> int:
    """Return the checksum of the first ``size`` bytes of a file."""
    file.seek(0)
    crc = 0
    while size > 0 and (data := file.read(min(PIECE, size))):
        crc = zlib.crc32(data, crc)
        size -= len(data)
    return crc


def _advice(path: Path) -> str:
    """Return how to continue with a damaged checkpoint, depending on the other files."""
    run, files = path.parent, RunPaths(path.parent)
    anew = "train anew with rerun=true"
    if path == files.last:
        best = next(
            (file for file in (files.best, *files.best_of_epochs()[-1:]) if file.is_file()), None
        )
        if best is None:
            return "Remove it to train from the start, or bring back a copy of it."
        named = "" if best == files.best else f"rename {best.name} to best.pt, then "
        return (
            "The best encoder so far is another file, which may be whole: "
            f"{named}{program.command('evaluate')} run={run}\n"
            f"  To train on, bring back a copy of {path.name}; or {anew}."
        )
    if path.name.startswith("best") and files.last.is_file():
        return (
            f"Bring back a copy of it, or {anew}. The encoder of the last epoch is another file,"
            f" which may be whole: {program.command('evaluate')} run={run} checkpoint=last"
        )
    return f"Bring back a copy of it, or {anew}."
