"""Many runs: planned before any begins, told while they go, accounted for at the end."""

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
from deephash.config import build, identity, resolve, schema
from deephash.config.overrides import Override, last_values, parse, texts
from deephash.errors import BusyError, ConfigError, DeephashError, FileError, from_os_error
from deephash.report.reading import read_manifest
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
"""Seconds of a job before it trains, about: a new Python, its imports, the data."""

SEVERAL = 5
"""Folders, differences or jobs that stand in a message before it says how many more there are."""


@dataclass(frozen=True)
class Planned:
    """One job of a sweep."""

    overrides: tuple[Override, ...]  # the whole command line of its run
    cfg: schema.Train
    name: str
    run: RunFolder
    state: State

    @property
    def left(self) -> bool:
        """Whether there is something to do that no other process does."""
        if self.state is State.finished:
            return self.cfg.rerun
        return self.state is not State.running


def plan(grid: Sequence[tuple[Sequence[Override], schema.Train]]) -> list[Planned]:
    """The jobs with their folders and how far they are; a run that stands twice is planned once.

    Args:
        grid: command line and checked configuration of each job; see ``config.train_pages``.

    Raises:
        ConfigError: a folder holds, or is to hold, runs of two configurations. Nothing was written.
    """
    planned: dict[str, Planned] = {}
    for overrides, cfg in grid:
        name = identity.run_name(cfg.plain, overrides)
        run = RunFolder(RunFolder.of(cfg, overrides).path.absolute())
        job = Planned(tuple(overrides), cfg, name, run, state_of(run))
        other = planned.setdefault(name, job)
        if unlike := identity.changed_keys(other.cfg.plain, cfg.plain):
            raise ConfigError(
                f"two jobs have one folder, {name}, and differ in\n  "
                + "\n  ".join(unlike[:SEVERAL])
            )
    _refuse_others([job for job in planned.values() if not job.cfg.rerun])
    return list(planned.values())


def preview(planned: Sequence[Planned], slots: int, queued: Collection[int] = ()) -> str:
    """What a launch would do: a line for each job, then how many and how long.

    Args:
        planned: all jobs.
        slots: how many run at a time.
        queued: places of jobs that an earlier launch has in a queue.
    """
    costs = seconds_left(planned)
    states = ["queued" if at in queued else job.state.value for at, job in enumerate(planned)]
    lines = []
    for job, state, cost in zip(planned, states, costs, strict=True):
        told = "" if not job.left else "?" if cost is None else f"~{clock(cost)}"
        if (report := report_of(job)) is not None:
            told = number(report["metrics"]["map"])
        lines.append(f"{state:<12}{told:>9}  {job.run.path}")
    counts = [f"{count} {state}" for state, count in Counter(states).most_common()]
    lines += ["", f"{jobs(len(planned))}: {', '.join(counts)}"]
    left = [cost for job, cost in zip(planned, costs, strict=True) if job.left]
    known = [cost for cost in left if cost is not None]
    if left and known:
        whole = sum(known) / len(known) * len(left)
        lines.append(
            f"left: about {clock(whole)} of one job after the other, {clock(whole / slots)} with"
            f" {slots} at a time; judged by those that have finished"
        )
    elif left:
        lines.append("no job has finished that would tell how long they take")
    return "\n".join(lines)


def jobs(count: int) -> str:
    """So many jobs, in words.

    >>> jobs(1), jobs(2)
    ('1 job', '2 jobs')
    """
    return "1 job" if count == 1 else f"{count} jobs"


def missing_data(planned: Sequence[Planned]) -> list[str]:
    """Say which data of jobs that are left are not there, once for each dataset.

    Only what a look at folders tells: no file is opened, nothing is downloaded.

    Args:
        planned: all jobs.

    Returns:
        a message for each dataset of which data are missing, with the command that prepares it.
    """
    first: dict[str, tuple[Planned, str, int]] = {}
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
                kept.append(parse("dataset.root=FOLDER"))
            messages.append(
                f"missing data, {jobs(count)}: {what}\n"
                f"  Prepare it first: {program.command('data')} prepare {shlex.join(texts(kept))}"
            )
    return messages


def seconds_left(planned: Sequence[Planned]) -> list[float | None]:
    """How long each job still takes, judged by finished ones as like it as can be; None: no one."""
    spent: dict[tuple[Any, ...], list[tuple[float, int]]] = {}
    for job in planned:
        report = report_of(job)
        if report is not None:
            cost = report["training"]["seconds"] + START, report["selection"]["epoch_last"]
            for kind in _kinds(job):
                spent.setdefault(kind, []).append(cost)
    found: list[float | None] = []
    for job in planned:
        alike = next((spent[kind] for kind in _kinds(job) if kind in spent), None)
        if alike is None:
            found.append(None)
            continue
        seconds, epochs = (statistics.fmean(each) for each in zip(*alike, strict=True))
        done = 0 if job.cfg.rerun else epochs_done(job.run)
        found.append(seconds * max(0.0, 1 - done / max(1, epochs)))
    return found


