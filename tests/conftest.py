"""The environment of all tests, the same for every command that runs them.

No variable of the shell changes an outcome: threads, caches and accounts are set here, before torch
is imported. ``OMP_NUM_THREADS`` may be given to try the tests with more threads.
"""

import gc
import os
import sys
import tempfile
from pathlib import Path

import pytest

FOREIGN = ("WANDB", "HYDRA", "DEEPHASH", "SLURM", "RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_")
"""Beginnings of the variables that the program reads."""

INTEGRATION = Path(__file__).parent / "integration"
"""Whole commands and runs, all marked ``slow``."""

for name in {name for name in os.environ if name.startswith(FOREIGN)} - {"DEEPHASH_SCREENSHOTS"}:
    del os.environ[name]
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # some 40 processes would compile all modules
sys.dont_write_bytecode = False
os.environ.setdefault("OMP_NUM_THREADS", "1")  # pytest -n auto runs a process on each core
os.environ["MPLBACKEND"] = "agg"
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read once, at cuBLAS's first use

try:
    import hypothesis
except ImportError:  # the tests that need a GPU do without it
    pass
else:
    hypothesis.settings.register_profile(
        "deephash",
        deadline=None,  # an example may take long on a busy machine
        derandomize=True,  # the same examples in each run
        database=None,
        suppress_health_check=[hypothesis.HealthCheck.too_slow],
    )
    hypothesis.settings.load_profile("deephash")


gc.disable()  # until all tests are collected: nearly all objects stay


def pytest_configure():
    """Compose each command line once."""
    from tests import composition  # after the variables above

    composition.keep()


def pytest_collection_finish():
    """Exclude what was imported and collected from all further garbage collections."""
    gc.freeze()
    gc.enable()


def pytest_collection_modifyitems(items):
    """Mark what is in ``integration`` as slow, and run slow tests first: none is left for last."""
    for item in items:
        if INTEGRATION in item.path.parents:
            item.add_marker(pytest.mark.slow)
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Let a process of ``-n auto`` that has nothing to do take tests from another."""
    from xdist.scheduler import WorkStealingScheduling

    return WorkStealingScheduling(config, log)


def pytest_runtest_setup(item):
    """Skip what is marked ``gpu`` where there is no CUDA device."""
    if item.get_closest_marker("gpu") is None:
        return
    import torch

    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")


@pytest.fixture(scope="session", autouse=True)
def cache():
    """Keep decoded images out of the home folder."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["DEEPHASH_CACHE"] = folder
        yield folder
        os.environ.pop("DEEPHASH_CACHE", None)


@pytest.fixture
def without_tf32():
    """CUDA computes float32 in float32, so that it can be compared with the CPU."""
    import warnings

    import torch

    flags = (torch.backends.cuda.matmul, torch.backends.cudnn)

    def allow(*values):
        with warnings.catch_warnings():  # newer releases of torch have other names for them
            warnings.simplefilter("ignore")
            before = [flag.allow_tf32 for flag in flags]
            for flag, value in zip(flags, values, strict=True):
                flag.allow_tf32 = value
        return before

    before = allow(False, False)
    yield
    allow(*before)


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request, without_tf32):
    """Each device on which something must come out alike."""
    import torch

    return torch.device(request.param)


@pytest.fixture
def without_curves(monkeypatch):
    """Leave curves and nearest images out of the pages of runs: they take half of a short run."""
    from deephash.report.pages import run
    from tests.commands import FIGURES

    for name, nothing in FIGURES.items():
        monkeypatch.setattr(run, name, nothing)


@pytest.fixture(scope="module")
def composable():
    """The repository's configuration can be composed in the module."""
    from tests import pages

    with pages.composable():
        yield
