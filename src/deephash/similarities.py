"""Code against class center: ``(u (N, K), centers (C, K)) -> (N, C)``.

The values of the cosine and of the relative similarity are in [-1, 1]; those of the latter with
``sqrt_bk=true`` are in [-sqrt(N K), sqrt(N K)].
"""

from torch import Tensor, nn
from torch.nn import functional as F


class Cosine(nn.Module):
    r"""The cosine of the angle between a code and each center.

    .. math:: S_{nc} = \frac{\langle u_n, c_c \rangle}{\lVert u_n \rVert \lVert c_c \rVert}
    """

    def forward(self, u: Tensor, centers: Tensor) -> Tensor:
        return F.normalize(u) @ F.normalize(centers).T  # (N, C)
