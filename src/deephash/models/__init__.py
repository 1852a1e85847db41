"""Networks: backbones, hash heads, the encoder that they make, and relaxations for training."""

from deephash.models import backbones, heads, relaxations
from deephash.models.encoder import Encoder

__all__ = ["Encoder", "backbones", "heads", "relaxations"]
