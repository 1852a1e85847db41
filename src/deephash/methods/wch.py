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

PAIRS = 1 << 26
"""Cosines of tokens that are computed at a time: 256 MiB."""


class WCH(Method):
    r"""Contrast the bits of two views, weighted by how alike the tokens of two images are.

    .. math:: L = -\frac1B \sum_{nm} w_{nm} \log \operatorname{softmax}_m\!\left(
              \frac{h^1_n \cdot h^2_m}{K \tau} \right)
              + \beta \left( \frac1K \sum_k \Big( \frac1B \sum_n h^1_{nk} \Big)^2
              - \frac1{B K} \sum_{nk} (h^1_{nk})^2 \right)

    The tokens of each view first attend to those of the other view of their image (`attended`),
    which gives X1 and X2, (B, T, D). The head makes codes of their means; h = sign(tanh(z)), with
    the gradient of tanh. The weights compare the tokens of all images of view 1 with those of all
    images of view 2:

    .. math:: G_{nm} = \operatorname{mean}_i \max_j \cos(X^1_{n,i}, X^2_{m,j}), \qquad
              A = \operatorname{softmax}_m(G / \tau_w), \qquad w_{nm} = A_{nm} / A_{mm}

    Formulas and constants are those of SDC's repository; the authors' code differs (docs). Outside
    training there is no attention: a code is made of the mean over an image's own tokens. No label
    is read. Needs a backbone with ``output=tokens`` and a head that takes them.

    Args:
        encoder: its head takes tokens (N, T, D); the signs of its z are the bits.
        temperature: tau of the contrast.
        weight_temperature: tau_w.
        attention_temperature: that of the attention between views.
        weight_norm: what A_nm is divided by. ``column``: A_mm, the only code there is; weights may
            exceed 1. ``row``: A_nn, which seems to be meant.
        normalize_w: divide the weights of each image by their sum.
        balance: weight beta of the balance term, which reads view 1 alone.

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
        one, two = self.tokens_of(batch)  # (B, T, D) each, under autocast if on
        with torch.autocast(one.device.type, enabled=False):
            one, two = attended(one.float(), two.float(), self.attention_temperature)
            weights = weights_of(
                alikeness(one, two), self.weight_temperature, self.weight_norm, self.normalize_w
            )
        h1, h2 = self.codes(one), self.codes(two)
        with torch.autocast(one.device.type, enabled=False):
            h1, h2 = h1.float(), h2.float()
            terms = {"contrast": weighted_contrast(h1, h2, weights, self.temperature)}
            if self.balance:
                terms["balance"] = self.balance * imbalance(h1)
            return terms

    def tokens_of(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Compute the tokens of both views: (B, T, D) each."""
        images = batch.flat()
        if self.passes == "stacked":
            one, two = self.encoder.outputs(images).chunk(2)
            return one, two
        one, two = (self.encoder.outputs(view) for view in images.chunk(2))
        return one, two

    def codes(self, tokens: Tensor) -> Tensor:
        """Compute the bits of tokens (B, T, D), with the gradient of tanh: (B, K)."""
        bits: Tensor = self.sign(torch.tanh(self.encoder.head(tokens)))
        return bits


def attended(one: Tensor, two: Tensor, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
    """Let the tokens of two views of each image attend to each other.

    With S the cosines of the tokens of view 1 with those of view 2: the result of view 1 has, at
    the places of view 2, means over the tokens of view 1, weighted by the softmax of S over them;
    that of view 2 the other way round.

    Args:
        one: tokens of view 1, (B, T, D).
        two: tokens of view 2, (B, T, D).
        temperature: S is divided by it.

    Returns:
        X1 and X2, (B, T, D) each.
    """
    alike = F.normalize(one, dim=2) @ F.normalize(two, dim=2).transpose(1, 2) / temperature
    first = torch.softmax(alike.transpose(1, 2), dim=2) @ one
    second = torch.softmax(alike, dim=2) @ two
    return first, second


def alikeness(one: Tensor, two: Tensor) -> Tensor:
    """Compute the mean over the tokens of an image of their largest cosine with another's: (B, B).

    Rows are images of view 1, columns those of view 2. The memory for cosines is bounded, unless
    their gradient is needed.

    Args:
        one: tokens of view 1, (B, T, D).
        two: tokens of view 2, (B, T, D).
    """
    one, two = F.normalize(one, dim=2), F.normalize(two, dim=2)
    every = two.flatten(0, 1).T  # (D, B T)
    count, tokens = two.shape[:2]
    rows = []
    for part in torch.split(one, max(1, PAIRS // (tokens * count * tokens))):
        cosines = (part.flatten(0, 1) @ every).view(len(part), tokens, count, tokens)
        rows.append(cosines.amax(dim=3).mean(dim=1))
    return torch.cat(rows)


def weights_of(
    alike: Tensor,
    temperature: float,
    weight_norm: Literal["column", "row"] = "column",
    normalize_w: bool = False,
) -> Tensor:
    """Compute the weights of pairs of images from how alike they are: w, (B, B).

    Args:
        alike: G, (B, B).
        temperature: tau_w.
        weight_norm: see `WCH`.
        normalize_w: see `WCH`.
    """
    logs = torch.log_softmax(alike / temperature, dim=1)  # of A
    own = logs.diagonal()
    weights = torch.exp(logs - (own[None] if weight_norm == "column" else own[:, None]))
    return weights / weights.sum(dim=1, keepdim=True) if normalize_w else weights


def weighted_contrast(one: Tensor, two: Tensor, weights: Tensor, temperature: float) -> Tensor:
    """Average the weighted cross-entropies of finding the images of the other view.

    Args:
        one: codes of view 1, (B, K).
        two: codes of view 2, (B, K).
        weights: w, (B, B).
        temperature: tau.

    Example:
        >>> one, two = torch.tensor([[1.0, 1], [1, -1]]), torch.tensor([[1.0, 1], [-1, -1]])
        >>> weights = torch.tensor([[1, 0.5], [0.25, 1]])
        >>> round(weighted_contrast(one, two, weights, 0.3).item(), 6)
        2.100837
    """
    logits = one @ two.T / (one.shape[1] * temperature)
    return -(weights * torch.log_softmax(logits, dim=1)).sum(dim=1).mean()


def imbalance(codes: Tensor) -> Tensor:
    """Compute the mean square of the means of bits (B, K), less their mean square.

    The second part is 1 for bits; its gradient pushes what they are the signs of away from 0.
    """
    return codes.mean(dim=0).square().mean() - codes.square().mean()
