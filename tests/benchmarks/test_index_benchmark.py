"""The benchmark of the code store, on a small store."""

import pytest

from deephash.search.store import CodeStore


@pytest.fixture(scope="module")
def bench(script):
    return script("index")


@pytest.fixture(scope="module")
def request_(bench, tmp_path_factory):
    """A request with a built store."""
    folder = tmp_path_factory.mktemp("index") / "store"
    values = {"folder": str(folder), "codes": 3000, "nbit": 64, "flip": 0.02}
    assert bench.build(values)["size"] > 3000 * 32
    return values | {"queries": 20, "drawn": 30, "least": 10, "threads": 1, "seconds": 0.05}


def test_contenders_find_the_same_distances(bench, request_):
    pytest.importorskip("numba")
    results = [bench.search(request_ | {"backend": name}) for name in ("numpy", "numba", "limit")]
    assert results[0]["sum"] == results[1]["sum"] > 0
    assert all(result["many"]["wall"] > 0 for result in results)


def test_what_is_added_is_removed_again(bench, request_):
    assert bench.use(request_)["first add"]["wall"] > 0
    assert bench.write(request_)["commits"] > 0
    assert len(CodeStore.open(request_["folder"])) == 3000
