"""What benchmarks/gpu.py measures: its parts as cells, each of which costs only itself."""

import contextlib
import gc
import inspect
import itertools
import json
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
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]

GRACE = 6.0
"""Seconds before the end of its share at which a part begins no further cell."""

AGAIN = 75
"""Exit status of a part whose device is lost: the cells that are left run in a new process."""

TAIL = 12
"""Lines of a traceback that are kept."""

PAPER_EPOCHS, STOP_EPOCHS = 100, 25
"""RelaHash: epochs of Table 1; the most that early stopping took in Tables 2 and 3."""

Request = dict[str, Any]
Found = dict[str, Any]


@dataclass(frozen=True)
class Sizes:
    """How much is measured."""

    side: int  # of the images, in pixels
    backbones: tuple[str, ...]  # the first one is that of the run
    batches: tuple[int, ...]  # the first one is that of the run
    window: float  # seconds for which a rate is measured
    images: int  # that the comparison of loops reads
    jobs: int  # at once
    epochs: int  # of a job that is timed
    per_class: int  # made-up images; a seventh of them in the test part
    works: tuple[tuple[str, int | None, int | None], ...]  # retrieval: work, queries, items


FULL = Sizes(
    224, ("squeezenet1_0", "alexnet", "resnet50"), (16, 256, 64), 1.0, 20_000, 4, 1, 6_000,
    (("W1", None, None), ("W2", None, None), ("W3", None, None), ("10M", 1_000, 10_000_000)),
)  # fmt: skip
TINY = Sizes(
    32, ("tiny",), (4, 8), 0.02, 64, 2, 1, 14,
    (("W1", 20, 500), ("W2", 20, 400), ("W3", 20, 300), ("10M", 10, 2_000)),
)  # fmt: skip


# Cells


@dataclass(frozen=True)
class Cell:
    """One measurement of a part."""

    name: str
    seconds: float  # that it is expected to take
    run: Callable[[], Found]
    most: float | None = None  # seconds after which it is given up; None for those of the part


class NotAvailable(Exception):
    """The cell cannot be measured here."""


def go(cells: Sequence[Cell], request: Request) -> None:
    """Run the cells of a part that have no result yet, as far as the time allows.

    Results are written to ``request["results"]`` after each cell: ``{"cells": {name: values},
    "current": name of the cell that runs}``. The values of a cell that was not measured have one
    key, ``skipped`` or ``failed``.

    Args:
        cells: the most useful first.
        request: of the part.
    """
    file = Path(request["results"])
    results = read_results(file)
    for cell in cells:
        if cell.name in results["cells"]:
            continue
        left = request["until"] - GRACE * (not request["tiny"]) - time.time()
        if left < (0 if request["tiny"] else cell.seconds):
            values = {
                "skipped": f"needs about {cell.seconds:.0f} s, {max(0, left):.0f} s were left"
            }
            results["cells"][cell.name] = values
            write_atomic(file, json.dumps(results))
            continue
        results["current"] = cell.name
        write_atomic(file, json.dumps(results))
        print(f"{request['part']}: {cell.name}", flush=True)
        began = time.perf_counter()
        try:
            with limited(cell.most):
                values = cell.run()
        except NotAvailable as reason:
            values = {"skipped": str(reason)}
        except Exception as error:
            traceback.print_exc()
            values = {
                "failed": brief(error),
                "traceback": traceback.format_exc().splitlines()[-TAIL:],
            }
        values["took"] = time.perf_counter() - began
        results["cells"][cell.name] = values
        results["current"] = None
        write_atomic(file, json.dumps(results))
        if "failed" in values and lost(request["device"]):
            raise SystemExit(AGAIN)
    results["complete"] = True
    write_atomic(file, json.dumps(results))


@contextlib.contextmanager
def limited(seconds: float | None) -> Iterator[None]:
    """Raise TimeoutError in the main thread once the time is up, after the call of C that runs."""

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


def read_results(file: Path) -> Found:
    """Read what a part has measured so far; nothing if it has not begun."""
    try:
        found: Found = json.loads(file.read_text())
    except (OSError, ValueError):
        return {"cells": {}, "current": None}
    return found


def write_atomic(file: Path, text: str) -> None:
    """Write a file whole or not at all."""
    new = file.with_name(file.name + ".new")
    new.write_text(text)
    new.replace(file)


