"""How far a run is, from its folder alone."""

from enum import Enum

from deephash.errors import FileError
from deephash.report.reading import log_entry
from deephash.runs.folder import RunFolder
from deephash.utils.files import read_end
from deephash.utils.run_paths import ERROR

COST = ("training.seconds", "selection.epoch_last", "metrics.map")
"""What the plan of a sweep reads of a report."""


class State(Enum):
    """How far a run is."""

    finished = "finished"
    damaged = "damaged"  # its report cannot be read; launched again, it fails with the reason
    running = "running"
    failed = "failed"  # error.txt in its folder says why; begun anew it may succeed
    interrupted = "interrupted"  # goes on after its last whole epoch
    waiting = "waiting"  # nothing of it is there


def state_of(run: RunFolder) -> State:
    """The state of a run, as its folder tells it at this moment."""
    if run.locked:
        return State.running
    if run.finished:
        try:
            run.report(COST)
        except FileError:
            return State.damaged
        return State.finished
    if (run.path / ERROR).is_file():
        return State.failed
    return State.interrupted if (run.path / "last.pt").is_file() else State.waiting


def epochs_done(run: RunFolder) -> int:
    """The last epoch that the log of a run knows; 0 if there is none."""
    for line in reversed(read_end(run.path / "log.jsonl").splitlines()):
        if (entry := log_entry(line, {"epoch": int})) is not None:  # None: half a line
            return max(0, int(entry["epoch"]))
    return 0


def reason(run: RunFolder) -> str:
    """Why a run failed, in full."""
    told = read_end(run.path / ERROR).strip()
    return told or "it left no account"
