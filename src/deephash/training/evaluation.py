"""Evaluate an encoder: encode each image once, and compare the codes."""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deephash import retrieval
from deephash.errors import DataError, TrainingError
from deephash.training.feature_agreement import TOP, FeatureAgreement, constant_features
from deephash.training.non_finite import faulty_inputs, faulty_weights

_MOST_EXAMINED = 256  # images with NaN codes


log = logging.getLogger("deephash")

Tap = Callable[[np.ndarray, Tensor], None]
"""A function of the rows (b,) and the features (b, D) of each batch that is encoded."""


@dataclass(frozen=True)
class Codes:
    """Real-valued codes of the items with the given ids; ids ascending."""

    ids: np.ndarray  # (n,) int64
    z: Tensor  # (n, K) float32, on the CPU
    images_per_second: float

    def of(self, ids: np.ndarray) -> Tensor:
        """Return the codes of the items ``ids``, in this order."""
        return self.z[np.searchsorted(self.ids, ids)]


@dataclass(frozen=True)
class Measured:
    """The result of an evaluation during training, and its codes."""

    query: float | None  # mAP; None without labels
    val: float | None  # mAP of the validation split, if there is one
    codes: Codes
    seconds: float = 0.0  # of the comparison of codes
    agreement: float | None = None  # of validation images, if it selects the epoch


@torch.inference_mode()
def encode_images(
    encoder: Any,
    data: Any,
    autocast: Any,
    ids: np.ndarray | None = None,
    taps: Sequence[Tap] = (),
) -> Codes:
    """Encode items in evaluation mode.

    Args:
        encoder: with ``encode(images (n, 3, H, W)) -> (n, K)``; with ``taps`` also callable,
            ``encoder(images) -> features (n, D), codes (n, K)``.
        data: with ``split`` and ``eval_batches(ids)``.
        autocast: returns the context of the forward pass.
        ids: ascending; None for all items with a role in retrieval.
        taps: called with the features of each batch.
    """
    if ids is None:
        split = data.split
        ids = np.unique(np.concatenate([split.database, split.queries, split.validation]))
    was_training = encoder.training
    encoder.eval()
    began, parts = time.perf_counter(), []
    device, done = torch.device("cpu"), 0
    try:
        for batch in data.eval_batches(ids):
            with autocast():
                if taps:
                    features, z = encoder(batch.flat())
                else:
                    z = encoder.encode(batch.flat())
            z = z.float()
            for tap in taps:
                tap(ids[done : done + len(z)], features)
            device, done = z.device, done + len(z)
            parts.append(z.to("cpu", non_blocking=True))
        if device.type == "cuda":
            torch.cuda.synchronize(device)
    finally:
        encoder.train(was_training)
    seconds, codes = time.perf_counter() - began, torch.cat(parts)
    broken = torch.isnan(codes).any(dim=1).nonzero().flatten()
    if len(broken):
        raise TrainingError(_explain(encoder, data, ids, broken.numpy()))
    return Codes(ids, codes, len(ids) / seconds)


@torch.no_grad()
def training_features(encoder: Any, data: Any, autocast: Any) -> Tensor:
    """Compute the backbone's features of the training images, in evaluation mode.

    Args:
        encoder: with ``features(images (n, 3, H, W)) -> (n, D)``.
        data: with ``train_rows`` and ``eval_batches(ids)``, under the test transform.
        autocast: returns the context of the forward pass.

    Returns:
        (N, D) float32 on the CPU, in the order of ``data.train_rows``.

    Raises:
        TrainingError: a feature is NaN or infinite.
    """
    was_training, rows, done = encoder.training, data.train_rows, 0
    features = torch.empty(0)
    encoder.eval()
    try:
        for batch in data.eval_batches(rows):
            with autocast():
                part = encoder.features(batch.flat())
            if not done:  # a list of parts would double the memory
                features = torch.empty(len(rows), *part.shape[1:])
            features[done : done + len(part)] = part
            done += len(part)
    finally:
        encoder.train(was_training)
    broken = (~torch.isfinite(features)).any(dim=1).nonzero().flatten()
    if len(broken):
        raise TrainingError(
            _explain(encoder, data, data.train_rows, broken.numpy(), "features of training images")
        )
    return features


