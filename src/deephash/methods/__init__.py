"""Methods: the base class, the default method of five parts, and one module per paper.

>>> "dpn" in __all__
True
"""

from pkgutil import iter_modules

from deephash.methods.base import Method
from deephash.methods.composed import Composed

_papers = {module.name for module in iter_modules(__path__)} - {"base", "composed"}

__all__ = ["Composed", "Method", *sorted(_papers)]  # noqa: PLE0604 - they are strings
