"""A table of images: a path, its labels and optionally its roles on each line."""

import csv
import io
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from deephash.data.archives.files import KEY, check_root, multi_hot
from deephash.data.catalogue import Catalogue, first_few, is_below_root
from deephash.data.sources.list_parser import DRIVE, with_slashes
from deephash.data.sources.text_files import decode_text
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


class CsvTable(NamedTuple):
    """The header and the n rows of a table."""

    file: Path
    header: list[str]
    lines: list[int]  # n numbers of the last line of each row
    rows: list[list[str]]  # n rows of cells, as many as the header has

    def column(self, name: str, key: str) -> int:
        """Return the index of a column, named by the reader's option `key`.

        Raises:
            DataError: there is no such column, or two.
        """
        if name not in self.header:
            guess = guess_column(self.header, LABELS) if key == "label" else None
            advice = f"Set {KEY}.{key}={guess or 'NAME'}"
            if key == "label" and guess is None:
                advice += f"; for images without labels {KEY}.label=null '{KEY}.columns=[]'"
            raise DataError(
                f"{self.file} has no column {name!r}; its header: {first_few(self.header, 10)}. "
                + advice
            )
        if self.header.count(name) > 1:
            raise DataError(f"{self.file} has two columns {name!r}: rename one")
        return self.header.index(name)

    def fault(self, row: int, what: str) -> DataError:
        """Return an error with the line of a row."""
        return DataError(f"{self.file}, line {self.lines[row]}: {what}")


@dataclass(eq=False)
class Csv:
    """Images of a CSV or TSV file with a header, one image per row, in the order of the rows.

    Labels are in one column, one name or several with a `separator`, or in a column of 0 and 1 for
    each class. The delimiter (comma, tab, semicolon or bar) is the one that makes `path` a column
    of the header. Empty rows and columns without a name are ignored. Ids are the paths, with
    forward slashes.

    Args:
        root: the folder of the images.
        file: the table, relative to `root` or absolute.
        path: column of the paths, relative to `root`; absolute paths must lie below it, and so must
            those that begin with `../`, which are relative to the folder of the table.
        label: column of the labels; None if each class has a column.
        separator: between the labels of an image; None if each has exactly one.
        columns: with `label=null`, the columns of the classes; None for all but path and role;
            an empty list, `[]`, for images without labels.
        role: column of the roles train, query (or test) and database, separated by `;` or `+`,
            empty for none; None if there is no such column. The roles are used like lists.
        class_names: names of the classes, in order; None for all labels of the table, sorted by
            name, or by value if all are whole numbers. Not with a column for each class.
        encoding: of the file, such as `cp1252`; None for UTF-8 or UTF-16.

    Raises:
        DataError: on `read`, the file or a column is missing, or a line is malformed.
    """

    root: Place
    file: Place
    path: Name = "path"
    label: Name | None = "label"
    separator: str | None = None
    columns: Sequence[str] | None = None
    role: Name | None = None
    class_names: Sequence[str] | None = None
    encoding: str | None = None

    def __post_init__(self) -> None:
        if self.label is not None and self.columns is not None:
            raise DataError(
                f"{KEY}.label={self.label} and {KEY}.columns are two ways to give labels: set one "
                "of them to null"
            )
        if self.label is None and (self.separator is not None or self.class_names is not None):
            raise DataError(
                f"{KEY}.separator and {KEY}.class_names belong to a column of labels, and "
                f"{KEY}.label is null: set them to null too"
            )
        if self.separator == "":
            raise DataError(f"{KEY}.separator is empty: set it to a character, or to null")

    def read(self) -> Catalogue:
        root = check_root(self.root)
        table = read_table(root / expand_path(self.file), self.path, self.encoding)
        if self.label is None:
            labels, classes = self._from_columns(table)
        else:
            labels, classes = self._from_names(table, self.label)
        rows = np.repeat(np.arange(len(labels)), [len(columns) for columns in labels])
        return Catalogue(
            ids=tuple(_paths(table, table.column(self.path, "path"), root)),
            labels=multi_hot(rows, list(chain.from_iterable(labels)), (len(labels), len(classes))),
            classes=tuple(classes),
            lists=None if self.role is None else _lists(table, table.column(self.role, "role")),
            remarks=() if self.role is not None else tuple(_unused_roles(table)),
        )

    def _from_names(self, table: CsvTable, label: str) -> tuple[list[list[int]], Sequence[str]]:
        """Return the columns of each image's labels, and the classes, from one column of names."""
        place = table.column(label, "label")
        names_of_rows: list[list[str]] = []
        for row, cells in enumerate(table.rows):
            parts = [cells[place]]
            if self.separator is not None:
                parts = cells[place].split(self.separator)
            names = [name.strip() for name in parts if name.strip()]
            if self.separator is None and not names:
                raise table.fault(
                    row,
                    f"no label. If images may have none, or several, set {KEY}.separator to the "
                    "character between them",
                )
            names_of_rows.append(names)
        classes = self.class_names
        if classes is None:
            classes = _sorted_names(set(chain.from_iterable(names_of_rows)))
        column_of = {name: column for column, name in enumerate(classes)}
        for row, names in enumerate(names_of_rows):
            if unknown := [name for name in names if name not in column_of]:
                raise table.fault(
                    row,
                    f"the label {unknown[0]!r} is none of {KEY}.class_names: "
                    + first_few(classes, 10),
                )
        return [[column_of[name] for name in names] for names in names_of_rows], classes

    def _from_columns(self, table: CsvTable) -> tuple[list[list[int]], Sequence[str]]:
        """Return the columns of each image's labels, and the classes, from a column per class."""
        classes = self.columns
        if classes is None:
            others = [name for name in table.header if name not in (self.path, self.role)]
            classes = [name for name in others if name and not name.startswith("Unnamed:")]
        places = [table.column(name, "columns") for name in classes]
        labels = []
        for row, cells in enumerate(table.rows):
            signs = [cells[place].strip().lower() for place in places]
            for name, sign in zip(classes, signs, strict=True):
                if sign not in YES and sign not in NO:
                    raise table.fault(
                        row,
                        f"{sign!r} in column {name!r} is no label, 0 or 1. Set {KEY}.columns=[...] "
                        f"to the columns of the classes, or {KEY}.label to a column of names",
                    )
            labels.append([column for column, sign in enumerate(signs) if sign in YES])
        return labels, classes


