"""Contrastive loss of two views, and the pairs that losses without labels form by position."""

import torch
from torch import Tensor
from torch.nn import functional as F


def nt_xent(codes: Tensor, temperature: float) -> Tensor:
    """Compute the NT-Xent loss of two views: cross-entropy of finding an image's other view.

    The candidates of a row are all other rows; their logits are cosines divided by the temperature.
    With one image there is no other candidate, and the loss is 0. SimCLR (Chen et al., ICML 2020),
    Eq. (1).

    Args:
        codes: (2 B, K), all images of one view, then all of the other.
        temperature: tau.

    Returns:
        a scalar, the mean over the 2 B rows.

    Example:
        >>> code = torch.eye(2)  # two images with orthogonal codes, the same in both views
        >>> round(nt_xent(torch.cat([code, code]), 1.0).item(), 4)  # log(1 + 2 e^-1)
        0.5514
    """
    code = F.normalize(codes)
    logits = code @ code.T / temperature
    itself = torch.eye(len(code), dtype=torch.bool, device=code.device)
    logits = logits.masked_fill(itself, -torch.inf)
    other = torch.arange(len(code), device=code.device).roll(len(code) // 2)
    return F.cross_entropy(logits, other)


def position_pairs(rows: Tensor, views: int = 1) -> tuple[Tensor, Tensor]:
    """Pair rows by position: the first half with the second half.

    Training batches are shuffled, so these are random pairs. The rows are cut into 2 V parts of
    P = floor(N / (2 V)) rows; the first part is paired with the second, the third with the fourth,
    ... With V views of an even number of images, each pair lies within one view. Rows beyond 2 V P
    are in no pair: the last one of an odd N, for V = 1.

    If V > 1 and the number of images is odd, the parts do not end where the views do, and some
    pairs are of two views, as in SDC's code.

    Args:
        rows: (N, ...), all images of the first view, then all of the second, ...
        views: V.

    Returns:
        the first and the second members of the V * P pairs, each (V P, ...).

    Example:
        >>> one, other = position_pairs(torch.arange(5))
        >>> one.tolist(), other.tolist()
        ([0, 1], [2, 3])
        >>> one, other = position_pairs(torch.arange(8), views=2)
        >>> one.tolist(), other.tolist()
        ([0, 1, 4, 5], [2, 3, 6, 7])
    """
    part = len(rows) // (2 * views)
    parts = rows[: 2 * views * part].view(2 * views, part, *rows.shape[1:])
    return parts[0::2].flatten(0, 1), parts[1::2].flatten(0, 1)
