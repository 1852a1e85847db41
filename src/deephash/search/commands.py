"""The jobs of ``deephash encode`` and ``deephash search``."""

import difflib
import json
import os
import shutil
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from deephash import runs
from deephash.config import build, schema
from deephash.config.checks import EXACT_ENGINE
from deephash.data.sources.folder_walk import describe_passed_over
from deephash.errors import BusyError, DataError, WriteError
from deephash.search.code_files import CodeFile, check_format
from deephash.search.collection import (
    Collection,
    Item,
    Labels,
    absolute,
    label_text,
    open_collection,
)
from deephash.search.encode import (
    UnreadableImage,
    encode_items,
    load_encoder,
    read_unreadable,
    update_store,
    write_unreadable,
)
from deephash.search.engines.base import tie_aware_recall
from deephash.search.engines.synchronise import open_engine, search_by_engine
from deephash.search.image_index import (
    Answer,
    Group,
    Hit,
    ImageIndex,
    home_of,
    label_options,
    search_codes,
)
from deephash.search.page import PageQuery, write_duplicates_page, write_search_page
from deephash.search.store import CodeStore
from deephash.search.store_files import MANIFEST, read_manifest
from deephash.training.code_encoder import CodeEncoder
from deephash.utils.files import (
    check_writable,
    expand_path,
    make_folder,
    remove_temporaries,
    write_json,
)
from deephash.utils.progress import tell

TOP = 10
"""Images for each query, if neither ``top`` nor ``radius`` is given."""

SHOWN = 20
"""Groups of duplicates, and images of each, that are printed."""

MANY_IMAGES, MANY_OF_ALL = 50, 0.02
"""Number and part of all images above which a group is no group of near-duplicates."""

LSH_BITS = 256
"""Fewest bits of codes of ``method=lsh`` that separate near-duplicates from other images."""

VERSION = 1
"""Of the JSON files of results."""


def encode(cfg: schema.Encode) -> Path:
    """Write the codes of a collection of images to a file.

    Codes are first added to a store beside the file, from which a repeated command goes on.

    Args:
        cfg: the checked configuration.

    Returns:
        The file.

    Raises:
        DeephashError: with a message for the user.
    """
    assert cfg.run is not None and cfg.images is not None and cfg.out is not None
    out = expand_path(cfg.out)
    check_format(out)
    check_writable(out)
    runs.check_loadable(Path(cfg.run), cfg.checkpoint, cfg.device, _precision(cfg))
    collection = _collect(cfg, cfg.labels or "auto", cfg.label_column)
    partial, finished = out.with_name(out.name + ".partial"), None
    if (partial / MANIFEST).is_file():
        described = read_manifest(partial)["encoder"]
    else:
        finished = _finished_file(out)
        described = {} if finished is None else finished.encoder
    known = described.get("fingerprint")
    encoder = load_encoder(
        cfg.run,
        cfg.checkpoint,
        cfg.device,
        _precision(cfg),
        {known}.__contains__,
    )
    if known not in (None, encoder.fingerprint):
        tell(f"{partial if finished is None else out} has codes of another encoder: starting again")
    failures = out.with_suffix(".unreadable.tsv")
    before = read_unreadable(failures)
    with _open_partial(partial, encoder, finished) as store:
        update = update_store(store, collection, encoder, before, cfg.batch_size, cfg.workers)
        file = code_file(store, collection)
        file.write(out)
        write_unreadable(failures, update.unreadable)
    shutil.rmtree(partial, ignore_errors=True)
    _tell_ignored(collection)
    if update.unreadable:
        tell(f"{_count(len(update.unreadable), 'image')} cannot be read: {failures}")
    print(f"{len(file):,} codes of {file.nbit} bits: {out}")
    return out


