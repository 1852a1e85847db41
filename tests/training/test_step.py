"""One training step in all its variants, compared with plain loops."""

import copy

import pytest
import torch
from torch import nn

from deephash.config.trial_builds import cpu_fp16_fault
from deephash.training import compile_options
from deephash.training.precision import gradient_scaler
from deephash.training.running_means import NotFiniteError, RunningMeans
from deephash.training.step import SCALE, SKIPPED, AccumulatingStep, TrainingStep
from deephash.types import Batch

CPU = torch.device("cpu")


class Fit(nn.Module):
    """A regression whose loss is a mean over images, with a factor on the gradient."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 2))
        self.factor = 1.0

    def forward(self, batch):
        z = self.layers(batch.images.flatten(1))
        with torch.autocast("cpu", enabled=False):
            return {"fit": self.factor * (z.float() - batch.labels).square().mean()}


def batches(*sizes):
    draw = torch.Generator().manual_seed(1)
    for size in sizes:
        images = torch.randn(size, 1, 3, 1, 1, generator=draw)
        yield Batch(images, torch.randn(size, 2, generator=draw), torch.arange(size))


def half(method, optimizer=None, **options):
    optimizer = optimizer or torch.optim.Adam(method.parameters(), lr=0.01)
    compile_options.fuse(optimizer, CPU)
    scaler = gradient_scaler(CPU, "fp16")
    return TrainingStep(method, optimizer, CPU, "fp16", scaler=scaler, **options), scaler


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.SGD])
def test_fp16_trains_as_fp32_does(kind):
    assert cpu_fp16_fault() == ""
    plain = Fit()
    mixed = copy.deepcopy(plain)
    exact = TrainingStep(plain, kind(plain.parameters(), lr=0.01), CPU)
    step, _ = half(mixed, kind(mixed.parameters(), lr=0.01))
    for batch in batches(*[16] * 20):
        one, other = exact(batch), step(batch)
        named = dict(zip(other.names, other.values.tolist(), strict=True))
        assert other.names == (*one.names, SCALE, SKIPPED)
        assert other.values[:3] == pytest.approx(one.values, rel=0.02)
        assert named[SKIPPED] == 0 and named[SCALE] == 2**16


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.SGD])
def test_an_overflow_of_fp16_skips_the_step_and_halves_the_scale(kind):
    method = Fit()
    step, scaler = half(method, kind(method.parameters(), lr=0.01), clip_norm=1.0)
    means, before = RunningMeans(), copy.deepcopy(method.state_dict())
    method.factor = 1e4
    means.add(1, step(next(batches(8))))
    assert all(map(torch.equal, before.values(), method.state_dict().values()))
    method.factor = 1.0
    means.add(2, norm := step(next(batches(8))))
    assert not any(map(torch.equal, before.values(), method.state_dict().values()))
    result = means.read()
    assert result[SKIPPED] == 0.5 and result[SCALE] == 1.5 * 2**15
    assert result["grad_norm"] == pytest.approx(norm.values[2].item())  # of the step that counts
    assert scaler.get_scale() == 2**15


def test_a_gradient_that_is_not_finite_at_the_smallest_scale_is_an_error():
    method, means = Fit(), RunningMeans()
    step, _ = half(method)
    method.layers[0].weight.register_hook(lambda gradient: gradient * float("nan"))
    for number in range(1, 18):
        means.add(number, step(next(batches(8))))
    with pytest.raises(NotFiniteError, match="grad_norm is not finite at step 17"):
        means.read()


@pytest.mark.parametrize("sizes", [(8, 8, 8), (8, 8, 4), (5,)])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_accumulated_batches_are_one_large_batch(sizes, precision):
    """Also if the last one is short, or if an epoch ends with fewer of them."""
    whole = Fit()
    parts = copy.deepcopy(whole)
    scalers = [gradient_scaler(CPU, precision) for _ in range(2)]
    step, small = (
        kind(method, torch.optim.SGD(method.parameters(), lr=0.1), CPU, precision, 0.5, scaler,
             **options)
        for kind, method, scaler, options in (
            (TrainingStep, whole, scalers[0], {}),
            (AccumulatingStep, parts, scalers[1], {"accumulate": 3}),
        )
    )  # fmt: skip
    given = list(batches(*sizes))
    joined = Batch(*(torch.cat([getattr(batch, name) for batch in given])
                     for name in ("images", "labels", "index")))  # fmt: skip
    results = [small(batch) for batch in given]
    if len(sizes) < 3:
        assert results[-1] is None
        results.append(small.finish())
    expected, result = step(joined), results[-1]
    assert results[:-1] == [None] * (len(results) - 1) and small.finish() is None
    assert result.names == expected.names
    tolerance = (
        {"rtol": 1e-2, "atol": 1e-3} if precision == "fp16" else {"rtol": 1e-5, "atol": 1e-6}
    )
    torch.testing.assert_close(result.values, expected.values, **tolerance)
    for one, other in zip(parts.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(one, other, **tolerance)
