"""The folder of an exported encoder: ``config.json``, ``model.safetensors`` and ``README.md``.

This is the layout of a model on the Hugging Face Hub. The configuration holds what builds the
encoder and its preprocessing, and nothing of its training or of the machine that trained it.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch

from deephash.config import build, checks, schema, targets
from deephash.config.faults import Fault, raise_faults
from deephash.config.validate import check_value
from deephash.data.decoding import Decoder, Square
from deephash.data.preprocessing import Preprocessing
from deephash.errors import CheckpointError, FileError
from deephash.models.encoder import Encoder
from deephash.models.weights import read_weights
from deephash.training.code_encoder import CodeEncoder
from deephash.training.restore import fitting, restore_weights
from deephash.utils.bounds import Count, Pixels
from deephash.utils.files import Kind, expect, read_json

CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"
FILES = (CONFIG, WEIGHTS, CARD)
"""The files of the folder."""

LIBRARY = "deephash"
FORMAT = 1

WHAT = "configuration of an exported encoder"
ADVICE = "Export the run again, or download the folder again."

KEYS: dict[str, Kind] = {
    "library_name": str,
    "format": int,
    "nbit": int,
    "num_features": int,
    "fingerprint": str,
    "method": (str, None),
    "dataset": (str, None),
    "backbone": dict,
    "backbone._target_": str,
    "head": dict,
    "head._target_": str,
    "images": (dict, None),
    "images.size?": int,
    "images.fit?": str,
    "transforms": [dict],
    "precision": str,
    "channels_last": bool,
    "batch_size": int,
}
"""The keys of ``config.json`` that are read."""


def is_exported(folder: Path) -> bool:
    """Return whether a folder holds an exported encoder, and not a run."""
    return (folder / CONFIG).is_file() and not (folder / "config.yaml").exists()


def describe_encoder(ran: schema.Run, encoder: CodeEncoder) -> dict[str, Any]:
    """Return the content of ``config.json``.

    Args:
        ran: the configuration of the run.
        encoder: of the run, on any device.
    """
    network: Any = encoder.network
    backbone = _without_places(ran.backbone)
    described = encoder.describe()
    preprocess = described["preprocess"]
    images, steps = None, []
    if encoder.preprocessing is not None:
        steps = [_current(step) for step in ran.dataset.transforms.test]
        fit: Any = encoder.preprocessing.decoder.fit
        images = {"size": fit.size, "fit": fit.fit}
    return {
        "library_name": LIBRARY,
        "format": FORMAT,
        "deephash_version": described["deephash"],
        "architecture": architecture(ran.backbone),
        "num_classes": 0,
        "num_features": int(network.backbone.out_features),
        "nbit": encoder.nbit,
        "method": encoder.method,
        "dataset": encoder.dataset,
        "fingerprint": encoder.fingerprint,
        "pretrained_cfg": {
            key: value for key, value in preprocess.items() if key not in ("input", "stages")
        },
        "backbone": backbone,
        "head": _current(ran.method.head),
        "images": images,
        "transforms": steps,
        "precision": ran.trainer.precision.value,
        "channels_last": ran.trainer.channels_last,
        "batch_size": encoder.batch_size,
    }


def architecture(backbone: Mapping[str, Any]) -> str:
    """Return the name of a backbone: that of the model, or of its class.

    >>> architecture({"_target_": "deephash.models.backbones.Tiny"})
    'tiny'
    """
    name = backbone.get("name")
    if isinstance(name, str):
        return name
    kind = str(backbone["_target_"]).rpartition(".")[2]
    return kind.lower().removesuffix("backbone")


def load_exported(folder: Path, device: torch.device) -> CodeEncoder:
    """Load an exported encoder, and compare its fingerprint with the one that is stored.

    Raises:
        DeephashError: a file is missing or damaged, or the weights are of another encoder.
    """
    values = _read(folder / CONFIG)
    head, nbit, images = values["head"], values["nbit"], values["images"]
    width = values["num_features"] if images is None else None
    file = folder / WEIGHTS
    if not file.is_file():
        raise CheckpointError(f"{folder} has no {WEIGHTS}: {ADVICE}")
    with torch.device("meta"):
        planned: Encoder = build.network(values["backbone"], head, nbit, width)
    size = sum(tensor.numel() * tensor.element_size() for tensor in planned.state_dict().values())
    if size > file.stat().st_size:
        raise CheckpointError(
            f"the encoder that {folder / CONFIG} describes has {size:,} bytes, and {file} only"
            f" {file.stat().st_size:,}: they do not belong together. {ADVICE}"
        )
    network = build.network(values["backbone"], head, nbit, width)
    with fitting(file, CONFIG, ADVICE):
        restore_weights(network, read_weights(file), "model")
    network.to(device)
    if values["channels_last"]:
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    preprocessing = None
    if images is not None:
        decoder = Decoder(Square(images["size"], images["fit"]))
        preprocessing = Preprocessing(decoder, build.pipeline(values["transforms"]))
    encoder = CodeEncoder(
        network,
        preprocessing,
        nbit=nbit,
        device=device,
        batch_size=values["batch_size"],
        method=values["method"],
        dataset=values["dataset"],
        precision=values["precision"],
    )
    if encoder.fingerprint != values["fingerprint"]:
        raise CheckpointError(
            f"{folder} is damaged or mixed: {CONFIG} names the fingerprint"
            f" {values['fingerprint'][:16]}, and the weights and the preprocessing that lie there"
            f" have {encoder.fingerprint[:16]}. {ADVICE}"
        )
    return encoder


def _read(file: Path) -> dict[str, Any]:
    """Read and check ``config.json``, which may come from a stranger."""
    values: dict[str, Any] = read_json(file, WHAT, advice=ADVICE)
    if values.get("library_name") != LIBRARY:
        raise FileError(file, f"library_name is not {LIBRARY}", WHAT, "Give the folder of a run.")
    if isinstance(values.get("format"), int) and values["format"] > FORMAT:
        raise FileError(
            file, f"it has format {values['format']}, and this version reads {FORMAT}", WHAT,
            "Install a newer version of deephash.",
        )  # fmt: skip
    expect(values, KEYS, file, WHAT, ADVICE)
    images = values["images"]
    faults = check_value(values["nbit"], schema.Model.__annotations__["nbit"], "nbit")
    faults += check_value(values["num_features"], Count, "num_features")
    faults += check_value(values["batch_size"], Count, "batch_size")
    faults += check_value(values["precision"], schema.Precision, "precision")
    if images is not None:
        faults += check_value(images.get("size"), Pixels, "images.size")
        faults += check_value(images.get("fit"), Literal["crop", "squash"], "images.fit")
    nodes = [("backbone", values["backbone"]), ("method.head", values["head"])]
    nodes += [(f"dataset.transforms.{at}", node) for at, node in enumerate(values["transforms"])]
    for path, node in nodes:
        if isinstance(node.get("_target_"), str):
            faults += checks.check_part(path, node)
        else:
            faults.append(Fault(path, "has no _target_.", ADVICE))
    raise_faults(faults, [str(file)])
    return values


def _without_places(node: Mapping[str, Any]) -> dict[str, Any]:
    """Return the node of a backbone without the file of its first weights."""
    known = targets.arguments(targets.locate(node["_target_"], "backbone"))
    node = _current(node)
    return {**node, "weights": "none"} if "weights" in known else node


def _current(node: Mapping[str, Any]) -> dict[str, Any]:
    """Return a node with the present name of its class."""
    return {**node, "_target_": targets.current(node["_target_"])}
