"""Labels of very many classes: class indices instead of rows, and the same numbers."""

import numpy as np
import pytest
import torch

from deephash import retrieval
from deephash.data import datamodule
from deephash.data.catalogue import ImageSet, one_hot
from deephash.data.datamodule import DataModule
from deephash.data.splits.protocols import Listed
from deephash.data.transforms import Pipeline
from deephash.runs.codes import save_codes
from deephash.training.evaluation import Codes, Evaluation

CLASSES, COUNT = 7, 60


class Made:
    def __init__(self, labels):
        self.labels = labels

    def load(self):
        rows = np.arange(COUNT)
        return ImageSet(
            inputs=np.zeros((COUNT, 4), np.float32),
            labels=self.labels,
            ids=tuple(map(str, rows)),
            classes=tuple("abcdefg"),
            lists={"train": rows[:20], "queries": rows[20:30], "database": rows[30:]},
        )


def module(labels):
    made = DataModule("made", Made(labels), Listed(), "listed", Pipeline([]), Pipeline([]), 4)
    made.setup("cpu")
    return made


def measured(data, tmp_path, name):
    draw = np.random.default_rng(0)
    codes = Codes(np.arange(COUNT), torch.from_numpy(draw.normal(size=(COUNT, 8))).float(), 1.0)
    evaluation = Evaluation(retrieval.Convention(top=20), None, tops=[5])
    split = data.split
    result = evaluation.measure(codes, data, split.queries, split.database, full=True)
    save_codes(tmp_path / name, codes, data, evaluation)
    return result, retrieval.StoredCodes.read(tmp_path / name)


def test_class_indices_give_the_numbers_of_rows(tmp_path, monkeypatch):
    data = module(one_hot(np.arange(COUNT) % CLASSES, CLASSES))
    rows, stored_rows = measured(data, tmp_path, "rows.npz")
    assert data.targets([0, 1]).shape == (2, CLASSES)
    monkeypatch.setattr(datamodule, "MAX_DENSE_LABELS", 0)
    assert data.targets([0, 8]).tolist() == [0, 1]
    indices, stored = measured(data, tmp_path, "indices.npz")
    assert indices == rows
    assert np.array_equal(stored.database.labels, stored_rows.database.labels.argmax(1))
    assert np.array_equal(stored.query.labels, stored_rows.query.labels.argmax(1))


@pytest.mark.parametrize("kind", ["several", "none"])
def test_images_with_several_labels_or_none_keep_their_rows(kind, monkeypatch):
    labels = one_hot(np.arange(COUNT) % CLASSES, CLASSES).toarray()
    labels[3] = kind == "several"
    monkeypatch.setattr(datamodule, "MAX_DENSE_LABELS", 0)
    assert module(labels).targets([0, 3]).shape == (2, CLASSES)


def test_codes_of_rows_and_indices_do_not_go_together(tmp_path):
    side = retrieval.StoredSide(np.zeros((2, 1), np.uint8), np.arange(2), np.arange(2))
    other = retrieval.StoredSide(np.zeros((2, 1), np.uint8), np.arange(2), np.eye(2, dtype=bool))
    retrieval.StoredCodes("f", 8, side, other).write(tmp_path / "codes.npz")
    with pytest.raises(retrieval.codes_file.FileError, match="class indices on one side"):
        retrieval.StoredCodes.read(tmp_path / "codes.npz")
