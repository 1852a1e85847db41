"""Protocols, their rules for validation, fingerprints and facts."""

import dataclasses
import hashlib
import json

import numpy as np
import pytest

from deephash.data.catalogue import ImageSet, one_hot
from deephash.data.splits.protocols import (
    ROLES,
    Listed,
    Official,
    PerClass,
    Split,
    describe_split,
    fingerprint,
)
from deephash.errors import DataError


def images_of(targets, classes, official=None, labels=None):
    count = len(targets)
    return ImageSet(
        inputs=np.zeros((count, 3, 1, 1), np.uint8),
        labels=one_hot(np.asarray(targets), classes) if labels is None else labels,
        ids=tuple(f"item/{row:05d}" for row in range(count)),
        classes=tuple(f"class{index}" for index in range(classes)),
        official_query=official,
    )


@pytest.fixture(scope="module")
def sixty_thousand():
    """Shaped like CIFAR-10: 5,000 and then 1,000 of each class, in no order."""
    order = np.random.default_rng(7)
    train = order.permutation(np.repeat(np.arange(10), 5000))
    test = order.permutation(np.repeat(np.arange(10), 1000))
    official = np.arange(60000) >= 50000
    return images_of(np.concatenate([train, test]), 10, official)


def small(per_class=12, classes=3, official=4):
    """Class after class is dealt in turn; the last `official` of each are the test part."""
    targets = np.tile(np.arange(classes), per_class)
    return images_of(targets, classes, np.arange(len(targets)) >= (per_class - official) * classes)


def counts(images, rows):
    return images.labels[rows].sum(axis=0).tolist()


@pytest.mark.parametrize(("num_queries", "num_train"), [(100, 500), (1000, 5000)])
def test_the_published_construction(sixty_thousand, num_queries, num_train):
    """The recipe as a naive loop over the global generator, seeded by 420."""
    targets = sixty_thousand.labels.argmax(axis=1).tolist()
    state = np.random.get_state()
    np.random.seed(420)
    query, database, train = [], [], []
    for wanted in range(10):
        rows = [row for row, target in enumerate(targets) if target == wanted]
        np.random.shuffle(rows)
        query += rows[:num_queries]
        database += rows[num_queries:]
        train += rows[num_queries : num_queries + num_train]
    np.random.set_state(state)
    split = PerClass(num_queries, None if num_train == 5000 else num_train, seed=420).split(
        sixty_thousand
    )
    assert split.queries.tolist() == query
    assert split.database.tolist() == database
    assert split.train.tolist() == train


