import itertools
import os
import resource
import signal
import tempfile
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deephash.errors import BusyError, DataError, FileError, WriteError
from deephash.retrieval import Index
from deephash.search import store as store_module
from deephash.search import store_files
from deephash.search.store import CodeStore

SHARED = "/dev/shm" if Path("/dev/shm").is_dir() else None
"""A folder where syncing takes no time; what a kill leaves is the same as on a disk."""

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
    assert snapshot.signatures_at(range(len(ids))) == [item[2] for item in model.items]
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
def test_a_store_is_a_list_of_items(steps, seed):
    rng = np.random.default_rng(seed)
    with tempfile.TemporaryDirectory(dir=SHARED) as parent:
        folder, model = Path(parent) / "x", Model()
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


def script(store, acknowledge=lambda: None):
    """Change a store in all ways; each change is a step."""
    rng = np.random.default_rng(0)
    steps = [
        lambda: store.add(random_codes(rng, 3), ["a", "b", "c"], ["1", "2", "3"], ["x", None, "y"]),
        lambda: store.add(random_codes(rng, 2), ["b", "ä"], labels=[("x", "z"), "y"]),
        lambda: store.remove(["c", "absent"]),
        lambda: store.compact() if isinstance(store, CodeStore) else None,
        lambda: store.add(random_codes(rng, 2), ["c", "a"]),
    ]
    for step in steps:
        step()
        acknowledge()


def states():
    """The items after each step of the script, from none to all."""
    model, after = Model(), [[]]
    script(model, lambda: after.append([list(item) for item in model.items]))
    return after


def items_of(store):
    snapshot = store.snapshot()
    signatures = snapshot.signatures_at(range(len(snapshot)))
    columns = snapshot.ids, snapshot.codes.tolist(), signatures, snapshot.labels
    return [list(item) for item in zip(*columns, strict=True)]


def in_child(job):
    """Run a job in a forked process; return its exit status and what it wrote to its pipe."""
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of threads, which do not work here
        child = os.fork()
    if not child:
        status = 70
        try:
            job(lambda: os.write(writing, b"."))
            status = 0
        finally:
            os._exit(status)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        written = pipe.read()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), written


def kill_at(number):
    """Kill this process at its operation of this number on a file; a write is half done then."""
    count = itertools.count(1)

    def killing(function):
        def call(*arguments):
            if next(count) == number:
                if function is pwrite:
                    descriptor, data, offset = arguments
                    pwrite(descriptor, data[: len(data) // 2], offset)
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments)

        return call

    pwrite = os.pwrite
    for name in ("pwrite", "fsync", "ftruncate", "replace", "unlink"):
        setattr(os, name, killing(getattr(os, name)))


@pytest.fixture
def in_memory():
    with tempfile.TemporaryDirectory(dir=SHARED) as folder:
        yield Path(folder)


def test_a_kill_loses_nothing_that_was_acknowledged(in_memory):
    """Before each operation on a file, from the creation to the last change."""
    expected, number, kills = states(), 0, 0
    while True:
        number += 1
        folder = in_memory / str(number)

        def job(acknowledge, folder=folder, number=number):
            kill_at(number)
            store = CodeStore.create(folder, 20, ENCODER)
            acknowledge()
            script(store, acknowledge)

        status, written = in_child(job)
        if status == 0:
            break
        assert status == -signal.SIGKILL
        kills += 1
        if not written and not (folder / "store.json").exists():
            CodeStore.create(folder, 20, ENCODER).close()
        done = max(len(written) - 1, 0)
        assert items_of(CodeStore.open(folder, verify=True)) in expected[done : done + 2]
        with CodeStore.open(folder, write=True, verify=True) as store:
            assert items_of(store) in expected[done : done + 2]
            assert len({path.name.split("-")[1] for path in folder.glob("*-*")}) == 2  # endings
            store.add(random_codes(np.random.default_rng(1), 1), ["a"])
            after = items_of(store)
        assert items_of(CodeStore.open(folder, verify=True)) == after
    assert kills > 50


def test_kills_at_any_time(tmp_path):
    """While items are added one after another."""
    folder = tmp_path / "x"
    CodeStore.create(folder, 20, ENCODER).close()
    codes = random_codes(np.random.default_rng(0), 1)
    for delay in (0.02, 0.05, 0.09):
        before = len(CodeStore.open(folder))

        def job(acknowledge, before=before, delay=delay):
            store = CodeStore.open(folder, write=True)
            signal.setitimer(signal.ITIMER_REAL, delay)  # its signal ends the process
            for number in itertools.count(before):
                store.add(codes, [str(number)])
                acknowledge()

        status, written = in_child(job)
        assert status == -signal.SIGALRM
        after = CodeStore.open(folder, verify=True)
        assert len(after) - before in (len(written), len(written) + 1)
        assert after.snapshot().ids == [str(number) for number in range(len(after))]


@pytest.fixture
def folder(tmp_path):
    """A store with a commit of each kind."""
    with CodeStore.create(tmp_path / "x", 20, ENCODER) as store:
        script(store)
        store.remove(["c"])
    return tmp_path / "x"


def test_flipped_bytes_are_noticed(folder):
    for path in sorted(folder.iterdir()):
        good = path.read_bytes()
        for at in range(0, len(good), 2 if path.suffix == ".log" else 5):
            path.write_bytes(good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :])
            with pytest.raises(FileError, match=path.name.replace(".", r"\.")):
                CodeStore.open(folder, verify=True)
        path.write_bytes(good)
    assert len(CodeStore.open(folder, verify=True)) == 3


