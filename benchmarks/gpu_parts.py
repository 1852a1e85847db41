"""The measurements of benchmarks/gpu.py: parts that consist of independent cells."""

import contextlib
import gc
import importlib.util
import itertools
import json
import logging
import math
import os
import re
import shlex
import signal
import statistics
import subprocess
import sys
import tarfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from harness import ROOT, Values, cores, time_calls

GRACE = 6.0
"""Seconds before the end of its share at which a part begins no further cell."""

AGAIN = 75
"""Exit status of a part whose device is lost: the other cells run in a new process."""

TAIL = 12
"""Lines of a traceback that are kept."""

PAPER_EPOCHS, STOP_EPOCHS = 100, 25
"""RelaHash: epochs of Table 1; the largest number at which Tables 2 and 3 stopped early."""

CIFAR_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship",
                 "truck")  # fmt: skip

Request = Values


@dataclass(frozen=True)
class Sizes:
    """Sizes of all measurements."""

    side: int  # of the images, in pixels
    backbones: tuple[str, ...]  # the first one is that of the run
    batches: tuple[int, ...]  # the first one is that of the run
    window: float  # seconds of a measurement
    images: int  # in the comparison of loops
    jobs: int  # at the same time
    epochs: int  # of a job that is timed
    per_class: int  # generated images; a seventh of them in the test part
    works: tuple[tuple[str, int | None, int | None], ...]  # retrieval: work, queries, items


FULL = Sizes(
    224, ("squeezenet1_0", "alexnet", "resnet50"), (16, 256, 64), 1.0, 20_000, 4, 1, 6_000,
    tuple((work, None, None) for work in ("W1", "W2", "W3", "10M")),
)  # fmt: skip
TINY = Sizes(
    32, ("tiny",), (4, 8), 0.02, 64, 2, 1, 14,
    (("W1", 20, 500), ("W2", 20, 400), ("W3", 20, 300), ("10M", 10, 2_000)),
)  # fmt: skip


def sizes_of(request: Request) -> Sizes:
    """Return the sizes of a request."""
    return TINY if request["tiny"] else FULL


# Cells


@dataclass(frozen=True)
class Cell:
    """One measurement of a part."""

    name: str
    seconds: float  # expected
    run: Callable[[], Values]
    limit: float | None = None  # seconds after which it is given up; None: those of the part


class NotAvailable(Exception):
    """The cell cannot be measured here."""


def run_cells(cells: Sequence[Cell], request: Request) -> None:
    """Run the cells of a part that have no result yet, as far as the time allows.

    Results are written to ``request["results"]`` after each cell: ``{"cells": {name: values},
    "current": name of the running cell}``. The values of a cell that was not measured have one
    key, ``skipped`` or ``failed``.
    """
    file, tiny = Path(request["results"]), request["tiny"]
    results = read_results(file)

    def save(current: str | None = None) -> None:
        results["current"] = current
        write_atomic(file, json.dumps(results))

    for cell in cells:
        if cell.name in results["cells"]:
            continue
        left = request["until"] - time.time() - (0 if tiny else GRACE)
        if left < (0 if tiny else cell.seconds):
            reason = f"needs about {cell.seconds:.0f} s, {max(0, left):.0f} s were left"
            results["cells"][cell.name] = {"skipped": reason}
            save()
            continue
        save(cell.name)
        print(f"{request['part']}: {cell.name}", flush=True)
        began = time.perf_counter()
        try:
            with time_limit(cell.limit):
                values = cell.run()
        except NotAvailable as reason:
            values = {"skipped": str(reason)}
        except Exception as error:
            traceback.print_exc()
            lines = traceback.format_exc().splitlines()[-TAIL:]
            values = {"failed": brief(error), "traceback": lines}
        values["took"] = time.perf_counter() - began
        results["cells"][cell.name] = values
        save()
        if "failed" in values and device_lost(request["device"]):
            raise SystemExit(AGAIN)
    results["complete"] = True
    save()


@contextlib.contextmanager
def time_limit(seconds: float | None) -> Iterator[None]:
    """Raise TimeoutError in the main thread after a time, once the running C call has returned."""

    def stop(*_: Any) -> None:
        raise TimeoutError(f"given up after {seconds:.0f} s")

    if seconds is None:
        yield
        return
    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def read_results(file: Path) -> Values:
    """Read the results of a part so far; empty if it has not begun."""
    try:
        results: Values = json.loads(file.read_text())
    except (OSError, ValueError):
        return {"cells": {}, "current": None}
    return results


def write_atomic(file: Path, text: str) -> None:
    """Write a file whole or not at all."""
    new = file.with_name(file.name + ".new")
    new.write_text(text)
    new.replace(file)


