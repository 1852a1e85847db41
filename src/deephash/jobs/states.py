"""How far a run is, from its folder alone."""

from enum import Enum

from deephash.engine.run import RunFolder
from deephash.launchers.process import ERROR


class State(Enum):
    """How far a run is."""

    finished = "finished"
    running = "running"
    failed = "failed"  # error.txt in its folder says why; begun anew it may succeed
    interrupted = "interrupted"  # goes on after its last whole epoch
    waiting = "waiting"  # nothing of it is there


def state_of(run: RunFolder) -> State:
    """The state of a run, as its folder tells it at this moment."""
    if run.locked:
        return State.running
    if run.finished:
        return State.finished
    if (run.path / ERROR).is_file():
        return State.failed
    return State.interrupted if (run.path / "last.pt").is_file() else State.waiting
