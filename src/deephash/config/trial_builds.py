"""Build the cheap parts of a configuration once on dummy sizes, before any data is opened.

An error of a constructor (an optimizer with ``betas=[2,2]``) becomes a fault of the option that
causes it. No file is opened, no network is built, and the random state is preserved.
"""

import inspect
import json
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import lru_cache
from typing import Any

import torch
from torch import nn

from deephash.config.faults import Fault
from deephash.config.injected_arguments import Injected, given
from deephash.config.requirements import GROUP_OPTIONS
from deephash.config.targets import arguments, locate
from deephash.config.validate import assignment, shown
from deephash.training.precision import autocast
from deephash.utils.formatting import first_line
from deephash.utils.nested import get_nested

DUMMY: Injected = {
    "in_features": 4, "num_classes": 2, "num_train": 2, "seed": 0, "cache": None,
}  # fmt: skip
"""Injected values of the trial builds, except the number of bits."""

Build = Callable[[Mapping[str, Any]], None]


def check_builds(cfg: Mapping[str, Any], wrong: Collection[str] = ()) -> list[Fault]:
    """Return a fault for each option that a constructor refuses.

    Args:
        cfg: a resolved configuration.
        wrong: keys with known faults: they take their defaults here, and parts that cannot be built
            without them are skipped.
    """
    faults: list[Fault] = []
    broken = {"model", "model.nbit"} & set(wrong)
    nbit = cfg["model"]["nbit"] if "model" in cfg and not broken else 1
    for path, node in _cheap(cfg):
        if (mended := _mended(path, node, wrong)) is not None:
            faults += _problems(path, json.dumps(mended), nbit)
    if "optimizer" in cfg and (mended := _mended("optimizer", cfg["optimizer"], wrong)) is not None:
        device = get_nested(cfg, "trainer", "device")
        on_cpu = device == "cpu" or not torch.cuda.is_available()
        faults += _problems("optimizer", json.dumps(mended), int(on_cpu))
    return faults


def cpu_fp16_fault() -> str:
    """Return why the CPU cannot train in ``fp16``; empty if it can.

    It can if torch has its convolution and matrix product in this format, forward and backward.
    GPUs always can.
    """
    convolution, product = torch.nn.Conv2d(1, 1, 3), torch.nn.Linear(1, 1)
    try:
        with torch.random.fork_rng(devices=[]), autocast(torch.device("cpu"), "fp16"):
            out = product(convolution(torch.zeros(1, 1, 3, 3)).flatten(1))
        torch.autograd.backward(out.float().sum())
    except (RuntimeError, NotImplementedError) as error:
        return first_line(error)
    return ""


def _mended(path: str, node: Any, wrong: Collection[str]) -> dict[str, Any] | None:
    """Return a part with defaults in place of wrong options; None if it cannot be built."""
    if not isinstance(node, Mapping) or "_target_" not in node:
        return None
    if any(path == key or path.startswith(f"{key}.") for key in wrong):
        return None
    options = [key.removeprefix(f"{path}.") for key in wrong if key.startswith(f"{path}.")]
    if not options:
        return dict(node)
    known, rest = arguments(locate(node["_target_"], path)), dict(node)
    for key in options:
        default = known[key].default if key in known else 1.0 if key == "backbone_scale" else None
        if default is inspect.Parameter.empty:
            return None
        if key in known or key == "backbone_scale":
            rest[key] = list(default) if isinstance(default, tuple) else default
        else:
            rest.pop(key, None)
    return rest


