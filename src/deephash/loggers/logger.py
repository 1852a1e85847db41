"""The interface of loggers."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any


class Logger:
    """Base class of loggers, whose methods do nothing.

    A logger never blocks the training loop; failed uploads are warnings.
    """

    def tick(self, n: int = 1) -> None:
        """Count ``n`` more optimizer steps; called at each step, so it must be cheap."""

    def scalars(self, where: str, values: Mapping[str, float], step: int, epoch: int) -> None:
        """Log values after ``step`` steps, in epoch ``epoch`` of 1, 2, ...

        ``where`` is ``train`` or the name of the evaluated split.
        """

    def report(self, report: Mapping[str, Any], step: int) -> None:
        """Log the report of the finished run."""

    def summary(self, report: Mapping[str, Any], folder: Path) -> None:
        """Print the result of the run and where its files are."""

    def figures(self, paths: Mapping[str, Path]) -> None:
        """Log the figures of an evaluation: PNG files by name."""

    def artifact(self, name: str, kind: str, paths: Mapping[str, Path]) -> None:
        """Log a set of files, by their names in it."""

    def close(self, failed: bool = False) -> None:
        """Close files and connections; a second call does nothing."""
