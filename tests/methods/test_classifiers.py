"""Losses of class scores: LMCL and OrthoHash, cross-entropy, GreedyHash and JMLH."""

import math

import pytest
import torch
from torch import nn

from deephash.losses.cross_entropy import CrossEntropy
from deephash.losses.labels import even_target, first_label
from deephash.losses.lmcl import LMCL
from deephash.methods.greedyhash import Greedy
from deephash.methods.jmlh import Variational
from deephash.methods.orthohash import SingleCosine
from deephash.methods.relahash import Relative
from deephash.models.relaxations import Sign, StochasticSign, Tanh
from deephash.models.similarities import Cosine
from deephash.types import Batch, Output


def terms_of_logits(loss, logits, labels):
    """The terms of a loss that reads only the logits."""
    z, labels = torch.zeros(len(logits), 4), torch.as_tensor(labels, dtype=torch.float32)
    batch = Batch(torch.zeros(len(logits), 1, 3, 1, 1), labels, torch.arange(len(logits)))
    return loss(Output(z, z, z, logits, None), batch)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("relaxation", [Sign(), Tanh(), StochasticSign(stochastic=False)])
def test_lmcl_matches_loop(relaxation, seed, random_case, loop_loss):
    case = random_case(seed, relaxation=relaxation, similarity=Cosine())
    for scale, margin in (("sqrt_nbit", 0.2), ("adaptive", 0.0), (8, 0.5)):
        loss = case.loss(LMCL, scale=scale, margin=margin)
        expected = loop_loss(case, loss, scale=scale, margin=margin)
        assert case.total(loss).item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("margin_on", ["cosine", "angle"])
@pytest.mark.parametrize("multi_label", ["softmax", "bce", "imbalance"])
def test_single_cosine_matches_loop(margin_on, multi_label, seed, random_case, loop_loss):
    """At a scale of 8 some absent classes are predicted, and have weight 1."""
    case = random_case(seed, similarity=Cosine())
    for form in ("cosine", "l1", "l2"):
        options = {"margin_on": margin_on, "multi_label": multi_label, "scale": 8.0,
                   "quantization": 0.3, "quantization_form": form}  # fmt: skip
        loss = case.loss(SingleCosine, **options)
        expected = loop_loss(case, loss, **options)
        assert case.total(loss).item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("multi_label", ["even", "first"])
@pytest.mark.parametrize("bias", [True, False])
def test_classifiers_match_loop(multi_label, bias, seed, random_case, loop_loss):
    shared = {"multi_label": multi_label, "bias": bias}
    for loss_type, relaxation, variants in (
        (CrossEntropy, None, [{}]),
        (Greedy, Sign(), [{"penalty": 0.1}, {"power": 2.0}, {"power": 1.0}]),
        (
            Variational,
            StochasticSign(stochastic=False),
            [{}, {"log_epsilon": 0.0, "divergence": 0.2}],
        ),
    ):
        case = random_case(seed, **({"relaxation": relaxation} if relaxation else {}))
        for options in variants:
            loss = case.loss(loss_type, **shared, **options)
            expected = loop_loss(case, loss, **shared, **options)
            assert case.total(loss).item() == pytest.approx(expected, rel=1e-9), (
                loss_type,
                options,
            )


@pytest.mark.parametrize("form", ["cosine", "l1", "l2", "l3", "log_cosh", "divergence"])
@pytest.mark.parametrize("code", ["z", "u"])
def test_lmcl_with_quantization_terms(form, code, random_case, loop_loss):
    """The quantization term reads the code or, as in CSQ, the relaxed code."""
    case = random_case(0, relaxation=Tanh(), similarity=Cosine())
    options = {"margin": 0.2, "quantization": 0.3, "quantization_form": form,
               "quantization_of": code}  # fmt: skip
    loss = case.loss(LMCL, scale=4.0, **options)
    assert list(case.terms(loss)) == ["lmcl", "quantization"]
    assert case.total(loss).item() == pytest.approx(
        loop_loss(case, loss, scale=4.0, **options), rel=1e-9
    )


