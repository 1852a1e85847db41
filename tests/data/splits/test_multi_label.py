"""Protocols of images with several labels, against the recipes as naive loops."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deephash.data.catalogue import Catalogue, one_hot
from deephash.data.splits.base import ROLES
from deephash.data.splits.multi_label import Drawn, Quota
from deephash.data.splits.protocols import Official, describe_split, fingerprint
from deephash.errors import DataError


def images_of(labels, official=None):
    labels = np.asarray(labels, bool)
    return Catalogue(
        ids=tuple(f"item/{row:06d}" for row in range(len(labels))),
        labels=labels,
        classes=tuple(f"class{column}" for column in range(labels.shape[1])),
        official_query=official,
    )


def random_labels(count, frequencies, seed=0, empty=0):
    """Draw classes with given frequencies; the first `empty` rows have no label, all others do."""
    rng = np.random.default_rng(seed)
    labels = rng.random((count, len(frequencies))) < frequencies
    none = ~labels.any(axis=1)
    labels[none, rng.integers(0, len(frequencies), none.sum())] = True
    labels[:empty] = False
    return labels


@pytest.fixture(scope="module")
def labelled_images():
    return images_of(random_labels(400, [0.5, 0.3, 0.2, 0.1], empty=20))


@pytest.fixture(scope="module")
def nuswide():
    """As many images as NUS-WIDE-21 has, about as frequent in its classes."""
    return images_of(random_labels(195_834, np.geomspace(0.38, 0.031, 21)))


def walked(labels, num_train, num_queries, seed):
    """The recipe of DeepHash-pytorch's list of NUS-WIDE-21, step by step."""
    state = np.random.get_state()
    np.random.seed(seed)
    order = np.random.permutation(len(labels))
    np.random.set_state(state)
    in_train = [0] * labels.shape[1]
    in_test = [0] * labels.shape[1]
    train, test, database = [], [], []
    for row in order:
        where = "database"
        for column in np.nonzero(labels[row])[0]:
            if in_train[column] < num_train:
                in_train[column] += 1
                where = "train"
                break
            if in_test[column] < num_queries:
                in_test[column] += 1
                where = "test"
                break
        if where == "test":
            test.append(row)
        else:
            database.append(row)
        if where == "train":
            train.append(row)
    return train, database, test


def role_lists(split):
    return [getattr(split, role).tolist() for role in ("train", "database", "queries")]


def sizes(split):
    return tuple(len(getattr(split, role)) for role in ROLES)


def apart(*roles):
    together = np.concatenate(roles)
    return len(np.unique(together)) == len(together)


@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 4),
    st.integers(1, 3),
    st.lists(st.floats(0.15, 0.9), min_size=2, max_size=5),
)
@settings(max_examples=40, deadline=None)
def test_quota_is_the_published_walk(seed, num_train, num_queries, frequencies):
    labels = random_labels(150, frequencies, seed % 1000)
    assert role_lists(Quota(num_train, num_queries, seed=seed).split(images_of(labels))) == [
        [int(row) for row in role] for role in walked(labels, num_train, num_queries, seed)
    ]


def test_quota_by_hand(monkeypatch):
    """Train is tried first for a label, then the query, then the next label."""
    labels = [[1, 0], [1, 1], [1, 1], [0, 1], [1, 0], [0, 1], [0, 0], [1, 1]]

    class InOrder:
        def permutation(self, count):
            return np.arange(count)

    monkeypatch.setattr(np.random, "RandomState", lambda seed: InOrder())
    split = Quota(1, 1).split(images_of(labels))
    # 0 trains for the first class, 1 asks for it; 2 trains for the second, 3 asks for that.
    assert role_lists(split) == [[0, 2], [0, 2, 4, 5, 6, 7], [1, 3]]


def test_quota_at_the_size_of_nuswide(nuswide):
    split = Quota(500, 100, validation=50, seed=3).split(nuswide)
    assert sizes(split) == (10_500, 193_734, 2_100, 1_050)
    assert apart(split.database, split.queries)
    assert np.isin(split.train, split.database).all()
    assert nuswide.labels[split.train].sum(axis=0).min() >= 500
    assert nuswide.labels[split.queries].sum(axis=0).min() >= 100
    assert np.isin(split.validation, split.database).all()
    assert apart(split.train, split.validation)
    order = np.random.RandomState(3).permutation(195_834)
    assert split.database.tolist() == order[~np.isin(order, split.queries)].tolist()
    facts = json.loads(json.dumps(describe_split(nuswide, split, "a", "b", 3).as_dict()))
    assert facts["multilabel"] and facts["overlaps"]["train_database"] == 10_500


