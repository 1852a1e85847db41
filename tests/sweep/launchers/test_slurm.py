"""Jobs through submitit: its local executor, and a stand-in for SLURM's commands."""

import inspect
import itertools
import json
import os
import signal
import stat
import subprocess
import sys
import time

import pytest
import yaml

from deephash.errors import ConfigError
from deephash.sweep.launchers import process, slurm, submitted
from deephash.sweep.launchers.process import ERROR, LOG, Job
from deephash.sweep.launchers.slurm import Slurm
from deephash.sweep.launchers.submitted import MARK, SubmittedRun
from tests.paths import ROOT

SLURM = """#!{python}
'''sbatch, srun, squeue, sacct, scontrol and scancel of a machine that calls itself a cluster.

Each job is a process here; DIR holds what was submitted, and the pid of what runs.
'''
import os, pathlib, signal, subprocess, sys
DIR = pathlib.Path({folder!r})
name, arguments = pathlib.Path(sys.argv[0]).name, sys.argv[1:]

def start(job):
    script = (DIR / "script").read_text()
    number, _, task = job.partition("_")
    env = dict(os.environ, SLURM_JOB_ID=number, SLURM_PROCID="0", SLURM_NTASKS="1")
    if task:
        env |= dict(SLURM_ARRAY_JOB_ID=number, SLURM_ARRAY_TASK_ID=task)
    nowhere = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
    child = subprocess.Popen(["bash", "-c", script], env=env, start_new_session=True, **nowhere)
    (DIR / ("job" + job)).write_text(str(child.pid))

def alive(file):
    state = pathlib.Path("/proc", file.read_text(), "stat")
    return state.exists() and state.read_text().rpartition(")")[2].split()[0] != "Z"

if name == "sbatch":
    if (DIR / "full").exists():
        sys.exit("sbatch: error: Batch job submission failed: Invalid partition name specified")
    script = pathlib.Path(arguments[0]).read_text()
    (DIR / "script").write_text(script)
    array = [line for line in script.splitlines() if line.startswith("#SBATCH --array=0-")]
    last = array[0].removeprefix("#SBATCH --array=0-").partition("%")[0] if array else None
    jobs = ["77_%d" % at for at in range(int(last) + 1)] if array else ["77"]
    if not (DIR / "hold").exists():
        for job in jobs:
            start(job)
    print("Submitted batch job 77")
elif name == "srun":
    command = arguments[arguments.index({python!r}) :]
    job = os.environ["SLURM_JOB_ID"] + "_" + os.environ.get("SLURM_ARRAY_TASK_ID", "")
    if "%A_%a_%t_log.out" not in " ".join(arguments) and "%j_%t_log.out" not in " ".join(arguments):
        sys.exit("where to?")
    log = next(a for a in arguments if a.endswith("log.out"))
    for mark, value in (("%A_%a", job), ("%j", job.rstrip("_")), ("%t", "0")):
        log = log.replace(mark, value)
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(out, 1)
    os.dup2(out, 2)
    (DIR / ("job" + job.rstrip("_"))).write_text(str(os.getpid()))
    os.execv(command[0], command)
elif name == "squeue":
    if (DIR / "mute").exists():
        sys.exit("slurm_load_jobs error: Unable to contact slurm controller")
    held = (DIR / "hold").read_text().split() if (DIR / "hold").exists() else []
    print(*held, *(file.name[3:] for file in DIR.glob("job*") if alive(file)), sep="\\n")
elif name == "sacct":
    print("JobID|State|NodeList")
    for file in DIR.glob("state*"):
        print(file.name[5:] + "|" + file.read_text() + "|here")
elif name == "scontrol":
    (DIR / "requeued").touch()
    start(arguments[1])
"""


class Heard:
    """A watch that records its calls."""

    def __init__(self):
        self.started_at, self.statuses, self.ticks = [], {}, 0

    def started(self, at):
        self.started_at.append(at)

    def ended(self, at, status):
        self.statuses[at] = status

    def tick(self):
        self.ticks += 1


