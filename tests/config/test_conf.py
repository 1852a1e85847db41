"""All files of ``conf``, and the messages of the checks of a configuration."""

import copy
import itertools
import json
import re
from typing import get_args

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from deephash.config import (
    build,
    checks,
    injected_arguments,
    requirements,
    resolve,
    run_identity,
    schema,
    targets,
)
from deephash.config.explain import explain
from deephash.config.faults import Fault, raise_faults
from deephash.config.overrides import parse_all, texts
from deephash.errors import ConfigError, DataError, TrainingError
from deephash.models.backbones import Tiny
from deephash.models.encoder import Encoder
from deephash.models.heads import Linear
from deephash.retrieval import Convention
from deephash.types import Batch
from deephash.utils import program
from tests.methods.worked import page
from tests.pages import typed
from tests.paths import CONF

NEEDS = {
    "dataset=folder": ["dataset.root=x"],
    "dataset=lists": ["dataset.root=x"],
    "dataset=csv": ["dataset.root=x"],
    "dataset=features": ["dataset.root=x"],
    "backbone=torchvision": ["backbone.name=alexnet"],
    "backbone=timm": ["backbone.name=resnet18"],
}
NEEDS["head=tokens"] = ["backbone.output=tokens"]
for path in (CONF / "loss").glob("*.yaml"):
    loss = targets.locate(OmegaConf.load(path)["_target_"])
    words = ["relaxation=sign"] if "bits" in loss.needs else []
    if views := getattr(loss, "views", None):
        words.append(f"+method.views={views}")
    NEEDS[f"loss={path.stem}"] = words
for path in (CONF / "settings").glob("*.yaml"):
    method, _, dataset = path.stem.rpartition("_")
    words = [f"method={method}", f"dataset={dataset}", *NEEDS.get(f"dataset={dataset}", [])]
    NEEDS[f"settings={path.stem}"] = words
OPTIONS = [
    f"{path.parent.relative_to(CONF).as_posix()}={path.stem}"
    for path in sorted(CONF.rglob("*.yaml"))
    if path.parent not in (CONF, CONF / "settings" / "base")  # settings name their base themselves
    and CONF / "shared" not in path.parents  # only for the defaults lists of other files
    and CONF / "engine" not in path.parents  # of ``search``
]
GROUPS = {option.partition("=")[0] for option in OPTIONS}


@pytest.fixture(scope="module")
def composed():
    schema.register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield lambda overrides: compose("train", overrides=["trainer.device=cpu", *overrides])


@pytest.fixture(scope="module")
def folded(composed):
    return lambda *overrides: resolve.resolve(composed(list(overrides)))


@pytest.fixture(scope="module")
def faults(folded):
    def find(*overrides):
        return {fault.key: fault for fault in checks.check_train(folded(*overrides))}

    return find


@pytest.fixture(scope="module")
def explained(composed):
    def find(*overrides):
        return {
            fault.key: fault
            for fault in explain(
                parse_all(overrides),
                lambda overrides_: composed(texts(overrides_)),
                checks.check_train,
            )
        }

    return find


# walking


def test_every_yaml_is_an_option_or_a_top_page():
    pages = {path.relative_to(CONF).as_posix() for path in CONF.rglob("*.yaml")}
    options = {option.replace("=", "/") + ".yaml" for option in OPTIONS}
    pages = {
        page for page in pages if not page.startswith(("settings/base/", "shared/", "engine/"))
    }
    assert pages == options | {f"{page}.yaml" for page in program.PAGES}
    assert {"method", "dataset", "backbone", *resolve.SLOTS} <= GROUPS


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_composes_resolves_and_has_no_fault(option, folded):
    cfg = folded(option, *NEEDS.get(option, []))
    parts = targets.parts(cfg)
    assert len(parts) > 6
    for path, node in parts:
        assert isinstance(targets.locate(node["_target_"], path), type), path
    assert checks.check_train(cfg) == []
    raise_faults(checks.check_train(cfg))


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_spells_out_its_part(option, composed):
    """What a page leaves out, a default in the code decides; what numbers depend on is in sight."""
    group = option.partition("=")[0]
    if group not in resolve.SLOTS:
        return
    node = OmegaConf.to_container(composed([option])[group])
    given = injected_arguments.names(f"method.{group}")
    assert (
        set(node) - {"_target_"} == set(targets.arguments(targets.locate(node["_target_"]))) - given
    )


DATASETS = [option for option in OPTIONS if option.startswith("dataset=")]
OWN = ("csv", "features", "folder", "lists")  # whose counts nobody else knows


@pytest.mark.parametrize("option", DATASETS)
def test_every_protocol_of_a_dataset_composes(option, folded):
    words = [option, *NEEDS.get(option, ())]
    dataset = folded(*words)["dataset"]
    for name in dataset["protocols"]:
        cfg = folded(*words, f"dataset.protocol={name}")
        assert checks.check_train(cfg) == [] and build.data_module(typed(cfg)) is not None
        assert bool(build.data_module(typed(cfg)).expected) == (dataset["name"] not in OWN), name
        assert (build.split_recipe(typed(cfg)) is None) == (name not in dataset.get("recipes", ()))
    assert set(dataset.get("recipes", ())) | set(dataset["expected"] or ()) <= {
        *dataset["protocols"]
    }


@pytest.mark.parametrize("option", DATASETS)
def test_every_dataset_spells_out_its_source(option, folded):
    dataset = folded(option, *NEEDS.get(option, ()))["dataset"]
    for node in (dataset["source"], dataset.get("catalog", dataset["source"])):
        known = set(targets.arguments(targets.locate(node["_target_"]))) - {"cache", "workers"}
        assert set(node) - {"_target_"} == known


