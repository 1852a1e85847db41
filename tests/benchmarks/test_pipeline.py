"""The benchmark of images and steps, on small sizes: its contenders make the same batches."""

import contextlib
import json
import re
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

SMALL = ["--number", "24", "--size", "48", "--backbones", "tiny", "--batch-size", "4",
         "--encode-size", "5", "--rounds", "1", "--seconds", "0.01", "--workers", "0",
         "--threads", "1", "--device", "cpu", "--forms", "fp32", "bf16-cl-fused"]  # fmt: skip


@pytest.fixture(scope="module")
def bench(script):
    return script("pipeline")


@pytest.fixture(scope="module")
def images(bench, tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    bench.draw_folder(folder, 24, seed=0)
    return folder


@pytest.fixture
def request_of(images, tmp_path):
    return {"images": str(images), "cache": str(tmp_path), "device": "cpu", "batch": 4,
            "encode": 5, "size": 224, "workers": 0, "seconds": 0.01}  # fmt: skip


def test_images_are_of_real_size_and_each_is_another(bench, images, tmp_path):
    files = sorted(images.rglob("*.jpg"))
    assert bench.read_all(images) == (24, sum(file.stat().st_size for file in files))
    assert len({file.read_bytes() for file in files}) == 24
    assert 70e3 < np.mean([file.stat().st_size for file in files]) < 110e3
    with Image.open(files[0]) as image:
        assert (image.format, image.size, image.mode) == ("JPEG", (500, 375), "RGB")
    bench.draw_folder(tmp_path, 3, seed=0)
    bench.draw_folder(tmp_path / "again", 3, seed=0)
    assert (tmp_path / "class0/000000.jpg").read_bytes() == (
        tmp_path / "again/class0/000000.jpg"
    ).read_bytes()


@pytest.mark.parametrize("loader", ["field", "cached", "direct"])
def test_contenders_make_the_same_views_to_encode(bench, request_of, loader):
    """The usual way, written out: shorter side to 256, the middle 224 of it."""
    every = bench.epochs_from(request_of | {"loader": loader, "train": False})
    batches = list(next(every))
    assert [len(batch.index) for batch in batches] == [5, 5, 5, 5, 4]
    pixels = torch.cat([batch.images for batch in batches])[:, 0]
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (bench.MEAN, bench.STD))
    result = ((pixels * std + mean) * 255).round()
    files = sorted(Path(request_of["images"]).rglob("*.jpg"))
    for image, file in zip(result, files, strict=True):
        with Image.open(file) as opened:
            small = opened.resize((341, 256), Image.Resampling.BILINEAR)
        expected = np.asarray(small.crop((58, 16, 58 + 224, 16 + 224))).transpose(2, 0, 1)
        np.testing.assert_array_equal(image.numpy(), expected)


@pytest.mark.parametrize("loader", ["field", "cached", "direct"])
def test_contenders_train_from_every_image_without_end(bench, request_of, loader):
    every = bench.epochs_from(request_of | {"loader": loader, "train": True})
    epochs = [list(next(every)) for _ in range(2)]
    expected = 24 if loader == "field" else 14  # one query of each class does not train
    for batches in epochs:
        assert sum(len(batch.index) for batch in batches) in (expected, expected // 4 * 4)
        assert all(batch.images.shape[1:] == (1, 3, 224, 224) for batch in batches)
        assert all((batch.labels.sum(dim=1) == 1).all() for batch in batches)
    assert not torch.equal(epochs[0][0].images, epochs[1][0].images)


def test_waiting_is_distinguished_from_computing(bench):
    batch = bench.workloads.noise_batch(4, 8, "cpu")

    def batches(seconds):
        while True:
            time.sleep(seconds)
            yield batch

    def measured(waiting, computing):
        timed = bench.workloads.TimedBatches(batches(waiting), "cpu", window=0.2, warm_up=2)
        with contextlib.suppress(bench.workloads.Enough):
            for _ in timed.train(0):
                time.sleep(computing)
        return timed.result

    late, busy = measured(0.03, 0.01), measured(0.0, 0.03)
    assert 0.5 < late["waited"] / late["wall"] < 0.9
    assert busy["waited"] / busy["wall"] < 0.3
    assert 3 * 4 <= busy["images"] <= 8 * 4  # those before the third batch do not count
    assert busy["utilisation"] is None


def test_all_forms_train_and_encode_alike(bench, request_of):
    """Another form is other rounding, not another network."""
    request = request_of | {"backbone": "tiny", "size": 32}
    codes = {}
    for form in bench.FORMS:
        if "compiled" in form:
            continue
        learner = bench.learner_of(request | {"form": form})
        batch = learner.noise(8)
        learner.method.train()
        learner.step(batch)
        learner.method.eval()
        with torch.inference_mode(), learner.autocast():
            codes[form] = learner.method.encoder.encode(batch.flat()).float()
    for form, z in codes.items():
        tolerance = 0.1 if form.startswith("bf16") else 0.01
        apart = (z - codes["fp32"]).norm() / codes["fp32"].norm()
        assert apart < tolerance, form


def test_a_run_prints_tables_and_saves_what_it_measured(bench, in_process, tmp_path, capsys):
    file = tmp_path / "measured.json"
    assert bench.main([*SMALL, "--scale", "1000", "--json", str(file)]) == 0
    printed = capsys.readouterr()
    for title in bench.SECTIONS.values():
        assert f"### {title.title}" in printed.out
    assert "Not measured: no CUDA device." in printed.out
    for row in ("train: cold", "encode: direct", "tiny: fp32", "tiny: bf16, channels-last, fused"):
        assert f"| {row}" in printed.out, row
    cells = re.search(r"bytes an image \| ([\d,]+) \| ([\d.]+) GB in all", printed.out)
    each, whole = int(cells[1].replace(",", "")), float(cells[2])
    assert 3 * 256**2 <= each < 1.1 * 3 * 256**2
    assert whole == round(each * 1000 / 1e9, 1)
    saved = json.loads(file.read_text())["sections"]
    assert set(saved) == set(bench.SECTIONS)
    assert all(len(entry["rounds"]) == 1 for entry in saved["loaders"])
    cold = next(entry for entry in saved["loaders"] if entry["name"] == "train: cold")
    assert all(0 < one["build"]["wall"] < one["wall"] for one in cold["rounds"])


def test_a_contender_that_fails_is_reported(bench, in_process, monkeypatch, capsys):
    spawn = bench.harness.spawn

    def failing(path, request, cuda):
        if request["loader"] == "field":
            return {"failed": "ImportError: no torchvision"}
        return spawn(path, request)

    monkeypatch.setattr(bench.harness, "spawn", failing)
    assert bench.main([*SMALL, "--work", "loaders"]) == 1
    printed = capsys.readouterr().out
    assert "- train: field: ImportError: no torchvision" in printed
    assert "| train: cached |" in printed
    assert "| – |" in printed


@pytest.mark.slow
def test_in_a_process_of_its_own(bench, request_of):
    """With a worker, whose time counts."""
    common = {"measure": "loader", "loader": "field", "train": True, "threads": 1, "workers": 1}
    result = bench.harness.spawn(bench.__file__, request_of | common)
    assert result["images"] == 24
    assert result["cpu"] > 0.05
    broken = bench.harness.spawn(bench.__file__, common | {"device": "cpu", "loader": "cached"})
    assert "KeyError" in broken["failed"]
