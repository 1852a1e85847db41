"""LSH, STOC 2002.

Charikar, "Similarity Estimation Techniques from Rounding Algorithms".
"""

import torch
from torch import Tensor

from deephash.methods.closed_form import Projection
from deephash.models.encoder import Encoder
from deephash.models.projections import mean_of
from deephash.types import generator


class LSH(Projection):
    r"""Signs of projections onto random directions.

    .. math:: z = W f, \qquad W_{kd} \sim \mathcal N(0, 1)

    The probability that a bit of two images differs is their angle divided by pi. The projections
    do not depend on the data, unless the features are centered.

    Args:
        encoder: encoder whose head is a linear layer with a bias.
        nbit: number of bits K.
        seed: seed of W.
        center: whether to subtract the mean of the training features. False: the definition, with
            hyperplanes through the origin. Features after a ReLU are not negative and have angles
            below 90 degrees, so most of these hyperplanes have all images on one side; true then
            gives better codes.

    Raises:
        ConfigError: the head is of another class or has no bias.

    Example:
        >>> from torch import nn
        >>> from deephash.models.heads import Linear
        >>> encoder = Encoder(nn.Identity(), Linear(in_features=8, nbit=4, bias=True))
        >>> LSH(encoder, nbit=4, seed=0, center=True).fit(torch.rand(50, 8))
        >>> encoder.encode(torch.rand(3, 8)).shape
        torch.Size([3, 4])
    """

    def __init__(self, encoder: Encoder, nbit: int, seed: int, center: bool = False) -> None:
        super().__init__(encoder, nbit)
        self.seed = seed
        self.center = center
        self.fill(self._weight(), torch.zeros(nbit))

    def _weight(self) -> Tensor:
        """Draw W, (K, D), in float64."""
        shape = (self.nbit, self.layer.in_features)
        draw = generator(self.seed, "hyperplanes")
        return torch.randn(shape, generator=draw, dtype=torch.float64)

    @property
    def wants_features(self) -> bool:
        """Whether `fit` reads the features: only if they are centered."""
        return self.center

    def fit(self, features: Tensor) -> None:
        """Set the bias from features (N, D) of the training images, if they are centered."""
        if self.center:
            weight = self._weight()
            self.fill(weight, -weight @ mean_of(features))
