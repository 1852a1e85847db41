"""Objectives over pairs and triplets of images: what they are, and what they do not depend on."""

import math
from itertools import product

import pytest
import torch

from deephash.losses.labels import similar
from deephash.losses.memory_bank import PairMemory
from deephash.losses.pairwise import PairwiseLikelihood, grade
from deephash.losses.quantization import divergence, quantization
from deephash.methods.dtsh import TripletLikelihood
from deephash.types import Batch

FORMS = ("log_cosh", "l1", "l2")


def with_known_pairs(at, loss, seed):
    """A memory that has seen half of the training images."""
    if loss.memory is not None:
        rng = torch.Generator().manual_seed(seed)
        codes, labels = loss.memory.codes, loss.memory.labels
        codes[:8] = torch.randn(8, codes.shape[1], generator=rng, dtype=codes.dtype)
        labels[:8] = (torch.rand(8, labels.shape[1], generator=rng) < 0.4).to(labels.dtype)
    return loss


@pytest.mark.parametrize("pairs", ["batch", "halves", "memory"])
@pytest.mark.parametrize("weighting", ["mean", "balanced", "positives", "class"])
def test_pairwise_likelihood_is_the_loop(pairs, weighting, drawn, loops):
    for given in product(["inner", "clipped", "cosine"], ["none", "jaccard", "cosine"], range(3)):
        kind, graded, seed = given
        options = {"product": kind, "graded": graded, "pairs": pairs, "weighting": weighting,
                   "alpha": (0.5, "10/nbit", 0.1)[seed], "class_weight": (1.0, 7.0, 0.3)[seed],
                   "quantization": 0.3, "quantization_form": FORMS[seed]}  # fmt: skip
        at = drawn(seed, n=6 + seed)
        loss = with_known_pairs(at, at.made(PairwiseLikelihood, **options), seed)
        expected = loops(at, loss, **options)
        assert at.total(loss).item() == pytest.approx(expected, rel=1e-9, abs=3e-9), given


def test_weight_of_a_class_below_one(case):
    """One pair, similar, of weight 1/2: normalised by the sum of the weights it counts whole."""
    at = case([[0.0], [1.0]], [[1], [1]])
    loss = at.made(PairwiseLikelihood, pairs="halves", weighting="class", class_weight=0.5)
    assert at.total(loss).item() == pytest.approx(math.log(2))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("margin", "half"), [(5.0, False), ("nbit/2", True), (0.0, False)])
def test_triplet_likelihood_is_the_loop(margin, half, seed, drawn, loops):
    """Codes grown fourfold reach the cuts of tau at -100 and 50."""
    at = drawn(seed, n=7)
    for grown in (1, 4):
        at.z = at.z * grown
        loss = at.made(TripletLikelihood, margin=margin, half=half, quantization=0.5)
        expected = loops(at, loss, margin=margin, half=half, quantization=0.5)
        assert at.total(loss).item() == pytest.approx(expected, rel=1e-9, abs=3e-9)


def test_two_anchors_by_hand(case):
    """Codes +1 and -1 of two classes: theta is 1 with oneself and -1 with the other.

    tau = 1 + 1 - 0.5 for either anchor, so the mean is log(1 + e^-1.5); with half of theta,
    tau = 0.5.
    """
    at = case([[1.0], [-1.0]], [[1, 0], [0, 1]])
    for half, tau in ((False, 1.5), (True, 0.5)):
        terms = at.terms(at.made(TripletLikelihood, margin=0.5, half=half))
        assert terms["triplet"].item() == pytest.approx(math.log1p(math.exp(-tau)))
        assert terms["quantization"].item() == 0


def test_no_gradient_flows_outside_the_cuts_of_tau(case):
    """At codes of 6 and -6, tau is 72, or -72 if the margin is 144; at 8, -16 - 144 is cut."""
    for code, margin, reaches in ((6, 0.0, False), (6, 144.0, True), (4, 144.0, False)):
        at = case([[float(code)], [float(-code)]], [[1, 0], [0, 1]])
        grad = at.gradient(at.made(TripletLikelihood, margin=margin, quantization=0.0))
        assert (grad.abs().sum() > 0) == reaches


def test_the_forms_of_quantization_by_hand():
    """At 0, 1/2 and -3 the distances from the nearer of -1 and +1 are 1, 1/2 and 2."""
    code, gaps = torch.tensor([[0.0, 0.5, -3.0]]), [1, 0.5, 2]
    for form, power in (("l1", 1), ("l2", 2), ("l3", 3)):
        expected = sum(gap**power for gap in gaps) / 3
        assert quantization(code, form).item() == pytest.approx(expected)
    smooth = sum(math.log(math.cosh(gap)) for gap in gaps) / 3
    assert quantization(code, "log_cosh").item() == pytest.approx(smooth)
    far = quantization(torch.tensor([[1e4]]), "log_cosh").item()
    assert far == pytest.approx(9999 - math.log(2))
    cosine = (0 + 0.5 + 3) / (0.25 + 9) ** 0.5 / 3**0.5
    assert quantization(code, "cosine").item() == pytest.approx(1 - cosine)


def test_divergence_of_fair_and_of_certain_bits():
    """Fair bits are fair; a certain bit is log 2 from fair, and bits add up."""
    assert divergence(torch.zeros(3, 4)).item() == 0
    assert divergence(torch.full((3, 4), 80.0)).item() == pytest.approx(4 * math.log(2))
    assert divergence(torch.full((3, 4), -80.0), 1e-7).item() == pytest.approx(4 * math.log(2))


