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
"""What the authors' code adds inside the logarithms of the divergence."""


class ContrastiveBottleneck(nn.Module):
    r"""Contrast the bits of two views of each image, and keep their probabilities alike.

    .. math:: L = \mathrm{NTXent}(b_i, b_j; \tau) + \frac\beta2 \left(
              \mathrm{KL}(p_i \,\Vert\, \bar p_j) + \mathrm{KL}(p_j \,\Vert\, \bar p_i) \right),
              \qquad p = \sigma(z), \qquad b = \mathrm{sign}(p - 1/2)

    The gradient of a bit passes to its probability, as if b were p. The divergence is summed over
    the bits and averaged over the images; its second argument is detached. No label is read.

    Args:
        temperature: tau.
        divergence: beta.

    Example:
        >>> loss = ContrastiveBottleneck(temperature=1.0)
        >>> z = torch.tensor([[9.0, 9.0], [-9.0, -9.0]])  # two images, with the same code twice
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
            one, other = p.chunk(2)
            both = bernoulli_divergence(one, other) + bernoulli_divergence(other, one)
            terms["divergence"] = self.divergence / 2 * both
        return terms


def bernoulli_divergence(p: Tensor, q: Tensor) -> Tensor:
    """Compute KL(p || q) of probabilities (N, K): summed over the bits, averaged over N.

    q is detached.
    """
    q = q.detach()
    one = p * (torch.log(p + EPSILON) - torch.log(q + EPSILON))
    zero = (1 - p) * (torch.log(1 - p + EPSILON) - torch.log(1 - q + EPSILON))
    return (one + zero).sum(dim=1).mean()
