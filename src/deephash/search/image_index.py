"""Search in a collection of images by their codes, which are kept in a folder beside it."""

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from deephash import retrieval
from deephash.data.preprocessing import ImageLike, images_in
from deephash.data.sources.folder_walk import INDEX
from deephash.errors import DataError, FileError, WriteError
from deephash.search.collection import (
    Collection,
    Labels,
    absolute,
    check_labels,
    open_collection,
)
from deephash.search.encode import (
    Update,
    load_encoder,
    plan_update,
    preprocessing_of,
    read_unreadable,
    update_store,
    write_unreadable,
)
from deephash.search.store import CodeStore, Snapshot
from deephash.search.store_files import MANIFEST, Label
from deephash.training.code_encoder import CodeEncoder
from deephash.utils.files import check_writable, make_folder, read_json, write_json
from deephash.utils.progress import bar

DIGITS = 12
"""Digits of an encoder's fingerprint in the name of a folder."""

COMPACT = 0.25
"""Part of removed items above which a store is rewritten."""

LABELS = "labels.json"
"""The file in the folder of the indexes that names where the labels of the last update came from.

Without it they are those of a list or CSV file.
"""

MOST_WIDTH = 2000
"""Number of different codes in a group up to which its largest distance is computed."""

_QUERIES = 64  # codes that are compared at once
_EDGES = 1 << 22  # pairs of near codes in memory

Places = npt.NDArray[np.int64]


class Hit(NamedTuple):
    """A result of a search."""

    distance: int
    id: str
    label: Label = None


@dataclass(frozen=True)
class Answer:
    """The images near one query.

    Attributes:
        code: of the query, (ceil(K / 8),) uint8.
        hits: nearest first; equal distances in the order in which the images were added.
        more: number of further images at the distance of the last hit; with a radius, of further
            images within it.
    """

    code: npt.NDArray[np.uint8]
    hits: list[Hit]
    more: int = 0

    @property
    def hex(self) -> str:
        """The code as hexadecimal digits."""
        return self.code.tobytes().hex()


@dataclass(frozen=True)
class Group:
    """Images whose codes are near each other, directly or through others of the group.

    Attributes:
        hits: the images, with their distances to the one that was added first.
        width: the largest distance between two of them; None for a group of very many codes.
        copies: ids of files that are identical byte by byte to an earlier one, and the id of that.
    """

    hits: list[Hit]
    width: int | None
    copies: Mapping[str, str]


