"""Files of torch and of pickle in all their versions, read as data; and what they are instead."""

import argparse
import contextlib
import io
import pickle
import tarfile
import zipfile
from collections import OrderedDict, defaultdict

import numpy as np
import pytest
import torch
from torch import nn

from deephash.errors import DataError
from deephash.utils.torch_files import Unread, described, is_module, read_torch

RNG = np.random.default_rng(0)


def everything():
    return {
        "float32": torch.arange(6.0).reshape(2, 3).T,
        "float64": RNG.normal(size=(2, 3)),
        "float16": RNG.normal(size=(2, 3)).astype("f2"),
        "int32": np.asfortranarray(np.arange(6, dtype="i4").reshape(2, 3)),
        "big": np.arange(3, dtype=">i8"),
        "bool": np.array([True, False]),
        "uint8": torch.arange(3, dtype=torch.uint8),
        "bfloat16": torch.ones(3, dtype=torch.bfloat16),
        "parameter": nn.Parameter(torch.ones(2)),
        "slice": torch.arange(10)[4:6],
        "empty": torch.empty(0, 3),
        "text": np.array(["a", "bc"]),
        "objects": np.array(["a", "bc"], object),
        "scalar": np.float64(3.5),
        "ordered": OrderedDict(a=[1, (2, None)]),
        "default": defaultdict(list, a=[1]),
        "set": {1, 2},
        "size": torch.ones(2, 3).shape,
        "bytes": b"abc",
    }


def same(first, second):
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[key], second[key]) for key in first)
    if isinstance(first, torch.Tensor):
        return first.dtype == second.dtype and torch.equal(first, second.detach())
    if isinstance(first, np.ndarray):
        return first.dtype == second.dtype and np.array_equal(first, second)
    return first == second


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("new", [True, False])
def test_every_protocol_and_format_gives_the_same(protocol, new, tmp_path):
    saved = everything()
    torch.save(
        saved, tmp_path / "a.pt", pickle_protocol=protocol, _use_new_zipfile_serialization=new
    )
    assert same(read_torch(tmp_path / "a.pt"), saved)


@pytest.mark.parametrize("protocol", [0, 1, 2, 4, 5])
def test_plain_pickles(protocol, tmp_path):
    saved = everything()
    del saved["parameter"], saved["size"]
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(saved, protocol))
    assert same(read_torch(tmp_path / "a.pkl"), saved)


def test_tensors_are_mapped_and_not_read(tmp_path):
    torch.save({"a": torch.arange(1000)}, tmp_path / "a.pt")
    mapped = read_torch(tmp_path / "a.pt")["a"]
    mapped[0] = 7  # copy on write: the file stays
    assert read_torch(tmp_path / "a.pt")["a"][0] == 0


class Bomb:
    def __reduce__(self):
        return exec, ("raise SystemExit('it ran')",)


@pytest.mark.parametrize("new", [True, False])
def test_no_code_is_executed_and_unused_content_is_ignored(new, tmp_path):
    saved = {"w": torch.ones(2), "args": argparse.Namespace(lr=1), "bomb": Bomb(), "f": np.sum}
    torch.save(saved, tmp_path / "a.pt", _use_new_zipfile_serialization=new)
    result = read_torch(tmp_path / "a.pt")
    assert result["w"].tolist() == [1, 1]
    assert [described(result[key]) for key in ("args", "bomb")] == [
        "an object of argparse.Namespace",
        "an object of builtins.exec",
    ]
    assert result["args"].state == {"lr": 1}


