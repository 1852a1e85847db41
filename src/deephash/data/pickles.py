"""A reader of pickles from untrusted sources that runs no code.

Unpickling calls whatever the file names. This reader only allows numpy arrays of numbers, and
builds them with its own stand-ins, since numpy's loaders trust their input.
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
LARGEST = 256 << 20  # bytes; the ground truths of revisited datasets take a hundredth of it


class Numbers:
    """An array of a pickle as the flat list ``values``; None if the pickle gave no numbers."""

    values: list[Any] | None = None

    def __setstate__(self, state: Any) -> None:
        """Read numpy's state: version, shape, dtype, whether in Fortran order, bytes."""
        _, shape, dtype, fortran, data = state
        self.fill(data, dtype, shape, "F" if fortran else "C")

    def fill(self, data: Any, dtype: "_Dtype", shape: Any, order: Any) -> "Numbers":
        kind = dtype.numpy()
        flat = np.frombuffer(_raw(data), kind)
        self.values = flat.reshape(shape, order=order).ravel().tolist()
        return self


class _Dtype:
    """The type of an array's numbers; fields and objects are not supported."""

    def __init__(self, code: str, *_: Any) -> None:
        self.code, self.order = code, "="

    def __setstate__(self, state: Any) -> None:
        """Read numpy's state: version, byte order, and what plain numbers do not need."""
        self.order = state[1]

    def numpy(self) -> np.dtype[Any]:
        if not _CODE.fullmatch(self.code) or self.order not in _ORDERS:
            raise pickle.UnpicklingError(f"an array of {self.order}{self.code}, not of numbers")
        return np.dtype(self.order + self.code)


class _Unpickler(pickle.Unpickler):
    """Allow a few names; each is a new function, so that a pickle cannot modify it for the next."""

    def find_class(self, module: str, name: str) -> Callable[..., Any]:
        module = {"__builtin__": "builtins"}.get(module, module)
        requested = f"{module.replace('numpy._core', 'numpy.core')}.{name}"
        if requested == "numpy.core.multiarray._reconstruct":
            return lambda *_: Numbers()
        if requested == "numpy.core.numeric._frombuffer":
            return lambda data, dtype, shape, order: Numbers().fill(data, dtype, shape, order)
        if requested == "numpy.core.multiarray.scalar":
            return lambda dtype, data: np.frombuffer(_raw(data), dtype.numpy()).item()
        if requested == "numpy.dtype":
            return lambda *given: _Dtype(*given)
        if requested == "_codecs.encode":  # of bytes, in old pickles
            return lambda text, _: text.encode("latin1")
        if requested == "builtins.bytes":
            return lambda: b""
        if requested == "numpy.ndarray":
            return lambda: None  # only passed on to _reconstruct
        raise pickle.UnpicklingError(
            f"it would call {requested}; only lists, text and numbers are read. Write the same "
            "content as .json"
        )


def read_pickle(file: Path) -> Any:
    """Return the dictionaries, lists, text and numbers of a pickle; arrays are :class:`Numbers`.

    Text written by Python 2 is decoded as Latin-1.

    Raises:
        DataError: the file is missing, truncated or no pickle, or would call anything else.
    """
    data = read_bytes(file, "pickle", LARGEST)
    try:
        for code, given, _ in pickletools.genops(data):
            if code.name in _MEMO and int(given or 0) > len(data):  # memory is reserved up to it
                raise pickle.UnpicklingError(f"place {given} of its memory")
        return _Unpickler(io.BytesIO(data), encoding="latin1").load()
    except Exception as error:  # of many types, depending on the damage
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise DataError(f"{file} cannot be read as a pickle of data: {reason}") from error


def _raw(data: Any) -> bytes:
    if not isinstance(data, str | bytes | bytearray):
        raise pickle.UnpicklingError(f"an array of {type(data).__name__}, not of bytes")
    return data.encode("latin1") if isinstance(data, str) else bytes(data)
