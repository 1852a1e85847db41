"""Loggers of a run: the console, the JSON lines on disk, and optionally Weights & Biases."""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from deephash.loggers.console import Console
from deephash.loggers.jsonl import Jsonl
from deephash.loggers.logger import Lines, Logger, Picture
from deephash.loggers.wandb import Wandb

__all__ = ["Console", "Jsonl", "Logger", "Loggers", "Picture", "Wandb"]

log = logging.getLogger(__name__)


class Loggers(Logger):
    """Several loggers as one.

    A logger that raises is dropped with a warning, so that a failing service does not end training;
    except for ``Jsonl``, the run's own log.
    """

    def __init__(self, loggers: Iterable[Logger]) -> None:
        self.loggers = list(loggers)

    def tick(self, n: int = 1) -> None:
        self._call(lambda logger: logger.tick(n))

    def scalars(self, where: str, values: Mapping[str, float], step: int, epoch: int) -> None:
        self._call(lambda logger: logger.scalars(where, values, step, epoch))

    def report(self, report: Mapping[str, Any], step: int) -> None:
        self._call(lambda logger: logger.report(report, step))

    def summary(self, report: Mapping[str, Any], folder: Path) -> None:
        self._call(lambda logger: logger.summary(report, folder))

    def figures(self, paths: Mapping[str, Path]) -> None:
        self._call(lambda logger: logger.figures(paths))

    @property
    def keep_results(self) -> bool:
        """Whether a logger has a place for figures, tables and files."""
        return any(logger.keeps_results for logger in self.loggers)

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        self._call(lambda logger: logger.table(name, columns, rows))

    def lines(self, name: str, lines: Lines, title: str, x_label: str) -> None:
        self._call(lambda logger: logger.lines(name, lines, title, x_label))

    def uses_data(self, name: str, uri: str, facts: Mapping[str, Any]) -> None:
        self._call(lambda logger: logger.uses_data(name, uri, facts))

    def artifact(self, name: str, kind: str, paths: Mapping[str, Path]) -> None:
        self._call(lambda logger: logger.artifact(name, kind, paths))

    def close(self, failed: bool = False) -> None:
        self._call(lambda logger: logger.close(failed))

    def _call(self, method: Callable[[Logger], None]) -> None:
        for logger in list(self.loggers):
            try:
                method(logger)
            except Exception as error:
                if isinstance(logger, Jsonl):
                    raise
                self.loggers.remove(logger)
                name = type(logger).__name__
                log.warning("%s is dropped for the rest of the run: %r", name, error)
