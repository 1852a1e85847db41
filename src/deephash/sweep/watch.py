"""What a person sees of a sweep while it runs: a line for each job that ends, and the time left."""

import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.text import Text

from deephash.config.overrides import texts
from deephash.runs.status import State, epochs_done, reason
from deephash.sweep.launchers.process import ELSEWHERE, failed
from deephash.sweep.plan_jobs import Planned, report_of, seconds_left
from deephash.utils.formatting import clock, number

EVERY = 2.0
"""Seconds between two looks at the logs of jobs that run."""


class Screen:
    """Watches the jobs of a sweep, on stderr; with a bar at a terminal, else lines alone.

    Args:
        planned: all jobs of the sweep.
        launched: those of them that run now, in the order in which the launcher has them.
        slots: how many run at a time.
    """

    def __init__(self, planned: Sequence[Planned], launched: Sequence[Planned], slots: int) -> None:
        self.launched = launched
        self.slots = slots
        self.total = len(planned)
        self.done = sum(job.state is State.finished and not job.left for job in planned)
        self.failed: set[str] = set()  # their names
        self._since: dict[int, float] = {}  # a running job and when it began
        self._spent: list[float] = []
        self._guesses = dict(enumerate(seconds_left(launched)))
        self._looked = 0.0
        self._screen = Console(stderr=True, highlight=False, soft_wrap=True)
        self._bar: Progress | None = None
        if self._screen.is_terminal:
            self._bar = Progress(
                TextColumn("sweep"), BarColumn(), MofNCompleteColumn(),
                TextColumn("{task.fields[told]}", markup=False),
                console=self._screen, refresh_per_second=4, transient=True,
            )  # fmt: skip
            self._task = self._bar.add_task("", total=self.total, completed=self.done, told="")
            self._bar.start()

    def started(self, at: int) -> None:
        self._since[at] = time.monotonic()
        self._show()

    def ended(self, at: int, status: int) -> None:
        job = self.launched[at]
        seconds = time.monotonic() - self._since.pop(at, time.monotonic())
        self._guesses.pop(at, None)
        if status == 0 and job.run.finished:
            self.done += 1
            self._spent.append(seconds)
            report = report_of(job)
            value = "damaged" if report is None else number(report["metrics"]["map"])
            what = f"done    {value}"
        elif not failed(status):
            what = "elsewhere" if status == ELSEWHERE else "stopped"
        else:
            self.failed.add(job.name)
            what = "FAILED"
        count = f"[{self.done + len(self.failed):>{len(str(self.total))}}/{self.total}]"
        tail = "" if self._bar else f"  |  {self._told()}"
        text = f"{count} {what:<14}  {clock(seconds):>6}  {job.name}{tail}"
        if what == "FAILED":
            text += f"\n    {reason(job.run).partition(chr(10))[0]}"
        self._screen.print(Text(text))
        self._show()

    def tick(self) -> None:
        if self._bar is not None and time.monotonic() - self._looked > EVERY:
            self._looked = time.monotonic()
            self._show()

    def close(self) -> None:
        """Takes the bar off the screen."""
        if self._bar is not None:
            self._bar.stop()

    def _show(self) -> None:
        if self._bar is not None:
            self._bar.update(self._task, completed=self.done + len(self.failed), told=self._told())

    def _told(self) -> str:
        parts = [f"{len(self._since)} running"] + [f"{len(self.failed)} failed"] * bool(self.failed)
        if self._bar is not None:
            epochs = [self._epoch(at) for at in self._since]
            parts[0] += f" (epoch {', '.join(epochs)})" * bool(epochs)
        left = self._left()
        return ", ".join(parts + ([] if left is None else [f"eta {clock(left)}"]))

    def _epoch(self, at: int) -> str:
        job = self.launched[at]
        return f"{epochs_done(job.run)}/{job.cfg.trainer.epochs}"

    def _left(self) -> float | None:
        """Seconds until the last job ends; None as long as nothing tells."""
        known = [guess for guess in self._guesses.values() if guess is not None] + self._spent
        if not known or not self._guesses:
            return None if self._guesses else 0.0
        usual = sum(known) / len(known)
        if self._spent:  # what this machine does now is the better guess
            usual = sum(self._spent) / len(self._spent)
        now = time.monotonic()
        left = 0.0
        for at, guess in self._guesses.items():
            whole = usual if guess is None or self._spent else guess
            left += max(0.0, whole - (now - self._since.get(at, now)))
        return left / min(self.slots, len(self._guesses))


def account(planned: Sequence[Planned], folder: Path | None = None) -> str:
    """What did not finish, and why, for the end of a sweep; empty if all did."""
    lines = []
    for job in planned:
        if job.state is State.failed:
            lines += [
                f"failed: {' '.join(texts(job.overrides))}",
                reason(job.run),
                f"  in {job.run.path}",
            ]
    others = [job for job in planned if job.state not in (State.finished, State.failed)]
    if others:
        lines.append(f"{len(others)} of {len(planned)} jobs are not finished:")
        lines += [f"  {job.state.value:<12}{job.run.path}" for job in others[:5]]
        lines += [f"  and {len(others) - 5} more"] * (len(others) > 5)
    return "\n".join(lines)
