"""Encode the images of a collection, and keep a store of codes up to date with it."""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from deephash import retrieval, runs
from deephash.config import schema
from deephash.data.decoding import are_small, decoding_threads
from deephash.data.image_cache.builder import Unreadable
from deephash.data.prefetch import prefetch
from deephash.data.preprocessing import Preprocessing
from deephash.errors import DataError
from deephash.search.collection import Collection, Item, Read
from deephash.search.store import CodeStore, Snapshot
from deephash.training.code_encoder import CodeEncoder
from deephash.training.out_of_memory import explain_memory_errors
from deephash.utils.files import read_text, remove, remove_temporaries, write_text
from deephash.utils.progress import bar, tell

COMMIT_SECONDS = 2.0
"""Time between two writes to the store; a killed process loses the images encoded since."""

COMPARED = 1 << 16
"""Images that are compared with a store at once."""

BLOCK, SAMPLED = 16, 1000
"""Small images that a thread decodes at once; images whose mean size is computed."""

ADVICE = "Try a smaller batch_size, or device=cpu."

Codes = npt.NDArray[np.uint8]


class UnreadableImage(NamedTuple):
    """An image that cannot be read."""

    id: str
    cause: str
    signature: str = ""
    """Of the file; empty if it should be tried again, whether it changed or not."""


HEADER = UnreadableImage("id", "cause", "signature")
"""The first line of a table of unreadable images."""


class EncodedBatch(NamedTuple):
    """A batch of images and their codes."""

    items: list[Item]
    codes: Codes  # (n, ceil(K / 8))


@dataclass
class Update:
    """What bringing a store up to date changed.

    Attributes:
        added: number of images that were new.
        changed: number of images that were encoded again, because their files changed.
        removed: number of images that are gone, or cannot be read any more.
        relabelled: number of images with another label than before.
        total: number of images in the store.
        unreadable: images without a code.
    """

    added: int = 0
    changed: int = 0
    removed: int = 0
    relabelled: int = 0
    total: int = 0
    unreadable: list[UnreadableImage] = field(default_factory=list)

    def __str__(self) -> str:
        counts = {
            "added": self.added,
            "changed": self.changed,
            "removed": self.removed,
            "relabelled": self.relabelled,
            "unreadable": len(self.unreadable),
        }
        parts = [f"{count:,} {name}" for name, count in counts.items() if count]
        return f"{self.total:,} images" + (f" ({', '.join(parts)})" if parts else "")


def load_encoder(
    run: str | os.PathLike[str],
    checkpoint: str = "best",
    device: str = "auto",
    precision: str | None = None,
    has_codes: Callable[[str], bool] = lambda fingerprint: False,
) -> CodeEncoder:
    """Load the encoder of a run, to encode collections of images.

    Args:
        run: a run folder, or that of an exported encoder.
        checkpoint: ``best`` or ``last``.
        device: for the network.
        precision: ``fp32`` or ``bf16``. None for the one in which there are codes already; without
            codes, for that of the run on CUDA and for ``fp32`` on a CPU, where bf16 is slow.
        has_codes: whether there are codes of an encoder with a given fingerprint.

    Raises:
        DeephashError: the folder is no run or is damaged, or the device is not available.
    """
    loaded = runs.load(Path(run), checkpoint, device, precision)
    if precision is not None:
        return loaded
    usual = loaded if loaded.device.type == "cuda" else loaded.with_precision("fp32")
    if has_codes(usual.fingerprint):
        return usual
    for other in schema.Precision:
        if other.value != usual.precision:
            encoder = loaded.with_precision(other.value)
            if has_codes(encoder.fingerprint):
                tell(
                    f"precision={other.value}, as the codes that exist; with"
                    f" precision={usual.precision} all images are encoded again"
                )
                return encoder
    return usual


def preprocessing_of(encoder: CodeEncoder) -> Preprocessing:
    """Return the preprocessing of an encoder of images.

    Raises:
        DataError: the encoder takes features.
    """
    if encoder.preprocessing is None:
        raise DataError(
            "this run encodes features, not images: train one on images, or encode features with"
            " deephash.load(RUN).encode(features)"
        )
    return encoder.preprocessing


def _unread(item: Item, cause: str, again: bool = False) -> UnreadableImage:
    name = " ".join(item.id.encode(errors="replace").decode().split("\t"))
    return UnreadableImage(
        " ".join(name.split()), " ".join(cause.split()), "" if again else item.signature
    )


