"""List and remove entries of the cache: the command ``data cache``."""

import time
from pathlib import Path
from typing import Any

from deephash.config import schema
from deephash.data.cache_folder import cache_folder, lock_path, remove_entry
from deephash.data.feature_store import feature_entries
from deephash.data.image_cache.cache import pixel_entries
from deephash.data.image_cache.entries import INDEX, Broken, read_index
from deephash.data.sources.feature_formats import ARRAY, NOTES, PART, REMARKS
from deephash.errors import ConfigError, FileError, WriteError
from deephash.utils import program
from deephash.utils.files import read_json
from deephash.utils.locks import Lock

KINDS = ("pixels", "features")


def show_cache(cfg: schema.Data) -> None:
    """Print the entries of the cache, decoded images and features; remove those of ``cfg.remove``.

    Args:
        cfg: the checked configuration of ``data``; ``remove`` is ``pixels``, ``features``, ``all``
            or the name of an entry.

    Raises:
        ConfigError: there is no entry of this name.
        WriteError: an entry cannot be removed.
    """
    folder = cache_folder(cfg.paths.cache)
    listed = [*pixel_entries(folder), *feature_entries(folder)]
    chosen = _chosen(listed, cfg.remove, folder)
    total = 0
    for entry in listed:
        size = sum(path.stat().st_size for path in entry.rglob("*") if path.is_file())
        total += size
        line = f"{entry.name}  {size / 1e9:.2f} GB  {_day(entry)}  {_content(entry)}"
        if entry in chosen:
            line += "  removed" if _remove(entry) else "  in use: not removed"
        print(line)
    print(f"{len(listed)} entries, {total / 1e9:.2f} GB: {folder}")
    if listed and cfg.remove is None:
        print(f"  {program.command('data')} cache remove=pixels, features, all or NAME")


def _chosen(listed: list[Path], remove: str | None, folder: Path) -> list[Path]:
    if remove is None:
        return []
    if remove == "all":
        return listed
    chosen = [entry for entry in listed if remove in (entry.name, entry.name.partition("-")[0])]
    if not chosen and remove not in KINDS:
        raise ConfigError(
            f"remove  is {remove}, and {folder} has no such entry.\n"
            "        Give pixels, features, all, or the name of an entry."
        )
    return chosen


def _day(entry: Path) -> str:
    return time.strftime("%Y-%m-%d", time.localtime(entry.stat().st_mtime))


def _content(entry: Path) -> str:
    """Describe the content of an entry."""
    try:
        if entry.name.startswith("pixels-"):
            index = read_index(entry)
            return f"{index.shape[0]:,} images of {index.root}, {index.shape[2]} px"
        if (entry / NOTES).is_file() and (entry / ARRAY).is_file():
            return _features(read_json(entry / NOTES, "notes"))
        notes = read_json(entry / PART / NOTES, "notes")
        return f"{_features(notes['notes'])}, {notes['done']:,} done"
    except (Broken, FileError, KeyError, TypeError):
        return f"not whole (no {INDEX if entry.name.startswith('pixels-') else NOTES})"


def _features(notes: Any) -> str:
    backbone = notes["backbone"]
    name = backbone.get("name") or backbone["_target_"].rpartition(".")[2]
    count, width = notes["shape"]
    views = f", {notes['views']} views under {notes['name']}" if "views" in notes else ""
    dataset = notes[REMARKS]["dataset"] if REMARKS in notes else notes["dataset"]
    return f"{count:,} x {width} features of {dataset} by {name}{views}"


def _remove(entry: Path) -> bool:
    """Remove an entry atomically, unless a process is writing it."""
    try:
        lock = Lock.acquire(lock_path(entry))
        if lock is None:
            return False
        with lock:
            remove_entry(entry)
    except WriteError:
        raise
    except OSError as error:
        raise WriteError(entry, error) from error
    return True
