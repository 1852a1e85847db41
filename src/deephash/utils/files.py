"""Write files atomically; read files that may be damaged or hostile.

Every reader accepts regular files only, limits the bytes it reads, and raises ``FileError`` for
any content that is not as expected, so that a bad file never costs much memory or time.

Common arguments of the readers: ``path``, ``what`` kind of file it is and ``advice`` how to fix it
(both for the message), and ``limit``, its largest size in bytes.
"""

import contextlib
import errno
import glob
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
"""A compressed file may unpack to ``SMALL_UNPACKED`` plus ``MOST_RATIO`` times its size on disk.
One-hot labels of sorted images are packed by a few hundred; bombs by 1,000 (deflate) or 7,000 (xz).
"""

XZ_SMALL, XZ_RATIO, XZ_PIECE, XZ_MEMORY = 16 * MEBI, 1_000, 1 << 12, 1 << 28
"""Likewise for xz files, after every piece of ``XZ_PIECE`` bytes: a list of sorted one-hot labels
with running names is packed by 950. And the memory their decoder may take (``xz -9``: a quarter).
"""

DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
"""Errors of a disk, a quota or a limit on file sizes that is reached."""

DISK = DISK_FULL | {errno.EIO, errno.EROFS, errno.ESTALE}
"""Errors of a disk: a library error that was caused by one of them is a ``WriteError``."""

SWEEPS, MANIFEST = "sweeps", "sweep.json"
"""The folder of sweeps in the outputs, and the file in it that lists the runs of a sweep."""

STUDY = "study.db"
"""The trials of a search over values in the folder of its sweep, an SQLite database."""

Kind = type | None | list[Any] | tuple[Any, ...]
"""A type, None for null, ``[kind, ...]`` for a list of such values, a tuple for alternatives."""


class finite:
    """A ``Kind``: a number that is neither infinite nor NaN."""


_KINDS: Mapping[Any, str] = {
    dict: "a mapping",
    list: "a list",
    str: "a text",
    int: "a whole number",
    float: "a number",
    finite: "a number",
    bool: "true or false",
    type(None): "nothing",
    None: "null",
}


def expand_path(text: str | Path) -> Path:
    """Return a configured path with ``~`` and ``~user`` replaced by home folders.

    A ``~name`` of an unknown user stays as it is.

    >>> expand_path("data/a b").as_posix()
    'data/a b'
    """
    try:
        return Path(text).expanduser()
    except RuntimeError:  # no such user
        return Path(text)


