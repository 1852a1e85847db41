"""Test and measure the project on a GPU, all of it under one budget of time.

    python benchmarks/gpu.py --out DIR [--data FOLDER_OR_ARCHIVE] [--weights FILE]
    python benchmarks/gpu.py --record DIR/gpu.json      # into docs/results.md

The parts run in order of worth, each in a process of its own:

    tests        pytest -m gpu
    steps        training and encoding in images/s: backbones, batch sizes, forms of the step;
                 beside it the loop that most repositories of the field have; what a profiler sees
    run          RelaHash, 64 bits, on CIFAR-10 by train.py; then several jobs at once
    retrieval    counting distances on the device, beside this machine's CPU cores
    label-free   methods that need no labels

A part has a share of the time that is left; what one leaves over goes to those after it. A part is
a list of cells, the most useful first. A cell that would not fit is skipped and named, one that
fails costs only itself, and a part that does not end is stopped: what it has measured stays.
DIR/gpu.json and DIR/gpu.md are written again after each cell. The table is printed last.

Without --data, images are made up whose classes can be told apart; without --weights, networks
start from random weights. --device cpu --tiny goes through all of it in small, without a GPU.
"""

import argparse
import contextlib
import importlib.metadata
import json
import os
import platform
import shlex
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
for _folder in ("src", "benchmarks"):  # where the package is not installed
    if str(ROOT / _folder) not in sys.path:
        sys.path.insert(0, str(ROOT / _folder))

from gpu_parts import (  # noqa: E402
    AGAIN,
    PARTS,
    TAIL,
    Found,
    Request,
    brief,
    cores,
    end,
    go,
    read_results,
    write_atomic,
)
from gpu_table import markdown, record, shortened  # noqa: E402

SHARES = {"tests": 0.20, "steps": 0.30, "run": 0.35, "retrieval": 0.12, "label-free": 0.03}
"""Of the budget, less the reserve."""

LEAST = {"tests": 15.0, "steps": 20.0, "run": 45.0, "retrieval": 12.0, "label-free": 0.0}
"""Seconds below which a part is not begun."""

PATIENCE = 7.0
"""Seconds after which a part that does not stop is killed; it stops first what it has started."""

RESERVE = 2 * PATIENCE + 3
"""Seconds of the budget that are not shared out: to stop a part, and to remove its files."""

RETRIES = 4
"""How often a part is begun again."""


# Parts, in processes of their own


def spawn(request: Request, log: Path, changed: Callable[[], None]) -> tuple[int | None, str]:
    """Run a part in a new process; its output is added to a log.

    Args:
        request: of the part.
        log: file.
        changed: called when there is a new result.

    Returns:
        Its exit status, None if it was stopped at the end of its time; and the end of its output.
    """
    paths = filter(None, [os.environ.get("PYTHONPATH")])
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), *paths]),
        "DEEPHASH_CACHE": str(Path(request["scratch"]).parent / "cache"),
        "CUBLAS_WORKSPACE_CONFIG": os.environ.get("CUBLAS_WORKSPACE_CONFIG", ":4096:8"),
        "MPLBACKEND": "agg",
    }  # fmt: skip
    if request["device"] != "cuda":
        environment["CUDA_VISIBLE_DEVICES"] = ""
    with log.open("ab") as out:
        process = subprocess.Popen(
            [sys.executable, __file__, "--child"], stdin=subprocess.PIPE, stdout=out,
            stderr=subprocess.STDOUT, env=environment, start_new_session=True,
        )  # fmt: skip
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(json.dumps(request).encode())
            process.stdin.close()
        file, seen = Path(request["results"]), 0.0
        try:
            while process.poll() is None and time.time() < request["until"]:
                time.sleep(0.2)
                stamp = file.stat().st_mtime if file.is_file() else 0.0
                if stamp != seen:
                    seen = stamp
                    changed()
            status = process.poll()
        finally:
            end(process, PATIENCE)
    lines = log.read_text(errors="replace").splitlines()
    return status, "\n".join(lines[-TAIL:])


