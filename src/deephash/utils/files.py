"""Write files whole or not at all; read files that may be damaged, hostile or something else.

Every reader takes a limited number of bytes from a regular file and raises ``FileError`` for
whatever is wrong with it: a bad file ends in a sentence and never costs much memory or time.
"""

import contextlib
import errno
import json
import lzma
import math
import os
import re
import stat
import tempfile
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from itertools import accumulate
from pathlib import Path
from typing import IO, Any

from deephash.errors import DeephashError, FileError, WriteError

MEBI = 1 << 20

MOST_BYTES = 64 * MEBI
"""Default limit on the size of a text or JSON file."""

MOST_VALUES = 2_000_000
"""Default limit on the number of values in a JSON file: a value of 2 bytes takes 64 in memory."""

DEEPEST = 100
"""Limit on the nesting of JSON."""

YAML_BYTES, YAML_NODES, YAML_DEPTH, YAML_SCALAR = 4 * MEBI, 200_000, 50, 1 << 14
"""Limits on a YAML file: its size, its nodes with aliases expanded, nesting, length of a scalar."""

SMALL_UNPACKED, MOST_RATIO = 64 * MEBI, 500
"""A packed file may unpack to ``SMALL_UNPACKED`` plus ``MOST_RATIO`` times its size on disk.
One-hot labels of sorted images are packed by a few hundred; bombs by 1,000 (deflate) or 7,000 (xz).
"""

XZ_SMALL, XZ_RATIO, XZ_PIECE, XZ_MEMORY = 16 * MEBI, 1_000, 1 << 12, 1 << 28
"""Likewise for xz files, after every piece of ``XZ_PIECE`` bytes: a list of sorted one-hot labels
with running names is packed by 950. And the memory their decoder may take (``xz -9``: a quarter).
"""

DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS, errno.ESTALE}
"""Errors of a disk; what a library raises instead of one of them is about the disk."""

LOG, ERROR = "output.log", "error.txt"
"""What a job of a sweep says, and why it failed, in its run folder."""

SWEEPS, MANIFEST = "sweeps", "sweep.json"
"""The folder of sweeps in the outputs, and what says which runs belong to one."""


def place(given: str | Path) -> Path:
    """Return the path that a configured text names; ``~`` and ``~user`` are home folders.

    Args:
        given: a path as it was typed. A ``~name`` that is no user stays as it is.

    Returns:
        The path, relative where the text is.

    >>> place("data/a b").as_posix()
    'data/a b'
    """
    try:
        return Path(given).expanduser()
    except RuntimeError:  # there is no such user
        return Path(given)


def write_atomic(path: Path, write: Callable[[Path], Any]) -> None:
    """Call ``write(temporary_path)`` and rename the result to ``path``.

    A kill at any moment leaves the old file or the new one, never a piece; and beside it at most
    a ``.NAME.PID.tmp``, which the next run in this folder sweeps away. What is at the path is
    replaced, and if it is a link, what it points to stays as it is.

    Raises:
        WriteError: the disk is full, the folder is gone, and the like; the old file stays.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with writing(path):
            beside.unlink(missing_ok=True)  # it may be a link, which would be written through
            write(beside)
            with beside.open("r+b") as file:  # Windows syncs only what may be written
                os.fsync(file.fileno())
            os.replace(beside, path)
    finally:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what the system says about writing a file or folder into a ``WriteError``.

    That includes errors of libraries (torch, numpy) which follow from one of the system.

    Args:
        path: of the file or folder that is written.

    Raises:
        WriteError: instead of an ``OSError``.

    Example:
        >>> with writing(Path("no/such/file")):
        ...     open("no/such/file", "w")
        Traceback (most recent call last):
        deephash.errors.WriteError: cannot write no/such/file: its folder does not exist
          If it was removed or renamed meanwhile, repeat the command.
    """
    try:
        yield
    except DeephashError:
        raise
    except OSError as error:
        raise _write_error(path, error) from error
    except Exception as error:  # what a library makes of it: "unexpected pos 1344 vs 1238"
        cause = error.__cause__ or error.__context__
        while cause is not None and not (isinstance(cause, OSError) and cause.errno in DISK):
            cause = cause.__cause__ or cause.__context__
        if cause is None:
            raise
        raise _write_error(path, cause) from error