@pytest.mark.parametrize(
    ("protocol", "sizes"),
    [
        (PerClass(100, 500), (5000, 59000, 1000)),
        (PerClass(100, 500, train_in_database=False), (5000, 54000, 1000)),
        (PerClass(1000, None), (50000, 50000, 10000)),
        (PerClass(1000, 500), (5000, 50000, 10000)),
        (Official(None), (50000, 50000, 10000)),
        (Official(500), (5000, 50000, 10000)),
    ],
)
def test_sizes_balance_and_roles(sixty_thousand, protocol, sizes):
    split = protocol.split(sixty_thousand)
    assert (len(split.train), len(split.database), len(split.queries)) == sizes
    for rows in (split.train, split.database, split.queries):
        assert rows.dtype == np.int64
        assert len(np.unique(rows)) == len(rows)
        assert counts(sixty_thousand, rows) == [len(rows) // 10] * 10
    assert not np.isin(split.queries, split.database).any()
    assert not np.isin(split.queries, split.train).any()
    everything = np.concatenate([split.train, split.database, split.queries])
    assert len(np.unique(everything)) == 60000
    inside = np.isin(split.train, split.database)
    assert inside.all() if sizes[1] != 54000 else not inside.any()


def test_official_parts_keep_their_place():
    images = small()
    split = Official(3, seed=5).split(images)
    assert images.official_query[split.queries].all()
    assert not images.official_query[split.database].any()
    assert split.database[:3].tolist() == [0, 3, 6]  # class after class, increasing


@pytest.mark.parametrize("protocol", [PerClass(2, 4, validation=3), Official(4, validation=3)])
def test_validation_comes_from_the_rest_of_the_database(protocol):
    images = small()
    split = protocol.split(images)
    assert counts(images, split.validation) == [3, 3, 3]
    assert np.isin(split.validation, split.database).all()
    assert not np.isin(split.validation, split.train).any()
    assert len(split.train) == 12
    assert len(split.validation_database) == len(split.database) - 9
    assert not np.isin(split.validation, split.validation_database).any()


@pytest.mark.parametrize(
    "protocol",
    [
        PerClass(2, None, validation=3),
        PerClass(2, 10, validation=3),
        Official(None, validation=3),
        Official(8, validation=3),
    ],
)
def test_validation_leaves_a_train_that_is_the_database(protocol):
    images = small()
    split = protocol.split(images)
    assert counts(images, split.validation) == [3, 3, 3]
    assert not np.isin(split.validation, split.train).any()
    assert sorted([*split.train, *split.validation]) == sorted(split.database)
    assert sorted(split.validation_database) == sorted(split.train)


def test_validation_is_carved_from_a_train_outside_the_database():
    images = small()
    without = PerClass(2, 4, train_in_database=False).split(images)
    split = PerClass(2, 4, train_in_database=False, validation=1).split(images)
    assert counts(images, split.validation) == [1, 1, 1]
    assert sorted([*split.train, *split.validation]) == sorted(without.train)
    assert split.validation_database.tolist() == split.database.tolist()
    assert split.database.tolist() == without.database.tolist()


def test_validation_moves_no_other_role():
    images = small()
    without, split = PerClass(2, 4).split(images), PerClass(2, 4, validation=3).split(images)
    for role in ("train", "database", "queries"):
        assert getattr(without, role).tolist() == getattr(split, role).tolist()
    assert len(without.validation) == 0


@pytest.mark.parametrize(
    "make", [lambda seed: PerClass(2, 4, seed=seed), lambda seed: Official(4, seed=seed)]
)
def test_a_seed_is_a_split(make):
    images = small()
    prints = [fingerprint(images, make(seed).split(images)) for seed in (0, 0, 1)]
    assert prints[0] == prints[1] != prints[2]
    assert len(prints[0]) == 64


def test_what_a_fingerprint_sees():
    images = small()
    split = PerClass(2, 4, validation=1).split(images)
    first = fingerprint(images, split)
    for role in ROLES:
        turned = dataclasses.replace(split, **{role: getattr(split, role)[::-1]})
        assert (fingerprint(images, turned) != first) == (role != "validation")
    row = split.database[0]
    ids = list(images.ids)
    ids[row] = "other"
    assert fingerprint(dataclasses.replace(images, ids=tuple(ids)), split) != first
    labels = images.labels.toarray()
    labels[row] = np.roll(labels[row], 1)
    assert fingerprint(dataclasses.replace(images, labels=labels), split) != first


def test_a_fingerprint_is_of_rows_packed_bit_by_bit():
    """As numpy packs dense rows, of any width, several labels and none among them."""
    labels = np.random.default_rng(0).random((50, 21)) < 0.1
    images = images_of(np.zeros(50, int), 21, labels=labels)
    split = Split(*(np.array(rows) for rows in (range(20, 50), range(10, 50), range(10), [])))
    digest = hashlib.sha256()
    for role in ("train", "database", "queries"):
        rows = getattr(split, role)
        digest.update(json.dumps([role, [images.ids[row] for row in rows]]).encode())
        digest.update(json.dumps([len(rows), 21]).encode())
        digest.update(np.packbits(labels[rows], axis=1).tobytes())
    assert fingerprint(images, split) == digest.hexdigest()


def test_what_a_fingerprint_does_not_see():
    images = small()
    split = PerClass(2, 4).split(images)
    other = dataclasses.replace(
        images, inputs=images.inputs + 1, classes=("a", "b", "c"), skipped=("gone",)
    )
    assert fingerprint(other, split) == fingerprint(images, split)


def test_facts():
    images = dataclasses.replace(small(), skipped=("item/x",))
    split = PerClass(2, 4, validation=1, seed=9).split(images)
    facts = describe_split(images, split, "toy", "own", 9)
    result = json.loads(json.dumps(facts.as_dict()))
    assert result["num_train"] == 12 and result["num_database"] == 30 and result["num_queries"] == 6
    assert (
        result["num_validation"] == 3 and result["num_classes"] == 3 and result["split_seed"] == 9
    )
    assert result["per_class"]["train"] == {"min": 4, "max": 4}
    assert result["overlaps"] == {"train_queries": 0, "queries_database": 0, "train_database": 12}
    assert result["skipped"] == ["item/x"] and result["num_skipped"] == 1
    assert result["fingerprint"] == fingerprint(images, split) and result["multilabel"] is False


def test_facts_without_validation():
    images = small()
    facts = describe_split(images, PerClass(2, 4).split(images), "toy", "own", 0)
    assert facts.per_class["validation"] == {"min": 0, "max": 0}


@pytest.mark.parametrize(
    ("protocol", "message"),
    [
        (PerClass(12, 1), r"class 'class0' has 12 images.*needs 13.*queries"),
        (PerClass(2, 11), r"has 12 images.*needs 13 \(2 queries \+ 11 training.*train"),
        (PerClass(2, 10, train_in_database=False), r"at least 1 to search.*train"),
        (PerClass(12, None), r"12 queries \+ at least 1 to search.*queries"),
        (PerClass(2, 4, validation=7), r"6 images.*7 validation items.*validation"),
        (PerClass(2, None, validation=10), r"at least 1 to train.*validation"),
        (Official(9), r"has 8 images.*needs 9.*train"),
    ],
)
def test_too_few_images_name_the_class_and_the_key(protocol, message):
    with pytest.raises(DataError, match=message):
        protocol.split(small())


@pytest.mark.parametrize("protocol", [PerClass(1, 1), Official(1)])
def test_several_labels_are_refused(protocol):
    labels = np.ones((4, 2), bool)
    images = images_of([0] * 4, 2, np.array([0, 0, 1, 1], bool), labels)
    with pytest.raises(DataError, match="needs single-label data"):
        protocol.split(images)


def test_official_needs_a_test_part():
    with pytest.raises(DataError, match="no official test part"):
        Official(None).split(images_of([0, 1], 2))


@pytest.mark.parametrize(
    "make",
    [
        lambda: PerClass(0, 1),
        lambda: PerClass(1, 0),
        lambda: PerClass(1, None, train_in_database=False),
        lambda: Official(1, validation=-1),
    ],
)
def test_invalid_counts_are_refused(make):
    with pytest.raises(DataError, match=r"dataset\.protocol"):
        make()


def test_validation_database_keeps_the_order():
    split = Split(*(np.array(rows) for rows in ([5], [4, 2, 9, 7], [1], [2, 7])))
    assert split.validation_database.tolist() == [4, 9]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ids": ("a", "a", "b")}, "same id: a"),
        ({"ids": ("a", "b")}, r"labels must be \(2, 2\)"),
        ({"labels": np.zeros((3, 2))}, "labels must be"),
        ({"inputs": np.zeros((3, 1, 2, 2), np.uint8)}, "inputs must be"),
        ({"official_query": np.zeros(2, bool)}, "official_query must be"),
    ],
)
def test_an_image_set_whose_parts_do_not_fit(change, message):
    with pytest.raises(DataError, match=message):
        dataclasses.replace(images_of([0, 1, 1], 2), **change)