@pytest.mark.parametrize("option", DATASETS)
@pytest.mark.parametrize("do", get_args(schema.Action))
def test_data_composes(option, do, composed):
    words = [f"do={do}", "out=x", option, *NEEDS.get(option, ())]
    cfg = resolve.resolve(compose("data", overrides=words))
    assert checks.check_data(cfg) == []


@pytest.mark.parametrize(
    ("words", "key"),
    [
        (["do=guess"], "do"),
        (["do=export"], "out"),
        (["do=encode"], "out"),
        (["do=verify", "dataset.protocol=59k"], "dataset.protocol"),
        (["do=verify", "dataset.classes=3"], "dataset.classes"),
        (["do=verify", "dataset=cifar10", "+dataset.source.rot=1"], "dataset.source.rot"),
        (["do=encode", "out=x", "+backbone.rot=1"], "backbone.rot"),
    ],
)
def test_what_is_wrong_with_a_page_of_data(words, key, composed):
    faults = checks.check_data(resolve.resolve(compose("data", overrides=words)))
    assert [fault.key for fault in faults] == [key]


def test_evaluate_composes(composed):
    cfg = resolve.resolve(compose("evaluate", overrides=["run=x", "evaluation.ties=stable"]))
    assert cfg["run"] == "x" and cfg["evaluation"]["ties"] == "stable"
    assert checks.check_evaluate(cfg) == []


@pytest.mark.parametrize(
    ("words", "key"),
    [
        ([], "run"),
        (["run=x", "runs=[y]"], "run"),
        (["runs=[1,2]"], "runs"),
        (["runs=''"], "runs"),
        (["runs=7"], "runs"),
        (["run=x", "checkpoint=first"], "checkpoint"),
        (["run=x", "tsne=-1"], "tsne"),
        (["run=x", "gallery.rows=-1"], "gallery.rows"),
        (["run=x", "gallery.top=0"], "gallery.top"),
        (["run=x", "gallery.top=5000"], "gallery.top"),
        (["run=x", "gallery.queries=worst"], "gallery.queries"),
        (["run=x", "gallery.queries=[-1]"], "gallery.queries"),
        (["run=x", "evaluation.tops=[10,0]"], "evaluation.tops"),
        (["run=x", "evaluation.tops=100"], "evaluation.tops"),
        (["run=x", "evaluation.tops=[a]"], "evaluation.tops"),
    ],
)
def test_what_is_wrong_with_an_evaluation_is_reported(words, key, composed):
    cfg = resolve.resolve(compose("evaluate", overrides=words))
    assert [fault.key for fault in checks.check_evaluate(cfg)] == [key]


@pytest.mark.parametrize(
    ("words", "means"),
    [
        ([], {}),
        (["evaluation.ties=stable"], {"ties": "stable"}),
        (["evaluation.convention=hashnet"], {"ties": "stable", "empty": "skip_retrieved_none"}),
        (
            ["evaluation.convention=hashnet", "evaluation.empty=zero", "evaluation.top=5"],
            {"ties": "stable", "top": 5},
        ),
        (["evaluation.convention=deephash-pytorch"], {"ties": "stable", "drop_last": True}),
        (["evaluation.convention=deephash-pytorch", "dataset.top=9"], {"ties": "stable", "top": 9}),
        (
            ["evaluation.convention=gld-official", "dataset.top=9"],
            {"ties": "stable", "denominator": "min", "top": 100},
        ),
    ],
)
def test_a_convention_stands_for_its_fields(words, means, folded):
    assert build.convention(typed(folded(*words))) == Convention(**means)


def test_an_unknown_convention_lists_the_others(folded):
    with pytest.raises(DataError, match="'orthhash' is unknown; allowed: orthohash"):
        build.convention(typed(folded("evaluation.convention=orthhash")))


def test_evaluate_measures_under_what_is_named_and_else_as_the_run(folded):
    ran = folded("evaluation.convention=csq", "evaluation.denominator=min")["evaluation"]
    untold = resolve.resolve(compose_evaluate())["evaluation"]
    assert checks.changed_evaluation(ran, untold) == ran
    named = resolve.resolve(compose_evaluate("evaluation.convention=hashnet"))["evaluation"]
    cfg = folded() | {"evaluation": checks.changed_evaluation(ran, named)}
    assert build.convention(typed(cfg)) == Convention.named("hashnet")
    evaluation = resolve.resolve(compose_evaluate("evaluation.ties=best"))["evaluation"]
    cfg = folded() | {"evaluation": checks.changed_evaluation(ran, evaluation)}
    assert build.convention(typed(cfg)) == Convention.named("csq", denominator="min", ties="best")


def compose_evaluate(*words):
    return compose("evaluate", overrides=["run=x", *words])


WITHOUT_LABELS = [
    "bihalf", "cibhash", "nsh", "sdc", "sdc_simclr", "ugh", "wch",
    "imh", "itq", "lsh", "pca_rr", "pcah", "sh",
]  # fmt: skip


@pytest.mark.parametrize("name", ["cifar10", "imagenet100", "coco", "nuswide21"])
def test_methods_without_labels_see_the_same_test_images(folded, name):
    pages = {
        method: folded(f"method={method}", f"dataset={name}", "dataset.size=96")["dataset"]
        for method in WITHOUT_LABELS
    }
    for method, dataset in pages.items():
        for key in ("source", "top", "size"):
            assert dataset[key] == pages["sdc"][key], (method, key)
        assert dataset["transforms"]["test"] == pages["sdc"]["transforms"]["test"], method
        assert dataset["transforms"]["test"][0]["size"] == 96
        if (method, name) != ("nsh", "cifar10"):  # SDC's repository has another protocol there
            assert dataset["protocol"] == pages["sdc"]["protocol"], method
    if name == "cifar10":
        assert pages["sdc"]["transforms"]["test"][0]["interpolation"] == "bicubic"
        assert pages["sdc"]["transforms"]["train"][0].get("interpolation") != "bicubic"
    else:
        assert pages["sdc"]["source"]["fit"] == "crop"


