"""A training step of every recipe on each device, against float64 on the CPU."""

import copy

import pytest
import torch

from deephash.config import build
from deephash.training import compile_options
from tests.methods.worked import LEARNING, unfrozen
from tests.pages import typed

OVERRIDES = [
    *([f"method={name}"] for name in LEARNING),
    ["method=hashnet", "method.loss.pairs=memory"],
    ["method=dpn", "method.loss.update_every=1"],
    ["method=relahash", "method.similarity.sqrt_bk=true"],
]
STEPS = 3
IMAGES = 16

BOUNDS = {torch.float64: (1e-9, 1e-9), torch.float32: (1e-3, 1e-2)}
"""Largest difference of a tensor relative to its norm, for the terms of the first step and for
everything after them: in float32 a hinge or a ReLU may have the other sign (one unit of a wide head
changes gradients by 4e-3). Measured on the CPU: 4e-6 and 4e-3."""

DEVICES = [
    ("cpu", torch.float32),
    pytest.param("cuda", torch.float32, marks=pytest.mark.gpu),
    pytest.param("cuda", torch.float64, marks=pytest.mark.gpu),
]


@pytest.fixture
def float64_losses(monkeypatch):
    """Keep float64 in losses, and draw the same random numbers on every device."""
    to_float32, rng = torch.Tensor.float, torch.Generator()

    def float_(tensor, *args, **kwargs):
        return tensor if tensor.dtype == torch.float64 else to_float32(tensor, *args, **kwargs)

    def rand_like(tensor):
        values = torch.rand(tensor.shape, generator=rng, dtype=torch.float64)
        return values.to(tensor.device, tensor.dtype)

    monkeypatch.setattr(torch.Tensor, "float", float_)
    monkeypatch.setattr(torch, "rand_like", rand_like)
    return lambda: rng.manual_seed(0)


def take_steps(cfg, batch, device, dtype):
    """Return the terms of three steps, the gradients of the first, and the final state."""
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


def largest_difference(result, expected):
    """The largest difference of two dictionaries of tensors, and its key.

    Relative to the norm of a tensor, with a lower bound for tensors that contain only rounding
    errors, such as the gradient of a bias that batch normalization subtracts.
    """
    differences = {"": 0.0}
    min_norm = 1e-4 * max(value.double().norm().item() for value in expected.values())
    for key, value in result.items():
        reference = expected[key].cpu().double()
        difference = (value.cpu().double() - reference).norm().item()
        differences[key] = difference / max(reference.norm().item(), min_norm, 1e-6)
    key = max(differences, key=differences.get)
    return differences[key], key


@pytest.mark.parametrize(("device", "dtype"), DEVICES, indirect=["device"], ids=str)
@pytest.mark.parametrize("overrides", OVERRIDES, ids=" ".join)
def test_step_matches_float64_on_cpu(overrides, dtype, device, composed, batch_for, float64_losses):
    cfg = unfrozen(composed(*overrides, "optimizer=sgd", "optimizer.lr=0.001"))
    batch = batch_for(cfg).map(lambda values: values[:IMAGES])
    float64_losses()
    expected = take_steps(copy.deepcopy(cfg), batch, torch.device("cpu"), torch.float64)
    float64_losses()
    result = take_steps(cfg, batch, device, dtype)
    first, later = BOUNDS[dtype]
    for step, (terms, expected_terms) in enumerate(zip(result[0], expected[0], strict=True)):
        bound = later if step else first
        assert terms == pytest.approx(expected_terms, rel=bound, abs=bound * 1e-2)
    for tensors, expected_tensors in zip(result[1:], expected[1:], strict=True):
        difference, key = largest_difference(tensors, expected_tensors)
        assert difference <= later, key
