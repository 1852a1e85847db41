"""The real package where it is installed, in a process of its own: it warns and leaves threads."""

import importlib.util
import json
import os
import shlex
import signal
import subprocess
import sys
import types
from pathlib import Path

import pytest
import yaml
from hydra import compose

from deephash.config import checks, resolve
from deephash.errors import ConfigError
from deephash.loggers import Jsonl, Wandb
from deephash.loggers.jsonl import read_rows
from deephash.loggers.summary import summary_of
from deephash.loggers.wandb import (
    MOST_NAME,
    MOST_TAG,
    has_credentials,
    is_complete,
    records,
    resolve_mode,
    sync_all_command,
    sync_command,
)
from tests.pages import composable
from tests.paths import ROOT

needs_wandb = pytest.mark.skipif(
    importlib.util.find_spec("wandb") is None, reason="wandb is not installed"
)


@pytest.fixture(autouse=True)
def nobody(monkeypatch, tmp_path):
    """A machine without credentials."""
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

    def define_metric(self, name, **options):
        pass

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

    def init(**options):
        module.asked.append(options)
        if options["mode"] == "online":
            raise errors.CommError("no answer")
        return module.run

    module.init, module.errors, module.Settings = init, errors, FakeSettings
    monkeypatch.setitem(sys.modules, "wandb", module)
    return module


def test_without_the_package_the_error_states_what_to_type(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ConfigError, match=r"pip install wandb .*logger=console"):
        Wandb("p", {}, tmp_path)


def test_an_unknown_mode_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"'onlin'.*offline"):
        Wandb("p", {}, tmp_path, mode="onlin")


def test_auto_is_online_only_with_a_key(monkeypatch, tmp_path):
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


def test_online_without_a_key_does_not_prompt(fake, tmp_path, caplog):
    logger = Wandb("p", {}, tmp_path, mode="online")
    assert logger.mode == "offline"
    assert [options["mode"] for options in fake.asked] == ["offline"]
    assert "no credentials" in caplog.text


def test_online_without_an_answer_goes_offline(fake, tmp_path, caplog, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    logger = Wandb("p", {"nbit": 32}, tmp_path, mode="online", run_id="seed0")
    assert logger.mode == "offline"
    first, second = fake.asked
    assert (first["mode"], second["mode"]) == ("online", "offline")
    assert first["resume"] == second["resume"] == "allow"
    for options in fake.asked:
        assert (options["id"], options["reinit"]) == ("seed0", "finish_previous")
        assert options["config"] == {"config": {"nbit": 32}}
    assert "no answer" in caplog.text


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
def test_two_offline_jobs_are_two_runs_without_requests(tmp_path):
    done = python(JOBS, str(tmp_path / "run"), WANDB_SILENT="true")
    assert done.returncode == 0, done.stderr
    runs = [path.name for path in (tmp_path / "run" / "wandb").glob("offline-run-*")]
    assert sorted(name.split("-")[-1] for name in runs) == ["seed0", "seed1"]


@needs_wandb
def test_an_unreachable_server_causes_a_warning(tmp_path):
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


def test_the_package_is_imported_only_when_selected():
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


# what goes wrong in W&B costs a warning


@pytest.mark.parametrize("error", [OSError("read-only"), ValueError("x"), SystemExit(1)])
def test_a_wandb_that_cannot_start_does_not_end_the_training(fake, tmp_path, caplog, error):
    def init(**options):
        raise error

    fake.init = init
    logger = Wandb("p", {}, tmp_path, mode="offline")
    assert "the run goes on without" in caplog.text and logger.mode == "disabled"
    logger.scalars("train", {"loss": 1.0}, 1, 1)
    logger.figures({"a": tmp_path / "a.png"})
    logger.artifact("a", "report", {})
    logger.report({"metrics": {"map": 0.5}}, 1)
    logger.close()


def test_values_that_wandb_does_not_take_end_its_run_only(fake, tmp_path, caplog):
    logger = Wandb("p", {}, tmp_path, mode="offline")
    fake.run.log = lambda values, step=None: 1 / 0
    torn = []
    fake.teardown = lambda exit_code: torn.append(exit_code)  # noqa: PLW0108 - by keyword
    for step in (1, 2, 3):
        logger.scalars("train", {"loss": 1.0}, step, 1)
    logger.report({"metrics": {"map": 0.5}}, 3)
    assert caplog.text.count("does not take values") == 1
    assert torn == [1]  # or a dead service is a traceback when Python exits
    assert fake.run.ended == [1]
    assert not is_complete(tmp_path, "seed0")


def test_an_online_run_continues_at_the_step_of_the_server(fake, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    record = Jsonl(tmp_path / "log.jsonl")
    for step in (10, 20, 30):
        record.scalars("query", {"map": step / 100}, step, step // 10)
    record.close()
    fake.run.resumed, fake.run.starting_step = True, 21
    fake.init = lambda **options: fake.run
    logger = Wandb("p", {}, tmp_path, mode="online", run_id="seed0", history=record.path)
    assert [step for _, step in fake.run.logged] == [30]
    logger.scalars("query", {"map": 0.3}, 30, 3)  # is there already
    logger.scalars("query", {"map": 0.4}, 40, 4)
    logger.close()
    assert [step for _, step in fake.run.logged] == [30, 40]


def test_names_are_cut_to_what_wandb_takes(fake, tmp_path):
    long = "dataset" * 40
    Wandb("p", {}, tmp_path, name=long, group=long, tags=[long, "", "digits", "digits"])
    (options,) = fake.asked
    assert len(options["name"]) == len(options["group"]) == MOST_NAME
    assert [len(tag) for tag in options["tags"]] == [MOST_TAG, 6]


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"project": "a/b"}, "project"),
        ({"project": "x" * 129}, "project"),
        ({"project": "50%"}, "project"),
        ({"entity": "my team"}, "entity"),
        ({"entity": "me/project"}, "entity"),
        ({"mode": "dry"}, "mode"),
    ],
)
def test_what_wandb_refuses_is_refused_at_once(tmp_path, options, key):
    ((name, _, instead),) = Wandb.refused(options)
    assert name == key and instead
    with pytest.raises(ConfigError, match=rf"logger\.wandb\.{key}"):
        Wandb(**({"project": "p", "config": {}, "folder": tmp_path} | options))