def test_settings_are_those_of_a_method_and_inherit_from_a_base_alone():
    for path in (CONF / "settings").glob("*.yaml"):
        method, _, dataset = path.stem.rpartition("_")
        assert (CONF / "method" / f"{method}.yaml").is_file(), path
        assert (CONF / "dataset" / f"{dataset}.yaml").is_file(), path
        for entry in OmegaConf.load(path).get("defaults", []):
            assert entry == "_self_" or entry == f"base/{dataset}", path


def test_digits_bring_their_own_backbone(folded):
    assert folded("dataset=digits")["backbone"]["_target_"].endswith("Tiny")
    assert folded("dataset=cifar10")["backbone"]["name"] == "alexnet"
    assert folded("dataset=cifar10", "backbone=resnet50")["backbone"]["name"] == "resnet50"


# folding


@pytest.mark.parametrize("option", [o for o in OPTIONS if o.partition("=")[0] in resolve.SLOTS])
def test_a_swap_replaces_the_whole_part(option, folded, composed):
    """Nothing of the method's own part is left, its numbers included."""
    seat = option.partition("=")[0]
    cfg = folded(option)
    assert cfg["method"][seat] == OmegaConf.to_container(composed([option])[seat])
    assert seat not in cfg
    plain = folded()
    for other in set(resolve.SLOTS) - {seat}:
        assert cfg["method"][other] == plain["method"][other]


def test_a_swapped_loss_forgets_the_numbers_of_the_method(folded):
    assert folded()["method"]["loss"]["scale"] == 50
    assert folded("loss=lmcl")["method"]["loss"] == {
        "_target_": "deephash.losses.lmcl.LMCL", "scale": "sqrt_nbit", "margin": 0.2,
        "quantization": 0.0, "quantization_form": "cosine", "quantization_of": "z",
    }  # fmt: skip
    assert folded("loss=lmcl", "loss.scale=3")["method"]["loss"]["scale"] == 3
    assert folded("method.loss.scale=3")["method"]["loss"]["scale"] == 3


def test_without_a_swap_the_seats_are_gone(folded):
    cfg = folded()
    assert not set(resolve.SLOTS) & set(cfg)
    assert cfg["trainer"]["select_on"] == "query" and cfg["evaluation"]["engine"] == "auto"


def test_swapped_parts_are_built(folded):
    cfg = folded("codebook=bernoulli", "similarity=cosine", "head=linear", "relaxation=tanh")
    assert checks.check_train(cfg) == []
    method = build.method(typed(cfg), num_classes=10, num_train=500)
    names = [
        type(part).__name__
        for part in (method.codebook, method.similarity, method.encoder.head, method.relaxation)
    ]
    assert names == ["Bernoulli", "Cosine", "Linear", "Tanh"]


def test_a_value_left_open_is_reported(composed):
    message = r"dataset\.root +has no value\.\n +Give it one: dataset\.root=\.\.\."
    with pytest.raises(ConfigError, match=message):
        resolve.resolve(composed(["dataset=folder"]))


def test_a_reference_to_nothing_is_reported(composed):
    with pytest.raises(ConfigError, match=r"interpolation +(.|\n)*no\.such"):
        resolve.resolve(composed(["trainer.epochs=${no.such}"]))


# faults of a configuration


def test_unknown_keys_of_a_part_are_reported_with_a_near_one(faults):
    result = faults("+method.loss.scael=3", "+optimizer.mementum=0.9", "optimizer=sgd")
    assert set(result) == {"method.loss.scael", "optimizer.mementum"}
    assert result["method.loss.scael"].hint == "Did you mean method.loss.scale=3?"
    assert "momentum" in result["optimizer.mementum"].hint


def test_wrong_types_are_reported(faults):
    result = faults(
        "method.loss.scale=big",
        "backbone.width=1.5",
        "method.similarity.sqrt_bk=3",
        "backbone.pool=5",
    )
    assert {key: fault.message for key, fault in result.items()} == {
        "method.loss.scale": "'big' is not a number or one of sqrt_nbit, adaptive.",
        "backbone.width": "1.5 is not a whole number.",
        "method.similarity.sqrt_bk": "3 is not true or false.",
        "backbone.pool": "5 is not one of 1, 2.",
    }


def test_what_the_program_sets_is_not_the_users(faults):
    result = faults("+method.codebook.nbit=8", "+method.head.in_features=3")
    assert {fault.message for fault in result.values()} == {"is set by the program."}
    assert set(result) == {"method.codebook.nbit", "method.head.in_features"}


def test_a_missing_argument_is_reported(faults):
    (fault,) = faults("~method.loss.margin").values()
    assert fault.key == "method.loss.margin" and "needs it" in fault.message


@pytest.mark.parametrize(
    "target", ["os.system", "builtins.eval", "subprocess.Popen", "deephashevil.Thing"]
)
def test_foreign_code_is_refused(target, faults):
    (fault,) = faults(f"method.loss._target_={target}").values()
    assert fault.key == "method.loss" and target in fault.message
    with pytest.raises(ConfigError, match="may not run other code"):
        build.part({"_target_": target}, "loss")