class ImageIndex:
    """An index of a collection of images, which is brought up to date with it by ``update``.

    The codes are in a folder beside the images, ``photos.deephash`` for ``photos``, with a
    subfolder for each encoder. Nothing is written into the folder of the images.

    Args:
        run: a run folder, or the encoder that ``deephash.load`` returns.
        images: a folder, a list, a CSV file, an archive or an image; see ``open_collection``.
        folder: of the index; None for the one beside the images.
        labels: see ``open_collection``; None, without ``label_column``: as the last update of the
            index in the folder, ``auto`` if there is none.
        root: folder of relative paths in a list or CSV file.
        path_column: column of the paths in a CSV file.
        label_column: column of the labels in a CSV file.
        checkpoint: of the run, ``best`` or ``last``.
        device: for the network.
        precision: number format of the network, ``fp32`` or ``bf16``; None for that of the codes in
            the folder, without codes for that of the run on CUDA and ``fp32`` on a CPU.
        collection: the images, if they were read already; the first ``update`` uses it.

    Raises:
        DataError: the run encodes features, or there is no place for the index.

    Example:
        >>> import deephash
        >>> from PIL import Image
        >>> _, run = deephash.train(["model.nbit=16", "trainer.epochs=0", "logger=quiet"])
        done   outputs/digits/relahash/16bit/seed0,trainer.epochs=0  mAP@all 0...
        >>> Path("scans").mkdir()
        >>> for gray in (0, 1, 255):
        ...     Image.new("L", (9, 9), gray).save(f"scans/{gray}.png")
        >>> index = deephash.ImageIndex(run, "scans")
        >>> print(index.update())
        3 images (3 added)
        >>> [answer] = index.search("scans/0.png", top=1)
        >>> answer.hits
        [Hit(distance=0, id='0.png', label=None)]
    """

    def __init__(
        self,
        run: str | os.PathLike[str] | CodeEncoder,
        images: str | os.PathLike[str],
        *,
        folder: str | os.PathLike[str] | None = None,
        labels: Labels | None = None,
        root: str | os.PathLike[str] | None = None,
        path_column: str | None = None,
        label_column: str | None = None,
        checkpoint: str = "best",
        device: str = "auto",
        precision: str | None = None,
        collection: Collection | None = None,
    ) -> None:
        self.home = home_of(images) if folder is None else absolute(folder)
        self._labels = label_options(self.home, labels, label_column)
        if not isinstance(run, CodeEncoder):
            run = load_encoder(run, checkpoint, device, precision, self._has_codes)
        self.encoder = run
        preprocessing_of(self.encoder)
        self.images = images
        self._options: dict[str, Any] = {
            **self._labels,
            "root": root,
            "path_column": path_column,
        }
        name = self.encoder.fingerprint[:DIGITS]
        self.folder = self.home / name
        self.unreadable_file = self.home / f"{name}.unreadable.tsv"
        self._collection = collection
        self._is_new = collection is not None
        self._store: CodeStore | None = None
        self._snapshot: Snapshot | None = None

    @property
    def collection(self) -> Collection:
        """The images as the last ``update`` found them; read now if there was none."""
        if self._collection is None:
            self._collection = open_collection(self.images, **self._options)
        return self._collection

    @property
    def labels(self) -> Labels:
        """Where the labels come from; see ``open_collection``."""
        labels: Labels = self._labels["labels"]
        return labels

    @property
    def exists(self) -> bool:
        """Whether there are codes of this encoder in the folder."""
        return self._has_codes(self.encoder.fingerprint)

    def _has_codes(self, fingerprint: str) -> bool:
        return (self.home / fingerprint[:DIGITS] / MANIFEST).is_file()

    def update(self, batch_size: int | None = None, workers: int | None = None) -> Update:
        """Encode the images that are new or were changed, and remove those that are gone.

        A killed process loses a few seconds of work; the next call goes on. If there is nothing to
        do, nothing is written.

        Args:
            batch_size: images in a forward pass; None for that of the run's evaluation.
            workers: decoding threads; None for one per core, at most 16, or 2 for small files.

        Raises:
            DataError: there are no images, none can be read, or the index holds another
                collection.
            BusyError: another process is adding images.
            WriteError: the folder cannot be written.
        """
        if not self._is_new:
            self._collection = None
        self._is_new = False
        collection = self.collection
        before = read_unreadable(self.unreadable_file)
        if self.exists:
            snapshot = self.snapshot()
            plan = plan_update(snapshot, collection, before)
            if len(snapshot) and not plan.common:
                [name] = snapshot.ids_at(np.array([0]))
                raise DataError(
                    f"the index in {self.folder} holds other images, such as {name}, and none of"
                    f" {self.images}. Give another folder,"
                    f" index=FOLDER; or remove {self.folder} if its images are gone."
                )
            if not plan.changes:
                self._save_labels()
                return Update(total=len(snapshot), unreadable=plan.unreadable)
            self.close()
            store = CodeStore.open(self.folder, write=True)
        else:
            self.close()
            self._make_home()
            store = CodeStore.create(self.folder, self.encoder.nbit, self.encoder.describe())
        with store:
            self._save_labels()
            update = update_store(store, collection, self.encoder, before, batch_size, workers)
            if update.removed + update.changed > COMPACT * len(store):
                store.compact()
        write_unreadable(self.unreadable_file, update.unreadable)
        return update

    def snapshot(self) -> Snapshot:
        """Return the present content of the index.

        Raises:
            DataError: there is none; call ``update`` first.
        """
        if self._store is None:
            if not self.exists:
                raise DataError(f"there is no index of {self.images} in {self.folder}: update it")
            self._store = CodeStore.open(self.folder)
            self._store.check_encoder(self.encoder.describe())
            self._snapshot = self._store.snapshot()
        elif self._store.reload() or self._snapshot is None:
            self._snapshot = self._store.snapshot()
        return self._snapshot

    @property
    def store(self) -> CodeStore:
        """The codes of the index, opened for reading.

        Raises:
            DataError: there are none; call ``update`` first.
        """
        self.snapshot()
        assert self._store is not None
        return self._store

    def search(
        self,
        images: ImageLike | Iterable[ImageLike],
        top: int | None = 10,
        radius: int | None = None,
        exclude: Sequence[str | None] | None = None,
    ) -> list[Answer]:
        """Find the images nearest to each query.

        Args:
            images: an image, or several: paths, PIL images, or what ``CodeEncoder.encode`` takes.
            top: number of images for each query; None for all within ``radius``.
            radius: largest distance; None for any.
            exclude: for each query, an id that is not returned, or None.

        Returns:
            An answer for each query.

        Raises:
            DataError: a query cannot be read, or there is no index.
        """
        codes = self.encoder.encode(images_in(images))
        return search_codes(self.snapshot(), codes, top, radius, exclude)

    def duplicates(self, radius: int = 0) -> list[Group]:
        """Return the groups of two images or more whose codes are near each other.

        Two images are in one group if a chain of images leads from one to the other, in which each
        is at most ``radius`` bits from the next.

        Args:
            radius: 0 for equal codes.

        Returns:
            Groups of the smallest width first, and among these the largest; in each group, files
            that are identical to others first.
        """
        result = []
        for group in group_codes(self.snapshot(), radius):
            copies = _identical_files(self.collection, group.hits)
            result.append(Group(_copies_first(group.hits, copies), group.width, copies))
        return result

    def close(self) -> None:
        """Close the files of the index; they are opened again when needed."""
        if self._store is not None:
            self._store.close()
            self._store = self._snapshot = None

    def _save_labels(self) -> None:
        """Write where the labels come from, if a later update would not find it out itself."""
        if label_options(self.home) != self._labels:
            write_json(self.home / LABELS, self._labels)

    def _make_home(self) -> None:
        try:
            check_writable(self.folder)
            make_folder(self.home)
        except WriteError as error:
            raise WriteError(self.home, error, "Give a place for it: index=FOLDER.") from error


