"""Measure how long each codebook takes to generate, and the distances of its rows."""

import sys
from collections.abc import Sequence

import torch
from harness import Report, parser, table, time_calls

from deephash.errors import ConfigError
from deephash.models.codebooks import Balanced, Bernoulli, Hadamard, MaxHamming, spread

SIZES = ((10, 16), (10, 64), (21, 32), (100, 16), (100, 32), (100, 64), (100, 128), (1000, 64))
KINDS = {
    "max_hamming": MaxHamming, "hadamard": Hadamard, "balanced": Balanced, "bernoulli": Bernoulli,
}  # fmt: skip


def cell(kind: type, classes: int, nbit: int) -> str:
    """Return the seconds, and the least and mean distance of a codebook with seed 0."""
    try:
        seconds, book = time_calls(lambda: kind(classes, nbit, seed=0))
    except ConfigError:
        return "does not exist"
    least, mean = spread(book())
    return f"{seconds:.2f} s, {least}, {mean:.2f}"


def main(arguments: Sequence[str]) -> int:
    """Print the table."""
    report = Report(__file__, arguments, parser(__doc__).parse_args(arguments))
    torch.set_num_threads(1)
    MaxHamming(4, 16, seed=0)  # the first call also loads what it needs
    rows = [["classes, bits", *KINDS]]
    for classes, nbit in SIZES:
        cells = [cell(kind, classes, nbit) for kind in KINDS.values()]
        rows.append([f"{classes}, {nbit}", *cells])
    report.add(table(rows))
    report.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