@pytest.mark.parametrize("target", ["deephash.losses.nothing.Loss", "deephash.losses.lmcl.Nothing"])
def test_a_part_that_does_not_exist_is_reported(target, faults):
    assert "there is no" in faults(f"method.loss._target_={target}")["method.loss"].message


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        (["trainer.epochs=-1"], "trainer.epochs"),
        (["trainer.batch_size=0"], "trainer.batch_size"),
        (["trainer.eval_every=0"], "trainer.eval_every"),
        (["trainer.patience=0"], "trainer.patience"),
        (["model.nbit=0"], "model.nbit"),
        (["evaluation.top=0"], "evaluation.top"),
        (["trainer.device=tpu"], "trainer.device"),
        (["trainer.device=cuda:99"], "trainer.device"),
        (["trainer.graph=true", "trainer.device=cpu"], "trainer.graph"),
        (["trainer.graph=true", "trainer.compile=true", "trainer.device=cpu"], "trainer.graph"),
        (["dataset.protocol=other"], "dataset.protocol"),
        (["dataset.protocols.per_class.queries=0"], "dataset.protocols.per_class.queries"),
        (
            ["trainer.select_on=val", "dataset.protocols.per_class.validation=0"],
            "trainer.select_on",
        ),
        (
            ["trainer.select_on=agreement", "dataset.protocols.per_class.validation=0"],
            "trainer.select_on",
        ),
        (["trainer.select_on=last", "trainer.patience=3"], "trainer.patience"),
        (["trainer.batch_size=1"], "trainer.batch_size"),
        (["trainer.drop_last=false"], "trainer.drop_last"),
        (["backbone.weights=/no/such.pt"], "backbone.weights"),
        (["+method.sauce=1"], "method.sauce"),
        (["method=hashnet", "trainer.batch_size=9", "method.streams=2"], "method.streams"),
        (["method=hashnet", "method.streams=0"], "method.streams"),
        (["method=hashnet", "method.streams=two"], "method.streams"),
        (["dataset.classes=3"], "dataset.classes"),
        (["dataset.classes=airplane"], "dataset.classes"),
        (["dataset.classes=[0,1.5]"], "dataset.classes"),
        (["dataset.classes=[0,true]"], "dataset.classes"),
        (["dataset.classes=[]"], "dataset.classes"),
        (["dataset.classes=[2]"], "dataset.classes"),
        (["dataset.classes=[0,1,0]"], "dataset.classes"),
        (["method.codebook=null"], "similarity"),
        (["method.similarity=null"], "loss"),
    ],
)
def test_what_cannot_work_is_reported_alone(overrides, key, faults):
    result = faults(*overrides)
    assert list(result) == [key]
    assert result[key].message and result[key].hint


@pytest.mark.parametrize(
    "overrides",
    [
        ["trainer.epochs=0"],
        ["trainer.select_on=val"],
        ["trainer.select_on=val", "trainer.patience=3"],
        ["trainer.select_on=agreement", "trainer.patience=3"],
        ["trainer.batch_size=1", "head=linear"],
        ["trainer.device=auto"],
        ["backbone.weights=null"],
        ["method.codebook=null", "codebook=bernoulli"],
        ["dataset.classes=[3,8,cat]"],
        ["trainer.snapshots=500"],
    ],
)
def test_what_can_work_is_let_through(overrides, faults):
    assert faults(*overrides) == {}


def test_an_existing_weights_file_is_let_through(faults, tmp_path):
    (tmp_path / "w.pt").touch()
    assert faults(f"backbone.weights={tmp_path / 'w.pt'}") == {}


def test_several_faults_are_reported_at_once(folded):
    overrides = ["+method.loss.scael=3", "model.nbit=0", "dataset.protocol=other"]
    with pytest.raises(ConfigError) as caught:
        raise_faults(checks.check_train(folded(*overrides)), overrides)
    message = str(caught.value)
    assert message.startswith("config: 3 problems\n")
    for word in ("method.loss.scael", "model.nbit", "dataset.protocol", *overrides):
        assert word in message
    assert message.endswith("nothing was loaded or written")


def test_a_valid_configuration_gives_no_message():
    assert raise_faults([]) is None


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        (["method=hashnet", "method.relaxation.every=0"], "method.relaxation.every"),
        (["scheduler=every", "scheduler.epochs=0"], "scheduler.epochs"),
        (["method=dpn", "method.loss.update_every=-1"], "method.loss.update_every"),
        (["method=dpn", "method.loss.update_rate=1.5"], "method.loss.update_rate"),
        (["scheduler=cosine", "scheduler.floor=2"], "scheduler.floor"),
        (["evaluation.ternary=-1"], "evaluation.ternary"),
        (["trainer.snapshots=-1"], "trainer.snapshots"),
    ],
)
def test_numbers_of_parts_have_bounds(overrides, key, faults):
    result = faults(*overrides)
    assert list(result) == [key] and "It must be at " in result[key].hint


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        (["loss=lmcl", "+loss.scael=3"], "loss.scael"),
        (
            ["method=jmlh", "relaxation=stochastic_sign", "relaxation.stochastic=7"],
            "relaxation.stochastic",
        ),
        (["+method.loss.scael=3"], "method.loss.scael"),
    ],
)
def test_a_fault_stands_where_it_was_typed(overrides, key, composed):
    (fault,) = checks.check_train(resolve.resolve(composed(overrides)), parse_all(overrides))
    assert fault.key == key


@pytest.mark.parametrize("seat", ["codebook", "similarity", "head"])
def test_a_part_given_by_name_is_reported_with_its_group(seat, composed):
    overrides = [f"method.{seat}=cosine"]
    (fault,) = checks.check_train(resolve.resolve(composed(overrides)), parse_all(overrides))
    assert fault.key == f"method.{seat}" and fault.hint == f"Type {seat}=cosine."


def test_values_of_an_overlay_are_reported_as_such(composed):
    overrides = ["experiment=csq_cifar10", "dataset=digits", "backbone=tiny"]
    (fault,) = checks.check_train(resolve.resolve(composed(overrides)), parse_all(overrides))
    assert fault.key == "backbone.dropout" and "'~backbone.dropout'" in fault.hint
    mended = [*overrides, "~backbone.dropout"]
    assert checks.check_train(resolve.resolve(composed(mended)), parse_all(mended)) == []


