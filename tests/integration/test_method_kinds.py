"""Whole runs of the kinds of methods: closed form, label-free, two views, a frozen backbone."""

import contextlib
import copy
import functools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose
from scipy.sparse import csr_array

from deephash import runs
from deephash.config import build, checks, requirements, resolve, schema, targets
from deephash.data.sources.basic import Digits
from deephash.errors import ConfigError, DataError
from deephash.runs import train_run
from deephash.training import checkpoint
from deephash.training.trainer import Trainer
from tests.methods import worked
from tests.pages import composable, typed
from tests.paths import CONF
from tests.recipes import Frozen

METHODS = sorted(path.stem for path in (CONF / "method").glob("*.yaml"))


def reads_labels(name):
    result = worked.page("method", name)
    loss = result["parts"].get("loss")
    node = {"_target_": result["_target_"]} if "_target_" in result else {}
    node |= {"loss": worked.page("loss", loss)} if loss else {}
    return requirements.declared(node).labels


SMALL = ["dataset=digits", "trainer.device=cpu", "trainer.epochs=2", "trainer.eval_every=1",
         "logger=quiet", "model.nbit=8"]  # fmt: skip
DARK = {"_target_": "deephash.data.transforms.Normalize", "mean": [1.0] * 3, "std": [0.5] * 3}
FLIP = {"_target_": "deephash.data.transforms.RandomHorizontalFlip", "p": 0.5}


@pytest.fixture(autouse=True)
def plugins(monkeypatch, without_curves):
    monkeypatch.setattr(targets, "_plugins", ["tests"])


@functools.cache
def composed(words):
    with composable():
        return resolve.resolve(compose("train", overrides=[*SMALL, *words]))


def page(*words, backbone="Frozen", loss=None, **keys):
    """A configuration of the digits, with a backbone, a loss and keys of the method."""
    cfg = copy.deepcopy(composed(words))
    output = cfg["backbone"].get("output", "features")
    cfg["backbone"] = {"_target_": f"tests.recipes.{backbone}", "output": output}
    if loss is not None:
        for part in ("codebook", "similarity"):
            cfg["method"].pop(part, None)
        cfg["method"]["loss"] = {"_target_": f"tests.recipes.{loss}"}
    cfg["method"] |= keys
    return cfg


def plain_views(cfg):
    """Take what is random out of the views."""
    transforms = cfg["dataset"]["transforms"]
    cfg["dataset"]["transforms"] = dict.fromkeys(transforms, transforms["test"])
    return cfg


def closed(**keys):
    cfg = page(_target_="tests.recipes.Centered", name="closed", **keys)
    for part in ("relaxation", "codebook", "similarity", "loss"):
        cfg["method"].pop(part)
    cfg["method"]["head"] = {"_target_": "deephash.models.heads.Linear", "bias": True}
    cfg |= {"optimizer": None, "scheduler": None}
    cfg["trainer"]["epochs"] = 0
    return cfg


def train(folder, cfg):
    cfg["paths"]["outputs"] = str(folder)
    return runs.train(checks.parse_page(schema.Train, cfg), [])


@contextlib.contextmanager
def killed_after(epochs):
    """End the run in the block after so many epochs, as Ctrl-C does."""
    fit = Trainer.fit

    def killed(self, *arguments):
        self.epochs = epochs
        fit(self, *arguments)
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Trainer, "fit", killed)
        yield


def saved(folder, report, name="last.pt"):
    return checkpoint.load_state(Path(folder) / report["run"] / name)


def unequal(a, b):
    assert a.keys() == b.keys()
    return [key for key in a if not torch.equal(a[key], b[key])]


# closed form


def test_a_closed_form_method_is_fitted_evaluated_and_saved(tmp_path):
    cfg = closed(gain=2.0)
    report = train(tmp_path, cfg)
    last = saved(tmp_path, report)
    data = build.data_module(typed(cfg))
    data.setup("cpu")
    method = build.method(typed(cfg), 10, 500).eval()
    with torch.no_grad():
        features = torch.cat([method.encoder.features(b.flat())
                              for b in data.eval_batches(data.split.train)])  # fmt: skip
        method.fit(features)
    assert unequal(last["method"], method.state_dict()) == []
    assert saved(tmp_path, report, "best.pt")["epoch"] == 0
    assert (report["selection"]["selected_epoch"], report["training"]["steps"]) == (0, 0)
    assert report["metrics"]["map"] > 0.11  # 0.1 by chance
    assert train(tmp_path, cfg) == json.loads(json.dumps(report))  # finished, skipped