def run_part(
    name: str, base: Request, seconds: float, log: Path, changed: Callable[[Found], None]
) -> Found:
    """Run a part within a time, and again with the cells that are left if its process dies.

    Args:
        name: of the part.
        base: of its request.
        seconds: that it may take.
        log: for its output.
        changed: called with the state of the part whenever there is a new result.

    Returns:
        status: ``done``, ``stopped after N s`` or ``failed: ...``; seconds; cells; error: the end
        of its output, if it failed.
    """
    scratch = Path(base["scratch"]) / name
    scratch.mkdir(parents=True, exist_ok=True)
    file = scratch / "results.json"
    began = time.time()
    request = base | {
        "part": name, "scratch": str(scratch), "results": str(file), "until": began + seconds,
    }  # fmt: skip

    def state(status: str) -> Found:
        return {"status": status, "seconds": time.time() - began, "share": seconds,
                "cells": read_results(file)["cells"]}  # fmt: skip

    for _ in range(1 + RETRIES):
        status, tail = spawn(request, log, lambda: changed(state("running")))
        results = read_results(file)
        current = results.get("current")
        if status is None:
            if current is not None:
                results["cells"][current] = {"failed": "stopped: the time of the part was up"}
                write_atomic(file, json.dumps(results))
            return state(f"stopped after {seconds:.0f} s")
        if results.get("complete"):
            return state("done")
        if current is not None:
            results["cells"][current] = {"failed": f"the process ended with {status}",
                                         "traceback": tail.splitlines()}  # fmt: skip
            results["current"] = None
            write_atomic(file, json.dumps(results))
        elif status != AGAIN:
            last = tail.splitlines()[-1:] or [f"exit status {status}"]
            return state(f"failed: {last[0][:200]}") | {"error": tail.splitlines()}
    return state(f"failed: its process died {1 + RETRIES} times")


def child(request: Request) -> None:
    """Run a part in this process."""
    if request.get("fail") == request["part"]:
        raise RuntimeError("made to fail")
    go(PARTS[request["part"]](request), request)


def run_all(options: argparse.Namespace, command: str) -> Found:
    """Run the parts under the budget; the result is on disk after each cell.

    Returns:
        what gpu.json holds.
    """
    began = time.time()
    options.out.mkdir(parents=True, exist_ok=True)
    result: Found = {
        "schema": 1, "command": command, "machine": machine(options), "tiny": options.tiny,
        "data": options.data is not None, "weights": options.weights is not None,
        "budget": options.seconds, "parts": {},
    }  # fmt: skip

    def save() -> None:
        result["seconds"] = time.time() - began
        write_atomic(options.out / "gpu.json", json.dumps(result, indent=1))
        write_atomic(options.out / "gpu.md", markdown(result))

    with tempfile.TemporaryDirectory(prefix="deephash-gpu-", ignore_cleanup_errors=True) as scratch:
        base: Request = {
            "device": options.device, "tiny": options.tiny, "scratch": scratch,
            "data": options.data and str(options.data.resolve()),
            "weights": options.weights and str(options.weights.resolve()),
            "tests": options.tests and str(options.tests.resolve()), "fail": options.fail,
        }  # fmt: skip
        parts = [name for name in SHARES if name in options.only]
        for at, name in enumerate(parts):
            left = options.seconds - RESERVE - (time.time() - began)
            seconds = granted(parts[at:], left)
            if seconds < LEAST[name] * (0.01 if options.tiny else 1):
                why = (
                    f"skipped: {max(0, seconds):.0f} s are left for it, it needs {LEAST[name]:.0f}"
                )
                result["parts"][name] = {"status": why, "cells": {}, "seconds": 0.0}
                save()
                continue

            def changed(state: Found, name: str = name) -> None:
                result["parts"][name] = state
                save()

            print(f"{name}: at most {seconds:.0f} s", file=sys.stderr, flush=True)
            log = options.out / f"{name}.log"
            log.unlink(missing_ok=True)
            try:
                changed(run_part(name, base, seconds, log, changed))
            except Exception as error:  # of this script: the other parts go on
                lines = traceback.format_exc().splitlines()[-TAIL:]
                changed({"status": f"failed: {brief(error)}", "cells": {}, "seconds": 0.0,
                         "error": lines})  # fmt: skip
    save()
    return result


