"""Data for the figures of an evaluation: nearest images, a t-SNE plane, snapshots."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from deephash import retrieval
from deephash.config import schema
from deephash.data.datamodule import DataModule
from deephash.errors import ConfigError
from deephash.report import CodeSnapshot, Plane, Retrieved
from deephash.training.evaluation import Codes, Evaluation
from deephash.training.snapshots import read_snapshots, spaced

PERPLEXITY = 30.0
SEED = 0
"""Seed of the random order of equally near images, and of t-SNE."""

KINDS = ("hardest", "easiest", "spread")
"""Kinds of queries, by their average precision."""

MOST_CLASSES = 1000
"""With more classes there are no results by class."""

MOST_RETURNED = 20
"""Other classes of each class in a report."""

FEWEST = 10
"""Smallest number of codes for t-SNE."""

log = logging.getLogger("deephash")


def nearest_images(
    evaluation: Evaluation, codes: Codes, data: DataModule, options: schema.Gallery
) -> list[Retrieved]:
    """Return queries with their nearest images; equally near images are in random order.

    A database is often sorted by class, so its order would favour the first class. Without labels
    no image is marked as relevant, and queries are sorted by the distance of their nearest image.

    Args:
        evaluation: how the codes are compared.
        codes: of all images.
        data: set up.
        options: which queries, how many of them, and the number of images of each.
    """
    return galleries(evaluation, codes, data, options, ())["selected"]


def galleries(
    evaluation: Evaluation,
    codes: Codes,
    data: DataModule,
    options: schema.Gallery,
    kinds: Sequence[str] = KINDS,
) -> dict[str, list[Retrieved]]:
    """Return ``nearest_images`` of several kinds of queries.

    Args:
        evaluation: how the codes are compared.
        codes: of all images.
        data: set up.
        options: which queries are first, how many of each kind, and the number of images of each.
        kinds: the other kinds.

    Returns:
        The queries of the options by their kind, ``selected`` if they are listed; then the others.
    """
    split = data.split
    ranking = evaluation.rank(codes, data, split.queries, split.database)
    labelled = bool(data.images.classes)
    nearest = (ranking.counts[0] > 0).argmax(axis=1)
    if labelled:
        score = retrieval.average_precision(ranking, evaluation.convention)
        answerable = ranking.counts[1].any(axis=1)
    else:
        score, answerable = -nearest.astype(float), ranking.sizes > 0
    step = ranking.nbit // codes.z.shape[1]  # ternary codes have several distances per bit
    shuffled = np.random.default_rng(SEED).permutation(ranking.size)

    def shown(query: int) -> Retrieved:
        distance, relevant = ranking.distances(query), ranking.relevant(query)
        candidate = np.zeros(ranking.size, bool)
        candidate[ranking.candidates(query)] = True
        candidates = shuffled[candidate[shuffled]]
        first = candidates[np.argsort(distance[candidates], kind="stable")[: options.top]]
        rows = split.database[first]
        query_row = split.queries[query]
        value = f"AP {score[query]:.3f}"
        if not labelled:
            value = f"nearest at {_bits(nearest[query] / step)}"
        return Retrieved(
            query=_image(data, query_row),
            title=f"query {query}: {_labels(data, query_row)}, {value}",
            images=[_image(data, row) for row in rows],
            right=relevant[first].tolist() if labelled else None,
            captions=[
                f"{_labels(data, row)}, {_bits(distance[i] / step)}"
                for i, row in zip(first, rows, strict=True)
            ],
            names=[str(data.images.ids[row]) for row in (query_row, *rows)],
        )

    selected: str = options.queries if isinstance(options.queries, str) and kinds else "selected"
    chosen: dict[str, list[int]] = {
        selected: _chosen(options.queries, options.rows, score, answerable)
    }
    for kind in kinds:
        chosen.setdefault(kind, _chosen(kind, options.rows, score, answerable))
    return {kind: [shown(query) for query in queries] for kind, queries in chosen.items()}


def check_queries(queries: str | Sequence[int], count: int) -> None:
    """Raise ConfigError for an index that none of the ``count`` queries has."""
    if not isinstance(queries, str) and (beyond := [index for index in queries if index >= count]):
        raise ConfigError(
            f"gallery.queries  there is no query {beyond[0]}: there are {count}, from 0 on"
        )


def _chosen(
    queries: str | Sequence[int], rows: int, score: np.ndarray, answerable: np.ndarray
) -> list[int]:
    """Return the indices of the queries to show; easy queries have a high score."""
    if not isinstance(queries, str):
        return list(queries)
    falling = np.argsort(-score, kind="stable")
    falling = falling[answerable[falling]]  # a query without an answer is not a hard one
    if queries == "hardest":
        falling = falling[::-1]
    if queries == "spread":
        count = min(rows, len(falling))
        falling = falling[np.linspace(0, len(falling) - 1, count).round().astype(int)]
    chosen: list[int] = falling[:rows].tolist()
    return chosen


def results_by_class(
    evaluation: Evaluation, codes: Codes, data: DataModule
) -> dict[str, Any] | None:
    """Return the mAP of the queries of each class, and the classes of the images they return.

    None without classes, or with more than ``MOST_CLASSES``.
    """
    images, split = data.images, data.split
    if not 0 < len(images.classes) <= MOST_CLASSES:
        return None
    ranking = evaluation.rank(codes, data, split.queries, split.database)
    precision = retrieval.counted_precision(ranking, evaluation.convention)
    query, items = images.labels[split.queries], images.labels[split.database]
    result = retrieval.by_class(ranking, precision, query, items)
    classes = []
    for at, name in enumerate(images.classes):
        if not result.queries[at]:
            continue
        shares = result.returned[at]
        order = [int(other) for other in np.argsort(-shares, kind="stable") if shares[other] > 0]
        classes.append(
            {
                "name": str(name),
                "queries": int(result.queries[at]),
                "map": float(result.precision[at]),
                "own": None if np.isnan(shares[at]) else float(shares[at]),
                "others": {
                    str(images.classes[other]): float(shares[other])
                    for other in [other for other in order if other != at][:MOST_RETURNED]
                },
            }
        )
    return {"depth": result.depth, "compared": result.compared, "classes": classes}


def plane(codes: Codes, data: DataModule, count: int) -> Plane | None:
    """Project the continuous codes of database images to two dimensions by t-SNE.

    Args:
        codes: of all images.
        data: set up.
        count: number of images, evenly spaced over the database.

    Returns:
        None if there are too few images, or all codes are equal.
    """
    rows = spaced(np.sort(data.split.database), count)
    z = codes.of(rows).numpy()
    if len(rows) < FEWEST or not np.isfinite(z).all() or np.ptp(z, axis=0).max() == 0:
        return None
    from sklearn.manifold import TSNE  # slow to import
    from threadpoolctl import threadpool_limits

    perplexity = min(PERPLEXITY, (len(rows) - 1) / 3)
    log.info("t-SNE of %d codes", len(rows))
    tsne = TSNE(perplexity=perplexity, init="random", random_state=SEED)
    with threadpool_limits(1):  # several threads can take minutes on a busy machine
        points = tsne.fit_transform(z)
    title = (
        f"t-SNE of the continuous codes of {len(rows):,} database images, "
        f"perplexity {perplexity:g}, seed {SEED}"
    )
    if data.images.multilabel:
        title += "; coloured by the first label"
    labels = first_labels(data.images.labels[rows].toarray())
    return Plane(points, labels, list(data.images.classes), title)


def snapshots(run: Path) -> list[CodeSnapshot]:
    """Return the snapshots of a run of two or three bits; those of others cannot be drawn."""
    return [
        CodeSnapshot(item["epoch"], item["z"], first_labels(item["labels"]), item["centers"])
        for item in read_snapshots(run, skip=True)
        if item["z"].shape[1] in (2, 3)
    ]


def first_labels(labels: np.ndarray) -> np.ndarray:
    """Return the first label of each image: (n, C) bool to (n,), -1 for none."""
    if labels.shape[1] == 0:
        return np.full(len(labels), -1)
    return np.where(labels.any(axis=1), labels.argmax(axis=1), -1)


def _bits(count: float) -> str:
    return f"{count:g} bit" if count == 1 else f"{count:g} bits"


def _image(data: DataModule, row: int) -> np.ndarray:
    return np.asarray(data.images.inputs[row]).transpose(1, 2, 0)


def _labels(data: DataModule, row: int) -> str:
    """Return the classes of an image; its file name if the data have no classes."""
    images = data.images
    if not images.classes:
        return str(images.ids[row]).rpartition("/")[2]
    return ", ".join(images.classes[c] for c in images.labels[[row]].indices) or "no label"
