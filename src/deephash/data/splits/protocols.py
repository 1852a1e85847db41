"""Split protocols: who trains, who is searched, who asks. Each is an object with its own seed.

Two numbers can be compared when their splits have one fingerprint.
"""

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field, replace
from functools import partial
from typing import ClassVar, Literal, Protocol, get_args

import numpy as np

from deephash.data.catalogue import Catalogue
from deephash.data.splits.base import (
    ROLES,
    Split,
    by_quota,
    check_counts,
    check_train,
    generator,
    held_out,
    overlaps,
    refuse_known_queries,
    refuse_parts,
    refuse_unlabelled,
)
from deephash.errors import DataError
from deephash.utils.bounds import Count, CountOrZero, NumpySeed

BLOCK = 4096  # images whose labels are held dense at once


QueriesInDatabase = Literal["refuse", "keep", "exclude_self", "remove"]


class SplitProtocol(Protocol):
    """Anything that can split an image set, the same way each time."""

    seed: int

    def split(self, images: Catalogue) -> Split:
        """Give each image its roles."""
        ...


Named = tuple[str, SplitProtocol]
"""A protocol and its name."""


def protocol_of(images: Catalogue, named: Named, unlabelled: Named | None) -> Named:
    """Return the protocol by which images are split, and its name.

    Args:
        images: with labels or without.
        named: the protocol in general.
        unlabelled: that of images without labels; None: the same. Images that come in official
            parts are not drawn from: for them it is the general one, too.
    """
    if unlabelled is None or images.labelled or images.lists is not None:
        return named
    return named if images.parts else unlabelled


class PerClass:
    """A number of queries and of training images of each class, drawn at random.

    Class by class, the increasing rows are shuffled by one legacy NumPy generator. The first
    `queries` of them are queries, the rest are the database, and the first `train` of the rest
    are the training images. The splits of RelaHash, OrthoHash and DPN for
    CIFAR-10, which shuffle by `np.random.seed(420)`, are `seed=420`. All roles are ordered class
    after class, each in shuffled order.

    Validation items are drawn by a generator of their own, so they change nothing else:

    - train is a true part of the database: drawn from the rest of the database, where they stay;
    - train is the whole database: taken out of train, they stay in the database;
    - train lies outside the database: taken out of train, they are in no other role.

    Args:
        queries: queries per class.
        train: training images per class; None for all that are not queries.
        train_in_database: whether the training images can be found.
        validation: validation items per class.
        seed: of the split, apart from the seed of training.
        database: database images per class, the others are in no role; None for all that are left.

    Raises:
        DataError: images with several labels or none, or a class with too few images.

    Example:
        >>> from deephash.data import Digits
        >>> images = Digits().load()
        >>> split = PerClass(queries=10, train=50).split(images)
        >>> len(split.queries), len(split.train), len(split.database)
        (100, 500, 1697)
    """

    def __init__(
        self,
        queries: Count,
        train: Count | None,
        train_in_database: bool = True,
        validation: CountOrZero = 0,
        seed: NumpySeed = 0,
        database: CountOrZero | None = None,
    ):
        check_counts(queries=queries, train=train, validation=validation, database=database)
        check_train(train, train_in_database)
        if database is not None and train_in_database and database < (train or database + 1):
            raise DataError(
                f"dataset.protocols.<protocol>.database={database} has no room for the training "
                f"images, train={'null' if train is None else train}. Set it to at least as many"
            )
        self.queries = queries
        self.train = train
        self.database = database
        self.train_in_database = train_in_database
        self.validation = validation
        self.seed = seed

    def split(self, images: Catalogue) -> Split:
        refuse_parts(images)
        rng = np.random.RandomState(self.seed)
        apart = 0 if self.train_in_database else 1  # the database must not be empty
        queries, train, database = [], [], []
        for index, rows in enumerate(_rows_by_class(images, "PerClass")):
            inside = 0 if apart else self.train or 0
            searched = max(self.database or 0, inside, apart)
            needed = self.queries + max(1, searched + (self.train or 0) * apart)
            if len(rows) < needed:
                wanted = f"{self.queries} queries"
                wanted += f" + {self.train} training images" if self.train else ""
                wanted += " + at least 1 to search" if not self.train or apart else ""
                wanted += f", {self.database} in the database" if self.database else ""
                key = "queries" if self.queries >= (self.train or 0) else "train"
                raise _too_few(images.classes[index], len(rows), needed, wanted, key)
            rng.shuffle(rows)
            rest = rows[self.queries :]
            chosen = rest if self.train is None else rest[: self.train]
            queries.append(rows[: self.queries])
            train.append(chosen)
            database.append(rest[len(chosen) * apart :][: self.database])
        return _finish(images, train, database, queries, self.validation, self.seed)


