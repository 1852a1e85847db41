"""Bi-half: its bits and their gradient by hand and by loops, and that evaluation has no median."""

import copy

import pytest
import torch

from deephash.config import build, checks
from deephash.losses.matching import CosineMatching
from deephash.methods.bihalf import BiHalf, balanced_bits
from deephash.training import evaluation
from tests.methods.test_ugh import matching
from tests.methods.unlabelled import V, X, drawn, gradient_of, terms_of
from tests.pages import typed


def by_loop(u, rule):
    """The bits of each column."""
    rows = u.tolist()
    bits = [[-1.0] * len(rows[0]) for _ in rows]
    for k in range(len(rows[0])):
        column = [row[k] for row in rows]
        if rule == "median":
            middle = sorted(column)[(len(column) - 1) // 2]
            positive = [n for n, value in enumerate(column) if value > middle]
        else:
            positive = sorted(range(len(column)), key=lambda n: (-column[n], n))[: len(column) // 2]
        for n in positive:
            bits[n][k] = 1.0
    return bits


@pytest.mark.parametrize("rule", ["median", "sort"])
def test_the_worked_example(rule):
    """Both pairs of bits have cosine -1: (1 + 1.9487^2) / 2. Their loss has no gradient."""
    layer = BiHalf(rule=rule)
    u = torch.tensor(V, dtype=torch.float64)
    assert layer(u).tolist() == [[1, 1], [-1, -1], [-1, -1], [1, 1]]
    assert terms_of(CosineMatching(), V, X, layer)["matching"] == pytest.approx(2.398683, abs=1e-6)
    result = gradient_of(CosineMatching(), V, X, layer)
    expected = [[0.75, 0], [1.5, 0], [1.5, -0.75], [1.5, 0]]
    torch.testing.assert_close(result, torch.tensor(expected).double(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("rule", ["median", "sort"])
@pytest.mark.parametrize("rows", [1, 2, 3, 8, 9])
def test_bits_and_gradient_are_those_of_the_loop(rule, rows):
    u = drawn(rows, 1)
    weights = drawn(rows, 2)
    bits = torch.tensor(by_loop(u, rule)).double()
    assert torch.equal(balanced_bits(u, rule), bits)
    u.requires_grad_()
    (BiHalf(gamma=2.5, rule=rule)(u) * weights).sum().backward()
    torch.testing.assert_close(u.grad, weights + 2.5 / u.numel() * (u.detach() - bits))


@pytest.mark.parametrize("rows", [4, 6, 7])
def test_without_ties_both_rules_are_the_same(rows):
    u = drawn(rows, 3, 20)
    assert torch.equal(balanced_bits(u, "median"), balanced_bits(u, "sort"))
    assert (balanced_bits(u, "sort") == 1).sum(dim=0).tolist() == [rows // 2] * 20


def test_ties_at_the_median():
    """Above the lower median there are two of 0, 0, 0, 1, 2, -1; the three largest are three."""
    u = torch.tensor([[0.0], [0], [0], [1], [2], [-1]])
    assert balanced_bits(u, "median").flatten().tolist() == [-1, -1, -1, 1, 1, -1]
    assert balanced_bits(u, "sort").flatten().tolist() == [1, -1, -1, 1, 1, -1]
    equal = torch.ones(6, 1)
    assert balanced_bits(equal, "median").sum() == -6 and balanced_bits(equal, "sort").sum() == 0


def test_an_odd_row_counts_in_the_median_and_in_no_pair():
    u, x = drawn(5, 1), drawn(5, 2, 4)
    result = terms_of(CosineMatching(), u, x, BiHalf())
    assert result["matching"] == pytest.approx(matching(by_loop(u, "median"), x), abs=1e-9)
    gradient = gradient_of(CosineMatching(), u, x, BiHalf())
    bits = torch.tensor(by_loop(u, "median")).double()
    torch.testing.assert_close(gradient[4], 6 / u.numel() * (u - bits)[4])


def test_each_layer_has_a_gamma_of_its_own():
    """In the sources the last layer that is made sets it for all."""
    one, _ = BiHalf(gamma=1.0), BiHalf(gamma=100.0)
    u = drawn(4, 1).requires_grad_()
    one(u).backward(torch.zeros(4, 6, dtype=torch.float64))
    torch.testing.assert_close(u.grad, (u.detach() - balanced_bits(u.detach(), "median")) / 24)


@pytest.mark.parametrize(
    "rows", [[[0.0] * 4] * 6, [[1.0, 2, 3, 4]] * 6, [[1.0, -2, 0, 4]], [[1.0, 2, 0, 0]] * 2]
)
@pytest.mark.parametrize("rule", ["median", "sort"])
def test_degenerate_batches_are_finite(rows, rule):
    for x in (rows, [[0.0] * 4] * len(rows)):
        assert terms_of(CosineMatching(), rows, x, BiHalf(rule=rule))["matching"] < 5
        assert gradient_of(CosineMatching(), rows, x, BiHalf(rule=rule)).isfinite().all()


def test_outside_training_codes_pass_as_they_are():
    u = drawn(6, 1)
    assert BiHalf().eval()(u) is u


def test_evaluation_compares_signs_and_not_with_the_median(composed):
    """Codes that are all positive are all ones; halved, each bit would be one in half of them."""
    cfg = composed("method=bihalf")
    method = build.method(typed(cfg), 10, 500)
    with torch.no_grad():
        method.encoder.head.linear.bias.fill_(1e6)
    data = build.data_module(typed(cfg))
    data.setup("cpu")
    measured = build.evaluation(typed(cfg), torch.device("cpu"))
    codes = evaluation.encode(method.encoder, data, measured.autocast)
    assert (codes.z > 0).all()  # all bits are 1
    batch = next(data.train(0))
    z = method.train().encode(batch)[1]
    assert (z > 0).all() and (method.relaxation(z) == 1).float().mean() <= 0.5
    assert torch.equal(method.eval().relaxation(z), z)


def test_the_recipe(composed):
    cfg = composed("method=bihalf")
    method = build.method(typed(cfg), 10, 500)
    assert (method.relaxation.gamma, method.relaxation.rule) == (6.0, "median")
    assert [tuple(p.shape) for p in method.encoder.head.parameters()] == [(16, 512), (16,)]
    other = copy.deepcopy(cfg)
    other["method"]["relaxation"]["rule"] = "middle"
    (fault,) = checks.check_train(other)
    assert fault.key == "method.relaxation.rule"
