"""Transforms of batches of images on the device: (B, 3, H, W) in, (B, 3, H, W) out.

A pipeline converts uint8 pixels to float32 first; its steps work on 0..1 until `Normalize`. Random
steps draw their numbers, one set per image, from a CPU generator, so a seed gives the same view on
every device. Images are never changed in place. Each step computes what the step of torchvision of
the same name does, for a batch in which each image has its own parameters.
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
