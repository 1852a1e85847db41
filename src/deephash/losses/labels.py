"""What the objectives make of multi-hot labels; one code path for one label and for many.

Images without a label do not train: the data module leaves them out, and says how many. An
objective that meets one all the same gives it 0 where it judges single images, and counts it as
similar to nothing where it judges pairs; it never divides by its number of labels.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from deephash.records import generator


def labelled(targets: Tensor) -> Tensor:
    """Which rows of ``(N, C)`` have a label: ``(N, 1)``, 1 or 0."""
    return (targets > 0).any(dim=1, keepdim=True).to(targets.dtype)


def even_target(targets: Tensor) -> Tensor:
    """Multi-hot rows ``(N, C)`` as distributions: even over the labels; an empty row stays 0."""
    return targets / targets.sum(dim=1, keepdim=True).clamp(min=1)


def first_label(targets: Tensor) -> Tensor:
    """The first label of each row alone, as a row: ``(N, C)``; an empty row stays 0."""
    return F.one_hot(targets.argmax(dim=1), targets.shape[1]) * labelled(targets)


def similar(one: Tensor, other: Tensor) -> Tensor:
    """Which pairs share at least one label: ``(N, C), (M, C) -> (N, M)`` bool."""
    return one @ other.T > 0


def vote(targets: Tensor, centers: Tensor, ties: Tensor) -> Tensor:
    """One target code for each image: bit by bit the majority of its classes' centers.

    CSQ (CVPR 2020), its rule for several labels; for one label this is the center itself.

    Args:
        targets: ``(N, C)``.
        centers: ``(C, K)`` of -1 and +1.
        ties: ``(K,)`` of -1 and +1, for bits on which as many classes say -1 as +1; the same for
            all images.

    Returns:
        ``(N, K)`` of -1 and +1; 0 for images without labels.
    """
    votes = targets @ centers
    return torch.where(votes == 0, ties, votes.sign()) * labelled(targets)


def tie_vector(nbit: int, seed: int) -> Tensor:
    """Fair random signs ``(K,)`` for :func:`vote`, drawn once for a run."""
    drawn = torch.randint(0, 2, (nbit,), generator=generator(seed, "ties"))
    return drawn.float() * 2 - 1
