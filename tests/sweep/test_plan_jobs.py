"""How a sweep is planned, previewed and watched; no run is trained here."""

import fcntl
import json
from dataclasses import replace

import pytest

from deephash.config import checks
from deephash.config.overrides import parse_all
from deephash.errors import ConfigError, TrainingError
from deephash.runs.status import State, state_of
from deephash.sweep import plan_jobs
from deephash.sweep.launchers.process import ERROR
from deephash.sweep.watch import SweepProgress, unfinished_text
from tests.pages import composable, resolved


@pytest.fixture(scope="module")
def composed():
    with composable():
        yield resolved


@pytest.fixture
def plan(composed, tmp_path):
    def of(*lines):
        lines = [
            (*line.split(), f"paths.outputs={tmp_path}/out", "backbone=tiny") for line in lines
        ]
        return plan_jobs.plan_sweep(
            checks.parse_jobs([(parse_all(line), composed(line)) for line in lines])
        )

    return of


def finish(job, seconds=10.0, value=0.5, **config_changes):
    job.run.path.mkdir(parents=True)
    cfg = json.loads(json.dumps(job.cfg.plain)) | config_changes
    (job.run.path / "config.yaml").write_text(json.dumps(cfg))  # JSON is YAML
    report = {
        "training": {"seconds": seconds - plan_jobs.START},
        "metrics": {"map": value},
        "selection": {"epoch_last": job.cfg.trainer.epochs},
        "run": job.name,
    }
    (job.run.path / "report.json").write_text(json.dumps(report))


def interrupt(job, epoch):
    job.run.path.mkdir(parents=True)
    (job.run.path / "config.yaml").write_text(json.dumps(job.cfg.plain))
    (job.run.path / "last.pt").touch()
    (job.run.path / "log.jsonl").write_text(json.dumps({"epoch": epoch}) + "\n")


def fail(job, why):
    job.run.path.mkdir(parents=True)
    (job.run.path / ERROR).write_text(why)


# planning


