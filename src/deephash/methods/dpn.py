"""DPN, IJCAI 2020.

Fan et al., "Deep Polarized Network for Supervised Learning of Accurate Binary Hashing Codes".
"""

from typing import Annotated, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deephash.bounds import CountOrZero, Interval, NonNegative
from deephash.losses.labels import labelled, tie_vector, vote
from deephash.losses.memory import PairMemory
from deephash.records import Batch, Output, Terms


class Polarization(nn.Module):
    r"""A hinge that drives every bit beyond a margin on its target's side.

    .. math:: L = \frac1N \sum_n \sum_c Y_{nc} \sum_k \max(0, m - u_{nk} c_{ck})

    Args:
        num_train: training images, for the adaptive centers.
        nbit: K.
        num_classes: C.
        seed: of the tie vector.
        margin: m.
        bits: ``sum`` over the bits (the authors' code), or ``mean`` (swuxyj's, K times smaller).
        multi_label: ``each``: the hinges to all centers of an image's labels are added (the
            authors' code). ``vote``: one target per image, the majority of its centers, ties by a
            vector drawn once (swuxyj's).
        regularization: weight of the mean squared code; the authors' code has none, another
            implementation by them 0.1.
        update_every: epochs between two updates of the centers (DPN-A), 0 for none.
        update: ``closest``: the sign of the mean of a class' codes that are nearest to its center
            (the authors' code; by the first label). ``ternary``: the sign of the sum of the codes
            of all images with the label, bits within the margin left out (swuxyj's). A bit on
            which nobody wins gets a target of 0, and with ``multi_label=each`` no gradient; where
            few codes have left the margin, as they may with ``ternary``, training can stand still.
            Classes that are not apart yet can get the same center: the report's ``min_distance``.
        update_rate: the part of a class' codes that ``closest`` takes.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"u", "centers"})
    fixed_centers: ClassVar[bool] = True  # learned ones would grow without bound
    ties: Tensor  # (K,)
    centers: Tensor  # (C, K), in use once `adapted`
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
                self.memory.remember(batch, u)
                self.centers.copy_(centers.detach())
        if self.multi_label == "vote":
            goal = vote(targets, centers, self.ties.to(u.dtype))  # (N, K)
            hinge = labelled(targets) * F.relu(self.margin - u * goal)
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
        """The centers in use once they have moved: ``(C, K)``, -1, 0 and +1."""
        return self.centers if self.memory is not None and bool(self.adapted) else None

    @torch.no_grad()
    def on_epoch_start(self, epoch: int) -> None:
        """Moves the centers to where the codes of the last epoch went."""
        if self.memory is None or epoch == 0 or epoch % self.update_every:
            return
        codes, labels = self.memory.codes, self.memory.labels
        if self.update == "ternary":
            certain = torch.where(codes.abs() > self.margin, codes.sign(), 0.0)
            self.centers.copy_((labels.T @ certain).sign())
        else:
            self._move_to_closest(torch.where(codes >= 0, 1.0, -1.0), labels)
        self.adapted.fill_(True)

    def _move_to_closest(self, bits: Tensor, labels: Tensor) -> None:
        first = torch.where(labels.any(dim=1), labels.argmax(dim=1), -1)
        for c, center in enumerate(self.centers):
            members = bits[first == c]
            count = int(self.update_rate * len(members))
            if count:
                far = F.relu(self.margin - members * center).sum(dim=1)
                nearest = members[far.argsort(stable=True)[:count]]
                self.centers[c] = nearest.mean(dim=0).sign()
