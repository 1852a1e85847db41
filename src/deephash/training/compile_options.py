"""Compile the training step and fuse the optimizer: equal results up to rounding."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from deephash.errors import TrainingError

FUSED = (torch.optim.Adam, torch.optim.AdamW)
"""Optimizers that are fused by default: one kernel updates all parameters.

SGD is excluded: fused, it fails if a parameter has its first gradient after the first step.
"""

FUSED_DEVICES = ("cpu", "cuda")
"""Devices on which they are fused."""

IMPLEMENTATION_OPTIONS = ("fused", "foreach", "capturable")
"""Options of optimizers that change the implementation of a step, not its result."""

COMPILER = ("torch._dynamo", "torch._inductor", "torch._functorch", "triton")
"""Modules whose errors are compiler errors."""

ADVICE = "Train without it: trainer.compile=false."


def compile_in_place(method: Any, device: torch.device) -> None:
    """Compile a method and its encoder in place; torch does so at their first batch.

    The objective is part of the graph. On a CUDA device the training step is replayed as CUDA
    graphs, since small batches are limited by kernel launches. Each batch shape has its own graph:
    a short last batch costs one more compilation.

    Raises:
        TrainingError: torch cannot compile here.
    """
    mode = "reduce-overhead" if device.type == "cuda" else None
    try:
        method.compile(dynamic=False, mode=mode)
        method.encoder.compile(dynamic=False)
    except RuntimeError as error:  # unsupported Python or platform
        raise _compile_error(error) from error


@contextmanager
def explain_compile_errors() -> Iterator[None]:
    """Convert compiler errors; other errors pass.

    Raises:
        TrainingError: in place of an error of the compiler.
    """
    try:
        yield
    except Exception as error:  # the classes of the compilers have no common base
        if not any(kind.__module__.startswith(COMPILER) for kind in type(error).__mro__):
            raise
        raise _compile_error(error) from error


def fuse(optimizer: torch.optim.Optimizer, device: torch.device) -> None:
    """Use the fused implementation of an optimizer, unless the configuration selects another."""
    if device.type not in FUSED_DEVICES or not isinstance(optimizer, FUSED):
        return
    for group in optimizer.param_groups:
        if group["fused"] is None and not group["foreach"] and not group["differentiable"]:
            group["fused"] = True
            # as its constructor does: it then skips steps of fp16 without waiting for the device
            optimizer._step_supports_amp_scaling = True  # type: ignore[attr-defined]


def make_capturable(optimizer: torch.optim.Optimizer) -> str:
    """Keep the step counters of an optimizer on the device, so that its step can be captured.

    Returns:
        The reason why its step cannot be captured; empty if it can.
    """
    for group in optimizer.param_groups:
        if "capturable" in group:
            group["capturable"] = True
        elif not isinstance(optimizer, torch.optim.SGD):  # which has no counters
            return f"{type(optimizer).__name__} has no option capturable"
    return ""


def load_optimizer_state(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load an optimizer's state, except for `IMPLEMENTATION_OPTIONS`.

    torch would load these as well, and with them the device of Adam's step counters, so that a run
    resumed on another device would keep the implementation of the first.

    Raises:
        ValueError: it is the state of another optimizer.
    """
    groups = [dict(group) for group in state["param_groups"]]
    for group, ours in zip(groups, optimizer.param_groups, strict=False):  # torch checks the number
        group.update({key: ours[key] for key in IMPLEMENTATION_OPTIONS if key in ours})
    optimizer.load_state_dict({**state, "param_groups": groups})


def _compile_error(error: Exception) -> TrainingError:
    """Return an error with the first paragraph of a compiler's message, which ends with traces."""
    text = " ".join(str(error).partition("\n\n")[0].split())[:400] or type(error).__name__
    return TrainingError(f"torch.compile failed: {text}\n  {ADVICE}")
