"""Class centers: modules whose ``forward()`` returns ``(C, K)``.

Fixed codebooks are buffers of -1 and +1, drawn with a separate generator; learned ones are
parameters. Distances between rows are Hamming distances in bits.
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
"""Multiply-adds in the search for a balanced codebook: seconds on one core."""

MAX_DISTANCES = 1 << 24
"""Number of distances between rows in memory at a time."""

CANDIDATE_BLOCK = 512
"""Candidates of the greedy search that are compared with the codebook at a time."""

MAX_DRAWN_BITS = 2**28
"""Number of bits that `max_hamming` draws at a time: 2 GiB."""

REDRAWS = 20
"""Number of draws of the rows beyond the Hadamard matrix with ``rest="redraw"``."""

MAX_LEXICODE_BITS = 24
"""Largest K for which `max_hamming` computes a linear code if its search fails: seconds."""


class Codebook(nn.Module):
    """A fixed codebook, and the base class of all fixed codebooks.

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
        seed: seed of the draw.

    Example:
        >>> rows = Bernoulli(num_classes=3, nbit=8, seed=0)()
        >>> rows.shape, rows.unique().tolist()
        (torch.Size([3, 8]), [-1.0, 1.0])
    """

    def __init__(self, num_classes: int, nbit: int, seed: int) -> None:
        super().__init__(signs(num_classes, nbit, generator(seed, "codebook")))


class MaxHamming(Codebook):
    """Rows with large distances, by rejection sampling with a decreasing threshold (MaxHD).

    The default of RelaHash, and the "optimised" codebook of OrthoHash. If the search fails, the
    rows are words of a linear code, for K up to 24.

    Args:
        num_classes: C.
        nbit: K.
        seed: seed of the draw.
        threshold: initial threshold: the smallest accepted distance, as a fraction of K.
        step: decrease of the threshold after ``tries`` rejections.
        floor: smallest threshold, as a fraction of K.
        tries: rejections, counted over all rows, before the threshold decreases.

    Raises:
        ConfigError: no such rows were found.

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
    row i. All bits of the first row are +1. The seed is used only if rows are drawn: for more than
    2 K classes, or if K is not a power of two.

    Args:
        num_classes: C.
        nbit: K.
        seed: seed of the draw.
        rest: the rows for more than 2 K classes. ``all``: all rows are drawn as in ``Balanced``
            (CSQ). ``redraw``: balanced rows follow [H; -H], drawn up to 20 times until the minimum
            distance of the codebook exceeds K / 4 and the mean is at least K / 2; otherwise the
            last draw is used (swuxyj). ``once``: the same with one draw and no check (the copies
            in RelaHash and FIRe). If K is not a power of two, ``all`` is required.
        skip_ones: start with the second row of H, as in CSQ's centers for NUS-WIDE-21 at 32 and 64
            bits; [H; -H] then has 2 K - 1 rows.
        tries: maximum number of codebooks drawn with ``all``.

    Raises:
        ConfigError: such rows do not exist.

    Example:
        >>> spread(Hadamard(num_classes=4, nbit=8, seed=0)())  # minimum and mean distance
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
    """Random rows with equally many -1 and +1, drawn until a codebook is accepted (CSQ).

    A row has exactly floor(K / 2) entries -1. A codebook is accepted if its minimum distance is at
    least the threshold and its mean distance is at least K / 2. If none is accepted, the one with
    the largest minimum distance is used, and of several the one with the largest mean. If there are
    many classes for the number of bits, rows may repeat.

    A draw takes C * C * K multiply-adds, and all draws take at most ``BUDGET``: this allows
    10,000 ``tries`` up to 216 classes at 64 bits, but 468 draws at 1,000 classes.

    Args:
        num_classes: C.
        nbit: K.
        seed: seed of the draw.
        threshold: minimum distance of an accepted codebook, in bits. None: the largest even number
            up to K / 3, 20 for 64 bits, and at least 2, so that rows do not repeat. Distances
            between balanced rows are even.
        tries: maximum number of codebooks drawn.

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
        seed: seed of the initial values.
        init: distribution of the initial values. ``normal``: standard normal. ``linear``: uniform
            from -1 / sqrt(K) to 1 / sqrt(K), as the weights of nn.Linear.

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
        rng: random generator.

    Returns:
        (rows, K) float32 of -1 and +1.

    Example:
        >>> signs(2, 8, torch.Generator()).abs().mean().item()
        1.0
    """
    return torch.randint(0, 2, (rows, nbit), generator=rng).float() * 2 - 1


