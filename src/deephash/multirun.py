"""``-m``: from the axes on the command line and in ``sweeps/`` to jobs, previewed or launched."""

import copy
import os
import re
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra import compose, initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from deephash import config, grids, targets
from deephash.errors import ConfigError
from deephash.explain import explain
from deephash.files import SWEEPS, check_writable, place
from deephash.launchers.process import Launcher
from deephash.overrides import as_text, parsed
from deephash.sheets import BASE, Sheet
from deephash.words import all_typed

if TYPE_CHECKING:
    from deephash.jobs.sweeping import Planned

GROUP = "sweep"
MANY = 20
"""From so many jobs on, it takes a while until something is seen."""

Composed = Callable[[Sequence[str]], DictConfig]


@dataclass(frozen=True)
class Grid:
    """What is to be run."""

    jobs: tuple[tuple[str, ...], ...]  # the command line of each
    axes: tuple[str, ...]  # the keys that take several values, or are given by a rule
    typed: tuple[str, ...]  # other settings of the command line that can change a result


def run(conf: Path, sweeps: Path, arguments: Sequence[str], script: Path) -> int:
    """Runs, or previews, a grid. Returns the exit status: 0 if all of it is finished.

    Args:
        conf: the folder of the configuration.
        sweeps: the folder of named sweeps.
        arguments: the command line without ``-m``.
        script: the training script, which each job runs.

    Raises:
        DeephashError: with a message for the user; nothing was started.
    """
    sheet, tuning, overrides = _sorted_out(sweeps, arguments)
    found = grid(sheet, overrides)
    if len(found.jobs) > MANY:
        print(f"composing {len(found.jobs)} jobs", file=sys.stderr)
    with initialize_config_dir(str(conf.resolve()), version_base="1.3"):
        jobs = _composed(found, Composer("train"))
        launcher = _launcher(found.jobs[0], tuning)
    GlobalHydra.instance().clear()

    from deephash.jobs import sweeping  # late: imports torch

    planned = sweeping.plan(jobs)
    for message in sweeping.missing_data(planned):
        print(message, file=sys.stderr)
    if planned[0].cfg["preview"]:
        queued = launcher.busy(sweeping.commands(planned, script))
        print(sweeping.preview(planned, launcher.slots, queued))
        return 0
    return _launch(planned, launcher, sheet, found, arguments, script)


class Composer:
    """Compose the configurations of many jobs: of those that choose the same groups, once.

    The files of the groups are read and merged by Hydra, once for each choice; the other overrides
    are applied by Hydra's own function to a copy of that, in their order, as Hydra does. So the
    result is that of `compose`. What cannot be composed so is left to `compose`, and so are errors.

    Args:
        page: the name of the primary configuration.
    """

    def __init__(self, page: str) -> None:
        self.page = page
        self._bases: dict[tuple[str, ...], DictConfig] = {}
        self._parsed: dict[str, Any] = {}
        self._groups: dict[str, bool] = {}

    def __call__(self, overrides: Sequence[str]) -> DictConfig:
        try:
            return self._quickly(overrides)
        except Exception:  # of Hydra's inside, or of an override: composed as a whole, it is told
            return compose(self.page, overrides=list(overrides))

    def _quickly(self, overrides: Sequence[str]) -> DictConfig:
        parsed = [(text, self._parse(text)) for text in overrides]
        choices = tuple(text for text, one in parsed if self._is_choice(one))
        if choices not in self._bases:
            self._bases[choices] = compose(self.page, overrides=list(choices))
        cfg = copy.deepcopy(self._bases[choices])
        values = [one for text, one in parsed if text not in choices]
        ConfigLoaderImpl._apply_overrides_to_config(values, cfg)
        return cfg

    def _parse(self, text: str) -> Any:
        if text not in self._parsed:
            self._parsed[text] = OverridesParser.create().parse_override(text)
        return self._parsed[text]

    def _is_choice(self, override: Any) -> bool:
        """Whether an override chooses the option of a group, by the rule of Hydra."""
        if override.is_sweep_override():
            raise ValueError("several values")
        group = override.key_or_group
        if group not in self._groups:
            loader: Any = GlobalHydra.instance().config_loader()
            self._groups[group] = loader.repository.group_exists(group)
        return self._groups[group] and not isinstance(override.value(), dict)