def report_of(job: Planned, required: Sequence[str] = COST) -> dict[str, Any] | None:
    """The report of a job; None if it has not finished, or its report is damaged.

    Args:
        job: of a sweep.
        required: keys that the report must have.
    """
    if not job.run.finished:
        return None
    try:
        return job.run.report(required)
    except FileError as error:
        if str(error.path) not in _TOLD:
            _TOLD.add(str(error.path))
            log.warning("%s", error)
        return None


_TOLD: set[str] = set()
"""Reports whose damage was told."""


def commands(planned: Sequence[Planned], command: Sequence[str]) -> list[Job]:
    """What launchers take: a process for each job. Each call is a launch of its own.

    Args:
        planned: the jobs.
        command: that Python runs for each, and what stands before the overrides.
    """
    python, launch = (sys.executable, *command), uuid.uuid4().hex
    return [
        Job(job.name, job.run.path, (*python, *texts(job.overrides)), launch) for job in planned
    ]


def again(planned: Sequence[Planned], failed: Collection[str] = ()) -> list[Planned]:
    """The same jobs, looked at once more.

    Args:
        planned: all of them.
        failed: names of those that failed, also where an earlier run has left its report.
    """
    return [
        replace(job, state=State.failed if job.name in failed else state_of(job.run))
        for job in planned
    ]


def noting(folder: Path, job: Callable[[], Any]) -> Any:
    """Calls a job; if it fails, leaves an account in its folder before the error goes on.

    An error that is meant for the user is told in its words, any other with its traceback.
    """
    try:
        return job()
    except BusyError:
        raise  # the folder is another's
    except Exception as error:
        if isinstance(error, OSError):
            error = from_os_error(error)
        told = str(error)
        if not isinstance(error, DeephashError):
            first = (told.splitlines() or [""])[0]
            told = f"{type(error).__name__}: {first}\n\n{traceback.format_exc()}"
        with contextlib.suppress(OSError):  # a full disk: the error itself matters more
            folder.mkdir(parents=True, exist_ok=True)
            write_text(folder / ERROR, told.rstrip() + "\n")
        raise


def write_manifest(
    folder: Path,
    planned: Sequence[Planned],
    *,
    command: str,
    axes: Sequence[str],
    typed: Sequence[str],
    sheet: Mapping[str, Any],
) -> Path:
    """Writes ``sweep.json``, from which ``report.py`` knows what belongs to a sweep.

    Jobs that an earlier launch of the same sweep has written there stay; so a sweep can be run
    piece by piece.

    Args:
        folder: of the sweep.
        planned: its jobs.
        command: that launched them.
        axes: the keys whose values tables ask for.
        typed: what the user typed beside the axes: with other settings it is another table.
        sheet: ``title``, ``source`` and ``report`` of the file in ``sweeps/``.
    """
    make_folder(folder)
    file = folder / MANIFEST
    with Lock.wait(folder / LOCK, "which adds its jobs to the same sweep"):
        RunFolder(folder).remove(f".{MANIFEST}.*.tmp")  # of a write that was killed
        known = read_manifest(file)["jobs"] if file.is_file() else []
        listed = {job["run"]: job for job in known} | {
            job.name: {
                "run": job.name,
                "overrides": texts(job.overrides),
                "values": {key: value_of(job, key) for key in axes},
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
                "title": sheet.get("title"),
                "source": sheet.get("source"),
                "command": command,
                "report": sheet.get("report") or {},
                "jobs": list(listed.values()),
            },
        )
    return file


def value_of(job: Planned, key: str) -> Any:
    """What a job has at a key of the grid; of a group, the name of what was chosen."""
    if key == "dataset":
        return job.cfg.dataset.name
    if key == "method":
        return job.name.split("/")[1]  # with what was swapped
    typed, key = last_values(job.overrides), parse(key).key
    node: Any = job.cfg.plain
    if key.partition(".")[0] in resolve.SLOTS:  # folded into the method
        node = job.cfg.method.plain
    node = get_nested(node, *key.split("."))
    return typed.get(key) if node is None or isinstance(node, Mapping | list) else node


def _kinds(job: Planned) -> list[tuple[Any, ...]]:
    """What makes jobs take equally long, from the most alike to the least."""
    cfg = job.cfg
    work = (cfg.dataset.name, cfg.trainer.epochs, cfg.backbone.get("name"))
    size = (*work, cfg.trainer.batch_size)
    return [(*size, cfg.method.name), size, work, work[:1]]


def _refuse_others(planned: Sequence[Planned]) -> None:
    """Refuses a sweep in whose folders something else ran, before any of it begins."""
    refused = []
    for job in planned:
        try:
            refuse_another(job.run, job.cfg)
        except DeephashError as error:
            refused.append(str(error))
    if refused:
        more = [told.partition(" holds ")[0] for told in refused[1:]]
        listed = "".join(f"\n  {folder}" for folder in more[:SEVERAL])
        rest = f"\n  and {len(more) - SEVERAL} more" if len(more) > SEVERAL else ""
        raise ConfigError(refused[0] + ("\n\nSo do" + listed + rest if more else ""))
