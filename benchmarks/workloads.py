"""Images, batches, methods and loops that the benchmarks of training measure."""

import contextlib
import inspect
import itertools
import os
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness import Values, configuration, cpu_seconds, synchronize
from torch.profiler import ProfilerActivity, profile

from deephash.config import build, requirements, schema
from deephash.data.catalogue import ImageSet, one_hot
from deephash.data.datamodule import DataModule
from deephash.data.splits.protocols import PerClass
from deephash.data.transforms import Pipeline
from deephash.training import compile_options, cuda_graphs
from deephash.training.evaluation import encode_images
from deephash.training.precision import autocast
from deephash.training.step import TrainingStep
from deephash.training.trainer import LoopOptions, Trainer
from deephash.types import Batch
from deephash.utils.run_paths import RunPaths

CLASSES = 10
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]

LAUNCHES = {"kernels": "LaunchKernel", "graphs": "GraphLaunch", "copies": "Memcpy",
            "fills": "Memset", "waits": "Synchronize"}  # fmt: skip
"""Calls of the CUDA runtime and driver, by a part of their names."""


# Images and batches


def cifar(side: int, *overrides: str) -> Values:
    """Return a configuration on CIFAR-10, enlarged to ``side``, with random weights."""
    common = ("dataset=cifar10", f"dataset.size={side}", "backbone.weights=none")
    return configuration(*common, *overrides)


class NoiseImages:
    """Source of random images in memory, of the size of CIFAR-10's."""

    def __init__(self, count: int) -> None:
        self.count = count

    def load(self) -> ImageSet:
        rng = np.random.default_rng(0)
        return ImageSet(
            inputs=rng.integers(0, 256, (self.count, 3, 32, 32), dtype=np.uint8),
            labels=one_hot(np.arange(self.count) % CLASSES, CLASSES),
            ids=tuple(map(str, range(self.count))),
            classes=tuple(map(str, range(CLASSES))),
        )


def data_module(
    source: Any, train: Sequence[Any], test: Sequence[Any], device: Any, *batch_sizes: int
) -> DataModule:
    """Return the data of a source: all images are in the database, one query of a class."""
    data = DataModule(
        "benchmark", source, PerClass(queries=1, train=None), "all", Pipeline(train),
        Pipeline(test), *batch_sizes,
    )  # fmt: skip
    data.setup(torch.device(device))
    return data


def noise_data(cfg: Values, count: int, device: Any, *batch_sizes: int) -> DataModule:
    """Return the data of ``NoiseImages``, transformed as a configuration says."""
    transforms = schema.parse(schema.Train, cfg).dataset.transforms
    train, test = ([build.part(step, "dataset.transforms") for step in steps]
                   for steps in (transforms.train, transforms.test))  # fmt: skip
    return data_module(NoiseImages(count), train, test, device, *batch_sizes)


def epochs_of(data: DataModule, train: bool) -> Iterator[Iterable[Batch]]:
    """Yield the batches of an epoch, to train or to encode all images, without end."""
    for number in itertools.count():
        yield data.train(number) if train else data.eval_batches(np.arange(len(data.images)))


def noise_batch(size: int, side: int, device: Any, views: int = 1) -> Batch:
    """Return a batch of random images on the device."""
    images = torch.randn(size, views, 3, side, side, generator=torch.Generator().manual_seed(0))
    labels = torch.eye(CLASSES)[torch.arange(size) % CLASSES]
    return Batch(*(values.to(device) for values in (images, labels, torch.arange(size))))


def usual_transform(*steps: Any) -> Any:
    """Return torchvision's transforms of one image: ``steps``, then a normalized tensor."""
    from torchvision import transforms

    return transforms.Compose([*steps, transforms.ToTensor(), transforms.Normalize(MEAN, STD)])


def usual_epochs(
    images: Any, device: Any, batch_size: int, workers: int, train: bool, drop_last: bool = False
) -> Iterator[Iterator[Batch]]:
    """Yield epochs of a DataLoader, as most training code has it, without end."""
    device = torch.device(device)
    loader = torch.utils.data.DataLoader(
        images, batch_size, shuffle=train, num_workers=workers, drop_last=drop_last,
        pin_memory=device.type == "cuda",
    )  # fmt: skip

    def batches() -> Iterator[Batch]:
        for pixels, classes in loader:
            labels = torch.eye(CLASSES, device=device)[classes.to(device, non_blocking=True)]
            views = pixels.to(device, non_blocking=True).unsqueeze(1)
            yield Batch(views, labels, torch.arange(len(views), device=device))

    return (batches() for _ in itertools.count())


# Loops


class Enough(Exception):
    """End a loop: the time of its measurement is over."""


