"""NSH, IJCAI 2022.

Yu et al., "Learning to Hash Naturally Sorts".
"""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deephash.losses.quantization import quantization
from deephash.methods.base import Method
from deephash.models.encoder import Encoder
from deephash.types import Batch, Terms
from deephash.utils.bounds import Count, Interval, NonNegative, Positive

Latent = Annotated[int, Interval(1, 65536)]


class NSH(Method):
    r"""Contrastive loss in which the images nearest by their codes are the positives.

    .. math:: s_{ij} = \frac{b^1_i \cdot b^2_j}{2 K} + \frac12, \qquad
              P_i[r, k] = \operatorname{softmax}_k\!\left(
              -\frac{|s_{i(r)} - s_{ik}|^p}{\tau_s} \right), \qquad
              c_{ir} = \Big( \sum_k P_i[r, k]\, l^1_k \Big) \cdot l^2_i

    Codes are b = tanh(z), latents l = W' x + c' of unit length, upper indices are views, and
    :math:`s_{i(r)}` is the r-th largest score of image i. The first m ranks are positives, all
    other ranks are negatives:

    .. math:: L = \frac1m \sum_{r < m} \frac1B \sum_i \ell(c_{ir}, c_{im}, \dots, c_{i,B-1})
              + \frac{q}{B K} \sum_{ik} (|b_{ik}| - 1)^2

    No code of the authors is known; formulas, constants and deviations are those of SDC's
    repository. Scores compare the codes of view 1 with those of view 2, and the ranks weight
    latents of view 1; the other direction is not used. Labels are not read.

    Args:
        encoder: encoder whose head returns z; its signs are the bits.
        nbit: number of bits K.
        latent: dimension of l.
        positives: m. A batch must have more images; a shorter last batch (``trainer.drop_last=
            false``) has B - 1 positives, and a single image contributes 0.
        quantization: weight q.
        temperature: tau of the contrastive loss.
        sort_temperature: tau_s; ``1/nbit`` is 1 / K.
        power: p.
        double_softmax: true: the cross-entropy takes the probabilities softmax(c / tau) as logits,
            which keeps the loss near that of uniform predictions, as in SDC's repository. False:
            it takes c / tau (InfoNCE), which was probably intended.

    Example:
        >>> encoder = Encoder(nn.Identity(), nn.Linear(4, 8))
        >>> encoder.backbone.out_features = 4
        >>> method = NSH(encoder, nbit=8, latent=16)
        >>> images = torch.randn(5, 2, 4)  # five images in two views, of four features each
        >>> list(method(Batch(images, None, torch.arange(5))))
        ['contrast', 'quantization']
    """

    views: ClassVar[int] = 2
    labels: ClassVar[bool] = False
    cached_features: ClassVar[bool] = True

    def __init__(
        self,
        encoder: Encoder,
        nbit: int,
        latent: Latent = 1024,
        positives: Count = 2,
        quantization: NonNegative = 1.0,
        temperature: Positive = 0.3,
        sort_temperature: Positive | Literal["1/nbit"] = "1/nbit",
        power: Positive = 1.0,
        double_softmax: bool = True,
    ) -> None:
        super().__init__(encoder)
        width: Any = encoder.backbone.out_features
        self.latent = nn.Linear(width, latent)
        self.positives = positives
        self.quantization = quantization
        self.temperature = temperature
        self.sort_temperature = (
            1 / nbit if sort_temperature == "1/nbit" else float(sort_temperature)
        )
        self.power = power
        self.double_softmax = double_softmax

    @staticmethod
    def smallest_batch_of(options: Mapping[str, Any]) -> int:
        """Return the smallest number of images of a training batch."""
        return int(options.get("positives", 2)) + 1

    def forward(self, batch: Batch) -> Terms:
        features, z = self.encode(batch)  # (2 B, D), (2 B, K)
        with torch.autocast(z.device.type, enabled=False):
            codes = torch.tanh(z.float())
            latents = F.normalize(self.latent(features.float()))
            similarities = similarity_by_rank(
                codes, latents, self.sort_temperature, self.power
            )  # (B, B)
            contrast = rank_contrast(
                similarities, self.positives, self.temperature, self.double_softmax
            )
            terms = {"contrast": contrast}
            if self.quantization:
                terms["quantization"] = self.quantization * quantization(codes, "l2")
            return terms


def soft_sort(scores: Tensor, temperature: float, power: float = 1.0) -> Tensor:
    """Compute a soft permutation matrix (..., n, n) that sorts scores in descending order.

    Row r weights each score by its distance from the r-th largest: SoftSort (Prillo and
    Eisenschlos, ICML 2020), Eq. (2). The gradient flows through the sorted scores as well.

    Args:
        scores: (..., n).
        temperature: tau.
        power: exponent p of the distance.

    Example:
        >>> soft_sort(torch.tensor([0.9, 0.1, 0.5]), 0.25)[0].round(decimals=4)
        tensor([0.8047, 0.0328, 0.1625])
    """
    ordered = scores.sort(dim=-1, descending=True, stable=True).values
    distances = (ordered[..., :, None] - scores[..., None, :]).abs()
    if power != 1:
        distances = distances**power
    return torch.softmax(-distances / temperature, dim=-1)


def similarity_by_rank(
    codes: Tensor, latents: Tensor, temperature: float, power: float = 1.0
) -> Tensor:
    """Compute the similarity c (B, B) of each image to its r-th nearest image by a soft ranking.

    Args:
        codes: b, (2 B, K), all images of view 1, then all of view 2.
        latents: l, (2 B, L), in the same order.
        temperature: tau_s.
        power: p.
    """
    b1, b2 = codes.chunk(2)
    l1, l2 = latents.chunk(2)
    scores = b1 @ b2.T / (2 * codes.shape[1]) + 0.5  # s_ij, of image i in view 1
    similarities = l2 @ l1.T  # l^2_i . l^1_k
    permutations = soft_sort(scores, temperature, power)  # (B, B, B)
    return (permutations @ similarities[:, :, None]).squeeze(2)


def rank_contrast(
    similarities: Tensor, positives: int, temperature: float, double_softmax: bool
) -> Tensor:
    """Compute the mean cross-entropy of each of the first m ranks against all ranks after them.

    Args:
        similarities: c, (B, B), the nearest rank of each image first.
        positives: m; at most B - 1 are used.
        temperature: tau.
        double_softmax: see `NSH`.
    """
    count = min(positives, len(similarities) - 1)
    if not count:
        return 0 * similarities.sum()
    negatives = similarities[:, count:]
    rows = [torch.cat([similarities[:, r : r + 1], negatives], dim=1) for r in range(count)]
    logits = torch.cat(rows) / temperature  # (m B, 1 + B - m), the positive first
    if double_softmax:
        logits = torch.softmax(logits, dim=1)
    return -torch.log_softmax(logits, dim=1)[:, 0].mean()
