"""Training targets from multi-hot labels, with one or several labels for each image.

The data module excludes images without a label from training and reports their number. If a batch
contains such an image nevertheless, losses of single images are 0 for it, and losses of pairs treat
it as dissimilar to all other images.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from deephash.types import generator


def labelled(targets: Tensor) -> Tensor:
    """Return which rows have a label.

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
    """Convert multi-hot rows into uniform distributions over their labels.

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
    """Keep only the first label of each row.

    Args:
        targets: (N, C) multi-hot.

    Returns:
        (N, C) one-hot; a row without labels remains 0.

    Example:
        >>> first_label(torch.tensor([[0.0, 1.0, 1.0]]))
        tensor([[0., 1., 0.]])
    """
    return F.one_hot(targets.argmax(dim=1), targets.shape[1]) * labelled(targets)


def similar(rows: Tensor, columns: Tensor) -> Tensor:
    """Return which pairs of images share at least one label.

    Args:
        rows: (N, C) multi-hot.
        columns: (M, C) multi-hot.

    Returns:
        (N, M) bool.

    Example:
        >>> similar(torch.tensor([[1.0, 1.0]]), torch.tensor([[0.0, 1.0], [0.0, 0.0]]))
        tensor([[ True, False]])
    """
    return rows @ columns.T > 0


def vote(targets: Tensor, centers: Tensor, ties: Tensor) -> Tensor:
    """Compute a target code for each image: the bitwise majority of the centers of its classes.

    With one label this is the center of the class. Source: CSQ (CVPR 2020).

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
    """Draw random signs for the ties of `vote`.

    Args:
        nbit: K.
        seed: seed of the draw.

    Returns:
        (K,) of -1 and +1.

    Example:
        >>> tie_vector(nbit=4, seed=0).abs()
        tensor([1., 1., 1., 1.])
    """
    bits = torch.randint(0, 2, (nbit,), generator=generator(seed, "ties"))
    return bits.float() * 2 - 1
