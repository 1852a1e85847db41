"""Batched transforms against those of torchvision on single images."""

import pytest
import torch
import torchvision.transforms.functional as TF
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from deephash.data import transforms as T
from deephash.errors import DataError


def pixels(count=4, height=20, width=28, seed=0):
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(seed))


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def close(actual, expected, atol=2e-6):
    torch.testing.assert_close(actual, expected, atol=atol, rtol=0)


def test_to_float():
    levels = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(1, 3, 16, 16)
    close(T.Pipeline([])(levels), levels / 255)
    close(T.Pipeline([])(levels / 255), levels / 255)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("shape", [(20, 28), (28, 20), (32, 32)])
@pytest.mark.parametrize("size", [9, 20, 41])
def test_resize(shape, size, interpolation):
    images = pixels(2, *shape)
    actual = T.Resize(size, interpolation=interpolation)(images)
    close(actual, resized(images, [size], interpolation))
    squashed = T.Resize(size, squash=True, interpolation=interpolation)(images)
    close(squashed, resized(images, [size, size], interpolation))


def resized(images, size, interpolation):
    """torchvision's; it cuts the overshoot of bicubic when it makes uint8 of it."""
    return TF.resize(images, size, TF.InterpolationMode(interpolation), antialias=True).clamp(0, 1)


def test_bicubic_does_not_overshoot():
    edge = torch.cat([torch.zeros(1, 3, 8, 4), torch.ones(1, 3, 8, 4)], dim=-1)
    raw = TF.resize(edge, [20], TF.InterpolationMode.BICUBIC, antialias=True)
    assert raw.min() < -0.01 and raw.max() > 1.01
    crop = T.RandomResizedCrop(20, (1, 1), (1, 1), "bicubic")
    places = torch.tensor([[0], [0], [8], [8]])
    for actual in (
        T.Resize(20, interpolation="bicubic")(edge),
        crop.resize_each(edge, places),
        crop.resize_batch(edge, places),
    ):
        assert (actual.min(), actual.max()) == (0, 1)
        close(actual, raw.clamp(0, 1))


def test_a_resize_that_may_not_enlarge():
    step = T.Resize(21, enlarge=False)
    with pytest.raises(DataError, match=r"20 x 28 and may not enlarge .* dataset\.source\.size=21"):
        step(pixels())
    for size in (20, 19):
        close(T.Resize(size, enlarge=False)(pixels()), T.Resize(size)(pixels()), atol=0)


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
    actual = T.RandomCrop(8, padding=2)(images, seeded())
    padded = F.pad(images, [2] * 4)
    places = set()
    for image, window in zip(padded, actual, strict=True):
        spots = image.unfold(1, 8, 1).unfold(2, 8, 1)  # (3, 7, 9, 8, 8)
        same = (spots == window[:, None, None]).all(dim=(0, 3, 4)).nonzero()
        assert len(same) >= 1
        places.add(tuple(same[0].tolist()))
    assert {top for top, _ in places} == set(range(7))
    assert {left for _, left in places} == set(range(9))


def test_random_shift_by_hand():
    """A ramp moved by d reads its own value plus d, held at the border."""
    ramp = torch.arange(6.0).expand(50, 3, 6, 6)
    actual = T.RandomShift(2)(ramp, seeded())
    moves = set()
    for image in actual:
        move = int(image[0, 0, 2]) - 2
        close(image[0, 0], (torch.arange(6.0) + move).clamp(0, 5), atol=0)
        moves.add(move)
    assert moves == {-2, -1, 0, 1, 2}


def test_flip():
    images = pixels(200)
    actual = T.RandomHorizontalFlip()(images, seeded())
    flipped = (actual == TF.hflip(images)).flatten(1).all(1)
    assert (flipped | (actual == images).flatten(1).all(1)).all()
    assert 70 < flipped.sum() < 130
    close(T.RandomHorizontalFlip(p=1.0)(images, seeded()), TF.hflip(images), atol=0)
    close(T.RandomHorizontalFlip(p=0.0)(images, seeded()), images, atol=0)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [5, 16, 40])