class TimedBatches:
    """Endless batches with a clock, used as the data of a training loop.

    The clock starts after the warm-up; when the time is over, ``Enough`` is raised into the loop,
    so that it neither saves nor evaluates. The device is synchronized for the first steps, and
    then only a few times.

    Args:
        batches: without end.
        device: of the batches.
        window: seconds to measure.
        warm_up: steps before the clock starts.
        steps: measure this number of steps instead.
        on_start: called when the clock starts; on_stop: when it stops.

    Attributes:
        result: ``images``, ``steps``, ``wall`` and ``cpu`` seconds, ``rate`` in images per second,
            ``first``: seconds of the first step, ``waited``: seconds that the loop waited for
            batches, ``utilisation``: of a CUDA device in percent, None if unknown.
    """

    def __init__(
        self, batches: Iterable[Batch], device: Any, window: float = 0.0, warm_up: int = 12,
        steps: int = 0, on_start: Callable[[], Any] = lambda: None,
        on_stop: Callable[[], Any] = lambda: None,
    ) -> None:  # fmt: skip
        self.batches = iter(batches)
        self.device = torch.device(device)
        self.window, self.warm_up, self.steps = window, warm_up, steps
        self.on_start, self.on_stop = on_start, on_stop
        self.result: Values = {}

    def train(self, epoch: int) -> Iterator[Batch]:
        """Yield batches until the time is over."""
        images, waited, first, chunk = 0, 0.0, 0.0, 1
        utilisation: list[int] = []
        began, cpu = time.perf_counter(), 0.0
        for done in itertools.count(1 - self.warm_up):  # steps of the measurement
            if done == 1:
                synchronize(self.device)
                self.on_start()
                waited, began, cpu = 0.0, time.perf_counter(), cpu_seconds()
            requested = time.perf_counter()
            batch = next(self.batches)
            waited += time.perf_counter() - requested
            yield batch
            if done == 1 - self.warm_up:
                synchronize(self.device)
                first = time.perf_counter() - began
            if done < 1:
                continue
            images += len(batch.index)
            if done < self.steps if self.steps else done % chunk:
                continue
            if (percent := device_utilisation(self.device)) is not None:
                utilisation.append(percent)
            synchronize(self.device)
            seconds = time.perf_counter() - began
            if self.steps or seconds >= self.window:
                break
            if done == 1:
                chunk = max(1, min(50, int(self.window / 4 / seconds)))
        cpu = cpu_seconds() - cpu
        self.on_stop()
        self.result = {
            "images": images, "steps": done, "wall": seconds, "cpu": cpu,
            "rate": images / seconds, "first": first, "waited": waited,
            "utilisation": statistics.mean(utilisation) if utilisation else None,
        }  # fmt: skip
        raise Enough

    def eval_batches(self, ids: Any) -> Iterator[Batch]:
        """Yield batches to encode until the time is over."""
        return self.train(0)


def device_utilisation(device: torch.device) -> int | None:
    """Return the share of time in percent in which a CUDA device ran kernels, if it is known."""
    if device.type != "cuda" or find_spec("pynvml") is None:
        return None
    try:
        return torch.cuda.utilization(device)
    except Exception:  # the driver's library may fail in its own ways
        return None


class SilentLogger:
    """Logger that discards everything."""

    def scalars(self, *_: Any) -> None: ...

    def tick(self) -> None: ...


class Learner:
    """A method with its optimizer and trainer, built as a training run builds them.

    Args:
        cfg: resolved configuration of a run; ``cfg["trainer"]`` gives the form of the step.
        device: of the method; torch's device ``meta`` is possible.
        fused: fuse the optimizer, as runs do.
        num_train: number of training images.
        folder: for files of the trainer.
    """

    def __init__(
        self, cfg: Values, device: Any, fused: bool = True, num_train: int = 5_000,
        folder: str = os.devnull,
    ) -> None:  # fmt: skip
        typed, settings = schema.parse(schema.Train, cfg), cfg["trainer"]
        self.device, self.side = torch.device(device), cfg["dataset"]["size"]
        self.views = requirements.num_views(cfg["method"])
        torch.manual_seed(0)
        method = build.method(typed, CLASSES, num_train, pretrained=False)
        self.method: Any = method.to(self.device)
        if settings["channels_last"]:
            self.method.encoder.to(memory_format=torch.channels_last)
        if settings["compile"]:
            compile_options.compile_in_place(self.method, self.device)
        self.optimizer: Any = build.optimizer(typed, self.method)
        if fused:
            cpu = torch.device("cpu")
            compile_options.fuse(self.optimizer, cpu if self.device.type == "meta" else self.device)
        names = set(inspect.signature(LoopOptions).parameters) & set(settings)
        options = LoopOptions(**{name: settings[name] for name in names})
        capture = cuda_graphs.CudaCapture(self.device) if settings.get("graph") else None
        self.trainer = Trainer(
            RunPaths(Path(folder)), self.optimizer, build.part(typed.scheduler, "scheduler"),
            self.device, "", options, capture,
        )  # fmt: skip
        self.step = TrainingStep(self.method, self.optimizer, self.device, options.precision)
        self.autocast = partial(autocast, self.device, options.precision)

    def noise(self, size: int) -> Batch:
        """Return a batch of random images on the device."""
        return noise_batch(size, self.side, self.device, self.views)

    def run(self, use: str, batches: Iterable[Batch], window: float, warm_up: int) -> Values:
        """Measure ``train`` or ``encode``; see ``TimedBatches``."""
        loop = self.train if use == "train" else self.encode
        return loop(TimedBatches(batches, self.device, window, warm_up))

    def train(self, batches: Any) -> Values:
        """Train with the trainer's loop until the batches end it; return their result."""
        with contextlib.suppress(Enough):
            self.trainer.fit(self.method, batches, None, SilentLogger())  # type: ignore[arg-type]
        return batches.result

    def encode(self, batches: TimedBatches) -> Values:
        """Encode as an evaluation does until the batches end; return their result."""
        with contextlib.suppress(Enough):
            encode_images(self.method.encoder, batches, self.autocast, np.arange(1))
        return batches.result


