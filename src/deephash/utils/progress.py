"""How far long work is, on stderr: a bar at a terminal, elsewhere a line when it takes long."""

import contextlib
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from deephash.utils.formatting import clock

if TYPE_CHECKING:
    from rich.progress import Progress

LONG = 5.0
"""Seconds from which on work is worth a line where no bar shows it."""

_quiet = False


def quiet(on: bool = True) -> None:
    """Whether no bar is shown at a terminal either, as ``logger=quiet`` wants it."""
    global _quiet
    _quiet = on


def tell(line: str) -> None:
    """Says something on stderr that is neither a result nor a warning."""
    print(line, file=sys.stderr, flush=True)


class Bar:
    """What ``bar`` gives; to be advanced by one thread."""

    def __init__(self, what: str, total: int, done: int = 0) -> None:
        self.what, self.total, self.done = what, total, done
        self._before = done
        self._began = time.monotonic()
        self._told = False
        self._live: Progress | None = None

    def advance(self, n: int = 1) -> None:
        """So many more are done."""
        self.done += n
        if self._live is not None:
            self._live.update(self._live.task_ids[0], completed=self.done)
        elif not self._told and self._seconds > LONG and self.done < self.total:
            each = self._seconds / (self.done - self._before)
            left = clock(each * (self.total - self.done))
            self._tell(f"{self.what}: {self.done / self.total:.0%} done, {left} left")

    @property
    def _seconds(self) -> float:
        return time.monotonic() - self._began

    def _tell(self, line: str) -> None:
        self._told = True
        tell(line)

    def _open(self, soon: bool) -> None:
        if self.done >= self.total:
            return
        if sys.stderr.isatty() and not _quiet:
            self._tell(self.what)
            self._live = _live(self.total, self.done)
            self._live.start()
        elif soon:
            self._tell(self.what)

    def _close(self, whole: bool) -> None:
        if self._live is not None:
            self._live.stop()
        if whole and self._seconds > LONG:
            tell(f"{self.what}: done in {clock(self._seconds)}")


@contextlib.contextmanager
def bar(what: str, total: int, done: int = 0, soon: bool = False) -> Iterator[Bar]:
    """Shows how far some work is, from entering the block to leaving it.

    At a terminal the line ``what`` and a bar that goes when the work is done. Elsewhere, and after
    ``quiet()``, the line alone, and only when the work takes more than ``LONG`` seconds. Work that
    took so long has a line at its end, unless it failed.

    Args:
        what: the work, such as ``decoding 60,000 images``.
        total: how many pieces it has.
        done: how many of them were done before.
        soon: say the line at the beginning in any case: the work is known to be long.
    """
    shown = Bar(what, total, done)
    shown._open(soon)
    whole = False
    try:
        yield shown
        whole = True
    finally:
        shown._close(whole)


def _live(total: int, done: int) -> "Progress":
    from rich.console import Console  # late: the command line starts without it
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.progress import TimeRemainingColumn as TimeRemaining

    live = Progress(
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        MofNCompleteColumn(),
        TextColumn("eta"),
        TimeRemaining(compact=True),
        console=Console(stderr=True),
        refresh_per_second=4,
        transient=True,
    )
    live.add_task("", total=total, completed=done)
    return live
