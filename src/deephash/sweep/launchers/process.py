"""A job is a command in a process of its own, and a folder: what all launchers have in common."""

import contextlib
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from deephash.utils import program
from deephash.utils.files import (
    make_folder,
    open_no_follow,
    read_end,
    remove,
    write_text,
    writing,
)
from deephash.utils.run_paths import ERROR
from deephash.utils.run_paths import JOB_LOG as LOG

LAUNCH = "DEEPHASH_LAUNCH"
"""Which launch a job is of; in its environment."""

PARENT = "DEEPHASH_PARENT"
"""The process a job ends with; in its environment."""

INTERRUPTED = (130, -signal.SIGTERM)
"""Exit statuses of a job that was told to stop: no failure, the next launch resumes it."""

ELSEWHERE = 75
"""The exit status of a job whose run another process has taken meanwhile: no failure either."""

TAIL = 40
"""Lines of the log that stand in the account of a failure that the job could not write."""


@dataclass(frozen=True)
class Job:
    """What is to be run."""

    name: str  # of its run
    folder: Path  # of its run, absolute
    command: tuple[str, ...]  # a whole training run
    launch: str = ""  # the same for all jobs of a launch, and for each try of one


class Watch(Protocol):
    """Who is told how jobs go; they are named by their place in the list that was launched."""

    def started(self, at: int) -> None:
        """A job runs now; again if it is run once more."""

    def ended(self, at: int, status: int) -> None:
        """A job is over: its exit status, negative for a signal."""

    def tick(self) -> None:
        """Called at least once a second while there is nothing to tell."""


class Launcher(Protocol):
    """Who runs jobs. What became of them is in their folders."""

    waits: bool  # whether `launch` returns when all is over

    @property
    def slots(self) -> int:
        """How many jobs run at a time."""
        ...

    def launch(self, jobs: Sequence[Job], watch: Watch) -> None:
        """Runs all jobs; one that fails stops no other."""

    def busy(self, jobs: Sequence[Job]) -> set[int]:
        """Places of the jobs that an earlier launch still has in a queue."""
        ...


def start(job: Job, environment: Mapping[str, str] | None = None) -> "subprocess.Popen[bytes]":
    """Starts a job, in the working directory of this process; what it says goes to its folder.

    Args:
        job: what to run.
        environment: what its environment has beside this process's.
    """
    make_folder(job.folder)
    remove(job.folder / ERROR)
    with open_no_follow(job.folder / LOG, "ab") as log:
        with writing(job.folder / LOG):
            log.write(f"$ {shlex.join(job.command)}\n".encode())
            log.flush()
        return subprocess.Popen(
            job.command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=dict(os.environ)
            | dict(environment or {})
            | {PARENT: str(os.getpid()), LAUNCH: job.launch}
            | {program.STARTED_AS: program.started_as()},
            start_new_session=True,  # Ctrl-C reaches it once, through its launcher
        )


def end(job: Job, status: int) -> None:
    """Keeps an account of a failure in the job's folder, unless the job itself has left one.

    Args:
        job: that is over.
        status: its exit status, negative for a signal.
    """
    error, log = job.folder / ERROR, job.folder / LOG
    if not failed(status) or error.is_file():
        return
    lines = read_end(log).splitlines()[-TAIL:]
    make_folder(job.folder)
    write_text(error, "\n".join([_how(status), *lines]) + "\n")


def failed(status: int) -> bool:
    """Whether an exit status tells of a failure."""
    return status not in (0, *INTERRUPTED, ELSEWHERE)


def _how(status: int) -> str:
    if status >= 0:
        return f"exit status {status}"
    if -status == signal.SIGKILL:
        return "killed by SIGKILL: was the memory of the machine full?"
    known = {one.value: one.name for one in signal.Signals}
    return f"killed by {known.get(-status, f'signal {-status}')}"


def fail(job: Job, why: str) -> None:
    """Keeps a failure that the job could not tell: at the end of its log, and as its error."""
    make_folder(job.folder)
    with writing(job.folder / LOG), open_no_follow(job.folder / LOG, "a") as log:
        log.write(f"{why.rstrip()}\n")
    end(job, 1)


def run(job: Job, environment: Mapping[str, str] | None = None) -> int:
    """Starts a job and waits for it; returns its exit status."""
    process = start(job, environment)
    try:
        while (status := process.poll()) is None:
            time.sleep(0.2)  # not wait(): who is interrupted in it cannot wait for the end
    except BaseException:
        stop([process])
        raise
    end(job, status)
    return status


def stop(processes: Sequence["subprocess.Popen[bytes]"], patience: float = 20) -> None:
    """Asks jobs to stop; those that do not in so many seconds are killed with what they started."""
    for how, wait in ((signal.SIGTERM, patience), (signal.SIGKILL, 5.0)):
        for process in (process for process in processes if process.poll() is None):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, how)
        until = time.monotonic() + wait
        for process in processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, until - time.monotonic()))


def follow_parent() -> bool:
    """Lets this process end when the one that launched it is gone, however it went.

    Returns whether it was launched by one at all.

    SIGTERM becomes an interruption, as Ctrl-C is; unlike that it is never ignored by what runs in
    the background. Linux alone knows the bond to the parent; elsewhere jobs outlive a launcher that
    is killed by force.
    """
    parent = os.environ.pop(PARENT, None)
    if parent is None:
        return False
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if sys.platform.startswith("linux"):
        import ctypes

        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
        if os.getppid() != int(parent):  # gone before we asked
            os.kill(os.getpid(), signal.SIGTERM)
    return True
