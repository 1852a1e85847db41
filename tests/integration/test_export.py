"""The command export: files that others run, compared with the run on its own queries."""

import json
import shutil

import numpy as np
import pytest
import yaml

import deephash
from deephash import cli
from deephash.deployment import read_metadata
from deephash.deployment.check_images import generated_inputs
from deephash.deployment.onnx_file import onnx_runner
from deephash.deployment.torch_export_file import torch_export_runner
from deephash.errors import ExportError, WriteError
from deephash.retrieval import StoredCodes

pytest.importorskip("safetensors", reason="needs safetensors")
LINE = ["model.nbit=12", "trainer.epochs=1", "logger=quiet", "trainer.device=cpu"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(tmp_path_factory.mktemp("export"))
        _, folder = deephash.train([*LINE, "backbone.width=4"])
        yield folder.resolve()


def onnx():
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package, reason="needs the extra export")


def test_onnx_and_torch_export(run, tmp_path, capsys):
    onnx()
    paths = {"onnx": tmp_path / "new" / "model.onnx", "torch_export": tmp_path / "model.pt2"}
    encoder = deephash.load(run, device="cpu")
    stored = StoredCodes.read(run / "codes.npz")
    runners = {"onnx": onnx_runner, "torch_export": torch_export_runner}
    for to, path in paths.items():
        assert cli.run("export", [f"run={run}", f"to={to}", f"out={path}", "queries=null"]) == 0
        printed = capsys.readouterr().out
        assert f"fingerprint {encoder.fingerprint[:16]}" in printed
        assert "images    uint8 (batch, 3, 8, 8), RGB" in printed
        metadata = read_metadata(path)
        assert metadata["encoder"] == encoder.describe() and metadata["nbit"] == 12
        check = metadata["check"]
        assert check["images"] == "all 200 queries of digits, protocol per_class"
        assert check["encoder"]["images"] == 200 and check["encoder"]["differing_bits"] == 0
        assert check["run"]["differing_bits"] == 0 and check["run"]["precision"] == "fp32"
        images = generated_inputs(encoder, None)
        codes, z = runners[to](path)(images)
        np.testing.assert_array_equal(codes, np.packbits(z >= 0, axis=1))
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == [
        "model.onnx", "model.pt2",
    ]  # fmt: skip
    assert len(stored.query.codes) == 200


def test_the_model_card_states_what_the_report_does(run, tmp_path):
    path, _ = deephash.export(run, "safetensors", tmp_path / "hub", queries=20)
    text = (path / "README.md").read_text()
    head, body = text.removeprefix("---\n").split("---\n", 1)
    values, report = yaml.safe_load(head), json.loads((run / "report.json").read_text())
    (result,) = values["model-index"][0]["results"]
    assert result["metrics"][0]["value"] == report["metrics"]["map"]
    assert (values["library_name"], values["license"]) == ("deephash", "other")
    assert {"image-retrieval", "hashing"} <= set(values["tags"])
    assert values["datasets"] == ["digits"] and values["metrics"]
    for said in (
        f"mAP@all **{report['metrics']['map']:.4f}** (95 % interval",
        "bootstrap over 200 queries",
        report["protocol"]["fingerprint"],
        "the mean over all orders of equally distant images",
        "selected by its mAP on these queries",
        "20 of 200 queries of digits, protocol per_class, 0 of 240 bits",
        "IEEE Access 2023",
        deephash.load(run, device="cpu").fingerprint,
    ):
        assert said in body
    hub = pytest.importorskip("huggingface_hub")
    card = hub.ModelCard(text)
    assert card.data.eval_results[0].metric_value == report["metrics"]["map"]


def test_an_exported_folder_is_exported_again(run, tmp_path, capsys):
    deephash.export(run, "safetensors", tmp_path / "hub", queries=0)
    metadata = deephash.export(tmp_path / "hub", "torch_export", size="any").metadata
    assert (tmp_path / "hub" / "model.pt2").is_file()
    assert metadata["fingerprint"] == deephash.load(run, device="cpu").fingerprint
    assert metadata["check"]["images"].startswith("64 generated inputs")
    assert metadata["check"]["other_sizes"]["images"] == 24
    assert metadata["interface"]["images"] == "uint8 (batch, 3, height, width), RGB"
    with pytest.raises(deephash.api.ConfigError, match="copy it"):
        deephash.export(tmp_path / "hub", "safetensors", tmp_path / "other")


