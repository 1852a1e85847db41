"""Similarities between codes and class centers: ``(u (N, K), centers (C, K)) -> (N, C)``.

The cosine and the relative similarity (`deephash.methods.relahash.Relative`) are in [-1, 1]; with
``sqrt_bk=true`` the latter is in [-sqrt(N K), sqrt(N K)].
"""

from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["Cosine"]


class Cosine(nn.Module):
    r"""Cosine similarity between each code (N, K) and each center (C, K): (N, C).

    .. math:: S_{nc} = \frac{\langle u_n, c_c \rangle}{\lVert u_n \rVert \lVert c_c \rVert}

    Example:
        >>> import torch
        >>> centers = torch.tensor([[1.0, 1.0], [1.0, -1.0]])
        >>> Cosine()(torch.tensor([[3.0, 3.0]]), centers).round(decimals=4).abs()
        tensor([[1., 0.]])
    """

    def forward(self, u: Tensor, centers: Tensor) -> Tensor:
        return F.normalize(u) @ F.normalize(centers).T  # (N, C)
