import itertools
import math

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from deephash.errors import ConfigError
from deephash.models import codebooks
from deephash.models.codebooks import (
    Balanced,
    Bernoulli,
    Hadamard,
    Learned,
    MaxHamming,
    balanced,
    balanced_book,
    hadamard,
    max_hamming,
    signs,
    spread,
)
from deephash.types import generator


def naive(num_classes, nbit, rng, threshold, step, floor, tries):
    """A naive search: a candidate, a loop over the rows, a count of rejections."""
    book, fails, tau = [], 0, threshold
    while True:
        for candidate in signs(tries, nbit, rng):
            distances = [int((candidate != row).sum()) / nbit for row in book]
            if all(distance >= tau - 1e-9 for distance in distances):
                book.append(candidate)
            else:
                fails += 1
            if len(book) == num_classes:
                return torch.stack(book)[torch.randperm(num_classes, generator=rng)]
            if fails == tries:
                fails, tau = 0, tau - step
                if tau < floor - 1e-9:
                    return None


def naive_balanced(num_classes, nbit, rng, threshold, tries):
    """A naive search: codebooks one by one, compared pair by pair; the best so far is kept."""
    best, score = None, (-1, 0)
    for _ in range(tries):
        book = balanced(num_classes, nbit, rng)
        result = pairs(book)
        least, mean = min(result), sum(result) / len(result)
        if least >= threshold and mean >= nbit / 2:
            return book, True
        if (least, mean) > score:
            best, score = book, (least, mean)
    return best, False


def seeded(kind):
    """A codebook that depends on the seed: Hadamard draws rows only beyond its matrix."""
    if kind is Hadamard:
        return lambda num_classes, nbit, seed: Hadamard(2 * nbit + num_classes, nbit, seed, tries=9)
    return kind


def pairs(rows):
    return [int((a != b).sum()) for i, a in enumerate(rows) for b in rows[:i]]


@pytest.mark.parametrize("name", [Bernoulli, MaxHamming, Balanced, Hadamard])
def test_fixed_rows_are_signs_and_reproducible(name):
    kind = seeded(name)
    first = kind(num_classes=10, nbit=16, seed=3)().clone()
    torch.manual_seed(99)  # the global random state is not used
    torch.rand(7)
    before = torch.get_rng_state()
    again = kind(num_classes=10, nbit=16, seed=3)()
    assert torch.equal(torch.get_rng_state(), before)
    assert first.shape == (42 if name is Hadamard else 10, 16) and first.dtype == torch.float32
    assert set(first.unique().tolist()) == {-1.0, 1.0}
    assert torch.equal(first, again)
    assert not torch.equal(first, kind(num_classes=10, nbit=16, seed=4)())


@pytest.mark.parametrize(
    ("classes", "nbit", "least", "mean"),
    [(10, 16, 8, 8.6), (10, 32, 16, 17.4), (10, 64, 31, 34.7), (10, 128, 64, 68.6),
     (21, 16, 7, 8.3), (21, 64, 29, 33.1), (80, 64, 26, 32.3), (100, 16, 5, 8.1),
     (100, 32, 12, 16.1), (100, 64, 26, 32.2), (100, 128, 54, 64.4)],
)  # fmt: skip
def test_max_hamming_reaches_the_known_distances(classes, nbit, least, mean):
    """Distances of the reference search, with a tolerance of one bit."""
    smallest, average = spread(MaxHamming(classes, nbit, seed=0)())
    assert least - 1 <= smallest <= least + 1
    assert average == pytest.approx(mean, abs=0.35)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(("classes", "nbit", "tries"), [(8, 12, 30), (12, 16, 50), (5, 8, 3)])
def test_max_hamming_is_the_naive_loop_in_chunks(seed, classes, nbit, tries):
    """The rows are identical, because candidates are drawn in the same order."""
    options = {"threshold": 0.61, "step": 0.01, "floor": 0.2, "tries": tries}
    expected = naive(classes, nbit, generator(seed, "x"), **options)
    assert torch.equal(max_hamming(classes, nbit, generator(seed, "x"), **options), expected)


