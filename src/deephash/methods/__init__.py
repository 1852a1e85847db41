"""Methods: the base class, the default of five parts, and one module for what each paper brought.

>>> "dpn" in __all__
True
"""

from pkgutil import iter_modules

from deephash.methods.base import Method
from deephash.methods.composed import Composed

__all__ = ["Composed", "Method"]
__all__ += sorted({module.name for module in iter_modules(__path__)} - {"base", "composed"})
