"""A table of one's own images: a path, its labels and perhaps its roles on each line."""

import csv
import io
import os
import re
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from deephash.data.archives.files import KEY, folder_of, multi_hot, some
from deephash.data.catalogue import Catalogue, is_below_root
from deephash.data.sources.list_parser import WINDOWS
from deephash.data.sources.text_files import text_of_bytes
from deephash.errors import DataError
from deephash.utils.bounds import Name, Place
from deephash.utils.files import expand_path, read_bytes

DELIMITERS = ",\t;|"
MOST = 1 << 30  # bytes of a table
PATHS = ("filename", "file", "image", "img", "image_path", "img_path", "filepath", "file_name",
         "path", "image_id", "id", "name")  # fmt: skip
LABELS = ("label", "class", "labels", "category", "target", "class_name", "y", "classes", "tag",
          "tags")  # fmt: skip
ROLES = ("split", "role", "subset", "set", "partition", "part", "usage", "phase", "fold")
YES, NO = {"1", "1.0", "true"}, {"0", "0.0", "false"}
ROLE_OF = {
    "train": "train",
    "training": "train",
    "query": "queries",
    "queries": "queries",
    "test": "queries",
    "testing": "queries",
    "database": "database",
    "gallery": "database",
}
KNOWN_ROLES = {*ROLE_OF, "val", "valid", "validation", ""}
URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")


class Table(NamedTuple):
    """A file of n lines under a header."""

    file: Path
    header: list[str]
    lines: list[int]  # n line numbers, where the rows end
    rows: list[list[str]]  # n rows of cells, as many as the header has

    def column(self, name: str, key: str) -> int:
        """The place of a column that the reader's option `key` names.

        Raises:
            DataError: there is none of that name, or two.
        """
        if name not in self.header:
            meant = _likely(self.header, LABELS) if key == "label" else None
            without = ""
            if key == "label" and meant is None:
                without = f"; for images without labels {KEY}.label=null '{KEY}.columns=[]'"
            raise DataError(
                f"{self.file} has no column {name!r}; its header: {some(self.header, 10)}. Set "
                f"{KEY}.{key}={meant or 'NAME'}{without}"
            )
        if self.header.count(name) > 1:
            raise DataError(f"{self.file} has two columns {name!r}: rename one")
        return self.header.index(name)

    def fault(self, row: int, what: str) -> DataError:
        """An error that tells the line."""
        return DataError(f"{self.file}, line {self.lines[row]}: {what}")


