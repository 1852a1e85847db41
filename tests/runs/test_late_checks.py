"""What can be known before the first epoch is refused before the first epoch."""

import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from deephash import retrieval
from deephash.data.catalogue import ImageSet, one_hot
from deephash.data.datamodule import DataModule
from deephash.data.splits.protocols import Listed
from deephash.data.transforms import Pipeline
from deephash.errors import ConfigError, DataError
from deephash.models.encoder import Encoder
from deephash.models.heads import BatchNorm, Linear
from deephash.runs.train_run import _check_single_image
from deephash.training.evaluation import Codes, Evaluation

TRAIN, QUERIES, DATABASE = 21, 10, 30


class Made:
    def __init__(self, classes):
        self.classes = classes

    def load(self):
        count = TRAIN + QUERIES + DATABASE
        rows = np.split(np.arange(count), [TRAIN, TRAIN + QUERIES])
        return ImageSet(
            inputs=np.zeros((count, 4), np.float32),
            labels=one_hot(self.classes, 6),
            ids=tuple(map(str, range(count))),
            classes=tuple("abcdef"),
            lists=dict(zip(("train", "queries", "database"), rows, strict=True)),
        )


def module(classes=None, **options):
    if classes is None:
        classes = np.arange(TRAIN + QUERIES + DATABASE) % 6
    plain = Pipeline([])
    options = {"batch_size": 4} | options
    made = DataModule("made", Made(classes), Listed(), "listed", plain, plain, **options)
    made.setup("cpu")
    return made


@pytest.mark.parametrize(
    ("options", "smallest"),
    [
        ({}, 4),
        ({"drop_last": False}, 1),
        ({"drop_last": False, "views": 2}, 2),
        ({"drop_last": False, "batch_size": 6}, 3),
        ({"drop_last": False, "batch_size": 7}, 7),
        ({"drop_last": False, "batch_size": 8, "streams": 2}, 2),
        ({"batch_size": 1}, 1),
    ],
)
def test_the_smallest_batch_is_known(options, smallest):
    data = module(**options)
    assert data.smallest_batch == smallest
    assert min(batch.images.shape[:2].numel() for batch in data.train(0)) == smallest


class Maps(nn.Module):
    """Batch normalisation over maps of several places, which one image fills."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(2)

    def forward(self, features):
        return self.norm(features.view(-1, 2, 2, 1)).flatten(1)


class Recipe:
    passes = "stacked"

    def __init__(self, backbone, head):
        self.encoder = Encoder(backbone, head)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"drop_last": False}, "4 leaves a training batch of one image, of 21 in all"),
        ({"batch_size": 1}, "is 1, and batch normalisation needs two"),
        ({"drop_last": False, "batch_size": 20}, "drop_last=true, or trainer.batch_size=21"),
    ],
)
def test_a_batch_of_one_image_under_batch_normalisation(options, message):
    data = module(**options)
    cfg = SimpleNamespace(trainer=SimpleNamespace(epochs=1))
    method, plain = (Recipe(nn.Identity(), head(4, 8)) for head in (BatchNorm, Linear))
    maps = Recipe(Maps(), Linear(4, 8))
    before = torch.get_rng_state()
    with pytest.raises(ConfigError, match=re.escape(message)):
        _check_single_image(method, data, cfg)
    _check_single_image(method, data, SimpleNamespace(trainer=SimpleNamespace(epochs=0)))
    _check_single_image(method, module(), cfg)
    _check_single_image(plain, data, cfg)
    _check_single_image(maps, data, cfg)
    assert maps.encoder.backbone.norm.num_batches_tracked == 0
    assert torch.equal(torch.get_rng_state(), before)


def evaluation(tops=(), **options):
    return Evaluation(retrieval.Convention(**options), None, tops=tops)


def test_cuts_beyond_the_database():
    data = module()
    evaluation(top=30, tops=[30, 2]).check(data)
    with pytest.raises(DataError, match=r"evaluation\.top  is 31, and the database has 30 items"):
        evaluation(top=31).check(data)
    with pytest.raises(DataError, match=r"evaluation\.tops  is 40, and the database has 30 items"):
        evaluation(tops=[5, 40]).check(data)


def test_the_whole_database_as_a_further_R():
    data = module()
    evaluation(tops=["all", 2]).check(data)
    with pytest.raises(DataError, match=r"evaluation\.tops  is 40, and the database has 30 items"):
        evaluation(tops=["all", 40]).check(data)
    count = TRAIN + QUERIES + DATABASE
    codes = Codes(
        np.arange(count), torch.randn(count, 8, generator=torch.Generator().manual_seed(0)), 1.0
    )
    split = data.split
    measured = evaluation(top=5, tops=["all", 30, 2]).measure(
        codes, data, split.queries, split.database, full=True
    )
    whole = evaluation().measure(codes, data, split.queries, split.database)
    assert list(measured["map_at"]) == ["30", "2"]
    assert measured["map_at"]["30"] == whole["map"] != measured["map"]


def test_queries_with_nothing_to_find(caplog):
    rows = np.arange(TRAIN + QUERIES + DATABASE)
    classes = np.where((rows >= TRAIN) & (rows < TRAIN + 3), 5, rows % 5)
    evaluation().check(module(classes))
    assert "3 of 10 queries have only labels that no image of the database has" in caplog.text
    classes = np.where((rows >= TRAIN) & (rows < TRAIN + QUERIES), 5, rows % 5)
    with pytest.raises(DataError, match="none of the 10 queries has a label in common"):
        evaluation().check(module(classes))