def code_file(store: CodeStore, collection: Collection) -> CodeFile:
    """Return the content of a store in the order of a collection."""
    snapshot = store.snapshot()
    places = snapshot.find([item.id for item in collection.items])
    items = [item for item, place in zip(collection.items, places, strict=True) if place >= 0]
    return CodeFile.of(snapshot.codes[places[places >= 0]], items, snapshot.encoder)


def _open_partial(folder: Path, encoder: CodeEncoder, finished: CodeFile | None) -> CodeStore:
    """Open the store of an unfinished command, or make one with the codes of a finished file.

    Codes of another encoder are not used.

    Args:
        folder: of the store.
        encoder: of the command.
        finished: what an earlier command wrote.
    """
    if (folder / MANIFEST).is_file():
        store = CodeStore.open(folder, write=True)
        if store.encoder.get("fingerprint") == encoder.fingerprint:
            return store
        store.close()
        shutil.rmtree(folder)
    store = CodeStore.create(folder, encoder.nbit, encoder.describe())
    try:
        if finished is not None and finished.encoder.get("fingerprint") == encoder.fingerprint:
            store.add(finished.codes, finished.ids, finished.signatures, finished.labels)
    except BaseException:
        store.close()
        raise
    return store


def _precision(cfg: schema.ImagesOfRun) -> str | None:
    return None if cfg.precision is None else cfg.precision.value


def _finished_file(out: Path) -> CodeFile | None:
    """Return the codes that an earlier command wrote; None if there are none."""
    if not out.is_file():
        return None
    try:
        return CodeFile.read(out)
    except DataError:  # it is replaced
        return None


@dataclass(frozen=True)
class Query:
    """An image to search with.

    Attributes:
        name: as shown.
        collection: contains it.
        item: the image there.
        own: its id in the index, if it is in it.
    """

    name: str
    collection: Collection
    item: Item
    own: str | None = None


def search(cfg: schema.Search) -> dict[str, Any]:
    """Bring the index of a collection up to date, and search in it.

    Args:
        cfg: the checked configuration.

    Returns:
        What is also written as JSON.

    Raises:
        DeephashError: with a message for the user.
    """
    if cfg.out is not None and cfg.page:
        _check_folder(expand_path(cfg.out), "Give a folder for the results: out=FOLDER.")
    index = open_index(cfg, lambda collection: _check_queries(collection, cfg))
    if cfg.update:
        update_index(index, cfg)
    out = index.home if cfg.out is None else expand_path(cfg.out)
    if cfg.duplicates:
        return _duplicates(index, cfg, out)
    return _search(index, cfg, out)


def open_index(
    cfg: schema.IndexOfRun, check: Callable[[Collection], None] = lambda collection: None
) -> ImageIndex:
    """Return the index that a configuration describes; ``update_index`` fills it.

    What can be checked without the run is checked before its encoder is loaded.

    Args:
        cfg: the checked configuration.
        check: is called with the images, before the encoder is loaded.

    Raises:
        DeephashError: with a message for the user.
    """
    assert cfg.run is not None and cfg.images is not None
    build.require_search_engine(cfg.engine)
    runs.check_loadable(Path(cfg.run), cfg.checkpoint, cfg.device, _precision(cfg))
    home = home_of(cfg.images) if cfg.index is None else absolute(cfg.index)
    _check_folder(home, "Give a folder for the index: index=FOLDER.", writes=cfg.update)
    collection = _collect(cfg, **label_options(home, cfg.labels, cfg.label_column))
    check(collection)
    return ImageIndex(
        cfg.run,
        cfg.images,
        folder=cfg.index,
        labels=cfg.labels,
        root=cfg.root,
        path_column=cfg.path_column,
        label_column=cfg.label_column,
        checkpoint=cfg.checkpoint,
        device=cfg.device,
        precision=_precision(cfg),
        collection=collection,
    )


