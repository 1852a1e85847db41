"""Compare search engines on clustered and on learned codes: recall, queries a second, memory.

Recall is tie-aware: a result counts if it is not farther than the k-th nearest item. Each engine
runs in a process of its own, over one store of the codes, and is measured with several settings of
its effort; queries are searched as one batch. ``graph of all items`` is not an engine of deephash:
it is FAISS's HNSW without grouping equal codes, the usual way to use it.

Codes: ``--codes`` reads ``codes.npz`` of runs, whose queries are the queries; with ``--items``,
items are repeated up to that number, each bit flipped with ``--noise``. Without files, codes are
drawn around ten centers, each bit flipped with a probability of 0.005, 0.02 and 0.12.
"""

import argparse
import contextlib
import importlib
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import harness
import numpy as np
import yaml
from harness import Report, Series, Stopwatch, Values, figure, memory

from deephash import retrieval
from deephash.report.figures import style
from deephash.retrieval.codes import Array, as_words
from deephash.search.engines.base import SearchEngine, tie_aware_recall
from deephash.search.store import CodeStore

CENTERS = 10
FLIPS = (0.005, 0.02, 0.12)
GRAPH = "graph of all items"
BLOCK = 1 << 18  # codes drawn or stored at once


@dataclass(frozen=True)
class Contender:
    """An engine, its options, and the settings of its effort."""

    file: str  # in conf/engine; empty for GRAPH
    settings: Sequence[Mapping[str, Any]] = ({},)
    needs: tuple[str, ...] = ()


CONTENDERS = {
    "exact": Contender("exact"),
    "faiss_flat": Contender("faiss_flat", needs=("faiss",)),
    "faiss_ivf": Contender(
        "faiss_ivf", [{"probes": probes} for probes in (1, 4, 16, 64)], ("faiss",)
    ),
    "faiss_multihash": Contender(
        "faiss_multihash", [{"flips": flips} for flips in (0, 1, 2)], ("faiss",)
    ),
    "faiss_hnsw": Contender(
        "faiss_hnsw", [{"effort": effort} for effort in (16, 64, 256)], ("faiss",)
    ),
    GRAPH: Contender("", [{"effort": effort} for effort in (16, 64, 512)], ("faiss",)),
    "pgvector": Contender("pgvector", [{"probes": probes} for probes in (2, 8, 32)], ("psycopg",)),
    "milvus": Contender("milvus", needs=("pymilvus", "milvus_lite")),
}
SERVERS = ("pgvector", "milvus")


# Codes


@dataclass(frozen=True)
class Codes:
    """The items and queries of a comparison."""

    name: str
    database: Array  # (N, K / 8) uint8
    queries: Array  # (Q, K / 8) uint8
    nbit: int

    @property
    def distinct(self) -> int:
        """The number of different items."""
        words = as_words(self.database)
        words = words[:, np.lexsort(words)]
        return 1 + int((words[:, 1:] != words[:, :-1]).any(axis=0).sum())

    def __str__(self) -> str:
        size = len(self.database)
        return f"{self.name}: {size:,} items, {self.distinct:,} distinct codes"


def drawn(items: int, queries: int, nbit: int, flip: float, seed: int) -> Codes:
    """Draw codes around random centers."""
    rng = np.random.default_rng(seed)
    centers = rng.random((CENTERS, nbit)) < 0.5
    sides = []
    for size in (items, queries):
        parts = []
        for start in range(0, size, BLOCK):
            bits = centers[rng.integers(CENTERS, size=min(BLOCK, size - start))]
            flipped = rng.random(bits.shape, dtype=np.float32) < flip
            parts.append(np.packbits(bits ^ flipped, axis=1))
        sides.append(np.concatenate(parts))
    return Codes(f"{CENTERS} centers, {nbit} bits, flip {flip:g}", *sides, nbit)


def learned(path: Path, items: int | None, queries: int, noise: float, seed: int) -> Codes:
    """Read the codes of a run; repeat its items, with noise, up to a number."""
    path = path / "codes.npz" if path.is_dir() else path
    with np.load(path) as arrays:
        nbit = int(arrays["nbit"])
        database, query = arrays["database_codes"], arrays["query_codes"][:queries]
    name = f"{path.parent.parent.parent.name}, {nbit} bits"
    if items is not None and items > len(database):
        rng = np.random.default_rng(seed)
        parts = [database]
        for start in range(len(database), items, len(database)):
            bits = np.unpackbits(database[: items - start], axis=1, count=nbit)
            flipped = rng.random(bits.shape, dtype=np.float32) < noise
            parts.append(np.packbits(bits ^ flipped, axis=1))
        database, name = np.concatenate(parts), f"{name}, repeated, flip {noise:g}"
    return Codes(name, database, query, nbit)


# One engine


