"""DPN and CSQ: a target code for each image, and centers that move."""

import math
from itertools import product

import pytest
import torch

from deephash.losses.labels import tie_vector, vote
from deephash.methods.csq import CentralSimilarity
from deephash.methods.dpn import Polarization

CENTERS = torch.tensor([[1.0, -1, 1, 1], [-1, 1, 1, -1], [1, 1, -1, -1]])


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("bits", ["sum", "mean"])
@pytest.mark.parametrize("multi_label", ["each", "vote"])
def test_polarization_is_the_loop(bits, multi_label, seed, drawn, loops):
    at = drawn(seed)
    for margin, weight in ((1.0, 0.0), (0.3, 0.2)):
        options = {"bits": bits, "multi_label": multi_label, "margin": margin,
                   "regularization": weight}  # fmt: skip
        loss = at.made(Polarization, **options)
        expected = loops(at, loss, **options)
        assert at.total(loss).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_central_similarity_is_the_loop(seed, drawn, loops):
    """The loop takes the logarithms of (1 + tanh z) / 2; halves of an odd batch differ by one."""
    for form, weight, n in product(["l2", "log_cosh"], [0.0, 0.7], [6, 7]):
        at = drawn(seed, n=n)
        options = {"quantization": 0.4, "quantization_form": form, "pairwise": weight}
        loss = at.made(CentralSimilarity, **options)
        expected = loops(at, loss, **options)
        assert at.total(loss).item() == pytest.approx(expected, rel=1e-9)
        assert ("pairwise" in at.terms(loss)) == (weight > 0)


def test_votes_by_hand():
    """Classes 0 and 2 agree on the first bit alone: +1, then the ties -1, +1, +1.

    All three: +1, +1, +1, -1 by two to one. An image without a label has no target.
    """
    ties = torch.tensor([-1.0, -1, 1, 1])
    targets = torch.tensor([[0.0, 1, 0], [1, 0, 1], [1, 1, 1], [0, 0, 0]])
    expected = [[-1, 1, 1, -1], [1, -1, 1, 1], [1, 1, 1, -1], [0, 0, 0, 0]]
    assert vote(targets, CENTERS, ties).tolist() == expected


def test_the_vote_on_one_label_is_its_center():
    result = vote(torch.eye(3), CENTERS, torch.ones(4))
    assert torch.equal(result, CENTERS)


def test_ties_are_signs_drawn_from_the_seed_alone():
    ties = tie_vector(4000, seed=3)
    assert set(ties.tolist()) == {-1.0, 1.0} and abs(ties.mean()) < 0.08
    torch.rand(5)
    assert torch.equal(ties, tie_vector(4000, seed=3))
    assert not torch.equal(ties, tie_vector(4000, seed=4))


def test_the_mean_over_bits_is_the_sum_by_k(drawn):
    at = drawn(nbit=8)
    summed, mean = (at.total(at.made(Polarization, bits=bits)) for bits in ("sum", "mean"))
    torch.testing.assert_close(mean, summed / 8)


@pytest.mark.parametrize("multi_label", ["each", "vote"])
def test_the_hinge_by_hand(multi_label, case):
    """z = (2, -0.5), center (1, 1): the first bit is beyond the margin 1, the second 1.5 short."""
    at = case([[2.0, -0.5]], [[1]], [[1, 1]])
    loss = at.made(Polarization, multi_label=multi_label)
    assert at.total(loss).item() == 1.5
    assert at.gradient(loss).tolist() == [[0, -1]]


OBJECTIVES = [
    (Polarization, {"regularization": 0.1}),
    (Polarization, {"bits": "mean", "multi_label": "vote"}),
    (CentralSimilarity, {"pairwise": 0.5}),
]


@pytest.mark.parametrize(("objective", "options"), OBJECTIVES)
def test_order_does_not_matter(objective, options, drawn):
    """Within the halves, of which CSQ makes pairs."""
    at = drawn()
    loss, order = at.made(objective, **options), torch.tensor([2, 0, 1, 4, 5, 3])
    expected = at.total(loss)
    at.z, at.labels = at.z[order], at.labels[order]
    torch.testing.assert_close(at.total(loss), expected)


