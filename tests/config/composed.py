"""Digests of composed configurations: ``python -m tests.config.composed``, from the root.

``composed.json`` has a digest for each top-level key of the configuration that a command line
composes, so that a change of the files in ``conf`` which should change no configuration can be
checked. Together the command lines use every dataset, method, view, experiment, setting and sweep.
If a configuration is meant to change, write the digests again and commit them with that change.
"""

import contextlib
import hashlib
import itertools
import json
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf

from deephash.config import composition, overrides
from deephash.sweep import multirun
from deephash.sweep.spec import SweepSpec
from deephash.utils import program
from tests.paths import CONF, ROOT

HERE = Path(__file__).parent
SWEEPS, DIGESTS = ROOT / "sweeps", HERE / "composed.json"

REQUIRED = dict.fromkeys(("csv", "features", "folder", "lists"), " dataset.root=x")
"""Values that options of a group leave open."""

WHOLE = ("dataset", "experiment", "hydra", "method", "pipeline", "shared", "views")
"""Groups whose files are composed as part of a page. Those of other groups are composed alone."""


def names(group: str) -> list[str]:
    """Return the options of a group."""
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def lines() -> list[str]:
    """Return the command lines: a page and overrides, or a file of a group."""
    data = [f"data do=describe dataset={name}{REQUIRED.get(name, '')}" for name in names("dataset")]
    groups = [
        [f" {group}={name}" for name in names(group)] for group in ("method", "views", "pipeline")
    ]
    train = [
        f"train dataset=cifar10 ~settings{''.join(choices)}"
        for choices in itertools.zip_longest(*groups, fillvalue="")
    ]
    train += [f"train experiment={name}" for name in names("experiment")]
    train += [f"train hydra/launcher={name}" for name in names("hydra/launcher")]
    files = [path.relative_to(CONF).with_suffix("") for path in sorted(CONF.glob("*/**/*.yaml"))]
    alone = [path.as_posix() for path in files if path.parts[0] not in WHOLE]
    sweeps = [f"sweep {path.stem}" for path in sorted(SWEEPS.glob("*.yaml"))]
    return [*data, *train, "train", "evaluate run=x", "report sweep=x", *alone, *sweeps]


@contextlib.contextmanager
def opened() -> Iterator[None]:
    """Make the configuration composable."""
    with program.without_garbage_collection(), composition.composer(CONF, "train"):
        yield


def is_composed(file: str) -> bool:
    """Return whether a file has content and a defaults list, so that composing it matters."""
    keys = set(yaml.safe_load((CONF / f"{file}.yaml").read_text()))
    return "defaults" in keys and keys != {"defaults"}


def composed(line: str) -> Any:
    """Return the configuration of a command line, or the first and the last job of a sweep."""
    page, *words = shlex.split(line)
    if page == "sweep":
        jobs = multirun.build_grid(SweepSpec.read(SWEEPS, words[0]), ()).jobs
        return {"first": overrides.texts(jobs[0]), "last": overrides.texts(jobs[-1])}
    if "/" in page and not is_composed(page):
        return OmegaConf.to_container(OmegaConf.load(CONF / f"{page}.yaml"))
    given = overrides.read(words).overrides
    hydra = any(override.within("hydra/launcher") for override in given)
    cfg = composition.Composer(page).whole(given, with_hydra=hydra)
    if hydra:
        return {"hydra.launcher": OmegaConf.to_container(cfg.hydra.launcher)}
    if "/" in page:
        return OmegaConf.to_container(cfg)
    values: Any = OmegaConf.to_container(cfg, resolve=True, enum_to_str=True)
    values.pop("paths")  # of this machine
    return values


def digests(line: str) -> dict[str, str]:
    """Return the digest of each top-level value of a configuration."""
    return {
        key: hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:10]
        for key, value in sorted(composed(line).items())
    }


def main() -> None:
    """Write the digests of all command lines."""
    with opened():
        rows = [f"{json.dumps(line)}: {json.dumps(digests(line))}" for line in lines()]
    DIGESTS.write_text("{\n" + ",\n".join(rows) + "\n}\n")


if __name__ == "__main__":
    main()