class Official:
    """The official test part as queries, the official training part as database.

    `train` images of each class are drawn from the database as in `PerClass`; None trains on the
    whole database. Database and queries are ordered class after class, each by increasing row.
    Validation items follow the rules of `PerClass`; where the set has an official validation part,
    they are that part, which is in no other role. Of images without labels the whole training part
    trains, in the order of the rows; a number of images per class is refused.

    Args:
        train: training images per class; None for the whole database.
        validation: validation items per class.
        seed: of the split, apart from the seed of training.

    Raises:
        DataError: a set without an official test part, images with several labels or none, or a
            class with too few images.

    Example:
        >>> labels = np.array([[True], [True], [True]])
        >>> official = np.array([False, False, True])
        >>> images = Catalogue(
        ...     ids=("a", "b", "c"), labels=labels, classes=("cat",), official_query=official
        ... )
        >>> split = Official(train=None).split(images)
        >>> split.database.tolist(), split.queries.tolist()
        ([0, 1], [2])
    """

    official_validation: ClassVar[bool] = True
    """Whether an official validation part of the data is the validation split."""

    def __init__(self, train: Count | None, validation: CountOrZero = 0, seed: NumpySeed = 0):
        check_counts(train=train, validation=validation)
        self.train = train
        self.validation = validation
        self.seed = seed

    def split(self, images: Catalogue) -> Split:
        official = images.official_query
        if official is None:
            raise DataError(
                "this dataset has no official test part: use a protocol that draws its queries, "
                "such as deephash.data.splits.PerClass. A folder of your own has one if its images "
                "lie in train/<class> and test/<class> below dataset.root"
            )
        apart = images.official_validation
        if apart is not None and self.validation:
            raise DataError(
                f"dataset.protocols.<protocol>.validation={self.validation} draws validation items "
                "from the training part, and this dataset has an official validation part: set it "
                "to 0 to use that part, or move that part away"
            )
        if not images.labelled:
            return self._of_unlabelled(official, apart)
        rng = np.random.RandomState(self.seed)
        queries, train, database = [], [], []
        for index, rows in enumerate(_rows_by_class(images, "Official")):
            name = images.classes[index]
            asked, rest = rows[official[rows]], rows[~official[rows]]
            if apart is not None:
                rest = rest[~apart[rest]]
            if len(asked) == 0 or len(rest) == 0:
                raise DataError(
                    f"class {name!r} has {len(rest)} images in the official training part and "
                    f"{len(asked)} in the test part; both need at least 1"
                )
            if self.train is not None and len(rest) < self.train:
                wanted = f"{self.train} training images"
                raise _too_few(name, len(rest), self.train, wanted, "train")
            drawn = rest
            if self.train is not None:
                drawn = rest.copy()
                rng.shuffle(drawn)
            queries.append(asked)
            train.append(drawn[: self.train])
            database.append(rest)
        split = _finish(images, train, database, queries, self.validation, self.seed)
        return split if apart is None else replace(split, validation=np.flatnonzero(apart))

    def _of_unlabelled(self, official: np.ndarray, apart: np.ndarray | None) -> Split:
        """The official parts of images without labels."""
        for key, count in (("train", self.train), ("validation", self.validation or None)):
            if count is not None:
                raise DataError(
                    f"dataset.protocols.<protocol>.{key}={count} is a number of images per class, "
                    f"and these have no labels: set it to {'null' if key == 'train' else 0}"
                )
        validation = np.zeros(len(official), bool) if apart is None else apart
        database = np.flatnonzero(~official & ~validation)
        queries = np.flatnonzero(official)
        if len(database) == 0 or len(queries) == 0:
            raise DataError(
                f"the official training part has {len(database)} images and the test part "
                f"{len(queries)}; both need at least 1"
            )
        return Split(database, database, queries, np.flatnonzero(validation))


