"""Allowed values of options that both the configuration and the library check."""

from enum import Enum


class Ties(Enum):
    """Order of database items at the same distance."""

    expected = "expected"
    stable = "stable"
    shuffled = "shuffled"
    best = "best"
    worst = "worst"


class Denominator(Enum):
    """Number by which the summed precisions of a query are divided in AP@R."""

    hits = "hits"
    min = "min"
    total = "total"
    R = "R"


class Empty(Enum):
    """Treatment of queries without a relevant result."""

    zero = "zero"
    skip_retrieved_none = "skip_retrieved_none"
    skip_no_relevant = "skip_no_relevant"
    skip_unlabelled = "skip_unlabelled"


class Backend(Enum):
    """Implementation that counts distances; all give identical results."""

    auto = "auto"  # torch on a CUDA device, else numba if it is installed and pays, else numpy
    numpy = "numpy"
    numba = "numba"
    torch = "torch"