def test_states_are_read_from_the_folders(plan):
    lines = [f"seed={seed} trainer.epochs=4" for seed in range(5)]
    done, stopped, failed, locked, _ = plan(*lines)
    finish(done)
    interrupt(stopped, 1)
    fail(failed, "no luck\nmore")
    locked.run.path.mkdir(parents=True)
    with (locked.run.path / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        states = [job.state for job in plan(*lines)]
        left = [job.left for job in plan(*lines)]
        again = [job.left for job in plan(*(f"{line} rerun=true" for line in lines))]
    assert states == [State.finished, State.interrupted, State.failed, State.running, State.waiting]
    assert left == [False, True, True, False, True]
    assert again == [True, True, True, False, True]  # rerun=true begins finished ones anew
    assert state_of(locked.run) is State.waiting  # the lock is gone with its process


@pytest.mark.parametrize("content", ["", '{"run": "x", "training": {"seco', "[1]", "\xff", "{}"])
def test_a_run_with_a_damaged_report_is_not_finished(plan, content):
    (job,) = plan("seed=0")
    finish(job)
    assert plan("seed=0")[0].state is State.finished
    (job.run.path / "report.json").write_bytes(content.encode("latin-1"))
    planned = plan("seed=0")
    assert planned[0].state is State.damaged and planned[0].left
    assert plan_jobs.preview_text(planned, 1).splitlines()[0].startswith("damaged ")
    assert "1 of 1 jobs are not finished:\n  damaged" in unfinished_text(plan_jobs.refresh(planned))


def test_a_run_that_stands_twice_is_planned_once(plan):
    assert len(plan("seed=0", "seed=1", "seed=0")) == 2


def test_two_jobs_of_one_folder_that_differ_are_refused(plan, composed, tmp_path):
    line = ("seed=0", f"paths.outputs={tmp_path}")
    other = composed(line)
    other["optimizer"]["lr"] = 0.5
    with pytest.raises(
        ConfigError, match=r"(?s)two jobs have the same folder, digits.*optimizer.lr"
    ):
        plan_jobs.plan_sweep(
            checks.parse_jobs([(parse_all(line), composed(line)), (parse_all(line), other)])
        )


def test_a_name_that_two_jobs_would_share_is_refused(plan):
    assert len(plan("seed=0 name=mine", "seed=1 name=mine")) == 2  # folders of their own
    with pytest.raises(ConfigError, match=r"(?s)^name  is mine for two jobs.*lr.*group=NAME"):
        plan("optimizer.lr=0.1 name=mine", "optimizer.lr=0.2 name=mine")


def test_folders_of_other_configurations_are_reported_at_once(plan):
    for job in plan("seed=0", "seed=1", "seed=2")[:2]:
        finish(job, optimizer={**job.cfg.optimizer, "lr": 0.25})
    with pytest.raises(ConfigError) as caught:
        plan("seed=0", "seed=1", "seed=2")
    assert "optimizer.lr: 0.25 -> 0.001" in str(caught.value)
    assert str(caught.value).endswith(f"So do\n  {plan('seed=1 rerun=true')[0].run.path}")
    assert all(job.left for job in plan("seed=0 rerun=true", "seed=1 rerun=true"))


def test_each_fault_is_reported_once_with_how_many_jobs_have_it(plan, tmp_path):
    with pytest.raises(ConfigError) as caught:
        plan("model.nbit=0 seed=0", "model.nbit=0 seed=1", "model.nbit=8 trainer.epochs=-1")
    message = str(caught.value)
    assert message.startswith("config: 2 problems")
    assert (
        message.count("model.nbit  ") == 1
        and "(2 of 3 jobs, such as: model.nbit=0 seed=0" in message
    )
    assert "(1 of 3 jobs, such as: model.nbit=8" in message and "a grid of 3 jobs" in message
    assert not (tmp_path / "out").exists()


# how long it takes


def test_time_left_is_judged_by_the_most_alike(plan):
    lines = (
        "method=relahash",
        "method=csq",
        "method=relahash seed=1",
        "method=csq seed=1",
        "method=dpn",
        "method=dpn trainer.epochs=80",
        "method=csq seed=2",
    )
    jobs = plan(*lines)
    finish(jobs[0], seconds=10)
    finish(jobs[1], seconds=30)
    interrupt(jobs[6], 10)  # of 40
    left = plan_jobs.seconds_left(jobs)
    assert left[2:] == [10, 30, 20, 20, 30 * 0.75]  # the mean of both where no method is alike


def test_without_a_finished_job_nothing_tells(plan):
    jobs = plan("seed=0", "seed=1")
    assert plan_jobs.seconds_left(jobs) == [None, None]
    assert "time left: unknown, since no job has finished" in plan_jobs.preview_text(jobs, 2)


def test_a_preview(plan):
    lines = [f"seed={seed}" for seed in range(4)]
    first, second, *_ = plan(*lines)
    finish(first, seconds=100, value=0.123456)
    interrupt(second, 20)  # of 40
    text = plan_jobs.preview_text(plan(*lines), slots=2, queued={3}).splitlines()
    states = [line.split()[:2] for line in text[:4]]
    assert states == [
        ["finished", "0.1235"], ["interrupted", "~0:50"], ["waiting", "~1:40"], ["queued", "~1:40"]
    ]  # fmt: skip
    assert text[0].endswith(str(first.run.path))
    assert text[5] == "4 jobs: 1 finished, 1 interrupted, 1 waiting, 1 queued"
    assert text[6].startswith("left: about 4:10 of one job after the other, 2:05 with 2 at a time")


# accounts


def test_words_and_tracebacks(tmp_path):
    def known():
        raise TrainingError("loss is nan\n  Try a smaller rate.")

    def unknown():
        raise ZeroDivisionError("by\nzero")

    with pytest.raises(TrainingError):
        plan_jobs.run_recording_failure(tmp_path / "a", known)
    assert (tmp_path / "a" / ERROR).read_text() == "loss is nan\n  Try a smaller rate.\n"
    with pytest.raises(ZeroDivisionError):
        plan_jobs.run_recording_failure(tmp_path / "b", unknown)
    lines = (tmp_path / "b" / ERROR).read_text().splitlines()
    assert lines[0] == "ZeroDivisionError: by"
    assert "in unknown" in "\n".join(lines) and lines[-1] == "zero"
    assert plan_jobs.run_recording_failure(tmp_path / "c", lambda: 7) == 7
    assert not (tmp_path / "c").exists()


def test_a_watch_tells_what_ends_and_what_is_left(plan, capsys):
    jobs = plan("seed=0", "seed=1", "seed=2", "seed=3")
    finish(jobs[0], value=0.25)
    jobs = plan("seed=0", "seed=1", "seed=2", "seed=3")
    screen = SweepProgress(jobs, jobs[1:], slots=2)
    for at in (0, 1, 2):
        screen.started(at)
    finish(jobs[1], value=0.75)
    screen.ended(0, 0)
    fail(jobs[2], "no luck\nand more")
    screen.ended(1, 1)
    screen.ended(2, 130)
    screen.close()
    done, failed, why, stopped = capsys.readouterr().err.splitlines()
    assert done.startswith("[2/4] done    0.7500") and "digits/relahash/32bit/seed1" in done
    assert "2 running, eta" in done
    assert failed.startswith("[3/4] FAILED") and "seed2" in failed
    assert why == "    no luck" and "1 running, 1 failed" in failed
    assert screen.failed == {jobs[2].name}
    assert stopped.startswith("[3/4] stopped") and "0 running" in stopped


def test_the_account_at_the_end(plan):
    jobs = plan("seed=0", "seed=1", "seed=2")
    finish(jobs[0])
    fail(jobs[1], "no luck\nand more")
    lines = unfinished_text(plan_jobs.refresh(jobs)).splitlines()
    assert lines[0].startswith("failed: seed=1 ") and lines[1:3] == ["no luck", "and more"]
    assert lines[3] == f"  in {jobs[1].run.path}"
    assert lines[4] == "1 of 3 jobs are not finished:" and lines[5].split()[0] == "waiting"
    assert unfinished_text([replace(job, state=State.finished) for job in jobs]) == ""


# sweep.json


def write(folder, jobs, axes, typed=()):
    sheet = {"title": "T", "source": None, "report": {"rows": "seed"}}
    file = plan_jobs.write_manifest(
        folder, jobs, command="python train.py -m", axes=axes, typed=typed, spec=sheet
    )
    return json.loads(file.read_text())


def test_a_sweep_grows_by_what_is_launched_later(plan, tmp_path):
    folder = tmp_path / "out/sweeps/mine"
    base = ["dataset", "model.nbit", "seed"]
    write(folder, plan("seed=0 method.loss.scale=5", "seed=1 method.loss.scale=5"), base)
    again = [*base, "method.loss.scale"]
    result = write(
        folder, plan("seed=1 method.loss.scale=5", "seed=2 method.loss.scale=0.5"), again
    )
    assert result["name"] == "mine" and result["report"] == {"rows": "seed"}
    values = [job["values"] for job in result["jobs"]]
    assert [job_values["seed"] for job_values in values] == [0, 1, 2]
    assert [job_values.get("method.loss.scale") for job_values in values] == [None, 5, 0.5]
    assert values[2]["dataset"] == "digits" and values[2]["model.nbit"] == 32


def test_values_of_groups_are_names(plan):
    (job,) = plan("method=csq loss=lmcl loss.scale=3 trainer=early_stop")
    result = {
        key: plan_jobs.axis_value(job, key)
        for key in ("method", "dataset", "loss", "trainer", "loss.scale", "dataset.protocol")
    }
    assert result == {
        "method": "csq+lmcl", "dataset": "digits", "loss": "lmcl", "trainer": "early_stop",
        "loss.scale": 3, "dataset.protocol": "per_class",
    }  # fmt: skip