def update_index(index: ImageIndex, cfg: schema.IndexOfRun) -> None:
    """Bring an index up to date, or use it as it is while another process does."""
    try:
        update = index.update(cfg.batch_size, cfg.workers)
    except BusyError as error:
        if not index.exists:
            raise
        tell(f"{error}\n  Searching the {len(index.snapshot()):,} images that are in the index.")
        return
    _tell_ignored(index.collection)
    tell(f"{cfg.images}: {update}")
    if update.unreadable:
        tell(f"  unreadable images: {index.unreadable_file}")


def _search(index: ImageIndex, cfg: schema.Search, out: Path) -> dict[str, Any]:
    queries = _queries(index, cfg)
    unreadable: list[UnreadableImage] = []
    encoded: dict[tuple[int, str], Any] = {}
    for collection in {id(query.collection): query.collection for query in queries}.values():
        items = [query.item for query in queries if query.collection is collection]
        for part in encode_items(index.encoder, collection, items, unreadable, cfg.batch_size):
            for item, code in zip(part.items, part.codes, strict=True):
                encoded[id(collection), item.id] = code
    for one in unreadable:
        tell(f"the query {one.id} cannot be read: {one.cause}")
    queries = [query for query in queries if (id(query.collection), query.item.id) in encoded]
    if not queries:
        raise DataError("query  none of the queries can be read.")
    codes = np.stack([encoded[id(query.collection), query.item.id] for query in queries])
    top = TOP if cfg.top is None and cfg.radius is None else cfg.top
    exclude = None if cfg.itself else [query.own for query in queries]
    head = _head(index)
    if cfg.engine["_target_"] == EXACT_ENGINE:
        answers = search_codes(index.snapshot(), codes, top, cfg.radius, exclude)
    else:
        assert top is not None
        answers, head["engine"] = _search_by_engine(index, cfg, codes, top, exclude)
    result = {
        **head,
        "radius": cfg.radius,
        "queries": [
            {
                "query": query.name,
                "code": answer.hex,
                "results": [_as_json(hit) for hit in answer.hits],
                "more": answer.more,
            }
            for query, answer in zip(queries, answers, strict=True)
        ],
    }
    if cfg.page:
        _make_out(out, "search.json", "search.html")
        write_json(out / "search.json", result)
        shown = [
            PageQuery(query.name, query.collection, query.item, answer)
            for query, answer in zip(queries, answers, strict=True)
        ]
        page = write_search_page(out / "search.html", index, shown, cfg.radius)
        tell(f"page: {page}")
    if cfg.json:
        print(json.dumps(result, ensure_ascii=False))
    else:
        for query, answer in zip(queries, answers, strict=True):
            print("\n".join(answer_lines(query.name, answer, cfg.radius)))
    return result


def _search_by_engine(
    index: ImageIndex,
    cfg: schema.Search,
    codes: npt.NDArray[np.uint8],
    top: int,
    exclude: Sequence[str | None] | None,
) -> tuple[list[Answer], dict[str, Any]]:
    """Search with an engine, and measure its recall if that is wanted."""
    snapshot = index.snapshot()
    with open_engine(cfg.engine, index) as engine:
        answers, distances = search_by_engine(engine, snapshot, codes, top, exclude)
        described: dict[str, Any] = {"name": engine.name, "exact": engine.exact}
    if cfg.check_recall:
        nearest, _ = snapshot.index().search(codes, distances.shape[1])
        recall = described["recall"] = tie_aware_recall(distances, nearest)
        tell(
            f"recall of engine={engine.name}: {recall:.4f} ({_count(len(codes), 'query')},"
            f" {distances.shape[1]} nearest images, equal distances count alike)"
        )
    return answers, described


