"""What the figures of an evaluation need beside its numbers: images, a plane, snapshots."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from deephash import retrieval
from deephash.data.datamodule import DataModule
from deephash.errors import ConfigError
from deephash.report import Plane, Retrieved, Snapshot
from deephash.training.evaluation import Codes, Evaluation
from deephash.training.snapshots import read_snapshots, spaced

PERPLEXITY = 30.0
SEED = 0
"""Of what is drawn for the pictures."""

FEWEST = 10
"""Codes that t-SNE can make something of."""

log = logging.getLogger("deephash")


def gallery(
    evaluation: Evaluation, codes: Codes, data: DataModule, *, queries: Any, rows: int, top: int
) -> list[Retrieved]:
    """Some queries with the images nearest to them; equally near ones in a random order.

    A database is often sorted by class, and its order would then show off the first of them.
    Without labels no image is marked as relevant, and a query is the easier the nearer its nearest
    image is.

    Args:
        evaluation: how the codes are compared.
        codes: of all images.
        data: set up.
        queries: ``spread`` from the easiest to the hardest, ``hardest``, ``easiest``, or places in
            the list of queries.
        rows: how many, unless they are listed.
        top: how many images.
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
    step = ranking.nbit // codes.z.shape[1]  # distances to the bit, more than one of ternary codes
    shuffled = np.random.default_rng(SEED).permutation(ranking.size)
    shown = []
    for query in _chosen(queries, score, answerable, rows):
        distance, relevant = ranking.distances(query), ranking.relevant(query)
        candidate = np.zeros(ranking.size, bool)
        candidate[ranking.candidates(query)] = True
        some = shuffled[candidate[shuffled]]
        first = some[np.argsort(distance[some], kind="stable")[:top]]
        images = split.database[first]
        asked = split.queries[query]
        worth = f", AP {score[query]:.3f}"
        if not labelled:
            worth = f", nearest at {_bits(nearest[query] / step)}"
        shown.append(
            Retrieved(
                query=_image(data, asked),
                title=f"query {query}: {_labels(data, asked)}{worth}",
                images=[_image(data, row) for row in images],
                right=relevant[first].tolist() if labelled else None,
                captions=[
                    f"{_labels(data, row)}, {_bits(distance[i] / step)}"
                    for i, row in zip(first, images, strict=True)
                ],
            )
        )
    return shown


def check_queries(wanted: str | Sequence[int], count: int) -> None:
    """Refuses places that no query has, of so many queries.

    Raises:
        ConfigError: naming the first.
    """
    if not isinstance(wanted, str) and (beyond := [query for query in wanted if query >= count]):
        raise ConfigError(
            f"gallery.queries  there is no query {beyond[0]}: there are {count}, from 0 on"
        )


def _chosen(
    wanted: str | Sequence[int], score: np.ndarray, answerable: np.ndarray, rows: int
) -> list[int]:
    """The places of the queries to show; the higher its score, the easier a query is."""
    if not isinstance(wanted, str):
        return list(wanted)
    falling = np.argsort(-score, kind="stable")
    falling = falling[answerable[falling]]  # whose answer is not in the database is not hard
    if wanted == "easiest":
        easiest: list[int] = falling[:rows].tolist()
        return easiest
    if wanted == "hardest":
        hardest: list[int] = falling[::-1][:rows].tolist()
        return hardest
    places = np.linspace(0, len(falling) - 1, min(rows, len(falling))).round().astype(int)
    spread: list[int] = falling[places].tolist()
    return spread


def plane(codes: Codes, data: DataModule, many: int) -> Plane | None:
    """The continuous codes of some database images in two dimensions, by t-SNE.

    Args:
        codes: of all images.
        data: set up.
        many: how many, evenly spaced over the database; too few, or all alike, make no plane.
    """
    rows = spaced(np.sort(data.split.database), many)
    z = codes.of(rows).numpy()
    if len(rows) < FEWEST or not np.isfinite(z).all() or np.ptp(z, axis=0).max() == 0:
        return None
    from sklearn.manifold import TSNE  # slow to import, and for nobody else
    from threadpoolctl import threadpool_limits

    perplexity = min(PERPLEXITY, (len(rows) - 1) / 3)
    log.info("t-SNE of %d codes", len(rows))
    tsne = TSNE(perplexity=perplexity, init="random", random_state=SEED)
    with threadpool_limits(1):  # several wait for each other, for minutes on a busy machine
        points = tsne.fit_transform(z)
    what = (
        f"t-SNE of the continuous codes of {len(rows):,} database images, "
        f"perplexity {perplexity:g}, seed {SEED}"
    )
    if data.images.multilabel:
        what += "; coloured by the first label"
    return Plane(
        points, first_labels(data.images.labels[rows].toarray()), list(data.images.classes), what
    )


def snapshots(run: Path) -> list[Snapshot]:
    """Those of a run of two or three bits; of others there is no picture."""
    return [
        Snapshot(one["epoch"], one["z"], first_labels(one["labels"]), one["centers"])
        for one in read_snapshots(run, skip=True)
        if one["z"].shape[1] in (2, 3)
    ]


def first_labels(labels: np.ndarray) -> np.ndarray:
    """(n, C) bool -> (n,), -1 for none."""
    if labels.shape[1] == 0:
        return np.full(len(labels), -1)
    return np.where(labels.any(axis=1), labels.argmax(axis=1), -1)


def _bits(count: float) -> str:
    return f"{count:g} bit" if count == 1 else f"{count:g} bits"


def _image(data: DataModule, row: int) -> np.ndarray:
    return np.asarray(data.images.inputs[row]).transpose(1, 2, 0)


def _labels(data: DataModule, row: int) -> str:
    """The classes of an image; where there are no classes, its file name."""
    images = data.images
    if not images.classes:
        return str(images.ids[row]).rpartition("/")[2]
    return ", ".join(images.classes[c] for c in images.labels[[row]].indices) or "no label"
