"""Sweeps, from the command line to their folders: skipped, resumed, refused, reported."""

import fcntl
import json
import shutil
import signal
import sys
import time

import pytest
import yaml

from deephash.sweep.launchers import process
from deephash.sweep.launchers.process import Job
from tests.commands import call, run, start
from tests.paths import ROOT

TRAIN = (sys.executable, str(ROOT / "train.py"))
GRID = ("-m", "+sweep=fig9_batch_size", "dataset=digits", "trainer.batch_size=50,100",
        "model.nbit=16", "backbone.width=8", "logger=quiet")  # fmt: skip


def reports(cwd):
    """Metrics and selection of all finished runs, by the name of the run."""
    result = [json.loads(file.read_text()) for file in (cwd / "outputs").rglob("report.json")]
    return {row["run"]: (row["metrics"], row["selection"]) for row in result}


def folders(cwd):
    return sorted((cwd / "outputs/digits/relahash/16bit").iterdir())


def epochs(folder):
    lines = (folder / "log.jsonl").read_text().splitlines()
    return [json.loads(line)["epoch"] for line in lines if '"where": "train"' in line]


def trained(folder):
    """The number of epochs in the log of a run, which may be running."""
    return (folder / "log.jsonl").read_text().count('"where": "train"')


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """A sweep of two jobs that nothing disturbed."""
    cwd = tmp_path_factory.mktemp("swept")
    output = run(cwd, *GRID, "trainer.epochs=20", "trainer.eval_every=10")
    return cwd, output


def begun(cwd, *arguments, after=None):
    """Start a sweep of two jobs; return when each has trained an epoch, more than in ``after``."""
    sweep = start(cwd, *arguments)
    until = time.monotonic() + 120
    after = after or {}
    while sum(trained(file.parent) > after.get(file.parent, 0)
              for file in (cwd / "outputs").rglob("last.pt")) < 2:  # fmt: skip
        assert sweep.poll() is None, sweep.printed()
        assert time.monotonic() < until
        time.sleep(0.02)
    return sweep


def idle(cwd, seconds=30):
    """Waits until no process trains; whether that came to pass."""
    until = time.monotonic() + seconds
    while locked := [file for file in (cwd / "outputs").rglob(".lock") if _locked(file)]:
        if time.monotonic() > until:
            return False
        time.sleep(0.05)
    return not locked


def _locked(file):
    try:
        with file.open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False


def test_output_and_files_of_a_sweep(swept):
    cwd, output = swept
    assert "2 jobs: 2 to run, 0 finished already" in output
    assert "[1/2] done" in output and "[2/2] done" in output
    assert "report: python -m deephash report sweep=fig9_batch_size\n" in output
    manifest = json.loads((cwd / "outputs/sweeps/fig9_batch_size/sweep.json").read_text())
    assert manifest["name"] == "fig9_batch_size" and manifest["source"].endswith("Fig. 9")
    assert manifest["report"]["rows"] == "trainer.batch_size"
    (small, large) = manifest["jobs"]
    assert {small["run"], large["run"]} == set(reports(cwd))
    assert small["values"] == {
        "dataset": "digits", "dataset.protocol": "per_class", "method": "relahash",
        "model.nbit": 16, "seed": 0, "trainer.batch_size": 50,
    }  # fmt: skip
    assert large["values"]["trainer.batch_size"] == 100
    settings = ["backbone.width=8", "trainer.epochs=20", "trainer.eval_every=10"]
    assert small["settings"] == settings
    for folder in folders(cwd):
        assert "outputs/digits/relahash/16bit" in (folder / "output.log").read_text()
        assert not (folder / "error.txt").exists()
        assert yaml.safe_load((folder / "config.yaml").read_text())["group"] == "fig9_batch_size"


def test_preview_tells_all_and_writes_nothing(swept, tmp_path):
    cwd, _ = swept
    line = (*GRID, "trainer.epochs=20", "trainer.eval_every=10", "preview=true")
    output = run(cwd, *line, "seed=0,1")
    assert "4 jobs: 2 finished, 2 waiting" in output
    lines = output.splitlines()
    states = [text.split()[0] for text in lines[:4]]
    assert states == ["finished", "waiting", "finished", "waiting"]  # the seed is the last axis
    assert all(str(cwd / "outputs/digits/relahash/16bit/seed") in text for text in lines[:4])
    assert "left: about" in output and "at a time" in output
    output = run(tmp_path, *line)
    assert "time left: unknown, since no job has finished" in output
    assert list(tmp_path.iterdir()) == []


