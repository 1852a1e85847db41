import numpy as np
import pytest

from deephash.errors import DataError
from deephash.retrieval import NAMED, Convention, Ranking, mean_average_precision, pack


def as_they_do(name, order, database_labels, query_labels, top):
    """mAP as the families' code has it, in plain loops over the ranked labels of each query."""
    values = []
    for query, ranked in zip(query_labels, order, strict=True):
        relevance = [bool((query & database_labels[n]).any()) for n in ranked]
        first = relevance[:top] if top is not None else relevance
        if top is None and name in ("deephash-pytorch", "dhn"):
            first = relevance[0:-1]
        if name == "csq" and not query.any():
            continue
        if name == "hashnet-caffe" and not any(relevance):
            continue
        hits = sum(first)
        if hits == 0:
            if name != "hashnet":
                values.append(0.0)
            continue
        precisions = [sum(first[: k + 1]) / (k + 1) for k, good in enumerate(first) if good]
        by = {"gld-official": min(len(first), sum(relevance)), "gld-fire": sum(relevance)}
        values.append(sum(precisions) / by.get(name, hits))
    return np.mean(values)


@pytest.mark.parametrize("name", NAMED)
@pytest.mark.parametrize("top", [None, 1, 6])
def test_named_conventions_measure_what_the_families_do(name, top):
    rng = np.random.default_rng(5)
    query, database = rng.random((25, 7)) < 0.5, rng.random((40, 7)) < 0.5
    query_labels, database_labels = rng.random((25, 6)) < 0.15, rng.random((40, 6)) < 0.15
    database_labels[:, 5] = False  # so that some queries have a label, and nothing to find
    order = [np.argsort((bits != database).sum(axis=1), kind="stable") for bits in query]
    ranking = Ranking(pack(query), pack(database), query_labels, database_labels, 7)
    result = mean_average_precision(ranking, Convention.named(name, top=top))
    assert result.value == pytest.approx(
        as_they_do(name, order, database_labels, query_labels, top), abs=1e-13
    )
    assert 0 < (~query_labels.any(axis=1)).sum() < result.queries_without_relevant < 25


def test_the_names_differ_where_queries_are_empty():
    """Four queries, R = 1: one finds its item, one does not, one has nothing to find, one no label.

    The first scores 1. It is one of 4, of 1 that finds, of 2 that could, of 3 with a label.
    """
    codes = np.array([[0, 0], [1, 1], [0, 0], [0, 0]], dtype=bool)
    query_labels = np.array([[1, 0, 0], [1, 0, 0], [0, 0, 1], [0, 0, 0]])
    database = np.array([[0, 0], [1, 1]], dtype=bool)
    ranking = Ranking(
        pack(codes), pack(database), query_labels, np.array([[1, 0, 0], [0, 1, 0]]), 2
    )
    result = {
        name: mean_average_precision(ranking, Convention.named(name, top=1)).value
        for name in ("orthohash", "hashnet", "hashnet-caffe", "csq", "deephash-pytorch")
    }
    assert result == pytest.approx(
        {"orthohash": 1 / 4, "hashnet": 1, "hashnet-caffe": 1 / 2, "csq": 1 / 3}
        | {"deephash-pytorch": 1 / 4}
    )


def test_the_last_item_is_dropped_by_hand():
    """+ - + at distances 0, 1, 2: (1 + 2/3)/2 = 5/6, but without the last item 1."""
    database = np.array([[0, 0], [0, 1], [1, 1]], dtype=bool)
    query = pack(np.zeros((1, 2), bool))
    ranking = Ranking(query, pack(database), np.array([0]), np.array([0, 1, 0]), 2)

    def value(**fields):
        return mean_average_precision(ranking, Convention(**fields)).value

    assert value() == pytest.approx(5 / 6)
    for ties in ("expected", "stable", "best", "worst"):
        assert value(ties=ties, drop_last=True) == 1.0 == value(ties=ties, top=2)
    alone = Ranking(query, pack(database[:1]), np.array([0]), np.array([0]), 2)
    assert mean_average_precision(alone, Convention(drop_last=True)).value == 0
    assert Convention(drop_last=True).name == "mAP@all-1"
    assert Convention(drop_last=True).cut(17) == 16


def test_given_fields_go_before_the_name():
    assert Convention.named("hashnet", ties="best").ties == "best"
    assert Convention.named("deephash-pytorch").drop_last
    assert Convention.named("deephash-pytorch", top=5000) == Convention.named("orthohash", top=5000)
    assert Convention.named("deephash-pytorch", top=None).drop_last
    assert Convention.named("gld-official") == Convention(100, "stable", "min")
    assert Convention.named("gld-fire", top=10).cut(50) == 10
    assert {Convention.named(name, top=9).ties for name in NAMED} == {"stable"}


def test_what_means_nothing_is_refused():
    with pytest.raises(DataError, match="convention='hashnot' is unknown; allowed: orthohash"):
        Convention.named("hashnot")
    with pytest.raises(DataError, match="top=0"):
        Convention.named("csq", top=0)
    with pytest.raises(DataError, match="drop_last leaves out the last of all items, but top=5"):
        Convention(top=5, drop_last=True)
    with pytest.raises(DataError, match="depends on the order of ties"):
        Convention(empty="skip_retrieved_none", drop_last=True)
