"""Files that are whole or not there: written beside, then renamed."""

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

LOG, ERROR = "output.log", "error.txt"
"""What a job of a sweep says, and why it failed, in its run folder."""

SWEEPS, MANIFEST = "sweeps", "sweep.json"
"""The folder of sweeps in the outputs, and what says which runs belong to one."""


def write_atomic(path: Path, write: Callable[[Path], Any]) -> None:
    """Calls ``write(temporary_path)`` and renames the result to ``path``.

    A kill at any moment leaves the old file or the new one, never a piece; and beside it at most
    a ``.NAME.PID.tmp``, which the next run in this folder sweeps away.
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
    write_atomic(path, lambda beside: beside.write_text(text, encoding="utf-8"))


def write_json(path: Path, values: Any) -> None:
    """Writes values as readable JSON, atomically."""
    write_text(path, json.dumps(values, indent=2, ensure_ascii=False) + "\n")


def write_arrays(path: Path, arrays: Mapping[str, Any]) -> None:
    """Writes named arrays as a compressed npz, atomically."""
    import numpy as np  # late: the command line starts without it

    def write(beside: Path) -> None:
        with beside.open("wb") as file:
            np.savez_compressed(file, **arrays)

    write_atomic(path, write)