def write_atomic(path: Path, write: Callable[[Path], Any]) -> None:
    """Call ``write(temporary_path)`` and rename the result to ``path``.

    A process that is killed leaves the old file or the new one, and at most a temporary
    ``.NAME.PID.tmp`` beside it, for ``remove_temporaries``. A link at ``path`` is
    replaced; its target is not written.

    Raises:
        WriteError: the file cannot be written; an existing file is unchanged.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with writing(path):
            temporary.unlink(missing_ok=True)  # a link would be written through
            write(temporary)
            with temporary.open("r+b") as file:  # Windows syncs only files open for writing
                os.fsync(file.fileno())
            temporary.replace(path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def remove_temporaries(path: Path) -> None:
    """Remove what killed processes have left of ``write_atomic``, but not of running ones."""
    for temporary in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        process = temporary.name.rpartition(".")[0].rpartition(".")[2]
        if process.isdecimal() and not _is_running(int(process)):
            with contextlib.suppress(OSError):
                temporary.unlink()


def _is_running(process: int) -> bool:
    if os.name == "nt":  # open files are not removed there
        return False
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # of another user
        pass
    return True


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Convert system errors during a write into ``WriteError``.

    Errors of libraries (torch, numpy) that were caused by a disk error are converted as well.

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
    except Exception as error:  # such as torch's "unexpected pos 1344 vs 1238"
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
        advice = "If it was removed or renamed meanwhile, repeat the command."
        return WriteError(path, "its folder does not exist", advice)
    return WriteError(path, error)


def remove(path: Path) -> None:
    """Remove a file or a link if it exists; raise ``WriteError`` if that fails."""
    with writing(path):
        path.unlink(missing_ok=True)


def make_folder(path: Path) -> Path:
    """Make a folder and its parents if they do not exist, and return its path."""
    with writing(path):
        path.mkdir(parents=True, exist_ok=True)
    return path


def make_subfolder(path: Path) -> Path:
    """Make a folder inside a run folder if it does not exist, and return its path.

    A run folder may come from an untrusted source: links are refused, so that nothing is written
    or removed outside of it.

    Raises:
        WriteError: it is a link or a file, or cannot be made.
    """
    with writing(path):
        if path.is_symlink():
            raise WriteError(path, "it is a symbolic link", "Replace the link with a folder.")
        path.mkdir(exist_ok=True)
    return path


def open_no_follow(path: Path, mode: str) -> IO[Any]:
    """Open a file inside a run folder for writing in place, in UTF-8, and refuse links.

    Raises:
        WriteError: it is a link or a folder, or cannot be opened.
    """

    def opener(name: str, flags: int) -> int:
        return os.open(name, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)

    with writing(path):
        encoding = None if "b" in mode else "utf-8"
        return open(path, mode, encoding=encoding, opener=opener)


def reserve(file: int, size: int) -> None:
    """Reserve disk space where the system can, so that a full disk is an error and no fatal signal.

    Args:
        file: descriptor of a file that is open for writing; it becomes at least this large.
        size: in bytes.

    Raises:
        OSError: its number is in ``DISK_FULL``.
    """
    try:
        os.posix_fallocate(file, 0, size)
    except (AttributeError, OSError) as error:  # not on macOS, and not on every filesystem
        if getattr(error, "errno", None) in DISK_FULL:
            raise


def check_writable(path: Path) -> None:
    """Check that a file or folder can be created, before hours of work; parents need not exist.

    Raises:
        WriteError: no file can be made there, or a parent is not a folder.
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
    """Write a text file atomically."""
    write_atomic(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def write_json(path: Path, values: Any) -> None:
    """Write values as indented JSON, atomically."""
    write_text(path, json.dumps(values, indent=2, ensure_ascii=False) + "\n")


def write_arrays(path: Path, arrays: Mapping[str, Any]) -> None:
    """Write named arrays as a compressed npz, atomically."""
    import numpy as np  # late: the command line starts without it

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            np.savez_compressed(file, **arrays)

    write_atomic(path, write)


@contextlib.contextmanager
def _reading(path: Path, what: str, advice: str = "", prefix: str = "") -> Iterator[None]:
    """Check that a path is a regular file, and convert every error of its reader to FileError.

    An unforeseen error has the ``prefix`` before its reason.
    """
    try:
        mode = os.stat(path).st_mode
        if not stat.S_ISREG(mode):
            kind = "a folder" if stat.S_ISDIR(mode) else "not a regular file"
            raise FileError(path, f"it is {kind}", what)
        yield
    except FileError:
        raise
    except (FileNotFoundError, NotADirectoryError):
        raise FileError(path, "it does not exist", what, advice) from None
    except MemoryError:
        raise FileError(path, "it does not fit into memory", what, advice) from None
    except OSError as error:
        raise FileError(path, error.strerror or str(error), what, advice) from error
    except Exception as error:  # zipfile, zlib, lzma, struct and numpy raise a dozen kinds
        raise FileError(path, prefix + _one_line(error), what, advice) from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:400] or type(error).__name__


def read_bytes(path: Path, what: str = "file", limit: int | None = MOST_BYTES) -> bytes:
    """Read a regular file of limited size; ``limit=None`` for any size.

    Raises:
        FileError: the file is missing, not a regular file, unreadable or larger than ``limit``.

    Example:
        >>> read_bytes(Path("no/such/file"), "list")
        Traceback (most recent call last):
        deephash.errors.FileError: cannot read the list no/such/file: it does not exist
    """
    with _reading(path, what), path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if limit is not None and size > limit:
            raise FileError(path, f"it has {size:,} bytes, more than {limit:,}", what)
        data = file.read(size + 1)
        while len(data) > size and (more := file.read(MEBI)):  # it grows, or has no size
            data += more
            if limit is not None and len(data) > limit:
                break
    if limit is not None and len(data) > limit:
        raise FileError(path, f"it has more than {limit:,} bytes", what)
    return data


def read_packed(path: Path, what: str = "file", limit: int = 4 << 30) -> bytes:
    """Read a file, and unpack it if its name ends in ``.xz``.

    The limit applies to the packed and the unpacked size; the latter is also limited to
    ``XZ_SMALL + XZ_RATIO * size``, at every piece of the file.

    Raises:
        FileError: the file cannot be read or unpacked, or unpacks to more than the limit.
    """
    path = Path(path)
    data = read_bytes(path, what, limit)
    if path.suffix != ".xz":
        return data
    with _reading(path, what, prefix="it cannot be unpacked: "):
        return b"".join(_unpacked(path, data, what, limit))


