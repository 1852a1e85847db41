"""Run the project's commands in processes of their own, as a shell does.

Most of the time of a short command goes into imports. Here a server imports torch and what a run
needs once (``preloaded``), and each command is a fork of it, with its own folder, environment and
output. The jobs of a sweep are forks of the command that launches it, unless ``fresh`` gives each
an interpreter of its own, as it has outside the tests. Pages of runs have no figures, which take
half of a short run, unless ``figures`` asks for them.
"""

import atexit
import logging
import multiprocessing
import multiprocessing.forkserver
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tests.paths import ROOT

FOREIGN = ("WANDB", "HYDRA", "DEEPHASH", "COVERAGE")
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["tests.preloaded"])

FIGURES: dict[str, Callable[..., Any]] = {
    "line_plot": lambda *_, **__: "",
    "range_plot": lambda *_, **__: "",
}
"""Replacements of the functions of ``report.pages.run`` that draw."""


def _start_server() -> None:
    """Start the server, which imports ``tests.preloaded``, unless it runs."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [before, str(ROOT)]))
    try:
        multiprocessing.forkserver.ensure_running()
    finally:
        del os.environ["PYTHONPATH"]
        if before is not None:
            os.environ["PYTHONPATH"] = before


def environment(cwd: Path, more: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the variables of a command: a cache of its own, one thread, and the CPU.

    Args:
        cwd: its folder.
        more: further variables.
    """
    kept = {key: value for key, value in os.environ.items() if not key.startswith(FOREIGN)}
    kept |= {"DEEPHASH_CACHE": str(cwd / "cache"), "OMP_NUM_THREADS": "1", "COLUMNS": "300"}
    return kept | {"CUDA_VISIBLE_DEVICES": ""} | dict(more or {})  # the CPU: bit for bit


class Command:
    """A command that runs in the background.

    Args:
        cwd: folder to run in.
        function: what runs, and its arguments.
        env: further variables of the environment.
        fresh: whether each job of a sweep gets an interpreter of its own.
        figures: whether the pages of runs have figures.
    """

    def __init__(
        self,
        cwd: Path,
        *function: Any,
        env: Mapping[str, str] | None = None,
        fresh: bool = False,
        figures: bool = False,
    ) -> None:
        _start_server()
        self._folder = tempfile.TemporaryDirectory()
        self._outputs = [Path(self._folder.name) / name for name in ("stdout", "stderr")]
        outputs = [str(output) for output in self._outputs]
        self._process = SERVER.Process(
            target=_command,
            args=(function, str(cwd), environment(cwd, env), outputs, fresh, figures),
        )
        self._process.start()

    def poll(self) -> int | None:
        """Return the exit status, negative for a signal, or None while it runs."""
        return self._process.exitcode

    def send(self, number: int) -> None:
        """Send a signal."""
        os.kill(self._process.pid, number)

    def printed(self) -> str:
        """Return the standard output so far, followed by the standard error."""
        return "".join(output.read_text() for output in self._outputs if output.exists())

    def wait(self, seconds: float) -> tuple[int | None, str]:
        """Wait for the end, and kill the command if it has not ended in time.

        Returns:
            the exit status, None for a command that was killed here, and what it printed.
        """
        self._process.join(seconds)
        status = self._process.exitcode
        if status is None:
            self._process.kill()
            self._process.join()
        printed = self.printed()
        self._folder.cleanup()
        return status, printed


def start(cwd: Path, *arguments: object, script: str = "train.py") -> Command:
    """Start a script of the project in the background.

    Args:
        cwd: folder to run in.
        arguments: of the command line.
        script: its path, from the root of the project.
    """
    return Command(cwd, _script, str(ROOT / script), *map(str, arguments))


def run(
    cwd: Path,
    *arguments: object,
    script: str = "train.py",
    code: int = 0,
    env: Mapping[str, str] | None = None,
    seconds: float = 300,
    fresh: bool = False,
    figures: bool = False,
) -> str:
    """Run a script or a command of the project and return what it printed.

    Args:
        cwd: folder to run in.
        arguments: of the command line.
        script: its path, from the root of the project; or a command such as ``report``, which runs
            as ``python -m deephash report``.
        code: exit status that is expected.
        env: further variables of the environment.
        seconds: time limit.
        fresh: whether each job of a sweep gets an interpreter of its own.
        figures: whether the pages of runs have figures.

    Returns:
        The standard output, followed by the standard error.

    Raises:
        AssertionError: the exit status is another, there is a traceback, or time is up.
    """
    is_script = script.endswith(".py")
    words = (str(ROOT / script) if is_script else script, *map(str, arguments))
    function = _script if is_script else _module
    command = Command(cwd, function, *words, env=env, fresh=fresh, figures=figures)
    return _ended(command, script, code, seconds)


