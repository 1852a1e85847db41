"""Loads the scripts of ``benchmarks/``, which import each other by name."""

import importlib
import json
import sys
from pathlib import Path

import pytest
import torch

from tests.paths import ROOT

FOLDER = ROOT / "benchmarks"


@pytest.fixture(scope="module")
def script():
    """Return a function that imports a script by its name."""
    before = list(sys.path)
    sys.path.insert(0, str(FOLDER))
    yield importlib.import_module
    sys.path[:] = before
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if file and "." not in name and Path(file).parent == FOLDER:
            del sys.modules[name]


@pytest.fixture
def in_process(script, bench, monkeypatch):
    """Let a benchmark measure in this process; requests and values still pass as JSON."""

    def spawn(path, request, cuda=False, **variables):
        return json.loads(json.dumps(bench.measured(json.loads(json.dumps(request)))))

    threads = torch.get_num_threads()
    monkeypatch.setattr(bench.harness, "spawn", spawn)
    yield
    torch.set_num_threads(threads)
