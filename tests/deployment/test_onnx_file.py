"""Exported graphs run in onnxruntime without torch, and their codes are those of the encoder."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from torchvision.models import VisionTransformer

from deephash.deployment.check import compare, in_batches
from deephash.deployment.check_images import generated_inputs, generated_sizes
from deephash.deployment.graph import DeployedEncoder
from deephash.deployment.onnx_file import (
    export_onnx,
    onnx_runner,
    read_onnx_metadata,
    save_onnx,
    trace,
)
from deephash.deployment.torch_export_file import (
    read_torch_export_metadata,
    save_torch_export,
    torch_export_runner,
)
from deephash.errors import ExportError
from deephash.methods.imh import Anchors
from deephash.methods.sh import Waves
from deephash.models import backbones, heads
from deephash.models.timm_models import Timm
from tests.deployment.conftest import of_features, of_images
from tests.paths import ROOT

onnx = pytest.importorskip("onnx", reason="needs the extra export")
pytest.importorskip("onnxscript", reason="needs the extra export")
pytest.importorskip("onnxruntime", reason="needs the extra export")

ALONE = """
import sys
for name in ("torch", "torchvision", "deephash"):
    sys.modules[name] = None  # an import of it fails
import json, numpy as np, onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
(given,), outputs = session.get_inputs(), session.get_outputs()
images = np.load(sys.argv[2])
codes, z = session.run(["codes", "z"], {"images": images})
print(json.dumps([given.name, given.type, given.shape, [one.name for one in outputs],
                  codes.tolist(), session.get_modelmeta().custom_metadata_map]))