# faults of a command line


def test_unknown_keys_and_groups_are_explained_at_once(explained):
    result = explained(
        "nbit=64",
        "trainer.epoch=3",
        "method=rehash",
        "trainer.precision=fp8",
        "trainer.epochs=many",
        "trainer.batch_size=0",
        "bad",
    )
    assert result["nbit"].hint == "Did you mean model.nbit=64?"
    assert result["trainer.epoch"].hint == "Did you mean trainer.epochs=3?"
    assert "relahash" in result["method"].hint
    assert "fp32" in result["trainer.precision"].hint
    assert result["trainer.epochs"].message == "'many' is not a whole number."
    assert result["trainer.batch_size"].message == "is 0."  # of what was left, checked as usual
    assert result["bad"].hint == "Write it as key=value."
    assert len(result) == 7


def test_each_value_of_a_sweep_is_explained(explained):
    assert explained("model.nbit=16,32", "seed=0,1") == {}
    result = explained("model.nbit=16,lots", "backbone=tiny,tny")
    assert result["model.nbit"].message == "'lots' is not a whole number."
    assert set(result) == {"model.nbit", "backbone"}


def test_options_of_the_chosen_part_are_known(explained):
    """Groups are composed first, wherever they stand."""
    assert explained("optimizer.momentum=0.5", "optimizer=sgd") == {}
    assert set(explained("optimizer.momentum=0.5")) == {"optimizer.momentum"}


# names


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        ([], "digits/relahash/32bit/seed0"),
        (["method=relahash", "dataset=digits", "seed=3", "model.nbit=64"],
         "digits/relahash/64bit/seed3"),
        (["similarity=cosine", "codebook=bernoulli"],
         "digits/relahash+bernoulli+cosine/32bit/seed0"),
        (["trainer.epochs=3", "optimizer.lr=0.1"],
         "digits/relahash/32bit/seed0,optimizer.lr=0.1,trainer.epochs=3"),
        (["optimizer.lr=0.1", "trainer.epochs=3"],
         "digits/relahash/32bit/seed0,optimizer.lr=0.1,trainer.epochs=3"),
        (["+optimizer.eps=1e-7"], "digits/relahash/32bit/seed0,optimizer.eps=1e-7"),
        (["backbone.weights=/a/b/net.pth"], "digits/relahash/32bit/seed0,backbone.weights=net"),
        (["optimizer.betas=[0.8, 0.9]"],
         "digits/relahash/32bit/seed0,optimizer.betas=-0.8-0.9-"),
        (["dataset.classes=[0,1, 3]"], "digits/relahash/32bit/seed0,dataset.classes=-0-1-3-"),
        (["dataset=folder", "dataset.root=x", "dataset.classes=[cat,dog]"],
         "folder/relahash/32bit/seed0,dataset.classes=-cat-dog-"),
        (["experiment=codes_2bit", "method=csq"], "cifar10/csq/2bit/seed0,experiment=codes_2bit"),
        (["loss=lmcl", "loss.scale=9"], "digits/relahash+lmcl/32bit/seed0,loss.scale=9"),
        (["method=dtsh", "method.loss.margin=nbit/2"],
         "digits/dtsh/32bit/seed0,method.loss.margin=nbit-2"),
        (["~scheduler.gamma"], "digits/relahash/32bit/seed0,~scheduler.gamma"),
    ],
)  # fmt: skip
def test_names_of_runs(overrides, name, folded):
    assert run_identity.run_name(folded(*overrides), parse_all(overrides)) == name


@pytest.mark.parametrize(
    "override",
    ["logger=quiet", "paths.outputs=elsewhere", "rerun=true", "trainer.log_every=7",
     "trainer.device=auto", "trainer.eval_batch_size=8", "trainer.snapshots=9",
     "hydra.job.chdir=false"],
)  # fmt: skip
def test_what_cannot_change_a_result_is_in_no_name(override, folded):
    name = run_identity.run_name(folded(override), parse_all([override]))
    assert name == "digits/relahash/32bit/seed0"
    assert run_identity.identity_of(folded(override)) == run_identity.identity_of(folded())


def test_long_names_are_cut_and_stay_apart(folded):
    cfg = folded()
    overrides = [f"optimizer.option_number_{n}=0.123456789" for n in range(20)]
    first = run_identity.run_name(cfg, parse_all(overrides))
    second = run_identity.run_name(cfg, parse_all([*overrides[:-1], overrides[-1] + "1"]))
    assert first != second and first[:100] == second[:100]
    assert all(len(piece) <= 160 for name in (first, second) for piece in name.split("/"))
    assert re.search(r"~[0-9a-f]{12}$", first)
    assert first == run_identity.run_name(cfg, parse_all(overrides[::-1]))


def test_names_are_good_folders(folded):
    overrides = ["dataset.protocols.per_class.queries=5", 'method.paper="a b: c*?"']
    name = run_identity.run_name(folded(), parse_all(overrides))
    assert re.fullmatch(r"[\w./,+=~-]+", name) and ".." not in name


# what a run is


PHOTOS = ["dataset=folder", "dataset.root=photos"]


def test_the_protocol_of_images_without_labels_is_part_of_the_identity(folded):
    now = folded(*PHOTOS)
    fewer = folded(*PHOTOS, "dataset.protocols.drawn.queries=50")
    assert run_identity.changed_keys(now, fewer) != []
    same = folded(*PHOTOS, "dataset.protocols.drawn.queries=100")
    assert run_identity.identity_of(same) == run_identity.identity_of(now)
    for words in (["dataset.unlabelled=null"], ["dataset.protocol=drawn"]):
        assert "unlabelled" not in run_identity.identity_of(folded(*PHOTOS, *words))["dataset"]
    other = folded(*PHOTOS, "dataset.unlabelled=official")
    assert run_identity.changed_keys(now, other) != []


