"""IMH: the head by a naive form, anchors by hand, clusters, and what is refused."""

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


def head(width=6, nbit=3, anchors=12, **options):
    made, draw = Anchors(width, nbit, anchors, **options), torch.Generator().manual_seed(0)
    for name in ("center", "anchors", "embedding"):
        getattr(made, name).copy_(torch.randn(getattr(made, name).shape, generator=draw))
    return made


def clusters(count=4, images=30, width=16, seed=0):
    """Features far apart by cluster, and the cluster of each."""
    draw = torch.Generator().manual_seed(seed)
    means = 10 * torch.randn(count, width, generator=draw)
    which = torch.arange(count).repeat_interleave(images)
    return means[which] + torch.randn(count * images, width, generator=draw), which


def made(features, nbit, seed=0, anchors=20, perplexity=5.0, bandwidth="mean", **options):
    encoder = Encoder(nn.Identity(), Anchors(features.shape[1], nbit, anchors, 3, bandwidth))
    method = IMH(encoder, nbit, len(features), seed, perplexity=perplexity, **options)
    method.fit(features)
    return method


# the head


@pytest.mark.parametrize("bandwidth", [0.5, 8.0, 512.0])
def test_the_head_by_a_naive_form(bandwidth):
    made = head(neighbors=4, bandwidth=bandwidth).double()
    made.sigma.fill_(bandwidth)
    x = torch.randn(20, 6, generator=torch.manual_seed(1)).double()
    for row, z in zip(x, made(x), strict=True):
        squared = [sum((row[d] - made.center[d] - a[d]).item() ** 2 for d in range(6))
                   for a in made.anchors]  # fmt: skip
        nearest = sorted(range(12), key=squared.__getitem__)[:4]
        weights = [math.exp(-squared[j] / bandwidth) for j in nearest]
        for bit in range(3):
            total = sum(w * made.embedding[j, bit].item()
                        for w, j in zip(weights, nearest, strict=True))  # fmt: skip
            assert z[bit].item() == pytest.approx(total / sum(weights), abs=1e-9)


def test_one_neighbor_gives_its_embedding():
    made = head(neighbors=1)
    torch.testing.assert_close(made(made.anchors + made.center), made.embedding)


def test_images_far_from_all_anchors_have_finite_codes():
    made = head(neighbors=5, bandwidth=1e-3)
    assert made(torch.full((2, 6), 1e4)).isfinite().all()


def test_features_far_from_the_origin_are_the_same_as_near():
    near, far = head(), head()
    far.center += 1000
    x = torch.randn(20, 6, generator=torch.manual_seed(1))
    torch.testing.assert_close(near(x), far(x + 1000), rtol=0, atol=1e-2)


# anchors and their embedding


def test_centers_by_hand():
    x = np.array([[0.0, 0], [0, 2], [10, 0], [10, 2], [20, 1]], dtype=np.float32)
    result = kmeans(x.copy(), 3, 50, seed=1)
    assert sorted(result.tolist()) == [[0, 1], [10, 1], [20, 1]]


def test_fewer_different_features_than_anchors_are_refused():
    x = torch.tensor([[0.0, 0], [1, 0], [0, 1]]).repeat(20, 1).numpy()
    with pytest.raises(ConfigError, match=r"3 distinct features(.|\n)*anchors=3 "):
        kmeans(x, 5, 50, seed=0)


def test_embeddings_are_drawn_from_the_seed():
    points = torch.randn(20, 6, generator=torch.manual_seed(0))
    one, two = (tsne(points, 2, 5.0, seed=0) for _ in range(2))
    assert torch.equal(one, two) and one.shape == (20, 2) and one.dtype == torch.float32


def test_the_fit_fills_the_head_and_parts_clusters():
    """Codes differ more between clusters than within; embedding and anchors have mean 0."""
    x, which = clusters()
    method = made(x, 4, center=True)
    filled = method.encoder.head
    assert filled.embedding.mean(dim=0).abs().max() < 1e-4 * filled.embedding.abs().max()
    assert filled.anchors.mean(dim=0).abs().max() < 1e-4
    torch.testing.assert_close(filled.center, (filled.anchors + filled.center).mean(dim=0))
    with torch.no_grad():
        bits = (method.encoder.encode(x) >= 0).double()
    distance, same = torch.cdist(bits, bits, p=1), which[:, None] == which
    assert distance[same].mean() < 0.5 * distance[~same].mean()


def test_the_embedding_is_that_of_tsne_unless_centered():
    x, _ = clusters()
    raw, centered = made(x, 4).encoder.head, made(x, 4, center=True).encoder.head
    points = kmeans(x.clone().numpy(), 20, 200, seed=0)
    torch.testing.assert_close(raw.embedding, tsne(points, 4, 5.0, seed=0))
    assert raw.embedding.mean(dim=0).abs().max() > 1e-2
    torch.testing.assert_close(centered.embedding, raw.embedding - raw.embedding.mean(dim=0))


def test_the_mean_bandwidth_is_that_of_distances():
    x, _ = clusters()
    filled = made(x, 2).encoder.head
    points = filled.anchors + filled.center
    third = torch.cdist(x.double(), points.double()).sort(dim=1).values[:, 2]
    assert filled.sigma.item() == pytest.approx(third.mean().item() ** 2, rel=1e-4)


def test_k_means_takes_a_sample():
    """Of 3 times 20 images; 512 stays the bandwidth."""
    x, _ = clusters()
    method = made(x, 2, images_per_anchor=3, bandwidth=512.0)
    rows = method._sample(x)
    assert rows.shape == (60, 16) and method.encoder.head.sigma == 512
    assert {tuple(row) for row in rows.tolist()} <= {tuple(row) for row in x.tolist()}
    assert made(x, 2, images_per_anchor=None)._sample(x).shape == (120, 16)


# what is refused


@pytest.mark.parametrize(
    ("word", "key", "said"),
    [
        ("model.nbit=400", "method.head", "method.head.anchors=401 at least"),
        ("method.head.neighbors=401", "method.head.neighbors", "neighbors=400 at most"),
        ("method.head.bandwidth=median", "method.head.bandwidth", "not a number or mean"),
        ("method.perplexity=0.5", "method.perplexity", "is 0.5"),
    ],
)
def test_before_data_are_opened(word, key, said, composed):
    words = ["method=imh", word]
    faults = checks.check_train(composed(*words), parse_all(words))
    assert [fault.key for fault in faults] == [key] and said in faults[0].message


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"nbit": 9}, r"model\.nbit  is 9, but the backbone has 8(.|\n)*model\.nbit=8 at most"),
        ({"num_train": 19}, r"anchors  is 20, but there are 19(.|\n)*anchors=19 at most"),
        ({"perplexity": 20.0}, r"perplexity  is 20, but .* anchors, 20(.|\n)*perplexity=6"),
    ],
)
def test_before_anything_is_fitted(options, said):
    values = {"nbit": 4, "num_train": 50, "seed": 0, "perplexity": 5.0} | options
    encoder = Encoder(nn.Identity(), Anchors(8, values["nbit"], 20))
    with pytest.raises(ConfigError, match=said):
        IMH(encoder, **values)
