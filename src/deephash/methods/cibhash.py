"""CIBHash, IJCAI 2021.

Qiu et al., "Unsupervised Hashing with Contrastive Information Bottleneck".
"""

from typing import ClassVar

import torch
from torch import Tensor, nn

from deephash.losses.contrastive import nt_xent
from deephash.types import Batch, Output, Terms
from deephash.utils.bounds import NonNegative, Positive

EPSILON = 1e-8
"""Added inside the logarithms of the divergence, as in the authors' code."""


class ContrastiveBottleneck(nn.Module):
    r"""Contrastive loss of the bits of two views, and a divergence of their probabilities.

    .. math:: L = \mathrm{NTXent}(b_i, b_j; \tau) + \frac\beta2 \left(
              \mathrm{KL}(p_i \,\Vert\, \bar p_j) + \mathrm{KL}(p_j \,\Vert\, \bar p_i) \right),
              \qquad p = \sigma(z), \qquad b = \mathrm{sign}(p - 1/2)

    The gradient of the bits is passed to their probabilities, as if b were p. The divergence is
    summed over the bits and averaged over the images; its second argument is detached. Labels are
    not read.

    Args:
        temperature: tau.
        divergence: beta.

    Example:
        >>> loss = ContrastiveBottleneck(temperature=1.0)
        >>> z = torch.tensor([[9.0, 9.0], [-9.0, -9.0]])  # two images, same codes in both views
        >>> terms = loss(Output.of(torch.cat([z, z])), Batch.of(None, num_views=2))
        >>> round(terms["contrast"].item(), 4)  # log(1 + 2 e^-2)
        0.2395
    """

    needs: ClassVar[frozenset[str]] = frozenset({"z"})
    views: ClassVar[int] = 2
    labels: ClassVar[bool] = False

    def __init__(self, temperature: Positive = 0.3, divergence: NonNegative = 0.001) -> None:
        super().__init__()
        self.temperature = temperature
        self.divergence = divergence

    def forward(self, output: Output, batch: Batch) -> Terms:
        p = torch.sigmoid(output.z)  # (2 B, K), view by view
        bits = (p - p.detach()) + torch.where(output.z >= 0, 1.0, -1.0).to(p.dtype)
        terms = {"contrast": nt_xent(bits, self.temperature)}
        if self.divergence:
            p1, p2 = p.chunk(2)
            symmetric = bernoulli_divergence(p1, p2) + bernoulli_divergence(p2, p1)
            terms["divergence"] = self.divergence / 2 * symmetric
        return terms


def bernoulli_divergence(p: Tensor, q: Tensor) -> Tensor:
    """Compute KL(p || q) of bits with probabilities p and q (N, K): a scalar.

    It is summed over the bits and averaged over the images; q is detached.
    """
    q = q.detach()
    if_one = p * (torch.log(p + EPSILON) - torch.log(q + EPSILON))
    if_zero = (1 - p) * (torch.log(1 - p + EPSILON) - torch.log(1 - q + EPSILON))
    return (if_one + if_zero).sum(dim=1).mean()
