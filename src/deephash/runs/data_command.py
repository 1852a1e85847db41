"""The command ``data``: prepare, verify, describe, export or encode a dataset."""

import contextlib
import dataclasses
import shlex
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from deephash.config import build, schema
from deephash.config.overrides import Override, texts
from deephash.data.catalogue import Catalogue, ImageSet
from deephash.data.datamodule import check_facts, check_finite
from deephash.data.sources.lists import Lists, list_sha1
from deephash.data.splits.base import ROLES, Split
from deephash.data.splits.protocols import Facts, fingerprint
from deephash.data.splits.split_file import ENDING, LISTS, read_split, write_lists, write_split
from deephash.data.verification.data_warnings import warn_of_images
from deephash.errors import ConfigError, DataError, WriteError
from deephash.runs.cache_command import show_cache
from deephash.runs.describe_data import (
    description,
    description_lines,
    divide,
    without_validation,
)
from deephash.runs.encode_images import encode_dataset
from deephash.runs.verify_data import verify
from deephash.utils import program
from deephash.utils.files import check_writable, expand_path, write_json, write_text


def data(cfg: schema.Data, overrides: Sequence[Override] = ()) -> None:
    """Run the action ``cfg.do``.

    Args:
        cfg: the checked configuration of ``data``.
        overrides: the command line.

    Raises:
        DeephashError: with a message for the user; from ``verify`` also if the data have faults.
    """
    actions: dict[str, Callable[[schema.Data], Any]] = {
        "prepare": partial(prepare, overrides=overrides),
        "verify": verify,
        "describe": describe,
        "export": export,
        "encode": encode_dataset,
        "cache": show_cache,
    }
    if cfg.out is not None and cfg.do != "prepare":  # prepare may have nothing to write
        try:
            check_writable(expand_path(cfg.out))
        except WriteError as error:
            raise DataError(f"out  {error}") from error
    actions[cfg.do](cfg)


