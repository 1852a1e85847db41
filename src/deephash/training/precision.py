"""Settings of torch: precision of the forward pass, and determinism."""

import os

import torch

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
"""The number formats of forward passes in reduced precision."""


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Return the context of a forward pass in ``fp32`` (no change), ``bf16`` or ``fp16``."""
    dtype = DTYPES.get(precision, torch.bfloat16)
    return torch.autocast(device.type, dtype=dtype, enabled=precision in DTYPES)


def gradient_scaler(device: torch.device, precision: str) -> torch.amp.GradScaler | None:
    """Return the scaler that keeps gradients in the range of ``fp16``; None for other formats."""
    return torch.amp.GradScaler(device.type) if precision == "fp16" else None


def use_deterministic(on: bool) -> None:
    """Make equal seeds give equal numbers; torch warns about operators that cannot.

    Uninitialized memory is not filled, as torch would do for debugging: that is a kernel for each
    new tensor, and no operator in use reads such memory.
    """
    if on:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(on, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = not on
