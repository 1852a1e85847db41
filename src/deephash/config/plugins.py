"""Third-party packages whose classes may be parts: ``plugins=[mypkg]`` on the command line.

Only the command line names them, never a run folder, so that evaluating an untrusted run executes
no foreign code. A package may contain configuration: its folder ``conf`` is searched after our own.
"""

import hashlib
import importlib
import os
import re
import sys
import traceback
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from deephash.config import targets
from deephash.errors import ConfigError

KEY = "plugins"

CONF = "conf"
"""The folder of a package that holds its configuration, one sub-folder for each group."""

HASHED = (".py", ".yaml", ".yml")
"""Endings of the files that the fingerprint of a package is made of."""


@dataclass(frozen=True)
class Plugin:
    """A package that the command line names.

    Args:
        name: as it is imported, ``mypkg`` or ``mypkg.hashing``.
        root: its folder; of a module that is one file, the file.
    """

    name: str
    root: Path

    @property
    def conf(self) -> Path | None:
        """The folder of its configuration; None without one."""
        folder = self.root / CONF
        return folder if folder.is_dir() else None

    def record(self) -> dict[str, Any]:
        """Return its entry in a report: ``version`` (or None) and ``sha256`` of its files."""
        return {"version": _version(self.name.partition(".")[0]), "sha256": self._fingerprint()}

    def _fingerprint(self) -> str:
        files = [self.root]
        if self.root.is_dir():
            files = sorted(file for file in self.root.rglob("*") if file.suffix in HASHED)
        digest = hashlib.sha256()
        for file in files:
            name = file.relative_to(self.root).as_posix() if file != self.root else file.name
            content = file.read_bytes()
            digest.update(f"{name}\0{len(content)}\0".encode() + content)
        return digest.hexdigest()


def _version(package: str) -> str | None:
    """Return the version of an imported package, by its metadata or ``__version__``."""
    for distribution in _distributions(tuple(sys.path)).get(package, ()):
        return metadata.version(distribution)
    version = getattr(sys.modules.get(package), "__version__", None)
    return None if version is None else str(version)


@cache
def _distributions(path: tuple[str, ...]) -> Mapping[str, list[str]]:
    """Return the distributions of each importable package: all metadata on the path are read."""
    return metadata.packages_distributions()


def find_plugins(names: Sequence[str], folders: Iterable[Path] = ()) -> tuple[Plugin, ...]:
    """Locate packages by their names; none is imported, save the parents of a dotted name.

    Args:
        names: of packages.
        folders: searched for them after ``sys.path``; they stay part of it.

    Raises:
        ConfigError: a name is invalid, or a package does not exist.
    """
    for folder in folders:
        if (text := os.fspath(folder)) not in sys.path:
            sys.path.append(text)
    return tuple(Plugin(name, _root(name)) for name in dict.fromkeys(names))


def _root(name: str) -> Path:
    top = name.partition(".")[0]
    if not re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)*", name) or top in sys.stdlib_module_names:
        raise ConfigError(f"{KEY}  {name!r} is not the name of a package. Try {KEY}=[mypkg].")
    importlib.invalidate_caches()
    try:
        spec = find_spec(name)
    except Exception as error:  # of a parent package, whatever it raises
        raise _not_importable(name, error) from error
    if spec is None:
        raise ConfigError(
            f"{KEY}  there is no package {name}: it is not installed, and not in this folder.\n"
            f"  Install it (pip install), or add its folder: PYTHONPATH=FOLDER"
        )
    if spec.submodule_search_locations:
        return Path(next(iter(spec.submodule_search_locations)))
    return Path(spec.origin or name)


def import_plugins(plugins: Iterable[Plugin]) -> None:
    """Import packages, and let their classes be parts for the rest of this process.

    Raises:
        ConfigError: one cannot be imported: the error, with file and line.
    """
    for plugin in plugins:
        try:
            importlib.import_module(plugin.name)
        except Exception as error:  # whatever the package raises
            raise _not_importable(plugin.name, error) from error
        targets.allow(plugin.name)


def report_entries() -> dict[str, Any]:
    """Return the entries of all allowed packages in a report; empty without any."""
    allowed = find_plugins(targets.plugins())
    return {KEY: {plugin.name: plugin.record() for plugin in allowed}} if allowed else {}


def packages(parts: Iterable[object]) -> dict[str, Any]:
    """Return the packages that define the classes of some objects.

    Args:
        parts: such as the modules of a network.

    Returns:
        name -> version, or None; for an allowed plugin its entry in a report. Base classes count,
        the standard library does not.

    Example:
        >>> import torch
        >>> list(packages([torch.nn.ReLU()]))
        ['torch']
    """
    classes = {one for kind in {type(part) for part in parts} for one in kind.__mro__}
    names = {one.__module__.partition(".")[0] for one in classes} - sys.stdlib_module_names
    versions: dict[str, Any] = {}
    for name in sorted(names):  # the version of the code that runs, if it says one
        version = getattr(sys.modules.get(name), "__version__", None)
        versions[name] = _version(name) if version is None else str(version)
    for plugin in find_plugins(targets.plugins()):
        if plugin.name.partition(".")[0] in names:
            versions[plugin.name] = plugin.record()
    return versions


def _not_importable(name: str, error: Exception) -> ConfigError:
    what = f"{type(error).__name__}: {error}"
    if not isinstance(error, SyntaxError) and (
        frames := [
            frame
            for frame in traceback.extract_tb(error.__traceback__)
            if not frame.filename.startswith("<") and "importlib" not in frame.filename
        ]
    ):
        what += f" ({frames[-1].filename}, line {frames[-1].lineno})"
    return ConfigError(f"{KEY}  {name} cannot be imported: {what}")
