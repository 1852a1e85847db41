"""How fast images come, and how fast they are learned from: python benchmarks/pipeline.py.

Everything is timed in one run: in each round each contender has its turn, in a process of its own.
The tables give medians over the rounds; a ratio is the median of the ratios in each round. CPU
seconds are those of the process, its threads and its workers; on a machine that others use too they
say more than the clock does.

Images are JPEG files, drawn here (500 x 375, about 90 KB, noise of all scales with edges) or given
with --images. They have just been written or are read before the first round, so that they come
from memory and not from a disk: what is measured is decoding. Contenders:

    field    what most training code does: PIL and torchvision's transforms, image by image, in a
             DataLoader with a worker for each core
    cold     ours, the first time: all images decoded into an empty cache, then the epoch
    cached   ours, every other time
    direct   ours without a cache

All make the same view of the same files: RandomResizedCrop(224), flip, normalise; to encode them,
the shorter side to 256 and the middle 224. Ours decode to squares of 256 first.
"""

import argparse
import json
import os
import platform
import resource
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deephash.data.catalogue import ImageSet, one_hot
from deephash.data.datamodule import DataModule
from deephash.data.sources.basic import Folder
from deephash.data.splits.protocols import PerClass
from deephash.data.transforms import (
    CenterCrop,
    ColorJitter,
    Normalize,
    Pipeline,
    RandomHorizontalFlip,
    RandomResizedCrop,
    Resize,
)
from deephash.losses.lmcl import LMCL
from deephash.methods.composed import Composed
from deephash.methods.relahash import Relative
from deephash.models.backbones import Tiny, Torchvision
from deephash.models.codebooks import Bernoulli
from deephash.models.encoder import Encoder
from deephash.models.heads import BatchNorm
from deephash.models.relaxations import Identity
from deephash.training.compile_options import compile_in_place
from deephash.training.precision import autocast
from deephash.training.step import TrainingStep
from deephash.types import Batch

CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
WIDTH, HEIGHT, QUALITY = 500, 375, 95  # of the files that are drawn
CLASSES, NBIT = 10, 64
STORED = 256  # side of the squares in the cache
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
CIFAR, EPOCHS = 5_000, 100  # training images and epochs of the RelaHash paper
TO_ENCODE = 59_000
OCTAVES = 9
CHUNK = 20  # steps between two looks at a CUDA device
THREADS = ("OMP", "MKL", "OPENBLAS", "NUMEXPR", "NUMBA", "VECLIB")

Request = dict[str, Any]


# Images