def brief(error: BaseException) -> str:
    """Return the class of an error and the first line of its message."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"[:200].rstrip(": ")


def device_lost(device: str) -> bool:
    """Return whether a CUDA device no longer works in this process."""
    import torch

    if device != "cuda":
        return False
    try:
        torch.cuda.synchronize()
    except Exception:
        return True
    return False


# tests


def run_tests(request: Request) -> Values:
    """Run the tests marked ``gpu``; those that have ended count if the time runs out."""
    folder = Path(request.get("tests") or ROOT / "tests")
    files = [str(path) for path in sorted(folder.rglob("test_*.py")) if has_gpu_tests(path)]
    if not files:
        raise NotAvailable("no test is marked gpu")
    command = [
        sys.executable, "-m", "pytest", "-m", "gpu", "-v", "-rfE", "--tb=short", "--color=no",
        "-c", str(ROOT / "pyproject.toml"), "--rootdir", str(ROOT),
        "--continue-on-collection-errors",  # of a package that is not installed here
        "-o", "addopts=--strict-markers --import-mode=importlib",
        "-W", "default",  # a warning of another release of torch is no failure here
        "-p", "no:cacheprovider", *files,
    ]  # fmt: skip
    workers = min(8, cores() // 2) if importlib.util.find_spec("xdist") else 1
    if workers > 1:
        command += ["-p", "xdist", "-n", str(workers)]
    environment = os.environ | {
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        "PYTHONUNBUFFERED": "1",
        "OMP_NUM_THREADS": str(max(1, min(8, cores() // (2 * workers)))),  # of expected values
    }
    log = Path(request["scratch"]) / "pytest.txt"
    status = run_logged(command, log, request["until"] - time.time() - 3, environment, ROOT)
    text = log.read_text(errors="replace")
    print(text)
    return {"status": status, **read_pytest(text)}


def has_gpu_tests(path: Path) -> bool:
    """Return whether a file has tests marked ``gpu``, or with the fixture ``device``."""
    text = path.read_text(encoding="utf-8")
    return "mark.gpu" in text or re.search(r"def test_\w+\([^)]*\bdevice\b", text) is not None


OUTCOMES = "PASSED|FAILED|SKIPPED|ERROR|XFAIL|XPASS"
OUTCOME = re.compile(rf"^(\S*::.+?) ({OUTCOMES})\b", re.MULTILINE)
OUTCOME_OF_WORKER = re.compile(rf"^\[gw\d+\] \[ *\d+%\] ({OUTCOMES}) (\S*::.+?) *$", re.MULTILINE)
SUMMARY = re.compile(r"^(?:FAILED|ERROR) (\S*::.+?)(?: - (.*))?$", re.MULTILINE)
BROKEN = re.compile(r"^ERROR (\S+\.py)(?: - (.*))?$", re.MULTILINE)


def read_pytest(text: str) -> Values:
    """Count outcomes in the output of ``pytest -v -rfE``, which may be incomplete.

    Returns:
        ``passed``, ``failed_tests``, ``skipped_tests``: numbers; ``failures``: the last line of
        each failure by the name of the test; ``interrupted``: the test that was running at the end
        of an incomplete output, otherwise None.
    """
    outcomes = dict(OUTCOME.findall(text))
    outcomes |= {name: outcome for outcome, name in OUTCOME_OF_WORKER.findall(text)}
    failures = {
        name: "" for name, outcome in outcomes.items() if outcome in ("FAILED", "ERROR", "XPASS")
    }
    failures |= dict(SUMMARY.findall(text)) | dict(BROKEN.findall(text))
    complete = re.search(r"^=+ .*\bin [\d.]+s", text, re.MULTILINE) is not None
    started = (line.strip() for line in reversed(text.splitlines()) if "::" in line)
    running = next((name for name in started if name[0] != "[" and name not in outcomes), "")
    counts = list(outcomes.values())
    shown = {name[name.rfind("/", 0, name.find("::")) + 1 :]: reason[:160]  # without the folder
             for name, reason in failures.items()}  # fmt: skip
    return {
        "passed": counts.count("PASSED"),
        "failed_tests": len(failures),
        "skipped_tests": counts.count("SKIPPED") + counts.count("XFAIL"),
        "failures": shown,
        "interrupted": None if complete else running[-120:] or "before the first test",
    }


def run_logged(
    command: Sequence[str], log: Path, seconds: float, environment: Mapping[str, str], folder: Path
) -> int | None:
    """Run a command with its output in a file; kill its process group when the time is over.

    Returns:
        The exit status; None if it was killed.
    """
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, stdout=out, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
            env=dict(environment), cwd=folder, start_new_session=True,
        )  # fmt: skip
        try:
            return process.wait(max(1.0, seconds))
        except subprocess.TimeoutExpired:
            return None
        finally:
            stop_group(process)


def stop_group(process: "subprocess.Popen[Any]", patience: float = 3.0) -> None:
    """Terminate the group of a process that still runs; kill it after a number of seconds."""
    if process.poll() is not None:
        return
    for sent in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, sent)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(patience)


# steps

NOT_DETERMINISTIC = {"deterministic": False}
BF16 = {"deterministic": False, "precision": "bf16"}
FORMS: dict[str, Values] = {
    "as train.py": {},
    "graph": {"graph": True},
    "fill": {"fill": True},
    "not deterministic": NOT_DETERMINISTIC,
    "fp32": NOT_DETERMINISTIC | {"channels_last": False, "tf32": False},
    "tf32": NOT_DETERMINISTIC | {"channels_last": False, "tf32": True},
    "tf32 cl": NOT_DETERMINISTIC | {"tf32": True},
    "bf16": BF16 | {"channels_last": False},
    "bf16 cl": BF16,
    "bf16 cl graph": BF16 | {"graph": True},
    "bf16 cl compiled": BF16 | {"compile": True},
}
"""Settings of the trainer in which each form differs from train.py, besides ``tf32`` for matrix
products and convolutions, and ``fill`` for torch's filling of uninitialized memory."""

