"""Some classes of a dataset, as if there were no others."""

import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

from deephash.data.catalogue import ImageSet, one_hot, select_classes
from deephash.data.datamodule import DataModule
from deephash.data.sources.basic import Cifar, Digits, Folder
from deephash.data.splits.protocols import PerClass
from deephash.data.transforms import Pipeline
from deephash.errors import DataError


def made(names="abcd", count=40):
    """Images of the classes in turn, whose pixels are the row number."""
    rows = np.arange(count)
    return ImageSet(
        inputs=np.broadcast_to(rows.astype(np.uint8)[:, None, None, None], (count, 3, 2, 2)).copy(),
        labels=one_hot(rows % len(names), len(names)),
        ids=tuple(f"i{row:02d}" for row in rows),
        classes=tuple(names),
        skipped=("gone",),
        official_query=rows % 5 == 0,
    )


@dataclasses.dataclass
class Given:
    images: ImageSet

    def load(self):
        return self.images


def module(classes, images=None, **changes):
    data = DataModule(
        **{
            "name": "made",
            "source": Given(images or made()),
            "protocol_name": "own",
            "protocol": PerClass(queries=2, train=5, seed=3),
            "train_transform": Pipeline([]),
            "test_transform": Pipeline([]),
            "batch_size": 4,
            "classes": classes,
            **changes,
        }
    )
    data.setup("cpu")
    return data


@pytest.mark.parametrize("wanted", [[3, 1], ["d", "b"], [3, "b"]])
def test_what_is_left_is_numbered_in_the_order_given(wanted):
    result = select_classes(made(), wanted)
    rows = np.array([row for row in range(40) if row % 4 in (3, 1)])  # their order is kept
    assert result.classes == ("d", "b") and result.skipped == ("gone",)
    assert result.ids == tuple(f"i{row:02d}" for row in rows)
    assert result.inputs[:, 0, 0, 0].tolist() == rows.tolist()
    assert result.labels.toarray().tolist() == [[row % 4 == 3, row % 4 == 1] for row in rows]
    assert result.official_query.tolist() == (rows % 5 == 0).tolist()


def test_pixels_that_lie_together_are_not_copied():
    images = made()
    images = dataclasses.replace(images, labels=images.labels[np.argsort(np.arange(40) % 4)])
    assert np.shares_memory(select_classes(images, [2, 1]).inputs, images.inputs)
    assert not np.shares_memory(select_classes(images, [0, 2]).inputs, images.inputs)
    assert select_classes(images, [2, 1]).inputs[:, 0, 0, 0].tolist() == list(range(10, 30))


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ([0, 4], r"no class 4\. Give indices from 0 to 3, or names: a, b, c, d"),
        ([0, -1], r"no class -1"),
        (["a", "cat"], r"no class 'cat'"),
        ([0, "a"], r"names a twice"),
        (["b"], r"at least two"),
    ],
)
def test_classes_that_cannot_be_are_reported(wanted, message):
    with pytest.raises(DataError, match=message):
        select_classes(made(), wanted)


def test_a_number_that_is_also_a_class_name_is_ambiguous():
    """Sorted names are 0, 1, 10, 2: the index 2 is not the class 2."""
    images = made(("0", "1", "10", "2"))
    with pytest.raises(DataError, match=r"2 is a number, and the name of class 3.*\[\"2\""):
        select_classes(images, [0, 2])
    assert select_classes(images, [0, 1, "2"]).classes == ("0", "1", "2")
    with pytest.raises(DataError, match=r"2019 is a number, and the name of class 1"):
        select_classes(made(("2018", "2019")), [2019, 2018])


def test_images_with_several_labels_are_refused():
    images = made()
    labels = images.labels.toarray()
    labels[0] = True
    with pytest.raises(DataError, match=r"dataset\.classes needs images with one label"):
        select_classes(dataclasses.replace(images, labels=labels), [0, 1])


