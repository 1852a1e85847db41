"""Inputs that are read when they are asked for: image files without a cache, rows of an array."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

COPIED = 1 << 30  # bytes up to which selected rows are copied rather than looked up
CHECKED = 1 << 24  # bytes that are checked at once
THREADS = 4  # that check


class Lazy(ABC):
    """The inputs of n images, read when they are asked for.

    Indexed like an array by its rows alone: one row, a slice, an array of rows or of n bools. What
    comes is an array in memory. Several threads may ask at a time.
    """

    shape: tuple[int, ...]  # (n, ...)
    dtype: np.dtype

    @abstractmethod
    def read(self, rows: np.ndarray) -> np.ndarray:
        """Rows by number, in the order given: (k,) -> (k, ...)."""

    @property
    def nbytes(self) -> int:
        """Bytes of all rows."""
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: int | slice | np.ndarray | Sequence[int]) -> np.ndarray:
        wanted = np.arange(len(self))[rows]
        return self.read(wanted[None])[0] if wanted.ndim == 0 else self.read(wanted)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self[:], dtype)


class Undecoded(Lazy):
    """Image files as pixels, (n, 3, size, size) uint8, decoded anew whenever they are asked for.

    Args:
        root: the folder of the files.
        places: n paths below it.
        decode: the pixels of a file, (3, size, size) uint8. What it raises is raised when the
            file's row is read.
        size: side of the squares, in pixels.
        workers: decoding threads.
    """

    def __init__(
        self,
        root: Path,
        places: Sequence[str],
        decode: Callable[[Path], np.ndarray],
        size: int,
        workers: int,
    ):
        self.root = root
        self.places = places
        self.decode = decode
        self.shape = (len(places), 3, size, size)
        self.dtype = np.dtype(np.uint8)
        self._pool = ThreadPoolExecutor(workers)

    def read(self, rows: np.ndarray) -> np.ndarray:
        pixels = np.empty((len(rows), *self.shape[1:]), np.uint8)

        def fill(place: int) -> None:
            pixels[place] = self.decode(self.root / self.places[rows[place]])

        for _ in self._pool.map(fill, range(len(rows))):
            pass
        return pixels


class Stacked(Lazy):
    """Arrays under each other, (n, D) floats in all.

    Args:
        parts: arrays of one width, in memory, memory-mapped, or open datasets of HDF5.
        origins: the file of each part, and the rows of the file that the part holds (None: all of
            them, in their order); for messages.
    """

    def __init__(
        self,
        parts: Sequence[Any],
        origins: Sequence[tuple[Path, np.ndarray | None]] | None = None,
    ):
        self.parts = parts
        self.origins = origins
        self.starts = np.cumsum([0, *(len(part) for part in parts)])
        self.shape = (int(self.starts[-1]), *parts[0].shape[1:])
        half = all(part.dtype == np.float16 for part in parts)
        self.dtype = np.dtype(np.float16 if half else np.float32)

    def read(self, rows: np.ndarray) -> np.ndarray:
        out = np.empty((len(rows), *self.shape[1:]), self.dtype)
        which = np.searchsorted(self.starts, rows, side="right") - 1
        for number, part in enumerate(self.parts):
            here = np.flatnonzero(which == number)
            if len(here):
                # each row once and ascending, as HDF5 wants them
                asked, back = np.unique(rows[here] - self.starts[number], return_inverse=True)
                with np.errstate(over="ignore"):  # beyond float32 becomes inf, which is refused
                    out[here] = part[asked][back]
        return out


class Selected(Lazy):
    """Some rows of inputs, in an order of their own, looked up when they are asked for.

    Args:
        inputs: an array, memory-mapped or not, or other lazy inputs.
        rows: (k,) numbers of its rows.
    """

    def __init__(self, inputs: Any, rows: np.ndarray):
        self.inputs = inputs
        self.rows = rows
        self.shape = (len(rows), *inputs.shape[1:])
        self.dtype = inputs.dtype

    def read(self, rows: np.ndarray) -> np.ndarray:
        inputs: np.ndarray = self.inputs[self.rows[rows]]
        return inputs


def not_finite(inputs: Any, rows: np.ndarray) -> np.ndarray:
    """Find the rows of float inputs that hold NaN or an infinite value.

    Reads each of the rows once, a block at a time, in threads.

    Args:
        inputs: (n, D) floats: an array, or inputs that are indexed by rows.
        rows: (k,) numbers of the rows to look at.

    Returns:
        Those of the rows that are not finite, in the order given.
    """
    if not len(rows):
        return rows
    step = max(1, CHECKED // max(1, inputs.nbytes // len(inputs)))
    blocks = [rows[start : start + step] for start in range(0, len(rows), step)]

    def finite(block: np.ndarray) -> np.ndarray:
        whole: np.ndarray = np.isfinite(inputs[block]).all(axis=1)
        return whole

    with ThreadPoolExecutor(THREADS) as pool:
        wrong: np.ndarray = rows[~np.concatenate(list(pool.map(finite, blocks)))]
        return wrong


def origin(inputs: Any, row: int) -> str | None:
    """Say in which file a row of inputs is, and in which of its rows; None if that is not known."""
    if isinstance(inputs, Selected):
        return origin(inputs.inputs, int(inputs.rows[row]))
    if isinstance(inputs, Stacked) and inputs.origins is not None:
        part = int(np.searchsorted(inputs.starts, row, side="right")) - 1
        file, rows = inputs.origins[part]
        place = row - int(inputs.starts[part])
        return f"{file}, row {place if rows is None else int(rows[place])}"
    mapped = getattr(inputs, "filename", None)  # of a memory map
    return None if mapped is None else str(mapped)


def take(inputs: Any, rows: np.ndarray) -> Any:
    """Some rows of inputs, without reading more than `COPIED` bytes.

    Args:
        inputs: (n, ...) an array, or inputs that are indexed by rows.
        rows: (k,) their numbers, ascending.

    Returns:
        Of an array, a view where the rows lie together, else a copy; where that would be large, and
        of what is no array, `Selected`.
    """
    if isinstance(inputs, np.ndarray):
        if len(rows) and rows[-1] - rows[0] + 1 == len(rows):
            return inputs[rows[0] : rows[-1] + 1]
        if len(rows) * (inputs.nbytes // max(1, len(inputs))) <= COPIED:
            return inputs[rows]
    return Selected(inputs, rows)
