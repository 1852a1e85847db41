"""JMLH. Shen et al., "Embarrassingly Simple Binary Representation Learning", ICCVW 2019."""

from typing import ClassVar, Literal

from deephash.losses.cross_entropy import CrossEntropy
from deephash.losses.quantization import divergence
from deephash.types import Batch, Output, Terms
from deephash.utils.bounds import Fraction, NonNegative


class Variational(CrossEntropy):
    r"""Cross-entropy of a linear classifier on random bits, and their divergence from uniform bits.

    .. math:: L = \mathrm{CE}(W b + \text{bias}, y) + \lambda \cdot \frac1N \sum_{nk}
              \left[ p \log\frac{p}{1/2} + (1 - p) \log\frac{1 - p}{1/2} \right],
              \qquad p = \sigma(z)

    The bits b in {0, 1} and their gradient come from the relaxation ``stochastic_sign``, which
    returns 2 b - 1. The divergence is summed over the bits. Reads ``z`` and ``u`` (N, K) and
    ``centers`` (C, K), which is W.

    Args:
        num_classes: number of classes C.
        nbit: number of bits K.
        bias: whether the classifier has a bias.
        multi_label: ``even`` (soft labels), or ``first`` (only the first label).
        divergence: lambda; 0.1 in OrthoHash's supplement and comparisons, 0.2 in the authors'
            second release.
        log_epsilon: added inside the logarithms; 0 in the authors' code.

    Example:
        >>> import torch
        >>> from deephash.models.relaxations import StochasticSign
        >>> loss, z = Variational(num_classes=2, nbit=2, bias=False), torch.zeros(1, 2)
        >>> output = Output.of(z, StochasticSign()(z), centers=torch.zeros(2, 2))
        >>> terms = loss(output, Batch.of(torch.tensor([0]), num_classes=2))
        >>> round(terms["cross_entropy"].item(), 4), abs(terms["divergence"].item()) < 1e-6
        (0.6931, True)
    """

    needs: ClassVar[frozenset[str]] = frozenset({"z", "u", "centers", "bits"})

    def __init__(
        self,
        num_classes: int,
        nbit: int,
        bias: bool = True,
        multi_label: Literal["even", "first"] = "even",
        divergence: NonNegative = 0.1,
        log_epsilon: Fraction = 1e-7,
    ) -> None:
        super().__init__(num_classes, nbit, bias, multi_label)
        self.divergence = divergence
        self.log_epsilon = log_epsilon

    def forward(self, output: Output, batch: Batch) -> Terms:
        return {
            "cross_entropy": self.classification((output.u + 1) / 2, output, batch),
            "divergence": self.divergence * divergence(output.z, self.log_epsilon),
        }
