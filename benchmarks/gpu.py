"""Test and measure the project on a GPU within a limited time.

    python benchmarks/gpu.py --out DIR [--data FOLDER_OR_ARCHIVE] [--weights FILE]
    python benchmarks/gpu.py --record DIR/gpu.json      # into docs/results.md

The parts run in order of importance, each in a process of its own:

    tests        pytest -m gpu
    steps        training and encoding in images/s: backbones, batch sizes, forms of the step;
                 the loop that most repositories of the field have; a profile
    run          RelaHash, 64 bits, on CIFAR-10 with train.py; then several jobs at once
    retrieval    counting distances on the device, compared with the CPU cores of the machine
    label-free   methods that need no labels

Each part has a share of the time that is left; time that it does not use goes to the parts after
it. A part is a list of cells, the most useful first. A cell that would not fit is skipped and
listed, one that fails does not affect the others, and a part that does not end is stopped; its
results so far are kept. DIR/gpu.json and DIR/gpu.md are written after each cell. The tables are
printed last.

Without --data, images with distinguishable classes are generated; without --weights, networks have
random weights. --device cpu --tiny runs a small version of everything without a GPU.
"""

import argparse
import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from gpu_parts import (
    AGAIN,
    PARTS,
    TAIL,
    Request,
    brief,
    read_results,
    run_cells,
    stop_group,
    write_atomic,
)
from gpu_table import markdown, record, shortened
from harness import ROOT, Values, default_device, machine

SHARES = {"tests": 0.20, "steps": 0.30, "run": 0.35, "retrieval": 0.12, "label-free": 0.03}
"""Shares of the time, less the reserve."""

LEAST = {"tests": 15.0, "steps": 20.0, "run": 45.0, "retrieval": 12.0, "label-free": 0.0}
"""Seconds below which a part is not started."""

PATIENCE = 7.0
"""Seconds after which a part that does not stop is killed; it first stops its own processes."""

RESERVE = 2 * PATIENCE + 3
"""Seconds that are not shared out: to stop a part, and to remove its files."""

RETRIES = 4
"""How often a part is started again."""


# Parts, in processes of their own


def spawn(request: Request, log: Path, changed: Callable[[], None]) -> tuple[int | None, str]:
    """Run a part in a new process; append its output to a log.

    ``changed`` is called when there is a new result.

    Returns:
        The exit status, None if the time was over; and the end of the output.
    """
    paths = filter(None, [str(ROOT / "src"), os.environ.get("PYTHONPATH")])
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(paths),
        "DEEPHASH_CACHE": str(Path(request["scratch"]).parent / "cache"),
        "CUBLAS_WORKSPACE_CONFIG": os.environ.get("CUBLAS_WORKSPACE_CONFIG", ":4096:8"),
        "MPLBACKEND": "agg",
    }
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
        file, last = Path(request["results"]), 0.0
        try:
            while process.poll() is None and time.time() < request["until"]:
                time.sleep(0.2)
                modified = file.stat().st_mtime if file.is_file() else 0.0
                if modified != last:
                    last = modified
                    changed()
            status = process.poll()
        finally:
            stop_group(process, PATIENCE)
    lines = log.read_text(errors="replace").splitlines()
    return status, "\n".join(lines[-TAIL:])


def run_part(
    name: str, base: Request, seconds: float, log: Path, changed: Callable[[Values], None]
) -> Values:
    """Run a part within a time, and again with the other cells if its process dies.

    ``changed`` is called with the state of the part whenever there is a new result.

    Returns:
        ``status``: ``done``, ``stopped after N s`` or ``failed: ...``; ``seconds``; ``cells``; if
        it failed, ``error``: the end of its output.
    """
    scratch = Path(base["scratch"]) / name
    scratch.mkdir(parents=True, exist_ok=True)
    file = scratch / "results.json"
    began = time.time()
    request = base | {
        "part": name, "scratch": str(scratch), "results": str(file), "until": began + seconds,
    }  # fmt: skip

    def state(status: str) -> Values:
        return {"status": status, "seconds": time.time() - began, "share": seconds,
                "cells": read_results(file)["cells"]}  # fmt: skip

    for _ in range(1 + RETRIES):
        status, tail = spawn(request, log, lambda: changed(state("running")))
        results = read_results(file)
        current = results.get("current")
        if status is not None and results.get("complete"):
            return state("done")
        if current is not None:
            if status is None:
                failure: Values = {"failed": "stopped: the time of the part was up"}
            else:
                failure = {"failed": f"the process ended with {status}",
                           "traceback": tail.splitlines()}  # fmt: skip
            results["cells"][current] = failure
            results["current"] = None
            write_atomic(file, json.dumps(results))
        if status is None:
            return state(f"stopped after {seconds:.0f} s")
        if current is None and status != AGAIN:
            last = tail.splitlines()[-1:] or [f"exit status {status}"]
            return state(f"failed: {last[0][:200]}") | {"error": tail.splitlines()}
    return state(f"failed: its process died {1 + RETRIES} times")


