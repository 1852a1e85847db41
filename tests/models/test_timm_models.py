"""Backbones of timm equal timm's own functions, with random weights at small sizes."""

import re
import sys
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

from deephash.config import backbone_inputs
from deephash.errors import ConfigError, DataError
from deephash.models import timm_models
from deephash.models.timm_models import InputConfig, Timm

timm = pytest.importorskip("timm")

MODELS = [
    ("resnet18", {}, 64, 0),
    ("tf_efficientnet_lite0", {}, 64, 0),
    ("mobilenetv3_small_050", {}, 64, 0),  # whose head has a hidden layer
    ("convnext_atto", {}, 64, 0),
    ("test_mambaout", {}, 64, 0),  # whose map has its channels last
    ("vit_tiny_patch16_224", {"img_size": 64}, 64, 1),
]


def images(side, count=2):
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(0))


def saved(model, tmp_path, change=dict):
    torch.save(change(model.state_dict()), tmp_path / "w.pth")
    return str(tmp_path / "w.pth")


def network(name):
    torch.manual_seed(0)
    return timm.create_model(name, pretrained=False).eval()


@pytest.mark.parametrize(("name", "options", "side", "prefix"), MODELS, ids=[m[0] for m in MODELS])
def test_features_and_tokens_are_those_of_timm(name, options, side, prefix, tmp_path):
    whole = network(name)
    file = saved(whole, tmp_path)
    if options:
        whole.set_input_size(img_size=(side, side))
    with torch.no_grad():
        result = whole.forward_features(images(side))
        features = whole.forward_head(result, pre_logits=True)
        tokens = result[:, prefix:]
        if name == "test_mambaout":
            tokens = result.reshape(2, -1, result.shape[3])
        elif result.ndim == 4:
            places = [(y, x) for y in range(result.shape[2]) for x in range(result.shape[3])]
            tokens = torch.stack([result[:, :, y, x] for y, x in places], dim=1)
        for output, expected in (("features", features), ("tokens", tokens)):
            backbone = Timm(name, weights=file, output=output, **options).eval()
            given = backbone(images(side))
            assert torch.equal(given, expected), output
            assert backbone.out_features == given.shape[-1]
    empty = Timm(name, weights="none", output="tokens", **options)  # as a checkpoint fills it
    empty.load_state_dict(backbone.state_dict())
    with torch.no_grad():
        assert torch.equal(empty.eval()(images(side)), tokens)


@pytest.mark.parametrize(
    ("name", "side", "count", "width"),
    [
        ("vit_small_patch14_reg4_dinov2", 518, 37 * 37, 384),  # a class token and 4 registers
        ("deit_tiny_distilled_patch16_224", 224, 14 * 14, 192),  # two class tokens
        ("volo_d1_224", 224, 14 * 14, 384),  # which does not count its class token
        ("swin_tiny_patch4_window7_224", 224, 7 * 7, 768),
    ],
)
def test_tokens_are_those_of_patches(name, side, count, width):
    with torch.device("meta"):
        backbone = Timm(name, weights="none", output="tokens")
        assert backbone(torch.empty(1, 3, side, side)).shape == (1, count, width)
    assert backbone.out_features == width


def test_other_files_of_the_same_weights(tmp_path, caplog):
    whole = network("test_efficientnet")
    reference = Timm("test_efficientnet", weights=saved(whole, tmp_path)).state_dict()
    assert not caplog.records
    prefixed = saved(whole, tmp_path, lambda state: {f"module.{k}": v for k, v in state.items()})
    without = {k: v for k, v in whole.state_dict().items() if not k.startswith("classifier")}
    torch.save({"state_dict": without}, tmp_path / "cut.pth")
    for file in (prefixed, str(tmp_path / "cut.pth")):
        assert all(
            torch.equal(value, reference[key])
            for key, value in Timm("test_efficientnet", weights=file).state_dict().items()
        )
    assert not caplog.records
    Timm(
        "test_efficientnet",
        weights=saved(timm.create_model("test_efficientnet", num_classes=7), tmp_path),
    )
    assert "not used: classifier.weight, classifier.bias" in caplog.text


class Code:
    def __reduce__(self):
        import os

        return os.system, ("true",)


