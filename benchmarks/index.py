"""Measure a store of codes and exact search in it: python benchmarks/index.py --codes 10000000.

A store is built once in a temporary folder (``--folder`` keeps it) from codes around 1,000 random
centers, each bit flipped with a probability of ``--flip`` (0.5: random codes), with ids, signatures
and labels. Everything else is measured in processes of their own, which alternate.

Three tables: the store (time to build it, to open it, to add the first items, to verify it; private
memory), search by one query and by many (numpy, numba with one thread and with all, FAISS if it is
installed; times of contenders that were given fewer queries are scaled), and search in one process
while another adds items.

The limit is XOR, popcount and a sum in compiled code, on one thread: no search can be faster.
"""

import argparse
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from harness import (
    Report,
    Series,
    Stopwatch,
    Values,
    alternate,
    cores,
    figure,
    median_ratio,
    memory,
    parser,
    serve,
    spawn,
    table,
)

from deephash.retrieval import Engine
from deephash.search.store import CodeStore

CENTERS, BATCH, TOP = 1_000, 100_000, 10
ADDED = 100  # items of one commit while another process searches
CONTENDERS = {  # name: backend, all threads?, share of the queries
    "numpy": ("numpy", False, 0.05),
    "numba, 1 thread": ("numba", False, 0.2),
    "numba": ("numba", True, 1.0),
    "FAISS, 1 thread": ("faiss", False, 0.2),
    "limit, 1 thread": ("limit", False, 0.2),
}


def draw(count: int, nbit: int, flip: float, seed: int) -> Any:
    """Draw packed codes (count, K / 8) around random centers."""
    rng = np.random.default_rng(seed)
    centers = np.random.default_rng(0).random((CENTERS, nbit)) < 0.5
    flipped = rng.random((count, nbit), dtype=np.float32) < flip
    return np.packbits(centers[rng.integers(0, CENTERS, count)] ^ flipped, axis=1)


class PrivatePeak:
    """Sample the private memory of this process: pages of mapped files do not count."""

    def __init__(self) -> None:
        self._most, self._stop = 0, threading.Event()
        self._thread = threading.Thread(target=self._sample)
        self._thread.start()

    def _sample(self) -> None:
        while not self._stop.wait(0.005):
            self._most = max(self._most, memory("RssAnon"))

    def stop(self) -> int:
        """Return the peak in bytes."""
        self._stop.set()
        self._thread.join()
        return max(self._most, memory("RssAnon"))


def build(request: Values) -> Values:
    """Build the store in batches; the time to draw the codes is not measured."""
    count, wall, cpu = request["codes"], 0.0, 0.0
    with CodeStore.create(request["folder"], request["nbit"], {"fingerprint": "none"}) as store:
        for start in range(0, count, BATCH):
            numbers = range(start, min(start + BATCH, count))
            codes = draw(len(numbers), request["nbit"], request["flip"], start)
            ids = [f"photos/{number % 1000:03d}/{number:09d}.jpg" for number in numbers]
            signatures = [f"{number % 99991}:1700000000{number:09d}" for number in numbers]
            labels = [f"class {number % 1000}" for number in numbers]
            with Stopwatch() as watch:
                store.add(codes, ids, signatures, labels)
            wall, cpu = wall + watch.wall, cpu + watch.cpu
    size = sum(path.stat().st_size for path in Path(request["folder"]).iterdir())
    return {"wall": wall, "cpu": cpu, "size": size, "private": memory("RssAnon")}


def use(request: Values) -> Values:
    """Open the store, add and remove an item, verify."""
    values: Values = {"imported": memory("RssAnon")}
    with Stopwatch() as watch:
        store = CodeStore.open(request["folder"], write=True, verify=False)
        index = store.index()
    values["open"] = {"wall": watch.wall, "cpu": watch.cpu, "private": memory("RssAnon")}
    code = index.codes[:1].copy()
    for name, change in (
        ("first add", lambda: store.add(code, ["first"], labels=["class 1"])),
        ("add", lambda: store.add(code, ["second"], labels=["class 1"])),
        ("remove", lambda: store.remove(["first", "second"])),
        ("verify", store.verify),
    ):
        with Stopwatch() as watch:
            change()
        values[name] = {"wall": watch.wall, "cpu": watch.cpu, "private": memory("RssAnon")}
    store.close()
    return values


