"""Match the cosines of codes with those of the backbone's features: UGH and Bi-half."""

from typing import ClassVar, Literal

from torch import Tensor, nn
from torch.nn import functional as F

from deephash.losses.contrastive import position_pairs
from deephash.types import Batch, Output, Terms


class CosineMatching(nn.Module):
    r"""Squared difference between the cosines of bits and of features, over pairs of images.

    .. math:: L = \frac1P \sum_p \left( \cos(b_{a_p}, b_{b_p}) - \cos(x_{a_p}, x_{b_p}) \right)^2

    Pairs are formed by position, the first half of the batch with the second (``position_pairs``);
    the last row of an odd batch is in none. The features are detached. A batch of one image has no
    pair, and its loss is 0. No label is read. Unsupervised GreedyHash (NeurIPS 2018), Bi-half (AAAI
    2021). Reads ``u`` (N, K) and ``features`` (N, D).

    Args:
        target: ``raw``: the cosine of the features as they are, which is not negative after a ReLU
            while that of codes is in [-1, 1]. ``centered``: the mean of the batch is subtracted
            from the features first (an option of ours, after Bi-half's issue 4).

    Example:
        >>> import torch
        >>> b = torch.tensor([[1.0, 1.0], [1.0, -1.0]])  # a pair of cosine 0
        >>> x = torch.tensor([[1.0, 0.0], [1.0, 0.0]])  # of cosine 1
        >>> terms = CosineMatching()(Output.of(b, features=x), Batch.of(None))
        >>> terms["matching"].item()
        1.0
    """

    needs: ClassVar[frozenset[str]] = frozenset({"u", "features", "bits"})
    views: ClassVar[int] = 1
    labels: ClassVar[bool] = False

    def __init__(self, target: Literal["raw", "centered"] = "raw") -> None:
        super().__init__()
        self.target = target

    def forward(self, output: Output, batch: Batch) -> Terms:
        features = output.require("features").detach()
        if self.target == "centered":
            features = features - features.mean(dim=0)
        gap = pair_cosines(output.u) - pair_cosines(features)  # (P,)
        return {"matching": gap.square().sum() / max(len(gap), 1)}


def pair_cosines(rows: Tensor, views: int = 1) -> Tensor:
    """Compute the cosine of each pair by position: (N, K) -> (P,), see ``position_pairs``.

    That of a row of zeros with any other is 0.
    """
    one, other = position_pairs(rows, views)
    return F.cosine_similarity(one, other)
