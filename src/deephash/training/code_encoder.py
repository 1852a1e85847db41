"""A trained encoder with its preprocessing: from images to packed codes."""

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import deephash
from deephash import retrieval
from deephash.data.preprocessing import ImageLike, Preprocessing, describe_features, images_in
from deephash.errors import DataError
from deephash.training.precision import autocast


@dataclass(eq=False, repr=False)
class CodeEncoder:
    """Turn images into hash codes, with the preprocessing of the run that trained the network.

    ``deephash.load(run)`` returns one.

    Args:
        network: ``encode((N, 3, H, W)) -> (N, K)``, on its device.
        preprocessing: None if the network takes features (N, D).
        nbit: K.
        device: of the network.
        batch_size: images per forward pass.
        method: name of the method that trained the network; None if unknown.
        dataset: name of the dataset that it was trained on; None if unknown.
        precision: of the forward pass: ``fp32``, ``bf16`` or ``fp16``.

    Attributes:
        nbit: K, the number of bits of a code.
    """

    network: nn.Module
    preprocessing: Preprocessing | None
    nbit: int
    device: torch.device
    batch_size: int = 256
    method: str | None = None
    dataset: str | None = None
    precision: str = "fp32"

    def __post_init__(self) -> None:
        self.network.eval()

    def with_precision(self, precision: str) -> "CodeEncoder":
        """Return an encoder with the same network that computes in another number format.

        Its codes differ in the bits whose real value is close to 0, and so does its fingerprint.

        Args:
            precision: ``fp32``, ``bf16`` or ``fp16``.
        """
        return replace(self, precision=precision)

    @cached_property
    def preprocess(self) -> dict[str, Any]:
        """The preprocessing as plain values; see ``Preprocessing.describe``.

        If the network takes features: ``describe_features(D)``.
        """
        if self.preprocessing is not None:
            return self.preprocessing.describe()
        backbone: Any = getattr(self.network, "backbone", None)
        return describe_features(getattr(backbone, "out_features", None))

    @cached_property
    def fingerprint(self) -> str:
        """A SHA-256 digest of the weights, the preprocessing and K, 64 hex digits.

        Codes of different encoders cannot be compared: two encoders with the same fingerprint give
        the same codes up to rounding. It depends neither on the place of the run nor on the device.
        A precision other than float32 is included, because it changes some percent of the bits. The
        fingerprint is computed on first use.
        """
        result = hashlib.sha256()
        preprocess = {key: self.preprocess.get(key) for key in ("input", "stages", "width")}
        if self.precision != "fp32":
            preprocess["precision"] = self.precision
        result.update(json.dumps({"nbit": self.nbit, **preprocess}, sort_keys=True).encode())
        for name, value in sorted(self.network.state_dict().items()):
            result.update(f"\n{name} {value.dtype} {tuple(value.shape)}\n".encode())
            value = value.detach().cpu().contiguous().flatten()
            result.update(value.view(torch.uint8).numpy())
        return result.hexdigest()

    def describe(self) -> dict[str, Any]:
        """Return what identifies the encoder, as codes, indexes and exported models store it.

        Returns:
            ``fingerprint``, ``nbit``, ``preprocess``, ``precision``, ``method``, ``dataset`` and
            ``deephash``, the version of the package.

        Example:
            >>> import deephash
            >>> _, folder = deephash.train(["model.nbit=16", "trainer.epochs=0", "logger=quiet"])
            done   outputs/digits/relahash/16bit/seed0,trainer.epochs=0  mAP@all 0...
            >>> described = deephash.load(folder).describe()
            >>> described["nbit"], described["method"], len(described["fingerprint"])
            (16, 'relahash', 64)
        """
        return {
            "fingerprint": self.fingerprint,
            "nbit": self.nbit,
            "preprocess": self.preprocess,
            "precision": self.precision,
            "method": self.method,
            "dataset": self.dataset,
            "deephash": deephash.__version__,
        }

    def encode(self, images: ImageLike | Iterable[ImageLike]) -> np.ndarray:
        """Return packed codes, as ``deephash.retrieval`` takes them.

        Args:
            images: an image, or an iterable of images: paths, PIL images, uint8 tensors (3, H, W)
                or uint8 arrays (H, W, 3); or a uint8 tensor (N, 3, H, W). If the network takes
                features, a float array or tensor (N, D).

        Returns:
            (N, ceil(K / 8)) uint8: bit k of a code is 1 if its k-th real value is at least 0.

        Raises:
            DataError: an image cannot be read, or features have another width.
        """
        return retrieval.pack(self.codes(images) >= 0)

    @torch.inference_mode()
    def codes(self, images: ImageLike | Iterable[ImageLike]) -> np.ndarray:
        """Return real-valued codes, (N, K) float32; their signs are the bits. See ``encode``."""
        parts = [self._codes(batch) for batch in self._batches(images)]
        return np.concatenate(parts) if parts else np.empty((0, self.nbit), np.float32)

    @torch.inference_mode()
    def codes_of_pixels(self, pixels: np.ndarray) -> np.ndarray:
        """Return real-valued codes of images that ``preprocessing.pixels`` has decoded and fitted.

        Args:
            pixels: (N, 3, S, S) uint8, one batch.

        Returns:
            (N, K) float32.
        """
        assert self.preprocessing is not None
        transform = self.preprocessing.transform.to(self.device)
        return self._codes(transform(torch.from_numpy(pixels).to(self.device)))

    def _codes(self, batch: Tensor) -> np.ndarray:
        with autocast(self.device, self.precision):
            codes: np.ndarray = self.network.encode(batch).float().cpu().numpy()  # type: ignore[operator]
        return codes

    def _batches(self, images: Any) -> Iterator[Tensor]:
        if self.preprocessing is None:
            features = images if isinstance(images, Tensor) else torch.as_tensor(np.asarray(images))
            if features.ndim != 2 or not features.is_floating_point():
                raise DataError(
                    f"this run encodes features, (N, D) floats, not {features.dtype} of shape"
                    f" {tuple(features.shape)}"
                )
            yield from torch.split(features.float().to(self.device), self.batch_size)
            return
        iterator = images_in(images)
        while batch := list(islice(iterator, self.batch_size)):
            yield self.preprocessing(batch, self.device)
