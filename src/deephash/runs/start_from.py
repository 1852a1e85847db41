"""Start a run from the encoder of another (``init``), or after its last epoch (``extend``)."""

import shutil
from pathlib import Path
from typing import Any

from torch import nn

from deephash.config import run_identity, schema
from deephash.errors import ConfigError
from deephash.runs.folder import RunFolder
from deephash.runs.load_encoder import encoder_weights, load
from deephash.training import checkpoint, restore
from deephash.utils.files import expand_path, read_json, write_atomic, write_json
from deephash.utils.nested import get_nested

EXTENDABLE = ("extend", "init", "trainer.epochs", "trainer.eval_every", "trainer.patience",
              "scheduler", "optimizer.lr")  # fmt: skip
"""Keys that may differ between a run and the run that extends it."""


def initialize(cfg: schema.Train, encoder: nn.Module) -> dict[str, Any] | None:
    """Load the weights of ``init`` into an encoder.

    Returns:
        The origin of the weights, for `record`; None without ``init``.

    Raises:
        ConfigError: the folder is not that of a finished run.
        CheckpointError: its encoder has another backbone, head or number of bits.
    """
    if cfg.init is None:
        return None
    source = _finished("init", cfg.init)
    state = checkpoint.load_state(source.best)
    advice = (
        "Choose the backbone, the head and model.nbit of that run; or take its backbone alone:"
        f" backbone.weights={source.best}"
    )
    with restore.fitting(source.best, "the encoder of this run", advice):
        restore.restore_weights(encoder, encoder_weights(state), "encoder")
    return _origin("init", source, state.get("epoch"))


def check_extension(cfg: schema.Train) -> RunFolder | None:
    """Check that ``extend`` names a finished run with fewer epochs and the same options.

    Returns:
        Its folder; None without ``extend``.

    Raises:
        ConfigError: it is not finished, has as many epochs, or differs in other keys than
            `EXTENDABLE`.
    """
    if cfg.extend is None:
        return None
    source = _finished("extend", cfg.extend)
    before = source.config(whole=True)
    changed = [
        line
        for line in run_identity.changed_keys(before, cfg.plain)
        if not any(f"{line.partition(':')[0]}.".startswith(f"{key}.") for key in EXTENDABLE)
    ]
    if changed:
        raise ConfigError(
            f"extend  {source.path} has another configuration:\n  "
            + "\n  ".join(changed[:8])
            + f"\nOnly {', '.join(EXTENDABLE[2:])} may differ. With others, start a run from its"
            f" encoder, init={source.path}; with other bits or another head, from its backbone,"
            f" backbone.weights={source.best}"
        )
    done = get_nested(checkpoint.load_state(source.last), "progress", "epoch")
    if cfg.trainer.epochs <= done:
        raise ConfigError(
            f"trainer.epochs  is {cfg.trainer.epochs}, and {source.path} has {done} epochs already."
            f"\n                Type the total: trainer.epochs={2 * done}"
        )
    return source


def extend(source: RunFolder, run: RunFolder) -> None:
    """Give a new run the state of a finished one, so that it is resumed after its last epoch.

    ``last.pt`` is written at the end, so a process that is killed before it leaves no state.
    """
    state = checkpoint.load_state(source.last)
    restore.check_last(state, source.last)
    selected = state["progress"]["selected"]
    record(run, _origin("extend", source, state["progress"]["epoch"]))
    _copy(source.history, run.history)
    _copy(source.best, run.best_of_epoch(selected))
    state["progress"] |= {"stopped_early": False, "wait": 0}
    checkpoint.save(run.last, state)


def record(run: RunFolder, origin: dict[str, Any] | None) -> None:
    """Save where a run comes from, before its first epoch."""
    if origin is not None:
        write_json(run.origin_file, origin)


def recorded(run: RunFolder) -> dict[str, Any] | None:
    """Return where a run comes from; None for one that starts by itself."""
    return read_json(run.origin_file, "origin of a run") if run.origin_file.is_file() else None


def _finished(key: str, folder: str) -> RunFolder:
    run = RunFolder(expand_path(folder))
    run.config()  # raises for what is no run folder
    if not (run.finished and run.best.is_file() and run.last.is_file()):
        raise ConfigError(
            f"{key}  {run.path} is not a finished run: report.json, best.pt or last.pt is missing."
            "\n  Finish it with its own command line (overrides.txt)."
        )
    return run


def _origin(kind: str, source: RunFolder, epoch: int | None) -> dict[str, Any]:
    """Return what identifies a run and its encoder, independent of its place."""
    report = source.report(("run", "protocol.fingerprint"))
    described = load(source.path, device="cpu").describe()
    return {
        "kind": kind,
        "run": report["run"],
        "folder": str(source.path),
        "epoch": epoch,
        "encoder": described["fingerprint"],
        "data": report["protocol"]["fingerprint"],
        **{key: described[key] for key in ("method", "dataset", "nbit", "deephash")},
    }


def _copy(source: Path, target: Path) -> None:
    if source.is_file():
        write_atomic(target, lambda temporary: shutil.copyfile(source, temporary))
