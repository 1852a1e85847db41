"""Resolve a composed configuration: plain values, with the parts in slots moved into the method."""

import copy
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from deephash.config import backbone_inputs
from deephash.config.faults import Fault, raise_faults
from deephash.config.overrides import Override

SLOTS = ("head", "relaxation", "codebook", "similarity", "loss")
"""The parts of a method that a group of the same name replaces."""


def resolve(cfg: DictConfig, overrides: Sequence[Override] = ()) -> dict[str, Any]:
    """The configuration as plain values, with what sits in a seat moved into the method, whole.

    The counts that a dataset's yaml expects are those of its protocols as they stand there: once a
    protocol's or a recipe's numbers are given on the command line, none are expected. A backbone
    that declares its images (``preprocessing: model``) decides the image size and the statistics of
    the transforms, except those given on the command line.
    Once a protocol is given there, it is used for images without labels as well.

    Args:
        cfg: as Hydra composed it; it is not changed.
        overrides: the command line.

    Raises:
        ConfigError: a value that was left open, or refers to one that does not exist.
    """
    try:
        missing = _open_keys(OmegaConf.to_container(cfg, enum_to_str=True))
        raise_faults(
            [Fault(key, "has no value.", _value_for(key, overrides)) for key in missing],
            overrides,
        )
        typed = [one.key for one in overrides]
        images = backbone_inputs.declared(_resolved(cfg, "backbone"))
        size = None if images is None else backbone_inputs.size_of(_unresolved(cfg), images, typed)
        if size is not None:  # before values that refer to it are resolved
            cfg = copy.deepcopy(cfg)
            cfg.dataset.size = size
        plain = OmegaConf.to_container(cfg, resolve=True, enum_to_str=True)
    except OmegaConfBaseException as error:  # its text names the key
        raise_faults(
            [Fault("interpolation", str(error).splitlines()[0], "See --cfg job.")], overrides
        )
    assert isinstance(plain, dict)
    resolved: dict[str, Any] = {str(key): value for key, value in plain.items()}
    for seat in SLOTS:
        part = resolved.pop(seat, None)
        if part is not None:
            resolved["method"][seat] = part
    if any(one.within("dataset.protocols", "dataset.recipes") for one in overrides):
        resolved["dataset"]["expected"] = {}
    if images is not None and isinstance(resolved.get("dataset"), dict):
        backbone_inputs.adapt(resolved["dataset"], images, typed)
    dataset = resolved.get("dataset") or {}
    if "unlabelled" in dataset and any(one.key == "dataset.protocol" for one in overrides):
        dataset["unlabelled"] = None
    return resolved


def _resolved(cfg: DictConfig, key: str) -> Any:
    """A node of the configuration as plain values; None where there is none."""
    node = cfg.get(key)
    return OmegaConf.to_container(node, resolve=True) if isinstance(node, DictConfig) else None


def _unresolved(cfg: DictConfig) -> Any:
    """The dataset as it was composed; None where there is none."""
    node = cfg.get("dataset")
    return OmegaConf.to_container(node) if isinstance(node, DictConfig) else None


def _value_for(key: str, overrides: Iterable[Override]) -> str:
    """What to type for a key that has no value."""
    for one in overrides:
        if one.deletes and (key == one.key or key.startswith(f"{one.key}.")):
            return f"Leave out {one}."
    return f"Give it one: {key}=..."


def _open_keys(node: Any, path: str = "") -> list[str]:
    """The keys whose value is still ``???``, of an unresolved configuration."""
    if isinstance(node, Mapping):
        pairs = [(f"{path}.{key}" if path else str(key), value) for key, value in node.items()]
        return [found for key, value in pairs for found in _open_keys(value, key)]
    return [path] if node == "???" else []
