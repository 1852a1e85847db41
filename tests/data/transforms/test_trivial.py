"""TrivialAugment against torchvision: the same operation with the same magnitude."""

import pytest
import torch
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional as TF

from deephash.data import transforms as T
from deephash.data.transforms.trivial import OPERATIONS, SIGNED, WARPS

MOVED = {f"{name}{sign}": (name, sign) for name in SIGNED for sign in "+-"}
COLOURS = [name for name in OPERATIONS if name not in WARPS]
SPACE = v2.TrivialAugmentWide._AUGMENTATION_SPACE
ROUNDED = 2.05 / 255
"""torchvision rounds to 8 bits, gray as well, down."""


def pixels(count=3, height=24, width=33, seed=0):
    drawn = torch.Generator().manual_seed(seed)
    coarse = torch.randint(0, 256, (count, 3, 6, 8), dtype=torch.uint8, generator=drawn)
    images = TF.resize(coarse, [height, width])
    return (images.float() * torch.tensor([0.6, 1.0, 0.3]).view(3, 1, 1, 1)[:count]).byte()


def theirs(images, name, magnitude, interpolation="nearest"):
    step = v2.TrivialAugmentWide(interpolation=InterpolationMode(interpolation))
    return step._apply_image_or_video_transform(
        images, name, magnitude, step.interpolation, {type(images): None}
    )


def ours(images, name, magnitude, interpolation="nearest"):
    step = T.TrivialAugmentWide(interpolation=interpolation)
    count = len(images)
    operation = torch.full((count,), OPERATIONS.index(name))
    return step.augment(images, operation, torch.full((count,), float(magnitude)))


def magnitudes(name, sign="+"):
    values = SPACE[name][0](31, 24, 33)
    chosen = [0.0] if values is None else [float(values[at]) for at in (0, 1, 9, 16, 30)]
    return [-strength if sign == "-" else strength for strength in chosen]


def test_the_space_of_torchvision():
    assert tuple(SPACE) == OPERATIONS
    step = T.TrivialAugmentWide()
    for at, (name, (values, signed)) in enumerate(SPACE.items()):
        expected = values(31, 24, 33)
        assert signed == (name in SIGNED)
        if expected is not None:
            torch.testing.assert_close(step.magnitudes[at], expected.float())


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear"])
@pytest.mark.parametrize("case", [case for case in MOVED if MOVED[case][0] in WARPS])
def test_pixels_move_as_in_torchvision(case, interpolation):
    """Where two pixels are equally near, the nearest one may differ."""
    name, sign = MOVED[case]
    images = pixels() / 255
    for magnitude in magnitudes(name, sign):
        expected = theirs(images, name, magnitude, interpolation)
        off = (ours(images, name, magnitude, interpolation) - expected).abs() > 5e-5
        assert off.double().mean() <= (0.002 if interpolation == "nearest" else 0)


@pytest.mark.parametrize("case", [case for case in MOVED if MOVED[case][0] in WARPS])
def test_pixels_move_bicubically_as_in_pillow(case):
    """Pillow rounds to 8 bits, and may treat a coordinate on the border as outside."""
    name, sign = MOVED[case]
    images = pixels()
    for magnitude in magnitudes(name, sign):
        expected = torch.stack(
            [
                TF.pil_to_tensor(theirs(TF.to_pil_image(image), name, magnitude, "bicubic"))
                for image in images
            ]
        )
        actual = ours(images / 255, name, magnitude, "bicubic")
        off = (actual - expected / 255).abs() > ROUNDED
        assert off.double().mean() <= 0.003


@pytest.mark.parametrize("case", [c for c in MOVED if MOVED[c][0] not in WARPS] + COLOURS[5:])
def test_colours_change_as_in_torchvision(case):
    name, sign = MOVED.get(case, (case, "+"))
    images = pixels()
    exact = name in ("Posterize", "Solarize", "Equalize")
    for magnitude in magnitudes(name, sign):
        expected = theirs(images, name, magnitude) / 255
        actual = ours(images / 255, name, magnitude)
        torch.testing.assert_close(actual, expected, atol=1e-6 if exact else ROUNDED, rtol=0)
        if not exact:  # of numbers that are not rounded
            expected = theirs(images / 255, name, magnitude)
            torch.testing.assert_close(actual, expected, atol=2e-4, rtol=0)


def test_flat_channels():
    """Of one level, of two, and of a few pixels: nothing to stretch, no division by 0."""
    images = torch.zeros(3, 3, 8, 8, dtype=torch.uint8)
    images[1, 0] = 77
    images[1, 1, :4] = 9
    images[2, 2, 0, :5] = torch.tensor([1, 2, 3, 4, 255], dtype=torch.uint8)
    for name in ("AutoContrast", "Equalize", "Sharpness"):
        expected = theirs(images, name, 0.5) / 255
        torch.testing.assert_close(ours(images / 255, name, 0.5), expected, atol=ROUNDED, rtol=0)


def test_equalize_of_many_pixels():
    images = pixels(3, 90, 80)
    expected = theirs(images, "Equalize", 0.0) / 255
    assert (expected - images / 255).abs().mean() > 0.05
    torch.testing.assert_close(ours(images / 255, "Equalize", 0.0), expected, atol=1e-6, rtol=0)


def test_images_of_two_pixels_stay_as_they_are_where_there_is_no_inside():
    images = pixels(2, 2, 9) / 255
    assert torch.equal(ours(images, "Sharpness", 0.9), images)


def test_each_image_has_an_operation_of_its_own():
    images = pixels(1).repeat(42, 1, 1, 1) / 255
    step = T.TrivialAugmentWide(interpolation="bilinear")
    operations, drawn = torch.arange(42) % 14, torch.linspace(0, 0.9, 42)
    actual = step.augment(images, operations, drawn)
    for at in range(42):
        alone = step.augment(images[:1], operations[at : at + 1], drawn[at : at + 1])
        torch.testing.assert_close(actual[at], alone[0], atol=1e-6, rtol=0)


def test_what_is_drawn():
    """All operations, magnitudes and signs are equally likely."""
    step = T.TrivialAugmentWide()
    operations, drawn = step.draw(60_000, torch.Generator().manual_seed(0))
    counts = operations.bincount()
    assert len(counts) == 14 and counts.min() > 4000 and counts.max() < 4600
    for at, name in enumerate(OPERATIONS):
        values, signed = drawn[operations == at], name in SIGNED
        assert set(values.abs().unique().tolist()) == set(step.magnitudes[at].unique().tolist())
        assert (0.45 < (values < 0).double().mean() < 0.53) if signed else (values >= 0).all()


def test_a_result_of_its_own():
    images = pixels() / 255
    kept = images.clone()
    actual = T.TrivialAugmentWide().augment(images, torch.zeros(3).long(), torch.zeros(3))
    assert torch.equal(actual, images)
    actual.zero_()
    assert torch.equal(images, kept)
