"""A pool with trivial commands: order and devices of jobs, and files of failures."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from deephash.errors import ConfigError
from deephash.sweep.launchers import process
from deephash.sweep.launchers.pool import Pool, visible_gpus
from deephash.sweep.launchers.process import ERROR, LOG, Job


class Seen:
    """A watch that records its calls."""

    def __init__(self):
        self.told, self.most, self.running = [], 0, set()

    def started(self, at):
        self.told.append(("started", at))
        self.running.add(at)
        self.most = max(self.most, len(self.running))

    def ended(self, at, status):
        self.told.append(("ended", at, status))
        self.running.discard(at)

    def tick(self):
        pass


@pytest.fixture
def job(tmp_path):
    def make(name, code):
        return Job(name, tmp_path / name, (sys.executable, "-c", code))

    return make


def output(job):
    """Return the output of a job without the line of its command."""
    return [line for line in (job.folder / LOG).read_text().splitlines() if line[:2] != "$ "]


def launched(pool, jobs):
    seen = Seen()
    pool.launch(jobs, seen)
    return seen, dict(it[1:] for it in seen.told if it[0] == "ended")


def test_all_run_no_more_than_slots_at_a_time(job):
    jobs = [job(f"{at}", f"import time; time.sleep(0.1); print({at})") for at in range(5)]
    seen, statuses = launched(Pool(gpus=[], jobs=2), jobs)
    assert statuses == dict.fromkeys(range(5), 0)
    assert seen.most == 2
    assert [output(job_) for job_ in jobs] == [["0"], ["1"], ["2"], ["3"], ["4"]]
    assert not any((job_.folder / ERROR).exists() for job_ in jobs)


@pytest.fixture
def gpus(monkeypatch):
    monkeypatch.setattr(
        "deephash.sweep.launchers.pool.installed_gpus", lambda: ["0", "1", "3", "7"]
    )


def test_each_gpu_has_so_many_jobs_and_each_job_sees_one(job, gpus):
    code = "import os, time; print(os.environ['CUDA_VISIBLE_DEVICES']); time.sleep(0.3)"
    jobs = [job(f"{at}", code) for at in range(4)]
    seen, _ = launched(Pool(gpus=[3, 7], jobs_per_gpu=2), jobs)
    assert seen.most == 4
    assert sorted(output(job_)[0] for job_ in jobs) == ["3", "3", "7", "7"]


def test_on_the_cpu_a_job_sees_no_gpu_and_has_its_share_of_the_cores(job, monkeypatch):
    code = (
        "import os; print(repr(os.environ['CUDA_VISIBLE_DEVICES']), os.environ['OMP_NUM_THREADS'])"
    )
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("deephash.sweep.launchers.pool.usable_cores", lambda: 8)
    first, second = job("one", code), job("two", code)
    launched(Pool(gpus=[], jobs=3), [first])
    launched(Pool(gpus=[], jobs=3, threads=5), [second])
    assert (output(first), output(second)) == (["'' 2"], ["'' 5"])
    monkeypatch.setenv("OMP_NUM_THREADS", "7")  # the user's word
    launched(Pool(gpus=[], jobs=3), [job("three", code)])
    assert output(job("three", code)) == ["'' 7"]


def test_a_job_that_fails_or_is_killed_stops_no_other_and_leaves_an_error_file(job):
    kill = "import os, signal; print('so far', flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    mine = "from pathlib import Path; Path('{}').write_text('my own words'); raise SystemExit(1)"
    jobs = [
        job("good", ""),
        job("raises", "raise RuntimeError('the reason')"),
        job("killed", kill),
        job("told", ""),
        job("last", ""),
    ]
    reporting = jobs[3] = job("told", mine.format(jobs[3].folder / ERROR))
    _, statuses = launched(Pool(gpus=[], jobs=2), jobs)
    assert statuses == {0: 0, 1: 1, 2: -9, 3: 1, 4: 0}
    accounts = [(job_.folder / ERROR).read_text() for job_ in jobs[1:4]]
    assert accounts[0].startswith("exit status 1\n") and "RuntimeError: the reason" in accounts[0]
    assert accounts[1].startswith("killed by SIGKILL") and "so far" in accounts[1]
    assert accounts[2] == "my own words"
    launched(Pool(gpus=[], jobs=1), [job("told", "")])
    assert not (reporting.folder / ERROR).exists()  # begun anew, it is no failure


def test_a_folder_that_is_impossible_or_removed_stops_no_other_job(job, tmp_path):
    (tmp_path / "file").write_text("")
    gone = "import shutil; shutil.rmtree({!r}); raise SystemExit(1)"
    jobs = [job("file", ""), job("gone", gone.format(str(tmp_path / "gone"))), job("good", "")]
    _, statuses = launched(Pool(gpus=[], jobs=1), jobs)
    assert statuses == {0: 1, 1: 1, 2: 0}
    assert (jobs[1].folder / ERROR).read_text() == "exit status 1\n"


@pytest.mark.parametrize(
    ("status", "name"), [(-15, None), (0, None), (75, None), (-40, "signal 40"), (-11, "SIGSEGV")]
)
def test_what_an_exit_status_says(job, status, name):
    failed_job = job("one", "")
    process.record_end(failed_job, status)
    assert process.failed(status) is (name is not None)
    assert (failed_job.folder / ERROR).is_file() is (name is not None)
    assert name is None or (failed_job.folder / ERROR).read_text() == f"killed by {name}\n"


def test_retries_are_for_failures_alone(job):
    jobs = [job("fails", "raise SystemExit(3)"), job("stops", "raise SystemExit(130)")]
    seen, statuses = launched(Pool(gpus=[], jobs=1, retries=2), jobs)
    assert seen.told.count(("started", 0)) == 3 and seen.told.count(("started", 1)) == 1
    assert statuses == {0: 3, 1: 130}
    assert not (jobs[1].folder / ERROR).exists()


def test_interrupted_it_stops_what_runs_and_starts_nothing_more(job):
    code = "import time\n"
    code += "try: print('re' + 'ady', flush=True); time.sleep(600)\n"
    code += "except KeyboardInterrupt: print('stop' + 'ped')"
    jobs = [job(f"{at}", HANDLED + code) for at in range(3)]

    class Interrupting(Seen):
        def tick(self):
            if all((job_.folder / LOG).exists() and "ready" in output(job_) for job_ in jobs[:2]):
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Pool(gpus=[], jobs=2).launch(jobs, Interrupting())
    assert [output(job_)[-2:] for job_ in jobs[:2]] == [["ready", "stopped"]] * 2
    assert not jobs[2].folder.exists()


HANDLED = "from deephash.sweep.launchers.process import follow_parent; follow_parent()\n"


def test_a_job_that_does_not_stop_is_killed_with_its_children():
    code = "import signal, subprocess, sys, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    code += (
        "child = subprocess.Popen(['sleep', '60']); print(child.pid, flush=True); time.sleep(60)"
    )
    running = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    child = int(running.stdout.readline())
    process.stop_jobs([running], patience=0.3)
    assert running.returncode == -signal.SIGKILL
    assert until(lambda: not alive(child))
    running.stdout.close()


def until(true, seconds=30):
    """Waits until something is so; whether it is."""
    end = time.monotonic() + seconds
    while not (so := true()) and time.monotonic() < end:
        time.sleep(0.05)
    return so


def alive(pid):
    try:
        with Path(f"/proc/{pid}/stat").open() as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the bond is Linux's")
def test_jobs_end_with_a_launcher_that_is_killed(tmp_path):
    written = tmp_path / "pid"
    job_code = HANDLED + f"import os, pathlib, time; p = pathlib.Path({str(written)!r})\n"
    job_code += (
        "p.with_suffix('.new').write_text(str(os.getpid())); p.with_suffix('.new').rename(p)"
    )
    job_code += "; time.sleep(60)"
    code = f"""
