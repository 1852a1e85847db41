"""Engines that use FAISS, https://github.com/facebookresearch/faiss."""

import contextlib
import json
import math
from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt

from deephash.errors import DeephashError
from deephash.retrieval.codes import Array, as_words
from deephash.search.engines.base import probed_lists
from deephash.search.engines.store_engine import StoreEngine
from deephash.search.store import CodeStore, Snapshot, StoreVersion
from deephash.search.store_files import Places
from deephash.utils.bounds import Count, CountOrZero, Interval
from deephash.utils.extras import import_extra
from deephash.utils.files import make_folder, read_json, write_atomic, write_json

STATE = "index.json"
"""The file that names the saved index and the version of the store that it was built from."""

RETRAIN = 4
"""Growth of a store after which the lists of an inverted file are trained again."""

_SAMPLE = 64  # codes per list that lists are trained with
_ITERATIONS = 10  # of k-means
_FORMAT = 1


class FaissEngine(StoreEngine):
    """Base of the engines of FAISS. The index holds places of the store, and is built from it.

    After additions the index is extended; after removals it is built again. Codes of K bits are
    padded with zeros to a multiple of 8, which changes no distance.
    """

    def __init__(self, nbit: int, folder: Path, store: CodeStore | None = None) -> None:
        self._faiss = _faiss(self.name)
        super().__init__(nbit, folder, store)
        self._index: Any = None
        self._version: StoreVersion | None = None
        self._trained = 0  # number of items when the index was built
        self._saved: StoreVersion | None = None
        with contextlib.suppress(DeephashError):  # built again
            self._load()

    @classmethod
    def require(cls, options: Mapping[str, Any]) -> None:
        _faiss(cls.name)

    def save(self) -> None:
        snapshot = self._store.snapshot()
        self._refresh(snapshot)
        if self._version == self._saved:
            return
        assert self._version is not None
        make_folder(self.folder)
        file = f"index-{self._version.generation}-{self._version.commit}.faiss"
        write_atomic(
            self.folder / file, lambda path: self._faiss.write_index_binary(self._index, str(path))
        )
        state = {
            "version": _FORMAT,
            "file": file,
            "engine": self.name,
            "nbit": self.nbit,
            "options": self._structure(),
            "trained": self._trained,
            "store": list(self._version),
        }
        write_json(self.folder / STATE, state)
        self._saved = self._version
        for path in self.folder.glob("index-*.faiss"):
            if path.name != file:
                with contextlib.suppress(OSError):
                    path.unlink()

    @property
    def size(self) -> int:
        """Bytes of the index as it is saved, without ids."""
        self._refresh(self._store.snapshot())
        return int(self._faiss.serialize_index_binary(self._index).nbytes)

    def _find(
        self, snapshot: Snapshot, codes: npt.NDArray[np.uint8], k: int
    ) -> tuple[Array, Places]:
        self._refresh(snapshot)
        return self._query(codes, k)

    def _query(self, codes: npt.NDArray[np.uint8], k: int) -> tuple[Array, Places]:
        """Search the current index."""
        self._tune(k)
        distances, places = self._index.search(np.ascontiguousarray(codes), k)
        return distances, places

    @abstractmethod
    def _build(self, codes: npt.NDArray[np.uint8]) -> Any:
        """Return an index of codes (N, B)."""

    def _extend(self, codes: npt.NDArray[np.uint8]) -> None:
        """Add codes to the index."""
        self._index.add(np.ascontiguousarray(codes))

    def _tune(self, k: int) -> None:
        """Set the effort of a search for k results."""

    def _structure(self) -> dict[str, Any]:
        """Return the options that the structure of the index depends on."""
        return {}

    def _loaded(self, snapshot: Snapshot) -> None:
        """Prepare an index that was read from its file."""

    def _refresh(self, snapshot: Snapshot) -> None:
        """Bring the index up to date with the store."""
        if self._version == snapshot.version:
            return
        changes = None if self._version is None else snapshot.changes_since(self._version)
        if changes is not None and changes.appended and len(snapshot) <= RETRAIN * self._trained:
            self._extend(snapshot.codes[len(snapshot) - len(changes.added) :])
        else:
            self._index = self._build(np.ascontiguousarray(snapshot.codes))
            self._trained = len(snapshot)
        self._version = snapshot.version

    def _load(self) -> None:
        """Read the index that was saved, if it was built from an earlier version of the store."""
        if not (self.folder / STATE).is_file():
            return
        state = read_json(self.folder / STATE, "state of a search engine", kind=dict)
        try:
            version = StoreVersion.of(state["store"])
            path = self.folder / Path(state["file"]).name
            known = (state["version"], state["engine"], state["nbit"], state["options"])
            trained = int(state["trained"])
        except (KeyError, TypeError, ValueError):
            return
        options = json.loads(json.dumps(self._structure()))
        snapshot = self._store.snapshot()
        if known != (_FORMAT, self.name, self.nbit, options) or not path.is_file():
            return
        changes = snapshot.changes_since(version)
        if changes is None or not changes.appended:
            return
        try:
            index = self._faiss.read_index_binary(str(path))
        except RuntimeError:  # damaged
            return
        self._index, self._trained = index, trained
        self._version = self._saved = version
        self._loaded(snapshot)


