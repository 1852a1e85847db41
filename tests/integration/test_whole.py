"""Whole jobs, from the command line to the files they leave: what a user meets."""

import importlib.util
import json
import random
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from hydra import compose
from PIL import Image

from deephash.config import checks, resolve
from deephash.config.explain import explain
from deephash.config.overrides import parse_all, texts
from deephash.sweep import multirun, spec
from tests.commands import environment, run, start
from tests.pages import composable
from tests.paths import ROOT

SMALL = ("logger=quiet", "trainer.epochs=1")


def quoted(folder):
    return f'run="{folder}"'


def read(file):
    def no_constant(name):
        raise AssertionError(f"{file} is no strict JSON: {name}")

    return json.loads(file.read_text(), parse_constant=no_constant)


def log_of(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def names(folder):
    return {file.name for file in folder.iterdir()}


def changed(folder, change):
    """Rewrites the configuration of a run folder."""
    file = folder / "config.yaml"
    values = yaml.safe_load(file.read_text())
    change(values)
    file.write_text(yaml.safe_dump(values, sort_keys=False))


RUN = "digits/relahash/32bit/seed0,trainer.epochs=3,trainer.eval_every=1"
LINE = ("trainer.epochs=3", "trainer.eval_every=1")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """One finished run on digits: its working directory, folder and report. Not to be changed."""
    cwd = tmp_path_factory.mktemp("base")
    output = run(cwd, *LINE, figures=True)
    folder = cwd / "outputs" / RUN
    assert folder.is_dir(), output
    return cwd, folder, read(folder / "report.json"), output


@pytest.fixture
def copy(base, tmp_path):
    """A copy of the finished run, to be changed at will: working directory and folder."""
    shutil.copytree(base[0] / "outputs", tmp_path / "outputs", symlinks=True)
    return tmp_path, tmp_path / "outputs" / RUN


class TestTraining:
    def test_the_folder_holds_the_whole_run_and_nothing_else(self, base):
        cwd, folder, _, output = base
        assert names(cwd) <= {"outputs", "cache"}
        assert names(folder) == {
            "best.pt", "codes.npz", "config.yaml", "last.pt", "log.jsonl", "overrides.txt",
            "report.html", "report.json",
        }  # fmt: skip
        assert (folder / "overrides.txt").read_text().splitlines() == list(LINE)
        assert str(folder.relative_to(cwd)) in output
        page = (folder / "report.html").read_text()
        assert "<html" in page and page.count('<svg class="plot"') == 3

    def test_report_is_complete(self, base):
        report = base[2]
        metrics, selection, protocol = (report[key] for key in ("metrics", "selection", "protocol"))
        assert 0 < metrics["map"] <= 1
        assert metrics["conventions"]["metric"] == "mAP@all"
        assert {"ties", "denominator", "empty", "top"} <= set(metrics["conventions"])
        three = [selection[f"map_{key}"] for key in ("best_on_query", "at_val_epoch", "last")]
        assert all(isinstance(value, float) for value in three)
        assert metrics["map"] == three[0] == max(three)
        assert selection["epoch_last"] == selection["epochs"] == 3
        assert selection["selected_epoch"] == selection["epoch_best_on_query"]
        assert not selection["stopped_early"]
        counted = [protocol[f"num_{role}"] for role in ("train", "database", "queries")]
        assert counted == [500, 1597, 200]
        assert re.fullmatch("[0-9a-f]{64}", protocol["fingerprint"])
        assert report["nbit"] == 32 and report["seed"] == 0 and report["method"] == "relahash"
        assert report["training"]["steps"] == 30

    def test_log_has_every_epoch_and_evaluation(self, base):
        lines = log_of(base[1])
        for where in ("train", "query", "val"):
            assert {line["epoch"] for line in lines if line["where"] == where} == {1, 2, 3}
        assert len({(line["where"], line["step"]) for line in lines}) == len(lines)
        train = [line for line in lines if line["where"] == "train"]
        assert all({"loss", "lmcl", "lr", "grad_norm"} <= set(line) for line in train)
        maps = [line["map"] for line in lines if line["where"] == "query"]
        assert max(maps) == base[2]["metrics"]["map"]

    def test_checkpoints_and_codes_can_be_read(self, base):
        _, folder, report, _ = base
        best = torch.load(folder / "best.pt", weights_only=True)
        last = torch.load(folder / "last.pt", weights_only=True)
        assert best["epoch"] == report["selection"]["selected_epoch"]
        assert last["progress"]["epoch"] == 3
        with np.load(folder / "codes.npz", allow_pickle=False) as codes:
            assert codes["query_codes"].shape == (200, 4)
            assert codes["database_codes"].shape == (1597, 4)
            assert len(set(codes["query_ids"]) | set(codes["database_ids"])) == 1797
            assert str(codes["fingerprint"]) == report["protocol"]["fingerprint"]

    def test_what_is_finished_is_skipped(self, base):
        cwd, folder, _, _ = base
        before = (folder / "report.json").stat().st_mtime_ns
        assert "finished already" in run(cwd, *LINE)
        assert (folder / "report.json").stat().st_mtime_ns == before


class TestEvaluation:
    def test_measures_the_same_from_the_encoder_alone(self, base, copy):
        cwd, folder = copy

        def break_what_only_training_needs(values):
            for part in ("loss", "codebook", "similarity", "relaxation"):
                values["method"][part] = {"_target_": "deephash.nowhere.Nothing"}
            values["optimizer"] = {"_target_": "deephash.nowhere.Nothing"}

        changed(folder, break_what_only_training_needs)
        output = run(cwd, quoted(folder), "figures=false", script="evaluate.py")
        assert "the same" in output and "DIFFERENT" not in output
        result = read(folder / "evaluation.json")
        assert result["metrics"]["map"] == base[2]["metrics"]["map"]
        assert result["metrics"] == base[2]["metrics"]
        assert result["protocol"] == base[2]["protocol"]

    def test_takes_the_folder_as_training_printed_it(self, copy):
        """Names of run folders have = and , in them, which Hydra would read as syntax."""
        cwd, folder = copy
        printed = folder.relative_to(cwd)
        output = run(cwd, f"run={printed}", "figures=false", script="evaluate.py")
        assert "the same" in output

    def test_other_conventions_and_the_last_checkpoint(self, copy):
        cwd, folder = copy
        line = (quoted(folder), "checkpoint=last", "evaluation.ties=stable", "figures=false")
        output = run(cwd, *line, script="evaluate.py")
        assert "ties stable" in output and "training reported" not in output
        result = read(folder / "evaluation.json")
        assert result["checkpoint"] == "last.pt"
        assert result["metrics"]["conventions"]["ties"] == "stable"

    def test_a_page_with_figures_that_stands_alone(self, copy):
        cwd, folder = copy
        output = run(cwd, quoted(folder), "tsne=60", "gallery.queries=[0,3]", script="evaluate.py")
        assert "evaluation.html" in output
        page = (folder / "evaluation.html").read_text()
        assert "<link" not in page and "<script" not in page
        assert (
            page.count("<img ") >= 2 * 11
            and "Selected queries" in page
            and "t-SNE of the continuous codes of 60" in page
        )
        assert {"precision_recall", "distances", "tsne", "retrieved"} <= {
            path.stem for path in (folder / "figures").glob("*.svg")
        }

    def test_without_figures_none_of_another_measurement_are_left(self, copy):
        cwd, folder = copy
        run(cwd, quoted(folder), "tsne=0", "gallery.rows=1", script="evaluate.py")
        assert (folder / "figures" / "precision_recall.png").is_file()
        run(cwd, quoted(folder), "figures=false", script="evaluate.py")
        assert (folder / "evaluation.html").exists()  # it shows these very numbers
        line = (quoted(folder), "figures=false", "evaluation.ties=stable")
        assert "removed" in run(cwd, *line, script="evaluate.py")
        assert not (folder / "evaluation.html").exists()
        assert not list((folder / "figures").glob("*"))

    def test_elsewhere(self, copy):
        cwd, folder = copy
        before = names(folder)
        line = ("evaluation.ties=worst", "evaluation.tops=[10]", "out=else/where", "figures=false")
        output = run(cwd, quoted(folder), *line, script="evaluate.py")
        assert names(folder) == before
        assert names(cwd / "else" / "where") == {"evaluation.json", "codes.npz"}
        assert "mAP@10 " in output and "P@H<=2 " in output

    def test_an_unfinished_run_is_reported(self, copy):
        cwd, folder = copy
        (folder / "report.json").unlink()
        output = run(cwd, quoted(folder), "figures=false", script="evaluate.py")
        assert "training has not finished" in output

    def test_the_codes_of_another_checkpoint_are_kept_apart(self, copy):
        cwd, folder = copy
        before = (folder / "codes.npz").read_bytes()
        run(cwd, quoted(folder), "checkpoint=last", "figures=false", script="evaluate.py")
        assert (folder / "codes.npz").read_bytes() == before
        assert (folder / "codes-last.npz").is_file()

    def test_a_convention_by_name(self, copy):
        cwd, folder = copy
        assert read(folder / "report.json")["metrics"]["conventions"]["family"] is None
        line = (quoted(folder), "evaluation.convention=deephash-pytorch", "evaluation.tops=[5]")
        output = run(cwd, *line, "figures=false", script="evaluate.py")
        assert "mAP@all-1" in output
        metrics = read(folder / "evaluation.json")["metrics"]
        assert set(metrics["map_at"]) == {"5"}
        conventions = metrics["conventions"]
        assert (conventions["metric"], conventions["ties"]) == ("mAP@all-1", "stable")
        assert conventions["family"] == "deephash-pytorch"

    def test_several_runs_side_by_side(self, base, copy):
        cwd, folder = copy
        output = run(cwd, "runs=.", "out=both", "tsne=0", script="evaluate.py")
        assert "comparison of 1 runs: both/comparison.html" in output
        assert (cwd / "both" / "figures" / "precision_recall.png").is_file()
        assert not (folder / "evaluation.json").exists()  # what was reported is not measured again
        run(
            cwd,
            "runs=.",
            "out=both",
            "evaluation.ties=worst",
            "figures=false",
            script="evaluate.py",
        )
        worst = read(folder / "evaluation.json")["metrics"]
        assert worst["map"] == base[2]["metrics"]["ties"]["worst"]

    def test_a_report_from_before_codes_were_described_is_measured_again(self, copy):
        cwd, folder = copy
        report = read(folder / "report.json")
        del report["metrics"]["codes"]
        (folder / "report.json").write_text(json.dumps(report))
        output = run(cwd, f"runs={folder.relative_to(cwd)}", "tsne=0", script="evaluate.py")
        assert "measured again" in output and (folder / "evaluation.json").is_file()
        assert (cwd / "comparison" / "figures" / "distances.png").is_file()

    def test_runs_that_are_not_there(self, copy):
        cwd, folder = copy
        (folder / "report.json").unlink()
        output = run(cwd, "runs=.", script="evaluate.py", code=1)
        assert "there is no finished run in ." in output
        output = run(cwd, f"runs=['{folder}']", script="evaluate.py", code=1)
        assert "has not finished" in output
        assert not (cwd / "comparison").exists()

    def test_a_folder_without_a_run(self, tmp_path):
        output = run(tmp_path, "run=nowhere", script="evaluate.py", code=1)
        assert "nowhere is not a run folder" in output
        assert names(tmp_path) <= {"cache"}

    def test_runs_no_foreign_code(self, copy):
        cwd, folder = copy
        foreign = {"_target_": "os.system", "command": "touch ran"}
        changed(folder, lambda values: values["method"].update(head=foreign))
        output = run(cwd, quoted(folder), script="evaluate.py", code=1)
        assert "os.system" in output and "may not run other code" in output
        assert not (cwd / "ran").exists()


LONG = ("logger=quiet", "trainer.epochs=8", "trainer.eval_every=1", "backbone.width=24")
LONG_NAME = "digits/relahash/32bit/seed0,backbone.width=24,trainer.epochs=8,trainer.eval_every=1"


def kill_after(cwd, epoch):
    """Starts the long run and kills it at some moment after so many epochs."""
    folder = cwd / "outputs" / LONG_NAME
    process = start(cwd, *LONG)
    try:
        wanted = f'"epoch": {epoch},'
        until = time.monotonic() + 120
        while time.monotonic() < until and process.poll() is None:
            log = folder / "log.jsonl"
            if log.is_file() and wanted in log.read_text() and (folder / "last.pt").is_file():
                break
            time.sleep(0.005)
        time.sleep(random.uniform(0, 0.1))
        assert process.poll() is None, "the run was over before it was killed"
        process.send(signal.SIGKILL)
    finally:
        process.wait(60)
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The long run at once, and the same killed twice: their folders, and the last output."""
    straight, killed = tmp_path_factory.mktemp("straight"), tmp_path_factory.mktemp("killed")
    run(straight, *LONG)
    for epoch in (2, 4):
        folder = kill_after(killed, epoch)
        assert not (folder / "report.json").exists()
    (folder / ".last.pt.1.tmp").write_bytes(b"what a kill in the middle of saving leaves")
    with (folder / "log.jsonl").open("a") as log:
        log.write('{"time": "torn')
    output = run(killed, *LONG)
    return straight / "outputs" / LONG_NAME, folder, output


class TestKilled:
    def test_it_continues_where_it_stopped(self, runs):
        resumed = re.search(r"resumed after epoch (\d+)", runs[2])
        assert resumed and 3 <= int(resumed[1]) < 8

    @pytest.mark.parametrize("file", ["last.pt", "best.pt"])
    def test_weights_are_those_of_a_run_without_interruption(self, runs, file):
        def tensors(node, path=""):
            if isinstance(node, torch.Tensor):
                return {path: node}
            items = node.items() if isinstance(node, dict) else enumerate(node)
            return {
                key: value
                for name, child in items
                if isinstance(child, dict | list | tuple | torch.Tensor)
                for key, value in tensors(child, f"{path}/{name}").items()
            }

        a, b = (tensors(torch.load(folder / file, weights_only=True)) for folder in runs[:2])
        assert a.keys() == b.keys() and len(a) > 10
        assert [key for key in a if not torch.equal(a[key], b[key])] == []

    def test_report_is_that_of_a_run_without_interruption(self, runs):
        a, b = (read(folder / "report.json") for folder in runs[:2])
        for key in ("metrics", "selection", "protocol", "run"):
            assert a[key] == b[key]
        assert a["training"]["steps"] == b["training"]["steps"]

    def test_the_log_contains_everything_once(self, runs):
        timely = ("time", "images_per_second", "data_share")
        a, b = (
            [{key: line[key] for key in line if key not in timely} for line in log_of(folder)]
            for folder in runs[:2]
        )
        assert len({(line["where"], line["step"]) for line in b}) == len(b)
        assert a == b

    def test_leaves_no_pieces(self, runs):
        assert names(runs[0]) == names(runs[1])


class TestGrid:
    GRID = ("-m", "model.nbit=8,16", "seed=0,1", "backbone.width=4", *SMALL)

    def test_every_job_has_a_folder_and_runs_once(self, tmp_path):
        run(tmp_path, *self.GRID)
        reports = sorted((tmp_path / "outputs").rglob("report.json"))
        method = tmp_path / "outputs/digits/relahash"
        assert reports == [
            method / f"{bits}bit/seed{seed},backbone.width=4,trainer.epochs=1/report.json"
            for bits in (16, 8)
            for seed in (0, 1)
        ]
        assert {(read(file)["nbit"], read(file)["seed"]) for file in reports} == {
            (8, 0), (8, 1), (16, 0), (16, 1)
        }  # fmt: skip
        before = [file.stat().st_mtime_ns for file in reports]
        assert "4 jobs: 0 to run, 4 finished already" in run(tmp_path, *self.GRID)
        assert [file.stat().st_mtime_ns for file in reports] == before


class TestOtherConfiguration:
    def test_a_folder_with_another_run_is_not_taken_over(self, base, copy):
        cwd, folder = copy
        changed(folder, lambda values: values["optimizer"].update(lr=0.25))
        report = (folder / "report.json").read_text()
        output = run(cwd, *LINE, code=1)
        assert "optimizer.lr: 0.25 -> 0.001" in output and "rerun=true" in output
        assert (folder / "report.json").read_text() == report
        run(cwd, *LINE, "rerun=true", "logger=quiet")
        assert read(folder / "report.json")["metrics"] == base[2]["metrics"]
        assert yaml.safe_load((folder / "config.yaml").read_text())["optimizer"]["lr"] == 0.001
        assert len(log_of(folder)) == len(log_of(base[1]))


class TestBadCommandLines:
    @pytest.mark.parametrize(
        ("line", "message"),
        [
            (
                ("trainer.epoch=3", "seed=x", "method=nothing", "model.nbit=0"),
                ("4 problems", "trainer.epochs", "'x'", "relahash", "model.nbit"),
            ),
            (
                ("model.nbit=0", "+optimizer.lrr=1", "trainer.device=tpu"),
                ("3 problems", "model.nbit", "optimizer.lr", "trainer.device"),
            ),
            (("-m", "seed=0,x", "model.nbit=8,16"), ("1 problem", "'x'")),
            (("dataset=folder",), ("dataset.root",)),
        ],
    )
    def test_all_faults_are_reported_and_nothing_is_written(self, tmp_path, line, message):
        output = run(tmp_path, *line, code=2)
        for text in message:
            assert text in output, output
        assert names(tmp_path) == set()


def noise(file, side, seed):
    """A PNG or JPEG of coloured noise; the class sits in the colour."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 128, (side, side, 3))
    pixels[..., seed % 3] += 127
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.astype(np.uint8)).save(file)


