"""Files of splits: a packed format with a checksum, and HashNet's lists."""

import hashlib
import itertools
import json
import lzma
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse import csr_array

from deephash.data.catalogue import BLANKS, Catalogue, is_below_root
from deephash.data.splits.base import NO_ROWS, Split
from deephash.data.splits.protocols import fingerprint
from deephash.errors import DataError, FileError, os_reason
from deephash.utils import program
from deephash.utils.files import (
    MOST_VALUES,
    decode,
    expect,
    parse_json,
    read_packed,
    remove_temporaries,
    write_atomic,
)

ENDING = ".split.xz"
WHAT = "split file"
VALUES_A_BYTE = 50
FORMAT, VERSION = "deephash split", 1
PACKING = [{"id": lzma.FILTER_LZMA2, "preset": 6}]
LISTS = {"train": "train.txt", "queries": "test.txt", "database": "database.txt"}

KINDS: dict[str, Any] = {
    "classes": list,
    "dataset": str,
    "exclude_self": bool,
    "fingerprint": str,
    "ids": list,
    "labels": list,
    "lists.*": str,
    "origin": (str, dict),
    "places": (list, None),
    "protocol": str,
    "roles.*": list,
    "seed": int,
}


@dataclass(frozen=True)
class Header:
    """The description of a split in its file."""

    dataset: str
    protocol: str  # its name in the dataset's yaml
    seed: int  # of the protocol
    origin: str | dict[str, Any]  # a description, or the recipe and its arguments
    lists: dict[str, str]  # the lists it was made from: file name -> sha1 of the unpacked text
    exclude_self: bool  # whether a query is removed from its own ranking
    fingerprint: str


def write_split(
    path: Path,
    catalogue: Catalogue,
    split: Split,
    *,
    dataset: str,
    protocol: str,
    seed: int = 0,
    origin: str | Mapping[str, Any] = "",
    lists: Mapping[str, str] | None = None,
) -> str:
    """Write a split as packed JSON; the same input gives the same bytes.

    The file contains all images of the catalogue, and the rows of each role in order. The training
    role may be empty. Validation items are not saved: they are drawn when the file is read.

    Args:
        path: ends in `.split.xz`.
        catalogue: n images.
        split: their roles.
        dataset: its name.
        protocol: name of the protocol that made the split.
        seed: of that protocol.
        origin: what the split was made from, as JSON values.
        lists: sha1 of the unpacked text of each list that it was made from, by file name.

    Returns:
        The fingerprint.

    Raises:
        DataError: the name has another ending, there is no query or no database, a role has an
            image twice, or the file cannot be written.

    Example:
        >>> from deephash.data import Digits, PerClass
        >>> images = Digits().load()
        >>> split = PerClass(queries=10, train=50).split(images)
        >>> path = Path("digits.split.xz")
        >>> len(write_split(path, images, split, dataset="digits", protocol="per_class"))
        64
    """
    if not path.name.endswith(ENDING):
        raise DataError(f"a split file is named NAME{ENDING}; this one is {path.name}")
    roles = {role: getattr(split, role).tolist() for role in LISTS}
    for role, rows in roles.items():
        _check_role(role, rows)
    starts = catalogue.labels.indptr.tolist()
    indices = catalogue.labels.indices.tolist()
    body = {
        "format": FORMAT,
        "version": VERSION,
        "dataset": dataset,
        "protocol": protocol,
        "seed": seed,
        "origin": origin if isinstance(origin, str) else dict(origin),
        "lists": dict(lists or {}),
        "classes": list(catalogue.classes),
        "ids": list(catalogue.ids),
        "places": None if catalogue.places in (None, catalogue.ids) else list(catalogue.places),
        "labels": [indices[a:b] for a, b in itertools.pairwise(starts)],
        "roles": roles,
        "exclude_self": split.exclude_self,
        "fingerprint": fingerprint(catalogue, split),
    }
    text = _text(body | {"checksum": _checksum(body)})
    packed = lzma.compress(text.encode("ascii"), check=lzma.CHECK_CRC64, filters=PACKING)
    _write(path, packed)
    return str(body["fingerprint"])


