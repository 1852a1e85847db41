"""Split protocols: which images train, which are queries and which are the database."""

from deephash.data.splits.multi_label import Drawn, Quota
from deephash.data.splits.protocols import Listed, Official, PerClass

__all__ = ["Drawn", "Listed", "Official", "PerClass", "Quota"]
