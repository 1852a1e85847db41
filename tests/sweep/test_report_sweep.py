"""From a manifest and run folders to a report."""

import importlib.util
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import yaml

from deephash import retrieval
from deephash.config import checks, schema
from deephash.errors import ConfigError, WriteError
from deephash.report.results import make_sections
from deephash.runs.folder import RunFolder
from deephash.runs.query_precision import NotComparableError, query_precision
from deephash.sweep.paired import paired_differences
from deephash.sweep.report_sweep import _conditions, read_sweep, report_sweeps
from deephash.utils.files import write_arrays
from tests.commands import run

LAYOUT = {
    "rows": "method.loss.scale",
    "row_label": "β",
    "digits": 3,
    "figure": {"x": "method.loss.scale", "scale": "log"},
}
QUERIES, ITEMS, BITS = 30, 80, 8


def manifest(outputs, name, jobs, layout=LAYOUT):
    folder = outputs / "sweeps" / name
    folder.mkdir(parents=True, exist_ok=True)
    content = {"schema": 1, "name": name, "title": f"The {name}", "source": "nowhere",
            "command": f"python train.py -m +sweep={name}", "report": layout,
            "jobs": jobs}  # fmt: skip
    (folder / "sweep.json").write_text(json.dumps(content))


def entry(scale, seed, nbit=BITS):
    return {
        "run": f"digits/relahash/{nbit}bit/seed{seed},method.loss.scale={scale}",
        "overrides": ["method=relahash", "trainer=early_stop", f"seed={seed}", "trainer.epochs=2",
                      "group=beta", "logger=quiet"],
        "values": {"dataset": "digits", "dataset.protocol": "per_class", "method": "relahash",
                   "model.nbit": nbit, "seed": seed, "method.loss.scale": scale},
        "settings": ["trainer.epochs=2"],
    }  # fmt: skip


def finish(outputs, job, clean=0.5, ternary=None, **convention):
    """A finished run with codes that separate the classes to some degree."""
    random = np.random.default_rng(job["values"]["seed"] + 10)
    classes = [np.arange(many) % 5 for many in (QUERIES, ITEMS)]
    centers = random.choice([-1.0, 1.0], (5, BITS))
    noise = [random.standard_normal((many, BITS)) for many in (QUERIES, ITEMS)]
    z = [clean * centers[c] + n for c, n in zip(classes, noise, strict=True)]
    labels = [np.eye(5, dtype=bool)[c] for c in classes]
    convention = retrieval.Convention(**convention)
    metrics = retrieval.evaluate_codes(*z, *labels, convention, ternary=ternary)
    run, arrays = outputs / job["run"], {"fingerprint": "f" * 64, "nbit": BITS}
    for side, values, labels_ in zip(("query", "database"), z, labels, strict=True):
        arrays[f"{side}_codes"] = retrieval.pack(retrieval.binarize(values))
        arrays[f"{side}_labels"] = labels_
        arrays[f"{side}_ids"] = np.array([f"{side}{at}" for at in range(len(values))])
        if ternary is not None:
            mask = retrieval.undecided(values, ternary)
            arrays[f"{side}_undecided"] = retrieval.pack(mask)
    run.mkdir(parents=True)
    write_arrays(run / "codes.npz", arrays)
    labels_ = {
        "run": job["run"],
        "method": "relahash",
        "nbit": BITS,
        "seed": job["values"]["seed"],
        "metrics": metrics,
        "selection": {"select_on": "last", "epochs": 2},
        "protocol": {"dataset": "digits", "protocol": "per_class", "fingerprint": "f" * 64},
        "training": {"seconds": 1.0, "batch_size": 50},
        "environment": {"torch": "2"},
    }
    (run / "report.json").write_text(json.dumps(labels_))
    return labels_


