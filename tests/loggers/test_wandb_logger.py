"""The real package where it is installed, in a process of its own: it warns and leaves threads."""

import importlib.util
import os
import subprocess
import sys
import types

import pytest

from deephash.errors import ConfigError
from deephash.loggers import Wandb
from deephash.loggers.wandb import has_credentials, resolve_mode

needs_wandb = pytest.mark.skipif(
    importlib.util.find_spec("wandb") is None, reason="wandb is not installed"
)


@pytest.fixture(autouse=True)
def nobody(monkeypatch, tmp_path):
    """A machine on which nobody has ever logged in."""
    for name in list(os.environ):
        if name.startswith("WANDB_"):
            monkeypatch.delenv(name)
    monkeypatch.delenv("NETRC", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


class FakeRun:
    def __init__(self):
        self.logged, self.summary, self.ended = [], {}, []

    def log(self, values, step=None):
        self.logged.append((values, step))

    def finish(self, exit_code):
        self.ended.append(exit_code)


class FakeSettings:
    model_fields = ()

    def __init__(self, **wanted):
        self.wanted = wanted


@pytest.fixture
def fake(monkeypatch):
    """A wandb whose server never answers."""
    module = types.ModuleType("wandb")
    errors = types.SimpleNamespace(
        CommError=type("CommError", (Exception,), {}),
        UsageError=type("UsageError", (Exception,), {}),
    )
    module.asked, module.run = [], FakeRun()

    def init(**asked):
        module.asked.append(asked)
        if asked["mode"] == "online":
            raise errors.CommError("no answer")
        return module.run

    module.init, module.errors, module.Settings = init, errors, FakeSettings
    monkeypatch.setitem(sys.modules, "wandb", module)
    return module


def test_without_the_package_the_error_says_what_to_type(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ConfigError, match=r"pip install wandb .*logger=console"):
        Wandb("p", {}, tmp_path)


def test_an_unknown_mode_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"'onlin'.*offline"):
        Wandb("p", {}, tmp_path, mode="onlin")


def test_auto_goes_online_only_where_there_is_a_key(monkeypatch, tmp_path):
    assert resolve_mode("auto") == "offline"
    (tmp_path / ".netrc").write_text("machine elsewhere.org login me password secret\n")
    assert not has_credentials()
    (tmp_path / ".netrc").write_text("machine api.wandb.ai login user password secret\n")
    (tmp_path / ".netrc").chmod(0o600)
    assert resolve_mode("auto") == "online"
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert resolve_mode("auto") == "disabled"
    assert resolve_mode("offline") == "offline"  # asked for by name
    monkeypatch.setenv("WANDB_MODE", "")
    (tmp_path / ".netrc").unlink()
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    assert resolve_mode("auto") == "online"


def test_online_without_a_key_never_gets_to_the_question(fake, tmp_path, caplog):
    logger = Wandb("p", {}, tmp_path, mode="online")
    assert logger.mode == "offline"
    assert [asked["mode"] for asked in fake.asked] == ["offline"]
    assert "no credentials" in caplog.text


