"""Runs that keep features of a frozen backbone in the cache, and others that use them."""

import copy
import inspect
import json
import logging
from types import SimpleNamespace

import pytest
import torch
import torchvision
from torchvision import ops

import deephash
from deephash.config import build, plugins, targets
from deephash.data import feature_store
from deephash.data.transforms import Pipeline, Step
from deephash.models.backbones import Tiny
from deephash.models.timm_models import Timm
from deephash.runs import train_run
from tests.integration.test_method_kinds import (
    DARK,
    closed,
    killed_after,
    page,
    plain_views,
    saved,
    train,
    unequal,
)
from tests.pages import typed
from tests.recipes import Frozen


@pytest.fixture(autouse=True)
def kept(monkeypatch, without_curves):
    """Keep features however quickly they are computed."""
    monkeypatch.setattr(targets, "_plugins", ["tests"])
    monkeypatch.setattr(feature_store, "MIN_SECONDS", 0.0)


def run(tmp_path, name, cfg, **trainer):
    """Train with a cache that all runs of a test share.

    Returns:
        the last weights, the report, and how many images the backbone has seen beside two.
    """
    cfg = copy.deepcopy(cfg)
    cfg["paths"]["cache"] = str(tmp_path / "cache")
    cfg["trainer"] |= trainer
    Frozen.seen = 0
    report = train(tmp_path / name, cfg)
    return saved(tmp_path / name, report)["method"], report, Frozen.seen - 2


def entries(tmp_path):
    return [path.name for path in feature_store.feature_entries(tmp_path / "cache")]


def test_runs_of_other_methods_bits_and_seeds_compute_nothing(tmp_path, capsys):
    torch.save(Tiny(width=4).state_dict(), tmp_path / "weights.pt")
    cfg = plain_views(page())
    cfg["backbone"]["weights"] = str(tmp_path / "weights.pt")
    _, report, seen = run(tmp_path, "first", cfg)
    assert (seen, len(entries(tmp_path))) == (1797, 1)
    assert report["training"]["encode_images_per_second"] > 0
    capsys.readouterr()
    others = [page("method=csq", "model.nbit=16", "seed=3"), closed()]
    for number, cfg in enumerate(others):
        cfg["backbone"]["weights"] = str(tmp_path / "weights.pt")
        _, report, seen = run(tmp_path, f"other {number}", plain_views(cfg))
        assert seen == 0, number
        assert report["training"]["encode_images_per_second"] is None
    assert "1,797 features for all epochs and evaluations were read from the cache" in (
        capsys.readouterr().out
    )
    assert len(entries(tmp_path)) == 1


@pytest.mark.parametrize("options", [{}, {"loss": "Pairs", "views": ["train", "dark"]}])
def test_results_do_not_depend_on_the_store(tmp_path, options):
    """To the last bit: without the store, when it is filled, and when it is read."""
    cfg = plain_views(page(**options))
    cfg["dataset"]["transforms"]["dark"] = [DARK]
    expected, reference, _ = run(tmp_path, "without", cfg, feature_store=False)
    assert entries(tmp_path) == []
    for name in ("filling", "reading"):
        result, report, _ = run(tmp_path, name, cfg)
        assert unequal(expected, result) == []
        assert report["metrics"] == reference["metrics"]
        assert report["run"] == reference["run"]
    assert len(entries(tmp_path)) == (2 if options else 1)


def key_of(cfg, backbone, device="cpu", step=None, **changes):
    """The notes that a store begins each key with."""
    changed = copy.deepcopy(cfg)
    for name, values in changes.items():
        changed[name] |= values
    pipeline = Pipeline([] if step is None else [step])
    data = SimpleNamespace(
        device=torch.device(device), test_transform=Pipeline([]), view_transforms=[("a", pipeline)]
    )
    store = train_run.feature_store(typed(changed), backbone, data)
    return json.dumps(store.encoder, sort_keys=True)


class Plain(Step):
    """A step of a package that the tests name as a plugin."""


