"""Start a run from the encoder of another (``init``), or after its last epoch (``extend``)."""

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from deephash.config import run_identity, schema
from deephash.errors import ConfigError, DeephashError, TrainingError
from deephash.runs.folder import RunFolder
from deephash.runs.load_encoder import encoder_weights, load
from deephash.training import checkpoint, restore
from deephash.utils.files import expand_path, read_json, write_atomic, write_json
from deephash.utils.nested import get_nested

EXTENDABLE = ("extend", "init", "trainer.epochs", "trainer.eval_every", "trainer.patience",
              "scheduler", "optimizer.lr")  # fmt: skip
"""Keys that may differ between a run and the run that extends it."""

ENCODER = ("model.nbit", "backbone._target_", "backbone.name", "backbone.width", "method.head")
"""Keys of the shape of an encoder."""

SHOWN = 4
"""Differences in the message on an encoder of another shape."""


def find_source(cfg: schema.Train, run: RunFolder) -> RunFolder | None:
    """Return the finished run that ``init`` or ``extend`` names; None without.

    Raises:
        ConfigError: it is not finished, or cannot be extended by this run.
    """
    if cfg.init is not None:
        return _finished("init", cfg.init, run)
    if cfg.extend is None:
        return None
    source = _finished("extend", cfg.extend, run)
    _check_extension(cfg, source)
    return source


def initialize(encoder: nn.Module, cfg: schema.Train, source: RunFolder) -> None:
    """Load the best encoder of a finished run.

    Raises:
        ConfigError: it has another backbone, head or number of bits.
    """
    state = checkpoint.load_state(source.best)
    weights = encoder_weights(state)
    if different := _different_shapes(weights, encoder.state_dict()):
        changed = run_identity.changed_keys(source.config(whole=True), cfg.plain)
        lines = [line for line in changed if _is_below(line.partition(":")[0], ENCODER)]
        raise ConfigError(
            f"init  {source.path} has another encoder:\n  "
            + "\n  ".join([*lines, *different][:SHOWN])
            + "\nChoose the backbone, the head and model.nbit of that run; or take its backbone"
            f" alone: backbone.weights={source.best}"
        )
    with restore.fitting(source.best, "the encoder of this run"):
        restore.restore_weights(encoder, weights, "encoder")


def check_origin(cfg: schema.Train, run: RunFolder) -> None:
    """Check that an existing run started from the run that is typed, and not from its namesake.

    Raises:
        ConfigError: that run has another encoder than the one that this run started from.
    """
    typed = cfg.init or cfg.extend
    if typed is None or (origin := recorded(run)) is None:
        return
    source = RunFolder(expand_path(typed))
    try:
        encoder = load(source.path, device="cpu").fingerprint
    except DeephashError:  # removed or damaged since: its name is the same
        return
    if encoder != origin.get("encoder"):
        raise ConfigError(
            f"{run.path} started from another encoder than the one that {source.path} has now"
            f" ({str(origin.get('encoder'))[:16]}, now {encoder[:16]}).\n"
            "  Train anew with rerun=true, or elsewhere with paths.outputs=FOLDER."
        )


def _check_extension(cfg: schema.Train, source: RunFolder) -> None:
    """Check that a finished run has fewer epochs and the same options, except `EXTENDABLE`."""
    before = source.config(whole=True)
    changed = [
        line
        for line in run_identity.changed_keys(before, cfg.plain)
        if not _is_below(line.partition(":")[0], EXTENDABLE)
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


def extend(source: RunFolder, run: RunFolder) -> None:
    """Give a new run the state of a finished one, so that it is resumed after its last epoch.

    ``last.pt`` is written at the end, so a process that is killed before it leaves no state.
    """
    state = checkpoint.load_state(source.last)
    restore.check_last(state, source.last)
    selected = state["progress"]["selected"]
    _copy(source.history, run.history)
    _copy(source.best, run.best_of_epoch(selected))
    state["progress"] |= {"stopped_early": False, "wait": 0}
    checkpoint.save(run.last, state)


def record(kind: str, source: RunFolder, run: RunFolder) -> None:
    """Save where a run comes from, before its first epoch.

    Args:
        kind: ``init`` or ``extend``.
        source: the finished run.
        run: the new one.
    """
    key = ("epoch",) if kind == "init" else ("progress", "epoch")
    epoch = get_nested(checkpoint.load_state(source.best if kind == "init" else source.last), *key)
    write_json(run.origin_file, _origin(kind, source, run, epoch))


def recorded(run: RunFolder) -> dict[str, Any] | None:
    """Return where a run comes from; None for one that starts by itself."""
    return read_json(run.origin_file, "origin of a run") if run.origin_file.is_file() else None


def _finished(key: str, folder: str, run: RunFolder) -> RunFolder:
    """Return the run that another one starts from."""
    source = RunFolder(expand_path(folder))
    if source.path.resolve() == run.path.resolve():
        raise ConfigError(
            f"{key}  {source.path} is the folder of this run itself.\n"
            "  Give this run another name: name=NAME"
        )
    try:
        source.config()
    except TrainingError as error:  # no run folder
        raise ConfigError(f"{key}  {error}") from error
    if not (source.finished and source.best.is_file() and source.last.is_file()):
        raise ConfigError(
            f"{key}  {source.path} is not a finished run: report.json, best.pt or last.pt is"
            " missing.\n  Finish it with its own command line (overrides.txt)."
        )
    return source


def _different_shapes(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> list[str]:
    """Return the tensors whose shapes differ, or that only one of two encoders has."""

    def shape(state: Mapping[str, Any], name: str) -> str:
        return "x".join(map(str, state[name].shape)) or "1" if name in state else "none"

    names = dict.fromkeys((*ours, *theirs))
    shapes = {name: (shape(theirs, name), shape(ours, name)) for name in names}
    return [f"{name}: {one} -> {other}" for name, (one, other) in shapes.items() if one != other]


def _is_below(key: str, keys: Sequence[str]) -> bool:
    """Return whether a key is one of the keys, or inside of one."""
    return any(f"{key}.".startswith(f"{other}.") for other in keys)


def _origin(kind: str, source: RunFolder, run: RunFolder, epoch: int | None) -> dict[str, Any]:
    """Return what identifies a run and its encoder, independent of its place."""
    report = source.report(("run", "protocol.fingerprint"))
    described = load(source.path, device="cpu").describe()
    return {
        "kind": kind,
        "run": report["run"],
        "folder": Path(os.path.relpath(source.path.resolve(), run.path.resolve())).as_posix(),
        "epoch": epoch,
        "encoder": described["fingerprint"],
        "data": report["protocol"]["fingerprint"],
        **{key: described[key] for key in ("method", "dataset", "nbit", "deephash")},
    }


def _copy(source: Path, target: Path) -> None:
    if source.is_file():
        write_atomic(target, lambda temporary: shutil.copyfile(source, temporary))
