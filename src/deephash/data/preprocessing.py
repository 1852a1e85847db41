"""Preprocess single images as the run of a trained network did: decode, fit and transform."""

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Union

import numpy as np
import torch
from torch import Tensor

from deephash.data.decoding import Decoder, Exact, Square, to_rgb
from deephash.data.transforms import Pipeline, Step
from deephash.errors import DataError
from deephash.utils.files import expand_path

if TYPE_CHECKING:
    from PIL.Image import Image

ImageLike = Union[str, Path, "Image", Tensor, np.ndarray]
"""A path, a PIL image, a uint8 tensor (3, H, W), or a uint8 array (H, W, 3) or (H, W)."""


class Preprocessing:
    """Bring images to the size that the source of a run stores, then apply its test transform.

    Args:
        decoder: of the source; decodes files and brings each image to one size.
        transform: the test pipeline.

    Example:
        >>> from PIL import Image
        >>> square = Preprocessing(Decoder(Square(4, "crop")), Pipeline([]))
        >>> square([Image.new("L", (8, 6))]).shape
        torch.Size([1, 3, 4, 4])
    """

    def __init__(self, decoder: Decoder, transform: Pipeline) -> None:
        fit = decoder.fit
        if isinstance(fit, Exact):  # the source stores images unchanged: others must be fitted
            fit = Square(fit.size, "crop")
        self.decoder = Decoder(fit)
        self.transform = transform

    @classmethod
    def of(cls, source: Any, transform: Pipeline) -> "Preprocessing | None":
        """Return the preprocessing of a source of images; None for a source of features.

        Args:
            source: has a ``decoder``, or a ``size`` of its images.
            transform: the test pipeline.
        """
        decoder = getattr(source, "decoder", None)
        if decoder is None and (size := getattr(source, "size", None)) is not None:
            decoder = Decoder(Square(size, "crop"))
        return None if decoder is None else cls(decoder, transform)

    def describe(self) -> dict[str, Any]:
        """Describe the preprocessing with timm's keys, and completely below ``stages``.

        timm's keys state what happens to an image on the whole: ``input_size`` [3, H, W] of the
        network, ``mean``, ``std``, ``interpolation`` of the last resize, ``crop_pct``, the fraction
        of the resized image's side that is kept, and ``crop_mode``, ``center`` or ``squash``.
        ``stages`` lists the fit of the decoder and the steps of the pipeline with their options.

        Example:
            >>> from deephash.data.transforms import CenterCrop, Resize
            >>> pipeline = Pipeline([Resize(256), CenterCrop(224)])
            >>> described = Preprocessing(Decoder(Square(300, "crop")), pipeline).describe()
            >>> described["input_size"], described["crop_pct"], described["crop_mode"]
            ([3, 224, 224], 0.875, 'center')
        """
        fit = self.decoder.fit
        assert isinstance(fit, Square)
        stages: list[dict[str, Any]] = [
            {"step": "fit", "size": fit.size, "fit": fit.fit, "interpolation": "bilinear"}
        ]
        stages += [step.describe() for step in self.transform.steps if isinstance(step, Step)]
        blank = torch.zeros(1, 3, fit.size, fit.size, dtype=torch.uint8)
        device = next(self.transform.buffers(), blank).device
        side, kept, normalize = fit.size, 1.0, {"mean": [0.0] * 3, "std": [1.0] * 3}
        for stage in stages[1:]:
            if stage["step"] == "CenterCrop":
                kept *= stage["size"] / side
            elif stage["step"] == "Normalize":
                normalize = {"mean": stage["mean"], "std": stage["std"]}
            side = stage.get("size", side)
        resizes = [stage["interpolation"] for stage in stages if "interpolation" in stage]
        return {
            "input": "images",
            "input_size": list(self.transform(blank.to(device)).shape[1:]),
            **normalize,
            "interpolation": resizes[-1],
            "crop_pct": kept,
            "crop_mode": "center" if fit.fit == "crop" else "squash",
            "stages": stages,
        }

    def __call__(self, images: Sequence[ImageLike], device: torch.device | str = "cpu") -> Tensor:
        """Return a batch of N images as input of the network: (N, 3, H, W) float32.

        Args:
            images: N images.
            device: where the transform is computed.

        Raises:
            DataError: an image cannot be read, or is not an `ImageLike`.
        """
        pixels = torch.from_numpy(np.stack([self.pixels(image) for image in images]))
        batch: Tensor = self.transform.to(device)(pixels.to(device))
        return batch

    def pixels(self, image: ImageLike) -> np.ndarray:
        """Decode and fit one image: (3, S, S) uint8.

        Raises:
            DataError: it cannot be read, or is not an `ImageLike`.
        """
        if isinstance(image, str | os.PathLike):
            path = expand_path(Path(image))
            if not path.is_file():
                raise DataError(f"there is no image {path}")
            return self.decoder.decode(path)
        try:
            upright = to_rgb(_as_pil(image))
        except ValueError as error:
            raise DataError(f"an image cannot be read: {error}") from error
        return np.asarray(self.decoder.fit(upright, Path("image"))).transpose(2, 0, 1)


def describe_features(width: int | None) -> dict[str, Any]:
    """Return what stands for ``Preprocessing.describe`` where the network takes features (N, D).

    >>> describe_features(512)
    {'input': 'features', 'width': 512}
    """
    return {"input": "features", "width": width}


def _as_pil(image: Any) -> "Image":
    from PIL import Image

    if isinstance(image, Image.Image):
        return image.copy()  # `to_rgb` turns it in place
    if isinstance(image, Tensor):
        if image.dtype != torch.uint8 or image.ndim != 3 or image.shape[0] not in (1, 3):
            raise DataError(
                f"a tensor of {image.dtype} and shape {tuple(image.shape)} is not an image: give"
                " uint8 (3, H, W); floats from 0 to 1 as (images * 255).round().byte()"
            )
        array = image.cpu().permute(1, 2, 0).numpy()
        return Image.fromarray(array[..., 0] if array.shape[2] == 1 else array)
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or (image.ndim != 2 and image.shape[2:] != (3,)):
            raise DataError(
                f"an array of {image.dtype} and shape {image.shape} is not an image: give uint8"
                " (H, W, 3) in RGB, or (H, W)"
            )
        return Image.fromarray(np.ascontiguousarray(image))
    raise DataError(
        f"{type(image).__name__} is not an image: give a path, a PIL image, a uint8 tensor"
        " (3, H, W), or a uint8 array (H, W, 3)"
    )


def images_in(images: Any) -> Iterator[ImageLike]:
    """Iterate over one image, a batch (N, 3, H, W), or any iterable of images."""
    if isinstance(images, Tensor | np.ndarray) and images.ndim == 4:
        yield from images
    elif isinstance(images, str | os.PathLike | Tensor | np.ndarray) or hasattr(images, "mode"):
        yield images
    elif isinstance(images, Iterable):
        yield from images
    else:
        yield images  # refused by `Preprocessing.pixels`
