"""Engines follow the store of an index; only what was changed is copied."""

import numpy as np
import pytest

from deephash.errors import DataError
from deephash.search.engines.exact import ExactEngine
from deephash.search.engines.synchronise import STATE, search_by_engine, synchronise
from deephash.search.store import CodeStore, StoreVersion


class OwnItems(ExactEngine):
    """An engine with items of its own, which records its calls."""

    def __init__(self, nbit, folder):
        super().__init__(nbit, folder)
        self.calls = []

    def add(self, codes, ids):
        self.calls.append(("add", list(ids)))
        super().add(codes, ids)

    def remove(self, ids):
        self.calls.append(("remove", list(ids)))
        return super().remove(ids)

    def clear(self):
        self.calls.append(("clear",))
        ExactEngine.remove(self, self._store.snapshot().ids)


@pytest.fixture
def store(tmp_path):
    with CodeStore.create(tmp_path / "store", 16, {}) as opened:
        opened.add(codes(4), ["a", "b", "c", "d"], labels=["x", None, "y", "x"])
        yield opened


@pytest.fixture
def engine(tmp_path):
    with OwnItems(16, tmp_path / "engine") as opened:
        yield opened


def codes(count, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, 2), dtype=np.uint8)


def calls(engine, store):
    """What is called to bring an engine up to date."""
    synchronise(engine, store.snapshot())
    have = engine._store.snapshot()
    expected = store.snapshot()
    assert sorted(zip(have.ids, have.codes.tolist(), strict=True)) == sorted(
        zip(expected.ids, expected.codes.tolist(), strict=True)
    )
    done, engine.calls = engine.calls, []
    return done


def test_only_changes_are_copied(engine, store):
    assert calls(engine, store) == [("clear",), ("add", ["a", "b", "c", "d"])]
    assert calls(engine, store) == []
    store.add(codes(1, 1), ["e"])
    assert calls(engine, store) == [("add", ["e"])]
    store.remove(["a", "b"])
    store.add(codes(2, 2), ["b", "c"])  # removed before, and replaced
    assert calls(engine, store) == [("remove", ["a"]), ("add", ["b", "c"])]
    store.remove(["e"])
    assert calls(engine, store) == [("remove", ["a", "e"])]  # also what was gone before
    store.add(codes(1, 3), ["a"])
    assert calls(engine, store) == [("add", ["a"])]
    store.compact()
    assert calls(engine, store) == [("clear",), ("add", ["d", "b", "c", "a"])]


def test_an_engine_that_another_program_changed_is_filled_anew(engine, store):
    calls(engine, store)
    ExactEngine.remove(engine, ["a"])
    assert calls(engine, store)[0] == ("clear",)
    (engine.folder / STATE).write_text("{}")
    assert calls(engine, store)[0] == ("clear",)


def test_an_interrupted_copy_is_repeated(engine, store, monkeypatch):
    calls(engine, store)
    store.add(codes(3, 1), ["e", "f", "a"])
    with monkeypatch.context() as patched:
        patched.setattr(engine, "save", lambda: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            synchronise(engine, store.snapshot())
    engine.calls = []
    assert calls(engine, store) == [("clear",), ("add", ["b", "c", "d", "e", "f", "a"])]


def test_changes_of_another_store_are_not_known(store, tmp_path):
    version = store.snapshot().version
    assert StoreVersion.of(list(version)) == version
    with CodeStore.create(tmp_path / "other", 16, {}) as other:
        other.add(codes(2, 9), ["a", "b"])
        other.add(codes(4, 8), ["c", "d", "e", "f"])
        assert other.snapshot().changes_since(version) is None
    later = version._replace(commit=7, rows=99)
    assert store.snapshot().changes_since(later) is None


def test_results_have_labels_and_leave_out_the_query(engine, store):
    calls(engine, store)
    snapshot = store.snapshot()
    answers, distances = search_by_engine(
        engine, snapshot, snapshot.codes, 2, ["a", None, "c", "d"]
    )
    assert distances.shape == (4, 3)
    assert [len(answer.hits) for answer in answers] == [2, 2, 2, 2]
    assert "a" not in [hit.id for hit in answers[0].hits] and answers[1].hits[0].id == "b"
    label_of = dict(zip(snapshot.ids, snapshot.labels, strict=True))
    assert all(hit.label == label_of[hit.id] for answer in answers for hit in answer.hits)


def test_a_store_of_other_codes_is_refused(store, tmp_path):
    with pytest.raises(DataError, match="16 bits, not of 8"):
        ExactEngine(8, tmp_path / "engine", store)
    with ExactEngine(16, tmp_path / "engine", store) as engine, pytest.raises(DataError):
        engine.add(codes(1), ["z"])