class Csv:
    """Images of a CSV or TSV file with a header: one line an image, in the order of the rows.

    Labels stand in one column, one name or several set apart by `separator`, or in a column of 0
    and 1 for each class. The delimiter (comma, tab, semicolon or bar) is the one that makes `path`
    a column of the header. Rows without text and columns without a name are passed over. Ids are
    the paths, with forward slashes.

    Args:
        root: the folder of the images.
        file: the table, relative to `root` or absolute.
        path: column of the paths, relative to `root`; absolute ones must lie below it, and so must
            those that begin with `../`, which are relative to the folder of the table.
        label: column of the labels; None if the classes have columns of their own.
        separator: what stands between the labels of an image; None if each has exactly one.
        columns: with `label=null`, the columns of the classes; None for all but path and role;
            none, `[]`, for images without labels.
        role: column of the roles, train, query (or test) and database, several set apart by `;` or
            `+`, nothing for none; None if there is none. With it the images come as with lists.
        class_names: names of the classes, in order; None for those found, sorted by name, or by
            value if all are whole numbers. Not with classes in columns.
        encoding: of the file, such as `cp1252`; None for UTF-8, or UTF-16 if it is.

    Raises:
        DataError: on `read`, the file or a column is missing, or a line is malformed.
    """

    def __init__(
        self,
        root: Place,
        file: Place,
        path: Name = "path",
        label: Name | None = "label",
        separator: str | None = None,
        columns: Sequence[str] | None = None,
        role: Name | None = None,
        class_names: Sequence[str] | None = None,
        encoding: str | None = None,
    ):
        if label is not None and columns is not None:
            raise DataError(
                f"{KEY}.label={label} and {KEY}.columns are two ways to give labels: set one of "
                "them to null"
            )
        if label is None and (separator is not None or class_names is not None):
            raise DataError(
                f"{KEY}.separator and {KEY}.class_names belong to a column of labels, and "
                f"{KEY}.label is null: set them to null too"
            )
        if separator == "":
            raise DataError(f"{KEY}.separator is empty: set it to a character, or to null")
        self.root = root
        self.file = file
        self.path = path
        self.label = label
        self.separator = separator
        self.columns = columns
        self.role = role
        self.class_names = class_names
        self.encoding = encoding

    def read(self) -> Catalogue:
        root = folder_of(self.root)
        table = read_table(root / expand_path(self.file), self.path, self.encoding)
        labels, classes = self._hot(table) if self.label is None else self._named(table, self.label)
        rows = np.repeat(np.arange(len(labels)), [len(columns) for columns in labels])
        return Catalogue(
            ids=tuple(_paths(table, table.column(self.path, "path"), root)),
            labels=multi_hot(rows, list(chain.from_iterable(labels)), (len(labels), len(classes))),
            classes=tuple(classes),
            lists=None if self.role is None else _lists(table, table.column(self.role, "role")),
            remarks=() if self.role is not None else tuple(_unused_roles(table)),
        )

    def _named(self, table: Table, label: str) -> tuple[list[list[int]], Sequence[str]]:
        """Columns of each image's labels, and the classes, from one column of names."""
        place = table.column(label, "label")
        named: list[list[str]] = []
        for row, cells in enumerate(table.rows):
            given = [cells[place]]
            if self.separator is not None:
                given = cells[place].split(self.separator)
            names = [name.strip() for name in given if name.strip()]
            if self.separator is None and not names:
                raise table.fault(
                    row,
                    f"no label. Where images may have none, or several, set {KEY}.separator to the "
                    "character between them",
                )
            named.append(names)
        classes = self.class_names
        if classes is None:
            classes = _in_order(set(chain.from_iterable(named)))
        column_of = {name: column for column, name in enumerate(classes)}
        for row, names in enumerate(named):
            if unknown := [name for name in names if name not in column_of]:
                raise table.fault(
                    row,
                    f"the label {unknown[0]!r} is none of {KEY}.class_names: {some(classes, 10)}",
                )
        return [[column_of[name] for name in names] for names in named], classes

    def _hot(self, table: Table) -> tuple[list[list[int]], Sequence[str]]:
        """Columns of each image's labels, and the classes, from a column for each class."""
        classes = self.columns
        if classes is None:
            given = [name for name in table.header if name not in (self.path, self.role)]
            classes = [name for name in given if name and not name.startswith("Unnamed:")]
        places = [table.column(name, "columns") for name in classes]
        labels = []
        for row, cells in enumerate(table.rows):
            given = [cells[place].strip().lower() for place in places]
            for name, sign in zip(classes, given, strict=True):
                if sign not in YES and sign not in NO:
                    raise table.fault(
                        row,
                        f"{sign!r} in column {name!r} is no label, 0 or 1. Give the columns of the "
                        f"classes with {KEY}.columns=[...], or a column of names with {KEY}.label",
                    )
            labels.append([column for column, sign in enumerate(given) if sign in YES])
        return labels, classes


def read_table(file: Path, path: str, encoding: str | None = None) -> Table:
    """The cells of a CSV file, whose delimiter is the one that makes `path` a column.

    Rows without any text are left out, and so are empty cells behind those of the header.

    Args:
        file: the table.
        path: a column of its header.
        encoding: of the file, by its name in Python; None for UTF-8, or UTF-16 if it is.

    Raises:
        DataError: the file cannot be read or has no such column, the header has that column twice,
            or a row has another number of cells.
    """
    try:
        data = read_bytes(file, "table", MOST)
    except DataError as error:
        raise DataError(f"{error}; set {KEY}.file=FILE") from error
    way = f"Save it as CSV UTF-8; or set {KEY}.encoding=cp1252, or what its encoding is."
    text = text_of_bytes(file, data, "table", encoding, way)
    first = re.split("[\r\n]", text, maxsplit=1)[0]
    try:
        headers = [next(csv.reader([first], delimiter=one), []) for one in DELIMITERS]
    except csv.Error as error:
        raise DataError(f"{file}, line 1: {error}") from error
    found = [
        (len(header), delimiter)
        for header, delimiter in zip(headers, DELIMITERS, strict=True)
        if path in [name.strip() for name in header]
    ]
    if not found:
        widest = [name.strip() for name in max(headers, key=len)]
        raise DataError(
            f"{file} has no column {path!r} in its first line, {[first[:80]]}: write a header, or "
            f"set {KEY}.path={_likely(widest, PATHS) or 'NAME'}"
        )
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=max(found)[1], strict=True)
    table = Table(file, [name.strip() for name in next(reader)], [], [])
    width, begun = len(table.header), reader.line_num + 1
    try:
        for cells in reader:
            begun = reader.line_num + 1
            if not any(cell.strip() for cell in cells):
                continue
            while len(cells) > width and not cells[-1].strip():
                cells.pop()
            if len(cells) < width and not any(table.header[len(cells) :]):
                cells += [""] * (width - len(cells))  # of columns without a name
            table.lines.append(reader.line_num)
            table.rows.append(cells)
            if len(cells) != width:
                raise table.fault(len(table.rows) - 1, _misfit(cells, width, max(found)[1]))
    except csv.Error as error:
        what = str(error)
        if "field limit" in what or "unexpected end" in what:
            what += f": a quotation mark in line {begun} or after it is not closed"
        raise DataError(f"{file}, line {reader.line_num}: {what}") from error
    if not table.rows:
        raise DataError(f"{file} has a header and no images")
    return table


