"""Compare the retrieval metrics of deephash with the usual routine and with FAISS.

In each round each contender runs once, in a process of its own with its own number of threads. It
first does the job on a small part, which loads and compiles what it needs, then on the whole, and
that one call is measured: CPU and wall seconds, and the peak memory in addition to the inputs. The
tables contain medians over the rounds; a ratio is the median of the ratios in each round.

Inputs, which are not measured. The usual routine (``field``): codes of -1 and +1 and multi-hot
labels, both floats. All others: packed codes, and labels as they are; for FAISS, several labels
are bits of one number. ``limit`` is not a contender but a lower bound for all exact ones: the sum
of the distances of all pairs.
"""

import argparse
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import harness
import numpy as np
import torch
from harness import Report, Series, Stopwatch, Values, cores, figure, median_ratio, peak_memory

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

CUTS = range(100, 1001, 100)
RADIUS = 2
FIELD_BATCH = 100  # queries
FAISS_BLOCK = 1 << 20  # results of one search
AP_BLOCK = 1 << 18  # results whose labels are compared at once
DRAW = 1 << 17  # codes drawn at once
TILE = 2048  # codes that stay in the fastest cache
TOLERANCE = 1e-12
DISAGREES = "DISAGREES"


# The work


@dataclass(frozen=True)
class Work:
    """Sizes of a retrieval task; ``top`` is R, None for all items."""

    queries: int
    database: int
    top: int | None
    classes: int
    nbit: int = 64
    multi: bool = False  # several labels an item, 2.39 on average, long-tailed

    def __str__(self) -> str:
        top = "all" if self.top is None else f"{self.top:,}"
        labels = "labels, 2.39 an item" if self.multi else "classes"
        return (
            f"{self.queries:,} queries × {self.database:,} items, {self.nbit} bits, R = {top}, "
            f"{self.classes} {labels}"
        )

    def limited(self, queries: int | None, database: int | None) -> "Work":
        """Return the work with at most these numbers of queries and items."""
        items = min(self.database, database or self.database)
        top = None if self.top is None else min(self.top, items)
        return replace(
            self, queries=min(self.queries, queries or self.queries), database=items, top=top
        )


W1 = Work(1_000, 59_000, None, 10)  # CIFAR-10
W2 = Work(5_000, 128_503, 1_000, 100)  # ImageNet100
W3 = Work(2_100, 193_734, 5_000, 21, multi=True)  # NUS-WIDE
W10M = Work(1_000, 10_000_000, 1_000, 10)


@dataclass(frozen=True)
class Load:
    """The inputs of a task."""

    query_codes: Array  # (Q, K / 8) uint8
    database_codes: Array  # (N, K / 8) uint8
    query_labels: Array  # (Q,) classes, or (Q, C) uint8 multi-hot
    database_labels: Array  # (N,) or (N, C)
    nbit: int  # K
    top: int | None

    def part(self, queries: int, items: int | None = None) -> "Load":
        """Return the first queries and the first items."""
        items = len(self.database_codes) if items is None else items
        return replace(
            self,
            query_codes=self.query_codes[:queries],
            database_codes=self.database_codes[:items],
            query_labels=self.query_labels[:queries],
            database_labels=self.database_labels[:items],
            top=None if self.top is None else min(self.top, items),
        )

    def arrays(self) -> tuple[Array, Array, Array, Array, int]:
        """Return the arguments of ``histograms`` and ``Ranking``."""
        return (self.query_codes, self.database_codes, self.query_labels, self.database_labels,
                self.nbit)  # fmt: skip

    def save(self, folder: Path) -> None:
        """Save the arrays for the processes of the contenders."""
        arrays = {key: value for key, value in vars(self).items() if isinstance(value, np.ndarray)}
        np.savez(folder / "load.npz", **arrays)

    @classmethod
    def read(cls, folder: Path, nbit: int, top: int | None) -> "Load":
        """Read what ``save`` wrote."""
        with np.load(folder / "load.npz") as arrays:
            return cls(**arrays, nbit=nbit, top=top)


