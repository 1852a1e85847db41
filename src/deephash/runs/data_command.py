"""``data.py``: a dataset prepared, verified, described, exported, or turned into features."""

import contextlib
import dataclasses
import shlex
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from deephash.config import build, schema
from deephash.config.overrides import Override, parse, texts
from deephash.data.catalogue import Catalogue, ImageSet
from deephash.data.datamodule import check_facts, check_finite
from deephash.data.sources.lists import Lists, sha1
from deephash.data.splits.base import ROLES, Split
from deephash.data.splits.protocols import Facts, fingerprint
from deephash.data.splits.split_file import ENDING, LISTS, read_split, write_lists, write_split
from deephash.data.verification.data_warnings import doubts
from deephash.errors import ConfigError, DataError, WriteError
from deephash.runs.cache_command import show_cache
from deephash.runs.common import keep_json, unvalidated
from deephash.runs.describe_data import description, divided
from deephash.runs.describe_data import lines as described
from deephash.runs.encode_images import encode
from deephash.runs.verify_data import verify
from deephash.utils import program
from deephash.utils.files import check_writable, expand_path, write_text


def data(cfg: schema.Data, overrides: Sequence[Override] = ()) -> None:
    """Does what the page of ``data.py`` asks for.

    Args:
        cfg: the checked page.
        overrides: the command line.

    Raises:
        DeephashError: with a message for the user; of ``verify`` also when something is wrong with
            the data.
    """
    actions: dict[str, Callable[[schema.Data], Any]] = {
        "prepare": partial(prepare, overrides=overrides),
        "verify": verify,
        "describe": describe,
        "export": export,
        "encode": encode,
        "cache": show_cache,
    }
    if cfg.out is not None and cfg.do != "prepare":  # which may have nothing to write
        try:
            check_writable(expand_path(cfg.out))
        except WriteError as error:
            raise DataError(f"out  {error}") from error
    actions[cfg.do](cfg)


def prepare(cfg: schema.Data, overrides: Sequence[Override] = ()) -> None:
    """Makes a dataset ready to train on: its split in one file, its images decoded.

    A protocol with a recipe is drawn from what the catalogue finds below the root; one of lists is
    adopted from them, in whatever dialect they are; all others draw their split when they are
    asked, and need no file. What is there already, and the same, is left as it is.
    """
    source, facts = build.source(cfg), None
    drawn = build.split_recipe(cfg)
    if isinstance(source, Lists):
        path = _split_file(cfg, source)
        if not path.is_file():
            check_writable(path)
        if drawn is not None:
            facts = _draw(cfg, path, *drawn)
        elif any(map(source.list_file, source.names.values())):
            facts = _adopt(cfg, path, source)
        elif source.split_file() is None:
            raise ConfigError(_no_lists(cfg, source))
    if cfg.images is not False:
        loaded = build.source(_reading(cfg)).load()
        split, facts = _checked(cfg, loaded)
        if isinstance(loaded, ImageSet):
            check_finite(loaded, {role: getattr(split, role) for role in ROLES})
        print(f"{len(loaded):,} images are ready")
    if facts is None:
        _, facts = _checked(cfg, known(build.source(_reading(cfg))))
    print(summary(facts))
    print(f"  {program.command('train')} {shlex.join(_typed(cfg, overrides))}")


def _draw(cfg: schema.Data, path: Path, catalog: Any, recipe: Any) -> Facts:
    """Draws the split of a recipe and keeps it."""
    images = catalog.read()
    _doubt(images)
    try:
        roles = recipe.split(images)
    except DataError as error:  # which names the key that training would have
        said = str(error).replace("protocols.<protocol>.", f"recipes.{cfg.dataset.protocol}.")
        raise DataError(said) from error
    images = dataclasses.replace(images, lists={role: getattr(roles, role) for role in LISTS})
    origin = {"recipe": (cfg.dataset.recipes or {})[cfg.dataset.protocol]}
    return _keep(cfg, path, images, origin, {})


def _adopt(cfg: schema.Data, path: Path, source: Lists) -> Facts:
    """Keeps the split of lists, whatever their dialect."""
    source.split = None
    files = [source.list_file(name) for name in source.names.values()]
    sums = {str(file.name).removesuffix(".xz"): sha1(file) for file in files if file is not None}
    return _keep(cfg, path, source.read(), {"lists": sorted(sums)}, sums)


