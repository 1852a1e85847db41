"""SH, NIPS 2008.

Weiss, Torralba and Fergus, "Spectral Hashing".
"""

import math
from typing import ClassVar

import torch
from torch import Tensor, nn

from deephash.methods.closed_form import ClosedForm, full_precision
from deephash.models.encoder import Encoder
from deephash.models.heads import Linear
from deephash.models.projections import components, principal_axes

MARGIN = 1e-7
"""What widens the range of a component on both sides, as in FIRe."""


class Waves(Linear):
    """The cosine of a linear layer with a bias: the head of spectral hashing.

    Args:
        in_features: D.
        nbit: K.

    Example:
        >>> Waves(in_features=8, nbit=4)(torch.zeros(2, 8)).shape
        torch.Size([2, 4])
    """

    def __init__(self, in_features: int, nbit: int) -> None:
        super().__init__(in_features, nbit, bias=True)

    def forward(self, features: Tensor) -> Tensor:
        with full_precision(features, self.linear.weight.dtype) as full:
            u: Tensor = self.linear(full).cos()
        return u


class SH(ClosedForm):
    r"""Threshold the smoothest eigenfunctions of a box that holds the principal components.

    .. math:: z_i = \cos\left( \frac{m_i \pi}{r_k} (p_k - \min p_k) \right), \qquad
              k = k_i, \qquad p = A (f - \bar f)

    p are the principal components and r_k is the range of component k over the training images,
    widened by 1e-7 on both sides. Each function has m >= 1 half waves along one component, with
    m < ceil((K + 1) r_k / max r), and the K of the smallest frequency m pi / r_k are chosen; of
    equal ones, the first component. p is not clipped to the range. If D or N - 1 is below K, there
    are fewer components, with more functions of each.

    Args:
        encoder: its head is `Waves`, which is filled.
        nbit: K.

    Raises:
        ConfigError: the head is another one.

    Example:
        >>> features = torch.rand(100, 8, generator=torch.manual_seed(0))
        >>> encoder = Encoder(nn.Identity(), Waves(in_features=8, nbit=4))
        >>> SH(encoder, nbit=4).fit(features)
        >>> bool(encoder.encode(features).abs().max() <= 1)
        True
    """

    head_class: ClassVar[type[nn.Module]] = Waves

    def __init__(self, encoder: Encoder, nbit: int) -> None:
        super().__init__(encoder)
        self.nbit = nbit

    @torch.no_grad()
    def fit(self, features: Tensor) -> None:
        """Fill the head: (N, D) features of the training images."""
        count = min(self.nbit, features.shape[1], max(1, len(features) - 1))
        mean, axes = principal_axes(features, count)
        p = components(features, mean, axes)
        low = p.amin(dim=0) - MARGIN
        axis, frequency = modes(p.amax(dim=0) + MARGIN - low, self.nbit)
        weight = frequency[:, None] * axes[axis]  # (K, D)
        layer: nn.Linear = self.encoder.head.linear  # type: ignore[assignment, union-attr]
        layer.weight.copy_(weight)
        layer.bias.copy_(-weight @ mean - frequency * low[axis])


def modes(ranges: Tensor, nbit: int) -> tuple[Tensor, Tensor]:
    """Choose the smoothest eigenfunctions of a box.

    Args:
        ranges: r, the sides of the box, (C,).
        nbit: K.

    Returns:
        the component (K,) and the frequency m pi / r_k (K,) of each function.

    Example:
        The sides are 4, 2 and 0.1: one and two half waves along the first have the frequencies
        pi/4 and pi/2, one along the second has pi/2, and three along the first 3 pi/4.

        >>> axis, frequency = modes(torch.tensor([4.0, 2.0, 0.1]), nbit=4)
        >>> axis.tolist(), (frequency / math.pi).tolist()
        ([0, 0, 1, 0], [0.25, 0.5, 0.5, 0.75])
    """
    limits = torch.ceil((nbit + 1) * (ranges / ranges.max())).long() - 1  # largest m of each
    axis = torch.repeat_interleave(torch.arange(len(ranges), device=ranges.device), limits)
    first = (limits.cumsum(0) - limits)[axis]  # where the functions of this component begin
    mode = torch.arange(len(axis), device=ranges.device) - first + 1
    frequency = mode * math.pi / ranges[axis]
    chosen = torch.argsort(frequency, stable=True)[:nbit]
    return axis[chosen], frequency[chosen]
