"""Base of the engines whose items are in a store of codes on this machine."""

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from deephash.errors import DataError
from deephash.retrieval.codes import Array, ArrayLike
from deephash.search.engines.base import Distances, SearchEngine
from deephash.search.store import CodeStore, Snapshot
from deephash.search.store_files import MANIFEST, Places


class StoreEngine(SearchEngine):
    """An engine that finds places in a store. The store alone keeps codes and ids.

    So items are permanent when ``add`` returns, whatever happens to the index of the engine.

    Args:
        nbit: K.
        folder: for files of the engine.
        store: is searched, and not changed; None for a store in the folder, which is created if it
            does not exist and locked for other writers.
    """

    def __init__(self, nbit: int, folder: Path, store: CodeStore | None = None) -> None:
        super().__init__(nbit, folder)
        self._owns = store is None
        self._store = _own_store(folder / "codes", nbit) if store is None else store
        if self._store.nbit != nbit:
            reason = f"{self._store.folder} holds codes of {self._store.nbit} bits, not of {nbit}"
            self.close()
            raise DataError(reason)

    def add(self, codes: ArrayLike, ids: Sequence[str]) -> None:
        self._check_own()
        self._store.add(codes, ids)

    def search(self, codes: ArrayLike, k: int) -> tuple[Distances, Array]:
        snapshot = self._store.snapshot()
        packed, k = self._queries(codes, k)
        k = min(k, len(snapshot))
        if not len(packed) or not k:
            return np.empty((len(packed), k), np.int16), np.empty((len(packed), k), object)
        distances, places = self._find(snapshot, packed, k)
        filled = places >= 0
        ids = np.full(places.shape, None, dtype=object)
        ids[filled] = snapshot.ids_at(places[filled])
        return np.where(filled, distances, -1).astype(np.int16), ids

    def remove(self, ids: Sequence[str]) -> int:
        self._check_own()
        return self._store.remove(ids)

    def count(self) -> int:
        return len(self._store)

    def save(self) -> None: ...

    def close(self) -> None:
        if self._owns:
            self._store.close()

    @abstractmethod
    def _find(
        self, snapshot: Snapshot, codes: npt.NDArray[np.uint8], k: int
    ) -> tuple[Array, Places]:
        """Return distances and places (Q, k), nearest first; the place -1 is none."""

    def _check_own(self) -> None:
        if not self._owns:
            raise DataError(f"{self._store.folder} is changed by its owner, not by this engine")


def _own_store(folder: Path, nbit: int) -> CodeStore:
    if (folder / MANIFEST).is_file():
        return CodeStore.open(folder, write=True)
    return CodeStore.create(folder, nbit, {})