def _keep(
    cfg: schema.Data, path: Path, images: Catalogue, origin: Any, sums: Mapping[str, str]
) -> Facts:
    """Writes a split file, unless it is there and the same; the facts of the protocol."""
    split, facts = _checked(unvalidated(cfg), images)
    lists = dataclasses.replace(split, exclude_self=False)  # the protocol says that, not the file
    if path.is_file():
        with contextlib.suppress(DataError):
            before, header = read_split(path)
            same = header.fingerprint == fingerprint(images, lists)
            if same and before.places == images.places and header.lists == dict(sums):
                print(f"{path} is there already, and the same")
                return facts
    write_split(
        path,
        images,
        lists,
        dataset=cfg.dataset.name,
        protocol=cfg.dataset.protocol,
        seed=facts.split_seed,
        origin=origin,
        lists=sums,
    )
    print(f"wrote {path}")
    return facts


def _split_file(cfg: schema.Data, source: Lists) -> Path:
    """Where the split file of a protocol belongs."""
    if cfg.out is not None:
        return expand_path(cfg.out)
    if source.lists.is_file():
        return source.lists
    return source.lists / (source.split or f"{cfg.dataset.protocol}{ENDING}")


def _reading(cfg: schema.Data) -> schema.Data:
    """The configuration as it reads the split file that ``out`` names."""
    if cfg.out is None or "lists" not in cfg.dataset.source:
        return cfg
    source = {**cfg.dataset.source, "lists": cfg.out}
    return cfg.with_values(dataset=cfg.dataset.with_values(source=source).plain)


def _checked(cfg: schema.Data, images: Catalogue) -> tuple[Split, Facts]:
    """The split of the protocol, once the facts are those that the dataset expects."""
    split, facts = divided(cfg, images)
    expected = (cfg.dataset.expected or {}).get(facts.protocol)
    if expected and cfg.dataset.classes is None:
        check_facts(facts, expected)
    return split, facts


def _no_lists(cfg: schema.Data, source: Lists) -> str:
    drawn = ", ".join(cfg.dataset.recipes or ())
    return (
        f"dataset.lists  there are no lists in {source.lists}: "
        f"{', '.join(source.names.values())}.\n"
        "  Give their folder with dataset.lists=FOLDER"
        + (f", or draw a split with dataset.protocol={drawn}." if drawn else ".")
    )


def _typed(cfg: schema.Data, overrides: Sequence[Override]) -> list[str]:
    """What of the command line ``train.py`` needs to find the same data."""
    kept = [one for one in overrides if one.within("dataset", "paths.cache")]
    if any(one.within("dataset.recipes") for one in kept):
        kept.append(parse("dataset.expected=null"))  # prepare did not check it, either
    kept = [one for one in kept if not one.within("dataset.catalog", "dataset.recipes")]
    if cfg.out is not None:
        kept = [one for one in kept if one.key != "dataset.lists"]
        kept.append(parse(f"dataset.lists={cfg.out}"))
    return texts(dict.fromkeys(kept))


def summary(facts: Facts) -> str:
    """A split in one line."""
    return (
        f"{facts.dataset}, protocol {facts.protocol}: {facts.num_train:,} train,"
        f" {facts.num_queries:,} queries, {facts.num_database:,} database,"
        + (" no labels," if not facts.num_classes else "")
        + f" fingerprint {facts.fingerprint[:16]}"
    )


def describe(cfg: schema.Data) -> None:
    """Tells what a dataset is; ``out`` keeps it as JSON."""
    images = known(build.source(cfg))
    found = description(cfg, images)
    print("\n".join(described(found)))
    _doubt(images)
    if cfg.out is not None:
        keep_json(expand_path(cfg.out), found)


def _doubt(images: Catalogue) -> None:
    """Prints what is suspicious of a dataset."""
    for doubt in doubts(images):
        print("\n".join(doubt.lines()))


def export(cfg: schema.Data) -> None:
    """Writes the split as lists or as a split file, for other programs and other people."""
    assert cfg.out is not None  # `config.check_data`
    images = known(build.source(cfg))
    folder = expand_path(cfg.out)
    if cfg.style is schema.Style.split:
        path = folder / f"{cfg.dataset.name}-{cfg.dataset.protocol}{ENDING}"
        print(summary(_keep(cfg, path, images, "export", {})))
        return
    split, facts = _checked(unvalidated(cfg), images)
    write_lists(folder, images, split, cfg.style.value, cfg.prefix)
    write_text(folder / "classes.txt", "".join(f"{name}\n" for name in images.classes))
    print(f"wrote {folder}/{{train,test,database,classes}}.txt\n{summary(facts)}")


def known(source: Any) -> Catalogue:
    """What a source knows of its images; those of lists are not opened for it."""
    catalogue: Catalogue = source.read() if hasattr(source, "read") else source.load()
    return catalogue
