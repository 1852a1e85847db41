"""Read what an exported encoder says about itself."""

from pathlib import Path
from typing import Any

from deephash.deployment import onnx_file, torch_export_file
from deephash.errors import FileError
from deephash.runs.exported_folder import CONFIG
from deephash.utils.files import expand_path, read_json

WHAT = "exported encoder"
ADVICE = "Give what deephash export wrote: a .onnx or .pt2 file, or the folder of to=safetensors."


def read_metadata(path: str | Path) -> dict[str, Any]:
    """Return the metadata of an exported encoder, without its weights.

    Compare its ``fingerprint`` with that of codes or of an index before the two are used together.
    The content of a file decides which kind it is, not its name.

    Args:
        path: a file of ``to=onnx`` or ``to=torch_export``, or the folder of ``to=safetensors``.

    Returns:
        ``fingerprint``, ``nbit``, ``check`` and further values.

    Raises:
        FileError: it is none of these, or was not written by ``deephash export``.

    Example:
        >>> import deephash
        >>> _, folder = deephash.train(["model.nbit=16", "trainer.epochs=0", "logger=quiet"])
        done   outputs/digits/relahash/16bit/seed0,trainer.epochs=0  mAP@all 0...
        >>> path, _ = deephash.export(folder, to="safetensors", out="hub", queries=0)
        hub  ... MB, fingerprint ...
        >>> read_metadata(path)["fingerprint"] == deephash.load(folder).fingerprint
        True
    """
    path = expand_path(path)
    if path.is_dir():
        metadata = read_json(path / CONFIG, WHAT, advice=ADVICE)
    elif not path.is_file():
        raise FileError(path, "it does not exist", WHAT)
    else:
        metadata = _read_file(path)
    if not isinstance(metadata, dict) or "fingerprint" not in metadata:
        raise FileError(path, "it has no metadata of deephash", WHAT, ADVICE)
    return dict(metadata)


def _read_file(path: Path) -> dict[str, Any]:
    """Return the metadata of a file; empty if it has none of ours.

    Raises:
        FileError: it is neither of ONNX nor of torch.export.
    """
    if path.suffix == ".safetensors":
        raise FileError(path, "it holds weights alone", WHAT, f"Give its folder: {path.parent}")
    with path.open("rb") as file:
        is_archive = file.read(2) == b"PK"
    try:
        if is_archive or path.suffix == ".pt2":
            return torch_export_file.read_torch_export_metadata(path)
        return onnx_file.read_onnx_metadata(path)
    except ValueError as error:
        raise FileError(path, str(error), WHAT, ADVICE) from error
