"""OrthoHash, NeurIPS 2021.

Hoe et al., "One Loss for All: Deep Hashing with a Single Cosine Similarity based Learning
Objective".
"""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from deephash.losses.labels import labelled
from deephash.losses.lmcl import LMCL
from deephash.losses.quantization import QuantizationForm
from deephash.types import Batch, Output
from deephash.utils.bounds import NonNegative, Positive


class SingleCosine(LMCL):
    r"""LMCL with a margin on the cosine or the angle, and the terms of the paper's ablations.

    .. math:: L_{nc} = s (\cos\theta_{nc} - m Y_{nc}) \quad \text{or} \quad
              L_{nc} = s \cos(\theta_{nc} + m Y_{nc})

    The loss is the softmax cross-entropy of L; ``multi_label`` selects alternatives for several
    labels. Reads ``logits`` (N, C), the cosines; the quantization term reads ``z`` (N, K).

    Args:
        num_classes: number of classes C.
        nbit: number of bits K.
        scale: s; ``sqrt_nbit``, ``adaptive`` or a number.
        margin: m.
        margin_on: ``cosine`` (OrthoCos), or ``angle`` (OrthoArc): the cosine is clamped to
            [-0.99999, 0.99999], outside of which the gradient is 0, and theta + m may exceed pi.
        multi_label: ``softmax``: the target is distributed evenly over the labels. ``bce``: a
            logistic loss for each class. ``imbalance``: a logistic loss in which classes that are
            absent and not predicted (probability below 0.7) have weight 1 / C.
        quantization: weight of the quantization term.
        quantization_form: ``cosine``: 1 - cos(z, sign z); ``l1`` and ``l2`` of z - sign z; or
            another form of LMCL.

    Example:
        >>> loss = SingleCosine(num_classes=2, nbit=4, margin=0)  # scale sqrt(4)
        >>> output = Output.of(torch.ones(1, 4), logits=torch.tensor([[1.0, 0.0]]))
        >>> terms = loss(output, Batch.of(torch.tensor([0]), num_classes=2))
        >>> round(terms["lmcl"].item(), 4)  # log(1 + e^-2)
        0.1269
    """

    def __init__(
        self,
        num_classes: int,
        nbit: int,
        scale: Positive | Literal["sqrt_nbit", "adaptive"] = "sqrt_nbit",
        margin: NonNegative = 0.2,
        margin_on: Literal["cosine", "angle"] = "cosine",
        multi_label: Literal["softmax", "bce", "imbalance"] = "softmax",
        quantization: NonNegative = 0.0,
        quantization_form: QuantizationForm = "cosine",
    ) -> None:
        super().__init__(num_classes, nbit, scale, margin, quantization, quantization_form)
        self.margin_on = margin_on
        self.multi_label = multi_label

    def margin_logits(self, output: Output, batch: Batch) -> Tensor:
        if self.margin_on == "cosine":
            return super().margin_logits(output, batch)
        theta = torch.acos(output.require("logits").clamp(-0.99999, 0.99999))
        return self.scale * torch.cos(theta + self.margin * batch.targets)

    def classification(self, logits: Tensor, targets: Tensor) -> Tensor:
        if self.multi_label == "softmax":
            return super().classification(logits, targets)
        loss = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
        weight = labelled(targets).expand_as(targets)
        if self.multi_label == "bce":
            return (weight * loss).mean()
        present, predicted = targets > 0, logits.detach().sigmoid() >= 0.7
        weight = weight * torch.where(present | predicted, 1.0, 1 / targets.shape[1])
        return (weight * loss).sum() / (weight.sum() + 1e-7)