def _faiss(name: str) -> Any:
    """Import FAISS for the engine of a name."""
    return import_extra("faiss", f"engine={name}", "search with engine=exact")


class FaissFlatEngine(FaissEngine):
    """Exact search by ``IndexBinaryFlat``."""

    name = "faiss_flat"

    @property
    def exact(self) -> bool:
        """True."""
        return True

    def _build(self, codes: npt.NDArray[np.uint8]) -> Any:
        index = self._faiss.IndexBinaryFlat(8 * codes.shape[1])
        index.use_heap = False  # a counting sort
        index.add(codes)
        return index


class FaissIvfEngine(FaissEngine):
    """Approximate search by ``IndexBinaryIVF``: the codes of the nearest of many lists.

    Args:
        nbit: K.
        folder: for files of the engine.
        store: see ``StoreEngine``.
        lists: number of lists; None for the square root of the number of items.
        probes: lists that are searched; None for the square root of their number, at least 8.
    """

    name = "faiss_ivf"

    def __init__(
        self,
        nbit: int,
        folder: Path,
        store: CodeStore | None = None,
        lists: Count | None = None,
        probes: Count | None = None,
    ) -> None:
        self.lists, self.probes = lists, probes
        super().__init__(nbit, folder, store)

    @property
    def exact(self) -> bool:
        """Whether all lists are searched."""
        return self._index is not None and self._probes() >= self._index.nlist

    def _probes(self) -> int:
        return probed_lists(self._index.nlist, self.probes)

    def _structure(self) -> dict[str, Any]:
        return {"lists": self.lists}

    def _tune(self, k: int) -> None:
        self._index.nprobe = self._probes()

    def _build(self, codes: npt.NDArray[np.uint8]) -> Any:
        count, bits = len(codes), 8 * codes.shape[1]
        lists = max(1, min(self.lists or math.isqrt(count), count))
        quantizer = self._faiss.IndexBinaryFlat(bits)
        index = self._faiss.IndexBinaryIVF(quantizer, bits, lists)
        index.own_fields = True
        quantizer.this.disown()
        index.cp.niter = _ITERATIONS
        index.cp.min_points_per_centroid = 1  # no warning about few items
        sample = codes
        if count > _SAMPLE * lists:
            rows = np.random.default_rng(0).choice(count, _SAMPLE * lists, replace=False)
            sample = codes[np.sort(rows)]
        if count:
            index.train(sample)
            index.add(codes)
        return index


