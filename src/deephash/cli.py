"""The command line: compose a page, run its job, print errors. Heavy imports are deferred."""

import argparse
import contextlib
import logging
import os
import re
import shlex
import signal
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any, get_args

import hydra
from hydra._internal.hydra import Hydra

from deephash.config import composition, overrides, schema
from deephash.config.composition import CONFIG_DIR, Extension
from deephash.config.overrides import MANY, CommandLine, Override
from deephash.errors import BusyError, DeephashError, WriteError, from_os_error
from deephash.sweep import multirun
from deephash.sweep.launchers import process
from deephash.utils import program
from deephash.utils.files import expand_path

SHOWING = {"--help", "-h", "--hydra-help", "--version", "--cfg", "-c", "--info", "-i",
           "--shell-completion", "-sc"}  # fmt: skip
"""Flags that show something and run nothing."""

COMPLETION = {"--shell-completion", "-sc"}
"""Flags of the shell completion."""

WITHOUT_EFFECT = {"--resolve", "--run", "-r", "--"}
"""Flags of Hydra that are ignored."""

PARALLEL = {
    "WORLD_SIZE": "torchrun or a launcher like it",
    "OMPI_COMM_WORLD_SIZE": "mpirun",
    "PMI_SIZE": "mpirun",
    "SLURM_STEP_NUM_TASKS": "srun",
}
"""Launchers by the environment variable that holds their number of processes."""

GOES_ON = "; without rerun=true the command goes on from here"

Job = Callable[[Any, tuple[Override, ...]], None]
"""The job of a page: a function of its checked configuration and its command line."""


def run(page: str, arguments: Sequence[str]) -> int:
    """Run a command. Return the exit status.

    Args:
        page: one of ``program.PAGES``.
        arguments: its command line.
    """
    if page == "train":
        with multirun.registered_sweeps(program.folder("sweeps")):
            return _train(arguments)
    if (message := _several_processes(os.environ)) is not None:  # they would write the same files
        print(message, file=sys.stderr)
        return 2
    if page == "data":
        return _data(arguments)
    line = _read(overrides.quote_folders(arguments, NAMES.get(page, overrides.FOLDERS)))
    return _flushed(_main(page, line, JOBS[page]))


def _train(arguments: Sequence[str]) -> int:
    conf, sweeps = program.folder("conf"), program.folder("sweeps")
    launched = process.follow_parent()
    if not launched and (message := _several_processes(os.environ)) is not None:
        print(message, file=sys.stderr)
        return 2
    many = bool(MANY & set(arguments))
    line = _read(arguments if many else overrides.quote_folders(arguments, overrides.ORIGINS), many)
    if many and (one := line.names & {"--cfg", "-c", "--info", "-i"}):
        message = "shows one run. Leave out -m; preview=true shows the jobs of a grid."
        print(f"{min(one)}  {message}", file=sys.stderr)
        return 2
    if not line.names & SHOWING:
        if many:
            return _flushed(_exit_status(lambda: _sweep(conf, sweeps, line), GOES_ON))
        sweep, search = multirun.sweep_name(line.overrides), multirun.search_name(line.overrides)
        if sweep is not None or search is not None:
            command = f"{program.command('train')} -m {shlex.join(arguments)}"
            typed = f"+search={search}" if sweep is None else f"+sweep={sweep}"
            kind = "a search" if sweep is None else "a grid"
            print(f"{typed} is {kind}: it needs -m.\n  Type: {command}", file=sys.stderr)
            return 2
    return _flushed(_main("train", line, partial(_train_job, launched)))


def _data(arguments: Sequence[str]) -> int:
    """Run ``data ACTION``. Return the exit status."""
    actions = get_args(schema.Action)
    done = [text for text in arguments if text in actions]
    if len(done) != 1 and not _read(arguments).names & SHOWING:
        strange = [text for text in arguments if "=" not in text and text not in done]
        given = f"{strange[0]} is none of them" if strange else "none was given"
        given = f"{len(done)} of them were given" if done else given
        command = program.command("data")
        print(
            f"{command} does one of {', '.join(actions)}; {given}.\n"
            f"  Type: {command} verify dataset=cifar10     ({command} --help)",
            file=sys.stderr,
        )
        return 2
    line = _read([f"do={text}" if text in done else text for text in arguments])
    return _flushed(_main("data", line, _data_job))


