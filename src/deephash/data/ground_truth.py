"""What the queries of instance-level sets should find: the ground-truth files of their authors."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from deephash.data.pickles import Numbers, read_pickle
from deephash.errors import DataError
from deephash.utils.files import read_json, read_text

USAGE = ("Public", "Private")
"""The queries of Google Landmarks v2 that count; all others are marked Ignored."""

LARGEST, MOST = 1 << 30, 20_000_000
"""Bytes of a table and values of a JSON file: that of Landmarks has a million ids."""

SHOWN = 5  # examples that an error names
_FAR = 1e9  # pixels, of a box; nan is not within

IndexLists = tuple[np.ndarray, ...]
"""For each query, int64 indices of the database, ascending and each once."""


@dataclass(frozen=True, eq=False)
class GroundTruth:
    """What each of Q queries should find among N images, in one or several setups."""

    queries: tuple[str, ...]  # Q ids
    database: tuple[str, ...]  # N ids, which the indices count
    relevant: Mapping[str, IndexLists]  # setup -> Q lists
    junk: Mapping[str, IndexLists]  # setup -> Q lists of images that are neither right nor wrong
    protocol: str  # how it is measured: revisited or gldv2
    boxes: np.ndarray | None = None  # (Q, 4) float64: x1, y1, x2, y2 to cut out of each query
    ignored: int = 0  # queries that the file names and leaves out

    def within(self, database: Sequence[str]) -> "GroundTruth":
        """The same in another order of the images, or with further ones among them.

        Raises:
            DataError: an id of these images is missing or stands there twice.
        """
        place = rows_of(self.database, database, "images of the ground truth")
        relevant, junk = (
            {name: tuple(np.sort(place[one]) for one in lists) for name, lists in setups.items()}
            for setups in (self.relevant, self.junk)
        )
        return replace(self, database=tuple(database), relevant=relevant, junk=junk)


def read_truth(file: Path, database: Sequence[str]) -> GroundTruth:
    """The ground truth of a file: a table `.csv` of Landmarks, else that of a revisited set.

    Args:
        file: of either kind.
        database: the ids of the database's images.

    Raises:
        DataError: as of `read_landmarks` and `read_revisited`.
    """
    return read_landmarks(file, database) if file.suffix == ".csv" else read_revisited(file)


def rows_of(wanted: Iterable[str], known: Sequence[str], what: str) -> np.ndarray:
    """Where each id stands among those that are known, (n,) int64.

    Args:
        wanted: n ids.
        known: ids, each once.
        what: what the ids are of, for the error.

    Raises:
        DataError: ids are missing, told with their number and examples; or one is known twice.
    """
    rows = _numbered(known)
    found = [(one, rows.get(one, -1)) for one in wanted]
    _refuse_unknown([one for one, row in found if row < 0], len(found), len(rows), what)
    return np.array([row for _, row in found], dtype=np.int64)


def read_revisited(file: Path) -> GroundTruth:
    """Revisited Oxford or Paris: Radenovic et al., CVPR 2018, `gnd_roxford5k.pkl` and its like.

    The file holds the names `imlist` of the images and `qimlist` of the queries, and in `gnd` for
    each query the box `bbx` and the indices `easy`, `hard` and `junk`. The setups are made of them:
    `easy` should find the easy ones, and hard ones are junk too; `medium` both; `hard` the hard
    ones, and easy ones are junk too. A pickle is read as data only: nothing in it is called.

    Args:
        file: a pickle, or the same content as `.json`.

    Raises:
        DataError: the file is missing, cut off or no such file, wants code to be run, or its parts
            do not fit each other.
    """
    content = _content(file)
    if not isinstance(content, dict) or not {"imlist", "qimlist", "gnd"} <= content.keys():
        raise DataError(f"{file} is no ground truth of a revisited set: imlist, qimlist and gnd")
    database, queries = (_names(content[name], f"{file}: {name}") for name in ("imlist", "qimlist"))
    gnd = content["gnd"]
    if not isinstance(gnd, list | tuple) or len(gnd) != len(queries):
        raise DataError(f"{file}: gnd must be a list, one entry for each name of qimlist")
    parts: dict[str, list[np.ndarray]] = {"easy": [], "hard": [], "junk": []}
    boxes = []
    for number, (query, entry) in enumerate(zip(queries, gnd, strict=True)):
        where = f"{file}: gnd[{number}] ({query})"
        if not isinstance(entry, dict) or not {"bbx", *parts} <= entry.keys():
            raise DataError(f"{where} must have bbx, {', '.join(parts)}")
        boxes.append(_box(entry["bbx"], where))
        for name, lists in parts.items():
            lists.append(_indices(entry[name], len(database), f"{where}: {name}"))
        together = np.concatenate([lists[-1] for lists in parts.values()])
        if len(np.unique(together)) != len(together):
            raise DataError(f"{where}: an image is in two of {', '.join(parts)}")
    easy, hard, junk = (tuple(lists) for lists in parts.values())
    return GroundTruth(
        queries,
        database,
        relevant={"easy": easy, "medium": _both(easy, hard), "hard": hard},
        junk={"easy": _both(junk, hard), "medium": junk, "hard": _both(junk, easy)},
        protocol="revisited",
        boxes=np.array(boxes),
    )


def read_landmarks(
    file: Path, database: Sequence[str], usage: Collection[str] = USAGE
) -> GroundTruth:
    """Google Landmarks v2, `retrieval_solution_v2.1.csv`; or the `ground_truth.csv` of cisip-FIRe.

    Columns are `id` and `images`, ids of the database with blanks between, `None` for none; and in
    the official file `Usage`, which says of each query whether it counts. Other columns are not
    read. An id that a query lists twice counts once. The one setup is `all`.

    Args:
        file: the table, in UTF-8.
        database: the ids of the database's images, in the order of its codes.
        usage: the queries that count, of Public, Private and Ignored; of no matter where the file
            does not say.

    Raises:
        DataError: the file is missing or empty, lacks a column, or a line is malformed or names a
            query again (told by number); images are not in the database (told with their number
            and examples); an id of the database stands there twice; or no query is left.
    """
    if strange := set(usage) - {*USAGE, "Ignored"}:
        raise DataError(f"usage={sorted(strange)} is unknown; allowed: {', '.join(USAGE)}, Ignored")
    rows, unknown, listed = _numbered(database), [], 0
    found: dict[str, np.ndarray] = {}
    lines: dict[str, int] = {}
    for number, (query, images, said) in _table(file):
        if lines.setdefault(query, number) != number:
            raise DataError(f"{file}, line {number}: {query} is in line {lines[query]} already")
        if said is not None and said not in (*USAGE, "Ignored"):
            raise DataError(f"{file}, line {number}: Usage={said!r} is unknown")
        if said is not None and said not in usage:
            continue
        names = [] if images == "None" else images.split()
        listed += len(names)
        unknown += [name for name in names if name not in rows]
        found[query] = np.unique(np.array([rows.get(name, -1) for name in names], dtype=np.int64))
    if not found:
        raise DataError(f"{file}: no query is left of {len(lines)}; usage is {', '.join(usage)}")
    _refuse_unknown(unknown, listed, len(rows), f"images that {file} lists")
    none = np.zeros(0, dtype=np.int64)
    return GroundTruth(
        tuple(found),
        tuple(database),
        relevant={"all": tuple(found.values())},
        junk={"all": (none,) * len(found)},
        protocol="gldv2",
        ignored=len(lines) - len(found),
    )


def _numbered(known: Sequence[str]) -> dict[str, int]:
    rows = {name: row for row, name in enumerate(known)}
    if len(rows) != len(known):
        twice = next(name for row, name in enumerate(known) if rows[name] != row)
        raise DataError(f"{len(known) - len(rows)} ids stand twice, the first is {twice}")
    return rows


def _refuse_unknown(unknown: Sequence[str], asked: int, known: int, what: str) -> None:
    if unknown:
        shown = ", ".join([*unknown[:SHOWN], *["..."] * (len(unknown) > SHOWN)])
        raise DataError(
            f"{len(unknown)} of {asked} {what} are not among the {known} ids that are there: "
            f"{shown}. Ids are written without folder and ending; were some images left out?"
        )


def _text(file: Path) -> str:
    return read_text(file, "ground truth", LARGEST)


def _table(file: Path) -> Iterator[tuple[int, tuple[str, str, str | None]]]:
    """Number, and id, images and usage, None if there is no such column, of each line."""
    lines = _text(file).split("\n")  # the reading made it the end of all lines
    if lines[-1] == "":
        lines.pop()
    if not lines:
        raise DataError(f"the ground truth {file} is empty")
    head = [name.lower() for name in _fields(lines[0])]
    if missing := [name for name in ("id", "images") if name not in head]:
        raise DataError(
            f"{file} has no column {' and '.join(missing)}; its first line is {lines[0][:80]!r}"
        )
    columns = head.index("id"), head.index("images")
    says = head.index("usage") if "usage" in head else None
    for number, line in enumerate(lines[1:], 2):
        fields = _fields(line)
        if len(fields) != len(head) or not fields[columns[0]]:
            raise DataError(
                f"{file}, line {number}: expected {len(head)} columns, {','.join(head)}, "
                f"not {line[:80]!r}"
            )
        query, images = (fields[column] for column in columns)
        yield number, (query, images, None if says is None else fields[says])


def _fields(line: str) -> list[str]:
    """The columns of a line; none holds a comma, so quotes around one are nothing but that."""
    return [field.strip().strip('"') for field in line.split(",")]


def _content(file: Path) -> Any:
    if file.suffix != ".json":
        return read_pickle(file)
    return read_json(file, "ground truth", None, values=MOST)


def _listed(value: Any, where: str) -> list[Any]:
    if isinstance(value, Numbers):
        value = value.listed
    if not isinstance(value, list | tuple):
        raise DataError(f"{where} must be a list, not {type(value).__name__}")
    return list(value)


def _names(value: Any, where: str) -> tuple[str, ...]:
    names = _listed(value, where)
    if not names or not all(isinstance(name, str) and name for name in names):
        raise DataError(f"{where} must be names, at least one")
    if len(set(names)) != len(names):
        raise DataError(f"{where} has a name twice")
    return tuple(names)


def _indices(value: Any, size: int, where: str) -> np.ndarray:
    found = _listed(value, where)
    for one in found:
        if not isinstance(one, int) or isinstance(one, bool) or not 0 <= one < size:
            said = one if isinstance(one, int | float | str) else type(one).__name__
            raise DataError(f"{where} must be indices from 0 to {size - 1}, but has {said!r}")
    return np.unique(np.array(found, dtype=np.int64))


def _box(value: Any, where: str) -> list[float]:
    found = _listed(value, f"{where}: bbx")
    numbers = all(isinstance(x, int | float) and -_FAR < x < _FAR for x in found)
    if len(found) != 4 or not numbers or found[0] >= found[2] or found[1] >= found[3]:
        raise DataError(f"{where}: bbx must be x1, y1, x2, y2 with x1 < x2 and y1 < y2")
    return [float(x) for x in found]


def _both(one: IndexLists, other: IndexLists) -> IndexLists:
    return tuple(np.union1d(a, b) for a, b in zip(one, other, strict=True))
