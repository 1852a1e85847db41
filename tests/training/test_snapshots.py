"""Codes over training: which images, when, and that training does not notice."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from deephash import retrieval, runs
from deephash.errors import FileError
from deephash.training import checkpoint
from deephash.training.evaluation import encode_images
from deephash.training.snapshots import Snapshots, read_snapshots, spaced
from deephash.types import Batch
from tests.pages import composable, job

LINE = (
    "dataset=digits",
    "dataset.classes=[0,1,2,3]",
    "model.nbit=2",
    "trainer.epochs=3",
    "trainer.eval_every=2",
    "logger=quiet",
    "trainer.device=cpu",
)
WITH = "trainer.snapshots=40"


@pytest.mark.parametrize(
    ("count", "rows"),
    [(0, []), (1, [5]), (2, [5, 9]), (3, [5, 7, 9]), (4, [5, 7, 9, 11]), (9, [5, 7, 9, 11])],
)
def test_images_are_spaced_evenly(count, rows):
    assert spaced(np.array([5, 7, 9, 11]), count).tolist() == rows


def test_no_rows_no_images():
    assert spaced(np.array([], dtype=np.int64), 3).tolist() == []


class Twelve:
    """Twelve images whose pixels are the row; the database is the later eight, in any order."""

    split = SimpleNamespace(
        database=np.array([11, 4, 9, 6, 5, 8, 7, 10]),
        queries=np.arange(4),
        validation=np.array([4]),
    )
    images = SimpleNamespace(ids=tuple(f"image{row:02d}" for row in range(12)))

    def __init__(self):
        self.encoded = []

    def labels(self, ids):
        return (torch.as_tensor(ids)[:, None] % 2 == torch.arange(2)).float()

    def eval_batches(self, ids):
        self.encoded += list(ids)
        pixels = torch.as_tensor(ids).float().view(-1, 1, 1, 1, 1).expand(-1, 1, 3, 1, 1)
        yield Batch(pixels, self.labels(ids), torch.arange(len(ids)))


class Pair(nn.Module):
    """Codes (row, -row), times what it has learned."""

    factor, given = 1.0, torch.tensor([[1.0, -1.0], [-1.0, 1.0]], requires_grad=True)

    @property
    def encoder(self):
        return self

    def encode(self, images):
        assert not self.training
        return self.factor * images[:, 0, 0] * torch.tensor([[1.0, -1.0]])

    def centers(self):
        return self.given


def plain():
    return torch.autocast("cpu", enabled=False)


def test_a_snapshot_identifies_its_images(tmp_path):
    data, method = Twelve(), Pair()
    snapshots = Snapshots(tmp_path, 4, plain)
    snapshots.take(0, method, data)
    assert data.encoded == [4, 6, 8, 10] and method.training  # and not the whole database
    method.factor = 2.0
    codes = encode_images(method, data, plain)
    data.encoded.clear()
    snapshots.take(12, method, data, codes)
    assert data.encoded == []  # those of the evaluation serve
    first, last = read_snapshots(tmp_path)
    for result, epoch, factor in ((first, 0, 1), (last, 12, 2)):
        assert result["epoch"] == epoch
        assert result["z"].tolist() == [[factor * row, -factor * row] for row in (4, 6, 8, 10)]
        assert result["z"].dtype == np.float32 and result["labels"].dtype == bool
        assert result["labels"].tolist() == [[True, False]] * 4
        assert result["ids"].tolist() == ["image04", "image06", "image08", "image10"]
        assert result["centers"].tolist() == [[1, -1], [-1, 1]]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["snapshots"]


def test_few_images_no_centers_and_none_at_all(tmp_path):
    data, method = Twelve(), Pair()
    method.given = None
    Snapshots(tmp_path, 99, plain).take(3, method, data)
    (result,) = read_snapshots(tmp_path)
    assert len(result["z"]) == 8 and result["centers"] is None
    Snapshots(tmp_path / "none", 0, plain).take(0, None, None)
    assert not (tmp_path / "none").exists() and read_snapshots(tmp_path / "none") == []


def test_epochs_are_in_the_order_of_their_numbers_and_later_ones_are_forgotten(tmp_path):
    snapshots = Snapshots(tmp_path, 2, plain)
    for epoch in (10_000, 3, 0, 9_999):
        snapshots.take(epoch, Pair(), Twelve())
    assert [snapshot["epoch"] for snapshot in read_snapshots(tmp_path)] == [0, 3, 9_999, 10_000]
    snapshots.remove_after(3)
    assert [snapshot["epoch"] for snapshot in read_snapshots(tmp_path)] == [0, 3]
    snapshots.remove_after(-1)
    assert list(tmp_path.iterdir()) == []
    snapshots.remove_after(-1)


@pytest.mark.parametrize("content", [b"", b"torn", "without z"])
def test_a_damaged_snapshot_is_reported(tmp_path, content):
    (tmp_path / "snapshots").mkdir()
    file = tmp_path / "snapshots" / "epoch0001.npz"
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        np.savez(file, other=np.zeros(1))
    with pytest.raises(FileError, match=r"cannot read the snapshot .*epoch0001\.npz: "):
        read_snapshots(tmp_path)
    assert read_snapshots(tmp_path, skip=True) == []


# whole runs


@pytest.fixture(scope="module")
def train():
    """``(folder, overrides) -> run folder``, in this process."""
    deterministic = torch.are_deterministic_algorithms_enabled()

    def run(outputs, *more):
        words = [*LINE, *more, f"paths.outputs={outputs}"]
        with composable():
            return outputs / runs.train(*job("train", words))["run"]

    yield run
    torch.use_deterministic_algorithms(deterministic)


@pytest.fixture(scope="module")
def base(train, tmp_path_factory):
    """A run with snapshots, not to be changed."""
    return train(tmp_path_factory.mktemp("with"), WITH)


def report(folder):
    return json.loads((folder / "report.json").read_text())


def same(first, second):
    return len(first) == len(second) and all(
        a.keys() == b.keys() and all(np.array_equal(a[key], b[key]) for key in a)
        for a, b in zip(first, second, strict=True)
    )


def test_before_training_and_at_each_evaluation(base):
    result = read_snapshots(base)
    assert [snapshot["epoch"] for snapshot in result] == [0, 2, 3]
    for saved in result:
        assert saved["z"].shape == (40, 2) and saved["labels"].shape == (40, 4)
        assert saved["ids"].tolist() == result[0]["ids"].tolist()
        assert saved["centers"].shape == (4, 2)
        assert saved["labels"].sum(axis=0).min() > 3  # spread over the classes
    assert not np.array_equal(result[1]["z"], result[2]["z"])


def test_the_last_one_holds_the_codes_that_were_measured(base):
    """Signs of the snapshot are those in codes.npz, when the last epoch is the selected one."""
    assert report(base)["selection"]["selected_epoch"] == 3
    last = read_snapshots(base)[-1]
    with np.load(base / "codes.npz") as codes:
        at = {name: row for row, name in enumerate(codes["database_ids"])}
        rows = [at[name] for name in last["ids"]]
        bits = retrieval.unpack(codes["database_codes"][rows], 2)
        assert np.array_equal(bits, last["z"] >= 0)
        assert np.array_equal(codes["database_labels"][rows], last["labels"])


@pytest.mark.parametrize("method", ["relahash", "jmlh", "dpn"])
def test_training_does_not_notice(train, tmp_path, method):
    more = [f"method={method}", *["method.loss.update_every=1"] * (method == "dpn")]
    with_snapshots = train(tmp_path / "with", WITH, *more)
    without = train(tmp_path / "without", *more)
    assert with_snapshots.relative_to(tmp_path / "with") == without.relative_to(
        tmp_path / "without"
    )
    assert not (without / "snapshots").exists()
    for key in ("metrics", "selection", "codebook"):
        assert report(with_snapshots)[key] == report(without)[key]
    a, b = (
        torch.load(folder / "last.pt", weights_only=True) for folder in (with_snapshots, without)
    )
    assert all(torch.equal(a["method"][key], b["method"][key]) for key in a["method"])
    assert torch.equal(a["rng"]["cpu"], b["rng"]["cpu"])


@pytest.mark.parametrize("saved", [0, 1, 2])
def test_a_resumed_run_leaves_those_of_one_without_interruption(
    train, base, tmp_path, monkeypatch, saved
):
    """The process ends when so many epochs were saved, after the next one's evaluation."""
    save, count = checkpoint.save, []

    def dying(path, state):
        count.append(path.name)
        if count.count("last.pt") > saved:
            raise KeyboardInterrupt
        save(path, state)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save", dying)
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path, WITH)
    (folder,) = (path.parent for path in tmp_path.rglob("snapshots"))
    assert not (folder / "report.json").exists() and read_snapshots(folder)
    (folder / "snapshots" / ".epoch0002.npz.1.tmp").write_bytes(b"what a kill leaves")
    (folder / "snapshots" / "epoch0009.npz").write_bytes(b"of epochs that are not yet")
    assert train(tmp_path, WITH) == folder
    assert same(read_snapshots(folder), read_snapshots(base))
    assert [path.name for path in sorted((folder / "snapshots").iterdir())] == [
        f"epoch{epoch:04d}.npz" for epoch in (0, 2, 3)
    ]


