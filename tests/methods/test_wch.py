"""WCH: the worked example, plain loops over tokens, what needs tokens, and small batches."""

import math

import pytest
import torch
import yaml
from torch import nn

from deephash.config import build, checks
from deephash.config.overrides import parse_all
from deephash.methods import wch
from deephash.methods.wch import (
    WCH,
    bit_balance,
    cross_attention,
    pair_weights,
    token_similarity,
    weighted_contrast,
)
from deephash.models.encoder import Encoder
from deephash.models.heads import TokenMLP
from deephash.types import Batch
from tests.methods import worked
from tests.methods.unlabelled import distances_of_views, train_on
from tests.pages import typed

H1, H2, W = [[1.0, 1], [1, -1]], [[1.0, 1], [-1, -1]], [[1, 0.5], [0.25, 1]]


def tensor(rows):
    return torch.tensor(rows, dtype=torch.float64)


def drawn(seed, count=4, tokens=3, size=5):
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(2, count, tokens, size, generator=draw, dtype=torch.float64)


def dot(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True))


def cosine(a, b):
    return dot(a, b) / math.sqrt(dot(a, a) * dot(b, b))


def softmax(values):
    top = max(values)
    weights = [math.exp(value - top) for value in values]
    return [weight / sum(weights) for weight in weights]


def mixed(weights, rows):
    return [sum(w * row[at] for w, row in zip(weights, rows, strict=True))
            for at in range(len(rows[0]))]  # fmt: skip


def attention(one, two, temperature=1.0):
    """For each token of the other view, a mean of this view's tokens; image by image."""
    return [
        [mixed(softmax([cosine(a, b) / temperature for a in mine]), mine) for b in other]
        for mine, other in zip(one, two, strict=True)
    ]


def weights(one, two, temperature=0.2, norm="column", normalize=False):
    """A weight for each pair of images, in loops."""
    count = len(one)
    alike = [
        [sum(max(cosine(a, b) for b in two[m]) for a in one[n]) / len(one[n])
         for m in range(count)]
        for n in range(count)
    ]  # fmt: skip
    shares = [softmax([value / temperature for value in row]) for row in alike]
    result = [
        [shares[n][m] / (shares[m][m] if norm == "column" else shares[n][n]) for m in range(count)]
        for n in range(count)
    ]
    return [[w / sum(row) for w in row] for row in result] if normalize else result


def contrast(h1, h2, w, temperature=0.3):
    total = 0.0
    for n, row in enumerate(h1):
        shares = softmax([dot(row, other) / (len(row) * temperature) for other in h2])
        total -= sum(w[n][m] * math.log(share) for m, share in enumerate(shares))
    return total / len(h1)


def balance(h):
    bits = list(zip(*h, strict=True))
    means = sum((sum(bit) / len(h)) ** 2 for bit in bits) / len(bits)
    return means - sum(x * x for row in h for x in row) / (len(h) * len(bits))


# the objective


def test_the_worked_example():
    """By SDC's repository: cross-entropy 2.100837, balance -0.5, together 1.600837."""
    one, two, w = tensor(H1), tensor(H2), tensor(W)
    result, even = weighted_contrast(one, two, w, 0.3), bit_balance(one)
    assert result.item() == pytest.approx(2.100837, abs=1e-6)
    assert even.item() == pytest.approx(-0.5, abs=1e-6)
    assert (result + even).item() == pytest.approx(1.600837, abs=1e-6)


