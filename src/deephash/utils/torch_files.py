"""Read files of torch and pickle as data, without calling anything that they name.

A pickle names the functions that rebuild its objects. Here it gets tensors, NumPy arrays of plain
types, containers, text and numbers. Any other object becomes an `Unread`, which keeps the name of
its class and its state: a checkpoint may hold the arguments of a script beside the weights.
"""

import io
import pickle
import pickletools
import re
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from deephash.errors import DataError
from deephash.utils.formatting import first_line

MAGIC = 0x1950A86A20F9469CFC6C  # the first number of a file of torch before 1.6
EXPANDED = 1 << 24  # elements that a tensor may have beyond those of its storage

_PLAIN = re.compile(r"[?biufc][0-9]{0,2}|[SU][0-9]+|O[0-9]?")
_MEMO = ("PUT", "BINPUT", "LONG_BINPUT")
_STORAGES = {
    "Double": torch.float64, "Float": torch.float32, "Half": torch.float16,
    "BFloat16": torch.bfloat16, "Long": torch.int64, "Int": torch.int32, "Short": torch.int16,
    "Char": torch.int8, "Byte": torch.uint8, "Bool": torch.bool, "ComplexFloat": torch.complex64,
    "ComplexDouble": torch.complex128, "Untyped": torch.uint8,
}  # fmt: skip
_KINDS = (
    (b"version https://git-lfs", "is a Git LFS pointer, not the file itself: run git lfs pull"),
    (b"\x1f\x8b", "is compressed by gzip: unpack it first"),
    (b"\xfd7zXZ", "is compressed by xz: unpack it first"),
    (b"BZh", "is compressed by bzip2: unpack it first"),
    (b"\x89HDF", "is an HDF5 file: name it .h5"),
    (b"\x93NUMPY", "is a NumPy array: name it .npy"),
    (b"MATLAB 5.0", "is a MATLAB file: name it .mat"),
)


class Unread:
    """Placeholder for an object of an unknown class.

    Attributes:
        qualified: the dotted name of its class or function.
        state: its attributes, if the file has them.
    """

    qualified = "object"
    state: Any = None

    def __new__(cls, *_: Any, **__: Any) -> "Unread":
        return super().__new__(cls)

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def _ignore(self, *_: Any) -> None:
        """Ignore the items of an unknown mapping, list or set."""

    __setitem__ = append = extend = add = _ignore


class _Dict(dict[Any, Any]):
    """A mapping of the standard library; its attributes are ignored."""

    def __setstate__(self, state: Any) -> None:
        pass


class _Array:
    """A NumPy array, filled by `__setstate__`."""

    value: Any = None

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, by_column, data = state
        self.fill(data, dtype, shape, "F" if by_column else "C")

    def fill(self, data: Any, dtype: Any, shape: Any, order: Any) -> "_Array":
        kind = dtype.numpy() if isinstance(dtype, _Dtype) else None
        if kind is None:
            self.value = Unread(dtype)
        elif kind.hasobject:
            if not isinstance(data, list) or len(data) != int(np.prod(shape)):
                raise pickle.UnpicklingError("an array of objects without its objects")
            flat = np.empty(len(data), object)
            flat[:] = data
            self.value = flat.reshape(shape, order=order)
        else:
            raw = _bytes_of(data)
            self.value = np.frombuffer(raw, kind).reshape(shape, order=order)
        return self


class _Dtype:
    """The type of an array; structured types and times are not supported."""

    def __init__(self, code: Any, *_: Any) -> None:
        self.code, self.order = code, "="

    def __setstate__(self, state: Any) -> None:
        self.order = state[1]

    def numpy(self) -> np.dtype[Any] | None:
        if not (isinstance(self.code, str) and _PLAIN.fullmatch(self.code)):
            return None
        return np.dtype(("" if self.order == "|" else self.order) + self.code)


class _Storage:
    """The elements of a tensor as bytes, and their type."""

    def __init__(self, dtype: torch.dtype, raw: np.ndarray) -> None:
        self.dtype, self.raw = dtype, raw

    def tensor(self, offset: int, size: Any, stride: Any, dtype: torch.dtype | None) -> Tensor:
        kind = self.dtype if dtype is None else dtype
        count = self.raw.nbytes // kind.itemsize
        numbers = [offset, *size, *stride]
        if any(type(number) is not int or number < 0 for number in numbers) or len(size) != len(
            stride
        ):
            raise pickle.UnpicklingError("a tensor without a shape")
        elements = int(np.prod(size, dtype=object))
        last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
        if elements and (last >= count or elements > max(count, EXPANDED)):
            raise pickle.UnpicklingError(f"a tensor of {tuple(size)} with {count} elements")
        if not elements:
            return torch.empty(tuple(size), dtype=kind)
        flat = torch.from_numpy(self.raw[: count * kind.itemsize]).view(kind)
        return flat.as_strided(tuple(size), tuple(stride), offset)


