"""Objectives over class scores: LMCL and OrthoHash, cross-entropy, GreedyHash and JMLH."""

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


def on_logits(loss, logits, labels):
    """The terms of an objective that reads nothing but similarities."""
    z, labels = torch.zeros(len(logits), 4), torch.as_tensor(labels, dtype=torch.float32)
    batch = Batch(torch.zeros(len(logits), 1, 3, 1, 1), labels, torch.arange(len(logits)))
    return loss(Output(z, z, z, logits, None), batch)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("relaxation", [Sign(), Tanh(), StochasticSign(stochastic=False)])
def test_lmcl_is_the_loop(relaxation, seed, drawn, loops):
    at = drawn(seed, relaxation=relaxation, similarity=Cosine())
    for scale, margin in (("sqrt_nbit", 0.2), ("adaptive", 0.0), (8, 0.5)):
        loss = at.made(LMCL, scale=scale, margin=margin)
        expected = loops(at, loss, scale=scale, margin=margin)
        assert at.total(loss).item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("margin_on", ["cosine", "angle"])
@pytest.mark.parametrize("multi_label", ["softmax", "bce", "imbalance"])
def test_single_cosine_is_the_loop(margin_on, multi_label, seed, drawn, loops):
    """At a scale of 8 some absent classes are taken for present, and weigh 1."""
    at = drawn(seed, similarity=Cosine())
    for form in ("cosine", "l1", "l2"):
        options = {"margin_on": margin_on, "multi_label": multi_label, "scale": 8.0,
                   "quantization": 0.3, "quantization_form": form}  # fmt: skip
        loss = at.made(SingleCosine, **options)
        expected = loops(at, loss, **options)
        assert at.total(loss).item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("multi_label", ["even", "first"])
@pytest.mark.parametrize("bias", [True, False])
def test_classifiers_are_the_loop(multi_label, bias, seed, drawn, loops):
    shared = {"multi_label": multi_label, "bias": bias}
    for kind, relaxation, own in (
        (CrossEntropy, None, [{}]),
        (Greedy, Sign(), [{"penalty": 0.1}, {"power": 2.0}, {"power": 1.0}]),
        (
            Variational,
            StochasticSign(stochastic=False),
            [{}, {"log_epsilon": 0.0, "divergence": 0.2}],
        ),
    ):
        at = drawn(seed, **({"relaxation": relaxation} if relaxation else {}))
        for options in own:
            loss = at.made(kind, **shared, **options)
            expected = loops(at, loss, **shared, **options)
            assert at.total(loss).item() == pytest.approx(expected, rel=1e-9), (kind, options)


@pytest.mark.parametrize("form", ["cosine", "l1", "l2", "l3", "log_cosh", "divergence"])
@pytest.mark.parametrize("of", ["z", "u"])
def test_lmcl_may_keep_the_terms_of_other_losses(form, of, drawn, loops):
    """The term is of the code itself or, as CSQ has it, of the relaxed one."""
    at = drawn(0, relaxation=Tanh(), similarity=Cosine())
    options = {"margin": 0.2, "quantization": 0.3, "quantization_form": form,
               "quantization_of": of}  # fmt: skip
    loss = at.made(LMCL, scale=4.0, **options)
    assert list(at.terms(loss)) == ["lmcl", "quantization"]
    assert at.total(loss).item() == pytest.approx(loops(at, loss, scale=4.0, **options), rel=1e-9)


def test_lmcl_by_hand():
    """s = 8, m = 0.5, cosines (0.6, 0.1, -0.2), the first class is true.

    Held back: (0.1, 0.1, -0.2). Times 8: (0.8, 0.8, -1.6). The true class ties with the
    second, so the loss is log(1 + 1 + e^-2.4) = 0.7376.
    """
    terms = on_logits(LMCL(3, 4, 8, 0.5), torch.tensor([[0.6, 0.1, -0.2]]), [[1, 0, 0]])
    assert list(terms) == ["lmcl"]
    assert terms["lmcl"].item() == pytest.approx(math.log(2 + math.exp(-2.4)))


@pytest.mark.parametrize("multi_label", ["softmax", "bce", "imbalance"])
@pytest.mark.parametrize("margin_on", ["cosine", "angle"])
def test_a_row_without_labels_contributes_nothing(multi_label, margin_on):
    logits = torch.tensor([[0.6, 0.1, -0.2], [0.9, -0.9, 0.0]], requires_grad=True)
    loss = SingleCosine(3, 4, 8, 0.5, margin_on, multi_label)
    result = on_logits(loss, logits, [[1, 0, 0], [0, 0, 0]])["lmcl"]
    alone = on_logits(loss, logits[:1], [[1, 0, 0]])["lmcl"]
    torch.testing.assert_close(result, alone if multi_label == "imbalance" else alone / 2)
    result.backward()
    assert torch.equal(logits.grad[1], torch.zeros(3)) and logits.grad[0].norm() > 0


def test_lmcl_without_labels_contributes_nothing():
    logits = torch.tensor([[0.6, 0.1, -0.2], [0.9, -0.9, 0.0]], requires_grad=True)
    result = on_logits(LMCL(3, 4, 8, 0.5), logits, [[1, 0, 0], [0, 0, 0]])["lmcl"]
    assert result.item() == pytest.approx(math.log(2 + math.exp(-2.4)) / 2)
    result.backward()
    assert torch.equal(logits.grad[1], torch.zeros(3)) and logits.grad[0].norm() > 0