OPTIONS = {"file": f"{KEY}.file=FILE", "path": f"{KEY}.path=", "encoding": f"{KEY}.encoding="}
"""What messages of `read_table` suggest to set."""


def read_table(
    file: Path,
    path: str | None,
    encoding: str | None = None,
    options: Mapping[str, str] = OPTIONS,
) -> CsvTable:
    """Read a CSV file, with the delimiter that makes `path` a column.

    Empty rows are left out, and so are empty cells after those of the header.

    Args:
        file: the table.
        path: a column of its header; None for any of the usual names, `PATHS`.
        encoding: its Python name; None for UTF-8 or UTF-16.
        options: the names of these options in messages.

    Raises:
        DataError: the file cannot be read or has no such column, the header has that column twice,
            or a row has another number of cells.
    """
    try:
        data = read_bytes(file, "table", MOST)
    except DataError as error:
        raise DataError(f"{error}; set {options['file']}") from error
    advice = "Save it as CSV UTF-8."
    if "encoding" in options:
        advice = f"{advice[:-1]}; or set {options['encoding']}cp1252, or its actual encoding."
    text = decode_text(file, data, "table", encoding, advice)
    first = re.split("[\r\n]", text, maxsplit=1)[0]
    try:
        headers = [next(csv.reader([first], delimiter=sign), []) for sign in DELIMITERS]
    except csv.Error as error:
        raise DataError(f"{file}, line 1: {error}") from error
    candidates = [
        (len(header), delimiter)
        for header, delimiter in zip(headers, DELIMITERS, strict=True)
        if _has_paths([name.strip() for name in header], path)
    ]
    if not candidates:
        widest = [name.strip() for name in max(headers, key=len)]
        what = "of paths" if path is None else repr(path)
        raise DataError(
            f"{file} has no column {what} in its first line, {[first[:80]]}: write a header, or "
            f"set {options['path']}{guess_column(widest, PATHS) or 'NAME'}"
        )
    delimiter = max(candidates)[1]
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    table = CsvTable(file, [name.strip() for name in next(reader)], [], [])
    width, begun = len(table.header), reader.line_num + 1
    try:
        for cells in reader:
            begun = reader.line_num + 1
            if not any(cell.strip() for cell in cells):
                continue
            while len(cells) > width and not cells[-1].strip():
                cells.pop()
            if len(cells) < width and not any(table.header[len(cells) :]):
                cells += [""] * (width - len(cells))  # in columns without a name
            table.lines.append(reader.line_num)
            table.rows.append(cells)
            if len(cells) != width:
                raise table.fault(len(table.rows) - 1, _describe_width(cells, width, delimiter))
    except csv.Error as error:
        what = str(error)
        if "field limit" in what or "unexpected end" in what:
            what += f": a quotation mark in line {begun} or after it is not closed"
        raise DataError(f"{file}, line {reader.line_num}: {what}") from error
    if not table.rows:
        raise DataError(f"{file} has a header but no images")
    return table


