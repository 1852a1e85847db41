"""IMH: head against a naive computation, k-means by hand, fitting, refused options."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from deephash.config import checks
from deephash.config.overrides import parse_all
from deephash.errors import ConfigError
from deephash.methods.imh import IMH, Anchors, kmeans, tsne
from deephash.models.encoder import Encoder


def random_head(width=6, nbit=3, anchors=12, **options):
    head, rng = Anchors(width, nbit, anchors, **options), torch.Generator().manual_seed(0)
    for name in ("center", "anchors", "embedding"):
        getattr(head, name).copy_(torch.randn(getattr(head, name).shape, generator=rng))
    return head


def random_clusters(count=4, images=30, width=16, seed=0):
    """Features of distant clusters, and the cluster of each row."""
    rng = torch.Generator().manual_seed(seed)
    means = 10 * torch.randn(count, width, generator=rng)
    labels = torch.arange(count).repeat_interleave(images)
    return means[labels] + torch.randn(count * images, width, generator=rng), labels


def fit_method(features, nbit, seed=0, anchors=20, perplexity=5.0, bandwidth="mean", **options):
    encoder = Encoder(nn.Identity(), Anchors(features.shape[1], nbit, anchors, 3, bandwidth))
    method = IMH(encoder, nbit, len(features), seed, perplexity=perplexity, **options)
    method.fit(features)
    return method


# the head


@pytest.mark.parametrize("bandwidth", [0.5, 8.0, 512.0])
def test_head_matches_naive_computation(bandwidth):
    head = random_head(neighbors=4, bandwidth=bandwidth).double()
    head.sigma.fill_(bandwidth)
    x = torch.randn(20, 6, generator=torch.manual_seed(1)).double()
    for row, z in zip(x, head(x), strict=True):
        squared = [sum((row[d] - head.center[d] - a[d]).item() ** 2 for d in range(6))
                   for a in head.anchors]  # fmt: skip
        nearest = sorted(range(12), key=squared.__getitem__)[:4]
        weights = [math.exp(-squared[j] / bandwidth) for j in nearest]
        for bit in range(3):
            total = sum(w * head.embedding[j, bit].item()
                        for w, j in zip(weights, nearest, strict=True))  # fmt: skip
            assert z[bit].item() == pytest.approx(total / sum(weights), abs=1e-9)


def test_code_of_an_anchor_is_its_embedding():
    head = random_head(neighbors=1)
    torch.testing.assert_close(head(head.anchors + head.center), head.embedding)


def test_distant_images_have_finite_codes():
    head = random_head(neighbors=5, bandwidth=1e-3)
    assert head(torch.full((2, 6), 1e4)).isfinite().all()


def test_shifted_features_have_the_same_codes():
    near, far = random_head(), random_head()
    far.center += 1000
    x = torch.randn(20, 6, generator=torch.manual_seed(1))
    torch.testing.assert_close(near(x), far(x + 1000), rtol=0, atol=1e-2)


# anchors and their embedding


def test_kmeans_by_hand():
    x = np.array([[0.0, 0], [0, 2], [10, 0], [10, 2], [20, 1]], dtype=np.float32)
    result = kmeans(x.copy(), 3, 50, seed=1)
    assert sorted(result.tolist()) == [[0, 1], [10, 1], [20, 1]]


def test_fewer_distinct_features_than_anchors_are_refused():
    x = torch.tensor([[0.0, 0], [1, 0], [0, 1]]).repeat(20, 1).numpy()
    with pytest.raises(ConfigError, match=r"3 distinct features(.|\n)*anchors=3 "):
        kmeans(x, 5, 50, seed=0)


def test_tsne_depends_on_the_seed():
    points = torch.randn(20, 6, generator=torch.manual_seed(0))
    embedding, repeated = (tsne(points, 2, 5.0, seed=0) for _ in range(2))
    assert torch.equal(embedding, repeated)
    assert embedding.shape == (20, 2) and embedding.dtype == torch.float32


def test_fit_separates_clusters():
    """Codes differ more between clusters than within; embeddings and anchors have mean 0."""
    x, labels = random_clusters()
    method = fit_method(x, 4, center=True)
    head = method.encoder.head
    assert head.embedding.mean(dim=0).abs().max() < 1e-4 * head.embedding.abs().max()
    assert head.anchors.mean(dim=0).abs().max() < 1e-4
    torch.testing.assert_close(head.center, (head.anchors + head.center).mean(dim=0))
    with torch.no_grad():
        bits = (method.encoder.encode(x) >= 0).double()
    distance, same = torch.cdist(bits, bits, p=1), labels[:, None] == labels
    assert distance[same].mean() < 0.5 * distance[~same].mean()


def test_embedding_is_that_of_tsne_unless_centered():
    x, _ = random_clusters()
    raw, centered = fit_method(x, 4).encoder.head, fit_method(x, 4, center=True).encoder.head
    points = kmeans(x.clone().numpy(), 20, 200, seed=0)
    torch.testing.assert_close(raw.embedding, tsne(points, 4, 5.0, seed=0))
    assert raw.embedding.mean(dim=0).abs().max() > 1e-2
    torch.testing.assert_close(centered.embedding, raw.embedding - raw.embedding.mean(dim=0))


def test_mean_bandwidth():
    x, _ = random_clusters()
    head = fit_method(x, 2).encoder.head
    points = head.anchors + head.center
    third_nearest = torch.cdist(x.double(), points.double()).sort(dim=1).values[:, 2]
    assert head.sigma.item() == pytest.approx(third_nearest.mean().item() ** 2, rel=1e-4)


def test_kmeans_uses_a_sample():
    """The sample has 3 times 20 images; a bandwidth that is a number does not change."""
    x, _ = random_clusters()
    method = fit_method(x, 2, images_per_anchor=3, bandwidth=512.0)
    rows = method._sample(x)
    assert rows.shape == (60, 16) and method.encoder.head.sigma == 512
    assert {tuple(row) for row in rows.tolist()} <= {tuple(row) for row in x.tolist()}
    assert fit_method(x, 2, images_per_anchor=None)._sample(x).shape == (120, 16)


# refused options


@pytest.mark.parametrize(
    ("override", "key", "message"),
    [
        ("model.nbit=400", "method.head", "method.head.anchors=401 at least"),
        ("method.head.neighbors=401", "method.head.neighbors", "neighbors=400 at most"),
        ("method.head.bandwidth=median", "method.head.bandwidth", "not a number or mean"),
        ("method.perplexity=0.5", "method.perplexity", "is 0.5"),
    ],
)
def test_options_refused_by_the_check(override, key, message, composed):
    overrides = ["method=imh", override]
    faults = checks.check_train(composed(*overrides), parse_all(overrides))
    assert [fault.key for fault in faults] == [key] and message in faults[0].message


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"nbit": 9}, r"model\.nbit  is 9, but the backbone has 8(.|\n)*model\.nbit=8 at most"),
        ({"num_train": 19}, r"anchors  is 20, but there are 19(.|\n)*anchors=19 at most"),
        ({"perplexity": 20.0}, r"perplexity  is 20, but .* anchors, 20(.|\n)*perplexity=6"),
    ],
)
def test_options_refused_by_the_constructor(options, message):
    values = {"nbit": 4, "num_train": 50, "seed": 0, "perplexity": 5.0} | options
    encoder = Encoder(nn.Identity(), Anchors(8, values["nbit"], 20))
    with pytest.raises(ConfigError, match=message):
        IMH(encoder, **values)
