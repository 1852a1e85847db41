"""From an encoder and data to numbers: encode once, compare codes."""

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
from deephash.training.inputs import faulty_inputs, faulty_weights

_LOOKED_AT = 256  # images whose codes are NaN


log = logging.getLogger("deephash")

Tap = Callable[[np.ndarray, Tensor], None]
"""What is called with the rows (b,) and the features (b, D) of each batch that is encoded."""


@dataclass(frozen=True)
class Codes:
    """Real-valued codes of the items with the given ids; ids ascending."""

    ids: np.ndarray  # (n,) int64
    z: Tensor  # (n, K) float32, on the CPU
    images_per_second: float

    def of(self, ids: np.ndarray) -> Tensor:
        """The codes of some of the items, in the order asked for."""
        return self.z[np.searchsorted(self.ids, ids)]


@dataclass(frozen=True)
class Measured:
    """What an evaluation during training found, and the codes in which it did."""

    query: float | None  # mAP; None where no image has a label
    val: float | None  # the same of the validation split, where there is one
    codes: Codes
    seconds: float = 0.0  # that comparing them took
    agreement: float | None = None  # of validation images, where training is selected by it


@torch.inference_mode()
def encode(
    encoder: Any,
    data: Any,
    autocast: Any,
    ids: np.ndarray | None = None,
    taps: Sequence[Tap] = (),
) -> Codes:
    """Encodes items once, in eval mode.

    Args:
        encoder: with ``encode(images (n, 3, H, W)) -> (n, K)``; with ``taps`` it is called itself,
            ``encoder(images) -> features (n, D), codes (n, K)``.
        data: with ``split`` and ``eval_batches(ids)``.
        autocast: makes the context of the forward pass.
        ids: which, ascending; None for every item that has a role in retrieval.
        taps: are called with the features of each batch, which the encoder computes anyway.
    """
    if ids is None:
        split = data.split
        ids = np.unique(np.concatenate([split.database, split.queries, split.validation]))
    was_training = encoder.training
    encoder.eval()
    began, found = time.perf_counter(), []
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
            found.append(z.to("cpu", non_blocking=True))  # the next batch need not wait for it
        if device.type == "cuda":
            torch.cuda.synchronize(device)
    finally:
        encoder.train(was_training)
    seconds, codes = time.perf_counter() - began, torch.cat(found)
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
        autocast: makes the context of the forward pass.

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
            if not done:  # filled row by row: a list of parts would take as much again
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
    """Say why codes are NaN: the weights, the inputs, or the precision.

    Args:
        encoder: what made the codes.
        data: what it made them of.
        ids: (n,) of all items.
        broken: places among them whose codes hold NaN.
        what: what holds NaN.
    """
    message = f"{len(broken):,} of {len(ids):,} {what} hold NaN.\n  "
    rows = ids[broken[:_LOOKED_AT]]
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
    """Labels as retrieval takes them: (n, C) rows, or (n,) class indices of very many classes.

    None where the dataset has no classes, so that no image has a label.
    """
    found = getattr(data, "targets", data.labels)(ids)
    return None if found.ndim == 2 and found.shape[1] == 0 else found


