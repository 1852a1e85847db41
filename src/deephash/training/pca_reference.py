"""A reference that nothing was trained for: principal components of the features, turned at random.

Principal components turned by a random orthogonal matrix are known as PCA-RR, and as
Hashing-Baseline on the features of recent backbones. A method that is trained on frozen features
should be better.
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
"""Random rotations."""

SEED = 0
"""Of the rotations: the same in all runs, so that runs on the same features have one reference."""


class Reference:
    """Codes of PCA with random rotations, and what they are measured at.

    The axes are fitted on the training images. An object is passed to ``encode`` as a tap, which
    keeps K numbers of each item.

    Args:
        encoder: with ``features(images) -> (n, D)``.
        data: with ``train_rows`` and ``eval_batches(ids)``.
        autocast: makes the context of the forward pass.
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
                one.to(features.device) for one in (self._weight, self._bias)
            )
        part = features.float() @ self._weight.T + self._bias
        self._parts.append(part.cpu())

    def measure(
        self, codes: Codes, data: Any, evaluation: Evaluation, agreement: FeatureAgreement | None
    ) -> dict[str, Any]:
        """Measure `DRAWS` rotations as the codes of the run are measured.

        Args:
            codes: of the same pass of ``encode``; only their ids are read.
            data: with ``split``, ``truth`` and labels.
            evaluation: the convention of the run.
            agreement: with the features of the same pass; None: it is not measured.

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
                values = [one[key] for one in agreements]
                some = None not in values
                result["agreement"][key] = statistics.fmean(values) if some else None
                result["agreement"][f"{key}_sd"] = statistics.stdev(values) if some else None
        self.seconds += time.perf_counter() - began
        return result | {"seconds": self.seconds}


def obstacle(data: Any, nbit: int, width: int, ternary: float | None) -> str:
    """Why there is no reference for a run; empty if there can be one.

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
