"""How far a run is, from its folder alone."""

import json
from enum import Enum

from deephash.engine.run import RunFolder
from deephash.files import ERROR


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


def epochs_done(run: RunFolder) -> int:
    """The last epoch that the log of a run knows; 0 if there is none."""
    try:
        lines = (run.path / "log.jsonl").read_text(errors="replace").splitlines()
    except OSError:
        return 0
    for line in reversed(lines):
        try:
            return int(json.loads(line)["epoch"])
        except (ValueError, KeyError, TypeError):  # half a line
            continue
    return 0


def reason(run: RunFolder) -> str:
    """Why a run failed, in full."""
    try:
        told = (run.path / ERROR).read_text(errors="replace").strip()
    except OSError:
        told = ""
    return told or "it left no account"
