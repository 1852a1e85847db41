"""CIBHash: the worked example, loops, and what two views mean to it."""

import math

import pytest
import torch

from deephash.config import build, checks
from deephash.config.overrides import parse_all
from deephash.methods.cibhash import ContrastiveBottleneck, bernoulli_divergence, nt_xent
from deephash.types import Batch, Output
from tests.methods.unlabelled import contrast, distances_of_views, train_on
from tests.pages import typed

ONE, OTHER = [[2.0, -1], [1, 1]], [[1.0, -2], [-1, 1]]  # logits of two images in two views


def terms(loss, z):
    z = torch.as_tensor(z, dtype=torch.float64)
    images = torch.zeros(len(z) // 2, 2, 3, 1, 1)
    return loss(Output(z, z, z, None, None), Batch(images, None, torch.arange(len(images))))


def gradient(loss, z):
    z = torch.tensor(z, dtype=torch.float64, requires_grad=True)
    sum(terms(loss, z).values()).backward()
    return z.grad


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def divergence(one, other):
    total = 0.0
    for a, b in zip(one, other, strict=True):
        for x, y in zip(a, b, strict=True):
            p, q = sigmoid(x), sigmoid(y)
            total += p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))
    return total / len(one)


def test_the_worked_example():
    """By the authors' code: KL 0.305928, NT-Xent 0.310023, together 0.310329."""
    loss = ContrastiveBottleneck()
    result = {key: term.item() for key, term in terms(loss, ONE + OTHER).items()}
    assert result["contrast"] == pytest.approx(0.310023, abs=1e-6)
    assert result["divergence"] / 0.001 == pytest.approx(0.305928, abs=1e-6)
    assert sum(result.values()) == pytest.approx(0.310329, abs=1e-6)


def test_the_contrast_by_hand():
    """Bits +-, ++ and +-, -+. Cosines with the first: 0, 1, -1; the second: 0, 0, 0.

    The third is the first again, and the fourth has cosines -1, 0, -1. Divided by 0.3: the first
    and the third find their other views with odds of e^3.3 to 1 + e^-3.3, the second with one of
    three, and the fourth with 1 to 2 e^-3.3.
    """
    high, low = math.exp(1 / 0.3), math.exp(-1 / 0.3)
    expected = 2 * math.log((high + 1 + low) / high) + math.log(3) + math.log(1 + 2 * low)
    bits = torch.tensor([[1.0, -1], [1, 1], [1, -1], [-1, 1]])
    assert nt_xent(bits, 0.3).item() == pytest.approx(expected / 4)


@pytest.mark.parametrize("seed", range(3))
def test_it_is_the_loop(seed):
    draw = torch.Generator().manual_seed(seed)
    z = torch.randn(10, 6, generator=draw, dtype=torch.float64)
    result = terms(ContrastiveBottleneck(0.5, 0.2), z)
    rows = z.tolist()
    signs = [[1 if x >= 0 else -1 for x in row] for row in rows]
    assert result["contrast"].item() == pytest.approx(contrast(signs, 0.5), rel=1e-12)
    both = divergence(rows[:5], rows[5:]) + divergence(rows[5:], rows[:5])
    assert result["divergence"].item() == pytest.approx(0.1 * both, rel=1e-6)
    single = terms(ContrastiveBottleneck(0.5, 0.2), z.float())
    assert sum(single.values()).item() == pytest.approx(sum(result.values()).item(), rel=1e-5)


def test_the_gradient_passes_to_the_probability():
    """That of the bits, by finite differences of the contrast, times p (1 - p)."""
    z = torch.tensor(ONE + OTHER, dtype=torch.float64)
    bits = torch.where(z >= 0, 1.0, -1.0).double().requires_grad_()
    nt_xent(bits, 0.3).backward()
    p = torch.sigmoid(z)
    result = gradient(ContrastiveBottleneck(divergence=0), ONE + OTHER)
    torch.testing.assert_close(result, bits.grad * p * (1 - p))
    assert torch.autograd.gradcheck(lambda b: nt_xent(b, 0.3), bits.detach().requires_grad_())


def test_the_second_argument_of_the_divergence_is_detached():
    """The derivative by p is log p / q - log (1 - p) / (1 - q), over the number of images."""
    p = torch.tensor([[0.75], [0.5]]).double().requires_grad_()
    q = torch.tensor([[0.5], [0.25]]).double().requires_grad_()
    bernoulli_divergence(p, q).backward()
    assert q.grad is None
    expected = [[math.log(1.5) - math.log(0.5)], [math.log(2) - math.log(2 / 3)]]
    torch.testing.assert_close(p.grad, torch.tensor(expected).double() / 2, rtol=1e-6, atol=0)


def test_one_image_has_nothing_to_be_told_from():
    loss = ContrastiveBottleneck(divergence=0)
    assert terms(loss, [[1.0, -2], [-1, 3]])["contrast"] == 0
    assert torch.equal(gradient(loss, [[1.0, -2], [-1, 3]]), torch.zeros(2, 2).double())


def test_views_may_change_places():
    loss = ContrastiveBottleneck()
    for key, term in terms(loss, OTHER + ONE).items():
        torch.testing.assert_close(term, terms(loss, ONE + OTHER)[key])


def test_without_a_weight_there_is_no_divergence():
    assert list(terms(ContrastiveBottleneck(divergence=0.0), ONE + OTHER)) == ["contrast"]


def test_certain_bits_are_finite():
    loss = ContrastiveBottleneck()
    z = (60 * torch.tensor([[1.0, -1], [-1, 1], [-1, 1], [-1, -1]])).tolist()
    assert all(term.isfinite() for term in terms(loss, z).values())
    assert gradient(loss, z).isfinite().all()


def test_its_codes_are_learned_without_labels(composed, batch_for):
    """25 steps on one batch of digits bring images of a class together; no step sees a label."""
    cfg = composed("method=cibhash", "optimizer.lr=0.001")
    method, batch = build.method(typed(cfg), 10, 500), batch_for(cfg)
    assert batch.given_labels is None and method.passes == "separate"
    losses = train_on(method, batch, build.optimizer(typed(cfg), method), steps=25)
    apart = distances_of_views(method, batch)
    own, rest = apart.diagonal().mean(), apart.mean()
    assert losses[-1] < 0.85 * losses[0] and own < 0.5 * rest


def test_the_layers_of_the_authors(composed):
    head = build.method(typed(composed("method=cibhash")), 10, 500).encoder.head
    shapes = [tuple(p.shape) for p in head.parameters()]
    assert shapes == [(1024, 512), (1024,), (16, 1024), (16,)]


def test_one_view_is_refused(composed):
    words = ["method=cibhash", "method.views=1"]
    (fault,) = checks.check_train(composed(*words), parse_all(words))
    assert fault.key == "method.views" and "ContrastiveBottleneck needs 2" in fault.message
