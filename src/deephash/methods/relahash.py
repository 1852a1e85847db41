"""RelaHash. Minh et al., "RelaHash: Deep Hashing With Relative Position", IEEE Access 2023."""

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Relative(nn.Module):
    r"""Similarity of each center to a code's position relative to its batch. (N, K) -> (N, C).

    .. math:: z^* = \frac{z - \mu}{\lVert z - \mu \rVert_F}, \qquad
              S = z^* c^{*\top}, \quad c^*_i = c_i / \lVert c_i \rVert

    The batch is centered by its mean and divided by its Frobenius norm, both over all N * K
    entries and both with gradient (Eq. 4). The logits of a code therefore depend on its batch. They
    are in [-1, 1] and decrease as 1 / sqrt(N), so ``scale`` must be tuned for each batch size, and
    a short last batch is dropped.

    Args:
        sqrt_bk: whether to multiply the position by sqrt(N * K), as in Eq. 4; the logits then
            reach sqrt(N * K). False by default: the reference code omits the factor (the paper's
            scale absorbs it), and the published values of beta, 5 to 500, are plausible only
            without it.

    Example:
        >>> similarity, centers = Relative(), torch.tensor([[1.0, -1.0], [1.0, 1.0]])
        >>> z = torch.tensor([[3.0, 1.0], [1.0, 3.0]])
        >>> similarity(z, centers)  # z - 2 has the norm 2
        tensor([[ 0.7071,  0.0000],
                [-0.7071,  0.0000]])
        >>> torch.equal(similarity(z, centers), similarity(z + 5, centers))
        True
    """

    batch_coupled: ClassVar[bool] = True

    def __init__(self, sqrt_bk: bool = False) -> None:
        super().__init__()
        self.sqrt_bk = sqrt_bk

    def forward(self, u: Tensor, centers: Tensor) -> Tensor:
        position = u - u.mean()  # (N, K)
        position = position / torch.linalg.matrix_norm(position).clamp(min=1e-12)  # 0 / 0 is 0
        if self.sqrt_bk:
            position = position * u.numel() ** 0.5
        similarity: Tensor = position @ F.normalize(centers).T  # (N, C)
        return similarity
