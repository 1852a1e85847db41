"""Whole commands with a backbone of timm: train, evaluate, load, encode."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

import deephash
from deephash.config import composition, overrides
from deephash.data.transforms import Normalize, Pipeline, Resize
from deephash.errors import ConfigError
from deephash.runs import evaluate_run
from deephash.runs.encode_images import encode_dataset
from deephash.training import checkpoint
from deephash.utils import program

timm = pytest.importorskip("timm")

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
NAME = "test_convnext"  # (3, 160, 160), mean and deviation 0.5


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """CIFAR-10 in small, and weights of a small network."""
    folder = tmp_path_factory.mktemp("timm")
    draw = np.random.default_rng(0)
    for part, count in (("train", 4), ("test", 2)):
        for name in CLASSES:
            (folder / "data" / part / name).mkdir(parents=True)
            for at in range(count):
                pixels = draw.integers(0, 256, (32, 32, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / "data" / part / name / f"{at}.png")
    torch.manual_seed(0)
    torch.save(timm.create_model(NAME).state_dict(), folder / "w.pth")
    return folder


def words(work):
    return ["dataset=cifar10", f"dataset.root={work / 'data'}", "dataset.protocol=full_official",
            "dataset.expected=null", "backbone=timm", f"backbone.name={NAME}",
            f"backbone.weights={work / 'w.pth'}", "trainer.device=cpu",
            f"paths.cache={work / 'cache'}"]  # fmt: skip


@pytest.fixture(scope="module")
def trained(work):
    return deephash.train(["method=itq", "~settings", "model.nbit=8", "logger=quiet", *words(work),
                           f"paths.outputs={work / 'outputs'}"])  # fmt: skip


def expected(work, file):
    """Features by timm's own functions, and resizing and statistics by hand."""
    whole = timm.create_model(NAME, num_classes=0).eval()
    whole.load_state_dict(torch.load(work / "w.pth"), strict=False)
    pixels = torch.from_numpy(np.asarray(Image.open(file)).copy()).permute(2, 0, 1)[None]
    steps = [Resize(160, interpolation="bicubic"), Normalize([0.5] * 3, [0.5] * 3)]
    with torch.no_grad():
        return whole(Pipeline(steps)(pixels))


def test_a_run_saves_what_was_done_and_needs_nothing_else(trained, work, monkeypatch):
    config = (trained.folder / "config.yaml").read_text()
    assert "size: 160" in config and "interpolation: bicubic" in config and "0.485" not in config
    assert trained.report["environment"]["timm"] == timm.__version__
    kept = work / "w.pth"
    away = shutil.move(kept, work / "away.pth")
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("a connection"))
    try:
        again = deephash.evaluate([f"run={trained.folder}", "figures=false", "device=cpu"])
        assert again["metrics"]["map"] == trained.report["metrics"]["map"]
        file = work / "data" / "test" / "cat" / "0.png"
        encoder = deephash.load(trained.folder, device="cpu")
        codes = encoder.codes(file)
    finally:
        shutil.move(away, kept)
    state = checkpoint.load_state(trained.folder / "best.pt")["encoder"]
    z = expected(work, file) @ state["head.linear.weight"].T + state["head.linear.bias"]
    torch.testing.assert_close(torch.from_numpy(np.asarray(codes)), z, rtol=1e-4, atol=1e-4)


def test_features_are_encoded_with_the_same_images(work, tmp_path):
    line = overrides.read(["do=encode", f"out={tmp_path / 'out'}", *words(work)])
    cfg = composition.checked(program.folder("conf"), "data", line)
    folder = encode_dataset(cfg)
    notes = json.loads((folder / "features.json").read_text())
    assert notes["transforms"][-1]["mean"] == [0.5] * 3 and notes["transforms"][0]["size"] == 160
    features = np.load(folder / "features.npy")
    files = sorted((work / "data").rglob("*.png"))
    assert features.shape == (len(files), 64)
    first = torch.cat([expected(work, file) for file in files[:3]]).numpy()
    nearest = np.abs(features[None] - first[:, None]).max(axis=2).min(axis=1)
    assert (nearest < 1e-4).all()


def changed(run, *more):
    """The configuration of a run, measured on another dataset."""
    line = overrides.read([f"run={run.folder}", "dataset=folder", "dataset.root=x", *more])
    cfg = composition.checked(program.folder("conf"), "evaluate", line)
    written = evaluate_run.RunFolder(run.folder).config(whole=True)
    return evaluate_run._changed(written, cfg, line.overrides)["dataset"]


def test_images_of_another_dataset_are_the_models_and_what_is_typed_wins(trained):
    plain = changed(trained)
    crop, normalize = plain["transforms"]["test"][-2:]
    assert plain["size"] == crop["size"] == 160 and normalize["mean"] == [0.5] * 3
    typed = (
        "[{_target_: deephash.data.transforms.Normalize, mean: [0.1, 0.2, 0.3], std: [1, 1, 1]}]"
    )
    other = changed(trained, "dataset.size=96", f"dataset.transforms.test={typed}")
    assert other["size"] == 96 and other["transforms"]["test"][0]["mean"] == [0.1, 0.2, 0.3]
    assert other["transforms"]["train"][0]["size"] == 96


def test_images_that_the_model_does_not_take_are_refused_before_data_are_opened(trained, tmp_path):
    written = evaluate_run.RunFolder(trained.folder).config(whole=True)
    written["backbone"]["name"] = "test_vit"  # of 160 alone
    line = overrides.read(["run=x", "dataset=folder", "dataset.root=x", "dataset.size=96"])
    cfg = composition.checked(program.folder("conf"), "evaluate", line)
    with pytest.raises(ConfigError, match=r"dataset\.size +is 96, and test_vit takes .*160"):
        evaluate_run._changed(written, cfg, line.overrides)
