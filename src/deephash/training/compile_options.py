"""Forms of the training step that compute the same faster, up to rounding: compiled, fused."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from deephash.errors import TrainingError

FUSED = (torch.optim.Adam, torch.optim.AdamW)
"""Optimizers that are fused by default: one kernel updates all parameters.

SGD is not one of them: fused, it fails if a parameter has its first gradient after the first step.
"""

FUSED_DEVICES = ("cpu", "cuda")
"""The devices on which they are fused."""

FORMS = ("fused", "foreach", "capturable")
"""Options of optimizers that change how a step is computed, but not the result."""

COMPILER = ("torch._dynamo", "torch._inductor", "torch._functorch", "triton")
"""The modules whose errors are those of a compiler."""

ADVICE = "Train without it: trainer.compile=false."


def compile_in_place(method: Any, device: torch.device) -> None:
    """Has torch compile a method and its encoder at their first batch; their names stay.

    The objective is part of the graph. On a CUDA device the training step is replayed as CUDA
    graphs, since small batches wait for the launches of their kernels. Each shape of a batch has a
    graph of its own: a short last one costs one more compilation, and no more than that.

    Raises:
        TrainingError: torch cannot compile here.
    """
    mode = "reduce-overhead" if device.type == "cuda" else None
    try:
        method.compile(dynamic=False, mode=mode)
        method.encoder.compile(dynamic=False)
    except RuntimeError as error:  # of this Python, or this platform
        raise TrainingError(f"torch.compile failed: {_brief(error)}\n  {ADVICE}") from error


@contextmanager
def told() -> Iterator[None]:
    """Around code that may compile; every error but a compiler's passes.

    Raises:
        TrainingError: the compiler failed.
    """
    try:
        yield
    except Exception as error:  # the compilers' kinds have no parent in common
        if not _is_compilers(error):
            raise
        raise TrainingError(f"torch.compile failed: {_brief(error)}\n  {ADVICE}") from error


def fuse(optimizer: torch.optim.Optimizer, device: torch.device) -> None:
    """Let an optimizer update all parameters in one kernel where torch has one.

    ``optimizer.fused`` and ``optimizer.foreach`` of the configuration stay.
    """
    if device.type not in FUSED_DEVICES or not isinstance(optimizer, FUSED):
        return
    for group in optimizer.param_groups:
        if group["fused"] is None and not group["foreach"] and not group["differentiable"]:
            group["fused"] = True


def make_capturable(optimizer: torch.optim.Optimizer) -> str:
    """Let an optimizer keep its step counters on the device, so that its step can be captured.

    Returns:
        Why its step cannot be captured; empty if it can.
    """
    for group in optimizer.param_groups:
        if "capturable" in group:
            group["capturable"] = True
        elif not isinstance(optimizer, torch.optim.SGD):  # which counts nothing
            return f"{type(optimizer).__name__} has no option capturable"
    return ""


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load an optimizer's state; the form of its step stays as it is.

    torch would take that over from the state, and with it the device of Adam's step counters: a run
    that goes on at another device would keep the form of the first. The state is one that
    `checkpoint.load` read, and so lies on the CPU.

    Raises:
        ValueError: it is the state of another optimizer.
    """
    groups = [dict(group) for group in state["param_groups"]]
    for group, ours in zip(groups, optimizer.param_groups, strict=False):  # torch counts them
        group.update({key: ours[key] for key in FORMS if key in ours})
    optimizer.load_state_dict({**state, "param_groups": groups})


def _is_compilers(error: BaseException) -> bool:
    return any(kind.__module__.startswith(COMPILER) for kind in type(error).__mro__)


def _brief(error: BaseException) -> str:
    """The first paragraph of an error, on one line; compilers add their traces."""
    words = str(error).partition("\n\n")[0].split()
    return " ".join(words)[:400] or type(error).__name__