def draw(work: Work, seed: int) -> Load:
    """Draw codes around a random center for each class, with 15 to 25 % of the bits flipped."""
    rng = np.random.default_rng(seed)
    centers = rng.random((work.classes, work.nbit)) < 0.5
    sides = []
    for size in (work.database, work.queries):  # fewer queries have the same database
        labels = draw_labels(work, size, rng)
        sides.append((draw_codes(labels, centers, rng), labels))
    (database, database_labels), (query, query_labels) = sides
    return Load(query, database, query_labels, database_labels, work.nbit, work.top)


def draw_labels(work: Work, size: int, rng: np.random.Generator) -> Array:
    """Draw balanced classes (size,), or multi-hot labels (size, C), the k-th 1/k as frequent."""
    if not work.multi:
        return rng.permutation(np.arange(size) % work.classes)
    number = np.minimum(1 + rng.poisson(1.39, size), work.classes)
    scores = rng.gumbel(size=(size, work.classes)) - np.log(np.arange(1, work.classes + 1))
    return ((-scores).argsort(axis=1).argsort(axis=1) < number[:, None]).astype(np.uint8)


def draw_codes(labels: Array, centers: Array, rng: np.random.Generator) -> Array:
    """Draw packed codes (size, K / 8); with several labels, the majority decides each bit."""
    parts = []
    for start in range(0, len(labels), DRAW):
        label = labels[start : start + DRAW]
        if label.ndim == 1:
            bits = centers[label]
        else:
            votes = label @ (centers * 2.0 - 1)
            bits = np.where(votes == 0, rng.random(votes.shape) < 0.5, votes > 0)
        share = rng.uniform(0.15, 0.25, (len(bits), 1))
        flipped = rng.random(bits.shape, dtype=np.float32) < share
        parts.append(np.packbits(bits ^ flipped, axis=1))
    return np.concatenate(parts)


# The usual routine


def as_floats(load: Load) -> tuple[torch.Tensor, torch.Tensor, Array, Array, int | None]:
    """Return codes of -1 and +1 and one-hot or multi-hot labels, as floats."""
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


def field(inputs: tuple[Any, ...], threads: int) -> Values:
    """Compute mAP@R as most published code does: all distances by matrix product, sort, loop."""
    query, database, query_labels, database_labels, top = inputs
    nbit, size = query.shape[1], len(database)
    distance = torch.cat([0.5 * (nbit - part @ database.T) for part in query.split(FIELD_BATCH)])
    if top is None:
        nearest = distance.argsort(dim=1).numpy()
    else:
        nearest = distance.topk(top, dim=1, largest=False).indices.numpy()
    rank = np.arange(1, (top or size) + 1)
    precisions = []
    for label, order in zip(query_labels, nearest, strict=True):
        relevant = database_labels[order] @ label > 0
        hits = relevant.cumsum()
        precisions.append((hits / rank * relevant).sum() / max(1, hits[-1]))
    return {"map": float(np.mean(precisions))}


# FAISS


def as_bit_labels(load: Load) -> Load:
    """Return multi-hot labels as the bits of one number."""
    if load.database_labels.ndim == 1:
        return load
    bit = 1 << np.arange(load.database_labels.shape[1], dtype=np.uint32)
    query, database = ((hot * bit).sum(axis=1, dtype=np.uint32)
                       for hot in (load.query_labels, load.database_labels))  # fmt: skip
    return replace(load, query_labels=query, database_labels=database)