def test_max_hamming_is_farther_apart_than_chance():
    chance = [spread(Bernoulli(10, 64, seed)())[0] for seed in range(20)]
    chosen = [spread(MaxHamming(10, 64, seed)())[0] for seed in range(2)]
    assert sum(chance) / 20 == pytest.approx(23.6, abs=1.5)
    assert min(chosen) > max(chance)


@pytest.mark.parametrize(
    ("classes", "nbit", "least"),
    [(10, 16, 3.8), (10, 64, 23.6), (21, 64, 21.2), (100, 16, 1.2), (100, 64, 17.8),
     (100, 128, 43.3)],
)  # fmt: skip
def test_bernoulli_distances_are_those_of_chance(classes, nbit, least):
    """The least distance, on average over 50 draws, and a mean of half the bits."""
    result = [spread(Bernoulli(classes, nbit, seed)()) for seed in range(50)]
    assert sum(least for least, _ in result) / 50 == pytest.approx(least, abs=0.6)
    assert sum(mean for _, mean in result) / 50 == pytest.approx(nbit / 2, rel=0.01)


def test_duplicate_rows_happen_by_chance_but_not_by_search():
    assert min(spread(Bernoulli(100, 16, seed)())[0] for seed in range(20)) == 0
    assert spread(MaxHamming(100, 16, seed=1)())[0] > 0


def test_too_many_classes_for_the_bits():
    """Two bits have four codes: a fifth row equals one of them, at distance 0."""
    with pytest.raises(ConfigError, match=r"5 classes do not fit into 2 bits(.|\n)*model\.nbit"):
        MaxHamming(5, 2, seed=0, tries=50)
    assert spread(MaxHamming(4, 2, seed=0, tries=50)()) == (1, pytest.approx(8 / 6))


def test_max_hamming_names_codebooks_with_enough_rows():
    """No 3 rows have distances of 9 tenths of 8 bits, but other codebooks have 4 rows."""
    with pytest.raises(ConfigError, match=r"fit into 8 bits at a distance of 8") as error:
        MaxHamming(4, 8, seed=0, threshold=0.9, floor=0.9, tries=50)
    for name in ("model.nbit", "codebook=hadamard", "codebook=balanced", "codebook=bernoulli"):
        assert name in str(error.value)


@pytest.mark.parametrize("options", [{"tries": 0}, {"step": 0.0}, {"step": -0.01}])
def test_a_search_that_would_not_terminate_is_refused(options):
    with pytest.raises(ConfigError, match=f"method.codebook  {next(iter(options))} is"):
        MaxHamming(4, 8, seed=0, **options)


def test_acceptance_counts_equality():
    """Threshold 1: only the exact opposite is accepted."""
    rows = MaxHamming(2, 4, seed=0, threshold=1.0, tries=1000)()
    assert torch.equal(rows[0], -rows[1])


@pytest.mark.parametrize(
    ("classes", "nbit", "least"),
    [(256, 12, 3), (16, 5, 1), (1000, 16, 4), (2048, 16, 4), (32, 6, 2)],
)
def test_a_linear_code_replaces_a_failed_search(classes, nbit, least):
    rows = codebooks.max_hamming(classes, nbit, generator(3, "codebook"), tries=100)
    assert rows.shape == (classes, nbit) and set(rows.unique().tolist()) == {-1.0, 1.0}
    assert codebooks.spread(rows)[0] >= least
    again = codebooks.max_hamming(classes, nbit, generator(3, "codebook"), tries=100)
    assert torch.equal(rows, again)
    other = codebooks.max_hamming(classes, nbit, generator(4, "codebook"), tries=100)
    assert not torch.equal(rows, other)


@pytest.mark.parametrize(
    ("nbit", "distance", "dimension"),
    [(7, 3, 4), (8, 4, 4), (12, 3, 8), (15, 3, 11), (16, 4, 11), (15, 7, 5), (16, 8, 5), (5, 1, 5)],
)
def test_lexicodes_are_the_known_ones(nbit, distance, dimension):
    """Hamming and Reed-Muller codes; no word of a code but 0 has fewer ones than its distance."""
    basis = codebooks.linear_code(nbit, distance)
    assert len(basis) == dimension
    words = [0]
    for basis_word in basis:
        words += [word ^ basis_word for word in words]
    assert min(word.bit_count() for word in words if word) == distance
    assert len(words) <= codebooks._max_words(nbit, distance)


