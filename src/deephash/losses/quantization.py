"""Quantization terms: the distance of real-valued codes from bits."""

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

Form = Literal["cosine", "l1", "l2", "l3", "log_cosh"]


def quantization(code: Tensor, form: Form) -> Tensor:
    """Compute the mean distance of codes from their signs, in one of the papers' forms.

    Args:
        code: (N, K).
        form: ``cosine``: 1 - cos(code, sign(code)), the mean over the images (OrthoHash). The
            others are means over all entries of the gap | |code| - 1 |. ``l1``: the gap (DSH,
            IDHN). ``l2``: its square (DTSH, DPSH, CSQ). ``l3``: its cube (GreedyHash).
            ``log_cosh``: a smooth absolute value, log cosh x = |x| + log(1 + e^(-2|x|)) - log 2
            (DHN).

    Returns:
        a scalar.

    Example:
        >>> code = torch.tensor([[0.5, -2.0]])  # gaps of 0.5 and 1
        >>> quantization(code, "l1").item(), quantization(code, "l2").item()
        (0.75, 0.625)
    """
    if form == "cosine":
        signs = torch.where(code >= 0, 1.0, -1.0).to(code.dtype)
        return (1 - F.cosine_similarity(code, signs)).mean()
    gap = (code.abs() - 1).abs()
    if form == "log_cosh":
        return (gap + F.softplus(-2 * gap) - math.log(2)).mean()
    return (gap ** int(form[1])).mean()


def divergence(z: Tensor, log_epsilon: float = 0.0) -> Tensor:
    """Compute the divergence of bits drawn with probability sigmoid(z) from fair bits (JMLH).

    This is the Kullback-Leibler divergence from probability 1/2, in nats, summed over the bits and
    averaged over the images.

    Args:
        z: (N, K).
        log_epsilon: is added inside the logarithms.

    Returns:
        a scalar, from 0 to K log 2.

    Example:
        >>> divergence(torch.zeros(1, 2)).item()
        0.0
        >>> round(divergence(torch.full((1, 2), 50.0)).item(), 4)  # 2 log 2: both bits are certain
        1.3863
    """
    p, q = torch.sigmoid(z), torch.sigmoid(-z)
    log_p = torch.log(p + log_epsilon) if log_epsilon else F.logsigmoid(z)
    log_q = torch.log(q + log_epsilon) if log_epsilon else F.logsigmoid(-z)
    log_half = math.log(0.5 + log_epsilon)
    return (p * (log_p - log_half) + q * (log_q - log_half)).sum(dim=1).mean()