def search(request: Values) -> Values:
    """Search by one query and by many with one contender."""
    store = CodeStore.open(request["folder"], verify=False)
    index, backend, threads = store.index(), request["backend"], request["threads"]
    opened = memory("RssAnon")
    queries = draw(request["drawn"], request["nbit"], request["flip"], 12345)[: request["queries"]]
    if backend == "faiss":
        import faiss

        faiss.omp_set_num_threads(threads)
        flat = index.to_faiss()

        def run(some: Any) -> Any:
            return flat.search(some, TOP)[0]
    elif backend == "limit":
        from retrieval import sum_kernel

        words = index.codes.view(np.uint64).T.copy()

        def run(some: Any) -> Any:
            pairs = zip(some.view(np.uint64).T.copy(), words, strict=True)
            return [sum_kernel()(query, word) for query, word in pairs]
    else:
        engine = Engine(backend, threads)

        def run(some: Any) -> Any:
            return index.search(some, TOP, engine)[0]

    run(queries[:2])  # compiles, and reads the codes from the disk
    values: Values = {}
    peak = PrivatePeak()
    for name, some in (("one", queries[:1]), ("many", queries)):
        times = []
        for _ in range(5 if name == "one" else 1):
            with Stopwatch() as watch:
                distances = run(some)
            times.append((watch.wall, watch.cpu))
        wall, cpu = map(statistics.median, zip(*times, strict=True))
        values[name] = {"wall": wall, "cpu": cpu}
    values["memory"] = peak.stop() - opened
    if backend != "limit":
        values["sum"] = int(np.asarray(distances)[: request["least"]].sum())
    return values


def search_beside_writer(request: Values) -> Values:
    """Search by one query after another, alone and while another process adds."""
    store = CodeStore.open(request["folder"], verify=False)
    engine = Engine("numba" if request["numba"] else "numpy", request["threads"])
    query = draw(1, request["nbit"], request["flip"], 12345)
    store.index().search(query, TOP, engine)
    added: Values = {}
    values: Values = {}
    for name in ("alone", "beside"):
        writer = threading.Thread(
            target=lambda: added.update(spawn(__file__, {**request, "part": "write"}))
        )
        if name == "beside":
            writer.start()
        times, sizes, end = [], set(), time.perf_counter() + request["seconds"]
        while time.perf_counter() < end or writer.is_alive():
            with Stopwatch() as watch:
                store.reload()
                index = store.index()
                index.search(query, TOP, engine)
            times.append(watch.wall)
            sizes.add(len(index))
        values[name] = {
            "searches": len(times), "median": statistics.median(times),
            "most": max(times), "states": len(sizes),
        }  # fmt: skip
    return values | {"writer": added}


def write(request: Values) -> Values:
    """Add batches for some seconds, and remove them again."""
    with CodeStore.open(request["folder"], write=True, verify=False) as store:
        codes = draw(ADDED, request["nbit"], request["flip"], 1)
        store.add(codes[:1], ["added/first"])
        times, names = [], ["added/first"]
        end = time.perf_counter() + request["seconds"]
        while time.perf_counter() < end:
            ids = [f"added/{len(names) + number}" for number in range(ADDED)]
            with Stopwatch() as watch:
                store.add(codes, ids)
            times.append(watch.wall)
            names += ids
        store.remove(names)
    return {"commits": len(times), "median": statistics.median(times), "most": max(times)}


PARTS = {"build": build, "use": use, "search": search, "beside": search_beside_writer,
         "write": write}  # fmt: skip


def store_rows(built: Values, uses: Series) -> list[list[str]]:
    """Return the table of the store."""

    def mega(size: float) -> str:
        return f"{size / 1e6:,.0f}"

    rows = [["", "wall s", "CPU s", "private memory, MB"]]
    rows.append(["build", figure(built["wall"]), figure(built["cpu"]), mega(built["private"])])
    for name in ("open", "first add", "add", "remove", "verify"):
        wall, cpu = uses.median(name, "wall"), uses.median(name, "cpu")
        rows.append([name, figure(wall), figure(cpu), mega(uses.median(name, "private"))])
    rows.append(["after the imports", "", "", mega(uses.median("imported"))])
    return rows