def page(outputs, sweep, **more):
    values = {"sweep": sweep, "only": {}, "out": None, "compare": "best", "draws": 200, "seed": 0,
              "paths": {"outputs": str(outputs), "data": "data", "cache": None},
              "plugins": [], "logger": None, "wandb": None} | more  # fmt: skip
    return checks.parse_page(schema.Report, values)


@pytest.fixture
def outputs(tmp_path):
    """A sweep of two scales and two seeds: three runs have finished, one failed."""
    jobs = [entry(scale, seed) for scale in (5, 50) for seed in (0, 1)]
    for job, clean in zip(jobs[:3], (0.4, 0.4, 1.5), strict=True):
        finish(tmp_path, job, clean)
    folder = tmp_path / jobs[3]["run"]
    folder.mkdir(parents=True)
    (folder / "error.txt").write_text("\nboom: no memory\nTraceback\n")
    manifest(tmp_path, "beta", jobs)
    return tmp_path


def test_a_partial_sweep_is_reported(outputs, capsys, read_page):
    summary = report_sweeps(page(outputs, "beta", compare="50"))
    assert summary["runs"] == {"finished": 3, "failed": 1}
    folder = outputs / "sweeps" / "beta"
    assert not (folder / "report.json").exists() and (folder / "summary.json").is_file()
    output = capsys.readouterr().out
    assert "### digits, per_class, trainer.epochs=2\n" in output
    assert "(1 of 2 seeds, 1 failed)" in output and str(folder / "report.html") in output
    assert "the sweep sets trainer=early\\_stop; changed on the command line: trainer.epochs=2" in (
        output
    )
    assert "| 5 | 50 | −" in output  # the pair, over the one seed that both have
    text = read_page(folder / "report.html").text
    assert "boom: no memory" in text and "The beta" in text and "With one seed only" in text


def test_a_second_report_forgets_figures_that_are_no_more(outputs):
    report_sweeps(page(outputs, "beta"))
    figures = outputs / "sweeps" / "beta" / "figures"
    assert len(list(figures.iterdir())) == 2
    (figures / "mine.png").touch()
    manifest(outputs, "beta", [entry(50, 0), entry(50, 1)])
    report_sweeps(page(outputs, "beta"))
    assert [path.name for path in figures.iterdir()] == ["mine.png"]


def test_a_part_of_a_sweep_has_a_folder_of_its_own(outputs):
    report_sweeps(page(outputs, "beta"))
    folder = outputs / "sweeps" / "beta"
    whole = (folder / "table.md").read_text()
    report_sweeps(page(outputs, "beta", only={"method.loss.scale": 50}))
    assert (folder / "table.md").read_text() == whole
    part = (folder / "only-method.loss.scale=50" / "table.md").read_text()
    assert "| 50 |" in part and "| 5 |" not in part
    report_sweeps(page(outputs, "beta", only={"method.loss.scale": [5, 50]}))
    assert (folder / "only-method.loss.scale=5+50" / "table.md").is_file()


def test_several_are_joined_in_a_folder_named_for_all(outputs):
    manifest(outputs, "more", [entry(50, 0), entry(500, 0)])
    summary = report_sweeps(page(outputs, ["beta", "more"], compare=None))
    assert summary["runs"] == {"finished": 3, "failed": 1, "waiting": 1}
    text = (outputs / "sweeps" / "beta+more" / "table.md").read_text()
    assert text.count("### ") == 1 and "| 500 | — waiting |" in text
    assert "Paired" not in text


def test_without_a_sweep_the_page_of_all_runs_is_written(outputs, capsys, read_page):
    run = outputs / entry(5, 0)["run"]
    (run / "config.yaml").write_text("dataset: {}\n")
    (run / "report.html").touch()
    report = json.loads((run / "report.json").read_text())
    report["selection"]["epoch_last"] = 2  # every report of a training has it
    (run / "report.json").write_text(json.dumps(report))
    summary = report_sweeps(page(outputs, None))
    assert (summary["sweeps"], summary["runs"]) == (["beta"], 1)
    assert "1 of 4    beta  The beta" in capsys.readouterr().out
    links = [a.get("href") for _, a in read_page(outputs / "index.html").seen]
    assert any(link and link.endswith("report.html") for link in links)
    with pytest.raises(ConfigError, match="only  has no use without a sweep"):
        report_sweeps(page(outputs, None, only={"seed": 0}))