def test_again_it_runs_only_what_is_missing(swept):
    cwd, _ = swept
    before = {file: file.stat().st_mtime_ns for file in (cwd / "outputs").rglob("report.json")}
    output = run(cwd, *GRID, "trainer.epochs=20", "trainer.eval_every=10")
    assert "2 jobs: 0 to run, 2 finished already" in output
    assert {f: f.stat().st_mtime_ns for f in (cwd / "outputs").rglob("report.json")} == before


def test_killed_in_the_middle_it_resumes_and_comes_to_the_same(swept, tmp_path):
    line = (*GRID, "trainer.epochs=20", "trainer.eval_every=10")
    before = {}
    for number, code in ((signal.SIGINT, 130), (signal.SIGKILL, -9)):
        sweep = begun(tmp_path, *line, after=before)
        sweep.send(number)
        status, output = sweep.wait(60)
        assert status == code, output
        assert idle(tmp_path), "jobs outlive their sweep"
        assert reports(tmp_path) == {}
        before = {folder: trained(folder) for folder in folders(tmp_path)}
        assert min(before.values()) > 0
    assert "2 jobs: 2 interrupted" in run(tmp_path, *line, "preview=true")
    run(tmp_path, *line)
    assert reports(tmp_path) == reports(swept[0])
    for folder in folders(tmp_path):
        assert "resumed after epoch" in (folder / "output.log").read_text()
        assert epochs(folder) == list(range(1, 21))  # none twice


def test_a_failing_job_is_accounted_for(tmp_path):
    line = ("-m", "model.nbit=2,16", "trainer.epochs=1", "backbone.width=4", "logger=quiet",
            "group=mine")  # fmt: skip
    output = run(tmp_path, *line, code=1)
    assert "[2/2]" in output and "FAILED" in output and "1 failed" in output
    (bad,) = (tmp_path / "outputs").rglob("error.txt")
    assert "10 classes do not fit into 2 bits" in bad.read_text().splitlines()[0]
    end = output[output.index("failed: ") :]
    assert str(bad.parent) in output and "failed: model.nbit=2" in end
    assert "10 classes do not fit into 2 bits" in end
    assert [name.split("/")[2] for name in reports(tmp_path)] == ["16bit"]
    output = run(tmp_path, *line, "preview=true")
    assert "2 jobs: 1 failed, 1 finished" in output
    output = run(tmp_path, *line, code=1)
    assert "2 jobs: 1 to run, 1 finished already" in output


def test_a_folder_with_another_configuration_stops_the_sweep_before_it_begins(swept, tmp_path):
    cwd = tmp_path
    run(cwd, *GRID, "trainer.epochs=1")
    first = folders(cwd)[0]
    values = yaml.safe_load((first / "config.yaml").read_text())
    values["optimizer"]["lr"] = 0.25
    (first / "config.yaml").write_text(yaml.safe_dump(values))
    report = (first / "report.json").read_text()
    output = run(cwd, *GRID, "trainer.epochs=1", "seed=0,1", code=2)
    assert (
        str(first) in output and "optimizer.lr: 0.25 -> 0.001" in output and "rerun=true" in output
    )
    assert len(folders(cwd)) == 2 and (first / "report.json").read_text() == report


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (("+sweep=fig9_batch_size",), f"needs -m.\n  Type: python {ROOT}/train.py -m +sweep=fig9"),
        (("-m", "+sweep=fig9"), "there is no 'fig9'.\n       There are cibhash_beta, fig7_margin"),
        (("-m", "+sweep=fig7_margin,fig8_beta"), "run one after the other"),
        (("-m", "+sweep=fig9_batch_size", "hydra/launcher=pol"), "There are"),
        (("-m", "seed=0,1", "hydra.launcher.job=2"), "hydra.launcher.job"),
        (("-m", "seed=0,1", "hydra.launcher.jobs=many"), "a whole number or null"),
        (("-m", "seed=0,1", "hydra/launcher=basic"), "There are pool, slurm and ray"),
        (("-m", "seed=0,1", "hydra/sweeper=basic"), "Type the values of an axis"),
        (("-m", "paths.outputs=a,b"), "paths.outputs  takes one value in a grid"),
        (("-m", "seed=0,1", "group=../a"), "'../a' is not a plain name"),
        (("-m", "+sweep=fig7_margin", "+sweep=fig8_beta"), "run one after the other"),
        (
            ("-m", "seed=0,1", "hydra/launcher=slurm", "hydra.launcher.partion=gpu"),
            "Did you mean hydra.launcher.partition=gpu?",
        ),
        (("-m", "seed=0,1", "--cfg", "job"), "--cfg  shows one run. Leave out -m"),
        (("-m", "seed=0,1", "-x"), "-x  is not how values are given"),
        (("-m", "loss=lmcl,cross_entropy", "method=hashnet,csq"), "of 4 jobs, such as"),
    ],
)
def test_invalid_sweeps_are_refused_and_nothing_is_written(tmp_path, line, message):
    output = run(tmp_path, *line, code=2)
    assert message in output, output
    assert list(tmp_path.iterdir()) == []


