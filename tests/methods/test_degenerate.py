"""Degenerate batches: every recipe, in several variants of its loss, must give finite values.

The encoder is replaced by one that returns given codes.
"""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from deephash.config import build, requirements
from deephash.methods.composed import Composed
from deephash.types import Batch
from tests.methods.worked import LEARNING, method_class
from tests.pages import typed

VARIANTS = [
    *(name for name in LEARNING if method_class(name) is Composed),  # others: in their own files
    "relahash method.similarity.sqrt_bk=true", "relahash loss=lmcl",
    "orthohash method.loss.quantization=1",
    "orthohash method.loss.quantization=1 method.loss.quantization_form=l1",
    "orthohash method.loss.quantization=1 method.loss.quantization_form=l2",
    "orthohash method.loss.multi_label=bce", "orthohash method.loss.multi_label=imbalance",
    "orthohash method.loss.scale=adaptive", "orthohash_arc method.loss.multi_label=imbalance",
    "dpn method.loss.regularization=0.1 method.loss.bits=mean",
    "dpn method.loss.multi_label=vote", "dpn method.loss.update_every=1",
    "dpn method.loss.update_every=1 method.loss.update=ternary method.loss.multi_label=vote",
    "csq method.loss.pairwise=1 method.loss.quantization_form=log_cosh",
    "greedyhash method.loss.multi_label=first method.loss.bias=false",
    "greedyhash loss=lmcl", "jmlh method.loss.log_epsilon=0", "jmlh loss=lmcl",
    "ce method.loss.multi_label=first", "dtsh method.loss.margin=nbit/2 method.loss.half=true",
    "hashnet method.loss.pairs=halves method.loss.weighting=class",
    "hashnet method.loss.pairs=memory method.loss.graded=jaccard",
    "hashnet method.loss.weighting=positives method.loss.product=clipped",
    "hashnet method.loss.product=cosine method.loss.graded=cosine",
    "dhn relaxation=identity method.loss.pairs=memory method.loss.quantization=0.1",
    "dhn method.loss.quantization_form=l1", "dhn method.loss.quantization_form=l2",
]  # fmt: skip


class FixedCodes(nn.Module):
    """An encoder that returns given codes; the first pixel of an image is the row of its code."""

    def __init__(self, z):
        super().__init__()
        self.z = nn.Parameter(z)

    def forward(self, images):
        z = self.z[images[:, 0, 0, 0].long()]
        return z, z


@pytest.fixture(scope="module")
def compute(composed):
    """``(variant, codes, labels) -> (terms, gradient of their sum)``, float32 and finite.

    Each further view has other codes. ``keys`` selects terms. ``training=False`` is the evaluation
    mode, in which relaxations are not random.
    """

    def run(variant, z, labels, keys=None, training=True):
        cfg = composed(f"method={variant}".split()[0], *variant.split()[1:])
        method, views = build.method(typed(cfg), 10, 60), requirements.num_views(cfg["method"])
        method.encoder = FixedCodes(
            torch.cat([z, *(z.roll(shift, dims=1) for shift in range(1, views))])
        )
        rows = torch.arange(views * len(z)).reshape(views, -1).T
        images = rows[:, :, None, None, None].expand(-1, -1, 3, 1, 1).float()
        terms = method.train(training)(Batch(images, labels, torch.arange(len(z))))
        selected = {key: term for key, term in terms.items() if keys is None or key in keys}
        if selected:
            sum(selected.values()).backward()
            assert method.encoder.z.grad.isfinite().all()
        assert all(term.isfinite() for term in terms.values())
        grad = method.encoder.z.grad
        return selected, None if grad is None else grad[: len(z)]

    return run


@pytest.fixture(scope="module")
def pointwise_terms(compute):
    """``variant -> names of the terms that compare each image only with its own labels``.

    Such a term depends on the label of an image, and the direction of its gradient for one image
    does not depend on the codes of the others (a common factor may change).
    """
    terms_of = {}

    def pointwise_terms_of(variant):
        if variant not in terms_of:
            z, labels = random_codes(6), one_hot(0, 1, 2, 3, 4, 5)
            other_z, other_labels = random_codes(7)[1:], labels[[1, 0, 2, 3, 4, 5]]
            other_z[0] = z[0]
            terms_of[variant] = set()
            for key in compute(variant, z, labels, training=False)[0]:
                terms, grad = compute(variant, z, labels, {key}, training=False)
                terms_of_labels, _ = compute(variant, z, other_labels, {key}, training=False)
                _, grad_of_codes = compute(variant, other_z, labels, {key}, training=False)
                direction, other_direction = (
                    F.normalize(each[0], dim=0) for each in (grad, grad_of_codes)
                )
                same_direction = torch.allclose(direction, other_direction, atol=1e-5)
                if same_direction and not torch.equal(terms[key], terms_of_labels[key]):
                    terms_of[variant].add(key)
        return terms_of[variant]

    return pointwise_terms_of


