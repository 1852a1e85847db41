"""SH, NIPS 2008.

Weiss, Torralba and Fergus, "Spectral Hashing".
"""

import math
from typing import ClassVar

import torch
from torch import Tensor, nn

from deephash.methods.closed_form import Projection, full_precision
from deephash.models.heads import Linear
from deephash.models.projections import components, principal_axes

MARGIN = 1e-7
"""Added to the range of a component on both sides, as in FIRe."""


class Waves(Linear):
    """Head of spectral hashing: the cosine of a linear layer with a bias.

    Args:
        in_features: number of features D.
        nbit: number of bits K.

    Example:
        >>> Waves(in_features=8, nbit=4)(torch.zeros(2, 8)).shape
        torch.Size([2, 4])
    """

    def __init__(self, in_features: int, nbit: int) -> None:
        super().__init__(in_features, nbit, bias=True)

    def forward(self, features: Tensor) -> Tensor:
        with full_precision(features, self.linear.weight.dtype) as full:
            z: Tensor = self.linear(full).cos()
        return z


class SH(Projection):
    r"""Signs of the smoothest eigenfunctions of a box that contains the principal components.

    .. math:: z_i = \cos\left( \frac{m_i \pi}{r_k} (p_k - \min p_k) \right), \qquad
              k = k_i, \qquad p = A (f - \bar f)

    p are the principal components and r_k is the range of component k over the training images,
    plus 1e-7 on both sides. Each function has m >= 1 half waves along one component, with
    m < ceil((K + 1) r_k / max r). The K functions of the smallest frequency m pi / r_k are chosen;
    of equal ones, that of the first component. p is not clipped to the range. If D or N - 1 is
    below K, there are fewer components, with more functions of each.

    Args:
        encoder: encoder whose head is `Waves`.
        nbit: number of bits K.

    Raises:
        ConfigError: the head is of another class.

    Example:
        >>> from deephash.models.encoder import Encoder
        >>> features = torch.rand(100, 8, generator=torch.manual_seed(0))
        >>> encoder = Encoder(nn.Identity(), Waves(in_features=8, nbit=4))
        >>> SH(encoder, nbit=4).fit(features)
        >>> bool(encoder.encode(features).abs().max() <= 1)
        True
    """

    head_class: ClassVar[type[nn.Module]] = Waves

    def fit(self, features: Tensor) -> None:
        """Set the head from features (N, D) of the training images."""
        count = min(self.nbit, features.shape[1], max(1, len(features) - 1))
        mean, axes = principal_axes(features, count)
        p = components(features, mean, axes)
        low = p.amin(dim=0) - MARGIN
        component, frequency = smoothest_modes(p.amax(dim=0) + MARGIN - low, self.nbit)
        weight = frequency[:, None] * axes[component]  # (K, D)
        self.fill(weight, -weight @ mean - frequency * low[component])


def smoothest_modes(ranges: Tensor, nbit: int) -> tuple[Tensor, Tensor]:
    """Select the smoothest eigenfunctions of a box.

    Args:
        ranges: sides of the box r, (C,).
        nbit: number of functions K.

    Returns:
        the component (K,) and the frequency m pi / r_k (K,) of each function.

    Example:
        The sides are 4, 2 and 0.1: one and two half waves along the first have the frequencies
        pi/4 and pi/2, one along the second has pi/2, and three along the first 3 pi/4.

        >>> component, frequency = smoothest_modes(torch.tensor([4.0, 2.0, 0.1]), nbit=4)
        >>> component.tolist(), (frequency / math.pi).tolist()
        ([0, 0, 1, 0], [0.25, 0.5, 0.5, 0.75])
    """
    max_m = torch.ceil((nbit + 1) * (ranges / ranges.max())).long() - 1  # of each component
    component = torch.repeat_interleave(torch.arange(len(ranges), device=ranges.device), max_m)
    first = (max_m.cumsum(0) - max_m)[component]  # index of the component's first function
    m = torch.arange(len(component), device=ranges.device) - first + 1
    frequency = m * math.pi / ranges[component]
    smoothest = torch.argsort(frequency, stable=True)[:nbit]
    return component[smoothest], frequency[smoothest]
