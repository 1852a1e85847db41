"""Compute results in threads, in order and a few ahead."""

import os
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def default_workers() -> int:
    """Return the default number of threads: one per usable core, at most 16."""
    affinity = getattr(os, "sched_getaffinity", None)
    return min(16, len(affinity(0)) if affinity else os.cpu_count() or 1)


def prefetch(
    function: Callable[[T], R], items: Sequence[T], threads: int | None = None
) -> Generator[R, None, None]:
    """Yield `function(item)` in order, computed in threads while earlier results are in use.

    Results of up to twice as many items as threads are kept in memory. When the iterator is closed,
    running calls are awaited and others cancelled. `threads` is by default ``default_workers()``.
    """
    threads = threads or default_workers()
    with ThreadPoolExecutor(threads) as pool:
        pending = deque(pool.submit(function, item) for item in items[: 2 * threads])
        try:
            for item in items[2 * threads :]:
                result = pending.popleft().result()
                pending.append(pool.submit(function, item))
                yield result
            while pending:
                yield pending.popleft().result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