class _Reader(pickle.Unpickler):
    """Unpickler that makes data only, and `Unread` for any other object."""

    def __init__(self, file: BinaryIO, storage: Callable[..., Any] | None = None) -> None:
        super().__init__(file, encoding="latin1")
        self._storage = storage

    def persistent_load(self, pid: Any) -> Any:
        if self._storage is None or not (isinstance(pid, tuple) and pid and pid[0] == "storage"):
            raise pickle.UnpicklingError(f"it refers to an external object: {pid!r:.60}")
        return self._storage(*pid[1:])

    def find_class(self, module: str, name: str) -> Any:
        module = module.replace("numpy._core", "numpy.core").replace("__builtin__", "builtins")
        wanted = f"{module}.{name}"
        if make := _MAKERS.get(wanted):
            # a new function, so that attributes set on it do not stay
            return lambda *args: make(*args)  # noqa: PLW0108
        kind = name.removesuffix("Storage")
        if module.startswith("torch") and name.endswith("Storage") and kind in _STORAGES:
            return _Dtype(_STORAGES[kind])
        if module == "torch" and isinstance(torch.__dict__.get(name), torch.dtype):
            return torch.__dict__[name]
        return type(name.rpartition(".")[2], (Unread,), {"qualified": wanted})


def _rebuilt(storage: Any, offset: Any, size: Any, stride: Any, *more: Any) -> Any:
    """Make the tensor of `_rebuild_tensor`, `_v2` or `_v3` of torch."""
    if not isinstance(storage, _Storage):
        return Unread(storage)
    dtype = next((item for item in more if isinstance(item, torch.dtype)), None)
    return storage.tensor(offset, size, stride, dtype)


def _scalar(dtype: Any, data: Any = b"") -> Any:
    kind = dtype.numpy() if isinstance(dtype, _Dtype) else None
    if kind is None or kind.hasobject:
        return Unread(dtype, data)
    return np.frombuffer(_bytes_of(data), kind)[0].item()


def _of_bytes(data: Any) -> Any:
    raw = _bytes_of(data)
    return _read_stream(io.BytesIO(raw), len(raw))


_MAKERS: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": _Dict,
    "collections.defaultdict": lambda *_: _Dict(),
    "collections.Counter": _Dict,
    "builtins.set": set,
    "builtins.frozenset": frozenset,
    "builtins.bytes": lambda *_: b"",
    "builtins.bytearray": lambda data=b"", *_: _bytes_of(data),
    "builtins.complex": complex,
    "_codecs.encode": lambda text, *_: text.encode("latin1"),
    "numpy.ndarray": lambda *_: None,  # an argument of _reconstruct only
    "numpy.dtype": _Dtype,
    "numpy.core.multiarray._reconstruct": lambda *_: _Array(),
    "numpy.core.numeric._frombuffer": lambda *args: _Array().fill(*args),
    "numpy.core.multiarray.scalar": _scalar,
    "torch.Size": tuple,
    "torch._utils._rebuild_tensor": _rebuilt,
    "torch._utils._rebuild_tensor_v2": _rebuilt,
    "torch._utils._rebuild_tensor_v3": _rebuilt,
    "torch._utils._rebuild_parameter": lambda data, *_: data,
    "torch._utils._rebuild_parameter_with_state": lambda data, *_: data,
    "torch._tensor._rebuild_from_type_v2": lambda make, _type, args, _state: make(*args),
    "torch.storage._load_from_bytes": _of_bytes,
}
"""The functions that a pickle may name, and what is called in their place."""


def _bytes_of(data: Any) -> bytes:
    return data.encode("latin1") if isinstance(data, str) else bytes(memoryview(data))


