"""Our retrieval metrics beside those of the field and of FAISS: python benchmarks/retrieval.py.

Everything is timed in one run: in each round each contender has its turn, in a process of its own
with its own number of threads. A contender first does the job on a small piece, which loads and
compiles what it needs, then on the whole, and that one call is measured: CPU and wall seconds, and
how far its memory rises above the inputs. The tables give medians over the rounds; a ratio is the
median of the ratios in each round.

Contenders, and where the clock starts. The field's routine: codes of -1 and +1 and multi-hot rows,
floats both. All others: packed codes, and labels as they are; for FAISS several labels are a bit
each. ``limit`` is no contender but what no exact one can beat: the distances of all pairs, summed.
"""

import argparse
import json
import os
import platform
import resource
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

from deephash.retrieval import (
    Convention,
    Engine,
    Ranking,
    histograms,
    mean_average_precision,
    pr_curve_by_radius,
    precision_at,
    precision_within_radius,
)

Array = np.ndarray[Any, Any]

CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
CUTS = range(100, 1001, 100)
RADIUS = 2
FIELD_BATCH = 100  # queries
FAISS_BLOCK = 1 << 20  # items found at once
AP_BLOCK = 1 << 18  # of them, judged at once
DRAW = 1 << 17  # codes drawn at once
TILE = 2048  # codes that stay in the fastest cache
TOLERANCE = 1e-12
WRONG = "DISAGREES"
THREADS = ("OMP", "MKL", "OPENBLAS", "NUMEXPR", "NUMBA", "VECLIB")


# The work


@dataclass(frozen=True)
class Work:
    """How much is asked of how much; ``top`` is R, None for all."""

    queries: int
    database: int
    top: int | None
    classes: int
    nbit: int = 64
    multi: bool = False  # several labels an item, 2.39 on average, long-tailed

    def __str__(self) -> str:
        found = "all" if self.top is None else f"{self.top:,}"
        labels = "labels, 2.39 an item" if self.multi else "classes"
        return (
            f"{self.queries:,} queries × {self.database:,} items, {self.nbit} bits, R = {found}, "
            f"{self.classes} {labels}"
        )


W1 = Work(1_000, 59_000, None, 10)  # CIFAR-10
W2 = Work(5_000, 128_503, 1_000, 100)  # ImageNet100
W3 = Work(2_100, 193_734, 5_000, 21, multi=True)  # NUS-WIDE


@dataclass(frozen=True)
class Load:
    """The inputs of one job."""

    query_codes: Array  # (Q, K / 8) uint8
    database_codes: Array  # (N, K / 8) uint8
    query_labels: Array  # (Q,) classes, or (Q, C) uint8 multi-hot
    database_labels: Array  # (N,) or (N, C)
    nbit: int  # K
    top: int | None

    def part(self, queries: int, items: int | None = None) -> "Load":
        """The first queries against the first items."""
        items = len(self.database_codes) if items is None else items
        return replace(
            self,
            query_codes=self.query_codes[:queries],
            database_codes=self.database_codes[:items],
            query_labels=self.query_labels[:queries],
            database_labels=self.database_labels[:items],
            top=None if self.top is None else min(self.top, items),
        )

    def save(self, folder: Path) -> None:
        """Into files that each contender's process reads."""
        for name, value in vars(self).items():
            if isinstance(value, np.ndarray):
                np.save(folder / f"{name}.npy", value)

    @classmethod
    def read(cls, folder: Path, nbit: int, top: int | None) -> "Load":
        """What was saved."""
        names = ("query_codes", "database_codes", "query_labels", "database_labels")
        arrays = {name: np.load(folder / f"{name}.npy") for name in names}
        return cls(**arrays, nbit=nbit, top=top)


def draw(work: Work, seed: int) -> Load:
    """Codes around a random centroid for each class; 15 to 25 % of an item's bits are flipped."""
    rng = np.random.default_rng(seed)
    centroids = rng.random((work.classes, work.nbit)) < 0.5
    sides = []
    for size in (work.database, work.queries):  # so that fewer queries meet the same database
        labels = draw_labels(work, size, rng)
        sides.append((draw_codes(labels, centroids, rng), labels))
    (database, held), (query, asked) = sides
    return Load(query, database, asked, held, work.nbit, work.top)


