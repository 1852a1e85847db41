"""The GPU benchmark, run on the CPU with small sizes."""

import json
import logging
import subprocess
import sys
import tarfile
import time
import traceback
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hydra import compose

from tests import commands
from tests.pages import composable
from tests.paths import ROOT

TESTED = """
import pytest

@pytest.mark.gpu
def test_passes():
    pass

@pytest.mark.gpu
@pytest.mark.parametrize("word", ["a b"])
def test_fails(word):
    assert word == "c"

@pytest.mark.gpu
@pytest.mark.skip(reason="not here")
def test_is_skipped():
    pass

def test_is_not_run():
    raise SystemExit
"""


@pytest.fixture(scope="module")
def modules(script):
    """Return gpu and the modules that it imports."""
    names = ("gpu", "gpu_parts", "gpu_table", "harness", "workloads")
    return SimpleNamespace(**{name: script(name) for name in names})


@pytest.fixture
def bench(modules):
    return modules.gpu


@pytest.fixture
def parts(modules):
    return modules.gpu_parts


@pytest.fixture
def in_process(modules, monkeypatch):
    """Run parts in this process, and commands in forks of a server that has imported everything.

    This process computes gradients, and torch computes none in forks of such a process.
    """
    gpu, parts = modules.gpu, modules.gpu_parts

    def spawn(request, log, changed):
        try:
            gpu.child(json.loads(json.dumps(request)))
        except SystemExit as stop:
            return stop.code, ""
        except Exception:
            return 1, traceback.format_exc()
        finally:
            changed()
        return 0, ""

    def call(request, arguments, seconds):
        name, *rest = arguments
        script = {"train": "train.py", "data": "data"}[name]
        began = time.perf_counter()
        commands.run(Path(request["scratch"]), *rest, script=script, seconds=seconds)
        return time.perf_counter() - began

    threads = torch.get_num_threads()
    monkeypatch.setattr(gpu, "spawn", spawn)
    monkeypatch.setattr(parts, "call", call)
    yield
    torch.set_num_threads(threads)


def run(bench, out, *more):
    status = bench.main(["--out", str(out), "--device", "cpu", "--tiny", *more])
    result = json.loads((out / "gpu.json").read_text())
    assert (out / "gpu.md").read_text() == bench.markdown(result)
    return status, result


def test_all_parts_run_on_the_cpu(bench, parts, in_process, tmp_path, capsys):
    fill = torch.utils.deterministic.fill_uninitialized_memory
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_it.py").write_text(TESTED)
    status, result = run(bench, tmp_path / "out", "--seconds", "900", "--tests",
                         str(tmp_path / "tests"))  # fmt: skip
    assert status == 0
    assert list(result["parts"]) == list(bench.SHARES)
    assert {part["status"] for part in result["parts"].values()} == {"done"}
    cells = {name: part["cells"] for name, part in result["parts"].items()}
    failed = [(name, cell) for part in cells.values() for name, cell in part.items()
              if "failed" in cell]  # fmt: skip
    assert failed == []

    (tests,) = cells["tests"].values()
    assert (tests["passed"], tests["failed_tests"], tests["skipped_tests"]) == (1, 1, 1)
    assert tests["failures"]["::test_fails[a b]"] == "AssertionError: assert 'a b' == 'c'"
    assert tests["interrupted"] is None

    step = cells["steps"]["tiny | as train.py | 4"]
    assert step["train"] > 0
    assert step["encode"] > 0
    assert step["first"] > 0
    assert cells["steps"]["tiny | tf32 | 4"] == {
        "skipped": "only on a CUDA device", "took": pytest.approx(0, abs=5)}  # fmt: skip
    assert cells["steps"]["loop | train | field"]["rate"] > 0
    assert cells["steps"]["profile | as train.py"]["operators"] > 100

    assert cells["run"]["images"]["count"] == 140
    assert cells["run"]["images"]["decoding"] > 0
    long = cells["run"]["run"]
    assert [epoch for epoch, _ in long["curve"]] == [1, 2]
    assert long["finished"]
    assert long["epoch"] > 0
    assert long["encoding"] > 0
    assert long["retrieval"] > 0
    several = cells["run"]["jobs at once"]
    assert several["jobs"] == 2
    assert several["table2_beta"]["jobs"] == 40

    counted = {name: cell["equal"] for name, cell in cells["retrieval"].items() if "equal" in cell}
    assert counted == dict.fromkeys(("W1", "W2", "W3", "10M"), True)
    for name, cell in cells["label-free"].items():
        assert name.endswith(" | tiny | 4")
        assert cell["train"] > 0
        assert cell["views"] > 0
    assert "cibhash | tiny | 4" in cells["label-free"]

    printed = capsys.readouterr().out
    assert "**Not measured on CUDA**: a rehearsal on the CPU" in printed
    for text in ("1 passed, 1 failed, 1 skipped", "| tiny | 4 |", "loop with its data",
                 "mAP@all on the queries", "2 jobs at once", "| W3 | 20 × 300 |",
                 "| cibhash | tiny | 4 | 2 |"):  # fmt: skip
        assert text in printed
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.utils.deterministic.fill_uninitialized_memory == fill


