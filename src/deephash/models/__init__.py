"""Networks: backbones, hash heads, the encoder composed of them, and relaxations for training."""

from deephash.models import backbones, heads, relaxations
from deephash.models.encoder import Encoder

__all__ = ["Encoder", "backbones", "heads", "relaxations"]
