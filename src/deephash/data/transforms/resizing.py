"""Resizing, and crops of random area that are resized."""

import math
from collections.abc import Sequence
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from deephash.data.transfer import to_device
from deephash.data.transforms.base import Step, to_integers, uniform
from deephash.errors import DataError
from deephash.utils.bounds import Interval, Length, Pair, Pixels

Shares = Annotated[Sequence[Annotated[float, Interval(0, 1, above=True)]], Length(2)]
Interpolation = Literal["bilinear", "bicubic"]


class Resize(Step):
    """Resize images, with antialiasing if they shrink.

    Args:
        size: length of the shorter side; the longer keeps the aspect ratio, rounded down.
        squash: make both sides `size` instead.
        interpolation: bilinear, or bicubic (Keys, a = -1/2), whose overshoot is clamped to 0..1.
        enlarge: if False, images that would have to be enlarged are refused.

    Raises:
        DataError: the images are smaller, and `enlarge` is false.
    """

    def __init__(
        self,
        size: Pixels,
        squash: bool = False,
        interpolation: Interpolation = "bilinear",
        enlarge: bool = True,
    ):
        super().__init__()
        self.size = size
        self.squash = squash
        self.interpolation = interpolation
        self.enlarge = enlarge

    def forward(self, images: Tensor, generator: Generator | None = None) -> Tensor:
        height, width = images.shape[-2:]
        short = min(height, width)
        if short < self.size and not self.enlarge:
            raise DataError(
                f"Resize({self.size}) was given images of {height} x {width} and may not"
                f" enlarge them: store larger ones with dataset.source.size={self.size}, or choose"
                " other views"
            )
        target = (int(self.size * height / short), int(self.size * width / short))
        if self.squash:
            target = (self.size, self.size)
        if target == (height, width):
            return images
        shrinks = target[0] < height or target[1] < width
        return _resize(images, target, self.interpolation, antialias=shrinks)


