"""Readers of the ground-truth files of instance-level datasets."""

import io
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from deephash.errors import DataError
from deephash.utils.files import read_bytes, read_json, read_text
from deephash.utils.ground_truth import GroundTruth, find_rows
from deephash.utils.torch_files import Unread, described, read_pickle

USAGE = ("Public", "Private")
"""The values of ``Usage`` in Google Landmarks v2 whose queries count; the others are Ignored."""

LARGEST, MOST, PICKLE_LARGEST = 1 << 30, 20_000_000, 256 << 20
"""Limits on the bytes of a table, the values of a JSON file, and the bytes of a pickle."""

_FAR = 1e9  # limit on the pixel coordinates of a box; excludes NaN


def read_ground_truth(file: Path, database: Sequence[str]) -> GroundTruth:
    """Read a ground-truth file: a Landmarks table (`.csv`), otherwise that of a revisited dataset.

    Args:
        file: of either kind.
        database: ids of the database images.

    Raises:
        DataError: see `read_landmarks` and `read_revisited`.
    """
    return read_landmarks(file, database) if file.suffix == ".csv" else read_revisited(file)


def read_revisited(file: Path) -> GroundTruth:
    """Read Revisited Oxford or Paris (Radenovic et al., CVPR 2018), such as `gnd_roxford5k.pkl`.

    The file contains the names `imlist` of the images and `qimlist` of the queries, and in `gnd`
    for each query the box `bbx` and the indices `easy`, `hard` and `junk`. Three setups are built
    from them. `easy`: easy images are relevant, hard ones are junk. `medium`: both are relevant.
    `hard`: hard images are relevant, easy ones are junk. Pickles are read as data only; nothing
    in them is called.

    Args:
        file: a pickle, or the same content as `.json`.

    Raises:
        DataError: the file is missing, truncated or of another kind, has anything but data, or its
            parts do not fit each other.
    """
    if file.suffix == ".json":
        content = read_json(file, "ground truth", None, values=MOST)
    else:
        content = read_pickle(io.BytesIO(read_bytes(file, "pickle", PICKLE_LARGEST)), file)
    if not isinstance(content, dict) or not {"imlist", "qimlist", "gnd"} <= content.keys():
        raise DataError(
            f"{file} is not the ground truth of a revisited dataset, with imlist, qimlist and gnd"
        )
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

    def joined(*names: str) -> list[np.ndarray]:
        lists = zip(*(parts[name] for name in names), strict=True)
        return [np.concatenate(of_query) for of_query in lists]

    return GroundTruth.of(
        len(database),
        relevant={
            "easy": parts["easy"],
            "medium": joined("easy", "hard"),
            "hard": parts["hard"],
        },
        junk={
            "easy": joined("junk", "hard"),
            "medium": parts["junk"],
            "hard": joined("junk", "easy"),
        },
        query_ids=queries,
        database_ids=database,
        protocol="revisited",
        boxes=np.array(boxes),
    )


