"""The view as JSON, written by ``python -m tests.loggers.test_wandb_workspace``; no server."""

import importlib.util
import json
import sys

import pytest

from deephash.errors import ConfigError
from deephash.loggers.wandb_workspace import SweepView, build_workspace, check_server, save_view
from tests.paths import ROOT

GOLDEN = ROOT / "tests" / "loggers" / "wandb_workspace.json"
VIEW = SweepView(
    name="table2_beta",
    groups=["table2_beta"],
    axes={"scale": "β", "margin": "margin"},
    choices=["dataset", "method"],
    terms=["lmcl", "quantization"],
    metric="mAP@1000",
    notes="## RelaHash\n\nData: cifar10 `89e632a9`",
)

needs_workspaces = pytest.mark.skipif(
    importlib.util.find_spec("wandb_workspaces") is None, reason="wandb-workspaces is not installed"
)
pytestmark = pytest.mark.filterwarnings("ignore")  # of the package and of pydantic


def content(workspace):
    """Return the JSON of a workspace without its random ids."""

    def blank(value):
        if isinstance(value, dict):
            return {k: "" if k in ("id", "__id__") else blank(v) for k, v in value.items()}
        return [blank(item) for item in value] if isinstance(value, list) else value

    return blank(
        json.loads(workspace._to_model().model_dump_json(by_alias=True, exclude_none=True))
    )


@needs_workspaces
def test_the_view_is_unchanged_and_can_be_read_back():
    import wandb_workspaces.workspaces as ws

    made = build_workspace(VIEW, "deephash", "team")
    assert content(made) == json.loads(GOLDEN.read_text())
    assert content(ws.Workspace._from_model(made._to_model())) == content(made)


@needs_workspaces
def test_panels_of_each_section():
    made = build_workspace(VIEW, "deephash", "team")
    sections = {section.name: section.panels for section in made.sections}
    assert list(sections) == ["ablation", "training", "codes", "runs"]
    kinds = {name: [type(panel).__name__ for panel in panels] for name, panels in sections.items()}
    scatter = ["ScatterPlot"] * 3  # scale, margin and bits
    plots = ["ParallelCoordinatesPlot", "ParameterImportancePlot", "BarPlot", "BarPlot"]
    assert kinds["ablation"] == scatter + plots
    assert kinds["training"] == ["LinePlot"] * 7  # two mAPs, loss, two terms, lr, images per second
    axes = [panel.x.name if hasattr(panel.x, "name") else panel.x for panel in sections["training"]]
    assert axes == ["epoch", "epoch", *["images_seen"] * 5]


@needs_workspaces
def test_a_view_is_saved_once_in_the_project_of_the_runs(monkeypatch):
    import wandb_workspaces.workspaces as ws
    from wandb_workspaces.workspaces import internal

    saved = []

    def upsert(view):  # the only request
        saved.append(view)
        return {"upsertView": {"view": {"id": "id", "name": "nw-1-v"}}}

    monkeypatch.setattr(internal, "upsert_view2", upsert)
    monkeypatch.setattr(ws.Workspace, "url", property(lambda self: f"at {self._internal_name}"))
    assert save_view(VIEW, "deephash", "team") == "at nw-1-v"
    (view,) = saved
    assert (view.entity, view.project, view.display_name) == ("team", "deephash", "table2_beta")

    def refuse(view):
        raise ValueError("no such project\nquery ...")

    monkeypatch.setattr(internal, "upsert_view2", refuse)
    with pytest.raises(
        ConfigError, match=r"project deephash: no such project\.\n  Try logger=wandb"
    ):
        save_view(VIEW, "deephash", "team")


@needs_workspaces
def test_no_account_and_no_server_are_messages(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("WANDB_API_KEY", "WANDB_BASE_URL", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ConfigError, match=r"no credentials.*\n.*wandb login"):
        check_server()
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    with pytest.raises(ConfigError, match=r"127\.0\.0\.1:9 does not answer: .*refused"):
        check_server()


def test_without_the_package_the_error_states_what_to_type(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb_workspaces", None)
    with pytest.raises(ConfigError, match="pip install wandb-workspaces"):
        build_workspace(VIEW, "deephash", "team")


if __name__ == "__main__":
    text = json.dumps(content(build_workspace(VIEW, "deephash", "team")), indent=1)
    GOLDEN.write_text(text + "\n")
