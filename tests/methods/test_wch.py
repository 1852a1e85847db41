"""WCH: worked example, loops over tokens, refused configurations, small batches, training."""

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
from tests.methods.loops import cosine, dot, softmax
from tests.methods.unlabelled import distances_of_views, train_on
from tests.pages import typed

CODES1, CODES2, WEIGHTS = [[1.0, 1], [1, -1]], [[1.0, 1], [-1, -1]], [[1, 0.5], [0.25, 1]]


def tensor(rows):
    return torch.tensor(rows, dtype=torch.float64)


def random_tokens(seed, count=4, tokens=3, size=5):
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(2, count, tokens, size, generator=rng, dtype=torch.float64)


def weighted_mean(weights, rows):
    return [sum(w * row[d] for w, row in zip(weights, rows, strict=True))
            for d in range(len(rows[0]))]  # fmt: skip


def attention_by_loop(x1, x2, temperature=1.0):
    """For each image and token of the other view, the weighted mean of the tokens of a view."""
    return [
        [weighted_mean(softmax([cosine(a, b) / temperature for a in own]), own) for b in other]
        for own, other in zip(x1, x2, strict=True)
    ]


def weights_by_loop(x1, x2, temperature=0.2, norm="column", normalize=False):
    """The weight of each pair of images, in loops."""
    count = len(x1)
    similarities = [
        [sum(max(cosine(a, b) for b in x2[m]) for a in x1[n]) / len(x1[n])
         for m in range(count)]
        for n in range(count)
    ]  # fmt: skip
    probabilities = [softmax([value / temperature for value in row]) for row in similarities]
    result = [
        [a / (probabilities[m][m] if norm == "column" else row[n]) for m, a in enumerate(row)]
        for n, row in enumerate(probabilities)
    ]
    return [[w / sum(row) for w in row] for row in result] if normalize else result


def contrast_by_loop(h1, h2, w, temperature=0.3):
    total = 0.0
    for n, row in enumerate(h1):
        probabilities = softmax([dot(row, other) / (len(row) * temperature) for other in h2])
        total -= sum(w[n][m] * math.log(probability) for m, probability in enumerate(probabilities))
    return total / len(h1)


def balance_by_loop(h):
    bits = list(zip(*h, strict=True))
    means = sum((sum(bit) / len(h)) ** 2 for bit in bits) / len(bits)
    return means - sum(x * x for row in h for x in row) / (len(h) * len(bits))


# the objective


def test_worked_example():
    """Values of SDC's repository: cross-entropy 2.100837, balance -0.5, sum 1.600837."""
    h1, h2, weights = tensor(CODES1), tensor(CODES2), tensor(WEIGHTS)
    contrast, balance = weighted_contrast(h1, h2, weights, 0.3), bit_balance(h1)
    assert contrast.item() == pytest.approx(2.100837, abs=1e-6)
    assert balance.item() == pytest.approx(-0.5, abs=1e-6)
    assert (contrast + balance).item() == pytest.approx(1.600837, abs=1e-6)


