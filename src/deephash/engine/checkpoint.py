"""The tensors and plain values of a run, on disk."""

from pathlib import Path
from typing import Any

import torch

from deephash.errors import TrainingError
from deephash.files import write_atomic


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