def test_a_run_that_stopped_early_has_those_until_then(train, tmp_path):
    more = ("trainer.eval_every=1", "trainer.epochs=9", "trainer.patience=1", "optimizer.lr=0")
    folder = train(tmp_path, WITH, *more)
    assert report(folder)["selection"]["stopped_early"]
    result = read_snapshots(folder)
    assert [snapshot["epoch"] for snapshot in result] == [0, *range(1, result[-1]["epoch"] + 1)]
    assert result[-1]["epoch"] == report(folder)["selection"]["epoch_last"] < 9


def test_no_epochs_are_one_snapshot(train, tmp_path):
    folder = train(tmp_path, WITH, "trainer.epochs=0", "method=hashnet")
    (only,) = read_snapshots(folder)
    assert only["epoch"] == 0 and only["centers"] is None


def test_a_run_anew_forgets_the_old_ones(train, tmp_path):
    folder = train(tmp_path, WITH)
    stale = folder / "snapshots" / "epoch0007.npz"
    stale.write_bytes((folder / "snapshots" / "epoch0003.npz").read_bytes())
    assert train(tmp_path, "rerun=true", "trainer.snapshots=5") == folder
    assert [len(snapshot["z"]) for snapshot in read_snapshots(folder)] == [
        5,
        5,
        5,
    ] and not stale.exists()
    assert train(tmp_path, "rerun=true") == folder
    assert not (folder / "snapshots").exists()
