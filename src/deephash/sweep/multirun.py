"""``-m``: from the axes on the command line and in ``sweeps/`` to jobs, previewed or launched."""

import re
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf

from deephash.config import checks, composition, identity, plugins, resolve, targets
from deephash.config.composition import Composer, Extension, refuse_hydra, without_hydra
from deephash.config.explain import explain
from deephash.config.faults import Fault, raise_faults
from deephash.config.overrides import CommandLine, Override
from deephash.errors import ConfigError
from deephash.sweep import grid as grids
from deephash.sweep.launchers.process import Launcher
from deephash.sweep.spec import BASE, Sheet
from deephash.utils import program
from deephash.utils.files import SWEEPS, check_writable, expand_path
from deephash.utils.formatting import all_typed

if TYPE_CHECKING:
    from deephash.sweep.plan_jobs import Planned

GROUP = "sweep"
MANY = 20
"""From so many jobs on, it takes a while until something is seen."""

Composed = Callable[[Sequence[Override]], DictConfig]


@dataclass(frozen=True)
class Grid:
    """What is to be run."""

    jobs: tuple[tuple[Override, ...], ...]  # the command line of each
    axes: tuple[str, ...]  # the keys that take several values, or are given by a rule
    typed: tuple[str, ...]  # other settings of the command line that can change a result


def run(conf: Path, sweeps: Path, line: CommandLine) -> int:
    """Runs, or previews, a grid. Returns the exit status: 0 if all of it is finished.

    Args:
        conf: the folder of the configuration.
        sweeps: the folder of named sweeps.
        line: the command line without ``-m``.

    Raises:
        DeephashError: with a message for the user; nothing was started.
    """
    if strange := line.without(*composition.CONFIG_DIR).flags:
        raise ConfigError(f"{strange[0]}  does not go with -m.")
    extension = Extension.of(line)
    plugins.allow(extension.plugins)
    sheet, tuning, overrides = _sorted_out(sweeps, line.overrides)
    found = grid(sheet, overrides)
    if len(found.jobs) > MANY:
        print(f"composing {len(found.jobs)} jobs", file=sys.stderr)
    with composition.composer(conf, "train", extension) as composer:
        jobs = _composed(found, composer)
        launcher = _launcher(found.jobs[0], tuning, composer)

    from deephash.sweep import plan_jobs

    planned = plan_jobs.plan(checks.parse_jobs(jobs))
    command = (*program.train_arguments(), *extension.flags)
    for message in plan_jobs.missing_data(planned):
        print(message, file=sys.stderr)
    if planned[0].cfg.preview:
        queued = launcher.busy(plan_jobs.commands(planned, command))
        print(plan_jobs.preview(planned, launcher.slots, queued))
        return 0
    return _launch(planned, launcher, sheet, found, line, command)


def grid(sheet: Sheet, overrides: Sequence[Override]) -> Grid:
    """The command lines of all jobs.

    Args:
        sheet: of a named sweep, or an empty one.
        overrides: what is typed; it replaces what the sheet says.

    Raises:
        ConfigError: something typed that is no override, or the sheet has a rule of another form.
    """
    typed = dict(_values(one) for one in overrides)
    axes = {key: all_typed(value) for key, value in sheet.params.items()}
    several = [key for made in (axes, typed) for key, values in made.items() if len(values) > 1]
    ruled = [key for rule in sheet.where for key in rule.get("then", ())]
    _refuse_unnamed(several)
    given = {one.key for one in overrides}
    axes = {
        key: values
        for key, values in axes.items()
        if key in typed or Override.parse(key).key not in given
    }
    axes |= typed
    if sheet.name is not None and "group" not in axes:
        axes["group"] = [re.sub(r"[^\w.,=+-]+", "-", sheet.name)]  # it becomes a folder
    points = grids.points(axes, sheet.where, given=list(given))
    bare = {one.name: one.key for one in overrides}
    settings = [
        identity.name_part(key, values[0])
        for key, values in typed.items()
        if key not in (*several, "dataset.protocol") and identity.is_in_name(bare[key])
    ]
    jobs = tuple(tuple(Override.at(key, value) for key, value in point.items()) for point in points)
    return Grid(jobs, tuple(dict.fromkeys([*several, *ruled])), tuple(sorted(settings)))


def _refuse_unnamed(axes: Sequence[str]) -> None:
    """Two values of a key that does not stand in a run's name would be one run."""
    bare = {key: Override.parse(key).key for key in axes}
    raise_faults(
        [
            Fault(key, "takes one value in a grid: it does not name a run.",
                         "Type one; or several commands, each with paths.outputs of its own.")
            for key, name in bare.items()
            if name not in identity.NAME_KEYS and not identity.is_in_name(name)
        ],
        ["a grid"],
    )  # fmt: skip


def register(sweeps: Path) -> None:
    """Tells Hydra the names of the sweeps, for ``--help`` and completion."""
    store = ConfigStore.instance()
    for file in sorted(sweeps.glob("*.yaml")):
        store.store(group=GROUP, name=file.stem, node={}, package="_global_", provider=str(file))


def named(overrides: Sequence[Override]) -> str | None:
    """The sweep that a command line names, None without one."""
    found = [one.plain for one in overrides if _is_name(one)]
    return ",".join(found) if found else None


def _is_name(override: Override) -> bool:
    return override.key == GROUP and override.value is not None


