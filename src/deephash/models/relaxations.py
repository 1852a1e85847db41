"""Relaxations (N, K) -> (N, K), which replace the bits during training."""

from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from deephash.utils.bounds import Count, NonNegative, Positive


class Identity(nn.Module):
    """The unchanged real-valued code.

    Example:
        >>> Identity()(torch.tensor([[0.5, -2.0]]))
        tensor([[ 0.5000, -2.0000]])
    """

    def forward(self, z: Tensor) -> Tensor:
        return z


class Tanh(nn.Module):
    """``tanh(slope * z)``: codes in (-1, 1).

    Args:
        slope: the slope at 0.

    Example:
        >>> Tanh(slope=2.0)(torch.tensor([[0.5, -0.5]]))
        tensor([[ 0.7616, -0.7616]])
    """

    def __init__(self, slope: Positive = 1.0) -> None:
        super().__init__()
        self.slope = slope

    def forward(self, z: Tensor) -> Tensor:
        return torch.tanh(self.slope * z)


class Continuation(nn.Module):
    """``tanh(beta z)`` with an increasing beta: HashNet (ICCV 2017).

    beta = sqrt(1 + gain * every * floor(t / every)); t counts epochs from 0, or training batches
    from 1. ``epoch, 20, 0.05`` gives sqrt(1 + floor(epoch / 20)), as in later implementations;
    ``iteration, 200, 0.005`` is the authors' code.

    Args:
        unit: unit of t.
        every: epochs or batches between two changes of beta.
        gain: increase of beta squared in each epoch or batch.

    Example:
        >>> relaxation = Continuation("epoch", every=20, gain=0.05)
        >>> relaxation.on_epoch_start(60)
        >>> relaxation.beta.item()  # sqrt(1 + 3)
        2.0
    """

    count: Tensor  # () int64, t

    def __init__(
        self,
        unit: Literal["epoch", "iteration"] = "epoch",
        every: Count = 20,
        gain: NonNegative = 0.05,
    ) -> None:
        super().__init__()
        self.unit = unit
        self.every = every
        self.gain = gain
        self.register_buffer("count", torch.tensor(0))

    @property
    def beta(self) -> Tensor:
        """The current beta, a scalar on the device."""
        return torch.sqrt(1 + self.gain * self.every * (self.count // self.every))

    def on_epoch_start(self, epoch: int) -> None:
        if self.unit == "epoch":
            self.count.fill_(epoch)

    def forward(self, z: Tensor) -> Tensor:
        if self.unit == "iteration" and self.training:
            self.count += 1
        return torch.tanh(self.beta * z)


class Sign(nn.Module):
    """The bits as -1 and +1, with the gradient of the identity (GreedyHash, straight-through).

    Args:
        sign_of_zero: the value for an exact 0. ``1``: +1, as in retrieval. ``0``: 0, as with
            ``torch.sign`` (the authors' code, FIRe, swuxyj).

    Example:
        >>> z = torch.tensor([[0.5, -2.0]], requires_grad=True)
        >>> u = Sign()(z)
        >>> u.sum().backward()
        >>> u.tolist(), z.grad.tolist()
        ([[1.0, -1.0]], [[1.0, 1.0]])
    """

    bits: ClassVar[bool] = True

    def __init__(self, sign_of_zero: Literal[1, 0] = 1) -> None:
        super().__init__()
        self.sign_of_zero = sign_of_zero

    def forward(self, z: Tensor) -> Tensor:
        if self.sign_of_zero == 0:
            return (z - z.detach()) + torch.sign(z.detach())
        return (z - z.detach()) + torch.where(z >= 0, 1.0, -1.0)


class StochasticSign(nn.Module):
    """Codes 2 b - 1 of bits b drawn with probability p = sigmoid(z): JMLH (ICCV Workshops 2019).

    The gradient of b is that of the probability, p (1 - p). In evaluation mode, and without
    ``stochastic``, the bits are ``z >= 0``.

    Args:
        stochastic: b = 1 if p exceeds a uniform random number from [0, 1) (the comparisons of
            OrthoHash); otherwise if p is at least 1/2 (the authors' code).
        sign_of_zero: the result if p equals the threshold, random or 1/2. ``1``: b = 1 for the
            threshold 1/2, as in retrieval. ``0``: b = 1/2 and a code of 0, as with ``torch.sign``
            of the difference (the authors' code, FIRe).

    Example:
        >>> z = torch.tensor([[0.0, -2.0]], requires_grad=True)
        >>> u = StochasticSign().eval()(z)
        >>> u.sum().backward()
        >>> u.tolist()
        [[1.0, -1.0]]
        >>> z.grad  # 2 p (1 - p)
        tensor([[0.5000, 0.2100]])
    """

    bits: ClassVar[bool] = True

    def __init__(self, stochastic: bool = True, sign_of_zero: Literal[1, 0] = 1) -> None:
        super().__init__()
        self.stochastic = stochastic
        self.sign_of_zero = sign_of_zero

    def forward(self, z: Tensor) -> Tensor:
        p = torch.sigmoid(z)
        random = self.stochastic and self.training
        if self.sign_of_zero == 0:
            threshold = torch.rand_like(p) if random else torch.full_like(p, 0.5)
            bits = (torch.sign(p.detach() - threshold) + 1) / 2
        else:
            bits = p > torch.rand_like(p) if random else z >= 0
        return 2 * ((p - p.detach()) + bits) - 1
