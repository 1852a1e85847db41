"""Option ``-m +search=...``: runs whose values Optuna chooses, by the results of earlier runs."""

import contextlib
import math
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from deephash.config import checks, composition, run_identity, schema
from deephash.config.composition import Composer
from deephash.config.overrides import CommandLine, Override
from deephash.errors import BusyError, ConfigError
from deephash.report.reading import read_log
from deephash.runs.outputs_index import refresh_index
from deephash.runs.status import State
from deephash.sweep import multirun, plan_jobs
from deephash.sweep.launchers.process import Launcher
from deephash.sweep.multirun import SEARCH
from deephash.sweep.plan_jobs import PlannedJob
from deephash.sweep.search_space import SearchSpace, as_typed
from deephash.sweep.spec import BASE, SweepSpec
from deephash.sweep.study import Study, Trial
from deephash.sweep.watch import SweepProgress, unfinished_text
from deephash.utils import program
from deephash.utils.extras import import_extra
from deephash.utils.files import MANIFEST, STUDY, SWEEPS, check_writable, expand_path, make_folder
from deephash.utils.formatting import number
from deephash.utils.locks import Lock

FOLDER = "searches"
"""Subfolder of ``sweeps/`` with named searches."""

SHOWN = 5
"""Trials in the closing table."""

Job = tuple[tuple[Override, ...], schema.Train]


def search_over_values(conf: Path, sweeps: Path, line: CommandLine) -> int:
    """Run or preview a search, and return the exit status: 0 if all trials have a result.

    Args:
        conf: folder of the configuration.
        sweeps: folder of named sweeps.
        line: the command line without ``-m``.

    Raises:
        DeephashError: the command line is wrong, or a run folder holds another run.
    """
    extension = multirun.load_extension(line)
    own = [one for one in line.overrides if one.within(SEARCH)]
    changes = {one.key.removeprefix(f"{SEARCH}."): one.plain for one in own if one.key != SEARCH}
    name = multirun.search_name(own)
    assert name is not None
    if (grid := multirun.sweep_name(line.overrides)) is not None:
        raise ConfigError(
            f"search  is {name}, and +sweep={grid} is a grid.\n        Type one of them."
        )
    space = SearchSpace.read(sweeps / FOLDER, name, changes)
    rest = [one for one in line.overrides if one not in own]
    tuning, shared = multirun.split_tuning(rest)
    base = _single_job(shared, space)
    with composition.composer(conf, "train", extension) as composer:
        (first,) = _checked([base], composer)
        _check(first[1], space)
        launcher = multirun.make_launcher(base, tuning, composer)
        if not launcher.waits:
            raise ConfigError(
                "search  the next trials depend on the results of the last, and this launcher does"
                " not wait for them.\n        Type hydra.launcher.wait=true."
            )
        group = first[1].group
        assert group is not None
        folder = expand_path(first[1].paths.outputs) / SWEEPS / group
        if (folder / MANIFEST).is_file() and not (folder / STUDY).is_file():
            raise ConfigError(
                f"group  {group} has runs that no search has chosen (sweep.json without {STUDY}).\n"
                "       Type another name: group=NAME"
            )
        run = run_identity.full_name(first[1].plain, base)
        if first[1].preview:
            _preview(folder, space, launcher, run)
            return 0
        import_extra("optuna", "+search")  # before the folder is made
        check_writable(folder)
        make_folder(folder)
        with _exclusive(folder):
            study = Study(folder / STUDY, space, space.batch or launcher.slots, run)
            command = (*program.train_arguments(), *extension.flags)
            typed = shlex.join(["deephash", "train", "-m", *line.arguments])
            status = _run(study, base, composer, launcher, command, folder, typed)
    refresh_index(expand_path(first[1].paths.outputs))
    _print_best(study)
    print(f"\nreport: {program.command('report')} sweep={shlex.quote(group)}")
    return status


def _single_job(overrides: Sequence[Override], space: SearchSpace) -> tuple[Override, ...]:
    """Return the overrides that all trials share."""
    keys = {Override.parse(key).key for key in space.params}
    for one in overrides:
        if one.key in keys:
            raise ConfigError(
                f"{one.key}  has a range in the search, and a value on the command line.\n"
                "  Leave one of them out."
            )
    multirun.check_axes(list(space.params))
    if any(one.key == "group" for one in overrides):
        group = []
    else:
        group = [Override.of("group", space.name)]
    grid = multirun.build_grid(SweepSpec(), [*overrides, *group])
    if len(grid.jobs) > 1:
        raise ConfigError(
            f"{grid.axes[0]}  takes one value in a search.\n"
            f"  To search over it, write into the file: {grid.axes[0]}: [VALUE, VALUE]"
        )
    return grid.jobs[0]


