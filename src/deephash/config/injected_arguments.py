"""Values that the program passes to the constructors of parts, beside the configured options.

``PLACES`` is the only list of their names: the checks refuse a typed option of such a name, trial
builds use dummy values, and ``build.part`` passes those that a constructor takes.
"""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

if TYPE_CHECKING:
    from torch import nn


class Injected(TypedDict, total=False):
    """Injected values by argument name."""

    # of data and recipe
    in_features: int | None  # of a head: D of the backbone; of a backbone: D of features as data
    nbit: int
    num_classes: int
    num_train: int
    seed: int
    cache: str | None  # the folder of decoded images, as it was typed
    # of a method
    encoder: "nn.Module"
    relaxation: "nn.Module | None"
    codebook: "nn.Module | None"
    similarity: "nn.Module | None"
    loss: "nn.Module | None"
    # of an optimizer
    params: list[dict[str, Any]]
    # of loggers
    total_epochs: int
    steps_per_epoch: int
    metric: str
    best: dict[str, float]
    eval_every: int
    evaluation_seconds: float | None
    name: str
    run_id: str | None
    folder: Path
    history: Path | None
    config: Mapping[str, Any]
    group: str
    tags: list[str]
    job_type: str
    parameters: Mapping[str, Any]  # by which runs are grouped, see `grouping.group_values`
    # of a search engine, beside nbit and folder
    store: Any  # a CodeStore


PLACES: dict[str, frozenset[str]] = {
    "backbone": frozenset({"in_features"}),
    "method": frozenset({
        "encoder", "relaxation", "codebook", "similarity", "loss",
        "num_classes", "nbit", "seed", "num_train",
    }),
    "method.head": frozenset({"in_features", "nbit"}),
    "method.codebook": frozenset({"num_classes", "nbit", "seed"}),
    "method.loss": frozenset({"num_classes", "nbit", "seed", "num_train"}),
    "dataset.source": frozenset({"cache"}),
    "optimizer": frozenset({"params"}),
    "logger": frozenset({
        "total_epochs", "steps_per_epoch", "metric", "best", "eval_every", "evaluation_seconds",
        "name", "run_id", "folder", "config", "group", "tags", "job_type", "history", "parameters",
    }),
    "engine": frozenset({"nbit", "folder", "store"}),
}  # fmt: skip
"""The injected arguments of a part, by its place in the configuration; users cannot set them."""


def names(path: str) -> frozenset[str]:
    """Return the injected arguments of a part at a place of the configuration."""
    place = "logger" if path.startswith("logger.") else path
    return PLACES.get(place, frozenset())


def given(path: str, arguments: Collection[str], offered: Injected) -> dict[str, Any]:
    """Return the injected values for one part.

    Args:
        path: the place of the part.
        arguments: names of the arguments of its constructor.
        offered: the values that are known.

    >>> given("method.loss", ["scale", "nbit"], {"nbit": 32, "seed": 0})
    {'nbit': 32}
    """
    wanted = names(path) & set(arguments)
    return {name: value for name, value in offered.items() if name in wanted}