@pytest.mark.parametrize("inside", [True, False])
def test_quota_outside_the_database(labelled_images, inside):
    split = Quota(10, 5, train_in_database=inside, seed=1).split(labelled_images)
    assert sizes(split) == (40, 380 if inside else 340, 20, 0)
    assert apart(split.database, split.queries)
    assert np.isin(split.train, split.database).all() == inside
    assert np.isin(np.arange(20), split.database).all()  # without a label: only ever searched


@pytest.mark.parametrize("inside", [True, False])
def test_validation_by_quota(labelled_images, inside):
    without = Quota(10, 5, train_in_database=inside, seed=1).split(labelled_images)
    split = Quota(10, 5, train_in_database=inside, validation=3, seed=1).split(labelled_images)
    assert len(split.validation) == 12
    assert labelled_images.labels[split.validation].sum(axis=0).min() >= 3
    assert split.queries.tolist() == without.queries.tolist()
    assert split.database.tolist() == without.database.tolist()
    assert apart(split.train, split.validation) and apart(split.queries, split.validation)
    assert np.isin(split.validation, split.database).all() == inside
    left = without.train[~np.isin(without.train, split.validation)]
    assert split.train.tolist() == left.tolist()
    assert len(split.train) == (40 if inside else 28)


@pytest.mark.parametrize(
    ("protocol", "message"),
    [
        (
            Quota(60, 1),
            r"class 'class3' with \d+ images gives only \d+ of 60 train, since.*\.train$",
        ),
        (Quota(1, 60), r"gives only \d+ of 60 queries.*\.queries$"),
        (Quota(2, 2, validation=70), r"of 70 validation items.*\.validation$"),
    ],
)
def test_quotas_that_cannot_be_filled(labelled_images, protocol, message):
    with pytest.raises(DataError, match=message):
        protocol.split(labelled_images)


def test_a_quota_that_leaves_nothing():
    images = images_of(np.tile(np.eye(2, dtype=bool), (3, 1)))
    assert sizes(Quota(2, 1).split(images)) == (4, 4, 2, 0)
    with pytest.raises(DataError, match=r"no image to search.*train_in_database=true"):
        Quota(2, 1, train_in_database=False).split(images)
    with pytest.raises(DataError, match=r"leave nothing to train.*validation"):
        Quota(2, 1, validation=2).split(images)


def test_drawn_is_one_permutation(labelled_images):
    order = np.random.RandomState(7).permutation(400).tolist()
    split = Drawn(50, 100, seed=7).split(labelled_images)
    assert role_lists(split) == [order[50:150], order[50:], order[:50]]
    split = Drawn(50, 100, train_in_database=False, seed=7).split(labelled_images)
    assert role_lists(split) == [order[50:150], order[150:], order[:50]]
    split = Drawn(50, None, seed=7).split(labelled_images)
    assert role_lists(split) == [order[50:], order[50:], order[:50]]


@pytest.mark.parametrize(
    ("count", "protocol", "expected"),
    [
        (122_218, Drawn(5_000, 10_000), (10_000, 117_218, 5_000)),
        (122_218, Drawn(5_000, 10_000, train_in_database=False), (10_000, 107_218, 5_000)),
        (25_000, Drawn(2_000, 5_000), (5_000, 23_000, 2_000)),
        (25_000, Drawn(1_000, 4_000, train_in_database=False), (4_000, 20_000, 1_000)),
        (11_540, Drawn(1_000, 4_000, train_in_database=False), (4_000, 6_540, 1_000)),
    ],
)
def test_published_sizes(count, protocol, expected):
    labels = np.zeros((count, 3), bool)
    labels[419:, 1] = True
    split = protocol.split(images_of(labels))
    assert sizes(split)[:3] == expected
    assert apart(split.database, split.queries)
    assert np.isin(split.train, split.database).all() == protocol.train_in_database


@given(
    st.integers(1, 20),
    st.one_of(st.none(), st.integers(1, 20)),
    st.booleans(),
    st.sampled_from(["keep", "drop"]),
    st.integers(0, 5),
    st.integers(0, 1000),
)
@settings(max_examples=60, deadline=None)
def test_drawn_gives_each_image_its_place(queries, train, inside, unlabelled, validation, seed):
    images = images_of(random_labels(60, [0.5, 0.4], empty=12))
    if train is None and not inside:
        with pytest.raises(DataError, match="nothing is left to search"):
            Drawn(queries, train, inside)
        return
    without = Drawn(queries, train, inside, unlabelled, 0, seed).split(images)
    protocol = Drawn(queries, train, inside, unlabelled, validation, seed)
    if train is not None and not inside and validation >= train:
        with pytest.raises(DataError, match="validation"):
            protocol.split(images)
        return
    split = protocol.split(images)
    assert len(split.queries) == queries and len(split.validation) == validation
    assert apart(split.queries, split.database) and apart(split.train, split.queries)
    assert apart(split.train, split.validation)
    assert split.database.tolist() == without.database.tolist()
    assert split.queries.tolist() == without.queries.tolist()
    drawn = np.unique(np.concatenate([without.train, without.database, without.queries]))
    assert drawn.tolist() == list(range(0 if unlabelled == "keep" else 12, 60))
    if train is not None and inside:
        assert np.isin(split.validation, split.database).all()
        assert split.train.tolist() == without.train.tolist()


