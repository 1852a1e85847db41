"""Copies from the host to the device that do not synchronize."""

from collections.abc import Sequence

import torch
from torch import Tensor


def to_device(values: Tensor, device: torch.device) -> Tensor:
    """Return a tensor on a device.

    Host tensors are copied through pinned memory; a copy from pageable memory would synchronize.
    """
    if device.type == "cuda" and values.device.type == "cpu":
        return values.pin_memory().to(device, non_blocking=True)
    return values.to(device)


def split_on_device(
    values: Tensor, like: Sequence[Tensor], device: torch.device
) -> Sequence[Tensor]:
    """Copy values to a device at once and split them into parts as long as those of `like`.

    A copy for each part would wait for the computation on the part before.
    """
    return torch.split(to_device(values, device), [len(part) for part in like])