def balanced(rows: int, nbit: int, rng: torch.Generator) -> Tensor:
    """Draw random rows with exactly floor(K / 2) entries -1, all equally likely.

    Entries are drawn one after the other. The probability of -1 is the number of remaining -1
    divided by the number of remaining entries, so the final count is exact.

    Args:
        rows: number of rows.
        nbit: K.
        rng: random generator.

    Returns:
        (rows, K) float32 of -1 and +1.

    Example:
        >>> balanced(2, 7, torch.Generator()).sum(dim=1).tolist()  # three of seven entries are -1
        [1.0, 1.0]
    """
    chance = torch.rand(rows, nbit, generator=rng).T.contiguous()  # (K, rows)
    remaining = torch.full((rows,), float(nbit // 2))  # entries -1
    for at in range(nbit):
        minus = (chance[at] < remaining / (nbit - at)).float()
        remaining -= minus
        chance[at] = 1 - 2 * minus
    return chance.T.contiguous()


def sylvester(nbit: int) -> Tensor:
    """Construct Sylvester's Hadamard matrix, whose rows are orthogonal.

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
    """Construct Hadamard rows, their negatives, and further rows as selected by `rest`.

    Args:
        num_classes: C.
        nbit: K.
        rng: random generator.
        rest: see `Hadamard`.
        tries: see `Hadamard`.
        skip_ones: see `Hadamard`.

    Returns:
        (C, K) of -1 and +1.

    Raises:
        ConfigError: K is not a power of two and `rest` requires it, or no balanced codebook exists.

    Example:
        >>> hadamard(3, 2, torch.Generator())
        tensor([[ 1.,  1.],
                [ 1., -1.],
                [-1., -1.]])
    """
    exists, available = _is_power_of_two(nbit), 2 * nbit - skip_ones
    if rest == "all" and not (exists and num_classes <= available):
        return balanced_book(num_classes, nbit, rng, None, tries)
    if not exists:
        power = 2 ** (nbit.bit_length() - 1)
        while num_classes > 4**power:  # 2 * power bits have fewer codes than classes
            power *= 2
        powers = [str(bits) for bits in (power, 2 * power) if num_classes <= 2**bits]
        hints = []
        if _fits_balanced(num_classes, nbit):
            hints.append("codebook=hadamard codebook.rest=all")
        hints += _alternatives(num_classes, nbit, "hadamard", "balanced")
        raise _error(
            f"Hadamard rows require a power of two, but model.nbit is {nbit}.",
            [*hints, f"model.nbit={' or '.join(powers)}"],
        )
    half = sylvester(nbit)
    rows = torch.cat([half, -half])[int(skip_ones) :]
    if num_classes <= available:
        return rows[:num_classes].clone()
    for _ in range(REDRAWS if rest == "redraw" else 1):
        book = torch.cat([rows, balanced(num_classes - available, nbit, rng)])
        smallest, mean = spread(book)
        if smallest > nbit / 4 and mean >= nbit / 2:
            break
    return book


def balanced_book(
    num_classes: int,
    nbit: int,
    rng: torch.Generator,
    threshold: int | None = None,
    tries: int = 10_000,
) -> Tensor:
    """Draw balanced codebooks until one is accepted, as in `Balanced`; otherwise return the best.

    Args:
        num_classes: C.
        nbit: K.
        rng: random generator. Several codebooks are drawn at a time.
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
        raise _error(
            f"{nbit} bits have {math.comb(nbit, nbit // 2)} balanced rows, too few for"
            f" {num_classes} classes.",
            [f"model.nbit={enough}", *_alternatives(num_classes, nbit, "balanced")],
        )
    if threshold is None:
        threshold = max(2, 2 * (nbit // 6))
    remaining = max(1, min(tries, BUDGET // (num_classes**2 * nbit)))
    chunk = max(1, 2**20 // (num_classes * (num_classes + nbit)))
    best, best_score = torch.empty(0), (-1.0, -math.inf)
    while remaining > 0:
        count = min(chunk, remaining)
        remaining -= count
        books = balanced(count * num_classes, nbit, rng).view(count, num_classes, nbit)
        if count == 1:  # with many classes, a (C, C) matrix would not fit into memory
            smallest = (nbit - torch.tensor([_largest_dot(books[0])])) / 2
        else:
            dots = books @ books.mT  # (count, C, C)
            dots.diagonal(dim1=1, dim2=2).fill_(-nbit)
            smallest = (nbit - dots.amax(dim=(1, 2))) / 2
        # twice the sum of the dot products of all pairs: at most 0 if the mean is at least K / 2
        total = books.sum(dim=1).double().square().sum(dim=1) - num_classes * nbit
        scores = zip(smallest.tolist(), (-total).tolist(), strict=True)
        for book, score in zip(books, scores, strict=True):
            accepted = score[0] >= threshold and score[1] >= 0
            if accepted or score > best_score:
                best, best_score = book.clone(), score
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
    """Draw rows with large distances, by rejection sampling with a decreasing threshold.

    Candidates are drawn one after the other. A candidate is accepted if it differs from all
    accepted rows in at least ``threshold * K`` bits. After `tries` rejections in total (an
    acceptance does not reset the count), the threshold decreases by `step`. Finally, the rows are
    shuffled. The implementation draws and compares many candidates at a time, in the same order.

    If the threshold falls below `floor`, the rows are words of a linear code (`linear_code`) with
    the largest distance for which it has enough words.

    Args:
        num_classes: C.
        nbit: K.
        rng: random generator.
        threshold: see `MaxHamming`.
        step: see `MaxHamming`.
        floor: see `MaxHamming`.
        tries: see `MaxHamming`.

    Returns:
        (C, K) of -1 and +1.

    Raises:
        ConfigError: there are too few rows with a distance of ``floor * K``.

    Example:
        >>> rows = max_hamming(4, 32, torch.Generator())
        >>> rows.shape, spread(rows)[0] >= 0.45 * 32
        (torch.Size([4, 32]), True)
    """
    _check_search(tries, step)
    if tries * nbit > MAX_DRAWN_BITS:
        raise _error(
            f"tries is {tries}; so many candidates of {nbit} bits do not fit into memory.",
            [f"tries={MAX_DRAWN_BITS // nbit}"],
        )
    book, accepted = torch.empty(num_classes, nbit), 0
    rejected, steps = 0, 0
    while accepted < num_classes:
        for candidates in torch.split(signs(tries, nbit, rng), CANDIDATE_BLOCK):
            if accepted == num_classes:
                break
            nearest = _nearest_distances(candidates, book[:accepted])
            at = 0
            while at < len(candidates) and accepted < num_classes:
                # computed from the number of steps, so that rounding errors do not accumulate
                bits = math.ceil((threshold - steps * step) * nbit - 1e-9)
                fits = nearest[at : at + tries - rejected] >= bits
                fitting = fits.nonzero()
                if len(fitting):
                    first = int(fitting[0])
                    rejected += first
                    book[accepted] = row = candidates[at + first]
                    accepted += 1
                    at += first + 1
                    distances = (nbit - candidates[at:] @ row) / 2
                    nearest[at:] = torch.minimum(nearest[at:], distances)
                else:
                    rejected += len(fits)
                    at += len(fits)
                if rejected >= tries:
                    rejected, steps = 0, steps + 1
                    if threshold - steps * step < floor - 1e-9:
                        smallest = max(1, math.ceil(floor * nbit - 1e-9))
                        words = _linear_book(num_classes, nbit, smallest, rng)
                        if words is None:
                            raise _search_error(num_classes, nbit, smallest, accepted)
                        return words
    return book[torch.randperm(num_classes, generator=rng)]


def linear_code(nbit: int, distance: int, enough: int | None = None) -> list[int]:
    """Compute a basis of the lexicode with a given minimum distance.

    The lexicode contains each of the numbers 0 to 2^K - 1 that differs from all smaller words of
    the code in at least ``distance`` bits. It is linear (Conway and Sloane, IEEE Transactions on
    Information Theory 1986). With the distance 3 it is a shortened Hamming code: [12, 8, 3] has
    256 words. Requires about 10 * 2^K bytes of memory.

    Args:
        nbit: K, at most ``MAX_LEXICODE_BITS``.
        distance: minimum distance.
        enough: stop when the code has this number of words; None: compute the whole basis.

    Returns:
        the words of the basis as numbers, whose binary digits are the bits.

    Example:
        >>> len(linear_code(12, 3))
        8
    """
    words = np.arange(1 << nbit, dtype=np.uint32)
    distances = np.zeros(1 << nbit, dtype=np.uint8)  # to the nearest word: at first, only 0
    for bit in range(nbit):
        distances += (words >> np.uint32(bit) & np.uint32(1)).astype(np.uint8)
    basis: list[int] = []
    while enough is None or 1 << len(basis) < enough:
        first = int(np.argmax(distances >= distance))
        if distances[first] < distance:
            break
        basis.append(first)
        np.minimum(distances, distances[words ^ np.uint32(first)], out=distances)
    return basis


def _linear_book(num_classes: int, nbit: int, smallest: int, rng: torch.Generator) -> Tensor | None:
    """Draw words of a linear code, XORed with one random word; None if there are too few."""
    if nbit > MAX_LEXICODE_BITS or num_classes > _max_words(nbit, smallest):
        return None
    for distance in range(max(smallest, nbit // 2), smallest - 1, -1):
        if num_classes > _max_words(nbit, distance):
            continue
        basis = linear_code(nbit, distance, num_classes)
        if num_classes <= 1 << len(basis):
            break
    else:
        return None
    chosen = torch.randperm(1 << len(basis), generator=rng)[:num_classes].numpy()
    numbers = np.zeros(num_classes, dtype=np.int64)
    for place, word in enumerate(basis):
        numbers ^= np.where(chosen >> place & 1, word, 0)
    bits = torch.from_numpy(numbers[:, None] >> np.arange(nbit) & 1)
    return signs(1, nbit, rng) * (1 - 2 * bits).float()


def _max_words(nbit: int, distance: int) -> int:
    """Return an upper bound on the words of a code: the Hamming, Singleton and Plotkin bounds.

    A code of n bits with an odd distance d has as many words as one of n + 1 bits with d + 1.
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


def _search_error(num_classes: int, nbit: int, smallest: int, accepted: int) -> ConfigError:
    """Return the error of ``max_hamming``: whether such rows cannot exist or were not found."""
    bound = _max_words(nbit, smallest)
    if num_classes > bound:
        message = (
            f"{num_classes} classes do not fit into {nbit} bits at a distance of {smallest} bits:"
            f" there are at most {bound} such rows."
        )
    else:
        message = (
            f"the search found {accepted} rows of {nbit} bits at a distance of {smallest} bits, not"
            f" the {num_classes} of all classes. There may be as many, but it does not find them."
        )
    hints = ["more bits (model.nbit)", *_alternatives(num_classes, nbit, "max_hamming")]
    return _error(message, hints)


def _nearest_distances(rows: Tensor, book: Tensor) -> Tensor:
    """Return the distance of each row (n, K) to the nearest row of (C, K); K if C is 0."""
    count, nbit = rows.shape
    nearest = torch.full((count,), nbit, dtype=torch.float32)
    if len(book):
        for part in torch.split(book, max(1, MAX_DISTANCES // count)):
            nearest = torch.minimum(nearest, ((nbit - rows @ part.T) / 2).amin(dim=1))
    return nearest


def spread(rows: Tensor) -> tuple[int, float]:
    """Compute the minimum and the mean Hamming distance between two rows, in bits.

    The rows are compared in blocks, without a (C, C) matrix in memory.

    Args:
        rows: (C, K); entries >= 0 are the bits.

    Returns:
        the minimum and the mean distance; both are K for a single row.

    Example:
        >>> spread(torch.tensor([[1, 1, 1], [1, 1, -1], [-1, 1, -1]]))
        (1, 1.3333333333333333)
    """
    signs = torch.where(rows >= 0, 1.0, -1.0)
    count, nbit = signs.shape
    if count < 2:
        return nbit, float(nbit)
    nearest = nbit - _largest_dot(signs)  # twice the minimum distance
    # twice the sum of the dot products of all pairs, an integer
    dots = int(signs.sum(dim=0).double().square().sum()) - count * nbit
    pairs = count * (count - 1) // 2
    return int(nearest) // 2, (pairs * nbit - dots // 2) / 2 / pairs


def _largest_dot(signs: Tensor) -> float:
    """Return the largest dot product of two different rows of (C, K)."""
    largest, step = -math.inf, max(1, MAX_DISTANCES // len(signs))
    for start in range(0, len(signs), step):
        dots = signs[start : start + step] @ signs[start:].T
        dots.fill_diagonal_(-math.inf)  # each row with itself
        largest = max(largest, float(dots.max()))
    return largest


def _is_power_of_two(nbit: int) -> bool:
    return nbit & (nbit - 1) == 0


def _fits_balanced(num_classes: int, nbit: int) -> bool:
    """Return whether there are at least as many balanced rows as classes."""
    return num_classes <= math.comb(nbit, nbit // 2)


def _alternatives(num_classes: int, nbit: int, *excluded: str) -> list[str]:
    """Return the fixed codebooks that certainly have a row for each class.

    For max_hamming this holds if C times the number of words within its floor of a row is less
    than the number of words, so that a further row always exists. Linear codes contain it; for
    larger K, the random search finds it if at least one word in a hundred is such a row.
    """
    near = sum(math.comb(nbit, bits) for bits in range(math.ceil(0.2 * nbit - 1e-9)))
    if nbit > MAX_LEXICODE_BITS:
        near *= 100
    fits = {
        "hadamard": _is_power_of_two(nbit) and num_classes <= 2 * nbit,
        "balanced": _fits_balanced(num_classes, nbit),
        "max_hamming": num_classes * near <= 2**nbit,
        "bernoulli": num_classes <= 2**nbit,  # otherwise two rows would be equal
    }
    return [f"codebook={name}" for name in fits if fits[name] and name not in excluded]


def _check_search(tries: int, step: float = 1.0) -> None:
    """Raise a ConfigError for a search that would draw nothing or not terminate."""
    if tries < 1:
        raise _error(f"tries is {tries}; it must be at least 1.", ["tries=10000"])
    if step <= 0:
        raise _error(f"step is {step:g}; the threshold must decrease.", ["step=0.01"])


def _error(message: str, hints: list[str]) -> ConfigError:
    """Return the error of a codebook, with what to type instead on a second line."""
    key = "method.codebook"
    *first, last = hints
    options = f"{', '.join(first)}, or {last}" if first else last
    return ConfigError(f"{key}  {message}\n{'':<{len(key)}}  Try {options}.")