def _duplicates(index: ImageIndex, cfg: schema.Search, out: Path) -> dict[str, Any]:
    radius = cfg.radius or 0
    groups = index.duplicates(radius)
    largest = max((len(group.hits) for group in groups), default=0)
    if largest > max(MANY_IMAGES, MANY_OF_ALL * len(index.snapshot())):
        tell(f"the largest group has {largest:,} images. {_group_advice(index.encoder, radius)}")
    result = {
        **_head(index),
        "radius": radius,
        "groups": [
            {
                "width": group.width,
                "images": [{**_as_json(hit), **_copy(group.copies, hit.id)} for hit in group.hits],
            }
            for group in groups
        ],
    }
    if cfg.page:
        _make_out(out, "duplicates.json", "duplicates.html")
        write_json(out / "duplicates.json", result)
        page = write_duplicates_page(out / "duplicates.html", index, groups, radius)
        tell(f"page: {page}")
    if cfg.json:
        print(json.dumps(result, ensure_ascii=False))
    else:
        print("\n".join(group_lines(groups, radius)))
    return result


def _group_advice(encoder: CodeEncoder, radius: int) -> str:
    """Return what to do about groups that are too large to be near-duplicates."""
    if encoder.method == "lsh" and encoder.nbit >= LSH_BITS and radius:
        return f"Try a smaller radius than {radius}."
    return (
        "Codes of few bits, or that were trained with labels, are often equal:\n  for"
        f" near-duplicates use a run of method=lsh with {LSH_BITS} bits or more on a frozen"
        " backbone."
    )


def _queries(index: ImageIndex, cfg: schema.Search) -> list[Query]:
    """Find the images of ``query``: files, collections of them, or ids of the index.

    Raises:
        DataError: a file holds no images.
    """
    queries: list[Query] = []
    known = _images_with_ids(index.collection, _names(cfg))
    for given in _given(cfg):
        if given in known:
            queries.append(Query(given, index.collection, known[given], given))
            continue
        collection = open_collection(given, labels=index.labels, key="query")
        single = expand_path(given).is_file() and len(collection) == 1
        queries += [
            Query(given if single else item.id, collection, item, own)
            for item in collection.items
            for own in [_own_id(index, collection, item)]
        ]
    return queries


def _check_queries(collection: Collection, cfg: schema.Search) -> None:
    """Check that queries exist, before images are encoded for hours.

    Raises:
        DataError: one is neither a file nor an image of the index.
    """
    names = _names(cfg)
    known = _images_with_ids(collection, names) if names else {}
    for given in _given(cfg):
        if given not in names:
            open_collection(given, key="query")
        elif given not in known:
            near = difflib.get_close_matches(given, [it.id for it in collection.items], n=1)
            hint = f"Did you mean query={near[0]}?" if near else "Give a file or a folder."
            raise DataError(
                f"query={given}  is neither a file nor the id of an image of {cfg.images}. {hint}"
            )


def _given(cfg: schema.Search) -> list[str]:
    return [cfg.query] if isinstance(cfg.query, str) else cfg.query or []


def _names(cfg: schema.Search) -> set[str]:
    """Return the queries that are no files, and so ids of images of the index."""
    return {given for given in _given(cfg) if not expand_path(given).exists()}


def _images_with_ids(collection: Collection, names: Container[str]) -> dict[str, Item]:
    return {item.id: item for item in collection.items if item.id in names}


def _own_id(index: ImageIndex, queries: Collection, item: Item) -> str | None:
    """Return the id in the index of the image of a query; None if it is not in the index."""
    file, indexed = queries.file(item.id), index.collection
    if file is None or indexed.root is None:
        return item.id if indexed.path == queries.path else None
    names = [Path(os.path.relpath(file, indexed.root)).as_posix(), file.as_posix()]
    places = index.snapshot().find(names)
    return next((name for name, place in zip(names, places, strict=True) if place >= 0), None)


def _collect(cfg: schema.ImagesOfRun, labels: Labels, label_column: str | None) -> Collection:
    assert cfg.images is not None
    return open_collection(
        cfg.images,
        labels=labels,
        root=cfg.root,
        path_column=cfg.path_column,
        label_column=label_column,
    )


