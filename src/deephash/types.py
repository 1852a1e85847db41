"""Shared types, and the letters that denote shapes.

``B`` images, ``V`` views, ``N = V * B`` encoded images, ``D`` features, ``K`` bits, ``C`` classes;
in retrieval ``Q`` queries, ``N`` database items, ``R`` cut-off.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, Self

import torch
from torch import Tensor, nn

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

    @classmethod
    def of(
        cls,
        labels: Tensor | None,
        num_classes: int | None = None,
        index: Tensor | None = None,
        num_views: int = 1,
    ) -> Self:
        """Make the batch that a loss needs from labels alone, for a training loop of your own.

        Args:
            labels: (B,) class indices of an integer type, or (B, C) multi-hot of any type; None
                for a loss that reads no labels.
            num_classes: C; needed for class indices.
            index: (B,) int64, the position of each image in the training set. Only losses that
                remember codes of all training images (``pairs=memory``, DPN with
                ``update_every``) read it.
            num_views: V. The rows of `Output` are then all images of the first view, all of the
                second, ...

        Returns:
            a batch with empty images (B, V, 0).

        Raises:
            ValueError: the labels have another shape, class indices come without `num_classes` or
                are not below it, or `index` does not fit the labels.

        Example:
            >>> Batch.of(torch.tensor([2, 0]), num_classes=3).labels
            tensor([[0., 0., 1.],
                    [1., 0., 0.]])
            >>> Batch.of(torch.tensor([[1, 0, 1]])).labels  # an image with two labels
            tensor([[1., 0., 1.]])
        """
        if labels is None:
            return cls(torch.empty(0, num_views, 0), None, torch.empty(0, dtype=torch.int64))
        if labels.ndim == 1:
            if num_classes is None:
                raise ValueError(
                    f"labels of shape {tuple(labels.shape)} are class indices, and their number of"
                    " classes is not known. Give num_classes."
                )
            if labels.is_floating_point() or labels.dtype == torch.bool:
                raise ValueError(f"class indices are integers, and labels are {labels.dtype}.")
            if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < num_classes:
                raise ValueError(
                    f"class indices run from {int(labels.min())} to {int(labels.max())}, and"
                    f" num_classes is {num_classes}: they must be 0 to {num_classes - 1}."
                )
            labels = nn.functional.one_hot(labels.long(), num_classes)
        elif labels.ndim != 2 or num_classes not in (None, labels.shape[1]):
            raise ValueError(
                f"labels have the shape {tuple(labels.shape)}: give class indices (B,) or multi-hot"
                f" rows (B, {'C' if num_classes is None else num_classes})."
            )
        if index is None:
            index = torch.empty(0, dtype=torch.int64, device=labels.device)
        elif index.shape != labels.shape[:1]:
            raise ValueError(
                f"index has the shape {tuple(index.shape)}: give one position for each of"
                f" {len(labels)} images."
            )
        return cls(labels.new_empty((len(labels), num_views, 0)).float(), labels.float(), index)

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
        """Return all views in one dimension, view by view: (N, 3, H, W)."""
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
    """The output of a method for a batch, and the input of a loss.

    A loss names the fields that it reads in its class attribute ``needs``; the others may be None.

    Args:
        features: (N, D) of the backbone.
        z: (N, K) real-valued codes; ``z >= 0`` are the bits.
        u: (N, K) relaxed codes, which the loss compares.
        logits: (N, C) similarity of each code to each center, in the range of the similarity.
        centers: (C, K) the codebook.

    Example:
        >>> z = torch.zeros(2, 8)
        >>> Output(features=None, z=z, u=torch.tanh(z), logits=None, centers=None).u.shape
        torch.Size([2, 8])
    """

    features: Tensor | None
    z: Tensor
    u: Tensor
    logits: Tensor | None
    centers: Tensor | None

    @classmethod
    def of(
        cls,
        z: Tensor,
        u: Tensor | None = None,
        *,
        centers: Tensor | None = None,
        logits: Tensor | None = None,
        features: Tensor | None = None,
    ) -> Self:
        """Make the input of a loss from the fields that it reads, for a training loop of your own.

        Args:
            z: (N, K) real-valued codes.
            u: (N, K) relaxed codes; None: z itself.
            centers: (C, K).
            logits: (N, C).
            features: (N, D).

        Example:
            >>> output = Output.of(torch.tensor([[0.5, -2.0]]))
            >>> output.u is output.z, output.logits
            (True, None)
        """
        return cls(features, z, z if u is None else u, logits, centers)

    def require(self, name: Literal["features", "logits", "centers"]) -> Tensor:
        """Return a field that may be None.

        Raises:
            ValueError: it is None.
        """
        value: Tensor | None = getattr(self, name)
        if value is None:
            raise ValueError(
                f"the loss reads output.{name}, which is None. Give it: Output.of(z, {name}=...)."
            )
        return value


def generator(seed: int, *names: object, device: str | torch.device = "cpu") -> torch.Generator:
    """Make a torch generator for one purpose, seeded by a seed and the names of the purpose.

    The same ``(seed, names)`` gives the same stream on every machine, and different names give
    unrelated streams: what one part draws never changes what another part draws.

    Example:
        >>> one, other = generator(0, "codebook"), generator(0, "ties")
        >>> one.initial_seed() == other.initial_seed()
        False
    """
    return torch.Generator(device=device).manual_seed(derive(seed, *names))


def derive(seed: int, *names: object) -> int:
    """Derive a 63-bit seed from a seed and the names of its purpose.

    Example:
        >>> derive(0, "epoch", 1) == derive(0, "epoch", 1), 0 <= derive(0, "epoch", 2) < 2**63
        (True, True)
    """
    text = "/".join(str(part) for part in (seed, *names))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
