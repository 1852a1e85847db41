"""``torch.export``: a ``.pt2`` file that torch runs without deephash, or compiles for a device."""

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from deephash.deployment.check import Run
from deephash.utils.files import write_atomic

METADATA = "deephash.json"
"""The file inside of the archive that holds our metadata."""

MOST_METADATA = 1 << 24
"""Limit on the bytes of that file."""


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
    """Return the metadata that ``save_torch_export`` wrote; empty if the file has none of ours.

    The program is not loaded.

    Raises:
        ValueError: it is no such file, or is damaged.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                # torch 2.6 writes extra_files/NAME, later versions ROOT/extra/NAME
                if not member.filename.endswith((f"extra/{METADATA}", f"extra_files/{METADATA}")):
                    continue
                if member.file_size <= MOST_METADATA:
                    return dict(json.loads(archive.read(member)))
                raise ValueError(f"{METADATA} unpacks to {member.file_size:,} bytes")
    except OSError:
        raise
    except Exception as error:  # of zipfile, zlib and json
        raise ValueError("it is damaged, or not a file of torch.export") from error
    return {}


def torch_export_runner(path: Path) -> Run:
    """Return a function that runs a file of ``save_torch_export``."""
    module = torch.export.load(str(path)).module()

    def run(inputs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        with torch.inference_mode():
            codes, z = module(torch.from_numpy(inputs))
        return codes.numpy(), z.numpy()

    return run
