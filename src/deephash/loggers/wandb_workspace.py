"""A saved view of W&B for a sweep: its panels, and the command that saves it.

The only module that uses ``wandb-workspaces``, a public preview whose private functions it calls.
Nothing here is called in training.
"""

import os
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass, field
from io import StringIO
from typing import Any

from deephash.errors import ConfigError
from deephash.loggers.wandb import has_credentials
from deephash.utils.extras import import_extra

TIMEOUT = 5.0
"""Seconds to wait for an answer of the server, before anything is read."""

WANTED = "wandb=workspace"
SERVER = "https://api.wandb.ai"

CODES = {
    "bit_imbalance": "Imbalance of bits (0: each is 1 for half of the images)",
    "quantization_degrees": "Quantisation error, degrees between z and its code",
    "separability": "Separability: distance between classes less distance within",
    "distinct_codes": "Distinct codes of the database",
}
"""Values of the summary that describe codes, and the titles of their panels."""

FIGURES = [f"figures/{name}" for name in ("precision_recall", "bits", "tsne")]


@dataclass(frozen=True)
class SweepView:
    """What the view of a sweep shows; configuration keys are those of ``grouping.group_values``."""

    name: str
    groups: Sequence[str]  # W&B groups of the runs
    axes: Mapping[str, str] = field(default_factory=dict)
    """Titles of the numbers that vary, beside bits and seed, by their keys."""
    choices: Sequence[str] = ()  # keys of the texts that vary, such as the method
    terms: Sequence[str] = ()  # of the losses
    metric: str = "mAP"
    notes: str = ""  # Markdown


def check_server() -> None:
    """Check in a few seconds that a view could be saved.

    Raises:
        ConfigError: a package is not installed, there is no account, or the server does not answer.
    """
    import_extra("wandb", WANTED)
    import_extra("wandb_workspaces", WANTED)
    if not has_credentials():
        raise ConfigError(
            "wandb  a view is saved at W&B, and there are no credentials.\n"
            "  Type wandb login, or set WANDB_API_KEY."
        )
    server = os.environ.get("WANDB_BASE_URL") or SERVER
    try:
        with urllib.request.urlopen(server, timeout=TIMEOUT):
            pass
    except urllib.error.HTTPError:
        pass  # an answer
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise ConfigError(
            f"wandb  a view is saved at W&B, and {server} does not answer: {reason}.\n"
            "  Repeat the command with a connection, or leave out wandb=workspace; WANDB_BASE_URL"
            " selects another server."
        ) from error


def save_view(view: SweepView, project: str, entity: str | None) -> str:
    """Save a new view, and return its address.

    Args:
        view: its content.
        project: the project of the runs.
        entity: user or team; None for the default of the account.

    Raises:
        ConfigError: W&B does not take it.
    """
    try:
        if entity is None:
            import wandb

            entity = wandb.Api().default_entity
        workspace = build_workspace(view, project, str(entity))
        with redirect_stderr(StringIO()):  # its line with the address
            workspace.save()
        return str(workspace.url)
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ConfigError(
            f"wandb  W&B does not save the view in project {project}: {reason}.\n"
            "  Try logger=wandb logger.wandb.project=... logger.wandb.entity=..."
        ) from error


def build_workspace(view: SweepView, project: str, entity: str) -> Any:
    """Return the workspace of a view, without contacting the server."""
    ws = import_extra("wandb_workspaces.workspaces", WANTED)
    wr = import_extra("wandb_workspaces.reports.v2", WANTED)
    sections = {
        "ablation": _ablation(wr, view),
        "training": _training(wr, view),
        "codes": _codes(wr),
        "runs": _runs(wr, view),
    }
    pinned = ["summary:map", *(f"config:{key}.value" for key in _keys(view))]
    return ws.Workspace(
        entity=entity,
        project=project,
        name=view.name,
        auto_generate_panels=False,
        sections=[
            ws.Section(name=name, panels=panels, is_open=True) for name, panels in sections.items()
        ],
        runset_settings=ws.RunsetSettings(
            filters=[
                ws.Metric("Group").isin(list(view.groups)),
                ws.Metric("JobType") == "train",  # not the run of the report
            ],
            # Not grouped: panels follow the grouping of the table, and a point is a run.
            pinned_columns=pinned,
        ),
    )


def _keys(view: SweepView) -> list[str]:
    return ["method", *(key for key in view.choices if key != "method"), "bits", *view.axes]


def _ablation(wr: Any, view: SweepView) -> list[Any]:
    score = wr.SummaryMetric("map")
    first, first_title = next(iter(view.axes.items()), ("seed", "seed"))
    colours = dict.fromkeys(view.axes, ("bits", "bits")) | {"bits": (first, first_title)}
    panels = [
        wr.ScatterPlot(
            title=f"{view.metric} over {title}, coloured by {colours[key][1]}",
            x=wr.Config(key), y=score, z=wr.Config(colours[key][0]),
        )
        for key, title in {**view.axes, "bits": "bits"}.items()
    ]  # fmt: skip
    columns = [wr.ParallelCoordinatesPlotColumn(wr.Config(key)) for key in _keys(view)]
    columns.append(wr.ParallelCoordinatesPlotColumn(score, display_name=view.metric))
    panels.append(wr.ParallelCoordinatesPlot(title="All axes", columns=columns))
    panels.append(wr.ParameterImportancePlot(with_respect_to="map"))
    panels += [
        wr.BarPlot(
            title=f"{view.metric} by {key}, mean and standard deviation", metrics=[score],
            groupby=wr.Config(key), groupby_aggfunc="mean", groupby_rangefunc="stddev",
        )
        for key in dict.fromkeys(["method", *view.choices])
    ]  # fmt: skip
    return panels


def _training(wr: Any, view: SweepView) -> list[Any]:
    by_bits = {
        "groupby": wr.Config("bits"), "groupby_aggfunc": "mean", "groupby_rangefunc": "stddev",
    }  # fmt: skip
    panels = [
        wr.LinePlot(title=f"{view.metric} of {title}", x="epoch", y=[f"{split}/map"], **by_bits)
        for split, title in (("query", "the queries"), ("val", "the validation images"))
    ]
    series = ["loss", *(term for term in view.terms if term != "loss"), "lr", "images_per_second"]
    panels += [
        wr.LinePlot(title=name.replace("_", " "), x="images_seen", y=[f"train/{name}"], **by_bits)
        for name in series
    ]
    return panels


def _codes(wr: Any) -> list[Any]:
    return [
        wr.ScatterPlot(
            title=title, x=wr.SummaryMetric(name), y=wr.SummaryMetric("map"), z=wr.Config("bits")
        )
        for name, title in CODES.items()
    ]


def _runs(wr: Any, view: SweepView) -> list[Any]:
    return [
        wr.MarkdownPanel(markdown=view.notes),
        wr.RunComparer(diff_only="split"),
        wr.WeavePanelSummaryTable(table_name="tables/nearest_images"),
        wr.WeavePanelSummaryTable(table_name="tables/per_class"),
        wr.MediaBrowser(title="Figures of deephash evaluate", media_keys=FIGURES),
    ]
