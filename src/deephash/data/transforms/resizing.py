"""How large images are: of a given side, and parts of random area resized to one."""

import math
from collections.abc import Sequence
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from deephash.data.transfer import to_device
from deephash.data.transforms.base import Step, uniform, whole
from deephash.errors import DataError
from deephash.utils.bounds import Interval, Length, Pair, Pixels

Shares = Annotated[Sequence[Annotated[float, Interval(0, 1, above=True)]], Length(2)]
Interpolation = Literal["bilinear", "bicubic"]


class Resize(Step):
    """To a given side, antialiased where it shrinks.

    Args:
        size: length of the shorter side; the longer keeps the aspect, rounded down.
        squash: make both sides `size` instead.
        interpolation: bilinear, or bicubic (Keys, a = -1/2), whose overshoot is cut to 0..1.
        enlarge: false refuses images that would have to be made larger.

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
        return _resized(images, target, self.interpolation, antialias=shrinks)


class RandomResizedCrop(Step):
    """A part of each image, of random area and aspect, resized to size x size.

    The part is drawn as in Szegedy et al. (Going Deeper with Convolutions, 2015): an area, an
    aspect with uniform logarithm, then a place; ten tries to fit in the image, and failing those
    the largest middle part with an allowed aspect. The resize is antialiased, and sees nothing
    outside the part, as if it had been cut out first. The resize is linear along each axis, so on
    an accelerator the whole batch takes two products with matrices; on the CPU, where most of
    those products would be with zeros, the images are taken one by one.

    Args:
        size: side of the result.
        scale: smallest and largest share of the image's area.
        ratio: smallest and largest width / height.
        interpolation: bilinear, or bicubic (Keys, a = -1/2), whose overshoot is cut to 0..1.
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
        places = torch.stack(self.draw(count, height, width, generator))  # (4, B)
        if images.device.type == "cpu":
            return self.one_by_one(images, places)
        return self.at_once(images, to_device(places, images.device))

    def one_by_one(self, images: Tensor, places: Tensor) -> Tensor:
        """The parts cut out and resized, image after image."""
        out = images.new_empty(*images.shape[:2], self.size, self.size)
        for row, (top, left, h, w) in enumerate(places.T.tolist()):
            part = images[row : row + 1, :, top : top + h, left : left + w]
            out[row] = _resized(part, (self.size,) * 2, self.interpolation, antialias=True)[0]
        return out

    def at_once(self, images: Tensor, places: Tensor) -> Tensor:
        """The same for the whole batch, as two products with matrices."""
        count, channels, height, width = images.shape
        top, left, h, w = places
        if height == width:  # both axes together
            starts, lengths = torch.cat([top, left]), torch.cat([h, w])
            both = _resampling(starts, lengths, height, self.size, self.interpolation)
            down, across = both.chunk(2)  # (B, S, H), (B, S, W)
        else:
            down = _resampling(top, h, height, self.size, self.interpolation)
            across = _resampling(left, w, width, self.size, self.interpolation)
        rows = images.transpose(1, 2).reshape(count, height, channels * width)
        rows = (down @ rows).view(count, self.size * channels, width)
        out = (rows @ across.transpose(1, 2)).view(count, self.size, channels, self.size)
        out = out.transpose(1, 2).contiguous()
        return out.clamp_(0, 1) if self.interpolation == "bicubic" else out

    def draw(
        self, count: int, height: int, width: int, generator: Generator | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Top, left, height and width of the parts, each (count,) int64."""
        tries = 10
        area, aspect = uniform(self, (2, count, tries), generator, dtype=torch.float64)
        place = uniform(self, (2, count), generator, dtype=torch.float64)
        area = height * width * (self.scale[0] + (self.scale[1] - self.scale[0]) * area)
        low, high = math.log(self.ratio[0]), math.log(self.ratio[1])
        aspect = torch.exp(low + (high - low) * aspect)
        h = (area / aspect).sqrt().round().long()  # (count, tries)
        w = (area * aspect).sqrt().round().long()
        fits = (h >= 1) & (h <= height) & (w >= 1) & (w <= width)
        first = fits.int().argmax(1, keepdim=True)  # 0 where none fits
        h, w, found = (part.gather(1, first).squeeze(1) for part in (h, w, fits))
        whole_h, whole_w = height, width
        if width / height < self.ratio[0]:
            whole_h = min(height, round(width / self.ratio[0]))
        elif width / height > self.ratio[1]:
            whole_w = min(width, round(height * self.ratio[1]))
        h = torch.where(found, h, whole_h)
        w = torch.where(found, w, whole_w)
        top = torch.where(found, whole(place[0], height - h), (height - whole_h) // 2)
        left = torch.where(found, whole(place[1], width - w), (width - whole_w) // 2)
        return top, left, h, w


def _resized(
    images: Tensor, target: tuple[int, ...], interpolation: Interpolation, antialias: bool
) -> Tensor:
    """(B, 3, H, W) -> (B, 3, *target).

    Without its antialiasing torch's bicubic is another one, with a = -3/4.
    """
    if interpolation == "bilinear":
        return F.interpolate(images, target, mode="bilinear", antialias=antialias)
    return F.interpolate(images, target, mode="bicubic", antialias=True).clamp_(0, 1)


def _resampling(
    start: Tensor, length: Tensor, full: int, size: Pixels, interpolation: Interpolation
) -> Tensor:
    """Matrices that cut [start, start + length) out of an axis and resize it: (B, size, full).

    Output pixel i looks at the place (i + 1/2) * length / size of the part, through a curve
    whose unit is one output pixel, and at least one input pixel: a triangle, or Keys' cubic
    (Cubic Convolution Interpolation, 1981, Eq. 15). The weights sum to one.
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