def test_grades_by_hand():
    """{a, b} with {b, c}: one of three in common, cosine 1/2; with itself 1, four times 1."""
    rows = torch.tensor([[1.0, 1, 0], [0, 1, 1], [0, 0, 0]])
    assert grade(rows[:1], rows, "jaccard").tolist() == [[1, pytest.approx(1 / 3), 0]]
    assert grade(rows[:1], rows, "cosine").tolist() == [[pytest.approx(4), pytest.approx(1), 0]]


def test_similar_is_one_label_in_common():
    rows = torch.tensor([[1.0, 1, 0], [0, 1, 1], [0, 0, 1], [0, 0, 0]])
    expected = [[1, 1, 0, 0], [1, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 0]]
    assert similar(rows, rows).tolist() == [[bool(s) for s in row] for row in expected]


def test_degrees_are_without_effect_for_single_labels(case):
    """HashNet's release counts them four times then, a similar pair of one label."""
    at = case(torch.randn(4, 3, dtype=torch.float64), torch.eye(2)[[0, 0, 1, 1]])
    totals = {
        graded: at.total(at.made(PairwiseLikelihood, weighting="mean", graded=graded))
        for graded in ("none", "jaccard", "cosine")
    }
    assert totals["jaccard"] == totals["none"]
    loss = at.made(PairwiseLikelihood)
    alike = torch.nn.functional.softplus(-loss.theta(at.z, at.z))[similar(at.labels, at.labels)]
    torch.testing.assert_close(totals["cosine"] - totals["none"], 3 * alike.sum() / 16)


@pytest.mark.parametrize("objective", [PairwiseLikelihood, TripletLikelihood])
def test_order_and_the_names_of_bits_do_not_matter(objective, drawn):
    at = drawn()
    loss = at.made(objective)
    expected = at.total(loss)
    order = torch.tensor([3, 1, 0, 5, 2, 4])
    at.z, at.labels, at.index = at.z[order], at.labels[order], at.index[order]
    torch.testing.assert_close(at.total(loss), expected)
    at.z = at.z * torch.tensor([1.0, -1, 1, 1, -1, -1, 1, -1])
    torch.testing.assert_close(at.total(loss), expected)


def test_cosine_is_blind_to_the_length_of_codes(drawn):
    at = drawn()
    loss = at.made(PairwiseLikelihood, product="cosine", alpha=10.0)
    expected = at.total(loss)
    at.z = at.z * torch.tensor([[0.1], [2], [3], [50], [1], [7]])
    torch.testing.assert_close(at.total(loss), expected)


# memory


def test_a_memory_of_exactly_the_batch_is_the_batch(drawn):
    """All but the gradient, of which the other side of a pair has none."""
    at = drawn(num_train=6)
    at.index = torch.tensor([2, 0, 5, 1, 4, 3])
    batch = at.made(PairwiseLikelihood, pairs="batch")
    memory = at.made(PairwiseLikelihood, pairs="memory")
    torch.testing.assert_close(at.total(memory), at.total(batch))
    torch.testing.assert_close(2 * at.gradient(memory), at.gradient(batch))


def test_the_memory_writes_by_index_and_in_training_only(drawn):
    at = drawn()
    loss = at.made(PairwiseLikelihood, pairs="memory").eval()
    at.total(loss)
    assert not loss.memory.codes.any() and not loss.memory.labels.any()
    at.total(loss.train())
    assert torch.equal(loss.memory.codes[at.index], at.z)
    assert torch.equal(loss.memory.labels[at.index], at.labels)
    seen = torch.zeros(16, dtype=torch.bool)
    seen[at.index] = True
    assert not loss.memory.codes[~seen].any() and not loss.memory.labels[~seen].any()
    assert not loss.memory.codes.requires_grad


def test_images_not_yet_seen_are_dissimilar_at_theta_0(case):
    """One image, similar to itself; of three others nothing is known: log 2 each, no gradient."""
    at = case([[2.0, 0.0]], [[1, 0]], index=[2], num_train=4)
    loss = at.made(PairwiseLikelihood, pairs="memory", weighting="mean")
    own = math.log1p(math.exp(-4))
    assert at.total(loss).item() == pytest.approx((own + 3 * math.log(2)) / 4)
    slope = -1 / (1 + math.exp(4)) / 4  # of log(1 + e^-theta), theta = 4, times the kept code
    torch.testing.assert_close(at.gradient(loss), torch.tensor([[2 * slope, 0]]).double())


def test_the_memory_keeps_the_first_view():
    memory = PairMemory(5, 2, 3)
    batch = Batch(torch.zeros(2, 2, 3, 1, 1), torch.eye(3)[:2], torch.tensor([4, 1]))
    memory.update(batch, torch.arange(8.0).reshape(4, 2))
    assert memory.codes.tolist() == [[0, 0], [2, 3], [0, 0], [0, 0], [0, 1]]
    assert memory.labels[4].tolist() == [1, 0, 0]


def test_the_memory_is_part_of_the_state(drawn):
    at = drawn()
    one, two = (at.made(PairwiseLikelihood, pairs="memory") for _ in range(2))
    at.total(one)
    two.load_state_dict(one.state_dict())
    at.z, at.index = at.z.flip(0), at.index + 1 - 16 * (at.index == 15).long()
    torch.testing.assert_close(at.total(two), at.total(one), rtol=0, atol=0)
    assert torch.equal(one.memory.codes, two.memory.codes)
