"""NSH: SoftSort, worked example, loops, small batches and training."""

import math

import pytest
import torch
import yaml
from torch import nn
from torch.nn import functional as F

from deephash.config import build, checks
from deephash.config.overrides import parse_all
from deephash.losses.quantization import quantization
from deephash.methods.nsh import NSH, rank_contrast, similarity_by_rank, soft_sort
from deephash.models.encoder import Encoder
from deephash.types import Batch
from tests.methods import worked
from tests.methods.loops import dot, softmax
from tests.methods.unlabelled import distances_of_views, train_on
from tests.pages import typed

CODES1 = [[0.9, 0.9], [0.9, -0.9], [-0.9, -0.9]]
CODES2 = [[0.8, 0.9], [0.9, -0.8], [-0.9, -0.8]]
LATENTS1, LATENTS2 = [[1.0, 0], [0, 1], [-1, 0]], [[1.0, 0.2], [0.1, 1], [-1, 0.1]]


def tensor(rows):
    return torch.tensor(rows, dtype=torch.float64)


def unit(row):
    norm = math.sqrt(sum(x * x for x in row))
    return [x / norm for x in row] if norm else row


def soft_sort_by_loop(scores, temperature, power=1.0):
    """The rows of SoftSort, in loops."""
    return [
        softmax([-(abs(high - score) ** power) / temperature for score in scores])
        for high in sorted(scores, reverse=True)
    ]


def contrast_by_loop(
    b1, b2, l1, l2, positives=2, temperature=0.3, sort=0.5, power=1.0, double=True
):
    """The contrastive loss, in loops over images and ranks."""
    count, nbit, total = len(b1), len(b1[0]), 0.0
    for i in range(count):
        scores = [dot(b1[i], b2[j]) / (2 * nbit) + 0.5 for j in range(count)]
        order = soft_sort_by_loop(scores, sort, power)
        sorted_latents = [
            [sum(order[r][k] * l1[k][d] for k in range(count)) for d in range(len(l1[0]))]
            for r in range(count)
        ]
        similarities = [dot(latent, l2[i]) for latent in sorted_latents]
        for r in range(positives):
            logits = [value / temperature for value in (similarities[r], *similarities[positives:])]
            if double:
                logits = softmax(logits)
            total -= math.log(softmax(logits)[0]) / (positives * count)
    return total


def random_views(seed, count=6, nbit=5, latent=4):
    rng = torch.Generator().manual_seed(seed)
    codes = torch.randn(2 * count, nbit, generator=rng, dtype=torch.float64).tanh()
    latents = torch.randn(2 * count, latent, generator=rng, dtype=torch.float64)
    return codes, F.normalize(latents)


def as_lists(codes, latents):
    """Split codes and latents into the lists of both views."""
    return [rows.tolist() for both in (codes, latents) for rows in both.chunk(2)]


# SoftSort


def test_soft_sort_to_four_printed_digits():
    expected = [[0.8047, 0.0328, 0.1625], [0.1438, 0.1438, 0.7124], [0.0328, 0.8047, 0.1625]]
    result = soft_sort(tensor([0.9, 0.1, 0.5]), 0.25)
    assert result.numpy() == pytest.approx(torch.tensor(expected).numpy(), abs=1e-4)
    assert result.sum(dim=1).tolist() == pytest.approx([1, 1, 1])