LOOPS = ("field", "ours", "graph")
"""Kinds of loops with their data."""

SECONDS = {"compile": 45.0, "graph": 6.0}
"""Duration of a cell with such a form; that of the others is 4 seconds."""


def cells_of_steps(request: Request) -> list[Cell]:
    """Return steps at the batch size of the run first, those that compile last."""
    sizes = sizes_of(request)
    backbones, batches = sizes.backbones, sizes.batches
    first, small = backbones[0], batches[0]
    plan = [(b, form, small) for form in ("as train.py", "graph") for b in backbones]
    early = len(plan)
    plan += [(b, "bf16 cl", small) for b in backbones]
    plan += [(first, form, small) for form in ("not deterministic", "fill", "bf16 cl graph")]
    for size in batches[1:]:
        plan += [(b, form, size) for form in ("as train.py", "bf16 cl") for b in backbones]
        plan.append((first, "bf16 cl compiled", small))
    for size in batches:
        plan += [(b, form, size) for form in ("fp32", "tf32", "tf32 cl") for b in backbones]
    plan += [(b, "bf16", small) for b in backbones]
    plan += [(b, "bf16 cl graph", size) for size in batches for b in backbones]
    plan += [(b, "bf16 cl compiled", small) for b in backbones[1:]]

    def step(case: tuple[str, str, int]) -> Cell:
        seconds = max((SECONDS[key] for key in FORMS[case[1]] if key in SECONDS), default=4.0)
        run = partial(measure_step, request, *case)
        return Cell(" | ".join(map(str, case)), seconds, run, limit=2 * seconds + 40)

    steps = [step(case) for case in dict.fromkeys(plan)]
    profiles = [Cell(f"profile | {form}", 8, partial(measure_profile, request, form), limit=60)
                for form in ("as train.py", "graph", "bf16 cl")]  # fmt: skip
    loops = [Cell(f"loop | {use} | {kind}", 9,
                  partial(measure_loop, request, use == "train", kind), limit=60)
             for use in ("train", "encode") for kind in LOOPS
             if (use, kind) != ("encode", "graph")]  # fmt: skip
    return [*steps[:early], *loops, *profiles, *steps[early:]]


def configuration_of(request: Request, backbone: str, method: str = "relahash") -> Values:
    """Compose the configuration of a method with 64 bits on CIFAR-10."""
    from workloads import cifar

    overrides = [f"backbone={backbone}", f"method={method}", "model.nbit=64",
                 f"trainer.device={request['device']}"]  # fmt: skip
    if method == "relahash":
        overrides.append("codebook=bernoulli")  # quick; the default searches for its centers
    return cifar(sizes_of(request).side, *overrides)


def learner_of(request: Request, backbone: str, settings: Values, method: str = "relahash") -> Any:
    """Build a method with its trainer."""
    from workloads import Learner

    cfg = configuration_of(request, backbone, method)
    cfg["trainer"] |= settings
    return Learner(cfg, request["device"], folder=request["scratch"])


def timed(request: Request, batches: Iterable[Any], warm_up: int = 12, window: float = 0.0) -> Any:
    """Return batches that end when the time of a measurement is over."""
    from workloads import TimedBatches

    sizes = sizes_of(request)
    if request["tiny"]:
        warm_up, window = min(warm_up, 3), 0.0
    return TimedBatches(batches, request["device"], window or sizes.window, warm_up)


def measure_step(request: Request, backbone: str, form: str, size: int) -> Values:
    """Measure images per second in training and encoding, with a batch on the device."""
    with torch_settings(request, form) as settings:
        learner = learner_of(request, backbone, settings)
        batch = learner.noise(size)
        with peak_memory(request["device"]) as peak, collect_warnings() as notes:
            train = learner.train(timed(request, itertools.repeat(batch)))
        refuse_eager(settings, notes)
        encode = learner.encode(timed(request, itertools.repeat(batch), warm_up=3))
    return {"train": train["rate"], "encode": encode["rate"], "first": train["first"], **peak,
            **notes}  # fmt: skip