class GraphOfAllItems:
    """FAISS's HNSW over all items."""

    def __init__(self, store: CodeStore) -> None:
        import faiss

        codes = np.ascontiguousarray(store.snapshot().codes)
        self._index = faiss.IndexBinaryHNSW(8 * codes.shape[1], 32)
        self._index.add(codes)
        self.effort = 64

    def search(self, codes: Array, k: int) -> tuple[Array, Array]:
        """Return distances and places."""
        self._index.hnsw.efSearch = max(self.effort, k)
        distances, places = self._index.search(codes, k)
        return np.where(places < 0, -1, distances), places


@contextlib.contextmanager
def opened(request: Values, store: CodeStore) -> Iterator[SearchEngine | GraphOfAllItems]:
    """Build an engine over a store."""
    kind, name = kind_of(request["contender"]), request["contender"]
    if kind is GraphOfAllItems:
        yield GraphOfAllItems(store)
        return
    folder = Path(request["folder"]) / name
    more = {} if name in SERVERS else {"store": store}
    with kind(store.nbit, folder, **more, **request["options"]) as engine:
        if name in SERVERS:
            from deephash.search.engines.synchronise import synchronise

            synchronise(engine, store.snapshot())
        else:
            engine.save()
        yield engine


def kind_of(name: str) -> Any:
    """Import the class of a contender, and what it needs."""
    contender = CONTENDERS[name]
    for package in contender.needs:
        importlib.import_module(package)
    if not contender.file:
        return GraphOfAllItems
    file = harness.ROOT / "conf" / "engine" / f"{contender.file}.yaml"
    module, _, kind = yaml.safe_load(file.read_text())["_target_"].rpartition(".")
    return getattr(importlib.import_module(module), kind)


def measured(request: Values) -> Values:
    """Build an engine in this process, and search with each setting."""
    folder = Path(request["folder"])
    with np.load(folder / "queries.npz") as arrays:
        queries, nearest = arrays["queries"], arrays["nearest"]
    store = CodeStore.open(folder / "store", verify=False)
    kind_of(request["contender"])  # imports are not measured
    k, before = nearest.shape[1], memory("RssAnon")
    results = []
    with Stopwatch() as building:
        context = opened(request, store)
        engine = context.__enter__()
    try:
        engine.search(queries[:2], k)  # loads and compiles
        for setting in CONTENDERS[request["contender"]].settings:
            for name, value in setting.items():
                setattr(engine, name, value)
            engine.search(queries[:2], k)
            with Stopwatch() as watch:
                distances, _ = engine.search(queries, k)
            results.append({
                **setting,
                "recall": tie_aware_recall(distances, nearest),
                "cpu": watch.cpu,
                "wall": watch.wall,
            })  # fmt: skip
        grown = memory("RssAnon") - before
    finally:
        context.__exit__(None, None, None)
    build = building.wall if request["contender"] in SERVERS else building.cpu
    return {"build": build, "mb": max(0, grown) / 1e6, "results": results}


# One set of codes


def compare(codes: Codes, options: argparse.Namespace, folder: Path) -> list[Series]:
    """Measure all engines on one set of codes."""
    with CodeStore.create(folder / "store", codes.nbit, {}) as store:
        for start in range(0, len(codes.database), BLOCK):
            part = codes.database[start : start + BLOCK]
            store.add(part, [f"image {row}" for row in range(start, start + len(part))])
    index = retrieval.Index(codes.nbit)
    index.add(codes.database)
    nearest, _ = index.search(codes.queries, options.top)
    np.savez(folder / "queries.npz", queries=codes.queries, nearest=nearest)
    del index
    entries = []
    for name in options.engines:
        extra = {"dsn": options.dsn} if name == "pgvector" else {}
        request = {"contender": name, "folder": str(folder), "threads": options.threads,
                   "options": extra}  # fmt: skip
        entries.append(Series(name, request))
        missing = [one for one in CONTENDERS[name].needs if find_spec(one) is None]
        if missing:
            entries[-1].failed = f"{missing[0]} is not installed"
        elif name == GRAPH and len(codes.database) > options.graph:
            entries[-1].failed = f"takes long: left out above {options.graph:,} items (--graph)"
    harness.alternate(
        entries,
        lambda series: harness.spawn(__file__, series.request),
        options.rounds,
        label=codes.name,
    )
    return entries