def test_a_damaged_file_is_named_with_the_place(folder):
    path = folder / "codes-2.bin"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    for write in (False, True):
        with pytest.raises(FileError, match=r"codes-2\.bin: .* byte from 9 to 14 was changed"):
            CodeStore.open(folder, write)
    with CodeStore.open(folder, write=True, verify=False) as store:
        with pytest.raises(FileError, match="was changed"):
            store.compact()
        assert len(store) == 3
    path.write_bytes(data[:-1])
    with pytest.raises(FileError, match=r"cut off after byte 14, its commits end at byte 15"):
        CodeStore.open(folder)
    path.unlink()
    with pytest.raises(FileError, match=r"codes-2\.bin: it is damaged: it is missing"):
        CodeStore.open(folder)
    with pytest.raises(FileError, match=r"store\.json: it does not exist"):
        CodeStore.open(folder.parent)


def test_an_unfinished_end_is_cut_off(folder):
    """A record that was not written to its end, and zeros after a power failure."""
    path = folder / "commits-2.log"
    good = path.read_bytes()
    for data in (good[:-1], good[:-40], good + b"DHCR", good + bytes(700)):
        path.write_bytes(data)
        expected = items_of(CodeStore.open(folder))
        assert len(expected) == (3 if len(data) > len(good) else 4)
        with CodeStore.open(folder, write=True) as store:
            assert items_of(store) == expected
            store.add(random_codes(np.random.default_rng(0), 1), ["new"])
        assert len(CodeStore.open(folder, verify=True)) == len(expected) + 1


def test_a_later_version_is_refused(folder):
    path = folder / "store.json"
    for old, new, words in (
        ('"version": 1', '"version": 2', r"of version 2, and this deephash reads 1\n  Update"),
        ('"nbit": 20', '"nbit": 21', "its values were changed"),
        ('"deephash code store"', '"other"', "it is no code store: its format is 'other'"),
    ):
        good = path.read_text()
        path.write_text(good.replace(old, new))
        with pytest.raises(FileError, match=words):
            CodeStore.open(folder)
        path.write_text(good)


