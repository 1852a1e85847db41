"""Write and read ``codes.npz``, the packed codes of queries and database."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from deephash.errors import DataError, FileError
from deephash.retrieval.codes import check_packed
from deephash.utils import program
from deephash.utils.files import read_arrays, write_arrays

WHAT = "codes"


def _advice() -> str:
    return f"{program.command('evaluate')} run=FOLDER writes the codes of a run again."


@dataclass(frozen=True)
class StoredSide:
    """The codes of the queries or of the database, n images.

    Example:
        >>> side = StoredSide(np.zeros((2, 1), np.uint8), ids=np.array(["a", "b"]))
        >>> side.labels is None
        True
    """

    codes: npt.NDArray[np.uint8]  # (n, ceil(K / 8)), packed
    ids: npt.NDArray[Any]  # (n,) text or integers
    labels: npt.NDArray[Any] | None = None
    """(n, C) bool, or (n,) class indices of very many classes; None if lists define relevance, or
    the images have no labels."""
    undecided: npt.NDArray[np.uint8] | None = None  # as codes; None unless codes are ternary


@dataclass(frozen=True)
class StoredCodes:
    """The content of ``codes.npz``, which an evaluation writes into a run folder.

    Example:
        >>> side = StoredSide(np.zeros((2, 1), np.uint8), ids=np.array(["a", "b"]))
        >>> StoredCodes(fingerprint="", nbit=8, query=side, database=side).write(Path("codes.npz"))
        >>> codes = StoredCodes.read(Path("codes.npz"))
        >>> codes.nbit, codes.query.ids.tolist()
        (8, ['a', 'b'])
    """

    fingerprint: str  # of the data
    nbit: int  # K
    query: StoredSide
    database: StoredSide

    def write(self, path: Path) -> None:
        """Write the file, atomically."""
        arrays: dict[str, Any] = {"fingerprint": self.fingerprint, "nbit": self.nbit}
        for role, side in (("query", self.query), ("database", self.database)):
            arrays[f"{role}_codes"] = side.codes
            if side.undecided is not None:
                arrays[f"{role}_undecided"] = side.undecided
            if side.labels is not None:
                arrays[f"{role}_labels"] = side.labels
            arrays[f"{role}_ids"] = side.ids
        write_arrays(path, arrays)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read and check the file.

        Raises:
            FileError: if it is missing, damaged, or its arrays do not fit each other.
        """
        roles = ("query", "database")
        optional = [f"{role}_{name}" for role in roles for name in ("labels", "undecided")]
        required = [f"{role}_{name}" for role in roles for name in ("codes", "ids")]
        arrays = read_arrays(path, WHAT, ["fingerprint", "nbit", *required], optional, _advice())
        try:
            nbit = _nbit(arrays)
            query, database = (_side(arrays, role, nbit) for role in roles)
            for name in ("labels", "undecided"):
                if (getattr(query, name) is None) != (getattr(database, name) is None):
                    raise DataError(f"only one of its two sides has {name}")
            if query.labels is not None and database.labels is not None:
                if query.labels.ndim != database.labels.ndim:
                    raise DataError("labels are class indices on one side, and rows on the other")
                if query.labels.shape[1:] != database.labels.shape[1:]:
                    raise DataError(
                        f"labels of {query.labels.shape[1]} classes for the queries and of "
                        f"{database.labels.shape[1]} for the database"
                    )
            fingerprint = arrays["fingerprint"]
            if fingerprint.ndim or fingerprint.dtype.kind != "U":
                raise DataError(
                    f"fingerprint is {fingerprint.dtype} {fingerprint.shape}, not a text"
                )
            return cls(str(fingerprint), nbit, query, database)
        except DataError as error:
            raise FileError(path, str(error), WHAT, _advice()) from error


def read_database(path: Path) -> tuple[int, npt.NDArray[np.uint8], npt.NDArray[Any]]:
    """Read K, the packed codes and the ids of the database; nothing else is required.

    Raises:
        FileError: as of ``StoredCodes.read``.
    """
    arrays = read_arrays(path, WHAT, ["nbit", "database_codes", "database_ids"], advice=_advice())
    try:
        nbit = _nbit(arrays)
        side = _side(arrays, "database", nbit)
    except DataError as error:
        raise FileError(path, str(error), WHAT, _advice()) from error
    return nbit, side.codes, side.ids


def _nbit(arrays: Mapping[str, Any]) -> int:
    nbit = arrays["nbit"]
    if nbit.ndim or nbit.dtype.kind not in "iu" or not 1 <= int(nbit) <= np.iinfo(np.int16).max:
        raise DataError(f"nbit is {nbit.dtype} {nbit.shape}, not a number of bits")
    return int(nbit)


def _side(arrays: Mapping[str, Any], role: str, nbit: int) -> StoredSide:
    codes = check_packed(arrays[f"{role}_codes"], nbit, f"{role}_codes")
    count = len(codes)
    ids = arrays[f"{role}_ids"]
    if ids.shape != (count,) or ids.dtype.kind not in "iuU":
        raise DataError(f"{role}_ids are {ids.dtype} {ids.shape}, and there are {count} codes")
    labels, mask = arrays.get(f"{role}_labels"), arrays.get(f"{role}_undecided")
    if labels is not None and not (
        len(labels.shape) in (1, 2)
        and len(labels) == count
        and (labels.dtype == np.bool_ if labels.ndim == 2 else labels.dtype == np.int64)
    ):
        raise DataError(
            f"{role}_labels are {labels.dtype} {labels.shape}, and there are {count} codes"
        )
    if mask is not None:
        mask = check_packed(mask, nbit, f"{role}_undecided")
        if len(mask) != count:
            raise DataError(f"{role}_undecided has {len(mask)} rows, and there are {count} codes")
    return StoredSide(codes, ids, labels, mask)
