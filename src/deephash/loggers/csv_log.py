"""The log of a run as a table: ``log.csv``, with a row for each step."""

import csv
import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from deephash.loggers.jsonl import make_row, read_rows
from deephash.loggers.logger import Logger
from deephash.utils.files import write_text

FILE = "log.csv"


class CsvLog(Logger):
    """Write ``log.csv`` into the run folder, from all rows of ``log.jsonl``.

    The file is replaced atomically after each evaluation and at the end, because a column may begin
    late and a resumed run drops rows.

    Args:
        folder: The run folder.
        history: ``log.jsonl`` of the run.
    """

    def __init__(self, folder: str | Path, history: str | Path | None = None) -> None:
        self.path = Path(folder) / FILE
        self._rows: dict[int, dict[str, Any]] = {}
        if history is not None:
            for row, step in read_rows(Path(history)):
                row.pop("_timestamp")
                self._rows[step] = row
        self._write()

    @classmethod
    def is_complete(cls, folder: Path, run_id: Callable[[], str]) -> bool:
        return (folder / FILE).is_file()

    def scalars(self, where: str, values: Mapping[str, float], step: int, epoch: int) -> None:
        row = self._rows.setdefault(step, {})
        row |= make_row(where, values, epoch)
        if where != "train":
            self._write()

    def close(self, failed: bool = False) -> None:
        self._write()

    def _write(self) -> None:
        names = dict.fromkeys(name for row in self._rows.values() for name in row)
        names = {"epoch": None} | names
        text = io.StringIO()
        writer = csv.DictWriter(text, ["step", *names], lineterminator="\n")
        writer.writeheader()
        writer.writerows({"step": step, **row} for step, row in sorted(self._rows.items()))
        write_text(self.path, text.getvalue())