def brief(error: BaseException) -> str:
    """Return the kind of an error and its first line."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"[:200].rstrip(": ")


def lost(device: str) -> bool:
    """Return whether a CUDA device no longer answers this process."""
    if device != "cuda":
        return False
    import torch

    try:
        torch.cuda.synchronize()
    except Exception:
        return True
    return False


# tests


def cells_of_tests(request: Request) -> list[Cell]:
    """One cell: everything that is marked ``gpu``."""
    return [Cell("pytest -m gpu", 10, lambda: run_tests(request))]


def run_tests(request: Request) -> Found:
    """Run the tests marked ``gpu``; those that had ended count if the time runs out."""
    folder = Path(request.get("tests") or ROOT / "tests")
    files = [str(path) for path in sorted(folder.rglob("test_*.py")) if marked(path)]
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
    environment = os.environ | {
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONUNBUFFERED": "1",
        "OMP_NUM_THREADS": str(max(1, min(8, cores() // 2))),  # the CPU's side is computed too
    }  # fmt: skip
    log = Path(request["scratch"]) / "pytest.txt"
    status = run_logged(command, log, request["until"] - time.time() - 3, environment, ROOT)
    text = log.read_text(errors="replace")
    print(text)
    return {"status": status, **read_pytest(text)}


def marked(path: Path) -> bool:
    """Return whether a file has tests marked ``gpu``, or with the fixture ``device``."""
    text = path.read_text(encoding="utf-8")
    return "mark.gpu" in text or re.search(r"def test_\w+\([^)]*\bdevice\b", text) is not None


OUTCOME = re.compile(r"^(\S*::.+?) (PASSED|FAILED|SKIPPED|ERROR|XFAIL|XPASS)\b", re.MULTILINE)
SUMMARY = re.compile(r"^(?:FAILED|ERROR) (\S*::.+?)(?: - (.*))?$", re.MULTILINE)
BROKEN = re.compile(r"^ERROR (\S+\.py)(?: - (.*))?$", re.MULTILINE)


def read_pytest(text: str) -> Found:
    """Count outcomes in the output of ``pytest -v -rfE``, also where it breaks off.

    Returns:
        passed, failed, skipped: how many.
        failures: the name of each test that failed -> the last line of its failure.
        interrupted: the test that was running when the output broke off; None if it did not.
    """
    outcomes = dict(OUTCOME.findall(text))
    failed = [name for name, outcome in outcomes.items() if outcome in ("FAILED", "ERROR", "XPASS")]
    failures = dict.fromkeys(failed, "")
    failures |= {name: reason for name, reason in SUMMARY.findall(text)}
    failures |= {name: reason for name, reason in BROKEN.findall(text)}
    whole = re.search(r"^=+ .*\bin [\d.]+s", text, re.MULTILINE) is not None
    last = next((line for line in reversed(text.splitlines()) if "::" in line), "")
    counts = list(outcomes.values())
    return {
        "passed": counts.count("PASSED"),
        "failed_tests": len(failures),
        "skipped_tests": counts.count("SKIPPED") + counts.count("XFAIL"),
        "failures": {short(name): reason[:160] for name, reason in failures.items()},
        "interrupted": None if whole else last.split(" ")[0][-120:] or "before the first test",
    }


def short(name: str) -> str:
    """Return the name of a test without the folder of its file."""
    path, colons, test = name.partition("::")
    return path.rpartition("/")[2] + colons + test


def run_logged(
    command: Sequence[str], log: Path, seconds: float, environment: Mapping[str, str], folder: Path
) -> int | None:
    """Run a command, its output in a file; kill it with all it started when the time is up.

    Returns:
        Its exit status; None if it was killed.
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
            end(process)


def end(process: "subprocess.Popen[Any]", patience: float = 3.0) -> None:
    """Stop a process that still runs, with its group: by force after so many seconds."""
    if process.poll() is not None:
        return
    for how in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, how)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(patience)


# steps

FORMS: dict[str, Found] = {
    "as train.py": {},
    "graph": {"graph": True},
    "fill": {"fill": True},
    "not deterministic": {"deterministic": False},
    "fp32": {"deterministic": False, "channels_last": False, "tf32": False},
    "tf32": {"deterministic": False, "channels_last": False, "tf32": True},
    "tf32 cl": {"deterministic": False, "tf32": True},
    "bf16": {"deterministic": False, "channels_last": False, "precision": "bf16"},
    "bf16 cl": {"deterministic": False, "precision": "bf16"},
    "bf16 cl graph": {"deterministic": False, "precision": "bf16", "graph": True},
    "bf16 cl compiled": {"deterministic": False, "precision": "bf16", "compile": True},
}
"""Settings of the trainer by which each form differs from those of train.py; besides ``tf32``, for
products and convolutions, and ``fill``, of uninitialised memory."""

SECONDS = {"compile": 45.0, "graph": 6.0}
"""That a cell of such a form takes; others take less."""


def cells_of_steps(request: Request) -> list[Cell]:
    """Steps at the batch size of the run first, those that compile last."""
    sizes = sizes_of(request)
    first, small = sizes.backbones[0], sizes.batches[0]
    plan: list[tuple[str, str, int]] = []
    plan += [(backbone, "as train.py", small) for backbone in sizes.backbones]
    plan += [(backbone, "graph", small) for backbone in sizes.backbones]
    plan += [(backbone, "bf16 cl", small) for backbone in sizes.backbones]
    plan += [(first, form, small) for form in ("not deterministic", "fill", "bf16 cl graph")]
    early = len(plan)
    for size in sizes.batches[1:]:
        plan += [(b, form, size) for form in ("as train.py", "bf16 cl") for b in sizes.backbones]
        plan += [(first, "bf16 cl compiled", small)]
    for size in sizes.batches:
        plan += [(b, form, size) for form in ("fp32", "tf32", "tf32 cl") for b in sizes.backbones]
    plan += [(backbone, "bf16", small) for backbone in sizes.backbones]
    plan += [(b, "bf16 cl graph", size) for size in sizes.batches for b in sizes.backbones]
    plan += [(backbone, "bf16 cl compiled", small) for backbone in sizes.backbones[1:]]

    def step(at: tuple[str, str, int]) -> Cell:
        seconds = max((SECONDS[key] for key in FORMS[at[1]] if key in SECONDS), default=4.0)
        run = partial(measure_step, request, *at)
        return Cell(" | ".join(map(str, at)), seconds, run, most=2 * seconds + 40)

    def profiled(form: str) -> Cell:
        return Cell(f"profile | {form}", 8, partial(measure_profile, request, form), most=60)

    def looped(use: str, whose: str) -> Cell:
        run = partial(measure_loop, request, use == "train", whose)
        return Cell(f"loop | {use} | {whose}", 9, run, most=60)

    steps = [step(at) for at in dict.fromkeys(plan)]
    profiles = [profiled(form) for form in ("as train.py", "graph", "bf16 cl")]
    loops = [looped(use, whose) for use in ("train", "encode") for whose in ("field", "ours")]
    return [*steps[:early], *profiles, *loops, *steps[early:]]


def measure_step(request: Request, backbone: str, form: str, size: int) -> Found:
    """Measure images per second in training and encoding on batches that lie on the device."""
    with tuned(request, form) as settings:
        learner = Learner(request, backbone, settings)
        batch = learner.noise(size)
        with peak_memory(request["device"]) as peak, noted() as notes:
            train = learner.train(Supply(itertools.repeat(batch), request))
        refuse_eager(settings, notes)
        encode = learner.encode(Supply(itertools.repeat(batch), request, warm=3))
        return {
            "train": train["rate"],
            "encode": encode["rate"],
            "first": train["first"],
            **peak,
            **notes,
        }