class FaissMultiHashEngine(FaissEngine):
    """Approximate search by ``IndexBinaryMultiHash``: a hash table for each piece of the code.

    The pieces cover the code: K / ``bits`` of them. With T tables and F ``flips``, all codes
    within T (F + 1) - 1 bits are found, because in one piece at most F bits differ. Of farther
    codes some are missed, so a query may get fewer than k results.
    Source: Norouzi, Punjani, Fleet, Fast Search in Hamming Space with Multi-Index Hashing,
    CVPR 2012; its b = log2 N is the default.

    Args:
        nbit: K.
        folder: for files of the engine.
        store: see ``StoreEngine``.
        bits: of a piece; None for the logarithm of the number of items, 8 to 24.
        flips: bits of a piece that may differ.
    """

    name = "faiss_multihash"

    def __init__(
        self,
        nbit: int,
        folder: Path,
        store: CodeStore | None = None,
        bits: Annotated[int, Interval(1, 32)] | None = None,
        flips: CountOrZero = 2,
    ) -> None:
        self.bits, self.flips = bits, flips
        super().__init__(nbit, folder, store)

    def _structure(self) -> dict[str, Any]:
        return {"bits": self.bits}

    def _tune(self, k: int) -> None:
        self._index.nflip = min(self.flips, self._index.b)

    def _build(self, codes: npt.NDArray[np.uint8]) -> Any:
        total = 8 * codes.shape[1]
        bits = self.bits or min(24, max(8, round(math.log2(max(1, len(codes))))))
        tables = max(1, self.nbit // bits)
        index = self._faiss.IndexBinaryMultiHash(total, tables, min(bits, total))
        index.add(codes)
        return index


class FaissHnswEngine(FaissEngine):
    """Approximate search in a graph (HNSW) of the distinct codes, each with a list of its items.

    A graph of all items fails for learned codes: the neighbours of a code in the graph are its
    duplicates, and the search does not leave them.

    Args:
        nbit: K.
        folder: for files of the engine.
        store: see ``StoreEngine``.
        links: of each code in the graph.
        effort: candidates that a search keeps (``efSearch``), at least k.
        build_effort: candidates when a code is added (``efConstruction``).
    """

    name = "faiss_hnsw"

    def __init__(
        self,
        nbit: int,
        folder: Path,
        store: CodeStore | None = None,
        links: Annotated[int, Interval(2, 512)] = 32,
        effort: Count = 64,
        build_effort: Count = 80,
    ) -> None:
        self.links, self.effort, self.build_effort = links, effort, build_effort
        self._order: Places = np.empty(0, dtype=np.int64)  # places, by distinct code
        self._starts: Places = np.zeros(1, dtype=np.int64)  # of each distinct code in it
        super().__init__(nbit, folder, store)

    def _structure(self) -> dict[str, Any]:
        return {"links": self.links, "build_effort": self.build_effort}

    def _tune(self, k: int) -> None:
        self._index.hnsw.efSearch = max(self.effort, k)

    def _build(self, codes: npt.NDArray[np.uint8]) -> Any:
        index = self._faiss.IndexBinaryHNSW(8 * codes.shape[1], self.links)
        index.hnsw.efConstruction = self.build_effort
        index.add(self._group(codes))
        return index

    def _extend(self, codes: npt.NDArray[np.uint8]) -> None:
        everything = np.ascontiguousarray(self._store.snapshot().codes)
        self._index = self._build(everything)
        self._trained = len(everything)

    def _loaded(self, snapshot: Snapshot) -> None:
        if self._version != snapshot.version:
            self._index = self._version = None
            return
        if len(self._group(np.ascontiguousarray(snapshot.codes))) != self._index.ntotal:
            self._index = self._version = None

    def _group(self, codes: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """Attach the items to distinct codes, and return these, sorted."""
        order = np.lexsort(as_words(codes))
        new = np.ones(len(codes), dtype=bool)
        new[1:] = (codes[order[1:]] != codes[order[:-1]]).any(axis=1)
        starts = np.flatnonzero(new)
        self._order, self._starts = order, np.append(starts, len(codes))
        return codes[order[starts]]

    def _query(self, codes: npt.NDArray[np.uint8], k: int) -> tuple[Array, Places]:
        distinct = min(k, self._index.ntotal)
        self._tune(distinct)
        near, numbers = self._index.search(np.ascontiguousarray(codes), distinct)
        distances = np.full((len(codes), k), -1, dtype=np.int64)
        places = np.full((len(codes), k), -1, dtype=np.int64)
        for row in range(len(codes)):
            some = numbers[row][numbers[row] >= 0]
            sizes = self._starts[some + 1] - self._starts[some]
            needed = int(np.searchsorted(np.cumsum(sizes), k)) + 1
            some, sizes = some[:needed], sizes[:needed]
            parts = [self._order[self._starts[one] : self._starts[one + 1]] for one in some]
            if not parts:
                continue
            items = np.concatenate(parts)[:k]
            places[row, : len(items)] = items
            distances[row, : len(items)] = np.repeat(near[row][: len(sizes)], sizes)[:k]
        return distances, places
