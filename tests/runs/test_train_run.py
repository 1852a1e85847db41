"""``trainer.graph`` and the fused optimizer in whole runs, in this process."""

import json
from pathlib import Path

import pytest
import torch

import deephash
from deephash import runs
from deephash.config import checks
from deephash.errors import ConfigError
from deephash.runs import outputs_index, train_run
from deephash.runs.load_encoder import encoder_weights
from deephash.training import checkpoint, cuda_graphs
from tests.pages import job

pytestmark = pytest.mark.usefixtures("composable", "without_curves")


SMALL = ["dataset=digits", "trainer.device=cpu", "trainer.epochs=2", "trainer.eval_every=1",
         "logger=quiet", "backbone.width=4"]  # fmt: skip


class Again:
    """A capture that calls the step again: what it does, and not how."""

    def __init__(self, device):
        assert device.type == "cpu"
        self.recorded = 0

    def warm_up(self, function):
        return function(), ""

    def record(self, function):
        self.recorded += 1
        made.append(self)
        return function


made = []


def train(outputs, *words):
    words = [*SMALL, f"paths.outputs={outputs}", *words]
    return runs.train(*job("train", words))


def numbers(outputs, report):
    folder = Path(outputs) / report["run"]
    last = checkpoint.load_state(folder / "last.pt")
    return {**last["method"], "rng": last["rng"]["cpu"]}, last["optimizer"]["param_groups"]


@pytest.fixture
def a_graph_on_the_cpu(monkeypatch):
    made.clear()
    monkeypatch.setattr(checks, "_check_graph", lambda trainer: [])
    monkeypatch.setattr(cuda_graphs, "CudaCapture", Again)


def test_a_run_with_a_graph_is_the_run_without(tmp_path, a_graph_on_the_cpu):
    plain = train(tmp_path / "plain")
    graph = train(tmp_path / "graph", "trainer.graph=true")
    assert (plain["training"]["graph"], graph["training"]["graph"]) == (False, True)
    assert len(made) == 2 and made[0].recorded == 2  # by one object, once in each epoch
    assert graph["run"] == plain["run"] and graph["metrics"] == plain["metrics"]
    mine, groups = numbers(tmp_path / "graph", graph)
    other, plain_groups = numbers(tmp_path / "plain", plain)
    assert all(torch.equal(mine[key], other[key]) for key in other)
    assert {group["capturable"] for group in groups} == {True}
    assert {group["fused"] for group in [*groups, *plain_groups]} == {True}
    again = train(tmp_path / "graph")  # finished: the form of the step is no other run
    assert again == json.loads(json.dumps(graph))


def test_on_a_cpu_it_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ConfigError, match=r"trainer\.graph .*trainer\.device=cpu is a CPU"):
        train(tmp_path, "trainer.graph=true")
    assert list(tmp_path.iterdir()) == []


def test_unfused_is_another_run(tmp_path):
    before = train(tmp_path, "+optimizer.fused=false", "trainer.epochs=1")
    assert "optimizer.fused=false" in before["run"]
    _, groups = numbers(tmp_path, before)
    assert {group["fused"] for group in groups} == {False}


def test_the_average_is_the_encoder_of_both_checkpoints(tmp_path):
    """Of an earlier epoch in ``best.pt``, and in ``last.pt`` beside the weights of training."""
    words = ["trainer.ema=0.9", "trainer.select_on=val", "trainer.epochs=4", "method=csq",
             "dataset.protocols.per_class.validation=20"]  # fmt: skip
    report = train(tmp_path, *words)
    folder, selection = tmp_path / report["run"], report["selection"]
    state = checkpoint.load_state(folder / "last.pt")
    name = "head.linear.weight"
    assert torch.equal(encoder_weights(state)[name], state["ema"][f"module.{name}"])
    assert not torch.equal(state["ema"][f"module.{name}"], state["method"][f"encoder.{name}"])
    options = [f"run='{folder}'", "figures=false", "device=cpu"]
    for name, key in (("best", "map_at_val_epoch"), ("last", "map_last")):
        measured = deephash.evaluate([*options, f"checkpoint={name}"])
        assert measured["metrics"]["map"] == selection[key]


def test_fp16_on_a_cpu_is_a_warning(tmp_path, caplog):
    train(tmp_path, "trainer.epochs=0")
    assert "fp16" not in caplog.text
    train(tmp_path, "trainer.epochs=0", "trainer.precision=fp16")
    assert caplog.text.count("fp16 is for tests on a CPU") == 1


def test_nothing_to_compute_again_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ConfigError, match=r"gradient_checkpointing +would save no memory: Tiny"):
        train(tmp_path, "trainer.gradient_checkpointing=true")
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_result_is_kept_if_its_page_or_its_artifacts_cannot_be_made(
    tmp_path, monkeypatch, caplog
):
    def fails(*_, **__):
        raise ValueError("no font")

    for name in ("write_html", "log_results"):
        monkeypatch.setattr(train_run, name, fails)
    monkeypatch.setattr(outputs_index, "write_index", fails)
    report = train(tmp_path)
    folder = tmp_path / report["run"]
    assert json.loads((folder / "report.json").read_text())["metrics"] == report["metrics"]
    assert not (folder / "report.html").exists() and not (folder / "error.txt").exists()
    assert [record.getMessage().partition(" could not")[0] for record in caplog.records] == [
        "the page of the run", "what loggers get of the result", "the page of all runs",
    ]  # fmt: skip
    assert "no font" in caplog.text
    monkeypatch.undo()
    assert train(tmp_path)["metrics"] == report["metrics"]  # finished
    assert (folder / "report.html").is_file()
