"""Large-margin cosine loss of CosFace (Wang et al., CVPR 2018): RelaHash and OrthoHash."""

import math
from typing import ClassVar, Literal

from torch import Tensor, nn
from torch.nn import functional as F

from deephash.losses.labels import even_target
from deephash.losses.quantization import QuantizationForm, divergence, quantization
from deephash.types import Batch, Output, Terms
from deephash.utils.bounds import NonNegative, Positive


class LMCL(nn.Module):
    r"""Cross-entropy of similarities with a margin for the true class. CosFace, Eq. (4).

    .. math:: L = -\log \frac{e^{s(\cos\theta_y - m)}}
                            {e^{s(\cos\theta_y - m)} + \sum_{j \ne y} e^{s\cos\theta_j}}

    RelaHash, Eq. (9), is the same loss of relative similarities, with beta for s. With several
    labels, the target is distributed evenly over them and the margin applies to each. A row without
    labels contributes 0 to the mean. Reads ``logits`` (N, C), the similarities before scale and
    margin; the quantization term reads ``z`` or ``u`` (N, K).

    Args:
        num_classes: C.
        nbit: K.
        scale: s, beta in RelaHash. ``sqrt_nbit``: the square root of K (OrthoHash). ``adaptive``:
            sqrt(2) ln(max(C - 1, 2)) (AdaCos; ablation in OrthoHash's supplement).
        margin: m.
        quantization: weight of an additional quantization term. RelaHash's Table 4 uses "the same
            loss" for all methods, interpreted here as without their own terms.
        quantization_form: ``cosine``, ``l1``, ``l2``, ``l3`` or ``log_cosh``; ``divergence`` is
            the term of JMLH, of z.
        quantization_of: ``z``, or the relaxed code ``u``.

    Example:
        The loss of OrthoHash in your own loop; any network can produce the codes z (N, K):

        >>> import torch
        >>> from deephash.models.codebooks import MaxHamming
        >>> from deephash.models.similarities import Cosine
        >>> codebook, similarity = MaxHamming(num_classes=3, nbit=16, seed=0), Cosine()
        >>> loss = LMCL(num_classes=3, nbit=16, scale=8, margin=0.2)
        >>> z = codebook()[[0, 1, 1]].requires_grad_()  # codes equal to their centers
        >>> output = Output.of(z, logits=similarity(z, codebook()))
        >>> terms = loss(output, Batch.of(torch.tensor([0, 1, 1]), num_classes=3))
        >>> sum(terms.values()).backward()
        >>> terms["lmcl"].item() < 0.01, z.grad.shape
        (True, torch.Size([3, 16]))
    """

    needs: ClassVar[frozenset[str]] = frozenset({"logits"})
    batch_coupled: ClassVar[bool] = False

    def __init__(
        self,
        num_classes: int,
        nbit: int,
        scale: Positive | Literal["sqrt_nbit", "adaptive"],
        margin: NonNegative,
        quantization: NonNegative = 0.0,
        quantization_form: QuantizationForm | Literal["divergence"] = "cosine",
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
        logits = self.margin_logits(output, batch)
        terms = {"lmcl": self.classification(logits, batch.targets)}
        if self.quantization:
            terms["quantization"] = self.quantization * self.quantization_term(output)
        return terms

    def classification(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the cross-entropy of scaled logits with margin (N, C): a scalar."""
        return F.cross_entropy(logits, even_target(targets))

    def quantization_term(self, output: Output) -> Tensor:
        """Return the quantization term without its weight: a scalar."""
        if self.quantization_form == "divergence":
            return divergence(output.z)
        code = output.z if self.quantization_of == "z" else output.u
        return quantization(code, self.quantization_form)

    def margin_logits(self, output: Output, batch: Batch) -> Tensor:
        """Subtract the margin from the logits of the true classes, then scale: (N, C)."""
        return self.scale * (output.require("logits") - self.margin * batch.targets)
