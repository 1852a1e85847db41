"""The results of benchmarks/gpu.py as Markdown."""

import re
from collections.abc import Callable
from pathlib import Path

import harness
from gpu_parts import FORMS, LOOPS, read_results
from harness import Values, describe, figure, table

LIMIT = 11_000
"""Characters of the text that is printed."""

FORM_NOTE = (
    "as train.py: fp32 (convolutions in TF32 on a CUDA device, which is torch's default), "
    "channels-last, deterministic; fill: with torch's filling of uninitialised memory; "
    "graph, not deterministic: as train.py, changed in this. All others: not deterministic; cl: "
    "channels-last; fp32, tf32: products and convolutions. Steps of the trainer's own loop "
    "on a batch on the device. –: not measured."
)


def markdown(result: Values) -> str:
    """Return all results as Markdown."""
    blocks = [*opening(result), part_table(result)]
    for name, show in BLOCKS.items():
        part = result["parts"].get(name)
        if part and part["cells"]:
            blocks += show(part["cells"], result)
    return "\n\n".join(block for block in blocks if block) + "\n"


def opening(result: Values) -> list[str]:
    """Return the machine, the versions, the data and the command."""
    values = result["machine"]
    parts = [describe(values), "CIFAR-10" if result["data"] else "made-up images",
             "ImageNet weights" if result["weights"] else "random weights"]  # fmt: skip
    if values["device"] != "cuda":
        parts.insert(0, "**Not measured on CUDA**: a rehearsal on the CPU")
    if result["tiny"]:
        parts.append("sizes at which figures mean nothing")
    seconds = f"{result.get('seconds', 0):.0f} of {result['budget']:.0f} s"
    return [f"{', '.join(parts)}; {seconds}.", f"```\n{result['command']}\n```"]


def part_table(result: Values) -> str:
    """Return the state of each part."""
    rows = [["part", "status", "s", "cells"]]
    for name, part in result["parts"].items():
        states = [state_of(cell).partition(":")[0] for cell in part["cells"].values()]
        numbers = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
        rows.append([name, part["status"], f"{part['seconds']:.0f}", numbers])
    return table(rows)


def test_blocks(cells: Values, result: Values) -> list[str]:
    """Return how many tests passed, and which failed."""
    (cell,) = cells.values()
    if "passed" not in cell:
        return [f"Tests: {state_of(cell)}."]
    text = (f"Tests (`pytest -m gpu`): {cell['passed']} passed, {cell['failed_tests']} failed, "
            f"{cell['skipped_tests']} skipped")  # fmt: skip
    if cell["interrupted"]:
        text += f"; stopped while `{cell['interrupted']}` ran"
    failures = [f"- `{name}`: {reason}" for name, reason in list(cell["failures"].items())[:15]]
    return ["\n".join([f"{text}.", *failures])]


def step_blocks(cells: Values, result: Values) -> list[str]:
    """Return tables of training, encoding, loops and profiles."""
    names = {name: tuple(name.split(" | ")) for name in cells if name.count(" | ") == 2}
    steps = {key: cells[name] for name, key in names.items() if key[0] not in ("loop", "profile")}
    forms = [form for form in FORMS if any(key[1] == form for key in steps)]
    blocks = []
    for use in ("train", "encode"):
        rows = [[f"{use}, images/s", "B", *forms]]
        for backbone, size in dict.fromkeys((key[0], key[2]) for key in steps):
            row = [steps.get((backbone, form, size), {}) for form in forms]
            if any(use in cell for cell in row):
                rows.append([backbone, size, *(cell_text(cell, use) for cell in row)])
        if len(rows) > 1:
            blocks.append(table(rows))
    if blocks:
        blocks.append(FORM_NOTE)
    notes = failures_of(cells)
    notes += [f"- {' '.join(key)}: {note}"
              for key, cell in steps.items() for note in cell.get("notes", [])]  # fmt: skip
    firsts = [f"{key[0]} {key[1]} {cell['first']:.1f}" for key, cell in steps.items()
              if "first" in cell and ("compiled" in key[1] or "graph" in key[1])]  # fmt: skip
    if firsts:
        notes.append(f"First step, s: {', '.join(dict.fromkeys(firsts))}.")
    return [*blocks, *loop_blocks(cells), *profile_blocks(cells), *notes]