def read_landmarks(
    file: Path, database: Sequence[str], usage: Collection[str] = USAGE
) -> GroundTruth:
    """Read Google Landmarks v2, `retrieval_solution_v2.1.csv`; or cisip-FIRe's `ground_truth.csv`.

    Columns are `id` and `images` (ids of the database separated by blanks, or `None`), and in the
    official file `Usage`, which marks the queries that count. Other columns are ignored. An id
    that a query lists twice counts once. The only setup is `all`.

    Args:
        file: the table, in UTF-8.
        database: the ids of the database's images, in the order of its codes.
        usage: the queries that count, of Public, Private and Ignored; without effect if the file
            has no such column.

    Raises:
        DataError: the file is missing or empty, lacks a column, or a line is malformed or repeats
            a query (with its number); images are not in the database (with their number and
            examples); an id of the database is repeated; or no query is left.
    """
    if strange := set(usage) - {*USAGE, "Ignored"}:
        raise DataError(f"usage={sorted(strange)} is unknown; allowed: {', '.join(USAGE)}, Ignored")
    listed: dict[str, list[str]] = {}
    lines: dict[str, int] = {}
    for number, query, images, marked in _table(file):
        if lines.setdefault(query, number) != number:
            raise DataError(f"{file}, line {number}: {query} is in line {lines[query]} already")
        if marked is not None and marked not in (*USAGE, "Ignored"):
            raise DataError(f"{file}, line {number}: Usage={marked!r} is unknown")
        if marked is None or marked in usage:
            listed[query] = [] if images == "None" else images.split()
    if not listed:
        raise DataError(f"{file}: no query is left of {len(lines)}; usage is {', '.join(usage)}")
    together = [name for names in listed.values() for name in names]
    rows = find_rows(together, database, f"images that {file} lists")
    ends = np.cumsum([len(names) for names in listed.values()])
    return GroundTruth.of(
        len(database),
        relevant={"all": np.split(rows, ends[:-1])},
        query_ids=tuple(listed),
        database_ids=tuple(database),
        protocol="gldv2",
        ignored=len(lines) - len(listed),
    )


def _table(file: Path) -> Iterator[tuple[int, str, str, str | None]]:
    """Yield line number, id, images and usage of each line; usage is None without that column."""
    lines = read_text(file, "ground truth", LARGEST).split("\n")  # line ends are normalised
    if lines[-1] == "":
        lines.pop()
    if not lines:
        raise DataError(f"the ground truth {file} is empty")
    header = [name.lower() for name in _cells(lines[0])]
    if missing := [name for name in ("id", "images") if name not in header]:
        raise DataError(
            f"{file} has no column {' and '.join(missing)}; its first line is {lines[0][:80]!r}"
        )
    for number, line in enumerate(lines[1:], 2):
        cells = _cells(line)
        row = dict(zip(reversed(header), reversed(cells), strict=False))  # the first of a name
        if len(cells) != len(header) or not row["id"]:
            raise DataError(
                f"{file}, line {number}: expected {len(header)} columns, {','.join(header)}, "
                f"not {line[:80]!r}"
            )
        yield number, row["id"], row["images"], row.get("usage")


def _cells(line: str) -> list[str]:
    """Split a line at commas; no cell contains one, so quotation marks are dropped."""
    return [cell.strip().strip('"') for cell in line.split(",")]


def _list(value: Any, where: str) -> list[Any]:
    if isinstance(value, np.ndarray):
        value = value.ravel().tolist()
    if isinstance(value, Unread):
        raise DataError(
            f"{where} is {described(value)}; only lists, text and numbers are read. Write the same "
            "content as .json"
        )
    if not isinstance(value, list | tuple):
        raise DataError(f"{where} must be a list, not {type(value).__name__}")
    return list(value)


def _names(value: Any, where: str) -> tuple[str, ...]:
    names = _list(value, where)
    if not names or not all(isinstance(name, str) and name for name in names):
        raise DataError(f"{where} must be names, at least one")
    if len(set(names)) != len(names):
        raise DataError(f"{where} has a name twice")
    return tuple(names)


def _indices(value: Any, size: int, where: str) -> np.ndarray:
    indices = _list(value, where)
    for index in indices:
        if not isinstance(index, int) or isinstance(index, bool) or not 0 <= index < size:
            shown = index if isinstance(index, int | float | str) else type(index).__name__
            raise DataError(f"{where} must be indices from 0 to {size - 1}, but has {shown!r}")
    return np.unique(np.array(indices, dtype=np.int64))


def _box(value: Any, where: str) -> list[float]:
    box = _list(value, f"{where}: bbx")
    numbers = all(isinstance(x, int | float) and -_FAR < x < _FAR for x in box)
    if len(box) != 4 or not numbers or box[0] >= box[2] or box[1] >= box[3]:
        raise DataError(f"{where}: bbx must be x1, y1, x2, y2 with x1 < x2 and y1 < y2")
    return [float(x) for x in box]