@pytest.mark.parametrize("options", [{"project": "Deep hashing", "entity": "me_2"}, {}])
def test_what_wandb_takes_is_not_refused(options):
    assert Wandb.refused(options) == []


@pytest.mark.parametrize(
    ("name", "value", "mode"),
    [
        ("WANDB_MODE", "dryrun", "offline"),
        ("WANDB_MODE", "OFFLINE", "offline"),
        ("WANDB_MODE", "run", "online"),
        ("WANDB_MODE", "nonsense", "offline"),
        ("WANDB_DISABLED", "true", "disabled"),
        ("WANDB_DISABLED", "false", "offline"),
    ],
)
def test_modes_of_the_environment(monkeypatch, name, value, mode):
    monkeypatch.setenv(name, value)
    assert resolve_mode("auto") == mode


def test_what_wandb_offline_set_for_a_folder_is_followed(monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    settings = types.SimpleNamespace(mode="offline")
    package = types.SimpleNamespace(setup=lambda: types.SimpleNamespace(settings=settings))
    assert resolve_mode("auto", package) == "offline"
    settings.mode = "online"  # also where nothing was set
    assert resolve_mode("auto", package) == "online"


def test_no_home_folder_is_no_credentials(monkeypatch):
    def home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr("deephash.loggers.wandb.Path.home", home)
    assert not has_credentials()


# one history, however often a run is killed


def test_rows_of_a_log_are_one_for_each_step(tmp_path):
    record = Jsonl(tmp_path / "log.jsonl")
    record.scalars("train", {"loss": float("inf"), "lr": 0.1}, 10, 1)
    record.scalars("query", {"map": 0.5}, 10, 1)
    record.scalars("train", {"loss": 1.0}, 20, 2)
    record.close()
    with record.path.open("a") as file:
        file.write("no line of ours\n[]\n")
    first, second = read_rows(record.path)
    assert first[0].pop("_timestamp") > 1e9
    assert first == (
        {"train/loss": float("inf"), "train/lr": 0.1, "query/map": 0.5, "epoch": 1},
        10,
    )
    assert (second[0]["train/loss"], second[1]) == (1.0, 20)
    assert list(read_rows(tmp_path / "none")) == []


def test_damaged_lines_of_a_log_are_passed_over(tmp_path):
    deep = "[" * 50_000
    lines = [deep, '{"step": ' + deep, "{}", "5", "null", '{"step": 1e999, "where": "train"}', "{"]
    (tmp_path / "log.jsonl").write_text("\n".join(lines) + "\n")
    assert list(read_rows(tmp_path / "log.jsonl")) == []


SESSION = """
import os, signal, sys
from pathlib import Path
from deephash.loggers import Jsonl, Loggers, Wandb

folder, done, last, end = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
record = Jsonl(folder / "log.jsonl")
record.truncate_after(10 * done)
wandb = Wandb("p", {"method": {"name": "csq"}}, folder, mode="offline", run_id="seed0",
              history=record.path)
logger = Loggers([record, wandb])
for epoch in range(done + 1, last + 1):
    logger.scalars("train", {"loss": 1 / epoch}, 10 * epoch - 5, epoch)
    logger.scalars("train", {"loss": 1 / epoch}, 10 * epoch, epoch)
    logger.scalars("query", {"map": epoch / 10}, 10 * epoch, epoch)
if end == "killed":
    os.killpg(0, signal.SIGKILL)
if end == "finished":
    logger.report({"metrics": {"map": last / 10}}, 10 * last)
logger.close()
"""


def session(folder, done, last, end):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "WANDB_SILENT": "true"}
    ran = subprocess.run(
        [sys.executable, "-c", SESSION, str(folder), str(done), str(last), end],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        start_new_session=True,
    )
    assert ran.returncode == (-signal.SIGKILL if end == "killed" else 0), ran.stderr