def call(cwd: Path, function: Callable[..., None], *arguments: object) -> str:
    """Run a function of a test module as ``run`` runs a script, and return what it printed."""
    return _ended(Command(cwd, function, *arguments), function.__name__, 0, 300)


def _ended(command: Command, name: str, code: int, seconds: float) -> str:
    status, printed = command.wait(seconds)
    assert status is not None, f"{name} has not ended after {seconds} s: {printed}"
    assert "Traceback" not in printed, printed
    assert status == code, printed
    return printed


def _command(
    function: tuple[Any, ...],
    cwd: str,
    variables: dict[str, str],
    outputs: Sequence[str],
    fresh: bool,
    figures: bool,
) -> None:
    os.chdir(cwd)
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    opened = [os.open(name, flags, 0o600) for name in outputs]
    _become(variables, *opened)
    if not fresh:
        from deephash.sweep.launchers import process

        process.subprocess = SimpleNamespace(**{**vars(subprocess), "Popen": _popen})
    if not figures:
        from deephash.report.pages import run as page

        vars(page).update(FIGURES)
    try:
        function[0](*function[1:])
    finally:
        atexit._run_exitfuncs()  # as an interpreter does, but a fork does not
        sys.stdout.flush()


def _become(variables: Mapping[str, str], stdout: int, stderr: int) -> None:
    """Take the environment, the descriptors and the signals of a process that begins."""
    import torch

    signal.signal(signal.SIGINT, signal.default_int_handler)  # also where a shell ignores it
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.environ.clear()
    os.environ.update(variables)
    torch.set_num_threads(int(variables["OMP_NUM_THREADS"]))
    for number, descriptor in enumerate((os.open(os.devnull, os.O_RDONLY), stdout, stderr)):
        os.dup2(descriptor, number)
    sys.stdin = os.fdopen(0, closefd=False)
    sys.stdout = os.fdopen(1, "w", closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)


def _script(*words: str) -> None:
    sys.argv, sys.path[0] = list(words), str(Path(words[0]).parent)
    sys.path[1:1] = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    runpy.run_path(words[0], run_name="__main__")


def _module(*words: str) -> None:
    sys.argv, sys.path[0] = ["-m", *words], str(Path.cwd())
    sys.path[1:1] = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    runpy.run_module("deephash", run_name="__main__", alter_sys=True)


def _popen(command: Sequence[str], **options: Any) -> Any:
    """Start a job of a sweep: a run of ``train.py`` as a fork, anything else as it is."""
    if command[0] == sys.executable and command[1] == str(ROOT / "train.py"):
        return _ForkedJob(command[1:], **options)
    return subprocess.Popen(command, **options)


class _ForkedJob:
    """What a launcher takes for ``subprocess.Popen``: a job as a fork of this process."""

    def __init__(self, words: Sequence[str], stdout: Any, env: Mapping[str, str], **_: Any) -> None:
        self.returncode: int | None = None
        sys.stdout.flush()
        sys.stderr.flush()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of threads: none of them computes
            self.pid = os.fork()
        if not self.pid:
            self._run(words, stdout.fileno(), env)

    def _run(self, words: Sequence[str], output: int, env: Mapping[str, str]) -> None:
        status = 1
        try:
            from hydra.core.global_hydra import GlobalHydra

            os.setsid()
            atexit._clear()
            _become(env, output, output)
            GlobalHydra.instance().clear()
            logging.root.handlers.clear()
            _script(*words)
            status = 0
        except SystemExit as error:
            status = error.code if isinstance(error.code, int) else int(error.code is not None)
        except BaseException:
            traceback.print_exc()
        finally:
            atexit._run_exitfuncs()
            sys.stdout.flush()
            os._exit(status)

    def poll(self) -> int | None:
        if self.returncode is None:
            ended, raw = os.waitpid(self.pid, os.WNOHANG)
            if ended:
                self.returncode = os.waitstatus_to_exitcode(raw)
        return self.returncode

    def wait(self, timeout: float) -> int:
        until = time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > until:
                raise subprocess.TimeoutExpired("a job", timeout)
            time.sleep(0.01)
        return self.returncode