def test_a_part_that_fails_does_not_stop_the_others(bench, in_process, tmp_path, capsys):
    status, result = run(bench, tmp_path, "--only", "retrieval", "label-free", "--fail",
                         "retrieval")  # fmt: skip
    assert status == 1
    failed = result["parts"]["retrieval"]
    assert failed["status"] == "failed: RuntimeError: made to fail"
    assert failed["error"][-1] == "RuntimeError: made to fail"
    assert result["parts"]["label-free"]["status"] == "done"
    assert "| retrieval | failed: RuntimeError: made to fail |" in capsys.readouterr().out


def test_a_budget_that_is_too_small_skips_and_names(bench, in_process, tmp_path, capsys):
    status, result = run(bench, tmp_path, "--seconds", "0.05", "--only", "steps", "run")
    assert status == 0
    printed = capsys.readouterr().out
    for name in ("steps", "run"):
        assert result["parts"][name]["status"].startswith("skipped: 0 s are left for it, it needs")
        assert f"| {name} | skipped: 0 s are left for it, it needs" in printed


def test_a_part_in_a_process_of_its_own(bench, tmp_path):
    status, result = run(bench, tmp_path, "--only", "label-free")
    assert status == 0
    assert result["parts"]["label-free"]["status"] == "done"
    assert "label-free: cibhash | tiny | 4" in (tmp_path / "label-free.log").read_text()


@pytest.fixture
def base(tmp_path):
    return {"device": "cpu", "tiny": True, "scratch": str(tmp_path), "data": None,
            "weights": None, "tests": None, "fail": None}  # fmt: skip


def test_a_process_that_dies_costs_the_cell_that_ran(bench, parts, base, tmp_path, monkeypatch):
    runs = []

    def spawn(request, log, changed):
        file = Path(request["results"])
        results = bench.read_results(file)
        runs.append(dict(results["cells"]))
        assert results["current"] is None
        if len(runs) == 1:
            file.write_text(json.dumps({"cells": {"a": {"x": 1}}, "current": "b"}))
            return -11, "Fatal Python error: Segmentation fault"
        if len(runs) == 2:
            file.write_text(json.dumps(results | {"current": None}))
            return bench.AGAIN, ""  # its device was lost
        results["cells"]["c"] = {"x": 3}
        file.write_text(json.dumps(results | {"complete": True}))
        return 0, ""

    monkeypatch.setattr(bench, "spawn", spawn)
    found = bench.run_part("steps", base, 10, tmp_path / "log", lambda state: None)
    assert found["status"] == "done"
    assert len(runs) == 3
    assert found["cells"]["b"]["failed"] == "the process ended with -11"
    assert list(found["cells"]) == ["a", "b", "c"]
    assert list(runs[1]) == ["a", "b"]


