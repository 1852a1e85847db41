"""A backbone that declares its images decides those of the dataset; what is typed wins."""

import json
import sys

import pytest

from deephash.config import backbone_inputs, checks, run_identity
from deephash.config.overrides import parse_all
from tests.pages import composable, resolved

pytest.importorskip("timm")

LITE = ["backbone=timm", "backbone.name=tf_efficientnet_lite0", "backbone.weights=none"]
VIT = ["backbone=timm", "backbone.name=test_vit", "backbone.weights=none"]  # of 160 alone
HALF = [0.5, 0.5, 0.5]
IMAGENET = [0.485, 0.456, 0.406]


@pytest.fixture(scope="module")
def folded():
    with composable():
        yield lambda *words, page="train": resolved(["trainer.device=cpu", *words], page)


def options(cfg, kind, option, pipeline=None):
    """The values of an option in the steps of a kind, of one pipeline or of all."""
    pipelines = cfg["dataset"]["transforms"]
    chosen = [pipelines[pipeline]] if pipeline else pipelines.values()
    return [
        step.get(option)
        for steps in chosen
        for step in steps
        if step["_target_"].endswith(f".{kind}")
    ]


def faults(cfg):
    return {fault.key: fault for fault in checks.check_train(cfg)}


@pytest.mark.parametrize("dataset", ["cifar10", "folder dataset.root=x", "imagenet100"])
@pytest.mark.parametrize("views", [None, "cibhash", "sdc"])
def test_statistics_interpolation_and_size_are_the_models(dataset, views, folded):
    cfg = folded(f"dataset={dataset}".split()[0], *dataset.split()[1:], *LITE,
                 *([f"views={views}"] if views else []),
                 "dataset.source.size=256" if dataset == "imagenet100" else "seed=0")  # fmt: skip
    assert cfg["dataset"]["size"] == 224
    for option in ("mean", "std"):
        values = options(cfg, "Normalize", option)
        assert len(values) >= 2 and all(value == HALF for value in values)
    for kind in ("Resize", "RandomResizedCrop"):
        assert set(options(cfg, kind, "interpolation")) <= {"bicubic"}
    assert not faults(cfg)
    assert json.loads(json.dumps(cfg)) == cfg


def test_the_size_reaches_the_steps(folded):
    words = ["dataset=folder", "dataset.root=x", "dataset.source.size=160"]
    cfg = folded(*words, *VIT)
    assert cfg["dataset"]["size"] == 160
    assert options(cfg, "CenterCrop", "size") == [160] == options(cfg, "RandomResizedCrop", "size")
    smaller = folded(*words, *VIT, "backbone.img_size=64")
    assert smaller["dataset"]["size"] == 64 == options(smaller, "CenterCrop", "size")[0]
    assert not faults(cfg) and not faults(smaller)


def test_what_is_typed_stays(folded):
    cfg = folded("dataset=cifar10", *LITE, "dataset.size=96")
    assert cfg["dataset"]["size"] == 96 and set(options(cfg, "Resize", "size")) == {96}
    step = "{_target_: deephash.data.transforms.Normalize, mean: [0.1, 0.2, 0.3], std: [1, 1, 1]}"
    cfg = folded("dataset=cifar10", *LITE, f"dataset.transforms.test=[{step}]")
    assert options(cfg, "Normalize", "mean", "test") == [[0.1, 0.2, 0.3]]
    assert options(cfg, "Normalize", "mean", "train") == [HALF]


def test_preprocessing_of_the_dataset_is_used_if_selected(folded):
    own = folded("dataset=cifar10", *LITE, "backbone.preprocessing=dataset")
    plain = folded("dataset=cifar10", "backbone=alexnet")
    assert own["dataset"] == plain["dataset"]
    assert options(own, "Normalize", "mean") == [IMAGENET] * 2


def test_other_backbones_and_sizes_that_are_not_there_change_nothing(folded):
    digits = folded("dataset=digits", *LITE)
    assert "size" not in digits["dataset"]
    assert options(digits, "Normalize", "mean") == [HALF] * 2
    assert digits["dataset"]["transforms"]["train"][0]["size"] == 8
    features = folded("dataset=features", "dataset.root=x", *LITE)
    assert features["dataset"]["transforms"]["test"] == []


def test_the_page_of_data_has_them_too(folded):
    cfg = folded("do=encode", "out=x", "dataset=cifar10", *LITE, page="data")
    assert options(cfg, "Normalize", "mean") == [HALF] * 2 and not checks.check_data(cfg)
    cfg = folded("do=encode", "out=x", "dataset=cifar10", *VIT, "dataset.size=96", page="data")
    assert [fault.key for fault in checks.check_data(cfg)] == ["dataset.size"]


@pytest.mark.parametrize(
    ("words", "key", "message"),
    [
        (["dataset=cifar10", "dataset.size=96"], "dataset.size", "dataset.size=160"),
        (["dataset=cifar10", "views=cibhash"], "dataset.transforms.train", "img_size=224"),
        (["dataset=folder", "dataset.root=x", "dataset.source.size=128"], "dataset.source.size",
         "dataset.source.size=169"),
        (["dataset=folder", "dataset.root=x", "dataset.source.size=128", "backbone.img_size=128",
          "dataset.size=130"], "dataset.source.size", "is 128"),
    ],
)  # fmt: skip
def test_images_that_the_model_does_not_take(words, key, message, folded):
    fault = faults(folded(*words, *VIT))[key]
    assert message in f"{fault.message} {fault.hint}"


def test_pipelines_that_no_view_uses_are_not_looked_at(folded):
    cfg = folded("dataset=cifar10", *VIT)
    cfg["dataset"]["transforms"]["other"] = [
        {"_target_": "deephash.data.transforms.CenterCrop", "size": 224}
    ]
    assert not faults(cfg)
    cfg["method"]["views"] = ["other"]
    assert "dataset.transforms.other" in faults(cfg)


def test_names_of_runs_are_what_is_typed_and_configurations_are_the_same_again(folded):
    words = ["dataset=cifar10", *LITE]
    name = run_identity.run_name(folded(*words), parse_all(words))
    assert "mean" not in name and "dataset.size" not in name and "preprocessing" not in name
    assert run_identity.identity_of(folded(*words)) == run_identity.identity_of(folded(*words))
    spelled = folded(*words, "dataset.size=224", "backbone.preprocessing=model")
    assert run_identity.identity_of(spelled) == run_identity.identity_of(folded(*words))


def test_without_timm_the_error_states_how_to_install_it(folded, monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    result = faults(folded("dataset=cifar10", *LITE))
    assert "needs the package timm" in result["backbone.name"].message
    assert "pip install timm" in result["backbone.name"].hint


def test_faults_of_no_declaration_are_none(folded):
    cfg = folded("dataset=cifar10", "backbone=alexnet")
    assert backbone_inputs.check_images(cfg) == []
