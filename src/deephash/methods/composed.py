"""Default method: encoder, relaxation, codebook, similarity and loss, in this order."""

from typing import ClassVar

import torch
from torch import Tensor, nn

from deephash.methods.base import Method
from deephash.models.encoder import Encoder
from deephash.types import Batch, Output, Terms


class Composed(Method):
    """Encoder, relaxation, codebook, similarity and loss, applied one after the other.

    Args:
        encoder: maps images to features and codes.
        relaxation: ``(N, K) -> (N, K)``, the differentiable replacement of the bits.
        codebook: ``() -> (C, K)``, class centers; None for a loss without centers.
        similarity: ``(N, K), (C, K) -> (N, C)``; None for a loss without logits.
        loss: ``(output, batch) -> Terms``; its ``needs`` lists the fields of `Output` that it
            reads, and contains ``bits`` if the relaxed code must be -1 and +1.

    Example:
        >>> from deephash.models.codebooks import Bernoulli
        >>> from deephash.losses import LMCL
        >>> from deephash.models import relaxations
        >>> from deephash.models.similarities import Cosine
        >>> method = Composed(
        ...     Encoder(nn.Flatten(), nn.Linear(4, 8)),
        ...     relaxations.Identity(),
        ...     Bernoulli(num_classes=2, nbit=8, seed=0),
        ...     Cosine(),
        ...     LMCL(num_classes=2, nbit=8, scale=8, margin=0.2),
        ... )
        >>> terms = method(Batch(torch.randn(3, 1, 4), torch.eye(2)[[0, 1, 0]], torch.arange(3)))
        >>> list(terms), method.centers().shape
        (['lmcl'], torch.Size([2, 8]))
    """

    cached_features: ClassVar[bool] = True
    batch_coupled: ClassVar[bool] = False  # depends on the parts

    def __init__(
        self,
        encoder: Encoder,
        relaxation: nn.Module,
        codebook: nn.Module | None,
        similarity: nn.Module | None,
        loss: nn.Module,
    ) -> None:
        super().__init__(encoder)
        self.relaxation = relaxation
        self.codebook = codebook
        self.similarity = similarity
        self.loss = loss

    def forward(self, batch: Batch) -> Terms:
        features, z = self.encode(batch)  # (N, D), (N, K); under autocast if enabled
        with torch.autocast(z.device.type, enabled=False):  # losses are computed in float32
            u = self.relaxation(z.float())  # (N, K)
            centers = None if self.codebook is None else self.codebook()  # (C, K)
            logits = None if self.similarity is None else self.similarity(u, centers)  # (N, C)
            terms: Terms = self.loss(Output(features.float(), z.float(), u, logits, centers), batch)
            return terms

    def centers(self) -> Tensor | None:
        """Return the current class centers: those updated by the loss, or the codebook's."""
        centers: Tensor | None = getattr(self.loss, "moved_centers", None)
        if centers is None and self.codebook is not None:
            centers = self.codebook()
        return centers