@pytest.mark.parametrize(
    ("protocol", "message"),
    [
        (
            Drawn(400, 1),
            r"400 images can be drawn and the protocol needs 401 .*\.queries=40, for example$",
        ),
        (
            Drawn(10, 391),
            r"needs 401 \(10 queries \+ 391 training images\).*\.train=40, for example$",
        ),
        (
            Drawn(10, 390, train_in_database=False),
            r"at least 1 to search.*\.train=40, for example$",
        ),
        (Drawn(400, None), r"400 queries \+ at least 1 to search.*\.queries=40, for example$"),
        (Drawn(401, 400), r"needs 801 .*\.queries$"),
        (Drawn(10, 371, unlabelled="drop"), r"380 images can be drawn"),
        (
            Drawn(10, 300, validation=91),
            r"90 images can be validation items .*validation=91: lower it",
        ),
        (Drawn(10, None, validation=390), "leave nothing to train"),
    ],
)
def test_too_few_images_to_draw(labelled_images, protocol, message):
    with pytest.raises(DataError, match=message):
        protocol.split(labelled_images)


@pytest.mark.parametrize(
    "make",
    [
        lambda seed: Quota(10, 5, validation=2, seed=seed),
        lambda seed: Drawn(20, 40, validation=10, seed=seed),
    ],
)
def test_a_seed_is_a_split(labelled_images, make):
    splits = [make(seed).split(labelled_images) for seed in (0, 0, 1)]
    prints = [fingerprint(labelled_images, split) for split in splits]
    assert prints[0] == prints[1] != prints[2]
    assert splits[0].validation.tolist() == splits[1].validation.tolist()
    assert all(getattr(splits[0], role).dtype == np.int64 for role in ROLES)


@pytest.mark.parametrize(
    ("make", "key"),
    [
        (lambda: Quota(0, 1), "train=0"),
        (lambda: Quota(1, 0), "queries=0"),
        (lambda: Quota(1, 1, validation=-1), "validation=-1"),
        (lambda: Drawn(0, 1), "queries=0"),
        (lambda: Drawn(1, 0), "train=0"),
        (lambda: Drawn(1, 1, validation=-1), "validation=-1"),
        (lambda: Drawn(1, 1, unlabelled="maybe"), "unlabelled=maybe"),
        (lambda: Drawn(1, None, train_in_database=False), "train=null"),
    ],
)
def test_invalid_counts_are_refused(make, key):
    with pytest.raises(DataError, match=rf"dataset\.protocols\.<protocol>\.{key}"):
        make()


def test_official_at_the_size_of_imagenet100():
    """89 classes of 1,300 and eleven smaller, as ILSVRC 2012 has them; 130 of each train."""
    counts = [1300] * 89 + [1029] + [1177] * 6 + [1178] * 4
    assert sum(counts) == 128_503
    targets = np.concatenate([np.repeat(np.arange(100), counts), np.repeat(np.arange(100), 50)])
    images = Catalogue(
        ids=tuple(map(str, range(len(targets)))),
        labels=one_hot(targets, 100),
        classes=tuple(f"n{column:08d}" for column in range(100)),
        official_query=np.arange(len(targets)) >= 128_503,
    )
    split = Official(train=130, validation=50, seed=5).split(images)
    assert sizes(split) == (13_000, 128_503, 5_000, 5_000)
    assert split.database.tolist() == list(range(128_503))
    assert split.queries.tolist() == list(range(128_503, 133_503))
    assert np.repeat(np.arange(100), 130).tolist() == targets[split.train].tolist()
    rng = np.random.RandomState(5)
    for column in range(3):
        rows = np.flatnonzero(targets[:128_503] == column)
        rng.shuffle(rows)
        assert split.train[column * 130 :][:130].tolist() == rows[:130].tolist()
    assert apart(split.train, split.validation)
    assert np.isin(split.validation, split.database).all()
