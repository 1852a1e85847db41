"""The default method: five parts in the order in which the data pass them."""

import torch
from torch import Tensor, nn

from deephash.methods.base import Method
from deephash.models.encoder import Encoder
from deephash.records import Batch, Output, Terms


class Composed(Method):
    """Encoder, relaxation, codebook, similarity and loss, one after the other.

    Args:
        encoder: images to features and codes.
        relaxation: ``(N, K) -> (N, K)``, what the objective sees instead of bits.
        codebook: class centers, or None for an objective that knows none.
        similarity: code against center, or None.
        loss: ``(output, batch) -> Terms``; its ``needs`` names the fields of Output that it
            reads, and ``bits`` where they must be -1 and +1.
    """

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
        features, z = self.encode(batch)  # (N, D), (N, K); under autocast if on
        with torch.autocast(z.device.type, enabled=False):  # objectives are judged in float32
            u = self.relaxation(z.float())  # (N, K)
            centers = None if self.codebook is None else self.codebook()  # (C, K)
            logits = None if self.similarity is None else self.similarity(u, centers)  # (N, C)
            terms: Terms = self.loss(Output(features.float(), z.float(), u, logits, centers), batch)
            return terms

    def centers(self) -> Tensor | None:
        """Return the class centers in use: those that the loss has moved, else the codebook's."""
        moved: Tensor | None = getattr(self.loss, "moved_centers", None)
        if moved is not None or self.codebook is None:
            return moved
        rows: Tensor = self.codebook()
        return rows