def test_lmcl_by_hand():
    """s = 8, m = 0.5, cosines (0.6, 0.1, -0.2), the first class is true.

    With the margin: (0.1, 0.1, -0.2). Times 8: (0.8, 0.8, -1.6). The logits of the first two
    classes are equal, so the loss is log(1 + 1 + e^-2.4) = 0.7376.
    """
    terms = terms_of_logits(LMCL(3, 4, 8, 0.5), torch.tensor([[0.6, 0.1, -0.2]]), [[1, 0, 0]])
    assert list(terms) == ["lmcl"]
    assert terms["lmcl"].item() == pytest.approx(math.log(2 + math.exp(-2.4)))


@pytest.mark.parametrize("multi_label", ["softmax", "bce", "imbalance"])
@pytest.mark.parametrize("margin_on", ["cosine", "angle"])
def test_unlabelled_rows_contribute_nothing(multi_label, margin_on):
    logits = torch.tensor([[0.6, 0.1, -0.2], [0.9, -0.9, 0.0]], requires_grad=True)
    loss = SingleCosine(3, 4, 8, 0.5, margin_on, multi_label)
    result = terms_of_logits(loss, logits, [[1, 0, 0], [0, 0, 0]])["lmcl"]
    alone = terms_of_logits(loss, logits[:1], [[1, 0, 0]])["lmcl"]
    torch.testing.assert_close(result, alone if multi_label == "imbalance" else alone / 2)
    result.backward()
    assert torch.equal(logits.grad[1], torch.zeros(3)) and logits.grad[0].norm() > 0


def test_lmcl_of_unlabelled_rows_is_zero():
    logits = torch.tensor([[0.6, 0.1, -0.2], [0.9, -0.9, 0.0]], requires_grad=True)
    result = terms_of_logits(LMCL(3, 4, 8, 0.5), logits, [[1, 0, 0], [0, 0, 0]])["lmcl"]
    assert result.item() == pytest.approx(math.log(2 + math.exp(-2.4)) / 2)
    result.backward()
    assert torch.equal(logits.grad[1], torch.zeros(3)) and logits.grad[0].norm() > 0


def test_named_scales():
    """OrthoHash's supplement prints the adaptive scales of 100 and 80 classes interchanged."""
    assert LMCL(10, 64, "sqrt_nbit", 0.2).scale == 8
    assert LMCL(100, 64, "adaptive", 0.2).scale == pytest.approx(6.4985, abs=5e-5)
    assert LMCL(80, 64, "adaptive", 0.2).scale == pytest.approx(6.1793, abs=5e-5)
    assert all(LMCL(classes, 64, "adaptive", 0.2).scale > 0 for classes in (1, 2))
    assert LMCL(10, 64, 3, 0.2).scale == 3


def test_angle_beyond_pi():
    """cos theta = -0.9, m = 1: theta + m = 3.69 exceeds pi, where the cosine increases again."""
    logits = torch.tensor([[-0.9, 0.0]])
    loss = SingleCosine(2, 4, 2.0, 1.0, "angle")
    positive = 2 * math.cos(math.acos(-0.9) + 1)
    expected = math.log1p(math.exp(-positive))
    assert terms_of_logits(loss, logits, [[1, 0]])["lmcl"].item() == pytest.approx(expected)


def test_gradient_of_clamped_angles_is_zero():
    logits = torch.tensor([[0.999995, -0.999995, 0.5]], requires_grad=True)
    terms_of_logits(SingleCosine(3, 4, 2.0, 0.2, "angle"), logits, [[1, 0, 0]])["lmcl"].backward()
    assert logits.grad[0, :2].tolist() == [0, 0] and logits.grad[0, 2] > 0