def _unpacked(path: Path, data: bytes, what: str, limit: int) -> Iterator[bytes]:
    """Yield the content of an xz file in parts; stop at an implausible compression ratio."""
    view, at, size = memoryview(data), 0, 0
    unpacker = lzma.LZMADecompressor(lzma.FORMAT_XZ, XZ_MEMORY)
    while at < len(view):
        piece = view[at : at + XZ_PIECE]
        at += len(piece)
        most = min(limit, XZ_SMALL + XZ_RATIO * at)
        part = unpacker.decompress(piece, most - size + 1)
        size += len(part)
        if size > most:
            excess = f"more than {limit:,} bytes"
            if most < limit:
                excess = f"more than {XZ_RATIO:,} times its size, as no list or table does"
            advice = "Unpack it with unxz, and give the unpacked file if you trust it."
            raise FileError(path, f"it unpacks to {excess}", what, advice)
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
    """Decode UTF-8 with or without a byte order mark; see ``read_text``."""
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
    """Read a UTF-8 text file, with or without a byte order mark; lines end in LF.

    With ``errors="replace"``, bytes that are not UTF-8 become U+FFFD.

    Raises:
        FileError: the file cannot be read or is not UTF-8; the message gives the line.
    """
    text = decode(path, read_bytes(path, what, limit), what, errors, advice)
    return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text


