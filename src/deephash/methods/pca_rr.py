"""PCA with a random rotation, CVPR 2010.

Jegou, Douze, Schmid and Perez, "Aggregating Local Descriptors into a Compact Image Representation".
"""

from torch import Tensor

from deephash.methods.closed_form import Principal
from deephash.models.encoder import Encoder
from deephash.models.projections import principal_axes, projection, random_rotation


class PCARR(Principal):
    r"""Signs of principal components, rotated by a random orthogonal matrix.

    .. math:: z = R^\top A (f - \bar f), \qquad R^\top R = I

    The rotation distributes the variance over all bits. It is the initial rotation of ITQ;
    "Hashing-Baseline" (arXiv 2509.14427) is this method on features of recent backbones.

    Args:
        encoder: encoder whose head is a linear layer with a bias.
        nbit: number of bits K.
        num_train: number of training images N.
        seed: seed of R, which is the initial rotation of ITQ with this seed.

    Raises:
        ConfigError: K exceeds D or N - 1, or the head is of another class or has no bias.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from deephash.models.heads import Linear
        >>> features = torch.randn(50, 8, generator=torch.manual_seed(0))
        >>> encoder = Encoder(nn.Identity(), Linear(in_features=8, nbit=4, bias=True))
        >>> PCARR(encoder, nbit=4, num_train=50, seed=0).fit(features)
        >>> encoder.encode(features).shape
        torch.Size([50, 4])
    """

    def __init__(self, encoder: Encoder, nbit: int, num_train: int, seed: int) -> None:
        super().__init__(encoder, nbit, num_train)
        self.seed = seed

    def fit(self, features: Tensor) -> None:
        """Set the head from features (N, D) of the training images."""
        mean, axes = principal_axes(features, self.nbit)
        self.fill(*projection(mean, axes, random_rotation(self.nbit, self.seed)))