@contextlib.contextmanager
def tuned(request: Request, form: str) -> Iterator[Found]:
    """Apply what a form says to torch; give the settings for the trainer, and clean up after it."""
    import torch

    from deephash.training.precision import use_deterministic

    on_cuda = request["device"] == "cuda"
    changed = dict(FORMS[form])
    fill, tf32 = changed.pop("fill", None), changed.pop("tf32", None)
    settings = configuration(request, sizes_of(request).backbones[0])["trainer"]
    if changed.get("graph") and "graph" not in settings:
        raise NotAvailable("trainer.graph does not exist")
    if not on_cuda and (tf32 or changed.get("graph")):
        raise NotAvailable("only on a CUDA device")
    if not on_cuda and changed.get("compile") and request["tiny"]:
        raise NotAvailable("compiling takes longer than all of --tiny")
    settings = {**settings, **changed}
    before, filled = tf32_state(), torch.utils.deterministic.fill_uninitialized_memory
    use_deterministic(settings["deterministic"])
    if fill is not None:
        torch.utils.deterministic.fill_uninitialized_memory = fill
    try:
        if tf32 is not None:
            set_tf32(tf32, tf32)
        yield settings
    finally:
        set_tf32(*before)
        use_deterministic(False)
        torch.utils.deterministic.fill_uninitialized_memory = filled
        torch.backends.cudnn.benchmark = False
        if settings["compile"]:
            torch._dynamo.reset()
        gc.collect()
        if on_cuda:
            torch.cuda.empty_cache()


def set_tf32(products: bool, convolutions: bool) -> None:
    """Allow TF32, or not.

    By the flags that all releases of torch have: from 2.9 on there are newer ones, but where these
    were set, compiling fails in some releases, which read the older ones.
    """
    import torch

    with quiet():
        torch.backends.cuda.matmul.allow_tf32 = products
        torch.backends.cudnn.allow_tf32 = convolutions


def tf32_state() -> tuple[bool, bool]:
    """Return whether TF32 is allowed in products, and in convolutions."""
    import torch

    with quiet():
        return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Suppress deprecation warnings."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextlib.contextmanager
def peak_memory(device: str) -> Iterator[Found]:
    """Fill in ``peak_mb``: the most memory that tensors took on a CUDA device meanwhile."""
    import torch

    found: Found = {}
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    yield found
    if device == "cuda":
        found["peak_mb"] = torch.cuda.max_memory_allocated() / 1e6


def refuse_eager(settings: Found, notes: Found) -> None:
    """Raise RuntimeError if the steps were not replayed as graphs though they should have been."""
    for note in notes.get("notes", []):
        if settings.get("graph") and "trainer.graph" in note:
            raise RuntimeError(note)


