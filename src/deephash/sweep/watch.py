"""Console output of a sweep: a line for each job that ends, and the time left."""

import time
from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from deephash.config.overrides import texts
from deephash.runs.status import State, epochs_done, reason
from deephash.sweep.launchers.process import ELSEWHERE, failed
from deephash.sweep.plan_jobs import PlannedJob, finished_report, seconds_left
from deephash.utils.formatting import clock, number
from deephash.utils.progress import LiveBar

EVERY = 2.0
"""Seconds between two reads of the logs of running jobs."""


class SweepProgress:
    """Show the jobs of a sweep on stderr, with a bar at a terminal.

    Args:
        planned: all jobs of the sweep.
        launched: those that run now, in the order of the launcher.
        slots: number of jobs at a time.
    """

    def __init__(
        self, planned: Sequence[PlannedJob], launched: Sequence[PlannedJob], slots: int
    ) -> None:
        self.launched = launched
        self.slots = slots
        self.total = len(planned)
        self.done = sum(job.state is State.finished and not job.left for job in planned)
        self.failed: set[str] = set()  # their names
        self._since: dict[int, float] = {}  # start of each running job
        self._spent: list[float] = []
        self._estimates = dict(enumerate(seconds_left(launched)))
        self._refreshed = 0.0
        self._screen = Console(stderr=True, highlight=False, soft_wrap=True)
        self._bar: LiveBar | None = None
        if self._screen.is_terminal:
            self._bar = LiveBar(self.total, self.done, "sweep", console=self._screen)

    def started(self, at: int) -> None:
        self._since[at] = time.monotonic()
        self._show()

    def ended(self, at: int, status: int) -> None:
        job = self.launched[at]
        seconds = time.monotonic() - self._since.pop(at, time.monotonic())
        self._estimates.pop(at, None)
        if status == 0 and job.run.finished:
            self.done += 1
            self._spent.append(seconds)
            report = finished_report(job)
            value = "damaged" if report is None else number(report["metrics"]["map"])
            outcome = f"done    {value}"
        elif not failed(status):
            outcome = "elsewhere" if status == ELSEWHERE else "stopped"
        else:
            self.failed.add(job.name)
            outcome = "FAILED"
        count = f"[{self.done + len(self.failed):>{len(str(self.total))}}/{self.total}]"
        tail = "" if self._bar else f"  |  {self._status()}"
        text = f"{count} {outcome:<14}  {clock(seconds):>6}  {job.name}{tail}"
        if outcome == "FAILED":
            text += f"\n    {reason(job.run).partition(chr(10))[0]}"
        self._screen.print(Text(text))
        self._show()

    def tick(self) -> None:
        if self._bar is not None and time.monotonic() - self._refreshed > EVERY:
            self._refreshed = time.monotonic()
            self._show()

    def close(self) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar.close()

    def _show(self) -> None:
        if self._bar is not None:
            over = self.done + len(self.failed)
            self._bar.update(over, after=f"{over}/{self.total} {self._status()}")

    def _status(self) -> str:
        parts = [f"{len(self._since)} running"]
        if self._bar is not None and self._since:
            parts[0] += f" (epoch {', '.join(self._epoch(at) for at in self._since)})"
        if self.failed:
            parts.append(f"{len(self.failed)} failed")
        if (left := self._left()) is not None:
            parts.append(f"eta {clock(left)}")
        return ", ".join(parts)

    def _epoch(self, at: int) -> str:
        job = self.launched[at]
        return f"{epochs_done(job.run)}/{job.cfg.trainer.epochs}"

    def _left(self) -> float | None:
        """Estimate the seconds until the last job ends; None if unknown."""
        known = [
            estimate for estimate in self._estimates.values() if estimate is not None
        ] + self._spent
        if not known or not self._estimates:
            return None if self._estimates else 0.0
        usual = sum(known) / len(known)
        if self._spent:  # durations of this launch are the better estimate
            usual = sum(self._spent) / len(self._spent)
        now = time.monotonic()
        left = 0.0
        for at, estimate in self._estimates.items():
            whole = usual if estimate is None or self._spent else estimate
            left += max(0.0, whole - (now - self._since.get(at, now)))
        return left / min(self.slots, len(self._estimates))


def unfinished_text(planned: Sequence[PlannedJob]) -> str:
    """List the jobs that did not finish, with reasons; empty if all did."""
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
        if len(others) > 5:
            lines.append(f"  and {len(others) - 5} more")
    return "\n".join(lines)
