"""Targets from multi-hot labels, for losses; the same code for one label and for several.

Images without a label do not train: the data module leaves them out and reports their number. If a
batch has one all the same, a loss of single images is 0 for it, and a loss of pairs takes it as
similar to no other image.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from deephash.types import generator


def labelled(targets: Tensor) -> Tensor:
    """Tell which rows have a label.

    Args:
        targets: (N, C) multi-hot.

    Returns:
        (N, 1) of 1 and 0.

    Example:
        >>> labelled(torch.tensor([[0.0, 1.0], [0.0, 0.0]]))
        tensor([[1.],
                [0.]])
    """
    return (targets > 0).any(dim=1, keepdim=True).to(targets.dtype)


def even_target(targets: Tensor) -> Tensor:
    """Turn multi-hot rows into distributions that are even over the labels.

    Args:
        targets: (N, C) multi-hot.

    Returns:
        (N, C); a row without labels remains 0.

    Example:
        >>> even_target(torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]]))
        tensor([[0.5000, 0.0000, 0.5000],
                [0.0000, 1.0000, 0.0000]])
    """
    return targets / targets.sum(dim=1, keepdim=True).clamp(min=1)


def first_label(targets: Tensor) -> Tensor:
    """Keep the first label of each row only.

    Args:
        targets: (N, C) multi-hot.

    Returns:
        (N, C) one-hot; a row without labels remains 0.

    Example:
        >>> first_label(torch.tensor([[0.0, 1.0, 1.0]]))
        tensor([[0., 1., 0.]])
    """
    return F.one_hot(targets.argmax(dim=1), targets.shape[1]) * labelled(targets)


def similar(one: Tensor, other: Tensor) -> Tensor:
    """Tell which pairs of images share at least one label.

    Args:
        one: (N, C) multi-hot.
        other: (M, C) multi-hot.

    Returns:
        (N, M) bool.

    Example:
        >>> similar(torch.tensor([[1.0, 1.0]]), torch.tensor([[0.0, 1.0], [0.0, 0.0]]))
        tensor([[ True, False]])
    """
    return one @ other.T > 0


def vote(targets: Tensor, centers: Tensor, ties: Tensor) -> Tensor:
    """Compute one target code for each image: in each bit the majority of its classes' centers.

    This is CSQ's rule for several labels (CVPR 2020); for one label the result is the center.

    Args:
        targets: (N, C) multi-hot.
        centers: (C, K) of -1 and +1.
        ties: (K,) of -1 and +1, for bits in which half of the centers are +1.

    Returns:
        (N, K) of -1 and +1; 0 for images without labels.

    Example:
        >>> centers = torch.tensor([[1.0, 1.0, -1.0], [1.0, -1.0, -1.0]])
        >>> vote(torch.tensor([[1.0, 1.0]]), centers, ties=torch.tensor([1.0, -1.0, 1.0]))
        tensor([[ 1., -1., -1.]])
    """
    votes = targets @ centers
    return torch.where(votes == 0, ties, votes.sign()) * labelled(targets)


def tie_vector(nbit: int, seed: int) -> Tensor:
    """Draw random signs for the ties of `vote`; the same for the same seed.

    Args:
        nbit: K.
        seed: of the draw.

    Returns:
        (K,) of -1 and +1.

    Example:
        >>> tie_vector(nbit=4, seed=0).abs()
        tensor([1., 1., 1., 1.])
    """
    drawn = torch.randint(0, 2, (nbit,), generator=generator(seed, "ties"))
    return drawn.float() * 2 - 1
