"""GreedyHash, NeurIPS 2018.

Su et al., "Greedy Hash: Towards Fast Optimization for Accurate Hash Coding in CNN".
"""

from typing import ClassVar, Literal

from deephash.bounds import NonNegative, Positive
from deephash.losses.cross_entropy import CrossEntropy
from deephash.records import Batch, Output, Terms


class Greedy(CrossEntropy):
    r"""Cross-entropy of a linear classifier on the bits, and a penalty that keeps codes near them.

    .. math:: L = \mathrm{CE}(W \mathrm{sgn}(z) + \text{bias}, y) +
              \alpha \cdot \mathrm{mean} \, | |z| - 1 |^p

    The bits and their straight-through gradient are the relaxation ``sign``; the penalty is on the
    code before it.

    Args:
        num_classes: C.
        nbit: K.
        bias: whether the classifier has a bias; the authors' own has none.
        multi_label: ``even`` (soft labels), or ``first`` (swuxyj's: the first label alone).
        penalty: alpha.
        power: p.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"z", "u", "centers", "bits"})

    def __init__(
        self,
        num_classes: int,
        nbit: int,
        bias: bool = True,
        multi_label: Literal["even", "first"] = "even",
        penalty: NonNegative = 1.0,
        power: Positive = 3.0,
    ) -> None:
        super().__init__(num_classes, nbit, bias, multi_label)
        self.penalty = penalty
        self.power = power

    def forward(self, output: Output, batch: Batch) -> Terms:
        gap = (output.z.abs() - 1).abs() ** self.power
        return {**super().forward(output, batch), "penalty": self.penalty * gap.mean()}