def read_split(path: Path) -> tuple[Catalogue, Header]:
    """Read a split file.

    Returns:
        The images, with the rows of each role as lists, and the header.

    Raises:
        DataError: it cannot be read, is no split file, or was changed after it was written.

    Example:
        >>> from deephash.data import Digits, PerClass
        >>> images, path = Digits().load(), Path("digits.split.xz")
        >>> split = PerClass(queries=10, train=50).split(images)
        >>> fingerprint = write_split(path, images, split, dataset="digits", protocol="per_class")
        >>> catalogue, header = read_split(path)
        >>> len(catalogue.lists["train"]), header.fingerprint == fingerprint
        (500, True)
    """
    data = read_packed(path, WHAT)
    # Each image has an id and about ten values, which take a few bytes at least.
    most = MOST_VALUES + VALUES_A_BYTE * path.stat().st_size
    try:
        text = decode(path, data, WHAT)
        values = parse_json(path, text, WHAT, None, most, lenient=True)
    except FileError as error:
        raise DataError(f"{path} is no split file of deephash: {error.reason}") from error
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        raise DataError(f"{path} is no split file of deephash")
    if values.get("version") != VERSION:
        raise DataError(
            f"{path} has version {values.get('version')} of the format, and this program reads "
            f"{VERSION}: make it again with `{program.command('data')} prepare`, or update deephash"
        )
    advice = f"Download it again, or make it again with `{program.command('data')} prepare`"
    try:
        intact = values.pop("checksum", None) == _checksum(values)
        if intact:
            expect(values, KINDS, path)
            catalogue = _catalogue(values)
    except (DataError, TypeError, ValueError) as error:  # TypeError: keys of several types
        reason = error.reason if isinstance(error, FileError) else error
        raise DataError(f"{path} is malformed: {reason}. {advice}") from error
    if not intact:
        raise DataError(
            f"{path} was changed after it was written: its checksum does not match. {advice}"
        )
    roles = {role: (catalogue.lists or {}).get(role, NO_ROWS) for role in LISTS}
    actual = fingerprint(catalogue, Split(**roles, exclude_self=values["exclude_self"]))
    if actual != values["fingerprint"]:
        raise DataError(
            f"{path} has the fingerprint {values['fingerprint'][:16]}, but its content has "
            f"{actual[:16]}: it was changed after it was written. {advice}"
        )
    return catalogue, Header(**{key: values[key] for key in Header.__dataclass_fields__})


def write_lists(
    folder: Path, catalogue: Catalogue, split: Split, style: str = "one_hot", prefix: str = ""
) -> None:
    """Write a split as HashNet's lists: `train.txt` if anything trains, `test.txt`, `database.txt`.

    `Lists` reads them back, with an `identity` if paths are not ids. Images without a role,
    validation items and class names are not written.

    Args:
        folder: of the lists.
        catalogue: n images.
        split: their roles.
        style: `one_hot`, a column of 0 or 1 for each class; or `index`, one class index.
        prefix: written before each path.

    Raises:
        DataError: a list cannot contain a path, labels do not fit the style, there is no query or
            no database, a role has an image twice, or a file cannot be written.
    """
    places = catalogue.places or catalogue.ids
    texts = {}
    for role, name in LISTS.items():
        rows = getattr(split, role)
        _check_role(role, rows.tolist())
        if len(rows) == 0:
            if (folder / name).exists():
                raise DataError(f"nothing trains in this split: remove {folder / name}")
            continue
        paths = [_listed_path(prefix, places[row]) for row in rows]
        labels = _labels_as_text(catalogue.labels[rows], style)
        texts[name] = "".join(f"{path}{end}\n" for path, end in zip(paths, labels, strict=True))
    for name, text in texts.items():
        _write(folder / name, text.encode())


def _labels_as_text(labels: csr_array, style: str) -> list[str]:
    """Return the text after the path of each row: its labels, with a blank before each."""
    rows, count = labels.shape
    if style == "index":
        several = int((np.diff(labels.indptr) != 1).sum())
        if several:
            raise DataError(
                f"style=index needs one label per image; {several} of {rows} have several or none. "
                "Use style=one_hot"
            )
        return [f" {index}" for index in labels.indices]
    if style != "one_hot":
        raise DataError(f"style={style} is unknown: one_hot or index")
    if count == 1:
        raise DataError(
            "a list with one column of labels would be read as class indices: use style=index"
        )
    marks = np.full((rows, 2 * count), ord(" "), np.uint8)
    marks[:, 1::2] = labels.toarray() + np.uint8(ord("0"))
    return [row.tobytes().decode() for row in marks]


