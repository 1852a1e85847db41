"""Report sweeps: read the reports of their runs, and write tables, figures and a page."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from deephash.config import build, run_identity, schema
from deephash.config.overrides import Override, parse_all
from deephash.errors import ConfigError, FileError, TrainingError
from deephash.loggers import wandb_workspace
from deephash.report import write_sweeps
from deephash.report.pages.base import format_value
from deephash.report.pages.sweep import all_markdown, count_states, damaged_runs
from deephash.report.reading import read_sweep_file
from deephash.report.results import Layout, Sweep, SweepRun, filter_runs, make_sections
from deephash.runs.folder import RunFolder
from deephash.runs.outputs_index import refresh_index, write_index
from deephash.runs.status import State, epochs_done, reason, state_of
from deephash.sweep.log_sweep import log_report, save_sweep_view
from deephash.sweep.paired import paired_differences
from deephash.utils import filenames, program
from deephash.utils.files import (
    MANIFEST,
    SWEEPS,
    check_writable,
    expand_path,
    expect,
    make_subfolder,
    read_json,
    remove,
    write_json,
)
from deephash.utils.formatting import all_typed, typed
from deephash.utils.nested import get_nested

SUMMARY = "summary.json"


def report_sweeps(cfg: schema.Report, overrides: Sequence[Override] = ()) -> dict[str, Any]:
    """Write tables and figures of sweeps, from those of their runs that have finished.

    Without a sweep, write the page of all sweeps and runs.

    Args:
        cfg: the checked configuration of the command ``report``.
        overrides: the command line.

    Returns:
        The content of ``summary.json``: the sweeps, the number of runs by state, and the files.

    Raises:
        ConfigError: If there is no such sweep, row or axis.
    """
    build.require_loggers(cfg.logger)  # before anything is read
    if cfg.sweep is None:
        return _report_outputs(expand_path(cfg.paths.outputs))
    if cfg.wandb is not None:
        wandb_workspace.check_server()
    outputs = expand_path(cfg.paths.outputs)
    names = list(dict.fromkeys(_as_list(cfg.sweep)))
    sweeps = _filter([read_sweep(outputs, name) for name in names], cfg.only or {})
    sections = make_sections(sweeps)
    compared = {}
    if cfg.compare is not None:
        rows = {section.row_name(row): None for section in sections for row in section.rows}
        if cfg.compare not in ("best", *rows):
            raise ConfigError(
                f"compare  there is no row {cfg.compare}. Give best, null, or one "
                f"of: {', '.join(rows)}."
            )
        for index, section in enumerate(sections):
            compared[index] = paired_differences(section, cfg.compare, outputs, cfg.draws, cfg.seed)
    folder = _report_folder(cfg, outputs / SWEEPS, "+".join(names))
    before = _files_before(folder)
    check_writable(folder)
    RunFolder(folder).tidy()
    files = write_sweeps(folder, sweeps, sections, compared, outputs)
    target = folder.resolve()
    for name in before - set(files):
        if (folder / name).parent.resolve() in (target, target / "figures"):  # not behind a link
            remove(folder / name)
    summary = {
        "schema": 1,
        "sweeps": names,
        "runs": dict(count_states(sweeps)),
        "files": sorted(files),
    }
    write_json(folder / SUMMARY, summary)
    refresh_index(outputs)
    print(all_markdown(sweeps, sections, compared))
    for run in damaged_runs(sweeps):
        print(f"left out: {run.name}, {run.error}")
    for name in ("report.html", "table.md", "table.tex", "table.csv"):
        print(f"{Path(name).stem:<7} {files[name]}")
    log_report(cfg, names, sections, files, folder)
    if cfg.wandb is not None:
        save_sweep_view(cfg, sweeps)
    return summary


def _report_outputs(outputs: Path) -> dict[str, Any]:
    """Write the page of all sweeps and runs, and list the sweeps.

    Raises:
        ConfigError: If there are no runs.
    """
    if not outputs.is_dir():
        raise ConfigError(f"paths.outputs  there is no folder {outputs}.{_known_sweeps(outputs)}")
    page, sweeps, runs = write_index(outputs)
    for sweep in sweeps:
        print(f"{sweep.finished:>4} of {sweep.total:<4} {sweep.name}  {sweep.title}".rstrip())
    if sweeps:
        print(f"\nreport of a sweep: {program.command('report')} sweep={sweeps[0].name}")
    print(f"index   {page}  (sweeps: {len(sweeps)}, runs: {len(runs)})")
    return {"sweeps": [sweep.name for sweep in sweeps], "runs": len(runs), "index": str(page)}


def _report_folder(cfg: schema.Report, sweeps: Path, name: str) -> Path:
    """Return the folder of the report; with ``only`` it is a subfolder of the whole report's."""
    if cfg.out is not None:
        return expand_path(cfg.out)
    folder = sweeps / name
    if cfg.only:
        folder /= "only-" + ",".join(
            f"{key}={'+'.join(all_typed(value))}".replace("/", "-")
            for key, value in cfg.only.items()
        )
    for part in dict.fromkeys((sweeps, sweeps / name, folder)):
        make_subfolder(part)  # outputs may come from elsewhere, with links in it
    return folder