@pytest.mark.parametrize("temperature", [1.0, 0.3])
@pytest.mark.parametrize("seed", range(2))
def test_attention_matches_loop(seed, temperature):
    x1, x2 = random_tokens(seed)
    first, second = cross_attention(x1, x2, temperature)
    expected = tensor(attention_by_loop(x1.tolist(), x2.tolist(), temperature))
    torch.testing.assert_close(first, expected, atol=1e-9, rtol=0)
    expected = tensor(attention_by_loop(x2.tolist(), x1.tolist(), temperature))
    torch.testing.assert_close(second, expected, atol=1e-9, rtol=0)


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("norm", ["column", "row"])
@pytest.mark.parametrize("seed", range(2))
def test_weights_match_loop(seed, norm, normalize, monkeypatch):
    x1, x2 = random_tokens(seed)
    result = pair_weights(token_similarity(x1, x2), 0.2, norm, normalize)
    expected = tensor(weights_by_loop(x1.tolist(), x2.tolist(), 0.2, norm, normalize))
    torch.testing.assert_close(result, expected, atol=1e-9, rtol=1e-12)
    monkeypatch.setattr(wch, "MAX_COSINES", 1)  # an image at a time
    result = pair_weights(token_similarity(x1, x2), 0.2, norm, normalize)
    torch.testing.assert_close(result, expected, atol=1e-9, rtol=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_objective_matches_loop(seed):
    rng = torch.Generator().manual_seed(seed)
    h1, h2, w = (torch.randn(5, 5, generator=rng, dtype=torch.float64) for _ in range(3))
    result = weighted_contrast(h1, h2, w.abs(), 0.3)
    expected = contrast_by_loop(h1.tolist(), h2.tolist(), w.abs().tolist())
    assert result.item() == pytest.approx(expected, abs=1e-9, rel=0)
    assert bit_balance(h1).item() == pytest.approx(balance_by_loop(h1.tolist()), abs=1e-9)


def test_weights_by_column_can_exceed_one():
    """If an image of view 2 is similar to no image, A_mm is small."""
    similarities = tensor([[0.9, 0.6, 0.1], [0.8, 0.7, 0.7], [0.2, 0.8, 0.5]])
    column, row = (pair_weights(similarities, 0.2, norm) for norm in ("column", "row"))
    assert column.diagonal().tolist() == row.diagonal().tolist() == [1, 1, 1]
    assert column.max() > 2.5 and not torch.allclose(column, row)
    normalized = pair_weights(similarities, 0.2, normalize_w=True)
    assert normalized.sum(dim=1).tolist() == pytest.approx([1, 1, 1])
    probabilities = torch.softmax(similarities / 0.2, dim=1)
    torch.testing.assert_close(column, probabilities / probabilities.diagonal())
    torch.testing.assert_close(row, probabilities / probabilities.diagonal()[:, None])


def test_gradients_match_finite_differences():
    """With respect to the tokens, through attention and weights, as in training the backbone."""
    x1, x2 = (tokens.requires_grad_() for tokens in random_tokens(1, count=3))

    def loss(x1, x2):
        first, second = cross_attention(x1, x2)
        w = pair_weights(token_similarity(first, second), 0.2)
        h1, h2 = first.mean(dim=1).tanh(), second.mean(dim=1).tanh()
        return weighted_contrast(h1, h2, w, 0.3) + bit_balance(h1)

    assert torch.autograd.gradcheck(loss, (x1, x2))


# the method


def make_method(passes="stacked", **options):
    torch.manual_seed(0)
    method = WCH(Encoder(nn.Identity(), TokenMLP(in_features=5, nbit=4)), **options)
    method.passes = passes
    return method


def make_batch(tokens):
    """Build a batch from tokens (2, B, T, D)."""
    return Batch(tokens.float().transpose(0, 1), None, torch.arange(tokens.shape[1]))


@pytest.mark.parametrize("passes", ["stacked", "separate"])
def test_method_matches_formula(passes):
    method, tokens = make_method(passes), random_tokens(0)
    result = method(make_batch(tokens))
    x1, x2 = tokens.tolist()
    first, second = attention_by_loop(x1, x2), attention_by_loop(x2, x1)
    with torch.no_grad():
        h1, h2 = (
            torch.where(method.encoder.head(tensor(x).float()) >= 0, 1.0, -1.0).tolist()
            for x in (first, second)
        )
    expected = contrast_by_loop(h1, h2, weights_by_loop(first, second))
    assert result["contrast"].item() == pytest.approx(expected, rel=1e-5)
    assert result["balance"].item() == pytest.approx(balance_by_loop(h1), rel=1e-5, abs=1e-6)
    assert list(make_method(balance=0.0)(make_batch(tokens))) == ["contrast"]


class FixedCodes(nn.Module):
    """A head that returns given z for all tokens."""

    def __init__(self, z):
        super().__init__()
        self.z = nn.Parameter(z)

    def forward(self, outputs):
        return self.z


def test_gradient_of_bits_is_that_of_tanh():
    """The gradient of the mean square is 2 h / (N K), times 1 - tanh(z)^2."""
    z = torch.tensor([[0.5, -2.0, 0.0], [1.0, 0.2, -0.1]])
    method = WCH(Encoder(nn.Identity(), FixedCodes(z)))
    bits = method.codes(torch.zeros(2, 3, 5))
    assert bits.tolist() == [[1, -1, 1], [1, 1, -1]]
    bits.square().mean().backward()
    expected = 2 * bits.detach() / 6 * (1 - z.tanh() ** 2)
    torch.testing.assert_close(method.encoder.head.z.grad, expected)


def test_codes_in_evaluation():
    """The head reads the mean of an image's own tokens: layer norm and two linear layers."""
    method, tokens = make_method(), random_tokens(2)[0].float()
    features, z = method.encoder(tokens)
    torch.testing.assert_close(features, tokens.mean(dim=1))
    torch.testing.assert_close(z, method.encoder.head(features))
    head = method.encoder.head
    normed = (features - features.mean(1, keepdim=True)) / (
        features.var(1, keepdim=True, unbiased=False) + 1e-6
    ).sqrt()
    expected = head.linear(nn.functional.gelu(head.hidden(normed)))
    torch.testing.assert_close(z, expected)


def test_initial_weights_of_the_head():
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
    "one token": random_tokens(0, tokens=1),
    "equal tokens": torch.ones(2, 4, 3, 5),
    "zero vectors": torch.zeros(2, 4, 3, 5),
    "large tokens": 1e6 * random_tokens(3),
}


