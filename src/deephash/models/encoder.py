"""The encoder: the part of a trained method that retrieval needs."""

from torch import Tensor, nn

from deephash.errors import ConfigError


class Encoder(nn.Module):
    """Backbone and head: images to features (N, D) and real-valued codes (N, K).

    The bits of a code are ``z >= 0``. A head with an attribute ``tokens = True`` takes the tokens
    (N, T, D) of a backbone with ``output=tokens``; the features are then their means.

    Args:
        backbone: ``(N, 3, H, W) -> (N, D)``; or ``-> (N, T, D)``, if the head takes tokens.
        head: ``(N, D) -> (N, K)``; or ``(N, T, D) -> (N, K)``, and of their means as well.

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

    def outputs(self, images: Tensor) -> Tensor:
        """Compute what the head takes, the features (N, D) or tokens (N, T, D), if not given.

        Raises:
            ConfigError: the backbone gives the other one, or neither.
        """
        if self.takes_features and images.ndim == 2:
            return images
        outputs: Tensor = self.backbone(images)
        tokens = bool(getattr(self.head, "tokens", False))
        if outputs.ndim != (3 if tokens else 2):
            shape = "x".join(map(str, outputs.shape[1:])) or "one number"
            takes, option = ("tokens (N, T, D)", "tokens") if tokens else ("(N, D)", "features")
            raise ConfigError(
                f"backbone  {type(self.backbone).__name__} gives {shape} for each image, and the"
                f" head, {type(self.head).__name__}, takes {takes}.\n"
                f"          Try backbone.output={option}, or another backbone."
            )
        return outputs

    def features(self, images: Tensor) -> Tensor:
        """Compute the features alone, if they are not given: ``(N, 3, H, W) -> (N, D)``."""
        return _pooled(self.outputs(images))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        outputs = self.outputs(images)  # (N, D) or (N, T, D)
        return _pooled(outputs), self.head(outputs)  # (N, D), (N, K)

    def encode(self, images: Tensor) -> Tensor:
        """Return the codes alone: ``(N, 3, H, W) -> (N, K)``."""
        u: Tensor = self(images)[1]
        return u


def _pooled(outputs: Tensor) -> Tensor:
    """Features (N, D) as they are, and of tokens (N, T, D) their means."""
    return outputs.mean(dim=1) if outputs.ndim == 3 else outputs
