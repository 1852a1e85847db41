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
    r"""Sort the images of a view by how near their codes are, and contrast the nearest.

    .. math:: s_{ij} = \frac{b^1_i \cdot b^2_j}{2 K} + \frac12, \qquad
              P_i[r, k] = \operatorname{softmax}_k\!\left(
              -\frac{|s_{i(r)} - s_{ik}|^p}{\tau_s} \right), \qquad
              c_{ir} = \Big( \sum_k P_i[r, k]\, l^1_k \Big) \cdot l^2_i

    Codes are b = tanh(z), latents l = W' x + c' of unit length, upper indices are views, and
    :math:`s_{i(r)}` is the r-th largest score of image i. Each of the m best ranks is a positive,
    all ranks beyond m are negatives:

    .. math:: L = \frac1m \sum_{r < m} \frac1B \sum_i \ell(c_{ir}, c_{im}, \dots, c_{i,B-1})
              + \frac{q}{B K} \sum_{ik} (|b_{ik}| - 1)^2

    No code of the authors is known: formulas, constants and oddities are those of SDC's repository.
    Scores compare the codes of view 1 with those of view 2, and the ranks gather latents of view 1;
    the other direction is not used. No label is read.

    Args:
        encoder: its head gives z, whose signs are the bits.
        nbit: K.
        latent: size of l.
        positives: m. A batch must have more images; a shorter last batch (``trainer.drop_last=
            false``) has B - 1 positives, and a single image contributes 0.
        quantization: weight q.
        temperature: tau of the contrast.
        sort_temperature: tau_s; ``1/nbit`` is 1 / K.
        power: p.
        double_softmax: true: the term of a rank is the cross-entropy of softmax(c / tau), as if
            these probabilities were logits again, which keeps it close to that of a guess; the only
            code there is. False: that of c / tau, which seems to be meant (InfoNCE).

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
        """Return the images that a training batch must have."""
        return int(options.get("positives", 2)) + 1

    def forward(self, batch: Batch) -> Terms:
        features, z = self.encode(batch)  # (2 B, D), (2 B, K)
        with torch.autocast(z.device.type, enabled=False):
            codes = torch.tanh(z.float())
            latents = F.normalize(self.latent(features.float()))
            similarities = ranked(codes, latents, self.sort_temperature, self.power)  # (B, B)
            contrast = contrast_of_ranks(
                similarities, self.positives, self.temperature, self.double_softmax
            )
            terms = {"contrast": contrast}
            if self.quantization:
                terms["quantization"] = self.quantization * quantization(codes, "l2")
            return terms


def soft_sort(scores: Tensor, temperature: float, power: float = 1.0) -> Tensor:
    """Relax the permutation that sorts scores (..., n), the largest first: (..., n, n).

    Row r has a weight for each score, by its distance from the r-th largest: SoftSort (Prillo and
    Eisenschlos, ICML 2020), Eq. (2). The gradient passes through the sorted scores as well.

    Args:
        scores: (..., n).
        temperature: tau.
        power: p, of the distance.

    Example:
        >>> soft_sort(torch.tensor([0.9, 0.1, 0.5]), 0.25)[0].round(decimals=4)
        tensor([0.8047, 0.0328, 0.1625])
    """
    ordered = scores.sort(dim=-1, descending=True, stable=True).values
    apart = (ordered[..., :, None] - scores[..., None, :]).abs()
    if power != 1:
        apart = apart**power
    return torch.softmax(-apart / temperature, dim=-1)


def ranked(codes: Tensor, latents: Tensor, temperature: float, power: float = 1.0) -> Tensor:
    """Compute how much the soft r-th nearest image of each image resembles it: c, (B, B).

    Args:
        codes: b, (2 B, K), all images of view 1, then all of view 2.
        latents: l, (2 B, L), in the same order.
        temperature: tau_s.
        power: p.
    """
    one, two = codes.chunk(2)
    scores = one @ two.T / (2 * codes.shape[1]) + 0.5  # s_ij, of image i in view 1
    first, second = latents.chunk(2)
    alike = second @ first.T  # l^2_i . l^1_k
    order = soft_sort(scores, temperature, power)  # (B, B, B)
    return (order @ alike[:, :, None]).squeeze(2)


def contrast_of_ranks(
    ranks: Tensor, positives: int, temperature: float, double_softmax: bool
) -> Tensor:
    """Average the cross-entropy of each of the best ranks against the ranks beyond them.

    Args:
        ranks: c, (B, B): of each image, the best rank first.
        positives: m; at most B - 1 are used.
        temperature: tau.
        double_softmax: see `NSH`.
    """
    count = min(positives, len(ranks) - 1)
    if not count:
        return 0 * ranks.sum()
    negatives = ranks[:, count:]
    rows = [torch.cat([ranks[:, r : r + 1], negatives], dim=1) for r in range(count)]
    logits = torch.cat(rows) / temperature  # (m B, 1 + B - m), the positive first
    if double_softmax:
        logits = torch.softmax(logits, dim=1)
    return -torch.log_softmax(logits, dim=1)[:, 0].mean()