def test_runs_on_folders_of_before_have_the_same_identity(folded):
    """They have no protocol of images without labels, or all of the page of today."""
    now = folded(*PHOTOS)
    older = copy.deepcopy(now)
    del older["dataset"]["unlabelled"], older["dataset"]["protocols"]["drawn"]
    assert run_identity.changed_keys(older, now) == []
    assert now["dataset"]["protocols"]["drawn"] == run_identity.DEFAULT_UNLABELLED


def test_the_identity_leaves_its_argument_alone(folded):
    cfg = folded()
    run_identity.identity_of(cfg)
    assert "logger" in cfg and "device" in cfg["trainer"]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seed=1", ["seed: 0 -> 1"]),
        ("method.loss.margin=0.1", ["method.loss.margin: 0.5 -> 0.1"]),
        ("loss=lmcl", ["method.loss.margin: 0.5 -> 0.2", "method.loss.scale: 50 -> 'sqrt_nbit'"]),
        ("trainer.patience=4", ["trainer.patience: None -> 4"]),
        ("trainer.deterministic=false", ["trainer.deterministic: True -> False"]),
    ],
)
def test_changed_keys_name_each_key_with_both_values(override, message, folded):
    before, after = folded(), folded(override)
    assert run_identity.changed_keys(before, after) == message
    assert run_identity.changed_keys(before, before) == []


def test_whether_images_may_be_downloaded_is_not_essential_but_where_they_lie_is(folded):
    here, there = (folded("dataset=cifar10", f"dataset.root={root}") for root in ("a", "b"))
    assert here["dataset"]["source"]["root"] == "a"
    assert run_identity.identity_of(here) != run_identity.identity_of(there)
    here, there = (
        folded("dataset=cifar10", f"dataset.source.download={yes}") for yes in ("true", "false")
    )
    assert run_identity.identity_of(here) == run_identity.identity_of(there)


def test_the_same_configuration_reads_back_the_same(folded, tmp_path):
    from deephash.runs.folder import RunFolder

    run = RunFolder(tmp_path / "run")
    run.lock()
    run.begin(folded("trainer.patience=3"), [], fresh=False)
    run.close()
    assert run.config() == folded("trainer.patience=3")


def test_a_folder_is_one_process_s_and_an_empty_one_disappears(tmp_path):
    from deephash.runs.folder import RunFolder

    first, second = (RunFolder(tmp_path / "a" / "b" / "c" / "run") for _ in range(2))
    first.lock()
    with pytest.raises(TrainingError, match="another process"):
        second.lock()
    first.close()
    assert list(tmp_path.iterdir()) == []
    second.lock()
    second.close()


def test_a_graph_is_refused_where_there_is_no_cuda_device(faults, monkeypatch):
    fault = faults("trainer.graph=true", "trainer.device=cpu")["trainer.graph"]
    assert "trainer.device=cpu is a CPU" in fault.message and "Leave it out" in fault.hint
    assert "trainer.graph" not in faults("trainer.graph=false", "trainer.device=cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert (
        "trainer.device=auto"
        in faults("trainer.graph=true", "trainer.device=auto")["trainer.graph"].message
    )
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    words = ["trainer.graph=true", "trainer.device=auto"]
    assert "trainer.graph" not in faults(*words)
    fault = faults(*words, "trainer.compile=true")["trainer.graph"]
    assert "trainer.compile=true" in fault.message


def test_a_graph_is_no_other_run(folded):
    """As trainer.compile: neither in the name nor in what a run folder is compared by."""
    words = ["trainer.graph=true", "trainer.compile=true"]
    assert run_identity.run_name(folded(*words), parse_all(words)) == run_identity.run_name(
        folded(), parse_all([])
    )
    assert run_identity.identity_of(folded(*words)) == run_identity.identity_of(folded())
    older = folded()
    del older["trainer"]["graph"]
    assert run_identity.identity_of(older) == run_identity.identity_of(folded())


def test_the_device_is_found():
    assert build.device("cpu") == torch.device("cpu")
    assert build.device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")


def test_retrieval_takes_the_cut_off_of_the_dataset(folded):
    assert build.convention(typed(folded("dataset.top=100"))).top == 100
    assert build.convention(typed(folded("dataset.top=100", "evaluation.top=7"))).top == 7
    assert build.convention(typed(folded())).top is None


def test_the_hint_for_a_protocol_without_validation_composes(composed):
    words = ["dataset=cifar10", "dataset.protocol=54k", "trainer.select_on=val"]
    cfg = composed([*words, "backbone.weights=none"])
    (fault,) = checks.check_train(resolve.resolve(cfg))
    words.append(fault.hint.split("'")[1])
    assert checks.check_train(resolve.resolve(composed(words), parse_all(words))) == []


def test_expected_counts_are_those_of_the_protocol_as_published(composed):
    """README's 50 validation images of each class leave 54k with 4,500 training images."""
    words = ["dataset=cifar10", "dataset.protocol=54k"]
    assert (
        resolve.resolve(composed(words), parse_all(words))["dataset"]["expected"]["54k"][
            "num_train"
        ]
        == 5000
    )
    words.append("dataset.protocols={54k:{validation:50}}")
    folded = resolve.resolve(composed(words), parse_all(words))
    assert folded["dataset"]["protocols"]["54k"]["validation"] == 50
    assert folded["dataset"]["protocols"]["54k"]["queries"] == 100
    assert resolve.resolve(composed(words), parse_all(words))["dataset"]["expected"] == {}
    cfg = resolve.resolve(composed(words), parse_all(words))
    assert build.data_module(typed(cfg)).expected is None