@contextlib.contextmanager
def torch_settings(request: Request, form: str) -> Iterator[Values]:
    """Apply a form to torch, yield the settings of the trainer, and restore torch afterwards."""
    import torch

    from deephash.training.precision import use_deterministic

    on_cuda = request["device"] == "cuda"
    changed = dict(FORMS[form])
    fill, tf32 = changed.pop("fill", None), changed.pop("tf32", None)
    settings = configuration_of(request, sizes_of(request).backbones[0])["trainer"]
    if not on_cuda and (tf32 or changed.get("graph")):
        raise NotAvailable("only on a CUDA device")
    if not on_cuda and changed.get("compile") and request["tiny"]:
        raise NotAvailable("compiling takes longer than all of --tiny")
    settings = {**settings, **changed}
    before, filled = swap_tf32(), torch.utils.deterministic.fill_uninitialized_memory
    use_deterministic(settings["deterministic"])
    if fill is not None:
        torch.utils.deterministic.fill_uninitialized_memory = fill
    try:
        if tf32 is not None:
            swap_tf32(tf32, tf32)
        yield settings
    finally:
        swap_tf32(*before)
        use_deterministic(False)
        torch.utils.deterministic.fill_uninitialized_memory = filled
        torch.backends.cudnn.benchmark = False
        if settings["compile"]:
            torch._dynamo.reset()
        gc.collect()
        if on_cuda:
            torch.cuda.empty_cache()


def swap_tf32(*allowed: bool) -> tuple[bool, bool]:
    """Allow or forbid TF32 in matrix products and in convolutions; return what was allowed.

    The flags exist in all releases of torch. The newer ones, from 2.9 on, would make compiling fail
    in some releases, which read the older ones.
    """
    import torch

    products, convolutions = torch.backends.cuda.matmul, torch.backends.cudnn
    with warnings.catch_warnings(action="ignore"):
        before = products.allow_tf32, convolutions.allow_tf32
        products.allow_tf32, convolutions.allow_tf32 = allowed or before
    return before


@contextlib.contextmanager
def peak_memory(device: str) -> Iterator[Values]:
    """Set ``peak_mb`` to the peak memory of tensors on a CUDA device."""
    import torch

    values: Values = {}
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    yield values
    if device == "cuda":
        values["peak_mb"] = torch.cuda.max_memory_allocated() / 1e6


def refuse_eager(settings: Values, notes: Values) -> None:
    """Raise RuntimeError if the steps should have been replayed as graphs and were not."""
    for note in notes.get("notes", []):
        if settings.get("graph") and "trainer.graph" in note:
            raise RuntimeError(note)


@contextlib.contextmanager
def collect_warnings() -> Iterator[Values]:
    """Set ``notes`` to the different warnings of deephash, such as of a graph that is not used."""
    values: Values = {}

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            note, notes = record.getMessage()[:200], values.setdefault("notes", [])
            if note not in notes:
                notes.append(note)

    handler, log = Collector(logging.WARNING), logging.getLogger("deephash")
    log.addHandler(handler)
    try:
        yield values
    finally:
        log.removeHandler(handler)


def measure_profile(request: Request, form: str) -> Values:
    """Profile training steps: launches, operators, busy share, largest kernels."""
    from workloads import profile_training

    sizes = sizes_of(request)
    with torch_settings(request, form) as settings:
        learner = learner_of(request, sizes.backbones[0], settings)
        batches = itertools.repeat(learner.noise(sizes.batches[0]))
        with collect_warnings() as notes:
            values = profile_training(learner, batches, warm_up=3 if request["tiny"] else 12)
        refuse_eager(settings, notes)
    return values


class PilImages:
    """Random images that PIL decodes one by one: a dataset for torch's DataLoader."""

    def __init__(self, count: int, transform: Callable[[Any], Any]) -> None:
        from workloads import NoiseImages

        self.pixels = NoiseImages(count).load().inputs.transpose(0, 2, 3, 1)
        self.transform = transform

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        from PIL import Image

        return self.transform(Image.fromarray(self.pixels[index])), index % 10


def measure_loop(request: Request, train: bool, kind: str) -> Values:
    """Measure a loop with its data, from images of 32 x 32 in memory.

    ``field``: PIL and torchvision's transforms, image by image, in the workers of a DataLoader;
    the loss is read after each step. ``ours``: views that are made in batches on the device.
    ``graph``: ours, with steps that are replayed as CUDA graphs.
    """
    from workloads import epochs_of, noise_data

    sizes, field = sizes_of(request), kind == "field"
    form = {"field": "not deterministic", "ours": "as train.py"}.get(kind, kind)
    with torch_settings(request, form) as settings:
        changed = {"channels_last": False} if field else {}
        learner = learner_of(request, sizes.backbones[0], settings | changed)
        size = sizes.batches[0] if train else max(sizes.batches)
        if field:
            epochs: Iterator[Iterable[Any]] = usual_images(request, train, size)
        else:
            cfg = configuration_of(request, sizes.backbones[0])
            data = noise_data(cfg, sizes.images, request["device"], size, size)
            epochs = epochs_of(data, train)
        batches = timed(request, itertools.chain.from_iterable(epochs), window=4.0)
        if field:
            return usual_loop(learner, batches, train)
        return learner.train(batches) if train else learner.encode(batches)


