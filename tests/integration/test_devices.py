"""Runs on each device: repeated, killed and resumed, moved to the other device, evaluated."""

import copy
import json
import os
import shutil
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch

from deephash import runs
from deephash.config import build
from deephash.config.overrides import parse_all
from deephash.loggers import Loggers
from deephash.training import checkpoint
from deephash.training.evaluation import encode_images
from deephash.training.precision import use_deterministic
from deephash.types import Batch
from tests.pages import composable, resolved, typed

WORDS = ["dataset=digits", "dataset.classes=[0,1,2]", "model.nbit=16", "backbone.width=8",
         "trainer.epochs=3", "trainer.eval_every=1", "trainer.batch_size=25",
         "logger=quiet"]  # fmt: skip
STEPS = 6
"""In an epoch of these runs."""

OTHERS = [("cpu", "cpu"), pytest.param("cpu", "cuda", marks=pytest.mark.gpu),
          pytest.param("cuda", "cpu", marks=pytest.mark.gpu)]  # fmt: skip


@pytest.fixture(autouse=True)
def as_before(without_tf32, without_curves):
    """Determinism is a setting of the whole process. Warnings are looked at where they matter."""
    fill = torch.utils.deterministic.fill_uninitialized_memory
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        yield
    use_deterministic(False)
    torch.utils.deterministic.fill_uninitialized_memory = fill
    torch.backends.cudnn.benchmark = False


@pytest.fixture(scope="module")
def folded():
    with composable():

        def fold(outputs, device, base=WORDS):
            words = [*base, f"trainer.device={device}", f"paths.outputs={outputs}"]
            return resolved(words), words

        yield fold


class Stopped(Exception):
    pass


def interrupted(cfg, words, step, monkeypatch):
    """Trains until a step in the middle of an epoch."""
    seen = []

    def tick(self):
        seen.append(1)
        if len(seen) == step:
            raise Stopped

    with monkeypatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(Loggers, "tick", tick)
        runs.train(typed(cfg), parse_all(words))


def states(outputs):
    """What ``last.pt`` and ``best.pt`` of the only run hold, tensor by tensor, without clocks."""
    (last,) = Path(outputs).rglob("last.pt")
    result = {}

    def walk(name, value):
        if isinstance(value, dict):
            for key, item in value.items():
                walk(f"{name}.{key}", item)
        elif isinstance(value, list | tuple):
            for at, item in enumerate(value):
                walk(f"{name}.{at}", item)
        elif "seconds" not in name:
            result[name] = value

    walk("last", checkpoint.load_state(last))
    walk("best", checkpoint.load_state(last.with_name("best.pt")))
    return result


def differences(first, second):
    """Sentences about what is not the same to the last bit."""
    assert first.keys() == second.keys()
    differing = []
    for key, value in first.items():
        if not isinstance(value, torch.Tensor):
            if value != second[key]:
                differing.append(f"{key}: {value} and {second[key]}")
        elif not torch.equal(value, second[key]):
            by = (value.double() - second[key].double()).abs().max().item()
            differing.append(f"{key}: by at most {by:.3g}")
    return differing


def causes(caught):
    """The operators that torch names as not deterministic."""
    operators = {str(warning.message).partition(" does not have")[0][:80] for warning in caught
            if "deterministic" in str(warning.message)}  # fmt: skip
    return f"torch names: {', '.join(sorted(operators)) or 'no operator'}"


KILLED = """
import json, os, signal, sys
import torch
from deephash import runs
from deephash.config import checks, schema
torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False  # as here
from deephash.loggers import Loggers
from deephash.config.overrides import parse_all
seen = []
def tick(self):
    seen.append(1)
    if len(seen) == int(sys.argv[1]):
        os.kill(os.getpid(), signal.SIGKILL)
Loggers.tick = tick
folded, words = json.load(sys.stdin)
overrides = parse_all(words)
runs.train(checks.parse_page(schema.Train, folded, overrides), overrides)
"""