def _sorted_out(
    sweeps: Path, overrides: Sequence[Override]
) -> tuple[Sheet, list[Override], list[Override]]:
    """The named sweep, what is Hydra's own, and what is for the jobs."""
    name = named(overrides)
    if name is not None and "," in name and not expand_path(name).is_file():
        raise ConfigError(
            f"sweep  {name!r} are several; run one after the other.\n"
            f"       Their reports can be joined: {program.command('report')} sweep=[{name}]"
        )
    sheet = Sheet() if name is None else Sheet.read(sweeps, name)
    tuning = [one for one in overrides if one.within("hydra")]
    if wrong := [one for one in tuning if one.within("hydra.sweeper", "hydra/sweeper")]:
        raise ConfigError(
            f"{wrong[0].key}  the grid is what stands on the command line, and in"
            " sweeps/.\n  Type the values of an axis: seed=0,1,2"
        )
    refuse_hydra(tuning)
    rest = [one for one in without_hydra(overrides) if not _is_name(one)]
    return sheet, [one for one in tuning if one.key != composition.SEARCH_PATH], rest


def _composed(found: Grid, composed: Composed) -> list[tuple[tuple[Override, ...], dict[str, Any]]]:
    """The folded configuration of each job; what is wrong with the first that has none is told."""
    jobs = []
    for overrides in found.jobs:
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


def _launcher(
    overrides: Sequence[Override], tuning: Sequence[Override], composer: Composer
) -> Launcher:
    """The launcher the command line chooses.

    Raises:
        ConfigError: there is none, or it has no such option.
    """

    def composed(some: Sequence[Override]) -> DictConfig:
        return composer.whole([*overrides, *some], with_hydra=True)

    chosen = [one for one in tuning if "/" in one.key]
    rest = [one for one in tuning if one not in chosen]
    try:
        found = composed([*chosen, *rest])
    except Exception:
        _refuse_tuning(composed, chosen, rest)
        raise
    node = OmegaConf.create({"launcher": found.hydra.launcher, "paths": found.paths})
    plain: Any = OmegaConf.to_container(node, resolve=True)
    options = plain["launcher"]
    if not str(options["_target_"]).startswith("deephash."):
        raise ConfigError(
            f"hydra/launcher  {options['_target_']} is not one of ours.\n"
            "  There are pool, slurm and ray."
        )
    raise_faults(checks.check_part("hydra.launcher", options), tuning)
    target: Any = targets.locate(options.pop("_target_"), "hydra.launcher")
    launcher: Launcher = target(**options)
    return launcher


def _refuse_tuning(
    composed: Composed, chosen: Sequence[Override], rest: Sequence[Override]
) -> None:
    """Says which of the words about the launcher Hydra refuses: the choice, or its options."""

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
    planned: Sequence["Planned"],
    launcher: Launcher,
    sheet: Sheet,
    found: Grid,
    line: CommandLine,
    run_command: Sequence[str],
) -> int:
    from deephash.loggers.wandb import has_offline_records, sync_all_command
    from deephash.report.reading import TABLE
    from deephash.report.tables import reports_markdown
    from deephash.runs.status import State
    from deephash.sweep import plan_jobs
    from deephash.sweep.watch import Screen, account

    check_writable(planned[0].run.path)
    command = shlex.join(["deephash", "train", "-m", *line.arguments])  # for whoever reads it
    group, outputs = planned[0].cfg.group, expand_path(planned[0].cfg.paths.outputs)
    if group is not None:
        folder = outputs / SWEEPS / group
        plan_jobs.write_manifest(
            folder,
            planned,
            command=command,
            axes=list(dict.fromkeys((*BASE, *found.axes))),
            typed=found.typed,
            sheet={"title": sheet.title, "source": sheet.source, "report": sheet.report},
        )
    left = [job for job in planned if job.left]
    for job in planned:
        if not job.left:
            job.run.tidy()
    commands = plan_jobs.commands(left, run_command)
    busy = launcher.busy(commands)
    left = [job for at, job in enumerate(left) if at not in busy]
    commands = [job for at, job in enumerate(commands) if at not in busy]
    finished = sum(job.state is State.finished and not job.left for job in planned)
    print(
        f"{plan_jobs.jobs(len(planned))}: {len(left)} to run, {finished} finished already"
        + (f", {len(busy)} in the queue" if busy else "")
        + f"; {launcher.slots} at a time",
        file=sys.stderr,
    )
    screen = Screen(planned, left, launcher.slots)
    try:
        launcher.launch(commands, screen)
    finally:
        screen.close()
    if not launcher.waits:
        return 0
    after = plan_jobs.again(planned, screen.failed)
    if told := account(after):
        print(told, file=sys.stderr)
    reports = [one for job in after if (one := plan_jobs.report_of(job, TABLE)) is not None]
    if reports:
        print(f"\n{reports_markdown(reports, _rows(after, found.axes))}")
    if any(has_offline_records(job.run.path) for job in after):
        print(f"\nW&B     offline; to upload the runs: {sync_all_command(outputs)}")
    if group is not None:
        words = [f"sweep={group}"]
        words += [f"paths.outputs={outputs}"] * (outputs != Path("outputs"))
        print(f"\nreport: {program.command('report')} {shlex.join(words)}")
    return 0 if all(job.state is State.finished for job in after) else 1


def _rows(planned: Sequence["Planned"], axes: Sequence[str]) -> dict[str, str]:
    """What the rows of the closing table are called: the method, and where in the grid it is."""
    from deephash.sweep import plan_jobs

    own = [key for key in axes if key not in BASE]
    told = {
        job.name: {
            key: "" if (value := plan_jobs.value_of(job, key)) is None else f"{key}={value}"
            for key in own
        }
        for job in planned
    }
    vary = [key for key in own if len({values[key] for values in told.values()}) > 1]
    return {
        name: " ".join([name.split("/")[1], *filter(None, (values[key] for key in vary))])
        for name, values in told.items()
    }


def _values(override: Override) -> tuple[str, list[str]]:
    """The name of an override, and its value, or values."""
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
