"""Whole runs on images without labels: training, reports, pages, evaluation, report of a sweep."""

import json
import re
import shutil

import numpy as np
import pytest
from hydra import compose
from omegaconf import OmegaConf
from PIL import Image

from deephash import retrieval, runs
from deephash.config import build, checks, resolve, schema
from deephash.config.overrides import parse_all
from deephash.data.sources.basic import Folder
from deephash.errors import ConfigError, DataError
from deephash.losses.pairwise import PairwiseLikelihood
from deephash.sweep import report_sweep
from deephash.training import checkpoint
from tests.pages import job
from tests.paths import ROOT

pytestmark = pytest.mark.usefixtures("composable")


CONF = str(ROOT / "conf")
SMALL = ["dataset=folder", "dataset.protocol=drawn", "dataset.protocols.drawn.queries=6",
         "dataset.size=16", "dataset.source.size=16", "backbone=tiny", "backbone.width=4",
         "trainer.device=cpu", "trainer.epochs=2", "trainer.eval_every=1", "trainer.batch_size=8",
         "model.nbit=8", "method=dpsh", "trainer.snapshots=5"]  # fmt: skip
NULLS = ("map", "map_min", "map_within_radius_2", "recall_within_radius_2", "precision_at",
         "recall_at", "hit_rate_at", "pr_curve", "pr_curve_by_rank", "queries_counted",
         "queries_without_relevant", "queries_without_hits")  # fmt: skip


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Images without labels below ``flat``, others in two class folders below ``two``."""
    folder = tmp_path_factory.mktemp("images")
    for number in range(30):
        noise = np.random.default_rng(number).integers(0, 256, (16, 16, 3), dtype=np.uint8)
        for place in (folder / "flat", folder / "two" / "ab"[number % 2]):
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(noise).save(place / f"{number:02}.png")
    return folder


def let_dpsh_read_no_labels(patch):
    """The loss of dpsh pushes codes apart and reads no labels."""
    patch.setattr(PairwiseLikelihood, "labels", False, raising=False)
    patch.setattr(
        PairwiseLikelihood, "forward", lambda self, output, batch: {"spread": -output.u.var()}
    )


@pytest.fixture
def without_labels(monkeypatch, without_curves):
    let_dpsh_read_no_labels(monkeypatch)


def folded(root, outputs, *words, quiet=True):
    words = [*SMALL, f"dataset.root={root}/flat", f"paths.outputs={outputs}", *words]
    words += ["logger=quiet"] * quiet
    return resolve.resolve(compose("train", overrides=words), parse_all(words)), parse_all(words)


def train(root, outputs, *words, **options):
    cfg, words = folded(root, outputs, *words, **options)
    return runs.train(checks.parse_page(schema.Train, cfg, words), words)


def evaluate(*words):
    words = list(words)
    return runs.evaluate(*job("evaluate", words))


def no_nan(file):
    def refuse(word):
        raise AssertionError(f"{word} in {file}")

    return json.loads(file.read_text(), parse_constant=refuse)


@pytest.fixture(scope="module")
def trained(root, composable, tmp_path_factory):
    """A run with all figures, not to be changed: its outputs and its folder."""
    outputs = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        let_dpsh_read_no_labels(patch)
        return outputs, train(root, outputs)["run"]


@pytest.fixture
def run(trained, tmp_path, without_labels):
    """A copy of the run."""
    outputs, name = trained
    shutil.copytree(outputs, tmp_path, dirs_exist_ok=True)
    return tmp_path / name


def test_a_run_reports_what_needs_no_labels(run, capsys):
    report = no_nan(run / "report.json")
    metrics = report["metrics"]
    assert {key: metrics[key] for key in NULLS} == dict.fromkeys(NULLS)
    assert set(metrics["ties"].values()) == {None}
    assert metrics["note"] == retrieval.NO_LABELS
    assert metrics["precision_within_radius_2"]["empty_fraction"] is not None
    assert 0 <= metrics["distances"]["mean_nearest"] <= metrics["distances"]["mean"] <= 8
    assert metrics["codes"]["bits"]["distinct_codes"] >= 1
    assert metrics["codes"]["distances"]["pairs"] == 24 * 23 // 2
    assert metrics["codes"]["separability"] is None and metrics["codes"]["histograms"] is None
    assert (report["protocol"]["num_classes"], report["protocol"]["num_train"]) == (0, 24)
    selection = report["selection"]
    assert (selection["select_on"], selection["selected_epoch"]) == ("last", 2)
    assert selection["map_last"] is None and selection["map_best_on_query"] is None
    assert checkpoint.load_state(run / "best.pt")["epoch"] == 2
    codes = retrieval.StoredCodes.read(run / "codes.npz")
    assert codes.query.labels is None and len(codes.database.codes) == 24
    page = re.sub(r"base64,[^\"]*", "", (run / "report.html").read_text())
    assert retrieval.NO_LABELS in page and "Three ways to quote" not in page
    assert "nan" not in page.lower().replace("nanmean", "")


def test_it_reports_agreement_and_shows_nearest_images(run):
    report = no_nan(run / "report.json")
    result = report["metrics"]["agreement"]
    assert -1 <= result["spearman"] <= 1 and 0 < result["recall_at_10"] <= 1
    assert (result["queries"], result["database"], result["pairs"]) == (6, 24, 144)
    assert (report["kind"], report["reference"]) == ("unsupervised", None)  # the backbone learns
    page = (run / "report.html").read_text()
    for title in ("Agreement with features", "Nearest images", "Distances", "Balance of the bits"):
        assert title in page, title
    assert 'src="data:image/png;base64,' in page and "img-src data:" in page
    assert (run / "nearest.json").is_file()


def test_a_frozen_backbone_has_a_reference(root, tmp_path, without_labels, capsys):
    report = train(root, tmp_path, "++backbone.frozen=true", quiet=False)
    result = report["reference"]
    assert (result["method"], result["draws"], result["map"], result["maps"]) == (
        "pca_rr", 10, None, None,
    )  # fmt: skip
    assert 0 < result["agreement"]["recall_at_10"] < 1
    assert result["agreement"]["recall_at_10_sd"] > 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "PCA + random rotation, 10 draws" in shown
    page = (tmp_path / report["run"] / "report.html").read_text()
    assert "Baseline without training on the same features" in page
    beaten = report["metrics"]["agreement"]["recall_at_10"] > result["agreement"]["recall_at_10"]
    assert ("Not better than PCA" in page) == (not beaten) == ("Not better than PCA" in shown)
    words = ["++backbone.frozen=true", "evaluation.reference=false", "seed=1"]
    assert train(root, tmp_path, *words)["reference"] is None
    report = train(root, tmp_path, "++backbone.frozen=true", "model.nbit=24")
    assert "24 bits need more than 24 training images" in report["reference"]["skipped"]
    assert "24 bits need more" in (tmp_path / report["run"] / "report.html").read_text()


def test_the_default_protocol_is_one_for_images_without_labels(
    root, tmp_path, without_labels, caplog
):
    words = [word for word in SMALL if word != "dataset.protocol=drawn"]
    words += [f"dataset.root={root}/flat", f"paths.outputs={tmp_path}", "logger=quiet"]
    overrides = parse_all(words)
    cfg = resolve.resolve(compose("train", overrides=words), overrides)
    report = runs.train(checks.parse_page(schema.Train, cfg, overrides), overrides)
    assert report["protocol"]["protocol"] == "drawn" and report["protocol"]["num_queries"] == 6
    assert "dataset.protocol=drawn is used instead of per_class" in caplog.text
    run = tmp_path / report["run"]
    result = evaluate(f"run='{run}'", "figures=false", "device=cpu")
    assert result["protocol"] == report["protocol"] and result["kind"] == "unsupervised"
    assert result["metrics"] == report["metrics"]


def test_an_epoch_is_selected_by_agreement(root, tmp_path, without_labels):
    words = [
        "trainer.select_on=agreement",
        "trainer.patience=2",
        "trainer.epochs=4",
        "dataset.protocols.drawn.validation=5",
    ]
    report = train(root, tmp_path, *words)
    selection, run = report["selection"], tmp_path / report["run"]
    history = checkpoint.load_state(run / "last.pt")["progress"]["history"]
    assert all(0 <= row["agreement"] <= 1 and row["query"] is None for row in history)
    best = max(history, key=lambda row: row["agreement"])
    assert selection["select_on"] == "agreement"
    assert selection["selected_epoch"] == selection["epoch_at_agreement"] == best["epoch"]
    assert selection["agreement_best"] == best["agreement"]
    assert selection["map_at_agreement_epoch"] is None
    assert checkpoint.load_state(run / "best.pt")["epoch"] == best["epoch"]
    page = (run / "report.html").read_text()
    assert "agreement best" in page and "Agreement with features" in page
    (run / "report.json").unlink()  # killed before the report
    assert train(root, tmp_path, *words)["selection"] == selection


def test_the_console_notes_it_in_one_sentence(root, tmp_path, without_labels, capsys, caplog):
    train(root, tmp_path, "trainer.select_on=query", quiet=False)
    output = " ".join(capsys.readouterr().out.split())
    assert retrieval.NO_LABELS in output and "bit entropy" in output
    assert "no mAP for trainer.select_on=query, and the last epoch's encoder is kept" in caplog.text
    again = folded(root, tmp_path, "trainer.select_on=query", quiet=False)
    cfg, words = again
    runs.train(checks.parse_page(schema.Train, cfg, words), words)
    assert "finished already" in capsys.readouterr().out


def test_it_resumes_to_the_same_weights(root, run, tmp_path):
    (run / "report.json").unlink()  # killed before the report, after the last epoch
    last = checkpoint.load_state(run / "last.pt")
    assert [row["query"] for row in last["progress"]["history"]] == [None, None]
    before = checkpoint.load_state(run / "best.pt")["encoder"]
    report = train(root, tmp_path)
    after = checkpoint.load_state(run / "best.pt")["encoder"]
    assert report["selection"]["selected_epoch"] == 2
    assert all((before[key] == after[key]).all() for key in before)


def test_evaluation_has_a_page_without_relevance(run, root, capsys):
    result = evaluate(f"run='{run}'", "gallery.rows=2", "gallery.top=3", "tsne=20", "device=cpu")
    assert result["metrics"] == no_nan(run / "report.json")["metrics"]
    assert retrieval.NO_LABELS in capsys.readouterr().out
    drawn = {file.stem for file in (run / "figures").glob("*.png")}
    assert {"pair_distances", "bits", "retrieved", "tsne", "codes_over_training"} >= drawn
    assert {"pair_distances", "bits", "retrieved", "tsne"} <= drawn
    page = (run / "evaluation.html").read_text()
    assert retrieval.NO_LABELS in page and "Dashed red frame" not in page


def test_on_labelled_images_it_has_a_map(run, root, tmp_path, capsys):
    result = evaluate(f"run='{run}'", "dataset=folder", f"dataset.root={root}/two",
                     "dataset.size=16", "dataset.source.size=16", "figures=false",
                     "dataset.protocols.per_class.queries=2", "dataset.name=two",
                     "device=cpu")  # fmt: skip
    assert 0 < result["metrics"]["map"] < 1 and "note" not in result["metrics"]
    assert result["protocol"]["num_classes"] == 2


def test_runs_stand_side_by_side_with_a_dash(root, run, tmp_path, capsys):
    other = train(root, tmp_path, "seed=1")
    result = evaluate(f"runs='{tmp_path}'", f"out={tmp_path / 'compared'}")
    assert len(result) == 2 and other["run"] in str(list(result))
    shown = capsys.readouterr().out
    assert "| — |" in shown and "there is no mAP" in shown
    page = (tmp_path / "compared" / "comparison.html").read_text()
    assert "evaluated on images without labels" in page
    numbers = no_nan(tmp_path / "compared" / "comparison.json")
    assert "codes.bits.entropy" in numbers["rows"][0]["metrics"]
    assert "map" not in numbers["rows"][0]["metrics"]


def test_a_sweep_has_dashes_and_a_note(run, tmp_path, capsys):
    folder = tmp_path / "sweeps" / "few"
    folder.mkdir(parents=True)
    values = {
        "dataset": "folder",
        "dataset.protocol": "drawn",
        "method": "dpsh",
        "model.nbit": 8,
        "seed": 0,
    }
    entry = {"run": str(run.relative_to(tmp_path)), "values": values}
    (folder / "sweep.json").write_text(json.dumps({"jobs": [entry], "report": {"rows": "method"}}))
    words = ["sweep=few", f"paths.outputs={tmp_path}", "compare=best"]
    report_sweep.report_sweeps(*job("report", words))
    shown = capsys.readouterr().out
    assert "1 finished" in shown and "| dpsh | unsupervised | — without mAP |" in shown
    assert "images without labels" in shown
    for name in ("report.html", "table.tex", "table.csv"):
        text = (folder / name).read_text()
        assert "nan" not in text.lower(), name
    assert "without mAP" in (folder / "report.html").read_text()


def test_a_run_with_labels_is_measured_without(root, tmp_path, capsys):
    report = train(
        root,
        tmp_path,
        f"dataset.root={root}/two",
        "dataset.protocol=per_class",
        "dataset.protocols.per_class.queries=2",
        "method=ce",
    )
    result = evaluate(f"run='{tmp_path / report['run']}'", "dataset=folder", "device=cpu",
                     f"dataset.root={root}/flat", "dataset.size=16", "dataset.source.size=16",
                     "dataset.protocol=drawn", "dataset.protocols.drawn.queries=4",
                     "dataset.name=flat", "figures=false")  # fmt: skip
    assert report["metrics"]["map"] > 0
    assert result["metrics"]["map"] is None and result["metrics"]["queries"] == 4
    assert retrieval.NO_LABELS in capsys.readouterr().out


class TestRefusals:
    def test_a_loss_that_reads_labels(self, root, tmp_path, monkeypatch):
        monkeypatch.setattr(Folder, "load", lambda *_: pytest.fail("images were opened"))
        monkeypatch.setattr(build, "label_free_methods", lambda: ["cibhash", "itq"])
        with pytest.raises(DataError) as error:
            train(root, tmp_path)
        message = str(error.value)
        assert "none of the 30 images of dataset folder has a label" in message
        assert "method=dpsh reads labels (PairwiseLikelihood)" in message
        assert "Give labels: " in message and "method=cibhash or method=itq." in message
        assert not list(tmp_path.iterdir())

    def test_patience(self, root, tmp_path, without_labels):
        with pytest.raises(DataError, match=r"trainer\.patience=3 stops by a mAP.*\n.*=null"):
            train(root, tmp_path, "trainer.patience=3")

    @pytest.mark.parametrize("protocol", ["drawn", "per_class"])
    def test_agreement_without_a_validation_split(self, root, tmp_path, monkeypatch, protocol):
        monkeypatch.setattr(Folder, "load", lambda *_: pytest.fail("images were opened"))
        words = ["trainer.select_on=agreement", f"dataset.protocol={protocol}"]
        with pytest.raises(ConfigError, match=r"trainer\.select_on  is agreement, and protocol"):
            train(root, tmp_path, *words)

    def test_agreement_where_only_the_data_know(self, root, tmp_path, without_labels):
        words = [
            "trainer.select_on=agreement",
            f"dataset.root={root}/two",
            "dataset.protocols.per_class.queries=2",
            "dataset.protocols.drawn.validation=5",
        ]
        lines = [word for word in [*SMALL, *words] if word != "dataset.protocol=drawn"]
        lines += [f"paths.outputs={tmp_path}", "logger=quiet"]
        with pytest.raises(ConfigError, match=r"protocol per_class has no validation split"):
            runs.train(*job("train", lines))

    def test_a_protocol_that_counts_by_class(self, root, tmp_path, without_labels):
        with pytest.raises(DataError, match=r"PerClass counts images by class.*protocol=drawn"):
            train(root, tmp_path, "dataset.protocol=per_class")

    def test_the_methods_it_names_are_those_that_read_no_labels(self):
        names = build.label_free_methods()
        assert "composed" not in names and "base" not in names
        for name in names:
            cfg = compose("train", overrides=[f"method={name}", "dataset=digits"])
            node = OmegaConf.to_container(cfg, resolve=True)["method"]
            assert node["name"] == name


class TestData:
    def do(self, root, tmp_path, action, *words):
        words = [f"do={action}", *SMALL[:5], f"dataset.root={root}/flat", *words]
        runs.data(*job("data", words))

    def test_describe(self, root, tmp_path, capsys):
        self.do(root, tmp_path, "describe", f"out={tmp_path / 'd.json'}")
        shown = capsys.readouterr().out
        assert "no labels, so no classes and no mAP" in shown
        assert "none of the 30 images has a label" in shown
        result = no_nan(tmp_path / "d.json")
        assert result["chance"] == {} and result["facts"]["num_train_unlabelled"] == 24

    def test_prepare(self, root, tmp_path, capsys):
        self.do(root, tmp_path, "prepare")
        assert "30 images are ready" in (shown := capsys.readouterr().out)
        assert "no labels" in shown

    @pytest.mark.parametrize("images", ["true", "null", "false"])
    def test_verify(self, root, tmp_path, capsys, images):
        self.do(root, tmp_path, "verify", f"images={images}", f"out={tmp_path / 'v.json'}")
        assert "none of the 30 images has a label" in (shown := capsys.readouterr().out)
        assert shown.endswith("in order\n")

    def test_export_as_lists_that_are_read_back(self, root, tmp_path, capsys):
        for style in ("one_hot", "split"):
            self.do(root, tmp_path, "export", f"style={style}", f"out={tmp_path}")
        first = capsys.readouterr().out.split("fingerprint ")[1].split()[0]
        words = [
            "do=verify",
            "dataset=lists",
            f"dataset.root={root}/flat",
            f"dataset.lists={tmp_path}",
            "images=false",
        ]
        runs.data(*job("data", words))
        assert f"protocol lists: {first}" in capsys.readouterr().out

    def test_encode(self, root, tmp_path, capsys):
        self.do(
            root,
            tmp_path,
            "encode",
            "backbone=tiny",
            "backbone.width=4",
            f"out={tmp_path / 'features'}",
            "trainer.device=cpu",
        )
        words = ["do=describe", "dataset=features", f"dataset.root={tmp_path / 'features'}"]
        runs.data(*job("data", words))
        assert "no labels" in capsys.readouterr().out
