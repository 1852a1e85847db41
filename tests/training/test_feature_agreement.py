"""Agreement with features that are kept as items are encoded, against all features at once."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from deephash import retrieval
from deephash.models.encoder import Encoder
from deephash.models.heads import TokenMLP
from deephash.models.projections import principal_axes, random_rotation
from deephash.training import feature_agreement, pca_reference
from deephash.training.evaluation import Codes, Evaluation, encode_images
from deephash.training.feature_agreement import FeatureAgreement
from deephash.training.precision import autocast
from deephash.types import Batch

WIDTH, NBIT = 12, 8
QUERIES, DATABASE, TRAIN = np.arange(30, 40), np.arange(30), np.arange(5, 30)


class Features:
    """Forty features in batches of seven."""

    def __init__(self, width=WIDTH, own=None):
        self.table = torch.randn(40, width, generator=torch.manual_seed(0))
        labels = torch.eye(2)[torch.arange(40) % 2]
        self.split = SimpleNamespace(
            queries=QUERIES,
            database=DATABASE,
            own=own,
            validation=np.arange(10),
            validation_database=DATABASE[10:],
        )
        self.labels = lambda ids: labels[torch.as_tensor(ids)]
        self.train_rows, self.num_trainable, self.truth, self.width = TRAIN, len(TRAIN), None, width
        self.resident_limit_bytes = 1 << 30

    def eval_batches(self, ids):
        for part in torch.split(torch.as_tensor(ids), 7):
            yield Batch(self.table[part].unsqueeze(1), self.labels(part), part)


class Backbone(torch.nn.Identity):
    out_features = WIDTH


def made(**options):
    head = torch.nn.Linear(WIDTH, NBIT)
    torch.nn.init.normal_(head.weight, generator=torch.manual_seed(1))
    evaluation = Evaluation(
        retrieval.Convention(),
        lambda: autocast(torch.device("cpu"), "fp32"),
        engine="numpy",
        **options,
    )
    return Encoder(Backbone(), head), Features(), evaluation


def test_codes_of_a_tapped_pass_are_the_same_and_the_agreement_is_that_of_all_features():
    encoder, data, evaluation = made()
    kept = FeatureAgreement(QUERIES, DATABASE, None, WIDTH)
    codes = encode_images(encoder, data, evaluation.autocast, taps=[kept])
    assert torch.equal(codes.z, encode_images(encoder, data, evaluation.autocast).z)
    assert kept.complete
    result = evaluation.agreement(codes, QUERIES, DATABASE, kept)
    wanted = retrieval.feature_agreement(
        data.table[QUERIES], data.table[DATABASE], codes.of(QUERIES), codes.of(DATABASE)
    )
    assert (result["spearman"], result["recall_at_10"]) == (wanted.spearman, wanted.recall)
    assert (result["queries"], result["database"], result["pairs"]) == (10, 30, 300)
    assert result["sampled"] == {"queries": False, "database": False}
    assert evaluation.agreement(codes, QUERIES, DATABASE, kept) == result  # features are gone


def test_samples_of_queries_and_database(monkeypatch):
    monkeypatch.setattr(feature_agreement, "QUERIES", 4)
    monkeypatch.setattr(feature_agreement, "MOST_BYTES", 20 * 4 * WIDTH)
    encoder, data, evaluation = made()
    own = np.arange(10)  # as if the queries stood at the head of the database
    kept = FeatureAgreement(DATABASE[:10], DATABASE, own, WIDTH)
    codes = encode_images(encoder, data, evaluation.autocast, taps=[kept])
    result = evaluation.agreement(codes, DATABASE[:10], DATABASE, kept)
    assert (result["queries"], result["database"]) == (4, 20)
    assert result["sampled"] == {"queries": True, "database": True}
    query, place = DATABASE[:10][kept.queries], DATABASE[kept.database]
    here = np.array([list(place).index(item) if item in place else -1 for item in query])
    assert (here >= 0).any() and (kept.own == here).all()
    wanted = retrieval.feature_agreement(
        data.table[query], data.table[place], codes.of(query), codes.of(place), own=here
    )
    assert result["recall_at_10"] == wanted.recall and result["pairs"] == 80 - (here >= 0).sum()


def test_tokens_are_averaged():
    tokens = torch.randn(5, 3, WIDTH)
    encoder = Encoder(torch.nn.Identity(), TokenMLP(WIDTH, 8)).eval()
    assert torch.equal(encoder.features(tokens), tokens.mean(dim=1))
    assert torch.equal(encoder(tokens)[0], tokens.mean(dim=1))


def test_each_evaluation_measures_it_and_keeps_features_that_do_not_change_once():
    encoder, data, evaluation = made(validates_agreement=True)
    first = evaluation(encoder, data)
    z, table = first.codes, data.table
    wanted = retrieval.feature_agreement(
        table[:10], table[10:30], z.of(np.arange(10)), z.of(np.arange(10, 30))
    )
    assert first.agreement == wanted.recall
    data.table = torch.zeros_like(table)  # not looked at any more
    with torch.no_grad():
        encoder.head.bias.fill_(1)
    assert evaluation(encoder, data).agreement == pytest.approx(0.5)  # all codes are equal
    encoder, data, evaluation = made(validates_agreement=True)
    data.width = None  # images: the backbone may learn
    before = evaluation(encoder, data).agreement
    data.table = data.table.flip(0)
    assert evaluation(encoder, data).agreement != before
    assert made()[2](encoder, data).agreement is None


def test_the_reference_is_the_mean_of_ten_rotations():
    encoder, data, evaluation = made()
    turned = pca_reference.PCAReference(encoder, data, evaluation.autocast, NBIT)
    kept = FeatureAgreement(QUERIES, DATABASE, None, WIDTH)
    codes = encode_images(encoder, data, evaluation.autocast, taps=[kept, turned])
    result = turned.measure(codes, data, evaluation, kept)
    mean, axes = principal_axes(data.table[TRAIN], NBIT)
    maps, recalls = [], []
    for draw in range(10):
        z = (data.table.double() - mean) @ axes.T @ random_rotation(NBIT, 0, draw)
        each = Codes(np.arange(40), z.float(), 1.0)
        maps.append(evaluation.measure(each, data, QUERIES, DATABASE)["map"])
        recalls.append(evaluation.agreement(each, QUERIES, DATABASE, kept)["recall_at_10"])
    assert result["maps"] == pytest.approx(maps) and len(set(maps)) > 1
    assert result["map"] == pytest.approx(np.mean(maps))
    assert result["sd"] == pytest.approx(np.std(maps, ddof=1))
    assert result["agreement"]["recall_at_10"] == pytest.approx(np.mean(recalls))
    assert result["agreement"]["recall_at_10_sd"] == pytest.approx(np.std(recalls, ddof=1))
    assert result["draws"] == 10
    alone = pca_reference.PCAReference(encoder, data, evaluation.autocast, NBIT)
    codes = encode_images(encoder, data, evaluation.autocast, taps=[alone])
    assert "agreement" not in alone.measure(codes, data, evaluation, None)


@pytest.mark.parametrize(
    ("nbit", "ternary", "limit", "reason"),
    [
        (8, None, 1 << 30, ""),
        (13, None, 1 << 30, "13 bits are more than the 12 principal components"),
        (25, None, 1 << 30, "25 bits are more than the 12"),
        (8, 0.5, 1 << 30, "evaluation.ternary"),
        (8, None, 25 * 12 * 4 - 1, "the features of 25 training images take"),
        (8, None, 25 * 12 * 4, ""),
    ],
)
def test_why_there_is_no_reference(nbit, ternary, limit, reason):
    data = Features()
    data.resident_limit_bytes = limit
    result = pca_reference.obstacle(data, nbit, WIDTH, ternary)
    assert result.startswith(reason) and bool(result) == bool(reason)
    data.num_trainable = 8
    assert "8 bits need more than 8 training images" in pca_reference.obstacle(data, 8, WIDTH, None)
