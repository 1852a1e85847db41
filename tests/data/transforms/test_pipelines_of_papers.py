"""Each pipeline of ``conf/views``, applied to the images that it is for."""

import pytest
import torch
import yaml
from torchvision.transforms import InterpolationMode, v2

from deephash.config import build, checks, run_identity
from deephash.config.overrides import parse_all
from deephash.data.transforms import Pipeline
from deephash.errors import DataError
from tests.pages import composable, resolved
from tests.paths import CONF

RESIZE = v2.Resize(224)
MIDDLE = v2.CenterCrop(224)
SQUASH = v2.Compose([v2.Resize((256, 256)), MIDDLE])
BICUBIC = v2.Resize(224, InterpolationMode.BICUBIC)

RECIPES = {  # side of the stored squares, the source's test images, whether training is random
    "cibhash": (256, MIDDLE, True),
    "cibhash_cifar": (32, RESIZE, True),
    "csq": (255, MIDDLE, True),
    "deephash_pytorch": (256, MIDDLE, True),
    "deephash_pytorch_cifar": (32, RESIZE, False),
    "dhd": (256, MIDDLE, True),
    "dpn": (256, MIDDLE, True),
    "dpn_nuswide": (256, MIDDLE, True),
    "dsdh": (32, v2.Compose([v2.Resize(256), MIDDLE]), True),
    "fire": (256, SQUASH, True),
    "fire_nuswide": (256, SQUASH, True),
    "greedyhash": (256, MIDDLE, True),
    "greedyhash_cifar": (32, RESIZE, False),
    "hashnet": (256, SQUASH, True),
    "hashnet_caffe": (256, v2.CenterCrop(227), True),
    "nsh": (256, MIDDLE, True),
    "orthohash_coco": (224, RESIZE, True),
    "relahash_cifar": (32, RESIZE, True),
    "relahash_crop": (256, MIDDLE, True),
    "relahash_rrc": (224, RESIZE, True),
    "sdc": (256, MIDDLE, False),
    "sdc_augmented": (256, MIDDLE, True),
    "sdc_augmented_cifar": (32, BICUBIC, True),
    "sdc_cifar": (32, BICUBIC, False),
    "trivialaugment": (256, MIDDLE, True),
    "trivialaugment_cifar": (32, BICUBIC, True),
}
REFUSE = [name for name, (side, _, _) in RECIPES.items() if side in (255, 256)]
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


@pytest.fixture(scope="module")
def folded():
    with composable():
        yield lambda *words: resolved(["trainer.device=cpu", *words])


@pytest.fixture(scope="module")
def pipelines(folded):
    def make(name):
        node = folded("dataset=cifar10", f"views={name}")["dataset"]["transforms"]
        return [
            Pipeline([build.part(step, "dataset.transforms") for step in node[role]])
            for role in ("train", "test")
        ]

    return make


def squares(side, count=2):
    drawn = torch.Generator().manual_seed(0)
    coarse = torch.randint(0, 256, (count, 3, 16, 16), dtype=torch.uint8, generator=drawn)
    return v2.functional.resize(coarse, [side, side])


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_every_recipe_is_here():
    assert set(RECIPES) == {path.stem for path in (CONF / "views").glob("*.yaml")}


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_makes_the_test_images_of_its_source(name, pipelines):
    side, source, _ = RECIPES[name]
    images = squares(side)
    _, test = pipelines(name)
    assert not test.random
    expected = source(images / 255).clamp(0, 1)
    expected = v2.functional.normalize(expected, MEAN, STD)
    torch.testing.assert_close(test(images), expected, atol=2e-5, rtol=0)


@pytest.mark.parametrize("name", ["sdc", "sdc_augmented", "cibhash", "nsh"])
def test_larger_squares_are_resized_bicubically(name, pipelines):
    images = squares(300)
    source = v2.Compose([v2.Resize(256, InterpolationMode.BICUBIC), MIDDLE])
    expected = v2.functional.normalize(source(images / 255).clamp(0, 1), MEAN, STD)
    torch.testing.assert_close(pipelines(name)[1](images), expected, atol=2e-5, rtol=0)


