"""The encoder: the part of a trained method that retrieval needs."""

from torch import Tensor, nn

from deephash.errors import ConfigError


class Encoder(nn.Module):
    """Backbone and head: images to features (N, D) and real-valued codes (N, K).

    The bits of a code are ``z >= 0``. A head with an attribute ``tokens = True`` takes the tokens
    (N, T, D) of a backbone with ``output=tokens``; the features are then their means.

    Args:
        backbone: ``(N, 3, H, W) -> (N, D)``; or ``-> (N, T, D)`` if the head takes tokens.
        head: ``(N, D) -> (N, K)``; one for tokens also ``(N, T, D) -> (N, K)``.

    Attributes:
        takes_features: whether inputs (N, D) are precomputed features and skip the backbone. Only
            for backbones that take images.

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

    def outputs(self, images: Tensor) -> Tensor:
        """Return the input of the head: features (N, D) or tokens (N, T, D).

        Raises:
            ConfigError: the output of the backbone does not have this shape.
        """
        if self.takes_features and images.ndim == 2:
            return images
        outputs: Tensor = self.backbone(images)
        tokens = bool(getattr(self.head, "tokens", False))
        if outputs.ndim != (3 if tokens else 2):
            shape = "x".join(map(str, outputs.shape[1:])) or "one number"
            takes, option = ("tokens (N, T, D)", "tokens") if tokens else ("(N, D)", "features")
            raise ConfigError(
                f"backbone  {type(self.backbone).__name__} returns {shape} for each image, but the"
                f" head, {type(self.head).__name__}, takes {takes}.\n"
                f"          Try backbone.output={option}, or another backbone."
            )
        return outputs

    def features(self, images: Tensor) -> Tensor:
        """Return only the features: ``(N, 3, H, W) -> (N, D)``."""
        return _pooled(self.outputs(images))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        outputs = self.outputs(images)  # (N, D) or (N, T, D)
        return _pooled(outputs), self.head(outputs)  # (N, D), (N, K)

    def encode(self, images: Tensor) -> Tensor:
        """Return only the codes: ``(N, 3, H, W) -> (N, K)``."""
        z: Tensor = self(images)[1]
        return z


def _pooled(outputs: Tensor) -> Tensor:
    """Return features (N, D) unchanged, and the means of tokens (N, T, D)."""
    return outputs.mean(dim=1) if outputs.ndim == 3 else outputs
