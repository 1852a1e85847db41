"""Log the report of a sweep as a run of its own, and save a view of its runs at W&B."""

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from deephash.config import build, schema
from deephash.config.grouping import group_values
from deephash.config.injected_arguments import Injected
from deephash.errors import FileError, TrainingError
from deephash.loggers import wandb_workspace
from deephash.loggers.wandb import has_offline_records, sync_all_command
from deephash.report.figures.sweep import cell_points, figure_axis
from deephash.report.pages.run import NOT_TERMS
from deephash.report.pages.sweep import joint_title
from deephash.report.reading import read_log
from deephash.report.results import SEED, Cell, Section, Sweep, short_key
from deephash.report.values import is_number, metric_name
from deephash.runs.folder import RunFolder
from deephash.runs.query_precision import NotComparableError, map_interval, query_precision
from deephash.utils.files import expand_path

Interval = tuple[float | None, float | None]


def log_report(
    cfg: schema.Report,
    names: Sequence[str],
    sections: Sequence[Section],
    files: Mapping[str, Path],
    out: Path,
) -> None:
    """Log a report as a run of its own in the group of the sweep: tables, lines and files.

    Args:
        cfg: the checked configuration of ``report``.
        names: of the sweeps.
        sections: of the report.
        files: of the report, by their names.
        out: its folder.
    """
    name = "+".join(names)
    offered: Injected = {
        "name": f"report {name}",
        "run_id": None,
        "folder": out,
        "history": None,
        "config": dict(cfg.plain),
        "group": name,
        "tags": list(names),
        "job_type": "report",
        "parameters": {"sweep": name},
    }
    logger = build.result_loggers(cfg.logger, offered)
    if not logger.loggers:
        return
    outputs = expand_path(cfg.paths.outputs)
    for index, section in enumerate(sections, start=1):
        suffix = f"_{index}" if len(sections) > 1 else ""
        logger.table(f"results{suffix}", *results_table(section, outputs, cfg.draws, cfg.seed))
        if (chart := section_lines(section)) is not None:
            logger.lines(f"map{suffix}", *chart)
    logger.artifact(name, "report", files)
    logger.figures({path.stem: path for path in files.values() if path.suffix == ".png"})
    logger.summary({}, out)
    logger.close()


def results_table(
    section: Section, outputs: Path, draws: int, seed: int
) -> tuple[list[str], list[list[Any]]]:
    """Return columns and rows of a table with a row for each cell of a section.

    ``low`` and ``high`` bound the 95 % interval of the mAP, a bootstrap over seeds and queries;
    they are None if the codes of a run do not allow it.

    Args:
        section: of the report.
        outputs: the folder that contains the run folders.
        draws: of the bootstrap.
        seed: of the bootstrap.
    """
    keys = [*map(short_key, section.keys), short_key(section.layout.columns)]
    names = ["bits" if key == "nbit" else key for key in keys]
    columns = ["table", *names, "map", "low", "high", "sd", "seeds", "published"]
    rows: list[list[Any]] = []
    for (row, column), cell in section.cells.items():
        if not cell.included:
            continue
        interval = _interval(cell, outputs, draws, seed)
        sd = cell.sd if math.isfinite(cell.sd) else None
        values = [cell.mean, *interval, sd, len(cell.included), cell.published]
        rows.append([section.title, *row, column, *values])
    return columns, rows


def _interval(cell: Cell, outputs: Path, draws: int, seed: int) -> Interval:
    """Return the bounds of the interval of a cell, over its seeds and the queries that count."""
    included = set(map(id, cell.included))
    runs = {run.values.get(SEED): run for run in cell.runs if id(run.report) in included}
    try:
        interval = map_interval(
            [
                query_precision(outputs / run.name, run.report)
                for run in runs.values()
                if run.report is not None
            ],
            draws,
            seed,
        )
    except NotComparableError:
        return None, None
    return (None, None) if interval is None else interval[:2]


def section_lines(
    section: Section,
) -> tuple[dict[str, list[tuple[float, float]]], str, str] | None:
    """Return the lines of the figure of a section, its title and the title of x.

    None if x is no number, or has a single value.
    """
    axis = figure_axis(section)
    if axis is None or len(axis[1]) < 2 or not all(map(is_number, axis[1])):
        return None
    lines: dict[str, list[tuple[float, float]]] = {}
    for point in cell_points(section, axis[0]):
        if point.group.runs:
            mean, _ = point.group.mean_sd("metrics", "map")
            lines.setdefault(point.group.label, []).append((float(point.x), mean))
    if not lines:
        return None
    metric = metric_name(section.reports[0])
    return (
        {label: sorted(points) for label, points in lines.items()},
        f"{metric} over {axis[2]}, {section.title}",
        axis[2],
    )


def save_sweep_view(cfg: schema.Report, sweeps: Sequence[Sweep]) -> None:
    """Save a view of the runs of sweeps at W&B, and print its address."""
    outputs = expand_path(cfg.paths.outputs)
    node: Mapping[str, Any] = (cfg.logger or {}).get("wandb", {})
    project = node.get("project") or os.environ.get("WANDB_PROJECT") or "deephash"
    entity = node.get("entity") or os.environ.get("WANDB_ENTITY")
    runs = [RunFolder(outputs / run.name) for sweep in sweeps for run in sweep.runs]
    if any(has_offline_records(run.path) for run in runs):
        print(f"W&B     some runs are not uploaded: {sync_all_command(outputs)}")
    address = wandb_workspace.save_view(sweep_view(sweeps, outputs), project, entity)
    print(f"view    {address}")


def sweep_view(sweeps: Sequence[Sweep], outputs: Path) -> wandb_workspace.SweepView:
    """Return what a view of sweeps at W&B shows: which values vary, the terms of the losses.

    Args:
        sweeps: whose runs it shows.
        outputs: the folder that contains the run folders.
    """
    values: dict[str, list[Any]] = {}
    terms: dict[str, None] = {}
    runs = [run for sweep in sweeps for run in sweep.runs]
    for run in runs:
        folder = RunFolder(outputs / run.name)
        try:
            grouped = group_values(folder.config())
        except (TrainingError, FileError):  # it has not started, or is damaged
            continue
        for key, value in grouped.items():
            values.setdefault(key, []).append(value)
        for line in read_log(folder.history):
            if line["where"] == "train":
                terms |= dict.fromkeys(key for key in line if key not in NOT_TERMS)
    vary = {key: some for key, some in values.items() if len(set(some)) > 1}
    numeric = [key for key, some in vary.items() if all(map(is_number, some))]
    labels = {
        short_key(row): sweep.layout.row_label
        for sweep in sweeps
        for row in sweep.layout.rows[:1]
        if len(sweep.layout.rows) == 1
    }
    reports = [run.report for run in runs if run.report is not None]
    notes = [f"## {joint_title(sweeps)}"]
    notes += dict.fromkeys(sweep.source for sweep in sweeps if sweep.source)
    notes += [f"`{sweep.command}`" for sweep in sweeps if sweep.command]
    notes += dict.fromkeys(
        f"Data: {run.values.get('dataset', '')} `{run.fingerprint}`"
        for run in runs
        if run.fingerprint
    )
    groups = [sweep.name for sweep in sweeps]
    return wandb_workspace.SweepView(
        name="+".join(groups),
        groups=groups,
        axes={
            key: labels.get(key) or key.replace("_", " ")
            for key in numeric
            if key not in ("bits", "seed")
        },
        choices=[key for key in vary if key not in numeric and key != "group"],
        terms=list(terms),
        metric=metric_name(reports[0]) if reports else "mAP",
        notes="\n\n".join(notes),
    )
