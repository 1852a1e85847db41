"""HyP2, ACM MM 2022.

Xu et al., "HyP2 Loss: Beyond Hypersphere Metric Space for Multi-label Image Retrieval".
"""

from typing import Annotated, ClassVar, Literal

import torch
from torch import nn
from torch.nn import functional as F

from deephash.errors import ConfigError
from deephash.losses.labels import labelled, similar
from deephash.models.codebooks import Learned
from deephash.types import Batch, Output, Terms
from deephash.utils.bounds import Interval, NonNegative

BEST_DISTANCES = {
    12: (12, 8, 6, 6, 4, 4, 4, 3),
    16: (16, 10, 8, 8, 8, 6, 6, 5),
    24: (24, 16, 13, 12, 12, 10, 10, 8),
    32: (32, 21, 18, 16, 16, 16, 14, 13),
    36: (36, 24, 20, 18, 17, 16, 16, 16),
    48: (48, 32, 27, 24, 24, 24, 22, 22),
    64: (64, 42, 36, 33, 32, 32, 32, 29),
}
"""Largest known minimum distance of a linear [K, k] code for k = 1 to 8: the authors' table."""

MAX_DIMENSION = 12
"""Largest dimension of the codes from which others are derived: that of the Golay code."""


class Proxies(Learned):
    r"""Trainable centers, initialized from N(0, 2 / C): Kaiming-normal over the fan-out.

    Args:
        num_classes: number of classes C.
        nbit: number of bits K.
        seed: seed of the initial values.

    Example:
        >>> proxies = Proxies(num_classes=200, nbit=100, seed=0)()
        >>> round(proxies.std().item(), 2), proxies.requires_grad  # sqrt(2 / 200)
        (0.1, True)
    """

    def __init__(self, num_classes: int, nbit: int, seed: int) -> None:
        super().__init__(num_classes, nbit, seed)
        with torch.no_grad():
            self.rows.mul_((2 / num_classes) ** 0.5)


class HyP2(nn.Module):
    r"""Attraction of codes to the proxies of their labels, repulsion from others and in pairs.

    .. math:: L = \frac{\sum_{nc} Y_{nc} (1 - S_{nc})}{\sum_{nc} Y_{nc}}
              + \frac{\sum_{nc} (1 - Y_{nc}) \max(0, S_{nc} - \zeta)}{\sum_{nc} (1 - Y_{nc})}
              + \beta \, \mathrm{mean}_{(i, j) \in I} \max(0, \cos(u_i, u_j) - \zeta)

    S is the cosine of code and proxy. I contains the ordered pairs of images that have more than
    one label each and none in common; without such a pair, as in every batch of images with one
    label, the third term is 0. Images without a label have no negative proxies.

    Args:
        num_classes: number of classes C.
        nbit: number of bits K.
        zeta: cosine above which unrelated codes are penalized. ``linear_code`` is 1 - 2 d / K,
            where d is the largest known minimum distance of a binary linear code of length K with
            at least C codewords (dimension k, the base-2 logarithm of C rounded up). d is taken
            from the authors' table for K = 12, 16, 24, 32, 36, 48 and 64 and k up to 8; otherwise
            it is derived from this table and classical codes, if it reaches the Griesmer bound.
        irrelevant: beta, weight of the third term.

    Raises:
        ConfigError: with ``zeta=linear_code``, if d is not known or C exceeds 2^K.

    Example:
        >>> loss = HyP2(num_classes=21, nbit=48)
        >>> loss.zeta  # the [48, 5, 24] code
        0.0
        >>> logits = torch.full((1, 21), -1.0).index_fill(1, torch.tensor([3]), 1.0)
        >>> output = Output.of(torch.ones(1, 48), logits=logits)
        >>> terms = loss(output, Batch.of(torch.tensor([3]), num_classes=21))
        >>> {name: term.item() for name, term in terms.items()}
        {'positive': 0.0, 'negative': 0.0, 'irrelevant': 0.0}
    """

    needs: ClassVar[frozenset[str]] = frozenset({"u", "logits"})

    def __init__(
        self,
        num_classes: int,
        nbit: int,
        zeta: Annotated[float, Interval(-1, 1)] | Literal["linear_code"] = "linear_code",
        irrelevant: NonNegative = 0.5,
    ) -> None:
        super().__init__()
        self.zeta = linear_zeta(num_classes, nbit) if zeta == "linear_code" else float(zeta)
        self.irrelevant = irrelevant

    def forward(self, output: Output, batch: Batch) -> Terms:
        s, present = output.require("logits"), batch.targets  # (N, C)
        absent = labelled(present) * (1 - present)
        far = F.relu(s - self.zeta)
        terms = {
            "positive": (present * (1 - s)).sum() / present.sum().clamp(min=1),
            "negative": (absent * far).sum() / absent.sum().clamp(min=1),
        }
        if self.irrelevant:
            multi_label = present.sum(dim=1) > 1
            pairs = multi_label[:, None] & multi_label & ~similar(present, present)  # I, (N, N)
            code = F.normalize(output.u)
            excess = F.relu(code @ code.T - self.zeta)
            terms["irrelevant"] = (
                self.irrelevant * (pairs * excess).sum() / pairs.sum().clamp(min=1)
            )
        return terms


