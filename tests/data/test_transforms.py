"""Batched transforms against torchvision's, one image at a time."""

import pytest
import torch
import torchvision.transforms.functional as TF
from torch.nn import functional as F

from deephash.data import transforms as T
from deephash.errors import DataError


def pixels(count=4, height=20, width=28, seed=0):
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(seed))


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def close(found, expected, atol=2e-6):
    torch.testing.assert_close(found, expected, atol=atol, rtol=0)


def test_to_float():
    levels = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(1, 3, 16, 16)
    close(T.Pipeline([])(levels), levels / 255)
    close(T.Pipeline([])(levels / 255), levels / 255)


@pytest.mark.parametrize("shape", [(20, 28), (28, 20), (32, 32)])
@pytest.mark.parametrize("size", [9, 20, 41])
def test_resize(shape, size):
    images = pixels(2, *shape)
    close(T.Resize(size)(images), TF.resize(images, [size], antialias=True))
    squashed = TF.resize(images, [size, size], antialias=True)
    close(T.Resize(size, squash=True)(images), squashed)


@pytest.mark.parametrize("size", [7, 12, 20])
def test_center_crop(size):
    images = pixels(2, 20, 27)
    close(T.CenterCrop(size)(images), TF.center_crop(images, [size]), atol=0)


def test_crops_of_small_images_are_refused():
    for step in (T.CenterCrop(21), T.RandomCrop(21)):
        with pytest.raises(DataError, match="20 x 28: resize first"):
            step(pixels(), seeded())


def test_random_crop_takes_windows_of_its_own():
    images = pixels(64, 10, 12)
    found = T.RandomCrop(8, padding=2)(images, seeded())
    padded = F.pad(images, [2] * 4)
    places = set()
    for image, window in zip(padded, found, strict=True):
        spots = image.unfold(1, 8, 1).unfold(2, 8, 1)  # (3, 7, 9, 8, 8)
        same = (spots == window[:, None, None]).all(dim=(0, 3, 4)).nonzero()
        assert len(same) >= 1
        places.add(tuple(same[0].tolist()))
    assert {top for top, _ in places} == set(range(7))
    assert {left for _, left in places} == set(range(9))


def test_random_shift_by_hand():
    """A ramp moved by d reads its own value plus d, held at the border."""
    ramp = torch.arange(6.0).expand(50, 3, 6, 6)
    found = T.RandomShift(2)(ramp, seeded())
    moves = set()
    for image in found:
        move = int(image[0, 0, 2]) - 2
        close(image[0, 0], (torch.arange(6.0) + move).clamp(0, 5), atol=0)
        moves.add(move)
    assert moves == {-2, -1, 0, 1, 2}


def test_flip():
    images = pixels(200)
    found = T.RandomHorizontalFlip()(images, seeded())
    flipped = (found == TF.hflip(images)).flatten(1).all(1)
    assert (flipped | (found == images).flatten(1).all(1)).all()
    assert 70 < flipped.sum() < 130
    close(T.RandomHorizontalFlip(p=1.0)(images, seeded()), TF.hflip(images), atol=0)
    close(T.RandomHorizontalFlip(p=0.0)(images, seeded()), images, atol=0)


@pytest.mark.parametrize("size", [5, 16, 40])
def test_random_resized_crop_is_cut_then_resize(size):
    images = pixels(12, 24, 31)
    step = T.RandomResizedCrop(size, (0.08, 1.0), (3 / 4, 4 / 3))
    found = step(images, seeded(3))
    places = torch.stack(step.draw(12, 24, 31, seeded(3)))
    close(step.at_once(images, places), found, atol=5e-6)  # the way an accelerator goes
    for image, result, place in zip(images, found, places.T.tolist(), strict=True):
        close(result, TF.resized_crop(image, *place, [size, size], antialias=True), atol=5e-6)


