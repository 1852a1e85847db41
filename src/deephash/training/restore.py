"""Check the content of a checkpoint, and load it into a method, an optimizer and a run."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from deephash.errors import CheckpointError, FileError
from deephash.training import compile_options
from deephash.training.averaging import AveragedEncoder
from deephash.training.state import Progress
from deephash.utils.files import Kind, expect, finite

ANEW = "Train anew with rerun=true."

PROGRESS: dict[str, Kind] = {
    **dict.fromkeys(("epoch", "step", "images", "wait"), int),
    **{f"{name}seconds": finite for name in ("", "evaluation_", "retrieval_", "train_", "data_")},
    "history": [dict],
    "selected": (int, None),
    "stopped_early": bool,
}

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
    "ema?": dict,  # of trainer.ema
    "ema.*?": Tensor,
    "scaler?": dict,  # of trainer.precision=fp16
    **{f"scaler.{key}?": finite for key in ("scale", "growth_factor", "backoff_factor")},
    **{f"scaler.{key}?": int for key in ("growth_interval", "_growth_tracker")},
}
"""The keys of ``last.pt``."""


@contextmanager
def fitting(path: Path, to: str, advice: str = ANEW) -> Iterator[None]:
    """Convert all errors while a checkpoint is loaded ``to`` a target into CheckpointError."""
    try:
        yield
    except CheckpointError:
        raise
    except Exception as error:  # torch raises various classes for states that do not fit
        reason = error.reason if isinstance(error, FileError) else str(error)
        reason = reason.strip() or type(error).__name__
        raise CheckpointError(f"{path} does not fit {to}: {reason}\n  {advice}") from error


def check_last(state: Mapping[str, Any], path: Path) -> None:
    """Raise CheckpointError if a key of ``last.pt`` is missing or of another kind."""
    try:
        expect(state, LAST, path)
    except FileError as error:
        raise CheckpointError(f"{path} is no checkpoint of a run: {error.reason}. {ANEW}") from None


def restore_weights(module: Any, state: Any, name: str) -> None:
    """Load tensors of the same names, shapes and kinds of numbers into a module.

    Raises:
        ValueError: a value is no tensor, or of another kind.
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


def optimizer_state(optimizer: torch.optim.Optimizer | None) -> dict[str, Any]:
    """Return the state of an optimizer; without one, a state without parameters."""
    return {"state": {}, "param_groups": []} if optimizer is None else optimizer.state_dict()


def load_optimizer(optimizer: torch.optim.Optimizer | None, state: Mapping[str, Any]) -> None:
    """Load the state of an optimizer; it must have the structure that the optimizer would create.

    Without an optimizer the state must be empty.

    Raises:
        ValueError: the state is of another optimizer, or of other parameters.
    """
    groups = state["param_groups"]
    if optimizer is None:
        if groups or state["state"]:
            raise ValueError("it has the state of an optimizer, and this method has none")
        return
    counts = [len(group["params"]) for group in optimizer.param_groups]
    saved = [group.get("params") for group in groups]
    if [len(ids) if isinstance(ids, list) else None for ids in saved] != counts:
        raise ValueError("the optimizer's state is of other parameters")
    places = [place for ids in saved for place in ids]
    if places != list(range(len(places))) or not set(state["state"]) <= set(places):
        raise ValueError("the optimizer's state is of other parameters")
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for group, ours in zip(groups, optimizer.param_groups, strict=True):
        for key in sorted(set(ours) - {"params", "lr", *compile_options.IMPLEMENTATION_OPTIONS}):
            if key in group and _kind_of(group[key]) != _kind_of(ours[key]):
                raise ValueError(f"the optimizer's state has {key}={group[key]!r:.40}")
    fresh = _fresh_state(optimizer, "meta")
    fresh = _fresh_state(optimizer, "cpu") if fresh is None else fresh
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
    compile_options.load_optimizer_state(optimizer, dict(state))
    for group, names in zip(optimizer.param_groups, options, strict=True):
        if missing := sorted(names - set(group)):  # torch adds options that older releases lack
            raise ValueError(f"the optimizer's state lacks {', '.join(missing)}")


