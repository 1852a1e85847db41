"""The encoder: the part of a trained method that retrieval needs."""

from torch import Tensor, nn


class Encoder(nn.Module):
    """Backbone and head: images to features (N, D) and real-valued codes (N, K).

    The bits of a code are ``z >= 0``.

    Args:
        backbone: ``(N, 3, H, W) -> (N, D)``.
        head: ``(N, D) -> (N, K)``.

    Attributes:
        takes_features: whether a tensor (N, D) in place of images is the output of the backbone,
            computed before: it skips the backbone. Only for backbones that take images.

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
        self.takes_features = False

    def features(self, images: Tensor) -> Tensor:
        """Compute the features alone, if they are not given: ``(N, 3, H, W) -> (N, D)``."""
        if self.takes_features and images.ndim == 2:
            return images
        features: Tensor = self.backbone(images)
        return features

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features = self.features(images)  # (N, D)
        return features, self.head(features)  # (N, K)

    def encode(self, images: Tensor) -> Tensor:
        """Return the codes alone: ``(N, 3, H, W) -> (N, K)``."""
        u: Tensor = self(images)[1]
        return u