class Listed:
    """The roles, and their order, of the lists that belong to the images.

    Validation items are drawn by a quota, like the queries of NUS-WIDE-21: in shuffled order, each
    image counts for the first of its classes that has too few. They
    come from the same images as those of `PerClass`, and never from the queries.

    Args:
        database: `listed`, what the database's list names; or `rest`, all images of all lists
            but the queries, in the order of the rows.
        queries_in_database: what becomes of queries that the database's list names too, as the
            one of HashNet for COCO does; `overlaps` counts them. `refuse`; `keep`, each of them
            finds itself first; `exclude_self`, each is taken out of what it is searched in itself,
            and stays for the others; or `remove`, all are taken out of the database.
        validation: validation items per class.
        seed: of the validation split, apart from the seed of training.

    Without a list of training images nothing trains: such a set is there to be measured on.

    Raises:
        DataError: a set without lists, a list that names no image, a query in train, a query in
            the database where that is refused, or a class with too few images to validate.

    Example:
        >>> lists = {"train": np.array([0]), "queries": np.array([2]), "database": np.array([0, 1])}
        >>> labels, classes = np.eye(3, dtype=bool), ("x", "y", "z")
        >>> images = Catalogue(ids=("a", "b", "c"), labels=labels, classes=classes, lists=lists)
        >>> Listed().split(images).database.tolist()
        [0, 1]
    """

    def __init__(
        self,
        database: Literal["listed", "rest"] = "listed",
        queries_in_database: QueriesInDatabase | bool = "refuse",
        validation: CountOrZero = 0,
        seed: NumpySeed = 0,
    ):
        check_counts(validation=validation)
        if database not in ("listed", "rest"):
            raise DataError(
                f"dataset.protocols.<protocol>.database={database} is unknown: listed or rest"
            )
        if isinstance(queries_in_database, bool):  # so runs before these words were written
            queries_in_database = "keep" if queries_in_database else "refuse"
        if queries_in_database not in get_args(QueriesInDatabase):
            raise DataError(
                f"dataset.protocols.<protocol>.queries_in_database={queries_in_database} is "
                f"unknown: {', '.join(get_args(QueriesInDatabase))}"
            )
        self.database = database
        self.queries_in_database = queries_in_database
        self.validation = validation
        self.seed = seed

    def split(self, images: Catalogue) -> Split:
        if images.lists is None:
            raise DataError(
                "this dataset came without lists: use a protocol that draws its roles, such as "
                "deephash.data.splits.PerClass"
            )
        roles = dict(images.lists)
        if self.database == "rest":
            rest = np.ones(len(images), bool)
            rest[roles["queries"]] = False
            roles["database"] = np.flatnonzero(rest)
        elif "database" not in roles:
            raise DataError(
                "no list of the database was read: set dataset.source.database to its file, or "
                "dataset.protocols.<protocol>.database=rest to search all images but the queries"
            )
        for role, rows in roles.items():
            if len(rows) == 0:
                raise DataError(f"no image is left for the role {role} of the lists")
        none = np.zeros(0, np.int64)
        train, database, queries = roles.get("train", none), roles["database"], roles["queries"]
        if self.queries_in_database == "remove":
            database = database[~np.isin(database, queries)]
        own = self.queries_in_database == "exclude_self"
        split = Split(train, database, queries, none, exclude_self=own)
        if self.validation and len(train):
            split = held_out(split, self.seed, partial(by_quota, images, self.validation))
        refuse_known_queries(split, own or self.queries_in_database == "keep")
        return split


@dataclass(frozen=True)
class Facts:
    """Counts and fingerprint of a split; every run and report contains them.

    Example:
        >>> from deephash.data import Digits
        >>> images, protocol = Digits().load(), PerClass(queries=10, train=50)
        >>> facts = describe(images, protocol.split(images), "digits", "per_class", protocol.seed)
        >>> facts.num_train, facts.num_database, facts.num_queries, len(facts.fingerprint)
        (500, 1697, 100, 64)
    """

    dataset: str
    protocol: str
    split_seed: int
    num_classes: int
    classes: tuple[str, ...]
    multilabel: bool
    num_train: int
    num_train_unlabelled: int  # of these; without a label they do not train
    num_database: int
    num_queries: int
    num_validation: int
    per_class: dict[str, dict[str, int]]
    """Role -> the smallest and the largest class; empty where there are no classes."""
    overlaps: dict[str, int]  # images two roles share
    num_skipped: int
    skipped: tuple[str, ...]  # ids of unreadable files that were left out
    fingerprint: str  # 64 hex digits
    passed_over: dict[str, int] = field(default_factory=dict)  # ending or reason -> files not read

    def as_dict(self) -> dict[str, object]:
        """The facts as JSON holds them."""
        values = dataclasses.asdict(self)
        return {
            key: list(value) if isinstance(value, tuple) else value for key, value in values.items()
        }


