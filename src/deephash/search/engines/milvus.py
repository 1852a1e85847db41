"""The engine that searches in Milvus, https://milvus.io: on a cluster, or in a local file."""

import contextlib
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from deephash.errors import DataError
from deephash.retrieval.codes import Array, ArrayLike
from deephash.search.engines.base import (
    Distances,
    SearchEngine,
    check_items,
    empty_results,
    probed_lists,
    table_name,
)
from deephash.utils.bounds import Count
from deephash.utils.extras import import_extra
from deephash.utils.files import make_folder

MOST_RESULTS = 16_384
"""The largest k of Milvus."""

_BATCH = 10_000  # items of one request
_ID_BYTES = 65_535  # the longest VARCHAR
_RESULTS = 1 << 16  # results of one request


class MilvusEngine(SearchEngine):
    """Codes in a collection of Milvus, with the fields ``id`` and ``code`` (BINARY_VECTOR).

    A cluster searches with an index of the kind BIN_IVF_FLAT. ``milvus-lite``, which keeps the
    collection in a file, has BIN_FLAT alone, an exact search; from version 3 on it has no binary
    vectors. Codes of K bits are padded with zeros to a multiple of 8, which changes no distance.

    Args:
        nbit: K.
        folder: the name of the collection is derived from it.
        uri: of the cluster, such as ``http://host:19530``; None for ``milvus.db`` in the folder,
            which ``milvus-lite`` opens.
        token: of the cluster, ``user:password`` or a key; empty for none.
        collection: its name; None for one derived from the folder.
        lists: number of lists; None for four times the square root of N, as Milvus advises.
        probes: lists that are searched; None for the square root of their number, at least 8.
    """

    name = "milvus"

    def __init__(
        self,
        nbit: int,
        folder: Path,
        uri: str | None = None,
        token: str = "",
        collection: str | None = None,
        lists: Count | None = None,
        probes: Count | None = None,
    ) -> None:
        super().__init__(nbit, folder)
        self.lists, self.probes = lists, probes
        self.collection = table_name(folder) if collection is None else collection
        self.local = _is_file(uri)
        self._driver = _driver(self.local)
        self.uri = str(make_folder(folder) / "milvus.db") if uri is None else uri
        with _requests(self._driver, f"cannot open {self.uri}"):
            self._client = self._driver.MilvusClient(uri=self.uri, token=token)
        try:
            self._prepare()
        except BaseException:
            self.close()
            raise

    @classmethod
    def require(cls, options: Mapping[str, Any]) -> None:
        uri = options.get("uri")
        driver = _driver(_is_file(uri))
        if uri is not None and not _is_file(uri):
            with _requests(driver, f"cannot open {uri}"):
                driver.MilvusClient(uri=uri, token=options.get("token", "")).close()

    @property
    def exact(self) -> bool:
        """Whether there is no index with lists."""
        return self.local

    @property
    def location(self) -> str:
        return f"{self.uri}/{self.collection}"

    def add(self, codes: ArrayLike, ids: Sequence[str]) -> None:
        packed, names = check_items(codes, ids, self.nbit)
        if any(len(name.encode()) > _ID_BYTES for name in names):
            raise DataError(f"engine=milvus: an id is longer than {_ID_BYTES:,} bytes")
        with self._requests():
            for start in range(0, len(names), _BATCH):
                part = slice(start, start + _BATCH)
                rows = [
                    {"id": name, "code": code.tobytes()}
                    for name, code in zip(names[part], packed[part], strict=True)
                ]
                self._client.upsert(self.collection, rows)

    def search(self, codes: ArrayLike, k: int) -> tuple[Distances, Array]:
        packed, k = self._queries(codes, k)
        if k > MOST_RESULTS:
            raise DataError(f"engine=milvus finds at most {MOST_RESULTS:,} items, not {k:,}")
        distances, ids = empty_results(len(packed), k)
        if not k:
            return distances, ids
        parameters = {"metric_type": "HAMMING", "params": self._effort()}
        step = max(1, _RESULTS // k)
        with self._requests():
            for start in range(0, len(packed), step):
                results = self._client.search(
                    self.collection,
                    data=[code.tobytes() for code in packed[start : start + step]],
                    anns_field="code",
                    limit=k,
                    search_params=parameters,
                    output_fields=["id"],
                )
                for row, hits in enumerate(results, start):
                    for column, hit in enumerate(hits):
                        distances[row, column] = round(hit["distance"])
                        ids[row, column] = hit["entity"]["id"]
        return distances, ids

    def remove(self, ids: Sequence[str]) -> int:
        names, removed = list(dict.fromkeys(ids)), 0
        with self._requests():
            for start in range(0, len(names), _BATCH):
                part = names[start : start + _BATCH]
                # the answer to a deletion does not count them on a cluster
                known = self._client.get(self.collection, ids=part, output_fields=["id"])
                if known:
                    self._client.delete(self.collection, ids=[one["id"] for one in known])
                removed += len(known)
        return removed

    def count(self) -> int:
        with self._requests():
            [row] = self._client.query(
                self.collection, filter="", output_fields=["count(*)"], consistency_level="Strong"
            )
        return int(row["count(*)"])

    def save(self) -> None:
        """Write what is in memory, and on a cluster make the index again if it does not fit."""
        with self._requests():
            self._client.flush(self.collection)
        if not self.local and self._lists() != self._index_lists():
            with self._requests():
                self._client.release_collection(self.collection)
                self._client.drop_index(self.collection, "code")
                self._make_index()
                self._client.load_collection(self.collection)

    def clear(self) -> None:
        with self._requests():
            self._client.drop_collection(self.collection)
        self._prepare()

    def close(self) -> None:
        self._client.close()

    def _prepare(self) -> None:
        """Create the collection, or check that it holds such codes."""
        types, bits = self._driver.DataType, 8 * -(-self.nbit // 8)
        with self._requests():
            exists = self._client.has_collection(self.collection)
            if not exists:
                fields = self._client.create_schema(auto_id=False, enable_dynamic_field=False)
                fields.add_field("id", types.VARCHAR, is_primary=True, max_length=_ID_BYTES)
                fields.add_field("code", types.BINARY_VECTOR, dim=bits)
                self._client.create_collection(
                    self.collection, schema=fields, consistency_level="Strong"
                )
                self._make_index(lists=1024)
            described = self._client.describe_collection(self.collection)
            sizes = [one.get("params", {}).get("dim") for one in described["fields"]]
            if bits not in [int(size) for size in sizes if size is not None]:
                raise DataError(
                    f"the collection {self.collection} does not hold codes of {self.nbit} bits\n"
                    "  Give another one: engine.collection=NAME"
                )
            self._client.load_collection(self.collection)

    def _make_index(self, lists: int | None = None) -> None:
        index = self._client.prepare_index_params()
        index.add_index("code", **index_options(self.local, lists or self._lists()))
        self._client.create_index(self.collection, index)

    def _lists(self) -> int:
        """Return the number of lists that fits the number of items, in powers of two."""
        if self.lists is not None:
            return self.lists
        wanted = 4 * math.sqrt(max(1, self.count()))
        return min(65_536, max(128, 1 << round(math.log2(wanted))))

    def _index_lists(self) -> int:
        with self._requests():
            described = self._client.describe_index(self.collection, "code")
        return int(described.get("nlist", 0))

    def _effort(self) -> dict[str, int]:
        """Return the parameters of a search."""
        if self.local:
            return {}
        return {"nprobe": probed_lists(self._index_lists(), self.probes)}

    def _requests(self) -> contextlib.AbstractContextManager[None]:
        """Turn the errors of the client into DataError."""
        return _requests(self._driver, f"collection {self.collection}")


def _is_file(uri: str | None) -> bool:
    """Return whether the collection is in a local file, which ``milvus-lite`` opens."""
    return uri is None or not uri.startswith(("http://", "https://", "tcp://"))


def _driver(local: bool) -> Any:
    """Import the packages, those of a cluster or also those of a local file."""
    needed_by, otherwise = "engine=milvus", "search with engine=exact"
    if local:  # its server answers the pings of an idle connection with errors, which are logged
        os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    driver = import_extra("pymilvus", needed_by, otherwise)
    if local:
        import_extra("milvus_lite", f"{needed_by} without engine.uri", otherwise)
    return driver


@contextlib.contextmanager
def _requests(driver: Any, where: str) -> Iterator[None]:
    """Turn the errors of the client into DataError."""
    try:
        yield
    except driver.MilvusException as error:
        raise DataError(f"engine=milvus, {where}: {error.message or error}") from error


def index_options(local: bool, lists: int) -> dict[str, Any]:
    """Return the description of the index, as ``IndexParams.add_index`` takes it.

    Example:
        >>> index_options(local=True, lists=128)
        {'index_type': 'BIN_FLAT', 'metric_type': 'HAMMING'}
        >>> index_options(local=False, lists=128)["params"]
        {'nlist': 128}
    """
    if local:
        return {"index_type": "BIN_FLAT", "metric_type": "HAMMING"}
    return {"index_type": "BIN_IVF_FLAT", "metric_type": "HAMMING", "params": {"nlist": lists}}
