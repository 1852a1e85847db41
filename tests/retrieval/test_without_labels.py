"""Codes without labels: what is measured, by its definition, and what is None."""

import json

import numpy as np
import pytest

from deephash.errors import DataError
from deephash.retrieval import (
    NO_LABELS,
    Convention,
    UndefinedError,
    binarize,
    describe_codes,
    distance_histograms,
    evaluate_codes,
    pack,
    pair_distances,
    rank_codes,
)

RNG = np.random.default_rng(7)
QUERY, DATABASE = RNG.normal(size=(9, 12)), RNG.normal(size=(40, 12))
LABELS = RNG.integers(0, 3, 9), RNG.integers(0, 3, 40)


def distances(a, b):
    """(n, m) Hamming distances, by definition."""
    return (binarize(a)[:, None] != binarize(b)[None]).sum(axis=2)


def numbers(values):
    return [value for value in values.values() if not isinstance(value, dict)]


def test_a_report_has_the_keys_of_a_labelled_one_and_the_reason_for_none():
    options = {"tops": [5], "convention": Convention(top=10)}
    labelled = evaluate_codes(QUERY, DATABASE, *LABELS, **options)
    bare = evaluate_codes(QUERY, DATABASE, None, None, **options)
    assert set(labelled) | {"note", "distances"} == set(bare)
    assert set(labelled["codes"]) | {"distances"} == set(bare["codes"])
    assert bare["note"] == NO_LABELS
    assert bare["map"] is None and bare["map_at"] == {"5": None}
    assert bare["ties"] == dict.fromkeys(labelled["ties"])
    text = json.dumps(bare, allow_nan=False)
    assert json.loads(text) == bare
    same = ("queries", "database", "nbit")
    assert {key: bare[key] for key in same} == {key: labelled[key] for key in same}
    key = "precision_within_radius_2"
    assert bare[key]["empty_fraction"] == labelled[key]["empty_fraction"]
    assert bare[key]["mean_zero"] is None and bare[key]["mean_nonempty"] is None
    for key in ("quantization", "bit_correlation", "bits"):  # these read no labels at all
        assert bare["codes"][key] == labelled["codes"][key]
    assert bare["conventions"]["metric"] == "mAP@10"
    assert bare["conventions"]["relevance"] != labelled["conventions"]["relevance"]


def test_distances_are_those_of_all_queries_and_items():
    result, between = evaluate_codes(QUERY, DATABASE, None, None), distances(QUERY, DATABASE)
    counts = np.bincount(between.ravel(), minlength=13)
    assert result["distances"]["distance"] == list(range(13))
    assert np.allclose(result["distances"]["share"], counts / counts.sum())
    assert result["distances"]["mean"] == pytest.approx(between.mean())
    assert result["distances"]["mean_nearest"] == pytest.approx(between.min(axis=1).mean())
    inside = (between <= 2).sum(axis=1)
    assert result["distances"]["mean_within_radius_2"] == pytest.approx(inside.mean())
    empty = result["precision_within_radius_2"]["empty_fraction"]
    assert empty == pytest.approx((inside == 0).mean())


def test_a_query_is_left_out_of_its_own_neighbours():
    own = np.array([3, -1])
    queries = np.stack([DATABASE[3], QUERY[0]])
    result = evaluate_codes(queries, DATABASE, None, None, own=own)
    between = distances(queries, DATABASE)
    first = np.delete(between[0], 3)
    assert result["distances"]["mean_nearest"] == (first.min() + between[1].min()) / 2
    assert result["queries_in_database"] == 1 and result["conventions"]["own"] == "excluded"


def test_ternary_distances_are_in_half_bits():
    result = evaluate_codes(QUERY, DATABASE, None, None, ternary=0.4)
    query, database = (np.sign(z) * (np.abs(z) >= 0.4) for z in (QUERY, DATABASE))
    between = (12 - query @ database.T) / 2
    assert result["distances"]["distance"][:3] == [0.0, 0.5, 1.0] and result["nbit"] == 12
    assert result["distances"]["mean"] == pytest.approx(between.mean())
    assert result["distances"]["mean_nearest"] == pytest.approx(between.min(axis=1).mean())


@pytest.mark.parametrize("engine", ["numpy", "torch"])
def test_packed_codes_and_every_backend_give_the_same(engine):
    bits = [binarize(z) for z in (QUERY, DATABASE)]
    packed = evaluate_codes(*map(pack, bits), None, None, nbit=12, engine=engine)
    assert packed == evaluate_codes(*bits, None, None)
    assert packed["codes"]["quantization"] is None


def test_a_short_report_and_a_ranking():
    assert evaluate_codes(QUERY, DATABASE, None, None, full=False) == {"map": None, "map_min": None}
    ranking = rank_codes(QUERY, DATABASE, None, None)
    assert not ranking.counts[1].any() and ranking.counts[0].sum() == 9 * 40


def test_labels_of_one_side_alone_are_refused():
    for labels in ((None, LABELS[1]), (LABELS[0], None)):
        with pytest.raises(DataError, match="only one side has labels"):
            evaluate_codes(QUERY, DATABASE, *labels)


class TestPairDistances:
    def test_every_pair_by_definition(self):
        result = pair_distances(binarize(DATABASE))
        between = distances(DATABASE, DATABASE)[np.triu_indices(40, 1)]
        assert np.allclose(result.share, np.bincount(between, minlength=13) / len(between))
        assert result.mean == pytest.approx(between.mean())
        assert (result.pairs, result.seed) == (40 * 39 // 2, None)

    def test_it_is_the_sum_of_similar_and_dissimilar_pairs(self):
        bits = binarize(DATABASE)
        apart = distance_histograms(bits, LABELS[1])
        both = apart.intra * apart.intra_pairs + apart.inter * apart.inter_pairs
        result = pair_distances(bits)
        assert np.allclose(result.share * result.pairs, both)

    def test_more_items_than_one_block_are_counted_once(self):
        many = RNG.random((4200, 8)) < 0.5
        result = pair_distances(many)
        assert result.pairs == 4200 * 4199 // 2
        assert result.share @ np.arange(9) == pytest.approx(result.mean)

    def test_a_sample_is_seeded_and_near_the_mean_which_is_exact(self):
        bits = binarize(DATABASE)
        exact = pair_distances(bits)
        sampled = [pair_distances(bits, exact_up_to=10, sample=20_000, seed=s) for s in (1, 1, 2)]
        assert (sampled[0].share == sampled[1].share).all() and (
            sampled[0].share != sampled[2].share
        ).any()
        assert sampled[0].mean == exact.mean and sampled[0].pairs == 20_000 and sampled[0].seed == 1
        assert sampled[0].share @ np.arange(13) == pytest.approx(exact.mean, abs=0.1)

    def test_one_code_makes_no_pair(self):
        with pytest.raises(UndefinedError, match="no pair"):
            pair_distances(np.ones((1, 4), bool))
        assert describe_codes(np.ones((1, 4)), None)["distances"] is None

    def test_options_are_checked(self):
        with pytest.raises(DataError, match="sample=0 must be a whole number"):
            pair_distances(np.ones((3, 4), bool), sample=0)