def _train_job(launched: bool, cfg: schema.Train, given: tuple[Override, ...]) -> None:
    from deephash import runs
    from deephash.sweep import plan_jobs

    if cfg.preview:
        planned = plan_jobs.plan_sweep([(given, cfg)])
        for message in plan_jobs.missing_data(planned):
            print(message, file=sys.stderr)
        print(plan_jobs.preview_text(planned, slots=1))
    elif launched:  # the reason of a failure is kept in its folder
        folder = runs.RunFolder.of(cfg, given).path
        launch = os.environ.get(process.LAUNCH, "")
        plan_jobs.run_recording_failure(folder, lambda: runs.train(cfg, given, launch))
    else:
        runs.train(cfg, given)


def _evaluate_job(cfg: schema.Evaluate, given: tuple[Override, ...]) -> None:
    from deephash import runs

    runs.evaluate(cfg, given)


def _report_job(cfg: schema.Report, given: tuple[Override, ...]) -> None:
    from deephash.sweep import report_sweep

    report_sweep.report_sweeps(cfg, given)


def _data_job(cfg: schema.Data, given: tuple[Override, ...]) -> None:
    from deephash import runs

    runs.data(cfg, given)


def _encode_job(cfg: schema.Encode, given: tuple[Override, ...]) -> None:
    from deephash.search import commands

    commands.encode(cfg)


def _search_job(cfg: schema.Search, given: tuple[Override, ...]) -> None:
    from deephash.search import commands

    commands.search(cfg)


def _export_job(cfg: schema.Export, given: tuple[Override, ...]) -> None:
    from deephash import deployment

    deployment.export(cfg, given)


def _serve_job(cfg: schema.Serve, given: tuple[Override, ...]) -> None:
    from deephash.search.server import command

    command.serve(cfg)


JOBS: dict[str, Job] = {
    "evaluate": _evaluate_job,
    "report": _report_job,
    "encode": _encode_job,
    "search": _search_job,
    "serve": _serve_job,
    "export": _export_job,
}
"""Jobs of the pages besides ``train`` and ``data``."""

_OF_IMAGES = ("run", "images", "out", "root", "path_column", "label_column", "index", "query")
NAMES = {"encode": _OF_IMAGES, "search": _OF_IMAGES, "serve": _OF_IMAGES}
"""Keys that take paths or names; of other pages ``overrides.FOLDERS``."""


def _sweep(conf: Path, sweeps: Path, line: CommandLine) -> int:
    _prepare()
    if line.mistyped:
        composition.checked(conf, "train", line.without(*MANY), many=True)
    line = line.without(*MANY)
    if multirun.search_name(line.overrides) is None:
        return multirun.run_sweep(conf, sweeps, line)
    from deephash.sweep import search_values  # late: imports torch

    return search_values.search_over_values(conf, sweeps, line)


def _read(arguments: Sequence[str], many: bool = False) -> CommandLine:
    """Parse a command line, with ``~`` of ``--config-dir=~/conf`` for the home folder."""
    return overrides.read([_from_home(text) for text in arguments], many)


def _prepare() -> None:
    logging.basicConfig(format="%(levelname)s: %(message)s", stream=sys.stderr)
    warnings.filterwarnings("ignore", message=".*does not have a deterministic implementation.*")
    schema.register()
    _python_3_14()


def _main(page: str, line: CommandLine, job: Job) -> int:
    """Run the flag of a command line, or compose and check a page and run its job.

    Args:
        page: one of ``program.PAGES``.
        line: the command line.
        job: of the page.
    """
    conf = program.folder("conf")
    _prepare()
    if "--version" in line.names:
        print(program.version())
        return 0
    if line.names & SHOWING:
        return _exit_status(lambda: _show(conf, page, line), "")
    strange = sorted(
        line.names - WITHOUT_EFFECT - {*CONFIG_DIR} - (MANY if page == "train" else set())
    )
    if strange:
        command = program.command(page)
        print(f"{strange[0]}  has no use here. See {command} --help", file=sys.stderr)
        return 2
    failures: list[DeephashError] = []

    def whole() -> int:
        cfg = composition.checked(conf, page, line)
        try:
            job(cfg, composition.without_hydra(line.overrides))
        except DeephashError as error:  # printed without a traceback
            failures.append(error)
        except BrokenPipeError:  # the reader closed the pipe: `| head`
            _silence()
        except OSError as error:  # a full disk, a folder that is gone, an input without permission
            failures.append(from_os_error(error))
        busy = any(isinstance(failure, BusyError) for failure in failures)
        return process.ELSEWHERE if busy else int(bool(failures))

    status = _exit_status(whole, "" if page != "train" else GOES_ON)
    for failure in failures:
        print(failure, file=sys.stderr)
    return status


