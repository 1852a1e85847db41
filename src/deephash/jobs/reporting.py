"""Report a sweep."""

from collections.abc import Mapping, Sequence
from typing import Any

Config = Mapping[str, Any]


def report(cfg: Config, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The tables and figures of sweeps."""
    raise NotImplementedError
