"""RelaHash: the position of a code relative to its batch."""

import math

import pytest
import torch

from deephash.losses.lmcl import LMCL
from deephash.methods.relahash import Relative


def test_relative_position_by_hand():
    """Two equal codes (1, -1): mean 0, Frobenius norm 2, so both have the position (1/2, -1/2).

    The similarity to the center (1, -1) / sqrt(2) is 1 / sqrt(2): the maximum of B equal codes is
    1 / sqrt(B).
    """
    u = torch.tensor([[1.0, -1.0], [1.0, -1.0]])
    result = Relative()(u, torch.tensor([[1.0, -1.0]]))
    torch.testing.assert_close(result, torch.full((2, 1), 0.5**0.5))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("sqrt_bk", [False, True])
def test_relahash_matches_loop(sqrt_bk, seed, random_case, loop_loss):
    """One image of six has no label."""
    case = random_case(seed, nbit=12, similarity=Relative(sqrt_bk))
    loss = case.loss(LMCL, scale=50, margin=0.5)
    expected = loop_loss(case, loss, scale=50, margin=0.5)
    assert case.total(loss).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("b", [1, 2, 16, 64])
def test_mean_squared_length_is_inverse_batch_size(b, random_case):
    """The similarities to unit vectors are the coordinates of the position."""
    position = Relative()(random_case(n=b, nbit=12).z, torch.eye(12, dtype=torch.float64))
    assert (position**2).sum(dim=1).mean().item() == pytest.approx(1 / b)
    assert abs(position.mean().item()) < 1e-12


def test_shift_and_scale_of_the_batch_do_not_matter(random_case):
    case = random_case()
    z, centers = case.z, case.centers
    torch.testing.assert_close(Relative()(3 * z + 5, centers), Relative()(z, centers))
    torch.testing.assert_close(
        Relative(sqrt_bk=True)(z, centers), Relative()(z, centers) * z.numel() ** 0.5
    )


def test_gradient_through_mean_and_norm(random_case):
    """The gradient is orthogonal to shift and scale, to which the similarity is invariant."""
    case = random_case()
    z = case.z.requires_grad_()
    (Relative()(z, case.centers) * torch.randn(6, 4, dtype=torch.float64)).sum().backward()
    assert abs(z.grad.sum().item()) < 1e-9
    assert abs((z.grad * z.detach()).sum().item()) < 1e-9
    assert z.grad.norm() > 0.1


def test_minimum_of_the_loss_depends_on_the_batch_size(make_case):
    """16 codes that equal their centers: S is at most 1/4, below the margin of 1/2.

    The logit of the true class is 50 (1/4 - 1/2) and the others are near 0, so the loss is near
    50 / 4 + log(C - 1) instead of 0. For ten orthogonal centers this is exact up to e^-12.5.
    """
    hadamard = torch.ones(1, 1, dtype=torch.float64)
    for _ in range(4):
        hadamard = torch.cat(
            [torch.cat([hadamard, hadamard], 1), torch.cat([hadamard, -hadamard], 1)]
        )
    centers = hadamard[1:11]  # orthogonal, each of mean 0
    labels = torch.eye(10, dtype=torch.float64)[[*range(10), *range(6)]]
    case = make_case(labels @ centers, labels, centers, similarity=Relative())
    result = case.total(case.loss(LMCL, scale=50, margin=0.5))
    assert result.item() == pytest.approx(12.5 + math.log(9), abs=1e-4)


def test_constant_batch():
    """All entries are equal: the similarities are 0 and the gradient is finite."""
    z = torch.full((3, 4), 0.5, requires_grad=True)
    result = Relative()(z, torch.ones(2, 4))
    result.sum().backward()
    assert torch.equal(result, torch.zeros(3, 2)) and z.grad.isfinite().all()
