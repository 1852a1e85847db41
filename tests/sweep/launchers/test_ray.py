"""Jobs through a real Ray on this machine, with GPUs that exist in its books alone."""

import inspect
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from deephash.errors import ConfigError
from deephash.sweep.launchers.process import ERROR, LOG, Job
from deephash.sweep.launchers.ray import Ray
from tests.paths import ROOT


class Heard:
    """A watch that records its calls."""

    def __init__(self):
        self.started_at, self.statuses, self.ticks = [], {}, 0

    def started(self, at):
        assert at not in self.statuses
        self.started_at.append(at)

    def ended(self, at, status):
        assert at in self.started_at
        self.statuses[at] = status

    def tick(self):
        self.ticks += 1


def job(folder, name, script):
    return Job(name, folder / name, (sys.executable, "-c", script))


def test_every_option_stands_in_the_yaml_with_its_default():
    page = yaml.safe_load((ROOT / "conf/hydra/launcher/ray.yaml").read_text())
    options = inspect.signature(Ray).parameters.values()
    assert page.pop("_target_") == "deephash.sweep.launchers.ray.Ray"
    assert page == {option.name: option.default for option in options}


def test_without_ray_it_states_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"needs the package ray.*\n.*pip install ray"):
        Ray().launch([job(tmp_path, "a", "")], Heard())


def test_nothing_is_busy_after_the_launcher_is_gone(tmp_path):
    assert Ray().busy([job(tmp_path, "a", "")]) == set()


@pytest.fixture
def ray():
    return pytest.importorskip("ray")


real = pytest.mark.filterwarnings("default")  # what Ray warns of is not ours


SHARE = """
import json, os, pathlib, sys, time
out = pathlib.Path(sys.argv[1])
began = time.time()
time.sleep(1.5)
gpu, threads = os.environ["CUDA_VISIBLE_DEVICES"], os.environ["OMP_NUM_THREADS"]
out.write_text(json.dumps([gpu, threads, os.getcwd(), began, time.time()]))
"""


def share(tmp_path, monkeypatch, gpus_per_job):
    """Run four jobs on two GPUs, and return their records."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    files = [tmp_path / f"{at}.json" for at in range(4)]
    jobs = [
        Job(f"j{at}", tmp_path / f"j{at}", (sys.executable, "-c", SHARE, str(files[at])))
        for at in range(4)
    ]
    heard = Heard()
    launcher = Ray(num_gpus=2, num_cpus=4, gpus_per_job=gpus_per_job, cpus_per_job=1)
    assert launcher.slots == min(4, 2 / gpus_per_job)
    launcher.launch(jobs, heard)
    assert heard.statuses == dict.fromkeys(range(4), 0)
    assert sorted(heard.started_at) == [0, 1, 2, 3]
    assert heard.ticks >= 2
    return [json.loads(path.read_text()) for path in files]


def together(records):
    """The greatest number of jobs that one GPU had at a time."""
    return max(
        sum(a[0] == b[0] and a[3] <= b[3] < a[4] for a in records)  # a ran when b began
        for b in records
    )


@real
@pytest.mark.slow
def test_each_job_has_a_gpu_to_itself(ray, tmp_path, monkeypatch):
    records = share(tmp_path, monkeypatch, gpus_per_job=1)
    assert {gpu for gpu, *_ in records} == {"0", "1"}
    assert together(records) == 1
    assert {(threads, folder) for _, threads, folder, *_ in records} == {("1", str(Path.cwd()))}


@real
@pytest.mark.slow
def test_small_jobs_share_a_gpu(ray, tmp_path, monkeypatch):
    records = share(tmp_path, monkeypatch, gpus_per_job=0.5)
    assert {gpu for gpu, *_ in records} == {"0", "1"}
    assert together(records) == 2


@real
@pytest.mark.slow
def test_failed_and_killed_jobs_stop_no_other(ray, tmp_path):
    """The last kills its worker, Ray's process, which is its parent."""
    jobs = [
        job(tmp_path, "fails", "print('the reason'); raise SystemExit(3)"),
        job(tmp_path, "killed", "import os; os.kill(os.getpid(), 9)"),
        job(tmp_path, "fine", "import time; time.sleep(1)"),
        job(tmp_path, "orphan", "import os; os.kill(os.getppid(), 9)"),
    ]
    heard = Heard()
    Ray(num_gpus=0, num_cpus=2, gpus_per_job=0, cpus_per_job=1).launch(jobs, heard)
    assert heard.statuses == {0: 3, 1: -9, 2: 0, 3: 1}
    assert "the reason" in (jobs[0].folder / ERROR).read_text()
    assert "killed by SIGKILL" in (jobs[1].folder / ERROR).read_text()
    assert not (jobs[2].folder / ERROR).exists()
    assert "worker died" in (jobs[3].folder / ERROR).read_text()


@real
@pytest.mark.slow
def test_a_job_is_run_again_when_its_worker_died(ray, tmp_path):
    script = (
        "import os, pathlib\n"
        "been = pathlib.Path('been')\n"
        "again = been.exists()\n"
        "been.touch()\n"
        "again or os.kill(os.getppid(), 9)\n"
    ).replace("'been'", repr(str(tmp_path / "been")))
    heard = Heard()
    Ray(num_gpus=0, num_cpus=1, gpus_per_job=0, cpus_per_job=1, retries=1).launch(
        [job(tmp_path, "a", script)], heard
    )
    assert heard.statuses == {0: 0}


@real
@pytest.mark.slow
def test_a_job_with_excessive_requirements_is_refused(ray, tmp_path):
    with pytest.raises(ConfigError, match=r"gpus_per_job=1, and Ray has found 0 GPUs"):
        Ray(num_gpus=0, num_cpus=2).launch([job(tmp_path, "a", "")], Heard())


@real
def test_a_missing_cluster_is_reported(ray, tmp_path):
    with pytest.raises(ConfigError, match=r"no Ray cluster at hydra.launcher.address=auto"):
        Ray(address="auto").launch([job(tmp_path, "a", "")], Heard())


INTERRUPTED = """
import sys, pathlib
from deephash.sweep.launchers.process import Job
from deephash.sweep.launchers.ray import Ray

class Watch:
    def started(self, at): print("started", flush=True)
    def ended(self, at, status): print("ended", flush=True)
    def tick(self): pass

folder = pathlib.Path(sys.argv[1])
child = '''
import pathlib, signal, time
folder = pathlib.Path({0!r})
def stop(*_):
    (folder / "told").touch()
    raise SystemExit(130)
signal.signal(signal.SIGTERM, stop)
(folder / "ready").touch()
time.sleep(60)
'''.format(str(folder))
try:
    Ray(num_gpus=0, num_cpus=1, gpus_per_job=0, cpus_per_job=1).launch(
        [Job("a", folder / "a", (sys.executable, "-c", child))], Watch()
    )
except KeyboardInterrupt:
    print("interrupted")
"""


@pytest.mark.slow
def test_ctrl_c_stops_the_jobs(ray, tmp_path):
    launcher = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    until = time.monotonic() + 60
    while not (tmp_path / "ready").exists() and time.monotonic() < until:
        time.sleep(0.1)
    time.sleep(1)
    launcher.send_signal(signal.SIGINT)
    output, _ = launcher.communicate(timeout=60)
    assert output.split() == ["started", "interrupted"]
    assert (tmp_path / "told").exists()
    assert not (tmp_path / "a" / ERROR).exists()
    assert (tmp_path / "a" / LOG).exists()