@pytest.mark.parametrize("power", [1.0, 2.0])
@pytest.mark.parametrize("seed", range(3))
def test_soft_sort_matches_loop(seed, power):
    scores = torch.rand(2, 7, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    result = soft_sort(scores, 0.1, power)
    for row, matrix in zip(scores.tolist(), result, strict=True):
        expected = tensor(soft_sort_by_loop(row, 0.1, power))
        assert matrix.numpy() == pytest.approx(expected.numpy(), abs=1e-12)


def test_soft_sort_at_low_temperature_is_the_permutation():
    result = soft_sort(tensor([0.9, 0.1, 0.5]), 0.001)
    assert torch.equal(result.round(), tensor([[1, 0, 0], [0, 0, 1], [0, 1, 0]]))


def test_gradient_through_sorted_scores():
    scores = torch.tensor([0.9, 0.1, 0.5, 0.3], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda values: soft_sort(values, 0.25), (scores,))
    (gradient,) = torch.autograd.grad(soft_sort(scores, 0.25)[0, 1], scores)
    assert gradient[0] != 0  # the largest score, from which all distances of row 0 are computed


# the objective


def test_worked_example():
    """Values of SDC's repository: contrast .442915, quantization .0175, sum .460415."""
    codes, latents = tensor(CODES1 + CODES2), F.normalize(tensor(LATENTS1 + LATENTS2))
    contrast = rank_contrast(similarity_by_rank(codes, latents, 0.5), 2, 0.3, double_softmax=True)
    distance = quantization(codes, "l2")
    assert contrast.item() == pytest.approx(0.442915, abs=1e-6)
    assert distance.item() == pytest.approx(0.0175, abs=1e-6)
    assert (contrast + distance).item() == pytest.approx(0.460415, abs=1e-6)


@pytest.mark.parametrize("double", [True, False])
@pytest.mark.parametrize(("positives", "power"), [(1, 1.0), (2, 1.0), (4, 2.0)])
@pytest.mark.parametrize("seed", range(2))
def test_matches_loop(seed, positives, power, double):
    codes, latents = random_views(seed)
    result = rank_contrast(similarity_by_rank(codes, latents, 0.2, power), positives, 0.3, double)
    expected = contrast_by_loop(*as_lists(codes, latents), positives, 0.3, 0.2, power, double)
    assert result.item() == pytest.approx(expected, abs=1e-9, rel=0)
    similarities = similarity_by_rank(codes.float(), latents.float(), 0.2, power)
    result = rank_contrast(similarities, positives, 0.3, double)
    assert result.item() == pytest.approx(expected, rel=1e-5)


def test_gradients_match_finite_differences():
    codes, latents = (rows.requires_grad_() for rows in random_views(0, count=4))
    for double in (True, False):
        assert torch.autograd.gradcheck(
            lambda b, latent, double=double: rank_contrast(
                similarity_by_rank(b, latent, 0.2), 2, 0.3, double
            ),
            (codes, latents),
        )


def test_range_of_the_double_softmax():
    """For 50 images and two positives it is between 2.93 and 3.93; log 49 if uniform."""
    best, worst = torch.full((50, 50), -30.0), torch.full((50, 50), 30.0)
    best[:, :2], worst[:, :2] = 30.0, -30.0
    worst[:, 3:] = -30.0
    low, high = (rank_contrast(c, 2, 0.3, double_softmax=True).item() for c in (best, worst))
    assert (low, high) == pytest.approx((2.93, 3.93), abs=0.01)
    uniform = rank_contrast(torch.zeros(50, 50), 2, 0.3, double_softmax=True)
    assert uniform.item() == pytest.approx(math.log(49))
    assert rank_contrast(best, 2, 0.3, double_softmax=False) == 0


def test_views_are_not_exchangeable():
    """Codes of view 1 are compared with those of view 2; only latents of view 1 are weighted."""
    codes, latents = random_views(3)
    turned = [torch.cat(one.chunk(2)[::-1]) for one in (codes, latents)]
    assert not torch.allclose(
        similarity_by_rank(codes, latents, 0.2), similarity_by_rank(*turned, 0.2)
    )


# the method


class InputAsFeatures(nn.Module):
    out_features = 3

    def forward(self, images):
        return images


def make_method(nbit=4, **options):
    torch.manual_seed(0)
    method = NSH(Encoder(InputAsFeatures(), nn.Linear(3, nbit)), nbit, latent=6, **options)
    return method.double()


def terms(method, images):
    if method.latent.weight.dtype == torch.float64:  # losses are computed in float32
        method = method.float()
    return method(Batch(images.float(), None, torch.arange(len(images))))


def test_method_matches_formula():
    method, images = make_method(), torch.randn(6, 2, 3, generator=torch.Generator().manual_seed(1))
    result = terms(method, images)
    features = images.transpose(0, 1).flatten(0, 1)
    with torch.no_grad():
        codes = method.encoder.head(features).tanh()
        latents = F.normalize(method.latent(features))
    expected = contrast_by_loop(*as_lists(codes.double(), latents.double()), sort=1 / 4)
    assert result["contrast"].item() == pytest.approx(expected, rel=1e-5)
    distance = sum((abs(x) - 1) ** 2 for row in codes.tolist() for x in row) / codes.numel()
    assert result["quantization"].item() == pytest.approx(distance, rel=1e-5)
    assert list(terms(make_method(quantization=0.0), images)) == ["contrast"]
    weighted = terms(make_method(quantization=3.0), images)
    assert weighted["quantization"].item() == pytest.approx(3 * distance, rel=1e-5)


def test_sort_temperature_by_nbit():
    assert make_method(nbit=8).sort_temperature == 1 / 8
    assert make_method(nbit=8, sort_temperature=64).sort_temperature == 64


DEGENERATE = {
    "one image": torch.ones(1, 2, 3),
    "two images": torch.arange(12.0).reshape(2, 2, 3),
    "equal features": torch.ones(5, 2, 3),
    "zero vectors": torch.zeros(5, 2, 3),
    "large features": 1e4 * torch.randn(5, 2, 3, generator=torch.Generator().manual_seed(0)),
}


@pytest.mark.parametrize("double", [True, False])
@pytest.mark.parametrize("name", DEGENERATE)
def test_degenerate_batches_are_finite(name, double):
    method = make_method(double_softmax=double)
    result = terms(method, DEGENERATE[name])
    sum(result.values()).backward()
    assert all(term.isfinite() for term in result.values())
    grads = [p.grad for p in method.parameters() if p.grad is not None]
    assert all(grad.isfinite().all() for grad in grads)
    if name == "one image":  # there are no negatives
        assert result["contrast"] == 0


def test_positives_of_a_short_batch():
    codes, latents = random_views(5, count=3)
    similarities = similarity_by_rank(codes, latents, 0.2)
    expected = rank_contrast(similarities, 2, 0.3, True)
    assert rank_contrast(similarities, 9, 0.3, True) == expected


def test_small_batch_size_is_refused(composed):
    overrides = ["method=nsh", "trainer.batch_size=2"]
    (fault,) = checks.check_train(composed(*overrides), parse_all(overrides))
    assert fault.key == "trainer.batch_size"
    assert "NSH" in fault.message and "of 3 images" in fault.message
    overrides[1:] = ["trainer.batch_size=3"]
    assert checks.check_train(composed(*overrides), parse_all(overrides)) == []
    overrides[1:] = ["trainer.batch_size=3", "method.positives=3"]
    (fault,) = checks.check_train(composed(*overrides), parse_all(overrides))
    assert "of 4 images" in fault.message


def test_recipe_has_the_values_of_the_repository(composed):
    cfg = composed("method=nsh")
    method = build.method(typed(cfg), 10, 500)
    assert method.sort_temperature == 1 / 16 and method.double_softmax
    assert tuple(method.latent.weight.shape) == (1024, 512)
    assert set(method.param_groups()) == {"backbone", "head", "latent"}
    recipe = yaml.safe_load((worked.CONF / "method" / "nsh.yaml").read_text())
    assert (recipe["trainer"]["epochs"], recipe["trainer"]["batch_size"]) == (200, 50)
    assert recipe["optimizer"]["lr"] == 1e-5
    assert {"override /scheduler": "constant"} in recipe["defaults"]


def test_learns_without_labels(composed):
    """Steps on a batch of digits decrease the distance of the two views of an image.

    The loss compares latents, not codes, so the codes of a single seed may not change: the mean of
    four seeds is compared with that before training.
    """
    before, after = [], []
    for seed in range(4):
        cfg = composed(
            "method=nsh", "method.double_softmax=false", "method.quantization=0.1", f"seed={seed}"
        )
        data = build.data_module(typed(cfg))
        data.setup("cpu")
        method, batch = build.method(typed(cfg), 10, 500), next(data.train(0))
        assert batch.given_labels is None
        before.append(distances_of_views(method, batch))
        losses = train_on(method, batch, build.optimizer(typed(cfg), method), steps=40)
        after.append(distances_of_views(method, batch))
        assert losses[-1] < 0.5 * losses[0]
        assert after[-1].mean() > before[-1].mean()  # images differ in more bits
    ratio_before, ratio_after = (
        sum((d.diagonal().mean() / d.mean()).item() for d in distances) / 4
        for distances in (before, after)
    )
    assert ratio_after < ratio_before - 0.02 and ratio_after < 0.85
