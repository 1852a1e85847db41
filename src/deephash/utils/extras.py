"""Optional packages: import one, or raise an error with the command that installs it.

deephash is installed from a checkout and is on no package index. A hint must therefore never offer
``pip install`` of an extra by the name of the project: whoever registers that name would get the
users. Only `install_hint` makes such messages.
"""

import importlib
import shlex
from collections.abc import Callable
from typing import Any

from deephash.errors import ConfigError

EXTRAS = {
    "wandb": "wandb",
    "wandb_workspaces": "workspaces",
    "tensorboard": "tensorboard",
    "numba": "fast",
    "faiss": "faiss",
    "psycopg": "pgvector",
    "pymilvus": "milvus",
    "milvus_lite": "milvus",
    "pillow_heif": "heif",
    "submitit": "slurm",
    "optuna": "optuna",
    "ray": "ray",
    "h5py": "features",
    "safetensors": "features",
    "timm": "timm",
    "pyarrow": "parquet",
    "onnx": "export",
    "onnxscript": "export",
    "onnxruntime": "export",
    "fastapi": "serve",
    "uvicorn": "serve",
}
"""The extra of ``pyproject.toml`` that installs each package, by its import name."""

DISTRIBUTIONS = {
    "wandb_workspaces": "wandb-workspaces",
    "faiss": "faiss-cpu",
    "pillow_heif": "pillow-heif",
    "psycopg": "psycopg[binary]",
    "pymilvus": "pymilvus<2.7",  # later ones do not open files of milvus-lite 2
    "milvus_lite": "milvus-lite<3",  # later ones have no binary vectors
}
"""Requirements to install, where they differ from the import names."""


def install_hint(package: str) -> str:
    """Return the commands that install an optional package.

    Args:
        package: Its import name, a key of `EXTRAS`.

    >>> install_hint("faiss")
    'pip install faiss-cpu (or in the checkout of deephash: pip install -e ".[faiss]")'
    """
    name = shlex.quote(DISTRIBUTIONS.get(package, package))
    extra = EXTRAS[package]
    return f'pip install {name} (or in the checkout of deephash: pip install -e ".[{extra}]")'


def import_extra(
    module: str,
    needed_by: str,
    otherwise: str = "",
    error: Callable[[str], Exception] = ConfigError,
) -> Any:
    """Import a module of an optional package.

    Args:
        module: Its dotted name, such as ``safetensors.numpy``.
        needed_by: What needs it, for the message: an option such as ``logger=wandb``, or a file.
        otherwise: What works without the package, for the message.
        error: The class of the error.

    Returns:
        The module.

    Raises:
        ConfigError: The package is not installed or cannot be imported (or ``error``).
    """
    package = module.partition(".")[0]
    try:
        importlib.import_module(package)
        return importlib.import_module(module)
    except ImportError as cause:
        state = "which is not installed"
        if not (isinstance(cause, ModuleNotFoundError) and cause.name == package):
            state = f"which cannot be imported here ({cause})"
        text = f"{needed_by} needs the package {package}, {state}.\n  Try {install_hint(package)}"
        raise error(f"{text}, or {otherwise}." if otherwise else f"{text}.") from cause
