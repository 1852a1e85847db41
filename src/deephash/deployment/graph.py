"""The computation that is exported: from uint8 images to packed codes, as one module."""

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deephash.data.decoding import Square
from deephash.data.transforms import Pipeline
from deephash.errors import ExportError
from deephash.training.code_encoder import CodeEncoder

PRECISION_BITS = 22
"""Bits after the point in the fixed-point weights of Pillow's resize of 8-bit images."""


class Fit(nn.Module):
    """Bring images of any size to a square, with the pixels that Pillow gives.

    ``Square`` does this for single images with Pillow, whose resize is antialiased, goes along the
    rows first, rounds the result to 8 bits, and then along the columns. Here each direction is one
    matrix product with the same weights, in Pillow's fixed-point numbers. Sums of these are exact
    in float64, so that the pixels are equal. They may differ by one gray level from Pillow 13 for
    some images that are taller than wide, of which it resizes the columns first, and for strips
    whose resized image would be very large, of which ``Square`` crops the center first.

    Args:
        square: size and fit.

    Example:
        >>> import numpy as np
        >>> from pathlib import Path
        >>> from PIL import Image
        >>> pixels = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
        >>> square = Square(16, "crop")
        >>> fitted = Fit(square)(torch.from_numpy(pixels).permute(2, 0, 1)[None])
        >>> wanted = np.asarray(square(Image.fromarray(pixels), Path("image")))
        >>> np.array_equal(fitted[0].permute(1, 2, 0), wanted)
        True
    """

    def __init__(self, square: Square) -> None:
        super().__init__()
        self.size = square.size
        self.fit = square.fit

    def forward(self, images: Tensor) -> Tensor:
        # The sizes are computed as tensors, because they are known only when the graph runs.
        down = torch.arange(images.shape[2], dtype=torch.float64)
        across = torch.arange(images.shape[3], dtype=torch.float64)
        height, width = down[-1:] + 1, across[-1:] + 1
        resized = torch.full_like(height, self.size), torch.full_like(width, self.size)
        if self.fit == "crop":
            short = torch.minimum(height, width)
            resized = (
                torch.floor(self.size * height / short),
                torch.floor(self.size * width / short),
            )
        pixels = images.double() @ self._weights(across, width, resized[1]).T
        pixels = self._weights(down, height, resized[0]) @ _to_8_bits(pixels)
        return _to_8_bits(pixels).to(torch.uint8)

    def _weights(self, pixel: Tensor, length: Tensor, resized: Tensor) -> Tensor:
        """Return the weights of a resize to ``resized`` and its center crop: (size, length).

        Args:
            pixel: 0, 1, ..., length - 1.
            length: of the axis, (1,).
            resized: length after the resize, (1,).
        """
        scale = length / resized
        first = torch.round((resized - self.size) / 2)
        center = (torch.arange(self.size, dtype=torch.float64) + first + 0.5) * scale
        distance = (pixel + 0.5 - center[:, None]).abs() / scale.clamp(min=1.0)
        weight = (1 - distance).clamp(min=0.0)
        weight = weight / weight.sum(dim=1, keepdim=True)
        return torch.floor(weight * 2**PRECISION_BITS + 0.5)


def _to_8_bits(sums: Tensor) -> Tensor:
    """Round sums of pixels in fixed-point numbers to 0..255."""
    return torch.floor((sums + 2 ** (PRECISION_BITS - 1)) / 2**PRECISION_BITS).clamp(0.0, 255.0)


class WindowPool(nn.Module):
    """Adaptive pooling as slices and reductions, which ONNX has for all sizes of maps.

    Torch's adaptive pooling can be expressed in ONNX only if the size of the map is a multiple of
    that of the result.

    Args:
        pool: the module of torch.

    Example:
        >>> pool, maps = nn.AdaptiveMaxPool2d((2, 3)), torch.randn(4, 5, 9, 7)
        >>> torch.equal(WindowPool(pool)(maps), pool(maps))
        True
    """

    def __init__(self, pool: nn.AdaptiveMaxPool2d | nn.AdaptiveAvgPool2d) -> None:
        super().__init__()
        size = pool.output_size
        self.size = (size, size) if size is None or isinstance(size, int) else tuple(size)
        self.maximum = isinstance(pool, nn.AdaptiveMaxPool2d)

    def forward(self, maps: Tensor) -> Tensor:
        for axis, size in zip((2, 3), self.size, strict=True):
            length = maps.shape[axis]
            if size is None or size == length:
                continue
            parts = []
            for at in range(size):
                start, end = at * length // size, -(-(at + 1) * length // size)
                part = maps.narrow(axis, start, end - start)
                parts.append(part.amax(dim=axis) if self.maximum else part.mean(dim=axis))
            maps = torch.stack(parts, dim=axis)
        return maps