def read_torch(file: Path) -> Any:
    """Read a file of `torch.save` or `pickle.dump`, of any version or protocol.

    Tensors keep their type, are on the CPU, and are memory-mapped where the file allows it. Arrays,
    containers, text and numbers are as they were saved.

    Args:
        file: its path.

    Returns:
        The object, with `Unread` in place of everything that is not data.

    Raises:
        DataError: the file is missing, cut off, or of another kind.

    Example:
        >>> read_torch(Path("resnet50.pth"))["state_dict"]["conv1.weight"].shape  # doctest: +SKIP
        torch.Size([64, 3, 7, 7])
    """
    try:
        size = file.stat().st_size
        with file.open("rb") as opened:
            head = opened.read(512)
            opened.seek(0)
            if kind := _foreign(head):
                raise DataError(f"{file} {kind}")
            is_zip = head[:4] == b"PK\x03\x04"
            return _settled(_read_zip(file) if is_zip else _read_stream(opened, size), {})
    except DataError:
        raise
    except OSError as error:
        raise DataError(f"cannot read {file}: {error.strerror or error}") from error
    except zipfile.BadZipFile as error:
        raise DataError(
            f"{file} is damaged or incomplete: {error}. Download or save it again"
        ) from error
    except Exception as error:  # a foreign pickle may raise anything
        raise DataError(
            f"{file} cannot be read as a file of torch or a pickle of data: {first_line(error)}"
        ) from error


def read_pickle(opened: BinaryIO, file: Path) -> Any:
    """Read the rest of an open file as a pickle of data; see `read_torch`."""
    rest = opened.read()
    try:
        return _settled(_read_stream(io.BytesIO(rest), len(rest)), {})
    except Exception as error:  # a foreign pickle may raise anything
        raise DataError(f"{file} cannot be read as data: {first_line(error)}") from error


def _foreign(head: bytes) -> str | None:
    """Name a file that is neither torch's nor a pickle, by its first bytes."""
    if not head.strip(b"\0 \r\n\t"):
        return "is empty: download or save it again"
    text = head.lstrip(b"\xef\xbb\xbf \r\n\t").lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head", b"<body")):
        return "is a web page, not the file it should be: the link led to a page. Download it again"
    for start, what in _KINDS:
        if head.startswith(start):
            return what
    if head[257:262] == b"ustar":
        return "is a tar archive: unpack it, and give the file in it"
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 100_000_000:
        return "is a file of safetensors: name it .safetensors"
    return None


def _read_zip(file: Path) -> Any:
    """Read the zip archives of torch since 1.6."""
    with zipfile.ZipFile(file) as archive:
        names = archive.namelist()
        data = next((name for name in names if name.endswith("/data.pkl")), None)
        if data is None:
            raise DataError(
                f"{file} is a zip archive that torch did not save: it holds"
                f" {', '.join(names[:3]) or 'nothing'}. Unpack it, and give the file in it"
            )
        root = data.removesuffix("data.pkl")
        if f"{root}constants.pkl" in names:
            raise DataError(
                f"{file} is a TorchScript archive, which is a program. Load it with torch.jit.load"
                " and save its state_dict()"
            )
        if f"{root}byteorder" in names and archive.read(f"{root}byteorder") == b"big":
            raise DataError(f"{file} was saved on a big-endian machine: save it again on another")
        for name in names:
            if archive.getinfo(name).compress_type != zipfile.ZIP_STORED:
                raise DataError(
                    f"{file} was packed again by a program other than torch, which does not"
                    " compress. Load it and save it with torch.save"
                )
        known: dict[str, np.ndarray] = {}

        def storage(kind: Any, key: Any, _where: Any, count: Any, *_: Any) -> Any:
            dtype = _storage_type(kind)
            if dtype is None:
                return Unread(kind)
            if key not in known:
                known[key] = _mapped(file, archive, f"{root}data/{key}")
            if known[key].nbytes < count * dtype.itemsize:
                raise pickle.UnpicklingError(f"the data of tensor {key} are incomplete")
            return _Storage(dtype, known[key])

        raw = archive.read(data)
        return _load(io.BytesIO(raw), len(raw), storage)


def _storage_type(kind: Any) -> torch.dtype | None:
    """Return the element type of a storage; None for unsupported ones, such as quantized."""
    dtype = kind.code if isinstance(kind, _Dtype) else None
    return dtype if isinstance(dtype, torch.dtype) else None


def _mapped(file: Path, archive: zipfile.ZipFile, name: str) -> np.ndarray:
    """Memory-map the bytes of an uncompressed member, copy-on-write."""
    info = archive.getinfo(name)
    if not info.file_size:
        return np.empty(0, np.uint8)
    with file.open("rb") as opened:
        opened.seek(info.header_offset + 26)
        lengths = np.frombuffer(opened.read(4), "<u2")
    start = info.header_offset + 30 + int(lengths.sum())
    if start + info.file_size > file.stat().st_size:
        raise zipfile.BadZipFile(f"the data of {name} end early")
    return np.memmap(file, np.uint8, "c", start, (info.file_size,))


