"""The benchmark of search engines, on small sizes."""

import json

import numpy as np
import pytest


@pytest.fixture(scope="module")
def bench(script):
    return script("search")


def test_it_compares_engines_on_codes_of_a_run(bench, in_process, tmp_path, capsys, monkeypatch):
    rng = np.random.default_rng(0)
    folder = tmp_path / "sdc" / "16bit" / "seed0"
    folder.mkdir(parents=True)
    codes = rng.integers(0, 256, (300, 2), dtype=np.uint8)
    np.savez(folder / "codes.npz", nbit=16, database_codes=codes, query_codes=codes[:20])
    output = tmp_path / "measured.json"
    words = ["--codes", str(folder), "--items", "500", "--engines", "exact", "milvus"]
    monkeypatch.setitem(
        bench.CONTENDERS, "milvus", bench.Contender("milvus", needs=("no_such_package",))
    )
    status = bench.main([*words, "--json", str(output), "--figure", str(tmp_path)])
    printed = capsys.readouterr().out
    assert status == 0 and "sdc, 16 bits, repeated, flip 0.01: 500 items" in printed
    assert "- milvus: no_such_package is not installed" in printed
    (measured,) = json.loads(output.read_text())["sets"]
    (values,) = measured["engines"]["exact"]
    assert values["results"][0]["recall"] == 1
    assert (tmp_path / "engines.svg").is_file() and (tmp_path / "engines.png").is_file()


def test_codes_are_clustered_and_counted(bench):
    codes = bench.drawn(400, 10, 24, flip=0.0, seed=1)
    assert codes.distinct == len(np.unique(codes.database, axis=0)) <= bench.CENTERS
    assert codes.queries.shape == (10, 3)
    more = bench.drawn(400, 10, 24, flip=0.1, seed=1)
    assert more.distinct == len(np.unique(more.database, axis=0)) > 300