def test_a_killed_run_ends_like_one_that_was_not(device, folded, tmp_path):
    """Killed by SIGKILL in its last epoch, in a process of its own; to the last bit.

    JMLH draws numbers on the device in each step.
    """
    base = [*WORDS, "method=jmlh"]
    cfg, words = folded(tmp_path / "killed", device, base)
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(2 * STEPS + 3)], input=json.dumps([cfg, words]),
        text=True, capture_output=True, env=os.environ | {"PYTHONWARNINGS": "ignore"},
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL, done.stderr
    (last,) = tmp_path.rglob("last.pt")
    assert checkpoint.load_state(last)["progress"]["epoch"] == 2
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        runs.train(typed(cfg), parse_all(words))
        cfg, words = folded(tmp_path / "straight", device, base)
        runs.train(typed(cfg), parse_all(words))
    result = differences(states(tmp_path / "killed"), states(tmp_path / "straight"))
    assert not result, f"{len(result)} differ, {'; '.join(result[:3])}; {causes(caught)}"


@pytest.mark.parametrize(("first", "then"), OTHERS)
def test_a_run_continues_on_another_device(first, then, folded, tmp_path, monkeypatch):
    """Its last epoch comes out alike on both; Adam's moments and counters are where they must."""
    interrupted(*folded(tmp_path / "moved", first), 2 * STEPS + 3, monkeypatch)
    shutil.copytree(tmp_path / "moved", tmp_path / "stayed", symlinks=True)
    reports = []
    for name, device in (("moved", then), ("stayed", first)):
        cfg, words = folded(tmp_path / name, device)
        reports.append(runs.train(typed(cfg), parse_all(words)))
    assert [report["training"]["device"] for report in reports] == [then, first]
    moved, stayed = (states(tmp_path / name) for name in ("moved", "stayed"))
    for key, value in moved.items():
        if not isinstance(value, torch.Tensor) or "rng" in key:
            continue
        assert value.device.type == "cpu", key
        if key.endswith("step"):
            assert value == stayed[key] == 3 * STEPS
        if key.startswith("last.method"):
            norm = stayed[key].double().norm().item()
            assert (value - stayed[key]).double().norm().item() <= 3e-2 * norm + 1e-6, key
    assert reports[0]["metrics"]["map"] == pytest.approx(reports[1]["metrics"]["map"], abs=0.02)


BACKBONES = [
    ("cpu", "squeezenet1_0", 64),
    *(
        pytest.param("cuda", name, 224, marks=pytest.mark.gpu)
        for name in ("squeezenet1_0", "alexnet", "resnet18")
    ),
]


@pytest.mark.parametrize(("device", "backbone", "side"), BACKBONES, indirect=["device"])
def test_a_deterministic_step_is_repeatable(device, backbone, side, folded, tmp_path):
    """Gradients of real networks twice, to the last bit."""
    words = ["dataset=cifar10", f"backbone={backbone}", "backbone.weights=none"]
    cfg, _ = folded(tmp_path, device, words)
    use_deterministic(True)
    method = build.method(typed(cfg), 10, 500).to(device, memory_format=torch.channels_last).train()
    images = torch.randn(8, 1, 3, side, side, generator=torch.Generator().manual_seed(0))
    batch = Batch(images.to(device), torch.eye(10)[:8].to(device), torch.arange(8, device=device))
    result = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(2):
            method.zero_grad()
            torch.stack(list(method(batch).values())).sum().backward()
            result.append({key: p.grad.cpu().clone() for key, p in method.named_parameters()})
    differing = differences(*result)
    assert not differing, (
        f"{len(differing)} gradients differ, {'; '.join(differing[:3])}; {causes(caught)}"
    )


def test_codes_are_the_same_where_they_are_not_close_to_zero(device, folded, tmp_path):
    """In float32 without TF32; against float64 on the CPU."""
    cfg, _ = folded(tmp_path, device)
    data = build.data_module(typed(cfg))
    data.setup("cpu")
    ids = data.split.database
    encoder = build.method(typed(cfg), 3, data.facts.num_train).encoder.eval()
    batch = next(iter(data.train(0)))
    for _ in range(20):  # so that batch normalisation knows its inputs
        encoder.train()(batch.flat())
    encoder.eval()
    with torch.inference_mode():
        exact = torch.cat([
            copy.deepcopy(encoder).double().encode(batch.flat().double())
            for batch in data.eval_batches(ids)
        ])  # fmt: skip
    data.setup(device)
    result = encode_images(encoder.to(device), data, warnings.catch_warnings, ids).z
    scale = exact.abs().mean()
    margin = 1e-4 * scale
    assert (result - exact).abs().max() <= margin
    clear = exact.abs() > margin
    assert clear.float().mean() > 0.999
    assert torch.equal((result >= 0)[clear], (exact >= 0)[clear])
