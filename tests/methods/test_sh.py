"""Spectral hashing: functions by hand, a naive computation, few and constant components."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from deephash.methods.sh import SH, Waves, smoothest_modes
from deephash.models.encoder import Encoder


def fit_method(features, nbit):
    method = SH(Encoder(nn.Identity(), Waves(features.shape[1], nbit)), nbit)
    method.fit(features)
    return method


@torch.no_grad()
def codes_of(method, features):
    return method.encoder.encode(features)


def naive_codes(features, nbit):
    """Codes (N, K) by the definition, in float64, up to the signs of bits."""
    x = features.double().numpy()
    x = x - x.mean(axis=0)
    axes = np.linalg.svd(x, full_matrices=False)[2][: min(nbit, x.shape[1], len(x) - 1)]
    p = x @ axes.T
    low, high = p.min(axis=0) - 1e-7, p.max(axis=0) + 1e-7
    widest = max(high - low)
    functions = []
    for k in range(p.shape[1]):
        r = high[k] - low[k]
        functions += [((m * math.pi / r) ** 2, k, m)
                      for m in range(1, math.ceil((nbit + 1) * r / widest))]  # fmt: skip
    functions = sorted(functions)[:nbit]
    waves = [np.cos(m * math.pi * (p[:, k] - low[k]) / (high[k] - low[k]))
             for _, k, m in functions]  # fmt: skip
    return torch.from_numpy(np.stack(waves, axis=1))


def test_smoothest_modes_by_hand():
    """A box of 6 x 4 x 1 with K = 6: multiples of pi/6 and pi/4; of equal ones the first side.

    On the second side m < ceil(7 * 4 / 6) = 5; on the third m < ceil(7 / 6) = 2, so only pi.
    """
    component, frequency = smoothest_modes(torch.tensor([6.0, 4, 1]).double(), 6)
    assert component.tolist() == [0, 1, 0, 0, 1, 0]
    expected = [1 / 6, 1 / 4, 2 / 6, 3 / 6, 2 / 4, 4 / 6]
    assert (frequency / math.pi).tolist() == pytest.approx(expected)
    component, frequency = smoothest_modes(torch.tensor([6.0, 4, 1]).double(), 64)
    assert len(component) == len(frequency) == 64
    assert len(set(zip(component.tolist(), frequency.tolist(), strict=True))) == 64


def test_points_on_a_line_by_hand():
    """Three points at 0, 1 and 2 on an axis: cos(pi x / 2), cos(pi x), cos(3 pi x / 2)."""
    x = torch.tensor([[0.0, 5], [1, 5], [2, 5]])
    codes = codes_of(fit_method(x, 3), x)
    expected = torch.tensor([[1.0, 1, 1], [0, -1, 0], [-1, 1, -1]])
    signs = codes[0].sign()  # if the axis is inverted, odd functions change their sign
    torch.testing.assert_close(codes * signs, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("width", "nbit"), [(12, 6), (12, 40), (3, 16)])
def test_codes_match_naive_computation(width, nbit):
    scale = torch.arange(1, width + 1) ** -0.5
    x = torch.randn(80, width, generator=torch.manual_seed(0)) * scale + 4
    codes, expected = codes_of(fit_method(x, nbit), x).double(), naive_codes(x, nbit)
    signs = (codes * expected).sum(dim=0).sign()
    torch.testing.assert_close(codes, expected * signs, rtol=0, atol=2e-3)


def test_components_are_not_clipped():
    x = torch.linspace(0, 1, 50)[:, None]
    method = fit_method(x, 2)
    codes = codes_of(method, torch.tensor([[1.5], [2.0]]))
    signs = codes_of(method, x)[0].sign()
    expected = torch.tensor([[0.0, -1], [1, 1]])  # cos(1.5 pi), cos(3 pi); cos(2 pi), cos(4 pi)
    torch.testing.assert_close(codes * signs, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize(("images", "width", "nbit"), [(1, 4, 8), (2, 4, 8), (5, 64, 16)])
def test_few_images(images, width, nbit):
    x = torch.randn(images, width, generator=torch.manual_seed(0))
    assert codes_of(fit_method(x, nbit), x).isfinite().all()


def test_constant_component_has_no_function():
    x = torch.randn(50, 3, generator=torch.manual_seed(0))
    x[:, 1] = 2.0
    weight = fit_method(x, 16).encoder.head.linear.weight
    assert weight[:, 1].abs().max() < 1e-4 * weight.abs().max()
