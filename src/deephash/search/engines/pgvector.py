"""The engine that searches in PostgreSQL, with pgvector: https://github.com/pgvector/pgvector."""

import contextlib
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from deephash.errors import ConfigError, DataError
from deephash.retrieval.codes import Array, ArrayLike, bit_text
from deephash.search.engines.base import (
    Distances,
    SearchEngine,
    check_items,
    empty_results,
    probed_lists,
    table_name,
)
from deephash.utils.bounds import Count, CountOrZero
from deephash.utils.extras import import_extra
from deephash.utils.formatting import first_line

OLDEST = (0, 7)
"""The first pgvector with an index for bits."""

MOST_BITS = 64_000
"""The longest code that ``ivfflat`` takes."""

REBUILD = 2
"""Growth of a table after which the lists are made again."""

_TABLE = r"[a-z_][a-z0-9_]{0,50}"
_BATCH = 20_000  # ids of one statement


class PgvectorEngine(SearchEngine):
    """Codes in a table of PostgreSQL, with the columns ``id text`` and ``code bit(K)``.

    ``save`` builds an index of the kind ``ivfflat``. With pgvector 0.8 or later a query goes on to
    further lists until it has k results.

    Args:
        nbit: K.
        folder: the name of the table is derived from it.
        dsn: how to connect, such as ``postgresql://user@host/database``; empty for the variables
            ``PGHOST``, ``PGUSER`` and so on. Give passwords in ``~/.pgpass`` or ``PGPASSWORD``.
        table: its name; None for one derived from the folder.
        lists: number of lists; None for N / 1000, from a million items on the square root of N;
            0 for no index, so that the search is exact.
        probes: lists that are searched; None for the square root of their number, at least 8.
    """

    name = "pgvector"

    def __init__(
        self,
        nbit: int,
        folder: Path,
        dsn: str = "",
        table: str | None = None,
        lists: CountOrZero | None = None,
        probes: Count | None = None,
    ) -> None:
        super().__init__(nbit, folder)
        if nbit > MOST_BITS and lists != 0:
            raise ConfigError(
                f"engine  the index of pgvector takes at most {MOST_BITS:,} bits, and the codes"
                f" have {nbit:,}. Type engine.lists=0 to search without it."
            )
        _check_table(table)
        self.lists, self.probes = lists, probes
        self.table = table_name(folder) if table is None else table
        self._driver, self._connection = _connect(dsn)
        try:
            self._prepare()
        except BaseException:
            self.close()
            raise

    @classmethod
    def require(cls, options: Mapping[str, Any]) -> None:
        _check_table(options.get("table"))
        _, connection = _connect(options.get("dsn", ""))
        connection.close()

    @property
    def exact(self) -> bool:
        """Whether there is no index, or all its lists are searched."""
        lists = self._index_lists()
        return lists == 0 or probed_lists(lists, self.probes) >= lists

    @property
    def location(self) -> str:
        info = self._connection.info
        return f"{info.host}:{info.port}/{info.dbname}/{self.table}"

    def add(self, codes: ArrayLike, ids: Sequence[str]) -> None:
        packed, names = check_items(codes, ids, self.nbit)
        with self._transaction() as cursor:
            cursor.execute(
                f"CREATE TEMP TABLE added (id text, code bit({self.nbit})) ON COMMIT DROP"
            )
            with cursor.copy("COPY added FROM STDIN") as copy:
                for name, code in zip(names, packed, strict=True):
                    copy.write_row((name, bit_text(code, self.nbit)))
            cursor.execute(
                f"INSERT INTO {self.table} SELECT id, code FROM added"
                " ON CONFLICT (id) DO UPDATE SET code = EXCLUDED.code"
            )

    def search(self, codes: ArrayLike, k: int) -> tuple[Distances, Array]:
        packed, k = self._queries(codes, k)
        distances, ids = empty_results(len(packed), k)
        if not k:
            return distances, ids
        distance = f"code <~> %s::bit({self.nbit})"
        query = f"SELECT id, {distance} FROM {self.table} ORDER BY {distance} LIMIT {k}"
        lists = self._index_lists()
        with self._transaction() as cursor:
            if lists:
                cursor.execute(f"SET LOCAL ivfflat.probes = {probed_lists(lists, self.probes)}")
                if self._version >= (0, 8):
                    cursor.execute("SET LOCAL ivfflat.iterative_scan = relaxed_order")
            for row, code in enumerate(packed):
                text = bit_text(code, self.nbit)
                results = cursor.execute(query, (text, text)).fetchall()
                results.sort(key=lambda one: one[1])  # a relaxed order is nearly sorted
                for column, (name, value) in enumerate(results):
                    distances[row, column], ids[row, column] = int(value), name
        return distances, ids

    def remove(self, ids: Sequence[str]) -> int:
        names, removed = list(ids), 0
        with self._transaction() as cursor:
            for start in range(0, len(names), _BATCH):
                cursor.execute(
                    f"DELETE FROM {self.table} WHERE id = ANY(%s)", (names[start : start + _BATCH],)
                )
                removed += cursor.rowcount
        return removed

    def count(self) -> int:
        with self._transaction() as cursor:
            (number,) = cursor.execute(f"SELECT count(*) FROM {self.table}").fetchone()
        return int(number)

    def save(self) -> None:
        """Build the index, if there is none or the table has grown since."""
        count = self.count()
        lists = self.lists
        if lists is None:
            lists = max(1, count // 1000 if count <= 1_000_000 else math.isqrt(count))
        built, known = self._index_facts()
        fits = known == lists or (self.lists is None and known and count <= REBUILD * built)
        with self._transaction() as cursor:
            if not lists or not count or not fits:
                cursor.execute(f"DROP INDEX IF EXISTS {self._index}")
            if lists and count and not fits:
                cursor.execute(
                    f"CREATE INDEX {self._index} ON {self.table}"
                    f" USING ivfflat (code bit_hamming_ops) WITH (lists = {min(lists, 32_768)})"
                )
                cursor.execute(f"COMMENT ON INDEX {self._index} IS '{count} {lists}'")
            cursor.execute(f"ANALYZE {self.table}")

    def clear(self) -> None:
        with self._transaction() as cursor:
            cursor.execute(f"DROP INDEX IF EXISTS {self._index}")
            cursor.execute(f"TRUNCATE {self.table}")

    def close(self) -> None:
        self._connection.close()

    @property
    def _index(self) -> str:
        """The name of the index."""
        return f"{self.table}_ivfflat"

    def _prepare(self) -> None:
        """Check the extension, and create the table."""
        with self._transaction() as cursor:
            try:
                cursor.execute("CREATE EXTENSION IF NOT EXISTS vector")
            except self._driver.Error as error:
                raise DataError(
                    f"engine=pgvector: {first_line(error)}\n  Install pgvector"
                    " on the server, and let its administrator run: CREATE EXTENSION vector"
                ) from error
            query = "SELECT extversion FROM pg_extension WHERE extname = 'vector'"
            (version,) = cursor.execute(query).fetchone()
            self._version = tuple(int(part) for part in version.split(".")[:2])
            if self._version < OLDEST:
                raise DataError(
                    f"engine=pgvector needs pgvector 0.7 or later, and the server has {version}.\n"
                    "  Let its administrator update it, and run: ALTER EXTENSION vector UPDATE"
                )
            cursor.execute(
                f"CREATE TABLE IF NOT EXISTS {self.table}"
                f" (id text PRIMARY KEY, code bit({self.nbit}) NOT NULL)"
            )
            query = (
                "SELECT format_type(atttypid, atttypmod) FROM pg_attribute"
                " WHERE attrelid = to_regclass(%s) AND attname = 'code'"
            )
            kind = cursor.execute(query, (self.table,)).fetchone()
            if kind != (f"bit({self.nbit})",):
                raise DataError(
                    f"the table {self.table} has codes of the type {kind and kind[0]}, not"
                    f" bit({self.nbit})\n  Give another one: engine.table=NAME"
                )

    def _index_facts(self) -> tuple[int, int]:
        """Return the items of the table and the lists when the index was built, or zeros."""
        with self._transaction() as cursor:
            query = "SELECT obj_description(to_regclass(%s), 'pg_class')"
            (text,) = cursor.execute(query, (self._index,)).fetchone()
        numbers = re.fullmatch(r"(\d+) (\d+)", text or "")
        return (int(numbers[1]), int(numbers[2])) if numbers else (0, 0)

    def _index_lists(self) -> int:
        return self._index_facts()[1]

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[Any]:
        """Give a cursor within a transaction.

        Raises:
            DataError: the server refuses a statement, or the connection is lost.
        """
        try:
            with self._connection.transaction(), self._connection.cursor() as cursor:
                yield cursor
        except self._driver.Error as error:
            raise DataError(f"engine=pgvector, table {self.table}: {first_line(error)}") from error


def _check_table(table: str | None) -> None:
    """Raise ConfigError for the name of a table that would have to be quoted."""
    if table is not None and not re.fullmatch(_TABLE, table):
        raise ConfigError(f"engine.table  {table!r}: use small letters, digits and _.")


def _connect(dsn: str) -> tuple[Any, Any]:
    """Return the driver and a connection.

    Raises:
        ConfigError: the driver is not installed.
        DataError: the server does not answer, or refuses the user.
    """
    driver = import_extra("psycopg", "engine=pgvector", "search with engine=exact")
    try:
        return driver, driver.connect(dsn, autocommit=True)
    except driver.Error as error:
        raise DataError(
            f"engine=pgvector cannot connect to PostgreSQL: {first_line(error)}\n"
            "  Give the database: engine.dsn=postgresql://USER@HOST/DATABASE"
        ) from error