def test_what_features_depend_on_is_in_the_key(tmp_path, monkeypatch):
    cfg = page()
    backbone = Tiny(width=4)
    monkeypatch.setattr(torch.cuda, "get_device_name", str)

    def key(backbone=backbone, **changes):
        return key_of(cfg, backbone, **changes)

    other = Tiny(width=4)
    changes = [
        {"backbone": other}, {"device": "cuda"}, {"trainer": {"precision": "bf16"}},
        {"trainer": {"channels_last": False}}, {"trainer": {"compile": True}},
        {"device": "cuda:1"}, {"device": "cuda", "trainer": {"deterministic": False}},
        {"step": Plain()},
    ]  # fmt: skip
    assert len({key(), *(key(**options) for options in changes)}) == len(changes) + 1
    same = [{"trainer": {"batch_size": 7, "epochs": 3}}, {"model": {"nbit": 16}},
            {"paths": {"outputs": "elsewhere"}}]  # fmt: skip
    assert {key(), *(key(**options) for options in same)} == {key()}
    cfg["backbone"] |= {"weights": "elsewhere.pth", "frozen": False}  # the digest says it all
    before = key()
    cfg["backbone"] |= {"weights": "none", "frozen": True}
    assert key() == before
    cfg["backbone"]["width"] = 8
    assert key() != before


def test_the_code_that_makes_features_is_in_the_key(monkeypatch, tmp_path):
    """Versions of packages that define a module, and files of plugins that define one or a step."""
    cfg, tiny = page(), Tiny(width=4)
    vision = Tiny(width=4)
    vision.depth = ops.StochasticDepth(0.5, "row")
    frozen = Frozen(width=4)
    files = []
    monkeypatch.setattr(plugins.Plugin, "_fingerprint", lambda self: f"files {len(files)}")
    parts = {
        "tiny": (tiny, None), "step": (tiny, Plain()), "vision": (vision, None),
        "frozen": (frozen, None),
    }  # fmt: skip

    def keys():
        return {name: key_of(cfg, *(part, "cpu", step)) for name, (part, step) in parts.items()}

    def changed(before):
        return {name for name, key_ in keys().items() if key_ != before[name]}

    before = keys()
    assert changed(before) == set()
    with monkeypatch.context() as patch:
        patch.setattr(deephash, "__version__", "9.9")
        assert changed(before) == set(parts)
    with monkeypatch.context() as patch:
        patch.setattr(torch, "__version__", "9.9")
        assert changed(before) == set(parts)
    with monkeypatch.context() as patch:
        patch.setattr(torchvision, "__version__", "9.9")
        assert changed(before) == {"vision"}
    files.append("another")
    assert changed(before) == {"step", "frozen"}


def test_what_does_not_change_features_of_timm_is_not_in_the_key():
    cfg, backbone = page(), Tiny(width=4)
    backbone.not_in_features = Timm.not_in_features
    assert set(Timm.not_in_features) < set(inspect.signature(Timm).parameters)
    cfg["backbone"] = {"_target_": "deephash.models.timm_models.Timm", "name": "resnet18"}
    keys = [
        train_run.feature_store(
            SimpleNamespace(
                trainer=typed(page()).trainer,
                backbone=cfg["backbone"] | options,
                paths=SimpleNamespace(cache="cache"),
            ),
            backbone,
            SimpleNamespace(
                device=torch.device("cpu"), test_transform=Pipeline([]), view_transforms=[]
            ),
        ).encoder
        for options in (
            {"dropout": False, "drop_rate": 0.0, "drop_path_rate": 0.0, "preprocessing": "model"},
            {"dropout": True, "drop_rate": 0.2, "drop_path_rate": 0.1, "preprocessing": "dataset"},
            {"img_size": 64},
        )
    ]
    assert keys[0] == keys[1] != keys[2]


def test_quick_work_leaves_no_files(tmp_path, monkeypatch):
    monkeypatch.undo()
    monkeypatch.setattr(targets, "_plugins", ["tests"])
    run(tmp_path, "run", plain_views(page()))
    assert entries(tmp_path) == []


def test_a_killed_run_continues_encoding_and_learns_the_same(tmp_path, monkeypatch):
    cfg = plain_views(page())
    expected = run(tmp_path, "straight", cfg, feature_store=False)[0]
    monkeypatch.setattr("deephash.data.sources.feature_formats.FLUSH", 2)
    forward, calls = Frozen.forward, []

    def interrupted(self, images):
        calls.append(len(images))
        if len(calls) == 7:  # the first tries two images
            raise KeyboardInterrupt
        return forward(self, images)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Frozen, "forward", interrupted)
        run(tmp_path, "killed", cfg)
    result, _, seen = run(tmp_path, "killed", cfg)
    assert seen == 1797 - 4 * 256
    assert unequal(expected, result) == []