def usual_images(request: Request, train: bool, size: int) -> Iterator[Iterable[Any]]:
    """Yield the epochs of the usual loader."""
    from torchvision import transforms
    from workloads import usual_epochs, usual_transform

    sizes = sizes_of(request)
    steps: list[Any] = [transforms.Resize(sizes.side)]
    if train:
        steps += [transforms.RandomHorizontalFlip(), transforms.ColorJitter(0.05, 0.05)]
    images = PilImages(sizes.images, usual_transform(*steps))
    workers = 0 if request["tiny"] else min(16, cores())
    return usual_epochs(images, request["device"], size, workers, train, drop_last=True)


def usual_loop(learner: Any, batches: Any, train: bool) -> Values:
    """Run the loop that most repositories of the field have, written for comparison."""
    import torch
    from workloads import Enough

    method = learner.method.train(train)
    optimizer = torch.optim.Adam(method.parameters(), lr=1e-5, weight_decay=5e-4)
    total, codes = 0.0, []
    with contextlib.suppress(Enough), torch.set_grad_enabled(train):
        for batch in batches.train(0):
            if not train:
                codes.append(torch.sign(method.encoder.encode(batch.flat())).cpu())
                continue
            optimizer.zero_grad()
            loss = sum(method(batch).values())
            loss.backward()
            optimizer.step()
            total += loss.item()
    return batches.result  # type: ignore[no-any-return]


# run


class Run:
    """Jobs of train.py, each in a process of its own."""

    def __init__(self, request: Request) -> None:
        self.request, self.sizes = request, sizes_of(request)
        self.scratch = Path(request["scratch"])

    def cells(self) -> list[Cell]:
        """Return the images, a short job, the long one, and several short ones at once."""
        return [Cell("images", 8, self.images), Cell("one job", 25, partial(self.short, "one")),
                Cell("run", 45, self.long), Cell("jobs at once", 40, self.several),
                Cell("one job, graph", 25, self.graph)]  # fmt: skip

    def cell(self, name: str) -> Values:
        """Return the values of a cell.

        Raises:
            NotAvailable: it has not been measured.
        """
        values: Values | None = read_results(Path(self.request["results"]))["cells"].get(name)
        if values is None or "failed" in values or "skipped" in values:
            raise NotAvailable(f"it needs the cell {name!r}")
        return values

    def job(self, outputs: str, epochs: int = 0, every: int = 1) -> list[str]:
        """Return the command line of a job; without ``epochs``, of a short one."""
        return [
            "train", *self.dataset(self.cell("images")["root"]), "method=relahash",
            "model.nbit=64", f"backbone={self.sizes.backbones[0]}",
            f"backbone.weights={self.request['weights'] or 'none'}", "logger=quiet",
            f"trainer.epochs={epochs or self.sizes.epochs}", f"trainer.eval_every={every}",
            f"trainer.device={self.request['device']}", f"paths.outputs={outputs}",
        ]  # fmt: skip

    def dataset(self, root: str) -> list[str]:
        """Return the overrides of the dataset, the same for ``data`` and ``train``."""
        overrides = ["dataset=cifar10", f"dataset.root={root}", "dataset.source.download=false"]
        if self.request["tiny"]:
            overrides += ["dataset.size=32", "dataset.expected=null", "dataset.protocol=subset"]
            counts = {"queries": 2, "train": 8, "database": 12, "validation": 0}
            overrides += [f"dataset.protocols.subset.{key}={n}" for key, n in counts.items()]
        return overrides

    def images(self) -> Values:
        """Find, unpack or generate the images, and decode them into the cache."""
        given, root, count = self.request["data"], self.scratch / "images", 0
        if given is None:
            count = draw_images(root, self.sizes.per_class)
        elif Path(given).is_dir():
            root = Path(given).resolve()
        else:
            unpack(Path(given), root)
        root = folder_of_images(root)
        prepare = ["data", "prepare", *self.dataset(str(root))]
        seconds, _ = time_calls(lambda: call(self.request, prepare, self.left()))
        return {"root": str(root), "made_up": given is None, "count": count, "decoding": seconds}

    def left(self, spare: float = 0.0) -> float:
        """Return the seconds that are left for a command."""
        left: float = self.request["until"] - time.time() - spare
        return max(1.0, left - (0 if self.request["tiny"] else 2))

    def graph(self) -> Values:
        """Run the short job with its steps replayed as CUDA graphs."""
        if self.request["device"] != "cuda":
            raise NotAvailable("only on a CUDA device")
        return self.short("graph", "trainer.graph=true")

    def short(self, outputs: str, *overrides: str) -> Values:
        """Run a short job alone: the cost of the start, an epoch and an evaluation."""
        seconds = call(self.request, [*self.job(outputs), *overrides], self.left())
        return {"seconds": seconds, **read_run(self.scratch / outputs, seconds)}

    def long(self) -> Values:
        """Run as many of the paper's epochs as the time allows, with ten evaluations."""
        one = self.cell("one job")
        job = one["seconds"] - one["begins"]  # at worst, several jobs are as slow as in sequence
        if self.request["tiny"]:
            spare, (epochs, every) = 0.0, (2, 1)
        else:
            spare = one["begins"] + self.sizes.jobs * job + 8
            epochs, every = plan_epochs(one, self.left(spare))
        if not epochs:
            raise NotAvailable("no epoch fits into the time that is left")
        began = time.perf_counter()
        with contextlib.suppress(subprocess.TimeoutExpired):
            call(self.request, self.job("run", epochs, every), self.left(0.7 * spare))
        seconds = time.perf_counter() - began
        return {"epochs": epochs, **read_run(self.scratch / "run", seconds)}

    def several(self) -> Values:
        """Run several of the short jobs at once, with the pool launcher."""
        one, jobs = self.cell("one job"), self.sizes.jobs
        seeds = ",".join(str(seed + 1) for seed in range(jobs))
        command = [*self.job("several"), "-m", f"seed={seeds}", "hydra/launcher=pool"]
        if self.request["device"] == "cuda":
            command.append(f"hydra.launcher.jobs_per_gpu={jobs}")
        else:
            command += [f"hydra.launcher.jobs={jobs}", "hydra.launcher.gpus=[]"]
        seconds = call(self.request, command, self.left())
        done = len(list((self.scratch / "several").rglob("report.json")))
        if done < jobs:
            raise RuntimeError(f"{done} of {jobs} jobs have a report")
        return {
            "jobs": jobs, "seconds": seconds,
            "per_hour": 3600 * jobs / seconds, "per_hour_alone": 3600 / one["seconds"],
            "gain": jobs * one["seconds"] / seconds,
            "table2_beta": cost_of_table(one, jobs, seconds),
        }  # fmt: skip


