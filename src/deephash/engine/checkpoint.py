"""Files that are whole or not there: written beside, then renamed."""

import json
import os
from pathlib import Path
from typing import Any

import torch

from deephash.errors import TrainingError


def write_atomic(path: Path, write: Any) -> None:
    """Calls ``write(temporary_path)`` and renames the result to ``path``.

    A kill at any moment leaves the old file or the new one, never a piece.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(beside)
        with beside.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes a text file atomically."""
    write_atomic(path, lambda beside: beside.write_text(text))


def write_json(path: Path, values: Any) -> None:
    """Writes values as readable JSON, atomically."""
    write_text(path, json.dumps(values, indent=2, ensure_ascii=False) + "\n")


def save(path: Path, state: dict[str, Any]) -> None:
    """Saves tensors and plain values, atomically."""
    write_atomic(path, lambda beside: torch.save(state, beside))


def load(path: Path) -> dict[str, Any]:
    """Loads what ``save`` wrote; a file can bring no code of its own.

    Raises:
        TrainingError: the file is missing or not a checkpoint.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise TrainingError(f"there is no checkpoint {path}") from None
    except Exception as error:  # torch raises half a dozen kinds for a foreign or broken file
        raise TrainingError(
            f"{path} cannot be read as a checkpoint: {error}\n  Remove it to train from the start."
        ) from error
    if not isinstance(state, dict):
        raise TrainingError(f"{path} is no checkpoint of a run: it holds a {type(state).__name__}")
    return state
