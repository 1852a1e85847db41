"""Names of runs, and equality of configurations."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from deephash.config import injected_arguments
from deephash.config.overrides import ORIGINS, Override, last_values
from deephash.config.resolve import SLOTS
from deephash.config.targets import arguments, current, locate, parts
from deephash.errors import ConfigError
from deephash.utils import filenames
from deephash.utils.nested import get_nested
from deephash.utils.run_paths import name_of

IGNORED_KEYS = (
    "logger",
    "paths",
    "plugins",
    "name",
    "group",
    "rerun",
    "preview",
    "trainer.device",
    "trainer.log_every",
    "trainer.eval_batch_size",
    "trainer.feature_store",
    "trainer.snapshots",
    "trainer.compile",
    "trainer.graph",
    "trainer.gradient_checkpointing",
    "trainer.profile",
    "evaluation.engine",
    "evaluation.reference",
    "evaluation.tops",
    "dataset.source.download",
    "dataset.source.origin",
    "dataset.source.find",
    "dataset.source.cached",
    "dataset.catalog",
    "dataset.recipes",
    "dataset.known",
    "dataset.expected",
    "dataset.unlabelled",
)
"""Keys that cannot change a result: locations, devices and logging."""

LEGACY_DEFAULTS = {
    "evaluation.centred": False,
    "trainer.compile": False,
    "trainer.graph": False,
    "trainer.accumulate": 1,
}
"""Keys that older runs lack, and the values that reproduce those runs.

For options of parts (nodes with a ``_target_``) these are the defaults of the constructor: the
default of a new option must reproduce the behaviour before it.
"""

NEUTRAL_VALUES = {
    "optimizer.lr_scale": None,
    "optimizer.layer_decay": None,
    "optimizer.decay_1d": True,
    "method.passes": "stacked",
    "method.cached_views": None,
}
"""Keys whose absence means the same as this value."""

DEFAULT_UNLABELLED = {
    "_target_": "deephash.data.splits.Drawn",
    "queries": 100,
    "train": None,
    "train_in_database": True,
    "unlabelled": "keep",
    "validation": 0,
    "seed": 0,
}
"""The protocol of images without labels in runs that name none, as in ``dataset=folder``.

Any other one is part of the identity of a run.
"""

UNNAMED_KEYS = (
    *IGNORED_KEYS,
    "dataset.root",
    "dataset.source.root",
    "dataset.lists",
    "dataset.source.lists",
    "dataset.name",
)
"""Keys left out of the name of a run; other images under the same name are refused."""

NAME_KEYS = ("dataset", "method", "model.nbit", "seed")
"""Keys that have a place of their own in the name of a run."""


def run_name(cfg: Mapping[str, Any], overrides: Sequence[Override]) -> str:
    """Return the folder of a run: its full name, the last component cut to a valid length.

    With ``name`` the overrides in the last component are replaced by that name.
    """
    front, _, last = full_name(cfg, overrides).rpartition("/")
    if cfg.get("name") is not None:
        return f"{front}/seed{cfg['seed']},{cfg['name']}"
    mark = "~" + hashlib.sha256(last.encode()).hexdigest()[:12]
    return f"{front}/{filenames.truncate(last, mark, most=160, head=140)}"


def full_name(cfg: Mapping[str, Any], overrides: Sequence[Override]) -> str:
    """Return the name of a run, which is the same for the same experiment.

    ``<dataset>/<method>[+part...]/<bits>bit/seed<seed>[,key=value...]``: the last component lists
    the overrides beside dataset, method, bits and seed that may change the result.
    """
    given = dict(sorted(last_values(overrides).items()))
    replaced = [given.pop(slot).strip("'\"") for slot in SLOTS if slot in given]
    replaced = [part.replace("/", "-") for part in replaced if part != "null"]
    rest = [name_part(key, value) for key, value in given.items() if is_in_name(key)]
    rest += sorted(override.name for override in overrides if override.deletes)
    last = ",".join([f"seed{cfg['seed']}", *rest]).replace("/", "-")
    method = "+".join([cfg["method"]["name"], *replaced])
    return "/".join([cfg["dataset"]["name"], method, f"{cfg['model']['nbit']}bit", last])


def is_in_name(key: str) -> bool:
    """Return whether the value of a key is listed in the last component of a run's name."""
    if key in NAME_KEYS or key.startswith("hydra"):
        return False
    return not any(f"{key}.".startswith(f"{unnamed}.") for unnamed in UNNAMED_KEYS)


