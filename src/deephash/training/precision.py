"""The number format of the forward pass."""

import torch


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """The context of a forward pass in ``fp32``, which changes nothing, or in ``bf16``."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16")
