"""How far real-valued codes are from bits."""

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

Form = Literal["cosine", "l1", "l2", "l3", "log_cosh"]


def quantization(code: Tensor, form: Form) -> Tensor:
    """The mean distance of codes ``(N, K)`` from their signs, in one of the papers' forms.

    ``cosine``: 1 - cos(code, sign(code)), the mean over the images (OrthoHash). The others are
    means over all entries of the gap | |code| - 1 |. ``l1``: the gap (DSH, IDHN). ``l2``: its
    square (DTSH, DPSH, CSQ). ``l3``: its cube (GreedyHash). ``log_cosh``: a smooth modulus,
    log cosh x = |x| + log(1 + e^(-2|x|)) - log 2 (DHN).
    """
    if form == "cosine":
        signs = torch.where(code >= 0, 1.0, -1.0).to(code.dtype)
        return (1 - F.cosine_similarity(code, signs)).mean()
    gap = (code.abs() - 1).abs()
    if form == "log_cosh":
        return (gap + F.softplus(-2 * gap) - math.log(2)).mean()
    return (gap ** int(form[1])).mean()


def divergence(z: Tensor, log_epsilon: float = 0.0) -> Tensor:
    """How far bits drawn with probability sigmoid(z) are from fair ones (JMLH).

    The Kullback-Leibler divergence from probability 1/2, summed over the bits, the mean over the
    images.

    Args:
        z: ``(N, K)``.
        log_epsilon: what is added inside the logarithms.
    """
    p, q = torch.sigmoid(z), torch.sigmoid(-z)
    log_p = torch.log(p + log_epsilon) if log_epsilon else F.logsigmoid(z)
    log_q = torch.log(q + log_epsilon) if log_epsilon else F.logsigmoid(-z)
    log_half = math.log(0.5 + log_epsilon)
    return (p * (log_p - log_half) + q * (log_q - log_half)).sum(dim=1).mean()
