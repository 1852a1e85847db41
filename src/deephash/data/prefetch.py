"""Compute results in threads, in order and a few ahead."""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import islice
from typing import TypeVar

from deephash.utils.processors import usable_cores

T = TypeVar("T")
R = TypeVar("R")


def default_workers() -> int:
    """Return the default number of threads: one per usable core, at most 16."""
    return min(16, usable_cores())


def prefetch(
    function: Callable[[T], R],
    items: Iterable[T],
    threads: int | None = None,
    ahead: int | None = None,
    block: int = 1,
) -> Generator[R, None, None]:
    """Yield `function(item)` in order, computed in threads while earlier results are in use.

    When the iterator is closed, running calls are awaited and others cancelled.

    Args:
        function: called in a thread for each item.
        items: read in the calling thread.
        threads: by default ``default_workers()``.
        ahead: number of results that may be in memory; by default twice the number of threads.
        block: number of items that a thread takes at once. Handing over an item takes some 50
            microseconds, so larger blocks are faster for short calls.
    """
    threads = threads or default_workers()
    if block > 1:
        iterator, tasks = iter(items), -(-(ahead or 0) // block)
        blocks = iter(lambda: list(islice(iterator, block)), [])
        results = prefetch(lambda part: list(map(function, part)), blocks, threads, tasks)
        with closing(results):
            for part in results:
                yield from part
        return
    remaining = iter(items)
    with ThreadPoolExecutor(threads) as pool:
        first = islice(remaining, max(ahead or 0, 2 * threads))
        pending = deque(pool.submit(function, item) for item in first)
        try:
            for item in remaining:
                result = pending.popleft().result()
                pending.append(pool.submit(function, item))
                yield result
            while pending:
                yield pending.popleft().result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
