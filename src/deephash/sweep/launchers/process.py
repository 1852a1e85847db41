"""Jobs of a sweep as processes, and the interface of launchers."""

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
"""Environment variable of a job: the id of its launch."""

PARENT = "DEEPHASH_PARENT"
"""Environment variable of a job: the process with which it ends."""

INTERRUPTED = (130, -signal.SIGTERM)
"""Exit statuses of a job that was stopped: no failure, the next launch resumes it."""

ELSEWHERE = 75
"""Exit status of a job whose run is locked by another process: no failure either."""

TAIL = 40
"""Lines of the log that are copied to ``error.txt`` of a job that could not write it."""


@dataclass(frozen=True)
class Job:
    """A training run as a command."""

    name: str  # of the run
    folder: Path  # of the run, absolute
    command: tuple[str, ...]
    launch: str = ""  # id of the launch, equal for all its jobs and retries


class Watch(Protocol):
    """Callbacks about jobs, which are identified by their index in the list of the launch."""

    def started(self, at: int) -> None:
        """Report that a job has started or restarted."""

    def ended(self, at: int, status: int) -> None:
        """Report the exit status of a job that has ended, negative for a signal."""

    def tick(self) -> None:
        """Refresh the display; called at least once a second."""


class Launcher(Protocol):
    """The interface of launchers. The results of jobs are in their folders."""

    waits: bool  # whether `launch` returns after all jobs

    @property
    def slots(self) -> int:
        """Number of jobs at a time."""
        ...

    def launch(self, jobs: Sequence[Job], watch: Watch) -> None:
        """Run all jobs; a failing job does not stop others."""

    def busy(self, jobs: Sequence[Job]) -> set[int]:
        """Return the indices of jobs that an earlier launch has in a queue."""
        ...


def start_job(job: Job, environment: Mapping[str, str] | None = None) -> "subprocess.Popen[bytes]":
    """Start a job in the working directory of this process, with its output in its folder.

    Args:
        job: to start.
        environment: variables in addition to those of this process.
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
            env={
                **os.environ,
                **(environment or {}),
                PARENT: str(os.getpid()),
                LAUNCH: job.launch,
                program.STARTED_AS: program.started_as(),
            },
            start_new_session=True,  # Ctrl-C reaches it only through its launcher
        )


def record_end(job: Job, status: int) -> None:
    """Write ``error.txt`` of a failed job that has not written it.

    Args:
        job: that has ended.
        status: its exit status, negative for a signal.
    """
    error, log = job.folder / ERROR, job.folder / LOG
    if not failed(status) or error.is_file():
        return
    lines = read_end(log).splitlines()[-TAIL:]
    make_folder(job.folder)
    write_text(error, "\n".join([_how(status), *lines]) + "\n")


def failed(status: int) -> bool:
    """Return whether an exit status is that of a failure."""
    return status not in (0, *INTERRUPTED, ELSEWHERE)


def _how(status: int) -> str:
    if status >= 0:
        return f"exit status {status}"
    if -status == signal.SIGKILL:
        return "killed by SIGKILL: was the memory of the machine full?"
    names = {item.value: item.name for item in signal.Signals}
    return f"killed by {names.get(-status, f'signal {-status}')}"


def record_failure(job: Job, why: str) -> None:
    """Append a reason to the log of a job that could not write it, and write ``error.txt``."""
    make_folder(job.folder)
    with writing(job.folder / LOG), open_no_follow(job.folder / LOG, "a") as log:
        log.write(f"{why.rstrip()}\n")
    record_end(job, 1)


def run_job(job: Job) -> int:
    """Run a job; return its exit status."""
    process = start_job(job)
    try:
        while (status := process.poll()) is None:
            time.sleep(0.2)  # not wait(): after an interruption in it, it cannot be called again
    except BaseException:
        stop_jobs([process])
        raise
    record_end(job, status)
    return status


def stop_jobs(processes: Sequence["subprocess.Popen[bytes]"], patience: float = 20) -> None:
    """Terminate jobs; kill those that run after ``patience`` seconds, with their children."""
    for number, wait in ((signal.SIGTERM, patience), (signal.SIGKILL, 5.0)):
        for process in (process for process in processes if process.poll() is None):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, number)
        until = time.monotonic() + wait
        for process in processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, until - time.monotonic()))


def follow_parent() -> bool:
    """End this process when its launcher ends; return whether it has one.

    SIGTERM becomes an interruption like Ctrl-C, but is not ignored in the background. The
    parent-death signal exists on Linux only; elsewhere jobs outlive a launcher that is killed.
    """
    parent = os.environ.pop(PARENT, None)
    if parent is None:
        return False
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if sys.platform.startswith("linux"):
        import ctypes

        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
        if os.getppid() != int(parent):  # it has ended already
            os.kill(os.getpid(), signal.SIGTERM)
    return True
