"""Resolve the class that a ``_target_`` names, if it is allowed at that place.

A configuration may be untrusted: ``evaluate run=FOLDER`` builds what ``config.yaml`` of the folder
names. So a target must be a public class, defined in one of ``PACKAGES`` or in a
package that the command line names (``plugins=[mypkg]``), and of the kind that its place asks for.
No other module is imported for it, and nothing is called before all of this holds.
"""

import importlib
import inspect
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from typing import Any

from deephash.errors import ConfigError

PACKAGES = (
    "deephash",
    "torch.nn",
    "torch.optim",
    "torchvision.models",
    "torchvision.ops",
    "torchvision.transforms",
)
"""The packages whose classes may be targets."""

_plugins: list[str] = []
"""Further packages, named by the command line of this process."""

MOVED = {
    "deephash.codebooks": "deephash.models.codebooks",
    "deephash.similarities": "deephash.models.similarities",
    "deephash.engine.schedules": "deephash.training.schedules",
    "deephash.launchers": "deephash.sweep.launchers",
    "deephash.data.catalogs": "deephash.data.archives",
    "deephash.data.draws": "deephash.data.splits",
    "deephash.data.features": "deephash.data.sources",
    "deephash.data.lists": "deephash.data.sources",
    # classes, after the modules that they were in
    "deephash.models.backbones.Identity": "deephash.models.backbones.IdentityBackbone",
    "deephash.training.schedules.Cosine": "deephash.training.schedules.CosineDecay",
    "deephash.training.schedules.Step": "deephash.training.schedules.StepDecay",
}
"""Former packages, modules and classes of targets in older run folders, and their present names.

They are applied in this order.
"""

MODULE = "torch.nn.Module"


@dataclass(frozen=True)
class Kind:
    """Requirements for a target at one place.

    Attributes:
        name: the noun in messages.
        base: dotted path of the class it must derive from.
        package: module, or package, that must define it.
        has: names of methods or attributes that it must have.
        takes: arguments that its constructor must accept, since the program always passes them.
    """

    name: str
    base: str = "builtins.object"
    package: str = ""
    has: tuple[str, ...] = ()
    takes: tuple[str, ...] = ()

    def fault(self, target: type) -> str | None:
        """Return why a class is not of this kind, as the end of a sentence; None if it is."""
        if not issubclass(target, _attribute(self.base)):
            return f"is not {self.name}: it does not derive from {self.base}"
        where = (self.package, *_plugins)
        if self.package and not _within(target.__module__, where):
            return f"is not {self.name}: these are defined in {self.package}"
        if missing := [name for name in self.has if not hasattr(target, name)]:
            return f"is not {self.name}: it has no {', '.join(missing)}"
        known = arguments(target)
        if missing := [name for name in self.takes if name not in known]:
            return f"is not {self.name}: its constructor does not take {', '.join(missing)}"
        return None


KINDS = {
    r"dataset\.source": Kind("a source of images", package="deephash.data", has=("load",)),
    r"dataset\.catalog": Kind(
        "a reader of an archive", package="deephash.data.archives", has=("read",)
    ),
    r"dataset\.(protocols|recipes)(\..+)?": Kind(
        "a split protocol", package="deephash.data", has=("split",)
    ),
    r"dataset\.transforms(\..+)?": Kind(
        "a step of a transform", base="deephash.data.transforms.Step"
    ),
    r"backbone": Kind("a backbone", base=MODULE, package="deephash"),
    r"method": Kind("a method", base="deephash.methods.base.Method", takes=("encoder",)),
    r"method\.head": Kind("a head", base=MODULE, takes=("in_features", "nbit")),
    r"method\.relaxation": Kind("a relaxation", base=MODULE),
    r"method\.codebook": Kind("a codebook", base=MODULE, takes=("num_classes", "nbit", "seed")),
    r"method\.similarity": Kind("a similarity", base=MODULE),
    r"method\.loss": Kind("a loss", base=MODULE, has=("needs",)),
    r"optimizer": Kind("an optimizer", base="torch.optim.Optimizer", takes=("params",)),
    r"scheduler": Kind("a schedule of the learning rate", package="deephash", has=("factor",)),
    r"logger\.[^.]+": Kind("a logger", base="deephash.loggers.Logger"),
    r"engine": Kind(
        "a search engine",
        base="deephash.search.engines.base.SearchEngine",
        takes=("nbit", "folder"),
    ),
    r"hydra\.launcher": Kind(
        "a launcher", package="deephash.sweep.launchers", has=("launch", "busy")
    ),
}
"""The places of a configuration where a target may stand, as regular expressions."""


def allow(package: str) -> None:
    """Let the classes of a further package be targets, until `scope` ends or this process does.

    Call it only with packages that the user of this process names, never with those that a file
    names.
    """
    if package not in _plugins:
        _plugins.append(package)


@contextmanager
def scope() -> Iterator[None]:
    """Remove on exit the packages that `allow` added inside."""
    before = list(_plugins)
    try:
        yield
    finally:
        _plugins[:] = before


def plugins() -> tuple[str, ...]:
    """Return the further packages that are allowed here."""
    return tuple(_plugins)


def allowed() -> tuple[str, ...]:
    """Return the packages whose classes may be targets here."""
    return (*PACKAGES, *_plugins)


def kind_at(path: str) -> Kind | None:
    """Return the kind of part that a place of the configuration holds; None if it holds none."""
    kinds = (kind for pattern, kind in KINDS.items() if re.fullmatch(pattern, path))
    return next(kinds, None)


