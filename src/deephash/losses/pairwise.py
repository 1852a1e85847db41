"""Likelihood of pairwise similarities: HashNet, DHN, DPSH and variants."""

from typing import ClassVar, Literal

from torch import Tensor, nn
from torch.nn import functional as F

from deephash.losses.labels import similar
from deephash.losses.memory import PairMemory
from deephash.losses.quantization import Form, quantization
from deephash.types import Batch, Output, Terms
from deephash.utils.bounds import NonNegative, Positive


class PairwiseLikelihood(nn.Module):
    r"""Negative log-likelihood of the pairwise similarities: which pairs of images share a label.

    .. math:: e_{ij} = \log(1 + e^{\theta_{ij}}) - s_{ij} \theta_{ij}, \qquad
              \theta_{ij} = \alpha \langle u_i, u_j \rangle

    DHN and DPSH add a quantization term, log cosh(|u| - 1) or its square. HashNet (ICCV 2017), DHN
    (AAAI 2016), DPSH (IJCAI 2016). Images are paired with themselves where the sources do so. A
    group of pairs that is empty contributes 0. Reads ``u`` (N, K).

    Args:
        num_train: number of training images, for the memory.
        nbit: K.
        num_classes: C.
        alpha: the factor; ``10/nbit`` is 10 / K.
        product: ``inner``; ``clipped``: the inner product cut to [-15, 15]; ``cosine``.
        pairs: ``batch``: all in the batch, each with itself as well. ``halves``: the first half of
            the batch with the second. ``memory``: the batch with the last codes of all training
            images, its own refreshed before; the gradient goes through the batch alone.
        weighting: of similar against dissimilar pairs, S1 and S0 of S in number. ``mean``: none.
            ``balanced``: mean over the similar plus mean over the dissimilar; HashNet's paper has
            the sum, weighted by S / S1 and S / S0, which is S times that. ``positives``: similar
            pairs count S / S1 times. ``class``: similar pairs count ``class_weight`` times,
            normalised by the sum of the weights.
        class_weight: of ``class``.
        graded: the degree of similarity of a similar pair, a factor of its weight. ``none``: 1.
            ``jaccard``: labels in common by labels of either (HashNet's paper). ``cosine``: four
            times the squared cosine of the label rows (HashNet's first release).
        quantization: weight of the quantization term.
        quantization_form: of u: ``log_cosh`` (DHN), ``l2`` (DPSH), ``l1``, ``l3``, ``cosine``.

    Example:
        Two images of one class with the same code, and one of another class with the opposite code;
        `num_train` matters only with ``pairs=memory``:

        >>> import torch
        >>> loss = PairwiseLikelihood(num_train=3, nbit=2, num_classes=2)
        >>> z = torch.tensor([[1.0, 1.0], [1.0, 1.0], [-1.0, -1.0]])
        >>> terms = loss(Output.of(z), Batch.of(torch.tensor([0, 0, 1]), num_classes=2))

        Similar pairs have theta = 2, dissimilar pairs theta = -2: the mean of either is
        log(1 + e^-2).

        >>> round(terms["likelihood"].item(), 4)
        0.2539
    """

    needs: ClassVar[frozenset[str]] = frozenset({"u"})

    def __init__(
        self,
        num_train: int,
        nbit: int,
        num_classes: int,
        alpha: Positive | Literal["10/nbit"] = 1.0,
        product: Literal["inner", "clipped", "cosine"] = "inner",
        pairs: Literal["batch", "halves", "memory"] = "batch",
        weighting: Literal["mean", "balanced", "positives", "class"] = "balanced",
        class_weight: NonNegative = 1.0,
        graded: Literal["none", "jaccard", "cosine"] = "none",
        quantization: NonNegative = 0.0,
        quantization_form: Form = "log_cosh",
    ) -> None:
        super().__init__()
        self.alpha = 10 / nbit if alpha == "10/nbit" else float(alpha)
        self.product = product
        self.pairs = pairs
        self.weighting = weighting
        self.class_weight = class_weight
        self.graded = graded
        self.quantization = quantization
        self.quantization_form = quantization_form
        self.memory: PairMemory | None = None
        if pairs == "memory":
            self.memory = PairMemory(num_train, nbit, num_classes)

    def forward(self, output: Output, batch: Batch) -> Terms:
        u, labels = output.u, batch.targets
        one, other, one_labels, other_labels = u, u, labels, labels
        if self.memory is not None:
            if self.training:
                self.memory.remember(batch, u)
            other = self.memory.codes.to(u.dtype)
            other_labels = self.memory.labels.to(labels.dtype)
        elif self.pairs == "halves":
            half = len(u) // 2
            one, other = u[:half], u[half:]
            one_labels, other_labels = labels[:half], labels[half:]
        theta = self.theta(one, other)  # (N, M)
        s = similar(one_labels, other_labels)
        loss = F.softplus(theta) - s * theta
        if self.graded != "none":
            loss = loss * grade(one_labels, other_labels, self.graded).where(s, 1.0)
        terms = {"likelihood": self.weighted(loss, s)}
        if self.quantization:
            terms["quantization"] = self.quantization * quantization(u, self.quantization_form)
        return terms

    def theta(self, one: Tensor, other: Tensor) -> Tensor:
        """Compute theta, the products of codes: (N, K), (M, K) -> (N, M)."""
        if self.product == "cosine":
            return self.alpha * F.normalize(one) @ F.normalize(other).T
        product = one @ other.T
        if self.product == "clipped":
            product = product.clamp(-15, 15)
        return self.alpha * product

    def weighted(self, loss: Tensor, s: Tensor) -> Tensor:
        """Compute the weighted mean of the losses (N, M) of pairs with similarities s (N, M)."""
        pairs, positives = float(max(s.numel(), 1)), s.sum()
        negatives = s.numel() - positives
        positive, negative = (loss * s).sum(), (loss * ~s).sum()
        if self.weighting == "mean":
            return (positive + negative) / pairs
        if self.weighting == "balanced":
            return positive / positives.clamp(min=1) + negative / negatives.clamp(min=1)
        if self.weighting == "positives":
            return positive / positives.clamp(min=1) + negative / pairs
        weight = self.class_weight
        weights = weight * positives.to(loss.dtype) + negatives
        return (weight * positive + negative) / weights.clamp(min=1e-12)


def grade(one: Tensor, other: Tensor, kind: Literal["jaccard", "cosine"]) -> Tensor:
    """Compute the degree of similarity of multi-hot rows.

    Args:
        one: (N, C).
        other: (M, C).
        kind: ``jaccard``: labels in common, divided by labels of either. ``cosine``: four times
            the squared cosine.

    Returns:
        (N, M).

    Example:
        >>> import torch
        >>> one, other = torch.tensor([[1.0, 1.0, 0.0]]), torch.tensor([[0.0, 1.0, 1.0]])
        >>> round(grade(one, other, "jaccard").item(), 4)
        0.3333
    """
    if kind == "cosine":
        return 4 * (F.normalize(one) @ F.normalize(other).T) ** 2
    common = one @ other.T
    either = one.sum(dim=1, keepdim=True) + other.sum(dim=1) - common
    return common / either.clamp(min=1)