def _write_error(path: Path, error: Any) -> WriteError:
    if isinstance(error, WriteError):
        return error
    if error.errno == errno.ENOENT and not path.parent.is_dir():
        return WriteError(
            path,
            "its folder does not exist",
            "If it was removed or renamed meanwhile, repeat the command.",
        )
    return WriteError(path, error)


def remove(path: Path) -> None:
    """Remove a file or a link, if it is there.

    Raises:
        WriteError: it cannot be removed.
    """
    with writing(path):
        path.unlink(missing_ok=True)


def make_folder(path: Path) -> Path:
    """Make a folder and those above it, unless they are there, and return its path.

    Raises:
        WriteError: it cannot be made, or a file stands where it or one above it should be.
    """
    with writing(path):
        path.mkdir(parents=True, exist_ok=True)
    return path


def own_folder(path: Path) -> Path:
    """Make a folder inside a run folder, unless it is there, and refuse one that is a link.

    A run folder may come from a stranger: what is written to or removed from such a folder has to
    be in the run folder.

    Returns:
        The path.

    Raises:
        WriteError: it is a link or a file, or cannot be made.
    """
    with writing(path):
        if path.is_symlink():
            raise WriteError(path, "it is a symbolic link", "Replace the link with a folder.")
        path.mkdir(exist_ok=True)
    return path


def open_own(path: Path, mode: str) -> IO[Any]:
    """Open a file inside a run folder for writing, in place, and refuse one that is a link.

    Args:
        path: of the file.
        mode: as ``open`` takes it; text is UTF-8.

    Raises:
        WriteError: it is a link or a folder, or cannot be made or opened.
    """

    def opener(name: str, flags: int) -> int:
        return os.open(name, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)

    with writing(path):
        encoding = None if "b" in mode else "utf-8"
        return open(path, mode, encoding=encoding, opener=opener)


def check_writable(path: Path) -> None:
    """Refuse a place that cannot be written before hours of work end there.

    Args:
        path: of a file or folder that will be made; nothing of it need exist.

    Raises:
        WriteError: no file can be made there, or something is no folder that has to be one.
    """
    folder = path
    while not os.path.lexists(folder) and folder != folder.parent:
        folder = folder.parent
    if folder != path and not folder.is_dir():
        raise WriteError(path, OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR)))
    with writing(path):
        folder = folder if folder.is_dir() else folder.parent
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"x")
            file.flush()


def write_text(path: Path, text: str) -> None:
    """Writes a text file atomically."""
    write_atomic(path, lambda beside: beside.write_text(text, encoding="utf-8"))


def write_json(path: Path, values: Any) -> None:
    """Writes values as readable JSON, atomically."""
    write_text(path, json.dumps(values, indent=2, ensure_ascii=False) + "\n")


def write_arrays(path: Path, arrays: Mapping[str, Any]) -> None:
    """Writes named arrays as a compressed npz, atomically."""
    import numpy as np  # late: the command line starts without it

    def write(beside: Path) -> None:
        with beside.open("wb") as file:
            np.savez_compressed(file, **arrays)

    write_atomic(path, write)


def read_bytes(path: Path, what: str = "file", limit: int | None = MOST_BYTES) -> bytes:
    """Read a regular file of limited size.

    Args:
        path: of the file.
        what: kind of the file, for the message.
        limit: largest size in bytes; None for any size.

    Returns:
        Its bytes.

    Raises:
        FileError: the file is missing, not a regular file, unreadable or larger than ``limit``.

    Example:
        >>> read_bytes(Path("no/such/file"), "list")
        Traceback (most recent call last):
        deephash.errors.FileError: cannot read the list no/such/file: it does not exist
    """
    try:
        mode = os.stat(path).st_mode
        if stat.S_ISDIR(mode):
            raise FileError(path, "it is a folder", what)
        if not stat.S_ISREG(mode):
            raise FileError(path, "it is not a regular file", what)
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if limit is not None and size > limit:
                raise FileError(path, f"it has {size:,} bytes, more than {limit:,}", what)
            data = file.read(size + 1)
            while len(data) > size and (more := file.read(MEBI)):  # it grows, or knows no size
                data += more
                if limit is not None and len(data) > limit:
                    break
    except (FileNotFoundError, NotADirectoryError):
        raise FileError(path, "it does not exist", what) from None
    except (OSError, ValueError) as error:  # ValueError: a path with a NUL
        raise FileError(path, getattr(error, "strerror", None) or str(error), what) from error
    except MemoryError:
        raise FileError(path, "it does not fit into memory", what) from None
    if limit is not None and len(data) > limit:
        raise FileError(path, f"it has more than {limit:,} bytes", what)
    return data


