"""Views of images, made in batches on the device: (B, 3, H, W) in, (B, 3, H, W) out.

A pipeline turns uint8 pixels into float32 first; its steps work on 0..1 until `Normalize`.
What a random step draws comes from the CPU generator it is handed, one set of numbers per image,
so a seed gives the same view on every device. Images are never changed in place.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from deephash.errors import DataError


class Step(nn.Module):
    """One step of a pipeline: `forward(images, generator)`. Random ones say so."""

    random: bool = False

    def forward(self, images: Tensor, generator: Generator | None = None) -> Tensor:
        raise NotImplementedError


class Pipeline(Step):
    """uint8 in 0..255 becomes float32 in 0..1; then the steps, one after the other.

    Args:
        steps: in the order they run.
    """

    def __init__(self, steps: Sequence[Step]):
        super().__init__()
        self.steps = nn.ModuleList(steps)
        self.random = any(step.random for step in steps)

    def forward(self, images: Tensor, generator: Generator | None = None) -> Tensor:
        if images.dtype == torch.uint8:
            images = images.float().div_(255)
        for step in self.steps:
            images = step(images, generator)
        return images


class Resize(Step):
    """Bilinear, antialiased where it shrinks.

    Args:
        size: length of the shorter side; the longer keeps the aspect, rounded down.
        squash: make both sides `size` instead.
    """

    def __init__(self, size: int, squash: bool = False):
        super().__init__()
        self.size = size
        self.squash = squash

    def forward(self, images: Tensor, generator: Generator | None = None) -> Tensor:
        height, width = images.shape[-2:]
        short = min(height, width)
        target = (int(self.size * height / short), int(self.size * width / short))
        if self.squash:
            target = (self.size, self.size)
        if target == (height, width):
            return images
        shrinks = target[0] < height or target[1] < width
        return F.interpolate(images, target, mode="bilinear", antialias=shrinks)


class CenterCrop(Step):
    """The middle square of side `size`.

    Raises:
        DataError: the images are smaller.
    """

    def __init__(self, size: int):
        super().__init__()
        self.size = size

    def forward(self, images: Tensor, generator: Generator | None = None) -> Tensor:
        height, width = images.shape[-2:]
        _check_fits("CenterCrop", self.size, height, width)
        top, left = round((height - self.size) / 2), round((width - self.size) / 2)
        return images[..., top : top + self.size, left : left + self.size]


class RandomCrop(Step):
    """A square of side `size` at a place of its own in each image.

    Args:
        size: side of the square.
        padding: zeros added on all four sides first.

    Raises:
        DataError: the padded images are smaller.
    """

    random = True

    def __init__(self, size: int, padding: int = 0):
        super().__init__()
        self.size = size
        self.padding = padding

    def forward(self, images: Tensor, generator: Generator | None = None) -> Tensor:
        if self.padding:
            images = F.pad(images, [self.padding] * 4)
        height, width = images.shape[-2:]
        _check_fits("RandomCrop", self.size, height, width)
        place = _uniform(self, (2, len(images)), generator)
        top = _floor(place[0], height - self.size)
        left = _floor(place[1], width - self.size)
        return _windows(images, top, left, self.size, self.size)


class RandomShift(Step):
    """Each image moved by whole pixels, its border repeated into the gap.

    Args:
        pixels: the largest move, up, down, left and right alike.
    """

    random = True

    def __init__(self, pixels: int):
        super().__init__()
        self.pixels = pixels

    def forward(self, images: Tensor, generator: Generator | None = None) -> Tensor:
        place = _uniform(self, (2, len(images)), generator)
        top, left = _floor(place, 2 * self.pixels)
        height, width = images.shape[-2:]
        wide = F.pad(images, [self.pixels] * 4, mode="replicate")
        return _windows(wide, top, left, height, width)


class RandomHorizontalFlip(Step):
    """Each image mirrored left to right with probability `p`."""

    random = True

    def __init__(self, p: float = 0.5):
        super().__init__()
        self.p = p

    def forward(self, images: Tensor, generator: Generator | None = None) -> Tensor:
        chosen = _uniform(self, (len(images),), generator) < self.p
        return torch.where(_per_image(chosen, images), images.flip(-1), images)


class RandomResizedCrop(Step):
    """A part of each image, of random area and aspect, resized to size x size.

    The part is drawn as in Szegedy et al. (Going Deeper with Convolutions, 2015): an area, an
    aspect with uniform logarithm, then a place; ten tries to fit in the image, and failing those
    the largest middle part with an allowed aspect. The resize is bilinear and antialiased, and
    sees nothing outside the part, as if it had been cut out first. The resize is linear along each
    axis, so on an accelerator the whole batch takes two products with matrices; on the CPU, where
    most of those products would be with zeros, the images are taken one by one.

    Args:
        size: side of the result.
        scale: smallest and largest share of the image's area.
        ratio: smallest and largest width / height.
    """

    random = True

    def __init__(
        self,
        size: int,
        scale: Sequence[float] = (0.08, 1.0),
        ratio: Sequence[float] = (3 / 4, 4 / 3),
    ):
        super().__init__()
        self.size = size
        self.scale = tuple(scale)
        self.ratio = tuple(ratio)

    def forward(self, images: Tensor, generator: Generator | None = None) -> Tensor:
        count, _, height, width = images.shape
        places = torch.stack(self.draw(count, height, width, generator))  # (4, B)
        if images.device.type == "cpu":
            return self.one_by_one(images, places)
        return self.at_once(images, places.to(images.device))

    def one_by_one(self, images: Tensor, places: Tensor) -> Tensor:
        """The parts cut out and resized, image after image."""
        out = images.new_empty(*images.shape[:2], self.size, self.size)
        for row, (top, left, h, w) in enumerate(places.T.tolist()):
            part = images[row : row + 1, :, top : top + h, left : left + w]
            out[row] = F.interpolate(part, (self.size,) * 2, mode="bilinear", antialias=True)[0]
        return out

    def at_once(self, images: Tensor, places: Tensor) -> Tensor:
        """The same for the whole batch, as two products with matrices."""
        count, channels, height, width = images.shape
        top, left, h, w = places
        down = _resampling(top, h, height, self.size)  # (B, S, H)
        across = _resampling(left, w, width, self.size)  # (B, S, W)
        rows = images.transpose(1, 2).reshape(count, height, channels * width)
        rows = (down @ rows).view(count, self.size * channels, width)
        out = (rows @ across.transpose(1, 2)).view(count, self.size, channels, self.size)
        return out.transpose(1, 2).contiguous()

    def draw(
        self, count: int, height: int, width: int, generator: Generator | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Top, left, height and width of the parts, each (count,) int64."""
        tries = 10
        area, aspect = _uniform(self, (2, count, tries), generator, dtype=torch.float64)
        place = _uniform(self, (2, count), generator, dtype=torch.float64)
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
        top = torch.where(found, _floor(place[0], height - h), (height - whole_h) // 2)
        left = torch.where(found, _floor(place[1], width - w), (width - whole_w) // 2)
        return top, left, h, w


class ColorJitter(Step):
    """Brightness and contrast of each image, in an order of its own.

    Brightness multiplies by a factor from [1 - b, 1 + b]; contrast blends with the image's mean
    gray by a factor from [1 - c, 1 + c] (gray = 0.299 R + 0.587 G + 0.114 B). Each is cut to 0..1.

    Args:
        brightness: b, 0 for none.
        contrast: c, 0 for none.
    """

    random = True
    gray: Tensor  # (3,)

    def __init__(self, brightness: float = 0.0, contrast: float = 0.0):
        super().__init__()
        self.brightness = brightness
        self.contrast = contrast
        self.register_buffer("gray", torch.tensor([0.299, 0.587, 0.114]), persistent=False)

    def forward(self, images: Tensor, generator: Generator | None = None) -> Tensor:
        drawn = _uniform(self, (3, len(images)), generator)
        brightness = _between(drawn[0], self.brightness)
        contrast = _between(drawn[1], self.contrast)
        return self.apply_factors(images, brightness, contrast, drawn[2] < 0.5)

    def apply_factors(
        self, images: Tensor, brightness: Tensor, contrast: Tensor, brightness_first: Tensor
    ) -> Tensor:
        """Given factors (B,) and the order (B,) bool.

        Both are `factor * image + share * mean gray`, with share 0 for brightness and
        1 - factor for contrast, so each image can take its own order.
        """
        for is_brightness in (brightness_first, ~brightness_first):
            factor = torch.where(is_brightness, brightness, contrast)
            share = torch.where(is_brightness, 0.0, 1 - contrast)
            gray = images.mean(dim=(2, 3)) @ self.gray  # (B,)
            added = share.to(images.device) * gray
            scaled = images * _per_image(factor, images)
            images = (scaled + _per_image(added, images)).clamp_(0, 1)
        return images


class Normalize(Step):
    """Subtract `mean` and divide by `std`, channel by channel.

    Args:
        mean: three numbers, for pixels in 0..1.
        std: three numbers.
    """

    mean: Tensor  # (3, 1, 1)
    std: Tensor  # (3, 1, 1)

    def __init__(self, mean: Sequence[float], std: Sequence[float]):
        super().__init__()
        for name, values in (("mean", mean), ("std", std)):
            if len(values) != 3:
                raise DataError(f"Normalize needs three numbers as {name}; it was given {values}")
            self.register_buffer(name, torch.tensor(list(values)).view(3, 1, 1), persistent=False)

    def forward(self, images: Tensor, generator: Generator | None = None) -> Tensor:
        return (images - self.mean) / self.std


def _check_fits(name: str, size: int, height: int, width: int) -> None:
    if size > min(height, width):
        raise DataError(f"{name}({size}) was given images of {height} x {width}: resize first")


def _uniform(
    step: Step,
    shape: tuple[int, ...],
    generator: Generator | None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Numbers in [0, 1) from the generator, on the CPU."""
    if generator is None:
        raise DataError(f"{type(step).__name__} is random and was given no generator")
    return torch.rand(shape, generator=generator, dtype=dtype)


def _floor(place: Tensor, last: int | Tensor) -> Tensor:
    """From [0, 1) to whole numbers 0..last, all alike."""
    return (place.double() * (last + 1)).long()


def _between(drawn: Tensor, spread: float) -> Tensor:
    """From [0, 1) to [1 - spread, 1 + spread), not below 0."""
    low = max(0.0, 1 - spread)
    return low + (1 + spread - low) * drawn


def _per_image(values: Tensor, images: Tensor) -> Tensor:
    """(B,) -> (B, 1, 1, 1) on the images' device."""
    return values.to(images.device).view(-1, 1, 1, 1)


def _windows(images: Tensor, top: Tensor, left: Tensor, height: int, width: int) -> Tensor:
    """A window of each image: (B, 3, H, W) -> (B, 3, height, width)."""
    device = images.device
    y = (top[:, None] + torch.arange(height)).to(device)[:, None, :, None]
    x = (left[:, None] + torch.arange(width)).to(device)[:, None, None, :]
    image = torch.arange(len(images), device=device).view(-1, 1, 1, 1)
    channel = torch.arange(images.shape[1], device=device).view(1, -1, 1, 1)
    return images[image, channel, y, x]


def _resampling(start: Tensor, length: Tensor, full: int, size: int) -> Tensor:
    """Matrices that cut [start, start + length) out of an axis and resize it: (B, size, full).

    Output pixel i looks at the place (i + 1/2) * length / size of the part, through a triangle
    whose half width is one output pixel, and at least one input pixel; the weights sum to one.
    """
    scale = (length / size).view(-1, 1, 1)
    place = torch.arange(size, device=start.device).view(1, -1, 1) + 0.5
    pixel = torch.arange(full, device=start.device).view(1, 1, -1) - start.view(-1, 1, 1)
    weight = (1 - (pixel + 0.5 - scale * place).abs() / scale.clamp(min=1)).clamp(min=0)
    weight = weight * ((pixel >= 0) & (pixel < length.view(-1, 1, 1)))
    return weight / weight.sum(dim=2, keepdim=True)
