"""Optional packages: the error names a command that works, never one of an unknown publisher."""

import re
import shlex
import sys
import tomllib
from pathlib import Path

import pytest

from deephash.errors import ConfigError, DataError
from deephash.utils.extras import DISTRIBUTIONS, EXTRAS, import_extra, install_hint
from tests.paths import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
TEXTS = {".py", ".md", ".yaml", ".yml", ".toml", ".cff", ".txt", ""}


def written():
    """All files of the repository that hold text for people."""
    places = ["src", "conf", "docs", "sweeps", "benchmarks", "tests", ".ci"]
    files = [file for place in places for file in (ROOT / place).rglob("*") if file.is_file()]
    files += [file for file in ROOT.iterdir() if file.is_file()]
    return [file for file in files if file.suffix in TEXTS and file != Path(__file__)]


@pytest.mark.parametrize("package", sorted(EXTRAS))
def test_the_hint_names_the_package_and_its_extra(package):
    name = DISTRIBUTIONS.get(package, package)
    hint = install_hint(package)
    assert hint.startswith(f"pip install {shlex.quote(name)} ")
    assert f'pip install -e ".[{EXTRAS[package]}]"' in hint
    wanted = PROJECT["optional-dependencies"][EXTRAS[package]]
    assert re.split(r"[<>=~[]", name)[0] in {
        re.split(r"[<>=~[]", requirement)[0] for requirement in wanted
    }


def test_every_extra_has_a_hint():
    groups = {  # without those of contributors
        group
        for group in PROJECT["optional-dependencies"]
        if group != "docs" and not group.startswith("test")
    }
    assert set(EXTRAS.values()) == groups


def test_nothing_offers_the_project_from_an_index():
    """No package of this name is published; anybody could upload one to an index."""
    assert len(written()) > 300
    offered = re.compile(rf"{PROJECT['name']}\[|pip install (?:-U |--upgrade )?{PROJECT['name']}\b")
    result = [
        f"{file.relative_to(ROOT)}: {line.strip()}"
        for file in written()
        for line in file.read_text(encoding="utf-8", errors="replace").splitlines()
        if offered.search(line)
    ]
    assert result == []


def test_a_missing_package_is_named_with_the_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ConfigError) as info:
        import_extra("wandb", "logger=wandb", "logger=console")
    message = str(info.value)
    assert "logger=wandb needs the package wandb, which is not installed" in message
    assert "pip install wandb" in message and message.endswith("or logger=console.")


def test_a_part_of_a_missing_package_names_the_package(monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "safetensors"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "safetensors", None)
    with pytest.raises(DataError, match="needs the package safetensors, which is not installed"):
        import_extra("safetensors.numpy", "a.safetensors", error=DataError)


def test_a_broken_package_gives_its_reason(monkeypatch, tmp_path):
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "__init__.py").write_text("import a_part_that_is_not_there\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "ray", raising=False)
    with pytest.raises(ConfigError, match=r"cannot be imported here.*a_part_that_is_not_there"):
        import_extra("ray", "hydra/launcher=ray")


def test_an_installed_module_is_returned():
    assert import_extra("yaml", "a test") is sys.modules["yaml"]
