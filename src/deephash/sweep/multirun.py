"""Option ``-m``: jobs from the command line and a file of ``sweeps/``, previewed or launched."""

import contextlib
import io
import re
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf

from deephash.config import checks, composition, plugins, resolve, run_identity, schema, targets
from deephash.config.composition import Composer, Extension, refuse_hydra, without_hydra
from deephash.config.explain import explain
from deephash.config.faults import Fault, raise_faults
from deephash.config.overrides import CommandLine, Override
from deephash.errors import ConfigError
from deephash.sweep.grid import grid_points
from deephash.sweep.launchers.process import Launcher
from deephash.sweep.spec import BASE, SweepSpec
from deephash.utils import program
from deephash.utils.attempt import attempt
from deephash.utils.files import STUDY, SWEEPS, check_writable, expand_path
from deephash.utils.formatting import all_typed

if TYPE_CHECKING:
    from deephash.sweep.plan_jobs import PlannedJob

GROUP, SEARCH = "sweep", "search"
MANY = 20
"""Grids with more jobs print a message, since composing them takes a while."""

Composed = Callable[[Sequence[Override]], DictConfig]


@dataclass(frozen=True)
class Grid:
    """The jobs of a grid."""

    jobs: tuple[tuple[Override, ...], ...]  # the command line of each
    axes: tuple[str, ...]  # keys with several values, or set by a rule
    typed: tuple[str, ...]  # further overrides that can change a result


def load_extension(line: CommandLine) -> Extension:
    """Return the configuration folders and plugins of a command line, with the plugins imported.

    Raises:
        ConfigError: there is another flag, which several jobs cannot have.
    """
    if unsupported := line.without(*composition.CONFIG_DIR).flags:
        raise ConfigError(f"{unsupported[0]}  does not go with -m.")
    extension = Extension.of(line)
    plugins.import_plugins(extension.plugins)
    return extension


def run_sweep(conf: Path, sweeps: Path, line: CommandLine) -> int:
    """Run or preview a grid, and return the exit status: 0 if all jobs are finished.

    Args:
        conf: folder of the configuration.
        sweeps: folder of named sweeps.
        line: the command line without ``-m``.

    Raises:
        DeephashError: If the command line is wrong; nothing was started.
    """
    extension = load_extension(line)
    spec, tuning, overrides = _split_overrides(sweeps, line.overrides)
    made = build_grid(spec, overrides)
    if len(made.jobs) > MANY:
        print(f"composing {len(made.jobs)} jobs", file=sys.stderr)
    with (
        program.without_garbage_collection(),
        composition.composer(conf, "train", extension) as composer,
    ):
        jobs = compose_grid(made, composer)
        launcher = make_launcher(made.jobs[0], tuning, composer)

    from deephash.sweep import plan_jobs

    planned = plan_jobs.plan_sweep(checks.parse_jobs(jobs))
    command = (*program.train_arguments(), *extension.flags)
    for message in plan_jobs.missing_data(planned):
        print(message, file=sys.stderr)
    if planned[0].cfg.preview:
        queued = launcher.busy(plan_jobs.launcher_jobs(planned, command))
        print(plan_jobs.preview_text(planned, launcher.slots, queued))
        return 0
    return _launch(planned, launcher, spec, made, line, command)


def build_grid(spec: SweepSpec, overrides: Sequence[Override]) -> Grid:
    """Return the command lines of all jobs.

    Args:
        spec: of a named sweep, or an empty one.
        overrides: of the command line; they take precedence over the spec.

    Raises:
        ConfigError: If an override or a rule of the spec is malformed.
    """
    typed = dict(_values(one) for one in overrides)
    axes = {key: all_typed(value) for key, value in spec.params.items()}
    several = [key for made in (axes, typed) for key, values in made.items() if len(values) > 1]
    ruled = [key for rule in spec.where for key in rule.get("then", ())]
    check_axes(several)
    given = {one.key for one in overrides}
    axes = {
        key: values
        for key, values in axes.items()
        if key in typed or Override.parse(key).key not in given
    }
    axes |= typed
    if spec.name is not None and "group" not in axes:
        axes["group"] = [re.sub(r"[^\w.,=+-]+", "-", spec.name)]  # it becomes a folder
    points = grid_points(axes, spec.where, given=list(given))
    bare = {one.name: one.key for one in overrides}
    settings = [
        run_identity.name_part(key, values[0])
        for key, values in typed.items()
        if key not in (*several, "dataset.protocol") and run_identity.is_in_name(bare[key])
    ]
    jobs = tuple(tuple(Override.at(key, value) for key, value in point.items()) for point in points)
    return Grid(jobs, tuple(dict.fromkeys([*several, *ruled])), tuple(sorted(settings)))


def check_axes(axes: Sequence[str]) -> None:
    """Raise for axes that are not part of a run's name: their values would share one run."""
    bare = {key: Override.parse(key).key for key in axes}
    raise_faults(
        [
            Fault(
                key,
                "takes one value in a grid: it does not name a run.",
                "Type one; or several commands, each with paths.outputs of its own.",
            )
            if name != "name"
            else Fault(key, "takes one value in a grid.", "group=NAME names the sweep.")
            for key, name in bare.items()
            if name not in run_identity.NAME_KEYS and not run_identity.is_in_name(name)
        ],
        ["a grid"],
    )


