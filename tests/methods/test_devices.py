"""A training step of every recipe on each device, against float64 on the CPU."""

import copy

import pytest
import torch

from deephash.config import build
from deephash.training import compile_options
from tests.methods.worked import LEARNING, unfrozen
from tests.pages import typed

WORDS = [
    *([f"method={name}"] for name in LEARNING),
    ["method=hashnet", "method.loss.pairs=memory"],
    ["method=dpn", "method.loss.update_every=1"],
    ["method=relahash", "method.similarity.sqrt_bk=true"],
]
STEPS = 3
IMAGES = 16

BOUNDS = {torch.float64: (1e-9, 1e-9), torch.float32: (1e-3, 1e-2)}
"""Largest difference of a tensor relative to its norm: of the terms of the first step, and of its
gradients and of all that follows, for which a hinge or a ReLU may turn in float32 (one unit of a
wide head moves gradients by 4e-3). Measured on the CPU: 4e-6 and 4e-3."""

DEVICES = [
    ("cpu", torch.float32),
    pytest.param("cuda", torch.float32, marks=pytest.mark.gpu),
    pytest.param("cuda", torch.float64, marks=pytest.mark.gpu),
]


@pytest.fixture
def in_double(monkeypatch):
    """Objectives in float64 where the network is, and the same draws on every device."""
    in_single, draw = torch.Tensor.float, torch.Generator()

    def float_(tensor, *given, **named):
        return tensor if tensor.dtype == torch.float64 else in_single(tensor, *given, **named)

    def rand_like(tensor):
        drawn = torch.rand(tensor.shape, generator=draw, dtype=torch.float64)
        return drawn.to(tensor.device, tensor.dtype)

    monkeypatch.setattr(torch.Tensor, "float", float_)
    monkeypatch.setattr(torch, "rand_like", rand_like)
    return lambda: draw.manual_seed(0)


def trained(cfg, batch, device, dtype):
    """The terms of some steps, the gradients of the first, and all that is learned or counted."""
    method = build.method(typed(cfg), 10, 500).to(device, dtype)
    optimizer = build.optimizer(typed(cfg), method)
    compile_options.fuse(optimizer, device)
    batch = batch.map(
        lambda values: values.to(device, dtype if values.is_floating_point() else None)
    )
    method.train().on_epoch_start(0)
    terms, gradients = [], None
    for _ in range(STEPS):
        result = method(batch)
        torch.stack(list(result.values())).sum().backward()
        terms.append({key: term.item() for key, term in result.items()})
        gradients = gradients or {
            key: p.grad.detach().clone() for key, p in method.named_parameters()
        }
        optimizer.step()
        optimizer.zero_grad()
    return terms, gradients, method.state_dict()


def apart(one, other):
    """The largest difference of two dictionaries of tensors, and where it is.

    Relative to the norm of a tensor, but not of one that is rounding alone beside the others: the
    gradient of a bias that batch normalisation subtracts.
    """
    result = {"": 0.0}
    least = 1e-4 * max(value.double().norm().item() for value in other.values())
    for key, value in one.items():
        value, expected = value.cpu().double(), other[key].cpu().double()
        norm = expected.norm().item()
        result[key] = (value - expected).norm().item() / max(norm, least, 1e-6)
    worst = max(result, key=result.get)
    return result[worst], worst


@pytest.mark.parametrize(("device", "dtype"), DEVICES, indirect=["device"], ids=str)
@pytest.mark.parametrize("words", WORDS, ids=" ".join)
def test_a_step_is_the_same_on_every_device(words, dtype, device, composed, batch_for, in_double):
    cfg = unfrozen(composed(*words, "optimizer=sgd", "optimizer.lr=0.001"))
    some = batch_for(cfg).map(lambda values: values[:IMAGES])
    in_double()
    expected = trained(copy.deepcopy(cfg), some, torch.device("cpu"), torch.float64)
    in_double()
    result = trained(cfg, some, device, dtype)
    first, later = BOUNDS[dtype]
    for at, (mine, theirs) in enumerate(zip(result[0], expected[0], strict=True)):
        bound = later if at else first
        assert mine == pytest.approx(theirs, rel=bound, abs=bound * 1e-2)
    for which, bound in ((1, later), (2, later)):
        difference, where = apart(result[which], expected[which])
        assert difference <= bound, where
