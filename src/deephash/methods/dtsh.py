"""DTSH. Wang et al., "Deep Supervised Hashing with Triplet Labels", ACCV 2016."""

from typing import ClassVar, Literal

from torch import nn
from torch.nn import functional as F

from deephash.losses.labels import similar
from deephash.losses.quantization import quantization
from deephash.types import Batch, Output, Terms
from deephash.utils.bounds import NonNegative


class TripletLikelihood(nn.Module):
    r"""Likelihood that codes are closer to similar than to dissimilar codes, and quantization.

    .. math:: l_i = \mathrm{mean}_{p, q} \log(1 + e^{-\tau_{ipq}}), \qquad
              \tau_{ipq} = \theta_{ip} - \theta_{iq} - \alpha, \qquad
              \theta_{ij} = \langle u_i, u_j \rangle

    The mean is over all p similar and q dissimilar to i in the batch (i is similar to itself); the
    loss is the mean of l_i over the anchors i that have both, or 0 if there are none. tau is
    clamped to [-100, 50]; outside of this range the gradient is 0. The memory grows with the cube
    of the batch size. Reads ``u`` (N, K).

    Args:
        nbit: number of bits K.
        margin: alpha; 5 in the comparisons of OrthoHash, ``nbit/2`` (K / 2) in the paper.
        half: whether theta is half the inner product, as in the paper.
        quantization: weight of the mean squared distance of the code from its signs.

    Example:
        >>> import torch
        >>> loss = TripletLikelihood(nbit=2, margin=0)
        >>> output = Output.of(torch.tensor([[1.0, 1.0], [1.0, 1.0], [-1.0, -1.0]]))
        >>> terms = loss(output, Batch.of(torch.tensor([0, 0, 1]), num_classes=2))
        >>> round(terms["triplet"].item(), 4)  # log(1 + e^-4)
        0.0181
    """

    needs: ClassVar[frozenset[str]] = frozenset({"u"})

    def __init__(
        self,
        nbit: int,
        margin: NonNegative | Literal["nbit/2"] = 5.0,
        half: bool = False,
        quantization: NonNegative = 1.0,
    ) -> None:
        super().__init__()
        self.margin = nbit / 2 if margin == "nbit/2" else float(margin)
        self.factor = 0.5 if half else 1.0
        self.quantization = quantization

    def forward(self, output: Output, batch: Batch) -> Terms:
        u = output.u
        theta = self.factor * u @ u.T
        s = similar(batch.targets, batch.targets)
        tau = (theta[:, :, None] - theta[:, None, :] - self.margin).clamp(-100, 50)  # (i, p, q)
        triplets = s[:, :, None] & ~s[:, None, :]
        count = triplets.sum(dim=(1, 2))
        per_anchor = (F.softplus(-tau) * triplets).sum(dim=(1, 2)) / count.clamp(min=1)
        return {
            "triplet": per_anchor.sum() / (count > 0).sum().clamp(min=1),
            "quantization": self.quantization * quantization(u, "l2"),
        }
