"""Datasets with ground truth as lists: a head is trained on landmarks and evaluated elsewhere."""

import json

import numpy as np
import pytest

from deephash import runs
from deephash.errors import ConfigError, DataError, TrainingError
from tests.pages import job

pytestmark = pytest.mark.usefixtures("composable", "without_curves")


WIDTH, LANDMARKS = 24, 12
SETUPS = ("easy", "medium", "hard")


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def features(rng, landmarks, shift=0.0, noise=0.35):
    """Descriptors near the centers of some landmarks, which two sets share."""
    centers = np.random.default_rng(0).normal(size=(LANDMARKS, WIDTH))
    return (centers[landmarks] + noise * rng.normal(size=(len(landmarks), WIDTH)) + shift).astype(
        np.float32
    )


def write(folder, name, array, **more):
    np.savez(folder / f"{name}.npz", features=array, **more)


@pytest.fixture
def gldv2(tmp_path):
    """240 training images with labels; 36 queries, of which 6 are not to count; 120 images."""
    rng, folder = np.random.default_rng(1), tmp_path / "gld"
    folder.mkdir()
    taught = np.arange(240) % LANDMARKS
    write(folder, "train", features(rng, taught), labels=taught + 1,
          ids=np.array([f"t{row:03d}" for row in range(240)]))  # fmt: skip
    database, query = rng.integers(0, LANDMARKS, 120), np.arange(36) % LANDMARKS
    names = np.array([f"i{row:03d}" for row in range(120)])
    write(folder, "database", features(rng, database), ids=names)
    write(folder, "test", features(rng, query), ids=np.array([f"q{row:02d}" for row in range(36)]))
    lines = ["id,images,Usage"]
    for row in rng.permutation(36):
        usage = "Ignored" if row >= 30 else "Public" if row % 2 else "Private"
        lines.append(f"q{row:02d},{' '.join(names[database == query[row]])},{usage}")
    (folder / "retrieval_solution_v2.1.csv").write_text("\n".join(lines) + "\n")
    return ["dataset=gldv2", "dataset.root=gld", "dataset.expected=null",
            "dataset.source.num_classes=12", "dataset.source.first_class=1"]  # fmt: skip


@pytest.fixture
def oxford(tmp_path):
    """Another domain: all features moved. Of each landmark some are easy, hard or junk."""
    rng, folder = np.random.default_rng(2), tmp_path / "oxford"
    folder.mkdir()
    database, query = rng.integers(0, LANDMARKS, 150), np.arange(10)
    write(folder, "database", features(rng, database, shift=3.0))
    write(folder, "test", features(rng, query, shift=3.0))
    gnd = []
    for landmark in query:
        easy, hard, junk = np.array_split(np.flatnonzero(database == landmark), 3)
        gnd.append({"bbx": [0, 0, 9, 9], "easy": easy.tolist(), "hard": hard.tolist(),
                    "junk": junk.tolist()})  # fmt: skip
    lists = {"imlist": [f"o{row}" for row in range(150)], "qimlist": [f"a{row}" for row in query]}
    (folder / "gnd.json").write_text(json.dumps(lists | {"gnd": gnd}))
    return ["dataset=roxford5k", "dataset.root=oxford", "dataset.expected=null",
            "dataset.source.truth=gnd.json"]  # fmt: skip


def train(*words):
    words = ["method=orthohash", "model.nbit=32", "trainer.epochs=6", "trainer.batch_size=24",
             "trainer.device=cpu", "logger=quiet", *words]  # fmt: skip
    return runs.train(*job("train", words))


def evaluate(report, *words):
    words = [f'run="outputs/{report["run"]}"', "device=cpu", *words]
    return runs.evaluate(*job("evaluate", words))


def test_a_layer_learns_landmarks_and_is_measured_by_lists(gldv2, tmp_path, capsys):
    report = train(*gldv2, "trainer.eval_every=3")
    metrics = report["metrics"]
    assert metrics["conventions"]["metric"] == "mAP@100"
    assert metrics["queries"] == 30 and metrics["database"] == 120  # six are ignored
    result = metrics["setups"]["all"]["map"]
    assert metrics["map"] == result["gld-official"] > 0.6  # some 0.15 by chance
    assert result["gld-fire"] == pytest.approx(result["gld-official"])  # none has more than 100
    assert report["protocol"]["num_queries"] == 30 and report["selection"]["map_last"] > 0.5
    capsys.readouterr()
    again = evaluate(report)
    assert again["metrics"]["map"] == metrics["map"]
    output = capsys.readouterr().out
    assert "all: gld-official" in output and "the same" in output
    arrays = np.load(tmp_path / "outputs" / report["run"] / "codes.npz")
    assert arrays["query_ids"][0].startswith("q") and "query_labels" not in arrays


def test_on_another_set_codes_are_mended_by_centring(gldv2, oxford, tmp_path, capsys):
    report = train(*gldv2)
    before = sorted((tmp_path / "outputs" / report["run"]).iterdir())
    moved = evaluate(report, *oxford)
    mended = evaluate(report, *oxford, "evaluation.centred=true", "out=mended")
    for name in SETUPS:
        assert moved["metrics"]["setups"][name]["queries_counted"] == 10
        assert (
            mended["metrics"]["setups"][name]["map"] > moved["metrics"]["setups"][name]["map"] + 0.1
        ), name
    assert mended["metrics"]["map"] == mended["metrics"]["setups"]["hard"]["map"]
    assert mended["metrics"]["conventions"]["centred"] and mended["protocol"]["num_train"] == 0
    output = capsys.readouterr().out
    assert "hard: mAP" in output and "mP@10" in output and "centred" in output
    assert "training reported" not in output  # other data
    assert (tmp_path / "mended/evaluation.json").is_file()
    after = sorted((tmp_path / "outputs" / report["run"]).iterdir())
    assert [path.name for path in after if path not in before] == ["roxford5k"]


def test_unsupported_uses_of_lists_are_reported(gldv2, oxford, tmp_path):
    with pytest.raises((ConfigError, DataError), match="has no training images"):
        train(*oxford)
    with pytest.raises(DataError, match=r"evaluation\.ternary"):
        train(*gldv2, "evaluation.ternary=0.5")
    with pytest.raises(DataError, match=r"3 features without ids, and .* names 150: add ids"):
        write(tmp_path / "oxford", "database", np.zeros((3, WIDTH), np.float32))
        report = train(*gldv2, "trainer.epochs=1")
        evaluate(report, *oxford)
    other = train("dataset=digits", "backbone=tiny", "trainer.epochs=1")
    (tmp_path / "oxford/database.npz").unlink()
    with pytest.raises(DataError, match="no features database"):
        evaluate(other, *oxford)


def test_a_layer_for_other_features_is_refused(oxford):
    other = train("dataset=digits", "backbone=tiny", "trainer.epochs=1")
    with pytest.raises((ConfigError, TrainingError), match="features"):
        evaluate(other, *oxford)
