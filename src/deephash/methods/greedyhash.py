"""GreedyHash, NeurIPS 2018.

Su et al., "Greedy Hash: Towards Fast Optimization for Accurate Hash Coding in CNN".
"""

from typing import ClassVar, Literal

from torch import Tensor

from deephash.losses.cross_entropy import CrossEntropy
from deephash.types import Batch, Output, Terms
from deephash.utils.bounds import NonNegative, Positive


class Greedy(CrossEntropy):
    r"""Cross-entropy of a linear classifier on the bits, and a penalty on the distance from bits.

    .. math:: L = \mathrm{CE}(W \mathrm{sgn}(z) + \text{bias}, y) +
              \alpha \cdot \mathrm{mean} \, | |z| - 1 |^p

    The bits and their straight-through gradient come from the relaxation ``sign``; the penalty
    reads the code before it. Reads ``z`` and ``u`` (N, K) and ``centers`` (C, K), which is W.

    Args:
        num_classes: number of classes C.
        nbit: number of bits K.
        bias: whether the classifier has a bias; false in the authors' code.
        multi_label: ``even`` (soft labels), or ``first`` (swuxyj's: only the first label).
        penalty: alpha.
        power: p.

    Example:
        >>> import torch
        >>> from deephash.models.relaxations import Sign
        >>> loss, z = Greedy(num_classes=2, nbit=2, bias=False), torch.tensor([[2.0, -1.0]])
        >>> output = Output.of(z, Sign()(z), centers=torch.eye(2))
        >>> terms = loss(output, Batch.of(torch.tensor([0]), num_classes=2))
        >>> {name: round(term.item(), 4) for name, term in terms.items()}
        {'cross_entropy': 0.1269, 'penalty': 0.5}
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
        penalty = self.penalty * distance_from_bits(output.z, self.power)
        return {**super().forward(output, batch), "penalty": penalty}


def distance_from_bits(z: Tensor, power: float) -> Tensor:
    """Compute the mean of ``| |z| - 1 | ** power`` over all entries of codes (N, K)."""
    return ((z.abs() - 1).abs() ** power).mean()
