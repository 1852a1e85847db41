"""Metadata are read from files of every kind, and other files are refused with a message."""

import json
import zipfile

import numpy as np
import pytest
import torch

from deephash.deployment import read_metadata
from deephash.errors import FileError
from tests.search.pictures import content

FINGERPRINT = {"fingerprint": "f" * 64, "nbit": 12}


def archive(path, name, text):
    with zipfile.ZipFile(path, "w") as made:
        made.writestr(name, text)
    return path


@pytest.mark.parametrize("name", ["archive/extra/deephash.json", "extra_files/deephash.json"])
@pytest.mark.parametrize("file", ["model.pt2", "model.onnx", "model"])
def test_a_file_of_torch_export_by_any_name(tmp_path, name, file):
    path = archive(tmp_path / file, name, json.dumps(FINGERPRINT))
    assert read_metadata(path) == FINGERPRINT


def other_files(folder):
    """Files that are no exported encoders, by name."""
    np.savez(folder / "codes.npz", nbit=8)
    torch.save({"encoder": {}}, folder / "best.pt")
    archive(folder / "damaged.zip", "archive/extra/deephash.json", "{")
    return {
        "text": b"hello, world",
        "empty": b"",
        "image": content(0),
        "codes": (folder / "codes.npz").read_bytes(),
        "checkpoint": (folder / "best.pt").read_bytes(),
        "cut": (folder / "best.pt").read_bytes()[:200],
        "damaged": (folder / "damaged.zip").read_bytes(),
    }


@pytest.mark.parametrize("ending", [".onnx", ".pt2", ".npz", ""])
def test_other_files_are_refused(tmp_path, ending):
    pytest.importorskip("onnx", reason="needs the extra export")
    for name, written in other_files(tmp_path).items():
        path = tmp_path / f"{name}{ending}"
        path.write_bytes(written)
        with pytest.raises(FileError, match=f"cannot read the exported encoder .*{name}") as raised:
            read_metadata(path)
        assert "Give what deephash export wrote" in str(raised.value)


def test_a_folder_and_its_files(tmp_path):
    with pytest.raises(FileError, match=r"config\.json: it does not exist"):
        read_metadata(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(FileError, match="it has no metadata of deephash"):
        read_metadata(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(FINGERPRINT))
    assert read_metadata(tmp_path) == FINGERPRINT
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(FileError, match=f"it holds weights alone\n  Give its folder: {tmp_path}"):
        read_metadata(tmp_path / "model.safetensors")