def grid(sheet: Sheet, overrides: Sequence[str]) -> Grid:
    """The command lines of all jobs.

    Args:
        sheet: of a named sweep, or an empty one.
        overrides: what is typed; it replaces what the sheet says.

    Raises:
        ConfigError: something typed that is no override, or the sheet has a rule of another form.
    """
    typed = dict(_values(text) for text in overrides)
    axes = {key: all_typed(value) for key, value in sheet.params.items()}
    several = [key for made in (axes, typed) for key, values in made.items() if len(values) > 1]
    ruled = [key for rule in sheet.where for key in rule.get("then", ())]
    _refuse_unnamed(several)
    axes |= typed
    if sheet.name is not None and "group" not in axes:
        axes["group"] = [re.sub(r"[^\w.,=+-]+", "-", sheet.name)]  # it becomes a folder
    points = grids.points(axes, sheet.where, given=list(typed))
    settings = [
        config.spelled(key, values[0])
        for key, values in typed.items()
        if key not in (*several, "dataset.protocol") and config.names(key.lstrip("+~"))
    ]
    jobs = tuple(
        tuple(as_text(_text(key, value)) for key, value in point.items()) for point in points
    )
    return Grid(jobs, tuple(dict.fromkeys([*several, *ruled])), tuple(sorted(settings)))


def _refuse_unnamed(axes: Sequence[str]) -> None:
    """Two values of a key that does not stand in a run's name would be one run."""
    bare = {key: key.lstrip("+~") for key in axes}
    config.refuse(
        [
            config.Fault(key, "takes one value in a grid: it does not name a run.",
                         "Type one; or several commands, each with paths.outputs of its own.")
            for key, name in bare.items()
            if name not in config.NAMING and not config.names(name)
        ],
        ["a grid"],
    )  # fmt: skip


def register(sweeps: Path) -> None:
    """Tells Hydra the names of the sweeps, for ``--help`` and completion."""
    store = ConfigStore.instance()
    for file in sorted(sweeps.glob("*.yaml")):
        store.store(group=GROUP, name=file.stem, node={}, package="_global_", provider=str(file))


def named(arguments: Sequence[str]) -> str | None:
    """The sweep that a command line names, None without one."""
    found = [_unquoted(text) for text in arguments if _is_name(text)]
    return ",".join(found) if found else None


def _unquoted(text: str) -> str:
    """The value of an override, without the quotes around a path."""
    value = text.partition("=")[2]
    if value[:1] in ("'", '"') and (override := parsed(f"key={value}")) is not None:
        return str(override.value())
    return value


def _is_name(text: str) -> bool:
    return text.partition("=")[0].lstrip("+") == GROUP and "=" in text


def _sorted_out(sweeps: Path, arguments: Sequence[str]) -> tuple[Sheet, list[str], list[str]]:
    """The named sweep, what is Hydra's own, and what is for the jobs."""
    name = named(arguments)
    if name is not None and "," in name and not place(name).is_file():
        raise ConfigError(
            f"sweep  {name!r} are several; run one after the other.\n"
            f"       Their reports can be joined: python report.py sweep=[{name}]"
        )
    sheet = Sheet() if name is None else Sheet.read(sweeps, name)
    rest = [text for text in arguments if not _is_name(text)]
    tuning = [text for text in rest if text.lstrip("+~").startswith(("hydra.", "hydra/"))]
    if wrong := [text for text in tuning if text.startswith(("hydra.sweeper", "hydra/sweeper"))]:
        raise ConfigError(
            f"{wrong[0].partition('=')[0]}  the grid is what stands on the command line, and in"
            " sweeps/.\n  Type the values of an axis: seed=0,1,2"
        )
    flags = [text for text in rest if text.startswith("-")]
    if flags:
        raise ConfigError(f"{flags[0]}  does not go with -m.")
    return sheet, tuning, [text for text in rest if text not in tuning]


def _composed(found: Grid, composed: Composed) -> list[tuple[tuple[str, ...], dict[str, Any]]]:
    """The folded configuration of each job; what is wrong with the first that has none is told."""
    jobs = []
    for overrides in found.jobs:
        try:
            cfg = composed(overrides)
        except Exception as error:

            def check(cfg: dict[str, Any], overrides: Sequence[str] = overrides) -> list[Any]:
                return config.check(cfg, overrides)

            config.refuse(explain(overrides, composed, check), overrides)
            raise ConfigError(str(error)) from error  # nothing that an override explains
        jobs.append((overrides, config.fold(cfg, overrides)))
    return jobs


