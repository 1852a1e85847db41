"""Compose pages of the configuration with Hydra, and check them."""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig

from deephash.config import overrides, plugins, schema
from deephash.config.checks import check_page
from deephash.config.explain import explain, several
from deephash.config.faults import Fault, raise_faults
from deephash.config.overrides import CommandLine, Override
from deephash.config.plugins import Plugin
from deephash.config.resolve import resolve
from deephash.config.validate import UNKNOWN, quoted
from deephash.errors import ConfigError
from deephash.utils import program
from deephash.utils.files import expand_path

Resolved = dict[str, Any]

CONFIG_DIR = ("--config-dir", "-cd")
"""The flags of a further folder of configuration."""

SEARCH_PATH = "hydra.searchpath"
"""Hydra's own key for further folders of configuration."""

OURS = ("hydra.launcher", "hydra/launcher", SEARCH_PATH)
"""Keys of Hydra that have an effect."""


@dataclass(frozen=True)
class Extension:
    """Additional configuration folders and packages of a command line.

    Args:
        folders: configuration folders, searched after our own.
        search_path: further entries of Hydra's search path, as typed.
        plugins: packages whose classes may be parts.
    """

    folders: tuple[Path, ...] = ()
    search_path: tuple[str, ...] = ()
    plugins: tuple[Plugin, ...] = ()

    @classmethod
    def of(cls, line: CommandLine) -> "Extension":
        """Locate the folders and packages that a command line names; none is imported.

        Raises:
            ConfigError: one does not exist.
        """
        folders = []
        for folder in line.values_of(*CONFIG_DIR):
            if not expand_path(folder).is_dir():
                raise ConfigError(f"--config-dir  there is no folder {folder}. Nothing was loaded.")
            folders.append(expand_path(folder).resolve())
        names = [name for one in line.overrides if one.key == plugins.KEY for name in _listed(one)]
        packages = plugins.find_plugins(names, [Path.cwd(), *folders]) if names else ()
        entries = [it for one in line.overrides if one.key == SEARCH_PATH for it in _listed(one)]
        return cls(tuple(folders), tuple(entries), packages)

    @property
    def flags(self) -> list[str]:
        """The flags that pass the folders to another process."""
        return [f"--config-dir={folder}" for folder in self.folders]

    @property
    def override(self) -> list[str]:
        """The override that adds the folders to Hydra's search path; empty without folders."""
        folders = [*self.folders, *(one.conf for one in self.plugins if one.conf is not None)]
        entries = [*(f"file://{folder}" for folder in folders), *self.search_path]
        return [f"{SEARCH_PATH}=[{','.join(map(quoted, entries))}]"] if entries else []


def _listed(override: Override) -> list[str]:
    """Return the values of ``key=[a,b]``, or of ``key=a``."""
    parsed = override.parsed
    if override.deletes or parsed is None or override.is_sweep:
        return []
    value = parsed.value()
    return [str(one) for one in (value if isinstance(value, list) else [value]) if one is not None]


