"""Splits in files: our own packed format, guarded by its fingerprint, and HashNet's lists."""

import glob
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

from deephash.data.catalogue import Catalogue
from deephash.data.sources.list_parser import BLANKS, content, leads_down
from deephash.data.splits.base import Split
from deephash.data.splits.protocols import fingerprint
from deephash.errors import DataError, FileError, os_reason
from deephash.utils import program
from deephash.utils.files import MOST_VALUES, decode, parse_json, write_atomic

ENDING = ".split.xz"
WHAT = "split file"
VALUES_A_BYTE = 50
FORMAT, VERSION = "deephash split", 1
PACKING = [{"id": lzma.FILTER_LZMA2, "preset": 6}]
LISTS = {"train": "train.txt", "queries": "test.txt", "database": "database.txt"}

KINDS: dict[str, tuple[type, ...]] = {
    "classes": (list,),
    "dataset": (str,),
    "exclude_self": (bool,),
    "fingerprint": (str,),
    "ids": (list,),
    "labels": (list,),
    "lists": (dict,),
    "origin": (str, dict),
    "places": (list, type(None)),
    "protocol": (str,),
    "roles": (dict,),
    "seed": (int,),
}


@dataclass(frozen=True)
class Header:
    """What a split file says of itself."""

    dataset: str
    protocol: str  # its name, in the dataset's yaml
    seed: int  # of the protocol
    origin: str | dict[str, Any]  # what it was made from: recipe and arguments, or plain words
    lists: dict[str, str]  # lists it was made from: file name -> sha1 of its text, unpacked
    exclude_self: bool  # whether a query is taken out of what it is searched in itself
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
    """Write a split as one packed text, byte by byte the same for the same input.

    The text is JSON: all images of the catalogue, a line each, and the rows of each role in order.
    Nothing needs to train. Validation items are not in it: they are drawn when it is read.

    Args:
        path: ends in `.split.xz`.
        catalogue: n images.
        split: their roles.
        dataset: its name.
        protocol: name of the protocol that made the split.
        seed: of that protocol.
        origin: what the split was made from, as JSON holds it.
        lists: sha1 of the unpacked text of each list that it was made from, by file name.

    Returns:
        The fingerprint.

    Raises:
        DataError: the name ends otherwise, there is no query or no database, a role has an image
            twice, or the file cannot be written.

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
    bounds = catalogue.labels.indptr.tolist()
    indices = catalogue.labels.indices.tolist()
    places = None if catalogue.places == catalogue.ids else catalogue.places
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
        "places": None if places is None else list(places),
        "labels": [indices[a:b] for a, b in itertools.pairwise(bounds)],
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
        the images, with the rows of each role as lists, and the header.

    Raises:
        DataError: it cannot be read, is no split file, or has changed since it was written.

    Example:
        >>> from deephash.data import Digits, PerClass
        >>> images, path = Digits().load(), Path("digits.split.xz")
        >>> split = PerClass(queries=10, train=50).split(images)
        >>> fingerprint = write_split(path, images, split, dataset="digits", protocol="per_class")
        >>> catalogue, header = read_split(path)
        >>> len(catalogue.lists["train"]), header.fingerprint == fingerprint
        (500, True)
    """
    data = content(path, WHAT)
    # An image has an id of its own, and with it about ten values, in a few bytes at least.
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
            f"{path} has version {values.get('version')} of its format, and this program reads "
            f"{VERSION}: make it again with `{program.command('data')} prepare`, or update deephash"
        )
    again = f"Fetch it again, or make it again with `{program.command('data')} prepare`"
    try:
        sound = values.pop("checksum", None) == _checksum(values)
    except (TypeError, ValueError) as error:  # keys of several kinds, for example
        raise DataError(f"{path} is malformed: {error}. {again}") from error
    if not sound:
        raise DataError(
            f"{path} was changed after it was written: its checksum is not that of what it holds. "
            + again
        )
    try:
        catalogue = _catalogue(values)
    except (ValueError, DataError) as error:
        raise DataError(f"{path} is malformed: {error}. {again}") from error
    none = np.zeros(0, np.int64)
    roles = {role: (catalogue.lists or {}).get(role, none) for role in LISTS}
    own = values["exclude_self"]
    found = fingerprint(catalogue, Split(**roles, validation=none, exclude_self=own))
    if found != values["fingerprint"]:
        raise DataError(
            f"{path} has the fingerprint {values['fingerprint'][:16]}, and what it holds "
            f"{found[:16]}: it was changed after it was written. {again}"
        )
    return catalogue, Header(**{key: values[key] for key in Header.__dataclass_fields__})