def faiss_flat(load: Load, threads: int, heap: bool) -> Values:
    """Compute mAP@R from IndexBinaryFlat, with a counting sort or its default, a heap."""
    import faiss

    faiss.omp_set_num_threads(threads)
    index = faiss.IndexBinaryFlat(8 * load.database_codes.shape[1])
    index.use_heap = heap  # type: ignore[attr-defined]
    index.add(load.database_codes)
    top = index.ntotal if load.top is None else load.top
    precisions = []
    for queries in blocks(len(load.query_codes), FAISS_BLOCK // top):
        _, nearest = index.search(load.query_codes[queries], top)
        query_labels = load.query_labels[queries]
        for rows in blocks(len(nearest), AP_BLOCK // top):
            labels, label = load.database_labels[nearest[rows]], query_labels[rows, None]
            relevant = labels == label if labels.dtype != np.uint32 else (labels & label) != 0
            precisions.append(average_precision(relevant))
    return {"map": float(np.concatenate(precisions).mean())}


def average_precision(relevant: Array) -> Array:
    """Return the average precision of each row of (rows, R) bool, nearest item first."""
    hits = relevant.cumsum(axis=1, dtype=np.int32)
    precision = np.divide(hits, np.arange(1, relevant.shape[1] + 1))
    precision *= relevant
    return precision.sum(axis=1) / np.maximum(1, hits[:, -1])


def blocks(size: int, step: int) -> Iterator[slice]:
    """Return slices that cover ``size``."""
    step = max(1, step)
    return (slice(start, start + step) for start in range(0, size, step))


# deephash


def everything(load: Load, threads: int, engine: str, device: str | None = None) -> Values:
    """Compute mAP@R with expected ties, P@N, precision and recall by radius, P@H<=2."""
    hist = histograms(*load.arrays(), Engine(engine, threads, device))
    curve = pr_curve_by_radius(hist)
    at = precision_at(hist, [cut for cut in CUTS if cut <= hist.size])
    ball = precision_within_radius(hist, RADIUS)
    return {
        "map": mean_average_precision(hist, Convention(top=load.top)).value,
        "more": np.concatenate([
            list(at.values()), ball, curve.precision_macro, curve.recall_macro,
            curve.precision_micro, curve.recall_micro,
        ]).tolist(),
    }  # fmt: skip


def in_order(load: Load, threads: int, engine: str) -> Values:
    """Compute mAP@R with ties in the order of the database."""
    ranking = Ranking(*load.arrays(), Engine(engine, threads))
    return {"map": mean_average_precision(ranking, Convention(top=load.top, ties="stable")).value}


def bounds(load: Load, threads: int) -> Values:
    """Compute mAP@R with the relevant of tied items last and first: limits for any order."""
    hist = histograms(*load.arrays())
    return {
        ties: mean_average_precision(hist, Convention(top=load.top, ties=ties)).value
        for ties in ("worst", "best")
    }


# The limit


def as_u64(load: Load) -> tuple[Array, Array]:
    """Return the codes as (W, Q) and (W, N) uint64."""

    def words(packed: Array) -> Array:
        padded = np.pad(packed, ((0, 0), (0, -packed.shape[1] % 8)))
        return np.ascontiguousarray(padded.view(np.uint64).T)

    return words(load.query_codes), words(load.database_codes)


def all_pairs(inputs: tuple[Array, Array], threads: int) -> Values:
    """Compute the mean of all distances."""
    query, database = inputs
    kernel = sum_kernel()
    total = sum(int(kernel(q, d)) for q, d in zip(query, database, strict=True))
    return {"distance": total / query.shape[1] / database.shape[1]}


@cache
def sum_kernel() -> Callable[[Array, Array], int]:
    """Return a loop that compiles to the processor's vector instruction that counts bits."""
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
                for i in range(len(tile)):  # vectorized; a loop over items is not
                    result += ones(q ^ tile[i])  # type: ignore[call-arg]
        return result

    return total


# Contenders


@dataclass(frozen=True)
class Contender:
    """One way to do the job."""

    run: Callable[[Any, int], Values]  # prepared inputs, threads
    ties: str  # how it orders tied items
    gives: str = "mAP"
    prepare: Callable[[Load], Any] = lambda load: load  # not measured
    needs: str = ""  # a package, or cuda
    pair_bytes: int = 0  # memory for each pair of query and item, all pairs at once


CONTENDERS = {
    "field": Contender(field, "any", prepare=as_floats, pair_bytes=12),
    "faiss-counting": Contender(
        partial(faiss_flat, heap=False), "stable", prepare=as_bit_labels, needs="faiss"
    ),
    "faiss-heap": Contender(
        partial(faiss_flat, heap=True), "stable", prepare=as_bit_labels, needs="faiss"
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
    """A table: a task, its contenders, and their numbers of threads."""

    name: str
    work: Work
    names: tuple[str, ...] = MAIN
    threads: tuple[int, ...] = (1,)


SECTIONS = {
    "W1": [Case("W1", W1)],
    "W2": [Case("W2", W2)],
    "W3": [Case("W3", W3)],
    "scaling": [
        Case(f"scaling, {size:,}", replace(W10M, database=size), FEWER)
        for size in (59_000, 1_000_000, 10_000_000)
    ],
    "bits": [Case(f"bits, {nbit}", replace(W1, nbit=nbit), FEWER) for nbit in (16, 32, 64, 128)],
    "threads": [
        Case(f"threads, {name}", work, THREADED, (1, cores()))
        for name, work in (("W1", W1), ("W2", W2))
    ],
}


def measured(request: Values) -> Values:
    """Measure a contender in this process."""
    torch.set_num_threads(request["threads"])
    name = request["contender"]
    contender = BOUNDS if name == "bounds" else CONTENDERS[name]
    load = Load.read(Path(request["folder"]), request["nbit"], request["top"])
    load = load.part(request["queries"])
    small = load.part(64, 2_000)
    if small.top is not None:  # a cut among near items, so that everything is compiled
        small = replace(small, top=50)
    first, _ = harness.time_calls(
        lambda: contender.run(contender.prepare(small), request["threads"])
    )
    inputs = contender.prepare(load)
    before = peak_memory(reset=True)
    with Stopwatch() as watch:
        result = contender.run(inputs, request["threads"])
    peak = peak_memory() - before
    return result | {"first": first, "cpu": watch.cpu, "wall": watch.wall, "peak_mb": peak / 1e6}


def run(request: Values, folder: Path) -> Values:
    """Measure a contender in a process of its own."""
    cuda = request["contender"] == "cuda"
    return harness.spawn(
        __file__, request | {"folder": str(folder)}, cuda, NUMBA_CACHE_DIR=str(folder / "numba")
    )


# One case


@dataclass
class Result:
    """The measurements of a case."""

    case: Case
    entries: list[Series]
    checks: list[str]
    correct: bool  # no contender failed, and the results agree


def run_case(case: Case, options: argparse.Namespace, folder: Path) -> Result:
    """Draw the data, choose the numbers of queries, measure, and compare the results."""
    draw(case.work, options.seed).save(folder)
    entries = [
        plan(name, threads, case.work, options, folder)
        for name in filter(installed, case.names)
        for threads in sorted(set(case.threads))
    ]
    harness.alternate(
        entries, lambda series: run(series.request, folder), options.rounds, label=case.name
    )
    common = {"nbit": case.work.nbit, "top": case.work.top, "contender": "bounds", "threads": 1}
    checks = compare(entries, lambda queries: run(common | {"queries": queries}, folder))
    agree = not any(check.startswith(DISAGREES) for check in checks)
    return Result(case, entries, checks, agree and not any(entry.failed for entry in entries))


def installed(name: str) -> bool:
    """Return whether a contender can run here."""
    needs = CONTENDERS[name].needs
    if needs == "cuda":
        return torch.cuda.is_available()
    return not needs or find_spec(needs) is not None


def plan(name: str, threads: int, work: Work, options: argparse.Namespace, folder: Path) -> Series:
    """Choose the number of queries: fewer than all if time or memory would not suffice."""
    queries, pair_bytes = work.queries, CONTENDERS[name].pair_bytes
    if pair_bytes:
        queries = min(queries, max(1, int(options.memory * 1e6 / pair_bytes / work.database)))
    few = min(queries, max(4, work.queries // 50))
    request = {"nbit": work.nbit, "top": work.top, "contender": name, "threads": threads,
               "queries": few}  # fmt: skip
    trial = run(request, folder)
    if "failed" in trial:
        return Series(name, request, failed=trial["failed"])
    request["queries"] = max(few, min(queries, int(options.seconds * few / trial["wall"])))
    request["first"] = trial["first"]  # seconds of the very first call
    return Series(name, request, scale=work.queries / request["queries"])


def compare(entries: list[Series], bounds_of: Callable[[int], Values]) -> list[str]:
    """Compare the results of contenders with the same queries; report which agree."""
    checks = []
    complete = [entry for entry in entries if entry.rounds and "map" in entry.rounds[0]]
    for queries in sorted({entry.request["queries"] for entry in complete}, reverse=True):
        same = [entry for entry in complete if entry.request["queries"] == queries]
        for ties in ("expected", "stable"):
            checks += check_equal(ties, [e for e in same if CONTENDERS[e.name].ties == ties])
        checks += check_bounds(queries, same, bounds_of(queries))
    return checks


def check_equal(ties: str, entries: list[Series]) -> list[str]:
    """Check that contenders with the same order of ties give equal numbers."""
    if not entries:
        return []
    numbers = [[one["map"], *one.get("more", [])] for entry in entries for one in entry.rounds]
    apart = float(np.ptp(np.array(numbers), axis=0).max())
    names = ", ".join(dict.fromkeys(entry.name for entry in entries))
    check = f"{ties}: {names}: at most {apart:.1g} apart"
    return [check if apart <= TOLERANCE else f"{DISAGREES}: {check}"]


def check_bounds(queries: int, entries: list[Series], limits: Values) -> list[str]:
    """Check that each mAP is between those of the worst and the best order of ties."""
    if "failed" in limits:
        return [f"{DISAGREES}: no bounds: {limits['failed']}"]
    worst, best = limits["worst"], limits["best"]
    return [
        f"{queries:,} queries, any order of ties: mAP {worst:.5f} to {best:.5f}",
        *(
            f"{DISAGREES}: {entry.name}: mAP {value}"
            for entry in entries
            for value in entry.values("map")
            if not worst - TOLERANCE <= value <= best + TOLERANCE
        ),
    ]


# Tables


def contender_table(result: Result) -> list[list[str]]:
    """Return a row for each contender."""
    by_name = {entry.name: entry for entry in result.entries if entry.rounds}
    work = result.case.work
    rows = [["contender", "ties", "gives", "CPU s", "wall s", "field / it", "FAISS / it",
             "ns a pair", "it / limit", "peak MB", "mAP"]]  # fmt: skip
    for entry in result.entries:
        contender = CONTENDERS[entry.name]
        row = [starred(entry), contender.ties, contender.gives]
        if not entry.rounds:
            rows.append(row + ["–"] * 8)
            continue
        cpu, wall = (statistics.median(entry.times(clock)) for clock in ("cpu", "wall"))
        rows.append([
            *row, figure(cpu), figure(wall),
            ratio(by_name.get("field"), entry), ratio(by_name.get("faiss-counting"), entry),
            figure(cpu * 1e9 / work.queries / work.database),
            ratio(entry, by_name.get("limit")), f"{entry.median('peak_mb'):,.0f}",
            f"{entry.rounds[0]['map']:.5f}" if "map" in entry.rounds[0] else "",
        ])  # fmt: skip
    return rows


def threads_table(result: Result) -> list[list[str]]:
    """Return a row for each contender: one thread and all."""
    rows = [["contender", "wall s, 1", f"wall s, {cores()}", "faster", "CPU s, 1",
             f"CPU s, {cores()}", "peak MB, 1", f"peak MB, {cores()}"]]  # fmt: skip
    for name in filter(installed, result.case.names):
        entries = [entry for entry in result.entries if entry.name == name]
        one, all_ = entries[0], entries[-1]
        if not one.rounds or not all_.rounds:
            rows.append([name, *["–"] * 7])
            continue
        wall, cpu = ([figure(statistics.median(entry.times(clock))) for entry in (one, all_)]
                     for clock in ("wall", "cpu"))  # fmt: skip
        peak = [f"{entry.median('peak_mb'):,.0f}" for entry in (one, all_)]
        rows.append([starred(one), *wall, ratio(one, all_, "wall"), *cpu, *peak])
    return rows


def starred(entry: Series) -> str:
    """Return the name of a contender, with a star if it had only part of the queries."""
    return f"{entry.name}*" if entry.scale > 1 else entry.name


def ratio(above: Series | None, below: Series | None, clock: str = "cpu") -> str:
    """Return the median of the ratios of the times in each round."""
    if above is None or below is None:
        return "–"
    return median_ratio(above.times(clock), below.times(clock))


def notes(result: Result) -> list[str]:
    """Return what to know when reading the table."""
    lines = [
        f"{starred(entry)}: {entry.request['queries']:,} queries; the times are scaled to "
        f"{result.case.work.queries:,}, the peak is not"
        for entry in result.entries
        if entry.scale > 1 and entry.rounds
    ]
    lines += [f"{entry.name}: {entry.failed}" for entry in result.entries if entry.failed]
    lines += [
        f"{name}: {CONTENDERS[name].needs} is not installed"
        for name in result.case.names
        if not installed(name)
    ]
    return lines + result.checks


def first_calls(results: Sequence[Result]) -> str:
    """Describe the cost of compiling, once on a machine, and of loading, once in a process."""
    compiled = [entry for result in results for entry in result.entries
                if entry.name.startswith("numba") and entry.rounds]  # fmt: skip
    if not compiled:
        return ""
    cold = max(entry.request["first"] for entry in compiled)
    warm = statistics.median(value for entry in compiled for value in entry.values("first"))
    return f"numba's first call: {cold:.2f} s, in later processes {warm:.2f} s; not in the times."


def cases(options: argparse.Namespace) -> Iterator[Case]:
    """Yield the selected cases, within the given limits."""
    for case in (case for name in options.work for case in SECTIONS[name]):
        work = case.work.limited(options.queries, options.database)
        names = tuple(name for name in case.names if name in options.contenders)
        yield replace(case, work=work, names=names)


def main(arguments: Sequence[str]) -> int:
    """Print the tables; 1 if a contender failed, or if results that must agree do not."""
    if list(arguments) == ["--child"]:
        return harness.serve(measured)
    command_line = harness.parser(
        __doc__, rounds=5, seed=0, seconds=60.0, json=None, markdown=False
    )
    add = command_line.add_argument
    add("--work", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    add("--contenders", nargs="+", choices=CONTENDERS, default=list(CONTENDERS))
    add("--queries", type=int, help="largest number of queries")
    add("--database", type=int, help="largest number of items")
    add("--memory", type=float, default=12_000, help="MB for a contender that keeps all pairs")
    options = command_line.parse_args(arguments)
    report = Report(__file__, arguments, options)
    header = f"Seed {options.seed}, {options.rounds} rounds, medians; one thread unless stated."
    if options.queries:
        header += f" At most {options.queries:,} queries."
    if options.database:
        header += f" At most {options.database:,} items."
    report.add(header)
    results: list[Result] = []
    with tempfile.TemporaryDirectory(prefix="deephash-") as folder:
        for case in cases(options):
            result = run_case(case, options, Path(folder))
            results.append(result)
            rows = threads_table(result) if len(case.threads) > 1 else contender_table(result)
            report.add(f"### {case.name}: {case.work}", harness.table(rows, options.markdown),
                       "\n".join(f"- {note}" for note in notes(result)))  # fmt: skip
            for values in (values for entry in result.entries for values in entry.rounds):
                values.pop("more", None)
            report.save(seed=options.seed, cases=[asdict(one) for one in results])
    if text := first_calls(results):
        report.add(text)
    report.close()
    return int(not all(result.correct for result in results))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
