"""Seconds to draw each codebook, and how far its rows are apart: python benchmarks/codebooks.py."""

import platform
import time

import torch

from deephash.errors import ConfigError
from deephash.models.codebooks import Balanced, Bernoulli, Hadamard, MaxHamming, spread

SIZES = ((10, 16), (10, 64), (21, 32), (100, 16), (100, 32), (100, 64), (100, 128), (1000, 64))
KINDS = {"max_hamming": MaxHamming, "hadamard": Hadamard, "balanced": Balanced,
         "bernoulli": Bernoulli}  # fmt: skip


def cell(kind: type, classes: int, nbit: int) -> str:
    """Seconds, least and mean distance of one book, seed 0."""
    began = time.perf_counter()
    try:
        book = kind(classes, nbit, seed=0)
    except ConfigError:
        return "does not exist"
    seconds = time.perf_counter() - began
    least, mean = spread(book())
    return f"{seconds:.2f} s, {least}, {mean:.2f}"


def main() -> None:
    """Prints a Markdown table."""
    torch.set_num_threads(1)
    MaxHamming(4, 16, seed=0)  # warm
    print(f"{platform.processor() or platform.machine()}, one thread, torch {torch.__version__}\n")
    print("| classes, bits | " + " | ".join(KINDS) + " |")
    print("|---" * (len(KINDS) + 1) + "|")
    for classes, nbit in SIZES:
        cells = [cell(kind, classes, nbit) for kind in KINDS.values()]
        print(f"| {classes}, {nbit} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
