"""Batches of a dataset under a split protocol, on the device."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NoReturn, TypeVar

import numpy as np
import torch
from torch import Tensor

from deephash.data.catalogue import Catalogue, ImageSet, select_classes
from deephash.data.input_loader import InputLoader
from deephash.data.lazy_arrays import nonfinite_rows, row_origin
from deephash.data.precomputed_features import PrecomputedFeatures, table_batches
from deephash.data.sources.basic import Listing, Source
from deephash.data.splits.base import ROLES, Split
from deephash.data.splits.protocols import Facts, SplitProtocol, choose_protocol, describe_split
from deephash.data.transfer import to_device
from deephash.data.transforms import Pipeline
from deephash.data.verification.data_warnings import warn_of_images, warn_of_split
from deephash.errors import DataError
from deephash.types import Batch, generator
from deephash.utils.ground_truth import GroundTruth

log = logging.getLogger(__name__)

T = TypeVar("T")

MAX_DENSE_LABELS = 1 << 26  # images times classes up to which labels are rows of 0 and 1
MAX_EXAMPLES = 5  # in an error message


class WithoutLabels:
    """View of a data module for label-free training, without access to labels.

    Args:
        data: a data module that is set up.

    Raises:
        RuntimeError: on access to ``labels``, ``targets``, ``images`` or ``truth``.
    """

    HIDDEN = ("labels", "targets", "images", "truth")

    def __init__(self, data: "DataModule") -> None:
        self._data = data

    def __getattr__(self, name: str) -> Any:
        if name == "_data":  # while the object is copied
            raise AttributeError(name)
        if name in self.HIDDEN:
            raise RuntimeError(
                f"data.{name} is not available in label-free training: the loss (or method)"
                " declares labels = False. Declare labels = True there, or do not read it."
            )
        return getattr(self._data, name)


class DataModule:
    """A dataset under a split protocol, as batches.

    All randomness is derived from `seed` and the epoch, so an epoch can be replayed without those
    before it. The protocol has its own seed for the split.

    Args:
        name: name of the dataset, for reports.
        source: where the images come from.
        protocol: how they are split.
        protocol_name: name of the protocol, for reports.
        train_transform: makes a view of a training image.
        test_transform: prepares database, query and validation images; without random steps.
        batch_size: training images per batch.
        eval_batch_size: images per batch otherwise.
        drop_last: drop the last training batch of an epoch if it is short.
        views: views of each training image: a number of passes of `train_transform`, or for each
            view the name of a pipeline: ``train``, ``test`` or one of `more_transforms`.
        streams: number of independently shuffled passes over the training images. A batch takes
            equal parts of them, one after the other; an epoch goes once through each.
        seed: seed of the order and the augmentation.
        resident_limit_bytes: inputs up to this size are kept on the device, of all images or of
            the training images.
        expected: facts that must hold, by name, such as `{num_train: 5000}`; a fingerprint may be
            shortened to its first digits. They are those of all classes.
        classes: indices or names of the classes to use, in the order of their new numbers. Images
            of other classes are removed before the split. None: all classes.
        more_transforms: further pipelines by name, for `views`.
        unlabelled: name and protocol that replace `protocol_name` and `protocol` if no image has a
            label. None: `protocol` is used in any case.
        labels: whether training reads labels. If False, all training images are used, labelled or
            not, and their batches have no labels.

    Raises:
        DataError: on `setup`: an expected fact does not hold, a class does not exist, an epoch has
            no batch, or a used feature is NaN or infinite. On `train`: the views of an image differ
            in size.

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
        pipelines = {"train": train_transform, "test": test_transform, **(more_transforms or {})}
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
            raise DataError(
                "dataset.test_transform has a random step, which would change every score"
            )
        self.name = name
        self.source = source
        self.protocol = protocol
        self.protocol_name = protocol_name
        self.unlabelled = unlabelled
        self.test_transform = test_transform
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.drop_last = drop_last
        self.view_transforms = [(name, pipelines[name]) for name in names]
        self.streams = streams
        self.seed = seed
        self.resident_limit_bytes = resident_limit_bytes
        self.expected = expected
        self.classes = classes
        self.reads_labels = labels
        self.features: PrecomputedFeatures | None = None  # set by `precompute_features`
        self._pipelines = [train_transform, test_transform, *(pipelines[name] for name in names)]
        self._label_reader: tuple[str, str] | None = None
        self._catalogue: Catalogue | None = None  # kept until the images are loaded
        self._images: ImageSet | None = None
        self._split: Split | None = None
        self._facts: Facts | None = None

    def require_labels(self, reader: str, instead: str) -> None:
        """Refuse images without any label.

        If the source can read its catalogue, they are refused at once, before an image is opened,
        otherwise on `setup`.

        Args:
            reader: what needs the labels, such as `method=relahash reads labels`.
            instead: what to do, as one or more sentences.

        Raises:
            DataError: no image has a label; or as the source does.
        """
        self._label_reader = reader, instead
        if isinstance(self.source, Listing):
            self._catalogue = self.source.catalogue()
            self._refuse_unlabelled(self._catalogue)

    def setup(self, device: torch.device | str, trains: bool = True, epochs: bool = True) -> None:
        """Load, split and check the data, and move to the device what fits.

        A second call only moves.

        Args:
            device: where batches are needed.
            trains: whether training images are used.
            epochs: whether an epoch must have a batch, if training images are used.

        Raises:
            DataError: see the class; or labels are required and there are none.
        """
        self.device = torch.device(device)
        if self._images is None:
            self._load_and_check(trains, epochs)
        images = self.images
        self.loader = InputLoader(
            images.inputs, self.device, self.resident_limit_bytes, self.split.train
        )
        # class indices where possible: dense rows of 81,313 landmarks would not fit
        labels = images.labels.toarray() if images.multilabel else images.class_indices
        self._labels = torch.from_numpy(labels).to(self.device)
        self._classes = torch.arange(len(images.classes), device=self.device)
        self._train_labels: Tensor | None = None
        for pipeline in self._pipelines:
            pipeline.to(self.device)

    def _load_and_check(self, trains: bool, epochs: bool) -> None:
        images, split, facts = self._load()
        # an image without labels is similar to no image, itself included: no loss learns from it
        places = np.arange(len(split.train))
        if self.reads_labels:
            places = np.flatnonzero(images.label_counts[split.train])
            if trains and len(split.train) and not len(places):
                self._refuse(f"{len(split.train):,} training images")
        self.trainable = torch.from_numpy(places)  # places in split.train of the images in use
        count, part = len(places), self.batch_size // self.streams
        if trains and not len(split.train):
            raise DataError(
                f"dataset {self.name} has no training images. Train on other data and evaluate "
                f"that run: deephash evaluate run=RUN dataset={self.name}. Features can be trained "
                "on the database itself: dataset.source.train=database"
            )
        if trains and epochs and count < (part if self.drop_last else 1):
            raise DataError(
                f"an epoch has no batch: {count} training images are fewer than "
                f"trainer.batch_size={self.batch_size}. Try "
                f"trainer.batch_size={max(1, count // 2) * self.streams}"
            )
        used = {role: getattr(split, role) for role in ROLES}
        used["train"] = split.train[places] if trains else split.train[:0]
        check_finite(images, used)
        if not images.pictures and any(pipeline.steps for pipeline in self._pipelines):
            raise DataError(_images_needed([name for name, _ in self.view_transforms]))
        self._images, self._split, self._facts = images, split, facts

    def _load(self) -> tuple[ImageSet, Split, Facts]:
        """Load the images of the chosen classes and split them; check the expected facts."""
        if isinstance(self.source, Listing):
            catalogue = self._catalogue or self.source.catalogue()
            self._catalogue = None
            if not catalogue.labelled and self.classes is None:
                self._choose_protocol(catalogue)
                self._draw(catalogue)  # may need labels: fail before images are decoded
            images = self.source.load(catalogue)
        else:
            images = self.source.load()
            self._refuse_unlabelled(images)
        self._choose_protocol(images)
        chosen = images if self.classes is None else select_classes(images, self.classes)
        split, facts = self._split_images(chosen)
        for finding in (*warn_of_images(images), *warn_of_split(split)):
            log.warning("%s", "\n".join(finding.lines()).partition(": ")[2])
        if self.expected:
            whole = facts if chosen is images else self._split_images(images)[1]
            check_facts(whole, self.expected)
        return chosen, split, facts

    def _choose_protocol(self, images: Catalogue) -> None:
        """Switch to the protocol for images without labels if no image has one."""
        name, protocol = choose_protocol(
            images, (self.protocol_name, self.protocol), self.unlabelled
        )
        if name != self.protocol_name:
            log.warning(
                "the images have no labels: dataset.protocol=%s is used instead of %s",
                name,
                self.protocol_name,
            )
        self.protocol_name, self.protocol = name, protocol

    def _refuse_unlabelled(self, images: Catalogue) -> None:
        """Raise a DataError if labels are required and no (training) image has one."""
        if self._label_reader is None or getattr(images, "truth", None) is not None:
            return
        if not images.labelled:
            self._refuse(f"{len(images):,} images")
        listed = (images.lists or {}).get("train")
        if self.reads_labels and listed is not None and not images.label_counts[listed].any():
            self._refuse(f"{len(listed):,} training images")

    def _refuse(self, images: str) -> NoReturn:
        reader, instead = self._label_reader or ("the loss reads labels", "Give labels.")
        raise DataError(
            f"none of the {images} of dataset {self.name} has a label, and {reader}.\n  {instead}"
        )

    def _split_images(self, images: ImageSet) -> tuple[Split, Facts]:
        split = self._draw(images)
        name, seed = self.protocol_name, self.protocol.seed
        return split, describe_split(images, split, self.name, name, seed)

    def _draw(self, images: Catalogue) -> Split:
        """Split images; messages of errors contain the name of the protocol."""
        try:
            return self.protocol.split(images)
        except DataError as error:
            message = str(error).replace(
                "protocols.<protocol>.", f"protocols.{self.protocol_name}."
            )
            raise DataError(message) from error

    @property
    def images(self) -> ImageSet:
        """The loaded images of the chosen classes."""
        return _after_setup(self._images)

    @property
    def has_labels(self) -> bool:
        """Whether a mAP can be computed: images have labels, or lists define relevance."""
        return self.images.labelled or self.truth is not None

    @property
    def width(self) -> int | None:
        """D if the inputs are features, None if they are images."""
        images = self.images
        return None if images.pictures else int(images.inputs.shape[1])

    @property
    def truth(self) -> GroundTruth | None:
        """Relevant and junk items of each query, in the order of the split; None: labels decide."""
        return self.images.truth

    @property
    def split(self) -> Split:
        """The role of each image, as rows of `images`."""
        return _after_setup(self._split)

    @property
    def facts(self) -> Facts:
        """Sizes, statistics and fingerprint of the split."""
        return _after_setup(self._facts)

    @property
    def views(self) -> int:
        """Number of views of each training image."""
        return len(self.view_transforms)

    @property
    def random(self) -> bool:
        """Whether a view of a training image differs from epoch to epoch."""
        return any(pipeline.random for _, pipeline in self.view_transforms)

    @property
    def train_ids(self) -> tuple[str, ...]:
        """The id of each training image, by its place in the split."""
        ids = self.images.ids
        return tuple(ids[row] for row in self.split.train)

    @property
    def num_trainable(self) -> int:
        """Number of training images in use: those with a label, or all if no labels are read."""
        _after_setup(self._split)
        return len(self.trainable)

    @property
    def train_rows(self) -> np.ndarray:
        """Rows of `images` of the training images in use, in the order of the split: (n,) int64."""
        rows: np.ndarray = self.split.train[self.trainable.numpy()]
        return rows

    @property
    def smallest_batch(self) -> int:
        """Number of encoded images, all views of them, in the smallest batch of an epoch."""
        part = self.batch_size // self.streams
        rest = 0 if self.drop_last else self.num_trainable % part
        return (rest or part) * self.streams * self.views

    @property
    def steps(self) -> int:
        """Batches per epoch."""
        count, part = self.num_trainable, self.batch_size // self.streams
        return count // part if self.drop_last else -(-count // part)

    @property
    def for_training(self) -> Any:
        """The data as training may access them: without labels if the method declares so."""
        return self if self.reads_labels else WithoutLabels(self)

    def train(self, epoch: int) -> Iterator[Batch]:
        """Iterate over the shuffled and augmented batches of an epoch.

        If labels are read, training images without a label are left out; otherwise batches have no
        labels. `Batch.index` is the place in `split.train`.
        """
        draw = generator(self.seed, "augment", epoch)
        labels = self._train_labels_lookup() if self.reads_labels else None
        order = self._order(epoch)
        if self.features is not None and self.features.views:
            tables = self.features.for_epoch(self.view_transforms, self.seed, epoch)
            batches = table_batches(tables, order, self.device)
        else:
            rows = torch.from_numpy(self.split.train)
            batches = (
                (
                    index,
                    self._stack([transform(pixels, draw) for _, transform in self.view_transforms]),
                )
                for index, pixels in self.loader.batches(rows, order, training=True)
            )
        for index, inputs in batches:
            yield Batch(inputs, None if labels is None else labels(index), index)

    def _stack(self, views: list[Tensor]) -> Tensor:
        """Stack V views of a batch: (b, 3, H, W) each to (b, V, 3, H, W), contiguous.

        Raises:
            DataError: they differ in size.
        """
        if len(views) == 1:
            return views[0].contiguous().unsqueeze(1)
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
        """Iterate over images by row, in the order given, one view each.

        `Batch.index` is the place in `ids`.
        """
        rows = torch.as_tensor(ids, dtype=torch.int64, device="cpu")
        if not len(rows):
            return
        places = torch.split(torch.arange(len(rows)), self.eval_batch_size)
        device_rows = to_device(rows, self.device)
        served = self.features
        if served is not None and (served.evaluated.places[rows] >= 0).all():
            batches = torch.split(rows, self.eval_batch_size)
            features = table_batches([served.evaluated], batches, self.device)
            inputs = (
                (to_device(index, self.device), part)
                for index, (_, part) in zip(places, features, strict=True)
            )
        else:
            inputs = (
                (index, self._stack([self.test_transform(pixels)]))
                for index, pixels in self.loader.batches(rows, places)
            )
        for index, part in inputs:
            yield Batch(part, self.labels(device_rows[index]), index)

    def labels(self, ids: np.ndarray | Tensor) -> Tensor:
        """Return the labels of images by row: (n, C) float32 on the device."""
        _after_setup(self._images)
        rows = self._labels[self._on_device(ids)]
        return (rows if rows.ndim == 2 else rows[:, None] == self._classes).float()

    def targets(self, ids: np.ndarray | Tensor) -> Tensor:
        """Return the labels of images by row, as retrieval compares them.

        Returns:
            (n, C) float32 on the device, as of ``labels``. If each image of the set has exactly
            one label and dense labels would take more than ``MAX_DENSE_LABELS`` numbers: (n,)
            int64 class indices.
        """
        images = self.images
        dense = len(images) * len(images.classes) <= MAX_DENSE_LABELS
        if dense or (images.label_counts != 1).any():
            return self.labels(ids)
        return self._labels[self._on_device(ids)]

    def _on_device(self, ids: np.ndarray | Tensor) -> Tensor:
        return to_device(torch.as_tensor(ids, dtype=torch.int64), self.device)

    def _train_labels_lookup(self) -> Callable[[Tensor], Tensor]:
        """Return a function from places of training images to labels, (n, C) float32.

        Dense rows are made once, so that a batch takes one operator, unless they are too large.
        """
        rows = self._on_device(self.split.train)
        if len(rows) * len(self.images.classes) > MAX_DENSE_LABELS:
            return lambda index: self.labels(rows[index])
        if self._train_labels is None:
            self._train_labels = self.labels(rows)
        return self._train_labels.__getitem__

    def _order(self, epoch: int) -> list[Tensor]:
        """Return the places of the training images of each batch."""
        streams = []
        for stream in range(self.streams):
            name = ("order", epoch, stream) if stream else ("order", epoch)
            shuffled = torch.randperm(len(self.trainable), generator=generator(self.seed, *name))
            streams.append(torch.split(self.trainable[shuffled], self.batch_size // self.streams))
        return [torch.cat(parts) for parts in zip(*streams, strict=True)][: self.steps]


def _images_needed(views: Sequence[str]) -> str:
    """Return why pipelines cannot be applied to features, and what to type instead."""
    named = [name for name in dict.fromkeys(views) if name not in ("train", "test")]
    if not named:
        return (
            "views are made of images, and these are features: set views=null and "
            "dataset.transforms to {train: [], test: []}"
        )
    return (
        f"method.views  the method trains on views ({', '.join(named)}), which are made of images,"
        " and these are features.\n"
        "              Train it on images: backbone.frozen=true method.cached_views=8 encodes them"
        " once.\n"
        "              Or choose a method on one view (docs/unsupervised.md)."
    )


def _after_setup(value: T | None) -> T:
    if value is None:
        raise DataError("call setup(device) before the data is used")
    return value


def check_finite(images: ImageSet, used: Mapping[str, np.ndarray]) -> None:
    """Check that no used feature is NaN or infinite. Pixels are always finite.

    Args:
        images: the image set.
        used: rows of the set by role.

    Raises:
        DataError: naming file, row and id of the first such features.
    """
    if images.pictures:
        return
    rows = np.unique(np.concatenate(list(used.values())))
    broken = nonfinite_rows(images.inputs, rows)
    if not len(broken):
        return
    examples = []
    for row in broken[:MAX_EXAMPLES].tolist():
        values = images.inputs[np.array([row])][0]
        column = int(np.argmin(np.isfinite(values)))
        roles = " and ".join(role for role, role_rows in used.items() if row in role_rows)
        place = row_origin(images.inputs, row)
        examples.append(
            f"{images.ids[row]} ({roles}): {values[column]} in column {column}"
            + ("" if place is None else f" of {place}")
        )
    if len(broken) > len(examples):
        examples.append(f"and {len(broken) - len(examples):,} more")
    raise DataError(
        f"{len(broken):,} of {len(rows):,} features hold NaN or infinite values (of "
        f"{images.inputs.dtype}; rows and columns count from 0):\n  "
        + "\n  ".join(examples)
        + "\nRepair these rows, or remove them with their labels and ids"
    )


def check_facts(facts: Facts, expected: Mapping[str, object]) -> None:
    """Compare the facts of a split with those that the configuration expects.

    Raises:
        DataError: they differ.
    """
    actual = facts.as_dict()
    problems = []
    for key, value in expected.items():
        if key not in actual:
            problems.append(f"{key} is not a fact; known facts are {', '.join(actual)}")
        elif key == "fingerprint" and value and str(actual[key]).startswith(str(value)):
            continue
        elif actual[key] != value:
            problems.append(f"{key} should be {value} and is {actual[key]}")
    if problems:
        raise DataError(
            f"dataset {facts.dataset} under protocol {facts.protocol} does not match "
            "dataset.expected:\n  "
            + "\n  ".join(problems)
            + "\nFor images or lists other than the published ones, set dataset.expected=null"
        )
