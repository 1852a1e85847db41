"""One list in the format of HashNet, a path and its labels a line: its dialects and its faults."""

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.sparse import csr_array

from deephash.data.catalogue import BLANKS, is_below_root, no_labels, one_hot
from deephash.data.image_formats import IMAGES
from deephash.data.sources.text_files import text_of_bytes
from deephash.errors import DataError
from deephash.utils.files import read_packed

HIGHEST = 2**31 - 1  # class index
LARGEST = 4 << 30  # bytes that a packed file may unpack to

_PIECE = re.compile(f"[^{BLANKS}]+")
_ENDINGS = "|".join(re.escape(ending) for ending in sorted(IMAGES, reverse=True))
_IMAGE = re.compile(f"(?i)(?:{_ENDINGS})(?=[{BLANKS}]|$)")


class Rows(NamedTuple):
    """What one list says, n images; their labels have a column for each class."""

    ids: list[str]
    places: list[str]  # n paths, cut and without a leading ./
    labels: csr_array  # (n, C) bool; (n, 0) of a list of paths alone
    indexed: bool  # written as class indices; C is one more than the largest, if nobody told it
    lines: list[int]  # n line numbers, from 1

    @property
    def bare(self) -> bool:
        """Whether the list holds paths alone, no labels."""
        return bool(self.ids) and self.labels.shape[1] == 0


class Naming:
    """Which image a path stands for, and where its file should lie.

    Args:
        strip_prefix: a regular expression; what it matches at the beginning of a path is cut off.
        identity: a regular expression, searched in the path as it is written; its first group is
            the id. None: the id is the path, cut.

    Raises:
        DataError: an expression is none, or `identity` has no group.
    """

    def __init__(self, strip_prefix: str | None = None, identity: str | None = None):
        self.prefix = _expression("strip_prefix", strip_prefix or "")
        self.identity = None if identity is None else _expression("identity", identity)
        if self.identity is not None and not self.identity.groups:
            raise DataError(
                f"dataset.source.identity={identity} has no group: put brackets around what is the "
                "id of an image, as in ([^/]+)$ for the file name"
            )

    def place(self, path: str) -> str:
        """The path below the root: less the prefix, and less a leading `./`."""
        if match := self.prefix.match(path):
            path = path[match.end() :]
        return path.removeprefix("./")

    def id_of(self, path: str) -> str | None:
        """The id that `identity` finds in a path; None where it finds none."""
        assert self.identity is not None
        found = self.identity.search(path)
        return (found[1] or None) if found else None

    def __call__(self, path: str) -> tuple[str, str]:
        """Id and place of the image at a path.

        Raises:
            ValueError: the path gives no id; the message says why, and what to do.
        """
        if "\\" in path and (WINDOWS.match(path) or "/" not in path):
            path = path.replace("\\", "/")  # somebody's Windows
        place = self.place(path)
        if self.identity is not None:
            if name := self.id_of(path):
                return name, place
            raise ValueError(
                f"the path {path!r} has no id: dataset.source.identity={self.identity.pattern} does"
                " not match it"
            )
        if not is_below_root(place) or DRIVE.match(place):
            folders = place.rpartition("/")[0].rpartition("/")[0]
            example = f", such as {folders}/," if folders else ""
            raise ValueError(
                f"the path {place!r} does not lead down from dataset.root. Cut its beginning off"
                f"{example} with dataset.source.strip_prefix=REGEX; or know images by file names"
                """ if no two are the same: 'dataset.source.identity="([^/]+)$"'"""
            )
        return place, place


WINDOWS = re.compile(r"[A-Za-z]:\\")
DRIVE = re.compile(r"[A-Za-z]:/")