def job(folder, name, script):
    return Job(name, folder / name, (sys.executable, "-c", script))


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """A folder with the state of the stand-in, whose commands are on the path."""
    pytest.importorskip("submitit")
    tools, folder = tmp_path / "tools", tmp_path / "slurm"
    tools.mkdir()
    folder.mkdir()
    for name in ("sbatch", "srun", "squeue", "sacct", "scontrol", "scancel"):
        tool = tools / name
        tool.write_text(SLURM.format(python=sys.executable, folder=str(folder)))
        tool.chmod(tool.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tools}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setitem(slurm.POLL, "slurm", 0.3)
    monkeypatch.setattr(submitted, "ASK", 0.5)
    monkeypatch.setattr(submitted, "GRACE", 1.0)
    return folder


def test_every_option_stands_in_the_yaml_with_its_default():
    page = yaml.safe_load((ROOT / "conf/hydra/launcher/slurm.yaml").read_text())
    options = inspect.signature(Slurm).parameters
    assert page.pop("_target_") == "deephash.sweep.launchers.slurm.Slurm"
    assert page.pop("folder") == "${paths.outputs}/.slurm"
    defaults = {name: it.default for name, it in options.items() if name != "folder"}
    assert page == defaults | {"setup": [], "additional": {}}


# without submitit, without SLURM


def test_without_submitit_it_states_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(ConfigError, match=r"package submitit.*\n.*pip install submitit"):
        Slurm(tmp_path).launch([job(tmp_path, "a", "")], Heard())


def test_without_slurm_it_states_what_to_type(tmp_path, monkeypatch):
    pytest.importorskip("submitit")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="no sbatch") as caught:
        Slurm(tmp_path).launch([job(tmp_path, "a", "")], Heard())
    assert "hydra/launcher=pool" in str(caught.value)
    assert "hydra.launcher.cluster=local" in str(caught.value)


def test_an_unknown_cluster_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"cluster=moon is none of: slurm, local"):
        Slurm(tmp_path, cluster="moon")


# submitit's local executor


@pytest.mark.slow
def test_failed_and_killed_jobs_stop_no_other(tmp_path):
    """The last kills its parent, which is the process that submitit started."""
    pytest.importorskip("submitit")
    jobs = [
        job(tmp_path, "fails", "print('the reason'); raise SystemExit(3)"),
        job(tmp_path, "killed", "import os; os.kill(os.getpid(), 9)"),
        job(tmp_path, "fine", "print('hello')"),
        job(tmp_path, "orphan", "import os; os.kill(os.getppid(), 9)"),
    ]
    heard = Heard()
    Slurm(tmp_path / "submitit", cluster="local", array_parallelism=2).launch(jobs, heard)
    assert heard.statuses == {0: 3, 1: -9, 2: 0, 3: 1}
    assert sorted(heard.started_at) == [0, 1, 2, 3]
    assert heard.ticks
    assert "the reason" in (jobs[0].folder / ERROR).read_text()
    assert "killed by SIGKILL" in (jobs[1].folder / ERROR).read_text()
    assert not (jobs[2].folder / ERROR).exists()
    assert "left no result" in (jobs[3].folder / ERROR).read_text()
    assert "hello" in (jobs[2].folder / LOG).read_text()
    assert not list(tmp_path.glob(f"*/{MARK}"))


@pytest.mark.slow
def test_local_jobs_keep_to_their_number_and_share_a_gpu(tmp_path):
    pytest.importorskip("submitit")
    script = (
        "import os, time; began = time.time(); time.sleep(0.5)\n"
        "print('told', os.environ['CUDA_VISIBLE_DEVICES'], began, time.time())"
    )
    jobs = [job(tmp_path, f"j{at}", script) for at in range(3)]
    Slurm(tmp_path / "submitit", cluster="local", array_parallelism=1).launch(jobs, Heard())
    lines = [(job_.folder / LOG).read_text().splitlines()[-1].split() for job_ in jobs]
    assert {gpu for _, gpu, *_ in lines} == {"0"}
    times = [(float(began), float(ended)) for *_, began, ended in lines]
    assert all(a[1] < b[0] for a, b in itertools.pairwise(times))


# the array of SLURM


