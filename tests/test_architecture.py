"""Allowed imports, and names that training must not contain."""

import ast
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.paths import ROOT

SOURCE = ROOT / "src" / "deephash"

FLOORS = [
    "errors types",
    "utils",
    "models losses",
    "methods data retrieval report",
    "loggers training",
    "config",
    "runs",
    "sweep search",
    "deployment",
    "cli api",
    "main",
]
FLOOR_OF = {name: level for level, names in enumerate(FLOORS) for name in names.split()}

ONLY_IN = {
    "filelock": ("utils/locks.py",),
    "fcntl": (),
    "optuna": ("sweep/study.py",),
    "wandb": ("loggers/wandb.py", "loggers/wandb_workspace.py"),
    "wandb_workspaces": ("loggers/wandb_workspace.py",),
    "tensorboard": ("loggers/tensorboard.py",),
    "matplotlib": ("report/figures/",),
    "numba": ("retrieval/backends/",),
    "timm": ("models/timm_models.py",),
    "huggingface_hub": ("models/timm_models.py",),
    "triton": ("retrieval/backends/triton_kernel.py",),
    "hydra": ("config/", "sweep/multirun.py", "cli.py"),
    "omegaconf": ("config/", "sweep/multirun.py"),
    "torchvision": ("data/", "models/backbones.py", "models/layers.py", "runs/folder.py"),
}


def imported(path: Path, root: Path) -> Iterator[str]:
    """Dotted names of all that a file imports, at its head or inside a function."""
    package = ("deephash", *path.relative_to(root).parent.parts)
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:  # relative
                base = ".".join([*package[: len(package) - node.level + 1], *base.split(".")])
            yield from (f"{base.rstrip('.')}.{alias.name}" for alias in node.names)


def upstairs(root: Path) -> list[str]:
    """Imports that do not go strictly downwards."""
    imports = []
    for path in sorted(root.rglob("*.py")):
        here = path.relative_to(root).parts[0].removesuffix(".py")
        for name in imported(path, root):
            parts = name.split(".")
            if here.startswith("__") or parts[0] != "deephash" or len(parts) < 2:
                continue
            there = parts[1]
            if there.startswith("__") or there == here:
                continue
            if FLOOR_OF[there] >= FLOOR_OF[here]:
                imports.append(f"{path.relative_to(root)} imports deephash.{there}")
    return imports


def foreign(root: Path) -> list[str]:
    """Imports of outside packages where they do not belong."""
    violations = []
    for path in sorted(root.rglob("*.py")):
        where = path.relative_to(root).as_posix()
        for name in imported(path, root):
            outside = name.partition(".")[0]
            if outside in ONLY_IN and not where.startswith(ONLY_IN[outside]):
                violations.append(f"{where} imports {outside}")
    return violations


def words(root: Path, forbidden: set[str]) -> list[str]:
    """Strings in the source that are forbidden names."""
    return [
        f"{path.name}:{node.lineno} says {node.value!r}"
        for path in sorted(root.rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and node.value in forbidden
    ]


def test_every_module_has_a_floor():
    inside = {path.name for path in SOURCE.iterdir() if path.name[0] != "_"} - {"py.typed"}
    names = {name.removesuffix(".py") for name in inside}
    assert names == set(FLOOR_OF)


def test_imports_go_strictly_downwards():
    assert upstairs(SOURCE) == []


def test_outside_packages_stay_where_they_belong():
    assert foreign(SOURCE) == []


HEAVY = {
    "data",
    "loggers",
    "losses",
    "methods",
    "models",
    "report",
    "training",
    "runs",
    "sweep",
    "deployment",
}


@pytest.mark.parametrize(
    "name",
    [
        "resolve",
        "run_identity",
        "checks",
        "schema",
        "targets",
        "requirements",
        "overrides",
        "composition",
    ],
)
def test_what_help_needs_imports_nothing_heavy(name):
    """`--help` composes and checks; what it imports inside functions is for other commands."""
    tree = ast.parse((SOURCE / "config" / f"{name}.py").read_text())
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and node.module and "deephash." in node.module:
            assert node.module.split(".")[1] not in {*HEAVY, "retrieval"}, node.module
            assert not {"build", "trial_builds"} & {alias.name for alias in node.names}
    light = {n.split(".")[1] for n in imported(SOURCE / "config" / f"{name}.py", SOURCE)
             if n.startswith("deephash.")}  # fmt: skip
    assert not light & HEAVY


COMMANDS = {"data", "encode", "evaluate", "export", "load", "search", "serve", "train"}
"""Commands, functions of the API and what they call have one name for one thing."""


def test_no_public_name_has_two_meanings():
    places = defaultdict(list)
    for path in sorted(SOURCE.rglob("*.py")):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name[0] != "_":
                places[node.name].append(path.relative_to(SOURCE).as_posix())
    twice = {name: files for name, files in places.items() if len(files) > 1}
    assert {name: twice[name] for name in set(twice) - COMMANDS} == {}


def test_training_contains_no_name_of_a_method_loss_or_dataset():
    names = {
        path.stem
        for group in ("method", "loss", "dataset")
        for path in (ROOT / "conf" / group).glob("*.yaml")
    }
    assert {"relahash", "lmcl", "digits"} <= names
    assert words(SOURCE / "training", names) == []


@pytest.mark.parametrize(
    ("file", "line", "message"),
    [
        (
            "losses/a.py",
            "from deephash.models.codebooks import signs",
            "imports deephash.models",
        ),
        ("types.py", "from deephash import errors", "imports deephash.errors"),
        (
            "training/a.py",
            "def f():\n    import deephash.config.build",
            "imports deephash.config",
        ),
        ("losses/b.py", "from ..training import trainer", "imports deephash.training"),
    ],
)
def test_the_floors_are_watched(tmp_path, file, line, message):
    path = tmp_path / file
    path.parent.mkdir(exist_ok=True)
    path.write_text(line)
    assert upstairs(tmp_path) == [f"{file} {message}"]


def test_the_outside_is_watched(tmp_path):
    (tmp_path / "training").mkdir()
    (tmp_path / "training" / "a.py").write_text("def f():\n    import wandb\n")
    (tmp_path / "utils.py").write_text("import json  # from omegaconf import OmegaConf\n")
    assert foreign(tmp_path) == ["training/a.py imports wandb"]
    (tmp_path / "training" / "a.py").write_text('if name == "digits": pass\n')
    assert words(tmp_path / "training", {"digits"}) == ["a.py:1 says 'digits'"]


def test_the_command_line_starts_without_torch():
    heavy = "('torch', 'wandb', 'numpy', 'jinja2')"
    script = f"import sys, deephash.cli; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.stdout.strip(), done.returncode) == ("[]", 0), done.stderr
