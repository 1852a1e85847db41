"""Where the memory ends: as words, with what to make smaller."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from deephash.errors import TrainingError

ADVICE = (
    "Try a smaller trainer.batch_size (in evaluation: trainer.eval_batch_size), smaller images\n"
    "  (dataset.size), trainer.precision=bf16, or a device nobody else uses."
)
SHORT = ("out of memory", "can't allocate memory", "not enough memory", "ALLOC_FAILED")
FAILED = ("CUDA error", "CUBLAS_STATUS", "CUDNN_STATUS")


@contextmanager
def told(advice: str = ADVICE) -> Iterator[None]:
    """Around code that may run out of memory; every other error passes.

    Raises:
        TrainingError: it did.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_short(error):
            raise
        raise TrainingError(f"out of memory: {brief(error)}\n  {advice}") from error


def is_short(error: BaseException) -> bool:
    """Whether an error says that there is no memory left, on whatever device."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or _says(error, SHORT)


def is_failure(error: BaseException) -> bool:
    """Whether an error is the device's, and no word about what it was given to compute."""
    kind = getattr(torch, "AcceleratorError", ())  # since torch 2.8
    return isinstance(error, kind) or _says(error, FAILED)


def brief(error: BaseException) -> str:
    """The first sentences of an error; torch goes on about its allocator."""
    line = (str(error) or type(error).__name__).splitlines()[0]
    return " ".join(re.split(r"(?<=\.) (?=[A-Z])", line)[:3])


def _says(error: BaseException, signs: tuple[str, ...]) -> bool:
    return any(sign in str(error) for sign in signs)
