"""Parts that all benchmarks share: timing, processes, the machine, tables, arguments, records."""

import argparse
import contextlib
import importlib.metadata
import json
import os
import platform
import resource
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
"""The repository."""

if str(ROOT / "src") not in sys.path:  # the package need not be installed: import this before it
    sys.path.insert(0, str(ROOT / "src"))

PACKAGES = ("torch", "torchvision", "numpy", "pillow", "triton", "numba", "faiss-cpu", "hydra-core")
"""Packages whose versions are reported."""

THREAD_VARIABLES = ("OMP", "MKL", "OPENBLAS", "NUMEXPR", "NUMBA", "VECLIB")
"""Beginnings of the environment variables ``*_NUM_THREADS``."""

Values = dict[str, Any]


# Timing


class Stopwatch:
    """Measure the wall and CPU seconds of a ``with`` block.

    CPU seconds are those of all threads and of the child processes that ended meanwhile.
    """

    def __enter__(self) -> "Stopwatch":
        self._start = time.perf_counter(), cpu_seconds()
        return self

    def __exit__(self, *_: object) -> None:
        self.wall = time.perf_counter() - self._start[0]
        self.cpu = cpu_seconds() - self._start[1]


def cpu_seconds() -> float:
    """Return the CPU seconds of this process, its threads and its ended child processes."""
    usages = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def default_device() -> str:
    """Return ``cuda`` if there is a CUDA device, otherwise ``cpu``."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def synchronize(device: Any) -> None:
    """Wait until a CUDA device has finished its work; do nothing on other devices."""
    import torch

    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


def time_calls(
    function: Callable[[], Any], repeats: int = 1, warm_up: int = 0, device: str = "cpu"
) -> tuple[float, Any]:
    """Return the median wall seconds of ``repeats`` calls after the warm-up, and the last result.

    The device is synchronized before and after each call.
    """
    times: list[float] = []
    for _ in range(warm_up + repeats):
        synchronize(device)
        began = time.perf_counter()
        result = function()
        synchronize(device)
        times.append(time.perf_counter() - began)
    return statistics.median(times[warm_up:]), result


def memory(name: str, process: int | str = "self") -> int:
    """Return a line of ``/proc/PROCESS/status`` in bytes, 0 on systems without it.

    Args:
        name: ``VmHWM``, the peak; ``RssAnon``, private memory; ``RssFile``, mapped files.
        process: its number; by default this one.
    """
    status = Path(f"/proc/{process}/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(name + ":"))


def peak_memory(reset: bool = False) -> int:
    """Return the peak memory of this process in bytes, since its start or the last reset.

    Only Linux can reset it.
    """
    if reset:
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")
    unit = 1 if sys.platform == "darwin" else 1024
    return memory("VmHWM") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


# Side by side


@dataclass
class Series:
    """One contender of a comparison.

    Attributes:
        name: in tables.
        request: what is measured.
        rounds: the values of each round.
        failed: why it could not be measured; empty if it could.
        scale: factor by which times are multiplied, where only part of the work was done.
    """

    name: str
    request: Values = field(default_factory=dict)
    rounds: list[Values] = field(default_factory=list)
    failed: str = ""
    scale: float = 1.0

    def values(self, *path: str) -> list[float]:
        """Return a value of each round, found by a path of keys."""
        values: list[Any] = self.rounds
        for key in path:
            values = [value[key] for value in values]
        return values

    def median(self, *path: str) -> float:
        """Return the median of a value over the rounds."""
        return statistics.median(self.values(*path))

    def times(self, clock: str) -> list[float]:
        """Return the seconds of each round, scaled to the whole work."""
        return [value * self.scale for value in self.values(clock)]

    def rates(self, clock: str, *path: str) -> list[float]:
        """Return the images per second of each round."""
        images, seconds = self.values(*path, "images"), self.values(*path, clock)
        return [count / time for count, time in zip(images, seconds, strict=True)]


def alternate(
    contenders: Sequence[Series],
    measure: Callable[[Series], Values],
    rounds: int,
    warm_up: int = 0,
    swap: bool = False,
    label: str = "",
) -> None:
    """Measure all contenders in turn, so that other load on the machine affects all of them alike.

    Args:
        contenders: the results are appended to their ``rounds``.
        measure: returns the values of a round, or ``{"failed": reason}``; a contender that failed
            is left out of the other rounds.
        rounds: number of recorded rounds.
        warm_up: rounds before these.
        swap: reverse the order in every second round.
        label: printed with the progress on stderr; empty: no progress.
    """
    for number in range(1 - warm_up, rounds + 1):
        for series in contenders[::-1] if swap and number % 2 else contenders:
            if series.failed:
                continue
            values = measure(series)
            series.failed = values.get("failed", "")
            if number > 0 and not series.failed:
                series.rounds.append(values)
            if label:
                text = f"{label}, round {number}: {series.name}: {series.failed or 'done'}"
                print(text, file=sys.stderr, flush=True)


def median_ratio(above: Sequence[float], below: Sequence[float] | None) -> str:
    """Return the median of the ratios in each round, as text; a dash if there is none."""
    if not above or not below:
        return "–"
    return figure(statistics.median(a / b for a, b in zip(above, below, strict=False)))


def spawn(script: str, request: Values, cuda: bool = False, **variables: str) -> Values:
    """Measure in a new process: ``script --child`` with the request on stdin, see ``serve``.

    Args:
        script: path of the script.
        request: with the number of ``threads``.
        cuda: whether the process may use CUDA devices.
        variables: further environment variables.

    Returns:
        What the process printed last, or ``failed``: the last line of its error message.
    """
    environment = os.environ | variables
    if "threads" in request:
        threads = str(request["threads"])
        environment |= {f"{name}_NUM_THREADS": threads for name in THREAD_VARIABLES}
    if not cuda:
        environment["CUDA_VISIBLE_DEVICES"] = ""
    process = subprocess.run(
        [sys.executable, script, "--child"], input=json.dumps(request), env=environment,
        text=True, capture_output=True, check=False,
    )  # fmt: skip
    if process.returncode:
        lines = process.stderr.strip().splitlines() or [f"exit status {process.returncode}"]
        return {"failed": lines[-1]}
    return json.loads(process.stdout.splitlines()[-1])  # type: ignore[no-any-return]


def serve(measure: Callable[[Values], Values]) -> int:
    """Measure the request on stdin and print the values: the process that ``spawn`` starts."""
    print(json.dumps(measure(json.loads(sys.stdin.read()))))
    return 0


# The machine


def cores() -> int:
    """Return the number of processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def machine(device: str = "cpu") -> Values:
    """Describe the processor, the load, the versions, the commit, and a CUDA device."""
    import torch

    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    cuda = torch.device(device).type == "cuda"
    values: Values = {
        "device": device,
        "cpu": models[0] if models else platform.processor() or platform.machine(),
        "cores": cores(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "load": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
        "cuda": torch.version.cuda if cuda else None,
        "commit": commit(),
    }
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            values[package] = importlib.metadata.version(package)
    return values | (card() if cuda else {})


def describe(values: Values) -> str:
    """Return the description of a machine as one line."""
    parts = [values["cpu"], f"{values['cores']} cores"]
    if values["device"] == "cuda":
        driver = f"driver {values.get('driver', 'unknown')}"
        parts = [values.get("card", "CUDA device"), driver, f"CUDA {values['cuda']}", *parts]
    names = ("capability", "load", "python", *PACKAGES, "commit")
    return ", ".join([*parts, *(f"{name} {values[name]}" for name in names if name in values)])


def card() -> Values:
    """Describe the first CUDA device and its driver."""
    import torch

    fields = ("name", "driver_version", "memory.total", "clocks.max.sm")
    text = output("nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader")
    columns = [column.strip() for column in text.splitlines()[0].split(",")] if text else []
    values: Values = dict(zip(("card", "driver", "memory", "clock"), columns, strict=False))
    if "card" not in values:
        with contextlib.suppress(Exception):
            values["card"] = torch.cuda.get_device_name()
    return values


def commit() -> str:
    """Return the commit of the working tree, with a plus sign if a file was changed."""
    name = output("git", "-C", str(ROOT), "rev-parse", "--short=12", "HEAD")
    changes = output("git", "-C", str(ROOT), "status", "--porcelain", "--untracked-files=no")
    return f"{name}+" if name and changes else name or "unknown"


def output(*command: str) -> str:
    """Return what a command prints; nothing if it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()


# The configuration


@cache
def _composed(page: str, overrides: tuple[str, ...]) -> str:
    from hydra import compose, initialize_config_dir

    from deephash.config import resolve, schema
    from deephash.config.overrides import parse_all

    schema.register()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = compose(page, overrides=list(overrides))
    return json.dumps(resolve.resolve(cfg, parse_all(overrides)))


def configuration(*overrides: str, page: str = "train") -> Values:
    """Return the resolved configuration of a command line; the caller may modify it."""
    return json.loads(_composed(page, overrides))  # type: ignore[no-any-return]


# Output


def figure(value: float) -> str:
    """Return a number with three significant digits."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def duration(seconds: float) -> str:
    """Return a time in seconds, minutes or hours."""
    if seconds < 120:
        return f"{figure(seconds)} s"
    return f"{figure(seconds / 60)} min" if seconds < 7200 else f"{figure(seconds / 3600)} h"


def table(rows: Sequence[Sequence[Any]], markdown: bool = True) -> str:
    """Lay out a table in Markdown or in columns; the first row is the header."""
    cells = [[str(cell) for cell in row] for row in rows]
    if markdown:
        cells.insert(1, ["---"] * len(cells[0]))
        return "\n".join(f"| {' | '.join(row)} |" for row in cells)
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = (zip(row, widths, strict=True) for row in cells)
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in line).rstrip() for line in lines
    )


