"""Measure how fast images are loaded, and how fast a network is trained on them.

In each round each contender runs once, in a process of its own. The tables contain medians over the
rounds; a ratio is the median of the ratios in each round. CPU seconds are those of the process, its
threads and its workers; on a machine with other programs they are more reliable than wall seconds.

Images are JPEG files, generated here (500 x 375, about 90 KB, noise of all scales with edges) or
given with --images. They have just been written, or are read before the first round, so that they
come from memory and not from a disk: decoding is measured. Contenders:

    field    the usual loader: PIL and torchvision's transforms, image by image, in a DataLoader
             with one worker for each core
    cold     deephash, the first time: all images are decoded into an empty cache, then the epoch
    cached   deephash, later
    direct   deephash without a cache

All make the same views of the same files: RandomResizedCrop(224), flip, normalize; to encode them,
the shorter side to 256 and the central 224. deephash decodes to squares of 256 first.
"""

import argparse
import itertools
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import harness
import numpy as np
import torch
import workloads
from harness import Report, Series, Stopwatch, Values, cores, duration, figure, synchronize, table
from workloads import CLASSES, MEAN, STD, Learner, data_module, epochs_of

from deephash.data.datamodule import DataModule
from deephash.data.sources.basic import Folder
from deephash.data.transforms import (
    CenterCrop,
    Normalize,
    RandomHorizontalFlip,
    RandomResizedCrop,
    Resize,
)
from deephash.types import Batch

WIDTH, HEIGHT, QUALITY = 500, 375, 95  # of the generated files
STORED = 256  # side of the squares in the cache
CIFAR, EPOCHS = 5_000, 100  # training images and epochs of the RelaHash paper
TO_ENCODE = 59_000
OCTAVES = 9

FORMS = ("fp32", "fp32-cl", "bf16", "bf16-cl", "fp32-cl-compiled", "bf16-cl-compiled",
         "fp32-cl-fused", "bf16-cl-fused", "bf16-cl-compiled-fused")  # fmt: skip
"""Forms of the training step: the precision; channels-last, a compiled network, a fused Adam."""

LABELS = {"cl": "channels-last", "fused": "fused Adam"}

Request = Values
Measured = dict[str, Series]
Options = argparse.Namespace


# Images


