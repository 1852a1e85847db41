"""Deep hashing for image retrieval: networks that turn images into short binary codes.

``train``, ``evaluate``, ``load``, ``export``, ``encode`` and ``ImageIndex`` do what the command
``deephash`` does; the modules in ``__all__`` are usable on their own. See docs/library.md.

Importing the package is cheap: what is used of it is imported on first use.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deephash import data, losses, methods, models, retrieval
    from deephash.api import Trained, encode, evaluate, export, load, train
    from deephash.models import codebooks, similarities
    from deephash.search.image_index import ImageIndex
    from deephash.training.code_encoder import CodeEncoder

__version__ = "0.1.0"

__all__ = [
    "CodeEncoder",
    "ImageIndex",
    "Trained",
    "__version__",
    "codebooks",
    "data",
    "encode",
    "evaluate",
    "export",
    "load",
    "losses",
    "methods",
    "models",
    "retrieval",
    "similarities",
    "train",
]

_FUNCTIONS = ("CodeEncoder", "Trained", "encode", "evaluate", "export", "load", "train")


def __getattr__(name: str) -> Any:
    if name in _FUNCTIONS:
        return getattr(importlib.import_module("deephash.api"), name)
    if name == "ImageIndex":
        return importlib.import_module("deephash.search.image_index").ImageIndex
    if name in ("codebooks", "similarities"):
        return importlib.import_module(f"deephash.models.{name}")
    if name in __all__:
        return importlib.import_module(f"deephash.{name}")
    raise AttributeError(f"module 'deephash' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