# queries that the database's list names too


def shared_lists():
    """Ten images; 0 and 1 are queries, 2 and 3 train; the database has all but 9, reordered."""
    lists = {"train": [2, 3], "queries": [0, 1], "database": [5, 1, 2, 3, 4, 0, 6, 7, 8]}
    rows = {role: np.array(rows) for role, rows in lists.items()}
    return dataclasses.replace(images_of([0, 1] * 5, 2), lists=rows)


def test_what_becomes_of_queries_in_the_database():
    images = shared_lists()
    with pytest.raises(DataError, match=r"0 queries are in train and 2 in .*queries_in_database"):
        Listed().split(images)
    splits = {
        choice: Listed(queries_in_database=choice).split(images)
        for choice in ("keep", "exclude_self", "remove")
    }
    assert splits["keep"].own is None and splits["remove"].own is None
    assert splits["exclude_self"].own.tolist() == [5, 1]
    assert splits["keep"].database.tolist() == splits["exclude_self"].database.tolist()
    assert splits["remove"].database.tolist() == [5, 2, 3, 4, 6, 7, 8]
    assert len({fingerprint(images, split) for split in splits.values()}) == 3
    with pytest.raises(DataError, match=r"queries_in_database=some is unknown: refuse, keep"):
        Listed(queries_in_database="some")


def test_without_a_training_list_nothing_trains():
    images = shared_lists()
    lists = {role: rows for role, rows in images.lists.items() if role != "train"}
    split = Listed(queries_in_database="remove", validation=1).split(
        dataclasses.replace(images, lists=lists)
    )
    assert len(split.train) == len(split.validation) == 0 and len(split.database) == 7
