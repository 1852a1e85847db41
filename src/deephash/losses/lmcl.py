"""Large-margin cosine loss: CosFace (Wang et al., CVPR 2018), used by RelaHash and OrthoHash."""

from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from deephash.records import Batch, Output, Terms


class LMCL(nn.Module):
    r"""Cross-entropy over similarities, the true class held back by a margin. CosFace, Eq. (4).

    .. math:: L = -\log \frac{e^{s(\cos\theta_y - m)}}
                            {e^{s(\cos\theta_y - m)} + \sum_{j \ne y} e^{s\cos\theta_j}}

    RelaHash, Eq. (9), is the same over its relative similarities, with beta for s. With several
    labels the target is spread evenly over them and each bears the margin. A row without labels
    contributes 0 to the mean.

    Args:
        scale: s, beta in RelaHash.
        margin: m.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"logits"})

    def __init__(self, scale: float, margin: float) -> None:
        super().__init__()
        self.scale = scale
        self.margin = margin

    def forward(self, output: Output, batch: Batch) -> Terms:
        assert output.logits is not None  # promised by `needs`
        held_back = output.logits - self.margin * batch.targets  # (N, C)
        return {"lmcl": F.cross_entropy(self.scale * held_back, even_target(batch.targets))}


def even_target(targets: Tensor) -> Tensor:
    """Multi-hot rows ``(N, C)`` as distributions: even over the labels; an empty row stays 0."""
    return targets / targets.sum(dim=1, keepdim=True).clamp(min=1)