def child(request: Request) -> None:
    """Run a part in this process."""
    if request.get("fail") == request["part"]:
        raise RuntimeError("made to fail")
    run_cells(PARTS[request["part"]](request), request)


def run_all(options: argparse.Namespace, command: str) -> Values:
    """Run the parts, write the results after each cell, and return the content of gpu.json."""
    began = time.time()
    options.out.mkdir(parents=True, exist_ok=True)
    description = machine(options.device)
    if options.commit:
        description["commit"] = options.commit
    result: Values = {
        "schema": 1, "command": command, "machine": description, "tiny": options.tiny,
        "data": options.data is not None, "weights": options.weights is not None,
        "budget": options.seconds, "parts": {},
    }  # fmt: skip

    def save() -> None:
        result["seconds"] = time.time() - began
        write_atomic(options.out / "gpu.json", json.dumps(result, indent=1))
        write_atomic(options.out / "gpu.md", markdown(result))

    with tempfile.TemporaryDirectory(prefix="deephash-gpu-", ignore_cleanup_errors=True) as scratch:
        base: Request = {"device": options.device, "tiny": options.tiny, "scratch": scratch,
                         "fail": options.fail}  # fmt: skip
        for name in ("data", "weights", "tests"):
            path = getattr(options, name)
            base[name] = path and str(path.resolve())
        parts = [name for name in SHARES if name in options.only]
        for number, name in enumerate(parts):

            def changed(state: Values, name: str = name) -> None:
                result["parts"][name] = state
                save()

            seconds = share(parts[number:], options.seconds - RESERVE - (time.time() - began))
            if seconds < LEAST[name] * (0.01 if options.tiny else 1):
                left = f"{max(0, seconds):.0f} s are left for it, it needs {LEAST[name]:.0f}"
                changed({"status": f"skipped: {left}", "cells": {}, "seconds": 0.0})
                continue
            print(f"{name}: at most {seconds:.0f} s", file=sys.stderr, flush=True)
            log = options.out / f"{name}.log"
            log.unlink(missing_ok=True)
            try:
                changed(run_part(name, base, seconds, log, changed))
            except Exception as error:  # in this script; the other parts go on
                lines = traceback.format_exc().splitlines()[-TAIL:]
                changed({"status": f"failed: {brief(error)}", "cells": {}, "seconds": 0.0,
                         "error": lines})  # fmt: skip
    save()
    return result


def share(parts: Sequence[str], left: float) -> float:
    """Return the seconds of the first of the parts that have not run yet."""
    return left * SHARES[parts[0]] / sum(SHARES[name] for name in parts)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    add("--out", type=Path, help="folder for gpu.json, gpu.md and a log of each part")
    add("--only", nargs="+", choices=SHARES, default=list(SHARES), metavar="PART",
        help=f"parts to run: {', '.join(SHARES)}")  # fmt: skip
    add("--seconds", type=float, default=480, help="duration of all parts together")
    add("--device", choices=("cuda", "cpu"), help="default: cuda if there is one")
    add("--data", type=Path, help="CIFAR-10 as image files, train/<class>/ and test/<class>/: a "
        "folder or an archive; default: generated images")  # fmt: skip
    add("--weights", type=Path, help="state dict of torchvision's squeezenet1_0; default: random")
    add("--tests", type=Path, help="folder of tests; default: all tests of the project")
    add("--tiny", action="store_true", help="small sizes, to check that everything runs")
    add("--record", type=Path, metavar="JSON", help="only write this result into the page")
    add("--page", type=Path, default=ROOT / "docs" / "results.md", help="page of --record")
    add("--commit", help="commit of a source tree without git repository")
    add("--fail", choices=SHARES, help="let a part fail, to check that the others go on")
    options = parser.parse_args(arguments)
    if options.record is not None:
        return options
    if options.out is None:
        parser.error("--out is required")
    for name in ("data", "weights", "tests"):
        path = getattr(options, name)
        if path is not None and not path.exists():
            parser.error(f"--{name}: {path} does not exist")
    options.device = options.device or default_device()
    if options.device == "cuda" and default_device() != "cuda":
        parser.error("--device: there is no CUDA device; --device cpu --tiny rehearses")
    return options


def main(arguments: Sequence[str]) -> int:
    """Run the parts and print the tables; 1 if a part failed."""
    if list(arguments) == ["--child"]:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
        child(json.loads(sys.stdin.read()))
        return 0
    options = parse(arguments)
    if options.record is not None:
        record(options.record, options.page)
        return 0
    result = run_all(options, shlex.join(["python", "benchmarks/gpu.py", *arguments]))
    print(shortened(markdown(result)))
    return int(any(part["status"].startswith("failed") for part in result["parts"].values()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
