"""Runs that keep features of a frozen backbone in the cache, and others that use them."""

import copy
import logging

import pytest
import torch

from deephash import targets
from deephash.data import feature_store
from deephash.engine.trainer import Trainer
from deephash.models.backbones import Tiny
from tests.jobs.test_method_kinds import (
    DARK,
    closed,
    page,
    plain_views,
    saved,
    train,
    unequal,
)
from tests.recipes import Frozen


@pytest.fixture(autouse=True)
def kept(monkeypatch):
    """Keep features however quickly they are computed."""
    monkeypatch.setattr(targets, "_plugins", ["tests"])
    monkeypatch.setattr(feature_store, "SECONDS", 0.0)


def run(tmp_path, name, cfg, **trainer):
    """Train with a cache that all runs of a test share.

    Returns:
        the last weights, the report, and how many images the backbone has seen beside two.
    """
    cfg = copy.deepcopy(cfg)
    cfg["paths"]["cache"] = str(tmp_path / "cache")
    cfg["trainer"] |= trainer
    Frozen.seen = 0
    report = train(tmp_path / name, cfg)
    return saved(tmp_path / name, report)["method"], report, Frozen.seen - 2


def entries(tmp_path):
    return [path.name for path in feature_store.entries(tmp_path / "cache")]


def test_runs_of_other_methods_bits_and_seeds_compute_nothing(tmp_path, capsys):
    torch.save(Tiny(width=4).state_dict(), tmp_path / "weights.pt")
    cfg = plain_views(page())
    cfg["backbone"]["weights"] = str(tmp_path / "weights.pt")
    _, report, seen = run(tmp_path, "first", cfg)
    assert (seen, len(entries(tmp_path))) == (1797, 1)
    assert report["training"]["encode_images_per_second"] > 0
    capsys.readouterr()
    others = [page("method=csq", "model.nbit=16"), page("seed=3"), page(loss="Blind"), closed()]
    for number, cfg in enumerate(others):
        cfg["backbone"]["weights"] = str(tmp_path / "weights.pt")
        _, report, seen = run(tmp_path, f"other {number}", plain_views(cfg))
        assert seen == 0, number
        assert report["training"]["encode_images_per_second"] is None
    assert "1,797 features for all epochs and evaluations were read from the cache" in (
        capsys.readouterr().out
    )
    assert len(entries(tmp_path)) == 1


@pytest.mark.parametrize("options", [{}, {"loss": "Pairs", "views": ["train", "dark"]}])
def test_results_do_not_depend_on_the_store(tmp_path, options):
    """To the last bit: without the store, when it is filled, and when it is read."""
    cfg = plain_views(page(**options))
    cfg["dataset"]["transforms"]["dark"] = [DARK]
    expected, reference, _ = run(tmp_path, "without", cfg, feature_store=False)
    assert entries(tmp_path) == []
    for name in ("filling", "reading"):
        found, report, _ = run(tmp_path, name, cfg)
        assert unequal(expected, found) == []
        assert report["metrics"] == reference["metrics"]
        assert report["run"] == reference["run"]
    assert len(entries(tmp_path)) == (2 if options else 1)


def test_what_features_depend_on_makes_another_entry(tmp_path):
    def brighter(cfg):
        cfg["dataset"]["transforms"]["test"].append(DARK)

    def wider(cfg):
        cfg["backbone"]["width"] = 8

    def reseeded(cfg):
        cfg["seed"] = 1  # random weights

    def halved(cfg):
        cfg["trainer"]["eval_batch_size"] = 128

    def coarser(cfg):
        cfg["trainer"]["precision"] = "bf16"

    for number, change in enumerate([lambda cfg: None, brighter, wider, reseeded, halved, coarser]):
        cfg = page()
        change(cfg)
        assert run(tmp_path, str(number), cfg, epochs=1)[2] == 500 + 1797  # views are random
        assert len(entries(tmp_path)) == number + 1


def test_quick_work_leaves_no_files(tmp_path, monkeypatch):
    monkeypatch.undo()
    monkeypatch.setattr(targets, "_plugins", ["tests"])
    run(tmp_path, "run", plain_views(page()))
    assert entries(tmp_path) == []


def test_a_killed_run_goes_on_encoding_and_learns_the_same(tmp_path, monkeypatch):
    cfg = plain_views(page())
    expected = run(tmp_path, "straight", cfg, feature_store=False)[0]
    monkeypatch.setattr("deephash.data.feature_files.FLUSH", 2)
    forward, calls = Frozen.forward, []

    def interrupted(self, images):
        calls.append(len(images))
        if len(calls) == 7:  # the first tries two images
            raise KeyboardInterrupt
        return forward(self, images)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Frozen, "forward", interrupted)
        run(tmp_path, "killed", cfg)
    found, _, seen = run(tmp_path, "killed", cfg)
    assert seen == 1797 - 4 * 256
    assert unequal(expected, found) == []


def test_a_run_on_kept_features_resumes_to_the_bit(tmp_path, monkeypatch):
    cfg = plain_views(page("method=hashnet"))
    torch.save(Tiny(width=4).state_dict(), tmp_path / "weights.pt")  # those of no seed
    cfg["backbone"]["weights"] = str(tmp_path / "weights.pt")
    expected = run(tmp_path, "straight", cfg)[0]
    fit = Trainer.fit

    def killed(self, *arguments):
        self.epochs = 1
        fit(self, *arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Trainer, "fit", killed)
        run(tmp_path, "resumed", cfg)
    found, _, seen = run(tmp_path, "resumed", cfg)
    assert unequal(expected, found) == []
    assert seen == 0


def test_a_damaged_entry_is_computed_again(tmp_path, caplog):
    cfg = plain_views(page())
    expected = run(tmp_path, "one", cfg)[0]
    (entry,) = feature_store.entries(tmp_path / "cache")
    (entry / "features.npy").write_bytes(b"nothing")
    with caplog.at_level(logging.WARNING):
        found, _, seen = run(tmp_path, "two", cfg)
    assert seen == 1797
    assert "computed again" in caplog.text
    assert unequal(expected, found) == []


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path, caplog):
    cfg = plain_views(page())
    expected = run(tmp_path, "one", cfg, feature_store=False)[0]
    (tmp_path / "cache").write_text("a file")
    found, _, seen = run(tmp_path, "two", cfg)
    assert "the features of the frozen backbone are not kept" in caplog.text
    assert unequal(expected, found) == []
    assert seen >= 1797