def call(request: Request, arguments: Sequence[str], seconds: float) -> float:
    """Run a command of deephash in the scratch folder; return the seconds it took.

    Raises:
        subprocess.TimeoutExpired: it was stopped.
        RuntimeError: it failed; the message is the end of its output.
    """
    scratch = Path(request["scratch"])
    log = scratch / "command.txt"
    command = [sys.executable, "-m", "deephash", *arguments]
    print("$", shlex.join(command), flush=True)
    began = time.perf_counter()
    status = run_logged(command, log, seconds, os.environ, scratch)
    text = log.read_text(errors="replace")
    print(text, flush=True)
    if status is None:
        raise subprocess.TimeoutExpired(command, seconds)
    if status:
        lines = [line for line in text.splitlines() if line.strip()] or [f"exit status {status}"]
        raise RuntimeError(f"{arguments[0]} ended with {status}: {lines[-1].strip()}")
    return time.perf_counter() - began


def unpack(archive: Path, root: Path) -> None:
    """Unpack an archive of image files, with the command tar if it works, which is faster."""
    root.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        subprocess.run(["tar", "-xf", str(archive), "-C", str(root)], check=True)
        return
    options: Values = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
    with tarfile.open(archive) as opened:
        opened.extractall(root, **options)  # the filters are new in Python 3.11.4


def draw_images(root: Path, per_class: int) -> int:
    """Write JPEG files of 32 x 32 into the folders of CIFAR-10; return their number.

    A class has its own color and pattern, which is shifted, mirrored and faded in each image, with
    added noise.
    """
    import numpy as np
    from PIL import Image

    y, x = np.mgrid[0:32, 0:32] / 32

    def draw(place: tuple[str, int]) -> None:
        part, kind = place
        rng = np.random.default_rng([kind, len(part)])
        base = np.random.default_rng(kind)
        color, waves = base.uniform(60, 196, 3), base.uniform(1, 4, (3, 2))
        folder = root / part / CIFAR_CLASSES[kind]
        folder.mkdir(parents=True, exist_ok=True)
        count = per_class // 7 if part == "test" else per_class - per_class // 7
        for first in range(0, count, 100):
            number = min(100, count - first)
            phase, strength = rng.uniform(0, 6.3, (number, 3, 1, 1)), rng.uniform(10, 60, number)
            angle = 6.3 * (waves[:, :1, None] * x + waves[:, 1:, None] * y) + phase
            images = color[:, None, None] + strength[:, None, None, None] * np.sin(angle)
            images += rng.normal(0, 25, images.shape)
            pixels = images.clip(0, 255).astype(np.uint8).transpose(0, 2, 3, 1)
            for index, image in enumerate(pixels, first):
                Image.fromarray(image).save(folder / f"{index:04d}.jpg", quality=90)

    with ThreadPoolExecutor(min(16, cores())) as pool:
        list(pool.map(draw, itertools.product(("train", "test"), range(10))))
    return 10 * per_class


