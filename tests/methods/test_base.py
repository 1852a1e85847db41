"""Base class of methods: hooks, parameter groups, views of a batch."""

import pytest
import torch
from torch import nn

from deephash.methods.base import Method
from deephash.models.backbones import IdentityBackbone
from deephash.models.encoder import Encoder
from deephash.models.heads import BatchNorm, Linear
from deephash.types import Batch


class Recorder(nn.Module):
    def __init__(self):
        super().__init__()
        self.calls = []

    def prepare(self, data):
        self.calls.append(("prepare", data))

    def fit(self, features):
        self.calls.append(("fit", features))

    def on_epoch_start(self, epoch):
        self.calls.append(("epoch", epoch))

    def after_step(self, step):
        self.calls.append(("step", step))


def make_encoder(head=Linear, width=3, nbit=4):
    torch.manual_seed(0)
    return Encoder(IdentityBackbone(width), head(width, nbit))


def make_method(head=Linear, **parts):
    method = Method(make_encoder(head))
    for name, part in parts.items():
        setattr(method, name, part)
    return method


def make_batch(images=6, views=2, width=3):
    torch.manual_seed(1)
    values = torch.randn(images, views, width) * torch.tensor([1.0, 5.0])[:views, None]
    return Batch(values, torch.eye(images), torch.arange(images))


def test_hooks_call_every_part():
    method = make_method(loss=Recorder(), relaxation=nn.Sequential(Recorder()))
    method.prepare("data")
    method.fit("features")
    method.on_epoch_start(3)
    method.after_step(7)
    expected = [("prepare", "data"), ("fit", "features"), ("epoch", 3), ("step", 7)]
    assert method.loss.calls == method.relaxation[0].calls == expected


def test_after_step_calls_parts_added_later():
    method = make_method()
    method.after_step(1)
    method.loss = Recorder()
    method.train().after_step(2)
    assert method.loss.calls == [("step", 2)]


def test_wants_features():
    class Fitted(Method):
        def fit(self, features):
            pass

    assert not make_method().wants_features
    assert make_method(loss=Recorder()).wants_features
    assert Fitted(make_encoder()).wants_features


def test_param_groups_are_disjoint():
    shared = nn.Parameter(torch.zeros(2))
    method = make_method(loss=nn.ParameterList([shared]), momentum=nn.ParameterList([shared]))
    method.scale = nn.Parameter(torch.zeros(()))
    method.relaxation = nn.Linear(2, 2).requires_grad_(False)
    groups = method.param_groups()
    assert list(groups) == ["head", "loss", "method"]  # the backbone has none, the rest is fixed
    assert groups["loss"] == [shared]
    assert groups["method"][0] is method.scale
    assert {id(p) for group in groups.values() for p in group} == {
        id(p) for p in method.parameters() if p.requires_grad
    }


def test_passes_select_batch_norm_statistics():
    stacked, separate = make_method(BatchNorm).train(), make_method(BatchNorm).train()
    separate.passes = "separate"
    batch = make_batch()
    features, stacked_z = stacked.encode(batch)
    separate_features, separate_z = separate.encode(batch)
    assert torch.equal(features, separate_features)
    assert torch.equal(features, batch.flat())
    by_view = make_method(BatchNorm).train()
    expected = torch.cat([by_view.encoder(batch.images[:, view])[1] for view in range(2)])
    assert torch.equal(separate_z, expected)
    assert not torch.allclose(stacked_z, separate_z)
    assert int(stacked.encoder.head.norm.num_batches_tracked) == 1
    assert int(separate.encoder.head.norm.num_batches_tracked) == 2


def test_passes_are_equal_without_batch_norm_or_for_one_view():
    stacked, separate = make_method(), make_method()
    separate.passes = "separate"
    batch = make_batch()
    torch.testing.assert_close(stacked.encode(batch)[1], separate.encode(batch)[1])
    stacked, separate = make_method(BatchNorm).train(), make_method(BatchNorm).train()
    separate.passes = "separate"
    batch = make_batch(views=1)
    assert torch.equal(stacked.encode(batch)[1], separate.encode(batch)[1])


def test_missing_forward_is_reported():
    with pytest.raises(NotImplementedError, match="Method has no forward"):
        make_method()(make_batch())


def test_reading_labels_of_a_label_free_batch_is_reported():
    batch = Batch(torch.zeros(2, 2, 3), None, torch.arange(2))
    for read in (lambda: batch.labels, lambda: batch.targets):
        with pytest.raises(RuntimeError, match=r"labels = False, and reads batch\.labels"):
            read()
    assert [len(tensor) for tensor in batch.tensors()] == [2, 2]
    assert batch.map(torch.Tensor.double).images.dtype == torch.float64