@contextlib.contextmanager
def noted() -> Iterator[Found]:
    """Fill in ``notes``: the different warnings of the program, such as of a graph not used."""
    import logging

    found: Found = {}

    class Note(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            note, notes = record.getMessage()[:200], found.setdefault("notes", [])
            if note not in notes:
                notes.append(note)

    handler, log = Note(logging.WARNING), logging.getLogger("deephash")
    log.addHandler(handler)
    try:
        yield found
    finally:
        log.removeHandler(handler)


def sizes_of(request: Request) -> Sizes:
    """Return the sizes of a request."""
    return TINY if request["tiny"] else FULL


def configuration(request: Request, backbone: str, method: str = "relahash") -> Found:
    """Compose the configuration of a method, 64 bits, on CIFAR-10; the caller may modify it."""
    text = composed(backbone, request["device"], sizes_of(request).side, method)
    return json.loads(text)  # type: ignore[no-any-return]


@cache
def composed(backbone: str, device: str, side: int, method: str) -> str:
    """The folded configuration, as JSON."""
    from hydra import compose, initialize_config_dir

    from deephash.config import resolve, schema

    schema.register()
    words = [
        "dataset=cifar10", f"dataset.size={side}", f"backbone={backbone}", "backbone.weights=none",
        f"method={method}", "model.nbit=64", f"trainer.device={device}",
    ]  # fmt: skip
    if method == "relahash":
        words.append("codebook=bernoulli")  # drawn at once; the best centers are searched for
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return json.dumps(resolve.resolve(compose("train", overrides=words)))


class Enough(Exception):
    """The time of a measurement is up."""


class Supply:
    """Endless batches with a timer, used as the trainer's data.

    The clock starts when the device has done the first steps; at the end of the time `Enough` is
    raised into the loop, so that it saves and evaluates nothing.

    Args:
        batches: without end.
        request: of the part.
        warm: steps before the clock starts; fewer with ``--tiny``.
        window: seconds to measure for; None for those of the request.
        steps: measure so many instead.
        begins: called when the clock starts.
        ends: called when it stops.
    """

    def __init__(
        self,
        batches: Iterable[Any],
        request: Request,
        warm: int = 12,
        window: float | None = None,
        steps: int | None = None,
        begins: Callable[[], Any] = lambda: None,
        ends: Callable[[], Any] = lambda: None,
    ) -> None:
        self.batches = batches
        self.device = request["device"]
        self.warm = min(warm, 3) if request["tiny"] else warm
        self.window = sizes_of(request).window if window is None else window
        self.steps = steps
        self.begins, self.ends = begins, ends
        self.result: Found = {}

    def train(self, epoch: int) -> Iterator[Any]:
        """Yield batches until the time is up."""
        done, images, chunk, first = 0, 0, 1, 0.0
        began = time.perf_counter()
        for batch in self.batches:
            if done == self.warm:
                wait_for(self.device)
                self.begins()
                began = time.perf_counter()
            yield batch
            done += 1
            if done == 1 and self.warm:
                wait_for(self.device)
                first = time.perf_counter() - began
            measured = done - self.warm
            if measured <= 0:
                continue
            images += len(batch.index)
            if measured % chunk or (self.steps and measured < self.steps):
                continue
            wait_for(self.device)
            seconds = time.perf_counter() - began
            if self.steps or seconds >= self.window:
                self.ends()
                self.result = {"rate": images / seconds, "seconds": seconds, "steps": measured,
                               "first": first}  # fmt: skip
                raise Enough
            if measured == 1:  # so that the device seldom waits for the clock
                chunk = max(1, min(50, int(self.window / 4 / seconds)))

    def eval_batches(self, ids: Any) -> Iterator[Any]:
        """The same, to encode."""
        return self.train(0)


def wait_for(device: str) -> None:
    """Wait until a CUDA device has done all that it was given."""
    if device == "cuda":
        import torch

        torch.cuda.synchronize()


class Silent:
    """What the trainer's loop takes for a logger."""

    def scalars(self, where: str, values: Any, step: int, epoch: int) -> None:
        """Ignore them."""

    def tick(self) -> None:
        """Ignore it."""


class Learner:
    """A method with a trainer, as a training job builds them.

    Args:
        request: of the part.
        backbone: its name.
        settings: of the trainer.
        method: its name.
    """

    def __init__(
        self, request: Request, backbone: str, settings: Found, method: str = "relahash"
    ) -> None:
        import torch

        from deephash.config import build, requirements, schema
        from deephash.training import compile_options
        from deephash.training.trainer import LoopOptions, Trainer
        from deephash.utils.run_paths import RunPaths

        folded = configuration(request, backbone, method)
        self.views = requirements.num_views(folded["method"])
        folded["trainer"] = {**folded["trainer"], **settings}
        cfg = schema.parse(schema.Train, folded)
        self.device, self.side = torch.device(request["device"]), sizes_of(request).side
        self.precision = settings["precision"]
        self.method = build.method(cfg, num_classes=10, num_train=5_000).to(self.device)
        if settings["channels_last"]:
            self.method.encoder.to(memory_format=torch.channels_last)
        if settings["compile"]:
            compile_options.compile_in_place(self.method, self.device)
        optimizer = build.optimizer(cfg, self.method)
        compile_options.fuse(optimizer, self.device)
        known = set(inspect.signature(LoopOptions).parameters)
        options = LoopOptions(**{key: settings[key] for key in known & set(settings)})
        capture = None
        if settings.get("graph"):
            from deephash.training import cuda_graphs

            capture = cuda_graphs.CudaCapture(self.device)
        schedule = build.part(cfg.scheduler, "scheduler")
        self.loop = Trainer(
            RunPaths(Path(request["scratch"])),
            optimizer,
            schedule,
            self.device,
            "",
            options,
            capture,
        )

    def noise(self, size: int) -> Any:
        """Make a batch of noise on the device."""
        import torch

        from deephash.types import Batch

        draw = torch.Generator().manual_seed(0)
        images = torch.randn(size, self.views, 3, self.side, self.side, generator=draw)
        labels = torch.eye(10)[torch.arange(size) % 10]
        index = torch.arange(size)
        return Batch(*(values.to(self.device) for values in (images, labels, index)))

    def train(self, supply: Supply) -> Found:
        """Train by the trainer's own loop until the supply ends it."""
        with contextlib.suppress(Enough):
            self.loop.fit(self.method, supply, None, Silent())
        return supply.result

    def encode(self, supply: Supply) -> Found:
        """Encode as an evaluation does until the supply ends it."""
        import numpy as np

        from deephash.training.evaluation import encode
        from deephash.training.precision import autocast

        with contextlib.suppress(Enough):
            form = partial(autocast, self.device, self.precision)
            encode(self.method.encoder, supply, form, np.arange(1))
        return supply.result


def measure_profile(request: Request, form: str) -> Found:
    """Profile training steps: launches and operators of a step, busy share, the largest kernels."""
    from torch.profiler import ProfilerActivity, profile

    sizes, on_cuda = sizes_of(request), request["device"] == "cuda"
    with tuned(request, form) as settings:
        learner = Learner(request, sizes.backbones[0], settings)
        activities = [ProfilerActivity.CPU, *[ProfilerActivity.CUDA] * on_cuda]
        seen = profile(activities=activities, acc_events=True)  # without which some releases warn
        supply = Supply(
            itertools.repeat(learner.noise(sizes.batches[0])), request,
            steps=20 if on_cuda else 2, begins=seen.start, ends=seen.stop,
        )  # fmt: skip
        with noted() as notes:
            found = learner.train(supply)
        refuse_eager(settings, notes)
        return {"ms": 1e3 * found["seconds"] / found["steps"], **read_profile(seen, found, on_cuda)}


LAUNCHES = {"kernels": "LaunchKernel", "graphs": "GraphLaunch", "copies": "Memcpy",
            "fills": "Memset", "waits": "Synchronize"}  # fmt: skip
"""Names of the calls of the CUDA runtime and driver, by a part of them."""


def read_profile(seen: Any, found: Found, on_cuda: bool) -> Found:
    """Take figures from a profile that has ended.

    Args:
        seen: the profiler.
        found: seconds and steps while it ran.
        on_cuda: whether it saw kernels; else operators of the CPU take their place.

    Returns:
        calls, operators: how many a step.
        busy: share of the time in which at least one kernel ran; device_ms: that of a step.
        top: the largest kernels or operators: name, how many a step, share of their time.

    Raises:
        RuntimeError: the profiler saw no kernel.
    """
    from torch.autograd import DeviceType

    steps = found["steps"]
    kind = DeviceType.CUDA if on_cuda else DeviceType.CPU
    rows = [row for row in seen.key_averages() if not annotation(row)]
    calls = {
        name: sum(
            row.count for row in rows
            if part in row.key and row.key.startswith("cu") and row.device_type == DeviceType.CPU
        ) / steps
        for name, part in LAUNCHES.items()
    }  # fmt: skip
    spans = sorted(
        (event.time_range.start, event.time_range.end)
        for event in seen.events()
        if event.device_type == kind and not annotation(event)
    )
    if not spans:
        raise RuntimeError("the profiler recorded no kernel")
    own = "self_device_time_total" if on_cuda else "self_cpu_time_total"
    rows = [row for row in rows if row.device_type == kind]
    rows.sort(key=lambda row: -getattr(row, own))
    total = sum(getattr(row, own) for row in rows) or 1
    operators = (
        sum(row.count for row in seen.key_averages() if row.key.startswith("aten::")) / steps
    )
    return {
        "calls": calls,
        "operators": operators,
        "busy": covered(spans) / 1e6 / found["seconds"],
        "device_ms": covered(spans) / 1e3 / steps,
        "top": [(row.key[:80], row.count / steps, getattr(row, own) / total) for row in rows[:8]],
    }


def annotation(event: Any) -> bool:
    """Return whether an event of a profile only marks a stretch of time."""
    name = getattr(event, "key", None) or getattr(event, "name", "")
    marks = ("ProfilerStep", "Optimizer.", "Torch-Compiled", "## Call", "gpu_user_annotation")
    return bool(getattr(event, "is_user_annotation", False)) or name.startswith(marks)


def covered(spans: Iterable[tuple[float, float]]) -> float:
    """Return the length of a union of intervals, sorted by their beginnings."""
    total, reached = 0.0, float("-inf")
    for start, stop in spans:
        total += max(0.0, stop - max(start, reached))
        reached = max(reached, stop)
    return total


class Pictures:
    """Images of noise as PIL makes them, one by one: a data set as torch's loader takes it."""

    def __init__(self, count: int, transform: Callable[[Any], Any]) -> None:
        import numpy as np

        self.pixels = np.random.default_rng(0).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
        self.transform = transform

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, at: int) -> tuple[Any, int]:
        from PIL import Image

        return self.transform(Image.fromarray(self.pixels[at])), at % 10