@pytest.mark.parametrize(
    ("nbit", "distance", "most"), [(12, 3, 315), (16, 4, 2048), (7, 3, 16), (12, 7, 4), (2, 1, 4)]
)
def test_no_code_has_more_words(nbit, distance, most):
    assert codebooks._max_words(nbit, distance) == most


def test_errors_distinguish_impossible_from_not_found():
    with pytest.raises(ConfigError, match=r"2049 classes do not fit into 16 bits at a dis.*4 bits"):
        codebooks.max_hamming(2049, 16, generator(0, "codebook"), tries=50)
    with pytest.raises(
        ConfigError, match=r"found \d+ rows of 12 bits.*not the 300.*may be as many"
    ):
        codebooks.max_hamming(300, 12, generator(0, "codebook"), tries=50)
    with pytest.raises(ConfigError) as caught:
        codebooks.max_hamming(5, 2, generator(0, "codebook"), tries=50)
    assert "do not fit" in str(caught.value) and "bernoulli" not in str(caught.value)


def test_bernoulli_bits_are_fair():
    rows = Bernoulli(200, 500, seed=0)()
    assert abs(rows.mean()) < 4 / math.sqrt(rows.numel())


def test_hadamard_may_skip_the_row_of_ones():
    """21 classes at 32 bits: the second to the 22nd row; at 4 bits the seventh row is the last."""
    whole = Hadamard(22, 32, seed=0)()
    assert torch.equal(Hadamard(21, 32, seed=0, skip_ones=True)(), whole[1:])
    assert torch.equal(Hadamard(7, 4, seed=0, skip_ones=True)(), Hadamard(8, 4, seed=0)()[1:])
    beyond = Hadamard(8, 8, seed=0, rest="once", skip_ones=True)()
    assert torch.equal(beyond, Hadamard(9, 8, seed=0)()[1:])
    more = Hadamard(16, 8, seed=0, rest="once", skip_ones=True)()
    assert torch.equal(more[:15], Hadamard(16, 8, seed=0)()[1:])
    assert int((more[15] < 0).sum()) == 4


def test_hadamard_by_hand():
    """H_4 is [[H_2, H_2], [H_2, -H_2]], and H_2 is [[1, 1], [1, -1]]; then come the negatives."""
    expected = torch.tensor([[1.0, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1]])
    assert torch.equal(Hadamard(3, 4, seed=0)(), expected)
    last = torch.tensor([[1.0, -1, -1, 1], [-1, -1, -1, -1], [-1, 1, -1, 1]])
    assert torch.equal(Hadamard(6, 4, seed=0)(), torch.cat([expected, last]))
    assert torch.equal(Hadamard(2, 1, seed=0)(), torch.tensor([[1.0], [-1.0]]))


@pytest.mark.parametrize("rest", ["all", "redraw", "once"])
@pytest.mark.parametrize("nbit", [2, 4, 16, 64])
def test_hadamard_distances(nbit, rest):
    """Half the bits between any two rows, all bits between a row and its negative."""
    rows = Hadamard(2 * nbit, nbit, seed=0, rest=rest)()
    distances = (nbit - rows @ rows.T) / 2
    half = torch.full((nbit, nbit), nbit / 2)
    same, opposite = half.clone().fill_diagonal_(0), half.clone().fill_diagonal_(nbit)
    upper, lower = torch.cat([same, opposite], dim=1), torch.cat([opposite, same], dim=1)
    assert torch.equal(distances, torch.cat([upper, lower]))
    assert torch.equal(rows[0], torch.ones(nbit))
    for fewer in (1, nbit - 1, nbit, nbit + 1):
        assert torch.equal(Hadamard(fewer, nbit, seed=7, rest=rest)(), rows[:fewer])


@pytest.mark.parametrize(("classes", "nbit"), [(33, 16), (40, 16), (10, 24), (5, 7)])
def test_hadamard_all_is_balanced_where_the_matrix_ends(classes, nbit):
    rows = Hadamard(classes, nbit, seed=2, tries=20)()
    assert torch.equal(rows, Balanced(classes, nbit, seed=2, tries=20)())


