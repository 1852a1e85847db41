"""Check what a checkpoint holds before it fills a method, an optimizer and the state of a run."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from deephash.errors import CheckpointError, FileError
from deephash.training import compile_options
from deephash.training.state import Progress
from deephash.utils.files import Kind, expect, finite

ANEW = "Train anew with rerun=true."

PROGRESS: dict[str, Kind] = {
    **dict.fromkeys(("epoch", "step", "images", "wait"), int),
    **{f"{name}seconds": finite for name in
       ("", "evaluation_", "retrieval_", "train_", "data_")},
    "history": [dict],
    "selected": (int, None),
    "stopped_early": bool,
}  # fmt: skip

LAST: dict[str, Kind] = {
    "fingerprint": str,
    "method": dict,
    "method.*": Tensor,
    "optimizer": dict,
    "optimizer.state": dict,
    "optimizer.param_groups": [dict],
    "progress": dict,
    **{f"progress.{key}?": kind for key, kind in PROGRESS.items()},
    "rng": dict,
    "rng.cpu": Tensor,
    "rng.cuda?": (Tensor, None),
}
"""What ``last.pt`` holds."""


@contextmanager
def fitting(path: Path, to: str, advice: str = ANEW) -> Iterator[None]:
    """Turn whatever is raised while a checkpoint is loaded into a sentence.

    Args:
        path: of the checkpoint.
        to: what it is loaded into, such as ``this method``.
        advice: what to do.

    Raises:
        CheckpointError: anything was raised.
    """
    try:
        yield
    except CheckpointError:
        raise
    except Exception as error:  # torch raises half a dozen kinds for states that do not fit
        reason = error.reason if isinstance(error, FileError) else str(error)
        reason = reason.strip() or type(error).__name__
        raise CheckpointError(f"{path} does not fit {to}: {reason}\n  {advice}") from error


def check_last(state: Mapping[str, Any], path: Path) -> None:
    """Check that all of ``last.pt`` is there, of its kind.

    Raises:
        CheckpointError: it is not.
    """
    try:
        expect(state, LAST, path)
    except FileError as error:
        raise CheckpointError(f"{path} is no checkpoint of a run: {error.reason}. {ANEW}") from None


def load_weights(module: Any, state: Any, name: str) -> None:
    """Fill a module, whose tensors must be the same, of the same shapes and kinds of numbers.

    Args:
        module: to be filled.
        state: tensors by name.
        name: what they are called in a message.

    Raises:
        ValueError: something is no tensor, or of another kind.
        RuntimeError: names or shapes differ.
    """
    if not isinstance(state, Mapping):
        raise ValueError(f"{name} is a {type(state).__name__}, not tensors by name")
    ours = module.state_dict()
    for key, value in state.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise ValueError(f"{name}.{key} is a {type(value).__name__}, not a tensor")
        if key in ours and value.is_floating_point() != ours[key].is_floating_point():
            raise ValueError(f"{name}.{key} is of {value.dtype}, not {ours[key].dtype}")
    module.load_state_dict(dict(state))


def state_of(optimizer: torch.optim.Optimizer | None) -> dict[str, Any]:
    """Return what a checkpoint holds of an optimizer; without one, a state without parameters."""
    return {"state": {}, "param_groups": []} if optimizer is None else optimizer.state_dict()


def load_optimizer(optimizer: torch.optim.Optimizer | None, state: Mapping[str, Any]) -> None:
    """Fill an optimizer; what it remembers of each parameter must be what it would make itself.

    Args:
        optimizer: to be filled; None if there is none, and the state must be empty.
        state: of the checkpoint.

    Raises:
        ValueError: the state is of another optimizer, or of other parameters.
    """
    groups = state["param_groups"]
    if optimizer is None:
        if groups or state["state"]:
            raise ValueError("it has the state of an optimizer, and this method has none")
        return
    counts = [len(group["params"]) for group in optimizer.param_groups]
    theirs = [group.get("params") for group in groups]
    if [len(one) if isinstance(one, list) else None for one in theirs] != counts:
        raise ValueError("the optimizer's state is of other parameters")
    places = [place for one in theirs for place in one]
    if places != list(range(len(places))) or not set(state["state"]) <= set(places):
        raise ValueError("the optimizer's state is of other parameters")
    parameters = [one for group in optimizer.param_groups for one in group["params"]]
    for group, ours in zip(groups, optimizer.param_groups, strict=True):
        for key in sorted(set(ours) - {"params", "lr", *compile_options.FORMS}):
            if key in group and _sort_of(group[key]) != _sort_of(ours[key]):
                raise ValueError(f"the optimizer's state has {key}={group[key]!r:.40}")
    fresh = _fresh(optimizer, "meta")
    fresh = _fresh(optimizer, "cpu") if fresh is None else fresh
    for place, given in state["state"].items():
        if fresh is None:
            break
        known = fresh.get(place, {})
        where = f"the optimizer's state of parameter {place}, {tuple(parameters[place].shape)},"
        if not isinstance(given, Mapping):
            raise ValueError(f"{where} is a {type(given).__name__}")
        has = {key for key, value in given.items() if value is not None or key in known}
        if has != set(known):
            keeps = ", ".join(known) or "nothing"
            raise ValueError(f"{where} has {', '.join(map(str, given))}; this one keeps {keeps}")
        for key, value in known.items():
            _check_alike(given[key], value, f"{where} has {key}")
    options = [set(group) for group in optimizer.param_groups]
    compile_options.load_optimizer(optimizer, dict(state))
    for group, names in zip(optimizer.param_groups, options, strict=True):
        if missing := sorted(names - set(group)):  # torch adds those that older releases lack
            raise ValueError(f"the optimizer's state lacks {', '.join(missing)}")


def _fresh(optimizer: torch.optim.Optimizer, device: str) -> dict[int, dict[str, Any]] | None:
    """What an optimizer of the same kind remembers after a step; None if it cannot be told.

    Tensors of the device ``meta`` take no memory, and most optimizers can step them.
    """
    groups: list[dict[str, Any]] = []
    kind: Any = type(optimizer)
    for group in optimizer.param_groups:
        params = [nn.Parameter(torch.zeros_like(one, device=device)) for one in group["params"]]
        for one in params:
            one.grad = torch.zeros_like(one)
        plain: dict[str, Any] = {
            key: False for key in ("fused", "foreach", "capturable") if key in group
        }
        groups.append({**group, **plain, "params": params})
    try:
        probe = kind(groups)
        probe.step()
    except Exception:  # an optimizer that needs more than gradients
        return None
    return dict(probe.state_dict()["state"])


def _sort_of(option: Any) -> Any:
    """What sort of value an option of an optimizer is: numbers are alike, and so are pairs."""
    if isinstance(option, list | tuple):
        return [_sort_of(one) for one in option]
    if isinstance(option, Tensor):
        return "number" if option.numel() == 1 else tuple(option.shape)
    if isinstance(option, int | float) and not isinstance(option, bool):
        return "number"
    return "switch" if option is None or isinstance(option, bool) else type(option).__name__


def _check_alike(value: Any, known: Any, where: str) -> None:
    if isinstance(known, Tensor):
        if value is None or (isinstance(value, int | float) and known.numel() == 1):
            return
        if not isinstance(value, Tensor) or value.shape != known.shape:
            found = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(f"{where} {found}, not {tuple(known.shape)}")
        if value.is_floating_point() != known.is_floating_point():
            raise ValueError(f"{where} of {value.dtype}, not {known.dtype}")
    elif known is not None and isinstance(value, Mapping | str | list):
        raise ValueError(f"{where} {type(value).__name__}, not {type(known).__name__}")


def progress_of(values: Mapping[str, Any], path: Path) -> Progress:
    """The state of a run from a checkpoint.

    Raises:
        FileError: values are missing, of another kind, or contradict each other.
    """
    if unknown := sorted(map(str, set(values) - set(PROGRESS))):
        raise FileError(path, f"progress has {', '.join(unknown)}, which is of no use here")
    progress = Progress(**values)
    row: dict[str, Kind] = {
        "epoch": int, "query": (float, None), "val": (float, None), "agreement?": (float, None),
    }  # fmt: skip
    for number, one in enumerate(progress.history):
        try:
            expect(one, row, path)
        except FileError as error:
            raise FileError(path, f"progress.history[{number}]: {error.reason}") from None
    counts = (progress.epoch, progress.step, progress.images, progress.wait, progress.seconds)
    if min(counts) < 0:
        raise FileError(path, "progress counts less than nothing")
    epochs = [one["epoch"] for one in progress.history]
    if epochs != sorted(set(epochs)) or any(not 0 <= one <= progress.epoch for one in epochs):
        raise FileError(path, f"progress.history has the epochs {epochs}, after {progress.epoch}")
    if (progress.selected is None) != (not epochs) or progress.selected not in (None, *epochs):
        raise FileError(path, f"progress.selected is {progress.selected}, of epochs {epochs}")
    return progress


def set_generators(rng: Mapping[str, Any], device: torch.device) -> None:
    """Give torch's random generators the state of a checkpoint.

    Raises:
        ValueError: it is of another generator.
    """
    cpu, cuda = rng["cpu"], rng.get("cuda")
    if cpu.dtype != torch.uint8 or cpu.shape != torch.get_rng_state().shape:
        raise ValueError(f"rng.cpu is {cpu.dtype} {tuple(cpu.shape)}, no state of a generator")
    torch.set_rng_state(cpu)
    if device.type == "cuda" and cuda is not None:
        if cuda.dtype != torch.uint8 or cuda.shape != torch.cuda.get_rng_state(device).shape:
            raise ValueError(f"rng.cuda is {cuda.dtype} {tuple(cuda.shape)}, no state of one")
        torch.cuda.set_rng_state(cuda, device)
