"""The guide docs/export.md: its commands and its code run as they stand."""

import re
import shlex

import pytest
from PIL import Image

from deephash import main
from tests.paths import ROOT

for package in ("onnx", "onnxscript", "onnxruntime", "safetensors"):
    pytest.importorskip(package, reason="needs the extra export")


@pytest.mark.slow
def test_the_guide_runs(tmp_path, monkeypatch, capsys):
    text = (ROOT / "docs" / "export.md").read_text()
    monkeypatch.chdir(tmp_path)
    Image.linear_gradient("L").resize((90, 60)).save("photo.jpg")
    names = {}
    for kind, block in re.findall(r"```(sh|python)\n(.*?)```", text, re.DOTALL):
        if kind == "python":
            exec(block, names)
            printed = capsys.readouterr().out.splitlines()
            assert printed == re.findall(r"^print\(.*\)  # (.*)$", block, re.MULTILINE)
            continue
        for line in block.splitlines():
            program, *words = shlex.split(line)
            extra = ["logger=quiet", "trainer.device=cpu"] if words[0] == "train" else []
            assert program == "deephash" and main.main([*words, *extra]) == 0, line
        capsys.readouterr()
    made = {"model.onnx", "any.onnx", "hub", "photo.jpg", "outputs"}
    assert {file.name for file in tmp_path.iterdir()} == made