class Evaluation:
    """Measures an encoder under one convention.

    Args:
        convention: R, ties, denominator and the rule for empty queries.
        autocast: makes the context of the forward pass.
        ternary: entries with ``|z|`` below it are neither bit; None for bits.
        tops: further R, of a full report; ``"all"`` stands for the size of the database.
        engine: who counts.
        centred: take the bits of codes less the database's mean code (``retrieval.recentre``).
        validates_agreement: measure during training how well the codes of validation images agree
            with features; see `FeatureAgreement`.

    Raises:
        DataError: if ``ternary`` is no number of at least 0.
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
        self._validation: FeatureAgreement | None = None  # of features that do not change
        self.centred = centred
        self.autocast = autocast
        self.tops = tops
        self.engine = retrieval.Engine.of(engine)
        self.ternary = None if ternary is None else retrieval.check_threshold(ternary)

    def check(self, data: Any) -> None:
        """Check that data can be measured so, before anything is trained or encoded.

        Raises:
            DataError: an R is larger than the database, no query has anything to find, or lists say
                what is relevant and something asks for labels.
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
        if asked := [key for key, is_wrong in wrong.items() if is_wrong]:
            raise DataError(
                f"{', '.join(asked)}: lists say what queries should find here, and the metrics of "
                f"{data.truth.protocol} leave no choice. Leave it as it is by default"
            )

    def _check_sizes(self, data: Any) -> None:
        """Compare each R with the databases, and the classes of queries with those to find."""
        split = data.split
        databases = {"database": split.database}
        if len(split.validation):
            databases["database of validation"] = split.validation_database
        asked = {"dataset.top or evaluation.top": self.convention.top}
        asked |= {
            "evaluation.tops": max((R for R in self.tops if isinstance(R, int)), default=None)
        }
        for name, rows in databases.items():
            for key, top in asked.items():
                if top is not None and top > len(rows):
                    raise DataError(
                        f"{key}  is {top}, and the {name} has {len(rows)} items."
                        f" Give at most {len(rows)}" + ", or null for all" * ("tops" not in key)
                    )
        images = data.images
        if not images.labelled:
            return
        held = images.labels[split.database].sum(axis=0) > 0  # (C,)
        known = images.labels[split.queries]
        lost = int((known @ held.astype(np.int64) == 0).sum())
        if lost == len(split.queries):
            raise DataError(
                f"none of the {lost} queries has a label in common with the database: nothing can"
                " be found. Are classes counted alike, and named alike, in all lists or files?"
            )
        unknown = int((np.diff(known.indptr) > 0).sum()) - (len(split.queries) - lost)
        if unknown > 0:
            log.warning(
                "%d of %d queries have only labels that no image of the database has",
                unknown, len(split.queries),
            )  # fmt: skip

    def __call__(self, encoder: Any, data: Any) -> Measured:
        """Measure mAP on the queries, and on the validation split where there is one.

        Without labels there is no mAP, and both are None.
        """
        split = data.split
        kept = self._kept(encoder, data) if self.validates_agreement else None
        taps = [] if kept is None or kept.complete else [kept]
        codes = encode(encoder, data, self.autocast, taps=taps)
        began, agreement = time.perf_counter(), None
        query = self.measure(codes, data, split.queries, split.database)["map"]
        val = None
        if len(split.validation):
            val = self.measure(codes, data, split.validation, split.validation_database)["map"]
        if kept is not None:
            measures = self.agreement(codes, split.validation, split.validation_database, kept)
            agreement = measures[f"recall_at_{TOP}"]
        return Measured(query, val, codes, time.perf_counter() - began, agreement)

    def _kept(self, encoder: Any, data: Any) -> FeatureAgreement:
        """What keeps the features of validation images and of what they are searched in."""
        if self._validation is not None:
            return self._validation
        split, width = data.split, encoder.backbone.out_features
        kept = FeatureAgreement(split.validation, split.validation_database, None, width)
        if constant_features(encoder, data):
            self._validation = kept
        return kept

    def agreement(
        self, codes: Codes, queries: np.ndarray, database: np.ndarray, kept: FeatureAgreement
    ) -> dict[str, Any]:
        """Measure how well codes agree with the features that were kept as they were encoded."""
        query, items = self.sides(codes, queries, database)
        return kept.measure(query, items, self.ternary, self.engine)

    def measure(
        self, codes: Codes, data: Any, queries: np.ndarray, database: np.ndarray, full: bool = False
    ) -> dict[str, Any]:
        """The metrics of some queries against a database; all of them when ``full``."""
        if data.truth is not None:
            return self._instances(codes, data, queries, database, full)
        asked, held = self.sides(codes, queries, database)
        found = retrieval.evaluate_codes(
            asked,
            held,
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
            found["conventions"] |= {"bit": "z >= mean z of the database", "centred": True}
        return found

    def _tops(self, size: int) -> list[int]:
        """The further R as numbers, each once."""
        return list(dict.fromkeys(R if isinstance(R, int) else size for R in self.tops))

    def sides(self, codes: Codes, queries: np.ndarray, database: np.ndarray) -> tuple[Any, Any]:
        """The real-valued codes of queries and database whose signs are the bits."""
        asked, held = codes.of(queries), codes.of(database)
        if not self.centred:
            return asked, held
        return retrieval.recentre(held, asked)[::-1]

    def _own(self, data: Any, queries: np.ndarray) -> np.ndarray | None:
        """Where the test queries stand in the database, if none of them may find itself."""
        return data.split.own if queries is data.split.queries else None

    def _instances(
        self, codes: Codes, data: Any, queries: np.ndarray, database: np.ndarray, full: bool
    ) -> dict[str, Any]:
        """The same where lists say what is relevant; ``map`` is that of the hardest setup."""
        self.check(data)
        found = retrieval.evaluate_instances(
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
        hardest = list(found["setups"].values())[-1]["map"]
        best = next(iter(hardest.values())) if isinstance(hardest, dict) else hardest
        return {"map": best} | found

    def rank(self, codes: Codes, data: Any, queries: np.ndarray, database: np.ndarray) -> Any:
        """The database as each query sees it, by the distances that are measured."""
        asked, held = self.sides(codes, queries, database)
        return retrieval.rank_codes(
            asked,
            held,
            targets(data, queries),
            targets(data, database),
            ternary=self.ternary,
            own=self._own(data, queries),
            engine=self.engine,
        )
