import errno
import os
import zipfile

import pytest
import torch

from deephash.errors import TrainingError, WriteError
from deephash.training import checkpoint


def test_a_round_trip(tmp_path):
    state = {"w": torch.arange(3.0), "n": {"epoch": 2, "history": [{"val": None, "query": 0.5}]}}
    checkpoint.save(tmp_path / "a.pt", state)
    loaded = checkpoint.load_state(tmp_path / "a.pt")
    assert torch.equal(loaded["w"], state["w"]) and loaded["n"] == state["n"]
    assert [path.name for path in tmp_path.iterdir()] == ["a.pt"]


def test_a_missing_file(tmp_path):
    with pytest.raises(TrainingError, match=r"there is no checkpoint .*a\.pt"):
        checkpoint.load_state(tmp_path / "a.pt")


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04rest"])
def test_a_foreign_file(tmp_path, content):
    (tmp_path / "a.pt").write_bytes(content)
    with pytest.raises(TrainingError, match=r"a\.pt cannot be read as a checkpoint"):
        checkpoint.load_state(tmp_path / "a.pt")


def test_a_cut_file(tmp_path):
    checkpoint.save(tmp_path / "a.pt", {"w": torch.zeros(1000)})
    whole = (tmp_path / "a.pt").read_bytes()
    (tmp_path / "a.pt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(TrainingError, match="cannot be read"):
        checkpoint.load_state(tmp_path / "a.pt")


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
        checkpoint.load_state(tmp_path / "a.pt")
    assert not made.exists()


STATE = {"w": torch.arange(50.0), "n": {"epoch": 2}}


def same(loaded):
    return torch.equal(loaded["w"], STATE["w"]) and loaded["n"] == STATE["n"]


def test_every_changed_byte_is_noticed(tmp_path):
    path = tmp_path / "last.pt"
    checkpoint.save(path, STATE)
    whole = path.read_bytes()
    for place in range(len(whole)):
        for change in (1, 0x80):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ change]) + whole[place + 1 :])
            with pytest.raises(TrainingError, match=r"last\.pt .*cannot be read as a checkpoint"):
                checkpoint.load_state(path)
    for cut in (whole[:-1], whole[: -checkpoint.LENGTH], whole[:40], whole + b"x", whole[1:]):
        path.write_bytes(cut)
        with pytest.raises(TrainingError, match="cannot be read as a checkpoint"):
            checkpoint.load_state(path)
    path.write_bytes(whole)
    assert same(checkpoint.load_state(path))


def test_a_changed_byte_of_an_earlier_version_changes_nothing_unnoticed(tmp_path):
    path = tmp_path / "last.pt"
    torch.save(STATE, path)  # as earlier versions did: no checksum of the whole file
    whole = path.read_bytes()
    assert same(checkpoint.load_state(path))
    noticed = 0
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        try:
            assert same(checkpoint.load_state(path)), place
        except TrainingError:
            noticed += 1
    assert noticed > len(whole) / 3  # the rest is padding


def test_others_read_it_as_before(tmp_path):
    checkpoint.save(tmp_path / "a.pt", STATE)
    assert same(torch.load(tmp_path / "a.pt", weights_only=True))
    assert same(torch.load(tmp_path / "a.pt", weights_only=True, mmap=True))
    with zipfile.ZipFile(tmp_path / "a.pt") as archive:
        assert archive.testzip() is None and archive.comment.startswith(b"deephash crc32 ")


def test_the_same_state_is_the_same_file(tmp_path):
    for name in ("a.pt", "b.pt"):
        checkpoint.save(tmp_path / name, STATE)
    assert (tmp_path / "a.pt").read_bytes() == (tmp_path / "b.pt").read_bytes()


@pytest.mark.parametrize(
    ("damaged", "beside", "advice"),
    [
        ("last.pt", ["best.pt"], r"deephash evaluate run=\S+\n.* rerun=true"),
        ("last.pt", ["best-epoch0002.pt"], r"rename best-epoch0002\.pt to best\.pt, then deephash"),
        ("last.pt", [], "Remove it to train from the start"),
        ("best.pt", ["last.pt"], r"rerun=true.*checkpoint=last"),
        ("best.pt", [], r"Bring back a copy of it, or train anew with rerun=true"),
    ],
)
def test_the_error_states_what_can_be_done(tmp_path, damaged, beside, advice):
    for name in (damaged, *beside):
        checkpoint.save(tmp_path / name, STATE)
    with (tmp_path / damaged).open("r+b") as file:
        file.seek(700)
        file.write(b"?!")
    with pytest.raises(TrainingError, match=rf"(?s){damaged} is damaged.*{advice}"):
        checkpoint.load_state(tmp_path / damaged)


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_an_interruption_is_not_replaced_by_an_error_of_torch(error, tmp_path, monkeypatch):
    """Torch closes its archive after an interrupted write, which fails with a RuntimeError."""
    state, write = {"a": torch.zeros(3), "b": torch.ones(100)}, checkpoint._Archive.write

    def failing_after(writes):
        left = iter(range(writes))
        return lambda archive, data: fail() if next(left, None) is None else write(archive, data)

    def fail():
        raise error

    for writes in range(12):
        monkeypatch.setattr(checkpoint._Archive, "write", failing_after(writes))
        with pytest.raises(error):
            checkpoint.save(tmp_path / "last.pt", state)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EIO])
@pytest.mark.parametrize("room", [0, 100, 900, 1500])
def test_a_full_disk_is_a_sentence_and_the_old_file_stays(tmp_path, monkeypatch, number, room):
    path = tmp_path / "last.pt"
    checkpoint.save(path, STATE)
    old = path.read_bytes()

    class Full:
        """A file on a disk with a limited number of free bytes."""

        def __init__(self, file):
            self.file, self.left = file, room

        def write(self, data):
            self.left -= len(data)
            if self.left < 0:
                raise OSError(number, os.strerror(number))
            return self.file.write(data)

        def flush(self):
            self.file.flush()

    made = checkpoint._Archive
    monkeypatch.setattr(checkpoint, "_Archive", lambda file: made(Full(file)))
    with pytest.raises(WriteError, match=r"cannot write .*last\.pt: (the|this) ") as caught:
        checkpoint.save(path, STATE | {"w": torch.zeros(50)})
    assert caught.value.errno == number
    assert path.read_bytes() == old and list(tmp_path.iterdir()) == [path]


def test_a_compressed_checkpoint_is_refused(tmp_path):
    """A small file could fill the memory; torch does not compress."""
    plain, packed = tmp_path / "plain.pt", tmp_path / "packed.pt"
    torch.save({"a": torch.zeros(10_000)}, plain)
    with zipfile.ZipFile(plain) as old, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    assert packed.stat().st_size < plain.stat().st_size / 5
    assert checkpoint.load_state(plain)["a"].sum() == 0
    with pytest.raises(checkpoint.CheckpointError, match="it is compressed"):
        checkpoint.load_state(packed)
