"""The state of a run, from its folder alone."""

from enum import Enum

from deephash.errors import FileError
from deephash.report.reading import log_entry
from deephash.runs.folder import RunFolder
from deephash.utils.files import read_end

COST = ("training.seconds", "selection.epoch_last", "metrics.map")
"""The keys of a report that the plan of a sweep reads."""


class State(Enum):
    """The state of a run."""

    finished = "finished"
    damaged = "damaged"  # the report cannot be read; another launch fails with the reason
    running = "running"
    failed = "failed"  # the reason is in error.txt; another launch retries it
    interrupted = "interrupted"  # resumes after its last whole epoch
    waiting = "waiting"  # not started


def state_of(run: RunFolder) -> State:
    """Return the current state of a run."""
    if run.locked:
        return State.running
    if run.finished:
        try:
            run.report(COST)
        except FileError:
            return State.damaged
        return State.finished
    if run.error.is_file():
        return State.failed
    return State.interrupted if run.resumable else State.waiting


def epochs_done(run: RunFolder) -> int:
    """Return the last epoch in the log of a run; 0 if there is none."""
    for line in reversed(read_end(run.history).splitlines()):
        if (entry := log_entry(line, {"epoch": int})) is not None:  # None: an incomplete line
            return max(0, int(entry["epoch"]))
    return 0


def reason(run: RunFolder) -> str:
    """Return why a run failed, in full."""
    return read_end(run.error).strip() or "no error message was saved"
