"""Class centers: modules whose ``forward()`` returns ``(C, K)``.

Fixed codebooks are buffers of -1 and +1, drawn by a generator of their own; learned ones are
parameters. Distances between rows are Hamming distances, in bits.
"""

import math
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from deephash.errors import ConfigError
from deephash.types import generator
from deephash.utils.bounds import CountOrZero, Fraction, Interval

__all__ = [
    "Balanced",
    "Bernoulli",
    "Codebook",
    "Hadamard",
    "Learned",
    "MaxHamming",
    "balanced",
    "balanced_book",
    "hadamard",
    "linear_code",
    "max_hamming",
    "signs",
    "spread",
    "sylvester",
]

Tries = Annotated[int, Interval(1, 1_000_000)]

BUDGET = 30_000_000_000
"""Multiply-adds that the search for a balanced book may spend: seconds on one core."""

DISTANCES = 1 << 24
"""Distances between rows that are in memory at a time."""

LOOKED_AT = 512
"""Candidates of the greedy search that are compared with the book at a time."""

AT_ONCE = 2**28
"""Bits that the search for a book far apart may draw at once: 2 GiB."""

REDRAWS = 20
"""How often the rows beyond the Hadamard matrix are drawn anew with ``rest="redraw"``."""


LEXICODE = 24
"""Bits up to which `max_hamming` looks for a linear code where its search fails: seconds."""


class Codebook(nn.Module):
    """A fixed codebook; the base class of those that are drawn.

    Args:
        rows: (C, K) of -1 and +1.

    Example:
        >>> codebook = Codebook(torch.tensor([[1, -1], [-1, 1]]))
        >>> codebook()
        tensor([[ 1., -1.],
                [-1.,  1.]])
    """

    rows: Tensor  # (C, K)

    def __init__(self, rows: Tensor) -> None:
        super().__init__()
        self.register_buffer("rows", rows.float())

    def forward(self) -> Tensor:
        return self.rows


class Bernoulli(Codebook):
    """Random rows: each bit is +1 or -1 with probability 1/2 (OrthoHash's default).

    Args:
        num_classes: C.
        nbit: K.
        seed: of the draw.

    Example:
        >>> rows = Bernoulli(num_classes=3, nbit=8, seed=0)()
        >>> rows.shape, rows.unique().tolist()
        (torch.Size([3, 8]), [-1.0, 1.0])
    """

    def __init__(self, num_classes: int, nbit: int, seed: int) -> None:
        super().__init__(signs(num_classes, nbit, generator(seed, "codebook")))


class MaxHamming(Codebook):
    """Rows far from each other, by rejection sampling with a falling threshold (MaxHD).

    The default of RelaHash, and the "optimised" codebook of OrthoHash. If the search fails, the
    rows are words of a linear code, up to 24 bits.

    Args:
        num_classes: C.
        nbit: K.
        seed: of the draw.
        threshold: smallest distance accepted at first, as a part of K.
        step: decrease of the threshold after ``tries`` rejections.
        floor: the threshold below which the search gives up, as a part of K.
        tries: rejections, counted over all rows, before the threshold falls.

    Raises:
        ConfigError: no such rows are found.

    Example:
        >>> spread(MaxHamming(num_classes=3, nbit=16, seed=0)())[0] >= 0.5 * 16
        True
    """

    def __init__(
        self,
        num_classes: int,
        nbit: int,
        seed: int,
        threshold: Fraction = 0.61,
        step: Annotated[float, Interval(0, 1, above=True)] = 0.01,
        floor: Fraction = 0.2,
        tries: Tries = 10_000,
    ) -> None:
        rng = generator(seed, "codebook")
        super().__init__(max_hamming(num_classes, nbit, rng, threshold, step, floor, tries))


