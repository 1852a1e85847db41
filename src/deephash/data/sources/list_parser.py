"""Parser of lists in the format of HashNet: a path and its labels on each line."""

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.sparse import csr_array

from deephash.data.catalogue import BLANKS, is_below_root, no_labels, one_hot
from deephash.data.image_formats import IMAGES
from deephash.data.sources.text_files import decode_text
from deephash.errors import DataError
from deephash.utils.files import read_packed

HIGHEST = 2**31 - 1  # class index
LARGEST = 4 << 30  # bytes of an unpacked list

DRIVE, _WINDOWS = re.compile(r"[A-Za-z]:/"), re.compile(r"[A-Za-z]:\\")

_PIECE = re.compile(f"[^{BLANKS}]+")
_EXTENSIONS = "|".join(re.escape(extension) for extension in sorted(IMAGES, reverse=True))
_IMAGE = re.compile(f"(?i)(?:{_EXTENSIONS})(?=[{BLANKS}]|$)")


class ListRows(NamedTuple):
    """The n images of a list; their labels have a column for each class."""

    ids: list[str]
    places: list[str]  # n paths, without prefix and leading ./
    labels: csr_array  # (n, C) bool; (n, 0) of a list of paths only
    indexed: bool  # labels are class indices; C is one more than the largest, if it was not given
    lines: list[int]  # n line numbers, from 1

    @property
    def bare(self) -> bool:
        """Whether the list has paths only, no labels."""
        return bool(self.ids) and self.labels.shape[1] == 0


class Naming:
    """Rules for the id of the image at a path, and for the location of its file.

    Args:
        strip_prefix: a regular expression; its match at the beginning of a path is removed.
        identity: a regular expression, searched in the original path; its first group is the id.
            None: the id is the path without its prefix.

    Raises:
        DataError: a regular expression is invalid, or `identity` has no group.
    """

    def __init__(self, strip_prefix: str | None = None, identity: str | None = None):
        self.prefix = _expression("strip_prefix", strip_prefix or "")
        self.identity = None if identity is None else _expression("identity", identity)
        if self.identity is not None and not self.identity.groups:
            raise DataError(
                f"dataset.source.identity={identity} has no group: put brackets around the id of "
                "an image, as in ([^/]+)$ for the file name"
            )

    def __call__(self, path: str) -> tuple[str, str]:
        """Return the id and the place of the image at a path.

        Raises:
            ValueError: the path gives no id.
        """
        path = place = with_slashes(path)
        if match := self.prefix.match(path):
            place = path[match.end() :]
        place = place.removeprefix("./")
        if self.identity is not None:
            match = self.identity.search(path)
            if match and match[1]:
                return match[1], place
            raise ValueError(
                f"the path {path!r} has no id: dataset.source.identity={self.identity.pattern} does"
                " not match it"
            )
        if not is_below_root(place) or DRIVE.match(place):
            folders = place.rpartition("/")[0].rpartition("/")[0]
            example = f", such as {folders}/," if folders else ""
            raise ValueError(
                f"the path {place!r} does not lead down from dataset.root. Remove its beginning"
                f"{example} with dataset.source.strip_prefix=REGEX; or identify images by file name"
                """ if these are unique: 'dataset.source.identity="([^/]+)$"'"""
            )
        return place, place


def with_slashes(path: str) -> str:
    """Replace the backslashes of a Windows path."""
    if "\\" in path and (_WINDOWS.match(path) or "/" not in path):
        return path.replace("\\", "/")
    return path


