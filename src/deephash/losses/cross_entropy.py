"""Cross-entropy of a linear classifier on the codes: the baseline of GreedyHash and JMLH."""

from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deephash.losses.labels import even_target, first_label
from deephash.types import Batch, Output, Terms


class CrossEntropy(nn.Module):
    r"""Softmax cross-entropy of the inner products of codes and class vectors.

    .. math:: L = -\frac1N \sum_n \sum_c P_{nc} \log \mathrm{softmax}_c(W u_n + \text{bias})

    W is the codebook; with one label, P is one-hot. Reads ``u`` (N, K) and ``centers`` (C, K).

    Args:
        num_classes: C.
        nbit: K.
        bias: whether each class has a bias.
        multi_label: ``even`` distributes the target evenly over the labels of an image (called
            label smoothing by OrthoHash, without an epsilon); ``first`` uses only the first label.
            A row without labels contributes 0 to the mean.

    Example:
        >>> loss = CrossEntropy(num_classes=2, nbit=2, bias=False)
        >>> output = Output.of(torch.tensor([[1.0, -1.0]]), centers=torch.eye(2))
        >>> terms = loss(output, Batch.of(torch.tensor([0]), num_classes=2))
        >>> round(terms["cross_entropy"].item(), 4)  # log(1 + e^-2)
        0.1269
    """

    needs: ClassVar[frozenset[str]] = frozenset({"u", "centers"})
    batch_coupled: ClassVar[bool] = False

    def __init__(
        self,
        num_classes: int,
        nbit: int,
        bias: bool = True,
        multi_label: Literal["even", "first"] = "even",
    ) -> None:
        super().__init__()
        self.bias: nn.Parameter | None = None
        if bias:  # initialized as in nn.Linear
            self.bias = nn.Parameter(torch.empty(num_classes).uniform_(-(nbit**-0.5), nbit**-0.5))
        self.multi_label = multi_label

    def forward(self, output: Output, batch: Batch) -> Terms:
        return {"cross_entropy": self.classification(output.u, output, batch)}

    def classification(self, code: Tensor, output: Output, batch: Batch) -> Tensor:
        """Return the cross-entropy of codes (N, K): a scalar."""
        logits = F.linear(code, output.require("centers"), self.bias)  # (N, C)
        target_of = even_target if self.multi_label == "even" else first_label
        return F.cross_entropy(logits, target_of(batch.targets))
