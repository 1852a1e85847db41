"""The module that is exported gives the codes of the encoder, and the pixels of Pillow."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import nn

from deephash import retrieval
from deephash.data.decoding import Square
from deephash.deployment.graph import DeployedEncoder, Fit
from deephash.errors import ExportError
from deephash.models import heads
from tests.deployment.conftest import of_features, of_images

SIDES = st.integers(1, 90)


@settings(max_examples=60, deadline=None)
@given(SIDES, SIDES, st.integers(1, 40), st.sampled_from(["crop", "squash"]), st.booleans())
def test_the_resize_is_pillows(height, width, size, fit, sharp):
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    if sharp:
        pixels = np.where(pixels > 127, 255, 0).astype(np.uint8)
    square = Square(size, fit)
    wanted = np.asarray(square(Image.fromarray(pixels), Path("image")))
    fitted = Fit(square)(torch.from_numpy(pixels).permute(2, 0, 1)[None])
    assert fitted.dtype == torch.uint8 and fitted.shape == (1, 3, size, size)
    differences = np.abs(fitted[0].permute(1, 2, 0).numpy().astype(int) - wanted)
    # Pillow 13 resizes the columns of some tall images first
    assert differences.max() <= (1 if height > width else 0)


def test_images_of_the_stored_size_stay_as_they_are():
    images = torch.randint(256, (3, 3, 16, 16), dtype=torch.uint8)
    assert torch.equal(Fit(Square(16, "crop"))(images), images)


@pytest.mark.parametrize("any_size", [False, True])
@pytest.mark.parametrize("nbit", [1, 8, 12, 17])
def test_codes_are_those_of_the_encoder(nbit, any_size):
    encoder = of_images(nbit=nbit)
    module = DeployedEncoder(encoder, any_size)
    images = torch.randint(256, (5, 3, 16, 16), dtype=torch.uint8)
    codes, z = module(images)
    assert codes.dtype == torch.uint8 and codes.shape == (5, -(-nbit // 8))
    assert z.dtype == torch.float32 and z.shape == (5, nbit)
    np.testing.assert_allclose(z, encoder.codes(images), rtol=0, atol=1e-5)
    np.testing.assert_array_equal(codes, retrieval.pack(z.numpy() >= 0))


def test_zero_is_one_and_the_first_bit_is_the_highest():
    class Given(nn.Module):
        def forward(self, features):
            return features

    module = DeployedEncoder(of_features(Given(), width=9))
    z = torch.full((1, 9), -1.0)
    z[0, [0, 8]] = torch.tensor([0.0, -0.0])  # both are >= 0
    assert module(z)[0].tolist() == [[128, 128]]
    assert module(-z.abs())[0].tolist() == [[128, 128]]
    assert module(torch.full((1, 9), torch.nan))[0].tolist() == [[0, 0]]


def test_other_sizes_are_fitted():
    encoder = of_images(fit="squash")
    module = DeployedEncoder(encoder, any_size=True)
    images = torch.randint(256, (2, 3, 21, 50), dtype=torch.uint8)
    np.testing.assert_allclose(module(images)[1], encoder.codes(images), rtol=0, atol=1e-5)
    assert module.dynamic_axes() == {0: "batch", 2: "height", 3: "width"}


def test_dropout_and_batch_statistics_are_of_evaluation():
    encoder = of_images(head=heads.MLP(64, 12, hidden=2, dropout=0.5, batch_norm=True))
    encoder.network.train()
    module = DeployedEncoder(encoder)
    images = module.example(4)
    assert torch.equal(module(images)[1], module(images)[1])
    assert torch.allclose(module(images)[1][:1], module(images[:1])[1], atol=1e-5)
    assert not any(part.training for part in module.modules())
    assert encoder.network.training  # a copy was changed


def test_a_part_that_stays_in_training_mode_is_refused():
    class Stubborn(heads.Linear):
        def train(self, mode=True):
            return super().train(True)

    with pytest.raises(ExportError, match=r"network\.head.* stays in training mode"):
        DeployedEncoder(of_features(Stubborn(6, 8)))


def test_the_network_is_a_copy_without_gradients(encoder):
    module = DeployedEncoder(encoder)
    parameters = {id(one) for one in encoder.network.parameters()}
    assert not parameters & {id(one) for one in module.parameters()}
    assert not any(one.requires_grad for one in module.parameters())