def read_end(path: Path, size: int = 1 << 16) -> str:
    """Return the last ``size`` bytes of a text file of any size; empty if it cannot be read."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            return ""
        with path.open("rb") as file:
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

    ``kind`` is the type of the top level and ``values`` the largest number of values; None for any.
    ``lenient`` accepts lone surrogates, as in file names that are not UTF-8, and integers beyond 64
    bits, for content that is checked value by value.

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
    opened = text.count("[") + text.count("{")
    parse_int = _integer if not lenient and _DIGITS.search(text) else None
    try:
        if values is not None and opened + text.count(",") > values:
            raise _Refused(f"it holds more than {values:,} values")
        if opened > DEEPEST and _depth(text) > DEEPEST:
            raise _Refused(f"it is nested more than {DEEPEST} times")
        result = json.loads(text, parse_int=parse_int)
        _check_top(result, kind)
        if not lenient and "\\u" in text and not _encodable(result):
            raise _Refused("it holds text that is not Unicode (half a surrogate pair)")
    except _Refused as error:
        raise FileError(path, str(error), what, advice) from None
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        reason = f"it is not JSON ({where}: {error.msg})" if text.strip() else "it is empty"
        raise FileError(path, reason, what, advice) from None
    except (ValueError, RecursionError, MemoryError) as error:  # 5,000 digits, for example
        reason = f"it is not JSON that can be read: {error}"
        raise FileError(path, reason, what, advice) from None
    return result


class _Refused(Exception):
    """The reason why the content of a file is not accepted."""


def _check_top(value: Any, kind: type | tuple[type, ...] | None) -> None:
    if kind is not None and not isinstance(value, kind):
        raise _Refused(f"it holds {_name_of(value)}, not {_spelled(kind)}")


_STRING = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_DIGITS = re.compile(r"\d{19}")


def _integer(text: str) -> int:
    value = int(text)
    if value.bit_length() > 64:
        raise ValueError(f"the number {text[:12]}... is too large for 64 bits")
    return value


def _depth(text: str) -> int:
    """Return how deeply the brackets outside the strings of a JSON text are nested."""
    steps = {"[": 1, "{": 1, "]": -1, "}": -1}
    brackets = re.findall(r"[\[\]{}]", _STRING.sub("", text))
    return max(accumulate(steps[bracket] for bracket in brackets), default=0)


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
    advice: str = "",
) -> Any:
    """Read a YAML file of plain values, with the type ``kind`` at the top; None for any.

    Raises:
        FileError: the file cannot be read, is not YAML, of another kind at the top, nested more
            than ``YAML_DEPTH`` times, holds a scalar longer than ``YAML_SCALAR`` characters, or
            more than ``YAML_NODES`` nodes, those behind aliases counted each time.
    """
    import yaml

    text = read_text(path, what, YAML_BYTES, advice=advice)
    loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        _check_yaml(yaml.parse(text, Loader=loader), yaml)
        result = yaml.load(text, Loader=loader)  # a safe loader
        if other := _not_plain(result):
            raise _Refused(f"it holds {other}. Put it in quotes to make it text")
        _check_top(result, kind)
    except _Refused as error:
        raise FileError(path, str(error), what, advice) from None
    except yaml.MarkedYAMLError as error:
        mark, problem = error.problem_mark, error.problem or error.context
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise FileError(path, f"it is not YAML ({where}{problem})", what, advice) from None
    except Exception as error:  # constructors of dates, numbers and tags raise a dozen kinds
        raise FileError(path, f"it is not YAML ({_one_line(error)})", what, advice) from None
    return result


def _not_plain(values: Any) -> str:
    """Describe a nested value that JSON does not have, such as a date; empty if there is none."""
    if isinstance(values, dict):
        values = [*values, *values.values()]
    if isinstance(values, list):
        return next((other for value in values if (other := _not_plain(value))), "")
    if isinstance(values, str):
        return "" if values.isascii() or _encodable(values) else "text that is not Unicode"
    if isinstance(values, int) and values.bit_length() > 64:  # from 0x..., of any length
        return "a whole number of more than 64 bits"
    if values is not None and not isinstance(values, int | float):
        return f"a {type(values).__name__}, {values}"
    return ""


def _check_yaml(events: Iterator[Any], yaml: Any) -> None:
    """Refuse documents that would be slow or too large to load, from their events alone."""
    total, opened = 0, []  # nodes so far; anchor and start of each open collection
    sizes: dict[str, int | None] = {}  # nodes below each anchor; None while it is open
    starts = (yaml.SequenceStartEvent, yaml.MappingStartEvent)
    for event in events:
        line = event.start_mark.line + 1
        if isinstance(event, yaml.AliasEvent):
            size = sizes.get(event.anchor, 1)
            if size is None:
                raise _Refused(f"line {line}: *{event.anchor} refers to a node that contains it")
            total += size
        elif isinstance(event, yaml.ScalarEvent):
            total += 1
            if len(event.value) > YAML_SCALAR:
                raise _Refused(f"line {line}: a value has more than {YAML_SCALAR:,} characters")
            if event.anchor:
                sizes[event.anchor] = 1
        elif isinstance(event, starts):
            opened.append((event.anchor, total))
            total += 1
            if event.anchor:
                sizes[event.anchor] = None
            if len(opened) > YAML_DEPTH:
                raise _Refused(f"line {line}: it is nested more than {YAML_DEPTH} times")
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, start = opened.pop()
            if anchor:
                sizes[anchor] = total - start
        if total > YAML_NODES:
            raise _Refused(f"line {line}: with its aliases it holds more than {YAML_NODES:,} nodes")


def read_arrays(
    path: Path,
    what: str = "file of arrays",
    names: Collection[str] | None = None,
    optional: Collection[str] = (),
    advice: str = "",
) -> dict[str, Any]:
    """Read the arrays of an npz file by name, without pickles.

    ``names`` are required, ``optional`` ones are read if they exist, and others are not read;
    ``names=None`` reads all. Checksums are verified, and sizes limited.

    Raises:
        FileError: the file cannot be read, is no npz file, damaged, lacks an array, holds Python
            objects or text that is not Unicode, or would unpack to more than ``SMALL_UNPACKED``
            plus ``MOST_RATIO`` times its size.
    """
    from zipfile import ZipFile, is_zipfile

    with _reading(path, what, advice), path.open("rb") as file:
        if not is_zipfile(file):
            raise ValueError("it is cut off, or not an npz file")
        with ZipFile(file) as archive:
            members = {
                member.filename.removesuffix(".npy"): member
                for member in archive.infolist()
                if member.filename.endswith(".npy")
            }
            if missing := sorted(set(names or ()) - set(members)):
                present = ", ".join(members) or "none"
                raise ValueError(f"it has no array {', '.join(missing)}; it has {present}")
            if names is not None:
                wanted = [*names, *optional]
                members = {name: members[name] for name in wanted if name in members}
            most = SMALL_UNPACKED + MOST_RATIO * os.fstat(file.fileno()).st_size
            if sum(member.file_size for member in members.values()) > most:
                raise ValueError(f"its arrays unpack to more than {most:,} bytes")
            return {name: _array(archive, name, member) for name, member in members.items()}


def _array(archive: Any, name: str, member: Any) -> Any:
    """Read an array of an npz file after comparing its header with the size of the member."""
    import numpy as np
    from numpy.lib import format as npy

    try:
        with archive.open(member) as file:
            version = npy.read_magic(file)
            if version not in ((1, 0), (2, 0)):
                raise ValueError("its header is of an unknown version")
            read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
            shape, _, dtype = read(file)
            start = file.tell()
        if dtype.hasobject:
            raise ValueError("it holds Python objects")
        if not all(0 <= side < 1 << 48 for side in shape):
            raise ValueError(f"its shape is {shape}")
        if start + math.prod(shape) * dtype.itemsize != member.file_size:
            raise ValueError(f"its shape {shape} does not fit its size")
        with archive.open(member) as file:
            array = npy.read_array(file, allow_pickle=False)
            file.read(1)  # reading to the end verifies the checksum
        if dtype.kind == "U" and array.size:
            points = np.ascontiguousarray(array).reshape(-1).view(np.uint32)
            points = points.byteswap() if not dtype.isnative else points
            if points.max() > 0x10FFFF or ((points >= 0xD800) & (points < 0xE000)).any():
                raise ValueError("its text is not Unicode")
    except MemoryError:
        raise
    except Exception as error:
        raise ValueError(f"its array {name} is damaged: {_one_line(error)}") from error
    return array


def map_array(path: Path, what: str = "array", mode: str = "c") -> Any:
    """Memory-map the array of an ``.npy`` file.

    Changes of the array stay in memory with mode ``c``, and are written to the file with ``r+``.

    Raises:
        FileError: the file cannot be read, is no array, damaged, or holds Python objects.
    """
    import numpy as np

    with (
        _reading(path, what, prefix="it is damaged, or no array: "),
        warnings.catch_warnings(action="ignore"),  # about headers that Python 2 wrote
    ):
        kind: Any = mode
        return np.lib.format.open_memmap(path, kind)


def expect(
    values: Any, kinds: Mapping[str, Kind], path: Path, what: str = "file", advice: str = ""
) -> None:
    """Check that nested mappings hold values of the expected kinds.

    Args:
        values: read from a file.
        kinds: for each key, with dots for nested ones, the type of its value; ``None`` stands for
            null, ``[type]`` for a list of such values, a tuple for alternatives, ``object`` for
            any. ``float`` accepts whole numbers, ``finite`` neither NaN nor infinity, and no number
            is a boolean or too large for 64 bits. ``*`` stands for all keys of a mapping. A key
            that ends in ``?`` may be missing or null, and so may the mappings that contain it.
        path: the file; see the module for this and the other arguments.
        what: kind of the file.
        advice: how to fix it.

    Raises:
        FileError: a key is missing, or its value is of another kind.

    Example:
        >>> expect({"metrics": {"map": "high"}}, {"metrics.map": float}, Path("report.json"))
        Traceback (most recent call last):
        deephash.errors.FileError: cannot read the file report.json: metrics.map is a text, ...
    """
    for dotted, kind in kinds.items():
        names = dotted.removesuffix("?").split(".")
        if reason := _unexpected(values, names, kind, dotted.endswith("?"), ""):
            raise FileError(path, reason, what, advice)


def _unexpected(value: Any, names: list[str], kind: Kind, optional: bool, where: str) -> str:
    """Return what is wrong with the value at a path of keys; empty if nothing is."""
    if value is None and optional:
        return ""
    if not names:
        if _is(value, kind):
            return ""
        return f"{where} is {_name_of(value)}, not {_spelled(kind)}"
    if not isinstance(value, Mapping):
        return f"{where or 'its content'} is {_name_of(value)}, not a mapping"
    name, *rest = names
    for key in list(value) if name == "*" else [name]:
        here = f"{where}.{key}" if where else str(key)
        if key not in value:
            return "" if optional else f"it has no {here}"
        if reason := _unexpected(value[key], rest, kind, optional, here):
            return reason
    return ""


def _is(value: Any, kind: Kind) -> bool:
    if isinstance(kind, tuple):
        return any(_is(value, alternative) for alternative in kind)
    if isinstance(kind, list):
        return isinstance(value, list) and all(_is(item, tuple(kind)) for item in value)
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
    return _KINDS.get(kind, str(getattr(kind, "__name__", kind)))