def read_sweep(outputs: Path, name: str) -> Sweep:
    """Read a sweep from its manifest and the folders of its runs.

    Raises:
        ConfigError: If there is no sweep of that name, or its manifest is damaged.
    """
    path = outputs / SWEEPS / name / MANIFEST
    if not path.exists():
        raise ConfigError(f"sweep  there is no sweep {name} in {outputs}.{_known_sweeps(outputs)}")
    try:
        manifest = read_sweep_file(path)
    except FileError as error:
        raise ConfigError(f"sweep  {path} is damaged: {error.reason}\n  {error.advice}") from error
    runs = tuple(_read_run(outputs, entry) for entry in manifest["jobs"])
    layout = _layout(manifest.get("report") or {})
    texts = {key: str(manifest.get(key) or "") for key in ("title", "source", "command")}
    return Sweep(name, runs, layout, **texts)


def _read_run(outputs: Path, entry: Mapping[str, Any]) -> SweepRun:
    name, values, settings = entry["run"], entry["values"], tuple(entry.get("settings") or ())
    if not filenames.is_below(name):
        raise ConfigError(f"sweep  the run {name!r} is not below {outputs}")
    folder = RunFolder(outputs / name)
    known = {*values, *(override.key for override in parse_all(settings))}
    fixed = tuple(
        override.text
        for override in parse_all(entry.get("overrides") or ())
        if override.key not in known and run_identity.is_in_name(override.key)
    )
    run = SweepRun(name, values, settings, fixed, state="finished", conditions=_conditions(folder))
    try:
        return replace(run, report=folder.report())
    except FileError as damage:
        state = state_of(folder)
        if state is State.running:
            return replace(run, state=state.value, progress=_progress(folder))
        error = ""
        if state is State.failed:
            error = reason(folder).splitlines()[0]
        elif state is State.damaged:
            error = f"report.json: {damage.reason}"
        return replace(run, state=state.value, error=error)


CONDITIONS = {
    "protocol": "dataset.protocol",
    "backbone": "backbone.name",
    "frozen": "backbone.frozen",
    "dropout": "backbone.dropout",
    "epochs": "trainer.epochs",
    "learning rate": "optimizer.lr",
    "weight decay": "optimizer.weight_decay",
    "selection": "trainer.select_on",
    "views": "method.views",
    "cached views": "method.cached_views",
}
"""Configuration keys that tables print, by column title."""


def _conditions(run: RunFolder) -> dict[str, str]:
    """Return the conditions of a run from its configuration; empty if it has not started."""
    try:
        configuration = run.config()
    except (TrainingError, FileError):
        return {}
    values = {name: get_nested(configuration, *key.split(".")) for name, key in CONDITIONS.items()}
    target = str(get_nested(configuration, "backbone", "_target_") or "").rpartition(".")[2]
    values["backbone"] = values["backbone"] or target.lower() or None
    if get_nested(configuration, "optimizer") is None:  # a closed-form method
        values |= dict.fromkeys(("epochs", "learning rate", "weight decay", "selection"))
    return {name: "-" if it is None else format_value(it) for name, it in values.items()}


def _progress(run: RunFolder) -> str:
    """Return finished and planned epochs, such as ``3/40``; empty if they are unknown."""
    try:
        epochs = get_nested(run.config(), "trainer", "epochs")
    except (TrainingError, FileError):
        return ""
    return "" if epochs is None else f"{epochs_done(run)}/{epochs}"


def _layout(entry: Mapping[str, Any]) -> Layout:
    given = {
        key: entry[key]
        for key in ("columns", "row_label", "digits", "figure", "also")
        if entry.get(key) is not None
    }
    published = _as_list(entry.get("published") or [])
    return Layout(
        rows=tuple(_as_list(entry.get("rows") or [])),
        published=published[0] if published else None,
        also_published=tuple(published[1:]),
        **given,
    )


def _as_list(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else list(value)


def _filter(sweeps: Sequence[Sweep], only: Mapping[str, Any]) -> list[Sweep]:
    """Return the sweeps with those of their runs that have the given values.

    Raises:
        ConfigError: If a key is not an axis of any of them, or no run has such values.
    """
    runs = [run for sweep in sweeps for run in sweep.runs]
    axes = dict.fromkeys(key for run in runs for key in run.values)
    for key in only:
        if key not in axes:
            raise ConfigError(
                f"only  {key} is not an axis of these runs. There are: {', '.join(axes)}."
            )
    filtered = [replace(sweep, runs=filter_runs(sweep.runs, only)) for sweep in sweeps]
    if only and not any(sweep.runs for sweep in filtered):
        wanted = ", ".join(f"{key}: {typed(value)}" for key, value in only.items())
        values = {key: dict.fromkeys(typed(run.values.get(key)) for run in runs) for key in only}
        known = "; ".join(f"{key}: {', '.join(it)}" for key, it in values.items())
        raise ConfigError(f"only  no run has {wanted}. There are {known}.")
    return filtered


def _known_sweeps(outputs: Path) -> str:
    """Return a message with the sweeps that exist, and with a command."""
    names = sorted(path.parent.name for path in (outputs / SWEEPS).glob(f"*/{MANIFEST}"))
    if names:
        command = program.command("report")
        return f"\n  There are: {', '.join(names)}. Type: {command} sweep={names[0]}"
    return (
        f"\n  There are none. A sweep is started by {program.command('train')} -m +sweep=NAME; "
        "paths.outputs=FOLDER selects the folder of its runs."
    )


def _files_before(folder: Path) -> set[str]:
    """Return the files of an earlier report, some of which may be obsolete."""
    try:
        summary = read_json(folder / SUMMARY)
        expect(summary, {"files": [str]}, folder / SUMMARY)
    except FileError:
        return set()
    return set(filter(filenames.is_below, summary["files"]))