def _cheap(cfg: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the parts that are cheap to build, with their places."""
    protocol = str(get_nested(cfg, "dataset", "protocol"))
    nodes = {"dataset.source": get_nested(cfg, "dataset", "source")}
    nodes[f"dataset.protocols.{protocol}"] = get_nested(cfg, "dataset", "protocols", protocol)
    if "method" not in cfg:
        nodes[f"dataset.recipes.{protocol}"] = get_nested(cfg, "dataset", "recipes", protocol)
    steps = get_nested(cfg, "dataset", "transforms")
    for name, pipeline in steps.items() if isinstance(steps, Mapping) else ():
        if isinstance(pipeline, list):
            nodes |= {f"dataset.transforms.{name}.{at}": it for at, it in enumerate(pipeline)}
    for part in ("head", "relaxation", "codebook", "similarity", "loss"):
        nodes[f"method.{part}"] = get_nested(cfg, "method", part)
    nodes["scheduler"] = cfg.get("scheduler")
    for path, node in nodes.items():
        if isinstance(node, Mapping) and "_target_" in node:
            yield path, node


@lru_cache(maxsize=4096)  # a sweep has the same parts again and again
def _problems(path: str, text: str, number: int) -> tuple[Fault, ...]:
    """Return the faults of one part; ``number`` is K, or 1 for an optimizer on the CPU."""
    node = json.loads(text)
    if path == "optimizer":
        return tuple(_tried(path, node, lambda some: _step(some, bool(number))))
    return tuple(_tried(path, node, lambda some: _build(path, some, number)))


def _tried(path: str, node: Mapping[str, Any], build: Build) -> Iterator[Fault]:
    """Build a part; yield each error as a fault of the option whose default avoids it."""
    target = locate(str(node["_target_"]), path)
    known = arguments(target)
    rest = dict(node)
    for _ in known:
        try:
            build(rest)
            return
        except Exception as error:  # whatever a constructor raises: torch's have half a dozen kinds
            reason = error
        blamed = _blamed(rest, known, build)
        what = " ".join(str(reason).split()) or type(reason).__name__
        what = what if what.endswith((".", "?")) else f"{what}."
        if blamed is None:
            yield Fault(path, f"{target.__name__} cannot be made so: {what}", "See its options.")
            return
        default = known[blamed].default
        key = f"{path}.{blamed}"
        instead = f"Type for example {assignment(key, default)}."
        yield Fault(key, f"is {shown(rest[blamed])}: {what}", instead)
        rest[blamed] = default


def _blamed(
    node: Mapping[str, Any], known: Mapping[str, inspect.Parameter], build: Build
) -> str | None:
    """Return the option whose default removes the error, or at least changes it."""

    def failure(some: Mapping[str, Any]) -> str | None:
        try:
            build(some)
        except Exception as error:
            return str(error)
        return None

    now = failure(node)
    changed = None
    for key, parameter in known.items():
        default = parameter.default
        default = list(default) if isinstance(default, tuple) else default
        if key not in node or default is parameter.empty or node[key] == default:
            continue
        then = failure({**node, key: default})
        if then is None:
            return key
        if then != now and changed is None:
            changed = key
    return changed


def _build(path: str, node: Mapping[str, Any], nbit: int) -> None:
    """Build a part with the injected values of its kind."""
    target = locate(str(node["_target_"]))
    options = {key: value for key, value in node.items() if key != "_target_"}
    values = given(path, arguments(target), {**DUMMY, "nbit": nbit})
    with torch.random.fork_rng(devices=[]):
        target(**values, **options)


def _step(node: Mapping[str, Any], on_cpu: bool) -> None:
    """Build an optimizer of two parameters, and take a step if it would run on this device."""
    options = {key: value for key, value in node.items() if key != "_target_"}
    scale, lr = options["backbone_scale"], options["lr"]
    options = {key: value for key, value in options.items() if key not in GROUP_OPTIONS}
    some = [nn.Parameter(torch.zeros(2, 2)), nn.Parameter(torch.zeros(2))]
    groups = [
        {"name": name, "params": [parameter], "lr": rate}
        for name, parameter, rate in zip(("rest", "backbone"), some, (lr, lr * scale), strict=True)
    ]
    optimizer = locate(str(node["_target_"]))(groups, **options)
    if on_cpu:
        for parameter in some:
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
