"""Images, the splits they are measured under, and the batches a method trains on.

The names below are imported at their first use, because some of them need torch and some do not.

>>> from deephash.data import Digits
>>> images = Digits().load()
>>> images.inputs.shape, len(images.classes)
((1797, 3, 8, 8), 10)
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deephash.data.datamodule import DataModule
    from deephash.data.draws import Drawn, Quota
    from deephash.data.features import Features
    from deephash.data.images import Catalogue, ImageSet
    from deephash.data.lists import Lists
    from deephash.data.preprocessing import Preprocessing
    from deephash.data.roles import Split
    from deephash.data.sources import Cifar, Digits, Folder
    from deephash.data.splitfile import read_split, write_split
    from deephash.data.splits import Facts, Listed, Official, PerClass

__all__ = [
    "Catalogue",
    "Cifar",
    "DataModule",
    "Digits",
    "Drawn",
    "Facts",
    "Features",
    "Folder",
    "ImageSet",
    "Listed",
    "Lists",
    "Official",
    "PerClass",
    "Preprocessing",
    "Quota",
    "Split",
    "read_split",
    "write_split",
]

_MODULES = {
    "datamodule": ("DataModule",),
    "draws": ("Drawn", "Quota"),
    "features": ("Features",),
    "images": ("Catalogue", "ImageSet"),
    "lists": ("Lists",),
    "preprocessing": ("Preprocessing",),
    "roles": ("Split",),
    "sources": ("Cifar", "Digits", "Folder"),
    "splitfile": ("read_split", "write_split"),
    "splits": ("Facts", "Listed", "Official", "PerClass"),
}


def __getattr__(name: str) -> Any:
    for module, names in _MODULES.items():
        if name in names:
            return getattr(import_module(f"deephash.data.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
