"""Whole runs of the methods without labels: they learn, on images, features and plain photos."""

import json

import numpy as np
import pytest
from hydra import compose
from PIL import Image

from deephash import runs
from deephash.config import checks, resolve, schema
from deephash.config.overrides import parse_all
from tests.pages import job

pytestmark = pytest.mark.usefixtures("composable")


SMALL = ["trainer.device=cpu", "logger=quiet"]
LEARNS = {
    "sdc": ["trainer.epochs=15", "trainer.eval_every=5"],
    "sdc_simclr": ["trainer.epochs=6", "trainer.eval_every=3", "optimizer.lr=0.001"],
    # random weights give features of cosines near 1, which one code for all images matches
    "ugh": [
        "trainer.epochs=9",
        "trainer.eval_every=3",
        "method.loss.target=centered",
        "optimizer.lr=0.001",
    ],
    "bihalf": ["trainer.epochs=8", "trainer.eval_every=2"],
    "cibhash": ["trainer.epochs=8", "trainer.eval_every=4", "optimizer.lr=0.001"],
}
"""Recipes, with what makes a run on the digits short."""


def train(folder, *words):
    words = [*SMALL, f"paths.outputs={folder}/runs", f"paths.cache={folder}/cache", *words]
    overrides = parse_all(words)
    folded = resolve.resolve(compose("train", overrides=words), overrides)
    report = runs.train(checks.parse_page(schema.Train, folded, overrides), overrides)
    return folder / "runs" / report["run"], report


@pytest.mark.parametrize("name", LEARNS)
def test_retrieval_improves_with_training(name, tmp_path):
    """A head on the features of random weights; the last epoch counts."""
    run, report = train(
        tmp_path, f"method={name}", "dataset=digits", "model.nbit=16", *LEARNS[name]
    )
    rows = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    maps = [row["map"] for row in rows if row.get("where") == "query"]
    assert len(maps) > 1 and maps[-1] > maps[0] + 0.01
    assert report["metrics"]["map"] == pytest.approx(maps[-1], abs=1e-6)
    assert report["selection"]["select_on"] == "last"


def test_sdc_on_features(tmp_path):
    """``python train.py method=sdc dataset=features``: files of others, one for each role."""
    draw = np.random.default_rng(0)
    centers = draw.normal(size=(4, 12))
    for role, count in (("train", 128), ("test", 20), ("database", 80)):
        classes = np.arange(count) % 4
        rows = centers[classes] + 0.3 * draw.normal(size=(count, 12))
        np.savez(tmp_path / f"{role}.npz", features=rows.astype(np.float32), labels=classes)
    _, report = train(
        tmp_path, "method=sdc", "dataset=features", f"dataset.root={tmp_path}", "model.nbit=16",
        "trainer.epochs=10", "optimizer.lr=0.001",
    )  # fmt: skip
    assert report["metrics"]["map"] > 0.9


def test_sdc_on_photos_without_labels(tmp_path):
    """No class folders, no protocol typed: codes are learned and reported without a mAP."""
    photos = tmp_path / "photos"
    photos.mkdir()
    for number in range(40):
        noise = np.random.default_rng(number).integers(0, 256, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(noise).save(photos / f"{number:02}.png")
    run, report = train(
        tmp_path, "method=sdc", "dataset=folder", f"dataset.root={photos}", "model.nbit=8",
        "dataset.protocols.drawn.queries=6", "dataset.size=16",
        "dataset.source.size=16", "backbone=tiny", "trainer.epochs=2", "trainer.batch_size=16",
    )  # fmt: skip
    assert report["protocol"]["num_train"] == 34 and report["training"]["steps"] == 4
    assert report["metrics"]["map"] is None
    assert report["metrics"]["codes"]["bits"]["distinct_codes"] > 1
    assert (run / "report.html").is_file()


def test_wch_evaluates_on_the_means_of_tokens_of_a_frozen_backbone(tmp_path):
    """They are computed once, and give the codes that the images give."""
    run, report = train(
        tmp_path, "method=wch", "dataset=digits", "model.nbit=16", "backbone.frozen=true",
        "trainer.epochs=1",
    )  # fmt: skip
    # evaluate.py serves no features
    measured = runs.evaluate(*job("evaluate", [f"run='{run}'", "device=cpu", "figures=false"]))
    assert measured["metrics"]["map"] == pytest.approx(report["metrics"]["map"], abs=1e-6)
