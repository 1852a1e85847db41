"""The folder of a model hub: write ``config.json``, ``model.safetensors`` and ``README.md``."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deephash.runs.exported_folder import CARD, CONFIG, WEIGHTS
from deephash.training.code_encoder import CodeEncoder
from deephash.utils.extras import import_extra
from deephash.utils.files import make_folder, remove, write_atomic, write_json, write_text, writing


def check_safetensors() -> None:
    """Raise ConfigError if the package that the export needs is missing."""
    import_extra("safetensors", "to=safetensors", "to=onnx or to=torch_export")


def save_encoder(folder: Path, encoder: CodeEncoder, config: Mapping[str, Any]) -> None:
    """Write the weights and ``config.json`` of an encoder into an existing folder."""
    package = import_extra("safetensors.torch", "to=safetensors")
    tensors = {
        name: value.detach().cpu().contiguous().clone()
        for name, value in encoder.network.state_dict().items()
    }
    metadata = {"format": "pt", "deephash.fingerprint": encoder.fingerprint}
    path = folder / WEIGHTS
    write_atomic(path, lambda temporary: package.save_file(tensors, str(temporary), metadata))
    save_config(folder, config)


def save_config(folder: Path, config: Mapping[str, Any]) -> None:
    """Write ``config.json``."""
    write_json(folder / CONFIG, config)


def save_card(folder: Path, card: str) -> None:
    """Write ``README.md``."""
    write_text(folder / CARD, card)


def publish(made: Path, folder: Path) -> None:
    """Move the three files from the folder in which they were made; other files there stay.

    The configuration is removed first and comes last: a folder without it is no exported encoder,
    so that no interruption leaves one with the weights of another.
    """
    make_folder(folder)
    remove(folder / CONFIG)
    for name in (WEIGHTS, CARD, CONFIG):
        with writing(folder / name):
            (made / name).replace(folder / name)