def write_lists(
    folder: Path, catalogue: Catalogue, split: Split, style: str = "one_hot", prefix: str = ""
) -> None:
    """Write a split as HashNet's lists: `train.txt` if anything trains, `test.txt`, `database.txt`.

    `Lists` reads them back; where an image's place is not its id, with an `identity`. Images
    without a role and validation items are in none of them, and the names of classes neither.

    Args:
        folder: of the lists.
        catalogue: n images.
        split: their roles.
        style: `one_hot`, a column of 0 or 1 for each class; or `index`, one class index.
        prefix: is written before each path.

    Raises:
        DataError: a path cannot stand in a list, labels do not fit the style, nobody asks or is
            searched, a role has an image twice, or a file cannot be written.
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
        paths = [prefix + _listable(places[row], prefix) for row in rows]
        labels = _labels_as_text(catalogue.labels[rows], style)
        texts[name] = "".join(f"{path}{end}\n" for path, end in zip(paths, labels, strict=True))
    for name, text in texts.items():
        _write(folder / name, text.encode())


def _labels_as_text(labels: csr_array, style: str) -> list[str]:
    """The labels of each row as they stand behind a path, with a blank before each."""
    rows, count = labels.shape
    if style == "index":
        several = int((np.diff(labels.indptr) != 1).sum())
        if several:
            raise DataError(
                f"style=index needs one label an image; {several} of {rows} have several or none. "
                "Write style=one_hot"
            )
        return [f" {index}" for index in labels.indices]
    if style != "one_hot":
        raise DataError(f"style={style} is unknown: one_hot or index")
    if count == 1:
        raise DataError(
            "a list with one column of labels would be read as class indices: write style=index"
        )
    marks = np.full((rows, 2 * count), ord(" "), np.uint8)
    marks[:, 1::2] = labels.toarray() + np.uint8(ord("0"))
    return [row.tobytes().decode() for row in marks]


def _listable(place: str, prefix: str) -> str:
    """A path, if it can stand in a list behind a prefix and be read back."""
    path = prefix + place
    try:
        path.encode()
    except UnicodeEncodeError:
        fault = "is no UTF-8"
    else:
        fault = ""
        if any(blank in path for blank in BLANKS + "\n"):
            fault = "has a blank"
        elif "\\" in path:
            fault = "has a backslash, as paths of Windows do"
        elif path.startswith("\ufeff"):
            fault = "begins with a byte order mark"
        elif not leads_down(place) or place.startswith("./"):
            fault = "does not lead down from a folder"
    if fault:
        raise DataError(
            f"the path {path!r} {fault}, which HashNet's lists cannot hold. Rename the file, or "
            f"keep the split as {ENDING}"
        )
    return place


def _check_role(role: str, rows: Sequence[int]) -> None:
    if not rows and role != "train":
        raise DataError(f"the role {role} has no image")
    if len(set(rows)) != len(rows):
        raise DataError(f"the role {role} has an image twice")


def _text(values: Mapping[str, Any]) -> str:
    """JSON with sorted keys; images, roles and other entries have a line each."""
    entries = []
    for key in sorted(values):
        value = values[key]
        if isinstance(value, list):
            held = "[\n" + ",\n".join(map(json.dumps, value)) + "\n]"
        elif isinstance(value, dict):
            lines = (
                f"{json.dumps(k)}: {json.dumps(v, sort_keys=True)}"
                for k, v in sorted(value.items())
            )
            held = "{\n" + ",\n".join(lines) + "\n}"
        else:
            held = json.dumps(value)
        entries.append(f"{json.dumps(key)}: {held}")
    return "{\n" + ",\n".join(entries) + "\n}\n"


def _checksum(values: Mapping[str, Any]) -> str:
    return hashlib.sha256(_text(values).encode("ascii")).hexdigest()


def _catalogue(values: Mapping[str, Any]) -> Catalogue:
    """The images of a split file.

    Raises:
        ValueError: an entry is missing, or of another kind than it should be.
    """
    for key, kind in KINDS.items():
        if key not in values or type(values[key]) not in kind:
            raise ValueError(f"{key} is not as it should be")
    ids, places, classes = values["ids"], values["places"], values["classes"]
    for key, some in (("ids", ids), ("places", places or []), ("classes", classes)):
        if not all(isinstance(one, str) for one in some):
            raise ValueError(f"{key} are not all text")
    if not all(isinstance(one, str) for one in values["lists"].values()):
        raise ValueError("lists must have sums")
    rows = values["labels"]
    if len(rows) != len(ids) or not all(isinstance(row, list) for row in rows):
        raise ValueError(f"there are {len(ids)} ids and {len(rows)} rows of labels")
    for row in rows:
        if not _within(row, len(classes)) or row != sorted(set(row)):
            raise ValueError(f"{row} are no labels of {len(classes)} classes")
    if sorted(values["roles"]) != sorted(LISTS):
        raise ValueError(f"the roles are {', '.join(values['roles'])}")
    for role, chosen in values["roles"].items():
        if not isinstance(chosen, list) or not _within(chosen, len(ids)):
            raise ValueError(f"the role {role} names rows that are not there")
        _check_role(role, chosen)
    bounds = np.cumsum([0, *map(len, rows)])
    indices = np.array([one for row in rows for one in row], np.int64)
    labels = csr_array((np.ones(len(indices), bool), indices, bounds), (len(ids), len(classes)))
    return Catalogue(
        ids=tuple(ids),
        labels=labels,
        classes=tuple(classes),
        lists={role: np.array(rows, np.int64) for role, rows in values["roles"].items() if rows},
        places=None if places is None else tuple(places),
    )


def _within(numbers: Sequence[Any], count: int) -> bool:
    return all(type(one) is int and 0 <= one < count for one in numbers)


def _write(path: Path, data: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for left in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):  # of a killed write
            left.unlink(missing_ok=True)
        write_atomic(path, lambda beside: beside.write_bytes(data))
    except OSError as error:
        raise DataError(f"cannot write {path}: {os_reason(error)}") from error