def draw_labels(work: Work, size: int, rng: np.random.Generator) -> Array:
    """(size,) balanced classes in random order; or (size, C) multi-hot, the k-th 1/k as common."""
    if not work.multi:
        return rng.permutation(np.arange(size) % work.classes)
    many = np.minimum(1 + rng.poisson(1.39, size), work.classes)
    luck = rng.gumbel(size=(size, work.classes)) - np.log(np.arange(1, work.classes + 1))
    return ((-luck).argsort(axis=1).argsort(axis=1) < many[:, None]).astype(np.uint8)


def draw_codes(labels: Array, centroids: Array, rng: np.random.Generator) -> Array:
    """(size, K / 8) packed; of several labels, each bit goes with the majority."""
    parts = []
    for start in range(0, len(labels), DRAW):
        label = labels[start : start + DRAW]
        if label.ndim == 1:
            bits = centroids[label]
        else:
            votes = label @ (centroids * 2.0 - 1)
            bits = np.where(votes == 0, rng.random(votes.shape) < 0.5, votes > 0)
        share = rng.uniform(0.15, 0.25, (len(bits), 1))
        flipped = rng.random(bits.shape, dtype=np.float32) < share
        parts.append(np.packbits(bits ^ flipped, axis=1))
    return np.concatenate(parts)


# The field


def as_floats(load: Load) -> tuple[torch.Tensor, torch.Tensor, Array, Array, int | None]:
    """Codes of -1 and +1, and one-hot or multi-hot labels: floats all."""
    classes = load.database_labels.max() + 1 if load.database_labels.ndim == 1 else 0

    def signs(packed: Array) -> torch.Tensor:
        bits = np.unpackbits(packed, axis=1, count=load.nbit)
        return torch.from_numpy(bits).float().mul_(2).sub_(1)

    def hot(labels: Array) -> Array:
        if labels.ndim == 1:
            return (labels[:, None] == np.arange(classes)).astype(np.float32)
        return labels.astype(np.float32)

    return (
        signs(load.query_codes), signs(load.database_codes),
        hot(load.query_labels), hot(load.database_labels), load.top,
    )  # fmt: skip


def field(given: tuple[Any, ...], threads: int) -> dict[str, Any]:
    """MAP@R as deep hashing code writes it: all distances by matrix product, sort, loop."""
    query, database, query_labels, database_labels, top = given
    nbit, size = query.shape[1], len(database)
    distance = torch.cat([0.5 * (nbit - part @ database.T) for part in query.split(FIELD_BATCH)])
    if top is None:
        nearest = distance.argsort(dim=1).numpy()
    else:
        nearest = distance.topk(top, dim=1, largest=False).indices.numpy()
    rank = np.arange(1, (top or size) + 1)
    precisions = []
    for asked, order in zip(query_labels, nearest, strict=True):
        relevant = database_labels[order] @ asked > 0
        found = relevant.cumsum()
        precisions.append((found / rank * relevant).sum() / max(1, found[-1]))
    return {"map": float(np.mean(precisions))}


# FAISS


def as_marks(load: Load) -> Load:
    """Multi-hot labels as a bit each of one number."""
    if load.database_labels.ndim == 1:
        return load
    bit = 1 << np.arange(load.database_labels.shape[1], dtype=np.uint32)

    def marks(hot: Array) -> Array:
        return (hot * bit).sum(axis=1, dtype=np.uint32)

    return replace(
        load, query_labels=marks(load.query_labels), database_labels=marks(load.database_labels)
    )


