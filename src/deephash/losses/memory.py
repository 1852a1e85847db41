"""The memory of pairwise objectives that compare a batch with the whole training set."""

import torch
from torch import Tensor, nn

from deephash.records import Batch


class PairMemory(nn.Module):
    """The last code seen of every training image, so that a batch is paired with all of them.

    Buffers, so that a resumed run remembers what the stopped one knew: 4 (K + C) bytes for each
    training image. An image that was not seen yet has a code of zeros and no label, which makes it
    dissimilar to everything.

    Args:
        num_train: training images; the index of a batch counts them.
        nbit: K.
        num_classes: C.
    """

    codes: Tensor  # (num_train, K)
    labels: Tensor  # (num_train, C)

    def __init__(self, num_train: int, nbit: int, num_classes: int) -> None:
        super().__init__()
        self.register_buffer("codes", torch.zeros(num_train, nbit))
        self.register_buffer("labels", torch.zeros(num_train, num_classes))

    @torch.no_grad()
    def remember(self, batch: Batch, codes: Tensor) -> None:
        """Keeps the codes ``(N, K)`` of a batch; of several views the first."""
        self.codes[batch.index] = codes[: len(batch.index)].to(self.codes.dtype)
        self.labels[batch.index] = batch.labels.to(self.labels.dtype)