def _show(conf: Path, page: str, line: CommandLine) -> int:
    """Let Hydra show its help, the configuration, or completions."""
    if hasattr(signal, "SIGPIPE"):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `--help | head`; nothing else is open
    more = Extension.of(line).override
    kept = [text for text in line.arguments if not text.startswith(f"{composition.SEARCH_PATH}=")]
    installs = any(one.text == "install=bash" for one in line.overrides)
    if COMPLETION & line.names and installs and not program.by_script():
        print(program.completion())
        return 0
    sys.argv[1:] = [*kept, *more]
    _hide_groups("shared", "settings/base", "engine")
    main = hydra.main(version_base="1.3", config_path=str(conf.resolve()), config_name=page)
    show = main(lambda cfg: None)
    if COMPLETION & line.names and any(one.key == "query" for one in line.overrides):
        return _completed(show)
    show()
    return 0


@cache
def _hide_groups(*hidden: str) -> None:
    """Omit groups from ``--help`` that only defaults lists use, or only ``search``."""
    usual = Hydra.list_all_config_groups

    def shown(self: Hydra, parent: str = "") -> list[str]:
        return [group for group in usual(self, parent) if not group.startswith(hidden)]

    Hydra.list_all_config_groups = shown  # type: ignore[method-assign]


def _exit_status(job: Callable[[], int], interrupted: str) -> int:
    """Run a job and return its exit status; print errors."""
    try:
        return job()
    except DeephashError as error:
        print(error, file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader closed the pipe
        _silence()
        return 0
    except OSError as error:
        print(from_os_error(error), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"\ninterrupted{interrupted}", file=sys.stderr)
        return 130


def _flushed(status: int) -> int:
    """Flush stdout and return the exit status; that of SIGPIPE if the reader closed the pipe."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        _silence()
        return 128 + getattr(signal, "SIGPIPE", 13)
    except OSError as error:
        _silence()
        with contextlib.suppress(OSError):
            print(WriteError("the output of this command", error), file=sys.stderr)
        return status or 1
    return status


def _silence() -> None:
    """Redirect stdout to /dev/null after the reader closed the pipe."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _from_home(text: str) -> str:
    """Expand ``--config-dir=~/conf``, which the shell does not."""
    flag, equals, folder = text.partition("=")
    return f"{flag}={expand_path(folder)}" if equals and flag in CONFIG_DIR else text


def _completed(query: Callable[[], Any]) -> int:
    """Complete a word for the shell; the words before it may be wrong or unfinished."""
    line = os.environ.get("COMP_LINE", "")
    begun, blank, fragment = line.rpartition(" ")
    try:
        typed = shlex.split(begun)
    except ValueError:  # a quote that is still open
        typed = begun.split()
    if program.by_script():
        first = next((at for at, text in enumerate(typed) if text.endswith(".py")), 0) + 1
    else:  # the second word names the command, which Hydra does not expect
        typed, first = [*typed[:1], *typed[2:]], 1
    before = [overrides.as_text(text) for text in typed[first:]]
    before = [text for text in before if overrides.parsed(text) is not None and " " not in text]
    os.environ["COMP_LINE"] = " ".join([*typed[:first], *before]) + blank + fragment
    os.environ["COMP_POINT"] = str(len(os.environ["COMP_LINE"]))
    with (
        Path(os.devnull).open("w", encoding="utf-8") as nowhere,
        contextlib.redirect_stderr(nowhere),
        contextlib.suppress(SystemExit),  # of Hydra, for an error: no completions
    ):
        query()
    return 0


def _several_processes(environment: Mapping[str, str]) -> str | None:
    """Return an error message if ``torchrun``, ``srun`` or ``mpirun`` started several processes."""
    for name, who in PARALLEL.items():
        if environment.get(name, "").isdecimal() and int(environment[name]) > 1:
            train = program.command("train")
            return (
                f"{who} started this command {environment[name]} times ({name}); a run is one"
                f" process on one device.\n  Type: {train} ...            one run\n"
                f"        {train} -m seed=0,1,2    several, one on each GPU of the machine\n"
                f"        {train} -m hydra/launcher=slurm seed=0,1,2    or as jobs of SLURM"
            )
    return None


def _python_3_14() -> None:
    """Disable a check of argparse: Hydra 1.3 passes a help object that Python 3.14 refuses."""
    if sys.version_info >= (3, 14) and re.match(r"1\.[0-3]\.", hydra.__version__):
        argparse.ArgumentParser._check_help = lambda self, action: None  # type: ignore[attr-defined]