"""


def anchors():
    head = Anchors(6, 10, anchors=20, neighbors=3)
    with torch.no_grad():
        for buffer in (head.center, head.anchors, head.embedding):
            buffer.normal_()
    head.sigma.fill_(2.0)
    return head


class Heads(torch.nn.Module):
    """Several heads on the same features: their codes side by side."""

    def __init__(self, *parts):
        super().__init__()
        self.parts = torch.nn.ModuleList(parts)

    def forward(self, features):
        return torch.cat([head(features) for head in self.parts], dim=1)


def test_every_head_is_exported():
    torch.manual_seed(0)
    every = Heads(
        heads.Linear(6, 10, bias=True),  # also ITQ, LSH, PCAH, PCA-RR
        heads.BatchNorm(6, 10),
        heads.MLP(6, 10, hidden=2, dropout=0.5),
        heads.MLP(6, 10, hidden=1, activation="gelu", batch_norm=True),
        Waves(6, 10),
        anchors(),
    )
    encoder = of_features(every)
    run = onnx_runner(export_onnx(DeployedEncoder(encoder)).SerializeToString())
    differences, _ = compare(run, encoder, in_batches(generated_inputs(encoder, 6)))
    assert differences.nbit == 60 and differences.images == 64
    assert differences.differing_bits == 0 and differences.largest_z_difference < 1e-4


@pytest.fixture(scope="module")
def exported(encoder, tmp_path_factory):
    """The file of an encoder of images of the stored size."""
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    model = export_onnx(DeployedEncoder(encoder))
    save_onnx(path, model, {"fingerprint": encoder.fingerprint, "nbit": 12, "some": {"a": [1]}})
    return path


def test_it_runs_without_torch(exported, encoder, tmp_path):
    images = generated_inputs(encoder, None)[:5]
    np.save(tmp_path / "images.npy", images)
    command = [sys.executable, "-c", ALONE, str(exported), str(tmp_path / "images.npy")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    name, kind, shape, outputs, codes, metadata = json.loads(done.stdout)
    assert (name, kind, shape) == ("images", "tensor(uint8)", ["batch", 3, 16, 16])
    assert outputs == ["codes", "z"]
    assert codes == encoder.encode(torch.from_numpy(images)).tolist()
    assert metadata["deephash.fingerprint"] == encoder.fingerprint
    assert json.loads(metadata["deephash.some"]) == {"a": [1]}


def test_the_file_holds_what_is_needed_and_nothing_of_this_machine(exported, encoder):
    assert read_onnx_metadata(exported) == {
        "fingerprint": encoder.fingerprint, "nbit": 12, "some": {"a": [1]},
    }  # fmt: skip
    content = exported.read_bytes()
    for trace_of in (str(ROOT), sys.prefix, "site-packages", ".py"):
        assert trace_of.encode() not in content
    operators = {node.op_type for node in onnx.load(exported).graph.node}
    assert not operators & {"Dropout", "BatchNormalization", "RandomUniform", "RandomNormal"}
    assert not list(exported.parent.glob("external*")) and len(list(exported.parent.iterdir())) == 1


def test_any_size_and_a_network_of_timm():
    pytest.importorskip("timm")
    encoder = of_images(Timm("test_resnet.r160_in1k", weights="none"), nbit=20)
    run = onnx_runner(export_onnx(DeployedEncoder(encoder, any_size=True)).SerializeToString())
    differences, _ = compare(run, encoder, generated_sizes())
    assert differences.images == 24 and differences.differing_bits <= 2
    assert differences.largest_z_difference < 1e-2  # of one gray level in some pixels
    square = [np.zeros((n, 3, 16, 16), np.uint8) for n in (1, 3)]
    differences, _ = compare(run, encoder, square)
    assert differences.differing_bits == 0 and differences.largest_z_difference < 1e-4


def of_tokens():
    backbone = backbones.Tiny(width=4, output="tokens")
    return of_images(backbone, nbit=9, head=heads.TokenMLP(backbone.out_features, 9))


def test_tokens():
    encoder = of_tokens()
    run = onnx_runner(export_onnx(DeployedEncoder(encoder)).SerializeToString())
    differences, _ = compare(run, encoder, in_batches(generated_inputs(encoder, None)))
    assert differences.share == 0 and differences.largest_z_difference < 1e-4


class TransformerTokens(torch.nn.Module):
    """The patch tokens of a small vision transformer, as ``backbone.output=tokens`` computes them.

    D is that of the tokens.
    """

    out_features = 8

    def __init__(self):
        super().__init__()
        self.transformer = VisionTransformer(
            18, patch_size=9, num_layers=1, num_heads=2, hidden_dim=8, mlp_dim=8
        )

    def forward(self, images):
        return backbones._tokens(self.transformer, images)


def test_tokens_of_a_transformer_take_batches_of_any_size():
    encoder = of_images(TransformerTokens(), nbit=9, head=heads.TokenMLP(8, 9))
    module = DeployedEncoder(encoder)
    program = trace(module, "torch_export").module()
    for count in (1, 3):
        images = module.example(count)
        torch.testing.assert_close(program(images)[1], module(images)[1], rtol=0, atol=1e-5)


def test_torch_export(tmp_path, monkeypatch):
    encoder = of_tokens()
    program = trace(DeployedEncoder(encoder, any_size=True), "torch_export")
    save_torch_export(tmp_path / "model.pt2", program, {"fingerprint": "f", "check": {"a": 1}})
    run = torch_export_runner(tmp_path / "model.pt2")
    assert compare(run, encoder, in_batches(generated_inputs(encoder, None)))[0].share == 0
    assert compare(run, encoder, generated_sizes())[0].differing_bits <= 2
    monkeypatch.setattr(torch.export, "load", None)  # the metadata are read without the program
    found = read_torch_export_metadata(tmp_path / "model.pt2")
    assert found == {"fingerprint": "f", "check": {"a": 1}}
    content = (tmp_path / "model.pt2").read_bytes()
    assert str(ROOT).encode() not in content and b"site-packages" not in content


def test_weights_that_do_not_fit_into_a_file_are_refused(encoder, monkeypatch):
    monkeypatch.setattr("deephash.deployment.onnx_file.MOST_BYTES", 1000)
    with pytest.raises(ExportError, match=r"an ONNX file holds 1,000\.\n.*Type to=torch_export"):
        export_onnx(DeployedEncoder(encoder))


def test_a_network_that_cannot_be_traced_is_refused():
    class Branching(heads.Linear):
        def forward(self, features):
            if features.sum() > 0:
                return super().forward(features)
            return -super().forward(features)

    with pytest.raises(ExportError, match="to=onnx  the network cannot be exported") as raised:
        export_onnx(DeployedEncoder(of_features(Branching(6, 8))))
    assert "Type to=torch_export." in str(raised.value)
