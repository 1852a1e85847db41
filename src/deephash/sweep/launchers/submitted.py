"""A job in SLURM's hands: what its node does, and how this machine knows what became of it."""

import signal
import subprocess
import time
from dataclasses import dataclass
from typing import Any

from deephash.errors import ConfigError
from deephash.sweep.launchers import process
from deephash.sweep.launchers.process import Job

MARK = "submitted.json"
"""In the folder of a run that SLURM has in its queue: the job there."""

ASK = 60.0
"""Seconds between two questions to SLURM's controller, which all users share."""

GRACE = 15.0
"""Seconds that a shared folder may take to show the result of a job which left the queue."""


class Run:
    """What is submitted: one job. The node unpickles it, so deephash is installed there too."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.child: subprocess.Popen[bytes] | None = None

    def __call__(self) -> int:
        """Runs the job; returns its exit status."""
        # submitit's word to this process; some clusters send it to its children as well, whom it
        # would kill. What is blocked here stays blocked in a child.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
        try:
            self.child = process.start(self.job)
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR2})
        try:
            while (status := self.child.poll()) is None:
                time.sleep(0.2)  # not wait(): checkpoint() interrupts, and must be able to wait
        except BaseException as why:
            process.stop([self.child])
            if isinstance(why, Exception):  # not queued again, says submitit
                process.fail(self.job, str(why))
            raise
        process.end(self.job, status)
        return status

    def checkpoint(self) -> Any:
        """Called by submitit before SLURM takes the node away: what is to be queued instead.

        The same job; it goes on from its last whole epoch.
        """
        from submitit.helpers import DelayedSubmission

        if self.child is not None:
            process.stop([self.child])
        return DelayedSubmission(Run(self.job))


def queued() -> set[str]:
    """The jobs of this user that SLURM has queued or running; raises ConfigError if it is mute."""
    command = ["squeue", "--me", "--noheader", "--array", "--format=%i"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ConfigError(f"squeue, which tells what SLURM has queued: {error}") from None
    if done.returncode:
        raise ConfigError(f"squeue, which tells what SLURM has queued: {done.stderr.strip()}")
    return set(done.stdout.split())


class Queue:
    """What SLURM has queued, asked for now and then."""

    def __init__(self) -> None:
        self.jobs: set[str] | None = None
        self.asked = float("-inf")

    def may_have(self, job: str) -> bool:
        """Whether a job is there, or SLURM did not answer."""
        if time.monotonic() - self.asked > ASK:
            try:
                self.jobs = queued()
            except ConfigError:
                self.jobs = None
            self.asked = time.monotonic()
        return self.jobs is None or job in self.jobs


@dataclass
class Submitted:
    """A job in the hands of submitit."""

    job: Job
    ticket: Any  # submitit's
    started: bool = False
    gone: float = float("inf")  # when it was first missing in the queue, without a result

    def begun(self) -> bool:
        """Whether a node has opened its log."""
        return bool(self.ticket.paths.stdout.exists())

    def over(self, queue: Queue | None) -> bool:
        """Whether its result is there, or will never be; no queue on this machine."""
        if self.ticket.paths.result_pickle.exists():
            return True
        if queue is None:
            return bool(self.ticket.done())
        if queue.may_have(self.ticket.job_id):
            self.gone = float("inf")
            return False
        self.gone = min(self.gone, time.monotonic())
        return time.monotonic() - self.gone > GRACE

    def status(self) -> int:
        """Exit status of a job that is over; what it could not tell itself goes to its folder."""
        (self.job.folder / MARK).unlink(missing_ok=True)
        paths = self.ticket.paths
        if paths.result_pickle.exists():
            error = self.ticket.exception()
            if error is None:
                return int(self.ticket.result())
            process.fail(self.job, str(error))
            return 1
        state = self.ticket.state
        if state.startswith("CANCELLED"):  # by scancel: it was told to stop
            return process.INTERRUPTED[1]
        name = self.ticket.job_id
        process.fail(
            self.job, f"job {name} left no result, its state is {state}: see {paths.stderr}"
        )
        return 1
