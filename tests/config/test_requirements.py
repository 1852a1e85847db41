"""What classes of a recipe declare, and what the configuration is refused for."""

import copy
import functools

import pytest
from hydra import compose

from deephash.config import build, checks, requirements, resolve, run_identity, schema, targets
from deephash.config.overrides import parse_all
from tests.pages import composable, typed

CLOSED = """\
# @package _global_
defaults:
  - /head@method.head: linear
  - _self_
  - override /optimizer: null
  - override /scheduler: null
method:
  name: closed
  _target_: tests.recipes.Centered
  gain: 2.0
  head: {bias: true}
trainer: {epochs: 0}
"""


@pytest.fixture(autouse=True)
def plugins(monkeypatch):
    monkeypatch.setattr(targets, "_plugins", ["tests"])


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    folder = tmp_path_factory.mktemp("conf")
    (folder / "method").mkdir()
    (folder / "method" / "closed.yaml").write_text(CLOSED)

    @functools.cache
    def composed(words):
        with composable():
            given = [f"hydra.searchpath=[file://{folder}]", "trainer.device=cpu", *words]
            return resolve.resolve(compose("train", overrides=given))

    return lambda *words: copy.deepcopy(composed(words))


def faults(cfg, *words):
    return {
        fault.key: f"{fault.message} {fault.hint}"
        for fault in checks.check_train(cfg, parse_all(words))
    }


def with_loss(cfg, name, **keys):
    """A configuration of the digits with a loss of ``tests.recipes``."""
    for seat in ("codebook", "similarity"):
        cfg["method"].pop(seat, None)
    cfg["method"] |= {"loss": {"_target_": f"tests.recipes.{name}"}, **keys}
    return cfg


def following(cfg, **keys):
    cfg = with_loss(cfg, "Blind")
    cfg["method"] |= {"_target_": "tests.recipes.Following", **keys}
    return cfg


# what learns nothing


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["dataset=cifar10", "dataset.root=x", "backbone=alexnet"],
        ["dataset=features", "dataset.root=x"],
        ["trainer=early_stop"],
        ["experiment=codes_2bit", "dataset.root=x"],
    ],
    ids=" ".join,
)
def test_a_recipe_declares_that_nothing_learns(pages, words):
    cfg = pages("method=closed", *words)
    assert (cfg["optimizer"], cfg["scheduler"], cfg["trainer"]["epochs"]) == (None, None, 0)
    assert faults(cfg) == {}
    assert build.optimizer(typed(cfg), None) is None


@pytest.mark.parametrize(
    ("words", "key", "says"),
    [
        (
            ["trainer.epochs=3"],
            "trainer.epochs",
            "is 3, and method=closed is fitted in closed form",
        ),
        (
            ["optimizer=sgd"],
            "optimizer",
            "fitted in closed form: it would do nothing. Leave it out",
        ),
        (["scheduler=cosine"], "scheduler", "fitted in closed form"),
    ],
)
def test_what_learns_nothing_takes_no_optimizer_and_no_epochs(pages, words, key, says):
    result = faults(pages("method=closed", *words))
    assert list(result) == [key]
    assert says in result[key]


@pytest.mark.parametrize("key", ["optimizer", "scheduler"])
def test_what_learns_needs_an_optimizer(pages, key):
    result = faults(pages(f"~{key}"))
    assert list(result) == [key]
    assert "is null, and method=relahash is trained by one. Choose one: " in result[key]


# method._target_


def test_a_class_receives_the_parts_and_values_of_its_constructor(pages):
    made = build.method(typed(following(pages(), rate=0.25)), 10, 500)
    assert (type(made).__name__, made.rate) == ("Following", 0.25)
    assert made.codebook is None and type(made.loss).__name__ == "Blind"
    cfg = pages("method=closed", "seed=4", "model.nbit=8")
    made = build.method(typed(cfg), 10, 500)
    assert (made.seed, made.nbit, made.gain) == (4, 8, 2.0)


def test_the_default_class_may_be_named(pages):
    cfg = pages("method=csq")
    plain = build.method(typed(cfg), 10, 500).state_dict()
    cfg["method"]["_target_"] = requirements.DEFAULT
    assert faults(cfg) == {}
    named = build.method(typed(cfg), 10, 500).state_dict()
    assert list(plain) == list(named)
    assert all(plain[key].equal(named[key]) for key in plain)


@pytest.mark.parametrize(
    ("keys", "key", "says"),
    [
        ({"rate": "fast"}, "method.rate", "'fast'"),
        ({"speed": 1}, "method.speed", "Following has no such option"),
        ({"encoder": 1}, "method.encoder", "set by the program"),
        ({"loss": None}, "method.loss", "loss=NAME"),
        ({"_target_": "tests.recipes.Blind"}, "method", "does not derive from"),
        ({"_target_": "os.path.join"}, "method", "not a part of deephash"),
    ],
)
def test_options_of_a_class_are_checked(pages, keys, key, says):
    cfg = following(pages())
    cfg["method"] |= keys
    result = faults(cfg)
    assert list(result) == [key]
    assert says in result[key]


