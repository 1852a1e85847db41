"""Read what an exported encoder says about itself."""

from pathlib import Path
from typing import Any

from deephash.deployment import onnx_file, torch_export_file
from deephash.errors import FileError
from deephash.runs.exported_folder import CONFIG
from deephash.utils.files import expand_path, read_json

WHAT = "exported encoder"


def read_metadata(path: str | Path) -> dict[str, Any]:
    """Return the metadata of an exported encoder, without its weights.

    Compare its ``fingerprint`` with that of codes or of an index before the two are used together.

    Args:
        path: a ``.onnx`` or ``.pt2`` file, or the folder of ``to=safetensors``.

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
        metadata = read_json(path / CONFIG, WHAT)
    elif not path.is_file():
        raise FileError(path, "it does not exist", WHAT)
    elif path.suffix == ".pt2":
        metadata = torch_export_file.read_torch_export_metadata(path)
    else:
        metadata = onnx_file.read_onnx_metadata(path)
    if "fingerprint" not in metadata:
        raise FileError(path, "it has no metadata of deephash", WHAT)
    return dict(metadata)