def _explain(
    encoder: Any, data: Any, ids: np.ndarray, broken: np.ndarray, what: str = "codes"
) -> str:
    """Return an error message with the cause of NaN: weights, inputs, or precision.

    ``broken`` are the indices in ``ids`` of the items with NaN, and ``what`` names the values.
    """
    message = f"{len(broken):,} of {len(ids):,} {what} hold NaN.\n  "
    rows = ids[broken[:_MOST_EXAMINED]]
    images = getattr(data, "images", None)
    names = None if images is None else [images.ids[row] for row in rows]
    if name := faulty_weights(encoder):
        return message + (
            f"The network has diverged: its {name} is not finite. Try a smaller optimizer.lr,"
            " trainer.clip_norm=1, or trainer.precision=fp32."
        )
    if cause := faulty_inputs(data.eval_batches(rows), names):
        return message + cause
    first = rows[0] if names is None else names[0]
    return message + (
        f"Weights and inputs are finite (the first is {first}): numbers overflow inside the"
        " network. Try trainer.precision=fp32, or a smaller optimizer.lr."
    )


def targets(data: Any, ids: np.ndarray) -> Any:
    """Return labels for retrieval: (n, C) rows, or (n,) class indices of very many classes.

    None for a dataset without classes.
    """
    labels = getattr(data, "targets", data.labels)(ids)
    return None if labels.ndim == 2 and labels.shape[1] == 0 else labels