def _replace_pools(network: nn.Module) -> None:
    """Replace adaptive pooling to more than one place, in place."""
    for name, part in list(network.named_modules()):
        if isinstance(part, nn.AdaptiveMaxPool2d | nn.AdaptiveAvgPool2d):
            pool = WindowPool(part)
            if pool.size != (1, 1) and name:
                parent, _, key = name.rpartition(".")
                setattr(network.get_submodule(parent), key, pool)


class DeployedEncoder(nn.Module):
    """Preprocessing, network and packing of bits: the module that is exported.

    Args:
        encoder: of a run; its network is copied.
        any_size: whether images of any size are resized by the module; otherwise they have the
            size that the source of the run stores.

    Attributes:
        size: side of the images; None if any size is taken, or if the inputs are features.
        width: D, if the inputs are features.
        nbit: K.

    Raises:
        ExportError: a part of the network stays in training mode.
    """

    powers: Tensor

    def __init__(self, encoder: CodeEncoder, any_size: bool = False) -> None:
        super().__init__()
        self.nbit = encoder.nbit
        network: Any = copy.deepcopy(encoder.network).cpu()
        network.to(memory_format=torch.contiguous_format)
        network.requires_grad_(False)
        _replace_pools(network)
        self.network = network
        self.fit: Fit | None = None
        self.pipeline: Pipeline | None = None
        self.size: int | None = None
        self.width: int | None = None
        if encoder.preprocessing is None:
            self.width = int(network.backbone.out_features)
        else:
            square: Any = encoder.preprocessing.decoder.fit
            self.pipeline = copy.deepcopy(encoder.preprocessing.transform).cpu()
            self.fit = Fit(square) if any_size else None
            self.size = None if any_size else square.size
        self.register_buffer("powers", 2 ** torch.arange(7, -1, -1, dtype=torch.int32), False)
        self.eval()
        if training := [name for name, part in self.named_modules() if part.training]:
            raise ExportError(f"{training[0]} stays in training mode: its results are random.")

    @property
    def input_name(self) -> str:
        """The name of the input."""
        return "images" if self.width is None else "features"

    def example(self, count: int = 2) -> Tensor:
        """Return inputs of which the graph is made."""
        draw = torch.Generator().manual_seed(0)
        if self.width is not None:
            return torch.randn(count, self.width, generator=draw)
        shape = (count, 3, 37, 53) if self.size is None else (count, 3, self.size, self.size)
        return torch.randint(256, shape, generator=draw, dtype=torch.uint8)

    def dynamic_axes(self) -> dict[int, str]:
        """Return the names of the axes of the input whose lengths are free."""
        return {0: "batch", 2: "height", 3: "width"} if self.fit is not None else {0: "batch"}

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return packed codes (N, ceil(K / 8)) uint8 and the real-valued codes z (N, K) float32.

        Bit k of a code is 1 if z[k] >= 0. It is bit 7 - k % 8 of byte k // 8, as
        ``deephash.retrieval.pack`` and ``numpy.packbits`` have it; the last byte ends with zeros.
        """
        if self.fit is not None:
            images = self.fit(images)
        if self.pipeline is not None:
            images = self.pipeline(images)
        z: Tensor = self.network.encode(images).float()  # type: ignore[operator]  # (N, K)
        bits = F.pad((z >= 0).to(torch.int32), (0, -self.nbit % 8))
        codes = (bits.view(-1, -(-self.nbit // 8), 8) * self.powers).sum(dim=2)
        return codes.to(torch.uint8), z
