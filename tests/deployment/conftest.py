"""Small encoders to export."""

import pytest
import torch

from deephash.data.decoding import Decoder, Square
from deephash.data.preprocessing import Preprocessing
from deephash.data.transforms import CenterCrop, Normalize, Pipeline, Resize
from deephash.models import backbones, heads
from deephash.models.encoder import Encoder
from deephash.training.code_encoder import CodeEncoder

CPU = torch.device("cpu")


def of_features(head, width=6):
    """An encoder of features with a head."""
    network = Encoder(backbones.IdentityBackbone(in_features=width), head)
    return CodeEncoder(network, None, nbit_of(head, width), CPU)


def nbit_of(head, width):
    with torch.no_grad():
        return head.eval()(torch.zeros(2, width)).shape[1]


def of_images(backbone=None, nbit=12, size=16, fit="crop", steps=None, head=None):
    """An encoder of images with random weights and statistics."""
    torch.manual_seed(0)
    backbone = backbone or backbones.Tiny(width=4)
    head = head or heads.BatchNorm(backbone.out_features, nbit, init_std=0.1)
    network = Encoder(backbone, head).eval()
    for module in network.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
    if steps is None:
        steps = [
            Resize(20, interpolation="bicubic"),
            CenterCrop(18),
            Normalize([0.5] * 3, [0.25] * 3),
        ]
    preprocessing = Preprocessing(Decoder(Square(size, fit)), Pipeline(steps))
    return CodeEncoder(network, preprocessing, nbit, CPU)


@pytest.fixture(scope="module")
def encoder():
    return of_images()