def _read_stream(opened: BinaryIO, size: int) -> Any:
    """Read a pickle, or the format of torch before 1.6: several pickles, then the storages.

    Args:
        opened: a file, at its beginning.
        size: of the file, in bytes.
    """
    first = _load(opened, size)
    if first != MAGIC:
        return first
    version, system = _load(opened, size), _load(opened, size)
    if version != 1001 or not system.get("little_endian", True):
        raise pickle.UnpicklingError("another version of torch's old format, or byte order")
    known: dict[str, _Storage] = {}
    reserved = 0

    def storage(kind: Any, key: Any, _where: Any, count: Any, view: Any = None) -> _Storage:
        nonlocal reserved
        if view is not None:
            raise pickle.UnpicklingError("a view of a storage: save it with a newer torch")
        dtype = _storage_type(kind)
        if dtype is None:
            raise pickle.UnpicklingError("a quantized tensor: save its dequantize()")
        if key not in known:
            reserved += count * dtype.itemsize
            if count < 0 or reserved > size:
                raise pickle.UnpicklingError("it ends early: download or save it again")
            known[key] = _Storage(dtype, np.empty(count * dtype.itemsize, np.uint8))
        return known[key]

    result = _load(opened, size, storage)
    for key in _load(opened, size):
        opened.read(8)  # its number of elements
        into: Any = opened
        if into.readinto(known[key].raw.data) != known[key].raw.nbytes:
            raise pickle.UnpicklingError("it ends early: download or save it again")
    return result


def _load(opened: BinaryIO, size: int, storage: Callable[..., Any] | None = None) -> Any:
    """Read one pickle; refuse memo numbers beyond its size, for which memory is reserved."""
    start = opened.tell()
    for code, given, _ in pickletools.genops(opened):
        if code.name in _MEMO and int(given or 0) > size:
            raise pickle.UnpicklingError(f"memo {given} of a file of {size} bytes")
    opened.seek(start)
    return _Reader(opened, storage).load()


def _settled(value: Any, known: dict[int, Any]) -> Any:
    """Replace `_Array` placeholders by their arrays, in nested containers."""
    if id(value) in known:
        return known[id(value)][1]
    if isinstance(value, _Array):
        return _settled(value.value, known)
    if isinstance(value, Mapping):
        made: Any = {}
        known[id(value)] = value, made
        made.update({_key(key): _settled(item, known) for key, item in value.items()})
        return made
    if isinstance(value, list):
        made = []
        known[id(value)] = value, made
        made.extend(_settled(item, known) for item in value)
        return made
    if isinstance(value, tuple):
        made = tuple(_settled(item, known) for item in value)
        known[id(value)] = value, made  # a shared tuple is visited once
        return made
    if isinstance(value, np.ndarray) and value.dtype == object:
        made = np.empty(value.size, object)
        made[:] = [_settled(item, known) for item in value.ravel().tolist()]
        return made.reshape(value.shape)
    if isinstance(value, Unread):
        known[id(value)] = value, value
        value.state = _settled(value.state, known)
    return value


def _key(key: Any) -> Any:
    return key if isinstance(key, str | int | float | bool | tuple | bytes) else str(type(key))


def is_module(value: Any) -> bool:
    """Return whether an object was a whole network, saved without `state_dict()`."""
    state = value.state if isinstance(value, Unread) else None
    return isinstance(state, Mapping) and {"_parameters", "_modules"} <= set(state)


def described(value: Any) -> str:
    """Describe an object of such a file, for a message.

    >>> described([1, 2])
    'a list of 2'
    >>> described(torch.zeros(2, 3))
    'a tensor (2, 3) float32'
    """
    if isinstance(value, Unread):
        name = type(value).qualified
        known = {
            "torch._utils._rebuild_sparse_tensor": "a sparse tensor",
            "torch._utils._rebuild_sparse_csr_tensor": "a sparse tensor",
            "torch._utils._rebuild_qtensor": "a quantized tensor",
        }
        return known.get(name, f"an object of {name}")
    if isinstance(value, Tensor):
        return f"a tensor {tuple(value.shape)} {str(value.dtype).removeprefix('torch.')}"
    if isinstance(value, np.ndarray):
        return f"an array {value.shape} {value.dtype}"
    if isinstance(value, Mapping):
        return f"a dict of {', '.join(map(str, list(value)[:6])) or 'nothing'}"
    if isinstance(value, list | tuple | set):
        return f"a {type(value).__name__} of {len(value)}"
    return f"a {type(value).__name__}"
