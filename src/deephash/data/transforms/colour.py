"""Color jitter, grayscale and normalization.

Gray is 0.299 R + 0.587 G + 0.114 B (ITU-R BT.601), as in PIL; torchvision's tensors use 0.2989.
"""

from collections.abc import Sequence
from typing import Annotated

import torch
from torch import Generator, Tensor

from deephash.data.transforms.base import (
    Step,
    apply_where,
    between,
    move_together,
    probability,
    to_integers,
    uniform,
)
from deephash.errors import DataError
from deephash.utils.bounds import Fraction, Interval, Length, NonNegative, Positive

Mean = Annotated[Sequence[float], Length(3)]
Std = Annotated[Sequence[Positive], Length(3)]
Hue = Annotated[float, Interval(0, 0.5)]

GRAY = (0.299, 0.587, 0.114)


class ColorJitter(Step):
    """Change brightness, contrast, saturation and hue of each image, in random order.

    Brightness multiplies by a factor from [1 - b, 1 + b]; contrast blends with the image's mean
    gray by a factor from [1 - c, 1 + c], saturation with each pixel's gray by one from
    [1 - s, 1 + s]; hue is shifted by a fraction of the color circle from [-h, h], which preserves
    the largest and smallest channel. Factors are not negative, and results are clamped to 0..1. All
    orders of the operations whose option is not 0 are equally likely.

    Args:
        brightness: b, 0 for none.
        contrast: c, 0 for none.
        saturation: s, 0 for none.
        hue: h, 0 for none; 0.5 is the whole circle.
        p: probability that an image is changed.

    Raises:
        DataError: an option is out of bounds.
    """

    random = True
    gray: Tensor  # (3,)

    def __init__(
        self,
        brightness: NonNegative = 0.0,
        contrast: NonNegative = 0.0,
        saturation: NonNegative = 0.0,
        hue: Hue = 0.0,
        p: Fraction = 1.0,
    ):
        super().__init__()
        if min(brightness, contrast, saturation, hue) < 0 or hue > 0.5:
            raise DataError(
                "ColorJitter: brightness, contrast, saturation and hue are at least 0, hue at most"
                f" 0.5; it was given {brightness}, {contrast}, {saturation}, {hue}"
            )
        self.brightness = brightness
        self.contrast = contrast
        self.saturation = saturation
        self.hue = hue
        self.p = probability(self, p)
        self.register_buffer("gray", torch.tensor(GRAY), persistent=False)

    def forward(self, images: Tensor, generator: Generator | None = None) -> Tensor:
        return self.jitter(images, *self.draw(len(images), generator))

    def draw(self, count: int, generator: Generator | None) -> tuple[Tensor, Tensor]:
        """Draw factors and positions of the operations, in the order of the arguments.

        An operation at position -1 is left out. Saturation and hue are inserted at random
        positions; they draw their numbers last, and none if their option is 0.

        Returns:
            (4, B) float32 and (4, B) int64, on the CPU.
        """
        drawn = uniform(self, (3, count), generator)
        factors = [
            between(drawn[0], *_factor_range(self.brightness)),
            between(drawn[1], *_factor_range(self.contrast)),
        ]
        positions = torch.stack([drawn[2] >= 0.5, drawn[2] < 0.5]).long()
        for spread, low, high in (
            (self.saturation, *_factor_range(self.saturation)),
            (self.hue, -self.hue, self.hue),
        ):
            if spread:
                drawn = uniform(self, (2, count), generator)
                position = to_integers(drawn[1], positions.max(dim=0).values + 1)
                positions = torch.cat([positions + (positions >= position), position[None]])
            else:
                drawn = torch.zeros(2, count)
                positions = torch.cat([positions, torch.full((1, count), -1)])
            factors.append(between(drawn[0], low, high))
        if self.p < 1:
            positions = torch.where(uniform(self, (count,), generator) < self.p, positions, -1)
        return torch.stack(factors), positions

    def jitter(self, images: Tensor, factors: Tensor, positions: Tensor) -> Tensor:
        """Apply the operations that `draw` returned."""
        brightness, contrast, saturation, hue = factors
        original = images
        for position in range(len(positions)):
            selected = positions == position
            if not selected.any():
                break
            brighten, change_contrast, saturate, shift_hue = selected
            mean = images.mean(dim=(2, 3)) @ self.gray  # (B,)
            factor = torch.where(brighten, brightness, contrast)
            share = torch.where(brighten, 0.0, 1 - contrast)
            factor, share = move_together((factor, share), images.device)
            for rows, function, numbers in (
                (brighten | change_contrast, scale_and_add, (factor, share * mean)),
                (saturate, adjust_saturation, (saturation,)),
                (shift_hue, _adjust_hue, (hue,)),
            ):
                overwrite = images is not original
                images = apply_where(images, rows, function, *numbers, overwrite=overwrite)
        return images


