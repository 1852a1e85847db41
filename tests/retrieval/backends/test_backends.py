"""All backends return identical counts, equal to the definition."""

import importlib.util
import os
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from deephash.errors import DataError
from deephash.retrieval import (
    Convention,
    Engine,
    Histograms,
    Ranking,
    evaluate_codes,
    hamming,
    histograms,
    mean_average_precision,
    pack,
)
from deephash.retrieval.backends import numpy_backend, torch_backend
from deephash.retrieval.packed_codes import packed_pair

NUMBA = importlib.util.find_spec("numba") is not None
TRITON = importlib.util.find_spec("triton") is not None
INTERPRETED = TRITON and os.environ.get("TRITON_INTERPRET") == "1"
ENGINES = [Engine("numpy")]
ENGINES += [Engine("torch", device="cpu", kernel=kernel) for kernel in ("bits", "matmul")]
ENGINES += [Engine("numba", threads=1), Engine("numba", threads=3)] if NUMBA else []
EACH = pytest.mark.parametrize(
    "engine", ENGINES, ids=lambda e: f"{e.name}{e.threads or ''}-{e.kernel}"
)
KINDS = ("classes", "one_hot", "multi_hot")


def drawn(seed, queries, size, nbit, classes, kind, density=0.4):
    rng = np.random.default_rng(seed)
    codes = [pack(rng.random((n, nbit)) < density) for n in (queries, size)]
    if kind == "classes":
        return *codes, *(rng.integers(0, classes, n) for n in (queries, size))
    if kind == "multi_hot":
        return *codes, *(rng.random((n, classes)) < 0.15 for n in (queries, size))
    labels = [np.zeros((n, classes), dtype=bool) for n in (queries, size)]
    for hot in labels:  # some have none
        rows = np.flatnonzero(rng.random(len(hot)) < 0.7)
        hot[rows, rng.integers(0, classes, len(rows))] = True
    return *codes, *labels


@EACH
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("nbit", [12, 64, 130])
def test_databases_of_several_parts(engine, kind, nbit, monkeypatch):
    """Parts and blocks have arbitrary boundaries."""
    given_ = drawn(5, 4, 4 * numpy_backend.PART + 4321, nbit, 70, kind)
    monkeypatch.setattr(torch_backend, "PART", 100_000)
    counts = Ranking(*given_, nbit, engine).counts
    distance = hamming(*given_[:2])
    query_labels, database_labels = (
        x if x.ndim == 2 else np.eye(70, dtype=bool)[x] for x in given_[2:]
    )
    for q in range(4):
        relevant = (database_labels & query_labels[q]).any(axis=1)
        np.testing.assert_array_equal(counts[0][q], np.bincount(distance[q], minlength=nbit + 1))
        np.testing.assert_array_equal(
            counts[1][q], np.bincount(distance[q][relevant], minlength=nbit + 1)
        )


@EACH
def test_all_at_one_distance_and_nothing_relevant(engine):
    zeros = np.zeros((3000, 2), dtype=np.uint8)
    ranking = Ranking(zeros[:1], zeros, np.array([1]), np.zeros(3000, dtype=int), 16, engine)
    assert ranking.counts[0].tolist() == [[3000] + [0] * 16]
    assert ranking.counts[1].sum() == 0
    assert mean_average_precision(ranking, Convention(ties="stable")).value == 0
    same = Ranking(zeros[:1], zeros, np.array([1]), np.ones(3000, dtype=int), 16, engine)
    assert same.counts[1][0, 0] == 3000
    assert same.each(len, 7) == [7]


@EACH
def test_unlabelled_queries_do_not_match_unlabelled_items(engine):
    none = np.zeros((1, 3), dtype=bool)
    database_labels = np.zeros((700, 3), dtype=bool)
    database_labels[::2, 1] = True
    codes = np.zeros((700, 1), dtype=np.uint8)
    ranking = Ranking(codes[:1], codes, none, database_labels, 8, engine)
    assert ranking.counts[1].sum() == 0
    assert ranking.each(len) == [0]


@EACH
def test_metrics_and_reports_are_the_same_to_the_bit(engine):
    given_ = drawn(8, 20, 900, 24, 6, "multi_hot")
    for ties in ("expected", "stable", "shuffled", "best", "worst"):
        convention = Convention(top=100, ties=ties, seed=4)
        result = mean_average_precision(Ranking(*given_, 24, engine), convention)
        assert result == mean_average_precision(Ranking(*given_, 24, "numpy"), convention)
    rng = np.random.default_rng(0)
    z, labels = rng.normal(size=(200, 24)), rng.integers(0, 5, 200)
    sides = (z[:50], z[50:], labels[:50], labels[50:])
    assert evaluate_codes(*sides, engine=engine) == evaluate_codes(*sides, engine="numpy")