def read_packed(path: Path, what: str = "file", limit: int = 4 << 30) -> bytes:
    """Read a file, and unpack it if its name ends in ``.xz``.

    Args:
        path: of the file.
        what: kind of the file, for the message.
        limit: largest size in bytes, packed and unpacked. What a file may unpack to is also
            limited relative to its size: ``XZ_SMALL + XZ_RATIO * size``, at every piece of it.

    Returns:
        The unpacked bytes.

    Raises:
        FileError: the file cannot be read or unpacked, or unpacks to more than it may.
    """
    path = Path(path)
    data = read_bytes(path, what, limit)
    if path.suffix != ".xz":
        return data
    try:
        return b"".join(_unpacked(path, data, what, limit))
    except lzma.LZMAError as error:
        raise FileError(path, f"it cannot be unpacked: {error}", what) from error
    except MemoryError:
        raise FileError(path, "what it unpacks to does not fit into memory", what) from None


def _unpacked(path: Path, data: bytes, what: str, limit: int) -> Iterator[bytes]:
    """The content of an xz file in parts; stops where they are too large for what was read."""
    view, at, size = memoryview(data), 0, 0
    unpacker = lzma.LZMADecompressor(lzma.FORMAT_XZ, XZ_MEMORY)
    while at < len(view):
        piece = view[at : at + XZ_PIECE]
        at += len(piece)
        most = min(limit, XZ_SMALL + XZ_RATIO * at)
        part = unpacker.decompress(piece, most - size + 1)
        size += len(part)
        if size > most:
            why = f"more than {limit:,} bytes"
            if most < limit:
                why = f"more than {XZ_RATIO:,} times its size, as no list or table does"
            advice = "Unpack it with unxz, and give the unpacked file if you trust it."
            raise FileError(path, f"it unpacks to {why}", what, advice)
        yield part
        if unpacker.eof:  # files of several streams may have zeros between them
            at -= len(unpacker.unused_data)
            while at < len(view) and not view[at]:
                at += 1
            if at < len(view):
                unpacker = lzma.LZMADecompressor(lzma.FORMAT_XZ, XZ_MEMORY)
    if not unpacker.eof:
        raise FileError(path, "it is cut off", what)


def decode(
    path: Path, data: bytes, what: str = "file", errors: str = "strict", advice: str = ""
) -> str:
    """Decode UTF-8 with or without a byte order mark.

    Args:
        path: of the file, for the message.
        data: its content.
        what: kind of the file, for the message.
        errors: ``replace`` to read bytes that are not UTF-8 as U+FFFD.
        advice: what to do if the bytes are not UTF-8; empty for saving it as UTF-8.

    Raises:
        FileError: the bytes are not UTF-8; the message says in which line.
    """
    try:
        return data.decode("utf-8-sig", errors)
    except UnicodeDecodeError as error:
        if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
            reason = "it is UTF-16, not UTF-8"
        else:
            line = data.count(b"\n", 0, error.start) + 1
            reason = f"line {line} is not UTF-8 (byte 0x{error.object[error.start]:02x})"
        raise FileError(path, reason, what, advice or "Save it as UTF-8.") from error