def describe(images: Catalogue, split: Split, dataset: str, protocol: str, seed: int) -> Facts:
    """The facts of a split, counted from what was loaded."""
    per_class = {}
    for role in ROLES if images.labelled else ():
        counts = images.labels[getattr(split, role)].sum(axis=0)
        per_class[role] = {"min": int(counts.min()), "max": int(counts.max())}
    return Facts(
        dataset=dataset,
        protocol=protocol,
        split_seed=seed,
        num_classes=len(images.classes),
        classes=images.classes,
        multilabel=images.multilabel,
        num_train=len(split.train),
        num_train_unlabelled=int((images.label_counts[split.train] == 0).sum()),
        num_database=len(split.database),
        num_queries=len(split.queries),
        num_validation=len(split.validation),
        per_class=per_class,
        overlaps=overlaps(split),
        num_skipped=len(images.skipped),
        skipped=images.skipped,
        fingerprint=fingerprint(images, split),
        passed_over=dict(images.passed_over),
    )


def fingerprint(images: Catalogue, split: Split) -> str:
    """sha256 of who plays which role, in order, under which labels: 64 hex digits.

    Role by role it covers the ids and the label rows. Pixels, class names, row numbers, images
    without a role and the validation split, against which no reported number is measured, do not
    count. Whether queries are taken out of what they are searched in does.
    """
    digest = hashlib.sha256(b"exclude_self" * split.exclude_self)
    for role in ("train", "database", "queries"):
        rows = getattr(split, role)
        digest.update(json.dumps([role, [images.ids[row] for row in rows]]).encode())
        digest.update(json.dumps([len(rows), images.labels.shape[1]]).encode())
        for start in range(0, len(rows), BLOCK):
            some = images.labels[rows[start : start + BLOCK]]
            bits = np.zeros((some.shape[0], -(-some.shape[1] // 8)), np.uint8)
            of = np.repeat(np.arange(len(bits)), np.diff(some.indptr))
            np.bitwise_or.at(bits, (of, some.indices // 8), 128 >> (some.indices % 8))
            digest.update(bits.tobytes())  # as packed from dense rows
    return digest.hexdigest()


def _rows_by_class(images: Catalogue, protocol: str) -> list[np.ndarray]:
    """The increasing rows of each class."""
    refuse_unlabelled(images, protocol)
    if (images.label_counts != 1).any():
        several = int((images.label_counts != 1).sum())
        raise DataError(
            f"{protocol} needs single-label data, since it counts images per class; {several} of "
            f"{len(images)} images have several labels or none"
        )
    column = images.labels.indices  # one for each image
    bounds = np.searchsorted(np.sort(column), np.arange(1, len(images.classes)))
    return np.split(np.argsort(column, kind="stable"), bounds)


def _too_few(name: str, has: int, needed: int, wanted: str, key: str) -> DataError:
    return DataError(
        f"class {name!r} has {has} images and the protocol needs {needed} ({wanted}): lower "
        f"dataset.protocols.<protocol>.{key}"
    )


def _finish(
    images: Catalogue,
    train: list[np.ndarray],
    database: list[np.ndarray],
    queries: list[np.ndarray],
    validation: int,
    seed: int,
) -> Split:
    """Draw the validation items, class by class, and put the classes together."""
    # From the database's own part if it has one, else from train (see PerClass).
    spare = [kept[~np.isin(kept, drawn)] for kept, drawn in zip(database, train, strict=True)]
    inside = bool(np.isin(np.concatenate(train), np.concatenate(database)).any())
    from_train = not inside or not any(len(rows) for rows in spare)
    rng = generator(seed)
    held: list[np.ndarray] = []
    for index, rows in enumerate(train if from_train else spare):
        if validation and len(rows) < validation + from_train:  # train must not become empty
            wanted = f"{validation} validation items"
            wanted += " + at least 1 to train" if from_train else " outside train"
            needed = validation + from_train
            raise _too_few(images.classes[index], len(rows), needed, wanted, "validation")
        held.append(rng.permutation(rows)[:validation])
    if from_train:
        train = [rows[~np.isin(rows, out)] for rows, out in zip(train, held, strict=True)]
    roles = (train, database, queries, held)
    split = Split(*(np.concatenate(role).astype(np.int64) for role in roles))
    refuse_known_queries(split)
    return split
