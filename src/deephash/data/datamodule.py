"""From an image set to batches on the device. Pixels stay uint8 until they are there.

Where pixels lie is decided once. On the device: all of them if they fit, else those that train if
they fit, since they are seen in every epoch. The rest is gathered batch by batch, some batches
ahead, by threads: from the memory-mapped cache, from files that are decoded then, or from features.
"""

import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, NoReturn, TypeVar

import numpy as np
import torch
from torch import Tensor

from deephash.data.catalogue import Catalogue, ImageSet, select_classes
from deephash.data.feature_store import (
    FeatureStore,
    Table,
    digest_of,
    digest_of_rows,
    in_memory,
)
from deephash.data.lazy_arrays import Stacked, not_finite, origin
from deephash.data.sources.basic import Listing, Source
from deephash.data.sources.feature_formats import CannotWrite
from deephash.data.splits.base import ROLES, Split
from deephash.data.splits.protocols import Facts, SplitProtocol, choose_protocol, describe_split
from deephash.data.transfer import to_device
from deephash.data.transforms import Pipeline
from deephash.data.verification.data_warnings import doubts, doubts_of_split
from deephash.errors import DataError, WriteError
from deephash.types import Batch, generator
from deephash.utils.ground_truth import GroundTruth

log = logging.getLogger(__name__)

T = TypeVar("T")
B = TypeVar("B")

DENSE = 1 << 26  # labels of so many images times classes are rows of 0 and 1
AHEAD = 4  # threads that gather the next batches
SHOWN = 5  # examples in an error
HASHED = 1 << 30  # bytes of pixels in memory up to which they are compared by a digest
BLOCK = 256  # positions of images whose fixed views are drawn together, whatever the batch size is


class WithoutLabels:
    """A data module as a label-free method sees it: without what the labels are known by.

    Args:
        data: set up.

    Raises:
        RuntimeError: on the use of ``labels``, ``targets``, ``images`` or ``truth``.
    """

    HIDDEN = ("labels", "targets", "images", "truth")

    def __init__(self, data: "DataModule") -> None:
        self._data = data

    def __getattr__(self, name: str) -> Any:
        if name == "_data":  # of a copy that is being made
            raise AttributeError(name)
        if name in self.HIDDEN:
            raise RuntimeError(
                f"data.{name} is not there in label-free training: the loss (or method) declares"
                " labels = False. Declare labels = True there, or do not read it."
            )
        return getattr(self._data, name)