def name_part(key: str, value: str) -> str:
    """Return an override as it is written in the name of a run."""
    if key in ORIGINS and value != "null":
        value = name_of(value.strip("'\"")).replace("/", "-")
    return f"{key}={_short(value)}"


def _short(value: str) -> str:
    """Return a value as part of a file name: the stem of a path, special characters as ``-``."""
    value = value.strip("'\"")
    is_path = value.startswith(("/", "~", ".")) or Path(value).suffix
    if "/" in value and is_path and not value.startswith(("{", "[")):
        value = Path(value).stem  # 10/nbit is no path
    return re.sub(r"[^\w.+=-]+", "-", value)


def identity_of(cfg: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of a configuration that determines the result of a run.

    Another run is identified by its name, wherever it lies. Of the protocols only the one in use is
    kept, and as ``dataset.unlabelled`` that of images
    without labels where it is another one, unless it is `DEFAULT_UNLABELLED`: which of the two is
    used depends on the data.
    """
    plain: dict[str, Any] = json.loads(json.dumps(cfg))
    unlabelled = (plain.get("dataset") or {}).get("unlabelled")
    for key in IGNORED_KEYS:
        *path, last = key.split(".")
        if isinstance(node := get_nested(plain, *path), dict):
            node.pop(last, None)
    for key in ORIGINS:
        if plain.get(key) is not None:
            plain[key] = name_of(plain[key])
    for key, default in NEUTRAL_VALUES.items():
        group, last = key.split(".")
        if isinstance(node := plain.get(group), dict) and node.get(last) == default:
            node.pop(last, None)
    dataset = plain.get("dataset", {})
    if "protocols" in dataset:  # later versions add others to the dataset's page
        protocols = dataset["protocols"]
        dataset["protocols"] = protocols.get(dataset.get("protocol"))
        if unlabelled not in (None, dataset.get("protocol")):
            dataset["unlabelled"] = protocols.get(unlabelled)
    for key, before in LEGACY_DEFAULTS.items():
        *path, last = key.split(".")
        if path[0] in plain:
            plain[path[0]].setdefault(last, before)
    for where, part_node in parts(plain):
        part_node["_target_"] = current(part_node["_target_"])  # type: ignore[index]
        protocol = where == "dataset.unlabelled"
        _fill_defaults("dataset.protocols" if protocol else where, part_node)
    if dataset.get("unlabelled") == DEFAULT_UNLABELLED:
        del dataset["unlabelled"]
    return plain


def _fill_defaults(path: str, node: Mapping[str, Any]) -> None:
    """Add the options that a part lacks, with the defaults of its constructor, in place.

    A run from before an option was added is then the same as one that spells out the default.
    """
    try:
        known = arguments(locate(str(node["_target_"]), path))
    except (ConfigError, TypeError, ValueError):  # an unknown part is compared as it is
        return
    taken = {*injected_arguments.names(path), *node}
    for name, parameter in known.items():
        default = parameter.default
        if name not in taken and isinstance(default, bool | int | float | str | tuple | None):
            node[name] = list(default) if isinstance(default, tuple) else default  # type: ignore[index]


def changed_keys(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Return the keys at which the identities of two configurations differ, with both values.

    Args:
        before: a resolved configuration.
        after: another one.

    Returns:
        Lines such as ``seed: 0 -> 1``; none if both describe the same experiment.
    """
    return _compare(identity_of(before), identity_of(after), "")


def _compare(a: Any, b: Any, path: str) -> list[str]:
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        lines = []
        for key in sorted({*a, *b}):
            lines += _compare(a.get(key), b.get(key), f"{path}.{key}" if path else str(key))
        return lines
    return [] if a == b else [f"{path}: {a!r} -> {b!r}"]
