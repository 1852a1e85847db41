"""What the objective sees in place of bits, during training only: ``(N, K) -> (N, K)``."""

import torch
from torch import Tensor, nn


class Identity(nn.Module):
    """The real-valued code itself."""

    def forward(self, z: Tensor) -> Tensor:
        return z


class Tanh(nn.Module):
    """``tanh(slope * z)``: codes pressed into (-1, 1).

    Args:
        slope: the steepness at 0.
    """

    def __init__(self, slope: float = 1.0) -> None:
        super().__init__()
        self.slope = slope

    def forward(self, z: Tensor) -> Tensor:
        return torch.tanh(self.slope * z)
