"""Plan the jobs of a sweep before any of them starts, and record what belongs to the sweep."""

import contextlib
import json
import logging
import shlex
import statistics
import sys
import traceback
import uuid
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import deephash
from deephash.config import build, resolve, run_identity, schema
from deephash.config.overrides import Override, last_values, texts
from deephash.errors import BusyError, ConfigError, DeephashError, FileError, from_os_error
from deephash.report.reading import read_sweep_file
from deephash.runs.folder import LOCK, RunFolder
from deephash.runs.status import COST, State, epochs_done, state_of
from deephash.runs.train_run import refuse_another
from deephash.sweep.launchers.process import Job
from deephash.utils import program
from deephash.utils.files import MANIFEST, make_folder, write_json, write_text
from deephash.utils.formatting import clock, number
from deephash.utils.locks import Lock
from deephash.utils.nested import get_nested
from deephash.utils.run_paths import ERROR

log = logging.getLogger("deephash")

START = 8.0
"""Approximate seconds before training starts: a new Python process, imports, data."""

SEVERAL = 5
"""Most folders, differences or jobs that a message lists."""


@dataclass(frozen=True)
class PlannedJob:
    """One job of a sweep."""

    overrides: tuple[Override, ...]  # the complete command line
    cfg: schema.Train
    name: str
    run: RunFolder
    state: State

    @property
    def left(self) -> bool:
        """Whether the job is neither finished nor running in another process."""
        if self.state is State.finished:
            return self.cfg.rerun
        return self.state is not State.running


def plan_sweep(grid: Sequence[tuple[Sequence[Override], schema.Train]]) -> list[PlannedJob]:
    """Return the jobs with their folders and states; duplicate runs are planned once.

    Args:
        grid: command line and checked configuration of each job.

    Raises:
        ConfigError: If a folder contains, or would contain, runs of two configurations. Nothing
            was written.
    """
    planned: dict[str, PlannedJob] = {}
    for overrides, cfg in grid:
        name = run_identity.run_name(cfg.plain, overrides)
        run = RunFolder(RunFolder.of(cfg, overrides).path.absolute())
        job = PlannedJob(tuple(overrides), cfg, name, run, state_of(run))
        other = planned.setdefault(name, job)
        if unlike := run_identity.changed_keys(other.cfg.plain, cfg.plain):
            listed = "\n  ".join(unlike[:SEVERAL])
            if cfg.name is not None:
                raise ConfigError(
                    f"name  is {cfg.name} for two jobs, which would have the same folder, {name},"
                    f" and differ in\n  {listed}\nLeave it out: each job is named by its values,"
                    " and group=NAME names the sweep."
                )
            raise ConfigError(f"two jobs have the same folder, {name}, and differ in\n  {listed}")
    _refuse_others([job for job in planned.values() if not job.cfg.rerun])
    return list(planned.values())


def preview_text(planned: Sequence[PlannedJob], slots: int, queued: Collection[int] = ()) -> str:
    """Return what a launch would do: a line for each job, then their number and time.

    Args:
        planned: all jobs.
        slots: number of jobs that run at a time.
        queued: indices of jobs that an earlier launch has queued.
    """
    costs = seconds_left(planned)
    states = ["queued" if at in queued else job.state.value for at, job in enumerate(planned)]
    lines = []
    for job, state, cost in zip(planned, states, costs, strict=True):
        value = "" if not job.left else "?" if cost is None else f"~{clock(cost)}"
        if (report := finished_report(job)) is not None:
            value = number(report["metrics"]["map"])
        lines.append(f"{state:<12}{value:>9}  {job.run.path}")
    counts = [f"{count} {state}" for state, count in Counter(states).most_common()]
    lines += ["", f"{count_jobs(len(planned))}: {', '.join(counts)}"]
    left = [cost for job, cost in zip(planned, costs, strict=True) if job.left]
    known = [cost for cost in left if cost is not None]
    if left and known:
        whole = sum(known) / len(known) * len(left)
        lines.append(
            f"left: about {clock(whole)} of one job after the other, {clock(whole / slots)} with"
            f" {slots} at a time; estimated from finished jobs"
        )
    elif left:
        lines.append("time left: unknown, since no job has finished")
    return "\n".join(lines)


