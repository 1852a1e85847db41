"""The command line: composes with Hydra, and turns errors into words. Heavy imports come late."""

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
from functools import partial, wraps
from importlib import metadata
from pathlib import Path
from typing import Any

import hydra
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

import deephash
from deephash import config, multirun, schema
from deephash import overrides as command_line
from deephash.errors import BusyError, ConfigError, DeephashError, WriteError, from_os_error
from deephash.explain import explain, several
from deephash.files import place
from deephash.launchers import process
from deephash.overrides import Mistyped
from deephash.validate import UNKNOWN, quoted

SHOWING = {"--help", "-h", "--hydra-help", "--version", "--cfg", "-c", "--info", "-i",
           "--shell-completion", "-sc"}  # fmt: skip
"""Flags under which Hydra shows something and runs nothing."""

MANY = {"-m", "--multirun"}
"""The flags of a grid."""

CHECKS = {
    "evaluate": config.check_evaluation,
    "report": config.check_report,
    "data": config.check_data,
}
"""What a page that trains nothing has to satisfy."""

COMPLETION = {"--shell-completion", "-sc"}
"""The flags of the completion of words by a shell."""

CONFIG_DIR = ("--config-dir", "-cd")
"""The flags of a further folder of configuration."""

PARALLEL = {
    "WORLD_SIZE": "torchrun or a launcher like it",
    "OMPI_COMM_WORLD_SIZE": "mpirun",
    "PMI_SIZE": "mpirun",
    "SLURM_STEP_NUM_TASKS": "srun",
}
"""How many times a command was started, by the name of the variable that says so."""

GOES_ON = "; without rerun=true the command goes on from here"


def train(conf: Path, sweeps: Path) -> int:
    """``train.py``: one run, or with ``-m`` a grid. Returns the exit status.

    Args:
        conf: the folder of the configuration.
        sweeps: the folder of named grids.
    """
    launched = process.follow_parent()
    multirun.register(sweeps)
    if not launched and (message := _several_processes(os.environ)) is not None:
        print(message, file=sys.stderr)
        return 2
    arguments = [text for text in sys.argv[1:] if text not in MANY]
    flags = {text.partition("=")[0] for text in sys.argv[1:]}
    if MANY & flags and (one := flags & {"--cfg", "-c", "--info", "-i"}):
        words = "shows one run. Leave out -m; preview=true shows the jobs of a grid."
        print(f"{one.pop()}  {words}", file=sys.stderr)
        return 2
    if not flags & SHOWING:
        if MANY & flags:
            return _flushed(_told(lambda: _sweep(conf, sweeps, arguments), GOES_ON))
        if (name := multirun.named(arguments)) is not None:
            line = f"python train.py -m {shlex.join(arguments)}"
            print(f"+sweep={name} is a grid: it needs -m.\n  Type: {line}", file=sys.stderr)
            return 2
    return _flushed(_main(conf, "train", partial(_train_job, launched)))


def _alone(page: Callable[[Path], int]) -> Callable[[Path], int]:
    """Refuse several processes of one command, which would write the same files."""

    @wraps(page)
    def run(conf: Path) -> int:
        if (message := _several_processes(os.environ)) is not None:
            print(message, file=sys.stderr)
            return 2
        return page(conf)

    return run


@_alone
def evaluate(conf: Path) -> int:
    """``evaluate.py``. Returns the exit status."""
    return _flushed(_main(conf, "evaluate", _evaluate_job))


@_alone
def report(conf: Path) -> int:
    """``report.py``. Returns the exit status."""
    return _flushed(_main(conf, "report", _report_job))


@_alone
def data(conf: Path) -> int:
    """``data.py ACTION``. Returns the exit status."""
    arguments = sys.argv[1:]
    done = [text for text in arguments if text in config.ACTIONS]
    if len(done) != 1 and not {text.partition("=")[0] for text in arguments} & SHOWING:
        strange = [text for text in arguments if "=" not in text and text not in done]
        given = f"{strange[0]} is none of them" if strange else "none was given"
        given = f"{len(done)} of them were given" if done else given
        print(
            f"data.py does one of {', '.join(config.ACTIONS)}; {given}.\n"
            "  Type: python data.py verify dataset=cifar10     (python data.py --help)",
            file=sys.stderr,
        )
        return 2
    sys.argv[1:] = [f"do={text}" if text in done else text for text in arguments]
    return _flushed(_main(conf, "data", _data_job))


def _train_job(launched: bool, cfg: DictConfig) -> None:
    from deephash import jobs

    overrides = _overrides()
    folded = config.fold(cfg, overrides)
    if folded["preview"]:
        planned = jobs.plan([(overrides, folded)])
        for message in jobs.missing_data(planned):
            print(message, file=sys.stderr)
        print(jobs.preview(planned, slots=1))
    elif launched:  # nobody watches it: why it fails is kept in its folder
        folder = jobs.run_folder(folded, overrides).path
        launch = os.environ.get(process.LAUNCH, "")
        jobs.noting(folder, lambda: jobs.train(folded, overrides, launch))
    else:
        jobs.train(folded, overrides)


