"""Split protocols, which choose the training, database and query images. Each has its own seed.

Results are comparable if their splits have the same fingerprint.
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
    NO_ROWS,
    ROLES,
    Split,
    add_validation,
    check_counts,
    check_database,
    check_option,
    count_overlaps,
    draw_by_quota,
    refuse_known_queries,
    refuse_parts,
    refuse_unlabelled,
)
from deephash.errors import DataError
from deephash.utils.bounds import Count, CountOrZero, NumpySeed

BLOCK = 4096  # images whose labels are packed at once

QueriesInDatabase = Literal["refuse", "keep", "exclude_self", "remove"]


class SplitProtocol(Protocol):
    """An object that splits an image set, the same way each time."""

    seed: int

    def split(self, images: Catalogue) -> Split:
        """Assign roles to the images."""
        ...


Named = tuple[str, SplitProtocol]
"""The name of a protocol, and the protocol."""


def choose_protocol(images: Catalogue, general: Named, unlabelled: Named | None) -> Named:
    """Return the protocol that splits these images, and its name.

    Args:
        images: with labels or without.
        general: the usual protocol.
        unlabelled: the protocol of images without labels and without lists or official parts;
            None for the usual one.
    """
    if unlabelled is None or images.labelled or images.lists is not None or images.parts:
        return general
    return unlabelled


@dataclass(eq=False)
class PerClass:
    """A number of queries and of training images of each class, drawn at random.

    The increasing rows of each class are shuffled by one legacy NumPy generator. The first
    `queries` of them are queries, the rest are the database, and the first `train` of the rest
    are the training images. The splits of RelaHash, OrthoHash and DPN for CIFAR-10, which shuffle
    by `np.random.seed(420)`, are `seed=420`. All roles are ordered by class, each in shuffled
    order.

    Validation items are drawn by a separate generator, so they change nothing else:

    - train is a proper subset of the database: from the rest of the database, where they stay;
    - train is the whole database: removed from train, they stay in the database;
    - train lies outside the database: removed from train, they have no other role.

    Args:
        queries: queries per class.
        train: training images per class; None for all that are not queries.
        train_in_database: whether the training images are in the database.
        validation: validation items per class.
        seed: of the split, independent of the seed of training.
        database: database images per class, the others have no role; None for all the rest.

    Raises:
        DataError: images have several labels or none, or a class has too few images.

    Example:
        >>> from deephash.data import Digits
        >>> images = Digits().load()
        >>> split = PerClass(queries=10, train=50).split(images)
        >>> len(split.queries), len(split.train), len(split.database)
        (100, 500, 1697)
    """

    queries: Count
    train: Count | None
    train_in_database: bool = True
    validation: CountOrZero = 0
    seed: NumpySeed = 0
    database: CountOrZero | None = None

    def __post_init__(self) -> None:
        train, database = self.train, self.database
        check_counts(
            queries=self.queries, train=train, validation=self.validation, database=database
        )
        check_database(train, self.train_in_database)
        if database is not None and self.train_in_database and database < (train or database + 1):
            raise DataError(
                f"dataset.protocols.<protocol>.database={database} is smaller than the number "
                f"of training images, train={'null' if train is None else train}. Increase it"
            )

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
                if self.train:
                    wanted += f" + {self.train} training images"
                if not self.train or apart:
                    wanted += " + at least 1 to search"
                if self.database:
                    wanted += f", {self.database} in the database"
                key = "queries" if self.queries >= (self.train or 0) else "train"
                raise _too_few(images.classes[index], len(rows), needed, wanted, key)
            rng.shuffle(rows)
            rest = rows[self.queries :]
            chosen = rest if self.train is None else rest[: self.train]
            queries.append(rows[: self.queries])
            train.append(chosen)
            database.append(rest[len(chosen) * apart :][: self.database])
        return _joined(images, train, database, queries, self.validation, self.seed)


@dataclass(eq=False)
class Official:
    """The official test part as queries, the official training part as database.

    `train` images of each class are drawn from the database as in `PerClass`; None trains on the
    whole database. Database and queries are ordered by class, then by row. Validation items follow
    the rules of `PerClass`; an official validation part replaces them, and has no other role. The
    whole training part of images without labels trains, in the order of the rows; numbers of images
    per class are refused.

    Args:
        train: training images per class; None for the whole database.
        validation: validation items per class.
        seed: of the split, independent of the seed of training.

    Raises:
        DataError: there is no official test part, images have several labels or none, or a class
            has too few images.

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
    """Whether an official validation part of the dataset becomes the validation split."""

    train: Count | None
    validation: CountOrZero = 0
    seed: NumpySeed = 0

    def __post_init__(self) -> None:
        check_counts(train=self.train, validation=self.validation)

    def split(self, images: Catalogue) -> Split:
        official = images.official_query
        if official is None:
            raise DataError(
                "this dataset has no official test part: use a protocol that draws its queries, "
                "such as deephash.data.splits.PerClass. A folder of images has one if they lie in "
                "train/<class> and test/<class> below dataset.root"
            )
        validation = images.official_validation
        if validation is not None and self.validation:
            raise DataError(
                f"dataset.protocols.<protocol>.validation={self.validation} draws validation items "
                "from the training part, and this dataset has an official validation part: set it "
                "to 0 to use that part, or move that part away"
            )
        if not images.labelled:
            return self._of_unlabelled(official, validation)
        rng = np.random.RandomState(self.seed)
        queries, train, database = [], [], []
        for index, rows in enumerate(_rows_by_class(images, "Official")):
            name = images.classes[index]
            test, rest = rows[official[rows]], rows[~official[rows]]
            if validation is not None:
                rest = rest[~validation[rest]]
            if len(test) == 0 or len(rest) == 0:
                raise DataError(
                    f"class {name!r} has {len(rest)} images in the official training part and "
                    f"{len(test)} in the test part; both need at least 1"
                )
            if self.train is not None and len(rest) < self.train:
                wanted = f"{self.train} training images"
                raise _too_few(name, len(rest), self.train, wanted, "train")
            drawn = rest
            if self.train is not None:
                drawn = rest.copy()
                rng.shuffle(drawn)
            queries.append(test)
            train.append(drawn[: self.train])
            database.append(rest)
        split = _joined(images, train, database, queries, self.validation, self.seed)
        if validation is None:
            return split
        return replace(split, validation=np.flatnonzero(validation))

    def _of_unlabelled(self, official: np.ndarray, validation: np.ndarray | None) -> Split:
        """Return the official parts of images without labels."""
        for key, count in (("train", self.train), ("validation", self.validation or None)):
            if count is not None:
                raise DataError(
                    f"dataset.protocols.<protocol>.{key}={count} is a number of images per class, "
                    f"and these have no labels: set it to {'null' if key == 'train' else 0}"
                )
        if validation is None:
            validation = np.zeros(len(official), bool)
        database = np.flatnonzero(~official & ~validation)
        queries = np.flatnonzero(official)
        if len(database) == 0 or len(queries) == 0:
            raise DataError(
                f"the official training part has {len(database)} images and the test part "
                f"{len(queries)}; both need at least 1"
            )
        return Split(database, database, queries, np.flatnonzero(validation))


