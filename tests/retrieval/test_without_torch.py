"""Codes in numpy are measured without the import of torch."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from deephash.retrieval.backends import Engine, numpy_backend

CODE = """
import sys
import numpy as np
from deephash.retrieval import Convention, Index, evaluate_codes

rng = np.random.default_rng(0)
labels = rng.integers(0, 4, 300)
codes = rng.normal(size=(4, 32))[labels] + rng.normal(size=(300, 32))
report = evaluate_codes(codes[:50], codes, labels[:50], labels, Convention(top=100), engine="numpy")
index = Index(nbit=32)
index.add(codes)
index.search(codes[:5], k=3)
assert "torch" not in sys.modules
print(repr(report["map"]))
"""


def test_torch_is_not_imported_and_the_numbers_are_the_same():
    source = str(Path(numpy_backend.__file__).parents[3])
    env = os.environ | {"PYTHONPATH": source}
    alone = subprocess.run(
        [sys.executable, "-c", CODE], capture_output=True, text=True, env=env, check=False
    )
    assert alone.returncode == 0, alone.stderr
    names = {}
    exec(CODE.replace('assert "torch"', 'import torch; assert "nothing"'), names)
    assert float(alone.stdout) == names["report"]["map"]


def test_values_are_counted_alike_by_numpy_and_torch(monkeypatch):
    rng = np.random.default_rng(1)
    for kind, values in ((np.uint8, 130), (np.uint16, 600), (np.uint16, 40_000)):
        key = rng.integers(0, values, 5000).astype(kind)
        torch = numpy_backend._value_counts(key, values)
        with monkeypatch.context() as patched:
            patched.delitem(sys.modules, "torch")
            np.testing.assert_array_equal(numpy_backend._value_counts(key, values), torch)


def test_threads_without_torch(monkeypatch):
    monkeypatch.delitem(sys.modules, "torch")
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert Engine().workers == 3 and Engine(threads=5).workers == 5
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert Engine().workers >= 1
