"""What sends or writes elsewhere comes from the command line, never from a run folder."""

from types import SimpleNamespace

import pytest

from deephash.config import build, schema
from deephash.errors import TrainingError
from deephash.runs import evaluate_run
from deephash.runs.folder import RunFolder

THEIRS = {
    "_target_": "deephash.loggers.wandb.Wandb",
    "project": "theirs",
    "entity": "stranger",
    "mode": "online",
}
OURS = {"_target_": "deephash.loggers.wandb.Wandb", "project": "ours", "mode": "offline"}


class Run(RunFolder):
    """A run folder whose own configuration logs to W&B."""

    def config(self):
        return {
            "logger": {"wandb": THEIRS},
            "method": {"name": "csq"},
            "model": {"nbit": 8},
            "dataset": {"name": "digits"},
            "group": None,
        }


@pytest.fixture
def sent(monkeypatch):
    calls = []

    def loggers(nodes, offered, run_id):
        calls.append((nodes, offered, run_id and run_id()))
        return SimpleNamespace(
            loggers=[1] * bool(nodes),
            **dict.fromkeys(("figures", "table", "close", "summary"), lambda *args: None),
        )

    monkeypatch.setattr(build, "result_loggers", loggers)
    return calls


@pytest.mark.parametrize("logger", [None, {}])
@pytest.mark.parametrize("out", [None, "comparison"])
def test_the_logger_of_a_run_folder_is_never_used(tmp_path, sent, logger, out):
    out = None if out is None else tmp_path / out
    evaluate_run._log_figures(
        SimpleNamespace(logger=logger), [tmp_path / "tsne.png"], Run(tmp_path), out
    )
    assert sent == [] and list(tmp_path.iterdir()) == []


def test_a_logger_that_keeps_no_figures_makes_no_id(tmp_path):
    console = {"_target_": "deephash.loggers.console.Console"}
    evaluate_run._log_figures(
        SimpleNamespace(logger={"console": console}), [tmp_path / "tsne.png"], Run(tmp_path)
    )
    assert list(tmp_path.iterdir()) == []


def test_with_a_logger_of_this_command_line_figures_go_to_the_run(tmp_path, sent):
    (tmp_path / "run_id.txt").write_text("abc123")
    evaluate_run._log_figures(
        SimpleNamespace(logger={"wandb": OURS}), [tmp_path / "tsne.png"], Run(tmp_path)
    )
    ((nodes, offered, run_id),) = sent
    assert (nodes, run_id) == ({"wandb": OURS}, "abc123")
    assert (offered["folder"], offered["job_type"]) == (tmp_path, "train")


@pytest.mark.parametrize("text", ["", "a/b", "../x", "a b", "x" * 65, "a\nb", "é"])
def test_the_id_of_a_run_is_alphanumeric(tmp_path, text):
    (tmp_path / "run_id.txt").write_text(text)
    with pytest.raises(TrainingError, match=r"run_id\.txt holds .*no id"):
        RunFolder(tmp_path).run_id()


def test_an_id_is_made_once(tmp_path):
    assert RunFolder(tmp_path).run_id() == RunFolder(tmp_path).run_id()


def page(**dataset):
    dataset = {"root": None, "lists": None} | dataset
    values = {"dataset": dataset, "device": "cpu", "evaluation": {}, "paths": {"cache": "ours"}}
    return schema.parse(schema.Evaluate, values)


def ran():
    source = {"_target_": "deephash.data.sources.Cifar", "root": "theirs", "download": True}
    dataset = {"name": "cifar10", "root": "theirs", "source": source}
    return {"evaluation": {}, "dataset": dataset, "trainer": {}, "paths": {"cache": "theirs"}}


@pytest.mark.parametrize("given", [{"download": True}, {}])  # it is the constructor's default too
def test_data_are_downloaded_only_into_a_folder_of_this_command_line(given):
    def source(config):
        theirs = ran()
        theirs["dataset"]["source"].pop("download")
        theirs["dataset"]["source"] |= given
        theirs = evaluate_run._changed(theirs, config, ())
        return evaluate_run._without_download(theirs["dataset"]["source"], config)

    assert source(page()).items() >= {"root": "theirs", "download": False}.items()
    ours = source(page(root="ours"))
    assert (ours["root"], ours.get("download", True)) == ("ours", True)
