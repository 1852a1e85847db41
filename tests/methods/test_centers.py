"""DPN and CSQ: losses with a target code for each image, and updates of the centers."""

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
def test_polarization_matches_loop(bits, multi_label, seed, random_case, loop_loss):
    case = random_case(seed)
    for margin, weight in ((1.0, 0.0), (0.3, 0.2)):
        options = {"bits": bits, "multi_label": multi_label, "margin": margin,
                   "regularization": weight}  # fmt: skip
        loss = case.loss(Polarization, **options)
        expected = loop_loss(case, loss, **options)
        assert case.total(loss).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_central_similarity_matches_loop(seed, random_case, loop_loss):
    """Batches of even and of odd size; the loop takes logarithms of (1 + tanh z) / 2."""
    for form, weight, n in product(["l2", "log_cosh"], [0.0, 0.7], [6, 7]):
        case = random_case(seed, n=n)
        options = {"quantization": 0.4, "quantization_form": form, "pairwise": weight}
        loss = case.loss(CentralSimilarity, **options)
        expected = loop_loss(case, loss, **options)
        assert case.total(loss).item() == pytest.approx(expected, rel=1e-9)
        assert ("pairwise" in case.terms(loss)) == (weight > 0)


def test_vote_by_hand():
    """Classes 0 and 2 agree only on the first bit: +1, then the ties -1, +1, +1.

    The vote of all three classes is +1, +1, +1, -1. An image without a label has no target.
    """
    ties = torch.tensor([-1.0, -1, 1, 1])
    targets = torch.tensor([[0.0, 1, 0], [1, 0, 1], [1, 1, 1], [0, 0, 0]])
    expected = [[-1, 1, 1, -1], [1, -1, 1, 1], [1, 1, 1, -1], [0, 0, 0, 0]]
    assert vote(targets, CENTERS, ties).tolist() == expected


def test_vote_of_one_label_is_its_center():
    result = vote(torch.eye(3), CENTERS, torch.ones(4))
    assert torch.equal(result, CENTERS)


def test_tie_vector_depends_on_the_seed_only():
    ties = tie_vector(4000, seed=3)
    assert set(ties.tolist()) == {-1.0, 1.0} and abs(ties.mean()) < 0.08
    torch.rand(5)
    assert torch.equal(ties, tie_vector(4000, seed=3))
    assert not torch.equal(ties, tie_vector(4000, seed=4))


def test_mean_over_bits_is_sum_divided_by_nbit(random_case):
    case = random_case(nbit=8)
    summed, mean = (case.total(case.loss(Polarization, bits=bits)) for bits in ("sum", "mean"))
    torch.testing.assert_close(mean, summed / 8)


@pytest.mark.parametrize("multi_label", ["each", "vote"])
def test_hinge_by_hand(multi_label, make_case):
    """z = (2, -0.5), center (1, 1): the hinges of the two bits are 0 and 1.5."""
    case = make_case([[2.0, -0.5]], [[1]], [[1, 1]])
    loss = case.loss(Polarization, multi_label=multi_label)
    assert case.total(loss).item() == 1.5
    assert case.gradient(loss).tolist() == [[0, -1]]


OBJECTIVES = [
    (Polarization, {"regularization": 0.1}),
    (Polarization, {"bits": "mean", "multi_label": "vote"}),
    (CentralSimilarity, {"pairwise": 0.5}),
]


@pytest.mark.parametrize(("objective", "options"), OBJECTIVES)
def test_order_within_halves_does_not_matter(objective, options, random_case):
    """CSQ forms pairs between the halves of a batch."""
    case = random_case()
    loss, order = case.loss(objective, **options), torch.tensor([2, 0, 1, 4, 5, 3])
    expected = case.total(loss)
    case.z, case.labels = case.z[order], case.labels[order]
    torch.testing.assert_close(case.total(loss), expected)


@pytest.mark.parametrize(("objective", "options"), OBJECTIVES)
def test_inverting_a_bit_of_codes_and_centers_changes_nothing(objective, options, random_case):
    """With one label per image, so that there are no ties."""
    case = random_case()
    case.labels = torch.eye(4, dtype=torch.float64)[[0, 1, 2, 3, 0, 1]]
    loss, signs = case.loss(objective, **options), torch.tensor([1.0, -1, 1, 1, -1, -1, 1, -1])
    expected = case.total(loss)
    case.z = case.z * signs
    assert not torch.isclose(case.total(loss), expected)
    case.centers = case.centers * signs
    torch.testing.assert_close(case.total(loss), expected)


