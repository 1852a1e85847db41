"""Contrastive loss of two views, and pairs of rows by position."""

import torch
from torch import Tensor
from torch.nn import functional as F


def nt_xent(codes: Tensor, temperature: float) -> Tensor:
    """Compute the NT-Xent loss of two views. SimCLR (Chen et al., ICML 2020), Eq. (1).

    For each row, the other view of its image is classified among all other rows; the logits are
    cosines divided by the temperature. With one image the loss is 0.

    Args:
        codes: (2 B, K), the first view of all images, then the second.
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
    diagonal = torch.eye(len(code), dtype=torch.bool, device=code.device)
    logits = logits.masked_fill(diagonal, -torch.inf)
    other_view = torch.arange(len(code), device=code.device).roll(len(code) // 2)
    return F.cross_entropy(logits, other_view)


def position_pairs(rows: Tensor, views: int = 1) -> tuple[Tensor, Tensor]:
    """Pair rows by position: the first half with the second half.

    Training batches are shuffled, so the pairs are random. The rows are divided into 2 V parts of
    P = floor(N / (2 V)) rows; the first part is paired with the second, the third with the fourth,
    ... With V views of an even number of images, each pair lies within one view. Rows beyond 2 V P
    are not used: with V = 1, the last row if N is odd.

    If V > 1 and the number of images is odd, parts and views have different boundaries, and some
    pairs contain two views, as in SDC's code.

    Args:
        rows: (N, ...), the first view of all images, then the second, ...
        views: V.

    Returns:
        the first and the second members of the V P pairs, each (V P, ...).

    Example:
        >>> first, second = position_pairs(torch.arange(5))
        >>> first.tolist(), second.tolist()
        ([0, 1], [2, 3])
        >>> first, second = position_pairs(torch.arange(8), views=2)
        >>> first.tolist(), second.tolist()
        ([0, 1, 4, 5], [2, 3, 6, 7])
    """
    part = len(rows) // (2 * views)
    parts = rows[: 2 * views * part].view(2 * views, part, *rows.shape[1:])
    return parts[0::2].flatten(0, 1), parts[1::2].flatten(0, 1)