class TestFolder:
    LINE = (
        "dataset=folder", "dataset.root=images", "backbone=tiny", "dataset.size=16",
        "dataset.source.size=20", "dataset.protocols.per_class.queries=3", "trainer.batch_size=8",
        *SMALL,
    )  # fmt: skip

    def test_own_images_good_and_corrupt(self, tmp_path):
        for label in range(3):
            for at in range(12):
                noise(tmp_path / f"images/class{label}/{at:02d}.png", 24 + at, label + 3 * at)
        run(tmp_path, *self.LINE)
        (file,) = (tmp_path / "outputs").rglob("report.json")
        protocol = read(file)["protocol"]
        assert protocol["classes"] == ["class0", "class1", "class2"]
        assert protocol["num_queries"] == 9 and protocol["num_database"] == 27
        assert protocol["num_skipped"] == 0
        assert file.relative_to(tmp_path / "outputs").parts[0] == "folder"

        (tmp_path / "images/class1/05.png").write_bytes(b"no image")
        elsewhere = (*self.LINE, "paths.outputs=second")
        output = run(tmp_path, *elsewhere, code=1)
        assert "05.png" in output and "on_error=skip" in output
        run(tmp_path, *elsewhere, "dataset.source.on_error=skip")
        (file,) = (tmp_path / "second").rglob("report.json")
        protocol = read(file)["protocol"]
        assert protocol["num_skipped"] == 1 and protocol["skipped"] == ["class1/05.png"]
        assert protocol["num_database"] == 26


