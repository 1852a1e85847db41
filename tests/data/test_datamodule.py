"""The data module: content and order of batches, and replaying of epochs."""

import dataclasses
import json
import time

import numpy as np
import pytest
import torch

from deephash.data.catalogue import ImageSet, one_hot
from deephash.data.datamodule import DataModule
from deephash.data.lazy_arrays import Stacked
from deephash.data.prefetch import prefetch
from deephash.data.splits.multi_label import Drawn
from deephash.data.splits.protocols import Listed, PerClass, Split
from deephash.data.transforms import Pipeline, RandomHorizontalFlip, RandomShift
from deephash.errors import DataError


class Made:
    """Forty images whose every pixel is the row number, of four classes in turn."""

    def __init__(self, read_only=False):
        self.read_only = read_only

    def load(self):
        pixels = np.arange(40, dtype=np.uint8).reshape(40, 1, 1, 1)
        pixels = np.broadcast_to(pixels, (40, 3, 5, 6)).copy()
        pixels[:, 0] += np.arange(6, dtype=np.uint8)  # a ramp, so that a flip is seen
        pixels.flags.writeable = not self.read_only
        return ImageSet(
            inputs=pixels,
            labels=one_hot(np.arange(40) % 4, 4),
            ids=tuple(map(str, range(40))),
            classes=tuple("abcd"),
        )


def module(**changes):
    settings = {
        "name": "made",
        "source": Made(),
        "protocol": PerClass(queries=2, train=5, validation=1, seed=3),
        "protocol_name": "own",
        "train_transform": Pipeline([RandomHorizontalFlip(), RandomShift(1)]),
        "test_transform": Pipeline([]),
        "batch_size": 6,
    }
    return DataModule(**(settings | changes))


@pytest.fixture
def data():
    made = module()
    made.setup("cpu")
    return made


def rows_of(batch):
    return (batch.images[:, 0, 1, 0, 0] * 255).round().long()


def test_training_batches(data):
    batches = list(data.train(0))
    assert len(batches) == data.steps == 3
    seen = torch.cat([batch.index for batch in batches])
    assert len(set(seen.tolist())) == 18 and seen.max() < 20
    for batch in batches:
        assert batch.images.shape == (6, 1, 3, 5, 6) and batch.images.dtype == torch.float32
        assert batch.labels.dtype == torch.float32 and batch.index.dtype == torch.int64
        rows = torch.from_numpy(data.split.train)[batch.index]
        assert torch.equal(rows_of(batch), rows)
        assert torch.equal(batch.labels.argmax(1), rows % 4)


def test_without_drop_last_every_image_is_seen():
    made = module(drop_last=False)
    made.setup("cpu")
    batches = list(made.train(1))
    assert [len(batch.index) for batch in batches] == [6, 6, 6, 2]
    assert made.steps == 4
    assert sorted(torch.cat([batch.index for batch in batches]).tolist()) == list(range(20))


def test_an_epoch_is_replayed_alone(data):
    for _ in range(2):
        list(data.train(0))
    later = module()
    later.setup("cpu")
    for mine, other in zip(data.train(2), later.train(2), strict=True):
        assert torch.equal(mine.index, other.index)
        assert torch.equal(mine.images, other.images)


def test_epochs_and_seeds_differ(data):
    other = module(seed=1)
    other.setup("cpu")
    orders = [torch.cat([b.index for b in batches]) for batches in (data.train(0), data.train(1))]
    orders.append(torch.cat([batch.index for batch in other.train(0)]))
    assert not torch.equal(orders[0], orders[1])
    assert not torch.equal(orders[0], orders[2])
    assert data.facts == other.facts  # the seed of training does not move the split


def test_views_are_passes_of_their_own():
    made = module(views=2)
    made.setup("cpu")
    batch = next(iter(made.train(0)))
    assert batch.images.shape == (6, 2, 3, 5, 6)
    assert not torch.equal(batch.images[:, 0], batch.images[:, 1])
    assert batch.flat().shape == (12, 3, 5, 6) and batch.targets.shape == (12, 4)