def test_a_run_on_kept_features_resumes_to_the_bit(tmp_path):
    cfg = plain_views(page("method=hashnet"))
    torch.save(Tiny(width=4).state_dict(), tmp_path / "weights.pt")  # those of no seed
    cfg["backbone"]["weights"] = str(tmp_path / "weights.pt")
    expected = run(tmp_path, "straight", cfg)[0]
    with killed_after(epochs=1):
        run(tmp_path, "resumed", cfg)
    result, _, seen = run(tmp_path, "resumed", cfg)
    assert unequal(expected, result) == []
    assert seen == 0


def test_a_damaged_entry_is_computed_again(tmp_path, caplog):
    cfg = plain_views(page())
    expected = run(tmp_path, "one", cfg)[0]
    (entry,) = feature_store.feature_entries(tmp_path / "cache")
    (entry / "features.npy").write_bytes(b"nothing")
    with caplog.at_level(logging.WARNING):
        result, _, seen = run(tmp_path, "two", cfg)
    assert seen == 1797
    assert "computed again" in caplog.text
    assert unequal(expected, result) == []


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path, caplog):
    cfg = plain_views(page())
    expected = run(tmp_path, "one", cfg, feature_store=False)[0]
    (tmp_path / "cache").write_text("a file")
    result, _, seen = run(tmp_path, "two", cfg)
    assert "the features of the frozen backbone are not kept" in caplog.text
    assert "take more than" not in caplog.text
    assert unequal(expected, result) == []
    assert seen >= 1797


# fixed views


def of_views(views=2, count=3, **keys):
    return page(loss="Pairs", views=views, cached_views=count, **keys)


def test_two_view_runs_draw_from_fixed_views(tmp_path, capsys):
    """With the store and without, and another result than from new views in each epoch."""
    expected, report, seen = run(tmp_path, "without", of_views(), feature_store=False)
    assert seen == 1797 + 3 * 500
    assert "views are drawn from 3" in capsys.readouterr().out
    assert report["training"]["cached_views"] == 3
    result, _, _ = run(tmp_path, "filling", of_views())
    assert unequal(expected, result) == []
    result, _, seen = run(tmp_path, "reading", of_views())
    assert unequal(expected, result) == []
    assert seen == 0
    html = (tmp_path / "reading" / report["run"] / "report.html").read_text()
    assert "3 fixed views of each image under each random pipeline" in html
    other, report, _ = run(tmp_path, "new views", page(loss="Pairs", views=2))
    assert unequal(expected, other) != []
    assert report["training"]["cached_views"] is None


def test_a_run_on_fixed_views_resumes_to_the_bit(tmp_path):
    expected = run(tmp_path, "straight", of_views())[0]
    with killed_after(epochs=1):
        run(tmp_path, "resumed", of_views())
    assert unequal(expected, run(tmp_path, "resumed", of_views())[0]) == []


# dropout


def test_active_dropout_sees_images_in_training(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(Frozen, "stochastic", True, raising=False)
    _, _, seen = run(tmp_path, "run", plain_views(page()))
    assert seen == 2 * 500 + 1797
    assert "for all evaluations" in capsys.readouterr().out


def test_dropout_of_a_frozen_network_draws_anew_in_each_step():
    cfg = plain_views(page())
    cfg["backbone"] = {"_target_": "deephash.models.backbones.Torchvision",
                       "name": "squeezenet1_0", "weights": "none", "frozen": True,
                       "dropout": True}  # fmt: skip
    for dropout in (True, False):
        cfg["backbone"]["dropout"] = dropout
        method = build.method(typed(cfg), 10, 500).train()
        images = torch.randn(2, 3, 32, 32)
        with torch.no_grad():
            first, second = method.encoder.features(images), method.encoder.features(images)
        assert torch.equal(first, second) is not dropout
        assert method.encoder.backbone.stochastic is dropout
