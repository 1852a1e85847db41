"""RelaHash: a code at its position relative to the batch."""

import math

import pytest
import torch

from deephash.losses.lmcl import LMCL
from deephash.methods.relahash import Relative


def test_relative_position_by_hand():
    """Two equal codes (1, -1): mean 0, Frobenius norm 2, so each sits at (1/2, -1/2).

    Against the center (1, -1) / sqrt(2) that is 1 / sqrt(2): B equal codes reach
    1 / sqrt(B) and no more.
    """
    u = torch.tensor([[1.0, -1.0], [1.0, -1.0]])
    result = Relative()(u, torch.tensor([[1.0, -1.0]]))
    torch.testing.assert_close(result, torch.full((2, 1), 0.5**0.5))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("sqrt_bk", [False, True])
def test_relahash_is_the_naive_loop(sqrt_bk, seed, drawn, loops):
    """One image of six has no label."""
    at = drawn(seed, nbit=12, similarity=Relative(sqrt_bk))
    loss = at.made(LMCL, scale=50, margin=0.5)
    expected = loops(at, loss, scale=50, margin=0.5)
    assert at.total(loss).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("b", [1, 2, 16, 64])
def test_mean_squared_length_is_one_by_batch_size(b, drawn):
    """Against the unit axes the similarities are the coordinates of the position itself."""
    position = Relative()(drawn(n=b, nbit=12).z, torch.eye(12, dtype=torch.float64))
    assert (position**2).sum(dim=1).mean().item() == pytest.approx(1 / b)
    assert abs(position.mean().item()) < 1e-12


def test_relative_is_blind_to_shift_and_scale_of_the_whole_batch(drawn):
    at = drawn()
    z, centers = at.z, at.centers
    torch.testing.assert_close(Relative()(3 * z + 5, centers), Relative()(z, centers))
    torch.testing.assert_close(
        Relative(sqrt_bk=True)(z, centers), Relative()(z, centers) * z.numel() ** 0.5
    )


def test_relative_differentiates_mean_and_norm(drawn):
    """The gradient is orthogonal to what the similarity cannot see: shift and scale."""
    at = drawn()
    z = at.z.requires_grad_()
    (Relative()(z, at.centers) * torch.randn(6, 4, dtype=torch.float64)).sum().backward()
    assert abs(z.grad.sum().item()) < 1e-9
    assert abs((z.grad * z.detach()).sum().item()) < 1e-9
    assert z.grad.norm() > 0.1


def test_the_loss_has_a_floor_at_small_scale_of_the_similarity(case):
    """B = 16 codes that are their centers: S = 1/4 at most, far below the margin of 1/2.

    The target's logit is 50 (1/4 - 1/2) and those of the others are near 0: a loss near
    50 / 4 + log(C - 1), not near 0. Ten orthogonal centers: exactly that, up to e^-12.5.
    """
    hadamard = torch.ones(1, 1, dtype=torch.float64)
    for _ in range(4):
        hadamard = torch.cat(
            [torch.cat([hadamard, hadamard], 1), torch.cat([hadamard, -hadamard], 1)]
        )
    centers = hadamard[1:11]  # orthogonal, each of mean 0
    labels = torch.eye(10, dtype=torch.float64)[[*range(10), *range(6)]]
    at = case(labels @ centers, labels, centers, similarity=Relative())
    result = at.total(at.made(LMCL, scale=50, margin=0.5))
    assert result.item() == pytest.approx(12.5 + math.log(9), abs=1e-4)


def test_a_constant_batch_has_no_position():
    """All entries equal: nothing is left of them, and no gradient is not a number."""
    z = torch.full((3, 4), 0.5, requires_grad=True)
    result = Relative()(z, torch.ones(2, 4))
    result.sum().backward()
    assert torch.equal(result, torch.zeros(3, 2)) and z.grad.isfinite().all()
