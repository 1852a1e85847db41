"""Every file of ``conf/pipeline``: named pipelines for `method.views`, on any dataset of images."""

import pytest
import torch
from PIL import ImageFilter
from torchvision.transforms import v2

from deephash.config import build, checks, run_identity
from deephash.config.overrides import parse_all
from deephash.data.transforms import GaussianBlur
from tests.pages import composable, resolved
from tests.paths import CONF

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
NORMALIZE = {"Normalize": {"mean": MEAN, "std": STD}}

JITTER = {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4}

PIPELINES = {  # by file: what each pipeline does; its first step makes `dataset.size`
    "cibhash": {
        "cibhash": {
            "RandomResizedCrop": {"scale": [0.5, 1.0]},
            "RandomHorizontalFlip": {"p": 0.5},
            "ColorJitter": {**JITTER, "hue": 0.1, "p": 0.7},
            "RandomGrayscale": {"p": 0.2},
            "GaussianBlur": {"kernel_size": 3, "sigma": [0.1, 2.0], "p": 1.0},
            **NORMALIZE,
        },
    },
    "nsh": {
        "nsh_weak": {
            "RandomResizedCrop": {"scale": [0.2, 1.0]},
            "RandomHorizontalFlip": {"p": 0.5},
            "ColorJitter": {**JITTER, "hue": 0.1, "p": 0.8},
            "RandomGrayscale": {"p": 0.2},
            "GaussianBlur": {"kernel_size": 13, "sigma": [0.1, 2.0], "p": 1.0},
            **NORMALIZE,
        },
        "nsh_strong": {
            "RandomResizedCrop": {"scale": [0.2, 1.0]},
            "RandomHorizontalFlip": {"p": 0.5},
            "ColorJitter": {**JITTER, "hue": 0.4, "p": 1.0},
            "RandomGrayscale": {"p": 0.2},
            **NORMALIZE,
        },
    },
    "trivialaugment": {
        "trivialaugment": {
            "Resize": {},
            "RandomHorizontalFlip": {"p": 0.5},
            "TrivialAugmentWide": {"num_magnitude_bins": 31, "interpolation": "bicubic"},
            "CenterCrop": {},
            **NORMALIZE,
        },
    },
}
SIZED = ("RandomResizedCrop", "Resize", "CenterCrop")


@pytest.fixture(scope="module")
def folded():
    with composable():
        yield lambda *words: resolved(["trainer.device=cpu", *words])


def test_every_file_is_here():
    assert set(PIPELINES) == {path.stem for path in (CONF / "pipeline").glob("*.yaml")}


@pytest.mark.parametrize("file", PIPELINES)
def test_steps_of_a_pipeline(file, folded):
    """In the order of the source, and the dataset's own pipelines stay as they are."""
    for words in (["dataset=cifar10", "dataset.size=96"], ["dataset=digits"]):
        transforms = folded(*words, f"pipeline={file}")["dataset"]["transforms"]
        for name, steps in PIPELINES[file].items():
            actual = {
                step.pop("_target_").rpartition(".")[2]: step for step in transforms.pop(name)
            }
            size = 96 if "dataset.size=96" in words else 224  # the digits have no size
            sized = {"size": size}
            expected = {
                key: {**(sized if key in SIZED else {}), **step} for key, step in steps.items()
            }
            assert list(actual.items()) == list(expected.items())
        assert transforms == folded(*words)["dataset"]["transforms"]


@pytest.mark.parametrize("file", PIPELINES)
def test_views_are_random_and_of_the_size_of_the_dataset(file, folded):
    cfg = folded("dataset=cifar10", "dataset.size=40", f"pipeline={file}")
    images = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)
    for name in PIPELINES[file]:
        pipeline = build.pipeline(cfg["dataset"]["transforms"][name])
        views = [pipeline(images, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
        assert views[0].shape == (3, 3, 40, 40) and pipeline.random
        assert torch.equal(views[0], views[1]) and not torch.equal(views[0], views[2])


@pytest.mark.parametrize("file", PIPELINES)
def test_a_pipeline_is_chosen_for_views_by_its_name(file, folded):
    name = next(iter(PIPELINES[file]))
    words = ["dataset=cifar10", "method=cibhash", f"pipeline={file}", f"method.views=[{name},test]"]
    cfg = folded(*words)
    assert checks.check_train(cfg, parse_all(words)) == []
    assert run_identity.run_name(cfg, parse_all(words)).endswith(f"pipeline={file}")


def test_the_blur_of_pillow(folded):
    """On a smooth image, and on noise: Pillow's three boxes are no Gaussian."""
    steps = folded("dataset=cifar10", "pipeline=nsh")["dataset"]["transforms"]["nsh_weak"]
    (blur,) = (step for step in steps if step["_target_"].endswith("GaussianBlur"))
    assert blur["kernel_size"] == 13
    drawn = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8, generator=drawn)
    coarse = noise[:, :8, :8]
    smooth = v2.functional.resize(coarse, [64, 64])
    for image, most, average in ((smooth, 0.02, 0.004), (noise, 0.06, 0.01)):
        for sigma in (0.5, 1.0, 1.5, 2.0):
            picture = v2.functional.to_pil_image(image).filter(ImageFilter.GaussianBlur(sigma))
            expected = v2.functional.pil_to_tensor(picture) / 255
            every = torch.ones(1, dtype=torch.bool)
            actual = GaussianBlur(13).blur(image[None] / 255, torch.tensor([sigma]), every)[0]
            apart = (actual - expected).abs()[:, 8:-8, 8:-8]  # Pillow repeats the border
            assert apart.max() < most and apart.mean() < average
