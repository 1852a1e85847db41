"""The table of benchmarks/gpu.py: its results as Markdown, and in a page of the documentation."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from gpu_parts import FORMS, LAUNCHES, Found, read_results

LIMIT = 11_000
"""Characters of the table that is printed."""

BEGIN, END = "<!-- gpu: begin -->", "<!-- gpu: end -->"
"""Around the section of docs/results.md that ``--record`` replaces."""


def markdown(result: Found) -> str:
    """Write all results as Markdown."""
    blocks = [*opening(result), parts_table(result)]
    for name, show in SHOWN.items():
        part = result["parts"].get(name)
        if part and part["cells"]:
            blocks += show(part["cells"], result)
    return "\n\n".join(block for block in blocks if block) + "\n"


def opening(result: Found) -> list[str]:
    """Say on what machine, with what, and by which command."""
    on = result["machine"]
    words = [f"{on['cpu']}, {on['cores']} cores"]
    if on["device"] == "cuda":
        words = [on.get("card", "CUDA device"), f"driver {on.get('driver', 'unknown')}",
                 f"CUDA {on['cuda']}", *words]  # fmt: skip
    else:
        words.insert(0, "**Not measured on CUDA**: a rehearsal on the CPU")
    versions = ["python", "torch", "torchvision", "numpy", "triton", "numba"]
    words += [f"{name} {on[name]}" for name in versions if name in on]
    images = "CIFAR-10" if result["data"] else "made-up images"
    weights = "ImageNet weights" if result["weights"] else "random weights"
    words += [f"commit {on['commit']}", images, weights]
    if result["tiny"]:
        words.append("sizes at which figures mean nothing")
    seconds = f"{result.get('seconds', 0):.0f} of {result['budget']:.0f} s"
    return [f"{', '.join(words)}; {seconds}.", f"```\n{result['command']}\n```"]


def parts_table(result: Found) -> str:
    """Make a row for each part."""
    rows = [["part", "status", "s", "cells"]]
    for name, part in result["parts"].items():
        kinds = [next((key for key in ("failed", "skipped") if key in cell), "measured")
                 for cell in part["cells"].values()]  # fmt: skip
        numbers = ", ".join(f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds))
        rows.append([name, part["status"], f"{part['seconds']:.0f}", numbers])
    return laid_out(rows)


def show_tests(cells: Found, result: Found) -> list[str]:
    """Say how many tests passed, and which failed."""
    (cell,) = cells.values()
    if "passed" not in cell:
        return [f"Tests: {became(cell)}."]
    text = (f"Tests (`pytest -m gpu`): {cell['passed']} passed, {cell['failed_tests']} failed, "
            f"{cell['skipped_tests']} skipped")  # fmt: skip
    if cell["interrupted"]:
        text += f"; stopped while `{cell['interrupted']}` ran"
    failures = [f"- `{name}`: {reason}" for name, reason in list(cell["failures"].items())[:15]]
    return ["\n".join([f"{text}.", *failures])]


def show_steps(cells: Found, result: Found) -> list[str]:
    """Make a table of training, one of encoding, and those of loops and profiles."""
    steps = {
        tuple(name.split(" | ")): cell for name, cell in cells.items() if name.count(" | ") == 2
    }
    steps = {key: cell for key, cell in steps.items() if key[0] not in ("loop", "profile")}
    forms = [form for form in FORMS if any(key[1] == form for key in steps)]
    rows = list(dict.fromkeys((key[0], key[2]) for key in steps))
    blocks = []
    for use in ("train", "encode"):
        table = [[f"{use}, images/s", "B", *forms]]
        for backbone, size in rows:
            values = [cell_text(steps.get((backbone, form, size)), use) for form in forms]
            table.append([backbone, size, *values])
        if len(table) > 1:
            blocks.append(laid_out(table))
    notes = failures_of(cells)
    firsts = {f"{key[0]} {key[1]}": cell["first"] for key, cell in steps.items()
              if "first" in cell and ("compiled" in key[1] or "graph" in key[1])}  # fmt: skip
    for name, cell in steps.items():
        notes += [f"- {' '.join(name)}: {note}" for note in cell.get("notes", [])]
    if firsts:
        notes.append("First step, s: " + ", ".join(f"{k} {v:.1f}" for k, v in firsts.items()) + ".")
    return [*blocks, FORM_NOTE * bool(blocks), *loop_table(cells), *profile_table(cells), *notes]


FORM_NOTE = (
    "as train.py: fp32 (convolutions in TF32 on a CUDA device, which is torch's default), "
    "channels-last, deterministic; fill: with torch's filling of uninitialised memory; "
    "graph, not deterministic: as train.py, changed in this. All others: not deterministic; cl: "
    "channels-last; fp32, tf32: products and convolutions. Steps of the trainer's own loop "
    "on a batch on the device. –: not measured."
)


def loop_table(cells: Found) -> list[str]:
    """Compare the loops with all that feeds them."""
    rows = [["loop with its data, images/s", "the field's", "ours", "times as fast"]]
    for use in ("train", "encode"):
        pair = [cells.get(f"loop | {use} | {whose}", {}) for whose in ("field", "ours")]
        if not any(pair):
            continue
        ratio = "–"
        if all("rate" in cell for cell in pair):
            ratio = figure(pair[1]["rate"] / pair[0]["rate"])
        rows.append([use, *(cell_text(cell, "rate") for cell in pair), ratio])
    return [laid_out(rows)] if len(rows) > 1 else []


def profile_table(cells: Found) -> list[str]:
    """Tabulate profiles."""
    profiles = {name.split(" | ")[1]: cell for name, cell in cells.items()
                if name.startswith("profile") and "top" in cell}  # fmt: skip
    rows = [["a step, profiled", "ms", "operators", *LAUNCHES, "device busy, ms", "share"]]
    tops = []
    for form, cell in profiles.items():
        calls = [f"{cell['calls'][name]:.0f}" for name in LAUNCHES]
        rows.append([form, figure(cell["ms"]), f"{cell['operators']:.0f}", *calls,
                     figure(cell["device_ms"]), f"{cell['busy']:.0%}"])  # fmt: skip
        most = ", ".join(f"`{key[:48]}` {share:.0%} ({times:.0f})" for key, times, share in
                         cell["top"][:5])  # fmt: skip
        tops.append(f"- {form}, most time (and calls a step): {most}")
    return [laid_out(rows), "\n".join(tops)] if profiles else []


def show_run(cells: Found, result: Found) -> list[str]:
    """Show the curve, the seconds, and jobs at once."""
    blocks, rows = [], [["job", "epochs", "begins, s", "training, s an epoch", "encoding, s",
                         "retrieval, s", "training, images/s", "mAP"]]  # fmt: skip
    for name in ("one job", "run", "one job, graph"):
        cell = cells.get(name, {})
        if "curve" not in cell:
            continue
        last = cell.get("map", cell["curve"][-1][1] if cell["curve"] else None)
        numbers = [cell.get(key) for key in ("begins", "epoch", "encoding", "retrieval", "rate")]
        done = cell["curve"][-1][0] if cell["curve"] else 0
        rows.append([name, f"{done}" + ("" if cell["finished"] else f", stopped of {cell['epochs']}"
                                        if "epochs" in cell else ", stopped"),
                     *("–" if number is None else figure(number) for number in numbers),
                     "–" if last is None else f"{last:.4f}"])  # fmt: skip
    if len(rows) > 1:
        blocks.append(laid_out(rows))
    curve = cells.get("run", {}).get("curve")
    if curve:
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


def show_retrieval(cells: Found, result: Found) -> list[str]:
    """Make a row for each work."""
    speed = cells.get("bandwidth", {}).get("bytes_per_second")
    rows = [["counting distances", "queries × items", "device, s", "pairs/s", "bandwidth limit",
             "× popcount limit",
             "CPU, s", "CPU by", "times as fast", "counts equal", "mAP, s"]]  # fmt: skip
    for name, cell in cells.items():
        if "cpu_seconds" not in cell:
            continue
        pairs = cell["queries"] * cell["items"]
        share = "–" if not speed else f"{cell['bytes'] / speed / cell['seconds']:.2%}"
        rows.append([
            name, f"{cell['queries']:,} × {cell['items']:,}", figure(cell["seconds"]),
            f"{pairs / cell['seconds']:.2g}", share, times_limit(cell, pairs, cells, result),
            figure(cell["cpu_seconds"]), cell["cpu"],
            figure(cell["cpu_seconds"] / cell["seconds"]),
            "yes" if cell["equal"] else "**NO**", figure(cell["map_seconds"]),
        ])  # fmt: skip
    blocks = [laid_out(rows)] if len(rows) > 1 else []
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
        both = ours["seconds"] + ours["map_seconds"]
        blocks.append(
            f"mAP of {field['work']} as the field computes it (floats, product, sort, on the CPU; "
            f"from {field['queries']} queries): {figure(field['seconds'])} s, "
            f"{figure(field['seconds'] / both)} times ours."
        )
    return [*blocks, *failures_of(cells)]


def times_limit(cell: Found, pairs: int, cells: Found, result: Found) -> str:
    """Return how many times longer counting took than the popcounts alone would."""
    clock = re.match(r"(\d+) MHz", result["machine"].get("clock", ""))
    units = cells["bandwidth"].get("multiprocessors")
    if clock is None or units is None:
        return "–"
    popcounts = pairs * -(-cell["nbit"] // 32)
    return figure(cell["seconds"] * units * 16 * int(clock[1]) * 1e6 / popcounts)


def show_label_free(cells: Found, result: Found) -> list[str]:
    """Make a table of training without labels; each image is encoded in all its views."""
    table = [["method", "backbone", "B", "views", "train, images/s"]]
    for name, cell in cells.items():
        table.append([*name.split(" | "), str(cell.get("views", "–")), cell_text(cell, "train")])
    return [laid_out(table), *failures_of(cells)]


SHOWN: dict[str, Callable[[Found, Found], list[str]]] = {
    "tests": show_tests,
    "steps": show_steps,
    "run": show_run,
    "retrieval": show_retrieval,
    "label-free": show_label_free,
}


def failures_of(cells: Found) -> list[str]:
    """Name the cells that failed or were skipped, those with the same reason together."""
    reasons: dict[str, list[str]] = {}
    for name, cell in cells.items():
        if "failed" in cell or "skipped" in cell:
            text = became(cell)
            reasons.setdefault(re.sub(r"[\d.]+ s", "N s", text), []).append(name)
    shown = []
    for reason, names in reasons.items():
        few = "; ".join(names[:6]) + (f"; and {len(names) - 6} more" if len(names) > 6 else "")
        shown.append(f"- {reason}: {few}")
    return ["\n".join(shown)] if shown else []


def became(cell: Found) -> str:
    """Say that a cell was skipped or failed, and why."""
    for key in ("failed", "skipped"):
        if key in cell:
            return f"{key}: {cell[key]}"
    return "measured"


def cell_text(cell: Found | None, key: str) -> str:
    """Return a number of a cell, or why there is none."""
    if not cell or "skipped" in cell:
        return "–"
    return "failed" if key not in cell else figure(cell[key])


def figure(value: float) -> str:
    """Write three significant digits."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def laid_out(rows: Sequence[Sequence[str]]) -> str:
    """Lay out a table in Markdown."""
    lines = [rows[0], ["---"] * len(rows[0]), *rows[1:]]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def shortened(text: str) -> str:
    """Return the table so that it fits into ``LIMIT`` characters."""
    if len(text) <= LIMIT:
        return text
    return text[: LIMIT - 60].rsplit("\n", 1)[0] + "\n\n(the rest is in gpu.md)\n"


def record(file: Path, page: Path) -> None:
    """Put the table of a result into a page, between its markers.

    Raises:
        SystemExit: the page has no markers, or the file is no result.
    """
    result = read_results(file)
    if result.get("schema") != 1 or "machine" not in result:
        raise SystemExit(f"{file} is no result of benchmarks/gpu.py")
    text = page.read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, stop, after = rest.partition(END)
    if not begin or not stop:
        raise SystemExit(f"{page} has no lines {BEGIN} and {END}")
    section = f"{before}{BEGIN}\n\n{markdown(result).strip()}\n\n{END}{after}"
    page.write_text(section, encoding="utf-8")
