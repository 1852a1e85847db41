"""Softer images."""

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from deephash.data.transforms.base import Step, between, change, probability, uniform
from deephash.errors import DataError
from deephash.utils.bounds import Fraction, Pair, Pixels


class GaussianBlur(Step):
    """Each image convolved with a Gaussian of its own, down and then across.

    Beyond its border an image is mirrored, the outermost pixels not repeated.

    Args:
        kernel_size: pixels that the Gaussian is cut to, an odd number; its weights sum to one.
        sigma: smallest and largest standard deviation in pixels, all between alike.
        p: probability that an image is blurred at all.

    Raises:
        DataError: no such Gaussian; or images of at most `kernel_size` // 2 pixels a side.
    """

    random = True

    def __init__(self, kernel_size: Pixels, sigma: Pair = (0.1, 2.0), p: Fraction = 1.0):
        super().__init__()
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise DataError(f"GaussianBlur: kernel_size is {kernel_size}; it is odd and positive")
        if len(sigma) != 2 or not 0 < sigma[0] <= sigma[1]:
            raise DataError(
                f"GaussianBlur: sigma is {sigma}; it is the smallest and the largest, both positive"
            )
        self.kernel_size = kernel_size
        self.sigma = (sigma[0], sigma[1])
        self.p = probability(self, p)

    def forward(self, images: Tensor, generator: Generator | None = None) -> Tensor:
        drawn = uniform(self, (2, len(images)), generator)
        return self.blur(images, between(drawn[0], *self.sigma), drawn[1] < self.p)

    def blur(self, images: Tensor, sigma: Tensor, chosen: Tensor) -> Tensor:
        """Given standard deviations (B,) and which images they are for (B,) bool."""
        reach = self.kernel_size // 2
        height, width = images.shape[-2:]
        if reach >= min(height, width):
            raise DataError(
                f"GaussianBlur({self.kernel_size}) was given images of {height} x {width}:"
                " a smaller kernel_size fits"
            )
        return change(images, chosen, self.blurred, sigma)

    def blurred(self, images: Tensor, sigma: Tensor) -> Tensor:
        """All of the images, each by its own sigma (B, 1, 1, 1)."""
        reach = self.kernel_size // 2
        at = torch.arange(-reach, reach + 1, device=images.device)
        weights = torch.softmax(-((at / sigma) ** 2) / 2, dim=-1)  # (B, 1, 1, kernel_size)
        images = F.pad(images, [reach] * 4, mode="reflect")
        for axis in (2, 3):
            length = images.shape[axis] - 2 * reach
            out = images.narrow(axis, 0, length) * weights[..., :1]
            for tap in range(1, self.kernel_size):
                out.addcmul_(images.narrow(axis, tap, length), weights[..., tap : tap + 1])
            images = out
        return images
