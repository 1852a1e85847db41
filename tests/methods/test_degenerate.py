"""Batches that are easily forgotten: every recipe and every form of its objective must bear them.

The encoder is a stand-in that gives the codes of the case.
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

FORMS = [
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


class Given(nn.Module):
    """An encoder that gives these codes for images that say which: their first pixel is its row."""

    def __init__(self, z):
        super().__init__()
        self.z = nn.Parameter(z)

    def forward(self, images):
        z = self.z[images[:, 0, 0, 0].long()]
        return z, z


@pytest.fixture(scope="module")
def judged(composed):
    """``(form, codes, labels) -> (terms, gradient of their sum)``, float32 and finite.

    Of a method that takes several views, each further view has other codes. ``draws=False`` is the
    method outside training, where nothing is drawn.
    """

    def judge(form, z, labels, only=None, draws=True):
        cfg = composed(f"method={form}".split()[0], *form.split()[1:])
        method, views = build.method(typed(cfg), 10, 60), requirements.num_views(cfg["method"])
        method.encoder = Given(torch.cat([z, *(z.roll(at, dims=1) for at in range(1, views))]))
        rows = torch.arange(views * len(z)).reshape(views, -1).T
        images = rows[:, :, None, None, None].expand(-1, -1, 3, 1, 1).float()
        terms = method.train(draws)(Batch(images, labels, torch.arange(len(z))))
        kept = {key: term for key, term in terms.items() if only is None or key in only}
        if kept:
            sum(kept.values()).backward()
            assert method.encoder.z.grad.isfinite().all()
        assert all(term.isfinite() for term in terms.values())
        grad = method.encoder.z.grad
        return kept, None if grad is None else grad[: len(z)]

    return judge


@pytest.fixture(scope="module")
def pointwise(judged):
    """``form -> its terms that judge each image by its own labels``.

    Another label for an image changes such a term, and other codes of the other images do not turn
    its gradient at the image (a common factor may change).
    """
    known = {}

    def find(form):
        if form not in known:
            z, other, labels = codes(6), codes(7)[1:], classes(0, 1, 2, 3, 4, 5)
            other[0] = z[0]
            result, turned = {}, labels[[1, 0, 2, 3, 4, 5]]
            for key in judged(form, z, labels, draws=False)[0]:
                (here, at), (there, _), (_, moved) = (
                    judged(form, codes_, labels_, {key}, draws=False)
                    for codes_, labels_ in ((z, labels), (z, turned), (other, labels))
                )
                own = torch.allclose(
                    F.normalize(at[0], dim=0), F.normalize(moved[0], dim=0), atol=1e-5
                )
                result[key] = own and not torch.equal(here[key], there[key])
            known[form] = {key for key, one in result.items() if one}
        return known[form]

    return find


def codes(n):
    return torch.randn(n, 16, generator=torch.Generator().manual_seed(0))


def classes(*which):
    return F.one_hot(torch.tensor(which), 10).float()


@pytest.mark.parametrize("form", FORMS)
def test_a_batch_of_one_image(form, judged):
    terms, _ = judged(form, codes(1), classes(3))
    assert "triplet" not in terms or terms["triplet"] == 0
    assert terms.get("pairwise", 0) == 0


@pytest.mark.parametrize("form", FORMS)
def test_a_batch_of_one_class(form, judged):
    terms, grad = judged(form, codes(6), classes(*6 * [3]))
    assert grad.abs().sum() > 0
    if "triplet" in terms:
        assert terms["triplet"] == 0
    if form == "hashnet":
        u = torch.tanh(codes(6))
        torch.testing.assert_close(terms["likelihood"], F.softplus(-u @ u.T).mean())


def test_the_terms_that_judge_single_images_are_known(pointwise, composed):
    """Centers make single images judgeable, unless the similarity couples the batch."""
    for form in FORMS:
        method = build.method(
            typed(composed(f"method={form}".split()[0], *form.split()[1:])), 10, 60
        )
        centred = {"logits", "centers"} & method.loss.needs
        coupled = getattr(method.similarity, "batch_coupled", False)
        assert bool(pointwise(form)) == bool(centred and not coupled), form


@pytest.mark.parametrize("form", FORMS)
def test_a_batch_without_labels(form, judged, pointwise):
    """No image is then similar to another, nor to itself."""
    terms, _ = judged(form, codes(6), torch.zeros(6, 10))
    assert all(terms[key] == 0 for key in {*pointwise(form), "triplet"} & set(terms))
    if form == "hashnet":
        u = torch.tanh(codes(6))
        torch.testing.assert_close(terms["likelihood"], F.softplus(u @ u.T).mean())


@pytest.mark.parametrize("form", FORMS)
def test_one_image_without_labels_among_others(form, judged):
    labels = classes(0, 1, 2, 3, 4, 5)
    labels[4] = 0
    judged(form, codes(6), labels)


@pytest.mark.parametrize("form", FORMS)
def test_without_labels_an_image_teaches_nothing(form, judged, pointwise):
    """Neither loss nor gradient; in the mean it may count. Pairs hold it for dissimilar to all.

    In RelaHash its code moves the others, and so is not for here.
    """
    z, labels = codes(6), classes(0, 1, 2, 3, 4, 5)
    labels[4] = 0
    if not pointwise(form):
        return
    terms, grad = judged(form, z, labels, pointwise(form), draws=False)
    assert torch.equal(grad[4], torch.zeros(16)) and grad[:4].abs().sum(dim=1).min() > 0
    rest = [0, 1, 2, 3, 5]
    alone, _ = judged(form, z[rest], labels[rest], pointwise(form), draws=False)
    for key, term in terms.items():
        means = [torch.allclose(term, alone[key] * share) for share in (1, 5 / 6)]
        assert any(means), key


@pytest.mark.parametrize("form", FORMS)
def test_two_identical_images(form, judged):
    judged(form, codes(1).repeat(2, 1), classes(1, 1))
    judged(form, codes(1).repeat(2, 1), classes(1, 2))


@pytest.mark.parametrize("form", FORMS)
def test_saturated_codes(form, judged):
    for z in (60 * codes(6).sign(), torch.full((6, 16), 60.0) * torch.tensor([1, -1] * 8)):
        labels = classes(0, 0, 1, 2, 3, 3)
        labels[0, 7] = 1
        judged(form, z, labels)


def test_what_is_left_of_a_single_class_by_hand(judged):
    """HashNet on one image: log(1 + e^-theta), theta its squared length, and nothing else."""
    z = torch.zeros(1, 16)
    z[0, 0] = math.atanh(0.5)
    terms, _ = judged("hashnet", z, classes(3))
    assert terms["likelihood"].item() == pytest.approx(math.log1p(math.exp(-0.25)))
