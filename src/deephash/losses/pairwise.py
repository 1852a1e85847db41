"""Likelihood of pairwise similarities: HashNet, DHN, DPSH and variants."""

from typing import ClassVar, Literal

from torch import Tensor, nn
from torch.nn import functional as F

from deephash.losses.labels import similar
from deephash.losses.memory_bank import PairMemory
from deephash.losses.quantization import QuantizationForm, quantization
from deephash.types import Batch, Output, Terms
from deephash.utils.bounds import NonNegative, Positive


class PairwiseLikelihood(nn.Module):
    r"""Negative log-likelihood of pairwise similarities s: 1 if two images share a label, else 0.

    .. math:: e_{ij} = \log(1 + e^{\theta_{ij}}) - s_{ij} \theta_{ij}, \qquad
              \theta_{ij} = \alpha \langle u_i, u_j \rangle

    DHN and DPSH add a quantization term, log cosh(|u| - 1) or its square. HashNet (ICCV 2017), DHN
    (AAAI 2016), DPSH (IJCAI 2016). As in the sources, pairs may consist of an image and itself. An
    empty group of pairs contributes 0. Reads ``u`` (N, K).

    Args:
        num_train: number of training images, for the memory.
        nbit: K.
        num_classes: C.
        alpha: the factor; ``10/nbit`` is 10 / K.
        product: ``inner``; ``clipped``: the inner product clipped to [-15, 15]; ``cosine``.
        pairs: ``batch``: all pairs in the batch, including each image with itself. ``halves``: the
            first half of the batch with the second. ``memory``: the batch with the latest codes of
            all training images, updated with the batch first; only the batch receives a gradient.
        weighting: weights of the S1 similar and S0 dissimilar of S pairs. ``mean``: equal.
            ``balanced``: mean over the similar plus mean over the dissimilar pairs; HashNet's paper
            has the sum weighted by S / S1 and S / S0, which is S times this. ``positives``: similar
            pairs have the weight S / S1. ``class``: similar pairs have the weight
            ``class_weight``; the result is divided by the sum of the weights.
        class_weight: weight of similar pairs with ``class``.
        graded: factor of the weight of a similar pair. ``none``: 1. ``jaccard``: the number of
            common labels divided by the number of labels of either (HashNet's paper). ``cosine``:
            four times the squared cosine of the label rows (HashNet's first release).
        quantization: weight of the quantization term.
        quantization_form: form of the term of u: ``log_cosh`` (DHN), ``l2`` (DPSH), ``l1``, ``l3``,
            ``cosine``.

    Example:
        Two images of one class with equal codes, and one of another class with the opposite code.
        `num_train` is used only with ``pairs=memory``.

        >>> import torch
        >>> loss = PairwiseLikelihood(num_train=3, nbit=2, num_classes=2)
        >>> z = torch.tensor([[1.0, 1.0], [1.0, 1.0], [-1.0, -1.0]])
        >>> terms = loss(Output.of(z), Batch.of(torch.tensor([0, 0, 1]), num_classes=2))

        Similar pairs have theta = 2, dissimilar pairs theta = -2; the mean of either group is
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
        quantization_form: QuantizationForm = "log_cosh",
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
        rows, columns, row_labels, column_labels = u, u, labels, labels
        if self.memory is not None:
            if self.training:
                self.memory.update(batch, u)
            columns = self.memory.codes.to(u.dtype)
            column_labels = self.memory.labels.to(labels.dtype)
        elif self.pairs == "halves":
            half = len(u) // 2
            rows, columns = u[:half], u[half:]
            row_labels, column_labels = labels[:half], labels[half:]
        theta = self.theta(rows, columns)  # (N, M)
        s = similar(row_labels, column_labels)
        loss = F.softplus(theta) - s * theta
        if self.graded != "none":
            loss = loss * grade(row_labels, column_labels, self.graded).where(s, 1.0)
        terms = {"likelihood": self.weighted(loss, s)}
        if self.quantization:
            terms["quantization"] = self.quantization * quantization(u, self.quantization_form)
        return terms

    def theta(self, rows: Tensor, columns: Tensor) -> Tensor:
        """Return theta, the scaled products of codes: (N, K), (M, K) -> (N, M)."""
        if self.product == "cosine":
            return self.alpha * F.normalize(rows) @ F.normalize(columns).T
        product = rows @ columns.T
        if self.product == "clipped":
            product = product.clamp(-15, 15)
        return self.alpha * product

    def weighted(self, loss: Tensor, s: Tensor) -> Tensor:
        """Return the weighted mean of the losses (N, M) of pairs with similarities s (N, M)."""
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


def grade(rows: Tensor, columns: Tensor, kind: Literal["jaccard", "cosine"]) -> Tensor:
    """Compute the degree of similarity between multi-hot rows.

    Args:
        rows: (N, C).
        columns: (M, C).
        kind: ``jaccard``: the number of common labels, divided by the number of labels of either.
            ``cosine``: four times the squared cosine.

    Returns:
        (N, M).

    Example:
        >>> import torch
        >>> first, second = torch.tensor([[1.0, 1.0, 0.0]]), torch.tensor([[0.0, 1.0, 1.0]])
        >>> round(grade(first, second, "jaccard").item(), 4)
        0.3333
    """
    if kind == "cosine":
        return 4 * (F.normalize(rows) @ F.normalize(columns).T) ** 2
    common = rows @ columns.T
    either = rows.sum(dim=1, keepdim=True) + columns.sum(dim=1) - common
    return common / either.clamp(min=1)