def loop_blocks(cells: Values) -> list[str]:
    """Return a comparison of the loops with their data."""
    rows = [["loop with its data, images/s", "the field's", "ours", "times as fast",
             "ours, graph", "times as fast"]]  # fmt: skip
    for use in ("train", "encode"):
        field, *ours = (cells.get(f"loop | {use} | {kind}", {}) for kind in LOOPS)
        if not any((field, *ours)):
            continue
        row = [use, cell_text(field, "rate")]
        for cell in ours:
            both = "rate" in cell and "rate" in field
            row += [cell_text(cell, "rate"), figure(cell["rate"] / field["rate"]) if both else "–"]
        rows.append(row)
    return [table(rows)] if len(rows) > 1 else []


def profile_blocks(cells: Values) -> list[str]:
    """Return a table of the profiles, and the largest kernels of each."""
    profiles = {name.split(" | ")[1]: cell for name, cell in cells.items()
                if name.startswith("profile") and "top" in cell}  # fmt: skip
    if not profiles:
        return []
    calls = list(next(iter(profiles.values()))["calls"])
    rows = [["a step, profiled", "ms", "operators", *calls, "device busy, ms", "share"]]
    tops = []
    for form, cell in profiles.items():
        rows.append([
            form, figure(cell["ms"]), f"{cell['operators']:.0f}",
            *(f"{cell['calls'][name]:.0f}" for name in calls),
            figure(cell["device_ms"]), f"{cell['busy']:.0%}",
        ])  # fmt: skip
        top = ", ".join(
            f"`{key[:48]}` {share:.0%} ({times:.0f})" for key, times, share in cell["top"][:5]
        )
        tops.append(f"- {form}, most time (and calls a step): {top}")
    return [table(rows), "\n".join(tops)]


def run_blocks(cells: Values, result: Values) -> list[str]:
    """Return the times of the jobs, the mAP by epoch, and several jobs at once."""
    blocks, rows = [], [["job", "epochs", "begins, s", "training, s an epoch", "encoding, s",
                         "retrieval, s", "training, images/s", "mAP"]]  # fmt: skip
    for name in ("one job", "run", "one job, graph"):
        cell = cells.get(name, {})
        if "curve" not in cell:
            continue
        done, last = cell["curve"][-1] if cell["curve"] else (0, None)
        epochs = f"{done}"
        if not cell["finished"]:
            epochs += f", stopped of {cell['epochs']}" if "epochs" in cell else ", stopped"
        last = cell.get("map", last)
        numbers = [cell.get(key) for key in ("begins", "epoch", "encoding", "retrieval", "rate")]
        rows.append([name, epochs,
                     *("–" if number is None else figure(number) for number in numbers),
                     "–" if last is None else f"{last:.4f}"])  # fmt: skip
    if len(rows) > 1:
        blocks.append(table(rows))
    if curve := cells.get("run", {}).get("curve"):
        points = ", ".join(f"{value:.4f} ({epoch})" for epoch, value in curve[-12:])
        blocks.append(f"mAP@all on the queries (after so many epochs): {points}.")
    several = cells.get("jobs at once", {})
    if "gain" in several:
        cost = several["table2_beta"]
        blocks.append(
            f"{several['jobs']} jobs at once: {figure(several['per_hour'])} jobs an hour, one at a "
            f"time {figure(several['per_hour_alone'])} ({several['gain']:.2f} times). The "
            f"{cost['jobs']} jobs of `table2_beta` on CIFAR-10, {cost['epochs']} epochs each with "
            f"an evaluation after each: {figure(cost['hours'])} hours so, "
            f"{figure(cost['hours_alone'])} one at a time (scaled; ImageNet100 not measured)."
        )
    return [*blocks, *failures_of(cells)]


