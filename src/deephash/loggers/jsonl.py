"""The log of a run on disk, ``log.jsonl``: a JSON object on each line."""

import json
import logging
import math
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from deephash.errors import FileError, WriteError
from deephash.loggers.logger import Logger
from deephash.utils.files import make_folder, open_no_follow, parse_json, write_text, writing

log = logging.getLogger(__name__)

HEAD = ("time", "where", "step", "epoch")


class Jsonl(Logger):
    """Append the values of a run to a file that stays readable if the run is killed.

    A line is ``{"time", "where", "step", "epoch", **values}`` and is flushed at once. Numbers that
    JSON does not have are the strings ``nan``, ``inf`` and ``-inf``. The report has its own file.

    Unlike other loggers, this one raises if it cannot write.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        make_folder(self.path.parent)
        with writing(self.path):
            if self.path.exists() and not self.path.is_symlink():
                remove_partial_line(self.path)
            self._file = open_no_follow(self.path, "a")

    def scalars(self, where: str, values: Mapping[str, float], step: int, epoch: int) -> None:
        if taken := [name for name in HEAD if name in values]:
            raise ValueError(f"a value cannot be called {taken[0]!r}: every line has this key")
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        line = {"time": now, "where": where, "step": int(step), "epoch": int(epoch)}
        line |= {name: to_json(value) for name, value in values.items()}
        with writing(self.path):
            self._file.write(json.dumps(line, allow_nan=False) + "\n")
            self._file.flush()

    def truncate_after(self, step: int) -> None:
        """Remove the lines after ``step``, which a resumed run logs again, and unreadable lines.

        The file is replaced atomically.
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
            if not failed:  # otherwise an error is being raised already
                raise


def to_json(value: float) -> float | int | str:
    """Convert a number for strict JSON.

    >>> to_json(0.5), to_json(3), to_json(float("-inf"))
    (0.5, 3, '-inf')
    """
    if isinstance(value, int):  # a bool too
        return value
    value = float(value)
    return value if math.isfinite(value) else str(value)


def step_of(line: str) -> int | None:
    """Return the step of a line; None for an unreadable line.

    >>> step_of('{"step": 7}'), step_of('{"step": 7')
    (7, None)
    """
    try:
        return int(parse_json(Path("log.jsonl"), line, "log")["step"])
    except (FileError, ValueError, KeyError, TypeError, OverflowError):
        return None


def remove_partial_line(path: Path) -> None:
    """Remove everything after the last newline, a line that a killed run has not finished."""
    with path.open("rb+") as file:
        content = file.read()
        if not content.endswith(b"\n"):
            file.truncate(content.rfind(b"\n") + 1)


def make_row(where: str, values: Mapping[str, float], epoch: int) -> dict[str, Any]:
    """Return the values of a line as those of a row, which joins all lines of a step.

    >>> make_row("train", {"loss": 0.5, "images_seen": 100}, 1)
    {'train/loss': 0.5, 'epoch': 1, 'images_seen': 100}
    """
    row: dict[str, Any] = {f"{where}/{name}": value for name, value in values.items()}
    row["epoch"] = epoch
    if (seen := row.pop(f"{where}/images_seen", None)) is not None:
        row["images_seen"] = seen
    return row


def read_rows(history: Path) -> Iterator[tuple[dict[str, Any], int]]:
    """Yield the row of each step of a ``log.jsonl``, and the step."""
    row: dict[str, Any] = {}
    at = -1
    text = history.read_text(encoding="utf-8", errors="replace") if history.is_file() else ""
    for text_line in text.splitlines():
        try:
            line = parse_json(history, text_line, "log")
            step, where, epoch = int(line.pop("step")), line.pop("where"), line.pop("epoch")
            time = datetime.fromisoformat(line.pop("time")).timestamp()
        except (FileError, ValueError, KeyError, TypeError, AttributeError, OverflowError):
            continue  # not a line of the log
        if row and step != at:
            yield row, at
            row = {}
        at = step
        values = {name: value for name, value in line.items() if not isinstance(value, str)}
        values |= {name: float(value) for name, value in line.items() if value in NOT_FINITE}
        row |= make_row(where, values, epoch) | {"_timestamp": time}
    if row:
        yield row, at


NOT_FINITE = ("nan", "inf", "-inf")
"""Strings for numbers that JSON does not have."""