class Hadamard(Codebook):
    """The first C rows of [H; -H], with Sylvester's Hadamard matrix H (CSQ).

    Any two of the first K rows differ in exactly K / 2 bits, and row K + i is the negative of
    row i. All bits of the first row are +1. The seed matters only if rows are drawn: for more than
    2 K classes, or if K is no power of two.

    Args:
        num_classes: C.
        nbit: K.
        seed: of the draw.
        rest: what to do beyond 2 K classes. ``all``: every row is drawn balanced, as in
            ``Balanced`` (CSQ). ``redraw``: [H; -H] is kept and balanced rows follow, drawn up to
            20 times until the book's least distance exceeds K / 4 and its mean is K / 2 or more;
            otherwise the last draw is used (swuxyj). ``once``: the same with one draw and no
            check (the copies in RelaHash and FIRe). If K is no power of two, only ``all`` works.
        skip_ones: start with the second row of H, as CSQ's centers for NUS-WIDE-21 at 32 and 64
            bits do; then there are 2 K - 1 rows before ``rest`` matters.
        tries: largest number of draws of whole books with ``all``.

    Raises:
        ConfigError: there are no such rows.

    Example:
        >>> spread(Hadamard(num_classes=4, nbit=8, seed=0)())  # least and mean distance
        (4, 4.0)
    """

    def __init__(
        self,
        num_classes: int,
        nbit: int,
        seed: int,
        rest: Literal["all", "redraw", "once"] = "all",
        skip_ones: bool = False,
        tries: Tries = 10_000,
    ) -> None:
        rng = generator(seed, "codebook")
        super().__init__(hadamard(num_classes, nbit, rng, rest, tries, skip_ones))


class Balanced(Codebook):
    """Random rows with as many -1 as +1; whole books are drawn until one is accepted (CSQ).

    A row has exactly floor(K / 2) entries -1. A book is accepted if its least distance is at least
    the threshold and its mean distance at least K / 2. If no book is accepted, the best one is
    used: that of the largest least distance, and among those of the largest mean. With many classes
    for the bits it may contain a row twice.

    A draw costs C * C * K multiply-adds, and all draws together at most ``BUDGET``: ``tries`` =
    10,000 up to 216 classes at 64 bits, but 468 draws at 1,000 classes.

    Args:
        num_classes: C.
        nbit: K.
        seed: of the draw.
        threshold: least distance that accepts a book, in bits. None: the largest even number up
            to K / 3, which is 20 for 64 bits, and 2 below 12 bits: no row twice. Distances between
            balanced rows are even.
        tries: largest number of draws of whole books.

    Raises:
        ConfigError: there are fewer balanced rows than classes.

    Example:
        >>> rows = Balanced(num_classes=3, nbit=8, seed=0)()
        >>> rows.sum(dim=1).tolist(), spread(rows)[0] >= 2
        ([0.0, 0.0, 0.0], True)
    """

    def __init__(
        self,
        num_classes: int,
        nbit: int,
        seed: int,
        threshold: CountOrZero | None = None,
        tries: Tries = 10_000,
    ) -> None:
        rng = generator(seed, "codebook")
        super().__init__(balanced_book(num_classes, nbit, rng, threshold, tries))


class Learned(nn.Module):
    """Learned centers: a parameter.

    Args:
        num_classes: C.
        nbit: K.
        seed: of the first values.
        init: their distribution. ``normal``: standard normal. ``linear``: uniform from
            -1 / sqrt(K) to 1 / sqrt(K), PyTorch's initial weight of a linear classifier.

    Example:
        >>> centers = Learned(num_classes=3, nbit=8, seed=0)()
        >>> centers.shape, centers.requires_grad
        (torch.Size([3, 8]), True)
    """

    learned: ClassVar[bool] = True

    def __init__(
        self,
        num_classes: int,
        nbit: int,
        seed: int,
        init: Literal["normal", "linear"] = "normal",
    ) -> None:
        super().__init__()
        rng, rows = generator(seed, "codebook"), torch.empty(num_classes, nbit)
        if init == "linear":
            rows.uniform_(-(nbit**-0.5), nbit**-0.5, generator=rng)
        else:
            rows.normal_(generator=rng)
        self.rows = nn.Parameter(rows)

    def forward(self) -> Tensor:
        return self.rows


def signs(rows: int, nbit: int, rng: torch.Generator) -> Tensor:
    """Draw fair random bits.

    Args:
        rows: number of rows.
        nbit: K.
        rng: generator of the draw.

    Returns:
        (rows, K) float32 of -1 and +1.

    Example:
        >>> signs(2, 8, torch.Generator()).abs().mean().item()
        1.0
    """
    return torch.randint(0, 2, (rows, nbit), generator=rng).float() * 2 - 1