def _evaluate_job(cfg: DictConfig) -> None:
    from deephash import jobs

    jobs.evaluate(config.fold(cfg), _overrides())


def _report_job(cfg: DictConfig) -> None:
    from deephash import jobs

    jobs.report(config.fold(cfg), _overrides())


def _data_job(cfg: DictConfig) -> None:
    from deephash import jobs

    jobs.data(config.fold(cfg, _overrides()), _overrides())


def _sweep(conf: Path, sweeps: Path, arguments: Sequence[str]) -> int:
    _prepare()
    good, mistyped = command_line.read(arguments, many=True)
    if mistyped:
        given = [text for text in good if _is_override(text)]
        _check_overrides(conf, "train", given, mistyped, many=True)
    return multirun.run(conf, sweeps, good, Path(sys.argv[0]).resolve())


def _prepare() -> None:
    logging.basicConfig(format="%(levelname)s: %(message)s", stream=sys.stderr)
    warnings.filterwarnings("ignore", message=".*does not have a deterministic implementation.*")
    schema.register()
    _python_3_14()


def _main(conf: Path, page: str, job: Any) -> int:
    _prepare()
    if "--version" in sys.argv[1:]:
        print(_version())
        return 0
    if page == "evaluate":
        sys.argv[1:] = [_quoted(text) for text in sys.argv[1:]]
    sys.argv[1:], mistyped = command_line.read(sys.argv[1:])
    sys.argv[1:] = [_from_home(text) for text in sys.argv[1:]]
    sys.argv[1:] = sorted(sys.argv[1:], key=lambda text: text not in MANY)
    arguments = sys.argv[1:]  # -m first: argparse wants it before what it is about
    shows = bool({text.partition("=")[0] for text in arguments} & SHOWING)
    completes = bool(COMPLETION & set(arguments)) and any(a.startswith("query=") for a in arguments)
    if shows and hasattr(signal, "SIGPIPE"):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `--help | head`; nothing else is open
    failures: list[DeephashError] = []

    def run(cfg: DictConfig) -> None:
        try:
            job(cfg)
        except DeephashError as error:  # told without a traceback
            failures.append(error)
        except BrokenPipeError:  # nobody reads on: `| head`
            _silence()
        except OSError as error:  # a full disk, a folder that is gone, an input without permission
            failures.append(from_os_error(error))

    def whole() -> int:
        if not shows:
            given = [text for text in arguments if _is_override(text)]
            _check_overrides(conf, page, given, mistyped)
        main = hydra.main(version_base="1.3", config_path=str(conf.resolve()), config_name=page)
        if completes:
            return _completed(main(run))
        main(run)()
        busy = any(isinstance(failure, BusyError) for failure in failures)
        return process.ELSEWHERE if busy else int(bool(failures))

    status = _told(whole, "" if page != "train" else GOES_ON)
    for failure in failures:
        print(failure, file=sys.stderr)
    return status


def _told(job: Callable[[], int], interrupted: str) -> int:
    """The exit status of a job; what stops it is said in words."""
    try:
        return job()
    except DeephashError as error:
        print(error, file=sys.stderr)
        return 2
    except BrokenPipeError:  # nobody reads on
        _silence()
        return 0
    except OSError as error:
        print(from_os_error(error), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"\ninterrupted{interrupted}", file=sys.stderr)
        return 130


def _flushed(status: int) -> int:
    """The exit status once all is said; that of ``head`` and the like when nobody reads it."""
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


def _overrides() -> list[str]:
    """The command line of this job, as Hydra read it."""
    found = OmegaConf.to_container(HydraConfig.get().overrides.task, resolve=False)
    assert isinstance(found, list)
    return [str(text) for text in found]


def _quoted(text: str) -> str:
    """``run=FOLDER`` with the folder in quotes: its name holds what Hydra reads as syntax.

    Of ``runs=[FOLDER,FOLDER]`` each, as far as there are such folders.
    """
    key, _, folder = text.partition("=")
    if key not in ("run", "runs", "out") or folder[:1] in ("'", '"'):
        return text
    if key == "runs" and not os.path.exists(folder):
        folders = _parted(folder.removeprefix("[").removesuffix("]").split(","))
        if folders is not None:
            return f"runs=[{','.join(map(quoted, folders))}]"
    return text if folder.startswith("[") else f"{key}={quoted(folder)}"


