"""Load the trained encoder of a run, to encode images with it."""

from functools import partial
from pathlib import Path

import torch

from deephash.config import build, checks
from deephash.config.faults import raise_faults
from deephash.data.preprocessing import Preprocessing
from deephash.errors import CheckpointError
from deephash.runs.common import check_size, load_encoder
from deephash.runs.folder import RunFolder
from deephash.training import checkpoint as checkpoints
from deephash.training.code_encoder import CodeEncoder
from deephash.training.precision import autocast
from deephash.utils.files import expand_path


def load(run: Path, checkpoint: str = "best", device: str = "auto") -> CodeEncoder:
    """Build the encoder of a run and its preprocessing; no data are opened.

    Args:
        run: its folder.
        checkpoint: ``best`` or ``last``.
        device: as ``trainer.device``.

    Raises:
        DeephashError: the folder is no run, or is damaged, or the device is not there.
    """
    folder = RunFolder(expand_path(run))
    faults = [*checks.check_checkpoint(checkpoint), *checks.check_device("device", device)]
    raise_faults(faults, [f"load({str(run)!r})"])
    ran = checks.parse_run(folder.config(whole=True), folder.path / "config.yaml")
    on, file = build.device(device), folder.path / f"{checkpoint}.pt"
    preprocessing = Preprocessing.of(build.source(ran), build.pipeline(ran.dataset.transforms.test))
    width = None if preprocessing is not None else _width(file)
    check_size(ran, width, file)
    encoder = build.encoder(ran, width, pretrained=False).to(on)
    load_encoder(file, encoder, None)
    if ran.trainer.channels_last:
        encoder.to(memory_format=torch.channels_last)
    return CodeEncoder(
        encoder,
        preprocessing,
        nbit=ran.model.nbit,
        device=on,
        autocast=partial(autocast, on, ran.trainer.precision.value),
        batch_size=ran.trainer.eval_batch_size,
    )


def _width(file: Path) -> int:
    """D of the features that a run encodes, by the first weight matrix of its encoder.

    Raises:
        CheckpointError: the file is damaged, or has no weights.
    """
    state = checkpoints.load(file)
    weights = state.get("encoder") or state.get("method") or {}
    for value in weights.values():
        if isinstance(value, torch.Tensor) and value.ndim == 2:
            return value.shape[1]
    raise CheckpointError(f"{file} holds no weights of a head")
