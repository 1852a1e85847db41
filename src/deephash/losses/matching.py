"""Matching of code cosines with feature cosines: UGH and Bi-half."""

from typing import ClassVar, Literal

from torch import Tensor, nn
from torch.nn import functional as F

from deephash.losses.contrastive import position_pairs
from deephash.types import Batch, Output, Terms


class CosineMatching(nn.Module):
    r"""Mean squared difference between the cosines of codes and of features over pairs of images.

    .. math:: L = \frac1P \sum_p \left( \cos(b_{a_p}, b_{b_p}) - \cos(x_{a_p}, x_{b_p}) \right)^2

    The first half of the batch is paired with the second half (``position_pairs``); the last row of
    an odd batch is not used, and the loss of a single image is 0. The features are detached. Labels
    are not used. Unsupervised GreedyHash (NeurIPS 2018), Bi-half (AAAI 2021). Reads ``u`` (N, K)
    and ``features`` (N, D).

    Args:
        target: ``raw``: the cosine of the unchanged features, which is nonnegative after a ReLU,
            while that of codes is in [-1, 1]. ``centered``: the mean of the batch is first
            subtracted from the features (not in the papers; motivated by Bi-half's issue 4).

    Example:
        >>> import torch
        >>> b = torch.tensor([[1.0, 1.0], [1.0, -1.0]])  # a pair with cosine 0
        >>> x = torch.tensor([[1.0, 0.0], [1.0, 0.0]])  # a pair with cosine 1
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
    """Return the cosine of each pair of ``position_pairs``: (N, K) -> (P,).

    The cosine is 0 if one row of the pair is zero.
    """
    return F.cosine_similarity(*position_pairs(rows, views))