def _misfit(cells: Sequence[str], width: int, delimiter: str) -> str:
    """What is wrong with a row that has another number of cells than the header."""
    what = f"{len(cells)} cells, and the header has {width}"
    if len(cells) > width:
        what += f'. Write a cell that holds {delimiter!r} in quotation marks: "a{delimiter}b"'
    return what


def _likely(names: Sequence[str], usual: Sequence[str]) -> str | None:
    """The column that is meant, by its usual names."""
    lowered = {name.lower(): name for name in reversed(names)}
    return next((lowered[name] for name in usual if name in lowered), None)


def _paths(table: Table, place: int, root: Path) -> list[str]:
    """Paths relative to root."""
    line_of: dict[str, int] = {}
    roots = {root, root.absolute(), root.resolve()}
    for row, cells in enumerate(table.rows):
        path = cells[place].strip()
        if path.startswith("~"):
            path = os.path.expanduser(path)
        if "\\" in path and (WINDOWS.match(path) or "/" not in path):
            path = path.replace("\\", "/")  # somebody's Windows
        for one in roots:
            if PurePosixPath(path).is_relative_to(one):
                path = PurePosixPath(path).relative_to(one).as_posix()
        path = path.removeprefix("./")
        if path.startswith("../"):  # as seen from the folder of the table
            beside = Path(os.path.normpath(table.file.absolute().parent / path))
            inside = [beside.relative_to(one) for one in roots if beside.is_relative_to(one)]
            path = inside[0].as_posix() if inside else path
        if URL.match(path):
            raise table.fault(
                row, f"the path {path[:80]!r} is an address: download the images, and give paths"
            )
        if not is_below_root(path) or WINDOWS.match(path.replace("/", "\\")):
            raise table.fault(
                row,
                f"the path {path!r} does not lead down from {root}: set dataset.root to the folder "
                "in which the paths begin" + _common_root(table.file, path),
            )
        if path in line_of:
            raise table.fault(
                row,
                f"{path} is in line {line_of[path]} already. If an image has a line for each of "
                f"its labels, write them into one line and set {KEY}.separator",
            )
        line_of[path] = table.lines[row]
    return list(line_of)


def _common_root(file: Path, path: str) -> str:
    """What to type for a path that is right as seen from the table's folder; empty if it is not."""
    table = file.absolute()
    image = Path(os.path.normpath(table.parent / path))
    if not path.startswith("../") or not image.is_file():
        return ""
    common = os.path.commonpath([table.parent, image.parent])
    return f". It is there from the table's folder: dataset.root={common} {KEY}.file={table}"


def _unused_roles(table: Table) -> Iterator[str]:
    """A sentence on a column of roles that is not used."""
    lowered = [name.lower() for name in table.header]
    for name in ROLES:
        if name not in lowered:
            continue
        place = lowered.index(name)
        given = {cells[place].strip().lower() for cells in table.rows}
        if given & {"train", "training"} and given <= KNOWN_ROLES:
            column = table.header[place]
            yield (
                f"the column {column!r} of {table.file} holds {', '.join(sorted(given - {''}))} "
                f"and is not used; to keep these roles: {KEY}.role={column} dataset.protocol=roles"
            )


def _lists(table: Table, place: int) -> dict[str, np.ndarray]:
    """The rows of each role; the database's only if a line names it."""
    lists: dict[str, list[int]] = {"train": [], "queries": []}
    for row, cells in enumerate(table.rows):
        for name in re.split("[;+]", cells[place]):
            name = name.strip().lower()
            if name and name not in ROLE_OF:
                raise table.fault(
                    row,
                    f"the role {name!r} is unknown: train, query or database, several set apart by "
                    "; or +, or nothing for an image in no role",
                )
            if name:
                lists.setdefault(ROLE_OF[name], []).append(row)
    return {role: np.unique(np.array(rows, np.int64)) for role, rows in lists.items()}


def _in_order(names: set[str]) -> list[str]:
    """Names sorted, by value if all are whole numbers."""
    if all(re.fullmatch(r"-?\d+", name) for name in names):
        return sorted(names, key=lambda name: (int(name), name))
    return sorted(names)