def home_of(images: str | os.PathLike[str]) -> Path:
    """Return the folder of the indexes beside a collection.

    Raises:
        DataError: the collection is the root of the file system.

    Example:
        >>> home_of("/data/photos").as_posix()
        '/data/photos.deephash'
    """
    path = absolute(images)
    if not path.name:
        raise DataError(f"images={images}  has no folder beside it: give index=FOLDER")
    return path.with_name(path.name + INDEX)


def label_options(
    home: Path, labels: Labels | None = None, label_column: str | None = None
) -> dict[str, Any]:
    """Return where the labels of an index come from: what is given, else as its last update.

    Args:
        home: the folder of the indexes.
        labels: see ``open_collection``; None if it was not given.
        label_column: likewise.

    Returns:
        The options ``labels`` and ``label_column`` of ``open_collection``.

    Raises:
        FileError: the file of the last update is damaged.
    """
    file = home / LABELS
    if labels is not None:
        check_labels(labels)
    elif label_column is None and file.is_file():
        what, advice = "labels of an index", "Remove it, and repeat the command with labels=."
        known = read_json(file, what, advice=advice)
        labels, label_column = known.get("labels"), known.get("label_column")
        if labels not in get_args(Labels) or not isinstance(label_column, str | None):
            raise FileError(file, f"it names the labels {labels!r}", what, advice)
    return {"labels": labels or "auto", "label_column": label_column}