@pytest.mark.parametrize("temperature", [1.0, 0.3])
@pytest.mark.parametrize("seed", range(2))
def test_attention_is_the_loop(seed, temperature):
    one, two = drawn(seed)
    first, second = cross_attention(one, two, temperature)
    expected = tensor(attention(one.tolist(), two.tolist(), temperature))
    torch.testing.assert_close(first, expected, atol=1e-9, rtol=0)
    expected = tensor(attention(two.tolist(), one.tolist(), temperature))
    torch.testing.assert_close(second, expected, atol=1e-9, rtol=0)


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("norm", ["column", "row"])
@pytest.mark.parametrize("seed", range(2))
def test_weights_are_the_loop(seed, norm, normalize, monkeypatch):
    one, two = drawn(seed)
    result = pair_weights(token_similarity(one, two), 0.2, norm, normalize)
    expected = tensor(weights(one.tolist(), two.tolist(), 0.2, norm, normalize))
    torch.testing.assert_close(result, expected, atol=1e-9, rtol=1e-12)
    monkeypatch.setattr(wch, "MAX_COSINES", 1)  # an image at a time
    torch.testing.assert_close(
        token_similarity(one, two), token_similarity(one, two), atol=0, rtol=0
    )
    result = pair_weights(token_similarity(one, two), 0.2, norm, normalize)
    torch.testing.assert_close(result, expected, atol=1e-9, rtol=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_the_objective_is_the_loop(seed):
    draw = torch.Generator().manual_seed(seed)
    one, two, w = (torch.randn(5, 5, generator=draw, dtype=torch.float64) for _ in range(3))
    result = weighted_contrast(one, two, w.abs(), 0.3)
    expected = contrast(one.tolist(), two.tolist(), w.abs().tolist())
    assert result.item() == pytest.approx(expected, abs=1e-9, rel=0)
    assert bit_balance(one).item() == pytest.approx(balance(one.tolist()), abs=1e-9)


def test_weights_by_column_may_exceed_one():
    """An image that resembles none of the others much has a small share of itself."""
    alike = tensor([[0.9, 0.6, 0.1], [0.8, 0.7, 0.7], [0.2, 0.8, 0.5]])
    column, row = (pair_weights(alike, 0.2, norm) for norm in ("column", "row"))
    assert column.diagonal().tolist() == row.diagonal().tolist() == [1, 1, 1]
    assert column.max() > 2.5 and not torch.allclose(column, row)
    assert pair_weights(alike, 0.2, normalize_w=True).sum(dim=1).tolist() == pytest.approx(
        [1, 1, 1]
    )
    shares = torch.softmax(alike / 0.2, dim=1)
    torch.testing.assert_close(column, shares / shares.diagonal())
    torch.testing.assert_close(row, shares / shares.diagonal()[:, None])


def test_gradients_are_finite_differences():
    """Also by the tokens, through attention and weights: of a backbone that is trained."""
    one, two = (half.requires_grad_() for half in drawn(1, count=3))

    def judged(one, two):
        first, second = cross_attention(one, two)
        w = pair_weights(token_similarity(first, second), 0.2)
        h1, h2 = first.mean(dim=1).tanh(), second.mean(dim=1).tanh()
        return weighted_contrast(h1, h2, w, 0.3) + bit_balance(h1)

    assert torch.autograd.gradcheck(judged, (one, two))


# the method


def made(passes="stacked", **options):
    torch.manual_seed(0)
    method = WCH(Encoder(nn.Identity(), TokenMLP(in_features=5, nbit=4)), **options)
    method.passes = passes
    return method


def batch(tokens):
    """Of tokens (2, B, T, D), all of one view first."""
    return Batch(tokens.float().transpose(0, 1), None, torch.arange(tokens.shape[1]))


@pytest.mark.parametrize("passes", ["stacked", "separate"])
def test_the_method_is_its_formula(passes):
    method, tokens = made(passes), drawn(0)
    result = method(batch(tokens))
    one, two = tokens.tolist()
    first, second = attention(one, two), attention(two, one)
    with torch.no_grad():
        h1, h2 = (
            torch.where(method.encoder.head(tensor(x).float()) >= 0, 1.0, -1.0).tolist()
            for x in (first, second)
        )
    expected = contrast(h1, h2, weights(first, second))
    assert result["contrast"].item() == pytest.approx(expected, rel=1e-5)
    assert result["balance"].item() == pytest.approx(balance(h1), rel=1e-5, abs=1e-6)
    assert list(made(balance=0.0)(batch(tokens))) == ["contrast"]


class Given(nn.Module):
    """A head that gives these z, whatever the tokens are."""

    def __init__(self, z):
        super().__init__()
        self.z = nn.Parameter(z)

    def forward(self, outputs):
        return self.z


def test_the_gradient_of_the_bits_is_that_of_tanh():
    """Of their mean square, 2 h / (N K), times 1 - tanh(z)^2."""
    z = torch.tensor([[0.5, -2.0, 0.0], [1.0, 0.2, -0.1]])
    method = WCH(Encoder(nn.Identity(), Given(z)))
    bits = method.codes(torch.zeros(2, 3, 5))
    assert bits.tolist() == [[1, -1, 1], [1, 1, -1]]
    bits.square().mean().backward()
    expected = 2 * bits.detach() / 6 * (1 - z.tanh() ** 2)
    torch.testing.assert_close(method.encoder.head.z.grad, expected)


def test_codes_outside_of_training_need_no_other_view():
    """The mean of an image's own tokens, layer norm, two layers."""
    method, tokens = made(), drawn(2)[0].float()
    features, z = method.encoder(tokens)
    torch.testing.assert_close(features, tokens.mean(dim=1))
    torch.testing.assert_close(z, method.encoder.head(features))
    head = method.encoder.head
    normed = (features - features.mean(1, keepdim=True)) / (
        features.var(1, keepdim=True, unbiased=False) + 1e-6
    ).sqrt()
    expected = head.linear(nn.functional.gelu(head.hidden(normed)))
    torch.testing.assert_close(z, expected)


def test_first_weights_of_the_head():
    torch.manual_seed(0)
    head = TokenMLP(in_features=64, nbit=600, width=300, activation="relu")
    assert [tuple(p.shape) for p in head.parameters()][2:] == [
        (300, 64),
        (300,),
        (600, 300),
        (600,),
    ]
    for layer, fan_out in ((head.hidden, 300), (head.linear, 600)):
        bound = math.sqrt(6 / fan_out)  # Kaiming-uniform
        assert 0.97 * bound < layer.weight.abs().max() <= bound
        assert layer.bias.std().item() == pytest.approx(1, abs=0.15)
    assert isinstance(head.activation, nn.ReLU) and head.norm.eps == 1e-6


DEGENERATE = {
    "one image": torch.ones(2, 1, 3, 5),
    "two images": torch.arange(60.0).reshape(2, 2, 3, 5),
    "one token": drawn(0, tokens=1),
    "equal tokens": torch.ones(2, 4, 3, 5),
    "zero vectors": torch.zeros(2, 4, 3, 5),
    "large tokens": 1e6 * drawn(3),
}


@pytest.mark.parametrize("norm", ["column", "row"])
@pytest.mark.parametrize("name", DEGENERATE)
def test_degenerate_batches_are_finite(name, norm):
    method, tokens = made(weight_norm=norm), DEGENERATE[name].float().requires_grad_()
    result = method(batch(tokens))
    sum(result.values()).backward()
    assert all(term.isfinite() for term in result.values())
    assert (
        all(p.grad.isfinite().all() for p in method.parameters()) and tokens.grad.isfinite().all()
    )
    if name == "one image":  # nothing to be told from
        assert result["contrast"] == 0


# what needs tokens


def faults(composed, words, change=lambda cfg: None):
    cfg = composed(*words)
    change(cfg)
    return [(fault.key, fault.message) for fault in checks.check_train(cfg, parse_all(words))]


def with_tokens(cfg):
    cfg["backbone"]["output"] = "tokens"


def test_features_are_refused(composed):
    words = ["method=wch", "backbone.output=features"]
    ((key, what),) = faults(composed, words)
    assert key == "backbone.output" and "WCH needs the tokens (N, T, D)" in what


def test_a_head_for_features_is_refused(composed):
    ((key, what),) = faults(composed, ["method=wch", "head=linear"])
    assert key in ("head", "method.head") and "Linear takes features" in what


def test_tokens_are_refused_by_what_takes_features(composed):
    for method in ("relahash", "csq", "nsh", "itq"):
        words = [f"method={method}"]
        ((key, what),) = faults(
            composed, words, lambda cfg: cfg["backbone"].update(output="tokens")
        )
        assert key == "backbone.output" and "takes features (N, D)" in what


def test_a_method_of_features_takes_tokens_by_their_head(composed, batch_for):
    """Its features are then their means."""
    cfg = composed("method=hashnet", "head=tokens")
    cfg["backbone"]["output"] = "tokens"
    assert checks.check_train(cfg) == []
    method = build.method(typed(cfg), 10, 500)
    features, z = method.encode(batch_for(cfg))
    assert (tuple(features.shape), tuple(z.shape)) == ((50, 128), (50, 16))


def test_the_recipe_has_the_values_of_the_repository(composed):
    method = build.method(typed(composed("method=wch")), 10, 500)
    assert (method.weight_norm, method.normalize_w, method.weight_temperature) == (
        "column", False, 0.2,
    )  # fmt: skip
    assert isinstance(method.encoder.head.activation, nn.GELU)
    assert tuple(method.encoder.head.hidden.weight.shape) == (128, 128)
    recipe = yaml.safe_load((worked.CONF / "method" / "wch.yaml").read_text())
    assert (recipe["trainer"]["epochs"], recipe["trainer"]["batch_size"]) == (100, 64)
    assert recipe["optimizer"]["lr"] == 1e-4 and recipe["backbone"]["frozen"] is True
    assert {"override /scheduler": "constant"} in recipe["defaults"]


def test_its_codes_are_learned_without_labels(composed, batch_for):
    cfg = composed("method=wch")
    method, batch = build.method(typed(cfg), 10, 500), batch_for(cfg)
    assert batch.given_labels is None
    losses = train_on(method, batch, build.optimizer(typed(cfg), method), steps=30)
    apart = distances_of_views(method, batch)
    assert losses[-1] < 0.8 * losses[0] and apart.diagonal().mean() < 0.6 * apart.mean()