def draw_folder(folder: Path, count: int, seed: int) -> None:
    """Write JPEG files into class folders: parts of a few larger pictures, mirrored or not."""
    from PIL import ImageOps

    rng = np.random.default_rng(seed)
    pictures = [draw_picture(rng) for _ in range(max(1, min(32, count // 8)))]
    for number in range(count):
        file = folder / f"class{number % CLASSES}" / f"{number:06d}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        whole = pictures[rng.integers(len(pictures))]
        left, top = rng.integers(whole.width - WIDTH), rng.integers(whole.height - HEIGHT)
        part = whole.crop((left, top, left + WIDTH, top + HEIGHT))
        part = ImageOps.mirror(part) if rng.random() < 0.5 else part
        part.save(file, quality=QUALITY)


def draw_picture(rng: np.random.Generator) -> Any:
    """Draw noise that decays with its frequency, as in photographs, and shapes with edges on it."""
    from PIL import Image, ImageDraw

    size = (WIDTH + 140, HEIGHT + 105)
    total = np.zeros((size[1], size[0], 3), np.float32)
    for octave in range(1, OCTAVES + 1):
        columns = 2**octave
        noise = rng.standard_normal((max(2, columns * 3 // 4), columns, 3), dtype=np.float32)
        noise += noise.mean(axis=2, keepdims=True)  # most of it is grey
        for channel in range(3):
            plane = Image.fromarray(noise[..., channel]).resize(size, Image.Resampling.BICUBIC)
            total[..., channel] += np.asarray(plane) * 2 ** (-0.3 * octave)
    total *= 52 / total.std()
    image = Image.fromarray((total + 128).clip(0, 255).astype(np.uint8))
    pen = ImageDraw.Draw(image)
    for _ in range(12):
        left, top, *side = (int(n) for n in rng.integers([0, 0, 10, 10], [*size, 120, 120]))
        draw = (pen.rectangle, pen.ellipse)[rng.integers(2)]
        fill = tuple(int(n) for n in rng.integers(0, 256, 3))
        draw([left, top, left + side[0], top + side[1]], fill=fill)
    return image


def read_all(folder: Path) -> tuple[int, int]:
    """Return the number and the bytes of all files, which are in the page cache afterwards."""
    sizes = [len(file.read_bytes()) for file in folder.rglob("*") if file.is_file()]
    return len(sizes), sum(sizes)


# Batches


def folder_source(request: Request, cached: bool = True, cache: str | None = None) -> Folder:
    """Return the folder of images as a source of deephash."""
    return Folder(
        request["images"], size=STORED, cache=cache or request["cache"],
        workers=request["workers"], cached=cached,
    )  # fmt: skip


def folder_data(request: Request, source: Folder) -> DataModule:
    """Return the data of the folder."""
    size, normalize = request["size"], Normalize(MEAN, STD)
    train = [RandomResizedCrop(size), RandomHorizontalFlip(), normalize]
    test = [Resize(STORED), CenterCrop(size), normalize]
    return data_module(source, train, test, request["device"], request["batch"], request["encode"])


def usual_loader(request: Request, train: bool) -> Iterator[Iterator[Batch]]:
    """Yield the epochs of the usual loader."""
    from torchvision import transforms
    from torchvision.datasets import ImageFolder

    size = request["size"]
    steps = [transforms.Resize(STORED), transforms.CenterCrop(size)]
    if train:
        steps = [transforms.RandomResizedCrop(size), transforms.RandomHorizontalFlip()]
    images = ImageFolder(request["images"], workloads.usual_transform(*steps))
    batch_size = request["batch" if train else "encode"]
    return workloads.usual_epochs(images, request["device"], batch_size, request["workers"], train)


def epochs_from(request: Request) -> Iterator[Iterable[Batch]]:
    """Yield the epochs of a contender, without end."""
    train = request["train"]
    if request["loader"] == "field":
        return usual_loader(request, train)
    source = folder_source(request, cached=request["loader"] != "direct")
    return epochs_of(folder_data(request, source), train)


# Measurements, each in a process of its own


def form_label(form: str) -> str:
    """Return the name of a form in tables."""
    return ", ".join(LABELS.get(part, part) for part in form.split("-"))


def step_configuration(request: Request) -> Values:
    """Return the configuration of RelaHash on random images, in the form of a request."""
    cfg = workloads.cifar(
        request["size"], "method=relahash", "codebook=bernoulli", "model.nbit=64",
        f"backbone={request['backbone']}", f"trainer.device={request['device']}",
    )  # fmt: skip
    form = request["form"].split("-")
    cfg["trainer"] |= {"precision": form[0], "channels_last": "cl" in form,
                       "compile": "compiled" in form}  # fmt: skip
    return cfg


def learner_of(request: Request) -> Learner:
    """Build RelaHash on a backbone with random weights, in the form of a request."""
    return Learner(step_configuration(request), request["device"], "fused" in request["form"])


def measure_loader(request: Request) -> Values:
    """Measure one epoch of a contender's batches, which nothing is done with."""
    build = Stopwatch()
    build.wall = build.cpu = 0.0
    with tempfile.TemporaryDirectory(prefix="cold-", dir=request["cache"]) as empty:
        if request["loader"] == "cold":
            with build:
                data = folder_data(request, folder_source(request, cache=empty))
            epochs: Iterator[Iterable[Batch]] = epochs_of(data, request["train"])
        else:
            epochs = epochs_from(request)
        with Stopwatch() as watch:
            images = sum(len(batch.index) for batch in next(epochs))
            synchronize(request["device"])
    return {"images": images, "wall": watch.wall + build.wall, "cpu": watch.cpu + build.cpu,
            "build": {"wall": build.wall, "cpu": build.cpu}}  # fmt: skip


def measure_step(request: Request) -> Values:
    """Measure steps of training and of encoding on one batch that is on the device."""
    learner, values = learner_of(request), {}
    for use, size in (("train", request["batch"]), ("encode", request["encode"])):
        batches = itertools.repeat(learner.noise(size))
        values[use] = learner.run(use, batches, request["seconds"], warm_up=3)
    if learner.device.type == "cuda":
        values["peak_mb"] = torch.cuda.max_memory_allocated(learner.device) / 1e6
    return values


def measure_wait(request: Request) -> Values:
    """Measure a training loop with the batches of a contender."""
    batches = itertools.chain.from_iterable(epochs_from(request))
    return learner_of(request).run("train", batches, request["seconds"], warm_up=2)


def measure_cifar(request: Request) -> Values:
    """Measure training at batch size 16 and encoding of images of 32 x 32, with their data."""
    learner, values = learner_of(request), {}
    count = max(CIFAR // 10, 4 * request["encode"])
    data = workloads.noise_data(
        step_configuration(request), count, request["device"], 16, request["encode"]
    )
    for use in ("train", "encode"):
        batches = itertools.chain.from_iterable(epochs_of(data, use == "train"))
        values[use] = learner.run(use, batches, request["seconds"], warm_up=2)
    return values


def measure_profile(request: Request) -> Values:
    """Profile a training loop with the batches of a contender."""
    batches = itertools.chain.from_iterable(epochs_from(request))
    return workloads.profile_training(learner_of(request), batches, warm_up=3)


def measure_transfer(request: Request) -> Values:
    """Measure bytes per second from the host to a CUDA device, from pageable and pinned memory."""
    values = {}
    for name, pinned in (("pageable", False), ("pinned", True)):
        source = torch.zeros(256 << 20, dtype=torch.uint8, pin_memory=pinned)
        copy = partial(
            torch.empty_like(source, device=request["device"]).copy_, source, non_blocking=True
        )
        values[name] = (
            source.nbytes / harness.time_calls(copy, warm_up=1, device=request["device"])[0]
        )
    return values


def measure_memory(request: Request) -> Values:
    """Measure the size and the time of building the cache, and the memory of an epoch."""
    with tempfile.TemporaryDirectory(prefix="memory-", dir=request["cache"]) as empty:
        with Stopwatch() as build:
            data = folder_data(request, folder_source(request, cache=empty))
        peak = harness.memory("VmHWM")
        stored = sum(file.stat().st_size for file in Path(empty).rglob("*") if file.is_file())
        private, mapped = [harness.memory("RssAnon")], [harness.memory("RssFile")]
        for _ in data.train(0):
            private.append(harness.memory("RssAnon"))
            mapped.append(harness.memory("RssFile"))
    return {
        "images": len(data.images), "stored": stored,
        "build": {"wall": build.wall, "cpu": build.cpu},
        "peak": peak, "private": max(private), "batches": max(private) - private[0],
        "mapped": max(mapped) - mapped[0],
    }  # fmt: skip


MEASURES: dict[str, Callable[[Request], Values]] = {
    "loader": measure_loader,
    "step": measure_step,
    "wait": measure_wait,
    "cifar": measure_cifar,
    "profile": measure_profile,
    "transfer": measure_transfer,
    "memory": measure_memory,
}


def measured(request: Request) -> Values:
    """Measure a request in this process."""
    torch.set_num_threads(request["threads"])
    return MEASURES[request["measure"]](request)


# Sections; each is a table


@dataclass(frozen=True)
class Section:
    """A table of the report.

    ``requests`` returns the requests of the contenders by name, ``rows`` the rows of the table,
    and ``note`` a line below it.
    """

    title: str
    requests: Callable[[Options], dict[str, Request]]
    rows: Callable[[Measured, Options], list[list[str]]]
    note: Callable[[Measured, Options], str] = lambda series, options: ""
    once: bool = False  # one round only
    cuda: bool = False  # only with a CUDA device


def loader_requests(options: Options) -> dict[str, Request]:
    """Return each contender, to train and to encode."""
    return {
        f"{use}: {loader}": {"measure": "loader", "loader": loader, "train": use == "train"}
        for use in ("train", "encode")
        for loader in ("field", "cold", "cached", "direct")
        if (use, loader) != ("encode", "cold")
    }


def requests_of_forms(
    measure: str, forms: str, options: Options, loaders: Sequence[str] = ()
) -> dict[str, Request]:
    """Return a request for each backbone, each form of an option, and each of the loaders."""
    return {
        f"{backbone}{', ' if loader else ': '}{form_label(form)}{loader and ': ' + loader}": {
            "measure": measure, "backbone": backbone, "form": form,
            "loader": loader or "cached", "train": True,
        }
        for backbone in options.backbones
        for form in getattr(options, forms)
        for loader in loaders or [""]
    }  # fmt: skip


def rate(series: Series, clock: str, *path: str) -> str:
    """Return the median of the images per second."""
    return figure(statistics.median(series.rates(clock, *path)))


def ratio(series: Series, other: Series | None, clock: str, *path: str) -> str:
    """Return the median ratio of the images per second to those of another contender."""
    return harness.median_ratio(series.rates(clock, *path), other and other.rates(clock, *path))


def waiting(series: Series, *path: str) -> list[str]:
    """Return the shares of the time of waiting for batches and of computing on the GPU."""
    pairs = zip(series.values(*path, "waited"), series.values(*path, "wall"), strict=True)
    share = statistics.median(waited / wall for waited, wall in pairs)
    busy = [value for value in series.values(*path, "utilisation") if value is not None]
    return [f"{share:.1%}", f"{statistics.median(busy):.0f} %" if busy else "–"]


def loader_rows(series: Measured, options: Options) -> list[list[str]]:
    """Return the speed of each contender."""
    rows = [["batches for", "images/s", "images per CPU s", "× field, clock", "× field, CPU",
             "wall s", "CPU s"]]  # fmt: skip
    for name, one in series.items():
        usual = series.get(name.partition(":")[0] + ": field")
        rows.append(
            [name, rate(one, "wall"), rate(one, "cpu"), ratio(one, usual, "wall"),
             ratio(one, usual, "cpu"), figure(one.median("wall")), figure(one.median("cpu"))]
        )  # fmt: skip
    return rows


def loader_note(series: Measured, options: Options) -> str:
    """Describe the files, and the cost of the cache."""
    count, size = options.files
    note = (f"{count:,} files of {size / count / 1e3:.0f} KB on average, in the page cache; "
            f"{options.workers} workers or decoding threads")  # fmt: skip
    if cold := series.get("train: cold"):
        wall, cpu = (figure(cold.median("build", clock)) for clock in ("wall", "cpu"))
        note += f"; cold is building the cache, {wall} s ({cpu} CPU s), and the epoch"
    return note


def wait_rows(series: Measured, options: Options) -> list[list[str]]:
    """Return the speed of training with each loader."""
    rows = [["training fed by", "images/s", "× field", "share of waiting", "GPU busy"]]
    for name, one in series.items():
        usual = series.get(name.partition(":")[0] + ": field")
        rows.append([name, rate(one, "wall"), ratio(one, usual, "wall"), *waiting(one)])
    return rows


def step_rows(series: Measured, options: Options) -> list[list[str]]:
    """Return the speed of each form."""
    clock, unit = ("wall", "/s") if on_cuda(options) else ("cpu", " per CPU s")
    rows = [["form", f"train: images{unit}", "× fp32", "encode", "× fp32", "first step s",
             "first encoding s", "peak MB"]]  # fmt: skip
    for name, one in series.items():
        plain = series.get(f"{one.request['backbone']}: fp32")
        row = [name]
        for use in ("train", "encode"):
            row += [rate(one, clock, use), ratio(one, plain, clock, use)]
        row += [figure(one.median(use, "first")) for use in ("train", "encode")]
        rows.append([*row, figure(one.median("peak_mb")) if on_cuda(options) else "–"])
    return rows


def cifar_rows(series: Measured, options: Options) -> list[list[str]]:
    """Return the speed of each form, and the time of the paper's run computed from it."""
    rows = [["form", "train: images/s", "waiting", "GPU busy", f"{EPOCHS} epochs",
             "encode: images/s", "waiting", "GPU busy", f"{TO_ENCODE:,} images"]]  # fmt: skip
    for name, one in series.items():
        row = [name]
        for use, images in (("train", EPOCHS * CIFAR), ("encode", TO_ENCODE)):
            seconds = images / statistics.median(one.rates("wall", use))
            row += [rate(one, "wall", use), *waiting(one, use), duration(seconds)]
        rows.append(row)
    return rows


def profile_rows(series: Measured, options: Options) -> list[list[str]]:
    """Return the operators or kernels that take most of the time of each form."""
    rows = [["training", "operator", "calls a step", "share of the time"]]
    for name, one in series.items():
        (values,) = one.rounds
        idle = "no kernel runs" if on_cuda(options) else "outside of operators"
        rows.append([name, idle, "", f"{1 - values['busy']:.1%}"])
        for key, calls, share in values["top"]:
            part = share * values["own_ms"] / values["ms"]
            rows.append(["", f"`{key[:70]}`", f"{calls:,.0f}", f"{part:.1%}"])
    return rows


def transfer_rows(series: Measured, options: Options) -> list[list[str]]:
    """Return the speed of each kind of memory."""
    rows = [["host memory", "GB/s to the device", "images of 3 x 256 x 256 a second"]]
    for name in ("pageable", "pinned"):
        speed = series["transfer"].median(name)
        rows.append([name, figure(speed / 1e9), figure(speed / (3 * STORED**2))])
    return rows


def memory_rows(series: Measured, options: Options) -> list[list[str]]:
    """Return each cost as measured, and scaled to a larger dataset."""
    (values,) = series["memory"].rounds
    scale = options.scale / values["images"]

    def mb(value: float) -> str:
        return f"{value / 1e6:,.0f} MB"

    return [
        ["", f"measured on {values['images']:,}", f"scaled to {options.scale:,}"],
        ["cache, bytes an image", f"{values['stored'] / values['images']:,.0f}",
         f"{values['stored'] * scale / 1e9:.1f} GB in all"],
        *([f"building the cache, {name}", f"{figure(values['build'][clock])} s",
           duration(values["build"][clock] * scale)]
          for name, clock in (("clock", "wall"), ("CPU", "cpu"))),
        ["most memory while building, all kinds", mb(values["peak"]), "not scaled"],
        ["own memory in an epoch", mb(values["private"]),
         f"of it batches: {mb(values['batches'])}"],
        ["pages of the cache that an epoch maps", mb(values["mapped"]),
         f"{values['mapped'] * scale / 1e9:.1f} GB, given back when others need it"],
    ]  # fmt: skip


SECTIONS = {
    "loaders": Section("Batches alone", loader_requests, loader_rows, loader_note),
    "waits": Section(
        "Training that is fed",
        partial(requests_of_forms, "wait", "fed", loaders=["field", "cached"]), wait_rows,
        lambda series, options: f"batches of {options.batch_size}; the wait is the host's, by the"
        " clock; the driver reports how busy a GPU is, if nvidia-ml-py is installed",
    ),
    "steps": Section(
        "Forms of the step", partial(requests_of_forms, "step", "forms"), step_rows,
        lambda series, options: f"batches of {options.batch_size} to train and"
        f" {options.encode_size} to encode, {options.size} px, on the device already;"
        f" {options.threads} threads; Adam",
    ),
    "cifar": Section(
        "CIFAR-10 as in the paper", partial(requests_of_forms, "cifar", "fed"), cifar_rows,
        lambda series, options: f"32 px enlarged to {options.size}; training at batch 16, encoding"
        f" at {options.encode_size}; {CIFAR:,} training images; the times are scaled",
    ),
    "profile": Section(
        "What a step is made of", partial(requests_of_forms, "profile", "fed"), profile_rows,
        once=True,
    ),
    "transfer": Section(
        "Host to device", lambda _: {"transfer": {"measure": "transfer"}}, transfer_rows, cuda=True
    ),
    "memory": Section(
        "Memory and cost", lambda _: {"memory": {"measure": "memory"}}, memory_rows, once=True
    ),
}  # fmt: skip


def on_cuda(options: Options) -> bool:
    """Return whether a CUDA device computes."""
    return torch.device(options.device).type == "cuda"


def run_section(name: str, options: Options, base: Request, report: Report) -> list[Series]:
    """Measure a section and add it to the report."""
    section = SECTIONS[name]
    if section.cuda and not on_cuda(options):
        report.add(f"### {section.title}", "Not measured: no CUDA device.")
        return []
    requests = section.requests(options).items()
    contenders = [Series(key, base | request) for key, request in requests]
    rounds = 1 if section.once else options.rounds
    cuda = on_cuda(options)
    harness.alternate(
        contenders, lambda series: harness.spawn(__file__, series.request, cuda), rounds, label=name
    )
    complete = {series.name: series for series in contenders if series.rounds}
    blocks, notes = [f"### {section.title}"], []
    if complete:
        blocks.append(table(section.rows(complete, options)))
        notes.append(section.note(complete, options))
    notes += [f"{series.name}: {series.failed}" for series in contenders if series.failed]
    report.add(*blocks, "\n".join(f"- {note}" for note in notes if note))
    return contenders


def parse(arguments: Sequence[str]) -> Options:
    """Parse the command line."""
    command_line = harness.parser(__doc__, rounds=3, seconds=5.0, threads=cores(), seed=0,
                                  device=harness.default_device(), json=None)  # fmt: skip
    add = command_line.add_argument
    add("--work", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    add("--images", type=Path, help="folder of class folders; default: generated images")
    add("--number", type=int, default=1_000, help="number of images to generate")
    add("--backbones", nargs="+", default=["alexnet", "resnet18", "resnet50"])
    add("--forms", nargs="+", choices=FORMS, default=list(FORMS))
    add("--fed", nargs="+", choices=FORMS, help="forms of the training with data")
    add("--batch-size", type=int, default=16)
    add("--encode-size", type=int, help="images in a batch to encode; default 64, on CUDA 256")
    add("--size", type=int, default=224, help="side of the images")
    add("--workers", type=int, default=cores())
    add("--scale", type=int, default=133_503, help="images that memory and cost are scaled to")
    options = command_line.parse_args(arguments)
    if options.fed is None:
        options.fed = ["fp32-cl", "bf16-cl-fused"]
        if on_cuda(options):
            options.fed.append("bf16-cl-compiled-fused")
    options.encode_size = options.encode_size or (256 if on_cuda(options) else 64)
    return options


def main(arguments: Sequence[str]) -> int:
    """Print the tables; 1 if a contender failed."""
    if list(arguments) == ["--child"]:
        return harness.serve(measured)
    options = parse(arguments)
    report = Report(__file__, arguments, options)
    report.add(f"{options.rounds} rounds, medians.")
    sections: dict[str, list[Values]] = {}
    with tempfile.TemporaryDirectory(prefix="deephash-") as folder:
        images = options.images or Path(folder) / "images"
        if options.images is None:
            draw_folder(images, options.number, options.seed)
        options.files = read_all(images)
        base = {
            "images": str(images), "cache": folder, "device": options.device,
            "batch": options.batch_size, "encode": options.encode_size, "size": options.size,
            "workers": options.workers, "threads": options.threads, "seconds": options.seconds,
        }  # fmt: skip
        if {"loaders", "waits", "profile"} & set(options.work):
            folder_source(base).load()  # fills the cache
        for name in options.work:
            contenders = run_section(name, options, base, report)
            sections[name] = [asdict(series) for series in contenders]
            report.save(sections=sections)
    report.close()
    return int(any(series["failed"] for section in sections.values() for series in section))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