@EACH
def test_inputs_stay_as_they_are(engine):
    given_ = drawn(9, 5, 800, 40, 9, "one_hot")
    for array in given_:
        array.flags.writeable = False
    copies = [array.copy() for array in given_]
    ranking = Ranking(*given_, 40, engine)
    ranking.each(len, 30)
    Histograms.of(ranking.shuffled(1))
    for array, copy in zip(given_, copies, strict=True):
        np.testing.assert_array_equal(array, copy)


@EACH
def test_tensors_memory_maps_and_slices_are_taken(engine, tmp_path):
    query, database, query_labels, database_labels = drawn(10, 5, 801, 64, 9, "classes")
    plain = histograms(query, database, query_labels, database_labels, 64, engine)
    np.save(tmp_path / "codes.npy", database)
    mapped = np.load(tmp_path / "codes.npy", mmap_mode="r")
    wide = np.zeros((801, 16), dtype=np.uint8)
    wide[:, 4:12] = database
    for codes in (mapped, wide[:, 4:12], torch.from_numpy(database)):
        result = histograms(
            query, codes, query_labels, torch.from_numpy(database_labels), 64, engine
        )
        np.testing.assert_array_equal(result.relevant, plain.relevant)


def test_what_is_chosen(monkeypatch):
    many = 10**9
    assert Engine().chosen(1000) == "numpy"
    assert Engine(device="cpu").chosen(many) == ("numba" if NUMBA else "numpy")
    assert Engine(device="cuda:1").chosen(1) == "torch"
    assert Engine("torch").on_cpu(1000) == "numpy"
    assert Engine("numpy").chosen(many) == "numpy"
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert Engine().chosen(many) == "numpy"
    with pytest.raises(DataError, match="pip install"):
        Engine("numba")


def test_codes_on_a_gpu_are_counted_there():
    there = SimpleNamespace(device="cuda:1")
    assert Engine().for_device_of(there).chosen(1) == "torch"
    assert (
        Engine().for_device_of(torch.zeros(2)).chosen(1)
        == Engine().for_device_of([]).chosen(1)
        == "numpy"
    )
    assert Engine("numpy").for_device_of(there).chosen(1) == "numpy"
    assert Engine(device="cpu").for_device_of(there).chosen(1) == "numpy"


CASES = pytest.mark.parametrize(
    ("queries", "size", "nbit", "kind"),
    [
        (3, 2500, 1, "classes"),
        (3, 4097, 7, "multi_hot"),
        (2, 2048, 33, "one_hot"),
        (2, 2049, 63, "classes"),
        (3, 100, 65, "multi_hot"),
        (1, 2100, 127, "one_hot"),
        (4, 1, 64, "multi_hot"),
        (1, 1, 200, "classes"),
        (1, 2100, 300, "multi_hot"),
    ],
)


def assert_counts_of_numpy(counter, sides_):
    """In parts, with many ties: the codes are mostly zeros."""
    query, database, nbit = sides_
    parts = range(0, len(database), 1900)
    for start in parts:
        counter.add(database.take(slice(start, start + 1900)))
    expected = numpy_backend.NumpyCounter(query, nbit)
    for start in parts:
        expected.add(database.take(slice(start, start + 1900)))
    for result, reference in zip(counter.counts(), expected.counts(), strict=True):
        assert result.dtype == np.int64
        np.testing.assert_array_equal(result, reference)


def tied(queries, size, nbit, kind):
    given_ = drawn(5, queries, size, nbit, 130, kind, density=min(0.4, 3 / nbit))
    return *packed_pair(*given_), nbit


@pytest.mark.skipif(not INTERPRETED, reason="runs in the process of the next test")
@CASES
def test_triton_interpreted_counts_the_same(queries, size, nbit, kind):
    given_ = tied(queries, size, nbit, kind)
    for required in (True, False, False):
        counter = torch_backend.Triton(given_[0], nbit, torch.device("cpu"), required)
        assert_counts_of_numpy(counter, given_)
    assert torch_backend._failed == {torch.device("cpu"): ""}  # nothing else has counted


