"""The page of all sweeps and runs in a folder of outputs."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from deephash.errors import FileError, TrainingError, WriteError
from deephash.report.pages.index import IndexedRun, IndexedSweep, write_index_page
from deephash.report.reading import read_sweep_file
from deephash.runs.folder import RunFolder
from deephash.runs.status import State, reason, state_of
from deephash.utils.attempt import attempt
from deephash.utils.files import MANIFEST, SWEEPS

MOST_RUNS = 500
"""With more runs, a single run that ends does not write the page again."""


def write_index(outputs: Path) -> tuple[Path, list[IndexedSweep], list[IndexedRun]]:
    """Write ``index.html`` in a folder of outputs.

    Returns:
        The page, and the sweeps and runs on it.

    Raises:
        WriteError: If the page cannot be written.
    """
    sweeps, group_of = [], dict[str, str]()
    runs = {name: run for run in _run_folders(outputs) if (name := _name(outputs, run))}
    states = {name: state_of(run) for name, run in runs.items()}
    for file in sorted((outputs / SWEEPS).glob(f"*/{MANIFEST}")):
        try:
            manifest = read_sweep_file(file)
        except FileError:
            continue
        names = list(dict.fromkeys(str(job["run"]) for job in manifest["jobs"]))
        finished = sum(states.get(name) is State.finished for name in names)
        title = str(manifest.get("title") or "")
        sweeps.append(IndexedSweep(file.parent.name, title, finished, len(names)))
        for name in names:
            group_of.setdefault(name, file.parent.name)
    indexed = [
        _indexed(name, run, states[name], group_of.get(name, "")) for name, run in runs.items()
    ]
    return write_index_page(outputs, sweeps, indexed), sweeps, indexed


def refresh_index(outputs: Path) -> None:
    """Write the page again after a run, unless that takes long or the folder is read-only."""
    count = sum(1 for _ in zip(_run_folders(outputs), range(MOST_RUNS + 1), strict=False))
    if count <= MOST_RUNS:
        with attempt("the page of all runs"), contextlib.suppress(WriteError):
            write_index(outputs)


def _run_folders(outputs: Path) -> Iterator[RunFolder]:
    """Yield the run folders, whose names have four parts, sorted by name."""
    for file in sorted(outputs.glob("[!.]*/[!.]*/[!.]*/[!.]*/config.yaml")):
        if not any(folder.is_symlink() for folder in list(file.parents)[:4]):
            yield RunFolder(file.parent)


def _name(outputs: Path, run: RunFolder) -> str:
    return run.path.relative_to(outputs).as_posix()


def _indexed(name: str, run: RunFolder, state: State, sweep: str) -> IndexedRun:
    dataset, method, bits, last = name.split("/")
    report: dict[str, Any] = {}
    if state is State.finished:
        with contextlib.suppress(FileError):
            report = run.report()
    error = ""
    if state is State.failed:
        with contextlib.suppress(TrainingError, FileError):
            error = reason(run).splitlines()[0]
    return IndexedRun(name, dataset, method, bits, last, state.value, sweep, report, error)
