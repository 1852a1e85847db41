import numpy as np
import pytest
import torch

from deephash.errors import TrainingError
from deephash.training import out_of_memory

CUDA = (
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.10 GiB of "
    "which 1.21 GiB is free. Process 1 has 77.88 GiB memory in use. Of the allocated memory 70 GiB "
    "is allocated by PyTorch. If reserved but unallocated memory is large try setting X."
)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError(CUDA),
        RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronous"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        MemoryError(),
    ],
)
def test_the_error_suggests_what_to_reduce(error):
    with pytest.raises(TrainingError) as caught, out_of_memory.explain_memory_errors():
        raise error
    message = str(caught.value)
    assert message.startswith("out of memory: ") and len(message.splitlines()) == 3
    for key in ("trainer.batch_size", "trainer.eval_batch_size", "dataset.size"):
        assert key in message


def test_actual_errors_of_torch_and_numpy_are_recognized():
    with pytest.raises(TrainingError, match="out of memory"), out_of_memory.explain_memory_errors():
        torch.empty(1 << 52)
    with (
        pytest.raises(TrainingError, match="out of memory: Unable to allocate"),
        out_of_memory.explain_memory_errors(),
    ):
        np.empty(1 << 56, dtype=np.uint8)


def test_torch_is_cut_short():
    assert out_of_memory.first_sentences(torch.OutOfMemoryError(CUDA)).endswith(
        "of which 1.21 GiB is free."
    )
    assert out_of_memory.first_sentences(MemoryError()) == "MemoryError"


def test_every_other_error_passes():
    for error in (RuntimeError("mat1 and mat2"), TrainingError("told already"), KeyError("a")):
        with pytest.raises(type(error)) as caught, out_of_memory.explain_memory_errors():
            raise error
        assert caught.value is error


def test_it_decorates():
    @out_of_memory.explain_memory_errors("Buy more.")
    def hungry():
        raise torch.OutOfMemoryError("CUDA out of memory.")

    for _ in range(2):
        with pytest.raises(TrainingError, match=r"^out of memory: CUDA out of memory\.\n  Buy"):
            hungry()


@pytest.mark.parametrize(
    ("message", "is_one"),
    [
        ("CUDA error: device-side assert triggered", True),
        ("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR", True),
        ("Calculated padded input size per channel: (8 x 8). Kernel size: (11 x 11)", False),
    ],
)
def test_failures_of_the_device_are_known(message, is_one):
    assert out_of_memory.is_device_error(RuntimeError(message)) == is_one