def test_a_part_that_does_not_end_keeps_its_results(bench, base, tmp_path, monkeypatch):
    def spawn(request, log, changed):
        file = Path(request["results"])
        file.write_text(json.dumps({"cells": {"a": {"x": 1}}, "current": "b"}))
        return None, ""

    monkeypatch.setattr(bench, "spawn", spawn)
    found = bench.run_part("steps", base, 10, tmp_path / "log", lambda state: None)
    assert found["status"] == "stopped after 10 s"
    assert found["cells"]["a"] == {"x": 1}
    assert "stopped" in found["cells"]["b"]["failed"]


def test_tests_that_do_not_end_are_stopped_and_named(bench, base, tmp_path):
    """The part itself, in a process of its own, stops pytest and its children."""
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_it.py").write_text(
        "import time\nimport pytest\n"
        "@pytest.mark.gpu\ndef test_ends():\n    pass\n"
        "@pytest.mark.gpu\ndef test_hangs():\n    time.sleep(60)\n"
    )
    base["tests"] = str(tmp_path / "tests")
    found = bench.run_part("tests", base, 8, tmp_path / "log", lambda state: None)
    assert found["status"] == "done"
    assert found["seconds"] < 30
    (cell,) = found["cells"].values()
    assert cell["status"] is None
    assert (cell["interrupted"], cell["passed"]) in (
        ("::test_hangs", 1), ("before the first test", 0))  # fmt: skip


def test_cells_skip_fail_and_go_on(parts, tmp_path):
    file = tmp_path / "results.json"
    request = {"results": str(file), "tiny": False, "device": "cpu", "part": "steps",
               "until": time.time() + 30}  # fmt: skip
    calls = []

    def fails():
        raise ValueError("first line\nsecond line")

    def hangs():
        time.sleep(10)

    def not_here():
        raise parts.NotAvailable("only elsewhere")

    cells = [
        parts.Cell("long", 60, lambda: calls.append("long") or {}),
        parts.Cell("fails", 1, fails),
        parts.Cell("hangs", 1, hangs, limit=0.05),
        parts.Cell("not here", 1, not_here),
        parts.Cell("works", 1, lambda: calls.append("works") or {"x": 1}),
    ]
    parts.run_cells(cells, request)
    found = parts.read_results(file)
    assert found["complete"]
    assert found["current"] is None
    assert calls == ["works"]
    assert found["cells"]["long"]["skipped"].startswith("needs about 60 s, 2")
    assert found["cells"]["fails"]["failed"] == "ValueError: first line"
    assert found["cells"]["fails"]["traceback"][-1] == "second line"
    assert found["cells"]["hangs"]["failed"].startswith("TimeoutError: given up after")
    assert found["cells"]["not here"]["skipped"] == "only elsewhere"
    assert found["cells"]["works"]["x"] == 1
    parts.run_cells(cells, request)
    assert calls == ["works"]  # nothing is measured twice


def test_files_with_tests_for_a_gpu(parts):
    chosen = {
        path.name for path in (ROOT / "tests").rglob("test_*.py") if parts.has_gpu_tests(path)
    }
    assert {"test_devices.py", "test_cuda_graphs.py", "test_backends.py"} <= chosen
    assert not {"test_progress.py", "test_published.py"} & chosen


def test_incomplete_output_of_pytest_is_read(parts):
    text = (
        "tests/a.py::test_x[a b] PASSED                 [ 25%]\n"
        "tests/a.py::test_y FAILED                      [ 50%]\n"
        "tests/b.py::test_z "
    )
    found = parts.read_pytest(text)
    assert (found["passed"], found["failed_tests"], found["interrupted"]) == (
        1, 1, "tests/b.py::test_z")  # fmt: skip
    text += (
        "SKIPPED [100%]\nFAILED tests/a.py::test_y - ValueError: 3\n"
        "ERROR tests/c.py - ModuleNotFoundError: No module named 'x'\n"
        "= 1 failed, 1 passed, 1 skipped, 1 error in 3.21s =\n"
    )
    found = parts.read_pytest(text)
    assert found["interrupted"] is None
    assert found["skipped_tests"] == 1
    assert found["failures"] == {
        "a.py::test_y": "ValueError: 3", "c.py": "ModuleNotFoundError: No module named 'x'",
    }  # fmt: skip


