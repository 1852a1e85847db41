"""Some hundred damaged files of every kind: each is read, or refused with a sentence."""

import logging
import shutil

import pytest
import torch

EACH = 6
"""Inputs for each kind of file."""


@pytest.fixture(scope="module")
def fuzz(script):
    deterministic = torch.are_deterministic_algorithms_enabled()
    logging.disable(logging.CRITICAL)
    yield script("fuzz_files")
    logging.disable(logging.NOTSET)
    torch.use_deterministic_algorithms(deterministic)


@pytest.fixture(scope="module")
def targets(fuzz, tmp_path_factory):
    return fuzz.IntactFiles(tmp_path_factory.mktemp("fuzz") / "sound").targets()


def test_intact_files_are_accepted(targets, tmp_path, capsys):
    for target in targets:
        shutil.copytree(target.folder, tmp_path / "copy")
        target.use(tmp_path / "copy")
        shutil.rmtree(tmp_path / "copy")


def test_damaged_files_are_accepted_or_refused(fuzz, targets, tmp_path):
    outcomes = fuzz.fuzz(targets, EACH * len(targets), 7, tmp_path, lambda *_: None)
    bad = [outcome for outcome in outcomes if outcome.kind == "traceback"]
    assert not bad, f"{bad[0].target}\n{bad[0].message}"
    assert {outcome.kind for outcome in outcomes} == {"accepted", "refused"}
    assert all(outcome.message.strip() for outcome in outcomes if outcome.kind == "refused")
    assert len(outcomes) == EACH * len(targets)
    assert len(targets) > 25


def test_anything_else_that_is_raised_is_counted(fuzz, tmp_path):
    (tmp_path / "sound").mkdir()
    (tmp_path / "sound" / "a.json").write_text('{"a": [1, {"b": null}]}')

    def use(folder):
        raise KeyError("b")

    target = fuzz.Target("a.json", tmp_path / "sound", "a.json", [fuzz.mutate_json], use)
    outcomes = fuzz.fuzz([target], 3, 0, tmp_path, lambda *_: None)
    assert [outcome.kind for outcome in outcomes] == ["traceback"] * 3
    assert "KeyError: 'b'" in outcomes[0].message
    assert "a.json" in fuzz.table(outcomes)


def test_the_same_seed_makes_the_same_input(fuzz, tmp_path):
    texts = []
    for _ in range(2):
        (tmp_path / "a.json").write_text('{"a": [1, {"b": null}], "c": "d"}')
        fuzz.mutate_json(tmp_path / "a.json", fuzz.random.Random("a 5"))
        texts.append((tmp_path / "a.json").read_text())
    assert texts[0] == texts[1]
