"""Access to values in nested mappings."""

from collections.abc import Mapping
from typing import Any


def get_nested(values: Any, *keys: str) -> Any:
    """Return the value at a path of keys, or None if a key is missing on the way.

    >>> get_nested({"metrics": {"map": 0.5}}, "metrics", "map")
    0.5
    >>> get_nested({"metrics": None}, "metrics", "map") is None
    True
    """
    for key in keys:
        values = values.get(key) if isinstance(values, Mapping) else None
    return values
