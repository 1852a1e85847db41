"""The command ``deephash export``."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib import metadata as packages
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from deephash import retrieval, runs
from deephash.config import checks, schema
from deephash.config.overrides import Override
from deephash.deployment import onnx_file, safetensors_folder, torch_export_file
from deephash.deployment.check import (
    CodeDifferences,
    Run,
    compare,
    compare_codes,
    in_batches,
)
from deephash.deployment.check_images import (
    Queries,
    generated_inputs,
    generated_sizes,
    try_queries,
)
from deephash.deployment.graph import DeployedEncoder
from deephash.errors import ConfigError, DataError, ExportError, WriteError
from deephash.runs.exported_folder import FILES, describe_encoder, is_exported, load_exported
from deephash.runs.model_card import write_card
from deephash.runs.run_data import move_data
from deephash.training import out_of_memory
from deephash.training.code_encoder import CodeEncoder
from deephash.utils.files import check_writable, expand_path, make_folder

DEFAULT_OUT = {
    schema.ExportFormat.onnx: "model.onnx",
    schema.ExportFormat.torch_export: "model.pt2",
    schema.ExportFormat.safetensors: "hub",
}
"""The names in the run's folder where nothing else is given."""

BITS = "bit k of a code is 1 if z[k] >= 0; it is bit 7 - k % 8 of byte k // 8"


class Exported(NamedTuple):
    """The result of an export.

    Attributes:
        path: the file or folder.
        metadata: what it holds about the encoder: ``fingerprint``, ``nbit``, ``encoder``,
            ``interface``, ``check``.
    """

    path: Path
    metadata: dict[str, Any]


@dataclass(frozen=True)
class _Source:
    """What is exported: a run, or an exported encoder; the latter has no configuration.

    Attributes:
        folder: of the run.
        encoder: on the CPU.
        ran: the configuration of the run.
        queries: of the run; None if they are not at hand.
        reason: why there are no queries.
    """

    folder: runs.RunFolder
    encoder: CodeEncoder
    ran: schema.Run | None
    queries: Queries | None
    reason: str


@out_of_memory.explain_memory_errors("Export on a machine with more memory.")
def export(cfg: schema.Export, overrides: Sequence[Override] = ()) -> Exported:
    """Export the encoder of a run, and compare its codes with those of the run.

    Args:
        cfg: the checked configuration of ``export``.
        overrides: the command line.

    Raises:
        DeephashError: with a message for the user; nothing was written then.
    """
    assert cfg.run is not None and cfg.to is not None  # checked before
    folder = runs.RunFolder(expand_path(cfg.run))
    out = folder.path / DEFAULT_OUT[cfg.to] if cfg.out is None else expand_path(cfg.out)
    _check_packages(cfg.to)
    _check_out(out, cfg, cfg.to)
    ran = runs.check_loadable(folder.path, cfg.checkpoint, "cpu")
    if ran is None and cfg.to is schema.ExportFormat.safetensors:
        raise ConfigError(
            f"to  is safetensors, and {folder.path} is such a folder already: copy it."
        )
    if ran is not None:
        move_data(ran.plain, cfg.dataset)  # refused here, if it reads no folder
    encoder = runs.load(folder.path, cfg.checkpoint, "cpu")
    if cfg.to is schema.ExportFormat.safetensors:
        return _export_folder(_open(folder, encoder, cfg), out, cfg)
    # a graph computes in float32, whatever the run did
    return _export_graph(_open(folder, encoder.with_precision("fp32"), cfg), out, cfg)


def _check_packages(to: schema.ExportFormat) -> None:
    if to is schema.ExportFormat.onnx:
        onnx_file.check_onnx_packages()
    elif to is schema.ExportFormat.safetensors:
        safetensors_folder.check_safetensors()


def _check_out(out: Path, cfg: schema.Export, to: schema.ExportFormat) -> None:
    """Refuse an output that exists or cannot be written, before anything is computed."""
    option = "Type overwrite=true to replace it, or choose another place: out=PATH."
    if to is schema.ExportFormat.safetensors:
        if out.exists() and not out.is_dir():
            raise WriteError(out, "it is a file, and to=safetensors makes a folder", option)
        taken = [name for name in FILES if (out / name).exists()]
        if (out / "config.yaml").exists():
            raise WriteError(out, "it is the folder of a run", "Choose another: out=FOLDER.")
        if taken and not cfg.overwrite:
            raise WriteError(out, f"it holds {', '.join(taken)} already", option)
    elif out.is_dir():
        raise WriteError(out, "it is a folder", f"Name a file: out={out / DEFAULT_OUT[to]}.")
    elif out.exists() and not cfg.overwrite:
        raise WriteError(out, "it exists already", option)
    check_writable(out)