def _expression(key: str, pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise DataError(
            f"dataset.source.{key}={pattern} is no regular expression: {error}"
        ) from error


def read_list(file: Path, count: int | None, naming: Naming) -> Rows:
    """One list; see `parse`.

    Raises:
        DataError: the file cannot be read, is empty, or names an image twice; or a line is
            malformed.
    """

    def refuse(line: int, what: str) -> None:
        raise DataError(f"{file}, line {line}: {what}")

    rows = parse(text_of(file), count, naming, refuse)
    if not rows.ids:
        raise DataError(f"the list {file} is empty")
    if twice := repeated(rows.ids):
        first, again = twice[0]
        name, other = rows.places[again], rows.places[first]
        what = f"{name} is in line {rows.lines[first]} already"
        if name != other:
            what = f"{name} has the id {rows.ids[again]}, as {other} of line {rows.lines[first]}"
        refuse(rows.lines[again], what)
    return rows


def parse(text: str, count: int | None, naming: Naming, fault: Callable[[int, str], None]) -> Rows:
    """The lines of a list: a path and its labels each, set apart by blanks.

    Several labels a line are 0 or 1, one column a class; a single one is a class index. The first
    line with labels says which, and all others must be like it. Lines may end in LF, CR LF or CR.
    A path may hold blanks if it stands before a tab, or if it ends as images do and nothing but
    labels follows.

    A list of paths alone has no labels: if all of its lines end as image files do, or if `count` is
    0. A list in which some lines have labels is one with labels, and those without are malformed.

    Args:
        text: of the list.
        count: number of classes; None to take it from the lines; 0 for a list without labels.
        naming: what a path means.
        fault: is called for each malformed line with its number, counted from 1, and what is wrong
            with it; the line is left out then.
    """
    if "\n" not in text:
        text = text.replace("\r", "\n")  # as old programs of the Macintosh end lines
    if count == 0 or (count is None and _all_bare(text)):
        return _parse_bare(text, naming, fault)
    regular = not any(blank in text for blank in BLANKS[1:])
    width, between = 0, ""
    ids, places, labels, numbers = [], [], [], []
    for number, line in enumerate(_lines(text), 1):
        path, _, rest = line.partition(" ")
        signs = rest[::2]
        usual = regular and width > 1 and path and len(rest) == 2 * width - 1
        if not usual or rest[1::2] != between or signs.strip("01"):
            pieces = _PIECE.findall(line)
            path, *given = pieces or [""]
            wanted = width or (1 if len(given) == 1 else count or len(given))
            if not _fit(given, wanted, count):
                parted = _with_blanks(line)
                if parted is not None:
                    path, given = parted
                    wanted = width or (1 if len(given) == 1 else count or len(given))
                if parted is None or not _fit(given, wanted, count):
                    fault(number, _misfit(pieces, wanted, count) + _hint(line, number))
                    continue
            signs, width, between = "".join(given), wanted, " " * (wanted - 1)
        try:
            name, place = naming(path)
        except ValueError as error:
            fault(number, str(error))
            continue
        ids.append(name)
        places.append(place)
        labels.append(signs)
        numbers.append(number)
    if not labels:
        matrix = csr_array((0, count or width), dtype=bool)
    elif width == 1:
        indices = np.array(labels).astype(np.int64)
        matrix = one_hot(indices, count or int(indices.max()) + 1)
    else:
        marks = np.frombuffer("".join(labels).encode(), np.uint8)
        matrix = csr_array(marks.reshape(len(labels), width) == ord("1"))
    return Rows(ids, places, matrix, width == 1, numbers)


def _parse_bare(text: str, naming: Naming, fault: Callable[[int, str], None]) -> Rows:
    """The lines of a list of paths alone; see `parse`."""
    ids, places, numbers = [], [], []
    for number, line in enumerate(_lines(text), 1):
        path = _bare_path(line)
        if path is None:
            what = "it is blank" if not line.strip(BLANKS) else f"{line.strip(BLANKS)!r}"
            fault(
                number,
                f"{what}; expected a path and no labels, since dataset.source.class_names says that"
                " there are no classes",
            )
            continue
        try:
            name, place = naming(path)
        except ValueError as error:
            fault(number, str(error))
            continue
        ids.append(name)
        places.append(place)
        numbers.append(number)
    return Rows(ids, places, no_labels(len(ids)), False, numbers)


def _all_bare(text: str) -> bool:
    """Whether every line that is not blank is the path of an image file, without labels."""
    seen = False
    for line in _lines(text):
        if not line.strip(BLANKS):
            continue
        if _bare_path(line, certain=True) is None:
            return False
        seen = True
    return seen


def _bare_path(line: str, certain: bool = False) -> str | None:
    """The path that a line without labels consists of; None where it has something else.

    Args:
        line: of a list.
        certain: accept only paths that end as image files do.
    """
    line = line.strip(BLANKS)
    ends = [found.end() for found in _IMAGE.finditer(line)]
    if ends == [len(line)] and "\t" not in line:
        return line
    return line if line and not certain and len(_PIECE.findall(line)) == 1 else None


def repeated(names: Sequence[str]) -> list[tuple[int, int]]:
    """Where names stand that stood before: the first place of each, and this one."""
    if len(set(names)) == len(names):
        return []
    seen: dict[str, int] = {}
    firsts = [seen.setdefault(name, at) for at, name in enumerate(names)]
    return [(first, at) for at, first in enumerate(firsts) if first != at]


def _lines(text: str) -> Iterator[str]:
    """The lines of a text one by one, without the ends: a list of them takes a multiple of it."""
    start = 0
    while (end := text.find("\n", start)) >= 0:
        yield text[start:end]
        start = end + 1
    if start < len(text):
        yield text[start:]


def text_of(file: Path) -> str:
    """The text of a list, which may be packed.

    Raises:
        DataError: the file cannot be read, or is not in UTF-8.
    """
    return decoded(file, content(file))


def decoded(file: Path, data: bytes) -> str:
    """The text of a list whose bytes are known already.

    Raises:
        DataError: it is no text, or neither in UTF-8 nor in UTF-16.
    """
    return text_of_bytes(file, data, "list")


def content(file: Path, what: str = "list") -> bytes:
    """The bytes of a file, unpacked if its name ends in `.xz`.

    Raises:
        DataError: the file cannot be read or unpacked; `what` names it.
    """
    return read_packed(file, what, LARGEST)


def _with_blanks(line: str) -> tuple[str, list[str]] | None:
    """Path and labels of a line whose path holds blanks; None where it cannot be told."""
    line = line.strip(BLANKS)
    path, tab, rest = line.partition("\t")
    if not tab:
        ends = [found.end() for found in _IMAGE.finditer(line)]
        if len(ends) != 1:
            return None
        path, rest = line[: ends[0]], line[ends[0] :]
    path, labels = path.strip(BLANKS), _PIECE.findall(rest)
    if not path or not labels or not all(one.isascii() and one.isdecimal() for one in labels):
        return None
    return path, labels


def _hint(line: str, number: int) -> str:
    """What a malformed line seems to be, and what to do about it; empty if nobody can tell."""
    line = line.strip(BLANKS)
    if line.startswith("#"):
        return ". Lists have no comments: remove the line"
    if "," in line and _IMAGE.sub("", line.replace(",", " ")) != line:
        return (
            ". Lists have blanks between path and labels, and no commas; for a table with a "
            "header there is dataset=csv"
        )
    words = _PIECE.findall(line)
    if (
        number == 1
        and len(words) > 1
        and not _IMAGE.search(line)
        and not any(one.isdecimal() for one in words)
    ):
        return ". Lists have no header: remove the line"
    if len(words) > 2 and not words[1].isdecimal():
        return (
            ". A path with blanks is read if it stands before a tab, or if it ends as images do "
            "(.jpg) and nothing but labels follows; or write a table, dataset=csv"
        )
    return ""


def _fit(given: Sequence[str], width: int, count: int | None) -> bool:
    """Whether the labels of a line are as many as they should be, and each a possible one."""
    if len(given) != width or width < 1:
        return False
    if width > 1:
        return {"0", "1"}.issuperset(given)
    index = given[0]
    if not (index.isascii() and index.isdecimal() and len(index) <= len(str(HIGHEST))):
        return False
    return int(index) <= (HIGHEST if count is None else count - 1)


def _misfit(pieces: Sequence[str], width: int, count: int | None) -> str:
    """What is wrong with the pieces of a line, and what was expected."""
    given = pieces[1:]
    if not pieces:
        said = "it is blank"
    elif len(given) != width or width < 1:
        said = f"{len(given)} labels"
    else:
        said = f"the label {next(one for one in given if width == 1 or one not in ('0', '1'))!r}"
    if width < 1:
        expected = "a path and labels, 0 or 1 for each class, or one class index"
    elif width > 1:
        expected = f"a path and {width} labels of 0 or 1"
        if count is not None:
            expected += ", or in all lines one class index"
    else:
        last = HIGHEST if count is None else count - 1
        expected = f"a path and one class index from 0 to {last}"
    if count is not None:
        expected += ". Other classes than the published ones: dataset.source.class_names=null"
    return f"{said}; expected {expected}"
