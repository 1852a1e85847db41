"""Page of all sweeps and runs in a folder of outputs, with filters that need no script."""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from deephash.report.pages.base import render
from deephash.report.pages.links import INDEX, PAGE, address
from deephash.report.values import Report, is_number, metric_name
from deephash.utils.files import SWEEPS, remove_temporaries, write_text
from deephash.utils.formatting import clock, number, shorten
from deephash.utils.nested import get_nested
from deephash.utils.run_paths import RunPaths


@dataclass(frozen=True)
class IndexedSweep:
    """A sweep in the index."""

    name: str
    title: str
    finished: int
    total: int


@dataclass(frozen=True)
class IndexedRun:
    """A run in the index."""

    name: str  # its folder below the outputs
    dataset: str
    method: str
    bits: str  # of the folder: 32bit
    last: str  # last component of the name: seed and settings
    state: str
    sweep: str  # empty: of none
    report: Report  # empty unless it has finished
    error: str

    @property
    def nbit(self) -> int:
        """Number of bits; 0 if the folder has another form."""
        match = re.match(r"\d+", self.bits)
        return int(match[0]) if match else 0

    @property
    def map(self) -> float:
        """The mAP; nan if there is none."""
        value = get_nested(self.report, "metrics", "map")
        return float(value) if is_number(value) else math.nan


LONGEST_SETTINGS = 60
"""Longer settings are folded."""

FILTERS: dict[str, Callable[[IndexedRun], str]] = {
    "dataset": lambda run: run.dataset,
    "method": lambda run: run.method,
    "bits": lambda run: run.bits.removesuffix("bit"),
    "state": lambda run: run.state,
    "sweep": lambda run: run.sweep or "none",
}
"""Values of a run that the page can be filtered by."""


def write_index_page(
    outputs: Path, sweeps: Sequence[IndexedSweep], runs: Sequence[IndexedRun]
) -> Path:
    """Write ``index.html`` and return its path.

    Args:
        outputs: the folder of the runs.
        sweeps: in it.
        runs: in it.
    """
    runs = sorted(
        runs,
        key=lambda run: (
            run.state != "finished",
            run.dataset,
            str(get_nested(run.report, "protocol", "protocol") or ""),
            run.nbit,
            -run.map if math.isfinite(run.map) else math.inf,
            run.name,
        ),
    )
    filters = {
        name: sorted({value(run) for run in runs}, key=_natural) for name, value in FILTERS.items()
    }
    values = {
        "sweeps": [_sweep_values(outputs, sweep) for sweep in sweeps],
        "runs": [
            _run_values(outputs, run)
            | {"marks": [options.index(FILTERS[name](run)) for name, options in filters.items()]}
            for run in runs
        ],
        "filters": list(filters.items()),
        "finished": sum(run.state == "finished" for run in runs),
    }
    path = outputs / INDEX
    remove_temporaries(path)
    write_text(path, render("index.html.j2", values))
    return path


def _natural(text: str) -> tuple[int, int, str]:
    """Return a key that sorts numbers by value, before other texts."""
    return (0, int(text), "") if text.isdecimal() else (1, 0, text)


def _sweep_values(outputs: Path, sweep: IndexedSweep) -> dict[str, Any]:
    page = outputs / SWEEPS / sweep.name / PAGE
    return {
        "name": sweep.name,
        "title": sweep.title,
        "count": f"{sweep.finished} of {sweep.total}",
        "link": address(page, outputs) if page.is_file() else "",
        "date": _date(page),
    }


def _run_values(outputs: Path, run: IndexedRun) -> dict[str, Any]:
    paths, report = RunPaths(outputs / run.name), run.report
    links = [
        (title, address(page, outputs))
        for title, page in (("run", paths.report_page), ("evaluation", paths.evaluation_page))
        if page.is_file()
    ]
    seconds = get_nested(report, "training", "seconds")
    seed, _, settings = run.last.partition(",")
    full = str(report.get("full_name") or run.name).partition("/seed")[2].partition(",")[2]
    short = shorten(settings, LONGEST_SETTINGS)
    return {
        "name": run.name,
        "dataset": run.dataset,
        "protocol": str(get_nested(report, "protocol", "protocol") or ""),
        "method": run.method,
        "bits": run.bits.removesuffix("bit"),
        "seed": seed.removeprefix("seed"),
        "settings": short.replace(",", ", "),
        "full": full.replace(",", ", ") if full != short else "",
        "map": number(run.map) if math.isfinite(run.map) else "",
        "metric": metric_name(report) if report else "",
        "time": clock(seconds) if is_number(seconds) else "",
        "date": _date(paths.report_file),
        "state": run.state,
        "error": run.error,
        "sweep": run.sweep,
        "links": links,
    }


def _date(file: Path) -> str:
    """Return when a file was written, in UTC; empty if it does not exist."""
    try:
        changed = datetime.fromtimestamp(file.stat().st_mtime, UTC)
    except OSError:
        return ""
    return changed.strftime("%Y-%m-%d %H:%M")
