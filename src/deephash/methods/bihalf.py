"""Bi-half, AAAI 2021.

Li and van Gemert, "Deep Unsupervised Image Hashing by Maximizing Bit Entropy".
"""

from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from deephash.utils.bounds import NonNegative


class BiHalf(nn.Module):
    r"""Bits that divide each training batch into two halves.

    .. math:: b_{nk} = +1 \text{ if } u_{nk} > \mathrm{median}_n u_{nk} \text{ else } -1, \qquad
              \frac{\partial L}{\partial u} := \frac{\partial L}{\partial b} +
              \frac{\gamma}{N K} (u - b)

    The second part of the gradient pulls each code towards its bits, also where the loss has none;
    it does not appear in the value of the loss. It depends on the batch size N. The median is that
    of all N rows, and of the two middle values of an even N the lower one.

    In evaluation mode the result is u. What retrieval compares are the signs of u, not its
    comparisons with a median.

    Args:
        gamma: weight of the pull, of this instance alone.
        rule: which bits are +1. ``median``: above the lower median (SDC, FIRe). ``sort``: the
            floor(N / 2) largest (the authors' code); of equal values the first ones. They differ
            only if the median occurs twice: ``median`` then gives fewer than floor(N / 2).

    Example:
        >>> u = torch.tensor([[0.0], [0.0], [0.0], [1.0], [2.0], [-1.0]], requires_grad=True)
        >>> BiHalf(rule="median")(u).flatten().tolist()
        [-1.0, -1.0, -1.0, 1.0, 1.0, -1.0]
        >>> b = BiHalf(rule="sort")(u)
        >>> b.flatten().tolist()
        [1.0, -1.0, -1.0, 1.0, 1.0, -1.0]
        >>> b.backward(torch.zeros(6, 1))  # the loss has no gradient; 6 / (6 * 1) (u - b) remains
        >>> u.grad.flatten().tolist()
        [-1.0, 1.0, 1.0, 0.0, 1.0, 0.0]
    """

    bits: ClassVar[bool] = True

    def __init__(
        self, gamma: NonNegative = 6.0, rule: Literal["median", "sort"] = "median"
    ) -> None:
        super().__init__()
        self.gamma = gamma
        self.rule = rule

    def forward(self, z: Tensor) -> Tensor:
        if not self.training:
            return z
        bits: Tensor = _Halves.apply(z, self.gamma, self.rule)
        return bits


class _Halves(torch.autograd.Function):
    """Bits by the order of each column, with the gradient of `BiHalf`."""

    @staticmethod
    def forward(ctx: Any, u: Tensor, gamma: float, rule: str) -> Tensor:
        bits = halves(u, rule)
        ctx.gamma = gamma
        ctx.save_for_backward(u, bits)
        return bits

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        u, bits = ctx.saved_tensors
        return grads[0] + ctx.gamma / u.numel() * (u - bits), None, None


def halves(u: Tensor, rule: str) -> Tensor:
    """Return the bits of each column by one of the rules of `BiHalf`: (N, K), -1 and +1.

    No operation is used that CUDA has in no deterministic form (``torch.median`` is one).
    """
    if rule == "median":
        middle = u.sort(dim=0, stable=True).values[(len(u) - 1) // 2]  # (K,)
        return torch.where(u > middle, 1.0, -1.0).to(u.dtype)
    ranks = u.argsort(dim=0, descending=True, stable=True).argsort(dim=0)
    return torch.where(ranks < len(u) // 2, 1.0, -1.0).to(u.dtype)
