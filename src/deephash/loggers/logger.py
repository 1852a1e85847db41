"""The interface of loggers."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt

Lines = Mapping[str, Sequence[tuple[float, float]]]
"""The points (x, y) of each line, by its label."""


class Picture(NamedTuple):
    """An image in a cell of a table."""

    pixels: npt.NDArray[np.uint8]  # (H, W, 3)
    caption: str = ""


class Logger:
    """Base class of loggers, whose methods do nothing.

    A logger never blocks the training loop; failed uploads are warnings.
    """

    keeps_results: ClassVar[bool] = False
    """Whether it has a place for figures, tables and files, so that evaluations and reports are
    logged as well."""

    @classmethod
    def require(cls) -> None:
        """Raise ConfigError if a package is missing; called before data are opened."""

    @classmethod
    def is_complete(cls, folder: Path, run_id: Callable[[], str]) -> bool:
        """Return whether a finished run needs nothing more from this logger.

        Args:
            folder: The run folder.
            run_id: Returns the id of the run.
        """
        return True

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

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Log a table, whose cells are numbers, texts or `Picture`."""

    def lines(self, name: str, lines: Lines, title: str, x_label: str) -> None:
        """Log a chart of lines, by their labels; each is a sequence of points (x, y)."""

    def artifact(self, name: str, kind: str, paths: Mapping[str, Path]) -> None:
        """Log a set of files, by their names in it; of kind ``model`` or ``report``."""

    def uses_data(self, name: str, uri: str, facts: Mapping[str, Any]) -> None:
        """Log which data the run used: their name, a URI with the fingerprint, and their facts."""

    def close(self, failed: bool = False) -> None:
        """Close files and connections; a second call does nothing."""