@dataclass(eq=False)
class Listed:
    """The roles, and their order, from the lists of the dataset.

    Validation items are drawn by a quota, like the queries of NUS-WIDE-21: in shuffled order, each
    image counts for the first of its classes that has too few. They come from the same images as
    those of `PerClass`, and never from the queries. A dataset without a list of training images
    can only be evaluated.

    Args:
        database: `listed`, the database's list; or `rest`, all images of all lists but the
            queries, in the order of the rows.
        queries_in_database: how to treat queries that are also in the database's list, as in
            HashNet's lists of COCO; `overlaps` counts them. `refuse`: raise an error. `keep`: each
            of them finds itself first. `exclude_self`: each is removed from its own ranking, and
            stays for the other queries. `remove`: all are removed from the database.
        validation: validation items per class.
        seed: of the validation split, independent of the seed of training.

    Raises:
        DataError: there are no lists, a list is empty, a query is in train, a query is in the
            database where that is refused, or a class has too few validation images.

    Example:
        >>> lists = {"train": np.array([0]), "queries": np.array([2]), "database": np.array([0, 1])}
        >>> labels, classes = np.eye(3, dtype=bool), ("x", "y", "z")
        >>> images = Catalogue(ids=("a", "b", "c"), labels=labels, classes=classes, lists=lists)
        >>> Listed().split(images).database.tolist()
        [0, 1]
    """

    database: Literal["listed", "rest"] = "listed"
    queries_in_database: QueriesInDatabase | bool = "refuse"
    validation: CountOrZero = 0
    seed: NumpySeed = 0

    def __post_init__(self) -> None:
        check_counts(validation=self.validation)
        check_option("database", self.database, "listed", "rest")
        if isinstance(self.queries_in_database, bool):  # the option in runs of earlier versions
            self.queries_in_database = "keep" if self.queries_in_database else "refuse"
        allowed = get_args(QueriesInDatabase)
        check_option("queries_in_database", self.queries_in_database, *allowed)

    def split(self, images: Catalogue) -> Split:
        if images.lists is None:
            raise DataError(
                "this dataset has no lists: use a protocol that draws the roles, such as "
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
        train, database, queries = roles.get("train", NO_ROWS), roles["database"], roles["queries"]
        if self.queries_in_database == "remove":
            database = database[~np.isin(database, queries)]
        exclude_self = self.queries_in_database == "exclude_self"
        split = Split(train, database, queries, exclude_self=exclude_self)
        if self.validation and len(train):
            split = add_validation(
                split, self.seed, partial(draw_by_quota, images, self.validation)
            )
        refuse_known_queries(split, exclude_self or self.queries_in_database == "keep")
        return split


@dataclass(frozen=True)
class Facts:
    """Counts and fingerprint of a split, as saved in every run and report.

    Example:
        >>> from deephash.data import Digits
        >>> images, protocol = Digits().load(), PerClass(queries=10, train=50)
        >>> facts = describe_split(images, protocol.split(images), "digits", "per_class", seed=0)
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
    num_train_unlabelled: int  # training images without a label
    num_database: int
    num_queries: int
    num_validation: int
    per_class: dict[str, dict[str, int]]
    """Role -> the sizes of the smallest and the largest class; empty without classes."""
    overlaps: dict[str, int]  # images that two roles share
    num_skipped: int
    skipped: tuple[str, ...]  # ids of unreadable files that were left out
    fingerprint: str  # 64 hex digits
    passed_over: dict[str, int] = field(default_factory=dict)  # ending or reason -> files not read

    def as_dict(self) -> dict[str, object]:
        """Return the values for JSON."""
        return dataclasses.asdict(self) | {
            "classes": list(self.classes),
            "skipped": list(self.skipped),
        }


def describe_split(
    images: Catalogue, split: Split, dataset: str, protocol: str, seed: int
) -> Facts:
    """Count the images and classes of each role of a split."""
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
        overlaps=count_overlaps(split),
        num_skipped=len(images.skipped),
        skipped=images.skipped,
        fingerprint=fingerprint(images, split),
        passed_over=dict(images.passed_over),
    )


def fingerprint(images: Catalogue, split: Split) -> str:
    """Return the sha256 of the roles, their order and their labels: 64 hex digits.

    It covers the ids and label rows of each role, and whether queries are removed from their own
    rankings. It does not depend on pixels, class names, row numbers, images without a role, and the
    validation split, which no reported number is measured on.
    """
    digest = hashlib.sha256(b"exclude_self" * split.exclude_self)
    for role in ("train", "database", "queries"):
        rows = getattr(split, role)
        digest.update(json.dumps([role, [images.ids[row] for row in rows]]).encode())
        digest.update(json.dumps([len(rows), images.labels.shape[1]]).encode())
        for start in range(0, len(rows), BLOCK):
            labels = images.labels[rows[start : start + BLOCK]]
            bits = np.zeros((labels.shape[0], -(-labels.shape[1] // 8)), np.uint8)
            owner = np.repeat(np.arange(len(bits)), np.diff(labels.indptr))
            np.bitwise_or.at(bits, (owner, labels.indices // 8), 128 >> (labels.indices % 8))
            digest.update(bits.tobytes())  # equal to np.packbits of dense rows
    return digest.hexdigest()


def _rows_by_class(images: Catalogue, protocol: str) -> list[np.ndarray]:
    """Return the increasing rows of each class."""
    refuse_unlabelled(images, protocol)
    if (images.label_counts != 1).any():
        several = int((images.label_counts != 1).sum())
        raise DataError(
            f"{protocol} needs single-label data, since it counts images per class; {several} of "
            f"{len(images)} images have several labels or none"
        )
    return _split_by_class(images, np.arange(len(images)))


def _split_by_class(images: Catalogue, rows: np.ndarray) -> list[np.ndarray]:
    """Return the rows of each class, in order; all images have one label."""
    columns = images.labels.indices[rows]
    bounds = np.searchsorted(np.sort(columns), np.arange(1, len(images.classes)))
    return np.split(rows[np.argsort(columns, kind="stable")], bounds)


def _too_few(name: str, has: int, needed: int, wanted: str, key: str) -> DataError:
    return DataError(
        f"class {name!r} has {has} images and the protocol needs {needed} ({wanted}): lower "
        f"dataset.protocols.<protocol>.{key}"
    )


def _joined(
    images: Catalogue,
    train: list[np.ndarray],
    database: list[np.ndarray],
    queries: list[np.ndarray],
    validation: int,
    seed: int,
) -> Split:
    """Join the classes, and draw validation items class by class."""
    split = Split(*(np.concatenate(rows).astype(np.int64) for rows in (train, database, queries)))
    if validation:
        draw = partial(_draw_per_class, images, validation, split.train)
        split = add_validation(split, seed, draw)
    refuse_known_queries(split)
    return split


def _draw_per_class(
    images: Catalogue,
    count: int,
    train: np.ndarray,
    rows: np.ndarray,
    rng: np.random.RandomState,
) -> np.ndarray:
    from_train = bool(np.isin(rows, train).any())
    drawn = []
    for name, of_class in zip(images.classes, _split_by_class(images, rows), strict=True):
        needed = count + from_train  # no class may become empty in train
        if len(of_class) < needed:
            wanted = f"{count} validation items"
            wanted += " + at least 1 to train" if from_train else " outside train"
            raise _too_few(name, len(of_class), needed, wanted, "validation")
        drawn.append(rng.permutation(of_class)[:count])
    return np.concatenate(drawn)