def _check_folder(folder: Path, advice: str, writes: bool = True) -> None:
    """Raise WriteError for a file in place of a folder, or one that cannot be written."""
    if folder.exists() and not folder.is_dir():
        raise WriteError(folder, "it is a file", advice)
    if writes and not folder.exists():
        try:
            check_writable(folder)
        except WriteError as error:
            raise WriteError(folder, error, advice) from error


def _make_out(out: Path, *names: str) -> None:
    """Make the folder of the results, and remove what killed commands have left of files there."""
    try:
        make_folder(out)
    except WriteError as error:
        raise WriteError(out, error, "Give a folder for the results: out=FOLDER.") from error
    for name in names:
        remove_temporaries(out / name)


def _tell_ignored(collection: Collection) -> None:
    if ignored := describe_passed_over(collection.passed_over):
        tell(f"ignored: {ignored}")


def _head(index: ImageIndex) -> dict[str, Any]:
    """Return what both kinds of results begin with."""
    return {
        "version": VERSION,
        "images": str(index.collection.path),
        "total": len(index.snapshot()),
        "nbit": index.encoder.nbit,
        "encoder": index.encoder.fingerprint,
    }


def _as_json(hit: Hit) -> dict[str, Any]:
    values: dict[str, Any] = {"id": hit.id, "distance": hit.distance}
    if hit.label is not None:
        values["label"] = hit.label if isinstance(hit.label, str) else list(hit.label)
    return values


def _copy(copies: Mapping[str, str], name: str) -> dict[str, str]:
    return {"copy_of": copies[name]} if name in copies else {}


def answer_lines(name: str, answer: Answer, radius: int | None) -> list[str]:
    """Return the results of a query as lines of text.

    >>> answer = Answer(np.array([3], np.uint8), [Hit(0, "a.jpg", "cat"), Hit(2, "b.jpg")], more=5)
    >>> answer_lines("query.jpg", answer, None)[1:]
    ['   0  a.jpg  cat', '   2  b.jpg', '      5 more at distance 2']
    """
    lines = [name]
    for hit in answer.hits:
        label = label_text(hit.label)
        lines.append(f"{hit.distance:4}  {hit.id}" + (f"  {label}" if label else ""))
    if not answer.hits:
        lines.append("      nothing" + ("" if radius is None else f" within distance {radius}"))
    if answer.more and radius is None:
        lines.append(f"      {answer.more:,} more at distance {answer.hits[-1].distance}")
    elif answer.more:
        lines.append(f"      {answer.more:,} more within distance {radius}")
    return lines


def group_lines(groups: Sequence[Group], radius: int) -> list[str]:
    """Return groups of duplicates as lines of text; of many, the first."""
    images = sum(len(group.hits) for group in groups)
    copies = sum(len(group.copies) for group in groups)
    head = f"{_count(len(groups), 'group')} of {images:,} images within distance {radius}"
    lines = [head + (f", {copies:,} of them identical files" if copies else "")]
    for group in groups[:SHOWN]:
        lines.append(f"{len(group.hits):,} images{_width(group)}")
        for hit in group.hits[:SHOWN]:
            copy = f"  identical to {group.copies[hit.id]}" if hit.id in group.copies else ""
            lines.append(f"{hit.distance:4}  {hit.id}{copy}")
        if len(group.hits) > SHOWN:
            lines.append(f"      and {len(group.hits) - SHOWN:,} more")
    if len(groups) > SHOWN:
        lines.append(f"and {len(groups) - SHOWN:,} more groups")
    return lines


def _width(group: Group) -> str:
    if group.width is None:
        return ""
    most = "at most " if len(group.hits) > 2 else ""
    return f", {most}{_count(group.width, 'bit')} apart" if group.width else ", equal codes"


def _count(number: int, what: str) -> str:
    plural = what[:-1] + "ies" if what.endswith("y") else what + "s"
    return f"{number:,} {what if number == 1 else plural}"