def test_a_part_that_the_class_does_not_use_is_refused(pages):
    result = faults(pages("method=closed", "loss=lmcl"), "loss=lmcl")
    assert result == {
        "method.loss": "is not used by Centered, the method here. Leave it out, or choose another"
        " method."
    }


def test_without_a_class_the_known_keys_are_all_there_is(pages):
    cfg = pages()
    cfg["method"]["rate"] = 1
    assert faults(cfg) == {"method.rate": "no method has such a part. Leave it out."}


@pytest.mark.parametrize("seat", ["loss", "relaxation"])
def test_the_default_class_needs_loss_and_relaxation(pages, seat):
    cfg = pages()
    cfg["method"][seat] = None
    assert f"Choose one by its name: {seat}=NAME" in faults(cfg)[f"method.{seat}"]
    del cfg["method"][seat]
    assert faults(cfg)[f"method.{seat}"].endswith(f"Leave out ~method.{seat}.")


# declarations


def test_what_is_declared(pages):
    relahash = requirements.declared(pages()["method"])
    assert (relahash.views, relahash.labels, relahash.learns) == (None, True, True)
    assert relahash.needs == {"logits"} and relahash.source == "LMCL"
    pairs = requirements.declared(with_loss(pages(), "Pairs")["method"])
    assert (pairs.views, pairs.labels, pairs.needs) == (2, False, {"u"})
    closed = requirements.declared(pages("method=closed")["method"])
    assert (closed.labels, closed.learns, closed.source) == (False, False, "Centered")
    assert not requirements.declared(following(pages())["method"]).labels  # as its loss says


def test_a_mistake_of_an_author_is_named(pages):
    result = checks.check_train(with_loss(pages(), "Misspelt"))
    assert {fault.key for fault in result} == {"loss"}
    (names, views) = [fault.message + fault.hint for fault in result]
    assert names.startswith("Misspelt.needs names code, which Output does not have.")
    assert "There are features, z, u, logits, centers, bits" in names
    assert views.startswith("Misspelt.views is 1.5, not a number of views.")


@pytest.mark.parametrize("views", [1, 3, ["train"]])
def test_a_loss_of_two_views_is_refused_others(pages, views):
    result = faults(with_loss(pages(), "Pairs", views=views))
    count = views if isinstance(views, int) else 1
    assert list(result) == ["method.views"]
    assert f"gives {count} view" in result["method.views"]
    assert "and Pairs needs 2. Type method.views=2" in result["method.views"]
    assert "Type +method.views=2" in faults(with_loss(pages(), "Pairs"))["method.views"]


@pytest.mark.parametrize("views", [2, ["train", "train"], ["train", "test"]])
def test_views_are_a_number_or_names(pages, views):
    cfg = with_loss(pages(), "Pairs", views=views, passes="separate")
    assert faults(cfg) == {}
    assert [len(each.view_transforms) for each in (build.data_module(typed(cfg)),)] == [2]
    assert build.method(typed(cfg), 10, 500).passes == "separate"


@pytest.mark.parametrize(
    ("keys", "key", "says"),
    [
        ({"views": ["train", "strong"]}, "method.views", "'strong', and dataset.transforms has no"),
        ({"views": 0}, "method.views", "Give a number, method.views=2, or a pipeline"),
        ({"views": []}, "method.views", "is []"),
        ({"views": [1, 2]}, "method.views", "[1, 2] is not a whole number or a list"),
        ({"views": "train"}, "method.views", "'train' is not a whole number or a list"),
        ({"passes": "twice"}, "method.passes", "one of stacked, separate"),
    ],
)
def test_views_that_are_none_are_refused(pages, keys, key, says):
    result = faults(with_loss(pages(), "Blind", **keys))
    assert list(result) == [key]
    assert says in result[key]


@pytest.mark.parametrize(
    ("count", "views", "backbone", "says"),
    [
        (8, 2, {"frozen": False}, "the backbone is not frozen: its features differ"),
        (8, 2, {"dropout": True}, "dropout of the backbone is active"),
        (8, ["test", "test"], {}, "no view is random: features are computed once anyway"),
        (2, ["train"] * 3, {}, "3 views of an image are of one pipeline"),
    ],
)
def test_fixed_views_that_cannot_be_are_refused(pages, count, views, backbone, says):
    cfg = with_loss(pages(), "Blind", views=views, cached_views=count)
    cfg["backbone"] |= {"frozen": True, **backbone}
    result = dict(recipe_faults(cfg))
    assert list(result) == ["method.cached_views"]
    assert says in result["method.cached_views"]