def measure_loop(request: Request, train: bool, whose: str) -> Found:
    """Measure a loop with all that feeds it, from images of 32 x 32 in memory.

    ``field``: PIL and torchvision's transforms, image by image, in the workers of a DataLoader;
    the loss is read after each step. ``ours``: views made in batches on the device.
    """
    import pipeline

    sizes = sizes_of(request)
    with tuned(request, "as train.py" if whose == "ours" else "not deterministic") as settings:
        if whose == "field":
            settings = settings | {"channels_last": False}
        learner = Learner(request, sizes.backbones[0], settings)
        size = sizes.batches[0] if train else max(sizes.batches)
        window = None if request["tiny"] else 4.0
        if whose == "field":
            return field_loop(request, learner, train, size, window)
        options = {
            "size": sizes.side, "device": request["device"], "batch": size, "encode": size,
        }  # fmt: skip
        data = pipeline.module(options, pipeline.Arrays(sizes.images), cifar=True)
        batches = itertools.chain.from_iterable(pipeline.epochs(data, train))
        supply = Supply(batches, request, window=window)
        return learner.train(supply) if train else learner.encode(supply)


def field_loop(
    request: Request, learner: Learner, train: bool, size: int, window: float | None
) -> Found:
    """The loop that most repositories of the field have, written for comparison."""
    import torch
    from torchvision import transforms

    from deephash.types import Batch

    sizes, device = sizes_of(request), learner.device
    steps: list[Any] = [transforms.Resize(sizes.side)]
    if train:
        steps += [transforms.RandomHorizontalFlip(), transforms.ColorJitter(0.05, 0.05)]
    steps += [
        transforms.ToTensor(),
        transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
    ]
    loader = torch.utils.data.DataLoader(
        Pictures(sizes.images, transforms.Compose(steps)), batch_size=size, shuffle=train,  # type: ignore[arg-type]
        drop_last=True, num_workers=0 if request["tiny"] else min(16, cores()),
        pin_memory=device.type == "cuda",
    )  # fmt: skip
    method = learner.method.train(train)
    optimizer = torch.optim.Adam(method.parameters(), lr=1e-5, weight_decay=5e-4)
    total, codes = 0.0, []

    def batches() -> Iterator[Any]:
        for images, classes in itertools.chain.from_iterable(itertools.repeat(loader)):
            labels = torch.nn.functional.one_hot(classes.to(device), 10).float()
            index = torch.arange(len(images), device=device)
            yield Batch(images.to(device).unsqueeze(1), labels, index)

    supply = Supply(batches(), request, window=window)
    with contextlib.suppress(Enough), torch.set_grad_enabled(train):
        for batch in supply.train(0):
            if not train:
                codes.append(torch.sign(method.encoder.encode(batch.flat())).cpu())
                continue
            optimizer.zero_grad()
            loss = sum(method(batch).values())
            loss.backward()
            optimizer.step()
            total += loss.item()
    return supply.result