def test_files_that_do_not_fit(tmp_path):
    other = saved(network("test_vit"), tmp_path)
    for build in (Timm, Timm.check):
        with pytest.raises(DataError, match=r"w\.pth does not fit timm's test_efficientnet"):
            build("test_efficientnet", weights=other)
        with pytest.raises(DataError, match=r"no file .*none\.pth"):
            build("test_efficientnet", weights=str(tmp_path / "none.pth"))
    Timm.check("test_vit", weights=other)
    torch.save({"a": Code()}, tmp_path / "evil.pt")
    with pytest.raises(DataError, match=r"evil\.pt is not a readable state dict"):
        Timm("test_vit", weights=str(tmp_path / "evil.pt"))


def test_frozen_keeps_weights_and_statistics():
    frozen, free = (Timm("test_efficientnet", weights="none", frozen=f) for f in (True, False))
    for backbone in (frozen, free):
        nn.Sequential(backbone).train()
        backbone(images(64))
    assert not any(p.requires_grad for p in frozen.parameters())
    assert all(p.requires_grad for p in free.parameters())
    counts = [b.trunk.bn1.num_batches_tracked.item() for b in (frozen, free)]
    assert counts == [0, 1]


@pytest.mark.parametrize("rates", [{}, {"drop_rate": 0.5}, {"drop_path_rate": 0.5}])
def test_dropout_is_active_only_if_enabled(rates):
    backbone = Timm("test_vit", weights="none", dropout=bool(rates), **rates).train()
    with torch.no_grad():
        same = torch.equal(backbone(images(160)), backbone(images(160)))
    assert same is not bool(rates)
    assert torch.equal(backbone.eval()(images(160)), backbone(images(160)))


def test_default_dropout_of_an_architecture_is_disabled():
    layer = nn.Sequential(nn.Dropout(0.3), nn.Identity())
    layer[1].drop_prob, layer.drop_rate = 0.2, 0.1
    timm_models._disable_dropout(layer)
    assert (layer[0].p, layer[1].drop_prob, layer.drop_rate) == (0, 0, 0)


@pytest.mark.parametrize(
    ("options", "key", "message"),
    [
        ({"name": "resnet19"}, "name", r"no model 'resnet19'\. Did you mean resnet18"),
        ({"name": "resnet18.x"}, "name", r"no weights called 'resnet18\.x'.*resnet18\.a1_in1k"),
        ({"name": "hf-hub:timm/resnet18"}, "name", r"only timm's own.*backbone\.weights=FILE"),
        ({"name": "local-dir:/tmp/x"}, "name", r"only timm's own"),
        ({"name": "../resnet18"}, "name", r"only timm's own"),
        ({"name": "vit_base_patch16_224_in21k"}, "name", r"Type .*patch16_224\.augreg_in21k"),
        ({"name": "resnet18", "weights": "imagenet"}, "weights", r"=pretrained"),
        ({"name": "mixer_s32_224"}, "weights", r"no weights of mixer_s32_224\. .*=none"),
        ({"name": "resnet18.*"}, "name", r"no weights called"),
        ({"name": "resnet18."}, "name", r"no weights called 'resnet18\.'.*resnet18\.a1_in1k"),
        ({"name": "resnet18", "dropout": True}, "dropout", r"both rates are 0.*drop_rate"),
        ({"name": "resnet18", "drop_rate": 0.1}, "dropout", r"=true"),
        ({"name": "crossvit_9_240", "output": "tokens"}, "output", r"no single feature map"),
        ({"name": "mixer_b16_224", "img_size": 112}, "img_size", r"takes only 224"),
        ({"name": "vit_tiny_patch16_224", "img_size": 8}, "img_size", r"is 8:"),
    ],
)
def test_invalid_options_are_refused(options, key, message):
    [(option, fault, hint)] = Timm.refused(options)
    assert option == key and re.search(message, f"{fault} {hint}")
    with pytest.raises(ConfigError, match=rf"backbone\.{key}"):
        Timm(**options)


def test_names_with_and_without_a_tag_are_known():
    for name in ("resnet18", "resnet18.a1_in1k", "vit_small_patch14_dinov2.lvd142m"):
        assert Timm.refused({"name": name}) == []


