"""The folder of an exported encoder is loaded, or refused with a reason."""

import contextlib
import json

import numpy as np
import pytest
import torch

pytest.importorskip("safetensors", reason="needs safetensors")

from safetensors.torch import load_file, save_file

import deephash
from deephash import runs
from deephash.errors import ConfigError, DeephashError

CPU = "cpu"


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A run and its exported encoder."""
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(tmp_path_factory.mktemp("exported"))
        line = ["model.nbit=12", "trainer.epochs=1", "logger=quiet", "trainer.device=cpu"]
        _, folder = deephash.train([*line, "backbone.width=4", "trainer.precision=bf16"])
        path, metadata = deephash.export(folder, "safetensors", "hub")
        yield folder.resolve(), path.resolve(), metadata


@pytest.fixture
def hub(work, tmp_path):
    """A copy of the exported folder that a test may damage."""
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in work[1].iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    return copy


def change(hub, **values):
    config = json.loads((hub / "config.json").read_text())
    (hub / "config.json").write_text(json.dumps({**config, **values}))


def test_codes_are_those_of_the_run(work):
    folder, hub, _ = work
    images = np.random.default_rng(0).integers(0, 256, (9, 13, 11, 3), dtype=np.uint8)
    run, exported = deephash.load(folder, device=CPU), deephash.load(hub, device=CPU)
    np.testing.assert_array_equal(run.codes(list(images)), exported.codes(list(images)))
    assert exported.describe() == run.describe() and run.precision == "bf16"
    for one in (folder, hub):
        exact = deephash.load(one, device=CPU, precision="fp32")
        assert exact.fingerprint == run.with_precision("fp32").fingerprint != run.fingerprint
    with pytest.raises(ConfigError, match="precision"):
        deephash.load(hub, device=CPU, precision="fp64")
    assert exported.batch_size == run.batch_size


def test_the_three_files_name_no_folder_of_this_machine(work):
    folder, hub, metadata = work
    assert sorted(file.name for file in hub.iterdir()) == [
        "README.md", "config.json", "model.safetensors",
    ]  # fmt: skip
    for file in hub.iterdir():
        assert str(folder.parents[4]).encode() not in file.read_bytes()
    config = json.loads((hub / "config.json").read_text())
    assert config["fingerprint"] == metadata["fingerprint"] and config["num_classes"] == 0
    assert {"input_size", "mean", "std", "interpolation", "crop_pct", "crop_mode"} == set(
        config["pretrained_cfg"]
    )
    state = torch.load(folder / "best.pt", weights_only=True)["encoder"]
    tensors = load_file(hub / "model.safetensors")
    assert set(state) == set(tensors)
    assert all(torch.equal(state[key], tensors[key]) for key in state)


def other_weights(hub):
    tensors = load_file(hub / "model.safetensors")
    key = next(key for key, value in tensors.items() if value.is_floating_point())
    save_file({**tensors, key: tensors[key] + 1e-3}, hub / "model.safetensors")


def fewer_weights(hub):
    tensors = load_file(hub / "model.safetensors")
    tensors.pop("head.linear.weight")
    save_file(tensors, hub / "model.safetensors")


def cut_off(hub):
    content = (hub / "model.safetensors").read_bytes()
    (hub / "model.safetensors").write_bytes(content[: len(content) - 100])


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (other_weights, "damaged or mixed: config.json names the fingerprint"),
        (fewer_weights, "do not belong together|does not fit config"),
        (cut_off, "model.safetensors"),
        (lambda hub: (hub / "model.safetensors").unlink(), "has no model.safetensors"),
        (lambda hub: (hub / "config.json").write_text("{"), "cannot read the configuration"),
        (lambda hub: change(hub, library_name="timm"), "library_name is not deephash"),
        (lambda hub: change(hub, format=2), "Install a newer version"),
        (lambda hub: change(hub, nbit=0), "nbit"),
        (lambda hub: change(hub, nbit=13), "nbit|shape|belong"),
        (lambda hub: change(hub, images={"size": 8, "fit": "border"}), "images.fit"),
        (lambda hub: change(hub, images={"size": 9, "fit": "crop"}), "damaged or mixed"),
        (lambda hub: change(hub, precision="fp8"), "precision"),
        (lambda hub: change(hub, fingerprint=3), "fingerprint"),
        (lambda hub: change(hub, backbone={"_target_": "os.system"}), "backbone"),
        (lambda hub: change(hub, head={"_target_": "mypkg.Head"}), r"type plugins=\[mypkg\]"),
        (lambda hub: change(hub, transforms=[{"mean": [0]}]), "transforms"),
    ],
)
def test_a_damaged_folder_is_refused(hub, damage, says):
    damage(hub)
    with pytest.raises(DeephashError, match=says):
        deephash.load(hub, device=CPU)


def test_a_huge_network_is_refused_before_it_is_made(hub):
    config = json.loads((hub / "config.json").read_text())
    change(hub, head={"_target_": "deephash.models.heads.MLP", "width": 65536, "hidden": 32},
           backbone={**config["backbone"], "width": 1024})  # fmt: skip
    with pytest.raises(DeephashError, match="do not belong together"):
        deephash.load(hub, device=CPU)


def test_there_is_one_checkpoint(work):
    with pytest.raises(ConfigError, match="holds one exported encoder"):
        deephash.load(work[1], checkpoint="last", device=CPU)


def test_a_run_folder_with_such_a_file_is_a_run(work):
    folder, _, _ = work
    extra = folder / "config.json"
    extra.write_text("{}")
    with contextlib.ExitStack() as stack:
        stack.callback(extra.unlink)
        assert runs.load(folder, device=CPU).nbit == 12