def test_a_method_without_gradients_and_last_checkpoints(tmp_path, monkeypatch):
    onnx()
    monkeypatch.chdir(tmp_path)
    line = ["method=itq", "~settings", "model.nbit=9", "logger=quiet", "trainer.device=cpu"]
    _, folder = deephash.train([*line, "backbone=tiny", "backbone.width=4"])
    for checkpoint, more in (("best", ["license=mit"]), ("last", [])):
        words = ["to=safetensors", f"out={checkpoint}", "queries=5", f"checkpoint={checkpoint}"]
        assert cli.run("export", [f"run={folder}", *words, *more]) == 0
        text = (tmp_path / checkpoint / "README.md").read_text()
        assert ("license: mit" in text) == (checkpoint == "best")
        assert "Iterative Quantization" in text
        assert ("mAP@all **" in text) == (checkpoint == "best")  # the report is of best
    metadata = deephash.export(folder, "onnx", "itq.onnx").metadata
    assert metadata["check"]["encoder"]["differing_bits"] == 0


def test_without_the_data_images_are_generated(run, tmp_path, capsys):
    gone = tmp_path / "run"
    shutil.copytree(run, gone)
    config = (gone / "config.yaml").read_text()
    source = "_target_: deephash.data.sources.Digits"
    assert source in config
    changed = config.replace(
        source, "_target_: deephash.data.sources.Cifar\n    name: cifar10\n    root: nowhere"
    )
    (gone / "config.yaml").write_text(changed)
    words = [f"run={gone}", "to=safetensors", f"out={tmp_path / 'hub'}"]
    assert cli.run("export", words) == 0
    printed = capsys.readouterr().out
    assert "64 generated inputs (" in printed and "nowhere" in printed
    assert not (tmp_path / "nowhere").exists()
    assert cli.run("export", [*words, f"dataset.root={tmp_path / 'elsewhere'}", "overwrite=true"])
    assert "elsewhere" in capsys.readouterr().err


def test_other_codes_are_an_error_and_nothing_is_written(run, tmp_path, monkeypatch):
    from deephash.deployment import graph

    def wrong(self, images):
        codes, z = forward(self, images)
        z = z.roll(1, dims=1)
        bits = graph.F.pad((z >= 0).to(graph.torch.int32), (0, 4)).view(-1, 2, 8)
        return (bits * self.powers).sum(dim=2).to(codes.dtype), z

    forward = graph.DeployedEncoder.forward
    monkeypatch.setattr(graph.DeployedEncoder, "forward", wrong)
    with pytest.raises(ExportError, match=r"gives other codes: .* bits and .*limit=0.001"):
        deephash.export(run, "torch_export", tmp_path / "model.pt2")
    assert list(tmp_path.iterdir()) == []
    metadata = deephash.export(run, "torch_export", tmp_path / "model.pt2", limit=1.0).metadata
    assert metadata["check"]["encoder"]["differing_bits"] > 0


def test_what_exists_is_not_replaced_unless_told(run, tmp_path):
    file = tmp_path / "model.pt2"
    file.write_text("mine")
    with pytest.raises(WriteError, match=r"it exists already\n.*overwrite=true"):
        deephash.export(run, "torch_export", file)
    with pytest.raises(WriteError, match="it is a folder"):
        deephash.export(run, "torch_export", tmp_path)
    assert file.read_text() == "mine"
    (tmp_path / "README.md").write_text("mine")
    with pytest.raises(WriteError, match=r"holds README.md already"):
        deephash.export(run, "safetensors", tmp_path)
    with pytest.raises(WriteError, match="folder of a run"):
        deephash.export(run, "safetensors", run, overwrite=True)
    deephash.export(run, "safetensors", tmp_path, overwrite=True, queries=3)
    assert deephash.load(tmp_path, device="cpu").nbit == 12 and file.read_text() == "mine"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], ["run  must be given.", "Type to=onnx."]),
        (["run=x", "to=tflite"], ["to  'tflite' is no choice.", "onnx, torch_export, safetensors"]),
        (["run=x", "to=safetensors", "size=any"], ["size  is of onnx and torch_export"]),
        (["run=x", "to=onnx", "license=mit"], ["license  is written into a model card"]),
        (["run=x", "to=onnx", "limit=2", "queries=-1"], ["limit", "queries", "2 problems"]),
        (["run=x", "to=onnx", "quieries=3"], ["Did you mean queries=3?"]),
        (["run=x", "to=onnx", "out=a.pt2"], ["out  is a.pt2, and to=onnx writes a .onnx file."]),
        (["run=x", "to=torch_export", "out=a.onnx"], ["Type out=a.pt2."]),
        (
            ["run=x", "to=safetensors", "out=a.safetensors"],
            ["to=safetensors writes a folder.", "Type out=a."],
        ),
        (["run=x", "to=onnx", "dataset.root=no"], ["dataset.root there is no no."]),
        (["run=x", "to=onnx", "dataset.size=3"], ["dataset.size there is no such key"]),
    ],
)
def test_mistakes_are_reported_at_once(words, says, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.run("export", words) == 2
    printed = " ".join(capsys.readouterr().err.split())
    assert all(" ".join(one.split()) in printed for one in says), printed
    assert not list(tmp_path.iterdir())


def test_no_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.run("export", ["run=nowhere", "to=torch_export"]) == 1
    assert "nowhere is not a run folder" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
