"""Turn out-of-memory errors into messages that suggest what to reduce."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from deephash.errors import TrainingError
from deephash.utils.formatting import first_line

ADVICE = (
    "Try a smaller trainer.batch_size (in evaluation: trainer.eval_batch_size), smaller images\n"
    "  (dataset.size), trainer.precision=bf16, trainer.gradient_checkpointing=true, an idle device."
)
SHORT = ("out of memory", "can't allocate memory", "not enough memory", "ALLOC_FAILED")
FAILED = ("CUDA error", "CUBLAS_STATUS", "CUDNN_STATUS")


@contextmanager
def explain_memory_errors(advice: str = ADVICE) -> Iterator[None]:
    """Convert out-of-memory errors; other errors pass.

    Raises:
        TrainingError: in place of an out-of-memory error.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_memory_error(error):
            raise
        raise TrainingError(f"out of memory: {first_sentences(error)}\n  {advice}") from error


def is_memory_error(error: BaseException) -> bool:
    """Return whether an error is about memory, on any device."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or _mentions(error, SHORT)


def is_device_error(error: BaseException) -> bool:
    """Return whether an error is of the device, and not of the computation."""
    kind = getattr(torch, "AcceleratorError", ())  # since torch 2.8
    return isinstance(error, kind) or _mentions(error, FAILED)


def first_sentences(error: BaseException) -> str:
    """Return the first sentences of an error; torch appends advice on its allocator."""
    return " ".join(re.split(r"(?<=\.) (?=[A-Z])", first_line(error))[:3])


def _mentions(error: BaseException, signs: tuple[str, ...]) -> bool:
    return any(sign in str(error) for sign in signs)
