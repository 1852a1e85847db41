"""What several jobs need: the folder of a run, its encoder filled again, its codes on disk."""

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from deephash import retrieval
from deephash.config import build, identity, requirements, schema
from deephash.config.overrides import Override
from deephash.data.datamodule import DataModule
from deephash.errors import CheckpointError, ConfigError, DataError, os_reason
from deephash.models.encoder import Encoder
from deephash.runs.folder import RunFolder
from deephash.training import checkpoint
from deephash.training.evaluation import Codes, Evaluation, targets
from deephash.training.feature_agreement import FeatureAgreement
from deephash.training.restore import fitting, load_weights
from deephash.utils.files import expand_path, write_json

log = logging.getLogger("deephash")


def run_folder(cfg: schema.Train, overrides: Sequence[Override]) -> RunFolder:
    """The folder of the run that a configuration and its command line describe."""
    outputs = expand_path(cfg.paths.outputs)
    return RunFolder(outputs / identity.run_name(cfg.plain, overrides))


def load_encoder(file: Path, encoder: torch.nn.Module, fingerprint: str | None) -> None:
    """Fills an encoder from ``best.pt`` or ``last.pt``.

    Args:
        file: of the checkpoint.
        encoder: to be filled.
        fingerprint: of the data; a word of warning if they are not the run's. None: they need not.
    """
    state = checkpoint.load(file)
    if not isinstance(state.get("fingerprint"), str) or not {"encoder", "method"} & set(state):
        raise CheckpointError(f"{file} is no checkpoint of a run")
    if fingerprint not in (None, state["fingerprint"]):
        assert fingerprint is not None
        log.warning("the data are not those of the run: fingerprint %s, now %s",
                    state["fingerprint"][:16], fingerprint[:16])  # fmt: skip
    with fitting(file, "the configuration beside it", "Bring back a copy of it."):
        weights = state.get("encoder")
        if weights is None:
            prefix = "encoder."
            weights = {key.removeprefix(prefix): value for key, value in state["method"].items()
                       if key.startswith(prefix)}  # fmt: skip
        load_weights(encoder, weights, "encoder")


def check_size(ran: schema.Run, width: int | None, file: Path) -> None:
    """Refuse an encoder that is larger than the checkpoint that has to fill it.

    Raises:
        ConfigError: it is.
    """
    with torch.device("meta"):
        encoder = build.encoder(ran, width, pretrained=False)
    size = sum(one.numel() * one.element_size() for one in encoder.state_dict().values())
    if file.is_file() and size > file.stat().st_size:
        raise ConfigError(
            f"the encoder that {file.with_name('config.yaml')} describes has {size:,} bytes, and"
            f" {file} only {file.stat().st_size:,}: they do not belong together"
        )


def agreement_of(
    kind: requirements.Kind | None, encoder: Encoder, data: DataModule
) -> FeatureAgreement | None:
    """What measures the agreement of codes with features.

    Args:
        kind: of the method; None if it is not known, which counts as supervised.
        encoder: its backbone says how wide features are.
        data: set up.

    Returns:
        None for a method that reads labels, on data that have some.
    """
    if kind in ("supervised", None) and data.has_labels:
        return None
    split, width = data.split, int(encoder.backbone.out_features)  # type: ignore[arg-type]
    return FeatureAgreement(split.queries, split.database, split.own, width)


def save_codes(path: Path, codes: Codes, data: DataModule, evaluation: Evaluation) -> None:
    """Packed codes of queries and database as they were measured, labels, ids and fingerprint.

    Where lists say what is relevant, or no image has a label, there are no labels. When ternary,
    also which bits are undecided, packed likewise.
    """
    split, ternary = data.split, evaluation.ternary
    roles = (split.queries, split.database)
    sides = []
    for ids, z in zip(roles, evaluation.sides(codes, *roles), strict=True):
        undecided = None if ternary is None else retrieval.pack(retrieval.undecided(z, ternary))
        labels = None
        if data.truth is None and (found := targets(data, ids)) is not None:
            labels = found.cpu().numpy()
            labels = labels.astype(bool) if labels.ndim == 2 else labels
        names = np.array([data.images.ids[i] for i in ids])
        packed = retrieval.pack(retrieval.binarize(z))
        sides.append(retrieval.StoredSide(packed, names, labels, undecided))
    stored = retrieval.StoredCodes(data.facts.fingerprint, codes.z.shape[1], *sides)
    stored.write(path)


def deterministic(wanted: bool) -> None:
    """Let the same seed give the same numbers; torch warns of operators that cannot.

    Memory that nobody has written to is not filled, as torch would do for debugging: that is one
    more kernel for each new tensor, and no operator in use reads such memory.
    """
    if wanted:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(wanted, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = not wanted


def keep_json(path: Path, values: Any) -> None:
    """Writes values where the user wants them.

    Raises:
        DataError: the place cannot be written.
    """
    try:
        write_json(path, values)
    except OSError as error:
        raise DataError(f"out  cannot write {path}: {os_reason(error)}") from error


def unvalidated(cfg: schema.Data) -> schema.Data:
    """The same configuration without validation items, which may come out of what trains."""
    used = (cfg.dataset.protocol, cfg.dataset.unlabelled)
    protocols = {
        name: {key: 0 if key == "validation" and name in used else one for key, one in node.items()}
        for name, node in cfg.dataset.protocols.items()
    }
    dataset = cfg.dataset.with_values(protocols=protocols)
    return cfg.with_values(dataset=dataset.plain)
