"""Where the data of a run are now, for commands after its training."""

from collections.abc import Mapping
from typing import Any

from deephash.config import targets
from deephash.errors import ConfigError


def move_data(ran: Mapping[str, Any], places: Mapping[str, Any]) -> None:
    """Replace the folders of the data in the configuration of a run, in place.

    Args:
        ran: ``config.yaml``.
        places: ``root`` and ``lists``; null keeps that of the run.

    Raises:
        ConfigError: the source of the run has no such folder.
    """
    for key, path in places.items():
        if path is None:
            continue
        if key not in ran["dataset"]["source"]:
            kind = {"root": "folder", "lists": "lists"}[key]
            name = ran["dataset"]["name"]
            raise ConfigError(f"dataset.{key}  {name} reads no {kind}. Leave it out.")
        ran["dataset"][key] = ran["dataset"]["source"][key] = path


def without_download(source: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the node of a source that does not download missing data."""
    known = targets.arguments(targets.locate(source["_target_"], "dataset.source"))
    return {**source, "download": False} if "download" in known else source
