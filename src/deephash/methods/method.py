"""The assembly: five parts in the order the data meets them."""

from typing import Any

import torch
from torch import Tensor, nn

from deephash.models.encoder import Encoder
from deephash.records import Batch, Output, Terms


class Method(nn.Module):
    """A recipe: encoder, relaxation, codebook, similarity, loss.

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
        super().__init__()
        self.encoder = encoder
        self.relaxation = relaxation
        self.codebook = codebook
        self.similarity = similarity
        self.loss = loss

    def forward(self, batch: Batch) -> Terms:
        features, z = self.encoder(batch.flat())  # (N, D), (N, K); under autocast if on
        with torch.autocast(z.device.type, enabled=False):  # objectives are judged in float32
            u = self.relaxation(z.float())  # (N, K)
            centers = None if self.codebook is None else self.codebook()  # (C, K)
            logits = None if self.similarity is None else self.similarity(u, centers)  # (N, C)
            return self.loss(Output(features.float(), z.float(), u, logits, centers), batch)

    def centers(self) -> Tensor | None:
        """The class centers in use: those that the loss has moved, else the codebook's."""
        moved = getattr(self.loss, "moved_centers", None)
        if moved is not None or self.codebook is None:
            return moved
        return self.codebook()

    def prepare(self, data: Any) -> None:
        """A look at the data before the first epoch, for every part that wants one."""
        self._tell("prepare", data)

    def on_epoch(self, epoch: int) -> None:
        """Tells every part with a schedule that an epoch begins."""
        self._tell("on_epoch", epoch)

    def param_groups(self, lr: float, backbone_scale: float) -> list[dict[str, Any]]:
        """Trainable parameters: the backbone at ``lr * backbone_scale``, the rest at ``lr``."""
        backbone = [p for p in self.encoder.backbone.parameters() if p.requires_grad]
        known = {id(p) for p in self.encoder.backbone.parameters()}
        rest = [p for p in self.parameters() if p.requires_grad and id(p) not in known]
        groups: list[tuple[str, list[nn.Parameter], float]] = [
            ("rest", rest, lr),
            ("backbone", backbone, lr * backbone_scale),
        ]
        return [{"name": n, "params": p, "lr": rate} for n, p, rate in groups if p]

    def _tell(self, hook: str, *args: Any) -> None:
        for part in self.modules():
            if part is not self and hasattr(part, hook):
                getattr(part, hook)(*args)