@pytest.mark.parametrize("rest", ["redraw", "once"])
@pytest.mark.parametrize(("classes", "nbit"), [(33, 16), (40, 8), (150, 64)])
def test_hadamard_keeps_its_rows_and_adds_balanced_ones(classes, nbit, rest):
    rows = Hadamard(classes, nbit, seed=1, rest=rest)()
    assert torch.equal(rows[: 2 * nbit], Hadamard(2 * nbit, nbit, seed=0)())
    assert ((rows[2 * nbit :] == -1).sum(dim=1) == nbit // 2).all()


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("classes", "nbit"), [(150, 64), (36, 16), (40, 8)])
def test_hadamard_redraws_until_the_book_is_good(classes, nbit, seed):
    """Least distance above a quarter and mean from half the bits on, or the twentieth draw."""
    rng, drawn = generator(seed, "codebook"), 0
    good = False
    while not good and drawn < 20:
        more, drawn = balanced(classes - 2 * nbit, nbit, rng), drawn + 1
        book = torch.cat([Hadamard(2 * nbit, nbit, seed=0)(), more])
        result = pairs(book)
        good = min(result) > nbit / 4 and sum(result) / len(result) >= nbit / 2
        if drawn == 1:
            assert torch.equal(Hadamard(classes, nbit, seed, rest="once")(), book)
    assert torch.equal(Hadamard(classes, nbit, seed, rest="redraw")(), book)
    assert good or nbit < 64


@pytest.mark.parametrize("rest", ["redraw", "once"])
def test_no_hadamard_matrix_for_these_bits(rest):
    with pytest.raises(ConfigError, match=r"method\.codebook .* model\.nbit is 48") as error:
        Hadamard(10, 48, seed=0, rest=rest)
    for name in ("codebook=hadamard codebook.rest=all", "max_hamming", "model.nbit=32 or 64"):
        assert name in str(error.value)


def test_only_codebooks_with_enough_rows_are_named():
    """6 bits have 20 balanced rows and 64 codes, and 4 bits 16 codes: too few for 100 classes."""
    with pytest.raises(ConfigError, match=r"Try model\.nbit=8\."):
        Hadamard(100, 6, seed=0, rest="once")
    with pytest.raises(ConfigError, match=r"20 balanced.*\n *Try model\.nbit=9\."):
        Hadamard(100, 6, seed=0)