class DataModule:
    """A dataset under a protocol, as batches.

    Everything random is derived from `seed` and the epoch alone, so an epoch can be replayed
    without those before it. The seed of the split is the protocol's own.

    Args:
        name: of the dataset, for the record.
        source: where the images come from.
        protocol: how they are split.
        protocol_name: of the protocol, for the record.
        train_transform: makes a view of a training image.
        test_transform: prepares database, queries and validation; nothing in it is random.
        batch_size: training images per batch.
        eval_batch_size: images per batch otherwise.
        drop_last: drop the last training batch of an epoch if it is short.
        views: views of each training image: a number of passes of `train_transform`, or for each
            view the name of a pipeline: ``train``, ``test`` or one of `more_transforms`.
        streams: independently shuffled passes over the training images that a batch takes equal
            parts from, one after the other; an epoch goes once through each.
        seed: of order and augmentation.
        resident_limit_bytes: inputs up to this size are kept on the device, of all images or of
            those that train.
        expected: facts that must hold, by name, such as `{num_train: 5000}`; a fingerprint may be
            given by its first digits. They are those of all classes.
        classes: indices or names of the classes to use, in the order of their new numbers; the
            images of others do not exist then, for the protocol either. None: all.
        more_transforms: further pipelines by name, for `views`.
        unlabelled: name of the protocol that is used in place of `protocol` if no image has a
            label, and the protocol; None: `protocol` is used in any case.
        labels: whether training reads labels. False: all training images train, with a label or
            without, and their batches have none.

    Raises:
        DataError: on `setup`, an expected fact does not hold, there is no such class, an epoch has
            no batch, or features that are used hold NaN or an infinite value. On `train`, the
            views of an image differ in size.

    Example:
        >>> from deephash.data import Digits, PerClass
        >>> data = DataModule(
        ...     "digits", Digits(), PerClass(queries=10, train=50), "per_class",
        ...     Pipeline([]), Pipeline([]), batch_size=64,
        ... )
        >>> data.setup("cpu")
        >>> batch = next(iter(data.train(epoch=0)))
        >>> batch.images.shape, batch.labels.shape
        (torch.Size([64, 1, 3, 8, 8]), torch.Size([64, 10]))
    """

    def __init__(
        self,
        name: str,
        source: Source,
        protocol: SplitProtocol,
        protocol_name: str,
        train_transform: Pipeline,
        test_transform: Pipeline,
        batch_size: int,
        eval_batch_size: int = 256,
        drop_last: bool = True,
        views: int | Sequence[str] = 1,
        streams: int = 1,
        seed: int = 0,
        resident_limit_bytes: int = 4 << 30,
        expected: Mapping[str, object] | None = None,
        classes: Sequence[int | str] | None = None,
        more_transforms: Mapping[str, Pipeline] | None = None,
        labels: bool = True,
        unlabelled: tuple[str, SplitProtocol] | None = None,
    ):
        pipelines = {
            "train": train_transform, "test": test_transform, **(more_transforms or {})
        }  # fmt: skip
        names = ["train"] * views if isinstance(views, int) else list(views)
        if missing := [name for name in names if name not in pipelines]:
            raise DataError(
                f"method.views  there is no pipeline {missing[0]!r} in dataset.transforms."
                f" There are {', '.join(pipelines)}."
            )
        for key, value in (
            ("trainer.batch_size", batch_size),
            ("trainer.eval_batch_size", eval_batch_size),
            ("method.views", len(names)),
            ("method.streams", streams),
        ):
            if value < 1:
                raise DataError(f"{key}={value} must be at least 1")
        if batch_size % streams:
            raise DataError(
                f"trainer.batch_size={batch_size} is not a multiple of method.streams={streams}"
            )
        if test_transform.random:
            raise DataError("dataset.test_transform has a random step: it would change every score")
        self.name = name
        self.source = source
        self.protocol = protocol
        self.protocol_name = protocol_name
        self.unlabelled = unlabelled
        self.train_transform = train_transform
        self.test_transform = test_transform
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.drop_last = drop_last
        self.views = len(names)
        self.view_transforms = [(name, pipelines[name]) for name in names]
        self.streams = streams
        self.seed = seed
        self.resident_limit_bytes = resident_limit_bytes
        self.expected = expected
        self.classes = classes
        self.reads_labels = labels
        self._reader: tuple[str, str] | None = None
        self._catalogue: Catalogue | None = None  # until the images are loaded
        self._images: ImageSet | None = None
        self._split: Split | None = None
        self._facts: Facts | None = None
        self.features: Features | None = None  # served in place of images

    def require_labels(self, reader: str, instead: str) -> None:
        """Refuse images without any label.

        At once, before an image is opened, where the source can read its catalogue; else on
        `setup`.

        Args:
            reader: what needs the labels, such as `method=relahash reads labels`.
            instead: what to do, as one or more sentences.

        Raises:
            DataError: no image has a label; or as the source does.
        """
        self._reader = reader, instead
        if isinstance(self.source, Listing):
            self._catalogue = self.source.catalogue()
            self._refuse_unlabelled(self._catalogue)

    def setup(self, device: torch.device | str, trains: bool = True, epochs: bool = True) -> None:
        """Load, split, check, and move to the device what fits. A second call only moves.

        Args:
            device: where the batches will be.
            trains: whether training images are used.
            epochs: whether an epoch must have a batch, if they are used.

        Raises:
            DataError: see the class; or labels are required and there are none.
        """
        self.device = torch.device(device)
        if self._images is None:
            images, split, facts = self._load()
            # what has no label teaches nothing and would be similar to nothing, itself included
            places = np.arange(len(split.train))
            if self.reads_labels:
                places = np.flatnonzero(images.label_counts[split.train])
                if trains and len(split.train) and not len(places):
                    self._refuse(f"{len(split.train):,} training images")
            self._trainable = torch.from_numpy(places)
            count, part = len(self._trainable), self.batch_size // self.streams
            if trains and epochs and count < (part if self.drop_last else 1):
                raise DataError(
                    f"an epoch has no batch: {count} training images are fewer than "
                    f"trainer.batch_size={self.batch_size}. Try "
                    f"trainer.batch_size={max(1, count // 2) * self.streams}"
                )
            used = {role: getattr(split, role) for role in ROLES}
            used["train"] = split.train[places] if trains else split.train[:0]
            check_finite(images, used)
            pipelines = [self.train_transform, self.test_transform]
            pipelines += [pipeline for _, pipeline in self.view_transforms]
            steps = [step for pipeline in pipelines for step in pipeline.steps]
            if steps and not images.pictures:
                raise DataError(_images_needed([name for name, _ in self.view_transforms]))
            self._images, self._split, self._facts = images, split, facts
        images = self._images
        self._inputs, self._resident = self._placed(images.inputs)
        self._training = None
        if not self._resident:
            rows = self.split.train
            row = images.inputs.nbytes // len(images)
            if self.device.type != "cpu" and len(rows) * row <= self.resident_limit_bytes:
                parts = [self._gather(part) for part in torch.split(torch.from_numpy(rows), 4096)]
                self._training = torch.cat(parts).to(self.device)
        # one class an image, or none: its index, since rows of all landmarks would not fit
        labels = images.labels.toarray() if images.multilabel else images.class_indices
        self._labels = torch.from_numpy(labels).to(self.device)
        self._classes = torch.arange(len(images.classes), device=self.device)
        self._train_labels: Tensor | None = None
        self.train_transform.to(self.device)
        self.test_transform.to(self.device)
        for _, pipeline in self.view_transforms:
            pipeline.to(self.device)

    def _placed(self, inputs: Any) -> tuple[Any, bool]:
        """The inputs as a tensor where they can be one, and whether that lies on the device."""
        fits = inputs.nbytes <= self.resident_limit_bytes
        if not isinstance(inputs, np.ndarray):  # read when asked for
            if not (fits and isinstance(inputs, Stacked)):
                return inputs, False
            inputs = inputs[:]
        # torch wants memory it may write to; what came read-only is copied.
        tensor = torch.from_numpy(np.require(inputs, requirements=["C", "W"]))
        resident = fits or self.device.type == "cpu"
        return (tensor.to(self.device) if resident else tensor), resident

    def _load(self) -> tuple[ImageSet, Split, Facts]:
        """The images of the chosen classes, divided; the whole set is checked first."""
        if isinstance(self.source, Listing):
            catalogue = self._catalogue or self.source.catalogue()
            self._catalogue = None
            if not catalogue.labelled and self.classes is None:
                self._choose_protocol(catalogue)
                self.protocol.split(catalogue)  # which may need classes: before images are decoded
            images = self.source.load(catalogue)
        else:
            images = self.source.load()
            self._refuse_unlabelled(images)
        self._choose_protocol(images)
        chosen = images if self.classes is None else select_classes(images, self.classes)
        found = self._divide(chosen)
        for doubt in (*doubts(images), *doubts_of_split(found[1])):
            log.warning("%s", "\n".join(doubt.lines()).partition(": ")[2])
        if self.expected:
            whole = found if chosen is images else self._divide(images)
            check_facts(whole[2], self.expected)
        return found

    def _choose_protocol(self, images: Catalogue) -> None:
        """Take the protocol of images without labels if they have none."""
        chosen = choose_protocol(images, (self.protocol_name, self.protocol), self.unlabelled)
        if chosen[0] != self.protocol_name:
            log.warning("the images have no labels: dataset.protocol=%s, not %s",
                        chosen[0], self.protocol_name)  # fmt: skip
        self.protocol_name, self.protocol = chosen

    def _refuse_unlabelled(self, images: Catalogue) -> None:
        """Raises a DataError if labels are required and no image, or none that trains, has one."""
        if self._reader is None or getattr(images, "truth", None) is not None:
            return
        if not images.labelled:
            self._refuse(f"{len(images):,} images")
        listed = (images.lists or {}).get("train")
        if self.reads_labels and listed is not None and not images.label_counts[listed].any():
            self._refuse(f"{len(listed):,} training images")

    def _refuse(self, images: str) -> NoReturn:
        reader, instead = self._reader or ("the loss reads labels", "Give labels.")
        raise DataError(
            f"none of the {images} of dataset {self.name} has a label, and {reader}.\n  {instead}"
        )

    def _divide(self, images: ImageSet) -> tuple[ImageSet, Split, Facts]:
        split = self.protocol.split(images)
        name, seed = self.protocol_name, self.protocol.seed
        return images, split, describe_split(images, split, self.name, name, seed)

    @property
    def images(self) -> ImageSet:
        """What the source loaded, of the chosen classes."""
        return _ready(self._images)

    @property
    def has_labels(self) -> bool:
        """Whether there is a mAP: the images have labels, or lists say what is relevant."""
        return self.images.labelled or self.truth is not None

    @property
    def width(self) -> int | None:
        """D, where the inputs are features and no images."""
        images = self.images
        return None if images.pictures else int(images.inputs.shape[1])

    @property
    def truth(self) -> GroundTruth | None:
        """What queries should find in the database, in their order in the split; None: labels."""
        return self.images.truth

    @property
    def split(self) -> Split:
        """Who plays which role, as rows of `images`."""
        return _ready(self._split)

    @property
    def train_ids(self) -> "Ids":
        """The id of each training image, by its place in the split."""
        return Ids(self.images.ids, self.split.train)

    @property
    def facts(self) -> Facts:
        """What the split turned out to be."""
        return _ready(self._facts)

    @property
    def num_trainable(self) -> int:
        """Training images that are used: those with a label, or all if no labels are read."""
        _ready(self._split)
        return len(self._trainable)

    @property
    def train_rows(self) -> np.ndarray:
        """Rows of `images` that are used for training, in the order of the split: (n,) int64."""
        rows: np.ndarray = self.split.train[self._trainable.numpy()]
        return rows

    @property
    def smallest_batch(self) -> int:
        """Encoded images, all views of them, of the smallest training batch of an epoch."""
        part = self.batch_size // self.streams
        rest = 0 if self.drop_last else self.num_trainable % part
        return (rest or part) * self.streams * self.views

    @property
    def steps(self) -> int:
        """Batches per epoch."""
        _ready(self._split)
        count, part = len(self._trainable), self.batch_size // self.streams
        return count // part if self.drop_last else -(-count // part)

    def train(self, epoch: int) -> Iterator[Batch]:
        """The batches of one epoch, shuffled and augmented; `index` is the place in split.train.

        If labels are read, training images without a label are left out; if not, batches have none.
        """
        rows = torch.from_numpy(self.split.train)
        draw = generator(self.seed, "augment", epoch)
        labels = self._labels_of_training() if self.reads_labels else None
        if self.features is not None and self.features.views:
            for index, features in self._rows_of(self._tables(epoch), self._order(epoch)):
                yield Batch(features, None if labels is None else labels(index), index)
            return
        for index, pixels in self._walk(rows, self._order(epoch), self._training):
            views = [transform(pixels, draw) for _, transform in self.view_transforms]
            images = self._stacked(views) if len(views) > 1 else _only(views)
            yield Batch(images, None if labels is None else labels(index), index)

    def _tables(self, epoch: int) -> list[Table]:
        """For each view the features that the images have in an epoch, by place in the split.

        Of n fixed views each view of an image takes one, chosen at random by seed and epoch; views
        of one pipeline take different ones.
        """
        served = _ready(self.features)
        names = [name for name, _ in self.view_transforms]
        tables = [served.views[name] for name in names]
        for name, pipeline in dict(self.view_transforms).items():
            if not pipeline.random:
                continue
            table, draws = served.views[name], _ready(served.draws)
            numbers = generator(self.seed, "cached_views", epoch, name)
            drawn = torch.rand(len(table.places), draws, generator=numbers)
            order = drawn.argsort(dim=1, stable=True)
            of_name = [at for at, other in enumerate(names) if other == name]
            for column, at in enumerate(of_name):
                places = table.places + order[:, column] * (len(table.rows) // draws)
                tables[at] = replace(table, places=places)
        return tables

    def _stacked(self, views: list[Tensor]) -> Tensor:
        """Stack views of a batch: several (b, 3, H, W) to (b, V, 3, H, W).

        Raises:
            DataError: they differ in size.
        """
        if len({view.shape for view in views}) > 1:
            sizes = [
                f"{name} gives {'x'.join(map(str, view.shape[2:]))}"
                for (name, _), view in zip(self.view_transforms, views, strict=True)
            ]
            raise DataError(
                f"method.views  all views of an image must have one size: {', '.join(sizes)}."
                " Change dataset.transforms so that their outputs are of the same size."
            )
        return torch.stack(views, dim=1)

    def eval_batches(self, ids: np.ndarray | Tensor) -> Iterator[Batch]:
        """Images by row, in the order given and one view each; `index` is the place in `ids`."""
        rows = torch.as_tensor(ids, dtype=torch.int64, device="cpu")
        places = torch.split(torch.arange(len(rows)), self.eval_batch_size) if len(rows) else ()
        there = to_device(rows, self.device)
        if self.features is not None and (self.features.evaluated.places[rows] >= 0).all():
            known = torch.split(rows, self.eval_batch_size) if len(rows) else ()
            served = self._rows_of([self.features.evaluated], known)
            for index, (_, features) in zip(places, served, strict=True):
                index = to_device(index, self.device)
                yield Batch(features, self.labels(there[index]), index)
            return
        for index, pixels in self._walk(rows, list(places)):
            yield Batch(_only([self.test_transform(pixels)]), self.labels(there[index]), index)

    @property
    def random(self) -> bool:
        """Whether a view of a training image differs from epoch to epoch."""
        return any(pipeline.random for _, pipeline in self.view_transforms)

    @torch.no_grad()
    def serve_features(
        self,
        compute: Callable[[Tensor], Tensor],
        width: int,
        train: bool,
        store: FeatureStore | None = None,
        draws: int | None = None,
    ) -> "Features | None":
        """Compute the features of all images once, and serve them in place of images from now on.

        A batch then has features (B, V, D) where it had images (B, V, 3, H, W): in `train`, and in
        `eval_batches` for images that have a role. Images are computed in batches of
        `eval_batch_size`. A view whose pipeline is that of the test is not computed again. If all
        features take more than `resident_limit_bytes`, they are read from the store's disk.

        Args:
            compute: images (b, 3, H, W) on the device to features (b, D).
            width: D.
            train: whether training batches have features.
            store: where features are kept for other runs; None to keep none.
            draws: n, fixed views of each training image under each random pipeline, in place of
                new ones in each epoch; None if no view is random. What they are depends on the
                pipeline and the position of the image, not on `seed` or `eval_batch_size`.

        Returns:
            What is served from now on; None if nothing is, because the features take more than
            `resident_limit_bytes` and cannot be kept in the store, which is logged.
        """
        split, began = self.split, time.perf_counter()
        rows = np.unique(
            np.concatenate([split.database, split.queries, split.validation, self.train_rows])
        )
        pipelines = dict(self.view_transforms) if train else {}
        others = {
            name: pipeline
            for name, pipeline in pipelines.items()
            if not pipeline.equals(self.test_transform)
        }
        fixed = {
            name: (name, _ready(draws)) if pipeline.random else None
            for name, pipeline in others.items()
        }
        count = len(rows)
        for one in fixed.values():
            count += self.num_trainable * (1 if one is None else one[1])
        always = count * width * torch.float32.itemsize > self.resident_limit_bytes
        known = all(one.settings is not None for one in (self.test_transform, *others.values()))
        if not self._known or (always and not known):
            store = None
        excess = (
            f"the features of the frozen backbone take more than {self._limit}: each epoch and"
            " evaluation computes them anew"
        )
        if always and store is None:
            log.warning("%s, since they are not kept on the disk", excess)
            return None
        content = self._content if store is not None else lambda _: ""
        try:
            evaluated = self._table(
                compute, width, self.test_transform, rows, content(rows), store, always
            )
            place = torch.full((len(self.images),), -1)
            place[torch.from_numpy(rows)] = torch.arange(len(rows))
            evaluated = replace(evaluated, places=place)
            trained = replace(evaluated, places=place[torch.from_numpy(split.train)], computed=0)
            views = dict.fromkeys(pipelines, trained)
            trains = self.train_rows
            images = content(trains) if others else ""
            for name, pipeline in others.items():
                table = self._table(
                    compute, width, pipeline, trains, images, store, always, fixed[name]
                )
                place = torch.full((len(split.train),), -1)
                place[self._trainable] = torch.arange(self.num_trainable)
                views[name] = replace(table, places=place)
        except (CannotWrite, WriteError) as error:
            log.warning("%s, since they cannot be kept on the disk: %s", excess, error)
            return None
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        tables = [evaluated, *(views[name] for name in others)]
        count, computed = sum(len(one.rows) for one in tables), sum(one.computed for one in tables)
        seconds = time.perf_counter() - began
        self.features = Features(views, evaluated, count, computed, seconds, draws)
        return self.features

    @property
    def _limit(self) -> str:
        size = self.resident_limit_bytes
        return f"{size / (1 << 30):.3g} GiB" if size >= 1 << 30 else f"{size / (1 << 20):.3g} MiB"

    @property
    def _known(self) -> bool:
        """Whether a digest of the images can be had: of files, or of pixels that are not many."""
        inputs = self.images.inputs
        known = isinstance(inputs, np.ndarray) and inputs.nbytes <= HASHED
        return self.images.stamp is not None or known

    def _content(self, rows: np.ndarray) -> str:
        """A digest of some images that are `_known`, ids and pixels or files."""
        images = self.images
        stamp = images.stamp or digest_of_rows(images.inputs, rows)
        return digest_of([stamp, *(images.ids[row] for row in rows)])

    def _table(
        self,
        compute: Callable[[Tensor], Tensor],
        width: int,
        pipeline: Pipeline,
        rows: np.ndarray,
        images: str,
        store: FeatureStore | None,
        always: bool,
        fixed: tuple[str, int] | None = None,
    ) -> Table:
        """Features of some images, by row.

        `images` is the digest of the images. `fixed` is the name of a random pipeline and n, its
        fixed views of each image: all first views come first, then all second ones, ...
        """
        every = torch.from_numpy(rows)
        name, draws = fixed or ("", 1)
        count = draws * len(rows)
        # fixed views are drawn block by block, so that they are the same in all sizes of a batch
        batch = min(self.eval_batch_size, BLOCK) if fixed else self.eval_batch_size
        block = BLOCK if fixed else batch

        def blocks(start: int) -> Iterator[Tensor]:
            first, start = divmod(start, len(rows))
            for draw in range(first, draws):
                skipped = start % block  # of the first block, when an interrupted entry goes on
                parts = torch.split(torch.arange(start - skipped, len(rows)), block)
                for part, (_, pixels) in zip(parts, self._walk(every, parts), strict=True):
                    numbers = fixed and generator(0, "cached_views", name, draw, int(part[0]))
                    for views in torch.split(pipeline(pixels, numbers)[skipped:], batch):
                        yield compute(views).float()
                    skipped = 0
                start = 0

        if store is None or pipeline.settings is None:
            features, computed = in_memory(blocks(0), count, width, self.device)
        else:
            content = {"images": images, "pipeline": pipeline.settings, "batch": batch}
            if fixed:
                content |= {"name": name, "views": draws, "block": block}
            features, computed = store.load(
                content, count, width, blocks, self.device, always, {"dataset": self.name}
            )
        if not always:
            features = features.to(self.device)
        return Table(features, torch.arange(len(rows)), computed)

    @property
    def for_training(self) -> Any:
        """The data as a method may see them: of a label-free one, without the labels."""
        return self if self.reads_labels else WithoutLabels(self)

    def _rows_of(
        self, tables: Sequence[Table], batches: Sequence[Tensor]
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Places (b,), and the features of each table at them, (b, V, D), batch by batch.

        Both are on the device. Tables that are not are gathered ahead, by threads.
        """
        if not batches:
            return
        sizes, order = [len(one) for one in batches], torch.cat(list(batches))
        places = torch.split(to_device(order, self.device), sizes)
        if all(table.rows.device == self.device for table in tables):
            wanted = [
                torch.split(to_device(table.places[order], self.device), sizes) for table in tables
            ]
            for index, *rows in zip(places, *wanted, strict=True):
                yield index, gathered(tables, rows)
            return

        def gather(batch: Tensor) -> Tensor:
            features = gathered(tables, [table.places[batch] for table in tables])
            return features.pin_memory() if self.device.type == "cuda" else features

        for index, features in zip(places, ahead(gather, batches), strict=True):
            yield index, features.to(self.device, non_blocking=True)

    def labels(self, ids: np.ndarray | Tensor) -> Tensor:
        """Labels of images by row: (n, C) float32 on the device."""
        _ready(self._images)
        rows = self._labels[self._on_device(ids)]
        return (rows if rows.ndim == 2 else rows[:, None] == self._classes).float()

    def targets(self, ids: np.ndarray | Tensor) -> Tensor:
        """Labels of images by row, as retrieval compares them.

        Returns:
            (n, C) float32 on the device, as of ``labels``; or (n,) int64 class indices, of all
            images of the set alike: where each has one label, and their rows would take more than
            ``DENSE`` numbers.
        """
        images = self.images
        if len(images) * len(images.classes) <= DENSE or (images.label_counts != 1).any():
            return self.labels(ids)
        return self._labels[self._on_device(ids)]

    def _on_device(self, ids: np.ndarray | Tensor) -> Tensor:
        return to_device(torch.as_tensor(ids, dtype=torch.int64), self.device)

    def _labels_of_training(self) -> Callable[[Tensor], Tensor]:
        """Return a function from places of training images to labels, (n, C) float32.

        Their rows are made once, so that a batch takes one operator, unless they would take much
        memory.
        """
        rows = self._on_device(self.split.train)
        if len(rows) * len(self.images.classes) > DENSE:
            return lambda index: self.labels(rows[index])
        if self._train_labels is None:
            self._train_labels = self.labels(rows)
        return self._train_labels.__getitem__

    def _order(self, epoch: int) -> list[Tensor]:
        """The places of the training images, batch by batch."""
        parts = []
        for stream in range(self.streams):
            name = ("order", epoch, stream) if stream else ("order", epoch)
            shuffled = torch.randperm(len(self._trainable), generator=generator(self.seed, *name))
            parts.append(torch.split(self._trainable[shuffled], self.batch_size // self.streams))
        return [torch.cat(batch) for batch in zip(*parts, strict=True)][: self.steps]

    def _walk(
        self, rows: Tensor, batches: Sequence[Tensor], held: Tensor | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Places (b,) int64 and inputs (b, ...), both on the device, batch by batch.

        All places go there at once: a copy for each batch would wait for the batch before.

        Args:
            rows: of the images, by place.
            batches: places.
            held: the inputs of these rows, where they are on the device already.
        """
        if not batches:
            return
        order = torch.cat(list(batches))
        places = torch.split(to_device(order, self.device), [len(one) for one in batches])
        if held is None and not self._resident:
            coming = ahead(lambda index: self._gather(rows[index]), batches)
            for index, inputs in zip(places, coming, strict=True):
                yield index, inputs.to(self.device, non_blocking=True)
            return
        wanted = places
        if held is None:
            held = self._inputs
            wanted = torch.split(to_device(rows[order], self.device), [len(one) for one in batches])
        for index, row in zip(places, wanted, strict=True):
            yield index, held[row]

    def _gather(self, rows: Tensor) -> Tensor:
        """The inputs of some rows, in memory that a CUDA device copies from by itself."""
        if isinstance(self._inputs, Tensor):
            found = self._inputs[rows]
        else:
            found = torch.from_numpy(self._inputs[rows.numpy()])
        return found.pin_memory() if self.device.type == "cuda" else found


def _images_needed(views: Sequence[str]) -> str:
    """Say why pipelines cannot be applied to features, and what to type instead."""
    own = [name for name in dict.fromkeys(views) if name not in ("train", "test")]
    if not own:
        return (
            "views are made of images, and these are features: set views=null and "
            "dataset.transforms to {train: [], test: []}"
        )
    return (
        f"method.views  the method trains on views ({', '.join(own)}), which are made of images,"
        " and these are features.\n"
        "              Train it on images: backbone.frozen=true method.cached_views=8 encodes them"
        " once.\n"
        "              Or choose a method on one view (docs/unsupervised.md)."
    )


def _only(views: list[Tensor]) -> Tensor:
    """Add the axis of views to a single view: (b, 3, H, W) to (b, 1, 3, H, W), contiguous."""
    (images,) = views
    return images.contiguous().unsqueeze(1)


@dataclass(frozen=True)
class Features:
    """Features that are served in place of images.

    Args:
        views: of the training images by the name of a view's pipeline, by place in the split;
            empty if none are served.
        evaluated: of the images that have a role, by their row in the set.
        count: features in all.
        computed: how many of them were computed now; the others were in the store.
        seconds: that computing and reading them took.
        draws: n, fixed views of each image in the tables of random pipelines.
    """

    views: Mapping[str, Table]
    evaluated: Table
    count: int
    computed: int
    seconds: float
    draws: int | None = None


def gathered(tables: Sequence[Table], rows: Sequence[Tensor]) -> Tensor:
    """Rows (b,) of each of V tables: (b, V, D)."""
    parts = [table.rows[row] for table, row in zip(tables, rows, strict=True)]
    return parts[0].unsqueeze(1) if len(parts) == 1 else torch.stack(parts, dim=1)


class Ids:
    """The ids of some rows, looked up when they are asked for."""

    def __init__(self, ids: Sequence[str], rows: np.ndarray) -> None:
        self._ids, self._rows = ids, rows

    def __getitem__(self, place: int) -> str:
        name: str = self._ids[self._rows[place]]
        return name


def ahead(make: Callable[[B], T], batches: Sequence[B], threads: int = AHEAD) -> Iterator[T]:
    """Makes each batch in a thread while those before it are in use, in order.

    Twice as many batches as threads are in memory.
    """
    with ThreadPoolExecutor(threads) as pool:
        coming = deque(pool.submit(make, batch) for batch in batches[: 2 * threads])
        try:
            for batch in [*batches[2 * threads :], *[None] * len(coming)]:
                found = coming.popleft().result()
                if batch is not None:
                    coming.append(pool.submit(make, batch))
                yield found
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _ready(value: T | None) -> T:
    if value is None:
        raise DataError("call setup(device) before the data is used")
    return value


def check_finite(images: ImageSet, used: Mapping[str, np.ndarray]) -> None:
    """Check that no feature which plays a role is NaN or infinite. Pixels always are finite.

    Args:
        images: the set.
        used: role -> rows of the set.

    Raises:
        DataError: naming file, row and id of the first ones.
    """
    if images.pictures:
        return
    rows = np.unique(np.concatenate(list(used.values())))
    broken = not_finite(images.inputs, rows)
    if not len(broken):
        return
    examples = []
    for row in broken[:SHOWN].tolist():
        values = images.inputs[np.array([row])][0]
        column = int(np.argmin(np.isfinite(values)))
        roles = " and ".join(role for role, those in used.items() if row in those)
        place = origin(images.inputs, row)
        examples.append(
            f"{images.ids[row]} ({roles}): {values[column]} in column {column}"
            + ("" if place is None else f" of {place}")
        )
    more = len(broken) - len(examples)
    raise DataError(
        f"{len(broken):,} of {len(rows):,} features hold NaN or infinite values (of "
        f"{images.inputs.dtype}; rows and columns count from 0):\n  "
        + "\n  ".join([*examples, *[f"and {more:,} more"] * (more > 0)])
        + "\nRepair these rows, or remove them with their labels and ids"
    )


def check_facts(facts: Facts, expected: Mapping[str, object]) -> None:
    """Compare the facts with what the configuration says they are.

    Raises:
        DataError: they differ.
    """
    found = facts.as_dict()
    problems = []
    for key, value in expected.items():
        if key not in found:
            problems.append(f"{key} is no fact; known are {', '.join(found)}")
        elif key == "fingerprint" and str(found[key]).startswith(str(value)) and value:
            continue
        elif found[key] != value:
            problems.append(f"{key} should be {value} and is {found[key]}")
    if problems:
        raise DataError(
            f"dataset {facts.dataset} under protocol {facts.protocol} is not what dataset.expected "
            "says:\n  "
            + "\n  ".join(problems)
            + "\nFor other images or lists than the published ones: dataset.expected=null"
        )