def _listed_path(prefix: str, place: str) -> str:
    """Return prefix and path, if they can be read back from a list."""
    path = prefix + place
    if any("\ud800" <= character <= "\udfff" for character in path):
        fault = "is not UTF-8"
    elif "\0" in path:
        fault = "has a zero byte"
    elif any(blank in path for blank in BLANKS + "\n"):
        fault = "has a blank"
    elif "\\" in path:
        fault = "has a backslash, as Windows paths do"
    elif path.startswith("\ufeff"):
        fault = "begins with a byte order mark"
    elif not is_below_root(place) or place.startswith("./"):
        fault = "does not lead down from a folder"
    else:
        return path
    raise DataError(
        f"the path {path!r} {fault}, which HashNet's lists cannot contain. Rename the file, or "
        f"save the split as {ENDING}"
    )


def _check_role(role: str, rows: Sequence[int]) -> None:
    if not rows and role != "train":
        raise DataError(f"the role {role} has no image")
    if len(set(rows)) != len(rows):
        raise DataError(f"the role {role} has an image twice")


def _text(values: Mapping[str, Any]) -> str:
    """Return JSON with sorted keys, with one line for each image, role and other entry."""
    entries = []
    for key in sorted(values):
        value = values[key]
        if isinstance(value, list):
            text = "[\n" + ",\n".join(map(json.dumps, value)) + "\n]"
        elif isinstance(value, dict):
            lines = (
                f"{json.dumps(k)}: {json.dumps(v, sort_keys=True)}"
                for k, v in sorted(value.items())
            )
            text = "{\n" + ",\n".join(lines) + "\n}"
        else:
            text = json.dumps(value)
        entries.append(f"{json.dumps(key)}: {text}")
    return "{\n" + ",\n".join(entries) + "\n}\n"


def _checksum(values: Mapping[str, Any]) -> str:
    return hashlib.sha256(_text(values).encode("ascii")).hexdigest()


def _catalogue(values: Mapping[str, Any]) -> Catalogue:
    """Build the images of a split file, whose entries have the types of `KINDS`.

    Raises:
        ValueError: entries do not fit each other.
    """
    ids, places, classes = values["ids"], values["places"], values["classes"]
    for key in ("ids", "places", "classes"):
        if not all(isinstance(name, str) for name in values[key] or ()):
            raise ValueError(f"{key} are not all text")
    rows = values["labels"]
    if len(rows) != len(ids) or not all(isinstance(row, list) for row in rows):
        raise ValueError(f"there are {len(ids)} ids and {len(rows)} rows of labels")
    for row in rows:
        if not _are_indices(row, len(classes)) or row != sorted(set(row)):
            raise ValueError(f"{row} are no labels of {len(classes)} classes")
    if sorted(values["roles"]) != sorted(LISTS):
        raise ValueError(f"the roles are {', '.join(values['roles'])}")
    for role, chosen in values["roles"].items():
        if not _are_indices(chosen, len(ids)):
            raise ValueError(f"the role {role} has rows that do not exist")
        _check_role(role, chosen)
    starts = np.cumsum([0, *map(len, rows)])
    indices = np.array(list(itertools.chain.from_iterable(rows)), np.int64)
    labels = csr_array((np.ones(len(indices), bool), indices, starts), (len(ids), len(classes)))
    return Catalogue(
        ids=tuple(ids),
        labels=labels,
        classes=tuple(classes),
        lists={role: np.array(rows, np.int64) for role, rows in values["roles"].items() if rows},
        places=None if places is None else tuple(places),
    )


def _are_indices(numbers: Sequence[Any], count: int) -> bool:
    return all(type(number) is int and 0 <= number < count for number in numbers)


def _write(path: Path, data: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_temporaries(path)
        write_atomic(path, lambda beside: beside.write_bytes(data))
    except OSError as error:
        raise DataError(f"cannot write {path}: {os_reason(error)}") from error