def test_output_of_several_workers_is_read(parts):
    text = (
        "tests/a.py::test_x[a b] \ntests/a.py::test_y \n"
        "[gw1] [ 33%] FAILED tests/a.py::test_y \ntests/b.py::test_z \n"
        "[gw0] [ 66%] PASSED tests/a.py::test_x[a b] \n"
    )
    result = parts.read_pytest(text)
    assert (result["passed"], result["failed_tests"], result["interrupted"]) == (
        1, 1, "tests/b.py::test_z")  # fmt: skip
    text += "[gw1] [100%] PASSED tests/b.py::test_z \n= 1 failed, 2 passed in 3.21s =\n"
    assert (parts.read_pytest(text)["passed"], parts.read_pytest(text)["interrupted"]) == (2, None)


def test_a_command_is_stopped_with_its_children(parts, tmp_path):
    (tmp_path / "child").write_text("")
    code = (
        "import subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        "open('child', 'w').write(str(child.pid))\n"
        "time.sleep(60)\n"
    )
    log = tmp_path / "log"
    assert parts.run_logged([sys.executable, "-c", code], log, 3, {}, tmp_path) is None
    if number := (tmp_path / "child").read_text():  # a machine may be too busy to begin it
        status, until = Path(f"/proc/{number}/status"), time.monotonic() + 10
        while status.exists() and "State:\tZ" not in status.read_text():
            assert time.monotonic() < until
            time.sleep(0.05)
    assert parts.run_logged([sys.executable, "-c", "print(3)"], log, 60, {}, tmp_path) == 0
    assert log.read_text() == "3\n"


def test_a_profile_of_a_cuda_device_is_read(modules):
    """The events have the form of torch's profiler: runtime calls, operators, kernels, marks."""
    from torch.autograd import DeviceType

    def row(key, count, kind, time=0.0):
        return SimpleNamespace(key=key, count=count, device_type=kind, is_user_annotation=False,
                               self_device_time_total=time, self_cpu_time_total=1.0)  # fmt: skip

    def event(name, start, end):
        span = SimpleNamespace(start=start, end=end)
        return SimpleNamespace(name=name, device_type=DeviceType.CUDA, time_range=span,
                               is_user_annotation=False)  # fmt: skip

    cpu, cuda = DeviceType.CPU, DeviceType.CUDA
    rows = [
        row("aten::add", 40, cpu), row("cudaLaunchKernel", 100, cpu),
        row("cuLaunchKernelEx", 20, cpu), row("cudaGraphLaunch", 2, cpu),
        row("cudaMemcpyAsync", 6, cpu), row("cudaMemsetAsync", 4, cpu),
        row("cudaStreamSynchronize", 2, cpu), row("kernel_a", 60, cuda, 300.0),
        row("Memcpy HtoD (Pinned -> Device)", 6, cuda, 100.0),
        row("Optimizer.step#Adam.step", 2, cuda, 900.0),
    ]  # fmt: skip
    events = [event("kernel_a", 0, 300), event("kernel_a", 200, 400),
              event("Optimizer.step#Adam.step", 0, 900)]  # fmt: skip
    seen = SimpleNamespace(key_averages=lambda: rows, events=lambda: events)
    found = modules.workloads.read_profile(seen, {"steps": 2, "wall": 0.001}, True)
    assert found["calls"] == {"kernels": 60, "graphs": 1, "copies": 3, "fills": 2, "waits": 1}
    assert found["operators"] == 20
    assert found["busy"] == pytest.approx(0.4)
    assert found["device_ms"] == pytest.approx(0.2)
    assert found["top"] == [("kernel_a", 30, 0.75), ("Memcpy HtoD (Pinned -> Device)", 3, 0.25)]
    events.clear()
    with pytest.raises(RuntimeError, match="recorded no kernel"):
        modules.workloads.read_profile(seen, {"steps": 2, "wall": 0.001}, True)


