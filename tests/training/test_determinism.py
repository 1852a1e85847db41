"""What is the same for all jobs."""

import pytest
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from deephash.training.precision import use_deterministic
from deephash.training.step import TrainingStep
from deephash.types import Batch, generator


@pytest.fixture(autouse=True)
def restored(monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    fills = torch.utils.deterministic.fill_uninitialized_memory
    yield
    use_deterministic(False)
    torch.utils.deterministic.fill_uninitialized_memory = fills


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.MaxPool2d(2),
            nn.Flatten(), nn.Dropout(0.5), nn.Linear(8 * 9, 4),
        )  # fmt: skip

    def forward(self, batch):
        z = self.layers(batch.flat())
        return {"fit": nn.functional.cross_entropy(z, batch.labels), "size": z.square().mean()}


def trained(fill):
    """All numbers of ten steps, and how often memory was filled in the last of them."""
    use_deterministic(True)
    torch.utils.deterministic.fill_uninitialized_memory = fill
    net, draw = Net(), generator(0, "fill")
    step = TrainingStep(net, torch.optim.Adam(net.parameters(), fused=True), torch.device("cpu"))
    rows = []
    for number in range(10):
        images = torch.randn(8, 1, 3, 8, 8, generator=draw)
        batch = Batch(images, torch.eye(4)[torch.arange(8) % 4], torch.arange(8))
        if number == 9:
            with profile(activities=[ProfilerActivity.CPU]) as profiled:
                rows.append(step(batch).values)
        else:
            rows.append(step(batch).values)
    count = sum(event.name == "aten::fill_" for event in profiled.events())
    return [*rows, *(value.clone() for value in net.state_dict().values())], count


def test_memory_that_is_not_filled_changes_no_bit_and_saves_an_operator_for_each_new_tensor():
    filled, fills = trained(fill=True)
    plain, count = trained(fill=False)
    again, _ = trained(fill=False)
    assert all(map(torch.equal, filled, plain))
    assert all(map(torch.equal, again, plain))
    assert count < 10 < fills - count


def test_deterministic_mode_does_not_fill_memory():
    torch.utils.deterministic.fill_uninitialized_memory = True
    use_deterministic(True)
    assert torch.are_deterministic_algorithms_enabled()
    assert not torch.backends.cudnn.benchmark
    assert not torch.utils.deterministic.fill_uninitialized_memory
    use_deterministic(False)
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.backends.cudnn.benchmark
