"""RelaHash. Minh et al., "RelaHash: Deep Hashing With Relative Position", IEEE Access 2023."""

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Relative(nn.Module):
    r"""Similarity of a code, taken at its position relative to the batch, to each center.

    .. math:: z^* = \frac{z - \mu}{\lVert z - \mu \rVert_F}, \qquad
              S = z^* c^{*\top}, \quad c^*_i = c_i / \lVert c_i \rVert

    The batch is centred by its mean and divided by its Frobenius norm, both over all N * K
    entries, and both differentiated (Eq. 4). A code's logits therefore depend on the batch it came
    in, and each is in [-1, 1]: they shrink as 1 / sqrt(N), so ``scale`` must be tuned again when
    the batch size changes, and a short last batch is dropped.

    Args:
        sqrt_bk: multiply the position by sqrt(N * K), as Eq. 4 has it. The reference code leaves
            the constant out (the paper lets the scale absorb it), and only so do the published
            values of beta, 5 to 500, make sense: hence the default. With it the logits reach
            sqrt(N * K) instead of 1.
    """

    batch_coupled: ClassVar[bool] = True

    def __init__(self, sqrt_bk: bool = False) -> None:
        super().__init__()
        self.sqrt_bk = sqrt_bk

    def forward(self, u: Tensor, centers: Tensor) -> Tensor:
        position = u - u.mean()  # (N, K)
        position = position / torch.linalg.matrix_norm(position).clamp(min=1e-12)  # all equal: 0
        if self.sqrt_bk:
            position = position * u.numel() ** 0.5
        return position @ F.normalize(centers).T  # (N, C)
