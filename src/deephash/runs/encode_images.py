"""Encode images to features: the command ``data encode``."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from deephash.config import build, schema
from deephash.data.catalogue import Catalogue
from deephash.data.sources.feature_formats import write_features
from deephash.data.splits.base import Split
from deephash.data.splits.split_file import ENDING, write_split
from deephash.errors import ConfigError
from deephash.models.weights import digest
from deephash.runs.describe_data import without_validation
from deephash.training import out_of_memory
from deephash.training.precision import autocast, use_deterministic
from deephash.utils import program
from deephash.utils.files import expand_path
from deephash.utils.progress import bar


@out_of_memory.explain_memory_errors("Try a smaller trainer.eval_batch_size, or device=cpu.")
@torch.inference_mode()
def encode_dataset(cfg: schema.Data) -> Path:
    """Write a backbone's features of all images with a role, and their split file.

    An interrupted command resumes; a finished one is not repeated.

    Args:
        cfg: the checked configuration of ``data``.

    Returns:
        The folder, as ``dataset=features dataset.root=FOLDER`` takes it.

    Raises:
        DeephashError: with a message for the user.
    """
    assert cfg.out is not None  # `config.check_data`
    device, precision = build.device(cfg.trainer.device), cfg.trainer.precision.value
    use_deterministic(cfg.trainer.deterministic)
    data = build.data_module(without_validation(cfg))
    build.check_backbone(cfg, data.source)
    data.setup(device, trains=False)
    if data.width is not None:
        raise ConfigError("dataset  these are features already: nothing to encode.")
    split = data.split
    rows = np.unique(np.concatenate([split.database, split.queries, split.train]))
    torch.manual_seed(cfg.seed)
    trunk: Any = build.backbone(cfg.backbone).to(device).eval()
    if cfg.trainer.channels_last:
        trunk.to(memory_format=torch.channels_last)
    places = ("root", "lists", "origin", "on_error")
    source = {key: value for key, value in cfg.dataset.source.items() if key not in places}
    notes = {
        "fingerprint": data.facts.fingerprint,
        "source": source,
        "backbone": dict(cfg.backbone),
        "weights": digest(trunk),
        "transforms": cfg.dataset.plain["transforms"]["test"],
        "precision": precision,
        "dtype": cfg.dtype.value,
        "seed": cfg.seed,
    }
    folder = expand_path(cfg.out)

    def blocks(done: int) -> Iterator[np.ndarray]:
        with bar(f"encoding {len(rows):,} images", len(rows) - done) as progress:
            for batch in data.eval_batches(rows[done:]):
                with autocast(device, precision):
                    features = trunk(batch.flat())
                yield features.float().cpu().numpy()
                progress.advance(len(features))

    write_features(folder, len(rows), trunk.out_features, cfg.dtype.value, notes, blocks)
    images, split = _of_rows(data.images, data.split, rows)
    write_split(
        folder / f"images{ENDING}",
        images,
        split,
        dataset=cfg.dataset.name,
        protocol=data.facts.protocol,
        seed=data.protocol.seed,
        origin=notes,
    )
    print(f"{len(rows):,} x {trunk.out_features} features: {folder}")
    protocol = cfg.dataset.protocols[data.facts.protocol]
    command = f"{program.command('train')} dataset=features dataset.root={folder} dataset.name=NAME"
    if cfg.dataset.top is not None:
        command += f" dataset.top={cfg.dataset.top}"
    if (option := protocol.get("queries_in_database", "refuse")) != "refuse":
        command += f" dataset.protocols.listed.queries_in_database={option}"
    print(f"  {command}")
    return folder


def _of_rows(images: Catalogue, split: Split, rows: np.ndarray) -> tuple[Catalogue, Split]:
    """Return the images of ascending ``rows``, and the split with renumbered rows."""
    place = np.full(len(images), -1)
    place[rows] = np.arange(len(rows))
    chosen = Catalogue(
        ids=tuple(images.ids[row] for row in rows),
        labels=images.labels[rows],
        classes=images.classes,
    )
    roles = (split.train, split.database, split.queries, split.validation)
    return chosen, Split(*(place[role] for role in roles))