def test_random_resized_crop_draws_what_it_says():
    top, left, h, w = T.RandomResizedCrop(8, (0.2, 0.6)).draw(5000, 64, 96, seeded())
    share, aspect = (h * w) / (64 * 96), w / h
    assert 0.18 < share.min() < 0.21 and 0.59 < share.max() < 0.62
    assert share.mean().item() == pytest.approx(0.4, abs=0.02)
    assert aspect.min() > 0.7 and aspect.max() < 1.4
    assert (top >= 0).all() and (top + h <= 64).all()
    assert (left >= 0).all() and (left + w <= 96).all()


@pytest.mark.parametrize(
    "shape, expected", [((10, 100), (0, 43, 10, 13)), ((100, 10), (43, 0, 13, 10))]
)
def test_random_resized_crop_falls_back_to_the_middle(shape, expected):
    """No tenth part of a strip has the allowed aspect and fits; its middle does."""
    step = T.RandomResizedCrop(8, (1.0, 1.0))
    assert [part.tolist() for part in step.draw(2, *shape, seeded())] == [[n] * 2 for n in expected]


@pytest.mark.parametrize("first", [True, False])
def test_color_jitter_with_given_factors(first):
    images = pixels(4)
    brightness, contrast = [0.6, 0.95, 1.05, 1.5], [1.4, 1.05, 0.95, 0.5]
    found = T.ColorJitter().apply_factors(
        images, torch.tensor(brightness), torch.tensor(contrast), torch.tensor([first] * 4)
    )
    for image, result, b, c in zip(images, found, brightness, contrast, strict=True):
        steps = [(TF.adjust_brightness, b), (TF.adjust_contrast, c)]
        for adjust, factor in steps if first else steps[::-1]:
            image = adjust(image, factor)
        close(result, image, atol=1e-4)  # torchvision rounds 0.299 to 0.2989 here


def test_color_jitter_draws():
    flat = torch.full((2000, 3, 1, 1), 0.5)
    found = T.ColorJitter(brightness=0.05)(flat, seeded())[:, 0, 0, 0] / 0.5
    assert 0.95 <= found.min() < 0.951 and 1.049 < found.max() <= 1.05
    close(T.ColorJitter()(pixels(), seeded()), pixels())


def test_normalize():
    mean, std = [0.4, 0.5, 0.6], [0.2, 0.3, 0.25]
    close(T.Normalize(mean, std)(pixels()), TF.normalize(pixels(), mean, std))
    with pytest.raises(DataError, match="three numbers as std"):
        T.Normalize(mean, [1.0])


RANDOM = [
    T.RandomCrop(12, padding=1),
    T.RandomShift(2),
    T.RandomHorizontalFlip(),
    T.RandomResizedCrop(12),
    T.ColorJitter(0.3, 0.3),
]


@pytest.mark.parametrize("step", RANDOM, ids=lambda step: type(step).__name__)
def test_the_generator_is_all_the_chance_there_is(step):
    images = pixels(16)
    kept = images.clone()
    first, again, other = (step(images, seeded(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(images, kept)
    with pytest.raises(DataError, match="was given no generator"):
        step(images)


def test_a_pipeline_runs_in_order():
    images = torch.randint(0, 256, (3, 3, 8, 10), dtype=torch.uint8, generator=seeded())
    fixed = [T.Resize(6), T.CenterCrop(5)]
    expected = TF.center_crop(TF.resize(images / 255, [6], antialias=True), [5])
    close(T.Pipeline(fixed)(images), expected)
    assert not T.Pipeline(fixed).random
    assert T.Pipeline([*fixed, T.Pipeline([T.RandomShift(1)])]).random


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("step", RANDOM, ids=lambda step: type(step).__name__)
def test_the_same_view_on_the_gpu(step):
    images = pixels(16)
    close(step.to("cuda")(images.cuda(), seeded()).cpu(), step.to("cpu")(images, seeded()), 5e-6)
