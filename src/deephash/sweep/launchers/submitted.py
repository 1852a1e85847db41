"""Jobs submitted to SLURM: their execution on a node, and their state on this machine."""

import signal
import subprocess
import time
from dataclasses import dataclass
from typing import Any

from deephash.errors import ConfigError
from deephash.sweep.launchers import process
from deephash.sweep.launchers.process import Job

MARK = "submitted.json"
"""File in the folder of a queued run, with the id of its job."""

ASK = 60.0
"""Seconds between two requests to SLURM's controller, which all users share."""

GRACE = 15.0
"""Seconds for a shared folder to show the result of a job that has left the queue."""


class SubmittedRun:
    """A job as submitit pickles it; the node needs deephash to unpickle it."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.child: subprocess.Popen[bytes] | None = None

    def __call__(self) -> int:
        """Run the job; return its exit status."""
        # submitit signals this process; some clusters also signal its children, which would end.
        # A child inherits the blocked signals.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
        try:
            self.child = process.start_job(self.job)
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR2})
        try:
            while (status := self.child.poll()) is None:
                time.sleep(0.2)  # not wait(): checkpoint() interrupts it, and waits itself
        except BaseException as error:
            process.stop_jobs([self.child])
            if isinstance(error, Exception):  # submitit does not queue it again
                process.record_failure(self.job, str(error))
            raise
        process.record_end(self.job, status)
        return status

    def checkpoint(self) -> Any:
        """Return the job to be queued again; called by submitit before the node is lost.

        The run resumes after its last whole epoch.
        """
        from submitit.helpers import DelayedSubmission

        if self.child is not None:
            process.stop_jobs([self.child])
        return DelayedSubmission(SubmittedRun(self.job))


def queued() -> set[str]:
    """Return the queued and running jobs of this user; raise ConfigError if SLURM fails."""
    command = ["squeue", "--me", "--noheader", "--array", "--format=%i"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ConfigError(f"squeue, which lists the jobs of SLURM: {error}") from None
    if done.returncode:
        raise ConfigError(f"squeue, which lists the jobs of SLURM: {done.stderr.strip()}")
    return set(done.stdout.split())


class Queue:
    """The queue of SLURM, cached for some time."""

    def __init__(self) -> None:
        self.jobs: set[str] | None = None
        self.updated = float("-inf")

    def may_have(self, job: str) -> bool:
        """Return whether a job is queued, or SLURM did not answer."""
        if time.monotonic() - self.updated > ASK:
            try:
                self.jobs = queued()
            except ConfigError:
                self.jobs = None
            self.updated = time.monotonic()
        return self.jobs is None or job in self.jobs


@dataclass
class Submitted:
    """A job that submitit has submitted."""

    job: Job
    ticket: Any  # submitit's
    started: bool = False
    gone: float = float("inf")  # when it was first missing from the queue, without a result

    def begun(self) -> bool:
        """Return whether a node has opened its log."""
        return bool(self.ticket.paths.stdout.exists())

    def over(self, queue: Queue | None) -> bool:
        """Return whether it has a result or has left the queue; None: a local job."""
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
        """Return the exit status of a job that is over; write errors that it could not write."""
        (self.job.folder / MARK).unlink(missing_ok=True)
        paths = self.ticket.paths
        if paths.result_pickle.exists():
            error = self.ticket.exception()
            if error is None:
                return int(self.ticket.result())
            process.record_failure(self.job, str(error))
            return 1
        state = self.ticket.state
        if state.startswith("CANCELLED"):  # by scancel
            return process.INTERRUPTED[1]
        reason = f"job {self.ticket.job_id} left no result, its state is {state}"
        process.record_failure(self.job, f"{reason}: see {paths.stderr}")
        return 1
