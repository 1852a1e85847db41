"""The scripts as a shell sees them: closed pipes, early Ctrl-C, deprecated scripts."""

import os
import runpy
import shlex
import signal
import subprocess
import sys
import time

import pytest

from deephash import cli
from deephash.config import overrides
from deephash.utils import program
from tests.paths import ROOT


def start(cwd, *arguments, script="train.py", **options):
    env = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    env |= {"DEEPHASH_CACHE": str(cwd / "cache"), "PYTHONPATH": str(cwd)}
    return subprocess.Popen(
        [sys.executable, str(ROOT / script), *arguments],
        cwd=cwd, env=env, stderr=subprocess.PIPE, text=True, preexec_fn=_interruptible, **options,
    )  # fmt: skip


def _interruptible():
    """Background jobs of a shell ignore it, and child processes inherit this."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.parametrize("flag", ["--help", "--cfg=job", "--info"])
@pytest.mark.parametrize("script", ["train.py", "evaluate.py"])
def test_help_into_a_closed_pipe(tmp_path, script, flag):
    with start(tmp_path, flag, script=script, stdout=subprocess.PIPE) as process:
        process.stdout.close()
        output = process.stderr.read()
        assert process.wait(60) in (0, 141, -signal.SIGPIPE)
    assert "Traceback" not in output and "BrokenPipe" not in output


def test_last_output_of_a_job_into_a_closed_pipe(monkeypatch):
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as pipe:
        monkeypatch.setattr(sys, "stdout", pipe)
        print("mAP@all 0.5")
        assert cli._flushed(0) == 141
    monkeypatch.undo()
    assert cli._flushed(1) == 1  # where somebody reads


@pytest.mark.parametrize("module", ["hydra", "torch"])
def test_interrupted_while_it_imports(tmp_path, module):
    (tmp_path / f"{module}.py").write_text(
        "import pathlib, time\npathlib.Path('here').touch()\ntime.sleep(60)\n"
    )
    with start(tmp_path, "trainer.epochs=0", stdout=subprocess.DEVNULL) as process:
        try:
            until = time.monotonic() + 60
            while not (tmp_path / "here").exists() and time.monotonic() < until:
                assert process.poll() is None
                time.sleep(0.02)
            process.send_signal(signal.SIGINT)
            output = process.stderr.read()
            assert process.wait(60) == 130
        finally:
            process.kill()
    assert "Traceback" not in output
    assert not (tmp_path / "outputs").exists()


@pytest.mark.parametrize(
    ("page", "arguments", "status"),
    [("report", ["sweep=a b"], 1), ("data", ["describe", "dataset=nope"], 2), ("data", [], 2)],
)
def test_deprecated_scripts_run_the_command_and_name_it(
    page, arguments, status, tmp_path, monkeypatch, capfd
):
    monkeypatch.chdir(tmp_path)
    script = str(ROOT / f"{page}.py")
    monkeypatch.setattr(sys, "argv", [script, *arguments])
    monkeypatch.setattr(program, "_started_as", program.CONSOLE)
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(script, run_name="__main__")
    assert ended.value.code == status
    first, *rest = capfd.readouterr().err.splitlines()
    typed = shlex.join(["python", "-m", "deephash", page, *arguments])
    assert first.startswith(f"{page}.py is deprecated.") and first.rstrip().endswith(typed)
    assert rest and not any("deprecated" in line for line in rest)


@pytest.mark.parametrize(
    ("started_as", "expected"),
    [
        ("deephash", [f"deephash {page}" for page in program.PAGES]),
        ("python -m deephash", [f"python -m deephash {page}" for page in program.PAGES]),
        (
            "../it/train.py",
            [
                "python ../it/train.py",
                "python ../it/evaluate.py",
                *(f"python -m deephash {page}" for page in program.PAGES[2:]),
            ],
        ),
    ],
)
def test_messages_name_commands_as_the_program_was_started(started_as, expected, monkeypatch):
    monkeypatch.setattr(program, "_started_as", started_as)
    commands = [program.command(page) for page in program.PAGES]
    assert commands[: len(expected)] == expected
    started = "deephash" if started_as == "deephash" else "python -m deephash"
    assert commands[4:] == [f"{started} {page}" for page in program.PAGES[4:]]


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """Run folders as training names them."""
    monkeypatch.chdir(tmp_path)
    for name in ("seed0", "seed0,a.b=1", "seed0,a.b=1,c=2", "it's"):
        (tmp_path / name).mkdir()


@pytest.mark.parametrize(
    ("typed", "means"),
    [
        ("run=seed0,a.b=1", "run='seed0,a.b=1'"),
        ("run='seed0'", "run='seed0'"),
        ("runs=seed0,a.b=1", "runs='seed0,a.b=1'"),
        ("runs=[seed0,seed0,a.b=1]", "runs=['seed0','seed0,a.b=1']"),
        ("runs=[seed0,a.b=1,c=2, seed0]", "runs=['seed0,a.b=1,c=2','seed0']"),
        ("runs=seed0,seed0,a.b=1", "runs=['seed0','seed0,a.b=1']"),
        ("runs=[seed0,it's]", r"runs=['seed0','it\'s']"),
        ("runs=seed*", "runs='seed*'"),
        ("runs=['seed0,a.b=1',seed0]", "runs=['seed0,a.b=1',seed0]"),
        ("runs=[nowhere,seed0]", "runs=[nowhere,seed0]"),
        ("out=~/a,b", "out='~/a,b'"),
        ("tsne=0", "tsne=0"),
    ],
)
def test_folders_may_hold_what_hydra_reads_as_syntax(typed, means, folders):
    assert overrides.quote_folders([typed]) == [means]


def test_a_report_after_a_grid_in_one_process(capsys):
    assert cli.run("train", ["-m", "seed=0,1", "preview=true"]) == 0
    assert cli.run("report", ["sweep=x"]) == 1
    assert "there is no sweep" in capsys.readouterr().err.lower()
