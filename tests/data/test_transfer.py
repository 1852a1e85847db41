"""Copies to the device that do not synchronize, and augmentation with few operators."""

import numpy as np
import pytest
import torch

from deephash.data import transforms as T
from deephash.data.catalogue import ImageSet, one_hot
from deephash.data.datamodule import DataModule
from deephash.data.splits.protocols import PerClass
from deephash.data.transfer import to_device
from deephash.data.transforms import base, geometry
from deephash.types import Batch, generator

CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

PIPELINE = [
    T.RandomResizedCrop(20),
    T.RandomHorizontalFlip(),
    T.ColorJitter(0.4, 0.4, 0.4, 0.1, p=0.7),
    T.RandomGrayscale(0.3),
    T.GaussianBlur(3, p=0.5),
    T.RandomShift(2),
    T.RandomCrop(18, padding=1),
    T.Normalize([0.5, 0.4, 0.3], [0.2, 0.3, 0.4]),
]


def pixels(count=12, side=24):
    return torch.randint(0, 256, (count, 3, side, side), generator=generator(0)).to(torch.uint8)


def apply_to_all(images, selected, function, *numbers, overwrite=False):
    """Compute `apply_where` as on an accelerator."""
    if not selected.any():
        return images
    return base._apply_to_all(images, selected, function, numbers)


@pytest.mark.parametrize("step", PIPELINE[1:5], ids=lambda step: type(step).__name__)
@pytest.mark.parametrize("seed", range(4))
def test_changed_at_once_images_have_the_same_bits(step, seed, monkeypatch):
    images = pixels().float() / 255
    kept = images.clone()
    one_by_one = step(images, generator(seed))
    for module in ("colour", "blur", "geometry"):
        monkeypatch.setattr(f"deephash.data.transforms.{module}.apply_where", apply_to_all)
    assert torch.equal(step(images, generator(seed)), one_by_one)
    assert torch.equal(images, kept)


def test_images_are_never_changed_in_place():
    """If none is selected, a step may return the images themselves."""
    images = pixels().float() / 255
    kept = images.clone()
    for step in (*PIPELINE, T.RandomHorizontalFlip(0.0), T.ColorJitter(0.4, p=0.0)):
        for seed in range(3):
            step(images, generator(seed))
    assert torch.equal(images, kept)


def test_both_axes_of_a_square_are_resampled_together():
    """As those of a rectangle are, one after the other."""
    crop = T.RandomResizedCrop(7)
    images = pixels(4, 16).float() / 255
    places = torch.tensor([[0, 3, 2, 8], [1, 5, 0, 4], [16, 7, 9, 8], [9, 11, 16, 8]])
    square = crop.resize_batch(images, places)
    wide = torch.cat([images, torch.zeros(4, 3, 16, 1)], dim=3)
    torch.testing.assert_close(square, crop.resize_batch(wide, places), rtol=1e-6, atol=1e-6)


def test_windows_are_cut_where_they_should_be():
    images = pixels(3, 9)
    top, left = torch.tensor([0, 2, 4]), torch.tensor([5, 0, 3])
    actual = geometry._windows(images, top, left, 5, 4)
    for row, (y, x) in enumerate(zip(top, left, strict=True)):
        assert torch.equal(actual[row], images[row, :, y : y + 5, x : x + 4])


def test_numbers_go_to_the_device_together():
    a, b = torch.arange(3.0), torch.arange(3.0) + 5
    assert all(map(torch.equal, base.move_together([a, b], torch.device("cpu")), [a, b]))
    there = base.move_together([a, b], torch.device("meta"))
    assert [tensor.device.type for tensor in there] == ["meta", "meta"]
    assert there[0]._base is there[1]._base  # views of one copy


def test_a_tensor_that_is_there_stays():
    here = torch.arange(3)
    assert to_device(here, torch.device("cpu")) is here


class Source:
    def load(self):
        return ImageSet(
            inputs=pixels(26).numpy(),
            labels=one_hot(np.arange(26) % 4, 4),
            ids=tuple(map(str, range(26))),
            classes=tuple("abcd"),
        )


def module(device, drop_last=True, limit=1 << 30, views=1):
    data = DataModule(
        "noise", Source(), PerClass(queries=1, train=None), "all", T.Pipeline(PIPELINE),
        T.Pipeline([T.Resize(18), PIPELINE[-1]]), batch_size=4, eval_batch_size=5,
        drop_last=drop_last, resident_limit_bytes=limit, views=views,
    )  # fmt: skip
    data.setup(device)
    return data


@pytest.mark.parametrize("views", [1, 2])
def test_batches_are_contiguous_and_labels_those_of_their_images(views):
    data = module("cpu", drop_last=False, views=views)
    rows = torch.from_numpy(data.split.train)
    for batch in data.train(3):
        assert batch.images.shape[1:] == (views, 3, 18, 18) and batch.images.is_contiguous()
        assert torch.equal(batch.labels, data.labels(rows[batch.index]))
        assert torch.equal(batch.targets, batch.labels.repeat(views, 1))


def test_labels_of_very_many_classes_are_made_for_each_batch(monkeypatch):
    rows = list(module("cpu").train(0))
    monkeypatch.setattr("deephash.data.datamodule.MAX_DENSE_LABELS", 10)
    data = module("cpu")
    for expected, batch in zip(rows, data.train(0), strict=True):
        assert torch.equal(expected.labels, batch.labels)
    assert data._train_labels is None


@pytest.mark.parametrize("limit", [1 << 30, 0])
def test_no_batch_reads_a_number_from_the_device(limit):
    """On the device ``meta``, whatever would synchronize a CUDA device fails."""
    data = module("meta", limit=limit)
    for batch in data.train(0):
        assert batch.images.device.type == batch.labels.device.type == "meta"
    assert [len(batch.index) for batch in data.eval_batches(np.arange(7))] == [5, 2]


@pytest.mark.gpu
@CUDA
@pytest.mark.parametrize("views", [1, 2])
@pytest.mark.parametrize("limit", [1 << 30, 0])
def test_on_cuda_no_batch_waits_for_the_device(limit, views):
    """From the first batch on; the pinned memory of the host is allocated before."""
    data = module("cuda", limit=limit, views=views)
    list(data.train(0))
    coming = data.train(1)
    next(coming)
    torch.cuda.set_sync_debug_mode("error")
    try:
        actual = [batch for batch in coming if isinstance(batch, Batch)]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert actual and all(batch.images.is_cuda and batch.labels.is_cuda for batch in actual)