def test_a_run_contains_only_the_selected_classes():
    data = module([3, 1])
    facts = data.facts
    assert (facts.num_classes, facts.classes, len(data.images)) == (2, ("d", "b"), 20)
    assert (facts.num_queries, facts.num_train, facts.num_database) == (4, 10, 16)
    assert facts.per_class["train"] == {"min": 5, "max": 5}
    batch = next(data.train(0))
    rows = (batch.images[:, 0, 0, 0, 0] * 255).round().long()
    assert batch.labels.tolist() == [[row % 4 == 3, row % 4 == 1] for row in rows.tolist()]
    assert json.dumps(facts.as_dict())


def test_class_indices_are_part_of_the_fingerprint():
    every, named, same, turned, others = (
        module(classes).facts.fingerprint for classes in (None, ["b", "d"], [1, 3], [3, 1], [0, 1])
    )
    assert named == same
    assert len({every, named, turned, others}) == 4


def test_the_first_classes_are_split_as_within_the_whole():
    """The protocol draws class after class, so that the first ones are drawn alike."""
    whole, first = module(None), module([0, 1])
    for role in ("train", "database", "queries"):
        ids = [whole.images.ids[row] for row in getattr(whole.split, role)]
        kept = [name for name in ids if int(name[1:]) % 4 < 2]
        assert [first.images.ids[row] for row in getattr(first.split, role)] == kept


def test_what_is_expected_is_expected_of_all_classes():
    good = {"num_train": 20, "num_classes": 4, "num_database": 32}
    data = module([0, 1], expected=good)
    assert data.facts.num_train == 10
    for bad in ({"num_train": 10}, {"num_database": 31}):
        with pytest.raises(DataError, match=r"num_\w+ should be (10|31) and is (20|32)"):
            module([0, 1], expected=bad)


def test_a_class_too_small_for_the_protocol_can_be_left_out():
    images = made()
    keep = np.flatnonzero((np.arange(40) % 4 != 2) | (np.arange(40) < 4))  # one c
    few = dataclasses.replace(
        images,
        inputs=images.inputs[keep],
        labels=images.labels[keep],
        ids=tuple(images.ids[row] for row in keep),
        official_query=None,
    )
    with pytest.raises(DataError, match="class 'c' has 1 images"):
        module(None, few)
    assert module(["a", "b", "d"], few).facts.num_classes == 3


def test_digits():
    images = select_classes(Digits().load(), [3, 8])
    assert images.classes == ("3", "8") and len(images) == 183 + 174
    assert images.labels.sum(axis=0).tolist() == [183, 174]


@pytest.mark.parametrize("kind", ["folder", "cifar"])
def test_a_subset_reads_the_cache_of_the_whole(kind, tmp_path):
    root, cache = tmp_path / "images", tmp_path / "cache"
    names = [f"{letter}{kind}" for letter in "abcdefghij"]
    parts = ("train", "test") if kind == "cifar" else (".",)
    for index, name in enumerate(names):
        for part in parts:
            (root / part / name).mkdir(parents=True)
            Image.new("RGB", (32, 32), (index, 0, 0)).save(root / part / name / "1.png")
    source = (
        Cifar("cifar10", root, cache=cache)
        if kind == "cifar"
        else Folder(root, size=32, cache=cache)
    )
    whole = source.load()
    (entry,) = cache.iterdir()
    written = entry.stat().st_mtime_ns
    for wanted in ([7, 2], [names[7], names[2]]):
        subset = select_classes(source.load(), wanted)
        assert subset.labels.toarray()[:, 0].tolist() == (subset.inputs[:, 0, 0, 0] == 7).tolist()
        assert sorted(subset.inputs[:, 0, 0, 0].tolist()) == sorted([2, 7] * len(parts))
    assert list(cache.iterdir()) == [entry] and entry.stat().st_mtime_ns == written
    assert np.array_equal(source.load().inputs, whole.inputs)
