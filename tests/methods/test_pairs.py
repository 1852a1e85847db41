"""Losses of pairs and triplets of images: values, invariances and the memory of codes."""

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


def fill_memory(case, loss, seed):
    """Write half of the training images into the memory of a loss."""
    if loss.memory is not None:
        rng = torch.Generator().manual_seed(seed)
        codes, labels = loss.memory.codes, loss.memory.labels
        codes[:8] = torch.randn(8, codes.shape[1], generator=rng, dtype=codes.dtype)
        labels[:8] = (torch.rand(8, labels.shape[1], generator=rng) < 0.4).to(labels.dtype)
    return loss


@pytest.mark.parametrize("pairs", ["batch", "halves", "memory"])
@pytest.mark.parametrize("weighting", ["mean", "balanced", "positives", "class"])
def test_pairwise_likelihood_matches_loop(pairs, weighting, random_case, loop_loss):
    choices = product(["inner", "clipped", "cosine"], ["none", "jaccard", "cosine"], range(3))
    for inner_product, graded, seed in choices:
        options = {"product": inner_product, "graded": graded, "pairs": pairs,
                   "weighting": weighting,
                   "alpha": (0.5, "10/nbit", 0.1)[seed], "class_weight": (1.0, 7.0, 0.3)[seed],
                   "quantization": 0.3, "quantization_form": FORMS[seed]}  # fmt: skip
        case = random_case(seed, n=6 + seed)
        loss = fill_memory(case, case.loss(PairwiseLikelihood, **options), seed)
        expected = loop_loss(case, loss, **options)
        assert case.total(loss).item() == pytest.approx(expected, rel=1e-9, abs=3e-9), options


def test_class_weight_below_one(make_case):
    """One similar pair of weight 1/2: normalized by the sum of the weights, its weight is 1."""
    case = make_case([[0.0], [1.0]], [[1], [1]])
    loss = case.loss(PairwiseLikelihood, pairs="halves", weighting="class", class_weight=0.5)
    assert case.total(loss).item() == pytest.approx(math.log(2))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("margin", "half"), [(5.0, False), ("nbit/2", True), (0.0, False)])
def test_triplet_likelihood_matches_loop(margin, half, seed, random_case, loop_loss):
    """Codes multiplied by 4 exceed the bounds of tau, -100 and 50."""
    case = random_case(seed, n=7)
    for scale in (1, 4):
        case.z = case.z * scale
        loss = case.loss(TripletLikelihood, margin=margin, half=half, quantization=0.5)
        expected = loop_loss(case, loss, margin=margin, half=half, quantization=0.5)
        assert case.total(loss).item() == pytest.approx(expected, rel=1e-9, abs=3e-9)


def test_two_anchors_by_hand(make_case):
    """Codes +1 and -1 of two classes: theta is 1 with the code itself and -1 with the other.

    tau = 1 + 1 - 0.5 for both anchors, so the mean is log(1 + e^-1.5); with half of theta,
    tau = 0.5.
    """
    case = make_case([[1.0], [-1.0]], [[1, 0], [0, 1]])
    for half, tau in ((False, 1.5), (True, 0.5)):
        terms = case.terms(case.loss(TripletLikelihood, margin=0.5, half=half))
        assert terms["triplet"].item() == pytest.approx(math.log1p(math.exp(-tau)))
        assert terms["quantization"].item() == 0


def test_gradient_of_clamped_tau_is_zero(make_case):
    """Codes of 6 and -6 have a tau of 72, or -72 with a margin of 144; 4 and -4 one of -112."""
    for code, margin, has_gradient in ((6, 0.0, False), (6, 144.0, True), (4, 144.0, False)):
        case = make_case([[float(code)], [float(-code)]], [[1, 0], [0, 1]])
        grad = case.gradient(case.loss(TripletLikelihood, margin=margin, quantization=0.0))
        assert (grad.abs().sum() > 0) == has_gradient


def test_forms_of_quantization_by_hand():
    """The distances of 0, 1/2 and -3 from the nearer of -1 and +1 are 1, 1/2 and 2."""
    code, gaps = torch.tensor([[0.0, 0.5, -3.0]]), [1, 0.5, 2]
    for form, power in (("l1", 1), ("l2", 2), ("l3", 3)):
        expected = sum(gap**power for gap in gaps) / 3
        assert quantization(code, form).item() == pytest.approx(expected)
    log_cosh = sum(math.log(math.cosh(gap)) for gap in gaps) / 3
    assert quantization(code, "log_cosh").item() == pytest.approx(log_cosh)
    far = quantization(torch.tensor([[1e4]]), "log_cosh").item()
    assert far == pytest.approx(9999 - math.log(2))
    cosine = (0 + 0.5 + 3) / (0.25 + 9) ** 0.5 / 3**0.5
    assert quantization(code, "cosine").item() == pytest.approx(1 - cosine)


def test_divergence_of_uniform_and_saturated_bits():
    """It is 0 for uniform bits and log 2 for each saturated bit."""
    assert divergence(torch.zeros(3, 4)).item() == 0
    assert divergence(torch.full((3, 4), 80.0)).item() == pytest.approx(4 * math.log(2))
    assert divergence(torch.full((3, 4), -80.0), 1e-7).item() == pytest.approx(4 * math.log(2))


