"""A study on disk. The trials of a process that is killed are run again, and no others."""

import math
from dataclasses import replace

import pytest

from deephash.errors import ConfigError
from deephash.sweep.search_space import SearchSpace
from deephash.sweep.study import Study
from deephash.utils.files import STUDY

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

RUN = "digits/csq/8bit/seed0"


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
    straight = Study(tmp_path / "a" / STUDY, SPACE, batch, RUN)
    while trials := straight.next_batch():
        assert len(trials) <= batch
        for trial in trials:
            straight.tell(trial, value(trial))
    assert len(rows(straight)) == 7 and straight.next_batch() == []
    numbers = []
    Study(tmp_path / "b" / STUDY, SPACE, batch, RUN)
    while True:  # opened again for each result
        study = Study(tmp_path / "b" / STUDY, SPACE, batch=8, run=RUN)  # its own batch goes on
        if not (trials := study.next_batch()):
            break
        study.tell(trials[0], value(trials[0]))
        numbers.append(trials[0].number)
    assert numbers == list(range(7))
    assert rows(study) == rows(straight)
    assert {trial.params["bits"] for trial in study.trials()} <= {16, 32, 48, 64}


def test_trials_can_be_added_and_ranges_cannot_change(tmp_path):
    study = Study(tmp_path / STUDY, SPACE, 1, RUN)
    study.tell(study.next_batch()[0], 0.5)
    more = SearchSpace("mine", SPACE.params, trials=9, startup=2)
    assert [trial.number for trial in Study(tmp_path / STUDY, more, 1, RUN).next_batch()] == [1]
    with pytest.raises(ConfigError, match=r"begun with other params.*\n.*group=NAME"):
        Study(tmp_path / STUDY, SearchSpace("mine", {"lr": [1, 2]}, startup=2), 1, RUN)


def test_other_runs_are_another_study(tmp_path):
    Study(tmp_path / STUDY, SPACE, 1, RUN)
    other = "digits/dpn/8bit/seed0"
    with pytest.raises(ConfigError, match=rf"other runs:\n +{RUN} -> {other}\n.*group=NAME"):
        Study(tmp_path / STUDY, SPACE, 1, other)


def test_the_same_search_under_another_name_goes_on(tmp_path):
    study = Study(tmp_path / STUDY, SPACE, 1, RUN)
    study.tell(study.next_batch()[0], 0.5)
    again = Study(tmp_path / STUDY, replace(SPACE, name="yours", trials=9), 1, RUN)
    assert len(again.trials()) == 1


@pytest.mark.parametrize("content", [b"", b"no database" * 100])
def test_a_damaged_study(tmp_path, content):
    (tmp_path / STUDY).write_bytes(content)
    if not content:  # as a killed process may leave it
        assert Study(tmp_path / STUDY, SPACE, 1, RUN).trials() == []
        return
    with pytest.raises(ConfigError, match=r"study\.db.*not be read"):
        Study(tmp_path / STUDY, SPACE, 1, RUN)


def test_a_folder_with_signs_that_mean_something_in_addresses(tmp_path):
    folder = tmp_path / "a=b#c%20 d"
    folder.mkdir()
    Study(folder / STUDY, SPACE, 1, RUN)
    assert (folder / STUDY).is_file()
