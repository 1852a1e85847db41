"""Agreement of features and codes against definitions written out in float64."""

from itertools import permutations

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from deephash.errors import DataError
from deephash.retrieval import FeatureNeighbours, agreement, feature_agreement, rank_codes


def cosine(a, b):
    length = np.linalg.norm(a) * np.linalg.norm(b)
    return float(a @ b / length) if length else 0.0


def hamming(a, b):
    return int(((a >= 0) != (b >= 0)).sum())


def nearest(values, top):
    """The sets of the `top` largest values, over all orders of the items: some sets come often."""
    orders = permutations(range(len(values)))
    return [set(sorted(order, key=lambda i: -values[i])[:top]) for order in orders]


def expected_recall(similarity, distance, top):
    """The mean overlap over all pairs of orders, of one query."""
    top = min(top, len(similarity))
    by_features, by_codes = nearest(similarity, top), nearest([-d for d in distance], top)
    overlap = [len(a & b) / top for a in by_features for b in by_codes]
    return float(np.mean(overlap))


def data(seed, queries=6, size=5, nbit=4):
    """Features whose cosines are exact and often tied, and codes of few bits."""
    rng = np.random.default_rng(seed)
    features = rng.choice([-3.0, 3.0], (queries + size, 4))
    features[[0, -1]] = 0
    codes = rng.normal(size=(queries + size, nbit))
    return features[:queries], features[queries:], codes[:queries], codes[queries:]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("top", [1, 2, 10])
def test_recall_is_the_mean_over_all_orders_of_tied_items(seed, top):
    q, d, zq, zd = data(seed)
    result = feature_agreement(q, d, zq, zd, top=top)
    each = [
        expected_recall([cosine(a, b) for b in d], [hamming(x, y) for y in zd], top)
        for a, x in zip(q, zq, strict=True)
    ]
    assert result.recall == pytest.approx(np.mean(each), abs=1e-9)
    assert (result.top, result.queries, result.database) == (top, 6, 5)


@pytest.mark.parametrize("seed", range(4))
def test_the_rank_correlation_is_that_of_all_pairs(seed):
    q, d, zq, zd = data(seed, queries=20, size=30, nbit=12)
    result = feature_agreement(q, d, zq, zd)
    similarity = [cosine(a, b) for a in q for b in d]
    distance = [hamming(a, b) for a in zq for b in zd]
    q32 = feature_agreement(q.astype(np.float32), d.astype(np.float32), zq, zd)
    wanted = spearmanr(similarity, -np.array(distance)).statistic
    assert result.spearman == pytest.approx(wanted, abs=1e-9)
    assert q32.spearman == pytest.approx(wanted, abs=1e-9)
    assert (result.pairs, result.seed) == (600, None)


def test_without_ties_among_features_it_is_exact():
    rng = np.random.default_rng(0)
    q, d = rng.normal(size=(20, 7)), rng.normal(size=(40, 7))
    zq, zd = q @ np.eye(7, 16) + 0.1, d @ np.eye(7, 16) + 0.1
    result = feature_agreement(q, d, zq, zd)
    similarity = [cosine(a, b) for a in q for b in d]
    distance = np.array([hamming(a, b) for a in zq for b in zd])
    assert result.spearman == pytest.approx(spearmanr(similarity, -distance).statistic, abs=1e-12)
    assert 0.5 < result.spearman < 1
    recall = []
    for a, x in zip(q, zq, strict=True):
        ten = set(np.argsort([-cosine(a, b) for b in d])[:10])
        far = np.array([hamming(x, y) for y in zd])
        radius = np.sort(far)[9]
        inside, tied = set(np.flatnonzero(far < radius)), set(np.flatnonzero(far == radius))
        share = (10 - len(inside)) / len(tied)
        recall.append((len(ten & inside) + share * len(ten & tied)) / 10)
    assert result.recall == pytest.approx(np.mean(recall), abs=1e-12)


def test_blocks_and_formats_do_not_matter(monkeypatch):
    rng = np.random.default_rng(1)
    q, d = rng.normal(size=(30, 5)), rng.normal(size=(70, 5))
    zq, zd = q[:, :4], d[:, :4]
    whole = feature_agreement(q, d, zq, zd, pairs=500, seed=3)
    monkeypatch.setattr(agreement, "_ITEMS", 9)
    monkeypatch.setattr(agreement, "_QUERIES", 4)
    parts = feature_agreement(q, d, zq, zd, pairs=500, seed=3)
    assert parts.recall == pytest.approx(whole.recall, abs=1e-12)
    assert parts.spearman == pytest.approx(whole.spearman, abs=1e-12)
    assert (parts.pairs, parts.seed) == (500, 3)
    scaled = feature_agreement(1e200 * q, d, torch.from_numpy(zq), torch.from_numpy(zd))
    assert scaled.recall == pytest.approx(whole.recall, abs=1e-12)


