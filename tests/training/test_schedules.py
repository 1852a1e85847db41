import math

import pytest
import torch

from deephash.training.schedules import Constant, CosineDecay, Every, StepDecay, WarmupCosine

RATE = 0.1


def rates(scheduler_of, epochs):
    """Rates that a scheduler of PyTorch sets, epoch by epoch."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=RATE)
    scheduler, result = scheduler_of(optimizer), []
    for _ in range(epochs):
        result.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return result


@pytest.mark.parametrize("epochs", [1, 2, 5, 7, 10, 40, 99, 100])
@pytest.mark.parametrize(("at", "gamma"), [(0.8, 0.1), (0.3, 0.5), (1.0, 0.1)])
def test_step_is_that_of_pytorch(epochs, at, gamma):
    size = max(1, int(at * epochs))
    expected = rates(lambda o: torch.optim.lr_scheduler.StepLR(o, size, gamma), epochs)
    result = [RATE * StepDecay(at, gamma).factor(epoch, epochs) for epoch in range(epochs)]
    assert result == pytest.approx(expected, rel=1e-12)


def test_step_falls_once_at_eighty_of_a_hundred():
    factors = [StepDecay().factor(epoch, 100) for epoch in range(100)]
    assert factors[:80] == [1.0] * 80 and factors[80:] == [pytest.approx(0.1)] * 20


@pytest.mark.parametrize("epochs", [1, 5, 40])
def test_cosine_is_that_of_pytorch(epochs):
    expected = rates(lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, epochs), epochs)
    result = [RATE * CosineDecay().factor(epoch, epochs) for epoch in range(epochs)]
    assert result == pytest.approx(expected, rel=1e-9)
    assert CosineDecay().factor(0, epochs) == 1


@pytest.mark.parametrize(("every", "gamma"), [(30, 0.1), (20, 2 / 3), (1, 0.5)])
def test_every_is_that_of_pytorch(every, gamma):
    expected = rates(lambda o: torch.optim.lr_scheduler.StepLR(o, every, gamma), 100)
    result = [RATE * Every(every, gamma).factor(epoch, 100) for epoch in range(100)]
    assert result == pytest.approx(expected, rel=1e-9)


def test_cosine_may_end_above_zero():
    """Down to a hundredth, as PyTorch's eta_min has it."""
    low = torch.optim.lr_scheduler.CosineAnnealingLR
    expected = rates(lambda o: low(o, 50, eta_min=RATE / 100), 50)
    result = [RATE * CosineDecay(floor=0.01).factor(epoch, 50) for epoch in range(50)]
    assert result == pytest.approx(expected, rel=1e-9)


def test_constant():
    assert {Constant().factor(epoch, 10) for epoch in range(10)} == {1.0}


def test_warm_up_and_cosine_by_step():
    schedule = WarmupCosine(warmup=0.25, start=0.1, floor=0.2)
    factors = [schedule.factor(step / 4, 2) for step in range(9)]  # 4 steps an epoch, 2 to warm up
    assert factors[:3] == pytest.approx([0.1, 0.55, 1.0])
    cosine = [0.2 + 0.8 * 0.5 * (1 + math.cos(math.pi * k / 6)) for k in range(7)]
    assert factors[2:] == pytest.approx(cosine)
    assert WarmupCosine(warmup=0.0).factor(0, 3) == 1.0
