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
    from deephash.data.catalogue import Catalogue, ImageSet
    from deephash.data.datamodule import DataModule
    from deephash.data.preprocessing import Preprocessing
    from deephash.data.sources.basic import Cifar, Digits, Folder
    from deephash.data.sources.features import Features
    from deephash.data.sources.lists import Lists
    from deephash.data.splits.base import Split
    from deephash.data.splits.multi_label import Drawn, Quota
    from deephash.data.splits.protocols import Facts, Listed, Official, PerClass
    from deephash.data.splits.split_file import read_split, write_split

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
    "splits.multi_label": ("Drawn", "Quota"),
    "sources.features": ("Features",),
    "catalogue": ("Catalogue", "ImageSet"),
    "sources.lists": ("Lists",),
    "preprocessing": ("Preprocessing",),
    "splits.base": ("Split",),
    "sources.basic": ("Cifar", "Digits", "Folder"),
    "splits.split_file": ("read_split", "write_split"),
    "splits.protocols": ("Facts", "Listed", "Official", "PerClass"),
}


def __getattr__(name: str) -> Any:
    for module, names in _MODULES.items():
        if name in names:
            return getattr(import_module(f"deephash.data.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