def test_readers_see_whole_commits_while_another_process_writes(tmp_path):
    rounds, size = 60, 7
    codes = random_codes(np.random.default_rng(0), rounds * size)
    ids = [f"{number}.jpg" for number in range(len(codes))]
    CodeStore.create(tmp_path / "x", 20, ENCODER).close()

    def job(acknowledge):
        with CodeStore.open(tmp_path / "x", write=True) as store:
            for start in range(0, len(codes), size):
                store.add(codes[start : start + size], ids[start : start + size])
                if start % (20 * size) == 0:
                    store.compact()
        acknowledge()

    reader = CodeStore.open(tmp_path / "x")
    first, seen = reader.snapshot(), set()
    with ThreadPoolExecutor(1) as pool:
        writer = pool.submit(in_child, job)
        while len(reader) < len(codes) and not (writer.done() and writer.result()[0]):
            reader.reload()
            snapshot = reader.snapshot()
            seen.add(len(snapshot))
            assert snapshot.ids == ids[: len(snapshot)]
            np.testing.assert_array_equal(snapshot.codes, codes[: len(snapshot)])
        assert writer.result() == (0, b".")
    assert len(seen) > 1
    assert all(count % size == 0 for count in seen)
    assert len(first) == 0
    assert reader.reload() is False


def test_threads_search_while_one_adds(tmp_path):
    codes = random_codes(np.random.default_rng(0), 200)
    with CodeStore.create(tmp_path / "x", 20, ENCODER) as store, ThreadPoolExecutor(3) as pool:
        store.add(codes[:1], ["0"])

        def search(_):
            index = store.index()
            distances, ids = index.search(codes[:1], 1)
            return len(index), distances.tolist(), ids.tolist()

        searches = [pool.submit(search, number) for number in range(40)]
        for number in range(1, 40):
            store.add(codes[number : number + 1], [str(number)])
        for future in searches:
            size, *nearest = future.result()
            assert 1 <= size <= 40
            assert nearest == [[[0]], [["0"]]]


def test_a_full_disk_leaves_the_store_as_it_was(tmp_path):
    """The limit on the size of files has the same effect as a full disk."""
    codes = random_codes(np.random.default_rng(0), 5000)
    ids = [str(number) for number in range(5000)]

    def job(acknowledge):
        store = CodeStore.create(tmp_path / "x", 20, ENCODER)
        store.add(codes[:2], ids[:2])
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
        with pytest.raises(WriteError, match="larger than this process or filesystem allows"):
            store.add(codes, ids)
        assert store.remove(ids[:2]) == 2
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert len(store) == 0
        store.add(codes[2:4], ids[2:4])
        acknowledge()

    assert in_child(job) == (0, b".")
    assert CodeStore.open(tmp_path / "x", verify=True).snapshot().ids == ids[2:4]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"ids": ["a"]}, "there are 2 codes, but 1 ids"),
        ({"ids": ["a", "a"]}, "ids must be unique, but 1 are repeated"),
        ({"ids": ["a", ""]}, "must not be empty"),
        ({"ids": ["a", "b\0"]}, "zero character"),
        ({"ids": ["a", 1]}, "must be text, not 1"),
        ({"ids": ["a", "\ud800"]}, "half a surrogate pair"),
        ({"ids": ["a", "\udcc3\udca4"]}, "half a surrogate pair"),
        ({"signatures": ["1"]}, "there are 2 codes, but 1 signatures"),
        ({"labels": ["x", ["y", 1]]}, "a label is text, texts or None"),
        ({"codes": np.zeros((2, 2), np.uint8)}, "codes has 2 bytes per code"),
        ({"codes": np.full((2, 20), np.nan)}, "NaN"),
    ],
)
def test_items_that_are_refused(tmp_path, change, words):
    with CodeStore.create(tmp_path / "x", 20, ENCODER) as store:
        with pytest.raises(DataError, match=words):
            store.add(**{"codes": np.zeros((2, 3), np.uint8), "ids": ["a", "b"], **change})
        assert len(store) == 0
        store.add(np.ones((0, 3), np.uint8), [])
        assert store.remove([]) == store.remove(["a"]) == 0


