"""TrivialAugment: one random operation of random magnitude for each image."""

from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from deephash.data.transfer import to_device
from deephash.data.transforms.base import Step, per_image, to_integers, uniform
from deephash.data.transforms.colour import adjust_saturation, scale_and_add, to_gray
from deephash.utils.bounds import Interval

Bins = Annotated[int, Interval(2, 256)]
Sampling = Literal["nearest", "bilinear", "bicubic"]

SIGNED = ("ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate",
          "Brightness", "Color", "Contrast", "Sharpness")  # fmt: skip
"""Operations whose magnitude is negative with probability 1/2."""

OPERATIONS = ("Identity", *SIGNED, "Posterize", "Solarize", "AutoContrast", "Equalize")
"""The 14 operations, with torchvision's names and in its order."""

WARPS = SIGNED[:5]
"""The operations that move pixels."""


class TrivialAugmentWide(Step):
    """Apply one of 14 operations to each image, with one of 31 magnitudes, all equally likely.

    TrivialAugment (Mueller and Hutter, ICCV 2021) with torchvision's definition of each operation
    on 8-bit images. Results are not rounded to 8 bits; Posterize and Equalize, which are defined by
    8-bit levels, round their inputs. Pixels from outside the image are black.

    Args:
        num_magnitude_bins: number of magnitudes of each operation, from none to its largest.
        interpolation: of shears, translations and rotations. ``nearest``: torchvision's default;
            ``bilinear``; ``bicubic``: that of Pillow's ``transform`` (Keys, a = -1), which
            torchvision supports for Pillow images only.

    Example:
        >>> step = TrivialAugmentWide()
        >>> images = torch.full((1, 3, 4, 4), 0.25)
        >>> at = torch.tensor([OPERATIONS.index("Solarize")])
        >>> step.augment(images, at, torch.tensor([0.2])).unique()
        tensor([0.7500])
    """

    random = True

    def __init__(self, num_magnitude_bins: Bins = 31, interpolation: Sampling = "nearest"):
        super().__init__()
        self.num_magnitude_bins = num_magnitude_bins
        self.interpolation = interpolation
        self.magnitudes = _magnitudes(num_magnitude_bins)  # (14, bins), on the CPU

    def forward(self, images: Tensor, generator: Generator | None = None) -> Tensor:
        return self.augment(images, *self.draw(len(images), generator))

    def draw(self, count: int, generator: Generator | None) -> tuple[Tensor, Tensor]:
        """Draw operations (B,), as indices of `OPERATIONS`, and their magnitudes (B,)."""
        drawn = uniform(self, (3, count), generator)
        operations = to_integers(drawn[0], len(OPERATIONS) - 1)
        magnitudes = self.magnitudes[operations, to_integers(drawn[1], self.num_magnitude_bins - 1)]
        signed = (operations >= 1) & (operations <= len(SIGNED))
        return operations, torch.where(signed & (drawn[2] < 0.5), -magnitudes, magnitudes)

    def augment(self, images: Tensor, operations: Tensor, magnitudes: Tensor) -> Tensor:
        """Apply the operations and magnitudes that `draw` returned to images (B, 3, H, W).

        The images of one operation are computed together.
        """
        warps = operations * ((operations >= 1) & (operations <= len(WARPS)))
        kinds = torch.where(warps > 0, 1, operations)  # 1 for all warps
        out = images.clone()
        for kind in sorted(set(kinds.tolist())):
            if kind == 0:
                continue
            rows = (kinds == kind).nonzero().flatten()
            device_rows = to_device(rows, images.device)
            selected = images[device_rows]
            if kind == 1:
                matrices = _matrices(operations[rows], magnitudes[rows], *images.shape[-2:])
                matrices = to_device(matrices, images.device)
                out[device_rows] = warp(selected, matrices, self.interpolation)
            else:
                magnitude = per_image(to_device(magnitudes[rows], images.device))
                out[device_rows] = _recolor(OPERATIONS[kind], selected, magnitude)
        return out


def warp(images: Tensor, matrices: Tensor, interpolation: Sampling) -> Tensor:
    """Resample images (B, 3, H, W) by affine maps.

    Coordinates are in pixels from the upper left corner: the center of the first pixel is
    (1/2, 1/2).

    Args:
        images: (B, 3, H, W).
        matrices: (B, 2, 3), from (x, y, 1) of the result to (x, y) of the image.
        interpolation: see `TrivialAugmentWide`.
    """
    height, width = images.shape[-2:]
    x = torch.arange(width, device=images.device) + 0.5
    y = (torch.arange(height, device=images.device) + 0.5).view(-1, 1)
    a, b, c = (per_image(value)[:, 0] for value in matrices[:, 0].unbind(1))  # (B, 1, 1) each
    d, e, f = (per_image(value)[:, 0] for value in matrices[:, 1].unbind(1))
    at_x, at_y = a * x + b * y + c, d * x + e * y + f  # (B, H, W)
    if interpolation != "bicubic":
        grid = torch.stack([2 / width * at_x - 1, 2 / height * at_y - 1], dim=-1)
        return F.grid_sample(images, grid, interpolation, "zeros", align_corners=False)
    return _bicubic(images, at_x, at_y)


