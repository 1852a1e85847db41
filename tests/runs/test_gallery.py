"""What is shown beside the numbers: which queries, which images, which codes."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array

from deephash.config import schema
from deephash.errors import ConfigError
from deephash.retrieval import Convention, average_precision
from deephash.runs import gallery
from deephash.training.evaluation import Codes, Evaluation
from deephash.utils.files import write_arrays

SIZE, QUERIES = 60, 12


@pytest.fixture
def data():
    """Images whose first pixel is their row, of three classes; the last query has none of them."""
    rng = np.random.default_rng(0)
    labels = np.eye(4, dtype=bool)[rng.integers(0, 3, SIZE)]
    labels[QUERIES - 1] = [False, False, False, True]
    pixels = np.zeros((SIZE, 3, 5, 7), dtype=np.uint8)
    pixels[:, 0, 0, 0] = np.arange(SIZE)
    images = SimpleNamespace(
        inputs=pixels,
        labels=csr_array(labels),
        classes=("ant", "bee", "cow", "dog"),
        ids=tuple(f"{row}.jpg" for row in range(SIZE)),
        multilabel=False,
    )
    split = SimpleNamespace(own=None, queries=np.arange(QUERIES), database=np.arange(QUERIES, SIZE))
    return SimpleNamespace(
        images=images, split=split, labels=lambda ids: torch.from_numpy(labels[ids]).float()
    )


@pytest.fixture
def codes():
    z = torch.from_numpy(np.random.default_rng(1).normal(size=(SIZE, 6)).astype(np.float32))
    return Codes(np.arange(SIZE), z, 1.0)


def shown(data, codes, queries="spread", rows=5, top=10, ternary=None):
    evaluation = Evaluation(Convention(), None, ternary)
    return gallery.nearest_images(
        evaluation, codes, data, schema.Gallery(queries=queries, rows=rows, top=top)
    )


def query_of(row):
    return int(row.title.split(":")[0].removeprefix("query "))


def test_the_nearest_images_are_shown_with_their_distance_and_whether_they_are_right(data, codes):
    (row,) = shown(data, codes, [3])
    bits = codes.z.numpy() >= 0
    distance = (bits[3] != bits[QUERIES:]).sum(axis=1)
    order = np.array([image[0, 0, 0] for image in row.images]) - QUERIES
    assert distance[order].tolist() == np.sort(distance)[:10].tolist() and len(set(order)) == 10
    assert row.query[0, 0, 0] == 3 and row.query.shape == (5, 7, 3)
    classes = data.images.labels.argmax(axis=1)
    assert row.right == (classes[order + QUERIES] == classes[3]).tolist()
    names = [data.images.classes[c] for c in classes[order + QUERIES]]
    distances = [f"{d} bit" if d == 1 else f"{d} bits" for d in distance[order]]
    assert row.captions == [f"{n}, {d}" for n, d in zip(names, distances, strict=True)]


def test_equally_near_images_are_not_shown_in_the_order_of_the_database(data):
    alike = Codes(np.arange(SIZE), torch.ones(SIZE, 6), 1.0)
    (row,) = shown(data, alike, [3])
    rows = [int(image[0, 0, 0]) for image in row.images]
    assert rows != sorted(rows)
    assert [image[0, 0, 0] for image in shown(data, alike, [3])[0].images] == rows


def test_undecided_bits_count_half(data, codes):
    (row,) = shown(data, codes, [3], top=4, ternary=0.5)
    z = np.where(np.abs(codes.z.numpy()) < 0.5, 0, np.sign(codes.z.numpy()))
    distance = np.sort((6 - z[QUERIES:] @ z[3]) / 2)[:4]
    assert [float(text.split()[-2]) for text in row.captions] == distance.tolist()


def test_queries_are_chosen_by_how_hard_they_are(data, codes):
    ranking = Evaluation(Convention(), None).rank(
        codes, data, data.split.queries, data.split.database
    )
    precision = average_precision(ranking, Convention())[: QUERIES - 1]  # the last has no answer
    for queries, expected in (
        ("easiest", np.argsort(-precision)[:4]),
        ("hardest", np.argsort(precision)[:4]),
    ):
        result = [query_of(row) for row in shown(data, codes, queries, rows=4)]
        assert precision[result].tolist() == precision[expected].tolist()
    spread = [precision[query_of(row)] for row in shown(data, codes, "spread", rows=4)]
    assert spread == sorted(spread, reverse=True)
    assert (spread[0], spread[-1]) == (precision.max(), precision.min())
    assert len(shown(data, codes, rows=100)) == QUERIES - 1
    assert shown(data, codes, rows=0) == []


def test_there_is_a_gallery_of_each_kind_and_the_selected_one_is_first(data, codes):
    evaluation, options = Evaluation(Convention(), None), schema.Gallery(queries="easiest", rows=2)
    shown_ = gallery.galleries(evaluation, codes, data, options)
    assert list(shown_) == ["easiest", "hardest", "spread"]
    assert all(len(queries) == 2 for queries in shown_.values())
    options = schema.Gallery(queries=[3, 1])
    assert next(iter(gallery.galleries(evaluation, codes, data, options))) == "selected"
    (row, _) = gallery.galleries(evaluation, codes, data, options)["selected"]
    rows = [int(image[0, 0, 0]) for image in (row.query, *row.images)]
    assert row.names == [f"{at}.jpg" for at in rows]


def test_results_by_class_name_the_classes(data, codes):
    result = gallery.results_by_class(Evaluation(Convention(), None), codes, data)
    assert (result["depth"], result["compared"]) == (SIZE - QUERIES, QUERIES)
    assert {row["name"] for row in result["classes"]} <= set(data.images.classes)
    assert sum(row["queries"] for row in result["classes"]) == QUERIES
    last = next(row for row in result["classes"] if row["name"] == "dog")
    assert last["map"] == 0 and last["own"] == 0 and sum(last["others"].values()) == 1


def test_a_query_that_is_not_there():
    with pytest.raises(ConfigError, match="there is no query 12: there are 12, from 0 on"):
        gallery.check_queries([0, 12], 12)
    for fine in ([0, 11], [], "hardest"):
        gallery.check_queries(fine, 12)


def test_the_plane_holds_database_images_alone(data, codes):
    result = gallery.plane(codes, data, 40)
    assert result.points.shape == (40, 2) and np.isfinite(result.points).all()
    assert "40 database images" in result.what and "first label" not in result.what
    again = gallery.plane(codes, data, 40)
    np.testing.assert_array_equal(result.points, again.points)


def test_too_few_codes_and_equal_ones_make_no_plane(data, codes):
    assert gallery.plane(codes, data, 0) is None
    assert gallery.plane(codes, data, 5) is None
    assert gallery.plane(Codes(codes.ids, torch.ones(SIZE, 6), 1.0), data, 40) is None


def test_snapshots_of_two_or_three_bits_alone(tmp_path):
    for epoch, bits in ((0, 2), (3, 3), (6, 16)):
        labels = np.array([[True, False], [False, False]])
        arrays = {
            "epoch": np.array(epoch),
            "z": np.ones((2, bits)),
            "labels": labels,
            "ids": np.array(["a", "b"]),
        }
        (tmp_path / "snapshots").mkdir(exist_ok=True)
        write_arrays(tmp_path / "snapshots" / f"epoch{epoch:04d}.npz", arrays)
    result = gallery.snapshots(tmp_path)
    assert [(plane.epoch, plane.z.shape[1], plane.centers) for plane in result] == [
        (0, 2, None),
        (3, 3, None),
    ]
    assert result[0].classes.tolist() == [0, -1]
    assert gallery.snapshots(tmp_path / "nowhere") == []