def test_the_script_of_an_array(tmp_path, cluster):
    """Pending in the queue: only the request to SLURM is checked."""
    (cluster / "hold").write_text("77_0 77_1 77_2")
    launcher = Slurm(
        tmp_path / "submitit", timeout_min=90, array_parallelism=2, partition="gpu",
        account="lab", qos="long", constraint="a100", mem_gb=48, setup=["module load cuda"],
        additional={"exclude": "node[1-2]", "requeue": True}, wait=False,
    )  # fmt: skip
    launcher.launch([job(tmp_path, f"j{at}", "") for at in range(3)], Heard())
    script = (cluster / "script").read_text().splitlines()
    options = {line for line in script if line.startswith("#SBATCH")}
    assert options - {
        line for line in options if line.partition("=")[0].endswith(("put", "error"))
    } == {
        "#SBATCH --account=lab",
        "#SBATCH --array=0-2%2",
        "#SBATCH --constraint=a100",
        "#SBATCH --cpus-per-task=8",
        "#SBATCH --exclude='node[1-2]'",
        "#SBATCH --gpus-per-node=1",
        "#SBATCH --job-name=deephash",
        "#SBATCH --mem=48GB",
        "#SBATCH --nodes=1",
        "#SBATCH --open-mode=append",
        "#SBATCH --partition=gpu",
        "#SBATCH --qos=long",
        "#SBATCH --requeue",
        "#SBATCH --signal=USR2@90",
        "#SBATCH --time=90",
        "#SBATCH --wckey=submitit",
    }
    assert "module load cuda" in script


def test_what_is_queued_is_busy_and_what_is_not_is_not(tmp_path, cluster, capsys):
    (cluster / "hold").write_text("77_0 77_1")
    jobs = [job(tmp_path, f"j{at}", "") for at in range(2)]
    launcher = Slurm(tmp_path / "submitit", wait=False)
    assert launcher.busy(jobs) == set()
    launcher.launch(jobs, Heard())
    output = capsys.readouterr().err
    assert "squeue --jobs=77" in output and "scancel 77" in output and "preview=true" in output
    mark = json.loads((jobs[1].folder / MARK).read_text())
    assert (mark["launcher"], mark["job_id"]) == ("slurm", "77_1")
    assert launcher.busy([*jobs, job(tmp_path, "other", "")]) == {0, 1}
    (cluster / "hold").write_text("77_1")
    assert launcher.busy(jobs) == {1}
    assert launcher.busy(jobs[1:]) == {0}


def test_a_mute_slurm_is_no_empty_queue(tmp_path, cluster):
    (cluster / "hold").write_text("77")
    jobs = [job(tmp_path, "a", "")]
    launcher = Slurm(tmp_path / "submitit", wait=False)
    launcher.launch(jobs, Heard())
    (cluster / "mute").touch()
    with pytest.raises(ConfigError, match="Unable to contact slurm controller"):
        launcher.busy(jobs)
    assert submitted.Queue().may_have("77")


def test_a_refusal_of_sbatch_is_reported(tmp_path, cluster):
    (cluster / "full").touch()
    with pytest.raises(ConfigError, match="Invalid partition name"):
        Slurm(tmp_path / "submitit").launch([job(tmp_path, "a", "")], Heard())


@pytest.mark.slow
def test_an_array_runs_to_its_end(tmp_path, cluster):
    jobs = [
        job(tmp_path, "fails", "print('the reason'); raise SystemExit(3)"),
        job(tmp_path, "fine", "print('hello')"),
        job(tmp_path, "orphan", "import os; os.kill(os.getppid(), 9)"),
    ]
    heard = Heard()
    Slurm(tmp_path / "submitit").launch(jobs, heard)
    assert heard.statuses == {0: 3, 1: 0, 2: 1}
    assert "the reason" in (jobs[0].folder / ERROR).read_text()
    assert "hello" in (jobs[1].folder / LOG).read_text()
    assert "left no result" in (jobs[2].folder / ERROR).read_text()
    assert not list(tmp_path.glob(f"*/{MARK}"))


@pytest.mark.slow
def test_a_cancelled_job_was_signalled_to_stop(tmp_path, cluster):
    """Never in the queue, with the reason from sacct: the next launch runs it."""
    (cluster / "hold").write_text("")
    (cluster / "state77").write_text("CANCELLED by 1000")
    heard = Heard()
    jobs = [job(tmp_path, "a", "")]
    Slurm(tmp_path / "submitit").launch(jobs, heard)
    assert heard.statuses == {0: -signal.SIGTERM}
    assert not (jobs[0].folder / ERROR).exists()


RESUMES = """
import pathlib, signal, sys, time
folder = pathlib.Path(FOLDER)
def stop(*_):
    (folder / "stopped").touch()
    raise SystemExit(130)
signal.signal(signal.SIGTERM, stop)
if (folder / "stopped").exists():
    print("goes on")
    raise SystemExit(0)
(folder / "ready").touch()
time.sleep(60)
"""