def granted(parts: Sequence[str], left: float) -> float:
    """Return the seconds of the first of the parts that are still to run."""
    return left * SHARES[parts[0]] / sum(SHARES[name] for name in parts)


def machine(options: argparse.Namespace) -> Found:
    """Describe the card, its driver, the versions, the commit and the CPU."""
    import torch

    device = options.device

    info = Path("/proc/cpuinfo")
    rows = info.read_text().splitlines() if info.exists() else []
    models = [row.partition(":")[2].strip() for row in rows if row.startswith("model name")]
    found: Found = {
        "device": device,
        "cpu": models[0] if models else platform.processor() or platform.machine(),
        "cores": cores(),
        "python": platform.python_version(),
        "cuda": torch.version.cuda if device == "cuda" else None,
        "commit": options.commit or commit(),
    }
    for package in ("torch", "torchvision", "numpy", "triton", "numba", "hydra-core"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found | (card() if device == "cuda" else {})


def card() -> Found:
    """Describe the first CUDA device and its driver."""
    fields = ("name", "driver_version", "memory.total", "clocks.max.sm")
    text = output("nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader")
    rows = [part.strip() for part in text.splitlines()[0].split(",")] if text else []
    found: Found = dict(zip(("card", "driver", "memory", "clock"), rows, strict=False))
    if "card" not in found:
        import torch

        with contextlib.suppress(Exception):
            found["card"] = torch.cuda.get_device_name()
    return found


def commit() -> str:
    """Return the commit of the working tree; with a plus if something is changed."""
    found = output("git", "-C", str(ROOT), "rev-parse", "--short=12", "HEAD")
    changes = output("git", "-C", str(ROOT), "status", "--porcelain", "--untracked-files=no")
    return (found or "unknown") + "+" * bool(found and changes)


def output(*command: str) -> str:
    """Return what a command prints; nothing if it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()


def parsed(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    add = parser.add_argument
    add("--out", type=Path, help="folder for gpu.json, gpu.md and a log of each part")
    add("--only", nargs="+", choices=SHARES, default=list(SHARES), metavar="PART",
        help=f"parts to run: {', '.join(SHARES)}")  # fmt: skip
    add("--seconds", type=float, default=480, help="for all parts together")
    add("--device", choices=("cuda", "cpu"), help="default: cuda where there is one")
    add("--data", type=Path, help="CIFAR-10 as image files, train/<class>/ and test/<class>/: a "
        "folder, or an archive of it; default: made-up images")  # fmt: skip
    add("--weights", type=Path, help="state dict of torchvision's squeezenet1_0; default: random")
    add("--tests", type=Path, help="folder of tests; default: all of the project's")
    add("--tiny", action="store_true", help="small sizes, to see that everything runs")
    add(
        "--record",
        type=Path,
        metavar="JSON",
        help="put this result into the page, and nothing else",
    )
    add("--page", type=Path, default=ROOT / "docs" / "results.md", help="page of --record")
    add("--commit", help="of this tree, where git does not know it")
    add("--fail", choices=SHARES, help="make a part fail, to see that the others go on")
    options = parser.parse_args(arguments)
    if options.record is None and options.out is None:
        parser.error("--out is required")
    for name in ("data", "weights", "tests"):
        path = getattr(options, name)
        if path is not None and not path.exists():
            parser.error(f"--{name}: {path} does not exist")
    if options.record is None:
        import torch

        there = torch.cuda.is_available()
        options.device = options.device or ("cuda" if there else "cpu")
        if options.device == "cuda" and not there:
            parser.error("--device: there is no CUDA device; --device cpu --tiny rehearses")
    return options


def main(arguments: Sequence[str]) -> int:
    """Run the parts and print the table; 1 if a part failed."""
    if list(arguments) == ["--child"]:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
        child(json.loads(sys.stdin.read()))
        return 0
    options = parsed(arguments)
    if options.record is not None:
        record(options.record, options.page)
        return 0
    result = run_all(options, shlex.join(["python", "benchmarks/gpu.py", *arguments]))
    print(shortened(markdown(result)))
    failed = [name for name, part in result["parts"].items() if part["status"].startswith("failed")]
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
