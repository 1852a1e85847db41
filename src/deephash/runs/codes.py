"""The codes of a run: encode the images, evaluate the codes, write ``codes.npz``."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from deephash import retrieval
from deephash.config import requirements
from deephash.data.datamodule import DataModule
from deephash.models.encoder import Encoder
from deephash.training.evaluation import Codes, Evaluation, Tap, encode_images, targets
from deephash.training.feature_agreement import FeatureAgreement


def agreement_measurement(
    kind: requirements.Kind | None, encoder: Encoder, data: DataModule
) -> FeatureAgreement | None:
    """Return the measurement of the agreement of codes with features.

    None for a supervised method, or one of unknown kind, on data with labels.
    """
    if kind in ("supervised", None) and data.has_labels:
        return None
    split, width = data.split, int(encoder.backbone.out_features)  # type: ignore[arg-type]
    return FeatureAgreement(split.queries, split.database, split.own, width)


def encode_and_evaluate(
    encoder: Encoder,
    data: DataModule,
    evaluation: Evaluation,
    agreement: FeatureAgreement | None,
    taps: Sequence[Tap] = (),
) -> tuple[Codes, dict[str, Any], float]:
    """Encode all images with a role, and compute all metrics.

    Returns:
        The codes, the metrics of a report, and the seconds of retrieval.
    """
    split = data.split
    if agreement is not None:
        taps = [agreement, *taps]
    codes = encode_images(encoder, data, evaluation.autocast, taps=taps)
    began = time.perf_counter()
    metrics = evaluation.measure(codes, data, split.queries, split.database, full=True)
    if agreement is not None:
        metrics["agreement"] = evaluation.agreement(codes, split.queries, split.database, agreement)
    return codes, metrics, time.perf_counter() - began


def save_codes(path: Path, codes: Codes, data: DataModule, evaluation: Evaluation) -> None:
    """Write the packed codes of queries and database with ids, labels and fingerprint.

    Labels are left out if lists define relevance or no image has a label. Ternary codes also have
    a mask of undecided bits.
    """
    split, ternary = data.split, evaluation.ternary
    roles = (split.queries, split.database)
    sides = []
    for ids, z in zip(roles, evaluation.sides(codes, *roles), strict=True):
        undecided = None if ternary is None else retrieval.pack(retrieval.undecided(z, ternary))
        labels = None
        if data.truth is None and (tensor := targets(data, ids)) is not None:
            labels = tensor.cpu().numpy()
            labels = labels.astype(bool) if labels.ndim == 2 else labels
        names = np.array([data.images.ids[row] for row in ids])
        packed = retrieval.pack(retrieval.binarize(z))
        sides.append(retrieval.StoredSide(packed, names, labels, undecided))
    retrieval.StoredCodes(data.facts.fingerprint, codes.z.shape[1], *sides).write(path)