def test_out_sets_the_folder(outputs, tmp_path):
    report_sweeps(page(outputs, "beta", out=str(tmp_path / "elsewhere")))
    assert (tmp_path / "elsewhere" / "table.tex").is_file()


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"sweep": "betta"}, r"no sweep betta in .*There are: beta.*deephash report sweep=beta"),
        ({"only": {"seeds": 1}}, r"seeds is not an axis.*seed"),
        ({"only": {"seed": 7}}, r"no run has seed: 7.*seed: 0, 1"),
        ({"only": ["seed=7"]}, r"only  \['seed=7'\] is not .*{dataset:cifar10,model.nbit:64}"),
        ({"compare": "7"}, r"no row 7.*5, 50"),
    ],
)
def test_an_unknown_name_is_reported_with_the_known_ones(outputs, more, words):
    with pytest.raises(ConfigError, match=f"(?s){words}"):
        report_sweeps(page(outputs, **({"sweep": "beta"} | more)))


def test_without_any_sweep_the_error_states_how_to_start_one(tmp_path):
    with pytest.raises(ConfigError, match=r"deephash train -m"):
        report_sweeps(page(tmp_path, "beta"))


def test_a_damaged_manifest_is_named(outputs):
    (outputs / "sweeps" / "beta" / "sweep.json").write_text('{"jobs": [{}]}')
    with pytest.raises(ConfigError, match=r"sweep\.json is damaged"):
        report_sweeps(page(outputs, "beta"))


def test_a_running_job_shows_progress_and_partial_files_are_no_error(outputs):
    job = entry(500, 0)
    run = RunFolder(outputs / job["run"])
    run.lock()
    try:
        manifest(outputs, "beta", [job])
        (running,) = read_sweep(outputs, "beta").runs
        assert (running.state, running.progress) == ("running", "")
        (run.path / "config.yaml").write_text("dataset: {}\ntrainer: {epochs: 40}\n")
        (run.path / "log.jsonl").write_text('{"epoch": 2}\n{"epoch": 3}\n{"epo')
        (run.path / "report.json").write_text('{"metr')
        (running,) = read_sweep(outputs, "beta").runs
        assert (running.state, running.progress, running.report) == ("running", "3/40", None)
    finally:
        run.close()


@pytest.mark.parametrize(
    "convention",
    [
        {},
        {"ties": "stable", "top": 20, "empty": "skip_retrieved_none"},
        {"ties": "shuffled", "seed": 3, "denominator": "min", "top": 10},
        {"ternary": 0.4},
        {"ties": "stable", "drop_last": True},
    ],
)
def test_the_queries_of_a_run_are_worth_its_map(tmp_path, convention):
    job = entry(5, 0)
    job_folder = finish(tmp_path, job, **convention)
    precision = query_precision(tmp_path / job["run"], job_folder).precision
    assert precision[np.isfinite(precision)].mean() == job_folder["metrics"]["map"]


def test_pairs_are_the_difference_of_the_maps_over_the_seeds_of_both(outputs):
    jobs = [entry(scale, seed) for scale in (5, 50) for seed in (0, 1)]
    shutil.rmtree(outputs / jobs[3]["run"])
    finish(outputs, jobs[3], 1.5)
    sweep = read_sweep(outputs, "beta")
    (section,) = make_sections([sweep])
    (pair,) = paired_differences(section, "5", outputs, 200, 0).pairs
    values = [job.report["metrics"]["map"] for job in sweep.runs]
    assert pair.mean == pytest.approx((values[2] + values[3] - values[0] - values[1]) / 2)
    assert (pair.seeds, pair.queries, pair.excludes_zero) == (2, QUERIES, True)
    assert pair.low < pair.mean < pair.high


