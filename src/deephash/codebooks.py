"""Class centers: modules whose ``forward()`` gives ``(C, K)``.

Fixed codebooks are buffers of -1 and +1, drawn from a generator of their own; learned ones are
parameters. Distances between rows are Hamming distances, in bits.
"""

import math

import torch
from torch import Tensor, nn

from deephash.errors import ConfigError
from deephash.records import generator


class Codebook(nn.Module):
    """A fixed codebook.

    Args:
        rows: ``(C, K)`` of -1 and +1.
    """

    rows: Tensor  # (C, K)

    def __init__(self, rows: Tensor) -> None:
        super().__init__()
        self.register_buffer("rows", rows.float())

    def forward(self) -> Tensor:
        return self.rows


class Bernoulli(Codebook):
    """Each bit +1 or -1 with equal chance (OrthoHash's default)."""

    def __init__(self, num_classes: int, nbit: int, seed: int) -> None:
        super().__init__(signs(num_classes, nbit, generator(seed, "codebook")))


class MaxHamming(Codebook):
    """Rows far from each other, by rejection with a falling threshold (MaxHD).

    The default of RelaHash, the "optimised" codebook of OrthoHash.

    Args:
        num_classes: C.
        nbit: K.
        seed: of the draw.
        threshold: smallest distance accepted at first, as a part of K.
        step: what the threshold loses after ``tries`` rejections.
        floor: the threshold below which the search gives up, as a part of K.
        tries: rejections, counted over all rows, before the threshold falls.
    """

    def __init__(
        self,
        num_classes: int,
        nbit: int,
        seed: int,
        threshold: float = 0.61,
        step: float = 0.01,
        floor: float = 0.2,
        tries: int = 10_000,
    ) -> None:
        rng = generator(seed, "codebook")
        super().__init__(max_hamming(num_classes, nbit, rng, threshold, step, floor, tries))


class Learned(nn.Module):
    """Centers learned with the rest, drawn from a standard normal distribution."""

    def __init__(self, num_classes: int, nbit: int, seed: int) -> None:
        super().__init__()
        rows = torch.randn(num_classes, nbit, generator=generator(seed, "codebook"))
        self.rows = nn.Parameter(rows)

    def forward(self) -> Tensor:
        return self.rows


def signs(rows: int, nbit: int, rng: torch.Generator) -> Tensor:
    """Fair random bits as -1 and +1: ``(rows, nbit)`` float32."""
    return torch.randint(0, 2, (rows, nbit), generator=rng).float() * 2 - 1


def max_hamming(
    num_classes: int,
    nbit: int,
    rng: torch.Generator,
    threshold: float = 0.61,
    step: float = 0.01,
    floor: float = 0.2,
    tries: int = 10_000,
) -> Tensor:
    """Greedy rejection with a falling threshold: ``(C, K)`` of -1 and +1.

    Candidates come one by one, and one at least ``threshold * K`` bits from every row so far is
    accepted; after ``tries`` rejections in all (an acceptance does not reset the count) the
    threshold falls by ``step``. The rows are shuffled at the end. Drawn and judged here a chunk at
    a time: the order of the candidates, and so the law of the result, is that of the loop.

    Raises:
        ConfigError: the threshold fell below ``floor``: there is no room for so many classes.
    """
    book = torch.empty(0, nbit)
    fails, drops = 0, 0
    while len(book) < num_classes:
        chunk = signs(tries, nbit, rng)
        nearest = torch.full((tries,), nbit, dtype=torch.float32)  # bits to the nearest row
        if len(book):
            nearest = ((nbit - chunk @ book.T) / 2).amin(dim=1)
        at = 0
        while at < tries and len(book) < num_classes:
            # thresholds are exact hundredths: no error adds up over the steps
            bits = math.ceil((threshold - drops * step) * nbit - 1e-9)
            window = nearest[at : at + tries - fails] >= bits
            hits = window.nonzero()
            if len(hits):
                first = int(hits[0])
                fails += first
                row = chunk[at + first]
                book = torch.cat([book, row[None]])
                nearest = torch.minimum(nearest, (nbit - chunk @ row) / 2)
                at += first + 1
            else:
                fails += len(window)
                at += len(window)
            if fails >= tries:
                fails, drops = 0, drops + 1
                if threshold - drops * step < floor - 1e-9:
                    raise ConfigError(
                        f"method.codebook  {num_classes} classes do not fit into {nbit} bits at"
                        f" a distance of {floor:g} * {nbit} bits.\n"
                        "                 Try more bits (model.nbit), or codebook=bernoulli."
                    )
    return book[torch.randperm(num_classes, generator=rng)]


def spread(rows: Tensor) -> tuple[int, float]:
    """Smallest and mean Hamming distance between two rows of ``(C, K)``, in bits."""
    rows = torch.where(rows >= 0, 1.0, -1.0)
    count, nbit = rows.shape
    if count < 2:
        return nbit, float(nbit)
    upper = torch.ones(count, count, device=rows.device).triu(1).bool()
    distances = ((nbit - rows @ rows.T) / 2)[upper]
    return int(distances.min()), float(distances.double().mean())