def test_online_without_an_answer_goes_offline(fake, tmp_path, caplog, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    logger = Wandb("p", {"nbit": 32}, tmp_path, mode="online", run_id="seed0")
    assert logger.mode == "offline"
    first, second = fake.asked
    assert (first["mode"], first["resume"], second["mode"]) == ("online", "allow", "offline")
    for asked in fake.asked:
        assert (asked["id"], asked["reinit"]) == ("seed0", "finish_previous")
        assert asked["config"] == {"nbit": 32}
        assert asked["settings"].wanted["console"] == "off"
    assert "no answer" in caplog.text


def test_figures_are_images_of_the_run_that_is_resumed(fake, tmp_path):
    fake.Image = lambda path: ("image", path)
    logger = Wandb("p", {}, tmp_path, run_id="seed0", job_type="evaluate")
    logger.figures({"tsne": tmp_path / "tsne.png"})
    assert fake.run.logged == [({"figures/tsne": ("image", str(tmp_path / "tsne.png"))}, None)]
    assert (fake.asked[-1]["id"], fake.asked[-1]["job_type"]) == ("seed0", "evaluate")
    logger.close()
    assert fake.run.ended == [0]
    logger.figures({"tsne": tmp_path / "tsne.png"})  # after the end: nothing
    assert len(fake.run.logged) == 1


def test_an_artifact_holds_files_by_name_and_its_own_name_is_allowed(fake, tmp_path):
    made = []

    class Artifact:
        def __init__(self, name, type):
            self.name, self.type, self.files = name, type, {}

        def add_file(self, path, name):
            self.files[name] = path

    fake.Artifact, fake.run.log_artifact = Artifact, made.append
    logger = Wandb("p", {}, tmp_path, job_type="report")
    logger.artifact("table2_beta+fig8", "report", {"figures/a.png": tmp_path / "a.png"})
    (one,) = made
    assert (one.name, one.type) == ("table2_beta-fig8", "report")
    assert one.files == {"figures/a.png": str(tmp_path / "a.png")}
    logger.close()
    logger.artifact("late", "report", {})  # after the end: nothing
    assert len(made) == 1


def test_the_report_becomes_the_summary_and_ends_the_run(fake, tmp_path):
    logger = Wandb("p", {}, tmp_path)
    logger.scalars("train", {"loss": 1.0}, step=5, epoch=2)
    report = {
        "metrics": {"map": 0.7, "ties": {"best": 0.8}, "conventions": {"cutoff": "all"}},
        "selection": {"map_last": 0.6, "map_at_val_epoch": None},
    }
    logger.report(report, step=5)
    logger.scalars("train", {"loss": 2.0}, step=6, epoch=2)
    logger.close(failed=True)
    assert fake.run.logged == [({"train/loss": 1.0, "epoch": 2}, 5)]
    assert fake.run.summary == {"map": 0.7, "ties/best": 0.8, "selection/map_last": 0.6}
    assert fake.run.ended == [0]


def test_a_failed_job_ends_its_run_and_a_failed_upload_is_a_warning(fake, tmp_path, caplog):
    logger = Wandb("p", {}, tmp_path)
    logger.close(failed=True)
    assert fake.run.ended == [1]
    logger = Wandb("p", {}, tmp_path)
    fake.run.finish = lambda exit_code: 1 / 0
    logger.close()
    assert "wandb sync" in caplog.text


JOBS = """
import sys
from deephash.loggers import Wandb

for seed in (0, 1):  # two jobs of a sweep, the first one left open as by an exception
    logger = Wandb("p", {"seed": seed}, sys.argv[1], run_id=f"seed{seed}", tags=["digits"])
    assert logger.mode == "offline"
    logger.scalars("train", {"loss": 1.0}, step=1, epoch=1)
logger.report({"metrics": {"map": 0.5}}, step=1)
"""


def python(code, *arguments, **environment):
    # stdin is closed: a question would end the process with an error
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )


@needs_wandb
def test_two_jobs_offline_are_two_runs_and_nothing_is_asked(tmp_path):
    done = python(JOBS, str(tmp_path / "run"), WANDB_SILENT="true")
    assert done.returncode == 0, done.stderr
    runs = [path.name for path in (tmp_path / "run" / "wandb").glob("offline-run-*")]
    assert sorted(name.split("-")[-1] for name in runs) == ["seed0", "seed1"]


@needs_wandb
def test_a_server_that_is_not_there_costs_a_warning(tmp_path):
    code = (
        "import sys; from deephash.loggers import Wandb\n"
        "logger = Wandb('p', {}, sys.argv[1], mode='online', init_timeout=1.0)\n"
        "logger.scalars('train', {'loss': 1.0}, 1, 1); logger.close(); print(logger.mode)"
    )
    nowhere = {"WANDB_API_KEY": "0" * 40, "WANDB_BASE_URL": "http://127.0.0.1:9"}
    done = python(code, str(tmp_path), WANDB_SILENT="true", **nowhere)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "offline"
    assert "wandb goes offline" in done.stderr


def test_the_package_is_not_imported_before_it_is_asked_for():
    code = "import sys, deephash.loggers; assert 'wandb' not in sys.modules"
    assert python(code).returncode == 0


@needs_wandb
def test_an_agent_of_wandbs_own_sweeps_names_the_run(tmp_path):
    code = (
        "import sys; from deephash.loggers import Wandb\n"
        "Wandb('p', {'a': 1}, sys.argv[1], mode='offline', run_id='ours', group='table').close()"
    )
    theirs = {"WANDB_SWEEP_ID": "sweep1", "WANDB_RUN_ID": "theirs"}
    done = python(code, str(tmp_path), WANDB_SILENT="true", **theirs)
    assert done.returncode == 0, done.stderr
    (run,) = (tmp_path / "wandb").glob("offline-run-*")
    assert run.name.endswith("-theirs")