def test_stores_that_cannot_be_made(tmp_path):
    CodeStore.create(tmp_path / "x", 20, ENCODER).close()
    with pytest.raises(DataError, match="is a code store already"):
        CodeStore.create(tmp_path / "x", 20, ENCODER)
    with pytest.raises(DataError, match="description cannot be stored"):
        CodeStore.create(tmp_path / "y", 20, {"size": {1, 2}})
    with pytest.raises(DataError, match="nbit=0"):
        CodeStore.create(tmp_path / "y", 0, ENCODER)
    (tmp_path / "z").write_text("")
    with pytest.raises(WriteError, match="a file stands where a folder should be"):
        CodeStore.create(tmp_path / "z", 20, ENCODER)
    store = CodeStore.open(tmp_path / "x")
    store.check_encoder({"fingerprint": "5e1f"})
    with pytest.raises(DataError, match=r"by the encoder 5e1f, and cannot be compared .* of 77"):
        store.check_encoder({"fingerprint": "77"})


def test_ids_with_equal_hashes_are_told_apart(tmp_path, monkeypatch):
    """All hashes are equal, as no ids are known whose hashes are."""
    monkeypatch.setattr(
        store_files, "hashes", lambda blob, start, length: np.zeros(len(start), np.uint64)
    )
    with CodeStore.create(tmp_path / "x", 20, ENCODER) as store:
        script(store)
        assert items_of(store) == states()[-1]
        assert store.snapshot().find(["b", "c", "zz"]).tolist() == [0, 2, -1]


def test_hashes_do_not_depend_on_what_surrounds_an_id():
    names = ["a", "ab", "a" * 8, "a" * 9, "a" * 100, "ä/b.jpg", "a\x01"]
    together = store_files.encode_texts(names, names[::-1]).hash
    alone = [store_files.encode_texts([name]).hash[0] for name in names]
    assert together.tolist() == alone
    assert len(set(alone)) == len(names)

    def by_hand(name):
        data, wrap = name.encode(), (1 << 64) - 1
        value = (len(data) * 0x9E3779B97F4A7C15 + 0xD1B54A32D192ED03) & wrap
        for at in range(0, len(data), 8):
            x = (value ^ int.from_bytes(data[at : at + 8], "little")) * 0x9E3779B97F4A7C15 & wrap
            x = (x ^ x >> 29) * 0xBF58476D1CE4E5B9 & wrap
            value = x ^ x >> 32
        return value

    assert alone == [by_hand(name) for name in names]


def test_a_wasteful_store_is_compacted_when_it_is_closed(tmp_path, monkeypatch):
    monkeypatch.setattr(store_module, "_WASTE", 5)
    codes = random_codes(np.random.default_rng(0), 40)
    ids = [str(number) for number in range(40)]
    for name, batch, removed, generation in (("x", 40, 3, 1), ("y", 40, 30, 2), ("z", 1, 0, 2)):
        with CodeStore.create(tmp_path / name, 20, ENCODER) as store:
            for start in range(0, 40, batch):
                store.add(codes[start : start + batch], ids[start : start + batch])
            store.remove(ids[:removed])
        assert (tmp_path / name / f"codes-{generation}.bin").exists()
        assert CodeStore.open(tmp_path / name, verify=True).snapshot().ids == ids[removed:]


def test_places_of_ids_are_those_of_the_snapshot(tmp_path):
    """Also of an older snapshot, and after items were removed before it."""
    codes = random_codes(np.random.default_rng(0), 4)
    with CodeStore.create(tmp_path / "x", 20, ENCODER) as store:
        store.add(codes, ["a", "b", "c", "d"])
        old = store.snapshot()
        store.remove(["a"])
        store.add(codes[:2], ["b", "e"])
        new = store.snapshot()
        assert new.find(["e", "b", "a", "c"]).tolist() == [3, 2, -1, 0]
        assert old.find(["e", "b", "a", "c"]).tolist() == [-1, 1, 0, 2]
        assert new.codes[new.find(["e"])].tolist() == codes[1:2].tolist()