def load_scaler(scaler: torch.amp.GradScaler | None, state: Mapping[str, Any] | None) -> None:
    """Load the state of the scaler of fp16, which is saved only in this precision.

    Raises:
        ValueError: there is a state without a scaler, or vice versa.
    """
    if (scaler is None) != (state is None):
        other = "lacks" if state is None else "has"
        raise ValueError(f"it {other} the state of a gradient scaler (trainer.precision=fp16)")
    if scaler is not None and state is not None:
        if set(state) != set(scaler.state_dict()):
            raise ValueError("the state of the gradient scaler has other keys")
        scaler.load_state_dict(dict(state))


def load_average(average: AveragedEncoder | None, state: Mapping[str, Any] | None) -> None:
    """Load the averaged weights of an encoder, which are saved only with ``trainer.ema``.

    Raises:
        ValueError: there is a state without an average, or vice versa.
    """
    if (average is None) != (state is None):
        other = "lacks" if state is None else "has"
        raise ValueError(f"it {other} averaged weights (trainer.ema)")
    if average is not None:
        restore_weights(average.model, state, "ema")


def _fresh_state(optimizer: torch.optim.Optimizer, device: str) -> dict[int, dict[str, Any]] | None:
    """Return the state of a new optimizer of the same class after a step; None if it fails.

    Tensors on the device ``meta`` take no memory, and most optimizers support them.
    """
    groups: list[dict[str, Any]] = []
    kind: Any = type(optimizer)
    for group in optimizer.param_groups:
        params = [nn.Parameter(torch.zeros_like(p, device=device)) for p in group["params"]]
        for parameter in params:
            parameter.grad = torch.zeros_like(parameter)
        plain = {key: False for key in compile_options.IMPLEMENTATION_OPTIONS if key in group}
        groups.append({**group, **plain, "params": params})
    try:
        probe = kind(groups)
        probe.step()
    except Exception:  # an optimizer that needs more than gradients
        return None
    return dict(probe.state_dict()["state"])


def _kind_of(option: Any) -> Any:
    """Return the kind of an optimizer option: all numbers are of one kind, and so are pairs."""
    if isinstance(option, list | tuple):
        return [_kind_of(item) for item in option]
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
            actual = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(f"{where} {actual}, not {tuple(known.shape)}")
        if value.is_floating_point() != known.is_floating_point():
            raise ValueError(f"{where} of {value.dtype}, not {known.dtype}")
    elif known is not None and isinstance(value, Mapping | str | list):
        raise ValueError(f"{where} {type(value).__name__}, not {type(known).__name__}")


def load_progress(values: Mapping[str, Any], path: Path) -> Progress:
    """Return the state of a run from a checkpoint.

    Raises:
        FileError: values are missing, of another kind, or contradict each other.
    """
    if unknown := sorted(map(str, set(values) - set(PROGRESS))):
        raise FileError(path, f"progress has unknown keys: {', '.join(unknown)}")
    progress = Progress(**values)
    row: dict[str, Kind] = dict.fromkeys(("query", "val", "agreement?"), (float, None))
    for number, entry in enumerate(progress.history):
        try:
            expect(entry, {"epoch": int, **row}, path)
        except FileError as error:
            raise FileError(path, f"progress.history[{number}]: {error.reason}") from None
    counts = (progress.epoch, progress.step, progress.images, progress.wait, progress.seconds)
    if min(counts) < 0:
        raise FileError(path, "progress has a negative count")
    epochs = [entry["epoch"] for entry in progress.history]
    if epochs != sorted(set(epochs)) or any(not 0 <= epoch <= progress.epoch for epoch in epochs):
        raise FileError(path, f"progress.history has the epochs {epochs}, after {progress.epoch}")
    if (progress.selected is None) != (not epochs) or progress.selected not in (None, *epochs):
        raise FileError(path, f"progress.selected is {progress.selected}, of epochs {epochs}")
    return progress


def set_generators(rng: Mapping[str, Any], device: torch.device) -> None:
    """Set the state of torch's random generators.

    Raises:
        ValueError: it is of another generator.
    """

    def check(name: str, state: Tensor, like: Tensor) -> None:
        if state.dtype != torch.uint8 or state.shape != like.shape:
            shape = tuple(state.shape)
            raise ValueError(f"rng.{name} is {state.dtype} {shape}, no state of a generator")

    cpu, cuda = rng["cpu"], rng.get("cuda")
    check("cpu", cpu, torch.get_rng_state())
    torch.set_rng_state(cpu)
    if device.type == "cuda" and cuda is not None:
        check("cuda", cuda, torch.cuda.get_rng_state(device))
        torch.cuda.set_rng_state(cuda, device)