def test_a_sample_of_pairs_is_near_all_of_them():
    rng = np.random.default_rng(2)
    features = rng.normal(size=(300, 6))
    z = features @ rng.normal(size=(6, 16))
    every = feature_agreement(features[:100], features[100:], z[:100], z[100:])
    sampled = feature_agreement(features[:100], features[100:], z[:100], z[100:], pairs=5000)
    other = feature_agreement(features[:100], features[100:], z[:100], z[100:], pairs=5000, seed=1)
    assert every.seed is None and sampled.pairs == 5000
    assert sampled.spearman != other.spearman
    assert sampled.spearman == pytest.approx(every.spearman, abs=0.03)
    assert sampled.recall == every.recall  # of all items, whatever the pairs


def test_a_query_is_not_compared_with_itself():
    rng = np.random.default_rng(3)
    d = rng.normal(size=(12, 4))
    z = d @ rng.normal(size=(4, 8))
    own = np.array([0, 5, -1])
    q, zq = np.concatenate([d[[0, 5]], rng.normal(size=(1, 4))]), np.concatenate([z[[0, 5]], z[:1]])
    result = feature_agreement(q, d, zq, z, own=own, top=3)
    assert result.pairs == 3 * 12 - 2
    each, pairs = [], []
    for number, place in enumerate(own):
        others = [i for i in range(12) if i != place]
        similarity = np.array([cosine(q[number], d[i]) for i in others])
        distance = np.array([hamming(zq[number], z[i]) for i in others])
        three = np.argsort(-similarity)[:3]
        radius = np.sort(distance)[2]
        share = (3 - (distance < radius).sum()) / (distance == radius).sum()
        near = np.where(distance == radius, share, distance < radius)
        each.append(near[three].sum() / 3)
        pairs += zip(similarity, -distance, strict=True)
    assert result.recall == pytest.approx(np.mean(each), abs=1e-12)
    assert result.spearman == pytest.approx(
        spearmanr(*zip(*pairs, strict=True)).statistic, abs=1e-9
    )


def test_the_same_order_gives_one_and_the_opposite_less():
    z = np.where(np.tri(9, 8, -1), 1.0, -1.0)  # 0 to 8 bits from the first
    q, d, zq, zd = z[:1], z[1:], z[:1], z[1:]
    result = feature_agreement(q, d, zq, zd, top=3)
    assert result.recall == 1 and result.spearman == pytest.approx(1)
    turned = feature_agreement(q, d, zq, zd[::-1], top=3)
    assert turned.recall == 0 and turned.spearman == pytest.approx(-1)


def test_constant_features_or_codes_have_no_rank_correlation():
    q, d = np.ones((3, 2)), np.ones((40, 2))
    z = np.random.default_rng(0).normal(size=(43, 8))
    result = feature_agreement(q, d, z[:3], z[3:])
    assert result.spearman is None and result.recall == pytest.approx(0.25)  # 10 of 40 by chance
    zero = feature_agreement(0 * q, 0 * d, z[:3], z[3:])
    assert zero.spearman is None and zero.recall == pytest.approx(0.25)
    same = np.ones((43, 8), dtype=bool)
    features = np.random.default_rng(1).normal(size=(43, 5))
    result = feature_agreement(features[:3], features[3:], same[:3], same[3:])
    assert result.spearman is None and result.recall == pytest.approx(0.25)


def test_ternary_codes_and_memory_maps(tmp_path):
    rng = np.random.default_rng(4)
    d = rng.normal(size=(50, 4)).astype(np.float32)
    np.save(tmp_path / "d.npy", d)
    mapped = np.load(tmp_path / "d.npy", mmap_mode="r")
    neighbours = FeatureNeighbours(mapped[:5], mapped, own=np.arange(5))
    ranking = rank_codes(d[:5], d, None, None, ternary=0.4, own=np.arange(5))
    assert 0 < neighbours.agreement(ranking).recall < 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"query_features": np.ones((3, 4))}, r"\(3, 4\) and \(9, 2\)"),
        ({"query_features": np.ones(3)}, r"\(3,\)"),
        ({"query_features": np.ones((0, 2)), "query_codes": np.ones((1, 8), bool)}, "no queries"),
        ({"database_features": np.full((9, 2), np.nan)}, "NaN or infinite"),
        ({"query_features": np.full((3, 2), "a")}, "must be numbers"),
        ({"top": 0}, "top=0"),
        ({"pairs": True}, "pairs=True"),
        ({"own": np.array([0, 1, 9])}, "indices 0 to 8"),
        ({"database_features": np.ones((8, 2))}, "of 3 queries and 8 items"),
    ],
)
def test_what_cannot_be_compared_is_refused(change, message):
    rng = np.random.default_rng(0)
    options = {
        "query_features": rng.normal(size=(3, 2)),
        "database_features": rng.normal(size=(9, 2)),
        "query_codes": rng.normal(size=(3, 8)),
        "database_codes": rng.normal(size=(9, 8)),
    } | change
    with pytest.raises(DataError, match=message):
        feature_agreement(**options)
