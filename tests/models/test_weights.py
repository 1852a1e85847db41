"""Checkpoints of any origin as weights of a backbone: used tensors must fit, others may exist."""

import argparse
import itertools
from collections import OrderedDict
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision import models

from deephash.config import build
from deephash.errors import ConfigError, DataError
from deephash.models import backbones
from deephash.models.backbones import Tiny, Torchvision

SMALL = "squeezenet1_0"


def tiny():
    torch.manual_seed(1)
    return Tiny(width=4)


def loaded(saved, tmp_path, **options):
    torch.save(saved, tmp_path / "w.pth", **options)
    return Tiny(width=4, weights=str(tmp_path / "w.pth"))


def same(network, reference):
    first, second = network.state_dict(), reference.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


PREFIXES = ["", "module.", "backbone.", "encoder.", "features_extractor.",
            "module.encoder_q.", "model.backbone.trunk.", "_orig_mod."]  # fmt: skip
NESTS = [
    lambda state: state,
    lambda state: {"state_dict": state, "epoch": 3, "best_acc1": np.float64(0.5)},
    lambda state: {
        "model": state,
        "args": argparse.Namespace(lr=0.1),
        "optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}},
    },
    lambda state: {"model_state": OrderedDict(state), "scheduler": torch.optim.SGD},
    lambda state: {"epoch": 1, "net": {"state_dict": state}},
    lambda state: {"ema": {"shadow": state}},
    lambda state: (state, {"lr": 1}),
]


@pytest.mark.parametrize(("prefix", "nest"), list(itertools.product(PREFIXES, NESTS)))
def test_every_prefix_and_nesting(prefix, nest, tmp_path):
    source = tiny()
    saved = nest({prefix + name: value for name, value in source.state_dict().items()})
    assert same(loaded(saved, tmp_path), source)


@pytest.mark.parametrize(
    "change",
    [
        lambda state: {name: value.double() for name, value in state.items()},
        lambda state: {name: value.numpy() for name, value in state.items()},
        lambda state: {
            name: nn.Parameter(value, requires_grad=False) for name, value in state.items()
        },
        lambda state: {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")},
        lambda state: state | {"head.weight": torch.ones(7, 64), "head.bias": torch.ones(7)},
    ],
)
def test_types_and_counters_and_heads_that_differ(change, tmp_path):
    source = tiny()
    assert same(loaded(change(source.state_dict()), tmp_path), source)


@pytest.mark.parametrize(("protocol", "new"), [(2, False), (4, True), (5, False)])
def test_files_of_every_version(protocol, new, tmp_path):
    source = tiny()
    options = {"pickle_protocol": protocol, "_use_new_zipfile_serialization": new}
    assert same(loaded(source.state_dict(), tmp_path, **options), source)


def test_whole_networks_are_read_as_data(tmp_path):
    source = tiny()
    for whole in (source, nn.DataParallel(source), nn.ModuleDict({"net": source})):
        assert same(loaded({"model": whole, "epoch": 1}, tmp_path), source)


def test_safetensors(tmp_path):
    source = tiny()
    save_file({f"net.{k}": v for k, v in source.state_dict().items()}, tmp_path / "a.safetensors")
    assert same(Tiny(width=4, weights=str(tmp_path / "a.safetensors")), source)


def test_checkpoints_of_our_own_runs(tmp_path):
    source = tiny()
    state = {f"backbone.{name}": value for name, value in source.state_dict().items()}
    state["head.linear.weight"] = torch.ones(8, 64)
    best = {"encoder": state, "epoch": 2, "fingerprint": "ab"}
    last = {"method": {f"encoder.{name}": value for name, value in state.items()}, "rng": {}}
    for saved in (best, last):
        assert same(loaded(saved, tmp_path), source)


def test_the_first_of_several_is_used_with_a_warning(tmp_path, caplog):
    first, second = tiny(), Tiny(width=4)
    saved = {"state_dict": first.state_dict(), "state_dict_ema": second.state_dict()}
    assert same(loaded(saved, tmp_path), first)
    assert "2 times" in caplog.text and "'state_dict_ema.'" in caplog.text


def test_a_head_of_other_classes_is_dropped_with_a_warning(tmp_path, caplog):
    whole = models.squeezenet1_0(weights=None)
    torch.save(whole.state_dict(), tmp_path / "a.pth")
    Torchvision(SMALL, weights=str(tmp_path / "a.pth"))
    assert not caplog.text  # the removed layer causes no warning
    other = models.squeezenet1_0(num_classes=21)
    torch.save(other.state_dict(), tmp_path / "a.pth")
    result = Torchvision(SMALL, weights=str(tmp_path / "a.pth"))
    assert "50 of 52 tensors" in caplog.text and "classifier.1.weight" in caplog.text
    assert torch.equal(result.trunk.features[0].weight, other.features[0].weight)


def test_a_network_without_its_last_layer_is_enough(tmp_path):
    whole = models.resnet18(weights=None)
    state = {k: v for k, v in whole.state_dict().items() if not k.startswith("fc.")}
    torch.save({"model": {f"backbone.{k}": v for k, v in state.items()}}, tmp_path / "a.pth")
    result = Torchvision("resnet18", weights=str(tmp_path / "a.pth"))
    assert torch.equal(result.trunk.layer4[1].conv2.weight, whole.layer4[1].conv2.weight)


def test_densenet_under_its_old_names(tmp_path):
    source = Torchvision("densenet121", weights="none")
    state = {
        name.replace("norm1.", "norm.1.").replace("conv2.", "conv.2."): value
        for name, value in source.trunk.state_dict().items()
    }
    torch.save(state, tmp_path / "a.pth")
    assert same(Torchvision("densenet121", weights=str(tmp_path / "a.pth")), source)


def lacking(state):
    del state["blocks.0.weight"], state["blocks.1.bias"]


def reshaped(state):
    state["blocks.0.weight"] = torch.ones(4, 1, 3, 3)


def other_type(state):
    state["blocks.0.weight"] = state["blocks.0.weight"].to(torch.int8)


def not_finite(state):
    state["blocks.0.weight"][0, 0, 0, 0] = float("nan")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lacking,
            r"does not fit backbone tiny \(width 4\): 16 of its 18 tensors are in the file"
            r" behind 'module\.'(.|\n)*missing: blocks\.0\.weight, blocks\.1\.bias",
        ),
        (reshaped, r"blocks\.0\.weight is \(4, 1, 3, 3\) and should be \(4, 3, 3, 3\)"),
        (other_type, r"blocks\.0\.weight is \(4, 3, 3, 3\) int8"),
        (not_finite, r"holds NaN or inf in 1 tensors: blocks\.0\.weight"),
        (lambda state: state.clear(), "does not hold a state dict"),
    ],
)
def test_used_tensors_must_fit(change, message, tmp_path):
    state = tiny().state_dict()
    change(state)
    with pytest.raises(DataError, match=message):
        loaded({f"module.{name}": value for name, value in state.items()}, tmp_path)


