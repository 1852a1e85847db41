"""The types every floor knows, and the legend of shapes.

``B`` images, ``V`` views, ``N = V * B`` encoded images, ``D`` features, ``K`` bits, ``C`` classes;
in retrieval ``Q`` queries, ``N`` database items, ``R`` cut-off.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

Terms = Mapping[str, Tensor]
"""The named, already weighted terms of an objective; each a scalar, a mean over the batch."""


@dataclass(frozen=True)
class Batch:
    """Images on the device, ready for the network, with their labels.

    Args:
        images: (B, V, 3, H, W) float32, normalised; or features, (B, V, D).
        given_labels: (B, C) float32, multi-hot; None in label-free training. Read `labels`.
        index: (B,) int64, position in the split the batch was drawn from.

    Example:
        >>> batch = Batch(torch.zeros(2, 1, 3, 8, 8), torch.eye(2), torch.arange(2))
        >>> batch.flat().shape, batch.labels.shape
        (torch.Size([2, 3, 8, 8]), torch.Size([2, 2]))
    """

    images: Tensor
    given_labels: Tensor | None
    index: Tensor

    @property
    def labels(self) -> Tensor:
        """The labels: (B, C) float32, multi-hot.

        Raises:
            RuntimeError: training is label-free, so the batch has none.
        """
        if self.given_labels is None:
            raise RuntimeError(
                "this batch has no labels: the loss (or method) declares labels = False, and reads"
                " batch.labels or batch.targets. Declare labels = True there, or do not read them."
            )
        return self.given_labels

    @property
    def num_views(self) -> int:
        """V, the views of each image."""
        return self.images.shape[1]

    def flat(self) -> Tensor:
        """All views under each other, view by view: (N, 3, H, W)."""
        return self.images.transpose(0, 1).flatten(0, 1)

    @property
    def targets(self) -> Tensor:
        """The labels repeated for each view: (N, C). Of a single view they are the same tensor."""
        return self.labels if self.num_views == 1 else self.labels.repeat(self.num_views, 1)

    def tensors(self) -> list[Tensor]:
        """Return all tensors of the batch."""
        return [one for one in (self.images, self.given_labels, self.index) if one is not None]

    def map(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        """Return a batch with a function applied to each of its tensors."""
        labels = None if self.given_labels is None else change(self.given_labels)
        return Batch(change(self.images), labels, change(self.index))


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
