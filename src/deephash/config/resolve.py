"""Resolve a composed configuration to plain values, with parts moved from slots to the method."""

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
    """Return a configuration as plain values; parts in slots replace those of the method.

    The expected counts of a dataset hold for its published protocols: they are removed if the
    command line changes a protocol or a recipe. A backbone that declares its images
    (``preprocessing: model``) sets the image size and the statistics of the transforms, except
    those given on the command line. A protocol given there is also used for images without labels.

    Args:
        cfg: the output of Hydra; it is not changed.
        overrides: the command line.

    Raises:
        ConfigError: a value is missing, or refers to a key that does not exist.
    """
    try:
        missing = _missing_keys(OmegaConf.to_container(cfg, enum_to_str=True))
        raise_faults(
            [Fault(key, "has no value.", _hint(key, overrides)) for key in missing], overrides
        )
        typed = [override.key for override in overrides]
        images, size = backbone_inputs.declared_inputs(_node(cfg, "backbone", resolve=True)), None
        if images is not None:
            size = backbone_inputs.size_of(_node(cfg, "dataset", resolve=False), images, typed)
        if size is not None:  # before values that refer to it are resolved
            cfg = copy.deepcopy(cfg)
            cfg.dataset.size = size
        plain = OmegaConf.to_container(cfg, resolve=True, enum_to_str=True)
    except OmegaConfBaseException as error:  # its text names the key
        fault = Fault("interpolation", str(error).splitlines()[0], "See --cfg job.")
        raise_faults([fault], overrides)
    assert isinstance(plain, dict)
    resolved: dict[str, Any] = {str(key): value for key, value in plain.items()}
    for slot in SLOTS:
        if (part := resolved.pop(slot, None)) is not None:
            resolved["method"][slot] = part
    if any(override.within("dataset.protocols", "dataset.recipes") for override in overrides):
        resolved["dataset"]["expected"] = {}
    if images is not None and isinstance(resolved.get("dataset"), dict):
        backbone_inputs.adapt(resolved["dataset"], images, typed)
    dataset = resolved.get("dataset") or {}
    if "unlabelled" in dataset and "dataset.protocol" in typed:
        dataset["unlabelled"] = None
    return resolved


def _node(cfg: DictConfig, key: str, resolve: bool) -> Any:
    """Return a node of the configuration as plain values; None if it does not exist."""
    node = cfg.get(key)
    return OmegaConf.to_container(node, resolve=resolve) if isinstance(node, DictConfig) else None


def _hint(key: str, overrides: Iterable[Override]) -> str:
    """Return what to type for a key that has no value."""
    for override in overrides:
        if override.deletes and f"{key}.".startswith(f"{override.key}."):
            return f"Leave out {override}."
    return f"Give it one: {key}=..."


def _missing_keys(node: Any, path: str = "") -> list[str]:
    """Return the keys whose value is ``???`` in an unresolved configuration."""
    if isinstance(node, Mapping):
        pairs = [(f"{path}.{key}" if path else str(key), value) for key, value in node.items()]
        return [missing for key, value in pairs for missing in _missing_keys(value, key)]
    return [path] if node == "???" else []