def test_a_closed_form_method_needs_no_whole_batch(tmp_path):
    cfg = closed()
    cfg["trainer"]["batch_size"] = 4096
    assert train(tmp_path, cfg)["protocol"]["num_train"] == 500
    cfg = page()
    cfg["trainer"]["batch_size"] = 4096
    with pytest.raises(DataError, match="an epoch has no batch"):
        train(tmp_path, cfg)


def test_a_killed_closed_form_run_is_not_fitted_again(tmp_path, monkeypatch):
    cfg = closed()
    report = train(tmp_path, cfg)
    (tmp_path / report["run"] / "report.json").unlink()
    monkeypatch.setattr("tests.recipes.Centered.fit", None)
    again = train(tmp_path, cfg)
    assert again["metrics"] == report["metrics"]


def test_a_class_of_its_own_trains_and_resumes(tmp_path):
    def of(epochs):
        cfg = page(loss="Blind", _target_="tests.recipes.Following", name="following")
        cfg["trainer"]["epochs"] = epochs
        cfg["scheduler"] = {"_target_": "deephash.training.schedules.Constant"}
        return cfg

    straight = saved(tmp_path / "straight", train(tmp_path / "straight", of(3)))
    assert float(straight["method"]["slow"]) != 0
    with killed_after(epochs=2):
        train(tmp_path / "resumed", of(3))
    resumed = saved(tmp_path / "resumed", train(tmp_path / "resumed", of(3)))
    assert unequal(straight["method"], resumed["method"]) == []


# without labels


def drawn(cfg):
    """A protocol that does not look at labels."""
    protocol = {"_target_": "deephash.data.splits.Drawn", "queries": 50, "train": 200}
    cfg["dataset"] |= {"protocol": "drawn", "protocols": {"drawn": protocol}, "expected": {}}
    return cfg


def relabelled(change, monkeypatch):
    """Let the digits have other labels."""
    plain = Digits.load

    def load(self):
        return change(plain(self))

    monkeypatch.setattr(Digits, "load", load)


def permuted(images):
    return replace(images, labels=images.labels[np.random.default_rng(0).permutation(len(images))])


def thinned(images):
    keep = csr_array((np.arange(len(images)) % 2 == 0)[:, None])
    return replace(images, labels=csr_array(images.labels.multiply(keep)).astype(bool))


def removed(images):
    return replace(images, labels=csr_array((len(images), 0), dtype=bool), classes=())


def of_kind(kind):
    """A configuration by the name of a kind, or of a recipe."""
    if kind == "one view":
        return page(loss="Blind")
    if kind == "two views":
        return page(loss="Pairs", views=2, passes="separate")
    if kind == "closed form":
        return closed()
    cfg = page(f"method={kind}")
    cfg["trainer"]["batch_size"] = 50
    if not requirements.declared(cfg["method"]).learns:
        cfg["trainer"]["epochs"] = 0
    if "anchors" in cfg["method"]["head"]:  # fewer than training images
        cfg["method"]["head"]["anchors"] = 24
        cfg["method"]["perplexity"] = 5.0
    return cfg


FREE = [name for name in METHODS if not reads_labels(name)]
LABEL_FREE = ["one view", "two views", "closed form", *FREE]


def test_methods_without_labels_are_known():
    assert {"sdc", "sdc_simclr", "ugh", "bihalf", "cibhash", "itq"} <= set(FREE)


