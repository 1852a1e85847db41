import math
import re
from functools import partial
from pathlib import Path
from urllib.error import URLError

import pytest
import torch
import yaml
from torch import nn
from torchvision import models

from deephash.errors import ConfigError, DataError
from deephash.models import backbones
from deephash.models.backbones import IdentityBackbone, Tiny, Torchvision
from deephash.models.encoder import Encoder
from deephash.models.heads import MLP, BatchNorm, Linear, TokenMLP
from deephash.models.relaxations import Continuation, Identity, Sign, StochasticSign, Tanh
from tests.paths import ROOT

CONF = ROOT / "conf" / "backbone"
SMALL = "squeezenet1_0"
FEATURES = {
    path.stem: int(re.search(r"D = (\d+)", path.read_text()).group(1))
    for path in sorted(CONF.glob("*.yaml"))
    if path.stem not in ("torchvision", "timm", "tiny", "identity")
}


def images(count=2, side=64):
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def alexnet():
    torch.manual_seed(0)
    return models.alexnet(weights=None).eval()


@pytest.fixture(scope="module")
def alexnet_file(alexnet, tmp_path_factory):
    file = tmp_path_factory.mktemp("weights") / "alexnet.pth"
    torch.save(alexnet.state_dict(), file)
    return file


@pytest.mark.parametrize("name", FEATURES)
def test_every_named_backbone_is_cut_at_its_features(name):
    """Only shapes, on the meta device."""
    assert yaml.safe_load((CONF / f"{name}.yaml").read_text())["name"] == name
    with torch.device("meta"):
        backbone = Torchvision(name, weights="none").eval()
        result = backbone(torch.empty(2, 3, 224, 224))
    assert result.shape == (2, FEATURES[name])
    assert backbone.out_features == FEATURES[name]
    layers = [m for m in backbone.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    assert all(layer.weight.shape[0] != 1000 for layer in layers)


def test_identity_returns_features_and_refuses_images():
    features = torch.randn(3, 5)
    backbone = IdentityBackbone(5)
    assert backbone.out_features == 5 and backbone(features) is features
    with pytest.raises(ConfigError, match=r"identity takes features.*\n.*backbone=alexnet"):
        IdentityBackbone(None)


def test_features_of_alexnet_are_the_input_of_its_last_layer(alexnet, alexnet_file):
    backbone = Torchvision("alexnet", weights=str(alexnet_file)).eval()
    x = images()
    with torch.no_grad():
        fc7 = alexnet.classifier[:-1](alexnet.avgpool(alexnet.features(x)).flatten(1))
        assert torch.equal(backbone(x), fc7)
        assert (fc7 >= 0).all() and fc7.shape == (2, 4096)


def test_squeezenet_is_averaged_over_its_map(tmp_path):
    whole = models.squeezenet1_0(weights=None).eval()
    torch.save(
        {"state_dict": {f"module.{k}": v for k, v in whole.state_dict().items()}}, tmp_path / "s.pt"
    )
    backbone = Torchvision(SMALL, weights=str(tmp_path / "s.pt")).eval()
    with torch.no_grad():
        expected = whole.features(images()).mean(dim=(2, 3))
        torch.testing.assert_close(backbone(images()), expected)


def test_resnet_features_are_its_pooled_map(tmp_path):
    whole = models.resnet18(weights=None).eval()
    torch.save(whole.state_dict(), tmp_path / "r.pt")
    backbone = Torchvision("resnet18", weights=str(tmp_path / "r.pt")).eval()
    with torch.no_grad():
        torch.testing.assert_close(whole.fc(backbone(images())), whole(images()))


def test_vgg16_ends_at_fc7_after_its_relu():
    with torch.device("meta"):
        layers = Torchvision("vgg16", weights="none").trunk.classifier
    kinds = [type(layer).__name__ for layer in layers]
    assert kinds == [*["Linear", "ReLU", "Dropout"] * 2, "Identity"]
    assert layers[3].out_features == 4096


@pytest.mark.parametrize("name", ["vgg16", "resnet50", "vit_b_16"])
def test_weights_of_imagenet_are_the_first_that_torchvision_had(name):
    choice = backbones._imagenet(name)
    assert choice.name == "IMAGENET1K_V1"
    assert choice.transforms().mean == [0.485, 0.456, 0.406]  # as the pages of datasets have it


@pytest.mark.parametrize("dropout", [True, False])
def test_dropout_is_active_only_if_enabled(dropout):
    """Two passes in training are equal without dropout and differ with it."""
    backbone = Torchvision(SMALL, weights="none", dropout=dropout).train()
    with torch.no_grad():
        same = torch.equal(backbone(images()), backbone(images()))
    assert same is not dropout


def test_frozen_keeps_weights_and_statistics():
    frozen, free = (Torchvision("resnet18", weights="none", frozen=f) for f in (True, False))
    for backbone in (frozen, free):
        nn.Sequential(backbone).train()
        backbone(images())
    assert not any(p.requires_grad for p in frozen.parameters())
    assert all(p.requires_grad for p in free.parameters())
    assert frozen.trunk.bn1.num_batches_tracked == 0
    assert torch.equal(frozen.trunk.bn1.running_mean, torch.zeros(64))
    assert free.trunk.bn1.num_batches_tracked == 1


def test_dropout_of_a_frozen_network_is_active_in_training_and_batch_norm_is_not():
    frozen = Torchvision("mobilenet_v3_small", weights="none", frozen=True, dropout=True)
    assert frozen.stochastic
    for mode in (True, False):
        nn.Sequential(frozen).train(mode)
        training = {type(m) for m in frozen.modules() if m.training}
        assert training == ({nn.Dropout} if mode else set())
    assert not Torchvision("resnet18", weights="none", frozen=True, dropout=True).stochastic
    assert not Torchvision("mobilenet_v3_small", weights="none", frozen=True).stochastic


def test_unknown_models_are_reported_with_similar_names():
    with pytest.raises(ConfigError, match=r"no model 'resnet5'.*resnet50"):
        Torchvision("resnet5", weights="none")


def test_weights_that_are_not_there(tmp_path):
    for build in (lambda w: Torchvision(SMALL, weights=w), lambda w: Tiny(weights=w)):
        with pytest.raises(DataError, match=re.escape(str(tmp_path / "no.pt"))):
            build(str(tmp_path / "no.pt"))


def test_weights_that_are_no_state_dict(tmp_path):
    text, listed = tmp_path / "text.pt", tmp_path / "list.pt"
    text.write_text("not weights")
    torch.save([1, 2, 3], listed)
    with pytest.raises(DataError, match=r"text\.pt is not a readable state dict"):
        Tiny(weights=str(text))
    with pytest.raises(DataError, match=r"list\.pt does not hold a state dict"):
        Torchvision(SMALL, weights=str(listed))


def test_weights_of_another_model(tmp_path):
    torch.save(Tiny(width=4).state_dict(), tmp_path / "tiny.pt")
    with pytest.raises(DataError, match=r"tiny\.pt does not fit torchvision's squeezenet1_0"):
        Torchvision(SMALL, weights=str(tmp_path / "tiny.pt"))
    with pytest.raises(DataError, match=r"tiny\.pt does not fit backbone tiny \(width 8\)"):
        Tiny(width=8, weights=str(tmp_path / "tiny.pt"))


class Code:
    def __reduce__(self):
        import os

        return os.system, ("true",)


def test_weights_run_no_code(tmp_path):
    torch.save({"a": Code()}, tmp_path / "evil.pt")
    with pytest.raises(DataError, match=r"evil\.pt is not a readable state dict"):
        Tiny(weights=str(tmp_path / "evil.pt"))


def test_a_failed_download_is_reported_with_advice(monkeypatch):
    def no_network(*args, **kwargs):
        raise URLError("no route to host")

    monkeypatch.setattr(models.WeightsEnum, "get_state_dict", no_network)
    with pytest.raises(DataError) as caught:
        Torchvision(SMALL, weights="imagenet")
    message = str(caught.value)
    url = models.SqueezeNet1_0_Weights.IMAGENET1K_V1.url
    assert "no route to host" in message and url in message
    assert str(Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[-1]) in message
    assert "backbone.weights=FILE" in message and "backbone.weights=none" in message


@pytest.mark.parametrize(("width", "pool", "side"), [(4, 1, 8), (4, 2, 8), (8, 2, 31)])
def test_tiny(width, pool, side):
    tiny = Tiny(width=width, pool=pool)
    assert tiny(images(3, side)).shape == (3, tiny.out_features)
    assert tiny.out_features == 4 * width * pool**2


def test_tiny_from_a_file(tmp_path):
    first = Tiny(width=4).eval()
    torch.save(first.state_dict(), tmp_path / "t.pt")
    second = Tiny(width=4, weights=str(tmp_path / "t.pt")).eval()
    assert torch.equal(first(images()), second(images()))


def test_tiny_has_no_imagenet_weights():
    with pytest.raises(ConfigError, match=r"backbone\.weights.*tiny(.|\n)*weights=none"):
        Tiny(weights="imagenet")


def test_linear_head():
    head = Linear(6, 4, bias=True, init_std=0.01)
    assert head(torch.ones(3, 6)).shape == (3, 4)
    assert torch.equal(head.linear.bias, torch.zeros(4))
    assert Linear(6, 4).linear.bias is None
    wide = Linear(1000, 100, init_std=0.01).linear.weight
    assert wide.std().item() == pytest.approx(0.01, rel=0.05)
    kaiming = Linear(1000, 100, init_std=None).linear.weight
    assert kaiming.abs().max().item() == pytest.approx(1000**-0.5, rel=0.01)


def test_batch_norm_head_gives_standard_bits():
    """In training every bit has mean 0 and variance 1 over the batch."""
    head = BatchNorm(6, 4)
    z = head(torch.randn(50, 6) * 100 + 3)
    torch.testing.assert_close(z.mean(0), torch.zeros(4), atol=1e-4, rtol=0)
    torch.testing.assert_close(z.var(0, unbiased=False), torch.ones(4), atol=1e-2, rtol=0)
    assert head.linear.bias is None and head.norm.momentum == 0.1
    assert head.linear.weight.abs().max() < 0.06


@pytest.mark.parametrize(("hidden", "dropout"), [(0, 0.5), (1, 0.5), (2, 0.0), (2, 0.5), (3, 0.5)])
def test_mlp_head(hidden, dropout):
    """Hidden layers as wide as the features; dropout between them and nowhere else."""
    head = MLP(6, 4, hidden, dropout)
    assert head(torch.ones(3, 6)).shape == (3, 4)
    shapes = [tuple(m.weight.shape) for m in head if isinstance(m, nn.Linear)]
    assert shapes == [(6, 6)] * hidden + [(4, 6)]
    names = "".join(type(m).__name__[0] for m in head)  # Linear, ReLU, Dropout
    between = "LRD" if dropout else "LR"
    assert names == (between * (hidden - 1) + "LR" if hidden else "") + "L"


def test_mlp_head_of_a_width_of_its_own():
    """CIBHash's head has one hidden layer of width 1024."""
    for hidden, shapes in ((0, [(4, 6)]), (1, [(9, 6), (4, 9)]), (2, [(9, 6), (9, 9), (4, 9)])):
        head = MLP(6, 4, hidden, width=9)
        assert [tuple(m.weight.shape) for m in head if isinstance(m, nn.Linear)] == shapes
        assert head(torch.ones(3, 6)).shape == (3, 4)


def test_encoder_gives_features_and_codes():
    encoder = Encoder(Tiny(width=4), Linear(64, 5)).eval()
    features, z = encoder(images(3, 8))
    assert features.shape == (3, 64) and z.shape == (3, 5)
    assert torch.equal(encoder.encode(images(3, 8)), z)
    assert torch.equal(encoder.head(features), z)


def test_relaxations():
    z = torch.tensor([[-1.0, 0.0, 0.5]])
    assert Identity()(z) is z
    torch.testing.assert_close(Tanh(slope=2)(z), torch.tensor([[-0.9640276, 0.0, 0.7615942]]))


def test_continuation_by_epochs():
    """The square root of 1 + floor(epoch / 20): 1, 1.414, 1.732, 2, 2.236; given by the epoch."""
    relaxation, result = Continuation(), []
    for epoch in (0, 19, 20, 40, 60, 80, 99):
        relaxation.on_epoch_start(epoch)
        relaxation(torch.zeros(1, 1))  # a batch has no effect
        result.append(relaxation.beta.item())
    expected = [1, 1, 2**0.5, 3**0.5, 2, 5**0.5, 5**0.5]
    assert result == pytest.approx(expected)
    z = torch.tensor([[0.3, -2.0]])
    torch.testing.assert_close(relaxation(z), torch.tanh(5**0.5 * z))


def test_continuation_by_iterations():
    """HashNet's code: the square root of 1 + 0.005 t, updated at every 200th training batch."""
    relaxation, z = Continuation("iteration", every=200, gain=0.005), torch.ones(1, 1)
    expected = {199: 1, 200: 1.414, 399: 1.414, 400: 1.732, 2000: 3.317, 9000: 6.782, 10000: 7.141}
    for at, beta in expected.items():
        relaxation.count.fill_(at - 1)
        result = relaxation(z)
        assert relaxation.beta.item() == pytest.approx(beta, abs=5e-4), at
        assert result.item() == pytest.approx(math.tanh(relaxation.beta.item()))
    for _ in range(3):
        relaxation.eval()(z)
    relaxation.on_epoch_start(7)
    assert relaxation.count == 10000


def test_continuation_counts_from_the_first_batch():
    relaxation = Continuation("iteration", every=3, gain=1.0)
    result = [relaxation(torch.ones(1, 1)).item() for _ in range(6)]
    betas = [1, 1, 2, 2, 2, 7**0.5]
    assert result == pytest.approx([math.tanh(beta) for beta in betas])


def test_continuation_is_part_of_the_state():
    first, second = (Continuation("iteration", every=2) for _ in range(2))
    for _ in range(5):
        first(torch.ones(1, 1))
    second.load_state_dict(first.state_dict())
    assert second.count == 5 and second.beta == first.beta > 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_bits_are_exact_and_their_gradient_passes(dtype):
    z = torch.tensor([-7e4, -1e-30, -0.0, 0.0, 1e-30, 0.3, 7e4], dtype=dtype, requires_grad=True)
    u = Sign()(z)
    assert u.dtype == dtype and u.tolist() == [-1, -1, 1, 1, 1, 1, 1]
    weights = torch.arange(7.0, dtype=dtype)
    (u * weights).sum().backward()
    assert torch.equal(z.grad, weights)


def test_sign_of_zero_sets_the_value_of_an_exact_zero():
    """1: as in retrieval; 0: `torch.sign`, as in the sources. The gradient is the same."""
    values = [-2.0, -1e-30, -0.0, 0.0, 1e-30, 0.7]
    for part, kept in ((Sign, values), (partial(StochasticSign, False), [-2.0, -0.0, 0.0, 0.7])):
        grads = []
        for sign_of_zero, zero in ((1, 1), (0, 0)):
            z = torch.tensor(kept, requires_grad=True)
            u = part(sign_of_zero=sign_of_zero)(z)
            assert u.tolist() == [zero if x == 0 else math.copysign(1, x) for x in kept]
            (u * torch.arange(len(kept))).sum().backward()
            grads.append(z.grad)
        assert torch.equal(*grads)


def test_only_a_tie_is_moved_by_sign_of_zero():
    """The draws are the same; b = 1/2 where p equals the threshold."""
    z = torch.randn(200, 4, generator=torch.Generator().manual_seed(0))
    drawn = []
    for sign_of_zero in (1, 0):
        torch.manual_seed(3)
        drawn.append(StochasticSign(sign_of_zero=sign_of_zero)(z))
    assert torch.equal(*drawn)
    z[0] = 0
    assert StochasticSign(sign_of_zero=0).eval()(z)[0].tolist() == [0] * 4


def test_stochastic_bits_come_as_often_as_their_probability():
    """20,000 draws: within five standard deviations, 0.018 at most."""
    torch.manual_seed(0)
    z = torch.tensor([-2.0, -0.5, 0.0, 1.0, 60.0]).repeat(20000, 1)
    u = StochasticSign()(z)
    assert set(u.unique().tolist()) == {-1.0, 1.0}
    torch.testing.assert_close((u > 0).float().mean(0), torch.sigmoid(z[0]), atol=0.018, rtol=0)
    assert (u[:, 4] == 1).all()


@pytest.mark.parametrize("stochastic", [True, False])
def test_the_gradient_of_stochastic_bits_is_that_of_their_probability(stochastic):
    """u = 2 b - 1, so 2 p (1 - p), whichever bit was drawn: 1/2 at z = 0."""
    z = torch.tensor([-2.0, 0.0, 0.7], requires_grad=True)
    StochasticSign(stochastic)(z).sum().backward()
    p = torch.sigmoid(z.detach())
    torch.testing.assert_close(z.grad, 2 * p * (1 - p))
    assert z.grad[1] == 0.5


def test_nothing_is_drawn_outside_training_or_without_stochastic():
    z = torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
    z[0] = 0
    signs = torch.where(z >= 0, 1.0, -1.0)
    before = torch.get_rng_state()
    assert torch.equal(StochasticSign().eval()(z), signs)
    assert torch.equal(StochasticSign(stochastic=False)(z), signs)
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(StochasticSign()(z), signs)


def test_a_frozen_tiny_backbone_stays_in_evaluation_mode_and_has_no_gradients():
    trunk = Tiny(width=4, frozen=True).train()
    assert not any(module.training for module in trunk.modules())
    assert not any(weight.requires_grad for weight in trunk.parameters())
    images = torch.rand(3, 3, 8, 8)
    before = {name: value.clone() for name, value in trunk.state_dict().items()}
    trunk(images)
    assert all(torch.equal(before[name], value) for name, value in trunk.state_dict().items())
    assert Tiny(width=4).train().training


def test_identity_accepts_frozen():
    features = torch.rand(2, 5)
    assert torch.equal(IdentityBackbone(5, frozen=True)(features), features)


def test_the_tokens_of_a_vision_transformer_are_those_of_its_patches():
    torch.manual_seed(0)
    trunk = Torchvision("vit_b_16", weights="none", output="tokens").eval()
    images = torch.rand(1, 3, 224, 224)
    with torch.no_grad():
        tokens = trunk(images)
        trunk.output = "features"
        class_token = trunk(images)
        sequence = trunk.trunk._process_input(images)
        first = trunk.trunk.class_token.expand(1, -1, -1)
        whole = trunk.trunk.encoder(torch.cat([first, sequence], dim=1))
    assert trunk.out_features == 768 and tokens.shape == (1, 196, 768)
    assert torch.equal(tokens, whole[:, 1:]) and torch.equal(class_token, whole[:, 0])


def test_the_tokens_of_tiny_are_the_places_of_its_map():
    torch.manual_seed(0)
    images = torch.rand(2, 3, 8, 8)
    features, tokens = Tiny(width=4).eval(), Tiny(width=4, output="tokens").eval()
    tokens.load_state_dict(features.state_dict())
    assert tokens.out_features == 16 and tokens(images).shape == (2, 4, 16)
    assert torch.equal(tokens(images).transpose(1, 2).flatten(1), features(images))


@pytest.mark.parametrize(
    "make",
    [
        lambda: Torchvision("resnet18", weights="none", output="tokens"),
        lambda: Encoder(Tiny(4, output="tokens"), Linear(16, 8)).encode(torch.rand(2, 3, 8, 8)),
        lambda: Encoder(Tiny(4), TokenMLP(64, 8)).encode(torch.rand(2, 3, 8, 8)),
    ],
)
def test_tokens_are_refused_where_they_do_not_fit(make):
    with pytest.raises(ConfigError, match=r"backbone.*(tokens|features)"):
        make()