def rows_of(entries: Sequence[Series], queries: int) -> list[list[str]]:
    """Return the table: a row for each setting of each engine."""
    rows = [["engine", "setting", "recall", "queries / s", "build s", "MB"]]
    for entry in entries:
        if not entry.rounds:
            continue
        for number, first in enumerate(entry.rounds[0]["results"]):
            names = first.keys() - {"recall", "cpu", "wall"}
            # a server works in processes of its own
            clock = "wall" if entry.name in SERVERS else "cpu"
            seconds = np.median([one["results"][number][clock] for one in entry.rounds])
            rows.append([
                entry.name, ", ".join(f"{name} {first[name]}" for name in sorted(names)),
                f"{first['recall']:.3f}", figure(queries / max(float(seconds), 1e-9)),
                figure(entry.median("build")),
                "–" if entry.name in SERVERS else f"{entry.median('mb'):,.0f}",
            ])  # fmt: skip
    return rows


def draw(tables: Mapping[str, Sequence[Sequence[str]]], folder: Path) -> None:
    """Draw recall and queries a second of all engines, a panel for each set of codes."""
    with style.style():
        columns = min(3, len(tables))
        lines = -(-len(tables) // columns)
        sheet, panels = style.sheet(lines, columns, (3.6, 3.2), sharey=True)
        names = [name for name in CONTENDERS if any(
            row[0] == name for rows in tables.values() for row in rows)]  # fmt: skip
        handles: dict[str, Any] = {}
        for panel, (title, rows) in zip(panels.flat, tables.items(), strict=False):
            for name in names:
                points = [(float(row[2]), float(row[3].replace(",", "")))
                          for row in rows if row[0] == name]  # fmt: skip
                if points:
                    look = style.Look.of(names.index(name))
                    (handles[name],) = panel.plot(
                        *zip(*sorted(points, key=lambda point: -point[1]), strict=True),
                        color=look.colour, marker=look.marker, linestyle=look.dash,
                    )  # fmt: skip
            panel.set_title(style.wrapped(title, 40))
            panel.set_yscale("log")
            panel.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
            panel.set_xlabel("tie-aware recall")
        for panel in panels.flat[len(tables) :]:
            panel.set_axis_off()
        for line in panels:
            line[0].set_ylabel("queries a second")
        style.legend(sheet, list(handles.values()), list(handles))
        style.save_figure(sheet, folder, "engines")


def every(options: argparse.Namespace) -> Iterator[Codes]:
    """Yield the sets of codes."""
    for path in options.codes:
        yield learned(path, options.items, options.queries, options.noise, options.seed)
    if not options.codes or options.drawn:
        for flip in options.flips:
            items = options.items or 59_000
            yield drawn(items, options.queries, options.nbit, flip, options.seed)


def main(arguments: Sequence[str]) -> int:
    """Print the tables; 1 if an exact engine was not exact."""
    if list(arguments) == ["--child"]:
        return harness.serve(measured)
    command_line = harness.parser(__doc__, rounds=1, seed=0, threads=1, json=None, markdown=False)
    add = command_line.add_argument
    add("--codes", type=Path, nargs="*", default=[], help="codes.npz, or run folders")
    add("--drawn", action="store_true", help="drawn codes too, beside those of --codes")
    add("--flips", type=float, nargs="+", default=list(FLIPS), help="of drawn codes")
    add("--items", type=int, help="number of items; default: those of the run, or 59,000")
    add("--noise", type=float, default=0.01, help="flipped bits of repeated items")
    add("--nbit", type=int, default=64, help="bits of drawn codes")
    add("--queries", type=int, default=500)
    add("--top", type=int, default=10, help="k")
    add("--engines", nargs="+", choices=CONTENDERS,
        default=[name for name in CONTENDERS if name not in SERVERS])  # fmt: skip
    add("--graph", type=int, default=1_000_000, help=f"most items of the {GRAPH}")
    add("--dsn", default="", help="database of pgvector")
    add("--figure", type=Path, metavar="FOLDER", help="draw engines.svg and engines.png there")
    options = command_line.parse_args(arguments)
    report = Report(__file__, arguments, options)
    report.add(f"{options.queries} queries in one batch, {options.top} nearest, {options.threads}"
               " thread; CPU seconds, of servers wall seconds. MB: private memory of the process,"
               " without the memory-mapped codes.")  # fmt: skip
    tables, measurements, correct = {}, [], True
    for codes in every(options):
        with tempfile.TemporaryDirectory(prefix="deephash-") as folder:
            entries = compare(codes, options, Path(folder))
        rows = rows_of(entries, len(codes.queries))
        tables[codes.name] = rows[1:]
        notes = [f"- {entry.name}: {entry.failed}" for entry in entries if entry.failed]
        report.add(f"### {codes}", harness.table(rows, options.markdown), "\n".join(notes))
        measurements.append({"codes": str(codes), "engines": {
            entry.name: entry.rounds for entry in entries}})  # fmt: skip
        report.save(sets=measurements)
        exact = [row for row in rows[1:] if row[0] in ("exact", "faiss_flat", "milvus")]
        correct &= all(row[2] == "1.000" for row in exact)
    if options.figure:
        draw(tables, options.figure)
    report.close()
    return int(not correct)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