def _parted(pieces: Sequence[str]) -> list[str] | None:
    """The folders that pieces between commas make, as names may hold commas; None if none do."""
    for end in range(len(pieces), 0, -1):
        folder = ",".join(pieces[:end]).strip()
        rest = _parted(pieces[end:]) if os.path.exists(os.path.expanduser(folder)) else None
        if rest is not None:
            return [folder, *rest]
    return None if pieces else []


def _is_override(text: str) -> bool:
    return ("=" in text and not text.startswith("-")) or text.startswith("~")


def _check_overrides(
    conf: Path,
    page: str,
    overrides: Sequence[str],
    mistyped: Sequence[Mistyped] = (),
    many: bool = False,
) -> None:
    """Composes once before Hydra does, to tell everything that is wrong, and how to mend it."""
    more = _more_folders(sys.argv[1:])

    def composed(some: Sequence[str]) -> DictConfig:
        return compose(page, overrides=[*some, *more])

    with initialize_config_dir(str(conf.resolve()), version_base="1.3"):

        def check(cfg: dict[str, Any]) -> list[config.Fault]:
            if page == "train":
                return config.check(cfg, overrides)
            return CHECKS[page](cfg)

        cfg = None
        grids = [] if many else several(overrides, page, Path(sys.argv[0]).name)
        if not grids and not mistyped:
            with contextlib.suppress(Exception):  # `explain` finds out which override it was
                cfg = composed(overrides)
        if cfg is None:
            told = {fault.key for fault in grids}
            found = explain(overrides, composed, check, mistyped)
            faults = grids + [fault for fault in found if fault.key not in told]
        else:
            faults = check(config.fold(cfg, overrides))
            if any(fault.what == UNKNOWN for fault in faults):
                faults = explain(overrides, composed, check)
        config.refuse(faults, [*overrides, *(one.typed for one in mistyped)])
    GlobalHydra.instance().clear()


def _more_folders(arguments: Sequence[str]) -> list[str]:
    """What makes the folder of ``--config-dir`` part of a composition.

    Raises:
        ConfigError: there is no such folder.
    """
    for at, text in enumerate(arguments):
        flag, equals, folder = text.partition("=")
        if flag in CONFIG_DIR:
            folder = folder if equals else "".join(arguments[at + 1 : at + 2])
            if not Path(folder).is_dir():
                raise ConfigError(f"{flag}  there is no folder {folder}. Nothing was loaded.")
            return [f"hydra.searchpath=[{command_line.quoted(f'file://{Path(folder).resolve()}')}]"]
    return []


def _from_home(text: str) -> str:
    """A folder of ``--config-dir=~/conf``, which the shell leaves as it is."""
    flag, equals, folder = text.partition("=")
    return f"{flag}={place(folder)}" if equals and flag in CONFIG_DIR else text


def _completed(query: Callable[[], Any]) -> int:
    """Answer the shell that completes a word; what stands before it may be wrong or unfinished."""
    line = os.environ.get("COMP_LINE", "")
    begun, blank, fragment = line.rpartition(" ")
    try:
        typed = shlex.split(begun)
    except ValueError:  # a quote that is still open
        typed = begun.split()
    first = next((at for at, text in enumerate(typed) if text.endswith(".py")), 0) + 1
    before = [command_line.as_text(text) for text in typed[first:]]
    before = [text for text in before if command_line.parsed(text) is not None and " " not in text]
    os.environ["COMP_LINE"] = " ".join([*typed[:first], *before]) + blank + fragment
    os.environ["COMP_POINT"] = str(len(os.environ["COMP_LINE"]))
    with (
        open(os.devnull, "w", encoding="utf-8") as nowhere,
        contextlib.redirect_stderr(nowhere),
        contextlib.suppress(SystemExit),  # of Hydra, for an error: there is nothing to offer
    ):
        query()
    return 0


def _version() -> str:
    """What ``--version`` says."""
    return f"deephash {deephash.__version__} (torch {metadata.version('torch')})"


def _several_processes(environment: Mapping[str, str]) -> str | None:
    """What to say where ``torchrun``, ``srun`` or ``mpirun`` started one command several times."""
    for name, who in PARALLEL.items():
        if environment.get(name, "").isdecimal() and int(environment[name]) > 1:
            return (
                f"{who} started this command {environment[name]} times ({name}); a run is one"
                " process on one device.\n  Type: python train.py ...            one run\n"
                "        python train.py -m seed=0,1,2    several, one on each GPU of the machine\n"
                "        python train.py -m hydra/launcher=slurm seed=0,1,2    or as jobs of SLURM"
            )
    return None


def _python_3_14() -> None:
    """Hydra 1.3 gives argparse a help that is no text, which Python 3.14 refuses."""
    if sys.version_info >= (3, 14) and re.match(r"1\.[0-3]\.", hydra.__version__):
        argparse.ArgumentParser._check_help = lambda self, action: None  # type: ignore[attr-defined]
