"""ITQ, CVPR 2011.

Gong and Lazebnik, "Iterative Quantization: A Procrustean Approach to Learning Binary Codes".
"""

from typing import Literal

import torch
from torch import Tensor

from deephash.methods.closed_form import Principal
from deephash.models.encoder import Encoder
from deephash.models.projections import components, principal_axes, projection, random_rotation
from deephash.utils.bounds import CountOrZero

BLOCK = 1 << 12
"""Number of rows per step of an update: they and their bits fit into the cache of a core."""


class ITQ(Principal):
    r"""Signs of principal components, rotated to minimize their distance from the signs.

    .. math:: \min_{B, R} \lVert B - V R \rVert_F^2, \qquad B \in \{-1, +1\}^{N \times K}, \qquad
              R^\top R = I

    V contains the first K principal components of the centered features. B and R are updated in
    turn: the signs of V R, and the solution of the orthogonal Procrustes problem. The head maps
    features to V R.

    Args:
        encoder: encoder whose head is a linear layer with a bias.
        nbit: number of bits K.
        num_train: number of training images N.
        seed: seed of the initial rotation.
        iterations: number of updates of B and R; 0 keeps the random rotation.
        update: ``textbook``: the minimizer, R = W U^T of the singular value decomposition
            B^T V = U S W^T. ``transposed``: R = W^T U^T, an orthogonal matrix that is not the
            minimizer. FIRe and ITQ_PyTorch use it, because the third result of ``torch.svd`` is W
            and they transpose it once more; the codes are those of an arbitrary rotation.

    Raises:
        ConfigError: K exceeds D or N - 1, or the head is of another class or has no bias.

    Example:
        >>> from torch import nn
        >>> from deephash.models.heads import Linear
        >>> features = torch.tensor([[2.0, 1.0], [2.0, -1.0], [-2.0, 1.0], [-2.0, -1.0]])
        >>> encoder = Encoder(nn.Identity(), Linear(in_features=2, nbit=2, bias=True))
        >>> ITQ(encoder, nbit=2, num_train=4, seed=0).fit(features)
        >>> codes = encoder.encode(features) >= 0
        >>> len(codes.unique(dim=0))  # four different codes
        4
    """

    def __init__(
        self,
        encoder: Encoder,
        nbit: int,
        num_train: int,
        seed: int,
        iterations: CountOrZero = 100,
        update: Literal["textbook", "transposed"] = "textbook",
    ) -> None:
        super().__init__(encoder, nbit, num_train)
        self.seed = seed
        self.iterations = iterations
        self.update = update

    def fit(self, features: Tensor) -> None:
        """Set the head from features (N, D) of the training images."""
        mean, axes = principal_axes(features, self.nbit)
        v = components(features, mean, axes)  # (N, K)
        rotation = random_rotation(self.nbit, self.seed)
        for _ in range(self.iterations):
            rotation = update_rotation(v, rotation, self.update)
        self.fill(*projection(mean, axes, rotation))


def update_rotation(
    components: Tensor, rotation: Tensor, update: Literal["textbook", "transposed"] = "textbook"
) -> Tensor:
    """Update B and R once, and return the new R.

    Args:
        components: V, (N, K).
        rotation: R, (K, K).
        update: see `ITQ`.
    """
    product = components.new_zeros(rotation.shape)  # B^T V
    for rows in torch.split(components, BLOCK):
        bits = torch.where(rows @ rotation >= 0, 1.0, -1.0).to(rows.dtype)  # B
        product.addmm_(bits.T, rows)
    u: Tensor
    wt: Tensor
    u, _, wt = torch.linalg.svd(product)
    return wt.T @ u.T if update == "textbook" else wt @ u.T
