"""Views are the same on each device, because their numbers are drawn on the CPU."""

import pytest
import torch

from deephash.config import build
from deephash.data import transforms as T
from tests.pages import composable, resolved
from tests.paths import CONF

VIEWS = sorted(path.stem for path in (CONF / "views").glob("*.yaml"))

STEPS = [
    T.Resize(9),
    T.Resize(40, squash=True),
    T.Resize(13, interpolation="bicubic"),
    T.CenterCrop(12),
    T.RandomCrop(12, padding=1),
    T.RandomShift(2),
    T.RandomHorizontalFlip(),
    T.RandomResizedCrop(12),
    T.RandomResizedCrop(40, interpolation="bicubic"),
    T.ColorJitter(0.3, 0.3),
    T.ColorJitter(0.3, 0.3, 0.3, 0.1, p=0.7),
    T.RandomGrayscale(0.5),
    T.GaussianBlur(5, p=0.5),
    T.TrivialAugmentWide(interpolation="bilinear"),
    T.TrivialAugmentWide(interpolation="bicubic"),
    T.Normalize([0.4, 0.5, 0.6], [0.2, 0.3, 0.25]),
    T.Pipeline([T.Resize(16), T.RandomHorizontalFlip(), T.ColorJitter(0.1, 0.1)]),
]


def pixels(count, side, more=0):
    drawn = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 3, side, side + more), dtype=torch.uint8, generator=drawn)


def alike(step, images, device, atol, far=0.0):
    """A seed gives the same view on each device.

    ``far``: the share of values that may differ by more. Solarize and Posterize are not continuous,
    so a value next to a threshold can fall on either side of it.
    """
    expected = step.to("cpu")(images, torch.Generator().manual_seed(1))
    actual = step.to(device)(images.to(device), torch.Generator().manual_seed(1))
    assert actual.device.type == device.type
    difference = (actual.cpu() - expected).abs()
    assert (difference > atol).float().mean().item() <= far, difference.max()


def test_every_step_is_here():
    kinds = {kind for kind in vars(T).values() if isinstance(kind, type) and kind is not T.Step}
    assert {type(step) for step in STEPS} == kinds


@pytest.mark.parametrize("step", STEPS, ids=lambda step: type(step).__name__)
def test_a_step_makes_the_same_of_images(step, device):
    alike(step, pixels(16, 20, 8) / 255, device, 2e-5)


@pytest.mark.parametrize("name", VIEWS)
def test_the_views_of_a_recipe_are_the_same(name, device):
    """Normalised, so that a difference is four to five times that of the pixels."""
    with composable():
        words = ["trainer.device=cpu", "dataset=cifar10", f"views={name}"]
        node = resolved(words)["dataset"]["transforms"]
    for role in ("train", "test"):
        steps = [build.part(step, "dataset.transforms") for step in node[role]]
        count = 1 if device.type == "cpu" else 4
        far = 1e-4 if any(isinstance(step, T.TrivialAugmentWide) for step in steps) else 0.0
        alike(T.Pipeline(steps), pixels(count, 256), device, 2e-4, far)
