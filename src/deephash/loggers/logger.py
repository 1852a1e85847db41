"""What every logger answers to."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any


class Logger:
    """A listener to a run. Every method does nothing until a logger has something to do with it.

    A logger never blocks the training loop, and what it fails to upload is a warning.
    """

    def tick(self, n: int = 1) -> None:
        """``n`` more optimizer steps are behind us. Called at each step: cheap, and no tensors."""

    def scalars(self, where: str, values: Mapping[str, float], step: int, epoch: int) -> None:
        """Take numbers that were measured after ``step`` steps, in epoch ``epoch`` of 1, 2, ...

        ``where`` says on what: ``train``, or the name of the part that was evaluated.
        """

    def report(self, report: Mapping[str, Any], step: int) -> None:
        """Take the report of the finished run."""

    def summary(self, report: Mapping[str, Any], folder: Path) -> None:
        """Tell a person what the run came to and where its files are."""

    def figures(self, paths: Mapping[str, Path]) -> None:
        """Take the figures of an evaluation: PNG files by name."""

    def artifact(self, name: str, kind: str, paths: Mapping[str, Path]) -> None:
        """Take files that belong together: each by the name it has among them."""

    def close(self, failed: bool = False) -> None:
        """Let go of files and connections; a second call does nothing."""
