"""A result that is not finite: inputs and weights are looked at before the loss is blamed."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from deephash.errors import TrainingError
from deephash.training.evaluation import encode_images
from deephash.training.non_finite import faulty_inputs, faulty_weights
from deephash.types import Batch
from tests.training.test_trainer import Batches, Toy, run


def batch(values, first=0):
    images = torch.tensor(values)[:, None, :, None, None]
    return Batch(images, torch.zeros(len(values), 2), torch.arange(first, first + len(values)))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_the_first_faulty_image_is_named(value):
    batches = [batch([[0.0, 1, 2]] * 2), batch([[0.0, 1, 2], [0, value, 1], [value, 0, 0]], 2)]
    message = faulty_inputs(batches, ["a", "b", "c", "d", "e"])
    assert "the inputs of d hold NaN or infinite values (2 of 3 images" in message
    assert "verify" in message
    assert faulty_inputs(batches, most=1) is None


def test_very_large_inputs_are_reported():
    assert "reach 1e+30" in faulty_inputs([batch([[0.0, -1e30, 1]])])
    assert faulty_inputs([batch([[0.0, -100, 1]])]) is None


def test_weights_that_are_not_finite_are_named():
    layer = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    assert faulty_weights(layer) is None
    layer[1].running_var[0] = math.inf
    assert faulty_weights(layer) == "1.running_var"


class FaultyBatches(Batches):
    """The second batch of the second epoch holds NaN."""

    train_ids = tuple(f"image{place}" for place in range(8))

    def train(self, epoch):
        for number, batch in enumerate(super().train(epoch)):
            if (epoch, number) == (1, 1):
                batch.images[5, 0, 1] = math.nan
            yield batch


def test_nan_in_a_batch_is_no_fault_of_the_training(tmp_path):
    with pytest.raises(TrainingError) as caught:
        run(tmp_path, data=FaultyBatches())
    message = str(caught.value)
    assert "not finite at step 5" in message and "the inputs of image5" in message
    assert "optimizer.lr" not in message


def test_a_loss_that_diverges_is_the_trainings(tmp_path):
    method = Toy()
    method.poison = (5, "term")
    with pytest.raises(TrainingError, match=r"size is not finite at step 5\.\n.*optimizer\.lr"):
        run(tmp_path, method=method)


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def encode(self, images):
        return images.flatten(1) * self.weight


def encoded(network, values):
    ids = np.arange(len(values))
    data = SimpleNamespace(
        images=SimpleNamespace(ids=[f"image{row}" for row in ids]),
        eval_batches=lambda rows: iter([batch(np.asarray(values, "f4")[rows].tolist())]),
    )
    return encode_images(network, data, lambda: torch.autocast("cpu", enabled=False), ids)


def test_codes_that_are_nan_name_their_cause():
    network = Network()
    assert encoded(network, [[1.0, 2, 3]]).z.tolist() == [[1, 2, 3]]
    with pytest.raises(TrainingError, match=r"1 of 2 codes hold NaN(.|\n)*inputs of image1"):
        encoded(network, [[1.0, 2, 3], [1, math.nan, 3]])
    with torch.no_grad():
        network.weight.fill_(math.nan)
    with pytest.raises(TrainingError, match=r"2 of 2(.|\n)*diverged: its weight is not finite"):
        encoded(network, [[1.0, 2, 3], [1, 2, 3]])
    network = Network()
    network.encode = lambda images: images.flatten(1) * math.inf - math.inf
    with pytest.raises(TrainingError, match=r"Weights and inputs are finite(.|\n)*fp32"):
        encoded(network, [[1.0, 2, 3]])