COMMON: dict[str, Values] = {
    "rounds": {"type": int, "help": "rounds of measurements; tables contain medians"},
    "seconds": {"type": float, "help": "duration of one measurement"},
    "threads": {"type": int, "help": "threads of one process"},
    "device": {"help": "cpu or cuda"},
    "seed": {"type": int, "help": "seed of the generated data"},
    "json": {"type": Path, "help": "write all measurements to this file"},
    "markdown": {"action": "store_true", "help": "print Markdown tables"},
}
"""Arguments that several benchmarks have."""


def parser(doc: str | None, **defaults: Any) -> argparse.ArgumentParser:
    """Return a parser with ``--record`` and the arguments of ``COMMON`` that have a default.

    The first line of ``doc``, the docstring of the script, is the description.
    """
    result = argparse.ArgumentParser(description=(doc or "").partition("\n")[0])
    for name, default in defaults.items():
        result.add_argument(f"--{name}", default=default, **COMMON[name])
    page = ROOT / "docs" / "results.md"
    result.add_argument("--record", type=Path, nargs="?", const=page, metavar="PAGE",
        help="write the output into a page, default docs/results.md, between the lines"
        " <!-- NAME: begin --> and <!-- NAME: end -->")  # fmt: skip
    return result


class Report:
    """Print the results of a script, and write them into a page if ``--record`` is given."""

    def __init__(self, script: str, arguments: Sequence[str], options: argparse.Namespace) -> None:
        self.name, self.options = Path(script).stem, options
        self.command = shlex.join(["python", f"benchmarks/{Path(script).name}", *arguments])
        device = getattr(options, "device", None) or "cpu"
        self.machine = machine(default_device() if device == "auto" else device)
        self.blocks: list[str] = []
        self.add(f"{describe(self.machine)}.", f"Command: `{self.command}`")

    def add(self, *blocks: str) -> None:
        """Print blocks of Markdown; empty ones are left out."""
        text = "\n\n".join(filter(None, blocks))
        self.blocks.append(text)
        print(f"{text}\n", flush=True)

    def save(self, **values: Any) -> None:
        """Write measurements to the file of ``--json``, if it is given."""
        if self.options.json:
            header = {"machine": self.machine, "command": self.command}
            self.options.json.write_text(json.dumps(header | values, indent=1))

    def close(self) -> None:
        """Write the blocks into the page of ``--record``, if it is given."""
        if self.options.record:
            record(self.name, "\n\n".join(self.blocks), self.options.record)


def record(name: str, text: str, page: Path) -> None:
    """Replace the section of a page between the lines of a benchmark.

    Raises:
        SystemExit: the page does not have these lines.
    """
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    before, first, rest = page.read_text(encoding="utf-8").partition(begin)
    _, last, after = rest.partition(end)
    if not first or not last:
        raise SystemExit(f"{page} has no lines {begin} and {end}: add them where the table belongs")
    page.write_text(f"{before}{begin}\n\n{text.strip()}\n\n{end}{after}", encoding="utf-8")
