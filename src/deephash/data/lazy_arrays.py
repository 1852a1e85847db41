"""Arrays whose rows are read on access: image files without a cache, rows of other arrays."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from deephash.data.prefetch import prefetch

MAX_COPY_BYTES = 1 << 30  # of selected rows that are copied instead of looked up on access
CHECK_BYTES = 1 << 24  # of the blocks that are checked for NaN and infinity
CHECK_THREADS = 4


class LazyArray(ABC):
    """The inputs of n images, read on access. Safe to read from several threads.

    Indexed like an array by its first axis: one row, a slice, an array of rows or of n bools. The
    result is an array in memory.
    """

    shape: tuple[int, ...]  # (n, ...)
    dtype: np.dtype

    @abstractmethod
    def read(self, rows: np.ndarray) -> np.ndarray:
        """Return rows by number, in the order given: (k,) -> (k, ...)."""

    @property
    def nbytes(self) -> int:
        """Size of all rows in bytes."""
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: int | slice | np.ndarray | Sequence[int]) -> np.ndarray:
        numbers = np.arange(len(self))[rows]
        return self.read(numbers[None])[0] if numbers.ndim == 0 else self.read(numbers)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self[:], dtype)


class Undecoded(LazyArray):
    """Image files as (n, 3, size, size) uint8, decoded on each access.

    Args:
        root: folder of the files.
        places: n paths below it.
        decode: returns the pixels of a file, (3, size, size) uint8. Its exceptions are raised when
            the row of the file is read.
        size: side of the squares in pixels.
        workers: number of decoding threads.
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

        def fill(position: int) -> None:
            pixels[position] = self.decode(self.root / self.places[rows[position]])

        for _ in self._pool.map(fill, range(len(rows))):
            pass  # raises the exceptions of `decode`
        return pixels


class Stacked(LazyArray):
    """Arrays concatenated along the first axis, (n, D) floats in all.

    Args:
        parts: arrays of one width, in memory, memory-mapped, or open HDF5 datasets.
        origins: for messages, the file of each part and the rows of the file that the part holds
            (None: all of them, in their order).
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
        result = np.empty((len(rows), *self.shape[1:]), self.dtype)
        part_numbers = np.searchsorted(self.starts, rows, side="right") - 1
        for number, part in enumerate(self.parts):
            positions = np.flatnonzero(part_numbers == number)
            if len(positions):
                # HDF5 requires unique rows in ascending order
                part_rows, inverse = np.unique(
                    rows[positions] - self.starts[number], return_inverse=True
                )
                with np.errstate(over="ignore"):  # overflow becomes inf, which is refused later
                    result[positions] = part[part_rows][inverse]
        return result


class Selected(LazyArray):
    """Rows of other inputs in a given order, looked up on access.

    Args:
        inputs: an array, memory-mapped or not, or a lazy array.
        rows: (k,) row numbers.
    """

    def __init__(self, inputs: Any, rows: np.ndarray):
        self.inputs = inputs
        self.rows = rows
        self.shape = (len(rows), *inputs.shape[1:])
        self.dtype = inputs.dtype

    def read(self, rows: np.ndarray) -> np.ndarray:
        selected: np.ndarray = self.inputs[self.rows[rows]]
        return selected


def nonfinite_rows(inputs: Any, rows: np.ndarray) -> np.ndarray:
    """Return those rows (k,) of float inputs (n, D) that contain NaN or an infinite value.

    Each row is read once, by threads.
    """
    if not len(rows):
        return rows
    step = max(1, CHECK_BYTES // max(1, inputs.nbytes // len(inputs)))
    blocks = [rows[start : start + step] for start in range(0, len(rows), step)]
    finite = prefetch(lambda block: np.isfinite(inputs[block]).all(axis=1), blocks, CHECK_THREADS)
    broken: np.ndarray = rows[~np.concatenate(list(finite))]
    return broken


def row_origin(inputs: Any, row: int) -> str | None:
    """Return the file of a row of inputs and its row there, for messages; None if unknown."""
    if isinstance(inputs, Selected):
        return row_origin(inputs.inputs, int(inputs.rows[row]))
    if isinstance(inputs, Stacked) and inputs.origins is not None:
        part = int(np.searchsorted(inputs.starts, row, side="right")) - 1
        file, rows = inputs.origins[part]
        part_row = row - int(inputs.starts[part])
        return f"{file}, row {part_row if rows is None else int(rows[part_row])}"
    mapped = getattr(inputs, "filename", None)  # of a memory map
    return None if mapped is None else str(mapped)


def select_rows(inputs: Any, rows: np.ndarray) -> Any:
    """Select rows of inputs (n, ...), given in ascending order.

    The result is a view of an array if the rows are contiguous, otherwise a copy. It is `Selected`
    if the copy would have more than ``MAX_COPY_BYTES``, and for lazy arrays.
    """
    if isinstance(inputs, np.ndarray):
        if len(rows) and rows[-1] - rows[0] + 1 == len(rows):
            return inputs[rows[0] : rows[-1] + 1]
        if len(rows) * (inputs.nbytes // max(1, len(inputs))) <= MAX_COPY_BYTES:
            return inputs[rows]
    return Selected(inputs, rows)
