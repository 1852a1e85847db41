"""Bi-half: bits and their gradient by hand and by loops, evaluation by signs."""

import copy

import pytest
import torch

from deephash.config import build, checks
from deephash.losses.matching import CosineMatching
from deephash.methods.bihalf import BiHalf, balanced_bits
from deephash.training import evaluation
from tests.methods.test_ugh import matching
from tests.methods.unlabelled import V, X, gradient_of, random_rows, terms_of
from tests.pages import typed


def bits_by_loop(u, rule):
    """The bits of each column, in loops."""
    rows = u.tolist()
    bits = [[-1.0] * len(rows[0]) for _ in rows]
    for k in range(len(rows[0])):
        column = [row[k] for row in rows]
        if rule == "median":
            median = sorted(column)[(len(column) - 1) // 2]
            positive = [n for n, value in enumerate(column) if value > median]
        else:
            positive = sorted(range(len(column)), key=lambda n: (-column[n], n))[: len(column) // 2]
        for n in positive:
            bits[n][k] = 1.0
    return bits


@pytest.mark.parametrize("rule", ["median", "sort"])
def test_worked_example(rule):
    """Both pairs of bits have cosine -1: (1 + 1.9487^2) / 2. The loss has no gradient there."""
    layer = BiHalf(rule=rule)
    u = torch.tensor(V, dtype=torch.float64)
    assert layer(u).tolist() == [[1, 1], [-1, -1], [-1, -1], [1, 1]]
    assert terms_of(CosineMatching(), V, X, layer)["matching"] == pytest.approx(2.398683, abs=1e-6)
    result = gradient_of(CosineMatching(), V, X, layer)
    expected = [[0.75, 0], [1.5, 0], [1.5, -0.75], [1.5, 0]]
    torch.testing.assert_close(result, torch.tensor(expected).double(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("rule", ["median", "sort"])
@pytest.mark.parametrize("rows", [1, 2, 3, 8, 9])
def test_bits_and_gradient_match_loop(rule, rows):
    u = random_rows(rows, 1)
    weights = random_rows(rows, 2)
    bits = torch.tensor(bits_by_loop(u, rule)).double()
    assert torch.equal(balanced_bits(u, rule), bits)
    u.requires_grad_()
    (BiHalf(gamma=2.5, rule=rule)(u) * weights).sum().backward()
    torch.testing.assert_close(u.grad, weights + 2.5 / u.numel() * (u.detach() - bits))


@pytest.mark.parametrize("rows", [4, 6, 7])
def test_rules_are_equal_without_ties(rows):
    u = random_rows(rows, 3, 20)
    assert torch.equal(balanced_bits(u, "median"), balanced_bits(u, "sort"))
    assert (balanced_bits(u, "sort") == 1).sum(dim=0).tolist() == [rows // 2] * 20


def test_ties_at_the_median():
    """Two of 0, 0, 0, 1, 2, -1 exceed the lower median; ``sort`` always selects three."""
    u = torch.tensor([[0.0], [0], [0], [1], [2], [-1]])
    assert balanced_bits(u, "median").flatten().tolist() == [-1, -1, -1, 1, 1, -1]
    assert balanced_bits(u, "sort").flatten().tolist() == [1, -1, -1, 1, 1, -1]
    equal = torch.ones(6, 1)
    assert balanced_bits(equal, "median").sum() == -6 and balanced_bits(equal, "sort").sum() == 0


def test_odd_row_is_in_the_median_but_in_no_pair():
    u, x = random_rows(5, 1), random_rows(5, 2, 4)
    result = terms_of(CosineMatching(), u, x, BiHalf())
    assert result["matching"] == pytest.approx(matching(bits_by_loop(u, "median"), x), abs=1e-9)
    gradient = gradient_of(CosineMatching(), u, x, BiHalf())
    bits = torch.tensor(bits_by_loop(u, "median")).double()
    torch.testing.assert_close(gradient[4], 6 / u.numel() * (u - bits)[4])


def test_gamma_is_per_instance():
    """In the sources, the last instance sets gamma for all instances."""
    layer = BiHalf(gamma=1.0)
    BiHalf(gamma=100.0)
    u = random_rows(4, 1).requires_grad_()
    layer(u).backward(torch.zeros(4, 6, dtype=torch.float64))
    torch.testing.assert_close(u.grad, (u.detach() - balanced_bits(u.detach(), "median")) / 24)


@pytest.mark.parametrize(
    "rows", [[[0.0] * 4] * 6, [[1.0, 2, 3, 4]] * 6, [[1.0, -2, 0, 4]], [[1.0, 2, 0, 0]] * 2]
)
@pytest.mark.parametrize("rule", ["median", "sort"])
def test_degenerate_batches_are_finite(rows, rule):
    for x in (rows, [[0.0] * 4] * len(rows)):
        assert terms_of(CosineMatching(), rows, x, BiHalf(rule=rule))["matching"] < 5
        assert gradient_of(CosineMatching(), rows, x, BiHalf(rule=rule)).isfinite().all()


def test_evaluation_mode_returns_the_input():
    u = random_rows(6, 1)
    assert BiHalf().eval()(u) is u


def test_evaluation_uses_signs(composed):
    """If all codes are positive, all bits are 1; by the median, half of them would be."""
    cfg = composed("method=bihalf")
    method = build.method(typed(cfg), 10, 500)
    with torch.no_grad():
        method.encoder.head.linear.bias.fill_(1e6)
    data = build.data_module(typed(cfg))
    data.setup("cpu")
    evaluation_options = build.evaluation(typed(cfg), torch.device("cpu"))
    codes = evaluation.encode_images(method.encoder, data, evaluation_options.autocast)
    assert (codes.z > 0).all()  # all bits are 1
    batch = next(data.train(0))
    z = method.train().encode(batch)[1]
    assert (z > 0).all() and (method.relaxation(z) == 1).float().mean() <= 0.5
    assert torch.equal(method.eval().relaxation(z), z)


def test_recipe(composed):
    cfg = composed("method=bihalf")
    method = build.method(typed(cfg), 10, 500)
    assert (method.relaxation.gamma, method.relaxation.rule) == (6.0, "median")
    assert [tuple(p.shape) for p in method.encoder.head.parameters()] == [(16, 512), (16,)]
    invalid = copy.deepcopy(cfg)
    invalid["method"]["relaxation"]["rule"] = "middle"
    (fault,) = checks.check_train(invalid)
    assert fault.key == "method.relaxation.rule"