def test_a_bomb_by_every_kind_of_call(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    calls = [
        b"cos\nsystem\n(Vtouch boom\ntR.",
        b"(S'touch boom'\nios\nsystem\n.",
        b"(cos\nsystem\nS'touch boom'\no.",
        b"\x80\x02cos\nsystem\nVtouch boom\n\x85\x81.",
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncos\nsystem\n(Vtouch boom\ntR\x85R.",
    ]
    for call in calls:
        (tmp_path / "a.pkl").write_bytes(call)
        with contextlib.suppress(DataError):
            read_torch(tmp_path / "a.pkl")
        assert not list(tmp_path.glob("boom"))


def test_networks_sparse_and_quantized_tensors_are_named(tmp_path):
    network = nn.DataParallel(nn.Linear(2, 3))
    torch.save({"s": torch.eye(3).to_sparse(), "n": network}, tmp_path / "a.pt")
    result = read_torch(tmp_path / "a.pt")
    assert described(result["s"]) == "a sparse tensor"
    assert is_module(result["n"]) and not is_module(result["s"])
    module = result["n"].state["_modules"]["module"]
    assert isinstance(module, Unread)
    assert module.state["_parameters"]["weight"].shape == (3, 2)


def tar():
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("weights.pth"))
    return buffer.getvalue()


def zipped(name="weights.pth", compressed=False):
    buffer = io.BytesIO()
    kind = zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED
    with zipfile.ZipFile(buffer, "w", kind) as archive:
        archive.writestr(name, b"0" * 1000)
    return buffer.getvalue()


def half():
    buffer = io.BytesIO()
    torch.save({"a": torch.ones(10_000)}, buffer)
    return buffer.getvalue()[:9000]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"\n\n<!DOCTYPE html><html>", "is a web page"),
        (b"<HTML><body>quota exceeded", "is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "git lfs pull"),
        (b"\x1f\x8b\x08\x00", "compressed by gzip"),
        (tar(), "is a tar archive"),
        (zipped(), "is a zip archive that torch did not save: it holds weights.pth"),
        (zipped("a/data.pkl", compressed=True), "packed again"),
        (half(), "damaged or incomplete"),
        (b"\x80\x02hello", "cannot be read"),
        (b"hello", "cannot be read"),
        (b"\x80\x02r\xff\xff\xff\x7f.", "cannot be read"),
        (b"\x89HDF\r\n\x1a\n", r"is an HDF5 file: name it \.h5"),
        ((8).to_bytes(8, "little") + b'{"a":{}}', "safetensors"),
    ],
)
def test_files_of_another_kind_are_named(content, message, tmp_path):
    (tmp_path / "a.pth").write_bytes(content)
    with pytest.raises(DataError, match=message) as error:
        read_torch(tmp_path / "a.pth")
    assert "weights_only" not in str(error.value) and str(tmp_path / "a.pth") in str(error.value)


def test_torchscript_is_a_program(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.pt", "w") as archive:
        for name in ("a/data.pkl", "a/constants.pkl", "a/code/x.py"):
            archive.writestr(name, b"")
    with pytest.raises(DataError, match="TorchScript"):
        read_torch(tmp_path / "a.pt")


def test_every_cut_and_many_damages_end_in_a_sentence(tmp_path):
    """All lengths of an old file, and a changed byte at many places of old and new files."""
    file = tmp_path / "a.pt"
    for new in (False, True):
        buffer = io.BytesIO()
        torch.save(
            {"a": torch.ones(4), "b": np.arange(3)}, buffer, _use_new_zipfile_serialization=new
        )
        whole = buffer.getvalue()
        places = RNG.integers(0, len(whole), 200)
        changed = [bytearray(whole) for _ in places]
        for damaged, place in zip(changed, places, strict=True):
            damaged[place] ^= 1 << int(place) % 8
        cuts = [whole[:length] for length in range(0, len(whole), 1 if not new else 37)]
        for content in [*cuts, *changed]:
            file.write_bytes(content)
            try:
                read_torch(file)
            except DataError:
                continue


def test_a_small_file_does_not_make_a_large_tensor(tmp_path):
    torch.save({"a": torch.ones(1).expand(1 << 20, 1 << 10)}, tmp_path / "a.pt")
    with pytest.raises(DataError, match="with 1 elements"):
        read_torch(tmp_path / "a.pt")
    torch.save({"a": torch.ones(1).expand(100, 10)}, tmp_path / "a.pt")
    assert read_torch(tmp_path / "a.pt")["a"].sum() == 1000