def test_runs_that_are_not_comparable_are_left_out_with_a_reason(outputs):
    def refused(**changes):
        sweep = read_sweep(outputs, "beta")
        jobs = list(sweep.runs)
        jobs[2] = replace(jobs[2], **changes)
        (section,) = make_sections([replace(sweep, runs=tuple(jobs))])
        result = paired_differences(section, "5", outputs, 200, 0)
        assert result.pairs == ()
        return result.not_compared[0].reason

    run = read_sweep(outputs, "beta").runs[2]
    other = run.report | {"protocol": run.report["protocol"] | {"fingerprint": ""}}
    assert "other data, or under another convention" in refused(report=other)
    assert "no seed" in refused(values={**run.values, "seed": 9})
    codes = outputs / run.name / "codes.npz"
    arrays = dict(np.load(codes))
    write_arrays(codes, arrays | {"query_ids": arrays["query_ids"][::-1]})
    assert "queries are not the same" in refused()
    write_arrays(codes, arrays | {"query_codes": arrays["query_codes"][::-1]})
    assert "does not reproduce" in refused()
    write_arrays(codes, arrays | {"fingerprint": "0"})
    assert "other data than its report" in refused()
    codes.write_bytes(b"PK\x03\x04")
    with pytest.raises(
        NotComparableError, match=r"it is cut off, or not an npz file \(codes\.npz\)"
    ):
        query_precision(codes.parent, run.report)


@pytest.mark.slow
def test_real_runs_from_the_command_line(tmp_path, read_page):
    """Two tiny runs, their report with what W&B keeps on this machine."""
    jobs = []
    for scale in (5, 50):
        job = entry(scale, 0) | {
            "run": f"digits/relahash/8bit/seed0,method.loss.scale={scale},trainer.epochs=2"
        }
        jobs.append(job)
    variables = {"WANDB_MODE": "offline"}
    for folder_ in ("DATA", "CACHE", "CONFIG"):  # where wandb keeps copies of artifacts
        variables[f"WANDB_{folder_}_DIR"] = str(tmp_path / "wandb")

    def python(script, *words):
        return run(tmp_path, *words, f"paths.outputs={tmp_path}", script=script, env=variables)

    python("train.py", "-m", "method=relahash", "method.loss.scale=5,50", "model.nbit=8", "seed=0",
           "trainer.epochs=2", "dataset=digits", "logger=quiet")  # fmt: skip
    manifest(tmp_path, "beta", jobs)
    wandb = importlib.util.find_spec("wandb") is not None
    output = python("report", "sweep=beta", *["logger=wandb"] * wandb)
    assert "2 runs: 2 finished." in output and "Not compared" not in output
    assert "| β | 8 bits |" in output and ("| 5 | 50 |" in output or "| 50 | 5 |" in output)
    folder = tmp_path / "sweeps" / "beta"
    assert "2 of 2" in read_page(folder / "report.html").text
    assert len(list((folder / "figures").glob("*.png"))) == 1
    if wandb:
        (kept,) = folder.glob("wandb/offline-run-*/*.wandb")
        content = kept.read_bytes()
        assert b"report.html" in content
        assert b"tables/results" in content and b"charts/map" in content


DAMAGES = {
    "codes.npz": [b"", b"PK\x03\x04", b"no archive"],
    "report.json": [b"", b"[1, 2]", b"[" * 50_000, b"{}", b"\xff", b'{"metrics": {}}'],
}


