import logging
import resource
import zlib

import numpy as np
import pytest
import torch

from deephash.errors import DataError
from deephash.retrieval import Engine, Index, binarize, hamming, nearest, pack, unpack

SHAPES = [  # queries, codes, bits, k
    (1, 1, 1, 1),
    (3, 1, 64, 1),
    (5, 40, 7, 3),
    (17, 300, 64, 10),
    (33, 500, 12, 500),
    (2, 257, 20, 100),
    (40, 90, 128, 1),
    (4, 60, 254, 7),
    (4, 60, 255, 7),
    (35, 70, 4000, 9),
    (0, 10, 16, 2),
]


def random_codes(rng, size, nbit):
    """Codes that are often equal: few of them are made, most are copies."""
    few = rng.random((max(1, size // 2), nbit)) < 0.5
    return pack(few[rng.integers(0, len(few), size)])


def brute(queries, codes, k):
    """Every distance, sorted stably: what came first stays first."""
    distances = hamming(queries, codes)
    order = np.argsort(distances, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(distances, order, axis=1), order


def filled(nbit, codes, ids=None):
    made = Index(nbit)
    made.add(codes, ids)
    return made


@pytest.fixture(params=[None, 5, 64], ids=["whole", "chunks of 5", "chunks of 64"])
def chunk(request, monkeypatch):
    if request.param is not None:
        monkeypatch.setattr(nearest, "_CHUNK", request.param)
        monkeypatch.setattr(nearest, "_QUERIES", 3)
        monkeypatch.setattr(nearest, "_MOST_RESULTS", 8)
        monkeypatch.setattr(nearest, "_SAMPLE", 4)
        monkeypatch.setattr(nearest, "_SLACK", 2)


@pytest.mark.parametrize(("queries", "size", "nbit", "k"), SHAPES)
def test_search_is_brute_force(queries, size, nbit, k, chunk):
    rng = np.random.default_rng(size + nbit)
    codes, queries_ = random_codes(rng, size, nbit), random_codes(rng, queries, nbit)
    distances, ids = filled(nbit, codes).search(queries_, k)
    expected = brute(queries_, codes, k)
    np.testing.assert_array_equal(distances, expected[0])
    np.testing.assert_array_equal(ids, expected[1])
    assert distances.dtype == np.int16
    assert ids.dtype == np.int64


@pytest.mark.parametrize("seed", range(30))
def test_search_and_range_are_brute_force_on_any_shape(seed, monkeypatch):
    rng = np.random.default_rng(seed)
    sizes = {"_CHUNK": 200, "_QUERIES": 20, "_MOST_RESULTS": 1000, "_SAMPLE": 50, "_SLACK": 100}
    for name, most in sizes.items():
        monkeypatch.setattr(nearest, name, int(rng.integers(1, most)))
    size, nbit = int(rng.integers(1, 800)), int(rng.integers(1, 140))
    k, radius = int(rng.integers(1, size + 1)), int(rng.integers(0, nbit + 1))
    codes, queries_ = (
        random_codes(rng, size, nbit),
        random_codes(rng, int(rng.integers(1, 50)), nbit),
    )
    if seed % 3 == 0:  # the nearest come last, so that every chunk matters
        codes = codes[np.argsort(-hamming(queries_[:1], codes)[0], kind="stable")]
    made = filled(nbit, codes)
    for result, expected in zip(made.search(queries_, k), brute(queries_, codes, k), strict=True):
        np.testing.assert_array_equal(result, expected)
    check_range(made, queries_, radius)


def check_range(made, queries_, radius):
    offsets, distances, ids = result = made.range(queries_, radius)
    assert result.offsets is offsets
    assert len(offsets) == len(queries_) + 1
    assert len(distances) == len(ids) == offsets[-1]
    for query, (near, order) in enumerate(
        zip(*brute(queries_, made.codes, len(made)), strict=True)
    ):
        mine = slice(offsets[query], offsets[query + 1])
        np.testing.assert_array_equal(distances[mine], near[near <= radius])
        np.testing.assert_array_equal(ids[mine], order[near <= radius])


SIZES = [  # queries, codes, bits, k, of the compiled code
    (1, 5000, 64, 10),
    (70, 3000, 64, 3),
    (3, 4000, 32, 4000),
    (9, 2500, 20, 200),
    (5, 2049, 128, 1),
    (2, 2048, 192, 30),
    (6, 1100, 320, 7),
    (66, 1023, 8, 50),
    (1, 1, 64, 1),
    (20, 300, 4000, 9),
    (0, 10, 16, 2),
]


@pytest.mark.parametrize(("queries", "size", "nbit", "k"), SIZES)
@pytest.mark.parametrize("removed", [0, 0.3])
def test_numba_finds_what_numpy_finds(queries, size, nbit, k, removed, monkeypatch):
    """The same distances and ids in the same order, also with the smallest ranges and buffers."""
    pytest.importorskip("numba")
    rng = np.random.default_rng(size)
    codes, queries_ = random_codes(rng, size, nbit), random_codes(rng, queries, nbit)
    codes = codes[np.argsort(-hamming(codes[:1], codes)[0], kind="stable")]  # the nearest last
    gone = 1 + np.flatnonzero(rng.random(size - 1) < removed)
    made = Index.over(codes, nbit, lambda rows: rows, gone)
    radius = int(np.median(hamming(queries_, codes))) if queries else 0
    k = min(k, len(made))
    search, within = made.search(queries_, k, "numpy"), made.range(queries_, radius, "numpy")
    order = [rows[~np.isin(rows, gone)][:k] for rows in brute(queries_, codes, size)[1]]
    np.testing.assert_array_equal(search[1], np.reshape(order, (queries, k)))
    radii = rng.integers(0, nbit + 3, queries)
    near = np.delete(hamming(queries_, codes), gone, axis=1) <= radii[:, None]
    np.testing.assert_array_equal(made.count(queries_, radii, "numpy"), near.sum(axis=1))
    monkeypatch.setattr(nearest, "_TILES", 1)
    monkeypatch.setattr(nearest, "_SLACK", 10)
    for threads, smallest in ((1, 10**6), (3, 300)):
        monkeypatch.setattr(nearest, "_RANGE", smallest)
        engine = Engine("numba", threads)
        for result, expected in zip(made.search(queries_, k, engine), search, strict=True):
            np.testing.assert_array_equal(result, expected)
            assert result.dtype == expected.dtype
        for result, expected in zip(made.range(queries_, radius, engine), within, strict=True):
            np.testing.assert_array_equal(result, expected)
        np.testing.assert_array_equal(made.count(queries_, radii, engine), near.sum(axis=1))


def test_numba_counts_for_more_queries_than_are_copied_at_once():
    pytest.importorskip("numba")
    rng = np.random.default_rng(0)
    codes, many = random_codes(rng, 5, 24), random_codes(rng, 70_000, 24)
    made, radii = Index.over(codes, 24, lambda rows: rows), np.full(len(many), 12)
    counts = made.count(many, radii, "numba")
    np.testing.assert_array_equal(counts, made.count(many, radii, "numpy"))


def test_numba_searches_what_is_mapped(tmp_path):
    pytest.importorskip("numba")
    rng = np.random.default_rng(0)
    for nbit in (20, 32, 64):
        filled(nbit, random_codes(rng, 3000, nbit)).save(tmp_path / "x")
        read = Index.load(tmp_path / "x")
        queries = random_codes(rng, 5, nbit)
        for result, expected in zip(
            read.search(queries, 9, "numba"), read.search(queries, 9, "numpy"), strict=True
        ):
            np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize("radius", [0, 1, 12, 13, 10**9])
def test_range_from_the_same_code_to_all_codes(radius, chunk):
    rng = np.random.default_rng(0)
    codes = random_codes(rng, 150, 12)
    check_range(filled(12, codes), codes[:20], radius)
    if radius >= 12:
        assert len(filled(12, codes).range(codes[:20], radius).ids) == 20 * 150


def test_range_of_nothing():
    nobody, nothing = np.empty((0, 1), dtype=np.uint8), np.array([[0]], dtype=np.uint8)
    assert [x.tolist() for x in Index(8).range(nothing, 3)] == [[0, 0], [], []]
    assert [x.tolist() for x in filled(8, nothing).range(nobody, 3)] == [[0], [], []]
    far = filled(8, nothing, ["a"]).range(nothing ^ 255, 7)
    assert [x.tolist() for x in far] == [[0, 0], [], []]


def test_of_equals_the_first_added_comes_first(chunk):
    """Of 200 equal codes the first ten are the nearest ten, whatever their ids."""
    codes = np.zeros((200, 3), dtype=np.uint8)
    distances, ids = filled(24, codes, np.arange(200)[::-1]).search(codes[:2], 10)
    assert not distances.any()
    assert ids.tolist() == [list(range(199, 189, -1))] * 2


@pytest.mark.parametrize("nbit", [8, 13, 64])
def test_three_forms_of_a_code_are_one(nbit):
    z = np.random.default_rng(nbit).standard_normal((30, nbit)).astype(np.float32)
    bits = binarize(z)
    forms = [z, bits, pack(bits), torch.from_numpy(z).bfloat16(), torch.from_numpy(bits)]
    for form in forms:
        made = filled(nbit, form)
        np.testing.assert_array_equal(made.codes, pack(bits))
        assert made.search(form, 1)[0].tolist() == [[0]] * 30


@pytest.mark.parametrize("kind", [None, "numbers", "text"])
def test_pieces_equal_the_whole(kind):
    rng = np.random.default_rng(1)
    codes = random_codes(rng, 400, 20)
    ids = {
        None: None,
        "numbers": rng.permutation(10**6)[:400] - 5000,
        "text": np.array([f"{'ä' * (n % 7)}/{n}" for n in rng.permutation(400)]),
    }[kind]
    whole, pieces = filled(20, codes, ids), Index(20)
    for cut in np.split(np.arange(400), sorted(rng.integers(0, 401, 30))):
        pieces.add(codes[cut], None if ids is None else ids[cut])
    assert len(pieces) == len(whole) == 400
    np.testing.assert_array_equal(pieces.codes, whole.codes)
    np.testing.assert_array_equal(pieces.ids, whole.ids)
    np.testing.assert_array_equal(pieces.ids, np.arange(400) if ids is None else ids)
    for result, expected in zip(pieces.search(codes, 9), whole.search(codes, 9), strict=True):
        np.testing.assert_array_equal(result, expected)
    with pytest.raises(DataError, match="ids must be unique"):
        pieces.add(codes[:1], whole.ids[399:])


@pytest.mark.parametrize(
    ("ids", "names"),
    [
        (["ä/b.jpg", "", "日本"], ["ä/b.jpg", "", "日本"]),
        ([5, -7, 2**62], [5, -7, 2**62]),
        (range(3, 6), [3, 4, 5]),
        (torch.tensor([3, 1, 2]), [3, 1, 2]),
        (np.array([9, 8, 7], dtype=np.uint8), [9, 8, 7]),
    ],
)
def test_ids_of_searches_are_the_callers(ids, names):
    codes = np.array([[0], [1], [3]], dtype=np.uint8)
    made = filled(8, codes, ids)
    assert made.search(codes[2:], 2)[1].tolist() == [[names[2], names[1]]]
    assert made.ids.tolist() == names


def test_nothing_can_be_added():
    nothing = np.empty((0, 1), dtype=np.uint8)
    made = filled(8, nothing, [])
    made.add(np.array([[1]], dtype=np.uint8), ["a"])
    made.add(nothing, [])
    assert made.ids.tolist() == ["a"]
    with pytest.raises(DataError, match="are text, but those to be added are numbers"):
        made.add(np.array([[1]], dtype=np.uint8))


def test_running_numbers_count_all_that_was_added():
    codes = np.zeros((2, 1), dtype=np.uint8)
    made = filled(8, codes)
    made.add(codes, [10, 20])
    made.add(codes)
    assert made.ids.tolist() == [0, 1, 10, 20, 4, 5]
    with pytest.raises(DataError, match="unique, but 1 exist already, such as 4"):
        made.add(codes, [4, 6])


@pytest.mark.parametrize(
    ("ids", "words"),
    [
        ([1, 2, 1], "unique, but 1 exist already, such as 1"),
        ([9, 7, 3], "unique, but 1 exist already, such as 7"),
        ([1, 2], "3 codes, but 2 ids"),
        (["a", "b", "c"], "are numbers, but those to be added are text"),
        ([1, "b", 2], "not a mixture"),
        ("abc", "not a mixture"),
        ([0.5, 1.5, 2.5], "not float64"),
        ([True, False, True], "not bool"),
        ([[1], [2], [3]], "shape"),
        (np.array([1, 2, 2**63], dtype=np.uint64), "too large"),
        (np.array([1, 2, "b"], dtype=object), "not object"),
        (["a", "b", "\ud800"], "an id is no text"),
        (["a", "b", "c\0"], "ends in a zero"),
    ],
)
def test_ids_that_are_refused(ids, words):
    """And the index is as it was."""
    made = filled(8, np.array([[1], [2]], dtype=np.uint8), [7, 8])
    with pytest.raises(DataError, match=words):
        made.add(np.zeros((3, 1), dtype=np.uint8), ids)
    assert made.ids.tolist() == [7, 8]
    assert made.codes.tolist() == [[1], [2]]
    made.add(np.zeros((1, 1), dtype=np.uint8), [9])
    assert made.search(np.zeros((1, 1), dtype=np.uint8), 3)[1].tolist() == [[9, 7, 8]]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda x: x.search(np.zeros((1, 2), np.uint8), 4), "k=4 is more than the 3 codes"),
        (lambda x: x.search(np.zeros((1, 2), np.uint8), 0), "k=0 must be .* at least 1"),
        (lambda x: x.search(np.zeros((1, 2), np.uint8), 1.0), "k=1.0 must be a whole number"),
        (lambda x: x.search(np.zeros((1, 2), np.uint8), True), "k=True must be a whole number"),
        (lambda x: x.search(np.zeros((1, 1), np.uint8), 1), "queries has 1 bytes per code"),
        (lambda x: x.search(np.zeros(2, np.uint8), 1), "packed codes"),
        (lambda x: x.search(np.ones((1, 11)), 1), "queries have 11 bits, the index has 12"),
        (lambda x: x.search(np.ones((1, 16), bool), 1), "queries have 16 bits"),
        (lambda x: x.search(np.full((1, 12), np.nan), 1), "NaN"),
        (lambda x: x.add(np.full((1, 2), 255, np.uint8)), "beyond bit 12"),
        (lambda x: x.range(np.zeros((1, 2), np.uint8), -1), "radius=-1 must be .* at least 0"),
        (lambda x: x.range(np.zeros((1, 2), np.uint8), 0.5), "radius=0.5 must be a whole number"),
        (lambda x: x.count(np.zeros((1, 2), np.uint8), np.array([-1])), "at least 0, not -1"),
        (lambda x: x.count(np.zeros((1, 2), np.uint8), np.zeros(2, int)), r"\(1,\) integers"),
        (lambda x: Index(8).search(np.zeros((1, 1), np.uint8), 1), "more than the 0 codes"),
        (lambda x: x.search(np.zeros((1, 2), np.uint8), 1, "gpu"), "engine='gpu' is unknown"),
        (lambda x: Index(0), "nbit=.* must be"),
        (lambda x: Index(2.0), "nbit=.* must be"),
        (lambda x: Index(40000), "too long"),
    ],
)
def test_invalid_options_are_refused(call, words):
    with pytest.raises(DataError, match=words):
        call(filled(12, np.zeros((3, 2), dtype=np.uint8)))


def test_nothing_given_is_changed_or_kept():
    rng = np.random.default_rng(2)
    codes, queries_, ids = random_codes(rng, 50, 64), random_codes(rng, 5, 64), np.arange(50) * 3
    before = codes.copy(), queries_.copy(), ids.copy()
    for array in (codes, queries_, ids):
        array.flags.writeable = False
    made = filled(64, codes, ids)
    first = made.search(queries_, 4)
    made.range(queries_, 30)
    for now, then in zip((codes, queries_, ids), before, strict=True):
        np.testing.assert_array_equal(now, then)
    for array in (codes, ids):
        array.flags.writeable = True
        array[:] = 0
    for now, then in zip(made.search(queries_, 4), first, strict=True):
        np.testing.assert_array_equal(now, then)


def test_what_was_read_stays_and_cannot_be_written():
    made = filled(8, np.array([[1], [2]], dtype=np.uint8))
    codes = made.codes
    with pytest.raises(ValueError, match="read-only"):
        codes[0] = 0
    for _ in range(5):
        made.add(np.array([[3]], dtype=np.uint8))
    assert codes.tolist() == [[1], [2]]
    assert made.codes.tolist() == [[1], [2], [3], [3], [3], [3], [3]]


@pytest.mark.parametrize("mmap", [True, False])
@pytest.mark.parametrize("kind", ["running", "numbers", "text"])
@pytest.mark.parametrize(("size", "nbit"), [(0, 12), (1, 1), (100, 64), (333, 20)])
def test_a_file_keeps_all(tmp_path, size, nbit, kind, mmap):
    rng = np.random.default_rng(size)
    codes = random_codes(rng, size, nbit)
    ids = {
        "running": None,
        "numbers": rng.permutation(10**6)[:size],
        "text": [f"train/{'ü' * (n % 3)}{n:05d}" for n in range(size)],
    }[kind]
    made = filled(nbit, codes, ids)
    made.save(tmp_path / "an.index")
    assert [file.name for file in tmp_path.iterdir()] == ["an.index"]
    read = Index.load(str(tmp_path / "an.index"), mmap=mmap)
    assert len(read) == size
    assert read.nbit == nbit
    np.testing.assert_array_equal(read.codes, codes)
    np.testing.assert_array_equal(read.ids, made.ids)
    if size:
        for result, expected in zip(read.search(codes, 1), made.search(codes, 1), strict=True):
            np.testing.assert_array_equal(result, expected)
    if size and kind != "running":
        with pytest.raises(DataError, match="unique"):
            read.add(codes[:1], made.ids[:1])
    more = {"running": None, "numbers": [-1], "text": ["a much longer name, new"]}[kind]
    read.add(codes[:1], more if size else None)
    assert len(read) == size + min(1, size)
    read.save(tmp_path / "an.index")  # over the file it is read from
    np.testing.assert_array_equal(Index.load(tmp_path / "an.index").ids, read.ids)
    np.testing.assert_array_equal(Index.load(tmp_path / "an.index").codes, read.codes)


def test_the_file_by_hand(tmp_path):
    """Two codes of 12 bits, ids "a" and "bc": 64 bytes, 4 bytes, 60 zeros, "a", zero, "bc"."""
    file = tmp_path / "x"
    filled(12, np.array([[1, 16], [255, 240]], dtype=np.uint8), ["a", "bc"]).save(file)
    data = file.read_bytes()
    body = bytes([1, 16, 255, 240]) + bytes(60) + b"a\0bc"
    numbers = [(1, 4), (12, 4), (2, 8), (2, 4), (2, 4), (zlib.crc32(body), 4), (0, 24)]
    head = b"DEEPHIDX" + b"".join(number.to_bytes(width, "little") for number, width in numbers)
    assert data == head + zlib.crc32(head).to_bytes(4, "little") + body


def test_files_that_are_refused(tmp_path):
    file = tmp_path / "x"
    codes = random_codes(np.random.default_rng(0), 20, 12)
    filled(12, codes, range(20)).save(file)
    good = file.read_bytes()

    def refused(data, words, mmap=True):
        file.write_bytes(data)
        with pytest.raises(DataError, match=words):
            Index.load(file, mmap=mmap)

    def changed(at, byte):
        return good[:at] + bytes([byte]) + good[at + 1 :]

    def head(at, number, width=4):
        """With a header of another program, whose checksum is right."""
        fields = good[:at] + number.to_bytes(width, "little") + good[at + width : 60]
        return fields + zlib.crc32(fields).to_bytes(4, "little") + good[64:]

    refused(b"", "is no index: it begins with b''")
    refused(b"PK\3\4" + bytes(100), "is no index")
    refused(good[:30], "cut off in its header, after 30 bytes")
    refused(good[:-1], "cut off, 287 bytes and not the 288 of 20 codes of 12 bits")
    refused(good[:64], "cut off")
    refused(good + b"\0", "longer than it was")
    refused(changed(16, 21), "its header was changed")
    refused(changed(62, good[62] ^ 1), "its header was changed")
    refused(head(8, 2), "of version 2; this deephash reads 1")
    refused(head(12, 0), "K=0")
    refused(head(12, 40000), "K=40000")
    refused(head(24, 3), "ids of kind 3")
    refused(head(28, 4), "ids of kind 1 in 4 bytes")
    refused(head(16, 2**60, 8), "cut off")
    for at in (64, 70, 120, 287):
        refused(changed(at, good[at] ^ 1), "its codes or ids were changed", mmap=False)
    file.unlink()
    with pytest.raises(DataError, match="No such file"):
        Index.load(file)
    with pytest.raises(DataError, match="cannot be read"):
        Index.load(tmp_path)
    with pytest.raises(DataError, match="cannot be written"):
        Index(8).save(tmp_path / "nowhere" / "x")


def test_an_index_of_ten_million_opens_without_being_read(tmp_path):
    """80 MB of codes, all zero and never written: the file is a hole behind its header."""
    file, size = tmp_path / "x", 10_000_000
    Index(64).save(file)
    fields = file.read_bytes()[:16] + size.to_bytes(8, "little") + bytes(36)
    file.write_bytes(fields + zlib.crc32(fields).to_bytes(4, "little"))
    with file.open("r+b") as opened:
        opened.truncate(64 + 8 * size)
    before = resource.getrusage(resource.RUSAGE_SELF)
    made = Index.load(file)
    after = resource.getrusage(resource.RUSAGE_SELF)
    assert len(made) == size
    assert after.ru_majflt + after.ru_minflt - before.ru_majflt - before.ru_minflt < 1000  # pages
    assert not made.codes[-1].any()


def test_codes_of_a_run(tmp_path):
    rng = np.random.default_rng(3)
    codes, ids = random_codes(rng, 30, 20), [f"train/{n:06d}" for n in range(30)]
    arrays = {"nbit": 20, "fingerprint": "f", "database_codes": codes, "database_ids": ids}
    np.savez_compressed(tmp_path / "codes.npz", **arrays)
    for path in (tmp_path, str(tmp_path / "codes.npz")):
        made = Index.from_run(path)
        np.testing.assert_array_equal(unpack(made.codes, 20), unpack(codes, 20))
        assert made.ids.tolist() == ids


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"database_ids": ["a", "a"]}, "unique"),
        ({"database_ids": ["a"]}, "there are 2 codes"),
        ({"nbit": 9}, "database_codes has 1 bytes"),
        ({"nbit": [8]}, "not a number of bits"),
        ({"database_codes": np.ones((2, 8))}, "database_codes must be packed"),
        ({"database_ids": np.array([None, 1])}, "holds Python objects"),
    ],
)
def test_codes_of_a_run_that_do_not_fit(tmp_path, arrays, words):
    good = {"nbit": 8, "database_codes": np.zeros((2, 1), np.uint8), "database_ids": ["a", "b"]}
    np.savez(tmp_path / "codes.npz", **(good | arrays))
    with pytest.raises(DataError, match=words):
        Index.from_run(tmp_path)