def test_scales_by_name():
    """The values that OrthoHash's supplement prints for 100 and 80 classes, one for the other."""
    assert LMCL(10, 64, "sqrt_nbit", 0.2).scale == 8
    assert LMCL(100, 64, "adaptive", 0.2).scale == pytest.approx(6.4985, abs=5e-5)
    assert LMCL(80, 64, "adaptive", 0.2).scale == pytest.approx(6.1793, abs=5e-5)
    assert all(LMCL(few, 64, "adaptive", 0.2).scale > 0 for few in (1, 2))
    assert LMCL(10, 64, 3, 0.2).scale == 3


def test_the_angle_may_pass_pi():
    """cos theta = -0.9, m = 1: theta + m = 3.69 lies beyond pi, and its cosine turns back."""
    logits = torch.tensor([[-0.9, 0.0]])
    loss = SingleCosine(2, 4, 2.0, 1.0, "angle")
    true = 2 * math.cos(math.acos(-0.9) + 1)
    expected = math.log1p(math.exp(-true))
    assert on_logits(loss, logits, [[1, 0]])["lmcl"].item() == pytest.approx(expected)


def test_the_angle_is_cut_where_its_slope_has_no_end():
    logits = torch.tensor([[0.999995, -0.999995, 0.5]], requires_grad=True)
    on_logits(SingleCosine(3, 4, 2.0, 0.2, "angle"), logits, [[1, 0, 0]])["lmcl"].backward()
    assert logits.grad[0, :2].tolist() == [0, 0] and logits.grad[0, 2] > 0


def test_imbalance_by_hand():
    """s = 2, m = 0, cosines (0.5, 0.5, -0.5): chances 0.73, 0.73 and 0.27 of the two classes.

    The first is present: weight 1. The second is absent and taken for present: 1. The third is
    absent and not: 1/3.
    """
    loss = SingleCosine(3, 4, 2.0, 0.0, multi_label="imbalance")
    result = on_logits(loss, torch.tensor([[0.5, 0.5, -0.5]]), [[1, 0, 0]])["lmcl"].item()
    lost, gained = math.log1p(math.exp(1)), math.log1p(math.exp(-1))
    assert result == pytest.approx((gained + lost + gained / 3) / (7 / 3))


def test_targets_of_several_labels():
    rows = torch.tensor([[1.0, 1, 0, 0], [0, 0, 0, 0], [0, 0, 1, 0], [0, 1, 1, 1]])
    even = [[0.5, 0.5, 0, 0], [0, 0, 0, 0], [0, 0, 1, 0], [0, 1 / 3, 1 / 3, 1 / 3]]
    torch.testing.assert_close(even_target(rows), torch.tensor(even))
    first = [[1, 0, 0, 0], [0, 0, 0, 0], [0, 0, 1, 0], [0, 1, 0, 0]]
    assert torch.equal(first_label(rows), torch.tensor(first).float())


def test_the_divergence_by_hand(case):
    """p = 3/4 at z = log 3: 3/4 log 3/2 + 1/4 log 1/2 a bit; a fair bit has none. Two bits, 0.1."""
    at = case([[math.log(3), math.log(3)], [0.0, 0.0]], [[1], [1]], [[0, 0]])
    result = at.terms(at.made(Variational, log_epsilon=0.0))["divergence"].item()
    bit = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert result == pytest.approx(0.1 * 2 * bit / 2)


def test_the_classifier_starts_as_pytorchs_and_may_have_no_bias(drawn):
    at = drawn(nbit=16, classes=400, n=2)
    bias = at.made(CrossEntropy).bias
    assert bias.requires_grad and 0.23 < bias.abs().max() <= 0.25
    assert at.made(Greedy, bias=False).bias is None


def test_cosine_is_that_of_pytorch_and_blind_to_length(drawn):
    at = drawn()
    expected = nn.functional.cosine_similarity(at.z[:, None], at.centers[None], dim=-1)
    torch.testing.assert_close(Cosine()(at.z, at.centers), expected)
    longer = torch.tensor([[0.1], [2], [3], [50], [1], [7]])
    torch.testing.assert_close(Cosine()(longer * at.z, 5 * at.centers), expected)


OBJECTIVES = [(LMCL, {"scale": 8, "margin": 0.2}), (SingleCosine, {"margin_on": "angle"}),
              (CrossEntropy, {}), (Greedy, {}), (Variational, {})]  # fmt: skip


@pytest.mark.parametrize(("objective", "options"), OBJECTIVES)
@pytest.mark.parametrize("similarity", [Relative(), Cosine()])
def test_order_within_the_batch_does_not_matter(similarity, objective, options, drawn):
    at = drawn(similarity=similarity)
    loss, order = at.made(objective, **options), torch.tensor([3, 1, 0, 5, 2, 4])
    expected = at.total(loss)
    at.z, at.labels = at.z[order], at.labels[order]
    torch.testing.assert_close(at.total(loss), expected)


@pytest.mark.parametrize(("objective", "options"), OBJECTIVES[:4])
def test_a_bit_turned_in_codes_and_centers_changes_nothing(objective, options, drawn):
    """Not so for JMLH, whose bits are 0 and 1."""
    at = drawn(similarity=Cosine())
    loss, turned = at.made(objective, **options), torch.tensor([1.0, -1, 1, 1, -1, -1, 1, -1])
    expected = at.total(loss)
    at.z = at.z * turned
    assert not torch.isclose(at.total(loss), expected)
    at.centers = at.centers * turned
    torch.testing.assert_close(at.total(loss), expected)
