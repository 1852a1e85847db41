"""CSQ, CVPR 2020.

Yuan et al., "Central Similarity Quantization for Efficient Image and Video Retrieval".
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deephash.losses.labels import labelled, similar, tie_vector, vote
from deephash.losses.quantization import quantization
from deephash.types import Batch, Output, Terms
from deephash.utils.bounds import NonNegative


class CentralSimilarity(nn.Module):
    r"""Binary cross-entropy of tanh codes against each image's center, and quantization.

    .. math:: t_n = \mathrm{sign} \sum_c Y_{nc} c_c, \qquad
              L_C = \frac1{NK} \sum_{nk} \log(1 + e^{-2 t_{nk} z_{nk}}), \qquad
              L_Q = \frac1{NK} \sum_{nk} (|\tanh z_{nk}| - 1)^2

    L_C is the cross-entropy of (1 + tanh z) / 2 in a form that cannot overflow, so the tanh is part
    of the loss. The target t of an image with several labels is the majority vote of its centers; a
    random vector breaks ties. Reads ``z`` (N, K) and ``centers`` (C, K) of -1 and +1.

    Args:
        nbit: number of bits K.
        seed: seed of the vector that breaks ties.
        quantization: lambda, weight of L_Q.
        quantization_form: ``l2``: as in all implementations. ``log_cosh``: as in the paper, but
            averaged over the bits instead of summed, so lambda is K times the paper's.
        pairwise: weight of a likelihood over pairs of the first and the second half of the batch,
            with theta = 10 / K times the inner product of the tanh codes. It is in the authors'
            code, with weight 0 in all published commands.

    Example:
        >>> from deephash.models.codebooks import Hadamard
        >>> centers = Hadamard(num_classes=4, nbit=8, seed=0)()
        >>> loss = CentralSimilarity(nbit=8, seed=0)
        >>> output = Output.of(20 * centers[[3]], centers=centers)  # saturated correct bits
        >>> terms = loss(output, Batch.of(torch.tensor([3]), num_classes=4))
        >>> {name: round(term.item(), 4) for name, term in terms.items()}
        {'central': 0.0, 'quantization': 0.0}
    """

    needs: ClassVar[frozenset[str]] = frozenset({"z", "centers"})
    fixed_centers: ClassVar[bool] = True  # only their signs are read, so they have no gradient
    ties: Tensor  # (K,)

    def __init__(
        self,
        nbit: int,
        seed: int,
        quantization: NonNegative = 0.001,
        quantization_form: Literal["l2", "log_cosh"] = "l2",
        pairwise: NonNegative = 0.0,
    ) -> None:
        super().__init__()
        self.quantization = quantization
        self.quantization_form = quantization_form
        self.pairwise = pairwise
        self.register_buffer("ties", tie_vector(nbit, seed))

    @staticmethod
    def batch_coupled_of(options: Mapping[str, Any]) -> bool:
        """Return whether images of a batch are compared with each other."""
        return bool(options.get("pairwise"))

    def forward(self, output: Output, batch: Batch) -> Terms:
        z, targets = output.z, batch.targets
        code = torch.tanh(z)
        target_bits = vote(targets, output.require("centers"), self.ties.to(z.dtype))  # (N, K)
        terms = {
            "central": (labelled(targets) * F.softplus(-2 * target_bits * z)).mean(),
            "quantization": self.quantization * quantization(code, self.quantization_form),
        }
        if self.pairwise:
            half = len(z) // 2
            theta = 10 / z.shape[1] * code[:half] @ code[half:].T
            s = similar(targets[:half], targets[half:])
            likelihood = (F.softplus(theta) - s * theta).sum() / max(theta.numel(), 1)
            terms["pairwise"] = self.pairwise * likelihood
        return terms
