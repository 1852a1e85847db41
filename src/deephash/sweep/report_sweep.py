"""Report a sweep: read what its runs have left so far, and write tables, figures and a page."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from deephash.config import build, identity, schema
from deephash.config.injected import Injected
from deephash.config.overrides import Override, parse_all
from deephash.errors import ConfigError, FileError, TrainingError
from deephash.loggers import Loggers
from deephash.loggers.wandb import load_package
from deephash.report import write_sweeps
from deephash.report.grid import Job, Layout, Section, Sweep, chosen, sections
from deephash.report.pages.base import shown
from deephash.report.pages.sweep import counts, damaged_jobs, tables_of
from deephash.report.reading import read_manifest
from deephash.runs.folder import RunFolder
from deephash.runs.status import State, epochs_done, reason, state_of
from deephash.sweep.paired import paired
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


def report(cfg: schema.Report, overrides: Sequence[Override] = ()) -> dict[str, Any]:
    """The tables and figures of sweeps, from those of their runs that have finished.

    Args:
        cfg: the checked page of ``report.py``.
        overrides: the command line.

    Returns:
        what ``summary.json`` holds: the sweeps, how many runs are in which state, the files.

    Raises:
        ConfigError: if there is no such sweep, row or axis.
    """
    if "wandb" in (cfg.logger or {}):
        load_package()  # before anything is read
    outputs = expand_path(cfg.paths.outputs)
    names = list(dict.fromkeys(_listed(cfg.sweep)))
    sweeps = _only([read(outputs, name) for name in names], cfg.only or {})
    parts = sections(sweeps)
    compare = cfg.compare
    _check_compare(compare, parts)
    compared = {}
    if compare is not None:
        for at, section in enumerate(parts):
            compared[at] = paired(section, compare, outputs, cfg.draws, cfg.seed)
    out = outputs / SWEEPS / "+".join(names)
    if cfg.only:  # the whole report stays
        out /= "only-" + ",".join(
            f"{key}={'+'.join(all_typed(value))}".replace("/", "-")
            for key, value in cfg.only.items()
        )
    if cfg.out is not None:
        out = expand_path(cfg.out)
    else:  # the folder of outputs may be a stranger's, with links in it
        for folder in dict.fromkeys((outputs / SWEEPS, outputs / SWEEPS / "+".join(names), out)):
            make_subfolder(folder)
    before = _files_before(out)
    check_writable(out)
    RunFolder(out).tidy()
    files = write_sweeps(out, sweeps, parts, compared)
    here = out.resolve()
    for name in before - set(files):
        if (out / name).parent.resolve() in (here, here / "figures"):  # behind no link
            remove(out / name)
    told = {
        "schema": 1,
        "sweeps": names,
        "runs": dict(counts(sweeps)),
        "files": sorted(files),
    }
    write_json(out / SUMMARY, told)
    print(tables_of(sweeps, parts, compared))
    for job in damaged_jobs(sweeps):
        print(f"left out: {job.run}, {job.error}")
    for name in ("report.html", "table.md", "table.tex", "table.csv"):
        print(f"{Path(name).stem:<7} {files[name]}")
    _show(cfg, names, files, out)
    return told


def read(outputs: Path, name: str) -> Sweep:
    """A sweep as its manifest and the folders of its runs tell it at this moment.

    Raises:
        ConfigError: if there is none of that name, or its manifest is damaged.
    """
    path = outputs / SWEEPS / name / MANIFEST
    if not path.exists():
        raise ConfigError(f"sweep  there is no sweep {name} in {outputs}.{_offer(outputs)}")
    try:
        told = read_manifest(path)
    except FileError as error:
        raise ConfigError(f"sweep  {path} is damaged: {error.reason}\n  {error.advice}") from error
    jobs = tuple(_job(outputs, one) for one in told["jobs"])
    layout = _layout(told.get("report") or {})
    texts = {key: str(told.get(key) or "") for key in ("title", "source", "command")}
    return Sweep(name, jobs, layout, **texts)


def _job(outputs: Path, told: Mapping[str, Any]) -> Job:
    if not filenames.is_below(told["run"]):
        raise ConfigError(f"sweep  the run {told['run']!r} is not below {outputs}")
    run = RunFolder(outputs / told["run"])
    settings, values = tuple(told.get("settings") or ()), told["values"]
    known = {*values, *(one.key for one in parse_all(settings))}
    fixed = tuple(
        one.text
        for one in parse_all(told.get("overrides") or ())
        if one.key not in known and identity.is_in_name(one.key)
    )
    found, state, progress, error = None, "finished", "", ""
    try:
        found = run.report()
    except FileError as damage:
        state = state_of(run).value
        if state == State.running.value:
            progress = _progress(run)
        elif state == State.failed.value:
            error = reason(run).splitlines()[0]
        elif state == State.damaged.value:
            error = f"report.json: {damage.reason}"
    return Job(
        told["run"], values, settings, fixed, found, state, progress, error, _conditions(run)
    )


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
"""Conditions of a run that tables print, by the name of the column: keys of its configuration."""


def _conditions(run: RunFolder) -> dict[str, str]:
    """Under what a run ran, as its configuration says; empty of one that has not begun."""
    try:
        configuration = run.config()
    except (TrainingError, FileError):
        return {}
    values = {name: get_nested(configuration, *key.split(".")) for name, key in CONDITIONS.items()}
    target = str(get_nested(configuration, "backbone", "_target_") or "").rpartition(".")[2]
    values["backbone"] = values["backbone"] or target.lower() or None
    if get_nested(configuration, "optimizer") is None:  # fitted in closed form: nothing is selected
        values |= dict.fromkeys(("epochs", "learning rate", "weight decay", "selection"))
    return {name: "-" if value is None else shown(value) for name, value in values.items()}


def _progress(run: RunFolder) -> str:
    """The last epoch of so many: ``3/40``; nothing of one that has only begun."""
    try:
        epochs = (run.config().get("trainer") or {}).get("epochs")
    except (TrainingError, FileError):
        return ""
    return "" if epochs is None else f"{epochs_done(run)}/{epochs}"


def _layout(told: Mapping[str, Any]) -> Layout:
    given = {key: told[key] for key in ("columns", "row_label", "digits", "figure", "also")
             if told.get(key) is not None}  # fmt: skip
    published = _listed(told.get("published") or [])
    return Layout(
        rows=tuple(_listed(told.get("rows") or [])),
        published=published[0] if published else None,
        also_published=tuple(published[1:]),
        **given,
    )


def _listed(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else list(value)


def _only(sweeps: Sequence[Sweep], wanted: Mapping[str, Any]) -> list[Sweep]:
    """The sweeps with those of their runs that have the values asked for.

    Raises:
        ConfigError: if a key is no axis of any of them, or nothing has such values.
    """
    axes = dict.fromkeys(key for sweep in sweeps for job in sweep.jobs for key in job.values)
    for key in wanted:
        if key not in axes:
            raise ConfigError(f"only  {key} is no axis of these runs. Theirs: {', '.join(axes)}.")
    narrowed = [
        Sweep(sweep.name, chosen(sweep.jobs, wanted), sweep.layout, sweep.title, sweep.source,
              sweep.command)
        for sweep in sweeps
    ]  # fmt: skip
    if wanted and not any(sweep.jobs for sweep in narrowed):
        have = [f"{key}: {', '.join(_values(sweeps, key))}" for key in wanted]
        asked = ", ".join(f"{key}: {typed(value)}" for key, value in wanted.items())
        raise ConfigError(f"only  no run has {asked}. There are {'; '.join(have)}.")
    return narrowed


def _values(sweeps: Sequence[Sweep], key: str) -> Iterable[str]:
    return dict.fromkeys(typed(job.values.get(key)) for sweep in sweeps for job in sweep.jobs)


def _check_compare(compare: str | None, parts: Sequence[Section]) -> None:
    names = dict.fromkeys(section.name_of(row) for section in parts for row in section.rows)
    if compare not in (None, "best", *names):
        raise ConfigError(f"compare  there is no row {compare}. Give best, null, or one of: "
                          f"{', '.join(names)}.")  # fmt: skip


def _offer(outputs: Path) -> str:
    """The sweeps that there are, and what to type."""
    found = sorted(path.parent.name for path in (outputs / SWEEPS).glob(f"*/{MANIFEST}"))
    if found:
        command = program.command("report")
        return f"\n  There are: {', '.join(found)}. Type: {command} sweep={found[0]}"
    return (
        f"\n  There are none. A sweep begins with {program.command('train')} -m +sweep=NAME; "
        "paths.outputs=FOLDER says where it ran."
    )


def _files_before(out: Path) -> set[str]:
    """What an earlier report wrote here, figures of sections that may be no more among it."""
    try:
        summary = read_json(out / SUMMARY)
        expect(summary, {"files": [str]}, out / SUMMARY)
    except FileError:
        return set()
    return set(filter(filenames.is_below, summary["files"]))


def _show(cfg: schema.Report, names: Sequence[str], files: Mapping[str, Path], out: Path) -> None:
    """The report to W&B, as an artifact of a run in the sweep's group."""
    node = (cfg.logger or {}).get("wandb")
    if node is None:
        return
    name = "+".join(names)
    offered: Injected = {
        "name": f"report {name}",
        "run_id": None,
        "folder": out,
        "config": dict(cfg.plain),
        "group": name,
        "tags": list(names),
        "job_type": "report",
    }
    logger = Loggers([build.part(node, "logger.wandb", **offered)])
    logger.artifact(name, "report", files)
    logger.figures({path.stem: path for path in files.values() if path.suffix == ".png"})
    logger.close()
    print(f"report to W&B: {out / 'wandb'}")
    logger.summary({}, out)