def search_codes(
    snapshot: Snapshot,
    codes: npt.NDArray[np.uint8],
    top: int | None = 10,
    radius: int | None = None,
    exclude: Sequence[str | None] | None = None,
    rows: Places | None = None,
) -> list[Answer]:
    """Find the images nearest to each code; see ``ImageIndex.search``.

    Args:
        snapshot: the content of an index.
        codes: (Q, ceil(K / 8)) uint8.
        top: number of images for each query.
        radius: largest distance.
        exclude: for each query, an id that is not returned.
        rows: places of the images to search, ascending; None for all.
    """
    database = snapshot.codes if rows is None else snapshot.codes[rows]
    if not len(database) or not len(codes):
        return [Answer(code, []) for code in codes]
    without = np.full(len(codes), -1)
    if exclude is not None:
        named = [at for at, name in enumerate(exclude) if name is not None]
        without[named] = snapshot.find([str(exclude[at]) for at in named])
    if rows is not None:
        position = np.searchsorted(rows, without).clip(max=len(rows) - 1)
        without = np.where(rows[position] == without, position, -1)
    if radius is None:
        top = 10 if top is None else top
        results = list(_nearest(database, snapshot.nbit, codes, top, without))
    else:
        results = list(_within(database, snapshot.nbit, codes, top, radius, without))
    everything = np.concatenate([places for _, places, _ in results])
    if rows is not None:
        everything = rows[everything]
    names = iter(snapshot.ids_at(everything))
    labels = iter(snapshot.labels_at(everything))
    return [
        Answer(
            code,
            [Hit(int(distance), next(names), next(labels)) for distance in distances],
            more,
        )
        for code, (distances, _, more) in zip(codes, results, strict=True)
    ]


Neighbours = tuple[npt.NDArray[np.int16], Places, int]
"""Distances, places, and the number of images that are left out."""


def _index_of_places(codes: npt.NDArray[np.uint8], nbit: int) -> retrieval.Index:
    """Return an index whose ids are the rows of the codes."""
    return retrieval.Index.over(codes, nbit, lambda rows: rows)


def _nearest(
    database: npt.NDArray[np.uint8],
    nbit: int,
    codes: npt.NDArray[np.uint8],
    top: int,
    without: Places,
) -> Iterator[Neighbours]:
    """Yield the nearest images of each query, and the number of others at the last distance."""
    spare = int((without >= 0).any())
    size = min(top + spare, len(database))
    distances_Qk, places_Qk = _index_of_places(database, nbit).search(codes, size)
    kept = []
    for distances, places, own in zip(distances_Qk, places_Qk, without, strict=True):
        rows = np.flatnonzero(places != own)[:top]
        kept.append((distances[rows], places[rows]))
    last = np.array([distances[-1] if len(distances) else 0 for distances, _ in kept])
    counts = _index_of_places(database, nbit).count(codes, last)
    for code, (distances, places), count, own, limit in zip(
        codes, kept, counts, without, last, strict=True
    ):
        more = int(count) - len(distances)
        if own >= 0 and retrieval.hamming(code[None], database[own : own + 1])[0, 0] <= limit:
            more -= 1
        yield distances, places, more


def _within(
    database: npt.NDArray[np.uint8],
    nbit: int,
    codes: npt.NDArray[np.uint8],
    top: int | None,
    radius: int,
    without: Places,
) -> Iterator[Neighbours]:
    """Yield the images within a radius of each query, and the number of those left out."""
    within = _index_of_places(database, nbit).range(codes, radius)
    for (start, stop), own in zip(pairwise(within.offsets.tolist()), without, strict=True):
        places = within.ids[start:stop]
        kept = np.flatnonzero(places != own)
        shown = kept[:top]
        yield within.distances[start:stop][shown], places[shown], len(kept) - len(shown)