@pytest.mark.parametrize("method", [None, *(p.stem for p in sorted(CONF.glob("method/*.yaml")))])
def test_the_pictures_of_the_paper_take_any_method_and_dataset(method, folded):
    """Classes, bits and snapshots are the overlay's; the recipe is the method's own."""
    words = [] if method is None else [f"method={method}"]
    for bits in (2, 3):
        overlay = f"experiment=codes_{bits}bit"
        cfg = folded(*words, overlay)
        assert checks.check_train(cfg, parse_all([*words, overlay])) == []
        own = folded(*words, "dataset=cifar10")
        assert cfg["method"] == own["method"] and cfg["backbone"] == own["backbone"]
        classes = build.data_module(typed(cfg)).classes
        assert cfg["dataset"]["classes"] == list(range(2**bits)) == classes
        assert (cfg["model"]["nbit"], cfg["trainer"]["snapshots"]) == (bits, 1000)
        assert cfg["dataset"]["name"] == "cifar10"
        digits = folded(overlay, *words, "dataset=digits")
        assert digits["dataset"]["name"] == "digits" and digits["backbone"]["width"]
        assert digits["dataset"]["classes"] == list(range(2**bits))


def test_a_run_from_before_classes_and_snapshots_is_the_same_run(folded):
    older = folded()
    del older["dataset"]["classes"], older["trainer"]["snapshots"]
    assert build.data_module(typed(older)).classes is None
    assert run_identity.changed_keys(older, folded()) == []


def test_a_run_from_before_an_option_of_a_part_is_the_same_run(folded):
    """What a constructor does by default is what was done before there was an option."""
    for words in (["method=greedyhash"], ["method=jmlh"], ["dataset=folder", "dataset.root=x"]):
        new, older = folded(*words), folded(*words)
        for _, node in targets.parts(older):
            for key, parameter in targets.arguments(targets.locate(node["_target_"])).items():
                if key in node and node[key] == parameter.default:
                    del node[key]
        assert older != new
        assert run_identity.changed_keys(older, new) == []
    zero = folded("method=greedyhash", "method.relaxation.sign_of_zero=0")
    assert run_identity.changed_keys(folded("method=greedyhash"), zero) == [
        "method.relaxation.sign_of_zero: 1 -> 0"
    ]
    older = folded("method=greedyhash")
    del older["method"]["relaxation"]["sign_of_zero"]
    assert build.method(typed(older), 10, 100).relaxation.sign_of_zero == 1


@pytest.mark.parametrize("name", ["hadamard", "max_hamming"])
def test_four_classes_have_a_code_of_two_bits_each(name, folded):
    cfg = folded("experiment=codes_2bit", "method=csq", f"codebook={name}", "dataset=digits")
    centers = build.method(typed(cfg), num_classes=4, num_train=200).centers()
    assert len({tuple(row) for row in centers.tolist()}) == 4


@pytest.mark.parametrize("name", ["max_hamming", "hadamard", "balanced"])
def test_eight_classes_have_a_code_of_three_bits_each_or_are_refused_with_advice(name, folded):
    cfg = folded("experiment=codes_3bit", "method=csq", f"codebook={name}", "dataset=digits")
    if name != "max_hamming":
        with pytest.raises(ConfigError, match=r"3 balanced rows.*8 classes(.|\n)*=max_hamming"):
            build.method(typed(cfg), num_classes=8, num_train=400)
        return
    centers = build.method(typed(cfg), num_classes=8, num_train=400).centers()
    assert len({tuple(row) for row in centers.tolist()}) == 8


def test_undecided_bits_are_an_option_of_evaluation(folded):
    given = folded("evaluation.ternary=1", "evaluation.ties=stable")
    assert checks.check_train(given) == []
    result = build.evaluation(typed(given), torch.device("cpu"))
    assert (result.ternary, result.convention.ties) == (1.0, "stable")
    assert build.evaluation(typed(folded()), torch.device("cpu")).ternary is None
    for threshold in ("-1", "nan"):
        with pytest.raises(DataError, match="at least 0"):
            build.evaluation(typed(folded(f"evaluation.ternary={threshold}")), torch.device("cpu"))


def test_a_run_from_before_undecided_bits_still_evaluates(folded):
    older = folded()
    del older["evaluation"]["ternary"]
    assert build.evaluation(typed(older), torch.device("cpu")).ternary is None
    assert run_identity.changed_keys(older, folded()) == []


def test_evaluate_changes_undecided_bits_only_if_given(composed):
    default, zero, positive = (
        resolve.resolve(compose("evaluate", overrides=["run=x", *words]))["evaluation"]["ternary"]
        for words in ([], ["evaluation.ternary=0"], ["evaluation.ternary=1"])
    )
    assert (default, zero, positive) == (None, 0.0, 1.0)


# crossings

CROSSED = ("codebook", "similarity", "relaxation", "loss")
PAGES = {
    group: [None, *(path.stem for path in sorted((CONF / group).glob("*.yaml")))]
    for group in CROSSED
}
METHODS = [path.stem for path in sorted((CONF / "method").glob("*.yaml"))]
COMPOSED = [name for name in METHODS if "_target_" not in page("method", name)]
OTHERS = [name for name in METHODS if name not in COMPOSED]


@pytest.fixture(scope="module")
def crossed(composed):
    """``(method, its parts' pages) -> (folded, overrides)``; each page is composed once."""
    pages = {
        (seat, page): OmegaConf.to_container(composed([f"{seat}={page}"])[seat])
        for seat in CROSSED
        for page in PAGES[seat]
        if page
    }
    plain = {
        name: resolve.resolve(composed([f"method={name}", "model.nbit=8", "dataset=digits"]))
        for name in METHODS
    }

    def cross(name, *chosen):
        given = {seat: page for seat, page in zip(CROSSED, chosen, strict=True) if page}
        parts = {seat: pages[seat, page] for seat, page in given.items()}
        cfg = {**plain[name], "method": {**plain[name]["method"], **parts}}
        if "loss" in given and (views := requirements.declared(cfg["method"]).views):
            cfg["method"]["views"] = views
        return cfg, [f"method={name}", *(f"{seat}={page}" for seat, page in given.items())]

    return cross