@pytest.mark.parametrize(("objective", "options"), OBJECTIVES)
def test_a_bit_turned_in_codes_and_centers_changes_nothing(objective, options, drawn):
    """One label each: without ties."""
    at = drawn()
    at.labels = torch.eye(4, dtype=torch.float64)[[0, 1, 2, 3, 0, 1]]
    loss, turned = at.made(objective, **options), torch.tensor([1.0, -1, 1, 1, -1, -1, 1, -1])
    expected = at.total(loss)
    at.z = at.z * turned
    assert not torch.isclose(at.total(loss), expected)
    at.centers = at.centers * turned
    torch.testing.assert_close(at.total(loss), expected)


def test_central_similarity_is_largest_against_the_center(case):
    """A code that is its center many times over costs nothing; its opposite costs 2 |z| a bit."""
    at = case(20 * CENTERS, torch.eye(3), CENTERS)
    assert at.terms(at.made(CentralSimilarity))["central"].item() < 1e-12
    at.z = -at.z
    assert at.terms(at.made(CentralSimilarity))["central"].item() == pytest.approx(40)


# DPN-A


@pytest.fixture
def seen(case):
    """An objective that remembers four images of class 0, one of class 1 and one of none.

    Their bits are, of class 0: ++, +-, --, ++; of class 1: -+.
    """

    def make(**options):
        codes = [[2, 1.5], [0.5, -3], [-1.2, -0.4], [0.7, 1.1], [-3, 2], [5, 5]]
        labels = [[1, 0], [1, 1], [1, 0], [1, 0], [0, 1], [0, 0]]
        at = case(codes, labels, [[1, 1], [1, -1]], num_train=6)
        loss = at.made(Polarization, **{"update_every": 1, **options})
        at.total(loss)
        return at, loss

    return make


@pytest.mark.parametrize(
    ("rate", "centers"),
    [(1.0, [[1, 0], [-1, 1]]), (0.75, [[1, 1], [1, -1]]), (0.5, [[1, 1], [1, -1]])],
)
def test_centers_move_to_the_closest(rate, centers, seen):
    """From the center ++, class 0 lies 0, 2, 4 and 0 away, the second by its first label.

    All four: means 1/2 and 0, a tie. The nearest three: 1 and 1/3. The nearest two: both ++.
    Class 1 has one image, -+, and none if less than all are taken: its center stays.
    """
    at, loss = seen(update_rate=rate)
    before = at.total(loss)
    loss.on_epoch_start(1)
    assert loss.centers.tolist() == centers
    assert (at.total(loss) == before) == (rate < 1)


def test_centers_move_to_the_ternary_sum(seen):
    """Beyond the margin 1, class 0 has ++, 0-, -0 and 0+: sums 0 and 1. Class 1 has 0- and -+.

    That is -1 and 0. An image without a label says nothing.
    """
    at, loss = seen(update="ternary")
    loss.on_epoch_start(1)
    assert loss.centers.tolist() == [[0, 1], [-1, 0]]
    assert not at.gradient(loss)[0, 0] and not at.gradient(loss)[4, 1]


@pytest.mark.parametrize(("every", "due"), [(1, [1, 2, 3, 4]), (2, [2, 4]), (3, [3])])
def test_centers_move_at_due_epochs_only(every, due, seen):
    _, loss = seen(update_every=every)
    moved = []
    for epoch in range(5):
        loss.adapted.fill_(False)
        before = loss.centers.clone()
        loss.on_epoch_start(epoch)
        if loss.adapted:
            moved.append(epoch)
        else:
            assert torch.equal(loss.centers, before)
    assert moved == due


def test_without_an_update_there_is_nothing_to_remember(seen):
    _, loss = seen(update_every=0)
    loss.on_epoch_start(5)
    assert set(loss.state_dict()) == {"ties"}


def test_moved_centers_are_part_of_the_state(seen):
    at, one = seen(update="ternary")
    one.on_epoch_start(1)
    two = at.made(Polarization, update_every=1, update="ternary")
    assert not torch.equal(at.total(two.eval()), at.total(one.eval()))
    two.load_state_dict(one.state_dict())
    assert torch.equal(at.total(two), at.total(one))
    one.on_epoch_start(2), two.on_epoch_start(2)
    assert torch.equal(one.centers, two.centers)


def test_outside_training_nothing_is_remembered(seen):
    at, loss = seen()
    before = {key: value.clone() for key, value in loss.eval().state_dict().items()}
    at.z = at.z.flip(0)
    at.total(loss)
    assert all(torch.equal(before[key], value) for key, value in loss.state_dict().items())
    assert math.isfinite(at.total(loss))
