"""PCA hashing, the unsupervised case of CVPR 2010.

Wang, Kumar and Chang, "Semi-Supervised Hashing for Scalable Image Retrieval".
"""

from torch import Tensor

from deephash.methods.closed_form import Principal
from deephash.models.projections import principal_axes, projection


class PCAH(Principal):
    r"""Project the features to their first principal components.

    .. math:: z = A (f - \bar f)

    The rows of A are the K principal axes of the training features, not whitened. The sign of an
    axis is free, so single bits may be flipped; Hamming distances are the same.

    Args:
        encoder: its head is a linear layer with a bias, which is filled.
        nbit: K.
        num_train: N.

    Raises:
        ConfigError: K exceeds D, or is not below N, or the head is another one.

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
        """Fill the head: (N, D) features of the training images."""
        self.fill(*projection(*principal_axes(features, self.nbit)))
