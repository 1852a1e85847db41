"""Gaussian blur."""

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from deephash.data.transforms.base import Step, apply_where, between, probability, uniform
from deephash.errors import DataError
from deephash.utils.bounds import Fraction, Pair, Pixels


class GaussianBlur(Step):
    """Convolve each image with a Gaussian of its own sigma, vertically and then horizontally.

    Beyond its border an image is reflected without repeating the border pixels.

    Args:
        kernel_size: width of the truncated Gaussian in pixels, odd; its weights sum to one.
        sigma: smallest and largest standard deviation in pixels; drawn uniformly.
        p: probability that an image is blurred.

    Raises:
        DataError: an option is out of bounds; or images are not larger than `kernel_size` // 2.
    """

    random = True

    def __init__(self, kernel_size: Pixels, sigma: Pair = (0.1, 2.0), p: Fraction = 1.0):
        super().__init__()
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise DataError(
                f"GaussianBlur: kernel_size is {kernel_size}; it must be odd and positive"
            )
        if len(sigma) != 2 or not 0 < sigma[0] <= sigma[1]:
            raise DataError(
                f"GaussianBlur: sigma is {sigma}; it must be the smallest and the largest, both"
                " positive"
            )
        self.kernel_size = kernel_size
        self.sigma = (sigma[0], sigma[1])
        self.p = probability(self, p)

    def forward(self, images: Tensor, generator: Generator | None = None) -> Tensor:
        drawn = uniform(self, (2, len(images)), generator)
        return self.blur(images, between(drawn[0], *self.sigma), drawn[1] < self.p)

    def blur(self, images: Tensor, sigma: Tensor, selected: Tensor) -> Tensor:
        """Blur the selected images, (B,) bool, by standard deviations (B,)."""
        height, width = images.shape[-2:]
        if self.kernel_size // 2 >= min(height, width):
            raise DataError(
                f"GaussianBlur({self.kernel_size}) was given images of {height} x {width}:"
                " a smaller kernel_size fits"
            )
        return apply_where(images, selected, self._blur_all, sigma)

    def _blur_all(self, images: Tensor, sigma: Tensor) -> Tensor:
        """Blur all images, each by its own sigma (B, 1, 1, 1)."""
        radius = self.kernel_size // 2
        offsets = torch.arange(-radius, radius + 1, device=images.device)
        weights = torch.softmax(-((offsets / sigma) ** 2) / 2, dim=-1)  # (B, 1, 1, kernel_size)
        images = F.pad(images, [radius] * 4, mode="reflect")
        for axis in (2, 3):
            length = images.shape[axis] - 2 * radius
            blurred = images.narrow(axis, 0, length) * weights[..., :1]
            for tap in range(1, self.kernel_size):
                blurred.addcmul_(images.narrow(axis, tap, length), weights[..., tap : tap + 1])
            images = blurred
        return images