@pytest.mark.skipif(not TRITON or INTERPRETED, reason="needs triton")
def test_triton_counts_the_same_in_its_interpreter():
    """Interpreting changes triton for the whole process, so it has one of its own."""
    command = ["-m", "pytest", "-q", "-p", "no:cacheprovider", __file__, "-k", "triton_interpreted"]
    done = subprocess.run(
        [sys.executable, *command],
        env=os.environ | {"TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and "." * 9 in done.stdout, done.stdout


@pytest.mark.skipif(not TRITON, reason="triton is not installed")
def test_triton_compiles_for_a_gpu_that_is_not_there():
    """To machine code, in which the loop over bits has become one instruction."""
    from triton import compile as compiled
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from deephash.retrieval.backends import triton_kernel as kernels

    signature = dict.fromkeys(("query", "codes"), "*i32")
    signature |= dict.fromkeys(("query_marks", "marks", "totals"), "*i64")
    signature |= dict.fromkeys(("queries", "items", "tiles"), "i32")
    fixed = {"words": 2, "mark_words": 1, "single": False, "values": 65, "bins": 256, "tile": 2048}
    source = ASTSource(
        kernels._count, signature=signature | dict.fromkeys(fixed, "constexpr"), constexprs=fixed
    )
    code = compiled(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": 8})
    assert "popc.b32" in code.asm["ptx"]
    assert code.asm["cubin"]


def test_a_triton_that_fails_is_replaced_with_one_warning(monkeypatch, caplog):
    def broken(*given):
        raise RuntimeError("Failed to find C compiler.\nPlease specify")

    kernels = SimpleNamespace(MOST_BITS=1022, count=broken)
    monkeypatch.setattr(torch_backend, "load_kernels", lambda: kernels)
    monkeypatch.setattr(torch_backend, "_failed", {})
    given_ = tied(3, 2500, 64, "multi_hot")
    for _ in range(2):
        counter = torch_backend.Triton(given_[0], 64, torch.device("cpu"), required=False)
        assert_counts_of_numpy(counter, given_)
    (record,) = caplog.records
    assert record.message == (
        "Triton cannot be used on cpu, torch counts instead: "
        "RuntimeError: Failed to find C compiler."
    )
    assert torch_backend.chosen_kernel(torch.device("cpu"), 64)[0] == "bits"
    with pytest.raises(DataError, match="kernel=triton: RuntimeError: Failed to find C compiler"):
        assert_counts_of_numpy(
            torch_backend.counter(given_[0], 64, torch.device("cpu"), "triton"), given_
        )


def test_a_triton_that_works_counts_every_part(monkeypatch):
    """Also after its first launch."""
    launches = []
    kernels = SimpleNamespace(MOST_BITS=1022, count=lambda *given: launches.append(given[3]))
    monkeypatch.setattr(torch_backend, "load_kernels", lambda: kernels)
    monkeypatch.setattr(torch_backend, "_failed", {})
    query, database, nbit = tied(3, 2500, 64, "multi_hot")
    for required in (False, True, False):
        counter = torch_backend.Triton(query, nbit, torch.device("cpu"), required)
        for start in (0, 1900):
            counter.add(database.take(slice(start, start + 1900)))
        assert counter.counts()[0].sum() == 0  # only Triton has counted
    assert [marks.shape[1] for marks in launches] == [1900, 600] * 3


def test_which_kernel_counts_is_chosen_with_a_reason(monkeypatch, caplog):
    cuda = torch.device("cuda:0")
    monkeypatch.setattr(torch_backend, "_failed", {})
    monkeypatch.setattr(torch_backend, "load_kernels", lambda: SimpleNamespace(MOST_BITS=1022))
    assert torch_backend.chosen_kernel(cuda, 64)[0] == "triton"
    assert torch_backend.chosen_kernel(cuda, 2000) == ("bits", "triton counts at most 1022 bits")
    assert torch_backend.chosen_kernel(torch.device("mps"), 64)[0] == "matmul"
    torch_backend._failed[cuda] = "no compiler"
    assert torch_backend.chosen_kernel(cuda, 64) == ("bits", "triton failed: no compiler")
    monkeypatch.setattr(torch_backend, "load_kernels", lambda: None)
    assert torch_backend.chosen_kernel(cuda, 64) == ("bits", "triton cannot be imported")
    with pytest.raises(DataError, match="kernel=triton needs a triton"):
        torch_backend.counter(tied(1, 1, 8, "classes")[0], 8, cuda, "triton")
    caplog.set_level("DEBUG", "deephash")
    torch_backend.counter(tied(1, 1, 8, "classes")[0], 8, torch.device("cpu"), "auto")
    assert "kernel=bits counts 8 bits on cpu: triton needs a GPU" in caplog.text


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
@pytest.mark.parametrize("kernel", ["triton", "bits", "matmul"])
class TestCuda:
    @CASES
    def test_small_cases(self, kernel, queries, size, nbit, kind):
        given_ = tied(queries, size, nbit, kind)
        counter = torch_backend.counter(given_[0], nbit, torch.device("cuda"), kernel)
        assert_counts_of_numpy(counter, given_)

    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("nbit", [12, 64, 130, 1022])
    def test_many_items(self, kernel, nbit, kind, tmp_path):
        given_ = list(drawn(5, 60, 200_000, nbit, 70, kind))
        np.save(tmp_path / "codes.npy", given_[1])
        given_[1] = np.load(tmp_path / "codes.npy", mmap_mode="r")
        for result, expected in zip(
            Ranking(*given_, nbit, Engine("torch", device="cuda", kernel=kernel)).counts,
            Ranking(*given_, nbit, "numpy").counts,
            strict=True,
        ):
            np.testing.assert_array_equal(result, expected)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_cuda_is_counted_by_triton_where_it_is_installed():
    if not TRITON:
        pytest.skip("triton is not installed")
    given_ = tied(3, 2500, 64, "multi_hot")
    for _ in range(2):
        counter = torch_backend.counter(given_[0], 64, torch.device("cuda"), "auto")
        assert_counts_of_numpy(counter, given_)
    assert torch_backend._failed[torch.device("cuda")] == ""


def test_errors():
    with pytest.raises(DataError, match="engine='gpu' is unknown; allowed: auto, numpy"):
        Engine("gpu")
    with pytest.raises(DataError, match="threads=0"):
        Engine(threads=0)
    with pytest.raises(DataError, match="device='gpu' is unknown: try cpu or cuda"):
        Engine(device="gpu")
    with pytest.raises(DataError, match="kernel='cuda' is unknown; allowed: auto, triton"):
        Engine("torch", kernel="cuda")
    given_ = drawn(1, 2, 3, 8, 2, "classes")
    with pytest.raises(DataError, match="engine='fast'"):
        histograms(*given_, 8, "fast")


@pytest.mark.skipif(not NUMBA, reason="numba is not installed")
def test_a_numba_that_does_not_load_is_reported_once_and_replaced():
    """As when numpy is newer than it allows."""
    process = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys; sys.modules['numba.extending'] = None\n"
            "from deephash.retrieval import Engine, histograms\n"
            "import numpy as np\n"
            "print(Engine().chosen(10**9), Engine().chosen(10**9))\n"
            "codes, labels = np.zeros((1, 1), np.uint8), np.array([0])\n"
            "histograms(codes, codes, labels, labels, 8, 'numba')\n",
        ],
        capture_output=True,
        text=True,
    )
    assert process.stdout.strip() == "numpy numpy"
    assert process.stderr.count("numpy counts instead") == 1
    assert "try engine=auto" in process.stderr


@EACH
@pytest.mark.parametrize("nbit", [8, 128, 300])
def test_counters_do_not_overflow(engine, nbit):
    """More equal items than a number of 16 bits holds."""
    zeros = np.zeros((140_001, -(-nbit // 8)), dtype=np.uint8)
    labels = np.arange(140_001) % 2
    items, relevant = Ranking(zeros[:3], zeros, labels[:3], labels, nbit, engine).counts
    assert items[:, 0].tolist() == [140_001] * 3 and items.sum() == 3 * 140_001
    assert relevant[:, 0].tolist() == [70_001, 70_000, 70_001]


@EACH
def test_classes_beyond_32_bits(engine):
    """Their lower halves are equal, or what stands for no class."""
    query = np.array([5, 5 + 2**32, 2**32 - 1, 2**32 - 2, 2**63 - 1])
    codes = np.zeros((len(query), 2), dtype=np.uint8)
    for database in (query, query[:1], query[2:4]):
        counts = Ranking(codes, codes[: len(database)], query, database, 16, engine).counts
        assert counts[1][:, 0].tolist() == np.isin(query, database).astype(int).tolist()
