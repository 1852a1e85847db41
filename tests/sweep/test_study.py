"""A study on disk. The trials of a process that is killed are run again, and no others."""

import math

import pytest

from deephash.errors import ConfigError
from deephash.sweep.search_space import SearchSpace
from deephash.sweep.study import FILE, Study

pytest.importorskip("optuna")

SPACE = SearchSpace(
    "mine",
    {
        "lr": {"low": 0.001, "high": 0.1, "log": True},
        "bits": {"low": 16, "high": 64, "step": 16},
        "head": ["linear", "mlp"],
    },
    trials=7,
    startup=2,
)


def value(trial):
    if trial.number == 3:
        return None  # failed
    params = trial.params
    return params["bits"] / 64 - math.log10(params["lr"] / 0.01) ** 2 + (params["head"] == "mlp")


def rows(study):
    return [(trial.number, trial.params, trial.value) for trial in study.trials()]


@pytest.mark.parametrize("batch", [1, 3])
def test_a_study_that_is_opened_again_chooses_the_same_trials(tmp_path, batch):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    straight = Study(tmp_path / "a" / FILE, SPACE, batch)
    while trials := straight.next_batch():
        assert len(trials) <= batch
        for trial in trials:
            straight.tell(trial, value(trial))
    assert len(rows(straight)) == 7 and straight.next_batch() == []
    numbers = []
    Study(tmp_path / "b" / FILE, SPACE, batch)
    while True:  # opened again for each result
        study = Study(tmp_path / "b" / FILE, SPACE, batch=8)  # its own batch goes on
        if not (trials := study.next_batch()):
            break
        study.tell(trials[0], value(trials[0]))
        numbers.append(trials[0].number)
    assert numbers == list(range(7))
    assert rows(study) == rows(straight)
    assert {trial.params["bits"] for trial in study.trials()} <= {16, 32, 48, 64}


def test_trials_can_be_added_and_ranges_cannot_change(tmp_path):
    study = Study(tmp_path / FILE, SPACE, 1)
    study.tell(study.next_batch()[0], 0.5)
    more = SearchSpace("mine", SPACE.params, trials=9, startup=2)
    assert [trial.number for trial in Study(tmp_path / FILE, more, 1).next_batch()] == [1]
    with pytest.raises(ConfigError, match=r"begun with other params.*\n.*group=NAME"):
        Study(tmp_path / FILE, SearchSpace("mine", {"lr": [1, 2]}, startup=2), 1)
