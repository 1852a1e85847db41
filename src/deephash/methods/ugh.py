"""Unsupervised GreedyHash, NeurIPS 2018.

Su et al., "Greedy Hash: Towards Fast Optimization for Accurate Hash Coding in CNN".
"""

from typing import ClassVar, Literal

from deephash.losses.matching import CosineMatching
from deephash.methods.greedyhash import distance_from_bits
from deephash.types import Batch, Output, Terms
from deephash.utils.bounds import NonNegative, Positive


class UnsupervisedGreedy(CosineMatching):
    r"""Cosine matching of bits and features, and a penalty on the distance from bits.

    .. math:: L = \frac1P \sum_p \left( \cos(b_{a_p}, b_{b_p}) - \cos(x_{a_p}, x_{b_p}) \right)^2
              + \alpha \cdot \mathrm{mean} \, | |z| - 1 |^p

    The bits b and their straight-through gradient come from the relaxation ``sign``; the penalty
    reads the code before it. The last row of an odd batch is in no pair, but in the penalty. Reads
    ``z`` and ``u`` (N, K) and ``features`` (N, D), which are x and detached. Labels are not read.

    Args:
        target: ``raw`` or ``centered`` features; see `CosineMatching`.
        penalty: alpha.
        power: p.

    Example:
        >>> import torch
        >>> from deephash.models.relaxations import Sign
        >>> x = torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0], [1.0, 2.0]])
        >>> h = torch.tensor([[2.0, 1.0], [1.0, -1.0], [1.0, -2.0], [3.0, 1.0]])
        >>> output = Output.of(h, Sign()(h), features=x)
        >>> terms = UnsupervisedGreedy()(output, Batch.of(None))
        >>> {name: round(term.item(), 4) for name, term in terms.items()}
        {'matching': 0.45, 'penalty': 0.125}
    """

    needs: ClassVar[frozenset[str]] = frozenset({"z", "u", "features", "bits"})

    def __init__(
        self,
        target: Literal["raw", "centered"] = "raw",
        penalty: NonNegative = 0.1,
        power: Positive = 3.0,
    ) -> None:
        super().__init__(target)
        self.penalty = penalty
        self.power = power

    def forward(self, output: Output, batch: Batch) -> Terms:
        terms = dict(super().forward(output, batch))
        if self.penalty:
            terms["penalty"] = self.penalty * distance_from_bits(output.z, self.power)
        return terms
