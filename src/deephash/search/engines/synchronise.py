"""Open the engine of an index of images, and bring it up to date with the codes of the index."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from deephash.config import build, targets
from deephash.errors import DataError, WriteError
from deephash.search.engines.base import SearchEngine
from deephash.search.engines.store_engine import StoreEngine
from deephash.search.image_index import Answer, Hit, ImageIndex
from deephash.search.store import Changes, Snapshot, StoreVersion
from deephash.utils.files import make_folder, read_json, write_json
from deephash.utils.locks import Lock
from deephash.utils.progress import bar, tell

STATE, LOCK = "engine.json", "engine.lock"
"""Files in the folder of an engine: which items it has, and who is changing them."""

_BATCH = 20_000  # items added at once
_FORMAT = 1


def open_engine(node: Mapping[str, Any], index: ImageIndex) -> SearchEngine:
    """Open the engine of an index, with the items that the index has now.

    Its files are in the folder of the index, beside the codes. They can be removed; they are made
    again from the codes.

    Args:
        node: the part: ``_target_`` and options.
        index: of the images.

    Raises:
        DeephashError: a package is missing, a server cannot be reached, or refuses something.
    """
    name: str = getattr(targets.locate(node["_target_"], "engine"), "name", "engine")
    snapshot = index.snapshot()
    folder = index.home / f"{index.folder.name}.{name}"
    engine: SearchEngine = build.search_engine(node, snapshot.nbit, folder, index.store)
    try:
        update_engine(engine, snapshot)
    except BaseException:
        engine.close()
        raise
    return engine


def update_engine(engine: SearchEngine, snapshot: Snapshot) -> None:
    """Bring an engine up to date with an index, and save it.

    Args:
        engine: searches the store of the index, or has items of its own.
        snapshot: of the index.

    Raises:
        DeephashError: the engine cannot be changed.
    """
    if not isinstance(engine, StoreEngine):
        synchronise(engine, snapshot)
        return
    try:
        engine.save()
    except WriteError as error:  # it was built in memory
        tell(f"{error}\n  The index of engine={engine.name} was not saved.")


def synchronise(engine: SearchEngine, snapshot: Snapshot) -> Changes:
    """Add to an engine and remove from it what was changed since the last call, and save it.

    An interrupted call is repeated by the next one.

    Args:
        engine: has items of its own.
        snapshot: the items that it is to have.

    Returns:
        The changes that were made; of an engine that was filled anew, all items are added.
    """
    make_folder(engine.folder)
    with Lock.wait(engine.folder / LOCK, "which copies codes to the engine"):
        path = engine.folder / STATE
        version = _read_version(path, engine)
        changes = None if version is None else snapshot.changes_since(version)
        if changes is None:
            engine.clear()
            changes = Changes([], np.arange(len(snapshot)), False)
        if changes.removed:
            engine.remove(changes.removed)
        with bar(f"copying codes to {engine.name}", len(changes.added)) as progress:
            for start in range(0, len(changes.added), _BATCH):
                places = changes.added[start : start + _BATCH]
                engine.add(snapshot.codes[places], snapshot.ids_at(places).tolist())
                progress.advance(len(places))
        engine.save()
        if engine.count() != len(snapshot):
            raise DataError(
                f"engine={engine.name} has {engine.count():,} items instead of {len(snapshot):,}:"
                f" does another program change it?\n  Remove {path}, and repeat the command."
            )
        state = {
            "version": _FORMAT,
            "engine": engine.name,
            "location": engine.location,
            "nbit": engine.nbit,
            "count": len(snapshot),
            "store": list(snapshot.version),
        }
        write_json(path, state)
    return changes


def search_by_engine(
    engine: SearchEngine,
    snapshot: Snapshot,
    codes: npt.NDArray[np.uint8],
    top: int,
    exclude: Sequence[str | None] | None = None,
) -> tuple[list[Answer], npt.NDArray[np.int16]]:
    """Find the images nearest to each code; see ``image_index.search_codes``.

    How many further images have the distance of the last one is not counted.

    Args:
        engine: has the items of the snapshot.
        snapshot: of the index.
        codes: (Q, ceil(K / 8)) uint8.
        top: number of images for each query.
        exclude: for each query, an id that is not returned.

    Returns:
        an answer for each query; and the distances of the results, (Q, k), with excluded ones.
    """
    own = [None] * len(codes) if exclude is None else exclude
    spare = int(any(name is not None for name in own))
    distances_Qk, ids_Qk = engine.search(codes, top + spare)
    answers = []
    for code, distances, ids, without in zip(codes, distances_Qk, ids_Qk, own, strict=True):
        kept = [at for at, name in enumerate(ids) if name is not None and name != without][:top]
        names = [ids[at] for at in kept]
        places = snapshot.find(names)
        known = iter(snapshot.labels_at(places[places >= 0]))
        labels = [None if place < 0 else next(known) for place in places]
        hits = [
            Hit(int(distances[at]), name, label)
            for at, name, label in zip(kept, names, labels, strict=True)
        ]
        answers.append(Answer(code, hits))
    return answers, distances_Qk


def _read_version(path: Path, engine: SearchEngine) -> StoreVersion | None:
    """Return the version of the store whose items an engine has; None if that is not known."""
    if not path.is_file():
        return None
    try:
        state = read_json(path, "state of a search engine")
        version = StoreVersion.of(state["store"])
        known = (state["version"], state["engine"], state["location"], state["nbit"])
        count = state["count"]
    except (DataError, KeyError, TypeError, ValueError):
        return None
    same = known == (_FORMAT, engine.name, engine.location, engine.nbit)
    return version if same and count == engine.count() else None