def _describe_width(cells: Sequence[str], width: int, delimiter: str) -> str:
    """Return the error of a row with another number of cells than the header."""
    what = f"{len(cells)} cells, and the header has {width}"
    if len(cells) > width:
        what += f'. Write a cell that contains {delimiter!r} in quotation marks: "a{delimiter}b"'
    return what


def _has_paths(header: Sequence[str], path: str | None) -> bool:
    return guess_column(header, PATHS) is not None if path is None else path in header


def guess_column(names: Sequence[str], usual: Sequence[str]) -> str | None:
    """Return the first column with one of the usual names."""
    lowered = {name.lower(): name for name in reversed(names)}
    return next((lowered[name] for name in usual if name in lowered), None)


def _paths(table: CsvTable, place: int, root: Path) -> list[str]:
    """Return the paths of the images, relative to root."""
    line_of: dict[str, int] = {}
    roots = {root, root.absolute(), root.resolve()}
    for row, cells in enumerate(table.rows):
        path = cells[place].strip()
        if path.startswith("~"):
            path = os.path.expanduser(path)
        path = with_slashes(path)
        for folder in roots:
            if PurePosixPath(path).is_relative_to(folder):
                path = PurePosixPath(path).relative_to(folder).as_posix()
        path = path.removeprefix("./")
        if path.startswith("../"):  # relative to the folder of the table
            image = Path(os.path.normpath(table.file.absolute().parent / path))
            inside = [image.relative_to(folder) for folder in roots if image.is_relative_to(folder)]
            path = inside[0].as_posix() if inside else path
        if URL.match(path):
            raise table.fault(
                row, f"the path {path[:80]!r} is a URL: download the images and use their paths"
            )
        if not is_below_root(path) or DRIVE.match(path.replace("\\", "/")):
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
    """Return what to set for a path relative to the table's folder; empty if it is not one."""
    table = file.absolute()
    image = Path(os.path.normpath(table.parent / path))
    if not path.startswith("../") or not image.is_file():
        return ""
    common = os.path.commonpath([table.parent, image.parent])
    return f". It exists relative to the table: dataset.root={common} {KEY}.file={table}"


def _unused_roles(table: CsvTable) -> Iterator[str]:
    """Yield a warning about a column of roles that is not used."""
    lowered = [name.lower() for name in table.header]
    for name in ROLES:
        if name not in lowered:
            continue
        place = lowered.index(name)
        roles = {cells[place].strip().lower() for cells in table.rows}
        if roles & {"train", "training"} and roles <= KNOWN_ROLES:
            column = table.header[place]
            yield (
                f"the column {column!r} of {table.file} has {', '.join(sorted(roles - {''}))} "
                f"and is not used; to use these roles: {KEY}.role={column} dataset.protocol=roles"
            )


def _lists(table: CsvTable, place: int) -> dict[str, np.ndarray]:
    """Return the rows of each role; the database only if a line names it."""
    lists: dict[str, list[int]] = {"train": [], "queries": []}
    for row, cells in enumerate(table.rows):
        for name in re.split("[;+]", cells[place]):
            name = name.strip().lower()
            if name and name not in ROLE_OF:
                raise table.fault(
                    row,
                    f"the role {name!r} is unknown: train, query or database, several separated by "
                    "; or +, or empty for an image without a role",
                )
            if name:
                lists.setdefault(ROLE_OF[name], []).append(row)
    return {role: np.unique(np.array(rows, np.int64)) for role, rows in lists.items()}


def _sorted_names(names: set[str]) -> list[str]:
    """Sort names, by value if all are whole numbers."""
    if all(re.fullmatch(r"-?\d+", name) for name in names):
        return sorted(names, key=lambda name: (int(name), name))
    return sorted(names)
