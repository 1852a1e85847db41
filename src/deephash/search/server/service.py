"""What the server computes: the images near an uploaded one or one of the index, and pictures."""

import threading
import time
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from deephash import retrieval
from deephash.data.decoding import opened
from deephash.data.image_cache.builder import Unreadable
from deephash.errors import DataError, DeephashError
from deephash.search.collection import Item, label_names
from deephash.search.encode import preprocessing_of
from deephash.search.engines.base import SearchEngine
from deephash.search.engines.synchronise import search_by_engine, update_engine
from deephash.search.image_index import Answer, ImageIndex, search_codes
from deephash.search.page import thumbnail
from deephash.search.store import Snapshot
from deephash.search.store_files import Places

UPLOAD = Path("the image")
"""Name of an uploaded image in messages."""

SIDES = {"small": 256, "large": 1600}
"""Longest side of a picture in pixels."""

KEPT_PICTURES = 1 << 26
"""Bytes of small pictures that are kept in memory."""

SEED = 0
"""Of the images that are shown before the first search."""

PictureSize = Literal["small", "large"]


class UnknownImageError(DataError):
    """There is no image of an id."""


class EngineFailureError(DeephashError):
    """The search engine failed; the query is not the cause."""


@dataclass(frozen=True)
class Options:
    """How to search.

    Attributes:
        top: number of images.
        radius: largest distance; None for any.
        label: of the images to search; None for all.
    """

    top: int = 20
    radius: int | None = None
    label: str | None = None


@dataclass(frozen=True)
class SearchResult:
    """The result of a search.

    Attributes:
        answer: the images.
        searched: number of images that were searched.
        engine: name of the engine.
        values: the real-valued code of an uploaded image, (K,) float32; None for one of the index.
        labels: of the query, if it is in the index.
        encode_ms: time of decoding and encoding, in milliseconds.
        search_ms: time of the search, in milliseconds.
    """

    answer: Answer
    searched: int
    engine: str
    values: npt.NDArray[np.float32] | None
    labels: tuple[str, ...]
    encode_ms: float
    search_ms: float