@pytest.fixture(scope="module")
def finite():
    """Whether the terms and gradients of a recipe are finite, on one encoder and one batch."""
    torch.manual_seed(0)
    backbone = Tiny(width=2, pool=1)
    tiny, known = Encoder(backbone, Linear(backbone.out_features, 8)), {}
    images, labels = torch.randn(4, 1, 3, 8, 8), torch.eye(4)[[0, 0, 1, 2]]
    labels[1, 3] = 1

    def judge(cfg):
        views = requirements.num_views(cfg["method"])
        batch = Batch(images.repeat(1, views, 1, 1, 1), labels, torch.arange(4))
        batch.images[:, 1:] += 0.1 * torch.randn_like(batch.images[:, 1:])
        key = json.dumps([cfg["method"].get(seat) for seat in CROSSED])
        if key not in known:
            method = build.method(typed(cfg), num_classes=4, num_train=6)
            tiny.zero_grad()
            total = sum(method(batch).values())
            total.backward()
            slopes = [p.grad for p in method.parameters() if p.grad is not None]
            known[key] = bool(total.isfinite()) and all(g.isfinite().all() for g in slopes)
            if not getattr(method.relaxation, "bits", False):  # equal bits may have no gradient
                assert tiny.head.linear.weight.grad.any(), cfg["method"]
        return known[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "encoder", lambda cfg, width, pretrained: tiny)
        yield judge


def test_a_crossing_equals_the_composed_command_line(crossed, composed):
    for name, chosen in (
        ("hashnet", ("hadamard", "cosine", None, "lmcl")),
        ("relahash", (None, None, "sign", "polarization")),
        ("csq", ("learned", "relative", "tanh", None)),
        ("nsh", (None, "cosine", None, None)),
    ):
        cfg, words = crossed(name, *chosen)
        result = resolve.resolve(composed([*words, "model.nbit=8", "dataset=digits"]))
        assert cfg == result


def is_refused(method, codebook, similarity, relaxation):
    """Whether all inputs of a combination exist and all given parts are used."""
    reads = targets.locate(method["loss"]["_target_"]).needs
    scores, centers = "logits" in reads, "centers" in reads
    lacks = (scores and not method.get("similarity")) or (
        (scores or centers or method.get("similarity")) and not method.get("codebook")
    )
    idle = (
        (codebook and not (scores or centers))
        or (similarity and not scores)
        or (relaxation and not (scores or "u" in reads))
    )
    book = method.get("codebook")
    learns = book is not None and getattr(targets.locate(book["_target_"]), "learned", False)
    stay = getattr(targets.locate(method["loss"]["_target_"]), "fixed_centers", False)
    target = method["relaxation"]["_target_"]
    real = "bits" in reads and not ("Sign" in target or target.endswith(".BiHalf"))
    return bool(lacks or idle or real or (learns and stay))


def crossings(name):
    """Return the crossings to check for a method.

    They are all those with a part of the method's own. A crossing of four other parts is nearly the
    same for every method, so each is checked for one of them, in turn.
    """
    others = itertools.cycle(COMPOSED)
    return [
        chosen
        for chosen in itertools.product(*PAGES.values())
        if None in chosen or next(others) == name
    ]


@pytest.mark.parametrize("name", COMPOSED)
def test_every_crossing_works_or_is_refused_by_name(name, crossed, finite):
    """A fault stands at a seat and names the loss that lacks something or does not read it."""
    works = refused = 0
    for chosen in crossings(name):
        cfg, words = crossed(name, *chosen)
        faults = checks.check_train(cfg, parse_all(words))
        assert bool(faults) == is_refused(cfg["method"], *chosen[:3]), words
        loss = cfg["method"]["loss"]["_target_"].rpartition(".")[2]
        for fault in faults:
            assert fault.key in CROSSED and fault.hint, words
            assert loss in fault.message or (fault.key == "similarity" and name in fault.message), (
                words
            )
        refused += bool(faults)
        works += not faults
        assert faults or finite(cfg), words
    assert works > 20 and refused > 20


@pytest.mark.parametrize("name", OTHERS)
def test_a_method_with_its_own_class_receives_the_parts_of_its_constructor(name, crossed):
    for seat, pages in PAGES.items():
        for part in pages[1:]:
            cfg, words = crossed(name, *(part if group == seat else None for group in CROSSED))
            asks = targets.arguments(targets.locate(cfg["method"]["_target_"], "method"))
            if seat not in asks:
                (fault,) = checks.check_train(cfg, parse_all(words))
                assert seat in fault.key and "is not used by" in fault.message, words


def test_an_option_that_a_recipe_sets_and_a_part_lacks_names_the_recipe():
    unknown = Fault("backbone.frozen", "Net has no such option.", "Leave it out.")
    assert checks._as_typed(unknown, []).hint == (
        "Leave it out. If it was not typed, the recipe of the method sets it; take it out with"
        " '~backbone.frozen'."
    )
    typed = parse_all(["+backbone.frozen=true"])
    assert checks._as_typed(unknown, typed) == unknown


def test_a_protocol_that_is_no_part_is_no_crash(faults):
    result = faults(
        "dataset=folder",
        "dataset.root=x",
        "trainer.select_on=agreement",
        "dataset.protocols.drawn=null",
    )
    assert result and all(fault.hint for fault in result.values())
