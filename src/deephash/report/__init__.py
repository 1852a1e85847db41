"""Finished run folders, turned into something to look at."""

from deephash.report.evaluation import write_comparison, write_evaluation
from deephash.report.figures import Plane, Retrieved, Snapshot
from deephash.report.run import write_html, write_nearest
from deephash.report.sweeps import write_sweeps

__all__ = [
    "Plane",
    "Retrieved",
    "Snapshot",
    "write_comparison",
    "write_evaluation",
    "write_html",
    "write_nearest",
    "write_sweeps",
]
