"""WCH, ACCV 2022.

Yu et al., "Weighted Contrastive Hashing".
"""

from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from deephash.methods.base import Method
from deephash.models.encoder import Encoder
from deephash.models.relaxations import Sign
from deephash.types import Batch, Terms
from deephash.utils.bounds import NonNegative, Positive

MAX_COSINES = 1 << 26
"""Number of cosines of tokens that are computed at a time: 256 MiB."""


class WCH(Method):
    r"""Contrastive loss of the bits of two views, weighted by the similarity of image tokens.

    .. math:: L = -\frac1B \sum_{nm} w_{nm} \log \operatorname{softmax}_m\!\left(
              \frac{h^1_n \cdot h^2_m}{K \tau} \right)
              + \beta \left( \frac1K \sum_k \Big( \frac1B \sum_n h^1_{nk} \Big)^2
              - \frac1{B K} \sum_{nk} (h^1_{nk})^2 \right)

    First, each view of an image attends to the other (`cross_attention`), which gives the tokens X1
    and X2, (B, T, D). The head computes z from their means; h = sign(tanh(z)), with the gradient of
    tanh. The weights compare the tokens of all images of view 1 with those of all images of view 2:

    .. math:: G_{nm} = \operatorname{mean}_i \max_j \cos(X^1_{n,i}, X^2_{m,j}), \qquad
              A = \operatorname{softmax}_m(G / \tau_w), \qquad w_{nm} = A_{nm} / A_{mm}

    Formulas and constants are those of SDC's repository; the authors' code differs. Outside of
    training there is no attention: the head reads the mean of an image's own tokens. Labels are not
    read. Needs a backbone with ``output=tokens`` and a head that takes tokens.

    Args:
        encoder: encoder whose head takes tokens (N, T, D) and returns z; its signs are the bits.
        temperature: tau of the contrastive loss.
        weight_temperature: tau_w.
        attention_temperature: temperature of the attention between views.
        weight_norm: divisor of A_nm. ``column``: A_mm, as in SDC's repository; weights may exceed
            1. ``row``: A_nn, which was probably intended.
        normalize_w: whether to divide the weights of each image by their sum.
        balance: weight beta of the balance term, which reads view 1 only.

    Example:
        >>> from torch import nn
        >>> from deephash.models.heads import TokenMLP
        >>> encoder = Encoder(nn.Identity(), TokenMLP(in_features=4, nbit=8))
        >>> tokens = torch.randn(3, 2, 5, 4)  # three images in two views, of five tokens each
        >>> list(WCH(encoder)(Batch(tokens, None, torch.arange(3))))
        ['contrast', 'balance']
    """

    views: ClassVar[int] = 2
    labels: ClassVar[bool] = False
    tokens: ClassVar[bool] = True

    def __init__(
        self,
        encoder: Encoder,
        temperature: Positive = 0.3,
        weight_temperature: Positive = 0.2,
        attention_temperature: Positive = 1.0,
        weight_norm: Literal["column", "row"] = "column",
        normalize_w: bool = False,
        balance: NonNegative = 1.0,
    ) -> None:
        super().__init__(encoder)
        self.temperature = temperature
        self.weight_temperature = weight_temperature
        self.attention_temperature = attention_temperature
        self.weight_norm: Literal["column", "row"] = weight_norm
        self.normalize_w = normalize_w
        self.balance = balance
        self.sign = Sign()

    def forward(self, batch: Batch) -> Terms:
        x1, x2 = self.view_tokens(batch)  # (B, T, D) each, under autocast if enabled
        with torch.autocast(x1.device.type, enabled=False):
            x1, x2 = cross_attention(x1.float(), x2.float(), self.attention_temperature)
            similarities = token_similarity(x1, x2)
            weights = pair_weights(
                similarities, self.weight_temperature, self.weight_norm, self.normalize_w
            )
        h1, h2 = self.codes(x1), self.codes(x2)
        with torch.autocast(x1.device.type, enabled=False):
            h1, h2 = h1.float(), h2.float()
            terms = {"contrast": weighted_contrast(h1, h2, weights, self.temperature)}
            if self.balance:
                terms["balance"] = self.balance * bit_balance(h1)
            return terms

    def view_tokens(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Compute the tokens of both views: (B, T, D) each."""
        images = batch.flat()
        if self.passes == "stacked":
            x1, x2 = self.encoder.outputs(images).chunk(2)
        else:
            x1, x2 = map(self.encoder.outputs, images.chunk(2))
        return x1, x2

    def codes(self, tokens: Tensor) -> Tensor:
        """Compute the bits of tokens (B, T, D), with the gradient of tanh: (B, K)."""
        bits: Tensor = self.sign(torch.tanh(self.encoder.head(tokens)))
        return bits


def cross_attention(x1: Tensor, x2: Tensor, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
    """Apply attention between the tokens of the two views of each image.

    S contains the cosines of the tokens of view 1 with those of view 2. A token of X1 is the mean
    of the tokens of view 1, weighted by the softmax of S for one token of view 2; X2 is computed
    with the views exchanged.

    Args:
        x1: tokens of view 1, (B, T, D).
        x2: tokens of view 2, (B, T, D).
        temperature: divisor of S.

    Returns:
        X1 and X2, (B, T, D) each.
    """
    cosines = F.normalize(x1, dim=2) @ F.normalize(x2, dim=2).transpose(1, 2) / temperature
    attended1 = torch.softmax(cosines.transpose(1, 2), dim=2) @ x1
    attended2 = torch.softmax(cosines, dim=2) @ x2
    return attended1, attended2


def token_similarity(x1: Tensor, x2: Tensor) -> Tensor:
    """Compute the similarity G (B, B) of each image of view 1 to each image of view 2.

    It is the mean over the tokens of view 1 of their largest cosine with a token of view 2. The
    memory for cosines is bounded, unless gradients are needed.

    Args:
        x1: tokens of view 1, (B, T, D).
        x2: tokens of view 2, (B, T, D).
    """
    x1, x2 = F.normalize(x1, dim=2), F.normalize(x2, dim=2)
    columns = x2.flatten(0, 1).T  # (D, B T)
    count, tokens = x2.shape[:2]
    rows = []
    for part in torch.split(x1, max(1, MAX_COSINES // (tokens * count * tokens))):
        cosines = (part.flatten(0, 1) @ columns).view(len(part), tokens, count, tokens)
        rows.append(cosines.amax(dim=3).mean(dim=1))
    return torch.cat(rows)


def pair_weights(
    similarities: Tensor,
    temperature: float,
    weight_norm: Literal["column", "row"] = "column",
    normalize_w: bool = False,
) -> Tensor:
    """Compute the weights w (B, B) of pairs of images from their similarities.

    Args:
        similarities: G, (B, B).
        temperature: tau_w.
        weight_norm: see `WCH`.
        normalize_w: see `WCH`.
    """
    log_a = torch.log_softmax(similarities / temperature, dim=1)
    diagonal = log_a.diagonal()
    weights = torch.exp(log_a - (diagonal if weight_norm == "column" else diagonal[:, None]))
    return weights / weights.sum(dim=1, keepdim=True) if normalize_w else weights


def weighted_contrast(h1: Tensor, h2: Tensor, weights: Tensor, temperature: float) -> Tensor:
    """Compute the mean over the images of the weighted sum of their cross-entropies.

    Args:
        h1: codes of view 1, (B, K).
        h2: codes of view 2, (B, K).
        weights: w, (B, B).
        temperature: tau.

    Example:
        >>> h1, h2 = torch.tensor([[1.0, 1], [1, -1]]), torch.tensor([[1.0, 1], [-1, -1]])
        >>> weights = torch.tensor([[1, 0.5], [0.25, 1]])
        >>> round(weighted_contrast(h1, h2, weights, 0.3).item(), 6)
        2.100837
    """
    logits = h1 @ h2.T / (h1.shape[1] * temperature)
    return -(weights * torch.log_softmax(logits, dim=1)).sum(dim=1).mean()


def bit_balance(h: Tensor) -> Tensor:
    """Compute the mean squared mean of bits (B, K), minus their mean square.

    The mean square of bits is 1; its gradient moves the values before the sign away from 0.
    """
    return h.mean(dim=0).square().mean() - h.square().mean()
