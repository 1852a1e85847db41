"""Inputs of an image set on the device, batch by batch."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deephash.data.lazy_arrays import Stacked
from deephash.data.prefetch import prefetch
from deephash.data.transfer import split_on_device

PREFETCH_THREADS = 4


class InputLoader:
    """Gather inputs by row number and copy them to the device.

    All inputs are kept on the device if they fit into the limit, else those of the training images
    if they fit, since every epoch reads them. All others are gathered from memory, from the
    memory-mapped cache or from files by threads, some batches ahead. Pixels stay uint8.

    Args:
        inputs: (n, ...) array or lazy array.
        device: where batches are needed.
        limit_bytes: inputs up to this size are kept on the device.
        train_rows: (m,) rows of the training images.
    """

    def __init__(
        self, inputs: Any, device: torch.device, limit_bytes: int, train_rows: np.ndarray
    ) -> None:
        self.device = device
        fits = inputs.nbytes <= limit_bytes
        if fits and isinstance(inputs, Stacked):
            inputs = inputs[:]
        if isinstance(inputs, np.ndarray):
            # torch requires writable memory; read-only arrays are copied
            inputs = torch.from_numpy(np.require(inputs, requirements=["C", "W"]))
        self.resident = isinstance(inputs, Tensor) and (fits or device.type == "cpu")
        self._inputs = inputs.to(device) if self.resident else inputs
        self._train_inputs: Tensor | None = None
        if not self.resident and device.type != "cpu":
            row_bytes = inputs.nbytes // len(inputs)
            if len(train_rows) * row_bytes <= limit_bytes:
                parts = torch.split(torch.from_numpy(train_rows), 4096)
                self._train_inputs = torch.cat([self._gather(part) for part in parts]).to(device)

    def batches(
        self, rows: Tensor, batches: Sequence[Tensor], training: bool = False
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the places (b,) of each batch and its inputs (b, ...), both on the device.

        Args:
            rows: (k,) row numbers.
            batches: places in `rows`, (b,) int64 each.
            training: whether `rows` are those of the training images.
        """
        if not batches:
            return
        order = torch.cat(list(batches))
        places = split_on_device(order, batches, self.device)
        if training and self._train_inputs is not None:
            for index in places:
                yield index, self._train_inputs[index]
        elif self.resident:
            batch_rows = split_on_device(rows[order], batches, self.device)
            for index, row in zip(places, batch_rows, strict=True):
                yield index, self._inputs[row]
        else:
            inputs_of = prefetch(lambda batch: self._gather(rows[batch]), batches, PREFETCH_THREADS)
            for index, inputs in zip(places, inputs_of, strict=True):
                yield index, inputs.to(self.device, non_blocking=True)

    def _gather(self, rows: Tensor) -> Tensor:
        """Return the inputs of rows on the host, in pinned memory if the device is a GPU."""
        if isinstance(self._inputs, Tensor):
            inputs = self._inputs[rows]
        else:
            inputs = torch.from_numpy(self._inputs[rows.numpy()])
        return inputs.pin_memory() if self.device.type == "cuda" else inputs