@contextlib.contextmanager
def registered_sweeps(sweeps: Path) -> Iterator[None]:
    """Register the names of the sweeps with Hydra, for ``--help`` and completion.

    The group is removed afterwards, because ``report`` has a key of the same name.
    """
    store = ConfigStore.instance()
    for file in sorted(sweeps.glob("*.yaml")):
        store.store(group=GROUP, name=file.stem, node={}, package="_global_", provider=str(file))
    try:
        yield
    finally:
        store.repo.pop(GROUP, None)


def sweep_name(overrides: Sequence[Override]) -> str | None:
    """Return the name of the sweep on a command line, or None."""
    made = [one.plain for one in overrides if _is_name(one)]
    return ",".join(made) if made else None


def search_name(overrides: Sequence[Override]) -> str | None:
    """Return the name of the search over values on a command line, or None."""
    return next((one.plain for one in overrides if one.key == SEARCH and one.value), None)


def _is_name(override: Override) -> bool:
    return override.key == GROUP and override.value is not None


def _split_overrides(
    sweeps: Path, overrides: Sequence[Override]
) -> tuple[SweepSpec, list[Override], list[Override]]:
    """Return the named sweep, the overrides of Hydra, and those of the jobs."""
    name = sweep_name(overrides)
    if name is not None and "," in name and not expand_path(name).is_file():
        raise ConfigError(
            f"sweep  {name!r} are several sweeps; run one after the other.\n"
            f"       Their reports can be joined: {program.command('report')} sweep=[{name}]"
        )
    spec = SweepSpec() if name is None else SweepSpec.read(sweeps, name)
    tuning, rest = split_tuning(overrides)
    return spec, tuning, [one for one in rest if not _is_name(one)]


def split_tuning(overrides: Sequence[Override]) -> tuple[list[Override], list[Override]]:
    """Return the overrides of Hydra, and those of the jobs.

    Raises:
        ConfigError: If one of them has no effect here.
    """
    tuning = [one for one in overrides if one.within("hydra")]
    if wrong := [one for one in tuning if one.within("hydra.sweeper", "hydra/sweeper")]:
        raise ConfigError(
            f"{wrong[0].key}  the grid is what stands on the command line, and in"
            " sweeps/.\n  Type the values of an axis: seed=0,1,2"
        )
    refuse_hydra(tuning)
    tuning = [one for one in tuning if one.key != composition.SEARCH_PATH]
    return tuning, list(without_hydra(overrides))


def compose_grid(
    made: Grid, composed: Composed
) -> list[tuple[tuple[Override, ...], dict[str, Any]]]:
    """Return the resolved configuration of each job.

    Raises:
        ConfigError: With the faults of the first job that cannot be composed.
    """
    jobs = []
    for overrides in made.jobs:
        try:
            cfg = composed(overrides)
        except Exception as error:

            def check(
                cfg: dict[str, Any], overrides: Sequence[Override] = overrides
            ) -> list[Fault]:
                return checks.check_train(cfg, overrides)

            raise_faults(explain(overrides, composed, check), overrides)
            raise ConfigError(str(error)) from error  # nothing that an override explains
        jobs.append((overrides, resolve.resolve(cfg, overrides)))
    return jobs


def make_launcher(
    overrides: Sequence[Override], tuning: Sequence[Override], composer: Composer
) -> Launcher:
    """Return the launcher that the command line selects.

    Raises:
        ConfigError: If it does not exist, or has no such option.
    """

    def composed(some: Sequence[Override]) -> DictConfig:
        return composer.whole([*overrides, *some], with_hydra=True)

    chosen = [one for one in tuning if "/" in one.key]
    rest = [one for one in tuning if one not in chosen]
    try:
        cfg = composed([*chosen, *rest])
    except Exception:
        _check_launcher(composed, chosen, rest)
        raise
    node = OmegaConf.create({"launcher": cfg.hydra.launcher, "paths": cfg.paths})
    plain: Any = OmegaConf.to_container(node, resolve=True)
    options = plain["launcher"]
    if not str(options["_target_"]).startswith("deephash."):
        raise ConfigError(
            f"hydra/launcher  {options['_target_']} is not a launcher of deephash.\n"
            "  There are pool, slurm and ray."
        )
    raise_faults(checks.check_part("hydra.launcher", options), tuning)
    target: Any = targets.locate(options.pop("_target_"), "hydra.launcher")
    launcher: Launcher = target(**options)
    return launcher


def _check_launcher(
    composed: Composed, chosen: Sequence[Override], rest: Sequence[Override]
) -> None:
    """Raise for the overrides of the launcher that Hydra refuses: the choice, or its options."""

    def after_the_choice(some: Sequence[Override]) -> DictConfig:
        return composed([*chosen, *some])

    try:
        composed(chosen)
    except Exception:
        faults = explain(chosen, composed, lambda _: [])
    else:
        faults = explain(rest, after_the_choice, lambda _: [])
    raise_faults(faults, [*chosen, *rest])


