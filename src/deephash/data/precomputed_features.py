"""Features of a frozen backbone, computed once and used in place of images."""

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from deephash.data.feature_store import (
    FeatureStore,
    FeatureTable,
    compute_in_memory,
    digest_of_rows,
    digest_of_texts,
)
from deephash.data.input_loader import PREFETCH_THREADS
from deephash.data.prefetch import prefetch
from deephash.data.sources.feature_formats import CannotWrite
from deephash.data.transfer import split_on_device
from deephash.data.transforms import Pipeline
from deephash.errors import WriteError
from deephash.types import generator

if TYPE_CHECKING:
    from deephash.data.datamodule import DataModule

log = logging.getLogger(__name__)

MAX_DIGEST_BYTES = 1 << 30  # of pixels in memory that are identified by a digest
FIXED_VIEW_BLOCK = 256  # images whose fixed views are drawn together, for all batch sizes


@dataclass(frozen=True)
class PrecomputedFeatures:
    """Features that batches hold in place of images.

    Args:
        views: features of the training images by the name of a view's pipeline, by place in
            `split.train`; empty if training batches hold images.
        evaluated: features of the images of a split, by row of the image set.
        count: number of features.
        computed: how many were computed now; the others were read from the store.
        seconds: time spent on computing and reading.
        draws: n, fixed views of each image in the tables of random pipelines.
    """

    views: Mapping[str, FeatureTable]
    evaluated: FeatureTable
    count: int
    computed: int
    seconds: float
    draws: int | None = None

    def for_epoch(
        self, view_transforms: Sequence[tuple[str, Pipeline]], seed: int, epoch: int
    ) -> list[FeatureTable]:
        """Return a table for each view, by place in `split.train`.

        Of n fixed views each view of an image takes one, chosen at random by seed and epoch; views
        of one pipeline take different ones.
        """
        names = [name for name, _ in view_transforms]
        tables = [self.views[name] for name in names]
        for name, pipeline in dict(view_transforms).items():
            if not pipeline.random:
                continue
            assert self.draws is not None
            table = self.views[name]
            numbers = generator(seed, "cached_views", epoch, name)
            drawn = torch.rand(len(table.places), self.draws, generator=numbers)
            order = drawn.argsort(dim=1, stable=True)
            positions = [position for position, other in enumerate(names) if other == name]
            for column, position in enumerate(positions):
                places = table.places + order[:, column] * (len(table.rows) // self.draws)
                tables[position] = replace(table, places=places)
        return tables


@torch.no_grad()
def precompute_features(
    data: "DataModule",
    compute: Callable[[Tensor], Tensor],
    width: int,
    train: bool,
    store: FeatureStore | None = None,
    draws: int | None = None,
) -> PrecomputedFeatures | None:
    """Compute the features of all images once, for use in place of images.

    A batch then has features (B, V, D) where it had images (B, V, 3, H, W): in `train`, and in
    `eval_batches` for images that have a role. Images are computed in batches of
    `eval_batch_size`; a view whose pipeline is that of the test is not computed again. If all
    features take more than `resident_limit_bytes`, they are read from the store on disk.

    Args:
        data: set up.
        compute: maps images (b, 3, H, W) on the device to features (b, D).
        width: D.
        train: whether training batches hold features.
        store: keeps features for other runs; None to keep none.
        draws: n, fixed views of each training image under each random pipeline, in place of new
            ones in each epoch; None if no view is random. They depend on the pipeline and the
            position of the image, not on `data.seed` or `data.eval_batch_size`.

    Returns:
        The features, also set as `data.features`. None, with a warning, if the features take
        more than `resident_limit_bytes` and cannot be kept in the store.
    """
    started = time.perf_counter()
    images, split, test_transform = data.images, data.split, data.test_transform
    rows = np.unique(
        np.concatenate([split.database, split.queries, split.validation, data.train_rows])
    )
    pipelines = dict(data.view_transforms) if train else {}
    others = {name: one for name, one in pipelines.items() if not one.equals(test_transform)}
    views_of = {name: draws or 1 if one.random else 1 for name, one in others.items()}
    count = len(rows) + sum(views_of.values()) * data.num_trainable
    on_disk = count * width * torch.float32.itemsize > data.resident_limit_bytes
    has_key = all(one.settings is not None for one in (test_transform, *others.values()))
    inputs = images.inputs
    in_memory = isinstance(inputs, np.ndarray) and inputs.nbytes <= MAX_DIGEST_BYTES
    if (images.stamp is None and not in_memory) or (on_disk and not has_key):
        store = None  # the images or their pipelines cannot be identified
    limit = data.resident_limit_bytes
    size = f"{limit / (1 << 30):.3g} GiB" if limit >= 1 << 30 else f"{limit / (1 << 20):.3g} MiB"
    excess = (
        f"the features of the frozen backbone take more than {size}: each epoch and evaluation"
        " computes them again"
    )
    if on_disk and store is None:
        log.warning("%s, because they are not kept on disk", excess)
        return None
    tables = _TableBuilder(data, compute, width, store, on_disk)
    try:
        table = tables.build(test_transform, rows, tables.digest(rows))
        places = _places(len(images), torch.from_numpy(rows))
        evaluated = replace(table, places=places)
        trained = replace(table, places=places[torch.from_numpy(split.train)], computed=0)
        views = dict.fromkeys(pipelines, trained)
        train_digest = tables.digest(data.train_rows) if others else ""
        train_places = _places(len(split.train), data.trainable)
        for name, pipeline in others.items():
            table = tables.build(pipeline, data.train_rows, train_digest, name, views_of[name])
            views[name] = replace(table, places=train_places)
    except (CannotWrite, WriteError) as error:
        log.warning("%s, because they cannot be kept on disk: %s", excess, error)
        return None
    if data.device.type == "cuda":
        torch.cuda.synchronize(data.device)
    computed = evaluated.computed + sum(views[name].computed for name in others)
    seconds = time.perf_counter() - started
    data.features = PrecomputedFeatures(views, evaluated, count, computed, seconds, draws)
    return data.features


@dataclass(frozen=True)
class _TableBuilder:
    """Build tables of features, in memory or in the store."""

    data: "DataModule"
    compute: Callable[[Tensor], Tensor]
    width: int
    store: FeatureStore | None
    on_disk: bool

    def build(
        self,
        pipeline: Pipeline,
        rows: np.ndarray,
        images_digest: str,
        name: str = "",
        views: int = 1,
    ) -> FeatureTable:
        """Build the table of images, given by their rows, under a pipeline of some name.

        All first views come first, then all second ones, and so on.
        """
        data, device = self.data, self.data.device
        count = views * len(rows)
        batch = block = data.eval_batch_size
        if pipeline.random:
            # drawn block by block, so that fixed views are the same for all batch sizes
            batch, block = min(batch, FIXED_VIEW_BLOCK), FIXED_VIEW_BLOCK
        row_tensor = torch.from_numpy(rows)

        def blocks(start: int) -> Iterator[Tensor]:
            first_view, start = divmod(start, len(rows))
            for view in range(first_view, views):
                skipped = start % block  # rows of an interrupted block that are already stored
                parts = torch.split(torch.arange(start - skipped, len(rows)), block)
                batches = data.loader.batches(row_tensor, parts)
                for part, (_, pixels) in zip(parts, batches, strict=True):
                    numbers = None
                    if pipeline.random:
                        numbers = generator(0, "cached_views", name, view, int(part[0]))
                    for inputs in torch.split(pipeline(pixels, numbers)[skipped:], batch):
                        yield self.compute(inputs).float()
                    skipped = 0
                start = 0

        if self.store is None or pipeline.settings is None:
            features, computed = compute_in_memory(blocks(0), count, self.width, device)
        else:
            content = {"images": images_digest, "pipeline": pipeline.settings, "batch": batch}
            if pipeline.random:
                content |= {"name": name, "views": views, "block": block}
            remarks = {"dataset": data.name}
            features, computed = self.store.load(
                content, count, self.width, blocks, device, self.on_disk, remarks
            )
        if not self.on_disk:
            features = features.to(device)
        return FeatureTable(features, torch.arange(len(rows)), computed)

    def digest(self, rows: np.ndarray) -> str:
        """Return a digest of images by ids and pixels or files; empty if nothing is stored."""
        if self.store is None:
            return ""
        images = self.data.images
        stamp = images.stamp or digest_of_rows(images.inputs, rows)
        return digest_of_texts([stamp, *(images.ids[row] for row in rows)])


def table_batches(
    tables: Sequence[FeatureTable], batches: Sequence[Tensor], device: torch.device
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the places (b,) of each batch and the features (b, V, D) of V tables, on the device.

    Tables that are not on the device are gathered by threads, some batches ahead.
    """
    if not batches:
        return
    order = torch.cat(list(batches))
    places = split_on_device(order, batches, device)
    if all(table.rows.device.type == device.type for table in tables):
        rows = [split_on_device(table.places[order], batches, device) for table in tables]
        for index, *batch_rows in zip(places, *rows, strict=True):
            yield index, _stack_rows(tables, batch_rows)
        return

    def gather(batch: Tensor) -> Tensor:
        features = _stack_rows(tables, [table.places[batch] for table in tables])
        return features.pin_memory() if device.type == "cuda" else features

    for index, features in zip(places, prefetch(gather, batches, PREFETCH_THREADS), strict=True):
        yield index, features.to(device, non_blocking=True)


def _stack_rows(tables: Sequence[FeatureTable], rows: Sequence[Tensor]) -> Tensor:
    """Return rows (b,) of each of V tables: (b, V, D)."""
    parts = [table.rows[row] for table, row in zip(tables, rows, strict=True)]
    return parts[0].unsqueeze(1) if len(parts) == 1 else torch.stack(parts, dim=1)


def _places(count: int, rows: Tensor) -> Tensor:
    """Return (count,) with 0, 1, ... at the given rows and -1 elsewhere."""
    places = torch.full((count,), -1)
    places[rows] = torch.arange(len(rows))
    return places
