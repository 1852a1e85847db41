"""``-m +search=...`` in this process: no run is trained."""

from dataclasses import replace

import pytest

from deephash.config import overrides
from deephash.errors import ConfigError
from deephash.runs.status import State
from deephash.sweep import multirun, search_values
from deephash.utils.files import MANIFEST, STUDY, SWEEPS
from tests.paths import CONF, ROOT

FILES = ROOT / "sweeps"

optuna = pytest.importorskip("optuna")

SPACE = """
trials: 4
batch: {batch}
metric: query
params:
  trainer.accumulate: [1, 2]
  optimizer.lr: {{low: 1.0e-4, high: 1.0e-2, log: true}}
"""


@pytest.fixture
def search(tmp_path, monkeypatch, capsys):
    """Search in a folder; runs end at once, with their learning rate as the result."""

    def ended(planned, launcher, command):
        return [replace(job, state=State.finished) for job in planned]

    def value(job, metric):
        return job.cfg.optimizer["lr"]

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(search_values, "_launched", ended)
    monkeypatch.setattr(search_values, "_value", value)

    def run(*words, batch=1):
        (tmp_path / "mine.yaml").write_text(SPACE.format(batch=batch))
        words = ["+search=mine.yaml", "dataset=digits", *words]
        line = overrides.read(words, many=True)
        status = search_values.search_over_values(CONF, FILES, line)
        return status, capsys.readouterr().err

    return run


@pytest.mark.parametrize("batch", [1, 3])
def test_trials_that_are_refused_fail_and_the_search_goes_on(search, tmp_path, batch):
    status, printed = search("method=relahash", batch=batch)  # which does not accumulate
    study = optuna.load_study(
        study_name=None, storage=f"sqlite:///{tmp_path / 'outputs' / SWEEPS / 'mine' / STUDY}"
    )
    assert len(study.trials) == 4 and status == 1
    for trial in study.trials:
        refused = trial.params["trainer.accumulate"] == 2
        assert (trial.value is None) == refused
        assert (f"trial {trial.number} failed: " in printed) == refused
    assert 0 < sum(trial.value is None for trial in study.trials) < 4


def test_all_trials_with_a_result_are_a_success(search):
    assert search("method=csq")[0] == 0
    assert "4 of 4 trials finished already" in search("method=csq")[1]


def test_other_runs_need_another_group(search):
    search("method=csq")
    with pytest.raises(ConfigError, match=r"digits/csq/.* -> digits/dpn/.*\n.*group=NAME"):
        search("method=dpn")
    assert search("method=dpn", "group=other")[0] == 0
    assert search("method=csq", "trainer.log_every=10")[0] == 0  # which changes no result


def test_trials_do_not_share_a_folder(search):
    with pytest.raises(ConfigError, match=r"name +is x, and all trials .*group=NAME"):
        search("method=csq", "name=x")


def test_a_grid_is_not_searched(search):
    with pytest.raises(
        ConfigError, match=r"search +is mine.yaml, and \+sweep=table2_beta is a grid"
    ):
        search("method=csq", "+sweep=table2_beta")


def test_a_grid_and_a_search_have_groups_of_their_own(search, tmp_path, monkeypatch):
    folder = tmp_path / "outputs" / SWEEPS / "mine"
    folder.mkdir(parents=True)
    (folder / MANIFEST).write_text("{}")
    with pytest.raises(ConfigError, match=r"group +mine has runs that no search has chosen"):
        search("method=csq")
    (folder / MANIFEST).unlink()
    search("method=csq")
    with pytest.raises(ConfigError, match=r"group +mine is a search over values"):
        multirun.run_sweep(CONF, FILES, overrides.read(["seed=0,1", "group=mine"], many=True))