def test_imbalance_by_hand():
    """s = 2, m = 0, cosines (0.5, 0.5, -0.5): probabilities 0.73, 0.73 and 0.27.

    The first class is present: weight 1. The second is absent but predicted: weight 1. The third is
    absent and not predicted: weight 1/3.
    """
    loss = SingleCosine(3, 4, 2.0, 0.0, multi_label="imbalance")
    result = terms_of_logits(loss, torch.tensor([[0.5, 0.5, -0.5]]), [[1, 0, 0]])["lmcl"].item()
    absent, present = math.log1p(math.exp(1)), math.log1p(math.exp(-1))
    assert result == pytest.approx((present + absent + present / 3) / (7 / 3))


def test_multi_label_targets():
    rows = torch.tensor([[1.0, 1, 0, 0], [0, 0, 0, 0], [0, 0, 1, 0], [0, 1, 1, 1]])
    even = [[0.5, 0.5, 0, 0], [0, 0, 0, 0], [0, 0, 1, 0], [0, 1 / 3, 1 / 3, 1 / 3]]
    torch.testing.assert_close(even_target(rows), torch.tensor(even))
    first = [[1, 0, 0, 0], [0, 0, 0, 0], [0, 0, 1, 0], [0, 1, 0, 0]]
    assert torch.equal(first_label(rows), torch.tensor(first).float())


def test_divergence_by_hand(make_case):
    """p = 3/4 at z = log 3: 3/4 log 3/2 + 1/4 log 1/2 per bit, two bits, and a weight of 0.1."""
    case = make_case([[math.log(3), math.log(3)], [0.0, 0.0]], [[1], [1]], [[0, 0]])
    result = case.terms(case.loss(Variational, log_epsilon=0.0))["divergence"].item()
    bit = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert result == pytest.approx(0.1 * 2 * bit / 2)


def test_initial_bias(random_case):
    case = random_case(nbit=16, classes=400, n=2)
    bias = case.loss(CrossEntropy).bias
    assert bias.requires_grad and 0.23 < bias.abs().max() <= 0.25
    assert case.loss(Greedy, bias=False).bias is None


def test_cosine_matches_pytorch_and_ignores_length(random_case):
    case = random_case()
    expected = nn.functional.cosine_similarity(case.z[:, None], case.centers[None], dim=-1)
    torch.testing.assert_close(Cosine()(case.z, case.centers), expected)
    lengths = torch.tensor([[0.1], [2], [3], [50], [1], [7]])
    torch.testing.assert_close(Cosine()(lengths * case.z, 5 * case.centers), expected)


OBJECTIVES = [(LMCL, {"scale": 8, "margin": 0.2}), (SingleCosine, {"margin_on": "angle"}),
              (CrossEntropy, {}), (Greedy, {}), (Variational, {})]  # fmt: skip


@pytest.mark.parametrize(("objective", "options"), OBJECTIVES)
@pytest.mark.parametrize("similarity", [Relative(), Cosine()])
def test_order_of_the_batch_does_not_matter(similarity, objective, options, random_case):
    case = random_case(similarity=similarity)
    loss, order = case.loss(objective, **options), torch.tensor([3, 1, 0, 5, 2, 4])
    expected = case.total(loss)
    case.z, case.labels = case.z[order], case.labels[order]
    torch.testing.assert_close(case.total(loss), expected)


@pytest.mark.parametrize(("objective", "options"), OBJECTIVES[:4])
def test_inverting_a_bit_of_codes_and_centers_changes_nothing(objective, options, random_case):
    """JMLH is excluded: its bits are 0 and 1."""
    case = random_case(similarity=Cosine())
    loss, signs = case.loss(objective, **options), torch.tensor([1.0, -1, 1, 1, -1, -1, 1, -1])
    expected = case.total(loss)
    case.z = case.z * signs
    assert not torch.isclose(case.total(loss), expected)
    case.centers = case.centers * signs
    torch.testing.assert_close(case.total(loss), expected)