@pytest.mark.parametrize("ids", [np.array([7, 3, 3, 39, 0]), torch.tensor([5, 1]), np.array([])])
def test_eval_batches_keep_the_order(ids):
    made = module(eval_batch_size=2)
    made.setup("cpu")
    batches = list(made.eval_batches(ids))
    assert [len(batch.index) for batch in batches] == [2] * (len(ids) // 2) + [1] * (len(ids) % 2)
    if len(ids):
        assert torch.cat([rows_of(batch) for batch in batches]).tolist() == list(ids)
        assert torch.cat([batch.index for batch in batches]).tolist() == list(range(len(ids)))
    labels = made.labels(ids)
    assert labels.shape == (len(ids), 4) and labels.dtype == torch.float32
    assert labels.argmax(1).tolist() == [int(row) % 4 for row in ids]


def test_pixels_too_large_for_the_device_are_gathered_ahead(data):
    """The code path of a large dataset on a GPU, on the CPU."""
    apart = module()
    apart.setup("cpu")
    apart.loader.resident = False
    for mine, other in zip(data.train(0), apart.train(0), strict=True):
        assert torch.equal(mine.images, other.images)
    assert next(apart.train(0)).index.tolist() == next(data.train(0)).index.tolist()
    assert list(apart.eval_batches(np.array([]))) == []


def test_read_only_pixels():
    made = module(source=Made(read_only=True))
    made.setup("cpu")
    assert len(list(made.train(0))) == 3


def test_facts_and_expected(data):
    assert data.facts.num_train == 20 and data.facts.num_validation == 4
    assert data.facts.dataset == "made" and data.facts.split_seed == 3
    facts = json.loads(json.dumps(data.facts.as_dict()))
    good = {key: facts[key] for key in ("num_train", "multilabel", "classes", "per_class")}
    module(expected=good | {"fingerprint": facts["fingerprint"][:16]}).setup("cpu")
    bad = {"num_train": 21, "num_database": 32, "num_queries": 9, "lines": 3, "fingerprint": "zz"}
    with pytest.raises(DataError) as caught:
        module(expected=bad).setup("cpu")
    message = str(caught.value)
    assert "num_train should be 21 and is 20" in message
    assert "num_queries should be 9 and is 8" in message
    assert "lines is not a fact" in message and "fingerprint should be zz" in message
    assert "num_database should" not in message


def test_errors_come_before_the_first_epoch():
    with pytest.raises(DataError, match=r"20 training images.*=21.*Try trainer\.batch_size=10"):
        module(batch_size=21).setup("cpu")
    module(batch_size=21, drop_last=False).setup("cpu")
    with pytest.raises(DataError, match="test_transform has a random step"):
        module(test_transform=Pipeline([RandomShift(1)]))
    for key in ("batch_size", "eval_batch_size", "views", "streams"):
        with pytest.raises(DataError, match=rf"{key}=0 must be at least 1"):
            module(**{key: 0})
    for use in (lambda m: m.facts, lambda m: m.steps, lambda m: m.labels([0])):
        with pytest.raises(DataError, match="setup"):
            use(module())


# streams


def test_an_error_of_the_split_contains_the_name_of_the_protocol():
    message = r"lower dataset\.protocols\.mine\.queries=4, for example"
    with pytest.raises(DataError, match=message):
        module(protocol=Drawn(queries=50, train=None), protocol_name="mine").setup("cpu")


def test_data_without_training_images_are_only_evaluated():
    class Lists(Made):
        def load(self):
            lists = {"queries": np.arange(4), "database": np.arange(4, 40)}
            return dataclasses.replace(super().load(), lists=lists)

    data = module(source=Lists(), protocol=Listed())
    with pytest.raises(DataError, match=r"made has no training images.*evaluate run=RUN"):
        data.setup("cpu")
    data.setup("cpu", trains=False)
    assert data.facts.num_train == 0


def test_streams_are_shuffles_of_their_own():
    """Batches of 6 from two streams: 3 of each; 20 images fill 6 such batches and leave 2."""
    made, plain = module(streams=2), module(batch_size=3)
    made.setup("cpu")
    plain.setup("cpu")
    batches = list(made.train(0))
    assert len(batches) == made.steps == plain.steps == 6
    first, second = (
        torch.cat([b.index[part] for b in batches]) for part in (slice(3), slice(3, 6))
    )
    for stream in (first, second):
        assert len(stream) == len(set(stream.tolist())) == 18
    assert torch.equal(first, torch.cat([b.index for b in plain.train(0)]))
    assert not torch.equal(first, second)
    for batch in batches:
        assert torch.equal(rows_of(batch), torch.from_numpy(made.split.train)[batch.index])
        assert torch.equal(batch.labels.argmax(1), rows_of(batch) % 4)


def test_the_last_batch_of_two_streams_has_equal_parts():
    made = module(streams=2, drop_last=False)
    made.setup("cpu")
    batches = list(made.train(3))
    assert [len(batch.index) for batch in batches] == [6] * 6 + [4] and made.steps == 7
    halves = [torch.cat([b.index.chunk(2)[part] for b in batches]) for part in (0, 1)]
    assert all(sorted(half.tolist()) == list(range(20)) for half in halves)


def test_streams_can_be_replayed_and_differ_by_epoch():
    first, second = module(streams=2), module(streams=2)
    first.setup("cpu")
    second.setup("cpu")
    list(first.train(0))
    mine, other = ([b.index for b in data.train(1)] for data in (first, second))
    assert all(map(torch.equal, mine, other))
    assert not torch.equal(mine[0], next(first.train(0)).index)


def test_streams_that_do_not_divide_the_batch_are_refused():
    with pytest.raises(DataError, match=r"batch_size=6 is not a multiple of method\.streams=4"):
        module(streams=4)
    with pytest.raises(DataError, match=r"20 training images.*Try trainer\.batch_size=20"):
        module(streams=2, batch_size=42).setup("cpu")
    module(streams=2, batch_size=40).setup("cpu")


# images without labels


class Unlabelled(Made):
    """Every third image has no label."""

    def load(self):
        images = super().load()
        labels = images.labels.toarray()
        labels[::3] = 0
        return dataclasses.replace(images, labels=labels)


class Halves:
    """The first half is for training; the first rows of the second half are the queries."""

    seed = 0

    def split(self, images):
        rows = np.arange(40)
        return Split(train=rows[5:25], database=rows[25:], queries=rows[25:30], validation=rows[:0])


@pytest.mark.parametrize("streams", [1, 2])
def test_images_without_labels_do_not_train(streams):
    """Of the rows 5 to 24 those at 6, 9, ..., 24 have none: 13 of 20 are left."""
    made = module(source=Unlabelled(), protocol=Halves(), streams=streams, drop_last=False)
    made.setup("cpu")
    assert (made.facts.num_train, made.facts.num_train_unlabelled) == (20, 7)
    known = [place for place in range(20) if (place + 5) % 3]
    for epoch in range(2):
        batches = list(made.train(epoch))
        assert len(batches) == made.steps
        seen = torch.cat([batch.index for batch in batches])
        assert sorted(seen.tolist()) == sorted(known * streams)
        for batch in batches:
            assert (batch.labels.sum(dim=1) == 1).all()
            assert torch.equal(rows_of(batch), batch.index + 5)  # places in split.train


def test_steps_count_the_images_that_have_labels():
    made = module(source=Unlabelled(), protocol=Halves())
    made.setup("cpu")
    assert made.steps == len(list(made.train(0))) == 2
    with pytest.raises(DataError, match=r"13 training images.*trainer\.batch_size=14"):
        module(source=Unlabelled(), protocol=Halves(), batch_size=14).setup("cpu")


def test_training_images_without_any_label_are_refused():
    class Nothing(Made):
        def load(self):
            images = super().load()
            return dataclasses.replace(images, labels=np.zeros(images.labels.shape, bool))

    for drop_last in (True, False):
        made = module(source=Nothing(), protocol=Halves(), drop_last=drop_last)
        with pytest.raises(
            DataError, match=r"none of the \d+ training images .* the loss reads labels"
        ):
            made.setup("cpu")


def test_labels_all_there_are_counted_too(data):
    assert data.facts.num_train_unlabelled == 0
    assert data.facts.as_dict()["num_train_unlabelled"] == 0


def test_setup_again_keeps_the_data(data):
    before = data.images
    data.setup("cpu")
    assert data.images is before
    assert dataclasses.is_dataclass(data.facts)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("limit", [1 << 30, 0])
def test_batches_are_the_same_on_the_gpu(data, limit):
    there = module(resident_limit_bytes=limit)
    there.setup("cuda")
    for mine, other in zip(data.train(0), there.train(0), strict=True):
        assert other.images.is_cuda and other.labels.is_cuda and other.index.is_cuda
        torch.testing.assert_close(mine.images, other.images.cpu())
        assert torch.equal(mine.index, other.index.cpu())


# lazy inputs


class Slow:
    """Images that are read on access, as those without a cache are."""

    def __init__(self, pixels):
        self.pixels, self.calls = pixels, []
        self.shape, self.dtype, self.nbytes = pixels.shape, pixels.dtype, pixels.nbytes

    def __len__(self):
        return len(self.pixels)

    def __getitem__(self, rows):
        self.calls.append(len(rows))
        time.sleep(0.01 * (len(self.calls) % 2))  # the second is ready before the first
        return self.pixels[rows]


def test_lazy_inputs_give_the_same_batches(data):
    class Lazily(Made):
        def load(self):
            images = super().load()
            return dataclasses.replace(images, inputs=Slow(images.inputs))

    lazily = module(source=Lazily())
    lazily.setup("cpu")
    assert lazily.images.inputs.calls == []
    for mine, other in zip(data.train(0), lazily.train(0), strict=True):
        assert torch.equal(mine.images, other.images) and torch.equal(mine.index, other.index)
    queries = data.split.queries
    mine, other = (torch.cat([b.images for b in m.eval_batches(queries)]) for m in (data, lazily))
    assert torch.equal(mine, other)


def test_batches_made_ahead_come_in_order_and_no_more_than_wanted():
    begun = []

    def make(batch):
        begun.append(int(batch))
        time.sleep(0.02 * (1 - int(batch) % 2))
        return batch

    batches = list(torch.arange(20))
    assert [int(batch) for batch in prefetch(make, batches, threads=2)] == list(range(20))
    assert [int(batch) for batch in prefetch(make, batches[:3], threads=2)] == [0, 1, 2]
    assert list(prefetch(make, [], threads=2)) == []
    assert [int(batch) for batch in prefetch(make, iter(batches), 2, ahead=9)] == list(range(20))
    for block in (3, 4, 99):
        results = prefetch(make, iter(batches), threads=2, ahead=5, block=block)
        assert list(map(int, results)) == list(range(20))
    begun.clear()
    coming = prefetch(make, batches, threads=2)
    next(coming)
    coming.close()
    assert len(begun) <= 6

    def fail(batch):
        raise DataError("no such image")

    with pytest.raises(DataError, match="no such image"):
        list(prefetch(fail, batches, threads=2))
    with pytest.raises(DataError, match="no such image"):
        list(prefetch(fail, batches, threads=2, block=3))


def test_features_are_batches_too():
    """Rows of 16-bit floats that hold the row number; no transform changes them."""
    rows = np.arange(40)

    class Described(Made):
        def load(self):
            images = super().load()
            halves = np.repeat(rows[:, None], 5, axis=1).astype(np.float16)
            return dataclasses.replace(images, inputs=Stacked([halves[:10], halves[10:]]))

    made = module(source=Described(), train_transform=Pipeline([]), test_transform=Pipeline([]))
    made.setup("cpu")
    batch = next(made.train(0))
    assert batch.flat().shape == (6, 5) and batch.images.dtype == torch.float32
    assert torch.equal(batch.flat()[:, 2].long(), torch.from_numpy(made.split.train)[batch.index])
    with pytest.raises(DataError, match="views are made of images, and these are features"):
        module(source=Described()).setup("cpu")
    strong = {"strong": Pipeline([RandomHorizontalFlip()])}
    with pytest.raises(DataError, match=r"views \(strong\), .*\n.*method.cached_views=8"):
        module(
            source=Described(),
            train_transform=Pipeline([]),
            test_transform=Pipeline([]),
            views=["strong", "strong"],
            more_transforms=strong,
        ).setup("cpu")