import sys
from pathlib import Path
from deephash.sweep.launchers.process import Job, run_job
run_job(Job("a", Path({str(tmp_path)!r}), (sys.executable, "-c", {job_code!r})))
"""
    launcher = subprocess.Popen([sys.executable, "-c", code])
    assert until(written.is_file)
    pid = int(written.read_text())
    assert alive(pid)
    launcher.kill()
    launcher.wait()
    assert until(lambda: not alive(pid))


def test_follow_parent_is_for_jobs_alone(monkeypatch):
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.delenv(process.PARENT, raising=False)
    assert process.follow_parent() is False
    assert signal.getsignal(signal.SIGTERM) is before


def test_which_gpus_there_are(monkeypatch, tmp_path):
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": "2,5"}) == ["2", "5"]
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": ""}) == []
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": "-1"}) == []
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 0\necho 1\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}/bin{os.pathsep}/usr/bin")
    assert visible_gpus({}) == ["0", "1"]
    tool.write_text("#!/bin/sh\nexit 9\n")
    assert visible_gpus({}) == []


@pytest.mark.parametrize("key", ["jobs", "threads", "jobs_per_gpu"])
def test_fewer_than_one_is_refused(key):
    with pytest.raises(ConfigError, match=f"hydra.launcher.{key}"):
        Pool(gpus=[], **{key: 0})


@pytest.mark.parametrize("gpus", [0, "0", "all"])
def test_gpus_are_auto_or_a_list(gpus):
    with pytest.raises(ConfigError, match=r"Type auto, or numbers: \[0,1\]"):
        Pool(gpus=gpus)


def test_gpus_that_are_not_there_are_refused(gpus):
    with pytest.raises(ConfigError, match="there is no GPU 2, 9: there are 0, 1, 3, 7"):
        Pool(gpus=[0, 2, 9])


def test_slots_of_the_machine(gpus):
    assert Pool(gpus=["0", "1"], jobs_per_gpu=3).slots == 6
    assert 1 <= Pool(gpus=[]).slots <= (os.cpu_count() or 1)
    assert Pool(gpus=[]).busy([]) == set()
