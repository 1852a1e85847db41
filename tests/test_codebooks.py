import math

import pytest
import torch

from deephash.codebooks import Bernoulli, Learned, MaxHamming, max_hamming, signs, spread
from deephash.errors import ConfigError
from deephash.records import generator


def naive(num_classes, nbit, rng, threshold, step, floor, tries):
    """The search as one reads it: a candidate, a loop over the rows, a count of failures."""
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


def pairs(rows):
    return [int((a != b).sum()) for i, a in enumerate(rows) for b in rows[:i]]


@pytest.mark.parametrize("kind", [Bernoulli, MaxHamming])
def test_fixed_rows_are_signs_and_reproducible(kind):
    first = kind(num_classes=10, nbit=16, seed=3)().clone()
    torch.manual_seed(99)  # the global stream has no say
    torch.rand(7)
    before = torch.get_rng_state()
    again = kind(num_classes=10, nbit=16, seed=3)()
    assert torch.equal(torch.get_rng_state(), before)
    assert first.shape == (10, 16) and first.dtype == torch.float32
    assert set(first.unique().tolist()) == {-1.0, 1.0}
    assert torch.equal(first, again)
    assert not torch.equal(first, kind(num_classes=10, nbit=16, seed=4)())


@pytest.mark.parametrize(
    ("classes", "nbit", "least", "mean"),
    [(10, 16, 8, 8.6), (10, 32, 16, 17.4), (10, 64, 31, 34.7), (10, 128, 64, 68.6),
     (21, 16, 7, 8.3), (21, 64, 29, 33.1), (100, 16, 5, 8.1)],
)  # fmt: skip
def test_max_hamming_reaches_the_known_distances(classes, nbit, least, mean):
    """What the reference search arrives at; one bit of play for the draw."""
    smallest, average = spread(MaxHamming(classes, nbit, seed=0)())
    assert least - 1 <= smallest <= least + 1
    assert average == pytest.approx(mean, abs=0.35)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(("classes", "nbit", "tries"), [(8, 12, 30), (12, 16, 50), (5, 8, 3)])
def test_max_hamming_is_the_naive_loop_in_chunks(seed, classes, nbit, tries):
    """The same candidates in the same order: not only the law, the very rows are the same."""
    how = {"threshold": 0.61, "step": 0.01, "floor": 0.2, "tries": tries}
    expected = naive(classes, nbit, generator(seed, "x"), **how)
    assert torch.equal(max_hamming(classes, nbit, generator(seed, "x"), **how), expected)


def test_max_hamming_is_farther_apart_than_chance():
    chance = [spread(Bernoulli(10, 64, seed)())[0] for seed in range(20)]
    chosen = [spread(MaxHamming(10, 64, seed)())[0] for seed in range(2)]
    assert sum(chance) / 20 == pytest.approx(23.6, abs=1.5)
    assert min(chosen) > max(chance)


def test_duplicate_rows_happen_by_chance_but_not_by_search():
    assert min(spread(Bernoulli(100, 16, seed)())[0] for seed in range(20)) == 0
    assert spread(MaxHamming(100, 16, seed=1)())[0] > 0


def test_too_many_classes_for_the_bits():
    """Two bits make four words: a fifth is at distance 0 of one of them, below any floor."""
    with pytest.raises(ConfigError, match=r"5 classes do not fit into 2 bits(.|\n)*model\.nbit"):
        MaxHamming(5, 2, seed=0, tries=50)
    assert spread(MaxHamming(4, 2, seed=0, tries=50)()) == (1, pytest.approx(8 / 6))


def test_acceptance_counts_equality():
    """Threshold 1: only the exact opposite may join."""
    rows = MaxHamming(2, 4, seed=0, threshold=1.0, tries=1000)()
    assert torch.equal(rows[0], -rows[1])


def test_bernoulli_bits_are_fair():
    rows = Bernoulli(200, 500, seed=0)()
    assert abs(rows.mean()) < 4 / math.sqrt(rows.numel())


def test_learned_is_a_parameter():
    book = Learned(num_classes=100, nbit=64, seed=0)
    assert isinstance(book.rows, torch.nn.Parameter) and book().shape == (100, 64)
    assert [name for name, _ in book.named_parameters()] == ["rows"]
    assert torch.equal(book(), Learned(100, 64, seed=0)())
    assert book().std().item() == pytest.approx(1, abs=0.05)
    book().sum().backward()
    assert book.rows.grad is not None


@pytest.mark.parametrize("kind", [Bernoulli, MaxHamming, Learned])
def test_rows_survive_state_dict(kind):
    first, second = kind(6, 16, seed=1), kind(6, 16, seed=2)
    assert not torch.equal(first(), second())
    second.load_state_dict(first.state_dict())
    assert torch.equal(first(), second())
    if kind is not Learned:
        assert [name for name, _ in first.named_buffers()] == ["rows"]
        assert list(first.parameters()) == []


def test_spread_by_hand():
    """++++, ++--, ---- are at 2, 4 and 2 bits."""
    rows = torch.tensor([[1.0, 1, 1, 1], [1, 1, -1, -1], [-1, -1, -1, -1]])
    assert spread(rows) == (2, pytest.approx(8 / 3))
    assert spread(rows[:1]) == (4, 4.0)


def test_spread_is_the_naive_one():
    rows = Bernoulli(9, 20, seed=0)()
    found = pairs(rows)
    assert spread(rows) == (min(found), pytest.approx(sum(found) / len(found)))
