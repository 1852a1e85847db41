"""Keep what Hydra has composed of the repository's own configuration.

Composing a page takes 0.2 s of CPU time, most of it in OmegaConf and in YAML, and the tests compose
some thousand pages of the same files, often of the same command line. In a process of tests each
file of ``conf/`` is parsed once, the files of the same options are merged once, and each command
line is composed once; every further call returns a copy. Command lines that Hydra refuses, and
configurations of other folders, are composed in each call, and commands in processes of their own
are not affected.
"""

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hydra._internal import defaults_list
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from omegaconf import OmegaConf

from tests import paths

CONF = os.fspath(paths.CONF)
SEARCHED = {"pkg://hydra.conf", CONF, f"file://{CONF}", "structured://"}
"""The search path where no folder is added."""


def keep() -> None:
    """Let Hydra keep what it composes in this process. Calling it again changes nothing."""
    if hasattr(ConfigLoaderImpl._load_configuration_impl, "__wrapped__"):
        return
    Plugins.instance()  # registers the sources
    source: Any = SourcesRegistry.instance().types["file"]
    source.load_config = _kept(source.load_config, _file)
    defaults_list._create_interpolation_map = _if_needed(defaults_list._create_interpolation_map)
    loader: Any = ConfigLoaderImpl
    merge = loader._compose_config_from_defaults_list
    loader._compose_config_from_defaults_list = _kept(merge, _options)
    kept = _kept(loader._load_configuration_impl, _command_line)

    def load_configuration(self: Any, *arguments: Any, **options: Any) -> Any:
        cfg = kept(self, *arguments, **options)
        cfg.hydra.runtime.cwd = str(Path.cwd())  # that of this call
        return cfg

    load_configuration.__wrapped__ = kept  # type: ignore[attr-defined]
    loader._load_configuration_impl = load_configuration


def _kept(function: Callable[..., Any], key_of: Callable[..., Any]) -> Callable[..., Any]:
    """Return a method that computes once for each key that is not None, and returns copies."""
    known: dict[Any, bytes] = {}

    def method(self: Any, *arguments: Any, **options: Any) -> Any:
        key = key_of(self, *arguments, **options)
        if key is None:
            return function(self, *arguments, **options)
        if key not in known:
            known[key] = pickle.dumps(function(self, *arguments, **options))
        return pickle.loads(known[key])

    return method


def _if_needed(create: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that creates the values of interpolations where there is one."""

    def map_of(overrides: Any, defaults: list[Any], self_added: bool) -> Any:
        used = any(default.is_interpolation() for default in defaults)
        return create(overrides, defaults, self_added) if used else None

    return map_of


def _file(source: Any, config_path: str) -> Any:
    return (source.provider, config_path) if os.path.realpath(source.path) == CONF else None


def _command_line(loader: Any, *arguments: Any, **options: Any) -> Any:
    called = str((arguments, options))
    if (files := _files(loader)) is None or "hydra.searchpath" in called:
        return None
    return called, files


def _options(loader: Any, defaults: list[Any], repo: Any) -> Any:
    sources = {source.path for source in repo.get_sources()}  # with those of hydra.searchpath
    if (files := _files(loader)) is None or not sources <= {"hydra.conf", CONF, ""}:
        return None
    return str([vars(default) for default in defaults]), files


def _files(loader: Any) -> Any:
    """Return a key of the files and nodes that are searched; None if others are searched too."""
    searched = {entry.path for entry in loader.config_search_path.get_path()}
    if not searched <= SEARCHED or CONF not in str(searched):
        return None
    return len(searched), _stored(ConfigStore.instance().repo)


_nodes: dict[int, Any] = {}
"""Nodes of the store by their address. Since they are kept, no other node gets the same."""


def _stored(repo: dict[str, Any]) -> Any:
    """Return what the store holds: a dataclass by its type, another node by its address."""
    content = []
    for name, entry in repo.items():
        if isinstance(entry, dict):
            content.append((name, _stored(entry)))
        elif (kind := OmegaConf.get_type(entry.node)) is not dict:
            content.append((name, kind))
        else:
            _nodes[id(entry.node)] = entry.node
            content.append((name, id(entry.node)))
    return tuple(content)
