"""The base class of methods: hooks, parameter groups, views of a batch."""

import copy

import pytest
import torch
from torch import nn

from deephash.methods.base import Method
from deephash.models.backbones import IdentityBackbone
from deephash.models.encoder import Encoder
from deephash.models.heads import BatchNorm, Linear
from deephash.types import Batch


class Listener(nn.Module):
    def __init__(self):
        super().__init__()
        self.heard = []

    def prepare(self, data):
        self.heard.append(("prepare", data))

    def fit(self, features):
        self.heard.append(("fit", features))

    def on_epoch_start(self, epoch):
        self.heard.append(("epoch", epoch))

    def after_step(self, step):
        self.heard.append(("step", step))


def encoder(head=Linear, width=3, nbit=4):
    torch.manual_seed(0)
    return Encoder(IdentityBackbone(width), head(width, nbit))


def method(head=Linear, **parts):
    made = Method(encoder(head))
    for name, part in parts.items():
        setattr(made, name, part)
    return made


def batch(images=6, views=2, width=3):
    torch.manual_seed(1)
    draws = torch.randn(images, views, width) * torch.tensor([1.0, 5.0])[:views, None]
    return Batch(draws, torch.eye(images), torch.arange(images))


def test_hooks_reach_every_part():
    one = method(loss=Listener(), relaxation=nn.Sequential(Listener()))
    one.prepare("data")
    one.fit("features")
    one.on_epoch_start(3)
    one.after_step(7)
    expected = [("prepare", "data"), ("fit", "features"), ("epoch", 3), ("step", 7)]
    assert one.loss.heard == one.relaxation[0].heard == expected


def test_after_step_reaches_parts_that_came_later():
    one = method()
    one.after_step(1)
    one.loss = Listener()
    one.train().after_step(2)
    assert one.loss.heard == [("step", 2)]


def test_features_are_wanted_by_parts_and_by_methods_that_fit():
    class Fitted(Method):
        def fit(self, features):
            pass

    assert not method().wants_features
    assert method(loss=Listener()).wants_features
    assert Fitted(encoder()).wants_features


def test_parameters_are_grouped_by_part_and_counted_once():
    shared = nn.Parameter(torch.zeros(2))
    one = method(loss=nn.ParameterList([shared]), momentum=nn.ParameterList([shared]))
    one.scale = nn.Parameter(torch.zeros(()))
    one.relaxation = nn.Linear(2, 2).requires_grad_(False)
    groups = one.param_groups()
    assert list(groups) == ["head", "loss", "method"]  # the backbone has none, the rest is fixed
    assert groups["loss"] == [shared]
    assert groups["method"][0] is one.scale
    assert {id(p) for group in groups.values() for p in group} == {
        id(p) for p in one.parameters() if p.requires_grad
    }


def test_passes_decide_whose_statistics_batch_norm_takes():
    one, two = method(BatchNorm).train(), method(BatchNorm).train()
    two.passes = "separate"
    some = batch()
    features, stacked = one.encode(some)
    others, separate = two.encode(some)
    assert torch.equal(features, others)
    assert torch.equal(features, some.flat())
    alone = copy.deepcopy(method(BatchNorm)).train()
    expected = torch.cat([alone.encoder(some.images[:, view])[1] for view in range(2)])
    assert torch.equal(separate, expected)
    assert not torch.allclose(stacked, separate)
    assert int(one.encoder.head.norm.num_batches_tracked) == 1
    assert int(two.encoder.head.norm.num_batches_tracked) == 2


def test_passes_are_the_same_without_batch_norm_and_for_one_view():
    one, two = method(), method()
    two.passes = "separate"
    torch.testing.assert_close(one.encode(batch())[1], two.encode(batch())[1])
    one, two = method(BatchNorm).train(), method(BatchNorm).train()
    two.passes = "separate"
    assert torch.equal(one.encode(batch(views=1))[1], two.encode(batch(views=1))[1])


def test_a_method_without_forward_says_so():
    with pytest.raises(NotImplementedError, match="Method has no forward"):
        method()(batch())


def test_a_label_free_batch_names_the_declaration():
    one = Batch(torch.zeros(2, 2, 3), None, torch.arange(2))
    for read in (lambda: one.labels, lambda: one.targets):
        with pytest.raises(RuntimeError, match=r"labels = False, and reads batch\.labels"):
            read()
    assert [len(each) for each in one.tensors()] == [2, 2]
    assert one.map(torch.Tensor.double).images.dtype == torch.float64
