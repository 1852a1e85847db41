"""Large-margin cosine loss: CosFace (Wang et al., CVPR 2018), used by RelaHash and OrthoHash."""

import math
from typing import ClassVar, Literal

from torch import Tensor, nn
from torch.nn import functional as F

from deephash.bounds import NonNegative, Positive
from deephash.losses.labels import even_target
from deephash.losses.quantization import Form, divergence, quantization
from deephash.records import Batch, Output, Terms


class LMCL(nn.Module):
    r"""Cross-entropy over similarities, the true class held back by a margin. CosFace, Eq. (4).

    .. math:: L = -\log \frac{e^{s(\cos\theta_y - m)}}
                            {e^{s(\cos\theta_y - m)} + \sum_{j \ne y} e^{s\cos\theta_j}}

    RelaHash, Eq. (9), is the same over its relative similarities, with beta for s. With several
    labels the target is spread evenly over them and each bears the margin. A row without labels
    contributes 0 to the mean.

    Args:
        num_classes: C.
        nbit: K.
        scale: s, beta in RelaHash; ``sqrt_nbit`` is the square root of K (OrthoHash), ``adaptive``
            is sqrt(2) ln(C - 1), of three classes at least (AdaCos; the ablation of OrthoHash's
            supplement).
        margin: m.
        quantization: weight of a quantization term beside it. RelaHash's Table 4 says "the same
            loss" for all methods, read here as without the terms of their own.
        quantization_form: ``cosine``, ``l1``, ``l2``, ``l3`` or ``log_cosh``; ``divergence`` is
            that of JMLH, of z.
        quantization_of: ``z``, or the relaxed code ``u``.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"logits"})

    def __init__(
        self,
        num_classes: int,
        nbit: int,
        scale: Positive | Literal["sqrt_nbit", "adaptive"],
        margin: NonNegative,
        quantization: NonNegative = 0.0,
        quantization_form: Form | Literal["divergence"] = "cosine",
        quantization_of: Literal["z", "u"] = "z",
    ) -> None:
        super().__init__()
        if scale == "sqrt_nbit":
            scale = math.sqrt(nbit)
        elif scale == "adaptive":
            scale = math.sqrt(2) * math.log(max(num_classes - 1, 2))
        self.scale = float(scale)
        self.margin = margin
        self.quantization = quantization
        self.quantization_form = quantization_form
        self.quantization_of = quantization_of

    def forward(self, output: Output, batch: Batch) -> Terms:
        terms = {"lmcl": self.classification(self.held_back(output, batch), batch.targets)}
        if self.quantization:
            terms["quantization"] = self.quantization * self.gap(output)
        return terms

    def classification(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The loss of logits ``(N, C)`` whose margin is taken off."""
        return F.cross_entropy(logits, even_target(targets))

    def gap(self, output: Output) -> Tensor:
        """The quantization term before its weight."""
        if self.quantization_form == "divergence":
            return divergence(output.z)
        code = output.z if self.quantization_of == "z" else output.u
        return quantization(code, self.quantization_form)

    def held_back(self, output: Output, batch: Batch) -> Tensor:
        """The logits, those of the true classes lower by the margin: ``(N, C)``."""
        assert output.logits is not None  # promised by `needs`
        return self.scale * (output.logits - self.margin * batch.targets)
