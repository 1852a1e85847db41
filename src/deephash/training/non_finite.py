"""Find the cause of results that are not finite, in the inputs and weights of a network."""

from collections.abc import Iterable
from itertools import islice
from typing import Any

import torch
from torch import nn

from deephash.types import Batch
from deephash.utils import program

LARGE = 1e4
"""Inputs beyond it are reported: half precision ends at 65,504, and networks square values."""


def faulty_inputs(batches: Iterable[Batch], ids: Any = None, most: int | None = None) -> str | None:
    """Find inputs that explain a result that is not finite.

    Args:
        batches: the inputs of the network, from the beginning.
        ids: the id of the image at each `index` of the batches; None if unknown.
        most: limit on the batches.

    Returns:
        A message with the first image with NaN or infinite inputs, or with the largest input if
        it is very large; None if the inputs have no fault.
    """
    largest = 0.0
    for batch in islice(batches, most):
        values = batch.images.detach().flatten(1).float()
        bad = (~torch.isfinite(values)).any(dim=1).nonzero().flatten()
        if len(bad):
            place = int(batch.index[bad[0]])
            name = f"the image at place {place}" if ids is None else str(ids[place])
            return (
                f"The cause is in the data: the inputs of {name} hold NaN or infinite values"
                f" ({len(bad)} of {len(values)} images of that batch). Check the data with"
                f" {program.command('data')} verify, and dataset.transforms (a std of 0?)."
            )
        if values.numel():
            largest = max(largest, float(values.abs().max()))
    if largest > LARGE:
        return (
            f"The inputs reach {largest:.3g}: scale the features (to unit length, or to unit"
            " variance), or try trainer.precision=fp32 and a smaller optimizer.lr."
        )
    return None


def faulty_weights(module: nn.Module) -> str | None:
    """Name the first parameter or buffer that holds NaN or infinite values; None if none does."""
    for name, value in module.state_dict().items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            return str(name)
    return None