def random_codes(n):
    return torch.randn(n, 16, generator=torch.Generator().manual_seed(0))


def one_hot(*labels):
    return F.one_hot(torch.tensor(labels), 10).float()


@pytest.mark.parametrize("variant", VARIANTS)
def test_batch_of_one_image(variant, compute):
    terms, _ = compute(variant, random_codes(1), one_hot(3))
    assert "triplet" not in terms or terms["triplet"] == 0
    assert terms.get("pairwise", 0) == 0


@pytest.mark.parametrize("variant", VARIANTS)
def test_batch_of_one_class(variant, compute):
    terms, grad = compute(variant, random_codes(6), one_hot(*6 * [3]))
    assert grad.abs().sum() > 0
    if "triplet" in terms:
        assert terms["triplet"] == 0
    if variant == "hashnet":
        u = torch.tanh(random_codes(6))
        torch.testing.assert_close(terms["likelihood"], F.softplus(-u @ u.T).mean())


def test_pointwise_terms(pointwise_terms, composed):
    """Losses that read centers or logits have them, unless the similarity couples the batch."""
    for variant in VARIANTS:
        method = build.method(
            typed(composed(f"method={variant}".split()[0], *variant.split()[1:])), 10, 60
        )
        centred = {"logits", "centers"} & method.loss.needs
        coupled = getattr(method.similarity, "batch_coupled", False)
        assert bool(pointwise_terms(variant)) == bool(centred and not coupled), variant


@pytest.mark.parametrize("variant", VARIANTS)
def test_batch_without_labels(variant, compute, pointwise_terms):
    """Images without labels are similar to no image, not even to themselves."""
    terms, _ = compute(variant, random_codes(6), torch.zeros(6, 10))
    assert all(terms[key] == 0 for key in {*pointwise_terms(variant), "triplet"} & set(terms))
    if variant == "hashnet":
        u = torch.tanh(random_codes(6))
        torch.testing.assert_close(terms["likelihood"], F.softplus(u @ u.T).mean())


@pytest.mark.parametrize("variant", VARIANTS)
def test_batch_with_an_unlabelled_image(variant, compute):
    labels = one_hot(0, 1, 2, 3, 4, 5)
    labels[4] = 0
    compute(variant, random_codes(6), labels)


@pytest.mark.parametrize("variant", VARIANTS)
def test_unlabelled_image_has_no_loss_or_gradient(variant, compute, pointwise_terms):
    """It may be counted in the mean.

    Only pointwise terms are tested: in pairs it is dissimilar to all images, and in RelaHash its
    code changes the positions of the others.
    """
    z, labels = random_codes(6), one_hot(0, 1, 2, 3, 4, 5)
    labels[4] = 0
    if not pointwise_terms(variant):
        return
    terms, grad = compute(variant, z, labels, pointwise_terms(variant), training=False)
    assert torch.equal(grad[4], torch.zeros(16)) and grad[:4].abs().sum(dim=1).min() > 0
    labelled = [0, 1, 2, 3, 5]
    expected, _ = compute(
        variant, z[labelled], labels[labelled], pointwise_terms(variant), training=False
    )
    for key, term in terms.items():
        matches = [torch.allclose(term, expected[key] * factor) for factor in (1, 5 / 6)]
        assert any(matches), key


@pytest.mark.parametrize("variant", VARIANTS)
def test_two_identical_images(variant, compute):
    compute(variant, random_codes(1).repeat(2, 1), one_hot(1, 1))
    compute(variant, random_codes(1).repeat(2, 1), one_hot(1, 2))


@pytest.mark.parametrize("variant", VARIANTS)
def test_saturated_codes(variant, compute):
    for z in (60 * random_codes(6).sign(), torch.full((6, 16), 60.0) * torch.tensor([1, -1] * 8)):
        labels = one_hot(0, 0, 1, 2, 3, 3)
        labels[0, 7] = 1
        compute(variant, z, labels)


def test_hashnet_on_one_image_by_hand(compute):
    """The loss is log(1 + e^-theta), where theta is the squared norm of the code."""
    z = torch.zeros(1, 16)
    z[0, 0] = math.atanh(0.5)
    terms, _ = compute("hashnet", z, one_hot(3))
    assert terms["likelihood"].item() == pytest.approx(math.log1p(math.exp(-0.25)))