def group_codes(snapshot: Snapshot, radius: int) -> list[Group]:
    """Return the groups of images whose codes are near each other; see ``duplicates``."""
    codes = np.ascontiguousarray(snapshot.codes)
    if len(codes) < 2:
        return []
    rows = codes.view(np.dtype((np.void, codes.shape[1]))).ravel()
    _, first, code_of = np.unique(rows, return_index=True, return_inverse=True)
    distinct = codes[first]
    group_of_code = _connected(distinct, snapshot.nbit, radius) if radius else np.arange(len(first))
    group_of = group_of_code[code_of]
    order = np.argsort(group_of, kind="stable")
    bounds = np.flatnonzero(np.diff(group_of[order])) + 1
    groups = [part for part in np.split(order, bounds) if len(part) > 1]
    if not groups:
        return []
    groups.sort(key=lambda part: part[0])
    everything = np.concatenate(groups)
    names, labels = iter(snapshot.ids_at(everything)), iter(snapshot.labels_at(everything))
    result = []
    for part in groups:
        distances = retrieval.hamming(codes[part[:1]], codes[part])[0]
        hits = [Hit(int(distance), next(names), next(labels)) for distance in distances]
        members = distinct[np.unique(code_of[part])]
        width = None
        if len(members) <= MOST_WIDTH:
            width = int(retrieval.hamming(members, members).max())
        result.append(Group(hits, width, {}))
    wide = snapshot.nbit + 1
    result.sort(key=lambda it: (wide if it.width is None else it.width, -len(it.hits)))
    return result


def _connected(codes: npt.NDArray[np.uint8], nbit: int, radius: int) -> npt.NDArray[np.int64]:
    """Return the number of the connected component of each code, (N,)."""
    count = len(codes)
    index = _index_of_places(codes, nbit)
    component = np.arange(count)
    starts, ends = [], []
    pending = 0
    with bar(f"comparing {count:,} different codes", count) as progress:
        for start in range(0, count, _QUERIES):
            block = codes[start : start + _QUERIES]
            within = index.range(block, radius)
            starts.append(start + np.repeat(np.arange(len(block)), np.diff(within.offsets)))
            ends.append(within.ids)
            pending += len(within.ids)
            if pending > _EDGES or start + _QUERIES >= count:
                # what was connected before is kept by an edge to its first code
                edges = np.concatenate([*starts, np.arange(count)])
                others = np.concatenate([*ends, _first_of_each(component)[component]])
                graph = csr_array((np.ones(len(edges), bool), (edges, others)), (count, count))
                component = connected_components(graph, directed=False)[1].astype(np.int64)
                starts, ends, pending = [], [], 0
            progress.advance(len(block))
    return component


def _first_of_each(component: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return the first row of each component, by its number."""
    return np.unique(component, return_index=True)[1]


def _copies_first(hits: Sequence[Hit], copies: Mapping[str, str]) -> list[Hit]:
    """Return files that are identical to others before the rest, each copy after its original."""
    originals = set(copies.values())
    place = {hit.id: at for at, hit in enumerate(hits)}

    def order(hit: Hit) -> tuple[bool, int, int]:
        original = copies.get(hit.id, hit.id)
        return original not in originals, place[original], place[hit.id]

    return sorted(hits, key=order)


def _identical_files(collection: Collection, hits: Sequence[Hit]) -> dict[str, str]:
    """Return the ids of files that are identical to an earlier one; files of other sizes differ."""
    by_size: dict[int, list[str]] = {}
    for hit in hits:
        file = collection.file(hit.id)
        if file is not None:
            try:
                by_size.setdefault(file.stat().st_size, []).append(hit.id)
            except OSError:  # removed meanwhile
                continue
    copies: dict[str, str] = {}
    for names in by_size.values():
        if len(names) < 2:
            continue
        first_of: dict[bytes, str] = {}
        for name in names:
            path = collection.file(name)
            assert path is not None
            try:
                with path.open("rb") as opened:
                    digest = hashlib.file_digest(opened, "sha256").digest()
            except OSError:
                continue
            original = first_of.setdefault(digest, name)
            if original != name:
                copies[name] = original
    return copies