def read_text(
    path: Path,
    what: str = "file",
    limit: int | None = MOST_BYTES,
    errors: str = "strict",
    advice: str = "",
) -> str:
    """Read a text file in UTF-8, with or without a byte order mark; lines end in LF.

    Args:
        path: of the file.
        what: kind of the file, for the message.
        limit: largest size in bytes; None for any size.
        errors: ``replace`` to read bytes that are not UTF-8 as U+FFFD.
        advice: what to do if it is not UTF-8; empty for saving it as UTF-8.

    Returns:
        Its text.

    Raises:
        FileError: the file cannot be read or is not UTF-8.
    """
    text = decode(path, read_bytes(path, what, limit), what, errors, advice)
    return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text


def read_end(path: Path, size: int = 1 << 16) -> str:
    """Read the end of a text file, whatever its size; empty if it cannot be read.

    Args:
        path: of the file.
        size: how many bytes at most.
    """
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            return ""
        with open(path, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - size))
            return file.read(size).decode("utf-8", "replace")
    except OSError:
        return ""


def read_json(
    path: Path,
    what: str = "file",
    kind: type | tuple[type, ...] | None = dict,
    limit: int = MOST_BYTES,
    values: int | None = MOST_VALUES,
    advice: str = "",
    lenient: bool = False,
) -> Any:
    """Read a JSON file.

    Args:
        path: of the file.
        what: kind of the file, for the message.
        kind: type of the top level; None for any.
        limit: largest size in bytes.
        values: largest number of values; None for any number.
        advice: what to do if the content is bad.
        lenient: accept lone surrogates, as in names of files that are not UTF-8, and integers
            beyond 64 bits; for content that is checked value by value.

    Returns:
        The values.

    Raises:
        FileError: the file cannot be read, is not JSON, too large, nested more than ``DEEPEST``
            times, or of another kind at the top.
    """
    text = read_text(path, what, limit, advice=advice)
    return parse_json(path, text, what, kind, values, advice, lenient)


def parse_json(
    path: Path,
    text: str,
    what: str = "file",
    kind: type | tuple[type, ...] | None = dict,
    values: int | None = MOST_VALUES,
    advice: str = "",
    lenient: bool = False,
) -> Any:
    """Parse the text of a JSON file; see ``read_json``."""

    def refuse(reason: str) -> FileError:
        return FileError(path, reason, what, advice)

    opened = text.count("[") + text.count("{")
    if values is not None and opened + text.count(",") > values:
        raise refuse(f"it holds more than {values:,} values")
    if opened > DEEPEST and _depth(text) > DEEPEST:
        raise refuse(f"it is nested more than {DEEPEST} times")
    try:
        result = json.loads(
            text, parse_int=_integer if not lenient and _DIGITS.search(text) else None
        )
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        said = "it is empty" if not text.strip() else f"it is not JSON ({where}: {error.msg})"
        raise refuse(said) from None
    except (ValueError, RecursionError, MemoryError) as error:  # 5,000 digits, for example
        raise refuse(f"it is not JSON that can be read: {error}") from None
    if kind is not None and not isinstance(result, kind):
        kinds = " or ".join(_KINDS.get(one, one.__name__) for one in _all(kind))
        found = _KINDS.get(type(result), type(result).__name__)
        raise refuse(f"it holds {found}, not {kinds}")
    if not lenient and "\\u" in text and not _encodable(result):
        raise refuse("it holds text that is not Unicode (half a surrogate pair)")
    return result


_KINDS: Mapping[type, str] = {
    dict: "a mapping",
    list: "a list",
    str: "a text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    type(None): "nothing",
}

_STRING = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)


_DIGITS = re.compile(r"\d{19}")


def _integer(text: str) -> int:
    value = int(text)
    if value.bit_length() > 64:
        raise ValueError(f"the number {text[:12]}... is too large for 64 bits")
    return value


def _all(kind: type | tuple[type, ...]) -> tuple[type, ...]:
    return kind if isinstance(kind, tuple) else (kind,)


def _depth(text: str) -> int:
    """How deeply the brackets outside the strings of a JSON text are nested."""
    steps = {"[": 1, "{": 1, "]": -1, "}": -1}
    brackets = re.findall(r"[\[\]{}]", _STRING.sub("", text))
    return max(accumulate(steps[one] for one in brackets), default=0)