def _launcher(overrides: Sequence[str], tuning: Sequence[str]) -> Launcher:
    """The launcher the command line chooses.

    Raises:
        ConfigError: there is none, or it has no such option.
    """

    def composed(some: Sequence[str]) -> DictConfig:
        return compose("train", overrides=[*overrides, *some], return_hydra_config=True)

    chosen = [text for text in tuning if "/" in text.partition("=")[0]]
    rest = [text for text in tuning if text not in chosen]
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
    config.refuse(config.check_part("hydra.launcher", options), tuning)
    target: Any = targets.locate(options.pop("_target_"), "hydra.launcher")
    return target(**options)


def _refuse_tuning(composed: Composed, chosen: Sequence[str], rest: Sequence[str]) -> None:
    """Says which of the words about the launcher Hydra refuses: the choice, or its options."""

    def after_the_choice(some: Sequence[str]) -> DictConfig:
        return composed([*chosen, *some])

    try:
        composed(chosen)
    except Exception:
        faults = explain(chosen, composed, lambda _: [])
    else:
        faults = explain(rest, after_the_choice, lambda _: [])
    config.refuse(faults, [*chosen, *rest])


def _launch(
    planned: Sequence["Planned"],
    launcher: Launcher,
    sheet: Sheet,
    found: Grid,
    arguments: Sequence[str],
    script: Path,
) -> int:
    from deephash.jobs import sweeping
    from deephash.jobs.watching import Screen, account
    from deephash.loggers.wandb import has_offline_records, sync_all_command
    from deephash.report.reading import TABLE
    from deephash.report.table import markdown

    check_writable(planned[0].run.path)
    command = shlex.join(["python", os.path.relpath(script), "-m", *arguments])
    group = planned[0].cfg["group"]
    if group is not None:
        outputs = place(planned[0].cfg["paths"]["outputs"])
        folder = outputs / SWEEPS / group
        sweeping.write_manifest(
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
    commands = sweeping.commands(left, script)
    busy = launcher.busy(commands)
    left = [job for at, job in enumerate(left) if at not in busy]
    commands = [job for at, job in enumerate(commands) if at not in busy]
    finished = sum(job.state is sweeping.State.finished and not job.left for job in planned)
    print(
        f"{sweeping.jobs(len(planned))}: {len(left)} to run, {finished} finished already"
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
    after = sweeping.again(planned, screen.failed)
    if told := account(after):
        print(told, file=sys.stderr)
    reports = [one for job in after if (one := sweeping.report_of(job, TABLE)) is not None]
    if reports:
        print(f"\n{markdown(reports, _rows(after, found.axes))}")
    if any(has_offline_records(job.run.path) for job in after):
        outputs = place(planned[0].cfg["paths"]["outputs"])
        print(f"\nW&B     offline; to upload the runs: {sync_all_command(outputs)}")
    if group is not None:
        words = ["python", os.path.relpath(script.with_name("report.py")), f"sweep={group}"]
        words += [f"paths.outputs={outputs}"] * (outputs != Path("outputs"))
        print(f"\nreport: {shlex.join(words)}")
    return 0 if all(job.state is sweeping.State.finished for job in after) else 1


def _rows(planned: Sequence["Planned"], axes: Sequence[str]) -> dict[str, str]:
    """What the rows of the closing table are called: the method, and where in the grid it is."""
    from deephash.jobs import sweeping

    own = [key for key in axes if key not in BASE]
    told = {
        job.name: {
            key: "" if (value := sweeping.value_of(job, key)) is None else f"{key}={value}"
            for key in own
        }
        for job in planned
    }
    vary = [key for key in own if len({values[key] for values in told.values()}) > 1]
    return {
        name: " ".join([name.split("/")[1], *filter(None, (values[key] for key in vary))])
        for name, values in told.items()
    }


def _values(text: str) -> tuple[str, list[str]]:
    """The key of an override, and its value, or values."""
    try:
        override = OverridesParser.create().parse_override(text)
        key = override.get_key_element()
        if override.is_delete() and "=" not in text:
            return key, [""]
        if not override.is_sweep_override():
            return key, [override.get_value_element_as_str()]
        if override.is_discrete_sweep():
            return key, list(override.sweep_string_iterator())
    except Exception as error:
        what = str(error).splitlines()[0]
        config.refuse([config.Fault(text, what, "Write it as key=value.")], [text])
    raise ConfigError(f"{text}  a grid needs single values.\n  Type them: key=0.1,0.2,0.3")


def _text(key: str, value: str) -> str:
    return key if key.startswith("~") and not value else f"{key}={value}"