class Composer:
    """Compose a page for many command lines; the same result as `compose`, and faster.

    Hydra reads and merges the files of the groups once for each choice of groups; other overrides
    are applied to a copy by Hydra's own function, in their order. `compose` handles all errors.

    Args:
        page: the name of the primary configuration.
        more: overrides of Hydra's own node.
    """

    def __init__(self, page: str, more: Sequence[str] = ()) -> None:
        self.page = page
        self.more = list(more)
        self._bases: dict[tuple[str, ...], DictConfig] = {}
        self._groups: dict[str, bool] = {}

    def __call__(self, some: Sequence[Override]) -> DictConfig:
        try:
            return self._quickly(some)
        except Exception:  # `compose` raises the proper error
            return self.whole(some)

    def whole(self, some: Sequence[Override], with_hydra: bool = False) -> DictConfig:
        """Compose by Hydra alone.

        Raises:
            Exception: Hydra's.
        """
        return compose(self.page, [*overrides.texts(some), *self.more], with_hydra)

    def _quickly(self, some: Sequence[Override]) -> DictConfig:
        choices = tuple(one for one in some if self._is_choice(one))
        key = tuple(overrides.texts(choices))
        if key not in self._bases:
            self._bases[key] = self.whole(choices)
        cfg = copy.deepcopy(self._bases[key])
        values: list[Any] = [one.parsed for one in some if one not in choices]
        ConfigLoaderImpl._apply_overrides_to_config(values, cfg)
        return cfg

    def _is_choice(self, override: Override) -> bool:
        """Return whether an override chooses the option of a group, by the rule of Hydra."""
        parsed = override.parsed
        if parsed is None or override.is_sweep:
            raise ValueError("no single value")
        group = parsed.key_or_group
        if group not in self._groups:
            loader: Any = GlobalHydra.instance().config_loader()
            self._groups[group] = loader.repository.group_exists(group)
        return self._groups[group] and not isinstance(parsed.value(), dict)


@contextmanager
def composer(conf: Path, page: str, extension: Extension | None = None) -> Iterator[Composer]:
    """Open the folder of the configuration, and compose a page of it.

    Args:
        conf: the folder.
        page: ``train``, ``evaluate``, ``report`` or ``data``.
        extension: further folders.
    """
    more = [] if extension is None else extension.override
    schema.register()
    of_the_caller = GlobalHydra.instance().hydra  # a notebook, or another program with Hydra
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(conf.resolve()), version_base="1.3"):
            yield Composer(page, more)
    finally:
        GlobalHydra.instance().hydra = of_the_caller


@program.without_garbage_collection()
def checked(conf: Path, page: str, line: CommandLine, many: bool = False) -> schema.Node:
    """Compose and check a page, and report all its faults at once.

    Args:
        conf: the folder of the configuration.
        page: ``train``, ``evaluate``, ``report`` or ``data``.
        line: the command line.
        many: whether overrides may have several values (``-m``); the first is checked.

    Returns:
        the page, as its dataclass of ``schema``.

    Raises:
        ConfigError: all faults of the command line and the configuration.
    """
    extension = Extension.of(line)
    plugins.import_plugins(extension.plugins)
    refuse_hydra(line.overrides)
    given = without_hydra(line.overrides)
    with composer(conf, page, extension) as composed:

        def check(resolved: Resolved) -> list[Fault]:
            return check_page(schema.PAGES[page], resolved, given)

        grids = [] if many else several(given, page)
        cfg = None
        if not grids and not line.mistyped:
            try:
                cfg = composed.whole(given)
            except Exception:  # `explain` finds out which override it was
                cfg = None
        resolved: Resolved = {}
        if cfg is None:
            known = {fault.key for fault in grids}
            explained = explain(given, composed, check, line.mistyped)
            faults = grids + [fault for fault in explained if fault.key not in known]
        else:
            resolved = resolve(cfg, given)
            faults = check(resolved)
            if any(fault.message == UNKNOWN for fault in faults):
                faults = explain(given, composed, check)
    raise_faults(faults, [*given, *(one.typed for one in line.mistyped)])
    return schema.parse(schema.PAGES[page], resolved)


def without_hydra(some: Sequence[Override]) -> tuple[Override, ...]:
    """Leave out the overrides of Hydra's own node."""
    return tuple(one for one in some if not one.within("hydra"))


def refuse_hydra(some: Sequence[Override]) -> None:
    """Refuse overrides of Hydra's own node that would have no effect.

    Raises:
        ConfigError: all of them.
    """
    faults = [
        Fault(
            one.text,
            "has no effect: Hydra composes the configuration and does not run it.",
            "Leave it out; paths.outputs=FOLDER selects where runs are written.",
        )
        for one in some
        if one.within("hydra") and not one.within(*OURS)
    ]
    raise_faults(faults, some)