def encode_items(
    encoder: CodeEncoder,
    collection: Collection,
    items: Sequence[Item],
    unreadable: list[UnreadableImage],
    batch_size: int | None = None,
    workers: int | None = None,
) -> Iterator[EncodedBatch]:
    """Yield the codes of images in batches. Files are decoded on all cores.

    Args:
        encoder: of images.
        collection: contains the images.
        items: the images to encode.
        unreadable: receives the images that cannot be read, with the cause.
        batch_size: images in a forward pass; None for that of the run's evaluation.
        workers: decoding threads; None for one per core, at most 16, or 2 for small files.

    Raises:
        DataError: the encoder takes features, or the system fails.
        TrainingError: a batch does not fit into the memory of the device.
    """
    decoder = preprocessing_of(encoder).decoder
    batch_size = batch_size or encoder.batch_size

    def decode(read: Read) -> tuple[Item, npt.NDArray[np.uint8] | UnreadableImage]:
        item = read.item
        if read.cause is not None:
            return item, _unread(item, read.cause, again=True)
        if any(unusable in item.id for unusable in "\t\n\r"):
            return item, _unread(item, "its name has a tab or a line break: rename it", again=True)
        try:
            item.id.encode()
            return item, decoder.decode(read.path, read.content)
        except UnicodeEncodeError:
            return item, _unread(item, "its name is not UTF-8: rename it", again=True)
        except Unreadable as error:
            return item, _unread(item, error.cause)
        except DataError as error:  # of the system, such as a missing permission
            return item, _unread(item, str(error), again=True)

    def encoded(batch: list[tuple[Item, npt.NDArray[np.uint8]]]) -> EncodedBatch:
        pixels = np.stack([image for _, image in batch])
        with explain_memory_errors(ADVICE):
            codes = retrieval.pack(encoder.codes_of_pixels(pixels) >= 0)
        return EncodedBatch([item for item, _ in batch], codes)

    batch: list[tuple[Item, npt.NDArray[np.uint8]]] = []
    sizes = [item.size for item in items[:: len(items) // SAMPLED + 1]]
    threads, block = workers or decoding_threads(sizes), BLOCK if are_small(sizes) else 1
    results = prefetch(decode, collection.read(items), threads, ahead=batch_size, block=block)
    for item, pixels in results:
        if isinstance(pixels, UnreadableImage):
            unreadable.append(pixels)
            continue
        batch.append((item, pixels))
        if len(batch) == batch_size:
            yield encoded(batch)
            batch = []
    if batch:
        yield encoded(batch)


class Plan(NamedTuple):
    """What has to be done to bring a store up to date.

    Attributes:
        todo: images to encode.
        gone: ids in the store that are not in the collection.
        relabelled: images with another label than in the store.
        unreadable: images that could not be read before, and were not changed since.
        common: number of images of the collection that are in the store.
    """

    todo: list[Item]
    gone: list[str]
    relabelled: list[Item]
    unreadable: list[UnreadableImage]
    common: int

    @property
    def changes(self) -> bool:
        """Whether there is anything to do."""
        return bool(self.todo or self.gone or self.relabelled)


def plan_update(
    snapshot: Snapshot, collection: Collection, before: Sequence[UnreadableImage]
) -> Plan:
    """Compare a collection with the content of a store.

    The store is read in blocks, so the comparison takes little memory beside the collection.

    Args:
        snapshot: of the store.
        collection: the images.
        before: images that could not be read by an earlier update.
    """
    failed = {one.id: one for one in before if one.signature}
    todo: list[Item] = []
    relabelled: list[Item] = []
    unreadable: list[UnreadableImage] = []
    common, kept = 0, np.zeros(len(snapshot), dtype=bool)
    for start in range(0, len(collection), COMPARED):
        items = collection.items[start : start + COMPARED]
        places = snapshot.find([item.id for item in items])
        known = places[places >= 0]
        common += len(known)
        signatures = iter(snapshot.signatures_at(known))
        labels = iter(snapshot.labels_at(known))
        for item, place in zip(items, places.tolist(), strict=True):
            signature, label = ("", None) if place < 0 else (next(signatures), next(labels))
            if item.id in failed and failed[item.id].signature == item.signature:
                unreadable.append(failed[item.id])
                continue
            if place >= 0:
                kept[place] = True
            if not item.signature or signature != item.signature:
                todo.append(item)
            elif label != item.label:
                relabelled.append(item)
    gone = snapshot.ids_at(np.flatnonzero(~kept)).tolist()
    return Plan(todo, gone, relabelled, unreadable, common)


def update_store(
    store: CodeStore,
    collection: Collection,
    encoder: CodeEncoder,
    before: Sequence[UnreadableImage] = (),
    batch_size: int | None = None,
    workers: int | None = None,
) -> Update:
    """Add what is new in a collection to a store, encode what changed, and remove what is gone.

    Codes are written every few seconds, so a killed process can be repeated and goes on. Images are
    new or changed if the store has no, or another, signature of them.

    Args:
        store: open for writing.
        collection: the images.
        encoder: the one that made the codes of the store.
        before: images that could not be read by an earlier update; tried again if they changed.
        batch_size: see ``encode_items``.
        workers: see ``encode_items``.

    Raises:
        DataError: none of the images can be read, or the codes are of another encoder.
    """
    store.check_encoder(encoder.describe())
    snapshot = store.snapshot()
    plan = plan_update(snapshot, collection, before)
    update = Update(unreadable=list(plan.unreadable))
    pending: list[EncodedBatch] = []

    def commit() -> None:
        if pending:
            items = [item for part in pending for item in part.items]
            codes = np.concatenate([part.codes for part in pending])
            pending.clear()
            _add(store, codes, items)
            changed = int((snapshot.find([item.id for item in items]) >= 0).sum())
            update.changed += changed
            update.added += len(items) - changed

    if plan.todo:
        with bar(f"encoding {len(plan.todo):,} images", len(plan.todo)) as progress:
            last, failed = time.monotonic(), len(update.unreadable)
            parts = encode_items(
                encoder, collection, plan.todo, update.unreadable, batch_size, workers
            )
            try:
                for part in parts:
                    pending.append(part)
                    progress.advance(len(part.items) + len(update.unreadable) - failed)
                    failed = len(update.unreadable)
                    if time.monotonic() - last > COMMIT_SECONDS:
                        commit()
                        last = time.monotonic()
            finally:  # also if the command is interrupted
                commit()
    raise_if_none(len(collection) - len(update.unreadable), update.unreadable, collection)
    gone = plan.gone + [one.id for one in update.unreadable[len(plan.unreadable) :]]
    update.removed = store.remove(gone)
    if plan.relabelled:
        places = snapshot.find([item.id for item in plan.relabelled])
        _add(store, np.asarray(snapshot.codes[places]), plan.relabelled)
        update.relabelled = len(plan.relabelled)
    update.total = len(store)
    return update


def raise_if_none(
    encoded: int, unreadable: Sequence[UnreadableImage], collection: Collection
) -> None:
    """Raise DataError if no image of a collection could be read."""
    if encoded or not unreadable:
        return
    first = unreadable[0]
    if len(collection) == 1:
        raise DataError(f"{first.id} cannot be read: {first.cause}")
    raise DataError(
        f"none of the {len(collection):,} images of {collection.path} can be read; the first is"
        f" {first.id} ({first.cause})"
    )


def _add(store: CodeStore, codes: Codes, items: Sequence[Item]) -> None:
    labels = [item.label for item in items]
    store.add(
        codes,
        [item.id for item in items],
        signatures=[item.signature for item in items],
        labels=None if all(label is None for label in labels) else labels,
    )


def write_unreadable(path: Path, unreadable: Sequence[UnreadableImage]) -> None:
    """Write the images that cannot be read, with the cause, as a table of three columns.

    Without such images, a file of an earlier call is removed.
    """
    remove_temporaries(path)
    if unreadable:
        lines = ["\t".join(one) for one in (HEADER, *unreadable)]
        write_text(path, "".join(f"{line}\n" for line in lines))
    else:
        remove(path)


def read_unreadable(path: Path) -> list[UnreadableImage]:
    """Return the images of ``write_unreadable``; none if there is no such file."""
    if not path.is_file():
        return []
    lines = [line.split("\t") for line in read_text(path, "table").splitlines()]
    return [
        UnreadableImage(*line) for line in lines if len(line) == len(HEADER) and line != [*HEADER]
    ]
