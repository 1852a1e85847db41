"""Memory bank for pairwise losses that compare a batch with the whole training set."""

import torch
from torch import Tensor, nn

from deephash.types import Batch


class PairMemory(nn.Module):
    """The latest code and the labels of every training image.

    Both are buffers, so checkpoints contain them: 4 (K + C) bytes for each training image. An image
    that was in no batch yet has a code of zeros and no label; it is similar to no other image.

    Args:
        num_train: number of training images; `Batch.index` is less than it.
        nbit: K.
        num_classes: C.

    Example:
        >>> memory = PairMemory(num_train=3, nbit=2, num_classes=2)
        >>> batch = Batch.of(torch.tensor([1]), num_classes=2, index=torch.tensor([2]))
        >>> memory.update(batch, torch.tensor([[0.5, -1.0]]))
        >>> memory.codes
        tensor([[ 0.0000,  0.0000],
                [ 0.0000,  0.0000],
                [ 0.5000, -1.0000]])
    """

    codes: Tensor  # (num_train, K)
    labels: Tensor  # (num_train, C)

    def __init__(self, num_train: int, nbit: int, num_classes: int) -> None:
        super().__init__()
        self.register_buffer("codes", torch.zeros(num_train, nbit))
        self.register_buffer("labels", torch.zeros(num_train, num_classes))

    @torch.no_grad()
    def update(self, batch: Batch, codes: Tensor) -> None:
        """Store the codes and labels of a batch; with several views, the codes of the first.

        Args:
            batch: a batch with ``index``, (B,).
            codes: (N, K).

        Raises:
            ValueError: the batch has no index.
        """
        if len(batch.index) != len(batch.labels):
            raise ValueError(
                "this loss stores the codes of all training images, but the batch has no index."
                " Pass the positions of its images: Batch.of(labels, index=...)."
            )
        self.codes[batch.index] = codes[: len(batch.index)].to(self.codes.dtype)
        self.labels[batch.index] = batch.labels.to(self.labels.dtype)
