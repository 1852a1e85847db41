"""The types every floor knows, and the legend of shapes.

``B`` images, ``V`` views, ``N = V * B`` encoded images, ``D`` features, ``K`` bits, ``C`` classes;
in retrieval ``Q`` queries, ``N`` database items, ``R`` cut-off.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

Terms = Mapping[str, Tensor]
"""The named, already weighted terms of an objective; each a scalar, a mean over the batch."""


@dataclass(frozen=True)
class Batch:
    """Images on the device, ready for the network, with what is known of them."""

    images: Tensor  # (B, V, 3, H, W) float32, normalised
    labels: Tensor  # (B, C) float32, multi-hot
    index: Tensor  # (B,) int64, position in the split the batch was drawn from

    def flat(self) -> Tensor:
        """All views under each other, view by view: (N, 3, H, W)."""
        return self.images.transpose(0, 1).flatten(0, 1)

    @property
    def targets(self) -> Tensor:
        """The labels repeated for each view: (N, C). Of a single view they are the same tensor."""
        views = self.images.shape[1]
        return self.labels if views == 1 else self.labels.repeat(views, 1)


@dataclass(frozen=True)
class Output:
    """What a method made of a batch."""

    features: Tensor  # (N, D) what the backbone saw
    z: Tensor  # (N, K) the real-valued code; z >= 0 are the bits
    u: Tensor  # (N, K) the relaxed code, which the objective judges
    logits: Tensor | None  # (N, C) similarity to each center, in the range of the similarity part
    centers: Tensor | None  # (C, K) the codebook


def generator(seed: int, *names: object, device: str | torch.device = "cpu") -> torch.Generator:
    """A torch generator of its own for every purpose, derived from one seed by name.

    The same ``(seed, names)`` gives the same stream on every machine, and two names give unrelated
    streams: what one part draws never moves another part.
    """
    return torch.Generator(device=device).manual_seed(derive(seed, *names))


def derive(seed: int, *names: object) -> int:
    """A 63-bit seed from a seed and the names of what it is for."""
    text = "/".join(str(part) for part in (seed, *names))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
