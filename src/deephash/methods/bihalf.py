"""Bi-half, AAAI 2021.

Li and van Gemert, "Deep Unsupervised Image Hashing by Maximizing Bit Entropy".
"""

from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from deephash.utils.bounds import NonNegative


class BiHalf(nn.Module):
    r"""Binarization that gives each bit the value +1 in half of each training batch.

    .. math:: b_{nk} = +1 \text{ if } u_{nk} > \mathrm{median}_n u_{nk} \text{ else } -1, \qquad
              \frac{\partial L}{\partial u} := \frac{\partial L}{\partial b} +
              \frac{\gamma}{N K} (u - b)

    The second part of the gradient moves each code towards its bits, even if the loss has no
    gradient; it is not part of the value of the loss. It depends on the batch size N. For an even N
    the median is the lower one of the two middle values.

    In evaluation mode the result is u: retrieval uses the signs of u, not the median.

    Args:
        gamma: weight of the second part of the gradient, for this instance only.
        rule: selects the bits that are +1. ``median``: above the lower median (SDC, FIRe).
            ``sort``: the floor(N / 2) largest (the authors' code); the first of equal values. The
            rules differ only if the median occurs twice: ``median`` then selects fewer.

    Example:
        >>> u = torch.tensor([[0.0], [0.0], [0.0], [1.0], [2.0], [-1.0]], requires_grad=True)
        >>> BiHalf(rule="median")(u).flatten().tolist()
        [-1.0, -1.0, -1.0, 1.0, 1.0, -1.0]
        >>> b = BiHalf(rule="sort")(u)
        >>> b.flatten().tolist()
        [1.0, -1.0, -1.0, 1.0, 1.0, -1.0]
        >>> b.backward(torch.zeros(6, 1))  # without a gradient of the loss: 6 / (6 * 1) (u - b)
        >>> u.grad.flatten().tolist()
        [-1.0, 1.0, 1.0, 0.0, 1.0, 0.0]
    """

    bits: ClassVar[bool] = True
    batch_coupled: ClassVar[bool] = True

    def __init__(
        self, gamma: NonNegative = 6.0, rule: Literal["median", "sort"] = "median"
    ) -> None:
        super().__init__()
        self.gamma = gamma
        self.rule = rule

    def forward(self, z: Tensor) -> Tensor:
        if not self.training:
            return z
        bits: Tensor = _BalancedBits.apply(z, self.gamma, self.rule)
        return bits


class _BalancedBits(torch.autograd.Function):
    """Function `balanced_bits` with the gradient of `BiHalf`."""

    @staticmethod
    def forward(ctx: Any, u: Tensor, gamma: float, rule: str) -> Tensor:
        bits = balanced_bits(u, rule)
        ctx.gamma = gamma
        ctx.save_for_backward(u, bits)
        return bits

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        u, bits = ctx.saved_tensors
        return grads[0] + ctx.gamma / u.numel() * (u - bits), None, None


def balanced_bits(u: Tensor, rule: str) -> Tensor:
    """Return the bits of codes (N, K) by one of the rules of `BiHalf`: (N, K), -1 and +1."""
    if rule == "median":  # torch.median is not deterministic on CUDA
        middle = u.sort(dim=0, stable=True).values[(len(u) - 1) // 2]  # (K,)
        return torch.where(u > middle, 1.0, -1.0).to(u.dtype)
    ranks = u.argsort(dim=0, descending=True, stable=True).argsort(dim=0)
    return torch.where(ranks < len(u) // 2, 1.0, -1.0).to(u.dtype)