@pytest.mark.parametrize(
    ("count", "says"), [(1, "is 1."), ("many", "'many' is not a whole number")]
)
def test_a_number_of_fixed_views_is_at_least_2(pages, count, says):
    result = faults(with_loss(pages(), "Blind", views=2, cached_views=count))
    assert list(result) == ["method.cached_views"]
    assert result["method.cached_views"].startswith(says)
    assert "Type method.cached_views=8" in result["method.cached_views"]


def recipe_faults(cfg):
    """Those of the recipe alone: the tiny backbone has no dropout to be checked."""
    return [
        (fault.key, f"{fault.message} {fault.hint}") for fault in requirements.check_recipe(cfg)
    ]


def test_fixed_views_need_a_method_that_uses_features_alone(pages, monkeypatch):
    cfg = with_loss(pages(), "Pairs", views=2, cached_views=2)
    cfg["backbone"]["frozen"] = True
    assert faults(cfg) == {}
    monkeypatch.setattr("deephash.methods.composed.Composed.cached_features", False)
    assert "Composed uses images" in faults(cfg)["method.cached_views"]
    cfg = pages("method=closed")
    cfg["method"]["cached_views"] = 4
    cfg["backbone"]["frozen"] = True
    assert "method=closed is fitted in closed form" in faults(cfg)["method.cached_views"]


def test_fixed_views_make_another_run(pages):
    """And their name says so."""
    cfg = with_loss(pages(), "Pairs", views=2, cached_views=None)
    older = copy.deepcopy(cfg)
    del older["method"]["cached_views"]
    assert run_identity.identity_of(cfg) == run_identity.identity_of(older)
    cfg["method"]["cached_views"] = 8
    assert run_identity.identity_of(cfg) != run_identity.identity_of(older)
    name = run_identity.run_name(
        cfg, parse_all(["+method.cached_views=8", "trainer.feature_store=false"])
    )
    assert name.endswith("seed0,method.cached_views=8")


def test_a_dataset_may_have_further_pipelines(pages):
    cfg = with_loss(pages(), "Pairs", views=["strong", "train"])
    cfg["dataset"]["transforms"]["strong"] = [
        {"_target_": "deephash.data.transforms.RandomHorizontalFlip", "p": 0.5},
        *cfg["dataset"]["transforms"]["train"],
    ]
    assert faults(cfg) == {}
    data = build.data_module(typed(cfg))
    assert [name for name, _ in data.view_transforms] == ["strong", "train"]
    assert [len(pipeline.steps) for _, pipeline in data.view_transforms] == [3, 2]
    assert build.data_module(schema.parse(schema.Run, cfg)).views == 1
    cfg["dataset"]["transforms"]["strong"][0]["p"] = 2
    assert list(faults(cfg)) == ["dataset.transforms.strong.0.p"]
    cfg["dataset"]["transforms"]["strong"] = "flip"
    assert list(faults(cfg)) == ["dataset.transforms.strong"]


# rates


def rates(cfg):
    method = build.method(typed(cfg), 10, 500)
    return [
        (group["name"], group["lr"]) for group in build.optimizer(typed(cfg), method).param_groups
    ]


def test_a_part_has_a_rate_of_its_own(pages):
    words = ["codebook=learned", "optimizer.lr_scale={codebook:10}"]
    cfg = pages(*words)
    assert faults(cfg, *words) == {}
    assert rates(cfg) == [("rest", 1e-3), ("codebook", 1e-2), ("backbone", 1e-3)]
    assert rates(pages("codebook=learned")) == [("rest", 1e-3), ("backbone", 1e-3)]


@pytest.mark.parametrize(
    ("value", "key", "says"),
    [
        ("{codebok:10}", "optimizer.lr_scale.codebok", "has no codebok. It has head, relaxation,"),
        ("{backbone:2}", "optimizer.lr_scale.backbone", "Type optimizer.backbone_scale=2"),
        ("{head:-1}", "optimizer.lr_scale.head", "-1"),
        ("3", "optimizer.lr_scale", "Give factors by part"),
    ],
)
def test_rates_that_cannot_be_are_refused(pages, value, key, says):
    result = faults(pages(f"optimizer.lr_scale={value}"))
    assert list(result) == [key]
    assert says in result[key]


def test_keys_of_today_do_not_make_another_run_of_older_ones(pages):
    cfg = pages()
    older = copy.deepcopy(cfg)
    del older["optimizer"]["lr_scale"]
    cfg["method"]["passes"] = "stacked"
    assert run_identity.identity_of(cfg) == run_identity.identity_of(older)
    cfg["optimizer"]["lr_scale"] = {"head": 2}
    assert run_identity.identity_of(cfg) != run_identity.identity_of(older)


# kinds


@pytest.mark.parametrize(
    ("method", "kind"),
    [("relahash", "supervised"), ("cibhash", "unsupervised"), ("itq", "shallow")],
)
def test_the_kind_of_a_method(pages, method, kind):
    assert requirements.kind(pages(f"method={method}")["method"]) == kind
