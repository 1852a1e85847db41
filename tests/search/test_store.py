import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deephash.errors import BusyError, DataError
from deephash.retrieval import Index
from deephash.search.store import CodeStore

ENCODER = {"fingerprint": "5e1f", "nbit": 20}


def random_codes(rng, size, nbit=20):
    """Codes that are often equal."""
    few = np.packbits(rng.random((max(1, size // 2), nbit)) < 0.5, axis=1)
    return few[rng.integers(0, len(few), size)]


class Model:
    """What a store contains, as lists."""

    def __init__(self):
        self.items = []  # id, code, signature, label

    def add(self, codes, ids, signatures=None, labels=None):
        self.remove(ids)
        none = [""] * len(ids), [None] * len(ids)
        rows = zip(ids, codes.tolist(), signatures or none[0], labels or none[1], strict=True)
        self.items += [list(row) for row in rows]

    def remove(self, ids):
        before = len(self.items)
        self.items = [item for item in self.items if item[0] not in set(ids)]
        return before - len(self.items)


def check(store, model):
    """Compare everything that can be read."""
    snapshot = store.snapshot()
    ids = [item[0] for item in model.items]
    assert len(store) == len(snapshot) == len(ids)
    assert snapshot.codes.tolist() == [item[1] for item in model.items]
    assert snapshot.ids == ids
    assert store.signatures() == {item[0]: item[2] for item in model.items}
    assert snapshot.labels == [item[3] for item in model.items]
    assert snapshot.find([*ids, "absent"]).tolist() == [*range(len(ids)), -1]
    if not ids:
        return
    places = np.arange(len(ids))[::-1].reshape(1, -1)
    assert snapshot.ids_at(places).tolist() == [ids[::-1]]
    expected = Index(20)
    expected.add(snapshot.codes)
    queries = random_codes(np.random.default_rng(len(ids)), 3)
    for k in {1, len(ids)}:
        distances, ids_ = store.index().search(queries, k)
        right, places = expected.search(queries, k)
        np.testing.assert_array_equal(distances, right)
        assert ids_.tolist() == snapshot.ids_at(places).tolist()


NAMES = st.sampled_from(["a", "b.jpg", "ä/日本.png", "c" * 30, "caf\udce9.jpg", "d"])
LABELS = st.sampled_from([None, "cat", "dög", ("cat", "dog")])
ADDED = st.dictionaries(NAMES, st.tuples(st.sampled_from(["", "12:34", "ü"]), LABELS))
STEPS = st.one_of(
    st.tuples(st.just("add"), ADDED),
    st.tuples(st.just("remove"), st.lists(NAMES)),
    st.tuples(st.sampled_from(["compact", "open"]), st.none()),
)


@settings(max_examples=25)
@given(steps=st.lists(STEPS, max_size=8), seed=st.integers(0, 99))
def test_a_store_is_a_list_of_items(tmp_path_factory, steps, seed):
    rng = np.random.default_rng(seed)
    folder, model = tmp_path_factory.mktemp("store") / "x", Model()
    store = CodeStore.create(folder, 20, ENCODER)
    for step, values in steps:
        if step == "add":
            signatures = [value[0] for value in values.values()]
            labels = [value[1] for value in values.values()]
            codes = random_codes(rng, len(values))
            for each in (store, model):
                each.add(codes, list(values), signatures, labels)
        elif step == "remove":
            assert store.remove(values) == model.remove(values)
        elif step == "compact":
            store.compact()
        else:
            store.close()
            store = CodeStore.open(folder, write=True, verify=True)
        check(store, model)
    reader = CodeStore.open(folder)
    check(reader, model)
    assert reader.encoder == ENCODER
    store.close()


def test_a_second_writer_is_refused(tmp_path):
    with CodeStore.create(tmp_path / "x", 20, ENCODER):
        with pytest.raises(BusyError, match=r"is being changed by process \d+ on"):
            CodeStore.open(tmp_path / "x", write=True)
        with pytest.raises(BusyError):
            CodeStore.create(tmp_path / "x", 20, ENCODER)
    with (
        CodeStore.open(tmp_path / "x", write=True),
        pytest.raises(DataError, match="opened for reading"),
    ):
        CodeStore.open(tmp_path / "x").remove(["a"])
