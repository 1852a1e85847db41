"""Unsupervised GreedyHash: values by hand, loops, odd and degenerate batches."""

import math

import pytest
import torch

from deephash.config import build, checks
from deephash.config.overrides import parse_all
from deephash.losses.matching import CosineMatching
from deephash.methods.ugh import UnsupervisedGreedy
from deephash.models.relaxations import Sign
from tests.methods.loops import cosine, sign
from tests.methods.unlabelled import V, X, gradient_of, pairs, random_rows, terms_of
from tests.pages import typed


def matching(bits, x, centered=False):
    rows = x.tolist()
    if centered:
        mean = [sum(column) / len(rows) for column in zip(*rows, strict=True)]
        rows = [[v - m for v, m in zip(row, mean, strict=True)] for row in rows]
    gaps = [cosine(bits[i], bits[j]) - cosine(rows[i], rows[j]) for i, j in pairs(len(rows))]
    return sum(gap * gap for gap in gaps) / len(gaps)


def penalty(z, power=3):
    values = [abs(abs(x) - 1) ** power for row in z.tolist() for x in row]
    return sum(values) / len(values)


def test_worked_example():
    """The bits of both pairs have cosine 0: .9487^2 / 2 = .45; penalty .1 (1 + 1 + 8) / 8."""
    result = terms_of(UnsupervisedGreedy(), V, X, Sign())
    assert result["matching"] == pytest.approx(0.45, abs=1e-6)
    assert result["penalty"] == pytest.approx(0.125, abs=1e-6)
    assert sum(result.values()) == pytest.approx(0.575, abs=1e-6)


def test_gradient_of_the_penalty():
    """alpha 3 (|z| - 1)^2 sign(|z| - 1) sign(z) / (N K), plus the gradient of the bits."""
    z = torch.tensor([[2.0, 1.5], [0.5, -3.0]], dtype=torch.float64)
    result = gradient_of(UnsupervisedGreedy(penalty=0.4), z, z, Sign())
    gap = z.abs() - 1
    penalty_gradient = 0.4 * 3 * gap**2 * gap.sign() * z.sign() / 4
    bits = torch.where(z >= 0, 1.0, -1.0).double().requires_grad_()
    target = torch.cosine_similarity(z[:1], z[1:])
    (torch.cosine_similarity(bits[:1], bits[1:]) - target).square().mean().backward()
    torch.testing.assert_close(result, penalty_gradient + bits.grad)


@pytest.mark.parametrize("rows", [8, 9, 2, 3])
@pytest.mark.parametrize("target", ["raw", "centered"])
def test_matches_loop(rows, target):
    """The last row of an odd batch is in no pair, but in the penalty."""
    z, x = random_rows(rows, 1), random_rows(rows, 2, 5).relu()
    result = terms_of(UnsupervisedGreedy(target, penalty=0.3, power=2.5), z, x, Sign())
    bits = [[sign(v) for v in row] for row in z.tolist()]
    assert result["matching"] == pytest.approx(matching(bits, x, target == "centered"), abs=1e-9)
    assert result["penalty"] == pytest.approx(0.3 * penalty(z, 2.5), abs=1e-9)


def test_odd_row_is_in_the_penalty_only():
    z, x = random_rows(5, 1), random_rows(5, 2)
    changed = z.clone()
    changed[4] = 7.0
    terms = terms_of(UnsupervisedGreedy(), z, x, Sign())
    changed_terms = terms_of(UnsupervisedGreedy(), changed, x, Sign())
    assert terms["matching"] == changed_terms["matching"]
    assert terms["penalty"] != changed_terms["penalty"]


def test_centered_target_can_be_negative():
    """Cosines of features after a ReLU are negative only after centering."""
    x = torch.tensor([[1.0, 0.1], [1.0, 0.1], [0.1, 1.0], [0.1, 1.0]], dtype=torch.float64)
    opposite = torch.tensor([[1.0, 1], [1, 1], [-1, -1], [-1, -1]], dtype=torch.float64)
    assert terms_of(CosineMatching("centered"), opposite, x)["matching"] == pytest.approx(0)
    assert terms_of(CosineMatching("raw"), opposite, x)["matching"] > 1


def test_sign_of_zero():
    z, x = [[0.0, 1], [1, 1]], [[1.0, 0], [1, 0]]
    assert terms_of(UnsupervisedGreedy(penalty=0), z, x, Sign()) == {"matching": pytest.approx(0)}
    ternary = terms_of(UnsupervisedGreedy(penalty=0), z, x, Sign(sign_of_zero=0))
    assert ternary["matching"] == pytest.approx((math.sqrt(0.5) - 1) ** 2)


@pytest.mark.parametrize("target", ["raw", "centered"])
@pytest.mark.parametrize(
    "rows", [[[0.0] * 4] * 6, [[1.0, 2, 3, 4]] * 6, [[1.0, -2, 0, 4]], [[1.0, 2, 0, 0]] * 2]
)
def test_degenerate_batches_are_finite(rows, target):
    loss = UnsupervisedGreedy(target)
    for x in (rows, [[0.0] * 4] * len(rows)):
        result = terms_of(loss, rows, x, Sign())
        assert all(math.isfinite(term) for term in result.values())
        assert gradient_of(loss, rows, x, Sign()).isfinite().all()
        assert len(rows) > 1 or result["matching"] == 0


def test_recipe(composed):
    centered = composed("method=ugh")["method"]["loss"].pop("target")
    assert centered == "centered"  # only on digits, because its backbone has random weights
    cfg = composed("method=ugh", "~settings")
    method = build.method(typed(cfg), 10, 500)
    assert (method.loss.penalty, method.loss.power, method.loss.target) == (0.1, 3.0, "raw")
    shapes = [tuple(p.shape) for p in method.encoder.head.parameters()]
    assert shapes == [(16, 512), (16,)]
    assert cfg["optimizer"]["weight_decay"] == 1e-5 and cfg["backbone"]["frozen"]
    overrides = ["method=ugh", "method.views=2"]
    (fault,) = checks.check_train(composed(*overrides), parse_all(overrides))
    assert fault.key == "method.views" and "UnsupervisedGreedy needs 1" in fault.message


def test_real_valued_relaxation_is_refused(composed):
    overrides = ["method=ugh", "relaxation=tanh"]
    (fault,) = checks.check_train(composed(*overrides), parse_all(overrides))
    assert fault.key == "loss" and "bits, not real values" in fault.message
