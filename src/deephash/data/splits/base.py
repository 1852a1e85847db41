"""The roles of images, and the checks and validation draws that all split protocols share."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from deephash.data.catalogue import Catalogue
from deephash.errors import DataError
from deephash.types import derive

ROLES = ("train", "database", "queries", "validation")

NO_ROWS = np.zeros(0, np.int64)


@dataclass(frozen=True, eq=False)
class Split:
    """Row numbers into an image set, by role; their order matters, since it breaks ranking ties.

    Validation items are queries for selecting an epoch or a hyperparameter, so that the test
    queries are used once. They never train. If they belong to the database, they stay in it
    for the test queries, and are removed only when they are the queries themselves.

    Example:
        >>> split = Split(
        ...     train=np.array([1, 2]),
        ...     database=np.array([1, 2, 3, 4]),
        ...     queries=np.array([0]),
        ...     validation=np.array([4]),
        ... )
        >>> split.validation_database.tolist()
        [1, 2, 3]
    """

    train: np.ndarray  # (num_train,) int64
    database: np.ndarray  # (num_database,) int64
    queries: np.ndarray  # (num_queries,) int64
    validation: np.ndarray = field(default_factory=NO_ROWS.copy)  # (num_validation,) int64
    exclude_self: bool = field(default=False, kw_only=True)
    """Whether a query is removed from its own ranking."""

    @property
    def own(self) -> np.ndarray | None:
        """The position of each query in the database, (Q,) int64, -1 if it is not there.

        None unless queries are removed from their own ranking.
        """
        if not self.exclude_self:
            return None
        place = {row: at for at, row in enumerate(self.database.tolist())}
        return np.array([place.get(row, -1) for row in self.queries.tolist()], np.int64)

    @property
    def validation_database(self) -> np.ndarray:
        """The database of validation queries: the database without them, in its order."""
        return self.database[~np.isin(self.database, self.validation)]


def count_overlaps(split: Split) -> dict[str, int]:
    """Count the images that two roles share."""
    return {
        "train_queries": len(np.intersect1d(split.train, split.queries)),
        "queries_database": len(np.intersect1d(split.queries, split.database)),
        "train_database": len(np.intersect1d(split.train, split.database)),
    }


def refuse_known_queries(split: Split, allowed_in_database: bool = False) -> None:
    """Raise a DataError if queries train or can find themselves."""
    shared = count_overlaps(split)
    if shared["train_queries"] or (shared["queries_database"] and not allowed_in_database):
        raise DataError(
            f"{shared['train_queries']} queries are in train and {shared['queries_database']} in "
            "the database; a query must be new to both. If lists share images, set "
            "dataset.protocols.<protocol>.queries_in_database"
        )


def refuse_parts(images: Catalogue) -> None:
    """Raise a DataError if images come in official parts, which random draws would merge."""
    if images.parts:
        raise DataError(
            f"these images come in official parts ({', '.join(images.parts)}), and this "
            "protocol would draw its queries from all of them: dataset.protocol=official keeps "
            "the parts apart, dataset.source.parts=merge draws from all"
        )


def refuse_unlabelled(images: Catalogue, protocol: str) -> None:
    """Raise a DataError if a protocol counts images by class, and there are no classes."""
    if not images.labelled:
        raise DataError(
            f"{protocol} counts images by class, and these {len(images):,} images have no labels. "
            "Try dataset.protocol=drawn, which draws queries from all images "
            "(deephash.data.splits.Drawn), or official parts or lists"
        )


def check_counts(**counts: int | None) -> None:
    """Raise a DataError if a count of a protocol is too low; None stands for all."""
    for key, count in counts.items():
        lowest = 1 if key in ("train", "queries") else 0
        if count is not None and count < lowest:
            raise DataError(f"dataset.protocols.<protocol>.{key}={count} must be at least {lowest}")


def check_option(key: str, value: str, *allowed: str) -> None:
    """Raise a DataError if an option of a protocol is none of its allowed values."""
    if value not in allowed:
        raise DataError(
            f"dataset.protocols.<protocol>.{key}={value} is unknown: {', '.join(allowed)}"
        )


def check_database(train: int | None, train_in_database: bool) -> None:
    """Raise a DataError if all images but the queries train outside of the database."""
    if train is None and not train_in_database:
        raise DataError(
            "dataset.protocols.<protocol>.train=null makes every image that is not a query a "
            "training image; with train_in_database=false nothing is left to search. "
            "Set train to a number"
        )


def add_validation(
    split: Split, seed: int, draw: Callable[[np.ndarray, np.random.RandomState], np.ndarray]
) -> Split:
    """Return a split with validation items.

    They are drawn from the database images that are neither training images nor queries, and stay
    in the database. If there are none, or train lies outside the database, they are taken out of
    train. Their generator is separate, so that other roles do not depend on them.

    Args:
        split: without validation items.
        seed: of the split.
        draw: returns validation rows, given the candidate rows (n,) and a generator.

    Raises:
        DataError: nothing is left to train.
    """
    train, database = split.train, split.database
    spare = database[~np.isin(database, np.concatenate([train, split.queries]))]
    from_train = len(spare) == 0 or not np.isin(train, database).any()
    rng = np.random.RandomState(derive(seed, "validation") % 2**32)
    validation = draw(train if from_train else spare, rng)
    train = train[~np.isin(train, validation)]
    if len(train) == 0:
        raise DataError(
            "the validation items leave nothing to train: lower "
            "dataset.protocols.<protocol>.validation"
        )
    return replace(split, train=train, validation=validation)


def draw_by_quota(
    images: Catalogue, quota: int, rows: np.ndarray, rng: np.random.RandomState
) -> np.ndarray:
    """Draw a number of rows for each class; a row counts for its first class with too few.

    Raises:
        DataError: a class has too few.
    """
    if not images.labelled:
        raise DataError(
            f"dataset.protocols.<protocol>.validation={quota} selects images by class, and these "
            "have no labels: set it to 0"
        )
    labels, left = images.labels, np.full(len(images.classes), quota)
    drawn = []
    for row in rng.permutation(rows):
        columns = labels.indices[labels.indptr[row] : labels.indptr[row + 1]]
        columns = columns[left[columns] > 0]
        if len(columns):
            left[columns[0]] -= 1
            drawn.append(row)
            if not left.any():
                return np.array(drawn, np.int64)
    index = int(left.argmax())
    raise DataError(
        f"class {images.classes[index]!r} gives only {quota - left[index]} of {quota} validation "
        "items: lower dataset.protocols.<protocol>.validation"
    )