def prepare(cfg: schema.Data, overrides: Sequence[Override] = ()) -> None:
    """Prepare a dataset for training: write its split file and decode its images.

    A protocol with a recipe is drawn from the catalogue; a protocol of lists is converted from
    them, in any of their formats; other protocols need no file. An equal existing file is kept.
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
            facts = _convert(cfg, path, source)
        elif source.split_file() is None:
            raise ConfigError(_no_lists(cfg, source))
    if cfg.images is not False:
        loaded = build.source(_reading(cfg)).load()
        split, facts = _checked(cfg, loaded)
        if isinstance(loaded, ImageSet):
            check_finite(loaded, {role: getattr(split, role) for role in ROLES})
        print(f"{len(loaded):,} images are ready")
    if facts is None:
        _, facts = _checked(cfg, catalogue_of(build.source(_reading(cfg))))
    print(summary(facts))
    print(f"  {program.command('train')} {shlex.join(_train_arguments(cfg, overrides))}")


def _draw(cfg: schema.Data, path: Path, catalog: Any, recipe: Any) -> Facts:
    """Draw the split of a recipe and write it."""
    images = catalog.read()
    _print_warnings(images)
    try:
        roles = recipe.split(images)
    except DataError as error:  # it names the key of training
        message = str(error).replace("protocols.<protocol>.", f"recipes.{cfg.dataset.protocol}.")
        raise DataError(message) from error
    images = dataclasses.replace(images, lists={role: getattr(roles, role) for role in LISTS})
    origin = {"recipe": (cfg.dataset.recipes or {})[cfg.dataset.protocol]}
    return _write(cfg, path, images, origin, {})


def _convert(cfg: schema.Data, path: Path, source: Lists) -> Facts:
    """Write the split of lists, in any of their formats."""
    source.split = None
    files = [source.list_file(name) for name in source.names.values()]
    sums = {file.name.removesuffix(".xz"): list_sha1(file) for file in files if file is not None}
    return _write(cfg, path, source.read(), {"lists": sorted(sums)}, sums)


def _write(
    cfg: schema.Data, path: Path, images: Catalogue, origin: Any, sums: Mapping[str, str]
) -> Facts:
    """Write a split file, unless an equal one exists; return the facts of the protocol."""
    split, facts = _checked(without_validation(cfg), images)
    lists = dataclasses.replace(split, exclude_self=False)  # not saved in the file
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
    """Return the path of the split file of a protocol."""
    if cfg.out is not None:
        return expand_path(cfg.out)
    if source.lists.is_file():
        return source.lists
    return source.lists / (source.split or f"{cfg.dataset.protocol}{ENDING}")


def _reading(cfg: schema.Data) -> schema.Data:
    """Return the configuration that reads the split file ``out``."""
    if cfg.out is None or "lists" not in cfg.dataset.source:
        return cfg
    source = {**cfg.dataset.source, "lists": cfg.out}
    return cfg.with_values(dataset=cfg.dataset.with_values(source=source).plain)


def _checked(cfg: schema.Data, images: Catalogue) -> tuple[Split, Facts]:
    """Return the split of the protocol after comparing its facts with the expected ones."""
    split, facts = divide(cfg, images)
    expected = (cfg.dataset.expected or {}).get(facts.protocol)
    if expected and cfg.dataset.classes is None:
        check_facts(facts, expected)
    return split, facts


def _no_lists(cfg: schema.Data, source: Lists) -> str:
    message = (
        f"dataset.lists  there are no lists in {source.lists}: "
        f"{', '.join(source.names.values())}.\n"
        "  Give their folder with dataset.lists=FOLDER"
    )
    if recipes := ", ".join(cfg.dataset.recipes or ()):
        message += f", or draw a split with dataset.protocol={recipes}"
    return f"{message}."


def _train_arguments(cfg: schema.Data, overrides: Sequence[Override]) -> list[str]:
    """Return the arguments with which ``train`` finds the same data."""
    kept = [item for item in overrides if item.within("dataset", "paths.cache")]
    if any(item.within("dataset.recipes") for item in kept):
        kept.append(Override.parse("dataset.expected=null"))  # prepare did not check it either
    kept = [item for item in kept if not item.within("dataset.catalog", "dataset.recipes")]
    if cfg.out is not None:
        kept = [item for item in kept if item.key != "dataset.lists"]
        kept.append(Override.parse(f"dataset.lists={cfg.out}"))
    return texts(dict.fromkeys(kept))


def summary(facts: Facts) -> str:
    """Format a split in one line."""
    labels = "" if facts.num_classes else " no labels,"
    return (
        f"{facts.dataset}, protocol {facts.protocol}: {facts.num_train:,} train,"
        f" {facts.num_queries:,} queries, {facts.num_database:,} database,{labels}"
        f" fingerprint {facts.fingerprint[:16]}"
    )


def describe(cfg: schema.Data) -> None:
    """Print a description of a dataset; ``out`` is a JSON file for it."""
    images = catalogue_of(build.source(cfg))
    result = description(cfg, images)
    print("\n".join(description_lines(result)))
    _print_warnings(images)
    if cfg.out is not None:
        write_json(expand_path(cfg.out), result)


def _print_warnings(images: Catalogue) -> None:
    """Print warnings about suspicious properties of a dataset."""
    for warning in warn_of_images(images):
        print("\n".join(warning.lines()))


def export(cfg: schema.Data) -> None:
    """Write the split as lists or as a split file, for other programs."""
    assert cfg.out is not None  # `config.check_data`
    images = catalogue_of(build.source(cfg))
    folder = expand_path(cfg.out)
    if cfg.style is schema.Style.split:
        path = folder / f"{cfg.dataset.name}-{cfg.dataset.protocol}{ENDING}"
        print(summary(_write(cfg, path, images, "export", {})))
        return
    split, facts = _checked(without_validation(cfg), images)
    write_lists(folder, images, split, cfg.style.value, cfg.prefix)
    write_text(folder / "classes.txt", "".join(f"{name}\n" for name in images.classes))
    print(f"wrote {folder}/{{train,test,database,classes}}.txt\n{summary(facts)}")


def catalogue_of(source: Any) -> Catalogue:
    """Return the catalogue of a source; images of lists are not opened."""
    catalogue: Catalogue = source.read() if hasattr(source, "read") else source.load()
    return catalogue
