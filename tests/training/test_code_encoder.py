"""What identifies an encoder."""

import copy

import pytest
import torch
from torch import nn

import deephash
from deephash.data.decoding import Decoder, Exact, Square
from deephash.data.preprocessing import Preprocessing
from deephash.data.transforms import CenterCrop, Normalize, Pipeline, Resize
from deephash.models import backbones, heads
from deephash.models.encoder import Encoder
from deephash.training.code_encoder import CodeEncoder

STEPS = (Resize(16), CenterCrop(12), Normalize([0.1, 0.2, 0.3], [0.4, 0.5, 0.6]))


def network(seed=0):
    torch.manual_seed(seed)
    backbone = backbones.Tiny(width=2)
    return Encoder(backbone, heads.BatchNorm(backbone.out_features, nbit=10))


def encoder(net=None, fit=None, steps=STEPS, nbit=10, **more):
    preprocessing = Preprocessing(Decoder(fit or Square(20, "crop")), Pipeline(steps))
    cpu = torch.device("cpu")
    return CodeEncoder(net or network(), preprocessing, nbit, cpu, **more)


def test_equal_encoders_have_one_fingerprint():
    net = network()
    first = encoder(net, method="a", dataset="b", batch_size=7)
    assert len(first.fingerprint) == 64 and int(first.fingerprint, 16) >= 0
    saved = network(seed=1)
    saved.load_state_dict(net.state_dict())
    assert encoder(saved).fingerprint == first.fingerprint
    channels_last = copy.deepcopy(net).to(memory_format=torch.channels_last)
    assert encoder(channels_last).fingerprint == first.fingerprint
    # a source that stores images of this size unchanged crops others in the same way
    assert encoder(net, Exact(20)).fingerprint == first.fingerprint


def test_the_fingerprint_is_that_of_every_device(device):
    net = network()
    assert encoder(copy.deepcopy(net).to(device)).fingerprint == encoder(net).fingerprint


def changed_weight():
    net = network()
    with torch.no_grad():
        net.head.linear.weight[0, 0] += 1e-6
    return encoder(net)


def changed_statistics():
    net = network()
    net.head.norm.running_mean[3] += 1e-6
    return encoder(net)


@pytest.mark.parametrize(
    "other",
    [
        changed_weight,
        changed_statistics,
        lambda: encoder(nbit=9),
        lambda: encoder(fit=Square(20, "squash")),
        lambda: encoder(fit=Square(21, "crop")),
        lambda: encoder(steps=STEPS[:2]),
        lambda: encoder(steps=[Resize(16, interpolation="bicubic"), *STEPS[1:]]),
        lambda: encoder(steps=[*STEPS[:2], Normalize([0.1, 0.2, 0.3], [0.4, 0.5, 0.6001])]),
    ],
)
def test_whatever_changes_codes_changes_the_fingerprint(other):
    assert other().fingerprint != encoder().fingerprint


def test_the_preprocessing_has_the_keys_of_timm():
    described = encoder().preprocess
    stages = described.pop("stages")
    assert described == {
        "input": "images",
        "input_size": [3, 12, 12],
        "mean": [0.1, 0.2, 0.3],
        "std": [0.4, 0.5, 0.6],
        "interpolation": "bilinear",
        "crop_pct": 0.75,
        "crop_mode": "center",
    }
    assert [stage["step"] for stage in stages] == ["fit", "Resize", "CenterCrop", "Normalize"]
    assert stages[0]["size"] == 20 and stages[0]["fit"] == "crop"


@pytest.mark.parametrize(
    ("size", "steps", "kept"),
    [(32, [], 1), (256, [CenterCrop(224), Resize(64)], 0.875), (64, [Resize(224)], 1)],
)
def test_the_crop_is_a_fraction_of_what_is_resized(size, steps, kept):
    described = encoder(fit=Square(size, "squash"), steps=steps).preprocess
    assert described["crop_pct"] == kept and described["crop_mode"] == "squash"
    assert described["mean"] == [0, 0, 0] and described["std"] == [1, 1, 1]


def test_another_precision_gives_other_codes_and_another_fingerprint():
    made, images = encoder(method="a"), torch.randint(256, (9, 3, 20, 20), dtype=torch.uint8)
    short = made.with_precision("bf16")
    assert 0 < abs(made.codes(images) - short.codes(images)).max() < 0.1
    assert short.fingerprint != made.fingerprint
    again = short.with_precision("fp32")
    assert again.describe() == made.describe()
    assert (again.codes(images) == made.codes(images)).all()


def test_an_encoder_of_features():
    net = Encoder(backbones.IdentityBackbone(in_features=5), heads.Linear(5, nbit=8))
    made = CodeEncoder(net, None, 8, torch.device("cpu"))
    assert made.preprocess == {"input": "features", "width": 5}
    assert len(made.fingerprint) == 64


def test_the_description():
    made = encoder(method="relahash", dataset="digits")
    assert made.describe() == {
        "fingerprint": made.fingerprint,
        "nbit": 10,
        "preprocess": made.preprocess,
        "precision": "fp32",
        "method": "relahash",
        "dataset": "digits",
        "deephash": deephash.__version__,
    }


def test_weights_of_any_type_have_a_digest():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("halves", torch.ones(2, dtype=torch.bfloat16))
            self.register_buffer("flag", torch.tensor(True))
            self.register_buffer("none", torch.empty(0))

    assert len(encoder(Odd()).fingerprint) == 64


def test_images_are_transformed_on_the_device(device):
    made = encoder(network().to(device))
    made.device = torch.device(device)
    assert made.codes(torch.zeros(2, 3, 9, 9, dtype=torch.uint8)).shape == (2, 10)
