"""Progress of long work on stderr: a bar at a terminal, lines elsewhere."""

import contextlib
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from deephash.utils.formatting import clock

if TYPE_CHECKING:
    from rich.console import Console

LONG = 5.0
"""Seconds after which work is reported where no bar is shown."""

_quiet = False


def quiet(on: bool = True) -> None:
    """Show no bar at a terminal either, as for ``logger=quiet``."""
    global _quiet
    _quiet = on


def tell(line: str) -> None:
    """Print a line to stderr that is neither a result nor a warning."""
    print(line, file=sys.stderr, flush=True)


class LiveBar:
    """A bar at a terminal, with a text before and after it; removed by ``close``.

    Args:
        total: number of steps.
        done: completed steps.
        before: text before the bar.
        after: text after the percentage.
        console: of rich; None for stderr.
    """

    def __init__(
        self,
        total: int,
        done: int = 0,
        before: str = "",
        after: str = "",
        console: "Console | None" = None,
    ) -> None:
        from rich.console import Console  # late: the command line starts without it
        from rich.progress import BarColumn, Progress, TextColumn

        columns: list[Any] = [BarColumn(), TextColumn("{task.percentage:>3.0f}%")]
        columns.append(TextColumn("{task.fields[after]}", markup=False))
        if before:
            columns.insert(0, TextColumn("{task.fields[before]}", markup=False))
        self._progress = Progress(
            *columns,
            console=console or Console(stderr=True),
            refresh_per_second=4,
            transient=True,
        )
        self._task = self._progress.add_task(
            "", total=total, completed=done, before=before, after=after
        )
        self._progress.start()

    def update(self, done: int, **texts: Any) -> None:
        """Set the number of completed steps, and the texts ``before`` and ``after``."""
        self._progress.update(self._task, completed=done, **texts)

    def close(self) -> None:
        """Remove the bar."""
        self._progress.stop()


class Bar:
    """The progress of ``bar``; not thread-safe."""

    def __init__(self, title: str, total: int, done: int = 0) -> None:
        self.title, self.total, self.done = title, total, done
        self._before = done
        self._began = time.monotonic()
        self._announced = False
        self._live: LiveBar | None = None

    def advance(self, n: int = 1) -> None:
        """Count ``n`` more pieces as done."""
        self.done += n
        if self._live is not None:
            self._live.update(self.done, after=self._count())
        elif not self._announced and self._seconds > LONG and self.done < self.total:
            self._announce(f"{self.title}: {self.done / self.total:.0%} done, {self._left()} left")

    @property
    def _seconds(self) -> float:
        return time.monotonic() - self._began

    def _left(self) -> str:
        each = self._seconds / (self.done - self._before)
        return clock(each * (self.total - self.done))

    def _count(self) -> str:
        left = self._left() if self.done > self._before else "-:--"
        return f"{self.done}/{self.total} eta {left}"

    def _announce(self, line: str) -> None:
        self._announced = True
        tell(line)

    def _open(self, announce: bool) -> None:
        if self.done >= self.total:
            return
        show_bar = sys.stderr.isatty() and not _quiet
        if show_bar or announce:
            self._announce(self.title)
        if show_bar:
            self._live = LiveBar(self.total, self.done, after=self._count())

    def _close(self, completed: bool) -> None:
        if self._live is not None:
            self._live.close()
        if completed and self._seconds > LONG:
            tell(f"{self.title}: done in {clock(self._seconds)}")


@contextlib.contextmanager
def bar(title: str, total: int, done: int = 0, announce: bool = False) -> Iterator[Bar]:
    """Show the progress of some work from entering the block to leaving it.

    At a terminal, print the title and show a bar. Elsewhere, and after ``quiet()``, print a line
    only if the work takes more than ``LONG`` seconds. Such work has another line at its end, unless
    it failed.

    Args:
        title: the work, such as ``decoding 60,000 images``.
        total: number of pieces.
        done: number of pieces that were done before.
        announce: print the title in any case, for work that is known to be long.
    """
    shown = Bar(title, total, done)
    shown._open(announce)
    completed = False
    try:
        yield shown
        completed = True
    finally:
        shown._close(completed)