class Evaluation:
    """Evaluate an encoder under a convention.

    Args:
        convention: R, ties, denominator and the rule for empty queries.
        autocast: returns the context of the forward pass.
        ternary: entries with ``|z|`` below it are undecided; None for bits.
        tops: further R of a full report; ``"all"`` is the size of the database.
        engine: the backend that counts distances.
        centred: subtract the database's mean code (``retrieval.recentre``).
        validates_agreement: measure the agreement of validation codes with features during
            training; see `FeatureAgreement`.

    Raises:
        DataError: ``ternary`` is no number of at least 0.
    """

    def __init__(
        self,
        convention: retrieval.Convention,
        autocast: Any,
        ternary: float | None = None,
        tops: Sequence[int | str] = (),
        engine: retrieval.Engine | str = "auto",
        centred: bool = False,
        validates_agreement: bool = False,
    ) -> None:
        self.convention = convention
        self.validates_agreement = validates_agreement
        self._validation: FeatureAgreement | None = None  # with constant features
        self.centred = centred
        self.autocast = autocast
        self.tops = tops
        self.engine = retrieval.Engine.of(engine)
        self.ternary = None if ternary is None else retrieval.check_threshold(ternary)

    def check(self, data: Any) -> None:
        """Check that data fit the convention, before training or encoding.

        Raises:
            DataError: an R is larger than the database, no query has a relevant item, or lists
                define relevance and an option requires labels.
        """
        if data.truth is None:
            self._check_sizes(data)
            return
        convention = self.convention
        wrong = {
            "evaluation.ternary": self.ternary is not None,
            "evaluation.tops": len(self.tops) > 0,
            "evaluation.denominator": convention.denominator != "hits",
            "evaluation.empty": convention.empty != "zero",
            "evaluation.drop_last": convention.drop_last,
            "dataset.protocols.<protocol>.validation": len(data.split.validation) > 0,
        }
        if keys := [key for key, is_wrong in wrong.items() if is_wrong]:
            raise DataError(
                f"{', '.join(keys)}: lists say what queries should find here, and the metrics of "
                f"{data.truth.protocol} leave no choice. Leave it as it is by default"
            )

    def _check_sizes(self, data: Any) -> None:
        """Compare each R with the databases, and the classes of queries and database."""
        split = data.split
        databases = {"database": split.database}
        if len(split.validation):
            databases["database of validation"] = split.validation_database
        largest = max((R for R in self.tops if isinstance(R, int)), default=None)
        tops = {"dataset.top or evaluation.top": self.convention.top, "evaluation.tops": largest}
        for name, rows in databases.items():
            for key, top in tops.items():
                if top is not None and top > len(rows):
                    alternative = "" if key == "evaluation.tops" else ", or null for all"
                    raise DataError(
                        f"{key}  is {top}, and the {name} has {len(rows)} items."
                        f" Give at most {len(rows)}{alternative}"
                    )
        images = data.images
        if not images.labelled:
            return
        in_database = images.labels[split.database].sum(axis=0) > 0  # (C,)
        labels = images.labels[split.queries]
        lost = int((labels @ in_database.astype(np.int64) == 0).sum())
        if lost == len(split.queries):
            raise DataError(
                f"none of the {lost} queries has a label in common with the database: nothing can"
                " be found. Are classes counted alike, and named alike, in all lists or files?"
            )
        unknown = int((np.diff(labels.indptr) > 0).sum()) - (len(split.queries) - lost)
        if unknown > 0:
            message = "%d of %d queries have only labels that no image of the database has"
            log.warning(message, unknown, len(split.queries))

    def __call__(self, encoder: Any, data: Any) -> Measured:
        """Compute mAP of the queries and of the validation split; None without labels."""
        split = data.split
        features = self._validation_features(encoder, data) if self.validates_agreement else None
        taps = [] if features is None or features.complete else [features]
        codes = encode_images(encoder, data, self.autocast, taps=taps)
        began, agreement = time.perf_counter(), None
        query = self.measure(codes, data, split.queries, split.database)["map"]
        val = None
        if len(split.validation):
            val = self.measure(codes, data, split.validation, split.validation_database)["map"]
        if features is not None:
            measures = self.agreement(codes, split.validation, split.validation_database, features)
            agreement = measures[f"recall_at_{TOP}"]
        return Measured(query, val, codes, time.perf_counter() - began, agreement)

    def _validation_features(self, encoder: Any, data: Any) -> FeatureAgreement:
        """Return the object that keeps the features of the validation split."""
        if self._validation is not None:
            return self._validation
        split, width = data.split, encoder.backbone.out_features
        features = FeatureAgreement(split.validation, split.validation_database, None, width)
        if constant_features(encoder, data):
            self._validation = features
        return features

    def agreement(
        self, codes: Codes, queries: np.ndarray, database: np.ndarray, features: FeatureAgreement
    ) -> dict[str, Any]:
        """Measure the agreement of codes with the features of the same pass."""
        query, items = self.sides(codes, queries, database)
        return features.measure(query, items, self.ternary, self.engine)

    def measure(
        self, codes: Codes, data: Any, queries: np.ndarray, database: np.ndarray, full: bool = False
    ) -> dict[str, Any]:
        """Compute mAP of queries against a database, or all metrics with ``full``."""
        if data.truth is not None:
            return self._instances(codes, data, queries, database, full)
        query, items = self.sides(codes, queries, database)
        result = retrieval.evaluate_codes(
            query,
            items,
            targets(data, queries),
            targets(data, database),
            self.convention,
            full=full,
            ternary=self.ternary,
            tops=self._tops(len(database)),
            own=self._own(data, queries),
            engine=self.engine,
        )
        if full and self.centred:
            result["conventions"] |= {"bit": "z >= mean z of the database", "centred": True}
        return result

    def _tops(self, size: int) -> list[int]:
        """Return the further R as unique numbers."""
        return list(dict.fromkeys(R if isinstance(R, int) else size for R in self.tops))

    def sides(self, codes: Codes, queries: np.ndarray, database: np.ndarray) -> tuple[Any, Any]:
        """Return the real-valued codes of queries and database whose signs are the bits."""
        query, items = codes.of(queries), codes.of(database)
        if not self.centred:
            return query, items
        return retrieval.recentre(items, query)[::-1]

    def _own(self, data: Any, queries: np.ndarray) -> np.ndarray | None:
        """Return the indices of test queries in the database, which they must not retrieve."""
        return data.split.own if queries is data.split.queries else None

    def _instances(
        self, codes: Codes, data: Any, queries: np.ndarray, database: np.ndarray, full: bool
    ) -> dict[str, Any]:
        """Compute the metrics where lists define relevance; ``map`` is of the hardest setup."""
        self.check(data)
        result = retrieval.evaluate_instances(
            codes.of(queries),
            codes.of(database),
            data.truth,
            data.truth.protocol,
            ties=self.convention.ties,
            seed=self.convention.seed,
            centred=self.centred,
            full=full,
            engine=self.engine,
        )
        hardest = list(result["setups"].values())[-1]["map"]
        best = next(iter(hardest.values())) if isinstance(hardest, dict) else hardest
        return {"map": best} | result

    def rank(self, codes: Codes, data: Any, queries: np.ndarray, database: np.ndarray) -> Any:
        """Rank the database for each query, by the distances of the evaluation."""
        query, items = self.sides(codes, queries, database)
        return retrieval.rank_codes(
            query,
            items,
            targets(data, queries),
            targets(data, database),
            ternary=self.ternary,
            own=self._own(data, queries),
            engine=self.engine,
        )