def test_images_of_another_size_are_refused():
    backbone = Timm("test_vit", weights="none")
    with pytest.raises(ConfigError, match=r"160x160.*64x64\.\n.*dataset\.size=160"):
        backbone(images(64))
    assert Timm("test_efficientnet", weights="none")(images(96)).shape == (2, 256)


def test_without_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    [(key, fault, hint)] = Timm.refused({"name": "resnet18"})
    assert key == "name" and "needs the package timm, which is not installed" in fault
    assert "pip install timm" in hint
    assert Timm.input_config({"name": "resnet18"}) is None


@pytest.fixture
def no_network(monkeypatch, tmp_path):
    import huggingface_hub
    from huggingface_hub import constants

    calls = []

    def fail(*args, **kwargs):
        calls.append(args)
        raise OSError("no route to host")

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", fail)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)
    monkeypatch.setattr(torch.hub, "download_url_to_file", fail)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    return calls


def test_weights_that_are_not_available(no_network, tmp_path):
    for call in (Timm.check, lambda name: timm_models._build_pretrained(name, {})):
        with pytest.raises(DataError) as caught:
            call("resnet18")
        message = str(caught.value)
        for part in (
            "no route to host",
            "timm/resnet18.a1_in1k",
            str(tmp_path),
            "backbone.weights=FILE",
            "backbone.weights=none",
        ):
            assert part in message


def test_weights_that_are_not_on_the_hub(no_network, tmp_path):
    with pytest.raises(DataError) as caught:
        Timm.check("gcvit_tiny.in1k")
    message = str(caught.value)
    assert "could not be downloaded: no route to host" in message and "Hub" not in message
    assert str(tmp_path / "hub" / "checkpoints") in message and "hf download" not in message
    assert "https://github.com/" in message
    [(url, file, digest)] = no_network
    assert url.endswith(f"-{digest}.pth") and file.endswith(url.rpartition("/")[2])
    with Path(file).open("wb"):  # in the cache
        Timm.check("gcvit_tiny.in1k")
    assert len(no_network) == 1


def test_a_revision_is_an_option_of_the_command(monkeypatch):
    declared = timm.models.get_pretrained_cfg("resnet18")
    monkeypatch.setattr(declared, "hf_hub_id", "timm/resnet18@v2")
    monkeypatch.setattr(timm.models, "get_pretrained_cfg", lambda name: declared)
    message = str(timm_models._download_error("resnet18", OSError("no route")))
    assert "hf download timm/resnet18 --revision v2 " in message


def test_errors_of_the_model_are_not_those_of_a_download(monkeypatch):
    monkeypatch.setattr(timm_models, "_download", lambda name: None)

    def fail(error):
        def create(*args, **kwargs):
            raise error

        return create

    monkeypatch.setattr(timm, "create_model", fail(RuntimeError("a layer")))
    with pytest.raises(RuntimeError, match="a layer"):
        timm_models._build_pretrained("resnet18", {})
    monkeypatch.setattr(timm, "create_model", fail(EOFError("the end")))
    with pytest.raises(DataError, match=r"could not be read: the end\n.*remove them from"):
        timm_models._build_pretrained("resnet18", {})


def test_weights_in_the_cache_cause_no_request(no_network, monkeypatch, tmp_path):
    import huggingface_hub

    requests = []

    def load(repo, file, **_):
        requests.append((repo, file))
        return "file"

    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", load)
    Timm.check("resnet18")
    assert requests == [("timm/resnet18.a1_in1k", "model.safetensors")] and not no_network


def test_a_model_declares_its_images():
    declared = Timm.input_config({"name": "vit_small_patch14_dinov2.lvd142m"})
    assert declared == InputConfig(
        (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), "bicubic", 518, fixed=True, crop=1.0
    )
    smaller = Timm.input_config({"name": "vit_small_patch14_dinov2", "img_size": 224})
    assert smaller.size == 224 and smaller.mean == declared.mean
    lite = Timm.input_config({"name": "tf_efficientnet_lite0", "weights": "x.pth"})
    assert lite.mean == (0.5, 0.5, 0.5) and not lite.fixed
    assert Timm.input_config({"name": "resnet18", "preprocessing": "dataset"}) is None
    for wrong in ({}, {"name": "resnet19"}, {"name": 5}, {"name": "resnet18", "img_size": "x"}):
        assert Timm.input_config(wrong) is None


