"""Typed pages of the configuration for tests that build parts of one."""

from collections.abc import Mapping
from typing import Any

from deephash import schema


def typed(folded: Mapping[str, Any]) -> schema.Train:
    """The page of ``train.py`` that folded values make, unchecked: a test may leave it wrong."""
    return schema.parse(schema.Train, folded)
