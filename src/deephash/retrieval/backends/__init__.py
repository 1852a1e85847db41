"""Backends that count Hamming distances; all of them return identical counts.

``numpy``: XOR and popcount, always available. ``numba``: the same compiled, on all cores; an extra,
``pip install numba``. ``torch``: on a device, mainly CUDA; a Triton kernel, or torch operators.
"""

import importlib
import importlib.util
import logging
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial
from types import ModuleType
from typing import TYPE_CHECKING, NamedTuple, Protocol, Union

from deephash.errors import DataError
from deephash.retrieval.backends import numpy_backend
from deephash.retrieval.checks import check_choice, check_integer
from deephash.retrieval.codes import Counts
from deephash.retrieval.packed_codes import PackedCodes
from deephash.utils import choices
from deephash.utils.extras import install_hint
from deephash.utils.processors import usable_cores

if TYPE_CHECKING:
    import torch

ENGINES = tuple(choices.Backend.__members__)
KERNELS = ("auto", "triton", "bits", "matmul")
log = logging.getLogger(__name__)

_MANY_PAIRS = 30_000_000  # loading compiled code takes 0.8 s: from here on ten evaluations repay it


@dataclass(frozen=True)
class Engine:
    """A backend that counts Hamming distances, and its options.

    Args:
        name: ``numpy``, ``numba``, ``torch``, or ``auto``: torch if ``device`` is a CUDA device,
            else numba if it is installed and there are many pairs to compare, else numpy.
        threads: None for as many as torch uses (``OMP_NUM_THREADS``). Ignored by numpy, except when
            the result depends on the order of ties.
        device: for ``torch``; None for CUDA if available, else the CPU. For ``auto``; None for
            the device of the codes.
        kernel: for ``torch``: ``triton``, XOR, popcount and histogram in one pass; ``bits``, the
            same with operators of torch; ``matmul``, a product of matrices of +1 and -1; or
            ``auto``, triton on CUDA if it works there, else ``bits``. The log (level debug) says
            which one is used, and why.

    Raises:
        DataError: if the name, the device or the kernel is unknown, numba is not installed although
            it is named, or ``threads`` is no integer of at least 1.

    Example:
        >>> Engine("numpy").chosen(pairs=1000)
        'numpy'
    """

    name: str = "auto"
    threads: int | None = None
    device: Union[str, "torch.device", None] = None  # torch may not be loaded
    kernel: str = "auto"

    def __post_init__(self) -> None:
        check_choice("engine", self.name, ENGINES)
        check_choice("kernel", self.kernel, KERNELS)
        if self.threads is not None:
            check_integer("threads", self.threads, 1)
        if self.device is not None:
            import torch

            try:
                torch.device(self.device)
            except RuntimeError as error:
                raise DataError(f"device={self.device!r} is unknown: try cpu or cuda") from error
        if self.name == "numba" and importlib.util.find_spec("numba") is None:
            raise DataError(f"engine=numba needs numba: {install_hint('numba')}, or engine=auto")

    @classmethod
    def of(cls, engine: "Engine | str") -> "Engine":
        """Return the engine of a name; an engine is returned as it is."""
        return engine if isinstance(engine, Engine) else cls(engine)

    def for_device_of(self, values: object) -> "Engine":
        """Return an engine for the device of a tensor, if this one is ``auto`` without a device."""
        device = getattr(values, "device", None)
        if self.name != "auto" or self.device is not None or device is None:
            return self
        return replace(self, device=device)

    def chosen(self, pairs: int) -> str:
        """Return the name of the backend for a number of pairs to compare."""
        if self.name != "auto":
            return self.name
        if self.device is not None and str(self.device).startswith("cuda"):
            return "torch"
        return "numba" if pairs >= _MANY_PAIRS and _compiled() is not None else "numpy"

    def on_cpu(self, pairs: int) -> str:
        """Return the name of the backend for the order of ties, which torch does not compute."""
        name = self.chosen(pairs)
        return replace(self, name="auto", device=None).chosen(pairs) if name == "torch" else name

    @property
    def workers(self) -> int:
        """The number of threads."""
        if self.threads is not None:
            return int(self.threads)
        torch = sys.modules.get("torch")
        return int(torch.get_num_threads()) if torch is not None else _processors()

    def counting(self, pairs: int) -> "Counting":
        """Return the counter of the backend for a number of pairs to compare."""
        chosen = self.chosen(pairs)
        if chosen == "numpy":
            return Counting(numpy_backend.NumpyCounter, numpy_backend.PART)
        if chosen == "numba":
            compiled = load_compiled()
            return Counting(partial(compiled.NumbaCounter, threads=self.workers), compiled.PART)
        import torch

        from deephash.retrieval.backends import torch_backend

        device = torch.device(self.device or ("cuda" if torch.cuda.is_available() else "cpu"))
        begin = partial(torch_backend.counter, device=device, kernel=self.kernel)
        return Counting(begin, torch_backend.PART)


class Counter(Protocol):
    """Count the items of a database for queries, one part after another."""

    def add(self, part: PackedCodes) -> None:
        """Count the items of a part."""

    def counts(self) -> tuple[Counts, Counts]:
        """Return items, and relevant items, at each distance: (Q, K + 1) int64 each."""


class Counting(NamedTuple):
    """A backend's counter, and the number of items it takes at once."""

    begin: Callable[[PackedCodes, int], Counter]  # of the queries and K
    part: int


def _processors() -> int:
    """Return ``OMP_NUM_THREADS``, else the number of processors this process may use."""
    threads = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]
    if threads.isdecimal() and int(threads):
        return int(threads)
    return usable_cores()


def load_compiled() -> ModuleType:
    """Return the functions that numba compiles.

    Raises:
        DataError: if numba cannot be imported.
    """
    module = _compiled()
    if module is None:
        raise DataError("engine=numba: numba cannot be imported; try engine=auto")
    return module


def load_search() -> ModuleType:
    """Return the compiled functions of searches.

    Raises:
        DataError: if numba cannot be imported.
    """
    load_compiled()
    return importlib.import_module("deephash.retrieval.backends.numba_search")


def compiled_sums() -> ModuleType | None:
    """Return the compiled functions of metrics, None if numba is not loaded.

    Their results equal those of numpy; only the time differs.
    """
    if "deephash.retrieval.backends.numba_backend" not in sys.modules:
        return None
    return importlib.import_module("deephash.retrieval.backends.numba_sums")


def _compiled() -> ModuleType | None:
    return None if importlib.util.find_spec("numba") is None else _import_compiled()


@cache
def _import_compiled() -> ModuleType | None:
    """Import the backend; None if numba rejects the version of numpy, or cannot write its cache."""
    try:
        return importlib.import_module("deephash.retrieval.backends.numba_backend")
    except (ImportError, RuntimeError) as error:
        log.warning("numba is installed but cannot be used, numpy counts instead: %s", error)
        return None
