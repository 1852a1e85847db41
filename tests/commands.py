"""Run the project's commands in processes of their own, as a shell does.

Most of the time of a short command goes into imports. Here a server imports torch and what a run
needs once, and each command is a fork of it, with its own folder, environment and output.
"""

import atexit
import multiprocessing
import os
import runpy
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOREIGN = ("WANDB", "HYDRA", "DEEPHASH", "COVERAGE")
SERVER = multiprocessing.get_context("forkserver")
PRELOADED = (
    "torch", "torch._dynamo", "torch._inductor", "torchvision", "sklearn.datasets", "hydra",
    "sklearn.manifold", "matplotlib.figure", "deephash.runs", "deephash.sweep",
)  # fmt: skip
SERVER.set_forkserver_preload(list(PRELOADED))


def environment(cwd: Path, more: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the variables of a command: a cache of its own, one thread, and the CPU.

    Args:
        cwd: its folder.
        more: further variables.
    """
    kept = {key: value for key, value in os.environ.items() if not key.startswith(FOREIGN)}
    kept |= {"DEEPHASH_CACHE": str(cwd / "cache"), "OMP_NUM_THREADS": "1", "COLUMNS": "300"}
    return kept | {"CUDA_VISIBLE_DEVICES": ""} | dict(more or {})  # the CPU: bit for bit


def run(
    cwd: Path,
    *arguments: object,
    script: str = "train.py",
    code: int = 0,
    env: Mapping[str, str] | None = None,
    seconds: float = 300,
) -> str:
    """Run a script of the project and return what it printed.

    Args:
        cwd: folder to run in.
        arguments: of the command line.
        script: its path, from the root of the project.
        code: exit status that is expected.
        env: further variables of the environment.
        seconds: time limit.

    Returns:
        The standard output, followed by the standard error.

    Raises:
        AssertionError: the exit status is another, there is a traceback, or time is up.
    """
    with tempfile.TemporaryDirectory() as folder:
        outputs = (f"{folder}/stdout", f"{folder}/stderr")
        words = [str(ROOT / script), *map(str, arguments)]
        process = SERVER.Process(
            target=_command, args=(words, str(cwd), environment(cwd, env), outputs)
        )
        process.start()
        process.join(seconds)
        late = process.exitcode is None
        if late:
            process.kill()
            process.join()
        printed = "".join(Path(output).read_text() for output in outputs if Path(output).exists())
    assert not late, f"{script} has not ended after {seconds} s: {printed}"
    assert "Traceback" not in printed, printed
    assert process.exitcode == code, printed
    return printed


def _command(
    words: list[str], cwd: str, variables: dict[str, str], outputs: tuple[str, str]
) -> None:
    import torch

    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(variables)
    torch.set_num_threads(int(variables["OMP_NUM_THREADS"]))
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    for number, name in enumerate((os.devnull, *outputs)):
        opened = os.open(name, flags if number else os.O_RDONLY, 0o600)
        os.dup2(opened, number)
        os.close(opened)
    sys.stdin = os.fdopen(0, closefd=False)
    sys.stdout = os.fdopen(1, "w", closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
    sys.argv, sys.path[0] = words, str(Path(words[0]).parent)
    sys.path[1:1] = filter(None, variables.get("PYTHONPATH", "").split(os.pathsep))
    try:
        runpy.run_path(words[0], run_name="__main__")
    finally:
        atexit._run_exitfuncs()  # as an interpreter does, but a fork does not
        sys.stdout.flush()
