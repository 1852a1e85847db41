"""PCA hashing, the unsupervised case of CVPR 2010.

Wang, Kumar and Chang, "Semi-Supervised Hashing for Scalable Image Retrieval".
"""

from torch import Tensor

from deephash.methods.closed_form import Principal
from deephash.models.projections import principal_axes, projection


class PCAH(Principal):
    r"""Signs of the first principal components of the features.

    .. math:: z = A (f - \bar f)

    The rows of A are the first K principal axes of the training features, without whitening. The
    sign of an axis is arbitrary, so a bit may be inverted in all codes, which does not change
    Hamming distances.

    Args:
        encoder: encoder whose head is a linear layer with a bias.
        nbit: number of bits K.
        num_train: number of training images N.

    Raises:
        ConfigError: K exceeds D or N - 1, or the head is of another class or has no bias.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from deephash.models.encoder import Encoder
        >>> from deephash.models.heads import Linear
        >>> features = torch.tensor([[3.0, 1.0], [-1.0, 1.0]])
        >>> encoder = Encoder(nn.Identity(), Linear(in_features=2, nbit=1, bias=True))
        >>> PCAH(encoder, nbit=1, num_train=2).fit(features)
        >>> encoder.encode(features).tolist()
        [[2.0], [-2.0]]
    """

    def fit(self, features: Tensor) -> None:
        """Set the head from features (N, D) of the training images."""
        self.fill(*projection(*principal_axes(features, self.nbit)))