def _open(folder: runs.RunFolder, encoder: CodeEncoder, cfg: schema.Export) -> _Source:
    """Read the configuration of a run and load its queries."""
    if is_exported(folder.path):
        return _Source(folder, encoder, None, None, "an exported encoder has none")
    ran = checks.parse_run(folder.config(whole=True), folder.config_file)
    config = folder.config(whole=True)
    queries, reason = try_queries(config, folder.config_file, cfg.queries, cfg.dataset)
    return _Source(folder, encoder, ran, queries, reason)


def _export_graph(source: _Source, out: Path, cfg: schema.Export) -> Exported:
    """Export to ONNX or torch.export."""
    any_size = cfg.size is schema.ExportSize.any
    if any_size and source.encoder.preprocessing is None:
        raise ConfigError(
            "size  is any, and this run encodes features, which are not resized.\n"
            "      Leave it out."
        )
    module = DeployedEncoder(source.encoder, any_size)
    metadata = _metadata(source, module)
    if cfg.to is schema.ExportFormat.onnx:
        model = onnx_file.export_onnx(module)
        run = onnx_file.onnx_runner(model.SerializeToString())
        metadata["check"] = _check(source, run, cfg, "onnxruntime", any_size)
        save: Callable[[], None] = lambda: onnx_file.save_onnx(out, model, metadata)  # noqa: E731
    else:
        program = onnx_file.trace(module, "torch_export")
        with _temporary_folder() as folder:
            torch_export_file.save_torch_export(folder / "model.pt2", program, metadata)
            run = torch_export_file.torch_export_runner(folder / "model.pt2")
            metadata["check"] = _check(source, run, cfg, "torch", any_size)
        save = lambda: torch_export_file.save_torch_export(out, program, metadata)  # noqa: E731
    make_folder(out.parent)
    save()
    _print(out, metadata, source)
    return Exported(out, metadata)