def retrieval_blocks(cells: Values, result: Values) -> list[str]:
    """Return the times of counting distances, and of the usual routine."""
    speed = cells.get("bandwidth", {}).get("bytes_per_second")
    rows = [["counting distances", "queries × items", "device, s", "pairs/s", "bandwidth limit",
             "× popcount limit",
             "CPU, s", "CPU by", "times as fast", "counts equal", "mAP, s"]]  # fmt: skip
    for name, cell in cells.items():
        if "cpu_seconds" not in cell:
            continue
        pairs = cell["queries"] * cell["items"]
        rows.append([
            name, f"{cell['queries']:,} × {cell['items']:,}", figure(cell["seconds"]),
            f"{pairs / cell['seconds']:.2g}",
            f"{cell['bytes'] / speed / cell['seconds']:.2%}" if speed else "–",
            popcount_ratio(cell, pairs, cells, result),
            figure(cell["cpu_seconds"]), cell["cpu"],
            figure(cell["cpu_seconds"] / cell["seconds"]),
            "yes" if cell["equal"] else "**NO**", figure(cell["map_seconds"]),
        ])  # fmt: skip
    blocks = [table(rows)] if len(rows) > 1 else []
    if blocks and speed:
        blocks.append(
            "Bandwidth limit: codes and labels read once and the counts written once, at the "
            f"{speed / 1e9:,.0f} GB/s of a copy on the device, by the time measured from arrays of "
            "the host to counts on the host. Popcount limit: 16 popcounts of 32 bits in a clock on "
            "each multiprocessor, at its highest clock."
        )
    field = cells.get("field", {})
    ours = cells.get(field.get("work"), {})
    if "seconds" in field and "seconds" in ours:
        ratio = field["seconds"] / (ours["seconds"] + ours["map_seconds"])
        blocks.append(
            f"mAP of {field['work']} as the field computes it (floats, product, sort, on the CPU; "
            f"from {field['queries']} queries): {figure(field['seconds'])} s, "
            f"{figure(ratio)} times ours."
        )
    return [*blocks, *failures_of(cells)]


def popcount_ratio(cell: Values, pairs: int, cells: Values, result: Values) -> str:
    """Return the time of counting divided by that of the popcounts alone."""
    clock = re.match(r"(\d+) MHz", result["machine"].get("clock", ""))
    units = cells["bandwidth"].get("multiprocessors")
    if clock is None or units is None:
        return "–"
    popcounts = pairs * -(-cell["nbit"] // 32)
    return figure(cell["seconds"] * units * 16 * int(clock[1]) * 1e6 / popcounts)


def label_free_blocks(cells: Values, result: Values) -> list[str]:
    """Return the speed of training without labels; each image has all its views."""
    rows = [["method", "backbone", "B", "views", "train, images/s"]]
    for name, cell in cells.items():
        rows.append([*name.split(" | "), cell.get("views", "–"), cell_text(cell, "train")])
    return [table(rows), *failures_of(cells)]


BLOCKS: dict[str, Callable[[Values, Values], list[str]]] = {
    "tests": test_blocks,
    "steps": step_blocks,
    "run": run_blocks,
    "retrieval": retrieval_blocks,
    "label-free": label_free_blocks,
}


def failures_of(cells: Values) -> list[str]:
    """Return the cells that failed or were skipped, grouped by the reason."""
    names_of: dict[str, list[str]] = {}
    for name, cell in cells.items():
        state = state_of(cell)
        if state != "measured":
            names_of.setdefault(re.sub(r"[\d.]+ s", "N s", state), []).append(name)
    lines = []
    for reason, names in names_of.items():
        more = f"; and {len(names) - 6} more" if len(names) > 6 else ""
        lines.append(f"- {reason}: {'; '.join(names[:6])}{more}")
    return ["\n".join(lines)] if lines else []


def state_of(cell: Values) -> str:
    """Return that a cell was measured, or that it was skipped or failed, and why."""
    for key in ("failed", "skipped"):
        if key in cell:
            return f"{key}: {cell[key]}"
    return "measured"


def cell_text(cell: Values | None, key: str) -> str:
    """Return a number of a cell, or why there is none."""
    if not cell or "skipped" in cell:
        return "–"
    return figure(cell[key]) if key in cell else "failed"


def shortened(text: str) -> str:
    """Return a text, cut to ``LIMIT`` characters."""
    if len(text) <= LIMIT:
        return text
    return text[: LIMIT - 60].rsplit("\n", 1)[0] + "\n\n(the rest is in gpu.md)\n"


def record(file: Path, page: Path) -> None:
    """Put the results of a file into a page, between the lines of this benchmark.

    Raises:
        SystemExit: the page does not have these lines, or the file has no results.
    """
    result = read_results(file)
    if result.get("schema") != 1 or "machine" not in result:
        raise SystemExit(f"{file} is no result of benchmarks/gpu.py")
    harness.record("gpu", markdown(result), page)
