"""What the objective sees in place of bits, during training only: ``(N, K) -> (N, K)``."""

from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from deephash.bounds import Count, NonNegative, Positive


class Identity(nn.Module):
    """The real-valued code itself."""

    def forward(self, z: Tensor) -> Tensor:
        return z


class Tanh(nn.Module):
    """``tanh(slope * z)``: codes pressed into (-1, 1).

    Args:
        slope: the steepness at 0.
    """

    def __init__(self, slope: Positive = 1.0) -> None:
        super().__init__()
        self.slope = slope

    def forward(self, z: Tensor) -> Tensor:
        return torch.tanh(self.slope * z)


class Continuation(nn.Module):
    """``tanh(beta z)`` with a beta that grows: HashNet (ICCV 2017).

    beta = sqrt(1 + gain * every * floor(t / every)), t counted in epochs from 0, or in training
    batches from 1. ``epoch, 20, 0.05`` gives sqrt(1 + floor(epoch / 20)), as the later
    implementations have it; ``iteration, 200, 0.005`` is the authors' own.

    Args:
        unit: what t counts.
        every: t at which beta moves.
        gain: growth of beta squared for each t.
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
        """The steepness now, on the device."""
        return torch.sqrt(1 + self.gain * self.every * (self.count // self.every))

    def on_epoch_start(self, epoch: int) -> None:
        if self.unit == "epoch":
            self.count.fill_(epoch)

    def forward(self, z: Tensor) -> Tensor:
        if self.unit == "iteration" and self.training:
            self.count += 1
        return torch.tanh(self.beta * z)


class Sign(nn.Module):
    """The bits as -1 and +1; the gradient passes as if nothing had happened (GreedyHash).

    Args:
        sign_of_zero: what an exact 0 becomes. ``1``: +1, as it is when codes are compared. ``0``:
            0, which is ``torch.sign`` (the authors' code, FIRe, swuxyj).
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
    """Bits b drawn with probability sigmoid(z), as 2 b - 1: JMLH (ICCV Workshops 2019).

    The gradient passes to the probability: that of b by z is p (1 - p). Outside training, and
    without ``stochastic``, the bits are those of ``z >= 0``.

    Args:
        stochastic: b = 1 where p exceeds a number drawn evenly from [0, 1) (the comparisons of
            OrthoHash); otherwise where p is 1/2 or more (the authors' code).
        sign_of_zero: what a p becomes that equals the number it is compared with, drawn or 1/2.
            ``1``: without drawing b = 1, as when codes are compared. ``0``: b = 1/2 and a code of
            0, which is ``torch.sign`` of the difference (the authors' code, FIRe).
    """

    bits: ClassVar[bool] = True

    def __init__(self, stochastic: bool = True, sign_of_zero: Literal[1, 0] = 1) -> None:
        super().__init__()
        self.stochastic = stochastic
        self.sign_of_zero = sign_of_zero

    def forward(self, z: Tensor) -> Tensor:
        p = torch.sigmoid(z)
        draws = self.stochastic and self.training
        if self.sign_of_zero == 0:
            threshold = torch.rand_like(p) if draws else torch.full_like(p, 0.5)
            bits = (torch.sign(p.detach() - threshold) + 1) / 2
        else:
            bits = p > torch.rand_like(p) if draws else z >= 0
        return 2 * ((p - p.detach()) + bits) - 1