@pytest.mark.parametrize(
    ("name", "content"), [(name, damage) for name, damages in DAMAGES.items() for damage in damages]
)
def test_a_damaged_run_is_marked_and_the_others_are_reported(outputs, capsys, name, content):
    (outputs / read_sweep(outputs, "beta").runs[0].name / name).write_bytes(content)
    text = report_sweeps(page(outputs, "beta", compare="50"))
    output = capsys.readouterr().out
    if name == "report.json":
        assert text["runs"] == {"damaged": 1, "finished": 2, "failed": 1}
        assert "left out: " in output and "report.json: " in output
        assert "report.json: " in (outputs / "sweeps" / "beta" / "report.html").read_text()
    else:
        assert text["runs"] == {"finished": 3, "failed": 1}
        assert "Not compared, because seed" in output and "(codes.npz)" in output


def test_one_damaged_member_of_codes_is_reported(outputs, capsys):
    codes = outputs / read_sweep(outputs, "beta").runs[0].name / "codes.npz"
    arrays = dict(np.load(codes))
    for change in ({"query_codes": arrays["query_codes"].astype(float)}, {"nbit": np.array("x")},
                   {"query_labels": arrays["query_labels"][:3]}, {"database_ids": None},
                   {"query_codes": np.zeros((0, 1), np.uint8), "query_ids": np.empty(0, "U1"),
                    "query_labels": np.zeros((0, 5), bool)}):  # fmt: skip
        write_arrays(codes, {k: v for k, v in (arrays | change).items() if v is not None})
        report_sweeps(page(outputs, "beta", compare="50"))
        assert "Not compared, because " in capsys.readouterr().out


def test_an_untrusted_summary_removes_nothing_outside(outputs, tmp_path):
    """`summary.json` names the files of an earlier report; it may be untrusted, with links."""
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "kept.txt").write_text("text")
    folder = outputs / "sweeps" / "beta"
    (folder / "link").symlink_to(victim)
    listed = ["link/kept.txt", "../../../victim/kept.txt", str(victim / "kept.txt"), "table.old"]
    (folder / "table.old").write_text("")
    (folder / "summary.json").write_text(json.dumps({"files": listed}))
    report_sweeps(page(outputs, "beta"))
    assert (victim / "kept.txt").read_text() == "text" and not (folder / "table.old").exists()


def test_a_sweeps_folder_that_is_a_link_is_not_written_through(outputs, tmp_path):
    folder, victim = outputs / "sweeps" / "beta", tmp_path / "victim"
    folder.rename(victim)
    folder.symlink_to(victim)
    before = {file.name for file in victim.iterdir()}
    with pytest.raises(WriteError, match="symbolic link"):
        report_sweeps(page(outputs, "beta"))
    assert {file.name for file in victim.iterdir()} == before


def test_the_conditions_of_a_run_are_those_of_its_configuration(tmp_path):
    """Also where the further R hold a text; of a closed form no epochs, rates and selection."""
    run = {
        "dataset": {"protocol": "59k"},
        "backbone": {"_target_": "deephash.models.backbones.Tiny", "frozen": True},
        "optimizer": {"lr": 0.001, "weight_decay": 0.0005},
        "trainer": {"epochs": 100, "select_on": "last"},
        "method": {"views": ["cibhash", "cibhash"], "cached_views": 8},
        "evaluation": {"tops": [100, "all"]},
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(run))
    assert _conditions(RunFolder(tmp_path)) == {
        "protocol": "59k", "backbone": "tiny", "frozen": "yes", "dropout": "-", "epochs": "100",
        "learning rate": "0.0010", "weight decay": "0.0005", "selection": "last",
        "views": "cibhash, cibhash", "cached views": "8",
    }  # fmt: skip
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(run | {"optimizer": None}))
    closed = _conditions(RunFolder(tmp_path))
    assert {closed[key] for key in ("epochs", "learning rate", "weight decay", "selection")} == {
        "-"
    }
    (tmp_path / "config.yaml").unlink()
    assert _conditions(RunFolder(tmp_path)) == {}
