"""Who plays which role, and what all split protocols share: refusals, and validation items."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from deephash.data.catalogue import Catalogue
from deephash.errors import DataError
from deephash.types import derive

ROLES = ("train", "database", "queries", "validation")


@dataclass(frozen=True, eq=False)
class Split:
    """Row numbers into an image set, by role; the order counts, since it breaks ties in a ranking.

    Validation items are queries for choosing an epoch or a hyperparameter, so that the test
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
    validation: np.ndarray  # (num_validation,) int64, may be empty
    exclude_self: bool = field(  # whether a query is taken out of what it is searched in itself
        default=False, kw_only=True
    )

    @property
    def own(self) -> np.ndarray | None:
        """The place of each query in the database, (Q,) int64, -1 for none; None if it may stay."""
        if not self.exclude_self:
            return None
        place = {row: at for at, row in enumerate(self.database.tolist())}
        return np.array([place.get(row, -1) for row in self.queries.tolist()], np.int64)

    @property
    def validation_database(self) -> np.ndarray:
        """What validation items are searched in: the database without them, its order kept."""
        return self.database[~np.isin(self.database, self.validation)]


def overlaps(split: Split) -> dict[str, int]:
    """How many images two roles share."""
    return {
        "train_queries": len(np.intersect1d(split.train, split.queries)),
        "queries_database": len(np.intersect1d(split.queries, split.database)),
        "train_database": len(np.intersect1d(split.train, split.database)),
    }


def refuse_known_queries(split: Split, allowed_in_database: bool = False) -> None:
    """Raises a DataError where queries train, or can find themselves."""
    shared = overlaps(split)
    if shared["train_queries"] or (shared["queries_database"] and not allowed_in_database):
        raise DataError(
            f"{shared['train_queries']} queries are in train and {shared['queries_database']} in "
            "the database; a query must be new to both. If lists share images, "
            "dataset.protocols.<protocol>.queries_in_database says what becomes of them"
        )


def refuse_parts(images: Catalogue) -> None:
    """Raises a DataError where images come in official parts, which a draw would merge."""
    if images.parts:
        raise DataError(
            f"these images come in official parts ({', '.join(images.parts)}), and this "
            "protocol would draw its queries from all of them: dataset.protocol=official keeps "
            "the parts apart, dataset.source.parts=merge draws from all"
        )


def refuse_unlabelled(images: Catalogue, protocol: str) -> None:
    """Raises a DataError where a protocol counts images by class, and there are no classes."""
    if not images.labelled:
        raise DataError(
            f"{protocol} counts images by class, and these {len(images):,} images have no labels. "
            "Try dataset.protocol=drawn, which draws queries from all images alike "
            "(deephash.data.splits.Drawn), or official parts or lists"
        )


def check_counts(**counts: int | None) -> None:
    """Raises a DataError where a protocol's count is too low; None stands for all."""
    for key, count in counts.items():
        lowest = 1 if key in ("train", "queries") else 0
        if count is not None and count < lowest:
            raise DataError(f"dataset.protocols.<protocol>.{key}={count} must be at least {lowest}")


def check_train(train: int | None, train_in_database: bool) -> None:
    """Raises a DataError where all but the queries train, and nothing is left to search."""
    if train is None and not train_in_database:
        raise DataError(
            "dataset.protocols.<protocol>.train=null makes every image that is not a query a "
            "training image; with train_in_database=false nothing is left to search. "
            "Set train to a number"
        )


def generator(seed: int) -> np.random.RandomState:
    """The generator of validation items; what it draws moves no other role."""
    return np.random.RandomState(derive(seed, "validation") % 2**32)


def held_out(
    split: Split, seed: int, draw: Callable[[np.ndarray, np.random.RandomState], np.ndarray]
) -> Split:
    """A split with validation items.

    They come from the part of the database that neither trains nor asks, where they stay; if there
    is none, or train lies outside the database, out of train.

    Args:
        split: without validation items.
        seed: of the split.
        draw: from the rows (n,) that may validate and a generator to those that do.

    Raises:
        DataError: nothing is left to train.
    """
    train, database = split.train, split.database
    spare = database[~np.isin(database, np.concatenate([train, split.queries]))]
    from_train = len(spare) == 0 or not np.isin(train, database).any()
    held = draw(train if from_train else spare, generator(seed))
    train = train[~np.isin(train, held)]
    if len(train) == 0:
        raise DataError(
            "the validation items leave nothing to train: lower "
            "dataset.protocols.<protocol>.validation"
        )
    return replace(split, train=train, validation=held)


def by_quota(
    images: Catalogue, quota: int, rows: np.ndarray, rng: np.random.RandomState
) -> np.ndarray:
    """So many rows for each class, each row for the first of its classes not yet served.

    Raises:
        DataError: a class has too few.
    """
    if not images.labelled:
        raise DataError(
            f"dataset.protocols.<protocol>.validation={quota} selects images by class, and these "
            "have no labels: set it to 0"
        )
    labels, left = images.labels, np.full(len(images.classes), quota)
    held = []
    for row in rng.permutation(rows):
        shown = labels.indices[labels.indptr[row] : labels.indptr[row + 1]]
        wanting = shown[left[shown] > 0]
        if len(wanting):
            left[wanting[0]] -= 1
            held.append(row)
            if not left.any():
                return np.array(held, np.int64)
    index = int(left.argmax())
    raise DataError(
        f"class {images.classes[index]!r} gives only {quota - left[index]} of {quota} validation "
        "items: lower dataset.protocols.<protocol>.validation"
    )