class RandomGrayscale(Step):
    """Convert each image to gray, in all three channels, with probability `p`."""

    random = True

    def __init__(self, p: Fraction = 0.1):
        super().__init__()
        self.p = probability(self, p)

    def forward(self, images: Tensor, generator: Generator | None = None) -> Tensor:
        selected = uniform(self, (len(images),), generator) < self.p
        return apply_where(images, selected, lambda part: to_gray(part).expand_as(part))


class Normalize(Step):
    """Subtract `mean` and divide by `std`, channel by channel.

    Args:
        mean: three numbers, for pixels in 0..1.
        std: three numbers.
    """

    mean: Tensor  # (3, 1, 1)
    std: Tensor  # (3, 1, 1)

    def __init__(self, mean: Mean, std: Std):
        super().__init__()
        for name, values in (("mean", mean), ("std", std)):
            if len(values) != 3:
                raise DataError(f"Normalize needs three numbers as {name}; it was given {values}")
            self.register_buffer(name, torch.tensor(list(values)).view(3, 1, 1), persistent=False)

    def forward(self, images: Tensor, generator: Generator | None = None) -> Tensor:
        return (images - self.mean).div_(self.std)


def _factor_range(spread: float) -> tuple[float, float]:
    return max(0.0, 1 - spread), 1 + spread


def to_gray(images: Tensor) -> Tensor:
    """Convert (B, 3, H, W) to gray, (B, 1, H, W)."""
    red, green, blue = torch.split(images, 1, dim=1)
    gray: Tensor = (GRAY[0] * red).add_(green, alpha=GRAY[1]).add_(blue, alpha=GRAY[2])
    return gray


def scale_and_add(images: Tensor, factor: Tensor, added: Tensor) -> Tensor:
    """Multiply images (B, 3, H, W) by a factor, add a number, and clamp to 0..1."""
    return (images * factor).add_(added).clamp_(0, 1)


def adjust_saturation(images: Tensor, factor: Tensor) -> Tensor:
    """Blend images (B, 3, H, W) with their gray by a factor, and clamp to 0..1."""
    return torch.lerp(to_gray(images), images, factor).clamp_(0, 1)


def _adjust_hue(images: Tensor, share: Tensor) -> Tensor:
    """Shift the hue by a share of the circle, in the hexagon of HSV (Smith, 1978).

    Hues are in 0..6: red is 0, green 2 and blue 4. A channel is the largest if the hue is at most
    1 away from its own, the smallest if it is at least 2 away, and linear in between.
    """
    red, green, blue = torch.split(images, 1, dim=1)
    high, low = images.amax(dim=1, keepdim=True), images.amin(dim=1, keepdim=True)
    spread = high - low
    divisor = torch.where(spread == 0, 1, spread)
    hue = torch.where(
        high == red,
        (green - blue) / divisor,
        torch.where(high == green, (blue - red) / divisor + 2, (red - green) / divisor + 4),
    )
    channel_hues = torch.arange(0.0, 6.0, 2.0, device=images.device).view(3, 1, 1)
    distance = (hue + (6 * share + 3) - channel_hues).remainder_(6).sub_(3).abs_()
    return distance.neg_().add_(2).clamp_(0, 1).mul_(spread).add_(low)