def _encodable(values: Any) -> bool:
    try:
        json.dumps(values, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def read_yaml(
    path: Path,
    what: str = "file",
    kind: type | tuple[type, ...] | None = dict,
    limit: int = YAML_BYTES,
    advice: str = "",
) -> Any:
    """Read a YAML file of plain values.

    Args:
        path: of the file.
        what: kind of the file, for the message.
        kind: type of the top level; None for any.
        limit: largest size in bytes.
        advice: what to do if the content is bad.

    Returns:
        The values.

    Raises:
        FileError: the file cannot be read, is not YAML, of another kind at the top, nested more
            than ``YAML_DEPTH`` times, holds a scalar longer than ``YAML_SCALAR`` characters, or
            more than ``YAML_NODES`` nodes, those behind aliases counted each time.
    """
    import yaml

    text = read_text(path, what, limit, advice=advice)
    loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        _check_yaml(yaml.parse(text, Loader=loader), yaml)
        result = yaml.load(text, Loader=loader)  # the safe one
    except yaml.MarkedYAMLError as error:
        mark, problem = error.problem_mark, error.problem or error.context
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise FileError(path, f"it is not YAML ({where}{problem})", what, advice) from None
    except _TooMuch as error:
        raise FileError(path, str(error), what, advice) from None
    except Exception as error:  # of a dozen constructors: dates, numbers, tags
        said = " ".join(str(error).split()) or type(error).__name__
        raise FileError(path, f"it is not YAML ({said})", what, advice) from None
    if other := _not_plain(result):
        raise FileError(path, f"it holds {other}. Put it in quotes to make it text", what, advice)
    if kind is not None and not isinstance(result, kind):
        kinds = " or ".join(_KINDS.get(one, one.__name__) for one in _all(kind))
        found = "nothing" if result is None else _KINDS.get(type(result), type(result).__name__)
        raise FileError(path, f"it holds {found}, not {kinds}", what, advice)
    return result


def _not_plain(values: Any) -> str:
    """What of nested values JSON does not know, such as a date; empty if there is nothing."""
    if isinstance(values, dict):
        for key, value in values.items():
            if other := _not_plain(key) or _not_plain(value):
                return other
    elif isinstance(values, list):
        for value in values:
            if other := _not_plain(value):
                return other
    elif isinstance(values, str):
        return "" if values.isascii() or _encodable(values) else "text that is not Unicode"
    elif isinstance(values, int) and values.bit_length() > 64:  # from 0x..., of any length
        return "a whole number of more than 64 bits"
    elif values is not None and not isinstance(values, int | float):
        return f"a {type(values).__name__}, {values}"
    return ""


class _TooMuch(Exception):
    """Why a YAML file is not loaded."""


def _check_yaml(events: Iterator[Any], yaml: Any) -> None:
    """Refuse what would take long to load, or cannot be held: looks at events only."""
    total, opened = 0, []  # nodes so far; of each open collection its anchor and where it began
    sizes: dict[str, int | None] = {}  # nodes of what an anchor names; None while it is open
    starts = (yaml.SequenceStartEvent, yaml.MappingStartEvent)
    for event in events:
        line = event.start_mark.line + 1
        if isinstance(event, yaml.AliasEvent):
            size = sizes.get(event.anchor, 1)
            if size is None:
                raise _TooMuch(f"line {line}: *{event.anchor} stands in what it names")
            total += size
        elif isinstance(event, yaml.ScalarEvent):
            total += 1
            if len(event.value) > YAML_SCALAR:
                raise _TooMuch(f"line {line}: a value has more than {YAML_SCALAR:,} characters")
            if event.anchor:
                sizes[event.anchor] = 1
        elif isinstance(event, starts):
            opened.append((event.anchor, total))
            total += 1
            if event.anchor:
                sizes[event.anchor] = None
            if len(opened) > YAML_DEPTH:
                raise _TooMuch(f"line {line}: it is nested more than {YAML_DEPTH} times")
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, start = opened.pop()
            if anchor:
                sizes[anchor] = total - start
        if total > YAML_NODES:
            raise _TooMuch(f"line {line}: with its aliases it holds more than {YAML_NODES:,} nodes")


def read_arrays(
    path: Path,
    what: str = "file of arrays",
    names: Collection[str] | None = None,
    optional: Collection[str] = (),
    advice: str = "",
) -> dict[str, Any]:
    """Read the arrays of an npz file; no pickles, checksums checked, sizes bounded.

    Args:
        path: of the file.
        what: kind of the file, for the message.
        names: arrays that must be there; others are not read. None to read all.
        optional: with ``names``, arrays that are read where they are there.
        advice: what to do if the content is bad.

    Returns:
        The arrays by name.

    Raises:
        FileError: the file cannot be read, is no npz file, damaged, lacks an array, holds Python
            objects or text that is not Unicode, or would unpack to more than ``SMALL_UNPACKED``
            plus ``MOST_RATIO`` times its size.
    """
    try:
        size = os.stat(path).st_size
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise FileError(path, "it is not a regular file", what)
        with open(path, "rb") as file:
            return _arrays(file, size, names, optional)
    except FileError:
        raise
    except (FileNotFoundError, NotADirectoryError):
        raise FileError(path, "it does not exist", what, advice) from None
    except MemoryError:
        raise FileError(path, "its arrays do not fit into memory", what, advice) from None
    except Exception as error:  # zipfile, zlib, struct and numpy raise a dozen kinds
        said = " ".join(str(error).split()) or type(error).__name__
        if isinstance(error, KeyError):
            said = f"it has no {error.args[0]}"
        raise FileError(path, said, what, advice) from error


def _arrays(
    file: Any, size: int, names: Collection[str] | None, optional: Collection[str]
) -> dict[str, Any]:
    from zipfile import ZipFile, is_zipfile

    if not is_zipfile(file):
        raise ValueError("it is cut off, or not an npz file")
    with ZipFile(file) as archive:
        members = {one.filename.removesuffix(".npy"): one for one in archive.infolist()
                   if one.filename.endswith(".npy")}  # fmt: skip
        if missing := sorted(set(names or ()) - set(members)):
            raise KeyError(f"array {', '.join(missing)}; it has {', '.join(members) or 'none'}")
        if names is not None:
            wanted = [*names, *optional]
            members = {name: members[name] for name in wanted if name in members}
        most = SMALL_UNPACKED + MOST_RATIO * size
        if sum(one.file_size for one in members.values()) > most:
            raise ValueError(f"its arrays unpack to more than {most:,} bytes")
        return {name: _array(archive, name, one) for name, one in members.items()}


def _array(archive: Any, name: str, member: Any) -> Any:
    """One array of an npz file, its header checked against the size of the member."""
    import numpy as np
    from numpy.lib import format as npy

    try:
        with archive.open(member) as opened:
            version = npy.read_magic(opened)
            if version not in ((1, 0), (2, 0)):
                raise ValueError("its header is of an unknown version")
            read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
            shape, _, dtype = read(opened)
            start = opened.tell()
        if dtype.hasobject:
            raise ValueError("it holds Python objects")
        count = 1
        for side in shape:
            if not 0 <= side < 1 << 48:
                raise ValueError(f"its shape is {shape}")
            count *= side
        if start + count * dtype.itemsize != member.file_size:
            raise ValueError(f"its shape {shape} does not fit its size")
        with archive.open(member) as opened:
            array = npy.read_array(opened, allow_pickle=False)
            opened.read(1)  # the end, where the checksum is compared
        if dtype.kind == "U" and array.size:
            points = np.ascontiguousarray(array).reshape(-1).view(np.uint32)
            points = points.byteswap() if not dtype.isnative else points
            if points.max() > 0x10FFFF or ((points >= 0xD800) & (points < 0xE000)).any():
                raise ValueError("its text is not Unicode")
    except MemoryError:
        raise
    except Exception as error:
        said = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"its array {name} is damaged: {said}") from error
    return array


