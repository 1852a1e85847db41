"""The encoder: the part of a trained method that retrieval needs."""

from torch import Tensor, nn


class Encoder(nn.Module):
    """Backbone and head: images to features (N, D) and real-valued codes (N, K).

    The bits of a code are ``z >= 0``.

    Args:
        backbone: ``(N, 3, H, W) -> (N, D)``.
        head: ``(N, D) -> (N, K)``.

    Example:
        >>> import torch
        >>> from deephash.models import backbones, heads
        >>> backbone = backbones.Tiny(width=4)
        >>> encoder = Encoder(backbone, heads.Linear(backbone.out_features, nbit=16))
        >>> features, z = encoder(torch.zeros(2, 3, 8, 8))
        >>> features.shape, z.shape
        (torch.Size([2, 64]), torch.Size([2, 16]))
    """

    def __init__(self, backbone: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features = self.backbone(images)  # (N, D)
        return features, self.head(features)  # (N, K)

    def encode(self, images: Tensor) -> Tensor:
        """Return the codes alone: ``(N, 3, H, W) -> (N, K)``."""
        u: Tensor = self(images)[1]
        return u
