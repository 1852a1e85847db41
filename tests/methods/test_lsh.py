"""LSH: probability of bits, distribution of weights, centered features."""

import math

import pytest
import torch
from torch import nn

from deephash.errors import ConfigError
from deephash.methods.lsh import LSH
from deephash.models.encoder import Encoder
from deephash.models.heads import Linear


def make_lsh(width, nbit, seed=0, **options):
    return LSH(Encoder(nn.Identity(), Linear(width, nbit, bias=True)), nbit, seed, **options)


@torch.no_grad()
def codes_of(method, features):
    return method.encoder.encode(features)


@pytest.mark.parametrize("degrees", [10, 60, 90, 150])
def test_probability_of_different_bits_is_the_angle(degrees):
    """The standard deviation of the mean of 20,000 bits is below 0.004."""
    angle = math.radians(degrees)
    x = torch.tensor([[1.0, 0, 0], [2 * math.cos(angle), 2 * math.sin(angle), 0]])
    bits = codes_of(make_lsh(3, 20000), x) >= 0
    assert (bits[0] != bits[1]).float().mean().item() == pytest.approx(degrees / 180, abs=0.015)


def test_weights_are_standard_normal():
    method = make_lsh(100, 200)
    layer = method.encoder.head.linear
    assert layer.bias.abs().max() == 0
    assert layer.weight.mean().item() == pytest.approx(0, abs=0.03)
    assert layer.weight.std().item() == pytest.approx(1, abs=0.03)
    before = layer.weight.clone()
    assert not method.wants_features
    method.fit(torch.rand(10, 100))
    assert torch.equal(layer.weight, before) and layer.bias.abs().max() == 0


def test_centered_features_match_naive_computation():
    x = torch.rand(40, 6, generator=torch.manual_seed(0)) + 3
    method = make_lsh(6, 8, center=True)
    assert method.wants_features
    method.fit(x)
    weight = make_lsh(6, 8).encoder.head.linear.weight.double()
    mean = [sum(row[d].item() for row in x) / 40 for d in range(6)]
    for row, codes in zip(x, codes_of(method, x), strict=True):
        for bit in range(8):
            z = sum(weight[bit, d].item() * (row[d].item() - mean[d]) for d in range(6))
            assert codes[bit].item() == pytest.approx(z, abs=1e-4)


def test_centering_balances_bits_of_nonnegative_features():
    """Without centering, most hyperplanes have nearly all images on one side."""
    x = torch.rand(500, 128, generator=torch.manual_seed(0))
    minority = []
    for center in (False, True):
        method = make_lsh(128, 64, center=center)
        method.fit(x)
        ones = (codes_of(method, x) >= 0).float().mean(dim=0)
        minority.append(torch.minimum(ones, 1 - ones).mean().item())
    assert minority[0] < 0.2 and minority[1] > 0.4


def test_head_without_bias_is_refused():
    with pytest.raises(
        ConfigError, match=r"LSH needs a linear layer(.|\n)*method\.head\.bias=true"
    ):
        LSH(Encoder(nn.Identity(), Linear(8, 4)), 4, 0)
