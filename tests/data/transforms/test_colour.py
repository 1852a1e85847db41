"""Batched color transforms and blur against those of torchvision on single images."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms.v2 import functional as TF

from deephash.data import transforms as T
from deephash.data.transforms import base
from deephash.errors import DataError

GRAY = 2e-4
"""torchvision rounds 0.299 to 0.2989."""

ADJUST = (TF.adjust_brightness, TF.adjust_contrast, TF.adjust_saturation, TF.adjust_hue)
NEUTRAL = (1.0, 1.0, 1.0, 0.0)


def pixels(count=4, height=20, width=28, seed=0):
    return torch.rand(count, 3, height, width, generator=seeded(seed))


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def close(actual, expected, atol=2e-6):
    torch.testing.assert_close(actual, expected, atol=atol, rtol=0)


# jitter of brightness and contrast, on which published runs depend


def test_brightness_and_contrast_as_ever():
    """Three images of two pixels, as the first version of ColorJitter made them."""
    image = torch.tensor([[0.25, 0.5], [0.75, 1.0], [0.0, 0.125]]).view(1, 3, 1, 2)
    generator = seeded(5)
    actual = T.ColorJitter(0.5, 0.5)(image.repeat(3, 1, 1, 1), generator)
    expected = [
        [[0.200627893, 0.639586747], [1.0, 1.0], [0.0, 0.0]],
        [[0.055819605, 0.278105170], [0.500390708, 0.626110911], [0.0, 0.0]],
        [[0.506349206, 0.723326564], [0.906017065, 0.906017065], [0.289371818, 0.397860497]],
    ]
    torch.testing.assert_close(actual[:, :, 0], torch.tensor(expected), atol=0, rtol=2e-7)
    assert torch.rand(1, generator=generator).item() == pytest.approx(0.994184732, rel=1e-7)


def first_version(images, brightness, contrast, generator):
    drawn = torch.rand(3, len(images), generator=generator)
    lows = [max(0.0, 1 - spread) for spread in (brightness, contrast)]
    b = lows[0] + (1 + brightness - lows[0]) * drawn[0]
    c = lows[1] + (1 + contrast - lows[1]) * drawn[1]
    for brightens in (drawn[2] < 0.5, drawn[2] >= 0.5):
        factor = torch.where(brightens, b, c)
        share = torch.where(brightens, 0.0, 1 - c)
        mean = images.mean(dim=(2, 3)) @ torch.tensor([0.299, 0.587, 0.114])
        images = images * factor.view(-1, 1, 1, 1) + (share * mean).view(-1, 1, 1, 1)
        images = images.clamp(0, 1)
    return images


@pytest.mark.parametrize("count", [1, 7, 33])
@pytest.mark.parametrize("spreads", [(0.05, 0.05), (0.4, 0.0), (0.0, 1.5), (0.0, 0.0)])
def test_brightness_and_contrast_to_the_last_bit(count, spreads):
    images, ours, theirs = pixels(count, 33, 40), seeded(1), seeded(1)
    actual = T.ColorJitter(*spreads)(images, ours)
    assert torch.equal(actual, first_version(images, *spreads, theirs))
    assert torch.equal(ours.get_state(), theirs.get_state())


# jitter of all four


def test_jitter_in_every_order():
    """24 images, each in an order of its own."""
    orders = list(itertools.permutations(range(4)))
    images = pixels(24)
    drawn = torch.rand(4, 24, generator=seeded(1))
    numbers = torch.stack([*(0.5 + drawn[:3]), drawn[3] - 0.5])
    turns = torch.tensor(orders).argsort(dim=1).T  # (4, 24): when each operation is
    actual = T.ColorJitter().jitter(images, numbers, turns)
    for at, (image, result) in enumerate(zip(images, actual, strict=True)):
        for which in orders[at]:
            image = ADJUST[which](image, numbers[which, at].item())
        close(result, image, 5 * GRAY)


@pytest.mark.parametrize(
    ("which", "numbers", "atol"),
    [
        (0, [0.0, 0.3, 1.0, 1.7], 2e-6),
        (1, [0.0, 0.3, 1.0, 1.7], GRAY),
        (2, [0.0, 0.3, 1.0, 1.7], GRAY),
        (3, [-0.5, -0.07, 0.0, 0.4], 2e-6),
    ],
)
def test_one_operation_alone(which, numbers, atol):
    images = pixels(4, 64, 64)
    images[:, :, :2] = images[:, :1, :2]  # gray pixels
    images[:, :2, 2:4] = images[:, 1:2, 2:4]  # of two equal channels
    images[:, 0, 4:6] = images[:, 2, 4:6]
    images[:, :, 6] = 0
    images[:, :, 7] = 1
    given = torch.tensor(NEUTRAL)[:, None].repeat(1, 4)
    given[which] = torch.tensor(numbers)
    turns = torch.full((4, 4), -1)
    turns[which] = 0
    actual = T.ColorJitter().jitter(images, given, turns)
    for image, result, number in zip(images, actual, numbers, strict=True):
        close(result, ADJUST[which](image, number), atol)


def test_hue_by_hand():
    """A third of the way round: red to green; orange, half way to yellow, to spring green."""
    red_and_orange = torch.tensor([[0.8, 0.8], [0.2, 0.5], [0.2, 0.2]]).view(1, 3, 1, 2)
    numbers = torch.tensor([1.0, 1.0, 1.0, 1 / 3]).view(4, 1)
    actual = T.ColorJitter().jitter(red_and_orange, numbers, torch.tensor([[-1, -1, -1, 0]]).T)
    close(actual, torch.tensor([[0.2, 0.2], [0.8, 0.8], [0.2, 0.5]]).view(1, 3, 1, 2))


@given(share=st.floats(-0.5, 0.5), seed=st.integers(0, 999))
@settings(max_examples=50, deadline=None)
def test_hue_turns_back_and_keeps_the_largest_and_smallest(share, seed):
    images = pixels(2, 6, 6, seed)
    turn = torch.tensor([-1, -1, -1, 0])[:, None].repeat(1, 2)

    def turned(images, by):
        return T.ColorJitter().jitter(
            images, torch.tensor([1.0, 1, 1, by])[:, None].repeat(1, 2), turn
        )

    there = turned(images, share)
    close(there.amax(1), images.amax(1))
    close(there.amin(1), images.amin(1))
    close(turned(there, -share), images, 5e-6)


def test_what_jitter_draws():
    numbers, turns = T.ColorJitter(0.4, 1.5, 0.3, 0.1).draw(24_000, seeded())
    bounds = [(0.6, 1.4), (0.0, 2.5), (0.7, 1.3), (-0.1, 0.1)]
    for drawn, (low, high) in zip(numbers, bounds, strict=True):
        margin = (high - low) / 1000
        assert low <= drawn.min() < low + margin and high - margin < drawn.max() <= high
        assert drawn.mean().item() == pytest.approx((low + high) / 2, abs=10 * margin)
        assert len(drawn.unique()) > 20_000
    assert numbers.corrcoef().fill_diagonal_(0).abs().max() < 0.03
    _, counts = turns.unique(dim=1, return_counts=True)
    assert len(counts) == 24 and counts.min() > 850 and counts.max() < 1150  # 1000 +- 31
    assert torch.equal(turns.sort(dim=0).values, torch.arange(4)[:, None].expand(4, 24_000))


def test_an_order_has_no_place_for_what_is_not_there():
    _, turns = T.ColorJitter(0.4, 0.4, hue=0.1).draw(6000, seeded())
    assert (turns[2] == -1).all()
    _, counts = turns.unique(dim=1, return_counts=True)
    assert len(counts) == 6 and counts.min() > 850 and counts.max() < 1150


def test_some_images_are_not_jittered():
    images = pixels(500, 4, 4)
    actual = T.ColorJitter(0.4, 0.4, 0.4, 0.1, p=0.7)(images, seeded())
    same = (actual == images).flatten(1).all(dim=1)
    assert 110 < same.sum() < 190
    always = T.ColorJitter(0.4, 0.4, 0.4, 0.1)(images, seeded())
    close(actual[~same], always[~same], 1e-6)
    close(T.ColorJitter(0.4, 0.4, 0.4, 0.1, p=0)(images, seeded()), images, 0)
    close(T.ColorJitter()(images, seeded()), images, 0)


@pytest.mark.parametrize(
    "options", [{"brightness": -0.1}, {"contrast": -1}, {"saturation": -0.1}, {"hue": 0.6}]
)
def test_jitter_out_of_bounds(options):
    with pytest.raises(DataError, match=r"at least 0, hue at most 0\.5; it was given"):
        T.ColorJitter(**options)


# gray


def test_grayscale():
    images = pixels(400, 6, 6)
    actual = T.RandomGrayscale(0.2)(images, seeded())
    gray = (actual == actual[:, :1]).flatten(1).all(dim=1)
    assert 50 < gray.sum() < 110
    close(actual[~gray], images[~gray], 0)
    close(actual[gray], TF.rgb_to_grayscale(images[gray], num_output_channels=3), GRAY)


def test_gray_by_hand():
    """0.299 + 0.587 / 2 = 0.5925; of three equal channels it is the same again."""
    images = torch.tensor([[1.0, 0.25], [0.5, 0.25], [0.0, 0.25]]).view(1, 3, 1, 2)
    expected = torch.tensor([0.5925, 0.25]).expand(1, 3, 1, 2)
    close(T.RandomGrayscale(1)(images, seeded()), expected, 1e-7)


# blur


@pytest.mark.parametrize("size", [1, 3, 9, 23])
def test_blur(size):
    images = pixels(5)
    sigma = torch.tensor([0.1, 0.5, 1.0, 2.0, 7.0])
    actual = T.GaussianBlur(size).blur(images, sigma, torch.ones(5, dtype=torch.bool))
    for image, result, deviation in zip(images, actual, sigma.tolist(), strict=True):
        close(result, TF.gaussian_blur(image, [size, size], [deviation, deviation]))


def test_what_blur_draws():
    """A lone pixel keeps w^2, w = 1 / (1 + 2 exp(-1 / (2 sigma^2))) the middle weight."""
    lone = torch.zeros(4000, 3, 3, 3)
    lone[:, :, 1, 1] = 1
    actual = T.GaussianBlur(3, (0.5, 2.0), p=0.5)(lone, seeded())[:, 0, 1, 1].double()
    blurred = actual < 1
    assert 1850 < blurred.sum() < 2150
    sigma = (-2 * ((1 / actual[blurred].sqrt() - 1) / 2).log()).rsqrt()
    assert sigma.min().item() == pytest.approx(0.5, abs=0.01)
    assert sigma.max().item() == pytest.approx(2.0, abs=0.01)
    assert sigma.mean().item() == pytest.approx(1.25, abs=0.05)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kernel_size": 4}, "kernel_size is 4; it must be odd and positive"),
        ({"kernel_size": -3}, "kernel_size is -3"),
        ({"kernel_size": 3, "sigma": [0, 2]}, r"sigma is \[0, 2\]"),
        ({"kernel_size": 3, "sigma": [2, 1]}, r"sigma is \[2, 1\]"),
        ({"kernel_size": 3, "sigma": [1]}, r"sigma is \[1\]"),
        ({"kernel_size": 3, "p": 2}, "GaussianBlur: p is 2"),
    ],
)
def test_blurs_that_are_none(options, message):
    with pytest.raises(DataError, match=message):
        T.GaussianBlur(**options)


def test_blur_of_images_that_have_no_mirror():
    assert T.GaussianBlur(9)(pixels(2, 5, 8), seeded()).shape == (2, 3, 5, 8)
    with pytest.raises(DataError, match=r"GaussianBlur\(11\) was given images of 5 x 8"):
        T.GaussianBlur(11)(pixels(2, 5, 8), seeded())


# all


@pytest.mark.parametrize(
    "step",
    [T.ColorJitter(0.4, 0.4, 0.4, 0.2, p=0.8), T.RandomGrayscale(0.5), T.GaussianBlur(5)],
    ids=lambda step: type(step).__name__,
)
@pytest.mark.parametrize("cached", [1, 5000, 2**40])
def test_few_images_at_a_time_or_all(step, cached, monkeypatch):
    images = pixels(16)
    expected = step(images, seeded())
    monkeypatch.setattr(base, "CPU_CACHE_NUMBERS", cached)
    close(step(images, seeded()), expected, 1e-6)
