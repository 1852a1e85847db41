"""``torch.export``: a ``.pt2`` file that torch runs without deephash, or compiles for a device."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from deephash.deployment.check import Run
from deephash.utils.files import write_atomic

METADATA = "deephash.json"
"""The file inside of the archive that holds our metadata."""


def save_torch_export(
    path: Path, program: torch.export.ExportedProgram, metadata: Mapping[str, Any]
) -> None:
    """Write an exported program with metadata, atomically."""
    extra = {METADATA: json.dumps(metadata, indent=1)}

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            torch.export.save(program, file, extra_files=extra)  # type: ignore[arg-type]

    write_atomic(path, write)


def read_torch_export_metadata(path: Path) -> dict[str, Any]:
    """Return the metadata that ``save_torch_export`` wrote; empty if the file has none of ours."""
    extra = {METADATA: ""}
    torch.export.load(str(path), extra_files=extra)
    return dict(json.loads(extra[METADATA])) if extra[METADATA] else {}


def torch_export_runner(path: Path) -> Run:
    """Return a function that runs a file of ``save_torch_export``."""
    module = torch.export.load(str(path)).module()

    def run(inputs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        with torch.inference_mode():
            codes, z = module(torch.from_numpy(inputs))
        return codes.numpy(), z.numpy()

    return run
