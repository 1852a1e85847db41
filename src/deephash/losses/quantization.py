"""Quantization terms: distances between real-valued codes and bits."""

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

QuantizationForm = Literal["cosine", "l1", "l2", "l3", "log_cosh"]


def quantization(code: Tensor, form: QuantizationForm) -> Tensor:
    """Compute the mean distance between codes and their signs.

    Args:
        code: (N, K).
        form: ``cosine``: 1 - cos(code, sign(code)), mean over the images (OrthoHash). The other
            forms are means over all entries, with the gap x = | |code| - 1 |. ``l1``: x (DSH,
            IDHN). ``l2``: x^2 (DTSH, DPSH, CSQ). ``l3``: x^3 (GreedyHash). ``log_cosh``:
            log cosh x = x + log(1 + e^(-2 x)) - log 2, a smooth absolute value (DHN).

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
    """Compute the KL divergence between Bernoulli(sigmoid(z)) and Bernoulli(1/2) bits (JMLH).

    The result is in nats, summed over the bits and averaged over the images.

    Args:
        z: (N, K).
        log_epsilon: added to the arguments of the logarithms.

    Returns:
        a scalar, from 0 to K log 2.

    Example:
        >>> divergence(torch.zeros(1, 2)).item()
        0.0
        >>> round(divergence(torch.full((1, 2), 50.0)).item(), 4)  # 2 log 2
        1.3863
    """
    p, q = torch.sigmoid(z), torch.sigmoid(-z)
    log_p = torch.log(p + log_epsilon) if log_epsilon else F.logsigmoid(z)
    log_q = torch.log(q + log_epsilon) if log_epsilon else F.logsigmoid(-z)
    log_half = math.log(0.5 + log_epsilon)
    return (p * (log_p - log_half) + q * (log_q - log_half)).sum(dim=1).mean()