def search_rows(contenders: Sequence[Series], options: argparse.Namespace) -> list[list[str]]:
    """Return the table of searches."""
    many = f"{options.queries:,} queries"
    rows = [["", "1 query: wall ms", "CPU ms", f"{many}: wall s", "CPU s", "CPU ns a pair",
             "CPU / limit", "private memory, MB"]]  # fmt: skip
    limit = next(one for one in contenders if one.request["backend"] == "limit")
    for one in contenders:
        if not one.rounds:
            rows.append([f"{one.name}: {one.failed}", *["–"] * 7])
            continue
        wall, cpu = (one.median("many", clock) * one.scale for clock in ("wall", "cpu"))
        times = [value * one.scale for value in one.values("many", "cpu")]
        limits = [value * limit.scale for value in limit.values("many", "cpu")]
        pairs = options.queries * options.codes
        rows.append([
            one.name, figure(1e3 * one.median("one", "wall")),
            figure(1e3 * one.median("one", "cpu")), figure(wall), figure(cpu),
            figure(1e9 * cpu / pairs), median_ratio(times, limits),
            "–" if one is limit else f"{one.median('memory') / 1e6:,.0f}",
        ])  # fmt: skip
    return rows


def beside_rows(values: Values) -> list[list[str]]:
    """Return the table of searches beside a writer."""
    rows = [["", "number", "median ms", "longest ms"]]
    for key, name in (("alone", "searches, nobody adds"), ("beside", "searches while one adds")):
        times = values[key]
        name += f" ({times['states']} states of the store)" if key == "beside" else ""
        rows.append([name, str(times["searches"]), figure(1e3 * times["median"]),
                     figure(1e3 * times["most"])])  # fmt: skip
    writer = values["writer"]
    rows.append([f"commits of {ADDED} items", str(writer["commits"]),
                 figure(1e3 * writer["median"]), figure(1e3 * writer["most"])])  # fmt: skip
    return rows


def main(arguments: Sequence[str]) -> int:
    """Print the tables; return 1 if contenders found different distances."""
    if list(arguments) == ["--child"]:
        return serve(lambda request: PARTS[request["part"]](request))
    command_line = parser(__doc__, rounds=3, seconds=5.0, threads=cores(), json=None, markdown=True)
    add = command_line.add_argument
    add("--codes", type=int, default=10_000_000)
    add("--queries", type=int, default=1_000)
    add("--nbit", type=int, default=64, help="a multiple of 64")
    add("--flip", type=float, default=0.02, help="probability that a bit is that of no center")
    add("--folder", type=Path, help="keep the store in this folder, or use the one there")
    options = command_line.parse_args(arguments)
    report = Report(__file__, arguments, options)
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as temporary:
        folder = options.folder or Path(temporary) / "store"
        common = {"folder": str(folder), "codes": options.codes, "nbit": options.nbit,
                  "flip": options.flip, "seconds": options.seconds}  # fmt: skip
        measured: Values = {}
        built = {"wall": 0, "cpu": 0, "private": 0, "size": 0}
        if not (folder / "store.json").exists():
            built = spawn(__file__, common | {"part": "build", "threads": 1})
        uses = Series("store", common | {"part": "use", "threads": 1})
        alternate([uses], lambda one: spawn(__file__, one.request), options.rounds)
        least = max(1, int(options.queries * min(share for _, _, share in CONTENDERS.values())))
        contenders = []
        for name, (backend, all_threads, share) in CONTENDERS.items():
            if backend in ("faiss", "numba") and find_spec(backend) is None:
                continue
            queries = max(least, int(options.queries * share))
            request = {"part": "search", "backend": backend, "queries": queries, "least": least,
                       "drawn": options.queries,
                       "threads": options.threads if all_threads else 1}  # fmt: skip
            scale = options.queries / queries
            contenders.append(Series(name, common | request, scale=scale))
        alternate(
            contenders, lambda one: spawn(__file__, one.request), options.rounds, label="search"
        )
        numba = find_spec("numba") is not None
        request = {"part": "beside", "numba": numba, "threads": options.threads}
        beside = spawn(__file__, common | request)
    sums = {value for one in contenders if one.rounds and "sum" in one.rounds[0]
            for value in one.values("sum")}  # fmt: skip
    report.add(
        f"{options.codes:,} codes of {options.nbit} bits, flip {options.flip}, "
        f"{built['size'] / 1e6:,.0f} MB on the disk, k = {TOP}, {options.threads} threads, "
        f"{options.rounds} rounds, medians.",
        table(store_rows(built, uses), options.markdown),
        table(search_rows(contenders, options), options.markdown),
        table(beside_rows(beside), options.markdown),
        "All contenders found the same distances." if len(sums) == 1 else "DISTANCES DIFFER",
    )
    measured = {"build": built, "store": uses.rounds, "beside": beside,
                "search": {one.name: one.rounds for one in contenders}}  # fmt: skip
    report.save(results=measured)
    report.close()
    return 0 if len(sums) == 1 else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