def cores() -> int:
    """Return how many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


# run


def cells_of_run(request: Request) -> list[Cell]:
    """Images first; a short job, the long one, several short ones at once."""
    run = Run(request)
    cells = {"images": (8, run.images), "one job": (25, run.one), "run": (45, run.long),
             "jobs at once": (40, run.several), "one job, graph": (25, run.graphed)}  # fmt: skip
    return [Cell(name, seconds, measure) for name, (seconds, measure) in cells.items()]


class Run:
    """The jobs of train.py that are timed, each in a process of its own.

    Args:
        request: of the part.
    """

    def __init__(self, request: Request) -> None:
        self.request, self.sizes = request, sizes_of(request)
        self.scratch = Path(request["scratch"])
        self.seconds: dict[str, float] = {}

    def cell(self, name: str) -> Found:
        """Return what a cell has measured.

        Raises:
            NotAvailable: it has not.
        """
        values: Found | None = read_results(Path(self.request["results"]))["cells"].get(name)
        if values is None or "failed" in values or "skipped" in values:
            raise NotAvailable(f"it needs the cell {name!r}")
        return values

    def words(self, epochs: int, every: int, outputs: str) -> list[str]:
        """Return the command line of a job."""
        return [
            *self.dataset_words(self.cell("images")["root"]), "method=relahash", "model.nbit=64",
            f"backbone={self.sizes.backbones[0]}",
            f"backbone.weights={self.request['weights'] or 'none'}", "logger=quiet",
            f"trainer.epochs={epochs}", f"trainer.eval_every={every}",
            f"trainer.device={self.request['device']}", f"paths.outputs={outputs}",
        ]  # fmt: skip

    def dataset_words(self, root: str) -> list[str]:
        """Return the words that name the data set, the same for ``data`` and ``train``."""
        words = ["dataset=cifar10", f"dataset.root={root}", "dataset.source.download=false"]
        if self.request["tiny"]:
            words += ["dataset.size=32", "dataset.expected=null", "dataset.protocol=subset"]
            counts = {"queries": 2, "train": 8, "database": 12, "validation": 0}
            words += [f"dataset.protocols.subset.{key}={value}" for key, value in counts.items()]
        return words

    def images(self) -> Found:
        """Find, unpack or make up the images, and decode them into the cache."""
        given = self.request["data"]
        root = self.scratch / "images"
        if given is None:
            count = make_images(root, self.sizes.per_class)
        elif Path(given).is_dir():
            root, count = Path(given).resolve(), 0
        else:
            unpack(Path(given), root)
            count = 0
        root = folder_of_images(root)
        began = time.perf_counter()
        call(self.request, ["data", "prepare", *self.dataset_words(str(root))], self.until(0))
        return {"root": str(root), "made_up": given is None, "count": count,
                "decoding": time.perf_counter() - began}  # fmt: skip

    def until(self, spare: float) -> float:
        """Return the seconds that are left, less some."""
        left: float = self.request["until"] - time.time() - spare
        return max(1.0, left - (0 if self.request["tiny"] else 2))

    def one(self) -> Found:
        """A short job alone: what beginning, an epoch and an evaluation cost."""
        epochs = self.sizes.epochs
        words = self.words(epochs, 1, "one")
        seconds = call(self.request, ["train", *words], self.until(0))
        return {"seconds": seconds, **read_run(self.scratch / "one", seconds)}

    def graphed(self) -> Found:
        """The short job with its steps replayed as CUDA graphs."""
        if self.request["device"] != "cuda":
            raise NotAvailable("only on a CUDA device")
        words = [*self.words(self.sizes.epochs, 1, "graph"), "trainer.graph=true"]
        seconds = call(self.request, ["train", *words], self.until(0))
        return {"seconds": seconds, **read_run(self.scratch / "graph", seconds)}

    def long(self) -> Found:
        """As many of the paper's epochs as the time allows, with ten evaluations."""
        one = self.cell("one job")
        job = one["seconds"] - one["begins"]  # at worst, jobs at once are as slow as in turn
        spare = 0 if self.request["tiny"] else one["begins"] + self.sizes.jobs * job + 8
        epochs, every = planned(one, self.until(spare))
        if self.request["tiny"]:
            epochs, every = 2, 1
        if not epochs:
            raise NotAvailable("no epoch fits into the time that is left")
        words = self.words(epochs, every, "run")
        began = time.perf_counter()
        with contextlib.suppress(subprocess.TimeoutExpired):
            call(self.request, ["train", *words], self.until(0.7 * spare))
        seconds = time.perf_counter() - began
        return {"epochs": epochs, **read_run(self.scratch / "run", seconds)}

    def several(self) -> Found:
        """Several of the short jobs at once, by the pool launcher."""
        one, jobs = self.cell("one job"), self.sizes.jobs
        words = self.words(self.sizes.epochs, 1, "several")
        seeds = ",".join(str(seed + 1) for seed in range(jobs))
        words += ["-m", f"seed={seeds}", "hydra/launcher=pool"]
        on_cuda = self.request["device"] == "cuda"
        words.append(f"hydra.launcher.jobs_per_gpu={jobs}" if on_cuda else
                     f"hydra.launcher.jobs={jobs}")  # fmt: skip
        words += [] if on_cuda else ["hydra.launcher.gpus=[]"]
        seconds = call(self.request, ["train", *words], self.until(0))
        done = len(list((self.scratch / "several").rglob("report.json")))
        if done < jobs:
            raise RuntimeError(f"{done} of {jobs} jobs have a report")
        return {
            "jobs": jobs, "seconds": seconds,
            "per_hour": 3600 * jobs / seconds, "per_hour_alone": 3600 / one["seconds"],
            "gain": jobs * one["seconds"] / seconds,
            "table2_beta": cost_of_table(one, jobs, seconds),
        }  # fmt: skip


def call(request: Request, words: Sequence[str], seconds: float) -> float:
    """Run one of the project's commands in the scratch folder; return the seconds it took.

    Raises:
        subprocess.TimeoutExpired: it was stopped.
        RuntimeError: it failed; the end of its output is the message.
    """
    scratch = Path(request["scratch"])
    log = scratch / "command.txt"
    command = [sys.executable, "-m", "deephash", *words]
    print("$", shlex.join(command), flush=True)
    began = time.perf_counter()
    status = run_logged(command, log, seconds, os.environ, scratch)
    text = log.read_text(errors="replace")
    print(text, flush=True)
    if status is None:
        raise subprocess.TimeoutExpired(command, seconds)
    if status:
        lines = [line for line in text.splitlines() if line.strip()] or [f"exit status {status}"]
        raise RuntimeError(f"{words[0]} ended with {status}: {lines[-1].strip()}")
    return time.perf_counter() - began


def unpack(archive: Path, root: Path) -> None:
    """Unpack an archive of image files, by the system's tar where it can, which is faster."""
    root.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(OSError):
        if not subprocess.run(["tar", "-xf", str(archive), "-C", str(root)]).returncode:
            return
    safely: dict[str, Any] = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
    with tarfile.open(archive) as opened:
        opened.extractall(root, **safely)  # Python 3.11.4 brought the filters


def make_images(root: Path, per_class: int) -> int:
    """Draw JPEG files of 32 x 32 in the folders of CIFAR-10; return how many.

    A class has a colour and a pattern of its own, which single images move, mirror and fade, with
    noise upon it.
    """
    import numpy as np
    from PIL import Image

    names = [
        "airplane",
        "automobile",
        "bird",
        "cat",
        "deer",
        "dog",
        "frog",
        "horse",
        "ship",
        "truck",
    ]
    y, x = np.mgrid[0:32, 0:32] / 32

    def draw(at: tuple[str, int]) -> None:
        part, kind = at
        rng = np.random.default_rng([kind, len(part)])
        base = np.random.default_rng(kind)
        colour, waves = base.uniform(60, 196, 3), base.uniform(1, 4, (3, 2))
        folder = root / part / names[kind]
        folder.mkdir(parents=True, exist_ok=True)
        count = per_class // 7 if part == "test" else per_class - per_class // 7
        for first in range(0, count, 100):
            some = min(100, count - first)
            phase, strength = rng.uniform(0, 6.3, (some, 3, 1, 1)), rng.uniform(10, 60, some)
            angle = 6.3 * (waves[:, :1, None] * x + waves[:, 1:, None] * y) + phase
            images = colour[:, None, None] + strength[:, None, None, None] * np.sin(angle)
            images += rng.normal(0, 25, images.shape)
            pixels = images.clip(0, 255).astype(np.uint8).transpose(0, 2, 3, 1)
            for number, image in enumerate(pixels, first):
                Image.fromarray(image).save(folder / f"{number:04d}.jpg", quality=90)

    with ThreadPoolExecutor(min(16, cores())) as pool:
        list(pool.map(draw, itertools.product(("train", "test"), range(10))))
    return 10 * per_class


