"""Large-margin cosine loss: CosFace (Wang et al., CVPR 2018), used by RelaHash and OrthoHash."""

import math
from typing import ClassVar, Literal

from torch import Tensor, nn
from torch.nn import functional as F

from deephash.losses.labels import even_target
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
            is sqrt(2) ln(C - 1) (AdaCos; the ablation of OrthoHash's supplement).
        margin: m.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"logits"})

    def __init__(
        self,
        num_classes: int,
        nbit: int,
        scale: float | Literal["sqrt_nbit", "adaptive"],
        margin: float,
    ) -> None:
        super().__init__()
        if scale == "sqrt_nbit":
            scale = math.sqrt(nbit)
        elif scale == "adaptive":
            scale = math.sqrt(2) * math.log(max(num_classes - 1, 2))
        self.scale = float(scale)
        self.margin = margin

    def forward(self, output: Output, batch: Batch) -> Terms:
        return {"lmcl": F.cross_entropy(self.held_back(output, batch), even_target(batch.targets))}

    def held_back(self, output: Output, batch: Batch) -> Tensor:
        """The logits, those of the true classes lower by the margin: ``(N, C)``."""
        assert output.logits is not None  # promised by `needs`
        return self.scale * (output.logits - self.margin * batch.targets)