def test_grades_by_hand():
    """{a, b} and {b, c}: one of three labels in common, cosine 1/2; the factor of cosine is 4."""
    rows = torch.tensor([[1.0, 1, 0], [0, 1, 1], [0, 0, 0]])
    assert grade(rows[:1], rows, "jaccard").tolist() == [[1, pytest.approx(1 / 3), 0]]
    assert grade(rows[:1], rows, "cosine").tolist() == [[pytest.approx(4), pytest.approx(1), 0]]


def test_similar_images_share_a_label():
    rows = torch.tensor([[1.0, 1, 0], [0, 1, 1], [0, 0, 1], [0, 0, 0]])
    expected = [[1, 1, 0, 0], [1, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 0]]
    assert similar(rows, rows).tolist() == [[bool(s) for s in row] for row in expected]


def test_grades_of_single_labels(make_case):
    """``cosine``, as in HashNet's first release, multiplies similar pairs of one label by 4."""
    case = make_case(torch.randn(4, 3, dtype=torch.float64), torch.eye(2)[[0, 0, 1, 1]])
    totals = {
        graded: case.total(case.loss(PairwiseLikelihood, weighting="mean", graded=graded))
        for graded in ("none", "jaccard", "cosine")
    }
    assert totals["jaccard"] == totals["none"]
    loss = case.loss(PairwiseLikelihood)
    terms = torch.nn.functional.softplus(-loss.theta(case.z, case.z))
    similar_pairs = terms[similar(case.labels, case.labels)]
    torch.testing.assert_close(totals["cosine"] - totals["none"], 3 * similar_pairs.sum() / 16)


@pytest.mark.parametrize("objective", [PairwiseLikelihood, TripletLikelihood])
def test_order_and_inverted_bits_do_not_matter(objective, random_case):
    case = random_case()
    loss = case.loss(objective)
    expected = case.total(loss)
    order = torch.tensor([3, 1, 0, 5, 2, 4])
    case.z, case.labels, case.index = case.z[order], case.labels[order], case.index[order]
    torch.testing.assert_close(case.total(loss), expected)
    case.z = case.z * torch.tensor([1.0, -1, 1, 1, -1, -1, 1, -1])
    torch.testing.assert_close(case.total(loss), expected)


def test_cosine_product_ignores_the_length_of_codes(random_case):
    case = random_case()
    loss = case.loss(PairwiseLikelihood, product="cosine", alpha=10.0)
    expected = case.total(loss)
    case.z = case.z * torch.tensor([[0.1], [2], [3], [50], [1], [7]])
    torch.testing.assert_close(case.total(loss), expected)


# memory


def test_memory_of_the_batch_matches_the_batch(random_case):
    """Except for the gradient, which stored codes do not have."""
    case = random_case(num_train=6)
    case.index = torch.tensor([2, 0, 5, 1, 4, 3])
    batch = case.loss(PairwiseLikelihood, pairs="batch")
    memory = case.loss(PairwiseLikelihood, pairs="memory")
    torch.testing.assert_close(case.total(memory), case.total(batch))
    torch.testing.assert_close(2 * case.gradient(memory), case.gradient(batch))


def test_memory_is_written_by_index_in_training_only(random_case):
    case = random_case()
    loss = case.loss(PairwiseLikelihood, pairs="memory").eval()
    case.total(loss)
    assert not loss.memory.codes.any() and not loss.memory.labels.any()
    case.total(loss.train())
    assert torch.equal(loss.memory.codes[case.index], case.z)
    assert torch.equal(loss.memory.labels[case.index], case.labels)
    written = torch.zeros(16, dtype=torch.bool)
    written[case.index] = True
    assert not loss.memory.codes[~written].any() and not loss.memory.labels[~written].any()
    assert not loss.memory.codes.requires_grad


def test_empty_rows_of_the_memory_are_dissimilar(make_case):
    """One image, similar to itself, and three empty rows: log 2 each, without gradient."""
    case = make_case([[2.0, 0.0]], [[1, 0]], index=[2], num_train=4)
    loss = case.loss(PairwiseLikelihood, pairs="memory", weighting="mean")
    own_pair = math.log1p(math.exp(-4))
    assert case.total(loss).item() == pytest.approx((own_pair + 3 * math.log(2)) / 4)
    slope = -1 / (1 + math.exp(4)) / 4  # of log(1 + e^-theta), theta = 4; times the stored code
    torch.testing.assert_close(case.gradient(loss), torch.tensor([[2 * slope, 0]]).double())


def test_memory_stores_the_first_view():
    memory = PairMemory(5, 2, 3)
    batch = Batch(torch.zeros(2, 2, 3, 1, 1), torch.eye(3)[:2], torch.tensor([4, 1]))
    memory.update(batch, torch.arange(8.0).reshape(4, 2))
    assert memory.codes.tolist() == [[0, 0], [2, 3], [0, 0], [0, 0], [0, 1]]
    assert memory.labels[4].tolist() == [1, 0, 0]


def test_memory_is_in_the_state_dict(random_case):
    case = random_case()
    loss, restored = (case.loss(PairwiseLikelihood, pairs="memory") for _ in range(2))
    case.total(loss)
    restored.load_state_dict(loss.state_dict())
    case.z, case.index = case.z.flip(0), case.index + 1 - 16 * (case.index == 15).long()
    torch.testing.assert_close(case.total(restored), case.total(loss), rtol=0, atol=0)
    assert torch.equal(loss.memory.codes, restored.memory.codes)
