"""Principal axes by hand, in blocks and of wide features; random rotations."""

import math

import numpy as np
import pytest
import torch

from deephash.models import projections
from deephash.models.projections import (
    components,
    mean_of,
    principal_axes,
    projection,
    random_rotation,
)


def decaying(images, width, power=0.7, seed=0):
    """Features with decreasing variances along random directions and a mean of 3."""
    draw = torch.Generator().manual_seed(seed)
    scale = torch.arange(1, width + 1) ** -power
    basis = torch.linalg.qr(torch.randn(width, width, generator=draw))[0]
    return (torch.randn(images, width, generator=draw) * scale) @ basis + 3


def naive(features, count):
    x = features.double().numpy()
    x = x - x.mean(axis=0)
    return torch.from_numpy(np.linalg.svd(x, full_matrices=False)[2][:count].copy())


def test_principal_axes_by_hand():
    """Variance along (1, 1) / sqrt(2) first, then (1, -1); the largest entry is positive."""
    x = torch.tensor([[5.0, 5, 1], [1, 1, 1], [3.5, 2.5, 1], [2.5, 3.5, 1]])
    mean, axes = principal_axes(x, 2)
    assert mean.tolist() == [3, 3, 1]
    expected = torch.tensor([[1.0, 1, 0], [1, -1, 0]]).double() / math.sqrt(2)
    torch.testing.assert_close(axes.abs(), expected.abs())
    torch.testing.assert_close(axes[0], expected[0])
    assert axes[1, 0] * axes[1, 1] < 0


def test_features_are_read_in_blocks(monkeypatch):
    x = torch.randn(100, 12, generator=torch.manual_seed(0)) + 3
    mean, axes = principal_axes(x, 6)
    expected = torch.linalg.svd(x.double() - x.double().mean(dim=0)).Vh[:6]
    monkeypatch.setattr(projections, "BLOCK", 7)
    in_blocks = principal_axes(x, 6)
    torch.testing.assert_close(in_blocks[0], mean)
    torch.testing.assert_close(in_blocks[1], axes)
    torch.testing.assert_close((axes @ expected.T).abs(), torch.eye(6, dtype=torch.float64))


def test_the_mean_of_many_features(monkeypatch):
    x = decaying(100, 12)
    expected = x.double().mean(dim=0)
    torch.testing.assert_close(mean_of(x), expected)
    monkeypatch.setattr(projections, "FULL", 0)
    monkeypatch.setattr(projections, "ROWS", 7)
    torch.testing.assert_close(mean_of(x), expected)


def test_few_axes_of_wide_features():
    """By the Lanczos method, and equal to those of a singular value decomposition in float64."""
    x = decaying(1500, 1100)
    mean, axes = principal_axes(x, 12)
    expected = naive(x, 12)
    result = (axes @ expected.T).abs()
    torch.testing.assert_close(result, torch.eye(12).double(), rtol=0, atol=1e-4)
    codes = components(x, mean, axes)
    other = components(x, mean, expected * (axes * expected).sum(dim=1, keepdim=True).sign())
    assert (codes - other).abs().max() < 1e-4 * codes.abs().max()
    assert (axes.gather(1, axes.abs().argmax(dim=1, keepdim=True)) > 0).all()
    again = principal_axes(x, 12)
    assert torch.equal(mean, again[0]) and torch.equal(axes, again[1])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(projections, "_lanczos", lambda *_: None)
        torch.testing.assert_close(principal_axes(x, 12)[1], axes)


@pytest.mark.parametrize("kind", ["constant", "few", "equal"])
def test_axes_of_wide_features_without_enough_directions(kind):
    """Zero variance, fewer directions than axes, equal variances: orthonormal, largest first."""
    x = torch.ones(200, 1100)
    if kind == "few":
        x = decaying(4, 1100)[torch.arange(200) % 4]
    if kind == "equal":
        x = torch.cat([torch.eye(1100), -torch.eye(1100)])
        x[:, 500:] *= 0.1
    mean, axes = principal_axes(x, 20)
    torch.testing.assert_close(axes @ axes.T, torch.eye(20, dtype=torch.float64))
    values = ((x.double() - mean) @ axes.T).square().sum(dim=0)
    expected = {"constant": [0.0] * 20, "equal": [2.0] * 20}.get(kind)
    if expected is None:
        expected = torch.linalg.svdvals(x.double() - mean).square()[:20]
    torch.testing.assert_close(values, torch.as_tensor(expected).double(), rtol=1e-9, atol=1e-9)


def test_an_affine_layer_gives_rotated_components():
    x = decaying(80, 12)
    mean, axes = principal_axes(x, 6)
    rotation = random_rotation(6, seed=4)
    for turn, codes in (
        (None, components(x, mean, axes)),
        (rotation, components(x, mean, axes) @ rotation),
    ):
        weight, bias = projection(mean, axes, turn)
        torch.testing.assert_close(x.double() @ weight.T + bias, codes)


def test_rotations_are_orthogonal_and_differ_by_seed_and_draw():
    drawn = [random_rotation(16, seed, draw) for seed in range(2) for draw in range(3)]
    for rotation in drawn:
        torch.testing.assert_close(rotation @ rotation.T, torch.eye(16).double())
    assert len({tuple(rotation.flatten().tolist()) for rotation in drawn}) == 6
    assert torch.equal(random_rotation(16, 1), drawn[3])


def test_the_first_draw_is_that_of_earlier_versions():
    """Of the stream "rotation" of a seed."""
    expected = torch.tensor(
        [[-0.971211771191608, -0.23821774807696], [-0.23821774807696, 0.97121177119161]]
    )
    torch.testing.assert_close(random_rotation(2, 0), expected.double(), rtol=0, atol=1e-6)