def test_random_resized_crop_is_cut_then_resize(size, interpolation):
    images = pixels(12, 24, 31)
    step = T.RandomResizedCrop(size, (0.08, 1.0), (3 / 4, 4 / 3), interpolation)
    actual = step(images, seeded(3))
    places = torch.stack(step.draw(12, 24, 31, seeded(3)))
    close(step.resize_batch(images, places), actual, atol=5e-6)  # as on an accelerator
    mode = TF.InterpolationMode(interpolation)
    for image, result, place in zip(images, actual, places.T.tolist(), strict=True):
        cut = TF.resized_crop(image, *place, [size, size], mode, antialias=True)
        close(result, cut.clamp(0, 1), atol=5e-6)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@given(
    top=st.integers(0, 20), left=st.integers(0, 20), height=st.integers(1, 20),
    width=st.integers(1, 20), size=st.integers(1, 50), seed=st.integers(0, 99),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_any_part_is_resized_alike_on_all_devices(
    top, left, height, width, size, seed, interpolation
):
    images = pixels(1, 40, 40, seed)
    places = torch.tensor([[top], [left], [height], [width]])
    step = T.RandomResizedCrop(size, interpolation=interpolation)
    close(step.resize_batch(images, places), step.resize_each(images, places), atol=2e-5)


def test_random_resized_crop_draws_what_it_says():
    top, left, h, w = T.RandomResizedCrop(8, (0.2, 0.6)).draw(5000, 64, 96, seeded())
    share, aspect = (h * w) / (64 * 96), w / h
    assert 0.18 < share.min() < 0.21 and 0.59 < share.max() < 0.62
    assert share.mean().item() == pytest.approx(0.4, abs=0.02)
    assert aspect.min() > 0.7 and aspect.max() < 1.4
    assert (top >= 0).all() and (top + h <= 64).all()
    assert (left >= 0).all() and (left + w <= 96).all()


@pytest.mark.parametrize(
    ("shape", "expected"), [((10, 100), (0, 43, 10, 13)), ((100, 10), (43, 0, 13, 10))]
)
def test_random_resized_crop_falls_back_to_the_middle(shape, expected):
    """No tenth part of a strip has the allowed aspect and fits; its middle does."""
    step = T.RandomResizedCrop(8, (1.0, 1.0))
    assert [part.tolist() for part in step.draw(2, *shape, seeded())] == [[n] * 2 for n in expected]


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
    T.RandomResizedCrop(12, interpolation="bicubic"),
    T.ColorJitter(0.3, 0.3),
    T.ColorJitter(0.3, 0.3, 0.3, 0.1, p=0.7),
    T.RandomGrayscale(0.5),
    T.GaussianBlur(5, p=0.5),
    T.TrivialAugmentWide(),
    T.TrivialAugmentWide(interpolation="bicubic"),
]


@pytest.mark.parametrize("step", RANDOM, ids=lambda step: type(step).__name__)
def test_the_generator_is_all_the_chance_there_is(step):
    images = pixels(16)
    kept = images.clone()
    first, again, other = (step(images, seeded(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(images, kept)
    assert step(images[:0], seeded()).shape[0] == 0
    with pytest.raises(DataError, match="was given no generator"):
        step(images)


@pytest.mark.parametrize("step", RANDOM, ids=lambda step: type(step).__name__)
def test_equal_images_have_views_of_their_own(step):
    images = pixels(1).expand(64, -1, -1, -1)
    assert len(step(images, seeded()).flatten(1).unique(dim=0)) > (1 if hasattr(step, "p") else 5)


@pytest.mark.parametrize("make", [T.RandomHorizontalFlip, T.RandomGrayscale, T.ColorJitter])
@pytest.mark.parametrize("p", [-0.1, 1.5, float("nan")])
def test_a_probability_is_one(make, p):
    with pytest.raises(DataError, match=f"{make.__name__}: p is {p}; a probability is in 0..1"):
        make(p=p)


def test_the_names_of_old_configurations():
    named = {name for name in dir(T) if isinstance(getattr(T, name), type)}
    assert named == set(T.__all__)
    assert issubclass(T.Pipeline, T.Step) and all(issubclass(getattr(T, n), T.Step) for n in named)


def test_a_pipeline_runs_in_order():
    images = torch.randint(0, 256, (3, 3, 8, 10), dtype=torch.uint8, generator=seeded())
    fixed = [T.Resize(6), T.CenterCrop(5)]
    expected = TF.center_crop(TF.resize(images / 255, [6], antialias=True), [5])
    close(T.Pipeline(fixed)(images), expected)
    assert not T.Pipeline(fixed).random
    assert T.Pipeline([*fixed, T.Pipeline([T.RandomShift(1)])]).random
