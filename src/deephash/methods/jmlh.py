"""JMLH. Shen et al., "Embarrassingly Simple Binary Representation Learning", ICCVW 2019."""

from typing import ClassVar, Literal

import torch
from torch.nn import functional as F

from deephash.losses.cross_entropy import CrossEntropy
from deephash.records import Batch, Output, Terms


class Variational(CrossEntropy):
    r"""Cross-entropy of a linear classifier on stochastic bits, and how far they are from fair.

    .. math:: L = \mathrm{CE}(W b + \text{bias}, y) + \lambda \cdot \frac1N \sum_{nk}
              \left[ p \log\frac{p}{1/2} + (1 - p) \log\frac{1 - p}{1/2} \right],
              \qquad p = \sigma(z)

    The bits b in {0, 1} and their gradient are the relaxation ``stochastic_sign``, which gives
    2 b - 1. The divergence is summed over the bits.

    Args:
        num_classes: C.
        nbit: K.
        bias: whether the classifier has a bias.
        multi_label: ``even`` (soft labels), or ``first`` (the first label alone).
        divergence: lambda. 0.1 in OrthoHash's supplement and comparisons, 0.2 in the authors'
            second release.
        epsilon: what is added inside the logarithms; the authors' code adds nothing.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"z", "u", "centers"})

    def __init__(
        self,
        num_classes: int,
        nbit: int,
        bias: bool = True,
        multi_label: Literal["even", "first"] = "even",
        divergence: float = 0.1,
        epsilon: float = 1e-7,
    ) -> None:
        super().__init__(num_classes, nbit, bias, multi_label)
        self.divergence = divergence
        self.epsilon = epsilon

    def forward(self, output: Output, batch: Batch) -> Terms:
        z, e = output.z, self.epsilon
        p, q = torch.sigmoid(z), torch.sigmoid(-z)
        log_p = torch.log(p + e) if e else F.logsigmoid(z)
        log_q = torch.log(q + e) if e else F.logsigmoid(-z)
        log_half = torch.log(torch.full_like(p, 0.5) + e)
        divergence = (p * (log_p - log_half) + q * (log_q - log_half)).sum(dim=1).mean()
        return {
            "cross_entropy": self.classification((output.u + 1) / 2, output, batch),
            "divergence": self.divergence * divergence,
        }
