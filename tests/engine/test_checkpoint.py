import os

import pytest
import torch

from deephash.engine import checkpoint
from deephash.errors import TrainingError


def test_a_round_trip(tmp_path):
    state = {"w": torch.arange(3.0), "n": {"epoch": 2, "history": [{"val": None, "query": 0.5}]}}
    checkpoint.save(tmp_path / "a.pt", state)
    found = checkpoint.load(tmp_path / "a.pt")
    assert torch.equal(found["w"], state["w"]) and found["n"] == state["n"]
    assert [path.name for path in tmp_path.iterdir()] == ["a.pt"]


def test_a_missing_file(tmp_path):
    with pytest.raises(TrainingError, match=r"there is no checkpoint .*a\.pt"):
        checkpoint.load(tmp_path / "a.pt")


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04rest"])
def test_a_foreign_file(tmp_path, content):
    (tmp_path / "a.pt").write_bytes(content)
    with pytest.raises(TrainingError, match=r"a\.pt cannot be read as a checkpoint"):
        checkpoint.load(tmp_path / "a.pt")


def test_a_cut_file(tmp_path):
    checkpoint.save(tmp_path / "a.pt", {"w": torch.zeros(1000)})
    whole = (tmp_path / "a.pt").read_bytes()
    (tmp_path / "a.pt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(TrainingError, match="cannot be read"):
        checkpoint.load(tmp_path / "a.pt")


class Code:
    """Unpickled, it makes a file."""

    def __init__(self, made):
        self.made = made

    def __reduce__(self):
        return os.mkdir, (self.made,)


def test_a_file_can_bring_no_code(tmp_path):
    made = tmp_path / "made"
    torch.save({"w": Code(str(made))}, tmp_path / "a.pt")
    with pytest.raises(TrainingError, match="cannot be read"):
        checkpoint.load(tmp_path / "a.pt")
    assert not made.exists()