def test_only_a_backbone_with_its_own_preprocessing_declares_any():
    target = "deephash.models.timm_models.Timm"
    node = {"_target_": target, "name": "resnet18", "weights": "none", "preprocessing": "model"}
    assert backbone_inputs.declared_inputs(node).size == 224
    for other in (None, {**node, "preprocessing": "dataset"}, {**node, "_target_": "os.system"},
                  {"_target_": "deephash.models.backbones.Tiny", "preprocessing": "model"},
                  {"preprocessing": "model"}):  # fmt: skip
        assert backbone_inputs.declared_inputs(other) is None


def test_checking_a_model_draws_no_random_numbers():
    timm_models._output_shapes.cache_clear()
    torch.manual_seed(0)
    before = torch.get_rng_state()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Timm.refused({"name": "test_vit", "output": "tokens"})
    assert torch.equal(before, torch.get_rng_state())


# layers


def rates(parameters_of, model):
    """The factor of the rate of each parameter of a model, by name."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {names[id(p)]: factor for factor, group in parameters_of for p in group}


@pytest.mark.parametrize(
    "name", ["test_vit", "swin_tiny_patch4_window7_224", "test_convnext", "beit_base_patch16_224"]
)
def test_rates_by_depth_are_those_of_timm(name):
    """Of all blocks; a norm layer after them has timm's rate of the classifier."""
    from timm.optim import param_groups_layer_decay

    with torch.device("meta"):
        backbone, whole = Timm(name, weights="none"), timm.create_model(name)
    groups = param_groups_layer_decay(whole, layer_decay=0.75)
    expected = rates([(group["lr_scale"], group["params"]) for group in groups], whole)
    layers = backbone.layers()
    depth = len(layers)
    given = rates([(0.75 ** (depth - at), layers[at]) for at in range(depth)], backbone.trunk)
    assert set(given) == {name for name, _ in backbone.trunk.named_parameters()}
    different = {name for name in given if given[name] != pytest.approx(expected[name])}
    assert all("norm" in name and expected[name] == 1 for name in different)
    assert max(given.values()) == 0.75


class Plain(nn.Module):
    """A model that timm neither groups nor computes again."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Linear(3, 3)
        self.blocks = nn.ModuleList([nn.Sequential(nn.Linear(3, 3)), nn.Sequential(nn.ReLU())])
        self.blocks.append(nn.TransformerEncoderLayer(3, 1, 4))


def test_models_without_functions_of_timm():
    backbone = Timm("test_vit", weights="none")
    backbone.trunk = Plain()
    assert [len(layer) for layer in backbone.layers()] == [2, 2, 12]
    assert backbone.checkpoint_gradients() == 1


def small(name):
    if name == "swin":  # timm has none for tests
        from timm.models.swin_transformer import SwinTransformer

        backbone = Timm("test_vit", weights="none")
        torch.manual_seed(0)
        backbone.trunk = SwinTransformer(
            img_size=32, patch_size=2, window_size=4, embed_dim=8, depths=(2, 2),
            num_heads=(2, 2), num_classes=0, drop_path_rate=0.5,
        )  # fmt: skip
        backbone.side = None
        return backbone
    torch.manual_seed(0)
    return Timm(name, weights="none", dropout=True, drop_path_rate=0.5)


@pytest.mark.parametrize(
    ("name", "side"), [("test_vit", 160), ("swin", 32), ("test_convnext", 64), ("test_resnet", 64)]
)
def test_gradient_checkpointing_changes_no_bit(name, side):
    """Nor do stochastic depth and batch norm, and less is kept for the backward pass."""
    kept, results = [], []
    for checkpointing in (False, True):
        backbone = small(name).train()
        if checkpointing:
            assert backbone.checkpoint_gradients() > 0
        count = 0

        def pack(tensor):
            nonlocal count
            count += tensor.numel()
            return tensor

        torch.manual_seed(1)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss = backbone(images(side)).square().mean()
        loss.backward()
        kept.append(count)
        results.append([torch.rand(3), *backbone.state_dict().values(),
                        *(p.grad for p in backbone.parameters())])  # fmt: skip
    assert all(map(torch.equal, *results))
    assert kept[1] < 0.6 * kept[0]