@pytest.mark.parametrize("nbit", [1, 2, 3, 7, 8, 15, 33, 64])
def test_balanced_rows_have_half_the_bits(nbit):
    """An odd length has one +1 more than -1."""
    rows = balanced(200, nbit, generator(0, "x"))
    assert rows.shape == (200, nbit)
    assert ((rows == -1).sum(dim=1) == nbit // 2).all() and (rows.abs() == 1).all()


@pytest.mark.parametrize("nbit", [4, 5])
def test_every_balanced_row_is_as_likely(nbit):
    """Chi-squared over all of them, below the value that chance exceeds once in 1,000."""
    count = math.comb(nbit, nbit // 2)
    rows = balanced(400 * count, nbit, generator(1, "x"))
    _, seen = rows.unique(dim=0, return_counts=True)
    assert len(seen) == count
    assert ((seen - 400.0) ** 2 / 400).sum() < {6: 20.5, 10: 27.9}[count]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    ("classes", "nbit", "threshold", "tries"),
    [(5, 8, 2, 40), (5, 8, 6, 60), (12, 16, 4, 50), (7, 9, 4, 50), (2, 2, 2, 9), (9, 16, 99, 30)],
)
def test_balanced_is_the_naive_search(classes, nbit, threshold, tries, seed):
    """The same codebooks in the same order: the first accepted one, or the best."""
    book, good = naive_balanced(classes, nbit, generator(seed, "x"), threshold, tries)
    rows = balanced_book(classes, nbit, generator(seed, "x"), threshold, tries)
    assert torch.equal(rows, book)
    if good:
        least, mean = spread(rows)
        assert least >= threshold and mean >= nbit / 2


def test_balanced_does_not_depend_on_its_chunks(monkeypatch):
    """60 draws of 200 classes need several chunks; a small budget stops after two, or one."""
    rng = generator(0, "x")
    drawn = [balanced(200, 16, rng) for _ in range(60)]
    for budget, draws in ((codebooks.BUDGET, 60), (2 * 200 * 200 * 16 + 1, 2), (0, 1)):
        monkeypatch.setattr(codebooks, "BUDGET", budget)
        rows = balanced_book(200, 16, generator(0, "x"), threshold=16, tries=60)
        assert torch.equal(rows, max(drawn[:draws], key=spread))


@pytest.mark.parametrize(
    ("classes", "nbit", "least"),
    [(3, 6, 2), (10, 64, 20), (21, 16, 4), (21, 32, 10), (80, 64, 20), (100, 64, 20),
     (100, 128, 42)],
)  # fmt: skip
def test_balanced_reaches_its_threshold(classes, nbit, least):
    """2 * floor(K / 6): even, as these distances are, and within CSQ's K / 4 to K / 3."""
    assert nbit / 4 <= least <= nbit / 3
    result, mean = spread(Balanced(classes, nbit, seed=0)())
    assert result >= least and mean >= nbit / 2
    rows = Balanced(classes, nbit, seed=0, threshold=least)()
    assert torch.equal(rows, Balanced(classes, nbit, seed=0)())


@pytest.mark.parametrize(
    ("classes", "nbit", "least"), [(80, 16, 2), (80, 32, 8), (100, 16, 2), (100, 32, 8)]
)
def test_the_best_book_is_kept_where_none_is_good_enough(classes, nbit, least):
    """The least distances of the centers that CSQ ships for COCO and ImageNet100."""
    result, mean = spread(Balanced(classes, nbit, seed=0, tries=1000)())
    assert result == least < 2 * (nbit // 6)
    assert mean >= nbit / 2


def test_a_lower_threshold_is_met_sooner():
    """With threshold 0, only the mean decides."""
    rows = Balanced(30, 16, seed=3, threshold=0)()
    assert spread(rows)[1] >= 8
    assert spread(rows)[0] < spread(Balanced(30, 16, seed=3, threshold=4, tries=1000)())[0]


@pytest.mark.parametrize("nbit", [1, 2, 3, 4])
def test_too_many_classes_for_balanced_rows(nbit):
    """All rows of 3 bits with one -1: three classes fit, a fourth does not."""
    room = len(set(itertools.permutations([-1] * (nbit // 2) + [1] * (nbit - nbit // 2))))
    rows = Balanced(room, nbit, seed=0)()
    assert len(rows.unique(dim=0)) == room
    with pytest.raises(ConfigError, match=rf"{room} balanced rows(.|\n)*model\.nbit=") as error:
        Balanced(room + 1, nbit, seed=0)
    assert ("codebook=hadamard" in str(error.value)) == (nbit in (1, 2, 4))


def test_balanced_for_one_class_and_no_tries():
    assert spread(Balanced(1, 6, seed=0)()) == (6, 6.0)
    with pytest.raises(ConfigError, match="tries is 0"):
        Balanced(5, 8, seed=0, tries=0)


def test_learned_starts_as_a_linear_classifier():
    """Uniform up to 1 / sqrt(64) = 0.125, whose standard deviation is 0.125 / sqrt(3)."""
    rows = Learned(num_classes=200, nbit=64, seed=0, init="linear")().detach()
    assert rows.abs().max() <= 0.125 and rows.abs().max() > 0.124
    assert rows.std().item() == pytest.approx(0.125 / 3**0.5, rel=0.02)
    assert rows.mean().item() == pytest.approx(0, abs=0.003)
    assert torch.equal(rows, Learned(200, 64, seed=0, init="linear")())
    layer = torch.nn.Linear(64, 200).weight.detach()
    assert rows.abs().max().item() == pytest.approx(layer.abs().max().item(), rel=0.01)


def test_learned_is_a_parameter():
    book = Learned(num_classes=100, nbit=64, seed=0)
    assert isinstance(book.rows, torch.nn.Parameter) and book().shape == (100, 64)
    assert [name for name, _ in book.named_parameters()] == ["rows"]
    assert torch.equal(book(), Learned(100, 64, seed=0)())
    assert book().std().item() == pytest.approx(1, abs=0.05)
    book().sum().backward()
    assert book.rows.grad is not None


@pytest.mark.parametrize("name", [Bernoulli, MaxHamming, Balanced, Hadamard, Learned])
def test_rows_survive_state_dict(name):
    kind = seeded(name)
    first, second = kind(6, 16, seed=1), kind(6, 16, seed=2)
    assert not torch.equal(first(), second())
    second.load_state_dict(first.state_dict())
    assert torch.equal(first(), second())
    if name is not Learned:
        assert [name for name, _ in first.named_buffers()] == ["rows"]
        assert list(first.parameters()) == []


def test_spread_by_hand():
    """++++, ++--, ---- are at 2, 4 and 2 bits."""
    rows = torch.tensor([[1.0, 1, 1, 1], [1, 1, -1, -1], [-1, -1, -1, -1]])
    assert spread(rows) == (2, pytest.approx(8 / 3))
    assert spread(rows[:1]) == (4, 4.0)


def test_spread_is_the_naive_one():
    rows = Bernoulli(9, 20, seed=0)()
    result = pairs(rows)
    assert spread(rows) == (min(result), pytest.approx(sum(result) / len(result)))


def test_spread_is_exact_for_many_rows():
    """The matrix of 128 and its negative: 128 pairs at 128 bits, all others at 64."""
    rows = Hadamard(256, 128, seed=0)()
    total = 256 * 255 // 2
    assert spread(rows) == (64, (128 * 128 + (total - 128) * 64) / total)
    assert spread(torch.cat([rows, rows[:1]]))[0] == 0


class Largest(TorchDispatchMode):
    """Record the largest tensor that an operation creates."""

    def __init__(self):
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        made = operation(*args, **(kwargs or {}))
        for value in made if isinstance(made, tuple | list) else [made]:
            self.numel = max(self.numel, value.numel() if isinstance(value, torch.Tensor) else 0)
        return made


def naive_spread(rows):
    signs = np.where(rows.numpy() >= 0, 1, -1)
    upper = np.triu_indices(len(rows), 1)
    distances = ((rows.shape[1] - signs @ signs.T) // 2)[upper]
    return distances.min(), distances.mean()


@pytest.mark.parametrize("make", [signs, lambda *a: torch.randn(a[0], a[1])])
@pytest.mark.parametrize(("classes", "nbit"), [(2, 1), (3, 7), (50, 16), (301, 33)])
def test_the_spread_by_blocks_is_that_of_all_pairs(make, classes, nbit, monkeypatch):
    rows = make(classes, nbit, generator(1))
    assert spread(rows) == naive_spread(rows)
    for block in (1, 5 * classes, 7 * classes + 3):
        monkeypatch.setattr(codebooks, "MAX_DISTANCES", block)
        assert spread(rows) == naive_spread(rows)


@pytest.mark.parametrize(
    "make",
    [
        lambda: spread(signs(9000, 32, generator(0))),
        lambda: max_hamming(4000, 32, generator(0)),
        lambda: balanced_book(6000, 32, generator(0), tries=1),
        lambda: hadamard(6000, 32, generator(0), "redraw"),
    ],
)
def test_no_matrix_of_classes_by_classes(make, monkeypatch):
    """Of 81,313 classes it would take 26 GB."""
    monkeypatch.setattr(codebooks, "MAX_DISTANCES", 1 << 20)
    with Largest() as largest:
        make()
    assert 1 << 18 < largest.numel < 1 << 22


def test_blocks_do_not_change_a_book(monkeypatch):
    drawn = [
        (make, *size)
        for make in (max_hamming, balanced_book, hadamard)
        for size in ((20, 16), (60, 32))
    ]
    whole = [make(classes, nbit, generator(3), tries=50) for make, classes, nbit in drawn]
    monkeypatch.setattr(codebooks, "MAX_DISTANCES", 100)
    monkeypatch.setattr(codebooks, "CANDIDATE_BLOCK", 3)
    for (make, classes, nbit), book in zip(drawn, whole, strict=True):
        assert torch.equal(make(classes, nbit, generator(3), tries=50), book)
