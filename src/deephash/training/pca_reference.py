"""The reference of a run without training: PCA of the features with random rotations.

It is known as PCA-RR, and as Hashing-Baseline on the features of recent backbones. A method that is
trained on frozen features should be better.
"""

import statistics
import time
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deephash.models.projections import principal_axes, projection, random_rotation
from deephash.training.evaluation import Codes, Evaluation, training_features
from deephash.training.feature_agreement import TOP, FeatureAgreement

DRAWS = 10
"""Number of random rotations."""

SEED = 0
"""Seed of the rotations, equal in all runs: runs on the same features have the same reference."""


class PCAReference:
    """Codes of PCA with random rotations, and their metrics.

    The axes are fitted on the training images. Pass an object to ``encode`` as a tap, which keeps K
    numbers of each item.

    Args:
        encoder: with ``features(images) -> (n, D)``.
        data: with ``train_rows`` and ``eval_batches(ids)``.
        autocast: returns the context of the forward pass.
        nbit: K.
    """

    def __init__(self, encoder: Any, data: Any, autocast: Any, nbit: int) -> None:
        began = time.perf_counter()
        features = training_features(encoder, data, autocast)
        weight, bias = projection(*principal_axes(features, nbit))  # (K, D), (K,)
        self._weight, self._bias = weight.float(), bias.float()
        self._parts: list[Tensor] = []
        self.nbit = nbit
        self.seconds = time.perf_counter() - began

    def __call__(self, ids: np.ndarray, features: Tensor) -> None:
        """Keep the principal components of a batch; see `FeatureAgreement`."""
        if self._weight.device != features.device:
            self._weight, self._bias = (
                tensor.to(features.device) for tensor in (self._weight, self._bias)
            )
        part = features.float() @ self._weight.T + self._bias
        self._parts.append(part.cpu())

    def measure(
        self, codes: Codes, data: Any, evaluation: Evaluation, agreement: FeatureAgreement | None
    ) -> dict[str, Any]:
        """Evaluate `DRAWS` rotations as the codes of the run.

        Args:
            codes: of the same pass of ``encode``; only their ids are used.
            data: with ``split``, ``truth`` and labels.
            evaluation: the convention of the run.
            agreement: with the features of the same pass; None: not measured.

        Returns:
            ``draws`` and ``seconds``; ``map``, ``sd`` (n - 1) and ``maps``, None where
            there is no mAP; and with ``agreement`` mean and sd of Spearman and recall.
        """
        began, split = time.perf_counter(), data.split
        components = torch.cat(self._parts).double()
        maps, agreements = [], []
        for draw in range(DRAWS):
            z = (components @ random_rotation(self.nbit, SEED, draw)).float()
            turned = Codes(codes.ids, z, codes.images_per_second)
            maps.append(evaluation.measure(turned, data, split.queries, split.database)["map"])
            if agreement is not None:
                agreements.append(
                    evaluation.agreement(turned, split.queries, split.database, agreement)
                )
        known = None if None in maps else maps
        result: dict[str, Any] = {
            "draws": DRAWS,
            "map": None if known is None else statistics.fmean(known),
            "sd": None if known is None else statistics.stdev(known),
            "maps": known,
        }
        if agreement is not None:
            result["agreement"] = {}
            for key in ("spearman", f"recall_at_{TOP}"):
                values = [item[key] for item in agreements]
                defined = None not in values
                result["agreement"][key] = statistics.fmean(values) if defined else None
                result["agreement"][f"{key}_sd"] = statistics.stdev(values) if defined else None
        self.seconds += time.perf_counter() - began
        return result | {"seconds": self.seconds}


def obstacle(data: Any, nbit: int, width: int, ternary: float | None) -> str:
    """Return why a run has no reference; empty if it can have one.

    Args:
        data: with ``num_trainable`` and ``resident_limit_bytes``.
        nbit: K.
        width: D.
        ternary: the threshold of undecided bits, if any.
    """
    count = data.num_trainable
    if nbit > width:
        return f"{nbit} bits are more than the {width} principal components of the features"
    if nbit >= count:
        return f"{nbit} bits need more than {count} training images"
    if ternary is not None:
        return "evaluation.ternary: the threshold is for the scale of the run's own codes"
    size = count * width * torch.float32.itemsize
    if size > data.resident_limit_bytes:
        return (
            f"the features of {count:,} training images take {size / 2**30:.1f} GiB of memory,"
            f" more than {data.resident_limit_bytes / 2**30:g}"
        )
    return ""