def read(record):
    """What wandb's own reader finds in an offline record, by kind."""
    done = subprocess.run(
        [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(record)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
    result = [json.loads(line) for line in done.stdout.splitlines()]
    return [(line["type"], line[line["type"]]) for line in result]


def history(folder):
    """The steps and the mAPs that ``wandb sync`` would upload, of all records of a run."""
    steps, maps = [], []
    for record in records(folder, "seed0"):
        for kind, content in read(record):
            if kind == "run":
                assert (content["run_id"], content["resume"]) == ("seed0", True)
                assert content["config"]["update"]["config"] == {"method": {"name": "csq"}}
            if kind == "history":
                steps.append(content["item"]["_step"])
                maps += [content["item"]["query/map"]] if "query/map" in content["item"] else []
    return steps, maps


@needs_wandb
def test_a_killed_run_is_one_history_offline(tmp_path):
    session(tmp_path, 0, 7, "killed")
    session(tmp_path, 6, 9, "killed")  # the last whole epoch was the sixth
    session(tmp_path, 9, 12, "finished")
    assert history(tmp_path) == (
        [step for epoch in range(1, 13) for step in (10 * epoch - 5, 10 * epoch)],
        [epoch / 10 for epoch in range(1, 13)],
    )
    (record,) = records(tmp_path, "seed0")  # a torn one would stop `wandb sync` for all others
    (end,) = [content for kind, content in read(record) if kind == "exit"]
    assert end.get("exit_code", 0) == 0
    assert len(list(tmp_path.glob("wandb/*/*.wandb.replaced"))) == 2
    assert is_complete(tmp_path, "seed0") and not is_complete(tmp_path, "seed1")


@needs_wandb
def test_what_was_uploaded_is_not_written_again(tmp_path):
    session(tmp_path, 0, 3, "closed")
    (first,) = records(tmp_path, "seed0")
    first.with_name(first.name + ".synced").touch()  # as wandb sync leaves it
    session(tmp_path, 3, 5, "finished")
    assert len(records(tmp_path, "seed0")) == 2
    steps = [step for epoch in range(1, 6) for step in (10 * epoch - 5, 10 * epoch)]
    assert history(tmp_path) == (steps, [epoch / 10 for epoch in range(1, 6)])


@needs_wandb
def test_the_commands_that_upload_find_the_records(tmp_path):
    runs = [tmp_path / "my outputs" / f"digits/csq,a=b/{bits}bit/it's seed0" for bits in (16, 32)]
    for run in runs:
        folder = run / "wandb" / "offline-run-20260101_000000-seed0"
        folder.mkdir(parents=True)
        (folder / "run-seed0.wandb").touch()
    binaries = str(Path(sys.executable).parent)
    environment = os.environ | {"PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}"}
    for command, count in (
        (sync_command(runs[0]), 1),
        (sync_all_command(tmp_path / "my outputs"), 2),
    ):
        tried = command.replace("wandb sync", "wandb sync --dry-run")
        done = subprocess.run(
            tried, shell=True, env=environment, cwd=tmp_path, text=True,
            stdin=subprocess.DEVNULL, capture_output=True, timeout=60,
        )  # fmt: skip
        assert (done.stdout + done.stderr).count("Would sync 1 run(s)") == count, done.stderr
    assert shlex.split(sync_command(runs[0])) == ["wandb", "sync", str(runs[0] / "wandb")]


SWEPT = """
import sys
from deephash.loggers import Wandb
config = {"method": {"name": "csq", "loss": {"scale": 5}}, "seed": 0}
Wandb("p", config, sys.argv[1], mode="offline", run_id="ours", parameters={"method": "csq"}).close()
"""


@needs_wandb
def test_a_sweep_of_wandbs_own_leaves_the_configuration_whole(tmp_path):
    parameters = {"method": "csq", "seed": 0, "job/model.nbit": 8}
    file = tmp_path / "config-theirs.yaml"
    file.write_text(yaml.safe_dump({key: {"value": value} for key, value in parameters.items()}))
    theirs = {
        "WANDB_SWEEP_ID": "sweep1",
        "WANDB_RUN_ID": "theirs",
        "WANDB_SWEEP_PARAM_PATH": str(file),
    }
    done = python(SWEPT, str(tmp_path), WANDB_SILENT="true", **theirs)
    assert done.returncode == 0, done.stderr
    (record,) = records(tmp_path, "theirs")
    config = next(content for kind, content in read(record) if kind == "run")["config"]["update"]
    assert {key: config[key] for key in parameters} == parameters
    assert config["config"] == {"method": {"name": "csq", "loss": {"scale": 5}}, "seed": 0}


@pytest.mark.parametrize("script", ["evaluate", "report"])
def test_options_are_checked_before_anything_is_read(script):
    check = {"evaluate": checks.check_evaluate, "report": checks.check_report}[script]
    words = ["run=r"] if script == "evaluate" else ["sweep=s"]
    with composable():
        page = resolve.resolve(compose(script, [*words, "logger=wandb"]))
    assert check(page) == []
    node = page["logger"]["wandb"]
    node["project"] = "a/b"
    (fault,) = check(page)
    assert fault.key == "logger.wandb.project" and "a-b" in fault.hint
    node |= {"project": "p", "run_id": "mine"}
    assert [fault.key for fault in check(page)] == ["logger.wandb.run_id"]


def test_a_link_in_a_run_folder_is_not_followed(fake, tmp_path, caplog):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "wandb").symlink_to(tmp_path / "elsewhere")
    logger = Wandb("p", {}, tmp_path / "run", mode="offline")
    assert logger.mode == "disabled" and "symbolic link" in caplog.text
    assert fake.asked == []


WHOLE = """
import json, os, sys
from pathlib import Path
import numpy as np
from PIL import Image
from deephash.loggers import Jsonl, Loggers, Picture, Wandb

folder = Path(sys.argv[1])
os.chdir(folder)  # outside of the repository
record = Jsonl(folder / "log.jsonl")
wandb = Wandb("p", {"seed": 0}, folder, mode="offline", run_id="seed0", history=record.path,
              parameters={"method": "csq", "bits": 8, "scale": 5.0})
logger = Loggers([record, wandb])
for epoch in (1, 2, 3):
    print("epoch", epoch, file=sys.stderr)
    loss = float("nan") if epoch == 1 else 1.0
    values = {"loss": loss, "center": loss, "lr": 0.1, "images_seen": 256 * epoch}
    logger.scalars("train", values, 10 * epoch, epoch)
    logger.scalars("query", {"map": [0.4, 0.6, 0.5][epoch - 1]}, 10 * epoch, epoch)
    logger.scalars("val", {"map": 0.3}, 10 * epoch, epoch)
pixels = np.zeros((4, 4, 3), np.uint8)
Image.fromarray(pixels).save(folder / "tsne.png")
(folder / "best.pt").write_bytes(b"weights")
logger.figures({"tsne": folder / "tsne.png"})
logger.table("nearest", ("query", "1"), [[Picture(pixels), Picture(pixels, "3 bits")]])
logger.lines("beta", {"8 bits": [(5, 0.5), (50, 0.6)]}, "mAP over beta", "beta")
logger.uses_data("digits-per_class", "deephash://digits/per_class?fingerprint=abc", {"queries": 9})
logger.artifact("digits/csq+lmcl", "model", {"best.pt": folder / "best.pt"})
logger.report(json.loads(sys.argv[2]), 30)
"""
REPORT = {
    "metrics": {
        "map": 0.55,
        "note": None,
        "precision_at": {"1": 0.9, "100": 0.7},
        "codes": {"bits": {"imbalance": 0.1, "ones": [0.5, 0.4]}},
        "conventions": {"cutoff": "all"},
    },
    "selection": {"map_last": 0.5, "map_at_val_epoch": None},
}


@pytest.fixture(scope="module")
def offline(tmp_path_factory):
    """The records of a run that logs everything, by kind."""
    if importlib.util.find_spec("wandb") is None:
        pytest.skip("wandb is not installed")
    folder = tmp_path_factory.mktemp("offline")
    places = {f"WANDB_{name}_DIR": str(folder / "data") for name in ("DATA", "CACHE", "CONFIG")}
    done = python(WHOLE, str(folder), json.dumps(REPORT), **places)
    assert done.returncode == 0 and "WARNING" not in done.stderr, done.stderr
    (record,) = records(folder, "seed0")
    kinds = {}
    for kind, content in read(record):
        kinds.setdefault(kind, []).append(content)
    return kinds


def test_axes_do_not_depend_on_the_batch_size(offline):
    metrics = {one.get("name") or one["glob_name"]: one for one in offline["metric"]}
    axes = {name: one.get("step_metric") for name, one in metrics.items()}
    assert axes["train/*"] == axes["train/loss"] == "images_seen"
    assert axes["query/map"] == axes["val/map"] == "epoch"
    assert metrics["query/map"]["summary"] == metrics["val/map"]["summary"] == {"max": True}


def test_a_step_is_one_row_with_both_axes_and_the_tables(offline):
    rows = [one["item"] for one in offline["history"]]
    assert [row["_step"] for row in rows] == [10, 20, 30]
    assert [row["images_seen"] for row in rows] == [256, 512, 768]
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    assert [row["query/map"] for row in rows] == [0.4, 0.6, 0.5]
    assert rows[-1]["tables/nearest._type"] == "table-file"
    assert rows[-1]["figures/tsne._type"] == "image-file"


def test_the_summary_is_a_dozen_values(offline):
    summary = {}
    for one in offline["summary"]:
        summary |= one["update"]
    keys = {key for key in summary if key[0] != "_" and "/" not in key}
    assert keys == {
        "map", "map_last", "precision_at_100", "bit_imbalance", "epoch", "images_seen",
    }  # fmt: skip
    series = {key for key in summary if key.startswith(("train/", "query/", "val/"))}
    assert series == {"train/loss", "query/map", "val/map"}  # no term, no rate
    assert (summary["map"], summary["query/map"]) == (0.55, {"max": 0.6})


def test_the_configuration_has_flat_values_and_the_whole(offline):
    (run,) = offline["run"]
    config = run["config"]["update"]
    assert {key: config[key] for key in ("method", "bits", "scale", "config")} == {
        "method": "csq",
        "bits": 8,
        "scale": 5,
        "config": {"seed": 0},
    }


def test_the_model_and_the_data_that_it_used_are_artifacts(offline):
    artifacts = {one["name"]: one for one in offline["artifact"] if one["type"] != "run_table"}
    data, model = artifacts["digits-per_class"], artifacts["digits-csq-lmcl"]
    assert data["type"] == "dataset" and data["use_after_commit"]
    (entry,) = data["manifest"]["contents"]
    assert entry["ref"] == "deephash://digits/per_class?fingerprint=abc"
    assert model["type"] == "model" and not model.get("use_after_commit")
    (file,) = model["manifest"]["contents"]
    assert file["path"] == "best.pt"
    assert Path(file["local_path"]).parent.name.startswith("offline")  # not a copy
    assert json.loads(model["metadata"])["scale"] == 5


def test_the_console_and_the_commit_are_recorded(offline):
    console = "".join(one["line"] for one in offline["output_raw"])
    assert console == "epoch 1\nepoch 2\nepoch 3\n"
    head = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True
    ).stdout.strip()
    if head:
        commits = [one["git"]["commit"] for one in offline["environment"] if "git" in one]
        assert commits == [head]


def test_a_summary_explains_a_missing_map_and_has_setups():
    report = {"metrics": {"map": None, "note": "The images have no labels."}}
    assert summary_of(report) == {"note": "The images have no labels."}
    setups = {"medium": {"map": 0.4}, "hard": {"map": {"first": 0.2}}}
    summary = summary_of({"metrics": {"map": 0.2, "setups": setups}})
    assert summary == {"map": 0.2, "medium/map": 0.4, "hard/map/first": 0.2}