def count_jobs(count: int) -> str:
    """Return the number of jobs as text.

    >>> count_jobs(1), count_jobs(2)
    ('1 job', '2 jobs')
    """
    return "1 job" if count == 1 else f"{count} jobs"


def missing_data(planned: Sequence[PlannedJob]) -> list[str]:
    """Return which data of unfinished jobs are missing, without opening files or downloading.

    Args:
        planned: all jobs.

    Returns:
        A message for each dataset with missing data, with the command that prepares it.
    """
    first: dict[str, tuple[PlannedJob, str, int]] = {}
    for job in planned:
        if not job.left:
            continue
        dataset = job.cfg.dataset
        key = json.dumps([dataset.name, dataset.source], sort_keys=True, default=str)
        if key not in first:
            source = build.source(job.cfg)
            first[key] = job, (source.missing() if hasattr(source, "missing") else None) or "", 0
        other, what, count = first[key]
        first[key] = other, what, count + 1
    messages = []
    for job, what, count in first.values():
        if what:
            kept = [
                one for one in job.overrides if one.within("dataset", "paths.data", "paths.cache")
            ]
            if not any(one.key == "dataset.root" for one in kept):
                kept.append(Override.parse("dataset.root=FOLDER"))
            messages.append(
                f"missing data, {count_jobs(count)}: {what}\n"
                f"  Prepare it first: {program.command('data')} prepare {shlex.join(texts(kept))}"
            )
    return messages


def seconds_left(planned: Sequence[PlannedJob]) -> list[float | None]:
    """Estimate the time left of each job from the most similar finished ones; None if unknown."""
    spent: dict[tuple[Any, ...], list[tuple[float, int]]] = {}
    for job in planned:
        report = finished_report(job)
        if report is not None:
            cost = report["training"]["seconds"] + START, report["selection"]["epoch_last"]
            for kind in _kinds(job):
                spent.setdefault(kind, []).append(cost)
    estimates: list[float | None] = []
    for job in planned:
        alike = next((spent[kind] for kind in _kinds(job) if kind in spent), None)
        if alike is None:
            estimates.append(None)
            continue
        seconds, epochs = (statistics.fmean(each) for each in zip(*alike, strict=True))
        done = 0 if job.cfg.rerun else epochs_done(job.run)
        estimates.append(seconds * max(0.0, 1 - done / max(1, epochs)))
    return estimates


def finished_report(job: PlannedJob, required: Sequence[str] = COST) -> dict[str, Any] | None:
    """Return the report of a job; None if it has not finished, or its report is damaged.

    Args:
        job: of a sweep.
        required: keys that the report must have.
    """
    if not job.run.finished:
        return None
    try:
        return job.run.report(required)
    except FileError as error:
        if str(error.path) not in _WARNED:
            _WARNED.add(str(error.path))
            log.warning("%s", error)
        return None


_WARNED: set[str] = set()
"""Damaged reports with a warning in the log."""


def launcher_jobs(planned: Sequence[PlannedJob], command: Sequence[str]) -> list[Job]:
    """Return a process for each job, as launchers take it; every call is a new launch.

    Args:
        planned: the jobs.
        command: arguments of Python before the overrides.
    """
    python, launch = (sys.executable, *command), uuid.uuid4().hex
    return [
        Job(job.name, job.run.path, (*python, *texts(job.overrides)), launch) for job in planned
    ]


def refresh(planned: Sequence[PlannedJob], failed: Collection[str] = ()) -> list[PlannedJob]:
    """Return the same jobs with their current states.

    Args:
        planned: all jobs.
        failed: names of failed jobs, including those with a report of an earlier run.
    """
    return [
        replace(job, state=State.failed if job.name in failed else state_of(job.run))
        for job in planned
    ]


