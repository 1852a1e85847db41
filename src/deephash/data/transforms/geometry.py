"""Crops, shifts and flips."""

from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from deephash.data.transfer import to_device
from deephash.data.transforms.base import Step, apply_where, probability, to_integers, uniform
from deephash.errors import DataError
from deephash.utils.bounds import Fraction, Interval, Pixels

Padding = Annotated[int, Interval(0, 4096)]


class CenterCrop(Step):
    """Crop the center square of side `size`.

    Raises:
        DataError: the images are smaller.
    """

    def __init__(self, size: Pixels):
        super().__init__()
        self.size = size

    def forward(self, images: Tensor, generator: Generator | None = None) -> Tensor:
        height, width = images.shape[-2:]
        _check_fits("CenterCrop", self.size, height, width)
        top, left = round((height - self.size) / 2), round((width - self.size) / 2)
        return images[..., top : top + self.size, left : left + self.size]


class RandomCrop(Step):
    """Crop a square of side `size` at a random place of each image.

    Args:
        size: side of the square.
        padding: zeros added on all four sides first.

    Raises:
        DataError: the padded images are smaller.
    """

    random = True

    def __init__(self, size: Pixels, padding: Padding = 0):
        super().__init__()
        self.size = size
        self.padding = padding

    def forward(self, images: Tensor, generator: Generator | None = None) -> Tensor:
        if self.padding:
            images = F.pad(images, [self.padding] * 4)
        height, width = images.shape[-2:]
        _check_fits("RandomCrop", self.size, height, width)
        drawn = uniform(self, (2, len(images)), generator)
        top = to_integers(drawn[0], height - self.size)
        left = to_integers(drawn[1], width - self.size)
        return _windows(images, top, left, self.size, self.size)


class RandomShift(Step):
    """Shift each image by a random number of pixels and repeat its border into the gap.

    Args:
        pixels: the largest shift, up, down, left and right.
    """

    random = True

    def __init__(self, pixels: Padding):
        super().__init__()
        self.pixels = pixels

    def forward(self, images: Tensor, generator: Generator | None = None) -> Tensor:
        drawn = uniform(self, (2, len(images)), generator)
        top, left = to_integers(drawn, 2 * self.pixels)
        padded = F.pad(images, [self.pixels] * 4, mode="replicate")
        return _windows(padded, top, left, *images.shape[-2:])


class RandomHorizontalFlip(Step):
    """Flip each image left to right with probability `p`."""

    random = True

    def __init__(self, p: Fraction = 0.5):
        super().__init__()
        self.p = probability(self, p)

    def forward(self, images: Tensor, generator: Generator | None = None) -> Tensor:
        selected = uniform(self, (len(images),), generator) < self.p
        return apply_where(images, selected, lambda part: part.flip(-1))


def _check_fits(name: str, size: int, height: int, width: int) -> None:
    if size > min(height, width):
        raise DataError(f"{name}({size}) was given images of {height} x {width}: resize first")


def _windows(images: Tensor, top: Tensor, left: Tensor, height: int, width: int) -> Tensor:
    """Cut a window out of each image: (B, 3, H, W) -> (B, 3, height, width)."""
    count, channels = images.shape[:2]
    indices = [
        (top[:, None] + torch.arange(height)).flatten(),
        (left[:, None] + torch.arange(width)).flatten(),
        torch.arange(count),
        torch.arange(channels),
    ]
    moved = to_device(torch.cat(indices), images.device)  # one copy for all of them
    y, x, image, channel = torch.split(moved, [len(index) for index in indices])
    return images[
        image.view(-1, 1, 1, 1),
        channel.view(1, -1, 1, 1),
        y.view(count, 1, height, 1),
        x.view(count, 1, 1, width),
    ]
