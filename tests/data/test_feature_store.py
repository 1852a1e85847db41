"""The store of features: entries, resuming, locking, and what is not stored."""

import os
import threading
import time

import numpy as np
import pytest
import torch

from deephash.data import cache_folder, feature_store
from deephash.data.cache_folder import remove_stale
from deephash.data.feature_store import FeatureStore, feature_entries, read_features_private
from deephash.errors import DataError, WriteError


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setattr(feature_store, "MIN_SECONDS", 0.0)
    return FeatureStore(tmp_path / "cache", {"weights": "0123"})


def test_work_is_kept_that_takes_long(store, monkeypatch):
    """The time of the second batch counts, since the first one warms up."""
    monkeypatch.setattr(feature_store, "MIN_SECONDS", 10.0)

    def blocks(seconds):
        def made(start):
            for number in range(start // 10, 100):
                time.sleep(seconds[min(number, 2)])
                yield torch.full((10, 2), float(number))

        return made

    for name, seconds, kept in (("a", (0.2, 0.0, 0.0), 0), ("b", (0.0, 0.11, 0.0), 1)):
        rows, computed = store.load({"name": name}, 1000, 2, blocks(seconds))
        assert (computed, len(feature_entries(store.folder))) == (1000, kept)
        assert torch.equal(rows[:, 0], torch.arange(1000).div(10, rounding_mode="floor").float())


def test_an_interrupted_entry_continues(store, monkeypatch):
    monkeypatch.setattr("deephash.data.sources.feature_formats.FLUSH", 1)
    starts = []

    def blocks(start):
        starts.append(start)
        for row in range(start, 10, 2):
            if row == 6 and len(starts) == 1:
                raise KeyboardInterrupt
            yield torch.full((2, 3), float(row))

    with pytest.raises(KeyboardInterrupt):
        store.load({}, 10, 3, blocks)
    rows, computed = store.load({}, 10, 3, blocks)
    assert starts[-1] == 6
    assert computed == 4
    assert torch.equal(rows[:, 0], torch.tensor([0, 0, 2, 2, 4, 4, 6, 6, 8, 8.0]))
    assert store.load({}, 10, 3, blocks)[1] == 0


def test_of_several_processes_one_computes(store):
    """Threads stand for them: a lock keeps out threads of the same process too."""
    results = []

    def blocks(start):
        for _ in range(start, 4):
            time.sleep(0.05)
            yield torch.ones(1, 2)

    def load():
        results.append(store.load({}, 4, 2, blocks, always=True)[1])

    threads = [threading.Thread(target=load) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == [0, 0, 4]
    assert [path.name for path in store.folder.iterdir()] == [feature_entries(store.folder)[0].name]


def test_files_that_cannot_be_locked(store, monkeypatch):
    plain = cache_folder.Lock.wait

    def unlocked(path, purpose):
        lock = plain(path, purpose)
        lock.exclusive = False
        return lock

    monkeypatch.setattr(cache_folder.Lock, "wait", unlocked)
    assert store.load({}, 2, 2, lambda start: iter([torch.ones(2, 2)]))[1] == 2
    assert store.load({}, 2, 2, lambda start: iter([torch.ones(2, 2)]))[1] == 0
    assert len(list(store.folder.iterdir())) == 1


def test_features_that_are_not_finite_are_refused(store):
    with pytest.raises(DataError, match="NaN or infinite features for image 1"):
        store.load({}, 2, 1, lambda start: iter([torch.tensor([[1.0], [float("nan")]])]))


def test_a_folder_that_cannot_be_written(store, caplog):
    store.folder.write_text("a file")
    rows, computed = store.load({}, 2, 1, lambda start: iter([torch.ones(2, 1)]))
    assert (rows.tolist(), computed) == ([[1.0], [1.0]], 2)
    assert "are not kept" in caplog.text
    with pytest.raises(WriteError):
        store.load({}, 2, 1, lambda start: iter([torch.ones(2, 1)]), always=True)


def test_abandoned_parts_are_removed(tmp_path):
    for name in ("features-old", "features-new", "features-whole"):
        (tmp_path / name).mkdir()
    (tmp_path / "features-whole" / "features.json").write_text("{}")
    for path in (*tmp_path.rglob("*"),):
        if path.name != "features-new":
            os.utime(path, (0, 0))
    remove_stale(feature_store._unfinished(tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["features-new", "features-whole"]


def test_what_is_written_to_a_mapped_array_stays_in_memory(tmp_path):
    np.save(tmp_path / "a.npy", np.arange(6.0).reshape(2, 3))
    mapped = read_features_private(tmp_path / "a.npy")
    mapped[:] = 7
    assert np.load(tmp_path / "a.npy").tolist() == [[0, 1, 2], [3, 4, 5]]