class Service:
    """Search in an index of images. Methods may be called by several threads.

    Args:
        index: brought up to date before.
        max_pixels: limit on the size of an uploaded image.
        engine: has the items of the index. Searches within a radius or a class are exact, without
            it. None: all are.
    """

    def __init__(
        self, index: ImageIndex, max_pixels: int, engine: SearchEngine | None = None
    ) -> None:
        self.index = index
        self.engine = engine
        self._engine_lock = threading.Lock()
        self._engine_version = None if engine is None else index.snapshot().version
        self.max_pixels = max_pixels
        self._decoder = preprocessing_of(index.encoder).decoder
        self._collection = index.collection
        self._index_lock = threading.Lock()
        self._encoder_lock = threading.Lock()  # one forward pass at a time
        self._pictures: OrderedDict[str, bytes] = OrderedDict()
        self._pictures_lock = threading.Lock()
        self._pictures_size = 0

    def snapshot(self) -> Snapshot:
        """Return the present content of the index, including what other processes added."""
        with self._index_lock:
            return self.index.snapshot()

    def classes(self) -> list[str]:
        """Return the labels of the images, sorted."""
        return sorted(
            {name for label in self.snapshot().label_values for name in label_names(label)}
        )

    def search_upload(self, content: bytes, options: Options) -> SearchResult:
        """Search with an image.

        Args:
            content: of an image file.
            options: how to search.

        Raises:
            DataError: it is no image, or is damaged or too large.
        """
        start = time.perf_counter()
        if not content:
            raise DataError("The request is empty: send the bytes of an image file.")
        try:
            with opened(UPLOAD, content) as image:
                size = image.width * image.height
                if size > self.max_pixels:
                    raise DataError(
                        f"The image has {size:,} pixels; at most {self.max_pixels:,} are accepted."
                    )
                pixels = self._decoder.pixels(image, UPLOAD)
        except Unreadable as error:
            raise DataError(f"The image cannot be read: {error.cause}") from error
        with self._encoder_lock:
            values = self.index.encoder.codes_of_pixels(np.stack([pixels]))[0]
        encode_ms = 1000 * (time.perf_counter() - start)
        code = retrieval.pack(values[None] >= 0)[0]
        return self._search(self.snapshot(), code, options, values=values, encode_ms=encode_ms)

    def search_similar(self, name: str, options: Options) -> SearchResult:
        """Search with an image of the index, which is not among the results.

        Raises:
            UnknownImageError: it is not in the index.
        """
        snapshot = self.snapshot()
        place = int(snapshot.find([name])[0])
        if place < 0:
            raise UnknownImageError(f"There is no image {name!r} in the index.")
        labels = label_names(snapshot.labels_at(np.array([place]))[0])
        return self._search(snapshot, snapshot.codes[place], options, exclude=name, labels=labels)

    def _search(
        self,
        snapshot: Snapshot,
        code: npt.NDArray[np.uint8],
        options: Options,
        *,
        exclude: str | None = None,
        values: npt.NDArray[np.float32] | None = None,
        labels: tuple[str, ...] = (),
        encode_ms: float = 0.0,
    ) -> SearchResult:
        start = time.perf_counter()
        searched, engine = len(snapshot), "exact"
        if self.engine is not None and options.radius is None and options.label is None:
            engine = self.engine.name
            answer = self._search_by_engine(self.engine, snapshot, code, options.top, exclude)
        else:
            rows = None if options.label is None else _places_of(snapshot, options.label)
            searched = searched if rows is None else len(rows)
            [answer] = search_codes(
                snapshot, code[None], options.top, options.radius, [exclude], rows=rows
            )
        search_ms = 1000 * (time.perf_counter() - start)
        return SearchResult(answer, searched, engine, values, labels, encode_ms, search_ms)

    def _search_by_engine(
        self,
        engine: SearchEngine,
        snapshot: Snapshot,
        code: npt.NDArray[np.uint8],
        top: int,
        exclude: str | None,
    ) -> Answer:
        """Search with the engine, one query at a time, with the items that the index has now."""
        with self._engine_lock:
            try:
                if self._engine_version != snapshot.version:
                    update_engine(engine, snapshot)
                    self._engine_version = snapshot.version
                [answer], _ = search_by_engine(engine, snapshot, code[None], top, [exclude])
            except DataError as error:
                raise EngineFailureError(str(error)) from error
        return answer

    def sample(self, count: int, label: str | None) -> list[tuple[str, tuple[str, ...]]]:
        """Return the ids and labels of random images, the same on each call."""
        snapshot = self.snapshot()
        rows = np.arange(len(snapshot)) if label is None else _places_of(snapshot, label)
        if len(rows) > count:
            rows = np.sort(np.random.default_rng(SEED).choice(rows, count, replace=False))
        labels = map(label_names, snapshot.labels_at(rows))
        return list(zip(snapshot.ids_at(rows).tolist(), labels, strict=True))

    def picture(self, name: str, size: PictureSize) -> bytes:
        """Return an image of the index as a JPEG without its metadata.

        Raises:
            UnknownImageError: it is not in the index.
            DataError: the file cannot be read any more.
        """
        snapshot = self.snapshot()
        places = snapshot.find([name])
        if places[0] < 0:
            raise UnknownImageError(f"There is no image {name!r} in the index.")
        with self._pictures_lock:
            if size == "small" and name in self._pictures:
                self._pictures.move_to_end(name)
                return self._pictures[name]
        item = Item(name, snapshot.signatures_at(places)[0])
        picture = self._draw(item, SIDES[size])
        if size == "small":
            with self._pictures_lock:
                if name not in self._pictures:
                    self._pictures[name] = picture
                    self._pictures_size += len(picture)
                while self._pictures_size > KEPT_PICTURES:
                    self._pictures_size -= len(self._pictures.popitem(last=False)[1])
        return picture

    def _draw(self, item: Item, side: int) -> bytes:
        for read in self._collection.read([item]):
            if read.cause is None:
                return thumbnail(read.path, read.content, side)
        raise DataError(f"The image {item.id} cannot be read any more.")


def _places_of(snapshot: Snapshot, label: str) -> Places:
    """Return the places of the images that have a label, ascending."""
    labelled = [label in label_names(other) for other in snapshot.label_values]
    return np.flatnonzero(np.isin(snapshot.label_numbers, np.flatnonzero(labelled)))
