"""The values by which runs are grouped and compared, under short names."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from deephash.config import requirements
from deephash.config.resolve import SLOTS
from deephash.utils.nested import get_nested

EVERY_RUN = {
    "method": "method.name",
    "dataset": "dataset.name",
    "protocol": "dataset.protocol",
    "backbone": "backbone.name",
    "bits": "model.nbit",
    "batch_size": "trainer.batch_size",
    "epochs": "trainer.epochs",
    "lr": "optimizer.lr",
    "seed": "seed",
    "group": "group",
}
"""Names of values that do not depend on the method, and their keys."""


def group_values(cfg: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values by which runs are grouped: what every run has, and the method's options.

    The options are the numbers, texts and flags among those of the loss, the similarity and the
    method itself, such as ``scale`` and ``margin``. If two of them have an option of the same name,
    the name of the part precedes it: ``loss_scale``. Of every part there is the name of its class.

    Args:
        cfg: A resolved configuration; keys that an older one lacks are left out.
    """
    values = {name: get_nested(cfg, *key.split(".")) for name, key in EVERY_RUN.items()}
    if values["backbone"] is None:
        values["backbone"] = class_name(cfg.get("backbone"))
    method = cfg.get("method") or {}
    values |= {slot: class_name(method.get(slot)) for slot in SLOTS}
    nodes = {part: method.get(part) for part in ("loss", "similarity")}
    nodes["method"] = requirements.options({"_target_": None, **method})
    options = [
        (part, option, value)
        for part, node in nodes.items()
        if isinstance(node, Mapping)
        for option, value in node.items()
        if option != "_target_" and isinstance(value, bool | int | float | str)
    ]
    count = Counter(option for _, option, _ in options)
    for part, option, value in options:
        unique = count[option] == 1 and option not in values
        values[option if unique else f"{part}_{option}"] = value
    return {name: value for name, value in values.items() if value is not None}


def class_name(node: Any) -> str | None:
    """Return the class of a part in small letters; None without a part."""
    target = node.get("_target_") if isinstance(node, Mapping) else None
    return None if target is None else str(target).rpartition(".")[2].lower()