# Profiles


def profile_training(learner: Learner, batches: Iterable[Batch], warm_up: int = 12) -> Values:
    """Profile training steps; see ``read_profile``, and ``ms``: milliseconds of a step."""
    cuda = learner.device.type == "cuda"
    activities = [ProfilerActivity.CPU]
    if cuda:
        activities.append(ProfilerActivity.CUDA)
    profiler = profile(activities=activities, acc_events=True)  # some releases warn without it
    result = learner.train(
        TimedBatches(
            batches, learner.device, warm_up=warm_up, steps=20 if cuda else 2,
            on_start=profiler.start, on_stop=profiler.stop,
        )
    )  # fmt: skip
    milliseconds = 1e3 * result["wall"] / result["steps"]
    return {"ms": milliseconds, **read_profile(profiler, result, cuda)}


def read_profile(profiler: Any, timing: Values, cuda: bool) -> Values:
    """Summarize a profile that has ended.

    Args:
        profiler: of torch.
        timing: ``wall`` seconds and ``steps`` while it ran.
        cuda: read kernels; otherwise operators of the CPU.

    Returns:
        ``calls`` of the runtime and ``operators`` per step; ``busy``: share of the time in which at
        least one kernel ran; ``device_ms``: this time per step; ``own_ms``: sum of the times of all
        kernels per step; ``top``: the kernels or operators with the largest times, with their
        calls per step and their share of the sum.

    Raises:
        RuntimeError: the profiler recorded no kernel.
    """
    from torch.autograd import DeviceType

    steps = timing["steps"]
    kind = DeviceType.CUDA if cuda else DeviceType.CPU
    averages = profiler.key_averages()
    rows = [row for row in averages if not is_annotation(row)]
    runtime = [row for row in rows
               if row.key.startswith("cu") and row.device_type == DeviceType.CPU]  # fmt: skip
    calls = {name: sum(row.count for row in runtime if part in row.key) / steps
             for name, part in LAUNCHES.items()}  # fmt: skip
    spans = sorted(
        (event.time_range.start, event.time_range.end)
        for event in profiler.events()
        if event.device_type == kind and not is_annotation(event)
    )
    if not spans:
        raise RuntimeError("the profiler recorded no kernel")
    own = "self_device_time_total" if cuda else "self_cpu_time_total"
    rows = [row for row in rows if row.device_type == kind]
    rows.sort(key=lambda row: -getattr(row, own))
    total = sum(getattr(row, own) for row in rows) or 1
    operators = sum(row.count for row in averages if row.key.startswith("aten::"))
    busy = union_length(spans)
    return {
        "calls": calls,
        "operators": operators / steps,
        "busy": busy / 1e6 / timing["wall"],
        "device_ms": busy / 1e3 / steps,
        "own_ms": total / 1e3 / steps,
        "top": [(row.key[:80], row.count / steps, getattr(row, own) / total) for row in rows[:12]],
    }


def is_annotation(event: Any) -> bool:
    """Return whether an event of a profile only marks a range of time."""
    name = getattr(event, "key", None) or getattr(event, "name", "")
    marks = ("ProfilerStep", "Optimizer.", "Torch-Compiled", "## Call", "gpu_user_annotation")
    return bool(getattr(event, "is_user_annotation", False)) or name.startswith(marks)


def union_length(spans: Iterable[tuple[float, float]]) -> float:
    """Return the length of a union of intervals that are sorted by their starts."""
    total, reached = 0.0, float("-inf")
    for start, stop in spans:
        total += max(0.0, stop - max(start, reached))
        reached = max(reached, stop)
    return total
