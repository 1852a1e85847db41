import copy

import pytest
import torch
from torch import nn

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

    def forward(self, x):
        return x + self.body(x)


def test_checkpointing_changes_no_bit():
    """Neither gradients, nor the statistics of batch norm, nor the random numbers after it."""
    torch.manual_seed(0)
    plain = nn.Sequential(Block(), Block())
    saving = copy.deepcopy(plain)
    checkpoint_layers(saving)
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
                loss = network(torch.randn(8, 6)).square().mean()
            loss.backward()
        saved.append(count)
        results.append([torch.rand(3), *network.state_dict().values(),
                        *(p.grad for p in network.parameters())])  # fmt: skip
    assert all(map(torch.equal, *results))
    assert saved[1] < saved[0] / 4
    saving.eval()
    assert torch.equal(saving(torch.ones(2, 6)), plain.eval()(torch.ones(2, 6)))


def test_backbones_divide_their_trunk():
    assert [len(layer) for layer in Tiny(width=4).layers()] == [3, 3, 3]