def _bicubic(images: Tensor, at_x: Tensor, at_y: Tensor) -> Tensor:
    """Interpolate at coordinates (B, H, W) as Pillow does: 16 pixels, with a repeated border."""
    height, width = images.shape[-2:]
    inside = (at_x >= 0) & (at_x < width) & (at_y >= 0) & (at_y < height)
    left, top = (at_x - 0.5).floor(), (at_y - 0.5).floor()
    across, down = (_keys(at - 0.5 - start) for at, start in ((at_x, left), (at_y, top)))
    flat, out = images.flatten(2), torch.zeros_like(images)
    for row in range(4):
        y = (top.long() + row - 1).clamp(0, height - 1)
        line = torch.zeros_like(images)
        for column in range(4):
            x = (left.long() + column - 1).clamp(0, width - 1)
            index = (y * width + x).flatten(1)[:, None].expand(-1, images.shape[1], -1)
            pixels = flat.gather(2, index).view_as(images)
            line.addcmul_(pixels, across[column][:, None])
        out.addcmul_(line, down[row][:, None])
    return out.clamp_(0, 1) * inside[:, None]


def _keys(t: Tensor) -> list[Tensor]:
    """Return the weights of four neighbors at a distance t past the second (Keys, a = -1)."""
    rest = 1 - t
    return [-t * rest * rest, 1 - t * t * (1 + rest), t * (1 + t * rest), -t * t * rest]


def _matrices(operations: Tensor, magnitudes: Tensor, height: int, width: int) -> Tensor:
    """Return matrices (n, 2, 3) of warps, for `warp`."""
    result = torch.eye(2, 3, dtype=torch.float64).repeat(len(operations), 1, 1)
    value = magnitudes.double()
    shear_x, shear_y, move_x, move_y, rotate = (
        operations == OPERATIONS.index(name) for name in WARPS
    )
    result[:, 0, 1] = torch.where(shear_x, value, 0.0)
    result[:, 1, 0] = torch.where(shear_y, value, 0.0)
    result[:, 0, 2] = torch.where(move_x, -value.trunc(), 0.0)  # whole pixels
    result[:, 1, 2] = torch.where(move_y, -value.trunc(), 0.0)
    angle = torch.deg2rad(value[rotate])
    cos, sin = angle.cos(), angle.sin()
    rotation = torch.stack([cos, -sin, sin, cos], dim=1).view(-1, 2, 2)
    center = torch.tensor([width / 2, height / 2], dtype=torch.float64)
    result[rotate] = torch.cat([rotation, (center - rotation @ center)[..., None]], dim=2)
    return result.float()


def _recolor(name: str, images: Tensor, magnitude: Tensor) -> Tensor:
    """Apply a color operation with magnitudes (n, 1, 1, 1) to n images."""
    match name:
        case "Brightness":
            return scale_and_add(images, 1 + magnitude, torch.zeros_like(magnitude))
        case "Color":
            return adjust_saturation(images, 1 + magnitude)
        case "Contrast":
            mean = to_gray(images).mean(dim=(2, 3), keepdim=True)
            return scale_and_add(images, 1 + magnitude, -magnitude * mean)
        case "Sharpness":
            return _sharpen(images, 1 + magnitude)
        case "Posterize":  # keeps the upper bits of 8
            step = 2 ** (8 - magnitude)
            return torch.floor(_levels(images) / step) * step / 255
        case "Solarize":
            return torch.where(images >= magnitude, 1 - images, images)
        case "AutoContrast":
            low, high = images.amin(dim=(2, 3), keepdim=True), images.amax(dim=(2, 3), keepdim=True)
            flat = low == high
            low, spread = torch.where(flat, 0, low), torch.where(flat, 1, high - low)
            return ((images - low) / spread).clamp_(0, 1)
        case _:
            return _equalize(images)


def _sharpen(images: Tensor, factor: Tensor) -> Tensor:
    """Blend images with smoothed ones; border pixels are unchanged."""
    if min(images.shape[-2:]) <= 2:
        return images
    kernel = torch.full((3, 1, 3, 3), 1 / 13, device=images.device, dtype=images.dtype)
    kernel[..., 1, 1] = 5 / 13
    smooth = F.conv2d(images, kernel, groups=3)
    out, inner = images.clone(), images[..., 1:-1, 1:-1]
    out[..., 1:-1, 1:-1] = inner + (1 - factor) * (smooth - inner)
    return out.clamp_(0, 1)


def _equalize(images: Tensor) -> Tensor:
    """Equalize the histogram of each channel, by Pillow's table.

    With n pixels, m of them of the highest occurring level, and s = floor((n - m) / 255), level v
    becomes floor((pixels of lower levels + floor(s / 2)) / s), and remains v if s is 0.
    """
    levels = _levels(images).long().flatten(2)  # (B, 3, n)
    counts = levels.new_zeros(*levels.shape[:2], 256)
    counts.scatter_add_(2, levels, torch.ones_like(levels))
    highest = counts.gather(2, levels.amax(dim=2, keepdim=True))  # m
    step = (levels.shape[2] - highest) // 255
    lower = counts.cumsum(dim=2) - counts
    table = ((lower + step // 2) // step.clamp(min=1)).clamp_(0, 255)
    equal = torch.where(step > 0, table.gather(2, levels), levels)
    return (equal.view_as(images) / 255).to(images.dtype)


def _levels(images: Tensor) -> Tensor:
    """Round images to the levels 0..255, without changing their type."""
    return (images * 255).round_()


def _magnitudes(bins: int) -> Tensor:
    """Return the magnitudes of each operation, (14, bins) float32."""
    largest = {"Rotate": 135.0, "TranslateX": 32.0, "TranslateY": 32.0}
    rows = {name: torch.linspace(0, largest.get(name, 0.99), bins) for name in SIGNED}
    rows["Posterize"] = (8 - torch.arange(bins) / ((bins - 1) / 6)).round()
    rows["Solarize"] = torch.linspace(1, 0, bins)
    return torch.stack([rows.get(name, torch.zeros(bins)) for name in OPERATIONS])