def test_central_similarity_of_saturated_codes(make_case):
    """The loss is 0 for a large multiple of the center, and 2 |z| per bit for its negative."""
    case = make_case(20 * CENTERS, torch.eye(3), CENTERS)
    assert case.terms(case.loss(CentralSimilarity))["central"].item() < 1e-12
    case.z = -case.z
    assert case.terms(case.loss(CentralSimilarity))["central"].item() == pytest.approx(40)


# DPN-A


@pytest.fixture
def trained_case(make_case):
    """``(options) -> (case, loss)`` after one step, with stored codes.

    Four images have class 0 (bits ++, +-, --, ++), one has class 1 (-+) and one has no label.
    """

    def make(**options):
        codes = [[2, 1.5], [0.5, -3], [-1.2, -0.4], [0.7, 1.1], [-3, 2], [5, 5]]
        labels = [[1, 0], [1, 1], [1, 0], [1, 0], [0, 1], [0, 0]]
        case = make_case(codes, labels, [[1, 1], [1, -1]], num_train=6)
        loss = case.loss(Polarization, **{"update_every": 1, **options})
        case.total(loss)
        return case, loss

    return make


@pytest.mark.parametrize(
    ("rate", "centers"),
    [(1.0, [[1, 0], [-1, 1]]), (0.75, [[1, 1], [1, -1]]), (0.5, [[1, 1], [1, -1]])],
)
def test_update_from_closest_codes(rate, centers, trained_case):
    """The codes of class 0 have distances 0, 2, 4 and 0 from its center ++.

    The second image belongs to it by its first label. The means are 1/2 and 0 (a tie) for all four,
    1 and 1/3 for the nearest three, 1 and 1 for the nearest two. Class 1 has one image, -+, and
    none at a rate below 1: then its center does not change.
    """
    case, loss = trained_case(update_rate=rate)
    before = case.total(loss)
    loss.on_epoch_start(1)
    assert loss.centers.tolist() == centers
    assert (case.total(loss) == before) == (rate < 1)


def test_update_from_ternary_sum(trained_case):
    """Outside the margin 1, class 0 has ++, 0-, -0 and 0+: sums 0 and 1.

    Class 1 has 0- and -+: sums -1 and 0. The image without a label is not used.
    """
    case, loss = trained_case(update="ternary")
    loss.on_epoch_start(1)
    assert loss.centers.tolist() == [[0, 1], [-1, 0]]
    assert not case.gradient(loss)[0, 0] and not case.gradient(loss)[4, 1]


@pytest.mark.parametrize(("update_every", "epochs"), [(1, [1, 2, 3, 4]), (2, [2, 4]), (3, [3])])
def test_update_every(update_every, epochs, trained_case):
    _, loss = trained_case(update_every=update_every)
    updated = []
    for epoch in range(5):
        loss.adapted.fill_(False)
        before = loss.centers.clone()
        loss.on_epoch_start(epoch)
        if loss.adapted:
            updated.append(epoch)
        else:
            assert torch.equal(loss.centers, before)
    assert updated == epochs


def test_no_memory_without_updates(trained_case):
    _, loss = trained_case(update_every=0)
    loss.on_epoch_start(5)
    assert set(loss.state_dict()) == {"ties"}


def test_updated_centers_are_in_the_state_dict(trained_case):
    case, loss = trained_case(update="ternary")
    loss.on_epoch_start(1)
    other = case.loss(Polarization, update_every=1, update="ternary")
    assert not torch.equal(case.total(other.eval()), case.total(loss.eval()))
    other.load_state_dict(loss.state_dict())
    assert torch.equal(case.total(other), case.total(loss))
    for each in (loss, other):
        each.on_epoch_start(2)
    assert torch.equal(loss.centers, other.centers)


def test_evaluation_mode_does_not_write_the_memory(trained_case):
    case, loss = trained_case()
    before = {key: value.clone() for key, value in loss.eval().state_dict().items()}
    case.z = case.z.flip(0)
    case.total(loss)
    assert all(torch.equal(before[key], value) for key, value in loss.state_dict().items())
    assert math.isfinite(case.total(loss))