class Preempting(Heard):
    """Takes the node away once the run is in its work."""

    def __init__(self, cluster, ready):
        super().__init__()
        self.cluster, self.ready = cluster, ready

    def tick(self):
        if self.ready.exists():
            self.ready.unlink()
            os.kill(int((self.cluster / "job77").read_text()), signal.SIGUSR2)


@pytest.mark.slow
@pytest.mark.parametrize(("timeout_min", "requeues"), [(60, 0), (1, 1)])
def test_a_preempted_or_timed_out_job_continues(tmp_path, cluster, timeout_min, requeues):
    """submitit calls it a timeout when the job has had all but ten minutes of its time."""
    resumable = job(tmp_path, "a", RESUMES.replace("FOLDER", repr(str(tmp_path))))
    heard = Preempting(cluster, tmp_path / "ready")
    Slurm(tmp_path / "submitit", timeout_min=timeout_min, requeues=requeues).launch(
        [resumable], heard
    )
    assert heard.statuses == {0: 0}
    assert (cluster / "requeued").exists()
    assert "goes on" in (resumable.folder / LOG).read_text()


@pytest.mark.slow
def test_a_job_out_of_time_too_often_has_failed(tmp_path, cluster):
    resumable = job(tmp_path, "a", RESUMES.replace("FOLDER", repr(str(tmp_path))))
    heard = Preempting(cluster, tmp_path / "ready")
    Slurm(tmp_path / "submitit", timeout_min=1, requeues=0).launch([resumable], heard)
    assert heard.statuses == {0: 1}
    assert (tmp_path / "stopped").exists()
    assert not (cluster / "requeued").exists()
    assert "timed-out too many times" in (resumable.folder / ERROR).read_text()


def test_a_checkpoint_stops_the_run_and_is_the_same_job(tmp_path):
    pytest.importorskip("submitit")
    run = SubmittedRun(job(tmp_path, "a", "import time; time.sleep(60)"))
    run.child = process.start_job(run.job)
    again = run.checkpoint()
    assert run.child.returncode == -signal.SIGTERM
    assert (type(again.function), again.function.job, again.function.child) == (
        SubmittedRun,
        run.job,
        None,
    )


def test_a_run_does_not_receive_signals_for_submitit(tmp_path):
    """SIGUSR2 to the child, which has no handler for it, does nothing."""
    resumable = job(
        tmp_path, "a", "import os, signal; os.kill(os.getpid(), signal.SIGUSR2); print('on')"
    )
    assert SubmittedRun(resumable)() == 0
    assert "on" in (resumable.folder / LOG).read_text()
    assert signal.SIGUSR2 not in signal.pthread_sigmask(signal.SIG_BLOCK, [])


INTERRUPTED = """
import sys, pathlib
from deephash.sweep.launchers.process import Job
from deephash.sweep.launchers.slurm import Slurm

class Watch:
    def started(self, at): print("started", flush=True)
    def ended(self, at, status): print("ended", flush=True)
    def tick(self): pass

folder, cluster, script = pathlib.Path(sys.argv[1]), sys.argv[2], sys.argv[3]
try:
    Slurm(folder / "submitit", cluster=cluster).launch(
        [Job("a", folder / "a", (sys.executable, "-c", script))], Watch()
    )
except KeyboardInterrupt:
    print("interrupted")
"""


def wait_for(file, seconds=300):
    until = time.monotonic() + seconds
    while not file.exists():
        assert time.monotonic() < until, f"{file} does not come"
        time.sleep(0.1)


@pytest.mark.slow
@pytest.mark.parametrize("where", ["slurm", "local"])
def test_ctrl_c_leaves_slurms_jobs_and_stops_local_ones(tmp_path, cluster, where):
    script = RESUMES.replace("FOLDER", repr(str(tmp_path))).replace("sleep(60)", "sleep(6)")
    launcher = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, str(tmp_path), where, script],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    wait_for(tmp_path / "ready")
    launcher.send_signal(signal.SIGINT)
    output, errors = launcher.communicate(timeout=300)
    assert output.split()[-1] == "interrupted"
    assert ("scancel 77" in errors) == (where == "slurm")
    if where == "local":
        wait_for(tmp_path / "stopped")
    else:
        time.sleep(2)  # of the job's 6 seconds: nothing stops it meanwhile
        assert not (tmp_path / "stopped").exists()
