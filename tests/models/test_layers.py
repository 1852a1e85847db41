import copy

import pytest
import torch
from torch import nn
from torchvision.models import ConvNeXt, SwinTransformer, VisionTransformer
from torchvision.models.convnext import CNBlockConfig

from deephash.models.backbones import Tiny, Torchvision
from deephash.models.layers import checkpoint_layers, layer_parameters, layers

DEPTHS = {"vit_b_16": 13, "swin_t": 16, "convnext_tiny": 22, "resnet18": 9, "vgg16": 15}
"""Stem, blocks and, of Swin and ConvNeXt, the layers between stages; of VGG 13 + 2 layers."""


@pytest.mark.parametrize("name", DEPTHS)
def test_layers_of_published_networks(name):
    with torch.device("meta"):
        backbone = Torchvision(name, "none")
    divided = backbone.layers()
    assert len(divided) == DEPTHS[name]
    ids = [id(parameter) for layer in divided for parameter in layer]
    assert sorted(ids) == sorted(id(p) for p in backbone.parameters())  # each once


def test_a_list_of_blocks_is_divided():
    network = nn.Module()
    network.blocks = nn.ModuleList([Block(), Block(), Block()])
    assert len(layers(network)) == 3 and checkpoint_layers(network) == 3


def test_operators_have_nothing_to_compute_again():
    for network in (Tiny(width=4), nn.Sequential(nn.Linear(2, 2), nn.ReLU())):
        assert checkpoint_layers(network) == 0


def test_what_is_outside_of_the_layers_belongs_to_the_first():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.token = nn.Parameter(torch.zeros(1, 2))
            self.norm = nn.LayerNorm(2)
            self.blocks = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Sequential(nn.Linear(2, 2)))

    net = Net()
    first = layer_parameters(net)[0]
    assert [id(p) for p in first] == [
        id(p) for p in (net.token, *net.norm.parameters(), *net.blocks[0].parameters())
    ]
    assert [type(m).__name__ for m in layers(net)[0]] == ["LayerNorm", "Linear", "ReLU"]


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            nn.Linear(6, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Dropout(0.5), nn.Linear(6, 6)
        )

    def forward(self, x, scale=1.0):
        return x + scale * self.body(x)


def test_checkpointed_blocks_take_arguments_by_name():
    network = nn.Sequential(Block())
    checkpoint_layers(network)
    x = torch.randn(4, 6)
    assert torch.equal(network[0](x, scale=0.0), x)


def transformer():
    return VisionTransformer(32, 8, 2, 2, 16, 32, dropout=0.1)


def swin():
    return SwinTransformer([2, 2], 8, [2, 2], [2, 2], [4, 4], stochastic_depth_prob=0.5)


def convnext():
    return ConvNeXt([CNBlockConfig(8, 12, 2), CNBlockConfig(12, None, 1)], 0.5)


NETWORKS = [
    (lambda: nn.Sequential(Block(), Block()), (8, 6), 0.25),
    (transformer, (2, 3, 32, 32), 0.6),
    (swin, (2, 3, 32, 32), 0.6),
    (convnext, (2, 3, 32, 32), 0.6),
]


@pytest.mark.parametrize(
    ("build", "shape", "share"), NETWORKS, ids=["blocks", "vit", "swin", "convnext"]
)
def test_checkpointing_changes_no_bit(build, shape, share):
    """Neither gradients, nor the statistics of batch norm, nor the random numbers after it."""
    torch.manual_seed(0)
    plain = build()
    saving = copy.deepcopy(plain)
    assert checkpoint_layers(saving) > 0
    saved = []
    results = []
    for network in (plain, saving):
        torch.manual_seed(1)
        count = 0

        def pack(tensor):
            nonlocal count
            count += tensor.numel()
            return tensor

        for _ in range(2):
            with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
                loss = network(torch.randn(shape)).square().mean()
            loss.backward()
        saved.append(count)
        gradients = [p.grad for p in network.parameters() if p.grad is not None]
        results.append([torch.rand(3), *network.state_dict().values(), *gradients])
    assert len(results[0]) == len(results[1]) and all(map(torch.equal, *results))
    assert saved[1] < share * saved[0]
    saving.eval()
    with torch.no_grad():
        assert torch.equal(saving(torch.ones(shape)), plain.eval()(torch.ones(shape)))


def test_backbones_divide_their_trunk():
    assert [len(layer) for layer in Tiny(width=4).layers()] == [3, 3, 3]