class finite:
    """Stands in ``expect`` for a number that is neither infinite nor nan."""


def map_array(path: Path, what: str = "array", mode: str = "c", advice: str = "") -> Any:
    """Map a single array, a file ``.npy``, into memory.

    Args:
        path: of the file.
        what: kind of the file, for the message.
        mode: ``c`` to keep what is written to the array out of the file, ``r+`` to write to it.
        advice: what to do if the file is bad.

    Returns:
        The array.

    Raises:
        FileError: the file cannot be read, is no array, damaged, or holds Python objects.
    """
    import numpy as np

    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise FileError(path, "it is not a regular file", what)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of headers that Python 2 wrote
            kind: Any = mode
            return np.lib.format.open_memmap(path, kind)
    except FileError:
        raise
    except (FileNotFoundError, NotADirectoryError):
        raise FileError(path, "it does not exist", what, advice) from None
    except Exception as error:  # numpy and Python's parser raise half a dozen kinds
        said = " ".join(str(error).split())[:200] or type(error).__name__
        raise FileError(path, f"it is damaged, or no array: {said}", what, advice) from error


Kind = type | None | list[Any] | tuple[Any, ...]
"""A type, None for null, ``[kind, ...]`` for a list of such values, a tuple for one of several."""


def expect(
    values: Any, kinds: Mapping[str, Kind], path: Path, what: str = "file", advice: str = ""
) -> None:
    """Check that nested mappings hold values of the expected kinds.

    Args:
        values: read from a file.
        kinds: for each key, with dots for nested ones, the type of its value; ``None`` stands for
            null, ``[type]`` for a list of such values, a tuple for one of several, ``object`` for
            any. ``float`` accepts whole numbers, ``finite`` neither nan nor infinity, and no number
            is a boolean or too large for 64 bits. ``*`` stands for all keys of a mapping. A key
            that ends in ``?`` may be missing or null, and so may the mappings that it is in.
        path: of the file.
        what: kind of the file, for the message.
        advice: what to do about it.

    Raises:
        FileError: a key is missing, or its value is of another kind.

    Example:
        >>> expect({"metrics": {"map": "high"}}, {"metrics.map": float}, Path("report.json"))
        Traceback (most recent call last):
        deephash.errors.FileError: cannot read the file report.json: metrics.map is a text, ...
    """
    for dotted, kind in kinds.items():
        names = dotted.removesuffix("?").split(".")
        reason = _unexpected(values, names, kind, dotted.endswith("?"), "")
        if reason:
            raise FileError(path, reason, what, advice)


