"""CIBHash: worked example, loops, invariances and training on two views."""

import math

import pytest
import torch

from deephash.config import build, checks
from deephash.config.overrides import parse_all
from deephash.methods.cibhash import ContrastiveBottleneck, bernoulli_divergence, nt_xent
from deephash.types import Batch, Output
from tests.methods.unlabelled import contrast, distances_of_views, train_on
from tests.pages import typed

VIEW1, VIEW2 = [[2.0, -1], [1, 1]], [[1.0, -2], [-1, 1]]  # logits of two images in two views


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


def divergence(view1, view2):
    total = 0.0
    for a, b in zip(view1, view2, strict=True):
        for x, y in zip(a, b, strict=True):
            p, q = sigmoid(x), sigmoid(y)
            total += p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))
    return total / len(view1)


def test_worked_example():
    """By the authors' code: KL 0.305928, NT-Xent 0.310023, together 0.310329."""
    loss = ContrastiveBottleneck()
    result = {key: term.item() for key, term in terms(loss, VIEW1 + VIEW2).items()}
    assert result["contrast"] == pytest.approx(0.310023, abs=1e-6)
    assert result["divergence"] / 0.001 == pytest.approx(0.305928, abs=1e-6)
    assert sum(result.values()) == pytest.approx(0.310329, abs=1e-6)


def test_contrast_by_hand():
    """Bits +-, ++ and +-, -+. Cosines with the first: 0, 1, -1; with the second: 0, 0, 0.

    The third equals the first, and the fourth has cosines -1, 0, -1. With temperature 0.3, the odds
    of the other view are e^3.3 to 1 + e^-3.3 for the first and the third, 1 to 2 for the second and
    1 to 2 e^-3.3 for the fourth.
    """
    high, low = math.exp(1 / 0.3), math.exp(-1 / 0.3)
    expected = 2 * math.log((high + 1 + low) / high) + math.log(3) + math.log(1 + 2 * low)
    bits = torch.tensor([[1.0, -1], [1, 1], [1, -1], [-1, 1]])
    assert nt_xent(bits, 0.3).item() == pytest.approx(expected / 4)


@pytest.mark.parametrize("seed", range(3))
def test_matches_loop(seed):
    rng = torch.Generator().manual_seed(seed)
    z = torch.randn(10, 6, generator=rng, dtype=torch.float64)
    result = terms(ContrastiveBottleneck(0.5, 0.2), z)
    rows = z.tolist()
    signs = [[1 if x >= 0 else -1 for x in row] for row in rows]
    assert result["contrast"].item() == pytest.approx(contrast(signs, 0.5), rel=1e-12)
    divergences = divergence(rows[:5], rows[5:]) + divergence(rows[5:], rows[:5])
    assert result["divergence"].item() == pytest.approx(0.1 * divergences, rel=1e-6)
    float32_terms = terms(ContrastiveBottleneck(0.5, 0.2), z.float())
    assert sum(float32_terms.values()).item() == pytest.approx(
        sum(result.values()).item(), rel=1e-5
    )


def test_gradient_of_bits_is_passed_to_the_probability():
    """It is the gradient of the bits times p (1 - p)."""
    z = torch.tensor(VIEW1 + VIEW2, dtype=torch.float64)
    bits = torch.where(z >= 0, 1.0, -1.0).double().requires_grad_()
    nt_xent(bits, 0.3).backward()
    p = torch.sigmoid(z)
    result = gradient(ContrastiveBottleneck(divergence=0), VIEW1 + VIEW2)
    torch.testing.assert_close(result, bits.grad * p * (1 - p))
    assert torch.autograd.gradcheck(lambda b: nt_xent(b, 0.3), bits.detach().requires_grad_())


def test_divergence_detaches_its_second_argument():
    """The derivative by p is log p / q - log (1 - p) / (1 - q), divided by the batch size."""
    p = torch.tensor([[0.75], [0.5]]).double().requires_grad_()
    q = torch.tensor([[0.5], [0.25]]).double().requires_grad_()
    bernoulli_divergence(p, q).backward()
    assert q.grad is None
    expected = [[math.log(1.5) - math.log(0.5)], [math.log(2) - math.log(2 / 3)]]
    torch.testing.assert_close(p.grad, torch.tensor(expected).double() / 2, rtol=1e-6, atol=0)


def test_contrast_of_one_image_is_zero():
    loss = ContrastiveBottleneck(divergence=0)
    assert terms(loss, [[1.0, -2], [-1, 3]])["contrast"] == 0
    assert torch.equal(gradient(loss, [[1.0, -2], [-1, 3]]), torch.zeros(2, 2).double())


def test_exchanged_views_have_the_same_loss():
    loss = ContrastiveBottleneck()
    for key, term in terms(loss, VIEW2 + VIEW1).items():
        torch.testing.assert_close(term, terms(loss, VIEW1 + VIEW2)[key])


def test_no_divergence_without_weight():
    assert list(terms(ContrastiveBottleneck(divergence=0.0), VIEW1 + VIEW2)) == ["contrast"]


def test_saturated_bits_are_finite():
    loss = ContrastiveBottleneck()
    z = (60 * torch.tensor([[1.0, -1], [-1, 1], [-1, 1], [-1, -1]])).tolist()
    assert all(term.isfinite() for term in terms(loss, z).values())
    assert gradient(loss, z).isfinite().all()


def test_learns_without_labels(composed, batch_for):
    """25 steps on a batch of digits without labels decrease the distance of the two views."""
    cfg = composed("method=cibhash", "optimizer.lr=0.001")
    method, batch = build.method(typed(cfg), 10, 500), batch_for(cfg)
    assert batch.given_labels is None and method.passes == "separate"
    losses = train_on(method, batch, build.optimizer(typed(cfg), method), steps=25)
    distances = distances_of_views(method, batch)
    same_image, all_images = distances.diagonal().mean(), distances.mean()
    assert losses[-1] < 0.85 * losses[0] and same_image < 0.5 * all_images


def test_head_of_the_authors(composed):
    head = build.method(typed(composed("method=cibhash")), 10, 500).encoder.head
    shapes = [tuple(p.shape) for p in head.parameters()]
    assert shapes == [(1024, 512), (1024,), (16, 1024), (16,)]


def test_one_view_is_refused(composed):
    overrides = ["method=cibhash", "method.views=1"]
    (fault,) = checks.check_train(composed(*overrides), parse_all(overrides))
    assert fault.key == "method.views" and "ContrastiveBottleneck needs 2" in fault.message