@pytest.mark.parametrize(
    ("names", "family"),
    [
        (["conv_stem.weight", "blocks.0.0.conv_pw.weight"], "an EfficientNet or MobileNet of timm"),
        (["patch_embed.proj.weight"], "a vision transformer"),
        (["something.weight"], "another architecture, with something.weight"),
    ],
)
def test_another_architecture_is_named(names, family, tmp_path):
    torch.save({name: torch.ones(3) for name in names}, tmp_path / "a.pth")
    with pytest.raises(DataError, match=f"(?s)0 of its 50 tensors.*it looks like {family}"):
        Torchvision(SMALL, weights=str(tmp_path / "a.pth"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"<!DOCTYPE html>", "is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"", "is empty"),
        (b"PK\x03\x04", "damaged or incomplete"),
    ],
)
def test_no_weights_at_all(content, message, tmp_path):
    (tmp_path / "a.pth").write_bytes(content)
    with pytest.raises(DataError, match=message) as error:
        Torchvision(SMALL, weights=str(tmp_path / "a.pth"))
    assert "weights_only" not in str(error.value)
    with pytest.raises(DataError, match="is a link: download it"):
        Torchvision(SMALL, weights="https://example.org/a.pth")


def test_weights_are_checked_without_a_network(tmp_path, monkeypatch):
    torch.save(models.squeezenet1_0(weights=None).state_dict(), tmp_path / "a.pth")
    node = {
        "_target_": "deephash.models.backbones.Torchvision",
        "name": SMALL,
        "weights": str(tmp_path / "a.pth"),
    }
    torch.manual_seed(0)
    before = torch.get_rng_state()
    build.check_backbone(SimpleNamespace(backbone=node))
    assert torch.equal(torch.get_rng_state(), before)
    with pytest.raises(DataError, match="does not fit torchvision's resnet18"):
        build.check_backbone(SimpleNamespace(backbone=node | {"name": "resnet18"}))
    with pytest.raises(ConfigError, match="no model"):
        build.check_backbone(SimpleNamespace(backbone=node | {"name": "resnet5"}))
    absent = SimpleNamespace(missing=lambda: "no images")  # which is reported first
    build.check_backbone(SimpleNamespace(backbone=node | {"name": "resnet18"}), absent)
    build.check_backbone(
        SimpleNamespace(backbone={"_target_": "deephash.models.backbones.IdentityBackbone"})
    )
    wide = {"_target_": "deephash.models.backbones.Tiny", "weights": str(tmp_path / "a.pth")}
    with pytest.raises(DataError, match="does not fit backbone tiny"):
        build.check_backbone(SimpleNamespace(backbone=wide))


def test_damaged_downloads_are_reported(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    choice = backbones._imagenet(SMALL)
    file = backbones._stored(choice)
    file.parent.mkdir()
    file.write_bytes(b"PK\x03\x04 half of it")
    with pytest.raises(DataError, match=r"are damaged: remove .*squeezenet1_0"):
        Torchvision(SMALL, weights="imagenet")