def test_what_is_no_run(tmp_path):
    with pytest.raises(DataError, match=r"codes\.npz: it does not exist"):
        Index.from_run(tmp_path)
    file = tmp_path / "codes.npz"
    np.savez(file, nbit=8)
    with pytest.raises(DataError, match=r"it has no array database_codes, database_ids"):
        Index.from_run(tmp_path)
    for data in (b"", b"text", file.read_bytes()[:50]):
        file.write_bytes(data)
        with pytest.raises(DataError, match="cannot read the codes"):
            Index.from_run(tmp_path)
    with file.open("wb") as opened:
        np.save(opened, np.zeros(3))
    with pytest.raises(DataError, match="cannot read the codes"):
        Index.from_run(tmp_path)


@pytest.mark.parametrize("nbit", [8, 20, 64, 129])
def test_faiss_finds_the_same_distances(nbit, caplog):
    """And the codes come back: the bytes, and so the order of bits, are those of ``pack``."""
    faiss = pytest.importorskip("faiss")
    rng = np.random.default_rng(nbit)
    codes, queries_ = random_codes(rng, 200, nbit), random_codes(rng, 9, nbit)
    ids = [f"{n}.jpg" for n in range(200)]
    made = filled(nbit, codes, ids)
    with caplog.at_level(logging.WARNING):
        flat = made.to_faiss()
    assert ("zeros pad them" in caplog.text) == (nbit % 8 != 0)
    assert flat.d == -(-nbit // 8) * 8
    np.testing.assert_array_equal(flat.search(queries_, 10)[0], made.search(queries_, 10)[0])
    np.testing.assert_array_equal(flat.reconstruct(7), codes[7])
    back = Index.from_faiss(flat, nbit, made.ids)
    np.testing.assert_array_equal(back.codes, codes)
    assert back.ids.tolist() == ids
    assert back.nbit == nbit
    assert Index.from_faiss(faiss.IndexBinaryFlat(16)).nbit == 16
    with pytest.raises(DataError, match="not IndexBinaryHash"):
        Index.from_faiss(faiss.IndexBinaryHash(64, 8))


def test_bits_go_to_faiss_highest_first():
    pytest.importorskip("faiss")
    flat = filled(9, np.array([[1, 0, 0, 0, 0, 0, 0, 1, 1]], dtype=bool)).to_faiss()
    assert flat.reconstruct(0).tolist() == [129, 128]


def test_without_faiss_the_error_names_it(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "faiss", None)
    with pytest.raises(DataError, match="pip install faiss-cpu"):
        Index(8).to_faiss()


def test_ids_that_are_no_text_are_reported(tmp_path):
    file = tmp_path / "index"
    index = Index(8)
    index.add(np.zeros((2, 1), np.uint8), ["ab", "cd"])
    index.save(file)
    data = bytearray(file.read_bytes())
    data[-1] = 0xFF  # of the last id
    data[32:36] = zlib.crc32(bytes(data[64:])).to_bytes(4, "little")  # as another program writes it
    data[60:64] = zlib.crc32(bytes(data[:60])).to_bytes(4, "little")
    file.write_bytes(data)
    with pytest.raises(DataError, match=r"is damaged: the id b'c.xff' is not UTF-8"):
        Index.load(file, mmap=False)
    loaded = Index.load(file)
    with pytest.raises(DataError, match=r"is damaged .*mmap=False.*: the id b'c.xff' is not UTF-8"):
        loaded.search(np.zeros((1, 1), np.uint8), k=2)
    with pytest.raises(DataError, match=r"is damaged .*mmap=False.*: the id b'c.xff' is not UTF-8"):
        print(loaded.ids)