def _check(cfg: schema.Train, space: SearchSpace) -> None:
    if cfg.rerun:
        raise ConfigError("rerun  would run the trials of a study again. Type group=NAME instead.")
    if cfg.name is not None:
        raise ConfigError(
            f"name  is {cfg.name}, and all trials would have this folder. Type group=NAME instead."
        )
    if space.metric == "val" and not checks.validates(cfg.plain["dataset"], "val"):
        raise ConfigError(
            "search.metric  is val, and the protocol has no validation split.\n  Try"
            f" dataset.protocols.{cfg.dataset.protocol}.validation=50, or search.metric=query,"
            " whose best value is too optimistic."
        )


def _run(
    study: Study,
    base: tuple[Override, ...],
    composer: Composer,
    launcher: Launcher,
    command: Sequence[str],
    folder: Path,
    typed: str,
) -> int:
    """Run batches of trials until there are enough."""
    keys = list(study.space.params)
    if finished := [trial for trial in study.trials() if trial.value is not None]:
        print(f"{len(finished)} of {study.space.trials} trials finished already", file=sys.stderr)
    while trials := study.next_batch():
        jobs: dict[int, Job] = {}
        for trial in trials:
            line = (*base, *(Override.at(key, as_typed(trial.params[key])) for key in keys))
            try:
                (jobs[trial.number],) = _checked([line], composer)
            except ConfigError as error:
                print(f"trial {trial.number} failed: {error}", file=sys.stderr)
                study.tell(trial, None)
        if not jobs:
            continue
        planned = plan_jobs.plan_sweep(list(jobs.values()))
        plan_jobs.write_manifest(
            folder,
            planned,
            command=typed,
            axes=list(dict.fromkeys((*BASE, *keys))),
            typed=(),
            spec={"title": study.space.title or None, "source": None, "report": {}},
        )
        after = {job.name: job for job in _launched(planned, launcher, command)}
        named = {
            number: run_identity.run_name(cfg.plain, line) for number, (line, cfg) in jobs.items()
        }
        for trial in trials:
            job = after.get(named.get(trial.number, ""))
            if job is not None and job.state is State.finished:
                study.tell(trial, value := _value(job, study.space.metric))
                print(f"trial {trial.number:>3}  {number(value)}  {_text(trial)}", file=sys.stderr)
            elif job is not None and job.state is State.failed:
                study.tell(trial, None)
        if text := unfinished_text(list(after.values())):
            print(text, file=sys.stderr)
        if study.open_trials():  # stopped, or run by another process
            return 1
    return 0 if all(trial.value is not None for trial in study.trials()) else 1


def _launched(
    planned: Sequence[PlannedJob], launcher: Launcher, command: Sequence[str]
) -> list[PlannedJob]:
    """Run the jobs that are not finished; return all with their states."""
    left = [job for job in planned if job.left]
    screen = SweepProgress(planned, left, launcher.slots)
    try:
        launcher.launch(plan_jobs.launcher_jobs(left, command), screen)
    finally:
        screen.close()
    return plan_jobs.refresh(planned, screen.failed)


def _checked(lines: Sequence[tuple[Override, ...]], composer: Composer) -> list[Job]:
    grid = multirun.Grid(tuple(lines), (), ())
    jobs = checks.parse_jobs(multirun.compose_grid(grid, composer))
    return [(tuple(overrides), cfg) for overrides, cfg in jobs]


def _value(job: PlannedJob, metric: str) -> float | None:
    """Return the result of a run; None if it has none, or one that is not finite."""
    if metric == "query":
        report = plan_jobs.finished_report(job)
        values = [] if report is None else [report["metrics"]["map"]]
    else:
        values = [row.get("map") for row in read_log(job.run.history) if row.get("where") == "val"]
    known = [float(value) for value in values if isinstance(value, int | float)]
    known = [value for value in known if math.isfinite(value)]
    return max(known, default=None)


@contextlib.contextmanager
def _exclusive(folder: Path) -> Iterator[None]:
    """Keep other launches out of a study."""
    lock = Lock.acquire(folder / f".{STUDY}.lock")
    if lock is None:
        raise BusyError(f"another process runs the search in {folder}")
    try:
        yield
    finally:
        lock.release()


def _preview(folder: Path, space: SearchSpace, launcher: Launcher, run: str) -> None:
    trials = []
    if (folder / STUDY).is_file():
        trials = Study(folder / STUDY, space, launcher.slots, run).trials()
    for trial in trials:
        print(f"trial {trial.number:>3}  {number(trial.value):>6}  {_text(trial)}")
    print(f"{space.trials - len(trials)} more trials of {space.trials}")
    for key, values in space.params.items():
        print(f"  {key}: {values}")


def _print_best(study: Study) -> None:
    trials = [trial for trial in study.trials() if trial.value is not None]
    best = sorted(trials, key=lambda trial: -(trial.value or 0.0))[:SHOWN]
    print(f"\n{len(trials)} trials with a result; the best by {study.space.metric} mAP:")
    for trial in best:
        print(f"trial {trial.number:>3}  {number(trial.value)}  {_text(trial)}")


def _text(trial: Trial) -> str:
    return " ".join(f"{key}={as_typed(value)}" for key, value in trial.params.items())