@pytest.mark.parametrize("norm", ["column", "row"])
@pytest.mark.parametrize("name", DEGENERATE)
def test_degenerate_batches_are_finite(name, norm):
    method, tokens = make_method(weight_norm=norm), DEGENERATE[name].float().requires_grad_()
    result = method(make_batch(tokens))
    sum(result.values()).backward()
    assert all(term.isfinite() for term in result.values())
    assert (
        all(p.grad.isfinite().all() for p in method.parameters()) and tokens.grad.isfinite().all()
    )
    if name == "one image":  # there are no negatives
        assert result["contrast"] == 0


# refused configurations


def faults_of(composed, overrides, change=lambda cfg: None):
    cfg = composed(*overrides)
    change(cfg)
    return [(fault.key, fault.message) for fault in checks.check_train(cfg, parse_all(overrides))]


def output_tokens(cfg):
    cfg["backbone"]["output"] = "tokens"


def test_features_for_wch_are_refused(composed):
    overrides = ["method=wch", "backbone.output=features"]
    ((key, message),) = faults_of(composed, overrides)
    assert key == "backbone.output" and "WCH needs the tokens (N, T, D)" in message


def test_head_for_features_is_refused(composed):
    ((key, message),) = faults_of(composed, ["method=wch", "head=linear"])
    assert key in ("head", "method.head") and "Linear takes features" in message


def test_tokens_for_other_methods_are_refused(composed):
    for method in ("relahash", "csq", "nsh", "itq"):
        ((key, message),) = faults_of(composed, [f"method={method}"], output_tokens)
        assert key == "backbone.output" and "takes features (N, D)" in message


def test_other_methods_with_the_token_head(composed, batch_for):
    """The features are then the means of the tokens."""
    cfg = composed("method=hashnet", "head=tokens")
    cfg["backbone"]["output"] = "tokens"
    assert checks.check_train(cfg) == []
    method = build.method(typed(cfg), 10, 500)
    features, z = method.encode(batch_for(cfg))
    assert (tuple(features.shape), tuple(z.shape)) == ((50, 128), (50, 16))


def test_recipe_has_the_values_of_the_repository(composed):
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


def test_learns_without_labels(composed, batch_for):
    cfg = composed("method=wch")
    method, batch = build.method(typed(cfg), 10, 500), batch_for(cfg)
    assert batch.given_labels is None
    losses = train_on(method, batch, build.optimizer(typed(cfg), method), steps=30)
    distances = distances_of_views(method, batch)
    assert losses[-1] < 0.8 * losses[0] and distances.diagonal().mean() < 0.6 * distances.mean()