def test_a_card_is_described_by_its_driver(modules, monkeypatch):
    line = "NVIDIA A100-SXM4-80GB, 550.54.15, 81920 MiB, 1410 MHz\n"
    monkeypatch.setattr(modules.harness, "output", lambda *command: line)
    assert modules.harness.card() == {
        "card": "NVIDIA A100-SXM4-80GB", "driver": "550.54.15", "memory": "81920 MiB",
        "clock": "1410 MHz",
    }  # fmt: skip


def test_a_graph_that_is_not_replayed_is_a_failure(parts):
    log = logging.getLogger("deephash.training")
    with parts.collect_warnings() as notes:
        log.warning("trainer.graph: the step is not replayed as a graph, because of this")
        log.warning("something else")
        log.warning("something else")
    assert len(notes["notes"]) == 2
    with pytest.raises(RuntimeError, match="because of this"):
        parts.refuse_eager({"graph": True}, notes)
    parts.refuse_eager({"graph": False}, notes)
    parts.refuse_eager({"graph": True}, {"notes": ["something else"]})
    parts.refuse_eager({"graph": True}, {})


@pytest.fixture
def archive(parts, tmp_path):
    """Return a small archive of JPEG files in the folders of CIFAR-10."""
    parts.draw_images(tmp_path / "drawn", 14)
    path = tmp_path / "images.tar.xz"
    with tarfile.open(path, "w:xz") as file:
        for part in ("train", "test"):
            file.add(tmp_path / "drawn" / part, part)
    return path


