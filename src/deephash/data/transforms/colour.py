"""What colour pixels have: jitter, gray, normalisation.

Gray is 0.299 R + 0.587 G + 0.114 B (ITU-R BT.601), as in PIL; torchvision's tensors have 0.2989.
"""

from collections.abc import Sequence
from typing import Annotated

import torch
from torch import Generator, Tensor

from deephash.data.transforms.base import (
    Step,
    between,
    change,
    probability,
    together,
    uniform,
    whole,
)
from deephash.errors import DataError
from deephash.utils.bounds import Fraction, Interval, Length, NonNegative, Positive

Mean = Annotated[Sequence[float], Length(3)]
Std = Annotated[Sequence[Positive], Length(3)]
Hue = Annotated[float, Interval(0, 0.5)]

GRAY = (0.299, 0.587, 0.114)


class ColorJitter(Step):
    """Brightness, contrast, saturation and hue of each image, in an order of its own.

    Brightness multiplies by a factor from [1 - b, 1 + b]; contrast blends with the image's mean
    gray by a factor from [1 - c, 1 + c], saturation with each pixel's gray by one from
    [1 - s, 1 + s]; hue turns the colour circle by a share of it from [-h, h], its largest and
    smallest channel kept. No factor is below 0, and each result is cut to 0..1. All orders of what
    is not 0 are alike.

    Args:
        brightness: b, 0 for none.
        contrast: c, 0 for none.
        saturation: s, 0 for none.
        hue: h, 0 for none; at most 0.5, all the way round.
        p: probability that an image is jittered at all.

    Raises:
        DataError: an option out of its bounds.
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
        """Numbers and turns of the operations, in the order of the arguments: (4, B), (4, B).

        An operation whose turn is -1 is left out. Saturation and hue, if there are any, are put
        at a random place among the ones before; what they draw follows what the others drew.
        """
        drawn = uniform(self, (3, count), generator)
        numbers = [
            between(drawn[0], *_factors(self.brightness)),
            between(drawn[1], *_factors(self.contrast)),
        ]
        turns = torch.stack([drawn[2] >= 0.5, drawn[2] < 0.5]).long()
        for spread, low, high in (
            (self.saturation, *_factors(self.saturation)),
            (self.hue, -self.hue, self.hue),
        ):
            if spread:
                drawn = uniform(self, (2, count), generator)
                turn = whole(drawn[1], turns.max(dim=0).values + 1)
                turns = torch.cat([turns + (turns >= turn), turn[None]])
            else:
                drawn = torch.zeros(2, count)
                turns = torch.cat([turns, torch.full((1, count), -1)])
            numbers.append(between(drawn[0], low, high))
        if self.p < 1:
            turns = torch.where(uniform(self, (count,), generator) < self.p, turns, -1)
        return torch.stack(numbers), turns

    def jitter(self, images: Tensor, numbers: Tensor, turns: Tensor) -> Tensor:
        """Given numbers and turns, as `draw` gives them."""
        brightness, contrast, saturation, hue = numbers
        given = images
        for turn in range(len(turns)):
            now = turns == turn
            if not now.any():
                break
            brightens, contrasts, saturates, turns_hue = now
            mean = images.mean(dim=(2, 3)) @ self.gray  # (B,)
            factor = torch.where(brightens, brightness, contrast)
            share = torch.where(brightens, 0.0, 1 - contrast)
            factor, share = together((factor, share), images.device)
            for chosen, change_to, values in (
                (brightens | contrasts, blended, (factor, share * mean)),
                (saturates, saturated, (saturation,)),
                (turns_hue, _turned, (hue,)),
            ):
                images = change(images, chosen, change_to, *values, overwrite=images is not given)
        return images


class RandomGrayscale(Step):
    """Each image made gray, in all three channels, with probability `p`."""

    random = True

    def __init__(self, p: Fraction = 0.1):
        super().__init__()
        self.p = probability(self, p)

    def forward(self, images: Tensor, generator: Generator | None = None) -> Tensor:
        chosen = uniform(self, (len(images),), generator) < self.p
        return change(images, chosen, lambda some: gray_of(some).expand_as(some))


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


def _factors(spread: float) -> tuple[float, float]:
    """The smallest, not below 0, and the largest."""
    return max(0.0, 1 - spread), 1 + spread


def gray_of(images: Tensor) -> Tensor:
    """(B, 3, H, W) -> (B, 1, H, W)."""
    red, green, blue = torch.split(images, 1, dim=1)
    gray: Tensor = (GRAY[0] * red).add_(green, alpha=GRAY[1]).add_(blue, alpha=GRAY[2])
    return gray


def blended(images: Tensor, factor: Tensor, added: Tensor) -> Tensor:
    """Multiply images (B, 3, H, W) by a factor, add a number, and cut to 0..1."""
    return (images * factor).add_(added).clamp_(0, 1)


def saturated(images: Tensor, factor: Tensor) -> Tensor:
    """Blend images (B, 3, H, W) with their gray by a factor, and cut to 0..1."""
    return torch.lerp(gray_of(images), images, factor).clamp_(0, 1)


def _turned(images: Tensor, share: Tensor) -> Tensor:
    """The hue moved on by a share of the circle, in the hexagon of HSV (Smith, 1978).

    A hue of 0..6 is red at 0, green at 2 and blue at 4. A channel is the largest within 1 of its
    own place, the smallest beyond 2, and between them on a line.
    """
    red, green, blue = torch.split(images, 1, dim=1)
    top, low = images.amax(dim=1, keepdim=True), images.amin(dim=1, keepdim=True)
    spread = top - low
    some = torch.where(spread == 0, 1, spread)
    hue = torch.where(
        top == red,
        (green - blue) / some,
        torch.where(top == green, (blue - red) / some + 2, (red - green) / some + 4),
    )
    own = torch.arange(0.0, 6.0, 2.0, device=images.device).view(3, 1, 1)
    away = (hue + (6 * share + 3) - own).remainder_(6).sub_(3).abs_()
    return away.neg_().add_(2).clamp_(0, 1).mul_(spread).add_(low)