def faiss_flat(load: Load, threads: int, heap: bool) -> dict[str, Any]:
    """MAP@R of what IndexBinaryFlat finds: by counting sort, or by its default, a heap."""
    import faiss

    faiss.omp_set_num_threads(threads)
    index = faiss.IndexBinaryFlat(8 * load.database_codes.shape[1])
    index.use_heap = heap  # type: ignore[attr-defined]
    index.add(load.database_codes)
    top = index.ntotal if load.top is None else load.top
    precisions = []
    for queries in blocks(len(load.query_codes), FAISS_BLOCK // top):
        _, nearest = index.search(load.query_codes[queries], top)
        asked = load.query_labels[queries]
        for few in blocks(len(nearest), AP_BLOCK // top):
            held, mine = load.database_labels[nearest[few]], asked[few, None]
            relevant = held == mine if held.dtype != np.uint32 else (held & mine) != 0
            precisions.append(precision_of(relevant))
    return {"map": float(np.concatenate(precisions).mean())}


def precision_of(relevant: Array) -> Array:
    """AP of each row of (rows, R) bool, nearest first."""
    found = relevant.cumsum(axis=1, dtype=np.int32)
    gained = np.divide(found, np.arange(1, relevant.shape[1] + 1))
    gained *= relevant
    return gained.sum(axis=1) / np.maximum(1, found[:, -1])


def blocks(size: int, step: int) -> Iterator[slice]:
    """Slices that cover ``size``."""
    step = max(1, step)
    return (slice(start, start + step) for start in range(0, size, step))


# Ours


def everything(load: Load, threads: int, engine: str, device: str | None = None) -> dict[str, Any]:
    """The whole job: mAP@R with expected ties, P@N, curve by radius, precision within a ball."""
    hist = histograms(
        load.query_codes, load.database_codes, load.query_labels, load.database_labels, load.nbit,
        Engine(engine, threads, device),
    )  # fmt: skip
    curve = pr_curve_by_radius(hist)
    at = precision_at(hist, [cut for cut in CUTS if cut <= hist.size])
    ball = precision_within_radius(hist, RADIUS)
    return {
        "map": mean_average_precision(hist, Convention(top=load.top)).value,
        "more": np.concatenate(
            [
                list(at.values()), ball,
                curve.precision_macro, curve.recall_macro,
                curve.precision_micro, curve.recall_micro,
            ]
        ).tolist(),
    }  # fmt: skip


def in_order(load: Load, threads: int, engine: str) -> dict[str, Any]:
    """MAP@R with ties in the order of the database."""
    ranking = Ranking(
        load.query_codes, load.database_codes, load.query_labels, load.database_labels, load.nbit,
        Engine(engine, threads),
    )  # fmt: skip
    return {"map": mean_average_precision(ranking, Convention(top=load.top, ties="stable")).value}


def bounds(load: Load, threads: int) -> dict[str, Any]:
    """MAP@R with the relevant of tied items last, and first: where any order lands."""
    hist = histograms(
        load.query_codes, load.database_codes, load.query_labels, load.database_labels, load.nbit
    )
    return {
        ties: mean_average_precision(hist, Convention(top=load.top, ties=ties)).value
        for ties in ("worst", "best")
    }


# The limit


def as_u64(load: Load) -> tuple[Array, Array]:
    """(W, Q) and (W, N) uint64."""

    def words(packed: Array) -> Array:
        padded = np.pad(packed, ((0, 0), (0, -packed.shape[1] % 8)))
        return np.ascontiguousarray(padded.view(np.uint64).T)

    return words(load.query_codes), words(load.database_codes)


def all_pairs(given: tuple[Array, Array], threads: int) -> dict[str, Any]:
    """The sum of all distances."""
    query, database = given
    kernel = summing()
    total = sum(int(kernel(q, d)) for q, d in zip(query, database, strict=True))
    return {"distance": total / query.shape[1] / database.shape[1]}


@cache
def summing() -> Callable[[Array, Array], int]:
    """A loop that the compiler turns into the processor's own bit counting, eight at a time."""
    from numba import njit, types
    from numba.extending import intrinsic

    @intrinsic
    def ones(_: Any, word: Any) -> Any:
        return types.uint64(types.uint64), lambda _c, builder, _s, args: builder.ctpop(args[0])

    @njit
    def total(query, database):  # type: ignore[no-untyped-def]
        result = np.uint64(0)
        for start in range(0, len(database), TILE):
            tile = database[start : start + TILE]
            for q in query:
                for i in range(len(tile)):  # so it is done eight at a time, over items not
                    result += ones(q ^ tile[i])  # type: ignore[call-arg]
        return result

    return total


# The table of contenders


@dataclass(frozen=True)
class Contender:
    """One way to do the job."""

    run: Callable[[Any, int], dict[str, Any]]  # prepared inputs, threads
    ties: str  # the rule by which it orders them
    gives: str = "mAP"
    prepare: Callable[[Load], Any] = lambda load: load  # not timed
    needs: str = ""  # a package, or cuda
    pair: int = 0  # bytes that it holds for each query and item, all at once


CONTENDERS = {
    "field": Contender(field, "any", prepare=as_floats, pair=12),
    "faiss-counting": Contender(
        partial(faiss_flat, heap=False), "stable", prepare=as_marks, needs="faiss"
    ),
    "faiss-heap": Contender(
        partial(faiss_flat, heap=True), "stable", prepare=as_marks, needs="faiss"
    ),
    "numpy": Contender(partial(everything, engine="numpy"), "expected", "all"),
    "numba": Contender(partial(everything, engine="numba"), "expected", "all", needs="numba"),
    "torch": Contender(partial(everything, engine="torch", device="cpu"), "expected", "all"),
    "cuda": Contender(
        partial(everything, engine="torch", device="cuda"), "expected", "all", needs="cuda"
    ),
    "numpy-stable": Contender(partial(in_order, engine="numpy"), "stable"),
    "numba-stable": Contender(partial(in_order, engine="numba"), "stable", needs="numba"),
    "limit": Contender(all_pairs, "", "", prepare=as_u64, needs="numba"),
}
BOUNDS = Contender(bounds, "")
MAIN = tuple(CONTENDERS)
FEWER = ("field", "faiss-counting", "numpy", "numba", "torch", "cuda", "limit")
THREADED = ("faiss-counting", "numpy", "numba", "torch", "numpy-stable", "numba-stable")


@dataclass(frozen=True)
class Case:
    """One table: some work, who does it, and with how many threads."""

    name: str
    work: Work
    names: tuple[str, ...] = MAIN
    threads: tuple[int, ...] = (1,)


SECTIONS = {
    "W1": [Case("W1", W1)],
    "W2": [Case("W2", W2)],
    "W3": [Case("W3", W3)],
    "scaling": [
        Case(f"scaling, {size:,}", Work(1_000, size, 1_000, 10), FEWER)
        for size in (59_000, 1_000_000, 10_000_000)
    ],
    "bits": [Case(f"bits, {nbit}", replace(W1, nbit=nbit), FEWER) for nbit in (16, 32, 64, 128)],
    "threads": [
        Case(f"threads, {name}", work, THREADED, (1, CORES))
        for name, work in (("W1", W1), ("W2", W2))
    ],
}


# One measurement, in a process of its own


def measured(request: dict[str, Any]) -> dict[str, Any]:
    """What the contender's process does."""
    torch.set_num_threads(request["threads"])
    name = request["contender"]
    contender = BOUNDS if name == "bounds" else CONTENDERS[name]
    load = Load.read(Path(request["folder"]), request["nbit"], request["top"])
    load = load.part(request["queries"])
    small = load.part(64, 2_000)
    if small.top is not None:  # a cut among near items, so that all that is compiled is needed
        small = replace(small, top=50)
    began = time.perf_counter()
    contender.run(contender.prepare(small), request["threads"])
    first = time.perf_counter() - began
    given = contender.prepare(load)
    before = memory_mark(reset=True)
    wall, cpu = time.perf_counter(), time.process_time()
    found = contender.run(given, request["threads"])
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    peak = memory_mark() - before
    return found | {"first": first, "cpu": cpu, "wall": wall, "peak_mb": peak / 1e6}


def memory_mark(reset: bool = False) -> int:
    """The most bytes that this process has held, since its start or the last reset."""
    status = Path("/proc/self/status")
    if not status.exists():  # no reset there: the mark counts from the start
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most if sys.platform == "darwin" else most * 1024
    if reset:
        with suppress(OSError):  # not allowed everywhere; then as above
            Path("/proc/self/clear_refs").write_text("5")
    (line,) = (row for row in status.read_text().splitlines() if row.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def spawn(request: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Measure in a new process; what goes wrong there is a field ``failed``."""
    environment = os.environ | {f"{name}_NUM_THREADS": str(request["threads"]) for name in THREADS}
    if CONTENDERS.get(request["contender"], BOUNDS).needs != "cuda":
        environment["CUDA_VISIBLE_DEVICES"] = ""
    environment["NUMBA_CACHE_DIR"] = str(folder / "numba")
    done = subprocess.run(
        [sys.executable, __file__, "--child"],
        input=json.dumps(request | {"folder": str(folder)}),
        env=environment, text=True, capture_output=True,
    )  # fmt: skip
    if done.returncode:
        told = done.stderr.strip().splitlines() or [f"ended with {done.returncode}"]
        return {"failed": told[-1]}
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


# One case


@dataclass
class Entry:
    """A contender with so many threads, and what its rounds gave."""

    name: str
    threads: int
    queries: int  # that it was given
    scale: float  # all queries by these
    rounds: list[dict[str, Any]]
    first: float = 0.0  # seconds of the first call of all
    failed: str = ""

    def times(self, clock: str) -> list[float]:
        """Seconds of each round, for all queries."""
        return [one[clock] * self.scale for one in self.rounds]

    def median(self, key: str) -> float:
        """Over the rounds, as measured."""
        return statistics.median(one[key] for one in self.rounds)


@dataclass
class Result:
    """All that a case gave."""

    case: Case
    entries: list[Entry]
    checks: list[str]
    fine: bool  # they agree, and none failed


def run_case(case: Case, options: argparse.Namespace, cache: Path) -> Result:
    """Draw the data, plan, go round, compare."""
    draw(case.work, options.seed).save(cache)
    ask = {"nbit": case.work.nbit, "top": case.work.top}
    entries = []
    for name in filter(installed, case.names):
        for threads in sorted(set(case.threads)):
            entries.append(plan(name, threads, case.work, ask, options, cache))
    for number in range(options.rounds):
        for entry in (one for one in entries if not one.failed):
            request = {"contender": entry.name, "threads": entry.threads, "queries": entry.queries}
            got = spawn(ask | request, cache)
            entry.failed = got.get("failed", "")
            if not entry.failed:
                entry.rounds.append(got)
            told = entry.failed or f"{got['cpu']:.3g} CPU s, {got['wall']:.3g} wall s"
            tell(f"{case.name}, round {number + 1}: {entry.name}, threads {entry.threads}: {told}")
    checks, agreed = compare(
        entries,
        lambda n: spawn(ask | {"contender": "bounds", "threads": 1, "queries": n}, cache),
    )
    return Result(case, entries, checks, agreed and not any(entry.failed for entry in entries))


def installed(name: str) -> bool:
    """Whether a contender can take part."""
    needs = CONTENDERS[name].needs
    if needs == "cuda":
        return torch.cuda.is_available()
    return not needs or find_spec(needs) is not None


def plan(
    name: str, threads: int, work: Work, ask: dict[str, Any], options: argparse.Namespace,
    cache: Path,
) -> Entry:  # fmt: skip
    """How many queries a contender is given: fewer than all if time or memory would run out."""
    queries, pair = work.queries, CONTENDERS[name].pair
    if pair:
        queries = min(queries, max(1, int(options.memory * 1e6 / pair / work.database)))
    few = min(queries, max(4, work.queries // 50))
    tried = spawn(ask | {"contender": name, "threads": threads, "queries": few}, cache)
    if "failed" in tried:
        return Entry(name, threads, 0, 1.0, [], failed=tried["failed"])
    queries = max(few, min(queries, int(options.seconds * few / tried["wall"])))
    return Entry(name, threads, queries, work.queries / queries, [], first=tried["first"])


def compare(
    entries: list[Entry], bounds_of: Callable[[int], dict[str, Any]]
) -> tuple[list[str], bool]:
    """What agrees with what, of those that were given the same queries; and whether all does."""
    told = []
    done = [entry for entry in entries if entry.rounds and "map" in entry.rounds[0]]
    for queries in sorted({entry.queries for entry in done}, reverse=True):
        same = [entry for entry in done if entry.queries == queries]
        for ties in ("expected", "stable"):
            told += one_rule(ties, [e for e in same if CONTENDERS[e.name].ties == ties])
        told += any_rule(queries, same, bounds_of(queries))
    return told, not any(line.startswith(WRONG) for line in told)


def one_rule(ties: str, entries: list[Entry]) -> list[str]:
    """Of one rule for ties, all numbers must be the same."""
    if not entries:
        return []
    numbers = [[one["map"], *one.get("more", [])] for entry in entries for one in entry.rounds]
    apart = float(np.ptp(np.array(numbers), axis=0).max())
    names = ", ".join(dict.fromkeys(entry.name for entry in entries))
    told = f"{ties}: {names}: at most {apart:.1g} apart"
    return [told if apart <= TOLERANCE else f"{WRONG}: {told}"]


def any_rule(queries: int, entries: list[Entry], limits: dict[str, Any]) -> list[str]:
    """Whatever the order of ties is, mAP lies between the worst and the best."""
    if "failed" in limits:
        return [f"{WRONG}: no bounds: {limits['failed']}"]
    worst, best = limits["worst"], limits["best"]
    values = [(entry.name, one["map"]) for entry in entries for one in entry.rounds]
    return [
        f"{queries:,} queries, any order of ties: mAP {worst:.5f} to {best:.5f}",
        *(
            f"{WRONG}: {name}: mAP {value}"
            for name, value in values
            if not worst - TOLERANCE <= value <= best + TOLERANCE
        ),
    ]


# Tables


def table(result: Result) -> list[list[str]]:
    """A row for each contender."""
    by = {entry.name: entry for entry in result.entries if entry.rounds}
    work = result.case.work
    rows = [["contender", "ties", "gives", "CPU s", "wall s", "field / it", "FAISS / it",
             "ns a pair", "it / limit", "peak MB", "mAP"]]  # fmt: skip
    for entry in result.entries:
        contender = CONTENDERS[entry.name]
        if not entry.rounds:
            rows.append([entry.name, contender.ties, contender.gives, *["–"] * 8])
            continue
        cpu = statistics.median(entry.times("cpu"))
        rows.append(
            [
                name_of(entry), contender.ties, contender.gives,
                figure(cpu), figure(statistics.median(entry.times("wall"))),
                ratio(by.get("field"), entry), ratio(by.get("faiss-counting"), entry),
                figure(cpu * 1e9 / work.queries / work.database),
                ratio(entry, by.get("limit")), f"{entry.median('peak_mb'):,.0f}",
                f"{entry.rounds[0]['map']:.5f}" if "map" in entry.rounds[0] else "",
            ]
        )  # fmt: skip
    return rows


def threads_table(result: Result) -> list[list[str]]:
    """A row for each contender: one thread against all."""
    rows = [["contender", "wall s, 1", f"wall s, {CORES}", "faster", "CPU s, 1",
             f"CPU s, {CORES}", "peak MB, 1", f"peak MB, {CORES}"]]  # fmt: skip
    for name in filter(installed, result.case.names):
        pair = [entry for entry in result.entries if entry.name == name]
        one, all_ = pair[0], pair[-1]
        if not one.rounds or not all_.rounds:
            rows.append([name, *["–"] * 7])
            continue
        wall = [figure(statistics.median(entry.times("wall"))) for entry in (one, all_)]
        cpu = [figure(statistics.median(entry.times("cpu"))) for entry in (one, all_)]
        peak = [f"{entry.median('peak_mb'):,.0f}" for entry in (one, all_)]
        rows.append([name_of(one), *wall, ratio(one, all_, "wall"), *cpu, *peak])
    return rows


def name_of(entry: Entry) -> str:
    """With a star if it was given only part of the queries."""
    return entry.name + ("*" if entry.scale > 1 else "")


def ratio(over: Entry | None, under: Entry | None, clock: str = "cpu") -> str:
    """The median of the ratios in each round."""
    if over is None or under is None:
        return "–"
    pairs = zip(over.times(clock), under.times(clock), strict=False)
    return figure(statistics.median(a / b for a, b in pairs))


def figure(value: float) -> str:
    """Three digits that count."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def notes(result: Result) -> list[str]:
    """What a reader of the table must know."""
    told = [
        f"{name_of(entry)}: {entry.queries:,} queries; the times are scaled to "
        f"{result.case.work.queries:,}, the peak is not"
        for entry in result.entries
        if entry.scale > 1 and entry.rounds
    ]
    told += [f"{entry.name}: {entry.failed}" for entry in result.entries if entry.failed]
    told += [
        f"{name}: {CONTENDERS[name].needs} is not installed"
        for name in result.case.names
        if not installed(name)
    ]
    return told + result.checks


def laid_out(rows: list[list[str]], markdown: bool) -> str:
    """Markdown, or columns."""
    if markdown:
        lines = [rows[0], ["---"] * len(rows[0]), *rows[1:]]
        return "\n".join("| " + " | ".join(line) + " |" for line in lines)
    width = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(w) for cell, w in zip(row, width, strict=True)).rstrip()
        for row in rows
    )


def shown(result: Result, markdown: bool) -> str:
    """One case."""
    head = f"{'### ' if markdown else ''}{result.case.name}: {result.case.work}"
    rows = threads_table(result) if len(result.case.threads) > 1 else table(result)
    lines = [f"- {note}" for note in notes(result)]
    return "\n".join([head, "", laid_out(rows, markdown), "", *lines, ""])


# The run


def machine() -> dict[str, Any]:
    """Where and with what this is measured."""
    info = Path("/proc/cpuinfo")
    models = [
        line.partition(":")[2].strip()
        for line in (info.read_text().splitlines() if info.exists() else [])
        if line.startswith("model name")
    ]
    return {
        "cpu": models[0] if models else platform.processor() or platform.machine(),
        "cores": CORES,
        "load before": f"{os.getloadavg()[0]:.1f}",
        "python": platform.python_version(),
        **{
            name: import_module(name).__version__ if find_spec(name) else "not installed"
            for name in ("numpy", "torch", "faiss", "numba")
        },
    }


def opening(options: argparse.Namespace, command: str) -> str:
    """The line above all tables."""
    told = ", ".join(f"{name} {value}" for name, value in options.machine.items())
    subset = f" At most {options.queries:,} queries." if options.queries else ""
    subset += f" At most {options.database:,} items." if options.database else ""
    return (
        f"{told}.\nSeed {options.seed}, {options.rounds} rounds, medians; one thread unless "
        f"stated.{subset}\nCommand: {command}\n"
    )


def first_calls(results: Sequence[Result]) -> str:
    """What loading and compiling costs, once for a machine and once for a process."""
    ours = [e for r in results for e in r.entries if e.name.startswith("numba") and e.rounds]
    if not ours:
        return ""
    cold = max(entry.first for entry in ours)
    warm = statistics.median(one["first"] for entry in ours for one in entry.rounds)
    return f"numba's first call: {cold:.2f} s, in later processes {warm:.2f} s; not in the times.\n"


def tell(text: str) -> None:
    """Progress, beside the tables."""
    print(text, file=sys.stderr, flush=True)


def saved(results: Sequence[Result], options: argparse.Namespace, command: str) -> str:
    """Every measurement, as JSON."""
    for result in results:
        for one in (one for entry in result.entries for one in entry.rounds):
            one.pop("more", None)
    return json.dumps(
        {
            "machine": options.machine,
            "command": command,
            "seed": options.seed,
            "cases": [asdict(result) for result in results],
        },
        indent=1,
    )


def cases(options: argparse.Namespace) -> Iterator[Case]:
    """What is to be run, as small as was asked for."""
    for case in (case for name in options.work for case in SECTIONS[name]):
        work = case.work
        size = min(work.database, options.database or work.database)
        top = None if work.top is None else min(work.top, size)
        asked = min(work.queries, options.queries or work.queries)
        names = tuple(name for name in case.names if name in options.contenders)
        yield replace(case, work=replace(work, database=size, top=top, queries=asked), names=names)


def parsed(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("--work", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    add("--contenders", nargs="+", choices=CONTENDERS, default=list(CONTENDERS))
    add("--rounds", type=int, default=5)
    add("--queries", type=int, help="at most so many queries")
    add("--database", type=int, help="at most so many items")
    add("--seed", type=int, default=0)
    add("--seconds", type=float, default=60, help="for one measurement; longer: fewer queries")
    add("--memory", type=float, default=12_000, help="MB, for a contender that holds all pairs")
    add("--json", type=Path, help="every measurement into this file")
    add("--markdown", action="store_true", help="print Markdown")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> int:
    """Prints the tables; 1 if one fails, or some do not agree that must."""
    if list(arguments) == ["--child"]:
        print(json.dumps(measured(json.loads(sys.stdin.read()))))
        return 0
    options = parsed(arguments)
    options.machine = machine()
    command = shlex.join(["python", "benchmarks/retrieval.py", *arguments])
    print(opening(options, command))
    results = []
    with tempfile.TemporaryDirectory(prefix="deephash-") as folder:
        for case in cases(options):
            results.append(run_case(case, options, Path(folder)))
            print(shown(results[-1], options.markdown), flush=True)
            if options.json:
                options.json.write_text(saved(results, options, command))
    print(first_calls(results))
    return 0 if all(result.fine for result in results) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
