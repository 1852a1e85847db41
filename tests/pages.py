"""Typed pages of the configuration for tests that build parts of one."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hydra import compose, initialize_config_dir

from deephash.config import checks, resolve, schema
from deephash.config.overrides import Override, parse_all
from tests.paths import CONF

KINDS = {
    "train": schema.Train,
    "evaluate": schema.Evaluate,
    "data": schema.Data,
    "report": schema.Report,
    "export": schema.Export,
}


@contextlib.contextmanager
def composable() -> Iterator[None]:
    """Make the repository's configuration composable with Hydra."""
    schema.register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield


def typed(folded: Mapping[str, Any]) -> schema.Train:
    """The page of ``train.py`` that folded values make, unchecked: a test may leave it wrong."""
    return schema.parse(schema.Train, folded)


def resolved(words: Sequence[str], page: str = "train") -> dict[str, Any]:
    """The folded values of a command line, where Hydra is initialized.

    Args:
        words: the command line.
        page: ``train`` or another page.
    """
    return resolve.resolve(compose(page, overrides=list(words)), parse_all(words))


def job(page: str, words: Sequence[str]) -> tuple[Any, tuple[Override, ...]]:
    """The checked page and the overrides that a job takes, where Hydra is initialized.

    Args:
        page: ``train``, ``evaluate`` or ``data``.
        words: the command line.
    """
    overrides = parse_all(words)
    return checks.parse_page(KINDS[page], resolved(words, page), overrides), overrides
