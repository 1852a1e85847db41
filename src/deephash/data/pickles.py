"""Pickles of foreign data, read without letting them call anything.

Whoever unpickles runs what the file asks for. Here it can ask for numpy's arrays of numbers only,
and gets stand-ins for their makers: neither code nor numpy's own loaders, which trust their input.
"""

import io
import pickle
import pickletools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from deephash.errors import DataError
from deephash.utils.files import read_bytes

_CODE = re.compile(r"[iuf][1248]")
_ORDERS = ("<", ">", "|", "=")
_MEMO = ("PUT", "BINPUT", "LONG_BINPUT")
LARGEST = 256 << 20  # bytes; the ground truths of revisited sets have a hundredth of it


class Numbers:
    """An array of a pickle: ``listed``, number after number; None if the pickle gave none."""

    listed: list[Any] | None = None

    def __setstate__(self, state: Any) -> None:
        """As numpy writes it: version, shape, dtype, whether by column, bytes."""
        _, shape, dtype, by_column, data = state
        self.fill(data, dtype, shape, "F" if by_column else "C")

    def fill(self, data: Any, dtype: "_Dtype", shape: Any, order: Any) -> "Numbers":
        kind = dtype.numpy()
        flat = np.frombuffer(_raw(data), kind)
        self.listed = flat.reshape(shape, order=order).ravel().tolist()
        return self


class _Dtype:
    """The type of an array's numbers; fields and objects are not known."""

    def __init__(self, code: str, *_: Any) -> None:
        self.code, self.order = code, "="

    def __setstate__(self, state: Any) -> None:
        """As numpy writes it: version, byte order, and what plain numbers do not need."""
        self.order = state[1]

    def numpy(self) -> np.dtype[Any]:
        if not _CODE.fullmatch(self.code) or self.order not in _ORDERS:
            raise pickle.UnpicklingError(f"an array of {self.order}{self.code}, not of numbers")
        return np.dtype(self.order + self.code)


class _Data(pickle.Unpickler):
    """What a pickle may ask for; a new function each time, so that nothing it changes stays."""

    def find_class(self, module: str, name: str) -> Callable[..., Any]:
        room = {"__builtin__": "builtins"}.get(module, module.replace("numpy._core", "numpy.core"))
        asked = f"{room}.{name}"
        if asked == "numpy.core.multiarray._reconstruct":
            return lambda *_: Numbers()
        if asked == "numpy.core.numeric._frombuffer":
            return lambda data, dtype, shape, order: Numbers().fill(data, dtype, shape, order)
        if asked == "numpy.core.multiarray.scalar":
            return lambda dtype, data: np.frombuffer(_raw(data), dtype.numpy()).item()
        if asked == "numpy.dtype":
            return lambda *given: _Dtype(*given)
        if asked == "_codecs.encode":  # of bytes, in old pickles
            return lambda text, _: text.encode("latin1")
        if asked == "builtins.bytes":
            return lambda: b""
        if asked == "numpy.ndarray":
            return lambda: None  # only handed on to _reconstruct
        raise pickle.UnpicklingError(
            f"it wants to call {asked}, and only lists, text and numbers are read. Write the same "
            "content as .json"
        )


def read_pickle(file: Path) -> Any:
    """Dictionaries, lists, text and numbers of a pickle; arrays are :class:`Numbers`.

    Text of Python 2 is read as Latin-1.

    Raises:
        DataError: the file is missing or cut off, is no pickle, or asks for anything else.
    """
    data = read_bytes(file, "pickle", LARGEST)
    try:
        for code, given, _ in pickletools.genops(data):
            if code.name in _MEMO and int(given or 0) > len(data):  # it reserves all up to it
                raise pickle.UnpicklingError(f"place {given} of its memory")
        return _Data(io.BytesIO(data), encoding="latin1").load()
    except Exception as error:  # a dozen kinds, by what was changed
        said = " ".join(str(error).split())[:300] or type(error).__name__
        raise DataError(f"{file} cannot be read as a pickle of data: {said}") from error


def _raw(data: Any) -> bytes:
    if not isinstance(data, str | bytes | bytearray):
        raise pickle.UnpicklingError(f"an array of {type(data).__name__}, not of bytes")
    return data.encode("latin1") if isinstance(data, str) else bytes(data)
