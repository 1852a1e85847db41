"""The wheel in an environment of its own, used from an empty folder: no repository is in reach."""

import json
import os
import shlex
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

import deephash
from tests.commands import run
from tests.paths import ROOT

QUICK = ["trainer.epochs=2", "backbone.width=4", "model.nbit=8", "logger=quiet"]

DRIVER = """
import os, sys
import torch._dynamo, hydra, torchvision, matplotlib.figure  # once for all commands
from deephash import runs, sweep
from deephash.main import console

for line in sys.stdin:
    arguments, output = eval(line)
    child = os.fork()
    if not child:
        descriptor = os.open(output, os.O_WRONLY | os.O_CREAT)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        sys.argv = ["deephash", *arguments]
        status = console()
        sys.stdout.flush()
        os._exit(status)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
"""Runs commands of the wheel in forks of a process that has imported torch."""


class Installed:
    """An environment with the wheel and, behind it, the packages that run these tests."""

    def __init__(self, folder, wheel):
        self.folder = folder
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
        (site,) = folder.glob("lib/python*/site-packages")
        self.site = site
        outer = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
        assert sysconfig.get_path("purelib") in outer
        (site / "outer.pth").write_text("\n".join(outer))  # .pth files there are not read
        words = ["-m", "pip", "--python", self.python, "install", "--no-deps", "--no-index",
                 "--quiet", "--disable-pip-version-check", str(wheel)]  # fmt: skip
        subprocess.run([sys.executable, *words], check=True)

    @property
    def python(self):
        return str(self.folder / "bin" / "python")

    def environment(self, cwd):
        foreign = ("PYTHON", "DEEPHASH", "WANDB", "HYDRA", "COVERAGE")
        kept = {key: value for key, value in os.environ.items() if not key.startswith(foreign)}
        path = f"{self.folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
        return kept | {
            "PATH": path,
            "DEEPHASH_CACHE": str(cwd / "cache"),
            "OMP_NUM_THREADS": "1",
            "CUDA_VISIBLE_DEVICES": "",
            "COLUMNS": "300",
        }

    def call(self, cwd, *command, code=0, stdin=None):
        done = subprocess.run(
            command, cwd=cwd, env=self.environment(cwd), input=stdin, capture_output=True, text=True
        )
        assert done.returncode == code, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return done.stdout + done.stderr


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    pytest.importorskip("hatchling", reason='pip install -e ".[test]"')
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    return Installed(folder / "environment", wheel), wheel


@pytest.fixture(scope="module")
def cwd(tmp_path_factory):
    return tmp_path_factory.mktemp("empty")


def test_the_wheel_holds_the_package_its_configuration_and_nothing_else(installed):
    _, wheel = installed
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    for folder, place in (("conf", "deephash/conf"), ("sweeps", "deephash/sweeps")):
        for file in (ROOT / folder).rglob("*.yaml"):
            assert f"{place}/{file.relative_to(ROOT / folder).as_posix()}" in names
    assert "deephash/py.typed" in names
    assert {name.split("/")[0].split("-")[0] for name in names} == {"deephash"}
    assert f"deephash-{deephash.__version__}" in wheel.name


def test_nothing_is_read_from_the_repository(installed, cwd):
    environment, _ = installed
    script = "import deephash; from deephash.utils import program as p; print(deephash.__file__)"
    script += "; print(p.checkout(), p.folder('conf'), p.folder('sweeps'))"
    file, folders = environment.call(cwd, environment.python, "-c", script).splitlines()
    package = environment.site / "deephash"
    assert Path(file) == package / "__init__.py"
    assert folders == f"None {package / 'conf'} {package / 'sweeps'}"


def test_what_needs_no_configuration(installed, cwd):
    environment, _ = installed
    assert environment.call(cwd, "deephash", "--version").startswith(
        f"deephash {deephash.__version__} (torch "
    )
    assert "deephash train [key=value ...]" in environment.call(cwd, "deephash", "--help")
    printed = environment.call(cwd, "deephash", "nonsense", code=2)
    assert "There is no command 'nonsense'" in printed and "Type: deephash --help" in printed


def test_commands_from_an_empty_folder(installed, cwd):
    environment, _ = installed
    run_folder = "outputs/digits/relahash/8bit/seed0,backbone.width=4,trainer.epochs=2"
    lines = {
        "train": ["train", *QUICK],
        "evaluate": ["evaluate", f"run={run_folder}", "figures=false"],
        "again": ["train", *QUICK],
        "preview": shlex.split(
            "train -m +sweep=fig9_batch_size dataset=digits model.nbit=16"
            " trainer.batch_size=50,100 preview=true"
        ),
        "sweep": ["train", "-m", "seed=0,1", "group=pair", *QUICK],
        "report": ["report", "sweep=pair", "compare=null"],
        "describe": ["data", "describe", "dataset=digits"],
        "help": ["data", "--help"],
        "grid": ["train", "+sweep=table1"],
        "missing": ["train", "-m", "dataset=nuswide21", "dataset.root=nowhere", "preview=true"],
    }
    outputs = {name: cwd / f"{name}.txt" for name in lines}
    stdin = "".join(f"{(line, str(outputs[name]))!r}\n" for name, line in lines.items())
    codes = environment.call(cwd, environment.python, "-c", DRIVER, stdin=stdin).split()
    text = {name: outputs[name].read_text() for name in lines}
    expected = dict.fromkeys(lines, "0") | {"grid": "2"}
    assert dict(zip(lines, codes, strict=True)) == expected, text
    assert "Traceback" not in "".join(text.values())
    assert ROOT.as_posix() not in "".join(text.values())

    script = cwd.parent / "script"  # the same numbers as those of the repository's script
    script.mkdir()
    run(script, *QUICK)
    folder = cwd / run_folder
    report = json.loads((folder / "report.json").read_text())
    same = json.loads((script / run_folder / "report.json").read_text())
    assert report["run"] == same["run"] and report["metrics"] == same["metrics"]
    assert report["git"] == {"commit": None, "dirty": None}

    assert json.loads((folder / "evaluation.json").read_text())["metrics"] == report["metrics"]
    assert "2 jobs: 2 waiting" in text["preview"]
    assert "2 jobs: 1 to run, 1 finished already" in text["sweep"]
    assert "report: deephash report sweep=pair" in text["sweep"]
    assert "finished already, skipped" in text["again"]
    assert "2 runs: 2 finished" in text["report"]
    assert "digits, protocol per_class: 10 classes" in text["describe"]
    assert "\n  deephash data verify dataset=cifar10" in text["help"]
    assert "Type: deephash train -m +sweep=table1" in text["grid"]
    assert "Prepare it first: deephash data prepare" in text["missing"]
    (job,) = cwd.glob("outputs/**/seed1,*/output.log")
    command = shlex.split(job.read_text().splitlines()[0].removeprefix("$ "))
    assert command[:5] == [environment.python, "-P", "-m", "deephash", "train"]
    page = json.loads((cwd / "outputs" / "sweeps" / "pair" / "sweep.json").read_text())
    assert page["command"].startswith("deephash train -m seed=0,1 ")


def test_bash_completes_words(installed, cwd):
    environment, _ = installed
    script = """
    eval "$(deephash -sc install=bash)"
    complete_line() { COMP_LINE=$1 COMP_POINT=${#1}; _deephash; echo "${COMPREPLY[@]}"; }
    complete_line "deephash e"
    complete_line "deephash train scheduler=co"
    complete_line "deephash data verify dataset=cifar1"
    """
    lines = environment.call(cwd, "bash", "-c", script).splitlines()
    assert lines == [
        "evaluate encode export",
        "scheduler=constant scheduler=cosine",
        "dataset=cifar10 dataset=cifar100",
    ]
