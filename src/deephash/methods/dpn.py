"""DPN, IJCAI 2020.

Fan et al., "Deep Polarized Network for Supervised Learning of Accurate Binary Hashing Codes".
"""

from typing import Annotated, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deephash.losses.labels import labelled, tie_vector, vote
from deephash.losses.memory_bank import PairMemory
from deephash.types import Batch, Output, Terms
from deephash.utils.bounds import CountOrZero, Interval, NonNegative


class Polarization(nn.Module):
    r"""Hinge loss of each bit: its value should exceed a margin, with the sign of its target.

    .. math:: L = \frac1N \sum_n \sum_c Y_{nc} \sum_k \max(0, m - u_{nk} c_{ck})

    Reads ``u`` (N, K) and ``centers`` (C, K) of -1 and +1. With ``update_every`` it stores the
    codes of all training images, and needs the batch's ``index``.

    Args:
        num_train: number of training images, for the adaptive centers.
        nbit: number of bits K.
        num_classes: number of classes C.
        seed: seed of the vector that breaks ties.
        margin: m.
        bits: ``sum`` over the bits (the authors' code), or ``mean`` (swuxyj's, K times smaller).
        multi_label: ``each``: the sum of the hinges to the centers of all labels of an image (the
            authors' code). ``vote``: one target per image, the majority vote of its centers; a
            random vector breaks ties (swuxyj's).
        regularization: weight of the mean squared code; 0 in the authors' code, 0.1 in another
            implementation by them.
        update_every: epochs between two updates of the centers (DPN-A); 0 for none.
        update: ``closest``: the sign of the mean of those codes of a class that are nearest to its
            center (the authors' code; by the first label). ``ternary``: the sign of the sum of the
            codes of all images with the label, without bits inside the margin (swuxyj's). A tie
            sets the target of the bit to 0, and with ``multi_label=each`` its gradient; if few
            codes exceed the margin, as may happen with ``ternary``, training can stop improving.
            Classes that are not separated yet can get the same center: see ``min_distance`` in the
            report.
        update_rate: fraction of the codes of a class that ``closest`` uses.

    Example:
        >>> loss = Polarization(num_train=2, nbit=2, num_classes=2, seed=0)
        >>> centers = torch.tensor([[1.0, 1.0], [-1.0, 1.0]])
        >>> output = Output.of(torch.tensor([[0.5, 2.0], [-3.0, -1.0]]), centers=centers)
        >>> terms = loss(output, Batch.of(torch.tensor([0, 1]), num_classes=2))
        >>> terms["polarization"].item()  # (0.5 + 2) / 2
        1.25
    """

    needs: ClassVar[frozenset[str]] = frozenset({"u", "centers"})
    batch_coupled: ClassVar[bool] = False
    fixed_centers: ClassVar[bool] = True  # trainable centers would grow without bound
    ties: Tensor  # (K,)
    centers: Tensor  # (C, K), used if `adapted`
    adapted: Tensor  # () bool

    def __init__(
        self,
        num_train: int,
        nbit: int,
        num_classes: int,
        seed: int,
        margin: NonNegative = 1.0,
        bits: Literal["sum", "mean"] = "sum",
        multi_label: Literal["each", "vote"] = "each",
        regularization: NonNegative = 0.0,
        update_every: CountOrZero = 0,
        update: Literal["closest", "ternary"] = "closest",
        update_rate: Annotated[float, Interval(0.01, 1)] = 1.0,
    ) -> None:
        super().__init__()
        self.margin = margin
        self.bits = bits
        self.multi_label = multi_label
        self.regularization = regularization
        self.update_every = update_every
        self.update = update
        self.update_rate = update_rate
        self.register_buffer("ties", tie_vector(nbit, seed))
        self.memory: PairMemory | None = None
        if update_every:
            self.memory = PairMemory(num_train, nbit, num_classes)
            self.register_buffer("centers", torch.zeros(num_classes, nbit))
            self.register_buffer("adapted", torch.tensor(False))

    def forward(self, output: Output, batch: Batch) -> Terms:
        u, centers, targets = output.u, output.require("centers"), batch.targets
        if self.memory is not None:
            centers = torch.where(self.adapted, self.centers.to(u.dtype), centers)
            if self.training:
                self.memory.update(batch, u)
                self.centers.copy_(centers.detach())
        if self.multi_label == "vote":
            target_bits = vote(targets, centers, self.ties.to(u.dtype))  # (N, K)
            hinge = labelled(targets) * F.relu(self.margin - u * target_bits)
        else:
            hinge = F.relu(self.margin - u[:, None] * centers)  # (N, C, K)
            hinge = (targets[:, :, None] * hinge).sum(dim=1)
        per_image = hinge.sum(dim=1) if self.bits == "sum" else hinge.mean(dim=1)
        terms = {"polarization": per_image.mean()}
        if self.regularization:
            terms["regularization"] = self.regularization * (u**2).mean()
        return terms

    @property
    def moved_centers(self) -> Tensor | None:
        """The updated centers, (C, K), -1, 0 and +1; None before the first update."""
        return self.centers if self.memory is not None and bool(self.adapted) else None

    @torch.no_grad()
    def on_epoch_start(self, epoch: int) -> None:
        """Update the centers from the stored codes, every `update_every` epochs."""
        if self.memory is None or epoch == 0 or epoch % self.update_every:
            return
        codes, labels = self.memory.codes, self.memory.labels
        if self.update == "ternary":
            ternary = torch.where(codes.abs() > self.margin, codes.sign(), 0.0)
            self.centers.copy_((labels.T @ ternary).sign())
        else:
            self._update_from_closest(torch.where(codes >= 0, 1.0, -1.0), labels)
        self.adapted.fill_(True)

    def _update_from_closest(self, bits: Tensor, labels: Tensor) -> None:
        first_labels = torch.where(labels.any(dim=1), labels.argmax(dim=1), -1)
        for c, center in enumerate(self.centers):
            members = bits[first_labels == c]
            count = int(self.update_rate * len(members))
            if count:
                distances = F.relu(self.margin - members * center).sum(dim=1)
                nearest = members[distances.argsort(stable=True)[:count]]
                self.centers[c] = nearest.mean(dim=0).sign()
