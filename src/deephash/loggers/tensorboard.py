"""TensorBoard: event files in the folder ``tensorboard`` of a run."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

from deephash.loggers.jsonl import make_row, read_rows
from deephash.loggers.logger import Logger, Picture
from deephash.loggers.summary import summary_of
from deephash.report.tables import markdown_table
from deephash.utils.extras import import_extra

FOLDER = "tensorboard"


class TensorBoard(Logger):
    """Write scalars, figures, tables and the hyperparameters of a run for TensorBoard.

    ``log.jsonl`` is the record: a session that trains replaces the event files by all its rows, so
    that a resumed run has one history.

    Args:
        folder: The run folder, or that of a report.
        history: ``log.jsonl`` of training; None to add to what there is.
        parameters: What runs are compared by, in the tab of hyperparameters.

    Raises:
        ConfigError: The package is not installed.
    """

    keeps_results: ClassVar[bool] = True

    def __init__(
        self,
        folder: str | Path,
        history: str | Path | None = None,
        parameters: Mapping[str, Any] | None = None,
    ) -> None:
        self.require()
        from torch.utils.tensorboard import SummaryWriter

        path = Path(folder) / FOLDER
        if path.is_symlink():  # a run folder may come from an untrusted source
            raise OSError(f"{path} is a symbolic link; remove it")
        if history is not None:
            for old in path.glob("events.out.tfevents.*"):
                old.unlink()
        self._writer = SummaryWriter(str(path))  # type: ignore[no-untyped-call]
        self._parameters = dict(parameters or {})
        self._step = 0
        if history is not None:
            for row, step in read_rows(Path(history)):
                self._write(row, step, row.pop("_timestamp"))

    @classmethod
    def require(cls) -> None:
        import_extra("tensorboard", "logger=tensorboard", "logger=csv")

    @classmethod
    def is_complete(cls, folder: Path, run_id: Callable[[], str]) -> bool:
        return any((folder / FOLDER).glob("events.out.tfevents.*"))

    def scalars(self, where: str, values: Mapping[str, float], step: int, epoch: int) -> None:
        self._write(make_row(where, values, epoch), step)

    def report(self, report: Mapping[str, Any], step: int) -> None:
        """Write the summary and the hyperparameters into the tab ``HParams``."""
        from torch.utils.tensorboard.summary import hparams

        values = {
            f"summary/{name}": float(value)
            for name, value in summary_of(report).items()
            if not isinstance(value, str)
        }
        parts: Any = hparams(self._parameters, values)  # type: ignore[no-untyped-call]
        for part in parts:  # `add_hparams` would make a run of its own
            self._writer.file_writer.add_summary(part)  # type: ignore[union-attr, attr-defined]
        self._write(values, step)
        self._writer.flush()  # type: ignore[no-untyped-call]

    def figures(self, paths: Mapping[str, Path]) -> None:
        for name, path in paths.items():
            self._image(f"figures/{name}", path)

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Write a table as Markdown; images are left out."""
        shown = [at for at, _ in enumerate(columns) if not any(_is_image(row[at]) for row in rows)]
        cells = [[_cell(row[at]) for at in shown] for row in rows]
        text = "\n".join(markdown_table([columns[at] for at in shown], cells))
        self._writer.add_text(f"tables/{name}", text, self._step)  # type: ignore[no-untyped-call]

    def close(self, failed: bool = False) -> None:
        self._writer.close()  # type: ignore[no-untyped-call]

    def _write(self, row: Mapping[str, Any], step: int, time: float | None = None) -> None:
        self._step = step
        for name, value in row.items():
            self._writer.add_scalar(name, value, step, time)  # type: ignore[no-untyped-call]

    def _image(self, name: str, path: Path) -> None:
        import numpy as np
        from PIL import Image

        with suppress(OSError), Image.open(path) as image:
            pixels = np.asarray(image.convert("RGB"))
            self._writer.add_image(name, pixels, self._step, dataformats="HWC")  # type: ignore[no-untyped-call]


def _is_image(value: Any) -> bool:
    return isinstance(value, Picture)


def _cell(value: Any) -> str:
    return "" if value is None else str(value).replace("|", "\\|").replace("\n", " ")