@pytest.mark.parametrize("kind", LABEL_FREE)
def test_labels_do_not_matter_to_what_reads_none(tmp_path, kind):
    """To the last bit, whether labels are as they are, permuted, in part missing or removed."""

    def weights(name, change):
        with pytest.MonkeyPatch.context() as patch:
            relabelled(change, patch)
            cfg = drawn(of_kind(kind))
            report = train(tmp_path / name, cfg)
        return {**saved(tmp_path / name, report)["method"], "steps": report["training"]["steps"]}

    expected = weights("whole", lambda images: images)
    steps, learns = expected.pop("steps"), requirements.declared(of_kind(kind)["method"]).learns
    assert steps == (2 * (200 // 50) if learns else 0)
    for change in (permuted, removed) if kind in FREE else (permuted, thinned, removed):
        result = weights(change.__name__, change)
        assert result.pop("steps") == steps
        assert unequal(expected, result) == [], change.__name__


def test_labels_do_matter_to_what_reads_them(tmp_path, monkeypatch):
    """The test above can fail."""
    cfg = drawn(page("method=dpsh"))
    first = saved(tmp_path / "one", train(tmp_path / "one", copy.deepcopy(cfg)))
    relabelled(permuted, monkeypatch)
    second = saved(tmp_path / "two", train(tmp_path / "two", cfg))
    assert unequal(first["method"], second["method"]) != []


def test_a_loss_that_reads_labels_against_its_declaration_fails(tmp_path):
    with pytest.raises(RuntimeError, match="declares labels = False, and reads"):
        train(tmp_path, page(loss="Peeking"))


def test_a_loss_that_looks_for_labels_before_training_fails(tmp_path):
    with pytest.raises(RuntimeError, match=r"data\.labels is not available in label-free training"):
        train(tmp_path, page(loss="Looking"))


# views


def test_views_of_one_pipeline_have_the_stream_of_a_number():
    data = [build.data_module(typed(page(loss="Pairs", views=views)))
            for views in (2, ["train", "train"])]  # fmt: skip
    for module in data:
        module.setup("cpu")
    for module, second in zip(data[0].train(0), data[1].train(0), strict=True):
        assert torch.equal(module.images, second.images)
        assert module.given_labels is None
    assert not torch.equal(module.images[:, 0], module.images[:, 1])


def test_views_have_a_pipeline_each():
    cfg = page(loss="Pairs", views=["test", "flipped"])
    test = cfg["dataset"]["transforms"]["test"]
    cfg["dataset"]["transforms"]["flipped"] = [{**FLIP, "p": 1.0}, *test]
    data = build.data_module(typed(cfg))
    data.setup("cpu")
    images = next(data.train(0)).images
    assert torch.equal(images[:, 0].flip(-1), images[:, 1])


def test_views_of_different_size_are_refused_before_training(tmp_path):
    cfg = page(loss="Pairs", views=["train", "small"])
    small = [{"_target_": "deephash.data.transforms.CenterCrop", "size": 6}]
    cfg["dataset"]["transforms"]["small"] = small
    with pytest.raises(DataError, match="train gives 8x8, small gives 6x6"):
        train(tmp_path, cfg)
    assert not list(tmp_path.rglob("last.pt"))


def test_passes_make_another_run(tmp_path):
    stacked = train(tmp_path / "a", page(loss="Pairs", views=2, passes="stacked"))
    separate = train(tmp_path / "b", page(loss="Pairs", views=2, passes="separate"))
    first, second = saved(tmp_path / "a", stacked), saved(tmp_path / "b", separate)
    tracked = "encoder.head.norm.num_batches_tracked"
    assert (first["method"][tracked], second["method"][tracked]) == (20, 40)


def test_a_batch_of_one_image_needs_two_in_each_pass(tmp_path):
    cfg = page(loss="Pairs", views=2)
    cfg["trainer"] |= {"batch_size": 499, "drop_last": False, "epochs": 1}
    cfg["method"]["head"] |= {"momentum": 0.1}
    assert train(tmp_path / "stacked", copy.deepcopy(cfg))["training"]["steps"] == 2
    cfg["method"]["passes"] = "separate"
    with pytest.raises(ConfigError, match="batch normalisation needs two"):
        train(tmp_path / "separate", cfg)


# frozen features


def trained_both_ways(tmp_path, cfg, monkeypatch):
    """A run with precomputed features and one without: last checkpoint and report of each."""
    result = []
    for name in ("served", "plain"):
        if name == "plain":
            monkeypatch.setattr(train_run, "_precompute_features", lambda *_: 0.0)
        report = train(tmp_path / name, copy.deepcopy(cfg))
        result.append((saved(tmp_path / name, report), report))
    return result


@pytest.mark.parametrize(
    "options", [{}, {"loss": "Pairs", "views": 2}, {"loss": "Pairs", "views": ["train", "dark"]}]
)
def test_a_head_on_precomputed_features_learns_the_same(tmp_path, monkeypatch, capsys, options):
    """Up to rounding: a convolution adds in another order if the batch has another size."""
    cfg = plain_views(page("method=csq", **options))
    cfg["dataset"]["transforms"]["dark"] = [DARK]
    (served, report), (plain, other) = trained_both_ways(tmp_path, cfg, monkeypatch)
    for key, value in plain["method"].items():
        torch.testing.assert_close(served["method"][key], value, rtol=1e-3, atol=1e-5, msg=key)
    assert torch.equal(served["rng"]["cpu"], plain["rng"]["cpu"])
    assert report["metrics"]["map"] == pytest.approx(other["metrics"]["map"], abs=1e-3)
    assert capsys.readouterr().out.count("features were computed once") == 1


@pytest.mark.parametrize("name", METHODS)
def test_terms_of_every_method_are_those_of_images(name):
    cfg = plain_views(page(f"method={name}"))
    page_, batches = typed(cfg), []
    if page_.optimizer is None:
        pytest.skip("it has no batches")
    if requirements.method_class(cfg["method"]).tokens:
        pytest.skip("it needs tokens, which are not precomputed")
    data = build.data_module(page_)
    data.setup("cpu")
    terms = []
    for serves in (False, True):
        method = build.method(page_, 10, 500)
        if serves:
            evaluation = build.evaluation(page_, torch.device("cpu"))
            assert method.cached_features and not data.random
            train_run._precompute_features(page_, method, data, evaluation)
        torch.manual_seed(0)
        batches.append(next(data.train(0)))
        terms.append(method.train()(batches[-1]))
    views = batches[0].num_views
    shape = (page_.trainer.batch_size, views, method.encoder.backbone.out_features)
    assert batches[1].images.shape == shape
    assert torch.equal(batches[0].index, batches[1].index)
    for key, value in terms[0].items():
        torch.testing.assert_close(terms[1][key], value, rtol=1e-4, atol=1e-6)


def test_each_image_passes_the_frozen_backbone_once(tmp_path):
    Frozen.seen = 0
    train(tmp_path, plain_views(page()))
    assert Frozen.seen == 2 + 1797  # two to try it, and all, of which some train
    cfg = plain_views(page(loss="Pairs", views=["train", "dark"]))
    cfg["dataset"]["transforms"]["dark"] = [DARK]
    Frozen.seen = 0
    train(tmp_path / "dark", cfg)
    assert Frozen.seen == 2 + 1797 + 500


def test_random_views_and_trained_backbones_see_images(tmp_path, capsys):
    Frozen.seen = 0
    train(tmp_path / "random", page())
    assert Frozen.seen == 2 + 2 * 500 + 1797  # evaluations have features
    assert "for all evaluations" in capsys.readouterr().out
    cfg = plain_views(page())
    cfg["backbone"]["frozen"] = False
    train(tmp_path / "trained", cfg)
    assert "computed once" not in capsys.readouterr().out


def test_features_that_are_too_large_are_served_from_the_disk_or_not(tmp_path, monkeypatch):
    made = build.data_module

    def small(cfg):
        data = made(cfg)
        data.resident_limit_bytes = 1 << 18
        return data

    cfg = plain_views(page())
    cfg["paths"]["cache"] = str(tmp_path / "cache")
    expected = saved(tmp_path / "a", train(tmp_path / "a", copy.deepcopy(cfg)))
    monkeypatch.setattr(build, "data_module", small)
    Frozen.seen = 0
    result = saved(tmp_path / "b", train(tmp_path / "b", copy.deepcopy(cfg)))
    assert unequal(expected["method"], result["method"]) == []
    assert Frozen.seen == 2 + 1797
    cfg["trainer"]["feature_store"] = False
    Frozen.seen = 0
    train(tmp_path / "c", cfg)
    assert Frozen.seen == 2 + 2 * 500 + 3 * 1797 + 500  # the reference is fitted to the last 500


def test_a_closed_form_method_serves_what_is_measured(tmp_path):
    Frozen.seen = 0
    train(tmp_path, closed())
    assert Frozen.seen == 2 + 1797  # the training images are in the database


def test_a_run_on_precomputed_features_resumes_to_the_bit(tmp_path):
    cfg = plain_views(page("method=hashnet"))
    straight = saved(tmp_path / "straight", train(tmp_path / "straight", copy.deepcopy(cfg)))
    with killed_after(epochs=1):
        train(tmp_path / "resumed", copy.deepcopy(cfg))
    resumed = saved(tmp_path / "resumed", train(tmp_path / "resumed", cfg))
    assert unequal(straight["method"], resumed["method"]) == []


def test_a_method_that_looks_at_images_gets_them(tmp_path, monkeypatch):
    monkeypatch.setattr("deephash.methods.composed.Composed.cached_features", False)
    Frozen.seen = 0
    train(tmp_path, plain_views(page()))
    assert Frozen.seen == 2 + 2 * 500 + 1797  # evaluations take features in any case


def test_a_rate_of_what_does_not_learn_is_refused_before_anything_is_written(tmp_path):
    cfg = page()
    cfg["optimizer"]["lr_scale"] = {"codebook": 2}  # max_hamming, which is fixed
    with pytest.raises(ConfigError, match=r"codebook has no trainable parameters here.*: head"):
        train(tmp_path, cfg)
    cfg = plain_views(page(loss="Blind"))
    cfg["method"]["head"] = {"_target_": "tests.recipes.Fixed"}
    with pytest.raises(ConfigError, match="there is nothing to train"):
        train(tmp_path, cfg)
    assert not list(tmp_path.rglob("config.yaml"))