def run_recording_failure(folder: Path, job: Callable[[], Any]) -> Any:
    """Call a job; if it fails, write ``error.txt`` to its folder before raising the error.

    The file contains the message of a ``DeephashError``, and the traceback of any other error.
    """
    try:
        return job()
    except BusyError:
        raise  # another process uses the folder
    except Exception as error:
        if isinstance(error, OSError):
            error = from_os_error(error)
        message = str(error)
        if not isinstance(error, DeephashError):
            first = (message.splitlines() or [""])[0]
            message = f"{type(error).__name__}: {first}\n\n{traceback.format_exc()}"
        with contextlib.suppress(OSError):  # a full disk: the error itself matters more
            folder.mkdir(parents=True, exist_ok=True)
            write_text(folder / ERROR, message.rstrip() + "\n")
        raise


def write_manifest(
    folder: Path,
    planned: Sequence[PlannedJob],
    *,
    command: str,
    axes: Sequence[str],
    typed: Sequence[str],
    spec: Mapping[str, Any],
) -> Path:
    """Write ``sweep.json``, which lists the runs of a sweep for the command ``report``.

    Jobs of earlier launches of the same sweep are kept, so a sweep can be run piece by piece.

    Args:
        folder: of the sweep.
        planned: its jobs.
        command: that launched them.
        axes: keys whose values tables need.
        typed: further overrides of the user; other settings make another table.
        spec: ``title``, ``source`` and ``report`` of the file in ``sweeps/``.
    """
    make_folder(folder)
    file = folder / MANIFEST
    with Lock.wait(folder / LOCK, "which adds its jobs to the same sweep"):
        RunFolder(folder).remove(f".{MANIFEST}.*.tmp")  # of a write that was killed
        known = read_sweep_file(file)["jobs"] if file.is_file() else []
        listed = {job["run"]: job for job in known} | {
            job.name: {
                "run": job.name,
                "overrides": texts(job.overrides),
                "values": {key: axis_value(job, key) for key in axes},
                "settings": list(typed),
            }
            for job in planned
        }
        write_json(
            file,
            {
                "schema": 1,
                "deephash": deephash.__version__,
                "name": folder.name,
                "title": spec.get("title"),
                "source": spec.get("source"),
                "command": command,
                "report": spec.get("report") or {},
                "jobs": list(listed.values()),
            },
        )
    return file


def axis_value(job: PlannedJob, key: str) -> Any:
    """Return the value of a job for a key of the grid; for a group, the name of the choice."""
    if key == "dataset":
        return job.cfg.dataset.name
    if key == "method":
        return job.name.split("/")[1]  # with swapped parts
    typed, key = last_values(job.overrides), Override.parse(key).key
    node: Any = job.cfg.plain
    if key.partition(".")[0] in resolve.SLOTS:  # folded into the method
        node = job.cfg.method.plain
    node = get_nested(node, *key.split("."))
    return typed.get(key) if node is None or isinstance(node, Mapping | list) else node


def _kinds(job: PlannedJob) -> list[tuple[Any, ...]]:
    """Return keys of jobs that take equally long, from the most to the least similar."""
    cfg = job.cfg
    work = (cfg.dataset.name, cfg.trainer.epochs, cfg.backbone.get("name"))
    size = (*work, cfg.trainer.batch_size)
    return [(*size, cfg.method.name), size, work, work[:1]]


def _refuse_others(planned: Sequence[PlannedJob]) -> None:
    """Raise if folders of the sweep contain other runs, before any job starts."""
    refused = []
    for job in planned:
        try:
            refuse_another(job.run, job.cfg)
        except DeephashError as error:
            refused.append(str(error))
    if refused:
        more = [message.partition(" holds ")[0] for message in refused[1:]]
        listed = "".join(f"\n  {folder}" for folder in more[:SEVERAL])
        rest = f"\n  and {len(more) - SEVERAL} more" if len(more) > SEVERAL else ""
        raise ConfigError(refused[0] + ("\n\nSo do" + listed + rest if more else ""))