def _expression(key: str, pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise DataError(
            f"dataset.source.{key}={pattern} is no regular expression: {error}"
        ) from error


def read_list(file: Path, count: int | None, naming: Naming) -> ListRows:
    """Read a list, which may be packed by xz; see `parse_list`.

    Raises:
        DataError: the file cannot be read, is empty, or names an image twice; or a line is
            malformed.
    """

    def refuse(line: int, what: str) -> None:
        raise DataError(f"{file}, line {line}: {what}")

    text = decode_text(file, read_packed(file, "list", LARGEST), "list")
    rows = parse_list(text, count, naming, refuse)
    if not rows.ids:
        raise DataError(f"the list {file} is empty")
    if repeated := find_repeated(rows.ids):
        first, again = repeated[0]
        place, other = rows.places[again], rows.places[first]
        what = f"{place} is in line {rows.lines[first]} already"
        if place != other:
            what = f"{place} has the id {rows.ids[again]}, as {other} of line {rows.lines[first]}"
        refuse(rows.lines[again], what)
    return rows


def parse_list(
    text: str, count: int | None, naming: Naming, fault: Callable[[int, str], None]
) -> ListRows:
    """Parse the lines of a list: a path and its labels each, separated by blanks.

    Several labels on a line are 0 or 1, one column per class; a single one is a class index. The
    first line with labels sets the style of all others. Lines may end in LF, CR LF or CR. A path
    may contain blanks if it stands before a tab, or if it ends in the extension of an image and
    only labels follow.

    A list has no labels if all of its lines are paths of images, or if `count` is 0. If some lines
    have labels, those without are malformed.

    Args:
        text: of the list.
        count: number of classes; None to take it from the lines; 0 for a list without labels.
        naming: of the images.
        fault: called for each malformed line, with its number from 1 and the problem; the line is
            left out.
    """
    if "\n" not in text:
        text = text.replace("\r", "\n")  # line ends of old Macintosh programs
    unlabelled = count == 0 or (count is None and _all_bare(text))
    parser = _LineParser(text, count)
    split = _split_bare if unlabelled else parser.split
    ids, places, labels, numbers = [], [], [], []
    for number, line in enumerate(_lines(text), 1):
        try:
            path, signs = split(line, number)
            name, place = naming(path)
        except ValueError as error:
            fault(number, str(error))
            continue
        ids.append(name)
        places.append(place)
        labels.append(signs)
        numbers.append(number)
    if unlabelled:
        return ListRows(ids, places, no_labels(len(ids)), False, numbers)
    width = parser.width
    if not labels:
        matrix = csr_array((0, count or width), dtype=bool)
    elif width == 1:
        indices = np.array(labels).astype(np.int64)
        matrix = one_hot(indices, count or int(indices.max()) + 1)
    else:
        marks = np.frombuffer("".join(labels).encode(), np.uint8)
        matrix = csr_array(marks.reshape(len(labels), width) == ord("1"))
    return ListRows(ids, places, matrix, width == 1, numbers)


class _LineParser:
    """Split lines into a path and its labels; the first line sets the number of labels."""

    def __init__(self, text: str, count: int | None):
        self.count = count
        self.width = 0
        self.regular = not any(blank in text for blank in BLANKS[1:])

    def split(self, line: str, number: int) -> tuple[str, str]:
        """Return the path of a line, and its labels without blanks.

        Raises:
            ValueError: the line is malformed.
        """
        width = self.width
        path, _, rest = line.partition(" ")
        if self.regular and width > 1 and path and len(rest) == 2 * width - 1:  # fast path
            signs = rest[::2]
            if rest[1::2] == " " * (width - 1) and not signs.strip("01"):
                return path, signs
        pieces = _PIECE.findall(line)
        path, *labels = pieces or [""]
        width = self._wanted(labels)
        if not _labels_fit(labels, width, self.count):
            separated = _split_with_blanks(line)
            if separated is not None:
                path, labels = separated
                width = self._wanted(labels)
            if separated is None or not _labels_fit(labels, width, self.count):
                raise ValueError(_describe_fault(pieces, width, self.count) + _hint(line, number))
        self.width = width
        return path, "".join(labels)

    def _wanted(self, labels: Sequence[str]) -> int:
        """Return how many labels the line should have."""
        return self.width or (1 if len(labels) == 1 else self.count or len(labels))


def _split_bare(line: str, number: int) -> tuple[str, str]:
    """Return the path of a line without labels, and no labels.

    Raises:
        ValueError: the line has labels or is blank.
    """
    path = _bare_path(line)
    if path is None:
        what = repr(line.strip(BLANKS)) if line.strip(BLANKS) else "it is blank"
        raise ValueError(
            f"{what}; expected a path and no labels, since dataset.source.class_names sets no"
            " classes"
        )
    return path, ""


def _all_bare(text: str) -> bool:
    """Return whether every line that is not blank is the path of an image file, without labels."""
    lines = [line for line in _lines(text) if line.strip(BLANKS)]
    return bool(lines) and all(_bare_path(line, certain=True) is not None for line in lines)


def _bare_path(line: str, certain: bool = False) -> str | None:
    """Return the path of a line without labels; None if the line has anything else.

    Args:
        line: of a list.
        certain: only accept paths with the extension of an image.
    """
    line = line.strip(BLANKS)
    ends = [match.end() for match in _IMAGE.finditer(line)]
    if ends == [len(line)] and "\t" not in line:
        return line
    return line if line and not certain and len(_PIECE.findall(line)) == 1 else None


def find_repeated(names: Sequence[str]) -> list[tuple[int, int]]:
    """Return the position of each repeated name, after the position where it was first."""
    if len(set(names)) == len(names):
        return []
    seen: dict[str, int] = {}
    firsts = [seen.setdefault(name, at) for at, name in enumerate(names)]
    return [(first, at) for at, first in enumerate(firsts) if first != at]


def _lines(text: str) -> Iterator[str]:
    """Yield lines without their ends; a list of all lines would take a multiple of the memory."""
    start = 0
    while (end := text.find("\n", start)) >= 0:
        yield text[start:end]
        start = end + 1
    if start < len(text):
        yield text[start:]


def _split_with_blanks(line: str) -> tuple[str, list[str]] | None:
    """Return path and labels of a line whose path contains blanks; None if it is ambiguous."""
    line = line.strip(BLANKS)
    path, tab, rest = line.partition("\t")
    if not tab:
        ends = [match.end() for match in _IMAGE.finditer(line)]
        if len(ends) != 1:
            return None
        path, rest = line[: ends[0]], line[ends[0] :]
    path, labels = path.strip(BLANKS), _PIECE.findall(rest)
    if path and labels and all(label.isascii() and label.isdecimal() for label in labels):
        return path, labels
    return None


def _hint(line: str, number: int) -> str:
    """Return advice for what a malformed line seems to be; empty if that is unclear."""
    line = line.strip(BLANKS)
    if line.startswith("#"):
        return ". Lists have no comments: remove the line"
    if "," in line and _IMAGE.sub("", line.replace(",", " ")) != line:
        return (
            ". Lists have blanks between path and labels, and no commas; for a table with a "
            "header use dataset=csv"
        )
    pieces = _PIECE.findall(line)
    no_number = not any(piece.isdecimal() for piece in pieces)
    if number == 1 and len(pieces) > 1 and not _IMAGE.search(line) and no_number:
        return ". Lists have no header: remove the line"
    if len(pieces) > 2 and not pieces[1].isdecimal():
        return (
            ". A path may contain blanks if it stands before a tab, or if it ends in the extension "
            "of an image (.jpg) and only labels follow; or write a table, dataset=csv"
        )
    return ""


def _labels_fit(labels: Sequence[str], width: int, count: int | None) -> bool:
    """Return whether a line has the expected number of labels, each with a possible value."""
    if len(labels) != width or width < 1:
        return False
    if width > 1:
        return {"0", "1"}.issuperset(labels)
    index = labels[0]
    if not (index.isascii() and index.isdecimal() and len(index) <= len(str(HIGHEST))):
        return False
    return int(index) <= (HIGHEST if count is None else count - 1)


def _describe_fault(pieces: Sequence[str], width: int, count: int | None) -> str:
    """Return what is wrong with the pieces of a line, and what was expected."""
    labels = pieces[1:]
    if not pieces:
        fault = "it is blank"
    elif len(labels) != width or width < 1:
        fault = f"{len(labels)} labels"
    else:
        wrong = next(label for label in labels if width == 1 or label not in ("0", "1"))
        fault = f"the label {wrong!r}"
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
        expected += ". For other classes than the published ones: dataset.source.class_names=null"
    return f"{fault}; expected {expected}"
