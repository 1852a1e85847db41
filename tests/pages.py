"""Typed pages of the configuration for tests that build parts of one."""

from collections.abc import Mapping, Sequence
from typing import Any

from hydra import compose

from deephash.config import checks, resolve, schema
from deephash.config.overrides import Override, parse_all

KINDS = {
    "train": schema.Train,
    "evaluate": schema.Evaluate,
    "data": schema.Data,
    "report": schema.Report,
}


def typed(folded: Mapping[str, Any]) -> schema.Train:
    """The page of ``train.py`` that folded values make, unchecked: a test may leave it wrong."""
    return schema.parse(schema.Train, folded)


def job(page: str, words: Sequence[str]) -> tuple[Any, tuple[Override, ...]]:
    """The checked page and the overrides that a job takes, where Hydra is initialized.

    Args:
        page: ``train``, ``evaluate`` or ``data``.
        words: the command line.
    """
    overrides = parse_all(words)
    resolved = resolve.resolve(compose(page, overrides=list(words)), overrides)
    return checks.parse_page(KINDS[page], resolved, overrides), overrides