def draw_folder(folder: Path, count: int, seed: int) -> None:
    """So many JPEG files in class folders: parts of some larger pictures, mirrored or not."""
    from PIL import ImageOps

    rng = np.random.default_rng(seed)
    pictures = [picture(rng) for _ in range(max(1, min(32, count // 8)))]
    for number in range(count):
        place = folder / f"class{number % CLASSES}" / f"{number:06d}.jpg"
        place.parent.mkdir(parents=True, exist_ok=True)
        whole = pictures[rng.integers(len(pictures))]
        left, top = rng.integers(whole.width - WIDTH), rng.integers(whole.height - HEIGHT)
        part = whole.crop((left, top, left + WIDTH, top + HEIGHT))
        part = ImageOps.mirror(part) if rng.random() < 0.5 else part
        part.save(place, quality=QUALITY)


def picture(rng: np.random.Generator) -> Any:
    """Noise that fades with its frequency, as in photographs, and shapes with edges upon it."""
    from PIL import Image, ImageDraw

    size = (WIDTH + 140, HEIGHT + 105)
    total = np.zeros((size[1], size[0], 3), np.float32)
    for octave in range(1, OCTAVES + 1):
        wide = 2**octave
        noise = rng.standard_normal((max(2, wide * 3 // 4), wide, 3), dtype=np.float32)
        noise += noise.mean(axis=2, keepdims=True)  # most of it is no colour
        for channel in range(3):
            plane = Image.fromarray(noise[..., channel]).resize(size, Image.Resampling.BICUBIC)
            total[..., channel] += np.asarray(plane) * 2 ** (-0.3 * octave)
    total *= 52 / total.std()
    image = Image.fromarray((total + 128).clip(0, 255).astype(np.uint8))
    pen = ImageDraw.Draw(image)
    for _ in range(12):
        left, top, *side = (int(n) for n in rng.integers([0, 0, 10, 10], [*size, 120, 120]))
        shape = (pen.rectangle, pen.ellipse)[rng.integers(2)]
        shape(
            [left, top, left + side[0], top + side[1]],
            fill=tuple(int(n) for n in rng.integers(0, 256, 3)),
        )
    return image


def read_all(folder: Path) -> tuple[int, int]:
    """How many files there are and their bytes; they are in the page cache afterwards."""
    sizes = [len(file.read_bytes()) for file in folder.rglob("*") if file.is_file()]
    return len(sizes), sum(sizes)


# Batches


class Arrays:
    """Images of noise as if they were CIFAR-10, in memory."""

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


def module(request: Request, source: Any, cifar: bool = False) -> DataModule:
    """Our data: every image is of the database; all but one of a class train."""
    size, normal = request["size"], Normalize(MEAN, STD)
    train = [RandomResizedCrop(size), RandomHorizontalFlip(), normal]
    test = [Resize(STORED), CenterCrop(size), normal]
    if cifar:  # conf/dataset/cifar10.yaml
        jitter = ColorJitter(brightness=0.05, contrast=0.05)
        train, test = [Resize(size), RandomHorizontalFlip(), jitter, normal], [Resize(size), normal]
    data = DataModule(
        "pipeline", source, PerClass(queries=1, train=None), "all", Pipeline(train), Pipeline(test),
        batch_size=request["batch"], eval_batch_size=request["encode"],
    )  # fmt: skip
    data.setup(request["device"])
    return data


def source(request: Request, cached: bool = True, cache: str | None = None) -> Folder:
    """The folder of images as ours reads it."""
    return Folder(
        request["images"], size=STORED, cache=cache or request["cache"],
        workers=request["workers"], cached=cached,
    )  # fmt: skip


def epochs(data: DataModule, train: bool) -> Iterator[Iterator[Batch]]:
    """Ours, epoch by epoch."""
    for number in range(sys.maxsize):
        every = np.arange(len(data.images))
        yield data.train(number) if train else data.eval_batches(every)


def field(request: Request, train: bool) -> Iterator[Iterator[Batch]]:
    """The field's, epoch by epoch."""
    from torchvision import transforms
    from torchvision.datasets import ImageFolder

    size, device = request["size"], torch.device(request["device"])
    steps = [transforms.Resize(STORED), transforms.CenterCrop(size)]
    if train:
        steps = [transforms.RandomResizedCrop(size), transforms.RandomHorizontalFlip()]
    steps += [transforms.ToTensor(), transforms.Normalize(MEAN, STD)]
    loader = torch.utils.data.DataLoader(
        ImageFolder(request["images"], transforms.Compose(steps)),
        request["batch" if train else "encode"], shuffle=train, num_workers=request["workers"],
        pin_memory=device.type == "cuda",
    )  # fmt: skip

    def batches() -> Iterator[Batch]:
        for images, classes in loader:
            labels = torch.eye(CLASSES, device=device)[classes.to(device, non_blocking=True)]
            images = images.to(device, non_blocking=True)
            yield Batch(images.unsqueeze(1), labels, torch.arange(len(images)))

    return (batches() for _ in range(sys.maxsize))


def coming(request: Request) -> Iterator[Iterator[Batch]]:
    """The epochs of a contender."""
    train = request["train"]
    if request["loader"] == "field":
        return field(request, train)
    return epochs(module(request, source(request, request["loader"] != "direct")), train)


# Measures; each in a process of its own


class Watch:
    """Seconds of the clock, and of all processors, while it is entered."""

    def __enter__(self) -> "Watch":
        self.began = time.perf_counter(), cpu_seconds()
        return self

    def __exit__(self, *_: object) -> None:
        self.wall = time.perf_counter() - self.began[0]
        self.cpu = cpu_seconds() - self.began[1]


def cpu_seconds() -> float:
    """Of this process, its threads, and the workers that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def wait_for(device: str) -> None:
    """Until a CUDA device has done all that it was given."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


def measure_loader(request: Request) -> dict[str, Any]:
    """One epoch of a contender's batches, and nothing done with them."""
    build = {"wall": 0.0, "cpu": 0.0}
    with tempfile.TemporaryDirectory(prefix="cold-", dir=request["cache"]) as empty:
        if request["loader"] == "cold":
            with Watch() as building:
                data = module(request, source(request, cache=empty))
            build = {"wall": building.wall, "cpu": building.cpu}
            every = epochs(data, request["train"])
        else:
            every = coming(request)
        with Watch() as watch:
            count = sum(len(batch.index) for batch in next(every))
            wait_for(request["device"])
    return {
        "images": count,
        "wall": watch.wall + build["wall"],
        "cpu": watch.cpu + build["cpu"],
        "build": build,
    }


@dataclass(frozen=True)
class Form:
    """How a training step is computed."""

    precision: str = "fp32"
    channels_last: bool = False
    compiled: bool = False
    fused: bool = False  # the optimizer

    def __str__(self) -> str:
        words = ["channels-last"] * self.channels_last + ["compiled"] * self.compiled
        return ", ".join([self.precision, *words, *["fused Adam"] * self.fused])


FORMS = {
    "fp32": Form(),
    "fp32-cl": Form(channels_last=True),
    "bf16": Form("bf16"),
    "bf16-cl": Form("bf16", True),
    "fp32-cl-compiled": Form(channels_last=True, compiled=True),
    "bf16-cl-compiled": Form("bf16", True, True),
    "fp32-cl-fused": Form(channels_last=True, fused=True),
    "bf16-cl-fused": Form("bf16", True, fused=True),
    "bf16-cl-compiled-fused": Form("bf16", True, True, True),
}


class Learner:
    """RelaHash on a backbone of random weights, in one form."""

    def __init__(self, request: Request, form: Form) -> None:
        torch.manual_seed(0)
        name, self.device, self.form = request["backbone"], torch.device(request["device"]), form
        trunk = Tiny() if name == "tiny" else Torchvision(name, weights="none")
        self.method = Composed(
            Encoder(trunk, BatchNorm(trunk.out_features, NBIT)), Identity(),
            Bernoulli(CLASSES, NBIT, seed=0), Relative(),
            LMCL(CLASSES, NBIT, scale=50, margin=0.5),
        ).to(self.device)  # fmt: skip
        if form.channels_last:
            self.method.encoder.to(memory_format=torch.channels_last)
        if form.compiled:
            compile_in_place(self.method, self.device)
        self.optimizer = torch.optim.Adam(
            self.method.parameters(), lr=1e-4, weight_decay=5e-4, fused=form.fused
        )
        self.step = TrainingStep(self.method, self.optimizer, self.device, form.precision)

    def learn(self, batch: Batch) -> None:
        """One step of training, as the trainer takes it."""
        self.step(batch)

    def encode(self, batch: Batch) -> Tensor:
        """Codes, as an evaluation makes them."""
        with autocast(self.device, self.form.precision):
            return self.method.encoder.encode(batch.flat()).float().to("cpu", non_blocking=True)

    def uses(self, train: bool) -> Callable[[Batch], Any]:
        """What is done with a batch."""
        self.method.train(train)
        return self.learn if train else torch.inference_mode()(self.encode)


def noise(request: Request, size: int) -> Batch:
    """A batch that lies on the device."""
    draw = torch.Generator().manual_seed(0)
    images = torch.randn(size, 1, 3, request["size"], request["size"], generator=draw)
    labels = torch.eye(CLASSES)[torch.arange(size) % CLASSES]
    device = request["device"]
    return Batch(images.to(device), labels.to(device), torch.arange(size))


def measure_step(request: Request) -> dict[str, Any]:
    """Steps of training and encoding, over and over on one batch."""
    learner = Learner(request, FORMS[request["form"]])
    found: dict[str, Any] = {}
    for name, train in (("train", True), ("encode", False)):
        batch = noise(request, request["batch" if train else "encode"])
        use = learner.uses(train)
        with Watch() as first:
            use(batch)
            wait_for(request["device"])
        for _ in range(2):
            use(batch)
        wait_for(request["device"])
        chunk = CHUNK if learner.device.type == "cuda" else 1
        done, began = 0, time.perf_counter()
        with Watch() as watch:
            while not done or time.perf_counter() - began < request["seconds"]:
                for _ in range(chunk):
                    use(batch)
                wait_for(request["device"])
                done += chunk * len(batch.index)
        found[name] = {"images": done, "wall": watch.wall, "cpu": watch.cpu, "first": first.wall}
    if learner.device.type == "cuda":
        found["peak_mb"] = torch.cuda.max_memory_allocated(learner.device) / 1e6
    return found


def fed(
    use: Callable[[Batch], Any], every: Iterable[Iterator[Batch]], request: Request
) -> dict[str, Any]:
    """Uses batches as they come until the time is up; how much of it was waiting for them.

    On a CUDA device the wait is the host's: the device may still be computing meanwhile. The clock
    starts at the third batch.
    """
    waited, done, steps, began = 0.0, 0, 0, time.perf_counter()
    usage: list[int] = []
    watch = Watch()
    for batches in every:
        while True:
            asked = time.perf_counter()
            batch = next(batches, None)
            if batch is None:
                waited += time.perf_counter() - asked
                break
            waited += time.perf_counter() - asked
            use(batch)
            done, steps = done + len(batch.index), steps + 1
            if steps == 2:
                wait_for(request["device"])
                waited, done, began = 0.0, 0, time.perf_counter()
                watch.__enter__()
            if steps > 2 and steps % CHUNK == 0 and (busy := utilisation(request["device"])):
                usage.append(busy)
            if steps > 4 and time.perf_counter() - began > request["seconds"]:
                wait_for(request["device"])
                watch.__exit__()
                found = {"images": done, "wall": watch.wall, "cpu": watch.cpu, "waited": waited}
                return found | {"utilisation": statistics.mean(usage) if usage else None}
    raise AssertionError("there is always another epoch")


def utilisation(device: str) -> int | None:
    """Percent of the last moments in which the device ran a kernel, as its driver tells."""
    if torch.device(device).type != "cuda" or find_spec("pynvml") is None:
        return None
    try:
        return torch.cuda.utilization(device)
    except Exception:  # the driver's library is its own business
        return None


def measure_wait(request: Request) -> dict[str, Any]:
    """A loop of training that is fed by a contender."""
    learner = Learner(request, FORMS[request["form"]])
    return fed(learner.uses(True), coming(request), request)


def measure_cifar(request: Request) -> dict[str, Any]:
    """Training at batch 16 and encoding of images of 32 x 32, data and all."""
    request = request | {"batch": 16}
    data = module(request, Arrays(max(CIFAR // 10, 4 * request["encode"])), cifar=True)
    learner = Learner(request, FORMS[request["form"]])
    return {
        name: fed(learner.uses(train), epochs(data, train), request)
        for name, train in (("train", True), ("encode", False))
    }


def measure_profile(request: Request) -> dict[str, Any]:
    """What a loop of training spends its time on: the operators with most, and no kernel at all."""
    from torch.autograd import DeviceType
    from torch.profiler import ProfilerActivity, profile

    learner = Learner(request, FORMS[request["form"]])
    use, every = learner.uses(True), coming(request)
    batches = (batch for epoch in every for batch in epoch)
    for _ in range(3):
        use(next(batches))
    wait_for(request["device"])
    on_cuda = learner.device.type == "cuda"
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * on_cuda
    with profile(activities=activities) as seen, Watch() as watch:
        for _ in range(CHUNK if on_cuda else 2):
            use(next(batches))
        wait_for(request["device"])
    kind = DeviceType.CUDA if on_cuda else DeviceType.CPU
    rows = [
        (row.key, row.count, (row.self_device_time_total if on_cuda else row.self_cpu_time_total))
        for row in seen.key_averages()
        if row.device_type == kind and not getattr(row, "is_user_annotation", False)
    ]
    rows.sort(key=lambda row: -row[2])
    return {
        "wall": watch.wall,
        "busy": sum(row[2] for row in rows) / 1e6,
        "rows": [(name[:70], count, time / 1e6) for name, count, time in rows[:12]],
    }


def measure_transfer(request: Request) -> dict[str, Any]:
    """Bytes a second from the host to a CUDA device, from memory as it is and from pinned."""
    found = {}
    for name, pinned in (("pageable", False), ("pinned", True)):
        source = torch.zeros(256 << 20, dtype=torch.uint8, pin_memory=pinned)
        target = torch.empty_like(source, device=request["device"])
        for _ in range(2):
            wait_for(request["device"])
            began = time.perf_counter()
            target.copy_(source, non_blocking=True)
            wait_for(request["device"])
            found[name] = source.nbytes / (time.perf_counter() - began)
    return found


def measure_memory(request: Request) -> dict[str, Any]:
    """What building the cache and an epoch from it take; bytes."""
    with tempfile.TemporaryDirectory(prefix="memory-", dir=request["cache"]) as empty:
        with Watch() as build:
            data = module(request, source(request, cache=empty))
        after_build = memory("VmHWM")
        stored = sum(file.stat().st_size for file in Path(empty).rglob("*") if file.is_file())
        own, mapped = [memory("RssAnon")], [memory("RssFile")]
        for _ in data.train(0):
            own.append(memory("RssAnon"))
            mapped.append(memory("RssFile"))
        return {
            "images": len(data.images), "stored": stored,
            "build": {"wall": build.wall, "cpu": build.cpu},
            "peak_build": after_build, "own": max(own), "mapped": max(mapped) - mapped[0],
            "before": own[0],
        }  # fmt: skip


def memory(name: str) -> int:
    """Bytes, of this process's status: VmHWM at most, RssAnon its own, RssFile mapped files."""
    status = Path("/proc/self/status")
    rows = status.read_text().splitlines() if status.exists() else []
    return sum(int(row.split()[1]) * 1024 for row in rows if row.startswith(name + ":"))


MEASURES = {
    "loader": measure_loader,
    "step": measure_step,
    "wait": measure_wait,
    "cifar": measure_cifar,
    "profile": measure_profile,
    "transfer": measure_transfer,
    "memory": measure_memory,
}


def measured(request: Request) -> dict[str, Any]:
    """What a contender's process does."""
    torch.set_num_threads(request["threads"])
    return MEASURES[request["measure"]](request)


def spawn(request: Request) -> dict[str, Any]:
    """Measure in a new process; what goes wrong there is a field ``failed``."""
    environment = os.environ | {f"{name}_NUM_THREADS": str(request["threads"]) for name in THREADS}
    if torch.device(request["device"]).type != "cuda":
        environment["CUDA_VISIBLE_DEVICES"] = ""
    done = subprocess.run(
        [sys.executable, __file__, "--child"],
        input=json.dumps(request), env=environment, text=True, capture_output=True,
    )  # fmt: skip
    if done.returncode:
        told = done.stderr.strip().splitlines() or [f"ended with {done.returncode}"]
        return {"failed": told[-1]}
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


# Rounds


@dataclass
class Entry:
    """A contender and what its rounds gave."""

    name: str
    request: Request
    rounds: list[dict[str, Any]]
    failed: str = ""

    def rates(self, part: str | None, clock: str) -> list[float]:
        """Images a second of each round."""
        rounds = [one if part is None else one[part] for one in self.rounds]
        return [one["images"] / one[clock] for one in rounds]

    def median(self, *path: str) -> float:
        """Of a number that lies so deep in each round."""
        values = []
        for found in self.rounds:
            for key in path:
                found = found[key]
            values.append(found)
        return statistics.median(values)


def go_round(section: str, requests: dict[str, Request], rounds: int) -> list[Entry]:
    """Each contender once in each round."""
    entries = [Entry(name, request, []) for name, request in requests.items()]
    for number in range(rounds):
        for entry in (one for one in entries if not one.failed):
            got = spawn(entry.request)
            entry.failed = got.get("failed", "")
            if not entry.failed:
                entry.rounds.append(got)
            told = f"{section}, round {number + 1} of {rounds}: {entry.name}"
            print(f"{told}: {entry.failed or 'done'}", file=sys.stderr, flush=True)
    return entries


def ratio(over: Entry, under: Entry | None, part: str | None, clock: str) -> str:
    """The median of the ratios of their speeds in each round."""
    if under is None or not under.rounds:
        return "–"
    pairs = zip(over.rates(part, clock), under.rates(part, clock), strict=False)
    return figure(statistics.median(a / b for a, b in pairs))


def rate(entry: Entry, part: str | None, clock: str) -> str:
    """Images a second."""
    return figure(statistics.median(entry.rates(part, clock)))


# Sections; each gives a table


@dataclass(frozen=True)
class Section:
    """What is measured, and how it is laid out."""

    title: str
    requests: Callable[[argparse.Namespace, Request], dict[str, Request]]
    table: Callable[[list[Entry], argparse.Namespace], list[list[str]]]
    notes: Callable[[list[Entry], argparse.Namespace], list[str]] = lambda entries, options: []
    once: bool = False  # no rounds
    cuda: bool = False  # nothing without it


def first_of(entries: Iterable[Entry], name: str) -> Entry | None:
    """The entry of that name."""
    return next((entry for entry in entries if entry.name == name), None)


def ask_loaders(options: argparse.Namespace, base: Request) -> dict[str, Request]:
    """Each contender, to train from and to encode."""
    asked = {}
    for use, train in (("train", True), ("encode", False)):
        for loader in ("field", *["cold"] * train, "cached", "direct"):
            asked[f"{use}: {loader}"] = base | {
                "measure": "loader", "loader": loader, "train": train,
            }  # fmt: skip
    return asked


def show_loaders(entries: list[Entry], options: argparse.Namespace) -> list[list[str]]:
    """A row for each contender."""
    rows = [["batches for", "images/s", "images per CPU s", "× field, clock", "× field, CPU",
             "wall s", "CPU s"]]  # fmt: skip
    for entry in entries:
        usual = first_of(entries, entry.name.partition(":")[0] + ": field")
        rows.append(
            [entry.name, rate(entry, None, "wall"), rate(entry, None, "cpu"),
             ratio(entry, usual, None, "wall"), ratio(entry, usual, None, "cpu"),
             figure(entry.median("wall")), figure(entry.median("cpu"))]
        )  # fmt: skip
    return rows


def note_loaders(entries: list[Entry], options: argparse.Namespace) -> list[str]:
    """What the files are, and what the cache cost."""
    cold = first_of(entries, "train: cold")
    if cold is None:
        return []
    wall, cpu = cold.median("build", "wall"), cold.median("build", "cpu")
    count, size = options.found
    return [
        f"{count:,} files of {size / count / 1e3:.0f} KB on average, in the page cache; "
        f"{options.workers} workers or decoding threads",
        f"cold is building the cache, {figure(wall)} s ({figure(cpu)} CPU s), and the epoch",
    ]


def ask_waits(options: argparse.Namespace, base: Request) -> dict[str, Request]:
    """Each backbone, fed by the field's loader and by ours."""
    return {
        f"{backbone}, {FORMS[form]}: {loader}": base | {
            "measure": "wait", "loader": loader, "train": True, "backbone": backbone, "form": form,
        }
        for backbone in options.backbones
        for form in options.fed
        for loader in ("field", "cached")
    }  # fmt: skip


def show_waits(entries: list[Entry], options: argparse.Namespace) -> list[list[str]]:
    """A row for each backbone and loader."""
    rows = [["training fed by", "images/s", "× field", "share of waiting", "GPU busy"]]
    for entry in entries:
        usual = first_of(entries, entry.name.partition(":")[0] + ": field")
        share = statistics.median(one["waited"] / one["wall"] for one in entry.rounds)
        busy = [one["utilisation"] for one in entry.rounds if one["utilisation"] is not None]
        rows.append(
            [entry.name, rate(entry, None, "wall"), ratio(entry, usual, None, "wall"),
             f"{share:.1%}", f"{statistics.median(busy):.0f} %" if busy else "–"]
        )  # fmt: skip
    return rows


def note_waits(entries: list[Entry], options: argparse.Namespace) -> list[str]:
    """What is meant by waiting."""
    return [
        f"batches of {options.batch_size}; the wait is the host's, by the clock; how busy a GPU is "
        "is what its driver says, if nvidia-ml-py is installed"
    ]


def ask_steps(options: argparse.Namespace, base: Request) -> dict[str, Request]:
    """Each backbone in each form."""
    return {
        f"{backbone}: {FORMS[form]}": base | {
            "measure": "step", "backbone": backbone, "form": form,
        }
        for backbone in options.backbones
        for form in options.forms
    }  # fmt: skip


def show_steps(entries: list[Entry], options: argparse.Namespace) -> list[list[str]]:
    """A row for each form."""
    clock = "wall" if on_cuda(options) else "cpu"
    per = "" if on_cuda(options) else " per CPU s"
    rows = [["form", f"train: images{per or '/s'}", "× fp32", "encode", "× fp32", "first step s",
             "first encoding s", "peak MB"]]  # fmt: skip
    for entry in entries:
        plain = first_of(entries, f"{entry.request['backbone']}: {FORMS['fp32']}")
        rows.append(
            [entry.name, rate(entry, "train", clock), ratio(entry, plain, "train", clock),
             rate(entry, "encode", clock), ratio(entry, plain, "encode", clock),
             figure(entry.median("train", "first")), figure(entry.median("encode", "first")),
             figure(entry.median("peak_mb")) if on_cuda(options) else "–"]
        )  # fmt: skip
    return rows


def note_steps(entries: list[Entry], options: argparse.Namespace) -> list[str]:
    """What was computed."""
    return [
        f"batches of {options.batch_size} to train and {options.encode_size} to encode, "
        f"{options.size} px, on the device already; {options.threads} threads; Adam"
    ]


def ask_cifar(options: argparse.Namespace, base: Request) -> dict[str, Request]:
    """Each backbone in the forms that are fed."""
    return {
        f"{backbone}: {FORMS[form]}": base | {
            "measure": "cifar", "backbone": backbone, "form": form,
        }
        for backbone in options.backbones
        for form in options.fed
    }  # fmt: skip


def show_cifar(entries: list[Entry], options: argparse.Namespace) -> list[list[str]]:
    """A row for each form, with the paper's run scaled from it."""
    rows = [["form", "train: images/s", "waiting", "GPU busy", f"{EPOCHS} epochs",
             "encode: images/s", "waiting", "GPU busy", f"{TO_ENCODE:,} images"]]  # fmt: skip
    for entry in entries:
        row = [entry.name]
        for part, images in (("train", EPOCHS * CIFAR), ("encode", TO_ENCODE)):
            speed = statistics.median(entry.rates(part, "wall"))
            share = statistics.median(one[part]["waited"] / one[part]["wall"]
                                      for one in entry.rounds)  # fmt: skip
            busy = [one[part]["utilisation"] for one in entry.rounds]
            shown = "–" if None in busy else f"{statistics.median(busy):.0f} %"
            row += [figure(speed), f"{share:.1%}", shown, clock(images / speed)]
        rows.append(row)
    return rows


def note_cifar(entries: list[Entry], options: argparse.Namespace) -> list[str]:
    """What was computed."""
    return [
        f"32 px enlarged to {options.size}; training at batch 16, encoding at "
        f"{options.encode_size}; {CIFAR:,} training images; the times are scaled from the speeds"
    ]


def ask_profile(options: argparse.Namespace, base: Request) -> dict[str, Request]:
    """Each backbone in the forms that are fed."""
    return {
        f"{backbone}: {FORMS[form]}": base | {
            "measure": "profile", "loader": "cached", "train": True, "backbone": backbone,
            "form": form,
        }
        for backbone in options.backbones
        for form in options.fed
    }  # fmt: skip


def show_profile(entries: list[Entry], options: argparse.Namespace) -> list[list[str]]:
    """The operators that take most, under each form."""
    rows = [["training", "operator", "calls", "share of the time"]]
    for entry in entries:
        found = entry.rounds[0]
        idle = "no kernel runs" if on_cuda(options) else "outside of operators"
        rows.append([entry.name, idle, "", f"{1 - found['busy'] / found['wall']:.1%}"])
        for name, count, seconds in found["rows"]:
            rows.append(["", f"`{name}`", f"{count:,}", f"{seconds / found['wall']:.1%}"])
    return rows


def show_transfer(entries: list[Entry], options: argparse.Namespace) -> list[list[str]]:
    """A row for each kind of memory."""
    rows = [["host memory", "GB/s to the device", "images of 3 x 256 x 256 a second"]]
    for name in ("pageable", "pinned"):
        speed = entries[0].median(name)
        rows.append([name, figure(speed / 1e9), figure(speed / (3 * STORED**2))])
    return rows


def show_memory(entries: list[Entry], options: argparse.Namespace) -> list[list[str]]:
    """A row for each cost."""
    (entry,) = entries
    count, scale = entry.median("images"), options.scale
    each = entry.median("stored") / count
    seconds = {name: entry.median("build", name) / count for name in ("wall", "cpu")}
    held = entry.median("own") - entry.median("before")
    return [
        ["", f"measured on {count:,.0f}", f"scaled to {scale:,}"],
        ["cache, bytes an image", f"{each:,.0f}", f"{each * scale / 1e9:.1f} GB in all"],
        ["building the cache, clock", f"{figure(seconds['wall'] * count)} s",
         clock(seconds["wall"] * scale)],
        ["building the cache, CPU", f"{figure(seconds['cpu'] * count)} s",
         clock(seconds["cpu"] * scale)],
        ["most memory while building, all kinds", mb(entry.median("peak_build")), "not scaled"],
        ["own memory in an epoch", mb(entry.median("own")), f"of it batches: {mb(held)}"],
        ["pages of the cache that an epoch maps", mb(entry.median("mapped")),
         f"{entry.median('mapped') / count * scale / 1e9:.1f} GB, given back when others need it"],
    ]  # fmt: skip


SECTIONS = {
    "loaders": Section("Batches alone", ask_loaders, show_loaders, note_loaders),
    "waits": Section("Training that is fed", ask_waits, show_waits, note_waits),
    "steps": Section("Forms of the step", ask_steps, show_steps, note_steps),
    "cifar": Section("CIFAR-10 as in the paper", ask_cifar, show_cifar, note_cifar),
    "profile": Section("What a step is made of", ask_profile, show_profile, once=True),
    "transfer": Section(
        "Host to device", lambda _, base: {"transfer": base | {"measure": "transfer"}},
        show_transfer, cuda=True,
    ),
    "memory": Section(
        "Memory and cost", lambda _, base: {"memory": base | {"measure": "memory"}}, show_memory,
        once=True,
    ),
}  # fmt: skip


def figure(value: float) -> str:
    """Three digits that count."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def mb(value: float) -> str:
    """Bytes in millions."""
    return f"{value / 1e6:,.0f} MB"


def clock(seconds: float) -> str:
    """Seconds, minutes or hours."""
    if seconds < 120:
        return f"{figure(seconds)} s"
    return f"{figure(seconds / 60)} min" if seconds < 7200 else f"{figure(seconds / 3600)} h"


def on_cuda(options: argparse.Namespace) -> bool:
    """Whether a CUDA device computes."""
    return torch.device(options.device).type == "cuda"


def laid_out(rows: list[list[str]]) -> str:
    """Markdown."""
    lines = [rows[0], ["---"] * len(rows[0]), *rows[1:]]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def run_section(name: str, options: argparse.Namespace, base: Request) -> tuple[str, list[Entry]]:
    """Measures a section; its text."""
    section = SECTIONS[name]
    if section.cuda and not on_cuda(options):
        return f"### {section.title}\n\nNot measured: no CUDA device.\n", []
    rounds = 1 if section.once else options.rounds
    entries = go_round(name, section.requests(options, base), rounds)
    whole = [entry for entry in entries if entry.rounds]
    lines = [f"### {section.title}", ""]
    if whole:
        lines += [laid_out(section.table(whole, options)), ""]
        lines += [f"- {note}" for note in section.notes(whole, options)]
    lines += [f"- {entry.name}: {entry.failed}" for entry in entries if entry.failed]
    return "\n".join([*lines, ""]), entries


# The run


def machine(options: argparse.Namespace) -> str:
    """Where and with what this is measured."""
    info = Path("/proc/cpuinfo")
    rows = info.read_text().splitlines() if info.exists() else []
    models = [row.partition(":")[2].strip() for row in rows if row.startswith("model name")]
    told = [models[0] if models else platform.processor() or platform.machine(), f"{CORES} cores"]
    told.append(f"load {os.getloadavg()[0]:.1f} before")
    told.append(torch.backends.cpu.get_cpu_capability())
    if on_cuda(options):
        told += [torch.cuda.get_device_name(options.device), f"CUDA {torch.version.cuda}"]
    else:
        told.append("no GPU: figures of one were not measured")
    told.append(f"Python {platform.python_version()}")
    for package in ("torch", "torchvision", "numpy", "PIL"):
        told.append(f"{package} {__import__(package).__version__}")
    return ", ".join(told)


def parsed(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    add = parser.add_argument
    add("--work", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    add("--images", type=Path, help="a folder of class folders; else images are drawn")
    add("--number", type=int, default=1_000, help="of images to draw")
    add("--backbones", nargs="+", default=["alexnet", "resnet18", "resnet50"])
    add("--forms", nargs="+", choices=FORMS, default=list(FORMS))
    add("--fed", nargs="+", choices=FORMS, help="forms of the training that is fed")
    add("--batch-size", type=int, default=16)
    add("--encode-size", type=int, help="images in a batch to encode; else 64, on CUDA 256")
    add("--size", type=int, default=224)
    add("--rounds", type=int, default=3)
    add("--seconds", type=float, default=5, help="for a measurement of steps, or a few more")
    add("--workers", type=int, default=CORES)
    add("--threads", type=int, default=CORES)
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    add("--scale", type=int, default=133_503, help="images that memory and cost are scaled to")
    add("--seed", type=int, default=0)
    add("--json", type=Path, help="every measurement into this file")
    options = parser.parse_args(arguments)
    usual = ["fp32-cl", "bf16-cl-fused"] + ["bf16-cl-compiled-fused"] * on_cuda(options)
    options.fed = options.fed or usual
    options.encode_size = options.encode_size or (256 if on_cuda(options) else 64)
    return options


def main(arguments: Sequence[str]) -> int:
    """Prints the tables; 1 if a contender failed."""
    if list(arguments) == ["--child"]:
        print(json.dumps(measured(json.loads(sys.stdin.read()))))
        return 0
    options = parsed(arguments)
    command = shlex.join(["python", "benchmarks/pipeline.py", *arguments])
    print(f"{machine(options)}.\n{options.rounds} rounds, medians.\nCommand: {command}\n")
    failed, saved = False, {}
    with tempfile.TemporaryDirectory(prefix="deephash-") as temporary:
        folder = Path(temporary)
        if options.images is None:
            draw_folder(folder / "images", options.number, options.seed)
        images = options.images or folder / "images"
        options.found = read_all(images)
        base = {
            "images": str(images), "cache": str(folder), "device": options.device,
            "batch": options.batch_size, "encode": options.encode_size, "size": options.size,
            "workers": options.workers, "threads": options.threads, "seconds": options.seconds,
        }  # fmt: skip
        if {"loaders", "waits", "profile"} & set(options.work):
            source(base).load()  # so that it is there for those who find it
        for name in options.work:
            text, entries = run_section(name, options, base)
            print(text, flush=True)
            failed |= any(entry.failed for entry in entries)
            saved[name] = [asdict(entry) for entry in entries]
            if options.json:
                options.json.write_text(json.dumps({"command": command, "sections": saved}))
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
