"""JMLH. Shen et al., "Embarrassingly Simple Binary Representation Learning", ICCVW 2019."""

from typing import ClassVar, Literal

from deephash.bounds import Fraction, NonNegative
from deephash.losses.cross_entropy import CrossEntropy
from deephash.losses.quantization import divergence
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
        log_epsilon: what is added inside the logarithms; the authors' code adds nothing.
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