def current(target: Any) -> Any:
    """Return the present name of a target, which an older run folder may name differently.

    >>> current("deephash.engine.schedules.Step")
    'deephash.training.schedules.StepDecay'
    """
    if isinstance(target, str):
        for before, now in MOVED.items():
            if f"{target}.".startswith(f"{before}."):
                target = now + target.removeprefix(before)
    return target


def locate(target: str, path: str = "") -> type:
    """Return the class that a ``_target_`` names.

    Args:
        target: dotted path of a class.
        path: where in the configuration it stands; empty if only the package matters.

    Raises:
        ConfigError: there is no such class, it is private, defined outside ``PACKAGES``, or not of
            the kind that its place asks for.

    >>> locate("deephash.models.similarities.Cosine", "method.similarity").__name__
    'Cosine'
    """
    place = (target, path, allowed())
    known = _located.get(place) if isinstance(target, str) else None
    if known is not None:
        module, name, kind = known
        if getattr(sys.modules.get(module), name, None) is kind:  # not another of this name
            return known[2]
    kind = _locate(target, path)
    module, _, name = current(target).rpartition(".")
    _located[place] = module, name, kind
    return kind


_located: dict[tuple[str, str, tuple[str, ...]], tuple[str, str, type]] = {}
"""Module, name and class of the targets that were located; all jobs of a grid have the same."""


def _locate(target: str, path: str) -> type:
    key = f"{path}._target_" if path else "_target_"
    kind = kind_at(path) if path else None
    target = current(target)
    if not isinstance(target, str) or not _within(target, allowed()):
        package = foreign_package(target)
        trust = f" If you trust {package}, type plugins=[{package}]." if package else ""
        raise ConfigError(
            f"{key}  {target} is not a part of deephash, torch or torchvision, and a configuration"
            f" may not run other code.{trust} Allowed are classes of {', '.join(allowed())}."
        )
    if path and kind is None:
        raise ConfigError(f"{key}  no part can stand here: nothing is built of {target}.")
    module, _, name = target.rpartition(".")
    if not re.fullmatch(r"[A-Za-z]\w*(\.[A-Za-z]\w*)+", target, re.ASCII):
        raise ConfigError(f"{key}  {target} is not the name of a public class.")
    try:
        holder = _import(module)
    except ConfigError as error:
        raise ConfigError(f"{key}  there is no {target}: {error}") from error
    result = getattr(holder, name, None)
    if not isinstance(result, type):
        what = f"a {type(result).__name__}, not a class" if hasattr(holder, name) else "not there"
        raise ConfigError(f"{key}  there is no class {target}: {name} in {module} is {what}.")
    if not _within(result.__module__, allowed()) or result.__name__.startswith("_"):
        raise ConfigError(
            f"{key}  {target} is not a part of deephash, torch or torchvision: it is defined in"
            f" {result.__module__}."
        )
    if inspect.isabstract(result) or getattr(result, "_is_protocol", False):
        raise ConfigError(f"{key}  {target} is abstract: choose a class that derives from it.")
    if kind is not None and (fault := kind.fault(result)) is not None:
        raise ConfigError(f"{key}  {target} {fault}.")
    return result


def foreign_package(target: Any) -> str:
    """Return the package of another author that a target names, which is not allowed here.

    Returns:
        Its name; empty for what is allowed, is no dotted name, or is part of Python.
    """
    text = str(target)
    if not re.fullmatch(r"[A-Za-z]\w*(\.[A-Za-z]\w*)+", text, re.ASCII) or _within(text, allowed()):
        return ""
    package = text.partition(".")[0]
    ours = {one.partition(".")[0] for one in PACKAGES}
    return "" if package in ours | sys.stdlib_module_names else package


def arguments(target: type) -> dict[str, inspect.Parameter]:
    """Return the named arguments of a part's constructor: its schema."""
    return dict(_arguments(target))


@lru_cache(maxsize=1024)
def _arguments(target: type) -> dict[str, inspect.Parameter]:
    return {
        name: parameter
        for name, parameter in inspect.signature(target).parameters.items()
        if parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
    }


def parts(node: Any, path: str = "") -> list[tuple[str, Mapping[str, Any]]]:
    """Return every node of a configuration that has a ``_target_``, with its place."""
    result: list[tuple[str, Mapping[str, Any]]] = []
    if isinstance(node, Mapping):
        if "_target_" in node:
            result.append((path, node))
        for key, value in node.items():
            result += parts(value, f"{path}.{key}" if path else str(key))
    elif isinstance(node, list):
        for at, value in enumerate(node):
            result += parts(value, f"{path}.{at}")
    return result


def _within(name: str, packages: tuple[str, ...]) -> bool:
    """Return whether a dotted name is one of the packages or inside one."""
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def _import(module: str) -> Any:
    """Import a module of an allowed package.

    Raises:
        ConfigError: there is no such module, or it needs a package that is not installed.
    """
    if module in sys.modules:
        return sys.modules[module]
    try:
        if find_spec(module) is None:
            raise ConfigError(f"there is no module {module}.")
        return importlib.import_module(module)
    except (ImportError, ValueError) as error:  # also of a parent that is no package
        raise ConfigError(f"{error}.") from error


def _attribute(dotted: str) -> Any:
    module, _, name = dotted.rpartition(".")
    return getattr(importlib.import_module(module), name)