class TestCifar:
    LINE = (
        "dataset=cifar10",
        "dataset.root=cifar",
        "dataset.source.download=false",
        "backbone=tiny",
        *SMALL,
    )

    def test_without_files_both_ways_on_are_named(self, tmp_path):
        (tmp_path / "cifar").mkdir()
        line = (*self.LINE[:3], "backbone.weights=none", *SMALL)
        output = run(tmp_path, *line, code=1)
        assert "downloads are disabled" in output
        assert "dataset.source.download=true" in output and "dataset.root=FOLDER" in output

    def test_other_counts_than_the_protocol_are_refused(self, tmp_path):
        for part, count in (("train", 2), ("test", 1)):
            for label in range(10):
                for at in range(count):
                    noise(tmp_path / f"cifar/{part}/class{label}/{at}.jpg", 32, label)
        output = run(tmp_path, *self.LINE, "dataset.protocol=full_official", code=1)
        for role, wanted, result in (
            ("train", 50000, 20),
            ("database", 50000, 20),
            ("queries", 10000, 10),
        ):
            assert f"num_{role} should be {wanted} and is {result}" in output


class TestWandb:
    @pytest.mark.skipif(importlib.util.find_spec("wandb") is None, reason="wandb is not installed")
    def test_offline(self, tmp_path):
        line = ("logger=wandb", "logger.wandb.mode=offline", "trainer.epochs=1")
        run(tmp_path, *line)
        folder = tmp_path / "outputs/digits/relahash/32bit/seed0,trainer.epochs=1"
        assert list((folder / "wandb").glob("offline-run-*/*.wandb"))
        assert not (tmp_path / "wandb").exists()
        assert (folder / "report.html").is_file()
        assert {line["where"] for line in log_of(folder)} == {"train", "query", "val"}

    @pytest.fixture
    def blocked(self, tmp_path):
        package = tmp_path / "block" / "wandb"
        package.mkdir(parents=True)
        (package / "__init__.py").write_text("raise ImportError('blocked')\n")
        return {"PYTHONPATH": str(package.parent)}

    def test_is_not_needed_without_it(self, tmp_path, blocked):
        run(tmp_path, "trainer.epochs=1", env=blocked)
        assert list((tmp_path / "outputs").rglob("report.json"))

    def test_wandb_is_used_only_if_selected(self, tmp_path, blocked):
        output = run(tmp_path, "logger=wandb", "trainer.epochs=1", env=blocked, code=1)
        assert "logger=wandb needs the package wandb" in output and "pip install wandb" in output