@pytest.mark.parametrize("with_tar", [True, False])
def test_an_archive_is_unpacked_with_and_without_the_command(
    parts, archive, tmp_path, monkeypatch, with_tar
):
    def missing(*arguments, **settings):
        raise FileNotFoundError("tar")

    if not with_tar:
        monkeypatch.setattr(subprocess, "run", missing)
    parts.unpack(archive, tmp_path / "unpacked")
    drawn, unpacked = (
        {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*.jpg")}
        for folder in (tmp_path / "drawn", tmp_path / "unpacked")
    )
    assert unpacked == drawn
    assert len(drawn) == 140
    assert parts.folder_of_images(tmp_path / "unpacked") == tmp_path / "unpacked"


def test_images_of_an_archive_are_prepared(parts, in_process, base, archive, tmp_path, monkeypatch):
    commands, call = [], parts.call

    def recorded(request, arguments, seconds):
        commands.append(arguments)
        return call(request, arguments, seconds)

    monkeypatch.setattr(parts, "call", recorded)
    base |= {"data": str(archive), "until": time.time() + 60}
    images = parts.Run(base).images()
    assert images["root"] == str(tmp_path / "images")
    assert not images["made_up"]
    (command,) = commands
    assert command[:2] == ["data", "prepare"]
    assert f"dataset.root={images['root']}" in command


def test_the_full_run_prepares_the_protocol_of_the_paper(parts, base, tmp_path, monkeypatch):

    commands = []
    monkeypatch.setattr(
        parts, "call", lambda request, arguments, seconds: commands.append(arguments)
    )
    for part in ("train", "test"):
        (tmp_path / "data" / part).mkdir(parents=True)
    base |= {"data": str(tmp_path / "data"), "tiny": False, "until": time.time() + 60}
    parts.Run(base).images()
    ((_, _, *words),) = commands
    with composable():
        dataset = compose("data", overrides=words).dataset
    assert dataset.protocol == "59k"
    assert dataset.expected["59k"].num_train == 5_000
    assert dataset.size == 224
    assert not dataset.source.download


def test_busy_time_is_a_union(modules):
    assert modules.workloads.union_length([]) == 0
    assert modules.workloads.union_length([(0, 4), (1, 2), (3, 5), (7, 8)]) == 6


def test_as_many_epochs_as_fit(parts):
    one = {"begins": 10, "epoch": 2, "evaluation": 4}
    assert parts.plan_epochs(one, 1_000) == (100, 10)
    epochs, every = parts.plan_epochs(one, 100)
    assert 1.1 * (10 + 2 * epochs + 4 * (-(-epochs // every) + 1)) <= 100
    assert (epochs, every) == (28, 6)
    assert parts.plan_epochs(one, 10) == (0, 1)


def test_what_the_table_of_a_paper_costs(parts):
    one = {"seconds": 20, "begins": 5, "epoch": 1, "evaluation": 1}
    cost = parts.cost_of_table(one, jobs=4, seconds=40)
    assert cost["hours_alone"] == pytest.approx(40 * (5 + 25 * 2 + 1) / 3600)
    assert cost["hours"] == pytest.approx(cost["hours_alone"] / 2)


def test_parts_that_are_stopped_late_stay_in_the_budget(bench, tmp_path, monkeypatch):
    """Stopping a part takes time in addition to its share."""
    clock, shares = [1_000.0], []

    def run_part(name, base, seconds, log, changed):
        shares.append(seconds)
        clock[0] += seconds + 2 * bench.PATIENCE
        return {"status": "done", "cells": {}, "seconds": seconds}

    monkeypatch.setattr(bench, "time", SimpleNamespace(time=lambda: clock[0]))
    monkeypatch.setattr(bench, "run_part", run_part)
    for seconds in (120, 480):
        clock[0] = 1_000.0
        bench.main(["--out", str(tmp_path), "--device", "cpu", "--seconds", str(seconds)])
        assert clock[0] - 1_000 < seconds
    assert len(shares) > 4


@pytest.mark.parametrize("engine", ["numba", "numpy"])
def test_map_is_timed_after_the_engine_of_the_cpu_has_counted(parts, base, monkeypatch, engine):
    """Numba computes mAP only once it has counted in the process."""
    from deephash import retrieval
    from deephash.errors import DataError

    events = []
    count, mean_average_precision = parts.count, retrieval.mean_average_precision

    def counted(load, by):
        if by.name == "numba" and engine == "numpy":
            raise DataError("numba is not installed")
        events.append(by.name)
        return count(load, by if by.name != "numba" else retrieval.Engine("numpy"))

    def timed(*arguments):
        events.append("map")
        return mean_average_precision(*arguments)

    monkeypatch.setattr(parts, "count", counted)
    monkeypatch.setattr(retrieval, "mean_average_precision", timed)
    found = parts.measure_retrieval(base, "W1", 4, 50)
    warm = ["torch", "numba"] if engine == "numba" else ["torch"]
    assert events == [*warm, "torch", "map", "map", engine]
    assert found["equal"]
    assert found["cpu"].startswith(engine)


def test_shares_of_what_is_left(bench):
    assert sum(bench.SHARES.values()) == pytest.approx(1)
    names = list(bench.SHARES)
    assert bench.share(names, 480) == pytest.approx(480 * bench.SHARES["tests"])
    assert bench.share(names[-1:], 30) == pytest.approx(30)


@pytest.fixture
def whole(modules, parts):
    """Return a result of a GPU on which everything was measured."""
    request = {"tiny": False, "device": "cuda"}
    steps = {}
    for cell in parts.cells_of_steps(request):
        kind = cell.name.split(" | ")[0]
        steps[cell.name] = {
            "profile": {"ms": 5.4321, "operators": 1234.0, "busy": 0.4321,
                        "device_ms": 1.23,
                        "calls": dict.fromkeys(modules.workloads.LAUNCHES, 321.0),
                        "top": [("void at::native::vectorized_elementwise" * 2, 12, 0.1)] * 8},
            "loop": {"rate": 12345.6},
        }.get(kind, {"train": 12345.6, "encode": 123456.7, "first": 1.2})  # fmt: skip
    counted = {"queries": 1_000, "items": 10_000_000, "nbit": 64, "seconds": 0.123,
               "cpu_seconds": 1.23, "cpu": "numba, 16 threads", "equal": True, "map_seconds": 0.01,
               "bytes": 10**8}  # fmt: skip
    job = {"curve": [(epoch, 0.8) for epoch in range(10)], "finished": True, "begins": 9,
           "epoch": 2, "encoding": 3, "retrieval": 0.1, "rate": 2000, "map": 0.8,
           "seconds": 20}  # fmt: skip
    cells = {
        "tests": {"pytest": {"passed": 90, "failed_tests": 20, "skipped_tests": 0,
                             "interrupted": None,
                             "failures": {f"test_{n}.py": "x" * 160 for n in range(20)}}},
        "steps": steps,
        "run": {"one job": job, "run": job | {"epochs": 50}, "jobs at once": {
            "jobs": 4, "seconds": 40, "per_hour": 360, "per_hour_alone": 180, "gain": 2,
            "table2_beta": {"jobs": 40, "epochs": 25, "hours": 1, "hours_alone": 2}}},
        "retrieval": {"bandwidth": {"bytes_per_second": 3e12, "multiprocessors": 132}, "field": {
            "queries": 100, "work": "W1", "seconds": 9}} | dict.fromkeys(("W1", "W2"), counted),
    }  # fmt: skip
    return {
        "schema": 1, "command": "python benchmarks/gpu.py --out DIR", "tiny": False, "data": True,
        "weights": True, "budget": 480, "seconds": 470,
        "machine": {"device": "cuda", "card": "A card", "driver": "580.1", "cuda": "13.0",
                    "clock": "1980 MHz",
                    "cpu": "A CPU", "cores": 16, "python": "3.12", "torch": "2.11",
                    "commit": "abc"},
        "parts": {name: {"status": "done", "seconds": 1, "cells": part}
                  for name, part in cells.items()},
    }  # fmt: skip


def test_the_printed_table_is_limited(modules, whole):
    whole["parts"]["steps"]["cells"]["squeezenet1_0 | graph | 16"]["notes"] = ["slow", "late"]
    text = modules.gpu_table.markdown(whole)
    for note in ("slow", "late"):
        assert f"- squeezenet1_0 graph 16: {note}\n" in text
    assert "A card, driver 580.1, CUDA 13.0" in text
    assert "Not measured" not in text
    assert "90 passed, 20 failed" in text
    assert "resnet50" in text
    assert "2.00 times" in text
    assert len(modules.gpu_table.shortened(text)) < 12_000
    assert "| squeezenet1_0 | 16 | 12,346 |" in text
    assert "| 0.123 | 8.1e+10 | 0.03% | 25.7 | 1.23 |" in text  # 0.123 s of 4.78 ms
    long = modules.gpu_table.shortened("line\n" * 10_000)
    assert len(long) <= modules.gpu_table.LIMIT
    assert long.endswith("(the rest is in gpu.md)\n")


def test_a_result_goes_into_the_page(bench, modules, whole, tmp_path):
    page, file = tmp_path / "results.md", tmp_path / "gpu.json"
    before = (ROOT / "docs" / "results.md").read_text()
    page.write_text(before)
    file.write_text(json.dumps(whole))
    assert bench.main(["--record", str(file), "--page", str(page)]) == 0
    once = page.read_text()
    assert "A card, driver 580.1" in once
    assert once.count("gpu: begin") == 1
    head = before.partition("<!-- gpu: begin -->")[0]
    assert once.startswith(head)
    assert once.rstrip().endswith("<!-- gpu: end -->")
    assert bench.main(["--record", str(file), "--page", str(page)]) == 0
    assert page.read_text() == once
    page.write_text("no markers")
    with pytest.raises(SystemExit, match="has no lines"):
        bench.main(["--record", str(file), "--page", str(page)])
    file.write_text("{}")
    with pytest.raises(SystemExit, match="is no result"):
        bench.main(["--record", str(file), "--page", str(page)])


def test_wrong_command_lines_are_refused(bench, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for words, message in (
        (["--out", "x", "--device", "cuda"], "there is no CUDA device"),
        ([], "--out is required"),
        (["--out", "x", "--data", str(tmp_path / "none")], "does not exist"),
    ):
        with pytest.raises(SystemExit):
            bench.main(words)
        assert message in capsys.readouterr().err
