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
    r"""Project the features to random directions.

    .. math:: z = W f, \qquad W_{kd} \sim \mathcal N(0, 1)

    The probability that a bit of two images differs is their angle divided by pi. Nothing is
    fitted to the data, unless the features are centered.

    Args:
        encoder: its head is a linear layer with a bias, which is filled.
        nbit: K.
        seed: of W.
        center: subtract the mean of the training features. False: the definition, whose hyperplanes
            pass through the origin. Features after a ReLU are not negative and have angles below
            90 degrees, so most of these hyperplanes have all images on one side; true then gives
            better codes.

    Raises:
        ConfigError: the head is another one.

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
        """Whether the features are centered: otherwise `fit` has nothing to do."""
        return self.center

    def fit(self, features: Tensor) -> None:
        """Set the bias: (N, D) features of the training images."""
        if self.center:
            weight = self._weight()
            self.fill(weight, -weight @ mean_of(features))