class RandomResizedCrop(Step):
    """Crop a part of random area and aspect ratio out of each image and resize it to size x size.

    The part is drawn as by Szegedy et al. (Going Deeper with Convolutions, 2015): an area, an
    aspect ratio with uniform logarithm, then a place. If ten tries do not fit into the image, it is
    the largest center part with an allowed aspect ratio. The resize is antialiased and independent
    of pixels outside the part. It is linear along each axis: on an accelerator the whole batch
    takes two matrix products; on the CPU, where most factors would be zeros, images are resized one
    by one.

    Args:
        size: side of the result.
        scale: smallest and largest fraction of the image's area.
        ratio: smallest and largest width / height.
        interpolation: bilinear, or bicubic (Keys, a = -1/2), whose overshoot is clamped to 0..1.
    """

    random = True

    def __init__(
        self,
        size: Pixels,
        scale: Shares = (0.08, 1.0),
        ratio: Pair = (3 / 4, 4 / 3),
        interpolation: Interpolation = "bilinear",
    ):
        super().__init__()
        self.size = size
        self.scale = tuple(scale)
        self.ratio = tuple(ratio)
        self.interpolation = interpolation

    def forward(self, images: Tensor, generator: Generator | None = None) -> Tensor:
        count, _, height, width = images.shape
        boxes = torch.stack(self.draw(count, height, width, generator))  # (4, B)
        if images.device.type == "cpu":
            return self.resize_each(images, boxes)
        return self.resize_batch(images, to_device(boxes, images.device))

    def resize_each(self, images: Tensor, boxes: Tensor) -> Tensor:
        """Crop and resize the images one by one; `boxes` are those of `draw`, (4, B)."""
        out = images.new_empty(*images.shape[:2], self.size, self.size)
        for row, (top, left, h, w) in enumerate(boxes.T.tolist()):
            part = images[row : row + 1, :, top : top + h, left : left + w]
            out[row] = _resize(part, (self.size,) * 2, self.interpolation, antialias=True)[0]
        return out

    def resize_batch(self, images: Tensor, boxes: Tensor) -> Tensor:
        """Crop and resize the whole batch by two matrix products."""
        count, channels, height, width = images.shape
        top, left, h, w = boxes
        if height == width:  # both axes in one computation
            starts, lengths = torch.cat([top, left]), torch.cat([h, w])
            both = _resampling_matrices(starts, lengths, height, self.size, self.interpolation)
            down, across = both.chunk(2)  # (B, S, H), (B, S, W)
        else:
            down = _resampling_matrices(top, h, height, self.size, self.interpolation)
            across = _resampling_matrices(left, w, width, self.size, self.interpolation)
        rows = images.transpose(1, 2).reshape(count, height, channels * width)
        rows = (down @ rows).view(count, self.size * channels, width)
        out = (rows @ across.transpose(1, 2)).view(count, self.size, channels, self.size)
        out = out.transpose(1, 2).contiguous()
        return out.clamp_(0, 1) if self.interpolation == "bicubic" else out

    def draw(
        self, count: int, height: int, width: int, generator: Generator | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Draw top, left, height and width of the parts, each (count,) int64."""
        tries = 10
        area, aspect = uniform(self, (2, count, tries), generator, dtype=torch.float64)
        position = uniform(self, (2, count), generator, dtype=torch.float64)
        area = height * width * (self.scale[0] + (self.scale[1] - self.scale[0]) * area)
        low, high = math.log(self.ratio[0]), math.log(self.ratio[1])
        aspect = torch.exp(low + (high - low) * aspect)
        h = (area / aspect).sqrt().round().long()  # (count, tries)
        w = (area * aspect).sqrt().round().long()
        fits = (h >= 1) & (h <= height) & (w >= 1) & (w <= width)
        first = fits.int().argmax(1, keepdim=True)  # 0 where none fits
        h, w, fitted = (part.gather(1, first).squeeze(1) for part in (h, w, fits))
        full_h, full_w = height, width
        if width / height < self.ratio[0]:
            full_h = min(height, round(width / self.ratio[0]))
        elif width / height > self.ratio[1]:
            full_w = min(width, round(height * self.ratio[1]))
        h = torch.where(fitted, h, full_h)
        w = torch.where(fitted, w, full_w)
        top = torch.where(fitted, to_integers(position[0], height - h), (height - full_h) // 2)
        left = torch.where(fitted, to_integers(position[1], width - w), (width - full_w) // 2)
        return top, left, h, w


def _resize(
    images: Tensor, target: tuple[int, ...], interpolation: Interpolation, antialias: bool
) -> Tensor:
    """Resize (B, 3, H, W) to (B, 3, *target).

    Bicubic is always antialiased, because torch uses a = -3/4 without antialiasing.
    """
    if interpolation == "bilinear":
        return F.interpolate(images, target, mode="bilinear", antialias=antialias)
    return F.interpolate(images, target, mode="bicubic", antialias=True).clamp_(0, 1)


def _resampling_matrices(
    start: Tensor, length: Tensor, full: int, size: Pixels, interpolation: Interpolation
) -> Tensor:
    """Return matrices that crop [start, start + length) of an axis and resize it: (B, size, full).

    Output pixel i is at (i + 1/2) * length / size of the part. Its kernel is a triangle, or Keys'
    cubic (Cubic Convolution Interpolation, 1981, Eq. 15), with a unit of one output pixel, but at
    least one input pixel. The weights sum to one.
    """
    scale = (length / size).view(-1, 1, 1)
    place = torch.arange(size, device=start.device).view(1, -1, 1) + 0.5
    pixel = torch.arange(full, device=start.device).view(1, 1, -1) - start.view(-1, 1, 1)
    x = (pixel + 0.5 - scale * place).abs() / scale.clamp(min=1)
    if interpolation == "bilinear":
        weight = (1 - x).clamp(min=0)
    else:
        near, far = (1.5 * x - 2.5) * x * x + 1, ((2.5 - 0.5 * x) * x - 4) * x + 2
        weight = torch.where(x < 1, near, torch.where(x < 2, far, 0.0))
    weight = weight * ((pixel >= 0) & (pixel < length.view(-1, 1, 1)))
    return weight / weight.sum(dim=2, keepdim=True)