def folder_of_images(root: Path) -> Path:
    """Return the folder with ``train`` and ``test``: this one, or one in it.

    Raises:
        FileNotFoundError: there is none.
    """
    for folder in (root, *sorted(path for path in root.iterdir() if path.is_dir())):
        if (folder / "train").is_dir() and (folder / "test").is_dir():
            return folder
    raise FileNotFoundError(f"{root} has no folders train and test of CIFAR-10 as image files")


def plan_epochs(one: Values, seconds: float) -> tuple[int, int]:
    """Return the epochs, and the epochs between evaluations, that fit into a time."""
    for epochs in range(PAPER_EPOCHS, 0, -1):
        every = -(-epochs // (10 if epochs >= 50 else 5))
        evaluations = -(-epochs // every) + 1  # and that of the report
        cost = one["begins"] + epochs * one["epoch"] + evaluations * one["evaluation"]
        if cost * 1.1 <= seconds:
            return epochs, every
    return 0, 1


def read_run(outputs: Path, seconds: float) -> Values:
    """Read the files of a job, whose process took ``seconds`` and may not have finished.

    Returns:
        ``curve``: epoch and mAP of each evaluation; of a finished job also ``begins``, ``epoch``,
        ``encoding`` and ``retrieval`` in seconds, and ``evaluation``, the sum of the last two.
    """
    logs = sorted(outputs.rglob("log.jsonl"))
    if not logs:
        return {"curve": [], "finished": False}
    lines = [json.loads(line) for line in logs[0].read_text().splitlines()]
    curve = [(line["epoch"], line["map"]) for line in lines if line["where"] == "query"]
    rates = [line["images_per_second"] for line in lines if line["where"] == "train"]
    rate = statistics.median(rates or [0.0])  # the first steps, which take longer, hardly count
    values: Values = {"curve": curve, "finished": False, "rate": rate}
    file = logs[0].parent / "report.json"
    if not file.is_file():
        return values
    report = json.loads(file.read_text())
    training, epochs = report["training"], report["selection"]["epoch_last"]
    evaluations = len(curve) + 1
    retrieval = training["retrieval_seconds"] / evaluations
    encoding = training["evaluation_seconds"] / evaluations - retrieval
    if rate:
        epoch = report["protocol"]["num_train"] / rate
    else:
        epoch = (training["seconds"] - training["evaluation_seconds"]) / max(1, epochs)
    return values | {
        "finished": True, "map": report["metrics"]["map"],
        "begins": max(0.0, seconds - training["seconds"]), "epoch": epoch,
        "evaluation": encoding + retrieval, "encoding": encoding, "retrieval": retrieval,
    }  # fmt: skip


def cost_of_table(one: Values, jobs: int, seconds: float) -> Values:
    """Estimate the time of Table 2 of RelaHash on CIFAR-10, with an evaluation after each epoch.

    Args:
        one: the values of a job alone.
        jobs: number of jobs that ran at once.
        seconds: their duration.
    """
    import yaml

    params = yaml.safe_load((ROOT / "sweeps" / "table2_beta.yaml").read_text())["params"]
    count = math.prod(len(values) for key, values in params.items()
                      if isinstance(values, list) and key != "dataset")  # fmt: skip
    job = one["begins"] + STOP_EPOCHS * (one["epoch"] + one["evaluation"]) + one["evaluation"]
    alone = count * job / 3600
    return {"jobs": count, "epochs": STOP_EPOCHS, "hours_alone": alone,
            "hours": alone * seconds / one["seconds"] / jobs}  # fmt: skip


# retrieval


def cells_of_retrieval(request: Request) -> list[Cell]:
    """Return the bandwidth, then each work; the usual routine last."""
    works = sizes_of(request).works
    cells = [Cell("bandwidth", 2, partial(measure_bandwidth, request))]
    for work in works:
        seconds = 30 if work[0] == "10M" else 6
        cells.append(Cell(work[0], seconds, partial(measure_retrieval, request, *work)))
    return [*cells, Cell("field", 15, partial(measure_field, request, *works[0]))]


def measure_bandwidth(request: Request) -> Values:
    """Measure bytes per second of a copy on the device, reads and writes counted."""
    import torch

    device = request["device"]
    size = 1 << (20 if request["tiny"] or device == "cpu" else 30)
    source = torch.randint(0, 255, (size,), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    seconds, _ = time_calls(lambda: target.copy_(source), repeats=5, device=device)
    values: Values = {"bytes_per_second": 2 * size / seconds}
    if device == "cuda":
        values["multiprocessors"] = torch.cuda.get_device_properties(0).multi_processor_count
    return values


def draw_work(name: str, queries: int | None, items: int | None) -> Any:
    """Draw codes and labels of a work of benchmarks/retrieval.py."""
    import retrieval

    work = retrieval.W10M if name == "10M" else getattr(retrieval, name)
    return retrieval.draw(work.limited(queries, items), seed=0)


def count(load: Any, engine: Any) -> Any:
    """Count items and relevant items at each distance from each query."""
    from deephash.retrieval import histograms

    return histograms(*load.arrays(), engine)


def measure_retrieval(
    request: Request, name: str, queries: int | None, items: int | None
) -> Values:
    """Time counting on the device and on the cores of the CPU, and compare the counts.

    Where counting with numpy on one core would take too long, it gets fewer queries, and its time
    is scaled.
    """
    import numpy as np

    from deephash.errors import DataError
    from deephash.retrieval import Convention, Engine, mean_average_precision

    load = few = draw_work(name, queries, items)
    total = len(load.query_codes)
    device, small = Engine("torch", device=request["device"]), load.part(8, 2_000)
    count(small, device)
    try:  # before mAP is timed: numba computes it only after it has counted
        cpu, label = Engine("numba", threads=cores()), f"numba, {cores()} threads"
        count(small, cpu)
    except DataError:
        cpu, label = Engine("numpy"), "numpy, 1 thread"
        pairs = total * len(load.database_codes)
        if pairs > 1e9:
            few = load.part(max(1, int(total * 1e9 / pairs)))
    repeats, warm_up = (1, 0) if request["tiny"] else (3, 1)
    seconds, hist = time_calls(lambda: count(load, device), repeats, warm_up, request["device"])
    convention = Convention(top=load.top)
    map_seconds, value = time_calls(
        lambda: mean_average_precision(hist, convention).value, warm_up=1
    )
    cpu_seconds, expected = time_calls(lambda: count(few, cpu))
    compared = len(few.query_codes)
    equal = all(np.array_equal(counts[:compared], wanted) for counts, wanted in
                ((hist.items, expected.items), (hist.relevant, expected.relevant)))  # fmt: skip
    arrays = (*load.arrays()[:4], hist.items, hist.relevant)  # read or written at least once
    return {
        "queries": total, "items": len(load.database_codes), "nbit": load.nbit,
        "seconds": seconds, "map_seconds": map_seconds, "map": value,
        "bytes": sum(array.nbytes for array in arrays), "cpu": label,
        "cpu_seconds": cpu_seconds * total / compared, "equal": equal,
    }  # fmt: skip


def measure_field(request: Request, name: str, queries: int | None, items: int | None) -> Values:
    """Time mAP as most repositories compute it, on the CPU: floats, matrix product, sort."""
    import retrieval

    load = draw_work(name, queries, items)
    few = load.part(min(100, len(load.query_codes)))
    inputs, compared = retrieval.as_floats(few), len(few.query_codes)
    seconds, _ = time_calls(lambda: retrieval.field(inputs, cores()))
    return {"queries": compared, "work": name,
            "seconds": seconds * len(load.query_codes) / compared}  # fmt: skip


# label-free


def cells_of_label_free(request: Request) -> list[Cell]:
    """Return a training step of each method that needs no labels."""
    sizes = sizes_of(request)
    case = (sizes.backbones[0], sizes.batches[0])
    return [
        Cell(f"{name} | {case[0]} | {case[1]}", 4.0,
             partial(measure_label_free, request, name, *case), limit=48)
        for name in label_free_methods()
    ]  # fmt: skip


def label_free_methods() -> list[str]:
    """Return the recipes with a loss that reads no labels."""
    import yaml

    from deephash.config import requirements

    methods = []
    for path in sorted((ROOT / "conf" / "method").glob("*.yaml")):
        entries = yaml.safe_load(path.read_text())["defaults"]
        groups = dict(
            item for entry in entries if isinstance(entry, dict) for item in entry.items()
        )
        loss = groups.get("/loss@loss", groups.get("/loss@method.loss"))  # of a global recipe
        if loss is not None:
            node = yaml.safe_load((ROOT / "conf" / "loss" / f"{loss}.yaml").read_text())
            if not requirements.declared({"loss": node}).labels:
                methods.append(path.stem)
    return methods


def measure_label_free(request: Request, method: str, backbone: str, size: int) -> Values:
    """Measure images per second in training, each with all its views."""
    with torch_settings(request, "as train.py") as settings:
        learner = learner_of(request, backbone, settings, method)
        batches = timed(request, itertools.repeat(learner.noise(size)))
        with peak_memory(request["device"]) as peak:
            train = learner.train(batches)
    return {"train": train["rate"], "views": learner.views, **peak}


PARTS: dict[str, Callable[[Request], list[Cell]]] = {
    "tests": lambda request: [Cell("pytest -m gpu", 10, partial(run_tests, request))],
    "steps": cells_of_steps,
    "run": lambda request: Run(request).cells(),
    "retrieval": cells_of_retrieval,
    "label-free": cells_of_label_free,
}
