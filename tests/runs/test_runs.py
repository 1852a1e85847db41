"""What the jobs make of a network that cannot take the images."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from deephash.errors import ConfigError, DeephashError, TrainingError
from deephash.runs.train_run import _check_image_size
from deephash.types import Batch


class Refusing(nn.Module):
    """An encoder that raises."""

    def __init__(self, error):
        super().__init__()
        self.error = error

    def encode(self, images):
        raise self.error


class Images:
    split = SimpleNamespace(queries=np.arange(5))

    def train(self, epoch):
        yield from self.eval_batches(self.split.queries)

    def eval_batches(self, ids):
        yield Batch(torch.zeros(len(ids), 1, 3, 8, 9), torch.zeros(len(ids), 2), torch.arange(2))


def tried(error):
    """What `_check_image_size` raises instead."""
    method = SimpleNamespace(encoder=Refusing(error))
    cfg = SimpleNamespace(backbone={"name": "alexnet"}, optimizer={})
    with pytest.raises(DeephashError) as caught:
        _check_image_size(method, Images(), cfg)
    return caught.value


def test_a_network_that_refuses_the_size_is_reported_with_a_larger_size():
    error = tried(RuntimeError("Kernel size can't be greater than actual input size"))
    assert isinstance(error, ConfigError)
    assert "alexnet cannot take images of 8x9: Kernel size" in str(error)


@pytest.mark.parametrize(
    ("error", "begins"),
    [
        (torch.OutOfMemoryError("CUDA out of memory."), "out of memory: CUDA out of memory."),
        (RuntimeError("CUDA error: out of memory"), "out of memory: CUDA error"),
        (RuntimeError("CUDA error: unspecified launch failure"), "the device failed"),
        (RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR"), "the device failed"),
    ],
)
def test_memory_and_the_device_are_no_matter_of_the_size(error, begins):
    converted = tried(error)
    assert isinstance(converted, TrainingError) and str(converted).startswith(begins)
    assert "cannot take images" not in str(converted) and "memory" in str(converted)
    for key in ("trainer.batch_size", "trainer.eval_batch_size", "dataset.size"):
        assert key in str(converted)


@pytest.mark.skipif(not hasattr(torch, "AcceleratorError"), reason="since torch 2.8")
def test_an_accelerator_error_is_the_device_whatever_it_says():
    assert str(tried(torch.AcceleratorError("any"))).startswith("the device failed")
