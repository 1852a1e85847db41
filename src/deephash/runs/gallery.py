"""Data for the figures of an evaluation: nearest images, a t-SNE plane, snapshots."""

import logging
from collections.abc import Sequence
from pathlib import Path

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
    shown = []
    for query in _chosen(options, score, answerable):
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
        shown.append(
            Retrieved(
                query=_image(data, query_row),
                title=f"query {query}: {_labels(data, query_row)}, {value}",
                images=[_image(data, row) for row in rows],
                right=relevant[first].tolist() if labelled else None,
                captions=[
                    f"{_labels(data, row)}, {_bits(distance[i] / step)}"
                    for i, row in zip(first, rows, strict=True)
                ],
            )
        )
    return shown


def check_queries(queries: str | Sequence[int], count: int) -> None:
    """Raise ConfigError for an index that none of the ``count`` queries has."""
    if not isinstance(queries, str) and (beyond := [index for index in queries if index >= count]):
        raise ConfigError(
            f"gallery.queries  there is no query {beyond[0]}: there are {count}, from 0 on"
        )


def _chosen(options: schema.Gallery, score: np.ndarray, answerable: np.ndarray) -> list[int]:
    """Return the indices of the queries to show; easy queries have a high score."""
    if not isinstance(options.queries, str):
        return list(options.queries)
    falling = np.argsort(-score, kind="stable")
    falling = falling[answerable[falling]]  # a query without an answer is not a hard one
    if options.queries == "hardest":
        falling = falling[::-1]
    if options.queries == "spread":
        count = min(options.rows, len(falling))
        falling = falling[np.linspace(0, len(falling) - 1, count).round().astype(int)]
    chosen: list[int] = falling[: options.rows].tolist()
    return chosen


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
