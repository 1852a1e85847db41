"""ITQ, CVPR 2011.

Gong and Lazebnik, "Iterative Quantization: A Procrustean Approach to Learning Binary Codes".
"""

from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from deephash.bounds import CountOrZero
from deephash.errors import ConfigError
from deephash.methods.base import Method
from deephash.models.encoder import Encoder
from deephash.models.heads import Linear
from deephash.projections import components, principal_axes, projection, random_rotation


class ITQ(Method):
    r"""Rotate the principal components of the features so that they are close to bits.

    .. math:: \min_{B, R} \lVert B - V R \rVert_F^2, \qquad B \in \{-1, +1\}^{N \times K}, \qquad
              R^\top R = I

    V holds the first K principal components of the centered features. B and R are updated in turn:
    the signs of V R, and the solution of the orthogonal Procrustes problem. The head then maps
    features to V R, so the encoder alone makes the codes.

    Args:
        encoder: its head is a linear layer with a bias, which is filled.
        nbit: K.
        num_train: N.
        seed: of the first rotation.
        iterations: updates of B and R; 0 keeps the random rotation.
        update: ``textbook``: the minimizer, R = W U^T of the singular value decomposition
            B^T V = U S W^T. ``transposed``: R = W^T U^T, an orthogonal matrix that is not the
            minimizer. FIRe and ITQ_PyTorch have it, because the third result of ``torch.svd`` is W
            and they transpose it once more; its codes are those of an arbitrary rotation.

    Raises:
        ConfigError: K exceeds D, or is not below N, or the head is another one.

    Example:
        >>> features = torch.tensor([[2.0, 1.0], [2.0, -1.0], [-2.0, 1.0], [-2.0, -1.0]])
        >>> encoder = Encoder(nn.Identity(), Linear(in_features=2, nbit=2, bias=True))
        >>> ITQ(encoder, nbit=2, num_train=4, seed=0).fit(features)
        >>> codes = encoder.encode(features) >= 0
        >>> len(codes.unique(dim=0))  # each image has a code of its own
        4
    """

    learns: ClassVar[bool] = False
    labels: ClassVar[bool] = False

    def __init__(
        self,
        encoder: Encoder,
        nbit: int,
        num_train: int,
        seed: int,
        iterations: CountOrZero = 100,
        update: Literal["textbook", "transposed"] = "textbook",
    ) -> None:
        super().__init__(encoder)
        layer = self._layer()
        if nbit > layer.in_features:
            raise ConfigError(
                f"model.nbit  is {nbit}, and the backbone has {layer.in_features} features: there"
                f" are no more principal components.\n"
                f"            Type model.nbit={layer.in_features} at most, or another backbone."
            )
        if nbit >= num_train:
            raise ConfigError(
                f"model.nbit  is {nbit}, and there are {num_train} training images: these have"
                f" {num_train - 1} principal components at most.\n"
                f"            Type model.nbit={max(1, num_train - 1)} at most, or use more images."
            )
        self.seed = seed
        self.iterations = iterations
        self.update = update

    def _layer(self) -> nn.Linear:
        """Return the linear layer of the head."""
        head = self.encoder.head
        if type(head) is not Linear or head.linear.bias is None:
            raise ConfigError(
                "method.head  ITQ fills a linear layer with a bias.\n"
                "             Type head=linear head.bias=true, or leave it out."
            )
        return head.linear

    @torch.no_grad()
    def fit(self, features: Tensor) -> None:
        """Fill the head: (N, D) features of the training images."""
        layer = self._layer()
        nbit = layer.out_features
        mean, axes = principal_axes(features, nbit)
        v = components(features, mean, axes)  # (N, K)
        rotation = random_rotation(nbit, self.seed)
        for _ in range(self.iterations):
            rotation = rotated(v, rotation, self.update)
        weight, bias = projection(mean, axes, rotation)
        layer.weight.copy_(weight)
        layer.bias.copy_(bias)


def rotated(
    components: Tensor, rotation: Tensor, update: Literal["textbook", "transposed"] = "textbook"
) -> Tensor:
    """Make one update of B and R.

    Args:
        components: V, (N, K).
        rotation: R, (K, K).
        update: see `ITQ`.

    Returns:
        the new R.
    """
    bits = torch.where(components @ rotation >= 0, 1.0, -1.0).to(components.dtype)  # B
    u: Tensor
    wt: Tensor
    u, _, wt = torch.linalg.svd(bits.T @ components)
    return wt.T @ u.T if update == "textbook" else wt @ u.T
