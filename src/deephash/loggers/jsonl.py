"""The record of a run that is always kept: one JSON object a line."""

import json
import logging
import math
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from deephash.errors import FileError, WriteError
from deephash.loggers.logger import Logger
from deephash.utils.files import make_folder, open_no_follow, parse_json, write_text, writing

log = logging.getLogger(__name__)

HEAD = ("time", "where", "step", "epoch")


class Jsonl(Logger):
    """Appends to a file what the run says, and keeps it readable whenever the run is killed.

    A line is ``{"time", "where", "step", "epoch", **values}`` and is flushed at once. A number
    that JSON does not know is written as the string ``nan``, ``inf`` or ``-inf``. The report is
    not repeated here: it has a file of its own.

    This is the source of truth, so unlike the other loggers it raises when it cannot write.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        make_folder(self.path.parent)
        with writing(self.path):
            if self.path.exists() and not self.path.is_symlink():
                cut_torn_line(self.path)
            self._file = open_no_follow(self.path, "a")

    def scalars(self, where: str, values: Mapping[str, float], step: int, epoch: int) -> None:
        if taken := [name for name in HEAD if name in values]:
            raise ValueError(f"a value cannot be called {taken[0]!r}: every line has one already")
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        line = {"time": now, "where": where, "step": int(step), "epoch": int(epoch)}
        line |= {name: plain(value) for name, value in values.items()}
        with writing(self.path):
            self._file.write(json.dumps(line, allow_nan=False) + "\n")
            self._file.flush()

    def truncate_after(self, step: int) -> None:
        """Forget what was logged after ``step``, so that a resumed run does not say it twice.

        Lines that cannot be read go too. The file is replaced in one move: killed in between, the
        old one is still there.
        """
        self._file.close()
        lines = self.path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
        kept = [line for line in lines if (at := step_of(line)) is not None and at <= step]
        if len(kept) < len(lines):
            log.info("%s: %d lines after step %d dropped", self.path, len(lines) - len(kept), step)
            write_text(self.path, "".join(kept))
        self._file = open_no_follow(self.path, "a")

    def close(self, failed: bool = False) -> None:
        try:
            with writing(self.path):
                self._file.close()
        except WriteError:
            if not failed:  # else the run has ended with this error or another one
                raise


def plain(value: float) -> float | int | str:
    """The value as strict JSON has it.

    >>> plain(0.5), plain(3), plain(float("-inf"))
    (0.5, 3, '-inf')
    """
    if isinstance(value, int):  # a bool too
        return value
    value = float(value)
    return value if math.isfinite(value) else str(value)


def step_of(line: str) -> int | None:
    """The step a line was logged at; None for a line that is not one of ours.

    >>> step_of('{"step": 7}'), step_of('{"step": 7')
    (7, None)
    """
    try:
        return int(parse_json(Path("log.jsonl"), line, "log")["step"])
    except (FileError, ValueError, KeyError, TypeError, OverflowError):
        return None


def cut_torn_line(path: Path) -> None:
    """Drop what follows the last newline: a line the run was killed in the middle of."""
    with path.open("rb+") as file:
        content = file.read()
        if not content.endswith(b"\n"):
            file.truncate(content.rfind(b"\n") + 1)
