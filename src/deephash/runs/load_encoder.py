"""Load the trained encoder of a run, or an exported one, to encode images with it."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from deephash.config import build, checks, schema
from deephash.config.faults import Fault, raise_faults
from deephash.config.validate import check_value
from deephash.data.preprocessing import Preprocessing
from deephash.errors import CheckpointError, ConfigError
from deephash.models.encoder import Encoder
from deephash.runs.exported_folder import is_exported, load_exported
from deephash.runs.folder import RunFolder
from deephash.training import checkpoint as checkpoints
from deephash.training.code_encoder import CodeEncoder
from deephash.training.restore import fitting, restore_weights
from deephash.utils.files import expand_path

log = logging.getLogger("deephash")


def load(
    run: Path, checkpoint: str = "best", device: str = "auto", precision: str | None = None
) -> CodeEncoder:
    """Build the encoder of a run and its preprocessing, without opening its data.

    Args:
        run: its folder, or the folder of an exported encoder.
        checkpoint: ``best`` or ``last``; an exported encoder has only one.
        device: as ``trainer.device``.
        precision: ``fp32``, ``bf16`` or ``fp16``; None for that of the run.

    Raises:
        DeephashError: the folder is no run or is damaged, or the device is not available.
    """
    folder = RunFolder(expand_path(run))
    ran = check_loadable(run, checkpoint, device, precision)
    if ran is None:
        exported = load_exported(folder.path, build.device(device))
        return exported if precision is None else exported.with_precision(precision)
    on, file = build.device(device), folder.checkpoint(checkpoint)
    preprocessing = Preprocessing.of(build.source(ran), build.pipeline(ran.dataset.transforms.test))
    width = None if preprocessing is not None else _feature_width(file)
    encoder = build_encoder(ran, width, file, on)
    chosen = precision or ran.trainer.precision.value
    return CodeEncoder(
        encoder,
        preprocessing,
        nbit=ran.model.nbit,
        device=on,
        batch_size=ran.trainer.eval_batch_size,
        method=ran.method.name,
        dataset=ran.dataset.name,
        precision=chosen,
    )


def check_loadable(
    run: Path, checkpoint: str = "best", device: str = "auto", precision: str | None = None
) -> schema.Run | None:
    """Check what ``load`` is given, without building an encoder or reading its weights.

    Args:
        run: see ``load``; also the other arguments.
        checkpoint: must exist.
        device: must be available.
        precision: a number format.

    Returns:
        The configuration of the run; None for an exported encoder.

    Raises:
        DeephashError: the folder is no run or is damaged, or an option is invalid.
    """
    folder = RunFolder(expand_path(run))
    faults = check_value(checkpoint, schema.Checkpoint, "checkpoint")
    faults += checks.check_device("device", device)
    faults += check_value(precision, schema.Precision | None, "precision")
    exported = is_exported(folder.path)
    if exported and checkpoint == "last":
        message = f"is last, and {folder.path} holds one exported encoder."
        faults.append(Fault("checkpoint", message, "Leave it out."))
    raise_faults(faults, [f"load({str(run)!r})"])
    if exported:
        return None
    ran = checks.parse_run(folder.config(whole=True), folder.config_file)
    checkpoints.require(folder.checkpoint(checkpoint))
    return ran


def build_encoder(
    ran: schema.Run,
    width: int | None,
    file: Path,
    device: torch.device,
    fingerprint: str | None = None,
) -> Encoder:
    """Build the encoder of a run, of features of a width or of images, and load its weights.

    Raises:
        ConfigError: the encoder is larger than the checkpoint.
        CheckpointError: the checkpoint is missing, damaged or of another encoder.
    """
    with torch.device("meta"):
        encoder = build.encoder(ran, width, pretrained=False)
    size = sum(tensor.numel() * tensor.element_size() for tensor in encoder.state_dict().values())
    if file.is_file() and size > file.stat().st_size:
        raise ConfigError(
            f"the encoder that {file.with_name('config.yaml')} describes has {size:,} bytes, and"
            f" {file} only {file.stat().st_size:,}: they do not belong together"
        )
    encoder = build.encoder(ran, width, pretrained=False).to(device)
    load_checkpoint(file, encoder, fingerprint)
    if ran.trainer.channels_last:
        encoder.to(memory_format=torch.channels_last)
    return encoder


def load_checkpoint(file: Path, encoder: torch.nn.Module, fingerprint: str | None) -> None:
    """Load the weights of ``best.pt`` or ``last.pt`` into an encoder.

    Args:
        file: the checkpoint.
        encoder: receives the weights.
        fingerprint: of the data, compared with the run's; a difference is a warning. None: not
            compared.
    """
    state = checkpoints.load_state(file)
    if not isinstance(state.get("fingerprint"), str) or not {"encoder", "method"} & set(state):
        raise CheckpointError(f"{file} is no checkpoint of a run")
    if fingerprint is not None and fingerprint != state["fingerprint"]:
        log.warning(
            "the data are not those of the run: fingerprint %s, now %s",
            state["fingerprint"][:16],
            fingerprint[:16],
        )
    with fitting(file, "the configuration beside it", "Bring back a copy of it."):
        restore_weights(encoder, encoder_weights(state), "encoder")


def encoder_weights(state: Mapping[str, Any]) -> Any:
    """Return the weights of the encoder in ``best.pt``, or in ``last.pt``.

    With ``trainer.ema`` these are the average, also in ``last.pt``.
    """
    if "encoder" in state:
        return state["encoder"]
    node, prefix = ("ema", "module.") if "ema" in state else ("method", "encoder.")
    return {
        key.removeprefix(prefix): value
        for key, value in state[node].items()
        if key.startswith(prefix)
    }


def _feature_width(file: Path) -> int:
    """Return D of the features that a run encodes, from the first matrix of its encoder."""
    state = checkpoints.load_state(file)
    weights = state.get("encoder") or state.get("method") or {}
    for value in weights.values():
        if isinstance(value, torch.Tensor) and value.ndim == 2:
            return value.shape[1]
    raise CheckpointError(f"{file} holds no weights of a head")