def _export_folder(source: _Source, out: Path, cfg: schema.Export) -> Exported:
    """Export to the three files of a model hub."""
    assert source.ran is not None  # checked before
    encoder = source.encoder
    config = describe_encoder(source.ran, encoder)
    parent = out
    while not parent.is_dir():
        parent = parent.parent
    with _temporary_folder(parent) as made:
        safetensors_folder.save_encoder(made, encoder, config)
        loaded = load_exported(made, encoder.device)

        def run(inputs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            z = loaded.codes(torch.from_numpy(inputs))
            return retrieval.pack(z >= 0), z

        config["check"] = _check(source, run, cfg, "safetensors", False)
        card = write_card(
            source.folder, source.ran, encoder, _check_text(config["check"]),
            cfg.checkpoint, cfg.license,
        )  # fmt: skip
        safetensors_folder.save_config(made, config)
        safetensors_folder.save_card(made, card)
        safetensors_folder.publish(made, out)
    metadata = {**_metadata(source, None), "check": config["check"]}
    _print(out, metadata, source)
    return Exported(out, metadata)


def _metadata(source: _Source, module: DeployedEncoder | None) -> dict[str, Any]:
    """Return what identifies an exported encoder and says how it is called."""
    described = source.encoder.describe()
    metadata: dict[str, Any] = {
        "fingerprint": described["fingerprint"],
        "nbit": described["nbit"],
        "encoder": described,
    }
    if module is not None:
        size: tuple[Any, Any] = (module.size, module.size) if module.size else ("height", "width")
        given = f"uint8 (batch, 3, {size[0]}, {size[1]}), RGB"
        if module.width is not None:
            given = f"float32 (batch, {module.width})"
        metadata["interface"] = {
            module.input_name: given,
            "codes": f"uint8 (batch, {-(-module.nbit // 8)})",
            "z": f"float32 (batch, {module.nbit})",
            "bits": BITS,
        }
    if source.ran is not None and source.ran.evaluation.ternary is not None:
        metadata["ternary"] = source.ran.evaluation.ternary
    return metadata


def _check(
    source: _Source, run: Run, cfg: schema.Export, package: str, any_size: bool
) -> dict[str, Any]:
    """Compare an exported encoder with that of the run.

    Returns:
        what is recorded in the metadata.

    Raises:
        ExportError: more bits differ than ``limit`` allows.
    """
    encoder, queries = source.encoder, source.queries
    if queries is not None:
        inputs, images = queries.inputs, queries.described
    else:
        network: Any = encoder.network
        width = network.backbone.out_features if encoder.preprocessing is None else None
        inputs = generated_inputs(encoder, width)
        images = f"{len(inputs)} generated inputs ({source.reason})"
    differences, codes = compare(run, encoder, in_batches(inputs))
    result: dict[str, Any] = {
        "images": images,
        "with": f"{package} {packages.version(package)}",
        "limit": cfg.limit,
        "encoder": differences.as_dict(),
    }
    total = differences
    if any_size:
        other, _ = compare(run, encoder, generated_sizes())
        result["other_sizes"] = other.as_dict()
        total = replace(
            differences,
            images=differences.images + other.images,
            differing_bits=differences.differing_bits + other.differing_bits,
            differing_codes=differences.differing_codes + other.differing_codes,
        )
    if total.share > cfg.limit:
        raise ExportError(
            f"the exported encoder gives other codes: {total}, and"
            f" limit={cfg.limit:g} of the bits may.\n  Nothing was written. Type"
            f" limit={min(1.0, 2 * total.share):.2g} to accept it, or another format: to=..."
        )
    if queries is not None and source.ran is not None:
        stored = _stored_codes(source.folder, cfg.checkpoint, source.ran, queries)
        if stored is not None:
            of_run = compare_codes(codes, stored, encoder.nbit).as_dict()
            result["run"] = {**of_run, "precision": source.ran.trainer.precision.value}
    return result


def _stored_codes(
    folder: runs.RunFolder, checkpoint: str, ran: schema.Run, queries: Queries
) -> np.ndarray | None:
    """Return the codes of queries that the run wrote; None if there are none of these data."""
    try:
        stored = retrieval.StoredCodes.read(folder.codes(checkpoint))
    except DataError:
        return None
    rows = {name: row for row, name in enumerate(stored.query.ids.tolist())}
    names = queries.ids.tolist()
    known = stored.fingerprint == queries.fingerprint and all(name in rows for name in names)
    if not known or ran.evaluation.centred or stored.nbit != ran.model.nbit:
        return None
    codes: np.ndarray = stored.query.codes[[rows[name] for name in names]]
    return codes


def _check_text(result: dict[str, Any]) -> str:
    """Describe the comparison in one sentence."""
    differences = CodeDifferences(**result["encoder"])
    return f"on {result['images']}, {differences}"


def _print(out: Path, metadata: dict[str, Any], source: _Source) -> None:
    """Print what was exported, how it is called, and the result of the comparison."""
    result = metadata["check"]
    size = sum(file.stat().st_size for file in ([out] if out.is_file() else out.iterdir()))
    print(f"{out}  {size / 1e6:.1f} MB, fingerprint {metadata['fingerprint'][:16]}")
    names = [key for key in metadata.get("interface", {}) if key != "bits"]
    for role, name in zip(("input", "output", "output"), names, strict=False):
        print(f"  {role:<7} {name:<9} {metadata['interface'][name]}")
    print(f"  {result['images']}, with {result['with']}:")
    print(f"    {CodeDifferences(**result['encoder'])}")
    if "other_sizes" in result:
        other = CodeDifferences(**result["other_sizes"])
        print(f"  {other.images} generated images of other sizes:\n    {other}")
    if (of_run := dict(result.get("run", {}))) and (precision := of_run.pop("precision")):
        print(f"  the codes that the run wrote ({precision}):\n    {CodeDifferences(**of_run)}")
    if source.ran is None or source.ran.trainer.precision.value == source.encoder.precision:
        return
    print(
        f"  The run encodes in {source.ran.trainer.precision.value}, and this file in float32: all"
        ' codes of an index must be of one of them.\n  deephash.load(run, precision="fp32") gives'
        " the codes of this file."
    )


@contextlib.contextmanager
def _temporary_folder(parent: Path | None = None) -> Iterator[Path]:
    """Make a folder, and remove it with its content in the end."""
    made = Path(tempfile.mkdtemp(prefix=f".export.{os.getpid()}.", suffix=".tmp", dir=parent))
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)