def balanced(rows: int, nbit: int, rng: torch.Generator) -> Tensor:
    """Draw random rows with exactly floor(K / 2) entries -1, all equally likely.

    Entry by entry, -1 has the probability (-1 still to place) / (entries left), which is 0 or 1 at
    the end of a row: the count is exact.

    Args:
        rows: number of rows.
        nbit: K.
        rng: generator of the draw.

    Returns:
        (rows, K) float32 of -1 and +1.

    Example:
        >>> balanced(2, 7, torch.Generator()).sum(dim=1).tolist()  # three of seven are -1
        [1.0, 1.0]
    """
    chance = torch.rand(rows, nbit, generator=rng).T.contiguous()  # (K, rows)
    owed = torch.full((rows,), float(nbit // 2))
    for at in range(nbit):
        minus = (chance[at] < owed / (nbit - at)).float()
        owed -= minus
        chance[at] = 1 - 2 * minus
    return chance.T.contiguous()


def sylvester(nbit: int) -> Tensor:
    """Make Sylvester's Hadamard matrix, whose rows are orthogonal.

    Args:
        nbit: K, a power of two.

    Returns:
        (K, K) of -1 and +1.

    Example:
        >>> sylvester(2)
        tensor([[ 1.,  1.],
                [ 1., -1.]])
    """
    rows = torch.ones(1, 1)
    while len(rows) < nbit:
        rows = torch.cat([torch.cat([rows, rows], dim=1), torch.cat([rows, -rows], dim=1)])
    return rows


def hadamard(
    num_classes: int,
    nbit: int,
    rng: torch.Generator,
    rest: Literal["all", "redraw", "once"] = "all",
    tries: int = 10_000,
    skip_ones: bool = False,
) -> Tensor:
    """Make Hadamard rows, their negatives, and beyond those the rows that `rest` selects.

    Args:
        num_classes: C.
        nbit: K.
        rng: generator of what is drawn.
        rest: see `Hadamard`.
        tries: see `Hadamard`.
        skip_ones: see `Hadamard`.

    Returns:
        (C, K) of -1 and +1.

    Raises:
        ConfigError: K is no power of two and `rest` needs the matrix, or no balanced book exists.

    Example:
        >>> hadamard(3, 2, torch.Generator())
        tensor([[ 1.,  1.],
                [ 1., -1.],
                [-1., -1.]])
    """
    exists, fit = _is_power(nbit), 2 * nbit - skip_ones
    if rest == "all" and not (exists and num_classes <= fit):
        return balanced_book(num_classes, nbit, rng, None, tries)
    if not exists:
        below = 2 ** (nbit.bit_length() - 1)
        while num_classes > 4**below:  # 2 * below bits do not tell the classes apart
            below *= 2
        powers = [bits for bits in (below, 2 * below) if num_classes <= 2**bits]
        raise _fault(
            f"Hadamard rows exist for a power of two only, and model.nbit is {nbit}.",
            ["codebook=hadamard codebook.rest=all"] * _fits_balanced(num_classes, nbit)
            + _others(num_classes, nbit, "hadamard", "balanced")
            + [f"model.nbit={' or '.join(map(str, powers))}"],
        )
    half = sylvester(nbit)
    rows = torch.cat([half, -half])[int(skip_ones) :]
    if num_classes <= fit:
        return rows[:num_classes].clone()
    for _ in range(REDRAWS if rest == "redraw" else 1):
        book = torch.cat([rows, balanced(num_classes - fit, nbit, rng)])
        least, mean = spread(book)
        if least > nbit / 4 and mean >= nbit / 2:
            break
    return book


def balanced_book(
    num_classes: int,
    nbit: int,
    rng: torch.Generator,
    threshold: int | None = None,
    tries: int = 10_000,
) -> Tensor:
    """Draw balanced books until one is accepted, as `Balanced` describes; else return the best.

    Args:
        num_classes: C.
        nbit: K.
        rng: generator of the draw. It draws several books at a time.
        threshold: see `Balanced`.
        tries: see `Balanced`.

    Returns:
        (C, K) of -1 and +1.

    Raises:
        ConfigError: there are fewer balanced rows than classes.

    Example:
        >>> spread(balanced_book(2, 8, torch.Generator(), threshold=8))  # a row and its negative
        (8, 8.0)
    """
    _check_search(tries)
    if not _fits_balanced(num_classes, nbit):
        enough = next(bits for bits in range(nbit, nbit + 64) if _fits_balanced(num_classes, bits))
        raise _fault(
            f"{nbit} bits make {math.comb(nbit, nbit // 2)} balanced rows, too few for"
            f" {num_classes} classes.",
            [f"model.nbit={enough}", *_others(num_classes, nbit, "balanced")],
        )
    if threshold is None:
        threshold = max(2, 2 * (nbit // 6))
    left = max(1, min(tries, BUDGET // (num_classes**2 * nbit)))
    chunk = max(1, 2**20 // (num_classes * (num_classes + nbit)))
    best, score = torch.empty(0), (-1.0, -math.inf)
    while left > 0:
        count = min(chunk, left)
        left -= count
        books = balanced(count * num_classes, nbit, rng).view(count, num_classes, nbit)
        if count == 1:  # the matrix of many classes would not fit
            least = (nbit - torch.tensor([_largest_dot(books[0])])) / 2
        else:
            dots = books @ books.mT  # (count, C, C)
            dots.diagonal(dim1=1, dim2=2).fill_(-nbit)
            least = (nbit - dots.amax(dim=(1, 2))) / 2
        # what all dot products of two rows sum to, twice: 0 or less is a mean of K / 2 or more
        total = books.sum(dim=1).double().square().sum(dim=1) - num_classes * nbit
        for book, near, spare in zip(books, least.tolist(), (-total).tolist(), strict=True):
            found, accepted = (near, spare), near >= threshold and spare >= 0
            if accepted or found > score:
                best, score = book.clone(), found
            if accepted:
                return best
    return best


def max_hamming(
    num_classes: int,
    nbit: int,
    rng: torch.Generator,
    threshold: float = 0.61,
    step: float = 0.01,
    floor: float = 0.2,
    tries: int = 10_000,
) -> Tensor:
    """Draw rows far from each other, by rejection sampling with a falling threshold.

    Candidates are drawn one by one. A candidate that differs in at least ``threshold * K`` bits
    from every row so far is accepted; after `tries` rejections in all (an acceptance does not reset
    the count) the threshold falls by `step`. The rows are shuffled at the end. The implementation
    draws and compares many candidates at a time, in the order of this loop.

    When the threshold falls below `floor`, the rows are words of a linear code (`linear_code`)
    with the largest distance at which there are enough words.

    Args:
        num_classes: C.
        nbit: K.
        rng: generator of the draw.
        threshold: first threshold, as a part of K.
        step: decrease of the threshold.
        floor: last threshold, as a part of K.
        tries: rejections before the threshold falls.

    Returns:
        (C, K) of -1 and +1.

    Raises:
        ConfigError: neither gives so many rows at a distance of ``floor * K``.

    Example:
        >>> rows = max_hamming(4, 32, torch.Generator())
        >>> rows.shape, spread(rows)[0] >= 0.45 * 32
        (torch.Size([4, 32]), True)
    """
    _check_search(tries, step)
    if tries * nbit > AT_ONCE:
        raise _fault(
            f"tries is {tries}; so many candidates of {nbit} bits do not fit into memory.",
            [f"tries={AT_ONCE // nbit}"],
        )
    book, held = torch.empty(num_classes, nbit), 0
    fails, drops = 0, 0
    while held < num_classes:
        chunk = signs(tries, nbit, rng)
        for part in torch.split(chunk, LOOKED_AT):
            if held == num_classes:
                break
            nearest = _nearest(part, book[:held])
            at = 0
            while at < len(part) and held < num_classes:
                # thresholds are exact hundredths: no error adds up over the steps
                bits = math.ceil((threshold - drops * step) * nbit - 1e-9)
                window = nearest[at : at + tries - fails] >= bits
                hits = window.nonzero()
                if len(hits):
                    first = int(hits[0])
                    fails += first
                    book[held] = row = part[at + first]
                    held += 1
                    at += first + 1
                    near = (nbit - part[at:] @ row) / 2  # those before are not looked at again
                    nearest[at:] = torch.minimum(nearest[at:], near)
                else:
                    fails += len(window)
                    at += len(window)
                if fails >= tries:
                    fails, drops = 0, drops + 1
                    if threshold - drops * step < floor - 1e-9:
                        least = max(1, math.ceil(floor * nbit - 1e-9))
                        words = _linear_book(num_classes, nbit, least, rng)
                        if words is None:
                            raise _no_room(num_classes, nbit, least, held)
                        return words
    return book[torch.randperm(num_classes, generator=rng)]


def linear_code(nbit: int, distance: int, enough: int | None = None) -> list[int]:
    """Compute a basis of the lexicode: each word differs from all words before it in enough bits.

    Taken in the order of the numbers 0 to 2^K - 1, these words are a linear code (Conway and
    Sloane, IEEE Transactions on Information Theory 1986). At d = 3 it is a shortened Hamming code:
    [12, 8, 3] has 256 words. Needs 2^K bytes of memory.

    Args:
        nbit: K, at most ``LEXICODE``.
        distance: smallest number of bits in which two words differ.
        enough: stop when the code has so many words; None: when it is complete.

    Returns:
        the words of the basis as numbers, whose bits are those of the word.

    Example:
        >>> len(linear_code(12, 3))
        8
    """
    words = np.arange(1 << nbit, dtype=np.uint32)
    away = np.zeros(1 << nbit, dtype=np.uint8)  # from the nearest word of the code, which is 0
    for bit in range(nbit):
        away += (words >> np.uint32(bit) & np.uint32(1)).astype(np.uint8)
    basis: list[int] = []
    while enough is None or 1 << len(basis) < enough:
        first = int(np.argmax(away >= distance))
        if away[first] < distance:
            break
        basis.append(first)
        np.minimum(away, away[words ^ np.uint32(first)], out=away)
    return basis


def _linear_book(num_classes: int, nbit: int, least: int, rng: torch.Generator) -> Tensor | None:
    """Words of a linear code, drawn and all moved by one random word; None if there are too few."""
    if nbit > LEXICODE or num_classes > _most_words(nbit, least):
        return None
    for distance in range(max(least, nbit // 2), least - 1, -1):
        if num_classes > _most_words(nbit, distance):
            continue
        basis = linear_code(nbit, distance, num_classes)
        if num_classes <= 1 << len(basis):
            break
    else:
        return None
    size = 1 << len(basis)
    chosen = torch.randperm(size, generator=rng)[:num_classes].tolist()
    numbers = np.zeros(num_classes, dtype=np.int64)
    for place, word in enumerate(basis):
        numbers ^= np.where(np.array(chosen) >> place & 1, word, 0)
    bits = torch.from_numpy(numbers[:, None] >> np.arange(nbit) & 1)
    return signs(1, nbit, rng) * (1 - 2 * bits).float()


def _most_words(nbit: int, distance: int) -> int:
    """The number of words that no code exceeds, by the bounds of Hamming, Singleton and Plotkin.

    A code of n bits at an odd distance d has as many words as one of n + 1 bits at d + 1.
    """
    if distance > nbit:
        return 1
    odd = distance - (distance + 1) % 2
    length, radius = nbit - (distance - odd), (odd - 1) // 2
    ball = sum(math.comb(length, bits) for bits in range(radius + 1))
    most: int = min(2**length // ball, 2 ** (nbit - distance + 1))
    length, even = length + 1, odd + 1
    if 2 * even > length:
        most = min(most, 2 * (even // (2 * even - length)))
    return most


def _no_room(num_classes: int, nbit: int, least: int, found: int) -> ConfigError:
    """The error of ``max_hamming``: whether there is no room, or none was found."""
    most = _most_words(nbit, least)
    if num_classes > most:
        what = (
            f"{num_classes} classes do not fit into {nbit} bits at a distance of {least} bits:"
            f" there are at most {most} such rows."
        )
    else:
        what = (
            f"the search found {found} rows of {nbit} bits at a distance of {least} bits, not the"
            f" {num_classes} of all classes; there may be as many, but it does not find them."
        )
    return _fault(what, ["more bits (model.nbit)", *_others(num_classes, nbit, "max_hamming")])


def _nearest(rows: Tensor, book: Tensor) -> Tensor:
    """Bits from each of ``(n, K)`` rows to the nearest row of the book ``(C, K)``; K of none."""
    count, nbit = rows.shape
    nearest = torch.full((count,), nbit, dtype=torch.float32)
    for held in torch.split(book, max(1, DISTANCES // count)) if len(book) else ():
        nearest = torch.minimum(nearest, ((nbit - rows @ held.T) / 2).amin(dim=1))
    return nearest


def spread(rows: Tensor) -> tuple[int, float]:
    """Compute the smallest and the mean Hamming distance between two rows, in bits.

    Some rows are compared at a time, so that no (C, C) matrix is in memory.

    Args:
        rows: (C, K); entries >= 0 are the bits.

    Returns:
        the smallest and the mean distance; K for a single row.

    Example:
        >>> spread(torch.tensor([[1, 1, 1], [1, 1, -1], [-1, 1, -1]]))
        (1, 1.3333333333333333)
    """
    signs = torch.where(rows >= 0, 1.0, -1.0)
    count, nbit = signs.shape
    if count < 2:
        return nbit, float(nbit)
    nearest = nbit - _largest_dot(signs)  # twice the smallest distance
    # whole numbers: the dot products of all pairs, twice
    dots = int(signs.sum(dim=0).double().square().sum()) - count * nbit
    pairs = count * (count - 1) // 2
    return int(nearest) // 2, (pairs * nbit - dots // 2) / 2 / pairs


def _largest_dot(signs: Tensor) -> float:
    """The largest dot product of two different rows of ``(C, K)``."""
    largest, step = -math.inf, max(1, DISTANCES // len(signs))
    for start in range(0, len(signs), step):
        dots = signs[start : start + step] @ signs[start:].T
        dots.fill_diagonal_(-math.inf)  # row start + i with itself
        largest = max(largest, float(dots.max()))
    return largest


def _is_power(nbit: int) -> bool:
    return nbit & (nbit - 1) == 0


def _fits_balanced(num_classes: int, nbit: int) -> bool:
    """Whether there are as many different balanced rows as classes."""
    return num_classes <= math.comb(nbit, nbit // 2)


def _others(num_classes: int, nbit: int, *without: str) -> list[str]:
    """The fixed codebooks, other than those named, sure to have room for the classes.

    Of max_hamming that is sure while the words nearer than its floor to some row, counted once
    for each row, cannot be all words: then there is always a next row. Linear codes have it, and
    the random search of longer words finds it while it is one of a hundred.
    """
    near = sum(math.comb(nbit, bits) for bits in range(math.ceil(0.2 * nbit - 1e-9)))
    if nbit > LEXICODE:
        near *= 100
    room = {
        "hadamard": _is_power(nbit) and num_classes <= 2 * nbit,
        "balanced": _fits_balanced(num_classes, nbit),
        "max_hamming": num_classes * near <= 2**nbit,
        "bernoulli": num_classes <= 2**nbit,  # of more, two would be the same
    }
    return [f"codebook={name}" for name, fits in room.items() if fits and name not in without]


def _check_search(tries: int, step: float = 1.0) -> None:
    """Raises a ConfigError for a search that would draw nothing or never end."""
    if tries < 1:
        raise _fault(f"tries is {tries}; a search draws at least once.", ["tries=10000"])
    if step <= 0:
        raise _fault(f"step is {step:g}; the threshold must fall.", ["step=0.01"])


def _fault(what: str, instead: list[str]) -> ConfigError:
    """The error of a codebook that cannot be: what, and on a second line what to type instead."""
    key = "method.codebook"
    *first, last = instead
    options = f"{', '.join(first)}, or {last}" if first else last
    return ConfigError(f"{key}  {what}\n{'':<{len(key)}}  Try {options}.")
