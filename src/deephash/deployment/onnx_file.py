"""ONNX: a file that onnxruntime and other engines run without torch."""

import contextlib
import json
import logging
import re
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from deephash.deployment.check import Run
from deephash.deployment.graph import DeployedEncoder
from deephash.errors import ExportError
from deephash.utils.extras import import_extra
from deephash.utils.files import write_atomic

PREFIX = "deephash."
"""Of the keys of our metadata in a file."""

MOST_BYTES = 2_000_000_000
"""An ONNX file is one protobuf message, which cannot be larger than 2 GiB."""

NEEDED = ("onnx", "onnxscript", "onnxruntime")
"""The packages of the extra ``export``; onnxruntime checks the file."""


def check_onnx_packages() -> None:
    """Raise ConfigError if a package that the export needs is missing."""
    for package in NEEDED:
        import_extra(package, "to=onnx", "to=torch_export or to=safetensors")


def export_onnx(module: DeployedEncoder) -> Any:
    """Return a module as an ONNX model (``onnx.ModelProto``).

    Input and outputs are named as in ``DeployedEncoder``, and the axes of ``dynamic_axes`` are
    free.

    Raises:
        ExportError: the weights are too large, or a part cannot be expressed in ONNX.
    """
    onnx = import_extra("onnx", "to=onnx")
    size = sum(tensor.numel() * tensor.element_size() for tensor in module.state_dict().values())
    if size > MOST_BYTES:
        raise ExportError(
            f"to=onnx  the weights have {size:,} bytes, and an ONNX file holds {MOST_BYTES:,}.\n"
            "         Type to=torch_export."
        )
    program = trace(module, "onnx")
    with _quiet(), _refusals("onnx"):
        exported = torch.onnx.export(
            program,
            (),
            input_names=[module.input_name],
            output_names=["codes", "z"],
            dynamo=True,
            verbose=False,
        )
        assert exported is not None
        model = exported.model_proto
        onnx.checker.check_model(model, full_check=True)
    _remove_traces(model)
    _name_axes(model, module.dynamic_axes())
    model.graph.name = "deephash"
    return model


def trace(module: DeployedEncoder, to: str) -> torch.export.ExportedProgram:
    """Trace a module with ``torch.export``; the axes of ``dynamic_axes`` stay free.

    Raises:
        ExportError: a part cannot be traced.
    """
    axes = {axis: torch.export.Dim(name) for axis, name in module.dynamic_axes().items()}
    with _quiet(), _refusals(to), torch.no_grad():
        program = torch.export.export(module, (module.example(),), dynamic_shapes=(axes,))
    for node in program.graph.nodes:  # they hold paths of this machine
        node.meta.pop("stack_trace", None)
    return program


def save_onnx(path: Path, model: Any, metadata: Mapping[str, Any]) -> None:
    """Write an ONNX model with metadata, atomically.

    Args:
        path: of the file.
        model: of ``export_onnx``.
        metadata: plain values; those that are no text are stored as JSON.
    """
    onnx = import_extra("onnx", "to=onnx")
    texts = {
        f"{PREFIX}{key}": value if isinstance(value, str) else json.dumps(value)
        for key, value in metadata.items()
    }
    onnx.helper.set_model_props(model, texts)
    write_atomic(path, lambda temporary: temporary.write_bytes(model.SerializeToString()))


def read_onnx_metadata(path: Path) -> dict[str, Any]:
    """Return the metadata that ``save_onnx`` wrote; empty if the file has none of ours.

    Raises:
        ValueError: it is no such file, or is damaged.
    """
    onnx = import_extra("onnx", str(path))
    try:
        model = onnx.load(str(path), load_external_data=False)
    except OSError:
        raise
    except Exception as error:  # of protobuf, which is no dependency of ours
        raise ValueError("it is damaged, or not an ONNX file") from error
    metadata = {}
    for entry in model.metadata_props:
        if entry.key.startswith(PREFIX):
            metadata[entry.key.removeprefix(PREFIX)] = _plain(entry.value)
    return metadata


def onnx_runner(model: bytes | Path) -> Run:
    """Return a function that runs an ONNX model in onnxruntime, on the CPU.

    Args:
        model: the serialized model, or its file.
    """
    runtime = import_extra("onnxruntime", "to=onnx")
    options = runtime.SessionOptions()
    options.log_severity_level = 3  # errors
    given = model if isinstance(model, bytes) else str(model)
    session = runtime.InferenceSession(given, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name

    def run(inputs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        codes, z = session.run(["codes", "z"], {name: inputs})
        return codes, z

    return run


def _plain(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _remove_traces(model: Any) -> None:
    """Remove what the exporter notes about each node: stack traces with paths of this machine."""
    graph = model.graph
    for nodes in (graph.node, *(function.node for function in model.functions)):
        for node in nodes:
            node.ClearField("metadata_props")
            node.ClearField("doc_string")
    for values in (graph.value_info, graph.input, graph.output, graph.initializer):
        for value in values:
            value.ClearField("metadata_props")
            value.ClearField("doc_string")
    graph.ClearField("metadata_props")
    model.ClearField("doc_string")


def _name_axes(model: Any, names: Mapping[int, str]) -> None:
    """Give the free axes of a model their names, instead of those of torch's symbols."""
    shape = model.graph.input[0].type.tensor_type.shape
    symbols = {shape.dim[axis].dim_param: name for axis, name in names.items()}
    symbol = re.compile("|".join(rf"\b{re.escape(one)}\b" for one in symbols))
    for values in (model.graph.input, model.graph.output, model.graph.value_info):
        for value in values:
            for dim in value.type.tensor_type.shape.dim:
                if dim.dim_param:
                    dim.dim_param = symbol.sub(lambda m: symbols[m[0]], dim.dim_param)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppress warnings and logs of the exporters about their own internals."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [one.level for one in loggers]
    for one in loggers:
        one.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for one, level in zip(loggers, levels, strict=True):
            one.setLevel(level)


@contextlib.contextmanager
def _refusals(to: str) -> Iterator[None]:
    """Convert the errors of an exporter to ExportError."""
    try:
        yield
    except (ExportError, MemoryError):
        raise
    except Exception as error:  # the exporters raise classes of their own
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
        other = "torch_export" if to == "onnx" else "safetensors"
        raise ExportError(
            f"to={to}  the network cannot be exported: {type(cause).__name__}:"
            f" {(lines or ['no message'])[0]}\n  Type to={other}."
        ) from error
