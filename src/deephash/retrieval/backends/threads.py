"""Work shared out over threads."""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Given = TypeVar("Given")
Made = TypeVar("Made")


def shared_out(
    function: Callable[[Given], Made], given: Iterable[Given], threads: int
) -> list[Made]:
    """The results in order; threads help where the function lets go of the interpreter."""
    if threads == 1:
        return [function(one) for one in given]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(function, given))