class TestHelp:
    @pytest.mark.parametrize("script", ["train.py", "evaluate.py"])
    def test_is_quick_and_names_the_choices(self, tmp_path, script):
        done = subprocess.run(
            [sys.executable, "-X", "importtime", str(ROOT / script), "--help"],
            cwd=tmp_path, env=environment(tmp_path), capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
        assert "deephash.cli" in imported
        assert imported & {"torch", "torchvision", "sklearn", "wandb", "PIL"} == set()
        assert f"python {ROOT / script}" in done.stdout
        if script == "train.py":
            for group in ("method", "dataset"):
                choices = ", ".join(sorted(file.stem for file in (ROOT / "conf" / group).iterdir()))
                assert f"{group}: {choices}\n" in done.stdout
        assert names(tmp_path) == set()


def readme_lines():
    pages = ("README.md", "docs/first_run.md", "docs/photos.md", "docs/evaluation.md")
    text = "\n".join((ROOT / page).read_text() for page in pages).replace("\\\n", " ")
    blocks = re.findall(r"^```sh\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    lines = [line.strip() for block in blocks for line in block.splitlines()]
    return [
        line
        for line in lines
        if re.match(r"python (train|evaluate)\.py", line) and "--" not in line.partition("#")[0]
    ]


class TestReadme:
    def test_shows_how_to_train_and_evaluate(self):
        scripts = {line.split()[1] for line in readme_lines()}
        assert scripts == {"train.py", "evaluate.py"}

    @pytest.mark.parametrize("line", readme_lines())
    def test_commands_compose(self, line, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        _, script, *words = shlex.split(line, comments=True)
        overrides = [word for word in words if "=" in word and not word.startswith("-")]
        for word in overrides:  # placeholders such as FILE stand for something that is there
            if re.fullmatch("[A-Z_]+", word.partition("=")[2]):
                (tmp_path / word.partition("=")[2]).touch()
        with composable():
            if script != "train.py":
                resolve.resolve(compose(Path(script).stem, overrides=overrides))
                return
            many = {"-m", "--multirun"} & set(words)
            given = parse_all(overrides)
            if (name := multirun.sweep_name(given)) is not None:
                sheet = spec.SweepSpec.read(ROOT / "sweeps", name)
                given = [override for override in given if override.key != "sweep"]
                given = multirun.build_grid(sheet, given).jobs[0]
            if not many:
                resolve.resolve(compose("train", overrides=texts(given)))  # no value is left open
            faults = explain(
                given,
                lambda overrides_: compose("train", overrides=texts(overrides_)),
                checks.check_train,
            )
        assert [fault for fault in faults if fault.key != "trainer.device"] == []


class TestSelection:
    LINE = ("trainer=early_stop", "trainer.patience=1", "trainer.epochs=30", "logger=quiet")

    def test_early_stopping_also_when_killed_after_it(self, tmp_path):
        run(tmp_path, *self.LINE)
        (file,) = (tmp_path / "outputs").rglob("report.json")
        report, folder = read(file), file.parent
        selection, log = report["selection"], (folder / "log.jsonl").read_text()
        assert selection["stopped_early"] is True
        assert selection["epoch_last"] == selection["selected_epoch"] + 1 < 30
        assert torch.load(folder / "best.pt")["epoch"] == selection["selected_epoch"]

        file.unlink()  # as if killed between the last epoch and the report
        run(tmp_path, *self.LINE)
        again = read(file)
        assert again["selection"] == selection and again["metrics"] == report["metrics"]
        assert (folder / "log.jsonl").read_text() == log

    def test_select_on_selects_by_its_metric(self, tmp_path):
        line = ("-m", "trainer.select_on=val,last", "trainer.epochs=4", "trainer.eval_every=1")
        run(tmp_path, *line, "optimizer.lr=0.02", "backbone.width=8", "logger=quiet")
        files = sorted((tmp_path / "outputs").rglob("report.json"))
        assert len(files) == 2
        for file in files:
            report = read(file)
            selection = report["selection"]
            on = selection["select_on"]
            assert on in file.parent.name
            assert (
                selection["selected_epoch"]
                == selection[{"val": "epoch_at_val", "last": "epoch_last"}[on]]
            )
            assert (
                report["metrics"]["map"]
                == selection[{"val": "map_at_val_epoch", "last": "map_last"}[on]]
            )
            best = torch.load(file.parent / "best.pt")
            assert best["epoch"] == selection["selected_epoch"]