def folder_of_images(root: Path) -> Path:
    """Return the folder that holds ``train`` and ``test``: this one, or one in it.

    Raises:
        FileNotFoundError: there is none.
    """
    for folder in (root, *sorted(path for path in root.iterdir() if path.is_dir())):
        if (folder / "train").is_dir() and (folder / "test").is_dir():
            return folder
    raise FileNotFoundError(f"{root} holds no folders train and test of CIFAR-10 as image files")


def planned(one: Found, seconds: float) -> tuple[int, int]:
    """Return epochs, at most the paper's, and epochs between evaluations that fit into a time."""
    for epochs in range(PAPER_EPOCHS, 0, -1):
        every = -(-epochs // (10 if epochs >= 50 else 5))
        evaluations = -(-epochs // every) + 1  # and the report
        cost = one["begins"] + epochs * one["epoch"] + evaluations * one["evaluation"]
        if cost * 1.1 <= seconds:
            return epochs, every
    return 0, 1


def read_run(outputs: Path, seconds: float) -> Found:
    """Read what a job has left, finished or not.

    Args:
        outputs: its folder of outputs.
        seconds: that its process took.

    Returns:
        curve: epoch and mAP of each evaluation.
        begins, epoch, evaluation, encoding, retrieval: seconds; an evaluation is one of encoding
            and one of retrieval. Only of a finished job.
    """
    logs = sorted(outputs.rglob("log.jsonl"))
    if not logs:
        return {"curve": [], "finished": False}
    lines = [json.loads(line) for line in logs[0].read_text().splitlines()]
    curve = [(line["epoch"], line["map"]) for line in lines if line["where"] == "query"]
    rates = [line["images_per_second"] for line in lines if line["where"] == "train"]
    rate = statistics.median(rates or [0.0])  # without the first steps, which take longer
    found: Found = {"curve": curve, "finished": False, "rate": rate}
    file = logs[0].parent / "report.json"
    if not file.is_file():
        return found
    report = json.loads(file.read_text())
    training, epochs = report["training"], report["selection"]["epoch_last"]
    evaluations = len(curve) + 1
    encoding = (training["evaluation_seconds"] - training["retrieval_seconds"]) / evaluations
    retrieval = training["retrieval_seconds"] / evaluations
    return found | {
        "finished": True,
        "map": report["metrics"]["map"],
        "begins": max(0.0, seconds - training["seconds"]),
        "epoch": (
            report["protocol"]["num_train"] / rate
            if rate
            else (training["seconds"] - training["evaluation_seconds"]) / max(1, epochs)
        ),
        "evaluation": encoding + retrieval,
        "encoding": encoding,
        "retrieval": retrieval,
        "whole_rate": training["images_per_second"],
        "encode_rate": training["encode_images_per_second"],
    }


def cost_of_table(one: Found, jobs: int, seconds: float) -> Found:
    """Estimate the jobs on CIFAR-10 of Table 2 of RelaHash, an evaluation after each epoch.

    Args:
        one: a job alone.
        jobs: how many ran at once.
        seconds: that these took.

    Returns:
        jobs: on CIFAR-10.
        hours_alone: one at a time, each with as many epochs as early stopping took at most.
        hours: so many at once.
    """
    import yaml

    params = yaml.safe_load((ROOT / "sweeps" / "table2_beta.yaml").read_text())["params"]
    lists = [value for key, value in params.items() if isinstance(value, list) and key != "dataset"]
    count = 1
    for values in lists:
        count *= len(values)
    job = one["begins"] + STOP_EPOCHS * (one["epoch"] + one["evaluation"]) + one["evaluation"]
    alone = count * job / 3600
    return {"jobs": count, "epochs": STOP_EPOCHS, "hours_alone": alone,
            "hours": alone * seconds / one["seconds"] / jobs}  # fmt: skip


# retrieval


def cells_of_retrieval(request: Request) -> list[Cell]:
    """The bandwidth, then each work; the field's routine last."""
    cells = [Cell("bandwidth", 2, lambda: measure_bandwidth(request))]
    for name, queries, items in sizes_of(request).works:
        cells.append(
            Cell(name, 25 if name == "10M" else 6,
                 partial(measure_retrieval, request, name, queries, items))
        )  # fmt: skip
    name, queries, items = sizes_of(request).works[0]
    return [*cells, Cell("field", 15, partial(measure_field, request, name, queries, items))]


def measure_bandwidth(request: Request) -> Found:
    """Measure bytes per second of a copy on the device, read and written counted."""
    import torch

    size = 1 << (20 if request["tiny"] or request["device"] == "cpu" else 30)
    source = torch.randint(0, 255, (size,), dtype=torch.uint8, device=request["device"])
    target = torch.empty_like(source)
    times = []
    for _ in range(5):
        wait_for(request["device"])
        began = time.perf_counter()
        target.copy_(source)
        wait_for(request["device"])
        times.append(time.perf_counter() - began)
    found: Found = {"bytes_per_second": 2 * size / statistics.median(times)}
    if request["device"] == "cuda":
        properties = torch.cuda.get_device_properties(0)
        found["multiprocessors"] = properties.multi_processor_count
    return found


def work_of(name: str, queries: int | None, items: int | None) -> Any:
    """Draw codes and labels of a work of benchmarks/retrieval.py, or of ten million items."""
    import numpy as np
    import retrieval

    if name != "10M":
        work = getattr(retrieval, name)
        size = items or work.database
        work = replace(
            work, queries=queries or work.queries, database=size,
            top=None if work.top is None else min(work.top, size),
        )  # fmt: skip
        return retrieval.draw(work, seed=0)
    rng = np.random.default_rng(0)
    centroids = rng.integers(0, 1 << 63, 10, dtype=np.uint64)

    def codes(count: int) -> tuple[Any, Any]:
        labels = rng.integers(0, 10, count)
        flips = [rng.integers(0, 1 << 63, count, dtype=np.uint64) for _ in range(2)]
        packed = centroids[labels] ^ (flips[0] & flips[1])  # a quarter of the bits
        return packed.view(np.uint8).reshape(count, 8), labels

    database, database_labels = codes(items or 1)
    query, query_labels = codes(queries or 1)
    return retrieval.Load(query, database, query_labels, database_labels, 64, 1_000)


def count(load: Any, engine: Any) -> Any:
    """Count items and relevant items at each distance from each query."""
    from deephash.retrieval import histograms

    return histograms(load.query_codes, load.database_codes, load.query_labels,
                      load.database_labels, load.nbit, engine)  # fmt: skip


def measure_retrieval(request: Request, name: str, queries: int | None, items: int | None) -> Found:
    """Time counting on the device and by the CPU's cores, and compare the counts.

    Where counting with one core and numpy would take too long, it gets fewer queries, and its time
    is scaled.
    """
    import numpy as np

    from deephash.errors import DataError
    from deephash.retrieval import Convention, Engine, mean_average_precision

    load = few = work_of(name, queries, items)
    device = Engine("torch", device=request["device"])
    count(load.part(8, 2_000), device)
    try:  # before mAP is timed, which numba computes only where it has counted
        cpu, label = Engine("numba", threads=cores()), f"numba, {cores()} threads"
        count(load.part(8, 2_000), cpu)
    except DataError:
        cpu, label = Engine("numpy"), "numpy, 1 thread"
        pairs = len(load.query_codes) * len(load.database_codes)
        if pairs > 1e9:
            few = load.part(max(1, int(len(load.query_codes) * 1e9 / pairs)))
    times = []
    for _ in range(1 if request["tiny"] else 4):
        wait_for(request["device"])
        began = time.perf_counter()
        hist = count(load, device)
        wait_for(request["device"])
        times.append(time.perf_counter() - began)
    seconds = statistics.median(times[1:] or times)
    convention = Convention(top=load.top)
    mean_average_precision(hist, convention)  # the first call may compile
    began = time.perf_counter()
    value = mean_average_precision(hist, convention).value
    found: Found = {
        "queries": len(load.query_codes), "items": len(load.database_codes), "nbit": load.nbit,
        "seconds": seconds, "map_seconds": time.perf_counter() - began, "map": value,
        "bytes": sum(array.nbytes for array in least_bytes(load, hist)), "cpu": label,
    }  # fmt: skip
    began = time.perf_counter()
    expected = count(few, cpu)
    scale = len(load.query_codes) / len(few.query_codes)
    found["cpu_seconds"] = scale * (time.perf_counter() - began)
    some = slice(0, len(few.query_codes))
    found["equal"] = bool(
        np.array_equal(hist.items[some], expected.items)
        and np.array_equal(hist.relevant[some], expected.relevant)
    )
    return found


def least_bytes(load: Any, hist: Any) -> list[Any]:
    """Return what must pass through the memory of a device at least: inputs once, counts once."""
    return [load.query_codes, load.database_codes, load.query_labels, load.database_labels,
            hist.items, hist.relevant]  # fmt: skip


def measure_field(request: Request, name: str, queries: int | None, items: int | None) -> Found:
    """Time mAP as the field's repositories compute it, on the CPU: floats, matrix product, sort."""
    import retrieval

    load = work_of(name, queries, items)
    few = load.part(min(100, len(load.query_codes)))
    given = retrieval.as_floats(few)
    began = time.perf_counter()
    retrieval.field(given, cores())
    seconds = time.perf_counter() - began
    return {"queries": len(few.query_codes), "work": name,
            "seconds": seconds * len(load.query_codes) / len(few.query_codes)}  # fmt: skip


# label-free


def cells_of_label_free(request: Request) -> list[Cell]:
    """A step of each method that is trained without labels."""
    sizes = sizes_of(request)
    backbone, size = sizes.backbones[0], sizes.batches[0]
    return [
        Cell(f"{name} | {backbone} | {size}", 4.0,
             partial(measure_label_free, request, name, backbone, size), most=48)
        for name in label_free()
    ]  # fmt: skip


def label_free() -> list[str]:
    """Find the recipes with a loss that reads no labels."""
    import yaml

    from deephash.config import requirements

    found = []
    for path in sorted((ROOT / "conf" / "method").glob("*.yaml")):
        entries = yaml.safe_load(path.read_text())["defaults"]
        places = {place: name for one in entries if isinstance(one, dict)
                  for place, name in one.items()}  # fmt: skip
        loss = places.get("/loss@loss", places.get("/loss@method.loss"))  # of a global page
        if loss is not None:
            node = yaml.safe_load((ROOT / "conf" / "loss" / f"{loss}.yaml").read_text())
            if not requirements.declared({"loss": node}).labels:
                found.append(path.stem)
    return found


def measure_label_free(request: Request, method: str, backbone: str, size: int) -> Found:
    """Measure images per second in training, of which each has all its views."""
    with tuned(request, "as train.py") as settings:
        learner = Learner(request, backbone, settings, method)
        batch = learner.noise(size)
        with peak_memory(request["device"]) as peak:
            train = learner.train(Supply(itertools.repeat(batch), request))
        return {"train": train["rate"], "views": learner.views, **peak}


PARTS: dict[str, Callable[[Request], list[Cell]]] = {
    "tests": cells_of_tests,
    "steps": cells_of_steps,
    "run": cells_of_run,
    "retrieval": cells_of_retrieval,
    "label-free": cells_of_label_free,
}