def _unexpected(value: Any, names: list[str], kind: Kind, optional: bool, where: str) -> str:
    """What is wrong with the value at a path of keys; empty if nothing is."""
    if value is None and optional:
        return ""
    if not names:
        if _is(value, kind):
            return ""
        return f"{where} is {_name_of(value)}, not {_spelled(kind)}"
    if not isinstance(value, Mapping):
        return f"{where or 'its content'} is {_name_of(value)}, not a mapping"
    name, *rest = names
    keys = list(value) if name == "*" else [name]
    for key in keys:
        here = f"{where}.{key}" if where else str(key)
        if key not in value:
            return "" if optional else f"it has no {here}"
        if reason := _unexpected(value[key], rest, kind, optional, here):
            return reason
    return ""


def _is(value: Any, kind: Kind) -> bool:
    if isinstance(kind, tuple):
        return any(_is(value, one) for one in kind)
    if isinstance(kind, list):
        return isinstance(value, list) and all(_is(one, tuple(kind)) for one in value)
    if kind is None:
        return value is None
    if kind in (int, float, finite):
        if isinstance(value, bool) or not isinstance(value, int if kind is int else (int, float)):
            return False
        if isinstance(value, int):
            return -(1 << 63) <= value < 1 << 64
        return kind is float or math.isfinite(value)
    return isinstance(value, kind)


def _name_of(value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() > 64:
        return "a number too large for 64 bits"
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return _KINDS.get(type(value), type(value).__name__)


def _spelled(kind: Kind) -> str:
    if isinstance(kind, tuple):
        return " or ".join(dict.fromkeys(map(_spelled, kind)))
    if isinstance(kind, list):
        return f"a list whose values are {_spelled(tuple(kind))}"
    if kind is None:
        return "null"
    return "a number" if kind is finite else _KINDS.get(kind, kind.__name__)