def linear_zeta(num_classes: int, nbit: int) -> float:
    """Return the zeta of ``linear_code``: the largest cosine of two words of the best known code.

    Raises:
        ConfigError: the distance of the best code is not known, or C exceeds 2^K.

    >>> round(linear_zeta(num_classes=80, nbit=16), 3)
    0.25
    """
    dimension = max(1, (num_classes - 1).bit_length())  # k, the base-2 logarithm rounded up
    if dimension > nbit:
        raise ConfigError(
            f"method.loss.zeta  {nbit} bits have fewer codewords than there are classes"
            f" ({num_classes}).\n                  Type a number, or use more bits:"
            f" model.nbit={dimension}."
        )
    known, bound = best_distance(nbit, dimension)
    if dimension <= len(BEST_DISTANCES.get(nbit, ())) or known == bound:
        return 1 - 2 * known / nbit
    low, high = 1 - 2 * bound / nbit, 1 - 2 * known / nbit
    raise ConfigError(
        f"method.loss.zeta  the best linear [{nbit}, {dimension}] code is not in the table; its"
        f" zeta is between {low:.3f} and {high:.3f}.\n                  Type a number:"
        f" method.loss.zeta={high:.3f}."
    )


def best_distance(nbit: int, dimension: int) -> tuple[int, int]:
    """Return bounds of the largest minimum distance d of a binary linear [K, k] code.

    Args:
        nbit: K.
        dimension: k, at most K.

    Returns:
        the distance of a known code, and the Griesmer bound, the largest d for which the sum of
        d / 2^i, rounded up, over i = 0 to k - 1 is at most K.

    >>> best_distance(23, 4)
    (12, 12)
    """
    bound = nbit
    while sum(-(-bound // 2**i) for i in range(dimension)) > nbit:
        bound -= 1
    if dimension <= 4:  # codes that reach the bound exist
        return bound, bound
    return _derived_distance(nbit, dimension), bound


def _derived_distance(nbit: int, dimension: int) -> int:
    """Return the distance of the best [K, k] code derived from known ones, by decreasing k."""
    last = nbit + MAX_DIMENSION + 1
    above = [0] * (last + 2)  # by length, the best distance of dimension k + 1
    for k in range(max(dimension, MAX_DIMENSION), dimension - 1, -1):
        best = [max(above[n], above[n + 1]) for n in range(last + 1)]  # subcode, shortened code
        # simplex, Reed-Muller, trivial and parity code
        known = {2**k - 1: 2 ** (k - 1), 2 ** (k - 1): 2 ** (k - 2), k: 1, k + 1: 2}
        if k == 12:
            known[24] = 8  # Golay code
        known |= {n: row[k - 1] for n, row in BEST_DISTANCES.items() if k <= len(row)}
        for n, d in known.items():
            if n <= last:
                best[n] = max(best[n], d)
        before: list[int] = []
        while best != before:
            before = list(best)
            for n in range(last, k, -1):
                best[n - 1] = max(best[n - 1], best[n] - 1)  # puncture: remove a bit
            for n in range(k, last):
                best[n + 1] = max(best[n + 1], best[n] + best[n] % 2)  # add a parity bit
            for n in range(2 * k, last + 1):  # juxtapose two codes
                best[n] = max(best[n], *(best[m] + best[n - m] for m in range(k, n // 2 + 1)))
        above = [*best, 0]
    return above[nbit]
