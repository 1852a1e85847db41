"""Runs that start from another run: its encoder (``init``), or its last epoch (``extend``)."""

import json
import shutil
from pathlib import Path

import pytest
import torch

import deephash
from deephash import runs
from deephash.errors import ConfigError
from deephash.training import checkpoint
from tests.pages import job

pytestmark = pytest.mark.usefixtures("composable", "without_curves")

SMALL = ["dataset=digits", "trainer.device=cpu", "trainer.eval_every=1", "scheduler=constant",
         "logger=quiet", "backbone.width=4", "method=csq", "model.nbit=8"]  # fmt: skip


def train(outputs, *words):
    report = runs.train(*job("train", [*SMALL, f"paths.outputs={outputs}", *words]))
    return report, outputs / report["run"]


def without_clocks(folder):
    last = checkpoint.load_state(folder / "last.pt")
    progress = {k: v for k, v in last["progress"].items() if "seconds" not in k}
    return {**last["method"], **checkpoint.load_state(folder / "best.pt")["encoder"]}, progress


def lines(folder):
    """Return the log without clocks."""
    rows = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    clocks = ("time", "images_per_second", "data_share")
    return [{key: row[key] for key in row if key not in clocks} for row in rows]


@pytest.fixture
def source(tmp_path):
    return train(tmp_path / "first", "trainer.epochs=2")


def test_a_run_starts_from_the_encoder_of_another(tmp_path, source):
    before, folder = source
    report, run = train(tmp_path, f"init='{folder}'", "trainer.epochs=0")
    assert report["metrics"]["map"] == before["metrics"]["map"]
    encoder = deephash.load(folder)
    assert report["origin"]["encoder"] == encoder.fingerprint == deephash.load(run).fingerprint
    assert report["origin"]["run"] == before["run"] and report["origin"]["kind"] == "init"
    assert "init=digits-csq-8bit-seed0-backbone.width=4-" in run.name
    shutil.rmtree(folder)  # a finished run needs it no longer
    assert train(tmp_path, f"init='{folder}'", "trainer.epochs=0")[0]["origin"] == report["origin"]
    with pytest.raises(ConfigError, match=r"init  .* does not exist"):
        train(tmp_path, f"init='{folder}'", "trainer.epochs=1")


def test_a_run_has_finished_on_the_page_of_all_runs_when_it_ends(tmp_path, source):
    assert "<b>1 of 1</b>" in (tmp_path / "first" / "index.html").read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["model.nbit=16"], r"model\.nbit: 8 -> 16\n  head\.linear\.weight: 8x64 -> 16x64\n"),
        (["backbone.width=8"], r"backbone\.width: 4 -> 8\n"),
        (["head=mlp"], r"method\.head\._target_: .*Linear' -> '.*MLP'\n"),
    ],
)
def test_the_encoder_of_another_shape_is_refused(tmp_path, source, words, message):
    with pytest.raises(ConfigError, match=rf"(?s)^init .* has another encoder:\n  .*{message}"):
        train(tmp_path / "second", f"init='{source[1]}'", "trainer.epochs=1", *words)
    assert not any(path.is_file() for path in (tmp_path / "second").rglob("*"))


def test_a_run_that_is_typed_in_two_ways_is_one(tmp_path, source, monkeypatch):
    folder = source[1]
    report, run = train(tmp_path, f"init='{folder}'", "trainer.epochs=0")
    (tmp_path / "link").symlink_to(tmp_path / "first", target_is_directory=True)
    monkeypatch.chdir(folder.parent)
    name = folder.name
    for typed in (name, f"./{name}/", f"../8bit/{name}", tmp_path / "link" / source[0]["run"]):
        again, _ = train(tmp_path, f"init='{typed}'", "trainer.epochs=0")
        assert (again["run"], again["origin"]) == (report["run"], report["origin"])
    assert (run / report["origin"]["folder"]).resolve() == folder.resolve()
    assert not Path(report["origin"]["folder"]).is_absolute()


def test_a_namesake_with_another_encoder_is_refused(tmp_path, source):
    """The same name in another folder of outputs, or the same folder after another training."""
    train(tmp_path, f"init='{source[1]}'", "trainer.epochs=0")
    state = checkpoint.load_state(source[1] / "best.pt")
    state["encoder"]["head.linear.weight"] += 1
    checkpoint.save(source[1] / "best.pt", state)
    with pytest.raises(ConfigError, match=r"started from another encoder(.|\n)*rerun=true"):
        train(tmp_path, f"init='{source[1]}'", "trainer.epochs=0")
    train(tmp_path, f"init='{source[1]}'", "trainer.epochs=0", "rerun=true")


def test_neither_itself_nor_the_link_to_the_latest(tmp_path, source):
    for key in ("init", "extend"):
        with pytest.raises(ConfigError, match=rf"{key} .*latest, a link .*\n.*{source[1].name}"):
            train(tmp_path, f"{key}={tmp_path / 'first' / 'latest'}", "trainer.epochs=4")
    _, named = train(tmp_path, "name=mine", "trainer.epochs=1")
    for key in ("init", "extend"):
        with pytest.raises(ConfigError, match="the folder of this run itself"):
            train(tmp_path, "name=mine", f"{key}='{named}'", "trainer.epochs=2", "rerun=true")
    assert (named / "report.json").is_file()


@pytest.mark.parametrize("options", [[], ["trainer.ema=0.9", "trainer.select_on=val"]], ids=str)
def test_an_extended_run_is_the_run_with_all_epochs(tmp_path, options):
    _, short = train(tmp_path, "trainer.epochs=2", *options)
    straight, whole = train(tmp_path, "trainer.epochs=4", *options)
    report, longer = train(tmp_path / "b", "trainer.epochs=4", f"extend='{short}'", *options)
    (mine, progress), (other, plain) = without_clocks(longer), without_clocks(whole)
    assert all(torch.equal(mine[key], other[key]) for key in other) and progress == plain
    assert report["metrics"] == straight["metrics"]
    assert report["origin"]["epoch"] == 2 and report["origin"]["kind"] == "extend"
    assert lines(longer) == lines(whole)


def test_what_cannot_be_extended(tmp_path, source):
    for words, message in (
        (["trainer.epochs=2"], "has 2 epochs already"),
        (["trainer.epochs=4", "trainer.batch_size=25"], r"(?s)batch_size: 50 -> 25.*init="),
        (["trainer.epochs=4", f"init='{source[1]}'"], "Type one of them"),
    ):
        with pytest.raises(ConfigError, match=message):
            train(tmp_path / "second", f"extend='{source[1]}'", *words)
    (source[1] / "report.json").unlink()
    with pytest.raises(ConfigError, match="not a finished run"):
        train(tmp_path / "second", f"extend='{source[1]}'", "trainer.epochs=4")
    assert not any(path.is_file() for path in (tmp_path / "second").rglob("*"))