def _launch(
    planned: Sequence["PlannedJob"],
    launcher: Launcher,
    spec: SweepSpec,
    made: Grid,
    line: CommandLine,
    run_command: Sequence[str],
) -> int:
    from deephash.loggers.wandb import has_offline_records, sync_all_command
    from deephash.report.reading import TABLE
    from deephash.report.tables import reports_markdown
    from deephash.runs.outputs_index import refresh_index
    from deephash.runs.status import State
    from deephash.sweep import plan_jobs
    from deephash.sweep.watch import SweepProgress, unfinished_text

    check_writable(planned[0].run.path)
    command = shlex.join(["deephash", "train", "-m", *line.arguments])  # as saved files name it
    group, outputs = planned[0].cfg.group, expand_path(planned[0].cfg.paths.outputs)
    if group is not None:
        folder = outputs / SWEEPS / group
        if (folder / STUDY).is_file():
            raise ConfigError(
                f"group  {group} is a search over values ({folder / STUDY}).\n"
                "       Type another name: group=NAME"
            )
        plan_jobs.write_manifest(
            folder,
            planned,
            command=command,
            axes=list(dict.fromkeys((*BASE, *made.axes))),
            typed=made.typed,
            spec={"title": spec.title, "source": spec.source, "report": spec.report},
        )
    left = [job for job in planned if job.left]
    for job in planned:
        if not job.left:
            job.run.tidy()
    commands = plan_jobs.launcher_jobs(left, run_command)
    busy = launcher.busy(commands)
    left = [job for at, job in enumerate(left) if at not in busy]
    commands = [job for at, job in enumerate(commands) if at not in busy]
    finished = sum(job.state is State.finished and not job.left for job in planned)
    print(
        f"{plan_jobs.count_jobs(len(planned))}: {len(left)} to run, {finished} finished already"
        + (f", {len(busy)} in the queue" if busy else "")
        + f"; {launcher.slots} at a time",
        file=sys.stderr,
    )
    screen = SweepProgress(planned, left, launcher.slots)
    try:
        launcher.launch(commands, screen)
    finally:
        screen.close()
    if not launcher.waits:
        return 0
    after = plan_jobs.refresh(planned, screen.failed)
    if text := unfinished_text(after):
        print(text, file=sys.stderr)
    reports = [plan_jobs.finished_report(job, TABLE) for job in after]
    if reports := [report for report in reports if report is not None]:
        print(f"\n{reports_markdown(reports, _rows(after, made.axes))}")
    if any(has_offline_records(job.run.path) for job in after):
        print(f"\nW&B     offline; to upload the runs: {sync_all_command(outputs)}")
    if group is not None and reports:
        _report(planned[0].cfg, group)
    else:
        refresh_index(outputs)
    if group is not None:
        arguments = [f"sweep={group}"]
        if outputs != Path("outputs"):
            arguments.append(f"paths.outputs={outputs}")
        print(f"\nreport: {program.command('report')} {shlex.join(arguments)}")
    return 0 if all(job.state is State.finished for job in after) else 1


def _report(cfg: schema.Train, group: str) -> None:
    """Write the page of a sweep that has ended, and log it where its runs log tables.

    A page that cannot be written is a warning, and no failure of the sweep.
    """
    from deephash.config import build
    from deephash.sweep.report_sweep import report_sweeps

    logs = bool(build.result_classes(cfg.logger))
    plain = {"sweep": group, "paths": cfg.paths.plain, "logger": cfg.logger if logs else None}
    with attempt("the page of the sweep"):
        with contextlib.redirect_stdout(io.StringIO()):  # the tables above have the same numbers
            report_sweeps(schema.parse(schema.Report, plain))
        print(f"\npage    {expand_path(cfg.paths.outputs) / SWEEPS / group / 'report.html'}")
        if logs:
            print(f"the report of the sweep is a run of its own, called report {group}")


def _rows(planned: Sequence["PlannedJob"], axes: Sequence[str]) -> dict[str, str]:
    """Return the row of each run in the closing table: the method, and its values of the axes."""
    from deephash.sweep import plan_jobs

    own = [key for key in axes if key not in BASE]
    values = {job.name: {key: plan_jobs.axis_value(job, key) for key in own} for job in planned}
    vary = [key for key in own if len({str(axes[key]) for axes in values.values()}) > 1]
    return {
        name: " ".join(
            [
                name.split("/")[1],
                *(f"{key}={axes[key]}" for key in vary if axes[key] is not None),
            ]
        )
        for name, axes in values.items()
    }


def _values(override: Override) -> tuple[str, list[str]]:
    """Return the name of an override and its values."""
    try:
        if override.deletes and override.value is None:
            return override.name, [""]
        single = override.single
    except Exception as error:
        what = str(error).splitlines()[0]
        fault = Fault(override.text, what, "Write it as key=value.")
        raise_faults([fault], [override.text])
    if override.is_sweep and not override.is_discrete:
        raise ConfigError(f"{override}  a grid needs single values.\n  Type them: key=0.1,0.2,0.3")
    return override.name, [one.element for one in single]
