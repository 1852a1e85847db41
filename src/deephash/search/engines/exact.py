"""Exact search, which compares each query with all codes."""

import numpy as np
import numpy.typing as npt

from deephash import retrieval
from deephash.retrieval.codes import Array
from deephash.search.engines.store_engine import StoreEngine
from deephash.search.store import Snapshot
from deephash.search.store_files import Places


class ExactEngine(StoreEngine):
    """Search by ``deephash.retrieval.Index``, with numba where it is installed.

    Equal distances are in the order of addition.
    """

    name = "exact"

    @property
    def exact(self) -> bool:
        """True."""
        return True

    def _find(
        self, snapshot: Snapshot, codes: npt.NDArray[np.uint8], k: int
    ) -> tuple[Array, Places]:
        index = retrieval.Index.over(snapshot.codes, self.nbit, lambda places: places)
        return index.search(codes, k)
