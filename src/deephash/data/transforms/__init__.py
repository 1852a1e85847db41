"""Views of images, made in batches on the device: (B, 3, H, W) in, (B, 3, H, W) out.

A pipeline turns uint8 pixels into float32 first; its steps work on 0..1 until `Normalize`.
What a random step draws comes from the CPU generator it is handed, one set of numbers per image,
so a seed gives the same view on every device. Images are never changed in place. Each step is
torchvision's of the same name, for a batch whose images do not share their numbers.
"""

from deephash.data.transforms.base import Pipeline, Step
from deephash.data.transforms.blur import GaussianBlur
from deephash.data.transforms.colour import ColorJitter, Normalize, RandomGrayscale
from deephash.data.transforms.geometry import (
    CenterCrop,
    RandomCrop,
    RandomHorizontalFlip,
    RandomShift,
)
from deephash.data.transforms.resizing import RandomResizedCrop, Resize
from deephash.data.transforms.trivial import TrivialAugmentWide

__all__ = [
    "CenterCrop",
    "ColorJitter",
    "GaussianBlur",
    "Normalize",
    "Pipeline",
    "RandomCrop",
    "RandomGrayscale",
    "RandomHorizontalFlip",
    "RandomResizedCrop",
    "RandomShift",
    "Resize",
    "Step",
    "TrivialAugmentWide",
]