def test_a_rerun_begins_once_and_what_was_there_is_gone(swept, tmp_path):
    line = (*GRID, "trainer.epochs=20", "trainer.eval_every=10")
    shutil.copytree(swept[0] / "outputs", tmp_path / "outputs", symlinks=True)
    for file in (tmp_path / "outputs").rglob("last.pt"):
        file.unlink()  # so that `begun` sees the new ones
    sweep = begun(tmp_path, *line, "rerun=true")
    sweep.send(signal.SIGKILL)
    sweep.wait(60)
    assert idle(tmp_path) and reports(tmp_path) == {}
    run(tmp_path, *line)  # without rerun=true it goes on
    assert reports(tmp_path) == reports(swept[0])
    for folder in folders(tmp_path):
        assert epochs(folder) == list(range(1, 21))


def second_try(folder, outputs):
    settings = ("rerun=true", "model.nbit=16", "backbone.width=8", "trainer.epochs=15",
                "logger=quiet")  # fmt: skip
    command = (*TRAIN, *settings, f"paths.outputs={outputs}")
    first = Job("one", folder, command, "first")
    running = process.start_job(first)
    until = time.monotonic() + 120
    while not (folder / "last.pt").is_file() and time.monotonic() < until:
        time.sleep(0.02)
    process.stop_jobs([running])
    assert process.run_job(first) == 0
    assert "resumed after epoch" in (folder / "output.log").read_text()
    assert epochs(folder) == list(range(1, 16))
    before = (folder / "report.json").stat().st_mtime_ns
    assert process.run_job(first) == 0  # finished in this launch
    assert (folder / "report.json").stat().st_mtime_ns == before
    second = Job("one", folder, command, "second")
    assert process.run_job(second) == 0
    assert (folder / "report.json").stat().st_mtime_ns > before


def test_a_second_try_of_a_rerun_continues(tmp_path):
    """A retry or a requeue is of the same launch; another launch begins anew."""
    name = "seed0,backbone.width=8,trainer.epochs=15"
    folder = tmp_path / "outputs/digits/relahash/16bit" / name
    call(tmp_path, second_try, folder, tmp_path / "outputs")
    assert (folder / "report.json").is_file()


def is_left_to_another(job):
    assert process.run_job(job) == process.ELSEWHERE


def test_a_run_that_another_process_trains_is_left_to_it(tmp_path):
    line = ("-m", "seed=0,1", "model.nbit=16", "trainer.epochs=1", "logger=quiet")
    folder_ = tmp_path / "outputs/digits/relahash/16bit/seed0,trainer.epochs=1"
    folder_.mkdir(parents=True)
    with (folder_ / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        output = run(tmp_path, *line, code=1)
        assert "2 jobs: 1 to run, 0 finished already" in output and "FAILED" not in output
        assert "1 of 2 jobs are not finished" in output and "running" in output
        # and when it is taken between the plan and the start of the job
        outputs = f"paths.outputs={tmp_path / 'outputs'}"
        command = (*TRAIN, "seed=0", *line[2:], outputs)
        call(tmp_path, is_left_to_another, Job("busy", folder_, command))
    assert not (folder_ / "error.txt").exists()


def test_a_part_of_a_report_is_selected(swept):
    cwd, _ = swept
    output = run(cwd, "sweep=fig9_batch_size", "only={trainer.batch_size:50}", script="report")
    assert "| 50 |" in output and "| 100 |" not in output
    part = cwd / "outputs/sweeps/fig9_batch_size/only-trainer.batch_size=50"
    assert (part / "table.tex").is_file()


def test_a_sweep_of_ones_own_from_anywhere(tmp_path):
    (tmp_path / "own.yaml").write_text("params: {seed: [0, 1], trainer.epochs: 1}\n")
    output = run(tmp_path, "-m", "+sweep=own.yaml", "preview=true")
    assert "2 jobs: 2 waiting" in output


def test_two_launchers_come_to_the_same(swept, tmp_path):
    pytest.importorskip("submitit")
    line = (*GRID, "trainer.epochs=20", "trainer.eval_every=10", "hydra/launcher=slurm")
    output = run(tmp_path, *line, "hydra.launcher.cluster=local", "hydra.launcher.gpus_per_node=0")
    assert "[2/2] done" in output
    assert reports(tmp_path) == reports(swept[0])