def test_what_contrastive_methods_see(folded):
    """The numbers of SDC's repository, and the authors' blur of every second image."""
    for name, blurred in (("cibhash", 1.0), ("cibhash_cifar", 0.5)):
        steps = {
            step.pop("_target_").rpartition(".")[2]: step
            for step in folded(f"views={name}")["dataset"]["transforms"]["train"]
        }
        assert steps.pop("Resize", {"size": 256, "enlarge": False})["size"] == 256
        assert steps == {
            "RandomResizedCrop": {"size": 224, "scale": [0.5, 1.0]},
            "RandomHorizontalFlip": {"p": 0.5},
            "ColorJitter": {
                "brightness": 0.4,
                "contrast": 0.4,
                "saturation": 0.4,
                "hue": 0.1,
                "p": 0.7,
            },
            "RandomGrayscale": {"p": 0.2},
            "GaussianBlur": {"kernel_size": 3, "sigma": [0.1, 2.0], "p": blurred},
            "Normalize": {"mean": MEAN, "std": STD},
        }


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_makes_training_images_as_large_as_its_test_images(name, pipelines):
    side, _, random = RECIPES[name]
    train, test = pipelines(name)
    images = squares(side)
    first, again, other = (train(images, seeded(seed)) for seed in (1, 1, 2))
    assert first.shape == test(images).shape and torch.equal(first, again)
    assert train.random == random
    assert torch.equal(first, other) != random


@pytest.mark.parametrize("name", REFUSE)
def test_a_recipe_refuses_squares_that_are_too_small(name, pipelines):
    side = RECIPES[name][0]
    for pipeline in pipelines(name):
        with pytest.raises(DataError, match=f"may not enlarge them.*dataset.source.size={side}"):
            pipeline(squares(224), seeded())


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_tells_its_source_and_its_squares(name):
    lines = (CONF / "views" / f"{name}.yaml").read_text().splitlines()
    assert lines[0] == "# @package dataset.transforms"
    head = " ".join(line[1:].strip() for line in lines[1:] if line.startswith("#"))
    assert f"views={name}" in head and "python train.py " in head and "For squares of " in head
    assert (f"dataset.source.size={RECIPES[name][0]}" in head) >= (name in REFUSE)


def written(train, test):
    """Two pipelines of the catalogue."""
    catalogue = yaml.safe_load((CONF / "shared" / "transforms.yaml").read_text())
    return {"train": catalogue["train"][train], "test": catalogue["test"][test]}


@pytest.mark.parametrize("dataset", ["imagenet100", "cifar10", "digits"])
def test_a_recipe_replaces_both_pipelines_whole(dataset, folded):
    words = [f"dataset={dataset}", "views=hashnet"]
    cfg, plain = folded(*words), folded(*words[:1])
    stands = written("hashnet", "squash_256")
    assert cfg["dataset"]["transforms"] == stands != plain["dataset"]["transforms"]
    rest = {key: value for key, value in cfg["dataset"].items() if key != "transforms"}
    assert rest == {k: v for k, v in plain["dataset"].items() if k != "transforms"}
    assert checks.check_train(cfg, parse_all(words)) == []
    assert run_identity.run_name(cfg, parse_all(words)).endswith("seed0,views=hashnet")


def test_a_recipe_that_is_typed_replaces_that_of_an_experiment(folded):
    cfg = folded("experiment=dhn_cifar10", "views=cibhash_cifar")
    assert cfg["dataset"]["transforms"] == written("cibhash_cifar", "resize_224")


def test_recipes_that_are_the_same_on_squares(folded):
    def made(name):
        return folded(f"views={name}")["dataset"]["transforms"]

    for name in ("dpn_nuswide", "fire_nuswide", "deephash_pytorch", "greedyhash"):
        assert made(name) == made("relahash_crop")
    for name in ("dpn", "fire"):
        assert made(name) == made("hashnet")
    assert made("greedyhash_cifar") == made("deephash_pytorch_cifar")
    for dataset, name in (("cifar10", "relahash_cifar"), ("imagenet100", "relahash_rrc")):
        assert made(name) == folded(f"dataset={dataset}")["dataset"]["transforms"]
